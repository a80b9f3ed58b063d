"""Hardware as the laboratory shows it."""

from __future__ import annotations

from typing import Any

import attrs

from ntlab.errors import NtlabError
from ntlab.lab.tables import Report, Table, as_columns
from ntlab.quantities import format_rate, format_size
from ntlab.topology import OWN, Profile, Topology, load, profiles


@attrs.frozen(kw_only=True, repr=False)
class MachineReport(Report):
    """A machine in short. `columns()` has one row a processor."""

    topology: Topology

    def to_json(self) -> dict[str, Any]:
        return self.topology.to_json()

    def columns(self) -> dict[str, list[Any]]:
        return self.topology.columns()

    def tables(self) -> list[Table]:
        frozen = self.topology.freeze()
        facts = [
            ["processors", str(frozen.processors)],
            ["cores", str(frozen.cores)],
            ["packages", str(frozen.packages)],
            ["NUMA nodes", str(frozen.nodes)],
            ["processor groups", str(frozen.groups)],
            ["memory", format_size(frozen.memory)],
            ["source", frozen.source],
        ]
        nodes = [
            [
                str(node),
                _ranges(frozen.node_processors[node]),
                format_size(frozen.node_memory[node]),
                f"{frozen.latency[node][node]} ns",
                format_rate(frozen.bandwidth[node][node]),
            ]
            for node in range(frozen.nodes)
        ]
        tables = [
            Table([frozen.name, ""], [row for row in facts if row[1]]),
            Table(["node>", "processors", "memory>", "latency>", "bandwidth>"], nodes),
        ]
        basis = f"memory latency in ns, from node (row) to node (column); {frozen.latency_basis}"
        if frozen.nodes > 1:
            tables.append(_matrix(frozen.latency, basis))
        if frozen.write_latency != frozen.latency:
            tables.append(_matrix(frozen.write_latency, "the same of writes"))
        if frozen.distances is not None:
            tables.append(_matrix(frozen.distances, "relative distances as the firmware gives them"))
        return tables


@attrs.frozen(kw_only=True, repr=False)
class ProfileList(Report):
    """The installed hardware profiles; the "mistake" of one says why there is no machine."""

    profiles: tuple[dict[str, Any], ...]

    def to_json(self) -> list[dict[str, Any]]:
        return list(self.profiles)

    def columns(self) -> dict[str, list[Any]]:
        return as_columns(self.to_json())

    def tables(self) -> list[Table]:
        counts = ("processors", "cores", "packages", "nodes")
        # Where nobody else's are installed, a column that says "ntlab" in each row says nothing.
        others = any(one["distribution"] != OWN for one in self.profiles)
        good, bad = [], []
        for one in self.profiles:
            if one["mistake"] is not None:
                bad.append([one["name"], one["distribution"], one["mistake"]])
                continue
            row = [one["name"], *(str(one[count]) for count in counts), format_size(one["memory_bytes"])]
            good.append(row + [one["distribution"]] * others)
        headings = ["profile", *(f"{count}>" for count in counts), "memory>", *["distribution"] * others]
        tables = [Table(headings, good)]
        return [*tables, Table(["profile", "distribution", "cannot be had"], bad)] if bad else tables


def describe(machine: str) -> MachineReport:
    """A machine by profile name or file. Raises UserError as `ntlab.topology.load` does."""
    return MachineReport(topology=load(machine))


def profile_list() -> ProfileList:
    """The installed profiles. One that is no machine is listed with its mistake."""
    return ProfileList(profiles=tuple(_in_short(profile) for profile in profiles().values()))


def _in_short(profile: Profile) -> dict[str, Any]:
    keys = ("processors", "cores", "packages", "nodes", "memory_bytes", "source")
    facts: dict[str, Any] = dict.fromkeys(keys)
    mistake = None
    try:
        described = profile.read().to_json()
        facts = {key: described[key] for key in keys}
    except NtlabError as error:
        mistake = str(error)
    return {"name": profile.name, **facts, "distribution": profile.distribution, "mistake": mistake}


def _matrix(rows: Any, title: str) -> Table:
    headings = ["node>", *(f"{node}>" for node in range(len(rows)))]
    return Table(headings, [[str(node), *map(str, row)] for node, row in enumerate(rows)], title)


def _ranges(numbers: tuple[int, ...]) -> str:
    """ "0-3, 8" from 0, 1, 2, 3, 8."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)

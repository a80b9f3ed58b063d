"""Hardware as the laboratory shows it."""

from __future__ import annotations

from typing import Any

import attrs

from ntlab.lab.tables import Report, Table, as_columns
from ntlab.quantities import format_rate, format_size
from ntlab.topology import Topology, load, profiles


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
        if frozen.distances is not None:
            tables.append(_matrix(frozen.distances, "relative distances as the firmware gives them"))
        return tables


@attrs.frozen(kw_only=True, repr=False)
class ProfileList(Report):
    """The shipped hardware profiles."""

    machines: dict[str, Topology]

    def to_json(self) -> list[dict[str, Any]]:
        keys = ("processors", "cores", "packages", "nodes", "memory_bytes", "source")
        described = {name: topology.to_json() for name, topology in self.machines.items()}
        return [{"name": name, **{key: facts[key] for key in keys}} for name, facts in described.items()]

    def columns(self) -> dict[str, list[Any]]:
        return as_columns(self.to_json())

    def tables(self) -> list[Table]:
        counts = ("processors", "cores", "packages", "nodes")
        rows = [
            [one["name"], *(str(one[count]) for count in counts), format_size(one["memory_bytes"])]
            for one in self.to_json()
        ]
        return [Table(["profile", *(f"{count}>" for count in counts), "memory>"], rows)]


def describe(machine: str) -> MachineReport:
    """A machine by profile name or file. Raises UserError as `ntlab.topology.load` does."""
    return MachineReport(topology=load(machine))


def profile_list() -> ProfileList:
    """The shipped profiles."""
    return ProfileList(machines={name: load(path) for name, path in profiles().items()})


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

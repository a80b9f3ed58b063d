"""Hardware as the laboratory shows it."""

from __future__ import annotations

from typing import Any

import attrs

from ntlab.lab.tables import Report, Table, as_columns
from ntlab.quantities import format_rate, format_size
from ntlab.topology import Tables, load, profiles


@attrs.frozen(kw_only=True, repr=False)
class MachineReport(Report):
    """A machine in short. `columns()` has one row a processor."""

    hardware: Tables

    def to_json(self) -> dict[str, Any]:
        frozen = self.hardware
        return {
            "name": frozen.name,
            "source": frozen.source,
            "processors": frozen.processors,
            "cores": frozen.cores,
            "packages": frozen.packages,
            "nodes": frozen.nodes,
            "groups": frozen.groups,
            "memory_bytes": frozen.memory,
            "distances": None if frozen.distances is None else [list(row) for row in frozen.distances],
            "latency_ns": [list(row) for row in frozen.latency],
            "latency_basis": frozen.latency_basis,
            "node_memory_bytes": list(frozen.node_memory),
            "node_processors": [list(processors) for processors in frozen.node_processors],
        }

    def columns(self) -> dict[str, list[Any]]:
        frozen = self.hardware
        return {
            "processor": list(range(frozen.processors)),
            "os_index": list(frozen.os_index),
            "core": list(frozen.core_of),
            "package": list(frozen.package_of),
            "node": list(frozen.node_of),
            "group": list(frozen.group_of),
            "speed_mhz": list(frozen.speed),
        }

    def tables(self) -> list[Table]:
        frozen = self.hardware
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

    machines: dict[str, Tables]

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "processors": frozen.processors,
                "cores": frozen.cores,
                "packages": frozen.packages,
                "nodes": frozen.nodes,
                "memory_bytes": frozen.memory,
                "source": frozen.source,
            }
            for name, frozen in self.machines.items()
        ]

    def columns(self) -> dict[str, list[Any]]:
        return as_columns(self.to_json())

    def tables(self) -> list[Table]:
        rows = [
            [
                name,
                str(frozen.processors),
                str(frozen.cores),
                str(frozen.packages),
                str(frozen.nodes),
                format_size(frozen.memory),
            ]
            for name, frozen in self.machines.items()
        ]
        return [Table(["profile", "processors>", "cores>", "packages>", "nodes>", "memory>"], rows)]


def describe(machine: str) -> MachineReport:
    """A machine by profile name or file. Raises UserError as `ntlab.topology.load` does."""
    return MachineReport(hardware=load(machine).freeze())


def profile_list() -> ProfileList:
    """The shipped profiles."""
    return ProfileList(machines={name: load(path).freeze() for name, path in profiles().items()})


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

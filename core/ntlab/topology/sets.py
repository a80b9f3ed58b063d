"""A machine as sets of processors, the form in which firmware and operating systems describe one.

Every reader brings its parts (node, package, cache, ...) with the bit mask of their processors, and
`assemble` finds which part contains which. Sets that overlap without one containing the other describe no
machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ntlab.topology.model import MACHINE, Topology
from ntlab.topology.tables import TopologyError, members

RANKS = {"group": 0, "node": 1, "package": 2, "cache": 3, "core": 4}
"""Among parts of equal sets, the outer first. Caches of equal sets: the higher level outside."""

MAX_PROCESSORS = 1 << 16
"""A larger number in a file is a mistake, and as a bit mask it would fill the memory."""

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?\Z")


@dataclass(slots=True)
class Part:
    """Something that contains processors. `processors` has bit i for the i-th processor; 0 for a node of
    memory only.

    `attributes` are the keywords of the `Topology.add_...` helper for this kind.
    """

    kind: str
    processors: int
    attributes: dict[str, Any] = field(default_factory=dict)
    vertex: str = ""
    """Filled in by `assemble`."""

    @property
    def order(self) -> tuple[int, int, int]:
        return (-self.processors.bit_count(), RANKS[self.kind], -self.attributes.get("level", 0))


def assemble(topology: Topology, processors: Sequence[dict[str, Any]], parts: Iterable[Part]) -> None:
    """Add parts, numbered in the order given, and processors (one dict of attributes each). Raises
    TopologyError."""
    listed = list(parts)
    where = topology.where
    taken = dict.fromkeys(("node", "package", "core"), 0)
    for part in listed:
        beyond = part.processors >> len(processors)
        if beyond:
            last = len(processors) - 1
            raise TopologyError(
                f"a {part.kind} has a processor beyond the last", where=where, expected=f"0 to {last}"
            )
        if part.kind in taken:
            twice = members(taken[part.kind] & part.processors)
            if twice:
                number = processors[twice[0]].get("os_index", twice[0])
                raise TopologyError(f"processor {number} is in two {part.kind}s", where=where)
            taken[part.kind] |= part.processors

    innermost: list[Part | None] = [None] * len(processors)
    container: dict[int, Part | None] = {}
    for part in sorted(listed, key=lambda part: part.order):
        inside = members(part.processors)
        outer = innermost[inside[0]] if inside else None
        for i in inside:
            if innermost[i] is not outer:
                number = processors[i].get("os_index", i)
                other = innermost[i] or outer
                kinds = " and a ".join(sorted({p.kind for p in (part, other) if p is not None}))
                raise TopologyError(
                    f"a {kinds} overlap at processor {number}", where=where, expected="nested sets"
                )
            innermost[i] = part
        container[id(part)] = outer

    # Vertices are numbered as listed, but a container may be listed after its contents.
    add: dict[str, Callable[..., str]] = {
        "group": topology.add_group,
        "node": topology.add_node,
        "package": topology.add_package,
        "cache": topology.add_cache,
        "core": topology.add_core,
    }
    for part in listed:
        part.vertex = add[part.kind](MACHINE, **part.attributes)
    for part in listed:
        outer = container[id(part)]
        if outer is not None:
            topology.graph.remove_edge(MACHINE, part.vertex)
            topology.graph.add_edge(outer.vertex, part.vertex, relation="contains")
    for i, attributes in enumerate(processors):
        inner = innermost[i]
        topology.add_processor(inner.vertex if inner else MACHINE, **attributes)


def parse_list(text: str) -> list[int]:
    """The numbers of a list as Linux writes it: "0-3,8" is [0, 1, 2, 3, 8]. Raises ValueError."""
    numbers: list[int] = []
    for item in filter(None, text.strip().split(",")):
        match = _RANGE.match(item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_PROCESSORS:
            raise ValueError(f"{item!r} in {text!r} is no number or range below {MAX_PROCESSORS}")
        numbers.extend(range(first, last + 1))
    return numbers


def format_list(numbers: Iterable[int]) -> str:
    """The inverse of `parse_list`; keeps the order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def as_mask(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask

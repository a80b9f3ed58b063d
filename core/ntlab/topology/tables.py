"""The frozen form of a topology: plain integers and tuples, numbered from 0.

A networkx look-up costs 100 ns and more, `tables.latency[n][m]` costs 7: so the simulated machine reads
these tables only, and `freeze` makes them once at boot and again when hardware is added or removed.

Numbers here are *logical*: the position of a vertex among those of its kind, in the order in which they were
added to the graph. `os_index` and `node_os_index` hold the numbers that the firmware or operating system
uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ntlab.errors import UserError
from ntlab.topology import power

if TYPE_CHECKING:
    from ntlab.topology.model import Topology

Matrix = tuple[tuple[int, ...], ...]
"""Square, row first: `matrix[n][m]` concerns a processor of node n and the memory of node m."""

DEFAULT_LATENCY = 100
"""Nanoseconds of a local memory read where the description states none: a guess between the 60 to 130 ns
published for servers of 2003 to 2010."""
DEFAULT_BANDWIDTH = 6_400_000_000
"""Bytes a second of a node's memory where the description states none: two channels of DDR-400 (AMD
40555)."""
DEFAULT_SPEED = 2000
"""Clock of a processor in MHz where the description states none: a guess."""
MAX_NODES = 512
"""Beyond any machine; the tables between nodes grow with the square."""
LOCAL_DISTANCE, REMOTE_DISTANCE = 10, 20
"""Relative distances assumed for several nodes of which nothing is stated: ACPI's, for a machine without
SLIT."""


class TopologyError(UserError):
    """A description that no machine can have."""


class Cache(NamedTuple):
    """One cache. `type` is "unified", "data" or "instruction"; `size` and `line` are bytes (0: not stated);
    `processors` is the bit mask of those that share it."""

    level: int
    type: str
    size: int
    line: int
    processors: int


class Device(NamedTuple):
    """One device. `type` is "disk", "nic", "gpu", "pci" or another word of the description.

    `processors` is the bit mask of those nearest to it and `node` their node, None when they are of several.
    `bandwidth` is that of the narrowest bus on its way in bytes a second, 0 where none is stated.
    """

    name: str
    type: str
    node: int | None
    processors: int
    bandwidth: int


class Link(NamedTuple):
    """One interconnect link: the names of the vertices at its ends, latency in ns, bandwidth in bytes a
    second."""

    ends: tuple[str, str]
    latency: int
    bandwidth: int


@dataclass(frozen=True, slots=True)
class Tables:
    """What the simulated machine knows of its hardware. Bit masks have bit i for processor i.

    Index letters: i processor, n and m node, c core, p package, g processor group.
    """

    name: str
    source: str
    processors: int
    cores: int
    packages: int
    nodes: int
    groups: int
    os_index: tuple[int, ...]
    """[i] number of the processor in the firmware or operating system."""
    speed: tuple[int, ...]
    """[i] nominal clock in MHz."""
    node_of: tuple[int, ...]
    package_of: tuple[int, ...]
    core_of: tuple[int, ...]
    group_of: tuple[int, ...]
    """[i] processor group of at most 64 processors (P5), as `assign_groups` gives it."""
    core_processors: tuple[tuple[int, ...], ...]
    """[i] the processors of i's core, itself included: its SMT siblings."""
    node_processors: tuple[tuple[int, ...], ...]
    """[n] processors in ascending order; empty for a node of memory only."""
    core_mask: tuple[int, ...]
    package_mask: tuple[int, ...]
    node_mask: tuple[int, ...]
    group_mask: tuple[int, ...]
    node_os_index: tuple[int, ...]
    node_memory: tuple[int, ...]
    """[n] bytes."""
    latency: Matrix
    """[n][m] ns of a memory read when nothing else uses the way."""
    write_latency: Matrix
    """[n][m] ns of a write to a line that no cache holds, likewise; those of reads where none is stated."""
    latency_basis: str
    """Where `latency` comes from, the best that the description has: "stated", "links" (the shortest way),
    "distances" (the local latency in proportion) or "assumed"."""
    bandwidth: Matrix
    """[n][m] bytes a second: of node m's memory, or of the narrowest link on the way to it."""
    distances: Matrix | None
    """[n][m] the firmware's relative distances exactly as given; None where it gives none."""
    nearest: tuple[tuple[int, ...], ...]
    """[n] all nodes: n itself, then by latency, then by number."""
    caches: tuple[Cache, ...]
    """By level, type, size, line and processors."""
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    """By the names of their ends."""
    power: power.Power = power.DEFAULT
    """What cores and packages draw, and their idle and performance states."""

    @property
    def memory(self) -> int:
        """Bytes of the whole machine."""
        return sum(self.node_memory)


def members(mask: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def freeze(topology: Topology, group_limit: int = 64) -> Tables:
    """Check the description and number it. Raises TopologyError.

    `group_limit` is the largest processor group in processors.
    """
    from ntlab.topology.groups import assign_groups

    where = topology.where
    graph = topology.graph
    parents = topology.parents()
    kinds: dict[str, list[str]] = {}
    for vertex in graph:
        kinds.setdefault(graph.nodes[vertex]["kind"], []).append(vertex)
    processors = kinds.get("processor", [])
    nodes = kinds.get("node", [])
    if not processors:
        raise TopologyError("there is no processor", where=where)
    if not nodes:
        raise TopologyError("there is no node", where=where)
    if len(nodes) > MAX_NODES:
        raise TopologyError(f"there are {len(nodes)} nodes", where=where, expected=f"at most {MAX_NODES}")

    number = {vertex: i for same in kinds.values() for i, vertex in enumerate(same)}
    mask = dict.fromkeys(graph, 0)
    above: dict[str, dict[str, int]] = {kind: {} for kind in ("node", "package", "core")}
    for i, processor in enumerate(processors):
        mask[processor] = 1 << i
        container = processor
        while container in parents:
            container = parents[container]
            mask[container] |= 1 << i
            kind = graph.nodes[container]["kind"]
            if kind in above and above[kind].setdefault(processor, number[container]) != number[container]:
                raise TopologyError(f"{processor} is in two vertices of kind {kind!r}", where=where)
        if processor not in above["node"]:
            raise TopologyError(f"{processor} is in no node", where=where)
    for vertex in kinds.get("package", []) + kinds.get("core", []):
        if not mask[vertex]:
            raise TopologyError(f"{vertex} has no processor", where=where)
    node_of = tuple(above["node"][processor] for processor in processors)
    package_of = _complete(processors, above["package"], len(kinds.get("package", [])), node_of)
    core_of = _complete(processors, above["core"], len(kinds.get("core", [])), tuple(range(len(processors))))
    core_mask = _masks(core_of)
    node_mask = _masks(node_of, len(nodes))
    for siblings in core_mask:
        if len({node_of[i] for i in members(siblings)}) > 1:
            raise TopologyError(f"one core has processors in several nodes: {members(siblings)}", where=where)

    memories: list[list[dict[str, Any]]] = [[] for _ in nodes]
    for memory in kinds.get("memory", []):
        home = parents[memory]
        if graph.nodes[home]["kind"] != "node":
            raise TopologyError(f"{memory} is in {home}", where=where, expected="memory inside a node")
        memories[number[home]].append(graph.nodes[memory])
    node_memory = tuple(sum(part["bytes"] for part in parts) for parts in memories)
    supply = [sum(m.get("bandwidth") or 0 for m in parts) or DEFAULT_BANDWIDTH for parts in memories]
    for n in range(len(nodes)):
        if not node_mask[n] and not node_memory[n]:
            raise TopologyError(f"{nodes[n]} has neither processors nor memory", where=where)

    links = tuple(
        sorted(
            Link((min(a, b), max(a, b)), data["latency_ns"], data["bandwidth"])
            for a, b, data in graph.edges(data=True)
            if data["relation"] == "link"
        )
    )
    if topology.power is not None:
        power.check(topology.power, where)
    for link in links:
        if link.latency < 0 or link.bandwidth <= 0:
            value = f"{link.latency} ns and {link.bandwidth} bytes a second"
            raise TopologyError(f"the link {' - '.join(link.ends)} has {value}", where=where)
    distances = _matrix(topology.distances, len(nodes), "distances", where)
    latency = _matrix(topology.latency_ns, len(nodes), "latency_ns", where)
    ways, narrowest = _ways(nodes, links)
    local = [next((m["latency_ns"] for m in parts if m.get("latency_ns")), None) for parts in memories]
    if latency is not None:
        basis = "stated"
    else:
        basis, latency = _latency(nodes, local, ways if links else None, distances, where)
    write_latency = _matrix(topology.write_latency_ns, len(nodes), "write_latency_ns", where)
    tables = Tables(
        name=topology.name,
        source=topology.source,
        processors=len(processors),
        cores=len(core_mask),
        packages=max(package_of) + 1,
        nodes=len(nodes),
        groups=0,
        os_index=_os_indexes(topology, processors, "processor"),
        speed=tuple(graph.nodes[processor].get("speed_mhz") or DEFAULT_SPEED for processor in processors),
        node_of=node_of,
        package_of=package_of,
        core_of=core_of,
        group_of=(),
        core_processors=tuple(tuple(members(core_mask[core])) for core in core_of),
        node_processors=tuple(tuple(members(part)) for part in node_mask),
        core_mask=core_mask,
        package_mask=_masks(package_of),
        node_mask=node_mask,
        group_mask=(),
        node_os_index=_os_indexes(topology, nodes, "node"),
        node_memory=node_memory,
        latency=latency,
        write_latency=latency if write_latency is None else write_latency,
        latency_basis=basis,
        bandwidth=tuple(
            tuple(min(supply[m], narrowest[n][m] or supply[m]) for m in range(len(nodes)))
            for n in range(len(nodes))
        ),
        distances=distances,
        nearest=tuple(
            tuple(sorted(range(len(nodes)), key=lambda m: (m != n, row[m], m)))
            for n, row in enumerate(latency)
        ),
        caches=tuple(
            sorted(
                Cache(data["level"], data["type"], data.get("bytes", 0), data.get("line", 0), mask[vertex])
                for vertex in kinds.get("cache", [])
                for data in [graph.nodes[vertex]]
            )
        ),
        devices=tuple(
            _device(topology, vertex, parents, mask, node_mask) for vertex in kinds.get("device", [])
        ),
        links=links,
        power=topology.power if topology.power is not None else power.DEFAULT,
    )
    group_of = assign_groups(tables, group_limit)
    group_mask = _masks(group_of)
    return replace(tables, group_of=group_of, group_mask=group_mask, groups=len(group_mask))


def fitted(tables: Tables, processors: int, present: int, memory: Sequence[int]) -> Tables:
    """The tables of a machine of which not all parts are there.

    It has the first so many `processors` of `tables`, of which `present` (a mask) may be used, and so many
    bytes of `memory` in each node. Numbers, places and groups stay, so those that are not there keep theirs:
    firmware describes empty slots too, and Windows leaves room for them in its groups. A device all of
    whose processors are missing is as near to each of the others.
    """

    def there(masks: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(mask & present for mask in masks)

    core_mask, node_mask = there(tables.core_mask), there(tables.node_mask)
    return replace(
        tables,
        processors=processors,
        os_index=tables.os_index[:processors],
        speed=tables.speed[:processors],
        node_of=tables.node_of[:processors],
        package_of=tables.package_of[:processors],
        core_of=tables.core_of[:processors],
        group_of=tables.group_of[:processors],
        core_mask=core_mask,
        package_mask=there(tables.package_mask),
        node_mask=node_mask,
        group_mask=there(tables.group_mask),
        core_processors=tuple(
            tuple(members(core_mask[core] | 1 << i)) for i, core in enumerate(tables.core_of[:processors])
        ),
        node_processors=tuple(tuple(members(mask)) for mask in node_mask),
        node_memory=tuple(memory),
        caches=tuple(
            cache._replace(processors=cache.processors & present)
            for cache in tables.caches
            if cache.processors & present
        ),
        devices=tuple(
            device._replace(processors=device.processors & present or present) for device in tables.devices
        ),
    )


def _complete(
    processors: list[str], known: dict[str, int], count: int, fallback: Sequence[int]
) -> tuple[int, ...]:
    """Number the places of processors, with new ones (one for each value of `fallback`) for those without:
    a virtual machine may say nothing of cores or packages, and every processor has one of each."""
    made: dict[int, int] = {}
    return tuple(
        known[processor] if processor in known else made.setdefault(fallback[i], count + len(made))
        for i, processor in enumerate(processors)
    )


def _masks(place_of: Sequence[int], count: int = 0) -> tuple[int, ...]:
    masks = [0] * max(count, max(place_of) + 1)
    for i, place in enumerate(place_of):
        masks[place] |= 1 << i
    return tuple(masks)


def _os_indexes(topology: Topology, vertices: list[str], kind: str) -> tuple[int, ...]:
    indexes = tuple(topology.graph.nodes[vertex]["os_index"] for vertex in vertices)
    seen: set[int] = set()
    for index in indexes:
        if index in seen:
            raise TopologyError(
                f"{kind} number {index} of the operating system occurs twice", where=topology.where
            )
        seen.add(index)
    return indexes


def _matrix(rows: Sequence[Sequence[int]] | None, size: int, name: str, where: str) -> Matrix | None:
    if rows is None:
        return None
    if len(rows) != size or any(len(row) != size for row in rows):
        shape = f"{len(rows)} rows of {sorted({len(row) for row in rows})}"
        raise TopologyError(f"{name} has {shape} values", where=where, expected=f"{size} rows of {size}")
    if any(value < 0 for row in rows for value in row) or any(rows[n][n] == 0 for n in range(size)):
        raise TopologyError(f"{name} has a negative value or a 0 on its diagonal", where=where)
    return tuple(tuple(row) for row in rows)


def _latency(
    nodes: list[str],
    local: list[int | None],
    ways: list[list[int | None]] | None,
    distances: Matrix | None,
    where: str,
) -> tuple[str, Matrix]:
    """Read latencies for a machine that does not state them all, and what they are based on."""
    size = range(len(nodes))
    near = [DEFAULT_LATENCY if ns is None else ns for ns in local]
    if len(nodes) == 1:
        return ("stated" if local[0] else "assumed"), ((near[0],),)
    if ways is not None:
        for n, row in enumerate(ways):
            if None in row:
                raise TopologyError(f"no link leads from {nodes[n]} to {nodes[row.index(None)]}", where=where)
        return "links", tuple(tuple(near[m] + (row[m] or 0) for m in size) for row in ways)
    relative = distances or [[LOCAL_DISTANCE if n == m else REMOTE_DISTANCE for m in size] for n in size]
    scaled = tuple(
        tuple((near[n] * row[m] * 2 + row[n]) // (2 * row[n]) for m in size) for n, row in enumerate(relative)
    )
    return ("assumed" if distances is None else "distances"), scaled


def _ways(nodes: list[str], links: Sequence[Link]) -> tuple[list[list[int | None]], list[list[int]]]:
    """Added latency of the shortest way between nodes over links, and the narrowest bandwidth on it
    (0: the way has no link). Searched from each node, not from each processor: 6 ms instead of 94 (B5)."""
    import networkx

    ways: list[list[int | None]] = []
    narrowest: list[list[int]] = []
    roads = networkx.Graph()
    roads.add_nodes_from(nodes)
    for link in links:
        roads.add_edge(*link.ends, latency=link.latency, bandwidth=link.bandwidth)
    for start in nodes:
        cost, path = (
            networkx.single_source_dijkstra(roads, start, weight="latency") if links else ({start: 0}, {})
        )
        ways.append([cost.get(end) for end in nodes])
        narrowest.append(
            [
                min((roads[a][b]["bandwidth"] for a, b in pairwise(road)), default=0)
                for road in (path.get(end, []) for end in nodes)
            ]
        )
    return ways, narrowest


def _device(
    topology: Topology, vertex: str, parents: dict[str, str], mask: dict[str, int], node_mask: tuple[int, ...]
) -> Device:
    data = topology.graph.nodes[vertex]
    widths = []
    place = vertex
    while not mask[place]:  # up through devices and buses, which contain no processor
        width = topology.graph.nodes[place].get("bandwidth")
        if width:
            widths.append(width)
        place = parents[place]
    homes = [n for n, processors in enumerate(node_mask) if processors & mask[place]]
    node = homes[0] if len(homes) == 1 else None
    return Device(data["name"], data["type"], node, mask[place], min(widths, default=0))

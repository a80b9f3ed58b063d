"""A machine as people write and query it: a networkx graph.

Vertices carry `kind`, edges carry `relation`. The edges `relation="contains"` form a tree whose root is the
vertex "machine"; the edges `relation="link"` are the interconnect, with `latency_ns` and `bandwidth` (bytes a
second).

| kind | attributes |
|---|---|
| machine | |
| group | `name`: what the vendor calls a set of neighbours (cell, quad, die); not a processor group |
| node | `os_index` |
| memory | `bytes`, `latency_ns` of a local read, `bandwidth`; inside a node |
| package | `os_index` |
| cache | `level`, `type`, `bytes`, `line` |
| core | `os_index` |
| processor | `os_index`, `speed_mhz` |
| bus | `name`, `bandwidth` |
| device | `name`, `type`, `bandwidth` |

A value of None or an absent one means that the description does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ntlab.errors import UnknownNameError
from ntlab.topology.power import Power
from ntlab.topology.tables import Tables, TopologyError, freeze

if TYPE_CHECKING:
    import networkx

KINDS = ("machine", "group", "node", "package", "core", "cache", "processor", "memory", "bus", "device")
MACHINE = "machine"


class Topology:
    """A machine under description. `graph` may be read and changed with anything that networkx offers.

    Vertices of a kind are numbered in the order in which they are added; the helpers name them so ("node:3").
    """

    def __init__(self, name: str, source: str = "", *, where: str = "") -> None:
        import networkx  # here, for it takes 100 ms and `import ntlab` shall not

        self.name = name
        self.source = source
        """Where the numbers come from, in words."""
        self.where = where or name
        """What error messages name: the file, or the name of a machine that came from none."""
        self.distances: Sequence[Sequence[int]] | None = None
        """The firmware's relative distances between nodes (ACPI SLIT, hwloc NUMALatency), by node number."""
        self.latency_ns: Sequence[Sequence[int]] | None = None
        """Read latency in ns where measured or published: [node of the processor][node of the memory]."""
        self.write_latency_ns: Sequence[Sequence[int]] | None = None
        """The same of writes, where it is known to be another one."""
        self.power: Power | None = None
        """What its processors draw, where stated."""
        self.graph: networkx.Graph = networkx.Graph(name=name)
        self.graph.add_node(MACHINE, kind="machine")
        self._added: dict[str, int] = {}

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{len(self.vertices(kind))} {kind}" for kind in ("processor", "core", "package", "node")
        )
        return f"<Topology {self.name!r}: {counts}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{key}</th><td>{escape(str(fact))}</td></tr>" for key, fact in self.to_json().items()
        )
        return f"<table>{rows}</table>"

    def to_json(self) -> dict[str, Any]:
        """The machine in short, as plain data. Raises TopologyError as `freeze` does."""
        tables = self.freeze()
        return {
            "name": tables.name,
            "source": tables.source,
            "processors": tables.processors,
            "cores": tables.cores,
            "packages": tables.packages,
            "nodes": tables.nodes,
            "groups": tables.groups,
            "memory_bytes": tables.memory,
            "distances": None if tables.distances is None else [list(row) for row in tables.distances],
            "latency_ns": [list(row) for row in tables.latency],
            "latency_basis": tables.latency_basis,
            "node_memory_bytes": list(tables.node_memory),
            "node_processors": [list(processors) for processors in tables.node_processors],
        }

    def columns(self) -> dict[str, list[int]]:
        """One row a processor, for a data frame. Raises TopologyError as `freeze` does."""
        tables = self.freeze()
        return {
            "processor": list(range(tables.processors)),
            "os_index": list(tables.os_index),
            "core": list(tables.core_of),
            "package": list(tables.package_of),
            "node": list(tables.node_of),
            "group": list(tables.group_of),
            "speed_mhz": list(tables.speed),
        }

    def add(self, kind: str, inside: str = MACHINE, **attributes: Any) -> str:
        """Add a vertex below `inside` and return its name. The helpers below say which attributes each kind
        has."""
        if kind not in KINDS:
            raise UnknownNameError("kind of vertex", kind, KINDS, where=self.where)
        if inside not in self.graph:
            raise UnknownNameError("vertex", inside, self.graph, where=self.where)
        number = self._added.get(kind, 0)
        self._added[kind] = number + 1
        vertex = f"{kind}:{number}"
        self.graph.add_node(vertex, kind=kind, **attributes)
        self.graph.add_edge(inside, vertex, relation="contains")
        return vertex

    def add_group(self, inside: str = MACHINE, *, name: str = "") -> str:
        return self.add("group", inside, name=name)

    def add_node(
        self,
        inside: str = MACHINE,
        *,
        memory: int,
        latency_ns: int | None = None,
        bandwidth: int | None = None,
        os_index: int | None = None,
    ) -> str:
        """A NUMA node with `memory` bytes, which a processor of the node reads in `latency_ns`."""
        node = self.add("node", inside, os_index=self._next("node", os_index))
        if memory:
            self.add("memory", node, bytes=memory, latency_ns=latency_ns, bandwidth=bandwidth)
        return node

    def add_package(self, inside: str = MACHINE, *, os_index: int | None = None) -> str:
        return self.add("package", inside, os_index=self._next("package", os_index))

    def add_cache(
        self, inside: str, *, level: int, size: int = 0, type: str = "unified", line: int = 0
    ) -> str:
        """A cache of `size` bytes, shared by the processors that are put inside it."""
        return self.add("cache", inside, level=level, type=type, bytes=size, line=line)

    def add_core(self, inside: str = MACHINE, *, os_index: int | None = None) -> str:
        return self.add("core", inside, os_index=self._next("core", os_index))

    def add_processor(self, inside: str, *, os_index: int | None = None, speed_mhz: int | None = None) -> str:
        """A logical processor."""
        return self.add("processor", inside, os_index=self._next("processor", os_index), speed_mhz=speed_mhz)

    def add_bus(self, inside: str = MACHINE, *, name: str = "", bandwidth: int | None = None) -> str:
        return self.add("bus", inside, name=name, bandwidth=bandwidth)

    def add_device(self, inside: str = MACHINE, *, name: str, type: str, bandwidth: int | None = None) -> str:
        return self.add("device", inside, name=name, type=type, bandwidth=bandwidth)

    def link(self, a: str, b: str, *, latency_ns: int, bandwidth: int) -> None:
        """An interconnect link. `latency_ns` is what one crossing adds to a read."""
        for vertex in (a, b):
            if vertex not in self.graph:
                raise UnknownNameError("vertex", vertex, self.graph, where=self.where)
        if a == b or b in self.graph.adj[a]:
            raise TopologyError(
                f"{a} and {b} cannot be linked: same, contained or already linked", where=self.where
            )
        self.graph.add_edge(a, b, relation="link", latency_ns=latency_ns, bandwidth=bandwidth)

    def vertices(self, kind: str) -> list[str]:
        """Every vertex of the kind, in the order of its number."""
        return [vertex for vertex, found in self.graph.nodes(data="kind") if found == kind]

    def parents(self) -> dict[str, str]:
        """The container of each vertex but the machine. Raises TopologyError if containment is no tree."""
        parents: dict[str, str] = {}
        todo = [MACHINE]
        for container in todo:  # grows as it goes: breadth first, so that a second container is met as such
            for vertex, edge in self.graph.adj[container].items():
                if edge["relation"] != "contains" or vertex == parents.get(container):
                    continue
                if vertex in parents or vertex == MACHINE:
                    both = f"{parents.get(vertex, 'nothing')} and {container}"
                    raise TopologyError(f"{vertex} is contained in both {both}", where=self.where)
                parents[vertex] = container
                todo.append(vertex)
        if len(parents) + 1 != len(self.graph):
            lost = next(vertex for vertex in self.graph if vertex not in parents and vertex != MACHINE)
            raise TopologyError(f"{lost} is not contained in the machine", where=self.where)
        return parents

    def freeze(self, *, group_limit: int = 64) -> Tables:
        """Plain tables for the simulated machine; the graph is not used after that. Raises TopologyError."""
        return freeze(self, group_limit)

    def _next(self, kind: str, os_index: int | None) -> int:
        return self._added.get(kind, 0) if os_index is None else os_index

"""Hardware profiles: a machine as TOML, read and written. docs/topology.md describes the format.

A regular machine is a few counts in `[layout]`; any other machine lists the processors of each part there.
Both forms become sets of processors and are put together by `assemble`, as every reader's are.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ntlab.errors import UnknownNameError
from ntlab.quantities import (
    GIB,
    KIB,
    MIB,
    TIB,
    QuantityError,
    parse_duration,
    parse_energy,
    parse_power,
    parse_rate,
    parse_size,
)
from ntlab.topology.model import MACHINE, Topology
from ntlab.topology.power import DEFAULT, IdleState, PerformanceState, Power
from ntlab.topology.sets import MAX_PROCESSORS, Part, as_mask, assemble, format_list, parse_list
from ntlab.topology.tables import DEFAULT_BANDWIDTH, DEFAULT_LATENCY, DEFAULT_SPEED, TopologyError, members

T = TypeVar("T")
_COUNTS = ("groups", "nodes", "packages", "cores", "threads")
_LISTS = ("groups", "nodes", "packages", "cores")
_UNITS = {"TiB": TIB, "GiB": GIB, "MiB": MIB, "KiB": KIB, "B": 1}
_KIND = {"groups": "group", "nodes": "node", "packages": "package", "cores": "core"}


class _Table:
    """One TOML table while it is read: typed access by key, and at the end every key must have been asked
    for."""

    def __init__(self, values: object, where: str, keys: Iterable[str]) -> None:
        if not isinstance(values, dict):
            raise TopologyError(f"{values!r} stands where a table belongs", where=where)
        self.values: dict[str, Any] = values
        self.where = where
        for key in values:
            if key not in (known := tuple(keys)):
                raise UnknownNameError("key", key, known, where=where)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def fail(self, key: str, expected: str) -> NoReturn:
        found = repr(self.values[key]) if key in self.values else "missing"
        raise TopologyError(f"{key} is {found}", where=self.where, expected=expected)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            self.fail(key, "a text")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_PROCESSORS:
            self.fail(key, f"a whole number from 1 to {MAX_PROCESSORS}")
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.fail(key, "true or false")
        return value

    def needed(self, key: str, parse: Callable[[object], T], example: str) -> T:
        if key not in self.values:
            self.fail(key, f"a value such as {example!r}")
        return self._quantity(key, self.values[key], parse)

    def quantity(self, key: str, parse: Callable[[object], T]) -> T | None:
        return self._quantity(key, self.values[key], parse) if key in self.values else None

    def _quantity(self, key: str, value: object, parse: Callable[[object], T]) -> T:
        try:
            return parse(value)
        except QuantityError as error:
            raise TopologyError(f"{key}: {error}", where=self.where) from None

    def each(self, key: str, parse: Callable[[object], T], size: int) -> list[T | None]:
        """One quantity for all, or a list with one for each."""
        value = self.values.get(key)
        if not isinstance(value, list):
            return [self.quantity(key, parse)] * size
        if len(value) != size:
            raise TopologyError(f"{key} has {len(value)} values", where=self.where, expected=f"{size}")
        return [self._quantity(key, item, parse) for item in value]

    def numbers(self, key: str, size: int) -> list[int] | None:
        """Whole numbers as a list such as "0-3,8"."""
        if key not in self.values:
            return None
        found = self._list(key, self.text(key))
        if len(found) != size:
            raise TopologyError(f"{key} has {len(found)} numbers", where=self.where, expected=f"{size}")
        return found

    def _list(self, key: str, text: str) -> list[int]:
        try:
            return parse_list(text)
        except ValueError as error:
            raise TopologyError(f"{key}: {error}", where=self.where) from None

    def masks(self, key: str) -> list[int]:
        """A bit mask for each set of a text such as "0-3 4-7"; "-" is the empty set."""
        return [0 if word == "-" else as_mask(self._list(key, word)) for word in self.text(key, "").split()]

    def matrix(self, key: str) -> list[list[int]] | None:
        """A row is one text of whole numbers, which keeps a matrix of 64 nodes at 64 lines."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(row, str) for row in value):
            self.fail(key, 'one text for each row, such as ["10 20", "20 10"]')
        try:
            return [[int(item) for item in row.split()] for row in value]
        except ValueError as error:
            raise TopologyError(f"{key}: {error}", where=self.where) from None

    def table(self, key: str, keys: Iterable[str]) -> _Table:
        return _Table(self.values.get(key, {}), f"{self.where}: [{key}]", keys)

    def tables(self, key: str, keys: Iterable[str]) -> list[_Table]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise TopologyError(f"[{key}] is one table", where=self.where, expected=f"[[{key}]]")
        return [_Table(item, f"{self.where}: [[{key}]] {i}", keys) for i, item in enumerate(value)]


def _speed(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise QuantityError(f"{value!r} is not a clock; expected MHz as a whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise QuantityError(f"{value!r} is not a text")
    return value


def read(path: Path) -> Topology:
    """The machine of a profile. Raises TopologyError or UnknownNameError naming the file and the key."""
    where = str(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TopologyError(f"cannot be read: {error.strerror}", where=where) from None
    except (ValueError, RecursionError) as error:  # a number or a nesting may be longer than Python reads
        raise TopologyError(f"not TOML: {error}", where=where) from None
    keys = (
        "name",
        "source",
        "layout",
        "processor",
        "group",
        "node",
        "between_nodes",
        "cache",
        "link",
        "bus",
        "device",
        "power",
        "idle_state",
        "performance_state",
    )
    return _build(_Table(values, where, keys), path.stem)


def _build(file: _Table, stem: str) -> Topology:
    topology = Topology(file.text("name", stem), file.text("source"), where=file.where)
    listed = "processors" in file.table("layout", ("processors", *_COUNTS))
    layout = file.table("layout", ("processors", *_LISTS) if listed else _COUNTS)
    if listed:
        size = layout.count("processors")
        sets = {key: layout.masks(key) for key in _LISTS}
    else:
        size, sets = _regular(layout)

    group = file.table("group", ("name",))
    node = file.table("node", ("memory", "latency", "bandwidth", "os_index"))
    if "memory" not in node:
        node.fail("memory", 'a size such as "4 GiB"')
    columns: dict[str, dict[str, list[Any]]] = {
        "group": {"name": [name or "" for name in group.each("name", _text, len(sets["groups"]))]},
        "node": {
            "memory": node.each("memory", parse_size, len(sets["nodes"])),
            "latency_ns": node.each("latency", parse_duration, len(sets["nodes"])),
            "bandwidth": node.each("bandwidth", parse_rate, len(sets["nodes"])),
            "os_index": node.numbers("os_index", len(sets["nodes"])) or [None] * len(sets["nodes"]),
        },
    }
    parts = [
        Part(kind, mask, {name: column[i] for name, column in columns.get(kind, {}).items()})
        for key, kind in _KIND.items()
        for i, mask in enumerate(sets[key])
    ]
    for cache in file.tables("cache", ("level", "type", "size", "line", "cores", "processors")):
        attributes = {
            "level": cache.count("level"),
            "type": cache.text("type", "unified"),
            "size": cache.quantity("size", parse_size) or 0,
            "line": cache.quantity("line", parse_size) or 0,
        }
        if "processors" in cache:
            shared = cache.masks("processors")
        else:
            step, cores = cache.count("cores", 1), sets["cores"]
            shared = [sum(cores[i : i + step]) for i in range(0, len(cores), step)]
        parts.extend(Part("cache", mask, dict(attributes)) for mask in shared)

    processor = file.table("processor", ("speed_mhz", "os_index"))
    speeds = processor.each("speed_mhz", _speed, size)
    indexes = processor.numbers("os_index", size) or range(size)
    assemble(
        topology, [{"os_index": i, "speed_mhz": mhz} for i, mhz in zip(indexes, speeds, strict=True)], parts
    )

    topology.power = _power(file)
    between = file.table("between_nodes", ("distances", "latency_ns", "write_latency_ns"))
    topology.distances = between.matrix("distances")
    topology.latency_ns = between.matrix("latency_ns")
    topology.write_latency_ns = between.matrix("write_latency_ns")
    for bus in file.tables("bus", ("name", "at", "bandwidth")):
        for vertex in _select(topology, bus.text("at", MACHINE), f"{bus.where}: at"):
            rate = bus.quantity("bandwidth", parse_rate)
            topology.add_bus(vertex, name=bus.text("name", ""), bandwidth=rate)
    for device in file.tables("device", ("name", "type", "at", "bandwidth")):
        for vertex in _select(topology, device.text("at", MACHINE), f"{device.where}: at"):
            topology.add_device(
                vertex,
                name=device.text("name"),
                type=device.text("type"),
                bandwidth=device.quantity("bandwidth", parse_rate),
            )
    for link in file.tables("link", ("between", "latency", "bandwidth")):
        latency, bandwidth = link.quantity("latency", parse_duration), link.quantity("bandwidth", parse_rate)
        if latency is None:
            link.fail("latency", 'a duration such as "40 ns"')
        if bandwidth is None:
            link.fail("bandwidth", 'a rate such as "6.4 GB/s"')
        for a, b in _ends(topology, link):
            topology.link(a, b, latency_ns=latency, bandwidth=bandwidth)
    return topology


_IDLE = ("name", "type", "exit_latency", "residency", "power", "energy", "flushes_caches", "package_sleeps")


def _power(file: _Table) -> Power | None:
    """What the profile says of power. What it leaves open is that of `DEFAULT`."""
    if not any(key in file for key in ("power", "idle_state", "performance_state")):
        return None
    power = file.table("power", ("active", "package", "package_asleep"))
    idle = [
        IdleState(
            name=state.text("name"),
            type=state.count("type", 1),
            latency=state.needed("exit_latency", parse_duration, "3 us"),
            residency=state.needed("residency", parse_duration, "6 us"),
            power=state.needed("power", parse_power, "3 W"),
            energy=state.quantity("energy", parse_energy) or 0,
            flushes=state.flag("flushes_caches"),
            deep=state.flag("package_sleeps"),
        )
        for state in file.tables("idle_state", _IDLE)
    ]
    performance = [
        PerformanceState(
            speed=state.needed("speed_mhz", _speed, "2000"),
            power=state.needed("power", parse_power, "10 W"),
            cores=state.count("cores") if "cores" in state else 0,
        )
        for state in file.tables("performance_state", ("speed_mhz", "power", "cores"))
    ]
    stated = [power.quantity(key, parse_power) for key in ("active", "package", "package_asleep")]
    return Power(
        tuple(idle) if "idle_state" in file else DEFAULT.idle,
        tuple(performance),
        *(
            default if value is None else value
            for value, default in zip(stated, (DEFAULT.active, DEFAULT.package, DEFAULT.asleep), strict=True)
        ),
    )


def _regular(layout: _Table) -> tuple[int, dict[str, list[int]]]:
    """Sets of processors from counts, each of which is inside one of the kind before it."""
    counts = {key: layout.count(key, 1) for key in _COUNTS}
    total = 1
    for count in counts.values():
        total *= count
    if total > MAX_PROCESSORS:
        raise TopologyError(f"{total} processors", where=layout.where, expected=f"at most {MAX_PROCESSORS}")
    sets: dict[str, list[int]] = {}
    size = total
    for key in _LISTS:
        size //= counts[key]
        sets[key] = [((1 << size) - 1) << start for start in range(0, total, size)]
    if "groups" not in layout:
        sets["groups"] = []
    return total, sets


def _select(topology: Topology, word: object, where: str) -> list[str]:
    """The vertices that a profile means: one by its name, all of a kind, or every bus of a name."""
    if word in topology.graph:
        return [str(word)]
    buses = {vertex: topology.graph.nodes[vertex]["name"] for vertex in topology.vertices("bus")}
    found = topology.vertices(str(word)) or [
        vertex for vertex, name in buses.items() if name and name == word
    ]
    if not found:
        raise UnknownNameError("vertex", str(word), [*topology.graph, *buses.values()], where=where)
    return found


def _ends(topology: Topology, link: _Table) -> list[tuple[str, str]]:
    """The pairs that texts of two words mean. The same word twice is every pair of those; else each of the
    first is linked to the one of the second, or to the one that is around it: a node to its quad's
    crossbar."""
    value = link.values.get("between")
    where = f"{link.where}: between"
    if not isinstance(value, list) or not all(
        isinstance(text, str) and len(text.split()) == 2 for text in value
    ):
        link.fail("between", 'texts of two words, such as ["node:0 node:1"] or ["node crossbar"]')
    parents = topology.parents()
    found = []
    for first, second in (text.split() for text in value):
        ones, others = _select(topology, first, where), _select(topology, second, where)
        if first == second:
            found += [(a, b) for i, a in enumerate(ones) for b in ones[i + 1 :]]
        elif len(others) == 1:
            found += [(vertex, others[0]) for vertex in ones]
        else:
            homes = {parents[vertex]: vertex for vertex in others}
            for vertex in ones:
                around = parents[vertex]
                while around not in homes and around != MACHINE:
                    around = parents[around]
                if around not in homes:
                    link.fail("between", f"a {second} around every {first}")
                found.append((vertex, homes[around]))
    return found


def write(topology: Topology) -> str:
    """The profile, as TOML text, that reads back to equal tables. Raises TopologyError as `freeze` does.

    Parts are listed, not counted: it must say any machine. Containers without processors are not written.
    """
    import tomli_w

    tables = topology.freeze()
    graph, parents = topology.graph, topology.parents()
    mask = dict.fromkeys(graph, 0)
    for i, vertex in enumerate(topology.vertices("processor")):
        mask[vertex] = 1 << i
        while vertex in parents:
            vertex = parents[vertex]
            mask[vertex] |= 1 << i
    kept = {
        kind: [
            vertex for vertex in topology.vertices(kind) if mask[vertex] or kind in ("node", "bus", "device")
        ]
        for kind in ("group", "node", "package", "core", "bus", "device")
    }
    # The names that the reader will give them: gaps that removals left in the numbering close.
    names = {vertex: f"{kind}:{i}" for kind, vertices in kept.items() for i, vertex in enumerate(vertices)}
    names[MACHINE] = MACHINE

    def at(vertex: str) -> str:
        container = parents[vertex]
        while container not in names:
            container = parents[container]
        return names[container]

    layout: dict[str, Any] = {"processors": tables.processors}
    for key, kind in _KIND.items():
        if kept[kind]:
            layout[key] = _sets(mask[vertex] for vertex in kept[kind])
    supply = [
        [graph.nodes[m] for m in topology.vertices("memory") if parents[m] == node] for node in kept["node"]
    ]
    latencies = [next((m["latency_ns"] for m in parts if m.get("latency_ns")), None) for parts in supply]
    rates = [sum(m.get("bandwidth") or 0 for m in parts) or None for parts in supply]
    speeds = [graph.nodes[vertex].get("speed_mhz") for vertex in topology.vertices("processor")]
    group_names = [graph.nodes[vertex].get("name") for vertex in kept["group"]]
    matrices = {
        "distances": topology.distances,
        "latency_ns": topology.latency_ns,
        "write_latency_ns": topology.write_latency_ns,
    }
    caches: dict[tuple[int, str, int, int], list[int]] = {}
    for cache in tables.caches:
        caches.setdefault(cache[:4], []).append(cache.processors)
    links: dict[tuple[int, int], list[str]] = {}
    for link in tables.links:
        pair = " ".join(names[end] for end in link.ends)
        links.setdefault((link.latency, link.bandwidth), []).append(pair)
    document: dict[str, Any] = {
        "name": topology.name,
        "source": topology.source,
        "layout": layout,
        "processor": {
            "os_index": format_list(tables.os_index),
            **_column("speed_mhz", speeds, DEFAULT_SPEED, int),
        },
        "group": _column("name", [name or None for name in group_names], "", str),
        "node": {
            "os_index": format_list(tables.node_os_index),
            **_column("memory", list(tables.node_memory), None, _size),
            **_column("latency", latencies, DEFAULT_LATENCY, lambda ns: f"{ns} ns"),
            **_column("bandwidth", rates, DEFAULT_BANDWIDTH, _rate),
        },
        "between_nodes": {
            name: [" ".join(map(str, row)) for row in matrix]
            for name, matrix in matrices.items()
            if matrix is not None
        },
        "cache": [
            {
                "level": level,
                "type": type,
                "size": _size(size),
                "line": _size(line),
                "processors": _sets(shared),
            }
            for (level, type, size, line), shared in caches.items()
        ],
        "bus": [{"at": at(bus)} | _stated(graph.nodes[bus], "name", "bandwidth") for bus in kept["bus"]],
        "device": [
            {"at": at(device)} | _stated(graph.nodes[device], "name", "type", "bandwidth")
            for device in kept["device"]
        ],
        "link": [
            {"between": pairs, "latency": f"{latency} ns", "bandwidth": _rate(bandwidth)}
            for (latency, bandwidth), pairs in links.items()
        ],
        **(_power_written(topology.power) if topology.power is not None else {}),
    }
    return tomli_w.dumps({key: value for key, value in document.items() if value or value == ""})


def _power_written(power: Power) -> dict[str, Any]:
    return {
        "power": {
            "active": f"{power.active} mW",
            "package": f"{power.package} mW",
            "package_asleep": f"{power.asleep} mW",
        },
        "idle_state": [
            {
                "name": state.name,
                "type": state.type,
                "exit_latency": f"{state.latency} ns",
                "residency": f"{state.residency} ns",
                "power": f"{state.power} mW",
                "energy": f"{state.energy} pJ",
                "flushes_caches": state.flushes,
                "package_sleeps": state.deep,
            }
            for state in power.idle
        ],
        "performance_state": [
            {"speed_mhz": state.speed, "power": f"{state.power} mW"}
            | ({"cores": state.cores} if state.cores else {})
            for state in power.performance
        ],
    }


def _column(name: str, values: list[Any], default: Any, form: Callable[[Any], object]) -> dict[str, object]:
    """Nothing if no value is stated, one value if all are the same, else a list with the gaps filled."""
    if all(value is None for value in values):
        return {}
    filled = [default if value is None else value for value in values]
    if all(value == filled[0] for value in filled):
        return {name: form(filled[0])}
    return {name: [form(value) for value in filled]}


def _stated(attributes: dict[str, Any], *names: str) -> dict[str, object]:
    found = {name: attributes[name] for name in names if attributes.get(name)}
    return found | {"bandwidth": _rate(found["bandwidth"])} if "bandwidth" in found else found


def _sets(masks: Iterable[int]) -> str:
    return " ".join(format_list(members(mask)) or "-" for mask in masks)


def _size(size: int) -> str:
    """The largest unit that says it exactly."""
    unit, factor = next((u, f) for u, f in _UNITS.items() if size % f == 0)
    return f"{size // factor} {unit}" if size else "0 B"


def _rate(rate: int) -> str:
    return f"{rate / 10**9:.9f}".rstrip("0").rstrip(".") + " GB/s"

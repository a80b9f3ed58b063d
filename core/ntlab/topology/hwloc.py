"""Reader of hwloc XML, formats 2.0 and 3.0 (what `lstopo machine.xml` of hwloc 2 and 3 writes).

Kept: groups and dies, NUMA nodes with their memory, packages, cores, caches, processors, bridges as buses,
PCI and operating-system devices, and the latency distances between nodes. Left out: memory-side caches (their
node moves up to their place), Misc objects, distances between other objects, memory attributes, CPU kinds
beyond the clock.

The file is not trusted: entities are refused, and the DTD that hwloc names is neither needed nor fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ntlab.topology.model import MACHINE, Topology
from ntlab.topology.sets import MAX_PROCESSORS, Part, as_mask, assemble
from ntlab.topology.tables import TopologyError, members

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

FORMATS = ("2", "3")
MAX_DEPTH = 200
"""Objects inside each other; real machines have 20."""
_EXPECTED = "hwloc XML of format 2.0 or 3.0"
_CACHE = re.compile(r"L([1-5])(i?)Cache\Z")
_CACHE_TYPES = {"0": "unified", "1": "data", "2": "instruction"}
_WORD = re.compile(r"(0x[0-9a-fA-F]{1,8})?\Z")
_GROUPS = {"Group": "", "Die": "die"}
# The type of an OSDev is a number in format 2 and a set of bits in format 3.
_DEVICE_TYPES = {
    "0": "disk",
    "1": "gpu",
    "2": "nic",
    "3": "nic",
    "4": "dma",
    "5": "coprocessor",
    "6": "memory",
}
_DEVICE_BITS = {0: "disk", 1: "memory", 2: "gpu", 3: "coprocessor", 4: "nic", 5: "nic", 6: "dma"}
_DISTANCE_LATENCY, _DISTANCE_BANDWIDTH = 4, 8


def read(path: Path, *, allowed_only: bool = True) -> Topology:
    """The machine of an hwloc XML file, named after the file. Raises TopologyError naming the file.

    `allowed_only` keeps the processors and the memory that the machine's administrator allowed to whoever
    wrote the file, as hwloc's own tools do unless told otherwise; False keeps every one that the file
    describes. The node of an allowed processor is kept in any case, without memory if that is not allowed.
    """
    root = _parse(path)
    return _Reader(str(path), root, allowed_only).topology(path.stem)


def _parse(path: Path) -> Element:
    import defusedxml.ElementTree
    from defusedxml.common import DefusedXmlException

    where = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TopologyError(f"cannot be read: {error.strerror}", where=where) from None
    if not data.strip():
        raise TopologyError("the file is empty", where=where, expected=_EXPECTED)
    try:
        # hwloc writes a plain DOCTYPE, so DTDs are let through; entities, which make bombs and leaks, are
        # not.
        root: Element = defusedxml.ElementTree.fromstring(
            data, forbid_dtd=False, forbid_entities=True, forbid_external=True
        )
    except DefusedXmlException as error:
        raise TopologyError(f"refused: it declares entities ({type(error).__name__})", where=where) from None
    except (defusedxml.ElementTree.ParseError, ValueError, LookupError) as error:
        raise TopologyError(
            f"not well-formed XML, or cut short: {error}", where=where, expected=_EXPECTED
        ) from None
    if root.tag != "topology":
        raise TopologyError(f"not hwloc: the root element is <{root.tag}>", where=where, expected=_EXPECTED)
    version = root.get("version")
    if version is None:
        raise TopologyError(
            "format 1.x of hwloc", where=where, expected=f"{_EXPECTED}, as `lstopo new.xml` writes it"
        )
    if version.split(".")[0] not in FORMATS:
        raise TopologyError(f"format {version} of hwloc", where=where, expected=_EXPECTED)
    return root


class _Reader:
    """One file while it is read. `where` is its name, for messages."""

    def __init__(self, where: str, root: Element, allowed_only: bool) -> None:
        self.where = where
        self.root = root
        machine = root.find("object")
        if machine is None or machine.get("type") != "Machine":
            raise self.error("there is no object of type Machine below <topology>")
        self.machine = machine
        self.format3 = root.get("version", "").startswith("3")
        self.allowed = self.allowed_memory = -1
        if allowed_only and "allowed_cpuset" in machine.attrib:
            self.allowed = self.bitmap(machine, "allowed_cpuset")
        if allowed_only and "allowed_nodeset" in machine.attrib:
            self.allowed_memory = self.bitmap(machine, "allowed_nodeset")

    def error(self, what: str, expected: str = "") -> TopologyError:
        return TopologyError(what, where=self.where, expected=expected)

    def number(self, element: Element, key: str, default: int | None = None) -> int:
        text = element.get(key)
        if text is None and default is not None:
            return default
        if text is None or not text.isascii() or not text.isdigit():
            raise self.error(f"{_named(element)} has {key}={text!r}", "a whole number")
        return int(text)

    def index(self, element: Element) -> int:
        number = self.number(element, "os_index")
        if number >= MAX_PROCESSORS:
            raise self.error(f"{_named(element)} has os_index={number}", f"less than {MAX_PROCESSORS}")
        return number

    def bitmap(self, element: Element, key: str) -> int:
        """hwloc's sets: words of 32 bits in hexadecimal, the highest first, an empty word for zero, and
        "0xf...f" for all bits above, which a negative Python integer is too."""
        text = element.get(key, "")
        words = text.split(",")
        value = 0
        if words[0] == "0xf...f":
            value = -1
            words = words[1:]
        if not text or len(words) > MAX_PROCESSORS // 32 or not all(map(_WORD.match, words)):
            raise self.error(f"{_named(element)} has {key}={text!r}", "a set such as '0x0000000f'")
        for word in words:
            value = value << 32 | int(word or "0", 16)
        return value

    def cpuset(self, element: Element) -> int:
        """The processors of an object, which unlike the allowed ones cannot be all that there may be."""
        value = self.bitmap(element, "cpuset")
        if value < 0:
            raise self.error(f"{_named(element)} has an endless cpuset")
        return value

    def topology(self, name: str) -> Topology:
        topology = Topology(name, f"hwloc XML, {Path(self.where).name}", where=self.where)
        objects = list(self.walk())
        processors: list[dict[str, int | None]] = []
        bit: dict[int, int] = {}
        speeds = self.speeds()
        for element, _ in objects:
            if element.get("type") == "PU":
                index = self.index(element)
                if self.cpuset(element) != 1 << index:
                    raise self.error(f"processor {index} has the cpuset {element.get('cpuset')!r}")
                if index in bit:
                    raise self.error(f"processor {index} occurs twice")
                bit[index] = -1
                if self.allowed >> index & 1:
                    bit[index] = len(processors)
                    processors.append({"os_index": index, "speed_mhz": speeds.get(index)})
        if not bit:
            raise self.error("there is no processor")
        if not processors:
            raise self.error("no processor is allowed", "allowed_only=False to read the complete machine")

        def here(cpuset: int) -> int:
            return as_mask(bit[index] for index in members(cpuset & self.allowed) if index in bit)

        parts: dict[Element, Part] = {}
        homes: dict[Element, int] = {}
        for element, ancestors in objects:
            kind = element.get("type", "")
            if kind == "NUMANode":
                homes[element] = self.locality(element, ancestors)
            part = self.part(element, kind)
            if part is not None:
                part.processors = here(self.cpuset(element))
                parts[element] = part
        self.settle(homes)
        for element, cpuset in homes.items():
            parts[element].processors = here(cpuset)
            if not self.allowed_memory >> self.index(element) & 1:
                parts[element].attributes["memory"] = 0
        kept = {
            element: part
            for element, part in parts.items()
            if part.processors or (part.kind == "node" and part.attributes["memory"])
        }
        assemble(topology, processors, kept.values())
        self.devices(topology, objects, kept)
        topology.distances = self.distances([element for element in kept if element in homes], list(homes))
        return topology

    def walk(self) -> Iterator[tuple[Element, tuple[Element, ...]]]:
        """Every object with those around it, the outermost first. No recursion: a file may nest as it
        likes."""
        todo: list[tuple[Element, tuple[Element, ...]]] = [(self.machine, ())]
        while todo:
            element, ancestors = todo.pop()
            if len(ancestors) > MAX_DEPTH:
                raise self.error(f"objects are nested more than {MAX_DEPTH} deep")
            yield element, ancestors
            inner = (*ancestors, element)
            todo.extend((child, inner) for child in reversed(element.findall("object")))

    def part(self, element: Element, kind: str) -> Part | None:
        if kind == "NUMANode":
            return Part(
                "node",
                0,
                {"os_index": self.index(element), "memory": self.number(element, "local_memory", 0)},
            )
        if kind in _GROUPS:
            return Part("group", 0, {"name": _GROUPS[kind]})
        if kind in ("Package", "Core"):
            return Part(kind.lower(), 0, {"os_index": self.number(element, "os_index", 0)})
        cache = _CACHE.match(kind)
        if cache:
            type = _CACHE_TYPES.get(element.get("cache_type", "0"), "unified")
            size, line = self.number(element, "cache_size", 0), self.number(element, "cache_linesize", 0)
            return Part("cache", 0, {"level": int(cache[1]), "type": type, "size": size, "line": line})
        return None

    def locality(self, node: Element, ancestors: tuple[Element, ...]) -> int:
        """The processors near a node, which hwloc writes as the set of the object that the node hangs
        from."""
        cpuset = self.cpuset(node)
        holder = next(e for e in reversed(ancestors) if e.get("type") not in ("MemCache", "NUMANode"))
        if cpuset and cpuset != self.cpuset(holder):
            both = f"{node.get('cpuset')} and {holder.get('cpuset')}"
            twice = [
                other
                for other in self.machine.iter("object")
                if other is not node and other.get("type") == "NUMANode" and self.cpuset(other) & cpuset
            ]
            if twice:
                shared = members(self.cpuset(twice[0]) & cpuset)[0]
                raise self.error(f"processor {shared} is in two nodes, {_named(node)} and {_named(twice[0])}")
            raise self.error(
                f"{_named(node)} and the {holder.get('type')} around it have different cpusets, {both}"
            )
        return cpuset

    def settle(self, homes: dict[Element, int]) -> None:
        """Give each processor one node.

        Near a processor there may be ordinary memory and memory of another kind (MCDRAM, HBM, NVM, CXL, ...),
        each a NUMANode with a subtype. The operating system counts the second as a node of memory only, and
        so do we.
        """
        ordinary = 0
        for element, cpuset in homes.items():
            if element.get("subtype", "DRAM") == "DRAM":
                if ordinary & cpuset:
                    index = members(ordinary & cpuset)[0]
                    raise self.error(f"processor {index} is in two nodes, the second is {_named(element)}")
                ordinary |= cpuset
        for element, cpuset in homes.items():
            if element.get("subtype", "DRAM") != "DRAM":
                if ordinary & cpuset:
                    homes[element] = 0
                ordinary |= homes[element]

    def speeds(self) -> dict[int, int]:
        """MHz by os_index, where the file has kinds of CPU that say it."""
        speeds: dict[int, int] = {}
        for kind in self.root.iter("cpukind"):
            infos = {info.get("name"): info.get("value") or "" for info in kind.iter("info")}
            text = infos.get("FrequencyBaseMHz") or infos.get("FrequencyMaxMHz") or ""
            if text.isascii() and text.isdigit() and int(text):
                speeds.update(dict.fromkeys(members(self.cpuset(kind)), int(text)))
        return speeds

    def devices(
        self,
        topology: Topology,
        objects: list[tuple[Element, tuple[Element, ...]]],
        parts: dict[Element, Part],
    ) -> None:
        vertices = {element: part.vertex for element, part in parts.items()}
        for element, ancestors in objects:
            inside = next((vertices[e] for e in reversed(ancestors) if e in vertices), MACHINE)
            kind = element.get("type")
            name = element.get("name") or element.get("pci_busid") or element.get("bridge_pci") or ""
            if kind == "Bridge":
                vertices[element] = topology.add_bus(inside, name=name, bandwidth=self.link_speed(element))
            elif kind == "PCIDev":
                width = self.link_speed(element)
                vertices[element] = topology.add_device(inside, name=name, type="pci", bandwidth=width)
            elif kind == "OSDev":
                vertices[element] = topology.add_device(inside, name=name, type=self.device_type(element))

    def link_speed(self, element: Element) -> int | None:
        """hwloc gives GB/s; 0 stands for unknown."""
        text = element.get("pci_link_speed", "0")
        try:
            return round(float(text) * 1_000_000_000) or None
        except (ValueError, OverflowError):
            raise self.error(f"{_named(element)} has pci_link_speed={text!r}", "a number") from None

    def device_type(self, element: Element) -> str:
        text = element.get("osdev_type", "")
        if not self.format3:
            return _DEVICE_TYPES.get(text, "device")
        bits = members(int(text)) if text.isascii() and text.isdigit() else []
        return _DEVICE_BITS.get(bits[0], "device") if bits else "device"

    def distances(self, kept: list[Element], nodes: list[Element]) -> list[list[int]] | None:
        """The latency matrix between all NUMA nodes, in the order of `kept`; None if the file has none.

        hwloc may have several: its own is named NUMALatency, and one between objects of several types may
        contain the nodes too.
        """
        found: list[tuple[bool, bool, list[list[int]]]] = []
        by_os = {f"{self.index(element)}": element for element in nodes}
        by_gp = {element.get("gp_index", ""): element for element in nodes}
        for table in self.root:
            hetero = table.tag == "distances2hetero"
            if not hetero and (table.tag != "distances2" or table.get("type") != "NUMANode"):
                continue
            kind = self.number(table, "kind", _DISTANCE_LATENCY)
            if kind & _DISTANCE_BANDWIDTH or not kind & _DISTANCE_LATENCY:
                continue
            size = self.number(table, "nbobjs")
            keys = " ".join(part.text or "" for part in table.iter("indexes")).split()
            text = " ".join(part.text or "" for part in table.iter("u64values")).split()
            if len(keys) != size or len(text) != size * size:
                counted = f"{len(keys)} indexes and {len(text)} values"
                raise self.error(
                    f"a distance matrix of {size} objects has {counted}", f"{size} and {size * size}"
                )
            if not all(value.isascii() and value.isdigit() for value in text):
                raise self.error("a distance matrix has a value that is no whole number")
            if hetero:
                rows = [by_gp.get(key[9:]) if key.startswith("NUMANode:") else None for key in keys]
            else:
                rows = [(by_gp if table.get("indexing") == "gp" else by_os).get(key) for key in keys]
                if None in rows:
                    raise self.error(f"a distance matrix names the unknown node {keys[rows.index(None)]}")
            place = {element: i for i, element in enumerate(rows)}
            if all(element in place for element in kept):
                order = [place[element] for element in kept]
                matrix = [[int(text[i * size + j]) for j in order] for i in order]
                found.append((table.get("name") != "NUMALatency", hetero, matrix))
        return min(found, key=lambda entry: entry[:2])[2] if found else None


def _named(element: Element) -> str:
    index = element.get("os_index")
    name = element.get("type") or element.tag
    return f"{name} {index}" if index is not None else name

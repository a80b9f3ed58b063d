"""Reader of the running machine, from what Linux shows under /sys.

Containers see the machine through cpu sets and virtual machines may tell little: whatever is not told is left
out, and processors that this process may not use are not part of the machine unless asked for.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ntlab.topology.model import MACHINE, Topology
from ntlab.topology.sets import Part, as_mask, assemble, parse_list
from ntlab.topology.tables import TopologyError, members

_CACHE_TYPES = {"Unified": "unified", "Data": "data", "Instruction": "instruction"}


def read(
    root: Path = Path("/"), *, allowed_only: bool = True, allowed: Iterable[int] | None = None
) -> Topology:
    """The machine this process runs on. Raises TopologyError on other systems than Linux.

    `allowed_only` keeps the processors that this process may run on, else all that are online. `root` and
    `allowed` name another place and other processors, for a copy of another machine's /sys.
    """
    where = "host"
    if root == Path("/") and sys.platform != "linux":
        raise TopologyError(
            f"the running machine cannot be read on {platform.system()}", where=where,
            expected="Linux, or a file that hwloc's lstopo has written there",
        )  # fmt: skip
    if allowed is None:
        allowed = os.sched_getaffinity(0) if sys.platform == "linux" else ()
    usable = set(allowed)
    system = root / "sys/devices/system"
    online = _list(system / "cpu/online") or sorted(usable)
    numbers = [n for n in online if n in usable] if allowed_only else online
    if not numbers:
        raise TopologyError("no processor is online and allowed", where=where)

    parts = _parts(root, system, numbers)
    # Siblings next to each other, as hwloc numbers them: by node, package and core, then by the system's
    # number.
    rank = {n: [min(members(part.processors & as_mask(numbers)), default=0)
                for kind in ("node", "package", "core") for part in parts
                if part.kind == kind and part.processors >> n & 1] for n in numbers}  # fmt: skip
    numbers.sort(key=lambda n: (rank[n], n))
    place = {n: i for i, n in enumerate(numbers)}
    for part in parts:
        part.processors = as_mask(place[n] for n in members(part.processors) if n in place)
    nodes = [part for part in parts if part.kind == "node"]
    kept = _nested(part for part in parts if part.processors or part in nodes)

    topology = Topology("host", f"/sys of this machine, {platform.machine()}", where=where)
    speeds = [_clock(system / f"cpu/cpu{n}/cpufreq") for n in numbers]
    assemble(
        topology, [{"os_index": n, "speed_mhz": mhz} for n, mhz in zip(numbers, speeds, strict=True)], kept
    )
    if len(nodes) > 1:
        rows = [_text(system / f"node/node{part.attributes['os_index']}/distance").split() for part in nodes]
        every = _list(system / "node/online") or [part.attributes["os_index"] for part in nodes]
        columns = [every.index(part.attributes["os_index"]) for part in nodes]
        if all(len(row) == len(every) for row in rows):
            topology.distances = [[int(row[column]) for column in columns] for row in rows]
    _devices(topology, root, {part.attributes["os_index"]: part.vertex for part in nodes})
    return topology


def _parts(root: Path, system: Path, numbers: list[int]) -> list[Part]:
    """Sets by the system's numbers, in the order of trust: where two disagree, `_nested` keeps the first."""
    parts: list[Part] = []
    everyone = as_mask(numbers)
    for path in sorted((system / "node").glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        mask = as_mask(_list(path / "cpulist")) & everyone
        memory = _memory(path / "meminfo")
        if mask or memory:
            parts.append(Part("node", mask, {"os_index": int(path.name[4:]), "memory": memory}))
    covered = sum(part.processors for part in parts)
    if covered != everyone:  # no NUMA in this kernel, or nodes of which the container shows a part
        memory = 0 if parts else _memory(root / "proc/meminfo")
        free = next(
            n for n in range(len(parts) + 1) if n not in [part.attributes["os_index"] for part in parts]
        )
        parts.append(Part("node", everyone & ~covered, {"os_index": free, "memory": memory}))
    seen: set[tuple[object, ...]] = set()

    def add(kind: str, text: str, **attributes: Any) -> None:
        mask = as_mask(_numbers(text)) & everyone
        key = (kind, mask, *attributes.values())
        if mask and key not in seen:
            seen.add(key)
            parts.append(Part(kind, mask, attributes))

    for kind, files in (
        ("package", ("package_cpus_list", "core_siblings_list")),
        ("core", ("core_cpus_list", "thread_siblings_list")),
    ):
        for n in numbers:
            told = system / f"cpu/cpu{n}/topology"
            add(kind, next(filter(None, (_text(told / file) for file in files)), ""))
    for n in numbers:
        for cache in sorted((system / f"cpu/cpu{n}/cache").glob("index[0-9]*")):
            level, type = _text(cache / "level"), _CACHE_TYPES.get(_text(cache / "type"))
            if level.isdigit() and type:
                size = re.match(r"(\d+)K", _text(cache / "size"))
                line = _text(cache / "coherency_line_size")
                add(
                    "cache",
                    _text(cache / "shared_cpu_list"),
                    level=int(level),
                    size=int(size[1]) << 10 if size else 0,
                    type=type,
                    line=int(line) if line.isdigit() else 0,
                )
    return parts


def _nested(parts: Iterable[Part]) -> list[Part]:
    """The parts that fit those before them: virtual machines tell of packages that cross nodes, and worse."""
    kept: list[Part] = []
    for part in parts:
        mine = part.processors
        if all(
            not (common := mine & other.processors)
            or (common in (mine, other.processors) and (part.kind != other.kind or part.kind == "cache"))
            for other in kept
        ):
            kept.append(part)
    return kept


def _devices(topology: Topology, root: Path, nodes: dict[int, str]) -> None:
    for folder, type in (("block", "disk"), ("class/net", "nic")):
        for path in sorted((root / "sys" / folder).glob("*/device")):
            # A disk's own entry has no node: the controller above it has.
            told = (_text(up / "numa_node") for up in (path.resolve(), *path.resolve().parents))
            node = next(filter(None, told), "-1")
            inside = nodes.get(int(node), MACHINE) if node.isdigit() else MACHINE
            topology.add_device(inside, name=path.parent.name, type=type)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # containers hide parts of /sys, and some files cannot be read at all
        return ""


def _numbers(text: str) -> list[int]:
    try:
        return parse_list(text)
    except ValueError:
        return []


def _list(path: Path) -> list[int]:
    return _numbers(_text(path))


def _memory(path: Path) -> int:
    found = re.search(r"MemTotal:\s*(\d+) kB", _text(path))
    return int(found[1]) << 10 if found else 0


def _clock(path: Path) -> int | None:
    kilohertz = next(
        filter(None, (_text(path / file) for file in ("base_frequency", "cpuinfo_max_freq"))), ""
    )
    return int(kilohertz) // 1000 or None if kilohertz.isdigit() else None

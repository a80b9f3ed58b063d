"""Reader and writer of what firmware tells of nodes: the ACPI tables SRAT, which processor and memory is in
which node, and SLIT, how far the nodes are from each other.

A file holds the tables one after the other, as `cat SRAT SLIT > machine.acpi` leaves them; other tables are
passed over. Firmware calls a node a *proximity domain*. It tells nothing of cores, caches, links and devices,
so each processor here is a core of its own, and latencies are in proportion to the distances. Memory that may
be added while the machine runs is not there yet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from ntlab.topology.model import Topology
from ntlab.topology.tables import LOCAL_DISTANCE, Tables, TopologyError

HEADER = struct.Struct("<4sIBB6s8sI4sI")
"""Signature, length, revision, checksum, OEM, OEM's table, its revision, creator, its revision."""
LENGTHS = {0: 16, 1: 40, 2: 24}
"""Of the entries of an SRAT that are read: processor by APIC ID, memory, processor by x2APIC ID."""
ENTRIES = 48
"""Where they begin."""
ENABLED, HOT_PLUGGABLE = 1, 2
MAX_DOMAINS = 64
"""What Windows has room for."""
UNREACHABLE = 255


def read(path: Path) -> Topology:
    """The machine that a file of ACPI tables describes. Raises TopologyError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TopologyError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    return parse(data, path.stem, str(path))


def parse(data: bytes, name: str, where: str) -> Topology:
    """The machine that these tables describe; `where` is what errors name. Raises TopologyError."""
    tables: dict[bytes, bytes] = {}
    for at, table in _tables(data, where):
        signature = table[:4]
        if signature in tables:
            raise TopologyError(f"there is a second {signature.decode()}", where=f"{where}, byte {at}")
        tables[signature] = table
    if b"SRAT" not in tables:
        raise TopologyError("there is no SRAT", where=where, expected="ACPI tables, one after the other")
    srat = _Srat(tables[b"SRAT"], f"{where}, SRAT")
    domains = sorted({*srat.processors.values(), *srat.memory})
    if len(domains) > MAX_DOMAINS:
        raise TopologyError(
            f"there are {len(domains)} proximity domains", where=where, expected=f"at most {MAX_DOMAINS}"
        )
    topology = Topology(name, f"ACPI tables by {srat.oem}" if srat.oem else "ACPI tables", where=where)
    if b"SLIT" in tables:
        rows = _distances(tables[b"SLIT"], f"{where}, SLIT")
        for domain in sorted({*range(len(rows))} ^ srat.domains):
            what = "is not in the SLIT" if domain in srat.domains else "has neither processors nor memory"
            raise TopologyError(f"proximity domain {domain} {what}", where=where)
        topology.distances = [[rows[n][m] for m in domains] for n in domains]
    for domain in domains:
        node = topology.add_node(memory=srat.memory.get(domain, 0), os_index=domain)
        for identity in sorted(i for i, home in srat.processors.items() if home == domain):
            topology.add_processor(topology.add_core(node), os_index=identity)
    return topology


def _tables(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """The tables in a file, and the byte at which each begins; their lengths and checksums are right."""
    at = 0
    while at < len(data):
        here = f"{where}, byte {at}"
        if len(data) - at < HEADER.size:
            raise TopologyError(f"a table's header is cut off after {len(data) - at} bytes", where=here)
        signature, length = HEADER.unpack_from(data, at)[:2]
        if not signature.isalnum() or not signature.isascii():
            raise TopologyError(f"the signature {signature!r}", where=here, expected="that of an ACPI table")
        if not HEADER.size <= length <= len(data) - at:
            raise TopologyError(
                f"the {signature.decode()} has {length} bytes", where=here,
                expected=f"{HEADER.size} to {len(data) - at}",
            )  # fmt: skip
        table = data[at : at + length]
        total = sum(table) % 256
        if total:
            raise TopologyError(
                f"the checksum of the {signature.decode()} is wrong: its bytes add up to {total}", where=here,
                expected="0, modulo 256",
            )  # fmt: skip
        yield at, table
        at += length


class _Srat:
    """An SRAT's content: the domain of each processor by its (x2)APIC ID, and bytes of memory by domain.

    `domains` has those too whose processors or memory may come later.
    """

    def __init__(self, table: bytes, where: str) -> None:
        revision = table[8]
        self.oem = "".join(filter(str.isprintable, table[10:16].decode("ascii", "ignore"))).strip()
        self.processors: dict[int, int] = {}
        self.memory: dict[int, int] = {}
        self.domains: set[int] = set()
        ranges: list[tuple[int, int]] = []
        at = ENTRIES
        while at < len(table):
            here = f"{where}, byte {at}"
            if len(table) - at < 2 or not 2 <= table[at + 1] <= len(table) - at:
                length = table[at + 1] if len(table) - at >= 2 else 0
                raise TopologyError(
                    f"an entry of {length} bytes", where=here, expected=f"2 to {len(table) - at}"
                )
            kind, length = table[at], table[at + 1]
            if length != LENGTHS.get(kind, length):
                raise TopologyError(
                    f"an entry of type {kind} has {length} bytes", where=here, expected=str(LENGTHS[kind])
                )
            entry = table[at : at + length]
            if kind == 1:
                domain, start, size, flags = struct.unpack_from("<I2xQQ4xI", entry, 2)
                if revision < 2:
                    domain &= 0xFF
                self.domains.add(domain)
                if flags & ENABLED and size:
                    ranges.append((start, start + size))
                    if not flags & HOT_PLUGGABLE:
                        self.memory[domain] = self.memory.get(domain, 0) + size
            elif kind in (0, 2):
                if kind == 0:
                    identity, (flags,) = entry[3], struct.unpack_from("<I", entry, 4)
                    high = entry[9:12] if revision >= 2 else b""
                    domain = int.from_bytes(entry[2:3] + high, "little")
                else:
                    domain, identity, flags = struct.unpack_from("<III", entry, 4)
                self.domains.add(domain)
                if flags & ENABLED:
                    if identity in self.processors:
                        raise TopologyError(
                            f"the processor with APIC ID {identity} is there twice", where=here
                        )
                    self.processors[identity] = domain
            at += length
        ranges.sort()
        for (_, stop), (start, _) in pairwise(ranges):
            if start < stop:
                raise TopologyError(f"ranges of memory overlap at {start:#x}", where=where)


def _distances(table: bytes, where: str) -> list[list[int]]:
    """A SLIT's distances, [from][to]."""
    count = int.from_bytes(table[36:44], "little")
    if len(table) < 44 or count * count > len(table) - 44:
        raise TopologyError(
            f"{count} domains do not fit into {max(0, len(table) - 44)} bytes", where=where,
            expected="a byte for each pair",
        )  # fmt: skip
    rows = [list(table[44 + n * count : 44 + (n + 1) * count]) for n in range(count)]
    for n, row in enumerate(rows):
        for m, distance in enumerate(row):
            if distance != LOCAL_DISTANCE if n == m else distance < LOCAL_DISTANCE:
                raise TopologyError(
                    f"the distance {distance} from domain {n} to {m}", where=where,
                    expected="10" if n == m else "10 or more",
                )  # fmt: skip
            if distance == UNREACHABLE:
                raise TopologyError(f"domain {m} cannot be reached from {n}", where=where)
    return rows


def write(tables: Tables) -> bytes:
    """The SRAT and SLIT of a machine. Its nodes are the proximity domains, its processors' numbers of the
    operating system their APIC IDs, and memory lies node after node. Distances that the description does not
    have are the latencies in proportion, ten for local."""
    if tables.nodes > MAX_DOMAINS:
        raise TopologyError(f"{tables.nodes} nodes", where=tables.name, expected=f"at most {MAX_DOMAINS}")
    entries = b""
    for i, node in enumerate(tables.node_of):
        identity = tables.os_index[i]
        if identity < UNREACHABLE:
            entries += struct.pack("<BBBBIB3sI", 0, 16, node, identity, ENABLED, 0, bytes(3), 0)
        else:
            entries += struct.pack("<BBHIIIII", 2, 24, 0, node, identity, ENABLED, 0, 0)
    start = 0
    for node, size in enumerate(tables.node_memory):
        if size:
            entries += struct.pack("<BBI2xQQ4xI8x", 1, 40, node, start, size, ENABLED)
            start += size
    rows = tables.distances or [
        [min(max(LOCAL_DISTANCE, (10 * ns * 2 + row[n]) // (2 * row[n])), UNREACHABLE - 1) for ns in row]
        for n, row in enumerate(tables.latency)
    ]
    slit = struct.pack("<Q", tables.nodes) + b"".join(bytes(row) for row in rows)
    return _table(b"SRAT", 3, struct.pack("<I8x", 1) + entries) + _table(b"SLIT", 1, slit)


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    length = HEADER.size + len(body)
    header = HEADER.pack(signature, length, revision, 0, b"NTLAB ", b"NTLAB   ", 1, b"NTLB", 1)
    checksum = -sum(header + body) % 256
    return header[:9] + bytes([checksum]) + header[10:] + body

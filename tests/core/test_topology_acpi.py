"""ACPI tables: round trips, those of ACPI's own compiler, entries of each kind, and bytes that are wrong."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.topology import Tables, Topology, TopologyError, load, to_acpi
from ntlab.topology.acpi import parse

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
IASL = shutil.which("iasl")


def table(signature: bytes, body: bytes, revision: int = 3, length: int | None = None) -> bytes:
    length = 36 + len(body) if length is None else length
    header = struct.pack("<4sIBB6s8sI4sI", signature, length, revision, 0, b"ACME", b"BOARD", 1, b"ACME", 1)
    return header[:9] + bytes([-sum(header + body) % 256]) + header[10:] + body


def srat(*entries: bytes, revision: int = 3) -> bytes:
    return table(b"SRAT", struct.pack("<I8x", 1) + b"".join(entries), revision)


def slit(*rows: list[int]) -> bytes:
    return table(b"SLIT", struct.pack("<Q", len(rows)) + b"".join(map(bytes, rows)), 1)


def cpu(domain: int, apic: int, flags: int = 1) -> bytes:
    low, high = domain & 0xFF, (domain >> 8).to_bytes(3, "little")
    return struct.pack("<BBBBIB3sI", 0, 16, low, apic, flags, 0, high, 0)


def x2(domain: int, apic: int, flags: int = 1) -> bytes:
    return struct.pack("<BBHIIIII", 2, 24, 0, domain, apic, flags, 0, 0)


def memory(domain: int, start: int, size: int, flags: int = 1) -> bytes:
    return struct.pack("<BBI2xQQ4xI8x", 1, 40, domain, start, size, flags)


def read(data: bytes) -> Tables:
    return parse(data, "machine", "machine.acpi").freeze()


def told(tables: Tables) -> tuple[object, ...]:
    """What ACPI tables can tell of a machine; processors by their number, as nodes may be listed anyhow."""
    homes = dict(zip(tables.os_index, tables.node_of, strict=True))
    return sorted(homes.items()), tables.node_memory, tables.distances


PROFILES = ["uni", "opteron-4s", "superdome", "nehalem-ex-8s", "demo-256"]
FILES = sorted(map(str, HWLOC.glob("*.xml")))


@pytest.mark.parametrize("name", [*PROFILES, *FILES], ids=lambda name: Path(name).stem)
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    topology = load(name)
    before = topology.freeze()
    file = tmp_path / "machine.acpi"
    file.write_bytes(to_acpi(topology))
    after = load(file).freeze()
    homes, sizes, distances = told(before)
    if distances is None:  # then what is written is the latencies in proportion
        distances = after.distances
        for n, row in enumerate(before.latency):
            expected = [min(254, int(10 * ns / row[n] + 0.5)) for ns in row]
            assert list(after.distances[n]) == expected  # type: ignore[index]
    assert told(after) == (homes, sizes, distances)
    assert after.source == "ACPI tables by NTLAB"


@pytest.mark.skipif(IASL is None, reason="ACPI's compiler is not here")
@pytest.mark.parametrize("name", ["opteron-4s", "demo-256"])
def test_the_compiler_of_acpi_reads_and_writes_the_same(name: str, tmp_path: Path) -> None:
    """Disassembled and compiled again by `iasl`, which others wrote, the tables say the same."""
    data = to_acpi(load(name))
    length = int.from_bytes(data[4:8], "little")
    for part, content in (("srat", data[:length]), ("slit", data[length:])):
        (tmp_path / f"{part}.dat").write_bytes(content)
        for command in (["-d", f"{part}.dat"], [f"{part}.dsl"]):
            subprocess.run([str(IASL), *command], cwd=tmp_path, check=True, capture_output=True)
        source = (tmp_path / f"{part}.dsl").read_text()
        assert "Invalid" not in source
        assert "Incorrect checksum" not in source
    compiled = (tmp_path / "srat.aml").read_bytes() + (tmp_path / "slit.aml").read_bytes()
    assert told(read(compiled)) == told(read(data))


@pytest.mark.skipif(IASL is None, reason="ACPI's compiler is not here")
def test_the_templates_of_acpis_compiler_are_read(tmp_path: Path) -> None:
    """Its example of an SRAT has an entry of each kind; both processors have one number, which is mended."""
    subprocess.run([str(IASL), "-T", "SRAT"], cwd=tmp_path, check=True, capture_output=True)
    file = tmp_path / "srat.asl"
    source = file.read_text()
    assert "Apic ID : 00000000\n" in source
    file.write_text(source.replace("Apic ID : 00000000\n", "Apic ID : 00000007\n"))
    subprocess.run([str(IASL), "srat.asl"], cwd=tmp_path, check=True, capture_output=True)
    tables = read((tmp_path / "srat.aml").read_bytes())
    assert (tables.os_index, tables.node_memory, tables.source) == (
        (0, 7),
        (0x9FC00,),
        "ACPI tables by INTEL",
    )


def test_each_kind_of_entry() -> None:
    tables = read(
        srat(
            memory(0, 0, 0xA0000),
            memory(0, 1 << 20, 1 << 30),
            memory(3, 1 << 33, 1 << 30),
            memory(3, 1 << 40, 1 << 30, flags=3),  # may be added later
            memory(3, 1 << 50, 1 << 30, flags=0),  # is not there at all
            cpu(0, 2),
            cpu(0, 0),
            cpu(0, 9, flags=0),
            x2(300, 700),
            bytes([5, 8]) + bytes(6),  # of a kind that is not read
        )
    )
    assert tables.node_os_index == (0, 3, 300)
    assert tables.node_memory == (0xA0000 + (1 << 30), 1 << 30, 0)
    assert tables.node_processors == ((0, 1), (), (2,))
    assert tables.os_index == (0, 2, 700)
    assert tables.distances is None
    assert tables.source == "ACPI tables by ACME"


def test_an_old_srat_has_domains_of_eight_bits() -> None:
    entry = bytearray(cpu(1, 0))
    entry[9:12] = b"\xff\xff\xff"  # reserved then
    assert read(srat(bytes(entry), memory(0xFF01, 0, 1 << 30), revision=1)).node_os_index == (1,)


def test_distances_are_those_of_the_domains_that_there_are() -> None:
    """Domain 1 has a place for memory, and nothing yet."""
    both = srat(cpu(0, 0), memory(0, 0, 1 << 30), cpu(2, 1), memory(1, 1 << 40, 1 << 30, flags=3))
    tables = read(table(b"FACP", b"something else") + slit([10, 20, 24], [20, 10, 20], [30, 20, 10]) + both)
    assert tables.distances == ((10, 24), (30, 10))
    assert tables.latency == ((100, 240), (300, 100))


GOOD = srat(cpu(0, 0), cpu(1, 1), memory(0, 0, 1 << 30), memory(1, 1 << 30, 1 << 30))
WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "there is no SRAT"),
    "text": (lambda: b"x" * 40, r"has 2021161080 bytes; expected 36 to 40"),
    "no table": (lambda: b"\0" * 40, "signature.*expected that of an ACPI table"),
    "cut header": (lambda: GOOD + b"SLIT", "header is cut off after 4 bytes"),
    "cut table": (lambda: GOOD[:-1], r"the SRAT has \d+ bytes; expected 36 to"),
    "checksum": (lambda: GOOD[:9] + bytes([GOOD[9] ^ 1]) + GOOD[10:], "checksum of the SRAT"),
    "twice": (lambda: GOOD + GOOD, "a second SRAT"),
    "endless": (lambda: srat(bytes([7, 0])), "an entry of 0 bytes; expected 2 to 2"),
    "cut entry": (lambda: srat(bytes([0, 16, 0])), "an entry of 16 bytes; expected 2 to 3"),
    "odd byte": (lambda: srat(bytes([0])), "an entry of 0 bytes; expected 2 to 1"),
    "entry length": (lambda: srat(bytes([1, 16]) + bytes(14)), "type 1 has 16 bytes; expected 40"),
    "apic twice": (lambda: srat(cpu(0, 5), x2(0, 5)), "APIC ID 5 is there twice"),
    "overlap": (
        lambda: srat(cpu(0, 0), memory(0, 0, 8192), memory(1, 4096, 4096)),
        "ranges of memory overlap at 0x1000",
    ),
    "too many": (lambda: srat(*(x2(n, n) for n in range(65))), "65 proximity domains; expected at most 64"),
    "slit too short": (
        lambda: GOOD + table(b"SLIT", struct.pack("<Q", 2) + bytes(3)),
        "2 domains do not fit",
    ),
    "slit of nothing": (lambda: GOOD + table(b"SLIT", b""), "0 domains do not fit into 0 bytes"),
    "slit overflow": (lambda: GOOD + table(b"SLIT", bytes([255] * 8)), "do not fit into 0 bytes"),
    "diagonal": (lambda: GOOD + slit([11, 20], [20, 10]), "distance 11 from domain 0 to 0; expected 10"),
    "too near": (
        lambda: GOOD + slit([10, 9], [20, 10]),
        "distance 9 from domain 0 to 1; expected 10 or more",
    ),
    "unreachable": (lambda: GOOD + slit([10, 20], [255, 10]), "domain 0 cannot be reached from 1"),
    "unknown domain": (lambda: GOOD + slit([10]), "domain 1 is not in the SLIT"),
    "empty domain": (
        lambda: GOOD + slit([10, 20, 20], [20, 10, 20], [20, 20, 10]),
        "domain 2 has neither processors nor memory",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_named(case: str) -> None:
    data, message = WRONG[case]
    with pytest.raises(TopologyError, match=rf"machine\.acpi.*{message}"):
        read(data())


def test_files_and_machines_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"cannot be read: No such file"):
        load(tmp_path / "none.acpi")
    many = Topology("many")
    for _ in range(65):
        many.add_processor(many.add_core(many.add_node(memory=4096)))
    with pytest.raises(TopologyError, match="65 nodes; expected at most 64"):
        to_acpi(many)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 10_000),
    mend=st.booleans(),
)
def test_any_bytes_are_a_machine_or_a_mistake(changes: list[tuple[int, int]], cut: int, mend: bool) -> None:
    data = bytearray(GOOD + slit([10, 20], [20, 10]))
    for at, value in changes:
        data[at % len(data)] = value
    if mend:
        data[9] = (data[9] - sum(data[: len(GOOD)])) % 256
        data[len(GOOD) + 9] = (data[len(GOOD) + 9] - sum(data[len(GOOD) :])) % 256
    else:
        del data[cut % (3 * len(data)) :]
    try:
        tables = read(bytes(data))
    except TopologyError as error:
        lines = str(error).splitlines()
    else:
        lines = tables.source.splitlines()
    assert len(lines) == 1

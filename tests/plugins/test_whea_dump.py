"""Crash dumps: exact inverses, strict reading, and a reader that others wrote (PyPI `minidump`)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.errors import UnknownNameError, UserError
from ntlab.formats import wire
from ntlab.formats.minidump import (
    BugCheck,
    CrashDump,
    DumpError,
    Memory,
    SystemInfo,
    decode,
    encode,
    system_info,
)
from ntlab_whea import cper
from ntlab_whea.cper import CperError, Record, Section, Severity
from ntlab_whea.dump import WHEA_UNCORRECTABLE_ERROR, fatal_record

RECORD = Record(
    severity=Severity.FATAL,
    notify=cper.Notify.MCE,
    sections=(Section(body=cper.Memory.of(node=1, card=2, module=3), severity=Severity.FATAL),),
)
POOL = 0xFFFF_FA80_0123_4000
ADDRESS = POOL + 0x28
"""Of the record: like a real one inside a page of non-paged pool."""
STATUS = 0xB200_0000_1040_100F


def crash(**changes: Any) -> CrashDump:
    dump = CrashDump(
        system=system_info("ws2008r2", "x64", 16),
        bug_check=BugCheck(WHEA_UNCORRECTABLE_ERROR, 0, ADDRESS, STATUS >> 32, STATUS & 0xFFFF_FFFF),
        time=1_256_212_747,
        comment="simulated crash, seed 7",
        memory=(Memory(0x1000, b"other"), Memory(POOL, bytes(0x28) + cper.encode(RECORD) + bytes(99))),
    )
    return attrs.evolve(dump, **changes)


words = st.integers(0, (1 << 64) - 1)


@st.composite
def memories(draw: st.DrawFn) -> tuple[Memory, ...]:
    found, address = [], 0
    for gap, data in draw(st.lists(st.tuples(st.integers(0, 1 << 40), st.binary(max_size=40)), max_size=5)):
        found.append(Memory(address + gap, data))
        address += gap + len(data)
    return tuple(found)


dumps = st.builds(
    CrashDump,
    system=st.builds(
        SystemInfo,
        **{
            field.name: st.integers(0, (1 << 8 * field.size) - 1)
            for field in wire.layout(SystemInfo)
            if field.is_data
        },
    ),
    bug_check=st.builds(BugCheck, st.integers(0, (1 << 32) - 1), words, words, words, words),
    time=st.integers(0, (1 << 32) - 1),
    comment=st.text(),
    memory=memories(),
)


@given(dumps)
def test_decode_gives_back_what_was_encoded(dump: CrashDump) -> None:
    assert decode(encode(dump)) == dump


def test_streams_have_the_sizes_of_the_format() -> None:
    assert wire.size(SystemInfo) == 56
    assert wire.size(BugCheck) == 168


def test_every_truncation_is_refused() -> None:
    data = encode(crash())
    for length in range(len(data)):
        with pytest.raises(DumpError):
            decode(data[:length])


@given(st.data())
def test_a_damaged_dump_is_refused_or_read(data: st.DataObject) -> None:
    whole = bytearray(encode(crash()))
    whole[data.draw(st.integers(0, 600))] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(whole))
    except UserError as error:
        refusal = str(error)
    else:
        refusal = "crash dump"
    assert refusal.startswith("crash dump")


@pytest.mark.parametrize(
    ("at", "patch", "message"),
    [
        (0, b"X", "byte 0: _Header.signature is b'XDMP'"),
        (4, b"\0", "byte 4: _Header.version"),
        (8, b"\0", "there is no stream 7"),
        (32 + 12, b"\7", "byte 44: there is a second stream 7"),
        (32 + 8, b"\xff\xff", "byte 32: stream 7 ends at byte"),
    ],
)
def test_malformed_dumps_are_refused_with_the_byte(at: int, patch: bytes, message: str) -> None:
    good = encode(crash())
    with pytest.raises(DumpError) as caught:
        decode(good[:at] + patch + good[at + len(patch) :])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": (Memory(8, b"12345678"), Memory(15, b"x"))},
        {"memory": (Memory(8, b"x"), Memory(0, b"x"))},
        {"time": -1},
        {"bug_check": BugCheck(1 << 32)},
    ],
)
def test_dumps_that_cannot_be_encoded_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DumpError):
        encode(crash(**changes))


def test_more_processors_than_the_format_can_say_are_clamped() -> None:
    assert system_info("ws2008r2", "x64", 256).processors == 255
    with pytest.raises(UnknownNameError, match="ws2008r2"):
        system_info("ws2008r3", "x64", 1)
    with pytest.raises(UnknownNameError, match="architecture 'x63'"):
        system_info("ws2008", "x63", 1)


def test_the_fatal_record_is_found_through_the_second_parameter() -> None:
    assert fatal_record(decode(encode(crash()))) == RECORD


def test_there_is_no_record_where_the_crash_left_none() -> None:
    assert fatal_record(crash(bug_check=BugCheck(0x9C, 0, ADDRESS))) is None
    assert fatal_record(crash(memory=())) is None
    assert fatal_record(crash(memory=(Memory(ADDRESS + 1, b"x"),))) is None


def test_a_damaged_record_is_told_from_none() -> None:
    record = cper.encode(RECORD)
    with pytest.raises(CperError, match="byte 20"):
        fatal_record(crash(memory=(Memory(ADDRESS, record[:-1]),)))
    with pytest.raises(CperError, match="byte 0"):
        fatal_record(crash(memory=(Memory(ADDRESS, b"XPER" + record[4:]),)))


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("ws2003", "Windows XP x64 / Server 2003 / Server 2003 R2"),
        ("ws2008", "Windows Server 2008"),
        ("ws2008r2", "Windows Server 2008 R2"),
    ],
)
def test_the_independent_reader_finds_the_crash_and_the_record(release: str, name: str) -> None:
    minidump = pytest.importorskip("minidump.minidumpfile")
    dump = crash(system=system_info(release, "x64", 16))
    theirs = minidump.MinidumpFile.parse_bytes(encode(dump))
    (exception,) = (record.ExceptionRecord for record in theirs.exception.exception_records)
    assert exception.ExceptionCode_raw == WHEA_UNCORRECTABLE_ERROR
    assert exception.ExceptionInformation == [0, ADDRESS, STATUS >> 32, STATUS & 0xFFFF_FFFF]
    assert theirs.sysinfo.OperatingSystem.removeprefix("-guess- ") == name
    assert theirs.sysinfo.NumberOfProcessors == 16
    assert theirs.comment_w.data.rstrip("\0") == dump.comment
    address, length = exception.ExceptionInformation[1], len(cper.encode(RECORD))
    assert theirs.get_reader().read(address, length) == cper.encode(RECORD)


@given(memories())
def test_the_independent_reader_reads_every_range(memory: tuple[Memory, ...]) -> None:
    minidump = pytest.importorskip("minidump.minidumpfile")
    theirs = minidump.MinidumpFile.parse_bytes(encode(crash(memory=memory)))
    segments = theirs.memory_segments_64.memory_segments
    found = [
        (s.start_virtual_address, s.read(s.start_virtual_address, s.size, theirs.file_handle))
        for s in segments
    ]
    assert found == [(part.address, part.data) for part in memory]

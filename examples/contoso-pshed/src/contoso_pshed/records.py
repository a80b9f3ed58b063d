"""The sections that Contoso adds to error records, and what its service tool reads of the event log.

The tool knows of a record (UEFI 2.1, appendix N) only what it needs: a 128-byte header, then a descriptor of
72 bytes for each section.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from attrs import frozen

from ntlab.machine import LoggedEvent

CHASSIS: Final = UUID("6f9d1f3c-5a0e-4c52-9b6b-0c4a7f5e8d21")
"""Section of a part of the chassis: its device number and the type of its sensor, 2 bytes each."""
WARNING: Final = UUID("b2c51c0e-3f0d-4d0a-8a53-91f2d7c0a6e4")
"""Section that asks for a part to be replaced before it fails: errors counted, and in which time (ns)."""

_SEVERITIES: Final = ("recoverable", "fatal", "corrected", "informational")


def chassis_section(device: int, sensor: int) -> tuple[UUID, bytes]:
    return CHASSIS, struct.pack("<HH", device, sensor)


def warning_section(errors: int, window: int) -> tuple[UUID, bytes]:
    return WARNING, struct.pack("<QQ", errors, window)


@frozen
class Entry:
    """A record of the log: when it was logged (ns), which part it names ("" for none), how grave it is, and
    whether it asks for the part to be replaced."""

    time: int
    part: str
    severity: str
    warns: bool


def read_log(log: Sequence[LoggedEvent]) -> Iterator[Entry]:
    """The error records in an event log, oldest first. What is no record is passed over."""
    for event in log:
        data = event.data
        if data[:4] != b"CPER":
            continue
        count, severity = struct.unpack_from("<HI", data, 10)
        descriptors = [data[128 + 72 * i :][:72] for i in range(count)]
        types = [UUID(bytes_le=descriptor[16:32]) for descriptor in descriptors]
        part = descriptors[0][52:72].rstrip(b"\0").decode("latin-1")
        yield Entry(event.time, part, _SEVERITIES[severity], WARNING in types)

"""The error record in the crash dump of a hardware error."""

from __future__ import annotations

from typing import Final

from ntlab.formats.minidump import CrashDump
from ntlab_whea import cper

WHEA_UNCORRECTABLE_ERROR: Final = 0x124
"""Parameters: the error source's type, the record's address, the high and the low half of MCi_STATUS."""


def fatal_record(dump: CrashDump) -> cper.Record | None:
    """The error record of a crash by a hardware error; None for other crashes, or where it was not dumped.

    As on a real system, the second parameter is the address of the record, and the record's bytes lie at that
    address in the dumped memory. Raises CperError for a record that is damaged.
    """
    if dump.bug_check.code != WHEA_UNCORRECTABLE_ERROR:
        return None
    address = dump.bug_check.p2
    for memory in dump.memory:
        if memory.address <= address < memory.address + len(memory.data):
            return cper.decode_first(memory.data[address - memory.address :])
    return None

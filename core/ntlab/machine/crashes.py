"""Bug checks, and what survives them: a crashed machine stands still, and its next boot finds what is kept.

`Machine.bug_check` ends a machine for good. `Machine.restart` gives the next machine on the same hardware,
which has nothing of the first but its `NonVolatile` memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from ntlab.formats import minidump
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

BUG_CHECK = event_type("Microsoft-Windows-Kernel-General", "BugCheck", "code p1 p2 p3 p4 dump_bytes")
RESTART = event_type("Microsoft-Windows-Kernel-General", "Restart", "crashed_at")

EPOCH = datetime(2008, 2, 27, tzinfo=UTC)
"""The date at time 0: the day on which Server 2008 was launched."""


def date_at(time: int) -> datetime:
    """The date at a simulated time in ns."""
    return EPOCH + timedelta(microseconds=time // 1000)


def signed(word: int) -> int:
    """A 64-bit word as records hold it: their fields are signed."""
    return word - (1 << 64) if word >> 63 else word


class MachineStopped(BaseException):
    """How a bug check leaves the code that made it. Not an Exception, so that nothing on its way keeps it."""


@attrs.frozen
class Crash:
    """A bug check: its code, its four parameters (64 bits each) and when it was, ns."""

    code: int
    parameters: tuple[int, int, int, int]
    time: int


@attrs.frozen
class LoggedEvent:
    """An entry of the event log on the disk. `time` in ns; `level` 2 error, 3 warning, 4 information."""

    time: int
    provider: str
    event_id: int
    level: int
    data: bytes


class NonVolatile:
    """What a machine's next boot finds: crash dumps and the event log on its disk, and the platform's memory.

    That memory (flash, a service processor) holds named stores of numbered entries. `capacity` is what fits
    into all of them together, in bytes; `keeps_dumps` is whether the disk takes crash dumps.
    """

    def __init__(self, *, capacity: int = 64 * 1024, keeps_dumps: bool = True) -> None:
        self.capacity = capacity
        self.keeps_dumps = keeps_dumps
        self.dumps: list[bytes] = []  # oldest first
        self.log: list[LoggedEvent] = []
        self._stores: dict[str, dict[int, bytes]] = {}

    @property
    def used(self) -> int:
        """Bytes in all stores."""
        return sum(len(data) for store in self._stores.values() for data in store.values())

    def write(self, store: str, identity: int, data: bytes) -> bool:
        """Write an entry, or replace it. False where there is no room: then nothing has changed."""
        entries = self._stores.setdefault(store, {})
        if self.used - len(entries.get(identity, b"")) + len(data) > self.capacity:
            return False
        entries[identity] = data
        return True

    def entries(self, store: str) -> list[tuple[int, bytes]]:
        """The entries of a store, oldest first."""
        return list(self._stores.get(store, {}).items())

    def clear(self, store: str, identity: int) -> bool:
        """Remove an entry. False where there is none."""
        return self._stores.get(store, {}).pop(identity, None) is not None


def dump_of(machine: Machine, crash: Crash, memory: Sequence[tuple[int, bytes]]) -> bytes:
    """The crash dump: a minidump."""
    return minidump.encode(
        minidump.CrashDump(
            system=minidump.system_info(machine.release, machine.architecture, machine.tables.processors),
            bug_check=minidump.BugCheck(crash.code, *crash.parameters),
            time=int(date_at(crash.time).timestamp()),
            comment=machine.name,
            memory=tuple(minidump.Memory(address, data) for address, data in sorted(memory)),
        )
    )

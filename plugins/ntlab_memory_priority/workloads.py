"""A program that is left alone for a while, and one that reads a large file meanwhile."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal

import attrs

from ntlab.errors import UserError
from ntlab.machine import (
    Allocate,
    CopyRead,
    FlushModifiedList,
    Machine,
    MapFile,
    Region,
    Request,
    Thread,
    Touch,
)
from ntlab.machine.extents import NORMAL_PRIORITY
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import KIB, MIB, Duration, Size

OWNER = "memory_priority.after_lunch"


class EmptyWorkingSet(Request):
    """All pages of the thread's process leave its working set, as those of a program that is minimised do."""

    __slots__ = ()

    def perform(self, thread: Thread) -> int | None:
        memory = thread.machine.memory
        working_set = memory.space(thread.process).working_set
        memory.trim(working_set, list(working_set))
        return 0


class _ForScanner(Request):
    """Wait until the scanner is done."""

    __slots__ = ("workload",)

    def __init__(self, workload: AfterLunch) -> None:
        self.workload = workload

    def perform(self, thread: Thread) -> int | None:
        self.workload.waiting = thread
        return None


@attrs.define
class _Phase:
    """What had been counted when the scanner began, or when it ended."""

    time: int
    repurposed: list[int]
    pages_read: int


@workload(
    name="after_lunch",
    summary="A program is minimised while another reads a large file; then its user comes back.",
)
class AfterLunch:
    """The user's program has changed memory of its own. It is minimised, so its pages leave the working set
    and are written. So do those of a scanner, which shows nothing. It reads a file from the beginning to the
    end, so often, and then goes through its own memory. Then the user comes back, and the program goes
    through its memory page by page.
    """

    memory: Size = option(
        default=Size(0),
        help="What there is at the beginning, while the non-paged pool has the rest; 0: all that there is.",
        minimum=0,
    )
    program: Size = option(default=Size(4 * MIB), help="Memory of the user's program.", minimum=4 * KIB)
    program_priority: int = option(default=NORMAL_PRIORITY, help="Its memory priority.", minimum=0, maximum=7)
    file: Size = option(default=Size(16 * MIB), help="What the scanner reads.", minimum=4 * KIB)
    scanner: Size = option(default=Size(64 * KIB), help="Memory of the scanner.", minimum=4 * KIB)
    passes: int = option(default=1, help="How often the scanner reads it.", minimum=1)
    scanner_priority: int = option(
        default=1, help="Memory priority of the scanner; 1 is very low.", minimum=0, maximum=7
    )
    reads: Literal["cached", "mapped"] = option(
        default="cached", help="How it reads: through the system cache, or in a file that it has mapped."
    )
    read: Size = option(default=Size(64 * KIB), help="How much it reads at a time.", minimum=4 * KIB)

    waiting: Thread | None = attrs.field(init=False, repr=False, eq=False, default=None)
    _phases: list[_Phase] = state(list)
    _lost: int = state(int)
    _back: Duration = attrs.field(init=False, repr=False, eq=False, default=Duration(-1))

    def start(self, machine: Machine) -> None:
        memory, size = machine.memory, machine.memory.policy.page_size
        if machine.paging is None:
            raise UserError("the machine has no paging file", where=OWNER)
        available = self.memory or memory.available * size
        if self.program + self.scanner > available:
            raise UserError(
                f"programs of {self.program + self.scanner} bytes",
                where=f"{OWNER}: program",
                expected=f"at most the {available} that are available",
            )
        ballast = memory.available - available // size
        if ballast < 0 or (ballast and machine.sections.nonpaged(ballast) is None):
            raise UserError(
                f"{self.memory} bytes available",
                where=f"{OWNER}: memory",
                expected=f"at most {memory.available * size}, and a commit limit above that",
            )
        process = machine.create_process("word.exe", page_priority=self.program_priority)
        machine.create_thread(process, self._program(machine))

    def _program(self, machine: Machine) -> Generator[Request, Any, None]:
        size = machine.memory.policy.page_size
        region: Region = yield Allocate(-(-self.program // size))
        yield Touch(region, write=True, accesses=0)
        yield EmptyWorkingSet()
        yield FlushModifiedList()
        scanner = machine.create_process("scan.exe", page_priority=self.scanner_priority)
        machine.create_thread(scanner, self._scanner(machine, region))
        yield _ForScanner(self)
        since = machine.engine.now
        for page in range(region.pages):
            yield Touch(region, page, 1, accesses=0)
        self._back = Duration(machine.engine.now - since)

    def _scanner(self, machine: Machine, program: Region) -> Generator[Request, Any, None]:
        cache, size = machine.file_cache, machine.memory.policy.page_size
        own: Region = yield Allocate(-(-self.scanner // size))
        yield Touch(own, write=True, accesses=0)
        yield EmptyWorkingSet()
        yield FlushModifiedList()
        self._phases.append(self._now(machine))
        file = cache.create("C:\\data.bin", self.file)
        if self.reads == "mapped":
            region: Region = yield MapFile(file)
            step = max(1, self.read // size)
            for _ in range(self.passes):
                for first in range(0, region.pages, step):
                    yield Touch(region, first, min(step, region.pages - first), accesses=0)
        else:
            opened = cache.open(file)
            for _ in range(self.passes):
                for offset in range(0, self.file, self.read):
                    yield CopyRead(opened, offset, min(self.read, self.file - offset), accesses=0)
        self._phases.append(self._now(machine))
        self._lost = program.pages - sum(extent.pages for extent in program.extents())
        yield Touch(own, accesses=0)
        assert self.waiting is not None
        machine.scheduler.wake(self.waiting)

    def _now(self, machine: Machine) -> _Phase:
        sizes = machine.file_cache.read_sizes
        read = sum(pages * count for pages, count in sizes.items())
        return _Phase(machine.engine.now, list(machine.memory.repurposed), read)

    def measure(self, machine: Machine) -> list[Metric]:
        if self._back < 0:
            raise UserError(
                "the run ended before the user was back", where="duration", expected="a longer one, or none"
            )
        size = machine.memory.policy.page_size
        began, ended = self._phases
        repurposed = [
            after - before for before, after in zip(began.repurposed, ended.repurposed, strict=True)
        ]
        return [
            Metric("lost", self._lost * size, "B"),
            Metric("return_time", self._back, "ns"),
            Metric("scanner_lost", (sum(repurposed) - self._lost) * size, "B"),
            Metric("repurposed_low", sum(repurposed[:NORMAL_PRIORITY]) * size, "B"),
            Metric("repurposed_normal", sum(repurposed[NORMAL_PRIORITY:]) * size, "B"),
            Metric("scanner_read", (ended.pages_read - began.pages_read) * size, "B"),
            Metric("scan_time", ended.time - began.time, "ns"),
        ]

"""Parts that fail, and what runs on them meanwhile."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from attrs import define

from ntlab.errors import UserError
from ntlab.machine import (
    Component,
    Compute,
    Disk,
    File,
    HardwareError,
    Machine,
    MemoryUnit,
    Read,
    Region,
    Request,
    Sleep,
    Thread,
    Touch,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import GIB, MIB, MILLISECOND, SECOND, Duration, Share, Size
from ntlab_hot_replace.orders import replace_first_unit

READ = 64 << 10


@workload(name="busy_bank", summary="A memory unit is replaced while programs write to it and read files.")
class BusyBank:
    """The first memory unit is full to `filled`: `unmovable` of that is non-paged, the rest is the data of
    `writers` threads, each of which writes to `burst` pages somewhere in it every `pause`. `readers` threads
    read a file meanwhile, 64 KiB at a time. At `at` the unit is to be replaced by a spare like it.
    """

    unit: Size = option(default=Size(64 * MIB), help="Bytes of a memory unit.", minimum=1 << 20)
    filled: Share = option(default=Share(0.9), help="The part of the unit that holds something.")
    unmovable: Share = option(default=Share(0.05), help="The part of that which may not move.")
    writers: int = option(default=4, help="Threads that write to the unit.", minimum=0)
    burst: int = option(default=8, help="Pages that each writes at a time.", minimum=1)
    pause: Duration = option(
        default=Duration(10 * MILLISECOND), help="How long it waits before it writes again.", minimum=1
    )
    readers: int = option(default=2, help="Threads that read a file.", minimum=0)
    disks: int = option(default=4, help="Disks of the machine, where it does not name as many.", minimum=1)
    at: Duration = option(
        default=Duration(100 * MILLISECOND), help="When the unit is to be replaced.", minimum=1
    )
    until: Duration = option(default=Duration(4 * SECOND), help="When the threads end.", minimum=1)

    _pages: int = state(int)
    """What the unit holds."""
    _reads: list[int] = state(list)
    """How long each took."""
    _failed: int = state(int)
    _writes: int = state(int)

    def start(self, machine: Machine) -> None:
        partitioning, memory = machine.partitioning, machine.memory
        partitioning.divide_memory(self.unit)
        partitioning.provide_memory(self.unit)
        unit = partitioning.memory_unit(0)
        if unit.pages * memory.policy.page_size < self.unit:
            raise UserError("no memory unit can be that large", where="hot_replace.busy_bank: unit")
        self._pages = int(unit.pages * self.filled)
        fixed = int(self._pages * self.unmovable)
        if fixed and machine.sections.nonpaged(fixed, unit.node) is None:
            raise UserError(
                "the non-paged pool cannot be that large", where="hot_replace.busy_bank: unmovable"
            )
        process = machine.create_process("writers")
        region = memory.space(process).allocate(max(1, self._pages - fixed))
        if region is None:
            raise UserError(
                "the data passes the commit limit", where="hot_replace.busy_bank: filled", expected="less"
            )
        memory.populate(region, unit.node, dirty=True)
        end = machine.engine.now + self.until
        for number in range(self.writers):
            machine.create_thread(process, self._write(machine, region, number, end))
        disks = [device for device in machine.io.devices if isinstance(device, Disk)]
        disks += [machine.io.create_disk(f"data{number}") for number in range(len(disks), self.disks)]
        file = File("data", disks[0], 0, GIB)
        readers = machine.create_process("readers")
        for number in range(self.readers):
            machine.create_thread(readers, self._read(machine, file, number, end))
        machine.engine.at(machine.engine.now + self.at, replace_first_unit, machine)

    def _write(
        self, machine: Machine, region: Region, number: int, end: int
    ) -> Generator[Request, Any, None]:
        stream = machine.streams.stream("hot_replace.busy_bank", f"writer {number}")
        burst = min(self.burst, region.pages)
        while machine.engine.now < end:
            yield Touch(region, stream.randrange(region.pages - burst + 1), burst, write=True)
            self._writes += burst
            yield Sleep(self.pause)

    def _read(self, machine: Machine, file: File, number: int, end: int) -> Generator[Request, Any, None]:
        stream = machine.streams.stream("hot_replace.busy_bank", f"reader {number}")
        while machine.engine.now < end:
            began = machine.engine.now
            request = yield Read(file, stream.randrange(file.size // READ) * READ, READ)
            self._reads.append(machine.engine.now - began)
            self._failed += request.status != 0

    def measure(self, machine: Machine) -> list[Metric]:
        replacement = machine.partitioning.replacement
        done = replacement is not None and replacement.outcome == "replaced"
        copied = in_window = rounds = pause = took = lost = 0
        if replacement is not None and done:
            copied, in_window = replacement.copied, replacement.copied_in_window
            rounds, pause, lost = replacement.rounds, replacement.pause, replacement.lost
            took = replacement.ended - replacement.began
        return [
            Metric("replaced", float(done)),
            Metric("pause", pause, "ns"),
            Metric("window_share", in_window / (self._pages or 1)),
            Metric("copied_share", (copied + in_window) / (self._pages or 1)),
            Metric("rounds", rounds),
            Metric("took", took, "ns"),
            Metric("lost", lost, "pages"),
            Metric("longest_read", max(self._reads, default=0), "ns"),
            Metric("failed_reads", self._failed),
            Metric("reads", len(self._reads)),
            Metric("writes", self._writes, "pages"),
        ]


# -- parts that fail -----------------------------------------------------------------------------------


@define(eq=False)
class _Unit:
    """A memory unit as its owner does not know it: when it corrects errors, and when one cannot be corrected
    (-1: never)."""

    unit: MemoryUnit
    warnings: list[int]
    fails: int
    failed: bool = False


@workload(name="ailing_memory", summary="Memory units of which some will fail, with more or fewer warnings.")
class AilingMemory:
    """`ailing` of the memory units (or all, where there are fewer) fail: each at a time of its own, after
    `fewest` to `most` corrected errors (each factor as likely) that come faster and faster. The others have 0
    to `background` corrected errors and never fail. There are `spares` units in store. What fails is data:
    the machine goes on.
    """

    unit: Size = option(default=Size(GIB), help="Bytes of a memory unit.", minimum=1 << 20)
    ailing: int = option(default=10, help="Units that will fail.", minimum=1)
    fewest: int = option(default=4, help="Fewest warnings of one that will fail.", minimum=1)
    most: int = option(default=256, help="Most warnings of one that will fail.", minimum=1)
    background: int = option(default=48, help="Most corrected errors of one that will not fail.", minimum=0)
    spares: int = option(default=32, help="Units in store.", minimum=0)
    span: Duration = option(
        default=Duration(30 * 24 * 3600 * SECOND), help="Within what time all that happens.", minimum=1
    )

    _units: list[_Unit] = state(list)

    def start(self, machine: Machine) -> None:
        partitioning = machine.partitioning
        partitioning.divide_memory(self.unit)
        pages = self.unit // machine.memory.policy.page_size
        units = [unit for unit in partitioning.memory_units() if unit.pages == pages]
        if self.fewest > self.most:
            raise UserError(
                f"{self.fewest} to {self.most} warnings",
                where="hot_replace.ailing_memory: fewest, most",
                expected="a range",
            )
        for _ in range(self.spares):
            partitioning.provide_memory(self.unit)
        stream = machine.streams.stream("hot_replace.ailing_memory", "errors")
        stream.shuffle(units)
        ailing = min(self.ailing, len(units))
        now = machine.engine.now
        for number, unit in enumerate(units):
            # Spread evenly over all chances, so that a few units show what many would.
            place, of = (number, ailing) if number < ailing else (number - ailing, len(units) - ailing)
            chance, when = (place + stream.random()) / of, stream.uniform(0.3, 1)
            if number < ailing:
                count = int(self.fewest * ((self.most + 1) / self.fewest) ** chance)
                fails = now + int(self.span * when)
                # The rate rises with the square of time.
                times = [
                    now + int((fails - now) * (each / (count + 1)) ** (1 / 3)) for each in range(1, count + 1)
                ]
            else:
                count, fails = int((self.background + 1) ** chance) - 1, -1
                times = sorted(now + stream.randrange(self.span) for _ in range(count))
            part = _Unit(unit, times, fails)
            self._units.append(part)
            for time in times:
                machine.engine.at(time, self._warn, (machine, part))
            if fails >= 0:
                machine.engine.at(fails, self._fail, (machine, part))

    def _error(self, machine: Machine, part: _Unit, severity: Any) -> None:
        """The unit has an error, unless it has been exchanged."""
        if machine.partitioning.exchanged(part.unit):
            return
        part.failed |= severity != "corrected"
        size = machine.memory.policy.page_size
        where = Component("memory", part.unit.node, (0, 0))
        address = part.unit.first * size
        machine.hardware_errors.occur(
            HardwareError(component=where, severity=severity, address=address, contained=True)
        )

    def _warn(self, what: tuple[Machine, _Unit]) -> None:
        self._error(*what, "corrected")

    def _fail(self, what: tuple[Machine, _Unit]) -> None:
        self._error(*what, "recoverable")

    def measure(self, machine: Machine) -> list[Metric]:
        ailing = [part for part in self._units if part.fails >= 0]
        exchanged = [part for part in self._units if machine.partitioning.exchanged(part.unit)]
        saved = [part for part in exchanged if part.fails >= 0 and not part.failed]
        healthy = [part for part in exchanged if part.fails < 0]
        return [
            Metric("saved_share", len(saved) / (len(ailing) or 1)),
            Metric("failures", sum(part.failed for part in ailing)),
            Metric("false_alarms", len(healthy)),
            Metric("false_share", len(healthy) / (len(exchanged) or 1)),
            Metric("exchanged", len(exchanged)),
            Metric("spares_left", len(machine.partitioning.spare_memory)),
        ]


@define(eq=False)
class _Item(Request):
    """A finished piece of work: count where it was done."""

    owner: AilingProcessor
    bound: bool

    def perform(self, thread: Thread) -> int:
        assert thread.processor is not None
        self.owner.count(thread, bound=self.bound)
        return 0


@workload(name="ailing_processor", summary="A processor corrects more and more errors, and then fails.")
class AilingProcessor:
    """`threads` threads a processor do pieces of work of 1 ms, and one more may run nowhere but on the
    processor that fails: the last one. It corrects `warnings` errors of its cache, faster and faster, before
    it fails at `fails`, which stops the machine. One processor like it is spare, where there are two, and
    nothing runs on it yet.

    All programs have a table with a place for each processor they saw, and look up the one they are on.
    """

    threads: int = option(default=2, help="Threads for each processor.", minimum=1)
    warnings: int = option(default=40, help="Corrected errors before it fails.", minimum=0)
    fails: Duration = option(default=Duration(60 * SECOND), help="When it fails.", minimum=1)
    until: Duration = option(default=Duration(3 * SECOND), help="When the threads end.", minimum=1)

    _failing: int = state(int)
    _items: int = state(int)
    _bound: int = state(int)
    _beyond: int = state(int)
    """Look-ups outside of the table."""
    _last_bound: int = state(int)
    _slow: list[int] = state(list)
    """When work was done on the failing processor while it was being replaced."""

    def start(self, machine: Machine) -> None:
        if not machine.threads:
            machine.partitioning.set_aside(min(1, len(machine.processors) - 1))
        self._failing = len(machine.processors) - 1
        now = machine.engine.now
        process = machine.create_process("work")
        for _ in range(self.threads * len(machine.processors)):
            machine.create_thread(process, self._work(machine, now, bound=False))
        only = 1 << self._failing
        machine.create_thread(
            process, self._work(machine, now, bound=True), affinity=only, ideal=self._failing
        )
        for each in range(1, self.warnings + 1):
            time = int(self.fails * (each / (self.warnings + 1)) ** (1 / 3))
            machine.engine.at(now + time, self._warn, machine)
        machine.engine.at(now + self.fails, self._fail, machine)

    def _work(self, machine: Machine, now: int, *, bound: bool) -> Generator[Request, None, None]:
        compute, item = Compute(MILLISECOND), _Item(self, bound)
        while machine.engine.now < now + self.until:
            yield compute
            yield item

    def count(self, thread: Thread, *, bound: bool) -> None:
        """A thread has done a piece of work."""
        machine, processor = thread.machine, thread.processor
        assert processor is not None
        self._items += 1
        if bound:
            self._bound += 1
            self._last_bound = machine.engine.now
        if machine.partitioning.number(processor) > self._failing:
            self._beyond += 1
        if processor.index == self._failing and machine.partitioning.replacing is not None:
            self._slow.append(machine.engine.now)

    def _error(self, machine: Machine, severity: Any) -> None:
        scheduler = machine.scheduler
        if not scheduler.all_mask >> self._failing & 1:
            return  # it is gone
        machine.hardware_errors.occur(
            HardwareError(component=Component("cache", self._failing, (1,)), severity=severity)
        )

    def _warn(self, machine: Machine) -> None:
        self._error(machine, "corrected")

    def _fail(self, machine: Machine) -> None:
        self._error(machine, "fatal")

    def measure(self, machine: Machine) -> list[Metric]:
        gone = not machine.scheduler.all_mask >> self._failing & 1
        slow = len(self._slow) - 1
        return [
            Metric("crashed", float(machine.crash is not None)),
            Metric("replaced", float(gone)),
            Metric("items", self._items),
            Metric("bound_items", self._bound),
            Metric("bound_until", self._last_bound, "ns"),
            Metric("beyond_table", self._beyond),
            Metric("slow_speed", slow * MILLISECOND / (self._slow[-1] - self._slow[0]) if slow > 0 else 0),
        ]

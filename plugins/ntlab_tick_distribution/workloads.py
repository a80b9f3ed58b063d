"""A machine that mostly does nothing, and what wakes it."""

from __future__ import annotations

from collections import Counter

import attrs

from ntlab.engine import REPORT
from ntlab.errors import UserError
from ntlab.machine import Compute, Dpc, IdleTimes, Machine, Processor, Timer
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration, format_duration

OWNER = "tick_distribution.wakes"
VECTOR = 0x51


@workload(name="wakes", summary="Idle processors with interrupts of their own, some timers, some busy ones.")
class Wakes:
    """Processor i gets `wakes[i]` interrupts a second, at equal distances, and never while a tick is served.

    The last `busy` processors compute all the time. `timers` are periodic timers, set on all processors in
    turn. If `replaced` is not 0, the processor that keeps the time is replaced then: some plugin must support
    that. What is measured begins half a tick after the start, and lasts for `window`.
    """

    wakes: tuple[int, ...] = option(
        default=(), help="Interrupts a second of each processor, from the first on; the others get none."
    )
    busy: int = option(default=0, help="How many processors, the last ones, compute.", minimum=0)
    timers: int = option(default=0, help="How many timers.", minimum=0)
    period: Duration = option(
        default=Duration(SECOND), help="Time between two expiries of the same timer.", minimum=1
    )
    resolution: Duration = option(
        default=Duration(0), help="The clock resolution that some program wants; 0: none does.", minimum=0
    )
    service: Duration = option(
        default=Duration(10 * MICROSECOND), help="Service routine of an interrupt.", minimum=0
    )
    window: Duration = option(default=Duration(2 * SECOND), help="How long it is measured.", minimum=1)
    replaced: Duration = option(
        default=Duration(0), help="When the keeper of the time is replaced by a spare; 0: never.", minimum=0
    )

    _idle: IdleTimes = attrs.field(init=False, repr=False, eq=False)
    _to: int = state(int)
    _over: bool = state(bool)
    _before: Counter[str] = state(Counter)
    _after: Counter[str] = state(Counter)
    _wakes: Counter[int] = state(Counter)
    _late: int = state(int)

    def start(self, machine: Machine) -> None:
        timers = machine.timers
        if self.replaced:
            if len(machine.processors) < 2:
                raise UserError(
                    "the only processor is to be replaced by a spare",
                    where=f"{OWNER}.replaced",
                    expected="a machine with two processors at least",
                )
            machine.partitioning.set_aside(1)
            machine.engine.at(self.replaced, self._replace, machine)
        there = [p for p in machine.processors if p.bit & machine.scheduler.all_mask]
        if len(self.wakes) > len(there) or not all(0 <= rate <= 250 for rate in self.wakes):
            raise UserError(
                f"wakes {list(self.wakes)} of {len(there)} processors",
                where=f"{OWNER}.wakes",
                expected="0 to 250 for each of them at the most",
            )
        if self.busy > len(there):
            raise UserError(
                f"{self.busy} busy processors of {len(there)}",
                where=f"{OWNER}.busy",
                expected="no more than there are",
            )
        if self.resolution:
            timers.request_resolution(OWNER, self.resolution)
        timers.start_clock()
        self._idle = IdleTimes(machine, machine.tables.package_mask)
        process = machine.create_process("busy") if self.busy else None
        for processor in there[len(there) - self.busy :]:
            assert process is not None
            machine.create_thread(process, iter([Compute(1 << 60)]), affinity=processor.bit)
        for number in range(self.timers):
            timer = timers.create(Dpc(f"Timer{number}", self._expired))
            due = self.period * (2 * number + 1) // (2 * self.timers)
            timers.set(timer, due, period=self.period, processor=there[number % len(there)].index)
        begin = timers.period // 2
        self._to = begin + self.window
        machine.engine.at(begin, self._begin, machine, REPORT)
        machine.engine.at(self._to, self._end, machine, REPORT)
        for processor, rate in zip(there, self.wakes, strict=False):
            for number in range(rate * self.window // SECOND):
                at = begin + SECOND * (2 * number + 1) // (2 * rate)
                machine.engine.at(self._clear_of_ticks(machine, at), self._wake, processor)

    def _clear_of_ticks(self, machine: Machine, time: int) -> int:
        """That time, or a little later if there is a tick about then."""
        tick = machine.timers.tick_from(time - MILLISECOND)
        return time if tick >= time + MILLISECOND else time + 2 * MILLISECOND

    def _replace(self, machine: Machine) -> None:
        machine.partitioning.replace_processor(machine.timers.keeper)

    def _wake(self, processor: Processor) -> None:
        machine = self._idle.machine
        index = machine.scheduler.in_place_of(processor.index)
        self._wakes[index] += 1
        machine.interrupts.interrupt(machine.processors[index], self.service, vector=VECTOR)

    def _expired(self, timer: Timer) -> None:
        self._late += timer.tick != timer.machine.timers.tick_from(timer.due)

    def _begin(self, machine: Machine) -> None:
        self._idle.begin()
        self._before = self._counts(machine)

    def _end(self, machine: Machine) -> None:
        self._idle.end()
        self._after = self._counts(machine)
        self._over = True

    def _counts(self, machine: Machine) -> Counter[str]:
        timers = machine.timers
        return Counter(
            ticks=timers.ticks,
            clock=timers.taken.total(),
            interrupts=sum(processor.interrupts for processor in machine.processors),
            resynchronised=timers.resynchronised,
            expired=timers.expired,
        )

    def measure(self, machine: Machine) -> list[Metric]:
        if not self._over:
            raise UserError(
                "the run ends before the window does",
                where="duration",
                expected=f"at least {format_duration(self._to + machine.timers.period)}",
            )
        seconds = self.window / SECOND
        counts = self._after
        counts.subtract(self._before)
        idle = self._idle
        keeper = machine.timers.keeper
        gaps = [gap for index in sorted(idle.gaps) if index != keeper for gap in idle.gaps[index]]
        return [
            Metric("ticks", counts["ticks"] / seconds, "1/s"),
            Metric("clock_interrupts", counts["clock"] / seconds, "1/s"),
            Metric("interrupts", counts["interrupts"] / seconds, "1/s"),
            Metric("wakes", sum(idle.wakes.values()) / seconds, "1/s"),
            Metric("resynchronised", counts["resynchronised"] / seconds, "1/s"),
            Metric("idle_gap", sum(gaps) / len(gaps) if gaps else 0.0, "ns"),
            Metric("longest_idle", max(gaps, default=0), "ns"),
            Metric("package_idle", sum(idle.together) / (self.window * len(idle.together))),
            Metric("expirations", counts["expired"] / seconds, "1/s"),
            Metric("late", float(self._late)),
            *idle.power_metrics(),
        ]

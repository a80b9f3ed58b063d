"""Periodic timers, and what the processors have of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from ntlab.engine import REPORT
from ntlab.errors import UserError
from ntlab.machine import Compute, Dpc, IdleTimes, Machine, Request, SetTimer, Timer, WaitForTimer
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration, format_duration

OWNER = "timer_coalescing.timers"


@workload(name="timers", summary="Periodic timers with a tolerance, on a machine that does nothing else.")
class PeriodicTimers:
    """Each timer is set at the beginning, to be due for the first time within its first period.

    The clock runs all the time. What is measured begins half a tick after `warm_up`, when what was set has
    settled, and lasts for `window`.
    """

    timers: int = option(default=40, help="How many timers.", minimum=1)
    period: Duration = option(
        default=Duration(SECOND), help="Time between two expiries of the same timer.", minimum=1
    )
    tolerance: Duration = option(
        default=Duration(0), help="How much later each may expire; whole periods keep their phase.", minimum=0
    )
    phases: Literal["random", "even"] = option(
        default="random", help="When they are due within a period: anywhere, or at equal distances."
    )
    work: Duration = option(
        default=Duration(50 * MICROSECOND), help="What is done each time one expires.", minimum=0
    )
    on: Literal["first", "all"] = option(
        default="first", help="Which processors set them: the first, or all in turn."
    )
    function: Literal["KeSetCoalescableTimer", "SetWaitableTimerEx", "SetCoalescableTimer"] = option(
        default="KeSetCoalescableTimer",
        help="Who sets them: a driver, whose DPC does the work, or a program, which has a thread for each.",
    )
    resolution: Duration = option(
        default=Duration(0),
        help="The clock resolution that some program wants; 0: none does.",
        minimum=0,
    )
    warm_up: Duration = option(default=Duration(2 * SECOND), help="Before anything is measured.", minimum=0)
    window: Duration = option(default=Duration(4 * SECOND), help="How long it is measured.", minimum=1)
    long: Duration = option(
        default=Duration(20 * MILLISECOND), help="Idle times of that length count as long.", minimum=0
    )

    _idle: IdleTimes = attrs.field(init=False, repr=False, eq=False)
    _from: int = state(int)
    _to: int = state(int)
    _over: bool = state(bool)
    _working: set[int] = state(set)  # ticks
    _expired: int = state(int)
    _outside: int = state(int)
    _beyond: int = state(int)
    _delay: int = state(int)

    def start(self, machine: Machine) -> None:
        if self.function == "SetCoalescableTimer":
            raise UserError(
                f"{self.function} is not in {machine.release}: it came with Windows 8",
                where=f"{OWNER}.function",
                expected="KeSetCoalescableTimer or SetWaitableTimerEx",
            )
        timers = machine.timers
        if self.resolution:
            timers.request_resolution(OWNER, self.resolution)
        timers.start_clock()
        self._from = self.warm_up + timers.period // 2
        self._to = self._from + self.window
        self._idle = IdleTimes(machine, machine.tables.package_mask)
        machine.engine.at(self._from, self._begin, None, REPORT)
        machine.engine.at(self._to, self._end, None, REPORT)
        phases = machine.streams.stream(OWNER)
        where = [p.index for p in machine.processors if p.bit & machine.scheduler.all_mask]
        process = machine.create_process("timers") if self.function == "SetWaitableTimerEx" else None
        for number in range(self.timers):
            due = 1 + (
                phases.randrange(self.period)
                if self.phases == "random"
                else self.period * number // self.timers
            )
            processor = where[number % len(where)] if self.on == "all" else where[0]
            if process is None:
                timer = timers.create(Dpc(f"Timer{number}", self._note, self.work))
                timers.set(timer, due, period=self.period, tolerance=self.tolerance, processor=processor)
            else:
                timer = timers.create()
                machine.create_thread(process, self._program(timer, due), affinity=1 << processor)

    def _program(self, timer: Timer, due: int) -> Iterator[Request]:
        yield SetTimer(timer, due, self.period, self.tolerance)
        while True:
            yield WaitForTimer(timer)
            self._note(timer)
            yield Compute(self.work)

    def _begin(self, _: object) -> None:
        self._idle.begin()

    def _end(self, _: object) -> None:
        self._idle.end()
        self._over = True

    def _note(self, timer: Timer) -> None:
        """It has expired."""
        tick = timer.tick
        if not self._from <= tick < self._to:
            return
        due = timer.was_due
        latest = due + timer.tolerance
        self._working.add(tick)
        self._expired += 1
        self._delay += tick - due
        self._beyond += tick > latest
        self._outside += not due <= tick <= timer.machine.timers.tick_from(latest)

    def measure(self, machine: Machine) -> list[Metric]:
        if not self._over or not self._expired:
            raise UserError(
                "no timer has expired while it was measured"
                if self._over
                else "the run ends before the window",
                where="duration",
                expected=f"at least {format_duration(self._to + machine.timers.period)}",
            )
        seconds = self.window / SECOND
        idle = self._idle
        gaps = [gap for index in sorted(idle.gaps) for gap in idle.gaps[index]]
        processors = machine.scheduler.all_mask.bit_count()
        keeper = machine.timers.keeper
        whole = self.window * processors
        elsewhere = sum(count for index, count in idle.wakes.items() if index != keeper)
        return [
            Metric("working_ticks", len(self._working) / seconds, "1/s"),
            Metric("expirations", self._expired / seconds, "1/s"),
            Metric("wakes", sum(idle.wakes.values()) / seconds, "1/s"),
            Metric("wakes_elsewhere", elsewhere / seconds, "1/s"),
            Metric("idle_gap", sum(gaps) / len(gaps), "ns"),
            Metric("long_idle", sum(gap for gap in gaps if gap >= self.long) / whole),
            Metric("package_idle", sum(idle.together) / (self.window * len(idle.together))),
            Metric("delay", self._delay / self._expired, "ns"),
            Metric("outside", self._outside / self._expired),
            Metric("beyond", self._beyond / self._expired),
            *idle.power_metrics(),
        ]

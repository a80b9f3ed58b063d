"""A desk: what computes in the background, and what somebody waits for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import attrs

from ntlab import Duration, Metric, option, state, workload
from ntlab.machine import Compute, Machine, Processor, Program, Sleep, Thread
from ntlab.machine.threads import READY


@workload(name="desk", summary="Threads that compute without end, beside some that answer a user.")
class Desk:
    """Of the metrics, shares are parts of all processors' time. A response is from the user's input to the
    end of the burst that it causes; a wait is any time for which a thread was ready and did not run."""

    hogs: tuple[int, ...] = option(
        default=(8, 8, 8, 8, 8, 8, 8, 8), help="The base priority of each thread that never waits."
    )
    users: int = option(default=0, help="How many threads answer a user.", minimum=0)
    user_priority: int = option(default=8, help="Their base priority.", minimum=1, maximum=15)
    burst: Duration = option(default=Duration(1_000_000), help="What an answer takes.", minimum=1)
    pause: Duration = option(
        default=Duration(20_000_000), help="From an answer to the next input, on average.", minimum=2
    )
    increment: int = option(
        default=0, help="The priority increment that an input ends a wait with.", minimum=0
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _hogs: list[Thread] = state(list)
    _users: list[Thread] = state(list)
    _responses: list[int] = state(list)
    _longest: int = state(int)

    def start(self, machine: Machine) -> None:
        self._machine = machine
        background = machine.create_process("background")
        for priority in self.hogs:
            self._hogs.append(
                machine.create_thread(background, repeat(Compute(1_000_000_000)), priority=priority)
            )
        desktop = machine.create_process("desktop", base_priority=self.user_priority)
        for _ in range(self.users):
            self._users.append(machine.create_thread(desktop, self._user()))
        machine.scheduler.watch_switches(self._switched)

    def _user(self) -> Program:
        engine, pauses = self._machine.engine, self._machine.streams.stream("cfs.desk", f"{len(self._users)}")
        while True:
            pause = pauses.randrange(2 * self.pause)
            due = engine.now + pause
            yield Sleep(pause, self.increment)
            yield Compute(self.burst)
            self._responses.append(engine.now - due)

    def _switched(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        if new is not None:
            self._longest = max(self._longest, self._machine.engine.now - new.ready_since)

    def measure(self, machine: Machine) -> Iterator[Metric]:
        now = machine.engine.now
        capacity = now * len(machine.processors)
        ran = [machine.scheduler.run_time(thread) for thread in self._hogs]
        used = sum(ran)
        for i, time in enumerate(ran, 1):
            yield Metric(f"share_{i}", time / capacity)
        if ran:
            yield Metric("least_share", min(ran) / capacity)
        answered = sum(map(machine.scheduler.run_time, self._users))
        still = (now - thread.ready_since for thread in self._hogs + self._users if thread.state == READY)
        yield Metric("longest_wait", max(self._longest, *still, 0), "ns")
        yield Metric("idle", 1 - (used + answered) / capacity)
        if self._responses:
            self._responses.sort()
            yield Metric("users_share", answered / capacity)
            yield Metric("response", self._responses[len(self._responses) * 95 // 100], "ns")
            yield Metric("response_max", self._responses[-1], "ns")

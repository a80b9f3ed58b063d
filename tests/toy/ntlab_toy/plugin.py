"""Two plugins that answer one hook, one that conflicts, one that raises, and a workload they differ under."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

from ntlab import Duration, Metric, Share, hookimpl, option, plugin, state, workload
from ntlab.machine import Compute, Machine, Program, SchedulerPolicy, Thread
from ntlab.quantities import MILLISECOND


@workload(name="runners", summary="Threads that compute, on processors they share.")
class Runners:
    threads: int = option(default=4, help="How many threads.", minimum=1, maximum=64)
    work: Duration = option(
        default=Duration(100 * MILLISECOND), help="Longest work of one thread.", minimum=1
    )
    spread: Share = option(default=Share(0.5), help="How much of the work is left to chance.")
    nonsense: bool = option(default=False, help="Measure something that is no number.")
    pause: float = option(
        default=0.0, help="Real seconds that the start takes: a long run for tests of interrupts."
    )
    ends: list[int] = state(list)

    def start(self, machine: Machine) -> None:
        if self.pause:
            time.sleep(self.pause)
        chance = machine.streams.stream("toy_base.runners")
        process = machine.create_process("runners", affinity=1)
        for _ in range(self.threads):
            work = int(self.work * (1 - self.spread * chance.random()))
            machine.create_thread(process, self._program(machine, work))

    def _program(self, machine: Machine, work: int) -> Program:
        yield Compute(work)
        self.ends.append(machine.engine.now)

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"ends": lambda machine: "\n".join(map(str, self.ends))}

    def measure(self, machine: Machine) -> Iterator[Metric]:
        yield Metric("first_end", float(min(self.ends)), "ns")
        yield Metric("last_end", float(max(self.ends)), "ns")
        yield Metric("switches", float("nan") if self.nonsense else machine.processors[0].context_switches)


@plugin(name="toy_base", summary="Long turns.", release="ws2003", ledger=("X1",), workloads=(Runners,))
class ToyBase:
    quantum: Duration = option(
        default=Duration(60 * MILLISECOND), help="A thread's turn.", minimum=MILLISECOND
    )

    @hookimpl
    def scheduler_policy(self, machine: Machine) -> SchedulerPolicy:
        return SchedulerPolicy(quantum=self.quantum)


@plugin(
    name="toy_short",
    summary="Short turns.",
    release="ws2008",
    ledger=("X2",),
    requires=("toy_base",),
    neutral={"quantum": "60 ms"},
)
class ToyShort:
    quantum: Duration = option(
        default=Duration(5 * MILLISECOND), help="A thread's turn.", minimum=MILLISECOND
    )
    style: Literal["plain", "fancy"] = option(default="plain", help="Changes nothing.")

    @hookimpl
    def scheduler_policy(self, machine: Machine) -> SchedulerPolicy:
        return SchedulerPolicy(quantum=self.quantum)


@plugin(name="toy_rival", summary="Conflicts.", release="ws2008r2", conflicts=("toy_short",))
class ToyRival:
    pass


@plugin(name="toy_raiser", summary="Raises.", release="ws2008r2", after=("toy_base",))
class ToyRaiser:
    where: Literal["policy", "boot", "thread"] = option(default="boot", help="The hook that raises.")

    def _raise(self, where: str) -> None:
        if where == self.where:
            raise ZeroDivisionError(f"raised in {where}")

    @hookimpl(tryfirst=True)
    def scheduler_policy(self) -> None:
        self._raise("policy")

    @hookimpl
    def machine_booted(self) -> None:
        self._raise("boot")

    @hookimpl
    def thread_exited(self, thread: Thread) -> None:
        self._raise("thread")

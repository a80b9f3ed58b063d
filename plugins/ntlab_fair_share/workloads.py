"""Users' sessions that compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from ntlab.errors import UserError
from ntlab.machine import Compute, Machine, Program, Request, Sleep, Thread
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MILLISECOND, Duration

T = TypeVar("T")


def water_filling(capacity: float, demands: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Weighted max-min shares of `capacity`: nobody gets more than it wants, the rest is shared by weight."""
    shares = [0.0] * len(demands)
    hungry = set(range(len(demands)))
    while hungry:
        level = capacity / sum(weights[i] for i in sorted(hungry))
        content = {i for i in hungry if demands[i] <= weights[i] * level}
        for i in sorted(content or hungry):
            shares[i] = demands[i] if content else weights[i] * level
            capacity -= shares[i]
        hungry -= content or hungry
    return shares


@workload(name="sessions", summary="Sessions of some threads each, which want some of the processors.")
class Sessions:
    """Session i has `threads[i]` threads that together want `demands[i]` processors.

    A thread that wants less than a processor does its work in bursts, one a period; one that wants a whole
    one never stops. Lists may hold one value for all sessions.
    """

    threads: tuple[int, ...] = option(default=(1, 9), help="Threads of each session.")
    demands: tuple[float, ...] = option(
        default=(), help="Processors that each session wants; nothing stated: one for each of its threads."
    )
    weights: tuple[int, ...] = option(default=(5,), help="Weight of each session, 1 to 9.")
    priorities: tuple[int, ...] = option(
        default=(8,), help="Base priority of each session's threads, 1 to 15."
    )
    pinned: tuple[int, ...] = option(default=(-1,), help="Processor each session is bound to; -1: none.")
    period: Duration = option(
        default=Duration(50 * MILLISECOND),
        help="Time between the bursts of a thread that wants less.",
        minimum=1,
    )

    _members: list[list[Thread]] = state(list)  # the threads of each session
    _responses: list[list[int]] = state(list)  # ns from when a burst was due to its end, for each session

    def start(self, machine: Machine) -> None:
        count = len(self.threads)
        demands = self._each("demands", self.demands) if self.demands else [float(n) for n in self.threads]
        weights = self._each("weights", self.weights)
        priorities = self._each("priorities", self.priorities)
        pinned = self._each("pinned", self.pinned)
        _check("threads", self.threads, 1, 10_000)
        _check("demands", demands, 0, 10_000)
        _check("weights", weights, 1, 9)
        _check("priorities", priorities, 1, 15)
        _check("pinned", pinned, -1, len(machine.processors) - 1)
        phases = machine.streams.stream("fair_share.sessions")
        sessions = [machine.create_session(i + 1, weights[i]) for i in range(count)]
        self._members = [[] for _ in sessions]
        self._responses = [[] for _ in sessions]
        for i, session in enumerate(sessions):
            process = machine.create_process(
                f"session{session.id}",
                session=session,
                base_priority=priorities[i],
                affinity=None if pinned[i] < 0 else 1 << pinned[i],
            )
            for _ in range(self.threads[i]):
                phase = phases.randrange(self.period)
                wanted = round(demands[i] / self.threads[i] * self.period)
                program = (
                    self._bursts(machine, wanted, phase, self._responses[i])
                    if wanted < self.period
                    else self._hog()
                )
                self._members[i].append(machine.create_thread(process, program))

    def _each(self, name: str, values: Sequence[T]) -> list[T]:
        count = len(self.threads)
        if len(values) not in (1, count):
            raise UserError(
                f"{len(values)} values for {count} sessions",
                where=f"fair_share.sessions.{name}",
                expected="one value, or one for each session",
            )
        return list(values) * (count // len(values))

    def _hog(self) -> Program:
        while True:
            yield Compute(self.period)

    def _bursts(self, machine: Machine, work: int, phase: int, responses: list[int]) -> Iterator[Request]:
        engine = machine.engine
        due = engine.now + phase
        yield Sleep(phase)
        while True:
            yield Compute(work)
            responses.append(engine.now - due)
            due += self.period
            if due > engine.now:
                yield Sleep(due - engine.now)

    def measure(self, machine: Machine) -> list[Metric]:
        """Shares are parts of all processors' time, 0..1."""
        now = machine.engine.now
        capacity = len(machine.processors)
        run_time = machine.scheduler.run_time
        used = [sum(run_time(thread) for thread in threads) / now for threads in self._members]
        demands = [
            min(
                self._each("demands", self.demands)[i] if self.demands else float(n),
                float(n),
                1.0 if self._each("pinned", self.pinned)[i] >= 0 else float(capacity),
            )
            for i, n in enumerate(self.threads)
        ]
        fair = water_filling(float(capacity), demands, self._each("weights", self.weights))
        satisfied = [u / f for u, f in zip(used, fair, strict=True) if f]
        metrics = [
            *(Metric(f"share_{i}", u / capacity) for i, u in enumerate(used, 1)),
            Metric("unfairness", max(abs(u - f) for u, f in zip(used, fair, strict=True)) / capacity),
            Metric("jain", sum(satisfied) ** 2 / (len(satisfied) * sum(x * x for x in satisfied))),
            Metric("idle", 1 - sum(used) / capacity),
        ]
        for i, responses in enumerate(self._responses, 1):
            if responses:
                metrics.append(
                    Metric(f"response_{i}", float(sorted(responses)[len(responses) * 95 // 100]), "ns")
                )
        return metrics


def _check(name: str, values: Sequence[float], least: float, most: float) -> None:
    for value in values:
        if not least <= value <= most:
            raise UserError(
                f"{value!r} is out of range",
                where=f"fair_share.sessions.{name}",
                expected=f"{least} to {most}",
            )

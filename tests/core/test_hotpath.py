"""The plain versions of the scheduler's events do what the full ones do: same switches, same times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.hooks import hookimpl
from ntlab.machine import Acquire, Compute, Machine, OrderedLevel, Release, Request, Sleep, Thread
from ntlab.machine.scheduler import Scheduler
from ntlab.plugin import plugin, state
from ntlab.testing import boot, rules


@plugin(name="recorder", summary="Writes down every context switch.", release="ws2003")
class Recorder:
    log: list[Any] = state(list)

    @hookimpl
    def context_switched(self, processor: Any, old: Any, new: Any) -> None:
        now = processor.index, old and old.name, new and new.name
        self.log.append((self.machine.engine.now, *now))

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        self.machine = machine


@plugin(name="order", summary="An order and preemption of its own.", release="ws2003")
class Order:
    """Who ran least is first, and takes the place of one that ran for 20 ns more."""

    @hookimpl
    def ready_level(self, priority: int) -> OrderedLevel | None:
        return OrderedLevel(lambda thread: thread.run_time) if priority < 12 else None

    @hookimpl
    def preempts(self, thread: Thread, running: Thread) -> bool:
        return thread.machine.scheduler.run_time(running) > thread.run_time + 20


@plugin(name="turns", summary="Turns of its own.", release="ws2003")
class Turns:
    @hookimpl
    def turn_length(self, thread: Thread, left: int) -> int | None:
        return None if thread.id % 3 == 0 else left or 1 + thread.id % 17


@plugin(name="falls", summary="Who uses up a turn falls, also below its base priority.", release="ws2003")
class Falls:
    @hookimpl
    def priority_at_quantum_end(self, thread: Thread) -> int:
        return thread.priority - 1 if thread.priority > 5 else 12


class Wait(Request):
    def perform(self, thread: Thread) -> None:
        thread.machine.waiters.append(thread)  # type: ignore[attr-defined]


burst = st.integers(0, 30)
steps = st.one_of(
    st.tuples(st.just("compute"), burst),
    st.tuples(st.just("sleep"), st.integers(0, 40)),
    st.tuples(st.just("lock"), st.integers(1, 9)),
    st.tuples(st.just("wait"), st.just(0)),
    st.tuples(st.just("wake"), burst),
)
threads = st.lists(
    st.tuples(st.lists(steps, min_size=1, max_size=5), st.sampled_from([8, 8, 10, 12]), st.booleans()),
    min_size=1,
    max_size=7,
)
disturbances = st.lists(
    st.tuples(st.integers(1, 300), st.sampled_from(["interrupt", "slow", "nominal"]), st.integers(0, 1)),
    max_size=4,
)


def play(
    work: list[Any],
    disturbed: list[Any],
    policy: dict[str, Any],
    record: bool,
    trace: bool,
    others: Sequence[object],
) -> tuple[Machine, list[Any]]:
    recorder = Recorder()
    machine = boot(2, [rules(**policy), *([recorder] if record else []), *others], trace=trace)
    process = machine.create_process("p")
    lock = machine.create_lock("l")

    waiters: list[Thread] = []
    machine.waiters = waiters  # type: ignore[attr-defined]

    def program(wanted: list[tuple[str, int]]) -> Iterator[Request]:
        for what, time in wanted * 4:
            if what == "wait":
                yield Wait()
            elif what == "wake":
                if waiters:  # amid a step of the program: whoever wakes may preempt it
                    machine.scheduler.wake(waiters.pop(0))
                yield Compute(time)
            elif what == "compute":
                yield Compute(time)
            elif what == "sleep":
                yield Sleep(time)
            else:
                yield Acquire(lock)
                yield Compute(time)
                yield Release(lock)

    for number, (wanted, priority, bound) in enumerate(work):
        machine.create_thread(
            process,
            program(wanted),
            name=f"t{number}",
            priority=priority,
            affinity=1 if bound and number == 0 else None,
        )
    for time, what, index in disturbed:
        cpu = machine.processors[index]
        if what == "interrupt":
            machine.engine.at(time, lambda _, cpu=cpu: machine.interrupts.interrupt(cpu, 7))
        else:
            speed = (1 << 20) // (3 if what == "slow" else 1)
            machine.engine.at(time, lambda _, cpu=cpu, speed=speed: machine.scheduler.set_speed(cpu, speed))
    machine.run(100_000)
    return machine, recorder.log


@given(
    threads,
    disturbances,
    st.sampled_from(["shared", "per_processor"]),
    st.integers(1, 25),
    st.sampled_from([0, 0, 3]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([[], [], [Falls()], [Order()], [Turns()], [Order(), Turns()], [Falls(), Turns()]]),
)
def test_plain_and_full_agree(
    work: list[Any],
    disturbed: list[Any],
    queues: str,
    quantum: int,
    cost: int,
    fresh: bool,
    record: bool,
    trace: bool,
    others: list[object],
) -> None:
    policy = {
        "quantum": quantum,
        "ready_queues": queues,
        "switch_cost": cost,
        "fresh_quantum_after_wait": fresh,
    }
    plain, plain_log = play(work, disturbed, policy, record, trace, others)
    with pytest.MonkeyPatch.context() as patch:

        def full(self: Scheduler) -> None:
            self.expired, self.slept = self._expired, self._slept

        patch.setattr(Scheduler, "_choose_actions", full)
        slow, slow_log = play(work, disturbed, policy, record, trace, others)
    assert plain_log == slow_log
    assert plain.tracer.digest() == slow.tracer.digest()
    for one, other in zip(plain.processors, slow.processors, strict=True):
        assert (one.context_switches, one.busy_time) == (other.context_switches, other.busy_time)
    assert plain.threads.keys() == slow.threads.keys()


def test_a_loaded_machine_runs_alike() -> None:
    def load(machine: Machine) -> list[tuple[int, int, int]]:
        process = machine.create_process("p")
        for number in range(60):
            work = (Compute(50 + number), Sleep(7)) if number % 2 else (Compute(3), Sleep(20 + number))
            machine.create_thread(process, cycle(work), priority=8 + 2 * (number % 2 == 0))
        machine.run(20_000)
        run_time = machine.scheduler.run_time
        return [(run_time(t), t.remaining, t.state) for t in machine.threads.values()]

    policy = {"quantum": 10, "ready_queues": "shared", "fresh_quantum_after_wait": True}
    plain = load(boot(4, [rules(**policy)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Scheduler,
            "_choose_actions",
            lambda self: setattr(self, "expired", self._expired) or setattr(self, "slept", self._slept),
        )
        assert load(boot(4, [rules(**policy)])) == plain
    assert sum(run_time for run_time, *_ in plain) == 4 * 20_000

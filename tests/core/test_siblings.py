"""Processors of one core share it: exact schedules, and a fluid model of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError
from ntlab.hooks import hookimpl
from ntlab.machine import NOMINAL, Compute, Machine, Request, Sleep
from ntlab.plugin import option, plugin
from ntlab.testing import boot, bursts, small_tables


@plugin(name="cores", summary="What a core does.")
class Cores:
    throughput: tuple[float, ...] = option(default=(1.0, 1.5), help="With one busy processor, with two.")

    @hookimpl
    def core_throughput(self, machine: Machine) -> Sequence[int]:
        return [round(done * NOMINAL) for done in self.throughput]


def cores(number: int, *throughput: float, plugins: Sequence[object] = (), siblings: int = 2) -> Machine:
    tables = small_tables(number * siblings, siblings=siblings)
    return boot(plugins=[*plugins, Cores(throughput=throughput)], tables=tables, trace=True)


def ends(machine: Machine) -> dict[str, int]:
    names = {r["tid"]: str(r["name"]) for r in machine.tracer.records("Thread/Start")}
    return {names[r["tid"]]: r.time for r in machine.tracer.records("Thread/End")}


def test_a_processor_speeds_up_at_the_instant_at_which_its_sibling_goes_idle() -> None:
    machine = cores(1, 1, 1.5)
    process = machine.create_process("p")
    machine.create_thread(process, bursts(300), name="short")
    machine.create_thread(process, bursts(1000), name="long")
    machine.run()
    # Both at 3/4 until 400; then 700 are left.
    assert ends(machine) == {"short": 400, "long": 1100}
    machine.check()


def test_and_slows_down_when_it_gets_busy() -> None:
    machine = cores(1, 1, 1.25)
    process = machine.create_process("p")
    machine.create_thread(process, bursts(1000), name="long")
    machine.create_thread(process, iter([Sleep(100), Compute(500)]), name="later", ideal=1)
    machine.run()
    # 100 alone, 800 at 5/8 (500 each), 400 alone.
    assert ends(machine) == {"long": 1300, "later": 900}


def test_interrupt_work_takes_its_part_of_the_core() -> None:
    machine = cores(1, 1, 1.5)
    machine.create_thread(machine.create_process("p"), bursts(1000), name="p")
    machine.engine.at(100, lambda _: machine.interrupts.interrupt(machine.processors[1], 300))
    machine.run()
    # 100 alone, 400 at 3/4, in which the 300 of the interrupt are done, and the rest alone.
    assert ends(machine) == {"p": 1100}
    assert machine.processors[1].interrupts == 1


def test_other_cores_are_not_concerned() -> None:
    machine = cores(2, 1, 1)
    process = machine.create_process("p")
    for processor in (0, 1, 2):
        machine.create_thread(process, bursts(1000), name=str(processor), affinity=1 << processor)
    machine.run()
    assert ends(machine) == {"0": 2000, "1": 2000, "2": 1000}


def test_four_processors_of_a_core() -> None:
    machine = cores(1, 1, 1.25, 1.5, 1.5, siblings=4)
    process = machine.create_process("p")
    for name in "abcd":
        machine.create_thread(process, bursts(600), name=name)
    machine.run(0)
    assert {processor.speed for processor in machine.processors} == {NOMINAL * 3 // 8}
    machine.run()
    assert set(ends(machine).values()) == {1600}


def test_processors_that_come_share_their_core() -> None:
    machine = cores(1, 1, 1)
    machine.partitioning.set_aside(1)
    thread = machine.create_thread(machine.create_process("p"), bursts(1000))
    machine.run(100)
    machine.check()
    assert machine.processors[0].thread is thread
    assert machine.processors[0].speed == NOMINAL
    new = machine.scheduler.add_processor(0)
    machine.scheduler.admit(new)
    machine.partitioning._rebuild()
    assert new.speed == NOMINAL // 2
    machine.check()


def test_where_nobody_is_disturbed_nothing_is_watched() -> None:
    machine = cores(1, 1, 2)
    assert machine.siblings.throughput == ()
    assert machine.scheduler.switch_watchers == []
    assert machine.siblings.speed(1) == NOMINAL


def test_more_busy_processors_than_the_hook_told_of() -> None:
    machine = cores(1, 1, 1.5, siblings=4)
    process = machine.create_process("p")
    for _ in range(3):
        machine.create_thread(process, bursts(1000))
    with pytest.raises(SimulationError, match="3 processors of a core are busy; core_throughput tells of 2"):
        machine.run()


def test_a_speed_that_is_not_due_is_told() -> None:
    machine = cores(1, 1, 1.5)
    machine.create_thread(machine.create_process("p"), bursts(1000))
    machine.run(10)
    machine.speeds.set(machine.processors[0], "siblings", NOMINAL // 2)
    with pytest.raises(SimulationError, match="has speed 524288 beside its siblings, 1048576 is due"):
        machine.check()


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2000), st.integers(1, 2000)), min_size=1, max_size=8
    ),
    st.sampled_from([1, 1.25, 1.5, 1.75]),
)
def test_any_bound_threads_against_a_fluid_model(jobs: list[tuple[int, int, int]], throughput: float) -> None:
    """Jobs of one processor follow each other; how fast, is reckoned in fractions, event by event."""
    queues: dict[int, list[tuple[int, int]]] = {}
    for processor, start, work in jobs:
        queues.setdefault(processor, []).append((start, work))
    machine = cores(2, 1, throughput)
    for processor, queue in queues.items():

        def program(queue: list[tuple[int, int]] = queue) -> Iterator[Request]:
            for start, work in queue:
                yield Sleep(start)
                yield Compute(work)

        machine.create_thread(
            machine.create_process(f"p{processor}"), program(), name=str(processor), affinity=1 << processor
        )
    machine.run()
    expected = fluid(queues, Fraction(throughput))
    assert {int(name): end for name, end in ends(machine).items()} == pytest.approx(expected, abs=20)


def fluid(queues: dict[int, list[tuple[int, int]]], throughput: Fraction) -> dict[int, float]:
    """When each processor is done with its jobs: pauses take their time, work takes what its core gives."""
    kinds = {p: ["pause", "work"] * len(queue) for p, queue in queues.items()}
    left = {p: [Fraction(ns) for job in queue for ns in job] for p, queue in queues.items()}
    now, done = Fraction(0), {}
    while left:
        for p in list(left):
            while left[p] and not left[p][0]:
                del left[p][0], kinds[p][0]
            if not left[p]:
                done[p] = float(now)
                del left[p]
        busy = {p for p in left if kinds[p][0] == "work"}
        rate = {p: throughput / 2 if p in busy and p ^ 1 in busy else Fraction(1) for p in left}
        pause = min((left[p][0] / rate[p] for p in left), default=Fraction(0))
        now += pause
        for p in left:
            left[p][0] -= pause * rate[p]
    return done

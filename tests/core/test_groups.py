"""Processor groups: where processes and threads are, and what cannot be said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Compute, Machine, Request, RunOn, SetThreadGroupAffinity, Sleep, Thread
from ntlab.plugin import option, plugin
from ntlab.testing import boot, bursts, small_tables
from ntlab_ws2003 import Ws2003


@plugin(name="grouped", summary="Groups as a test wants them.")
class Grouped:
    masks: tuple[int, ...] = option(default=(0b0011, 0b1100), help="The groups.")
    turns: bool = option(default=True, help="Whether processes go round.")
    started: int = 0

    @hookimpl
    def processor_groups(self, machine: Machine) -> Sequence[int]:
        return self.masks

    @hookimpl
    def process_group(self, machine: Machine, node: int | None) -> int | None:
        if node is not None:
            return machine.groups.of(machine.tables.node_mask[node])
        if not self.turns:
            return None
        self.started += 1
        return (self.started - 1) % len(machine.groups.masks)


def grouped(processors: int = 4, *others: object, nodes: int = 1, **options: Any) -> Machine:
    tables = small_tables(processors, nodes=nodes)
    return boot(plugins=[*others, Grouped(**options)], tables=tables, trace=True)


def test_processes_start_in_one_group_and_threads_in_their_creators() -> None:
    machine = grouped()
    first, second, third = (machine.create_process(name) for name in "abc")
    assert [process.affinity for process in (first, second, third)] == [0b0011, 0b1100, 0b0011]
    threads = [machine.create_thread(second, bursts(1000)) for _ in range(3)]
    assert {thread.affinity for thread in threads} == {0b1100}
    machine.run()
    # Three threads, two processors: nobody goes to the other group, though it is idle.
    assert machine.engine.now > 1000
    assert [processor.context_switches for processor in machine.processors[:2]] == [0, 0]
    assert machine.counters()[r"Processor Information(0,_Total)\% Processor Time"] == 0
    machine.check()


def test_a_process_starts_where_its_creator_prefers() -> None:
    machine = grouped(nodes=2)
    assert [machine.create_process("p", node=node).affinity for node in (1, 1, 0)] == [12, 12, 3]
    assert machine.create_process("q").affinity == 3
    with pytest.raises(UserError, match=r"process 'r' prefers node 2.*0 to 1"):
        machine.create_process("r", node=2)


def test_where_nobody_says_which_group_it_is_the_first() -> None:
    machine = grouped(turns=False)
    assert machine.create_process("p").affinity == 3


def test_the_kernels_own_threads_are_in_any_group() -> None:
    machine = grouped()
    system = machine.system_process
    assert system.affinity == 15
    assert machine.create_thread(system, bursts(1)).affinity == 3
    assert machine.create_thread(system, bursts(1), ideal=2).affinity == 12
    with pytest.raises(UserError, match="the affinity of process 'System', which has threads in 2 groups"):
        machine.groups.set_process_affinity(system, 1)


def test_a_thread_that_moves_takes_its_process_to_two_groups() -> None:
    machine = grouped()
    process = machine.create_process("aware")
    places: list[int] = []

    def program() -> Iterator[Request]:
        for group in (0, 1, 0):
            yield SetThreadGroupAffinity(group)
            yield Note(places)
            yield Compute(100)

    thread = machine.create_thread(process, program())
    machine.run(150)
    assert thread.affinity == 0b1100
    assert process.affinity == 0b1111
    child = machine.create_thread(process, bursts(10), creator=thread)
    other = machine.create_thread(process, bursts(10))
    assert (child.affinity, other.affinity) == (0b1100, 0b0011)
    machine.run()
    assert [place // 2 for place in places] == [0, 1, 0]
    machine.check()


class Note(Request):
    def __init__(self, places: list[int]) -> None:
        self.places = places

    def perform(self, thread: Thread) -> int:
        assert thread.processor is not None
        self.places.append(thread.processor.index)
        return 0


def test_masks_count_from_the_first_processor_of_the_group() -> None:
    machine = grouped(6, masks=(0b001011, 0b110100))
    machine.create_process("first")
    process = machine.create_process("second")
    thread = machine.create_thread(process, iter([SetThreadGroupAffinity(1, 0b110), Compute(10)]))
    machine.run(5)
    assert thread.affinity == 0b110000
    assert thread.ideal == 4
    machine.groups.move(thread, 0, ideal=3)
    assert (thread.affinity, thread.ideal) == (0b001011, 3)
    other = machine.create_process("other")
    waiting = machine.create_thread(other, iter([Sleep(100)]), ideal=0)
    machine.groups.set_process_affinity(other, 0b110)
    assert (other.affinity, waiting.affinity, waiting.ideal) == (0b001010, 0b001010, 1)


def test_processors_of_no_group_are_not_started() -> None:
    machine = grouped(8, Ws2003(), nodes=2, masks=(0b0110,))
    assert machine.groups.installed == 8
    assert len(machine.processors) == 3
    assert machine.scheduler.all_mask == machine.create_process("p").affinity == 0b0110
    assert machine.tables.node_processors == ((1, 2), ())
    assert machine.tables.memory == small_tables(8, nodes=2).memory
    assert (machine.tables.groups, machine.tables.group_mask) == (1, (0b0110,))
    for _ in range(3):
        machine.create_thread(machine.create_process("p"), bursts(1000))
    machine.run()
    machine.check()


@plugin(name="parts", summary="Processors come and are replaced.")
class Parts:
    @hookimpl
    def partition_support(self) -> bool:
        return True

    @hookimpl
    def gets_processor(self) -> bool:
        return True


def test_a_processor_that_comes_is_for_processes_of_its_group() -> None:
    machine = grouped(4, Parts(), masks=(0b0011, 0b1100))
    machine.partitioning.set_aside(1)
    first, second = machine.create_process("first"), machine.create_process("second")
    assert (first.affinity, second.affinity) == (0b0011, 0b0100)
    machine.partitioning.add_processor()
    assert (first.affinity, second.affinity) == (0b0011, 0b1100)


def test_a_processor_that_stands_in_for_another_is_in_its_group() -> None:
    machine = grouped(4, Parts(), masks=(0b0011, 0b1100))
    machine.partitioning.set_aside(1)
    process = machine.create_process("first")
    thread = machine.create_thread(process, bursts(10**9), ideal=0)
    machine.partitioning.replace_processor(0)
    machine.run(2 * 10**9)
    machine.check()
    assert machine.scheduler.all_mask == 0b1110
    assert machine.groups.masks == (0b1011, 0b0100)
    assert process.affinity == 0b1010
    machine.groups.set_process_affinity(process, 0b01)
    assert process.affinity == 0b1000
    assert thread.run_time


def test_one_group_of_all_is_none_at_all() -> None:
    def digest(*plugins: object) -> str:
        machine = boot(plugins=[Ws2003(), *plugins], tables=small_tables(4), trace=True)
        for _ in range(3):
            process = machine.create_process("p")
            for _ in range(2):
                machine.create_thread(process, iter([Compute(10**6), RunOn(0b110), Compute(10**6)]))
        machine.run()
        return machine.tracer.digest()

    assert digest() == digest(Grouped(masks=(0b1111,))) != digest(Grouped())


def test_a_thread_that_is_ready_goes_at_once() -> None:
    machine = grouped()
    process = machine.create_process("p")
    machine.create_process("other")
    threads = [machine.create_thread(process, bursts(1000)) for _ in range(4)]
    machine.run(500)
    machine.groups.move(threads[3], 1)
    machine.run()
    assert [processor.context_switches for processor in machine.processors] == [3, 2, 2, 0]
    threads = [machine.create_thread(machine.create_process("q"), bursts(1000)) for _ in range(1)]
    waiting = machine.create_thread(threads[0].process, bursts(1000), ideal=0)
    machine.groups.set_process_affinity(threads[0].process, 0b10)
    machine.run()
    assert waiting.last == 1


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda m, p, t: m.create_process("q", affinity=0b0110), "'q' has processors of the groups 0 and 1"),
        (lambda m, p, t: m.groups.move(t, 2), "no processor group 2; expected 0 to 1"),
        (lambda m, p, t: m.groups.move(t, 1, 0b100), "affinity 0x4 of 't' in group 1.*its 2 processors"),
        (lambda m, p, t: m.groups.move(t, 1, 0), "affinity 0x0 of 't' in group 1"),
        (lambda m, p, t: m.groups.move(t, 1, 1, ideal=3), "ideal processor 3 of thread 't'"),
        (lambda m, p, t: m.groups.set_process_affinity(p, 0b100), "affinity 0x4 of 'p' in group 0"),
        (lambda m, p, t: m.create_thread(p, bursts(1), affinity=0b100), "affinity 0x4"),
        (
            lambda m, p, t: (m.groups.move(t, 1), m.groups.set_process_affinity(p, 1)),
            "the affinity of process 'p', which has threads in 2 groups; expected a process of one group",
        ),
        (
            lambda m, p, t: (m.groups.move(t, 1), m.create_thread(p, bursts(1), affinity=0b110)),
            "has processors of the groups 0 and 1",
        ),
    ],
)
def test_what_programs_cannot_say(what: Any, message: str) -> None:
    machine = grouped()
    process = machine.create_process("p")
    thread = machine.create_thread(process, bursts(10), name="t")
    with pytest.raises(UserError, match=message):
        what(machine, process, thread)


def test_groups_that_cannot_be() -> None:
    with pytest.raises(SimulationError, match="processor_groups gave 0x1f of 4 processors"):
        grouped(masks=(0b11111,))
    machine = grouped()
    thread = machine.create_thread(machine.create_process("p"), bursts(10))
    thread.affinity = 0b0110
    with pytest.raises(SimulationError, match="is in several groups: its affinity is 0x6"):
        machine.check()


def test_who_names_processors_of_several_groups_means_those_of_his_own() -> None:
    machine = grouped()
    machine.create_process("first")
    thread = machine.create_thread(machine.create_process("second"), iter([RunOn(0b0111), Compute(10)]))
    machine.run()
    assert thread.affinity == 0b0100
    thread = machine.create_thread(machine.create_process("third"), iter([RunOn(0b1000), Compute(10)]))
    machine.run()
    assert thread.affinity == 0b1000


@settings(max_examples=30)
@given(st.data())
def test_every_thread_is_in_one_group_whatever_happens(data: st.DataObject) -> None:
    machine = grouped(6, Ws2003(), masks=(0b000011, 0b011100, 0b100000))
    processes = [machine.create_process(f"p{k}") for k in range(3)]

    def program(steps: list[tuple[int, int]]) -> Iterator[Request]:
        for kind, value in steps:
            if kind == 0:
                yield SetThreadGroupAffinity(value % 3)
            elif kind == 1:
                yield RunOn(value % 63 + 1)
            else:
                yield Sleep(value)
            yield Compute(value)

    steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1000)), max_size=6)
    for process in processes:
        for _ in range(3):
            machine.create_thread(process, program(data.draw(steps)))
    while machine.threads:
        machine.run(machine.engine.now + 499)
        machine.check()

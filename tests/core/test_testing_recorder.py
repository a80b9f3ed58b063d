"""The recorder: what it finds, by hand and against the machine's own accounts; and slips of the pen."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import UnknownNameError, UserError
from ntlab.machine import Compute, Machine, Sleep
from ntlab.quantities import MILLISECOND
from ntlab.testing import Recorder, boot, bursts, rules
from ntlab.tracing import Tracer

MS = MILLISECOND


@pytest.fixture
def two() -> Machine:
    """Two threads take turns of 10 ms on one processor: 15 ms of work each."""
    machine = boot(plugins=[rules(quantum=10 * MS)], trace=True)
    process = machine.create_process("p")
    for name in ("one", "two"):
        machine.create_thread(process, bursts(15 * MS), name=name)
    machine.run(40 * MS)
    return machine


def test_records_by_name_and_field(two: Machine) -> None:
    seen = Recorder(two)
    assert seen("Thread/CSwitch").times == [0, 10 * MS, 20 * MS, 25 * MS, 30 * MS]
    assert seen("Thread/CSwitch", new_tid="two").times == [10 * MS, 25 * MS]
    one = seen("Thread/Start")[0]["tid"]
    assert seen("Thread/CSwitch", new_tid=one).times == [0, 20 * MS]
    assert seen("Thread/CSwitch", since=10 * MS, until=20 * MS).times == [10 * MS, 20 * MS]
    assert seen("Thread/CSwitch", old_priority=lambda priority: priority > 0).times[0] == 10 * MS
    assert seen("Thread/End", tid="two").one().time == 30 * MS
    assert seen("Thread/Start").exactly(2).values("name") == ["one", "two"]
    assert seen("NT Kernel Logger/Thread/S*").times == seen("Thread/Start").times == [0, 0]
    assert len(seen()) == sum(seen.counts().values()) == 9
    assert not seen("Thread/CSwitch", cpu=1)


def test_a_thread_itself_stands_for_its_identifier() -> None:
    machine = boot(trace=True)
    threads = [machine.create_thread(machine.create_process("p"), bursts(MS)) for _ in range(2)]
    machine.run()
    assert Recorder(machine)("Thread/End", tid=threads[1]).one().time == 2 * MS


def test_who_ran_where(two: Machine) -> None:
    seen = Recorder(two)
    assert [repr(stretch) for stretch in seen.stretches()] == [
        "cpu 0: one 0..10000000",
        "cpu 0: two 10000000..20000000",
        "cpu 0: one 20000000..25000000",
        "cpu 0: two 25000000..30000000",
    ]
    assert [stretch.duration for stretch in seen.stretches(thread="two")] == [10 * MS, 5 * MS]
    assert seen.stretches(processor=0) == seen.stretches()
    assert seen.stretches(processor=1) == []
    assert seen.run_time("one") == 15 * MS


def test_the_chart(two: Machine) -> None:
    assert Recorder(two).chart(8).splitlines() == [
        "0 ns to 40 ms, 5 ms a column",
        "cpu 0 aabbab..",
        "a  one",
        "b  two",
    ]
    assert Recorder(two).chart(3, since=10 * MS, until=25 * MS).splitlines()[1:3] == ["cpu 0 aab", "a  two"]


def test_a_thread_that_still_runs_is_there_up_to_now() -> None:
    machine = boot(trace=True)
    thread = machine.create_thread(machine.create_process("p"), bursts(10 * MS), name="t")
    machine.run(3 * MS)
    seen = Recorder(machine)
    assert [(s.start, s.end) for s in seen.stretches()] == [(0, 3 * MS)]
    assert seen.run_time("t") == seen.run_time(thread) == 3 * MS


@settings(max_examples=60)
@given(
    processors=st.integers(1, 3),
    work=st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=4), max_size=5),
    until=st.integers(1, 150),
)
def test_stretches_agree_with_the_machine_s_accounts(
    processors: int, work: list[list[tuple[int, int]]], until: int
) -> None:
    machine = boot(processors, [rules(quantum=7)], trace=True)
    process = machine.create_process("p")
    threads = [
        machine.create_thread(process, iter([r for c, s in steps for r in (Compute(c), Sleep(s))]))
        for steps in work
    ]
    machine.run(until)
    seen = Recorder(machine)
    stretches = seen.stretches()
    for thread in threads:
        assert sum(s.duration for s in stretches if s.thread == thread.name) == seen.run_time(thread.name)
    for processor in machine.processors:
        own = seen.stretches(processor=processor.index)
        assert all(before.end <= after.start for before, after in pairwise(own))
    busy = seen.counter(r"Processor(_Total)\% Processor Time")
    assert sum(s.duration for s in stretches) == pytest.approx(busy / 100 * until * processors)


def test_a_host_and_its_guest_each_have_their_own() -> None:
    host = boot(2, trace=True)
    guest = host.partitions.create("guest").machine
    guest.create_thread(guest.create_process("p"), bursts(MS), name="inside")
    host.create_thread(host.create_process("p"), bursts(MS), name="outside")
    host.run()
    assert "inside" not in Recorder(host)("Thread/Start").values("name")
    assert [s.thread for s in Recorder(guest).stretches()] == ["inside"]
    assert len(list(Recorder(host).all())) > len(Recorder(host)()) > 0


# -- mistakes -----------------------------------------------------------------------------------------------


def test_what_nothing_records_is_an_error(two: Machine) -> None:
    seen = Recorder(two)
    with pytest.raises(UnknownNameError, match=r"unknown event 'Thread/CSwich'.*'Thread/CSwitch'"):
        seen("Thread/CSwich")
    with pytest.raises(UnknownNameError, match=r"unknown field of Thread/CSwitch 'cup'.*'cpu'"):
        seen("Thread/CSwitch", cup=0)
    with pytest.raises(UnknownNameError, match=r"unknown field of Thread/End 'name'"):
        seen("Thread/End").values("name")
    with pytest.raises(UnknownNameError, match=r"unknown thread 'tow'.*'two'"):
        seen.stretches(thread="tow")
    with pytest.raises(UnknownNameError, match=r"unknown counter 'System\\\\Context Switches'"):
        seen.counter(r"System\Context Switches")
    assert list(seen.counters(r"System\*")) == [
        r"System\Context Switches/sec",
        r"System\Processor Queue Length",
    ]


def test_one_shows_what_there_is(two: Machine) -> None:
    with pytest.raises(AssertionError) as caught:
        Recorder(two)("Thread/End").one()
    assert str(caught.value).splitlines() == [
        "expected 1, found 2 of Thread/End",
        "  25000000 NT Kernel Logger/Thread/End tid=12 run_time=15000000",
        "  30000000 NT Kernel Logger/Thread/End tid=16 run_time=15000000",
    ]
    assert "expected 1, found 0 of Thread/End tid=7" in _told(two)


def _told(machine: Machine) -> str:
    with pytest.raises(AssertionError) as caught:
        Recorder(machine)("Thread/End", tid=7).one()
    return str(caught.value)


def test_a_long_answer_is_shown_in_part(two: Machine) -> None:
    for _ in range(40):
        two.create_thread(two.create_process("q"), bursts(), name="short")
    shown = repr(Recorder(two)("Thread/Start")).splitlines()
    assert (shown[0], shown[-1], len(shown)) == ("42 of Thread/Start", "  ... and 22 more", 22)
    assert repr(Recorder(two)("Thread/Start")[:2]).splitlines()[0] == "2 of Thread/Start"


@pytest.mark.parametrize("tracer", [None, Tracer(), Tracer(enabled=False, keep=True)])
def test_a_machine_that_keeps_no_records_says_so(tracer: Tracer | None) -> None:
    machine = Machine(boot().tables, tracer=tracer)
    with pytest.raises(UserError, match=r"keeps no records; expected boot\(\.\.\., trace=True\)"):
        Recorder(machine)

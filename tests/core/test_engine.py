"""The event loop against a reference: a list that is sorted by (time, class, sequence)."""

from __future__ import annotations

import functools
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.engine import INTERRUPT, NORMAL, REPORT, CheckedEngine, Engine, Streams, loop
from ntlab.errors import SimulationError

CLASSES = [INTERRUPT, NORMAL, NORMAL, NORMAL, REPORT]

# What an event does when it happens: schedule others (delay, class), cancel one by number, happen again, or
# cancel all.
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("schedule"), st.integers(0, 4), st.sampled_from(CLASSES)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("again"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("clear"), st.just(0), st.just(0)),
    ),
    max_size=3,
)
scripts = st.lists(deeds, min_size=1, max_size=40)
starts = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(CLASSES)), min_size=1, max_size=8)


class Reference:
    """The same contract, the slow and plain way."""

    def __init__(self) -> None:
        self.now = 0
        self.events: list[list[Any]] = []
        self.sequence = 0

    def at(self, time: int, action: Any, argument: Any = None, order: int = NORMAL) -> list[Any]:
        self.sequence += 1
        event = [time, order, self.sequence, action, argument]
        self.events.append(event)
        return event

    def cancel(self, event: list[Any]) -> None:
        event[3] = None

    def clear(self) -> None:
        for event in self.events:
            self.cancel(event)

    @property
    def pending(self) -> int:
        return sum(event[3] is not None for event in self.events)

    def next_time(self) -> int | None:
        return min((event[0] for event in self.events if event[3] is not None), default=None)

    def run(self, until: int) -> None:
        while True:
            live = [event for event in self.events if event[3] is not None and event[0] <= until]
            if not live:
                self.now = until
                return
            event = min(live, key=lambda event: event[:3])
            self.events.remove(event)
            self.now = event[0]
            delay = event[3](event[4])
            if delay is not None and event[3] is not None:
                self.sequence += 1
                event[0], event[2] = self.now + delay, self.sequence
                self.events.append(event)


def perform(
    engine: Any, script: list[Any], start: list[Any], *, until: tuple[int, ...] = (30,), deeds: int = 200
) -> list[Any]:
    log: list[Any] = []
    made: list[Any] = []

    def act(number: int) -> int | None:
        log.append((engine.now, number, engine.pending, engine.next_time()))
        if len(log) > deeds:
            return None
        again = None
        for what, value, order in script[number % len(script)]:
            if what == "schedule":
                made.append(engine.at(engine.now + value, act, len(made), order))
            elif what == "cancel" and made:
                engine.cancel(made[value % len(made)])
            elif what == "again":
                again = value
            elif what == "clear":
                engine.clear()
        return again

    for time, order in start:
        made.append(engine.at(time, act, len(made), order))
    for time in until:
        engine.run(time)
    return log


@given(scripts, starts, st.sampled_from([1, 2, 1024]))
def test_total_order(script: list[Any], start: list[Any], batch: int) -> None:
    expected = perform(Reference(), script, start)
    for engine in (Engine(), CheckedEngine()):
        engine.batch = batch
        assert perform(engine, script, start) == expected


@pytest.mark.once
@given(st.randoms(use_true_random=False), st.sampled_from([16, 64]), st.sampled_from([1, 16, 1024]))
def test_total_order_of_many(random: Any, crowd: int, batch: int) -> None:
    """So many that they are kept by day: dense and sparse times, days that get longer, shorter, and none."""
    reach = random.choice([3, 50, 2000])
    script = [
        [
            random.choice(
                [
                    ("schedule", random.choice([random.randrange(reach), reach]), random.choice(CLASSES)),
                    ("cancel", random.randrange(500), 0),
                    ("again", random.choice([0, 1, random.randrange(reach)]), 0),
                    *[("clear", 0, 0)] * (random.random() < 0.01),
                ]
            )
            for _ in range(random.randrange(3))
        ]
        for _ in range(20)
    ]
    start = [
        (random.choice([random.randrange(40), random.randrange(reach)]), random.choice(CLASSES))
        for _ in range(random.randrange(1, 300))
    ]
    until = 20, reach // 2 + 20, 4 * reach + 40
    expected = perform(Reference(), script, start, until=until, deeds=400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CROWD", crowd)
        engine = Engine()
        engine.batch = batch
        assert perform(engine, script, start, until=until, deeds=400) == expected


def test_many_that_are_far_are_kept_by_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CROWD", 64)
    engine = Engine()
    log: list[int] = []
    instants, widths = [], set()

    def act(period: int | None) -> int | None:
        log.append(engine.now)
        instants.append(len(engine._times))
        widths.add(engine._days.width)
        return period

    for time in range(2000, 0, -1):
        engine.at(time, act)
    for time in range(100):
        engine.at(10_000 + 1000 * time, act, 100_000)
    for never in (10**18, 1 << 63, 1 << 70):
        engine.at(never, act)
    engine.run(500)
    assert len(engine._times) < 64 < len(engine._days) < engine.pending == 1500 + 100 + 3
    engine.run(10**7)
    assert log == [*range(1, 2001), *range(10_000, 10**7 + 1, 1000)]
    assert max(instants) < 100
    assert len(widths) >= 4
    assert max(widths) > 1000  # days get longer where little happens
    assert (engine.pending, engine.next_time()) == (103, 10**7 + 1000)


def test_clearing_what_is_kept_by_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CROWD", 16)
    engine = Engine()
    log: list[int] = []

    def clear(_: object) -> int:
        engine.clear()
        engine.at(engine.now + 2000, log.append, engine.now)
        return 3000  # it happens again, too

    for time in range(1000):
        engine.at(time, lambda _: None)
    engine.at(30, clear)
    engine.run(5000)
    assert (log, engine.pending, engine.next_time(), engine.events) == ([30], 2, 5030, 31 + 1 + 2)
    engine.run(6030)
    assert (log, engine.pending, engine.next_time()) == ([30, 3030], 2, 8030)


def test_classes_and_sequence_at_one_instant() -> None:
    engine = Engine()
    log: list[str] = []
    engine.at(5, log.append, "report", REPORT)
    engine.at(5, log.append, "first")
    engine.at(5, lambda _: (log.append("second"), engine.at(5, log.append, "interrupt", INTERRUPT))[0])
    engine.at(5, log.append, "third")
    engine.at(5, lambda _: engine.at(5, log.append, "late") and None, None, REPORT)
    assert engine.run() == 5
    assert log == ["first", "second", "interrupt", "third", "report", "late"]


def test_a_process_is_a_generator() -> None:
    engine = Engine()
    log: list[int] = []

    def process() -> Generator[int, None, None]:
        for delay in (3, 4):
            yield delay
            log.append(engine.now)

    engine.at(10, process().send)
    engine.run()
    assert log == [13, 17]
    assert engine.pending == 0


def test_a_stop_iteration_that_is_a_mistake() -> None:
    engine = Engine()
    engine.at(1, lambda _: next(iter(())))
    with pytest.raises(StopIteration):
        engine.run()


def test_an_action_that_raises_after_others_come_again_leaves_all_in_place() -> None:
    engine = Engine()
    log: list[tuple[int, str]] = []

    def again(name: str) -> int | None:
        log.append((engine.now, name))
        return 3 if engine.now == 5 else None

    def raises(_: object) -> None:
        raise KeyError("broken")

    engine.at(5, again, "first")
    engine.at(5, raises)
    engine.at(5, again, "second")
    engine.at(6, again, "other")
    with pytest.raises(KeyError):
        engine.run()
    assert (engine.now, engine.pending, engine.events) == (5, 3, 1)
    engine.run()
    assert log == [(5, "first"), (5, "second"), (6, "other"), (8, "first"), (8, "second")]
    assert (engine.pending, engine.next_time(), engine.events) == (0, None, 5)


def test_an_action_that_raises_leaves_the_rest_in_place() -> None:
    engine = Engine()
    log: list[str] = []

    def fail(_: object) -> None:
        raise KeyError("broken")

    for time in (1, 2):
        engine.at(time, log.append, f"{time} before")
        engine.at(time, fail)
        engine.at(time, log.append, f"{time} after")
    engine.at(3, fail)
    engine.at(4, log.append, "4")
    for time in (1, 2, 3):
        with pytest.raises(KeyError):
            engine.run()
        assert engine.now == time
    engine.run()
    assert log == ["1 before", "1 after", "2 before", "2 after", "4"]
    assert (engine.pending, engine.next_time()) == (0, None)


def test_run_until_stops_the_clock_there() -> None:
    engine = Engine()
    log: list[int] = []
    engine.at(10, log.append, 10)
    engine.at(11, log.append, 11)
    assert engine.run(10) == 10
    assert engine.run(10) == 10
    assert (log, engine.next_time(), engine.pending) == ([10], 11, 1)
    assert engine.run() == 11


def test_dead_events_are_swept_and_do_not_move_the_clock() -> None:
    engine = Engine()
    log: list[int] = []
    events = [engine.at(1000 + number % 7, log.append, number) for number in range(5000)]
    for event in events[1:]:
        engine.cancel(event)
        engine.cancel(event)
    assert engine.pending == 1
    assert len(engine._events) < 10
    late = engine.at(9999, log.append, -1)
    engine.at(1, lambda _: engine.cancel(late))
    assert engine.run() == 1000
    assert log == [0]


def test_thousands_cancelled_while_running() -> None:
    engine = Engine()
    log: list[int] = []
    events = [engine.at(100 + number, log.append, number) for number in range(4000)]

    def cancel_all(_: object) -> None:
        for event in events[:-1]:
            engine.cancel(event)

    engine.at(50, cancel_all)
    engine.run()
    assert log == [3999]


@pytest.mark.parametrize("others", [0, 1, 2])
@pytest.mark.parametrize("order", [INTERRUPT, NORMAL, REPORT])
def test_clearing_within_an_action(order: int, others: int) -> None:
    engine = Engine()
    log: list[str] = []

    def clear(_: object) -> None:
        engine.clear()
        engine.at(engine.now, log.append, "now")
        engine.after(5, log.append, "later")

    for _ in range(others):
        engine.at(1, log.append, "before")
    engine.at(1, clear, None, order)
    for _ in range(others):
        engine.at(1, log.append, "lost" if order == NORMAL else "before")
    engine.at(2, log.append, "lost too", INTERRUPT)
    assert engine.run() == 6
    before = {INTERRUPT: 0, NORMAL: others, REPORT: 2 * others}[order]
    assert log == [*["before"] * before, "now", "later"]
    assert (engine.pending, engine.next_time()) == (0, None)


@pytest.mark.parametrize("make", [Engine, CheckedEngine])
def test_soon_is_at_this_instant_after_what_is_there(make: type[Engine]) -> None:
    engine = make()
    log: list[str] = []

    def act(_: object) -> None:
        engine.soon(log.append, "third")
        engine.after(0, log.append, "fourth")
        engine.cancel(engine.soon(log.append, "never"))
        engine.soon(log.append, "fifth")

    engine.at(7, act)
    engine.at(7, log.append, "second")
    engine.at(8, log.append, "last")
    engine.run()
    assert log == ["second", "third", "fourth", "fifth", "last"]


def test_the_past_is_refused() -> None:
    engine = Engine()
    engine.run(10)
    with pytest.raises(SimulationError, match="in the past of 10"):
        engine.at(9, print)
    with pytest.raises(SimulationError, match="past"):
        engine.after(-1, print)
    with pytest.raises(SimulationError, match="past"):
        engine.run(9)


def test_an_action_may_not_run_the_engine() -> None:
    engine = Engine()
    engine.at(1, lambda _: engine.run())
    with pytest.raises(SimulationError, match="already running"):
        engine.run()


def test_it_counts_the_actions_and_lets_others_work_between() -> None:
    engine = Engine()
    calls: list[int] = []
    engine.idle_work = lambda: calls.append(engine.now)
    for number in range(3000):
        engine.at(number, lambda _: None)
    engine.cancel(engine.at(7, print))
    engine.run()
    assert engine.events == 3000
    assert len(calls) == 3


def test_streams_belong_to_seed_owner_and_object() -> None:
    streams = Streams(1)
    first = streams.stream("a", "x").random()
    assert streams.stream("a", "x") is streams.stream("a", "x")
    others = Streams(1)
    others.stream("b", "x").random()  # somebody else draws
    assert others.stream("a", "x").random() == first
    drawn = {Streams(seed).stream(owner, name).random() for seed in (1, 2) for owner in "ab" for name in "xy"}
    assert len(drawn) == 8


# What must not be


class Owner:
    def again(self, delay: object) -> object:
        return delay


@pytest.mark.parametrize("make", [Engine, CheckedEngine])
@pytest.mark.parametrize("order", [NORMAL, INTERRUPT])
def test_an_action_that_returns_a_time_in_the_past(make: type[Engine], order: int) -> None:
    engine = make()
    engine.at(10, Owner().again, -5, order)
    with pytest.raises(SimulationError, match=r"Owner.again returned -5; expected None, or the ns"):
        engine.run()
    assert engine.now == 10


@pytest.mark.parametrize("make", [Engine, CheckedEngine])
@pytest.mark.parametrize("action", [Owner().again, functools.partial(Owner().again)])
def test_an_instant_without_end_is_noticed(
    make: type[Engine], action: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVENTS_AT_ONE_INSTANT", 5000)
    engine = make()
    for _ in range(4000):  # much may happen at one instant
        engine.at(10, lambda _: None)
    engine.run()
    engine.at(20, action, 0)
    with pytest.raises(SimulationError, match=r"5000 events happened at 20 ns.*Owner.again is called next"):
        engine.run()


def test_a_process_without_end_at_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "EVENTS_AT_ONE_INSTANT", 5000)

    def process() -> Generator[int, None, None]:
        while True:
            yield 0

    engine = Engine()
    engine.at(10, process().send)
    with pytest.raises(SimulationError, match=r"the process .*process is called next"):
        engine.run()


def test_a_checked_engine_takes_whole_times_and_functions_only() -> None:
    engine = CheckedEngine()
    with pytest.raises(SimulationError, match=r"scheduled at 0.5 ns; expected a whole number"):
        engine.after(0.5, print)  # type: ignore[arg-type]
    with pytest.raises(SimulationError, match="calls 5; expected a function"):
        engine.at(1, 5)  # type: ignore[arg-type]
    again = Owner().again
    engine.at(1, again, 1.5)
    with pytest.raises(SimulationError, match=r"returned 1.5; expected None"):
        engine.run()
    assert engine.acting == (again, 1.5)

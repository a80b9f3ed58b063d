"""Thread pools: the mechanism alone, with exact small cases, and random use of all of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    CleanupGroup,
    CompletionPort,
    Compute,
    Dequeue,
    Machine,
    Post,
    PostWork,
    ReleaseGroup,
    Request,
    SetPoolTimer,
    Sleep,
    Thread,
    ThreadPool,
    ThreadPoolPolicy,
    Work,
)
from ntlab.plugin import option, plugin
from ntlab.testing import boot, bursts

USER = ThreadPoolPolicy(
    kernel=False,
    concurrency=2,
    idle=1000,
    growth=100,
    cancels=False,
    several=False,
    rearms=True,
    post=("post",),
    take=("take",),
    add=("one", "two"),
    set_timer=("timer",),
    wait=("wait",),
)
KERNEL = ThreadPoolPolicy(idle=200, post=("post",), take=("take",), wait=("wait",), set_timer=("timer",))


@plugin(name="pooling", summary="The rules of pools as a test wants them.", release="ws2003")
class Pooling:
    policy: ThreadPoolPolicy = option(default=KERNEL, help="The rules.")

    @hookimpl
    def thread_pool_policy(self) -> ThreadPoolPolicy:
        return self.policy

    @hookimpl
    def adds_worker(self, pool: ThreadPool, occasion: str) -> bool | None:
        if self.policy.kernel:
            return None
        late = pool.machine.engine.now - pool.last_added >= self.policy.growth
        return not pool.workers or (late and bool(pool.port.packets))


def pool_of(processors: int = 1, policy: ThreadPoolPolicy = KERNEL, **how: Any) -> tuple[Machine, ThreadPool]:
    machine = boot(processors, [Pooling(policy=policy)], **how)
    return machine, machine.thread_pools.create(machine.create_process("p"), "pool")


def computing(*work: int) -> Callable[[], Iterator[Request]]:
    return lambda: bursts(*work)


def asking(*requests: Request) -> Iterator[Request]:
    """A program that takes no notice of what it receives."""
    yield from (request for request in requests)


def run(machine: Machine, pool: ThreadPool, program: Iterator[Request], until: int | None = None) -> None:
    machine.create_thread(pool.process, program, name="main", priority=15)
    machine.run(until)
    machine.check()


def reasons(pool: ThreadPool) -> dict[str, int]:
    return {name: count for (_, name), count in pool.calls.items()}


# -- who runs


@pytest.mark.parametrize("processors", [1, 3])
def test_the_kernel_has_as_many_workers_as_processors_while_none_blocks(processors: int) -> None:
    machine, pool = pool_of(processors)
    run(machine, pool, iter([PostWork(Work(pool, computing(50)))] * 12))
    assert (pool.added, pool.begun, pool.ended) == (processors, 12, 12)
    assert max(threads for _, threads in pool.history) == processors
    assert machine.engine.now == 12 // processors * 50 + 200  # all have ended, after their idle time
    assert pool.workers == []
    assert reasons(pool) == {"post": 12, "take": 12 + processors}


def test_the_kernel_adds_a_worker_for_each_that_blocks_and_no_more() -> None:
    machine, pool = pool_of(2)
    blocks = Work(pool, lambda: iter([Sleep(1000)]))
    run(machine, pool, iter([PostWork(blocks)] * 9), until=500)
    assert (pool.added, len(pool.running)) == (9, 9)


def test_no_more_than_the_maximum_and_work_waits_then() -> None:
    machine, pool = pool_of(2)
    pool.limit(0, 3)
    run(machine, pool, iter([PostWork(Work(pool, lambda: iter([Sleep(100)])))] * 9))
    assert pool.added == 3
    assert machine.engine.now == 300 + 200


def test_as_many_as_the_minimum_are_there_from_the_beginning_and_stay() -> None:
    machine, pool = pool_of(4)
    pool.limit(2, 4)
    assert len(pool.workers) == 2
    run(machine, pool, iter([PostWork(Work(pool, lambda: iter([Sleep(50)])))] * 4))
    assert (pool.added, len(pool.workers), pool.retired) == (4, 2, 2)


@pytest.mark.parametrize("limits", [(1, 4), (0, 3), (0, 10)])
def test_in_user_mode_a_worker_comes_each_interval(limits: tuple[int, int]) -> None:
    machine, pool = pool_of(4, USER)
    pool.limit(*limits)
    machine.create_thread(pool.process, iter([PostWork(Work(pool, lambda: iter([Sleep(2000)])))] * 10))
    for time in range(50, 1200, 100):
        machine.run(time)
        assert len(pool.workers) == min(limits[1], 1 + time // 100)
    machine.check()
    assert reasons(pool)["two"] == reasons(pool)["one"] == pool.added


def test_in_user_mode_nobody_learns_of_a_worker_that_blocks() -> None:
    machine, pool = pool_of(4, USER)
    run(machine, pool, iter([PostWork(Work(pool, lambda: iter([Sleep(30)])))] * 3), until=3000)
    assert pool.added == 1
    stops = [time for time, _ in pool.history]
    assert stops == [0, 0, 90 + 1000]  # the timekeeper, the worker, and its end after the idle time


def test_a_system_call_costs_the_thread_that_makes_it() -> None:
    costly = ThreadPoolPolicy(idle=200, post=("a", "b"), take=("c",), call_time=5)
    machine, pool = pool_of(1, costly, trace=True)
    run(machine, pool, iter([PostWork(Work(pool, computing(50)))] * 2))
    ends = {
        machine.tracer.records is not None and record["tid"]: record["run_time"]
        for record in machine.tracer.records("Thread/End")
    }
    assert sorted(ends.values()) == [2 * 2 * 5, 2 * 50 + 3 * 5]


@plugin(name="growing", summary="Processors may come.", release="ws2003")
class Growing:
    @hookimpl
    def partition_support(self) -> bool:
        return True

    @hookimpl
    def gets_processor(self) -> bool:
        return True


def test_processors_are_counted_again_when_someone_says_so() -> None:
    machine = boot(3, [Pooling(), Growing()])
    machine.partitioning.set_aside(1)
    pool = machine.thread_pools.create(machine.create_process("p"), "pool")
    machine.create_thread(pool.process, iter([PostWork(Work(pool, computing(10**9)))] * 8))
    machine.partitioning.add_processor()
    machine.run(10**9 // 2)
    assert len(pool.running) == pool.port.concurrency == 2
    pool.count_processors()
    machine.run(10**9 // 2 + 1)
    assert len(pool.running) == pool.port.concurrency == pool.added == 3


# -- groups


def test_what_has_not_begun_is_taken_back_and_what_has_is_awaited() -> None:
    machine, pool = pool_of(2)
    group, others = CleanupGroup("mine"), CleanupGroup("others")
    mine = Work(pool, computing(100), group=group)
    theirs = Work(pool, computing(100), group=others)
    seen: list[tuple[int, int]] = []

    def program() -> Generator[Request, Any, None]:
        for _ in range(5):
            yield PostWork(mine)
            yield PostWork(theirs)
        yield Sleep(30)
        count = yield ReleaseGroup(group, cancel=True)
        seen.append((machine.engine.now, count))

    run(machine, pool, program())
    assert seen == [(100, 4)]
    assert (pool.begun, pool.cancelled, mine.pending, theirs.pending) == (6, 4, 0, 0)
    assert pool.port.posted == pool.port.removed == 10


def test_without_cancelling_all_is_awaited() -> None:
    machine, pool = pool_of(1, USER)
    group = CleanupGroup("all")
    work = Work(pool, computing(100), group=group)
    seen: list[int] = []

    def program() -> Iterator[Request]:
        for _ in range(5):
            yield PostWork(work)
        yield ReleaseGroup(group)
        seen.append(machine.engine.now)

    run(machine, pool, program(), until=5000)
    assert seen == [500]


def test_an_empty_group_is_released_at_once() -> None:
    machine, pool = pool_of()
    run(machine, pool, asking(ReleaseGroup(CleanupGroup("empty"), cancel=True)))
    assert machine.engine.now == 0


# -- waits and timers


@pytest.mark.parametrize("policy", [USER, KERNEL])
def test_registered_waits(policy: ThreadPoolPolicy) -> None:
    machine, pool = pool_of(1, policy)
    ran: list[int] = []

    def body() -> Iterator[Request]:
        ran.append(machine.engine.now)
        return iter(())

    waits = [pool.register_wait(Work(pool, body)) for _ in range(64)]
    assert [len(waiter.waits) for waiter in pool.waiters] == [63, 1]
    for time in (100, 200):
        machine.engine.at(time, lambda _: waits[63].signal())
    machine.run(300)
    # Before, a wait waits again by itself; after, it must be told to, and finds what was signalled meanwhile.
    assert ran == ([100, 200] if policy.rearms else [100])
    pool.arm(waits[63])
    machine.run(400)
    assert ran == ([100, 200] if policy.rearms else [100, 300])
    assert pool.calls["wait", "wait"] >= 2 + len(ran)
    machine.check()


@pytest.mark.parametrize("policy", [USER, KERNEL])
def test_timers(policy: ThreadPoolPolicy) -> None:
    machine, pool = pool_of(2, policy)
    ran: list[tuple[str, int]] = []

    def body(name: str) -> Callable[[], Iterator[Request]]:
        def begin() -> Iterator[Request]:
            ran.append((name, machine.engine.now))
            return iter(())

        return begin

    once, often = Work(pool, body("once")), Work(pool, body("often"))
    run(machine, pool, iter([SetPoolTimer(often, 100, 50), SetPoolTimer(once, 120)]), until=210)
    assert ran == [("often", 100), ("once", 120), ("often", 150), ("often", 200)]
    # In user mode the pool's own thread wakes for each and posts it; in the kernel nobody makes a call.
    assert pool.calls["post", "post"] == (0 if policy.kernel else 4)
    assert pool.calls["set timer", "timer"] == 2
    assert pool.threads == len(pool.workers) + (not policy.kernel)


def test_priorities() -> None:
    order: list[str] = []
    for priorities in (False, True):
        machine, pool = pool_of(1, ThreadPoolPolicy(priorities=priorities))

        def body(name: str) -> Callable[[], Iterator[Request]]:
            def begin() -> Iterator[Request]:
                order.append(name[0])
                return bursts(10)

            return begin

        posts = [
            PostWork(Work(pool, body(name), priority=name))  # type: ignore[arg-type]
            for name in ("low", "normal", "high", "normal", "low", "high")
        ]
        run(machine, pool, iter([Compute(1), *posts]))
    assert "".join(order) == "lnhnlh" + "hhnnll"


# -- the port's timeouts


def test_a_wait_on_a_port_that_ends() -> None:
    machine = boot(1)
    port = CompletionPort(machine, "port")
    got: list[tuple[int, object]] = []

    def program() -> Generator[Request, Any, None]:
        for timeout in (50, 500):
            packet = yield Dequeue(port, timeout)
            got.append((machine.engine.now, packet and packet.key))

    process = machine.create_process("p")
    machine.create_thread(process, program())
    machine.create_thread(process, iter([Sleep(80), Post(port, key=7)]))
    machine.run()
    assert got == [(50, None), (80, 7)]
    assert machine.engine.now == 80  # the second timeout is gone
    machine.check()


def test_discarded_packets_are_the_last_ones() -> None:
    machine = boot(1)
    port = CompletionPort(machine, "port")
    for key in range(5):
        port.put(key)
    assert port.discard(2) == 2
    assert [packet.key for packet in port.packets] == [0, 1, 2]
    assert port.discard(9) == 3
    port.check()


# -- mistakes


def fails(pool: ThreadPool, program: Iterator[Request], match: str) -> None:
    pool.machine.create_thread(pool.process, program)
    with pytest.raises(UserError, match=match):
        pool.machine.run(10_000)


@pytest.mark.parametrize("limits", [(3, 2), (0, 0), (-1, 2), (2, -1)])
def test_limits_that_make_no_sense(limits: tuple[int, int]) -> None:
    _, pool = pool_of()
    with pytest.raises(UserError, match=r"workers of pool 'pool'; expected a maximum of 1 or more"):
        pool.limit(*limits)


def test_work_of_a_released_group() -> None:
    _, pool = pool_of()
    group = CleanupGroup("gone")
    work = Work(pool, computing(1), group=group)
    fails(pool, asking(ReleaseGroup(group), PostWork(work)), "not to be released before")
    with pytest.raises(UserError, match="a group that is not released"):
        Work(pool, computing(1), group=group)
    _, pool = pool_of()
    group = CleanupGroup("twice")
    fails(pool, asking(ReleaseGroup(group), ReleaseGroup(group)), "expected once")


def test_a_group_released_by_its_own_work() -> None:
    _, pool = pool_of()
    group = CleanupGroup("own")
    work = Work(pool, lambda: iter([ReleaseGroup(group)]), group=group)
    fails(pool, iter([PostWork(work)]), "would wait for itself for ever")


def test_cancelling_where_there_is_no_such_thing() -> None:
    _, pool = pool_of(1, USER)
    group = CleanupGroup("all")
    Work(pool, computing(1), group=group)
    fails(pool, iter([ReleaseGroup(group, cancel=True)]), "expected not before Server 2008")


def test_a_waiter_that_is_full() -> None:
    _, pool = pool_of()
    work = Work(pool, computing(1))
    waiter = pool.register_wait(work).waiter
    for _ in range(62):
        pool.register_wait(work)
    with pytest.raises(UserError, match="64 handles on one waiter of pool 'pool'; expected 63 at most"):
        pool.register_wait(work, waiter)


@pytest.mark.parametrize("times", [(10, -1), (-1, 0)])
def test_a_timer_that_runs_backwards(times: tuple[int, int]) -> None:
    _, pool = pool_of()
    fails(pool, iter([SetPoolTimer(Work(pool, computing(1)), *times)]), "expected neither to be negative")


def test_a_second_pool_of_a_process() -> None:
    machine, pool = pool_of(1, USER)
    with pytest.raises(UserError, match="a second thread pool of process 'p'"):
        machine.thread_pools.create(pool.process, "second")
    machine, pool = pool_of()
    assert machine.thread_pools.create(pool.process, "second") is machine.thread_pools.pools[1]


# -- anything


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.integers(0, 3)),
        st.tuples(st.just("sleep"), st.integers(0, 400)),
        st.tuples(st.just("timer"), st.integers(0, 3)),
        st.tuples(st.just("signal"), st.integers(0, 1)),
        st.tuples(st.just("release"), st.booleans()),
    ),
    max_size=40,
)


@pytest.mark.once
@settings(max_examples=60)
@given(st.sampled_from([USER, KERNEL]), st.integers(1, 3), st.integers(0, 2), st.integers(1, 5), STEPS)
def test_nothing_is_lost(
    policy: ThreadPoolPolicy, processors: int, minimum: int, room: int, steps: list[tuple[str, Any]]
) -> None:
    machine, pool = pool_of(processors, policy, hooks="checked", check_every=1)
    pool.limit(minimum, max(1, minimum + room - 1))
    group = CleanupGroup("group")
    programs: list[list[Request]] = [[Compute(30)], [Sleep(70)], [Compute(10), Compute(200)], [Sleep(5)]]
    bodies = [lambda program=program: iter(program) for program in programs]
    works = [Work(pool, body, group=group if k % 2 else None) for k, body in enumerate(bodies)]
    waits = [pool.register_wait(works[0]), pool.register_wait(works[2])]

    def program() -> Iterator[Request]:
        for what, value in steps:
            if what == "post" and not (group.released and value % 2):
                yield PostWork(works[value])
            elif what == "timer":
                yield SetPoolTimer(works[value - value % 2], 40 * value)
            elif what == "signal":
                waits[value].signal()
            elif what == "release" and not group.released:
                yield ReleaseGroup(group, cancel=value and policy.cancels)
                assert not group.busy
            elif what == "sleep":
                yield Sleep(value)

    main: Thread = machine.create_thread(pool.process, program())
    machine.run(200_000)
    machine.check()
    assert main.id not in machine.threads
    assert pool.posted == pool.ended + pool.cancelled
    assert not pool.pending
    assert len(pool.workers) == min(minimum, pool.added)

"""Completion ports and the APCs of the baseline (scheduling facts 3.1)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.engine import REPORT
from ntlab.errors import SimulationError, UserError
from ntlab.hooks import hookimpl
from ntlab.machine import (
    Acquire,
    CompletionPort,
    Compute,
    Dequeue,
    Disk,
    DiskModel,
    File,
    Io,
    IoPolicy,
    IoRequest,
    Layer,
    Machine,
    Packet,
    Post,
    Read,
    Release,
    Request,
    Sleep,
    Thread,
)
from ntlab.machine.apcs import queue_apc
from ntlab.machine.io import CANCELLED, COMPLETED, COMPLETING, PENDING, SUCCESS
from ntlab.machine.ports import WR_QUEUE
from ntlab.machine.threads import WAITING
from ntlab.plugin import option, plugin
from ntlab.quantities import GIB, Duration, Rate, Size
from ntlab.testing import boot, rules

Program = Generator[Request, Any, None]


@plugin(name="apc_rules", summary="Completion by the issuer, as in 2003.", release="ws2003")
class IssuerCompletes:
    plan: Any = option(default="apc", help="The plan.")
    completion_time: int = option(default=3, help="The final step.")

    @hookimpl
    def completion_plan(self, request: IoRequest) -> Any:
        return self.plan

    @hookimpl
    def io_policy(self) -> IoPolicy:
        return IoPolicy(completion_time=Duration(self.completion_time))

    @hookimpl
    def boosted_priority(self, thread: Thread, increment: int) -> int:
        return max(thread.priority, thread.base_priority + increment)


def disk_of(machine: Machine, latency: int) -> Disk:
    model = DiskModel(capacity=Size(GIB), rate=Rate(1 << 60), controller=Duration(latency))
    return machine.io.create_disk("disk", model=model)


class Server:
    """A port, and threads that write down what they take from it."""

    def __init__(self, machine: Machine, threads: int = 0, concurrency: int = 1, work: int = 100) -> None:
        self.machine = machine
        self.port = CompletionPort(machine, "port", concurrency)
        self.process = machine.create_process("server")
        self.taken: list[tuple[int, str, int]] = []  # time, thread, key
        self.threads = [self.add(self.serve(work)) for _ in range(threads)]

    def add(self, program: Iterator[Request]) -> Thread:
        return self.machine.create_thread(self.process, program)

    def took(self, packet: Packet, thread: str) -> None:
        self.taken.append((self.machine.engine.now, thread, packet.key))

    def serve(self, work: int) -> Program:
        return self._serve(work, f"{self.process.threads_created}")

    def _serve(self, work: int, name: str) -> Program:
        while True:
            packet = yield Dequeue(self.port)
            self.took(packet, name)
            yield Compute(work)

    def post(self, time: int, *keys: int) -> None:
        for key in keys:
            self.machine.engine.at(time, self.port.put, key)

    def switches(self) -> int:
        return sum(processor.context_switches for processor in self.machine.processors)


# -- the queue


def test_one_thread_takes_all_packets_of_a_queue_that_is_not_empty() -> None:
    server = Server(boot(1), threads=4)
    server.post(1000, *range(10))
    server.machine.run(1000)
    before = server.switches()
    server.machine.run()
    assert server.taken == [(1000 + 100 * k, "3", k) for k in range(10)]
    assert server.switches() - before == 1  # when it waits again


def test_packets_leave_first_in_first_out_and_threads_last_in_first_out() -> None:
    server = Server(boot(4), threads=4, concurrency=3)
    server.post(1000, *range(5))
    server.machine.run()
    assert server.taken == [(1000, "3", 0), (1000, "2", 1), (1000, "1", 2), (1100, "3", 3), (1100, "2", 4)]
    server.post(2000, 5)
    server.machine.run()
    assert server.taken[-1] == (2000, "2", 5)  # the last to begin its wait
    assert (server.port.posted, server.port.removed, server.port.releases) == (6, 6, 4)


def test_concurrency_zero_means_the_number_of_processors() -> None:
    machine = boot(3)
    assert CompletionPort(machine, "port").concurrency == 3


def test_a_thread_that_blocks_elsewhere_lets_another_run_and_is_not_held_back_itself() -> None:
    server = Server(boot(4))
    port = server.port
    counts: list[int] = []

    def sleeper() -> Program:
        packet = yield Dequeue(port)
        server.took(packet, "sleeper")
        yield Sleep(50)
        counts.append(port.active)
        yield Compute(100)
        packet = yield Dequeue(port)
        server.took(packet, "sleeper")

    server.add(server.serve(100))
    server.machine.run(10)  # it waits first, so the other is released first
    server.add(sleeper())
    server.post(1000, 1, 2, 3, 4)
    server.machine.run()
    # At 1050 both run. When one asks again at 1100 the other still does: it waits, though there are packets.
    assert counts == [2]
    assert server.taken == [(1000, "sleeper", 1), (1000, "0", 2), (1150, "sleeper", 3), (1150, "0", 4)]
    assert port.active == 0


def test_a_thread_belongs_to_the_port_it_last_waited_on() -> None:
    server = Server(boot(2))
    first, second = server.port, CompletionPort(server.machine, "second", 1)
    seen: list[tuple[int, int]] = []

    def program() -> Program:
        yield Dequeue(first)
        seen.append((first.active, second.active))
        yield Dequeue(second)
        seen.append((first.active, second.active))

    thread = server.add(program())
    first.put(0)
    second.put(0)
    server.machine.run()
    assert seen == [(1, 0), (0, 1)]
    assert (first.active, second.active, thread.port) == (0, 0, None)  # it has ended


def test_a_thread_that_ends_makes_room_for_another() -> None:
    server = Server(boot(2))

    def once(work: int) -> Program:
        packet = yield Dequeue(server.port)
        server.took(packet, "once")
        yield Compute(work)

    server.add(once(70))
    server.add(once(50))
    server.post(1000, 1, 2)
    server.machine.run()
    assert [time for time, _, _ in server.taken] == [1000, 1050]


def test_a_thread_made_to_wait_from_outside_makes_room_too() -> None:
    server = Server(boot(2), threads=2)
    machine = server.machine
    server.post(1000, 1, 2)
    machine.engine.at(1010, machine.scheduler.block, server.threads[1])
    machine.engine.at(1020, machine.scheduler.wake, server.threads[1])
    machine.run()
    assert server.taken == [(1000, "1", 1), (1010, "0", 2)]


def test_threads_can_post() -> None:
    server = Server(boot(1), threads=1)

    def poster() -> Program:
        yield Post(server.port, 7)
        yield Post(server.port, 8)

    server.add(poster())
    server.machine.run()
    assert [key for _, _, key in server.taken] == [7, 8]


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("compute"), st.integers(0, 30)),
        st.tuples(st.just("sleep"), st.integers(0, 30)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("end"), st.just(0)),
    ),
    max_size=3,
)


@pytest.mark.once
@given(
    st.integers(1, 3),
    st.integers(0, 4),
    st.lists(STEPS, min_size=1, max_size=5),
    st.lists(st.integers(0, 200), max_size=25),
    st.sampled_from(["apc", "port"]),
    st.sampled_from(["direct", "plain"]),
)
@settings(max_examples=100, deadline=None)
def test_invariants(
    processors: int, concurrency: int, steps: list[list[Step]], posts: list[int], plan: str, mode: Any
) -> None:
    plugins = [IssuerCompletes(plan=plan), rules(quantum=7, switch_cost=1)]
    machine = boot(processors, plugins, trace=True, hooks=mode)
    server = Server(machine, concurrency=concurrency)
    port = server.port
    file = File("file", disk_of(machine, 11), 0, 4096)
    file.bind(port, -1)
    reads: list[IoRequest] = []
    ended: list[IoRequest] = []

    def worker(todo: list[Step]) -> Program:
        while True:
            packet = yield Dequeue(port)
            if packet.request is not None:
                assert packet.request.state == COMPLETED
                ended.append(packet.request)
                continue
            server.took(packet, "")
            for what, time in todo:
                if what == "end":
                    return
                elif what == "read":
                    reads.append((yield Read(file, 0, 512)))
                else:
                    yield Compute(time) if what == "compute" else Sleep(time)

    threads = [server.add(worker(todo)) for todo in [[], *steps]]  # the first one stays whatever happens
    for key, time in enumerate(sorted(posts)):
        server.post(time, key)

    def look(_: object) -> int:
        awake = [t for t in threads if t.state != WAITING and t.port is port]
        assert port.active == len(awake)
        assert not (port.packets and port.waiters and port.active < port.concurrency)
        assert len(set(port.waiters)) == len(port.waiters)
        assert all(t.waiting_for is port and t.state == WAITING for t in port.waiters)
        return 3

    machine.engine.at(0, look, None, REPORT)
    machine.run(5000)
    assert sorted(key for _, _, key in server.taken) == list(range(len(posts)))  # none lost, none twice
    queued, removed = (
        [record["irp"] for record in machine.tracer.records(f"IoQueue/{kind}")]
        for kind in ("Enqueue", "Dequeue")
    )
    assert queued == removed  # first in, first out
    assert {id(r) for r in ended} == {id(r) for r in reads}
    assert len(ended) == len(reads)
    assert port.removed == port.posted == len(posts) + len(reads)
    assert (port.active, machine.io.pending) == (0, 0)


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(0, 300), max_size=30))
@settings(max_examples=60, deadline=None)
def test_without_other_waits_never_more_than_the_concurrency_run(
    processors: int, concurrency: int, posts: list[int]
) -> None:
    machine = boot(processors)
    server = Server(machine, threads=5, concurrency=concurrency, work=37)
    for key, time in enumerate(sorted(posts)):
        server.post(time, key)
    most = 0

    def look(_: object) -> int:
        nonlocal most
        most = max(most, server.port.active)
        return 1

    machine.engine.at(0, look, None, REPORT)
    machine.run(3000)
    assert len(server.taken) == len(posts)
    assert most <= concurrency


# -- requests that end at a port


@pytest.mark.parametrize(("plan", "switches"), [("apc", 2), ("port", 0)])
def test_an_issuer_that_waits_costs_two_switches_in_2003(plan: str, switches: int) -> None:
    machine = boot(1, [IssuerCompletes(plan=plan)])
    server = Server(machine)
    file = File("file", disk_of(machine, 1500), 0, 4096)
    file.bind(server.port, 9)

    def issuer() -> Program:
        yield Read(file, 0, 512)
        packet = yield Dequeue(server.port)
        server.took(packet, "issuer")

    waiting = server.add(issuer())
    server.add(server.serve(1000))
    server.post(1000, 1)
    machine.run(1400)
    before = server.switches()
    machine.run(1900)
    assert server.switches() - before == switches
    assert (waiting.waiting_for, waiting.wait_reason) == (server.port, WR_QUEUE)
    machine.run()
    # The final step's work came in between in 2003, and comes with the removal in 2008.
    assert server.taken == [(1000, "1", 1), (2003, "1", 9)]


@pytest.mark.parametrize("plan", ["apc", "port"])
def test_an_issuer_that_runs_costs_no_switch(plan: str) -> None:
    machine = boot(1, [IssuerCompletes(plan=plan)])
    server = Server(machine)
    file = File("file", disk_of(machine, 500), 0, 4096)
    file.bind(server.port, 9)
    seen: list[Any] = []

    def issuer() -> Program:
        request = yield Read(file, 0, 512)
        seen.append(request.state)
        yield Compute(1000)
        seen.append((machine.engine.now, request.state, len(server.port.packets)))
        packet = yield Dequeue(server.port)
        seen.append((machine.engine.now, packet.request is request, request.state, request.status))

    server.add(issuer())
    machine.run()
    # In 2003 it is complete before the burst ends; in 2008 when it is removed. Either costs the final step.
    before = (1003, COMPLETED, 1) if plan == "apc" else (1000, COMPLETING, 1)
    assert seen == [PENDING, before, (1003, True, COMPLETED, SUCCESS)]
    assert server.switches() == 2  # the thread begins and ends


def test_requests_die_with_their_issuer_in_2003_and_survive_in_2008() -> None:
    def statuses(plan: str) -> list[tuple[int, int]]:
        machine = boot(1, [IssuerCompletes(plan=plan)])
        server = Server(machine)
        file = File("file", disk_of(machine, 500), 0, 4096)
        file.bind(server.port)
        found: list[tuple[int, int]] = []

        def issuer() -> Program:
            yield Read(file, 0, 512)
            yield Compute(10)

        def other() -> Program:
            packet = yield Dequeue(server.port)
            found.append((machine.engine.now, packet.request.status))

        server.add(issuer())
        server.add(other())
        machine.run()
        assert machine.io.pending == 0
        return found

    assert statuses("apc") == [(10, CANCELLED)]
    assert statuses("port") == [(503, SUCCESS)]


class Slow(Layer):
    """Keeps each request for a while."""

    def dispatch(self, io: Io, request: IoRequest) -> None:
        io.engine.after(100, io.pass_down, request)


@plugin(name="small_transfers", summary="Splits.", release="ws2003")
class SmallTransfers:
    @hookimpl
    def max_transfer(self, request: IoRequest) -> int:
        return 512


@pytest.mark.parametrize(("end", "reads"), [(50, 0), (150, 2)])
def test_a_cancelled_request_ends_once_wherever_it_is(end: int, reads: int) -> None:
    machine = boot(1, [IssuerCompletes(), SmallTransfers()])
    server = Server(machine, threads=1)
    disk = disk_of(machine, 100)
    disk.attach(Slow())
    file = File("file", disk, 0, 4096)
    file.bind(server.port, 4)

    def issuer() -> Program:
        yield Read(file, 0, 1024)
        yield Compute(end)

    server.add(issuer())
    machine.run()
    assert server.taken == [(end, "0", 4)]
    assert (disk.reads, machine.io.pending) == (reads, 0)  # what the device has begun it finishes


# -- APCs


def test_an_apc_comes_first_and_takes_nothing_from_the_burst() -> None:
    machine = boot(1)
    seen: list[tuple[str, int]] = []

    def program() -> Program:
        yield Compute(1000)
        seen.append(("burst", machine.engine.now))

    thread = machine.create_thread(machine.create_process("p"), program())
    for time, name in ((400, "a"), (410, "b"), (410, "c")):
        machine.engine.at(
            time, lambda n: queue_apc(thread, 50, lambda _: seen.append((n, machine.engine.now))), name
        )
    machine.run()
    assert seen == [("a", 450), ("b", 500), ("c", 550), ("burst", 1150)]
    assert thread.run_time == 1150


def test_a_ready_thread_runs_its_apc_when_its_turn_comes() -> None:
    machine = boot(1, [rules(quantum=100)])
    seen: list[tuple[str, int]] = []

    def program(name: str) -> Program:
        yield Compute(150)
        seen.append((name, machine.engine.now))

    process = machine.create_process("p")
    machine.create_thread(process, program("first"))
    second = machine.create_thread(process, program("second"))
    machine.engine.at(10, lambda _: queue_apc(second, 20, lambda _: seen.append(("apc", machine.engine.now))))
    machine.run()
    assert seen == [("apc", 120), ("first", 250), ("second", 320)]


@pytest.mark.parametrize(("sleep", "woken"), [(1000, 1000), (30, 60)])
def test_a_sleeper_runs_its_apc_and_sleeps_on_if_there_is_time_left(sleep: int, woken: int) -> None:
    machine = boot(1)
    seen: list[tuple[str, int]] = []

    def program() -> Program:
        yield Sleep(sleep)
        seen.append(("woken", machine.engine.now))

    thread = machine.create_thread(machine.create_process("p"), program())
    machine.engine.at(10, lambda _: queue_apc(thread, 50, lambda _: seen.append(("apc", machine.engine.now))))
    machine.run()
    assert seen == [("apc", 60), ("woken", woken)]


def test_at_dispatch_level_an_apc_waits() -> None:
    machine = boot(1)
    lock = machine.create_lock("lock")
    seen: list[tuple[str, int]] = []

    def program() -> Program:
        yield Acquire(lock)
        yield Compute(100)
        yield Release(lock)
        yield Compute(100)
        seen.append(("end", machine.engine.now))

    thread = machine.create_thread(machine.create_process("p"), program())
    began: list[bool] = []
    machine.engine.at(10, lambda _: queue_apc(thread, 0, lambda _: began.append(lock.holder is None)))
    machine.engine.at(10, lambda _: queue_apc(thread, 5, lambda _: seen.append(("apc", machine.engine.now))))
    machine.run()
    assert began == [True]
    assert seen == [("apc", 105), ("end", 205)]


def test_a_result_on_its_way_survives_an_apc() -> None:
    machine = boot(1, [rules(quantum=1000)])
    server = Server(machine, threads=1)
    hog = machine.create_thread(server.process, iter([Compute(2000), Compute(1)]))
    server.post(500, 5)
    machine.engine.at(600, lambda _: queue_apc(server.threads[0], 5, lambda _: None))
    machine.run()
    assert hog.run_time == 2001
    assert server.taken == [(1005, "0", 5)]


# -- refusals


@pytest.mark.parametrize("concurrency", [-1, 65])
def test_concurrency_out_of_range(concurrency: int) -> None:
    with pytest.raises(UserError, match="0 to 64"):
        CompletionPort(boot(1), "port", concurrency)


def test_a_closed_port_is_closed() -> None:
    machine = boot(1)
    port = CompletionPort(machine, "port")
    port.put(1)
    with pytest.raises(SimulationError, match="1 packets"):
        port.close()
    port = CompletionPort(machine, "other")
    port.close()
    with pytest.raises(SimulationError, match=r"put into .* closed"):
        port.put(1)
    machine.create_thread(machine.create_process("p"), iter([Dequeue(port)]))
    with pytest.raises(SimulationError, match=r"waits on .* closed"):
        machine.run()


def test_a_file_has_one_port() -> None:
    machine = boot(1)
    file = File("file", disk_of(machine, 1), 0, 512)
    file.bind(CompletionPort(machine, "one"))
    with pytest.raises(SimulationError, match="two completion ports"):
        file.bind(CompletionPort(machine, "two"))


def test_a_packet_ends_its_request_once() -> None:
    machine = boot(1)
    server = Server(machine, threads=1)
    request = IoRequest("read", disk_of(machine, 5), 0, 512, port=server.port, key=3)
    machine.io.submit(request)
    machine.run()
    assert [key for _, _, key in server.taken] == [3]
    with pytest.raises(SimulationError, match="it is completed"):
        machine.io.completed(request)

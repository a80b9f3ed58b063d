"""Stages, disks and requests on their way (io facts 1; scheduling facts 14.1, 14.2)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Generator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.engine import INTERRUPT, REPORT, Engine
from ntlab.errors import SimulationError, UnknownNameError, UserError
from ntlab.hooks import hookimpl
from ntlab.lab.statistics import estimate
from ntlab.machine import (
    PRESETS,
    Compute,
    Device,
    Disk,
    DiskModel,
    File,
    Io,
    IoPolicy,
    IoRequest,
    Layer,
    Mailbox,
    Read,
    Receive,
    Request,
    SeekCurve,
    Stage,
    Write,
)
from ntlab.machine.io import COMPLETED, CRITICAL, PAGING_IO, SUCCESS
from ntlab.plugin import option, plugin
from ntlab.quantities import GIB, KIB, MIB, MILLISECOND, SECOND, Duration, Rate, Size
from ntlab.testing import boot
from ntlab.topology import Topology

Program = Generator[Request, Any, None]


@plugin(name="io_rules", summary="The costs and choices of I/O as a test wants them.", release="ws2003")
class IoRules:
    policy: IoPolicy = option(default=IoPolicy(), help="Costs.")
    limit: int = option(default=1 << 40, help="Largest transfer.")
    interrupted: int = option(default=0, help="Who takes interrupts.")
    completes: int = option(default=0, help="Who takes DPCs.")

    @hookimpl
    def io_policy(self) -> IoPolicy:
        return self.policy

    @hookimpl
    def max_transfer(self, request: IoRequest) -> int:
        return self.limit

    @hookimpl
    def interrupt_processor(self) -> int:
        return self.interrupted

    @hookimpl
    def dpc_processor(self, request: IoRequest, interrupted: int) -> int:
        assert interrupted == self.interrupted
        return self.completes


@plugin(name="io_limit", summary="Another limit of transfers.", release="ws2003")
class Limit:
    limit: int | None = option(default=None, help="Largest transfer.")

    @hookimpl
    def max_transfer(self, request: IoRequest) -> int | None:
        return self.limit


def fixed(latency: int, channels: int = 1) -> DiskModel:
    """A disk that takes `latency` ns for everything."""
    return DiskModel(capacity=Size(GIB), rate=Rate(1 << 60), controller=Duration(latency), channels=channels)


def transfers(disk: Disk, *places: tuple[int, int], operation: Any = "read") -> list[IoRequest]:
    """Issue requests of (offset, length) and run; gives them in the order in which they ended."""
    ended: list[IoRequest] = []
    for offset, length in places:
        disk.machine.io.submit(IoRequest(operation, disk, offset, length, done=ended.append))
    disk.machine.run()
    return ended


# -- stages


def departures(customers: list[tuple[int, int]], servers: int) -> list[tuple[int, int]]:
    """(begin, end) of each customer, given as (arrival, service): each takes the server free earliest."""
    free = [0] * servers
    found = []
    for arrival, service in customers:
        begin = max(arrival, heapq.heappop(free))
        heapq.heappush(free, begin + service)
        found.append((begin, begin + service))
    return found


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=60), st.integers(1, 4))
def test_a_stage_serves_as_its_definition_says_and_obeys_little(gaps: list[tuple[int, int]], c: int) -> None:
    engine = Engine()
    ended: dict[int, int] = {}
    customers: list[tuple[int, int]] = []
    stage = Stage(engine, lambda k: customers[k][1], lambda k: ended.__setitem__(k, engine.now), c)
    at = 0
    area = waiting = since = 0  # customers in the queue, integrated over time by looking at every instant

    def look(_: object) -> None:
        nonlocal area, waiting, since
        area += waiting * (engine.now - since)
        waiting, since = stage.waiting, engine.now

    for k, (gap, service) in enumerate(gaps):
        at += gap
        customers.append((at, service))
        engine.at(at, stage.submit, k)
    oracle = departures(customers, c)
    for instant in sorted({time for begin_end in oracle for time in begin_end} | {t for t, _ in customers}):
        engine.at(instant, look, None, REPORT)
    engine.run()
    assert [ended[k] for k in range(len(gaps))] == [end for _, end in oracle]
    assert stage.wait_time == sum(b - a for (b, _), (a, _) in zip(oracle, customers, strict=True)) == area
    assert (stage.arrived, stage.present) == (len(gaps), 0)


def erlang_c_wait(servers: int, load: float) -> float:
    """Mean wait of M/M/c in service times (facts 14.2)."""
    blocking = 1.0
    for k in range(1, servers + 1):
        blocking = load * blocking / (k + load * blocking)
    queued = blocking / (1 - load / servers * (1 - blocking))
    return queued / (servers - load)


def test_erlang_c() -> None:
    assert math.isclose(erlang_c_wait(4, 3.0), 0.509434, abs_tol=1e-6)
    waits = []
    for seed in range(1, 13):
        engine, draw = Engine(), Random(seed).expovariate
        left = 12_000

        def service(_: object, draw: Callable[[float], float] = draw) -> int:
            return int(draw(1) * 1e9)

        stage = Stage(engine, service, lambda _: None, 4)

        def arrive(_: object, stage: Stage = stage, draw: Callable[[float], float] = draw) -> Any:
            nonlocal left
            stage.submit(None)
            left -= 1
            return int(draw(3) * 1e9) if left else None

        engine.at(0, arrive)
        engine.run()
        waits.append(stage.wait_time / stage.arrived / 1e9)
    found = estimate(waits)
    assert abs(found.mean - erlang_c_wait(4, 3.0)) < 3 * (found.high - found.low) / 2


def test_a_stage_needs_a_server() -> None:
    with pytest.raises(SimulationError, match="0 servers"):
        Stage(Engine(), int, print, 0)


@given(st.lists(st.sampled_from(["put", "get"]), max_size=40))
def test_a_mailbox_gives_each_message_once_and_in_order_to_receivers_in_order(asked: list[str]) -> None:
    engine = Engine()
    mailbox = Mailbox(engine)
    received: list[tuple[int, int]] = []
    puts = gets = 0
    for what in asked:
        if what == "put":
            mailbox.put(puts)
            puts += 1
        else:
            mailbox.get(lambda message, receiver=gets: received.append((receiver, message)))
            gets += 1
        assert len(received) == 0  # never inside the call
    engine.run()
    assert sorted(received) == [(k, k) for k in range(min(puts, gets))]
    assert len(mailbox) == max(0, puts - gets)


def test_threads_and_processes_play_ping_pong_by_mailboxes() -> None:
    machine = boot(1)
    there, back = Mailbox(machine.engine), Mailbox(machine.engine)
    seen: list[tuple[int, int]] = []

    def thread() -> Program:
        for _ in range(3):
            ball = yield Receive(there)
            yield Compute(10)
            back.put(ball + 1)

    def process() -> Generator[None, int, None]:
        ball = 0
        for _ in range(3):
            there.put(ball)
            back.get(player.send)
            ball = yield
            seen.append((machine.engine.now, ball))

    player = process()
    machine.create_thread(machine.create_process("p"), thread())
    machine.engine.at(100, player.send)
    machine.run()
    assert seen == [(110, 1), (120, 2), (130, 3)]


def test_a_sweep_keeps_the_interrupts_of_an_instant_whose_other_event_is_cancelled() -> None:
    engine = Engine()
    happened: list[int] = []
    dead = [engine.at(10 + k, happened.append, -1) for k in range(600)]
    engine.at(10, happened.append, 10, INTERRUPT)
    for event in dead:
        engine.cancel(event)
    engine.run()
    assert happened == [10]


# -- disks


def test_the_hp_97560_seeks_as_published() -> None:
    seek = PRESETS["hp97560"].seek
    assert seek is not None
    for distance, milliseconds in ((1, 3.64), (100, 7.24), (382, 11.0579), (383, 11.064), (1961, 23.688)):
        assert seek(distance) / MILLISECOND == pytest.approx(milliseconds, abs=1e-3)
    assert seek(0) == 0
    assert PRESETS["hp97560"].capacity == pytest.approx(1.37e9, rel=0.005)  # as sold


@pytest.mark.parametrize(("preset", "average"), [("sas15k", 3.5), ("sata7k2", 8.5)])
def test_a_preset_seeks_on_average_as_its_data_sheet_says(preset: str, average: float) -> None:
    model = PRESETS[preset]
    assert model.seek is not None
    c = model.cylinders
    # Uniform pairs of cylinders are d apart with probability 2 (c - d) / c^2.
    mean = sum(2 * (c - d) * model.seek(d) for d in range(1, c)) / c / c
    assert mean / MILLISECOND == pytest.approx(average, rel=1e-3)


@pytest.mark.parametrize(
    ("preset", "size", "rate"),
    [
        ("sas15k", 64 * KIB, 10.6),
        ("sas15k", 128 * KIB, 19.2),
        ("sas15k", MIB, 65.6),
        ("sata7k2", 64 * KIB, 4.8),
        ("sata7k2", 128 * KIB, 9.1),
        ("sata7k2", MIB, 40.6),
    ],
)
def test_random_transfers_reach_the_computed_throughput(preset: str, size: int, rate: float) -> None:
    disk = boot(1).io.create_disk("disk", preset=preset)
    random = Random(1)
    slots = disk.model.capacity // size
    transfers(disk, *((random.randrange(slots) * size, size) for _ in range(600)))
    assert 600 * size / disk.machine.engine.now * 1000 == pytest.approx(rate, rel=0.025)


def test_only_the_next_sector_needs_neither_seek_nor_rotation() -> None:
    disk = boot(1).io.create_disk("disk", preset="sas15k")
    transfers(disk, (0, 4096), (4096, 4096), (8192, 4096), (8192, 4096))
    moved = 4096 * SECOND // 100_000_000
    assert disk.seeks == 1
    assert disk.machine.engine.now == 4 * moved + 2 * MILLISECOND  # the same cylinder: half a turn, no seek


def test_rotation_is_drawn_from_the_disks_own_stream() -> None:
    model = DiskModel(capacity=Size(GIB), rate=Rate(1 << 60), rpm=15_000, rotation="random")

    def ends(seed: int, other: bool) -> int:
        machine = boot(1, seed=seed)
        if other:
            machine.streams.stream("disk", "other").random()
        disk = machine.io.create_disk("disk", model=model)
        transfers(disk, *((k % 2 * MIB, 512) for k in range(1, 2001)))
        return machine.engine.now

    assert ends(1, False) == ends(1, True) != ends(2, False)
    assert ends(1, False) / 2000 == pytest.approx(2 * MILLISECOND, rel=0.04)


def test_flash_does_not_seek_and_serves_its_channels_at_once() -> None:
    disk = boot(1).io.create_disk("disk", preset="ssd")
    transfers(disk, *((k * MIB, 4096) for k in range(8)))
    once = disk.machine.engine.now
    assert once == 85_000 + 4096 * SECOND // 250_000_000
    transfers(disk, *((k * MIB, 4096) for k in range(16)))
    assert disk.machine.engine.now == 3 * once


def test_disks_are_named_and_counted_as_windows_does() -> None:
    machine = boot(1, [IoRules(limit=64 * KIB)], trace=True)
    disk = machine.io.create_disk("C:", model=fixed(MILLISECOND))
    machine.io.submit(IoRequest("write", disk, MIB, 128 * KIB, done=print, flags=PAGING_IO))
    transfers(disk, (0, 4096))
    records = [
        (r.time, r.name, r["transfer_size"], r["byte_offset"], r["irp_flags"], r["high_res_response_time"])
        for r in machine.tracer.records("DiskIo/Read", "DiskIo/Write")
    ]
    ms = MILLISECOND
    assert records == [
        (ms, "DiskIo/Write", 64 * KIB, MIB, 2, ms),
        (2 * ms, "DiskIo/Write", 64 * KIB, MIB + 64 * KIB, 2, 2 * ms),
        (3 * ms, "DiskIo/Read", 4096, 0, 1, 3 * ms),
    ]
    counters = machine.counters()
    assert counters[r"PhysicalDisk(0 C:)\Disk Writes/sec"] == pytest.approx(2 / 0.003)
    assert counters[r"PhysicalDisk(0 C:)\Disk Read Bytes/sec"] == pytest.approx(4096 / 0.003)
    assert counters[r"PhysicalDisk(0 C:)\Avg. Disk Bytes/Transfer"] == pytest.approx(132 * KIB / 3)
    assert counters[r"PhysicalDisk(0 C:)\Avg. Disk sec/Transfer"] == pytest.approx(0.002)
    assert counters[r"PhysicalDisk(0 C:)\Split IO/Sec"] == pytest.approx(1 / 0.003)
    assert counters[r"PhysicalDisk(0 C:)\Current Disk Queue Length"] == 0


def test_disks_of_the_hardware_description_exist_from_the_start() -> None:
    topology = Topology("with a disk")
    node = topology.add_node(memory=GIB)
    topology.add_processor(topology.add_core(topology.add_package(node)))
    topology.add_device(node, name="disk0", type="disk")
    machine = boot(tables=topology.freeze(), plugins=[IoRules(policy=IoPolicy(disk="sata7k2"))])
    disk = machine.io.device("disk0")
    assert isinstance(disk, Disk)
    assert disk.model is PRESETS["sata7k2"]
    with pytest.raises(UnknownNameError, match="disk0"):
        machine.io.device("disk1")
    with pytest.raises(UserError, match="two devices"):
        machine.io.create_disk("disk0")


# -- requests


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 16), st.integers(1, 4))
@settings(max_examples=50)
def test_a_long_transfer_is_split_and_ends_with_its_last_part(
    sectors: int, one: int, other: int, channels: int
) -> None:
    plugins = [IoRules(limit=one * 512), Limit(limit=other * 512), Limit2()]
    machine = boot(1, plugins, trace=True)
    disk = machine.io.create_disk("disk", model=fixed(1000, channels))
    (request,) = transfers(disk, (4096, sectors * 512), operation="write")
    parts = math.ceil(sectors / min(one, other))
    sizes = [(r["byte_offset"], r["transfer_size"]) for r in machine.tracer.records("DiskIo/Write")]
    assert sum(size for _, size in sizes) == sectors * 512
    assert [offset for offset, _ in sizes] == [4096 + k * min(one, other) * 512 for k in range(parts)]
    assert disk.writes == parts
    assert disk.splits == (parts > 1)
    assert request.finished == machine.engine.now == math.ceil(parts / channels) * 1000
    assert (request.state, request.parts, machine.io.pending) == (COMPLETED, 0, 0)


@plugin(name="io_no_limit", summary="Says nothing.", release="ws2003")
class Limit2:
    @hookimpl
    def max_transfer(self, request: IoRequest) -> None:
        return None


def test_a_limit_of_nothing_is_refused() -> None:
    machine = boot(1, [Limit(limit=0)])
    disk = machine.io.create_disk("disk")
    with pytest.raises(SimulationError, match="max_transfer gave 0"):
        transfers(disk, (0, 512))


def test_interrupt_then_dpc_then_completion_on_the_chosen_processors() -> None:
    policy = IoPolicy(interrupt_time=Duration(5), dpc_time=Duration(10))
    machine = boot(4, [IoRules(policy=policy, interrupted=3, completes=1)], trace=True)
    disk = machine.io.create_disk("disk", model=fixed(100))
    ended: list[int] = []
    machine.io.submit(IoRequest("read", disk, 0, 512, done=lambda _: ended.append(machine.engine.now)))
    machine.run()
    assert ended == [115]
    ((isr,), (dpc,)) = (list(machine.tracer.records(f"PerfInfo/{kind}")) for kind in ("ISR", "DPC"))
    assert (isr.time, isr["cpu"], isr["vector"]) == (105, 3, disk.number)
    assert (dpc.time, dpc["cpu"], dpc["routine"]) == (115, 1, "disk.sys")


@pytest.mark.parametrize("wrong", [{"interrupted": 4}, {"completes": -1}])
def test_a_processor_that_is_not_there_is_refused(wrong: dict[str, int]) -> None:
    machine = boot(4, [IoRules(**wrong)])
    with pytest.raises(SimulationError, match="_processor gave"):
        transfers(machine.io.create_disk("disk"), (0, 512))


def test_without_plugins_io_costs_no_processor_time() -> None:
    machine = boot(2)
    disk = machine.io.create_disk("disk", model=fixed(100))
    transfers(disk, (0, 512))
    assert machine.engine.now == 100
    assert [p.interrupts for p in machine.processors] == [1, 0]


def test_a_thread_waits_for_its_file_and_is_boosted() -> None:
    machine = boot(1, [Boost()])
    disk = machine.io.create_disk("disk", model=fixed(100))
    file = File("file", disk, 4096, 8192)
    seen: list[Any] = []

    def program() -> Program:
        request = yield Write(file, 512, 1024)
        seen.extend((request.operation, request.offset, request.length, request.state, request.status))
        seen.append(machine.engine.now)
        yield Read(file, 0, 8192)
        seen.append(machine.engine.now)

    thread = machine.create_thread(machine.create_process("p"), program())
    machine.run()
    assert seen == ["write", 4608, 1024, COMPLETED, SUCCESS, 100, 200]
    assert thread.priority == 9


@plugin(name="boost", summary="Boosts as 2003 does.", release="ws2003")
class Boost:
    @hookimpl
    def boosted_priority(self, thread: Any, increment: int) -> int:
        return int(thread.base_priority + increment)


class Passing(Layer):
    """Writes down what passes, and may keep a request for a while."""

    def __init__(self, name: str, seen: list[tuple[str, str, int]], delay: int = 0) -> None:
        self.name, self.seen, self.delay = name, seen, delay

    def dispatch(self, io: Io, request: IoRequest) -> None:
        self.seen.append(("down", self.name, io.engine.now))
        io.engine.after(self.delay, io.pass_down, request)

    def complete(self, io: Io, request: IoRequest) -> None:
        self.seen.append(("up", self.name, io.engine.now))
        io.pass_up(request)


def test_a_request_travels_its_stack_down_and_up() -> None:
    disk = boot(1).io.create_disk("disk", model=fixed(100))
    seen: list[tuple[str, str, int]] = []
    disk.attach(Layer())
    disk.attach(Passing("volume", seen, 5))
    disk.attach(top := Passing("file system", seen))
    with pytest.raises(SimulationError, match="attached to disk twice"):
        disk.attach(top)
    transfers(disk, (0, 512))
    assert seen == [
        ("down", "file system", 0), ("down", "volume", 0), ("up", "volume", 105), ("up", "file system", 105),
    ]  # fmt: skip


class Cache(Layer):
    """Has everything already: requests never reach the device."""

    def dispatch(self, io: Io, request: IoRequest) -> None:
        io.engine.after(7, io.pass_up, request)


def test_a_layer_may_complete_a_request_itself() -> None:
    disk = boot(1).io.create_disk("disk", model=fixed(100))
    disk.attach(Cache())
    seen: list[tuple[str, str, int]] = []
    disk.attach(Passing("above", seen))
    (request,) = transfers(disk, (0, 512))
    assert (disk.reads, disk.machine.engine.now, request.state) == (0, 7, COMPLETED)
    assert seen == [("down", "above", 0), ("up", "above", 7)]


def test_a_request_ends_once() -> None:
    machine = boot(1)
    disk = machine.io.create_disk("disk", model=fixed(100))
    (request,) = transfers(disk, (0, 512))
    for again in (machine.io.finish, machine.io.pass_up, machine.io.submit, machine.io.completed):
        with pytest.raises(SimulationError, match=r"cannot become .*: it is completed"):
            again(request)
    pending = IoRequest("read", disk, 0, 512, done=print)
    machine.io.submit(pending)
    with pytest.raises(SimulationError, match="passed down, but is pending"):
        machine.io.pass_down(pending)


def test_both_hook_modes_give_one_trace() -> None:
    def digest(mode: Any) -> str:
        policy = IoPolicy(interrupt_time=Duration(5000), dpc_time=Duration(10_000))
        machine = boot(2, [IoRules(policy=policy, limit=4096, interrupted=1)], trace=True, hooks=mode)
        disk = machine.io.create_disk("disk")
        transfers(disk, *((k * 7 % 13 * MIB, 8192) for k in range(30)))
        return machine.tracer.digest()

    assert digest("direct") == digest("plain")


# -- refusals


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (100, 512, "not aligned"),
        (512, 100, "not aligned"),
        (GIB, 512, "ends after"),
        (0, 0, "0 bytes"),
        (-512, 512, "at -512"),
        (0, -512, "-512 bytes"),
    ],
)
def test_transfers_that_a_disk_cannot_do(offset: int, length: int, message: str) -> None:
    machine = boot(1)
    disk = machine.io.create_disk("disk", model=fixed(1))
    with pytest.raises(SimulationError, match=message):
        machine.io.submit(IoRequest("read", disk, offset, length, done=print))
    assert machine.io.pending == 0


def test_requests_that_make_no_sense() -> None:
    machine = boot(1)
    disk = machine.io.create_disk("disk")
    thread = machine.create_thread(machine.create_process("p"), iter([Compute(1)]))

    def request(operation: Any = "read", **what: Any) -> IoRequest:
        return IoRequest(operation, disk, 0, 512, **what)

    with pytest.raises(SimulationError, match="unknown operation 'erase'"):
        request("erase", done=print)
    with pytest.raises(SimulationError, match="exactly one way"):
        request()
    with pytest.raises(SimulationError, match="critical"):
        request(thread=thread, priority=CRITICAL)
    with pytest.raises(SimulationError, match="priority 5"):
        request(done=print, priority=5)
    file = File("file", disk, 0, 4096)
    with pytest.raises(SimulationError, match="which has 4096"):
        Read(file, 4096, 512)
    with pytest.raises(SimulationError, match="of 0 bytes"):
        File("empty", disk, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rpm": -1},
        {"rate": 0},
        {"rate": math.nan},
        {"capacity": 0},
        {"channels": 0},
        {"controller": -1},
        {"rotation": "none"},
        {"cylinders": 1000, "seek": SeekCurve(near=5.0, near_root=1.0, limit=10, far=1.0, far_slope=0.001)},
        {"cylinders": 1000, "seek": SeekCurve(near=-5.0, near_root=1.0, limit=10, far=1.0, far_slope=1.0)},
        {"cylinders": 1000, "seek": SeekCurve(near=5.0, near_root=-1.0, limit=2000)},
    ],
)
def test_disks_that_cannot_be(wrong: dict[str, Any]) -> None:
    figures: dict[str, Any] = {"capacity": GIB, "rate": 100}
    with pytest.raises(UserError, match="no disk can have"):
        DiskModel(**(figures | wrong))


def test_places_and_models_that_are_not_there() -> None:
    machine = boot(1)
    with pytest.raises(UserError, match="node 1"):
        machine.io.create_disk("disk", node=1)
    with pytest.raises(UnknownNameError, match="sas15k"):
        machine.io.create_disk("disk", preset="sas15")


def test_a_device_must_say_how_it_starts() -> None:
    machine = boot(1)
    with pytest.raises(NotImplementedError):
        machine.io.submit(IoRequest("read", Device(machine, "nothing"), 0, 1, done=print))

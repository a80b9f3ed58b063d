"""What input and output touch, line by line: closed forms for one request, wherever it ends."""

from __future__ import annotations

from typing import Any

import pytest

from ntlab.hooks import hookimpl
from ntlab.machine import Device, File, Footprint, IoPolicy, IoRequest, Machine, Read, Reuse, Write
from ntlab.plugin import option, plugin
from ntlab.testing import Recorder, boot
from ntlab.topology import Tables, Topology

NEAR, FAR, SHARED = 100, 250, 16  # ns from memory of this node, of another, from a package's cache
OVERLAP = 4
SERVICE, DPC, REDIRECT = 5_000, 10_000, 1_500
DEVICE_TIME = 20_000
DATA, CONTROL, QUEUE = 128, 16, 4  # lines


def hardware() -> Tables:
    """Two packages, each a node, of two cores with a cache in common; a cache of each core, too."""
    topology = Topology("io")
    for _ in range(2):
        package = topology.add_package(topology.add_node(memory=1 << 30))
        shared = topology.add_cache(package, level=3, size=1 << 20)
        for _ in range(2):
            own = topology.add_cache(shared, level=2, size=1 << 16)
            topology.add_processor(topology.add_core(own))
    topology.latency_ns = [[NEAR, FAR], [FAR, NEAR]]
    return topology.freeze()


@plugin(name="ends", summary="Where requests end, as the test wants it.", release="ws2003")
class Ends:
    interrupted: int = option(default=0, help="The processor that is interrupted.")
    completer: int = option(default=0, help="The one that runs the DPC.")
    control_lines: int = option(default=CONTROL, help="As of the policy.")
    queue_lines: int = option(default=QUEUE, help="As of the policy.")
    limit: int = option(default=1 << 20, help="The longest transfer.")

    @hookimpl
    def io_policy(self) -> IoPolicy:
        return IoPolicy(
            interrupt_time=SERVICE,
            dpc_time=DPC,
            redirect_time=REDIRECT,
            control_lines=self.control_lines,
            queue_lines=self.queue_lines,
        )

    @hookimpl
    def interrupt_processor(self) -> int:
        return self.interrupted

    @hookimpl
    def dpc_processor(self) -> int:
        return self.completer

    @hookimpl
    def max_transfer(self) -> int:
        return self.limit


class Wire(Device):
    touched = 1.0

    def start(self, request: IoRequest) -> None:
        self.machine.engine.after(DEVICE_TIME, self.machine.io.finish, request)


def one_read(
    *, node: int | None = 0, touched: float = 1.0, reads: int = 1, **ends: Any
) -> tuple[Machine, Footprint, list[int]]:
    """A thread of processor 0 reads `reads` times and uses what it got. The ns that each took."""
    machine = boot(plugins=[Ends(**ends)], tables=hardware(), hooks="checked", trace=True)
    device = Wire(machine, "wire", node)
    device.touched = touched
    file = File("f", device, 0, DATA * 64)
    buffer = Footprint(DATA * 64, node=0, written=True)
    took = []

    def program() -> Any:
        for _ in range(reads):
            begun = machine.engine.now
            request = yield Read(file, 0, DATA * 64, buffer=buffer)
            yield Reuse(buffer)
            took.append(machine.engine.now - begun)
            assert request.initiator == 0
            yield Reuse(None)

    machine.create_thread(machine.create_process("p"), program(), affinity=1)
    machine.run()
    machine.check()
    return machine, buffer, took


def wait(lines: int, latency: int) -> int:
    return -(-lines * latency // OVERLAP)


BASE = DEVICE_TIME + SERVICE + DPC


@pytest.mark.parametrize(
    ("interrupted", "completer", "extra", "remote_data", "remote_control", "remote_queue"),
    [
        (0, 0, wait(QUEUE, NEAR) + wait(DATA, NEAR), 0, 0, 0),
        (1, 1, wait(QUEUE, NEAR) + wait(CONTROL, SHARED) + wait(DATA, NEAR) + wait(DATA, SHARED), 0, 0, 0),
        (3, 3, wait(QUEUE, FAR) + wait(CONTROL, FAR) + 2 * wait(DATA, FAR), 2 * DATA, CONTROL, QUEUE),
        (3, 0, wait(QUEUE, FAR) + REDIRECT + wait(DATA, NEAR), 0, 0, QUEUE),
        (
            3,
            1,
            wait(QUEUE, FAR) + REDIRECT + wait(CONTROL, SHARED) + wait(DATA, NEAR) + wait(DATA, SHARED),
            0,
            0,
            QUEUE,
        ),
        (0, 2, wait(QUEUE, NEAR) + REDIRECT + wait(CONTROL, FAR) + 2 * wait(DATA, FAR), 2 * DATA, CONTROL, 0),
    ],
)
def test_what_one_request_takes(
    interrupted: int, completer: int, extra: int, remote_data: int, remote_control: int, remote_queue: int
) -> None:
    machine, buffer, took = one_read(interrupted=interrupted, completer=completer)
    assert took == [BASE + extra]
    assert buffer.refills.remote == remote_data
    assert machine.io.lines.control.remote == remote_control
    assert machine.io.lines.queues.remote == remote_queue
    sent = Recorder(machine)("PerfInfo/ISR", vector=0xE1)
    assert len(sent) == (interrupted != completer)


def test_each_transfer_takes_the_data_out_of_all_caches() -> None:
    _, buffer, took = one_read(reads=5)
    assert took == [BASE + wait(QUEUE, NEAR) + wait(DATA, NEAR)] * 5
    assert buffer.refills.lines == 5 * DATA


def test_a_driver_that_looks_at_some_of_the_data() -> None:
    _, buffer, took = one_read(touched=0.25, completer=2)
    looked, rest = DATA // 4, DATA - DATA // 4
    # The thread gets what the driver looked at from its caches, and the rest from memory.
    assert buffer.refills.from_caches.accesses == {(0, 1): looked}
    assert buffer.refills.from_memory.accesses == {(1, 0): looked, (0, 0): rest}
    waits = wait(looked, FAR) + wait(looked, FAR) + wait(rest, NEAR)
    assert took == [BASE + wait(QUEUE, NEAR) + REDIRECT + wait(CONTROL, FAR) + waits]


def test_a_device_that_is_nowhere_in_particular_has_no_queue_to_wait_for() -> None:
    machine, _, took = one_read(node=None)
    assert took == [BASE + wait(DATA, NEAR)]
    assert machine.io.lines.queues.lines == 0


def test_a_request_in_parts_ends_as_one() -> None:
    machine, buffer, _ = one_read(limit=DATA * 16, completer=3)
    assert machine.io.lines.control.lines == CONTROL  # the parts have them in common
    assert buffer.refills.from_memory.total + buffer.refills.from_caches.total >= DATA


def test_what_is_written_stays_in_the_caches() -> None:
    machine = boot(plugins=[Ends()], tables=hardware())
    device = Wire(machine, "wire", 0)
    device.touched = 0.0
    file = File("f", device, 0, DATA * 64)
    buffer = Footprint(DATA * 64, node=0, written=True)

    def program() -> Any:
        yield Reuse(buffer)
        yield Write(file, 0, DATA * 64, buffer=buffer)

    machine.create_thread(machine.create_process("p"), program(), affinity=1)
    machine.run()
    assert buffer.refills.lines == DATA


def test_where_no_lines_are_named_nothing_is_touched() -> None:
    machine = boot(plugins=[Ends(control_lines=0, queue_lines=0)], tables=hardware())
    file = File("f", Wire(machine, "wire", 0), 0, 4096)

    def program() -> Any:
        yield Read(file, 0, 4096)

    machine.create_thread(machine.create_process("p"), program())
    machine.run()
    assert machine.engine.now == BASE
    assert machine.caches.refills.count == 0

"""Threads that receive data from adapters and use it: who touches it where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any, ClassVar

from ntlab.errors import UserError
from ntlab.machine import (
    Compute,
    Device,
    File,
    Footprint,
    IoRequest,
    Machine,
    Read,
    Refills,
    Request,
    Reuse,
    Sleep,
    Thread,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MICROSECOND, Duration, Share, Size

OWNER = "numa_io.receivers"


class Adapter(Device):
    """A network adapter: each read is done `latency` ns after it was issued."""

    increment: ClassVar[int] = 2
    driver: ClassVar[str] = "ndis.sys"

    def __init__(
        self, machine: Machine, name: str, node: int | None, latency: int, msix: bool, touched: float
    ) -> None:
        super().__init__(machine, name, node)
        self.latency = latency
        self.msix = msix
        self.touched = touched

    def start(self, request: IoRequest) -> None:
        self.machine.engine.after(self.latency, self.machine.io.finish, request)


@workload(name="receivers", summary="Threads that receive data from network adapters, and use it.")
class Receivers:
    """Each thread works a while, reads into a buffer of its own, waits, and uses what it got.

    The adapters are the network adapters that the machine's description names, where it says that they are;
    where it names none, one that is nowhere in particular.
    """

    threads: int = option(default=0, help="How many threads; 0 is one for each processor.", minimum=0)
    requests: int = option(default=50, help="Reads of each thread.", minimum=1)
    length: Size = option(default=Size(16 << 10), help="Bytes of each read.", minimum=1)
    work: Duration = option(default=Duration(100 * MICROSECOND), help="Work before each read.", minimum=0)
    think: Duration = option(
        default=Duration(100 * MICROSECOND), help="Mean wait before each read, exponential.", minimum=0
    )
    latency: Duration = option(
        default=Duration(50 * MICROSECOND), help="From a read to the adapter's interrupt.", minimum=1
    )
    touched: Share = option(
        default=Share(1.0), help="The part of the data that the DPC looks at, as for a checksum."
    )
    msix: bool = option(default=True, help="Whether the adapters have MSI-X.")

    _data: Refills = state(Refills)
    _counts: Counter[str] = state(Counter)
    _ended: int = state(int)

    def start(self, machine: Machine) -> None:
        described = [(device.name, device.node) for device in machine.tables.devices if device.type == "nic"]
        adapters = [
            Adapter(machine, name, node, self.latency, self.msix, self.touched)
            for name, node in described or [("adapter", None)]
        ]
        files = [File(f"socket {adapter.name}", adapter, 0, self.length) for adapter in adapters]
        process = machine.create_process("receivers")
        threads: list[Thread] = []
        for number in range(self.threads or machine.tables.processors):
            program = self._program(machine, number, files[number % len(files)], threads)
            threads.append(machine.create_thread(process, program))

    def _program(
        self, machine: Machine, number: int, file: File, threads: list[Thread]
    ) -> Generator[Request, Any, None]:
        thread, node_of, counts = threads[number], machine.tables.node_of, self._counts
        random = machine.streams.stream(OWNER, f"thread {number}")
        home = node_of[thread.ideal]
        buffer = Footprint(self.length, node=home, written=True, name=thread.name, refills=self._data)
        read = Read(file, 0, self.length, buffer=buffer)
        for _ in range(self.requests):
            if self.think:
                yield Sleep(round(random.expovariate(1 / self.think)))
            yield Compute(self.work)
            begun = machine.engine.now
            request: IoRequest = yield read
            yield Reuse(buffer)
            counts["time"] += machine.engine.now - begun
            yield Reuse(None)
            assert request.initiator is not None
            node = node_of[request.initiator]
            counts["requests"] += 1
            counts["remote interrupts"] += node_of[request.interrupted] != node
            counts["remote dpcs"] += node_of[request.completer] != node
            counts["redirected"] += request.completer != request.interrupted
            counts["exact"] += request.interrupted == request.initiator
        self._ended += 1

    def measure(self, machine: Machine) -> list[Metric]:
        counts, lines = self._counts, machine.io.lines
        done = counts["requests"]
        if not done:
            raise UserError(
                "no request has ended in the time given", where="duration", expected="a longer one"
            )
        return [
            Metric("remote_interrupts", counts["remote interrupts"] / done),
            Metric("remote_dpcs", counts["remote dpcs"] / done),
            Metric("redirected_dpcs", counts["redirected"] / done),
            Metric("at_initiator", counts["exact"] / done),
            Metric("remote_data", self._data.remote / done),
            Metric("remote_control", lines.control.remote / done),
            Metric("remote_queue", lines.queues.remote / done),
            Metric("waiting", (self._data.time + lines.control.time + lines.queues.time) / done, "ns"),
            Metric("response", counts["time"] / done, "ns"),
        ]

"""What runs on completion ports: a server of messages, and requests whose threads have ended."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterator
from typing import Any, ClassVar, Literal

import attrs

from ntlab.errors import UserError
from ntlab.machine import (
    CompletionPort,
    Compute,
    Dequeue,
    Device,
    File,
    IoRequest,
    Machine,
    Read,
    Request,
    Thread,
)
from ntlab.machine.io import SUCCESS
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration, Share, Size, format_duration

OPENING = MILLISECOND
"""When the first messages come: by then every thread waits on the port."""


class Network(Device):
    """A network card: a read is pending until a message comes for the thread that issued it."""

    increment: ClassVar[int] = 2
    driver: ClassVar[str] = "ndis.sys"

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine, name)
        self._pending: dict[Thread, deque[IoRequest]] = {}

    def start(self, request: IoRequest) -> None:
        assert request.thread is not None
        self._pending.setdefault(request.thread, deque()).append(request)

    def arrive(self, thread: Thread) -> IoRequest:
        """A message for the oldest read of that thread, which is returned."""
        request = self._pending[thread].popleft()
        self.machine.io.finish(request)
        return request


def _served(network: Network, machine: Machine, concurrency: int) -> tuple[CompletionPort, File]:
    """A server's port, and its connections to a network, whose reads end there."""
    port = CompletionPort(machine, "server", concurrency)
    connections = File("connections", network, 0, 1 << 40)
    connections.bind(port)
    return port, connections


@workload(
    name="messages", summary="Clients send messages to a server whose threads issued the reads beforehand."
)
class Messages:
    """A closed loop. Each thread issues its reads and then serves the port. Each client sends a message,
    waits until it is handled, and sends the next one `latency` later; every message ends a read."""

    threads: int = option(default=8, help="Threads that issue reads and serve the port.", minimum=1)
    clients: int = option(default=32, help="Messages under way at a time.", minimum=1)
    messages: int = option(default=4096, help="Messages that end a read, over all.", minimum=1)
    concurrency: int = option(
        default=0, help="Concurrency of the port; 0: the number of processors.", minimum=0
    )
    work: Duration = option(default=Duration(50 * MICROSECOND), help="Work that a message takes.", minimum=1)
    latency: Duration = option(
        default=Duration(MILLISECOND), help="From an answer to the next message.", minimum=0
    )
    issuers: Literal["cycle", "random"] = option(
        default="cycle",
        help="Whose read a message ends: each thread's in turn, or any one's, equally likely.",
    )
    opening: Literal["posted", "read"] = option(
        default="posted",
        help="How the clients' first messages come: as posted packets, or as the end of reads too.",
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _network: Network = attrs.field(init=False, repr=False, eq=False)
    _port: CompletionPort = attrs.field(init=False, repr=False, eq=False)
    _to_come: deque[int] = state(deque)  # for each message to come, whose read it ends
    _threads: list[Thread] = state(list)
    _handled: Counter[int] = state(Counter)
    _total: int = state(int)
    # Time and context switches when the first message was taken, and when the last one had been handled.
    _begin: tuple[int, int] | None = attrs.field(init=False, default=None, repr=False, eq=False)
    _end: tuple[int, int] | None = attrs.field(init=False, default=None, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        self._machine = machine
        self._network = Network(machine, "network")
        self._port, connections = _served(self._network, machine, self.concurrency)
        random = machine.streams.stream("completion_ports.messages", "issuers")
        n = self.threads
        self._to_come.extend(
            k % n if self.issuers == "cycle" else random.randrange(n) for k in range(self.messages)
        )
        self._total = self.messages + (self.clients if self.opening == "posted" else 0)
        reads = Counter(self._to_come)
        server = machine.create_process("server")
        self._threads.extend(
            machine.create_thread(server, self._serve(connections, k, reads[k])) for k in range(n)
        )
        machine.engine.at(OPENING, self._open)

    def _open(self, _: object) -> None:
        for _client in range(self.clients):
            if self.opening == "posted":
                self._port.put(0)
            else:
                self._message(None)

    def _message(self, _: object) -> None:
        if self._to_come:
            self._network.arrive(self._threads[self._to_come.popleft()])

    def _serve(self, connections: File, number: int, reads: int) -> Iterator[Request]:
        read = Read(connections, 0, 512)
        for _ in range(reads):
            yield read
        take, work = Dequeue(self._port), Compute(self.work)
        while True:
            yield take
            if self._begin is None:
                self._begin = self._now()
            yield work
            self._handled[number] += 1
            if self._handled.total() == self._total:
                self._end = self._now()
            self._machine.engine.after(self.latency, self._message)

    def _now(self) -> tuple[int, int]:
        machine = self._machine
        return machine.engine.now, sum(processor.context_switches for processor in machine.processors)

    def measure(self, machine: Machine) -> list[Metric]:
        if self._begin is None or self._end is None:
            raise UserError(
                f"{self._handled.total()} of {self._total} messages were handled in the time given",
                where="duration",
                expected="a longer one, or fewer messages",
            )
        time = self._end[0] - self._begin[0]
        switches = self._end[1] - self._begin[1]
        return [
            Metric("switches_per_message", switches / self.messages),
            Metric("time_per_message", time / self._total, "ns"),
            Metric("messages_per_second", self._total * SECOND / time, "1/s"),
            Metric("hottest_thread_share", max(self._handled.values()) / self._total),
            Metric("threads_used", len(self._handled)),
        ]


@workload(
    name="arrivals", summary="Messages come by chance to a server whose threads issued the reads beforehand."
)
class Arrivals:
    """An open loop: messages come at random (Poisson), each ends a read of any thread, and wants work that is
    exponentially spread. Times and work are the same in all arms. A response is from when a message comes to
    when it has been handled."""

    threads: int = option(default=32, help="Threads that issue reads and serve the port.", minimum=1)
    load: Share = option(
        default=Share(0.05), help="Part of all processors that the messages want.", minimum=0.0001
    )
    work: Duration = option(
        default=Duration(MILLISECOND), help="Work that a message takes, on average.", minimum=1
    )
    messages: int = option(default=4096, help="Messages that come at most.", minimum=1)
    concurrency: int = option(
        default=0, help="Concurrency of the port; 0: the number of processors.", minimum=0
    )
    warm_up: Duration = option(
        default=Duration(SECOND), help="Messages that come before are not measured.", minimum=0
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _network: Network = attrs.field(init=False, repr=False, eq=False)
    _port: CompletionPort = attrs.field(init=False, repr=False, eq=False)
    # Of each message to come: how long after the one before, whose read it ends, its work.
    _to_come: deque[tuple[int, int, int]] = state(deque)
    _work: dict[IoRequest, int] = state(dict)
    _threads: list[Thread] = state(list)
    _handled: Counter[int] = state(Counter)
    _responses: list[int] = state(list)
    # Context switches, and time of parked processors, when measuring began.
    _switched: int = state(int)
    _parked: int = state(int)

    def start(self, machine: Machine) -> None:
        self._machine = machine
        self._network = Network(machine, "arrivals")
        self._port, connections = _served(self._network, machine, self.concurrency)
        random = machine.streams.stream("completion_ports.arrivals", "messages")
        rate = self.load * len(machine.processors) / self.work
        for _ in range(self.messages):
            gap, work = random.expovariate(rate), random.expovariate(1 / self.work)
            self._to_come.append((round(gap), random.randrange(self.threads), max(1, round(work))))
        reads = Counter(issuer for _, issuer, _ in self._to_come)
        server = machine.create_process("server")
        self._threads.extend(
            machine.create_thread(server, self._serve(connections, k, reads[k])) for k in range(self.threads)
        )
        machine.engine.at(self.warm_up, self._begin)
        machine.engine.at(OPENING + self._to_come[0][0], self._message)

    def _begin(self, _: object) -> None:
        self._switched, self._parked = self._totals()

    def _totals(self) -> tuple[int, int]:
        power = self._machine.power
        switches = sum(processor.context_switches for processor in self._machine.processors)
        return switches, 0 if power is None else power.parked_time

    def _message(self, _: object) -> None:
        _, issuer, work = self._to_come.popleft()
        self._work[self._network.arrive(self._threads[issuer])] = work
        if self._to_come:
            self._machine.engine.after(self._to_come[0][0], self._message)

    def _serve(self, connections: File, number: int, reads: int) -> Generator[Request, Any, None]:
        read = Read(connections, 0, 512)
        for _ in range(reads):
            yield read
        engine, take = self._machine.engine, Dequeue(self._port)
        while True:
            request = (yield take).request
            yield Compute(self._work.pop(request))
            if request.finished >= self.warm_up:
                self._handled[number] += 1
                self._responses.append(engine.now - request.finished)

    def measure(self, machine: Machine) -> list[Metric]:
        if not self._responses:
            if not self._to_come:
                raise UserError(
                    f"all {self.messages} messages came before the warm-up was over",
                    where="workload.messages",
                    expected="more",
                )
            raise UserError(
                "no message was handled that came after the warm-up",
                where="duration",
                expected=f"more than {format_duration(self.warm_up)}",
            )
        switches, parked = self._totals()
        responses = sorted(self._responses)
        count, time = len(responses), machine.engine.now - self.warm_up
        return [
            Metric("response", sum(responses) / count, "ns"),
            Metric("response_p99", responses[(99 * count - 1) // 100], "ns"),
            Metric("messages_per_second", count * SECOND / time, "1/s"),
            Metric("switches_per_message", (switches - self._switched) / count),
            Metric("threads_used", len(self._handled)),
            Metric("hottest_thread_share", max(self._handled.values()) / count),
            Metric("unparked", len(machine.processors) - (parked - self._parked) / time),
        ]


@workload(name="orphans", summary="Threads issue reads on a port and end before the disk has done them.")
class Orphans:
    """Every issuer ends at once. One more thread serves the port."""

    threads: int = option(default=8, help="Threads that issue a read and end.", minimum=1)
    length: Size = option(default=Size(65536), help="Length of each read.", minimum=512)

    _succeeded: int = state(int)
    _failed: int = state(int)

    def start(self, machine: Machine) -> None:
        disk = machine.io.create_disk("data")
        port = CompletionPort(machine, "server", 1)
        file = File("data", disk, 0, self.threads * self.length)
        file.bind(port)
        process = machine.create_process("server")
        machine.create_thread(process, self._serve(port))
        for k in range(self.threads):
            machine.create_thread(process, self._issue(Read(file, k * self.length, self.length)))

    def _issue(self, read: Read) -> Iterator[Request]:
        yield read

    def _serve(self, port: CompletionPort) -> Generator[Request, Any, None]:
        for _ in range(self.threads):
            packet = yield Dequeue(port)
            if packet.request.status == SUCCESS:
                self._succeeded += 1
            else:
                self._failed += 1

    def measure(self, machine: Machine) -> list[Metric]:
        return [
            Metric("succeeded", self._succeeded / self.threads),
            Metric("cancelled", self._failed / self.threads),
        ]

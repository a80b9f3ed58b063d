"""I/O completion ports: kernel queues (KQUEUE) that limit how many of their threads run.

Packets leave first in, first out; threads that wait are released last in, first out, so that the thread
whose data is still in the cache works on. A thread belongs to the port that it last waited on. The port
counts those of its threads that do not wait, wherever that be (`active`), and releases another one only
while that count is below its concurrency. A thread that wakes from a wait elsewhere is not held back, so
the count may be above it for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ntlab.engine import Event
from ntlab.errors import SimulationError, UserError
from ntlab.machine.io import COMPLETED, IoRequest
from ntlab.machine.records import KERNEL_LOGGER
from ntlab.machine.threads import WAITING, Request, Thread
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

ENQUEUE = event_type(KERNEL_LOGGER, "IoQueue/Enqueue", "port irp queued")
DEQUEUE = event_type(KERNEL_LOGGER, "IoQueue/Dequeue", "port irp tid")

WR_QUEUE = 15
"""Wait reason of a thread that waits on a port (KWAIT_REASON)."""


class Packet:
    """What a thread gets from a port: the key it was queued with, and the request that it is the end of (None
    for a packet that a thread posted)."""

    __slots__ = ("key", "request")

    def __init__(self, key: int, request: IoRequest | None) -> None:
        self.key = key
        self.request = request


class CompletionPort:
    """One completion port. `concurrency` 0 means as many as there are processors.

    `wanting`, if there is one, is called when packets are left, fewer threads run than may, and none waits:
    what a kernel needs to know that makes threads for a port.

    Totals: `posted` packets put in, `removed` packets taken out, `releases` threads released from a wait.
    """

    __slots__ = (
        "_timeouts",
        "_trace_dequeue",
        "_trace_enqueue",
        "active",
        "closed",
        "concurrency",
        "id",
        "machine",
        "name",
        "packets",
        "posted",
        "releases",
        "removed",
        "waiters",
        "wanting",
    )

    def __init__(self, machine: Machine, name: str, concurrency: int = 0) -> None:
        most = 64 * machine.tables.groups
        if not 0 <= concurrency <= most:
            raise UserError(
                f"concurrency {concurrency} of completion port {name!r}",
                expected=f"0 to {most}, 64 for each processor group",
            )
        self.machine = machine
        self.name = name
        self.id = len(machine.io.ports)
        machine.io.ports.append(self)
        self.concurrency = concurrency or len(machine.processors)
        self.packets: deque[Packet] = deque()
        self.waiters: list[Thread] = []  # the last one is released first
        self.active = 0
        self.closed = False
        self.wanting: Callable[[], object] | None = None
        self._timeouts: dict[Thread, Event] = {}  # of those that do not wait for ever
        self.posted = 0
        self.removed = 0
        self.releases = 0
        self._trace_enqueue = machine.tracer.emitter(ENQUEUE)
        self._trace_dequeue = machine.tracer.emitter(DEQUEUE)

    def __repr__(self) -> str:
        return f"<CompletionPort {self.name}>"

    # -- packets -----------------------------------------------------------------------------------------

    def put(self, key: int, request: IoRequest | None = None) -> None:
        """Queue a packet, and release a thread for it if the concurrency allows."""
        if self.closed:
            raise SimulationError(f"a packet is put into {self!r}, which is closed")
        self.posted += 1
        self.packets.append(Packet(key, request))
        if self._trace_enqueue is not None:
            irp = request.id if request is not None else 0
            self._trace_enqueue((self.machine.engine.now, ENQUEUE.id, self.id, irp, len(self.packets)))
        self.release()

    def discard(self, count: int) -> int:
        """Take up to `count` posted packets out again, the last ones first. Returns how many it was."""
        found = [packet for packet in reversed(self.packets) if packet.request is None][:count]
        for packet in found:
            self.packets.remove(packet)
        self.removed += len(found)
        return len(found)

    def release(self) -> None:
        """Release the threads that may run: to be called where the concurrency has grown."""
        while self.packets and self.waiters and self.active < self.concurrency:
            thread = self.waiters.pop()
            thread.waiting_for = None
            thread.wait_reason = 0
            self.releases += 1
            packet, thread.remaining = self._remove(thread)
            self.machine.scheduler.wake(thread, packet)
        if self.wanting is not None and self.packets and self.active < self.concurrency:
            self.wanting()

    def _remove(self, thread: Thread) -> tuple[Packet, int]:
        """Take the oldest packet for a thread. Returns it with the work that taking it is, ns."""
        packet = self.packets.popleft()
        self.removed += 1
        if self._timeouts and (timeout := self._timeouts.pop(thread, None)) is not None:
            self.machine.engine.cancel(timeout)
        request = packet.request
        if self._trace_dequeue is not None:
            irp = request.id if request is not None else 0
            self._trace_dequeue((self.machine.engine.now, DEQUEUE.id, self.id, irp, thread.id))
        if request is None or request.state == COMPLETED:
            return packet, 0
        # Nobody has done the final step yet, so this thread does.
        self.machine.io.completed(request)
        return packet, self.machine.io.policy.completion_time

    # -- threads -----------------------------------------------------------------------------------------

    def join(self, thread: Thread) -> None:
        """A thread that does not wait belongs to the port from now on."""
        if thread.port is not self:
            if thread.port is not None:
                thread.port.leave(thread)
            thread.port = self
            self.active += 1

    def dequeue(self, thread: Thread, timeout: int | None = None) -> int | None:
        """A running thread asks for a packet. As `Request.perform`: the work, or None if it waits."""
        if self.closed:
            raise SimulationError(f"{thread!r} waits on {self!r}, which is closed")
        self.join(thread)
        work = self.resume(thread)
        if work is None and timeout is not None:
            self._timeouts[thread] = self.machine.engine.after(timeout, self._timed_out, thread)
        return work

    def _timed_out(self, thread: Thread) -> None:
        """A thread has waited for as long as it wanted to: it gets None, after any APCs that it runs now."""
        del self._timeouts[thread]
        thread.waiting_for = None
        thread.wait_reason = 0
        if thread in self.waiters:
            self.waiters.remove(thread)
        self.machine.scheduler.wake(thread)

    def resume(self, thread: Thread) -> int | None:
        """A thread that is counted as active takes a packet, or waits."""
        if self.packets and self.active <= self.concurrency:
            thread.waiting_for = None
            thread.wait_reason = 0
            thread.result, work = self._remove(thread)
            return work
        thread.waiting_for = self
        thread.wait_reason = WR_QUEUE
        self.waiters.append(thread)
        return None

    def interrupt(self, thread: Thread) -> None:
        """A waiting thread is taken out of its wait to run an APC; `resume` follows."""
        self.waiters.remove(thread)

    def thread_woke(self) -> None:
        """The scheduler: one of the port's threads no longer waits, here or elsewhere."""
        self.active += 1

    def thread_waits(self) -> None:
        """The scheduler: one of the port's threads began to wait, here or elsewhere."""
        self.active -= 1
        self.release()

    def leave(self, thread: Thread) -> None:
        """A running thread no longer belongs to the port: it ended, or turned to another one."""
        thread.port = None
        self.thread_waits()

    def close(self) -> None:
        """Close the port. No thread may wait on it and no packet be queued."""
        if self.waiters or self.packets:
            raise SimulationError(
                f"{self!r} is closed with {len(self.waiters)} threads waiting and {len(self.packets)} packets"
            )
        self.closed = True

    def check(self) -> None:
        """Compare the counts with packets and threads. Raises SimulationError where they differ."""
        threads = [thread for thread in self.machine.threads.values() if thread.port is self]
        active = sum(thread.state != WAITING for thread in threads)
        if active != self.active:
            raise SimulationError(
                f"{self!r} counts {self.active} active threads; {active} of its do not wait"
            )
        if self.posted - self.removed != len(self.packets):
            raise SimulationError(f"{self!r} has lost or made packets")
        for thread in self.waiters:
            if thread.port is not self or thread.waiting_for is not self or thread.state != WAITING:
                raise SimulationError(f"{thread!r} is released by {self!r}, but does not wait there")
        if self.packets and self.waiters and self.active < self.concurrency:
            raise SimulationError(f"{self!r} has a packet, and a thread that waits for it in vain")


class Dequeue(Request):
    """Take the next packet of a port, or wait for one (GetQueuedCompletionStatus), for `timeout` ns at most.
    The program receives the `Packet`, or None if that time passed."""

    __slots__ = ("port", "timeout")

    def __init__(self, port: CompletionPort, timeout: int | None = None) -> None:
        self.port = port
        self.timeout = timeout

    def perform(self, thread: Thread) -> int | None:
        return self.port.dequeue(thread, self.timeout)


class Post(Request):
    """Put a packet into a port (PostQueuedCompletionStatus)."""

    __slots__ = ("key", "port")

    def __init__(self, port: CompletionPort, key: int = 0) -> None:
        self.port = port
        self.key = key

    def perform(self, thread: Thread) -> int | None:
        self.port.put(self.key)
        return 0

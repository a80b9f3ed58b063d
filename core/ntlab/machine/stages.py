"""What work passes through: stations with servers and a queue, and mailboxes.

Everything here is plain callbacks on the engine; a customer or message is any object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ntlab.engine import Engine
from ntlab.errors import SimulationError
from ntlab.machine.threads import Request, Thread


class Stage:
    """`servers` equal servers and one queue, first come first served.

    When a server begins with a customer it asks `service_time(customer)` for the ns that it needs, so the
    answer may depend on what the server did before (a disk's head). At the end it begins with the next one
    and calls `done(customer)`. `arrived` counts customers.
    """

    __slots__ = ("_done", "_engine", "_free", "_queue", "_service_time", "_waited", "arrived", "servers")

    def __init__(
        self,
        engine: Engine,
        service_time: Callable[[Any], int],
        done: Callable[[Any], object],
        servers: int = 1,
    ) -> None:
        if servers < 1:
            raise SimulationError(f"a stage of {servers} servers")
        self._engine = engine
        self._service_time = service_time
        self._done = done
        self.servers = servers
        # A server is a list that holds its customer: the argument of the one event that it uses again.
        self._free: list[list[Any]] = [[None] for _ in range(servers)]
        self._queue: deque[Any] = deque()
        self._waited = 0
        self.arrived = 0

    @property
    def waiting(self) -> int:
        """How many customers are queued."""
        return len(self._queue)

    @property
    def present(self) -> int:
        """How many customers are queued or served."""
        return len(self._queue) + self.servers - len(self._free)

    @property
    def wait_time(self) -> int:
        """Time spent in the queue, added over all customers, also those who still wait, ns."""
        return self._waited + len(self._queue) * self._engine.now

    def submit(self, customer: Any) -> None:
        """A customer arrives."""
        self.arrived += 1
        if self._free:
            server = self._free.pop()
            server[0] = customer
            self._engine.after(self._service_time(customer), self._served, server)
        else:
            self._queue.append(customer)
            self._waited -= self._engine.now

    def _served(self, server: list[Any]) -> int | None:
        customer = server[0]
        if self._queue:
            server[0] = following = self._queue.popleft()
            self._waited += self._engine.now
            time = self._service_time(following)
            self._done(customer)
            return time
        self._free.append(server)
        self._done(customer)
        return None


class Mailbox:
    """Messages, first in first out, for receivers, first come first served.

    A receiver is an action of the engine, a process's `send`, or a thread that asks by `Receive`. It gets
    its message in an event of its own at the same instant, so neither side goes on inside the other's call.
    """

    __slots__ = ("_engine", "_messages", "_receivers")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._messages: deque[Any] = deque()
        self._receivers: deque[Callable[[Any], Any]] = deque()

    def __len__(self) -> int:
        """How many messages nobody has asked for yet."""
        return len(self._messages)

    def put(self, message: Any) -> None:
        """Send a message."""
        if self._receivers:
            self._engine.soon(self._receivers.popleft(), message)
        else:
            self._messages.append(message)

    def get(self, receiver: Callable[[Any], Any]) -> None:
        """Call `receiver(message)` with the next message that nobody asked for before."""
        if self._messages:
            self._engine.soon(receiver, self._messages.popleft())
        else:
            self._receivers.append(receiver)


class Receive(Request):
    """Wait for the next message of a mailbox. The program receives it."""

    __slots__ = ("mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox

    def perform(self, thread: Thread) -> int | None:
        self.mailbox.get(lambda message: thread.machine.scheduler.wake(thread, message))
        return None

"""Processes and threads, and the requests by which a thread's program asks the kernel for things.

A program is an iterator of requests, most often a generator:

    def program(thread):
        yield Compute(2 * MILLISECOND)
        data = yield Receive(port)

`itertools.cycle` over a few requests is a program too, and the fastest one. Requests are values: they may
be shared and used again. A plugin adds requests by subclassing `Request`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from ntlab.engine import Event
from ntlab.errors import SimulationError
from ntlab.machine.extents import NORMAL_PRIORITY

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor

READY = 1
RUNNING = 2
TERMINATED = 4
WAITING = 5
HELD = 8
"""Thread states, numbered as Windows does; HELD is ready, but held back by a `run_limit` of 0."""


class Request:
    """What a program yields. `perform` says what it takes."""

    __slots__ = ()

    def perform(self, thread: Thread) -> int | None:
        """Begin the request for a running thread.

        Returns the work (ns at nominal speed, 0 or more) that the thread does before its program goes on,
        or None if it waits: then something will call `scheduler.wake(thread, result)`.
        """
        raise NotImplementedError


Program = Iterator[Request]

ENDED = Request()
"""What a program that has come to its end gives for its next request."""


def resume(program: Program, result: Any) -> Request:
    """A program's next request after one that had a result. What is no generator goes on without it.

    Raises StopIteration where the program has come to its end.
    """
    send = getattr(program, "send", None)
    request: Request = next(program) if send is None else send(result)
    return request


@attrs.frozen
class Session:
    """A user's session. `weight` is its share among sessions, 1..9 (P9)."""

    id: int
    weight: int = attrs.field(default=5, validator=[attrs.validators.ge(1), attrs.validators.le(9)])


@attrs.define(eq=False)
class Process:
    """A process: what its threads have in common. `page_priority` is what its new threads begin with."""

    machine: Machine = attrs.field(repr=False)
    id: int
    name: str
    session: Session
    base_priority: int
    affinity: int
    threads_created: int = 0
    threads: int = 0
    page_priority: int = NORMAL_PRIORITY


class Thread:
    """A thread. Made by `machine.create_thread`.

    `remaining` is the work left in the present burst, ns at nominal speed; `run_time` the time it has been
    on a processor; `page_priority`, 0 to 7, is for plugins that give pages priorities.
    """

    __slots__ = (
        "affinity",
        "alarm",
        "apcs",
        "base_priority",
        "context",
        "fraction",
        "id",
        "ideal",
        "last",
        "machine",
        "name",
        "page_priority",
        "port",
        "priority",
        "process",
        "processor",
        "program",
        "quantum_left",
        "raised",
        "ready_since",
        "remaining",
        "result",
        "run_time",
        "spinning",
        "state",
        "tick_time",
        "virtual",
        "wait_reason",
        "waiting_for",
        "wake_increment",
    )

    def __init__(self, process: Process, identity: int, name: str, program: Program) -> None:
        self.machine = process.machine
        self.process = process
        self.id = identity
        self.name = name
        self.program = program
        self.result: Any = None  # what the next step of the program receives
        self.state = WAITING
        self.base_priority = self.priority = process.base_priority
        self.affinity = process.affinity
        self.page_priority = process.page_priority
        self.ideal = 0
        self.last = 0
        self.processor: Processor | None = None
        self.alarm: Event = []  # which ends its plain sleeps, one after the other
        self.remaining = 0
        self.fraction = 0  # what it did beyond that at other speeds, in parts of NOMINAL of a ns
        self.quantum_left = 0
        self.raised = 0  # how many locks it holds or spins on: not preemptible while above 0
        self.spinning: Any = None  # the lock it spins on
        self.waiting_for: Any = None  # the object it waits for, if it waits
        self.wait_reason = 0
        self.wake_increment = 0  # the priority increment with which a sleep ends
        self.ready_since = 0
        self.run_time = 0
        self.tick_time = 0  # the clock ticks it was charged with, where accounting is by tick
        self.port: Any = None  # the completion port that it belongs to
        self.apcs: Any = None  # the APCs that it has to run, if any
        self.virtual: Any = None  # the virtual processor that this thread of a host is
        self.context: Any = None  # for the workload's use

    @property
    def charged_time(self) -> int:
        """What the accounting of the release says it used, ns."""
        by_tick = self.machine.scheduler.policy.accounting == "tick"
        return self.tick_time if by_tick else self.run_time

    def __repr__(self) -> str:
        return f"<Thread {self.id} {self.name}>"


class Compute(Request):
    """Use a processor for `work` ns at nominal speed."""

    __slots__ = ("work",)

    def __init__(self, work: int) -> None:
        if not work >= 0:  # NaN neither
            raise SimulationError(f"work of {work} ns; expected 0 or more")
        self.work = work

    def perform(self, thread: Thread) -> int | None:
        return self.work


class Sleep(Request):
    """Wait for `duration` ns. `increment` is the priority increment with which the wait ends."""

    __slots__ = ("duration", "increment")

    def __init__(self, duration: int, increment: int = 0) -> None:
        if not duration >= 0:
            raise SimulationError(f"sleep of {duration} ns; expected 0 or more")
        self.duration = duration
        self.increment = increment

    def perform(self, thread: Thread) -> int | None:
        thread.machine.scheduler.sleep(thread, self.duration, self.increment)
        return None


class RunOn(Request):
    """Run on `processors` (a mask) only from now on, and be on one of them when the program goes on.

    The ideal processor stays what it is, even where it is not one of them: this is how the kernel moves a
    thread for a while (as KeSetSystemAffinityThread does).
    """

    __slots__ = ("processors",)

    def __init__(self, processors: int) -> None:
        self.processors = processors

    def perform(self, thread: Thread) -> int | None:
        machine = thread.machine
        machine.scheduler.set_affinity(thread, self.processors)
        assert thread.processor is not None
        if thread.processor.bit & thread.affinity:
            return 0
        machine.engine.soon(machine.scheduler.wake, thread)
        return None


class SetIdealProcessor(Request):
    """Make another processor the thread's ideal one, and its node the ideal node. Nothing moves by that."""

    __slots__ = ("processor",)

    def __init__(self, processor: int) -> None:
        self.processor = processor

    def perform(self, thread: Thread) -> int | None:
        if not 0 <= self.processor < len(thread.machine.processors):
            raise SimulationError(f"the ideal processor {self.processor} of {thread!r} does not exist")
        thread.ideal = self.processor
        return 0

"""Processors, and the ready queues that they take threads from."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ntlab.engine import Event

if TYPE_CHECKING:
    from ntlab.machine.threads import Thread

PRIORITIES = 32
NOMINAL = 1 << 20
"""The speed of a processor that does one ns of work in one ns. Other speeds are parts of this."""

PASSIVE_LEVEL = 0
DISPATCH_LEVEL = 2
DEVICE_LEVEL = 3


@runtime_checkable
class ReadyLevel(Protocol):
    """The ready threads of one priority. A deque is one: first come, first served. See `ready_level`."""

    def append(self, thread: Thread, /) -> None:
        """Queue a thread that became ready, or whose turn is over."""

    def appendleft(self, thread: Thread, /) -> None:
        """Queue a thread that was preempted, or that another one yields to."""

    def popleft(self) -> Thread:
        """Take the thread that runs next. There is one."""

    def remove(self, thread: Thread, /) -> None:
        """Take out a thread that is queued here."""

    def __iter__(self) -> Iterator[Thread]:
        """The threads, in the order in which `popleft` would take them."""

    def __len__(self) -> int:
        """How many they are."""


class OrderedLevel:
    """A level in the order of a key, the least first; with equal keys, in the order of a deque.

    `key(thread)` is asked once, when the thread is queued: what changes later does not move it.
    """

    __slots__ = ("_arrivals", "_entries", "_key", "_order")

    def __init__(self, key: Callable[[Thread], Any]) -> None:
        self._key = key
        self._order: list[tuple[Any, int, Thread]] = []  # sorted: for some thousands faster than a heap
        self._entries: dict[Thread, tuple[Any, int, Thread]] = {}
        self._arrivals = 0

    def append(self, thread: Thread, /) -> None:
        """Queue behind those with the same key."""
        self._arrivals += 1
        self._insert((self._key(thread), self._arrivals, thread))

    def appendleft(self, thread: Thread, /) -> None:
        """Queue before those with the same key."""
        self._arrivals += 1
        self._insert((self._key(thread), -self._arrivals, thread))

    def _insert(self, entry: tuple[Any, int, Thread]) -> None:
        self._entries[entry[2]] = entry
        insort(self._order, entry)

    def popleft(self) -> Thread:
        """Take the first."""
        thread = self._order.pop(0)[2]
        del self._entries[thread]
        return thread

    def remove(self, thread: Thread, /) -> None:
        """Take out a thread that is queued here."""
        del self._order[bisect_left(self._order, self._entries.pop(thread))]

    def __iter__(self) -> Iterator[Thread]:
        return (thread for _, _, thread in self._order)

    def __len__(self) -> int:
        return len(self._order)


class ReadyQueue:
    """Ready threads: a level for each priority, and a summary whose bit p says that level p is not empty."""

    __slots__ = ("levels", "summary")

    def __init__(self, levels: Sequence[ReadyLevel] | None = None) -> None:
        self.levels: Sequence[ReadyLevel] = levels or [deque() for _ in range(PRIORITIES)]
        self.summary = 0

    def append(self, thread: Thread) -> None:
        """Queue at the tail of its priority."""
        self.levels[thread.priority].append(thread)
        self.summary |= 1 << thread.priority

    def append_left(self, thread: Thread) -> None:
        """Queue at the head of its priority, as a preempted thread is."""
        self.levels[thread.priority].appendleft(thread)
        self.summary |= 1 << thread.priority

    def pop(self) -> Thread:
        """Take the first of the highest priority. There must be one."""
        priority = self.summary.bit_length() - 1
        level = self.levels[priority]
        thread = level.popleft()
        if not level:
            self.summary ^= 1 << priority
        return thread

    def remove(self, thread: Thread) -> None:
        """Take out a thread that is queued here."""
        level = self.levels[thread.priority]
        level.remove(thread)
        if not level:
            self.summary ^= 1 << thread.priority

    def __iter__(self) -> Iterator[Thread]:
        """All queued threads, highest priority first."""
        for level in reversed(self.levels):
            yield from level

    def __len__(self) -> int:
        return sum(map(len, self.levels))


class Processor:
    """A logical processor: it runs one activity at a speed.

    The activity is a thread, or interrupt work above it. `speed` is in parts of `NOMINAL`; 0 is a
    processor that does not run, such as a virtual one whose host runs something else.
    """

    __slots__ = (
        "bit",
        "busy_since",
        "busy_time",
        "context_switches",
        "dpc_queue",
        "dpc_time",
        "dpcs",
        "factors",
        "index",
        "interrupt_time",
        "interrupt_work",
        "interrupts",
        "isr_queue",
        "level",
        "node",
        "plan",
        "preempt_pending",
        "queue",
        "since",
        "speed",
        "stepping",
        "thread",
        "ticked",
        "virtual",
    )

    def __init__(self, index: int, node: int, queue: ReadyQueue) -> None:
        self.index = index
        self.bit = 1 << index
        self.node = node
        self.queue = queue
        self.speed = NOMINAL
        self.factors: dict[str, int] = {}  # of the speed, by cause: `ntlab.machine.speeds`
        self.thread: Thread | None = None
        self.plan: Event | None = None  # the event that ends the present stretch of running
        self.since = 0  # from when on the thread makes progress
        self.ticked = 0  # up to when clock ticks have been charged
        self.stepping = False  # the thread's program is being advanced
        self.preempt_pending = False  # look at the ready queue when it may be preempted again
        self.virtual: Any = None  # the virtual processor behind it, in a child partition
        # interrupt work
        self.level = PASSIVE_LEVEL
        self.isr_queue: deque[Any] = deque()
        self.dpc_queue: deque[Any] = deque()
        self.interrupt_work: Any = None
        # totals
        self.context_switches = 0
        self.busy_time = 0
        self.busy_since = -1
        self.interrupts = 0
        self.interrupt_time = 0
        self.dpcs = 0
        self.dpc_time = 0

    def __repr__(self) -> str:
        return f"<Processor {self.index} running {self.thread!r}>"

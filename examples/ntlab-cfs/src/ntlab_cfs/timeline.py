"""What a fair scheduler keeps of each thread and of each processor.

The *virtual time* of a thread is the time it ran, over its weight: of two threads that want to run, the one
with less of it has had less than its share. It is an integer, in 1/1024 ns of a thread of weight `UNIT`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ntlab.machine import OrderedLevel, Thread

UNIT = 1024
"""The weight of a thread of Normal priority."""
FRACTION = 1024
"""Parts of a nanosecond of virtual time."""


def virtual(time: int, weight: int = UNIT) -> int:
    """The virtual time of running for `time` ns with a weight."""
    return time * (UNIT * FRACTION) // weight


class Account:
    """One thread: its weight, and its virtual time on the timeline it was last on."""

    __slots__ = ("arrives", "mark", "start", "timeline", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.timeline: Timeline | None = None  # None for one that is new
        self.arrives = True  # it was not ready until now
        self.start = 0  # its virtual time when it had run for `mark` ns
        self.mark = 0

    def virtual_time(self, run_time: int) -> int:
        """Its virtual time once it has run for so many ns."""
        return self.start + virtual(run_time - self.mark, self.weight)

    def move(self, timeline: Timeline, virtual_time: int, run_time: int) -> None:
        """It is on this timeline from now on."""
        self.timeline = timeline
        self.arrives = False
        self.start = virtual_time
        self.mark = run_time


class Timeline(OrderedLevel):
    """The ready threads of one processor in the order of their virtual times.

    `enter(timeline, thread)` gives the virtual time of a thread that is queued. `load` is the sum of the
    queued threads' weights. `minimum` is the virtual time of the processor: the least of its threads', but
    it never goes back. `turn` is how long the running thread's turn is, which began when that thread had
    run for `turn_from` ns.
    """

    __slots__ = ("accounts", "load", "minimum", "processor", "turn", "turn_from")

    def __init__(
        self, processor: int, accounts: Mapping[Thread, Account], enter: Callable[[Timeline, Thread], int]
    ) -> None:
        super().__init__(lambda thread: enter(self, thread))
        self.processor = processor
        self.accounts = accounts
        self.load = 0
        self.minimum = 0
        self.turn = 0
        self.turn_from = 0

    def append(self, thread: Thread, /) -> None:
        super().append(thread)
        self.load += self.accounts[thread].weight

    def appendleft(self, thread: Thread, /) -> None:
        super().appendleft(thread)
        self.load += self.accounts[thread].weight

    def popleft(self) -> Thread:
        thread = super().popleft()
        self.load -= self.accounts[thread].weight
        return thread

    def remove(self, thread: Thread, /) -> None:
        super().remove(thread)
        self.load -= self.accounts[thread].weight

    def advance(self, running: int | None) -> int:
        """Bring `minimum` up to date, given the running thread's virtual time if there is one; returns it."""
        first = next(iter(self), None)
        if first is not None:
            waiting = self.accounts[first].virtual_time(first.run_time)
            running = waiting if running is None else min(running, waiting)
        if running is not None and running > self.minimum:
            self.minimum = running
        return self.minimum

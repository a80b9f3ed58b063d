"""The event loop: integer nanoseconds and one total order of events.

Events are ordered by (time, class, sequence). Sequence is the order of scheduling, so two events of one
class at one instant happen in the order in which they were asked for. The class exists for the few cases
where that is not enough: hardware comes before software, and reports come after both.

An event is a list ``[time, order, action, argument]``. The loop calls ``action(argument)``. If that returns
an integer, the same event happens again so many nanoseconds later: a periodic activity is a function that
returns its period. A generator's ``send`` is such a function, so a process is just ``at(t, process.send)``;
its end (StopIteration) ends the event.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from types import GeneratorType
from typing import Any

from ntlab.errors import SimulationError

Event = list[Any]
"""A scheduled event: [time in ns, order, action or None when cancelled, argument]."""

FOREVER = 1 << 62
"""A time that is never reached (146 years in nanoseconds)."""

_CLASS = 1 << 52
INTERRUPT = 0
"""Class of hardware events: first at their instant."""
NORMAL = _CLASS
"""Class of everything else."""
REPORT = 2 * _CLASS
"""Class of measurements: they see an instant when all else at it is done."""
_END = 3 * _CLASS


class _Stop(Exception):
    """Raised by the event that ends a run."""


def _stop(argument: object) -> None:
    raise _Stop


class Engine:
    """A clock and the queue of what will happen.

    `now` is the present time in ns; `events` counts the actions called so far. `idle_work`, if set, is
    called every few ten thousand events, between two events: the tracer empties its buffer there.
    """

    __slots__ = ("_cancelled", "_queue", "_running", "_sequence", "events", "idle_work", "now")

    BATCH = 1 << 15

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self.idle_work: Callable[[], None] | None = None
        self._queue: list[Event] = []
        self._sequence = 0
        self._cancelled = 0
        self._running = False

    def at(
        self, time: int, action: Callable[[Any], Any], argument: Any = None, order: int = NORMAL
    ) -> Event:
        """Schedule `action(argument)` at `time` (ns, not in the past). Returns the event, for `cancel`."""
        if time < self.now:
            raise SimulationError(f"event scheduled at {time} ns, in the past of {self.now} ns")
        self._sequence = sequence = self._sequence + 1
        event = [time, order + sequence, action, argument]
        heappush(self._queue, event)
        return event

    def after(
        self, delay: int, action: Callable[[Any], Any], argument: Any = None, order: int = NORMAL
    ) -> Event:
        """Schedule `action(argument)` in `delay` ns (not negative)."""
        if delay < 0:
            raise SimulationError(f"event scheduled {-delay} ns in the past")
        self._sequence = sequence = self._sequence + 1
        event = [self.now + delay, order + sequence, action, argument]
        heappush(self._queue, event)
        return event

    def cancel(self, event: Event) -> None:
        """Make `event` not happen. Cancelling twice, or after it happened, is harmless."""
        if event[2] is None:
            return
        event[2] = event[3] = None
        # A cancelled event stays in the queue until its time. Swept when most of the queue is dead.
        self._cancelled = cancelled = self._cancelled + 1
        if cancelled > 512 and cancelled * 2 > len(self._queue):
            self._queue[:] = [kept for kept in self._queue if kept[2] is not None]
            heapify(self._queue)
            self._cancelled = 0

    @property
    def pending(self) -> int:
        """How many events are scheduled and not cancelled."""
        return sum(1 for event in self._queue if event[2] is not None)

    def next_time(self) -> int | None:
        """When the next event happens, or None."""
        queue = self._queue
        while queue and queue[0][2] is None:
            heappop(queue)
        return queue[0][0] if queue else None

    def run(self, until: int | None = None) -> int:
        """Let events happen up to and including `until` ns (or until there are none). Returns `now`.

        Afterwards `now` is `until`, if that was given. An action's exception leaves the engine at the
        instant of that action.
        """
        if self._running:
            raise SimulationError("the engine is already running: an action may not call run()")
        if until is not None and until < self.now:
            raise SimulationError(f"cannot run until {until} ns, in the past of {self.now} ns")
        end: Event = [FOREVER if until is None else until, _END, _stop, None]
        queue = self._queue
        heappush(queue, end)
        pop, push, batch = heappop, heappush, range(self.BATCH)
        idle_work = self.idle_work
        done = 0
        self._running = True
        try:
            while True:
                for done in batch:  # noqa: B007  (counts events, also when an action raises)
                    event = pop(queue)
                    action = event[2]
                    if action is None:
                        continue
                    self.now = event[0]
                    try:
                        delay = action(event[3])
                    except StopIteration:
                        if type(getattr(action, "__self__", None)) is not GeneratorType:
                            raise
                        continue  # a process has ended
                    if delay is not None and event[2] is not None:
                        self._sequence = sequence = self._sequence + 1
                        event[0] += delay
                        event[1] = NORMAL + sequence
                        push(queue, event)
                self.events += self.BATCH
                if idle_work is not None:
                    idle_work()
        except _Stop:
            self.now = self.now if until is None else until
        except BaseException:
            queue[:] = [kept for kept in queue if kept is not end]
            heapify(queue)
            raise
        finally:
            self._running = False
            self.events += done
        if idle_work is not None:
            idle_work()
        return self.now

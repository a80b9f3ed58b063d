"""The event loop: integer nanoseconds and one total order of events.

Events are ordered by (time, class, sequence). Sequence is the order of scheduling, so two events of one
class at one instant happen in the order in which they were asked for. The class exists for the few cases
where that is not enough: hardware comes before software, and reports come after both.

An event is a list ``[key, action, argument]``; the key is time and class in one integer. The loop calls
``action(argument)``. If that returns an integer, the same event happens again so many nanoseconds later: a
periodic activity is a function that returns its period. A generator's ``send`` is such a function, so a
process is just ``at(t, process.send)``; its end (StopIteration) ends the event.

The queue is a heap of keys and a dictionary from each key to its event, or to a `_Bucket` of them in the
order of scheduling. Kernels do much at the same instant (clock ticks, equal quanta), and then the heap is
touched once for all of it: several times faster than a heap of events, and never slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from types import GeneratorType
from typing import Any

from ntlab.errors import SimulationError

Event = list[Any]
"""A scheduled event: [key, action (None when cancelled), argument]."""

FOREVER = 1 << 62
"""A time that is never reached (146 years in nanoseconds)."""

INTERRUPT = 0
"""Class of hardware events: first at their instant."""
NORMAL = 1
"""Class of everything else."""
REPORT = 2
"""Class of measurements: they see an instant when all else at it is done."""
_END = 3
_CLASS_BITS = 2


class _Bucket(list[Event]):
    """The events of one key, where there are several."""

    __slots__ = ()


class _Stop(Exception):
    """Raised by the event that ends a run."""


def _stop(argument: object) -> None:
    raise _Stop


class Engine:
    """A clock and the queue of what will happen.

    `now` is the present time in ns; `events` counts the actions called so far. `idle_work`, if set, is
    called every few ten thousand events, between two events: the tracer empties its buffer there.
    """

    __slots__ = ("_cancelled", "_events", "_keys", "_live", "_running", "events", "idle_work", "now")

    BATCH = 1 << 15

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self.idle_work: Callable[[], None] | None = None
        self._keys: list[int] = []
        self._events: dict[int, Event] = {}
        self._cancelled = 0
        self._live = 0
        self._running = False

    def at(
        self, time: int, action: Callable[[Any], Any], argument: Any = None, order: int = NORMAL
    ) -> Event:
        """Schedule `action(argument)` at `time` (ns, not in the past). Returns the event, for `cancel`."""
        if time < self.now:
            raise SimulationError(f"event scheduled at {time} ns, in the past of {self.now} ns")
        event = [time << _CLASS_BITS | order, action, argument]
        self._insert(event)
        return event

    def after(
        self, delay: int, action: Callable[[Any], Any], argument: Any = None, order: int = NORMAL
    ) -> Event:
        """Schedule `action(argument)` in `delay` ns (not negative)."""
        if delay < 0:
            raise SimulationError(f"event scheduled {-delay} ns in the past")
        event = [self.now + delay << _CLASS_BITS | order, action, argument]
        self._insert(event)
        return event

    def _insert(self, event: Event) -> None:
        key = event[0]
        found = self._events.setdefault(key, event)
        if found is event:
            heappush(self._keys, key)
        elif found.__class__ is list:
            self._events[key] = _Bucket((found, event))
        else:
            found.append(event)

    def cancel(self, event: Event) -> None:
        """Make `event` not happen. Cancelling twice, or after it happened, is harmless."""
        if event[1] is None:
            return
        event[1] = event[2] = None
        # A cancelled event stays in the queue until its time, or until there are as many dead as live ones.
        self._cancelled += 1
        if self._cancelled > 512 and self._cancelled > self._live:
            self._sweep()

    def _sweep(self) -> None:
        live = [event for event in self._in_order() if event[1] is not None]
        self._keys.clear()
        self._events.clear()
        for event in live:
            self._insert(event)
        self._live = len(live)
        self._cancelled = 0

    def _in_order(self) -> Iterator[Event]:
        for key in sorted(self._keys):
            found = self._events[key]
            if found.__class__ is list:
                yield found
            else:
                yield from found

    @property
    def pending(self) -> int:
        """How many events are scheduled and not cancelled."""
        return sum(1 for event in self._in_order() if event[1] is not None)

    def next_time(self) -> int | None:
        """When the next event happens, or None."""
        for event in self._in_order():
            if event[1] is not None:
                time: int = event[0] >> _CLASS_BITS
                return time
        return None

    def run(self, until: int | None = None) -> int:
        """Let events happen up to and including `until` ns (or until there are none). Returns `now`.

        Afterwards `now` is `until`, if that was given. An action's exception leaves the engine at the
        instant of that action, with all other events in place.
        """
        if self._running:
            raise SimulationError("the engine is already running: an action may not call run()")
        end: Event | None = None
        if until is not None:
            if until < self.now:
                raise SimulationError(f"cannot run until {until} ns, in the past of {self.now} ns")
            end = self.at(until, _stop, None, _END)
        self._running = True
        idle_work = self.idle_work
        try:
            while self._run_batch():
                if idle_work is not None:
                    idle_work()
        except _Stop:
            pass
        finally:
            if end is not None:
                self.cancel(end)
            self._running = False
        if idle_work is not None:
            idle_work()
        return self.now

    def _run_batch(self) -> bool:
        """Let some thousand events happen. Returns whether there are more."""
        keys, events = self._keys, self._events
        pop, push, take, put = heappop, heappush, events.pop, events.setdefault
        done = 0
        key = 0
        bucket: Iterator[Event] = iter(())
        try:
            while done < self.BATCH:
                if not keys:
                    return False
                key = pop(keys)
                found = take(key)
                self.now = key >> _CLASS_BITS
                bucket = iter((found,) if found.__class__ is list else found)
                for event in bucket:
                    action = event[1]
                    if action is None:
                        continue
                    done += 1
                    try:
                        delay = action(event[2])
                    except StopIteration:
                        if type(getattr(action, "__self__", None)) is not GeneratorType:
                            raise
                        continue  # a process has ended
                    if delay is not None and event[1] is not None:
                        event[0] = again = self.now + delay << _CLASS_BITS | NORMAL
                        other = put(again, event)
                        if other is event:
                            push(keys, again)
                        elif other.__class__ is list:
                            events[again] = _Bucket((other, event))
                        else:
                            other.append(event)
                    if keys and keys[0] < key:
                        break  # something more urgent at this very instant
                else:
                    continue
                self._put_back(key, bucket)
            return True
        except BaseException:
            self._put_back(key, bucket)
            raise
        finally:
            self.events += done

    def _put_back(self, key: int, rest: Iterator[Event]) -> None:
        """Return to the queue what of a bucket has not happened, before what has come to its key since."""
        waiting = _Bucket(rest)
        if not waiting:
            return
        found = self._events.get(key)
        if found is None:
            heappush(self._keys, key)
        elif found.__class__ is list:
            waiting.append(found)
        else:
            waiting.extend(found)
        self._events[key] = waiting

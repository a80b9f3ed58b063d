"""The event loop: integer nanoseconds and one total order of events.

Events are ordered by (time, class, sequence). Sequence is the order of scheduling, so two events of one
class at one instant happen in the order in which they were asked for. The class exists for the few cases
where that is not enough: hardware comes before software, and reports come after both.

An event is a list ``[action, argument]``. The loop calls ``action(argument)``. If that returns an
integer, the same event happens again so many nanoseconds later: a periodic activity is a function that
returns its period. A generator's ``send`` is such a function, so a process is just ``at(t, process.send)``;
its end (StopIteration) ends the event.

The queue is a heap of times and a dictionary from each time to its event, or to ``[None, bucket]``, where
the bucket is a list of them in the order of scheduling. Kernels do much at the same instant (clock ticks,
equal quanta), and then the heap is touched once for all of it. It compares bare integers, so it is no slower
where all times differ. The few events that are not NORMAL are kept aside, by time and class; their instants
always have a bucket, be it empty. When there are many instants, those from the `_horizon` on are not in the
heap but in `Days`, and come to it day by day.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from heapq import heapify, heappop, heappush, heapreplace, nsmallest
from itertools import repeat
from types import GeneratorType
from typing import Any

from ntlab.engine.days import FOREVER, Days, Event
from ntlab.errors import SimulationError

INTERRUPT = 0
"""Class of hardware events: first at their instant."""
NORMAL = 1
"""Class of everything else."""
REPORT = 2
"""Class of measurements: they see an instant when all else at it is done."""

SHORT = (1 << 30) - 1
"""What Python compares fastest: the largest integer of one digit."""
BATCH = 1 << 10
"""Events between two calls of `idle_work`: what they record is still in the processor's cache then."""
NEVER = 2 * FOREVER
"""The horizon where there are no days."""
CROWD = 1 << 13
"""Instants in the heap that are too many for the processor's cache; days are made for half as many."""
EVENTS_AT_ONE_INSTANT = 1_000_000
"""More of them, and time will not go on by itself."""


class Engine:
    """A clock and the queue of what will happen.

    `now` is the present time in ns; `events` counts the actions called so far. `idle_work`, if set, is
    called every `batch` events (at most twice as many) and between two of them: the tracer empties its buffer
    there.
    """

    __slots__ = (
        "_cancelled",
        "_days",
        "_events",
        "_horizon",
        "_live",
        "_near",
        "_running",
        "_settled",
        "_special",
        "_times",
        "_walk",
        "batch",
        "events",
        "idle_work",
        "now",
    )

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self.batch = BATCH
        self.idle_work: Callable[[], None] | None = None
        self._times: list[int] = [NEVER]  # a heap of the keys of _events, which is never empty
        self._events: dict[int, Any] = {}  # by time, the NORMAL ones: an event, or [None, bucket]
        self._special: dict[int, tuple[deque[Event], deque[Event]]] = {}  # by time, interrupts and reports
        self._days = Days(FOREVER)  # the NORMAL ones from _horizon on
        self._horizon = NEVER
        self._near = 0  # a delay below it ends before the horizon, whenever in this batch it begins
        self._settled = 0  # events until which days stay as long as they are
        self._walk: Iterator[Event] = iter(())  # through the rest of the bucket whose events happen
        self._cancelled = 0
        self._live = 0
        self._running = False

    def at(self, time: int, action: Callable[[Any], Any], argument: Any = None, order: int = NORMAL) -> Event:
        """Schedule `action(argument)` at `time` (ns, not in the past). Returns the event, for `cancel`."""
        if time < self.now:
            raise SimulationError(
                f"event scheduled at {time} ns, in the past of {self.now} ns; expected now or later"
            )
        event = [action, argument]
        self._insert(time, event, order)
        return event

    def after(
        self, delay: int, action: Callable[[Any], Any], argument: Any = None, order: int = NORMAL
    ) -> Event:
        """Schedule `action(argument)` in `delay` ns (not negative)."""
        if delay < 0 or order != NORMAL:
            return self.at(self.now + delay, action, argument, order)
        # As `at` does; written out because most events come this way.
        time = self.now + delay
        event = [action, argument]
        if time >= self._horizon:
            self._days.put(time, event)
            return event
        found = self._events.setdefault(time, event)
        if found is event:
            heappush(self._times, time)
        elif found[0] is None and found[1] is not None:
            found[1].append(event)
        else:
            self._events[time] = [None, [found, event]]
        return event

    def soon(self, action: Callable[[Any], Any], argument: Any = None) -> Event:
        """Schedule `action(argument)` at this instant, after all else that is scheduled for it."""
        time = self.now
        event = [action, argument]
        found = self._events.setdefault(time, event)
        if found is event:
            heappush(self._times, time)
        elif found[0] is None and found[1] is not None:
            found[1].append(event)
        else:
            self._events[time] = [None, [found, event]]
        return event

    def inserter(self) -> Callable[[int, Event], Event]:
        """A function of (delay, event) for what is scheduled very often, quicker than `after`.

        The event is a new one, or one that has happened and is not scheduled. The delay is not negative. It
        returns what is scheduled, for `cancel`.
        """
        times, events, push = self._times, self._events, heappush
        put = events.setdefault

        def insert(delay: int, event: Event) -> Event:
            time = self.now + delay
            if delay >= self._near and time >= self._horizon:
                self._days.put(time, event)
                return event
            found = put(time, event)
            if found is event:
                push(times, time)
            elif found[0] is None and found[1] is not None:
                found[1].append(event)
            else:
                events[time] = [None, [found, event]]
            return event

        return insert

    def _insert(self, time: int, event: Event, order: int) -> None:
        if order != NORMAL:
            self._insert_special(time, event, order)
            return
        if time >= self._horizon:
            self._days.put(time, event)
            return
        found = self._events.setdefault(time, event)
        if found is event:
            heappush(self._times, time)
        elif found[0] is None and found[1] is not None:
            found[1].append(event)
        else:
            self._events[time] = [None, [found, event]]

    def _insert_special(self, time: int, event: Event, order: int) -> None:
        interrupts, reports = self._special.setdefault(time, (deque(), deque()))
        (interrupts if order == INTERRUPT else reports).append(event)
        if order == INTERRUPT and time == self.now:
            self._put_back(self._rest())  # it comes before the rest of the instant that is happening
        self._bucket(time)

    def _bucket(self, time: int) -> list[Event]:
        """The bucket for that time."""
        found = self._events.get(time)
        if found is None:
            heappush(self._times, time)
        elif found[0] is None and found[1] is not None:
            bucket: list[Event] = found[1]
            return bucket
        bucket = [] if found is None else [found]
        self._events[time] = [None, bucket]
        return bucket

    def _rest(self) -> list[Event]:
        """End the walk through the present bucket. Returns what has not happened yet."""
        rest = list(self._walk)
        self.events -= len(rest)  # which will count the whole bucket
        return rest

    def _put_back(self, rest: list[Event]) -> None:
        """Let the rest of a bucket happen after all, before what has come meanwhile for this instant."""
        if rest:
            self._bucket(self.now)[:0] = rest

    def cancel(self, event: Event) -> None:
        """Make `event` not happen. Cancelling twice, or after it happened, is harmless."""
        if event[0] is None:
            return
        event[0] = event[1] = None
        # A cancelled event stays in the queue until its time, or until there are as many dead as live ones.
        # (Swept between two batches while the loop runs: it relies on its time being the first of the heap.)
        self._cancelled += 1
        if not self._running:
            self._sweep()

    def clear(self) -> None:
        """Make nothing that is scheduled happen."""
        for event in [event for _, event in self._scheduled()]:
            self.cancel(event)
        for time in self._special:
            self._events[time] = [None, None]  # cancelled, too
        self._cancelled += len(self._special)
        self._special.clear()

    def _tidy(self) -> None:
        """Between two batches: have few dead events, and few instants in the heap."""
        self._sweep()
        if len(self._times) > CROWD and self.events >= self._settled:
            nearest = nsmallest(CROWD // 2, self._times)
            self._spread(nearest[-1] - nearest[0], nearest[-1])

    def _sweep(self) -> None:
        if self._cancelled <= 512 or self._cancelled <= self._live:
            return
        events = self._events
        live = 0
        for time, found in list(events.items()):
            if found[0] is not None:
                live += 1
                continue
            bucket = found[1]
            if bucket:
                bucket[:] = [event for event in bucket if event[0] is not None]
                live += len(bucket)
            if not bucket and time not in self._special:
                del events[time]
        self._heap()
        days = Days(self._days.width)
        for time, event in self._days:
            if event[0] is not None:
                live += 1
                days.put(time, event)
        self._days = days
        self._live = live
        self._cancelled = 0

    def _heap(self) -> None:
        self._times[:] = self._events  # in place: the loop that is running holds this very list
        self._times.append(NEVER)
        heapify(self._times)

    def _spread(self, width: int, horizon: int) -> None:
        """From now on the heap ends at `horizon`, and days are `width` long."""
        events, far = self._events, self._days
        self._days, self._horizon = Days(width), horizon
        near = {}
        for time, found in events.items():
            if time < horizon or time in self._special:
                near[time] = found
            else:
                for event in [found] if found[0] is not None else found[1] or []:
                    self._days.put(time, event)
        events.clear()  # a dictionary keeps its size, and with it the places in memory, when keys are deleted
        events.update(near)
        for time, event in far:
            self._insert(time, event, NORMAL)
        self._heap()
        # Not again before as many events have happened as this has moved.
        self._settled = self.events + len(self._times) + len(self._days)

    def _next_day(self) -> None:
        """All before the horizon has happened: bring the next day's events to the heap."""
        events, times, days = self._events, self._times, self._days
        if not days:
            self._horizon = NEVER
            return
        put = events.setdefault
        self._horizon, day = days.take()
        for time, event in day:  # as `_insert` does
            found = put(time, event)
            if found is event:
                times.append(time)
            elif found[0] is None and found[1] is not None:
                found[1].append(event)
            else:
                events[time] = [None, [found, event]]
        heapify(times)
        if len(times) < CROWD // 16 and self.events >= self._settled:
            if len(days) < CROWD // 2:
                self._spread(FOREVER, NEVER)
            else:
                self._spread(8 * days.width, self._horizon)

    def _scheduled(self) -> Iterator[tuple[int, Event]]:
        """Each event that is scheduled and not cancelled, with its time; in no particular order."""
        yield from ((self.now, event) for event in copy(self._walk) if event[0] is not None)
        for time, found in self._events.items():
            events = [found] if found[0] is not None else found[1] or []
            yield from ((time, event) for event in events if event[0] is not None)
        for time, queues in self._special.items():
            yield from ((time, event) for queue in queues for event in queue if event[0] is not None)
        yield from ((time, event) for time, event in self._days if event[0] is not None)

    @property
    def pending(self) -> int:
        """How many events are scheduled and not cancelled."""
        return sum(1 for _ in self._scheduled())

    def next_time(self) -> int | None:
        """When the next event happens, or None."""
        return min((time for time, _ in self._scheduled()), default=None)

    def run(self, until: int | None = None) -> int:
        """Let events happen up to and including `until` ns (or until there are none). Returns `now`.

        Afterwards `now` is `until`, if that was given. An action's exception leaves the engine at the
        instant of that action, with all other events in place. Raises SimulationError where events go on
        and on at one instant.
        """
        if self._running:
            raise SimulationError("the engine is already running: an action may not call run()")
        if until is not None and until < self.now:
            raise SimulationError(f"cannot run until {until} ns, in the past of {self.now} ns")
        self._running = True
        idle_work = self.idle_work
        instant, before = self.now, self.events
        last = FOREVER if until is None else until
        try:
            while True:
                self._tidy()
                if not self._run_batch(min(last, self._horizon - 1)):
                    if self._horizon > last:
                        break
                    self._next_day()
                if self.now != instant:
                    instant, before = self.now, self.events
                elif self.events - before > EVENTS_AT_ONE_INSTANT:
                    raise SimulationError(self._endless())
                if idle_work is not None:
                    idle_work()
        finally:
            self._running = False
        if until is not None:
            self.now = until
        if idle_work is not None:
            idle_work()
        return self.now

    def _run_batch(self, until: int) -> bool:
        """Let `batch` events happen. Returns whether there are more."""
        times, events, special = self._times, self._events, self._special
        pop, push, replace = heappop, heappush, heapreplace
        take, put = events.pop, events.setdefault
        horizon, days, width, far = self._horizon, self._days.by_number, self._days.width, self._days.put
        self._near = near = min(horizon - until, SHORT)
        batch = self.batch
        instants = repeat(None, batch)
        more = dead = 0
        unfinished = 1
        try:
            for _ in instants:
                time = times[0]
                if time > until:
                    return False
                event = take(time)
                action, argument = event
                if action is not None:
                    # The only event of its instant. The time stays the first of the heap until the action is
                    # done: an event that happens again can take its place, half the work of leaving and
                    # coming back.
                    self.now = time
                    try:
                        delay = action(argument)
                    except BaseException as error:
                        pop(times)
                        if type(error) is not StopIteration:
                            raise
                        _end_process(action)
                        continue
                    if delay is None:
                        pop(times)
                        continue
                    if delay < 0:
                        pop(times)
                        raise SimulationError(_into_the_past(action, delay))
                    again = time + delay
                    if delay >= near and again >= horizon:
                        pop(times)
                        day = days.get(again // width)  # as `Days.put` does
                        if day is None:
                            far(again, event)
                        else:
                            day[0].append(again)
                            day[1].append(event)
                        continue
                    found = put(again, event)
                    if found is event:
                        replace(times, again)
                        continue
                    if found[0] is None and found[1] is not None:
                        found[1].append(event)
                    else:
                        events[again] = [None, [found, event]]
                    pop(times)
                    continue
                bucket = argument
                if self._cancelled:
                    # Cancelled ones do not move the clock.
                    if bucket is None:
                        pop(times)
                        dead += 1
                        continue
                    if bucket and bucket[0][0] is None:
                        alive = (number for number, event in enumerate(bucket) if event[0] is not None)
                        del bucket[: next(alive, len(bucket))]
                        if bucket or time in special:
                            events[time] = event
                        else:
                            pop(times)
                        dead += 1
                        continue
                self.now = time
                if special and time in special:
                    if special[time][0] or not bucket:
                        events[time] = event
                        self._run_special(time)
                        continue
                    events[time] = [None, []]  # reports come when the bucket is done
                    push(times, time)
                # What comes meanwhile for this instant has a bucket of its own, which is next. The first new
                # instant takes the place of this one in the heap.
                self._walk = walk = iter(bucket)
                add: Callable[[list[int], int], object] = replace
                try:
                    while True:
                        try:
                            for event in walk:
                                action, argument = event
                                if action is None:
                                    dead += 1
                                    continue
                                delay = action(argument)
                                if delay is not None:
                                    if delay < 0:
                                        raise SimulationError(_into_the_past(action, delay))
                                    again = time + delay
                                    if delay >= near and again >= horizon:
                                        far(again, event)
                                        continue
                                    found = put(again, event)
                                    if found is event:
                                        add(times, again)
                                        add = push
                                    elif found[0] is None and found[1] is not None:
                                        found[1].append(event)
                                    else:
                                        events[again] = [None, [found, event]]
                            break
                        except StopIteration:
                            _end_process(action)
                except BaseException:
                    self._put_back(self._rest())
                    raise
                finally:
                    more += len(bucket) - 1
                    if add is replace:
                        pop(times)
                if more >= batch:
                    break
            unfinished = 0
            return True
        finally:
            self.events += batch - instants.__length_hint__() - unfinished + more - dead

    def _run_special(self, time: int) -> None:
        """Let the first interrupt of an instant happen, or, where there is none, the first report."""
        interrupts, reports = self._special[time]
        order = INTERRUPT if interrupts else REPORT
        event = (interrupts or reports).popleft()
        if not interrupts and not reports:
            del self._special[time]
        action = event[0]
        if action is None:
            return
        try:
            delay = action(event[1])
        except StopIteration:
            _end_process(action)
            return
        if delay is not None and event[0] is not None:
            if delay < 0:
                raise SimulationError(_into_the_past(action, delay))
            self._insert(time + delay, event, order)

    def _endless(self) -> str:
        now = [event for time, event in self._scheduled() if time == self.now]
        next_one = f": {described(now[0][0])} is called next" if now else ""
        return (
            f"{EVENTS_AT_ONE_INSTANT} events happened at {self.now} ns, and time does not go on{next_one}; "
            "an action that schedules itself, or returns a delay, needs one of 1 ns or more"
        )


def described(action: Callable[[Any], Any]) -> str:
    """The name of an action, with its module."""
    action = inspect.unwrap(action)
    while isinstance(action, partial):
        action = action.func
    subject = getattr(action, "__self__", None)
    if isinstance(subject, GeneratorType):
        return f"the process {subject.__qualname__}"
    name = getattr(action, "__qualname__", type(action).__qualname__)
    return f"{getattr(action, '__module__', type(action).__module__)}.{name}"


def _into_the_past(action: Callable[[Any], Any], delay: object) -> str:
    return (
        f"{described(action)} returned {delay!r}; expected None, or the ns until it happens again, 0 or more"
    )


def _end_process(action: Callable[[Any], Any]) -> None:
    """A StopIteration came out of an action: right if that is a generator's `send`, else a mistake."""
    if type(getattr(action, "__self__", None)) is not GeneratorType:
        raise

"""Events far ahead, kept by day.

A heap of a million times is a million places in memory that the processor does not cache, and a dozen of them
are visited for each event. Here an event that is far ahead is appended to its day, which is a place that many
others went to just before; its day goes to the heap when it comes, and is small enough for the cache then.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any

Event = list[Any]
"""A scheduled event: [action (None when cancelled), argument]."""

FOREVER = 1 << 62
"""A time that is never reached (146 years in nanoseconds)."""


class Days:
    """Events with their times, by days of `width` ns.

    `by_number` has the times and the events of each day, in the order of their coming.
    """

    __slots__ = ("_order", "by_number", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        # Times are not kept as objects: each of a million objects would be one more place in memory.
        self.by_number: dict[int, tuple[array[int], list[Event]]] = {}
        self._order: list[int] = []  # a heap of its keys

    def __len__(self) -> int:
        return sum(len(events) for _, events in self.by_number.values())

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        """Every event with its time; those of one instant are in the order of their coming."""
        for times, events in self.by_number.values():
            yield from zip(times, events, strict=True)

    def clear(self) -> None:
        """Forget all of them."""
        self.by_number.clear()
        self._order.clear()

    def put(self, time: int, event: Event) -> None:
        """Add an event."""
        time = min(time, FOREVER + 1)  # neither comes, and this one fits 64 bits
        number = time // self.width
        day = self.by_number.get(number)
        if day is None:
            day = self.by_number[number] = array("q"), []
            heappush(self._order, number)
        day[0].append(time)
        day[1].append(event)

    def take(self) -> tuple[int, Iterator[tuple[int, Event]]]:
        """Take away the first day there is: the time at which it ends, and its events with their times."""
        number = heappop(self._order)
        times, events = self.by_number.pop(number)
        # Each is somewhere in memory: who asks for all of them at once waits once for many.
        deque(map(itemgetter(0), events), maxlen=0)
        return (number + 1) * self.width, zip(times, events, strict=True)

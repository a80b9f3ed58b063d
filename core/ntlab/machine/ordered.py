"""A map by ascending integers, where a key more costs the same among ten and among a million; and a set of
integers, as runs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

from ntlab.errors import SimulationError

V = TypeVar("V")

CHUNK = 1024
"""The most keys of a chunk: what is moved up when a key comes in between."""


class Ordered(Generic[V]):
    """Values by ascending integer keys.

    They are kept in chunks, of which the first `_parts[n - 1]` keys and more belong to chunk n. No chunk is
    empty, unless it is the only one.
    """

    __slots__ = ("_keys", "_parts", "_values")

    def __init__(self) -> None:
        self._parts: list[int] = []  # the least key that each chunk but the first may have
        self._keys: list[list[int]] = [[]]
        self._values: list[list[V]] = [[]]

    def add(self, key: int, value: V) -> None:
        """Add a key. Raises SimulationError if it is here."""
        parts = self._parts
        chunk = bisect_right(parts, key) if parts else 0
        keys, values = self._keys[chunk], self._values[chunk]
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            raise SimulationError(f"{key} is here twice: {values[at]!r} and {value!r}")
        keys.insert(at, key)
        values.insert(at, value)
        if len(keys) > CHUNK:
            half = CHUNK // 2
            self._keys[chunk : chunk + 1] = [keys[:half], keys[half:]]
            self._values[chunk : chunk + 1] = [values[:half], values[half:]]
            parts.insert(chunk, keys[half])

    def remove(self, key: int) -> V:
        """Take out a key, and return its value. Raises SimulationError if it is not here."""
        parts = self._parts
        chunk = bisect_right(parts, key) if parts else 0
        keys = self._keys[chunk]
        at = bisect_left(keys, key)
        if at == len(keys) or keys[at] != key:
            raise SimulationError(f"{key} is not here")
        del keys[at]
        value = self._values[chunk].pop(at)
        if not keys and parts:
            del self._keys[chunk], self._values[chunk], parts[max(chunk - 1, 0)]
        return value

    def around(self, key: int) -> tuple[V | None, int | None]:
        """The value of the greatest key that is not above `key`, and the least key that is; None for none."""
        parts = self._parts
        chunk = bisect_right(parts, key) if parts else 0
        keys = self._keys[chunk]
        at = bisect_right(keys, key)
        if at:
            before: V | None = self._values[chunk][at - 1]
        else:
            before = self._values[chunk - 1][-1] if chunk else None
        if at < len(keys):
            return before, keys[at]
        return before, self._keys[chunk + 1][0] if chunk < len(parts) else None

    def between(self, first: int, stop: int) -> list[V]:
        """The values of the greatest key that is not above `first`, and of all after it and below `stop`."""
        parts = self._parts
        chunk = bisect_right(parts, first) if parts else 0
        keys, values = self._keys[chunk], self._values[chunk]
        at = bisect_right(keys, first)
        if at:
            at -= 1
            found = []
        else:
            found = self._values[chunk - 1][-1:] if chunk else []
        end = bisect_left(keys, stop, at)
        found += values[at:end]
        while end == len(keys) and chunk < len(parts):
            chunk += 1
            keys = self._keys[chunk]
            end = bisect_left(keys, stop)
            found += self._values[chunk][:end]
        return found

    def down(self, key: int) -> Iterator[tuple[int, V]]:
        """The keys that are not above `key` with their values, descending. Nothing may change meanwhile."""
        chunk = bisect_right(self._parts, key)
        end = bisect_right(self._keys[chunk], key)
        while chunk >= 0:
            keys, values = self._keys[chunk], self._values[chunk]
            for at in range(end - 1, -1, -1):
                yield keys[at], values[at]
            chunk -= 1
            end = len(self._keys[chunk])

    def up(self, key: int) -> Iterator[tuple[int, V]]:
        """The keys above `key` with their values, ascending. Nothing may change meanwhile."""
        chunk = bisect_right(self._parts, key)
        begin = bisect_right(self._keys[chunk], key)
        while chunk < len(self._keys):
            keys, values = self._keys[chunk], self._values[chunk]
            for at in range(begin, len(keys)):
                yield keys[at], values[at]
            chunk += 1
            begin = 0

    def first(self) -> tuple[int, V]:
        """The least key with its value. There must be one."""
        return self._keys[0][0], self._values[0][0]

    def get(self, key: int) -> V | None:
        """The value of a key; None if it is not here."""
        parts = self._parts
        chunk = bisect_right(parts, key) if parts else 0
        keys = self._keys[chunk]
        at = bisect_left(keys, key)
        return self._values[chunk][at] if at < len(keys) and keys[at] == key else None

    def __iter__(self) -> Iterator[tuple[int, V]]:
        """The keys with their values, ascending."""
        return chain.from_iterable(map(zip, self._keys, self._values))

    def __bool__(self) -> bool:
        return bool(self._keys[0])

    def __len__(self) -> int:
        return sum(map(len, self._keys))


class Runs:
    """A set of integers, as runs."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, first: int, stop: int) -> None:
        """Add first..stop."""
        low, high = bisect_left(self._stops, first), bisect_right(self._starts, stop)
        if low < high:
            first, stop = min(first, self._starts[low]), max(stop, self._stops[high - 1])
        self._starts[low:high] = [first]
        self._stops[low:high] = [stop]

    def remove(self, first: int, stop: int) -> None:
        """Take out what of first..stop is in it."""
        low, high = bisect_right(self._stops, first), bisect_left(self._starts, stop)
        if low >= high:
            return
        before, after = self._starts[low], self._stops[high - 1]
        left = [(before, first)] if before < first else []
        right = [(stop, after)] if stop < after else []
        self._starts[low:high] = [start for start, _ in left + right]
        self._stops[low:high] = [end for _, end in left + right]

    def touches(self, first: int, stop: int) -> bool:
        """Whether any of first..stop is in it."""
        return bisect_right(self._stops, first) < bisect_left(self._starts, stop)

    def missing(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The runs (first, stop) of first..stop that are not in it."""
        index = bisect_right(self._stops, first)
        while first < stop:
            start, end = (
                (self._starts[index], self._stops[index]) if index < len(self._starts) else (stop, stop)
            )
            if first < start:
                yield first, min(start, stop)
            first = max(first, end)
            index += 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The runs as (first, stop)."""
        return zip(self._starts, self._stops, strict=True)

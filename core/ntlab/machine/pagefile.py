"""A paging file: slots of one page each, who owns them, and where the free ones are.

Pure bookkeeping, without time and without I/O. A file of a few hundred thousand slots is searched for
every write, so free runs are indexed twice: by start, to merge neighbours and to search near a place; and
by exact length, to find the first run that fits or the longest one. A file of n slots has at most
sqrt(2 n) different lengths of free runs, and in practice a few dozen.

Owners are integers: the owner of the next virtual page is one more. So a stretch of the file holds a
stretch of address space where owners rise as the slots do.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

from ntlab.errors import SimulationError

NOBODY = -1
"""Owner of slots that were in use before the run and stay so."""


class PagingFile:
    """A paging file of `size` slots, all free.

    `owner_of` gives the owner of each used slot, `slot_of` the slot of each owner. A slot has at most one
    owner and an owner at most one slot, except NOBODY. `peak` is the most slots ever used at once.
    """

    __slots__ = ("_by_length", "_lengths", "_runs", "_starts", "name", "owner_of", "peak", "size", "slot_of")

    def __init__(self, size: int, name: str = "C:\\pagefile.sys") -> None:
        if size < 1:
            raise SimulationError(f"a paging file of {size} slots")
        self.size = size
        self.name = name
        self.peak = 0
        self.owner_of: dict[int, int] = {}
        self.slot_of: dict[int, int] = {}
        self._runs: dict[int, int] = {}  # start -> length of each free run
        self._starts: list[int] = []  # the starts, sorted
        self._by_length: dict[int, list[int]] = {}  # length -> its starts, sorted
        self._lengths: list[int] = []  # the lengths there are, sorted
        self._add(0, size)

    @property
    def used(self) -> int:
        """How many slots are in use."""
        return len(self.owner_of)

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self.size - len(self.owner_of)

    def free_runs(self) -> list[tuple[int, int]]:
        """The free runs as (start, length), by start."""
        return [(start, self._runs[start]) for start in self._starts]

    @property
    def fragmentation(self) -> float:
        """Into how many runs of slots a run of stored pages is cut, on average; 1 is best, 0 for no page."""
        slot_of = self.slot_of
        cuts = sum(slot_of.get(owner - 1) != slot - 1 for owner, slot in slot_of.items())
        return cuts / (sum(owner - 1 not in slot_of for owner in slot_of) or 1)

    # -- where to write ----------------------------------------------------------------------------------

    def longest(self) -> tuple[int, int]:
        """The first of the longest free runs as (start, length); (0, 0) where the file is full."""
        if not self._lengths:
            return 0, 0
        length = self._lengths[-1]
        return self._by_length[length][0], length

    def first_fit(self, length: int) -> int | None:
        """The start of the first free run of at least `length` slots."""
        lengths = self._lengths
        fitting = lengths[bisect_left(lengths, length) :]
        return min((self._by_length[each][0] for each in fitting), default=None)

    def nearest_fit(self, wanted: int, length: int) -> int | None:
        """The place for `length` slots in one free run that is nearest to the slot `wanted`.

        It is `wanted` itself where that many slots are free from there on.
        """
        if not self._lengths or self._lengths[-1] < length:
            return None
        starts, runs = self._starts, self._runs
        above = bisect_right(starts, wanted)
        below = above - 1
        best = distance = None
        while below >= 0 or above < len(starts):
            # What lies further out on a side is further away than its next run: stop when both are.
            if below >= 0:
                start = starts[below]
                last = start + runs[start] - length  # the last place for it in this run
                if distance is not None and wanted - (start + runs[start]) >= distance:
                    below = -1
                else:
                    if last >= start:
                        place = min(wanted, last)
                        if distance is None or wanted - place < distance:
                            best, distance = place, wanted - place
                    below -= 1
            if above < len(starts):
                start = starts[above]
                if distance is not None and start - wanted >= distance:
                    above = len(starts)
                else:
                    if runs[start] >= length:
                        best, distance = start, start - wanted
                    above += 1
        return best

    # -- taking and giving back --------------------------------------------------------------------------

    def allocate(self, start: int, owners: Sequence[int]) -> None:
        """Give the slots from `start` on, which must be free, to `owners`, which must have none, in order."""
        at = bisect_right(self._starts, start) - 1
        run = self._starts[at] if at >= 0 else 0
        length = self._runs.get(run, 0)
        end = start + len(owners)
        if at < 0 or end > run + length or not owners:
            raise SimulationError(f"paging-file slots {start} to {end - 1} are not all free")
        self._remove(run)
        if start > run:
            self._add(run, start - run)
        if end < run + length:
            self._add(end, run + length - end)
        for slot, owner in enumerate(owners, start):
            self.owner_of[slot] = owner
            if owner != NOBODY:
                if owner in self.slot_of:
                    raise SimulationError(
                        f"page {owner:#x} has paging-file slot {self.slot_of[owner]} already"
                    )
                self.slot_of[owner] = slot
        self.peak = max(self.peak, self.used)

    def release(self, slot: int) -> None:
        """Free one slot. Its owner's copy is gone."""
        owner = self.owner_of.pop(slot, None)
        if owner is None:
            raise SimulationError(f"paging-file slot {slot} is freed but not in use")
        if owner != NOBODY:
            del self.slot_of[owner]
        start, length = slot, 1
        after = self._runs.get(slot + 1)
        if after is not None:
            self._remove(slot + 1)
            length += after
        at = bisect_left(self._starts, slot) - 1
        if at >= 0:
            before = self._starts[at]
            if before + self._runs[before] == slot:
                start, length = before, length + self._runs[before]
                self._remove(before)
        self._add(start, length)

    def fragment(self, share: float, stream: random.Random) -> None:
        """Put `share` (0..1) of the slots out of use, at random places: a file that has been in use for long.

        The free slots left between them form runs of 1 / `share` on average.
        """
        for slot in sorted(stream.sample(range(self.size), round(share * self.size))):
            self.allocate(slot, (NOBODY,))

    def stretch(self, owner: int, most: int, within: range) -> tuple[int, int]:
        """What to read with the page of `owner`: (its first owner, number of pages), at most `most`.

        The stretch holds `owner` and no page outside `within`, lies in consecutive slots and holds
        consecutive virtual pages. It reaches forward first: programs do too.
        """
        slot, owner_of = self.slot_of[owner], self.owner_of
        after, before = within.stop - owner, owner - within.start
        count = 1
        while count < min(most, after) and owner_of.get(slot + count) == owner + count:
            count += 1
        back = 0
        while count + back < most and back < before and owner_of.get(slot - back - 1) == owner - back - 1:
            back += 1
        return owner - back, count + back

    # -- the index ---------------------------------------------------------------------------------------

    def _add(self, start: int, length: int) -> None:
        self._runs[start] = length
        insort(self._starts, start)
        same = self._by_length.get(length)
        if same is None:
            self._by_length[length] = [start]
            insort(self._lengths, length)
        else:
            insort(same, start)

    def _remove(self, start: int) -> None:
        length = self._runs.pop(start)
        del self._starts[bisect_left(self._starts, start)]
        same = self._by_length[length]
        if len(same) > 1:
            del same[bisect_left(same, start)]
        else:
            del self._by_length[length]
            del self._lengths[bisect_left(self._lengths, length)]

    def check(self) -> None:
        """Raise SimulationError where the bookkeeping contradicts itself."""
        end = 0
        for start, length in sorted([*self.free_runs(), *((slot, 1) for slot in self.owner_of)]):
            if start != end:
                raise SimulationError("a paging-file slot is both free and used, or neither")
            end += length
        if end != self.size:
            raise SimulationError("a paging-file slot is both free and used, or neither")
        if any(start + length in self._runs for start, length in self._runs.items()):
            raise SimulationError("two free runs of the paging file touch")
        owners = {owner: slot for slot, owner in self.owner_of.items() if owner != NOBODY}
        if owners != self.slot_of:
            raise SimulationError("a page and its paging-file slot disagree")
        lengths = {length: starts for length, starts in self._by_length.items() if starts}
        if self._lengths != sorted(lengths) or any(
            self._runs.get(start) != length for length, starts in lengths.items() for start in starts
        ):
            raise SimulationError("the index of free runs by length is wrong")

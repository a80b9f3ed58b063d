"""A paging file: slots of one page each, who owns them, and where the free ones are.

Pure bookkeeping, without time and without I/O. Nothing is kept for a single slot, all is runs. A file of a
few hundred thousand slots is searched for every write, so free runs are indexed twice: by start, to merge
neighbours and to search near a place; and by exact length, to find the first run that fits or the longest
one. A file of n slots has at most sqrt(2 n) different lengths of free runs, and in practice a few dozen.

Owners are integers: the owner of the next virtual page is one more. So a stretch of the file holds a
stretch of address space where owners rise as the slots do. Such a stretch is one run, as long as it can be.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError
from ntlab.machine.ordered import Ordered

NOBODY = -1
"""Owner of slots that were in use before the run and stay so."""


class StoredRun:
    """`count` slots from `slot` on, whose owners are `owner` and those that follow; or all NOBODY."""

    __slots__ = ("count", "owner", "slot")

    def __init__(self, slot: int, owner: int, count: int) -> None:
        self.slot = slot
        self.owner = owner
        self.count = count

    def __repr__(self) -> str:
        return f"<StoredRun slots {self.slot}..{self.slot + self.count} of {self.owner:#x}>"

    def owner_at(self, slot: int) -> int:
        """The owner of one of its slots."""
        return NOBODY if self.owner == NOBODY else self.owner + slot - self.slot


class _Lookup(Mapping[int, int]):
    """Slots by owner or owners by slot, looked up in runs."""

    __slots__ = ("_each", "_find")

    def __init__(
        self, find: Callable[[int], int | None], each: Callable[[], Iterator[tuple[int, int]]]
    ) -> None:
        self._find = find
        self._each = each

    def __getitem__(self, key: int) -> int:
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def get(self, key: int, default: int | None = None) -> int | None:  # type: ignore[override]
        found = self._find(key)
        return default if found is None else found

    def __contains__(self, key: object) -> bool:
        return isinstance(key, int) and self._find(key) is not None

    def __iter__(self) -> Iterator[int]:
        return (key for key, _ in self._each())

    def __len__(self) -> int:
        return sum(1 for _ in self._each())


class PagingFile:
    """A paging file of `size` slots, all free.

    `owner_of` gives the owner of each used slot, `slot_of` the slot of each owner. A slot has at most one
    owner and an owner at most one slot, except NOBODY. `used` is how many slots are in use, `peak` the most
    that ever were at once.
    """

    __slots__ = (
        "_by_length", "_by_owner", "_free", "_lengths", "_stored", "name", "owner_of", "peak", "size",
        "slot_of", "used",
    )  # fmt: skip

    def __init__(self, size: int, name: str = "C:\\pagefile.sys") -> None:
        if size < 1:
            raise SimulationError(f"a paging file of {size} slots")
        self.size = size
        self.name = name
        self.used = 0
        self.peak = 0
        self.owner_of: Mapping[int, int] = _Lookup(self._owner_of, self._owners)
        self.slot_of: Mapping[int, int] = _Lookup(self._slot_of, self._slots)
        self._stored: Ordered[StoredRun] = Ordered()  # by first slot
        self._by_owner: Ordered[StoredRun] = Ordered()  # the same by first owner, without those of NOBODY
        self._free: Ordered[int] = Ordered()  # start -> length of each free run
        self._by_length: dict[int, Ordered[None]] = {}  # length -> its starts
        self._lengths: list[int] = []  # the lengths there are, sorted
        self._add(0, size)

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self.size - self.used

    def free_runs(self) -> list[tuple[int, int]]:
        """The free runs as (start, length), by start."""
        return list(self._free)

    @property
    def fragmentation(self) -> float:
        """Into how many runs of slots a run of stored pages is cut, on average; 1 is best, 0 for no page."""
        stretches = end = 0
        for owner, run in self._by_owner:
            stretches += not stretches or owner != end
            end = owner + run.count
        return len(self._by_owner) / (stretches or 1)

    # -- who has which slot --------------------------------------------------------------------------------

    def stored_runs(self) -> Iterator[StoredRun]:
        """The runs that have owners, by owner."""
        return (run for _, run in self._by_owner)

    def stored(self, owner: int) -> StoredRun | None:
        """The run that holds the page of `owner`; None where it has no slot."""
        run, _ = self._by_owner.around(owner)
        return run if run is not None and owner < run.owner + run.count else None

    def first_stored(self, owner: int, stop: int) -> tuple[int, int] | None:
        """Of the owners owner..stop that have slots, the first ones that are in one run: (first, stop)."""
        if not self.used:
            return None
        run, following = self._by_owner.around(owner)
        if run is None or owner >= run.owner + run.count:
            if following is None or following >= stop:
                return None
            run = self._by_owner.get(following)
            assert run is not None
        return max(owner, run.owner), min(stop, run.owner + run.count)

    def below(self, owner: int) -> int | None:
        """The nearest owner below `owner` that has a slot."""
        run, _ = self._by_owner.around(owner - 1)
        return None if run is None else min(owner, run.owner + run.count) - 1

    def above(self, owner: int) -> int | None:
        """The nearest owner above `owner` that has a slot."""
        found = self.first_stored(owner + 1, FOREVER)
        return None if found is None else found[0]

    def _slot_of(self, owner: int) -> int | None:
        run = self.stored(owner)
        return None if run is None else run.slot + owner - run.owner

    def _slots(self) -> Iterator[tuple[int, int]]:
        for owner, run in self._by_owner:
            yield from ((owner + at, run.slot + at) for at in range(run.count))

    def _owner_of(self, slot: int) -> int | None:
        run, _ = self._stored.around(slot)
        return run.owner_at(slot) if run is not None and slot < run.slot + run.count else None

    def _owners(self) -> Iterator[tuple[int, int]]:
        for first, run in self._stored:
            yield from ((slot, run.owner_at(slot)) for slot in range(first, first + run.count))

    # -- where to write ----------------------------------------------------------------------------------

    def longest(self) -> tuple[int, int]:
        """The first of the longest free runs as (start, length); (0, 0) where the file is full."""
        if not self._lengths:
            return 0, 0
        length = self._lengths[-1]
        return self._by_length[length].first()[0], length

    def first_fit(self, length: int) -> int | None:
        """The start of the first free run of at least `length` slots."""
        lengths = self._lengths
        fitting = lengths[bisect_left(lengths, length) :]
        return min((self._by_length[each].first()[0] for each in fitting), default=None)

    def nearest_fit(self, wanted: int, length: int) -> int | None:
        """The place for `length` slots in one free run that is nearest to the slot `wanted`.

        It is `wanted` itself where that many slots are free from there on.
        """
        if not self._lengths or self._lengths[-1] < length:
            return None
        downward, upward = self._free.down(wanted), self._free.up(wanted)
        below, above = next(downward, None), next(upward, None)
        best = distance = None
        while below is not None or above is not None:
            # What lies further out on a side is further away than its next run: stop when both are.
            if below is not None:
                start, size = below
                last = start + size - length  # the last place for it in this run
                if distance is not None and wanted - (start + size) >= distance:
                    below = None
                else:
                    if last >= start:
                        place = min(wanted, last)
                        if distance is None or wanted - place < distance:
                            best, distance = place, wanted - place
                    below = next(downward, None)
            if above is not None:
                start, size = above
                if distance is not None and start - wanted >= distance:
                    above = None
                else:
                    if size >= length:
                        best, distance = start, start - wanted
                    above = next(upward, None)
        return best

    # -- taking and giving back --------------------------------------------------------------------------

    def allocate(self, start: int, owners: Sequence[int]) -> None:
        """Give the slots from `start` on, which must be free, to `owners`, which must have none, in order."""
        count = len(owners)
        end = start + count
        run = next(self._free.down(start), None)
        if run is None or end > run[0] + run[1] or not owners:
            raise SimulationError(f"paging-file slots {start} to {end - 1} are not all free")
        first, length = run
        at = 0
        while at < count:
            owner = owners[at]
            stop = at + 1
            if owner == NOBODY:
                while stop < count and owners[stop] == NOBODY:
                    stop += 1
            else:
                while stop < count and owners[stop] == owner + stop - at:
                    stop += 1
                taken = self.first_stored(owner, owner + stop - at)
                if taken is not None:
                    slot = self.slot_of[taken[0]]
                    raise SimulationError(f"page {taken[0]:#x} has paging-file slot {slot} already")
            self._store(start + at, owner, stop - at)
            at = stop
        self._remove(first)
        if start > first:
            self._add(first, start - first)
        if end < first + length:
            self._add(end, first + length - end)
        self.used += count
        self.peak = max(self.peak, self.used)

    def release(self, owner: int, stop: int) -> int:
        """Free the slots of the owners owner..stop, as far as they have any: their copies are gone.

        Returns how many these were.
        """
        freed = 0
        while owner < stop and (found := self.first_stored(owner, stop)) is not None:
            first, owner = found
            run = self.stored(first)
            assert run is not None
            slot, end = run.slot + first - run.owner, run.owner + run.count
            if owner < end:
                self._keep(StoredRun(run.slot + owner - run.owner, owner, end - owner))
            if first > run.owner:
                run.count = first - run.owner
            else:
                self._stored.remove(run.slot)
                self._by_owner.remove(run.owner)
            self._give_back(slot, owner - first)
            freed += owner - first
        self.used -= freed
        return freed

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
        run = self.stored(owner)
        if run is None:
            raise SimulationError(f"page {owner:#x} has no paging-file slot")
        count = max(1, min(most, within.stop - owner, run.owner + run.count - owner))
        back = max(0, min(most - count, owner - within.start, owner - run.owner))
        return owner - back, count + back

    # -- the index ---------------------------------------------------------------------------------------

    def _store(self, slot: int, owner: int, count: int) -> None:
        """Slots get owners: a run of them, or more of one that is there."""
        before, _ = self._stored.around(slot)
        after = self._stored.get(slot + count)
        if after is not None and after.owner == (NOBODY if owner == NOBODY else owner + count):
            self._stored.remove(after.slot)
            if owner != NOBODY:
                self._by_owner.remove(after.owner)
            count += after.count
        if before is not None and before.slot + before.count == slot and before.owner_at(slot) == owner:
            before.count += count
        else:
            self._keep(StoredRun(slot, owner, count))

    def _keep(self, run: StoredRun) -> None:
        self._stored.add(run.slot, run)
        if run.owner != NOBODY:
            self._by_owner.add(run.owner, run)

    def _give_back(self, slot: int, count: int) -> None:
        """Slots become free: join them with the free runs beside them."""
        after = self._free.get(slot + count)
        if after is not None:
            self._remove(slot + count)
            count += after
        before = next(self._free.down(slot), None)
        if before is not None and sum(before) == slot:
            self._remove(before[0])
            slot, count = before[0], count + before[1]
        self._add(slot, count)

    def _add(self, start: int, length: int) -> None:
        self._free.add(start, length)
        same = self._by_length.get(length)
        if same is None:
            same = self._by_length[length] = Ordered()
            insort(self._lengths, length)
        same.add(start, None)

    def _remove(self, start: int) -> None:
        length = self._free.remove(start)
        same = self._by_length[length]
        same.remove(start)
        if not same:
            del self._by_length[length]
            del self._lengths[bisect_left(self._lengths, length)]

    def check(self) -> None:
        """Raise SimulationError where the bookkeeping contradicts itself."""
        end = used = 0
        stored = [(slot, run.count) for slot, run in self._stored]
        for start, length in sorted([*self._free, *stored]):
            if start != end or length < 1:
                raise SimulationError("a paging-file slot is both free and used, or neither")
            end += length
        if end != self.size:
            raise SimulationError("a paging-file slot is both free and used, or neither")
        free = list(self._free)
        if any(start + length == after for (start, length), (after, _) in pairwise(free)):
            raise SimulationError("two free runs of the paging file touch")
        end = NOBODY
        for owner, run in self._by_owner:
            if owner != run.owner or owner < end or self._stored.get(run.slot) is not run:
                raise SimulationError("a page and its paging-file slot disagree")
            end = owner + run.count
        owned = sum(run.owner != NOBODY for _, run in self._stored)
        used = sum(count for _, count in stored)
        if owned != len(self._by_owner) or used != self.used:
            raise SimulationError("a page and its paging-file slot disagree")
        if any(slot != run.slot for slot, run in self._stored):
            raise SimulationError("a page and its paging-file slot disagree")
        by_length = {length: [start for start, _ in starts] for length, starts in self._by_length.items()}
        indexed = {start: length for length, starts in by_length.items() for start in starts}
        if indexed != dict(free) or self._lengths != sorted(by_length):
            raise SimulationError("the index of free runs by length is wrong")

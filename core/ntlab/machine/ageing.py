"""Page ages: which pages have not been used for longest, as far as a few bits for each can tell.

Hardware sets a bit in a page's entry when the page is accessed. The kernel *looks* now and then: where
the bit is set it clears it, and the page's age is 0; where it is not, the page is one look older, up to
the oldest age that its bits can hold. When pages are to leave a working set, those of the oldest age go.
Who looks, and when, is asked of plugins (`ageing_policy`); where nobody answers, no page ages, and
working sets give up pages in the order in which they came.

"timer": the balance set manager looks at all pages each period, and has working sets trimmed when few
pages are available. It sleeps while no look would change anything. Between two looks the oldest ages go
first, those that came first among equals, unless a plugin knows better (`trim_order`); a page that was
accessed since goes last.

"demand": nobody looks until pages are to leave. Then a hand goes around the working set, looks at page
after page and takes those that have reached the oldest age. It goes on next time where it stopped. With
an oldest age of 1, one bit, this is the algorithm called Clock, or second chance.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ntlab.errors import SimulationError
from ntlab.machine.extents import Extent
from ntlab.machine.policy import AgeingPolicy
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.memory import Memory
    from ntlab.machine.spaces import AddressSpace, WorkingSet

ONE_BIT = 1
"""The oldest age where no plugin says more."""
ANY_AGE = (-1,)
"""Stands for all pages, those that were accessed since they were last looked at, too."""

LOOK = event_type("Lab-Memory", "Look", "pages accessed oldest")


class PageRun(NamedTuple):
    """Pages of an address space: virtual pages `first` up to `stop`."""

    space: AddressSpace
    first: int
    stop: int


class _Classes:
    """The pages of a working set that had not been accessed when they were last looked at, by age.

    They are runs of pages and not extents, which may be cut and joined meanwhile. What is said here of a page
    may be out of date, and is looked at again before it is believed. Few of them are ever wanted, so they are
    numbers until an age's are: address space, first page, and where it ends.
    """

    def __init__(self, working_set: WorkingSet) -> None:
        self._runs = {0: array("q")}
        self._queues: dict[int, deque[PageRun]] = {}  # of ages that pages have been taken of, in order
        for extent in working_set:
            if not extent.accessed:
                runs = self._runs.get(extent.age)
                if runs is None:
                    runs = self._runs[extent.age] = array("q")
                _note(runs, extent)
        self.ages = sorted(self._runs, reverse=True)

    def come(self, extent: Extent) -> None:
        """A page has come, and is not accessed yet."""
        queue = self._queues.get(0)
        if queue is None:
            _note(self._runs[0], extent)
        else:
            queue.append(PageRun(extent.region.space, extent.page, extent.page + extent.pages))

    def queue(self, ageing: Ageing, working_set: WorkingSet, age: int) -> deque[PageRun]:
        """The runs of an age that there are, in the order in which they are to go."""
        found = self._queues.get(age)
        if found is None:
            numbers, spaces = self._runs[age], ageing.memory.spaces
            each = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
            runs = [PageRun(spaces[space], first, stop) for space, first, stop in each if space in spaces]
            if runs and ageing.trim_order is not None:
                order = ageing.trim_order(working_set, age, runs)
                runs = runs if order is None else list(order)
            found = self._queues[age] = deque(runs)
        return found


class Ageing:
    """How the pages of one machine age.

    `oldest_age` is the greatest age there is, `looks` counts the pages that have been looked at.
    """

    def __init__(self, memory: Memory, policy: AgeingPolicy) -> None:
        machine = memory.machine
        hooks = machine.hooks
        self.memory = memory
        self.engine = memory.engine
        self.policy = policy
        oldest = hooks.oldest_age(machine) if hooks.oldest_age is not None else None
        self.oldest_age: int = ONE_BIT if oldest is None else oldest
        self.looks = 0
        self.trim_order = hooks.trim_order
        self._pages_short = hooks.pages_short
        self._classes: dict[WorkingSet, _Classes] = {}  # since the last look
        self._awake = policy.look == "demand"  # whether a look is to come; the timer is not needed on demand
        self._trace_look = machine.tracer.emitter(LOOK)

    def come(self, extent: Extent) -> None:
        """Pages have come into their working set."""
        extent.age = 0
        classes = self._classes.get(extent.region.space.working_set)
        if classes is not None:
            classes.come(extent)
        self.accessed()

    def accessed(self) -> None:
        """Pages have been accessed that had not been since the last look: there is something to see."""
        if not self._awake:
            self._awake = True
            period = self.policy.period
            self.engine.after(period - self.engine.now % period, self._look)

    def histogram(self, working_set: WorkingSet) -> list[int]:
        """How many pages of a working set are of each age, as far as looks have told."""
        counts = [0] * (self.oldest_age + 1)
        for extent in working_set:
            counts[extent.age] += extent.pages
        return counts

    # -- the balance set manager ----------------------------------------------------------------------------

    def _look(self, argument: object) -> int | None:
        """Look at all pages. Again after a period, if anything has changed."""
        memory, oldest = self.memory, self.oldest_age
        self._classes.clear()
        pages = accessed = old = older = 0
        for working_set in memory.working_sets:
            for extent in working_set:
                pages += extent.pages
                if extent.accessed:
                    accessed += extent.pages
                    extent.accessed = False
                    extent.age = 0
                elif extent.age < oldest:
                    older += extent.pages
                    extent.age += 1
                if extent.age == oldest:
                    old += extent.pages
                before = extent.previous
                if before is not None and before.frame + before.pages == extent.frame:
                    memory.merge(extent)
        self.looks += pages
        if self._trace_look is not None:
            self._trace_look((self.engine.now, LOOK.id, pages, accessed, old))
        missing = self.policy.low_available - memory.available
        if missing > 0 and self._pages_short is not None:
            self._pages_short(memory, missing)
        self._awake = accessed > 0 or older > 0
        return self.policy.period if self._awake else None

    # -- which pages go -------------------------------------------------------------------------------------

    def ages(self) -> Sequence[int]:
        """See `memory.ages`."""
        if self.policy.look == "demand":
            return ANY_AGE
        ages = {age for working_set in self.memory.working_sets for age in self._by_look(working_set).ages}
        return sorted(ages.union(ANY_AGE), reverse=True)

    def oldest(self, working_set: WorkingSet, pages: int, age: int) -> list[Extent]:
        """See `memory.oldest`."""
        pages = min(pages, working_set.pages)
        found: list[Extent] = []
        if self.policy.look == "demand":
            self._go_round(working_set, pages, found)
        else:
            self._by_age(working_set, pages, age, found)
        return found

    def _by_look(self, working_set: WorkingSet) -> _Classes:
        classes = self._classes.get(working_set)
        if classes is None:
            classes = self._classes[working_set] = _Classes(working_set)
        return classes

    def _by_age(self, working_set: WorkingSet, pages: int, least: int, found: list[Extent]) -> None:
        memory = self.memory
        classes = self._by_look(working_set)
        for age in classes.ages:
            if age < least:
                return
            queue = classes.queue(self, working_set, age)
            while queue and pages:
                run = queue.popleft()
                for extent in run.space.extents(run.first, run.stop):
                    if extent.list is not working_set or extent.accessed or extent.age != age:
                        continue
                    first = max(extent.page, run.first)
                    stop = min(extent.page + extent.pages, run.stop, first + pages)
                    extent = memory.isolate(extent, first, stop)
                    found.append(extent)
                    pages -= extent.pages
                    if not pages:
                        if stop < run.stop:
                            queue.appendleft(PageRun(run.space, stop, run.stop))
                        return
        if least >= 0:
            return
        chosen = set(found)  # only looked up
        for extent in working_set:  # all others have been accessed
            if not pages:
                return
            if extent not in chosen:
                if extent.pages > pages:
                    memory.split(extent, pages)
                found.append(extent)
                pages -= extent.pages

    def _go_round(self, working_set: WorkingSet, pages: int, found: list[Extent]) -> None:
        """The hand goes around: whatever it passes goes to the end, so it always stands at the head."""
        memory, oldest = self.memory, self.oldest_age
        looked = accessed = 0
        while pages:
            extent = working_set.head
            assert extent is not None
            if not extent.accessed and extent.age >= oldest - 1 and extent.pages > pages:
                memory.split(extent, pages)
            looked += extent.pages
            working_set.remove(extent)
            if not extent.accessed and extent.age >= oldest - 1:
                extent.age = oldest
                found.append(extent)
                pages -= extent.pages
                continue
            if extent.accessed:
                accessed += extent.pages
                extent.accessed = False
                extent.age = 0
            else:
                extent.age += 1
            working_set.append(extent)
            memory.merge(extent)
        for extent in found:  # they leave by `trim`
            working_set.append(extent)
        self.looks += looked
        if self._trace_look is not None:
            self._trace_look((self.engine.now, LOOK.id, looked, accessed, sum(e.pages for e in found)))

    # -- what is counted ------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise SimulationError where an age cannot be. For tests."""
        for working_set in self.memory.working_sets:
            for extent in working_set:
                if not 0 <= extent.age <= self.oldest_age:
                    raise SimulationError(f"{extent!r} is of age {extent.age}, beyond {self.oldest_age}")


def _note(runs: array[int], extent: Extent) -> None:
    page = extent.page
    runs.append(extent.region.space.id)
    runs.append(page)
    runs.append(page + extent.pages)


def create_ageing(machine: Machine, memory: Memory) -> Ageing | None:
    """How pages age on a machine that is being built; None where they do not."""
    policy = machine.hooks.ageing_policy(machine) if machine.hooks.ageing_policy is not None else None
    return Ageing(memory, policy) if policy is not None else None

"""Programs with less memory than they use: recorded ones, and pages used again each so many seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import log2
from pathlib import Path
from typing import Any, Literal

import attrs

from ntlab.errors import UserError
from ntlab.formats.references import Reference, filtered, read_references
from ntlab.machine import AddressSpace, Compute, Free, Machine, Region, Request, Sleep, Touch
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import SECOND, Duration, Share
from ntlab_page_ages import replacement

TRACES = Path(__file__).parent / "traces"
SUFFIX = ".trace.gz"


def unbounded(machine: Machine, name: str, pages: int) -> Region:
    """A region of `pages` pages in a new process."""
    region = machine.memory.space(machine.create_process(name)).allocate(pages)
    if region is None:
        raise UserError(f"{pages} pages cannot be committed", expected="a machine with more memory")
    return region


def bounded(machine: Machine, name: str, pages: int, frames: int) -> Region:
    """The same, in a process whose working set never holds more than `frames`."""
    region = unbounded(machine, name, pages)
    working_set = region.space.working_set
    working_set.minimum, working_set.maximum, working_set.hard = 0, frames, True
    return region


def leave(machine: Machine, frames: int) -> None:
    """Let the non-paged pool take all memory but so many pages."""
    ballast = machine.memory.available - frames
    if ballast < 0 or (ballast and machine.sections.nonpaged(ballast) is None):
        raise UserError(f"{frames} pages of memory", expected="a machine that has them, and a paging file")


def compared(pages: Sequence[int], frames: int, faults: int) -> list[Metric]:
    """What a program's faults are next to those of textbook rules."""
    lru = replacement.lru(pages, frames)
    clock = replacement.clock(pages, frames)
    belady = replacement.belady(pages, frames)
    return [
        Metric("faults", faults),
        Metric("hit_ratio", 1 - faults / len(pages)),
        Metric("lru_faults", lru),
        Metric("clock_faults", clock),
        Metric("belady_faults", belady),
        Metric("from_lru", abs(faults - lru)),
        Metric("from_clock", abs(faults - clock)),
        Metric("above_belady", faults - belady),
    ]


def looks(machine: Machine) -> Metric:
    """How many pages were looked at."""
    ageing = machine.memory.ageing
    return Metric("pages_looked_at", ageing.looks if ageing is not None else 0)


@workload(name="references", summary="A recorded program's page references, one after the other.")
class References:
    """One thread that references the pages of a trace, in a working set of a fixed size."""

    trace: str = option(
        default="index",
        help="A trace that comes with the plugin, or a file: page numbers, or what valgrind's lackey writes.",
    )
    frames: int = option(default=100, help="Pages that its working set never exceeds.", minimum=1)
    pace: Duration = option(
        default=Duration(0), help="Time from one reference to the next; 0: as fast as it goes.", minimum=0
    )
    buffer: int = option(
        default=0,
        help="References to so many pages that were referenced last are left out, as a processor's "
        "translation buffer hides them.",
        minimum=0,
    )
    limit: int = option(default=0, help="How many references are made; 0: all.", minimum=0)

    _pages: list[int] = state(list)
    _space: AddressSpace = attrs.field(init=False, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        shipped = TRACES / f"{self.trace}{SUFFIX}"
        path = shipped if shipped.exists() else Path(self.trace)
        if not path.exists():
            names = sorted(file.name.removesuffix(SUFFIX) for file in TRACES.glob(f"*{SUFFIX}"))
            raise UserError(
                f"there is no trace {self.trace!r}",
                where="workload.trace",
                expected=f"a file, or one of: {', '.join(names)}",
            )
        found: Iterator[Reference] = read_references(path, page_size=machine.memory.policy.page_size)
        if self.buffer:
            found = filtered(found, self.buffer)
        references = list(islice(found, self.limit or None))
        # The pages in between, which are never referenced, take no address space.
        place = {page: index for index, page in enumerate(sorted({each.page for each in references}))}
        self._pages = [place[each.page] for each in references]
        region = bounded(machine, "recorded.exe", len(place), self.frames)
        self._space = region.space
        writes = [each.write for each in references]
        machine.create_thread(region.space.process, self._program(region, writes))

    def _program(self, region: Region, writes: Sequence[bool]) -> Iterator[Request]:
        pause = Compute(self.pace) if self.pace else None
        for page, write in zip(self._pages, writes, strict=True):
            yield Touch(region, page, 1, write=write, accesses=0)
            if pause is not None:
                yield pause
        yield Free(region)  # there is nothing left to look at

    def measure(self, machine: Machine) -> list[Metric]:
        return [*compared(self._pages, self.frames, self._space.faults), looks(machine)]


@workload(name="periods", summary="Pages that are used again each so many seconds, some often, some seldom.")
class Periods:
    """Each page has a period and is touched in each such round, beginning with a random one. In a round pages
    are touched by address.

    They are one program's, which page has which period is random, and its working set is limited. Or those of
    each period are a program of their own, the programs take turns in a round, and it is the machine's memory
    that is limited: the non-paged pool has the rest.
    """

    processes: Literal["one", "each"] = option(
        default="one", help="One program with all pages, or one for each period."
    )
    pages: int = option(default=300, help="Pages in all.", minimum=1)
    memory: Share = option(default=Share(0.72), help="The share of them that there is memory for.")
    periods: tuple[int, ...] = option(default=(1, 3, 5, 7, 40), help="How many rounds apart pages are used.")
    weights: tuple[int, ...] = option(
        default=(20, 15, 15, 15, 35), help="How many of the pages have each period, in parts."
    )
    rounds: int = option(default=120, help="How often.", minimum=1)
    round: Duration = option(default=Duration(SECOND), help="How long a round is.", minimum=1000)

    _flat: list[int] = state(list)  # all pages touched, in order
    _ages: list[list[int]] = state(list)  # how many pages are of each age, before each round but the first
    _spaces: list[AddressSpace] = state(list)

    def start(self, machine: Machine) -> None:
        if len(self.periods) != len(self.weights) or min(self.periods, default=0) < 1:
            raise UserError(
                f"periods {list(self.periods)} and weights {list(self.weights)}",
                where="workload.periods",
                expected="as many weights as periods, all periods 1 or more",
            )
        if min(self.weights) < 0 or not any(self.weights):
            raise UserError(
                f"weights {list(self.weights)}", where="workload.weights", expected="none below 0, one above"
            )
        if self.processes == "one":
            regions = [bounded(machine, "periodic.exe", self.pages, self.frames)]
            groups = [self._shared_out()]
        else:
            groups = [[period for period in self._shared_out() if period == one] for one in self.periods]
            groups = [group for group in groups if group]
            regions = [unbounded(machine, f"period{group[0]}.exe", len(group)) for group in groups]
            leave(machine, self.frames)
        self._spaces = [region.space for region in regions]
        stream = machine.streams.stream("page_ages", "periods")
        rounds: list[list[list[int]]] = []  # of each program, of each round
        for periods in groups:
            stream.shuffle(periods)
            phases = [stream.randrange(period) for period in periods]
            rounds.append(
                [
                    [page for page, period in enumerate(periods) if number % period == phases[page]]
                    for number in range(self.rounds)
                ]
            )
        first = 0
        firsts = []
        for periods in groups:
            firsts.append(first)
            first += len(periods)
        self._flat = [
            first + page
            for number in range(self.rounds)
            for first, due in zip(firsts, rounds, strict=True)
            for page in due[number]
        ]
        for turn, (region, due) in enumerate(zip(regions, rounds, strict=True), 1):
            # Between the beginnings of rounds, when pages are looked at.
            at = self.round * turn // (len(regions) + 1)
            machine.create_thread(region.space.process, self._program(machine, region, due, at))

    def _shared_out(self) -> list[int]:
        """The period of each page, as exactly by weight as whole pages allow."""
        found: list[int] = []
        upto = 0
        for period, weight in zip(self.periods, self.weights, strict=True):
            upto += weight
            found += [period] * (round(self.pages * upto / sum(self.weights)) - len(found))
        return found

    @property
    def frames(self) -> int:
        """Pages that there is memory for."""
        return max(1, int(self.memory * self.pages))

    def _program(self, machine: Machine, region: Region, rounds: list[list[int]], at: int) -> Iterator[Any]:
        engine, ageing = machine.engine, machine.memory.ageing
        for number, pages in enumerate(rounds):
            yield Sleep(max(0, number * self.round + at - engine.now))
            if ageing is not None and number and region.space is self._spaces[0]:
                histograms = [ageing.histogram(space.working_set) for space in self._spaces]
                self._ages.append([sum(counts) for counts in zip(*histograms, strict=True)])
            for page in pages:
                yield Touch(region, page, 1, accesses=0)
        yield Free(region)  # there is nothing left to look at

    def measure(self, machine: Machine) -> list[Metric]:
        faults = sum(space.faults for space in self._spaces)
        told = [entropy(counts) for counts in self._ages]
        return [
            *compared(self._flat, self.frames, faults),
            Metric("refaults", faults - len(set(self._flat))),
            Metric("age_entropy", sum(told) / (len(told) or 1), "bit"),
            looks(machine),
        ]

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"ages": self._histogram}

    def _histogram(self, machine: Machine) -> str:
        """Pages by age, in some twenty of the rounds."""
        if not self._ages:
            return "no page has ages, or nobody has looked\n"
        oldest = max(age for counts in self._ages for age, count in enumerate(counts) if count)
        lines = [
            "pages of each age, before a round",
            "round" + "".join(f"{age:6}" for age in range(oldest + 1)),
        ]
        for number in range(0, len(self._ages), max(1, len(self._ages) // 20)):
            counts = self._ages[number][: oldest + 1]
            lines.append(f"{number + 2:5}" + "".join(f"{count or '-':>6}" for count in counts))
        return "\n".join(lines) + "\n"


def entropy(counts: Sequence[int]) -> float:
    """How much the age of a page tells, bits: 0 where all are of one age."""
    total = sum(counts) or 1
    return sum(-count / total * log2(count / total) for count in counts if count)

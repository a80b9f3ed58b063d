"""Programs that show where threads are put on cores of several processors, and what comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import comb
from random import Random

from ntlab.errors import UserError
from ntlab.machine import (
    Compute,
    Footprint,
    Machine,
    Processor,
    Request,
    Reuse,
    SetIdealProcessor,
    Sleep,
    Thread,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import KIB, MICROSECOND, MILLISECOND, SECOND, Duration, Size
from ntlab.topology import members

GAP = MILLISECOND
"""Between two rounds, so that all processors are idle when the next one begins."""


def blind(cores: int, threads: int, throughput: float) -> float:
    """The mean throughput of threads on random processors, two to a core, in cores (facts 14.8).

    `throughput` is what a core does with both processors busy.
    """
    total = 0.0
    for pairs in range(max(0, threads - cores), threads // 2 + 1):
        single = threads - 2 * pairs
        ways = comb(cores, pairs) * comb(cores - pairs, single) * 2**single
        total += ways / comb(2 * cores, threads) * (pairs * throughput + single)
    return total


def aware(cores: int, threads: int, throughput: float) -> float:
    """The throughput of threads that take whole cores first, in cores."""
    pairs = max(0, threads - cores)
    return pairs * throughput + threads - 2 * pairs


class Watch:
    """For how long, in ns, a core was idle while another one ran two threads or more: `misplaced`.

    `cores` are masks of processors; only those count.
    """

    def __init__(self, machine: Machine, cores: Sequence[int]) -> None:
        self.machine = machine
        self.misplaced = 0
        self._core_of = {i: core for core, mask in enumerate(cores) for i in members(mask)}
        self._busy = [0] * len(cores)
        self._since = 0
        machine.scheduler.watch_switches(self._switched)

    def _switched(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        core = self._core_of.get(processor.index)
        if core is not None and (old is None) != (new is None):
            self.account()
            self._busy[core] += 1 if old is None else -1

    def account(self) -> None:
        """Count up to now."""
        now = self.machine.engine.now
        if min(self._busy) == 0 and max(self._busy) > 1:
            self.misplaced += now - self._since
        self._since = now


class _OnCores:
    """A process that runs on the first `cores` of a machine, or on all that it may (0).

    `masks` are of their processors, and `places` those processors' numbers.
    """

    def __init__(self, machine: Machine, name: str, cores: int) -> None:
        whole = [mask for mask in machine.tables.core_mask if mask]
        if cores > len(whole):
            raise UserError(f"{cores} cores", where=f"smt.{name}.cores", expected=f"at most {len(whole)}")
        self.process = machine.create_process(name, affinity=sum(whole[:cores]) or None)
        self.masks = [mask for mask in whole if mask & self.process.affinity]
        self.places = [i for mask in self.masks for i in members(mask)]
        self.watch = Watch(machine, self.masks)


@workload(name="hogs", summary="Threads that wake up together and compute, on random ideal processors.")
class Hogs:
    """In each round all threads wake up at once, each with a new ideal processor, and compute to its end."""

    threads: int = option(default=0, help="How many threads compute; 0: one a core.", minimum=0)
    cores: int = option(default=0, help="On how many cores, the first ones; 0: on all.", minimum=0)
    burst: Duration = option(
        default=Duration(5 * MILLISECOND), help="Work of a thread between two looks at the clock.", minimum=1
    )
    round: Duration = option(default=Duration(40 * MILLISECOND), help="How long a round lasts.", minimum=1)

    _on: list[_OnCores] = state(list)
    _rounds: list[list[int]] = state(list)  # the ideal processors of the threads
    _done: Counter[int] = state(Counter)  # bursts in each round

    def start(self, machine: Machine) -> None:
        on = _OnCores(machine, "hogs", self.cores)
        threads = self.threads or len(on.masks)
        if threads > len(on.places):
            raise UserError(
                f"{self.threads} threads", where="smt.hogs.threads", expected=f"at most {len(on.places)}"
            )
        self._on.append(on)
        random = machine.streams.stream("smt.hogs")
        for k in range(threads):
            machine.create_thread(on.process, self._program(machine, threads, k, random, on.places))

    def _program(
        self, machine: Machine, threads: int, k: int, random: Random, places: list[int]
    ) -> Iterator[Request]:
        engine, period, number = machine.engine, GAP + self.round, 0
        while True:
            while number >= len(self._rounds):
                self._rounds.append(random.sample(places, threads))
            yield SetIdealProcessor(self._rounds[number][k])
            end = (number + 1) * period
            yield Sleep(max(0, end - self.round - engine.now))
            while engine.now < end:
                yield Compute(self.burst)
                self._done[number] += engine.now <= end
            number = max(number + 1, engine.now // period)

    def measure(self, machine: Machine) -> list[Metric]:
        """`throughput` in cores; `misplaced`, 0..1, the part of the time in which a core was idle while
        another one ran two threads."""
        self._on[0].watch.account()
        rounds = machine.engine.now // (GAP + self.round)
        if not rounds:
            raise UserError("no round was over", where="smt.hogs.round", expected="less than the run")
        time = rounds * self.round
        return [
            Metric("throughput", sum(self._done[i] for i in range(rounds)) * self.burst / time),
            Metric("misplaced", self._on[0].watch.misplaced / time),
        ]


@workload(name="bursts", summary="Threads that compute and sleep, each for itself, at random.")
class Bursts:
    """Each thread computes for a random time, sleeps for a random time, and wakes up with a new ideal
    processor; both times are exponential."""

    threads: int = option(default=2, help="How many threads there are.", minimum=1)
    cores: int = option(default=0, help="On how many cores, the first ones; 0: on all.", minimum=0)
    burst: Duration = option(default=Duration(5 * MILLISECOND), help="Mean work of a burst.", minimum=1)
    pause: Duration = option(default=Duration(5 * MILLISECOND), help="Mean time asleep.", minimum=1)
    warm_up: Duration = option(default=Duration(0), help="What is measured begins then.", minimum=0)

    _on: list[_OnCores] = state(list)
    _took: int = state(int)  # what bursts took, ns
    _work: int = state(int)
    _before: int = state(int)  # ns misplaced before what is measured

    def start(self, machine: Machine) -> None:
        on = _OnCores(machine, "bursts", self.cores)
        self._on.append(on)
        machine.engine.at(self.warm_up, self._begin)
        for k in range(self.threads):
            random = machine.streams.stream("smt.bursts", str(k))
            machine.create_thread(on.process, self._program(machine, random, on.places))

    def _begin(self, _: object) -> None:
        watch = self._on[0].watch
        watch.account()
        self._before = watch.misplaced
        self._took = self._work = 0

    def _program(self, machine: Machine, random: Random, places: list[int]) -> Iterator[Request]:
        while True:
            yield SetIdealProcessor(random.choice(places))
            pause, work = (1 + round(random.expovariate(1 / mean)) for mean in (self.pause, self.burst))
            due = machine.engine.now + pause
            yield Sleep(pause)
            yield Compute(work)
            self._took += machine.engine.now - due
            self._work += work

    def measure(self, machine: Machine) -> list[Metric]:
        """`slowdown`: what bursts took over their work; `misplaced` as of `smt.hogs`."""
        if not self._work:
            raise UserError("no burst was over", where="smt.bursts.burst", expected="less than the run")
        self._on[0].watch.account()
        return [
            Metric("slowdown", self._took / self._work),
            Metric(
                "misplaced",
                (self._on[0].watch.misplaced - self._before) / (machine.engine.now - self.warm_up),
            ),
        ]


@workload(name="pair", summary="Two threads that work on the same data, with ideal processors of one core.")
class Pair:
    """Both write to the data in turn, whoever has it; with `common` false each has its own.

    On a machine without hyper-threads both have the same ideal processor.
    """

    data: Size = option(default=Size(32 * KIB), help="Size of the data.", minimum=1)
    work: Duration = option(
        default=Duration(100 * MICROSECOND), help="What a thread does with it before it needs all again."
    )
    common: bool = option(default=True, help="Whether both work on the same data.")

    _rounds: Counter[int] = state(Counter)
    _footprints: list[Footprint] = state(list)

    def start(self, machine: Machine) -> None:
        process = machine.create_process("pair")
        there = members(process.affinity)
        core = max((machine.tables.core_processors[i] for i in there), key=len)
        for k in range(2):
            if not k or not self.common:
                self._footprints.append(Footprint(self.data, written=True))
            program = self._program(self._footprints[-1], k)
            machine.create_thread(process, program, ideal=core[k % len(core)])

    def _program(self, footprint: Footprint, k: int) -> Iterator[Request]:
        while True:
            yield Reuse(footprint)
            yield Compute(self.work)
            self._rounds[k] += 1

    def measure(self, machine: Machine) -> list[Metric]:
        """`rounds` a second of both; `refilled`, lines that came from elsewhere, a round."""
        rounds = sum(self._rounds.values())
        lines = sum(footprint.refills.lines for footprint in self._footprints)
        return [
            Metric("rounds", rounds * SECOND / machine.engine.now, "1/s"),
            Metric("refilled", lines / max(1, rounds)),
        ]

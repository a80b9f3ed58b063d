"""What something in a machine was at regular times of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from ntlab.engine import REPORT
from ntlab.quantities import MILLISECOND

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

T = TypeVar("T")

SAMPLES = 16
"""Samples that are kept, at the most."""
FIRST_INTERVAL = MILLISECOND
"""ns between samples at first; twice as long each time that there are too many of them."""


class Samples(Generic[T]):
    """What `take` sees of a machine at regular times: half as often whenever there are too many samples.

    Samples are taken when all else of their instant is done, until nothing else is to happen.
    """

    def __init__(self, take: Callable[[Machine], T]) -> None:
        self._take = take
        self._interval = FIRST_INTERVAL
        self.taken: list[tuple[int, T]] = []

    def watch(self, machine: Machine) -> None:
        """Begin to take samples of this machine. Those of one before it, which has crashed, are dropped."""
        engine = machine.engine
        self.taken.clear()

        def sample(_: object) -> int | None:
            if engine.next_time() is None:
                return None
            self._add(machine)
            return self._interval - engine.now % self._interval

        engine.at(engine.now + self._interval - engine.now % self._interval, sample, order=REPORT)

    def end(self, machine: Machine) -> list[tuple[int, T]]:
        """The samples with their times, the last one taken now; without those that both neighbours equal."""
        if not self.taken or self.taken[-1][0] < machine.engine.now:
            self.taken.append((machine.engine.now, self._take(machine)))
        seen = [value for _, value in self.taken]
        return [
            sample
            for number, sample in enumerate(self.taken)
            if not 0 < number < len(seen) - 1 or not seen[number - 1] == seen[number] == seen[number + 1]
        ]

    def _add(self, machine: Machine) -> None:
        self.taken.append((machine.engine.now, self._take(machine)))
        if len(self.taken) >= SAMPLES:
            self._interval *= 2
            self.taken = [sample for sample in self.taken if sample[0] % self._interval == 0]

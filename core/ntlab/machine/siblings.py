"""The processors of one core share it: what each of them does depends on how many are busy.

Plugins say by the hook `core_throughput` what a core does with one of its processors busy, with two, and so
on. Each then runs at its part of that, from the instant on at which another one becomes busy or idle. Where
nobody says anything, processors do not disturb each other, and nothing of this exists.

A processor is busy while it runs a thread or does interrupt work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.errors import SimulationError
from ntlab.machine.idle import is_idle, watch_idle
from ntlab.machine.processors import NOMINAL, Processor

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

CAUSE = "siblings"


class Siblings:
    """How the cores of one machine share themselves out.

    `throughput[j]` is what a core does with j + 1 busy processors, in parts of NOMINAL; empty where that is
    as much as they would do alone.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        ask = machine.hooks.core_throughput
        self.throughput: Sequence[int] = ask(machine) or () if ask is not None else ()
        if all(done == busy * NOMINAL for busy, done in enumerate(self.throughput, 1)):
            self.throughput = ()
        self._unsettled: dict[int, None] = {}  # cores of which a processor became busy or idle just now
        if self.throughput:
            watch_idle(machine, self._changed)

    def speed(self, busy: int) -> int:
        """The speed of a processor beside so many busy ones of its core, in parts of NOMINAL."""
        if not self.throughput:
            return NOMINAL
        if busy >= len(self.throughput):
            raise SimulationError(
                f"{busy + 1} processors of a core are busy; core_throughput tells of {len(self.throughput)}"
            )
        return self.throughput[busy] // (busy + 1)

    def rebuilt(self) -> None:
        """Processors have come or gone."""
        for core in sorted(set(self.machine.tables.core_of)) if self.throughput else ():
            self._settle(core)

    def _changed(self, processor: Processor, idle: bool) -> None:
        core = self.machine.tables.core_of[processor.index]
        if core not in self._unsettled:
            # Not now: the scheduler is in the middle of something.
            self._unsettled[core] = None
            self.machine.engine.soon(self._settle, core)

    def _settle(self, core: int) -> None:
        """Give each processor of a core its speed. An idle one has that at which it would begin."""
        self._unsettled.pop(core, None)
        for processor, speed in self._speeds(core):
            if self.machine.speeds.factor(processor, CAUSE) != speed:
                self.machine.speeds.set(processor, CAUSE, speed)

    def _speeds(self, core: int) -> list[tuple[Processor, int]]:
        tables, processors = self.machine.tables, self.machine.processors
        first = tables.core_of.index(core)
        there = [processors[i] for i in tables.core_processors[first]]
        busy = sum(not is_idle(processor) for processor in there)
        return [(each, self.speed(busy - (not is_idle(each)))) for each in there]

    def check(self) -> None:
        """Compare speeds with who is busy. Raises SimulationError where they differ."""
        for core in sorted(set(self.machine.tables.core_of)) if self.throughput else ():
            for processor, speed in self._speeds(core):
                given = self.machine.speeds.factor(processor, CAUSE)
                if given != speed and core not in self._unsettled:
                    raise SimulationError(
                        f"processor {processor.index} has speed {given} beside its siblings, {speed} is due"
                    )

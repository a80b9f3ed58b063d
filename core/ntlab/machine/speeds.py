"""How fast processors are: each is slowed, or sped up, by several causes at once.

    machine.speeds.set(processor, "performance state", NOMINAL * 3 // 4)

A factor is in parts of `NOMINAL`; the processor's speed is the product of its factors, rounded down once, so
the order in which they were set does not matter. 0 is a processor that stands still, whatever else is set.
A virtual processor's factor "host" is what its host gives it.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ntlab.errors import SimulationError
from ntlab.machine.processors import NOMINAL, Processor

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine


class Speeds:
    """The speeds of one machine's processors, by cause."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def set(self, processor: Processor, cause: str, speed: int) -> None:
        """One cause makes a processor run at `speed` parts of NOMINAL of what it ran at without it, from now.

        NOMINAL takes the cause's effect away. Raises SimulationError for a negative speed.
        """
        if speed < 0:
            raise SimulationError(f"negative speed {speed} by {cause!r}")
        processor.factors[cause] = speed
        self.machine.scheduler.set_speed(processor, _product(processor))

    def factor(self, processor: Processor, cause: str) -> int:
        """What one cause makes of a processor's speed, in parts of NOMINAL."""
        return processor.factors.get(cause, NOMINAL)

    def check(self) -> None:
        """Compare speeds with their factors. Raises SimulationError where they differ."""
        for processor in self.machine.processors:
            speed = self.machine.scheduler.speed_of(processor)
            if processor.factors and speed != _product(processor):
                raise SimulationError(
                    f"processor {processor.index} has speed {speed}, its factors give {_product(processor)}"
                )


def _product(processor: Processor) -> int:
    """The speed that a processor's factors give; above 0 unless one of them is 0."""
    factors = processor.factors.values()
    speed = prod(factors) // NOMINAL ** (len(factors) - 1)
    return speed or int(all(factors))

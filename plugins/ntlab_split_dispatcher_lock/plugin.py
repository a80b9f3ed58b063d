"""The feature: an operation on an object takes that object's lock, a timer that expires its processor's."""

from __future__ import annotations

from typing import Literal

from ntlab import hookimpl, option, plugin, state
from ntlab.machine import Machine, Processor, SpinLock

MULTIPLIER = 2_654_435_769
"""2**32 over the golden ratio: it spreads numbers that follow one another (Knuth, multiplicative hashing)."""


@plugin(
    name="split_dispatcher_lock",
    summary="There is no dispatcher lock: objects have locks, and timers those of their processors.",
    release="ws2008r2",
    ledger=("P1",),
    requires=("timer_expiration",),
)
class SplitDispatcherLock:
    locks: int = option(
        default=0,
        help="Locks that objects are hashed to, by their numbers; 0: one for each processor.",
        minimum=0,
    )

    _objects: list[SpinLock] = state(list)
    _processors: dict[int, SpinLock] = state(dict)

    @hookimpl
    def dispatcher_lock(
        self, machine: Machine, operation: Literal["object", "timer"], number: int, processor: Processor
    ) -> SpinLock:
        if operation == "timer":
            lock = self._processors.get(processor.index)
            if lock is None:
                lock = self._processors[processor.index] = machine.create_lock(f"timers of {processor.index}")
            return lock
        if not self._objects:
            count = self.locks or len(machine.processors)
            self._objects.extend(machine.create_lock(f"objects {i}") for i in range(count))
        return self._objects[(number * MULTIPLIER & 0xFFFFFFFF) * len(self._objects) >> 32]

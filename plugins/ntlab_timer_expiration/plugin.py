"""The feature: a timer that expires takes a lock of the timer table in place of the dispatcher lock."""

from __future__ import annotations

from typing import Literal

from ntlab import hookimpl, option, plugin, state
from ntlab.machine import Machine, SpinLock
from ntlab_timer_expiration.workloads import Saturated, Sessions, Virtual


@plugin(
    name="timer_expiration",
    summary="Timers expire under locks of their own, and not under the dispatcher lock.",
    release="ws2008",
    ledger=("P1",),
    requires=("ws2003",),
    before=("enlightened_spinlocks",),  # where nobody waits for a lock, nobody spins long
    workloads=(Saturated, Sessions, Virtual),
    neutral={"timer_locks": 0},
)
class TimerExpiration:
    """What Server 2008 changed: only a timer for which a thread waits still needs the dispatcher lock."""

    timer_locks: int = option(
        default=16, help="Locks of the timer table, by a timer's number; 0: the dispatcher lock.", minimum=0
    )

    _locks: list[SpinLock] = state(list)

    @hookimpl
    def dispatcher_lock(
        self, machine: Machine, operation: Literal["object", "timer"], number: int, waited_for: bool
    ) -> SpinLock | None:
        if operation == "object" or waited_for or not self.timer_locks:
            return None
        if not self._locks:
            self._locks.extend(machine.create_lock(f"timers {i}") for i in range(self.timer_locks))
        return self._locks[number % self.timer_locks]

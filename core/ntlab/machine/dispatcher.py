"""The locks of the scheduler's database: what is done under them, and for how long.

Who sets an object, waits for one or clears one holds a lock for `object_hold` of the scheduler's policy; a
timer that expires, for `timer_time` of the timers' policy. Which lock that is, plugins say. Without an answer
there is none: it takes the same time, and nobody is in anybody's way.

    yield from machine.dispatcher.operate(number, processor)     # in a program
    machine.dispatcher.queue(processor, number, action)          # by a DPC
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ntlab.machine.interrupts import Action
from ntlab.machine.locks import Acquire, Release, SpinLock
from ntlab.machine.threads import Compute, Request

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor
    from ntlab.machine.timers import Timer


class Dispatcher:
    """What one machine's scheduler does under its locks."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.object_hold = machine.scheduler.policy.object_hold
        self.lock = machine.hooks.dispatcher_lock if self.object_hold else None
        self._requests: dict[SpinLock, tuple[Request, Request]] = {}

    def operate(
        self, number: int, processor: Processor, *, hold: int | None = None, expires: bool = False,
        waited_for: bool = False,
    ) -> Iterator[Request]:  # fmt: skip
        """What a program on that processor yields for an operation on an object, or if a timer `expires`.

        `number` is the object's or the timer's, `hold` the time that it takes in place of the policy's.
        """
        kind = "timer" if expires else "object"
        if hold is None:
            hold = self.machine.timers.policy.timer_time if expires else self.object_hold
        if not hold:
            return
        lock = None
        if self.lock is not None:
            lock = self.lock(self.machine, kind, number, waited_for, processor)
        if lock is None:
            yield Compute(hold)
            return
        requests = self._requests.get(lock)
        if requests is None:
            requests = self._requests[lock] = (Acquire(lock), Release(lock))
        yield requests[0]
        yield Compute(hold)
        yield requests[1]

    def queue(
        self,
        processor: Processor,
        number: int,
        action: Action | None = None,
        argument: Any = None,
        routine: str = "",
    ) -> None:
        """Let a DPC on a processor do an operation on object `number`, and then call `action(argument)`."""
        lock = None
        if self.lock is not None:
            lock = self.lock(self.machine, "object", number, False, processor)
        self.machine.interrupts.queue_dpc(processor, self.object_hold, action, argument, routine, lock)

    def holds(
        self, timers: Sequence[Timer], processor: Processor
    ) -> Iterator[tuple[SpinLock | None, list[Timer]]]:
        """How timers that expire together on a processor are done: which of them under which lock, in order.

        Those that need the same lock are done in one hold, up to `timers_per_hold` that have DPCs.
        """
        if self.lock is None:
            yield None, list(timers)
            return
        most = self.machine.timers.policy.timers_per_hold
        held: SpinLock | None = None
        together: list[Timer] = []
        dpcs = 0
        for timer in timers:
            lock = self.lock(self.machine, "timer", timer.number, bool(timer.waiters), processor)
            if together and (lock is not held or (most and dpcs == most)):
                yield held, together
                together, dpcs = [], 0
            held = lock
            together.append(timer)
            dpcs += timer.dpc is not None
        yield held, together

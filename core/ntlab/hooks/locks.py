"""Which lock an operation of the scheduler takes, and what a contended spinlock asks.

Times are ns. Spinning is counted as running: a waiter whose processor is taken away, as a virtual one is,
does not spin meanwhile. Whoever holds or waits for a spinlock is at raised IRQL and is not preempted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import expects, hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.locks import SpinLock
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor
    from ntlab.machine.threads import Thread


@hookspec(firstresult=True)
@expects("ns, 1 or more", lambda answer: answer >= 1)
def spin_limit(lock: SpinLock, thread: Thread) -> int | None:
    """How long a waiter spins before `spun_long` is called, ns of running, 1 and more.

    Asked when a thread begins to wait for a lock that is taken, and again after each `spun_long`. None
    everywhere, as in 2003: it spins until it has the lock.
    """


@observer
def spun_long(lock: SpinLock, thread: Thread) -> None:
    """A waiter has spun for its `spin_limit` and still waits: the moment to tell a hypervisor.

    Called while the waiter runs. 2003: nobody listens.
    """


@hookspec(firstresult=True)
def dispatcher_lock(
    machine: Machine,
    operation: Literal["object", "timer"],
    number: int,
    waited_for: bool,
    processor: Processor,
) -> SpinLock | None:
    """Which lock of the scheduler's database an operation holds.

    Asked before each: an operation on dispatcher object `number`, or timer `number` expires on `processor`;
    `waited_for` says whether that wakes a thread. Timers that expire together and need one lock are done in
    one hold. Not asked where `object_hold` of the scheduler's policy is 0, which it is unless somebody sets
    it. 2003: one lock, whatever the operation. None everywhere: none.
    """


@observer
def lock_acquired(lock: SpinLock, thread: Thread | None, waited: int) -> None:
    """A thread, or a DPC (None), has a lock, `waited` ns after it asked for it; 0 where it was free.

    Called before it goes on. 2003: nobody listens.
    """


@observer
def lock_released(lock: SpinLock, thread: Thread | None, held: int) -> None:
    """A thread, or a DPC (None), has released a lock that it held for `held` ns.

    Called before the lock passes to a waiter. 2003: nobody listens.
    """

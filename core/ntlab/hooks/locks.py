"""What a contended spinlock asks.

Times are ns. Spinning is counted as running: a waiter whose processor is taken away, as a virtual one is,
does not spin meanwhile. Whoever holds or waits for a spinlock is at raised IRQL and is not preempted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.locks import SpinLock
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
@expects("ns, 0 or more", lambda answer: answer >= 0)
def lock_transfer(lock: SpinLock, giver: Processor, taker: Processor) -> int | None:
    """How long a lock's cache lines take from the processor that held it last to the one that gets it, ns.

    Asked when another processor than the last one gets a lock, which holds it meanwhile and does nothing.
    `lock.waiters` are those who go on waiting: where they all test the same line, it takes longer. None
    everywhere: no time.
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

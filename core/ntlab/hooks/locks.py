"""What a contended spinlock asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.locks import SpinLock
    from ntlab.machine.threads import Thread


@hookspec(firstresult=True)
def spin_limit(lock: SpinLock, thread: Thread) -> int | None:
    """How long (ns of running, positive) a waiter spins before `spun_long` is called; again after each time.

    None everywhere: it spins until it has the lock. 2003: nobody answers.
    """


@observer
def spun_long(lock: SpinLock, thread: Thread) -> None:
    """A waiter has spun for its `spin_limit` and still waits."""


@observer
def lock_acquired(lock: SpinLock, thread: Thread, waited: int) -> None:
    """A thread has a lock, `waited` ns after it asked for it."""


@observer
def lock_released(lock: SpinLock, thread: Thread, held: int) -> None:
    """A thread has released a lock that it held for `held` ns."""

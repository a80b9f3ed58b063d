"""Spinlocks: a holder, waiters in order, and processors that burn while they wait.

A thread that holds or waits for a spinlock is at dispatch level: its own kernel cannot preempt it. (A
hypervisor can take the processor itself away; see `ntlab.machine.partitions`.)

Two disciplines. "fifo": a queued spinlock hands itself to the longest waiter, even to one whose processor
does not run at the moment. "test_and_set": a free lock goes to the longest waiter whose processor is
running; if there is none it stays free until one runs again or someone else asks.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError
from ntlab.machine.threads import RUNNING, Request, Thread
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

LAB_LOCK = "Lab-Lock"
ACQUIRE = event_type(LAB_LOCK, "Acquire", "lock tid waited spun")
CONTEND = event_type(LAB_LOCK, "Contend", "lock tid waiters")
RELEASE = event_type(LAB_LOCK, "Release", "lock tid held")

Discipline = Literal["fifo", "test_and_set"]


class SpinLock:
    """One spinlock. Made by `machine.create_lock`.

    Totals: `acquisitions`, `contentions` (acquisitions that had to wait), `wait_time` and `hold_time` (ns,
    by the clock), `spin_time` (ns for which waiters burned a running processor).
    """

    __slots__ = (
        "_since",
        "acquisitions",
        "contentions",
        "discipline",
        "hold_time",
        "holder",
        "id",
        "machine",
        "name",
        "spin_time",
        "wait_time",
        "waiters",
    )

    def __init__(self, machine: Machine, identity: int, name: str, discipline: Discipline) -> None:
        if discipline not in ("fifo", "test_and_set"):
            raise SimulationError(
                f"unknown lock discipline {discipline!r}; expected 'fifo' or 'test_and_set'"
            )
        self.machine = machine
        self.id = identity
        self.name = name
        self.discipline = discipline
        self.holder: Thread | None = None
        self.waiters: deque[_Waiter] = deque()
        self._since = 0
        self.acquisitions = 0
        self.contentions = 0
        self.wait_time = 0
        self.hold_time = 0
        self.spin_time = 0

    def __repr__(self) -> str:
        return f"<SpinLock {self.name}>"

    def spun(self, thread: Thread) -> int:
        """How long a thread that waits for it has spun so far, ns of running."""
        before = next(waiter.run_time for waiter in self.waiters if waiter.thread is thread)
        return self.machine.scheduler.run_time(thread) - before

    def _take(self, thread: Thread, waited: int, spun: int) -> None:
        machine = self.machine
        self.holder = thread
        self._since = machine.engine.now
        self.acquisitions += 1
        if machine.locks.trace_acquire is not None:
            machine.locks.trace_acquire((self._since, ACQUIRE.id, self.id, thread.id, waited, spun))
        if machine.hooks.lock_acquired is not None:
            machine.hooks.lock_acquired(self, thread, waited)

    def _hand_over(self) -> None:
        """The lock is free: give it to a waiter, if one may have it now."""
        for waiter in self.waiters:
            if self.discipline == "fifo" or _is_running(waiter.thread):
                self.waiters.remove(waiter)
                thread = waiter.thread
                thread.spinning = None
                self.machine.scheduler.grant(thread)
                waited = self.machine.engine.now - waiter.since
                spun = thread.run_time - waiter.run_time
                self.wait_time += waited
                self.spin_time += spun
                self._take(thread, waited, spun)
                return


class _Waiter:
    __slots__ = ("run_time", "since", "thread")

    def __init__(self, thread: Thread, since: int) -> None:
        self.thread = thread
        self.since = since
        self.run_time = thread.run_time


def _is_running(thread: Thread) -> bool:
    processor = thread.processor
    return thread.state == RUNNING and processor is not None and processor.speed > 0


class Acquire(Request):
    """Acquire a spinlock, at dispatch level from now on."""

    __slots__ = ("lock",)

    def __init__(self, lock: SpinLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> int | None:
        lock = self.lock
        if lock.holder is thread or thread.spinning is not None:
            raise SimulationError(f"{thread!r} acquires {lock!r} again: spinlocks are not recursive")
        thread.raised += 1
        machine = lock.machine
        if lock.holder is None and (lock.discipline == "test_and_set" or not lock.waiters):
            lock._take(thread, 0, 0)
            return 0
        lock.contentions += 1
        lock.waiters.append(_Waiter(thread, machine.engine.now))
        thread.spinning = lock
        if machine.locks.trace_contend is not None:
            machine.locks.trace_contend(
                (machine.engine.now, CONTEND.id, lock.id, thread.id, len(lock.waiters))
            )
        limit = machine.hooks.spin_limit
        found = limit(lock, thread) if limit is not None else None
        return FOREVER if found is None else found


class Release(Request):
    """Release a spinlock that the thread holds."""

    __slots__ = ("lock",)

    def __init__(self, lock: SpinLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> int | None:
        lock = self.lock
        if lock.holder is not thread:
            raise SimulationError(f"{thread!r} releases {lock!r}, which {lock.holder!r} holds")
        machine = lock.machine
        held = machine.engine.now - lock._since
        lock.hold_time += held
        lock.holder = None
        thread.raised -= 1
        if machine.locks.trace_release is not None:
            machine.locks.trace_release((machine.engine.now, RELEASE.id, lock.id, thread.id, held))
        if machine.hooks.lock_released is not None:
            machine.hooks.lock_released(lock, thread, held)
        lock._hand_over()
        return 0


class Locks:
    """The spinlocks of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._all: list[SpinLock] = []
        self.trace_acquire = machine.tracer.emitter(ACQUIRE)
        self.trace_contend = machine.tracer.emitter(CONTEND)
        self.trace_release = machine.tracer.emitter(RELEASE)

    def create(self, name: str, discipline: Discipline = "fifo") -> SpinLock:
        """A new spinlock."""
        lock = SpinLock(self.machine, len(self._all) + 1, name, discipline)
        self._all.append(lock)
        return lock

    def still_spinning(self, thread: Thread) -> int:
        """A waiter's spin limit has passed. Returns how long it spins next, 0 if it has the lock now."""
        lock: SpinLock = thread.spinning
        if lock.holder is None:
            lock._hand_over()
            if thread.spinning is None:
                return 0
        hooks = self.machine.hooks
        if hooks.spun_long is not None:
            hooks.spun_long(lock, thread)
        if thread.spinning is None:
            return 0
        return (hooks.spin_limit(lock, thread) if hooks.spin_limit is not None else None) or FOREVER

    def running_again(self, thread: Thread) -> None:
        """A spinning waiter's processor runs again: a lock left free is its for the taking."""
        lock: SpinLock = thread.spinning
        if lock.holder is None and lock.discipline == "test_and_set":
            lock._hand_over()

    def check(self) -> None:
        """Compare locks with their holders and waiters. Raises SimulationError where they differ."""
        raised: dict[Thread, int] = {}
        for lock in self._all:
            waiters = [waiter.thread for waiter in lock.waiters]
            if lock.holder is not None:
                raised[lock.holder] = raised.get(lock.holder, 0) + 1
                if self.machine.threads.get(lock.holder.id) is not lock.holder:
                    raise SimulationError(f"{lock!r} is held by {lock.holder!r}, which has ended")
            elif waiters and (lock.discipline == "fifo" or any(map(_is_running, waiters))):
                raise SimulationError(f"{lock!r} is free while {waiters[0]!r} waits for it")
            for thread in waiters:
                raised[thread] = raised.get(thread, 0) + 1
                if thread.spinning is not lock or thread.state != RUNNING:
                    raise SimulationError(f"{thread!r} waits for {lock!r} without spinning on it")
        for thread in self.machine.threads.values():
            count = raised.get(thread, 0)
            if thread.raised != count:
                raise SimulationError(
                    f"{thread!r} is raised by {thread.raised} locks; it holds, or spins on, {count}"
                )

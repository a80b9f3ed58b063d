"""Spinlocks: a holder, waiters in order, and processors that burn while they wait.

A thread that holds or waits for a spinlock is at dispatch level: its own kernel cannot preempt it, nor run
DPCs on its processor. (A hypervisor can take the processor itself away; see `ntlab.machine.partitions`.) A
DPC may be done under a lock, too, and spins for it like a thread; see `Interrupts.queue_dpc`.

Two disciplines. "fifo": a queued spinlock hands itself to the longest waiter, even to one whose processor
does not run at the moment. "test_and_set": a free lock goes to the longest waiter whose processor is
running; if there is none it stays free until one runs again or someone else asks. Where the policy says that
a lock's cache line takes time to come from another processor, it comes to each of these waiters in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError
from ntlab.machine.interrupts import Work
from ntlab.machine.processors import Processor
from ntlab.machine.threads import RUNNING, WAITING, Request, Thread
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

LAB_LOCK = "Lab-Lock"
ACQUIRE = event_type(LAB_LOCK, "Acquire", "lock tid waited spun")
CONTEND = event_type(LAB_LOCK, "Contend", "lock tid waiters")
RELEASE = event_type(LAB_LOCK, "Release", "lock tid held")

Discipline = Literal["fifo", "test_and_set"]
User = Thread | Work
"""Who holds a lock or waits for it. In records, a DPC is thread 0."""


class SpinLock:
    """One spinlock. Made by `machine.create_lock`.

    Totals: `acquisitions`, `contentions` (acquisitions that had to wait), `wait_time` and `hold_time` (ns,
    by the clock), `spin_time` (ns for which waiters burned a running processor).
    """

    __slots__ = (
        "_last",
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
        self.holder: User | None = None
        self.waiters: deque[_Waiter] = deque()
        self._last: Processor | None = None  # where it was held last
        self._since = 0
        self.acquisitions = 0
        self.contentions = 0
        self.wait_time = 0
        self.hold_time = 0
        self.spin_time = 0

    def __repr__(self) -> str:
        return f"<SpinLock {self.name}>"

    @property
    def held_so_far(self) -> int:
        """`hold_time`, and that of the present holder, ns."""
        return self.hold_time + (self.machine.engine.now - self._since if self.holder is not None else 0)

    @property
    def spun_so_far(self) -> int:
        """`spin_time`, and that of the present waiters, ns."""
        return self.spin_time + sum(self.spun(waiter.user) for waiter in self.waiters)

    def spun(self, user: User) -> int:
        """How long someone who waits for it has spun so far, ns of running."""
        before = next(waiter.run_time for waiter in self.waiters if waiter.user is user)
        if isinstance(user, Work):
            return self.machine.interrupts.run_time(user) - before
        return self.machine.scheduler.run_time(user) - before

    def ask(self, user: User) -> int | None:
        """Give it to someone who runs, or let it wait: for `Acquire`, and for DPCs.

        Returns how long its lines take to come, or None where it waits.
        """
        if self.holder is None and (self.discipline == "test_and_set" or not self.waiters):
            delay = self._transfer(user)
            self._take(user, 0, 0)
            return delay
        self.contentions += 1
        machine = self.machine
        self.waiters.append(_Waiter(user, machine.engine.now))
        user.spinning = self
        if machine.locks.trace_contend is not None:
            machine.locks.trace_contend((machine.engine.now, CONTEND.id, self.id, user.id, len(self.waiters)))
        return None

    def free(self, user: User) -> None:
        """Its holder does not need it any more. For `Release`, and for DPCs."""
        machine = self.machine
        held = machine.engine.now - self._since
        self.hold_time += held
        self.holder = None
        if machine.locks.trace_release is not None:
            machine.locks.trace_release((machine.engine.now, RELEASE.id, self.id, user.id, held))
        if machine.hooks.lock_released is not None:
            machine.hooks.lock_released(self, user if isinstance(user, Thread) else None, held)
        self._hand_over()

    def _transfer(self, user: User) -> int:
        """How long its cache lines take to come to who gets it now."""
        time: int = self.machine.scheduler.policy.lock_transfer
        if not time:
            return 0
        last, here = self._last, user.processor
        assert here is not None
        self._last = here
        if last is None or last is here:
            return 0
        latency = self.machine.tables.latency[last.node]
        time = round(time * latency[here.node] / latency[last.node]) if here.node != last.node else time
        # Whoever waits for a queued lock watches a line of its own; all others want the lock's.
        return time * (1 + len(self.waiters)) if self.discipline == "test_and_set" else time

    def _take(self, user: User, waited: int, spun: int) -> None:
        machine = self.machine
        self.holder = user
        self._since = machine.engine.now
        self.acquisitions += 1
        if machine.locks.trace_acquire is not None:
            machine.locks.trace_acquire((self._since, ACQUIRE.id, self.id, user.id, waited, spun))
        if machine.hooks.lock_acquired is not None:
            machine.hooks.lock_acquired(self, user if isinstance(user, Thread) else None, waited)

    def _hand_over(self) -> None:
        """The lock is free: give it to a waiter, if one may have it now."""
        for waiter in self.waiters:
            user = waiter.user
            if self.discipline == "fifo" or _is_running(user):
                self.waiters.remove(waiter)
                user.spinning = None
                delay = self._transfer(user)
                if isinstance(user, Work):
                    self.machine.interrupts.grant(user, delay)
                else:
                    self.machine.scheduler.grant(user, delay)
                waited = self.machine.engine.now - waiter.since
                spun = user.run_time - waiter.run_time
                self.wait_time += waited
                self.spin_time += spun
                self._take(user, waited, spun)
                return


class _Waiter:
    __slots__ = ("run_time", "since", "user")

    def __init__(self, user: User, since: int) -> None:
        self.user = user
        self.since = since
        self.run_time = user.run_time


def _is_running(user: User) -> bool:
    processor = user.processor
    if processor is None or not processor.speed:
        return False
    return processor.interrupt_work is user if isinstance(user, Work) else user.state == RUNNING


class Acquire(Request):
    """Acquire a spinlock, at dispatch level from now on."""

    __slots__ = ("lock",)

    def __init__(self, lock: SpinLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> int | None:
        lock = self.lock
        if lock.holder is thread or thread.spinning is not None:
            raise SimulationError(f"{thread!r} acquires {lock!r} again: spinlocks are not recursive")
        if thread.raised:
            lock.machine.locks.nest(thread, lock)
        thread.raised += 1
        delay = lock.ask(thread)
        if delay is not None:
            return delay
        limit = lock.machine.hooks.spin_limit
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
        thread.raised -= 1
        lock.free(thread)
        if not thread.raised:
            lock.machine.interrupts.level_falls(thread)
        return 0


class Locks:
    """The spinlocks of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._all: list[SpinLock] = []
        self._inside: dict[SpinLock, list[SpinLock]] = {}  # which locks were taken while one was held
        self.trace_acquire = machine.tracer.emitter(ACQUIRE)
        self.trace_contend = machine.tracer.emitter(CONTEND)
        self.trace_release = machine.tracer.emitter(RELEASE)

    def __iter__(self) -> Iterator[SpinLock]:
        return iter(self._all)

    def create(self, name: str, discipline: Discipline = "fifo") -> SpinLock:
        """A new spinlock."""
        lock = SpinLock(self.machine, len(self._all) + 1, name, discipline)
        self._all.append(lock)
        return lock

    def nest(self, thread: Thread, lock: SpinLock) -> None:
        """A thread asks for a lock while it holds others. Raises SimulationError where that can deadlock."""
        for outer in self._all:
            if outer.holder is thread and lock not in (inside := self._inside.setdefault(outer, [])):
                if self._leads_to(lock, outer):
                    raise SimulationError(
                        f"{thread!r} holds {outer!r} and acquires {lock!r}, which others did in the opposite "
                        "order: both may wait for ever"
                    )
                inside.append(lock)

    def _leads_to(self, first: SpinLock, last: SpinLock) -> bool:
        return any(each is last or self._leads_to(each, last) for each in self._inside.get(first, []))

    def still_spinning(self, thread: Thread) -> int:
        """A waiter's spin limit has passed. Returns how long it spins on, or what it does with the lock."""
        lock: SpinLock = thread.spinning
        if lock.holder is None:
            lock._hand_over()
            if thread.spinning is None:
                return thread.remaining
        hooks = self.machine.hooks
        if hooks.spun_long is not None:
            hooks.spun_long(lock, thread)
        if thread.spinning is None:
            return thread.remaining
        return (hooks.spin_limit(lock, thread) if hooks.spin_limit is not None else None) or FOREVER

    def running_again(self, user: User) -> None:
        """A spinning waiter's processor runs again: a lock left free is its for the taking."""
        lock: SpinLock = user.spinning
        if lock.holder is None and lock.discipline == "test_and_set":
            lock._hand_over()

    def counters(self) -> dict[str, float]:
        """How often locks were acquired, and had to be waited for; nothing where there are none."""
        if not self._all:
            return {}
        seconds = self.machine.engine.now / 1e9 or 1.0
        acquisitions = sum(lock.acquisitions for lock in self._all)
        contentions = sum(lock.contentions for lock in self._all)
        return {
            r"Synchronization(_Total)\Spinlock Acquires/sec": acquisitions / seconds,
            r"Synchronization(_Total)\Spinlock Contentions/sec": contentions / seconds,
        }

    def check(self) -> None:
        """Compare locks with their holders and waiters. Raises SimulationError where they differ."""
        raised: dict[User, int] = {}
        for lock in self._all:
            waiters = [waiter.user for waiter in lock.waiters]
            holder = lock.holder
            if holder is not None:
                raised[holder] = raised.get(holder, 0) + 1
                if isinstance(holder, Work):
                    if holder.lock is not lock or not self.machine.interrupts.is_under_way(holder):
                        raise SimulationError(f"{lock!r} is held by {holder!r}, which is over")
                elif self.machine.threads.get(holder.id) is not holder:
                    raise SimulationError(f"{lock!r} is held by {holder!r}, which has ended")
                elif holder.state == WAITING:
                    raise SimulationError(
                        f"{lock!r} is held by {holder!r}, which waits: its IRQL is too high for that"
                    )
            elif waiters and (lock.discipline == "fifo" or any(map(_is_running, waiters))):
                raise SimulationError(f"{lock!r} is free while {waiters[0]!r} waits for it")
            for user in waiters:
                raised[user] = raised.get(user, 0) + 1
                if isinstance(user, Work):
                    waiting = self.machine.interrupts.is_under_way(user)
                else:
                    waiting = user.state == RUNNING
                if user.spinning is not lock or not waiting:
                    raise SimulationError(f"{user!r} waits for {lock!r} without spinning on it")
        for thread in self.machine.threads.values():
            count = raised.get(thread, 0)
            if thread.raised != count:
                raise SimulationError(
                    f"{thread!r} is raised by {thread.raised} locks; it holds, or spins on, {count}"
                )

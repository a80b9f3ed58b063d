"""Thread pools: workers that run what a process posts to them.

A pool is a completion port, its workers wait there, and each packet stands for some work that was posted. So
the port's rules decide who runs: the worker that waited last goes on, and no more of them run than the pool's
concurrency allows. When a worker is added, and which system calls all of that takes, is asked of plugins
(`thread_pool_policy`, `adds_worker`). Two kinds can be made of it:

- In user mode: whoever posts work asks the kernel how things are, and adds a worker itself. A thread of the
  pool's own looks after it later, and serves its timers. A worker that blocks is not noticed.
- In the kernel: the port says when work is left and fewer workers run than may, and one is added there.

    pool = machine.thread_pools.create(process, "pool")
    yield PostWork(Work(pool, lambda: iter([Compute(MILLISECOND)])))

System calls are counted where a thread makes them, by their reason (`pool.calls`), and cost that thread time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Literal

from ntlab.engine import Event
from ntlab.errors import SimulationError, UserError
from ntlab.hooks.thread_pools import Occasion
from ntlab.machine.policy import ThreadPoolPolicy
from ntlab.machine.ports import CompletionPort, Dequeue
from ntlab.machine.threads import Compute, Process, Request, Thread
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

THREAD_POOL = "ThreadPool"
ENQUEUE = event_type(THREAD_POOL, "CallbackEnqueue", "pool work")
START = event_type(THREAD_POOL, "CallbackStart", "pool work tid")
STOP = event_type(THREAD_POOL, "CallbackStop", "pool work tid")
CANCEL = event_type(THREAD_POOL, "CallbackCancel", "pool work count")
CREATE = event_type(THREAD_POOL, "PoolCreate", "pool pid name$")
ADD = event_type("Lab-ThreadPool", "WorkerAdd", "pool tid workers occasion$")
RETIRE = event_type("Lab-ThreadPool", "WorkerRetire", "pool tid workers")

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


class Work:
    """What a pool does when it is posted: the requests of `body()`, on a worker. It may be posted many times.

    `long`: the one who posts it says that it takes long. `pending` counts its posts that have not begun,
    `running` the workers that are at it.
    """

    __slots__ = ("body", "group", "id", "long", "pending", "pool", "priority", "running")

    def __init__(
        self,
        pool: ThreadPool,
        body: Callable[[], Iterator[Request]],
        *,
        group: CleanupGroup | None = None,
        long: bool = False,
        priority: Priority = "normal",
    ) -> None:
        if group is not None and group.released:
            raise UserError(f"work for {group!r}", expected="a group that is not released")
        self.pool = pool
        self.body = body
        self.group = group
        self.long = long
        self.priority = PRIORITIES.index(priority) if pool.policy.priorities else 0
        self.pending = 0
        self.running = 0
        self.id = pool.works
        pool.works += 1
        if group is not None:
            group.members.append(self)

    def __repr__(self) -> str:
        return f"<Work {self.id} of {self.pool.name}>"


class CleanupGroup:
    """Work that is released together: see `ReleaseGroup`."""

    __slots__ = ("members", "name", "released", "waiter")

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: list[Work] = []
        self.released = False
        self.waiter: Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether some of its work runs, or will."""
        return any(work.running or work.pending for work in self.members)

    def __repr__(self) -> str:
        return f"<CleanupGroup {self.name}>"


class PoolWait:
    """A registered wait: its work is posted when its object, an event that resets itself, is signalled."""

    __slots__ = ("armed", "pool", "signalled", "waiter", "work")

    def __init__(self, pool: ThreadPool, work: Work, waiter: Waiter) -> None:
        self.pool = pool
        self.work = work
        self.waiter = waiter
        self.armed = True
        self.signalled = False

    def signal(self) -> None:
        """Set the event: by a thread, a device or a timer."""
        self.signalled = True
        self.waiter.look()


class Waiter:
    """A thread of a pool that waits for the objects of its registered waits."""

    def __init__(self, pool: ThreadPool) -> None:
        self.pool = pool
        self.waits: list[PoolWait] = []
        self._sleeper = _Sleeper()
        name = f"{pool.name}: waits {len(pool.waiters)}"
        self.thread = pool.machine.create_thread(pool.process, self._wait(), name=name)

    def look(self) -> None:
        """Something may have happened."""
        if any(wait.signalled and wait.armed for wait in self.waits):
            self._sleeper.wake()

    def _wait(self) -> Iterator[Request]:
        pool = self.pool
        while True:
            pool.call("wait", *pool.policy.wait)
            yield from pool.charge()
            while not (ready := [wait for wait in self.waits if wait.signalled and wait.armed]):
                yield self._sleeper
            for wait in ready:
                wait.signalled = False
                wait.armed = pool.policy.rearms
                pool.post(wait.work)
            yield from pool.charge()


class _Sleeper(Request):
    """A thread of a pool waits until it is needed."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread: Thread | None = None

    def perform(self, thread: Thread) -> int | None:
        self.thread = thread
        return None

    def wake(self) -> None:
        thread, self.thread = self.thread, None
        if thread is not None:
            thread.machine.scheduler.wake(thread)


class ThreadPool:
    """A pool. Made by `machine.thread_pools.create`.

    `minimum` and `maximum` bound its `workers`. `calls` counts system calls by their reason and name;
    `history` has, from the beginning, the times at which the number of its threads changed, and to what.
    Totals: work `posted`, `begun`, `ended` and `cancelled`; workers `added` and `retired`.
    """

    def __init__(self, machine: Machine, process: Process, name: str, policy: ThreadPoolPolicy) -> None:
        self.machine = machine
        self.process = process
        self.name = name
        self.policy = policy
        self.id = len(machine.thread_pools.pools)
        self.minimum = 0
        self.maximum = policy.maximum
        self.port = CompletionPort(machine, name, self._running_at_most())
        if policy.kernel:
            self.port.wanting = self._wanted
        self.workers: list[Thread] = []
        self.waiters: list[Waiter] = []
        self.running: dict[Thread, Work] = {}
        self.latest: Work | None = None  # what was posted last
        self.works: int = 0
        self.calls: Counter[tuple[str, str]] = Counter()
        self.last_added = 0
        self.history: list[tuple[int, int]] = []
        self.posted = self.begun = self.ended = self.cancelled = self.added = self.retired = 0
        self._queues: tuple[deque[Work], ...] = tuple(deque() for _ in PRIORITIES)
        self._uncharged = 0
        self._starting = 0  # workers that have not come to take work yet
        self._timers: list[tuple[int, int, Work, int]] = []  # due, number, work, period
        self._set = 0
        self._check: int | None = None  # when to look whether another worker is needed
        self._alarm: Event | None = None
        self._sleeper = _Sleeper()
        self._adds_worker = machine.hooks.adds_worker
        tracer = machine.tracer
        self._trace_enqueue = tracer.emitter(ENQUEUE)
        self._trace_start = tracer.emitter(START)
        self._trace_stop = tracer.emitter(STOP)
        self._trace_cancel = tracer.emitter(CANCEL)
        self._trace_add = tracer.emitter(ADD)
        self._trace_retire = tracer.emitter(RETIRE)
        create = tracer.emitter(CREATE)
        if create is not None:
            create((machine.engine.now, CREATE.id, self.id, process.id, tracer.text(name)))
        self._timekeeper: Thread | None = None
        if not policy.kernel:
            self._timekeeper = machine.create_thread(process, self._keep_time(), name=f"{name}: timers")
        self._note()

    def __repr__(self) -> str:
        return f"<ThreadPool {self.name}>"

    @property
    def threads(self) -> int:
        """How many threads it has: workers, and those that wait for objects and for timers."""
        return len(self.workers) + len(self.waiters) + (self._timekeeper is not None)

    @property
    def pending(self) -> int:
        """How much work has been posted and not begun."""
        return sum(map(len, self._queues))

    def limit(self, minimum: int, maximum: int) -> None:
        """Set how many workers it has at least and at most; those that it lacks are made."""
        if not 0 <= minimum <= maximum or maximum < 1:
            raise UserError(
                f"at least {minimum} and at most {maximum} workers of pool {self.name!r}",
                expected="a maximum of 1 or more, and a minimum not above it",
            )
        self.minimum, self.maximum = minimum, maximum
        while len(self.workers) < minimum:
            self._add("post")
        self.cost()  # of no thread

    def _running_at_most(self) -> int:
        machine = self.machine
        wanted = self.policy.concurrency * machine.scheduler.all_mask.bit_count()
        return min(wanted, 64 * machine.tables.groups)  # no port can have more

    def count_processors(self) -> None:
        """Notice that processors have come or gone: more workers may run, or fewer."""
        self.port.concurrency = self._running_at_most()
        self.port.release()

    # -- system calls ----------------------------------------------------------------------------------------

    def call(self, reason: str, *calls: str) -> None:
        """The running thread makes system calls on behalf of the pool."""
        for name in calls:
            self.calls[reason, name] += 1
        self._uncharged += len(calls) * self.policy.call_time

    def cost(self) -> int:
        """What the calls cost that have been made since this was asked before, ns."""
        cost, self._uncharged = self._uncharged, 0
        return cost

    def charge(self) -> Iterator[Request]:
        """The same, as what a program does."""
        if self._uncharged:
            yield Compute(self.cost())

    # -- work ------------------------------------------------------------------------------------------------

    def post(self, work: Work, *, by_kernel: bool = False) -> None:
        """Queue work, by a thread that makes the calls for it, or `by_kernel` without any."""
        group = work.group
        if group is not None and group.released:
            raise UserError(f"{work!r} is posted", expected=f"{group!r} not to be released before")
        if not by_kernel:
            self.call("post", *self.policy.post)
        work.pending += 1
        self.latest = work
        self.posted += 1
        self._queues[work.priority].append(work)
        if self._trace_enqueue is not None:
            self._trace_enqueue((self.machine.engine.now, ENQUEUE.id, self.id, work.id))
        self.port.put(0)
        self._consider("post")
        self._look_again()

    def _take(self) -> Work | None:
        """The next work, for a worker that has been given a packet."""
        for queue in self._queues:
            if queue:
                return queue.popleft()
        return None  # it was cancelled meanwhile

    def cancel(self, members: Sequence[Work]) -> int:
        """Take back what of this work has not begun. Returns how many posts of it that were."""
        gone = {work: work.pending for work in members if work.pending}
        for index, queue in enumerate(self._queues):
            if any(work.priority == index for work in gone):
                kept = [work for work in queue if work not in gone]
                queue.clear()
                queue.extend(kept)
        for work, count in gone.items():
            work.pending = 0
            if self._trace_cancel is not None:
                self._trace_cancel((self.machine.engine.now, CANCEL.id, self.id, work.id, count))
        count = sum(gone.values())
        self.cancelled += count
        self.port.discard(count)
        return count

    # -- workers ---------------------------------------------------------------------------------------------

    def _wanted(self) -> None:
        """The port has packets, fewer workers run than may, and none waits."""
        port = self.port
        while len(port.packets) > self._starting and port.active < port.concurrency:
            if not self._consider("demand"):
                return

    def _consider(self, occasion: Occasion) -> bool:
        """Add a worker, if plugins want one."""
        if len(self.workers) >= self.maximum:
            return False
        adds = self._adds_worker(self, occasion) if self._adds_worker is not None else None
        if adds is None:
            adds = occasion == "demand" or not self.workers
        if adds:
            self._add(occasion)
        return bool(adds)

    def _add(self, occasion: Occasion) -> None:
        self.call("add", *self.policy.add)
        self.added += 1
        self.last_added = now = self.machine.engine.now
        name = f"{self.name}: worker {self.added}"
        worker = self.machine.create_thread(self.process, self._work(), name=name)
        self.workers.append(worker)
        self._starting += 1
        self.port.join(worker)
        self._note()
        if self._trace_add is not None:
            text = self.machine.tracer.text(occasion)
            self._trace_add((now, ADD.id, self.id, worker.id, len(self.workers), text))

    def _work(self) -> Generator[Request, Any, None]:
        """The program of a worker."""
        worker: Thread = yield _WHO
        new = True
        take, take_or_leave = Dequeue(self.port), Dequeue(self.port, self.policy.idle)
        while True:
            self.call("take", *self.policy.take)
            yield from self.charge()
            self._starting -= new
            new = False
            packet = yield take if len(self.workers) <= self.minimum else take_or_leave
            if packet is None:
                if len(self.workers) > self.minimum:
                    break
            elif (work := self._take()) is not None:
                self._begin(work, worker)
                yield from work.body()
                self._end(work, worker)
        self.workers.remove(worker)
        self.retired += 1
        self._note()
        if self._trace_retire is not None:
            self._trace_retire((self.machine.engine.now, RETIRE.id, self.id, worker.id, len(self.workers)))

    def _begin(self, work: Work, worker: Thread) -> None:
        work.pending -= 1
        work.running += 1
        self.begun += 1
        self.running[worker] = work
        if self._trace_start is not None:
            self._trace_start((self.machine.engine.now, START.id, self.id, work.id, worker.id))

    def _end(self, work: Work, worker: Thread) -> None:
        work.running -= 1
        self.ended += 1
        del self.running[worker]
        if self._trace_stop is not None:
            self._trace_stop((self.machine.engine.now, STOP.id, self.id, work.id, worker.id))
        group = work.group
        if group is not None and group.waiter is not None and not group.busy:
            waiter, group.waiter = group.waiter, None
            self.machine.scheduler.wake(waiter, waiter.result)

    def _note(self) -> None:
        self.history.append((self.machine.engine.now, self.threads))

    # -- waits and timers ------------------------------------------------------------------------------------

    def register_wait(self, work: Work, waiter: Waiter | None = None) -> PoolWait:
        """Have work posted when an event is signalled. `waiter`: which thread waits (default: any with room,
        or a new one)."""
        limit = self.policy.handles
        if waiter is not None and len(waiter.waits) >= limit:
            raise UserError(
                f"{limit + 1} handles on one waiter of pool {self.name!r}",
                expected=f"{limit} at most, and a second waiter for more",
            )
        if waiter is None:
            waiter = next((each for each in self.waiters if len(each.waits) < limit), None)
        if waiter is None:
            waiter = Waiter(self)
            self.waiters.append(waiter)
            self._note()
        wait = PoolWait(self, work, waiter)
        waiter.waits.append(wait)
        return wait

    def arm(self, wait: PoolWait) -> None:
        """Wait again, where a wait does not do so by itself."""
        wait.armed = True
        wait.waiter.look()

    def set_timer(self, work: Work, delay: int, period: int = 0) -> None:
        """Have work posted in `delay` ns, and then each `period` ns if that is not 0."""
        if delay < 0 or period < 0:
            raise UserError(
                f"a timer of pool {self.name!r} with a delay of {delay} ns and a period of {period} ns",
                expected="neither to be negative",
            )
        self.call("set timer", *self.policy.set_timer)
        self._set += 1
        heappush(self._timers, (self.machine.engine.now + delay, self._set, work, period))
        self._rearm()

    def _look_again(self) -> None:
        """Work has been posted: see to it that the timekeeper looks whether it is too much."""
        growth = self.policy.growth
        if growth and self._check is None and self._timekeeper is not None and self.pending:
            now = self.machine.engine.now
            self._check = self.last_added + growth if self.last_added + growth > now else now + growth
            self._rearm()

    def _next_due(self) -> int | None:
        due = self._timers[0][0] if self._timers else None
        if self._check is not None and (due is None or self._check < due):
            return self._check
        return due

    def _rearm(self) -> None:
        due = self._next_due()
        if self._alarm is not None:
            self.machine.engine.cancel(self._alarm)
        if due is not None:  # in the past where the timekeeper has had no processor yet
            due = max(due, self.machine.engine.now)
        self._alarm = None if due is None else self.machine.engine.at(due, self._rang)

    def _rang(self, _: object) -> None:
        self._alarm = None
        if self._timekeeper is not None:
            self._sleeper.wake()
        else:
            for work in self._due():
                self.post(work, by_kernel=True)

    def _due(self) -> list[Work]:
        """The work whose timers are due. They are set again, if they have a period."""
        now = self.machine.engine.now
        found = []
        while self._timers and self._timers[0][0] <= now:
            due, number, work, period = heappop(self._timers)
            found.append(work)
            if period:
                heappush(self._timers, (due + period, number, work, period))
        self._rearm()
        return found

    def _keep_time(self) -> Iterator[Request]:
        """The program of the thread that a pool in user mode has for timers."""
        while True:
            self.call("wait", *self.policy.wait)
            yield from self.charge()
            while (due := self._next_due()) is None or due > self.machine.engine.now:
                yield self._sleeper
            if self._check is not None and self._check <= self.machine.engine.now:
                self._check = None
                if self.pending:
                    self._consider("timer")
                    self._look_again()
            for work in self._due():
                self.post(work)
            yield from self.charge()

    # -- checks ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise SimulationError where work or workers are miscounted."""
        if self.posted != self.begun + self.cancelled + self.pending or self.begun < self.ended:
            raise SimulationError(f"{self!r} has lost or made work")
        if self.added != self.retired + len(self.workers) or len(self.workers) > max(1, self.maximum):
            raise SimulationError(f"{self!r} has {len(self.workers)} workers, of {self.maximum} at most")
        for worker in [*self.workers, *self.running]:
            if self.machine.threads.get(worker.id) is not worker:
                raise SimulationError(f"{worker!r} of {self!r} has ended")
        if len(self.running) != self.begun - self.ended:
            raise SimulationError(f"{self!r} has lost count of who is at work")


class ThreadPools:
    """The pools of one machine, in the order in which they were made."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pools: list[ThreadPool] = []
        self._policy: ThreadPoolPolicy | None = None

    @property
    def policy(self) -> ThreadPoolPolicy:
        """The rules, asked for when they are first needed."""
        if self._policy is None:
            ask = self.machine.hooks.thread_pool_policy
            policy = ask(self.machine) if ask is not None else None
            self._policy = policy if policy is not None else ThreadPoolPolicy()
        return self._policy

    def create(self, process: Process, name: str) -> ThreadPool:
        """A pool of a process. Raises UserError for a second one, where it may have one only."""
        if not self.policy.several and any(pool.process is process for pool in self.pools):
            raise UserError(
                f"a second thread pool of process {process.name!r}", expected="one, as this release has it"
            )
        pool = ThreadPool(self.machine, process, name, self.policy)
        self.pools.append(pool)
        return pool

    def check(self) -> None:
        """Check them all."""
        for pool in self.pools:
            pool.check()


# -- what threads do -----------------------------------------------------------------------------------------


class _Who(Request):
    """Who am I? The program receives its thread."""

    __slots__ = ()

    def perform(self, thread: Thread) -> int | None:
        thread.result = thread
        return 0


_WHO = _Who()


class PostWork(Request):
    """Post work to its pool."""

    __slots__ = ("work",)

    def __init__(self, work: Work) -> None:
        self.work = work

    def perform(self, thread: Thread) -> int | None:
        pool = self.work.pool
        pool.post(self.work)
        return pool.cost()


class SetPoolTimer(Request):
    """Have work posted in `delay` ns, and then each `period` ns if that is not 0."""

    __slots__ = ("delay", "period", "work")

    def __init__(self, work: Work, delay: int, period: int = 0) -> None:
        self.work = work
        self.delay = delay
        self.period = period

    def perform(self, thread: Thread) -> int | None:
        pool = self.work.pool
        pool.set_timer(self.work, self.delay, self.period)
        return pool.cost()


class ReleaseGroup(Request):
    """Release a cleanup group: wait until none of its work runs, or will. With `cancel`, what has not begun
    is taken back. The program receives how many posts that were. Nothing of it can be posted any more.

    Raises UserError if the thread is at such work itself, and would wait for itself; or where pools cannot
    take back what they have.
    """

    __slots__ = ("cancel", "group")

    def __init__(self, group: CleanupGroup, *, cancel: bool = False) -> None:
        self.group = group
        self.cancel = cancel

    def perform(self, thread: Thread) -> int | None:
        group = self.group
        if group.released:
            raise UserError(f"{group!r} is released", expected="once")
        count = 0
        pools = dict.fromkeys(work.pool for work in group.members)
        for pool in pools:
            mine = pool.running.get(thread)
            if mine is not None and mine.group is group:
                raise UserError(
                    f"{group!r} is released by its own {mine!r}",
                    expected="another thread, since this one would wait for itself for ever",
                )
            if self.cancel and not pool.policy.cancels:
                raise UserError(f"work of pool {pool.name!r} is cancelled", expected="not before Server 2008")
        group.released = True
        if self.cancel:
            count = sum(pool.cancel([w for w in group.members if w.pool is pool]) for pool in pools)
        thread.result = count
        if not group.busy:
            return 0
        group.waiter = thread
        return None

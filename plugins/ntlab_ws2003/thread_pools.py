"""Thread pools of Windows Server 2003: one a process, all in user mode."""

from __future__ import annotations

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import ThreadPool, ThreadPoolPolicy
from ntlab.plugin import option
from ntlab.quantities import SECOND, Duration


@attrs.define(slots=False, eq=False)
class ThreadPooling:
    """The pool of Windows 2000 to 2003. Source of the mechanisms: scheduling facts, section 4.

    Documented: the three reasons to add a worker (some time has passed since the last one, work is said to
    take long, the queue is too long), at most twice as many running as there are processors, about 500
    threads, about a minute idle, a thread for timers, one for each 63 handles, and that nothing queued can be
    taken back. How long that time is and how long that queue, nobody states: guesses. So are the names of
    the calls.
    """

    pool_growth: Duration = option(
        default=Duration(SECOND),
        help="When some work waits, a worker is added so long after the one before.",
        minimum=1,
    )
    pool_queue: int = option(
        default=10, help="A worker is added for so many pieces of work for each worker; 0: never.", minimum=0
    )
    pool_idle: Duration = option(
        default=Duration(60 * SECOND), help="How long a worker waits for work before it ends.", minimum=1
    )
    pool_maximum: int = option(default=500, help="Workers of a pool at most.", minimum=1)
    pool_concurrency: int = option(
        default=2, help="Workers that run at a time, for each processor.", minimum=1
    )
    system_call: Duration = option(
        default=Duration(0), help="What a system call of a thread pool costs; nobody publishes it.", minimum=0
    )

    @hookimpl
    def thread_pool_policy(self) -> ThreadPoolPolicy:
        return ThreadPoolPolicy(
            kernel=False,
            concurrency=self.pool_concurrency,
            maximum=self.pool_maximum,
            idle=self.pool_idle,
            growth=self.pool_growth,
            cancels=False,
            several=False,
            rearms=True,
            post=("NtSetIoCompletion",),
            take=("NtRemoveIoCompletion",),
            add=("NtCreateThread", "NtAllocateVirtualMemory", "NtResumeThread"),
            set_timer=("NtQueueApcThread",),
            wait=("NtWaitForMultipleObjects",),
            call_time=self.system_call,
        )

    @hookimpl
    def adds_worker(self, pool: ThreadPool, occasion: str) -> bool:
        if occasion == "demand":
            return False  # user mode does not learn of it
        pool.call("query", "NtQueryIoCompletion")
        waiting = len(pool.port.packets)
        if not pool.workers:
            return True
        if not waiting or pool.port.waiters:
            return False
        if pool.machine.engine.now - pool.last_added >= self.pool_growth:
            return True
        if occasion == "timer":
            return False
        long = pool.latest is not None and pool.latest.long
        return long or (self.pool_queue > 0 and waiting > self.pool_queue * len(pool.workers))

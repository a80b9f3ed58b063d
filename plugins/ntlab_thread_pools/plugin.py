"""The feature: a worker factory in the kernel, around the pool's completion port."""

from __future__ import annotations

from ntlab.hooks import hookimpl
from ntlab.machine import Machine, ThreadPoolPolicy
from ntlab.plugin import option, plugin
from ntlab.quantities import SECOND, Duration
from ntlab_thread_pools.workloads import Bursts, Shutdown


@plugin(
    name="thread_pools",
    summary="Thread pools have their core in the kernel, and give queued work back.",
    release="ws2008",
    ledger=("P3",),
    workloads=(Bursts, Shutdown),
    neutral={"factory": False},
)
class ThreadPools:
    """What Server 2008 changed in thread pools. With `factory` off, all is as in 2003."""

    factory: bool = option(default=True, help="Whether pools live in the kernel; if not, as in 2003.")
    maximum: int = option(default=500, help="Workers of a pool at most.", minimum=1)
    idle: Duration = option(
        default=Duration(10 * SECOND), help="How long a worker waits for work before it ends.", minimum=1
    )
    concurrency: int = option(default=1, help="Workers that run at a time, for each processor.", minimum=1)
    cancels: bool = option(default=True, help="Whether work that has not begun can be taken back.")
    priorities: bool = option(
        default=False, help="Whether work has a priority of its own within the pool (2008 R2)."
    )
    system_call: Duration = option(
        default=Duration(0), help="What a system call of a thread pool costs; nobody publishes it.", minimum=0
    )

    @hookimpl
    def thread_pool_policy(self) -> ThreadPoolPolicy | None:
        if not self.factory:
            return None
        return ThreadPoolPolicy(
            kernel=True,
            concurrency=self.concurrency,
            maximum=self.maximum,
            idle=self.idle,
            cancels=self.cancels,
            priorities=self.priorities,
            post=("NtReleaseWorkerFactoryWorker",),
            take=("NtWaitForWorkViaWorkerFactory",),
            set_timer=("NtSetTimer",),
            wait=("NtWaitForMultipleObjects",),
            call_time=self.system_call,
        )

    @hookimpl
    def adds_worker(self, occasion: str) -> bool | None:
        return occasion == "demand" if self.factory else None

    @hookimpl
    def hardware_changed(self, machine: Machine) -> None:
        """Pools notice processors that have come. Those of user mode counted them once, when they began."""
        if self.factory:
            for pool in machine.thread_pools.pools:
                pool.count_processors()

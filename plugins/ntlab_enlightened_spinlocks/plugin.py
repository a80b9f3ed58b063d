"""Both ends of the enlightenment: the guest that notifies, and the hypervisor that is notified.

The host and each child partition have an instance of their own. That of the host recommends a number of
attempts and answers the hypercall; those of the guests count attempts and make it. What they know of one
another goes through the partition alone.
"""

from __future__ import annotations

from typing import Literal

from ntlab import Duration, hookimpl, option, plugin
from ntlab.machine import (
    NEVER_NOTIFY,
    NOTIFY_LONG_SPIN_WAIT,
    Partition,
    SpinLock,
    Thread,
    VirtualProcessor,
    Yield,
)
from ntlab_enlightened_spinlocks.workloads import Contention


@plugin(
    name="enlightened_spinlocks",
    summary="A guest that spins long tells the hypervisor, which runs another virtual processor.",
    release="ws2008",
    ledger=("V3",),
    workloads=(Contention,),
    neutral={"attempts": NEVER_NOTIFY},
)
class EnlightenedSpinlocks:
    attempts: int = option(
        default=0xFFF,
        help="Attempts at a spinlock before a guest notifies (CPUID 0x40000004 EBX); 4294967295 is never.",
        minimum=1,
        maximum=NEVER_NOTIFY,
    )
    iteration: Duration = option(
        default=Duration(20), help="Time of one attempt: a PAUSE of 40 cycles at 2 GHz.", minimum=1
    )
    response: Literal["yield", "directed_yield", "none"] = option(
        default="yield",
        help="What the hypervisor does: end the caller's turn; the same in favour of a preempted processor "
        "of its partition, if there is one; or nothing.",
    )

    # -- in a guest ----------------------------------------------------------------------------------------

    @hookimpl
    def spin_limit(self, lock: SpinLock) -> int | None:
        partition = lock.machine.partition
        if partition is None or partition.spin_attempts == NEVER_NOTIFY:
            return None
        return partition.spin_attempts * self.iteration

    @hookimpl
    def spun_long(self, lock: SpinLock, thread: Thread) -> None:
        partition = lock.machine.partition
        if partition is not None and thread.processor is not None:
            attempts = lock.spun(thread) // self.iteration
            partition.hypercall(NOTIFY_LONG_SPIN_WAIT, thread.processor.virtual, attempts)

    # -- on the host ---------------------------------------------------------------------------------------

    @hookimpl
    def spin_attempts(self, partition: Partition) -> int:
        return self.attempts

    @hookimpl
    def long_spin_wait(self, vp: VirtualProcessor) -> Yield | None:
        if self.response == "none":
            return None
        if self.response == "yield":
            return Yield()
        preempted = [other for other in vp.partition.processors if other.preempted]
        if not preempted:
            return None  # the holder is running, so the wait is worth its while
        return Yield(to=min(preempted, key=lambda other: other.preempted_at))

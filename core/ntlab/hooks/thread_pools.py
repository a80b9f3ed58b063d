"""What pools of worker threads ask. `pool` is a `ThreadPool`; it knows its machine and its process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import hookspec

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import ThreadPoolPolicy
    from ntlab.machine.thread_pools import ThreadPool

Occasion = Literal["post", "timer", "demand"]
"""When a pool may grow. "post": work has been posted. "timer": the pool's own thread for timers looks after
it. "demand": the kernel sees that work is left, no worker waits for any, and fewer run than may."""


@hookspec(firstresult=True)
def thread_pool_policy(machine: Machine) -> ThreadPoolPolicy | None:
    """The rules of thread pools: where they live, how many threads run, which system calls that takes.

    Asked once, when the first pool is made. 2003: a pool in user mode, by its options. None everywhere:
    `ThreadPoolPolicy()`, a pool in the kernel.
    """


@hookspec(firstresult=True)
def adds_worker(pool: ThreadPool, occasion: Occasion) -> bool | None:
    """Whether a pool adds a worker now.

    Asked on each occasion while it has fewer than its maximum. On a post, the posting thread makes the system
    calls that the answer takes: who must ask the kernel notes that by `pool.call`. None everywhere: it does
    if it has no worker, and on demand. 2003: not on demand, which it does not learn of; else by time and by
    the length of its queue, once it has asked how many threads run.
    """

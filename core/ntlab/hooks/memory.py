"""What memory management asks. Pages are counted in pages of the machine's page size, nodes by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.hooks.markers import hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.memory import Memory, Region
    from ntlab.machine.policy import MemoryPolicy
    from ntlab.machine.threads import Thread


@hookspec(firstresult=True)
def memory_policy(machine: object) -> MemoryPolicy | None:
    """The fixed rules and costs of memory. Asked once at boot; None everywhere gives `MemoryPolicy()`."""


@hookspec(firstresult=True)
def allocation_node(thread: Thread, region: Region) -> int | None:
    """The home of pages that a running thread is about to get: the node that is tried first.

    Asked at each demand-zero or hard fault. 2003: the node of the processor it runs on now. None
    everywhere: node 0.
    """


@hookspec(firstresult=True)
def fallback_order(memory: Memory, home: int) -> Sequence[int] | None:
    """The nodes to try, in this order, once `home` has no page available. Those not named come last.

    2003: any other. None everywhere: the others by number.
    """


@observer
def pages_short(memory: Memory, pages: int) -> None:
    """A thread needs so many pages and none is available anywhere; asked again at each retry.

    Whoever can makes some available: `memory.trim` makes clean pages so at once, changed ones as soon as
    they are written. If that gives none, and none is being written, the request fails with STATUS_NO_MEMORY.
    2003: trims working sets down to their maximum, then to their minimum.
    """

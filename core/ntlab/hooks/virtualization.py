"""What the hypervisor of a host asks, when the host has child partitions.

A plugin's instances on the host answer these; those in a child partition answer for the guest alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.partitions import Partition, VirtualProcessor, Yield


@hookspec(firstresult=True)
@expects("1 to 0xFFFFFFFF", lambda answer: 1 <= answer <= 0xFFFFFFFF)
def spin_attempts(partition: Partition) -> int | None:
    """How often a guest is told to try a spinlock before it makes a long spin wait hypercall, 1..0xFFFFFFFF.

    Asked when a child partition is created; the guest reads it as `partition.spin_attempts` (CPUID leaf
    0x40000004, EBX). None everywhere, as in 2003, which has no hypervisor: 0xFFFFFFFF, never.
    """


@hookspec(firstresult=True)
@expects(
    "to a virtual processor of the same partition, or to nobody",
    lambda answer, vp: answer.to is None or answer.to.partition is vp.partition,
)
def long_spin_wait(vp: VirtualProcessor, spins: int) -> Yield | None:
    """What to do when a guest says that a virtual processor has tried a spinlock `spins` times.

    Asked when the hypercall is made. `Yield()` ends the virtual processor's turn, `Yield(to=other)` in favour
    of another one that waits for a logical processor. None everywhere, as in 2003: nothing, for the hypercall
    is advisory.
    """

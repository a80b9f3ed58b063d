"""What processor groups ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine


def _disjoint(answer: Sequence[int]) -> bool:
    together = 0
    for mask in answer:
        if mask <= 0 or mask & together:
            return False
        together |= mask
    return bool(answer)


@hookspec(firstresult=True)
@expects("masks of processors, none empty and none with a processor of another", _disjoint)
def processor_groups(machine: Machine) -> Sequence[int] | None:
    """Into which groups the kernel divides its processors: a mask for each. It starts no others.

    Asked once, while the machine is put together, before anything but its tables, engine, tracer and streams
    is there. 2003 has none, and a mask of as many processors as there are: None everywhere. (The real one's
    has 64 bits, or 32.)
    """


@hookspec(firstresult=True)
@expects("one of the groups", lambda answer, machine: 0 <= answer < len(machine.groups.masks))
def process_group(machine: Machine, node: int | None) -> int | None:
    """The group in which a new process starts. `node` is the one that its creator prefers, if any.

    Asked where there are groups, for each process that is made without an affinity of its own. None
    everywhere: group 0. 2003 has no groups.
    """

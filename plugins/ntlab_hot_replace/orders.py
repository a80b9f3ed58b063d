"""What somebody who looks after the machine does in the workloads."""

from __future__ import annotations

from ntlab.machine import Machine


def replace_first_unit(machine: Machine) -> None:
    """Order the first memory unit to be replaced, where that can be and nothing has begun to."""
    partitioning = machine.partitioning
    size = partitioning.memory_unit(0).pages * machine.memory.policy.page_size
    able = partitioning.supports("replace memory") and size in partitioning.spare_memory
    if able and partitioning.replacement is None:
        partitioning.replace_memory(0)

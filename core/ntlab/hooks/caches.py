"""What processor caches ask. Sizes are bytes, times ns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import hookspec

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import ProcessorCachePolicy


@hookspec(firstresult=True)
def processor_cache_policy(machine: Machine) -> ProcessorCachePolicy | None:
    """The processor caches, as far as the description of the machine leaves them open.

    Asked once, while the machine is put together, after `memory_policy`. 2003: its options. None everywhere:
    `ProcessorCachePolicy()`.
    """

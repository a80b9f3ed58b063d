"""The hooks: specifications, one file a domain, and the binding that turns them into direct calls."""

from __future__ import annotations

from types import ModuleType

from ntlab.hooks.binding import BoundHooks, HookManager, Mode, bind, blame, implementations
from ntlab.hooks.checked import Watch
from ntlab.hooks.contracts import Contract, contract_of
from ntlab.hooks.markers import expects, hookimpl, hookspec, observer, since, specified

__all__ = [
    "BoundHooks",
    "Contract",
    "HookManager",
    "Mode",
    "Watch",
    "bind",
    "blame",
    "contract_of",
    "expects",
    "hookimpl",
    "hookspec",
    "implementations",
    "observer",
    "since",
    "specifications",
    "specified",
]


def specifications() -> list[ModuleType]:
    """The modules that specify the built-in hooks."""
    from ntlab.hooks import (
        caches,
        errors,
        file_cache,
        groups,
        io,
        lifecycle,
        locks,
        memory,
        paging,
        partitioning,
        power,
        scheduling,
        services,
        startup,
        thread_pools,
        timers,
        virtualization,
    )

    first = [lifecycle, locks, scheduling, timers, io, memory, caches, paging, file_cache]
    return [*first, groups, errors, virtualization, partitioning, power, startup, thread_pools, services]

"""Which sections of kernel memory have a working set of their own in Windows Server 2008 R2: all of them."""

from __future__ import annotations

from typing import Literal

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import PAGED_POOL, SYSTEM_CACHE, Machine
from ntlab.plugin import option, plugin
from ntlab_kernel_working_sets.workloads import Services

SYSTEM_PTES = "system PTEs"
"""The working set of drivers' and the kernel's own code, called after where they are mapped."""


@plugin(
    name="kernel_working_sets",
    summary="System cache, paged pool and system code each have a working set of their own.",
    release="ws2008r2",
    ledger=("M6",),
    workloads=(Services,),
    neutral={"system_cache": "shared", "paged_pool": "shared", "system_code": "shared"},
)
class KernelWorkingSets:
    """Each section is put apart by itself. Source: S4 (M6); memory facts, section 3.3."""

    system_cache: Literal["own", "shared"] = option(
        default="own", help="Whether the system cache has its own working set, or the kernel's common one."
    )
    paged_pool: Literal["own", "shared"] = option(default="own", help="The same of the paged pool.")
    system_code: Literal["own", "shared"] = option(
        default="own", help="The same of pageable code: the kernel's and all drivers', in one working set."
    )
    system_cache_maximum: int = option(
        default=0,
        help="Pages that the system cache's own working set never exceeds; 0 is no limit.",
        minimum=0,
    )
    paged_pool_maximum: int = option(default=0, help="The same of the paged pool's.", minimum=0)
    system_code_maximum: int = option(default=0, help="The same of system code's.", minimum=0)
    minimum: int = option(
        default=388, help="Pages that a trim leaves each of them (a guess, the baseline's).", minimum=0
    )

    @hookimpl
    def kernel_working_set(self, section: str) -> str | None:
        if section == SYSTEM_CACHE:
            return section if self.system_cache == "own" else None
        if section == PAGED_POOL:
            return section if self.paged_pool == "own" else None
        return SYSTEM_PTES if self.system_code == "own" else None

    @hookimpl
    def kernel_working_set_limits(self, machine: Machine, name: str) -> tuple[int, int] | None:
        maxima = {
            SYSTEM_CACHE: self.system_cache_maximum,
            PAGED_POOL: self.paged_pool_maximum,
            SYSTEM_PTES: self.system_code_maximum,
        }
        if name not in maxima:
            return None
        maximum = maxima[name]
        if 0 < maximum < self.minimum:
            raise UserError(
                f"at most {maximum} pages of {name}",
                where="kernel_working_sets",
                expected=f"0, or no fewer than the minimum, {self.minimum}",
            )
        return self.minimum, maximum

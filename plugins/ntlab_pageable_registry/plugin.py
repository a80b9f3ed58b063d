"""Where Windows Server 2008 R2 keeps the registry: in paged pool."""

from __future__ import annotations

from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import RegistryPolicy
from ntlab.plugin import option, plugin
from ntlab_pageable_registry.workloads import Queries


@plugin(
    name="pageable_registry",
    summary="The registry is in paged pool, and paged like anything else.",
    release="ws2008r2",
    ledger=("K6",),
    workloads=(Queries,),
    neutral={"backing": "as_before"},
)
class PageableRegistry:
    """Source: S4 (K6); memory facts, C1 and section 3.3."""

    backing: Literal["paged_pool", "as_before"] = option(
        default="paged_pool", help="Where the registry is: in paged pool, or where the baseline has it."
    )
    store: Literal["paging_file", "hive_file"] = option(
        default="paging_file",
        help="What is behind it: the paging file, after it was loaded whole; or its own file, mapped into "
        "paged pool, which is what Microsoft's pages say of Server 2008 for x64.",
    )

    @hookimpl
    def registry_policy(self) -> RegistryPolicy | None:
        return (
            RegistryPolicy(backing="paged_pool", store=self.store) if self.backing == "paged_pool" else None
        )

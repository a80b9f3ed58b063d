"""Where Windows Server 2003 keeps the registry."""

from __future__ import annotations

from typing import Literal

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import RegistryPolicy
from ntlab.plugin import option
from ntlab.quantities import KIB, MIB, Size


@attrs.define(slots=False, eq=False)
class RegistryKeeping:
    """Sources disagree on where it was (memory facts, C1): the documents say in non-pageable memory, with
    strategies of its own to swap parts out; Microsoft's pages on the size of the registry say in views in the
    system cache, of 4 MB at most."""

    registry_backing: Literal["nonpaged", "cache_views"] = option(
        default="nonpaged", help="Where the registry is: in non-paged pool, or in views in the system cache."
    )
    registry_limit: Size = option(
        default=Size(4 * MIB),
        help="How much of it may be there at a time; 0 is all. Of non-paged pool it is a guess.",
        minimum=0,
    )
    registry_part: Size = option(
        default=Size(256 * KIB), help="How much of a hive comes and goes at a time.", minimum=4 * KIB
    )

    @hookimpl
    def registry_policy(self) -> RegistryPolicy:
        return RegistryPolicy(
            backing=self.registry_backing, limit=self.registry_limit, part=self.registry_part
        )

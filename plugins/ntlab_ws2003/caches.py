"""Processor caches, where the description of a machine says nothing of them."""

from __future__ import annotations

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import ProcessorCachePolicy
from ntlab.plugin import option
from ntlab.quantities import Duration, Size


@attrs.define(slots=False, eq=False)
class ProcessorCaches:
    """Not a policy of Windows, but of the hardware of its day: what threads lose by moving depends on it.
    Source: scheduling facts, section 7.6 (X5570: second level 9 clocks, third 47); the rest are guesses."""

    core_cache: Size = option(
        default=Size(1 << 20), help="Cache of each core, where none is described; 0: none.", minimum=0
    )
    package_cache: Size = option(
        default=Size(0), help="Cache of each package besides, where none is described; 0: none.", minimum=0
    )
    core_cache_latency: Duration = option(
        default=Duration(3), help="Time for a line from a cache of level 1 or 2.", minimum=0
    )
    package_cache_latency: Duration = option(
        default=Duration(16), help="Time for a line from a cache of level 3 and above.", minimum=0
    )
    lines_at_once: float = option(
        default=4.0, help="Cache lines that are on their way to a core at a time.", minimum=1
    )

    @hookimpl
    def processor_cache_policy(self) -> ProcessorCachePolicy:
        return ProcessorCachePolicy(
            core_size=self.core_cache,
            package_size=self.package_cache,
            core_latency=self.core_cache_latency,
            package_latency=self.package_cache_latency,
            overlap=self.lines_at_once,
        )

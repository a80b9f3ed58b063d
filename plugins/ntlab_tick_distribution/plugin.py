"""Whom Windows Server 2008 R2 wakes for a clock tick: who has something to do at it."""

from __future__ import annotations

from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.plugin import option, plugin
from ntlab_tick_distribution.workloads import Wakes


@plugin(
    name="tick_distribution",
    summary="Clock ticks go only to processors that are not asleep.",
    release="ws2008r2",
    ledger=("P8",),
    workloads=(Wakes,),
    neutral={"ticks": "all", "tables": "one"},
)
class TickDistribution:
    """Intelligent timer tick distribution. Timers are kept by processor, or nobody else could expire them."""

    ticks: Literal["awake", "all"] = option(
        default="awake",
        help="Who gets a tick: who is awake or has a timer due, and the keeper of the time; or everybody.",
    )
    tables: Literal["per_processor", "one"] = option(
        default="per_processor",
        help="Where timers are kept and expire: at the processor that set them, or all at the keeper.",
    )

    @hookimpl
    def tick_processors(self, due: int) -> int | None:
        return due if self.ticks == "awake" else None

    @hookimpl
    def timer_processor(self, here: int) -> int | None:
        return here if self.tables == "per_processor" else None

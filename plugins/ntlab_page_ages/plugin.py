"""How long ago a page was used, as Server 2008 R2 knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import PageRun, WorkingSet
from ntlab.plugin import option, plugin
from ntlab_page_ages.workloads import Periods, References


@plugin(
    name="page_ages",
    summary="Ages of 3 bits instead of 2 tell better which page has not been used for longest.",
    release="ws2008r2",
    ledger=("M5",),
    requires=("ws2003",),
    workloads=(References, Periods),
    neutral={"bits": 2, "ties": "arrival"},  # what Server 2003 and 2008 do
)
class PageAges:
    """Whether pages age at all, and when they are looked at, is `ws2003.ageing`. Source: S4 (M5); memory
    facts, section 3.3."""

    bits: int = option(default=3, help="Bits of an age; 1 is Clock's.", minimum=1, maximum=8)
    ties: Literal["arrival", "random"] = option(
        default="arrival",
        help="Which of the pages of one age leaves first, where ageing is by timer: the one that came first, "
        "or any.",
    )

    @hookimpl
    def oldest_age(self) -> int:
        return (1 << self.bits) - 1

    @hookimpl
    def trim_order(self, working_set: WorkingSet, runs: Sequence[PageRun]) -> Sequence[PageRun] | None:
        if self.ties == "arrival":
            return None
        pages = [PageRun(run.space, page, page + 1) for run in runs for page in range(run.first, run.stop)]
        working_set.owner.machine.streams.stream("page_ages", "ties").shuffle(pages)
        return pages

"""Where in their tolerance Windows Server 2008 R2 lets timers expire: at whole multiples of round periods."""

from __future__ import annotations

from typing import Any, Literal

from ntlab.hooks import hookimpl
from ntlab.machine import Timer
from ntlab.plugin import option, plugin
from ntlab.quantities import MILLISECOND, Duration
from ntlab_timer_coalescing.workloads import PeriodicTimers


def _alignments(instance: object, field: Any, values: tuple[Duration, ...]) -> None:
    for value in values:
        if value <= 0:
            raise ValueError(f"{value} is no alignment; expected more than 0 ns")


@plugin(
    name="timer_coalescing",
    summary="Timers with a tolerance move to common times, so fewer ticks have work.",
    release="ws2008r2",
    ledger=("P7",),
    workloads=(PeriodicTimers,),
    neutral={"alignments": []},
)
class TimerCoalescing:
    """A timer is moved to the next multiple of the largest alignment that fits its tolerance."""

    alignments: tuple[Duration, ...] = option(
        default=tuple(Duration(ms * MILLISECOND) for ms in (50, 100, 250, 1000)),
        help="Times whose multiples timers move to. Real time since boot, the same on all processors.",
        validator=_alignments,
    )
    encode_tolerance: Literal["log2", "exact"] = option(
        default="log2",
        help="How a timer keeps its tolerance from its second period on: a power of two of ms, or exactly.",
    )
    keeps: Literal["tick", "due"] = option(
        default="tick",
        help="What stays inside the tolerance: the tick at which a timer expires, or just when it is due, "
        "and then it may expire up to a tick later, as any timer does.",
    )

    @hookimpl
    def align_timer(self, timer: Timer, earliest: int, latest: int) -> int | None:
        tolerance = timer.tolerance
        if timer.expirations and self.encode_tolerance == "log2":
            tolerance = encoded(tolerance)
            latest = min(latest, timer.due + tolerance)
        for alignment in sorted(self.alignments, reverse=True):
            if alignment <= tolerance:
                time = self._common(timer, alignment, earliest)
                if time <= latest:
                    return time
        return None

    def _common(self, timer: Timer, alignment: int, earliest: int) -> int:
        """The first time from `earliest` on that timers of that alignment move to."""
        if self.keeps == "due":
            return -(-earliest // alignment) * alignment
        # They meet at the first tick from a multiple on, and that may be the tick after an earlier one.
        tick_from = timer.machine.timers.tick_from
        multiple = earliest // alignment * alignment
        tick = tick_from(multiple)
        return tick if tick >= earliest else tick_from(multiple + alignment)


def encoded(tolerance: int) -> int:
    """A tolerance as the timer object holds it: the largest power of two of ms in it, or 0."""
    milliseconds = tolerance // MILLISECOND
    return (1 << milliseconds.bit_length() - 1) * MILLISECOND if milliseconds else 0

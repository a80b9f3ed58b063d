"""Clock ticks go to processors that are awake (P8)."""

from ntlab_tick_distribution.plugin import TickDistribution
from ntlab_tick_distribution.workloads import Wakes

__all__ = ["TickDistribution", "Wakes"]

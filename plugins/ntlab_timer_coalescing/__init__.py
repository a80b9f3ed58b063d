"""Timers with a tolerance, which expire together (P7)."""

from ntlab_timer_coalescing.plugin import TimerCoalescing
from ntlab_timer_coalescing.workloads import PeriodicTimers

__all__ = ["PeriodicTimers", "TimerCoalescing"]

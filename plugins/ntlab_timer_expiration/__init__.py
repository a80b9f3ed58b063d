"""Timers that expire without the dispatcher lock (P1)."""

from ntlab_timer_expiration.plugin import TimerExpiration

__all__ = ["TimerExpiration"]

"""Read-ahead of Server 2008: twice as large, onto the standby list, and not cut at 64 KB."""

from ntlab_read_ahead.plugin import ReadAhead

__all__ = ["ReadAhead"]

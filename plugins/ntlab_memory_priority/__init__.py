"""Standby pages of low-priority work are given away first (M7)."""

from ntlab_memory_priority.plugin import MemoryPriority

__all__ = ["MemoryPriority"]

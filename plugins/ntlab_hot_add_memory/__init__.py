"""Memory that is added while the machine runs (D1)."""

from ntlab_hot_add_memory.plugin import HotAddMemory

__all__ = ["HotAddMemory"]

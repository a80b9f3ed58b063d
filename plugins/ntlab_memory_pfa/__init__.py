"""Pages that correct too many errors are used no more (E5)."""

from ntlab_memory_pfa.plugin import MemoryPfa

__all__ = ["MemoryPfa"]

"""Input and output that ends where it was asked for (N8)."""

from ntlab_numa_io.plugin import NumaIo

__all__ = ["NumaIo"]

"""The kernel's resident memory comes from the node where it is wanted (N2, N3)."""

from ntlab_numa_pool.plugin import NumaPool

__all__ = ["NumaPool"]

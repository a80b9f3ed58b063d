"""Memory from a thread's ideal node, and from the nearest one when that has none (N4, N5)."""

from ntlab_numa_home.plugin import NumaHome

__all__ = ["NumaHome"]

"""Programs say which node they prefer: for an allocation, a view, a file-mapping object (N7)."""

from ntlab_numa_apis.plugin import NumaApis

__all__ = ["NumaApis"]

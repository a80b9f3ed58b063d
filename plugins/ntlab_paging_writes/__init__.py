"""Paging-file writes of Server 2008: large, and together with their neighbours in the address space."""

from ntlab_paging_writes.plugin import PagingWrites

__all__ = ["PagingWrites"]

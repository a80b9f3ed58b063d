"""Processors that are added while the machine runs (D3)."""

from ntlab_hot_add_processor.plugin import HotAddProcessor

__all__ = ["HotAddProcessor"]

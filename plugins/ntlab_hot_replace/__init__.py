"""Failing memory and processors that are replaced while the machine runs (D2, D4, E5)."""

from ntlab_hot_replace.plugin import HotReplace

__all__ = ["HotReplace"]

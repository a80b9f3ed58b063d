"""The registry in pageable memory (K6)."""

from ntlab_pageable_registry.plugin import PageableRegistry

__all__ = ["PageableRegistry"]

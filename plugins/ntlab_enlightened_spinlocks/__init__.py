"""Spinlocks that know of the hypervisor (V3): a guest that spins long says so."""

from ntlab_enlightened_spinlocks.plugin import EnlightenedSpinlocks

__all__ = ["EnlightenedSpinlocks"]

"""Drivers, devices and services that start beside each other, new in Windows 7 and 2008 R2 (ledger K5)."""

from ntlab_parallel_boot.plugin import ParallelBoot

__all__ = ["ParallelBoot"]

"""Core parking in Windows Server 2008 R2 (P6). See README.md."""

from ntlab_core_parking.plugin import CoreParking

__all__ = ["CoreParking"]

"""Windows Hardware Error Architecture (ledger E1 to E4): one record format, and what survives a crash."""

from ntlab_whea.plugin import Whea

__all__ = ["Whea"]

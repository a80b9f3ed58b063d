"""An example of a vendor's PSHED plug-in (ledger E3)."""

from ntlab_vendor_pshed.plugin import VendorPshed

__all__ = ["VendorPshed"]

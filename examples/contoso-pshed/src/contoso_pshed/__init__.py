"""An example of a vendor's PSHED plug-in (ledger E3), with the hardware that it is for."""

from contoso_pshed.plugin import ContosoPshed

__all__ = ["ContosoPshed"]

"""Fair share scheduling between sessions (DFSS), new in Windows Server 2008 R2 (ledger P9)."""

from ntlab_fair_share.plugin import FairShare
from ntlab_fair_share.workloads import Sessions, water_filling

__all__ = ["FairShare", "Sessions", "water_filling"]

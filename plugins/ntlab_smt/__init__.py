"""Cores with several processors (hyper-threads), and schedulers that know of them or do not (ledger P4)."""

from ntlab_smt.plugin import Smt
from ntlab_smt.workloads import Bursts, Hogs, Pair, aware, blind

__all__ = ["Bursts", "Hogs", "Pair", "Smt", "aware", "blind"]

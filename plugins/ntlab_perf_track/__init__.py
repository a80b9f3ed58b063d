"""How long what users wait for takes, found in a trace and held against goals (ledger K8)."""

from ntlab_perf_track.plugin import PerfTrack
from ntlab_perf_track.scenarios import Scenario

__all__ = ["PerfTrack", "Scenario"]

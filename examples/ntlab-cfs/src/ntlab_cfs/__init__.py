"""An example of a scheduler that replaces the baseline's policy whole: a completely fair one."""

from ntlab_cfs.plugin import Cfs

__all__ = ["Cfs"]

"""The baseline: the policies of Windows Server 2003, the "before" of every comparison."""

from ntlab_ws2003.plugin import Ws2003

__all__ = ["Ws2003"]

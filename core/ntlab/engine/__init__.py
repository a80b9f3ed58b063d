"""Time: one queue of events in one total order, and named random streams. Imports nothing else of ntlab."""

from ntlab.engine.checked import CheckedEngine, GuardedEngine
from ntlab.engine.days import FOREVER, Event
from ntlab.engine.loop import INTERRUPT, NORMAL, REPORT, Engine, described
from ntlab.engine.streams import Streams, WatchedStreams

__all__ = [
    "FOREVER",
    "INTERRUPT",
    "NORMAL",
    "REPORT",
    "CheckedEngine",
    "Engine",
    "Event",
    "GuardedEngine",
    "Streams",
    "WatchedStreams",
    "described",
]

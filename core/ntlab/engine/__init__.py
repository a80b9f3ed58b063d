"""Time: one queue of events in one total order, and named random streams. Imports nothing else of ntlab."""

from ntlab.engine.loop import FOREVER, INTERRUPT, NORMAL, REPORT, Engine, Event
from ntlab.engine.streams import Streams

__all__ = ["FOREVER", "INTERRUPT", "NORMAL", "REPORT", "Engine", "Event", "Streams"]

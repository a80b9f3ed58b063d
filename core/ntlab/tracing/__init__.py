"""Records of what happened: event types named as Windows names them, a tracer, and its digest."""

from ntlab.tracing.records import EventType, Record, event_type
from ntlab.tracing.tracer import Tracer

__all__ = ["EventType", "Record", "Tracer", "event_type"]

"""Services that start and stop on events instead of polling, new in Server 2008 R2 (ledger P10)."""

from ntlab_service_triggers.plugin import ServiceTriggers
from ntlab_service_triggers.triggers import Trigger, qtriggerinfo

__all__ = ["ServiceTriggers", "Trigger", "qtriggerinfo"]

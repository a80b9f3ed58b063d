"""Processor groups: Windows Server 2008 R2 beyond 64 processors (ledger P5)."""

from ntlab_processor_groups.plugin import ProcessorGroups
from ntlab_processor_groups.workloads import Hogs

__all__ = ["Hogs", "ProcessorGroups"]

"""The events of WHEA: what the kernel's provider emits, and what reaches the System log."""

from __future__ import annotations

from typing import Final

from ntlab.tracing import event_type
from ntlab_whea.cper import Memory, Pcie, Record, Severity

KERNEL_WHEA: Final = "Microsoft-Windows-Kernel-WHEA"
WHEA_LOGGER: Final = "Microsoft-Windows-WHEA-Logger"

INITIALIZED = event_type(KERNEL_WHEA, "Initialized", "event_id era$ architecture$ sources")
ERROR_RECORD = event_type(
    KERNEL_WHEA, "ErrorRecord", "event_id level source record_id severity times length rawdata#"
)
PHASE = event_type(KERNEL_WHEA, "Phase", "source record_id phase$")
"""A step of a pipeline: see `ntlab_whea.reporting`."""
LOGGED = event_type(WHEA_LOGGER, "HardwareError", "event_id level previous_error rawdata#")

INITIALIZED_ID: Final = 5
ERROR, WARNING = 2, 3


def level_of(record: Record) -> int:
    """The level of an event about a record."""
    return WARNING if record.severity == Severity.CORRECTED else ERROR


def kernel_event_id(record: Record, era: str) -> int:
    """2008 tells corrected from uncorrected; 2008 R2 has one event for all records."""
    if era != "ws2008":
        return 20
    return 1 if record.severity == Severity.CORRECTED else 2


def logger_event_id(record: Record, machine_check: bool) -> int:
    """The event of the System log: by the primary section and by whether it was a machine check."""
    corrected = record.severity == Severity.CORRECTED
    primary = record.sections[0].body
    if isinstance(primary, Memory):
        return 46 + corrected
    if isinstance(primary, Pcie):
        return 16 + corrected
    if machine_check:
        return 18 + corrected
    return 1 + corrected

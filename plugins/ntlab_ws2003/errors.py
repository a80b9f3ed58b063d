"""How Windows Server 2003 meets a hardware error: it stops, and keeps a bank's number and its status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import ErrorSource, LatchedError, Machine
from ntlab.plugin import option

MACHINE_CHECK_EXCEPTION: Final = 0x9C
"""Parameters: the bank, 0 (an address of no use to a reader), the high and the low half of MCi_STATUS."""
NMI_HARDWARE_FAILURE: Final = 0x80
"""The first parameter says "ODT", the others nothing."""
UNCORRECTED: Final = ("recoverable", "fatal")


@attrs.define(slots=False, eq=False)
class HardwareErrorHandling:
    """Handlers of the machine check exception and of the non-maskable interrupt. Source: errors facts, 1.1
    and 1.4.

    There is no handler of corrected errors: what reached WMI on some platforms was kept by nobody.
    PCI Express devices have no error handler either: the platform turns their errors into interrupts.
    """

    architecture: Literal["x86", "x64", "ia64"] = option(
        default="x64", help="Which kernel is installed; decides which error sources the platform has."
    )

    @hookimpl(specname="architecture")
    def installed_kernel(self) -> str:
        return self.architecture

    @hookimpl
    def error_sources(self) -> Sequence[ErrorSource]:
        return (
            ErrorSource(
                id=0,
                type="machine check",
                signal="exception",
                kinds=("processor", "cache", "memory"),
                severities=UNCORRECTED,
            ),
            ErrorSource(id=1, type="NMI", signal="nmi", kinds=("pci", "pcie"), severities=UNCORRECTED),
        )

    @hookimpl
    def hardware_error(self, machine: Machine, latched: LatchedError) -> bool:
        if latched.source.signal == "nmi":
            machine.bug_check(NMI_HARDWARE_FAILURE, 0x4F4454)
        status = latched.status
        machine.bug_check(MACHINE_CHECK_EXCEPTION, latched.bank, 0, status >> 32, status & 0xFFFF_FFFF)

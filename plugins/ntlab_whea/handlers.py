"""Low-level hardware error handlers (LLHELs): they extract from a device what its registers tell (ledger E2).

The kernel and the HAL have those for processors, caches, memory and non-maskable interrupts, the PCI bus
driver has that for PCI Express. Where in the platform the thing is they do not know: PSHED is asked for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from ntlab.machine import LatchedError, Machine
from ntlab.machine.crashes import EPOCH, date_at
from ntlab.machine.hardware_errors import pci_address
from ntlab_whea import cper
from ntlab_whea.cper import MemoryErrorType, RawType
from ntlab_whea.pshed import Pshed

RawSection = tuple[UUID, bytes]

FILETIME_AT_EPOCH: Final = int((EPOCH.timestamp() + 11_644_473_600) * 10_000_000)


def filetime(time: int) -> int:
    """A simulated time (ns) in units of 100 ns since 1601."""
    return FILETIME_AT_EPOCH + time // 100


class ProcessorHandler:
    """The kernel's and HAL's handler of machine checks and of what else the platform signals.

    2008 R2 adds the machine-check registers to the record. Server 2008 has a section of its own for them,
    whose layout is not public: the section that UEFI defines for x86 and x64 stands for it.
    """

    def __init__(self, pshed: Pshed, era: str) -> None:
        self.pshed = pshed
        self.era = era

    def __call__(self, machine: Machine, latched: LatchedError) -> Sequence[RawSection]:
        kind = latched.error.component.kind
        if kind in ("processor", "cache"):
            bodies: list[cper.Body | cper.Raw] = [self._processor(machine, latched)]
        elif kind == "memory":
            bodies = [self._memory(latched)]
        else:
            # All that a non-maskable interrupt tells is in one port: the bus has signalled a system error.
            return [(RawType.NMI, bytes([0x80]).ljust(12, b"\0"))]
        if self.pshed.processor_type == 0:
            bodies.append(self._registers(machine, latched))
        return [(body.type, body.encode()) for body in bodies]

    def _processor(self, machine: Machine, latched: LatchedError) -> cper.Body:
        error = latched.error
        component = error.component
        corrected, overflow = error.severity == "corrected", latched.overflow > 0
        level = {"level": component.part[0]} if component.kind == "cache" else {}
        return cper.ProcessorGeneric.of(
            processor_type=self.pshed.processor_type,
            isa=self.pshed.isa,
            error_type=1 if component.kind == "cache" else 8,
            flags=error.contained | overflow << 2 | corrected << 3,
            processor_id=machine.tables.os_index[component.number],
            **level,
            **({"target_address": error.address} if error.address else {}),
        )

    def _memory(self, latched: LatchedError) -> cper.Body:
        error = latched.error
        correctable = error.severity == "corrected"
        return cper.Memory.of(
            error_status=4 << 8,
            physical_address=error.address,
            error_type=MemoryErrorType.SINGLE_BIT_ECC if correctable else MemoryErrorType.MULTI_BIT_ECC,
        )

    def _registers(self, machine: Machine, latched: LatchedError) -> cper.Body:
        processor = machine.hardware_errors.processor_of(latched.error.component)
        number = machine.tables.os_index[processor]
        if self.era == "ws2008":
            return cper.X86Processor.of(apic_id=number)
        return cper.MachineCheck(
            vendor=1,
            time=filetime(latched.time),
            processor=number,
            bank=latched.bank,
            status=latched.status,
            address=latched.error.address,
        )


_AER_BITS = {"corrected": 1 << 0, "recoverable": 1 << 14, "fatal": 1 << 4}
"""Receiver error; completion timeout; data link protocol error."""


def handle_pcie(machine: Machine, latched: LatchedError) -> Sequence[RawSection]:
    """The PCI bus driver's handler: it reads the capability for advanced error reporting."""
    error = latched.error
    segment, bus, device, function = pci_address(error.component.number)
    corrected, bit = error.severity == "corrected", _AER_BITS[error.severity]
    body = cper.Pcie.of(
        port_type=0,
        version=0x0101,
        device=cper.PcieDevice(segment=segment, bus=bus, device=device, function=function),
        aer=cper.Aer(
            correctable_status=bit if corrected else 0, uncorrectable_status=0 if corrected else bit
        ),
    )
    return [(body.type, body.encode())]


def timestamp(time: int, era: str) -> cper.Timestamp:
    """The time of a record."""
    return cper.Timestamp.of(date_at(time), precise=era != "ws2008")

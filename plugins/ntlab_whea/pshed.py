"""The platform-specific hardware error driver (PSHED): one for each architecture (ledger E3).

It finds the sources that every platform of its architecture has, knows where in the platform an error was,
and keeps error records in the platform's memory. All of that is what a vendor's plug-in can override.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from attrs import frozen

from ntlab.formats.wire import U8, U16, U32, U64, FormatError, pack, unpack
from ntlab.machine import ErrorSource, LatchedError, Machine
from ntlab.machine.hardware_errors import Kind, Severity, Signal, device_at, pci_address
from ntlab_whea.cper import Notify, RawType

SOURCE_TYPES: Final = {
    "MCE": 0, "CMC": 1, "CPE": 2, "NMI": 3, "PCIe": 4, "generic": 5, "INIT": 6, "BOOT": 7, "SCI generic": 8,
    "IPF MCA": 9, "IPF CMC": 10, "IPF CPE": 11,
}  # fmt: skip
"""The types of error sources, as bug check 0x124 numbers them (driver kit 6.0.6001)."""

NOTIFY: Final[dict[str, UUID]] = {
    "MCE": Notify.MCE,
    "CMC": Notify.CMC,
    "CPE": Notify.CPE,
    "NMI": Notify.NMI,
    "PCIe": Notify.PCIE,
    "INIT": Notify.INIT,
    "BOOT": Notify.BOOT,
    "IPF MCA": Notify.MCE,
    "IPF CMC": Notify.CMC,
    "IPF CPE": Notify.CPE,
}
"""How each type of source notifies; the others are generic."""

_UNCORRECTED: tuple[Severity, ...] = ("recoverable", "fatal")
_CORRECTED: tuple[Severity, ...] = ("corrected",)
_PROCESSOR: tuple[Kind, ...] = ("processor", "cache")
_INNER: tuple[Kind, ...] = ("processor", "cache", "memory")

FIRST_BUS_SOURCE: Final = 16
"""The id of the first source that the PCI bus driver reports; the number of its device is added."""


@frozen
class PciComponent:
    """The first part of a PCI component error section (UEFI 2.1, appendix N), 40 bytes."""

    valid: U64 = 0b111  # error status, identification; and the numbers of memory and I/O ranges, which are 0
    error_status: U64 = 0
    vendor: U16 = 0
    device_id: U16 = 0
    class_low: U16 = 0
    class_high: U8 = 0
    function: U8 = 0
    device: U8 = 0
    bus: U8 = 0
    segment: U8 = 0
    reserved: U8 = 0
    reserved_too: U32 = 0
    memory_ranges: U32 = 0
    io_ranges: U32 = 0


def pci_section(device: int) -> tuple[UUID, bytes]:
    """The section that says which conventional PCI device it was."""
    segment, bus, number, function = pci_address(device)
    status = 16 << 8  # a bus error
    component = PciComponent(error_status=status, segment=segment, bus=bus, device=number, function=function)
    return RawType.PCI_DEVICE, pack(component, FormatError)


def pci_device(section: bytes) -> int | None:
    """The device that a section names, the inverse of `pci_section`. Raises FormatError."""
    found = unpack(PciComponent, section, 0, FormatError)
    return device_at(found.segment, found.bus, found.device, found.function)


@frozen
class Pshed:
    """What one architecture's PSHED knows: `store` is the name of its persistent store, `sources` the least
    it finds, `processor_type` and `isa` how records name its processors."""

    architecture: str
    store: str
    sources: tuple[ErrorSource, ...]
    processor_type: int
    isa: int

    def find(self, machine: Machine) -> tuple[ErrorSource, ...]:
        """The sources of this machine: PSHED's own, and those that the PCI bus driver reports."""
        ports = tuple(
            ErrorSource(
                id=FIRST_BUS_SOURCE + device,
                type="PCIe",
                signal="interrupt",
                kinds=("pcie",),
                device=device,
            )
            for device in range(len(machine.tables.devices))
        )
        return self.sources + ports

    def retrieve(self, latched: LatchedError) -> Mapping[str, Any]:
        """Where in the platform an error was, from the chipset's registers."""
        component = latched.error.component
        if component.kind == "memory":
            card, module = component.part
            return {"node": component.number, "card": card, "module": module}
        if component.kind == "pci":
            return {"sections": [pci_section(component.number)]}
        return {}


def _source(
    identity: int, type_: str, signal: Signal, kinds: tuple[Kind, ...], severities: tuple[Severity, ...]
) -> ErrorSource:
    return ErrorSource(id=identity, type=type_, signal=signal, kinds=kinds, severities=severities)


_PC = (
    _source(0, "MCE", "exception", _INNER, _UNCORRECTED),
    _source(1, "CMC", "interrupt", _INNER, _CORRECTED),
    _source(2, "NMI", "nmi", ("pci",), _UNCORRECTED),
    ErrorSource(id=3, type="BOOT", signal="boot"),
)
_ITANIUM = (
    _source(0, "IPF MCA", "exception", (*_INNER, "pci"), _UNCORRECTED),
    # No interrupt exists for these: Windows looks once a minute (errors facts, 1.7).
    _source(1, "IPF CMC", "polled", _PROCESSOR, _CORRECTED),
    _source(2, "IPF CPE", "polled", ("memory", "pci"), _CORRECTED),
    # Somebody has pressed the button; no component of the machine does.
    _source(3, "INIT", "nmi", (), ()),
)

PSHEDS: Final = {
    "x86": Pshed("x86", "ERST", _PC, processor_type=0, isa=0),
    "x64": Pshed("x64", "ERST", _PC, processor_type=0, isa=2),
    "ia64": Pshed("ia64", "EFI variables", _ITANIUM, processor_type=1, isa=1),
}
"""By the architecture of the kernel."""

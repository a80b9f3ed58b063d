"""UEFI common platform error records (CPER): the one format in which WHEA keeps, logs and dumps errors.

`encode` makes the bytes of a `Record`, `decode` reads them. They are exact inverses: whatever `decode`
accepts, `encode` gives back byte for byte. `decode` is strict: anything else is a `CperError` that says what
is wrong at which byte.

A record is a 128-byte header, a 72-byte descriptor for each section, and the sections, in order and without
gaps, as Windows writes them. A section of a type that is not known here is kept as `Raw`. Bytes after a known
structure are kept as the section's `tail`: firmware pads, and later revisions append.

Server 2008 writes `REVISION_2008`, 2008 R2 `REVISION_2008R2`. The former's driver kit contradicts itself on
the order of the header's validity bits; UEFI's order is used for both. Windows writes the numbers of a
timestamp in binary, not in BCD as UEFI asks and firmware does: see `Timestamp`.

Sources: ledger E1 and E4; UEFI 2.1 and 2.3, appendix N; the headers of the driver kits 6.0.6001 and 6.1.7600.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum, IntFlag
from typing import Annotated, Any, ClassVar, Final, Self
from uuid import UUID

from attrs import evolve, frozen

from ntlab.formats.wire import NO_GUID, U8, U16, U32, U64, FormatError, Guid, layout, pack, peek, size, unpack

REVISION_2008: Final = 0x0201
REVISION_2008R2: Final = 0x0210

WINDOWS: Final = UUID("cf07c4bd-b789-4e18-b3c4-1f732cb57131")
"""Creator of the records that Windows makes."""


class CperError(FormatError):
    """A malformed record, or a `Record` that cannot be encoded."""

    subject = "error record"


class Severity(IntEnum):
    RECOVERABLE = 0
    FATAL = 1
    CORRECTED = 2
    INFORMATIONAL = 3  # "none" in Server 2008


class Present(IntFlag):
    """The optional fields of the header."""

    NONE = 0
    PLATFORM_ID = 1
    TIMESTAMP = 2
    PARTITION_ID = 4


class RecordFlag(IntFlag):
    NONE = 0
    RECOVERED = 1
    PREVIOUS_ERROR = 2  # of an earlier boot, found in the persistent store
    SIMULATED = 4


class SectionPresent(IntFlag):
    """The optional fields of a section descriptor."""

    NONE = 0
    FRU_ID = 1
    FRU_TEXT = 2


class SectionFlag(IntFlag):
    NONE = 0
    PRIMARY = 1
    CONTAINMENT_WARNING = 2
    RESET = 4
    THRESHOLD_EXCEEDED = 8
    RESOURCE_NOT_ACCESSIBLE = 0x10
    LATENT_ERROR = 0x20
    PROPAGATED = 0x40
    OVERFLOW = 0x80


class Notify:
    """How the platform told the system of the error: `Record.notify`."""

    CMC: Final = UUID("2dce8bb1-bdd7-450e-b9ad-9cf4ebd4f890")
    CPE: Final = UUID("4e292f96-d843-4a55-a8c2-d481f27ebeee")
    MCE: Final = UUID("e8f56ffe-919c-4cc5-ba88-65abe14913bb")
    PCIE: Final = UUID("cf93c01f-1a16-4dfc-b8bc-9c4daf67c104")
    INIT: Final = UUID("cc5263e8-9308-454a-89d0-340bd39bc98e")
    NMI: Final = UUID("5bad89ff-b7e6-42c9-814a-cf2485d6e98a")
    BOOT: Final = UUID("3d61a466-ab40-409a-a698-f362d464b38f")
    GENERIC: Final = UUID("3e62a467-ab40-409a-a698-f362d464b38f")


class RawType:
    """Section types whose bytes this module keeps without reading them."""

    ITANIUM: Final = UUID("e429faf1-3cb7-11d4-bca7-0080c73c8881")
    PCIX_BUS: Final = UUID("c5753963-3b84-4095-bf78-eddad3f9c9dd")
    PCI_DEVICE: Final = UUID("eb5e4685-ca66-4769-b6a2-26068b001326")
    FIRMWARE_REFERENCE: Final = UUID("81212a96-09ed-4996-9471-8d729c8e69ed")
    X64_2008: Final = UUID("390f56d5-ca86-4649-95c4-73a408ae5834")
    CACHE_2008: Final = UUID("59a0a229-9399-4140-85b3-06d48a9e0060")
    NMI: Final = UUID("e71254e7-c1b9-4940-ab76-909703a4320f")
    GENERIC: Final = UUID("e71254e8-c1b9-4940-ab76-909703a4320f")
    ERROR_PACKET: Final = UUID("e71254e9-c1b9-4940-ab76-909703a4320f")


@frozen
class Timestamp:
    """A moment, UTC. Windows writes each number in binary, UEFI-conformant firmware in BCD."""

    second: U8 = 0
    minute: U8 = 0
    hour: U8 = 0
    precise: U8 = 0
    """1: the moment of the error, not of its report (2008 R2; reserved before)."""
    day: U8 = 0
    month: U8 = 0
    year: U8 = 0
    century: U8 = 0

    @classmethod
    def of(cls, moment: datetime, *, bcd: bool = False, precise: bool = False) -> Timestamp:
        century, year = divmod(moment.year, 100)
        date = [moment.day, moment.month, year, century]
        numbers = [moment.second, moment.minute, moment.hour, precise, *date]
        if bcd:
            numbers = [number // 10 * 16 + number % 10 for number in numbers]
        return cls(*numbers)

    def moment(self, *, bcd: bool = False) -> datetime:
        """Raises CperError where the bytes are no date."""
        numbers = [self.century, self.year, self.month, self.day, self.hour, self.minute, self.second]
        try:
            if bcd:
                numbers = [int(f"{number:x}") for number in numbers]
            century, year, *rest = numbers
            return datetime(century * 100 + year, *rest, tzinfo=UTC)  # type: ignore[misc, arg-type]
        except ValueError:
            raise CperError(f"{self} is no date", expected="BCD" if bcd else "binary numbers") from None


class Checked:
    """A structure with a word `valid`, whose bits say which of the fields after it are filled in."""

    __slots__ = ()
    valid: U64

    @classmethod
    def validity(cls) -> tuple[str, ...]:
        """The field that each bit speaks of, from bit 0."""
        names = [field.name for field in layout(cls)]
        return tuple(name for name in names[names.index("valid") + 1 :] if name != "reserved")

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """An instance in which the fields given, and no others, are marked as filled in."""
        make: Any = cls
        made: Self = make(
            valid=sum(1 << bit for bit, name in enumerate(cls.validity()) if name in fields), **fields
        )
        return made

    def known(self) -> dict[str, Any]:
        """The fields that are marked as filled in."""
        return {
            name: getattr(self, name) for bit, name in enumerate(self.validity()) if self.valid >> bit & 1
        }


class Body:
    """The contents of a section of a known type."""

    __slots__ = ()
    type: ClassVar[UUID]

    def encode(self) -> bytes:
        return pack(self, CperError)

    @classmethod
    def decode(cls, data: bytes, at: int) -> Self:
        """The body at byte `at`; the section ends where `data` does."""
        return unpack(cls, data, at, CperError)


@frozen
class ProcessorGeneric(Checked, Body):
    """A processor error in terms that fit every architecture, 192 bytes."""

    type: ClassVar[UUID] = UUID("9876ccad-47b4-4bdb-b65e-16f193c4f3db")
    valid: U64 = 0
    processor_type: U8 = 0  # 0 x86 and x64, 1 Itanium
    isa: U8 = 0  # 0 x86, 1 Itanium, 2 x64
    error_type: U8 = 0  # 1 cache, 2 TLB, 4 bus, 8 micro-architecture
    operation: U8 = 0  # 0 generic, 1 data read, 2 data write, 3 instruction fetch
    flags: U8 = 0  # 1 restartable, 2 precise IP, 4 overflow, 8 corrected
    level: U8 = 0
    reserved: U16 = 0
    version: U64 = 0
    brand: Annotated[str, 128] = ""
    processor_id: U64 = 0
    target_address: U64 = 0
    requester_id: U64 = 0
    responder_id: U64 = 0
    instruction_pointer: U64 = 0


CACHE_CHECK: Final = UUID("a55701f5-e3ef-43de-ac72-249b573fad2c")
TLB_CHECK: Final = UUID("fc06b535-5e1f-4562-9f25-0a3b9adb63c3")
BUS_CHECK: Final = UUID("1cf3f8b3-c5b1-49a2-aa59-5eef92ffa63c")
MICROARCHITECTURE_CHECK: Final = UUID("48ab7f57-dc34-4f6c-a7d3-b0b5b0a74314")

_OUTCOME = {"context_corrupt": 1, "uncorrected": 1, "precise_ip": 1, "restartable_ip": 1, "overflow": 1}
_CACHE = {"transaction": 2, "operation": 4, "level": 3, **_OUTCOME}
CHECK_FIELDS: Final = {
    CACHE_CHECK: _CACHE,
    TLB_CHECK: _CACHE,
    BUS_CHECK: {**_CACHE, "participation": 2, "timeout": 1, "address_space": 2},
    MICROARCHITECTURE_CHECK: {"error_type": 3, **_OUTCOME},
}
"""The fields of a check word and their widths, from bit 16 up; bit i says that the i-th field is valid."""


def pack_check(kind: UUID, **fields: int) -> int:
    """The check word of a `ProcessorError`, in which the fields given (see `CHECK_FIELDS`) are valid."""
    word, shift = 0, 16
    for index, (name, bits) in enumerate(CHECK_FIELDS[kind].items()):
        value = fields.pop(name, None)
        if value is not None:
            if not 0 <= value < 1 << bits:
                raise CperError(f"check field {name} is {value}", expected=f"0..{(1 << bits) - 1}")
            word |= 1 << index | value << shift
        shift += bits
    if fields:
        raise CperError(f"unknown check field {min(fields)}", expected=", ".join(CHECK_FIELDS[kind]))
    return word


def unpack_check(kind: UUID, word: int) -> dict[str, int]:
    """The valid fields of a check word; none of a kind that is not in `CHECK_FIELDS`."""
    found, shift = {}, 16
    for index, (name, bits) in enumerate(CHECK_FIELDS.get(kind, {}).items()):
        if word >> index & 1:
            found[name] = word >> shift & (1 << bits) - 1
        shift += bits
    return found


@frozen
class ProcessorError(Checked):
    """One error of an `X86Processor` section, 64 bytes."""

    kind: Guid = NO_GUID  # CACHE_CHECK and so on
    valid: U64 = 0
    check: U64 = 0  # see pack_check
    target_id: U64 = 0
    requester_id: U64 = 0
    responder_id: U64 = 0
    instruction_pointer: U64 = 0


@frozen
class ProcessorContext:
    """Registers saved with an `X86Processor` section: 16 bytes, then the registers as they are."""

    kind: U16 = 0  # 1 MSRs, 2 32-bit, 3 64-bit, 4 FXSAVE, 5 and 6 debug registers, 7 memory-mapped
    length: ClassVar[U16]
    msr: U32 = 0
    address: U64 = 0
    registers: bytes = b""


@frozen
class X86Processor(Checked, Body):
    """An x86 or x64 processor error: 64 bytes, then the errors, then the contexts; at most 63 of each."""

    type: ClassVar[UUID] = UUID("dc3ea0b0-a144-4797-b95b-53fa242b6e1d")
    valid: U64 = 0  # on the wire also the two counts: 6 bits each, from bits 2 and 8
    apic_id: U64 = 0
    cpuid: Annotated[bytes, 48] = bytes(48)
    errors: tuple[ProcessorError, ...] = ()
    contexts: tuple[ProcessorContext, ...] = ()

    def encode(self) -> bytes:
        if len(self.errors) > 63 or len(self.contexts) > 63 or self.valid & 0x3FFC:
            raise CperError(
                f"{len(self.errors)} errors, {len(self.contexts)} contexts, validity {self.valid:#x}",
                expected="at most 63 of each and validity bits 2..13 clear, for they hold the counts",
            )
        parts = [pack(self, CperError, valid=self.valid | len(self.errors) << 2 | len(self.contexts) << 8)]
        parts += [pack(error, CperError) for error in self.errors]
        for context in self.contexts:
            parts += [pack(context, CperError, length=len(context.registers)), context.registers]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes, at: int) -> Self:
        head = unpack(cls, data, at, CperError)
        at += size(cls)
        errors = []
        for _ in range(head.valid >> 2 & 63):
            errors.append(unpack(ProcessorError, data, at, CperError))
            at += size(ProcessorError)
        contexts = []
        for _ in range(head.valid >> 8 & 63):
            context = unpack(ProcessorContext, data, at, CperError)
            length, where = peek(ProcessorContext, "length", data, at)
            at += size(ProcessorContext)
            if at + length > len(data):
                raise CperError(
                    f"a context of {length} bytes passes the end of its section",
                    at=where,
                    expected=f"at most {len(data) - at}",
                )
            contexts.append(evolve(context, registers=data[at : at + length]))
            at += length
        return evolve(head, valid=head.valid & ~0x3FFC, errors=tuple(errors), contexts=tuple(contexts))


@frozen
class MachineCheck(Body):
    """The registers of a machine check on x86 or x64 as 2008 R2 adds them to the record, 264 bytes."""

    type: ClassVar[UUID] = UUID("8a1e1d01-42f9-4557-9c33-565e5cc3f7e8")
    version: U32 = 1
    vendor: U32 = 0  # 1 Intel, 2 AMD
    time: U64 = 0  # in units of 100 ns since 1601
    processor: U32 = 0
    global_status: U64 = 0  # MCG_STATUS
    instruction_pointer: U64 = 0
    bank: U32 = 0
    status: U64 = 0  # MCi_STATUS
    address: U64 = 0  # MCi_ADDR
    misc: U64 = 0  # MCi_MISC
    extended_count: U32 = 0
    reserved: U32 = 0
    extended: Annotated[bytes, 24 * 8] = bytes(24 * 8)


class MemoryErrorType(IntEnum):
    UNKNOWN = 0
    NO_ERROR = 1
    SINGLE_BIT_ECC = 2
    MULTI_BIT_ECC = 3
    SINGLE_SYMBOL_CHIPKILL = 4
    MULTI_SYMBOL_CHIPKILL = 5
    MASTER_ABORT = 6
    TARGET_ABORT = 7
    PARITY = 8
    WATCHDOG_TIMEOUT = 9
    INVALID_ADDRESS = 10
    MIRROR_BROKEN = 11
    SPARING = 12


@frozen
class Memory(Checked, Body):
    """A memory error, 73 bytes: UEFI 2.1, as Server 2008 and 2008 R2 write it."""

    type: ClassVar[UUID] = UUID("a5bc1114-6f64-4ede-b863-3e83ed7c83b1")
    valid: U64 = 0
    error_status: U64 = 0  # bits 8..15: 4 memory, 5 TLB, 6 cache, 16 bus
    physical_address: U64 = 0
    physical_address_mask: U64 = 0
    node: U16 = 0
    card: U16 = 0
    module: U16 = 0
    bank: U16 = 0
    device: U16 = 0
    row: U16 = 0
    column: U16 = 0
    bit_position: U16 = 0
    requester_id: U64 = 0
    responder_id: U64 = 0
    target_id: U64 = 0
    error_type: U8 = 0  # a MemoryErrorType


@frozen
class Memory80(Memory):
    """A memory error with the fields that UEFI 2.3 appended, 80 bytes."""

    extended: U8 = 0
    rank: U16 = 0
    card_handle: U16 = 0
    module_handle: U16 = 0

    @classmethod
    def validity(cls) -> tuple[str, ...]:
        return (*Memory.validity(), "rank", "card_handle", "module_handle", "extended")


@frozen
class PcieDevice:
    """Where a PCI Express device is and what it is, 16 bytes."""

    vendor: U16 = 0
    device_id: U16 = 0
    class_code: Annotated[int, 3] = 0
    function: U8 = 0
    device: U8 = 0
    segment: U16 = 0
    bus: U8 = 0
    secondary_bus: U8 = 0
    slot: U16 = 0  # the slot number shifted left by 3
    reserved: U8 = 0


@frozen
class Aer:
    """The registers of the advanced error reporting capability, 96 bytes."""

    header: U32 = 0
    uncorrectable_status: U32 = 0
    uncorrectable_mask: U32 = 0
    uncorrectable_severity: U32 = 0
    correctable_status: U32 = 0
    correctable_mask: U32 = 0
    control: U32 = 0
    header_log: Annotated[bytes, 16] = bytes(16)
    root_command: U32 = 0
    root_status: U32 = 0
    correctable_source: U16 = 0
    uncorrectable_source: U16 = 0
    rest: Annotated[bytes, 40] = bytes(40)


@frozen
class Pcie(Checked, Body):
    """A PCI Express error, 208 bytes."""

    type: ClassVar[UUID] = UUID("d995e954-bbc1-430f-ad91-b44dcb3c6f35")
    valid: U64 = 0
    port_type: U32 = 0  # 0 endpoint, 4 root port, 5 upstream and 6 downstream switch port
    version: U32 = 0  # BCD, 0x0200 for 2.0
    command_status: U32 = 0  # the status register in the high half
    reserved: U32 = 0
    device: PcieDevice = PcieDevice()
    serial: U64 = 0
    bridge: U32 = 0  # the control register in the high half
    capability: Annotated[bytes, 60] = bytes(60)
    aer: Aer = Aer()


@frozen
class Raw:
    """The contents of a section that is kept as it is."""

    type: UUID
    data: bytes = b""

    def encode(self) -> bytes:
        return self.data


_BODIES: Final[dict[UUID, tuple[type[Body], ...]]] = {
    ProcessorGeneric.type: (ProcessorGeneric,),
    X86Processor.type: (X86Processor,),
    MachineCheck.type: (MachineCheck,),
    Memory.type: (Memory, Memory80),
    Pcie.type: (Pcie,),
}
"""What a section of each known type may hold, shortest first."""


@frozen(kw_only=True)
class Section:
    """A section with its descriptor."""

    body: Body | Raw
    offset: ClassVar[U32]
    length: ClassVar[U32]
    revision: U16 = REVISION_2008
    valid: Annotated[SectionPresent, 1] = SectionPresent.NONE
    reserved: U8 = 0
    flags: Annotated[SectionFlag, 4] = SectionFlag.NONE
    type: ClassVar[Guid]
    fru_id: Guid = NO_GUID
    severity: Annotated[Severity, 4]
    fru_text: Annotated[str, 20] = ""
    tail: bytes = b""
    """Bytes after the body."""


@frozen(kw_only=True)
class Record:
    """One error, as one or more sections."""

    signature: ClassVar[Annotated[bytes, 4]] = b"CPER"
    revision: U16 = REVISION_2008R2
    end: ClassVar[Annotated[bytes, 4]] = b"\xff\xff\xff\xff"
    count: ClassVar[U16]
    severity: Annotated[Severity, 4]
    valid: Annotated[Present, 4] = Present.NONE
    length: ClassVar[U32]
    timestamp: Timestamp = Timestamp()
    platform_id: Guid = NO_GUID
    partition_id: Guid = NO_GUID
    creator_id: Guid = WINDOWS
    notify: Guid = NO_GUID
    record_id: U64 = 0
    flags: Annotated[RecordFlag, 4] = RecordFlag.NONE
    persistence: U64 = 0
    reserved: Annotated[bytes, 12] = bytes(12)
    sections: tuple[Section, ...] = ()


def read_body(kind: UUID, data: bytes, at: int = 0) -> tuple[Body | Raw, bytes]:
    """The body and the tail of the section of type `kind` from byte `at` to the end of the data.

    Raises CperError.
    """
    if kind not in _BODIES:
        return Raw(kind, data[at:]), b""
    shortest, *longer = _BODIES[kind]
    fitting = [cls for cls in longer if size(cls) <= len(data) - at]
    body = (fitting[-1] if fitting else shortest).decode(data, at)
    return body, data[at + len(body.encode()) :]


def encode(record: Record) -> bytes:
    """The bytes of a record. Raises CperError for one that `decode` would not give back equal."""
    count = len(record.sections)
    if not 1 <= count <= 0xFFFF:
        raise CperError(f"the record has {count} sections", expected="1..65535")
    end = size(Record) + count * size(Section)
    descriptors, contents = [], []
    for index, section in enumerate(record.sections):
        content = section.body.encode() + section.tail
        kind = section.body.type
        if not content or read_body(kind, content, 0) != (section.body, section.tail):
            raise CperError(
                f"section {index}, {type(section.body).__name__} with a tail of {len(section.tail)} bytes",
                expected="bytes that read back so: no Raw of a known type, no tail that makes a longer body",
            )
        descriptors.append(pack(section, CperError, offset=end, length=len(content), type=kind))
        contents.append(content)
        end += len(content)
    return b"".join([pack(record, CperError, count=count, length=end), *descriptors, *contents])


def decode_first(data: bytes) -> Record:
    """The record at the start of `data`, whatever follows it. Raises CperError."""
    unpack(Record, data, 0, CperError)
    length, _ = peek(Record, "length", data, 0)
    return decode(data[:length])


def decode(data: bytes) -> Record:
    """The record that `data` holds, from its first byte to its last. Raises CperError."""
    record = unpack(Record, data, 0, CperError)
    length, at = peek(Record, "length", data, 0)
    if length != len(data):
        raise CperError(
            f"the record says that it has {length} bytes", at=at, expected=f"the {len(data)} there are"
        )
    count, at = peek(Record, "count", data, 0)
    end = size(Record) + count * size(Section)
    if count == 0 or end > length:
        raise CperError(
            f"the record has {count} sections", at=at, expected="at least 1, with a descriptor for each"
        )
    sections = []
    for index in range(count):
        descriptor = size(Record) + index * size(Section)
        offset, at = peek(Section, "offset", data, descriptor)
        if offset != end:
            raise CperError(
                f"section {index} begins at byte {offset}",
                at=at,
                expected=f"{end}, right after what precedes it",
            )
        content, at = peek(Section, "length", data, descriptor)
        if not 1 <= content <= length - offset:
            raise CperError(f"section {index} has {content} bytes", at=at, expected=f"1..{length - offset}")
        end += content
        kind, _ = peek(Section, "type", data, descriptor)
        body, tail = read_body(kind, data[:end], offset)
        sections.append(unpack(Section, data, descriptor, CperError, body=body, tail=tail))
    if end != length:
        raise CperError(
            f"{length - end} bytes belong to no section", at=end, expected="the end of the record"
        )
    return evolve(record, sections=tuple(sections))

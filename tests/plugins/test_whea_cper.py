"""CPER records: exact inverses, strict reading, agreement with a decoder that others wrote (PyPI `cper`)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Flag
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import UserError
from ntlab.formats import wire
from ntlab_whea.cper import (
    BUS_CHECK,
    CACHE_CHECK,
    CHECK_FIELDS,
    MICROARCHITECTURE_CHECK,
    TLB_CHECK,
    WINDOWS,
    Body,
    Checked,
    CperError,
    MachineCheck,
    Memory,
    Memory80,
    Notify,
    Pcie,
    PcieDevice,
    Present,
    ProcessorContext,
    ProcessorError,
    ProcessorGeneric,
    Raw,
    RawType,
    Record,
    RecordFlag,
    Section,
    SectionFlag,
    SectionPresent,
    Severity,
    Timestamp,
    X86Processor,
    decode,
    encode,
    pack_check,
    unpack_check,
)

REAL = Path(__file__).parents[3] / "shared/data/cper"
LARGEST = (1 << 63) - 1
"""The independent decoder clips greater numbers to this one."""


# Records of every shape


def values(field: wire.Field, text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    if attrs.has(field.kind):
        return structures(field.kind, text)
    if field.kind is UUID:
        return st.uuids()
    if field.kind is bytes:
        return st.binary(min_size=field.size, max_size=field.size)
    if field.kind is str:
        return text.map(lambda value: value[: field.size].rstrip("\0"))
    if field.kind is Severity:
        return st.sampled_from(Severity)
    numbers = st.integers(0, (1 << 8 * field.size) - 1)
    return numbers.map(field.kind) if issubclass(field.kind, Flag) else numbers


def structures(
    cls: type[Any], text: st.SearchStrategy[str], **rest: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    return st.builds(
        cls, **{field.name: values(field, text) for field in wire.layout(cls) if field.is_data}, **rest
    )


def records(text: st.SearchStrategy[str]) -> st.SearchStrategy[Record]:
    contexts = structures(ProcessorContext, text, registers=st.binary(max_size=20))
    x86 = structures(
        X86Processor,
        text,
        errors=st.lists(structures(ProcessorError, text), max_size=3).map(tuple),
        contexts=st.lists(contexts, max_size=3).map(tuple),
    ).map(lambda body: attrs.evolve(body, valid=body.valid & ~0x3FFC))
    fixed = [structures(cls, text) for cls in (ProcessorGeneric, MachineCheck, Memory, Memory80, Pcie)]
    raw = st.builds(Raw, st.uuids(), st.binary(min_size=1, max_size=30))
    sections = st.one_of(
        structures(Section, text, body=st.one_of(x86, *fixed), tail=st.binary(max_size=6)),
        st.builds(Section, body=raw, severity=st.sampled_from(Severity)),
    )
    return structures(Record, text, sections=st.lists(sections, min_size=1, max_size=4).map(tuple))


any_text = st.text(st.characters(max_codepoint=255), max_size=130)
plain_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=130)


def small_record() -> Record:
    memory = Memory.of(physical_address=0x1234_5000, node=1, card=2, module=3, error_type=2)
    return Record(
        severity=Severity.CORRECTED,
        notify=Notify.CMC,
        valid=Present.TIMESTAMP,
        timestamp=Timestamp.of(datetime(2009, 10, 22, 13, 59, 7, tzinfo=UTC)),
        sections=(
            Section(body=memory, severity=Severity.CORRECTED, flags=SectionFlag.PRIMARY),
            Section(body=Raw(UUID(int=7), b"abc"), severity=Severity.INFORMATIONAL),
        ),
    )


# The codec


def test_structures_have_the_sizes_of_the_specification() -> None:
    sizes = {
        Record: 128,
        Section: 72,
        ProcessorGeneric: 192,
        X86Processor: 64,
        ProcessorError: 64,
        ProcessorContext: 16,
        MachineCheck: 264,
        Memory: 73,
        Memory80: 80,
        Pcie: 208,
    }
    assert {cls: wire.size(cls) for cls in sizes} == sizes


@given(records(any_text))
def test_decode_gives_back_what_was_encoded(record: Record) -> None:
    assert decode(encode(record)) == record


@given(records(any_text), st.data())
def test_a_damaged_record_is_refused_or_reads_exactly(record: Record, data: st.DataObject) -> None:
    whole = bytearray(encode(record))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        whole[data.draw(st.integers(0, min(len(whole), 300) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        record = decode(bytes(whole))
    except CperError as refusal:
        at = refusal.at
    else:
        assert encode(record) == whole
        at = 0
    assert at is not None
    assert 0 <= at <= len(whole)


@pytest.mark.parametrize(
    ("at", "patch", "message"),
    [
        (0, b"X", "byte 0: Record.signature is b'XPER'; expected b'CPER'"),
        (6, b"\0", r"byte 6: Record.end is b'\x00\xff\xff\xff'; expected b'\xff\xff\xff\xff'"),
        (10, b"\0\0", "byte 10: the record has 0 sections"),
        (10, b"\xff\xff", "byte 10: the record has 65535 sections"),
        (12, b"\4", "byte 12: Record.severity is 4; expected 0 (recoverable), 1 (fatal)"),
        (20, b"\0\1", "byte 20: the record says that it has 256 bytes; expected the 348 there are"),
        (128, b"\0\0", "byte 128: section 0 begins at byte 0; expected 272"),
        (132, b"\x40", "byte 272: Memory is cut off at byte 336; expected 73 bytes"),
        (132, b"\x4a", "byte 200: section 1 begins at byte 345; expected 346"),
        (176, b"\5", "byte 176: Section.severity is 5"),
        (200, b"\x5a", "byte 200: section 1 begins at byte 346; expected 345"),
        (200, b"\x58", "byte 200: section 1 begins at byte 344; expected 345"),
        (204, b"\4", "byte 204: section 1 has 4 bytes; expected 1..3"),
        (204, b"\0", "byte 204: section 1 has 0 bytes; expected 1..3"),
        (204, b"\2", "byte 347: 1 bytes belong to no section"),
    ],
)
def test_malformed_records_are_refused_with_the_byte(at: int, patch: bytes, message: str) -> None:
    good = encode(small_record())
    with pytest.raises(CperError) as caught:
        decode(good[:at] + patch + good[at + len(patch) :])
    assert f"error record, {message}" in str(caught.value)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("length", [0, 4, 127, 128, 199, 347])
def test_truncated_records_are_refused(length: int) -> None:
    with pytest.raises(CperError):
        decode(encode(small_record())[:length])


def test_a_context_that_passes_its_section_is_refused() -> None:
    body = X86Processor(contexts=(ProcessorContext(registers=bytes(8)),))
    data = bytearray(encode(attrs.evolve(small_record(), sections=(section(body),))))
    data[200 + 64 + 2] = 9
    with pytest.raises(CperError, match="byte 266: a context of 9 bytes"):
        decode(bytes(data))


def section(body: Body | Raw, **fields: Any) -> Section:
    return Section(body=body, severity=Severity.FATAL, **fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sections": ()}, "0 sections"),
        ({"record_id": 1 << 64}, "Record.record_id is 18446744073709551616"),
        ({"record_id": -1}, "Record.record_id is -1"),
        ({"severity": 4}, "Record.severity is 4"),
        ({"reserved": b""}, "Record.reserved has 0 bytes; expected 12"),
        ({"sections": (section(Memory(), tail=bytes(7)),)}, "section 0, Memory with a tail of 7 bytes"),
        ({"sections": (section(Raw(Memory.type, bytes(73))),)}, "section 0, Raw"),
        ({"sections": (section(Raw(UUID(int=7))),)}, "section 0, Raw"),
        ({"sections": (section(X86Processor(valid=4)),)}, "validity 0x4"),
        ({"sections": (section(X86Processor(errors=(ProcessorError(),) * 64)),)}, "64 errors"),
        ({"sections": (section(Memory(), fru_text="x" * 21),)}, "Section.fru_text"),
        ({"sections": (section(Memory(), fru_text="\u20ac"),)}, "Section.fru_text"),
        ({"sections": (section(Memory(node=1 << 16)),)}, "Memory.node is 65536"),
    ],
)
def test_records_that_cannot_be_encoded_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CperError) as caught:
        encode(attrs.evolve(small_record(), **changes))
    assert message in str(caught.value)


# Words inside the fields


@given(st.data())
def test_check_words_give_back_their_fields(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(CHECK_FIELDS, key=str)))
    fields = {
        name: data.draw(st.integers(0, (1 << bits) - 1))
        for name, bits in CHECK_FIELDS[kind].items()
        if data.draw(st.booleans())
    }
    assert unpack_check(kind, pack_check(kind, **fields)) == fields


@pytest.mark.parametrize("fields", [{"level": 8}, {"level": -1}, {"nothing": 1}])
def test_check_words_refuse_what_they_cannot_hold(fields: dict[str, int]) -> None:
    with pytest.raises(CperError):
        pack_check(BUS_CHECK, **fields)


@given(st.datetimes(), st.booleans())
def test_timestamps_give_back_their_moment(moment: datetime, bcd: bool) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    assert Timestamp.of(moment, bcd=bcd).moment(bcd=bcd) == moment


def test_windows_writes_binary_numbers_and_firmware_bcd() -> None:
    moment = datetime(2009, 10, 22, 13, 59, 7, tzinfo=UTC)
    assert wire.pack(Timestamp.of(moment), CperError) == bytes([7, 59, 13, 0, 22, 10, 9, 20])
    assert wire.pack(Timestamp.of(moment, bcd=True, precise=True), CperError) == bytes.fromhex(
        "0759130122100920"
    )
    with pytest.raises(CperError, match="no date"):
        Timestamp.of(moment).moment(bcd=True)
    with pytest.raises(CperError, match="no date"):
        Timestamp().moment()


def test_validity_bits_name_the_fields_that_were_given() -> None:
    memory = Memory.of(node=3, error_type=2)
    assert memory.valid == 1 << 3 | 1 << 14
    assert memory.known() == {"node": 3, "error_type": 2}
    assert Memory80.of(rank=1, extended=2).valid == 1 << 15 | 1 << 18
    assert Pcie.of(aer=Pcie().aer).valid == 1 << 7


# What the independent decoder calls each field, and what it makes of our value


View = Callable[[Any], dict[str, Any]]


def at(path: str) -> View:
    return lambda value: {path: value}


def bits(prefix: str, *names: str, shift: int = 0) -> View:
    return lambda value: {prefix + name: bool(value >> shift + bit & 1) for bit, name in enumerate(names)}


def halves(low: str, high: str, width: int) -> View:
    return lambda value: {low: value & (1 << width) - 1, high: value >> width}


def error_status(value: int) -> dict[str, Any]:
    signals = ("addressSignal", "controlSignal", "dataSignal", "detectedByResponder", "detectedByRequester")
    flags = bits("errorStatus.", *signals, "firstError", "overflowDroppedLogs", shift=16)(value)
    return {"errorStatus.errorType.value": value >> 8 & 255, **flags}


def pcie_version(value: int) -> dict[str, Any]:
    minor, major = value & 255, value >> 8 & 255
    return {f"version.{name}": (n >> 4) * 10 + (n & 15) for name, n in (("minor", minor), ("major", major))}


def pcie_device(device: PcieDevice | int) -> dict[str, Any]:
    device = PcieDevice() if isinstance(device, int) else device
    # Their class code is in big-endian order; its bytes are stored little-endian, as PCI does.
    their_class = int.from_bytes(device.class_code.to_bytes(3, "little"), "big")
    found = {
        "vendorID": device.vendor,
        "deviceID": device.device_id,
        "classCode": their_class,
        "functionNumber": device.function,
        "deviceNumber": device.device,
        "segmentNumber": device.segment,
        "primaryOrDeviceBusNumber": device.bus,
        "secondaryBusNumber": device.secondary_bus,
        "slotNumber": device.slot >> 3,
    }
    return {f"deviceID.{name}": value for name, value in found.items()}


def aer(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"aerInfo.data": 0}
    error_source = "aerInfo.error_source_id.err_"
    return {
        "aerInfo.data": encoded(wire.pack(value, CperError)),
        "aerInfo.capability_header.capability_id": value.header & 0xFFFF,
        "aerInfo.uncorrectable_error_status.malformed_tlp_status": bool(value.uncorrectable_status >> 18 & 1),
        "aerInfo.uncorrectable_error_mask.malformed_tlp_mask": value.uncorrectable_mask >> 18 & 1,
        "aerInfo.uncorrectable_error_severity.malformed_tlp_severity": (
            "Fatal" if value.uncorrectable_severity >> 18 & 1 else "NonFatal"
        ),
        "aerInfo.correctable_error_status.bad_tlp_status": bool(value.correctable_status >> 6 & 1),
        "aerInfo.correctable_error_mask.bad_tlp_mask": value.correctable_mask >> 6 & 1,
        "aerInfo.advanced_error_capabilities_and_control.first_error_pointer": value.control & 31,
        f"{error_source}cor_source_identification": value.correctable_source,
        f"{error_source}fatal_nonfatal_source_identification": value.uncorrectable_source,
    }


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def registers(data: bytes | int) -> dict[str, Any]:
    words = [bytes(8)] * 4 if isinstance(data, int) else [data[i : i + 8] for i in range(0, 32, 8)]
    return {
        f"cpuidInfo.{name}": int.from_bytes(word, "little")
        for name, word in zip(("eax", "ebx", "ecx", "edx"), words, strict=True)
    }


RECORD_FLAGS = {
    RecordFlag.RECOVERED: "HW_ERROR_FLAGS_RECOVERED",
    RecordFlag.PREVIOUS_ERROR: "HW_ERROR_FLAGS_PREVERR",
    RecordFlag.SIMULATED: "HW_ERROR_FLAGS_SIMULATED",
}
SECTION_FLAGS = {
    "primary": SectionFlag.PRIMARY,
    "containmentWarning": SectionFlag.CONTAINMENT_WARNING,
    "reset": SectionFlag.RESET,
    "errorThresholdExceeded": SectionFlag.THRESHOLD_EXCEEDED,
    "resourceNotAccessible": SectionFlag.RESOURCE_NOT_ACCESSIBLE,
    "latentError": SectionFlag.LATENT_ERROR,
    "propagated": SectionFlag.PROPAGATED,
    "overflow": SectionFlag.OVERFLOW,
}
CHECK_NAMES = {
    CACHE_CHECK: "Cache Check Error",
    TLB_CHECK: "TLB Check Error",
    BUS_CHECK: "Bus Check Error",
    MICROARCHITECTURE_CHECK: "MS Check Error",
}
OUTCOME = {
    "context_corrupt": at("processorContextCorrupt"),
    "uncorrected": at("uncorrected"),
    "precise_ip": at("preciseIP"),
    "restartable_ip": at("restartableIP"),
    "overflow": at("overflow"),
}
CHECK: dict[str, View] = {
    "transaction": at("transactionType.value"),
    "operation": at("operation.value"),
    "level": at("level"),
    "participation": at("participationType.value"),
    "timeout": at("timedOut"),
    "address_space": at("addressSpace.value"),
    "error_type": at("errorType.value"),
    **OUTCOME,
}
VIEWS: dict[type[Any], tuple[str, dict[str, View]]] = {
    ProcessorGeneric: (
        "GenericProcessor.",
        {
            "processor_type": at("processorType.value"),
            "isa": at("processorISA.value"),
            "error_type": at("errorType.value"),
            "operation": at("operation.value"),
            "flags": bits("flags.", "restartable", "preciseIP", "overflow", "corrected"),
            "level": at("level"),
            "version": at("cpuVersionInfo"),
            "brand": at("cpuBrandString"),
            "processor_id": at("processorID"),
            "target_address": at("targetAddress"),
            "requester_id": at("requestorID"),
            "responder_id": at("responderID"),
            "instruction_pointer": at("instructionIP"),
        },
    ),
    Memory80: (
        "Memory.",
        {
            "error_status": error_status,
            "physical_address": at("physicalAddress"),
            "physical_address_mask": at("physicalAddressMask"),
            "node": at("node"),
            "card": at("card"),
            "module": at("moduleRank"),
            "bank": at("bank.value"),
            "device": at("device"),
            "row": at("row"),
            "column": at("column"),
            "bit_position": at("bitPosition"),
            "requester_id": at("requestorID"),
            "responder_id": at("responderID"),
            "target_id": at("targetID"),
            "error_type": at("memoryErrorType.value"),
            "rank": at("rankNumber"),
            "card_handle": at("cardSmbiosHandle"),
            "module_handle": at("moduleSmbiosHandle"),
            "extended": bits("extended.", "rowBit16", "rowBit17"),
        },
    ),
    Pcie: (
        "Pcie.",
        {
            "port_type": at("portType.value"),
            "version": pcie_version,
            "command_status": halves("commandStatus.commandRegister", "commandStatus.statusRegister", 16),
            "device": pcie_device,
            "serial": at("deviceSerialNumber"),
            "bridge": halves(
                "bridgeControlStatus.secondaryStatusRegister", "bridgeControlStatus.controlRegister", 16
            ),
            "capability": lambda data: {"capabilityStructure.data": data and encoded(data)},
            "aer": aer,
        },
    ),
    X86Processor: ("Ia32x64Processor.", {"apic_id": at("localAPICID"), "cpuid": registers}),
    ProcessorError: (
        "",
        {
            "check": lambda value: {},
            "target_id": at("targetAddressID"),
            "requester_id": at("requestorID"),
            "responder_id": at("responderID"),
            "instruction_pointer": at("instructionPointer"),
        },
    ),
}


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


class Comparison:
    """Our reading of one record, held against the independent decoder's."""

    def __init__(self, theirs: dict[str, Any], largest: int | None) -> None:
        self.theirs = dict(flat(theirs))
        self.largest = largest
        self.compared = 0

    def same(self, path: str, ours: Any) -> None:
        if self.largest is not None and isinstance(ours, int):
            ours = min(ours, self.largest)
        assert self.theirs.get(path) == ours, path
        self.compared += 1

    def fields(self, prefix: str, views: dict[str, View], known: dict[str, Any]) -> None:
        """The fields that we call valid have our values, and those that we do not are not there."""
        for name, view in views.items():
            for path, value in view(known.get(name, 0)).items():
                if name in known:
                    self.same(prefix + path, value)
                else:
                    assert prefix + path not in self.theirs

    def record(self, record: Record) -> None:
        header = {
            "revision.major": record.revision >> 8,
            "revision.minor": record.revision & 255,
            "sectionCount": len(record.sections),
            "severity.code": record.severity,
            "recordLength": len(encode(record)),
            "creatorID": str(record.creator_id),
            "notificationType.guid": str(record.notify),
            "recordID": record.record_id,
            "flags.value": record.flags,
            **({"flags.name": RECORD_FLAGS[record.flags]} if record.flags in RECORD_FLAGS else {}),
            "persistenceInfo": record.persistence,
        }
        if record.valid & Present.PLATFORM_ID:
            header["platformID"] = str(record.platform_id)
        if record.valid & Present.PARTITION_ID:
            header["partitionID"] = str(record.partition_id)
        if record.valid & Present.TIMESTAMP:
            header["timestamp"] = record.timestamp.moment(bcd=True).isoformat()
            header["timestampIsPrecise"] = bool(record.timestamp.precise)
        for path, value in header.items():
            self.same(f"header.{path}", value)
        offset = 128 + 72 * len(record.sections)
        for index, found in enumerate(record.sections):
            length = len(found.body.encode()) + len(found.tail)
            self.section(index, found, offset, length)
            offset += length

    def section(self, index: int, found: Section, offset: int, length: int) -> None:
        descriptor = {
            "sectionOffset": offset,
            "sectionLength": length,
            "revision.major": found.revision >> 8,
            "revision.minor": found.revision & 255,
            "sectionType.data": str(found.body.type),
            "severity.code": found.severity,
            **{f"flags.{name}": bool(found.flags & flag) for name, flag in SECTION_FLAGS.items()},
        }
        if found.valid & SectionPresent.FRU_ID:
            descriptor["fruID"] = str(found.fru_id)
        if found.valid & SectionPresent.FRU_TEXT and found.fru_text.isprintable():  # they leave out others
            descriptor["fruText"] = found.fru_text
        for path, value in descriptor.items():
            self.same(f"sectionDescriptors.{index}.{path}", value)
        body = found.body
        if type(body) not in VIEWS:  # unknown to them, as are the 73 bytes of UEFI 2.1
            self.same(f"sections.{index}.Unknown.data", encoded(body.encode() + found.tail))
            return
        assert isinstance(body, Checked)
        prefix, views = VIEWS[type(body)]
        prefix = f"sections.{index}.{prefix}"
        self.fields(prefix, views, body.known())
        if isinstance(body, X86Processor):
            self.x86(prefix, body)

    def x86(self, prefix: str, body: X86Processor) -> None:
        self.same(f"{prefix}processorErrorInfoNum", len(body.errors))
        self.same(f"{prefix}processorContextInfoNum", len(body.contexts))
        for index, error in enumerate(body.errors):
            place = f"{prefix}processorErrorInfo.{index}."
            self.same(f"{place}type.guid", str(error.kind))
            self.same(f"{place}type.name", CHECK_NAMES.get(error.kind, "Unknown"))
            self.fields(place, VIEWS[ProcessorError][1], error.known())
            if "check" in error.known() and error.kind in CHECK_FIELDS:
                views = {name: CHECK[name] for name in CHECK_FIELDS[error.kind]}
                self.fields(f"{place}checkInfo.", views, unpack_check(error.kind, error.check))
        for index, context in enumerate(body.contexts):
            place = f"{prefix}processorContextInfo.{index}."
            self.same(f"{place}registerContextType.value", context.kind)
            self.same(f"{place}registerArraySize", len(context.registers))
            self.same(f"{place}msrAddress", context.msr)
            self.same(f"{place}mmRegisterAddress", context.address)


@pytest.mark.parametrize("name", ["generic", "ia32x64", "memory", "pcie"])
def test_real_records_read_as_the_independent_decoder_read_them(name: str) -> None:
    if not REAL.is_dir():
        pytest.skip("the real records are not part of the project")
    data = bytes.fromhex((REAL / f"{name}.cperhex").read_text())
    record = decode(data)
    assert encode(record) == data
    comparison = Comparison(json.loads((REAL / f"{name}.json").read_text()), largest=None)
    comparison.record(record)
    assert comparison.compared > 30


@st.composite
def readable_records(draw: st.DrawFn) -> Record:
    """Records in which each field is either valid or not there, with texts that survive every reader."""
    record = draw(records(plain_text))
    flags = draw(st.sampled_from(list(RecordFlag)))
    moment = draw(st.datetimes()).replace(tzinfo=UTC)
    sections = []
    for found in record.sections:
        body = found.body
        if isinstance(body, X86Processor):
            errors = tuple(known_only(error, draw) for error in body.errors)
            # They read the registers of the kinds 2 and 3, which have a fixed size; ours are of any size.
            contexts = tuple(attrs.evolve(context, kind=1) for context in body.contexts)
            body = attrs.evolve(known_only(body, draw), errors=errors, contexts=contexts)
        elif isinstance(body, Checked):
            body = known_only(body, draw)
        sections.append(attrs.evolve(found, body=body, tail=b""))
    timestamp = Timestamp.of(moment, bcd=True, precise=draw(st.booleans()))
    return attrs.evolve(record, timestamp=timestamp, flags=flags, sections=tuple(sections))


def known_only(value: Any, draw: st.DrawFn) -> Any:
    """The structure with only the validity bits that it defines; most error checks are of a known kind."""
    valid = value.valid & (1 << len(value.validity())) - 1
    if isinstance(value, ProcessorError):
        kinds = st.sampled_from([value.kind, *sorted(CHECK_FIELDS, key=str)])
        return attrs.evolve(value, valid=valid, kind=draw(kinds))
    if isinstance(value, Memory80):
        valid |= Memory80.of(extended=0).valid  # their release 0.0.4 shows the handles only together with it
    return attrs.evolve(value, valid=valid)


@given(readable_records())
@settings(deadline=None)
def test_the_independent_decoder_reads_what_we_write(record: Record) -> None:
    theirs = pytest.importorskip("cper").parse(encode(record))
    Comparison(theirs, LARGEST).record(record)


@pytest.mark.parametrize(
    ("named", "names"),
    [
        (Notify, {"PCIE": "PCIe", "BOOT": "Boot", "GENERIC": "Unknown"}),
        (RawType, {"ITANIUM": "IPF", "PCIX_BUS": "PCI/PCI-X Bus", "PCI_DEVICE": "PCI Component/Device"}),
    ],
)
def test_the_independent_decoder_knows_our_guids(named: type[Any], names: dict[str, str]) -> None:
    parse = pytest.importorskip("cper").parse
    for name, guid in vars(named).items():
        if isinstance(guid, UUID):
            theirs = parse(
                encode(attrs.evolve(small_record(), notify=guid, sections=(section(Raw(guid, b"x")),)))
            )
            if named is Notify:
                assert theirs["header"]["notificationType"]["type"] == names.get(name, name)
            elif name in names:
                assert theirs["sectionDescriptors"][0]["sectionType"]["type"] == names[name]


def test_a_record_as_windows_writes_it_is_read_by_the_independent_decoder() -> None:
    parse = pytest.importorskip("cper").parse
    check = pack_check(BUS_CHECK, operation=3, uncorrected=1, context_corrupt=1)
    error = ProcessorError.of(kind=BUS_CHECK, check=check, target_id=0x1000)
    record = Record(
        severity=Severity.FATAL,
        notify=Notify.MCE,
        flags=RecordFlag.PREVIOUS_ERROR,
        sections=(
            section(ProcessorGeneric.of(processor_id=5, error_type=4), flags=SectionFlag.PRIMARY),
            section(X86Processor.of(apic_id=5, errors=(error,))),
            section(Memory80.of(node=1, card=2, module=3), valid=SectionPresent.FRU_TEXT, fru_text="DIMM B2"),
        ),
    )
    theirs = parse(encode(record))
    assert theirs["header"]["creatorID"] == str(WINDOWS)
    assert theirs["header"]["notificationType"]["type"] == "MCE"
    assert theirs["header"]["revision"] == {"major": 2, "minor": 16}
    assert theirs["sectionDescriptors"][2]["fruText"] == "DIMM B2"
    errors = theirs["sections"][1]["Ia32x64Processor"]["processorErrorInfo"]
    assert errors[0]["type"]["name"] == "Bus Check Error"

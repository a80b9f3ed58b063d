"""What can be told of an error from the bytes that survived: dumps and the event log, read anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from ntlab.formats import minidump
from ntlab.formats.minidump import CrashDump
from ntlab.machine import Component, LoggedEvent, Machine
from ntlab.machine.crashes import date_at
from ntlab.machine.hardware_errors import Kind, device_at
from ntlab.topology import Tables
from ntlab_whea import cper
from ntlab_whea.cper import RawType, Record, RecordFlag
from ntlab_whea.dump import fatal_record
from ntlab_whea.events import WHEA_LOGGER
from ntlab_whea.pshed import pci_device


def logged_records(log: Sequence[LoggedEvent]) -> Iterator[Record]:
    """The error records in the event log, oldest first; what is no record is passed over."""
    for event in log:
        if event.provider == WHEA_LOGGER:
            try:
                yield cper.decode(event.data)
            except cper.CperError:
                continue


def is_previous(record: Record) -> bool:
    """Whether a record was logged by a later boot than the one that made it."""
    return bool(record.flags & RecordFlag.PREVIOUS_ERROR)


def named(record: Record, tables: Tables) -> Component | None:
    """The component that a record blames, None if it does not say which of them it was."""
    for section in record.sections:
        body = section.body
        if isinstance(body, cper.Memory):
            known = body.known()
            if {"node", "card", "module"} <= known.keys():
                return Component("memory", known["node"], (known["card"], known["module"]))
        elif isinstance(body, cper.Pcie):
            known = body.known()
            if "device" in known:
                at = known["device"]
                return _device("pcie", device_at(at.segment, at.bus, at.device, at.function))
        elif isinstance(body, cper.ProcessorGeneric):
            known = body.known()
            if known.get("processor_id") in tables.os_index:
                number = tables.os_index.index(known["processor_id"])
                if known.get("error_type") == 1:
                    return Component("cache", number, (known["level"],)) if "level" in known else None
                return Component("processor", number)
        elif isinstance(body, cper.Raw) and body.type == RawType.PCI_DEVICE:
            return _device("pci", pci_device(body.data))
    return None


def _device(kind: Kind, number: int | None) -> Component | None:
    return Component(kind, number) if number is not None else None


def describe(component: Component | None) -> str:
    """A component in words."""
    if component is None:
        return "unknown component"
    words = {
        "processor": "processor {0}",
        "cache": "processor {0}, cache level {1}",
        "memory": "node {0}, card {1}, module {2}",
        "pci": "PCI device {0}",
        "pcie": "PCI Express device {0}",
    }
    return words[component.kind].format(component.number, *component.part)


def event_log(machine: Machine) -> str:
    """The error records in a machine's event log, one a line."""
    lines = []
    for event in machine.nonvolatile.log:
        for record in logged_records([event]):
            date = date_at(event.time).strftime("%Y-%m-%d %H:%M:%S")
            fru = record.sections[0].fru_text
            parts = [describe(named(record, machine.tables)), record.severity.name.lower()]
            parts += [fru] if fru else []
            parts += ["of an earlier boot"] if is_previous(record) else []
            lines.append(f"{date}  {event.provider} {event.event_id}  {', '.join(parts)}")
    return "\n".join(lines)


@frozen
class Crashed:
    """What a crash dump tells: its bug check, the error record in it, and the component that is to blame.

    `component` is None where the dump leaves more than one possibility.
    """

    dump: CrashDump
    record: Record | None
    component: Component | None


def read_dump(data: bytes, tables: Tables, suspects: Sequence[Component]) -> Crashed:
    """Read a dump of a machine on which `suspects` are all that may fail.

    Raises DumpError and CperError for damaged ones.
    """
    dump = minidump.decode(data)
    record = fatal_record(dump)
    if record is not None:
        return Crashed(dump, record, named(record, tables))
    left = [suspect for suspect in suspects if _fits(suspect, dump.bug_check)]
    return Crashed(dump, None, left[0] if len(left) == 1 else None)


def _fits(suspect: Component, stop: minidump.BugCheck) -> bool:
    """Whether a component may be behind a bug check that brings no more than status words."""
    if stop.code == 0x80:
        return suspect.kind in ("pci", "pcie")
    if stop.code != 0x9C:
        return True
    code = stop.p4 & 0xFFFF  # of MCi_STATUS: which class of unit, and of a cache its level
    if code & 0xFF00 == 0x0100:
        return suspect.kind == "cache" and suspect.part == (code & 3,)
    return suspect.kind == {0x0400: "processor", 0x0080: "memory"}.get(code)

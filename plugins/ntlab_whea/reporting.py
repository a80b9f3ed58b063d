"""The kernel's part: from the signal of an error source to the event, or to the bug check (ledger E1, E4).

Every step is traced as a phase:

    corrected     notified verify packet retrieve report | record finalize clear [event]
    recoverable   notified verify packet retrieve report record finalize recover platform_recover
                  event, or persist bug_check
    fatal         notified verify packet retrieve report record persist bug_check
    next boot     for each record kept: replay log forget

At | a corrected error goes on in a DPC: until then it occupies one of the records that its source has set
aside at boot, and where none is left it is dropped, which the next record of the source shows as overflow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from attrs import define, evolve, field, frozen

from ntlab.errors import UserError
from ntlab.machine import LatchedError, LoggedEvent, Machine
from ntlab_whea import cper, events
from ntlab_whea.cper import Present, Record, RecordFlag, Section, SectionFlag, SectionPresent, Severity
from ntlab_whea.dump import WHEA_UNCORRECTABLE_ERROR
from ntlab_whea.handlers import RawSection, filetime, timestamp
from ntlab_whea.pshed import NOTIFY, SOURCE_TYPES

if TYPE_CHECKING:
    from ntlab_whea.hooks import LowLevelHandler

_SEVERITIES: Final = {
    "corrected": Severity.CORRECTED,
    "recoverable": Severity.RECOVERABLE,
    "fatal": Severity.FATAL,
}
_POOL: Final = {"x86": 0x8500_0000, "x64": 0xFFFF_FA80_0100_0000, "ia64": 0xE000_0001_0100_0000}
"""Where non-paged pool lies, by architecture; records set aside are pages of it."""
PAGE: Final = 4096
REPORT_TIME: Final = 20_000
"""What the DPC takes that turns a packet into a record, ns: a guess."""

COUNTERS: Final = (
    "reported", "dropped", "below threshold", "events", "recovered", "persisted", "not persisted",
    "bug checks", "damaged records", "logged after restart",
)  # fmt: skip
"""What WHEA counts besides what the hardware does."""


@frozen
class Packet:
    """What a handler and PSHED have found out about an error (WHEA_ERROR_PACKET)."""

    latched: LatchedError
    sections: tuple[RawSection, ...]
    platform: Mapping[str, Any]


@define(eq=False)
class _SourceState:
    """What the kernel keeps of one source: where its records lie, and how many are free."""

    handler: LowLevelHandler
    address: int
    free: int
    dropped: int = field(init=False, default=0)  # since the last record
    recent: deque[int] = field(
        init=False, factory=deque
    )  # when its latest corrected errors came, inside the window


class Reporting:
    """WHEA in one machine. `fatal` is the address and the bytes of the record of a crash that is going on."""

    def __init__(
        self, machine: Machine, handlers: Mapping[int, LowLevelHandler], *, era: str, ask: bool
    ) -> None:
        self.machine = machine
        self.era = era
        self.ask = ask
        self.fatal: tuple[int, bytes] | None = None
        self._errors = machine.hardware_errors
        self._sources: dict[int, _SourceState] = {}
        address = _POOL[machine.architecture]
        for source in self._errors.sources.values():
            self._sources[source.id] = _SourceState(handlers[source.id], address, source.records)
            address += source.records * PAGE
        for counter in COUNTERS:
            self._errors.count(counter, 0)
        self._next_record = filetime(machine.engine.now)
        self._trace_phase = machine.tracer.emitter(events.PHASE)
        self._trace_event = machine.tracer.emitter(events.ERROR_RECORD)
        self._trace_logged = machine.tracer.emitter(events.LOGGED)

    # -- from the signal to the report ---------------------------------------------------------------------

    def notified(self, latched: LatchedError) -> None:
        """An error source has signalled."""
        source = latched.source
        self._phase(source.id, "notified")
        self._phase(source.id, "verify")
        deferred = latched.error.severity == "corrected"
        state = self._sources[source.id]
        if deferred:
            if not state.free:
                state.dropped += 1
                self._errors.count("dropped")
                self._phase(source.id, "dropped")
                return
            state.free -= 1
        self._phase(source.id, "packet")
        sections = tuple(state.handler(self.machine, latched))
        platform = None
        if self.ask:
            self._phase(source.id, "retrieve")
            platform = self.machine.hooks.pshed_retrieve(self.machine, latched)
        self.report(Packet(latched, sections, platform if platform is not None else {}))

    def report(self, packet: Packet) -> None:
        """The one call that reports a hardware error, whatever its source (WheaReportHwError)."""
        latched = packet.latched
        self._phase(latched.source.id, "report")
        self._errors.count("reported")
        if latched.error.severity == "corrected":
            processor = self.machine.processors[self._errors.processor_of(latched.error.component)]
            self.machine.interrupts.queue_dpc(
                processor, REPORT_TIME, self._corrected, packet, "nt!WheaReportHwError"
            )
        elif latched.error.severity == "recoverable":
            self._recoverable(packet)
        else:
            self._crash(packet, self._record(packet))

    def _corrected(self, packet: Packet) -> None:
        latched = packet.latched
        source = latched.source
        state = self._sources[source.id]
        record = self._finalized(packet, self._record(packet))
        self._phase(source.id, "clear", record)
        hooks = self.machine.hooks
        if hooks.pshed_clear_status is not None:
            hooks.pshed_clear_status(self.machine, latched)
        self._errors.reported(latched)
        state.free += 1
        state.recent.append(latched.time)
        while state.recent[0] <= latched.time - source.window:
            state.recent.popleft()
        times = len(state.recent)
        if times > source.threshold:
            if source.threshold:
                record = _flagged(record, SectionFlag.THRESHOLD_EXCEEDED)
            self._event(latched, record, times)
        else:
            self._errors.count("below threshold")

    def _recoverable(self, packet: Packet) -> None:
        latched = packet.latched
        record = self._finalized(packet, self._record(packet))
        hooks = self.machine.hooks
        self._phase(latched.source.id, "recover", record)
        recovered = bool(hooks.recover_error(self.machine, latched))
        self._phase(latched.source.id, "platform_recover", record)
        if hooks.pshed_attempt_recovery is not None:
            recovered |= any(hooks.pshed_attempt_recovery(self.machine, latched, recovered))
        if not recovered:
            self._crash(packet, record)
        self._errors.count("recovered")
        self._errors.reported(latched)
        self._event(latched, evolve(record, flags=record.flags | RecordFlag.RECOVERED), 1)

    def _crash(self, packet: Packet, record: Record) -> NoReturn:
        latched = packet.latched
        machine = self.machine
        data = cper.encode(record)
        self._phase(latched.source.id, "persist", record)
        kept = machine.hooks.pshed_write_record(machine, record.record_id, data)
        self._errors.count("persisted" if kept else "not persisted")
        self._phase(latched.source.id, "bug_check", record)
        address = self._sources[latched.source.id].address
        self.fatal = address, data
        self._errors.count("bug checks")
        status = latched.status if latched.source.type == "MCE" else 0
        machine.bug_check(
            WHEA_UNCORRECTABLE_ERROR,
            SOURCE_TYPES[latched.source.type],
            address,
            status >> 32,
            status & 0xFFFF_FFFF,
        )

    # -- records -------------------------------------------------------------------------------------------

    def _record(self, packet: Packet) -> Record:
        latched = packet.latched
        severity = _SEVERITIES[latched.error.severity]
        state = self._sources[latched.source.id]
        fru = packet.platform.get("fru_text", "")
        bodies = [cper.read_body(*section)[0] for section in packet.sections]
        bodies[0] = _augmented(bodies[0], packet.platform)
        more = [cper.read_body(*section)[0] for section in packet.platform.get("sections", ())]
        revision = cper.REVISION_2008 if self.era == "ws2008" else cper.REVISION_2008R2
        sections = tuple(
            Section(
                body=body,
                severity=severity,
                flags=SectionFlag.PRIMARY if index == 0 else SectionFlag.NONE,
                valid=SectionPresent.FRU_TEXT if fru and index == 0 else SectionPresent.NONE,
                fru_text=fru if index == 0 else "",
            )
            for index, body in enumerate(bodies + more)
        )
        record = Record(
            revision=revision,
            severity=severity,
            valid=Present.TIMESTAMP,
            timestamp=timestamp(latched.time, self.era),
            notify=NOTIFY.get(latched.source.type, cper.Notify.GENERIC),
            record_id=self._next_record,
            flags=RecordFlag.SIMULATED if latched.error.simulated else RecordFlag.NONE,
            sections=sections,
        )
        self._next_record += 1
        if latched.overflow or state.dropped:
            record = _flagged(record, SectionFlag.OVERFLOW)
            state.dropped = 0
        self._phase(latched.source.id, "record", record)
        return record

    def _finalized(self, packet: Packet, record: Record) -> Record:
        self._phase(packet.latched.source.id, "finalize", record)
        finalize = self.machine.hooks.pshed_finalize
        answers = finalize(self.machine, packet.latched) if finalize is not None else []
        more = tuple(
            Section(body=cper.read_body(*section)[0], severity=record.severity)
            for answer in answers
            for section in answer
        )
        return evolve(record, sections=record.sections + more)

    # -- what is seen of them ------------------------------------------------------------------------------

    def _event(self, latched: LatchedError, record: Record, times: int) -> None:
        machine = self.machine
        source = latched.source
        data = cper.encode(record)
        self._phase(source.id, "event", record)
        self._errors.count("events")
        if self._trace_event is not None:
            head = events.kernel_event_id(record, self.era), events.level_of(record), source.id
            tail = record.record_id, record.severity, times, len(data), machine.tracer.blob(data)
            self._trace_event((machine.engine.now, events.ERROR_RECORD.id, *head, *tail))
        self._log(record, data)

    def _log(self, record: Record, data: bytes) -> None:
        machine = self.machine
        machine_check = record.notify in (cper.Notify.MCE, cper.Notify.CMC)
        event_id, level = events.logger_event_id(record, machine_check), events.level_of(record)
        machine.nonvolatile.log.append(
            LoggedEvent(machine.engine.now, events.WHEA_LOGGER, event_id, level, data)
        )
        if self._trace_logged is not None:
            previous = bool(record.flags & RecordFlag.PREVIOUS_ERROR)
            fields = event_id, level, previous, machine.tracer.blob(data)
            self._trace_logged((machine.engine.now, events.LOGGED.id, *fields))

    def replay(self) -> None:
        """After boot: log the errors that earlier boots did not live to log, and forget them."""
        hooks = self.machine.hooks
        for identity, data in hooks.pshed_stored_records(self.machine):
            try:
                record = cper.decode(data)
            except cper.CperError:
                # The store is hardware too. There is nothing to log, and keeping it would fill the store.
                self._errors.count("damaged records")
            else:
                self._phase(-1, "replay", record)
                record = evolve(record, flags=record.flags | RecordFlag.PREVIOUS_ERROR)
                self._phase(-1, "log", record)
                self._log(record, cper.encode(record))
                self._errors.count("logged after restart")
                self._phase(-1, "forget", record)
            hooks.pshed_clear_record(self.machine, identity)

    def _phase(self, source: int, phase: str, record: Record | None = None) -> None:
        if self._trace_phase is not None:
            identity = record.record_id if record is not None else -1
            text = self.machine.tracer.text(phase)
            self._trace_phase((self.machine.engine.now, events.PHASE.id, source, identity, text))


def _augmented(body: cper.Body | cper.Raw, platform: Mapping[str, Any]) -> cper.Body | cper.Raw:
    """A section with the fields that the platform knows besides."""
    more = {name: value for name, value in platform.items() if name not in ("fru_text", "sections")}
    if not more:
        return body
    known = type(body).validity() if isinstance(body, cper.Checked) else ()
    for name in more:
        if name not in known:
            raise UserError(
                f"PSHED knows {name!r} of an error, which {type(body).__name__} has no field for",
                expected=", ".join(known) or "nothing",
            )
    assert isinstance(body, cper.Checked)
    augmented = type(body).of(**body.known(), **more)
    assert isinstance(augmented, cper.Body)
    return augmented


def _flagged(record: Record, flag: SectionFlag) -> Record:
    primary = record.sections[0]
    return evolve(record, sections=(evolve(primary, flags=primary.flags | flag), *record.sections[1:]))

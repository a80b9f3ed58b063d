"""E1 to E4: the claims, that they fail without the mechanism, and the pipelines step by step."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from judging import failing
from ntlab.errors import NtlabError, PluginError, UserError
from ntlab.formats import minidump
from ntlab.hooks import hookimpl
from ntlab.machine import Component, ErrorSource, HardwareError, LatchedError, Machine
from ntlab.machine.hardware_errors import KINDS, SEVERITIES, components
from ntlab.plugin import option, plugin
from ntlab.testing import boot, conformance
from ntlab.topology import load
from ntlab_whea import Whea, cper, evidence
from ntlab_whea.cper import Record, RecordFlag, SectionFlag, Severity
from ntlab_whea.dump import fatal_record
from ntlab_whea.pshed import PSHEDS
from ntlab_whea.workloads import Faults
from ntlab_ws2003 import Ws2003

SERVER = load("small-2s-2008").freeze()
MEMORY = Component("memory", 0, (1, 2))
PROCESSOR = Component("processor", 5)
DEVICE = Component("pcie", 1)
MILLISECOND = 1_000_000


def error(severity: Any = "corrected", component: Component = MEMORY, **fields: Any) -> HardwareError:
    return HardwareError(component=component, severity=severity, **fields)


def machine_with(*plugins: object, architecture: Any = "x64", **options: Any) -> Machine:
    parts = [Ws2003(architecture=architecture), Whea(**options), *plugins]
    return boot(plugins=parts, tables=SERVER, trace=True)


def fail(machine: Machine, *errors: HardwareError, gap: int = MILLISECOND) -> Machine:
    for number, what in enumerate(errors, 1):
        machine.engine.at(machine.engine.now + number * gap, machine.hardware_errors.occur, what)
    machine.run()
    return machine


def phases(machine: Machine) -> str:
    return " ".join(str(record["phase"]) for record in machine.tracer.records("Phase"))


def logged(machine: Machine) -> list[Record]:
    return list(evidence.logged_records(machine.nonvolatile.log))


def counts(machine: Machine) -> dict[str, int]:
    return {name: count for name, count in machine.hardware_errors.counts.items() if count}


# The claims

test_conformance = conformance(
    "whea",
    idle={
        "pshed_inject": "an administrator injects errors, no experiment does: see Management below",
        "pshed_set_source": "an administrator changes settings, no experiment does: see Management below",
    },
)


@pytest.mark.parametrize(
    ("name", "hook", "answer", "fails"),
    [
        # No handler: what Server 2003 has is in force.
        ("whea-attribution", "hardware_error", None, ["crashes", "errors", "handlers"]),
        ("whea-sources", "hardware_error", None, ["one-format", "types"]),
        ("whea-restart", "hardware_error", None, ["logged", "dumped"]),
        # PSHED has nothing to tell.
        ("whea-attribution", "pshed_retrieve", {}, ["crashes", "errors", "handlers"]),
        # The store keeps nothing; the dump has no memory.
        ("whea-restart", "pshed_write_record", False, ["logged"]),
        ("whea-restart", "crash_memory", None, ["dumped"]),
    ],
)
def test_the_claims_fail_without_the_mechanism(
    name: str, hook: str, answer: Any, fails: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Whea, hook, hookimpl(lambda self: answer))
    assert failing(name, {"workload.errors": 30}) == {f"{name}-{claim}" for claim in fails}


def test_the_claims_of_pshed_fail_where_one_is_for_all_or_has_nothing_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(PSHEDS, "ia64", PSHEDS["x64"])
        assert failing("whea-pshed") == {"whea-pshed-sources"}
    monkeypatch.setattr(Whea, "pshed_retrieve", hookimpl(lambda self: {}))
    assert failing("whea-pshed") == {"whea-pshed-place"}


def test_an_experiment_may_end_while_the_machine_is_down() -> None:
    short = {"duration": "2 h", "workload.restart_time": "3 h", "workload.fatal": "100 %"}
    result = ntlab.run("whea-restart", set={**short, "workload.recoverable": 0}, seeds=1)
    assert {arm: result.arms[arm].metrics["crashes"].mean for arm in result.arms} == dict.fromkeys(
        ("before", "after", "no_store", "no_dump"), 1
    )


def test_without_a_restart_a_crash_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Faults, "restart")
    result = ntlab.run("whea-restart", seeds=1)
    assert result.arms["after"].metrics["reported_share"].mean < 1
    bug_checks = result.arms["after"].counters[r"Hardware Errors\bug checks"]
    assert (bug_checks.low, bug_checks.high) == (1, 1)


def test_the_views_tell_what_survived() -> None:
    def lines(name: str, arm: str) -> list[str]:
        return ntlab.view("whea-restart", name, arm=arm, set={"workload.errors": 30})[arm].splitlines()

    log, dumps = lines("event-log", "after"), lines("dumps", "after")
    assert len(dumps) == sum("of an earlier boot" in line for line in log) > 0
    assert all(line.startswith("0x00000124 (") and "unknown" not in line for line in dumps)
    assert all(line.startswith("2008-02-27") and "WHEA-Logger" in line for line in log)
    assert all(line.endswith("unknown component") for line in lines("dumps", "before"))
    assert lines("event-log", "before") == []


# Pipelines

NOTICED = "notified verify packet retrieve report record"


@pytest.mark.parametrize("component", [MEMORY, PROCESSOR, Component("cache", 3, (2,)), DEVICE])
def test_a_corrected_error_is_logged(component: Component) -> None:
    machine = fail(machine_with(), error(component=component))
    assert phases(machine) == f"{NOTICED} finalize clear event"
    (record,) = logged(machine)
    assert record.severity == Severity.CORRECTED
    assert evidence.named(record, machine.tables) == component
    (event,) = machine.tracer.records("ErrorRecord")
    assert event["rawdata"] == machine.nonvolatile.log[0].data
    assert counts(machine) == {"occurred": 1, "reported": 1, "events": 1}


def test_the_handlers_alone_do_not_know_where_it_was() -> None:
    machine = fail(machine_with(retrieval=False), error(), error(component=PROCESSOR))
    alone = "notified verify packet report record finalize clear event"
    assert phases(machine) == f"{alone} {alone}"
    assert [evidence.named(record, SERVER) for record in logged(machine)] == [None, PROCESSOR]


def test_a_corrected_error_below_the_threshold_makes_no_event() -> None:
    machine = fail(machine_with(threshold=2, window=10 * MILLISECOND), *[error()] * 3)
    below = f"{NOTICED} finalize clear"
    assert phases(machine) == f"{below} {below} {below} event"
    (record,) = logged(machine)
    assert record.sections[0].flags == SectionFlag.PRIMARY | SectionFlag.THRESHOLD_EXCEEDED
    (event,) = machine.tracer.records("ErrorRecord")
    assert event["times"] == 3
    assert counts(machine)["below threshold"] == 2


def test_errors_that_come_too_slowly_never_reach_the_threshold() -> None:
    machine = fail(machine_with(threshold=2, window=2 * MILLISECOND), *[error()] * 20)
    assert logged(machine) == []
    assert counts(machine)["below threshold"] == 20


def test_a_contained_error_is_recovered_from() -> None:
    machine = fail(machine_with(), error("recoverable", contained=True))
    assert machine.crash is None
    assert phases(machine) == f"{NOTICED} finalize recover platform_recover event"
    (record,) = logged(machine)
    assert record.severity == Severity.RECOVERABLE
    assert record.flags == RecordFlag.RECOVERED
    assert counts(machine) == {"occurred": 1, "reported": 1, "events": 1, "recovered": 1}


def test_an_error_that_is_not_contained_stops_the_machine() -> None:
    machine = fail(machine_with(), error("recoverable"))
    assert phases(machine) == f"{NOTICED} finalize recover platform_recover persist bug_check"
    assert machine.crash is not None
    assert logged(machine) == []


@pytest.mark.parametrize(
    ("component", "source_type"), [(MEMORY, 0), (PROCESSOR, 0), (Component("pci", 0), 3), (DEVICE, 4)]
)
def test_a_fatal_error_is_kept_dumped_and_logged_after_the_restart(
    component: Component, source_type: int
) -> None:
    machine = fail(machine_with(), error("fatal", component))
    assert phases(machine) == f"{NOTICED} persist bug_check"
    assert machine.nonvolatile.log == []
    dump = minidump.decode(machine.nonvolatile.dumps[0])
    stop = dump.bug_check
    assert (stop.code, stop.p1) == (0x124, source_type)
    assert (stop.p3 << 32 | stop.p4 != 0) == (source_type == 0)
    record = fatal_record(dump)
    assert record is not None
    assert evidence.named(record, machine.tables) == component
    assert machine.nonvolatile.entries("ERST") == [(record.record_id, cper.encode(record))]

    again = machine.restart(1000)
    assert phases(again).endswith("persist bug_check replay log forget")
    (later,) = logged(again)
    assert later == cper.decode(cper.encode(later))
    assert later.record_id == record.record_id
    assert later.flags == RecordFlag.PREVIOUS_ERROR
    assert later.sections == record.sections
    assert again.nonvolatile.entries("ERST") == []
    fail(again, error("fatal", component))
    assert logged(again.restart(1000))[1].record_id > record.record_id


def test_a_full_store_keeps_nothing_and_says_so() -> None:
    machine = machine_with()
    machine.nonvolatile.capacity = 100
    fail(machine, error("fatal"))
    assert counts(machine)["not persisted"] == 1
    assert logged(machine.restart(1)) == []
    assert fatal_record(minidump.decode(machine.nonvolatile.dumps[0])) is not None


def test_a_damaged_record_in_the_store_is_counted_and_cleared() -> None:
    machine = fail(machine_with(), error("fatal"))
    ((identity, data),) = machine.nonvolatile.entries("ERST")
    machine.nonvolatile.write("ERST", identity, data[:-1])
    again = machine.restart(1)
    assert counts(again) == {"damaged records": 1}
    assert logged(again) == []
    assert again.nonvolatile.used == 0


def test_where_records_are_used_up_errors_are_dropped_and_the_next_record_says_so() -> None:
    machine = machine_with(records=2)
    # At once, on five processors: the handlers all run before the first DPC makes its record.
    for number in range(5):
        machine.engine.at(0, machine.hardware_errors.occur, error(component=Component("cache", number, (1,))))
    fail(machine, error())
    assert counts(machine) == {"occurred": 6, "reported": 3, "dropped": 3, "events": 3}
    flags = [record.sections[0].flags for record in logged(machine)]
    assert [bool(flag & SectionFlag.OVERFLOW) for flag in flags] == [True, False, False]


def test_registers_that_overflowed_show_in_the_record() -> None:
    machine = fail(machine_with(), error(), error(), gap=1000)
    (record,) = logged(machine)
    assert record.sections[0].flags & SectionFlag.OVERFLOW
    assert counts(machine) == {"occurred": 2, "overflowed": 1, "reported": 1, "events": 1}


@given(
    st.lists(
        st.builds(
            error,
            st.sampled_from((*SEVERITIES, "corrected", "corrected")),
            st.sampled_from(components(SERVER)),
            contained=st.booleans(),
        ),
        max_size=25,
    ),
    st.integers(1, 60_000),
    st.sampled_from([0, 3]),
)
@settings(max_examples=60, deadline=None)
def test_no_error_is_lost_without_being_counted(
    stream: list[HardwareError], gap: int, threshold: int
) -> None:
    machine = fail(machine_with(records=1, threshold=threshold), *stream, gap=gap)
    seen = machine.hardware_errors.counts
    crashed = machine.crash is not None
    assert seen["occurred"] == len(stream) or crashed
    found = seen["unseen"] + seen["overflowed"] + seen["dropped"] + seen["reported"]
    assert seen["occurred"] == found + len(machine.hardware_errors.latched)
    # What the queued DPCs held at a crash is lost with the machine's memory.
    in_memory = seen["reported"] - seen["events"] - seen["below threshold"] - seen["bug checks"]
    assert in_memory == 0 if not crashed else in_memory >= 0
    assert len(logged(machine)) == seen["events"]
    assert seen["bug checks"] == seen["persisted"] == crashed
    assert len(machine.nonvolatile.entries("ERST")) == crashed


# Formats


@pytest.mark.parametrize(("era", "revision", "event"), [("ws2008", 0x0201, 1), ("ws2008r2", 0x0210, 20)])
def test_the_eras_differ_in_revision_sections_and_events(era: Any, revision: int, event: int) -> None:
    machine = fail(machine_with(era=era), error(component=PROCESSOR))
    (record,) = logged(machine)
    assert record.revision == revision
    detail = record.sections[1].body
    assert isinstance(detail, cper.X86Processor if era == "ws2008" else cper.MachineCheck)
    assert record.timestamp.precise == (era != "ws2008")
    (traced,) = machine.tracer.records("ErrorRecord")
    assert traced["event_id"] == event


def test_the_era_is_that_of_the_machine() -> None:
    @plugin(name="later", summary="Is of R2.", release="ws2008r2")
    class Later:
        pass

    assert logged(fail(machine_with(), error()))[0].revision == 0x0201
    assert logged(fail(machine_with(Later()), error()))[0].revision == 0x0210


@pytest.mark.parametrize(
    ("component", "severity", "event"),
    [
        (MEMORY, "corrected", 47),
        (PROCESSOR, "corrected", 19),
        (DEVICE, "corrected", 17),
        (DEVICE, "recoverable", 16),
        (PROCESSOR, "recoverable", 18),
        (Component("pci", 0), "recoverable", 1),
    ],
)
def test_the_system_log_has_the_events_that_administrators_know(
    component: Component, severity: str, event: int
) -> None:
    machine = fail(machine_with(), error(severity, component, contained=True))
    (entry,) = machine.nonvolatile.log
    assert (entry.event_id, entry.level) == (event, 3 if severity == "corrected" else 2)


ARCHITECTURES = {
    "x86": {"MCE", "CMC", "NMI", "BOOT", "PCIe"},
    "x64": {"MCE", "CMC", "NMI", "BOOT", "PCIe"},
    "ia64": {"IPF MCA", "IPF CMC", "IPF CPE", "INIT", "PCIe"},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_has_its_sources(architecture: str) -> None:
    machine = machine_with(architecture=architecture)
    assert {s.type for s in machine.hardware_errors.sources.values()} == ARCHITECTURES[architecture]
    assert len(machine.hardware_errors.sources) == 4 + len(SERVER.devices)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_independent_decoder_reads_every_record(architecture: str, kind: str, severity: str) -> None:
    parse = pytest.importorskip("cper").parse
    component = next(c for c in reversed(components(SERVER)) if c.kind == kind)
    machine = fail(machine_with(architecture=architecture), error(severity, component, contained=True))
    if machine.crash is not None:
        machine = machine.restart(1)
    if kind == "pci" and severity == "corrected" and architecture != "ia64":
        assert counts(machine) == {"occurred": 1, "unseen": 1}
        return
    ((data, record),) = [(entry.data, cper.decode(entry.data)) for entry in machine.nonvolatile.log]
    theirs = parse(data)
    names = {"corrected": "Corrected", "recoverable": "Recoverable", "fatal": "Fatal"}
    assert theirs["header"]["severity"]["name"] == names[severity]
    assert len(theirs["sections"]) == theirs["header"]["sectionCount"] == len(record.sections)
    assert theirs["header"]["flags"]["name"] == {"fatal": "HW_ERROR_FLAGS_PREVERR"}.get(
        severity, theirs["header"]["flags"]["name"]
    )
    assert evidence.named(record, SERVER) == component
    types = {"processor": "Processor Generic", "cache": "Processor Generic", "memory": "Platform Memory"}
    if kind in types:
        assert types[kind] in theirs["sectionDescriptors"][0]["sectionType"]["type"]
    if kind == "pcie":
        (section,) = theirs["sections"]
        assert section["Pcie"]["deviceID"]["primaryOrDeviceBusNumber"] == component.number + 1


# PSHED plug-ins


@plugin(name="platform", summary="A plug-in for one platform.", release="ws2008", requires=("whea",))
class Platform:
    """It refines what PSHED tells of memory, and has a store of its own."""

    name: str = option(default="", help="The platform.")

    def _is_ours(self, machine: Machine) -> bool:
        return machine.tables.name == self.name

    @hookimpl(wrapper=True)
    def pshed_retrieve(self, machine: Machine, latched: LatchedError) -> Any:
        found = yield
        ours = self._is_ours(machine) and latched.error.component.kind == "memory"
        return {**found, "fru_text": "DIMM"} if ours else found

    @hookimpl
    def pshed_write_record(self, machine: Machine, identity: int, data: bytes) -> bool | None:
        return machine.nonvolatile.write("own", identity, data) if self._is_ours(machine) else None

    @hookimpl
    def pshed_stored_records(self, machine: Machine) -> Sequence[tuple[int, bytes]] | None:
        return machine.nonvolatile.entries("own") if self._is_ours(machine) else None

    @hookimpl
    def pshed_clear_record(self, machine: Machine, identity: int) -> bool | None:
        return machine.nonvolatile.clear("own", identity) if self._is_ours(machine) else None


def test_a_plug_in_changes_nothing_on_other_platforms() -> None:
    def digest(*plugins: object) -> str:
        stream = [error(), error("recoverable", contained=True), error("fatal")]
        machine = fail(machine_with(*plugins), *stream)
        return fail(machine.restart(5), error()).tracer.digest()

    assert digest() == digest(Platform(name="superdome"))
    assert digest() != digest(Platform(name=SERVER.name))


def test_a_plug_in_overrides_what_it_answers_and_no_more() -> None:
    machine = fail(machine_with(Platform(name=SERVER.name)), error("fatal"))
    assert machine.nonvolatile.entries("ERST") == []
    assert len(machine.nonvolatile.entries("own")) == 1
    (record,) = logged(machine.restart(5))
    assert record.sections[0].fru_text == "DIMM"
    assert evidence.named(record, SERVER) == MEMORY
    assert machine.nonvolatile.used == 0

    (record,) = logged(fail(machine_with(Platform(name=SERVER.name)), error(component=PROCESSOR)))
    assert evidence.named(record, SERVER) == PROCESSOR


NOTE = UUID("12345678-1234-5678-1234-567812345678")
"""A type of section that only a vendor knows."""


class Own:
    """What a plug-in needs that has an error source of its own, without its discovery."""

    @hookimpl
    def pshed_enable_source(self, source: ErrorSource) -> bool | None:
        return True if source.owner else None

    @hookimpl
    def pshed_retrieve(self, latched: LatchedError) -> Mapping[str, Any] | None:
        return {"fru_text": "PSU 2"} if latched.source.owner else None


def own_source(**fields: Any) -> ErrorSource:
    own = {"id": 90, "type": "generic", "signal": "interrupt", "kinds": ("pci",), "owner": "vendor"}
    return ErrorSource(**{"severities": ("corrected",), **own, **fields})


@plugin(name="vendor", summary="Has error sources of its own.", release="ws2008", requires=("whea",))
class Vendor(Own):
    sources: tuple[Any, ...] = option(default=(own_source(),), help="What it adds or changes.")

    @hookimpl
    def pshed_sources(self, found: tuple[ErrorSource, ...]) -> Sequence[ErrorSource]:
        return self.sources

    @hookimpl
    def low_level_handler(self, source: ErrorSource) -> Any:
        return (lambda machine, latched: [(NOTE, b"fan stopped")]) if source.owner else None

    @hookimpl
    def pshed_finalize(self, latched: LatchedError) -> Sequence[tuple[UUID, bytes]]:
        return [(NOTE, struct.pack("<Q", latched.time))]

    @hookimpl
    def pshed_attempt_recovery(self, latched: LatchedError, recovered: bool) -> bool:
        return latched.error.component.kind == "memory"

    @hookimpl
    def pshed_injectable(self) -> Sequence[tuple[str, str]]:
        return [("memory", "corrected")]


def test_a_plug_in_may_bring_a_source_with_its_handler_and_sections() -> None:
    machine = fail(machine_with(Vendor()), error(component=Component("pci", 0)))
    (record,) = logged(machine)
    assert record.notify == cper.Notify.GENERIC
    assert [section.body for section in record.sections] == [
        cper.Raw(NOTE, b"fan stopped"),
        cper.Raw(NOTE, struct.pack("<Q", MILLISECOND)),
    ]
    assert record.sections[0].fru_text == "PSU 2"
    assert machine.nonvolatile.log[0].event_id == 2


def test_a_plug_in_is_asked_for_recovery_even_where_the_system_is_not() -> None:
    machine = fail(machine_with(Vendor()), error("recoverable"))
    assert machine.crash is None
    assert counts(machine)["recovered"] == 1
    assert fail(machine, error("recoverable", PROCESSOR)).crash is not None


def test_a_plug_in_may_change_a_source() -> None:
    changed = ErrorSource(id=1, type="CMC", signal="polled", severities=("corrected",), poll_interval=77)
    machine = fail(machine_with(Vendor(sources=(changed,))), error(), gap=100)
    assert next(machine.tracer.records("Phase")).time == 154


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            (own_source(owner="nobody"),),
            "has the owner 'nobody'; expected a plugin that answers pshed_",
        ),
        ((own_source(owner=""),), "has the owner ''"),
        ((own_source(), own_source()), "two error sources of PSHED plug-ins have the id 90"),
        ((own_source(type="generc"),), "unknown type of error source 'generc'; .*did you mean 'generic'"),
        ((own_source(signal="polled", severities=("fatal",)),), "polled, yet has uncorrected"),
    ],
)
def test_sources_of_plug_ins_that_cannot_be_are_refused(sources: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        machine_with(Vendor(sources=sources))


def test_a_plug_in_that_adds_a_source_must_control_it() -> None:
    @plugin(name="vendor", summary="Adds a source and does no more.", release="ws2008", requires=("whea",))
    class Careless:
        @hookimpl
        def pshed_sources(self) -> Sequence[ErrorSource]:
            return [own_source()]

    with pytest.raises(UserError, match="expected a plugin that answers pshed_enable_source"):
        machine_with(Careless())


def test_a_plug_in_needs_whea() -> None:
    with pytest.raises(PluginError, match="unknown hook 'pshed"):
        boot(plugins=[Platform()], tables=SERVER)


def test_what_a_plug_in_tells_must_fit_the_section() -> None:
    @plugin(name="odd", summary="Names a field that no section has.", release="ws2008", requires=("whea",))
    class Odd:
        @hookimpl
        def pshed_retrieve(self) -> Mapping[str, Any]:
            return {"modul": 3}

    with pytest.raises(UserError, match="PSHED knows 'modul' of an error, which Memory has no field for"):
        fail(machine_with(Odd()), error())


# Management


def test_settings_of_a_source_count_from_the_next_boot_on() -> None:
    whea = Whea()
    machine = boot(plugins=[Ws2003(), whea], tables=SERVER)
    whea.set_source(machine, 1, threshold=5)
    assert machine.hardware_errors.sources[1].threshold == 0
    fail(machine, error("fatal"))
    again = machine.restart(1)
    assert again.hardware_errors.sources[1].threshold == 5
    assert again.hardware_errors.sources[0].threshold == 0


@pytest.mark.parametrize(
    ("identity", "change", "message"),
    [
        (77, {"threshold": 1}, "there is no error source 77"),
        (1, {"treshold": 1}, "did you mean 'threshold'"),
        (90, {"threshold": 1}, r"the settings of error source 90 \(generic\) cannot be kept"),
    ],
)
def test_settings_that_cannot_be_are_refused(identity: int, change: dict[str, int], message: str) -> None:
    whea = Whea()
    machine = boot(plugins=[Ws2003(), whea, Vendor()], tables=SERVER)
    with pytest.raises(UserError, match=message):
        whea.set_source(machine, identity, **change)


def test_errors_are_injected_where_the_platform_can_and_marked() -> None:
    whea = Whea()
    machine = boot(plugins=[Ws2003(), whea, Vendor()], tables=SERVER)
    whea.inject(machine, error())
    machine.run()
    (record,) = logged(machine)
    assert record.flags == RecordFlag.SIMULATED
    with pytest.raises(UserError, match="fatal error of a memory cannot be injected; expected corrected"):
        whea.inject(machine, error("fatal"))
    plain = boot(plugins=[Ws2003(), whea := Whea()], tables=SERVER)
    with pytest.raises(UserError, match="no injection here"):
        whea.inject(plain, error())


# What a dump of Server 2003 leaves open


def test_status_words_name_a_component_only_where_there_is_one_of_its_class() -> None:
    suspects = [PROCESSOR, Component("cache", 5, (1,)), Component("cache", 5, (2,)), MEMORY]

    def blamed(component: Component, *more: Component) -> Component | None:
        machine = fail(boot(plugins=[Ws2003()], tables=SERVER), error("fatal", component))
        dump = machine.nonvolatile.dumps[0]
        return evidence.read_dump(dump, SERVER, [*suspects, *more]).component

    for component in suspects:
        assert blamed(component) == component
    assert blamed(PROCESSOR, Component("processor", 6)) is None
    assert blamed(DEVICE, DEVICE) == DEVICE
    assert blamed(DEVICE, DEVICE, Component("pci", 0)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("memory", "disk")}, "'disk' is no kind of component"),
        ({"kinds": ()}, "the machine has no such component"),
        ({"fatal": 0.6, "recoverable": 0.6}, "more than all errors are uncorrected"),
    ],
)
def test_faults_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NtlabError, match=message):
        Faults(**options).start(machine_with())

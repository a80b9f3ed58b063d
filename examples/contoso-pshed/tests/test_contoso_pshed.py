"""The plug-in on Contoso's machines and on others', and that the claims fail without it."""

from __future__ import annotations

from typing import Any

import pytest

import ntlab
from contoso_pshed import ContosoPshed, processor
from contoso_pshed.parts import chassis_parts, label
from contoso_pshed.plugin import FIRST_SOURCE, service_report
from contoso_pshed.records import CHASSIS, WARNING, read_log
from contoso_pshed.workloads import Wear
from ntlab import hookimpl
from ntlab.machine import Component, HardwareError, Machine
from ntlab.machine.hardware_errors import components
from ntlab.testing import boot, conformance
from ntlab.topology import Tables, load, profiles
from ntlab_whea import Whea, cper, evidence
from ntlab_ws2003 import Ws2003

C4, OTHER = load("contoso-c4").freeze(), load("opteron-4s").freeze()
MODULE = Component("memory", 2, (1, 3))
FAN = Component("pci", next(iter(chassis_parts(C4))))
HOUR = 3_600_000_000_000

test_conformance = conformance(
    "contoso_pshed",
    idle={
        "pshed_set_source": "administrators set sources, not experiments: tested below",
        "pshed_injectable": "administrators inject errors, not experiments: tested below",
    },
)


def error(component: Component = MODULE, severity: Any = "corrected") -> HardwareError:
    return HardwareError(component=component, severity=severity)


def machine_with(*plugins: object, tables: Tables = C4, **options: Any) -> Machine:
    mine = ContosoPshed(**options)
    return boot(plugins=[Ws2003(architecture="x64"), Whea(), mine, *plugins], tables=tables, trace=True)


def fail(machine: Machine, *errors: HardwareError, gap: int = HOUR) -> Machine:
    for number, one in enumerate(errors, 1):
        machine.engine.at(machine.engine.now + number * gap, machine.hardware_errors.occur, one)
    machine.run()
    return machine


def logged(machine: Machine) -> list[cper.Record]:
    """The log as whea's own decoder reads it."""
    return list(evidence.logged_records(machine.nonvolatile.log))


def warned(machine: Machine) -> list[bool]:
    return [entry.warns for entry in read_log(machine.nonvolatile.log)]


# The hardware


def test_the_profiles_are_found_by_their_names() -> None:
    known = profiles()
    ours = [name for name, profile in known.items() if profile.distribution == "contoso-pshed"]
    assert ours == ["contoso-c1", "contoso-c4"] == list(ContosoPshed().platforms)
    for name in ours:
        tables = load(name).freeze()
        assert (tables.name, "Made up" in tables.source) == (name, True)
    assert {C4.latency[0][cell] for cell in range(1, 4)} == {200}


@pytest.mark.parametrize("name", ["contoso-c1", "contoso-c4"])
def test_a_label_names_one_module_and_fits_into_a_record(name: str) -> None:
    tables = load(name).freeze()
    # Either bus of a slot is in one part, and so are a processor's caches.
    modules = [c for c in components(tables) if c.kind in ("memory", "pci")]
    assert len({label(tables, module) for module in modules}) == len(modules)
    assert all(0 < len(label(tables, one)) <= 20 for one in components(tables))


# On its platform


def test_a_record_names_the_part_and_still_says_where_it_is() -> None:
    for component in (MODULE, FAN, Component("processor", 5), Component("pcie", 0)):
        machine = fail(machine_with(), error(component))
        (record,) = logged(machine)
        assert record.sections[0].fru_text == label(C4, component)
        assert evidence.named(record, C4) == component
        (entry,) = read_log(machine.nonvolatile.log)
        assert (entry.part, entry.severity, entry.warns) == (label(C4, component), "corrected", False)


def test_the_chassis_has_sources_of_its_own() -> None:
    machine = fail(machine_with(), error(FAN))
    own = {s.device: s for s in machine.hardware_errors.sources.values() if s.owner}
    assert sorted(own) == chassis_parts(C4)
    (record,) = logged(machine)
    assert record.sections[0].body == cper.Raw(CHASSIS, bytes([FAN.number, 0, 4, 0]))
    # On a slot no one but PSHED listens, and PSHED knows no corrected errors of this bus.
    unseen = fail(machine_with(), error(Component("pci", 0)))
    assert unseen.hardware_errors.counts["unseen"] == 1


def test_settings_of_its_sources_are_kept_for_the_next_boot() -> None:
    whea = Whea()
    machine = boot(plugins=[Ws2003(), whea, ContosoPshed()], tables=C4)
    source = FIRST_SOURCE + FAN.number
    whea.set_source(machine, source, threshold=7)
    whea.set_source(machine, 1, threshold=5)
    again = fail(machine, error(severity="fatal")).restart(1)
    thresholds = {number: one.threshold for number, one in again.hardware_errors.sources.items()}
    assert {number: count for number, count in thresholds.items() if count} == {1: 5, source: 7}


@pytest.mark.parametrize("most", [0, 3])
def test_a_module_is_named_once_its_errors_are_more_than_that_in_the_window(most: int) -> None:
    machine = fail(machine_with(warn_after=most, window=10 * HOUR), *[error()] * (most + 2))
    assert warned(machine) == [False] * most + [True, True]
    body = logged(machine)[-1].sections[-1].body
    assert body == cper.Raw(WARNING, (most + 1).to_bytes(8, "little") + (10 * HOUR).to_bytes(8, "little"))
    assert len(service_report(machine).splitlines()) == 1


def test_errors_that_come_slowly_or_from_several_modules_name_none() -> None:
    assert not any(warned(fail(machine_with(warn_after=3, window=3 * HOUR), *[error()] * 20)))
    others = [error(Component("memory", cell, (0, slot))) for cell in range(4) for slot in range(3)]
    assert not any(warned(fail(machine_with(warn_after=1), *others)))


def test_the_count_lives_through_a_crash() -> None:
    machine = fail(machine_with(), *[error()] * 3, error(Component("processor", 0), "fatal"))
    again = fail(machine.restart(HOUR), error())
    assert warned(again) == [False, False, False, False, True]


def test_the_record_of_a_crash_is_in_the_service_processor_until_it_is_logged() -> None:
    machine = fail(machine_with(), error(severity="fatal"))
    assert machine.nonvolatile.entries("ERST") == []
    assert len(machine.nonvolatile.entries(processor.RECORDS)) == 1
    again = machine.restart(1)
    assert again.nonvolatile.entries(processor.RECORDS) == []
    assert service_report(again).endswith("CELL2 DIMM 3B         a fatal error")


def test_a_mirror_makes_up_for_one_uncorrected_error_of_a_cell() -> None:
    elsewhere = Component("memory", 1, (0, 0))
    machine = fail(
        machine_with(mirrored=True), error(severity="recoverable"), error(elsewhere, "recoverable")
    )
    assert machine.crash is None
    machine = fail(machine, error(severity="recoverable"))
    assert machine.crash is not None
    again = fail(machine.restart(1), error(severity="recoverable"))
    assert again.crash is not None, "the mirror stays broken"
    assert fail(machine_with(), error(severity="recoverable")).crash is not None
    processors = error(Component("processor", 0), "recoverable")
    assert fail(machine_with(mirrored=True), processors).crash is not None


def test_errors_may_be_injected() -> None:
    whea = Whea()
    machine = boot(plugins=[Ws2003(), whea, ContosoPshed()], tables=C4)
    whea.inject(machine, error(FAN))
    machine.run()
    assert [record.flags for record in logged(machine)] == [cper.RecordFlag.SIMULATED]
    elsewhere = boot(plugins=[Ws2003(), whea := Whea(), ContosoPshed()], tables=OTHER)
    with pytest.raises(ntlab.UserError, match="no injection here"):
        whea.inject(elsewhere, error())


# On the machines of others


def test_elsewhere_the_trace_is_the_same_bit_for_bit() -> None:
    def digest(*plugins: object, tables: Tables) -> str:
        machine = boot(plugins=[Ws2003(), Whea(), *plugins], tables=tables, trace=True)
        again = fail(machine, *[error()] * 6, error(severity="fatal")).restart(1)
        return fail(again, error(), error(severity="fatal")).restart(1).tracer.digest()

    mine = ContosoPshed(mirrored=True)
    assert digest(tables=OTHER) == digest(mine, tables=OTHER)
    assert digest(tables=C4) != digest(ContosoPshed(mirrored=True), tables=C4)
    assert digest(tables=C4) == digest(ContosoPshed(platforms=()), tables=C4)


# The workload


def test_under_mirroring_each_cell_saves_one_crash() -> None:
    machine = machine_with(mirrored=True)
    wear = Wear(errors=0, strays=0, reports=0)
    wear.start(machine)
    machine.run()
    while machine.crash is not None:
        machine = wear.restart(machine)
        machine.run()
    cells = {module.number for module in wear._worn}
    metrics = {metric.name: metric.value for metric in wear.measure(machine)}
    assert metrics["failures"] == 4
    assert metrics["crashes"] == 4 - len(cells)


def test_what_cannot_wear_does_not() -> None:
    result = ntlab.run(
        "contoso-service", hardware="uni", set={"workload.worn": 100, "workload.errors": 1}, seeds=1, jobs=1
    )
    assert result.arms["vendor"].metrics["failures"].mean == 8
    assert result.arms["vendor"].metrics["chassis_reports"].mean == 0


# The claims


def failing(experiment: str, **change: Any) -> set[str]:
    changes = {key.replace("__", "."): value for key, value in change.items()}
    result = ntlab.run(experiment, set=changes, jobs=1)
    return {found.claim.id.removeprefix(f"{experiment}-") for found in result.claims if not found.holds}


SERVICE = {"parts", "chassis", "warned", "early", "alarms", "mirrored"}


@pytest.mark.parametrize("experiment", ["contoso-platform", "contoso-service"])
def test_the_claims_hold(experiment: str) -> None:
    assert failing(experiment) == set()


@pytest.mark.parametrize(
    ("experiment", "platforms", "fails"),
    [
        ("contoso-platform", [], {"parts"}),
        ("contoso-platform", ["contoso-c4", "opteron-4s"], {"parts"}),
        ("contoso-service", [], SERVICE),
        ("contoso-service", ["contoso-c4", "opteron-4s"], {"parts", "warned"}),
    ],
)
def test_the_claims_fail_if_it_takes_no_platform_or_any_for_its_own(
    experiment: str, platforms: list[str], fails: set[str]
) -> None:
    assert failing(experiment, contoso_pshed__platforms=platforms) == fails


@pytest.mark.parametrize(
    ("experiment", "hook", "fails"),
    [
        ("contoso-platform", "pshed_retrieve", {"parts"}),
        ("contoso-platform", "pshed_write_record", {"store"}),
        ("contoso-platform", "pshed_stored_records", {"store"}),
        ("contoso-platform", "pshed_clear_record", {"store"}),
        ("contoso-service", "pshed_sources", {"parts", "chassis"}),
        ("contoso-service", "pshed_retrieve", SERVICE - {"mirrored"}),
        ("contoso-service", "pshed_finalize", {"warned", "early", "alarms"}),
        ("contoso-service", "pshed_attempt_recovery", {"mirrored"}),
    ],
)
def test_the_claims_fail_without_the_hooks(
    experiment: str, hook: str, fails: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: object) -> None:
        return None

    def passed_on(self: object) -> Any:
        return (yield)

    wraps = hook == "pshed_retrieve"
    monkeypatch.setattr(ContosoPshed, hook, hookimpl(wrapper=wraps)(passed_on if wraps else silent))
    assert failing(experiment) == fails

"""Contoso's PSHED plug-in: the areas of PSHED in which its machines differ from others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any
from uuid import UUID

import attrs

from contoso_pshed import processor
from contoso_pshed.parts import SENSORS, chassis_parts, label
from contoso_pshed.records import chassis_section, read_log, warning_section
from contoso_pshed.workloads import Wear
from ntlab import Duration, hookimpl, option, plugin
from ntlab.machine import ErrorSource, LatchedError, Machine
from ntlab.machine.crashes import date_at

NAME = "contoso_pshed"
FIRST_SOURCE = 0x1000
"""The id of the first source of the chassis; the number of its device is added."""
_SETTABLE = ("threshold", "window", "records")

Section = tuple[UUID, bytes]


@plugin(
    name=NAME,
    summary="A vendor's PSHED plug-in: on Contoso's machines, and on no others.",
    release="ws2008",
    ledger=("E3",),
    requires=("whea",),
    workloads=(Wear,),
    neutral={"platforms": []},
)
class ContosoPshed:
    """Answers None, or what the default says, on every machine that is not Contoso's."""

    platforms: tuple[str, ...] = option(
        default=("contoso-c1", "contoso-c4"), help="The names of Contoso's machines."
    )
    warn_after: int = option(
        default=3,
        help="More corrected errors of a memory module than that in the window: replace it.",
        minimum=0,
        maximum=500,
    )
    window: Duration = option(
        default=Duration(7 * 24 * 3_600_000_000_000), help="The window of these errors.", minimum=1
    )
    mirrored: bool = option(
        default=False,
        help="Whether each cell keeps its memory twice, which makes up for one uncorrected error.",
    )

    def _is_ours(self, machine: Machine) -> bool:
        return machine.tables.name in self.platforms

    # -- discovery and control of error sources ------------------------------------------------------------

    @hookimpl
    def pshed_sources(self, machine: Machine) -> Sequence[ErrorSource] | None:
        if not self._is_ours(machine):
            return None
        kept = processor.settings(machine)
        sources = []
        for device in chassis_parts(machine.tables):
            source = ErrorSource(
                id=FIRST_SOURCE + device,
                type="SCI generic",
                signal="interrupt",
                kinds=("pci",),  # the service processor shows them as functions on its PCI bus
                severities=("corrected",),
                device=device,
                owner=NAME,
            )
            changed: Any = kept.get(source.id, {})
            sources.append(attrs.evolve(source, **changed))
        return sources

    @hookimpl
    def pshed_enable_source(self, source: ErrorSource) -> bool | None:
        return True if source.owner == NAME else None

    @hookimpl
    def pshed_set_source(self, machine: Machine, source: ErrorSource) -> bool | None:
        return processor.keep_settings(machine, source, _SETTABLE) if source.owner == NAME else None

    @hookimpl
    def low_level_handler(
        self, source: ErrorSource
    ) -> Callable[[Machine, LatchedError], Sequence[Section]] | None:
        return _read_sensor if source.owner == NAME else None

    # -- what a record says --------------------------------------------------------------------------------

    @hookimpl(wrapper=True)
    def pshed_retrieve(
        self, machine: Machine, latched: LatchedError
    ) -> Generator[None, Mapping[str, Any], Mapping[str, Any]]:
        """Whoever answers knows where it was; Contoso adds the label of the part."""
        found = yield
        if not self._is_ours(machine):
            return found
        return {**found, "fru_text": label(machine.tables, latched.error.component)}

    @hookimpl
    def pshed_finalize(self, machine: Machine, latched: LatchedError) -> Sequence[Section] | None:
        error = latched.error
        if not self._is_ours(machine) or error.severity != "corrected" or error.component.kind != "memory":
            return None
        errors = processor.count_error(
            machine, error.component, latched.time, window=self.window, most=self.warn_after + 1
        )
        return [warning_section(errors, self.window)] if errors > self.warn_after else None

    # -- a store of its own --------------------------------------------------------------------------------

    @hookimpl
    def pshed_write_record(self, machine: Machine, identity: int, data: bytes) -> bool | None:
        ours = self._is_ours(machine)
        return machine.nonvolatile.write(processor.RECORDS, identity, data) if ours else None

    @hookimpl
    def pshed_stored_records(self, machine: Machine) -> Sequence[tuple[int, bytes]] | None:
        return machine.nonvolatile.entries(processor.RECORDS) if self._is_ours(machine) else None

    @hookimpl
    def pshed_clear_record(self, machine: Machine, identity: int) -> bool | None:
        return machine.nonvolatile.clear(processor.RECORDS, identity) if self._is_ours(machine) else None

    # -- recovery and injection ----------------------------------------------------------------------------

    @hookimpl
    def pshed_attempt_recovery(self, machine: Machine, latched: LatchedError, recovered: bool) -> bool | None:
        component = latched.error.component
        if recovered or not self.mirrored or not self._is_ours(machine) or component.kind != "memory":
            return None
        return processor.break_mirror(machine, component.number)

    @hookimpl
    def pshed_injectable(self, machine: Machine) -> Sequence[tuple[str, str]] | None:
        if not self._is_ours(machine):
            return None
        return [("memory", "corrected"), ("memory", "recoverable"), ("pci", "corrected")]

    # -- what the technician sees --------------------------------------------------------------------------

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"service-report": service_report}


def _read_sensor(machine: Machine, latched: LatchedError) -> Sequence[Section]:
    device = latched.error.component.number
    return [chassis_section(device, SENSORS[machine.tables.devices[device].type])]


def service_report(machine: Machine) -> str:
    """The parts that the event log asks to be replaced: when first, and why."""
    due: dict[str, str] = {}
    for entry in read_log(machine.nonvolatile.log):
        why = "errors are corrected too often" if entry.warns else f"a {entry.severity} error"
        if entry.part and (entry.warns or entry.severity != "corrected"):
            due.setdefault(entry.part, f"{date_at(entry.time):%Y-%m-%d %H:%M}  {entry.part:20}  {why}")
    return "\n".join(due.values())

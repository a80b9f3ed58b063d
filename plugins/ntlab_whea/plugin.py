"""The Windows Hardware Error Architecture of Server 2008 and 2008 R2."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from ntlab.errors import UnknownNameError, UserError
from ntlab.hooks import hookimpl, implementations
from ntlab.machine import Crash, ErrorSource, HardwareError, LatchedError, Machine
from ntlab.plugin import option, plugin, state
from ntlab.quantities import Duration
from ntlab_whea import events, hooks
from ntlab_whea.dump import WHEA_UNCORRECTABLE_ERROR
from ntlab_whea.handlers import ProcessorHandler, handle_pcie
from ntlab_whea.pshed import PSHEDS, SOURCE_TYPES, Pshed
from ntlab_whea.reporting import Reporting
from ntlab_whea.workloads import Faults

SETTINGS = "WHEA error sources"
"""The store of settings that count from the next boot on."""
_SETTABLE = ("poll_interval", "threshold", "window", "records")


@plugin(
    name="whea",
    summary="Hardware errors are reported in one format, logged, and kept through a crash.",
    release="ws2008",
    ledger=("E1", "E2", "E3", "E4"),
    workloads=(Faults,),
    hookspecs=(hooks,),
)
class Whea:
    """Error sources, their handlers, PSHED and the kernel's reporting.

    The pieces that drivers and vendors may replace are hooks (`ntlab_whea.hooks`); the defaults are here.
    """

    era: Literal["machine", "ws2008", "ws2008r2"] = option(
        default="machine",
        help="Whose record revision, sections and events: those of the machine's release, or of a given one.",
    )
    retrieval: bool = option(
        default=True, help="Whether PSHED is asked for what the platform knows of an error."
    )
    threshold: int = option(
        default=0,
        help="More corrected errors of a source than that in the window are worth an event.",
        minimum=0,
    )
    window: Duration = option(
        default=Duration(60_000_000_000), help="The window of the threshold.", minimum=1
    )
    records: int = option(
        default=4,
        help="Records set aside for each source: so many errors can wait for their report.",
        minimum=1,
    )

    _pshed: Pshed = state(lambda: PSHEDS["x64"])
    _era: str = state(str)
    _reporting: Reporting | None = state(lambda: None)

    # -- a machine's life ----------------------------------------------------------------------------------

    @hookimpl
    def error_sources(self, machine: Machine) -> Sequence[ErrorSource]:
        if machine.architecture not in PSHEDS:
            raise UnknownNameError("architecture", machine.architecture, PSHEDS)
        self._pshed = PSHEDS[machine.architecture]
        self._era = self.era if self.era != "machine" else machine.release
        sources = {}
        kept = {identity: json.loads(data) for identity, data in machine.nonvolatile.entries(SETTINGS)}
        for source in self._pshed.find(machine):
            settings: Any = {"threshold": self.threshold, "window": self.window, "records": self.records}
            sources[source.id] = attrs.evolve(source, **(settings | kept.get(source.id, {})))
        own = set(sources)
        for source in self._of_vendors(machine, tuple(sources.values())):
            if source.id not in own:
                _check_owner(machine, source)
            sources[source.id] = source
        for source in sources.values():
            if source.type not in SOURCE_TYPES:
                raise UnknownNameError("type of error source", source.type, SOURCE_TYPES)
        enable = machine.hooks.pshed_enable_source
        return [source for source in sources.values() if enable(machine, source)]

    def _of_vendors(self, machine: Machine, found: tuple[ErrorSource, ...]) -> list[ErrorSource]:
        ask = machine.hooks.pshed_sources
        added = [source for answer in (ask(machine, found) if ask is not None else []) for source in answer]
        for source in added:
            if sum(other.id == source.id for other in added) > 1:
                raise UserError(f"two error sources of PSHED plug-ins have the id {source.id}")
        return added

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        sources = machine.hardware_errors.sources
        handlers = {
            identity: machine.hooks.low_level_handler(machine, source) for identity, source in sources.items()
        }
        self._reporting = Reporting(machine, handlers, era=self._era, ask=self.retrieval)
        trace = machine.tracer.emitter(events.INITIALIZED)
        if trace is not None:
            text = machine.tracer.text
            names = text(self._era), text(self._pshed.architecture)
            trace((machine.engine.now, events.INITIALIZED.id, events.INITIALIZED_ID, *names, len(sources)))
        self._reporting.replay()

    @hookimpl
    def hardware_error(self, latched: LatchedError) -> bool:
        assert self._reporting is not None
        self._reporting.notified(latched)
        return True

    @hookimpl
    def crash_memory(self, crash: Crash) -> Sequence[tuple[int, bytes]] | None:
        fatal = self._reporting.fatal if self._reporting is not None else None
        return [fatal] if crash.code == WHEA_UNCORRECTABLE_ERROR and fatal is not None else None

    # -- the defaults: handlers and PSHED ------------------------------------------------------------------

    @hookimpl
    def low_level_handler(self, source: ErrorSource) -> hooks.LowLevelHandler:
        return handle_pcie if source.kinds == ("pcie",) else ProcessorHandler(self._pshed, self._era)

    @hookimpl
    def pshed_set_source(self, machine: Machine, source: ErrorSource) -> bool:
        if source.owner:
            return False
        settings = {name: getattr(source, name) for name in _SETTABLE}
        return machine.nonvolatile.write(SETTINGS, source.id, json.dumps(settings).encode())

    @hookimpl
    def pshed_enable_source(self, source: ErrorSource) -> bool:
        return not source.owner

    @hookimpl
    def pshed_write_record(self, machine: Machine, identity: int, data: bytes) -> bool:
        return machine.nonvolatile.write(self._pshed.store, identity, data)

    @hookimpl
    def pshed_stored_records(self, machine: Machine) -> Sequence[tuple[int, bytes]]:
        return machine.nonvolatile.entries(self._pshed.store)

    @hookimpl
    def pshed_clear_record(self, machine: Machine, identity: int) -> bool:
        return machine.nonvolatile.clear(self._pshed.store, identity)

    @hookimpl
    def pshed_retrieve(self, latched: LatchedError) -> Mapping[str, Any]:
        return self._pshed.retrieve(latched)

    @hookimpl
    def recover_error(self, latched: LatchedError) -> bool:
        return latched.error.contained

    @hookimpl
    def pshed_inject(self, machine: Machine, error: HardwareError) -> bool:
        machine.hardware_errors.occur(error)
        return True

    # -- management ----------------------------------------------------------------------------------------

    def set_source(self, machine: Machine, identity: int, **settings: int) -> None:
        """Change `poll_interval`, `window` (ns), `threshold` or `records` of a source, from the next boot on.

        Raises UserError for a source that is not there, or where PSHED cannot keep it.
        """
        source = machine.hardware_errors.sources.get(identity)
        if source is None:
            known = ", ".join(map(str, machine.hardware_errors.sources))
            raise UserError(f"there is no error source {identity}", expected=f"one of {known}")
        for name in settings:
            if name not in _SETTABLE:
                raise UnknownNameError("setting", name, _SETTABLE)
        changed: Any = settings
        if not machine.hooks.pshed_set_source(machine, attrs.evolve(source, **changed)):
            raise UserError(f"the settings of error source {identity} ({source.type}) cannot be kept")

    def inject(self, machine: Machine, error: HardwareError) -> None:
        """Let the hardware find an error, marked as simulated, for a test of what handles it.

        Raises UserError where the platform cannot inject it; by default it can inject none.
        """
        ask = machine.hooks.pshed_injectable
        able = (ask(machine) if ask is not None else None) or ()
        what = error.component.kind, error.severity
        if what not in able or not machine.hooks.pshed_inject(machine, attrs.evolve(error, simulated=True)):
            raise UserError(
                f"a {error.severity} error of a {error.component.kind} cannot be injected",
                expected=", ".join(f"{severity} {kind}" for kind, severity in able) or "no injection here",
            )


def _check_owner(machine: Machine, source: ErrorSource) -> None:
    """Refuse a source that PSHED does not know and nobody controls."""
    answers = implementations(machine.manager)
    for hook in ("pshed_enable_source", "pshed_retrieve"):
        if not source.owner or source.owner not in answers[hook]:
            raise UserError(
                f"error source {source.id} ({source.type}) has the owner {source.owner!r}",
                expected=f"a plugin that answers {hook}, since PSHED does not know the source",
            )

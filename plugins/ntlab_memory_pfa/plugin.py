"""Predictive failure analysis of memory pages, as Windows Server 2008 R2 does it itself."""

from __future__ import annotations

from typing import Literal

from attrs import define

from ntlab.hooks import hookimpl
from ntlab.machine import LatchedError, Machine
from ntlab.plugin import option, plugin, state
from ntlab.quantities import SECOND
from ntlab.tracing import event_type
from ntlab_memory_pfa.workloads import WeakCells

SETTING_IGNORED = event_type("Lab-Pfa", "SettingIgnored", "setting$ value used")
PAGE = event_type("Lab-Pfa", "Page", "frame what$ errors")

BAD_PAGES = "BCD: bad memory"
"""The store of pages that are not to be used after the next boot either."""
DEFAULTS = {"page_count": 64, "threshold": 16, "timeout": 86_400}
RANGES = {"page_count": (1, 65_536), "threshold": (1, 65_536), "timeout": (0, 604_800)}


@define
class _Monitored:
    """A page that is watched: since when, and its errors since then."""

    since: int
    errors: int = 0


@plugin(
    name="memory_pfa",
    summary="The kernel counts corrected errors of single pages, and uses those with too many no more.",
    release="ws2008r2",
    ledger=("E5",),
    requires=("whea",),
    workloads=(WeakCells,),
    neutral={"disable": True},
)
class MemoryPfa:
    """The options are the values of the registry key WHEA\\Policy, and keep its habits: one that is out of
    range is ignored, and its default used."""

    disable: bool = option(default=False, help="MemPfaDisable: whether nothing is monitored.")
    disable_offline: bool = option(
        default=False, help="DisableOffline: whether pages are monitored and used all the same."
    )
    persist_offline: bool = option(
        default=True, help="MemPersistOffline: whether a page stays unused after the next boot."
    )
    page_count: int = option(default=64, help="MemPfaPageCount: pages monitored at a time, 1 to 65536.")
    threshold: int = option(
        default=16, help="MemPfaThreshold: more errors than that are too many, 1 to 65536."
    )
    timeout: int = option(
        default=86_400, help="MemPfaTimeout: seconds that a page is monitored, 0 (for ever) to 604800."
    )
    eviction: Literal["oldest", "refuse"] = option(
        default="oldest",
        help="When all are in use: the page monitored longest goes, or the new one is not taken.",
    )

    _monitored: dict[int, _Monitored] = state(dict)
    """By frame, those that came first first."""
    _settings: dict[str, int] = state(dict)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        if self.disable:
            return
        for name, default in DEFAULTS.items():
            value, (low, high) = getattr(self, name), RANGES[name]
            self._settings[name] = value if low <= value <= high else default
            trace = machine.tracer.emitter(SETTING_IGNORED)
            if value != self._settings[name] and trace is not None:
                trace((machine.engine.now, SETTING_IGNORED.id, machine.tracer.text(name), value, default))
        for frame, _ in machine.nonvolatile.entries(BAD_PAGES):
            machine.memory.take_out(frame)

    @hookimpl
    def error_reported(self, machine: Machine, latched: LatchedError) -> None:
        error = latched.error
        if self.disable or error.component.kind != "memory" or error.severity != "corrected":
            return
        frame = error.address // machine.memory.policy.page_size
        if machine.memory.node_of(frame) is None:
            return
        now, timeout = latched.time, self._settings["timeout"] * SECOND
        page = self._monitored.get(frame)
        if page is not None and timeout and now - page.since > timeout:
            del self._monitored[frame]
            page = None
        if page is None:
            page = self._monitor(frame, now)
            if page is None:
                self._note(machine, frame, "not monitored", 1)
                return
        page.errors += 1
        if page.errors > self._settings["threshold"] and not self.disable_offline:
            del self._monitored[frame]
            gone = machine.memory.take_out(frame)
            self._note(machine, frame, "offline" if gone else "in use", page.errors)
            if gone and self.persist_offline:
                machine.nonvolatile.write(BAD_PAGES, frame, bytes(8))

    def _monitor(self, frame: int, now: int) -> _Monitored | None:
        """Watch a page from now on. None where there is no place for it."""
        if len(self._monitored) >= self._settings["page_count"]:
            if self.eviction == "refuse":
                return None
            del self._monitored[next(iter(self._monitored))]
        page = self._monitored[frame] = _Monitored(now)
        return page

    def _note(self, machine: Machine, frame: int, what: str, errors: int) -> None:
        trace = machine.tracer.emitter(PAGE)
        if trace is not None:
            trace((machine.engine.now, PAGE.id, frame, machine.tracer.text(what), errors))

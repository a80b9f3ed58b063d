"""Components that fail: the same seeded stream of errors for every arm, through crashes and restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

from attrs import frozen

from ntlab.errors import UserError
from ntlab.machine import Component, HardwareError, LatchedError, Machine
from ntlab.machine.crashes import date_at
from ntlab.machine.hardware_errors import KINDS, Severity, components
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import SECOND, Duration, Share, Size
from ntlab.topology import Tables
from ntlab_whea.cper import Record
from ntlab_whea.evidence import Crashed, describe, event_log, is_previous, logged_records, named, read_dump

OWNER = "whea.faults"


@frozen
class _Lived:
    """One crash: what was to blame, and what its dump tells, if there is one."""

    culprit: LatchedError
    crashed: Crashed | None


@workload(name="faults", summary="A few bad components fail again and again, through crashes and restarts.")
class Faults:
    """Errors fall on a few bad components, on the worst of them most often, as field studies find.

    What becomes of them is read from what survives: the dumps and the event log. The errors that come while
    the machine is down do not happen. A conventional PCI bus corrects nothing, so where the draw says that it
    did, another component did; where there is none, the error is a recoverable one.
    """

    errors: int = option(default=60, help="How many errors.", minimum=1)
    gap: Duration = option(default=Duration(300_000_000_000), help="Mean time between two errors.", minimum=1)
    bad: int = option(default=12, help="How many components are bad.", minimum=1)
    kinds: tuple[str, ...] = option(default=KINDS, help="Kinds of components that fail.")
    recoverable: Share = option(
        default=Share(0.1), help="Share of errors that are uncorrected, yet not fatal."
    )
    fatal: Share = option(default=Share(0.1), help="Share of fatal errors; the rest is corrected.")
    contained: Share = option(
        default=Share(0.5), help="Share of the recoverable errors after which a system that can goes on."
    )
    cards: int = option(default=2, help="Memory cards in a node.", minimum=1)
    modules: int = option(default=4, help="Modules in a memory card.", minimum=1)
    restart_time: Duration = option(
        default=Duration(120_000_000_000), help="From a crash to the next boot.", minimum=0
    )
    store: Size = option(default=Size(65536), help="What the platform's persistent store holds.", minimum=0)
    dumps: bool = option(default=True, help="Whether crash dumps are written.")

    _suspects: list[Component] = state(list)
    _happened: list[HardwareError] = state(list)
    _crashes: list[_Lived] = state(list)
    _left: list[tuple[int, HardwareError]] = state(list)
    """Times and errors still to come, the next one last."""

    def start(self, machine: Machine) -> None:
        machine.nonvolatile.capacity = self.store
        machine.nonvolatile.keeps_dumps = self.dumps
        for kind in self.kinds:
            if kind not in KINDS:
                raise UserError(f"{kind!r} is no kind of component", where=OWNER, expected=", ".join(KINDS))
        if self.recoverable + self.fatal > 1:
            raise UserError("more than all errors are uncorrected", where=f"{OWNER}: recoverable, fatal")
        self._suspects = components(machine.tables, cards=self.cards, modules=self.modules)
        bad = self._draw_bad(machine)
        self._left = self._draw_errors(machine, bad)[::-1]
        self._next(machine)

    def restart(self, machine: Machine) -> Machine | None:
        culprit = machine.hardware_errors.handling
        assert culprit is not None
        dump = machine.nonvolatile.dumps[-1] if self.dumps else None
        crashed = read_dump(dump, machine.tables, self._suspects) if dump is not None else None
        self._crashes.append(_Lived(culprit, crashed))
        again = machine.restart(self.restart_time)
        while self._left and self._left[-1][0] < again.engine.now:
            self._left.pop()
        self._next(again)
        return again

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"event-log": event_log, "dumps": self._dumps}

    def _dumps(self, machine: Machine) -> str:
        """What each crash dump tells."""
        lines = []
        for lived in self._crashes:
            if lived.crashed is not None:
                stop = lived.crashed.dump.bug_check
                parameters = ", ".join(f"{word:#018x}" for word in (stop.p1, stop.p2, stop.p3, stop.p4))
                lines.append(f"{stop.code:#010x} ({parameters})  {describe(lived.crashed.component)}")
        return "\n".join(lines)

    def _draw_bad(self, machine: Machine) -> list[Component]:
        """The bad components, worst first, of as many kinds as there are."""
        stream = machine.streams.stream(OWNER, "bad")
        by_kind = [[c for c in self._suspects if c.kind == kind] for kind in self.kinds]
        by_kind = [suspects for suspects in by_kind if suspects]
        if not by_kind:
            raise UserError("the machine has no such component", where=f"{OWNER}: kinds")
        bad: list[Component] = []
        for number in range(self.bad):
            left = by_kind[number % len(by_kind)]
            if left:
                bad.append(left.pop(stream.randrange(len(left))))
        stream.shuffle(bad)
        return bad

    def _draw_errors(self, machine: Machine, bad: list[Component]) -> list[tuple[int, HardwareError]]:
        stream = machine.streams.stream(OWNER, "errors")
        weights = [1 / (rank + 1) for rank in range(len(bad))]
        correcting = [(c, weight) for c, weight in zip(bad, weights, strict=True) if c.kind != "pci"]
        time = 0
        found = []
        for _ in range(self.errors):
            time += stream.randrange(1, 2 * self.gap)
            chance, contained = stream.random(), stream.random()
            severity: Severity = "corrected"
            if chance < self.fatal:
                severity = "fatal"
            elif chance < self.fatal + self.recoverable or not correcting:
                severity = "recoverable"
            able = correcting if severity == "corrected" else list(zip(bad, weights, strict=True))
            component = stream.choices(*zip(*able, strict=True))[0]
            address = stream.randrange(1, machine.tables.memory >> 12 or 2) << 12
            found.append(
                (
                    time,
                    HardwareError(
                        component=component,
                        severity=severity,
                        address=address if component.kind in ("cache", "memory") else 0,
                        contained=contained < self.contained,
                    ),
                )
            )
        return found

    def _next(self, machine: Machine) -> None:
        if self._left:
            machine.engine.at(self._left[-1][0], self._fail, machine)

    def _fail(self, machine: Machine) -> None:
        _, error = self._left.pop()
        self._happened.append(error)
        self._next(machine)
        machine.hardware_errors.occur(error)

    # -- what is measured ----------------------------------------------------------------------------------

    def measure(self, machine: Machine) -> list[Metric]:
        tables = machine.tables
        log = list(logged_records(machine.nonvolatile.log))
        later = [record for record in log if is_previous(record)]
        at_once = (named(record, tables) for record in log if not is_previous(record))
        blamed = Counter(component for component in at_once if component is not None)
        dumped = [lived.crashed.record for lived in self._crashes if lived.crashed is not None]
        records = {r.record_id: r for r in (*log, *dumped) if r is not None}.values()
        replayed = [any(_tells(record, lived, tables) for record in later) for lived in self._crashes]
        in_dump = [
            lived.crashed is not None and lived.crashed.component == lived.culprit.error.component
            for lived in self._crashes
        ]
        survived = Counter(error.component for error in self._happened)
        survived.subtract(lived.culprit.error.component for lived in self._crashes)
        memory = Counter({c: count for c, count in survived.items() if c.kind == "memory"})
        delays = [
            event.time - _at(record)
            for event in machine.nonvolatile.log
            for record in logged_records([event])
            if not is_previous(record)
        ]
        crashes = len(self._crashes)
        uncorrected = sum(error.severity != "corrected" for error in self._happened)
        return [
            Metric("crashes", crashes),
            Metric("crash_share", _share(crashes, uncorrected)),
            Metric("crash_attribution", _share(sum(map(any, zip(replayed, in_dump, strict=True))), crashes)),
            Metric("error_attribution", _share((survived & blamed).total(), survived.total())),
            Metric("memory_attribution", _share((memory & blamed).total(), memory.total())),
            Metric("reported_share", _share(len(records), len(self._happened))),
            Metric("logging_delay", sum(delays) / len(delays) if delays else 0, "ns"),
            Metric("source_types", len({record.notify for record in records})),
            Metric("dumped_share", _share(sum(record is not None for record in dumped), crashes)),
            Metric("replayed_share", _share(sum(replayed), crashes)),
            Metric("fru_share", _share(sum(bool(r.sections[0].fru_text) for r in records), len(records))),
        ]


def _at(record: Record) -> int:
    """When the error of a record was, ns: records tell the second."""
    return (record.timestamp.moment() - date_at(0)) // timedelta(seconds=1) * SECOND


def _tells(record: Record, lived: _Lived, tables: Tables) -> bool:
    """Whether a record names what a crash was due to: the component, and the second in which it was."""
    at_that_second = record.timestamp.moment() == date_at(lived.culprit.time).replace(microsecond=0)
    return at_that_second and named(record, tables) == lived.culprit.error.component


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

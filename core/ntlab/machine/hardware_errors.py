"""Hardware errors: components fail, registers hold what happened, error sources tell the kernel.

An error of a component is *latched* in that component's registers, which hold one error: of two, the graver
one stays, and the other is lost and counted as overflow. A source *signals* what its registers hold: by an
exception or a non-maskable interrupt at that instant, by an interrupt that is served when the processor gets
to it, or not at all, so that the kernel must look (poll). What to do then is asked of plugins. Registers
outlive a crash: what they hold then is found when the machine boots again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import attrs

from ntlab.engine import INTERRUPT
from ntlab.errors import SimulationError, UnknownNameError, UserError
from ntlab.quantities import MICROSECOND, SECOND
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.topology import Tables

HARDWARE_ERROR = event_type("Hardware", "Error", "kind$ number card_or_level module severity$ source")

Kind = Literal["processor", "cache", "memory", "pci", "pcie"]
Severity = Literal["corrected", "recoverable", "fatal"]
Signal = Literal["exception", "interrupt", "nmi", "polled", "boot"]

KINDS: tuple[Kind, ...] = ("processor", "cache", "memory", "pci", "pcie")
SEVERITIES: tuple[Severity, ...] = ("corrected", "recoverable", "fatal")  # rising
SIGNALS: tuple[Signal, ...] = ("exception", "interrupt", "nmi", "polled", "boot")

_MCA_CODES = {"processor": 0x0400, "cache": 0x0100, "memory": 0x0080, "pci": 0x0E0B, "pcie": 0x0E0B}
"""Compound error codes of MCi_STATUS: internal, memory hierarchy, memory controller, bus and interconnect."""
_BANKS = {"processor": 3, "cache": 0, "memory": 4, "pci": 4, "pcie": 4}


@attrs.frozen
class Component:
    """Something that may fail.

    `number` is that of the processor (for "processor" and "cache"), of the node ("memory") or of the device
    ("pci": on its conventional bus, "pcie") in the machine's tables. `part` is (level,) of a cache and
    (card, module) of memory.
    """

    kind: Kind
    number: int
    part: tuple[int, ...] = ()


@attrs.frozen(kw_only=True)
class HardwareError:
    """An error as the hardware finds it. "recoverable" and "fatal" ones are uncorrected.

    `address` is the physical address, bytes. `contained` says that what was lost can be had again: a clean
    page, a packet that is sent once more. `simulated` marks an error that was injected through the kernel.
    """

    component: Component
    severity: Severity
    address: int = 0
    contained: bool = False
    simulated: bool = False


@attrs.frozen(kw_only=True)
class ErrorSource:
    """Something that tells the kernel of errors: those of some kinds and severities.

    `type` is its name, in the terms of whoever discovered it, and `owner` that plugin if it is not the kernel
    itself. `device` restricts it to that device. `service_time` (ns) is what its interrupt's service routine
    takes, `poll_interval` (ns) how often a polled one is looked at. `records` is how many errors of it may
    wait to be reported; more than `threshold` corrected errors in `window` ns are worth an event.
    """

    id: int
    type: str
    signal: Signal
    kinds: tuple[Kind, ...] = KINDS
    severities: tuple[Severity, ...] = SEVERITIES
    device: int | None = None
    owner: str = ""
    service_time: int = 10 * MICROSECOND
    poll_interval: int = 60 * SECOND
    records: int = 4
    threshold: int = 0
    window: int = 60 * SECOND

    def covers(self, error: HardwareError) -> bool:
        component = error.component
        return (
            component.kind in self.kinds
            and error.severity in self.severities
            and self.device in (None, component.number)
        )


@attrs.frozen
class LatchedError:
    """What a component's registers hold: an error, the source that signals it, when it came (ns), and how
    many others were lost to it (`overflow`)."""

    error: HardwareError
    source: ErrorSource
    time: int
    overflow: int = 0

    @property
    def bank(self) -> int:
        """The number of the machine-check bank."""
        return _BANKS[self.error.component.kind]

    @property
    def status(self) -> int:
        """MCi_STATUS: valid, overflow, uncorrected, enabled, address valid, context corrupt, error code."""
        error = self.error
        uncorrected = error.severity != "corrected"
        corrupt = error.severity == "fatal"
        level = error.component.part[0] & 3 if error.component.kind == "cache" else 0
        bits = {63: 1, 62: self.overflow > 0, 61: uncorrected, 60: 1, 58: error.address > 0, 57: corrupt}
        return (
            sum(1 << bit for bit, is_set in bits.items() if is_set) | _MCA_CODES[error.component.kind] | level
        )


def components(tables: Tables, *, cards: int = 2, modules: int = 4) -> list[Component]:
    """All that may fail on a machine, with so many memory cards in a node and modules in a card."""
    found = [Component("processor", i) for i in range(tables.processors)]
    found += [
        Component("cache", i, (cache,))
        for i in range(tables.processors)
        for cache in sorted({c.level for c in tables.caches if c.processors >> i & 1})
    ]
    found += [
        Component("memory", node, (card, module))
        for node in range(tables.nodes)
        if tables.node_memory[node]
        for card in range(cards)
        for module in range(modules)
    ]
    # The description does not say which bus a device speaks, so it may fail on either.
    for kind in ("pci", "pcie"):
        found += [Component(kind, device) for device in range(len(tables.devices))]
    return found


def pci_address(device: int) -> tuple[int, int, int, int]:
    """Segment, bus, device and function number of a device: each is alone on the bus behind a bridge."""
    segment, bus = divmod(device, 255)
    return segment, bus + 1, 0, 0


def device_at(segment: int, bus: int, device: int, function: int) -> int | None:
    """The device at an address, the inverse of `pci_address`; None for an address that no device has."""
    return segment * 255 + bus - 1 if 1 <= bus <= 255 and not device and not function else None


class HardwareErrors:
    """The failing hardware of one machine, and its error sources.

    `counts` adds up what became of errors: "occurred", "unseen" (no source covers it), "overflowed" (lost in
    the registers), "passed over" (signalled, but nobody answers), and whatever the kernel counts besides.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sources: dict[int, ErrorSource] = {}
        self.handling: LatchedError | None = None  # what is being handled right now
        self.counts = {"occurred": 0, "unseen": 0, "overflowed": 0, "passed over": 0}
        self._latched: dict[tuple[Kind, int], LatchedError] = {}
        self._polls: set[int] = set()  # sources that are going to be looked at
        self._hardware_error = machine.hooks.hardware_error
        self._error_reported = machine.hooks.error_reported
        self._trace = machine.tracer.emitter(HARDWARE_ERROR)

    def count(self, what: str, by: int = 1) -> None:
        """Add to `counts`."""
        self.counts[what] = self.counts.get(what, 0) + by

    @property
    def latched(self) -> list[LatchedError]:
        """What the registers hold, oldest first."""
        return list(self._latched.values())

    def start(self, left: Sequence[LatchedError]) -> None:
        """Boot: listen to the kernel's sources. `left` is what the registers hold since the last crash.

        Raises UserError for sources that cannot be.
        """
        ask = self.machine.hooks.error_sources
        for source in (ask(self.machine) if ask is not None else None) or ():
            _check(source)
            if source.id in self.sources:
                other = self.sources[source.id].type
                raise UserError(
                    f"error sources {other!r} and {source.type!r} have the id {source.id}",
                    expected="an id of its own for each",
                )
            self.sources[source.id] = source
        at_boot = next((source for source in self.sources.values() if source.signal == "boot"), None)
        for latched in left:
            self.count("occurred")
            if at_boot is None or not at_boot.covers(latched.error):
                self.count("unseen")
                continue
            self._latch(attrs.evolve(latched, source=at_boot))
            engine = self.machine.engine
            engine.at(engine.now, self._signalled, _registers(latched.error), INTERRUPT)

    def occur(self, error: HardwareError) -> None:
        """The hardware finds an error, now."""
        self.count("occurred")
        source = self._source_of(error)
        if self._trace is not None:
            text = self.machine.tracer.text
            part = (*error.component.part, 0, 0)[:2]
            place = text(error.component.kind), error.component.number, *part
            number = source.id if source is not None else -1
            self._trace((self.machine.engine.now, HARDWARE_ERROR.id, *place, text(error.severity), number))
        if source is None:
            self.count("unseen")
        elif self._latch(LatchedError(error, source, self.machine.engine.now)):
            self._signal(source, error)

    def reported(self, latched: LatchedError) -> None:
        """The kernel has recorded an error after which the machine goes on: tell who watches its health."""
        if self._error_reported is not None:
            self._error_reported(self.machine, latched)

    def counters(self) -> dict[str, float]:
        """How many errors came to what, since boot."""
        return {f"Hardware Errors\\{name}": float(count) for name, count in self.counts.items()}

    def check(self) -> None:
        """Compare registers and error sources. Raises SimulationError where they differ."""
        for key, latched in self._latched.items():
            if _registers(latched.error) != key or self.sources.get(latched.source.id) != latched.source:
                raise SimulationError(f"{latched!r} is in the registers of {key}, or its source is unknown")
            if latched.source.signal == "polled" and latched.source.id not in self._polls:
                raise SimulationError(f"nobody will look at {latched!r}")
        if any(count < 0 for count in self.counts.values()):
            raise SimulationError(f"hardware errors are counted wrong: {self.counts}")

    # -- registers -----------------------------------------------------------------------------------------

    def _source_of(self, error: HardwareError) -> ErrorSource | None:
        for source in self.sources.values():
            if source.signal != "boot" and source.covers(error):
                return source
        return None

    def _latch(self, latched: LatchedError) -> bool:
        """Put an error into its component's registers. False if a graver or equal one is there already."""
        key = _registers(latched.error)
        held = self._latched.get(key)
        if held is None:
            self._latched[key] = latched
            return True
        self.count("overflowed")
        graver = SEVERITIES.index(latched.error.severity) > SEVERITIES.index(held.error.severity)
        self._latched[key] = attrs.evolve(latched if graver else held, overflow=held.overflow + 1)
        return graver

    def _signal(self, source: ErrorSource, error: HardwareError) -> None:
        engine = self.machine.engine
        key = _registers(error)
        if source.signal in ("exception", "nmi"):
            engine.at(engine.now, self._signalled, key, INTERRUPT)
        elif source.signal == "interrupt":
            processor = self.machine.processors[self.processor_of(error.component)]
            self.machine.interrupts.interrupt(processor, source.service_time, self._signalled, key)
        elif source.id not in self._polls:
            # Only the look that will find something need happen.
            self._polls.add(source.id)
            due = -(-(engine.now + 1) // source.poll_interval) * source.poll_interval
            engine.at(due, self._poll, source.id)

    def processor_of(self, component: Component) -> int:
        """The processor that takes the signal: the failing one, or the first of those nearest."""
        tables = self.machine.tables
        if component.kind in ("processor", "cache"):
            return self.machine.scheduler.in_place_of(component.number)
        if component.kind == "memory":
            near = next(node for node in tables.nearest[component.number] if tables.node_mask[node])
            return tables.node_processors[near][0]
        mask = tables.devices[component.number].processors
        return (mask & -mask).bit_length() - 1

    def _poll(self, identity: int) -> None:
        self._polls.remove(identity)
        for key, latched in list(self._latched.items()):
            if latched.source.id == identity:
                self._signalled(key)

    def _signalled(self, key: tuple[Kind, int]) -> None:
        latched = self._latched.pop(key, None)
        if latched is None:
            return  # a graver error has taken the place of this one, and has been read
        self.handling = latched
        if self._hardware_error is None or not self._hardware_error(self.machine, latched):
            self.count("passed over")
        self.handling = None


def _registers(error: HardwareError) -> tuple[Kind, int]:
    """Which registers latch an error: those of the processor's bank, the memory controller or the device."""
    return error.component.kind, error.component.number


def _check(source: ErrorSource) -> None:
    where = f"error source {source.id} ({source.type})"
    for name, values, known in (
        ("signal", (source.signal,), SIGNALS),
        ("component kind", source.kinds, KINDS),
        ("severity", source.severities, SEVERITIES),
    ):
        for value in values:
            if value not in known:
                raise UnknownNameError(name, value, known, where=where)
    if source.signal == "polled" and source.severities != ("corrected",):
        raise UserError(
            "it is polled, yet has uncorrected errors",
            where=where,
            expected="corrected ones only: others need an exception or interrupt",
        )
    if source.poll_interval < 1 or source.service_time < 0 or source.window < 1 or source.threshold < 0:
        raise UserError("a negative time or threshold, or an interval of 0", where=where)
    if source.records < 1:
        raise UserError(f"{source.records} preallocated records", where=where, expected="at least 1")

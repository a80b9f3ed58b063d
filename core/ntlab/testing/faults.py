"""Fault injection: a plugin that disturbs a machine in legal ways, at random times, the same for a seed.

    machine = boot(4, [Faults(interval=100 * MICROSECOND), Ws2003(), Mine()], seed=3)

What it does could happen on any real machine, so nothing may break: not the core, not a plugin. Each kind
of disturbance has a random stream of its own: turning one off leaves the times of the others as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Literal, get_args

from ntlab.hooks import hookimpl
from ntlab.machine import (
    NOMINAL,
    Allocate,
    Compute,
    Device,
    Free,
    HardwareError,
    Io,
    IoRequest,
    Layer,
    Machine,
    Process,
    Processor,
    Request,
    RunOn,
    Sleep,
    Thread,
    Touch,
)
from ntlab.machine.hardware_errors import components
from ntlab.plugin import option, plugin, state
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration
from ntlab.tracing import event_type

Kind = Literal["interrupts", "dpcs", "speeds", "memory", "errors", "disks", "threads", "priorities"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FAULT = event_type("Lab-Faults", "Fault", "kind$ target value")

HIGHEST = 15  # the priorities above belong to real-time threads, which nobody else may disturb
ALIVE = 8  # threads of one kind at a time, so that they do not pile up on a busy machine


@plugin(
    name="faults",
    summary="Legal disturbances at random times, for tests.",
    release="ws2003",
    neutral={"kinds": []},
)
class Faults:
    """Disturbances of these `kinds`:

    - "interrupts", "dpcs": of 0 to `longest` ns, on any processor.
    - "speeds": a processor runs slower or faster for a while, or not at all. Not in a child partition.
    - "memory": a thread takes up to `pages` pages, keeps them for a while and gives them back.
    - "errors": hardware errors of these `severities`, where an error source covers them. Not in a child
      partition. Uncorrected ones are contained; a 2003 kernel stops at them all the same.
    - "disks": a device that holds back what passes it for a while, so that requests overtake each other.
    - "threads": threads that compute, sleep and move between processors, and end.
    - "priorities": some thread gets another priority for a while. Real-time threads are left alone.

    `injected` counts them by kind. With no kinds at all the plugin does nothing.
    """

    kinds: tuple[Kind, ...] = option(default=KINDS, help="Kinds of disturbances.")
    interval: Duration = option(
        default=Duration(1 * MILLISECOND),
        help="Mean time between two disturbances of a kind.",
        minimum=1 * MICROSECOND,
    )
    longest: Duration = option(
        default=Duration(200 * MICROSECOND), help="The longest that one lasts.", minimum=1
    )
    until: Duration = option(
        default=Duration(1 * SECOND), help="How long after boot the last one begins.", minimum=0
    )
    pages: int = option(default=256, help="The most pages that one thread takes.", minimum=1)
    severities: tuple[Literal["corrected", "recoverable"], ...] = option(
        default=("corrected",), help="Severities of hardware errors."
    )
    injected: dict[str, int] = state(dict)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        for kind in KINDS:
            if kind in self.kinds:
                _Injector(self, machine, kind).start()


class _Injector:
    """The disturbances of one kind on one machine."""

    def __init__(self, faults: Faults, machine: Machine, kind: Kind) -> None:
        self.faults = faults
        self.machine = machine
        self.engine = machine.engine
        self.kind = kind
        self.random: Random = machine.streams.stream("faults", kind)
        self.end = machine.engine.now + faults.until
        self._inject: Callable[[], tuple[int, int] | None] = getattr(self, kind)
        self._trace = machine.tracer.emitter(FAULT)
        self._process: Process | None = None
        self._components = components(machine.tables) if kind == "errors" else []
        self._slowed: set[int] = set()
        self._holding: dict[Device, Holding] = {}

    def start(self) -> None:
        self.engine.after(self._gap(), self._fire)

    def _gap(self) -> int:
        return 1 + int(self.random.expovariate(1 / self.faults.interval))

    def _fire(self, _: object) -> int | None:
        if self.engine.now > self.end:
            return None
        done = self._inject()
        if done is not None:
            self.faults.injected[self.kind] = self.faults.injected.get(self.kind, 0) + 1
            if self._trace is not None:
                self._trace((self.engine.now, FAULT.id, self.machine.tracer.text(self.kind), *done))
        return self._gap()

    # Each of these disturbs once and returns what and how much, for the record; None where there is nothing
    # to disturb.

    def interrupts(self) -> tuple[int, int]:
        processor, duration = self._processor(), self._duration()
        self.machine.interrupts.interrupt(processor, duration, vector=self.random.randrange(0x30, 0x100))
        return processor.index, duration

    def dpcs(self) -> tuple[int, int]:
        processor, duration = self._processor(), self._duration()
        self.machine.interrupts.queue_dpc(processor, duration, routine="faults")
        return processor.index, duration

    def speeds(self) -> tuple[int, int] | None:
        processor = self._processor()
        speed = self.random.choice((0, 1, 2, 3, 6)) * NOMINAL // 4
        duration = self._duration()
        if self.machine.partition is not None or processor.index in self._slowed:
            return None  # what a guest's processor does is up to the host
        speeds = self.machine.speeds
        self._slowed.add(processor.index)
        speeds.set(processor, "faults", speed)

        def restore(_: object) -> None:
            self._slowed.remove(processor.index)
            speeds.set(processor, "faults", NOMINAL)

        self.engine.after(duration, restore)
        return processor.index, speed

    def memory(self) -> tuple[int, int] | None:
        pages = self.random.randint(1, self.faults.pages)
        duration = self._duration()
        pages = min(pages, self.machine.memory.available // 2)
        if not pages or self._process_of().threads >= ALIVE:
            return None

        def program() -> Iterator[Request]:
            region: Any = yield Allocate(pages)
            if region is not None:
                yield Touch(region, write=True, accesses=0)
                yield Sleep(duration)
                yield Touch(region, accesses=1)
                yield Free(region)

        thread = self.machine.create_thread(self._process_of(), program())
        return thread.id, pages

    def errors(self) -> tuple[int, int] | None:
        error = HardwareError(
            component=self.random.choice(self._components),
            severity=self.random.choice(self.faults.severities or ("corrected",)),
            address=self.random.randrange(1 << 30) & ~63,
            contained=True,
        )
        sources = self.machine.hardware_errors.sources.values()
        covered = any(source.signal != "boot" and source.covers(error) for source in sources)
        if self.machine.partition is not None or not self.faults.severities or not covered:
            return None
        self.machine.hardware_errors.occur(error)
        return error.component.number, error.address

    def disks(self) -> tuple[int, int] | None:
        duration = self._duration()
        devices = self.machine.io.devices
        if not devices:
            return None
        device = self.random.choice(devices)
        layer = self._holding.get(device)
        if layer is None:
            layer = self._holding[device] = Holding(self.random, self.faults.longest)
            device.attach(layer)
        layer.until = self.engine.now + duration
        return device.number, duration

    def threads(self) -> tuple[int, int] | None:
        everywhere = self.machine.scheduler.all_mask
        program: list[Request] = []
        for _ in range(self.random.randint(1, 4)):
            program.append(Compute(self._duration()))
            program.append(Sleep(self._duration()))
            program.append(RunOn(self.random.randint(1, everywhere)))
        priority = self.random.randint(1, HIGHEST)
        if self._process_of().threads >= ALIVE:
            return None
        thread = self.machine.create_thread(self._process_of(), iter(program), priority=priority)
        return thread.id, priority

    def priorities(self) -> tuple[int, int] | None:
        place, priority, duration = self.random.random(), self.random.randint(1, HIGHEST), self._duration()
        threads = [thread for thread in self.machine.threads.values() if thread.priority <= HIGHEST]
        if not threads:
            return None
        thread: Thread = threads[int(place * len(threads))]
        before = thread.priority
        scheduler = self.machine.scheduler
        scheduler.set_priority(thread, priority)

        def restore(_: object) -> None:
            if thread.id in self.machine.threads and thread.priority == priority:
                scheduler.set_priority(thread, before)

        self.engine.after(duration, restore)
        return thread.id, priority

    def _processor(self) -> Processor:
        return self.random.choice(self.machine.processors)

    def _duration(self) -> int:
        return self.random.randint(0, self.faults.longest)

    def _process_of(self) -> Process:
        """The process of this kind's threads, made when it is first needed."""
        if self._process is None:
            self._process = self.machine.create_process(f"faults.{self.kind}")
        return self._process


class Holding(Layer):
    """A layer that keeps each request for a random time, while it is told to."""

    def __init__(self, random: Random, longest: int) -> None:
        self.random = random
        self.longest = longest
        self.until = 0

    def dispatch(self, io: Io, request: IoRequest) -> None:
        self._pass(io, io.pass_down, request)

    def complete(self, io: Io, request: IoRequest) -> None:
        self._pass(io, io.pass_up, request)

    def _pass(self, io: Io, onward: Callable[[IoRequest], None], request: IoRequest) -> None:
        if io.engine.now < self.until:
            io.engine.after(self.random.randint(0, self.longest), onward, request)
        else:
            onward(request)

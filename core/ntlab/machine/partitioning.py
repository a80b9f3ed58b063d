"""Dynamic hardware partitioning: parts come to a running machine, and failing ones are replaced.

The machine's description has all the places that there are. Some may be empty at boot, or hold a spare: the
experiment says so, before anything runs.

    machine.partitioning.set_aside(2)              the last two processors are spare
    machine.partitioning.add_processor()           the first of them comes
    machine.partitioning.add_memory(node, size)    memory behind all that there is
    machine.partitioning.divide_memory(size)       what can be replaced is that large
    machine.partitioning.provide_memory(size)      a spare unit of memory is plugged in
    machine.partitioning.replace_memory(address)   the unit with that address is failing
    machine.partitioning.replace_processor(3)      processor 3 is

A processor that is added takes the next number. One that stands in for a failing one goes by that one's
number: software does not see the difference (`number`).

Drivers that have registered are told of a new processor before any thread runs on it, and again when it may;
one that refuses it ends that, and those who were told before learn of the failure. Then applications are
told that have asked for it. Who gets the processor in its affinity is asked of plugins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import attrs

from ntlab.errors import SimulationError, UserError
from ntlab.machine.policy import ReplacementPolicy
from ntlab.machine.processors import NOMINAL
from ntlab.machine.replacement import MemoryReplacement
from ntlab.machine.threads import READY
from ntlab.quantities import MICROSECOND, MILLISECOND, format_size
from ntlab.topology.tables import fitted
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.hooks.partitioning import Operation
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor
    from ntlab.machine.threads import Process

PROCESSOR_NOTICE = event_type("Lab-Partitioning", "ProcessorNotice", "number state$ driver$ status")
PROCESSOR_ADDED = event_type("Lab-Partitioning", "ProcessorAdded", "number node")
PROCESSOR_GIVEN = event_type("Lab-Partitioning", "ProcessorGiven", "pid number")
PROCESSOR_REPLACED = event_type("Lab-Partitioning", "ProcessorReplaced", "number gone instead")
MEMORY_ADDED = event_type("Lab-Partitioning", "MemoryAdded", "node frame pages")

ARRIVAL_DELAY = 1 * MILLISECOND
"""From when a part can be used to when an application learns of it by Plug and Play: a guess."""
RETRY = 10 * MICROSECOND
"""When a thread cannot leave its processor just now: when to look again."""

COUNTED = (
    "processors added", "processors refused", "processors replaced",
    "memory added", "memory replaced", "replacements vetoed",
)  # fmt: skip
"""Parts; of added memory, pages."""

State = Literal["start", "complete", "failure"]


@attrs.frozen
class ProcessorChange:
    """What a driver is told: a processor is about to come ("start"), has come, or has not after all.

    `status` is 0 or what a driver refused with; `group` and `group_number` are its place in its group.
    """

    state: State
    number: int
    status: int
    group: int
    group_number: int


DriverCallback = Callable[[ProcessorChange], int]
"""Gives an NT status: at "start" anything but 0 refuses the processor."""


@attrs.define(eq=False)
class Driver:
    """A driver that is told of processors. Made by `partitioning.register_driver`.

    One that is unloaded without being deregistered would be called where it no longer is.
    """

    name: str
    callback: DriverCallback
    loaded: bool = True


@attrs.frozen
class Arrival:
    """What an application is told: a processor (`number`), or memory (`number` is its node, `size` bytes)."""

    kind: Literal["processor", "memory"]
    number: int
    size: int = 0


@attrs.frozen
class MemoryUnit:
    """What is exchanged as a whole: the frames `first`..`stop` of a node."""

    node: int
    first: int
    stop: int

    @property
    def pages(self) -> int:
        return self.stop - self.first


class Partitioning:
    """The parts of one machine.

    `replacement` is the memory replacement that is under way or was the last one. `counts` adds up what was
    done. `drivers` and `applications` are those who are told of arrivals.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.drivers: list[Driver] = []
        self.applications: dict[Process, Callable[[Arrival], object] | None] = {}
        self.spare_memory: list[int] = []  # bytes of each unit
        self.replacement: MemoryReplacement | None = None
        self.counts: Counter[str] = Counter()
        self._whole = machine.tables
        self._unit = 0  # pages; 0: all of a node
        self._numbers: dict[int, int] = {}  # of stand-ins, as software knows them
        self._leaving: int | None = None  # the processor that is being replaced
        self._exchanged: Counter[int] = Counter()  # how often each memory unit was, by its first frame
        tracer = machine.tracer
        self._trace_notice = tracer.emitter(PROCESSOR_NOTICE)
        self._trace_processor = tracer.emitter(PROCESSOR_ADDED)
        self._trace_given = tracer.emitter(PROCESSOR_GIVEN)
        self._trace_replaced = tracer.emitter(PROCESSOR_REPLACED)
        self._trace_memory = tracer.emitter(MEMORY_ADDED)
        # After a restart, some that have numbers are not there.
        machine.scheduler.all_mask &= sum(machine.tables.node_mask)
        machine.scheduler.idle_mask &= machine.scheduler.all_mask

    def follow(self, before: Partitioning) -> None:
        """Go on with the parts of the machine that crashed: what was in store there, is here."""
        self._whole = before._whole
        self._unit = before._unit
        self.spare_memory = list(before.spare_memory)
        self._exchanged = Counter(before._exchanged)

    # -- what there is -------------------------------------------------------------------------------------

    def set_aside(self, processors: int) -> None:
        """The last so many processors of the description are not in use: before anything runs.

        Raises UserError where none would be left.
        """
        scheduler = self.machine.scheduler
        there = len(scheduler.processors)
        if processors and self.machine.threads:
            raise SimulationError("processors are set aside though threads may be on them")
        if not 0 <= processors < there:
            raise UserError(
                f"{processors} processors are set aside of {there}", expected=f"at most {there - 1}"
            )
        for _ in range(processors):
            scheduler.forget_processor()
        for process in self.machine.processes.values():
            process.affinity &= scheduler.all_mask
        if processors:
            self._rebuild()

    @property
    def spare_processors(self) -> int:
        """How many processors could still come."""
        return self._whole.processors - len(self.machine.scheduler.processors)

    def divide_memory(self, size: int) -> None:
        """Memory is exchanged in units of `size` bytes, of which a node's last one may be smaller."""
        self._unit = self._pages(size, "a memory unit")

    def provide_memory(self, size: int) -> None:
        """A spare unit of `size` bytes is plugged in. Nobody uses it until it replaces another."""
        self._pages(size, "a spare memory unit")
        self.spare_memory.append(size)

    def memory_unit(self, address: int) -> MemoryUnit:
        """The unit that holds a physical address, bytes. Raises UserError where there is no memory."""
        frame = address // self._page_size
        node = self.machine.memory.node_of(frame) if address >= 0 else None
        if node is None:
            raise UserError(
                f"there is no memory at {address:#x}", expected="an address inside a node's memory"
            )
        first, stop = next(each for each in node.ranges if each[0] <= frame < each[1])
        if self._unit:
            first += (frame - first) // self._unit * self._unit
            stop = min(stop, first + self._unit)
        return MemoryUnit(node.index, first, stop)

    def memory_units(self) -> list[MemoryUnit]:
        """All units, by address."""
        found = []
        for node in self.machine.memory.nodes:
            for first, stop in node.ranges:
                step = self._unit or stop - first
                found += [MemoryUnit(node.index, at, min(stop, at + step)) for at in range(first, stop, step)]
        return sorted(found, key=lambda unit: unit.first)

    def exchanged(self, unit: MemoryUnit) -> int:
        """How often a unit has been exchanged: what failed before that is gone."""
        return self._exchanged[unit.first]

    def number(self, processor: Processor) -> int:
        """What software knows a processor as (KeGetCurrentProcessorNumber)."""
        return self._numbers.get(processor.index, processor.index)

    @property
    def replacing(self) -> int | None:
        """The number of the processor that is being replaced, if one is."""
        return self._leaving

    @property
    def _page_size(self) -> int:
        return self.machine.memory.policy.page_size

    def _pages(self, size: int, what: str) -> int:
        if size <= 0 or size % self._page_size:
            raise UserError(f"{what} of {size} bytes", expected=f"a multiple of the page, {self._page_size}")
        return size // self._page_size

    def _rebuild(self) -> None:
        """The machine's tables follow its parts."""
        machine = self.machine
        scheduler = machine.scheduler
        installed = [node.installed * self._page_size for node in machine.memory.nodes]
        stated = any(self._whole.node_memory)
        machine.tables = fitted(
            self._whole,
            len(scheduler.processors),
            scheduler.all_mask,
            installed if stated else self._whole.node_memory,
        )
        machine.siblings.rebuilt()
        if machine.power is not None:
            machine.power.rebuilt()
        if machine.hooks.hardware_changed is not None:
            machine.hooks.hardware_changed(machine)

    # -- what may be done ----------------------------------------------------------------------------------

    def supports(self, operation: Operation) -> bool:
        """Whether the running kernel can do that."""
        ask = self.machine.hooks.partition_support
        return bool(ask(self.machine, operation)) if ask is not None else False

    def _require(self, operation: Operation) -> None:
        if not self.supports(operation):
            raise UserError(
                f"{self.machine.name} is to {operation} while it runs ({self.machine.release}, "
                f"{self.machine.architecture})",
                expected="a release and edition that can",
            )

    # -- who is told ---------------------------------------------------------------------------------------

    def register_driver(
        self, name: str, callback: DriverCallback, *, add_existing: bool = False
    ) -> Driver | None:
        """Tell a driver of processors that come (KeRegisterProcessorChangeCallback).

        With `add_existing` it is told of those that are there, as if they came now. If it refuses one, it
        is not registered: None.
        """
        driver = Driver(name, callback)
        if add_existing:
            scheduler = self.machine.scheduler
            known = [self.number(p) for p in scheduler.processors if p.bit & scheduler.all_mask]
            for at, number in enumerate(known):
                status = self._tell(driver, "start", number, 0)
                if status:
                    for before in known[:at]:
                        self._tell(driver, "failure", before, status)
                    return None
            for number in known:
                self._tell(driver, "complete", number, 0)
        self.drivers.append(driver)
        return driver

    def deregister_driver(self, driver: Driver) -> None:
        """Tell it no more."""
        self.drivers.remove(driver)

    def register_application(self, process: Process, told: Callable[[Arrival], object] | None = None) -> None:
        """Tell an application of processors and memory that come (RegisterDeviceNotification)."""
        self.applications[process] = told

    def _tell(self, driver: Driver, state: State, number: int, status: int) -> int:
        if not driver.loaded:
            raise UserError(
                f"driver {driver.name!r} is to be told of processor {number}, but has been unloaded",
                expected="a driver that is deregistered first",
            )
        group = self._whole.group_of[number]
        place = self._whole.group_of[:number].count(group)
        answer = driver.callback(ProcessorChange(state, number, status, group, place))
        if self._trace_notice is not None:
            text = self.machine.tracer.text
            names = text(state), text(driver.name)
            self._trace_notice((self.machine.engine.now, PROCESSOR_NOTICE.id, number, *names, answer))
        return answer

    # -- processors come -----------------------------------------------------------------------------------

    def add_processor(self) -> Processor | None:
        """The next spare processor comes. None if a driver refuses it.

        Raises UserError where none can come.
        """
        machine, scheduler = self.machine, self.machine.scheduler
        self._require("add processor")
        limit = machine.hooks.processor_limit(machine) if machine.hooks.processor_limit is not None else None
        running = scheduler.all_mask.bit_count()
        if limit and running >= limit:
            raise UserError(
                f"a processor is added to {running}", expected=f"at most {limit} with {machine.release}"
            )
        processor = self._new_processor()
        status = self._announce(processor)
        if status:
            scheduler.forget_processor()
            self._rebuild()
            self.counts["processors refused"] += 1
            return None
        scheduler.admit(processor)
        self._rebuild()
        self.counts["processors added"] += 1
        if self._trace_processor is not None:
            self._trace_processor((machine.engine.now, PROCESSOR_ADDED.id, processor.index, processor.node))
        for driver in self.drivers:
            self._tell(driver, "complete", processor.index, 0)
        self._offer(processor)
        return processor

    def _new_processor(self) -> Processor:
        """Start the next spare processor. No thread runs on it yet."""
        scheduler = self.machine.scheduler
        index = len(scheduler.processors)
        if index == self._whole.processors:
            raise UserError("there is no spare processor", expected="one that was set aside")
        processor = scheduler.add_processor(self._whole.node_of[index])
        self._rebuild()
        return processor

    def _announce(self, processor: Processor) -> int:
        """Tell drivers that a processor is about to come. Returns 0, or the status of who refuses."""
        for at, driver in enumerate(self.drivers):
            status = self._tell(driver, "start", processor.index, 0)
            if status:
                for before in self.drivers[:at]:
                    self._tell(before, "failure", processor.index, status)
                return status
        return 0

    def _offer(self, processor: Processor) -> None:
        """Let processes have a new processor, and tell those that asked."""
        machine = self.machine
        ask = machine.hooks.gets_processor
        for process in list(machine.processes.values()):
            registered = process in self.applications
            given = ask is not None and bool(ask(process, processor, registered))
            given = given and machine.groups.may_get(process, processor.index)
            if registered:
                machine.engine.after(ARRIVAL_DELAY, self._arrived, (process, processor, given))
            elif given:
                self._give(process, processor)

    def _arrived(self, what: tuple[Process, Processor, bool]) -> None:
        process, processor, given = what
        told = self.applications.get(process)
        if told is not None:
            told(Arrival("processor", self.number(processor)))
        if given:
            self._give(process, processor)

    def _give(self, process: Process, processor: Processor) -> None:
        """A process may use a processor, and so may those of its threads that may use all that it has."""
        scheduler = self.machine.scheduler
        before = process.affinity
        process.affinity |= processor.bit
        for thread in [each for each in self.machine.threads.values() if each.process is process]:
            if thread.affinity == before:
                scheduler.set_affinity(thread, process.affinity)
                if thread.state == READY and processor.bit & scheduler.idle_mask:
                    scheduler.reconsider(thread)
        if self._trace_given is not None:
            self._trace_given((self.machine.engine.now, PROCESSOR_GIVEN.id, process.id, processor.index))

    # -- a processor is replaced ---------------------------------------------------------------------------

    def replace_processor(self, number: int, done: Callable[[], object] | None = None) -> None:
        """A processor is failing: slow it, start a spare, move its threads there, and take it out.

        `done()` is called when it is out. Raises UserError where that cannot be.
        """
        machine, scheduler = self.machine, self.machine.scheduler
        self._require("replace processor")
        index = scheduler.in_place_of(number)
        if not 0 <= number < len(scheduler.processors) or not scheduler.all_mask >> index & 1:
            raise UserError(f"there is no processor {number}", expected="one that is in use")
        if self._leaving is not None:
            raise UserError(
                f"processor {number} is to be replaced while {self._leaving} is", expected="one at a time"
            )
        if not self.spare_processors:
            raise UserError(f"no spare processor can replace {number}", expected="one that was set aside")
        spare = len(scheduler.processors)
        if self._whole.speed[spare] != self._whole.speed[index]:
            raise UserError(
                f"a spare processor of {self._whole.speed[spare]} MHz cannot replace {number}",
                expected=f"an identical one, of {self._whole.speed[index]} MHz",
            )
        self._leaving = number
        machine.engine.soon(self._slow, (scheduler.processors[index], number, done))

    def _slow(self, what: tuple[Processor, int, Callable[[], object] | None]) -> None:
        failing = what[0]
        policy = self._policy()
        self.machine.speeds.set(failing, "failing", max(1, int(NOMINAL * policy.slow_to)))
        self.machine.engine.after(policy.processor_start, self._stand_in, what)

    def _stand_in(self, what: tuple[Processor, int, Callable[[], object] | None]) -> None:
        failing, number, done = what
        spare = self._new_processor()
        self._numbers[spare.index] = number
        self.machine.groups.stands_in(spare.index, failing.index)
        self.machine.scheduler.admit(spare)
        self._rebuild()
        self.machine.engine.soon(self._leave, (failing, spare, number, done))

    def _leave(self, what: tuple[Processor, Processor, int, Callable[[], object] | None]) -> int | None:
        failing, spare, number, done = what
        left = self.machine.scheduler.evacuate(failing, spare.index)
        if self.machine.tables.node_mask[failing.node] & failing.bit:
            self._rebuild()
        if not left:
            return RETRY
        self._leaving = None
        self.counts["processors replaced"] += 1
        if self._trace_replaced is not None:
            places = number, failing.index, spare.index
            self._trace_replaced((self.machine.engine.now, PROCESSOR_REPLACED.id, *places))
        if done is not None:
            done()
        return None

    def _policy(self) -> ReplacementPolicy:
        ask = self.machine.hooks.replacement_policy
        policy: ReplacementPolicy | None = ask(self.machine) if ask is not None else None
        return policy if policy is not None else ReplacementPolicy()

    # -- memory comes, and is replaced ---------------------------------------------------------------------

    def add_memory(self, node: int, size: int, address: int | None = None) -> None:
        """Memory is added to a node: `size` bytes, at a physical address (default: behind all others).

        Raises UserError where that cannot be.
        """
        machine, memory = self.machine, self.machine.memory
        self._require("add memory")
        if not 0 <= node < len(memory.nodes):
            raise UserError(f"memory is added to node {node}", expected=f"0 to {len(memory.nodes) - 1}")
        pages = self._pages(size, "added memory")
        first = memory.end
        if address is not None:
            if address < 0 or address % self._page_size:
                raise UserError(f"memory is added at {address:#x}", expected="the address of a page")
            first = address // self._page_size
        owner = memory.owner_of(first, first + pages)
        if owner is not None:
            begin, end = first * self._page_size, (first + pages) * self._page_size
            raise UserError(
                f"memory is added at {begin:#x} to {end:#x}, where node {owner.index} has some",
                expected="addresses that are free",
            )
        memory.install(node, first, pages)
        self._rebuild()
        self.counts["memory added"] += pages
        if self._trace_memory is not None:
            self._trace_memory((machine.engine.now, MEMORY_ADDED.id, node, first, pages))
        for told in self.applications.values():
            if told is not None:
                machine.engine.after(ARRIVAL_DELAY, told, Arrival("memory", node, size))

    def replace_memory(self, address: int, done: Callable[[], object] | None = None) -> MemoryReplacement:
        """The memory unit with that physical address is failing: replace it by an identical spare.

        `done()` is called when it is replaced, or when a device's driver refuses to let it sleep: then all
        is as before. Raises UserError where it cannot even begin.
        """
        self._require("replace memory")
        unit = self.memory_unit(address)
        size = unit.pages * self._page_size
        if self.replacement is not None and not self.replacement.outcome:
            raise UserError(
                f"the memory at {address:#x} is to be replaced while another unit is",
                expected="one at a time",
            )
        if not self.spare_memory:
            raise UserError(
                f"no spare memory can replace that at {address:#x}", expected="a unit of that size"
            )
        if size not in self.spare_memory:
            have = " and ".join(format_size(spare) for spare in self.spare_memory)
            raise UserError(
                f"spare memory of {have} cannot replace that at {address:#x}",
                expected=f"an identical unit, of {format_size(size)}",
            )
        self.replacement = replacement = MemoryReplacement(
            self.machine, self._policy(), unit.node, unit.first, unit.stop
        )

        def ended() -> None:
            if replacement.outcome == "replaced":
                self.spare_memory.remove(size)
                self._exchanged[unit.first] += 1
                self.counts["memory replaced"] += 1
            else:
                self.counts["replacements vetoed"] += 1
            if done is not None:
                done()

        replacement.done = ended
        replacement.start()
        return replacement

    # -- what is counted -----------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """What has been done since boot; nothing where nobody takes parts."""
        if self.machine.hooks.partition_support is None:
            return {}
        return {rf"Dynamic Partitioning\{name}": float(self.counts[name]) for name in COUNTED}

    def check(self) -> None:
        """Compare tables, scheduler and memory. Raises SimulationError where they differ."""
        machine, scheduler = self.machine, self.machine.scheduler
        tables = machine.tables
        if sum(tables.node_mask) != scheduler.all_mask or tables.processors != len(scheduler.processors):
            raise SimulationError("the tables have other processors than the scheduler")
        for processor in scheduler.processors:
            gone = not processor.bit & scheduler.all_mask
            if gone and processor.thread is not None and self._leaving is None:
                raise SimulationError(f"{processor!r}, though it has been taken out")
        if any(tables.node_memory) and [node.installed for node in machine.memory.nodes] != [
            size // self._page_size for size in tables.node_memory
        ]:
            raise SimulationError("the tables have other memory than there is")
        if machine.io.held and (self.replacement is None or not self.replacement.in_window):
            raise SimulationError("requests wait for devices that nobody has turned off")

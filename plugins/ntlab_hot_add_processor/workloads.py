"""Two programs with a queue for each processor: one asked to be told of new processors, one did not."""

from __future__ import annotations

from collections.abc import Callable, Generator

from attrs import define, field

from ntlab.errors import UserError
from ntlab.machine import Arrival, Compute, Machine, Process, ProcessorChange, Request, Thread
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MILLISECOND, SECOND, Duration

OWNER = "hot_add_processor.queues"
STATUS_NOT_SUPPORTED = 0xC00000BB
INTACT = 0x5AFE
"""What the words behind the queues hold as long as nobody writes beyond the last queue."""


@define(eq=False)
class _Program:
    """A program and its memory: `queues` words, one a processor, and right behind them words of something
    else. Its code trusts that processors are numbered below `queues`."""

    machine: Machine
    process: Process
    queues: int
    memory: list[int]
    items: list[int] = field(factory=lambda: [0, 0])  # before the first processor came, and after
    on_new: int = 0  # items of these done on a processor that was not there at first
    faults: int = 0  # writes beyond even the words behind

    def enqueue(self, number: int, *, new: bool, after: bool) -> None:
        """Put an item into the queue of a processor as a program in C does: unchecked."""
        if number >= len(self.memory):
            self.faults += 1
            return
        self.memory[number] += 1
        self.items[after] += 1
        self.on_new += new

    @property
    def corrupted(self) -> int:
        """Words behind its queues that are not what they were."""
        return sum(word != INTACT for word in self.memory[self.queues :])

    def told(self, arrival: Arrival) -> None:
        """A processor has come: make a queue for it before anything runs there."""
        if arrival.kind == "processor" and arrival.number >= self.queues:
            more = arrival.number + 1 - self.queues
            self.memory[self.queues : self.queues] = [0] * more
            self.queues += more


class _Enqueue(Request):
    """Put an item into the queue of the processor that the thread is on."""

    __slots__ = ("begin", "program", "there")

    def __init__(self, program: _Program, there: int, begin: int) -> None:
        self.program = program
        self.there = there
        self.begin = begin

    def perform(self, thread: Thread) -> int:
        machine, processor = thread.machine, thread.processor
        assert processor is not None
        number = machine.partitioning.number(processor)
        self.program.enqueue(number, new=number >= self.there, after=machine.engine.now > self.begin)
        return 0


@workload(
    name="queues",
    summary="Programs with a queue for each processor they saw at their start, while processors come.",
)
class Queues:
    """Each program has `threads` threads a processor, which compute an item and put it into the queue of the
    processor that they are on. The careful one has registered for arrivals, and makes queues for them; the
    naive one has not, and has as many queues as there were processors when it began.

    The last `spare` processors of the machine (but not its first, and none if something runs on them already)
    are not there at first. They come from `at`
    on, one each `apart`, if the kernel takes them. `drivers` drivers are told of each; the last refuses the
    processors from the `refused`-th on.
    """

    spare: int = option(default=1, help="How many processors come.", minimum=1)
    at: Duration = option(default=Duration(200 * MILLISECOND), help="When the first one comes.", minimum=1)
    apart: Duration = option(
        default=Duration(50 * MILLISECOND), help="How long after each the next one comes.", minimum=1
    )
    until: Duration = option(default=Duration(SECOND), help="When the programs end.", minimum=1)
    threads: int = option(default=2, help="Threads of each program, for each processor.", minimum=1)
    item: Duration = option(default=Duration(MILLISECOND), help="Work of one item.", minimum=1)
    behind: int = option(
        default=4,
        help="Words of other data behind the queues; a write beyond these ends the program.",
        minimum=0,
    )
    drivers: int = option(default=3, help="Drivers that are told of processors.", minimum=0)
    refused: int = option(
        default=0, help="From which processor on the last driver refuses; 0: none.", minimum=0
    )

    _programs: dict[str, _Program] = state(dict)
    _notices: list[tuple[int, str, int, bool]] = state(list)
    """Of drivers: driver, state, number of the processor, whether threads could run on it."""
    _came: int = state(int)

    def start(self, machine: Machine) -> None:
        if self.until <= self.at:
            raise UserError(
                f"the programs end at {self.until} ns",
                where=f"{OWNER}: until",
                expected=f"after the first processor comes, at {self.at}",
            )
        there = len(machine.processors)
        aside = min(self.spare, there - 1) if not machine.threads else 0
        machine.partitioning.set_aside(aside)
        there -= aside
        for number in range(self.drivers):
            machine.partitioning.register_driver(f"driver {number}", self._driver(machine, number))
        for name in ("naive", "careful"):
            process = machine.create_process(name)
            memory = [0] * there + [INTACT] * self.behind
            program = self._programs[name] = _Program(machine, process, there, memory)
            if name == "careful":
                machine.partitioning.register_application(process, program.told)
            for _ in range(self.threads * there):
                machine.create_thread(process, self._work(program, there, machine.engine.now))
        machine.engine.at(machine.engine.now + self.at, self._come, machine)

    def _driver(self, machine: Machine, driver: int) -> Callable[[ProcessorChange], int]:
        def told(change: ProcessorChange) -> int:
            usable = bool(machine.scheduler.all_mask >> change.number & 1)
            self._notices.append((driver, change.state, change.number, usable))
            last = driver == self.drivers - 1
            refuses = last and change.state == "start" and 0 < self.refused <= self._came + 1
            return STATUS_NOT_SUPPORTED if refuses else 0

        return told

    def _come(self, machine: Machine) -> int | None:
        partitioning = machine.partitioning
        if not partitioning.spare_processors or not partitioning.supports("add processor"):
            return None
        if partitioning.add_processor() is None:
            return None
        self._came += 1
        return self.apart

    def _work(self, program: _Program, there: int, now: int) -> Generator[Request, None, None]:
        engine = program.machine.engine
        compute, enqueue = Compute(self.item), _Enqueue(program, there, now + self.at)
        while engine.now < now + self.until and not program.faults:
            yield compute
            yield enqueue

    # -- what is measured ----------------------------------------------------------------------------------

    def measure(self, machine: Machine) -> list[Metric]:
        naive, careful = self._programs["naive"], self._programs["careful"]
        scale = self.at / (self.until - self.at)
        order = [usable == (name == "complete") for _, name, _, usable in self._notices]
        failures = [driver for driver, name, _, _ in self._notices if name == "failure"]
        return [
            Metric("processors", machine.scheduler.all_mask.bit_count()),
            Metric("corrupted", naive.corrupted),
            Metric("crashed", float(naive.faults > 0)),
            Metric("careful_corrupted", careful.corrupted + careful.faults),
            Metric("naive_on_new", naive.on_new),
            Metric("careful_on_new", careful.on_new),
            Metric("naive_gain", naive.items[1] * scale / (naive.items[0] or 1)),
            Metric("careful_gain", careful.items[1] * scale / (careful.items[0] or 1)),
            Metric("gain", (naive.items[1] + careful.items[1]) * scale
                   / ((naive.items[0] + careful.items[0]) or 1)),
            Metric("told_in_order", sum(order) / (len(order) or 1)),
            Metric("told_of_failure", len(failures)),
        ]  # fmt: skip

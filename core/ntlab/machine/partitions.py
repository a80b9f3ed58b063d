"""The hypervisor: child partitions, whose processors are virtual.

A child partition is another `Machine` in the time of its host. Each of its processors is a *virtual
processor*: a thread of the host, which the host's scheduler runs on a logical processor like any other. Its
rules (turns, queues, the cost of a switch) are therefore the hypervisor's. While that thread runs in *guest
mode* the guest's processor has the logical processor's speed, and otherwise none: the guest's scheduler does
not know, its holders of locks just stop.

Two events take a virtual processor out of guest mode. A guest processor with nothing to do halts: its thread
waits, and costs nothing. A hypercall is work that the hypervisor does on the thread's time.

The two schedulers never run inside one another. What the host decides is felt by the guest at once if it
stops it, and by an event at the same instant if it starts it; what the guest asks, the host's scheduler
finds by an event too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from ntlab.engine import FOREVER, Event
from ntlab.errors import SimulationError, UserError
from ntlab.machine.processors import Processor
from ntlab.machine.threads import READY, RUNNING, WAITING, Compute, Program, Request, Thread
from ntlab.plugin import renewed
from ntlab.quantities import GIB, MICROSECOND, SECOND
from ntlab.topology import Tables, Topology
from ntlab.tracing import event_type
from ntlab.tracing.records import stable_id

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

HYPERVISOR = "Microsoft-Windows-Hyper-V-Hypervisor"
PARTITION_CREATED = event_type(
    HYPERVISOR, "Partition/Create", "partition name$ virtual_processors memory pid"
)
HYPERCALL = event_type(HYPERVISOR, "Hypercall", "partition vp code argument")
LONG_SPIN_WAIT = event_type(HYPERVISOR, "LongSpinWait", "partition vp yielded to_vp")

NOTIFY_LONG_SPIN_WAIT = 8
"""The hypercall that is known, by its call code (TLFS 2.0a)."""
NEVER_NOTIFY = 0xFFFFFFFF
"""Spin attempts of a guest that shall not notify."""
VIRTUAL_PROCESSORS = 4
"""The most that a partition may have, in 2008 and in R2."""


@attrs.frozen
class Yield:
    """A virtual processor's turn ends, in favour of `to` if that is ready, else of the next in the queue."""

    to: VirtualProcessor | None = None


class _Guest(Request):
    """What a virtual processor's thread does all the time: run the guest, or wait while that is idle."""

    __slots__ = ()

    def perform(self, thread: Thread) -> int | None:
        vp: VirtualProcessor = thread.virtual
        if not vp.busy:
            return None
        vp.in_guest = True
        vp.follow()
        return FOREVER


class VirtualProcessor:
    """A virtual processor: `processor` of the guest, `thread` of the host.

    `in_guest` says that the thread, when it runs, runs the guest. Totals: `hypercalls`, `long_spin_waits`,
    `migrations` between logical processors, and `hypervisor_time` (ns of `run_time`).
    """

    __slots__ = (
        "_begin",
        "_calls",
        "_host",
        "_last",
        "_waking",
        "hypercalls",
        "hypervisor_time",
        "in_guest",
        "long_spin_waits",
        "migrations",
        "partition",
        "preempted_at",
        "processor",
        "thread",
    )

    thread: Thread

    def __init__(self, partition: Partition, processor: Processor) -> None:
        self.partition = partition
        self.processor = processor
        self.in_guest = False
        self.preempted_at = 0  # when its thread last lost a logical processor that it could have used
        self.hypercalls = 0
        self.long_spin_waits = 0
        self.migrations = 0
        self.hypervisor_time = 0
        self._host = partition.host
        self._calls: deque[tuple[int, int]] = deque()  # code and argument of hypercalls to be done
        self._begin: Event | None = None  # the event that starts the guest's processor
        self._waking = False
        self._last = -1  # the logical processor it ran on last

    def __repr__(self) -> str:
        return f"<VirtualProcessor {self.processor.index} of {self.partition.name}>"

    @property
    def busy(self) -> bool:
        """Whether the guest's processor has anything to do."""
        return self.processor.thread is not None or self.processor.level > 0

    @property
    def preempted(self) -> bool:
        """Whether it would run if it had a logical processor."""
        return self.thread.state == READY

    @property
    def run_time(self) -> int:
        """How long it has been on a logical processor, ns."""
        return self._host.scheduler.run_time(self.thread)

    # -- the host's side -----------------------------------------------------------------------------------

    def program(self) -> Program:
        """What the host's thread does."""
        guest, call = _Guest(), Compute(self._host.partitions.hypercall_cost)
        while True:
            yield guest
            while self._calls:
                before = self.thread.run_time
                yield call
                self.hypervisor_time += self.thread.run_time - before
                code, argument = self._calls.popleft()
                if code == NOTIFY_LONG_SPIN_WAIT:
                    self._long_spin_wait(argument)

    def follow(self) -> None:
        """Give the guest's processor the speed that it has now. The host's scheduler calls this when the
        thread begins or ceases to run, or its logical processor's speed changes."""
        if self._begin is not None:
            self._host.engine.cancel(self._begin)
            self._begin = None
        thread = self.thread
        logical = thread.processor
        if thread.state == RUNNING and logical is not None:
            if logical.index != self._last:
                self.migrations += self._last >= 0
                self._last = logical.index
            if self.in_guest and logical.speed and not logical.level:
                # Not now: a scheduler may be in the middle of something. And not before the switch is over.
                engine = self._host.engine
                self._begin = engine.at(max(engine.now, logical.since), self._started, logical)
                return
        self.stop()

    def _started(self, logical: Processor) -> None:
        self._begin = None
        self.partition.machine.speeds.set(self.processor, "host", logical.speed)

    def stop(self) -> None:
        """The guest makes no progress from now on."""
        if self._begin is not None:
            self._host.engine.cancel(self._begin)
            self._begin = None
        self.partition.machine.speeds.set(self.processor, "host", 0)

    def _long_spin_wait(self, spins: int) -> None:
        self.long_spin_waits += 1
        host = self._host
        decide = host.hooks.long_spin_wait
        answer = decide(self, spins) if decide is not None else None
        trace = host.partitions.trace_long_spin_wait
        if trace is not None:
            to = answer.to.processor.index if answer is not None and answer.to is not None else -1
            place = self.partition.id, self.processor.index
            trace((host.engine.now, LONG_SPIN_WAIT.id, *place, int(answer is not None), to))
        if answer is not None:
            host.engine.at(host.engine.now, self._yield, answer)

    def _yield(self, answer: Yield) -> None:
        scheduler = self._host.scheduler
        if answer.to is not None and answer.to.preempted:
            scheduler.yield_to(self.thread, answer.to.thread)
        else:
            scheduler.yield_turn(self.thread)

    # -- the guest's side ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """The guest's processor has something to do again."""
        if not self._waking:
            self._waking = True
            self._host.engine.at(self._host.engine.now, self._woken)

    def _woken(self, _: object) -> None:
        self._waking = False
        if self.thread.state == WAITING and self.busy:
            self._host.scheduler.wake(self.thread)

    def halt(self) -> None:
        """The guest's processor may have nothing more to do."""
        if not self.busy:
            self._leave_guest()

    def hypercall(self, code: int, argument: int) -> None:
        """See `Partition.hypercall`."""
        self.hypercalls += 1
        self._calls.append((code, argument))
        self._leave_guest()

    def _leave_guest(self) -> None:
        self.in_guest = False
        self.follow()
        self._host.scheduler.grant(self.thread)


class Partition:
    """A child partition: its `machine`, and the virtual `processors` that run it. See `Partitions.create`.

    `spin_attempts` is what the hypervisor recommends (CPUID leaf 0x40000004, EBX), `NEVER_NOTIFY` for never.
    """

    machine: Machine
    spin_attempts: int

    def __init__(self, host: Machine, identity: int, name: str) -> None:
        self.host = host
        self.id = identity
        self.name = name
        self.processors: list[VirtualProcessor] = []

    def __repr__(self) -> str:
        return f"<Partition {self.id} {self.name}>"

    def hypercall(self, code: int, vp: VirtualProcessor, argument: int = 0) -> None:
        """Code that runs on `vp` makes a hypercall: the guest stands still there until it is done.

        The only one known is NOTIFY_LONG_SPIN_WAIT with the number of attempts made. Raises SimulationError.
        """
        if code != NOTIFY_LONG_SPIN_WAIT:
            raise SimulationError(
                f"hypercall {code:#x} from {self.name}: HV_STATUS_INVALID_HYPERCALL_CODE (2), "
                f"only {NOTIFY_LONG_SPIN_WAIT:#x} is known"
            )
        if vp.partition is not self or not vp.processor.speed:
            raise SimulationError(f"hypercall {code:#x} from {self.name}: {vp!r} is not running its code")
        trace = self.host.partitions.trace_hypercall
        if trace is not None:
            trace((self.host.engine.now, HYPERCALL.id, self.id, vp.processor.index, code, argument))
        vp.hypercall(code, argument)


class Partitions:
    """The child partitions of one machine.

    `hypercall_cost` is the time of a hypercall, with the way into the hypervisor and back, ns at nominal
    speed; set it before partitions are created. What a switch between virtual processors costs is the
    host's `SchedulerPolicy.switch_cost`.
    """

    def __init__(self, host: Machine) -> None:
        self.host = host
        self.children: list[Partition] = []
        # 1009 cycles of a Nehalem for the way in and back, some hundred more for the call: facts, 3.7.
        self.hypercall_cost = 1 * MICROSECOND
        self.trace_created = host.tracer.emitter(PARTITION_CREATED)
        self.trace_hypercall = host.tracer.emitter(HYPERCALL)
        self.trace_long_spin_wait = host.tracer.emitter(LONG_SPIN_WAIT)

    def create(
        self,
        name: str,
        *,
        processors: int = 1,
        memory: int = GIB,
        plugins: Sequence[object] | None = None,
    ) -> Partition:
        """Create and boot a child partition with virtual processors and some memory (bytes) of one node.

        `plugins` are instances for its machine; without them it gets new ones of the host's, with the same
        options. Its random streams are its own. In traces its providers' names begin with `name` and a
        slash. Raises UserError for a partition that cannot be.
        """
        host = self.host
        if host.partition is not None:
            raise UserError(
                f"a partition {name!r} inside {host.name!r}: HV_STATUS_PARTITION_TOO_DEEP (12)",
                expected="children of the root partition only",
            )
        if any(child.name == name for child in self.children):
            raise UserError(f"there is a partition {name!r} already", expected="another name")
        if not 1 <= processors <= VIRTUAL_PROCESSORS:
            raise UserError(
                f"{processors} virtual processors in partition {name!r}",
                expected=f"1 to {VIRTUAL_PROCESSORS}",
            )
        free = host.tables.memory - sum(child.machine.tables.memory for child in self.children)
        if not free:
            what = "has no memory left" if self.children else "has no memory"
            raise UserError(f"the machine {what} for partition {name!r}", expected="a machine with more")
        if not 0 < memory <= free:
            raise UserError(
                f"{memory} bytes of memory for partition {name!r}", expected=f"1 to {free}, what is left"
            )
        if not self.children:
            host.scheduler.watch_switches(_follow)
        partition = Partition(host, len(self.children) + 2, name)  # the root partition is number 1
        partition.spin_attempts = self._spin_attempts(partition)
        if plugins is None:
            plugins = [renewed(plugin) for plugin in host.plugins]
        partition.machine = machine = type(host)(
            _hardware(host.tables, name, processors, memory),
            plugins,
            seed=stable_id(f"{host.streams.seed}/{name}"),
            tracer=host.tracer.of_partition(name),
            hooks=host.hook_mode,
            engine=host.engine,
            name=name,
            partition=partition,
        )
        self.children.append(partition)
        process = host.create_process(name)
        if self.trace_created is not None:
            shape = processors, memory, process.id
            self.trace_created(
                (host.engine.now, PARTITION_CREATED.id, partition.id, host.tracer.text(name), *shape)
            )
        machine.scheduler.watch_switches(_wake)
        for processor in machine.processors:
            processor.virtual = vp = VirtualProcessor(partition, processor)
            machine.speeds.set(processor, "host", 0)
            partition.processors.append(vp)
            vp.thread = host.create_thread(process, vp.program(), name=f"{name}:Hv VP {processor.index}")
            vp.thread.virtual = vp
        machine.boot()
        return partition

    def _spin_attempts(self, partition: Partition) -> int:
        ask = self.host.hooks.spin_attempts
        attempts = ask(partition) if ask is not None else None
        if attempts is None:
            return NEVER_NOTIFY
        if not 1 <= attempts <= NEVER_NOTIFY:
            raise SimulationError(
                f"spin_attempts gave {attempts} for {partition!r}; expected 1 to {NEVER_NOTIFY}"
            )
        return int(attempts)

    def stop(self) -> None:
        """The host will run no more, so neither will its children."""
        for child in self.children:
            child.machine.stop()

    def check(self) -> None:
        """Compare the two sides of each virtual processor. Raises SimulationError where they differ."""
        for child in self.children:
            for vp in child.processors:
                if vp.thread.virtual is not vp or vp.processor.virtual is not vp:
                    raise SimulationError(f"{vp!r} is not what its thread or its processor takes it for")
                logical = vp.thread.processor
                runs = vp.in_guest and vp.thread.state == RUNNING and logical is not None
                speed = logical.speed if runs and logical is not None and not logical.level else 0
                starts = runs and vp._begin is not None  # or goes on at another speed, within this instant
                given = child.machine.speeds.factor(vp.processor, "host")
                if given != speed and not starts:
                    raise SimulationError(f"{vp!r} believes to have speed {given}, its host's is {speed}")
            try:
                child.machine.check()
            except SimulationError as error:
                raise SimulationError(f"{child.name}: {error}") from error

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names, over the host's life so far; none without children."""
        if not self.children:
            return {}
        host = self.host
        seconds = host.engine.now / SECOND or 1.0
        named = {
            f"{child.name}:Hv VP {vp.processor.index}": vp
            for child in self.children
            for vp in child.processors
        }
        found: dict[str, float] = {
            r"Hyper-V Hypervisor\Logical Processors": len(host.processors),
            r"Hyper-V Hypervisor\Partitions": 1 + len(self.children),
            r"Hyper-V Hypervisor\Virtual Processors": len(named),
            r"Hyper-V Hypervisor Logical Processor(_Total)\Context Switches/sec": (
                sum(p.context_switches for p in host.processors) / seconds
            ),
        }
        for instance, vps in {
            **{name: [vp] for name, vp in named.items()},
            "_Total": list(named.values()),
        }.items():
            of = f"Hyper-V Hypervisor Virtual Processor({instance})"
            found[rf"{of}\Total Run Time"] = sum(vp.run_time for vp in vps) / 100  # in 100 ns
            found[rf"{of}\Hypervisor Run Time"] = sum(vp.hypervisor_time for vp in vps) / 100
            found[rf"{of}\Hypercalls/sec"] = sum(vp.hypercalls for vp in vps) / seconds
            found[rf"{of}\Long Spin Wait Hypercalls/sec"] = sum(vp.long_spin_waits for vp in vps) / seconds
            found[rf"{of}\Logical Processor Migrations/sec"] = sum(vp.migrations for vp in vps) / seconds
        return found


def _follow(processor: Processor, old: Thread | None, new: Thread | None) -> None:
    """A logical processor of a host has switched."""
    if old is not None and old.virtual is not None:
        if old.state == READY:
            old.virtual.preempted_at = old.machine.engine.now
        old.virtual.follow()
    if new is not None and new.virtual is not None:
        new.virtual.follow()


def _wake(processor: Processor, old: Thread | None, new: Thread | None) -> None:
    """A processor of a guest has switched. (That it goes idle, its scheduler says by `halt`.)"""
    if old is None:
        processor.virtual.wake()


def _hardware(host: Tables, name: str, processors: int, memory: int) -> Tables:
    """What a guest sees: one node and one package, every virtual processor a core of the host's clock."""
    topology = Topology(name, f"virtual, on {host.name}")
    package = topology.add_package(topology.add_node(memory=memory, latency_ns=host.latency[0][0]))
    for _ in range(processors):
        topology.add_processor(topology.add_core(package), speed_mhz=host.speed[0])
    return topology.freeze()

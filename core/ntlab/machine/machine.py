"""The machine: hardware tables, the plugins' hooks, and the mechanisms, put together at boot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ntlab.engine import CheckedEngine, Engine, Streams, WatchedStreams
from ntlab.errors import SimulationError, UserError
from ntlab.hooks import HookManager, Mode, bind, specifications
from ntlab.machine.caches import Caches
from ntlab.machine.checks import CHECK_EVERY, Checks
from ntlab.machine.crashes import BUG_CHECK, RESTART, Crash, MachineStopped, NonVolatile, dump_of, signed
from ntlab.machine.dispatcher import Dispatcher
from ntlab.machine.extents import NORMAL_PRIORITY, PRIORITIES
from ntlab.machine.file_cache import FileCache
from ntlab.machine.groups import Groups
from ntlab.machine.hardware_errors import HardwareErrors, LatchedError
from ntlab.machine.interrupts import Interrupts
from ntlab.machine.io import Io
from ntlab.machine.locks import Discipline, Locks, SpinLock
from ntlab.machine.memory import Memory
from ntlab.machine.paging import SYSTEM_PID, create_paging
from ntlab.machine.partitioning import Partitioning
from ntlab.machine.partitions import Partition, Partitions
from ntlab.machine.policy import SchedulerPolicy
from ntlab.machine.pool import NonPagedPool, SystemPtes
from ntlab.machine.power import create_power
from ntlab.machine.profile import ProfiledEngine
from ntlab.machine.registry import Registry
from ntlab.machine.scheduler import Scheduler
from ntlab.machine.sections import Sections
from ntlab.machine.services import Services
from ntlab.machine.siblings import Siblings
from ntlab.machine.speeds import Speeds
from ntlab.machine.system_events import SystemEvents
from ntlab.machine.thread_pools import ThreadPools
from ntlab.machine.threads import Process, Program, Session, Thread
from ntlab.machine.timers import Timers
from ntlab.plugin import RELEASES, plugin_info, renewed
from ntlab.tracing import Tracer
from ntlab.tracing.records import stable_id

if TYPE_CHECKING:
    from ntlab.machine.startup import Startup
    from ntlab.topology import Tables


def hook_manager(plugins: Sequence[object]) -> HookManager:
    """The built-in hooks and those of these plugins, which are registered, the most basic first."""
    manager = HookManager()
    for module in specifications():
        manager.add_hookspecs(module)
    for plugin in plugins:
        for module in plugin_info(plugin).hookspecs:
            manager.add_hookspecs(module)
    for plugin in plugins:
        manager.register(plugin, plugin_info(plugin).name)
    return manager


class Machine:
    """One simulated computer.

    `tables` is its frozen hardware; `plugins` are instances, the most basic first: a later one is asked
    before an earlier one. Machines that share an `engine` share their time, as a host and its child
    partitions do; `partition` is the child partition that it is in, or None. A machine is booted once and
    runs once; a second run is a new machine. So is what runs after a crash: see `restart`.

    `hooks` is how plugins are asked. With "checked", their answers are checked, and every `check_every`
    events the whole machine is (1: after each event and each answer, which is slow and tells who broke it).
    With "profiled", the engine's `profile` has what each event and each hook cost.

    `release` is the latest that its plugins belong to, `architecture` that of its kernel, `nonvolatile` what
    its next boot will find, and `crash` the bug check that ended it, or None.
    """

    def __init__(
        self,
        tables: Tables,
        plugins: Sequence[object] = (),
        *,
        seed: int = 0,
        tracer: Tracer | None = None,
        hooks: Mode = "direct",
        check_every: int = CHECK_EVERY,
        engine: Engine | None = None,
        name: str = "machine",
        partition: Partition | None = None,
        nonvolatile: NonVolatile | None = None,
    ) -> None:
        self.tables = tables
        self.plugins = tuple(plugins)
        self.name = name
        self._booted = False
        self.partition = partition
        self.hook_mode: Mode = hooks
        self._booted = False
        self.checks: Checks | None = None  # in the mode "checked"; a host and its children share theirs
        if hooks == "checked":
            self.checks = Checks(self, check_every) if partition is None else partition.host.checks
        if engine is None:
            engine = {"checked": CheckedEngine, "profiled": ProfiledEngine}.get(hooks, Engine)()
        self.engine = engine
        self.tracer = tracer if tracer is not None else Tracer(enabled=False)
        self.streams = Streams(seed) if self.checks is None else WatchedStreams(seed, self.checks.drawn)
        self.manager = hook_manager(self.plugins)
        watch = engine.profile if isinstance(engine, ProfiledEngine) else self.checks
        self.hooks: Any = bind(self.manager, mode=hooks, watch=watch)
        releases = [release for plugin in self.plugins if (release := plugin_info(plugin).release)]
        self.release = max(releases, key=RELEASES.index, default="ws2003")
        if self.hooks.machine_created is not None:
            self.hooks.machine_created(self)
        kernel = self.hooks.architecture(self) if self.hooks.architecture is not None else None
        self.architecture: str = kernel if kernel is not None else "x64"
        self.nonvolatile = nonvolatile if nonvolatile is not None else NonVolatile()
        self.crash: Crash | None = None
        policy = self.hooks.scheduler_policy(self) if self.hooks.scheduler_policy is not None else None
        self.groups = Groups(self)
        nodes = self.tables.node_of
        self.scheduler = Scheduler(self, nodes, policy if policy is not None else SchedulerPolicy())
        self.processors = self.scheduler.processors
        self.speeds = Speeds(self)
        self.interrupts = Interrupts(self)
        self.siblings = Siblings(self)
        self.timers = Timers(self)
        self.locks = Locks(self)
        self.dispatcher = Dispatcher(self)
        self.io = Io(self)
        self.io.find_disks()
        self.memory = Memory(self)
        self.caches = Caches(self)
        self.power = create_power(self)
        self.paging = create_paging(self)
        self.sections = Sections(self)
        self.pool = NonPagedPool(self)
        self.system_ptes = SystemPtes(self)
        self.file_cache = FileCache(self)
        self.registry = Registry(self)
        self.partitions = Partitions(self)
        self.hardware_errors = HardwareErrors(self)
        self.partitioning = Partitioning(self)
        self.thread_pools = ThreadPools(self)
        self.system_events = SystemEvents(self)
        self.services = Services(self)
        self.startups: list[Startup] = []  # one, unless several workloads share the machine
        self.sessions: dict[int, Session] = {}
        self.processes: dict[int, Process] = {}
        self.threads: dict[int, Thread] = {}
        self._next_id = 4
        self._running = False
        self._left_in_registers: list[LatchedError] = []

    # -- life --------------------------------------------------------------------------------------------

    def boot(self) -> Machine:
        """Finish the machine: plugins see it through `machine_booted`. Returns the machine."""
        if self._booted:
            raise SimulationError(f"{self.name} is booted twice")
        self._booted = True
        if self.engine.idle_work is None:
            self.engine.idle_work = self.tracer.flush
        self.hardware_errors.start(self._left_in_registers)
        if self.power is not None:
            self.power.rebuilt()
        if self.hooks.machine_booted is not None:
            self.hooks.machine_booted(self)
        if self.checks is not None and self.partition is None:
            self.checks.start()
        return self

    def run(self, until: int | None = None) -> int:
        """Let time pass up to `until` ns, or until nothing happens any more, or until the machine crashes.

        Returns the time reached.
        """
        if not self._booted:
            raise SimulationError(f"{self.name} runs before it is booted")
        if self.crash is not None:
            raise SimulationError(f"{self.name} runs after bug check {self.crash.code:#x}")
        self._running = True
        try:
            return self.engine.run(until)
        except MachineStopped:
            self.engine.clear()
            return self.engine.now
        finally:
            self._running = False

    def bug_check(self, code: int, p1: int = 0, p2: int = 0, p3: int = 0, p4: int = 0) -> NoReturn:
        """Stop the machine for good: write the crash dump to its disk and leave the code that runs.

        It may only be called in something that happens while the machine runs. The four parameters are 64-bit
        words. Time stands still then; `restart` gives the machine that boots next.
        """
        if self.partition is not None:
            raise SimulationError(f"bug check {code:#x} in the child partition {self.name} is not modelled")
        if not self._running:
            raise SimulationError(f"bug check {code:#x} of {self.name}, which does not run")
        self.crash = crash = Crash(code, (p1, p2, p3, p4), self.engine.now)
        answers = self.hooks.crash_memory(self, crash) if self.hooks.crash_memory is not None else []
        dump = dump_of(self, crash, [memory for answer in answers for memory in answer])
        if self.nonvolatile.keeps_dumps:
            self.nonvolatile.dumps.append(dump)
        trace = self.tracer.emitter(BUG_CHECK)
        if trace is not None:
            trace((crash.time, BUG_CHECK.id, code, *map(signed, crash.parameters), len(dump)))
        if self.hooks.bug_checked is not None:
            self.hooks.bug_checked(self, crash)
        raise MachineStopped

    def restart(self, after: int) -> Machine:
        """The machine that boots `after` ns after this one crashed, on the same hardware, time going on.

        It has new instances of the plugins with the same options, random streams of its own, and this one's
        non-volatile memory. What error registers held at the crash, they hold still.
        """
        if self.crash is None:
            raise SimulationError(f"{self.name} is restarted without having crashed")
        self.engine.run(self.engine.now + after)
        again = Machine(
            self.tables,
            [renewed(plugin) for plugin in self.plugins],
            seed=stable_id(f"{self.streams.seed}/restart"),
            tracer=self.tracer,
            hooks=self.hook_mode,
            check_every=self.checks.every if self.checks is not None else CHECK_EVERY,
            engine=self.engine,
            name=self.name,
            nonvolatile=self.nonvolatile,
        )
        if again.checks is not None and self.checks is not None:
            again.checks.follow(self.checks)
        again._left_in_registers = self.hardware_errors.latched
        again.partitioning.follow(self.partitioning)
        again.groups.follow(self.groups)
        trace = self.tracer.emitter(RESTART)
        if trace is not None:
            trace((self.engine.now, RESTART.id, self.crash.time))
        return again.boot()

    def stop(self) -> None:
        """The machine will run no more: let plugins account for what is open."""
        self.partitions.stop()
        if self.hooks.machine_stopped is not None:
            self.hooks.machine_stopped(self)
        if self.checks is not None and self.partition is None:
            self.checks.look()

    def check(self) -> None:
        """Compare everything that must be true of the machine between two events.

        Raises SimulationError where something is not: a defect of ntlab, or of a plugin that changes what is
        not its own. Not to be called within an event, nor after a crash.
        """
        for mechanism in (
            self.scheduler,
            self.speeds,
            self.siblings,
            self.groups,
            self.interrupts,
            self.timers,
            self.locks,
            self.io,
            self.memory,
            self.caches,
            self.power,
            self.paging,
            self.sections,
            self.pool,
            self.system_ptes,
            self.file_cache,
            self.registry,
            self.partitions,
            self.hardware_errors,
            self.partitioning,
            self.thread_pools,
            self.services,
            *self.startups,
        ):
            if mechanism is not None:
                mechanism.check()
        for process in self.processes.values():
            alive = sum(thread.process is process for thread in self.threads.values())
            if alive != process.threads:
                raise SimulationError(
                    f"process {process.name!r} counts {process.threads} threads and has {alive}"
                )

    # -- what runs on it -----------------------------------------------------------------------------------

    def create_session(self, identity: int, weight: int = 5) -> Session:
        """A user's session. Its number must not be in use."""
        if identity in self.sessions:
            raise SimulationError(f"session {identity} exists already")
        if not 1 <= weight <= 9:
            raise UserError(f"weight {weight} of session {identity}", expected="1 to 9")
        session = self.sessions[identity] = Session(identity, weight)
        return session

    def create_process(
        self,
        name: str,
        *,
        session: Session | None = None,
        base_priority: int = 8,
        page_priority: int = NORMAL_PRIORITY,
        affinity: int | None = None,
        node: int | None = None,
    ) -> Process:
        """A process. `base_priority` is 1..31, `page_priority` 0..7, `affinity` a mask of processors
        (default: all, or where there are processor groups all of one). It prefers to start in the group of
        `node`."""
        if not 1 <= base_priority <= 31:
            raise UserError(f"base priority {base_priority} of process {name!r}", expected="1 to 31")
        if not 0 <= page_priority < PRIORITIES:
            raise UserError(f"page priority {page_priority} of process {name!r}", expected="0 to 7")
        if node is not None and not 0 <= node < self.tables.nodes:
            raise UserError(f"process {name!r} prefers node {node}", expected=f"0 to {self.tables.nodes - 1}")
        allowed = self.scheduler.all_mask if affinity is not None else self.groups.for_process(node)
        mask = self._affinity(affinity, allowed, name)
        self.groups.require_one(mask, name)
        if session is None:
            session = self.sessions.get(0) or self.create_session(0)
        process = self._add_process(self._identity(), name, session, base_priority, mask)
        process.page_priority = page_priority
        return process

    @property
    def system_process(self) -> Process:
        """The process that owns the kernel's memory and its worker threads. Made when first asked for."""
        found = self.processes.get(SYSTEM_PID)
        if found is None:
            session = self.sessions.get(0) or self.create_session(0)
            found = self._add_process(SYSTEM_PID, "System", session, 8, self.scheduler.all_mask)
        return found

    def _add_process(
        self, identity: int, name: str, session: Session, base_priority: int, affinity: int
    ) -> Process:
        process = Process(self, identity, name, session, base_priority, affinity)
        self.processes[identity] = process
        return process

    def create_thread(
        self,
        process: Process,
        program: Program,
        *,
        name: str | None = None,
        priority: int | None = None,
        affinity: int | None = None,
        ideal: int | None = None,
        creator: Thread | None = None,
    ) -> Thread:
        """A thread, ready to run at once. `ideal` is its ideal processor (default: the release's rule);
        of a process of several processor groups it begins in its creator's, or that of `ideal`."""
        number = process.threads_created
        process.threads_created = number + 1
        process.threads += 1
        thread = Thread(process, self._identity(), name or f"{process.name}.{number}", program)
        if priority is not None:
            if not 1 <= priority <= 31:
                raise UserError(f"priority {priority} of thread {thread.name!r}", expected="1 to 31")
            thread.base_priority = thread.priority = priority
        if affinity is not None:
            thread.affinity = self._affinity(affinity, process.affinity, thread.name)
            self.groups.require_one(thread.affinity, thread.name)
        elif self.groups.masks:
            thread.affinity = self.groups.for_thread(process, creator, ideal)
        if ideal is None:
            if self.hooks.ideal_processor is not None:
                ideal = self.hooks.ideal_processor(thread)
            if ideal is None:
                ideal = (thread.affinity & -thread.affinity).bit_length() - 1
        if not 0 <= ideal < len(self.processors) or not thread.affinity >> ideal & 1:
            raise UserError(
                f"ideal processor {ideal} of thread {thread.name!r}", expected="a processor of its affinity"
            )
        thread.ideal = thread.last = ideal
        self.threads[thread.id] = thread
        if self.hooks.thread_created is not None:
            self.hooks.thread_created(thread)
        self.scheduler.start(thread)
        return thread

    def thread_ended(self, thread: Thread) -> None:
        """Forget a thread that has ended."""
        if thread.port is not None:
            thread.port.leave(thread)
        self.io.thread_ended(thread)
        self.caches.thread_ended(thread)
        del self.threads[thread.id]
        thread.process.threads -= 1
        if self.hooks.thread_exited is not None:
            self.hooks.thread_exited(thread)

    def create_lock(self, name: str, discipline: Discipline = "fifo") -> SpinLock:
        """A spinlock; see `ntlab.machine.locks`."""
        return self.locks.create(name, discipline)

    def _identity(self) -> int:
        # Windows gives processes and threads numbers of one space, in steps of four.
        self._next_id += 4
        return self._next_id

    def _affinity(self, mask: int | None, allowed: int, name: str) -> int:
        if mask is None:
            return allowed
        mask = self.scheduler.where(mask)
        if mask <= 0 or mask & ~allowed:
            raise UserError(
                f"affinity {mask:#x} of {name!r}", expected=f"a mask that is not empty, inside {allowed:#x}"
            )
        return mask

    # -- what is counted -----------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names, over the machine's life so far."""
        seconds = self.engine.now / 1e9 or 1.0
        busy = sum(
            p.busy_time + (self.engine.now - p.busy_since if p.thread is not None else 0)
            for p in self.processors
        )
        total = len(self.processors) * (self.engine.now or 1)
        return {
            r"System\Context Switches/sec": sum(p.context_switches for p in self.processors) / seconds,
            r"System\Processor Queue Length": float(self.scheduler.ready_count),
            r"Processor(_Total)\% Processor Time": 100 * busy / total,
            r"Processor(_Total)\Interrupts/sec": sum(p.interrupts for p in self.processors) / seconds,
            r"Processor(_Total)\% Interrupt Time": 100
            * sum(p.interrupt_time for p in self.processors)
            / total,
            r"Processor(_Total)\DPCs Queued/sec": sum(p.dpcs for p in self.processors) / seconds,
            r"Processor(_Total)\% DPC Time": 100 * sum(p.dpc_time for p in self.processors) / total,
            **self.timers.counters(),
            **self.groups.counters(),
            **self.locks.counters(),
            **self.memory.counters(),
            **(self.paging.counters() if self.paging is not None else {}),
            **self.sections.counters(),
            **self.pool.counters(),
            **self.system_ptes.counters(),
            **self.file_cache.counters(),
            **self.io.counters(),
            **self.partitions.counters(),
            **self.hardware_errors.counters(),
            **self.partitioning.counters(),
            **(self.power.counters() if self.power is not None else {}),
        }


def masks(processors: Iterable[int]) -> int:
    """The mask of some processors."""
    mask = 0
    for index in processors:
        mask |= 1 << index
    return mask

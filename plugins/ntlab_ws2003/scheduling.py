"""How Windows Server 2003 schedules: turns, boosts, where a thread runs, and whom it may push aside."""

from __future__ import annotations

from typing import Literal

import attrs

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Machine, Processor, SchedulerPolicy, SpinLock, Thread
from ntlab.plugin import option, state
from ntlab.quantities import MILLISECOND, SECOND, Duration

REAL_TIME = 16
"""Priorities from here on are never boosted, and never decay."""
HIGHEST_DYNAMIC = REAL_TIME - 1
SCAN_PERIOD = SECOND
STARVING_AFTER = 4 * SECOND
THREADS_EXAMINED = 16
THREADS_BOOSTED = 10

Preference = Literal["idle_core", "ideal_node", "ideal", "last"]


@attrs.define(slots=False, eq=False)
class Scheduling:
    """The scheduler's policies. Source of the mechanisms: scheduling facts, section 1."""

    quantum: Duration = option(
        default=Duration(187_500_000), help="A thread's turn: 12 ticks on a server, 2 on a client.", minimum=1
    )
    tick: Duration = option(
        default=Duration(15_625_000),
        help="Period of the clock interrupt.",
        minimum=MILLISECOND // 2,
        maximum=15_625_000,
    )
    accounting: Literal["tick", "cycle", "exact"] = option(
        default="tick",
        help="What a turn is charged: whole ticks (2003); cycles, looked at by ticks (2008); the time run.",
    )
    ready_queues: Literal["per_processor", "shared"] = option(
        default="per_processor", help="A ready queue for each processor (2003), or one for all (2000)."
    )
    fresh_quantum_after_wait: bool = option(
        default=False, help="Whether a thread that waited begins a new turn; 2003 goes on with the old one."
    )
    switch_cost: Duration = option(
        default=Duration(0), help="Time lost when a processor goes from one thread to another.", minimum=0
    )
    object_hold: Duration = option(
        default=Duration(0),
        help="How long an operation on an object holds the dispatcher lock; 0: that is not simulated.",
        minimum=0,
    )
    dispatcher_queue: Literal["fifo", "test_and_set"] = option(
        default="fifo", help="Who gets the dispatcher lock next: the longest waiter, or whoever has its line."
    )
    lock_transfer: Duration = option(
        default=Duration(0),
        help="Time of a spinlock's cache line to another processor of the node; farther, by latency.",
        minimum=0,
    )
    boosts: bool = option(default=True, help="Whether the end of a wait raises a thread's priority.")
    starvation_scan: bool = option(
        default=True, help="Whether the balance-set manager lifts threads that were ready for 4 s."
    )
    starvation_turns: int = option(
        default=2, help="Turns that a lifted thread gets at priority 15 before it drops back.", minimum=1
    )
    steal: bool = option(
        default=True, help="Whether an idle processor looks at the other processors' queues."
    )
    ideal_processors: Literal["by_turns", "none"] = option(
        default="by_turns",
        help="Whether each thread has an ideal processor, by turns within its process, and an ideal node.",
    )
    placement: tuple[Preference, ...] = option(
        default=("idle_core", "ideal_node", "ideal", "last"),
        help="What makes one idle processor better than another, most important first.",
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _seeds: dict[int, int] = state(dict)  # for each process, where its round of ideal processors begins
    _rounds: dict[int, list[int]] = state(dict)  # for each affinity, the processors in the order of a round
    _search: dict[int, list[Processor]] = state(dict)  # for each processor, whose queues it looks at
    _dispatcher_lock: SpinLock | None = attrs.field(init=False, default=None, repr=False, eq=False)
    _lifted: set[int] = state(set)  # threads at priority 15 by the starvation scan
    _scanning: bool = state(bool)
    _scan_from: int = state(int)  # the processor whose queue is looked at first

    # -- turns ---------------------------------------------------------------------------------------------

    @hookimpl
    def scheduler_policy(self, machine: Machine) -> SchedulerPolicy:
        if self.accounting == "tick" and self.quantum % self.tick:
            raise UserError(
                f"a quantum of {self.quantum} ns is charged by ticks of {self.tick} ns",
                where="ws2003.quantum",
                expected="a multiple of the tick",
            )
        self._machine = machine
        return SchedulerPolicy(
            quantum=self.quantum,
            tick=self.tick,
            accounting=self.accounting,
            ready_queues=self.ready_queues,
            fresh_quantum_after_wait=self.fresh_quantum_after_wait,
            switch_cost=self.switch_cost,
            object_hold=self.object_hold,
            lock_transfer=self.lock_transfer,
        )

    @hookimpl
    def dispatcher_lock(self, machine: Machine) -> SpinLock:
        if self._dispatcher_lock is None:
            self._dispatcher_lock = machine.create_lock("dispatcher", self.dispatcher_queue)
        return self._dispatcher_lock

    @hookimpl
    def boosted_priority(self, thread: Thread, increment: int) -> int | None:
        if not self.boosts or thread.base_priority >= REAL_TIME:
            return None
        return max(thread.priority, min(thread.base_priority + increment, HIGHEST_DYNAMIC))

    @hookimpl
    def priority_at_quantum_end(self, thread: Thread) -> int | None:
        if thread.priority == thread.base_priority or thread.base_priority >= REAL_TIME:
            return None
        if thread.id in self._lifted:
            self._lifted.remove(thread.id)
            return thread.base_priority
        return max(thread.priority - 1, thread.base_priority)

    # -- where a thread runs -------------------------------------------------------------------------------

    def start_scheduling(self, machine: Machine) -> None:
        """Look at the hardware; the machine has just booted, or it has changed."""
        tables = machine.tables
        self._rounds.clear()
        self._search.clear()
        # Siblings of a core come last in a round: a process fills whole cores first.
        self._rank = [tables.core_processors[i].index(i) for i in range(len(machine.processors))]
        self._node_mask = [tables.node_mask[node] for node in tables.node_of]
        self._core_mask = [sum(1 << i for i in core) for core in tables.core_processors]
        self._shared_cores = sorted({mask for mask in self._core_mask if mask.bit_count() > 1})
        self._nodes = [processors for processors in tables.node_processors if processors]
        # With the ideal processor preferred to the last one, no other processor can beat an idle ideal one
        # on an idle core, whatever else is asked: it passes every filter.
        self._rules = rules = [
            rule
            for rule in self.placement
            if self.ideal_processors != "none" or rule not in ("ideal", "ideal_node")
        ]
        self._ideal_wins = "ideal" in rules and "last" not in rules[: rules.index("ideal")]
        self._mind_cores = "idle_core" in rules

    @hookimpl
    def ideal_processor(self, thread: Thread) -> int | None:
        if self.ideal_processors == "none":
            return None
        process = thread.process
        order = self._rounds.get(thread.affinity)
        if order is None:
            allowed = [i for i in range(len(self._rank)) if thread.affinity >> i & 1]
            order = self._rounds[thread.affinity] = sorted(allowed, key=lambda i: (self._rank[i], i))
        seed = self._seeds.get(process.id)
        if seed is None:
            node = self._nodes[len(self._seeds) % len(self._nodes)]
            seed = self._seeds[process.id] = node[0]
        begin = next((k for k, i in enumerate(order) if i >= seed), 0)
        return order[(begin + process.threads_created - 1) % len(order)]

    @hookimpl
    def choose_processor(self, thread: Thread, idle: int) -> int:
        ideal = thread.ideal
        all_idle = self._machine.scheduler.idle_mask
        core = self._core_mask[ideal]
        if self._ideal_wins and idle >> ideal & 1 and (all_idle & core == core or not self._mind_cores):
            return ideal
        for rule in self._rules:
            if rule == "idle_core":
                # Processors that share their core drop out unless all of it is idle.
                better = idle
                for core in self._shared_cores:
                    if all_idle & core != core:
                        better &= ~core
            elif rule == "ideal_node":
                better = idle & self._node_mask[ideal]
            else:
                better = idle & 1 << (ideal if rule == "ideal" else thread.last)
            if better:
                idle = better
        return (idle & -idle).bit_length() - 1

    @hookimpl
    def choose_busy_processor(self, thread: Thread) -> int | None:
        if self.starvation_scan and not self._scanning:
            # Only from here on can a thread starve. Until now nobody waited for a processor.
            self._scanning = True
            engine = self._machine.engine
            engine.at((engine.now // SCAN_PERIOD + 1) * SCAN_PERIOD, self._scan)
        # With one queue for all, no ideal processor, or one that is not allowed, the lowest priority anywhere
        # gives way.
        if self.ready_queues == "shared" or self.ideal_processors == "none":
            return None
        return thread.ideal if thread.affinity >> thread.ideal & 1 else None

    @hookimpl
    def choose_thread(self, processor: Processor) -> Thread | None:
        if not self.steal or not self._machine.scheduler.waiting_queues or self.ready_queues == "shared":
            return None
        best, highest, bit = None, -1, processor.bit
        for other in self._queues_near(processor):
            summary = other.queue.summary >> (highest + 1)
            if summary:
                for thread in other.queue:
                    if thread.priority <= highest:
                        break
                    if thread.affinity & bit:
                        best, highest = thread, thread.priority
                        break
        return best

    def _queues_near(self, processor: Processor) -> list[Processor]:
        """The other processors: those of its node first, then those of the nearest node, and so on."""
        order = self._search.get(processor.index)
        if order is None:
            tables, processors = self._machine.tables, self._machine.processors
            order = self._search[processor.index] = [
                processors[i]
                for node in tables.nearest[processor.node]
                for i in tables.node_processors[node]
                if i != processor.index
            ]
        return order

    # -- starvation ----------------------------------------------------------------------------------------

    @hookimpl
    def thread_exited(self, thread: Thread) -> None:
        self._lifted.discard(thread.id)

    def _scan(self, _: object) -> int | None:
        """What the balance-set manager does once a second."""
        scheduler = self._machine.scheduler
        if not scheduler.waiting_queues:
            self._scanning = False
            return None
        since = self._machine.engine.now - STARVING_AFTER
        starving = [thread for thread in self._examined() if thread.ready_since <= since]
        for thread in starving[:THREADS_BOOSTED]:
            self._lifted.add(thread.id)
            thread.quantum_left = self.starvation_turns * self.quantum
            scheduler.set_priority(thread, HIGHEST_DYNAMIC)
        return SCAN_PERIOD

    def _examined(self) -> list[Thread]:
        """The threads one scan looks at: lowest priorities first, and each time from another processor on."""
        processors = self._machine.processors
        if self.ready_queues == "shared":
            processors = processors[:1]
        examined: list[Thread] = []
        for step in range(len(processors)):
            queue = processors[(self._scan_from + step) % len(processors)].queue
            if queue.summary & (1 << HIGHEST_DYNAMIC) - 1:
                for level in queue.levels[1:HIGHEST_DYNAMIC]:
                    examined.extend(level)
                if len(examined) >= THREADS_EXAMINED:
                    self._scan_from = (self._scan_from + step + 1) % len(processors)
                    break
        return examined[:THREADS_EXAMINED]

"""A completely fair scheduler: every decision of the baseline's scheduler, taken otherwise.

All threads but the real-time ones share one priority level; their base priorities are weights. The ready
thread that ran least for its weight is next, and gets a part of `latency` by its weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from ntlab import Duration, UserError, hookimpl, option, plugin, state
from ntlab.machine import Machine, Processor, SchedulerPolicy, Thread
from ntlab_cfs.timeline import UNIT, Account, Timeline, virtual
from ntlab_cfs.workloads import Desk

NORMAL = 8
"""The base priority of weight `UNIT`, and the level that all fair threads share."""
REAL_TIME = 16
"""Threads from this priority on are not shared fairly: they run before all others, in turn."""
ENDLESS = 1 << 60
"""The turn of a thread that nobody waits for. It is cut when somebody comes."""


@plugin(
    name="cfs",
    summary="Each thread has its share of a processor, by weight, and soon: a completely fair scheduler.",
    before=("ws2003",),
    workloads=(Desk,),
)
class Cfs:
    latency: Duration = option(
        default=Duration(6_000_000), help="In which each of the ready threads has a turn.", minimum=1
    )
    granularity: Duration = option(
        default=Duration(750_000),
        help="The least length of a turn; with many threads all their turns take longer than `latency`.",
        minimum=1,
    )
    wakeup_granularity: Duration = option(
        default=Duration(1_000_000),
        help="How much more than its share the running thread had when it gives way to one that wakes.",
        minimum=0,
    )
    sleeper_credit: Duration = option(
        default=Duration(3_000_000),
        help="How far behind the others a thread that waited may be, at most: its advantage when it wakes.",
        minimum=0,
    )
    start_debit: bool = option(
        default=True, help="Whether a new thread waits a turn, so that nobody gains by starting threads."
    )
    weight_step: float = option(
        default=1.25,
        help="The weight of a thread over that of one whose base priority is one lower.",
        minimum=1,
        maximum=2,
    )
    idle_balance: bool = option(
        default=True, help="Whether an idle processor takes a thread from the most loaded one."
    )
    balance_interval: Duration = option(
        default=Duration(16_000_000),
        help="How often a thread that waits at the most loaded processor goes to the least loaded; 0: never.",
        minimum=0,
    )
    real_time_turn: Duration = option(
        default=Duration(100_000_000), help="A turn among real-time threads of one priority.", minimum=1
    )
    switch_cost: Duration = option(
        default=Duration(0), help="Time lost when a processor goes from one thread to another.", minimum=0
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _accounts: dict[Thread, Account] = state(dict)
    _timelines: list[Timeline] = state(list)
    _balancing: bool = state(bool)
    _rounds: int = state(int)  # how often it was looked whether loads differ
    _target: int | None = attrs.field(init=False, default=None, repr=False, eq=False)

    # -- the rules -----------------------------------------------------------------------------------------

    @hookimpl
    def scheduler_policy(self, machine: Machine) -> SchedulerPolicy:
        if self.granularity > self.latency:
            raise UserError(
                f"turns of at least {self.granularity} ns in a latency of {self.latency} ns",
                where="cfs.granularity",
                expected="at most cfs.latency",
            )
        self._machine = machine
        return SchedulerPolicy(
            quantum=self.real_time_turn,
            accounting="exact",
            ready_queues="per_processor",
            fresh_quantum_after_wait=True,
            switch_cost=self.switch_cost,
        )

    @hookimpl
    def ready_level(self, processor: int, priority: int) -> Timeline | None:
        if priority != NORMAL:
            return None
        timeline = Timeline(processor, self._accounts, self._enter)
        self._timelines.append(timeline)
        return timeline

    # -- virtual time --------------------------------------------------------------------------------------

    @hookimpl
    def thread_created(self, thread: Thread) -> None:
        if thread.base_priority < REAL_TIME:
            weight = round(UNIT * self.weight_step ** (thread.base_priority - NORMAL))
            self._accounts[thread] = Account(weight)
            self._machine.scheduler.set_priority(thread, NORMAL)

    @hookimpl
    def thread_exited(self, thread: Thread) -> None:
        self._accounts.pop(thread, None)

    @hookimpl
    def thread_ready(self, thread: Thread) -> None:
        account = self._accounts.get(thread)
        if account is not None:
            account.arrives = True

    @hookimpl
    def context_switched(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        timeline = self._timelines[processor.index]
        arriving = self._accounts.get(new) if new is not None else None
        if arriving is not None and (arriving.arrives or arriving.timeline is not timeline):
            assert new is not None
            self._enter(timeline, new)  # it did not wait here
        elif arriving is None and old is not None and not timeline:
            # The last one goes: the processor's virtual time stands still until the next one comes.
            leaving = self._accounts.get(old)
            if leaving is not None:
                timeline.advance(leaving.virtual_time(old.run_time))

    def _enter(self, timeline: Timeline, thread: Thread) -> int:
        """A thread is queued on a timeline, or runs there without having been. Gives its virtual time."""
        account = self._accounts[thread]
        time = account.virtual_time(thread.run_time)
        before = account.timeline
        if before is timeline and not account.arrives:
            return time
        minimum = self._minimum(timeline)
        if before is None:
            time = minimum
            if self.start_debit:
                time += virtual(self._share(timeline, account.weight, thread), account.weight)
        else:
            if before is not timeline:
                time += minimum - self._minimum(before)
            if account.arrives:
                time = max(time, minimum - virtual(self.sleeper_credit))
        account.move(timeline, time, thread.run_time)
        if self.balance_interval and not self._balancing and len(self._timelines) > 1:
            self._balancing = True
            self._machine.engine.after(self.balance_interval, self._balance)
        return time

    def _minimum(self, timeline: Timeline) -> int:
        """The virtual time of a processor now."""
        running = self._machine.processors[timeline.processor].thread
        account = self._accounts.get(running) if running is not None else None
        if account is None or account.arrives or account.timeline is not timeline:
            return timeline.advance(None)
        assert running is not None
        return timeline.advance(account.virtual_time(self._machine.scheduler.run_time(running)))

    # -- turns ---------------------------------------------------------------------------------------------

    def _share(self, timeline: Timeline, weight: int, beside: Thread) -> int:
        """The part of the latency of a thread that is not queued, ns; `beside` it no other one runs."""
        load, count = timeline.load + weight, len(timeline) + 1
        running = self._machine.processors[timeline.processor].thread
        if running is not None and running is not beside and running in self._accounts:
            load += self._accounts[running].weight
            count += 1
        period = max(self.latency, count * self.granularity)
        return max(self.granularity, period * weight // load)

    @hookimpl
    def turn_length(self, thread: Thread, processor: Processor) -> int | None:
        account = self._accounts.get(thread)
        if account is None:
            return None
        timeline = self._timelines[processor.index]
        timeline.turn_from = thread.run_time
        timeline.turn = self._share(timeline, account.weight, thread) if timeline else ENDLESS
        return timeline.turn

    @hookimpl
    def preempts(self, thread: Thread, running: Thread, processor: Processor) -> bool:
        mine, theirs = self._accounts.get(thread), self._accounts.get(running)
        if mine is None or theirs is None:
            return False
        ran = self._machine.scheduler.run_time(running)
        ahead = theirs.virtual_time(ran) - mine.virtual_time(thread.run_time)
        if ahead > virtual(self.wakeup_granularity, mine.weight):
            return True
        # It goes on, but for its part of the latency among one more. If it had that already, it goes on for
        # the least length of a turn.
        timeline = self._timelines[processor.index]
        ran -= timeline.turn_from
        turn = max(self._share(timeline, theirs.weight, running), ran + self.granularity)
        if turn < timeline.turn:
            timeline.turn = turn
            self._machine.scheduler.set_turn(running, turn - ran)
        return False

    @hookimpl
    def boosted_priority(self, thread: Thread) -> int:
        return thread.priority

    @hookimpl
    def priority_at_quantum_end(self, thread: Thread) -> int:
        return thread.priority

    # -- where a thread runs -------------------------------------------------------------------------------

    @hookimpl
    def ideal_processor(self, thread: Thread) -> int:
        return min(self._allowed(thread), key=self._load).index

    @hookimpl
    def choose_processor(self, thread: Thread, idle: int) -> int:
        if idle >> thread.last & 1:
            return thread.last
        tables = self._machine.tables
        for node in tables.nearest[tables.node_of[thread.last]]:
            near = idle & tables.node_mask[node]
            if near:
                idle = near
                break
        return (idle & -idle).bit_length() - 1

    @hookimpl
    def choose_busy_processor(self, thread: Thread) -> int:
        if self._target is not None:
            return self._target
        if thread not in self._accounts:
            return min(self._allowed(thread), key=lambda p: p.thread.priority if p.thread else 0).index
        if thread.affinity >> thread.last & 1:
            return thread.last
        return min(self._allowed(thread), key=self._load).index

    @hookimpl
    def choose_thread(self, processor: Processor) -> Thread | Literal[False]:
        if not self.idle_balance or not self._machine.scheduler.waiting_queues:
            return False
        others = [other for other in self._machine.processors if other.queue.summary]
        for other in sorted(others, key=self._load, reverse=True):
            waiting = list(other.queue)
            if not other.queue.summary >> REAL_TIME:
                waiting.reverse()  # the one that would wait longest
            for thread in waiting:
                if thread.affinity & processor.bit:
                    return thread
        return False

    def _balance(self, _: object) -> int | None:
        """Move one thread, if its new place is no worse for it; look again as long as threads wait."""
        scheduler, processors = self._machine.scheduler, self._machine.processors
        if not scheduler.waiting_queues:
            self._balancing = False
            return None
        # Among equals another one each time, or the same threads would always be those that move.
        self._rounds += 1
        first = self._rounds % len(processors)
        around = [*processors[first:], *processors[:first]]
        busiest = max(around, key=self._load)
        highest = self._load(busiest)
        for thread in self._timelines[busiest.index]:
            target = min((p for p in around if p.bit & thread.affinity), key=self._load)
            real_time, load = self._load(target)
            if target is not busiest and (real_time, load + self._accounts[thread].weight) <= highest:
                self._target = target.index
                scheduler.reconsider(thread)
                self._target = None
                break
        return self.balance_interval

    def _allowed(self, thread: Thread) -> Iterator[Processor]:
        return (p for p in self._machine.processors if p.bit & thread.affinity)

    def _load(self, processor: Processor) -> tuple[bool, int]:
        """Whether it has real-time threads to run, and the weight of the others."""
        load = self._timelines[processor.index].load
        real_time = bool(processor.queue.summary >> REAL_TIME)
        if processor.thread is not None:
            account = self._accounts.get(processor.thread)
            if account is None:
                real_time = True
            else:
                load += account.weight
        return real_time, load

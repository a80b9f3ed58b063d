"""The dispatcher: which thread runs on which processor, and for how long.

The mechanism is here, the policy in plugins: the fixed rules come as a `SchedulerPolicy`, each choice is a
hook (`ntlab.hooks.scheduling`). A thread that runs costs one event, at the exact time at which its burst,
its turn or its limit ends; clock ticks are computed, not simulated.

Hand-off, not barging: a processor that becomes free takes the first ready thread at once, within the same
event, and a thread that becomes ready never overtakes one of its own priority, unless a plugin orders them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ntlab.engine import FOREVER
from ntlab.errors import SimulationError
from ntlab.machine.hotpath import plain_actions
from ntlab.machine.policy import SchedulerPolicy
from ntlab.machine.processors import NOMINAL, PRIORITIES, Processor, ReadyLevel, ReadyQueue
from ntlab.machine.records import CSWITCH, READY_THREAD, THREAD_END, THREAD_START
from ntlab.machine.threads import (
    ENDED,
    HELD,
    READY,
    RUNNING,
    TERMINATED,
    WAITING,
    Compute,
    Request,
    Thread,
    resume,
)

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

SwitchWatcher = Callable[[Processor, Thread | None, Thread | None], None]

IDLE_TID = 0
STEPS_AT_ONE_INSTANT = 1_000_000
NEW_TURN = FOREVER
"""What is left of a turn that has not begun, where plugins say at its beginning how long it is."""


class Scheduler:
    """Runs the threads of one machine on its processors.

    `idle_mask` has a bit for each idle processor; `running[p]` one for each that runs priority p, and
    `running_summary` one for each priority that is run; `waiting_queues` counts ready queues that are not
    empty.
    """

    __slots__ = (  # quicker than a dictionary of so many
        "_at_once",
        "_attended",
        "_boosted_priority",
        "_by_tick",
        "_choose_busy",
        "_choose_processor",
        "_choose_thread",
        "_exact",
        "_given",
        "_insert",
        "_noted",
        "_on_charge",
        "_on_ready",
        "_ordered",
        "_preempts",
        "_priority_at_quantum_end",
        "_quantum",
        "_refresh",
        "_run_limit",
        "_selective",
        "_shared",
        "_stand_ins",
        "_stopped",
        "_switch_cost",
        "_tick",
        "_trace_end",
        "_trace_ready",
        "_trace_start",
        "_trace_switch",
        "_turn_length",
        "_usable_processors",
        "all_mask",
        "delays",
        "engine",
        "expired",
        "idle_mask",
        "machine",
        "policy",
        "processors",
        "running",
        "running_summary",
        "slept",
        "switch_watchers",
        "waiting_queues",
    )

    def __init__(self, machine: Machine, nodes: Sequence[int], policy: SchedulerPolicy) -> None:
        self.machine = machine
        self.engine = machine.engine
        self._insert = machine.engine.inserter()
        self.policy = policy
        self._shared = policy.ready_queues == "shared"
        queues = self._ready_queues(1 if self._shared else len(nodes))
        self.processors = [
            Processor(i, node, queues[0 if self._shared else i]) for i, node in enumerate(nodes)
        ]
        self.all_mask = (1 << len(self.processors)) - 1
        self.idle_mask = self.all_mask
        self.waiting_queues = 0
        self.running = [0] * PRIORITIES
        self.running_summary = 0
        self._turn_length = machine.hooks.turn_length
        self._quantum = policy.quantum if self._turn_length is None else NEW_TURN
        self._tick = policy.tick
        self._refresh = policy.fresh_quantum_after_wait
        self._switch_cost = policy.switch_cost
        self._exact = policy.accounting == "exact"
        self._by_tick = policy.accounting == "tick"
        hooks = machine.hooks
        self._usable_processors = hooks.usable_processors
        self._choose_processor = hooks.choose_processor
        self._choose_busy = hooks.choose_busy_processor
        self._choose_thread = hooks.choose_thread
        self._preempts = hooks.preempts
        self._boosted_priority = hooks.boosted_priority
        self._priority_at_quantum_end = hooks.priority_at_quantum_end
        self._run_limit = hooks.run_limit
        self._on_ready = hooks.thread_ready
        self._on_charge = hooks.thread_charged
        # Called at each context switch. The list stays the same one: the hot path holds it.
        self.switch_watchers: list[SwitchWatcher] = []
        self.delays = 0  # how many of them, the first ones, may let a processor begin later
        if hooks.context_switched is not None:
            self.switch_watchers.append(hooks.context_switched)
        tracer = machine.tracer
        self._trace_switch = tracer.emitter(CSWITCH)
        self._trace_ready = tracer.emitter(READY_THREAD)
        self._trace_start = tracer.emitter(THREAD_START)
        self._trace_end = tracer.emitter(THREAD_END)
        # What the hot path need not look at: each saves a test or a call in every dispatch.
        self._noted = self._trace_switch is not None or bool(self.switch_watchers)
        self._attended = bool(self.switch_watchers) or self._switch_cost > 0 or self._turn_length is not None
        self._at_once = False  # a program may go on within the present event
        self._stand_ins: dict[int, int] = {}  # for evacuated processors
        self._stopped: dict[int, int] | None = None  # speeds to come, while all processors stand still
        self._selective = self._run_limit is not None  # whether the first ready thread may be refused
        self._choose_actions()

    def _ready_queues(self, number: int) -> list[ReadyQueue]:
        self._ordered = False  # whether a plugin orders some level
        # The levels that plugins gave, by identity: kept, since what is gone leaves its identity to others.
        self._given: dict[int, ReadyLevel] = {}
        return [self._ready_queue(processor) for processor in range(number)]

    def _ready_queue(self, processor: int) -> ReadyQueue:
        ask = self.machine.hooks.ready_level
        if ask is None:
            return ReadyQueue()
        levels: list[ReadyLevel] = []
        for priority in range(PRIORITIES):
            level = ask(self.machine, processor, priority)
            if level is None:
                levels.append(deque())
                continue
            where = f"for processor {processor}, priority {priority}"
            if not isinstance(level, ReadyLevel):
                raise SimulationError(f"ready_level gave {level!r} {where}, which is no ReadyLevel")
            if len(level) or id(level) in self._given:
                raise SimulationError(f"ready_level gave {level!r} {where}, which is not new and empty")
            self._given[id(level)] = level
            checks = self.machine.checks
            levels.append(level if checks is None else checks.level(level))
            self._ordered = True
        return ReadyQueue(levels)

    def _choose_actions(self) -> None:
        """What the engine calls at the end of a stretch and of a sleep: the plain versions where they do."""
        self.expired: Callable[[Processor], int | None] = self._expired
        self.slept: Callable[[Thread], None] = self._slept
        tracer = self.machine.tracer
        followed = tracer.has_subscribers(CSWITCH) or tracer.has_subscribers(READY_THREAD)
        if self._exact and self._on_charge is None and self._run_limit is None and not followed:
            self.expired, self.slept = plain_actions(self)

    @property
    def ready_count(self) -> int:
        """How many threads are in ready queues."""
        return sum(1 for _ in self.ready_threads())

    def ready_threads(self) -> Iterator[Thread]:
        """All threads in ready queues, processor by processor, highest priority first."""
        for processor in self.processors[:1] if self._shared else self.processors:
            yield from processor.queue

    # -- threads come and go -------------------------------------------------------------------------

    def start(self, thread: Thread) -> None:
        """Make a new thread ready."""
        if self._trace_start is not None:
            name = self.machine.tracer.text(thread.name)
            self._trace_start((self.engine.now, THREAD_START.id, thread.id, thread.process.id, name))
        if self._shared and thread.affinity != self.all_mask:
            self._selective = True
        thread.alarm = [self.slept, thread]
        thread.quantum_left = self._quantum
        thread.ready_since = self.engine.now
        if self._on_ready is not None:
            self._on_ready(thread)
        self._place(thread)

    def wake(self, thread: Thread, result: Any = None, increment: int = 0) -> None:
        """End a thread's wait. Its program receives `result`; `increment` may raise its priority.

        The program does not go on inside this call, so the caller may finish what it is doing.
        """
        if thread.state != WAITING:
            if thread.apcs is not None and thread.apcs.waiting:
                thread.apcs.end_wait(result)
                return
            raise SimulationError(f"{thread!r} is woken but does not wait (state {thread.state})")
        if increment and self._boosted_priority is not None:
            priority = self._boosted_priority(thread, increment)
            if priority is not None:
                thread.priority = priority
        thread.result = result
        if self._refresh:
            thread.quantum_left = self._quantum
        thread.ready_since = now = self.engine.now
        if self._trace_ready is not None:
            self._trace_ready((now, READY_THREAD.id, thread.id, increment))
        if thread.port is not None:
            thread.port.thread_woke()
        if self._on_ready is not None:
            self._on_ready(thread)
        self._place(thread)

    def sleep(self, thread: Thread, duration: int, increment: int) -> None:
        """Arrange for a thread that is about to wait to be woken in `duration` ns."""
        thread.wake_increment = increment
        self.engine.after(
            duration, self._slept if increment or thread.port is not None else self.slept, thread
        )

    def _slept(self, thread: Thread) -> None:
        increment, thread.wake_increment = thread.wake_increment, 0  # it may sleep again within `wake`
        # Nothing else happens in this event, so the program may go on within it: that saves another one.
        self._at_once = True
        try:
            self.wake(thread, None, increment)
        finally:
            self._at_once = False

    def release(self, thread: Thread) -> None:
        """Make ready again a thread that a `run_limit` of 0 held back."""
        if thread.state != HELD:
            raise SimulationError(f"{thread!r} is released but not held back (state {thread.state})")
        self._note_ready(thread)
        self._place(thread)

    def _note_ready(self, thread: Thread) -> None:
        """A thread that was held back is ready from now on."""
        thread.ready_since = now = self.engine.now
        if self._trace_ready is not None:
            self._trace_ready((now, READY_THREAD.id, thread.id, 0))

    def _place(self, thread: Thread) -> None:
        """Start a ready thread on an idle processor, or preempt for it, or queue it."""
        thread.state = READY
        idle = self.idle_mask & thread.affinity
        if idle and (self._usable_processors is None or (idle := self.usable(thread))):
            self._start_on_idle(thread, idle)
            return
        priority = thread.priority
        if self._choose_busy is not None and (index := self._choose_busy(thread)) is not None:
            processor = self.processors[index]
            if not processor.bit & thread.affinity or (processor.bit & self.idle_mask and not self._shared):
                raise SimulationError(f"choose_busy_processor gave {index}, which {thread!r} cannot wait for")
        elif (
            self._shared
            and (self.running_summary & -self.running_summary) >> priority
            and self._preempts is None
        ):
            processor = self.processors[0]  # nobody to preempt, and it is one queue for all
        else:
            processor = self._lowest_running(thread)
        thread.processor = processor
        queue = processor.queue
        if not queue.summary:
            self.waiting_queues += 1
        queue.levels[priority].append(thread)
        queue.summary |= 1 << priority
        running = processor.thread
        if running is None or running.priority > priority:
            return
        if running.priority < priority or self._preempts is not None:
            if processor.stepping or processor.level or running.raised:
                processor.preempt_pending = True
            elif running.priority < priority or self._preempts(thread, running, processor):
                self._preempt(processor, running)

    def usable(self, thread: Thread) -> int:
        """The idle processors that a ready thread may start on now: a mask."""
        idle = self.idle_mask & thread.affinity
        if idle and self._usable_processors is not None:
            for answer in self._usable_processors(thread, idle):
                idle &= answer
        return idle

    def _start_on_idle(self, thread: Thread, idle: int) -> None:
        if self._choose_processor is not None and (index := self._choose_processor(thread, idle)) is not None:
            if not idle >> index & 1:
                raise SimulationError(f"choose_processor gave {index}, which is not among the idle {idle:#x}")
        else:
            index = (idle & -idle).bit_length() - 1
        processor = self.processors[index]
        if self._run_limit is None or thread.raised or self._limit(thread, processor):
            self._leave_idle(processor, thread)
            self._plan(processor)

    def _lowest_running(self, thread: Thread) -> Processor:
        """The allowed processor that runs the lowest priority. All allowed ones are busy."""
        affinity = thread.affinity
        summary = self.running_summary
        while summary:
            lowest = summary & -summary
            mask = self.running[lowest.bit_length() - 1] & affinity
            if mask:
                return self.processors[(mask & -mask).bit_length() - 1]
            summary ^= lowest
        raise SimulationError(f"no processor of {affinity:#x} is running anything")

    def _outranked(self, processor: Processor, thread: Thread) -> bool:
        """Whether a thread waits that takes the place of the running one."""
        waiting = processor.queue.summary >> thread.priority
        if waiting > 1 or not waiting or self._preempts is None:
            return waiting > 1
        for first in processor.queue.levels[thread.priority]:
            if first.affinity & processor.bit:
                return bool(self._preempts(first, thread, processor))
        return False

    def _preempt(self, processor: Processor, thread: Thread) -> None:
        """Take the processor from the running thread; run the best one."""
        self._pause(processor, thread)
        self._give_way(processor, thread)
        self._plan(processor)
        if self.idle_mask:
            self._use_idle(thread)

    def _give_way(self, processor: Processor, thread: Thread) -> None:
        """Queue the running thread again, with the rest of its turn, and go to the best one.

        Whoever calls this plans what follows. It goes to the head of its priority, or to the tail where it
        gives way to its own.
        """
        queue = processor.queue
        if queue.summary >> thread.priority == 1:
            thread.state = READY
            thread.ready_since = self.engine.now
            queue.append(thread)
        else:
            self._requeue(processor, thread)
        self._run_next(processor, thread)

    def _use_idle(self, thread: Thread) -> None:
        """A thread has lost its processor to one that may not run on the idle processors; perhaps it may."""
        idle = self.usable(thread)
        if idle and thread.state == READY:
            self._withdraw(thread)
            self._start_on_idle(thread, idle)

    def _requeue(self, processor: Processor, thread: Thread) -> None:
        thread.state = READY
        thread.ready_since = self.engine.now
        queue = processor.queue
        if not queue.summary:
            self.waiting_queues += 1
        queue.append_left(thread)

    def _withdraw(self, thread: Thread) -> None:
        """Take a thread out of the ready queue that it is in."""
        assert thread.processor is not None
        queue = thread.processor.queue
        queue.remove(thread)
        if not queue.summary:
            self.waiting_queues -= 1

    def set_priority(self, thread: Thread, priority: int) -> None:
        """Change a thread's current priority, wherever it is."""
        if priority == thread.priority:
            return
        if thread.state == READY:
            self._withdraw(thread)
            thread.priority = priority
            self._place(thread)
        elif thread.state == RUNNING and thread.processor is not None:
            processor = thread.processor
            self._running_priority(processor.bit, thread.priority, priority)
            thread.priority = priority
            self.reconsider(thread)
        else:
            thread.priority = priority

    def _running_priority(self, bit: int, old: int, new: int) -> None:
        """A processor's running priority goes from `old` to `new`; -1 is idle."""
        running = self.running
        if old >= 0:
            running[old] = mask = running[old] ^ bit
            if not mask:
                self.running_summary ^= 1 << old
        if new >= 0:
            running[new] |= bit
            self.running_summary |= 1 << new

    # -- a processor goes from one thread to another ---------------------------------------------------

    def _leave_idle(self, processor: Processor, new: Thread) -> None:
        """Go from the idle thread to `new`. Whoever calls this plans what follows."""
        now = self.engine.now
        self.idle_mask ^= processor.bit
        self._running_priority(processor.bit, -1, new.priority)
        processor.busy_since = processor.since = processor.ticked = now
        processor.thread = new
        processor.context_switches += 1
        new.state = RUNNING
        new.processor = processor
        new.last = processor.index
        if self._noted:
            self._note_switch(processor, None, new)
        if self._turn_length is not None:
            self._begin_turn(processor, new)

    def _run_next(self, processor: Processor, old: Thread) -> None:
        """The thread `old` has stopped running: go to the next one. Whoever calls this plans what follows."""
        queue = processor.queue
        summary = queue.summary
        new: Thread | None
        if summary and not self._selective:
            priority = summary.bit_length() - 1
            level = queue.levels[priority]
            new = level.popleft()
            if not level:
                queue.summary = summary = summary ^ 1 << priority
                if not summary:
                    self.waiting_queues -= 1
        else:
            new = self._find(processor)
            if new is None:
                self._go_idle(processor, old)
                return
        new.state = RUNNING
        processor.since = processor.ticked = now = self.engine.now
        if new is old:
            new.processor = processor
            if self._turn_length is not None:
                self._begin_turn(processor, new)
            return
        new.processor = processor
        new.last = processor.index
        processor.thread = new
        processor.context_switches += 1
        if self._switch_cost:
            processor.since = processor.ticked = now + self._switch_cost
        if old.priority != new.priority:
            self._running_priority(processor.bit, old.priority, new.priority)
        if self._noted:
            self._note_switch(processor, old, new)
        if self._turn_length is not None:
            self._begin_turn(processor, new)

    def _begin_turn(self, processor: Processor, thread: Thread) -> None:
        """A processor begins to run a thread, or runs it for another turn: ask for how long."""
        assert self._turn_length is not None
        left = thread.quantum_left
        length = self._turn_length(thread, processor, 0 if left == NEW_TURN else max(0, left))
        if length is not None:
            if length <= 0:
                raise SimulationError(f"turn_length gave {length} for {thread!r}; expected 1 ns or more")
            thread.quantum_left = length
        elif left == NEW_TURN:
            thread.quantum_left = self.policy.quantum

    def _find(self, processor: Processor) -> Thread | None:
        """The next thread for a processor where threads may be refused, or its own queue is empty."""
        queue = processor.queue
        allowed: Thread | None
        while queue.summary:
            for allowed in queue:
                if processor.bit & allowed.affinity:
                    break
            else:
                break  # a shared queue, and no thread in it may run here
            allowed.processor = processor
            self._withdraw(allowed)
            if self._run_limit is None or allowed.raised or self._limit(allowed, processor):
                return allowed
        chosen: Thread | None = self._choose_thread(processor) if self._choose_thread is not None else None
        if chosen:
            if chosen.state == READY:
                self._withdraw(chosen)
            elif chosen.state == HELD:
                self._note_ready(chosen)
            else:
                raise SimulationError(f"choose_thread gave {chosen!r}, which is not ready")
        return chosen or None

    def _go_idle(self, processor: Processor, old: Thread) -> None:
        processor.thread = None
        processor.context_switches += 1
        self.idle_mask |= processor.bit & self.all_mask
        self._running_priority(processor.bit, old.priority, -1)
        processor.busy_time += self.engine.now - processor.busy_since
        if self._noted:
            self._note_switch(processor, old, None)
        if processor.virtual is not None:
            processor.virtual.halt()

    def _note_switch(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        if self._trace_switch is not None:
            now = self.engine.now
            if new is None:
                assert old is not None
                self._trace_switch(
                    (now, CSWITCH.id, processor.index, IDLE_TID, old.id, 0,
                     old.priority, old.state, old.wait_reason, now)
                )  # fmt: skip
            elif old is None:
                self._trace_switch(
                    (
                        now,
                        CSWITCH.id,
                        processor.index,
                        new.id,
                        IDLE_TID,
                        new.priority,
                        0,
                        0,
                        0,
                        new.ready_since,
                    )
                )
            else:
                self._trace_switch(
                    (now, CSWITCH.id, processor.index, new.id, old.id, new.priority,
                     old.priority, old.state, old.wait_reason, new.ready_since)
                )  # fmt: skip
        for watcher in self.switch_watchers:
            watcher(processor, old, new)

    def _limit(self, thread: Thread, processor: Processor) -> bool:
        """Whether plugins let the thread run here now. If not, it is held back."""
        assert self._run_limit is not None
        if 0 in self._run_limit(thread, processor):
            thread.state = HELD
            thread.processor = None
            return False
        return True

    # -- a thread runs -----------------------------------------------------------------------------------

    def _stretch(self, processor: Processor, thread: Thread) -> int | None:
        """The time at which the running thread must be looked at again; None if it makes no progress."""
        start = processor.since
        if processor.speed == NOMINAL:
            end = start + thread.remaining
        elif processor.speed:
            parts = thread.remaining * NOMINAL - thread.fraction if thread.remaining else 0
            end = start - (-parts // processor.speed)
        else:
            return None
        if processor.level:
            return None
        if not thread.raised:
            if self._exact:
                turn = start + thread.quantum_left
            elif self._by_tick:
                tick = self._tick  # charged whole, so the tick at which nothing is left ends the turn
                turn = (processor.ticked // tick - -thread.quantum_left // tick) * tick
            else:
                tick = self._tick
                turn = -(-(start + thread.quantum_left) // tick) * tick
            if turn < end:
                end = turn if turn > start else start
            if self._run_limit is not None:
                limits = self._run_limit(thread, processor)
                if limits:
                    limit = start + min(limits)
                    if limit < end:
                        end = limit
        return end if end < FOREVER else None

    def _plan(self, processor: Processor) -> None:
        """Schedule the end of the stretch that begins at `processor.since`."""
        thread = processor.thread
        if thread is None or processor.stepping:  # while stepping, _expired plans when it is done
            return
        end = self._stretch(processor, thread)
        if end is None:
            return
        action = self.expired if processor.speed == NOMINAL else self._expired
        if self._at_once and end == self.engine.now and not thread.remaining:
            self._at_once = False
            processor.plan = event = [action, processor]  # as if it had been scheduled for now
            delay = action(processor)
            if delay is not None:
                processor.plan = self._insert(delay, event)
            return
        processor.plan = self.engine.at(end, action, processor)

    def _settle(self, processor: Processor, thread: Thread) -> None:
        """Account for what the running thread did since it was last looked at."""
        now = self.engine.now
        ran = now - processor.since
        if ran > 0:
            processor.since = now
            thread.run_time += ran
            if processor.speed == NOMINAL:
                thread.remaining -= ran
            else:
                done = ran * processor.speed + thread.fraction
                thread.remaining = max(0, thread.remaining - done // NOMINAL)
                thread.fraction = done % NOMINAL if thread.remaining else 0
            if not self._by_tick:
                thread.quantum_left -= ran
            if self._on_charge is not None:
                self._on_charge(thread, processor, ran)
        if self._by_tick and now > processor.ticked:
            charge = (now // self._tick - processor.ticked // self._tick) * self._tick
            processor.ticked = now
            thread.quantum_left -= charge
            thread.tick_time += charge

    def _pause(self, processor: Processor, thread: Thread) -> None:
        """Stop the thread's progress, whoever will run next."""
        if processor.plan is not None:
            self.engine.cancel(processor.plan)
            processor.plan = None
        if processor.speed and not processor.level:
            self._settle(processor, thread)

    def _expired(self, processor: Processor) -> int | None:
        """The planned end of a stretch: of the burst, of the turn, or of a limit.

        Returns the length of the next stretch: the engine calls again then, by the same event.
        """
        thread = processor.thread
        assert thread is not None
        processor.stepping = True
        self._settle(processor, thread)
        if thread.remaining:
            if not thread.raised:
                self._turn_over(processor, thread)
        elif thread.spinning is not None:
            thread.remaining = self.machine.locks.still_spinning(thread)
        return self._advance(processor)

    def _advance(self, processor: Processor) -> int | None:
        """Advance programs until the processor has a thread with work to do, or none.

        Any number of threads that wait at once cost no recursion. Returns the length of the next stretch if
        the event that this happens in, which is still the processor's plan, shall end it, else plans it.
        """
        now = self.engine.now
        steps = 0
        while (thread := processor.thread) is not None:
            if processor.preempt_pending and not thread.raised:
                processor.preempt_pending = False
                if self._outranked(processor, thread):
                    self._give_way(processor, thread)
                    if self.idle_mask:
                        self._use_idle(thread)
                    continue
            if thread.remaining or processor.since > now:
                break
            steps += 1
            if steps > STEPS_AT_ONE_INSTANT:
                raise SimulationError(
                    f"the program of {thread!r} made {STEPS_AT_ONE_INSTANT} requests at {now} ns "
                    "without using any time: it loops for ever"
                )
            result = thread.result
            if result is None:
                request = next(thread.program, ENDED)
            else:
                thread.result = None
                try:
                    request = resume(thread.program, result)
                except StopIteration:
                    request = ENDED
            if request.__class__ is Compute:
                thread.remaining = request.work
            else:
                self._carry_out(processor, thread, request)
        processor.stepping = False
        if thread is None:
            processor.plan = None
        elif processor.plan is None:  # something in between has cancelled the event that this call is
            self._plan(processor)
        else:
            end = self._stretch(processor, thread)
            if end is not None:
                return end - now
            processor.plan = None
        return None

    def _carry_out(self, processor: Processor, thread: Thread, request: Request) -> None:
        """Do what a running thread's program asks for. If the thread stops running, go to the next one."""
        if request is ENDED:
            thread.state = TERMINATED
            self._ended(thread)
        else:
            work = request.perform(thread)
            if work is not None:
                thread.remaining = work
                return
            thread.state = WAITING
            if thread.port is not None:
                thread.port.thread_waits()
        thread.processor = None
        self._run_next(processor, thread)

    def _turn_over(self, processor: Processor, thread: Thread) -> None:
        """The thread's turn or limit has ended, its burst has not. Whoever calls this plans what follows."""
        over = thread.quantum_left <= 0
        if over:
            thread.quantum_left = self._quantum
            if self._priority_at_quantum_end is not None:
                priority = self._priority_at_quantum_end(thread)
                if priority is not None and priority != thread.priority:
                    self._running_priority(processor.bit, thread.priority, priority)
                    thread.priority = priority
        if self._run_limit is not None and not self._limit(thread, processor):
            self._run_next(processor, thread)
        elif over:
            queue = processor.queue
            priority = thread.priority
            if queue.summary >> priority:
                thread.state = READY
                thread.ready_since = self.engine.now
                queue.levels[priority].append(thread)
                queue.summary |= 1 << priority
                self._run_next(processor, thread)
                if self.idle_mask:
                    self._use_idle(thread)
            elif self._turn_length is not None:
                self._begin_turn(processor, thread)

    def _ended(self, thread: Thread) -> None:
        thread.alarm = []  # the two would keep each other
        if self._trace_end is not None:
            self._trace_end((self.engine.now, THREAD_END.id, thread.id, thread.run_time))
        self.machine.thread_ended(thread)

    def _reconsider(self, processor: Processor, thread: Thread) -> None:
        """The running thread may be preempted again, or its priority fell: run it on, or a better one."""
        if processor.stepping or processor.level or thread.raised:
            processor.preempt_pending = True
            return
        processor.preempt_pending = False
        if self._outranked(processor, thread):
            self._preempt(processor, thread)
        elif processor.plan is None:
            self._plan(processor)

    # -- processors come and go: `ntlab.machine.partitioning` ------------------------------------------

    def add_processor(self, node: int) -> Processor:
        """A processor more, with the next number. No thread runs on it before it is admitted."""
        index = len(self.processors)
        queue = self.processors[0].queue if self._shared else self._ready_queue(index)
        processor = Processor(index, node, queue)
        if self._stopped is not None:
            self._stopped[index], processor.speed = processor.speed, 0
        self.processors.append(processor)
        return processor

    def forget_processor(self) -> None:
        """Undo the last `add_processor`; or take out the last processor before anything has run."""
        processor = self.processors[-1]
        if processor.thread is not None or processor.level or (not self._shared and len(processor.queue)):
            raise SimulationError(f"{processor!r} is forgotten though it has something to do")
        self.processors.pop()
        if self._stopped is not None:
            del self._stopped[processor.index]
        self.all_mask &= ~processor.bit
        self.idle_mask &= ~processor.bit

    def admit(self, processor: Processor) -> None:
        """Threads whose affinity has this processor may run on it from now on."""
        self.all_mask |= processor.bit
        self.idle_mask |= processor.bit
        if self._shared:
            self._selective = True  # the affinities of threads differ now

    def evacuate(self, processor: Processor, stand_in: int) -> bool:
        """Take a processor's threads elsewhere, for good: no thread runs there from now on.

        Whoever may run there may run on processor `stand_in` instead. False if the present one cannot leave
        right now, because it holds a spinlock or interrupt work is going on: then try again later; nobody
        else comes. Not to be called while a program makes a step.
        """
        bit = processor.bit
        self.all_mask &= ~bit
        self._stand_ins[processor.index] = stand_in
        if self._shared:
            self._selective = True
        for process in self.machine.processes.values():
            if process.affinity & bit:
                process.affinity = process.affinity & ~bit | 1 << stand_in
        queued: list[Thread] = []
        for thread in self.machine.threads.values():
            if thread.affinity & bit:
                thread.affinity = thread.affinity & ~bit | 1 << stand_in
            if thread.ideal == processor.index:
                thread.ideal = stand_in
            if thread.state == READY and thread.processor is processor and not self._shared:
                queued.append(thread)
        running = processor.thread
        if running is not None:
            if running.raised or processor.level:
                self._move(queued)
                return False
            self._take_off(processor, running)
            self._go_idle(processor, running)
            queued.insert(0, running)
        self.idle_mask &= ~bit
        self._move(queued, running)
        return not processor.level

    def move_off(self, processor: Processor) -> bool:
        """Place a processor's running thread anew, as if it had just become ready.

        False if it cannot leave right now, because it holds a spinlock or interrupt work is going on.
        """
        thread = processor.thread
        if thread is None or thread.raised or processor.level or processor.stepping:
            return False
        self._take_off(processor, thread)
        self._run_next(processor, thread)
        self._plan(processor)
        self._place(thread)
        return True

    def _take_off(self, processor: Processor, thread: Thread) -> None:
        """Stop a processor's thread, to be placed elsewhere. Whoever calls this says what runs there next."""
        self._pause(processor, thread)
        thread.state = READY
        thread.ready_since = self.engine.now
        thread.processor = None
        processor.preempt_pending = False

    def in_place_of(self, processor: int) -> int:
        """Which processor does what software expects of this one: itself, or its stand-in."""
        while processor in self._stand_ins:
            processor = self._stand_ins[processor]
        return processor

    def where(self, mask: int) -> int:
        """A mask of processors as software knows them, with those that stand in for evacuated ones."""
        for gone, instead in self._stand_ins.items():
            if mask >> gone & 1:
                mask = mask & ~(1 << gone) | 1 << instead
        return mask

    def _move(self, threads: list[Thread], running: Thread | None = None) -> None:
        """Place ready threads anew. All but `running` are in the queue that they leave."""
        for thread in threads:
            if thread is not running:
                self._withdraw(thread)
            self._place(thread)

    # -- for mechanisms above: locks, interrupts, virtual processors ------------------------------------

    def watch_switches(self, watcher: SwitchWatcher, *, delays: bool = False) -> None:
        """Call `watcher(processor, old, new)` at each context switch from now on, before plugins see it.

        One that `delays` may put off when the processor begins (`since`): it is called before all others.
        """
        self.switch_watchers.insert(0 if delays else self.delays, watcher)
        self._noted = self._attended = True
        if delays:
            self.delays += 1
            self._choose_actions()

    def grant(self, thread: Thread, work: int = 0) -> int:
        """Replace a thread's present work; after the other its program goes on. Returns what was left."""
        processor = thread.processor
        if thread.state != RUNNING or processor is None:
            left, thread.remaining, thread.fraction = thread.remaining, work, 0
            return left
        self._pause(processor, thread)
        left, thread.remaining, thread.fraction = thread.remaining, work, 0
        self._plan(processor)
        return left

    def suspend(self, processor: Processor) -> None:
        """Interrupt work begins on a processor: its thread makes no progress."""
        thread = processor.thread
        if thread is not None:
            self._pause(processor, thread)
            if thread.virtual is not None:
                thread.virtual.stop()

    def restart(self, processor: Processor) -> None:
        """Interrupt work has ended (`level` is passive again)."""
        thread = processor.thread
        if thread is None:
            return
        if processor.since < self.engine.now:  # else it was amid a switch, and that is not over yet
            processor.since = self.engine.now
            if not self._by_tick:
                processor.ticked = self.engine.now
        if thread.virtual is not None:
            thread.virtual.follow()
        if processor.preempt_pending and not thread.raised:
            self._reconsider(processor, thread)
        else:
            self._plan(processor)

    def set_speed(self, processor: Processor, speed: int) -> None:
        """Change a processor's speed (parts of NOMINAL, 0 and more) and replan what it runs."""
        if speed < 0:
            raise SimulationError(f"negative speed {speed}")
        if self._stopped is not None:
            self._stopped[processor.index] = speed  # from when on they run again
            return
        if speed == processor.speed:
            return
        thread = processor.thread
        if processor.level:
            self.machine.interrupts.speed_changes(processor, speed)
            if speed and thread is not None and thread.spinning is not None:
                self.machine.locks.running_again(thread)
            return
        if thread is None:
            processor.speed = speed
            return
        self._pause(processor, thread)
        processor.speed = speed
        if processor.since < self.engine.now:  # else it is amid a switch, and that is not over yet
            processor.since = self.engine.now
            if not self._by_tick:
                processor.ticked = self.engine.now
        if thread.virtual is not None:
            thread.virtual.follow()
        if speed and thread.spinning is not None:
            self.machine.locks.running_again(thread)
        if speed and processor.preempt_pending and not thread.raised:
            self._reconsider(processor, thread)
        elif processor.plan is None:
            self._plan(processor)

    def speed_of(self, processor: Processor) -> int:
        """The speed at which a processor runs, or will when it goes on."""
        return processor.speed if self._stopped is None else self._stopped[processor.index]

    def stop_all(self) -> None:
        """Stop all processors where they are, until `go_on`."""
        speeds = {processor.index: processor.speed for processor in self.processors}
        for processor in self.processors:
            self.set_speed(processor, 0)
        self._stopped = speeds

    def go_on(self) -> None:
        """Let all processors run again, at the speed that they have been given last."""
        speeds, self._stopped = self._stopped, None
        for index, speed in (speeds or {}).items():
            self.set_speed(self.processors[index], speed)

    def reconsider(self, thread: Thread) -> None:
        """Decide anew about a thread that is ready or runs: what decisions go by has changed.

        A ready one is placed as if it had just become ready, so an order asks for its key again, and it may
        go elsewhere. A running one may have to give way. Not for use within a decision.
        """
        processor = thread.processor
        if thread.state == READY:
            self._withdraw(thread)
            self._place(thread)
        elif thread.state == RUNNING and processor is not None and processor.queue.summary >> thread.priority:
            self._reconsider(processor, thread)

    def set_turn(self, thread: Thread, left: int) -> None:
        """Change what is left of a thread's turn, ns, wherever it is. A running one's turn of 0 ends now."""
        processor = thread.processor
        if thread.state != RUNNING or processor is None:
            thread.quantum_left = left
            return
        self._pause(processor, thread)
        thread.quantum_left = left
        self._plan(processor)

    def set_affinity(self, thread: Thread, mask: int) -> None:
        """Change where a thread may run. One that runs or is queued goes by it when it is next placed."""
        mask = self.machine.groups.narrowed(thread, self.where(mask))
        if not mask & self.all_mask:
            raise SimulationError(f"affinity {mask:#x} of {thread!r} has none of the processors")
        thread.affinity = mask
        if self._shared and mask != self.all_mask:
            self._selective = True

    def yield_turn(self, thread: Thread) -> None:
        """End the turn of a running thread now, in favour of ready threads of its priority or above."""
        processor = thread.processor
        if thread.state != RUNNING or processor is None:
            return
        self._pause(processor, thread)
        thread.quantum_left = 0
        self._turn_over(processor, thread)
        self._plan(processor)

    def yield_to(self, thread: Thread, other: Thread) -> None:
        """End the turn of a running thread now, in favour of a ready one of its priority in any queue."""
        processor = thread.processor
        if thread.state == RUNNING and processor is not None and processor.bit & other.affinity:
            self._withdraw(other)
            other.processor = processor
            self._requeue(processor, other)
        self.yield_turn(thread)

    def run_time(self, thread: Thread) -> int:
        """How long a thread has been on a processor, its present stretch of running included, ns."""
        processor = thread.processor
        if thread.state != RUNNING or processor is None or processor.level or not processor.speed:
            return thread.run_time
        return thread.run_time + max(0, self.engine.now - processor.since)

    def block(self, thread: Thread) -> None:
        """Make a running or ready thread wait, from outside its program. Its work stays as it is."""
        processor = thread.processor
        if thread.state == RUNNING and processor is not None:
            self._pause(processor, thread)
            thread.state = WAITING
            if thread.port is not None:
                thread.port.thread_waits()
            thread.processor = None
            self._run_next(processor, thread)
            self._plan(processor)
        elif thread.state == READY and processor is not None:
            self._withdraw(thread)
            thread.state = WAITING
            thread.processor = None
            if thread.port is not None:
                thread.port.thread_waits()
        else:
            raise SimulationError(f"{thread!r} cannot be made to wait (state {thread.state})")

    # -- what must be true between two events --------------------------------------------------------------

    def check(self) -> None:
        """Compare processors, queues, masks and threads. Raises SimulationError where they differ."""
        for wrong in self.violations():
            raise SimulationError(wrong)

    def violations(self) -> Iterator[str]:
        """All that is wrong between processors, queues, masks and threads."""
        yield from self._wrong_processors()
        queued: set[Thread] = set()
        yield from self._wrong_queues(queued)
        for thread in self.machine.threads.values():
            where = f"{thread!r} (state {thread.state})"
            if thread.state == RUNNING:
                if thread.processor is None or thread.processor.thread is not thread:
                    yield f"{where} is running on no processor"
            elif thread.state == READY:
                if thread not in queued:
                    yield f"{where} is ready but in no ready queue: it is lost"
            elif thread.state not in (WAITING, HELD):
                yield f"{where} is alive in no state that a thread can be in"
            elif thread.processor is not None:
                yield f"{where} has {thread.processor!r}, though it cannot run"
            if thread.state == HELD and self._run_limit is None:
                yield f"{where} is held back, though nobody limits running times"
            if not 0 <= thread.priority < PRIORITIES:
                yield f"{thread!r} has priority {thread.priority}"
            if not thread.affinity & self.all_mask:
                yield f"{where} may run on no processor: its affinity is {thread.affinity:#x}"
            if not 0 <= thread.ideal < len(self.processors):
                yield f"{where} has the ideal processor {thread.ideal}"
            if thread.remaining < 0:
                yield f"{where} has {thread.remaining} ns of work left"

    def _wrong_processors(self) -> Iterator[str]:
        idle = 0
        running = [0] * PRIORITIES
        for processor in self.processors:
            thread = processor.thread
            if processor.stepping:
                yield f"processor {processor.index} is in the middle of a program's step"
            if processor.plan is not None and processor.plan[0] is None:
                yield f"processor {processor.index} is planned by an event that was cancelled"
            if thread is None:
                idle |= processor.bit & self.all_mask
                continue
            if thread.state != RUNNING:
                yield f"{processor!r}, but that is in state {thread.state}"
            if thread.processor is not processor:
                yield f"{processor!r}, but that believes to be elsewhere"
            if self.machine.threads.get(thread.id) is not thread:
                yield f"{processor!r}, which is no thread of {self.machine.name}"
            if 0 <= thread.priority < PRIORITIES:
                running[thread.priority] |= processor.bit
        if idle != self.idle_mask:
            yield f"the idle processors are {idle:#x}, the scheduler's mask {self.idle_mask:#x}"
        for priority, (mask, noted) in enumerate(zip(running, self.running, strict=True)):
            if mask != noted:
                yield (
                    f"priority {priority} runs on processors {mask:#x}, the scheduler's mask is {noted:#x}: "
                    "a running thread's priority was changed behind its back"
                )
        if self.running_summary != sum(1 << priority for priority, mask in enumerate(self.running) if mask):
            yield f"the summary of running priorities is {self.running_summary:#x}"

    def _wrong_queues(self, queued: set[Thread]) -> Iterator[str]:
        """What is wrong with the queues; `queued` gets the threads that are in one."""
        waiting = 0
        for processor in self.processors[:1] if self._shared else self.processors:
            queue = processor.queue
            waiting += queue.summary != 0
            for priority, level in enumerate(queue.levels):
                if (len(level) > 0) != bool(queue.summary >> priority & 1):
                    yield (
                        f"processor {processor.index}: {len(level)} threads of priority {priority} are "
                        f"ready, the queue's summary is {queue.summary:#x}"
                    )
                for thread in level:
                    where = f"{thread!r} in the ready queue of processor {processor.index}"
                    if thread.state != READY:
                        yield f"{where} is in state {thread.state}"
                    if thread in queued:
                        yield f"{where} is queued twice"
                    if thread.priority != priority:
                        yield (
                            f"{where} is queued with priority {priority} and has {thread.priority}: "
                            "it was changed behind the scheduler's back"
                        )
                    if thread.processor is None or thread.processor.queue is not queue:
                        yield f"{where} believes to be in another queue"
                    if self.machine.threads.get(thread.id) is not thread:
                        yield f"{where} is no thread of {self.machine.name}"
                    queued.add(thread)
        if waiting != self.waiting_queues:
            yield f"{waiting} ready queues hold threads, {self.waiting_queues} are counted"

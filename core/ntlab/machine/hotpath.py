"""The scheduler's two most frequent events, written out.

`Scheduler._expired` and `Scheduler._slept` say in full what happens at the end of a stretch and of a sleep.
Most of them are plain: accounting is exact, no plugin counts or limits running time, the processor runs at
its nominal speed, the thread computes or sleeps. For those, the functions here do the same on local names
and nearly without calls; whatever is not plain they leave to the full version. `tests/core/test_hotpath.py`
holds the two against each other, record by record, on random workloads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ntlab.machine.processors import PRIORITIES, Processor
from ntlab.machine.records import CSWITCH, READY_THREAD
from ntlab.machine.threads import ENDED, READY, RUNNING, WAITING, Compute, Sleep, Thread

if TYPE_CHECKING:
    from ntlab.machine.scheduler import Scheduler

Expired = Callable[[Processor], int | None]
Slept = Callable[[Thread], None]


def plain_actions(scheduler: Scheduler) -> tuple[Expired, Slept]:
    """What the engine calls in place of `scheduler._expired` and `scheduler._slept`."""
    engine = scheduler.engine
    cancel = engine.cancel
    running, processors = scheduler.running, scheduler.processors
    tracer = scheduler.machine.tracer
    switches, wakes = tracer.packer(CSWITCH), tracer.packer(READY_THREAD)
    watchers = scheduler.switch_watchers  # this very list: some join while the machine runs
    begin_turn = scheduler._begin_turn if scheduler._turn_length is not None else None
    # Whether it is known, when a turn is over, how long the next one is and who has it.
    turns_known = (
        scheduler._turn_length is None
        and scheduler._priority_at_quantum_end is None
        and not scheduler._ordered
    )
    quantum = scheduler._quantum
    switch_cost = scheduler._switch_cost

    def attend(processor: Processor, old: Thread, new: Thread) -> None:
        """What a switch costs, and who wants to know of it."""
        processor.since += switch_cost
        for watch in watchers:
            watch(processor, old, new)
        if begin_turn is not None:
            begin_turn(processor, new)

    def running_priority(bit: int, old: int, new: int) -> None:
        """As `Scheduler._running_priority`, which knows of idle processors, too: 3 % of a preemption."""
        running[old] = others = running[old] ^ bit
        if not others:
            scheduler.running_summary ^= 1 << old
        running[new] = (others := running[new]) | bit
        if not others:
            scheduler.running_summary |= 1 << new

    def expired(processor: Processor) -> int | None:
        thread: Thread = processor.thread  # type: ignore[assignment]  # an idle processor has no stretch
        if thread.raised:
            return scheduler._expired(processor)
        now = engine.now
        queue = processor.queue
        ran = now - processor.since
        left = thread.remaining - ran
        if left:
            # The turn is over.
            priority = thread.priority
            waiting = queue.summary >> priority
            if (
                thread.quantum_left > ran
                or not turns_known
                or waiting > 1
                or (waiting and (scheduler.idle_mask or scheduler._selective))
            ):
                return scheduler._expired(processor)
            thread.run_time += ran
            thread.remaining = left
            thread.quantum_left = quantum
            if not waiting:
                processor.since = now
                return left if left < quantum else quantum
            old = thread
            old.state = READY
            old.ready_since = now
            level = queue.levels[priority]
            level.append(old)
            thread = level.popleft()
        else:
            thread.run_time += ran
            thread.quantum_left -= ran
            thread.remaining = 0
            processor.since = now
        while True:
            if not left:
                # The burst is over: advance the program.
                processor.stepping = True
                if thread.result is not None:
                    break
                request = next(thread.program, ENDED)
                kind = request.__class__
                if kind is Compute:
                    thread.remaining = left = request.work  # type: ignore[attr-defined]
                    turn = thread.quantum_left
                    if left > turn:
                        left = turn
                    if left > 0 and processor.plan is not None and not processor.preempt_pending:
                        processor.stepping = False
                        return left
                    break
                if kind is not Sleep or thread.port is not None or request.increment:  # type: ignore[attr-defined]
                    scheduler._carry_out(processor, thread, request)
                    break
                insert(request.duration, thread.alarm)  # type: ignore[attr-defined]
                old = thread
                old.state = WAITING
                old.processor = None
                summary = queue.summary
                if not summary or scheduler._selective:
                    scheduler._run_next(processor, old)
                    break
                priority = summary.bit_length() - 1
                level = queue.levels[priority]
                thread = level.popleft()
                if not level:
                    queue.summary = summary = summary ^ 1 << priority
                    if not summary:
                        scheduler.waiting_queues -= 1
                if old.priority != priority:
                    running_priority(processor.bit, old.priority, priority)
            thread.state = RUNNING
            thread.processor = processor
            thread.last = processor.index
            processor.thread = thread
            processor.since = now
            processor.context_switches += 1
            if switches is not None:
                pack, record, cswitch = switches
                record(
                    pack(now, cswitch, processor.index, thread.id, old.id, priority,
                         old.priority, old.state, old.wait_reason, thread.ready_since)
                )  # fmt: skip
            if scheduler._attended:
                processor.stepping = True
                attend(processor, old, thread)
                if processor.since > now or thread.raised or processor.plan is None:
                    break
            left = thread.remaining
            if left:
                turn = thread.quantum_left
                if left > turn:
                    left = turn
                if left > 0:
                    processor.stepping = False
                    return left
                processor.stepping = True
                break
        return scheduler._advance(processor)

    # Who slept begins to run at once, or goes to the tail of its level, where all processors share a ready
    # queue and nobody is asked where it shall run.
    asked = (
        not scheduler._shared
        or scheduler._on_ready is not None
        or scheduler._choose_busy is not None
        or scheduler._preempts is not None
        or switch_cost > 0
        or scheduler.delays > 0
    )
    fresh_quantum = scheduler._refresh
    first = processors[0]
    shared_levels = first.queue.levels
    below = [(1 << priority) - 1 for priority in range(PRIORITIES)]

    def plain_slept(thread: Thread) -> None:
        if scheduler.idle_mask or thread.state != WAITING:
            scheduler._slept(thread)
            return
        priority = thread.priority
        lower = scheduler.running_summary & below[priority]
        if lower:
            preempt(thread, lower)
            return
        # Wait in the one queue that all processors share.
        level = shared_levels[priority]
        if not level:
            queue = first.queue
            if not queue.summary:
                scheduler.waiting_queues += 1
            queue.summary |= 1 << priority
        level.append(thread)
        if fresh_quantum:
            thread.quantum_left = quantum
        thread.ready_since = now = engine.now
        if wakes is not None:
            pack, record, ready_thread = wakes
            record(pack(now, ready_thread, thread.id, 0))
        thread.state = READY
        thread.processor = first

    def preempt(thread: Thread, lower: int) -> None:
        """Run a thread whose sleep is over in place of one of the lowest of the priorities `lower`."""
        priority = thread.priority
        low = (lower & -lower).bit_length() - 1
        mask = running[low]
        bit = mask & -mask
        processor = processors[bit.bit_length() - 1]
        queue = processor.queue
        summary = queue.summary
        old: Thread = processor.thread  # type: ignore[assignment]  # it runs a lower priority
        event = processor.plan
        if (
            event is None
            or event[0] is not expired
            or scheduler._selective
            or old.raised
            or summary >> priority
        ):
            scheduler._slept(thread)
            return
        # Preempt: the running thread goes to the head of its priority with the rest of its turn.
        cancel(event)
        processor.plan = None
        now = engine.now
        ran = now - processor.since
        old.run_time += ran
        old.remaining -= ran
        old.quantum_left -= ran
        old.state = READY
        old.ready_since = now
        if not summary:
            scheduler.waiting_queues += 1
        queue.levels[low].appendleft(old)
        queue.summary = summary | 1 << low
        if fresh_quantum:
            thread.quantum_left = quantum
        thread.ready_since = now
        if wakes is not None:
            pack, record, ready_thread = wakes
            record(pack(now, ready_thread, thread.id, 0))
        thread.state = RUNNING
        thread.processor = processor
        thread.last = processor.index
        processor.thread = thread
        processor.since = now
        processor.context_switches += 1
        running_priority(bit, low, priority)
        processor.stepping = True
        if switches is not None:
            pack, record, cswitch = switches
            record(
                pack(now, cswitch, processor.index, thread.id, old.id, priority,
                     low, READY, old.wait_reason, now)
            )  # fmt: skip
        if scheduler._attended:
            attend(processor, old, thread)
        # Its program goes on within this event.
        if not thread.remaining and thread.result is None and not thread.raised:
            request = next(thread.program, ENDED)
            if request.__class__ is Compute:
                thread.remaining = left = request.work
                turn = thread.quantum_left
                if left > turn:
                    left = turn
                if left > 0 and not processor.preempt_pending:
                    processor.stepping = False
                    processor.plan = insert(left, [expired, processor])
                    return
            else:
                scheduler._carry_out(processor, thread, request)
        scheduler._advance(processor)

    slept = scheduler._slept if asked else plain_slept
    insert = scheduler._insert
    return expired, slept

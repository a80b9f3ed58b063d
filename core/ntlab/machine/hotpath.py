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

from ntlab.machine.processors import NOMINAL, Processor
from ntlab.machine.records import CSWITCH, READY_THREAD
from ntlab.machine.threads import READY, RUNNING, TERMINATED, WAITING, Compute, Sleep, Thread

if TYPE_CHECKING:
    from ntlab.machine.scheduler import Scheduler

Expired = Callable[[Processor], int | None]
Slept = Callable[[Thread], None]


def _nothing(*arguments: int | bytes) -> bytes:
    raise AssertionError("not traced")


def plain_actions(scheduler: Scheduler) -> tuple[Expired, Slept]:
    """What the engine calls in place of `scheduler._expired` and `scheduler._slept`."""
    engine = scheduler.engine
    after, cancel = engine.after, engine.cancel
    expired_in_full, slept_in_full = scheduler._expired, scheduler._slept
    advance, run_next, ended = scheduler._advance, scheduler._run_next, scheduler._ended
    running_priority = scheduler._running_priority
    tracer = scheduler.machine.tracer
    traced = tracer.packer(CSWITCH) is not None
    pack_switch, record, cswitch = tracer.packer(CSWITCH) or (_nothing, _nothing, 0)
    pack_ready, _, ready_thread = tracer.packer(READY_THREAD) or (_nothing, _nothing, 0)
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

    def expired(processor: Processor) -> int | None:
        thread: Thread = processor.thread  # type: ignore[assignment]  # an idle processor has no stretch
        if processor.preempt_pending or thread.raised:
            return expired_in_full(processor)
        now = engine.now
        event = processor.plan
        queue = processor.queue
        ran = now - processor.since
        left = thread.remaining - ran
        following: Thread | None = None
        if left:
            # The turn is over.
            priority = thread.priority
            summary = queue.summary
            if (
                thread.quantum_left > ran
                or not turns_known
                or (summary and (scheduler.idle_mask or scheduler._selective))
            ):
                return expired_in_full(processor)
            thread.run_time += ran
            thread.remaining = left
            thread.quantum_left = quantum
            waiting = summary >> priority
            if not waiting:
                processor.since = now
                return left if left < quantum else quantum
            thread.state = READY
            thread.ready_since = now
            level = queue.levels[priority]
            level.append(thread)
            if (
                waiting == 1
            ):  # its own priority is the highest that waits, so that queue stays as full as it was
                following = level.popleft()
            else:
                queue.summary = summary | 1 << priority
        else:
            thread.run_time += ran
            thread.quantum_left -= ran
            thread.remaining = 0
            processor.since = now
        while True:
            if left:
                # The thread has stopped running: take the next one.
                old = thread
                if following is not None:
                    thread, following = following, None
                else:
                    summary = queue.summary
                    if not summary or scheduler._selective:
                        processor.stepping = True
                        run_next(processor, thread)
                        return advance(processor, event)
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
                processor.since = now + switch_cost
                processor.context_switches += 1
                if traced:
                    record(
                        pack_switch(now, cswitch, processor.index, thread.id, old.id, priority,
                                    old.priority, old.state, old.wait_reason, thread.ready_since)
                    )  # fmt: skip
                if watchers:
                    for watch in watchers:
                        watch(processor, old, thread)
                if begin_turn is not None:
                    begin_turn(processor, thread)
                if switch_cost:
                    return advance(processor, event)
                left = thread.remaining
            while not left:
                # The burst is over: advance the program.
                processor.stepping = True
                if thread.result is not None:
                    return advance(processor, event)
                try:
                    request = next(thread.program)
                except StopIteration:
                    thread.state = TERMINATED
                    ended(thread)
                    break
                kind = request.__class__
                if kind is Compute:
                    thread.remaining = left = request.work  # type: ignore[attr-defined]
                    if not left:
                        return advance(processor, event)  # which knows when to give up
                elif kind is Sleep and thread.port is None:
                    thread.wake_increment = request.increment  # type: ignore[attr-defined]
                    sleep(request.duration, thread)  # type: ignore[attr-defined]
                    thread.state = WAITING
                    break
                else:
                    work = request.perform(thread)
                    if work is None:
                        thread.state = WAITING
                        if thread.port is not None:
                            thread.port.thread_waits()
                        thread.processor = None
                        run_next(processor, thread)
                    else:
                        thread.remaining = work
                    return advance(processor, event)
            else:
                turn = thread.quantum_left
                if turn <= 0 or thread.raised or processor.plan is not event:
                    return advance(processor, event)
                processor.stepping = False
                return left if left < turn else turn
            thread.processor = None
            left = 1

    fresh_quantum = scheduler._refresh
    asked = (
        not scheduler._shared
        or scheduler._on_ready is not None
        or scheduler._choose_busy is not None
        or scheduler._preempts is not None
    )
    processors, running = scheduler.processors, scheduler.running
    shared_levels = processors[0].queue.levels

    def plain_slept(thread: Thread) -> None:
        if (
            scheduler.idle_mask
            or thread.wake_increment
            or thread.port is not None
            or thread.state != WAITING
            or scheduler._selective
        ):
            slept_in_full(thread)
            return
        priority = thread.priority
        summary = scheduler.running_summary
        lowest = summary & -summary
        now = engine.now
        if lowest >> priority:
            # Nobody to preempt: wait in the one queue that all processors share.
            processor = processors[0]
            level = shared_levels[priority]
            if not level:
                queue = processor.queue
                if not queue.summary:
                    scheduler.waiting_queues += 1
                queue.summary |= 1 << priority
            level.append(thread)
            if fresh_quantum:
                thread.quantum_left = quantum
            thread.ready_since = now
            if traced:
                record(pack_ready(now, ready_thread, thread.id, 0))
            thread.state = READY
            thread.processor = processor
            return
        low = lowest.bit_length() - 1
        mask = running[low]
        bit = mask & -mask
        processor = processors[bit.bit_length() - 1]
        queue = processor.queue
        old = processor.thread
        event = processor.plan
        if (
            event is None
            or old is None
            or old.raised
            or processor.stepping
            or processor.level
            or processor.speed != NOMINAL
            or queue.summary >> priority
            or switch_cost
        ):
            slept_in_full(thread)
            return
        # Preempt: the running thread goes to the head of its priority with the rest of its turn.
        cancel(event)
        ran = now - processor.since
        if ran > 0:
            old.run_time += ran
            old.remaining -= ran
            old.quantum_left -= ran
        old.state = READY
        old.ready_since = now
        if not queue.summary:
            scheduler.waiting_queues += 1
        queue.levels[low].appendleft(old)
        queue.summary |= 1 << low
        if fresh_quantum:
            thread.quantum_left = quantum
        thread.ready_since = now
        if traced:
            record(pack_ready(now, ready_thread, thread.id, 0))
        thread.state = RUNNING
        thread.processor = processor
        thread.last = processor.index
        processor.thread = thread
        processor.since = now
        processor.context_switches += 1
        running[low] = mask = mask ^ bit
        if not mask:
            summary ^= lowest
        running[priority] |= bit
        scheduler.running_summary = summary | 1 << priority
        if traced:
            record(
                pack_switch(now, cswitch, processor.index, thread.id, old.id, priority,
                            low, READY, old.wait_reason, now)
            )  # fmt: skip
        if watchers:
            for watch in watchers:
                watch(processor, old, thread)
        if begin_turn is not None:
            begin_turn(processor, thread)
        processor.plan = None
        delay = expired(processor)
        if delay is not None:
            processor.plan = after(delay, expired, processor)

    slept = slept_in_full if asked else plain_slept
    sleep = engine.scheduler_of(slept)
    return expired, slept

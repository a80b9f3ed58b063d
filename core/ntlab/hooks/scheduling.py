"""What the scheduler asks.

Masks are integers: bit i is processor i. Priorities are 0..31 (0 is the idle level, 1..15 are dynamic, 16..31
real-time). Times are ns. A hook is asked within the event in which the decision falls; it may look at
anything, but changes threads only where that is said, or in an event of its own (`machine.engine.after`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import expects, hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import SchedulerPolicy
    from ntlab.machine.processors import Processor, ReadyLevel
    from ntlab.machine.threads import Thread


def _allowed(answer: int, thread: Thread) -> bool:
    return 0 <= answer < len(thread.machine.processors) and bool(thread.affinity >> answer & 1)


def _runnable(answer: Thread | Literal[False], processor: Processor) -> bool:
    # States READY and HELD; their numbers are Windows'.
    return not answer or (answer.state in (1, 8) and bool(answer.affinity & processor.bit))


@hookspec(firstresult=True)
def scheduler_policy(machine: Machine) -> SchedulerPolicy | None:
    """The fixed rules of the scheduler.

    Asked once, while the machine is put together: it has its tables, engine, tracer and streams, but neither
    processors nor any other mechanism yet. 2003: 187.5 ms quanta charged at 15.625 ms ticks, a ready queue
    for each processor. None everywhere: `SchedulerPolicy()`.
    """


@hookspec(firstresult=True)
@expects("one above 0 for each number of busy processors", lambda answer: answer and min(answer) > 0)
def core_throughput(machine: Machine) -> Sequence[int] | None:
    """What a core does whose processors (hyper-threads) are busy: with one of them, with two, and so on.

    In parts of `NOMINAL`, for as many as the largest core has; with one it is NOMINAL. Asked once, while the
    machine is put together, after `scheduler_policy`. 2003 leaves that to the hardware. None everywhere: n
    processors do n times as much.
    """


@hookspec(firstresult=True)
@expects("an empty one", lambda answer: len(answer) == 0)
def ready_level(machine: Machine, processor: int, priority: int) -> ReadyLevel | None:
    """The queue of the threads of one priority that are ready at a processor: it sets their order.

    Asked once at boot for each priority of each processor; where all share one ready queue, of processor 0
    only. Each answer is a new, empty `ReadyLevel`, such as an `OrderedLevel` (by deadline, by virtual time).
    None everywhere, as in 2003: first come, first served, a preempted thread at the head.
    """


@hookspec(firstresult=True)
@expects("ns, 1 or more", lambda answer: answer >= 1)
def turn_length(thread: Thread, processor: Processor, left: int) -> int | None:
    """How long the thread's turn lasts, ns of running from now (1 and more).

    Asked each time a processor begins to run a thread, and when a turn is over and nobody takes its place.
    `left` is what is left of the turn in which it was preempted or waited, 0 where it begins a new one.
    `scheduler.set_turn` changes an answer later. None everywhere, as in 2003: what is left, or the policy's
    quantum.
    """


@hookspec(firstresult=True)
def preempts(thread: Thread, running: Thread, processor: Processor) -> bool | None:
    """Whether a ready thread takes the place of one of its own priority that runs on `processor`.

    Asked when `thread` has become ready there, or when it is the first that waits there and the running one
    may be preempted again: interrupt work or raised IRQL is over, or its priority fell. Whoever gives way
    keeps the rest of its turn and goes to the tail of its level; what runs is the level's first. None or
    False, as in 2003: the running thread goes on.
    """


@hookspec(firstresult=True)
@expects("a processor that the thread may run on", _allowed)
def ideal_processor(thread: Thread) -> int | None:
    """The number of the ideal processor of a new thread, one of its affinity.

    Asked when a thread is created without an ideal processor of its own, before `thread_created`. 2003: round
    robin inside a process, each process starting on another node. None everywhere: the lowest it may run on.
    """


@hookspec
@expects("some of the idle processors", lambda answer, idle: answer >= 0 and not answer & ~idle)
def usable_processors(thread: Thread, idle: int) -> int | None:
    """Which of the `idle` processors a ready thread may start on now: a mask; 0: it waits for a busy one.

    Asked before `choose_processor`, with the mask of idle processors of its affinity, never 0. What is in all
    answers counts. Whoever answers 0 must leave the thread a busy processor to wait for, and answer
    `choose_busy_processor` where the others' answer could be an idle one. None everywhere, as in 2003: all.
    """


@hookspec(firstresult=True)
@expects("one of the idle processors", lambda answer, idle: answer >= 0 and idle >> answer & 1)
def choose_processor(thread: Thread, idle: int) -> int | None:
    """Which of the `idle` processors a ready thread starts on: a number.

    Asked whenever a thread becomes ready, or has lost its processor, and some processor that it may run on is
    idle: `idle` is the mask of those, so never 0. 2003: one on a wholly idle core first, then on the ideal
    node, then the ideal processor, then the last one. None everywhere: the lowest.
    """


@hookspec(firstresult=True)
@expects("a processor that the thread may run on", _allowed)
def choose_busy_processor(thread: Thread) -> int | None:
    """The number of the processor whose running thread a ready thread is compared with.

    Asked when a thread becomes ready and no processor that it may run on is idle; the answer is one that it
    may run on. If a lower priority runs there it is preempted; else the thread is queued there, unless it
    `preempts`. 2003: the ideal processor only, so not always the N highest priorities run. None everywhere:
    the processor that runs the lowest priority.
    """


@hookspec(firstresult=True)
@expects("one that is ready in another queue or held back, and may run here", _runnable)
def choose_thread(processor: Processor) -> Thread | Literal[False] | None:
    """What a processor runs instead of going idle.

    Asked when its own ready queue has nothing for it. The thread is ready in another queue and may run here,
    or a `run_limit` of 0 holds it back. False: none, and no other plugin is asked. 2003: the first of the
    highest priority in the queues of the others, near nodes first. None everywhere: the processor goes idle.
    """


@hookspec(firstresult=True)
@expects("a priority, 0 to 31", lambda answer: 0 <= answer <= 31)
def boosted_priority(thread: Thread, increment: int) -> int | None:
    """The priority of a thread whose wait has ended with a boost, 1..31. `increment` is 1 and more.

    Asked when what a thread waited for happens, before it is ready, but not where the increment is 0: then
    the priority stays. 2003: base plus increment, not above 15 and not below the present one; real-time
    threads keep theirs. None everywhere: unchanged.
    """


@hookspec(firstresult=True)
@expects("a priority, 0 to 31", lambda answer: 0 <= answer <= 31)
def priority_at_quantum_end(thread: Thread) -> int | None:
    """The priority of a thread whose turn is over, 1..31.

    Asked when a running thread has used its whole quantum, or yields it, and has work left, before anything
    else about its next turn. 2003: one lower, down to the base; a thread that the balance-set manager lifted
    drops to its base at once; real-time threads keep theirs. None everywhere: unchanged.
    """


@hookspec
@expects("ns, 0 or more", lambda answer: answer >= 0)
def run_limit(thread: Thread, processor: Processor) -> int | None:
    """How many ns the thread may run on that processor from now, 0 and more; 0 holds it back.

    Asked before a thread starts on a processor, at the beginning of each stretch of running, and when its
    turn or its limit is over. The least of all answers counts. Whoever answers 0 keeps the thread, and must
    later give it to `scheduler.release` or answer `choose_thread` with it. Not asked about a thread at raised
    IRQL. None, as in 2003: no limit.
    """


@observer
def thread_created(thread: Thread) -> None:
    """A thread exists, with its ideal processor, and is about to become ready. 2003: nobody listens."""


@observer
def thread_exited(thread: Thread) -> None:
    """A thread has ended; its process does not count it any more. 2003 forgets that it was lifted."""


@observer
def thread_ready(thread: Thread) -> None:
    """A thread became ready after a wait, or for the first time: not after a preemption or the end of a turn.

    Called before it has a processor. 2003: nobody listens.
    """


@observer
def thread_charged(thread: Thread, processor: Processor, ran: int) -> None:
    """A thread has run for `ran` ns on a processor.

    Called at the end of each stretch of running: the burst, the turn, a preemption, an interrupt. 2003:
    nobody listens.
    """


@observer
def context_switched(processor: Processor, old: Thread | None, new: Thread | None) -> None:
    """A processor went from one thread to another; None is the idle thread. 2003: nobody listens."""

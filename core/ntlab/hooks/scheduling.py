"""What the scheduler asks.

Masks are integers: bit i is processor i. Priorities are 0..31 (1..15 dynamic, 16..31 real-time). Times in ns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.policy import SchedulerPolicy
    from ntlab.machine.processors import Processor, ReadyLevel
    from ntlab.machine.threads import Thread


@hookspec(firstresult=True)
def scheduler_policy(machine: object) -> SchedulerPolicy | None:
    """The fixed rules of the scheduler. Asked once at boot; None everywhere gives `SchedulerPolicy()`.

    2003: 187.5 ms quanta charged at 15.625 ms ticks, a ready queue for each processor.
    """


@hookspec(firstresult=True)
def ready_level(machine: object, processor: int, priority: int) -> ReadyLevel | None:
    """The queue of the threads of one priority that are ready at a processor: it sets their order.

    Asked once at boot for each priority of each processor; where all share one ready queue, of processor 0
    only. Each answer is a new, empty `ReadyLevel`, such as an `OrderedLevel` (by deadline, by virtual time).
    None everywhere, as in 2003: first come, first served, a preempted thread at the head.
    """


@hookspec(firstresult=True)
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
    keeps the rest of its turn and goes to the tail of its level; what runs is the level's first.
    None or False, as in 2003: the running thread goes on.
    """


@hookspec(firstresult=True)
def ideal_processor(thread: Thread) -> int | None:
    """The ideal processor of a new thread. None everywhere gives the lowest it may run on.

    2003: round robin inside a process, each process starting on another node.
    """


@hookspec(firstresult=True)
def choose_processor(thread: Thread, idle: int) -> int | None:
    """Which of the `idle` processors (a mask, not 0, all allowed to the thread) a ready thread starts on.

    2003: a whole idle core first, then the ideal node, the ideal processor, the last one.
    None everywhere: the lowest.
    """


@hookspec(firstresult=True)
def choose_busy_processor(thread: Thread) -> int | None:
    """No allowed processor is idle: whose running thread a ready thread is compared with.

    If that one has a lower priority it is preempted; else the thread is queued there, unless it `preempts`.
    2003: the ideal processor only, so not always the N highest priorities run.
    None everywhere: the processor that runs the lowest priority.
    """


@hookspec(firstresult=True)
def choose_thread(processor: Processor) -> Thread | Literal[False] | None:
    """A processor's own ready queue is empty: what it runs instead of going idle.

    The thread must be ready in another queue, or held back by a `run_limit` of 0. False: nothing, and no
    other plugin is asked.
    2003: the first of the highest priority found in the queues of the others.
    """


@hookspec(firstresult=True)
def boosted_priority(thread: Thread, increment: int) -> int | None:
    """The priority of a thread whose wait was satisfied with that increment (0 and more).

    2003: base plus increment, not above 15; no change for real-time threads. None: unchanged.
    """


@hookspec(firstresult=True)
def priority_at_quantum_end(thread: Thread) -> int | None:
    """The priority after a full quantum. 2003: one lower, down to the base. None: unchanged."""


@hookspec
def run_limit(thread: Thread, processor: Processor) -> int | None:
    """How many ns the thread may run on that processor from now; 0 holds it back. None: no limit.

    The least of all answers counts. Whoever answers 0 keeps the thread and must later give it to
    `scheduler.release`. A thread at raised IRQL is not asked. 2003: nobody answers.
    """


@observer
def thread_created(thread: Thread) -> None:
    """A thread exists and is about to become ready."""


@observer
def thread_exited(thread: Thread) -> None:
    """A thread has ended."""


@observer
def thread_ready(thread: Thread) -> None:
    """A thread became ready after a wait (not after a preemption or the end of a quantum)."""


@observer
def thread_charged(thread: Thread, processor: Processor, ran: int) -> None:
    """A thread has run for `ran` ns on a processor. Called at the end of each stretch of running."""


@observer
def context_switched(processor: Processor, old: Thread | None, new: Thread | None) -> None:
    """A processor went from one thread to another; None is the idle thread."""

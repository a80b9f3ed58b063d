"""Interrupts and deferred procedure calls (DPCs).

An interrupt takes its processor from whatever runs there: first its service routine at device level, then,
when no more interrupts wait, the queued DPCs at dispatch level, first come first served. The thread goes on
when the level is passive again. An interrupt that arrives during a service routine waits for its end; one
that arrives during a DPC suspends it. A DPC waits, too, while the thread of its processor holds a spinlock or
spins for one: that is at dispatch level itself.

A DPC may be done under a spinlock: it spins until it has the lock, and frees it when it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ntlab.engine import INTERRUPT
from ntlab.errors import SimulationError
from ntlab.machine.processors import DEVICE_LEVEL, DISPATCH_LEVEL, NOMINAL, PASSIVE_LEVEL, Processor
from ntlab.machine.records import KERNEL_LOGGER
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.idle import IdleWatcher
    from ntlab.machine.locks import SpinLock
    from ntlab.machine.machine import Machine
    from ntlab.machine.threads import Thread

ISR = event_type(KERNEL_LOGGER, "PerfInfo/ISR", "cpu initial_time vector")
DPC = event_type(KERNEL_LOGGER, "PerfInfo/DPC", "cpu initial_time routine$")

Action = Callable[[Any], Any]


class Work:
    """One service routine or DPC: it uses `duration` ns of its processor, then calls `action(argument)`."""

    __slots__ = (
        "action",
        "argument",
        "began",
        "duration",
        "event",
        "left",
        "level",
        "lock",
        "processor",
        "resumed",
        "run_time",
        "spinning",
        "tag",
    )

    id = 0  # for locks: no thread

    def __init__(
        self,
        processor: Processor,
        level: int,
        duration: int,
        action: Action | None,
        argument: Any,
        tag: int,
        lock: SpinLock | None = None,
    ) -> None:
        self.processor = processor
        self.level = level
        self.duration = duration
        self.left = duration
        self.action = action
        self.argument = argument
        self.tag = tag  # interrupt vector, or the name of the DPC's routine as text number
        self.lock = lock
        self.began = -1
        self.resumed = 0
        self.run_time = 0  # for which it spun
        self.spinning: Any = None  # the lock it spins on
        self.event: Any = None

    def __repr__(self) -> str:
        return f"<Work at level {self.level} on processor {self.processor.index}>"


class Interrupts:
    """Interrupt and DPC handling of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.engine = machine.engine
        self.scheduler = machine.scheduler
        self.idle_watchers: list[IdleWatcher] = []  # see ntlab.machine.idle
        self._noticed: list[Processor] = []  # those that begin work at this instant, after the present event
        # From when on a processor that was woken does anything; see ntlab.machine.power.
        self.awake_from: Callable[[Processor], int] | None = None
        self._text = machine.tracer.text
        self._trace_isr = machine.tracer.emitter(ISR)
        self._trace_dpc = machine.tracer.emitter(DPC)

    def interrupt(
        self,
        processor: Processor,
        duration: int,
        action: Action | None = None,
        argument: Any = None,
        vector: int = 0,
    ) -> None:
        """Interrupt a processor: its service routine takes `duration` ns and then calls `action(argument)`.

        The action runs at device level: what it wakes runs when the level falls.
        """
        processor.isr_queue.append(Work(processor, DEVICE_LEVEL, duration, action, argument, vector))
        self._notice(processor)

    def queue_dpc(
        self,
        processor: Processor,
        duration: int,
        action: Action | None = None,
        argument: Any = None,
        routine: str = "",
        lock: SpinLock | None = None,
    ) -> None:
        """Queue a DPC of `duration` ns on a processor, at the tail of its DPC queue.

        With a `lock` it first waits for that, spinning, and has it until `action(argument)` has been called.
        """
        processor.dpc_queue.append(
            Work(processor, DISPATCH_LEVEL, duration, action, argument, self._text(routine), lock)
        )
        self._notice(processor)

    def _notice(self, processor: Processor) -> None:
        if processor.stepping:
            # The program is between two requests: take the interrupt when it has made up its mind.
            self._noticed.append(processor)
            self.engine.at(self.engine.now, self._start_noticed, processor, INTERRUPT)
        else:
            self._start(processor)

    def _start_noticed(self, processor: Processor) -> None:
        self._noticed.remove(processor)
        self._start(processor)

    def _start(self, processor: Processor) -> None:
        """Begin the most urgent work, if it is more urgent than what the processor does."""
        wanted = (
            DEVICE_LEVEL if processor.isr_queue else DISPATCH_LEVEL if processor.dpc_queue else PASSIVE_LEVEL
        )
        if wanted <= processor.level or (wanted == DISPATCH_LEVEL and self._held_back(processor)):
            return
        if processor.level == PASSIVE_LEVEL:
            self.scheduler.suspend(processor)
            if processor.thread is None:
                for watch in self.idle_watchers:
                    watch(processor, False)
                if processor.virtual is not None:
                    processor.virtual.wake()
        else:
            self._suspend(processor)
        processor.level = wanted
        self._resume(
            processor, (processor.isr_queue if wanted == DEVICE_LEVEL else processor.dpc_queue).popleft()
        )

    def _held_back(self, processor: Processor) -> bool:
        """Whether DPCs wait because the processor's thread is at dispatch level."""
        thread = processor.thread
        return thread is not None and thread.raised > 0 and processor.dpc_queue[0].began < 0

    def level_falls(self, thread: Thread) -> None:
        """A running thread has freed its last spinlock: the DPCs that waited for that begin."""
        processor = thread.processor
        if processor is not None and processor.dpc_queue:
            self._notice(processor)

    def _suspend(self, processor: Processor) -> None:
        """Put a DPC aside for an interrupt."""
        work = processor.interrupt_work
        self._pause(processor, work)
        processor.dpc_queue.appendleft(work)

    def _pause(self, processor: Processor, work: Work) -> None:
        ran = max(0, self.engine.now - work.resumed)
        if work.event is not None:
            self.engine.cancel(work.event)
            work.event = None
            work.left = max(
                0, work.left - (ran if processor.speed == NOMINAL else ran * processor.speed // NOMINAL)
            )
        elif processor.speed:
            work.run_time += ran

    def _resume(self, processor: Processor, work: Work) -> None:
        now = self.engine.now
        if self.awake_from is not None:
            now = max(now, self.awake_from(processor))
        processor.interrupt_work = work
        work.resumed = now
        if work.began < 0:
            work.began = now
            if work.lock is not None:
                self._more(work, work.lock.ask(work) or 0)
        elif work.spinning is not None:
            self.machine.locks.running_again(work)
            return
        if processor.speed and work.spinning is None:
            time = work.left if processor.speed == NOMINAL else -(-work.left * NOMINAL // processor.speed)
            work.event = self.engine.at(now + time, self._done, processor, INTERRUPT)

    def _more(self, work: Work, delay: int) -> None:
        work.duration += delay
        work.left += delay

    def grant(self, work: Work, delay: int) -> None:
        """Work that spins has its lock now: it goes on when it next runs, `delay` ns later."""
        self._more(work, delay)
        processor = work.processor
        if processor.interrupt_work is work:
            self._pause(processor, work)
            self._resume(processor, work)

    def run_time(self, work: Work) -> int:
        """How long work that spins has spun, ns."""
        spins = work.processor.interrupt_work is work and work.processor.speed
        return work.run_time + (max(0, self.engine.now - work.resumed) if spins else 0)

    def is_under_way(self, work: Work) -> bool:
        """Whether work has begun and is not over."""
        return work.began >= 0 and (
            work.processor.interrupt_work is work or any(work is each for each in work.processor.dpc_queue)
        )

    def speed_changes(self, processor: Processor, speed: int) -> None:
        """The processor's speed is about to change while it does interrupt work."""
        work = processor.interrupt_work
        self._pause(processor, work)
        processor.speed = speed
        self._resume(processor, work)

    def check(self) -> None:
        """Compare levels with the work that is done. Raises SimulationError where they differ."""
        for processor in self.scheduler.processors:
            work = processor.interrupt_work
            level = work.level if work is not None else PASSIVE_LEVEL
            if processor.level != level:
                raise SimulationError(
                    f"processor {processor.index} is at level {processor.level}, its work at {level}"
                )
            if work is not None and (work.event is None) != (
                processor.speed == 0 or work.spinning is not None
            ):
                raise SimulationError(f"nothing ends the interrupt work of processor {processor.index}")
            begins = work is not None or processor in self._noticed
            if processor.dpc_queue and not begins and not self._held_back(processor):
                raise SimulationError(f"nothing holds back the DPCs of processor {processor.index}")

    def _done(self, processor: Processor) -> None:
        work = processor.interrupt_work
        processor.interrupt_work = None
        work.event = None
        if work.level == DEVICE_LEVEL:
            processor.interrupts += 1
            processor.interrupt_time += work.duration
            if self._trace_isr is not None:
                self._trace_isr((self.engine.now, ISR.id, processor.index, work.began, work.tag))
        else:
            processor.dpcs += 1
            processor.dpc_time += work.duration + work.run_time
            if self._trace_dpc is not None:
                self._trace_dpc((self.engine.now, DPC.id, processor.index, work.began, work.tag))
        if work.action is not None:
            work.action(work.argument)
        if work.lock is not None:
            work.lock.free(work)
        if processor.isr_queue:
            processor.level = DEVICE_LEVEL
            self._resume(processor, processor.isr_queue.popleft())
        elif processor.dpc_queue and not self._held_back(processor):
            processor.level = DISPATCH_LEVEL
            self._resume(processor, processor.dpc_queue.popleft())
        else:
            processor.level = PASSIVE_LEVEL
            self.scheduler.restart(processor)
            if processor.thread is None:
                for watch in self.idle_watchers:
                    watch(processor, True)
                if processor.virtual is not None:
                    processor.virtual.halt()

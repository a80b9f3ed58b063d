"""Interrupts and deferred procedure calls (DPCs).

An interrupt takes its processor from whatever runs there: first its service routine at device level, then,
when no more interrupts wait, the queued DPCs at dispatch level, first come first served. The thread goes on
when the level is passive again. An interrupt that arrives during a service routine waits for its end; one
that arrives during a DPC suspends it.
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
    from ntlab.machine.machine import Machine

ISR = event_type(KERNEL_LOGGER, "PerfInfo/ISR", "cpu initial_time vector")
DPC = event_type(KERNEL_LOGGER, "PerfInfo/DPC", "cpu initial_time routine$")

Action = Callable[[Any], Any]


class Work:
    """One service routine or DPC: it uses `duration` ns of its processor, then calls `action(argument)`."""

    __slots__ = ("action", "argument", "began", "duration", "event", "left", "level", "resumed", "tag")

    def __init__(self, level: int, duration: int, action: Action | None, argument: Any, tag: int) -> None:
        self.level = level
        self.duration = duration
        self.left = duration
        self.action = action
        self.argument = argument
        self.tag = tag  # interrupt vector, or the name of the DPC's routine as text number
        self.began = -1
        self.resumed = 0
        self.event: Any = None


class Interrupts:
    """Interrupt and DPC handling of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.engine = machine.engine
        self.scheduler = machine.scheduler
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
        processor.isr_queue.append(Work(DEVICE_LEVEL, duration, action, argument, vector))
        self._notice(processor)

    def queue_dpc(
        self,
        processor: Processor,
        duration: int,
        action: Action | None = None,
        argument: Any = None,
        routine: str = "",
    ) -> None:
        """Queue a DPC of `duration` ns on a processor, at the tail of its DPC queue."""
        processor.dpc_queue.append(Work(DISPATCH_LEVEL, duration, action, argument, self._text(routine)))
        self._notice(processor)

    def _notice(self, processor: Processor) -> None:
        if processor.stepping:
            # The program is between two requests: take the interrupt when it has made up its mind.
            self.engine.at(self.engine.now, self._start, processor, INTERRUPT)
        else:
            self._start(processor)

    def _start(self, processor: Processor) -> None:
        """Begin the most urgent work, if it is more urgent than what the processor does."""
        wanted = (
            DEVICE_LEVEL if processor.isr_queue else DISPATCH_LEVEL if processor.dpc_queue else PASSIVE_LEVEL
        )
        if wanted <= processor.level:
            return
        if processor.level == PASSIVE_LEVEL:
            self.scheduler.suspend(processor)
            if processor.thread is None and processor.virtual is not None:
                processor.virtual.wake()
        else:
            self._suspend(processor)
        processor.level = wanted
        self._resume(
            processor, (processor.isr_queue if wanted == DEVICE_LEVEL else processor.dpc_queue).popleft()
        )

    def _suspend(self, processor: Processor) -> None:
        """Put a DPC aside for an interrupt."""
        work = processor.interrupt_work
        self._pause(processor, work)
        processor.dpc_queue.appendleft(work)

    def _pause(self, processor: Processor, work: Work) -> None:
        if work.event is not None:
            self.engine.cancel(work.event)
            work.event = None
            ran = self.engine.now - work.resumed
            work.left = max(
                0, work.left - (ran if processor.speed == NOMINAL else ran * processor.speed // NOMINAL)
            )

    def _resume(self, processor: Processor, work: Work) -> None:
        now = self.engine.now
        processor.interrupt_work = work
        if work.began < 0:
            work.began = now
        work.resumed = now
        if processor.speed:
            time = work.left if processor.speed == NOMINAL else -(-work.left * NOMINAL // processor.speed)
            work.event = self.engine.after(time, self._done, processor, INTERRUPT)

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
            if work is not None and (work.event is None) != (processor.speed == 0):
                raise SimulationError(f"nothing ends the interrupt work of processor {processor.index}")

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
            processor.dpc_time += work.duration
            if self._trace_dpc is not None:
                self._trace_dpc((self.engine.now, DPC.id, processor.index, work.began, work.tag))
        if work.action is not None:
            work.action(work.argument)
        if processor.isr_queue:
            processor.level = DEVICE_LEVEL
            self._resume(processor, processor.isr_queue.popleft())
        elif processor.dpc_queue:
            processor.level = DISPATCH_LEVEL
            self._resume(processor, processor.dpc_queue.popleft())
        else:
            processor.level = PASSIVE_LEVEL
            self.scheduler.restart(processor)
            if processor.thread is None and processor.virtual is not None:
                processor.virtual.halt()

"""What records do not say of a run: how long ready queues are, and who wakes whom.

A `Watch` is a plugin that answers nothing and only looks, so the trace of a run that is watched is the same.
What it sees is in its `Log`: of the last machine that booted, as a crash ends all that was before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ntlab.engine import REPORT
from ntlab.hooks import hookimpl
from ntlab.plugin import plugin, state

if TYPE_CHECKING:
    from ntlab.machine import Machine, Processor, Thread

Lengths = tuple[tuple[int, int], ...]
"""A ready queue: (priority, threads) of each priority of which there are any."""


@attrs.frozen
class Wake:
    """A thread became ready, by what `waker` (its number) or an interrupt on `processor` did.

    Without either (0, -1), it was a timer, or the machine began with it.
    """

    time: int
    thread: int
    waker: int
    processor: int


@attrs.define
class Log:
    """What was seen. `queues` has (time, queue, lengths) whenever a queue is another than before; it is the
    queue of that processor, or that of all of them (0) where they share one."""

    queues: list[tuple[int, int, Lengths]] = attrs.field(factory=list)
    wakes: list[Wake] = attrs.field(factory=list)


@plugin(name="watch", summary="Looks at ready queues and wake-ups, and changes nothing.")
class Watch:
    """Looks at one machine, not at its child partitions."""

    log: Log = attrs.field(factory=Log)  # handed on to the machine that boots after a crash
    _machine: Machine | None = state(lambda: None)
    _changed: set[int] = state(set)
    _ready: list[Thread] = state(list)
    _last: dict[int, Lengths] = state(dict)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        if machine.partition is None:
            self._machine = machine
            self.log.queues.clear()
            self.log.wakes.clear()

    @hookimpl
    def thread_ready(self, thread: Thread) -> None:
        if thread.machine is not self._machine:
            return
        waker, processor = _acting(thread.machine)
        self.log.wakes.append(Wake(thread.machine.engine.now, thread.id, waker, processor))
        self._look_later()
        self._ready.append(thread)  # which queue it is in is known later

    @hookimpl
    def context_switched(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        thread = new if new is not None else old
        if thread is None or thread.machine is not self._machine:
            return
        self._look_later()
        self._changed.add(processor.index)

    def _look_later(self) -> None:
        """Look when all else of this instant is done."""
        if not self._changed and not self._ready and self._machine is not None:
            self._machine.engine.at(self._machine.engine.now, self._look, order=REPORT)

    def _look(self, _: object) -> None:
        machine = self._machine
        assert machine is not None
        processors = machine.processors
        for thread in self._ready:
            if thread.processor is not None:
                self._changed.add(thread.processor.index)
        shared = len(processors) > 1 and processors[0].queue is processors[1].queue
        for index in (0,) if shared else sorted(self._changed):
            levels = processors[index].queue.levels
            summary = processors[index].queue.summary
            lengths = []
            while summary:
                priority = summary.bit_length() - 1
                lengths.append((priority, len(levels[priority])))
                summary ^= 1 << priority
            if tuple(lengths) != self._last.get(index, ()):
                self._last[index] = tuple(lengths)
                self.log.queues.append((machine.engine.now, index, tuple(lengths)))
        self._changed.clear()
        self._ready.clear()


def _acting(machine: Machine) -> tuple[int, int]:
    """The thread whose program makes a step right now, or 0; and the processor of all this, or -1."""
    for processor in machine.processors:
        if processor.stepping and processor.thread is not None:
            return processor.thread.id, processor.index
    for processor in machine.processors:
        if processor.level and processor.interrupt_work is None:  # its action is being called
            return 0, processor.index
    return 0, -1

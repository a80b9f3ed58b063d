"""A run as a trace for the Perfetto viewer: ``ntlab run EXPERIMENT --perfetto FILE``.

What processors run, and the states of threads that follow from it, are written as the viewer knows them from
Linux. On tracks of ntlab's own are ready threads that were woken, with a flow from who woke them; interrupt
work; and, as counters, the lengths of ready queues, and what power management does where it is simulated.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import IO, TYPE_CHECKING

from ntlab.formats.perfetto import DEAD, PARKED, RUNNABLE, SLEEPING, TraceWriter
from ntlab.lab.timeline import Timeline
from ntlab.lab.watch import Log
from ntlab.machine.power import CLOCK, IDLE_STATE, PARKING
from ntlab.machine.scheduler import IDLE_TID
from ntlab.machine.threads import HELD, READY, TERMINATED, WAITING

if TYPE_CHECKING:
    from ntlab.machine import Machine

STATES = {READY: RUNNABLE, WAITING: SLEEPING, TERMINATED: DEAD, HELD: PARKED}
"""Windows' states of threads as Linux' that the viewer shows; one that is held back is "parked"."""

COUNTERS = {
    CLOCK: ("clock", "speed", "MHz"),
    IDLE_STATE: ("idle state", "state", ""),
    PARKING: ("parking", "parked", ""),
}
"""What is shown of power management: a name, the field with the value, and its unit."""

Slice = tuple[int, int, str, list[int], list[int]]
"""Begin, end, name, the flows that end in it, the flows that begin in it."""


def write_trace(machine: Machine, log: Log, file: IO[bytes]) -> None:
    """Write what a machine that has run did, as far as its kept records and the log of its watch tell."""
    _Writing(machine, log, TraceWriter(file)).all()


class _Writing:
    def __init__(self, machine: Machine, log: Log, writer: TraceWriter) -> None:
        self.machine = machine
        self.log = log
        self.writer = writer
        self.timeline = Timeline(machine)
        self.numbers = count(1)  # of tracks
        self.slices: dict[tuple[str, int], list[Slice]] = {}

    def all(self) -> None:
        timeline, writer = self.timeline, self.writer
        pids = dict.fromkeys(timeline.pids.values())
        processes = self.machine.processes
        writer.processes(
            [(pid, processes[pid].name if pid in processes else f"process {pid}") for pid in pids],
            [(tid, timeline.pids[tid], name) for tid, name in timeline.names.items()],
        )
        self._schedule()
        self._wakes()
        for work in timeline.interruptions:
            self._slice("cpu", work.processor, work.start, work.end, work.what)
        self._write_slices()
        self._queues()
        self._power()
        writer.close()

    def _schedule(self) -> None:
        """What Linux would have recorded, in the order of time, wake-ups before what follows from them."""
        timeline, writer = self.timeline, self.writer
        priorities = {
            switch.new: switch.new_priority for switch in reversed(timeline.switches)
        }  # the first that each had
        target = {switch.new: switch.processor for switch in reversed(timeline.switches)}
        wakes = iter([*self.log.wakes, None])
        wake = next(wakes)
        for switch in timeline.switches:
            while wake is not None and wake.time <= switch.time:
                last = target.get(wake.thread, 0)
                writer.waking(
                    wake.time,
                    wake.processor if wake.processor >= 0 else last,
                    wake.waker,
                    (wake.thread, timeline.names[wake.thread], priorities.get(wake.thread, 0)),
                    last,
                )
                wake = next(wakes)
            writer.switch(
                switch.time,
                switch.processor,
                (switch.old, self._name(switch.old, switch.processor), switch.old_priority),
                STATES.get(switch.state, RUNNABLE) if switch.old != IDLE_TID else RUNNABLE,
                (switch.new, self._name(switch.new, switch.processor), switch.new_priority),
            )
            priorities[switch.new] = switch.new_priority
            target[switch.new] = switch.processor

    def _name(self, thread: int, processor: int) -> str:
        return f"swapper/{processor}" if thread == IDLE_TID else self.timeline.names[thread]

    def _wakes(self) -> None:
        """Slices of threads that are ready after a wait, and where the flows to them begin."""
        timeline = self.timeline
        starts: dict[tuple[int, int], int] = {}  # (thread, since when it is ready) -> when it ran
        for switch in timeline.switches:
            if switch.new != IDLE_TID:
                starts.setdefault((switch.new, switch.time - switch.waited), switch.time)
        for flow, wake in enumerate(self.log.wakes, 1):
            ran = starts.get((wake.thread, wake.time), timeline.end)
            flows = [flow] if wake.waker or wake.processor >= 0 else []
            self._slice("thread", wake.thread, wake.time, ran, "ready", ends=flows)
            what = f"wakes {timeline.names[wake.thread]}"
            if wake.waker:
                self._slice("thread", wake.waker, wake.time, wake.time, what, begins=flows)
            elif flows:
                self._slice("cpu", wake.processor, wake.time, wake.time, what, begins=flows)

    def _slice(
        self,
        kind: str,
        number: int,
        start: int,
        end: int,
        name: str,
        *,
        ends: Iterable[int] = (),
        begins: Iterable[int] = (),
    ) -> None:
        self.slices.setdefault((kind, number), []).append((start, end, name, [*ends], [*begins]))

    def _write_slices(self) -> None:
        timeline, writer = self.timeline, self.writer
        interrupts = 0
        for kind, number in sorted(self.slices):
            track = next(self.numbers)
            if kind == "thread":
                writer.thread_track(track, number, timeline.pids[number], timeline.names[number])
            else:
                if not interrupts:
                    interrupts, track = track, next(self.numbers)
                    writer.track(interrupts, "Interrupts and DPCs")
                writer.track(track, f"cpu {number}", interrupts)
            self._write_track(track, self.slices[kind, number])

    def _write_track(self, track: int, slices: list[Slice]) -> None:
        """Slices of one track: each is over before the next one begins, or has it inside."""
        writer = self.writer
        open_ends: list[int] = []
        for start, end, name, ends, begins in sorted(slices, key=lambda each: (each[0], -each[1])):
            while open_ends and (open_ends[-1] < start or (open_ends[-1] == start and not begins)):
                writer.end(open_ends.pop(), track)
            if begins:
                writer.instant(start, track, name, begins)
            else:
                writer.begin(start, track, name, ends)
                open_ends.append(end)
        while open_ends:
            writer.end(open_ends.pop(), track)

    def _queues(self) -> None:
        """How many threads are in ready queues: of each, and of all."""
        writer, timeline = self.writer, self.timeline
        lengths: dict[int, int] = {}
        tracks: dict[int, int] = {}
        every = next(self.numbers)
        writer.counter_track(every, "ready threads", "threads")
        total = 0
        writer.counter(timeline.began, every, 0)
        several = len({id(processor.queue) for processor in self.machine.processors}) > 1
        for time, queue, levels in self.log.queues:
            length = sum(threads for _, threads in levels)
            total += length - lengths.get(queue, 0)
            lengths[queue] = length
            writer.counter(time, every, total)
            if several:
                if queue not in tracks:
                    tracks[queue] = next(self.numbers)
                    writer.counter_track(tracks[queue], f"ready queue of cpu {queue}", "threads")
                writer.counter(time, tracks[queue], length)
        writer.counter(timeline.end, every, total)

    def _power(self) -> None:
        """Clocks and idle states of cores, and which processors are parked."""
        tracks: dict[str, int] = {}
        own = "" if self.machine.partition is None else f"{self.machine.name}/"
        events = {(own + event.provider, event.name): event for event in (CLOCK, IDLE_STATE, PARKING)}
        for record in self.machine.tracer.records(*sorted(event.name for event in events.values())):
            event = events.get((record.provider, record.name))
            if event is None or record.time < self.timeline.began:
                continue
            part = event.fields[0]
            what, value, unit = COUNTERS[event]
            name = f"{what} of {part} {record[part]!r}"
            if name not in tracks:
                tracks[name] = next(self.numbers)
                self.writer.counter_track(tracks[name], name, unit)
            self.writer.counter(record.time, tracks[name], int(record[value]))

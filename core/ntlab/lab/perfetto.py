"""A run as a trace for the Perfetto viewer: ``ntlab run EXPERIMENT --perfetto FILE``.

What processors run, and the states of threads that follow from it, are written as the viewer knows them from
Linux. On tracks of ntlab's own are ready threads that were woken, with a flow from who woke them; interrupt
work; and, as counters, the lengths of ready queues, and what power management does where it is simulated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from itertools import count
from operator import attrgetter
from typing import IO, TYPE_CHECKING

from ntlab.formats.perfetto import DEAD, PARKED, RUNNABLE, SLEEPING, TraceWriter
from ntlab.lab.timeline import Switch, Timeline
from ntlab.lab.watch import Log, Wake
from ntlab.machine.power import CLOCK, IDLE_STATE, PARKING
from ntlab.machine.scheduler import IDLE_TID
from ntlab.machine.threads import HELD, READY, TERMINATED, WAITING

if TYPE_CHECKING:
    from ntlab.machine import Machine

STATES = {READY: RUNNABLE, WAITING: SLEEPING, TERMINATED: DEAD, HELD: PARKED}
"""Windows' states of threads as Linux' that the viewer shows; one that is held back is "parked"."""

COUNTERS = {
    CLOCK: ("Clocks", "speed", "MHz", 0),
    IDLE_STATE: ("C-states", "state", "", 1),
    PARKING: ("Parked", "parked", "", 0),
}
"""What is shown of power management: a name, the field with the value, its unit, and what is added to it: C0
is no idle state, and C1 the first of them."""

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
        self.runs: dict[int, list[Switch]] = {}
        """The switches by which each thread begins to run."""
        for switch in self.timeline.switches:
            if switch.new != IDLE_TID:
                self.runs.setdefault(switch.new, []).append(switch)
        self.numbers = count(1)  # of tracks
        self.groups: dict[str, int] = {}
        self.counters: dict[tuple[str, str], int] = {}
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
        switched = {switch.processor for switch in timeline.switches}
        for processor in (each for each in range(timeline.processors) if each not in switched):
            idle = (IDLE_TID, self._name(IDLE_TID, processor), 0)
            writer.switch(timeline.began, processor, idle, RUNNABLE, idle)  # shows that it is there
        wakes = deque(self.log.wakes)
        awake: set[int] = set()  # threads that were woken, or run
        early: dict[int, deque[Wake]] = {}  # of those: they wait first, at that instant
        for switch in timeline.switches:
            while wakes and wakes[0].time <= switch.time:
                wake = wakes.popleft()
                if wake.thread in awake:
                    early.setdefault(wake.thread, deque()).append(wake)
                else:
                    awake.add(wake.thread)
                    self._waking(wake)
            writer.switch(
                switch.time,
                switch.processor,
                (switch.old, self._name(switch.old, switch.processor), switch.old_priority),
                STATES.get(switch.state, RUNNABLE) if switch.old != IDLE_TID else RUNNABLE,
                (switch.new, self._name(switch.new, switch.processor), switch.new_priority),
            )
            awake.discard(switch.old)
            awake.add(switch.new)
            again = early.get(switch.old) or deque()
            while again and again[0].time < switch.time:
                again.popleft()  # it went on without leaving its processor
            if again:
                awake.add(switch.old)
                self._waking(again.popleft())
        for wake in wakes:
            self._waking(wake)

    def _waking(self, wake: Wake) -> None:
        run = self._next_run(wake)
        processor, priority = (run.processor, run.new_priority) if run is not None else (wake.processor, 0)
        thread = (wake.thread, self.timeline.names[wake.thread], priority)
        self.writer.waking(wake.time, max(0, processor), wake.waker, thread)

    def _next_run(self, wake: Wake) -> Switch | None:
        """The switch by which a thread that was woken begins to run."""
        runs = self.runs.get(wake.thread, [])
        at = bisect_left(runs, wake.time, key=attrgetter("time"))
        return runs[at] if at < len(runs) else None

    def _name(self, thread: int, processor: int) -> str:
        return f"swapper/{processor}" if thread == IDLE_TID else self.timeline.names[thread]

    def _wakes(self) -> None:
        """Slices of threads that are ready after a wait, and where the flows to them begin."""
        timeline = self.timeline
        causes: dict[tuple[str, int, int], list[tuple[int, int]]] = {}  # the flows and the threads they go to
        for flow, wake in enumerate(self.log.wakes, 1):
            run = self._next_run(wake)
            end = run.time if run is not None else timeline.end
            held = run is not None and run.time - run.waited != wake.time
            flows = [flow] if wake.waker or wake.processor >= 0 else []
            name = "ready, or held back" if held else "ready"
            self._slice("thread", wake.thread, wake.time, end, name, ends=flows)
            if flows:
                where = ("thread", wake.waker) if wake.waker else ("cpu", wake.processor)
                causes.setdefault((*where, wake.time), []).append((flow, wake.thread))
        for (kind, number, time), woken in causes.items():
            what = timeline.names[woken[0][1]] if len(woken) == 1 else f"{len(woken)} threads"
            self._slice(kind, number, time, time, f"wakes {what}", begins=[flow for flow, _ in woken])

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
        for kind, number in sorted(self.slices):
            track = next(self.numbers)
            if kind == "thread":
                writer.thread_track(track, number, timeline.pids[number], timeline.names[number])
            else:
                writer.track(track, f"cpu {number}", self._group("Interrupts and DPCs"), number)
            self._write_track(track, self.slices[kind, number])

    def _group(self, name: str) -> int:
        if name not in self.groups:
            self.groups[name] = next(self.numbers)
            self.writer.group(self.groups[name], name)
        return self.groups[name]

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
        timeline = self.timeline
        lengths: dict[int, int] = {}
        total = 0
        self._count("Ready queues", "all", -1, timeline.began, 0, "threads")
        several = len({id(processor.queue) for processor in self.machine.processors}) > 1
        for time, queue, levels in self.log.queues:
            length = sum(threads for _, threads in levels)
            total += length - lengths.get(queue, 0)
            lengths[queue] = length
            self._count("Ready queues", "all", -1, time, total, "threads")
            if several:
                self._count("Ready queues", f"cpu {queue}", queue, time, length, "threads")
        self._count("Ready queues", "all", -1, timeline.end, total, "threads")

    def _power(self) -> None:
        """Clocks and idle states of cores, and which processors are parked."""
        began = self.timeline.began
        if self.machine.power is not None:
            for processor in range(self.timeline.processors):
                self._count(COUNTERS[PARKING][0], f"cpu {processor}", processor, began, 0)
        own = "" if self.machine.partition is None else f"{self.machine.name}/"
        events = {(own + event.provider, event.name): event for event in COUNTERS}
        for record in self.machine.tracer.records(*sorted(event.name for event in COUNTERS)):
            event = events.get((record.provider, record.name))
            if event is None or record.time < began:
                continue
            part = event.fields[0]
            group, field, unit, more = COUNTERS[event]
            number, value = int(record[part]), int(record[field])
            self._count(group, f"{part} {number}", number, record.time, value + more, unit)

    def _count(self, group: str, name: str, rank: int, time: int, value: int, unit: str = "") -> None:
        """A counter has this value from now on."""
        track = self.counters.get((group, name))
        if track is None:
            parent = self._group(group)
            track = self.counters[group, name] = next(self.numbers)
            self.writer.counter_track(track, name, unit, parent, rank)
        self.writer.counter(time, track, value)

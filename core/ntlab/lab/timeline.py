"""Who ran where and when, as a machine's records tell; and drawn as text, a line a processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from ntlab.machine.crashes import RESTART
from ntlab.machine.interrupts import DPC, ISR
from ntlab.machine.power import PARKING
from ntlab.machine.records import CSWITCH, THREAD_START
from ntlab.machine.scheduler import IDLE_TID
from ntlab.quantities import format_duration

if TYPE_CHECKING:
    from ntlab.machine import Machine
    from ntlab.tracing import EventType

ROWS = 64
"""Lines of processors in a chart, at the most: on machines with more, some processors share a line."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
OTHERS, INTERRUPTED, IDLE, PARKED = "*", "!", ".", "_"
INTERRUPT = -1
"""Counts as a thread where times are added up."""


@attrs.frozen
class Switch:
    """A processor went from one thread to another (numbers; 0 is idle). `state` is in which the old one is
    left, `waited` how long the new one was ready, ns."""

    time: int
    processor: int
    new: int
    old: int
    new_priority: int
    old_priority: int
    state: int
    waited: int


@attrs.frozen
class Stretch:
    """A thread (its number) was on a processor from `start` to `end` (ns)."""

    processor: int
    thread: int
    start: int
    end: int


@attrs.frozen
class Interruption:
    """Interrupt work on a processor: a service routine, or a DPC; others may have interrupted it."""

    processor: int
    start: int
    end: int
    what: str


class Timeline:
    """What a machine's records say about its threads and processors; of a machine that was restarted, since
    then. `names` and `pids` are those of threads by their numbers. It begins at `began` and ends at `end`;
    after `last` nothing more happened. Its tracer must keep its records.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.processors = len(machine.processors)
        self.names: dict[int, str] = {}
        self.pids: dict[int, int] = {}
        self.began = 0
        self.end = machine.engine.now
        self.switches: list[Switch] = []
        self.interruptions: list[Interruption] = []
        self.parking: list[tuple[int, int, bool]] = []
        """When a processor was parked, or no longer."""
        self._read()
        self.last = self._last()

    def _read(self) -> None:
        machine = self.machine
        own = "" if machine.partition is None else f"{machine.name}/"
        wanted: tuple[EventType, ...] = (CSWITCH, THREAD_START, ISR, DPC, PARKING, RESTART)
        events = {(own + event.provider, event.name): event for event in wanted}
        for record in machine.tracer.records(*sorted({event.name for event in wanted})):
            event = events.get((record.provider, record.name))
            field = record.fields
            time = record.time
            if event is CSWITCH:
                self.switches.append(
                    Switch(
                        time,
                        int(field["cpu"]),
                        int(field["new_tid"]),
                        int(field["old_tid"]),
                        int(field["new_priority"]),
                        int(field["old_priority"]),
                        int(field["old_state"]),
                        time - int(field["new_ready_time"]),
                    )
                )
            elif event is THREAD_START:
                self.names[int(field["tid"])] = str(field["name"])
                self.pids[int(field["tid"])] = int(field["pid"])
            elif event is ISR or event is DPC:
                what = f"interrupt {field['vector']!r}" if event is ISR else str(field["routine"]) or "DPC"
                began = int(field["initial_time"])
                self.interruptions.append(Interruption(int(field["cpu"]), began, time, what))
            elif event is PARKING:
                self.parking.append((time, int(field["cpu"]), bool(field["parked"])))
            elif event is RESTART:
                self.began = time
                self.names.clear()
                self.pids.clear()
                self.switches.clear()
                self.interruptions.clear()
                self.parking.clear()

    def _last(self) -> int:
        if any(processor.thread is not None or processor.level for processor in self.machine.processors):
            return self.end
        done = [each.end for each in self.interruptions]
        return max([*done, *(switch.time for switch in self.switches[-1:])], default=self.end)

    def stretches(self) -> list[Stretch]:
        """Who was on which processor, by the time at which each began."""
        running: dict[int, tuple[int, int]] = {}
        found: list[Stretch] = []

        def ends(processor: int, time: int) -> None:
            if processor in running:
                thread, start = running.pop(processor)
                found.append(Stretch(processor, thread, start, time))

        for switch in self.switches:
            ends(switch.processor, switch.time)
            if switch.new != IDLE_TID:
                running[switch.processor] = switch.new, switch.time
        for processor in sorted(running):
            ends(processor, self.end)
        return sorted(found, key=lambda stretch: (stretch.start, stretch.processor))

    def times(self) -> dict[int, tuple[int, int]]:
        """How long each thread was on processors, and how long it was ready before each time; ns."""
        ran: Counter[int] = Counter()
        for stretch in self.stretches():
            ran[stretch.thread] += stretch.end - stretch.start
        waited: Counter[int] = Counter()
        for switch in self.switches:
            if switch.new != IDLE_TID:
                waited[switch.new] += switch.waited
        return {thread: (ran[thread], waited[thread]) for thread in self.names}


class Columns:
    """Time from `since` to `until` (ns) in at most `width` columns of `step` ns each."""

    def __init__(self, width: int, since: int, until: int) -> None:
        self.since = since
        self.until = max(since, until)
        self.step = max(1, -(-(self.until - since) // max(1, width)))
        self.count = max(1, -(-(self.until - since) // self.step))

    def add(self, row: Sequence[Counter[int]], start: int, end: int, key: int, factor: int = 1) -> None:
        """Add the time from `start` to `end`, `factor` times, to `key` of the columns in which it is."""
        at, end = max(start, self.since), min(end, self.until)
        while at < end:
            column = (at - self.since) // self.step
            stop = min(end, self.since + (column + 1) * self.step)
            row[column][key] += (stop - at) * factor
            at = stop

    def row(self) -> list[Counter[int]]:
        """Nothing yet in any column."""
        return [Counter() for _ in range(self.count)]

    def length(self, column: int) -> int:
        """How much time is in a column: the last one may be shorter."""
        return max(1, min(self.step, self.until - self.since - column * self.step))

    def title(self) -> str:
        """What the columns are."""
        return (
            f"{format_duration(self.since)} to {format_duration(self.until)}, "
            f"{format_duration(self.step)} a column"
        )


def shared_lines(number: int) -> list[range]:
    """So many processors in at most `ROWS` lines."""
    each = -(-number // ROWS)
    return [range(first, min(number, first + each)) for first in range(0, number, each)]


def line_name(processors: range) -> str:
    """What a line of processors is called."""
    return f"cpu {processors[0]}" + (f"-{processors[-1]}" if len(processors) > 1 else "")


def draw(
    timeline: Timeline, width: int, *, since: int = 0, until: int | None = None
) -> tuple[list[str], dict[int, str]]:
    """A chart, a line a processor, and the letters of the threads in it, by their numbers.

    A column shows the letter of the thread that ran longest in it, ``!`` if interrupt work took longer, or a
    dot if the processor was idle for longer, ``_`` if it was parked meanwhile. With more than `ROWS`
    processors, lines stand for some of them and say how busy these were: a dot, - for next to nothing, 1 to 9
    for tenths, and # for all of it.
    """
    columns = Columns(width, since, timeline.end if until is None else until)
    lines = shared_lines(timeline.processors)
    ran = [columns.row() for _ in range(timeline.processors)]
    work: list[list[tuple[int, int]]] = [[] for _ in ran]
    for each in timeline.interruptions:
        work[each.processor].append((each.start, each.end))
    stretches = [
        stretch for stretch in timeline.stretches() if stretch.end > since and stretch.start < columns.until
    ]
    interrupted = [_merged(times) for times in work]
    place = [0] * len(ran)  # among the interruptions of each processor
    for stretch in stretches:
        row, times = ran[stretch.processor], interrupted[stretch.processor]
        columns.add(row, stretch.start, stretch.end, stretch.thread)
        at = place[stretch.processor]
        while at < len(times) and times[at][0] < stretch.end:
            start, end = max(stretch.start, times[at][0]), min(stretch.end, times[at][1])
            columns.add(row, start, end, stretch.thread, -1)
            if times[at][1] > stretch.end:
                break
            at += 1
        place[stretch.processor] = at
    for row, times in zip(ran, interrupted, strict=True):
        for start, end in times:
            columns.add(row, start, end, INTERRUPT)
    parked = [columns.row() for _ in range(timeline.processors)]
    since_parked: dict[int, int] = {}
    for time, processor, now in [
        *timeline.parking,
        *((columns.until, each, False) for each in range(len(ran))),
    ]:
        if processor in since_parked:
            columns.add(parked[processor], since_parked.pop(processor), time, 0)
        if now:
            since_parked[processor] = time
    alone = len(lines) == timeline.processors
    letters = _letters(stretches) if alone else {}

    def thread_cell(processor: int, column: int) -> str:
        times = ran[processor][column]
        idle = columns.length(column) - times.total()
        who, time = max(times.items(), key=lambda item: item[1], default=(0, 0))
        if not time or time < idle:
            return PARKED if parked[processor][column].total() * 2 > columns.length(column) else IDLE
        return INTERRUPTED if who == INTERRUPT else letters[who]

    def busy_cell(column: int, some: range) -> str:
        busy = sum(ran[processor][column].total() for processor in some)
        return _tenths(busy / (len(some) * columns.length(column)))

    name_width = max(len(line_name(some)) for some in lines)
    text = [columns.title()]
    for some in lines:
        if alone:
            cells = [thread_cell(some[0], column) for column in range(columns.count)]
        else:
            cells = [busy_cell(column, some) for column in range(columns.count)]
        text.append(f"{line_name(some):<{name_width}} {''.join(cells)}")
    return text, letters


def _merged(times: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches of time as those that do not overlap: a DPC that was interrupted has the interrupt in it."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(times):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _letters(stretches: Sequence[Stretch]) -> dict[int, str]:
    """A letter for each thread, in the order in which they first ran.

    Where there are too many, those that ran longest have one, and the others share one.
    """
    ran: Counter[int] = Counter()
    for stretch in stretches:
        ran[stretch.thread] += stretch.end - stretch.start
    longest = {thread for thread, _ in sorted(ran.items(), key=lambda item: -item[1])[: len(LETTERS)]}
    free = iter(LETTERS)
    return {thread: next(free) if thread in longest else OTHERS for thread in ran}


def _tenths(share: float) -> str:
    """How busy something is, as one character."""
    tenths = round(share * 10)
    return "#" if tenths >= 10 else str(tenths) if tenths else "." if share < 0.005 else "-"


def threads_shown(letters: dict[int, str], describe: Callable[[int], list[str]]) -> list[list[str]]:
    """Rows of a legend: each letter, and what `describe` says of its thread; one for those that share one."""
    rows = [[letter, *describe(thread)] for thread, letter in letters.items() if letter != OTHERS]
    others = sum(letter == OTHERS for letter in letters.values())
    if others:
        rows.append([OTHERS, f"{others} others"])
    return rows

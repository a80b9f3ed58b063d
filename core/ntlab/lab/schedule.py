"""Views of processors and ready queues that every run has.

ntlab run EXPERIMENT --view schedule|ready [--arm ARM]
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.lab.tables import Table
from ntlab.lab.timeline import Columns, Timeline, draw, line_name, shared_lines, threads_shown
from ntlab.lab.watch import Watch
from ntlab.machine.scheduler import IDLE_TID
from ntlab.quantities import format_duration

if TYPE_CHECKING:
    from ntlab.machine import Machine

WIDTH = 100
"""Of a chart, where there is no terminal to say it."""
NARROWEST = 20
"""The least that is drawn into: a terminal that is narrower breaks the lines."""


class ScheduleView:
    """Who runs where: a line a processor, a letter a thread."""

    beside: Sequence[object] = ()

    def watch(self, machine: Machine) -> None:
        """All of it is in the records."""

    def text(self, machine: Machine) -> str:
        """The chart, and who is who."""
        timeline = Timeline(machine)
        lines, letters = draw(timeline, _room(timeline), since=timeline.began, until=timeline.last)
        times = timeline.times()

        def describe(thread: int) -> list[str]:
            ran, ready = times[thread]
            return [timeline.names[thread], str(thread), format_duration(ran), format_duration(ready)]

        rows = [[*row, *[""] * (5 - len(row))] for row in threads_shown(letters, describe)]
        chart = "\n".join(lines) + "\n"
        if not rows:
            return chart
        return f"{chart}\n{Table(['', 'thread', 'id>', 'ran>', 'was ready>'], rows).text()}"


class ReadyView:
    """How many threads wait for processors: over time, by ready queue and by priority; and for how long."""

    def __init__(self) -> None:
        self._watch = Watch()
        self.beside: Sequence[object] = (self._watch,)

    def watch(self, machine: Machine) -> None:
        """That is what is beside the plugins."""

    def text(self, machine: Machine) -> str:
        """Mean lengths as charts, waits as a table."""
        timeline = Timeline(machine)
        columns = Columns(_room(timeline), timeline.began, timeline.last)
        queues = len({id(processor.queue) for processor in machine.processors})
        lines = shared_lines(queues)
        line_of = {queue: number for number, some in enumerate(lines) for queue in some}
        by_line = [columns.row() for _ in lines]
        by_priority: defaultdict[int, list[Counter[int]]] = defaultdict(columns.row)
        since: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {}

        def ends(queue: int, time: int) -> None:
            start, lengths = since.get(queue, (time, ()))
            for priority, threads in lengths:
                columns.add(by_line[line_of[queue]], start, time, 0, threads)
                columns.add(by_priority[priority], start, time, 0, threads)

        for time, queue, lengths in self._watch.log.queues:
            ends(queue, time)
            since[queue] = time, lengths
        for queue in sorted(since):
            ends(queue, timeline.end)
        if not by_priority:
            return f"{columns.title()}: no thread had to wait for a processor\n"
        names = ["all" if queues == 1 else line_name(some) for some in lines]
        text = [f"ready threads, {columns.title()}", *_chart(names, by_line, columns)]
        if len(by_priority) > 1:
            order = sorted(by_priority, reverse=True)
            names = [f"priority {priority}" for priority in order]
            text += ["", *_chart(names, [by_priority[priority] for priority in order], columns)]
        waits: defaultdict[int, list[int]] = defaultdict(list)
        for switch in timeline.switches:
            if switch.new != IDLE_TID:
                waits[switch.new_priority].append(switch.waited)
        rows = [
            [
                str(priority),
                str(len(waits[priority])),
                str(sum(wait > 0 for wait in waits[priority])),
                format_duration(sum(waits[priority]) // len(waits[priority])),
                format_duration(max(waits[priority])),
            ]
            for priority in sorted(waits, reverse=True)
        ]
        table = Table(["priority>", "times run>", "after a wait>", "mean wait>", "longest>"], rows)
        return "\n".join(text) + f"\n\n{table.text()}"


def _room(timeline: Timeline) -> int:
    """How many columns of time there is room for."""
    name = max(len(line_name(some)) for some in shared_lines(timeline.processors))
    return max(NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns) - max(name, len("priority 31")) - 2


def _chart(names: Sequence[str], rows: Sequence[Sequence[Counter[int]]], columns: Columns) -> list[str]:
    """Mean numbers of threads: a dot for none, - for less than one half, + for ten and more, # for 100."""
    width = max(map(len, names))
    return [
        f"{name:<{width}} "
        + "".join(_mean(times[0], columns.length(column)) for column, times in enumerate(row))
        for name, row in zip(names, rows, strict=True)
    ]


def _mean(total: int, time: int) -> str:
    threads = round(total / time)
    if threads >= 10:
        return "#" if threads >= 100 else "+"
    return str(threads) if threads else "-" if total else "."

"""A boot as a text: its critical path, and every task over time."""

from __future__ import annotations

from ntlab import Table
from ntlab.machine import Startup, TaskRun
from ntlab.quantities import format_duration
from ntlab_parallel_boot.dependencies import bounds

COLUMNS = 40
"""How wide the boot is drawn."""


def boot_view(startup: Startup) -> str:
    """What a boot took and why; each task's time line, with its slack."""
    if startup.ended < 0:
        under_way = [run.task.name for run in startup.runs.values() if run.started >= 0 > run.ended]
        return f"the boot is not over; under way: {', '.join(under_way) or 'nothing'}\n"
    found = bounds(startup)
    processors = startup.processors.bit_count()
    took = startup.ended - startup.began
    lines = [
        f"{len(startup.runs)} tasks on {processors} processors: up after {format_duration(took)}, "
        f"logged on after {format_duration(startup.logged_on - startup.began)}",
        f"processors {format_duration(found.work)}, disk {format_duration(found.disk)}, "
        f"critical path {format_duration(found.length)}; "
        f"bounds {format_duration(found.lower)} to {format_duration(found.upper)}",
    ]
    if startup.left_out:
        lines.append(f"left out: {', '.join(sorted(startup.left_out))}")
    steps = [_step(startup, startup.runs[name]) for name in found.path]
    path = Table(["", "by itself>", "waited>", "ended>"], steps, "critical path")
    rows = [
        [
            run.task.name,
            run.task.kind,
            format_duration(run.started - startup.began),
            format_duration(run.ended - run.started),
            format_duration(found.slack[run.task.name]),
            _drawn(startup, run, "#" if run.task.name in found.path else "="),
        ]
        for run in sorted(startup.runs.values(), key=lambda run: (run.started, run.place))
    ]
    tasks = Table(
        ["", "kind", "started>", "took>", "slack>", ""],
        rows,
        "all tasks: . waits to start, = under way, # under way on the critical path",
    )
    return "\n".join([*lines, "", path.text(), tasks.text()])


def _step(startup: Startup, run: TaskRun) -> list[str]:
    waited = run.ended - run.ready - run.own_time
    return [
        run.task.name,
        format_duration(run.own_time),
        format_duration(waited),
        format_duration(run.ended - startup.began),
    ]


def _drawn(startup: Startup, run: TaskRun, sign: str) -> str:
    took = (startup.ended - startup.began) or 1

    def column(time: int) -> int:
        return (time - startup.began) * COLUMNS // took

    ready, started = column(run.ready), column(run.started)
    ended = max(started + 1, column(run.ended))
    return " " * ready + "." * (started - ready) + sign * (ended - started)

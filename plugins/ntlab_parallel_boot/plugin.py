"""What a boot may do at a time, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import Disk, Task
from ntlab.plugin import option, plugin
from ntlab_parallel_boot.dependencies import levels
from ntlab_parallel_boot.workloads import Boot, RandomBoot

Kind = Literal["driver", "device", "files", "service", "logon"]
SECOND = 1_000_000_000


@plugin(
    name="parallel_boot",
    summary="At boot, drivers, devices and services start as soon as what they need is up.",
    release="ws2008r2",
    ledger=("K5",),
    requires=("ws2003",),
    neutral={"limit": 1, "order": "listed"},
    workloads=(Boot, RandomBoot),
)
class ParallelBoot:
    """Tasks of other kinds than `kinds` start one by one, though beside those of `kinds`."""

    limit: int = option(
        default=0, help="How many tasks may be under way at a time; 0: any number.", minimum=0
    )
    kinds: tuple[Kind, ...] = option(
        default=("driver", "device", "files", "service", "logon"), help="Which kinds start beside each other."
    )
    order: Literal["listed", "critical_path"] = option(
        default="listed",
        help="Who is first where not all may start: as listed, or whoever has the longest way to the end.",
    )

    @hookimpl
    def task_may_start(self, task: Task, running: Sequence[Task]) -> bool:
        if self.limit and len(running) >= self.limit:
            return False
        return task.kind in self.kinds or all(other.kind in self.kinds for other in running)

    @hookimpl
    def task_order(self, tasks: Sequence[Task], disk: Disk) -> Sequence[Task] | None:
        if self.order == "listed":
            return None
        rate = disk.model.rate
        way = levels(tasks, {task.name: task.cpu + task.wait + task.read * SECOND // rate for task in tasks})
        return sorted(tasks, key=lambda task: -way[task.name])

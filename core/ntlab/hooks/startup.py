"""How a machine starts up: what is asked about the tasks of a boot (`ntlab.machine.startup`).

Only a machine on which a workload starts tasks asks any of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.disks import Disk
    from ntlab.machine.machine import Machine
    from ntlab.machine.startup import Task


@hookspec(firstresult=True)
def task_starts_at_boot(machine: Machine, task: Task) -> bool | None:
    """False: the task is no part of the boot, but is left to whatever starts it later.

    Asked for each task before the boot begins. A task that another one needs which takes part takes part all
    the same. None everywhere, as in 2003: it does.
    """


@hookspec(firstresult=True)
@expects(
    "the same tasks in some order",
    lambda answer, tasks: sorted(task.name for task in answer) == sorted(task.name for task in tasks),
)
def task_order(machine: Machine, tasks: Sequence[Task], disk: Disk) -> Sequence[Task] | None:
    """The tasks by who is first where several may start.

    Asked once, before the boot begins, with those that take part, as they are listed, and the disk that they
    read from. None everywhere, as in 2003: the order of the list.
    """


@hookspec(firstresult=True)
def task_may_start(machine: Machine, task: Task, running: Sequence[Task]) -> bool | None:
    """Whether a task, with all done that it needs, starts beside the tasks that are under way.

    Asked whenever one has ended, for each that waits, in their order; `running` is never empty: where nothing
    is under way the first one starts. False: it waits. 2003: False, one by one. None everywhere: it starts.
    """

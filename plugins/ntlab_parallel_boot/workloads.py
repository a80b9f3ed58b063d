"""Boots: of a graph of tasks that is written down, or drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs

from ntlab.errors import UnknownNameError, UserError
from ntlab.machine import Machine, Startup, Task
from ntlab.plugin import Metric, option, workload
from ntlab.quantities import MILLISECOND, Duration, format_duration
from ntlab_parallel_boot.dependencies import bounds, random_graph, read_graph
from ntlab_parallel_boot.views import boot_view


def begun(machine: Machine, tasks: Sequence[Task], disk: str, processors: int, where: str) -> Startup:
    """The boot of a machine with these tasks, on its first `processors` (0: all), under way."""
    there = [p.index for p in machine.processors if machine.scheduler.all_mask & p.bit]
    if processors > len(there):
        raise UserError(
            f"{processors} processors", where="workload.processors", expected=f"at most {len(there)}"
        )
    mask = sum(1 << index for index in there[:processors]) or None
    startup = Startup(machine, tasks, disk, processors=mask, where=where)
    startup.begin()
    return startup


def measured(startup: Startup) -> Iterator[Metric]:
    """What a boot took, and what its tasks took. Raises UserError for one that is not over."""
    now = startup.machine.engine.now
    if startup.ended < 0:
        raise UserError(
            f"the boot is not over after {format_duration(now)}", where="duration", expected="a longer one"
        )
    yield Metric("tasks_done", len(startup.runs))
    yield Metric("tasks_left_out", len(startup.left_out))
    found = bounds(startup)
    boot_time = startup.ended - startup.began
    yield Metric("boot_time", boot_time, "ns")
    yield Metric("logon_time", startup.logged_on - startup.began, "ns")
    yield Metric("work", found.work, "ns")
    yield Metric("disk_time", found.disk, "ns")
    yield Metric("longest_path", found.length, "ns")
    yield Metric("above_lower", boot_time - found.lower, "ns")
    yield Metric("below_upper", found.upper - boot_time, "ns")


@workload(name="boot", summary="A machine boots: a graph of drivers, devices, services, files and logon.")
class Boot:
    """The tasks are those of `tasks`; else those of the graph that `graph` names."""

    graph: str = option(default="server", help="Name of a graph that is shipped, or a TOML file.")
    tasks: tuple[Task, ...] = option(
        default=(), help="The tasks, written in the experiment itself; none: those of `graph`."
    )
    disk: str = option(default="sata7k2", help="Model of the disk that tasks read from.")
    processors: int = option(
        default=0, help="How many of the machine's processors the boot uses; 0: all.", minimum=0
    )
    slow: str = option(default="", help="Name of a task that takes longer than it should; empty: none.")
    delay: Duration = option(default=Duration(0), help="How much longer that task waits.", minimum=0)

    _startup: Startup = attrs.field(init=False, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        tasks, where = (self.tasks, "workload.tasks") if self.tasks else read_graph(self.graph)
        if self.slow or self.delay:
            names = [task.name for task in tasks]
            if self.slow not in names:
                raise UnknownNameError("task", self.slow, names, where="workload.slow")
            longer = attrs.evolve
            tasks = tuple(
                longer(task, wait=Duration(task.wait + self.delay)) if task.name == self.slow else task
                for task in tasks
            )
        self._startup = begun(machine, tasks, self.disk, self.processors, where)

    def measure(self, machine: Machine) -> Iterator[Metric]:
        return measured(self._startup)

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"boot": lambda machine: boot_view(self._startup)}


@workload(name="random", summary="A machine boots: tasks that compute, drawn, whose sums are given.")
class RandomBoot:
    """Each seed is another graph; all have the same work, and longest paths of the same length."""

    tasks: int = option(default=60, help="How many tasks.", minimum=1)
    total: Duration = option(
        default=Duration(12_100 * MILLISECOND), help="What all tasks take together.", minimum=1
    )
    longest: Duration = option(
        default=Duration(1_800 * MILLISECOND), help="What the longest path takes.", minimum=1
    )
    step: Duration = option(
        default=Duration(50 * MILLISECOND), help="Each task takes a multiple of this.", minimum=1
    )
    processors: int = option(
        default=0, help="How many of the machine's processors the boot uses; 0: all.", minimum=0
    )

    _startup: Startup = attrs.field(init=False, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        tasks = random_graph(
            machine.streams.stream("parallel_boot", "graph"),
            count=self.tasks,
            total=self.total,
            longest=self.longest,
            step=self.step,
            where="workload",
        )
        self._startup = begun(machine, tasks, "ssd", self.processors, "workload")

    def measure(self, machine: Machine) -> Iterator[Metric]:
        return measured(self._startup)

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"boot": lambda machine: boot_view(self._startup)}

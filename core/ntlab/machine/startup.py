"""How a machine starts up: tasks that need others, with work for processors and a disk.

A task (a driver, a device, a service, files to be read, a logon) is one thread, or several. It may start once
all tasks that it needs are done. Whether it does so while others are under way, which of several is the
first, and which are left out of the boot is asked of plugins (`ntlab.hooks.startup`).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Literal

import attrs

from ntlab.errors import SimulationError, UnknownNameError, UserError
from ntlab.machine.disks import Disk, DiskModel, disk_model
from ntlab.machine.io import File, IoRequest, Read
from ntlab.machine.threads import Compute, Process, Program, Request, Sleep, Thread
from ntlab.quantities import KIB, Duration, Size
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

LAB_BOOT = "Lab-Boot"
TASK_START = event_type(LAB_BOOT, "Task/Start", "task$ kind$")
TASK_STOP = event_type(LAB_BOOT, "Task/Stop", "task$ cpu_time disk_time")
BOOT = event_type("Microsoft-Windows-Diagnostics-Performance", "100", "boot_time main_path_boot_time")

Kind = Literal["driver", "device", "files", "service", "logon"]
PROCESSES: dict[Kind, str] = {
    "driver": "drivers",
    "device": "devices",
    "files": "smss.exe",
    "service": "services.exe",
    "logon": "winlogon.exe",
}
"""The processes that the threads of tasks belong to, by kind."""
TRANSFER = Size(64 * KIB)
"""How much of a file a task reads at a time."""
SECTOR = 512
NO_TIME = Duration(0)
NO_BYTES = Size(0)


@attrs.frozen(kw_only=True)
class Task:
    """One thing to be done at boot, after all that it `needs`.

    It reads `read` bytes of its own file, then works for `cpu` at nominal speed, then waits for `wait`: for a
    device to answer, or a service to say that it is up. With `processors` above 1 so many threads work for
    `cpu` each, the first of which also reads and waits.
    """

    name: str
    kind: Kind = "service"
    needs: tuple[str, ...] = ()
    cpu: Duration = NO_TIME
    read: Size = NO_BYTES
    wait: Duration = NO_TIME
    processors: int = 1


def check_tasks(tasks: Sequence[Task], processors: int, where: str) -> None:
    """Raises UserError, naming `where` they were written, for tasks that cannot be done on so many
    processors.

    That is: one without a name, two of one name, a need that is no task, a cycle, a negative figure, more
    processors than there are.
    """
    if not tasks:
        raise UserError("there is no task", where=where, expected="at least one")
    names: set[str] = set()
    for number, task in enumerate(tasks, 1):
        if not task.name:
            raise UserError(f"task {number} has no name", where=where, expected="a name")
        if task.name in names:
            raise UserError(f"two tasks are called {task.name!r}", where=where)
        names.add(task.name)
        for what, value in (
            ("cpu", f"{task.cpu} ns"),
            ("wait", f"{task.wait} ns"),
            ("read", f"{task.read} B"),
        ):
            if value.startswith("-"):
                raise UserError(f"task {task.name!r} has {what} = {value}", where=where, expected="0 or more")
        if not 1 <= task.processors <= processors:
            raise UserError(
                f"task {task.name!r} needs {task.processors} processors",
                where=where,
                expected=f"1 to {processors}",
            )
    for task in tasks:
        for need in task.needs:
            if need not in names:
                raise UnknownNameError("task", need, names, where=f"{where}: needs of {task.name!r}")
    try:
        TopologicalSorter({task.name: task.needs for task in tasks}).prepare()
    except CycleError as error:
        cycle = " needs ".join(repr(name) for name in reversed(error.args[1]))
        raise UserError(f"tasks need each other: {cycle}", where=where, expected="no cycle") from None


class TaskRun:
    """How one task went: times in ns since the machine's first boot, -1 for what has not happened.

    `ready` is when all that it needs was done. `cpu_time` is what its threads ran, `longest` what that one of
    them ran which ran longest, `disk_time` how long the disk was at its requests; all waiting excluded.
    """

    __slots__ = (
        "cpu_time",
        "disk_time",
        "ended",
        "longest",
        "missing",
        "place",
        "ready",
        "started",
        "task",
        "threads_left",
    )

    def __init__(self, task: Task, place: int) -> None:
        self.task = task
        self.place = place  # who starts first where several may
        self.missing = len(set(task.needs))
        self.threads_left = 0
        self.ready = -1
        self.started = -1
        self.ended = -1
        self.cpu_time = 0
        self.longest = 0
        self.disk_time = 0

    @property
    def own_time(self) -> int:
        """How long it takes where it has to wait for nobody: reading, working, waiting for its device."""
        return self.disk_time + self.longest + self.task.wait


class Startup:
    """The boot of one machine; `begin` begins it.

    `runs` are the tasks that take part, in the order in which they start where several may, `left_out` the
    others. They run on `processors` (a mask; default: all). Their files lie one after another on a disk of
    its own, in the order in which tasks are listed, as the defragmenter lays out what a boot reads. `where`
    is what mistakes in `tasks` are told of. Raises UserError for these.
    """

    def __init__(
        self,
        machine: Machine,
        tasks: Sequence[Task],
        disk: str | DiskModel,
        *,
        processors: int | None = None,
        where: str = "tasks",
    ) -> None:
        self._affinity = processors
        self.processors = machine.scheduler.all_mask if processors is None else processors
        check_tasks(tasks, self.processors.bit_count(), where)
        self.machine = machine
        hooks = machine.hooks
        self._may_start = hooks.task_may_start
        self.left_out = self._leave_out(tasks)
        taking_part = tuple(task for task in tasks if task.name not in self.left_out)
        self.disk = _BootDisk(machine, disk_model(disk) if isinstance(disk, str) else disk)
        self._files = self._lay_out(taking_part, where)
        order = hooks.task_order(machine, taking_part, self.disk) if hooks.task_order is not None else None
        self.runs = {
            task.name: TaskRun(task, at) for at, task in enumerate(taking_part if order is None else order)
        }
        self._needed_by: dict[str, list[TaskRun]] = {name: [] for name in self.runs}
        for run in self.runs.values():
            for need in dict.fromkeys(run.task.needs):
                self._needed_by[need].append(run)
        self._ready: list[tuple[int, TaskRun]] = []  # by place
        self._running: dict[str, Task] = {}
        self._admitting = False
        self._processes: dict[Kind, Process] = {}
        self._left = len(self.runs)
        self._logons_left = sum(run.task.kind == "logon" for run in self.runs.values())
        self.began = -1
        self.ended = -1
        self.logged_on = -1
        tracer = machine.tracer
        self._trace_start = tracer.emitter(TASK_START)
        self._trace_stop = tracer.emitter(TASK_STOP)
        self._trace_boot = tracer.emitter(BOOT)
        machine.startups.append(self)

    def _leave_out(self, tasks: Sequence[Task]) -> frozenset[str]:
        starts = self.machine.hooks.task_starts_at_boot
        if starts is None:
            return frozenset()
        needs = {task.name: task.needs for task in tasks}
        wanted = [task.name for task in tasks if starts(self.machine, task) is not False]
        kept: set[str] = set()
        while wanted:
            name = wanted.pop()
            if name not in kept:
                kept.add(name)
                wanted += needs[name]
        return frozenset(task.name for task in tasks if task.name not in kept)

    def _lay_out(self, tasks: Sequence[Task], where: str) -> dict[str, File]:
        files = {}
        end = 0
        for task in tasks:
            if task.read:
                size = -(-task.read // SECTOR) * SECTOR
                files[task.name] = File(task.name, self.disk, end, size)
                end += size
        if end > self.disk.model.capacity:
            raise UserError(f"{end} bytes are read of a disk of {self.disk.model.capacity}", where=where)
        return files

    # -- one task after another, or beside it ----------------------------------------------------------------

    def begin(self) -> None:
        """Start what needs nothing. Everything else follows as the machine runs."""
        self.began = self.machine.engine.now
        for run in self.runs.values():
            if not run.missing:
                self._is_ready(run)
        if self.runs:
            self._admit(None)
        else:
            self._is_over()

    def _is_ready(self, run: TaskRun) -> None:
        run.ready = self.machine.engine.now
        insort(self._ready, (run.place, run))

    def _admit(self, _: object) -> None:
        """Start whatever may start now."""
        self._admitting = False
        held = []
        for entry in self._ready:
            run = entry[1]
            beside = tuple(self._running.values())
            if (
                beside
                and self._may_start is not None
                and self._may_start(self.machine, run.task, beside) is False
            ):
                held.append(entry)
            else:
                self._start(run)
        self._ready = held

    def _start(self, run: TaskRun) -> None:
        task = run.task
        self._running[task.name] = task
        run.started = self.machine.engine.now
        if self._trace_start is not None:
            text = self.machine.tracer.text
            self._trace_start((run.started, TASK_START.id, text(task.name), text(task.kind)))
        process = self._processes.get(task.kind)
        if process is None:
            process = self.machine.create_process(PROCESSES[task.kind], affinity=self._affinity)
            self._processes[task.kind] = process
            self.processors = 0
            for each in self._processes.values():
                self.processors |= each.affinity  # of some of the processor groups only, where there are any
        run.threads_left = task.processors
        for number in range(task.processors):
            name = task.name if number == 0 else f"{task.name}.{number}"
            self.machine.create_thread(process, self._program(run, first=number == 0), name=name)

    def _program(self, run: TaskRun, *, first: bool) -> Program:
        task = run.task
        yield _Begin(run)
        if first and task.read:
            file = self._files[task.name]
            for offset in range(0, file.size, TRANSFER):
                yield Read(file, offset, min(TRANSFER, file.size - offset))
        if task.cpu:
            yield Compute(task.cpu)
        if first and task.wait:
            yield Sleep(task.wait)
        yield _End(self)

    def thread_ended(self, thread: Thread) -> None:
        """A thread of a task has come to its end: so does the task, with the last one."""
        run: TaskRun = thread.context
        ran = self.machine.scheduler.run_time(thread)
        run.cpu_time += ran
        run.longest = max(run.longest, ran)
        run.threads_left -= 1
        if run.threads_left:
            return
        name = run.task.name
        del self._running[name]
        run.ended = self.machine.engine.now
        if self._trace_stop is not None:
            text = self.machine.tracer.text(name)
            self._trace_stop((run.ended, TASK_STOP.id, text, run.cpu_time, run.disk_time))
        for other in self._needed_by[name]:
            other.missing -= 1
            if not other.missing:
                self._is_ready(other)
        self._left -= 1
        if run.task.kind == "logon":
            self._logons_left -= 1
            if not self._logons_left:
                self.logged_on = run.ended
        if self._left:
            if not self._admitting:
                # Who else ends at this instant comes first: what waits for it may be first in order.
                self._admitting = True
                self.machine.engine.soon(self._admit)
            return
        self._is_over()

    def _is_over(self) -> None:
        self.ended = self.machine.engine.now
        if self.logged_on < 0:
            self.logged_on = self.ended
        if self._trace_boot is not None:
            self._trace_boot((self.ended, BOOT.id, self.ended - self.began, self.logged_on - self.began))

    def check(self) -> None:
        """Compare tasks with what is under way. Raises SimulationError where they differ."""
        for run in self.runs.values():
            under_way = run.started >= 0 > run.ended
            if under_way != (run.task.name in self._running) or under_way != (run.threads_left > 0):
                raise SimulationError(
                    f"task {run.task.name!r} has {run.threads_left} threads, which is wrong"
                )
            needs = [self.runs[need] for need in run.task.needs]
            if run.started >= 0 and not all(0 <= need.ended <= run.started for need in needs):
                raise SimulationError(f"task {run.task.name!r} started before all that it needs was done")
        if self._left != sum(run.ended < 0 for run in self.runs.values()):
            raise SimulationError(f"{self._left} tasks are counted as left, which is wrong")


class _Begin(Request):
    """The thread is one of that task's."""

    __slots__ = ("run",)

    def __init__(self, run: TaskRun) -> None:
        self.run = run

    def perform(self, thread: Thread) -> int | None:
        thread.context = self.run
        return 0


class _End(Request):
    """The thread has done its part of the task."""

    __slots__ = ("startup",)

    def __init__(self, startup: Startup) -> None:
        self.startup = startup

    def perform(self, thread: Thread) -> int | None:
        thread.machine.engine.soon(self.startup.thread_ended, thread)
        return 0


class _BootDisk(Disk):
    """The disk that tasks read from: it notes how long it is at the requests of each."""

    def __init__(self, machine: Machine, model: DiskModel) -> None:
        others = len(machine.startups)
        super().__init__(machine, f"boot-{others}" if others else "boot", model)

    def service_time(self, request: IoRequest) -> int:
        time = super().service_time(request)
        if request.thread is not None:
            request.thread.context.disk_time += time
        return time

"""Programs that others have recorded, on this machine: see `ntlab.formats.schedules`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Literal

from ntlab.errors import UserError
from ntlab.formats.schedules import COMPUTE, SIGNAL, RecordedThread, Recording, read_schedule
from ntlab.machine import Compute, Delay, Machine, Process, Request, Session, Sleep, Thread
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MILLISECOND, Duration

RECORDINGS = Path(__file__).parent / "recordings"
SUFFIX = ".txt.gz"
NORMAL = 8
EVENT_INCREMENT = 1
"""The priority increment with which a wait for an event ends."""


@workload(name="recorded", summary="A recorded program: what its threads computed, and who waited for whom.")
class Recorded:
    """Each recorded thread computes as long as it did, and waits as it did.

    A wait that another of these threads ended lasts until that one comes to the same point of its program
    here. Any other wait lasts as long as it did, without the time for which the thread was ready; so does the
    time before a thread began that none of them created.
    """

    file: str = option(
        default="pipeline",
        help="A recording that comes with ntlab, or a file: what perf sched timehist, perf script, perf data "
        "convert --to-json or ftrace wrote.",
    )
    only: tuple[str, ...] = option(
        default=(), help="Threads with such names only, which may have * and ? in them; none: all threads."
    )
    until: Duration = option(
        default=Duration(0), help="How much of the recording is taken, from its beginning; 0: all.", minimum=0
    )
    copies: int = option(
        default=1, help="How many of it run at once, each in a session of its own.", minimum=1, maximum=10_000
    )
    priorities: bool = option(
        default=True, help="Whether recorded priorities count; else all threads have the normal one."
    )
    waits: Literal["exact", "clock"] = option(
        default="exact",
        help="When waits end that no thread ends: exactly, or by kernel timers, so at ticks of the clock.",
    )
    tolerance: Duration = option(
        default=Duration(0), help="With waits = 'clock': how much later such a wait may end.", minimum=0
    )
    rivals: int = option(
        default=0, help="Threads that compute all the time beside it, in one more session.", minimum=0
    )

    _recording: Recording = state(Recording)
    _chosen: list[int] = state(list)
    _copies: list[_Copy] = state(list)

    def start(self, machine: Machine) -> None:
        self._recording = read_schedule(self._path(), until=self.until)
        threads = self._recording.threads
        self._chosen = [
            number
            for number, thread in enumerate(threads)
            if not self.only or any(fnmatchcase(thread.name, pattern) for pattern in self.only)
        ]
        if not self._chosen:
            names = sorted({thread.name for thread in threads})
            raise UserError(
                f"no recorded thread is called {' or '.join(map(repr, self.only))}",
                where="workload.only",
                expected=f"such as {', '.join(names[:8])}",
            )
        for number in range(1, self.copies + 1):
            self._copies.append(_Copy(machine, self, self._recording, self._chosen, number))
        for copy in self._copies:
            copy.begin()
        if self.rivals:
            session = _new_session(machine)
            process = machine.create_process("rivals", session=session)
            for _ in range(self.rivals):
                machine.create_thread(process, self._computes())

    def _path(self) -> Path:
        shipped = RECORDINGS / f"{self.file}{SUFFIX}"
        path = shipped if shipped.exists() else Path(self.file)
        if not path.exists():
            names = sorted(file.name.removesuffix(SUFFIX) for file in RECORDINGS.glob(f"*{SUFFIX}"))
            raise UserError(
                f"there is no recording {self.file!r}",
                where="workload.file",
                expected=f"a file, or one of: {', '.join(names)}",
            )
        return path

    def _computes(self) -> Iterator[Request]:
        """As long as any copy has something to do."""
        work = Compute(MILLISECOND)
        while any(copy.left for copy in self._copies):
            yield work

    def wait(self, duration: int) -> Request:
        """For a wait that time ends."""
        return Sleep(duration) if self.waits == "exact" else Delay(duration, self.tolerance)

    def measure(self, machine: Machine) -> list[Metric]:
        recording, copies = self._recording, self._copies
        recorded = sum(recording.threads[number].ran for number in self._chosen) * len(copies)
        ran = sum(copy.run_time() for copy in copies)
        delays = sorted(delay for copy in copies for delay in copy.delays)
        programs = len(self._chosen) * len(copies)
        return [
            Metric("time", max((copy.end for copy in copies), default=0), "ns"),
            Metric("recorded_time", recording.span, "ns"),
            Metric("run_time", ran, "ns"),
            Metric("recorded_run_time", recorded, "ns"),
            Metric("unaccounted", ran - recorded, "ns"),
            Metric("delay", sum(delays) / (len(delays) or 1), "ns"),
            Metric("delay_p99", delays[-(len(delays) // 100) - 1] if delays else 0, "ns"),
            Metric("recorded_delay", recording.delays / (recording.delayed or 1), "ns"),
            Metric("signalled", sum(copy.signalled for copy in copies)),
            Metric("finished", 1 - sum(copy.left for copy in copies) / programs),
        ]


class _Copy:
    """One run of the recorded threads."""

    def __init__(
        self, machine: Machine, how: Recorded, recording: Recording, chosen: Sequence[int], number: int
    ) -> None:
        self.machine = machine
        self.how = how
        self.recording = recording
        self.chosen = frozenset(chosen)
        self.order = chosen
        self.session = _new_session(machine)
        self.first_object = (number - 1) * len(recording.waits)
        self.left = len(chosen)
        self.end = 0
        self.signalled = 0
        self.delays: list[int] = []
        self._ended_run_time = 0
        self._processes: dict[int, Process] = {}
        self._threads: dict[int, Thread] = {}
        self._woken: dict[int, int] = {}  # when wake-ups came that were or will be waited for
        self._waiting: dict[int, Thread] = {}
        self._born = {
            recording.threads[number].birth: number
            for number in chosen
            if self._is_signalled(recording.threads[number].birth)
        }

    def _is_signalled(self, wake: int) -> bool:
        """Whether a thread that runs here signals that wake-up."""
        return wake >= 0 and self.recording.wakers[wake] in self.chosen

    def begin(self) -> None:
        """Create the threads that no other one creates, each at its time."""
        for number in self.order:
            thread = self.recording.threads[number]
            if not self._is_signalled(thread.birth):
                self.machine.engine.at(thread.begins, self.create, number)

    def create(self, number: int) -> None:
        """Create a recorded thread."""
        recorded = self.recording.threads[number]
        process = self._processes.get(recorded.pid)
        if process is None:
            process = self.machine.create_process(recorded.name, session=self.session)
            self._processes[recorded.pid] = process
        priority = windows_priority(recorded.priority) if self.how.priorities else NORMAL
        self._threads[number] = self.machine.create_thread(
            process, self._program(number, recorded), name=recorded.name, priority=priority
        )

    def _program(self, number: int, recorded: RecordedThread) -> Iterator[Request]:
        engine, dispatcher = self.machine.engine, self.machine.dispatcher
        for kind, value in recorded.program():
            if kind == COMPUTE:
                yield Compute(value)
                continue
            operates = dispatcher.object_hold and (kind == SIGNAL or self._is_signalled(value))
            if operates:
                processor = self._threads[number].processor
                assert processor is not None
                yield from dispatcher.operate(self.first_object + value, processor)
            if kind == SIGNAL:
                yield _Do(partial(self._signal, value))
                continue
            if not self._is_signalled(value):
                due = engine.now + self.recording.waits[value]
                yield self.how.wait(self.recording.waits[value])
                self.delays.append(engine.now - due)
                continue
            self.signalled += 1
            if value in self._woken:
                del self._woken[value]  # it need not wait: it is woken before it could
            else:
                yield _Wait(self._waiting, value)
                self.delays.append(engine.now - self._woken.pop(value))
        self._ended_run_time += self.machine.scheduler.run_time(self._threads.pop(number))
        self.left -= 1
        self.end = engine.now

    def _signal(self, wake: int) -> None:
        """A thread has come to the point at which it wakes another one, or creates it."""
        if wake in self._born:
            self.signalled += 1
            self.create(self._born[wake])
            return
        self._woken[wake] = self.machine.engine.now
        if wake in self._waiting:
            self.machine.scheduler.wake(self._waiting.pop(wake), None, EVENT_INCREMENT)

    def run_time(self) -> int:
        """How long all threads were on processors, ns."""
        return self._ended_run_time + sum(map(self.machine.scheduler.run_time, self._threads.values()))


class _Do(Request):
    """Call something, in no time."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def perform(self, thread: Thread) -> int:
        self.action()
        return 0


class _Wait(Request):
    """Wait for a wake-up that has not come."""

    __slots__ = ("waiting", "wake")

    def __init__(self, waiting: dict[int, Thread], wake: int) -> None:
        self.waiting = waiting
        self.wake = wake

    def perform(self, thread: Thread) -> None:
        self.waiting[self.wake] = thread


def _new_session(machine: Machine) -> Session:
    """A session more, beside those that there are."""
    return machine.create_session(max(machine.sessions, default=0) + 1)


def windows_priority(linux: int | None) -> int:
    """The priority of a thread with this one of Linux, 0 to 139, where 120 is normal; normal for None.

    Real-time ones (below 100) are real-time here; nice levels are the bases of the priority classes.
    """
    if linux is None:
        return NORMAL
    if linux < 100:
        return 31 - max(0, linux) * 15 // 99
    for above, priority in ((135, 4), (126, 6), (115, 8), (106, 10)):
        if linux >= above:
            return priority
    return 13

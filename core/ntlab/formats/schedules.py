"""Schedules that others have recorded: which threads ran, for how long, what they waited for, who woke them.

Four formats are read, plain or gzipped; the first lines tell which:

- what ``perf sched timehist`` prints, with or without ``--state`` and ``--wakeups``;
- what ``perf script`` prints of the scheduler's events, best with ``--ns``;
- what ``perf data convert --to-json`` writes, by a perf that writes the events' fields;
- what is in the kernel's ``trace`` file, or what ``trace-cmd report`` prints.

Files are read line by line (JSON: sample by sample), so a file may be larger than memory. What is kept is two
numbers for each time that a thread computes, waits or wakes another one.

How long a thread ran is counted as ``perf sched timehist`` counts it: from the last switch of its processor.
So the first switch of each processor ends nothing that has a known length.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import attrs

from ntlab.errors import UserError
from ntlab.formats.packed import open_text

LOOKED_AT = 100
"""Lines within which a file must turn out to be of some format."""
LONGEST_SAMPLE = 1 << 20
"""Characters of a sample in JSON, with the call chain that may be in it."""
MICROSECOND = 1_000

A_RECORDING = "what perf sched timehist, perf script, perf data convert --to-json or ftrace writes"

COMPUTE, WAIT, SIGNAL = 0, 1, 2
"""Kinds of step: compute for so many ns; wait for, or signal, the wake-up of that number."""


class Ran(NamedTuple):
    """A thread left its processor at `time` after `ran` ns.

    `measured` is false where its beginning is not known. `blocked` says whether it waits from now on, or is
    ready still. `off` is how long it had been off processors before, and `delay` for how long of that it was
    ready. None is for what the file does not say.
    """

    time: int
    tid: int
    pid: int
    name: str
    priority: int | None
    ran: int
    measured: bool
    blocked: bool | None
    off: int | None
    delay: int | None


class Woke(NamedTuple):
    """The thread `waker`, or something else (0), ended the wait of a thread, or created it."""

    time: int
    waker: int
    tid: int


class Total(NamedTuple):
    """What the recorder says a thread ran in all: ns, rounded down to its resolution, in so many bursts."""

    tid: int
    ran: int
    bursts: int


class Lost(NamedTuple):
    """The recorder lost events."""

    events: int


Event = Ran | Woke | Total | Lost


# -- what a recording is -------------------------------------------------------------------------------------


@attrs.define(eq=False)
class RecordedThread:
    """A thread: its name is the last that it had; `priority` is Linux's (120 is normal), or None.

    It begins `begins` ns after the recording does, or, if `birth` is not -1, with that wake-up. What it does
    then is in `steps`: kind and number by turns. `ran` is how long it computes in all, ns.
    """

    tid: int
    pid: int
    name: str
    priority: int | None = None
    begins: int = 0
    birth: int = -1
    steps: array[int] = attrs.field(factory=lambda: array("q"), repr=False)
    ran: int = 0
    bursts: int = 0

    def program(self) -> Iterator[tuple[int, int]]:
        """Its steps, pair by pair."""
        steps = iter(self.steps)
        return zip(steps, steps, strict=True)


@attrs.define(eq=False)
class Recording:
    """Threads in the order in which the file tells that they began, and what ended their waits.

    Wake-up number w ended a wait of `waits[w]` ns; `wakers[w]` is the number of the thread (in `threads`)
    that signals it in its program, or -1 where no recorded thread did: then it was time that ended the wait,
    or a device. `span` is the time from the first event to the last, `delays` and `delayed` how long threads
    were ready after waits, in all, and how often. `lost` counts events that the recorder lost.
    """

    threads: list[RecordedThread] = attrs.field(factory=list)
    waits: array[int] = attrs.field(factory=lambda: array("q"), repr=False)
    wakers: array[int] = attrs.field(factory=lambda: array("q"), repr=False)
    span: int = 0
    delays: int = 0
    delayed: int = 0
    lost: int = 0


def read_schedule(path: str | Path, *, until: int = 0) -> Recording:
    """The recording in a file, or (`until` not 0) the first so many ns of it.

    Raises UserError naming file and line for a line that is not what such a file has, and for a file that
    cannot be read or in which no thread ran.
    """
    building = _Building()
    try:
        for event in read_events(path):
            if until and not building.within(event, until):
                break
            building.add(event)
        recording = building.finished()
    except OverflowError:
        raise UserError("times are hundreds of years apart", where=str(path)) from None
    if not any(thread.ran for thread in recording.threads):
        raise UserError(
            "no thread ran", where=str(path), expected="a recording with switches between threads"
        )
    return recording


def read_events(path: str | Path) -> Iterator[Event]:
    """What happened, in the order of the file."""
    path = Path(path)
    with open_text(path, "utf-8") as file:
        yield from _events(_Lines(file, str(path)))


class _Thread:
    """What is known of a thread while the recording is read."""

    __slots__ = ("blocked", "index", "last", "pending", "ready", "thread")

    def __init__(self, tid: int) -> None:
        self.thread = RecordedThread(tid, tid, "")
        self.index = -1  # among the recording's threads; -1 before it begins
        self.last = 0  # when it left a processor
        self.blocked: bool | None = None  # whether it waited then; None where nobody says so
        self.ready = -1  # when it was woken since then, or -1
        self.pending: list[tuple[int, int]] = []  # what it does in the present burst: time, wake-up


class _Building:
    """Puts a recording together."""

    def __init__(self) -> None:
        self._recording = Recording()
        self._threads: dict[int, _Thread] = {}
        self._totals: list[Total] = []
        self._first = -1
        self._last = 0

    def within(self, event: Event, until: int) -> bool:
        """Whether an event is of the first `until` ns."""
        return not isinstance(event, (Ran, Woke)) or self._first < 0 or event.time - self._first <= until

    def add(self, event: Event) -> None:
        """The next event of the file."""
        if isinstance(event, Lost):
            self._recording.lost += event.events
        elif isinstance(event, Total):
            self._totals.append(event)
        else:
            if self._first < 0:
                self._first = event.time
            self._last = event.time
            if isinstance(event, Woke):
                self._woke(event)
            elif event.tid:
                self._ran(event)

    def finished(self) -> Recording:
        """All of it."""
        self._recording.span = self._last - self._first
        for total in self._totals:
            thread = self._threads.get(total.tid)
            if thread is not None:
                _make_up(thread.thread, total)
        return self._recording

    def _thread(self, tid: int) -> _Thread:
        thread = self._threads.get(tid)
        if thread is None:
            thread = self._threads[tid] = _Thread(tid)
        return thread

    def _begin(self, thread: _Thread, time: int, birth: int = -1) -> None:
        """From then on a thread is one of the recording's."""
        thread.index = len(self._recording.threads)
        thread.thread.begins = max(0, time - self._first)
        thread.thread.birth = birth
        self._recording.threads.append(thread.thread)

    def _ran(self, event: Ran) -> None:
        thread = self._thread(event.tid)
        recorded, start = thread.thread, event.time - event.ran
        recorded.pid, recorded.name = event.pid, event.name
        if event.priority is not None:
            recorded.priority = event.priority
        if event.measured:
            if thread.index < 0:
                # Who was neither seen before nor woken was ready all along.
                seen = thread.blocked is not None or event.delay is not None
                self._begin(thread, start - (event.delay or 0) if seen else self._first)
            elif thread.ready < 0 and _has_waited(thread, event):
                ready = start - (event.delay or 0)  # nobody was seen to wake it
                self._wait(thread, 0, ready, max(0, ready - thread.last))
            self._burst(thread, event, start)
        elif event.blocked is False and thread.index < 0:
            self._begin(thread, event.time)
        thread.pending.clear()
        thread.last, thread.blocked, thread.ready = event.time, event.blocked, -1

    def _burst(self, thread: _Thread, event: Ran, start: int) -> None:
        recorded = thread.thread
        if thread.ready >= 0:
            self._recording.delays += max(0, start - thread.ready)
            self._recording.delayed += 1
        at = 0
        for time, wake in thread.pending:
            offset = min(max(at, time - start), event.ran)
            _compute(recorded.steps, offset - at)
            recorded.steps.extend((SIGNAL, wake))
            self._recording.wakers[wake] = thread.index
            at = offset
        _compute(recorded.steps, event.ran - at)
        recorded.ran += event.ran
        recorded.bursts += 1

    def _woke(self, event: Woke) -> None:
        if not event.tid:
            return
        thread = self._thread(event.tid)
        if thread.index < 0:
            waited = max(0, event.time - self._first)
            self._begin(thread, event.time, self._wake(event.waker, event.time, waited))
            thread.ready = event.time
        elif thread.ready < 0 and thread.blocked is not False:
            # Clocks of processors may differ a little.
            self._wait(thread, event.waker, event.time, max(0, event.time - thread.last))

    def _wait(self, thread: _Thread, waker: int, time: int, waited: int) -> None:
        """A thread waited so long and was woken at `time`."""
        thread.thread.steps.extend((WAIT, self._wake(waker, time, waited)))
        thread.ready = time

    def _wake(self, waker: int, time: int, waited: int) -> int:
        """The number of a new wake-up."""
        number = len(self._recording.waits)
        self._recording.waits.append(waited)
        self._recording.wakers.append(-1)
        if waker:
            self._thread(waker).pending.append((time, number))
        return number


def _has_waited(thread: _Thread, event: Ran) -> bool:
    """Whether a thread waited before this burst; of who had been ready all the time, the recorder says so."""
    if thread.blocked is not None or event.off is None:
        return bool(thread.blocked)
    return event.off != event.delay


def _compute(steps: array[int], time: int) -> None:
    """Add time to compute; a burst that was preempted goes on."""
    if time and len(steps) >= 2 and steps[-2] == COMPUTE:
        steps[-1] += time
    elif time:
        steps.extend((COMPUTE, time))


def _make_up(thread: RecordedThread, total: Total) -> None:
    """Give back what rounding down has taken from each burst, so that the recorder's own total comes out."""
    missing = total.ran - thread.ran
    if not 0 < missing <= total.bursts * MICROSECOND:
        return
    if not thread.ran:
        thread.steps[:0] = array("q", (COMPUTE, 0))
    places = [at + 1 for at in range(0, len(thread.steps), 2) if thread.steps[at] == COMPUTE]
    each, rest = divmod(missing, len(places))
    for number, place in enumerate(places):
        thread.steps[place] += each + (number < rest)
    thread.ran = total.ran


# -- lines ---------------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a file, numbered; `wrong` is what to raise about the present one."""

    def __init__(self, file: IO[str], name: str) -> None:
        self.file = file
        self.name = name
        self.number = 0
        self.line = ""

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.number += 1
            self.line = line.rstrip()
            yield self.line

    def wrong(self, expected: str, what: str = "") -> UserError:
        shown = self.line if len(self.line) <= 60 else f"{self.line[:57]}..."
        return UserError(what or repr(shown), where=f"{self.name}, line {self.number}", expected=expected)


def _events(lines: _Lines) -> Iterator[Event]:
    for line in lines:
        if line.lstrip().startswith("{"):
            return (yield from _Json(lines, line).events())
        if _TIMEHIST_HEADER.match(line):
            return (yield from _Timehist(lines, line).events())
        if (record := _RECORD.match(line)) or line.startswith("# tracer:"):
            return (yield from _Tracepoints(lines, record).events())
        if lines.number >= LOOKED_AT:
            raise lines.wrong(A_RECORDING)
    raise UserError("no recording", where=lines.name, expected=A_RECORDING)


def _ns(seconds: str, fraction: str) -> int:
    """Seconds and their decimals, exactly."""
    return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9])


class _Switches:
    """From switches of processors to what each thread ran, as the recorder counts it."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines
        self._since: dict[int, int] = {}  # the last switch of each processor

    def ran(
        self, time: int, cpu: int, tid: int, pid: int, name: str, priority: int | None, blocked: bool
    ) -> Ran:
        """A processor leaves a thread."""
        since = self._since.get(cpu)
        if since is not None and time < since:
            raise self._lines.wrong("times in order", f"processor {cpu} is switched before its last switch")
        self._since[cpu] = time
        ran = 0 if since is None else time - since
        return Ran(time, tid, pid, name, priority, ran, since is not None, blocked, None, None)


# -- perf sched timehist -------------------------------------------------------------------------------------

_TIMEHIST_HEADER = re.compile(r"\s*time\s+cpu\s")
_ROW = re.compile(r"\s*(\d{1,12})\.(\d{6}) \[(\d{1,12})\] +(.*)", re.ASCII)
_TIMES = re.compile(
    r"(.*?) +(\d{1,12})\.(\d{3}) +(\d{1,12})\.(\d{3}) +(\d{1,12})\.(\d{3})(?: |$)(.*)", re.ASCII
)
_TASK = re.compile(r"(.*)\[(-?\d{1,12})(?:/(-?\d{1,12}))?\]", re.ASCII)
_NAMELESS = re.compile(r":(\d{1,12})", re.ASCII)
_LOST = re.compile(r"\s*\d{1,12}\.\d{6} lost (\d{1,12}) events on cpu \d{1,12}", re.ASCII)
_TOTAL = re.compile(
    r"\s*(.*\[\d{1,12}(?:/\d{1,12})?\]) +(-?\d{1,12}) +(\d{1,12}) +(\d{1,12})\.(\d{3}) .*", re.ASCII
)
_SUMMARY = ("Runtime summary", "Wait-time summary")
A_ROW = "a row of perf sched timehist"


class _Timehist:
    """What ``perf sched timehist`` prints, to the microsecond; at its end may be the recorder's summary."""

    def __init__(self, lines: _Lines, header: str) -> None:
        self._lines = lines
        self._last: dict[int, int] = {}  # the last switch of each processor
        columns = header.split("task name")
        if len(columns) != 2 or columns[0].split() != ["time", "cpu"] or "run time" not in columns[1]:
            raise lines.wrong(
                "columns as perf sched timehist prints them without --cpu-visual and --idle-hist"
            )
        self._more = "pre-mig" in columns[1]
        self._prio = " prio" in columns[1]
        self._state = "state" in columns[1]

    def events(self) -> Iterator[Event]:
        lines = self._lines
        for line in lines:
            if line.startswith(_SUMMARY):
                return (yield from self._summary())
            row = _ROW.fullmatch(line)
            if row is not None:
                yield from self._row(_ns(row[1], row[2]), int(row[3]), row[4])
            elif (lost := _LOST.fullmatch(line)) is not None:
                yield Lost(int(lost[1]))
            elif line.strip(" -") and "[tid/pid]" not in line and not line.startswith("Samples"):
                raise lines.wrong(A_ROW)

    def _row(self, time: int, cpu: int, text: str) -> Iterator[Event]:
        times = _TIMES.fullmatch(text)
        if times is None:
            what, colon, woken = text.partition(" awakened: ")
            if colon:
                yield Woke(time, self._task(what.strip())[1], self._task(woken.strip())[1])
            elif " migrated: " not in text:
                raise self._lines.wrong(A_ROW)
            return
        off, delay, ran = (int(times[at]) * 1_000_000 + int(times[at + 1]) * MICROSECOND for at in (2, 4, 6))
        task, rest, priority = times[1].strip(), times[8], None
        if self._prio:
            task, _, number = task.rpartition(" ")
            changed = re.fullmatch(r"(?:-?\d{1,12}->)?(-?\d{1,12})", number, re.ASCII)
            if changed is None:
                raise self._lines.wrong("the priority of a thread")
            priority = int(changed[1])
        if self._more:
            rest = rest.strip().partition(" ")[2]
        blocked = None
        if self._state:
            state = rest.split(maxsplit=1)[:1]
            if not state or len(state[0]) > 2:
                raise self._lines.wrong("the state in which the thread is left")
            blocked = not state[0].startswith("R")
        name, tid, pid = self._task(task.strip())
        if time < self._last.get(cpu, 0):
            raise self._lines.wrong("times in order", f"processor {cpu} is switched before its last switch")
        measured = cpu in self._last or ran > 0
        self._last[cpu] = time
        yield Ran(time, tid, pid, name, priority, ran, measured, blocked, off, delay)

    def _task(self, text: str) -> tuple[str, int, int]:
        """Name, thread and process; 0 for the idle thread and for one that ends, which have no numbers."""
        found = _TASK.fullmatch(text)
        if found is not None:
            tid, pid = int(found[2]), int(found[3] or found[2])
            return found[1], max(0, tid), max(0, pid)
        found = _NAMELESS.fullmatch(text)
        if found is not None:  # one whose name is not known yet
            return text, int(found[1]), int(found[1])
        if text == "<idle>" or text.startswith(("swapper", ":-1")):
            return text, 0, 0
        raise self._lines.wrong("a thread, such as 'name[123]'", repr(text))

    def _summary(self) -> Iterator[Event]:
        for line in self._lines:
            if line.startswith("Idle stats"):
                return
            found = _TOTAL.fullmatch(line)
            if found is not None:
                ran = int(found[4]) * 1_000_000 + int(found[5]) * MICROSECOND
                yield Total(self._task(found[1])[1], ran, int(found[3]))


# -- perf script, and ftrace ---------------------------------------------------------------------------------

_PLACE = (
    r"(?P<seconds>\d{1,12})\.(?P<fraction>\d{6,9}): +(?:\d{1,12} +)?(?:sched:)?"
    r"(?P<event>[\w-]+):\s*(?P<fields>.*)"
)
_RECORD = re.compile(
    rf"""\s*(?:
    (?P<name>\S.*?)\ +(?P<first>-?\d{{1,12}})(?:/(?P<second>-?\d{{1,12}}))?\ +\[(?P<cpu>\d{{1,12}})\]\ +
    | .+-(?P<tid>\d{{1,12}})\ +(?:\([-\ \d]+\)\ +)?\[(?P<processor>\d{{1,12}})\]\ +
      (?:(?P<flags>\S{{4,6}})\ +)?  # of ftrace; above: perf script
    ){_PLACE.replace(" ", chr(92) + " ")}""",
    re.ASCII | re.VERBOSE,
)
_PREVIOUS = re.compile(
    r"(?:prev_comm=(.*) prev_pid=(\d{1,12}) prev_prio=(-?\d{1,12}) prev_state=(\S+)"
    r"|(.*):(\d{1,12}) \[(-?\d{1,12})\] (\S+))"
    r" ==> (?:next_comm=.* next_pid=|.*:)(\d{1,12})(?: next_prio=-?\d{1,12}| \[-?\d{1,12}\])\s*",
    re.ASCII,
)
_WOKEN = re.compile(r"(?:comm=.* pid=(\d{1,12}) prio=.*|.*:(\d{1,12}) \[-?\d{1,12}\].*)", re.ASCII)
_CHILD = re.compile(r".*child_pid=(\d{1,12})", re.ASCII)
_WAKING = {"sched_waking", "sched_wakeup", "sched_wakeup_new"}
_FRAME = re.compile(r"\s+[0-9a-f]+ .*|=> .*", re.ASCII)
_IN_INTERRUPT = frozenset("hHsZz")
A_RECORD = "an event as perf script or ftrace prints it"


class _Tracepoints:
    """Lines of tracepoints: a thread, a processor, a time, an event and its fields."""

    def __init__(self, lines: _Lines, first: re.Match[str] | None) -> None:
        self._lines = lines
        self._switches = _Switches(lines)
        self._first = first
        self._pids: dict[int, int] = {}

    def events(self) -> Iterator[Event]:
        if self._first is not None:
            yield from self._event(self._first)
        for line in self._lines:
            found = _RECORD.fullmatch(line)
            if found is not None:
                yield from self._event(found)
            elif (
                lost := re.fullmatch(r"CPU:\d{1,12} \[LOST (\d{1,12}) EVENTS\]", line, re.ASCII)
            ) is not None:
                yield Lost(int(lost[1]))
            elif line and not line.startswith("#") and not _FRAME.fullmatch(line):
                raise self._lines.wrong(A_RECORD)

    def _event(self, found: re.Match[str]) -> Iterator[Event]:
        event, fields = found["event"], found["fields"]
        time = _ns(found["seconds"], found["fraction"])
        cpu = int(found["cpu"] or found["processor"])
        tid = int(found["tid"] or found["second"] or found["first"])
        if found["second"]:
            self._pids[tid] = int(found["first"])
        if event == "sched_switch":
            switch = _PREVIOUS.fullmatch(fields)
            if switch is None:
                raise self._lines.wrong("from which thread to which")
            name, previous, priority, state = switch.group(*((1, 2, 3, 4) if switch[2] else (5, 6, 7, 8)))
            number = int(previous)
            yield self._switches.ran(
                time,
                cpu,
                number,
                self._pids.get(number, number),
                name,
                int(priority),
                not state.startswith("R"),
            )
        elif event in _WAKING:
            woken = _WOKEN.fullmatch(fields)
            if woken is None:
                raise self._lines.wrong("which thread is woken")
            interrupt = found["flags"] is not None and not _IN_INTERRUPT.isdisjoint(found["flags"][2:3])
            yield Woke(time, 0 if interrupt else max(0, tid), int(woken[1] or woken[2]))
        elif event == "sched_process_fork":
            child = _CHILD.fullmatch(fields)
            if child is None:
                raise self._lines.wrong("the number of the child")
            yield Woke(time, max(0, tid), int(child[1]))


# -- perf data convert --to-json -----------------------------------------------------------------------------


_BETWEEN = " \t\r\n,"


class _Json:
    """The samples of a perf.data file, one after the other.

    Each has the number and name of the thread that ran, and then the event's fields, as texts, some of them
    under the same keys again. Which event it is, only its fields tell.
    """

    def __init__(self, lines: _Lines, first: str) -> None:
        self._lines = lines
        self._switches = _Switches(lines)
        self._text = first + "\n"
        self._closed = False  # whether there may be a whole sample
        self._decoder = json.JSONDecoder(object_pairs_hook=list)

    def events(self) -> Iterator[Event]:
        self._skip_headers()
        fields = samples = 0
        while (sample := self._sample()) is not None:
            samples += 1
            known = [(key, value) for key, value in sample if isinstance(key, str)]
            own = dict(reversed(known))  # the first of each key
            of_event = {key: value for key, value in known if isinstance(value, str)}
            fields += "next_pid" in of_event
            yield from self._event(own, of_event)
        if not fields:
            raise UserError(
                f"none of {samples} samples says what was switched to what",
                where=self._lines.name,
                expected="the fields of sched_switch, which some builds of perf leave out: use perf script",
            )

    def _skip_headers(self) -> None:
        while (found := re.search(r'"samples"\s*:\s*\[', self._text)) is None:
            if len(self._text) > LONGEST_SAMPLE or not self._more():
                raise self._lines.wrong("what perf data convert --to-json writes", "no samples")
        self._text = self._text[found.end() :].lstrip(_BETWEEN)
        self._closed = bool(self._text)

    def _more(self) -> bool:
        """Read on. False at the end of the file."""
        line = next(iter(self._lines), None)
        if line is not None:
            self._text = f"{self._text}{line}\n".lstrip(_BETWEEN)
            self._closed = line.rstrip(_BETWEEN).endswith("}")
        return line is not None

    def _sample(self) -> list[Any] | None:
        """The next sample, as pairs; None when there is none."""
        while not self._text.startswith("]"):
            if self._closed:
                try:
                    sample, end = self._decoder.raw_decode(self._text)
                except ValueError as error:
                    if len(self._text) > LONGEST_SAMPLE:
                        raise self._lines.wrong("a sample", f"no JSON: {error}") from None
                else:
                    if not isinstance(sample, list):
                        raise self._lines.wrong("a sample", repr(sample)[:60])
                    self._text = self._text[end:].lstrip(_BETWEEN)
                    self._closed = bool(self._text)
                    return sample
            if not self._more():
                raise self._lines.wrong("a whole file", "ends within its samples")
        return None

    def _event(self, own: dict[str, Any], fields: dict[str, str]) -> Iterator[Event]:
        try:
            time, cpu = int(own["timestamp"]), int(own.get("cpu", 0))
            if "next_pid" in fields:
                tid = int(fields["prev_pid"])
                pid = int(own["pid"]) if tid == own["tid"] else tid
                blocked = bool(int(fields["prev_state"], 0) & 0xFF)
                priority = int(fields["prev_prio"])
                yield self._switches.ran(time, cpu, tid, pid, fields["prev_comm"], priority, blocked)
            elif "target_cpu" in fields:
                yield Woke(time, max(0, int(own["tid"])), int(fields["pid"]))
            elif "child_pid" in fields:
                yield Woke(time, max(0, int(own["tid"])), int(fields["child_pid"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._lines.wrong(
                "a sample of a scheduler's event", f"{type(error).__name__}: {error}"
            ) from None

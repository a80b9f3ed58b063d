"""Recorded schedules: every format, exactly; what is wrong in a file is told with its line."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import UserError
from ntlab.formats.schedules import COMPUTE, SIGNAL, WAIT, Lost, Recording, read_events, read_schedule
from schedules import Event, ftrace, perf_json, perf_script, timehist

US = 1000
START = 34339 * 10**9
NAMES = {7: "early", 8: "a b", 9: "c[1]", 10: "sleeps:1"}


def at(time: int) -> int:
    """So many microseconds after the recording begins."""
    return START + time * US


EVENTS: list[Event] = [
    ("switch", at(0), 0, 0, "R", 8),  # the first of processor 0: 8 was ready all along
    ("switch", at(0), 1, 7, "S", 0),  # of processor 1: nobody knows since when 7 has run
    ("wake", at(100), 0, 8, 9),  # 8 creates 9
    ("switch", at(130), 1, 0, "R", 9),
    ("switch", at(200), 0, 8, "S", 0),
    ("wake", at(250), 0, 0, 10),  # a timer creates 10, as far as the recording knows
    ("switch", at(260), 0, 0, "R", 10),
    ("switch", at(400), 0, 10, "R", 7),  # 10 is preempted
    ("wake", at(430), 1, 9, 8),
    ("switch", at(480), 1, 9, "D", 8),
    ("switch", at(500), 0, 7, "S", 10),
    ("switch", at(600), 0, 10, "S", 0),
    ("wake", at(900), 0, 0, 10),
    ("switch", at(910), 0, 0, "R", 10),
    ("wake", at(950), 0, 10, 9),
    ("switch", at(960), 1, 8, "Z", 9),
    ("switch", at(1000), 0, 10, "Z", 0),
    ("switch", at(1100), 1, 9, "Z", 0),
]
EXACT: dict[str, Callable[..., str]] = {
    "script": partial(perf_script, digits=6),
    "script --ns": perf_script,
    "script, short": partial(perf_script, short=True),
    "script, pids": partial(perf_script, pids=True),
    "ftrace": ftrace,
    "trace-cmd": lambda events, names: ftrace(events, names).replace(" d..2. ", " ").split("\n", 3)[3],
    "json": perf_json,
    "timehist": partial(timehist, state=True, wakeups=True),
    "timehist, all": partial(timehist, state=True, wakeups=True, prio=True, next=True, summary=True),
    "timehist without state": partial(timehist, wakeups=True),
}


def write(folder: Path, text: str, *, packed: bool = False) -> Path:
    path = folder / "recording"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


def told(recording: Recording) -> dict[str, object]:
    """The recording, with each wake-up as what it is."""
    threads = {}
    for thread in recording.threads:
        steps = []
        for kind, value in thread.program():
            if kind == WAIT:
                waker = recording.wakers[value]
                who = recording.threads[waker].tid if waker >= 0 else None
                steps.append(("wait", recording.waits[value] // US, who))
            elif kind == SIGNAL:
                steps.append(("signal", value, None))
            else:
                assert kind == COMPUTE
                steps.append(("compute", value // US, None))
        threads[thread.tid] = thread.begins // US, thread.birth >= 0, steps
    return threads


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_says_the_same(tmp_path: Path, form: str, packed: bool) -> None:
    recording = read_schedule(write(tmp_path, EXACT[form](EVENTS, NAMES), packed=packed))
    assert told(recording) == {
        8: (0, False, [
            ("compute", 100, None), ("signal", 0, None), ("compute", 100, None),
            ("wait", 230, 9), ("compute", 480, None),
        ]),
        9: (100, True, [
            ("compute", 300, None), ("signal", 2, None), ("compute", 50, None),
            ("wait", 470, 10), ("compute", 140, None),
        ]),
        10: (250, True, [
            ("compute", 240, None), ("wait", 300, None),
            ("compute", 40, None), ("signal", 4, None), ("compute", 50, None),
        ]),
        7: (400, False, [("compute", 100, None)]),  # it waited, and then ran: nobody says why
    }  # fmt: skip
    assert [(thread.tid, thread.pid, thread.name) for thread in recording.threads] == [
        (tid, tid, NAMES[tid]) for tid in (9, 8, 10, 7)
    ]
    assert recording.span == 1100 * US
    assert (recording.delays, recording.delayed) == ((30 + 50 + 10 + 10 + 10) * US, 5)
    assert [thread.ran // US for thread in recording.threads] == [490, 680, 330, 100]


def test_without_wake_ups_waits_are_timed(tmp_path: Path) -> None:
    """What `perf sched timehist` prints by itself: how long each was off, and for how long of that ready."""
    for state in (False, True):
        recording = read_schedule(write(tmp_path, timehist(EVENTS, NAMES, state=state)))
        assert told(recording) == {
            8: (0, False, [("compute", 200, None), ("wait", 230, None), ("compute", 480, None)]),
            9: (100, False, [("compute", 350, None), ("wait", 470, None), ("compute", 140, None)]),
            10: (250, False, [("compute", 240, None), ("wait", 300, None), ("compute", 90, None)]),
            7: (400, False, [("compute", 100, None)]),
        }
        assert not any(waker >= 0 for waker in recording.wakers)


def test_a_wake_up_in_an_interrupt_is_nobody_s(tmp_path: Path) -> None:
    recording = read_schedule(write(tmp_path, ftrace(EVENTS, NAMES, flags="dNh2.")))
    assert set(recording.wakers) == {-1}
    recording = read_schedule(write(tmp_path, ftrace(EVENTS, NAMES, flags="d..3")))
    assert sorted(set(recording.wakers)) == [-1, 0, 1, 2]


def test_processes_and_priorities(tmp_path: Path) -> None:
    text = (
        perf_script(EVENTS, NAMES, pids=True)
        .replace(" 9/9 ", " 8/9 ")
        .replace("prev_prio=120", "prev_prio=98")
    )
    recording = read_schedule(write(tmp_path, text))
    assert [(thread.tid, thread.pid, thread.priority) for thread in recording.threads] == [
        (9, 8, 98), (8, 8, 98), (10, 10, 98), (7, 7, 98)
    ]  # fmt: skip
    text = timehist(EVENTS, NAMES, wakeups=True, prio=True).replace("c[1][9]", "c[1][9/8]")
    recording = read_schedule(write(tmp_path, text))
    assert [(thread.tid, thread.pid, thread.priority) for thread in recording.threads] == [
        (9, 8, 120), (8, 8, 120), (10, 10, 120), (7, 7, 120)
    ]  # fmt: skip


def test_the_first_part(tmp_path: Path) -> None:
    path = write(tmp_path, perf_script(EVENTS, NAMES) + "what is wrong here is never read\n")
    recording = read_schedule(path, until=450 * US)
    assert {thread.tid: thread.ran // US for thread in recording.threads} == {8: 200, 9: 0, 10: 140}
    assert read_schedule(path, until=1_099 * US).span == 1000 * US
    with pytest.raises(UserError, match="line 19"):
        read_schedule(path, until=1_100 * US)


def test_fork_and_lost_events(tmp_path: Path) -> None:
    text = perf_script(EVENTS, NAMES)
    lines = text.splitlines()
    lines[2] = (
        "             a b     8 [000] 34339.000100000: sched:sched_process_fork: "
        "comm=a b pid=8 child_comm=a b child_pid=9"
    )
    forked = read_schedule(write(tmp_path, "\n".join(lines)))
    assert told(forked) == told(read_schedule(write(tmp_path, text)))
    events = read_events(write(tmp_path, ftrace(EVENTS, NAMES) + "CPU:1 [LOST 17 EVENTS]\n"))
    assert [event for event in events if isinstance(event, Lost)] == [Lost(17)]
    lost = timehist(EVENTS, NAMES) + "   34339.001200 lost 5 events on cpu 1\n"
    assert read_schedule(write(tmp_path, lost)).lost == 5


def test_other_lines_are_left_alone(tmp_path: Path) -> None:
    text = perf_script(EVENTS, NAMES)
    whole = told(read_schedule(write(tmp_path, text)))
    among = [
        "        ffffffff821f7f58 __schedule+0x398 ([kernel.kallsyms])",
        "",
        "            a b     8 [000] 34339.000150000:   12000 cycles:u:  ffffffff81000000 f+0x1 (/bin/a b)",
        "            a b     8 [000] 34339.000160000: sched:sched_stat_runtime: comm=a b pid=8 runtime=1",
        "          :-1    -1 [001] 34339.000160000: sched:sched_process_free: comm=x pid=5 prio=120",
    ]
    lines = text.splitlines()
    assert told(read_schedule(write(tmp_path, "\n".join([*lines[:4], *among, *lines[4:]])))) == whole
    rows = timehist(EVENTS, NAMES, wakeups=True, state=True)
    moved = "   34339.000450 [0001]  c[1][9]                                  migrated: a b[8] cpu 0 => 1\n"
    assert told(read_schedule(write(tmp_path, rows + moved))) == whole


# -- the recorder's own sums ---------------------------------------------------------------------------------


@st.composite
def schedules(draw: st.DrawFn) -> list[Event]:
    """Any schedule of up to six threads on three processors, times to the nanosecond."""
    time = START
    running = dict.fromkeys(range(draw(st.integers(1, 3))), 0)
    ready: list[int] = [1, 2, 3]
    blocked: set[int] = {4, 5, 6}
    events: list[Event] = []
    for _ in range(draw(st.integers(1, 60))):
        time += draw(st.integers(0, 10**6))
        cpu = draw(st.sampled_from(sorted(running)))
        if blocked and draw(st.booleans()):
            thread = draw(st.sampled_from(sorted(blocked)))
            blocked.remove(thread)
            ready.append(thread)
            events.append(("wake", time, cpu, running[cpu], thread))
            continue
        old = running[cpu]
        state = draw(st.sampled_from("RSD")) if old else "R"
        if old and state == "R":
            ready.append(old)
        elif old:
            blocked.add(old)
        new = ready.pop(0) if ready else 0
        if (old, new) == (0, 0) or old == new:
            running[cpu] = new
            continue
        events.append(("switch", time, cpu, old, state, new))
        running[cpu] = new
    return events


@settings(max_examples=60, deadline=None)
@given(events=schedules(), form=st.sampled_from(["script", "json", "timehist"]))
def test_threads_run_as_long_as_the_recorder_says(
    events: list[Event], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = {number: f"t{number}" for number in range(1, 7)}
    summary = timehist(events, names, summary=True)
    totals = {
        int(found[1]): int(found[2] + found[3])
        for found in re.finditer(
            r"\[(\d+)\] +1 +\d+ +(\d+)\.(\d{3})", summary.partition("Runtime summary")[2]
        )
    }
    text = {
        "script": perf_script(events, names),
        "json": perf_json(events, names),
        "timehist": timehist(events, names, wakeups=True, state=True, summary=True),
    }[form]
    path = write(tmp_path_factory.mktemp("x"), text)
    if not any(totals.values()):
        return
    recording = read_schedule(path)
    assert {thread.tid: thread.ran // US for thread in recording.threads if thread.ran >= US} == {
        tid: total for tid, total in totals.items() if total
    }
    for thread in recording.threads:
        assert thread.ran == sum(value for kind, value in thread.program() if kind == COMPUTE)
        assert all(value >= 0 for _, value in thread.program())
    signalled = [value for thread in recording.threads for kind, value in thread.program() if kind == SIGNAL]
    assert sorted(signalled) == [wake for wake, waker in enumerate(recording.wakers) if waker >= 0]
    assert all(wait >= 0 for wait in recording.waits)


# -- what is wrong -------------------------------------------------------------------------------------------

HEADER = "           time    cpu  task name                       wait time  sch delay   run time\n"
ROW = "   34339.554902 [0000]  perf[8046]                          0.000      0.000      0.000 \n"
LINE = "  perf  8046 [000] 34339.554902: sched:sched_switch: prev_comm=perf prev_pid=8046 prev_prio=120 "
LINE += "prev_state=D ==> next_comm=x next_pid=18 next_prio=0\n"
SAMPLE = '{"timestamp": 5, "pid": 1, "tid": 1, "cpu": 0, "comm": "x"'


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        (HEADER + "what is this\n", 2, "'what is this'; expected a row of perf sched timehist"),
        (HEADER + ROW + ROW.replace("0.000 \n", "0.0 \n"), 3, "expected a row of perf sched timehist"),
        (HEADER + ROW.replace("[8046]", ""), 2, "'perf'; expected a thread, such as 'name[123]'"),
        (HEADER + ROW + ROW.replace("554902", "554901"), 3, "processor 0 is switched before its last switch"),
        (HEADER.replace("cpu ", "cpu 01 "), 1, "without --cpu-visual"),
        (HEADER.replace("run time", "idle"), 1, "expected columns as perf sched timehist prints them"),
        (HEADER[:-1] + "  state\n" + ROW, 2, "expected the state in which the thread is left"),
        (HEADER.replace("task name", "task name   prio") + ROW, 2, "expected the priority of a thread"),
        (LINE + "nonsense\n", 2, "'nonsense'; expected an event as perf script or ftrace prints it"),
        (LINE + LINE.replace("==> next_comm", "next_comm"), 2, "expected from which thread to which"),
        (LINE + LINE.replace("554902", "554901"), 2, "processor 0 is switched before its last switch"),
        (LINE.replace("sched_switch", "sched_waking"), 1, "expected which thread is woken"),
        (LINE.replace("sched_switch", "sched_process_fork"), 1, "expected the number of the child"),
        ("\n" * 5 + "x\n" * 200, 100, "'x'; expected what perf sched timehist, perf script"),
        ('{"samples": [\n' + SAMPLE + ', "next_pid": "5"}]}', 2, "KeyError: 'prev_pid'; expected a sample"),
        ('{"samples": [\n' + SAMPLE + "},\n", 2, "ends within its samples; expected a whole file"),
        ('{"samples": [\n' + SAMPLE + ', "pid": "x", "target_cpu": "0"}]}', 2, "ValueError"),
        ('{"samples": [\n5}', 2, "5; expected a sample"),
        ('{"other": [\n', 2, "no samples; expected what perf data convert --to-json writes"),
        ('{"samples": [\n {"a": ' + "\n" * 2 + '"' + "x" * (1 << 20) + "\n}", 5, "no JSON"),
    ],
)  # fmt: skip
def test_a_line_that_is_wrong_is_named(tmp_path: Path, text: str, line: int, found: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_schedule(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}: ") or (line == 2 and f"{path}, line 1: " in message)
    assert found in message
    assert "\n" not in message


def test_clocks_of_processors_may_differ_a_little(tmp_path: Path) -> None:
    lines = perf_script(EVENTS, NAMES).splitlines()
    lines[8] = lines[8].replace("34339.000430000", "34339.000190000")  # 8 is woken before it waits, by clock
    recording = read_schedule(write(tmp_path, "\n".join(lines)))
    assert told(recording)[8][2][3] == ("wait", 0, 9)  # type: ignore[index]
    far = [("switch", 0, 0, 0, "R", 8), ("switch", 999_999_999_999 * 10**9, 0, 8, "S", 0)]
    with pytest.raises(UserError, match="recording: times are hundreds of years apart"):
        read_schedule(write(tmp_path, perf_script(far, NAMES)))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: cannot be read: No such file"):
        read_schedule(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_schedule(tmp_path)
    with pytest.raises(UserError, match="no recording; expected what perf sched timehist"):
        read_schedule(write(tmp_path, "\n"))
    with pytest.raises(UserError, match="no thread ran"):
        read_schedule(write(tmp_path, HEADER + ROW))
    with pytest.raises(UserError, match="none of 1 samples says what was switched to what"):
        read_schedule(write(tmp_path, '{"samples": [' + SAMPLE + "}]}"))
    whole = gzip.compress(perf_script(EVENTS * 50, NAMES).encode())
    for broken in (whole[:-12], whole[:-8] + bytes(8)):
        (tmp_path / "recording").write_bytes(broken)
        with pytest.raises(UserError, match=r"recording: cannot be (read|unpacked)|line \d+"):
            read_schedule(tmp_path / "recording")


# -- a real one ----------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")
def test_what_perf_records_here_today(tmp_path: Path) -> None:
    """Each thread runs as long as perf's own summary says, to the microsecond, whatever way it is written."""

    def perf(*arguments: str) -> str:
        done = subprocess.run(["perf", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    program = "for i in 1 2 3; do seq 1 2000 | sort -n | wc -l; sleep 0.002; done"
    perf("sched", "record", "-o", "data", "--", "sh", "-c", program)
    if not (tmp_path / "data").exists() or not perf("script", "-i", "data", "--ns"):
        pytest.skip("this host does not permit tracing")
    forms = {
        "script": perf("script", "-i", "data", "--ns"),
        "script with pids": perf(
            "script", "-i", "data", "--ns", "-F", "comm,pid,tid,cpu,time,event,trace"
        ),
        "timehist": perf("sched", "timehist", "-i", "data", "-S", "-w", "--state"),
    }  # fmt: skip
    summary = perf("sched", "timehist", "-i", "data", "-s")
    totals: dict[int, int] = {}
    for found in re.finditer(r"\[(-?\d+)(?:/-?\d+)?\] +-?\d+ +\d+ +(\d+)\.(\d{3}) ", summary):
        totals[int(found[1])] = totals.get(int(found[1]), 0) + int(found[2] + found[3])
    # perf's timehist says of no thread that has gone what it ran at last; its events do.
    nobody = totals.pop(-1, 0)
    assert len(totals) > 9
    for form, text in forms.items():
        recording = read_schedule(write(tmp_path, text))
        ran = {thread.tid: thread.ran // US for thread in recording.threads}
        assert sum(waker >= 0 for waker in recording.wakers) > 9, form
        more = {tid: ran.get(tid, 0) - totals.get(tid, 0) for tid in {*ran, *totals}}
        late = [time for time in more.values() if time]
        assert min(more.values()) == 0, form
        assert abs(sum(late) - nobody * (form != "timehist")) <= len(late) * bool(nobody), form
    perf("data", "convert", "-i", "data", "--to-json", "json", "--force")
    if (tmp_path / "json").exists():
        if '"next_pid"' in (tmp_path / "json").read_text(errors="replace"):
            again = {thread.tid: thread.ran for thread in read_schedule(tmp_path / "json").threads}
            script = read_schedule(write(tmp_path, forms["script"]))
            assert again == {thread.tid: thread.ran for thread in script.threads}
        else:
            with pytest.raises(UserError, match="none of"):  # a perf that leaves the events' fields out
                read_schedule(tmp_path / "json")

"""Schedules as recorders print them: written by tests, from events, by what the recorders' documents say.

An event is ("switch", time, cpu, old, state, new) or ("wake", time, cpu, waker, thread), times in ns. Threads
are numbers, 0 the idle one; `names` has their names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ntlab.lab.timeline import Timeline
from ntlab.lab.watch import Log
from ntlab.machine import Machine
from ntlab.machine.threads import READY

Event = tuple[Any, ...]
Names = Mapping[int, str]


def name_of(thread: int, cpu: int, names: Names) -> str:
    return names[thread] if thread else f"swapper/{cpu}"


def seconds(time: int, digits: int) -> str:
    whole, fraction = divmod(time, 10**9)
    return f"{whole}.{f'{fraction:09}'[:digits]}"


def perf_script(
    events: Sequence[Event], names: Names, *, digits: int = 9, short: bool = False, pids: bool = False
) -> str:
    """As ``perf script`` prints them: the fields as the kernel does, or (`short`) as its plug-ins do."""
    lines = []
    for kind, time, cpu, thread, *rest in events:
        head = f"{name_of(thread, cpu, names).partition('/')[0]:>16} {thread:>5}"
        head += f"/{thread:<5}" if pids else ""
        head += f" [{cpu:03}] {seconds(time, digits)}: "
        if kind == "switch":
            state, new = rest
            old_name, new_name = name_of(thread, cpu, names), name_of(new, cpu, names)
            if short:
                fields = f"{old_name}:{thread} [120] {state} ==> {new_name}:{new} [120]"
            else:
                fields = f"prev_comm={old_name} prev_pid={thread} prev_prio=120 prev_state={state} ==> "
                fields += f"next_comm={new_name} next_pid={new} next_prio=120"
            lines.append(f"{head}      sched:sched_switch: {fields}")
        else:
            (woken,) = rest
            fields = (
                f"{names[woken]}:{woken} [120] success=1 CPU:000"
                if short
                else f"comm={names[woken]} pid={woken} prio=120 target_cpu=000"
            )
            lines.append(f"{head}      sched:sched_waking: {fields}")
    return "\n".join(lines) + "\n"


def ftrace(events: Sequence[Event], names: Names, flags: str = "d..2.") -> str:
    """As the kernel's ``trace`` file has them."""
    lines = ["# tracer: nop", "#", "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION"]
    for kind, time, cpu, thread, *rest in events:
        who = names[thread] if thread else "<idle>"
        head = f"{who:>16}-{thread:<7} [{cpu:03}] {flags} {seconds(time, 6)}: "
        if kind == "switch":
            state, new = rest
            lines.append(
                f"{head}sched_switch: prev_comm={name_of(thread, cpu, names)} prev_pid={thread} "
                f"prev_prio=120 prev_state={state} ==> "
                f"next_comm={name_of(new, cpu, names)} next_pid={new} next_prio=120"
            )
        else:
            what = f"comm={names[rest[0]]} pid={rest[0]} prio=120 target_cpu=000"
            lines += [f"{head}sched_waking: {what}", f"{head}sched_wakeup: {what}"]
    return "\n".join(lines) + "\n"


def perf_json(events: Sequence[Event], names: Names) -> str:
    """As ``perf data convert --to-json`` writes them: a key may be there twice."""
    samples = []
    for kind, time, cpu, thread, *rest in events:
        name = name_of(thread, cpu, names)
        pairs: list[tuple[str, Any]] = [
            ("timestamp", time), ("pid", thread), ("tid", thread), ("cpu", cpu), ("comm", name),
            ("callchain", [{"ip": "0xffffffff813ad48a", "symbol": "a } in a name", "dso": "[kernel]"}]),
        ]  # fmt: skip
        if kind == "switch":
            state, new = rest
            bits = {"R": "0", "R+": "256", "S": "1", "D": "0x2", "Z": "32"}
            pairs += [
                ("prev_comm", name), ("prev_pid", str(thread)), ("prev_prio", "120"),
                ("prev_state", bits[state]), ("next_comm", name_of(new, cpu, names)),
                ("next_pid", str(new)), ("next_prio", "120"),
            ]  # fmt: skip
        else:
            pairs += [("comm", names[rest[0]]), ("pid", str(rest[0])), ("prio", "120"), ("target_cpu", "0")]
        fields = ",\n\t\t\t".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs)
        samples.append(f"\n\t\t{{\n\t\t\t{fields}\n\t\t}}")
    head = '{\n\t"linux-perf-json-version": 1,\n\t"headers": {\n\t\t"cmdline": [\n\t\t\t"perf"]\n\t},'
    return f'{head}\n\t"samples": [{",".join(samples)}\n\t]\n}}\n'


def timehist(
    events: Sequence[Event],
    names: Names,
    *,
    state: bool = False,
    wakeups: bool = False,
    prio: bool = False,
    next: bool = False,
    summary: bool = False,
) -> str:
    """As ``perf sched timehist`` prints them; its arithmetic is done here by itself."""
    since: dict[int, int] = {}  # the last switch of a processor
    ready: dict[int, int] = {}
    left: dict[int, tuple[int, str]] = {}
    total: dict[int, list[int]] = {}
    columns = (f"{'prio':<8} " if prio else "") + " wait time  sch delay   run time"
    lines = ["Samples of sched_switch event do not have callchains."]
    lines.append(f"{'time':>15}    cpu  {'task name':<30} {columns}{'  state' if state else ''}")
    lines.append(f"{'':>15}         {'[tid/pid]':<30} {'(msec)':>10}")
    lines.append("--------------- ------  ------------------------------  ---------  ---------  ---------")

    def milliseconds(time: int) -> str:
        return f"{time // 10**6:>5}.{time % 10**6 // 1000:03} "

    for kind, time, cpu, thread, *rest in events:
        task = f"{names[thread]}[{thread}]" if thread else "<idle>"
        head = f"{seconds(time, 6):>15} [{cpu:04}]  {task:<30}  "
        if kind == "wake":
            ready.setdefault(rest[0], time)
            if wakeups:
                awakened = f"{names[rest[0]]}[{rest[0]}]"
                head = head.replace("<idle>", "swapper")
                lines.append(f"{head}  {'':9}  {'':9}  {'':9} awakened: {awakened}")
            continue
        ran = time - since[cpu] if cpu in since else 0
        began = since.get(cpu, 0)
        off = delay = 0
        if began and thread:
            delay = began - ready[thread] if thread in ready else 0
            off = began - left[thread][0] if thread in left else 0
        line = (
            head
            + (f"{120:<8} " if prio else "")
            + milliseconds(off)
            + milliseconds(delay)
            + milliseconds(ran)
        )
        line += f" {rest[0] if thread else 'I':>5} " if state else ""
        line += f" next: {name_of(rest[1], cpu, names)}[{rest[1]}]" if next else ""
        lines.append(line)
        if thread:
            total.setdefault(thread, [0, 0])[0] += ran
            total[thread][1] += 1
        left[thread] = time, rest[0]
        ready.pop(thread, None)
        if rest[0].startswith("R"):
            ready[thread] = time
        since[cpu] = time
    if summary:
        lines += ["", "Runtime summary", f"{'comm':>30}  parent   sched-in     run-time    min-run"]
        for number, (thread, (ran, bursts)) in enumerate(total.items()):
            if number == 1:
                lines += ["", "Terminated tasks:"]
            task = f"{names[thread]}[{thread}]"
            lines.append(
                f"{task:>30}       1  {bursts:>9} {milliseconds(ran)}      0.000       0.000   0.00       0"
            )
        lines += ["", "Idle stats:", "    CPU  0 idle for      1.000  msec  ( 10.00%)"]
    return "\n".join(lines) + "\n"


def of_machine(machine: Machine, log: Log) -> tuple[list[Event], dict[int, str]]:
    """What a recorder on the machine would have seen: its switches, and the wake-ups in its watch's log."""
    timeline = Timeline(machine)
    events: list[Event] = []
    wakes = iter([*log.wakes, None])
    wake = next(wakes)
    for switch in timeline.switches:
        while wake is not None and wake.time <= switch.time and wake.thread != switch.old:
            events.append(("wake", wake.time, max(0, wake.processor), wake.waker, wake.thread))
            wake = next(wakes)
        state = "R" if switch.state == READY or not switch.old else "S"
        events.append(("switch", switch.time, switch.processor, switch.old, state, switch.new))
    return events, {thread: name.replace(" ", "_") for thread, name in timeline.names.items()}

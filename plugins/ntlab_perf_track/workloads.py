"""Traces whose durations are known beforehand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs

from ntlab.errors import UserError
from ntlab.machine import Machine
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MILLISECOND, Duration, Share, parse_duration
from ntlab.tracing import event_type

LAB_PERF_TRACK = "Lab-PerfTrack"
START = event_type(LAB_PERF_TRACK, "Start", "scenario$ key")
STOP = event_type(LAB_PERF_TRACK, "Stop", "scenario$ key")
NONE = Share(0.0)
Emit = Callable[[Machine, bool, str, int], None]


def emit(machine: Machine, stop: bool, scenario: str, key: int) -> None:
    """Record the start or the end of a scenario now."""
    event = STOP if stop else START
    trace = machine.tracer.emitter(event)
    if trace is not None:
        trace((machine.engine.now, event.id, machine.tracer.text(scenario), key))


@workload(
    name="synthetic", summary="Starts and ends of scenarios at random times, some of them lost or repeated."
)
class Synthetic:
    """Each instance has a key of its own and a duration that is drawn. It may lose its start or its end, or
    have one of them twice; that is drawn as well. So what must be found is known."""

    scenario: str = option(default="synthetic", help="Name of the scenario, in its records and among all.")
    instances: int = option(default=1000, help="How many instances.", minimum=1)
    interval: Duration = option(
        default=Duration(10 * MILLISECOND),
        help="Mean time from one start to the next, exponential.",
        minimum=1,
    )
    latency: Literal["exponential", "uniform", "fixed"] = option(
        default="exponential", help="How durations are distributed."
    )
    mean: Duration = option(
        default=Duration(25 * MILLISECOND), help="How long one takes on average.", minimum=1
    )
    lost_ends: Share = option(default=NONE, help="Part of the instances whose end is lost.")
    lost_starts: Share = option(default=NONE, help="Part of the instances whose start is lost.")
    repeated: Share = option(default=NONE, help="Part of the instances whose start and end come twice.")

    _known: list[int] = state(list)  # durations, in the order in which they end
    _lost: int = state(int)
    _flagged: int = state(int)

    def start(self, machine: Machine) -> None:
        if (parts := self.lost_ends + self.lost_starts + self.repeated) > 1:
            raise UserError(
                f"{parts:.0%} of the instances lose their start or end, or repeat them",
                where="perf_track.synthetic",
                expected="100 % at most",
            )
        stream = machine.streams.stream("perf_track", "synthetic")
        ended: list[tuple[int, int]] = []
        now = 0
        for key in range(self.instances):
            now += round(stream.expovariate(1 / self.interval))
            took = self._duration(stream)
            end = now + took
            fate = stream.random()
            moments = [(now, False), (end, True)]
            if fate < self.lost_ends:
                self._lost += 1
                del moments[1]
            elif fate < self.lost_ends + self.lost_starts:
                self._flagged += 1
                del moments[0]
            else:
                ended.append((end, took))
                if fate < self.lost_ends + self.lost_starts + self.repeated:
                    self._flagged += 2
                    moments[1:1] = [(now + took // 2, False)]
                    moments.append((end + took, True))
            for at, stop in moments:
                machine.engine.at(at, self._emitter(machine, stop), key)
        self._known = [took for _, took in sorted(ended)]

    def _duration(self, stream: random.Random) -> int:
        if self.latency == "fixed":
            return self.mean
        if self.latency == "uniform":
            return stream.randrange(1, 2 * self.mean)
        return 1 + round(stream.expovariate(1 / self.mean))

    def _emitter(self, machine: Machine, stop: bool) -> Callable[[Any], None]:
        return lambda key: emit(machine, stop, self.scenario, key)

    def measure(self, machine: Machine) -> Iterator[Metric]:
        """`wrong`: how many durations, timeouts and flags differ from what is known."""
        from ntlab_perf_track.plugin import PerfTrack

        trackers = [plugin for plugin in machine.plugins if isinstance(plugin, PerfTrack)]
        mine = [
            each for one in trackers for each in one.outcomes(machine) if each.scenario.name == self.scenario
        ]
        durations = sorted(mine[0].durations) if mine else []
        timeouts, flagged = (mine[0].timeouts, sum(mine[0].flags.values())) if mine else (0, 0)
        known = sorted(self._known)
        wrong = abs(len(known) - len(durations)) + sum(a != b for a, b in zip(known, durations, strict=False))
        yield Metric("wrong", wrong + abs(timeouts - self._lost) + abs(flagged - self._flagged))
        yield Metric("known", len(known) + self._lost + self._flagged)


TRACES = Path(__file__).parent / "traces"
SUFFIX = ".trace"


@attrs.frozen
class Line:
    """A line of a trace file."""

    time: int
    scenario: str
    stop: bool
    key: int


def read_trace(name: str) -> list[Line]:
    """The lines ``TIME UNIT SCENARIO start|stop KEY`` of a shipped trace, or of a file. Raises UserError."""
    path = TRACES / f"{name}{SUFFIX}"
    if not path.exists():
        path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        names = sorted(file.name.removesuffix(SUFFIX) for file in TRACES.glob(f"*{SUFFIX}"))
        raise UserError(
            f"cannot be read: {error.strerror}", where=name, expected=f"a file, or one of: {', '.join(names)}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text: {error.reason}", where=name) from None
    lines: list[Line] = []
    for number, written in enumerate(text.splitlines(), 1):
        words = written.partition("#")[0].split()
        if not words:
            continue
        where = f"{name}: line {number}"
        expected = "TIME UNIT SCENARIO start|stop KEY, as in '12.5 ms menu start 7'"
        if len(words) != 5 or words[3] not in ("start", "stop") or not words[4].isdecimal():
            raise UserError(f"{written.strip()!r}", where=where, expected=expected)
        try:
            time = parse_duration(f"{words[0]} {words[1]}")
        except ValueError as error:
            raise UserError(str(error), where=where) from None
        if lines and time < lines[-1].time:
            raise UserError(f"the clock goes back, from {lines[-1].time} to {time} ns", where=where)
        if time < 0 or int(words[4]) >= 1 << 63:
            raise UserError(f"{written.strip()!r}", where=where, expected=expected)
        lines.append(Line(time, words[2], words[3] == "stop", int(words[4])))
    return lines


@workload(name="replay", summary="Starts and ends of scenarios as a file has them.")
class Replay:
    """The records are Lab-PerfTrack's Start and Stop, with the fields `scenario` and `key`."""

    file: str = option(default="example", help="Name of a trace that is shipped, or a file.")

    _lines: int = state(int)

    def start(self, machine: Machine) -> None:
        lines = read_trace(self.file)
        self._lines = len(lines)
        for line in lines:
            machine.engine.at(line.time, lambda each: emit(machine, each.stop, each.scenario, each.key), line)

    def measure(self, machine: Machine) -> Iterator[Metric]:
        yield Metric("records", self._lines)

"""Graphs of tasks: read, drawn, and looked at: what bounds a boot, and by what path."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs

from ntlab import read_options
from ntlab.errors import UserError
from ntlab.machine import Startup, Task
from ntlab.quantities import Duration

SHIPPED = Path(__file__).parent / "graphs"
SUFFIX = ".toml"


@attrs.frozen(kw_only=True)
class GraphFile:
    """A file of tasks: ``[[tasks]]`` tables with the keys of `Task`."""

    title: str = ""
    tasks: tuple[Task, ...]


def read_graph(name: str) -> tuple[tuple[Task, ...], str]:
    """The tasks of a shipped graph, or of a file, and where they are from. Raises UserError."""
    path = SHIPPED / f"{name}{SUFFIX}"
    if not path.exists():
        path = Path(name)
        if not path.exists():
            names = sorted(file.name.removesuffix(SUFFIX) for file in SHIPPED.glob(f"*{SUFFIX}"))
            raise UserError(
                f"there is no graph {name!r}",
                where="workload.graph",
                expected=f"a file, or one of: {', '.join(names)}",
            )
    return read_options(path, GraphFile).tasks, str(path)


def _networkx() -> Any:
    """networkx, which is imported when it is needed, and has no types."""
    import networkx

    return networkx


def levels(tasks: Sequence[Task], own_time: Mapping[str, int]) -> dict[str, int]:
    """For each task, the longest way from its start to the end of the boot, ns."""
    nx = _networkx()
    graph = nx.DiGraph()
    graph.add_nodes_from(task.name for task in tasks)
    graph.add_edges_from((need, task.name) for task in tasks for need in task.needs)
    found: dict[str, int] = {}
    for name in reversed(list(nx.topological_sort(graph))):
        found[name] = own_time[name] + max((found[after] for after in graph.successors(name)), default=0)
    return found


@attrs.frozen
class Bounds:
    """What a boot could not fall below, given what its tasks did, and what it could not exceed if nothing
    waited without need, ns.

    `path` is the critical path, `length` how long that takes by itself; `slack` what each task may take
    longer before the critical path does. `work` is what processors did, `disk` what the disk did.

    For tasks that only compute these are Graham's and Brent's bounds: max(T1/P, Tinf) and
    T1/P + Tinf (1 - 1/P). A disk that serves c requests at a time is another kind of processor. At each
    instant at which no task of some path is getting on, one of them waits for processors, which then are all
    busy, or for the disk, which is; or an interrupt keeps it from running.
    """

    path: tuple[str, ...]
    length: int
    slack: dict[str, int]
    work: int
    disk: int
    lower: int
    upper: int


def bounds(startup: Startup) -> Bounds:
    """The bounds of a boot that is over."""
    nx = _networkx()
    machine = startup.machine
    processors = startup.processors.bit_count()
    channels = startup.disk.model.channels
    graph = nx.DiGraph()
    for name, run in startup.runs.items():
        own = run.longest * Fraction(processors - 1, processors)
        own += run.disk_time * Fraction(channels - 1, channels) + run.task.wait
        graph.add_node(name, own=run.own_time, waits_for_none=own)
        graph.add_edges_from((need, name) for need in run.task.needs)
    earliest: dict[str, int] = {}
    longest: dict[str, Fraction] = {}
    order = list(nx.topological_sort(graph))
    for name in order:
        node = graph.nodes[name]
        before = list(graph.predecessors(name))
        earliest[name] = node["own"] + max((earliest[need] for need in before), default=0)
        longest[name] = node["waits_for_none"] + max((longest[need] for need in before), default=Fraction(0))
    length = max(earliest.values(), default=0)
    latest: dict[str, int] = {}
    for name in reversed(order):
        latest[name] = min(
            (latest[after] - graph.nodes[after]["own"] for after in graph.successors(name)), default=length
        )
    slack = {name: latest[name] - earliest[name] for name in startup.runs}
    weighted = nx.DiGraph()
    weighted.add_nodes_from(("", *graph))
    for name in order:
        own = graph.nodes[name]["own"]
        weighted.add_edges_from(((need, name) for need in graph.predecessors(name)), weight=own)
        weighted.add_edge("", name, weight=own)
    path = tuple(nx.dag_longest_path(weighted)[1:])
    work = sum(run.cpu_time for run in startup.runs.values())
    disk = sum(run.disk_time for run in startup.runs.values())
    interrupts = sum(p.interrupt_time + p.dpc_time for p in machine.processors)
    least = max(Fraction(work, processors), Fraction(disk, channels), Fraction(length))
    most = (
        Fraction(work, processors) + Fraction(disk, channels) + max(longest.values(), default=0) + interrupts
    )
    return Bounds(path, length, slack, work, disk, -(-least.numerator // least.denominator), int(most))


def random_graph(
    stream: random.Random, *, count: int, total: int, longest: int, step: int, where: str
) -> tuple[Task, ...]:
    """`count` tasks that compute for `total` ns together, the longest path of which takes `longest` ns.

    All times are multiples of `step`. Each task is given a place in time, a chain of them fills `longest`
    without a gap, and a task needs some of those that are over when it begins. Raises UserError for figures
    that no graph has.
    """
    units, path = total // step, longest // step
    chain = max(1, min(count // 5, path))
    others = count - chain
    possible = others * path >= units - path >= others
    if total % step or longest % step or not possible:
        raise UserError(
            f"no graph of {count} tasks takes {total} ns in all and {longest} ns on its longest path",
            where=where,
            expected=f"multiples of {step} ns, {longest} ns to {others + 1} times that in all",
        )
    places: list[tuple[int, int, bool]] = []
    at = 0
    for length in _spread(stream, path, chain, path):
        places.append((at, length, True))
        at += length
    places += [
        (stream.randrange(path - length + 1), length, False)
        for length in _spread(stream, units - path, others, path)
    ]
    places.sort()
    names = [f"task {number}" for number in range(1, count + 1)]
    tasks = []
    for number, (start, length, critical) in enumerate(places):
        over = [i for i, (begin, took, _) in enumerate(places) if begin + took <= start]
        needs = set(stream.sample(over, min(len(over), stream.randrange(4))))
        if critical and start:
            needs.add(next(i for i in over if places[i][2] and sum(places[i][:2]) == start))
        tasks.append(
            Task(
                name=names[number],
                kind="driver",
                needs=tuple(names[i] for i in sorted(needs)),
                cpu=Duration(length * step),
            )
        )
    return tuple(tasks)


def _spread(stream: random.Random, units: int, count: int, most: int) -> list[int]:
    """`units` in `count` parts of 1 to `most` each."""
    parts = [1] * count
    room = list(range(count)) if most > 1 else []
    for _ in range(units - count):
        at = stream.randrange(len(room))
        parts[room[at]] += 1
        if parts[room[at]] == most:
            room[at] = room[-1]
            room.pop()
    return parts

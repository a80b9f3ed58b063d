"""Threads that reference pages which went to a standby list on another node."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal

from ntlab.errors import UserError
from ntlab.machine import Machine, Region, Request, Tally, Thread, Touch
from ntlab.plugin import Metric, option, state, workload

OWNER = "standby_migration.references"


class _Turns:
    """Threads that go one at a time, round after round, each on its own turns."""

    def __init__(self) -> None:
        self.now = 0
        self.waiting: dict[int, Thread] = {}

    def end(self, machine: Machine) -> None:
        self.now += 1
        thread = self.waiting.pop(self.now, None)
        if thread is not None:
            machine.engine.soon(machine.scheduler.wake, thread)


class _Turn(Request):
    """Wait for a turn."""

    __slots__ = ("number", "turns")

    def __init__(self, turns: _Turns, number: int) -> None:
        self.turns = turns
        self.number = number

    def perform(self, thread: Thread) -> int | None:
        if self.turns.now == self.number:
            return 0
        self.turns.waiting[self.number] = thread
        return None


@workload(
    name="references",
    summary="Threads reference pages that went to a standby list on another node.",
)
class References:
    """Each process has pages on a node that is not its threads' ideal one, as if somebody else had read them.

    Before each round they are trimmed: nobody has changed them, so they go to the standby list. Then a
    thread of the process references all of them, each so many times.
    """

    processes: int = option(default=2, help="How many processes, each with pages of its own.", minimum=1)
    pages: int = option(default=64, help="Pages of each process.", minimum=1)
    accesses: int = option(
        default=64, help="Cache lines of each page that come from memory in a round.", minimum=1
    )
    rounds: int = option(default=1, help="How often the pages are trimmed and referenced.", minimum=1)
    sharers: int = option(
        default=1,
        help="Threads of each process, with ideal processors on different nodes, that take turns.",
        minimum=1,
    )
    distance: Literal["near", "far"] = option(
        default="near",
        help="Where the pages are at first: on the node nearest to the first thread's, or farthest from it.",
    )

    _tally: Tally = state(Tally)
    _time: list[int] = state(list)

    def start(self, machine: Machine) -> None:
        tables = machine.tables
        homes = [node for node, processors in enumerate(tables.node_processors) if processors]
        for number in range(self.processes):
            process = machine.create_process(f"references.{number}")
            space = machine.memory.space(process)
            region = space.allocate(self.pages)
            home = homes[number * self.sharers % len(homes)]
            others = [node for node in tables.nearest[home] if machine.memory.nodes[node].installed]
            where = others[min(1, len(others) - 1)] if self.distance == "near" else others[-1]
            if region is None or machine.memory.populate(region, where) < self.pages:
                raise UserError(
                    "the machine's memory is full", where=OWNER, expected=f"{self.pages} pages a process"
                )
            turns = _Turns()
            for sharer in range(self.sharers):
                node = homes[(number * self.sharers + sharer) % len(homes)]
                place = tables.node_processors[node]
                ideal = place[number * self.sharers // len(homes) % len(place)]
                machine.create_thread(process, self._program(machine, region, turns, sharer), ideal=ideal)

    def _program(
        self, machine: Machine, region: Region, turns: _Turns, sharer: int
    ) -> Generator[Request, Any, None]:
        memory, engine = machine.memory, machine.engine
        working_set = region.space.working_set
        for turn in range(sharer, self.rounds * self.sharers, self.sharers):
            yield _Turn(turns, turn)
            memory.trim(working_set, [each for each in region.extents() if each.list is working_set])
            began = engine.now
            yield Touch(region, accesses=self.accesses, tally=self._tally)
            self._time.append(engine.now - began)
            turns.end(machine)

    def measure(self, machine: Machine) -> list[Metric]:
        references = len(self._time) * self.pages
        return [
            Metric("time", sum(self._time) / (references or 1), "ns"),
            Metric("remote_share", self._tally.remote_share),
            Metric("migrated", machine.memory.migrated / (references or 1)),
        ]

"""Threads that are away from home now and then while they allocate, and use their memory at home."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal

from ntlab.errors import UserError
from ntlab.machine import (
    Allocate,
    Machine,
    Region,
    Request,
    RunOn,
    SetIdealProcessor,
    Tally,
    Thread,
    Touch,
)
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import Share

OWNER = "numa_home.wanderers"
SAME_DISTANCE = 1.05
"""Latencies that differ by less than this factor count as one distance."""


@workload(
    name="wanderers",
    summary="Threads that are away from their ideal node now and then while they allocate.",
)
class Wanderers:
    """Each thread allocates its memory in bursts, and accesses each burst from its ideal node.

    At each burst it is away with probability `away`: on a processor of another node, for as long as the
    allocation takes. All arms draw the same numbers, so whoever is away at 5 % is away at 20 % too.
    """

    threads: int = option(default=0, help="How many threads; 0 is one for each processor.", minimum=0)
    away: Share = option(default=Share(0.2), help="Probability that a thread is away when it allocates.")
    bursts: int = option(default=20, help="How often each thread allocates.", minimum=1)
    burst: int = option(default=64, help="Pages allocated at a time.", minimum=1)
    passes: int = option(default=1, help="How often each burst is accessed.", minimum=1)
    moved: Literal["for_a_while", "for_good", "with_ideal"] = option(
        default="for_a_while",
        help="Threads are away by chance and return; or all are moved at first, perhaps their ideal one too.",
    )
    starved: Share = option(
        default=Share(1.0),
        help="On one node in `starve_every`: the part of what its threads need that its memory can hold.",
    )
    starve_every: int = option(default=4, help="One in so many nodes is starved.", minimum=1)
    headroom: float = option(
        default=1.3,
        help="If a node is starved: what the memory of the others can hold, as a multiple of their need.",
        minimum=1,
    )

    _tally: Tally = state(Tally)
    _homes: list[tuple[int, Region]] = state(list)

    def start(self, machine: Machine) -> None:
        process = machine.create_process("wanderers")
        threads: list[Thread] = []
        for number in range(self.threads or process.affinity.bit_count()):
            program = self._program(machine, number, threads)
            threads.append(machine.create_thread(process, program))
        if self.starved < 1:
            self._starve(machine, threads)

    def _program(self, machine: Machine, number: int, threads: list[Thread]) -> Generator[Request, Any, None]:
        thread = threads[number]
        tables = machine.tables
        home = tables.node_of[thread.ideal]
        masks = [mask & thread.affinity for mask in tables.node_mask]
        at_home = masks[home]
        others = [mask for node, mask in enumerate(masks) if mask and node != home] or [at_home]
        stream = machine.streams.stream(OWNER, f"thread {number}")
        if self.moved != "for_a_while":
            at_home = stream.choice(others)
        if self.moved == "with_ideal":
            there = [index for index in range(tables.processors) if at_home >> index & 1]
            ideal = there[thread.ideal % len(there)]
            yield SetIdealProcessor(ideal)
            home = tables.node_of[ideal]
        for _ in range(self.bursts):
            # Both are drawn whatever comes of it, so that arms that differ in `away` share their draws.
            chance, elsewhere = stream.random(), stream.choice(others)
            away = self.moved == "for_a_while" and chance < self.away
            yield RunOn(elsewhere if away else at_home)
            region = yield Allocate(self.burst)
            if region is None or (yield Touch(region, write=True, accesses=0)) is not None:
                needed = len(threads) * self.bursts * self.burst
                raise UserError("the machine's memory is full", where=OWNER, expected=f"{needed} pages")
            yield RunOn(at_home)
            self._homes.append((home, region))
            for _ in range(self.passes):
                yield Touch(region, tally=self._tally)

    def _starve(self, machine: Machine, threads: list[Thread]) -> None:
        """Fill the nodes with other memory until what is left is what the options say."""
        memory = machine.memory
        need = [0] * machine.tables.nodes
        for thread in threads:
            need[machine.tables.node_of[thread.ideal]] += self.bursts * self.burst
        left = [
            int(pages * (self.starved if node % self.starve_every == 0 else self.headroom))
            for node, pages in enumerate(need)
        ]
        if sum(left) < sum(need):
            raise UserError(
                f"the nodes that are not starved cannot hold the rest of {sum(need)} pages",
                where=f"{OWNER}: headroom",
                expected="more than that, or fewer starved nodes",
            )
        space = memory.space(machine.create_process("ballast"))
        for node in memory.nodes:
            ballast = node.available - left[node.index]
            if ballast > 0:
                region = space.allocate(ballast)
                assert region is not None
                memory.populate(region, node.index)

    # -- what is measured ----------------------------------------------------------------------------------

    def measure(self, machine: Machine) -> list[Metric]:
        latency = machine.tables.latency
        shares = {"local": 0, "near": 0, "far": 0}
        for (source, target), count in self._tally.accesses.items():
            shares[_distance(latency[source], source, target)] += count
        total = self._tally.total or 1
        stranded = extra = pages = 0
        for home, region in self._homes:
            for node, count in region.pages_by_node().items():
                pages += count
                if node != home:
                    stranded += count
                    extra += count * (latency[home][node] - latency[home][home])
        return [
            Metric("remote_share", self._tally.remote_share),
            Metric("latency", self._tally.mean_latency, "ns"),
            *(Metric(f"{name}_share", count / total) for name, count in shares.items()),
            Metric("stranded_share", stranded / (pages or 1)),
            Metric("fallback_distance", extra / (stranded or 1), "ns"),
        ]


def _distance(row: tuple[int, ...], source: int, target: int) -> str:
    """Whether a node is local, among the nearest of the others, or farther."""
    if source == target:
        return "local"
    nearest = min(row[node] for node in range(len(row)) if node != source)
    return "near" if row[target] < nearest * SAME_DISTANCE else "far"

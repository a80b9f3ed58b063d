"""Processes with many threads, which know of processor groups or do not."""

from __future__ import annotations

from collections.abc import Iterator

from ntlab.errors import UserError
from ntlab.machine import Compute, Machine, Request, SetThreadGroupAffinity
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MILLISECOND, Duration
from ntlab.topology import members

BURST = 10 * MILLISECOND


@workload(name="hogs", summary="Processes of many threads that compute.")
class Hogs:
    """Process i has `threads[i]` threads. Where they know of groups, they spread themselves over them."""

    threads: tuple[int, ...] = option(default=(4, 4), help="Threads of each process.")
    aware: bool = option(
        default=False, help="Whether the threads of a process move to all groups, one after the other."
    )
    work: Duration = option(
        default=Duration(0), help="Work of a thread, which then ends; 0: they never end.", minimum=0
    )

    _started: list[int] = state(list)  # the group in which each process started
    _ends: list[int] = state(list)

    def start(self, machine: Machine) -> None:
        if not self.threads or min(self.threads) < 1:
            raise UserError(
                f"processes of {list(self.threads)} threads",
                where="processor_groups.hogs.threads",
                expected="one process at least, each with a thread at least",
            )
        for number, threads in enumerate(self.threads):
            process = machine.create_process(f"hogs{number}")
            groups = machine.groups.spanned(process.affinity)
            self._started += groups or [0]
            for k in range(threads):
                machine.create_thread(process, self._program(machine, k))

    def _program(self, machine: Machine, k: int) -> Iterator[Request]:
        groups = len(machine.groups.masks)
        if self.aware and groups > 1:
            places = members(machine.groups.processors(k % groups))
            yield SetThreadGroupAffinity(k % groups, ideal=places[k // groups % len(places)])
        if self.work:
            yield Compute(self.work)
            self._ends.append(machine.engine.now)
        while not self.work:
            yield Compute(BURST)

    def measure(self, machine: Machine) -> list[Metric]:
        """`used` processors; `throughput`, how many were busy; `imbalance`, the busiest group's load over the
        mean; how many processes started in the group with the most and with the least; `makespan`."""
        now = machine.engine.now
        if self.work and len(self._ends) < sum(self.threads):
            raise UserError(
                f"{len(self._ends)} of {sum(self.threads)} threads have ended",
                where="duration",
                expected="a longer one",
            )
        busy = [p.busy_time + (now - p.busy_since if p.thread is not None else 0) for p in machine.processors]
        masks = machine.groups.masks or (machine.scheduler.all_mask,)
        loads = [sum(busy[i] for i in members(mask)) / (mask.bit_count() * now) for mask in masks]
        started = [self._started.count(group) for group in range(len(masks))]
        metrics = [
            Metric("used", sum(map(bool, busy))),
            Metric("throughput", sum(busy) / now),
            Metric("imbalance", max(loads) * len(loads) / sum(loads)),
            Metric("most_processes", max(started)),
            Metric("fewest_processes", min(started)),
        ]
        if self.work:
            metrics.append(Metric("makespan", max(self._ends), "ns"))
        return metrics

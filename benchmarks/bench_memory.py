"""What memory costs to simulate: extents handled a second, and a terabyte made active.

    python benchmarks/bench_memory.py

Medians of five runs; the memory is what the process grew by at its peak.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

from ntlab.machine import Machine, Region
from ntlab.topology import load

RUNS = 5
BURSTS = 20_000
PAGES = 16  # 64 KiB


def booted() -> Machine:
    return Machine(load("demo-256").freeze()).boot()


def region_of(machine: Machine, pages: int) -> Region:
    region = machine.memory.space(machine.create_process("benchmark")).allocate(pages)
    assert region is not None
    return region


def scattered() -> int:
    """Allocate bursts out of order, so that they do not join, then trim each and take it back."""
    machine = booted()
    memory = machine.memory
    region = region_of(machine, BURSTS * PAGES)
    for number in range(BURSTS):
        page = region.first + number * 7919 % BURSTS * PAGES
        memory.allocate(region, page, page + PAGES, number % 16)
    extents = region.extents()
    memory.trim(region.space, extents)
    for extent in extents:
        memory.activate(extent)
    return 3 * BURSTS


def sequential() -> int:
    """Allocate bursts in order: each joins the one before."""
    machine = booted()
    memory = machine.memory
    region = region_of(machine, BURSTS * PAGES)
    for page in range(region.first, region.stop, PAGES):
        extents, _ = memory.allocate(region, page, page + PAGES, 0)
        memory.merge(extents[0])
    return BURSTS


def terabyte() -> int:
    """Make all of 1 TB active, 2 MiB at a time, in one process for each node."""
    machine = booted()
    memory = machine.memory
    for node in memory.nodes:
        region = region_of(machine, node.installed)
        for page in range(region.first, region.stop, 512):
            memory.allocate(region, page, min(page + 512, region.stop), node.index)
    assert memory.available == 0
    return memory.installed // 512


def measure(what: Callable[[], int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    operations = 0
    for _ in range(RUNS):
        start = time.perf_counter()
        operations = what()
        times.append(time.perf_counter() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    median = statistics.median(times)
    print(
        f"{what.__name__:10}  {operations:7}  {median:6.3f} s  {operations / median:9.0f}/s  +{grown:.0f} MB"
    )


if __name__ == "__main__":
    start = time.perf_counter()
    booted()
    print(f"boot of 256 processors, 16 nodes, 1 TB: {time.perf_counter() - start:.3f} s with imports")
    for each in (scattered, sequential, terabyte):
        measure(each)

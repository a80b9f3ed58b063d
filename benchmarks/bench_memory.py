"""What memory costs to simulate: extents handled a second, a terabyte made active, and a terabyte that pages.

    python benchmarks/bench_memory.py [--check]

By CPU time, medians of five rounds; each measure in a process of its own, whose peak of memory is told.
`--check` exits 1 where the last one, `paging`, is below 100,000 extent operations a second or above 300 MB.

An extent is a run of pages that are alike. An *extent operation* is one of these things done to one extent,
for which the accounts of node, list and address space are brought up to date: it is made (its pages come in,
or it is cut off another one), it goes (its pages are given to somebody else, or it is joined to another one),
it changes its state (trimmed, taken back from a list, its write begun or ended, its read ended), or it goes
to another node. What a look of the balance set manager does to each page is not counted, but takes time here.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from ntlab.machine import Machine, Region, Request, SetIdealProcessor, Sleep, Touch
from ntlab.machine.memory import Memory
from ntlab.machine.spaces import AddressSpace
from ntlab.quantities import GIB, MIB, MILLISECOND, Size
from ntlab.topology import load
from ntlab_paging_writes import PagingWrites
from ntlab_standby_migration import StandbyMigration
from ntlab_ws2003 import Ws2003

RUNS = 5
BURSTS = 20_000
PAGES = 16  # 64 KiB
SLOWEST = 100_000  # extent operations a second
LARGEST = 300  # MB


def booted() -> Machine:
    return Machine(load("demo-256").freeze()).boot()


def region_of(machine: Machine, pages: int) -> Region:
    region = machine.memory.space(machine.create_process("benchmark")).allocate(pages)
    assert region is not None
    return region


def scattered(bursts: int = BURSTS) -> tuple[int, float]:
    """Allocate bursts out of order, so that they do not join, then trim each and take it back."""
    machine = booted()
    memory = machine.memory
    region = region_of(machine, bursts * PAGES)
    start = time.process_time()
    for number in range(bursts):
        page = region.first + number * 7919 % bursts * PAGES
        memory.allocate(region, page, page + PAGES, number % 16)
    extents = region.extents()
    memory.trim(region.space.working_set, extents)
    for extent in extents:
        memory.activate(extent)
    return 3 * bursts, time.process_time() - start


def crowded() -> tuple[int, float]:
    """The same with so many in one address space that whatever is linear in them would tell."""
    return scattered(20 * BURSTS)


def sequential() -> tuple[int, float]:
    """Allocate bursts in order: each joins the one before."""
    machine = booted()
    memory = machine.memory
    region = region_of(machine, BURSTS * PAGES)
    start = time.process_time()
    for page in range(region.first, region.stop, PAGES):
        extents, _ = memory.allocate(region, page, page + PAGES, 0)
        memory.merge(extents[0])
    return 2 * BURSTS, time.process_time() - start


def terabyte() -> tuple[int, float]:
    """Make all of 1 TB active, 2 MiB at a time, in one process for each node."""
    machine = booted()
    memory = machine.memory
    start = time.process_time()
    for node in memory.nodes:
        region = region_of(machine, node.installed)
        for page in range(region.first, region.stop, 512):
            memory.allocate(region, page, min(page + 512, region.stop), node.index)
    assert memory.available == 0
    return memory.installed // 512, time.process_time() - start


# -- a terabyte that pages ----------------------------------------------------------------------------------

LEFT = 131_072  # pages of each node that are not locked: 512 MiB
PIECE = 4  # pages: memory is in pieces of 16 KiB, half a million of them
STRETCH = 256  # pages that a thread touches at a time
TOUCHES = 120  # of each thread


def paging() -> tuple[int, float]:
    """1 TB and 16 nodes, of which all but 8 GiB are locked, as by a database; and 10 GiB that 16 threads use.

    They touch 1 MiB at random, write to a third of it, and have another ideal node after every other one.
    What is trimmed is written by the modified page writer, read again, and moves from node to node.
    """
    plugins = [
        Ws2003(
            paging_file=Size(32 * GIB),
            disk="ssd",
            io_limit_size=Size(MIB),
            ageing="timer",
            balance_available=2 * LEFT,
        ),
        PagingWrites(),
        StandbyMigration(),
    ]
    machine = Machine(load("demo-256").freeze(), plugins, seed=1).boot()
    memory = machine.memory
    for node in memory.nodes:
        assert machine.sections.nonpaged(node.available - LEFT, node.index) is not None
    random = Random(2)
    for node in memory.nodes:
        region = region_of(machine, LEFT * 5 // 4)
        pieces = list(range(region.first, region.first + LEFT, PIECE))
        random.shuffle(pieces)
        for page in pieces:
            extents, _ = memory.allocate(region, page, page + PIECE, node.index)
            for extent in extents:
                extent.dirty = extent.accessed = True
        ideal = machine.tables.node_processors[node.index][0]
        stream = machine.streams.stream("benchmark", str(node.index))
        machine.create_thread(region.space.process, touches(machine, region, stream), ideal=ideal)
    calls: Counter[str] = Counter()
    count(AddressSpace, calls, "_add", "_remove")
    count(Memory, calls, "move", "migrate")
    gc.freeze()  # as the laboratory does when it runs an experiment
    start = time.process_time()
    machine.run()
    seconds = time.process_time() - start
    assert memory.migrated
    assert memory.hard_faults
    machine.check()
    return calls.total(), seconds


def touches(machine: Machine, region: Region, random: Random) -> Iterator[Request]:
    processors = machine.tables.node_processors
    for number in range(TOUCHES):
        if number % 2:
            yield SetIdealProcessor(random.choice(processors[random.randrange(len(processors))]))
        yield Sleep(150 * MILLISECOND)
        first = random.randrange(region.pages // STRETCH) * STRETCH
        yield Touch(region, first, STRETCH, write=random.random() < 1 / 3, accesses=1)


def count(owner: type, calls: Counter[str], *methods: str) -> None:
    """From now on count how often these methods of a class are called. This takes some of the time."""

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return method(*arguments, **options)

        return call

    for name in methods:
        setattr(owner, name, counted(name))


def alone(measure: Callable[[], tuple[int, float]]) -> tuple[int, float, float]:
    """(operations, CPU seconds, peak of memory in MB) of a measure, in a process of its own."""
    code = f"import json, bench_memory as b; print(json.dumps((*b.{measure.__name__}(), b.peak())))"
    output = subprocess.run([sys.executable, "-c", code], cwd=sys.path[0], stdout=subprocess.PIPE, check=True)
    operations, seconds, megabytes = json.loads(output.stdout)
    return operations, seconds, megabytes


def peak() -> float:
    """The most memory that this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    rate = megabytes = 0.0
    for measure in (scattered, crowded, sequential, terabyte, paging):
        rounds = [alone(measure) for _ in range(RUNS)]
        operations = rounds[0][0]
        seconds = statistics.median(seconds for _, seconds, _ in rounds)
        megabytes = max(most for _, _, most in rounds)
        rate = operations / seconds
        cost = f"{seconds:6.3f} s  {rate:9.0f}/s  {megabytes:.0f} MB"
        print(f"{measure.__name__:10}  {operations:7} operations  {cost}")
    return int(arguments.check and (rate < SLOWEST or megabytes > LARGEST))


if __name__ == "__main__":
    sys.exit(main())

"""Does cost grow with the work, and not with the machine? Prints each measure against its ceiling.

    python benchmarks/scale.py [--check]

By CPU time, medians of rounds in turn. `--check` exits 1 where a ceiling is exceeded.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from statistics import median
from time import process_time

from models_ntlab import SECOND, Rules, processors
from workloads import MS

from ntlab.engine import Engine
from ntlab.machine import Compute, Machine, Request, Sleep
from ntlab.topology import load

ROUNDS = 5
SIZES = (4, 64, 256, 2048)
PENDING = (1_000, 10_000, 100_000, 1_000_000)


def machine_of(size: int, threads: int) -> Machine:
    """Threads of two priorities that compute for 0.1-0.3 ms and sleep for 14 ms."""
    machine = Machine(processors(size), [Rules()]).boot()
    process = machine.create_process("scale")
    for number in range(threads):
        work = Compute(MS // 10 + number % 20 * MS // 100 + number), Sleep(14 * MS + number)
        machine.create_thread(process, cycle(work), priority=8 + 2 * (number % 2))
    return machine


def same_work(size: int) -> float:
    """ns an event where 240 threads, work for 3.2 processors, run on a machine of any size."""
    machine = machine_of(size, 240)
    machine.run(SECOND // 10)
    return cost(machine.engine, SECOND // 2)


def same_load(size: int) -> float:
    """ns an event where each processor has work of its own for 80 % of the time."""
    machine = machine_of(size, 60 * size)
    machine.run(SECOND // 50)
    return cost(machine.engine, SECOND // 50 + max(SECOND // 2 // size, MS // 5))


def pending(events: int) -> float:
    """ns an event with so many pending, at random times."""
    engine = Engine()
    draw = random.Random(1)
    delays = cycle([int(draw.expovariate(1) * SECOND) + 1 for _ in range(65_536)])

    def again(_: object) -> int:
        return next(delays)

    for _ in range(events):
        engine.at(int(draw.random() * SECOND), again)
    engine.run(SECOND // 10)
    return cost(engine, engine.now + SECOND * 100_000 // events)


def cost(engine: Engine, until: int) -> float:
    before = engine.events
    gc.collect()
    start = process_time()
    engine.run(until)
    return (process_time() - start) / (engine.events - before) * 1e9


def terabyte() -> tuple[float, float]:
    """Seconds and MB that it takes to boot 1 TB and to make 512 GB active, 2 MiB at a time."""
    tables = load("demo-256").freeze()
    before = peak()
    start = process_time()
    machine = Machine(tables).boot()
    memory = machine.memory
    for node in memory.nodes[::2]:
        space = memory.space(machine.create_process(f"node{node.index}"))
        region = space.allocate(node.installed)
        assert region is not None
        for page in range(region.first, region.stop, 512):
            memory.allocate(region, page, page + 512, node.index)
    assert memory.available == memory.installed // 2
    return process_time() - start, peak() - before


def finished_threads() -> float:
    """MB by which the process grows while 100,000 to 1,000,000 threads come and end."""
    machine = Machine(processors(64), [Rules()]).boot()
    process = machine.create_process("scale")

    def program() -> Iterator[Request]:
        yield Compute(MS)

    def arrive(_: object) -> int:
        machine.create_thread(process, program())
        return MS // 50

    machine.engine.at(0, arrive)
    machine.run(100_000 * MS // 50)
    before = peak()
    machine.run(1_000_000 * MS // 50)
    assert len(machine.threads) < 100
    return peak() - before


def peak() -> float:
    """The most memory that this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(measure: Callable[[], object]) -> list[float]:
    """What a measure gives in a process of its own: one whose memory nobody has used before."""
    code = f"import json, scale; print(json.dumps(scale.{measure.__name__}()))"
    output = subprocess.run([sys.executable, "-c", code], cwd=sys.path[0], stdout=subprocess.PIPE, check=True)
    answer = json.loads(output.stdout)
    return answer if isinstance(answer, list) else [answer]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    failed = False

    def report(what: str, value: float, ceiling: float | None, unit: str = "") -> None:
        nonlocal failed
        failed |= ceiling is not None and value > ceiling
        verdict = "" if ceiling is None else f"at most {ceiling:g}: {'FAIL' if value > ceiling else 'pass'}"
        print(f"{what:<58}{value:>8.2f} {unit:<3} {verdict}")

    # First, since a process's peak of memory is not below what its parent had.
    seconds, megabytes = map(median, zip(*(alone(terabyte) for _ in range(3)), strict=True))
    report("1 TB, of it 512 GB made active", seconds, 1, "s")
    report("  memory", megabytes, 300, "MB")
    report("growth from 100,000 to 1,000,000 finished threads", alone(finished_threads)[0], 5, "MB")
    for measure, sizes, ceiling, what in (
        (same_work, SIZES, 1.5, "the same work on {} processors"),
        (same_load, SIZES, None, "the same load of each of {} processors"),
        (pending, PENDING, 3.0, "{} events pending"),
    ):
        rounds = [[measure(size) for size in sizes] for _ in range(ROUNDS)]
        medians = [median(times) for times in zip(*rounds, strict=True)]
        for size, time in zip(sizes, medians, strict=True):
            report(what.format(f"{size:,}"), time, None, "ns")
        least = min(medians) if measure is same_work else medians[0]
        report(
            "  most over least" if measure is same_work else "  last over first",
            max(medians) / least,
            ceiling,
        )
    return 1 if arguments.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the scheduling family costs to simulate: 256 processors, 2000 threads, 10 s, with all of it on.

    python benchmarks/bench_scheduling.py [--check]

Sixteen programs, each in a session of its own, have 125 threads that set a dispatcher object, compute for 8
ms on average, post work to the program's thread pool, and wait for about 100 ms by a timer with a
tolerance. Half of the programs know of the four processor groups. On is everything that came to scheduling,
timers, power and services up to Windows Server 2008 R2. `--check` exits 1 above a minute of CPU time.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time
from collections.abc import Iterator
from random import Random
from typing import Any

from ntlab.lab.registry import installed
from ntlab.machine import Compute, Delay, Machine, PostWork, Request, SetThreadGroupAffinity, Thread, Work
from ntlab.quantities import MICROSECOND, MILLISECOND, SECOND, Duration
from ntlab.topology import load
from ntlab.tracing import Tracer
from ntlab_perf_track.scenarios import Scenario

FAMILY = (
    "core_parking",
    "fair_share",
    "perf_track",
    "processor_groups",
    "service_triggers",
    "smt",
    "split_dispatcher_lock",
    "thread_pools",
    "tick_distribution",
    "timer_coalescing",
    "timer_expiration",
    "ws2003",
)
PROGRAMS = 16
THREADS = 125  # of each program
OBJECTS = 4096
SECONDS = 10
LIMIT = 60  # s of CPU time
READY_TO_RUN = Scenario(
    name="ready to run",
    start="Dispatcher/ReadyThread",
    end="Thread/CSwitch",
    key=("tid",),
    end_key=("new_tid",),
    goal=Duration(MILLISECOND),
    stray_ends="ignore",
)


def machine() -> Machine:
    """The machine of the documents, with its programs."""
    registry = installed()
    options: dict[str, dict[str, Any]] = {
        "ws2003": {"power": True, "object_hold": 2 * MICROSECOND},
        "perf_track": {"scenarios": (READY_TO_RUN,)},
    }
    order = registry.order(FAMILY)  # the most basic first
    plugins = [registry.plugin(name).info.cls(**options.get(name, {})) for name in order]
    built = Machine(load("demo-256").freeze(), plugins, seed=1, tracer=Tracer()).boot()
    for number in range(PROGRAMS):
        process = built.create_process(f"program {number}", session=built.create_session(number + 1))
        pool = built.thread_pools.create(process, "pool")
        for thread in range(THREADS):
            random = built.streams.stream("benchmark", f"{number}/{thread}")
            group = thread % 4 if number % 2 else None
            own: list[Thread] = []
            own.append(built.create_thread(process, program(own, random, group, Work(pool, item))))
    return built


def item() -> Iterator[Request]:
    yield Compute(200 * MICROSECOND)


def program(own: list[Thread], random: Random, group: int | None, work: Work) -> Iterator[Request]:
    if group is not None:
        yield SetThreadGroupAffinity(group)
    thread = own[0]
    operate = thread.machine.dispatcher.operate
    while True:
        assert thread.processor is not None
        yield from operate(random.randrange(OBJECTS), thread.processor)
        yield Compute(1 + round(random.expovariate(1 / (8 * MILLISECOND))))
        yield PostWork(work)
        yield Delay(round(random.expovariate(1 / (100 * MILLISECOND))), 50 * MILLISECOND)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    built = machine()
    gc.freeze()  # as the laboratory does when it runs an experiment
    begin, cpu = time.perf_counter(), time.process_time()
    built.run(SECONDS * SECOND)
    built.stop()
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    built.check()
    switches = sum(processor.context_switches for processor in built.processors)
    energy = built.power.energy / 1e12 if built.power is not None else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{SECONDS} s of 256 processors and {PROGRAMS * THREADS} threads: {wall:.1f} s, {cpu:.1f} s of CPU")
    print(f"{built.engine.events:,} events, {switches:,} switches, {energy:,.0f} J, {peak:.0f} MB")
    return int(arguments.check and cpu > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

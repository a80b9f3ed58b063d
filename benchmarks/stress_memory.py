"""A million random operations on memory with faults injected, all accounts compared after every event.

    python benchmarks/stress_memory.py [--operations 1000000] [--jobs 2] [--seed 0]

Exit 1 where anything is broken, with the seed of the machine on which it was. What the operations are, and
what is compared, is in `tests/memory_stress.py`; the test suite does some thousand of them.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from memory_stress import Stress

OPERATIONS = 500
"""Of one machine: then the next one, with other rules."""


def machine(seed: int) -> tuple[int, int, int, float, Counter[str], Counter[str], str]:
    """What one machine did: (seed, events, looks, CPU seconds, operations, what came of them, what broke)."""
    began = time.process_time()
    stress = Stress(seed)
    stress.look_after_every_event()
    broken = ""
    try:
        stress.run(OPERATIONS)
    except Exception:
        broken = traceback.format_exc()
    seconds = time.process_time() - began
    return seed, stress.engine.events, stress.looks, seconds, stress.done, stress.results, broken


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the first machine")
    options = parser.parse_args()
    machines = -(-options.operations // OPERATIONS)
    events, looks, seconds, broken = 0, 0, 0.0, 0
    done: Counter[str] = Counter()
    results: Counter[str] = Counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(machine, options.seed + number) for number in range(machines)]
        for run in as_completed(runs):
            seed, its_events, its_looks, its_seconds, its_done, its_results, what = run.result()
            events += its_events
            looks += its_looks
            seconds += its_seconds
            done += its_done
            results += its_results
            if what:
                broken += 1
                print(f"seed {seed}, operation {its_done.total()}:\n{what}", flush=True)
    print(
        f"{done.total()} operations on {machines} machines, {events} events, accounts compared {looks} times"
    )
    print(f"{seconds:.0f} s of CPU: {done.total() / seconds:.0f} operations a second")
    for title, counts in (("done", done), ("came of it", results)):
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    print(f"{broken} machines broken")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())

"""What a sweep costs beside its runs: `python benchmarks/bench_sweep.py`.

A sweep of N runs in this process, with its store on disk, against the same N calls of `simulate` alone: CPU
time, in turn, medians. The difference is the runner's own: resolving points, the store, bookkeeping. Then the
same sweep again, whose runs are all in the store.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import ntlab
from ntlab.lab.experiment import find_experiment, resolve
from ntlab.lab.registry import installed
from ntlab.lab.runner import jobs_of, simulate
from ntlab.topology import load

EXPERIMENT, DURATION = "fair-share", "1 us"
ROUNDS = 3


def bare(points: int, seeds: int) -> None:
    document, source, plugin = find_experiment(EXPERIMENT, installed())
    experiment = resolve(
        document,
        installed(),
        source=source,
        plugin=plugin,
        seeds=seeds,
        settings={"duration": DURATION},
    )
    tables = load(experiment.hardware).freeze()
    jobs = jobs_of(experiment, "direct")
    for _ in range(points):
        for job in jobs:
            simulate(job, tables)


def swept(points: int, seeds: int, folder: str) -> None:
    ntlab.sweep(
        EXPERIMENT,
        {"duration": [f"{1000 + at} ns" for at in range(points)]},
        seeds=seeds,
        out=folder,
    )


def measured(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    print(f"ntlab {ntlab.__version__}; ms of CPU a run, medians of {ROUNDS}")
    print("points x arms x seeds    runs  simulate    sweep   runner    again")
    for points, seeds in ((1, 100), (100, 1), (300, 1)):
        runs = points * seeds * 3
        times: list[list[float]] = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                work = [partial(bare, points, seeds), *[partial(swept, points, seeds, folder)] * 2]
                times.append([1e3 * measured(one) / runs for one in work])
        alone, whole, again = map(statistics.median, zip(*times, strict=True))
        shape = f"{points} x 3 x {seeds}"
        print(f"{shape:<21} {runs:>7} {alone:9.3f} {whole:8.3f} {whole - alone:8.3f} {again:8.3f}")


if __name__ == "__main__":
    main()

"""Where runs are made: in this process, in others of this computer, or on a Dask cluster.

Every run is a work item of a `concurrent.futures` executor. What it gives does not depend on where and when
it is made, so nothing here can change a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING

import attrs

from ntlab._version import __version__
from ntlab.errors import UserError, warning_line
from ntlab.lab.registry import installed
from ntlab.lab.runner import Job, Run, simulate

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from ntlab.topology import Tables

AHEAD = 4
"""How many work items are submitted for each worker before the first is finished: enough that none waits."""


@attrs.frozen
class _Pool:
    """An executor, how many workers it has, and where they find the hardware."""

    executor: Executor
    workers: int
    place: str


def execute(
    jobs: Iterable[Job], tables: Mapping[str, Tables], processes: int, cluster: str | None = None
) -> Generator[Run]:
    """Make all runs and give each as it is finished, in no particular order.

    `cluster` is the address of a Dask scheduler, whose workers make the runs; otherwise so many processes of
    this computer do, or this one alone. Jobs are taken as they are needed, so a million of them cost no more
    memory than ten. An interrupt (Ctrl-C) ends the other processes at once.
    """
    if cluster is None and processes <= 1:
        for job in jobs:
            yield simulate(job, tables[job.hardware])
        return
    with _cluster(cluster, tables) if cluster is not None else _processes(processes, tables) as pool:
        finished: SimpleQueue[Future[Run]] = SimpleQueue()
        waiting = iter(jobs)
        running = _submit(pool, waiting, pool.workers * AHEAD, finished)
        while running:
            run = finished.get().result()
            running += _submit(pool, waiting, 1, finished) - 1
            yield run


def _submit(pool: _Pool, jobs: Iterator[Job], count: int, finished: SimpleQueue[Future[Run]]) -> int:
    """Submit so many jobs, or what is left of them. Returns how many these were."""
    submitted = 0
    for job in islice(jobs, count):
        with _interrupts_held_back():  # a process may be started for it
            future = pool.executor.submit(_simulate, pool.place, job)
        future.add_done_callback(finished.put)
        submitted += 1
    return submitted


def usable_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# In a worker


_tables: dict[str, Mapping[str, Tables]] = {}
"""The hardware, by place: each one who submits jobs has one."""


def _know(place: str, tables: Mapping[str, Tables]) -> None:
    _tables[place] = tables


def _simulate(place: str, job: Job) -> Run:
    return simulate(job, _tables[place][job.hardware])


# Processes of this computer


@contextlib.contextmanager
def _processes(count: int, tables: Mapping[str, Tables]) -> Iterator[_Pool]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Spawned, not forked: the same on every system, and nothing of this process leaks into a run.
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), initializer=_begin, initargs=("", dict(tables))
    )
    try:
        yield _Pool(executor, count, "")
    except BrokenProcessPool:
        raise UserError(
            "a worker process died; is memory short, or does your script start work while it is imported?",
            where="--jobs",
            expected="fewer jobs, or the script's work below if __name__ == '__main__'",
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(place: str, tables: Mapping[str, Tables]) -> None:
    _know(place, tables)
    warnings.formatwarning = warning_line
    # An interrupt from the keyboard reaches all processes; the first one tells the others what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed tells nobody, and a worker would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C; this one sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# A Dask cluster


@contextlib.contextmanager
def _cluster(address: str, tables: Mapping[str, Tables]) -> Iterator[_Pool]:
    """The workers of a Dask scheduler. They must have the same ntlab and plugins as are installed here."""
    try:
        from distributed import Client, WorkerPlugin
    except ImportError:
        raise UserError(
            "Dask is not installed", where="--cluster", expected="pip install 'ntlab[cluster]'"
        ) from None
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{address!r}: no Dask scheduler answers: {error}", where="--cluster") from None
    place = hashlib.sha256(pickle.dumps(dict(tables))).hexdigest()

    class Hardware(WorkerPlugin):  # type: ignore[misc]
        """Brings the tables to each worker once, also to those that join later."""

        name = f"ntlab-{place}"

        def setup(self, worker: object) -> None:
            from ntlab.lab.workers import _know

            _know(place, tables)

    with client:
        workers = client.nthreads()
        if not workers:
            raise UserError(f"{address!r} has no workers", where="--cluster", expected="at least one")
        here = versions_here()
        for worker, there in client.run(versions_here, on_error="return").items():
            if isinstance(there, BaseException):  # most likely it has no ntlab
                wrong = f"cannot tell its versions: {there}"
            else:
                wrong = ", ".join(
                    f"has {name} {there.get(name, 'missing')} (here {version})"
                    for name, version in here.items()
                    if there.get(name) != version
                )
            if wrong:
                raise UserError(
                    f"the worker {worker} {wrong}", where="--cluster", expected="what is installed here"
                )
        client.register_plugin(Hardware())
        with client.get_executor(pure=False) as executor:
            yield _Pool(executor, sum(workers.values()), place)


def versions_here() -> dict[str, str]:
    """The versions of ntlab and of all plugins."""
    return {"ntlab": __version__, **{plugin.name: plugin.version for plugin in installed().plugins()}}

"""The periodic tasks in SimSo, with its own global EDF. Returns (jobs, seconds of the run, a figure)."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib.metadata import version
from time import process_time

from simso.configuration import Configuration
from simso.core import Model
from workloads import MS, PERIODIC_DURATION, periodic


def edf() -> tuple[int, float, float]:
    configuration = Configuration()
    configuration.cycles_per_ms = MS
    configuration.duration = PERIODIC_DURATION
    for number, task in enumerate(periodic()):
        configuration.add_task(
            name=f"t{number}",
            identifier=number,
            activation_date=task.offset / MS,
            period=task.period / MS,
            deadline=task.period / MS,
            wcet=task.work / MS,
            abort_on_miss=False,
        )
    for number in range(64):
        configuration.add_processor(name=f"p{number}", identifier=number)
    configuration.scheduler_info.clas = "simso.schedulers.EDF"
    model = Model(configuration)
    with redirect_stdout(io.StringIO()):  # it prints each decision
        start = process_time()
        model.run_model()
        elapsed = process_time() - start
    jobs = [job for task in model.task_list for job in task.jobs]
    responses = [job.response_time for job in jobs if job.end_date is not None]
    return len(responses), elapsed, sum(responses) / len(responses)


MODELS = {"edf": edf}
VERSION = f"SimSo {version('simso')}, SimPy {version('simpy')}"

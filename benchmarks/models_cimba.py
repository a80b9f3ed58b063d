"""The five models in cimba, which compiles them. Each returns (units of work, seconds of the run, a figure).

Times are floats there: of milliseconds.
"""

# No `from __future__ import annotations`: cimba reads the annotations of a model.

from functools import cache
from time import process_time
from typing import Any

import cimba
from cimba import inputs
from workloads import MS, delays, interactive

PREEMPTED = -1


class Waiter(cimba.Model):
    delay: cimba.Param[float] = 1.0
    ended: cimba.Output[float]

    @cimba.process
    def wait(self) -> None:
        for _ in range(1000):
            cimba.hold(self.delay)
        self.ended = cimba.now()


class Waiters(cimba.Model):
    waiters: list[Waiter]


class PingPong(cimba.Model):
    here: cimba.Store[int]
    there: cimba.Store[int]
    messages: cimba.Param[int] = 200_000
    sent: cimba.Output[int]

    @cimba.process
    def one(self) -> None:
        self.here.put(0)
        while self.sent < self.messages:
            message = self.here.get()
            self.sent += 1
            self.there.put(message)

    @cimba.process
    def other(self) -> None:
        while self.sent < self.messages:
            message = self.there.get()
            self.sent += 1
            self.here.put(message)


class Customer(cimba.Model):
    servers: cimba.Ref[cimba.Resource]
    waited: cimba.Ref[cimba.Dataset]
    service: cimba.Param[float] = 0.0

    @cimba.process
    def visit(self) -> None:
        arrived = cimba.now()
        self.servers.acquire()
        self.waited.record(cimba.now() - arrived)
        cimba.hold(self.service)
        self.servers.release()


class MM4(cimba.Model):
    servers: cimba.Resource = cimba.Resource(capacity=4)
    waited: cimba.Dataset
    gap: cimba.Input[float] = inputs.dist.exponential(mean=1 / 3.2)
    service: cimba.Input[float] = inputs.dist.exponential(mean=1)
    customers: cimba.Param[int] = 200_000
    mean_wait: cimba.Output[float]

    @cimba.process
    def arrive(self) -> None:
        for _ in range(self.customers):
            cimba.hold(self.gap.next())
            cimba.spawn(Customer, servers=self.servers, waited=self.waited, service=self.service.next())

    @cimba.on_end
    def measure(self) -> None:
        self.mean_wait = self.waited.sample_mean()


class Thread(cimba.Model):
    processors: cimba.Ref[cimba.Resource]
    burst: cimba.Param[float] = 0.0
    wait: cimba.Param[float] = 0.0
    dispatches: cimba.Output[int]
    used: cimba.Output[float]

    @cimba.process
    def run(self) -> None:
        self.used = 0.0
        while True:
            left = self.burst
            while left > 1e-9:
                self.processors.acquire()
                self.dispatches += 1
                turn = min(10.0, left)
                cimba.hold(turn)
                left -= turn
                self.used += turn
                self.processors.release()
                cimba.hold(0.0)  # else it takes the processor again before those who wait for it
            cimba.hold(self.wait)


class PriorityThread(Thread):
    priority: cimba.Param[int] = 0

    @cimba.process
    def run(self) -> None:
        self.used = 0.0
        cimba.this_process().priority_set(self.priority)
        while True:
            left = self.burst
            while left > 1e-9:
                if self.processors.preempt() == 0:
                    self.dispatches += 1
                    began = cimba.now()
                    outcome = cimba.hold(min(10.0, left))
                    ran = cimba.now() - began
                    left -= ran
                    self.used += ran
                    if outcome != PREEMPTED:
                        self.processors.release()
                        cimba.hold(0.0)
            cimba.hold(2.0 * self.wait)


class RoundRobin(cimba.Model):
    processors: cimba.Resource = cimba.Resource(capacity=64)
    threads: list[Thread]


class Preemptive(cimba.Model):
    processors: cimba.Resource = cimba.Resource(capacity=64)
    threads: list[PriorityThread]


@cache
def experiment(name: str) -> cimba.Experiment:
    """The model, compiled: it was run once."""
    it = described(name)
    it.run()
    return it


def described(name: str) -> cimba.Experiment:
    if name == "timeouts":
        model: Any = Waiters()
        model.waiters = [Waiter() for _ in delays()]
        for waiter, delay in zip(model.waiters, delays(), strict=True):
            waiter.delay = delay / MS
        return cimba.Experiment(model)
    if name == "ping_pong":
        return cimba.Experiment(PingPong())
    if name == "m_m_4":
        return cimba.Experiment(MM4(), seed=1)
    preemptive = name == "preemptive"
    model = Preemptive() if preemptive else RoundRobin()
    model.threads = [PriorityThread() if preemptive else Thread() for _ in interactive()]
    for thread, work in zip(model.threads, interactive(), strict=True):
        thread.processors = model.processors
        thread.burst, thread.wait = work.burst / MS, work.wait / MS
        if preemptive:
            thread.priority = int(work.is_interactive)
    return cimba.Experiment(model, window=cimba.Window(duration=2_000 if preemptive else 20_000))


def run(name: str) -> tuple[Any, Any, float]:
    it = experiment(name)
    start = process_time()
    results = it.run()
    return it.model, results, process_time() - start


def timeouts() -> tuple[int, float, float]:
    model, results, seconds = run("timeouts")
    return 1_000_000, seconds, max(results[waiter].ended.values.item() for waiter in model.waiters) / 1e3


def ping_pong() -> tuple[int, float, float]:
    model, results, seconds = run("ping_pong")
    return 200_000, seconds, float(results[model].sent.values.item())


def m_m_4() -> tuple[int, float, float]:
    model, results, seconds = run("m_m_4")
    return 200_000, seconds, results[model].mean_wait.values.item()


def scheduled(name: str) -> tuple[int, float, float]:
    model, results, seconds = run(name)
    pairs = list(zip(interactive(), model.threads, strict=True))
    dispatches = sum(results[thread].dispatches.values.item() for _, thread in pairs)
    used = sum(results[thread].used.values.item() for work, thread in pairs if work.is_interactive)
    return dispatches, seconds, used / 1e3


def round_robin() -> tuple[int, float, float]:
    return scheduled("round_robin")


def preemptive() -> tuple[int, float, float]:
    return scheduled("preemptive")


MODELS = {f.__name__: f for f in (timeouts, ping_pong, m_m_4, round_robin, preemptive)}
VERSION = f"cimba {cimba.__version__}"

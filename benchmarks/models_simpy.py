"""The five models in SimPy. Each returns (units of work, seconds of the run, a figure to compare)."""

from __future__ import annotations

import random
from collections.abc import Generator
from time import process_time
from typing import Any

import simpy
from workloads import MS, Work, delays, interactive


def timeouts() -> tuple[int, float, float]:
    env = simpy.Environment()

    def process(delay: int) -> Generator[Any, Any, None]:
        for _ in range(1000):
            yield env.timeout(delay)

    for delay in delays():
        env.process(process(delay))
    start = process_time()
    env.run()
    return 1_000_000, process_time() - start, env.now / 1e9


def ping_pong(messages: int = 200_000) -> tuple[int, float, float]:
    env = simpy.Environment()
    here, there = simpy.Store(env), simpy.Store(env)
    sent = 0

    def player(mine: simpy.Store, other: simpy.Store) -> Generator[Any, Any, None]:
        nonlocal sent
        while sent < messages:
            message = yield mine.get()
            sent += 1
            yield other.put(message)

    env.process(player(here, there))
    env.process(player(there, here))
    here.put(0)
    start = process_time()
    env.run()
    return messages, process_time() - start, float(sent)


def m_m_4(customers: int = 200_000) -> tuple[int, float, float]:
    env = simpy.Environment()
    servers = simpy.Resource(env, 4)
    draw = random.Random(1)
    waited = 0.0

    def customer() -> Generator[Any, Any, None]:
        nonlocal waited
        arrived = env.now
        with servers.request() as request:
            yield request
            waited += env.now - arrived
            yield env.timeout(draw.expovariate(1.0))

    def source() -> Generator[Any, Any, None]:
        for _ in range(customers):
            yield env.timeout(draw.expovariate(3.2))
            env.process(customer())

    env.process(source())
    start = process_time()
    env.run()
    return customers, process_time() - start, waited / customers


def round_robin(seconds: int = 20) -> tuple[int, float, float]:
    env = simpy.Environment()
    processors = simpy.Resource(env, 64)
    dispatches = 0
    used = 0

    def thread(work: Work) -> Generator[Any, Any, None]:
        nonlocal dispatches, used
        while True:
            left = work.burst
            while left > 0:
                with processors.request() as request:
                    yield request
                    dispatches += 1
                    turn = min(10 * MS, left)
                    yield env.timeout(turn)
                    left -= turn
                    used += turn * work.is_interactive
            yield env.timeout(work.wait)

    for work in interactive():
        env.process(thread(work))
    start = process_time()
    env.run(seconds * 1000 * MS)
    return dispatches, process_time() - start, used / 1e9


def preemptive(seconds: int = 2) -> tuple[int, float, float]:
    env = simpy.Environment()
    processors = simpy.PreemptiveResource(env, 64)
    dispatches = 0
    used = 0

    def thread(work: Work) -> Generator[Any, Any, None]:
        nonlocal dispatches, used
        while True:
            left = work.burst
            while left > 0:
                with processors.request(priority=1 - work.is_interactive) as request:
                    began = None
                    try:
                        yield request
                        began = env.now
                        dispatches += 1
                        turn = min(10 * MS, left)
                        yield env.timeout(turn)
                        ran = turn
                    except simpy.Interrupt:
                        # May come in the instant of the grant, before the request has been answered.
                        ran = 0 if began is None else env.now - began
                    left -= ran
                    used += ran * work.is_interactive
            yield env.timeout(2 * work.wait)

    for work in interactive():
        env.process(thread(work))
    start = process_time()
    env.run(seconds * 1000 * MS)
    return dispatches, process_time() - start, used / 1e9


MODELS = {f.__name__: f for f in (timeouts, ping_pong, m_m_4, round_robin, preemptive)}
VERSION = f"SimPy {simpy.__version__}"

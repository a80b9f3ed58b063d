"""The scheduler and the locks against queueing theory (scheduling facts 14.1 to 14.4, 14.6, 14.7).

Closed forms on one side, threads that come, compute and end on the other. The criterion is the facts': a
mean over independent replications, a 99 % Student interval, and the closed form within three of them.
`within` also asks the interval to be narrow enough that a wrong model would be seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from math import exp, log
from statistics import fmean, stdev

import pytest

from ntlab.hooks import hookimpl
from ntlab.machine import Acquire, Compute, Machine, Process, Processor, Release, Request, Thread
from ntlab.plugin import plugin, state
from ntlab.quantities import MICROSECOND, MILLISECOND
from ntlab.testing import boot, rules
from ntlab_ws2003 import Ws2003

pytestmark = pytest.mark.once

UNIT = MILLISECOND
ENDLESS = 1 << 50
REPLICATIONS = 20
STUDENT_99 = 2.861  # two-sided, 19 degrees of freedom


def within(oracle: float, samples: list[float], precision: float = 0.05) -> bool:
    assert len(samples) == REPLICATIONS
    half = STUDENT_99 * stdev(samples) / len(samples) ** 0.5
    assert 3 * half <= precision * oracle, f"the interval is too wide: {half / oracle:.1%} of {oracle}"
    return abs(fmean(samples) - oracle) <= 3 * half


def customers(
    machine: Machine,
    process: Process,
    count: int,
    rate: float,
    chance: random.Random,
    waits: list[int],
    times: list[int],
    priority: int = 8,
    law: Callable[[random.Random], float] = lambda chance: chance.expovariate(1),
) -> None:
    """`count` threads that arrive as a Poisson stream of `rate` a UNIT, with work of mean UNIT by a `law`.

    `waits` receives how long each waited before it first ran, `times` how long each stayed.
    """
    engine = machine.engine

    def program(work: int) -> Iterator[Request]:
        arrived = engine.now
        waits.append(-1)
        mine = len(waits) - 1

        def steps() -> Iterator[Request]:
            waits[mine] = engine.now - arrived
            yield Compute(work)
            times.append(engine.now - arrived)

        return steps()

    def arrive(left: int) -> None:
        machine.create_thread(process, program(round(law(chance) * UNIT)), priority=priority)
        if left > 1:
            engine.after(round(chance.expovariate(rate) * UNIT), arrive, left - 1)

    engine.after(round(chance.expovariate(rate) * UNIT), arrive, count)


def steady(values: list[int]) -> list[int]:
    """Without the first tenth, in which the system fills up."""
    return values[len(values) // 10 :]


# -- 14.2: Erlang C


def erlang_c(c: int, a: float) -> float:
    b = 1.0
    for k in range(1, c + 1):
        b = a * b / (k + a * b)
    return b / (1 - (a / c) * (1 - b))


@pytest.mark.parametrize(
    ("c", "a", "gold"),
    [(4, 3, 0.509434), (2, 1.6, 0.711111), (8, 4, 0.059044), (6, 4, 0.284761), (5, 4, 0.554113)],
)
def test_erlang_c_gold(c: int, a: float, gold: float) -> None:
    assert erlang_c(c, a) == pytest.approx(gold, abs=5e-7)


def delays(c: int, a: float, plugin: Callable[[], object], count: int = 12_000) -> list[list[int]]:
    """The waits of each replication on c processors offered a."""
    found = []
    for replication in range(REPLICATIONS):
        machine = boot(c, [plugin()], seed=replication)
        waits: list[int] = []
        chance = machine.streams.stream("test", f"{c} {a}")
        customers(machine, machine.create_process("p"), count, a, chance, waits, [])
        machine.run()
        found.append(steady(waits))
    return found


def shared_queue() -> object:
    return rules(quantum=ENDLESS)


def baseline(**options: object) -> Callable[[], object]:
    return lambda: Ws2003(quantum=ENDLESS, accounting="exact", starvation_scan=False, **options)


@pytest.mark.parametrize("plugin", [shared_queue, baseline(ready_queues="shared")], ids=["core", "ws2003"])
def test_a_shared_queue_obeys_erlang_c(plugin: Callable[[], object]) -> None:
    c, a = 4, 3.0
    waits = delays(c, a, plugin)
    delayed = erlang_c(c, a)
    assert within(delayed, [fmean(wait > 0 for wait in run) for run in waits], 0.1)
    assert within(delayed / (c - a), [fmean(run) / UNIT for run in waits], 0.4)
    p95 = log(delayed / 0.05) / (c - a)
    assert within(0.05, [fmean(wait > p95 * UNIT for wait in run) for run in waits], 0.7)
    half = 0.5
    beyond = delayed * exp(-(c - a) * half)
    assert within(beyond, [fmean(wait > half * UNIT for wait in run) for run in waits], 0.2)


def test_queues_of_their_own_obey_erlang_c_only_where_idle_processors_steal() -> None:
    c, a = 4, 3.0
    stealing = delays(c, a, baseline(), 5000)
    assert within(erlang_c(c, a), [fmean(wait > 0 for wait in run) for run in stealing], 0.15)
    assert within(erlang_c(c, a) / (c - a), [fmean(run) / UNIT for run in stealing], 0.5)
    # Without stealing a processor idles while threads wait elsewhere. The same customers wait longer.
    alone = delays(c, a, baseline(steal=False), 5000)
    excess = [(fmean(mine) - fmean(theirs)) / UNIT for mine, theirs in zip(alone, stealing, strict=True)]
    half = STUDENT_99 * stdev(excess) / len(excess) ** 0.5
    assert fmean(excess) - 3 * half > 0.2 * erlang_c(c, a) / (c - a)


# -- 14.3 and 14.4: one processor, first come first served and in turns


def stays(law: Callable[[random.Random], float], quantum: int, rho: float = 0.7) -> list[float]:
    """The mean time that a customer of each replication stays, in units of the mean work."""
    found = []
    for replication in range(REPLICATIONS):
        machine = boot(1, [rules(quantum=quantum)], seed=replication)
        times: list[int] = []
        chance = machine.streams.stream("test")
        customers(machine, machine.create_process("p"), 3000, rho, chance, [], times, law=law)
        machine.run()
        found.append(fmean(steady(times)) / UNIT)
    return found


@pytest.mark.parametrize(
    ("law", "square", "precision"),
    [(lambda chance: 1.0, 1.0, 0.2), (lambda chance: 0.5 if chance.random() < 0.9 else 5.5, 3.25, 0.5)],
    ids=["equal", "bimodal"],
)
def test_short_turns_share_the_processor(
    law: Callable[[random.Random], float], square: float, precision: float
) -> None:
    rho = 0.7
    # First come, first served: who stays how long depends on the law of the work (Pollaczek, Khinchine) ...
    in_order = stays(law, ENDLESS)
    assert within(1 + rho * square / (2 * (1 - rho)), in_order, 2 * precision)
    # ... and no more where turns are short: processor sharing.
    assert within(1 / (1 - rho), stays(law, UNIT // 16), precision)


# -- 14.6: preemptive priorities, and interrupts as the highest


def test_preemptive_priorities() -> None:
    rate1, rate2 = 0.3, 0.4
    high, low = [], []
    for replication in range(REPLICATIONS):
        machine = boot(
            1, [Ws2003(quantum=ENDLESS, accounting="exact", starvation_scan=False)], seed=replication
        )
        process = machine.create_process("p")
        times1: list[int] = []
        times2: list[int] = []
        customers(machine, process, 4500, rate1, machine.streams.stream("test", "1"), [], times1, 10)
        customers(machine, process, 6000, rate2, machine.streams.stream("test", "2"), [], times2, 8)
        machine.run()
        high.append(fmean(steady(times1)) / UNIT)
        low.append(fmean(steady(times2)) / UNIT)
    assert within(1 / (1 - rate1), high, 0.1)
    assert within(1 / ((1 - rate1) * (1 - rate1 - rate2)), low, 0.3)


def test_interrupts_stretch_a_threads_time() -> None:
    share = 0.25
    ratios = []
    for replication in range(REPLICATIONS):
        machine = boot(1, seed=replication)
        chance = machine.streams.stream("test")
        cpu = machine.processors[0]

        def arrive(_: object, machine=machine, chance=chance, cpu=cpu) -> int:  # type: ignore[no-untyped-def]
            machine.interrupts.interrupt(cpu, round(chance.expovariate(1 / share) * UNIT))
            return round(chance.expovariate(1) * UNIT)

        machine.engine.at(0, arrive)
        thread = machine.create_thread(machine.create_process("p"), iter([Compute(1000 * UNIT)]))
        while machine.threads:
            machine.run(machine.engine.now + 10 * UNIT)
        ratios.append(machine.processors[0].busy_time / thread.run_time)
    assert within(1 / (1 - share), ratios, 0.1)


# -- 14.7: the machine repairman, with a spinlock


def mva(n: int, think: float, hold: float, locks: int = 1) -> float:
    """Acquisitions a second of n processors that think and then hold one of `locks` locks (means in s)."""
    queue = rate = 0.0
    for k in range(1, n + 1):
        response = hold * (1 + queue / locks)
        rate = k / (think + response)
        queue = rate * response
    return rate


THINK, HOLD = 40e-6, 5e-6


@pytest.mark.parametrize(("n", "gold"), [(4, 85073), (8, 152886), (16, 199094)])
def test_mva_gold(n: int, gold: float) -> None:
    assert mva(n, THINK, HOLD) == pytest.approx(gold, abs=0.5)


def acquisitions(n: int, locks: int, discipline: str, hold: str, seed: int) -> float:
    machine = boot(n, [rules(quantum=ENDLESS)], seed=seed)
    process = machine.create_process("p")
    chosen = [machine.create_lock(f"{k}", discipline) for k in range(locks)]  # type: ignore[arg-type]

    def program(chance: random.Random) -> Iterator[Request]:
        while True:
            yield Compute(round(chance.expovariate(1 / THINK) * 1e9))
            lock = chosen[chance.randrange(locks)] if locks > 1 else chosen[0]
            yield Acquire(lock)
            yield Compute(round(HOLD * 1e9 * (chance.expovariate(1) if hold == "exponential" else 1)))
            yield Release(lock)

    for i in range(n):
        machine.create_thread(process, program(machine.streams.stream("test", f"{i}")))
    warm_up, window = 2 * MILLISECOND, 20 * MILLISECOND
    machine.run(warm_up)
    before = sum(lock.acquisitions for lock in chosen)
    machine.run(warm_up + window)
    return (sum(lock.acquisitions for lock in chosen) - before) / (window / 1e9)


@pytest.mark.parametrize(
    ("n", "locks", "discipline"),
    [(4, 1, "fifo"), (8, 1, "fifo"), (16, 1, "fifo"), (8, 1, "test_and_set"), (8, 4, "fifo")],
)
def test_a_spinlock_is_a_machine_repairman(n: int, locks: int, discipline: str) -> None:
    rates = [acquisitions(n, locks, discipline, "exponential", seed) for seed in range(REPLICATIONS)]
    assert within(mva(n, THINK, HOLD, locks), rates, 0.06)


@pytest.mark.parametrize(("n", "simulated"), [(4, 86691), (8, 160129), (16, 199977)])
def test_equal_holds_serve_more_up_to_the_bounds(n: int, simulated: int) -> None:
    rates = [acquisitions(n, 1, "fifo", "equal", seed) for seed in range(REPLICATIONS)]
    assert within(simulated, rates, 0.06)  # the facts' own simulation
    assert mva(n, THINK, HOLD) < fmean(rates) <= min(n / (THINK + HOLD), 1 / HOLD) * 1.001


# -- 14.1: Little's law, exactly


@plugin(name="area", summary="Adds up the time that threads are ready.", release="ws2003")
class Area:
    """Integrates the number of ready threads, from outside: by looking at the queues, not at the threads."""

    total: int = state(int)
    _since: int = state(int)
    _number: int = state(int)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        self.machine = machine

    @hookimpl
    def context_switched(self, processor: Processor) -> None:
        self.look()

    @hookimpl
    def thread_ready(self, thread: Thread) -> None:
        self.look()
        # It is about to be queued, or to run at once, which is another switch at this instant.
        self.machine.engine.after(0, lambda _: self.look())

    def look(self) -> None:
        now = self.machine.engine.now
        self.total += self._number * (now - self._since)
        self._since = now
        self._number = self.machine.scheduler.ready_count


@pytest.mark.parametrize("plugin", [shared_queue, lambda: rules(quantum=UNIT // 3), baseline(steal=False)])
def test_littles_law_of_the_ready_queue(plugin: Callable[[], object]) -> None:
    area = Area()
    machine = boot(3, [plugin(), area], seed=7, trace=True)
    process = machine.create_process("p")
    for priority in (8, 10):
        chance = machine.streams.stream("test", f"{priority}")
        customers(machine, process, 500, 1.3, chance, [], [], priority)
    end = machine.run()
    assert end > 0
    assert not machine.threads
    area.look()
    waited = sum(
        record.time - int(record["new_ready_time"])
        for record in machine.tracer.records("Thread/CSwitch")
        if record["new_tid"]
    )
    # From empty to empty: the integral of the number equals the sum of the waits, to the nanosecond.
    assert waited == area.total > 0


def test_littles_law_of_a_lock() -> None:
    machine = boot(4, [rules(quantum=ENDLESS)], seed=3, trace=True)
    lock = machine.create_lock("l")
    process = machine.create_process("p")

    def program(chance: random.Random) -> Iterator[Request]:
        for _ in range(200):
            yield Compute(round(chance.expovariate(1 / 10) * MICROSECOND))
            yield Acquire(lock)
            yield Compute(round(chance.expovariate(1 / 5) * MICROSECOND))
            yield Release(lock)

    for i in range(4):
        machine.create_thread(process, program(machine.streams.stream("test", f"{i}")))
    machine.run()
    waiting = area = since = 0
    for record in machine.tracer.records("Contend", "Acquire"):
        area += waiting * (record.time - since)
        since = record.time
        waiting += 1 if record.name == "Contend" else -1 if record["waited"] else 0
    waits = [int(record["waited"]) for record in machine.tracer.records("Acquire")]
    assert waiting == 0
    assert area == sum(waits) == lock.wait_time == lock.spin_time > 0
    assert lock.acquisitions == len(waits) == 800
    assert lock.contentions == sum(wait > 0 for wait in waits)

"""Guests whose threads want one kernel spinlock, on too few logical processors."""

from __future__ import annotations

from random import Random
from typing import Literal

from ntlab import Duration, Metric, Size, option, state, workload
from ntlab.machine import (
    Acquire,
    Compute,
    Machine,
    Partition,
    Program,
    Release,
    Sleep,
    SpinLock,
    Thread,
)
from ntlab.quantities import MIB, MICROSECOND, MILLISECOND, SECOND


class _TimedRelease(Release):
    """Notes how long the lock was held. That begins when the lock is given to a thread, which a ticket lock
    does while the thread's processor does not run: a program that looks at the clock sees less."""

    __slots__ = ("holds",)

    def __init__(self, lock: SpinLock, holds: list[int]) -> None:
        super().__init__(lock)
        self.holds = holds

    def perform(self, thread: Thread) -> int | None:
        before = self.lock.hold_time
        work = super().perform(thread)
        self.holds.append(self.lock.hold_time - before)
        return work


@workload(
    name="contention",
    summary="Child partitions, each with a spinlock that one thread on each of its virtual processors wants.",
)
class Contention:
    """`partitions` times `processors` over the host's logical processors is the over-commitment r."""

    partitions: int = option(default=2, help="How many child partitions.", minimum=1, maximum=64)
    processors: int = option(default=4, help="Virtual processors in each.", minimum=1, maximum=4)
    memory: Size = option(default=Size(128 * MIB), help="Memory of each partition.", minimum=MIB)
    discipline: Literal["test_and_set", "fifo"] = option(
        default="test_and_set",
        help="Who gets a lock that is released: whoever is running, or the longest waiter.",
    )
    hold: Duration = option(default=Duration(4 * MICROSECOND), help="How long the lock is held.", minimum=1)
    think: Duration = option(
        default=Duration(76 * MICROSECOND), help="Mean time (exponential) of computing without it.", minimum=1
    )
    stagger: Duration = option(
        default=Duration(10 * MILLISECOND),
        help="The threads begin at random within this time, so that no partition's turns coincide by design.",
        minimum=0,
    )
    awake: Duration = option(
        default=Duration(20 * MILLISECOND),
        help="Mean time (exponential) of working between two sleeps.",
        minimum=1,
    )
    asleep: Duration = option(
        default=Duration(2 * MILLISECOND),
        help="Mean time (exponential) of a sleep: without any, all turns keep their phase for ever.",
        minimum=0,
    )
    hypercall: Duration = option(
        default=Duration(MICROSECOND),
        help="Time of a hypercall, with the way into the hypervisor and back.",
        minimum=0,
    )

    guests: list[tuple[Partition, SpinLock]] = state(list)
    waits: list[int] = state(list)
    holds: list[int] = state(list)
    """By the clock, from acquire to release, as far as released."""

    def start(self, machine: Machine) -> None:
        machine.partitions.hypercall_cost = self.hypercall
        for number in range(self.partitions):
            partition = machine.partitions.create(
                f"vm{number}", processors=self.processors, memory=self.memory
            )
            guest = partition.machine
            lock = guest.create_lock("contended", self.discipline)
            self.guests.append((partition, lock))
            process = guest.create_process("contender")
            for index in range(self.processors):
                chance = guest.streams.stream("enlightened_spinlocks.contention", str(index))
                guest.create_thread(process, self._program(guest, lock, chance), affinity=1 << index)

    def _program(self, guest: Machine, lock: SpinLock, chance: Random) -> Program:
        engine, waits = guest.engine, self.waits
        acquire, hold, release = Acquire(lock), Compute(self.hold), _TimedRelease(lock, self.holds)
        think = 1 / self.think
        tired = (self.hold + self.think) / self.awake
        yield Sleep(int(chance.random() * self.stagger))
        while True:
            if self.asleep and chance.random() < tired:
                yield Sleep(round(chance.expovariate(1 / self.asleep)))
            yield Compute(round(chance.expovariate(think)))
            asked = engine.now
            yield acquire
            waits.append(engine.now - asked)
            yield hold
            yield release

    def measure(self, machine: Machine) -> list[Metric]:
        seconds = machine.engine.now / SECOND
        processors = [vp for partition, _ in self.guests for vp in partition.processors]
        run_time = sum(vp.run_time for vp in processors)
        spun = sum(
            lock.spin_time + sum(lock.spun(waiter.user) for waiter in lock.waiters) for _, lock in self.guests
        )
        waits, holds = sorted(self.waits) or [0], sorted(self.holds) or [0]
        return [
            Metric("spinning_share", spun / run_time),
            Metric("throughput", sum(lock.acquisitions for _, lock in self.guests) / seconds, "1/s"),
            Metric("wait_mean", sum(waits) / len(waits), "ns"),
            Metric("wait_p99", _percentile(waits, 990), "ns"),
            Metric("wait_p999", _percentile(waits, 999), "ns"),
            Metric("hold_mean", sum(holds) / len(holds), "ns"),
            Metric("hold_p999", _percentile(holds, 999), "ns"),
            Metric("hold_max", holds[-1], "ns"),
            Metric("long_spin_waits", sum(vp.long_spin_waits for vp in processors) / seconds, "1/s"),
            Metric("hypervisor_share", sum(vp.hypervisor_time for vp in processors) / run_time),
            Metric("vp_switches", sum(p.context_switches for p in machine.processors) / seconds, "1/s"),
        ]


def _percentile(values: list[int], thousandths: int) -> int:
    """The smallest of the sorted values that so many thousandths of them do not exceed."""
    return values[(len(values) * thousandths - 1) // 1000]

"""A terminal server: sessions of users, and what they ask of the scheduler's database."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate
from random import Random
from typing import ClassVar, Literal

import attrs

from ntlab import Duration, Metric, Share, Size, UserError, option, state, workload
from ntlab.machine import (
    Acquire,
    Compute,
    Dpc,
    Machine,
    Process,
    Processor,
    Program,
    Request,
    Sleep,
    Thread,
    Timer,
    WaitForTimer,
)
from ntlab.quantities import MIB, MILLISECOND, SECOND

PARTS_OF_A_TICK = 8
MOST_VIRTUAL_PROCESSORS = 4


@attrs.define(slots=False, eq=False)
class _User:
    """What a user asks for in a second, and how what is measured is kept."""

    owner: ClassVar[str]

    work: Duration = option(
        default=Duration(10 * MILLISECOND),
        help="Work of a user in a second, outside of locks (facts 2.2: a guess).",
        minimum=1,
    )
    operations: int = option(
        default=400, help="Operations on dispatcher objects of a user in a second (a guess).", minimum=1
    )
    expirations: int = option(
        default=60, help="Timers of a user that expire in a second (a guess).", minimum=0, maximum=SECOND
    )
    tolerance: Duration = option(
        default=Duration(0), help="How much later each of these timers may expire.", minimum=0
    )
    waited_for: Share = option(
        default=Share(0), help="For which part of the timers a thread waits.", minimum=0, maximum=1
    )
    work_law: Literal["exponential", "exact"] = option(
        default="exponential", help="How the work between two operations is spread about its mean."
    )
    hold_law: Literal["exponential", "exact"] = option(
        default="exponential", help="How the times for which threads hold a lock are spread about their mean."
    )
    objects: int = option(default=4096, help="How many dispatcher objects there are.", minimum=1)
    skew: float = option(
        default=0.0,
        help="How unevenly they are used: the k-th as often as 1 / k to this power (Zipf).",
        minimum=0,
    )
    warm_up: Duration = option(
        default=Duration(2 * MILLISECOND), help="Time at the beginning that is not measured.", minimum=0
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    waits: list[tuple[int, int]] = state(list)
    """When each operation asked for its lock, and how long it waited, ns."""

    _expired: int = state(int)  # on the tick
    _popularity: list[float] = state(list)
    # What had been at the end of the warm-up: running and spinning of all processors, holds by lock.
    _ran: int = state(int)
    _spun: int = state(int)
    _held: dict[int, int] = state(dict)

    def _prepare(self, machine: Machine) -> None:
        self._machine = machine
        if self.skew:
            self._popularity.extend(accumulate(k**-self.skew for k in range(1, self.objects + 1)))
        machine.engine.at(self.warm_up, self._warm)

    def _warm(self, _: object) -> None:
        locks = self._machine.locks
        self._ran = self._running()
        self._spun = sum(lock.spun_so_far for lock in locks)
        self._held = {lock.id: lock.held_so_far for lock in locks}

    def _running(self) -> int:
        now = self._machine.engine.now
        return sum(p.busy_time + (now - p.busy_since if p.thread else 0) for p in self._machine.processors)

    def _set_timers(self, machine: Machine, users: int, random: Random, process: Process) -> None:
        """Each user's timer expires so often in a second: a thread waits for it, or it has a DPC."""
        if not self.expirations:
            return
        period = SECOND // self.expirations
        with_waiter = round(self.waited_for * users)
        for number in range(users):
            phase = int(random.random() * period)
            if number < with_waiter:
                timer = machine.timers.create()
                machine.create_thread(process, self._waiter(timer))
            else:
                timer = machine.timers.create(Dpc("Session", self._count))
            processor = number % len(machine.processors)
            machine.timers.set(timer, phase, period=period, tolerance=self.tolerance, processor=processor)

    def _count(self, timer: Timer) -> None:
        self._expired += 1

    def _waiter(self, timer: Timer) -> Iterator[Request]:
        while True:
            yield WaitForTimer(timer)
            self._expired += 1

    def _object(self, chance: Random) -> int:
        if not self.skew:
            return int(chance.random() * self.objects)
        return bisect(self._popularity, chance.random() * self._popularity[-1])

    def _asks(self, requests: Iterator[Request]) -> Iterator[Request]:
        """The requests of an operation. How long it waits for its lock is noted."""
        engine = self._machine.engine
        for request in requests:
            asked = engine.now
            yield request
            if request.__class__ is Acquire and asked >= self.warm_up:
                self.waits.append((asked, engine.now - asked))

    def _time(self) -> int:
        time = self._machine.engine.now - self.warm_up
        if time <= 0:
            raise UserError(
                f"nothing is measured in a run that is no longer than the {self.warm_up} ns of its warm-up",
                where="workload.warm_up",
                expected="less than the duration",
            )
        return time

    def _measured(self, processors: int) -> list[Metric]:
        time = self._time()
        locks = self._machine.locks
        spun = sum(lock.spun_so_far for lock in locks) - self._spun
        held = max((lock.held_so_far - self._held.get(lock.id, 0) for lock in locks), default=0)
        waits = sorted(wait for _, wait in self.waits) or [0]
        tick = self._machine.scheduler.policy.tick
        first = sum(wait for asked, wait in self.waits if asked % tick < tick // PARTS_OF_A_TICK)
        return [
            Metric("busy", (self._running() - self._ran) / (time * processors)),
            Metric("spinning_share", spun / (time * processors)),
            Metric("lock_utilisation", held / time),
            Metric("lock_wait_mean", sum(waits) / len(waits), "ns"),
            Metric("lock_wait_p99", _percentile(waits, 990), "ns"),
            Metric("lock_wait_p999", _percentile(waits, 999), "ns"),
            Metric("waiting_after_tick", first / (sum(waits) or 1)),
            Metric("expirations", self._expired * SECOND / self._machine.engine.now, "1/s"),
        ]

    def views(self) -> dict[str, Callable[[Machine], str]]:
        return {"lock-waits": self._histogram}

    def _histogram(self, machine: Machine) -> str:
        """Waiting for locks by when in a tick it began."""
        parts = 4 * PARTS_OF_A_TICK
        tick = machine.scheduler.policy.tick
        total, longest = [0] * parts, [0] * parts
        for asked, wait in self.waits:
            part = asked % tick * parts // tick
            total[part] += wait
            longest[part] = max(longest[part], wait)
        lines = ["after tick   of all waiting   longest"]
        for part in range(parts):
            share = total[part] / (sum(total) or 1)
            lines.append(
                f"{part * tick / parts / MILLISECOND:7.2f} ms {share:8.1%} {'#' * round(40 * share):40} "
                f"{longest[part] / 1000:9.1f} us"
            )
        return "\n".join(lines)


@workload(name="saturated", summary="Processors that always have some session to serve: for how many users.")
class Saturated(_User):
    """A closed queueing network: on each processor a thread computes, does an operation, computes, and so on.
    Some of the operations are expirations of timers. Users are what the operations add up to.

    With `ticking`, timers expire on the tick instead, those of so many users."""

    owner = "timer_expiration.saturated"

    processors: int = option(default=0, help="How many processors serve; 0 is all.", minimum=0)

    ticking: int = option(
        default=0,
        help="Users whose timers expire on the tick; 0: expirations are among the operations.",
        minimum=0,
    )

    _done: int = state(int)

    def start(self, machine: Machine) -> None:
        self._prepare(machine)
        if self.processors > len(machine.processors):
            raise UserError(
                f"{self.processors} processors shall serve, the machine has {len(machine.processors)}",
                where="workload.processors",
                expected=f"1 to {len(machine.processors)}, or 0",
            )
        process = machine.create_process("sessions")
        if self.ticking:
            self._set_timers(machine, self.ticking, machine.streams.stream(self.owner, "timers"), process)
        for processor in machine.processors[: self.processors or None]:
            machine.create_thread(process, self._serve(machine, processor), affinity=processor.bit)

    def _serve(self, machine: Machine, processor: Processor) -> Program:
        chance = machine.streams.stream(self.owner, str(processor.index))
        operate = machine.dispatcher.operate
        timers = 0 if self.ticking else self.expirations
        rate = self.operations + timers
        think = self.work / rate
        turn = int(chance.random() * rate)
        holds = (machine.dispatcher.object_hold, machine.timers.policy.timer_time)
        while True:
            yield Compute(_about(think, self.work_law, chance))
            turn += timers
            expires = turn >= rate
            if expires:
                turn -= rate
            waited_for = chance.random() < self.waited_for
            number = self._object(chance)
            hold = _about(holds[expires], self.hold_law, chance)
            yield from self._asks(
                operate(number, processor, hold=hold, expires=expires, waited_for=waited_for)
            )
            self._done += machine.engine.now >= self.warm_up

    def measure(self, machine: Machine) -> list[Metric]:
        rate = self._done * SECOND / self._time()
        of_a_user = self.operations + (0 if self.ticking else self.expirations)
        return [
            Metric("users", rate / of_a_user),
            Metric("operation_rate", rate, "1/s"),
            *self._measured(self.processors or len(machine.processors)),
        ]


@workload(
    name="virtual", summary="Terminal servers as child partitions, each with sessions to serve all the time."
)
class Virtual(Saturated):
    """`processors` are the virtual ones of each partition, 0 for as many as the host has, or four."""

    owner = "timer_expiration.virtual"

    partitions: int = option(default=3, help="How many terminal servers.", minimum=1)
    memory: Size = option(default=Size(128 * MIB), help="Memory of each.", minimum=MIB)

    _servers: list[tuple[Saturated, Machine]] = state(list)

    def start(self, machine: Machine) -> None:
        self._machine = machine
        options = [field.name for field in attrs.fields(Saturated) if "ntlab" in field.metadata]
        processors = self.processors or min(len(machine.processors), MOST_VIRTUAL_PROCESSORS)
        for number in range(self.partitions):
            partition = machine.partitions.create(
                f"server{number}", processors=processors, memory=self.memory
            )
            server = Saturated(**{name: getattr(self, name) for name in options})
            server.start(partition.machine)
            self._servers.append((server, partition.machine))

    def measure(self, machine: Machine) -> list[Metric]:
        """Users and operations of all; spinning as a share of the host's processors; waiting for any lock."""
        total = dict.fromkeys(("users", "operation_rate", "spinning_share"), 0.0)
        for server, guest in self._servers:
            for metric in server.measure(guest):
                if metric.name in total:
                    total[metric.name] += metric.value
        virtual = len(self._servers[0][1].processors)
        waits = sorted(wait for server, _ in self._servers for _, wait in server.waits) or [0]
        return [
            Metric("users", total["users"]),
            Metric("operation_rate", total["operation_rate"], "1/s"),
            Metric("spinning_share", total["spinning_share"] * virtual / len(machine.processors)),
            Metric("lock_wait_mean", sum(waits) / len(waits), "ns"),
            Metric("lock_wait_p999", _percentile(waits, 999), "ns"),
        ]


@workload(
    name="sessions", summary="Users who do something now and then, and whose timers expire on the tick."
)
class Sessions(_User):
    """Each user has a thread that serves one interaction after the other, and periodic timers. An interaction
    begins at its time, or when the one before is over; its response is from its time to its end."""

    owner = "timer_expiration.sessions"

    users: int = option(default=200, help="How many users.", minimum=1)
    interactions: int = option(default=4, help="Interactions of a user in a second.", minimum=1)
    own_sessions: bool = option(
        default=False, help="Whether each user's thread is in a session of its own, not in that of services."
    )

    _threads: list[Thread] = state(list)
    _responses: list[int] = state(list)
    _done: int = state(int)

    def start(self, machine: Machine) -> None:
        self._prepare(machine)
        services = machine.create_process("sessions")
        for number in range(self.users):
            chance = machine.streams.stream(self.owner, str(number))
            process = services
            if self.own_sessions:
                session = machine.create_session(max(machine.sessions) + 1)
                process = machine.create_process(f"session {session.id}", session=session)
            self._threads.append(machine.create_thread(process, self._session(machine, number, chance)))
        self._set_timers(machine, self.users, machine.streams.stream(self.owner, "timers"), services)

    def _session(self, machine: Machine, number: int, chance: Random) -> Program:
        engine, operate = machine.engine, machine.dispatcher.operate
        steps = max(1, round(self.operations / self.interactions))
        think = self.work / (self.interactions * steps)
        hold = machine.dispatcher.object_hold
        begin = 0
        while True:
            begin += round(chance.expovariate(self.interactions / SECOND))
            if begin > engine.now:
                yield Sleep(begin - engine.now)
            for _ in range(steps):
                yield Compute(_about(think, self.work_law, chance))
                target, time = self._object(chance), _about(hold, self.hold_law, chance)
                here = machine.processors[self._threads[number].last]
                yield from self._asks(operate(target, here, hold=time))
                self._done += engine.now >= self.warm_up
            if begin >= self.warm_up:
                self._responses.append(engine.now - begin)

    def measure(self, machine: Machine) -> list[Metric]:
        responses = sorted(self._responses) or [0]
        return [
            Metric("response_mean", sum(responses) / len(responses), "ns"),
            Metric("response_p95", _percentile(responses, 950), "ns"),
            Metric("operation_rate", self._done * SECOND / self._time(), "1/s"),
            *self._measured(len(machine.processors)),
        ]


def _about(mean: float, law: str, chance: Random) -> int:
    return round(chance.expovariate(1 / mean)) if law == "exponential" and mean else round(mean)


def _percentile(values: list[int], thousandths: int) -> int:
    """The smallest of the sorted values that so many thousandths of them do not exceed."""
    return values[(len(values) * thousandths - 1) // 1000]

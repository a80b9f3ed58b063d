"""Power: what processors do while they have nothing to do, how fast they are, and what energy that takes.

    machine.power.park(mask)                        placement avoids these processors from now on
    machine.power.set_performance(processor, 3)     its core has that clock

A processor without a thread and without interrupt work is *idle* and asks for an idle state. Its core is in
the shallowest state that any of its processors asks for, and is awake if one of them works. Whatever wakes it
waits for the exit latency of the state that the core was in, or beside an awake one for that of the first
state. A state may cost the core's own caches what they hold; and a package all of whose cores are in deep
states sleeps.

Which state: by default the deepest that pays for the idle time that is predicted, the median of the
processor's last idle times. A processor that is idle for longer than `recheck` is asked again then. The
hardware's figures are those of its description (`tables.power`).

Energy is exact: whole milliwatts times whole ns are picojoules. A core draws the power of its state, or when
awake that of its clock, exit latencies included; a package draws its own besides.

*Parked* processors are a matter of placement, and the plugin that parks them answers `usable_processors`:
they are idle, and go to whatever state their idle times allow. All of this exists only where a plugin answers
`power_policy`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

from ntlab.engine import Event
from ntlab.errors import SimulationError
from ntlab.machine.policy import PowerPolicy
from ntlab.machine.processors import NOMINAL, PASSIVE_LEVEL, Processor
from ntlab.topology import IdleState, PerformanceState
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.threads import Thread

PROVIDER = "Microsoft-Windows-Kernel-Processor-Power"
IDLE_STATE = event_type(PROVIDER, "IdleStateChange", "core state")
"""A core is in another idle state, -1: awake."""
CLOCK = event_type(PROVIDER, "PerfStateChange", "core speed")
PARKING = event_type(PROVIDER, "ParkingStateChange", "cpu parked")

AWAKE = -1
LONG = 1 << 62
"""The idle time that is predicted of a processor that was never idle before, ns."""
CAUSE = "performance state"
TYPES = (1, 2, 3)
"""ACPI's types of idle states, by which Windows counts them."""


class Package:
    """One package. `awake` counts its cores that are, `shallow` those that keep it from sleeping.

    `energy` (pJ) is what it took besides its cores until `since`, `sleep_time` for how long it slept.
    """

    def __init__(self, now: int) -> None:
        self.cores: list[Core] = []
        self.awake = 0
        self.shallow = 0
        self.since = now
        self.energy = 0
        self.sleep_time = 0
        self.sleeps = 0
        self.settling = False  # the clocks of its cores will be looked at


class Core:
    """One core. `state` is its idle state, or AWAKE; `clock` its performance state.

    Until `since` it took `energy` pJ and was in each idle state for `times` ns; `entries` counts how often it
    entered each. `awake_at` is when it will have left its last one.
    """

    def __init__(self, number: int, package: Package, states: int, clock: int, now: int) -> None:
        self.number = number
        self.package = package
        self.members: list[Member] = []
        self.mask = 0
        self.state = AWAKE
        self.clock = clock
        self.since = self.awake_at = now
        self.energy = 0
        self.awake_time = 0
        self.times = [0] * states
        self.entries = [0] * states


class Member:
    """A processor of a core. `wanted` is the idle state it asks for, or AWAKE; `since` is from when on it has
    been idle, or has not."""

    __slots__ = ("awake_time", "core", "event", "idle_times", "performance", "processor", "since", "wanted")

    def __init__(self, processor: Processor, core: Core, samples: int, performance: int, now: int) -> None:
        self.processor = processor
        self.core = core
        self.wanted = AWAKE
        self.since = now
        self.awake_time = 0
        self.idle_times: deque[int] = deque(maxlen=samples)
        self.event: Event | None = None  # which looks again at a long idle time
        self.performance = performance


class Power:
    """Idle states, performance states, parking and energy of one machine.

    `parked` is the mask of parked processors, `parking_changed` when it changed last.
    """

    def __init__(self, machine: Machine, policy: PowerPolicy) -> None:
        self.machine = machine
        self.engine = machine.engine
        self.policy = policy
        self.began = machine.engine.now
        description = machine.tables.power
        self.states: tuple[IdleState, ...] = description.idle
        self._residencies = [state.residency for state in self.states]
        self.clocks = description.performance or (PerformanceState(0, description.active),)
        self.nominal = next(index for index, clock in enumerate(self.clocks) if not clock.cores)
        self.parked = 0
        self._parked_time = 0  # processors times ns, until _parked_since
        self._parked_since = self.parking_changed = self.began
        self.packages: dict[int, Package] = {}
        self.cores: dict[int, Core] = {}
        self._members: list[Member] = []
        self._ask = machine.hooks.idle_state
        tracer = machine.tracer
        self._trace_idle = tracer.emitter(IDLE_STATE)
        self._trace_clock = tracer.emitter(CLOCK)
        self._trace_parking = tracer.emitter(PARKING)
        machine.scheduler.watch_switches(self._switched, delays=True)
        machine.interrupts.idle_watchers.append(self._interrupted)
        machine.interrupts.awake_from = self._awake_from

    def rebuilt(self) -> None:
        """Processors have come, at boot all of them: they are idle. Or those that came last are gone."""
        tables = self.machine.tables
        now = self.engine.now
        processors = self.machine.processors
        while self._members and self._members[-1].processor not in processors[len(self._members) - 1 :]:
            self._forget(self._members.pop())
        for processor in self.machine.processors[len(self._members) :]:
            number = tables.package_of[processor.index]
            package = self.packages.setdefault(number, Package(now))
            number = tables.core_of[processor.index]
            core = self.cores.get(number)
            if core is None:
                core = Core(number, package, len(self.states), self.nominal, now)
                self.cores[number] = core
                package.cores.append(core)
                package.awake += 1
                package.shallow += 1
            member = Member(processor, core, self.policy.samples, self.nominal, now)
            core.members.append(member)
            core.mask |= processor.bit
            self._members.append(member)
        for member in self._members:
            if member.wanted == AWAKE and member.processor.thread is None and not member.processor.level:
                self._sleep(member)

    def _forget(self, member: Member) -> None:
        """A processor is gone that has never run anything. What its core took, its package keeps."""
        core, package = member.core, member.core.package
        if member.event is not None:
            self.engine.cancel(member.event)
        core.members.remove(member)
        core.mask ^= member.processor.bit
        if core.members:
            self._resolve(core)
            return
        self._account(core)
        self._account_package(package)
        package.energy += core.energy
        package.awake -= core.state == AWAKE
        package.shallow -= core.state == AWAKE or not self.states[core.state].deep
        package.cores.remove(core)
        del self.cores[core.number]

    # -- idle states -----------------------------------------------------------------------------------------

    def _switched(self, processor: Processor, old: Thread | None, new: Thread | None) -> None:
        if processor.level == PASSIVE_LEVEL:
            if old is None:
                self._wake(self._members[processor.index])
            elif new is None:
                self._sleep(self._members[processor.index])
                return
        awake = self._members[processor.index].core.awake_at
        if new is not None and awake > processor.since:
            processor.since = processor.ticked = awake

    def _interrupted(self, processor: Processor, idle: bool) -> None:
        if idle:
            self._sleep(self._members[processor.index])
        else:
            self._wake(self._members[processor.index])

    def _awake_from(self, processor: Processor) -> int:
        """From when on a processor that was woken does anything."""
        return self._members[processor.index].core.awake_at

    def _sleep(self, member: Member) -> None:
        """A processor becomes idle."""
        now = self.engine.now
        member.awake_time += now - member.since
        member.since = now
        self._choose(member, 0)

    def _choose(self, member: Member, idle: int) -> None:
        """Ask for an idle state, after so many ns without anything to do."""
        predicted = self.predicted(member.processor)
        state = self._ask(member.processor, idle, predicted) if self._ask is not None else None
        if state is None:
            state = self.state_for(max(idle, predicted))
        elif not 0 <= state < len(self.states):
            raise SimulationError(
                f"idle_state gave {state} for {member.processor!r}, which has 0 to {len(self.states) - 1}"
            )
        member.wanted = state
        self._resolve(member.core)
        if member.event is not None:
            self.engine.cancel(member.event)
            member.event = None
        if state < len(self.states) - 1 and idle < self.states[-1].residency:
            member.event = self.engine.after(self.policy.recheck, self._look_again, member)

    def _look_again(self, member: Member) -> None:
        member.event = None
        self._choose(member, self.engine.now - member.since)

    def state_for(self, idle: int) -> int:
        """The deepest state that pays for so many ns of being idle; the first one if none does."""
        return max(0, bisect_right(self._residencies, idle) - 1)

    def predicted(self, processor: Processor) -> int:
        """How long a processor is expected to be idle, ns: the (lower) median of its last idle times."""
        times = self._members[processor.index].idle_times
        return sorted(times)[(len(times) - 1) // 2] if times else LONG

    def _wake(self, member: Member) -> None:
        """A processor has something to do. Its core will be awake at `awake_at`."""
        now = self.engine.now
        idle = now - member.since
        if member.event is not None:
            self.engine.cancel(member.event)
            member.event = None
        core = member.core
        if idle:  # else it had not even begun to sleep
            member.idle_times.append(idle)
            left = self.states[core.state if core.state != AWAKE else 0].latency
            core.awake_at = max(core.awake_at, now + left)
        member.wanted = AWAKE
        member.since = now
        self._resolve(core)

    def _resolve(self, core: Core) -> None:
        """Let a core be in the state that its processors allow."""
        state = min(member.wanted for member in core.members)
        before = core.state
        if state == before:
            return
        self._account(core)
        package = core.package
        core.state = state
        held_up = before == AWAKE or not self.states[before].deep
        holds_up = state == AWAKE or not self.states[state].deep
        if held_up != holds_up:
            self._account_package(package)
            package.shallow += holds_up - held_up
            package.sleeps += package.shallow == 0
        if (before == AWAKE) != (state == AWAKE):
            package.awake += 1 if state == AWAKE else -1
            self._package_changes(package)
        if state != AWAKE:
            entered = self.states[state]
            core.entries[state] += 1
            core.energy += entered.energy
            if entered.flushes and (before == AWAKE or not self.states[before].flushes):
                self.machine.caches.flush(core.mask)
        if self._trace_idle is not None:
            self._trace_idle((self.engine.now, IDLE_STATE.id, core.number, state))

    # -- performance states ----------------------------------------------------------------------------------

    def set_performance(self, processor: Processor, index: int) -> None:
        """A processor asks for a performance state, 0 the fastest.

        Its core has the fastest one that any of its processors asks for, or the next that so many awake cores
        of the package allow. Raises SimulationError for one that there is not.
        """
        if not 0 <= index < len(self.clocks):
            raise SimulationError(
                f"performance state {index} of {processor!r}, which has 0 to {len(self.clocks) - 1}"
            )
        member = self._members[processor.index]
        if member.performance != index:
            member.performance = index
            self._settle(member.core.package)

    def asked(self, processor: Processor) -> int:
        """The performance state that a processor asks for."""
        return self._members[processor.index].performance

    def performance(self, processor: Processor) -> int:
        """The performance state that a processor's core has."""
        return self._members[processor.index].core.clock

    def _package_changes(self, package: Package) -> None:
        """More or fewer cores of a package are awake: that may allow or forbid a clock."""
        if self.nominal and not package.settling:
            # Not now: the scheduler is in the middle of something.
            package.settling = True
            self.engine.soon(self._settle, package)

    def _settle(self, package: Package) -> None:
        package.settling = False
        for core in package.cores:
            index = min(member.performance for member in core.members)
            while 0 < self.clocks[index].cores < package.awake:
                index += 1
            if index != core.clock:
                self._account(core)
                core.clock = index
                speed = self.clocks[index].speed
                for member in core.members:
                    self.machine.speeds.set(member.processor, CAUSE, self._factor(member.processor, speed))
                if self._trace_clock is not None:
                    self._trace_clock((self.engine.now, CLOCK.id, core.number, speed))

    def _factor(self, processor: Processor, speed: int) -> int:
        return speed * NOMINAL // self.machine.tables.speed[processor.index] or 1

    # -- parking ---------------------------------------------------------------------------------------------

    def park(self, mask: int) -> None:
        """Park these processors and no others. Threads that wait or run where they may no longer are placed
        anew, those that run only if another processor is free; processors that are no longer parked take
        threads that wait. Not for use within a decision. Raises SimulationError if none would be left."""
        scheduler = self.machine.scheduler
        there = scheduler.all_mask
        if not there & ~mask:
            raise SimulationError(f"all processors ({mask:#x}) are parked; expected one at least that is not")
        changed = (mask ^ self.parked) & there
        if not changed:
            self.parked = mask
            return
        self._account_parking()
        self.parked = mask
        self.parking_changed = self.engine.now
        processors = [each for each in self.machine.processors if changed & each.bit]
        if self._trace_parking is not None:
            for processor in processors:
                parked = mask >> processor.index & 1
                self._trace_parking((self.engine.now, PARKING.id, processor.index, parked))
        for processor in processors:
            member = self._members[processor.index]
            if member.wanted != AWAKE:
                self._choose(member, self.engine.now - member.since)
            if mask & processor.bit:
                for thread in list(processor.queue) if scheduler.policy.ready_queues != "shared" else ():
                    scheduler.reconsider(thread)
                running = processor.thread
                if running is not None and scheduler.usable(running) & ~mask:
                    scheduler.move_off(processor)
        for thread in list(scheduler.ready_threads()):
            if not scheduler.idle_mask & changed & ~mask:
                break
            if scheduler.usable(thread) & changed & ~mask:
                scheduler.reconsider(thread)

    @property
    def parked_time(self) -> int:
        """For how long processors were parked, ns times processors."""
        return self._parked_time + self._parked_now().bit_count() * (self.engine.now - self._parked_since)

    def _parked_now(self) -> int:
        return self.parked & self.machine.scheduler.all_mask

    def _account_parking(self) -> None:
        self._parked_time = self.parked_time
        self._parked_since = self.engine.now

    # -- what is counted -------------------------------------------------------------------------------------

    def _draws(self, core: Core) -> int:
        return self.clocks[core.clock].power if core.state == AWAKE else self.states[core.state].power

    def _account(self, core: Core) -> None:
        """Count what a core took and did until now."""
        now = self.engine.now
        passed = now - core.since
        core.energy += passed * self._draws(core)
        if core.state == AWAKE:
            core.awake_time += passed
        else:
            core.times[core.state] += passed
        core.since = now

    def _account_package(self, package: Package) -> None:
        now = self.engine.now
        passed = now - package.since
        power = self.machine.tables.power
        if package.shallow:
            package.energy += passed * power.package
        else:
            package.energy += passed * power.asleep
            package.sleep_time += passed
        package.since = now

    def account(self) -> None:
        """Bring all totals of cores and packages up to now."""
        for core in self.cores.values():
            self._account(core)
        for package in self.packages.values():
            self._account_package(package)
        self._account_parking()

    @property
    def energy(self) -> int:
        """What the machine took so far, pJ."""
        self.account()
        return sum(core.energy for core in self.cores.values()) + sum(
            package.energy for package in self.packages.values()
        )

    def awake_time(self, processor: Processor) -> int:
        """For how long a processor was not idle: it ran threads, did interrupt work, or was waking, ns."""
        member = self._members[processor.index]
        return member.awake_time + (self.engine.now - member.since if member.wanted == AWAKE else 0)

    def counters(self) -> dict[str, float]:
        """By their Windows names, over all processors and the time so far; power in mW."""
        self.account()
        now = self.engine.now
        time = now - self.began or 1
        seconds = time / 1e9
        there = [member for member in self._members if member.processor.bit & self.machine.scheduler.all_mask]
        speeds, nominal = self.machine.speeds, self.machine.tables.speed
        fastest = max(self.clocks[0].speed / min(nominal), 1)
        total = "Processor Information(_Total)\\"
        found = {
            total + "Parking Status": float(self._parked_now().bit_count()),
            total + "% of Maximum Frequency": 100
            * sum(speeds.factor(member.processor, CAUSE) for member in there)
            / (NOMINAL * fastest * len(there)),
            total + "% Idle Time": 100
            * (1 - sum(self.awake_time(member.processor) for member in there) / (time * len(there))),
        }
        for kind in TYPES:
            of_kind = [index for index, state in enumerate(self.states) if state.type == kind]
            slept = sum(core.times[index] for core in self.cores.values() for index in of_kind)
            entered = sum(core.entries[index] for core in self.cores.values() for index in of_kind)
            found[f"{total}% C{kind} Time"] = 100 * slept / (time * len(self.cores))
            found[f"{total}C{kind} Transitions/sec"] = entered / seconds
        found["Power Meter(_Total)\\Power"] = self.energy / time
        return found

    def check(self) -> None:
        """Compare states with what processors do, and times with the clock. Raises SimulationError where they
        differ."""
        for member in self._members:
            processor = member.processor
            busy = processor.thread is not None or processor.level > PASSIVE_LEVEL
            if busy != (member.wanted == AWAKE):
                raise SimulationError(f"{processor!r} asks for idle state {member.wanted}, AWAKE is {AWAKE}")
        self.account()
        for core in self.cores.values():
            if core.state != min(member.wanted for member in core.members):
                raise SimulationError(f"core {core.number} is in idle state {core.state}")
            began = self.engine.now - core.awake_time - sum(core.times)
            if began < self.began:
                raise SimulationError(f"core {core.number} counts more time than there was")
        for number, package in self.packages.items():
            shallow = sum(c.state == AWAKE or not self.states[c.state].deep for c in package.cores)
            awake = sum(c.state == AWAKE for c in package.cores)
            if (shallow, awake) != (package.shallow, package.awake):
                raise SimulationError(f"package {number} counts {package.awake} cores awake, {awake} are")


def create_power(machine: Machine) -> Power | None:
    """The power of a machine where a plugin asks for it. Virtual processors have none."""
    ask = machine.hooks.power_policy
    policy = ask(machine) if ask is not None and machine.partition is None else None
    return Power(machine, policy) if policy is not None else None

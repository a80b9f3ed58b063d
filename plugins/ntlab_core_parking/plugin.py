"""Core parking: the load on as few processors, and packages, as will do; the others sleep.

Every `time_check` the engine looks at what each processor did, decides how many processors there shall be to
place threads on and which, and at which clock they run. Placement keeps to them, but for threads that may run
nowhere else, and for those of a node that is parked as a whole.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Generator, Iterable
from math import ceil
from typing import Literal

import attrs

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import NOMINAL, Machine, Power, PowerPolicy, Processor, Thread, watch_idle
from ntlab.plugin import option, plugin, state
from ntlab.quantities import MILLISECOND, Duration, Share
from ntlab_core_parking.workloads import Requests

WHOLE = 10_000
"""The utility of a processor that is never idle, at its nominal clock: per cent busy times per cent of it."""

Policy = Literal["ideal", "single", "all"]


def _up(value: float) -> int:
    """The next whole number, not misled by how a decimal fraction is held."""
    return ceil(value - 1e-9)


@attrs.define(eq=False)
class Seen:
    """What the engine knows of one processor.

    `utilities` are those of the last checks. `affinity` and `over` are weighted counts of checks in which,
    though parked, it was given a thread or had a high utility; they fade in others.
    """

    processor: Processor
    utilities: deque[int]
    awake: int = 0  # how long it had been awake at the last check
    busy: int = 0  # in the last interval, of WHOLE
    forced: int = 0  # threads that it was given though parked, since the last check
    affinity: int = 0
    over: int = 0

    @property
    def utility(self) -> int:
        return sum(self.utilities) // len(self.utilities)


@plugin(
    name="core_parking",
    summary="Load on as few processors and packages as will do; the others are parked and sleep.",
    release="ws2008r2",
    ledger=("P6",),
    workloads=(Requests,),
    neutral={"min_cores": "100 %", "performance": "none"},
)
class CoreParking:
    """Names are those of the power settings of R2; where their defaults are guesses, the README says so."""

    time_check: Duration = option(
        default=Duration(50 * MILLISECOND),
        help="How often the engine looks; 100 ms in 2008, for clocks.",
        minimum=MILLISECOND,
    )
    min_cores: Share = option(
        default=Share(0.10), help="Part of the processors that are never parked; 100 % parks none."
    )
    max_cores: Share = option(
        default=Share(1.0), help="Part of the processors that are not parked at most; raised to min_cores."
    )
    scope: Literal["node", "system"] = option(
        default="node", help="Whether min_cores and max_cores are of each node, or of the machine."
    )
    increase_threshold: Share = option(
        default=Share(0.60), help="Mean utility of the processors in use above which more are unparked."
    )
    decrease_threshold: Share = option(
        default=Share(0.40), help="Mean utility of the processors in use below which some are parked."
    )
    increase_policy: Policy = option(
        default="ideal",
        help="How many more: as bring the mean utility to the threshold, one, or all.",
    )
    decrease_policy: Policy = option(
        default="ideal",
        help="How many are parked: as bring the mean utility to the threshold, one, or all that may be.",
    )
    increase_time: int = option(
        default=3, help="For so many checks in a row it must be above.", minimum=1, maximum=100
    )
    decrease_time: int = option(
        default=10, help="For so many checks in a row it must be below.", minimum=1, maximum=100
    )
    history: int = option(default=1, help="Over how many checks utility is averaged.", minimum=1, maximum=100)
    overutilisation_threshold: Share = option(
        default=Share(0.60), help="Utility of a parked processor above which it is wanted."
    )
    overutilisation_weighting: int = option(
        default=100, help="What a check with such a utility counts.", minimum=1, maximum=1000
    )
    overutilisation_history: int = option(
        default=8,
        help="From how many such checks on, in hundredths of the weight, it is remembered.",
        minimum=1,
    )
    overutilisation_decrease: int = option(
        default=2, help="By what the count is divided at each check without.", minimum=2
    )
    affinity_weighting: int = option(
        default=100,
        help="What a check counts in which a parked processor got a thread.",
        minimum=1,
        maximum=1000,
    )
    affinity_history: int = option(
        default=8,
        help="From how many such checks on, in hundredths of the weight, it is remembered.",
        minimum=1,
    )
    affinity_decrease: int = option(
        default=2, help="By what that count is divided at each check without.", minimum=2
    )
    numa_override: Literal["whole_node", "ideal_node", "off"] = option(
        default="whole_node",
        help="When a thread may run on a parked processor of its ideal node: if all of that is parked, if "
        "none of it is idle but parked ones, or never.",
    )
    prefer_packages: bool = option(
        default=True, help="Whether processors of packages in use are unparked before others."
    )
    siblings: Literal["alike", "last"] = option(
        default="alike", help="Whether of a package's hyper-threads a second one of a core is unparked last."
    )
    parked_performance: Literal["none", "lowest", "highest"] = option(
        default="none", help="Which clock parked processors have: as they would, the lowest, or the highest."
    )
    performance: Literal["none", "ideal", "single", "rocket"] = option(
        default="none",
        help="How clocks follow the load: not, to the one that brings utility to the threshold, by one, or "
        "to the end.",
    )
    performance_increase: Share = option(
        default=Share(0.60), help="Busy part of a check above which a processor's clock is raised."
    )
    performance_decrease: Share = option(
        default=Share(0.40), help="Busy part of a check below which a processor's clock is lowered."
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _power: Power = attrs.field(init=False, repr=False, eq=False)
    _seen: list[Seen] = state(list)
    _parked: int = state(int)
    _checking: bool = state(bool)
    _last: int = state(int)  # when the last check was, or would have been
    _above: int = state(int)  # checks in a row
    _below: int = state(int)
    _least: int = state(int)  # how many processors may be unparked
    _most: int = state(int)
    _changed: bool = state(bool)  # the hardware, since processors were chosen
    _parts: list[tuple[int, int, int]] = state(list)  # masks of processors, and how many of each may be

    # -- options -------------------------------------------------------------------------------------------

    @property
    def parks(self) -> bool:
        """Whether it parks anything at all."""
        return self.min_cores < 1

    @hookimpl(trylast=True)
    def power_policy(self) -> PowerPolicy | None:
        """The baseline's, or else the default one: without idle states parking means nothing."""
        return PowerPolicy() if self.parks or self.performance != "none" else None

    def _check_options(self) -> None:
        for increase, decrease, what in (
            (self.increase_threshold, self.decrease_threshold, "decrease_threshold"),
            (self.performance_increase, self.performance_decrease, "performance_decrease"),
        ):
            if decrease >= increase:
                raise UserError(
                    f"{decrease:.0%} is not below the other threshold, {increase:.0%}: it would oscillate",
                    where=f"core_parking.{what}",
                    expected=f"below {increase:.0%}",
                )
        if self.max_cores < self.min_cores and self.parks:
            warnings.warn(
                f"core_parking.max_cores: {self.max_cores:.0%} is raised to min_cores, {self.min_cores:.0%}",
                stacklevel=1,
            )
        if not self.max_cores and not self.min_cores:
            raise UserError(
                "0 % leaves no processor unparked", where="core_parking.max_cores", expected="more than 0 %"
            )

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        self._check_options()
        self._machine = machine
        if machine.power is None or not (self.parks or self.performance != "none"):
            return
        self._power = machine.power
        self._look(machine)
        if self._parked_beyond():
            self._park(self._choose(self._most))
        watch_idle(machine, self._idle)
        self._go_on()

    @hookimpl
    def hardware_changed(self, machine: Machine) -> None:
        if self._seen:
            self._look(machine)

    def _look(self, machine: Machine) -> None:
        """Look at the hardware."""
        self._changed = True
        while self._seen and self._seen[-1].processor not in machine.processors[len(self._seen) - 1 :]:
            self._seen.pop()
        for processor in machine.processors[len(self._seen) :]:
            seen = Seen(processor, deque([0], maxlen=self.history))
            seen.awake = self._power.awake_time(processor)
            self._seen.append(seen)
        tables, there = machine.tables, machine.scheduler.all_mask
        parts = [mask & there for mask in tables.node_mask] if self.scope == "node" else [there]
        self._parts = []
        for mask in parts:
            count = mask.bit_count()
            least = _up(self.min_cores * count)
            most = max(least, _up(self.max_cores * count))
            self._parts.append((mask, least, most))
        self._least = max(1, sum(least for _, least, _ in self._parts))
        self._most = max(self._least, sum(most for _, _, most in self._parts))
        self._node_mask = [tables.node_mask[node] for node in tables.node_of]

    def _parked_beyond(self) -> bool:
        return self.parks and self._most < self._machine.scheduler.all_mask.bit_count()

    # -- the check -----------------------------------------------------------------------------------------

    def _idle(self, processor: Processor, idle: bool) -> None:
        if idle:
            return
        if self._parked & processor.bit and processor.thread is not None:
            self._seen[processor.index].forced += 1
        if not self._checking:
            self._go_on()

    def _go_on(self) -> None:
        """Look again from now on, at whole multiples of the time between checks."""
        self._checking = True
        engine = self._machine.engine
        self._last = engine.now // self.time_check * self.time_check
        engine.at(self._last + self.time_check, self._check)

    def _check(self, _: object) -> int | None:
        now = self._machine.engine.now
        quiet = self._measure(now - self._last)
        self._last = now
        before = self._parked
        if self.parks:
            self._decide()
        if self.performance != "none" or self.parked_performance != "none":
            quiet &= not self._set_clocks()
        # With nobody at work and nothing left to be forgotten, each further check would find the same.
        if (
            quiet
            and self._parked == before
            and (not self.parks or self._unparked().bit_count() == self._least)
        ):
            self._checking = False
            return None
        return self.time_check

    def _measure(self, interval: int) -> bool:
        """What each processor did since the last check. Whether that is nothing, with nothing remembered."""
        quiet = True
        for seen in self._seen:
            processor = seen.processor
            awake = self._power.awake_time(processor)
            seen.busy = WHOLE * (awake - seen.awake) // interval
            seen.awake = awake
            seen.utilities.append(
                seen.busy * self._machine.speeds.factor(processor, "performance state") // NOMINAL
            )
            parked = self._parked & processor.bit
            wanted = parked and seen.utilities[-1] > self.overutilisation_threshold * WHOLE
            seen.over = (
                seen.over + self.overutilisation_weighting
                if wanted
                else seen.over // self.overutilisation_decrease
            )
            seen.affinity = (
                seen.affinity + self.affinity_weighting
                if seen.forced
                else seen.affinity // self.affinity_decrease
            )
            seen.forced = 0
            quiet &= not (any(seen.utilities) or seen.over or seen.affinity)
        return quiet

    def _unparked(self) -> int:
        return self._machine.scheduler.all_mask & ~self._parked

    def _decide(self) -> None:
        """How many processors shall be unparked, and which."""
        unparked = self._unparked().bit_count()
        there = self._machine.scheduler.all_mask
        total = sum(seen.utility for seen in self._seen if there & seen.processor.bit)
        self._above = self._above + 1 if total > self.increase_threshold * WHOLE * unparked else 0
        self._below = self._below + 1 if total < self.decrease_threshold * WHOLE * unparked else 0
        wanted = unparked
        if self._above >= self.increase_time:
            self._above = 0
            ideal = _up(total / (self.increase_threshold * WHOLE))
            wanted = {"ideal": max(ideal, unparked), "single": unparked + 1, "all": self._most}[
                self.increase_policy
            ]
        elif self._below >= self.decrease_time:
            self._below = 0
            ideal = _up(total / (self.decrease_threshold * WHOLE))
            wanted = {"ideal": min(ideal, unparked), "single": unparked - 1, "all": self._least}[
                self.decrease_policy
            ]
        wanted = max(self._least, min(wanted, self._most))
        if wanted != unparked or self._changed or any(map(self._is_wanted, self._seen)):
            self._changed = False
            self._park(self._choose(wanted))

    def _is_wanted(self, seen: Seen) -> bool:
        """Whether a parked processor has reasons to be unparked in place of another."""
        if not self._parked & seen.processor.bit:
            return False
        return self._is_over(seen) or seen.affinity >= self.affinity_history * 100

    def _park(self, parked: int) -> None:
        if parked != self._parked:
            self._parked = parked
            self._power.park(parked)

    def _choose(self, count: int) -> int:
        """Which processors are parked if so many are not."""
        tables = self._machine.tables
        there = self._machine.scheduler.all_mask
        over = self._mask(seen for seen in self._seen if self._is_over(seen))
        affine = self._mask(seen for seen in self._seen if seen.affinity >= self.affinity_history * 100)
        high = self._mask(seen for seen in self._seen if seen.utility > self.increase_threshold * WHOLE)
        unparked = there & ~self._parked
        order = [seen.processor.index for seen in sorted(self._seen, key=lambda seen: -seen.utility)]
        chosen = packages = cores = 0

        def take(candidates: int) -> None:
            nonlocal chosen, packages, cores
            for kept in (over, affine):
                candidates = candidates & kept or candidates
            if self.prefer_packages:
                candidates &= packages if candidates & packages else self._fullest(candidates)
            if self.siblings == "last":
                candidates = candidates & ~cores or candidates
            for kept in (unparked, high):
                candidates = candidates & kept or candidates
            index = next(index for index in order if candidates >> index & 1)
            chosen |= 1 << index
            packages |= tables.package_mask[tables.package_of[index]]
            cores |= tables.core_mask[tables.core_of[index]]

        for mask, least, _ in self._parts:
            for _ in range(least):
                take(mask & ~chosen)
        while chosen.bit_count() < count:
            room = 0
            for mask, _, most in self._parts:
                if (chosen & mask).bit_count() < most:
                    room |= mask
            take(room & ~chosen if room & ~chosen else there & ~chosen)
        return there & ~chosen

    def _fullest(self, candidates: int) -> int:
        """The package with most unparked candidates, of several the one with most to do."""
        packages = [mask for mask in self._machine.tables.package_mask if mask & candidates]
        return max(
            packages,
            key=lambda mask: (
                (mask & candidates & ~self._parked).bit_count(),
                sum(seen.utility for seen in self._seen if seen.processor.bit & mask),
            ),
        )

    def _is_over(self, seen: Seen) -> bool:
        """Whether a processor has, or often had, more to do than a parked one should."""
        now = (
            bool(self._parked & seen.processor.bit) and seen.utility > self.overutilisation_threshold * WHOLE
        )
        return now or seen.over >= self.overutilisation_history * 100

    @staticmethod
    def _mask(found: Iterable[Seen]) -> int:
        return sum(seen.processor.bit for seen in found)

    # -- clocks --------------------------------------------------------------------------------------------

    def _set_clocks(self) -> bool:
        """Give each processor its clock. Whether any has changed."""
        changed = False
        clocks = self._power.clocks
        for seen in self._seen:
            processor = seen.processor
            present = wanted = self._power.asked(processor)
            if self._parked & processor.bit and self.parked_performance != "none":
                wanted = 0 if self.parked_performance == "highest" else len(clocks) - 1
            elif self.performance != "none":
                wanted = self._clock(seen.busy, present)
            if wanted != present:
                changed = True
                self._power.set_performance(processor, wanted)
        return changed

    def _clock(self, busy: int, present: int) -> int:
        clocks = self._power.clocks
        slowest = len(clocks) - 1
        if busy > self.performance_increase * WHOLE:
            threshold, step, end = self.performance_increase, -1, 0
        elif busy < self.performance_decrease * WHOLE:
            threshold, step, end = self.performance_decrease, 1, slowest
        else:
            return present
        if self.performance == "single":
            return max(0, min(present + step, slowest))
        if self.performance == "rocket":
            return end
        work = busy * clocks[present].speed
        fitting = [i for i, clock in enumerate(clocks) if work <= threshold * WHOLE * clock.speed]
        return max(fitting, default=0)

    # -- placement -----------------------------------------------------------------------------------------

    def _allowed(self, thread: Thread) -> int:
        """The processors that a thread may be placed on: not the parked ones, unless it must be."""
        there = thread.affinity & self._machine.scheduler.all_mask
        unparked = there & ~self._parked
        if not unparked:
            return there
        if self.numa_override == "whole_node":
            node = there & self._node_mask[thread.ideal]
            if node and not node & unparked:
                return node
        return unparked

    @hookimpl
    def usable_processors(self, thread: Thread, idle: int) -> int | None:
        if not idle & self._parked:
            return None
        usable = idle & self._allowed(thread)
        if self.numa_override == "ideal_node":
            near = idle & self._node_mask[thread.ideal]
            if near and not near & usable:
                return near
        if usable:
            return usable
        # All that it should be placed on are busy, unless its node is: then any that is not parked will do.
        return idle & ~self._parked

    @hookimpl(wrapper=True)
    def choose_busy_processor(self, thread: Thread) -> Generator[None, int | None, int | None]:
        found = yield
        if not self._parked:
            return found
        scheduler = self._machine.scheduler
        busy = thread.affinity & scheduler.all_mask & ~scheduler.idle_mask
        allowed = busy & self._allowed(thread) or busy
        if found is None or allowed >> found & 1:
            return found
        return min(
            (each.index for each in self._machine.processors if allowed & each.bit),
            key=lambda index: (
                self._distance(thread, index),
                len(self._machine.processors[index].queue),
                index,
            ),
        )

    def _distance(self, thread: Thread, index: int) -> int:
        node_of = self._machine.tables.node_of
        return self._machine.tables.nearest[node_of[thread.ideal]].index(node_of[index])

    @hookimpl(tryfirst=True)
    def choose_thread(self, processor: Processor) -> Thread | Literal[False] | None:
        if not self._parked & processor.bit:
            return None
        scheduler = self._machine.scheduler
        if not scheduler.waiting_queues:
            return False
        return next(
            (
                thread
                for thread in scheduler.ready_threads()
                if thread.affinity & processor.bit and self._allowed(thread) & processor.bit
            ),
            False,
        )

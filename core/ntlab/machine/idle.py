"""When processors do nothing at all: neither a thread nor interrupt work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from ntlab.machine.processors import PASSIVE_LEVEL
from ntlab.plugin import Metric

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor
    from ntlab.machine.threads import Thread

IdleWatcher = Callable[["Processor", bool], None]


def watch_idle(machine: Machine, watch: IdleWatcher) -> None:
    """Call `watch(processor, True)` when a processor becomes idle, `watch(processor, False)` when it wakes.

    It wakes for an interrupt, a DPC or a thread; what follows before it is idle again is the same wake-up.
    """

    def switched(processor: Processor, old: Thread | None, new: Thread | None) -> None:
        if processor.level == PASSIVE_LEVEL and (old is None or new is None):
            watch(processor, new is None)

    machine.scheduler.watch_switches(switched)
    machine.interrupts.idle_watchers.append(watch)


def is_idle(processor: Processor) -> bool:
    """Whether a processor does nothing now."""
    return processor.thread is None and processor.level == PASSIVE_LEVEL


class IdleTimes:
    """How often each processor wakes, and how long it was idle before, from `begin` to `end`.

    `wakes` counts by processor; `gaps` has the lengths of idle times, ns, those cut off by the beginning and
    the end included. `together` is the time for which no processor of a group did anything, by group. Where
    the machine has power (`machine.power`), `energy` (pJ) is what it took, and `deepest` the time that cores
    were in the deepest idle state, `asleep` that packages slept: all cores and all packages, ns.
    """

    def __init__(self, machine: Machine, groups: tuple[int, ...] = ()) -> None:
        self.machine = machine
        self.groups = groups  # masks of processors
        self.wakes: defaultdict[int, int] = defaultdict(int)
        self.gaps: defaultdict[int, list[int]] = defaultdict(list)
        self.together = [0] * len(groups)
        self._since: dict[int, int] = {}
        self._idle = 0
        self._together_since: list[int] = [0] * len(groups)
        self._counting = False
        self._time = 0  # from the beginning to the end
        self.energy = self.deepest = self.asleep = 0
        self._before = (0, 0, 0)
        watch_idle(machine, self._watch)

    def begin(self) -> None:
        """Count from now on."""
        now = self.machine.engine.now
        self.wakes.clear()
        self.gaps.clear()
        idle = [p.index for p in self.machine.processors if is_idle(p)]
        self._since = dict.fromkeys(idle, now)
        self._idle = sum(1 << index for index in idle)
        self.together = [0] * len(self.groups)
        self._together_since = [now] * len(self.groups)
        self._before = self._power()
        self._time = -now
        self._counting = True

    def end(self) -> None:
        """Count no more."""
        now = self.machine.engine.now
        self._counting = False
        self._time += now
        for index, since in self._since.items():
            self.gaps[index].append(now - since)
        for group, mask in enumerate(self.groups):
            if self._idle & mask == mask:
                self.together[group] += now - self._together_since[group]
        spent = (then - before for then, before in zip(self._power(), self._before, strict=True))
        self.energy, self.deepest, self.asleep = spent

    def power_metrics(self) -> list[Metric]:
        """What the time that was counted took: "power" (W), and for which parts of it cores were in the
        deepest idle state ("deepest") and packages slept ("package_sleep"). Empty where there is no power."""
        power = self.machine.power
        if power is None:
            return []
        return [
            Metric("power", self.energy / self._time / 1000, "W"),
            Metric("deepest", self.deepest / (self._time * len(power.cores))),
            Metric("package_sleep", self.asleep / (self._time * len(power.packages))),
        ]

    def _power(self) -> tuple[int, int, int]:
        power = self.machine.power
        if power is None:
            return 0, 0, 0
        energy = power.energy
        deepest = sum(core.times[-1] for core in power.cores.values() if core.times)
        return energy, deepest, sum(package.sleep_time for package in power.packages.values())

    def _watch(self, processor: Processor, idle: bool) -> None:
        if not self._counting:
            return
        now = self.machine.engine.now
        index = processor.index
        if not idle:
            since = self._since.pop(index, now)
            if now > since:
                self.wakes[index] += 1
                self.gaps[index].append(now - since)
        else:
            self._since[index] = now
        for group, mask in enumerate(self.groups):
            if mask & processor.bit:
                if idle and (self._idle | processor.bit) & mask == mask:
                    self._together_since[group] = now
                elif not idle and self._idle & mask == mask:
                    self.together[group] += now - self._together_since[group]
        self._idle = self._idle | processor.bit if idle else self._idle & ~processor.bit

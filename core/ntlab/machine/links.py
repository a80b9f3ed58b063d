"""Links: what carries data, shared by all who use it at the same time.

A flow is a piece of work that would take so many ns if it were alone: the time that latency alone gives.
While it is alone, or its links are wide enough for everyone's full rate, that is what it takes. Where the
full rates add up to more than a link carries, the link is shared max-min fair: nobody gets more than its
full rate, and those who want more than the fair level get the level. A flow may load each of its links at
another rate; it goes at the least of its shares. When a flow begins or ends, those who share a link with it
are replanned at that instant.

The accounts are integers: the work left is held in ns times `NOMINAL`, and a flow's speed, like that of a
processor, in parts of `NOMINAL`. So an undisturbed flow ends at the exact ns, and a shared one within the
1/2**20 to which its speed is rounded down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ntlab.engine import Engine, Event
from ntlab.errors import SimulationError
from ntlab.machine.processors import NOMINAL


class Link:
    """A way for data. `bandwidth` in bytes a second; `latency` in ns is for those who plan their work by it.

    `flows` are those that use it now, each with its full rate here, bytes a second; `demand` is the sum of
    these, `level` the most that one may have, None while there is enough for all.
    """

    __slots__ = ("bandwidth", "demand", "flows", "latency", "level", "name")

    def __init__(self, name: str, bandwidth: int, latency: int = 0) -> None:
        if bandwidth <= 0:
            raise SimulationError(f"link {name!r} has a bandwidth of {bandwidth} bytes/s")
        self.name = name
        self.bandwidth = bandwidth
        self.latency = latency
        self.flows: dict[Flow, int] = {}  # in the order in which they began
        self.demand = 0
        self.level: int | None = None

    def __repr__(self) -> str:
        return f"<Link {self.name} {len(self.flows)} flows>"

    def _fair_level(self) -> int | None:
        if self.demand <= self.bandwidth:
            return None
        rest = self.bandwidth
        waiting = len(self.flows)
        for rate in sorted(self.flows.values()):
            level = rest // waiting
            if rate >= level:
                return max(level, 1)
            rest -= rate
            waiting -= 1
        raise SimulationError(f"{self!r} is full, though everyone has the full rate")


class Flow:
    """Work that goes over links: `left` ns * NOMINAL of it, at `speed` parts of NOMINAL since `since`.

    `loads` are its links, each with its full rate there, bytes a second.
    """

    __slots__ = ("action", "argument", "event", "left", "loads", "since", "speed")

    def __init__(self, action: Callable[[Any], Any], argument: Any) -> None:
        self.action = action
        self.argument = argument
        self.loads: Sequence[tuple[Link, int]] = ()
        self.left = 0
        self.speed = 0
        self.since = 0
        self.event: Event | None = None


class Links:
    """Starts, stops and replans the flows of one machine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def start(
        self,
        loads: Sequence[tuple[Link, int]],
        work: int,
        action: Callable[[Any], Any],
        argument: Any = None,
    ) -> Flow:
        """Begin a flow that takes `work` ns at its full rates: those of `loads`, (link, bytes a second).

        When it is done, `action(argument)` is called; by then it has left its links.
        """
        if work < 0 or any(rate <= 0 for _, rate in loads):
            raise SimulationError(f"a flow of {work} ns at {[rate for _, rate in loads]} bytes/s")
        flow = Flow(action, argument)
        self.resume(flow, loads, work * NOMINAL)
        return flow

    def stop(self, flow: Flow) -> int:
        """End a flow before it is done, without its action. Returns the work left, in ns * NOMINAL."""
        assert flow.event is not None
        self.engine.cancel(flow.event)
        self._settle(flow)
        self._leave(flow)
        return flow.left

    def resume(self, flow: Flow, loads: Sequence[tuple[Link, int]], left: int) -> None:
        """Go on with a stopped flow, perhaps over other links, with `left` ns * NOMINAL to do."""
        flow.loads, flow.left = loads, left
        flow.since = self.engine.now
        flow.event = None
        for link, rate in loads:
            link.flows[flow] = rate
            link.demand += rate
        self._share(loads)
        if flow.event is None:
            self._plan(flow)

    def _leave(self, flow: Flow) -> None:
        for link, rate in flow.loads:
            del link.flows[flow]
            link.demand -= rate
        self._share(flow.loads)

    def _done(self, flow: Flow) -> None:
        self._leave(flow)
        flow.action(flow.argument)

    def _share(self, loads: Sequence[tuple[Link, int]]) -> None:
        """Who uses these links has changed: replan every flow whose speed changes by it."""
        for link, _ in loads:
            level = link._fair_level()
            if level == link.level:
                continue
            link.level = level
            for flow in link.flows:
                if flow.speed != _speed(flow):
                    if flow.event is not None:
                        self.engine.cancel(flow.event)
                        self._settle(flow)
                    self._plan(flow)

    def _settle(self, flow: Flow) -> None:
        now = self.engine.now
        flow.left = max(0, flow.left - (now - flow.since) * flow.speed)
        flow.since = now

    def _plan(self, flow: Flow) -> None:
        speed = flow.speed = _speed(flow)
        flow.event = self.engine.at(flow.since - (-flow.left // speed), self._done, flow)


def _speed(flow: Flow) -> int:
    speed = NOMINAL
    for link, rate in flow.loads:
        level = link.level
        if level is not None and level < rate:
            speed = min(speed, level * NOMINAL // rate or 1)
    return speed

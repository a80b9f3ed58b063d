"""Scenarios: an event that starts something a user waits for, and one that ends it; and how long they took.

Nothing here knows of machines: records go in, in the order of time, and durations come out.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import attrs

from ntlab.errors import UnknownNameError, UserError
from ntlab.quantities import SECOND, Duration, Share
from ntlab.tracing import EventType
from ntlab.tracing.records import stable_id

KERNEL_LOGGER = "NT Kernel Logger"
"""The provider of events that are named without one."""
MOST = 300
"""How many scenarios PerfTrack has (S4)."""
TIMEOUT = Duration(60 * SECOND)
TARGET = Share(0.95)
ALL = Share(1.0)
NO_TIME = Duration(0)
Z = 1.959963984540054
"""The normal quantile of a two-sided interval of 95 %."""

Overlap = Literal["duplicate", "oldest", "newest"]


@attrs.frozen(kw_only=True)
class Scenario:
    """What is measured, and its goal.

    `start` and `end` name events, as "Lab-Boot/Task/Start"; "Thread/CSwitch" is one of the kernel's logger.
    An end belongs to the start that has the same values in the fields `key` (of the end: `end_key`, if they
    are named otherwise there). Only records with the values of `start_where` and `end_where` count.

    The goal is met if `target` of all take at most `goal`. Up to the goal is great, up to `poor` (0: four
    times the goal) is ok, the rest is poor. What has not ended after `timeout` has timed out.

    `overlap` says what another start of the same key means while one is open: a duplicate, which is flagged
    and otherwise ignored; or one more, and then an end belongs to the oldest, or to the newest, as of calls
    inside of each other. `sample` is which part of the starts is followed. An end
    that belongs to no start is flagged, unless `stray_ends` says that the event has other reasons, too.
    """

    name: str
    start: str
    end: str
    goal: Duration
    key: tuple[str, ...] = ()
    end_key: tuple[str, ...] = ()
    start_where: dict[str, int | str] = attrs.field(factory=dict)
    end_where: dict[str, int | str] = attrs.field(factory=dict)
    target: Share = TARGET
    poor: Duration = NO_TIME
    timeout: Duration = TIMEOUT
    overlap: Overlap = "duplicate"
    sample: Share = ALL
    stray_ends: Literal["flag", "ignore"] = "flag"

    @property
    def poor_from(self) -> int:
        """What takes longer than this is poor, ns."""
        return self.poor or 4 * self.goal


def check_scenarios(scenarios: Sequence[Scenario], where: str) -> None:
    """Raises UserError, naming `where` they were written, for scenarios that mean nothing."""
    names: set[str] = set()
    for each in scenarios:
        here = f"{where}: scenario {each.name!r}"
        if each.name in names:
            raise UserError(f"two scenarios are called {each.name!r}", where=where)
        names.add(each.name)
        if each.goal <= 0:
            raise UserError(f"a goal of {each.goal} ns", where=here, expected="more than 0")
        if not 0 < each.target <= 1:
            raise UserError(f"a target of {each.target}", where=here, expected="more than 0, at most 1")
        if each.timeout < each.goal:
            raise UserError(
                f"a timeout of {each.timeout} ns, before the goal",
                where=here,
                expected=f"at least {each.goal} ns",
            )
        if each.poor and each.poor < each.goal:
            raise UserError(
                f"poor from {each.poor} ns on, before the goal",
                where=here,
                expected=f"at least {each.goal} ns",
            )
        if not each.sample > 0:
            raise UserError("a sample of nothing", where=here, expected="more than 0")
        if each.end_key and len(each.end_key) != len(each.key):
            raise UserError(
                f"{len(each.end_key)} fields in end_key", where=here, expected=f"{len(each.key)}, as in key"
            )
        if (
            each.start == each.end
            and (each.end_key or each.key) == each.key
            and each.start_where == each.end_where
        ):
            raise UserError("its start is its end", where=here, expected="two events")


def wilson(within: int, total: int) -> tuple[float, float]:
    """The interval of 95 % for a share of which `within` of `total` were seen (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    share = within / total
    middle = share + Z * Z / (2 * total)
    half = Z * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total))
    scale = 1 + Z * Z / total
    low, high = (middle - half) / scale, (middle + half) / scale
    # Exactly 0 and 1 at the ends, which rounding may miss.
    return (0.0 if within == 0 else max(0.0, low)), (1.0 if within == total else min(1.0, high))


def percentile(ordered: Sequence[int], share: float) -> int:
    """The least of the values in order that at least such a share of all does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a scenario in a run.

    `durations` of those that ended in time, in the order in which they ended. `timeouts` counts the starts
    without an end, those that the end of the run cut short too, which `cut` counts; `undecided` are those of
    them that were not yet beyond the goal, so nobody knows whether they would have met it.

    `times` is all that is known, in order: a timeout counts with the time that it had been waited for.
    `within` of the `judged` met the goal.
    """

    scenario: Scenario
    durations: tuple[int, ...]
    waited: tuple[int, ...]
    cut: int
    undecided: int
    flags: Mapping[str, int]

    @property
    def timeouts(self) -> int:
        return len(self.waited)

    @property
    def times(self) -> list[int]:
        return sorted((*self.durations, *self.waited))

    @property
    def judged(self) -> int:
        return len(self.durations) + len(self.waited) - self.undecided

    @property
    def within(self) -> int:
        return sum(duration <= self.scenario.goal for duration in self.durations)

    @property
    def bands(self) -> tuple[int, int, int]:
        """How many were great, ok, and poor; a timeout by the time that it had been waited for, not great."""
        ordered = sorted(self.durations)
        great = bisect_right(ordered, self.scenario.goal)
        fair = bisect_right(ordered, self.scenario.poor_from)
        late = sum(waited > self.scenario.poor_from for waited in self.waited)
        return great, fair - great + self.timeouts - self.undecided - late, len(ordered) - fair + late

    @property
    def met(self) -> bool:
        """Whether the goal was met. Nothing judged, nothing missed."""
        return not self.judged or self.within >= self.scenario.target * self.judged - 1e-9

    @property
    def unsure(self) -> bool:
        """Whether so few were seen that it may as well be otherwise, with 95 % confidence."""
        if not self.judged:
            return True
        low, high = wilson(self.within, self.judged)
        return low < self.scenario.target <= high if not self.met else low < self.scenario.target


FLAGS = ("duplicate starts", "duplicate ends", "late ends", "ends without a start")

Key = tuple[int, ...]


class Matcher:
    """Finds one scenario in a stream of records.

    Each key's open starts are held in the order in which they came. What is flagged: a start while one is
    open, where that is a duplicate; an end whose start has timed out; an end whose start has had its end;
    an end whose key never started.
    """

    __slots__ = ("_chance", "_durations", "_flags", "_open", "_seen", "_waited", "scenario")

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._chance: random.Random | None = None
        self._open: dict[Key, deque[tuple[int, bool]]] = {}  # when each started, and whether it is followed
        self._seen: dict[Key, bool] = {}  # keys that started before: whether the last one timed out
        self._durations = array("q")
        self._waited = array("q")
        self._flags = dict.fromkeys(FLAGS, 0)

    def draw_from(self, chance: random.Random) -> None:
        """Whence it draws which starts are followed; before, all are."""
        self._chance = chance

    def starts(self, now: int, key: Key) -> None:
        """A start. `now` is not less than it was."""
        open_ones = self._expired(now, key)
        if open_ones and self.scenario.overlap == "duplicate":
            self._flags["duplicate starts"] += 1
            return
        followed = self._chance is None or self._chance.random() < self.scenario.sample
        if open_ones is None:
            open_ones = self._open[key] = deque()
        open_ones.append((now, followed))

    def ends(self, now: int, key: Key) -> None:
        """An end."""
        open_ones = self._expired(now, key)
        if not open_ones:
            if self.scenario.stray_ends == "ignore":
                return
            timed_out = self._seen.get(key)
            if timed_out is None:
                self._flags["ends without a start"] += 1
            elif timed_out:
                self._flags["late ends"] += 1
                self._seen[key] = False
            else:
                self._flags["duplicate ends"] += 1
            return
        began, followed = open_ones.pop() if self.scenario.overlap == "newest" else open_ones.popleft()
        if not open_ones:
            del self._open[key]
        self._seen[key] = False
        if followed:
            self._durations.append(now - began)

    def _expired(self, now: int, key: Key) -> deque[tuple[int, bool]] | None:
        """The open starts of a key, without those that have timed out."""
        open_ones = self._open.get(key)
        while open_ones and now - open_ones[0][0] > self.scenario.timeout:
            _, followed = open_ones.popleft()
            self._seen[key] = True
            if followed:
                self._waited.append(self.scenario.timeout)
        return open_ones

    def outcome(self, now: int) -> Outcome:
        """What has become of it by `now`, the end of the run."""
        waited = list(self._waited)
        cut = undecided = 0
        for open_ones in self._open.values():
            for began, followed in open_ones:
                if followed:
                    age = min(now - began, self.scenario.timeout)
                    waited.append(age)
                    cut += now - began <= self.scenario.timeout
                    undecided += age <= self.scenario.goal and now - began <= self.scenario.timeout
        return Outcome(
            scenario=self.scenario,
            durations=tuple(self._durations),
            waited=tuple(waited),
            cut=cut,
            undecided=undecided,
            flags=dict(self._flags),
        )


_Listeners = dict[Key, dict[Key, list[tuple[Key, Callable[[int, Key], None]]]]]
"""By the places of the fields asked for, and then by their values: the key's places, and whom to tell."""


def _whole(name: str, known: Collection[EventType]) -> EventType | None:
    for whole in (name, f"{KERNEL_LOGGER}/{name}"):
        for each in known:
            if whole == f"{each.provider}/{each.name}":
                return each
    return None


def is_known(name: str, known: Collection[EventType]) -> bool:
    """Whether there is an event of that name."""
    return _whole(name, known) is not None


def event_named(name: str, known: Collection[EventType], where: str) -> EventType:
    """The event type of a name with its provider, which may be left out if it is the kernel's logger.

    Raises UnknownNameError.
    """
    found = _whole(name, known)
    if found is None:
        # The records of child partitions, "NAME/PROVIDER", depend on what ran before.
        names = {f"{each.provider}/{each.name}" for each in known if "/" not in each.provider}
        names |= {each.name for each in known if each.provider == KERNEL_LOGGER}
        raise UnknownNameError("event", name, names, where=where)
    return found


class Ear:
    """Listens to the records of one event: whose ends, and whose starts, each is.

    By the values of the fields that scenarios ask for it finds these at once, however many there are.
    """

    __slots__ = ("_ends", "_places", "_starts", "event")

    def __init__(self, event: EventType) -> None:
        self.event = event
        self._places = {
            field.rstrip("$#"): (at, field.endswith("$")) for at, field in enumerate(event.fields, 2)
        }
        self._ends: _Listeners = {}
        self._starts: _Listeners = {}

    def ends(self, matcher: Matcher, where: str) -> None:
        """These are the scenario's ends. Raises UserError for fields that the event has not."""
        scenario = matcher.scenario
        self._add(self._ends, scenario.end_key or scenario.key, scenario.end_where, matcher.ends, where)

    def starts(self, matcher: Matcher, where: str) -> None:
        """These are the scenario's starts. Raises UserError for fields that the event has not."""
        scenario = matcher.scenario
        self._add(self._starts, scenario.key, scenario.start_where, matcher.starts, where)

    def _add(
        self,
        listeners: _Listeners,
        key: Sequence[str],
        wanted: Mapping[str, int | str],
        action: Callable[[int, Key], None],
        where: str,
    ) -> None:
        for field in (*key, *wanted):
            if field not in self._places:
                raise UnknownNameError(f"field of {self.event.name}", field, self._places, where=where)
        values = []
        for field, value in wanted.items():
            is_text = self._places[field][1]
            if is_text != isinstance(value, str):
                expected = "text" if is_text else "a whole number"
                raise UserError(f"{field} = {value!r}", where=where, expected=expected)
            values.append(stable_id(value) if isinstance(value, str) else value)
        places = tuple(self._places[field][0] for field in wanted)
        taken = tuple(self._places[field][0] for field in key)
        listeners.setdefault(places, {}).setdefault(tuple(values), []).append((taken, action))

    def hear(self, record: tuple[int, ...]) -> int:
        """Tell a flat record to those whom it concerns. How many these are."""
        count = 0
        # A record may end one instance and start the next: ends come first.
        for listeners in (self._ends, self._starts):
            for places, by_values in listeners.items():
                for taken, action in by_values.get(tuple([record[at] for at in places]), ()):
                    action(record[0], tuple([record[at] for at in taken]))
                    count += 1
        return count

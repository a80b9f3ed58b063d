"""The mode "profiled": where the time of a run goes.

All of it is told apart, each ns once: time in a plugin's hook belongs to that, other time in an event to what
happens there, and the rest to the engine. Measuring takes time too, so the shares are what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from types import CodeType, GeneratorType
from typing import Any

import attrs

from ntlab.engine import GuardedEngine, described
from ntlab.hooks import Watch


@attrs.define
class Spent:
    """What something cost: how often it was done, and ns of real time, that of what it asked for left out."""

    count: int = 0
    time: int = 0


class Profile(Watch):
    """The costs of a run: `events` by what happens, `hooks` by (plugin, hook), and the `rest`."""

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[str, Spent] = {}
        self.hooks: dict[tuple[str, str], Spent] = {}
        self.rest = Spent()
        self._running = [self.rest]
        self._since = perf_counter_ns()

    def begin(self, plugin: str, hook: str) -> None:
        super().begin(plugin, hook)
        self.enter(self.hooks.setdefault((plugin, hook), Spent()))

    def end(self) -> None:
        self.leave()
        super().end()

    def enter(self, spent: Spent) -> None:
        """From here on time is spent on this."""
        self._charge()
        spent.count += 1
        self._running.append(spent)

    def leave(self) -> None:
        """From here on time is spent again on what came before."""
        self._charge()
        self._running.pop()

    def _charge(self) -> None:
        now = perf_counter_ns()
        self._running[-1].time += now - self._since
        self._since = now

    def stop(self) -> int:
        """All is over. Returns the ns of real time that were spent."""
        self._charge()
        return self.rest.time + sum(spent.time for spent in (*self.events.values(), *self.hooks.values()))


class ProfiledEngine(GuardedEngine):
    """An `Engine` that tells its `profile` what happens."""

    __slots__ = ("_kinds", "profile")

    def __init__(self) -> None:
        super().__init__()
        self.profile = Profile()
        self._kinds: dict[CodeType, Spent] = {}

    def _guarded(self, action: Callable[[Any], Any]) -> Callable[[Any], Any]:
        profile, spent = self.profile, self._spent_on(action)

        def act(argument: Any) -> Any:
            profile.enter(spent)
            try:
                return action(argument)
            except StopIteration:
                if isinstance(getattr(action, "__self__", None), GeneratorType):
                    return None  # a process has come to its end
                raise
            finally:
                profile.leave()

        return act

    def _spent_on(self, action: Callable[[Any], Any]) -> Spent:
        """What a kind of event costs; events are of one kind if the same code runs."""
        subject = getattr(action, "__self__", None)
        code = subject.gi_code if isinstance(subject, GeneratorType) else getattr(action, "__code__", None)
        known = self._kinds.get(code) if code is not None else None
        if known is None:
            known = self.profile.events.setdefault(described(action), Spent())
            if code is not None:
                self._kinds[code] = known
        return known

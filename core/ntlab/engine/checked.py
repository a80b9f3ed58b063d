"""An engine that looks at what it is told: for the mode "checked", which wants the culprit, not speed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import GeneratorType
from typing import Any

from ntlab.engine.days import Event
from ntlab.engine.loop import NORMAL, Engine, described
from ntlab.errors import SimulationError

Action = Callable[[Any], Any]


class GuardedEngine(Engine):
    """An `Engine` that puts something around every action: see `_guarded`."""

    __slots__ = ()

    def at(self, time: int, action: Action, argument: Any = None, order: int = NORMAL) -> Event:
        return super().at(time, self._guarded(action), argument, order)

    def after(self, delay: int, action: Action, argument: Any = None, order: int = NORMAL) -> Event:
        return self.at(self.now + delay, action, argument, order)

    def soon(self, action: Action, argument: Any = None) -> Event:
        return self.at(self.now, action, argument)

    def inserter(self) -> Callable[[int, Event], Event]:
        def insert(delay: int, event: Event) -> Event:
            return self.after(delay, *event)

        return insert

    def _guarded(self, action: Action) -> Action:
        """What is called in place of an action."""
        raise NotImplementedError


class CheckedEngine(GuardedEngine):
    """An `Engine` in which times are whole numbers and actions return what they may.

    `acting` is the action that happens now, or happened last, with its argument.
    """

    __slots__ = ("acting",)

    def __init__(self) -> None:
        super().__init__()
        self.acting: tuple[Action, Any] | None = None

    def at(self, time: int, action: Action, argument: Any = None, order: int = NORMAL) -> Event:
        if type(time) is not int:
            raise SimulationError(f"event scheduled at {time!r} ns; expected a whole number")
        if not callable(action):
            raise SimulationError(f"event scheduled that calls {action!r}; expected a function")
        return super().at(time, action, argument, order)

    def _guarded(self, action: Action) -> Action:
        @wraps(action, assigned=(), updated=())
        def act(argument: Any) -> int | None:
            self.acting = (action, argument)
            try:
                delay = action(argument)
            except StopIteration:
                if isinstance(getattr(action, "__self__", None), GeneratorType):
                    return None  # a process has come to its end
                raise
            if delay is None:
                return None
            if type(delay) is not int or delay < 0:
                raise SimulationError(
                    f"{described(action)} returned {delay!r}; expected None, "
                    "or the ns until it happens again, 0 or more"
                )
            return delay

        return act

"""Bound hooks against pluggy itself: same results, same order of calls, same exceptions, on random plugins."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import PluginError, UnknownNameError
from ntlab.hooks.binding import BoundHooks, HookManager, Mode, bind, blame, implementations
from ntlab.hooks.markers import hookimpl, hookspec, observer

MODES: tuple[Mode, ...] = ("direct", "plain")


class Specifications:
    @hookspec
    def listed(self, a, b, result):
        """Arguments named as the generated code would like to name its own variables must not clash."""

    @hookspec(firstresult=True)
    def first(self, a, b, result):
        pass

    @observer
    def told(self, a, b, result):
        pass


def manager_of(*plugins: object, specifications: type = Specifications) -> HookManager:
    manager = HookManager()
    manager.add_hookspecs(specifications)
    for number, plugin in enumerate(plugins):
        manager.register(plugin, f"plugin_{number}")
    return manager


# Random plugins. An implementation is one integer, read as: what it does, when it asks to be called, what
# arguments it takes in what order.

ARGUMENTS = [names for size in range(4) for names in itertools.permutations(("a", "b", "result"), size)]
ORDERS: list[dict[str, bool]] = [{}, {"tryfirst": True}, {"trylast": True}]
VALUES = {"a": 1, "b": 2, "result": 3}


class Stop(BaseException):
    """Neither an Exception nor anything pluggy knows."""


def answer(kind: str, label: str) -> Any:
    match kind:
        case "none":
            return None
        case "fails":
            raise ValueError(label)
        case "stops iteration":
            raise StopIteration(label)
        case "stops":
            raise Stop(label)
    return 0 if kind == "falsy" else label


def wrap(kind: str, label: str, log: list[Any]) -> Iterator[None]:
    if kind == "fails before":
        raise ValueError(label)
    if kind == "never yields":
        return "unseen"
    if kind == "swallows":
        try:
            outcome = yield
        except Exception as error:
            log.append((label, "swallowed", repr(error)))
            return label
        return outcome
    if kind == "replaces error":
        try:
            return (yield)
        except Exception as error:
            raise KeyError(label) from error
    outcome = yield
    log.append((label, "saw", repr(outcome)))
    match kind:
        case "fails after":
            raise ValueError(label)
        case "stops iteration":
            raise StopIteration(label)
        case "replaces result":
            return (label, outcome)
        case "forgets result":
            return None
        case "yields twice":
            yield
        case "yields on error":
            try:
                yield
            except GeneratorExit:
                yield
    return outcome


def yields_twice_on_error(kind: str, label: str, log: list[Any]) -> Iterator[None]:
    try:
        return (yield)
    except Exception:
        yield


ANSWERS = ("value", "value", "falsy", "none", "none", "fails", "stops iteration", "stops")
WRAPS = (
    "passes", "swallows", "replaces result", "replaces error", "forgets result", "fails before", "fails after",
    "never yields", "yields twice", "yields on error", "stops iteration",
)  # fmt: skip
KINDS = (
    [("answer", kind) for kind in ANSWERS]
    + [("wrap", kind) for kind in WRAPS]
    + [("wrap", "second on error")]
)
CODES = len(KINDS) * len(ORDERS) * len(ARGUMENTS)


def factory(names: tuple[str, ...], wrapper: bool) -> Callable[..., Any]:
    """A maker of implementations that take these arguments."""
    seen = ", ".join(f"{name}={name}" for name in names)
    source = f"def make(act):\n def implementation({', '.join(names)}):\n  "
    source += f"return (yield from act({seen}))" if wrapper else f"return act({seen})"
    space: dict[str, Any] = {}
    exec(source + "\n return implementation", space)
    return space["make"]


FACTORIES = {(names, wrapper): factory(names, wrapper) for names in ARGUMENTS for wrapper in (False, True)}


def implementation(code: int, hook: str, label: str, log: list[Any]) -> Callable[..., Any]:
    code, shape = divmod(code, len(KINDS))
    arguments, order = divmod(code, len(ORDERS))
    role, kind = KINDS[shape]

    def act(**given: int) -> Any:
        log.append((hook, label, given))
        if role == "answer":
            return answer(kind, label)
        return (
            yields_twice_on_error(kind, label, log) if kind == "second on error" else wrap(kind, label, log)
        )

    made = FACTORIES[ARGUMENTS[arguments], role == "wrap"](act)
    return hookimpl(made, wrapper=role == "wrap", specname=hook, **ORDERS[order])


def outcome_of(call: Callable[[], Any], log: list[Any]) -> Any:
    log.clear()
    try:
        outcome = ("gave", call())
    except BaseException as error:
        outcome = ("raised", type(error), str(error), repr(error.__cause__), repr(error.__context__))
    return outcome, list(log)


@given(st.tuples(*[st.lists(st.integers(0, CODES - 1), max_size=6)] * 3))
@settings(max_examples=1500, deadline=None)
def test_bound_hooks_do_what_pluggy_does(codes):
    log: list[Any] = []
    plugins = []
    for number, row in enumerate(itertools.zip_longest(*codes)):
        made = {
            hook: implementation(code, hook, f"{number}", log)
            for hook, code in zip(("listed", "first", "told"), row, strict=True)
            if code is not None
        }
        plugins.append(SimpleNamespace(**made))
    manager = manager_of(*plugins)
    direct, plain = bind(manager, mode="direct"), bind(manager, mode="plain")

    for hook, own in zip(("listed", "first", "told"), codes, strict=True):
        if not own:
            assert getattr(direct, hook) is None
            assert getattr(plain, hook) is None
            continue
        expected = outcome_of(lambda: getattr(manager.hook, hook)(**VALUES), log)  # noqa: B023
        got = outcome_of(lambda: getattr(direct, hook)(*VALUES.values()), log)  # noqa: B023
        looped = outcome_of(lambda: getattr(plain, hook)(*VALUES.values()), log)  # noqa: B023
        if hook == "told":  # what an observer gives back is nobody's business: only calls and errors count
            expected, got, looped = (
                (outcome if outcome[0] == "raised" else None, calls)
                for outcome, calls in (expected, got, looped)
            )
        assert got == expected
        assert looped == expected

"""Bound hooks against pluggy itself: same results, calls and exceptions, on random sets of plugins."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

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
    if kind == "watches":
        try:
            return (yield)
        except GeneratorExit:
            raise  # left behind by a broken wrapper: closed when the collector comes by
        except BaseException as error:
            log.append((label, "watched", repr(error)))
            raise
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
        case "yields on close":
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
    "passes", "watches", "swallows", "replaces result", "replaces error", "forgets result", "fails before",
    "fails after", "never yields", "yields twice", "yields on close", "stops iteration",
)  # fmt: skip
KINDS = (
    [("answer", kind) for kind in ANSWERS]
    + [("wrap", kind) for kind in WRAPS]
    + [("wrap", "second on error")]
)
BREACHES = {
    "never yields", "yields twice", "yields on close", "second on error",
    "replaces result", "forgets result", "swallows",
}  # fmt: skip
"""What wrappers do that the mode "checked" takes for a breach (a list hook's result must stay a list)."""
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
@settings(max_examples=500, deadline=None)
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
    direct, plain, checked = (bind(manager, mode=mode) for mode in ("direct", "plain", "checked"))

    for hook, own in zip(("listed", "first", "told"), codes, strict=True):
        if not own:
            assert getattr(direct, hook) is None
            assert getattr(plain, hook) is None
            continue
        expected = outcome_of(lambda: getattr(manager.hook, hook)(**VALUES), log)  # noqa: B023
        got = outcome_of(lambda: getattr(direct, hook)(*VALUES.values()), log)  # noqa: B023
        looped = outcome_of(lambda: getattr(plain, hook)(*VALUES.values()), log)  # noqa: B023
        watched = outcome_of(lambda: getattr(checked, hook)(*VALUES.values()), log)  # noqa: B023
        if not BREACHES.intersection(KINDS[code % len(KINDS)][1] for code in own):
            if hook != "told" or "raised" in (expected[0][0], watched[0][0]):
                assert watched[0][:3] == expected[0][:3]
            assert watched[1] == expected[1]
        if hook == "told":  # what an observer gives back is nobody's business: only calls and errors count
            expected, got, looped = (
                (outcome if outcome[0] == "raised" else None, calls)
                for outcome, calls in (expected, got, looped)
            )
        assert got == expected
        assert looped == expected


# One plugin at a time


class Answers:
    @hookimpl
    def listed(self, result, a):
        return (a, result)

    @hookimpl
    def first(self, a, b, result):
        return a + b + result

    @hookimpl
    def told(self, a, b, result):
        self.heard = (a, b, result)


class Fails:
    @hookimpl
    def listed(self, a):
        raise ValueError("listed is broken")

    @hookimpl(wrapper=True)
    def first(self):
        yield
        raise ValueError("the wrapper is broken")


class YieldsTwice:
    @hookimpl(wrapper=True)
    def first(self):
        yield
        yield


def test_one_implementation_with_every_argument_is_called_without_a_frame_between():
    plugin = Answers()
    hooks = bind(manager_of(plugin))
    assert hooks.first == plugin.first
    assert hooks.told == plugin.told


@pytest.mark.parametrize("mode", MODES)
def test_arguments_go_by_position_and_reach_implementations_by_name(mode):
    plugin = Answers()
    hooks = bind(manager_of(plugin, Answers()), mode=mode)
    assert hooks.listed is not None
    assert hooks.first is not None
    assert hooks.told is not None
    assert hooks.listed(1, 2, 3) == [(1, 3), (1, 3)]
    assert hooks.first(1, 2, 3) == 6
    assert hooks.told(1, 2, 3) is None
    assert plugin.heard == (1, 2, 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_hook_that_nobody_implements_is_none(mode):
    assert vars(bind(manager_of(), mode=mode)) == {"first": None, "listed": None, "told": None}


def test_an_unknown_hook_names_the_nearest():
    with pytest.raises(AttributeError, match=r"unknown hook 'lsited'.*did you mean 'listed'"):
        bind(manager_of()).lsited  # noqa: B018
    with pytest.raises(UnknownNameError, match="'direct'"):
        bind(manager_of(), mode="dirct")  # type: ignore[arg-type]


def test_a_plugin_may_bring_specifications_and_others_implement_them():
    class More:
        @hookspec(firstresult=True)
        def extra(self, x):
            pass

    class Implements:
        @hookimpl
        def extra(self, x):
            return x + 1

        @hookimpl(optionalhook=True)
        def absent_here(self, anything):
            return anything

    manager = manager_of(Implements())
    manager.add_hookspecs(More)
    hooks = bind(manager)
    assert hooks.extra is not None
    assert hooks.extra(1) == 2
    assert not hasattr(hooks, "absent_here")


def test_the_same_plugins_give_the_same_source():
    def sources(hooks: BoundHooks) -> list[str]:
        return [getattr(hooks, hook).__code__.co_filename for hook in ("listed", "first", "told")]

    plugins = [Answers, Fails, Answers]
    assert sources(bind(manager_of(*[make() for make in plugins]))) == sources(
        bind(manager_of(*[make() for make in plugins]))
    )


# Errors and who is to blame


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("hook", "plugin", "name"),
    [("listed", Fails, "plugin_1"), ("first", Fails, "plugin_1"), ("first", YieldsTwice, "plugin_1")],
)
def test_blame_names_plugin_and_hook(hook, plugin, name, mode):
    manager = manager_of(Answers(), plugin(), Answers())
    with pytest.raises((ValueError, RuntimeError)) as raised:
        getattr(bind(manager, mode=mode), hook)(1, 2, 3)
    assert blame(raised.value, manager) == (name, hook)


def test_nobody_is_blamed_for_an_error_outside_the_hooks():
    manager = manager_of(Fails())
    with pytest.raises(ZeroDivisionError) as raised:
        1 / 0  # noqa: B018
    assert blame(raised.value, manager) is None


@pytest.mark.parametrize("mode", MODES)
def test_blame_falls_on_the_innermost_plugin_and_tells_heirs_apart(mode):
    class Asks:
        @hookimpl
        def first(self):
            return hooks.listed(1, 2, 3)

    class Base:
        broken = False

        @hookimpl
        def listed(self, a):
            if self.broken:
                raise ValueError("broken")

    class Heir(Base):
        broken = True

    manager = manager_of(Heir(), Asks(), Base())
    hooks = bind(manager, mode=mode)
    with pytest.raises(ValueError, match="broken") as raised:
        hooks.first(1, 2, 3)  # type: ignore[misc]
    assert blame(raised.value, manager) == ("plugin_0", "listed")


@pytest.mark.parametrize("plugin", [Fails(), YieldsTwice()], ids=["fails", "yields twice"])
def test_a_traceback_shows_the_generated_call_and_the_plugins_own_line(plugin):
    hook = "listed" if isinstance(plugin, Fails) else "first"
    with pytest.raises((ValueError, RuntimeError)) as raised:
        getattr(bind(manager_of(Answers(), plugin)), hook)(1, 2, 3)
    shown = "".join(traceback.format_exception(raised.value))
    assert f"<ntlab hook {hook} " in shown
    if hook == "listed":
        assert "plugin_1_listed(a)" in shown
        assert 'raise ValueError("listed is broken")' in shown
        line = type(plugin).listed.__code__.co_firstlineno + 2
        assert f'File "{__file__}", line {line}, in listed' in shown
    else:
        assert f"{__file__}:{type(plugin).first.__code__.co_firstlineno} has second yield" in shown


def test_implementations_are_listed_in_call_order():
    class Last:
        @hookimpl(trylast=True)
        def first(self):
            pass

    assert implementations(manager_of(Last(), Fails(), Answers())) == {
        "first": ["plugin_1", "plugin_2", "plugin_0"],
        "listed": ["plugin_2", "plugin_1"],
        "told": ["plugin_2"],
    }


# What is refused


@pytest.mark.parametrize("mode", MODES)
def test_after_binding_the_manager_is_frozen(mode):
    plugin = Answers()
    manager = manager_of(plugin)
    bind(manager, mode=mode)
    changes: list[Callable[[], object]] = [
        lambda: manager.register(Answers(), "late"),
        lambda: manager.unregister(plugin),
        lambda: manager.set_blocked("plugin_0"),
        lambda: manager.add_hookspecs(Specifications),
    ]
    for change in changes:
        with pytest.raises(PluginError, match=r"'(late|plugin_0|Specifications)'.*after boot"):
            change()
    assert implementations(manager)["told"] == ["plugin_0"]


def test_registering_twice_is_refused():
    with pytest.raises(PluginError, match=r"'plugin_0'.*registered already"):
        manager_of(Answers()).register(Answers(), "plugin_0")


def old_style(self):
    yield


def not_a_generator(self):
    return None


def yielding(self):
    yield 0


async def awaiting(self):
    return 0


def selfless():
    pass


def selfless_with_an_argument(a):
    pass


def misspelt(self, reslut):
    pass


def defaulted(self, a=1):
    pass


def keyword_only(self, *, a):
    pass


@pytest.mark.parametrize(
    ("function", "marks", "message"),
    [
        (old_style, {"hookwrapper": True}, "use wrapper=True"),
        (not_a_generator, {"wrapper": True}, "generator function"),
        (yielding, {}, r"return the answer, or mark a wrapper @hookimpl\(wrapper=True\)"),
        (awaiting, {}, "it yields or awaits; return the answer"),
        (selfless, {}, "first argument must be self"),
        (selfless_with_an_argument, {}, "first argument must be self"),
        (misspelt, {}, "unknown argument 'reslut'.*did you mean 'result'"),
        (defaulted, {}, "argument 'a' must be plain"),
        (keyword_only, {}, "argument 'a' must be plain"),
    ],
)
def test_implementations_that_do_not_fit_are_refused(function, marks, message):
    class Plugin:
        implementation = hookimpl(function, specname="first", **marks)

    expected = f"plugin 'plugin_0', hook 'first'.*{message}"
    with pytest.raises(PluginError, match=expected):
        bind(manager_of(Plugin()))

    def specify_late() -> None:
        manager = HookManager()
        manager.register(Plugin(), "plugin_0")
        manager.add_hookspecs(Specifications)
        bind(manager)

    with pytest.raises(PluginError, match=expected):
        specify_late()


def test_an_implementation_of_an_unknown_hook_is_refused():
    class Plugin:
        @hookimpl
        def frist(self):
            pass

    with pytest.raises(PluginError, match=r"'plugin_0', hook 'frist': unknown hook.*did you mean 'first'"):
        bind(manager_of(Plugin()))


def test_specifications_that_cannot_be_bound_are_refused():
    class Historic:
        @hookspec(historic=True)
        def hook(self, a):
            pass

    class Default:
        @hookspec
        def hook(self, a=1):
            pass

    class KeywordOnly:
        @hookspec
        def hook(self, *, a):
            pass

    for specifications in (Historic, Default, KeywordOnly):
        with pytest.raises(PluginError, match=f"plugin '{specifications.__name__}', hook 'hook'"):
            bind(manager_of(specifications=specifications))

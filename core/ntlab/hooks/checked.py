"""The mode "checked": implementations that are watched while they are asked, and whose answers are checked.

Each implementation is wrapped and then bound as in the mode "direct", so order and results are the same. In
the mode "profiled" they are only watched.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import pluggy

from ntlab.errors import PluginError
from ntlab.hooks.contracts import Contract, contract_of, unjudged

Call = Callable[..., Any]


class Watch:
    """Who is being asked what. `asked` holds (plugin, hook), the innermost last; `ever` all that were."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.ever: set[tuple[str, str]] = set()

    def begin(self, plugin: str, hook: str) -> None:
        """A plugin is about to be asked."""
        self.asked.append((plugin, hook))
        self.ever.add((plugin, hook))

    def end(self) -> None:
        """The innermost plugin has answered, or raised."""
        self.asked.pop()


class Implementation(NamedTuple):
    """What binding needs to know of a `pluggy.HookImpl`."""

    plugin_name: str
    function: Call
    argnames: tuple[str, ...]
    wrapper: bool


def checked(
    caller: pluggy.HookCaller, owner: str, watch: Watch, *, judged: bool = True
) -> list[Implementation]:
    """A hook's implementations, watched and, if `judged`, checked.

    `owner` of the specification is named if that is unreadable. They take every argument of the
    specification, since its expectation may look at each.
    """
    spec = caller.spec
    assert spec is not None
    contract = contract_of(spec.function, owner) if judged else unjudged(caller.name)
    places = {name: index for index, name in enumerate(spec.argnames)}
    made = []
    for implementation in caller.get_hookimpls():
        taken = [places[name] for name in implementation.argnames]
        if implementation.wrapper:
            function = _checked_wrapper(implementation, taken, contract, spec.opts["firstresult"], watch)
        else:
            function = _checked_answer(implementation, taken, contract, watch)
        made.append(
            Implementation(implementation.plugin_name, function, spec.argnames, implementation.wrapper)
        )
    return made


def _checked_answer(
    implementation: pluggy.HookImpl, taken: Sequence[int], contract: Contract, watch: Watch
) -> Call:
    function, plugin, hook = implementation.function, implementation.plugin_name, contract.hook

    @functools.wraps(function)
    def ask(*arguments: Any) -> Any:
        watch.begin(plugin, hook)
        try:
            answer = function(*[arguments[index] for index in taken])
        finally:
            watch.end()
        wrong = contract.violation(answer, arguments)
        if wrong is not None:
            raise PluginError(wrong, plugin=plugin, hook=hook)
        return answer

    return ask


def _checked_wrapper(
    implementation: pluggy.HookImpl,
    taken: Sequence[int],
    contract: Contract,
    first_result: bool,
    watch: Watch,
) -> Call:
    function, plugin, hook = implementation.function, implementation.plugin_name, contract.hook

    def step(advance: Callable[..., Any], *given: Any) -> tuple[bool, Any]:
        """(whether it has ended, with what)"""
        watch.begin(plugin, hook)
        try:
            advance(*given)
        except StopIteration as stop:
            return True, stop.value
        finally:
            watch.end()
        return False, None

    @functools.wraps(function)
    def wrap(*arguments: Any) -> Generator[None, Any, Any]:
        wrapper: Any = function(*[arguments[index] for index in taken])
        ended, _ = step(next, wrapper)
        if ended:
            raise PluginError("the wrapper never yields; it must yield once", plugin=plugin, hook=hook)
        error: BaseException | None = None
        outcome = None
        try:
            outcome = yield
        except GeneratorExit:
            wrapper.close()
            raise
        except BaseException as raised:
            error = raised
        ended, result = step(wrapper.send, outcome) if error is None else step(wrapper.throw, error)
        if not ended:
            with contextlib.suppress(RuntimeError):  # it may even refuse to be closed
                wrapper.close()
            raise PluginError("the wrapper yields twice; it must yield once", plugin=plugin, hook=hook)
        wrong = None
        if first_result:
            wrong = contract.violation(result, arguments)
        elif not contract.observer:
            wrong = contract.violation_in_list(result, arguments)
        if wrong is not None:
            raise PluginError(wrong, plugin=plugin, hook=hook)
        return result

    return wrap

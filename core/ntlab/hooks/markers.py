"""The marks of a hook: `hookspec`, `observer`, `expects` on a specification, `hookimpl` on an implementation.

class Specifications:
    @hookspec(firstresult=True)
    @expects("an idle processor", lambda answer, idle: answer >= 0 and idle >> answer & 1)
    def choose_processor(self, thread, idle) -> int | None: ...

    @observer
    def context_switched(self, machine, processor, thread): ...
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, TypeVar

import pluggy

PROJECT: Final = "ntlab"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

FIRST_VERSION: Final = "0.1"
"""Of ntlab. Its hooks without `since` exist since then."""

F = TypeVar("F", bound=Callable[..., Any])


def observer(function: F) -> F:
    """Specify a hook that only tells: whoever asks it ignores what comes back.

    So nothing is collected, and where one plugin observes, the call is that plugin's method and nothing more.
    """
    function.ntlab_observer = True  # type: ignore[attr-defined]
    return hookspec(function)


def specified(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The specifications of a module, by the names of their hooks, in the order in which they are written."""
    return {name: member for name, member in vars(module).items() if hasattr(member, f"{PROJECT}_spec")}


def is_observer(function: Callable[..., Any]) -> bool:
    """Whether a specification was marked with `observer`."""
    return getattr(function, "ntlab_observer", False)


def expects(text: str, test: Callable[..., object]) -> Callable[[F], F]:
    """Say what an answer must be beyond its type: in words, and as a test that is true of a right answer.

    The test's first argument is the answer, which is never None and fits the annotation; the others are
    arguments of the specification, by name. Only the mode "checked" asks it.
    """

    def decorate(function: F) -> F:
        function.ntlab_expects = (text, test)  # type: ignore[attr-defined]
        return function

    return decorate


def expectation_of(function: Callable[..., Any]) -> tuple[str, Callable[..., object]] | None:
    """The words and the test that `expects` marked a specification with, or None."""
    return getattr(function, "ntlab_expects", None)


def since(version: str) -> Callable[[F], F]:
    """Say in which version of its distribution a hook appeared; without it, in the first one.

    @since("0.2")
    @hookspec(firstresult=True)
    def turn_length(thread): ...
    """

    def mark(function: F) -> F:
        function.ntlab_since = version  # type: ignore[attr-defined]
        return function

    return mark


def since_of(function: Callable[..., Any]) -> str | None:
    """The version that a specification was marked with."""
    version: str | None = getattr(function, "ntlab_since", None)
    return version

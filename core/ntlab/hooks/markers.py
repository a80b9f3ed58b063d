"""The marks of a hook: `hookspec` and `observer` on a specification, `hookimpl` on an implementation.

class Specifications:
    @hookspec(firstresult=True)
    def choose_processor(self, machine, thread): ...

    @observer
    def context_switched(self, machine, processor, thread): ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import pluggy

PROJECT: Final = "ntlab"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

F = TypeVar("F", bound=Callable[..., Any])


def observer(function: F) -> F:
    """Specify a hook that only tells: whoever asks it ignores what comes back.

    So nothing is collected, and where one plugin observes, the call is that plugin's method and nothing more.
    """
    function.ntlab_observer = True  # type: ignore[attr-defined]
    return hookspec(function)


def is_observer(function: Callable[..., Any]) -> bool:
    """Whether a specification was marked with `observer`."""
    return getattr(function, "ntlab_observer", False)

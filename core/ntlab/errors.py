"""The errors ntlab raises on purpose.

Three kinds, because three people are asked to act:

- `UserError`: the person who wrote the command or the experiment. One line, exit code 2, no traceback.
- `PluginError`: the author of a plugin. Names the plugin and its hook; the cause is chained.
- `SimulationError`: a broken invariant of the simulated machine, so a defect of ntlab or of a plugin.

This module imports nothing of ntlab, so every other part may use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class NtlabError(Exception):
    """Base of every error that ntlab raises on purpose. `run` is the arm and seed of the run it ended."""

    run: tuple[str, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors come back from worker processes. An exception is by itself made again from its message
        # alone, which the constructors below do not take.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(cls: type[NtlabError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> NtlabError:
    error = cls.__new__(cls, *arguments)
    error.__dict__.update(attributes)
    return error


def warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as the command line shows it: for `warnings.formatwarning`."""
    return f"ntlab: warning: {' '.join(str(message).split())}\n"


class UserError(NtlabError):
    """A mistake in what the user asked for.

    `what` says what is wrong, `where` the file, key or argument, `expected` what would have been right.
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "") -> None:
        self.what = what
        self.where = where
        self.expected = expected
        message = f"{where}: {what}" if where else what
        super().__init__(f"{message}; expected {expected}" if expected else message)


class UnknownNameError(UserError):
    """A name that nothing answers to. Suggests the nearest valid one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if near:
            expected = f"one of {len(names)} known, did you mean {near[0]!r}?"
        elif names:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            expected = f"one of: {shown}"
        else:
            expected = f"none: no {kind} is known here"
        super().__init__(f"unknown {kind} {name!r}", where=where, expected=expected)


class PluginError(NtlabError):
    """A plugin broke its contract. Names the plugin and, where one is at fault, the hook."""

    def __init__(self, what: str, *, plugin: str, hook: str = "") -> None:
        self.what = what
        self.plugin = plugin
        self.hook = hook
        place = f"plugin {plugin!r}, hook {hook!r}" if hook else f"plugin {plugin!r}"
        super().__init__(f"{place}: {what}")


class UnknownSpecificationError(PluginError):
    """A plugin answers a hook, or asks for an argument, that this ntlab does not specify.

    That is a slip of the pen, or the plugin is for another version.
    """

    def __init__(self, what: str, *, plugin: str, hook: str, optional: bool = False) -> None:
        way_out = ", or mark the method @hookimpl(optionalhook=True)" if optional else ""
        super().__init__(
            f"{what}; if another version of ntlab has it, install that one{way_out}", plugin=plugin, hook=hook
        )


class SimulationError(NtlabError):
    """The simulated machine reached a state that must not exist."""

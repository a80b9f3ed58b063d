"""Whose fault an exception is that ended a run: told from its traceback."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ntlab.errors import PluginError, UnknownNameError
from ntlab.lab.registry import InstalledPlugin
from ntlab.plugin import options_of

if TYPE_CHECKING:
    from ntlab.machine import Machine


def blamed(
    error: BaseException, machine: Machine | None, used: Sequence[InstalledPlugin]
) -> PluginError | None:
    """The plugin, and its hook, that an exception came out of; None where it passed through none."""
    from ntlab.hooks import blame

    found = blame(error, machine.manager) if machine is not None else None
    if found is None:
        found = _nearest_plugin(error, used)
    if found is None:
        return None
    return told(error, *found)


def told(error: BaseException, plugin: str, hook: str = "") -> PluginError:
    """An exception as that plugin's mistake."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
    subject = getattr(error, "obj", None)
    if isinstance(error, AttributeError) and hasattr(type(subject), "ntlab_plugin"):
        options = [field.name for field in options_of(type(subject))]
        what += f"; if that is an option, it is an {UnknownNameError('option', error.name or '', options)}"
    return PluginError(what, plugin=plugin, hook=hook)


def raised_by_plugin(error: BaseException, used: Sequence[InstalledPlugin]) -> bool:
    """Whether plugins' own code raised an exception, and not ntlab's that it called, or that called it."""
    for frame in reversed(_frames(error)):
        if any(_is_code_of(plugin, frame) for plugin in used):
            return True
        if frame.f_globals.get("__name__", "").partition(".")[0] == "ntlab":
            return False
    return False


def _nearest_plugin(error: BaseException, used: Sequence[InstalledPlugin]) -> tuple[str, str] | None:
    """Whose code an exception passed last: a plugin's outside a hook (an event, a child machine), before the
    machine was complete, or a workload's. The second is the hook, or "" where it was none."""
    frames = _frames(error)
    for frame in reversed(frames):
        subject = frame.f_locals.get("self")
        for plugin in used:
            if isinstance(subject, plugin.info.cls):
                asked = [f.f_code.co_name for f in frames if f.f_locals.get("self") is subject]
                return plugin.name, next((name for name in reversed(asked) if name in plugin.hooks), "")
        for plugin in used:
            if _is_code_of(plugin, frame):
                return plugin.name, ""
    return None


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _is_code_of(plugin: InstalledPlugin, frame: FrameType) -> bool:
    subject = frame.f_locals.get("self")
    return (
        isinstance(subject, plugin.info.cls)
        or type(subject) in plugin.info.workloads
        or plugin.folder in Path(frame.f_code.co_filename).parents
        or frame.f_globals.get("__name__") == plugin.info.cls.__module__
    )

"""The mode "checked": a machine that is looked over while it runs, so that whoever breaks it is named.

Now and then, between two events, everything that must be true of the machine is compared
(`Machine.check`), and what machines share with the rest of the process is looked at. What is found wrong was
done by one of the events since the last look. Looking after each event, and before and after each plugin
that is asked, tells which: that is what a machine with `check_every=1` does, and what the laboratory does
for the guilty stretch alone when it makes a run again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FrameType, FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any

from ntlab.engine import CheckedEngine
from ntlab.errors import PluginError, SimulationError
from ntlab.hooks import Watch
from ntlab.machine.processors import Processor
from ntlab.machine.threads import Thread
from ntlab.plugin import plugin_info

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

CHECK_EVERY = 1024
BY_HOOKS = "a plugin changes decisions, by hooks, and options"


class Checks(Watch):
    """What watches one machine, and its child partitions.

    `owners` maps a package's name to the plugins that it brings. `right_until` counts the engine's events up
    to the last look that found nothing; `closely_from` says from which one on every event is looked at.
    """

    def __init__(self, machine: Machine, every: int) -> None:
        super().__init__()
        if every < 1:
            raise SimulationError(f"a machine is checked every {every} events")
        self.machine = machine
        self.every = every
        self.owners: dict[str, list[str]] = {}
        for plugin in machine.plugins:
            self.know(plugin_info(plugin).name, type(plugin))
        self.right_until = 0
        self.closely_from: int | None = 0 if every == 1 else None
        self._closely = every == 1
        self._before: list[str | None] = []
        self._suspects: list[tuple[str, str, str]] = []
        self._random = random.getstate()
        self._core = _Contents()

    def know(self, plugin: str, cls: type) -> None:
        """The package that holds `cls` belongs to that plugin, unless it is ntlab's own."""
        package = _package(cls.__module__)
        if package == "ntlab":
            return
        names = self.owners.setdefault(package, [])
        if plugin not in names:
            names.append(plugin)

    def follow(self, other: Checks) -> None:
        """Go on as `other` did, whose machine has crashed."""
        self.closely_from, self._closely = other.closely_from, other._closely
        self.owners, self.ever = other.owners, other.ever

    # -- who is asked, and who draws -----------------------------------------------------------------------

    def begin(self, plugin: str, hook: str) -> None:
        super().begin(plugin, hook)
        if self._closely:
            self._before.append(self._complaint())

    def end(self) -> None:
        plugin, hook = self.asked[-1]
        super().end()
        if self._closely:
            before, after = self._before.pop(), self._complaint()
            if after is not None and after != before:
                self._suspects.append((plugin, hook, after))

    def drawn(self, owner: str) -> None:
        """Somebody draws from a random stream of `owner`. Raises PluginError where it is not theirs."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__") in ("random", "ntlab.engine.streams"):
            frame = frame.f_back
        package = _package(frame.f_globals.get("__name__", "")) if frame is not None else ""
        if package == "ntlab":
            return
        plugins = self.owners.get(package, [])
        if self.asked and self.asked[-1][0] in plugins:
            plugins = [self.asked[-1][0]]
        of = owner.partition(".")[0]
        if of in plugins or (not plugins and not any(of in names for names in self.owners.values())):
            return
        plugin = " or ".join(plugins) or package
        raise PluginError(
            f"draws from the random stream of {owner!r}; expected one of its own: "
            f"machine.streams.stream({plugins[0] if plugins else package!r}, ...)",
            plugin=plugin,
            hook=self.asked[-1][1] if self.asked and self.asked[-1][0] in plugins else "",
        )

    # -- looking -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The machine is booted: look at it from now on, between two batches of events."""
        engine = self.machine.engine
        engine.batch = 1 if self._closely else self.every
        engine.idle_work = self._between_events
        package, changed = self._core.foreign(self.owners)
        if package:
            what = f"has changed ntlab itself: {changed}; {BY_HOOKS}"
            raise PluginError(what, plugin=" or ".join(self.owners[package]))
        self.look()

    def _between_events(self) -> None:
        self.machine.tracer.flush()
        self.look()
        engine = self.machine.engine
        if self.closely_from is not None and engine.events >= self.closely_from:
            self._closely = True
            engine.batch = 1

    def look(self) -> None:
        """Look at everything. Raises PluginError, or SimulationError where nobody is seen to be guilty."""
        complaint = self._complaint()
        if complaint is not None:
            raise self._accusation(complaint)
        self.right_until = self.machine.engine.events
        self._suspects.clear()

    def _complaint(self) -> str | None:
        """What is wrong, or None."""
        machine = self.machine
        if machine._booted and machine.crash is None:
            try:
                machine.check()
            except SimulationError as error:
                return f"leaves the machine inconsistent: {error}"
            except Exception as error:
                return f"leaves a machine that cannot even be checked: {type(error).__name__}: {error}"
        if random.getstate() != self._random:
            return (
                "draws from Python's module-level random, which differs from run to run; "
                "expected machine.streams.stream(its own name)"
            )
        changed = self._core.change()
        return f"changes ntlab itself: {changed}; {BY_HOOKS}" if changed else None

    def _accusation(self, complaint: str) -> Exception:
        if self._closely:
            for plugin, hook, found in self._suspects:
                if found == complaint:
                    return PluginError(
                        f"{complaint} (at {self.machine.engine.now} ns)", plugin=plugin, hook=hook
                    )
            plugin = self.acting()
            if plugin:
                return PluginError(f"{complaint} (at {self.machine.engine.now} ns)", plugin=plugin)
        return SimulationError(f"something {complaint}")

    def acting(self) -> str:
        """The plugin whose action happens now or happened last; "" where it is none's."""
        engine = self.machine.engine
        acting = engine.acting if isinstance(engine, CheckedEngine) else None
        return self.owner(*acting) if acting is not None else ""

    def owner(self, action: Callable[[Any], Any], argument: object = None) -> str:
        """The plugin that an action of the engine belongs to, or the thread that it goes on with."""
        while isinstance(action, partial):
            action = action.func
        subject = getattr(action, "__self__", None)
        for plugin in self.machine.plugins:
            if subject is plugin:
                return plugin_info(plugin).name
        module = _module_of(subject) if isinstance(subject, GeneratorType) else action.__module__
        found = self.owners.get(_package(module))
        if found is not None:
            return " or ".join(found)
        if isinstance(argument, Processor):
            argument = argument.thread
        if isinstance(argument, Thread):
            program = argument.program
            return " or ".join(self.owners.get(_package(_module_of(program)), []))
        return ""


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _module_of(program: object) -> str:
    if isinstance(program, GeneratorType):
        frame = program.gi_frame
        return frame.f_globals.get("__name__", "") if frame is not None else ""
    return type(program).__module__


# What machines share: the modules and classes of ntlab


def _parts() -> Iterator[tuple[str, Mapping[str, object]]]:
    """The name and the content of each module of ntlab, and of each class in it."""
    for name, module in list(sys.modules.items()):
        if _package(name) == "ntlab" and module is not None:
            yield name, vars(module)
            for each in list(vars(module).values()):
                if isinstance(each, type) and each.__module__ == name:
                    yield f"{name}.{each.__qualname__}", vars(each)


class _Contents:
    """What the modules and classes of ntlab hold, and what becomes of it."""

    def __init__(self) -> None:
        self._held = [(name, content, dict(content)) for name, content in _parts()]
        self._inside = [
            (f"{name}.{key}", value, value.copy())
            for name, _, before in self._held
            for key, value in before.items()
            if isinstance(value, (dict, list, set)) and not key.startswith("_")
        ]

    def change(self) -> str:
        """The first thing that is another one now, or "". New names are no change."""
        for name, content, before in self._held:
            for key, value in before.items():
                if content.get(key) is not value:
                    return f"{name}.{key} is {content.get(key)!r} now"
        for name, now, contents in self._inside:
            if now != contents:
                return f"what {name} holds"
        return ""

    def foreign(self, packages: Mapping[str, object]) -> tuple[str, str]:
        """(package, what) of the first function that is defined in one of these packages, or ("", "")."""
        for name, content, _ in self._held:
            for key, value in content.items():
                value = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(value, FunctionType):
                    package = _package(value.__globals__.get("__name__"))
                    if package in packages:
                        return package, f"{name}.{key} is {value!r}"
        return "", ""

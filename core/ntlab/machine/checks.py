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
from operator import is_not
from types import FrameType, FunctionType, GeneratorType, ModuleType
from typing import TYPE_CHECKING, Any

from ntlab.engine import CheckedEngine
from ntlab.errors import PluginError, SimulationError
from ntlab.hooks import Watch, implementations
from ntlab.machine.processors import Processor, ReadyLevel
from ntlab.machine.threads import Thread
from ntlab.plugin import plugin_info

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

CHECK_EVERY = 1024
INCONSISTENT = (
    "leaves the machine inconsistent; threads and processors are changed by their mechanisms' methods, "
    "as by scheduler.set_priority"
)
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
        self.closely_from: int | None = None
        self._closely = False
        self._before: list[list[str]] = []
        self._suspects: list[tuple[str, str, str]] = []
        self._random = random.getstate()
        self._core = _Contents()
        if every == 1:
            self.look_closely(0)

    def know(self, plugin: str, cls: type) -> None:
        """The package that holds `cls` belongs to that plugin; one that is ntlab's own does not."""
        # A class that ntlab made of a plugin's, to mute some hooks, is the plugin's still.
        packages = [_package(each.__module__) for each in cls.__mro__]
        package = next((name for name in packages if name not in ("ntlab", "builtins")), None)
        if package is None:
            return
        names = self.owners.setdefault(package, [])
        if plugin not in names:
            names.append(plugin)

    def look_closely(self, since: int) -> None:
        """Look after each event, and before and after each answer, from that one on. Before boot."""
        self.closely_from = since
        self._closely = since == 0

    def follow(self, other: Checks) -> None:
        """Go on as `other` did, whose machine has crashed."""
        self.closely_from, self._closely = other.closely_from, other._closely
        self.owners, self.ever = other.owners, other.ever

    # -- who is asked, and who draws -----------------------------------------------------------------------

    def begin(self, plugin: str, hook: str) -> None:
        super().begin(plugin, hook)
        if self._closely:
            self._before.append(self._complaints())

    def end(self) -> None:
        plugin, hook = self.asked[-1]
        super().end()
        if self._closely:
            # In the midst of an event much does not fit together: only what came with the answer counts.
            before = self._before.pop()
            new = [complaint for complaint in self._complaints() if complaint not in before]
            self._suspects += [(plugin, hook, complaint) for complaint in new]

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

    def level(self, level: ReadyLevel) -> ReadyLevel:
        """A plugin's order of ready threads, checked."""
        names = self.owners.get(_package(type(level).__module__))
        answer = implementations(self.machine.manager)["ready_level"]
        return CheckedLevel(level, " or ".join(names or answer))

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
        complaints = self._complaints()
        if complaints:
            culprit = self.culprit()
            if culprit is None and self._closely and (acting := self.acting()):
                culprit = PluginError(f"{complaints[0]} (at {self.machine.engine.now} ns)", plugin=acting)
            self._core.restore()
            raise culprit if culprit is not None else SimulationError(f"something {complaints[0]}")
        self.right_until = self.machine.engine.events
        self._suspects.clear()

    def _complaints(self) -> list[str]:
        """What is wrong."""
        machine = self.machine
        found = []
        if machine._booted and machine.crash is None:
            try:
                found += [f"{INCONSISTENT}: {wrong}" for wrong in machine.scheduler.violations()]
                if not found:
                    machine.check()
            except SimulationError as error:
                found.append(f"{INCONSISTENT}: {error}")
            except Exception as error:
                found.append(f"{INCONSISTENT}: it cannot even be checked: {type(error).__name__}: {error}")
        if random.getstate() != self._random:
            found.append(
                "draws from Python's module-level random, which differs from run to run; "
                "expected machine.streams.stream(its own name)"
            )
        changed = self._core.change()
        if changed:
            found.append(f"changes ntlab itself: {changed}; {BY_HOOKS}")
        return found

    def culprit(self) -> PluginError | None:
        """What is wrong now, and who was asked when it became so; None where nobody was seen."""
        complaints = self._complaints() if self._suspects else []
        for plugin, hook, found in self._suspects:
            if found in complaints:
                return PluginError(f"{found} (at {self.machine.engine.now} ns)", plugin=plugin, hook=hook)
        return None

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
        process = isinstance(subject, GeneratorType)
        module = _module_of(subject) if process else getattr(action, "__module__", None)
        found = self.owners.get(_package(module))
        if found is not None:
            return " or ".join(found)
        if isinstance(argument, Processor):
            argument = argument.thread
        if isinstance(argument, Thread):
            program = argument.program
            return " or ".join(self.owners.get(_package(_module_of(program)), []))
        return ""


class CheckedLevel:
    """A plugin's `ReadyLevel`, which must hold the threads that were queued and not taken out since."""

    def __init__(self, level: ReadyLevel, plugin: str) -> None:
        self._level = level
        self._plugin = plugin
        self._queued: set[Thread] = set()

    def append(self, thread: Thread, /) -> None:
        self._queued.add(thread)
        self._level.append(thread)
        self._compare("append")

    def appendleft(self, thread: Thread, /) -> None:
        self._queued.add(thread)
        self._level.appendleft(thread)
        self._compare("appendleft")

    def popleft(self) -> Thread:
        first = next(iter(self._level))
        thread = self._level.popleft()
        if thread is not first:
            raise self._wrong(f"popleft() gave {thread!r}, though {first!r} was first")
        self._queued.remove(thread)
        self._compare("popleft")
        return thread

    def remove(self, thread: Thread, /) -> None:
        self._queued.remove(thread)
        self._level.remove(thread)
        self._compare("remove")

    def __iter__(self) -> Iterator[Thread]:
        return iter(self._level)

    def __len__(self) -> int:
        return len(self._level)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._level, name)  # what a plugin adds for itself

    def _compare(self, method: str) -> None:
        threads = list(self._level)
        if len(self._level) != len(threads):
            raise self._wrong(f"its length is {len(self._level)} after {method}(), it has {len(threads)}")
        if len(threads) != len(self._queued) or not self._queued.issuperset(threads):
            expected = sorted(self._queued, key=lambda thread: thread.id)
            raise self._wrong(f"it has {threads} after {method}(); expected {expected}, in its order")

    def _wrong(self, what: str) -> PluginError:
        level = type(self._level).__qualname__
        return PluginError(f"the {level} it gave: {what}", plugin=self._plugin, hook="ready_level")


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _module_of(program: object) -> str:
    if isinstance(program, GeneratorType):
        frame = program.gi_frame
        return frame.f_globals.get("__name__", "") if frame is not None else ""
    return type(program).__module__


# What machines share: the modules and classes of ntlab


def _parts() -> Iterator[tuple[str, ModuleType | type]]:
    """Each module of ntlab and each class in it, by name."""
    for name, module in list(sys.modules.items()):
        if _package(name) == "ntlab" and module is not None:
            yield name, module
            for each in list(vars(module).values()):
                if isinstance(each, type) and each.__module__ == name:
                    yield f"{name}.{each.__qualname__}", each


class _Contents:
    """What the modules and classes of ntlab hold, and what becomes of it."""

    def __init__(self) -> None:
        self._held = [(name, part, dict(vars(part))) for name, part in _parts()]
        # The same, to be compared in no time, since that is done after each event. Names keep their places.
        self._quick = [(vars(part), [*before.values()]) for _, part, before in self._held]
        self._inside = [
            (f"{name}.{key}", value, value.copy())
            for name, _, before in self._held
            for key, value in before.items()
            if isinstance(value, (dict, list, set)) and not key.startswith("_")
        ]

    def change(self) -> str:
        """The first thing that is another one now, or "". New names are no change."""
        changed = False
        for content, values in self._quick:
            if len(content) < len(values) or any(map(is_not, content.values(), values)):
                changed = True
                break
        for name, part, before in self._held if changed else ():
            content = vars(part)
            for key, value in before.items():
                if content.get(key) is not value:
                    return f"{name}.{key} is {content.get(key)!r} now"
        for name, now, contents in self._inside:
            if now != contents:
                return f"what {name} holds"
        return ""

    def restore(self) -> None:
        """Undo changes, so that who does it can be seen to do it again."""
        for _, part, before in self._held:
            for key, value in before.items():
                if vars(part).get(key) is not value:
                    setattr(part, key, value)
        for _, now, contents in self._inside:
            if now != contents:
                now.clear()
                (now.extend if isinstance(now, list) else now.update)(contents)

    def foreign(self, packages: Mapping[str, object]) -> tuple[str, str]:
        """The (package, what) of the first function that is defined in one of these packages, or ("", "")."""
        for name, _, content in self._held:
            for key, value in content.items():
                value = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(value, FunctionType):
                    package = _package(value.__globals__.get("__name__"))
                    if package in packages:
                        return package, f"{name}.{key} is {value!r}"
        return "", ""

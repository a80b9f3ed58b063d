"""What a hook call costs: bound at boot, through pluggy, and against the plain method call that it becomes.

    python benchmarks/bench_hooks.py

Three arguments, as the scheduler's hooks have. All variants run in turn, several rounds; medians, in ns a
call, less the cost of the loop. A hook that nobody implements is None when bound: there the test for None is
timed, and no ratio is given, since next to nothing is left to divide by.
"""

from __future__ import annotations

import platform
import statistics
import timeit
from collections.abc import Callable
from typing import Any

import pluggy

from ntlab.hooks.binding import HookManager, bind
from ntlab.hooks.markers import hookimpl, hookspec, observer

ROUNDS = 9
CALLS = 20_000
KINDS = ("observer", "firstresult", "list", "wrapped list")
COUNTS = (0, 1, 3, 10)


class Specifications:
    @observer
    def observer(self, machine: int, processor: int, thread: int) -> None: ...

    @hookspec(firstresult=True)
    def firstresult(self, machine: int, processor: int, thread: int) -> int | None: ...

    @hookspec
    def list(self, machine: int, processor: int, thread: int) -> int | None: ...


class Plugin:
    """Of the first-result implementations only the one that is asked last answers: the longest way."""

    def __init__(self, answer: int | None) -> None:
        self.answer = answer

    @hookimpl
    def observer(self, machine: int, processor: int, thread: int) -> None:
        pass

    @hookimpl
    def firstresult(self, machine: int, processor: int, thread: int) -> int | None:
        return self.answer

    @hookimpl
    def list(self, machine: int, processor: int, thread: int) -> int | None:
        return 1


class Wrapper:
    @hookimpl(wrapper=True)
    def list(self) -> Any:
        return (yield)


def manager_with(count: int, *more: object) -> HookManager:
    manager = HookManager()
    manager.add_hookspecs(Specifications)
    for number in range(count):
        manager.register(Plugin(None if number else 1), f"plugin_{number}")
    for plugin in more:
        manager.register(plugin, "wrapper")
    return manager


def variants() -> dict[tuple[str, int, str], timeit.Timer]:
    """The timed statements, by (kind of hook, implementations, way of calling)."""
    timers = {
        ("direct call", 1, "bound"): timeit.Timer("call(1, 2, 3)", globals={"call": Plugin(1).firstresult}),
        ("loop", 0, "bound"): timeit.Timer("pass"),
    }
    for kind in KINDS:
        name = kind.removeprefix("wrapped ")
        for count in COUNTS:
            manager = manager_with(count, *([Wrapper()] if kind != name else []))
            call: Callable[..., Any] | None = getattr(bind(manager), name)
            statement = "call(1, 2, 3)" if call else "if call is not None: call(1, 2, 3)"
            timers[kind, count, "bound"] = timeit.Timer(statement, globals={"call": call})
            timers[kind, count, "pluggy"] = timeit.Timer(
                f"hook.{name}(machine=1, processor=2, thread=3)", globals={"hook": manager.hook}
            )
    return timers


def main() -> None:
    timers = variants()
    rounds: dict[tuple[str, int, str], list[float]] = {variant: [] for variant in timers}
    for _ in range(ROUNDS):
        for variant, timer in timers.items():
            rounds[variant].append(timer.timeit(CALLS) / CALLS * 1e9)
    median = {variant: statistics.median(times) for variant, times in rounds.items()}
    loop = median["loop", 0, "bound"]

    print(f"{platform.python_implementation()} {platform.python_version()}, pluggy {pluggy.__version__}")
    print(f"ns a call, median of {ROUNDS} rounds of {CALLS} calls\n")
    print(f"{'hook':<14}{'impls':>6}{'bound':>10}{'pluggy':>10}{'ratio':>8}")
    print(f"{'direct call':<14}{'-':>6}{median['direct call', 1, 'bound'] - loop:>10.0f}")
    for kind in KINDS:
        for count in COUNTS:
            bound = median[kind, count, "bound"] - loop
            peer = median[kind, count, "pluggy"] - loop
            ratio = "-" if count == 0 and kind in vars(Specifications) else f"{peer / bound:.0f}x"
            print(f"{kind:<14}{count:>6}{bound:>10.0f}{peer:>10.0f}{ratio:>8}")


if __name__ == "__main__":
    main()

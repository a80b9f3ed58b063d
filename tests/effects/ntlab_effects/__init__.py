"""A workload that measures what a formula says of the plugins that are on: exact oracles for ablation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ntlab import Metric, hookimpl, option, plugin, state, workload
from ntlab.machine import Compute, Machine

sizes: dict[str, int] = {}
"""Of the plugins of the machine that boots."""


@workload(name="formula", summary="Measures a formula.")
class Formula:
    value: str = option(
        default="0", help="Over the sizes of the plugins a to g, 0 where off; n; nodes; luck."
    )
    measured: str = option(default="True", help="Over the same: whether it is measured at all.")
    unit: str = option(default="'1'", help="Over the same: the unit.")
    n: int = option(default=0, help="A number.", minimum=0, maximum=9)
    names: dict[str, Any] = state(dict)

    def start(self, machine: Machine) -> None:
        self.names = dict.fromkeys("abcdefg", 0) | sizes
        sizes.clear()
        self.names["n"] = self.n
        self.names["nodes"] = machine.tables.nodes
        self.names["luck"] = machine.streams.stream("base.formula").random()

    def measure(self, machine: Machine) -> Iterator[Metric]:
        if eval(self.measured, self.names):
            yield Metric("value", eval(self.value, self.names), eval(self.unit, self.names))
        yield Metric("luck", self.names["luck"])


@plugin(name="base", summary="Does nothing.", release="ws2003", workloads=(Formula,))
class Base:
    pass


class Sized:
    """A plugin's size counts where it is on."""

    name = ""

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        sizes[self.name] = self.size  # type: ignore[attr-defined]


@plugin(name="a", summary="Counts.", release="ws2008")
class A(Sized):
    name = "a"
    size: int = option(default=1, help="How much.", minimum=0)
    style: str = option(default="plain", help="Changes nothing, but a size of 3 is not ugly.")

    def __attrs_post_init__(self) -> None:
        if self.style == "ugly" and self.size == 3:
            raise ValueError("3 is not ugly")


@plugin(name="b", summary="Counts.", release="ws2008")
class B(Sized):
    name = "b"
    size: int = option(default=1, help="How much.", minimum=0)


@plugin(name="c", summary="Requires b.", release="ws2008", requires=("b",))
class C(Sized):
    name = "c"
    size: int = option(default=1, help="How much.", minimum=0)


@plugin(name="d", summary="Conflicts with a.", release="ws2008r2", conflicts=("a",))
class D(Sized):
    name = "d"
    size: int = option(default=1, help="How much.", minimum=0)


@plugin(name="e", summary="Raises where there is an a.", release="ws2008", after=("a",))
class E:
    @hookimpl
    def machine_booted(self) -> None:
        if "a" in sizes:
            raise ZeroDivisionError("no a, please")


@plugin(name="f", summary="Says how to be neutral.", release="ws2008", neutral={"size": 0, "more": 0})
class F(Sized):
    name = "f"
    size: int = option(default=2, help="How much.", minimum=0)
    more: int = option(default=3, help="How much more.", minimum=0)
    same: int = option(default=0, help="Nothing.", minimum=0)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        sizes["f"] = self.size * (1 + self.more)


@plugin(name="g", summary="Says what is neutral, and is wrong.", release="ws2008", neutral={"size": 0})
class G(Sized):
    name = "g"
    size: int = option(default=1, help="How much.", minimum=0)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        sizes["g"] = self.size
        machine.create_thread(machine.create_process("g"), iter([Compute(1000)]))

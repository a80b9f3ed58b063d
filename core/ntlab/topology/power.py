"""What processors draw: idle states and performance states of a machine's cores, and what packages take.

Powers are whole milliwatts, so that energy, power times ns, is an exact number of picojoules.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple


class IdleState(NamedTuple):
    """A state of a core none of whose processors has anything to do.

    `type` is its ACPI type, 1 to 3, by which Windows counts it. It takes `latency` ns to leave it, and it
    pays to enter it for `residency` ns or more. A core draws `power` mW in it, and `energy` pJ to enter it.
    `flushes`: the core's own caches lose what they hold. `deep`: a package all of whose cores are in such a
    state sleeps.
    """

    name: str
    type: int
    latency: int
    residency: int
    power: int
    energy: int = 0
    flushes: bool = False
    deep: bool = False


class PerformanceState(NamedTuple):
    """A clock of a core, MHz, and what a busy core draws at it, mW.

    `cores`: only while no more cores of its package than that are awake (0: always), as with Turbo Boost.
    """

    speed: int
    power: int
    cores: int = 0


class Power(NamedTuple):
    """What a machine draws. `idle` is by depth, `performance` the fastest first; without any, cores have the
    clock that the description states and draw `active` mW when busy. A package takes `package` mW besides its
    cores, `asleep` mW when it sleeps."""

    idle: tuple[IdleState, ...]
    performance: tuple[PerformanceState, ...]
    active: int
    package: int
    asleep: int


DEFAULT = Power(
    idle=(
        IdleState("C1", 1, 3_000, 6_000, 3_000),
        IdleState("C1E", 1, 10_000, 20_000, 2_000),
        IdleState("C3", 2, 20_000, 80_000, 1_000, flushes=True, deep=True),
        IdleState("C6", 3, 200_000, 800_000, 200, flushes=True, deep=True),
    ),
    performance=(),
    active=10_000,
    package=15_000,
    asleep=5_000,
)
"""Of a machine whose description says nothing: latencies and residencies of a Xeon of 2009 (Linux's
intel_idle), watts a guess."""


def check(power: Power, where: str) -> None:
    """Raises TopologyError for states that no processor can have."""
    from ntlab.topology.tables import TopologyError  # which has tables of power, too

    if not power.idle:
        raise TopologyError("there is no idle state", where=where, expected="at least C1")
    for state in power.idle:
        place = f"{where}: idle state {state.name!r}"
        if not 1 <= state.type <= 3:
            raise TopologyError(f"type is {state.type}", where=place, expected="1, 2 or 3")
        for name, value in (
            ("power", state.power),
            ("energy", state.energy),
            ("exit_latency", state.latency),
        ):
            if value < 0:
                raise TopologyError(f"{name} is negative", where=place, expected="0 or more")
        if state.residency < state.latency:
            raise TopologyError(
                f"residency is {state.residency} ns",
                where=place,
                expected=f"{state.latency} ns (exit_latency) or more",
            )
    if len({state.name for state in power.idle}) < len(power.idle):
        raise TopologyError("two idle states have one name", where=where)
    for less, more in pairwise(power.idle):
        place = f"{where}: idle state {more.name!r} after {less.name!r}"
        if more.power >= less.power:
            raise TopologyError("does not draw less", where=place, expected=f"below {less.power} mW")
        if more.latency <= less.latency or more.residency <= less.residency:
            raise TopologyError(
                "is not slower to leave and to pay",
                where=place,
                expected="a larger exit_latency and residency",
            )
        if more.type < less.type or more.flushes < less.flushes or more.deep < less.deep:
            raise TopologyError(
                "does less than the one before",
                where=place,
                expected="type, flushes_caches, package_sleeps not to fall",
            )
    for faster, slower in pairwise(power.performance):
        if slower.speed >= faster.speed or slower.power >= faster.power:
            raise TopologyError(
                f"performance state {slower.speed} MHz, {slower.power} mW "
                f"after {faster.speed} MHz, {faster.power} mW",
                where=where,
                expected="the fastest first, each with a lower clock and power than the one before",
            )
        if slower.cores and not 0 < faster.cores < slower.cores:
            raise TopologyError(
                f"performance state {slower.speed} MHz is for {slower.cores} cores",
                where=where,
                expected="slower states for more cores awake than faster ones",
            )
    if power.performance and power.performance[-1].cores:
        raise TopologyError(
            "the slowest performance state is for some cores only", where=where, expected="one for any number"
        )
    for name, value in (
        ("active", power.active),
        ("package", power.package),
        ("package_asleep", power.asleep),
        *(("a performance state's power", state.power) for state in power.performance),
    ):
        if value < 0:
            raise TopologyError(f"{name} is negative", where=where, expected="0 or more")
    busy = power.performance[-1].power if power.performance else power.active
    if power.idle and power.idle[0].power > busy:
        raise TopologyError(
            f"idle state {power.idle[0].name!r} draws {power.idle[0].power} mW",
            where=where,
            expected=f"at most what a busy core does, {busy} mW",
        )
    if power.asleep > power.package:
        raise TopologyError(
            f"package_asleep is {power.asleep} mW",
            where=where,
            expected=f"at most package, {power.package} mW",
        )

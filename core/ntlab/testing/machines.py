"""Small machines for tests, and rules and programs for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from ntlab.errors import UserError
from ntlab.hooks import Mode, hookimpl
from ntlab.machine import Compute, Machine, Request, SchedulerPolicy
from ntlab.machine.checks import CHECK_EVERY
from ntlab.plugin import option, plugin
from ntlab.quantities import GIB
from ntlab.topology import Tables, Topology
from ntlab.tracing import Tracer


@cache
def small_tables(processors: int = 1, *, nodes: int = 1, siblings: int = 1, memory: int = GIB) -> Tables:
    """So many processors, spread evenly over the nodes, `siblings` to a core; `memory` (bytes) in each node.

    Raises UserError for a number that cannot be spread evenly.
    """
    if processors < 1 or processors % (nodes * siblings):
        raise UserError(
            f"{processors} processors over {nodes} nodes, {siblings} to a core",
            expected=f"a multiple of {nodes * siblings}",
        )
    topology = Topology(f"{processors}-processors")
    for _ in range(nodes):
        node = topology.add_node(memory=memory)
        package = topology.add_package(node)
        for _ in range(processors // nodes // siblings):
            core = topology.add_core(package)
            for _ in range(siblings):
                topology.add_processor(core)
    return topology.freeze()


def boot(
    processors: int = 1,
    plugins: Sequence[object] = (),
    *,
    tables: Tables | None = None,
    seed: int = 0,
    trace: bool = False,
    hooks: Mode = "direct",
    check_every: int = CHECK_EVERY,
) -> Machine:
    """A machine that has booted: small, or on other hardware (`tables`). `plugins` are instances, the most
    basic first. With `trace` its tracer keeps the records. With `hooks="checked"` whoever breaks the machine
    is named: at once with `check_every=1`, else by the next look after so many events."""
    tracer = Tracer(keep=True) if trace else None
    hardware = tables if tables is not None else small_tables(processors)
    return Machine(hardware, plugins, seed=seed, tracer=tracer, hooks=hooks, check_every=check_every).boot()


@plugin(name="rules", summary="The scheduler's rules as a test wants them.", release="ws2003")
class Rules:
    policy: SchedulerPolicy = option(default=SchedulerPolicy(), help="The rules.")

    @hookimpl
    def scheduler_policy(self) -> SchedulerPolicy:
        return self.policy


def rules(**policy: Any) -> Rules:
    """A plugin that sets these rules and answers nothing else."""
    return Rules(policy=SchedulerPolicy(**policy))


def bursts(*work: int) -> Iterator[Request]:
    """A program that computes for so many ns, burst after burst, and ends."""
    return iter([Compute(ns) for ns in work])

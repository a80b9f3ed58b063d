"""Every pair of built-in plugins on one machine, under all their workloads at once, with invariants on.

Not every subset of plugins: few sets that show each pair both on, both off, and either alone. What a mixture
must do is live, keep the invariants, and give one trace in all hook modes.
"""

from __future__ import annotations

from collections.abc import Collection

import pytest

from ntlab.hooks import Mode
from ntlab.lab.registry import installed
from ntlab.machine import Machine
from ntlab.quantities import SECOND
from ntlab.testing import covering_sets
from ntlab.topology import load
from ntlab.tracing import Tracer

pytestmark = pytest.mark.once

REGISTRY = installed()
OURS = [plugin.name for plugin in REGISTRY.plugins() if plugin.distribution == "ntlab"]
BASELINE = "ws2003"
SETS = covering_sets([name for name in OURS if name != BASELINE], REGISTRY)
MACHINES = {"uni": 4 * SECOND, "opteron-4s": SECOND // 2, "nehalem-2s": SECOND // 8}
"""Three machines, and for how long the mixtures run there: on one processor they wait for each other."""


def live(plugins: Collection[str], hardware: str, hooks: Mode, seed: int) -> Machine:
    """A machine with these plugins that runs the workloads of all of ours together."""
    order = REGISTRY.solve({*plugins, BASELINE})
    machine = Machine(
        load(hardware).freeze(),
        [REGISTRY.plugin(name).info.cls() for name in reversed(order)],
        seed=seed,
        tracer=Tracer(),
        hooks=hooks,
    ).boot()
    for name in OURS:
        for workload in REGISTRY.plugin(name).workloads.values():
            workload.cls().start(machine)
    machine.run(MACHINES[hardware])
    machine.stop()
    return machine


@pytest.mark.parametrize("hardware", MACHINES)
@pytest.mark.parametrize("plugins", SETS, ids=lambda plugins: "+".join(sorted(plugins)) or BASELINE)
def test_a_mixture_lives(plugins: frozenset[str], hardware: str) -> None:
    checked = live(plugins, hardware, "checked", seed=1)
    direct = live(plugins, hardware, "direct", seed=1)
    assert checked.engine.events == direct.engine.events > 200
    assert checked.tracer.digest() == direct.tracer.digest()


def test_the_mixtures_show_every_pair() -> None:
    features = {name for name in OURS if name != BASELINE}
    together = {(one, other) for chosen in SETS for one in chosen for other in chosen}
    together = {pair for pair in together if BASELINE not in pair}
    assert together == {(one, other) for one in features for other in features}

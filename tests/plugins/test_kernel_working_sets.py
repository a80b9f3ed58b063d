"""M6: the claims, that they fail without the mechanism, and replacement against a model of its own."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judging import failing, options
from ntlab.errors import UserError
from ntlab.machine import (
    PAGED_POOL,
    SYSTEM_CACHE,
    SYSTEM_CODE,
    SYSTEM_DRIVERS,
    Compute,
    Machine,
    Region,
    Touch,
)
from ntlab.quantities import MIB
from ntlab.testing import boot, conformance
from ntlab.topology import load
from ntlab_kernel_working_sets import KernelWorkingSets
from ntlab_kernel_working_sets.workloads import Services
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance("kernel_working_sets")


def limited(maximum: int = 300) -> Ws2003:
    return Ws2003(system_working_set_minimum=0, system_working_set_maximum=maximum)


def measure(
    *plugins: object, hardware: str = "smp-4", seed: int = 1, **options: Any
) -> tuple[dict[str, float], Machine]:
    machine = boot(plugins=plugins, tables=load(hardware).freeze(), seed=seed)
    workload = Services(**options)
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}, machine


def judge(name: str, **change: str) -> set[str]:
    """Which claims of a shipped experiment fail, with the plugin's options so in all arms."""
    return failing(name, options("kernel_working_sets", change))


def test_the_cache_apart_is_enough_for_a_growing_cache_and_not_for_growing_pool() -> None:
    together = {"paged_pool": "shared", "system_code": "shared"}
    assert judge("kernel-working-sets", **together) == set()
    assert "kernel-ws-within-code" in judge("kernel-ws-limits", **together)


def test_a_shared_cache_is_what_the_claims_are_about() -> None:
    """Pool alone has its own: it is safe, and code is not."""
    apart = KernelWorkingSets(minimum=0, system_cache="shared", system_code="shared")
    measured, _ = measure(limited(), apart)
    assert measured["pool_evicted"] == 0
    assert measured["code_misses"] == measured["misses"] > 100


# -- exact ------------------------------------------------------------------------------------------------

SECTIONS = (SYSTEM_CACHE, PAGED_POOL, SYSTEM_CODE, SYSTEM_DRIVERS)


@settings(max_examples=25, deadline=None)
@given(
    touches=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=150),
    apart=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    maximum=st.integers(1, 25),
)
def test_replacement_is_first_in_first_out_within_each_working_set(
    touches: list[tuple[int, int]], apart: tuple[bool, bool, bool], maximum: int
) -> None:
    own = ["own" if each else "shared" for each in apart]
    options: dict[str, Any] = dict(zip(("system_cache", "paged_pool", "system_code"), own, strict=True))
    for name in list(options):
        options[f"{name}_maximum"] = maximum
    machine = boot(plugins=[limited(maximum), KernelWorkingSets(minimum=0, **options)])
    regions: list[Region] = []
    for name in SECTIONS:
        region = machine.sections.space(name).allocate(10)
        assert region is not None
        regions.append(region)

    def program() -> Any:
        for section, page in touches:
            yield Touch(regions[section], page, 1, accesses=0)
            yield Compute(1)

    machine.create_thread(machine.create_process("p"), program())
    machine.run()
    machine.check()

    # The same, by page and with lists of Python.
    kinds = [0 if not apart[index] else index + 1 for index in (0, 1, 2, 2)]
    queues: dict[int, deque[tuple[int, int]]] = {kind: deque() for kind in kinds}
    seen: set[tuple[int, int]] = set()
    first = again = 0
    for touch in touches:
        queue = queues[kinds[touch[0]]]
        if touch not in queue:
            first, again = first + (touch not in seen), again + (touch in seen)
            seen.add(touch)
            queue.append(touch)
            if len(queue) > maximum:
                queue.popleft()
    assert (machine.memory.demand_zero_faults, machine.memory.transition_faults) == (first, again)
    for section, region in enumerate(regions):
        active = {
            page
            for extent in region.extents()
            if extent.list is region.space.working_set
            for page in range(extent.page - region.first, extent.page - region.first + extent.pages)
        }
        assert active == {page for each, page in queues[kinds[section]] if each == section}


def test_the_rate_of_misses_is_that_of_the_closed_form() -> None:
    """First in, first out: a page stays for as many arrivals as the set holds, and is away until called.

    With h pages called evenly, c pages of the cache a call and a set of m, f misses a call satisfy
    f = h / (m / (c + f) + h).
    """
    measured, machine = measure(limited(), growth=40 * MIB)
    share = 40 * MIB / 4096 / measured["calls"]
    misses = 0.5
    for _ in range(100):
        misses = 200 / (300 / (share + misses) + 200)
    assert measured["miss_share"] == pytest.approx(misses, rel=0.03)
    assert machine.memory.transition_faults == measured["misses"]  # none went to the disk


# -- rules --------------------------------------------------------------------------------------------------


def names(*plugins: object) -> list[str]:
    machine = boot(plugins=plugins)
    return [machine.sections.space(name).working_set.name for name in SECTIONS]


def test_who_shares_with_whom() -> None:
    assert names(Ws2003()) == ["system"] * 4
    three = ["system cache", "paged pool", "system PTEs", "system PTEs"]
    assert names(Ws2003(), KernelWorkingSets()) == three
    assert names(KernelWorkingSets(paged_pool="shared")) == ["system cache", "system", *three[2:]]


def test_limits_are_those_of_the_options() -> None:
    plugins = Ws2003(system_working_set_minimum=7), KernelWorkingSets(minimum=5, paged_pool_maximum=9)
    machine = boot(plugins=plugins)
    pool, code = (machine.sections.space(name).working_set for name in (PAGED_POOL, SYSTEM_CODE))
    assert (pool.minimum, pool.maximum, pool.hard) == (5, 9, True)
    assert (code.minimum, code.hard) == (5, False)
    assert boot(plugins=[plugins[0]]).sections.space(PAGED_POOL).working_set.minimum == 7


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no fewer than the minimum, 388"):
        boot(plugins=[KernelWorkingSets(paged_pool_maximum=9)]).sections.space(PAGED_POOL)
    with pytest.raises(ValueError, match="out of range"):
        KernelWorkingSets(minimum=-1)
    with pytest.raises(UserError, match="too small"):
        measure(Ws2003(paging_file=0), hardware="uni", pool=1 << 45)
    with pytest.raises(UserError, match="commit limit"):
        measure(Ws2003(paging_file=0), hardware="uni", grows="paged pool", growth=1 << 45)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    before, _ = measure(limited(), hardware=str(file))
    after, _ = measure(limited(), KernelWorkingSets(minimum=0, system_cache_maximum=100), hardware=str(file))
    assert before["misses"] > 300
    assert after["misses"] == 0

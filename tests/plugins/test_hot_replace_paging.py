"""D2 and E5 beside paging, and on a machine of 1 TiB: the claims' twins, what is copied, other machines."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.lab.registry import installed
from ntlab.machine import Machine
from ntlab.quantities import GIB, KIB, MIB, MILLISECOND, SECOND, Share
from ntlab.testing import boot, small_tables
from ntlab.topology import load
from ntlab_hot_replace import HotReplace
from ntlab_hot_replace.paged import PagedBank
from ntlab_whea import Whea
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
PAGE = 4 * KIB
UNIT = 16 * MIB
with_paging_writes = pytest.mark.skipif(
    "paging_writes" not in installed().names(), reason="the experiment needs paging_writes"
)


@with_paging_writes
@pytest.mark.parametrize(
    ("change", "fail"),
    [
        ({"hot_replace.order": "all_in_window"}, {"order", "lost", "again", "use"}),
        ({"hot_replace.watch_writes": False}, {"lost", "again"}),
        ({"workload.threads": 0}, {"drain", "lost", "again", "use"}),
        ({"paging_writes.max_cluster": "64 KiB", "paging_writes.max_read": "64 KiB"}, {"drain"}),
    ],
)
def test_claims_beside_paging_fail_without_what_they_are_about(
    change: dict[str, Any], fail: set[str]
) -> None:
    assert failing("dp-replace-paging", change) == {f"dp-paging-{claim}" for claim in fail}


@pytest.mark.parametrize(
    ("change", "fail"),
    [
        ({"hot_replace.threshold": 32}, {"crashed", "pause", "copied", "use"}),
        ({"hot_replace.order": "all_in_window"}, {"pause", "copied", "use"}),
    ],
)
def test_claims_about_the_bank_fail_without_what_they_are_about(
    change: dict[str, Any], fail: set[str]
) -> None:
    assert failing("dp-bank-1tb", change) == {f"dp-bank-{claim}" for claim in fail}


def test_the_bank_of_a_terabyte_machine_fits_into_little_memory() -> None:
    """A full machine of 2^28 pages, one sixteenth of which is copied while it pages: 30 MB at the most."""
    bank = PagedBank(
        unit=64 * GIB, filled=Share(1.0), threads=16, at=SECOND, until=12 * SECOND, pause=100 * MILLISECOND
    )
    tables = load("demo-256").freeze()
    tracemalloc.start()
    try:
        machine = boot(plugins=[Ws2003(), Whea(), HotReplace()], tables=tables)
        bank.start(machine)
        machine.run()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    machine.check()
    found = {metric.name: metric.value for metric in bank.measure(machine)}
    assert (found["replaced"], found["lost"]) == (1, 0)
    assert found["copied"] > 64 * GIB
    assert found["read"] > 1000
    assert most < 30 * MIB


# -- what is copied ------------------------------------------------------------------------------------------


def live(
    order: Literal["movable_first", "all_in_window"] = "movable_first",
    *,
    disk: str = "sas15k",
    seed: int = 0,
    rounds: int = 8,
    **options: Any,
) -> tuple[Machine, dict[str, float]]:
    """A full machine of four units of 16 MiB that pages while the first is replaced."""
    machine = boot(
        plugins=[Ws2003(disk=disk), Whea(), HotReplace(order=order, rounds=rounds, copy_bandwidth=10**8)],
        tables=small_tables(4, memory=4 * UNIT),
        seed=seed,
        trace=True,
        hooks="checked",
    )
    workload = PagedBank(
        **({"unit": UNIT, "filled": Share(1.0), "cold": 4 * MIB, "until": 900 * MILLISECOND} | options)
    )
    workload.start(machine)
    machine.run()
    machine.check()
    return machine, {metric.name: metric.value for metric in workload.measure(machine)}


@settings(max_examples=12)
@given(
    order=st.sampled_from(["movable_first", "all_in_window"]),
    disk=st.sampled_from(["sas15k", "ssd"]),
    threads=st.integers(0, 12),
    cold_share=st.floats(0, 1),
    writing=st.floats(0, 1),
    burst=st.sampled_from([1, 7, 16]),
    rounds=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_whatever_pages_nothing_is_lost_and_what_changed_is_copied_again(
    order: Any,
    disk: str,
    threads: int,
    cold_share: float,
    writing: float,
    burst: int,
    rounds: int,
    seed: int,
) -> None:
    """Frame by frame, by the trace: the last copy began after the last page had been read into the frame."""
    machine, found = live(
        order,
        disk=disk,
        seed=seed,
        rounds=rounds,
        threads=threads,
        cold_share=Share(cold_share),
        writing=Share(writing),
        burst=burst * PAGE,
    )
    assert (found["replaced"], found["lost"]) == (1, 0)
    (end,) = (each.time for each in machine.tracer.records("MemoryReplaced"))
    filled, copied, times = {}, {}, 0
    for record in machine.tracer.records():
        frames = (
            range(int(record["frame"]), int(record["frame"]) + int(record["pages"]))
            if "frame" in record.fields
            else ()
        )
        if record.name == "MemoryCopy":
            times += len(frames)
            copied.update(dict.fromkeys(frames, int(record["began"])))
        elif record.name == "Allocate" and record.time < end:
            filled.update(dict.fromkeys(frames, record.time))
    unit = range(UNIT // PAGE)
    assert copied.keys() == set(unit)  # all of it was in use
    assert all(copied[frame] >= filled[frame] for frame in unit)
    assert found["again"] == times - len(unit)
    fixed = int(len(unit) * 0.05)
    least = len(unit) if order == "all_in_window" else fixed
    assert found["window_share"] * len(unit) >= least
    assert found["pause"] >= 0.3e9 + least * PAGE * 10


def test_nothing_is_copied_again_where_nobody_does_anything() -> None:
    for order, window in (("movable_first", int(4096 * 0.05)), ("all_in_window", 4096)):
        _, found = live(order, threads=0)  # type: ignore[arg-type]
        assert (found["again"], found["window_share"] * 4096) == (0, window)
        assert found["pause"] == pytest.approx(0.3e9 + window * PAGE * 10, abs=10)


@pytest.mark.skipif(
    not {"numa_home", "paging_writes", "standby_migration"} <= set(installed().names()),
    reason="the test is of several plugins together",
)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_while_pages_migrate_between_nodes(seed: int) -> None:
    """What moves to the unit is memory that changed there, as what is read into it is."""
    others = [
        installed().plugin(name).info.cls() for name in ("paging_writes", "standby_migration", "numa_home")
    ]
    machine = boot(
        plugins=[Ws2003(disk="ssd"), Whea(), *others, HotReplace(copy_bandwidth=10**8)],
        tables=small_tables(4, nodes=2, memory=UNIT),
        seed=seed,
        trace=True,
        hooks="checked",
    )
    bank = PagedBank(
        unit=UNIT,
        filled=Share(0.4),
        cold=16 * MIB,
        cold_share=Share(0.9),
        writing=Share(0.1),
        at=100 * MILLISECOND,
        until=800 * MILLISECOND,
    )
    bank.start(machine)
    machine.run()
    machine.check()
    found = {metric.name: metric.value for metric in bank.measure(machine)}
    assert (found["replaced"], found["lost"]) == (1, 0)
    (end,) = (each.time for each in machine.tracer.records("MemoryReplaced"))
    copied = {
        frame: int(each["began"])
        for each in machine.tracer.records("MemoryCopy")
        for frame in range(int(each["frame"]), int(each["frame"]) + int(each["pages"]))
    }
    began = min(copied.values())
    moved = {
        frame: each.time
        for each in machine.tracer.records("Migrate")
        if began < each.time < end
        for frame in range(int(each["frame"]), int(each["frame"]) + int(each["pages"]))
        if frame < UNIT // PAGE
    }
    assert moved
    assert all(copied[frame] >= time for frame, time in moved.items())


# -- other machines, and what cannot be ----------------------------------------------------------------------


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
def test_a_bank_fails_on_a_real_machine_of_64_nodes() -> None:
    file = str(HWLOC / "256ia64-64n2s2c.xml")
    change = {"workload.unit": "1 GiB", "workload.threads": 8, "workload.until": "41 s"}
    arms = ntlab.run("dp-bank-1tb", hardware=file, seeds=1, set=change).arms
    crashed = {name: arm.metrics["crashed"].mean for name, arm in arms.items()}
    assert crashed["before"] == crashed["reported"] == 1
    assert crashed["after"] == arms["after"].metrics["lost"].mean == 0
    assert arms["after"].metrics["pause"].mean < arms["all_in_window"].metrics["pause"].mean


@with_paging_writes
@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
def test_paging_goes_on_on_a_real_machine() -> None:
    file = str(HWLOC / "16amd64-8n2c.xml")
    arms = ntlab.run("dp-replace-paging", hardware=file, seeds=1, set={"workload.unit": "512 MiB"}).arms
    lost = {name: arm.metrics["lost"].mean for name, arm in arms.items()}
    assert {name for name, pages in lost.items() if pages} == {"unwatched", "reading_unwatched"}
    pause = {name: arm.metrics["pause"].mean for name, arm in arms.items()}
    assert pause["quiet"] <= pause["movable_first"] < pause["all_in_window"]


def test_a_burst_smaller_than_a_page_is_a_page() -> None:
    machine = boot(
        plugins=[Ws2003(page_size=8 * KIB), Whea(), HotReplace()], tables=small_tables(1, memory=64 * MIB)
    )
    bank = PagedBank(unit=UNIT, burst=4 * KIB, until=50 * MILLISECOND)
    bank.start(machine)
    machine.run()
    assert {metric.name: metric.value for metric in bank.measure(machine)}["uses"] > 0


def test_mistakes_are_named() -> None:
    def begin(message: str, plugin: Ws2003 | None = None, **options: Any) -> None:
        machine = boot(plugins=[plugin or Ws2003(), HotReplace()], tables=small_tables(1, memory=64 * MIB))
        with pytest.raises(UserError, match=message):
            PagedBank(**({"unit": UNIT} | options)).start(machine)

    begin("no paging file", Ws2003(paging_file=0))
    begin("no memory unit can be that large", unit=128 * MIB)
    begin("the paging file is full", Ws2003(paging_file=32 * MIB))
    begin("passes the commit limit", Ws2003(paging_file=32 * MIB), filled=Share(1.0))

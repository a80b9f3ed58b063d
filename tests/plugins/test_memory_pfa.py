"""E5 of 2008 R2: the claims, that they fail without the mechanism, the rule against a model of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judging import failing, options
from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Component, HardwareError, Machine, NonVolatile
from ntlab.machine.extents import BAD
from ntlab.quantities import MIB, SECOND
from ntlab.testing import boot, conformance, small_tables
from ntlab.topology import load
from ntlab_memory_pfa import MemoryPfa
from ntlab_memory_pfa.workloads import WeakCells
from ntlab_whea import Whea
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance("memory_pfa")


def machine_with(**options: Any) -> Machine:
    plugins = [Ws2003(), Whea(), MemoryPfa(**options)]
    return boot(plugins=plugins, tables=small_tables(memory=16 * MIB), trace=True)


def hit(machine: Machine, errors: list[tuple[int, int]]) -> set[int]:
    """Corrected errors at (second, frame). Returns the frames that are out of use then."""
    for time, frame in errors:
        error = HardwareError(
            component=Component("memory", 0, (0, 0)), severity="corrected", address=frame * 4096 + 8
        )
        machine.engine.at(time * SECOND, machine.hardware_errors.occur, error)
    machine.run()
    machine.check()
    return {frame + page for frame, pages in machine.memory.nodes[0].bad for page in range(pages)}


def told(machine: Machine) -> list[tuple[Any, ...]]:
    return [(record["frame"], record["what"], record["errors"]) for record in machine.tracer.records("Page")]


def judge(**change: Any) -> set[str]:
    return {claim.removeprefix("dp-pfa-") for claim in failing("dp-pfa", options("memory_pfa", change))}


def test_the_claims_fail_where_nothing_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge(disable_offline=True) == {"saved", "table", "timeout"}
    monkeypatch.setattr(MemoryPfa, "error_reported", hookimpl(lambda self: None))
    assert judge() == {"saved", "table", "timeout"}


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 7)), max_size=80),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([0, 20, 100]),
    st.sampled_from(["oldest", "refuse"]),
)
def test_the_rule_is_the_documented_one(
    gaps: list[tuple[int, int]], threshold: int, count: int, timeout: int, eviction: Any
) -> None:
    errors, now = [], 0
    for gap, frame in gaps:
        now += gap
        errors.append((now, frame))
    machine = machine_with(threshold=threshold, page_count=count, timeout=timeout, eviction=eviction)
    out: set[int] = set()
    table: dict[int, list[int]] = {}
    for now, frame in errors:
        if frame in table and timeout and now - table[frame][0] > timeout:
            del table[frame]
        if frame not in table:
            if len(table) == count and eviction == "refuse":
                continue
            if len(table) == count:
                del table[next(iter(table))]
            table[frame] = [now]
        table[frame].append(now)
        if len(table[frame]) - 1 > threshold:
            del table[frame]
            out.add(frame)
    assert hit(machine, errors) == out


def test_the_seventeenth_error_is_one_too_many() -> None:
    assert hit(machine_with(), [(each, 7) for each in range(16)]) == set()
    assert hit(machine_with(), [(each, 7) for each in range(17)]) == {7}


def test_settings_out_of_range_are_ignored() -> None:
    machine = machine_with(threshold=0, page_count=65_537, timeout=-1)
    assert hit(machine, [(each, 7) for each in range(17)]) == {7}
    told = machine.tracer.records("SettingIgnored")
    ignored = [(each["setting"], each["value"], each["used"]) for each in told]
    assert ignored == [("page_count", 65_537, 64), ("threshold", 0, 16), ("timeout", -1, 86_400)]
    machine = machine_with(threshold=65_536, page_count=1, timeout=0)
    assert list(machine.tracer.records("SettingIgnored")) == []


def test_a_page_that_cannot_move_stays_and_is_counted_anew() -> None:
    machine = machine_with(threshold=1)
    pool = machine.sections.nonpaged(4)
    assert pool is not None
    frame = pool.extents()[0].frame
    assert hit(machine, [(each, frame) for each in range(4)]) == set()
    assert told(machine) == [(frame, "in use", 2), (frame, "in use", 2)]


@pytest.mark.parametrize("keep", [True, False])
def test_a_bad_page_is_remembered_through_the_next_boot(keep: bool) -> None:
    kept = NonVolatile()
    plugins = [Ws2003(), Whea(), MemoryPfa(threshold=1, persist_offline=keep)]
    machine = Machine(small_tables(memory=16 * MIB), plugins, nonvolatile=kept).boot()
    assert hit(machine, [(1, 9), (2, 9)]) == {9}
    again = Machine(small_tables(memory=16 * MIB), [Ws2003(), Whea(), MemoryPfa()], nonvolatile=kept).boot()
    assert again.memory.pages(BAD) == int(keep)
    off = Machine(
        small_tables(memory=16 * MIB), [Ws2003(), Whea(), MemoryPfa(disable=True)], nonvolatile=kept
    )
    assert off.boot().memory.pages(BAD) == 0


def test_other_errors_do_not_count() -> None:
    machine = machine_with(threshold=1)
    for time in range(4):
        for kind, severity, address in (("cache", "corrected", 4096), ("memory", "recoverable", 4096),
                                        ("memory", "corrected", 1 << 40)):  # fmt: skip
            what: Any = kind, severity
            component = Component(what[0], 0, (1,) if kind == "cache" else (0, 0))
            error = HardwareError(component=component, severity=what[1], address=address, contained=True)
            machine.engine.at(time * SECOND, machine.hardware_errors.occur, error)
    assert hit(machine, []) == set()


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="9 to 8 warnings; expected a range"):
        WeakCells(fewest=9, most=8).start(machine_with())
    with pytest.raises(UserError, match="expected as many as there is memory for"):
        WeakCells(weak=1, hits=10_000).start(machine_with())


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml"))[:3], ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    machine = boot(plugins=[Ws2003(), Whea(), MemoryPfa(threshold=2)], tables=load(str(file)).freeze())
    workload = WeakCells(weak=8)
    workload.start(machine)
    machine.run()
    machine.check()
    found = {metric.name: metric.value for metric in workload.measure(machine)}
    assert (found["saved_share"], found["saved_fixed"], found["in_vain"], found["data_kept"]) == (1, 0, 0, 1)

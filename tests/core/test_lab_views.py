"""The views of memory that every run has."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

import ntlab
from ntlab.lab.views import VIEWS, MemoryView, NumaView, WorkingSetsView
from ntlab.machine import Allocate, Machine, Request, Sleep, Touch
from ntlab.machine.samples import FIRST_INTERVAL, SAMPLES, Samples
from ntlab.quantities import MIB
from ntlab.testing import boot, small_tables

pytestmark = pytest.mark.usefixtures("toy")

MS = FIRST_INTERVAL


def lived(machine: Machine, view: MemoryView | NumaView | WorkingSetsView) -> str:
    """The view of a machine on which a program has touched 8 MiB, slept, and touched half of it twice."""

    def program() -> Iterator[Request]:
        region = yield Allocate(2048)
        yield Touch(region, accesses=1)
        yield Sleep(10 * MS)
        yield Touch(region, 0, 1024, accesses=2)
        yield Sleep(20 * MS)

    view.watch(machine)
    machine.create_thread(machine.create_process("big.exe"), program())
    machine.run()
    return view.text(machine)


def words(text: str) -> list[list[str]]:
    """The words of a text's lines."""
    return [line.split() for line in text.splitlines()]


@pytest.mark.parametrize("interval", [1, 3, 7])
def test_samples_get_rarer_and_never_too_many(interval: int) -> None:
    machine = boot(1)
    samples: Samples[int] = Samples(lambda machine: machine.engine.now // MS)

    def tick() -> Iterator[int]:
        for _ in range(1000):
            yield interval * MS

    samples.watch(machine)
    machine.engine.at(0, tick().send)
    machine.run()
    taken = samples.end(machine)
    last = 1000 * interval
    assert SAMPLES // 2 <= len(taken) <= SAMPLES + 1
    assert all(time == value * MS for time, value in taken)
    steps = {after - before for (before, _), (after, _) in pairwise(taken[:-1])}
    (step,) = steps
    assert (step // MS).bit_count() == 1
    assert last * MS <= taken[-1][0] <= last * MS + step


def test_what_does_not_change_is_left_out() -> None:
    machine = boot(1)
    values = iter([1, 1, 1, 1, 2, 3, 3, 3, 3])
    samples: Samples[int] = Samples(lambda machine: next(values))
    samples.watch(machine)
    machine.engine.at(9 * MS, lambda _: None)
    machine.run(9 * MS)
    assert [(time // MS, value) for time, value in samples.end(machine)] == [
        (1, 1), (4, 1), (5, 2), (6, 3), (9, 3),
    ]  # fmt: skip


def test_only_the_last_machine_counts() -> None:
    samples: Samples[str] = Samples(lambda machine: machine.name)
    for name in ("crashed", "restarted"):
        machine = boot(1)
        machine.name = name
        samples.watch(machine)
        machine.engine.at(3 * MS, lambda _: None)
        machine.run()
    assert {value for _, value in samples.end(machine)} == {"restarted"}


def small() -> Machine:
    return boot(tables=small_tables(2, nodes=2, memory=6 * MIB))


def test_memory_by_state_node_and_time() -> None:
    text = words(lived(small(), MemoryView()))
    for row in (
        ["Zeroed", "Active"],
        ["node", "0", "-", "6", "MiB"],
        ["node", "1", "4", "MiB", "2", "MiB"],
        ["all", "4", "MiB", "8", "MiB"],
        ["over", "time", "Zeroed", "Active"],
        ["4", "ms", "4", "MiB", "8", "MiB"],
    ):
        assert row in text
    assert not any("Standby" in line for line in text)


def test_standby_by_priority() -> None:
    machine = small()
    space = machine.memory.space(machine.create_process("idle.exe"))
    region = space.allocate(512)
    assert region is not None
    machine.memory.populate(region, 1)
    for priority, first in ((5, region.first), (1, region.first + 128)):
        whole, _ = space.at(first)
        assert whole is not None
        extent = machine.memory.isolate(whole, first, first + 128)
        extent.priority = priority
        machine.memory.trim(space.working_set, [extent])
    text = words(MemoryView().text(machine))
    assert ["Zeroed", "Standby", "Active"] in text
    assert ["node", "1", "4", "MiB", "1", "MiB", "1", "MiB"] in text
    assert ["priority", "1", "priority", "5"] in text
    assert ["node", "1", "512", "KiB", "512", "KiB"] in text
    assert ["node", "0", "-", "-"] in text


def test_working_sets() -> None:
    text = words(lived(small(), WorkingSetsView()))
    (row,) = (line for line in text if line[:1] == ["big.exe"])
    assert row[1:8] == ["8", "its", "own", "8", "MiB", "8", "MiB"]
    assert row[-4:] == ["8", "MiB", "2048", "0"]
    assert ["4", "ms", "8", "MiB"] in text
    assert words(WorkingSetsView().text(boot(1)))[0][:2] == ["no", "process"]


def test_traffic_from_node_to_node() -> None:
    # 2048 pages, a line of 64 bytes each: a quarter is on the other node. Then 1024 at home, two lines each.
    text = words(lived(small(), NumaView()))
    for row in (
        ["node", "0", "224", "KiB", "32", "KiB"],
        ["node", "0", "100", "ns", "200", "ns"],
        ["big.exe", "6", "MiB", "2", "MiB"],
        ["4", "ms", "128", "KiB", "25.0%", "125", "ns"],
        ["16", "ms", "128", "KiB", "0.0%", "100", "ns"],
    ):
        assert row in text
    assert text.count(["node", "1", "-", "-"]) == 2
    assert NumaView().text(boot(1)) == "no access to memory was made\n"


@pytest.mark.parametrize("name", VIEWS)
def test_every_run_has_them(name: str) -> None:
    shown = ntlab.view("toy-turns", name)
    assert set(shown) == {"before", "after"}
    assert all(text for text in shown.values())


def test_a_plugin_may_show_the_same_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VIEWS, "ends", MemoryView)
    assert "Active" not in ntlab.view("toy-turns", "ends", "after")["after"]

"""The paging file against a plain list of slots."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError
from ntlab.machine.pagefile import NOBODY, PagingFile, StoredRun


def file_with(text: str) -> PagingFile:
    """A file drawn as text: a dot is a free slot, anything else one that is in use."""
    file = PagingFile(len(text))
    for slot, mark in enumerate(text):
        if mark != ".":
            file.allocate(slot, (1000 + slot,))
    return file


def runs_of(used: list[bool]) -> list[tuple[int, int]]:
    """The free runs, found slot by slot."""
    runs: list[tuple[int, int]] = []
    for slot, taken in enumerate(used):
        if not taken:
            if runs and sum(runs[-1]) == slot:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((slot, 1))
    return runs


def test_a_new_file_is_one_free_run() -> None:
    file = PagingFile(8)
    assert file.free_runs() == [(0, 8)]
    assert (file.used, file.free, file.longest()) == (0, 8, (0, 8))


def test_the_first_run_that_fits_is_not_the_first_run() -> None:
    file = file_with("x.x..x....x.")
    assert file.free_runs() == [(1, 1), (3, 2), (6, 4), (11, 1)]
    assert [file.first_fit(n) for n in (1, 2, 3, 4, 5)] == [1, 3, 6, 6, None]
    assert file.longest() == (6, 4)
    assert file_with("xx").longest() == (0, 0)


@pytest.mark.parametrize(
    ("wanted", "length", "place"),
    [
        (7, 2, 7),  # inside a free run
        (9, 2, 8),  # inside it, but too near its end
        (5, 2, 6),  # above: 6 is 1 away, 3 is 2 away
        (0, 2, 3),
        (0, 1, 1),
        (11, 1, 11),
        (40, 1, 11),  # outside the file
        (-5, 4, 6),
        (3, 5, None),
    ],
)
def test_nearest_fit(wanted: int, length: int, place: int | None) -> None:
    assert file_with("x.x..x....x.").nearest_fit(wanted, length) == place


def test_a_freed_slot_joins_the_runs_beside_it() -> None:
    file = file_with("x.x.x")
    assert file.release(1002, 1003) == 1
    assert file.free_runs() == [(1, 3)]
    assert file.release(0, 10_000) == 2
    assert file.free_runs() == [(0, 5)]


def test_a_stretch_is_consecutive_in_the_file_and_in_the_address_space() -> None:
    file = PagingFile(10)
    file.allocate(0, (20, 21, 22, 30, 31))
    file.allocate(6, (23, 24))
    anywhere = range(1000)
    assert file.stretch(21, 16, anywhere) == (20, 3)  # 30 follows in the file only, 23 in the other only
    assert file.stretch(22, 16, anywhere) == (20, 3)
    assert file.stretch(21, 2, anywhere) == (21, 2)  # forward first
    assert file.stretch(22, 2, anywhere) == (21, 2)
    assert file.stretch(30, 16, anywhere) == (30, 2)
    assert file.stretch(21, 16, range(21, 22)) == (21, 1)
    assert file.stretch(21, 2, range(20, 22)) == (20, 2)


def test_a_stretch_is_one_run_however_it_came_and_is_cut_where_a_page_goes() -> None:
    file = PagingFile(10)
    for slot, owner in ((2, 21), (4, 23), (3, 22), (5, 40)):
        file.allocate(slot, (owner,))
    assert file.stretch(22, 16, range(1000)) == (21, 3)
    assert file.first_stored(0, 1000) == (21, 24)
    assert file.first_stored(22, 23) == (22, 23)
    assert file.first_stored(24, 40) is None
    assert [file.below(owner) for owner in (21, 22, 30, 40, 99)] == [None, 21, 23, 23, 40]
    assert [file.above(owner) for owner in (0, 21, 23, 39, 40)] == [21, 22, 40, 40, None]
    assert file.release(22, 41) == 3
    assert dict(file.slot_of) == {21: 2}
    assert dict(file.owner_of) == {2: 21}
    assert file.free_runs() == [(0, 2), (3, 7)]
    file.check()


def test_a_million_pages_in_a_row_are_one_run() -> None:
    file = PagingFile(1 << 21)
    file.allocate(5, range(1 << 20))
    assert [(run.slot, run.owner, run.count) for run in file.stored_runs()] == [(5, 0, 1 << 20)]
    assert file.release(10, 1 << 19) == (1 << 19) - 10
    assert file.free_runs() == [(0, 5), (15, (1 << 19) - 10), (5 + (1 << 20), (1 << 20) - 5)]
    file.check()


def test_fragmentation_is_slot_runs_per_run_of_pages() -> None:
    file = PagingFile(12)
    assert file.fragmentation == 0
    file.allocate(0, (20, 21, 22))
    assert file.fragmentation == 1
    file.allocate(5, (23,))
    file.allocate(7, (24,))
    assert file.fragmentation == 3
    file.allocate(9, (40,))
    assert file.fragmentation == 2  # four runs of slots hold two runs of pages


def test_what_must_not_be_is_refused() -> None:
    file = file_with("..x..")
    with pytest.raises(SimulationError, match="not all free"):
        file.allocate(1, (1, 2))
    with pytest.raises(SimulationError, match="not all free"):
        file.allocate(4, (1, 2))
    with pytest.raises(SimulationError, match="has paging-file slot 2 already"):
        file.allocate(0, (1002,))
    assert file_with("..").release(0, 10_000) == 0
    with pytest.raises(SimulationError):
        PagingFile(0)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
def test_initial_fragmentation_takes_the_share_it_is_asked_for(share: float) -> None:
    file = PagingFile(400)
    file.fragment(share, random.Random(1))
    file.check()
    assert file.used == 400 * share
    assert set(file.owner_of.values()) <= {NOBODY}
    again = PagingFile(400)
    again.fragment(share, random.Random(1))
    assert again.free_runs() == file.free_runs()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 40))
def test_any_use_agrees_with_a_plain_list(data: st.DataObject, size: int) -> None:
    file = PagingFile(size)
    used = [False] * size
    for owner in range(0, 30 * 100, 100):
        runs = runs_of(used)
        assert file.free_runs() == runs
        length = data.draw(st.integers(1, size), label="length")
        fitting = [(start, free) for start, free in runs if free >= length]
        assert file.first_fit(length) == (fitting[0][0] if fitting else None)
        assert file.longest() == (max(runs, key=lambda run: run[1]) if runs else (0, 0))
        wanted = data.draw(st.integers(-3, size + 3), label="wanted")
        places = [place for start, free in fitting for place in range(start, start + free - length + 1)]
        nearest = file.nearest_fit(wanted, length)
        assert (nearest in places) if places else (nearest is None)
        if nearest is not None:
            assert abs(nearest - wanted) == min(abs(place - wanted) for place in places)
        taken = [slot for slot in range(size) if used[slot]]
        if taken and (nearest is None or data.draw(st.booleans(), label="release")):
            slot = data.draw(st.sampled_from(taken), label="slot")
            owner_at = file.owner_of[slot]
            assert file.slot_of[owner_at] == slot
            assert file.release(owner_at, owner_at + 1) == 1
            assert owner_at not in file.slot_of
            assert slot not in file.owner_of
            used[slot] = False
        elif nearest is not None:
            file.allocate(nearest, range(owner, owner + length))
            used[nearest : nearest + length] = [True] * length
        file.check()


@pytest.mark.parametrize(("slot", "taken"), [(0, False), (1, False), (5, False), (2, True), (4, True)])
def test_a_slot_that_is_both_free_and_used_or_neither_is_found(slot: int, taken: bool) -> None:
    file = file_with("xx.x.x")
    file.check()
    if taken:
        file._stored.add(slot, StoredRun(slot, 7, 1))  # and still in a free run
    else:
        file._stored.between(slot, slot + 1)[0].count = 0
    with pytest.raises(SimulationError, match="both free and used, or neither"):
        file.check()

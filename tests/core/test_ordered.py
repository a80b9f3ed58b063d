"""The ordered map against a plain dictionary, in chunks so small that they are cut and go all the time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import SimulationError
from ntlab.machine import ordered
from ntlab.machine.ordered import Ordered


@pytest.mark.once
@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=120), st.integers(2, 6), st.data())
def test_it_is_a_sorted_dictionary(keys: list[int], chunk: int, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered, "CHUNK", chunk)
        found: Ordered[str] = Ordered()
        wanted: dict[int, str] = {}
        for key in keys:
            if key in wanted:
                assert found.remove(key) == wanted.pop(key)
            else:
                wanted[key] = str(key)
                found.add(key, str(key))
            all_of = sorted(wanted.items())
            assert list(found) == all_of
            assert len(found) == len(wanted)
            at = data.draw(st.integers(-1, 61), label="at")
            stop = data.draw(st.integers(at + 1, 62), label="stop")
            below = [item for item in all_of if item[0] <= at]
            above = [item for item in all_of if item[0] > at]
            assert found.get(at) == wanted.get(at)
            assert found.around(at) == (below[-1][1] if below else None, above[0][0] if above else None)
            assert list(found.down(at)) == below[::-1]
            assert list(found.up(at)) == above
            first = below[-1][0] if below else at
            assert found.between(at, stop) == [wanted[key] for key in sorted(wanted) if first <= key < stop]
            if wanted:
                assert found.first() == all_of[0]


def test_what_is_moved_up_is_never_more_than_a_chunk() -> None:
    found: Ordered[int] = Ordered()
    for number in range(50_000):
        found.add(number * 7919 % 50_021, number)
    assert max(map(len, found._keys)) <= ordered.CHUNK
    assert len(found._keys) < 3 * 50_000 / ordered.CHUNK
    for number in range(50_000):
        assert found.remove(number * 7919 % 50_021) == number
    assert (len(found._keys), bool(found)) == (1, False)


def test_a_key_is_here_once_or_not_at_all() -> None:
    found: Ordered[str] = Ordered()
    found.add(3, "three")
    with pytest.raises(SimulationError, match="3 is here twice"):
        found.add(3, "drei")
    with pytest.raises(SimulationError, match="4 is not here"):
        found.remove(4)
    assert list(found) == [(3, "three")]

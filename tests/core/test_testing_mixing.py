"""Covering sets: every pair of plugins in every way it can occur, in few sets."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from itertools import combinations, product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.lab.registry import InstalledPlugin, Registry
from ntlab.plugin import plugin
from ntlab.testing import covering_sets

pytestmark = pytest.mark.once

Relations = Mapping[str, tuple[str, ...]]


def registry(names: list[str], requires: Relations, conflicts: Relations) -> Registry:
    """Plugins that say no more than what they need and what they do not get on with."""
    found = {}
    for name in names:

        @plugin(
            name=name,
            summary="One of many.",
            release="ws2008",
            requires=requires.get(name, ()),
            conflicts=conflicts.get(name, ()),
        )
        class One:
            pass

        installed = InstalledPlugin(name, "test", "1", EntryPoint(name, "nowhere", "ntlab.plugins"))
        installed.__dict__["info"] = One.ntlab_plugin  # type: ignore[attr-defined]
        found[name] = installed
    return Registry(found)


def possible(chosen: frozenset[str], requires: Relations, conflicts: Relations) -> bool:
    return all(set(requires.get(name, ())) <= chosen for name in chosen) and not any(
        other in chosen for name in chosen for other in conflicts.get(name, ())
    )


@st.composite
def plugins(draw: st.DrawFn) -> Any:
    names = [f"p{i}" for i in range(draw(st.integers(1, 6)))]
    requires = {
        name: tuple(draw(st.sets(st.sampled_from(names[:i]), max_size=2))) if i else ()
        for i, name in enumerate(names)
    }
    conflicts = {
        name: tuple(draw(st.sets(st.sampled_from(names[:i]), max_size=1))) if i else ()
        for i, name in enumerate(names)
    }
    return SimpleNamespace(names=names, requires=requires, conflicts=conflicts)


@given(plugins())
def test_every_pair_that_can_be_is_there_and_no_set_breaks_a_rule(given: Any) -> None:
    rules = given.requires, given.conflicts
    sets = covering_sets(given.names, registry(given.names, *rules))
    assert all(possible(chosen, *rules) for chosen in sets)
    subsets = [
        frozenset(name for name, on in zip(given.names, way, strict=True) if on)
        for way in product((True, False), repeat=len(given.names))
    ]
    allowed = [chosen for chosen in subsets if possible(chosen, *rules)]
    for one, other in combinations(given.names, 2):
        can = {(one in chosen, other in chosen) for chosen in allowed}
        assert {(one in chosen, other in chosen) for chosen in sets} == can


@pytest.mark.parametrize(
    ("count", "fewest"),
    [(2, 4), (3, 4), (4, 5), (5, 6), (10, 6), (11, 7), (15, 7), (16, 8), (35, 8), (56, 9)],
)
def test_there_are_as_few_as_can_be(count: int, fewest: int) -> None:
    """The least for so many, as published for covering arrays of strength 2 on two levels."""
    names = [f"p{i}" for i in range(count)]
    sets = covering_sets(names, registry(names, {}, {}))
    assert len(sets) == fewest
    assert sets == covering_sets(reversed(names), registry(names, {}, {}))


def test_what_is_required_comes_along() -> None:
    known = registry(["a", "b", "base"], {"a": ("base",)}, {})
    assert all("base" in chosen for chosen in covering_sets(["a", "b"], known) if "a" in chosen)

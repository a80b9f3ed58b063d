"""Which sets of plugins to try together: few that show every pair of them in every way it can occur."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations, islice, product
from math import comb

from ntlab.lab.registry import Registry

Chosen = dict[str, bool]
"""Plugins by name, and whether each is on."""


def covering_sets(names: Iterable[str], registry: Registry) -> list[frozenset[str]]:
    """Sets of plugins that together show each pair of `names` both on, both off, and either alone.

    A covering array of strength 2, as far as `requires` and `conflicts` allow; what is required beyond
    `names` comes along. Without such relations it is the smallest there is: it grows with the logarithm of
    the number of plugins, where all subsets would double with each. The order of `names` does not matter.
    """
    rules = _Rules(sorted(set(names)), registry)
    wanted = {
        frozenset(pair.items())
        for one, other in combinations(rules.names, 2)
        for a, b in product((True, False), repeat=2)
        if rules.complete(pair := {one: a, other: b}) is not None
    }
    found: list[frozenset[str]] = []

    def take(begin: Chosen, wish: Chosen) -> None:
        chosen = rules.fill(begin, wish)
        shown = {pair for pair in wanted if pair <= chosen.items()}
        if shown:
            wanted.difference_update(shown)
            found.append(frozenset(name for name, on in chosen.items() if on))

    for wish in _smallest(rules.names):
        take({}, wish)
    while wanted:  # what the relations have bent: in each set as many such pairs as agree
        begin: Chosen = {}
        for pair in map(dict, sorted(wanted, key=sorted)):
            if all(begin.get(name, on) is on for name, on in pair.items()):
                begin = rules.complete({**begin, **pair}) or begin
        take(begin, dict.fromkeys(rules.names, True))
    return found


def _smallest(names: list[str]) -> Iterator[Chosen]:
    """The smallest covering array (Kleitman and Spencer, 1973; Katona, 1973).

    All are on in the first set, and each of the others is on in just half of the sets, no two in the same
    ones. So two differ both ways; and since they share the first set, they leave one with neither.
    """
    count = 2
    while comb(count - 1, count // 2 - 1) < len(names):
        count += 1
    halves = islice(combinations(range(1, count), count // 2 - 1), len(names))
    on_in = dict(zip(names, map(set, halves), strict=True))
    for at in range(count):
        yield {name: at == 0 or at in on_in[name] for name in names}


class _Rules:
    """What plugins say of one another."""

    def __init__(self, names: list[str], registry: Registry) -> None:
        self.names = names
        known = sorted({*names, *(needed for name in names for needed in registry.required(name))})
        self._requires = {name: set(registry.plugin(name).info.requires) for name in known}
        self._conflicts = {
            name: [other for other in known if other != name and registry.conflict(name, other)]
            for name in known
        }

    def fill(self, begin: Chosen, wish: Chosen) -> Chosen:
        """`begin` and what follows from it; the rest as near to `wish` as it can be, name by name."""
        decided = self.complete(begin)
        assert decided is not None
        for name in self.names:
            if name not in decided:
                wished = self.complete({**decided, name: wish[name]})
                decided = wished or self.complete({**decided, name: not wish[name]}) or decided
        return decided

    def complete(self, decided: Chosen) -> Chosen | None:
        """What else is then on or off; None where that cannot be."""
        known = dict(decided)
        waiting = list(known.items())

        def follows(name: str, on: bool) -> bool:
            if name in known:
                return known[name] is on
            known[name] = on
            waiting.append((name, on))
            return True

        while waiting:
            name, on = waiting.pop()
            if on:
                agreed = all(follows(other, True) for other in sorted(self._requires[name])) and all(
                    follows(other, False) for other in self._conflicts[name]
                )
            else:
                agreed = all(
                    follows(other, False) for other, needs in self._requires.items() if name in needs
                )
            if not agreed:
                return None
        return known

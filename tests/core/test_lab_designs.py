"""Designs of on/off experiments, against brute force over sets, orders and points, and published tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction as Exact
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.lab.designs import (
    Design,
    Fraction,
    Full,
    TooFewError,
    Weights,
    apply,
    bits,
    design,
    feasible,
    fraction,
    mask,
)

pytestmark = pytest.mark.once

NUMBERS = st.integers(-1000, 1000)


@st.composite
def needs(draw: st.DrawFn, most: int = 5) -> tuple[int, ...]:
    """What factors need, transitively: a factor needs some of those before it. Their order is then drawn."""
    count = draw(st.integers(1, most))
    found: list[set[int]] = []
    for at in range(count):
        direct = draw(st.sets(st.integers(0, at - 1))) if at else set()
        found.append(direct.union(*(found[other] for other in direct)))
    place = draw(st.permutations(range(count)))
    moved = [0] * count
    for at, others in enumerate(found):
        moved[place[at]] = mask(place[other] for other in others)
    return tuple(moved)


def free(count: int) -> Full:
    return Full((0,) * count)


def values_of(full: Design, function: Callable[[set[int]], float]) -> dict[int, float]:
    return {combination: function(set(bits(combination))) for combination in full.combinations}


def drawn(data: st.DataObject, made: Design) -> dict[int, float]:
    """A random set function."""
    return {combination: data.draw(NUMBERS) for combination in range(1 << len(made.factors))}


def follows(full: Full, combination: int, factor: int) -> bool:
    return not combination >> factor & 1 and (combination | 1 << factor) in full.combinations


# All combinations


@given(needs())
def test_what_can_exist_is_every_combination_with_what_it_needs(some: tuple[int, ...]) -> None:
    expected = [
        combination
        for combination in range(1 << len(some))
        if all(some[factor] & ~combination == 0 for factor in bits(combination))
    ]
    assert list(Full(some).combinations) == expected


@given(needs(), st.data())
def test_a_main_effect_is_the_mean_of_what_a_factor_adds(some: tuple[int, ...], data: st.DataObject) -> None:
    full = Full(some)
    value = drawn(data, full)
    for factor in full.factors:
        added = [
            Exact(value[there | 1 << factor]) - value[there]
            for there in full.combinations
            if follows(full, there, factor)
        ]
        assert apply(full.main(factor), value) == sum(added) / len(added)


@given(needs(), st.data())
def test_an_interaction_is_a_mean_difference_of_differences(
    some: tuple[int, ...], data: st.DataObject
) -> None:
    full = Full(some)
    value = drawn(data, full)
    for a, b in combinations(full.factors, 2):
        both = 1 << a | 1 << b
        found = [
            Exact(value[there | both]) - value[there | 1 << a] - value[there | 1 << b] + value[there]
            for there in full.combinations
            if not there & both and {there | 1 << a, there | 1 << b, there | both} <= set(full.combinations)
        ]
        weights = full.interaction((a, b))
        assert bool(weights) == bool(found) == (not some[a] >> b & 1 and not some[b] >> a & 1)
        if found:
            assert apply(weights, value) == sum(found) / len(found)


@given(st.data())
def test_without_needs_effects_are_the_textbook_s_contrasts(data: st.DataObject) -> None:
    # Half the difference of differences, as Box, Hunter and Hunter define it: a sum of signs over 2^(k - 1).
    full = free(4)
    value = drawn(data, full)
    for size in (1, 2, 3, 4):
        for some in combinations(full.factors, size):
            signs = {
                point: (-1) ** (size - sum(point >> factor & 1 for factor in some)) for point in range(16)
            }
            textbook = sum(Exact(signs[point] * value[point], 8) for point in range(16))
            assert apply(full.interaction(some), value) == textbook * 2 ** (size - 1)


@given(needs(), st.data())
def test_shapley_is_the_mean_over_all_orders_that_can_be(some: tuple[int, ...], data: st.DataObject) -> None:
    full = Full(some)
    value = drawn(data, full)
    added: dict[int, list[Exact]] = {factor: [] for factor in full.factors}
    for order in permutations(full.factors):
        if all(some[factor] & ~mask(order[:at]) == 0 for at, factor in enumerate(order)):
            for at, factor in enumerate(order):
                before = mask(order[:at])
                added[factor].append(Exact(value[before | 1 << factor]) - value[before])
    for factor in full.factors:
        assert apply(full.shapley(factor), value) == sum(added[factor]) / len(added[factor])


def total(weights: Sequence[Weights]) -> dict[int, Exact]:
    summed: dict[int, Exact] = {}
    for some in weights:
        for combination, weight in some.items():
            summed[combination] = summed.get(combination, Exact(0)) + weight
    return {combination: weight for combination, weight in summed.items() if weight}


@given(needs(7))
def test_shares_sum_to_the_whole_exactly(some: tuple[int, ...]) -> None:
    full = Full(some)
    assert total([full.shapley(factor) for factor in full.factors]) == full.whole


@given(needs(), st.data())
def test_a_factor_that_adds_nothing_gets_nothing(some: tuple[int, ...], data: st.DataObject) -> None:
    full = Full(some)
    null = data.draw(st.sampled_from(list(full.factors)))
    value = drawn(data, full)
    value = {combination: value[combination & ~(1 << null)] for combination in value}
    for weights in (full.shapley(null), full.main(null), full.alone(null), full.last(null)):
        assert apply(weights, value) == 0
    for other in full.factors:
        assert apply(full.interaction((null, other)), value) == 0 or other == null


@given(st.integers(2, 5), st.data())
def test_factors_that_do_the_same_get_the_same(count: int, data: st.DataObject) -> None:
    full = free(count)
    of_size = [data.draw(NUMBERS) for _ in range(count + 1)]
    value = values_of(full, lambda on: of_size[len(on)])
    for effect in (full.shapley, full.main, full.alone, full.last):
        assert len({apply(effect(factor), value) for factor in full.factors}) == 1


@given(needs(), st.data())
def test_an_additive_effect_is_the_same_by_every_measure(some: tuple[int, ...], data: st.DataObject) -> None:
    full = Full(some)
    worth = [data.draw(NUMBERS) for _ in full.factors]
    value = values_of(full, lambda on: sum(worth[factor] for factor in on))
    for factor in full.factors:
        for effect in (full.shapley, full.main, full.alone, full.last):
            assert apply(effect(factor), value) == worth[factor]
    for size in (2, 3):
        for several in combinations(full.factors, size):
            assert apply(full.interaction(several), value) == 0


@given(st.integers(2, 5), st.data())
def test_what_only_a_set_of_factors_does_is_their_interaction(count: int, data: st.DataObject) -> None:
    full = free(count)
    together = data.draw(st.sets(st.integers(0, count - 1), min_size=2))
    value = values_of(full, lambda on: float(together <= on))
    assert apply(full.interaction(sorted(together)), value) == 1
    for factor in full.factors:
        assert apply(full.shapley(factor), value) == (Exact(1, len(together)) if factor in together else 0)
        assert apply(full.last(factor), value) == (factor in together)
        assert apply(full.alone(factor), value) == 0
    for size in range(len(together) + 1, count + 1):
        for more in combinations(full.factors, size):
            assert apply(full.interaction(more), value) == 0


def test_alone_and_last_of_factors_that_need_each_other() -> None:
    # 1 needs 0; 2 is free. Each number is what one factor adds, so what it needs is there on both sides.
    full = Full((0, 0b001, 0))
    assert full.combinations == (0b000, 0b001, 0b011, 0b100, 0b101, 0b111)
    assert (full.alone(1), full.last(1)) == ({0b001: -1, 0b011: 1}, {0b101: -1, 0b111: 1})
    assert (full.alone(0), full.last(0)) == ({0b000: -1, 0b001: 1}, {0b100: -1, 0b101: 1})
    assert full.main(0) == total(
        [{0b000: Exact(-1, 2), 0b001: Exact(1, 2)}, {0b100: Exact(-1, 2), 0b101: Exact(1, 2)}]
    )
    assert full.interaction((0, 1)) == {}
    # The orders are 012, 021, 201: 1 is switched on before 2 in one of three.
    assert full.shapley(1) == {
        0b001: Exact(-1, 3),
        0b011: Exact(1, 3),
        0b101: Exact(-2, 3),
        0b111: Exact(2, 3),
    }


# Fractions


SIZES = [(count, basic) for basic in range(2, 6) for count in range(basic + 1, min(1 << basic, 10))]


def sign(point: int, factors: Sequence[int]) -> int:
    return (-1) ** sum(not point >> factor & 1 for factor in factors)


def words(made: Fraction) -> list[tuple[int, ...]]:
    """All sets of factors whose product is the same at each point."""
    return [
        some
        for size in range(1, len(made.factors) + 1)
        for some in combinations(made.factors, size)
        if len({sign(point, some) for point in made.points}) == 1
    ]


@pytest.mark.parametrize(("count", "basic"), SIZES)
def test_a_fraction_is_balanced_and_orthogonal(count: int, basic: int) -> None:
    made = fraction(count, basic)
    assert len(made.points) == len(set(made.points)) == 1 << basic
    assert made.everything in made.points
    for factor in made.factors:
        assert sum(sign(point, [factor]) for point in made.points) == 0
    for a, b in combinations(made.factors, 2):
        assert sum(sign(point, [a]) * sign(point, [b]) for point in made.points) == 0


@pytest.mark.parametrize(("count", "basic"), SIZES)
def test_words_and_resolution_are_those_of_the_points(count: int, basic: int) -> None:
    made = fraction(count, basic)
    lengths = [len(word) for word in words(made)]
    assert made.resolution == min(lengths) >= 3
    assert made.word_lengths == (1, *(lengths.count(length) for length in range(1, count + 1)))
    assert len(lengths) == 2 ** (count - basic) - 1
    assert all(sign(point, word) == 1 for point in made.points for word in words(made))


@pytest.mark.parametrize(("count", "basic"), SIZES)
def test_generators_give_the_points(count: int, basic: int) -> None:
    made = fraction(count, basic)
    assert len(made.generators) == count - basic
    for point in made.points:
        for factor, others in made.generators.items():
            assert sign(point, [factor]) == sign(point, others)


@pytest.mark.parametrize(("count", "basic"), [(4, 3), (6, 3), (6, 4), (7, 5), (8, 5)])
def test_aliases_are_the_products_that_no_point_tells_apart(count: int, basic: int) -> None:
    made = fraction(count, basic)
    products = [some for size in (1, 2, 3) for some in combinations(made.factors, size)]
    for some in products:
        expected = [
            other
            for other in products
            if other != some and all(sign(point, some) == sign(point, other) for point in made.points)
        ]
        assert made.aliases(some, 3) == expected
        assert made.aliases(some, 2) == [other for other in expected if len(other) <= 2]


@pytest.mark.parametrize(("count", "basic"), [(4, 3), (5, 3), (6, 3), (5, 4), (6, 4)])
@given(data=st.data())
def test_a_fraction_gives_the_effect_and_its_aliases_as_the_documentation_says(
    count: int, basic: int, data: st.DataObject
) -> None:
    made, full = fraction(count, basic), free(count)
    value = drawn(data, full)
    size = data.draw(st.integers(1, 2))
    some = tuple(sorted(data.draw(st.permutations(range(count)))[:size]))
    expected = apply(full.interaction(some), value) + sum(
        Exact(2) ** (size - len(alias)) * apply(full.interaction(alias), value)
        for alias in made.aliases(some, count)
    )
    assert apply(made.interaction(some), value) == expected


def up_to(most: int, data: st.DataObject, count: int) -> Mapping[int, float]:
    """A random set function without interactions of more than so many factors."""
    parts = {
        mask(some): data.draw(NUMBERS)
        for size in range(most + 1)
        for some in combinations(range(count), size)
    }
    return {
        combination: sum(worth for part, worth in parts.items() if part & ~combination == 0)
        for combination in range(1 << count)
    }


@pytest.mark.parametrize(
    ("count", "basic", "resolution"), [(6, 3, 3), (7, 4, 4), (8, 5, 4), (5, 4, 5), (8, 6, 5)]
)
@given(data=st.data())
def test_where_the_aliases_vanish_a_fraction_gives_what_all_combinations_do(
    count: int, basic: int, resolution: int, data: st.DataObject
) -> None:
    made, full = fraction(count, basic), free(count)
    assert made.resolution == resolution
    of_factors = up_to(resolution - 2, data, count)
    factor = data.draw(st.integers(0, count - 1))
    assert apply(made.main(factor), of_factors) == apply(full.main(factor), of_factors)
    if resolution == 5:
        of_pairs = up_to(2, data, count)
        pair = (factor, (factor + 1) % count)
        assert apply(made.interaction(pair), of_pairs) == apply(full.interaction(pair), of_pairs)
    if resolution >= 4:
        # Without interactions of three, one's average is the Shapley value, and the mean of alone and last.
        of_pairs = up_to(2, data, count)
        ends = (apply(made.alone(factor), of_pairs) + apply(made.last(factor), of_pairs)) / 2
        assert apply(made.main(factor), of_pairs) == apply(full.shapley(factor), of_pairs) == ends


PUBLISHED = {
    # Basic factors: resolution with one factor more, two more, ... Box, Hunter and Hunter, 2^(k - p) designs.
    3: "4 3 3 3",
    4: "5 4 4 4 3 3 3 3 3 3 3",
    5: "6 4 4 4 4 4",
    6: "7 5 4 4 4",
    7: "8 6 5 5",
}
SHORTEST = {
    # (k, runs as a power): words of the shortest length. Chen, Sun and Wu, 1993, minimum aberration designs.
    (6, 4): 3, (7, 4): 7, (8, 4): 14, (7, 5): 1, (8, 5): 3, (9, 5): 6, (10, 5): 10, (11, 5): 25,
    (8, 6): 2, (9, 6): 1, (10, 6): 2, (11, 6): 4, (12, 6): 6, (15, 4): 35, (7, 3): 7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("count", "basic", "resolution"),
    [
        (basic + 1 + at, basic, int(resolution))
        for basic, row in PUBLISHED.items()
        for at, resolution in enumerate(row.split())
    ],
)
def test_resolutions_are_those_of_published_tables(count: int, basic: int, resolution: int) -> None:
    assert fraction(count, basic).resolution == resolution


@pytest.mark.parametrize(("size", "shortest"), SHORTEST.items())
def test_as_few_shortest_words_as_published_designs(size: tuple[int, int], shortest: int) -> None:
    made = fraction(*size)
    assert made.word_lengths[made.resolution] == shortest


@pytest.mark.parametrize(("count", "basic"), [(4, 3), (5, 3), (6, 3), (6, 4), (7, 4), (8, 4), (7, 5), (8, 5)])
def test_no_other_fraction_has_less_aberration(count: int, basic: int) -> None:
    start = tuple(1 << at for at in range(basic))
    products = [column for column in range(1, 1 << basic) if column not in start]
    every = [
        Fraction((0,) * count, (*start, *some)).word_lengths for some in combinations(products, count - basic)
    ]
    assert fraction(count, basic).word_lengths == min(every)


@pytest.mark.parametrize(("count", "basic"), [(3, 3), (8, 3), (2, 3)])
def test_what_is_no_fraction(count: int, basic: int) -> None:
    with pytest.raises(ValueError, match="combinations"):
        fraction(count, basic)


# The choice


@given(st.integers(1, 12), st.integers(1, 5000))
def test_the_design_fits_and_says_what_would(count: int, most: int) -> None:
    needs = (0,) * count
    with contextlib.suppress(TooFewError):
        fits(design(needs, most), count, most)
        return
    with pytest.raises(TooFewError) as caught:
        design(needs, most)
    least = caught.value.least
    assert least > most
    fits(design(needs, least), count, least)
    with pytest.raises(TooFewError):
        design(needs, least - 1)


def fits(made: Design, count: int, most: int) -> None:
    assert len(made.combinations) <= most
    assert made.combinations[0] == 0
    assert made.combinations[-1] == made.everything
    assert isinstance(made, Full) == (1 << count <= most)
    if isinstance(made, Fraction):
        assert set(made.points) < set(made.combinations)
        assert made.basic == count - 1 or 2 ** (made.basic + 1) + 2 * count + 2 > most


def test_factors_that_need_others_have_no_fraction() -> None:
    nested = (0, 1, 0, 0, 0)
    assert len(feasible(nested)) == 24
    assert isinstance(design(nested, 24), Full)
    with pytest.raises(TooFewError) as caught:
        design(nested, 23)
    assert caught.value.least == 24

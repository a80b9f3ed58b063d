"""Means and intervals against published values and closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.lab.statistics import Estimate, estimate, paired_difference, t_quantile, t_within

# Two-sided 95 % and 99 % points of Student's t, as printed in any statistical table.
PUBLISHED = {
    1: (12.706, 63.657),
    2: (4.303, 9.925),
    3: (3.182, 5.841),
    4: (2.776, 4.604),
    5: (2.571, 4.032),
    9: (2.262, 3.250),
    10: (2.228, 3.169),
    29: (2.045, 2.756),
    30: (2.042, 2.750),
    120: (1.980, 2.617),
}


@pytest.mark.parametrize("degrees", PUBLISHED)
def test_quantiles_are_those_of_the_table(degrees: int) -> None:
    at_95, at_99 = PUBLISHED[degrees]
    assert t_quantile(degrees) == pytest.approx(at_95, abs=5e-4)
    assert t_quantile(degrees, 0.99) == pytest.approx(at_99, abs=5e-4)


def test_one_and_two_degrees_have_closed_forms() -> None:
    assert t_quantile(1) == pytest.approx(math.tan(math.pi * 0.95 / 2), rel=1e-12)
    assert t_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-12)


def test_many_degrees_approach_the_normal_distribution() -> None:
    assert t_quantile(20_000) == pytest.approx(1.9599639845, abs=2e-4)


@given(st.integers(1, 60), st.floats(0, 50))
def test_the_distribution_grows_with_t_and_with_the_degrees(degrees: int, t: float) -> None:
    assert 0 <= t_within(t, degrees) <= 1 + 1e-12
    assert t_within(t, degrees) <= t_within(t + 0.1, degrees) + 1e-12
    assert t_within(t, degrees) <= t_within(t, degrees + 1) + 1e-12


def test_no_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="two values"):
        t_quantile(0)


def test_a_worked_example() -> None:
    # 1..5: mean 3, standard deviation sqrt(2.5), so 3 +- 2.776445 * sqrt(2.5 / 5).
    assert estimate([1, 2, 3, 4, 5]) == Estimate(
        3, pytest.approx(1.036757, abs=1e-6), pytest.approx(4.963243, abs=1e-6), 5
    )


def test_equal_values_are_exact() -> None:
    assert estimate([0.1] * 7) == Estimate(0.1, 0.1, 0.1, 7)
    assert estimate([4.0]) == Estimate(4.0, 4.0, 4.0, 1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), st.floats(-1e6, 1e6))
def test_what_the_seeds_share_cancels(values: list[float], shift: float) -> None:
    shifted = [value + shift for value in values]
    difference = paired_difference(shifted, values)
    assert difference.mean == pytest.approx(shift, abs=1e-8)
    assert difference.high - difference.low == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no measured value"):
        estimate([1.0, value])


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no value"):
        estimate([])


def test_unpaired_values_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0])

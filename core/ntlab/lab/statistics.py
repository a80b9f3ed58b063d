"""Means with 95 % confidence intervals over seeds.

Student's t with n - 1 degrees of freedom. Its distribution has a finite closed form for a whole number of
degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4), so no table and no approximation is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import attrs


def t_within(t: float, degrees: int) -> float:
    """The probability that |T| <= t, for T with so many degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, squared = math.sin(angle), math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for step in range(degrees // 2):
        total += term
        term *= squared * ((2 * step + 2) / (2 * step + 3) if odd else (2 * step + 1) / (2 * step + 2))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@cache
def t_quantile(degrees: int, within: float = 0.95) -> float:
    """The t that |T| stays within with that probability. Raises ValueError for less than one degree."""
    if degrees < 1:
        raise ValueError("a confidence interval needs at least two values")
    low, high = 0.0, 1.0
    while t_within(high, degrees) < within:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_within(middle, degrees) < within else (low, middle)
    return high


@attrs.frozen
class Estimate:
    """A mean over `n` seeds and its 95 % confidence interval, in the unit of the values.

    When all values are the same, mean and both ends are exactly that value. One value alone says nothing
    of its spread: the interval is the value, and `n` is 1.
    """

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, object]:
        return {"mean": self.mean, "ci95": [self.low, self.high], "n": self.n}


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of one value a seed. Raises ValueError for none, and for NaN or infinity."""
    n = len(values)
    if n == 0:
        raise ValueError("there is no value to take a mean of")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{value} is no measured value")
    if min(values) == max(values):
        return Estimate(values[0], values[0], values[0], n)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(left: Sequence[float], right: Sequence[float]) -> Estimate:
    """The mean of left - right, seed by seed: what both sides owe to their seed cancels.

    Raises ValueError where the two have not the same number of values.
    """
    return estimate([a - b for a, b in zip(left, right, strict=True)])

"""Which combinations of on/off factors to run, and what their values say: arithmetic, without machines.

A combination is a set of factors that are on, kept as the bits of a number: bit i is factor i. What is to be
known of the values v is linear in them, so a design gives *weights*: for each combination the exact number
that v is multiplied by there.

- `Full` has every combination that can exist. A factor may *need* others, as a plugin requires another: then
  it is on only where they are. Everything is a mean of differences between combinations that can exist.
- `Fraction` has 2^m of the 2^k combinations of k factors that need nothing, a regular two-level fraction:
  each factor is a product of m basic ones. What a product of factors does cannot be told from what others do
  that are the same product here, its aliases. Besides, it has what `alone` and `last` take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction as Exact
from functools import cached_property
from itertools import combinations

import attrs

Weights = Mapping[int, Exact]


def bits(combination: int) -> list[int]:
    """The factors that are on, in order."""
    return [at for at in range(combination.bit_length()) if combination >> at & 1]


def mask(factors: Iterable[int]) -> int:
    """The combination in which these are on."""
    return sum(1 << factor for factor in set(factors))


def apply(weights: Weights, values: Mapping[int, float]) -> Exact:
    """What `weights` say of these values, exactly."""
    return sum((weight * Exact(values[combination]) for combination, weight in weights.items()), Exact(0))


@attrs.frozen(slots=False)
class Design:
    """`needs[i]` is the combination of all that factor i needs, directly or not; it is not in it itself."""

    needs: tuple[int, ...]

    @property
    def factors(self) -> range:
        return range(len(self.needs))

    @property
    def everything(self) -> int:
        return (1 << len(self.needs)) - 1

    @property
    def combinations(self) -> tuple[int, ...]:
        """The combinations to run: nothing on comes first, everything on last."""
        raise NotImplementedError

    @property
    def whole(self) -> Weights:
        """Everything on minus nothing on."""
        return {0: Exact(-1), self.everything: Exact(1)}

    def alone(self, factor: int) -> Weights:
        """What a factor adds to nothing but what it needs."""
        return {self.needs[factor]: Exact(-1), self.needs[factor] | 1 << factor: Exact(1)}

    def last(self, factor: int) -> Weights:
        """What a factor adds to everything but what needs it."""
        dependants = mask(other for other in self.factors if self.needs[other] >> factor & 1)
        there = self.everything & ~dependants
        return {there & ~(1 << factor): Exact(-1), there: Exact(1)}

    def main(self, factor: int) -> Weights:
        """What a factor adds on average over the combinations of the others."""
        return self.interaction((factor,))

    def interaction(self, factors: Sequence[int]) -> Weights:
        """By how much what one factor adds grows when another is switched on; for more than two, by how much
        their interaction grows with the next one. On average over the combinations of the others.

        This is a difference of differences: 2^(n - 1) times the effect of that name in textbooks of
        experimental design, which halve it for each further factor. Empty where one factor needs another.
        """
        raise NotImplementedError


class Full(Design):
    """All combinations that can exist. Where no factor needs another that is 2^k."""

    @cached_property
    def combinations(self) -> tuple[int, ...]:
        return tuple(sorted(feasible(self.needs)))

    def _can_follow(self, combination: int, factor: int) -> bool:
        return not combination >> factor & 1 and self.needs[factor] & ~combination == 0

    def interaction(self, factors: Sequence[int]) -> Weights:
        chosen = mask(factors)
        if any(self.needs[factor] & chosen for factor in factors):
            return {}
        # What can exist is closed under union, so it is enough that each can follow by itself.
        contexts = [
            combination
            for combination in self.combinations
            if all(self._can_follow(combination, factor) for factor in factors)
        ]
        share = Exact(1, len(contexts))
        weights: dict[int, Exact] = dict.fromkeys(self.combinations, Exact(0))
        for some in _subsets(factors):
            sign = -1 if (len(factors) - some.bit_count()) % 2 else 1
            for context in contexts:
                weights[context | some] += sign * share
        return {combination: weight for combination, weight in weights.items() if weight}

    @cached_property
    def _orders(self) -> tuple[dict[int, int], dict[int, int]]:
        """In how many orders a combination can be reached from nothing, and everything from it."""
        before, after = dict.fromkeys(self.combinations, 0), dict.fromkeys(self.combinations, 0)
        before[0] = after[self.everything] = 1
        for combination in self.combinations:  # a part of a combination is a smaller number
            for factor in self.factors:
                if self._can_follow(combination, factor):
                    before[combination | 1 << factor] += before[combination]
        for combination in reversed(self.combinations):
            for factor in self.factors:
                if self._can_follow(combination, factor):
                    after[combination] += after[combination | 1 << factor]
        return before, after

    def shapley(self, factor: int) -> Weights:
        """What a factor adds on average over all orders in which they can be switched on one by one.

        These sum to `whole` over all factors. Where none needs another it is the Shapley value; otherwise
        that of a game with precedence constraints (Faigle and Kern, 1992).
        """
        before, after = self._orders
        orders = before[self.everything]
        weights: dict[int, Exact] = dict.fromkeys(self.combinations, Exact(0))
        for combination in self.combinations:
            if self._can_follow(combination, factor):
                then = combination | 1 << factor
                weight = Exact(before[combination] * after[then], orders)
                weights[combination] -= weight
                weights[then] += weight
        return {combination: weight for combination, weight in weights.items() if weight}


def feasible(needs: Sequence[int], limit: int | None = None) -> set[int]:
    """The combinations that can exist; with a limit, no more than one above it is looked for."""
    found, fresh = {0}, [0]
    while fresh and (limit is None or len(found) <= limit):
        combination = fresh.pop()
        for factor, needed in enumerate(needs):
            then = combination | 1 << factor
            if needed & ~combination == 0 and then not in found:
                found.add(then)
                fresh.append(then)
    return found


@attrs.frozen(slots=False)
class Fraction(Design):
    """A regular fraction. `columns[i]` is factor i as a product of basic ones, kept as bits; so for three
    factors in four combinations 1, 2 and 3: the third is on where the first two are equal."""

    columns: tuple[int, ...]

    @property
    def basic(self) -> int:
        """How many basic factors there are; the fraction has 2 to this power combinations."""
        return max(self.columns).bit_length()

    @cached_property
    def points(self) -> tuple[int, ...]:
        """The combinations of the fraction. Everything on is one of them."""
        return tuple(sorted(self._at(setting) for setting in range(1 << self.basic)))

    def _at(self, setting: int) -> int:
        # As products of -1 (off) and +1 (on): on unless an odd number of its basic factors is off.
        return mask(at for at, column in enumerate(self.columns) if not (column & ~setting).bit_count() % 2)

    @cached_property
    def combinations(self) -> tuple[int, ...]:
        singles = [weights for at in self.factors for weights in (self.alone(at), self.last(at))]
        return tuple(sorted({*self.points, *(point for weights in singles for point in weights)}))

    def product(self, factors: Iterable[int]) -> int:
        """The product of some factors, as a product of basic ones."""
        column = 0
        for factor in factors:
            column ^= self.columns[factor]
        return column

    def interaction(self, factors: Sequence[int]) -> Weights:
        """What the fraction gives for it: with each alias of n' factors added 2^(n - n') times."""
        scale = Exact(2 ** len(factors), len(self.points))
        chosen = mask(factors)
        return {point: -scale if (chosen & ~point).bit_count() % 2 else scale for point in self.points}

    def aliases(self, factors: Sequence[int], most: int) -> list[tuple[int, ...]]:
        """What cannot be told from the product of these: other products, of at most so many factors."""
        product = self.product(factors)
        return [
            others
            for size in range(1, most + 1)
            for others in combinations(self.factors, size)
            if others != tuple(factors) and self.product(others) == product
        ]

    @property
    def word_lengths(self) -> tuple[int, ...]:
        """How many products of L factors are constant, for L = 0, 1, ...: the word-length pattern."""
        return tuple(row[0] for row in _products(self.columns, self.basic))

    @property
    def resolution(self) -> int:
        """The length of the shortest constant product: one factor is alias to no fewer than one less."""
        return next(length for length, count in enumerate(self.word_lengths) if length and count)

    @property
    def generators(self) -> dict[int, tuple[int, ...]]:
        """Each factor that is a product of others that are basic: factor -> those others."""
        place = {column: at for at, column in enumerate(self.columns) if column.bit_count() == 1}
        return {
            at: tuple(place[1 << bit] for bit in bits(column))
            for at, column in enumerate(self.columns)
            if column.bit_count() > 1
        }


def fraction(factors: int, basic: int) -> Fraction:
    """The fraction of 2^basic combinations that tells most apart: of the highest resolution found, and of
    those the one with the fewest shortest words, then next shortest (minimum aberration).

    The search adds one factor after the other and goes on from the best ways found, each with another
    word-length pattern. Raises ValueError where so many factors do not go into so few combinations.
    """
    if not basic < factors < 1 << basic:
        raise ValueError(f"{factors} factors in 2^{basic} combinations")
    start = tuple(1 << at for at in range(basic))
    kept = [start]
    for _ in range(factors - basic):
        best: dict[tuple[int, ...], tuple[int, ...]] = {}
        for columns in kept:
            products = _products(columns, basic)
            for column in range(1, 1 << basic):
                if column not in columns:
                    # A new word is the new factor with a product of old ones that is the same.
                    longer = (*(row[0] for row in products[1:]), 0)
                    pattern = tuple(
                        before + row[column] for before, row in zip(longer, products, strict=True)
                    )
                    best.setdefault(pattern, (*columns, column))
        kept = [best[pattern] for pattern in sorted(best)[:_KEPT]]
    return Fraction((0,) * factors, kept[0])


_KEPT = 48
"""How many word-length patterns the search goes on from; tests hold what it finds against published ones."""


def _products(columns: Sequence[int], basic: int) -> list[list[int]]:
    """[length][column]: how many sets of so many factors have that product."""
    counts = [[0] * (1 << basic) for _ in range(len(columns) + 1)]
    counts[0][0] = 1
    for added, column in enumerate(columns):
        for length in range(added + 1, 0, -1):
            fewer, row = counts[length - 1], counts[length]
            counts[length] = [row[at] + fewer[at ^ column] for at in range(1 << basic)]
    return counts


class TooFewError(ValueError):
    """No design has so few combinations. `least` has the smallest one, as far as that was looked for."""

    def __init__(self, least: int) -> None:
        super().__init__(f"at least {least} combinations")
        self.least = least


def design(needs: Sequence[int], most: int) -> Design:
    """The design for these factors that tells most apart in at most so many combinations.

    Raises TooFewError where there is none. If a factor needs another, only `Full` will do.
    """
    count = len(needs)
    if len(feasible(needs, most)) <= most:
        return Full(tuple(needs))
    if any(needs):
        raise TooFewError(len(feasible(needs, _MOST)))
    singles, smallest = 2 * count + 2, count.bit_length()
    if most < singles + (1 << smallest):
        raise TooFewError(min(1 << count, singles + (1 << smallest)))
    return fraction(count, min(count - 1, (min(most, _MOST) - singles).bit_length() - 1))


_MOST = 1 << 13
"""More combinations nobody runs."""


def _subsets(factors: Sequence[int]) -> Iterator[int]:
    for size in range(len(factors) + 1):
        yield from (mask(some) for some in combinations(factors, size))

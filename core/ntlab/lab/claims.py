"""What a claim expects, written as one line and judged on measured values.

    after < before
    abs(after_40 - after_05) <= 0.005
    1.8 <= before / after <= 2.2 and after == 0

A name is an arm and stands for the claim's metric there; numbers, ``+ - * / **``, unary minus, ``abs``,
``min`` and ``max`` make terms of them; comparisons may be chained and joined with ``and``.

What it means: the arms share their seeds, so each side of a comparison is computed seed by seed and the
right one is taken from the left one. The comparison holds if the *whole* 95 % confidence interval of that
difference does: ``<`` needs its upper end below 0, ``>=`` its lower end at 0 or above, ``==`` both ends at
exactly 0, ``!=`` an interval without 0. Where all seeds agree the interval is one exact number. The
expectation holds if all its comparisons do.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from ntlab.errors import UnknownNameError, UserError
from ntlab.lab.statistics import Estimate, estimate

_BINARY: dict[type[ast.operator], Callable[[float, float], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"abs": abs, "min": min, "max": max}
_COMPARE: dict[type[ast.cmpop], tuple[str, Callable[[Estimate], bool]]] = {
    ast.Lt: ("<", lambda d: d.high < 0),
    ast.LtE: ("<=", lambda d: d.high <= 0),
    ast.Gt: (">", lambda d: d.low > 0),
    ast.GtE: (">=", lambda d: d.low >= 0),
    ast.Eq: ("==", lambda d: d.low == d.high == 0),
    ast.NotEq: ("!=", lambda d: d.low > 0 or d.high < 0),
}
_FORM = 'a comparison of arms, such as "after < 0.5 * before" or "abs(after - before) <= 0.01"'


@attrs.frozen
class Comparison:
    """One judged comparison: `difference` is left - right, paired by seed.

    `of_metric` says whether it is in the metric's unit; else it is a ratio, or the like.
    """

    left: str
    sign: str
    right: str
    difference: Estimate
    holds: bool
    of_metric: bool


@attrs.frozen
class Expectation:
    """A parsed expectation. `arms` are the arms it names, in the order in which they appear."""

    text: str
    where: str
    arms: tuple[str, ...]
    _comparisons: tuple[tuple[ast.expr, ast.cmpop, ast.expr], ...] = attrs.field(repr=False, eq=False)

    def judge(self, values: Mapping[str, Sequence[float]]) -> tuple[Comparison, ...]:
        """Judge on the metric's values: for each arm one value a seed, the seeds in the same order.

        Raises UserError where the arithmetic is impossible (division by zero, an overflow).
        """
        n = len(values[self.arms[0]])
        judged = []
        for left, sign, right in self._comparisons:
            differences = []
            for at in range(n):
                of_seed = {arm: values[arm][at] for arm in self.arms}
                differences.append(self._value(left, of_seed) - self._value(right, of_seed))
            try:
                difference = estimate(differences)
            except ValueError as error:
                raise UserError(f"{self.text!r} cannot be judged: {error}", where=self.where) from None
            symbol, holds = _COMPARE[type(sign)]
            judged.append(
                Comparison(
                    left=ast.unparse(left),
                    sign=symbol,
                    right=ast.unparse(right),
                    difference=difference,
                    holds=holds(difference),
                    of_metric=_alike(_power(left), _power(right)) == 1,
                )
            )
        return tuple(judged)

    def _value(self, node: ast.expr, arms: Mapping[str, float]) -> float:
        try:
            value = _evaluate(node, arms)
        except (ArithmeticError, TypeError) as error:
            raise UserError(f"{ast.unparse(node)!r} cannot be computed: {error}", where=self.where) from None
        if isinstance(value, complex) or not math.isfinite(value):
            raise UserError(f"{ast.unparse(node)!r} is no real number here", where=self.where)
        return float(value)


def is_arm_name(name: str) -> bool:
    """Whether an arm may be called so: a name that an expectation can use."""
    return name.isidentifier() and not keyword.iskeyword(name) and name not in _FUNCTIONS


def parse_expectation(text: str, arms: Sequence[str], where: str) -> Expectation:
    """Read an expectation over these arms. Raises UserError, naming `where`, for anything else."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply
        raise UserError(f"{text!r} cannot be read", where=where, expected=_FORM) from None
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    comparisons = []
    named: list[str] = []
    for part in parts:
        if not isinstance(part, ast.Compare):
            raise UserError(f"{ast.unparse(part)!r} compares nothing", where=where, expected=_FORM)
        terms = [part.left, *part.comparators]
        for term in terms:
            _check(term, arms, named, where)
        for left, sign, right in zip(terms, part.ops, terms[1:], strict=False):
            if type(sign) not in _COMPARE:
                raise UserError(f"{ast.unparse(part)!r} is not allowed", where=where, expected=_FORM)
            comparisons.append((left, sign, right))
    if not named:
        raise UserError(f"{text!r} names no arm", where=where, expected=_FORM)
    return Expectation(text, where, tuple(dict.fromkeys(named)), tuple(comparisons))


def _check(node: ast.expr, arms: Sequence[str], named: list[str], where: str) -> None:
    """Refuse all but the small language, so that evaluating a term is safe."""
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return
        case ast.Name(id=name):
            if name not in arms:
                raise UnknownNameError("arm", name, arms, where=where)
            named.append(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand, arms, named, where)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            _check(left, arms, named, where)
            _check(right, arms, named, where)
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS and given:
            if (name == "abs") != (len(given) == 1):
                raise UserError(
                    f"{ast.unparse(node)!r}: abs takes one term, min and max several", where=where
                )
            for argument in given:
                _check(argument, arms, named, where)
        case _:
            raise UserError(f"{ast.unparse(node)!r} is not allowed", where=where, expected=_FORM)


def _evaluate(node: ast.expr, arms: Mapping[str, float]) -> Any:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]  # _check lets only numbers through
        case ast.Name(id=name):
            return arms[name]
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, arms)
        case ast.BinOp(left=left, op=sign, right=right):
            return _BINARY[type(sign)](_evaluate(left, arms), _evaluate(right, arms))
        case ast.Call(func=ast.Name(id=name), args=given):
            return _FUNCTIONS[name](*(_evaluate(argument, arms) for argument in given))
    raise AssertionError(node)  # _check lets nothing else through


def _power(node: ast.expr) -> float | None:
    """Which power of the metric's unit a term is in: 1 of an arm, 0 of a ratio, nan where it makes no sense.

    None for a number: it is in what it is added to or compared with.
    """
    match node:
        case ast.Constant():
            return None
        case ast.Name():
            return 1
        case ast.UnaryOp(operand=operand):
            return _power(operand)
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as sign, right=right):
            one, other = _power(left), _power(right)
            if one is None and other is None:
                return None
            return (one or 0) + (other or 0) * (1 if isinstance(sign, ast.Mult) else -1)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base = _power(left)
            if _power(right) is not None:
                return math.nan
            return None if base is None else base * float(_evaluate(right, {}))
        case ast.BinOp(left=left, right=right):
            return _alike(_power(left), _power(right))
        case ast.Call(args=given):
            return _alike(*map(_power, given))
    raise AssertionError(node)  # _check lets nothing else through


def _alike(*powers: float | None) -> float | None:
    """The power that terms are in which are added or compared."""
    known = {power for power in powers if power is not None}
    return known.pop() if len(known) == 1 else math.nan if known else None

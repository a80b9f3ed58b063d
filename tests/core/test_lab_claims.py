"""The language of expectations: what it accepts, what it means, what it refuses."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.errors import UnknownNameError, UserError
from ntlab.lab.claims import Comparison, is_arm_name, parse_expectation

ARMS = ("before", "after", "other")


def holds(text: str, **values: list[float]) -> bool:
    expectation = parse_expectation(text, ARMS, "here")
    return all(comparison.holds for comparison in expectation.judge(values))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("after < before", True),
        ("after > before", False),
        ("after == 2", True),
        ("before == 2 * after", True),
        ("before / after == 2", True),
        ("-after == -2", True),
        ("abs(after - before) <= 2", True),
        ("max(after, before) == 4 and min(after, before) == 2", True),
        ("1.9 <= before / after <= 2.1", True),
        ("1.9 <= before / after < 2", False),
        ("before == after ** 2", True),
        ("after != before", True),
        ("after != 2", False),
        ("after >= 2 and after < 2", False),
    ],
)
def test_exact_values(text: str, expected: bool) -> None:
    assert holds(text, before=[4.0, 4.0, 4.0], after=[2.0, 2.0, 2.0]) is expected


def test_the_whole_interval_must_lie_on_the_right_side() -> None:
    # Differences -1, 1, -1, 1, ...: mean 0. Nothing is shown, in either direction.
    before, after = [10.0] * 6, [9.0, 11.0] * 3
    assert not holds("after < before", before=before, after=after)
    assert not holds("after >= before", before=before, after=after)
    assert not holds("after == before", before=before, after=after)
    assert not holds("after != before", before=before, after=after)
    assert holds("after < before + 3", before=before, after=after)


def test_what_seeds_share_cancels() -> None:
    # The arms overlap widely; pair by pair, `after` is always exactly 1 less.
    before = [1.0, 50.0, 100.0]
    assert holds("after < before", before=before, after=[value - 1 for value in before])


def test_an_interval_is_student_s() -> None:
    # Differences 1..5: interval 1.0368 to 4.9632, so above 1.03 and not above 1.04.
    after, before = [1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5
    assert holds("after - before > 1.03", before=before, after=after)
    assert not holds("after - before > 1.04", before=before, after=after)


SIGNS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
NUMBERS = st.integers(-1000, 1000)


@given(NUMBERS, NUMBERS, st.sampled_from(sorted(SIGNS)))
def test_without_spread_a_comparison_is_that_of_numbers(left: int, right: int, sign: str) -> None:
    expected = SIGNS[sign](left, right)
    assert holds(f"before {sign} after", before=[left] * 3, after=[right] * 3) is expected


def test_it_says_what_was_compared() -> None:
    expectation = parse_expectation("1 < after < before", ARMS, "here")
    assert expectation.arms == ("after", "before")
    first, second = expectation.judge({"before": [3.0], "after": [2.0]})
    assert (first.left, first.sign, first.right) == ("1", "<", "after")
    assert (second.difference.mean, second.holds) == (-1.0, True)


@pytest.mark.parametrize(
    "text",
    [
        "after",
        "after < before or before < after",
        "not after < before",
        "after in before",
        "after is before",
        "1 < 2",
        "",
        "after <",
        "after < 'x'",
        "after < True",
        "after < before.x",
        "after < before[0]",
        "open('x') < after",
        "__import__('os').system('true') < after",
        "after < (lambda: 1)()",
        "max(after, key=abs) < 1",
        "abs(after, before) < 1",
        "min(after) < 1",
        "max() < after",
        "(after if after else before) < 1",
        "[x for x in after] < 1",
        "after % 2 < 1",
        "after // 2 < 1",
        "+after < 1",
        "after < 1j",
        "after < " + "-" * 10_000 + "1",
        "after < " + "(" * 10_000 + "1" + ")" * 10_000,
        "max(*after) < 1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^here: "):
        parse_expectation(text, ARMS, "here")


def test_an_unknown_arm_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"here: unknown arm 'befor'.*'before'"):
        parse_expectation("after < befor", ARMS, "here")


@pytest.mark.parametrize(
    "text", ["1 / after < 2", "after ** -1 < 2", "(after - 1) ** 0.5 < 2", "10.0 ** 400 < after"]
)
def test_impossible_arithmetic_is_told(text: str) -> None:
    with pytest.raises(UserError, match=r"^here: "):
        parse_expectation(text, ARMS, "here").judge({"after": [0.0, 0.0]})


@pytest.mark.parametrize(
    ("text", "of_metric"),
    [
        ("after < before", True),
        ("after < 0.5 * before", True),
        ("abs(after - before) <= 5", True),
        ("max(after, 3) - before * 2 / 4 == -1", True),
        ("after ** 2 / before < 1", True),
        ("(1 + 1) * after / (3 - 1) < 2 ** 2", True),
        ("before / after > 1.8", False),
        ("1 / after < 2", False),
        ("after * before < 4", False),
        ("after / before + after < 1", False),  # makes no sense, but may be written
        ("after ** 0 <= 1", False),
        ("2 ** after < 8", False),
    ],
)
def test_what_a_difference_is_in(text: str, of_metric: bool) -> None:
    (judged,) = parse_expectation(text, ARMS, "here").judge({"after": [1.0], "before": [2.0]})
    assert judged.of_metric is of_metric


@given(st.data())
def test_a_difference_in_the_metric_s_unit_grows_with_it(data: st.DataObject) -> None:
    def term(depth: int) -> str:
        if depth == 0:
            return data.draw(st.sampled_from(["after", "before"]))
        one, other = term(depth - 1), term(depth - 1)
        form = data.draw(st.sampled_from(["{0} + {1}", "abs({0} - {1})", "({0}) * ({1})", "({0}) / ({1})"]))
        return form.format(one, other)

    text = f"{term(data.draw(st.integers(0, 2)))} < {term(data.draw(st.integers(0, 2)))}"
    values = {"after": 3.0, "before": 7.0}

    def judged(factor: float) -> Comparison:
        scaled = {arm: [value * factor] for arm, value in values.items()}
        return parse_expectation(text, ARMS, "here").judge(scaled)[0]

    try:
        small, large = judged(1), judged(1024)
    except UserError:  # a division by zero
        return
    if small.of_metric:
        assert large.difference.mean == pytest.approx(1024 * small.difference.mean)


@pytest.mark.parametrize(
    ("name", "is_one"), [("after_40", True), ("40", False), ("a-b", False), ("and", False), ("min", False)]
)
def test_names_of_arms(name: str, is_one: bool) -> None:
    assert is_arm_name(name) is is_one

"""Measured values as people read them."""

from __future__ import annotations

import pytest

from ntlab.lab.statistics import Estimate
from ntlab.lab.tables import Table, as_columns, format_estimate, format_value


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1_500_000, "ns", "1.5 ms"),
        (0, "ns", "0 ns"),
        (-2_000, "ns", "-2 us"),
        (65536, "B", "64 KiB"),
        (6.4e9, "B/s", "6.4 GB/s"),
        (0.123456, "1", "0.1235"),
        (1234567, "1", "1234567"),
        (12, "switches", "12 switches"),
    ],
)
def test_a_value_has_its_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


@pytest.mark.parametrize(
    ("estimate", "unit", "text"),
    [
        (Estimate(0.25, 0.238, 0.262, 5), "1", "0.25 ± 0.012"),
        (Estimate(225_340_000, 179_390_000, 271_290_000, 3), "ns", "225.3 ± 46 ms"),
        (Estimate(14046.2, 14041.8, 14050.6, 5), "1/s", "14046 ± 4.4 1/s"),
        (Estimate(95, 95, 95, 5), "ns", "95 ns"),
        (Estimate(3040, 2930, 3150, 5), "1/s", "3040 ± 110 1/s"),
    ],
)
def test_an_interval_is_in_the_scale_of_its_mean(estimate: Estimate, unit: str, text: str) -> None:
    assert format_estimate(estimate, unit) == text


def test_a_table_is_aligned_text_and_safe_html() -> None:
    table = Table(["name", "value>"], [["a<b", "1"], ["c", "10"]], "Title")
    assert table.text() == "Title\nname  value\n----  -----\na<b       1\nc        10\n"
    assert "<td>a&lt;b</td>" in table.html()


def test_columns_are_equally_long() -> None:
    assert as_columns([{"a": 1}, {"b": 2}]) == {"a": [1, None], "b": [None, 2]}

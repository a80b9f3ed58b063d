"""Quantities as people write them, held as integers.

Times are integer nanoseconds, sizes integer bytes, rates integer bytes a second; powers are integer
milliwatts, energies integer picojoules; fractions are floats in 0..1. Decimal prefixes are powers of 1000
and binary prefixes (KiB, MiB, ...) powers of 1024, as IEC 80000-13 has them. Parsing is exact: "15.625 ms"
is 15_625_000, and a value that is no whole number of its base unit ("0.3 B") is refused instead of rounded.

This module imports nothing of ntlab, so every other part may use it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from fractions import Fraction as Exact
from functools import lru_cache
from typing import Any, Final, NewType

Duration = NewType("Duration", int)
"""Time in nanoseconds."""
Size = NewType("Size", int)
"""Amount of memory or data in bytes."""
Rate = NewType("Rate", int)
"""Bandwidth in bytes a second."""
Share = NewType("Share", float)
"""A part of a whole, 0..1; written as 0.25 or "25 %"."""

NANOSECOND = 1
MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_TIME = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_SIZE = {
    "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip
_RATE = {f"{unit}/s": factor for unit, factor in _SIZE.items()}
_POWER = {"mW": 1, "W": 10**3, "kW": 10**6}
_ENERGY = {"pJ": 1, "nJ": 10**3, "uJ": 10**6, "µJ": 10**6, "mJ": 10**9, "J": 10**12}
_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*([^\s\d].*?)?\s*\Z")


class QuantityError(ValueError):
    """A text that is no quantity of the wanted kind. The message says what was expected."""


def _parse(text: object, units: dict[str, int], kind: str, example: str) -> int:
    match = _NUMBER.match(text) if isinstance(text, str) else None
    if match is None:
        raise QuantityError(f"{text!r} is not a {kind}; expected a number with a unit, such as {example!r}")
    number, unit = match.groups()
    if unit is None:
        raise QuantityError(f"{text!r} has no unit; expected a {kind} such as {example!r}")
    if unit not in units:
        raise QuantityError(f"{text!r} has the unit {unit!r}; expected a {kind} in one of {', '.join(units)}")
    value = Exact(number.replace("_", "")) * units[unit]
    if value.denominator != 1:
        raise QuantityError(f"{text!r} is finer than the base unit of a {kind}")
    if not -(1 << 63) <= value < 1 << 63:  # records hold signed 64 bits
        raise QuantityError(f"{text!r} is too large for a {kind}")
    return value.numerator


def parse_duration(text: object) -> Duration:
    """Nanoseconds from text such as "15.6 ms". Raises QuantityError."""
    return Duration(_parse(text, _TIME, "duration", "15.6 ms"))


def parse_size(text: object) -> Size:
    """Bytes from text such as "64 KiB". Raises QuantityError."""
    return Size(_parse(text, _SIZE, "size", "64 KiB"))


def parse_rate(text: object) -> Rate:
    """Bytes a second from text such as "6.4 GB/s". Raises QuantityError."""
    return Rate(_parse(text, _RATE, "rate", "6.4 GB/s"))


def parse_power(text: object) -> int:
    """Milliwatts from text such as "1.5 W". Raises QuantityError."""
    return _parse(text, _POWER, "power", "1.5 W")


def parse_energy(text: object) -> int:
    """Picojoules from text such as "0.5 mJ". Raises QuantityError."""
    return _parse(text, _ENERGY, "energy", "0.5 mJ")


def parse_share(value: object) -> Share:
    """A fraction 0..1 from a number or from text such as "25 %". Raises QuantityError."""
    number: float | None = None
    if isinstance(value, str) and (match := _NUMBER.match(value)) is not None and match.group(2) == "%":
        number = float(match.group(1).replace("_", "")) / 100
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    if number is None or not 0 <= number <= 1:
        raise QuantityError(f"{value!r} is not a share; expected a number in 0..1 or a text such as '25 %'")
    return Share(number)


def _format(value: float, steps: list[tuple[int, str]]) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{value / factor:.6g} {unit}"
    return f"{value:.6g} {steps[-1][1]}"


def format_duration(nanoseconds: float) -> str:
    """ "15.6 ms" from 15_600_000."""
    return _format(nanoseconds, [(10**9, "s"), (10**6, "ms"), (10**3, "us"), (1, "ns")])


def format_size(size: float) -> str:
    """ "64 KiB" from 65_536."""
    return _format(size, [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")])


def format_rate(rate: float) -> str:
    """ "6.4 GB/s" from 6_400_000_000."""
    return _format(rate, [(10**9, "GB/s"), (10**6, "MB/s"), (10**3, "kB/s"), (1, "B/s")])


WHOLE_UNITS: Final[dict[Any, tuple[Callable[[object], int], Callable[[float], str], str]]] = {
    Duration: (parse_duration, format_duration, "ns"),
    Size: (parse_size, format_size, "B"),
    Rate: (parse_rate, format_rate, "B/s"),
}
"""How each quantity that is a whole number is read and shown, and its base unit."""


@lru_cache(maxsize=4096)
def with_unit(value: int, kind: Any) -> str:
    """A quantity as people write it, exactly: "15.625 ms", or "15625001 ns" where that would round it."""
    parse, pretty, unit = WHOLE_UNITS[kind]
    text = pretty(value)
    with contextlib.suppress(ValueError):  # a rounded text may be no quantity at all
        if parse(text) == value:
            return text
    return f"{value} {unit}"

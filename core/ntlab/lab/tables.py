"""Tables for people: as plain text, in a notebook, and (by `ntlab.cli`) on a terminal."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from ntlab.errors import NtlabError
from ntlab.lab.statistics import Estimate
from ntlab.quantities import format_duration, format_rate, format_size, parse_duration, parse_rate, parse_size

_QUANTITIES: dict[str, tuple[Callable[[float], str], Callable[[object], int]]] = {
    "ns": (format_duration, parse_duration),
    "B": (format_size, parse_size),
    "B/s": (format_rate, parse_rate),
}


@attrs.frozen
class Table:
    """Text in rows and columns. A column whose heading ends in ">" is set to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """Each column's heading, and whether it is set to the right."""
        return [(heading.removesuffix(">"), heading.endswith(">")) for heading in self.headings]

    def text(self) -> str:
        """Aligned by blanks, with a rule below the headings; ends in a line feed."""
        columns = self.columns
        grid = [[heading for heading, _ in columns], *self.rows]
        widths = [max(len(row[at]) for row in grid) for at in range(len(columns))]
        grid.insert(1, ["-" * width for width in widths])
        lines = [self.title] if self.title else []
        for row in grid:
            cells = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, (_, right) in zip(row, widths, columns, strict=True)
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(heading)}</th>" for heading, _ in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Report:
    """What the laboratory's functions return: reads well, and gives plain data.

    `tables()` is shown by `repr` and in a notebook; `to_json()` is plain data in the shape that the command
    line prints; `columns()` is a dictionary of equally long lists, as any data frame takes it. `faults` is
    what could not be looked at, and why: plugins that are broken, experiments that cannot be read.
    """

    faults: Sequence[NtlabError] = ()

    def tables(self) -> list[Table]:
        raise NotImplementedError

    def to_json(self) -> Any:
        raise NotImplementedError

    def columns(self) -> dict[str, list[Any]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n".join(table.text() for table in self._all_tables()).rstrip()

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self._all_tables())

    def _all_tables(self) -> list[Table]:
        faults = [[str(fault)] for fault in self.faults]
        return [*self.tables(), *([Table(["left out"], faults)] if faults else [])]


def as_columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns. What a row has not is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def counted(number: int, thing: str) -> str:
    """A number of things: "1 seed", "3 seeds"."""
    return f"{number} {thing}{'s' * (number != 1)}"


def format_setting(value: object) -> str:
    """An option's value as one line shows it: a boolean as TOML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def format_value(value: float, unit: str) -> str:
    """A measured value with its unit, to four digits: "1.5 ms", "64 KiB", "0.25", "12 switches"."""
    factor, name = _scale(value, unit)
    return f"{value / factor:.4g}{name}" if abs(value / factor) < 1e4 else f"{value / factor:.0f}{name}"


def format_estimate(estimate: Estimate, unit: str) -> str:
    """Mean and half the interval: "0.25 ± 0.012"; the latter is left out where the interval is one point."""
    mean = format_value(estimate.mean, unit)
    if estimate.low == estimate.high:
        return mean
    factor, name = _scale(estimate.mean, unit)
    half = (estimate.high - estimate.low) / 2 / factor
    digits = f"{half:.2g}" if half < 100 else f"{half:.0f}"
    return f"{mean.removesuffix(name)} ± {digits}{name}"


def format_signed(effect: Estimate, unit: str) -> str:
    """An effect, with its sign: "+0.25 ± 0.012"."""
    text = format_estimate(effect, unit)
    return f"+{text}" if effect.mean > 0 else text


def _scale(value: float, unit: str) -> tuple[float, str]:
    """What a value is divided by to be shown, and what is written behind it."""
    if unit not in _QUANTITIES:
        return 1, "" if unit in ("1", "") else f" {unit}"
    pretty, parse = _QUANTITIES[unit]
    name = pretty(value).partition(" ")[2]
    return parse(f"1 {name}"), f" {name}"

"""Where a sweep keeps its runs: an SQLite file, which any data frame reads and any process may look into.

    pandas.read_sql("SELECT * FROM results", sqlite3.connect("fair-share.sweep.sqlite"))

| table | a row for |
|---|---|
| results | each point, arm and seed: the axes, the metrics and counters, time, events and digest (a view) |
| runs | each run: what it measured |
| points | each arm at each point of the grid, and the definition of its runs |
| definitions | all that a run is made of, as JSON: options, workload, versions |
| profiles | each machine, as the TOML of a profile |
| measures | each metric and counter, and its unit |
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ntlab.errors import UserError
from ntlab.lab.runner import Run

APPLICATION = 0x6E746C62
"""What marks the file as ntlab's."""
FORMAT = 1
FIXED = ("point", "arm", "hardware", "seed", "duration", "time", "events", "digest", "definition")
"""Columns of `results` that measure nothing; so are the axes, which have a dot in their names."""

_SCHEMA = f"""
BEGIN;
CREATE TABLE axes (axis TEXT PRIMARY KEY);
CREATE TABLE points (point TEXT, arm TEXT, hardware TEXT, definition TEXT, PRIMARY KEY (point, arm));
CREATE TABLE definitions (definition TEXT PRIMARY KEY, profile TEXT, content TEXT) WITHOUT ROWID;
CREATE TABLE profiles (profile TEXT PRIMARY KEY, content TEXT) WITHOUT ROWID;
CREATE TABLE measures (name TEXT PRIMARY KEY, unit TEXT, counter INTEGER, in_column TEXT);
CREATE TABLE runs (definition TEXT, seed INTEGER, time INTEGER, events INTEGER, digest TEXT,
                   PRIMARY KEY (definition, seed));
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
COMMIT;
"""


@attrs.frozen
class Measure:
    """A metric or a counter: its unit, and the column of `results` that it is in."""

    unit: str
    counter: bool
    column: str


class Store:
    """The runs of sweeps of one experiment. Without a file they are kept in memory.

    `measures` has what was measured so far, by name. What is added is there at once, whatever becomes of this
    process. Every method raises UserError, naming the file, where it cannot be read or written.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        with self._telling():
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(":memory:" if file is None else file, isolation_level=None)
            # The log survives the death of this process; only that of the computer may cost the latest runs.
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            if not self._one("SELECT count(*) FROM sqlite_schema"):
                self._base.executescript(_SCHEMA)
            elif self._one("PRAGMA application_id") != APPLICATION:
                raise UserError("is no store of ntlab's", where=str(file))
            elif self._one("PRAGMA user_version") != FORMAT:
                raise UserError("is the store of another version of ntlab", where=str(file))
            self._axes = {axis for (axis,) in self._base.execute("SELECT axis FROM axes")}
            self.measures: dict[str, Measure] = {
                name: Measure(unit, bool(counter), column)
                for name, unit, counter, column in self._base.execute("SELECT * FROM measures")
            }
            self._defined = self._finished()

    def finished(self) -> set[tuple[str, int]]:
        """The runs there are: definition and seed of each."""
        return {(definition, seed) for definition, seeds in self._defined.items() for seed in seeds}

    def _finished(self) -> dict[str, set[int]]:
        definitions = self._base.execute("SELECT definition FROM definitions")
        found: dict[str, set[int]] = {definition: set() for (definition,) in definitions}
        for definition, seed in self._base.execute("SELECT definition, seed FROM runs"):
            found[definition].add(seed)
        return found

    def define(self, definition: str, content: str, profile: str, machine: str) -> None:
        """Keep what runs are made of: `content`, and a `machine` that is called `profile`."""
        if definition in self._defined:
            return
        with self._telling():
            self._base.execute("INSERT OR IGNORE INTO profiles VALUES (?, ?)", (profile, machine))
            self._base.execute(
                "INSERT OR IGNORE INTO definitions VALUES (?, ?, ?)", (definition, profile, content)
            )
        self._defined[definition] = set()

    def place(self, point: Mapping[str, Any], arm: str, hardware: str, definition: str) -> None:
        """The runs of an arm at a point have this definition."""
        with self._telling():
            if not self._axes.issuperset(point):
                self._axes.update(point)
                self._base.executemany("INSERT OR IGNORE INTO axes VALUES (?)", [(axis,) for axis in point])
                self._show()
            self._base.execute(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?)",
                (point_text(point), arm, hardware, definition),
            )

    def add(self, run: Run) -> None:
        """Keep a finished run; `run.experiment` is its definition."""
        values = {**run.metrics, **run.counters}
        for name in values:
            unit = run.units.get(name, "1")
            known = self.measures.get(name)
            if known is None:
                self._add_measure(name, unit, name not in run.metrics)
            elif known.unit != unit:
                raise UserError(
                    f"{name!r} is measured in {unit!r}, and before in {known.unit!r}",
                    where=str(self.file or "sweep"),
                    expected="one unit",
                )
        row = (run.experiment, run.seed, run.time, run.events, run.digest, *values.values())
        columns = ["definition", "seed", "time", "events", "digest"]
        columns += [_quoted(self.measures[name].column) for name in values]
        marks = ", ".join("?" * len(row))
        with self._telling():
            self._base.execute(f"INSERT OR REPLACE INTO runs ({', '.join(columns)}) VALUES ({marks})", row)
        self._defined.setdefault(run.experiment, set()).add(run.seed)

    def _add_measure(self, name: str, unit: str, counter: bool) -> None:
        taken = {known.column.lower() for known in self.measures.values()} | set(FIXED)
        column = name
        while column.lower() in taken:  # SQLite does not tell upper case from lower
            column += " (measured)"
        with self._telling():
            self._base.execute(f"ALTER TABLE runs ADD COLUMN {_quoted(column)} REAL")
            self._base.execute("INSERT INTO measures VALUES (?, ?, ?, ?)", (name, unit, counter, column))
            self.measures[name] = Measure(unit, counter, column)
            self._show()

    def _show(self) -> None:
        """Make the view `results` anew: there are more axes, or more is measured."""
        axes = sorted(self._axes - set(FIXED))
        columns = ["points.point", "arm", "hardware"]
        columns += [f"json_extract(point, {_text(f'$.{_quoted(axis)}')}) AS {_quoted(axis)}" for axis in axes]
        columns += ["seed", *(f"runs.{_quoted(known.column)}" for known in self.measures.values())]
        columns += ["time", "events", "digest", "definition"]
        self._base.execute("DROP VIEW IF EXISTS results")
        self._base.execute(
            f"CREATE VIEW results AS SELECT {', '.join(columns)} FROM points JOIN runs USING (definition)"
        )

    def columns(self, points: Sequence[Mapping[str, Any]], seeds: int) -> dict[str, list[Any]]:
        """The rows of `results` at these points, in their order, up to so many seeds."""
        if not self.measures:
            return {name: [] for name in ("point", "arm", "seed")}
        with self._telling():
            rows = self._at("results.*", points, seeds)
            names = [description[0] for description in rows.description]
            found = list(zip(*rows, strict=True)) or [()] * len(names)
        return {name: list(values) for name, values in zip(names, found, strict=True)}

    def count(self, points: Sequence[Mapping[str, Any]], seeds: int) -> int:
        """How many rows these are."""
        if not self.measures:
            return 0
        with self._telling():
            (count,) = self._at("count(*)", points, seeds).fetchone()
        return int(count)

    def _at(self, what: str, points: Sequence[Mapping[str, Any]], seeds: int) -> sqlite3.Cursor:
        self._base.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (at INTEGER PRIMARY KEY, point TEXT)")
        self._base.execute("DELETE FROM wanted")
        self._base.executemany(
            "INSERT INTO wanted VALUES (?, ?)", [(at, point_text(point)) for at, point in enumerate(points)]
        )
        return self._base.execute(
            f"SELECT {what} FROM wanted JOIN results USING (point) WHERE seed <= ? ORDER BY at, arm, seed",
            (seeds,),
        )

    def settle(self) -> None:
        """Nobody writes any more: leave one file behind, unless somebody reads just now, who keeps a log."""
        with self._telling(), contextlib.suppress(sqlite3.OperationalError):
            self._base.execute("PRAGMA journal_mode = DELETE")

    def _one(self, query: str) -> Any:
        return self._base.execute(query).fetchone()[0]

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        where = str(self.file or "sweep")
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=where) from None
        except sqlite3.Error as error:
            raise UserError(f"cannot be used: {error}", where=where) from None


def point_text(point: Mapping[str, Any]) -> str:
    """A point as it is kept, the same for any order of its axes."""
    return json.dumps(dict(point), sort_keys=True)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

"""What core parking costs: runs the study of docs/core-parking.md, and draws its figures.

    python benchmarks/core_parking_study.py run RESULTS [--machine FILE.xml] [--jobs N]
    python benchmarks/core_parking_study.py draw RESULTS docs

`run` takes half an hour: sweeps of core-parking-study.toml over loads and machines, and over the length of
requests. `draw` writes what came out as a table (.csv) and figures (.svg); it needs nothing but Python.
"""

from __future__ import annotations

import argparse
import csv
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ntlab
from ntlab.lab.statistics import Estimate, estimate
from ntlab.quantities import parse_duration, parse_share, parse_size

EXPERIMENT = Path(__file__).with_name("core-parking-study.toml")
MACHINES = {"xeon-2s": "2 nodes", "nehalem-2s": "2 nodes, hyper-threads", "opteron-4s": "4 nodes, C1 only"}
LOADS = ("5 %", "10 %", "20 %", "30 %", "40 %", "50 %", "60 %", "90 %")
SERVICES = ("200 us", "500 us", "1 ms", "2 ms", "5 ms")
LENGTH_LOADS = ("10 %", "25 %")
STALLS = ("0 %", "25 %", "50 %", "75 %")
DATA = ("0 B", "256 KiB")
ARMS = {
    "off": "#888888",
    "default": "#1b6ca8",
    "override": "#2a9d5c",
    "strict": "#c8553d",
    "eager": "#8e5bb5",
}
KEPT = ("power", "joules", "mean", "p99", "remote_share", "latency", "refill", "parked", "package_sleep")


def run(store: Path, machine: str | None, jobs: int) -> None:
    machines = [*MACHINES, *([machine] if machine else [])]
    ntlab.sweep(EXPERIMENT, {"workload.load": LOADS, "hardware": machines}, out=store, jobs=jobs)
    by_length = {"workload.service": SERVICES, "workload.load": LENGTH_LOADS, "hardware": ["xeon-2s"]}
    ntlab.sweep(EXPERIMENT, by_length, out=store, jobs=jobs)
    by_memory = {"workload.stalled": STALLS, "workload.data": DATA, "workload.load": ["10 %"]}
    ntlab.sweep(EXPERIMENT, by_memory | {"hardware": ["xeon-2s"]}, out=store, jobs=jobs)


# -- what came out ---------------------------------------------------------------------------------------


class Key(NamedTuple):
    """One run, but for its seed: what the sweeps change, and what the experiment says where they do not."""

    machine: str
    load: str
    arm: str = "off"
    service: str = "1 ms"
    stalled: str = "50 %"
    data: str = "256 KiB"


Found = dict[Key, dict[int, dict[str, float]]]
"""The metrics by key and seed."""


def read(store: Path) -> Found:
    """What is in the store of a sweep."""
    found: Found = defaultdict(dict)
    file = next(store.glob("*.sweep.sqlite"))
    with sqlite3.connect(file) as base:
        base.row_factory = sqlite3.Row
        for row in base.execute("SELECT * FROM results"):
            settings = {
                name: row[f"workload.{name}"]
                for name in ("service", "stalled", "data")
                if f"workload.{name}" in row.keys() and row[f"workload.{name}"] is not None  # noqa: SIM118
            }
            key = Key(Path(row["hardware"]).stem, row["workload.load"], row["arm"], **settings)
            found[key][row["seed"]] = {name: row[name] for name in KEPT}
    return found


def value(found: Found, key: Key, name: str, factor: float, ratio: bool) -> Estimate | None:
    """A metric over the seeds, times `factor`; `ratio`: over that without parking, seed by seed."""
    runs, base = found.get(key), found.get(key._replace(arm="off"))
    if not runs or not base:
        return None
    return estimate([factor * run[name] / (base[seed][name] if ratio else 1) for seed, run in runs.items()])


def table(found: Found, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow([*Key._fields, "seeds", *KEPT])
        arms = list(ARMS)
        for key in sorted(
            found,
            key=lambda key: (
                key.machine,
                parse_duration(key.service),
                parse_size(key.data),
                parse_share(key.stalled),
                parse_share(key.load),
                arms.index(key.arm),
            ),
        ):
            runs = found[key].values()
            means = [f"{sum(run[name] for run in runs) / len(runs):.6g}" for name in KEPT]
            rows.writerow([*key, len(runs), *means])


# -- figures ---------------------------------------------------------------------------------------------

Points = list[tuple[float, Estimate]]
WIDE, HIGH, LEFT, TOP, GAP = 200, 130, 62, 64, 34


class Axis(NamedTuple):
    """Where on a panel each setting is, 0 to 1, and the labels of some."""

    places: dict[str, float]
    labels: Mapping[str, str]


class Panel:
    """One diagram: lines with whiskers, the 95 % intervals."""

    def __init__(self, title: str, unit: str, ticks: Sequence[tuple[float, str]]) -> None:
        self.title = title
        self.unit = unit
        self.ticks = ticks
        self.lines: dict[str, Points] = {}

    def draw(self, x: float, y: float, low: float, high: float) -> Iterable[str]:
        def at(place: float, number: float) -> tuple[float, float]:
            inside = min(max(number, low), high)
            return x + place * WIDE, y + HIGH - (inside - low) / (high - low) * HIGH

        yield f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" class="frame"/>'
        if self.title:
            yield f'<text x="{x + WIDE / 2}" y="{y - 8}" class="title">{self.title}</text>'
        for number in _steps(low, high):
            _, level = at(0, number)
            yield f'<line x1="{x}" x2="{x + WIDE}" y1="{level:.1f}" y2="{level:.1f}" class="grid"/>'
            yield f'<text x="{x - 5}" y="{level + 3.5:.1f}" class="left">{number:g}{self.unit}</text>'
        for place, label in self.ticks:
            across, _ = at(place, low)
            yield f'<text x="{across:.1f}" y="{y + HIGH + 14}" class="below">{label}</text>'
        for arm, points in self.lines.items():
            colour = ARMS[arm]
            path = " ".join("{:.1f},{:.1f}".format(*at(place, each.mean)) for place, each in points)
            yield f'<polyline points="{path}" stroke="{colour}"/>'
            for place, each in points:
                (across, mean), (_, top), (_, bottom) = (
                    at(place, y) for y in (each.mean, each.high, each.low)
                )
                ends = f'x1="{across:.1f}" x2="{across:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"'
                yield f'<line {ends} stroke="{colour}" class="whisker"/>'
                yield f'<circle cx="{across:.1f}" cy="{mean:.1f}" r="2" fill="{colour}"/>'


def _steps(low: float, high: float) -> list[float]:
    """Three to six round numbers."""
    sizes = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
    step = next(size for size in sizes if (high - low) / size <= 6)
    first = -int(-low // step)
    return [round(number * step, 6) for number in range(first, int(high // step) + 1)]


def figure(rows: list[tuple[str, list[Panel]]], below: str, file: Path) -> None:
    """Panels in rows; those of a row share their scale."""
    width = LEFT + max(len(panels) for _, panels in rows) * (WIDE + GAP + 22)
    height = TOP + len(rows) * (HIGH + 2 * GAP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        "<style>text{font:11px sans-serif;fill:#333}.title{text-anchor:middle;font-weight:bold}"
        ".left{text-anchor:end}.below{text-anchor:middle}.row{font-weight:bold}"
        ".frame{fill:none;stroke:#999}.grid{stroke:#e4e4e4}polyline{fill:none;stroke-width:1.6}"
        ".whisker{stroke-width:.8;opacity:.55}</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, (arm, colour) in enumerate(ARMS.items()):
        x = LEFT + place * 110
        out.append(f'<line x1="{x}" x2="{x + 22}" y1="14" y2="14" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{x + 27}" y="18">{arm}</text>')
    for number, (label, panels) in enumerate(rows):
        y = TOP + number * (HIGH + 2 * GAP)
        means = [each for panel in panels for points in panel.lines.values() for _, each in points]
        low, high = min(each.mean for each in means), max(each.mean for each in means)
        margin = (high - low or abs(high) or 1) * 0.08
        low = 0 if 0 <= low < high / 4 else low - margin
        out.append(f'<text x="{LEFT - 44}" y="{y - (24 if number == 0 else 10)}" class="row">{label}</text>')
        for column, panel in enumerate(panels):
            out += panel.draw(LEFT + column * (WIDE + GAP + 22), y, low, high + margin)
    out.append(f'<text x="{width / 2}" y="{height - 18}" class="below">{below}</text></svg>')
    file.write_text("\n".join(out) + "\n", encoding="utf-8")


ROWS = [
    ("energy a request, % of that without parking", "joules", "%", 100, True),
    ("99th percentile of responses, % of that without parking", "p99", "%", 100, True),
    ("remote accesses", "remote_share", "%", 100, False),
    ("refilling caches, us a request", "refill", "", 0.001, False),
]


def draw(store: Path, folder: Path) -> None:
    found = read(store)
    table(found, folder / "core-parking.csv")
    names = list(dict.fromkeys(key[0] for key in found))
    by_load = Axis(
        {load: 0.03 + float(parse_share(load)) for load in LOADS},
        {load: load for load in ("5 %", "20 %", "40 %", "60 %", "90 %")},
    )
    machines = {
        f"{machine}: {MACHINES.get(machine, 'a real one')}": (lambda load, m=machine: Key(m, load))
        for machine in [*MACHINES, *(name for name in names if name not in MACHINES)]
    }
    panels(found, by_load, machines, ROWS, "load, part of all processors", folder / "core-parking-load.svg")
    by_length = _even({each: f"{parse_duration(each) / 1e6:g}" for each in SERVICES})
    lengths = {
        f"xeon-2s, load {load}": (lambda length, load=load: Key("xeon-2s", load, service=length))
        for load in LENGTH_LOADS
    }
    panels(
        found,
        by_length,
        lengths,
        ROWS[:3],
        "mean time of a request alone, ms",
        folder / "core-parking-length.svg",
    )
    by_memory = _even({stalls: stalls for stalls in STALLS})
    memories = {
        f"xeon-2s, load 10 %, {data} in caches": (
            lambda stalled, data=data: Key("xeon-2s", "10 %", stalled=stalled, data=data)
        )
        for data in DATA
    }
    panels(
        found, by_memory, memories, ROWS, "part of its time that a request waits for memory, if local",
        folder / "core-parking-memory.svg",
    )  # fmt: skip


def _even(labels: Mapping[str, str]) -> Axis:
    """Settings at equal distances."""
    return Axis({each: 0.04 + 0.92 * n / (len(labels) - 1) for n, each in enumerate(labels)}, labels)


def panels(
    found: Found,
    axis: Axis,
    columns: Mapping[str, Callable[[str], Key]],
    metrics: list[tuple[str, str, str, float, bool]],
    below: str,
    file: Path,
) -> None:
    """A figure with a row for each metric and a column for each machine or load."""
    rows = []
    for number, (label, name, unit, factor, ratio) in enumerate(metrics):
        row = []
        for title, key in columns.items():
            panel = Panel(
                title if not number else "",
                unit,
                [(axis.places[each], label) for each, label in axis.labels.items()],
            )
            for arm in ARMS:
                if not (ratio and arm == "off"):
                    values = {
                        at: value(found, key(at)._replace(arm=arm), name, factor, ratio) for at in axis.places
                    }
                    panel.lines[arm] = [(axis.places[at], each) for at, each in values.items() if each]
            row.append(panel)
        if any(points for panel in row for points in panel.lines.values()):
            rows.append((label, row))
    if rows:
        figure(rows, below, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "draw"))
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs"))
    parser.add_argument("--machine", help="one machine more, as a file")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.what == "run":
        run(given.results, given.machine, given.jobs)
    else:
        draw(given.results, given.folder)

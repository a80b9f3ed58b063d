"""ntlab against its peers on the same models, in turn, by CPU time; and what hooks and tracing cost.

    python benchmarks/compare.py [--rounds 5] [--model NAME ...] [--python PEER=INTERPRETER ...] [--check]

A peer that is not installed is left out. `--python simso=PATH` names the interpreter that has it, where it
cannot be installed beside the others. `--check` exits 1 where a ratio is below its floor (see README.md).
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import models_ntlab

from ntlab import hookimpl, plugin

PEERS = ("simpy", "cimba", "simso")
FLOORS = {
    "timeouts": {"simpy": 2.5},
    "ping_pong": {"simpy": 5.0},
    "m_m_4": {"simpy": 3.5},
    "round_robin": {"simpy": 4.0},
    "preemptive": {"simpy": 20.0, "cimba": 0.9},
    "edf": {"simso": 100.0},
}
CEILINGS = {"hooks, nobody observes": 1.25, "hooks, one observer": 1.6, "tracing on": 1.6}

Model = Callable[[], tuple[int, float, float]]
"""Runs once; returns (units of work, seconds, a figure that should agree)."""


@plugin(name="observer", summary="Sees every context switch and does nothing.", release="ws2003")
class Observer:
    @hookimpl
    def context_switched(self, processor: Any, old: Any, new: Any) -> None:
        pass


@plugin(name="quiet", summary="A plugin that answers nothing.", release="ws2003")
class NoHooks:
    pass


class Contender:
    """A process that runs the models of one module."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("contender.py")), f"models_{name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        version, models = self._answer() or (f"{name} is not installed", [])
        self.version: str = version
        self.models: list[str] = models

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def model(self, name: str) -> Model:
        def run() -> tuple[int, float, float]:
            assert self._process.stdin is not None
            print(name, file=self._process.stdin, flush=True)
            units, seconds, figure = self._answer()
            return units, seconds, figure

        return run


def in_turn(models: Sequence[Model], rounds: int) -> list[tuple[float, float]]:
    """For each model the median rate (units a second) and its last figure; one of each a round."""
    rates: list[list[float]] = [[] for _ in models]
    figures = [0.0] * len(models)
    for _ in range(rounds):
        for number, model in enumerate(models):
            gc.collect()
            units, seconds, figures[number] = model()
            rates[number].append(units / seconds)
    return list(zip(map(median, rates), figures, strict=True))


def against_peers(names: Sequence[str], pythons: dict[str, str], rounds: int) -> list[str]:
    """Print the ratios. Returns the models with one below its floor."""
    contenders = [Contender(name, pythons.get(name, sys.executable)) for name in ("ntlab", *PEERS)]
    print(f"Python {platform.python_version()}, {'; '.join(each.version for each in contenders)}")
    print(f"medians of {rounds} rounds, thousands a second of CPU time\n")
    print(f"{'model':<14}{'ntlab':>8}{'peer':>8}{'':9}{'ratio':>8}{'floor':>7}   figure (ntlab / peer)")
    failed = []
    for name in names:
        able = [each for each in contenders if name in each.models]
        (ours, our_figure), *theirs = in_turn([each.model(name) for each in able], rounds)
        for peer, (rate, figure) in zip(able[1:], theirs, strict=True):
            ratio = ours / rate
            floor = FLOORS[name].get(peer.name, 0)
            print(f"{name:<14}{ours / 1e3:>8.0f}{rate / 1e3:>8.1f} {peer.name:<8}"
                  f"{ratio:>8.2f}{floor or '':>7}   {our_figure:.6g} / {figure:.6g}")  # fmt: skip
            if ratio < floor:
                failed.append(name)
    return failed


def of_hooks(rounds: int) -> list[str]:
    """Print what hooks and tracing cost. Returns the variants above their ceiling."""
    variants: dict[str, Model] = {
        "plain": lambda: models_ntlab.round_robin(5),
        "hooks, nobody observes": lambda: models_ntlab.round_robin(5, [NoHooks()]),
        "hooks, one observer": lambda: models_ntlab.round_robin(5, [Observer()]),
        "tracing on": lambda: models_ntlab.round_robin(5, trace=True),
    }
    results = in_turn(list(variants.values()), rounds)
    print(f"\n{'cost, on round_robin':<26}{'x plain':>9}{'ceiling':>9}")
    failed = []
    for (name, _), (rate, _) in zip(variants.items(), results, strict=True):
        cost = results[0][0] / rate
        ceiling = CEILINGS.get(name)
        print(f"{name:<26}{cost:>9.2f}{ceiling if ceiling else '':>9}")
        if ceiling and cost > ceiling:
            failed.append(name)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", action="append", choices=list(FLOORS), help="only this one, and no costs")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=INTERPRETER")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    pythons = dict(each.split("=", 1) for each in arguments.python)
    failed = against_peers(arguments.model or list(FLOORS), pythons, arguments.rounds)
    if not arguments.model:
        failed += of_hooks(arguments.rounds)
    if arguments.check and failed:
        print(f"\nbelow its floor or above its ceiling: {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

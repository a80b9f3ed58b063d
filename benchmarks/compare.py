"""ntlab against SimPy on the same models, in turn, in one run, by CPU time; and what hooks and tracing cost.

    python benchmarks/compare.py [--rounds 5] [--check]

`--check` exits 1 where a ratio is below its floor (see README.md).
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import models_ntlab
import models_simpy

from ntlab import hookimpl, plugin

FLOORS = {"timeouts": 1.2, "ping_pong": 4.0, "m_m_4": 2.5, "round_robin": 3.0, "preemptive": 10.0}
CEILINGS = {"hooks, nobody observes": 1.25, "hooks, one observer": 1.6, "tracing on": 1.6}

Model = Callable[[], tuple[int, float, float]]


@plugin(name="observer", summary="Sees every context switch and does nothing.", release="ws2003")
class Observer:
    @hookimpl
    def context_switched(self, processor: Any, old: Any, new: Any) -> None:
        pass


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    failed = []
    print(f"Python {platform.python_version()}, {models_ntlab.VERSION}, {models_simpy.VERSION}, "
          f"medians of {arguments.rounds} rounds\n")  # fmt: skip
    print(f"{'model':<14}{'ntlab k/s':>11}{'SimPy k/s':>11}{'ratio':>8}{'floor':>7}   figure (ntlab / SimPy)")
    for name, floor in FLOORS.items():
        models = [models_ntlab.MODELS[name], models_simpy.MODELS[name]]
        (ours, our_figure), (theirs, their_figure) = in_turn(models, arguments.rounds)
        ratio = ours / theirs
        print(f"{name:<14}{ours / 1e3:>11.0f}{theirs / 1e3:>11.0f}{ratio:>8.2f}{floor:>7.1f}"
              f"   {our_figure:.6g} / {their_figure:.6g}")  # fmt: skip
        if ratio < floor:
            failed.append(name)
    print(f"\n{'cost, on round_robin':<26}{'x plain':>9}{'ceiling':>9}")
    variants: dict[str, Model] = {
        "plain": lambda: models_ntlab.round_robin(5),
        "hooks, nobody observes": lambda: models_ntlab.round_robin(5, [NoHooks()]),
        "hooks, one observer": lambda: models_ntlab.round_robin(5, [Observer()]),
        "tracing on": lambda: models_ntlab.round_robin(5, trace=True),
    }
    results = in_turn(list(variants.values()), arguments.rounds)
    for (name, _), (rate, _) in zip(variants.items(), results, strict=True):
        cost = results[0][0] / rate
        ceiling = CEILINGS.get(name)
        print(f"{name:<26}{cost:>9.2f}{ceiling if ceiling else '':>9}")
        if ceiling and cost > ceiling:
            failed.append(name)
    if arguments.check and failed:
        print(f"\nbelow its floor or above its ceiling: {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


@plugin(name="quiet", summary="A plugin that answers nothing.", release="ws2003")
class NoHooks:
    pass


if __name__ == "__main__":
    sys.exit(main())

"""How long commands take that answer at once, as ratios to the start of a bare interpreter.

    python benchmarks/bench_startup.py [--rounds 15] [--check]

Some of them import every plugin that is installed. All are run in turn, several rounds, after one round that
compiles; medians of elapsed time. `--check` exits 1 where a ratio is above its ceiling (see README.md).
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median

BARE = ("-c", "pass")
CEILINGS = {
    ("-c", "import ntlab"): 4.0,
    ("-m", "ntlab", "--help"): 6.0,
    ("-m", "ntlab", "plugins"): 16.0,
    ("-m", "ntlab", "hooks"): 18.0,
    ("-m", "ntlab", "experiments"): 22.0,
}


def seconds(arguments: Sequence[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    commands = [BARE, *CEILINGS]
    with tempfile.TemporaryDirectory() as folder:
        # A user's second start finds compiled modules, whatever the environment here says of writing them.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        rounds = [
            [seconds(command, environment) for command in commands] for _ in range(arguments.rounds + 1)
        ]
    bare, *ours = (median(times) for times in zip(*rounds[1:], strict=True))
    print(f"Python {platform.python_version()}, medians of {arguments.rounds} rounds\n")
    print(f"{'command':<22}{'ms':>6}{'ratio':>8}{'ceiling':>9}")
    print(f"{'python -c pass':<22}{bare * 1000:>6.0f}{1:>8.1f}")
    for (command, ceiling), took in zip(CEILINGS.items(), ours, strict=True):
        text = " ".join(command).removeprefix("-m ").removeprefix("-c ")
        print(f"{text:<22}{took * 1000:>6.0f}{took / bare:>8.1f}{ceiling:>9.1f}")
    slow = any(took / bare > ceiling for took, ceiling in zip(ours, CEILINGS.values(), strict=True))
    return 1 if arguments.check and slow else 0


if __name__ == "__main__":
    sys.exit(main())

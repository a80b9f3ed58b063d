"""Named random streams.

A stream belongs to (seed, owner, object). Switching a plugin on gives it streams of its own and moves
nobody else's draws, so the arms of an experiment share their workload's random numbers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import partial


class Streams:
    """Random streams of one run, made on first use."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[tuple[str, str], random.Random] = {}

    def stream(self, owner: str, name: str = "") -> random.Random:
        """The stream of `name` as used by `owner` (a plugin or workload). The same object every time."""
        key = (owner, name)
        found = self._streams.get(key)
        if found is None:
            text = f"{self.seed}\x1f{owner}\x1f{name}".encode()
            found = self._made(owner, int.from_bytes(hashlib.sha256(text).digest(), "big"))
            self._streams[key] = found
        return found

    def _made(self, owner: str, seed: int) -> random.Random:
        return random.Random(seed)


class WatchedStreams(Streams):
    """Streams that give the same numbers, and call `drawn(owner)` before each draw."""

    def __init__(self, seed: int, drawn: Callable[[str], None]) -> None:
        super().__init__(seed)
        self._drawn = drawn

    def _made(self, owner: str, seed: int) -> random.Random:
        made = _Watched(seed)
        made.drawn = partial(self._drawn, owner)
        return made


class _Watched(random.Random):
    # With both of its sources replaced, `random.Random` makes everything else of them as it does by itself.
    drawn: Callable[[], None]

    def random(self) -> float:
        self.drawn()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        self.drawn()
        return super().getrandbits(k)

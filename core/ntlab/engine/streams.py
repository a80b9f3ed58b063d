"""Named random streams.

A stream belongs to (seed, owner, object). Switching a plugin on gives it streams of its own and moves
nobody else's draws, so the arms of an experiment share their workload's random numbers.
"""

from __future__ import annotations

import hashlib
import random


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
            found = random.Random(int.from_bytes(hashlib.sha256(text).digest(), "big"))
            self._streams[key] = found
        return found

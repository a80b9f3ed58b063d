"""Rules as textbooks state them, by plain lists: slow, and beyond doubt."""

from __future__ import annotations

from collections.abc import Sequence


def lru_misses(pages: Sequence[int], frames: int) -> int:
    """How many references find their page not among the `frames` used last."""
    held: list[int] = []
    missed = 0
    for page in pages:
        if page in held:
            held.remove(page)
        else:
            missed += 1
            del held[: max(0, len(held) - frames + 1)]
        held.append(page)
    return missed

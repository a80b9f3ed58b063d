"""What others would miss: the faults of textbook rules on a sequence of page references.

Each takes the pages referenced, in order, and how many frames there are, and gives the number of faults. They
are what the simulated machine is compared with, and share nothing with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from heapq import heappop, heappush


def lru(pages: Sequence[int], frames: int) -> int:
    """True least recently used."""
    held: OrderedDict[int, None] = OrderedDict()
    faults = 0
    for page in pages:
        if page in held:
            held.move_to_end(page)
            continue
        faults += 1
        if len(held) == frames:
            held.popitem(last=False)
        held[page] = None
    return faults


def clock(pages: Sequence[int], frames: int) -> int:
    """Clock: a hand goes around the frames, clears set bits and takes the first page whose bit is clear."""
    frame_of: dict[int, int] = {}
    holds: list[int | None] = [None] * frames
    accessed = [False] * frames
    hand = faults = 0
    for page in pages:
        frame = frame_of.get(page)
        if frame is not None:
            accessed[frame] = True
            continue
        faults += 1
        while accessed[hand]:
            accessed[hand] = False
            hand = (hand + 1) % frames
        victim = holds[hand]
        if victim is not None:
            del frame_of[victim]
        holds[hand] = page
        frame_of[page] = hand
        accessed[hand] = True
        hand = (hand + 1) % frames
    return faults


def belady(pages: Sequence[int], frames: int) -> int:
    """Belady's optimum, which knows the future: the page that is needed again last goes. A lower bound."""
    following = [0] * len(pages)  # where each page is referenced next
    coming: dict[int, int] = {}
    for place in range(len(pages) - 1, -1, -1):
        following[place] = coming.get(pages[place], len(pages) + place)  # never: later than all others
        coming[pages[place]] = place
    held: dict[int, int] = {}  # page -> its next reference
    latest: list[tuple[int, int]] = []  # (-next reference, page), some of them out of date
    faults = 0
    for place, page in enumerate(pages):
        if page not in held:
            faults += 1
            if len(held) == frames:
                while True:
                    needed, victim = heappop(latest)
                    if held.get(victim) == -needed:
                        break
                del held[victim]
        held[page] = following[place]
        heappush(latest, (-following[place], page))
    return faults

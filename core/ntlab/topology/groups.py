"""Processor groups (P5): at most 64 processors each, as few as possible, nodes whole, near nodes together.

Windows Server 2008 R2 makes them at boot; firmware knows nothing of them. Releases before it see one group of
at most 64 processors and no more. What happens beyond a release's limit is the release's policy, not decided
here.
"""

from __future__ import annotations

from typing import NamedTuple

from ntlab.topology.tables import Tables, TopologyError, members

SEARCH_STEPS = 100_000
"""Placements tried before the best packing found so far is taken. Machines whose nodes are of one or two
sizes need one pass; the bound only keeps an absurd machine from a search without end."""


class _Part(NamedTuple):
    """What must not be divided: a node, or an equal part of a node that is larger than a group."""

    node: int
    processors: tuple[int, ...]


def assign_groups(tables: Tables, limit: int = 64) -> tuple[int, ...]:
    """The processor group of each processor; groups are numbered from 0 without gaps.

    A node of more than `limit` processors is divided into equal parts of whole cores (2 x 80 gives 4 parts of
    40), as Windows divides it into smaller nodes. The number of groups is the minimum for these parts. Raises
    TopologyError for a core of more than `limit` processors.
    """
    parts = [part for n in _walk(tables) for part in _divide(tables, n, limit)]
    at_least = -(-sum(len(part.processors) for part in parts) // limit)
    best = _pack(tables, parts, limit, len(parts)) or []
    # First fit along the walk keeps neighbours together. Only where it needs more groups than the processors
    # alone would is it worth asking whether fewer suffice; large parts first make that search short.
    large_first = sorted(parts, key=lambda part: -len(part.processors))
    for count in range(at_least, len(best)):
        packed = _pack(tables, large_first, limit, count)
        if packed is not None:
            best = packed
            break
    group_of = [0] * tables.processors
    for g, group in enumerate(sorted(best, key=lambda group: min(part.processors for part in group))):
        for part in group:
            for i in part.processors:
                group_of[i] = g
    return tuple(group_of)


def _walk(tables: Tables) -> list[int]:
    """Nodes that have processors, each followed by the nearest not yet visited, from the first one on."""
    left = [n for n in range(tables.nodes) if tables.node_processors[n]]
    walk = [left.pop(0)]
    while left:
        nearest = next(n for n in tables.nearest[walk[-1]] if n in left)
        left.remove(nearest)
        walk.append(nearest)
    return walk


def _divide(tables: Tables, node: int, limit: int) -> list[_Part]:
    processors = tables.node_processors[node]
    if len(processors) <= limit:
        return [_Part(node, processors)]
    cores = [members(tables.core_mask[core]) for core in sorted({tables.core_of[i] for i in processors})]
    if max(map(len, cores)) > limit:
        raise TopologyError(
            f"a core has {max(map(len, cores))} processors", where=tables.name, expected=f"at most {limit}"
        )
    pieces = -(-len(processors) // limit)
    while True:
        parts = []
        for k in range(pieces):
            piece = cores[k * len(cores) // pieces : (k + 1) * len(cores) // pieces]
            parts.append(_Part(node, tuple(sorted(i for core in piece for i in core))))
        if max(len(part.processors) for part in parts) <= limit:
            return parts
        pieces += 1  # cores of unequal size made one part too large


def _pack(tables: Tables, parts: list[_Part], limit: int, count: int) -> list[list[_Part]] | None:
    """Parts in at most `count` groups of at most `limit`, near ones together; None if there is no such
    packing."""
    groups: list[list[_Part]] = []
    free: list[int] = []
    hopeless: set[tuple[int, tuple[int, ...]]] = set()
    steps = 0

    def distance(part: _Part, g: int) -> float:
        return sum(tables.latency[part.node][other.node] for other in groups[g]) / len(groups[g])

    def place(k: int) -> bool:
        nonlocal steps
        if k == len(parts):
            return True
        room = sum(free) + (count - len(groups)) * limit
        state = (k, tuple(sorted(free)))
        if state in hopeless or steps >= SEARCH_STEPS or room < sum(len(p.processors) for p in parts[k:]):
            return False
        size = len(parts[k].processors)
        for g in sorted(
            (g for g in range(len(groups)) if free[g] >= size), key=lambda g: distance(parts[k], g)
        ):
            steps += 1
            groups[g].append(parts[k])
            free[g] -= size
            if place(k + 1):
                return True
            free[g] += size
            groups[g].pop()
        if len(groups) < count:
            groups.append([parts[k]])
            free.append(limit - size)
            if place(k + 1):
                return True
            groups.pop()
            free.pop()
        hopeless.add(state)
        return False

    return groups if place(0) else None

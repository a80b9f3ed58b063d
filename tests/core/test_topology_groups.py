"""Processor groups (P5): exact counts (scheduling facts 6 and 14.16) and the minimum by brute force."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.topology import Tables, Topology, TopologyError, assign_groups, load


def machine(sizes: list[int], threads: int = 1) -> Tables:
    """A node of that many processors for each size."""
    topology = Topology("sizes")
    for size in sizes:
        node = topology.add_node(memory=1)
        for _ in range(size // threads):
            core = topology.add_core(node)
            for _ in range(threads):
                topology.add_processor(core)
    return topology.freeze()


def loads(group_of: tuple[int, ...]) -> list[int]:
    return [group_of.count(g) for g in range(max(group_of) + 1)]


def fewest_groups(sizes: list[int], limit: int) -> int:
    """The minimum over all packings: the least groups, then the least used of the last, by set of nodes."""

    @cache
    def best(done: int) -> tuple[int, int]:
        if done == 0:
            return (1, 0)
        found = []
        for i, size in enumerate(sizes):
            if done >> i & 1:
                groups, used = best(done & ~(1 << i))
                found.append((groups, used + size) if used + size <= limit else (groups + 1, size))
        return min(found)

    return best((1 << len(sizes)) - 1)[0]


@pytest.mark.parametrize(
    ("sizes", "threads", "expected"),
    [
        ([16] * 16, 2, [64] * 4),
        ([16] * 8, 2, [64] * 2),
        ([24] * 6, 2, [48] * 3),
        ([24] * 10, 2, [48] * 5),
        ([80] * 2, 2, [40] * 4),
        ([64], 1, [64]),
        ([65], 1, [32, 33]),
        ([1], 1, [1]),
    ],
)
def test_exact_counts(sizes: list[int], threads: int, expected: list[int]) -> None:
    tables = machine(sizes, threads)
    assert loads(tables.group_of) == expected
    assert tables.groups == len(expected)
    assert [mask.bit_count() for mask in tables.group_mask] == expected


def test_first_fit_alone_would_need_one_group_more() -> None:
    sizes = [30, 20, 34, 44]  # in this order: 30+20, 34, 44
    assert len(loads(machine(sizes).group_of)) == 2


def test_the_most_nodes_there_may_be() -> None:
    assert loads(machine([1] * 512).group_of) == [64] * 8


def test_the_demonstration_machine_has_four_groups_of_four_near_nodes() -> None:
    tables = load("demo-256").freeze()
    assert loads(tables.group_of) == [64] * 4
    for n in range(16):
        assert {tables.group_of[i] for i in tables.node_processors[n]} == {n // 4}


def test_near_nodes_share_a_group_whatever_their_numbers() -> None:
    topology = Topology("scattered")
    for _ in range(8):
        node = topology.add_node(memory=1)
        for _ in range(16):
            topology.add_processor(node)
    quad = [0, 1, 1, 0, 1, 0, 0, 1]
    topology.distances = [
        [10 if n == m else 15 if quad[n] == quad[m] else 30 for m in range(8)] for n in range(8)
    ]
    tables = topology.freeze()
    assert [tables.group_of[16 * n] for n in range(8)] == quad


def test_a_core_larger_than_a_group_is_refused() -> None:
    with pytest.raises(TopologyError, match="a core has 8 processors"):
        assign_groups(machine([16], threads=8), 4)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 16), min_size=1, max_size=12), limit=st.integers(16, 24))
def test_nodes_stay_whole_and_groups_are_the_fewest(sizes: list[int], limit: int) -> None:
    tables = machine(sizes)
    group_of = assign_groups(tables, limit)
    assert len(group_of) == sum(sizes)
    assert max(loads(group_of)) <= limit
    assert min(loads(group_of)) > 0
    for processors in tables.node_processors:
        assert len({group_of[i] for i in processors}) == 1
    assert len(loads(group_of)) == fewest_groups(sizes, limit)

"""Anything at all, in any order, with faults: some thousand operations. `benchmarks/stress_memory.py` does a
million."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from memory_stress import WEIGHTS, Stress
from ntlab.errors import SimulationError
from ntlab.machine import Memory, Paging, PagingFile
from ntlab.machine.extents import ACTIVE, NodeMemory

pytestmark = pytest.mark.once

Patch = Callable[[pytest.MonkeyPatch], None]


def run(seed: int, operations: int) -> None:
    stress = Stress(seed)
    stress.look_after_every_event()
    stress.run(operations)
    assert stress.done.total() == operations


@pytest.mark.parametrize("seed", range(6))
def test_no_invariant_is_broken(seed: int) -> None:
    run(seed, 400)


def test_nor_where_each_answer_is_looked_at() -> None:
    Stress(3, hooks="checked", check_every=1).run(60)


def test_what_happens_follows_from_the_seed() -> None:
    one, same = Stress(2), Stress(2)
    for each in one, same:
        each.run(200)
    assert (one.engine.now, one.results) == (same.engine.now, same.results)


def test_everything_is_tried_and_every_fault_happens() -> None:
    done: Counter[str] = Counter()
    results: Counter[str] = Counter()
    for seed in range(4, 16):
        stress = Stress(seed)
        stress.run(300)
        done += stress.done
        results += stress.results
    assert set(done) == set(WEIGHTS)
    wanted = {"touched", "no memory", "commit refused", "commit exhausted", "flushed", "paging file full"}
    wanted |= {"migrated", "bad page", "memory replaced", "pool", "no pool", "key found", "in-page error"}
    assert wanted | {"processor added", "processor replaced"} <= set(results)


# It sees what is wrong


def spoilt(owner: type, method: str, spoil: Callable[[Any], object]) -> Patch:
    """A defect: after this method something is wrong."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = getattr(owner, method)

        def wrong(self: Any, *arguments: Any, **options: Any) -> Any:
            result = right(self, *arguments, **options)
            spoil(self)
            return result

        monkeypatch.setattr(owner, method, wrong)

    return patch


def count_one_more(memory: Memory) -> None:
    memory.nodes[0].pages[ACTIVE] += 1


def forget_a_range(node: NodeMemory) -> None:
    node.ranges.pop()


def give_away_what_is_used(file: PagingFile) -> None:
    file._give_back(file._stored.first()[0], 1)


def lose_commit(memory: Memory) -> None:
    memory.committed += 1


@pytest.mark.parametrize(
    "defect",
    [
        spoilt(Memory, "migrate", count_one_more),
        spoilt(NodeMemory, "add", forget_a_range),
        spoilt(PagingFile, "allocate", give_away_what_is_used),
        spoilt(Memory, "more_available", lose_commit),
    ],
)
def test_a_defect_is_found(defect: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    defect(monkeypatch)
    with pytest.raises(SimulationError):
        run(5, 600)


def test_a_copy_that_is_out_of_date_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Paging, "changed", lambda self, region, page, stop: None)
    with pytest.raises(SimulationError):
        run(1, 400)

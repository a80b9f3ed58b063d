"""N2 and N3: the claims, that each rule carries its own, and pool and system PTEs against brute force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judging import failing, options
from ntlab.errors import SimulationError, UserError
from ntlab.machine import AllocatePool, Machine, Mapping, MapSystemPages, PoolBlock, Processor, Request
from ntlab.machine.pool import SYSTEM_PTES
from ntlab.testing import boot, conformance
from ntlab.topology import Tables, Topology, load
from ntlab_numa_pool import NumaPool
from ntlab_numa_pool.workloads import Buffers, Mappings
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"


def machine_of(nodes: int, *plugins: object, memory: int = 1 << 22) -> Machine:
    """Nodes of one processor each, in a line of equal steps."""
    return boot(plugins=[Ws2003(paging_file=0), *plugins], tables=row(nodes, memory), trace=True)


def row(nodes: int, memory: int = 1 << 22) -> Tables:
    topology = Topology("row")
    for _ in range(nodes):
        topology.add_processor(topology.add_core(topology.add_node(memory=memory)))
    return topology.freeze()


def ask(machine: Machine, request: Request, node: int = 0) -> Any:
    """What a thread on a node receives for a request."""
    found = []

    def program() -> Iterator[Any]:
        found.append((yield request))

    affinity = machine.tables.node_mask[node]
    machine.create_thread(machine.system_process, program(), affinity=affinity)
    machine.run()
    return found[0]


test_conformance = conformance("numa_pool")


@pytest.mark.parametrize(
    ("experiment", "change", "fail"),
    [
        ("numa-pool", {"pool": "one"}, {"numa-pool-local", "numa-pool-latency", "numa-pool-away"}),
        ("numa-pool", {"page_tables": "any"}, set()),
        ("numa-ptes", {"page_tables": "any"}, {"numa-ptes-new", "numa-ptes-large"}),
        ("numa-ptes", {"pool": "one"}, set()),
    ],
)
def test_each_rule_carries_its_own_claims(experiment: str, change: dict[str, str], fail: set[str]) -> None:
    assert failing(experiment, options("numa_pool", change)) == fail


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    for workload in (Buffers, Mappings):
        shares = []
        for plugins in ([], [NumaPool()]):
            options = {"smallest": 512, "largest": 512, "kept": 1.0} if workload is Mappings else {}
            work = workload(**options)
            machine = boot(plugins=[Ws2003(), *plugins], tables=tables)
            work.start(machine)
            machine.run()
            machine.check()
            shares.append({metric.name: metric.value for metric in work.measure(machine)}["remote_share"])
        assert shares[1] == 0
        assert (shares[0] > 0.3) == (tables.nodes > 1)


# -- the pool ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20_000), st.booleans()), max_size=60),
    divided=st.booleans(),
)
def test_blocks_never_overlap_and_go_back_to_their_part(
    steps: list[tuple[int, int, bool]], divided: bool
) -> None:
    machine = machine_of(3, NumaPool(pool="per_node" if divided else "one"))
    live: list[PoolBlock] = []
    for node, size, back in steps:
        block = ask(machine, AllocatePool(size), node)
        assert block.size >= size
        assert not divided or (block.node == block.part == node)
        live.append(block)
        if back:
            machine.pool.free(live.pop(size % len(live)))
        machine.check()
    used = [
        (block.region.first + block.page, block.offset + byte)
        for block in live
        if block.pages == 1
        for byte in range(0, block.size, 16)
    ]
    assert len(used) == len(set(used))
    for block in live:
        machine.pool.free(block)
    assert machine.counters()[r"Memory\Pool Nonpaged Allocs"] == 0


def test_a_growth_of_the_pool_is_used_up_before_the_next() -> None:
    machine = machine_of(1)
    blocks = [ask(machine, AllocatePool(2048)) for _ in range(2 * 16)]  # 64 KB: the first growth
    assert len({(block.region, block.page, block.offset) for block in blocks}) == 32
    assert len({block.region for block in blocks}) == 1
    assert ask(machine, AllocatePool(2048)).region is not blocks[0].region
    assert machine.counters()[r"Memory\Pool Nonpaged Bytes"] == 2 * 65536


def test_one_pool_gives_the_block_that_came_back_last() -> None:
    machine = machine_of(2)
    first, second = (ask(machine, AllocatePool(100), node) for node in (0, 1))
    machine.pool.free(first)
    machine.pool.free(second)
    assert ask(machine, AllocatePool(100), 0) is second
    divided = machine_of(2, NumaPool())
    first, second = (ask(divided, AllocatePool(100), node) for node in (0, 1))
    divided.pool.free(first)
    divided.pool.free(second)
    assert ask(divided, AllocatePool(100), 0) is first


@pytest.mark.parametrize("origin", ["processor", "ideal"])
def test_what_a_dpc_takes_is_of_its_processor(origin: Any) -> None:
    machine = machine_of(3, NumaPool(origin=origin))
    found: list[PoolBlock | Mapping | None] = []

    def routine(processor: Processor) -> None:
        found.append(machine.pool.allocate(100, processor))
        found.append(machine.system_ptes.map(1, processor))

    machine.interrupts.queue_dpc(machine.processors[2], 1000, routine, machine.processors[2])
    machine.run()
    block, mapping = found
    assert isinstance(block, PoolBlock)
    assert isinstance(mapping, Mapping)
    assert block.node == block.part == 2
    assert mapping.tables[0].pages_by_node() == {2: 1}


def test_a_node_without_memory_is_a_wish_and_no_guarantee() -> None:
    machine = machine_of(2, NumaPool())
    space = machine.memory.space(machine.create_process("full"))
    region = space.allocate(1024)
    assert region is not None
    machine.memory.populate(region, 0, dirty=True)
    block = ask(machine, AllocatePool(100_000), 0)
    assert (block.part, block.node, block.pages) == (0, 1, 25)
    machine.check()
    assert ask(machine, AllocatePool(1 << 22), 0) is None
    machine.pool.free(block)
    machine.check()


def test_nodes_of_processors_only_and_of_memory_only() -> None:
    """What has no memory at home gets it from the next node; a node of memory only asks for nothing."""
    topology = Topology("odd")
    for processors, memory in ((1, 0), (0, 1 << 22), (1, 1 << 22)):
        node = topology.add_node(memory=memory)
        for _ in range(processors):
            topology.add_processor(topology.add_core(node))
    tables = topology.freeze()
    for work in (Buffers(blocks=10), Mappings(smallest=512, largest=512, kept=1.0)):
        machine = boot(plugins=[Ws2003(node_fallback="next"), NumaPool()], tables=tables)
        work.start(machine)
        machine.run()
        machine.check()
        metrics = {metric.name: metric.value for metric in work.measure(machine)}
        assert metrics["refused"] == 0
        assert metrics["remote_share"] == pytest.approx(0.5)


# -- system PTEs ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 1300), st.booleans()), max_size=40))
def test_system_ptes_are_given_first_fit(steps: list[tuple[int, bool]]) -> None:
    """Against an array with a byte for each entry."""
    machine = machine_of(2, NumaPool())
    array = bytearray(60_000)
    tables: set[int] = set()
    live: list[Mapping] = []
    for number, (count, back) in enumerate(steps):
        mapping = ask(machine, MapSystemPages(count), number % 2)
        first = array.find(bytes(count))
        assert (mapping.first, mapping.count) == (first, count)
        array[first : first + count] = b"x" * count
        needed = set(range(first // 512, (first + count - 1) // 512 + 1))
        assert mapping.created == len(needed - tables)
        for table in needed - tables:
            assert machine.system_ptes.tables[table].pages_by_node() == {number % 2: 1}
        tables |= needed
        lines = {(first + entry) // 8 for entry in range(count)}
        assert sum(touch.accesses for touch in mapping.touches()) == len(lines)
        live.append(mapping)
        if back:
            gone = live.pop(count % len(live))
            machine.system_ptes.unmap(gone)
            array[gone.first : gone.first + gone.count] = bytes(gone.count)
        machine.check()
    assert machine.system_ptes.free == SYSTEM_PTES - sum(mapping.count for mapping in live)
    assert set(machine.system_ptes.tables) == tables


def test_mappings_can_be_had_no_more() -> None:
    machine = machine_of(1, memory=1 << 16)
    assert ask(machine, MapSystemPages(SYSTEM_PTES + 1)) is None
    assert ask(machine, MapSystemPages(17 * 512)) is None  # 16 pages of memory hold no 17 page-table pages
    machine.check()


@pytest.mark.parametrize(
    ("work", "refused"),
    [
        (Buffers(threads=1, blocks=50, smallest=4096, largest=4096, kept=100, handed=0.0), 50 - 32),
        (Mappings(threads=1, buffers=50, smallest=512, largest=512, kept=1.0), 50 - 32),
    ],
)
def test_what_is_refused_is_counted(work: Any, refused: int) -> None:
    machine = boot(plugins=[Ws2003(paging_file=0)], tables=row(1, 1 << 17))  # 32 pages
    work.start(machine)
    machine.run()
    machine.check()
    assert {metric.name: metric.value for metric in work.measure(machine)}["refused"] == refused


# -- mistakes ------------------------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    machine = machine_of(1)
    for workload, word in ((Buffers(smallest=64, largest=32), "64"), (Mappings(smallest=4, largest=2), "4")):
        with pytest.raises(UserError, match=rf"largest.*no less than the smallest, {word}"):
            workload.start(machine)  # type: ignore[attr-defined]
    block, mapping = ask(machine, AllocatePool(10)), ask(machine, MapSystemPages(1))
    machine.pool.free(block)
    machine.system_ptes.unmap(mapping)
    for again in (
        lambda: machine.pool.free(block),
        lambda: machine.system_ptes.unmap(mapping),
    ):
        with pytest.raises(SimulationError, match="given back"):
            again()
    for request in (AllocatePool(0), MapSystemPages(0)):
        with pytest.raises(SimulationError, match="of 0"):
            ask(machine_of(1), request)

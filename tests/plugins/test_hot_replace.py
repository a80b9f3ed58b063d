"""D2, D4 and E5: the claims, that they fail without the mechanism, counts of errors, other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judging import failing, options
from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Component, HardwareError, Machine
from ntlab.quantities import GIB, MIB, MILLISECOND, SECOND, Share
from ntlab.testing import boot, conformance, small_tables
from ntlab.topology import load
from ntlab_hot_replace import HotReplace
from ntlab_hot_replace.workloads import AilingMemory, AilingProcessor, BusyBank
from ntlab_whea import Whea
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance("hot_replace")


def able(processors: int = 2, memory: int = 64 * MIB, **options: Any) -> Machine:
    """A machine of one node, its memory in units of 16 MiB, one processor and two units spare."""
    machine = boot(
        plugins=[Ws2003(), Whea(), HotReplace(**options)],
        tables=small_tables(processors, memory=memory),
        trace=True,
    )
    machine.partitioning.set_aside(1)
    machine.partitioning.divide_memory(16 * MIB)
    for _ in range(2):
        machine.partitioning.provide_memory(16 * MIB)
    return machine


def measure(machine: Machine, workload: Any) -> dict[str, float]:
    workload.start(machine)
    machine.run()
    if machine.crash is None:
        machine.check()
    return {metric.name: metric.value for metric in workload.measure(machine)}


def judge(name: str, **change: Any) -> set[str]:
    """The claims that fail."""
    return {claim.removeprefix("dp-") for claim in failing(name, options("hot_replace", change))}


@pytest.mark.parametrize(
    ("name", "change", "fail"),
    [
        ("dp-replace-order", {"order": "all_in_window"}, {
            "replace-window", "replace-order", "replace-lost", "replace-reads"}),
        ("dp-replace-order", {"watch_writes": False}, {"replace-lost"}),
        ("dp-replace-order", {"devices_at_once": True}, {"replace-order"}),
        ("dp-replace-order", {"parts": ["processor"]}, {
            "replace-done", "replace-window", "replace-order", "replace-lost", "replace-reads"}),
        ("dp-replace-processor", {"slow_to": "100 %"}, {"replace-processor-slow"}),
        ("dp-replace-processor", {"threshold": 40}, {
            "replace-processor-survives", "replace-processor-moves", "replace-processor-slow"}),
        ("dp-replace-processor", {"processor_start": "1 s"}, {
            "replace-processor-survives", "replace-processor-moves"}),
    ],
)  # fmt: skip
def test_each_rule_carries_its_claims(name: str, change: dict[str, Any], fail: set[str]) -> None:
    assert judge(name, **change) == fail


@pytest.mark.parametrize(("hook", "answer"), [("error_reported", None), ("partition_support", None)])
def test_nothing_is_saved_where_nobody_counts_or_nobody_can(
    hook: str, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HotReplace, hook, hookimpl(lambda self: answer))
    assert judge("dp-ecc") == {"ecc-saved", "ecc-alarms", "ecc-failures", "ecc-window"}


def test_without_whea_nobody_learns_of_corrected_errors() -> None:
    machine = boot(plugins=[Ws2003(), HotReplace(threshold=1)], tables=small_tables(2, memory=64 * MIB))
    found = measure(machine, AilingMemory(unit=16 * MIB, ailing=2, spares=4))
    assert (found["exchanged"], found["saved_share"]) == (0, 0)


# -- which part, and when ------------------------------------------------------------------------------------


def report(
    machine: Machine, kind: Any, *times: int, number: int = 0, address: int = 0, severity: Any = "corrected"
) -> None:
    component = Component(kind, number, (0, 0) if kind == "memory" else (1,) if kind == "cache" else ())
    for time in times:
        error = HardwareError(component=component, severity=severity, address=address, contained=True)
        machine.engine.at(time, machine.hardware_errors.occur, error)


def replaced(machine: Machine) -> list[int]:
    """Which units of memory have been exchanged, by number."""
    units = machine.partitioning.memory_units()
    return [number for number, unit in enumerate(units) if machine.partitioning.exchanged(unit)]


@pytest.mark.parametrize(
    ("errors", "spread", "there"), [(16, 1, []), (17, 1, [1]), (17, 62, [1]), (17, 63, []), (40, 70, [])]
)
def test_more_errors_than_the_threshold_in_the_window_have_the_unit_replaced(
    errors: int, spread: int, there: list[int]
) -> None:
    machine = able(window=1000 * MILLISECOND)
    times = range(0, errors * spread * MILLISECOND, spread * MILLISECOND)
    report(machine, "memory", *times[::2], address=17 * MIB)
    report(machine, "memory", *times[1::2], address=20 * MIB)  # of the same unit
    machine.run()
    assert replaced(machine) == there
    machine.check()


def test_each_part_has_its_own_count() -> None:
    machine = able(threshold=3)
    for unit in range(4):
        report(
            machine,
            "memory",
            *(each * MILLISECOND + unit * 100_000 for each in range(3)),
            address=unit * 16 * MIB,
        )
    report(machine, "cache", *range(0, 4 * MILLISECOND, MILLISECOND))
    report(machine, "memory", 5 * MILLISECOND, address=33 * MIB)
    machine.run()
    assert replaced(machine) == [2]
    assert machine.partitioning.counts["processors replaced"] == 1
    (memory,) = [each for each in machine.tracer.records("FailurePredicted") if each["kind"] == "memory"]
    assert (memory["part"], memory["errors"], memory["ordered"]) == (2 * 4096, 4, 1)


def test_a_part_that_cannot_be_replaced_now_is_tried_again_at_its_next_error() -> None:
    machine = able(threshold=1, copy_bandwidth=1_000_000)
    region = machine.memory.space(machine.create_process("data")).allocate(100)
    assert region is not None
    machine.memory.populate(region, 0)  # 0.4 s of copying
    report(machine, "memory", 0, MILLISECOND, address=0)
    # The second one comes while the other unit is being replaced.
    report(machine, "memory", 2 * MILLISECOND, 3 * MILLISECOND, 900 * MILLISECOND, address=16 * MIB)
    machine.run()
    assert replaced(machine) == [0, 1]
    assert [each["ordered"] for each in machine.tracer.records("FailurePredicted")] == [1, 0, 1]
    report(
        machine, "memory", machine.engine.now, machine.engine.now + MILLISECOND, address=32 * MIB
    )  # no spare is left
    machine.run()
    assert replaced(machine) == [0, 1]
    machine.check()


def test_uncorrected_errors_and_parts_that_nobody_replaces_do_not_count() -> None:
    machine = able(threshold=1)
    report(machine, "memory", 0, 1000, 2000, severity="recoverable")
    report(machine, "memory", 10_000, 11_000, 12_000, address=1 << 40)  # no memory there
    machine.run()
    assert not any(machine.partitioning.counters().values())
    machine = able(threshold=0)
    report(machine, "memory", *range(0, 100_000, 1000))
    machine.run()
    assert not any(machine.partitioning.counters().values())


# -- closed forms -------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(st.integers(0, 10**6), st.integers(0, 100))
def test_what_is_saved_and_what_is_replaced_in_vain_follow_from_the_counts(seed: int, threshold: int) -> None:
    machine = boot(
        plugins=[Ws2003(), Whea(), HotReplace(threshold=threshold, window=10**18)],
        tables=small_tables(2, nodes=2, memory=128 * MIB), seed=seed,
    )  # fmt: skip
    workload = AilingMemory(unit=16 * MIB, ailing=5, most=100, background=60)
    found = measure(machine, workload)
    # An error is lost where another of its node waits in the register, or a replacement is under way: a part
    # with few more than the threshold may go either way.
    most = [part for part in workload._units if 0 < threshold < len(part.warnings)]
    least = [part for part in most if len(part.warnings) > threshold + 2]
    for name, fails in ((found["saved_share"] * 5, True), (found["false_alarms"], False)):
        low, high = (sum((part.fails >= 0) == fails for part in parts) for parts in (least, most))
        assert low <= round(name) <= high
    assert found["failures"] == 5 - round(found["saved_share"] * 5)
    assert found["spares_left"] == 32 - found["exchanged"]


def test_the_pause_of_64_gb_is_the_arithmetic_of_the_sheet() -> None:
    """All is copied in the window at 10 GB/s, 6.4 s, or 5 % that may not move; and the devices."""

    def pause(order: Any) -> float:
        machine = boot(
            plugins=[Ws2003(), Whea(), HotReplace(order=order, copy_bandwidth=10_000_000_000)],
            tables=_wide(64 * 10**9 // 4096 * 4096),
        )
        bank = BusyBank(unit=64 * 10**9 // 4096 * 4096, filled=Share(1.0), writers=0, readers=0)
        return measure(machine, bank)["pause"] / SECOND

    assert pause("all_in_window") == pytest.approx(0.3 + 6.4, rel=1e-4)
    assert pause("movable_first") == pytest.approx(0.3 + 0.32, rel=1e-4)


def _wide(memory: int) -> Any:
    from ntlab.topology import Topology

    topology = Topology("wide")
    node = topology.add_node(memory=memory, bandwidth=40_000_000_000)
    topology.add_processor(topology.add_core(node))
    return topology.freeze()


def test_slowing_costs_exactly_what_it_slows() -> None:
    """Half of a processor for 100 ms is 50 ms of work."""

    def items(slow_to: float) -> float:
        machine = boot(
            plugins=[Ws2003(), Whea(), HotReplace(slow_to=Share(slow_to))], tables=load("smp-4").freeze()
        )
        found = measure(machine, AilingProcessor(fails=2 * SECOND))
        assert (found["crashed"], found["replaced"], found["beyond_table"]) == (0, 1, 0)
        return found["items"]

    assert items(1.0) - items(0.5) == pytest.approx(50, abs=4)
    assert items(1.0) - items(0.1) == pytest.approx(90, abs=4)


# -- what cannot be -----------------------------------------------------------------------------------------


def test_without_a_spare_the_warnings_are_in_vain() -> None:
    machine = boot(plugins=[Ws2003(), Whea(), HotReplace()], tables=small_tables(1))
    found = measure(machine, AilingProcessor(fails=2 * SECOND))
    assert (found["crashed"], found["replaced"]) == (1, 0)


@pytest.mark.parametrize("options", [{"edition": "enterprise"}, {"parts": ()}])
def test_other_editions_replace_nothing(options: Any) -> None:
    machine = able(**options)
    for order in (
        lambda: machine.partitioning.replace_memory(0),
        lambda: machine.partitioning.replace_processor(0),
    ):
        with pytest.raises(UserError, match=r"is to replace (memory|processor) while it runs"):
            order()


def test_a_32_bit_kernel_replaces_nothing() -> None:
    machine = boot(plugins=[Ws2003(architecture="x86"), HotReplace()])
    assert not machine.partitioning.supports("replace memory")


def test_mistakes_are_named() -> None:
    def begin(workload: Any, message: str) -> None:
        machine = boot(plugins=[Ws2003(), HotReplace()], tables=small_tables(1, memory=64 * MIB))
        with pytest.raises(UserError, match=message):
            workload.start(machine)

    begin(AilingMemory(unit=16 * MIB, fewest=9, most=8), "9 to 8 warnings; expected a range")
    begin(BusyBank(unit=(1 << 20) + 1), "a multiple of the page")
    begin(BusyBank(unit=GIB), "no memory unit can be that large")


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml"))[:4], ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()

    def machine(**options: Any) -> Machine:
        return boot(plugins=[Ws2003(), Whea(), HotReplace(**options)], tables=tables)

    bank = {"unit": 256 * MIB, "until": 2 * SECOND}
    first = measure(machine(), BusyBank(**bank))
    all_in = measure(machine(order="all_in_window"), BusyBank(**bank))
    assert (first["replaced"], first["lost"], all_in["lost"]) == (1, 0, 0)
    assert first["window_share"] < 0.1 < all_in["window_share"] == 1
    assert first["pause"] < all_in["pause"]
    found = measure(machine(), AilingProcessor(threads=1, fails=SECOND, until=1200 * MILLISECOND))
    assert (found["crashed"], found["replaced"], found["beyond_table"]) == (0, 1, 0)

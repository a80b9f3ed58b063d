"""D3: the claims, that they fail without the mechanism, who gets the processor, and other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from judging import failing, options
from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Machine
from ntlab.plugin import plugin
from ntlab.quantities import MILLISECOND
from ntlab.testing import boot, conformance
from ntlab.topology import load
from ntlab_hot_add_processor import HotAddProcessor
from ntlab_hot_add_processor.workloads import Queues
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"

test_conformance = conformance(
    "hot_add_processor",
    idle={"processor_limit": "no experiment comes near the limit: see below"},
)


def measure(machine: Machine, **options: Any) -> tuple[dict[str, float], Queues]:
    workload = Queues(**options)
    workload.start(machine)
    machine.run()
    machine.check()
    return {metric.name: metric.value for metric in workload.measure(machine)}, workload


def judge(name: str, **change: Any) -> set[str]:
    """The claims that fail."""
    return {claim.removeprefix("dp-cpu-") for claim in failing(name, options("hot_add_processor", change))}


@pytest.mark.parametrize(
    ("change", "fail"),
    [
        # Nobody may take processors.
        (
            {"edition": "standard"},
            {"naive-corrupts", "naive-crashes", "naive-stays", "careful-gains", "total", "told"},
        ),
        # Everybody gets them, asked or not: the naive program is corrupted where it should not be.
        ({"given_to": "everyone"}, {"naive-corrupts", "naive-stays", "careful-gains"}),
        # Nobody does: they are there for nothing.
        (
            {"given_to": "nobody"},
            {"naive-corrupts", "naive-crashes", "naive-stays", "careful-gains", "total"},
        ),
    ],
)
def test_each_rule_carries_its_claims(change: dict[str, Any], fail: set[str]) -> None:
    assert judge("dp-cpu-naive", **change) == fail


def test_a_program_that_learns_after_its_threads_may_be_there_is_corrupted_too() -> None:
    """The order matters: told first, then it has the processor. Here it never is told, though it asked."""
    machine = boot(plugins=[Ws2003(), HotAddProcessor()], tables=load("smp-4").freeze())
    workload = Queues()
    workload.start(machine)
    careful = workload._programs["careful"]
    machine.partitioning.register_application(careful.process, None)
    machine.run()
    assert careful.corrupted == 1


def test_every_writing_beyond_the_queues_is_seen() -> None:
    machine = boot(plugins=[Ws2003(), HotAddProcessor(given_to="everyone")], tables=load("smp-4").freeze())
    found, workload = measure(machine, spare=3, behind=2, apart=20 * MILLISECOND, threads=8)
    naive = workload._programs["naive"]
    # One queue; processors 1 and 2 write into the words behind it, processor 3 beyond them.
    assert (found["corrupted"], found["crashed"], naive.queues) == (2, 1, 1)
    assert found["careful_corrupted"] == 0
    assert workload._programs["careful"].queues == 4


def test_the_kernels_limit_counts_processors_not_numbers() -> None:
    def added(limit: int, **options: Any) -> int:
        machine = boot(4, [Ws2003(), HotAddProcessor(limit=limit, **options)])
        machine.partitioning.set_aside(2)
        machine.partitioning.add_processor()
        return machine.scheduler.all_mask.bit_count()

    assert added(3) == 3
    with pytest.raises(UserError, match="a processor is added to 2; expected at most 2 with ws2008"):
        added(2)
    with pytest.raises(UserError, match="is to add processor while it runs"):
        added(3, edition="enterprise")


@plugin(name="later", summary="Something of a later release.", release="ws2008r2")
class Later:
    @hookimpl
    def machine_booted(self) -> None:
        pass


def test_2008_runs_with_64_processors_and_r2_with_256() -> None:
    hardware = load("demo-256").freeze()

    def most(*plugins: object, aside: int) -> int:
        machine = boot(plugins=[Ws2003(), HotAddProcessor(), *plugins], tables=hardware)
        machine.partitioning.set_aside(aside)
        while machine.partitioning.spare_processors:
            machine.partitioning.add_processor()
        return machine.scheduler.all_mask.bit_count()

    with pytest.raises(UserError, match="a processor is added to 64; expected at most 64 with ws2008"):
        most(aside=194)
    assert most(Later(), aside=3) == 256


def test_a_32_bit_kernel_takes_memory_only() -> None:
    machine = boot(2, [Ws2003(architecture="x86"), HotAddProcessor()])
    machine.partitioning.set_aside(1)
    with pytest.raises(UserError, match=r"add processor while it runs \(ws2008, x86\)"):
        machine.partitioning.add_processor()


def test_programs_that_end_before_a_processor_comes_show_nothing() -> None:
    machine = boot(plugins=[Ws2003(), HotAddProcessor()])
    with pytest.raises(UserError, match="until: the programs end at 1000000 ns"):
        Queues(at=MILLISECOND, until=MILLISECOND).start(machine)


def test_on_a_machine_of_one_processor_nothing_comes() -> None:
    found, _ = measure(boot(1, [Ws2003(), HotAddProcessor()]), until=400 * MILLISECOND)
    assert (found["processors"], found["corrupted"], found["told_in_order"]) == (1, 0, 0)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml"))[:4], ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    machine = boot(plugins=[Ws2003(), HotAddProcessor(limit=512)], tables=tables)
    found, _ = measure(
        machine, spare=2, at=20 * MILLISECOND, apart=5 * MILLISECOND, until=60 * MILLISECOND, threads=1
    )
    assert found["processors"] == tables.processors
    assert (found["corrupted"], found["naive_on_new"], found["told_in_order"]) == (0, 0, 1)
    assert found["careful_on_new"] > 0

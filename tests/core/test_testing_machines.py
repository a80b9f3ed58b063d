"""The small machines of `ntlab.testing`, and the threads that use all there is."""

from __future__ import annotations

import pytest

import ntlab.testing
from ntlab.errors import UserError
from ntlab.machine import Disk, Machine
from ntlab.quantities import GIB, MIB, MILLISECOND
from ntlab.testing import Recorder, boot, exercise, small_tables
from ntlab_ws2003 import Ws2003

MS = MILLISECOND


def test_a_small_machine_has_the_shape_it_is_asked_for() -> None:
    tables = small_tables(8, nodes=2, siblings=2, memory=64 * MIB)
    assert (tables.processors, tables.nodes, len(set(tables.core_processors))) == (8, 2, 4)
    assert tuple(tables.node_of) == (0, 0, 0, 0, 1, 1, 1, 1)
    assert tables.memory == 128 * MIB
    assert small_tables(8, nodes=2, siblings=2, memory=64 * MIB) is tables
    assert boot(3).tables is small_tables(3)
    assert small_tables().memory == GIB
    with pytest.raises(UserError, match="6 processors over 2 nodes, 2 to a core; expected a multiple of 4"):
        small_tables(6, nodes=2, siblings=2)


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(lambda: boot(trace=True), id="1 processor, no rules"),
        pytest.param(lambda: boot(4, [Ws2003()], trace=True), id="4 processors, 2003"),
        pytest.param(
            lambda: boot(plugins=[Ws2003()], tables=small_tables(memory=MIB), trace=True), id="1 MiB"
        ),
        pytest.param(lambda: boot(2, trace=True).partitions.create("guest").machine, id="guest"),
    ],
)
def test_exercise_uses_all_there_is_and_ends(machine: object) -> None:
    made: Machine = machine()  # type: ignore[operator]
    process = exercise(made, 5 * MS)
    assert process.threads == 12
    host = made.partition.host if made.partition is not None else made
    host.run()
    assert process.threads == 0
    seen = Recorder(made)
    for name in (
        "Acquire",
        "DiskIo/*",
        "PageFault/DemandZeroFault",
        "PageFault/HardFault",
        "PageFault/TransitionFault",
        "PoolAllocate",
        "PageTable",
        "KernelTrim",
        "FileIo/Read",
        "PerfInfo/ISR",
        "Thread/CSwitch",
    ):
        assert seen(name, until=5 * MS), name
    assert bool(seen("Contend")) == (len(made.processors) > 1)  # nobody preempts who holds a spinlock
    assert [device for device in made.io.devices if isinstance(device, Disk)]
    assert not made.io.pending
    # The kernel keeps what its pool and its page tables have grown to; nobody else has any memory left.
    assert made.memory.committed == sum(space.committed for space in made.sections.spaces()) > 0
    assert not made.pool.live
    made.memory.check()
    ends = seen("Thread/End").times
    assert min(ends) >= 5 * MS


def test_exercise_is_the_same_each_time() -> None:
    def digest() -> str:
        machine = boot(2, [Ws2003()], trace=True)
        exercise(machine)
        machine.run()
        return machine.tracer.digest()

    assert digest() == digest()


def test_every_name_of_the_package_is_there() -> None:
    for name in ntlab.testing.__all__:
        assert getattr(ntlab.testing, name) is not None
    assert dir(ntlab.testing) == ntlab.testing.__all__
    with pytest.raises(AttributeError, match="no attribute 'boots'"):
        ntlab.testing.boots  # noqa: B018

"""Speeds of processors: the product of factors by cause, exactly."""

from __future__ import annotations

from fractions import Fraction
from math import floor, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.errors import SimulationError
from ntlab.machine import NOMINAL
from ntlab.testing import boot, bursts

CAUSES = ("smt", "performance state", "failing")


@given(st.lists(st.tuples(st.sampled_from(CAUSES), st.integers(0, 4 * NOMINAL)), max_size=8))
def test_the_speed_is_the_product_of_the_last_factors_whatever_their_order(
    changes: list[tuple[str, int]],
) -> None:
    machine = boot(1)
    processor = machine.processors[0]
    for cause, speed in changes:
        machine.speeds.set(processor, cause, speed)
        assert machine.speeds.factor(processor, cause) == speed
    last = dict(changes)
    exact = NOMINAL * prod((Fraction(factor, NOMINAL) for factor in last.values()), start=Fraction(1))
    assert processor.speed == (max(1, floor(exact)) if exact else 0)
    machine.check()


def test_each_cause_counts_while_it_lasts() -> None:
    machine = boot(1)
    processor = machine.processors[0]
    thread = machine.create_thread(machine.create_process("p"), bursts(1000))
    for time, cause, speed in [
        (100, "smt", NOMINAL // 2),  # 100 ns done
        (300, "performance state", NOMINAL // 2),  # 200
        (700, "smt", NOMINAL),  # 300
        (900, "failing", 0),  # 400
        (950, "performance state", NOMINAL),  # 400
        (1000, "failing", NOMINAL),  # 400: the rest takes 600
    ]:
        machine.engine.at(time, lambda change: machine.speeds.set(processor, *change), (cause, speed))
    machine.run()
    # While it stood still, it was not running: 50 and 50 ns.
    assert (machine.engine.now, thread.run_time) == (1600, 1500)


def test_factors_set_while_all_stand_still_count_afterwards() -> None:
    machine = boot(2)
    first, second = machine.processors
    machine.speeds.set(first, "smt", NOMINAL // 2)
    machine.scheduler.stop_all()
    machine.speeds.set(first, "failing", NOMINAL // 2)
    machine.check()
    assert first.speed == second.speed == 0
    machine.scheduler.go_on()
    assert (first.speed, second.speed) == (NOMINAL // 4, NOMINAL)
    machine.speeds.set(first, "smt", NOMINAL)
    assert first.speed == NOMINAL // 2


def test_a_virtual_processor_is_slowed_by_its_host_and_by_its_own_causes() -> None:
    host = boot(1)
    guest = host.partitions.create("guest", memory=1 << 20).machine
    guest.speeds.set(guest.processors[0], "smt", NOMINAL // 2)
    guest.create_thread(guest.create_process("g"), bursts(1000))
    host.speeds.set(host.processors[0], "performance state", NOMINAL // 2)
    host.run(100)
    host.check()
    assert guest.processors[0].speed == NOMINAL // 4
    host.run()
    assert host.engine.now == 4000
    host.check()
    assert guest.processors[0].speed == 0


def test_what_cannot_be() -> None:
    machine = boot(1)
    with pytest.raises(SimulationError, match="negative speed -1 by 'turbo'"):
        machine.speeds.set(machine.processors[0], "turbo", -1)
    machine.speeds.set(machine.processors[0], "turbo", NOMINAL)
    machine.processors[0].speed = 7
    with pytest.raises(SimulationError, match="processor 0 has speed 7, its factors give 1048576"):
        machine.check()

"""P2: what a completion costs in context switches, before and after (scheduling facts 3.2)."""

from __future__ import annotations

from collections import Counter
from math import factorial
from typing import Any

import pytest

from ntlab.engine import Streams
from ntlab.errors import UserError
from ntlab.lab.statistics import estimate
from ntlab.machine import IoRequest
from ntlab.quantities import MILLISECOND, SECOND
from ntlab.testing import boot, conformance
from ntlab_completion_ports import CompletionPorts
from ntlab_completion_ports.workloads import Arrivals, Messages, Orphans
from ntlab_ws2003 import Ws2003

AFTER = CompletionPorts()
NEUTRAL = CompletionPorts(deferred=False)
WINDOWS_2003: dict[str, Any] = {}


def measured(
    *plugins: object,
    processors: int = 1,
    seed: int = 1,
    baseline: dict[str, Any] = WINDOWS_2003,
    **options: Any,
) -> dict[str, float]:
    """The metrics of one run of the messages workload."""
    machine = boot(processors, [Ws2003(**baseline), *plugins], seed=seed)
    messages = Messages(**options)
    messages.start(machine)
    machine.run(20 * SECOND)
    return {metric.name: metric.value for metric in messages.measure(machine)}


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_switches_per_message_are_two_where_the_issuer_does_not_run(n: int) -> None:
    assert measured(threads=n, messages=256)["switches_per_message"] == 2 * (n - 1) / n
    assert measured(AFTER, threads=n, messages=256)["switches_per_message"] == 0
    assert measured(NEUTRAL, threads=n, messages=256)["switches_per_message"] == 2 * (n - 1) / n


@pytest.mark.parametrize("n", [2, 8])
def test_with_random_issuers_each_draw_of_another_thread_costs_two(n: int) -> None:
    found = []
    for seed in range(1, 13):
        draws = Streams(seed).stream("completion_ports.messages", "issuers")
        issued = Counter(draws.randrange(n) for _ in range(512))
        # All threads wait when the first packet comes: the last one to wait takes it, and works on for ever.
        expected = 2 * (512 - issued[n - 1]) / 512
        switches = measured(threads=n, messages=512, issuers="random", seed=seed)["switches_per_message"]
        assert switches == expected
        found.append(switches)
    interval = estimate(found)
    half = (interval.high - interval.low) / 2
    assert abs(interval.mean - 2 * (n - 1) / n) < 3 * half


@pytest.mark.parametrize("cost", [2_000, 5_000])
def test_throughput_falls_by_what_the_switches_cost(cost: int) -> None:
    def time(*plugins: object) -> float:
        return measured(*plugins, messages=1024, baseline={"switch_cost": cost})["time_per_message"]

    total = 1024 + 32  # with the messages that were posted to begin with
    service = 1024 * (50_000 + 5_000 + 10_000 + 2_000) + 32 * 50_000
    assert time(AFTER) == service / total
    assert time() == (service + 1024 * 1.75 * cost) / total
    assert time(NEUTRAL) == time()


def test_a_boosted_worker_is_not_preempted_so_a_completion_costs_one_switch() -> None:
    # The first packets come by APCs here, so each worker is itself a boosted issuer. The next issuer is not
    # above it, waits its turn, finds the port free and keeps the packet: it does not switch back.
    boosted = measured(opening="read", messages=1024)
    assert boosted["switches_per_message"] == pytest.approx(1, abs=0.05)  # the issuer is always another one
    assert boosted["threads_used"] == 8
    at_random = measured(opening="read", messages=4096, issuers="random")
    assert at_random["switches_per_message"] == pytest.approx(7 / 8, abs=0.05)
    unboosted = measured(baseline={"boosts": False}, messages=1024)
    assert unboosted["switches_per_message"] == pytest.approx(1, abs=0.05)
    assert measured(AFTER, opening="read", messages=1024)["switches_per_message"] == 0


def test_one_message_at_a_time_goes_to_its_issuer_before_and_to_the_hot_thread_after() -> None:
    options: dict[str, Any] = {"clients": 1, "messages": 128, "opening": "read"}
    before, after, neutral = (measured(*p, **options) for p in ((), (AFTER,), (NEUTRAL,)))
    assert before["hottest_thread_share"] == neutral["hottest_thread_share"] == 1 / 8
    assert (after["hottest_thread_share"], after["threads_used"]) == (1, 1)


@pytest.mark.parametrize("processors", [4, 16])
def test_on_several_processors(processors: int) -> None:
    options: dict[str, Any] = {"threads": 2 * processors, "clients": 32 * processors, "messages": 2048}
    before, after, neutral = (
        measured(*p, processors=processors, **options) for p in ((), (AFTER,), (NEUTRAL,))
    )
    assert before["switches_per_message"] > 0.5
    assert after["switches_per_message"] < 0.02
    assert after["threads_used"] == processors
    assert neutral == before


def test_requests_survive_their_issuers_only_after() -> None:
    def succeeded(*plugins: object) -> float:
        machine = boot(1, [Ws2003(), *plugins])
        orphans = Orphans()
        orphans.start(machine)
        machine.run(SECOND)
        values = {metric.name: metric.value for metric in orphans.measure(machine)}
        assert values["succeeded"] + values["cancelled"] == 1
        return values["succeeded"]

    assert (succeeded(), succeeded(AFTER), succeeded(NEUTRAL)) == (0, 1, 0)


@pytest.mark.parametrize("processors", [1, 3])
def test_messages_that_come_by_chance_wait_as_erlang_says(processors: int) -> None:
    load = 0.6
    found = []
    for seed in range(1, 7):
        machine = boot(processors, [Ws2003(switch_cost=0), AFTER], seed=seed)
        arrivals = Arrivals(threads=2 * processors, load=load, messages=4096 * processors, warm_up=SECOND)
        arrivals.start(machine)
        machine.run(5 * SECOND)
        found.append({metric.name: metric.value for metric in arrivals.measure(machine)}["response"])
    interval = estimate(found)
    offered = load * processors
    all_busy = offered**processors / factorial(processors) / (1 - load)
    waits = all_busy / (all_busy + sum(offered**k / factorial(k) for k in range(processors)))
    expected = MILLISECOND * (1 + waits / (processors - offered))
    # Interrupt, DPC and final step take 17 us of a message, some of it on a processor that works.
    assert interval.low - 0.05 * expected < expected < interval.high


def test_a_run_without_messages_says_so() -> None:
    machine = boot(1, [Ws2003()])
    arrivals = Arrivals()
    arrivals.start(machine)
    machine.run(MILLISECOND)
    with pytest.raises(UserError, match="came after the warm-up; expected more than 1 s"):
        arrivals.measure(machine)
    machine = boot(1, [Ws2003()])
    arrivals = Arrivals(messages=1)
    arrivals.start(machine)
    machine.run(2 * SECOND)
    with pytest.raises(
        UserError, match=r"workload.messages: all 1 messages came before the warm-up was over"
    ):
        arrivals.measure(machine)


test_conformance = conformance("completion_ports")


def test_a_run_that_is_too_short_says_so() -> None:
    machine = boot(1, [Ws2003()])
    messages = Messages()
    messages.start(machine)
    machine.run(2_000_000)
    with pytest.raises(UserError, match="of 4128 messages were handled"):
        messages.measure(machine)


def test_the_baseline_splits_what_its_adapter_cannot_move() -> None:
    machine = boot(1, [Ws2003(adapter_transfer=65536)], trace=True)
    disk = machine.io.create_disk("disk")
    machine.io.submit(IoRequest("write", disk, 0, 150_016, done=lambda _: None))
    machine.run(SECOND)
    sizes = [record["transfer_size"] for record in machine.tracer.records("DiskIo/Write")]
    assert sizes == [65536, 65536, 18944]


@pytest.mark.parametrize("interrupts", ["random", "round_robin"])
def test_the_baseline_takes_interrupts_anywhere(interrupts: Any) -> None:
    machine = boot(4, [Ws2003(interrupts=interrupts)], seed=3)
    disk = machine.io.create_disk("disk", preset="ssd")
    for k in range(400):
        machine.io.submit(IoRequest("read", disk, k * 4096, 4096, done=lambda _: None))
    machine.run(SECOND)
    counts = [processor.interrupts for processor in machine.processors]
    assert sum(counts) == 400
    if interrupts == "random":
        assert min(counts) > 60
        assert len(set(counts)) > 1
    else:
        assert counts == [100] * 4

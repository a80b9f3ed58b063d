"""P10: triggers against their documents, residency against exact intervals and closed forms; claims."""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import exp
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntlab
from ntlab.errors import UserError
from ntlab.lab.registry import installed
from ntlab.lab.statistics import estimate
from ntlab.machine import Machine, NextControl, Request, Service
from ntlab.machine import system_events as around
from ntlab.machine.services import RUNNING, STOP, STOPPED
from ntlab.machine.system_events import SystemEvent
from ntlab.quantities import SECOND
from ntlab.testing import boot, conformance
from ntlab_service_triggers import ServiceTriggers, Trigger, qtriggerinfo
from ntlab_service_triggers.triggers import (
    ADDRESS,
    CUSTOM,
    DEVICE,
    DOMAIN,
    ENDPOINT,
    FIREWALL,
    NAMED_PIPE,
    POLICY,
    TRIGGER_STARTED,
)
from ntlab_service_triggers.workloads import HOUR, MINUTE, Events, Office
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"
GUID = "9bf04e57-05dc-4914-9ed9-84bf992db88c"
HID = "4d1e55b2-f16f-11cf-88cb-001111000030"
BOOTS = "parallel_boot" in installed().names()
Body = Callable[[Service], Generator[Request, Any, None]]

test_conformance = conformance(
    "service_triggers", idle={} if BOOTS else {"task_starts_at_boot": "shown with parallel_boot"}
)


def machine_of(*plugins: object, **how: Any) -> Machine:
    return boot(2, [Ws2003(), *(plugins or [ServiceTriggers()])], **how)


# -- what sc prints

W32TIME = """[SC] QueryServiceConfig2 SUCCESS

SERVICE_NAME: w32time

        START SERVICE
          DOMAIN JOINED STATUS         : 1ce20aba-9851-4421-9430-1ddeb766e809 [DOMAIN JOINED]
        STOP SERVICE
          DOMAIN JOINED STATUS         : ddaf516e-58c2-4866-9574-c3b615d42ea1 [NOT DOMAIN JOINED]
"""
TABLET = """[SC] QueryServiceConfig2 SUCCESS

SERVICE_NAME: tabletinputservice

        START SERVICE
          DEVICE INTERFACE ARRIVAL     : 4d1e55b2-f16f-11cf-88cb-001111000030 [INTERFACE CLASS GUID]
            DATA                       : HID_DEVICE_UP:000D_U:0001
            DATA                       : HID_DEVICE_UP:000D_U:0002
            DATA                       : HID_DEVICE_UP:000D_U:0003
            DATA                       : HID_DEVICE_UP:000D_U:0004
"""
BROWSER = """[SC] QueryServiceConfig2 SUCCESS

SERVICE_NAME: browser

        START SERVICE
          FIREWALL PORT EVENT          : b7569e07-8421-4ee0-ad10-86915afdad09 [PORT OPEN]
            DATA                       : 139;TCP;System;
            DATA                       : 137;UDP;System;
            DATA                       : 138;UDP;System;
        STOP SERVICE
          FIREWALL PORT EVENT          : a144ed38-8e12-4de4-9d96-e64740b1a524 [PORT CLOSE]
            DATA                       : 139;TCP;System;
            DATA                       : 137;UDP;System;
            DATA                       : 138;UDP;System;
"""
WERSVC = """[SC] QueryServiceConfig2 SUCCESS

SERVICE_NAME: wersvc

        START SERVICE
          CUSTOM                       : e46eead8-0c54-4489-9898-8fa79d059e0e [ETW PROVIDER UUID]
"""


def test_the_view_is_what_sc_prints() -> None:
    plugin = ServiceTriggers()
    machine = machine_of(plugin)
    Office().start(machine)
    assert plugin.views()["triggers"](machine) == "\n".join([W32TIME, TABLET, BROWSER, WERSVC])


def test_other_lines_of_sc() -> None:
    triggers = [
        Trigger(type=ADDRESS, subtype=around.FIRST_ADDRESS),
        Trigger(type=ADDRESS, action="stop", subtype=around.LAST_ADDRESS),
        Trigger(type=POLICY, subtype=around.MACHINE_POLICY.upper()),
        Trigger(type=ENDPOINT, subtype=NAMED_PIPE, data=("my named pipe",)),
        Trigger(type=CUSTOM, subtype=GUID, data=(b"\1\2\3\4", b"\xab")),
    ]
    lines = qtriggerinfo("test", triggers).splitlines()[4:]
    assert [" ".join(line.split()) for line in lines] == [
        "START SERVICE",
        f"IP ADDRESS AVAILABILITY : {around.FIRST_ADDRESS} [FIRST IP ADDRESS AVAILABLE]",
        "STOP SERVICE",
        f"IP ADDRESS AVAILABILITY : {around.LAST_ADDRESS} [LAST IP ADDRESS REMOVED]",
        "START SERVICE",
        f"GROUP POLICY : {around.MACHINE_POLICY} [MACHINE POLICY PRESENT]",
        "START SERVICE",
        f"NETWORK EVENT : {NAMED_PIPE} [NAMED PIPE EVENT]",
        "DATA : my named pipe",
        "START SERVICE",
        f"CUSTOM : {GUID} [ETW PROVIDER UUID]",
        "DATA : 01 02 03 04",
        "DATA : AB",
    ]
    assert {line.index(":") for line in lines if ":" in line} == {39}
    assert qtriggerinfo("plain", []).splitlines()[2] == (
        "The service plain has not registered for any start or stop triggers."
    )


# -- which events match


def event_of(provider: str, *data: Any) -> SystemEvent:
    return SystemEvent(provider, data, 0, 1)


@pytest.mark.parametrize(
    ("trigger", "data", "matches"),
    [
        # No data: any event of the provider.
        (Trigger(type=CUSTOM, subtype=GUID), ("anything",), True),
        # Strings whatever their case, binary data bit by bit, one item of several.
        (Trigger(type=CUSTOM, subtype=GUID, data=("One", "two")), ("TWO",), True),
        (Trigger(type=CUSTOM, subtype=GUID, data=("one", "two")), ("three",), False),
        (Trigger(type=CUSTOM, subtype=GUID, data=(b"aB", b"\0\1")), (b"\0\1",), True),
        (Trigger(type=CUSTOM, subtype=GUID, data=(b"aB",)), (b"ab",), False),
        (Trigger(type=CUSTOM, subtype=GUID, data=("ab",)), (b"ab",), False),
        (Trigger(type=CUSTOM, subtype=GUID, data=("ab",)), (), False),
        # A multistring: all of its strings.
        (Trigger(type=CUSTOM, subtype=GUID, data=(("a", "b"),)), (("A", "B"),), True),
        (Trigger(type=CUSTOM, subtype=GUID, data=(("a", "b"),)), (("a", "c"),), False),
        (Trigger(type=CUSTOM, subtype=GUID, data=(("a", "b"),)), (("a", "b", "c"),), False),
        (Trigger(type=CUSTOM, subtype=GUID, data=(("a",),)), ("a",), False),
        # A device: one of its hardware and compatible IDs.
        (
            Trigger(type=DEVICE, subtype=GUID, data=("USBSTOR\\GenDisk",)),
            ("USB\\X", "usbstor\\gendisk"),
            True,
        ),
        (Trigger(type=DEVICE, subtype=GUID, data=("USBSTOR\\GenDisk",)), ("USB\\X",), False),
    ],
)
def test_matching(trigger: Trigger, data: tuple[Any, ...], matches: bool) -> None:
    assert trigger.matches(event_of(GUID, *data)) is matches
    assert not trigger.matches(event_of(HID, *data))


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (("5001", "UDP"), True),
        (("5001", "TCP"), False),
        (("5002", "UDP"), False),
        (("5001", "UDP", "c:\\MY.exe"), True),
        (("5001", "UDP", "c:\\other.exe"), False),
        (("5001", "UDP", "c:\\my.exe", "me"), True),
        (("5001", "UDP", "c:\\my.exe", "you"), False),
        (("5001", "UDP", "", "me"), True),
        (("RPC", "UDP"), True),
        (("5001", "UDP", "System"), False),
    ],
)
def test_a_port_matches_if_all_that_is_named_does(wanted: tuple[str, ...], matches: bool) -> None:
    machine = machine_of()
    service = machine.services.create(
        "one", quiet, triggers=[Trigger(type=FIREWALL, subtype=around.PORT_OPEN, data=(wanted,))]
    )
    machine.services.start_system()
    machine.system_events.port_opens(5001, "UDP", "C:\\my.exe", "me", rpc=True)
    machine.run(10)
    assert service.starts == matches


def test_a_port_of_the_kernel() -> None:
    machine = machine_of()
    trigger = Trigger(type=FIREWALL, subtype=around.PORT_OPEN, data=(("139", "TCP", "system"),))
    service = machine.services.create("one", quiet, triggers=[trigger])
    machine.services.start_system()
    machine.system_events.port_opens(139, "TCP", "C:\\else.exe")
    machine.run(10)
    assert not service.starts
    machine.system_events.port_opens(139, "TCP")
    machine.run(20)
    assert service.starts == 1


# -- mistakes


@pytest.mark.parametrize(
    ("triggers", "match"),
    [
        ([Trigger(type=7, subtype=GUID)], "unknown type of trigger 7; expected one of 1, 2, 3, 4, 5, 20"),
        (
            [Trigger(type=ENDPOINT, subtype=NAMED_PIPE, data=("pipe",))],
            "triggers of type 6 .network endpoint. came with Windows 8 and Server 2012",
        ),
        ([Trigger(type=DOMAIN)], "a trigger of type 3 without a subtype"),
        ([Trigger(type=DOMAIN, subtype=around.FIRST_ADDRESS)], "the subtype 4f27.* for a trigger of type 3"),
        ([Trigger(type=DOMAIN, subtype="domain")], "'domain' is no GUID"),
        ([Trigger(type=CUSTOM, subtype=GUID, data=("x",) * 65)], "65 data items; expected 64 at most"),
        ([Trigger(type=DEVICE, subtype=HID, data=(b"USBSTOR\0",))], "is not Unicode; expected UTF-16"),
        ([Trigger(type=DEVICE, subtype=HID, data=(b"USB",))], "is not Unicode"),
        ([Trigger(type=FIREWALL, subtype=around.PORT_OPEN, data=("139",))], "port 139 without a protocol"),
        ([Trigger(type=FIREWALL, subtype=around.PORT_OPEN, data=(("139", "x"),))], "without a protocol"),
        ([Trigger(type=FIREWALL, subtype=around.PORT_OPEN)], "a firewall port without data"),
        ([Trigger(type=POLICY, subtype=around.USER_POLICY, data=("x",))], "data for a trigger of type 5"),
        ([Trigger(type=CUSTOM, subtype=GUID, action="pause")], "the action 'pause'"),  # type: ignore[arg-type]
        (
            [Trigger(type=CUSTOM, subtype=GUID), Trigger(type=CUSTOM, subtype=GUID.upper())],
            "the same trigger twice, of type 20",
        ),
    ],
)
def test_triggers_that_make_no_sense(triggers: list[Trigger], match: str) -> None:
    machine = machine_of()
    with pytest.raises(UserError, match=match) as error:
        machine.services.create("mine", quiet, triggers=triggers)
    assert "\n" not in str(error.value)


def test_a_disabled_service_is_not_started_by_events() -> None:
    machine = machine_of()
    start = Trigger(type=CUSTOM, subtype=GUID)
    with pytest.raises(UserError, match="a disabled service is started by an event"):
        machine.services.create("mine", quiet, start="disabled", triggers=[start])
    stop = Trigger(type=CUSTOM, subtype=GUID, action="stop")
    machine.services.create("other", quiet, start="disabled", triggers=[stop])


def test_strings_of_programs() -> None:
    one = Trigger(type=DEVICE, subtype=HID, data=("USBSTOR\\GenDisk\0".encode("utf-16-le"),))
    assert one.items == ("USBSTOR\\GenDisk",)
    port = "5001\0UDP\0my.exe\0\0".encode("utf-16-le")
    assert Trigger(type=FIREWALL, subtype=around.PORT_OPEN, data=(port,)).items == (
        ("5001", "UDP", "my.exe"),
    )


def test_network_endpoints_where_they_are_known() -> None:
    machine = machine_of(ServiceTriggers(endpoints=True))
    pipe = Trigger(type=ENDPOINT, subtype=NAMED_PIPE, data=("pipe",))
    service = machine.services.create("mine", quiet, triggers=[pipe])
    machine.services.start_system()
    machine.system_events.write(NAMED_PIPE, "pipe")
    machine.run(10)
    assert service.state == RUNNING
    stop = Trigger(type=ENDPOINT, action="stop", subtype=NAMED_PIPE)
    with pytest.raises(UserError, match="a network endpoint stops a service"):
        machine.services.create("other", quiet, triggers=[stop])


# -- starting, stopping, telling


def quiet(service: Service) -> Generator[Request, Any, None]:
    """Runs until it is told to stop."""
    while (yield NextControl(service)).code != STOP:
        pass


def noting(seen: list[tuple[str, int]], idle: int | None = None) -> Body:
    """A body that notes the events that it learns of, and stops when none has come for a while."""

    def body(service: Service) -> Generator[Request, Any, None]:
        if service.event is not None and TRIGGER_STARTED in service.arguments:
            seen.append(("start", service.event.number))
        while (control := (yield NextControl(service, idle))) is not None and control.code != STOP:
            seen.append(("told", control.event.number))

    return body


def test_what_happens_while_it_starts_runs_and_stops() -> None:
    """Starting takes 100, stopping 50, idle is 200. Each event is learnt of once, in its order."""
    machine = machine_of()
    seen: list[tuple[str, int]] = []
    trigger = Trigger(type=CUSTOM, subtype=GUID)
    service = machine.services.create("one", noting(seen, 200), begin=100, end=50, triggers=[trigger])
    machine.services.start_system()
    assert service.state == STOPPED  # though its start type is "auto"
    for time in (10, 40, 60, 150, 370, 380):

        def happen(_: object) -> None:
            machine.system_events.write(GUID)

        machine.engine.at(time, happen)
    machine.run(359)
    # Started by the first; told of two when it runs, at 110; of the fourth at once. Idle at 350.
    assert seen == [("start", 1), ("told", 2), ("told", 3), ("told", 4)]
    machine.run(1000)
    # The fifth and the sixth come while it stops: it starts again at 400, and runs at 500.
    assert seen[4:] == [("start", 5), ("told", 6)]
    assert (service.starts, service.state) == (2, STOPPED)
    assert service.resident == (400 - 10) + (750 - 400)


def test_a_service_that_takes_no_events_yet_is_told_when_it_does() -> None:
    machine = machine_of()
    seen: list[tuple[str, int]] = []
    service = machine.services.create("one", noting(seen), triggers=[Trigger(type=CUSTOM, subtype=GUID)])
    machine.services.start_system()
    machine.system_events.write(GUID)
    machine.run(10)
    machine.services.accept_triggers(service, False)
    for _ in range(3):
        machine.system_events.write(GUID)
    machine.run(20)
    assert seen == [("start", 1)]
    machine.services.accept_triggers(service, True)
    machine.run(30)
    assert seen[1:] == [("told", 2), ("told", 3), ("told", 4)]


def test_a_service_with_running_dependents_is_not_stopped() -> None:
    machine = machine_of(trace=True)
    stop = Trigger(type=DOMAIN, action="stop", subtype=around.DOMAIN_LEAVE)
    needed = machine.services.create("needed", quiet, triggers=[stop])
    dependent = machine.services.create("dependent", quiet, needs=["needed"])
    machine.system_events.in_domain = True
    machine.services.start_system()
    machine.run(10)
    machine.system_events.domain_left()
    machine.run(20)
    assert needed.state == RUNNING
    (record,) = machine.tracer.records("Match")
    assert (record["service"], record["action"], record["status"]) == ("needed", "stop", 1051)
    machine.services.stop(dependent)
    machine.run(30)
    machine.system_events.domain_left()
    machine.run(40)
    assert needed.state == STOPPED


def test_a_stop_that_comes_while_it_starts_is_done_when_it_runs() -> None:
    machine = machine_of()
    triggers = [
        Trigger(type=DOMAIN, subtype=around.DOMAIN_JOIN),
        Trigger(type=DOMAIN, action="stop", subtype=around.DOMAIN_LEAVE),
    ]
    service = machine.services.create("one", quiet, begin=100, triggers=triggers)
    machine.services.start_system()
    machine.system_events.domain_joined()
    machine.run(50)
    machine.system_events.domain_left()
    machine.run(1000)
    assert (service.starts, service.state, service.resident) == (1, STOPPED, 100)


@pytest.mark.parametrize("at_boot", [True, False])
def test_what_is_true_when_the_system_starts(at_boot: bool) -> None:
    machine = machine_of(ServiceTriggers(at_boot=at_boot))
    wants = {
        "address": Trigger(type=ADDRESS, subtype=around.FIRST_ADDRESS),
        "domain": Trigger(type=DOMAIN, subtype=around.DOMAIN_JOIN),
        "port": Trigger(type=FIREWALL, subtype=around.PORT_OPEN, data=(("80", "TCP"),)),
        "other port": Trigger(type=FIREWALL, subtype=around.PORT_OPEN, data=(("81", "TCP"),)),
        "device": Trigger(type=DEVICE, subtype=HID),
        "policy": Trigger(type=POLICY, subtype=around.USER_POLICY),
        "custom": Trigger(type=CUSTOM, subtype=GUID),
    }
    events = machine.system_events
    events.address_comes()
    events.domain_joined()
    events.port_opens(80, "TCP")
    events.device_arrives(HID, "A")
    for name, trigger in wants.items():
        machine.services.create(name, quiet, triggers=[trigger])
    machine.services.start_system()
    machine.run(10)
    running = [name for name, service in machine.services.all.items() if service.state == RUNNING]
    assert running == (["address", "domain", "port", "device"] if at_boot else [])


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 120), max_size=25),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(1, 80),
)
def test_nothing_is_lost_or_told_twice(gaps: list[int], begin: int, end: int, idle: int) -> None:
    machine = machine_of()
    seen: list[tuple[str, int]] = []
    trigger = Trigger(type=CUSTOM, subtype=GUID)
    service = machine.services.create("one", noting(seen, idle), begin=begin, end=end, triggers=[trigger])
    machine.services.start_system()

    def happen(_: object) -> None:
        machine.system_events.write(GUID)

    time = 0
    for gap in gaps:
        time += gap
        machine.engine.at(time, happen)
    machine.run()
    machine.check()
    assert [number for _, number in seen] == list(range(1, len(gaps) + 1))
    assert service.starts == sum(kind == "start" for kind, _ in seen)
    assert service.state == STOPPED


# -- residency and rates


def test_residency_is_the_union_of_what_follows_events() -> None:
    """With nothing to do at the beginning and the end: [t, t + tau], merged, to the nanosecond."""
    for seed in (1, 2):
        machine = machine_of(seed=seed, trace=True)
        workload = Events(services=1, until=20 * HOUR, work=0)
        workload.start(machine)
        machine.run(21 * HOUR)
        times = [record.time for record in machine.tracer.records("Event")]
        merged: list[list[int]] = []
        for time in times:
            if merged and time <= merged[-1][1]:
                merged[-1][1] = time + workload.idle
            else:
                merged.append([time, time + workload.idle])
        (service,) = machine.services.all.values()
        assert len(times) > 90
        assert service.resident == sum(end - begin for begin, end in merged)
        assert service.starts == len(merged)


@pytest.mark.parametrize(("per_hour", "share", "starts"), [(6, 0.181, 4.91), (60, 0.865, 8.12)])
def test_residency_in_the_long_run(per_hour: int, share: float, starts: float) -> None:
    """1 - exp(-L tau) and L exp(-L tau) (scheduling facts 14.13)."""
    tau, rate = 2 / 60, per_hour
    assert 1 - exp(-rate * tau) == pytest.approx(share, abs=5e-4)
    assert rate * exp(-rate * tau) == pytest.approx(starts, abs=5e-3)
    found: list[tuple[float, float]] = []
    for seed in range(8):
        machine = machine_of(seed=seed)
        workload = Events(services=4, until=300 // per_hour * 2 * HOUR, interval=HOUR // per_hour)
        workload.start(machine)
        machine.run(workload.until + HOUR)
        values = {metric.name: metric.value for metric in workload.measure(machine)}
        found.append((values["resident"], values["starts"]))
        assert values["lost"] == values["vain_looks"] == 0
    for index, expected in enumerate((1 - exp(-rate * tau), rate * exp(-rate * tau))):
        interval = estimate([each[index] for each in found])
        assert abs(interval.mean - expected) < (interval.high - interval.low)
        assert interval.high - interval.low < expected / 5


# -- claims


@pytest.mark.parametrize(
    ("experiment", "change", "fail"),
    [
        (
            "service-triggers",
            {"service_triggers.triggers": False},
            {"resident", "starts", "idle", "reaction"},
        ),
        ("service-triggers-busy", {"service_triggers.triggers": False}, {"busy-resident", "busy-starts"}),
        ("service-triggers-busy", {"workload.idle": "4 min"}, {"busy-resident", "busy-starts"}),
        ("service-triggers-lost", {"service_triggers.triggers": False}, {"lost", "queued"}),
        ("service-triggers-lost", {"service_triggers.queueing": False}, {"lost"}),
        ("service-triggers-lost", {"careless.workload.hears": True}, {"lost"}),
        (
            "service-triggers-office",
            {"service_triggers.triggers": False},
            {"after-boot", "already-true", "stop", "port"},
        ),
        ("service-triggers-office", {"service_triggers.at_boot": False}, {"already-true"}),
    ],
)
def test_without_what_it_is_about_a_claim_fails(
    experiment: str, change: dict[str, Any], fail: set[str]
) -> None:
    result = ntlab.run(experiment, set=change, seeds=3)
    failing = {found.claim.id.removeprefix("service-triggers-") for found in result.claims if not found.holds}
    by_chance = {"resident", "starts", "queued", "busy-resident", "busy-starts"}  # with so few seeds
    assert fail <= failing <= fail | by_chance


@pytest.mark.skipif(not BOOTS, reason="shown with a plugin that is absent")
def test_services_that_are_left_out_of_the_boot() -> None:
    result = ntlab.run("service-triggers-boot", set={"service_triggers.left_out": []})
    assert not any(found.holds for found in result.claims)


@pytest.mark.skipif(
    "tick_distribution" not in installed().names(), reason="shown with a plugin that is absent"
)
@pytest.mark.parametrize("change", [{"service_triggers.triggers": False}, {"tick_distribution.ticks": "all"}])
def test_ticks_hide_what_triggers_save(change: dict[str, Any]) -> None:
    assert not any(found.holds for found in ntlab.run("service-triggers-ticks", set=change).claims)


@pytest.mark.skipif(not HWLOC.is_dir(), reason="no shared data")
def test_on_another_machine() -> None:
    result = ntlab.run("service-triggers-office", hardware=str(HWLOC / "96em64t-4n4d3ca2co-pci.xml"))
    assert all(found.holds for found in result.claims)


def test_a_run_that_is_too_short_says_so() -> None:
    machine = machine_of()
    workload = Events(until=HOUR)
    workload.start(machine)
    machine.run(MINUTE + SECOND)
    with pytest.raises(UserError, match="the events go on until"):
        workload.measure(machine)
    office = Office()
    office.start(machine_of())
    with pytest.raises(UserError, match="duration: the run ends within five minutes"):
        office.measure(machine_of())

"""Services and their manager, and what happens around the kernel."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Control, Machine, NextControl, Request, Service, Sleep
from ntlab.machine import services as scm
from ntlab.machine import system_events as around
from ntlab.machine.services import RUNNING, START_PENDING, STOP, STOP_PENDING, STOPPED, TRIGGER_EVENT
from ntlab.machine.system_events import SystemEvent
from ntlab.plugin import plugin, state
from ntlab.testing import boot

GUID = "e46eead8-0c54-4489-9898-8fa79d059e0e"


@plugin(name="watcher", summary="Notes what services do.", release="ws2008r2")
class Watcher:
    _seen: list[tuple[int, str, int, int]] = state(list)
    _started: list[str] = state(list)

    @hookimpl
    def service_changed(self, service: Service, old: int) -> None:
        self._seen.append((service.machine.engine.now, service.name, old, service.state))

    @hookimpl
    def service_starts_at_boot(self, service: Service) -> bool | None:
        return False if service.name == "not this one" else None

    @hookimpl
    def services_started(self, services: Sequence[Service]) -> None:
        self._started.extend(each.name for each in services if each.state != STOPPED)


def until_told(service: Service) -> Generator[Request, Any, None]:
    """A body that ends when it is told to stop, and notes what else it is told."""
    while True:
        control = yield NextControl(service)
        if control.code == STOP:
            return
        service.machine.told.append((service.machine.engine.now, service.name, control.event.number))


def at(machine: Machine, time: int, action: Callable[[], object]) -> None:
    """Do something at a time, whatever it returns."""

    def act(_: object) -> None:
        action()

    machine.engine.at(time, act)


def machine_of(*plugins: object) -> Machine:
    machine = boot(4, plugins, hooks="checked", check_every=1)
    machine.told = []  # type: ignore[attr-defined]
    return machine


def test_a_service_goes_round_its_states() -> None:
    watcher = Watcher()
    machine = machine_of(watcher)
    service = machine.services.create("one", until_told, begin=10, end=5)
    machine.services.start_system()
    at(machine, 100, lambda: machine.services.stop(service))
    machine.run()
    assert watcher._seen == [
        (0, "one", STOPPED, START_PENDING),
        (10, "one", START_PENDING, RUNNING),
        (100, "one", RUNNING, STOP_PENDING),
        (105, "one", STOP_PENDING, STOPPED),
    ]
    assert (service.starts, service.resident, service.thread) == (1, 105, None)


def test_which_start_with_the_system() -> None:
    watcher = Watcher()
    machine = machine_of(watcher)
    for name, start in (("a", "auto"), ("b", "demand"), ("c", "disabled"), ("not this one", "auto")):
        machine.services.create(name, until_told, start=start)  # type: ignore[arg-type]
    machine.services.start_system()
    assert watcher._started == ["a"]
    machine.services.create("later", until_told)
    machine.services.start_system()
    assert watcher._started == ["a", "later"]
    services = machine.services
    assert services.start(services.all["c"]) == scm.SERVICE_DISABLED
    assert services.start(services.all["a"]) == scm.SERVICE_ALREADY_RUNNING
    assert services.start(services.all["b"], "why") == scm.SUCCESS
    assert services.all["b"].arguments == ("b", "why")


def test_what_a_service_needs_runs_before_it_and_is_not_stopped_under_it() -> None:
    watcher = Watcher()
    machine = machine_of(watcher)
    services = machine.services
    top = services.create("top", until_told, needs=["middle", "side"], begin=1)
    services.create("middle", until_told, start="demand", needs=["bottom"], begin=20)
    services.create("side", until_told, start="demand", begin=7)
    bottom = services.create("bottom", until_told, start="demand", begin=300)
    services.start_system()
    machine.run(1000)
    assert [(time, name) for time, name, _, new in watcher._seen if new == RUNNING] == [
        (7, "side"), (300, "bottom"), (320, "middle"), (321, "top"),
    ]  # fmt: skip
    assert services.stop(bottom) == scm.DEPENDENT_SERVICES_RUNNING
    assert services.stop(top) == scm.SUCCESS
    machine.run(1001)
    assert services.stop(services.all["middle"]) == scm.SUCCESS
    assert services.stop(bottom) == scm.DEPENDENT_SERVICES_RUNNING  # until that one has stopped
    machine.run(1002)
    assert services.stop(bottom) == scm.SUCCESS


def test_a_needed_service_that_is_about_to_stop_starts_again() -> None:
    machine = machine_of()
    services = machine.services
    needed = services.create("needed", until_told, end=50)
    late = services.create("late", until_told, start="demand", needs=["needed"])
    services.start_system()
    machine.run(10)
    assert services.stop(needed) == scm.SUCCESS
    machine.run(20)
    assert services.start(late) == scm.SUCCESS
    machine.run(59)
    assert (needed.state, late.state) == (STOP_PENDING, START_PENDING)
    machine.run(61)
    assert (needed.state, late.state, needed.starts) == (RUNNING, RUNNING, 2)


def test_a_service_whose_need_is_disabled_does_not_start() -> None:
    machine = machine_of()
    services = machine.services
    services.create("needed", until_told, start="disabled")
    late = services.create("late", until_told, needs=["needed"])
    services.start_system()
    assert late.state == STOPPED
    assert services.start(late) == scm.SERVICE_DEPENDENCY_FAIL


def test_answers_to_controls() -> None:
    machine = machine_of()
    services = machine.services
    service = services.create("one", until_told, begin=10, end=10)
    deaf = services.create("deaf", until_told, begin=10, end=10, hears=False)
    event = machine.system_events.write(GUID)
    told = Control(TRIGGER_EVENT, event)
    assert services.control(service, told) == scm.SERVICE_NOT_ACTIVE
    services.start_system()
    machine.run(5)
    assert services.control(service, told) == scm.SERVICE_CANNOT_ACCEPT_CONTROL
    assert services.stop(service) == scm.SERVICE_CANNOT_ACCEPT_CONTROL
    machine.run(15)
    assert services.control(service, told) == scm.SUCCESS
    services.accept_triggers(service, False)
    assert services.control(service, told) == scm.SERVICE_CANNOT_ACCEPT_CONTROL
    for each in (service, deaf):
        assert services.stop(each) == scm.SUCCESS
    assert services.control(service, told) == scm.SHUTDOWN_IN_PROGRESS
    assert services.control(deaf, told) == scm.SUCCESS  # and it is lost
    machine.run()
    assert machine.told == [(15, "one", 1)]  # type: ignore[attr-defined]


def test_a_wait_for_a_control_ends() -> None:
    machine = machine_of()
    got: list[tuple[int, object]] = []

    def body(service: Service) -> Generator[Request, Any, None]:
        for _ in range(2):
            control = yield NextControl(service, timeout=100)
            got.append((machine.engine.now, control and control.code))

    service = machine.services.create("one", body)
    machine.services.start_system()
    at(machine, 130, lambda: machine.services.control(service, Control(TRIGGER_EVENT)))
    machine.run()
    assert got == [(100, None), (130, TRIGGER_EVENT)]
    assert machine.engine.now == 130


def test_controls_that_come_while_it_works_wait_for_it() -> None:
    machine = machine_of()

    def body(service: Service) -> Generator[Request, Any, None]:
        yield Sleep(100)
        yield from until_told(service)

    service = machine.services.create("one", body)
    machine.services.start_system()
    event = machine.system_events.write(GUID)
    for time in (10, 20):
        at(machine, time, lambda: machine.services.control(service, Control(TRIGGER_EVENT, event)))
    at(machine, 30, lambda: machine.services.stop(service))
    machine.run()
    assert machine.told == [(100, "one", 1)] * 2  # type: ignore[attr-defined]
    assert service.state == STOPPED


@pytest.mark.parametrize(
    ("needs", "match"),
    [
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "services need each other: .* needs "),
        ({"a": ["a"]}, "services need each other"),
        ({"alpha": ["alhpa2"], "alpha2": []}, "did you mean 'alpha2'"),
    ],
)
def test_needs_that_make_no_sense(needs: dict[str, list[str]], match: str) -> None:
    machine = machine_of()
    for name, others in needs.items():
        machine.services.create(name, until_told, needs=others)
    with pytest.raises(UserError, match=match):
        machine.services.start_system()


def test_a_second_service_of_a_name() -> None:
    machine = machine_of()
    machine.services.create("One", until_told)
    with pytest.raises(UserError, match="a second service 'one'"):
        machine.services.create("one", until_told)


# -- what happens around the kernel


def heard(machine: Machine, *providers: str) -> list[SystemEvent]:
    found: list[SystemEvent] = []
    for provider in providers:
        machine.system_events.enable(provider, found.append)
    return found


def test_only_the_first_address_and_the_last_count() -> None:
    machine = machine_of()
    events = machine.system_events
    found = heard(machine, around.FIRST_ADDRESS, around.LAST_ADDRESS)
    assert (events.present(around.FIRST_ADDRESS), events.present(around.LAST_ADDRESS)) == ([], [()])
    for _ in range(3):
        events.address_comes()
    assert (events.present(around.FIRST_ADDRESS), events.present(around.LAST_ADDRESS)) == ([()], [])
    for _ in range(3):
        events.address_goes()
    assert [event.provider for event in found] == [around.FIRST_ADDRESS, around.LAST_ADDRESS]
    with pytest.raises(UserError, match="an IP address goes"):
        events.address_goes()


def test_a_port_that_closes_is_told_a_minute_later_unless_it_has_opened_again() -> None:
    machine = machine_of()
    events = machine.system_events
    found = heard(machine, around.PORT_OPEN, around.PORT_CLOSE)
    minute = around.PORT_CLOSE_DELAY
    events.port_opens(5001, "UDP", "C:\\my.exe", "me", rpc=True)
    data = (("5001", "UDP", "C:\\my.exe", "me"), ("RPC", "UDP", "C:\\my.exe", "me"))
    assert events.present(around.PORT_OPEN) == [data]
    at(machine, 10, lambda: events.port_closes(5001, "UDP"))
    at(machine, 20, lambda: events.port_opens(5001, "UDP", "C:\\my.exe", "me", rpc=True))
    at(machine, 30, lambda: events.port_closes(5001, "UDP"))
    machine.run()
    assert [(event.time, event.provider, event.data) for event in found] == [
        (0, around.PORT_OPEN, data),
        (20, around.PORT_OPEN, data),
        (30 + minute, around.PORT_CLOSE, data),
    ]
    assert events.present(around.PORT_OPEN) == []
    with pytest.raises(UserError, match="port 80, TCP is closed"):
        events.port_closes(80, "TCP")
    with pytest.raises(UserError, match="port 0; expected 1 to 65535"):
        events.port_opens(0, "TCP")


def test_devices_domain_policies_and_providers_of_their_own() -> None:
    machine = machine_of()
    events = machine.system_events
    found = heard(machine, GUID.upper(), around.DOMAIN_JOIN, around.USER_POLICY)
    events.device_arrives(GUID, "USB\\A", "USB\\B")
    events.device_arrives(GUID, "USB\\C")
    assert events.present(GUID) == [("USB\\A", "USB\\B"), ("USB\\C",)]
    events.device_leaves(GUID, "USB\\C")
    assert events.present(GUID) == [("USB\\A", "USB\\B")]
    events.domain_joined()
    assert (events.present(around.DOMAIN_JOIN), events.present(around.DOMAIN_LEAVE)) == ([()], [])
    events.domain_left()
    events.policy_changes("machine")
    events.policy_changes("user")
    events.write(GUID, b"\1\2")
    assert [event.number for event in found] == [1, 2, 3, 6, 7]
    assert events.written == 7
    with pytest.raises(UserError, match="'nonsense' is no GUID"):
        events.write("nonsense")

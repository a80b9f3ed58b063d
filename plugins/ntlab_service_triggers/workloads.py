"""Services that have something to do now and then: they look for it all the time, or are started for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import attrs

from ntlab.errors import UserError
from ntlab.machine import Compute, Control, Machine, NextControl, Request, Service, SystemEvent
from ntlab.machine import system_events as events
from ntlab.machine.idle import IdleTimes
from ntlab.machine.services import START_PENDING, STOP, STOPPED
from ntlab.machine.timers import Dpc
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import MICROSECOND, SECOND, Duration, format_duration
from ntlab_service_triggers.triggers import CUSTOM, DEVICE, DOMAIN, FIREWALL, TRIGGER_STARTED, Trigger

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
LOOK = 128
"""The control by which a timer has a service look (the first that a service may define itself)."""


@attrs.define(eq=False)
class Doings:
    """What the services of one run have to do, and what became of it.

    A service that was started by an event deals with it and with those that it is told of; it stops itself
    when none has come for `idle`, if no event stops it. Any other looks for something to do each `poll`.
    """

    machine: Machine
    work: int
    poll: int
    idle: int
    by_timer: bool = False  # kernel timers end waits
    undone: dict[Service, dict[int, int]] = attrs.field(factory=dict)  # numbers of events, and their times
    reactions: list[int] = attrs.field(factory=list)
    looks: int = 0
    vain: int = 0
    during_start: int = 0

    def add(self, name: str, **how: Any) -> Service:
        """A service that has nothing to do yet."""
        service = self.machine.services.create(name, self.body, **how)
        self.undone[service] = {}
        return service

    def happen(self, service: Service, event: SystemEvent) -> None:
        """An event gives a service something to do."""
        self.undone[service][event.number] = event.time
        self.during_start += service.state == START_PENDING

    def body(self, service: Service) -> Generator[Request, Any, None]:
        undone = self.undone[service]
        by_event = TRIGGER_STARTED in service.arguments[1:]
        if by_event and service.event is not None:
            yield from self._do(undone, service.event.number)
        stopped = any(trigger.action == "stop" for trigger in service.triggers)
        timeout = self.poll if not by_event else None if stopped else self.idle
        while True:
            control = yield from self._next(service, timeout)
            if control is not None and control.code == STOP:
                return
            if control is not None:
                yield from self._do(undone, control.event.number)
            elif by_event:
                return
            else:
                self.looks += 1
                self.vain += not undone
                for number in list(undone):
                    yield from self._do(undone, number)

    def _next(self, service: Service, timeout: int | None) -> Generator[Request, Any, Any]:
        """Wait for the next control; None after `timeout` ns without."""
        if not self.by_timer or timeout is None:
            return (yield NextControl(service, timeout))
        timers, thread = self.machine.timers, service.thread
        assert thread is not None
        over = Control(LOOK)
        timer = timers.create(Dpc("Look", lambda _: service.put(over)))
        timers.set(timer, timeout, processor=thread.last)
        control: Control = yield NextControl(service)
        while control.code == LOOK and control is not over:  # that of a wait which another control ended
            control = yield NextControl(service)
        timers.cancel(timer)
        return None if control is over else control

    def _do(self, undone: dict[int, int], number: int) -> Iterator[Request]:
        time = undone.pop(number, None)
        if time is not None:
            self.reactions.append(self.machine.engine.now - time)
            yield Compute(self.work)

    def metrics(self) -> list[Metric]:
        done = self.reactions or [0]
        return [
            Metric("reaction", sum(done) / len(done), "ns"),
            Metric("worst_reaction", max(done), "ns"),
            Metric("done", len(self.reactions)),
            Metric("lost", sum(map(len, self.undone.values()))),
        ]


@workload(name="events", summary="Services each of which has something to do at random times.")
class Events:
    """Each service has an ETW provider of its own, whose events come at random (Poisson) until `until`.

    Before, all start with the system and look every `poll` whether there is something to do. Where events
    start services, each stops itself when nothing has come for `idle`.
    """

    services: int = option(default=4, help="How many services.", minimum=1)
    interval: Duration = option(
        default=Duration(10 * MINUTE), help="Mean time from one event of a service to the next.", minimum=1
    )
    poll: Duration = option(
        default=Duration(MINUTE), help="How often a service looks for something to do.", minimum=1
    )
    idle: Duration = option(
        default=Duration(2 * MINUTE), help="When a service that was started by an event stops.", minimum=1
    )
    begin: Duration = option(
        default=Duration(0), help="Work from its being started to its running.", minimum=0
    )
    end: Duration = option(default=Duration(0), help="Work from its stopping to its end.", minimum=0)
    work: Duration = option(default=Duration(MICROSECOND), help="Work for an event.", minimum=0)
    hears: bool = option(
        default=True, help="Whether a service that stops says so, when it is told of an event."
    )
    until: Duration = option(default=Duration(100 * HOUR), help="When the events end.", minimum=1)
    clock: bool = option(
        default=False, help="Whether clock interrupts are simulated, and kernel timers end waits."
    )

    _doings: Doings = attrs.field(init=False, repr=False, eq=False)
    _times: IdleTimes = attrs.field(init=False, repr=False, eq=False)
    _services: list[Service] = state(list)
    _resident: int = state(int)
    _starts: int = state(int)
    _vain: int = state(int)
    _wakes: int = state(int)
    _elsewhere: int = state(int)
    _end: int = state(int)

    def start(self, machine: Machine) -> None:
        self._doings = Doings(machine, self.work, self.poll, self.idle, self.clock)
        if self.clock:
            machine.timers.start_clock()
        self._end = machine.engine.now + self.until
        for number in range(self.services):
            provider = f"{number:08x}-0000-4000-8000-6e746c616200"
            service = self._doings.add(
                f"service{number}",
                begin=self.begin,
                end=self.end,
                hears=self.hears,
                triggers=[Trigger(type=CUSTOM, subtype=provider)],
            )
            self._services.append(service)
            self._plan(machine, service, provider, machine.streams.stream("service_triggers", f"{number}"))
        machine.services.start_system()
        self._times = IdleTimes(machine)
        self._times.begin()
        machine.engine.at(self._end, self._count)

    def _plan(self, machine: Machine, service: Service, provider: str, random: Any) -> None:
        def delay() -> int | None:
            time = round(random.expovariate(1 / self.interval))
            return time if machine.engine.now + time < self._end else None

        def happen(_: object) -> int | None:
            self._doings.happen(service, machine.system_events.write(provider))
            return delay()

        first = delay()
        if first is not None:
            machine.engine.after(first, happen)

    def _count(self, _: object) -> None:
        self._resident = sum(service.resident for service in self._services)
        self._starts = sum(service.starts for service in self._services)
        self._vain = self._doings.vain
        wakes = self._times.wakes
        self._wakes = sum(wakes.values())
        self._elsewhere = self._wakes - wakes[self._times.machine.timers.keeper]

    def measure(self, machine: Machine) -> list[Metric]:
        if machine.engine.now < self._end:
            raise UserError(
                f"the events go on until {format_duration(self.until)}",
                where="duration",
                expected="a longer one",
            )
        hours = self.services * self.until / HOUR
        return [
            Metric("resident", self._resident / (self.services * self.until)),
            Metric("starts", self._starts / hours),
            Metric("vain_looks", self._vain / hours),
            Metric("wakes", self._wakes / hours),
            Metric("wakes_elsewhere", self._elsewhere * SECOND / self.until, "1/s"),
            Metric("during_start", self._doings.during_start / (self._starts or 1)),
            *self._doings.metrics(),
        ]


HID = "4d1e55b2-f16f-11cf-88cb-001111000030"
PENS = tuple(f"HID_DEVICE_UP:000D_U:000{usage}" for usage in range(1, 5))
ERROR_REPORTING = "e46eead8-0c54-4489-9898-8fa79d059e0e"
NETBIOS = (("139", "TCP", "System"), ("137", "UDP", "System"), ("138", "UDP", "System"))


@workload(name="office", summary="A morning of an office computer with four services of Windows 7.")
class Office:
    """w32time runs while the machine is in a domain, tabletinputservice when there is a pen, browser while
    the ports of NetBIOS are open, wersvc when a program has failed; browser needs lanmanserver, which always
    runs.

    The pen is there from the beginning. A port opens after one minute, the machine joins its domain after
    two, then a program fails; the machine leaves its domain after ten minutes, the port closes after twelve.
    """

    poll: Duration = option(
        default=Duration(MINUTE), help="How often a service looks for something to do.", minimum=1
    )
    idle: Duration = option(
        default=Duration(2 * MINUTE), help="When a service that was started by an event stops.", minimum=1
    )

    _doings: Doings = attrs.field(init=False, repr=False, eq=False)
    _services: dict[str, Service] = state(dict)
    _at_five: int | None = attrs.field(init=False, default=None, repr=False, eq=False)

    def start(self, machine: Machine) -> None:
        doings = self._doings = Doings(machine, MICROSECOND, self.poll, self.idle)
        around = machine.system_events
        around.device_arrives(HID, "HID\\VID_056A&PID_0090", PENS[1].lower())

        def add(name: str, *triggers: Trigger, **how: Any) -> None:
            self._services[name] = doings.add(name, triggers=triggers, **how)

        add(
            "w32time",
            Trigger(type=DOMAIN, subtype=events.DOMAIN_JOIN),
            Trigger(type=DOMAIN, action="stop", subtype=events.DOMAIN_LEAVE),
        )
        add("tabletinputservice", Trigger(type=DEVICE, subtype=HID, data=PENS))
        add("lanmanserver")
        add(
            "browser",
            Trigger(type=FIREWALL, subtype=events.PORT_OPEN, data=NETBIOS),
            Trigger(type=FIREWALL, action="stop", subtype=events.PORT_CLOSE, data=NETBIOS),
            needs=["lanmanserver"],
        )
        add("wersvc", Trigger(type=CUSTOM, subtype=ERROR_REPORTING))
        machine.services.start_system()

        def at(minutes: float, action: Callable[[], object]) -> None:
            machine.engine.at(machine.engine.now + round(minutes * MINUTE), lambda _: action())

        at(1, lambda: around.port_opens(139, "TCP"))
        at(2, around.domain_joined)
        at(2.5, lambda: doings.happen(self._services["wersvc"], around.write(ERROR_REPORTING)))
        at(5, self._look)
        at(10, around.domain_left)
        at(12, lambda: around.port_closes(139, "TCP"))

    def _look(self) -> None:
        self._at_five = sum(service.state != STOPPED for service in self._services.values())

    def measure(self, machine: Machine) -> list[Metric]:
        if self._at_five is None:
            raise UserError("the run ends within five minutes", where="duration", expected="a longer one")
        return [
            Metric("resident_after_5_min", self._at_five),
            *(Metric(f"{name}_resident", service.resident, "ns") for name, service in self._services.items()),
            *self._doings.metrics(),
        ]

"""Unified Background Process Manager: it listens for the events that services wait for, and has them started.

It holds what the manager of services needs to lose none of them: a queue for each service that is about to
start or to stop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import attrs

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Compute, Control, Machine, Mailbox, Receive, Request, Service, SystemEvent, Task
from ntlab.machine.services import (
    RUNNING,
    SHUTDOWN_IN_PROGRESS,
    START_PENDING,
    STOPPED,
    SUCCESS,
    TRIGGER_EVENT,
)
from ntlab.plugin import option, plugin, state
from ntlab.quantities import Duration
from ntlab.tracing import event_type
from ntlab_service_triggers.triggers import TRIGGER_STARTED, Action, Trigger, qtriggerinfo
from ntlab_service_triggers.workloads import Events, Office

MATCH = event_type("Lab-UBPM", "Match", "service$ action$ event status")
QUEUE = event_type("Lab-UBPM", "Queue", "service$ event queued")


class _Wanted(NamedTuple):
    """What an event asks of a service."""

    action: Action
    event: SystemEvent


@plugin(
    name="service_triggers",
    summary="Services start and stop on events that they register for, instead of polling.",
    release="ws2008r2",
    ledger=("P10",),
    requires=("ws2003",),
    workloads=(Events, Office),
    neutral={"triggers": False},
)
class ServiceTriggers:
    triggers: bool = option(
        default=True, help="Whether services are started and stopped by events; if not, as in 2003."
    )
    queueing: bool = option(
        default=True, help="Whether what happens while a service starts or stops is kept for it."
    )
    at_boot: bool = option(
        default=True, help="Whether what is true already when the system starts counts as an event."
    )
    endpoints: bool = option(
        default=False, help="Whether a service can wait for network endpoints, as from Server 2012 on."
    )
    left_out: tuple[str, ...] = option(
        default=(), help="Services of a boot that are left to their triggers, by their tasks' names."
    )
    work: Duration = option(
        default=Duration(0), help="Work of the manager for each event that it is told of.", minimum=0
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _registered: dict[str, list[tuple[Service, Trigger]]] = state(dict)  # by provider
    _services: list[Service] = state(list)
    _queues: dict[Service, deque[_Wanted]] = state(dict)
    _events: Mailbox | None = state(lambda: None)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        self._machine = machine
        self._trace_match = machine.tracer.emitter(MATCH)
        self._trace_queue = machine.tracer.emitter(QUEUE)

    # -- registration ----------------------------------------------------------------------------------------

    @hookimpl
    def service_created(self, service: Service) -> None:
        """Take note of a service's triggers, which stay what they are."""
        if not self.triggers or not service.triggers:
            return
        where = f"triggers of service {service.name!r}"
        seen: set[object] = set()
        for trigger in service.triggers:
            trigger.check(where, endpoints=self.endpoints)
            if trigger.action == "start" and service.start_type == "disabled":
                raise UserError("a disabled service is started by an event", where=where, expected="no such")
            key = (trigger.type, trigger.action, trigger.provider, frozenset(trigger.items))
            if key in seen:
                raise UserError(f"the same trigger twice, of type {trigger.type}", where=where)
            seen.add(key)
        self._services.append(service)
        self._queues[service] = deque()
        for trigger in service.triggers:
            if trigger.provider not in self._registered:
                self._machine.system_events.enable(trigger.provider, self._received)
            self._registered.setdefault(trigger.provider, []).append((service, trigger))

    @hookimpl
    def service_starts_at_boot(self, service: Service) -> bool | None:
        return False if service in self._queues and _starts(service) else None

    @hookimpl
    def task_starts_at_boot(self, task: Task) -> bool | None:
        """A service that is started by events is no part of the boot."""
        return False if self.triggers and task.kind == "service" and task.name in self.left_out else None

    @hookimpl
    def services_started(self, machine: Machine, services: Sequence[Service]) -> None:
        """What is true already when the system starts counts as an event."""
        if not self.at_boot:
            return
        now = machine.engine.now
        for service in services:
            if service not in self._queues:
                continue
            for trigger in service.triggers:
                for data in machine.system_events.present(trigger.provider):
                    if trigger.accepts(data):
                        self._act(
                            service, _Wanted(trigger.action, SystemEvent(trigger.provider, data, now, 0))
                        )
                        break

    # -- events ----------------------------------------------------------------------------------------------

    def _received(self, event: SystemEvent) -> None:
        """The session for real-time events has one: the manager's thread wakes for it."""
        if self._events is None:
            self._events = Mailbox(self._machine.engine)
            self._machine.create_thread(
                self._machine.services.process, self._listen(self._events), name="ubpm", priority=15
            )
        self._events.put(event)

    def _listen(self, mailbox: Mailbox) -> Generator[Request, SystemEvent, None]:
        receive = Receive(mailbox)
        while True:
            event = yield receive
            if self.work:
                yield Compute(self.work)
            asked: set[tuple[Service, Action]] = set()
            for service, trigger in self._registered[event.provider]:
                if (service, trigger.action) not in asked and trigger.matches(event):
                    asked.add((service, trigger.action))
                    self._act(service, _Wanted(trigger.action, event))

    def _act(self, service: Service, wanted: _Wanted) -> None:
        """Have a service started or stopped, tell it what happened, or keep that for it."""
        services = self._machine.services
        status = SUCCESS
        if service.state == START_PENDING:
            self._keep(service, wanted)
        elif wanted.action == "stop":
            if service.state == RUNNING:
                status = services.stop(service)  # refused while others need it
        elif service.state == STOPPED:
            status = services.start(service, TRIGGER_STARTED, event=wanted.event)
        elif service.state == RUNNING and not service.accepts_triggers:
            self._keep(service, wanted)
        else:
            status = services.control(service, Control(TRIGGER_EVENT, wanted.event))
            if status == SHUTDOWN_IN_PROGRESS:
                self._keep(service, wanted)
        if self._trace_match is not None:
            text = self._machine.tracer.text
            self._trace_match(
                (self._machine.engine.now, MATCH.id, text(service.name), text(wanted.action),
                 wanted.event.number, status)
            )  # fmt: skip

    def _keep(self, service: Service, wanted: _Wanted) -> None:
        if not self.queueing:
            return
        queue = self._queues[service]
        queue.append(wanted)
        if self._trace_queue is not None:
            name = self._machine.tracer.text(service.name)
            self._trace_queue((self._machine.engine.now, QUEUE.id, name, wanted.event.number, len(queue)))

    @hookimpl
    def service_changed(self, service: Service, old: int) -> None:
        """A service runs, or has stopped: deal with what has been kept for it."""
        queue = self._queues.get(service)
        while queue:
            able = service.state == STOPPED or (service.state == RUNNING and service.accepts_triggers)
            if not able:
                return
            self._act(service, queue.popleft())

    def views(self) -> dict[str, Callable[[Machine], str]]:
        """What ``sc qtriggerinfo`` prints of each service that has triggers."""
        return {
            "triggers": lambda machine: "\n".join(
                qtriggerinfo(service.name, service.triggers) for service in self._services
            )
        }


def _starts(service: Service) -> bool:
    return any(trigger.action == "start" for trigger in service.triggers)

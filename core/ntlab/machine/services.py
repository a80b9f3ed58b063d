"""Services, and the manager that starts and stops them (the SCM).

A service is a thread that comes and goes. It is stopped, about to start, running, or about to stop; what it
does while it runs is its `body`, a program that receives controls from the manager:

    def body(service):
        while True:
            control = yield NextControl(service, timeout=120 * SECOND)
            if control is None or control.code == STOP:
                return                                    # it stops
            ...                                           # control.event happened

    services = machine.services
    services.create("w32time", body, start="auto", needs=("rpcss",))
    services.start_system()

Which services start with the system, and what else makes them come and go, is asked of plugins
(`ntlab.hooks.services`). Return codes are those of Windows (winerror.h).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ntlab.engine import Event
from ntlab.errors import SimulationError, UnknownNameError, UserError
from ntlab.machine.threads import Compute, Process, Request, Thread
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.system_events import SystemEvent

STOPPED: Final = 1
START_PENDING: Final = 2
STOP_PENDING: Final = 3
RUNNING: Final = 4
"""States of a service, numbered as Windows does."""

STOP: Final = 1
TRIGGER_EVENT: Final = 32
"""Controls (SERVICE_CONTROL_STOP, SERVICE_CONTROL_TRIGGEREVENT)."""

SUCCESS: Final = 0
DEPENDENT_SERVICES_RUNNING: Final = 1051
SERVICE_ALREADY_RUNNING: Final = 1056
SERVICE_DISABLED: Final = 1058
SERVICE_CANNOT_ACCEPT_CONTROL: Final = 1061
SERVICE_NOT_ACTIVE: Final = 1062
SERVICE_DEPENDENCY_FAIL: Final = 1068
SHUTDOWN_IN_PROGRESS: Final = 1115

STATUS_CHANGE = event_type("Microsoft-Windows-Services", "ServiceStatusChange", "service$ old new")
SEND_CONTROL = event_type("Microsoft-Windows-Services", "SendControl", "service$ control status")

StartType = Literal["auto", "demand", "disabled"]


class Control(NamedTuple):
    """What the manager sends to a running service: a code, and the event that it is about."""

    code: int
    event: SystemEvent | None = None


Body = Callable[["Service"], Iterator[Request]]


class Service:
    """A service. Made by `machine.services.create`.

    `arguments` is what it was started with (its name first), `event` what it was started by, if anything.
    `accepts_triggers`: it takes controls about events (SERVICE_ACCEPT_TRIGGEREVENT). A service that `hears`
    answers to a control that comes while it stops that it does so; one that does not takes it, and loses it.

    Totals: `starts`, and `resident`, the ns for which it was not stopped.
    """

    def __init__(
        self,
        services: Services,
        name: str,
        body: Body,
        *,
        start: StartType,
        needs: tuple[str, ...],
        triggers: tuple[Any, ...],
        begin: int,
        end: int,
        hears: bool,
    ) -> None:
        self.services = services
        self.machine = services.machine
        self.name = name
        self.body = body
        self.start_type: StartType = start
        self.needs = needs
        self.triggers = triggers
        self.begin = begin
        self.end = end
        self.hears = hears
        self.state = STOPPED
        self.accepts_triggers = False
        self.arguments: tuple[str, ...] = ()
        self.event: SystemEvent | None = None
        self.starts = 0
        self.thread: Thread | None = None
        self.controls: deque[Control] = deque()
        self.receiver: Thread | None = None
        self.timeout: Event | None = None
        self._resident = 0

    def __repr__(self) -> str:
        return f"<Service {self.name}>"

    @property
    def resident(self) -> int:
        """How long it has not been stopped, over all, ns."""
        return self._resident + (self.machine.engine.now if self.state != STOPPED else 0)

    def put(self, control: Control) -> None:
        """A control for its body."""
        receiver = self.receiver
        if receiver is None:
            self.controls.append(control)
            return
        self.receiver = None
        if self.timeout is not None:
            self.machine.engine.cancel(self.timeout)
            self.timeout = None
        self.machine.scheduler.wake(receiver, control)


class Services:
    """The services of one machine, by name.

    `start`, `stop` and `control` return codes. So none of them is an action for the engine, which takes a
    number for the time until it does that again: give it a function that calls them and returns None.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.all: dict[str, Service] = {}
        self._process: Process | None = None
        self._changed = machine.hooks.service_changed
        self._registered = 0  # how many there were when the system came up
        self._waiting: list[Service] = []  # for services that they need
        tracer = machine.tracer
        self._trace_change = tracer.emitter(STATUS_CHANGE)
        self._trace_control = tracer.emitter(SEND_CONTROL)

    @property
    def process(self) -> Process:
        """The process that all services run in (services.exe, and what it starts)."""
        if self._process is None:
            self._process = self.machine.create_process("services.exe", base_priority=9)
        return self._process

    def create(
        self,
        name: str,
        body: Body,
        *,
        start: StartType = "auto",
        needs: Sequence[str] = (),
        triggers: Sequence[Any] = (),
        begin: int = 0,
        end: int = 0,
        hears: bool = True,
    ) -> Service:
        """Register a service. `begin` and `end` are the work (ns) from being started to running, and from
        being about to stop to having stopped; `needs` names services that must run before it."""
        if name.lower() in {other.lower() for other in self.all}:
            raise UserError(f"a second service {name!r}", expected="names that differ")
        service = Service(
            self,
            name,
            body,
            start=start,
            needs=tuple(needs),
            triggers=tuple(triggers),
            begin=begin,
            end=end,
            hears=hears,
        )
        if self.machine.hooks.service_created is not None:
            self.machine.hooks.service_created(service)
        self.all[name] = service
        return service

    def start_system(self) -> None:
        """The system has come up: start what starts with it, of all that has been registered since this was
        called before. Raises UserError for services that need what there is not, or each other."""
        new = list(self.all.values())[self._registered :]
        self._registered = len(self.all)
        for service in new:
            for need in service.needs:
                if need not in self.all:
                    raise UnknownNameError("service", need, self.all, where=f"needs of {service.name!r}")
        try:
            TopologicalSorter({name: service.needs for name, service in self.all.items()}).prepare()
        except CycleError as error:
            cycle = " needs ".join(repr(name) for name in reversed(error.args[1]))
            raise UserError(f"services need each other: {cycle}", expected="no cycle") from None
        ask = self.machine.hooks.service_starts_at_boot
        for service in new:
            if service.start_type == "disabled":
                continue
            starts = ask(service) if ask is not None else None
            if service.start_type == "auto" if starts is None else starts:
                self.start(service)
        if self.machine.hooks.services_started is not None:
            self.machine.hooks.services_started(self.machine, new)

    # -- start and stop --------------------------------------------------------------------------------------

    def start(self, service: Service, *arguments: str, event: SystemEvent | None = None) -> int:
        """Start a service, and first what it needs. Returns SUCCESS, or why it does not start."""
        if service.start_type == "disabled":
            return SERVICE_DISABLED
        if service.state != STOPPED:
            return SERVICE_ALREADY_RUNNING
        needed = [self.all[name] for name in service.needs]
        for each in needed:
            if each.state == STOPPED and self.start(each) != SUCCESS:
                return SERVICE_DEPENDENCY_FAIL
        service.arguments = (service.name, *arguments)
        service.event = event
        service.starts += 1
        self._set(service, START_PENDING)
        if all(each.state == RUNNING for each in needed):
            self._launch(service)
        else:
            self._waiting.append(service)
        return SUCCESS

    def _launch(self, service: Service) -> None:
        service.thread = self.machine.create_thread(self.process, self._main(service), name=service.name)

    def stop(self, service: Service) -> int:
        """Ask a running service to stop. Returns SUCCESS, or why it does not, such as
        DEPENDENT_SERVICES_RUNNING where others that need it run."""
        if any(service.name in other.needs and other.state != STOPPED for other in self.all.values()):
            return DEPENDENT_SERVICES_RUNNING
        return self.control(service, Control(STOP))

    def control(self, service: Service, control: Control) -> int:
        """Send a control to a service. Returns its answer."""
        status = SUCCESS
        if service.state == STOPPED:
            status = SERVICE_NOT_ACTIVE
        elif service.state == START_PENDING or (
            control.code == TRIGGER_EVENT and service.state == RUNNING and not service.accepts_triggers
        ):
            status = SERVICE_CANNOT_ACCEPT_CONTROL
        elif service.state == STOP_PENDING:
            status = SHUTDOWN_IN_PROGRESS if service.hears else SUCCESS
        else:
            service.put(control)
            if control.code == STOP:  # its handler says so at once
                self._stopping(service)
        if self._trace_control is not None:
            name = self.machine.tracer.text(service.name)
            self._trace_control((self.machine.engine.now, SEND_CONTROL.id, name, control.code, status))
        return status

    def accept_triggers(self, service: Service, accepts: bool) -> None:
        """A running service says whether it takes controls about events. When it begins to run it does."""
        before, service.accepts_triggers = service.accepts_triggers, accepts
        if accepts and not before and self._changed is not None:
            self._changed(service, service.state)

    def _main(self, service: Service) -> Iterator[Request]:
        """The program of a service's thread."""
        if service.begin:
            yield Compute(service.begin)
        service.accepts_triggers = True
        self._set(service, RUNNING)
        for waiting in list(self._waiting):
            if all(self.all[name].state == RUNNING for name in waiting.needs):
                self._waiting.remove(waiting)
                self._launch(waiting)
        yield from service.body(service)
        self._stopping(service)
        if service.end:
            yield Compute(service.end)
        service.controls.clear()
        service.thread = None
        self._set(service, STOPPED)

    def _stopping(self, service: Service) -> None:
        service.accepts_triggers = False
        if service.state == RUNNING:
            self._set(service, STOP_PENDING)

    def _set(self, service: Service, state: int) -> None:
        old, service.state = service.state, state
        now = self.machine.engine.now
        if old == STOPPED:
            service._resident -= now
        elif state == STOPPED:
            service._resident += now
        if self._trace_change is not None:
            name = self.machine.tracer.text(service.name)
            self._trace_change((now, STATUS_CHANGE.id, name, old, state))
        if self._changed is not None:
            self._changed(service, old)
        if state == STOPPED and any(service.name in other.needs for other in self._waiting):
            self.start(service)  # unless somebody has already

    def check(self) -> None:
        """Raise SimulationError where services, their states and their threads differ."""
        for service in self.all.values():
            runs = service.thread is not None
            if runs != (service.state != STOPPED and service not in self._waiting):
                raise SimulationError(
                    f"{service!r} is in state {service.state} with thread {service.thread!r}"
                )
            if service.thread is not None and service.thread.id not in self.machine.threads:
                raise SimulationError(f"the thread of {service!r} has ended")
            if service.receiver is not None and service.controls:
                raise SimulationError(f"{service!r} waits for controls that it has")


class NextControl(Request):
    """Wait for the next control of a service, for `timeout` ns at most. The body receives it, or None."""

    __slots__ = ("service", "timeout")

    def __init__(self, service: Service, timeout: int | None = None) -> None:
        self.service = service
        self.timeout = timeout

    def perform(self, thread: Thread) -> int | None:
        service = self.service
        if service.controls:
            thread.result = service.controls.popleft()
            return 0
        service.receiver = thread
        if self.timeout is not None:
            service.timeout = thread.machine.engine.after(self.timeout, self._over, service)
        return None

    @staticmethod
    def _over(service: Service) -> None:
        thread, service.receiver, service.timeout = service.receiver, None, None
        assert thread is not None
        thread.machine.scheduler.wake(thread)

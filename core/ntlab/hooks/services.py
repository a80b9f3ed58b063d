"""What services ask. `service` is a `Service`; it knows its machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.hooks.markers import hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.services import Service


@observer
def service_created(service: Service) -> None:
    """A service has been registered, with what it wants to be started and stopped by (`service.triggers`).

    Called before the system starts its services. 2003: nobody listens.
    """


@hookspec(firstresult=True)
def service_starts_at_boot(service: Service) -> bool | None:
    """Whether the system starts a service by itself.

    Asked when the system starts its services, for each that is not disabled. None everywhere, as in 2003:
    those whose start type is "auto".
    """


@observer
def services_started(machine: Machine, services: Sequence[Service]) -> None:
    """The system has begun to start its services: `services` are all that take part, started or not.

    Called when it comes up, and again for those that workloads register later. 2003: nobody listens.
    """


@observer
def service_changed(service: Service, old: int) -> None:
    """A service's state is another one now than `old`. 2003: nobody listens.

    Called before its thread goes on. When it runs, it accepts controls already.
    """

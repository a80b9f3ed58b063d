"""What happens around the kernel: devices, addresses, the domain, the firewall, policies, events of others.

Each event is of a provider, which a GUID names, and may carry data. As in Event Tracing for Windows, whoever
has enabled a provider is told of its events as they come (`enable`), and all are recorded. Of what lasts,
such as a device that is there, one can ask whether it is true now (`present`).

    machine.system_events.domain_joined()
    machine.system_events.write(GUID, "what happened")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

import attrs

from ntlab.engine import Event
from ntlab.errors import UserError
from ntlab.quantities import SECOND
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

EVENT = event_type("Lab-System", "Event", "provider$ number data$")

FIRST_ADDRESS: Final = "4f27f2de-14e2-430b-a549-7cd48cbc8245"
LAST_ADDRESS: Final = "cc4ba62a-162e-4648-847a-b6bdf993e335"
DOMAIN_JOIN: Final = "1ce20aba-9851-4421-9430-1ddeb766e809"
DOMAIN_LEAVE: Final = "ddaf516e-58c2-4866-9574-c3b615d42ea1"
PORT_OPEN: Final = "b7569e07-8421-4ee0-ad10-86915afdad09"
PORT_CLOSE: Final = "a144ed38-8e12-4de4-9d96-e64740b1a524"
MACHINE_POLICY: Final = "659fcae6-5bdb-4da9-b1ff-ca2a178d46e0"
USER_POLICY: Final = "54fb46c8-f089-464c-b1fd-59d1b62c3b50"
"""The providers of the system itself (winsvc.h); that of a device's arrival is its interface class."""

PORT_CLOSE_DELAY: Final = 60 * SECOND
"""How long after a port has been closed that is told."""

Data = str | bytes | tuple[str, ...]
"""A string, binary data, or a multistring."""
Protocol = Literal["TCP", "UDP"]


def guid(text: str) -> str:
    """A GUID as it is compared: lower case, with hyphens. Raises UserError if it is none."""
    try:
        return str(UUID(text))
    except ValueError:
        raise UserError(
            f"{text!r} is no GUID", expected="one such as 4d1e55b2-f16f-11cf-88cb-001111000030"
        ) from None


@attrs.frozen(eq=False)
class SystemEvent:
    """One event, the `number`-th of the machine. `time` in ns."""

    provider: str
    data: tuple[Data, ...]
    time: int
    number: int


Consumer = Callable[[SystemEvent], object]


class SystemEvents:
    """The events of one machine, and what is true around it. `written` counts them."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.written = 0
        self.addresses = 0
        self.in_domain = False
        self._devices: list[tuple[str, tuple[str, ...]]] = []
        self._ports: dict[tuple[int, Protocol], tuple[Data, ...]] = {}
        self._closing: dict[tuple[int, Protocol], Event] = {}
        self._consumers: dict[str, list[Consumer]] = {}
        self._trace = machine.tracer.emitter(EVENT)

    # -- providers and consumers -----------------------------------------------------------------------------

    def enable(self, provider: str, consumer: Consumer) -> None:
        """Tell a consumer of each event of a provider from now on."""
        self._consumers.setdefault(guid(provider), []).append(consumer)

    def write(self, provider: str, *data: Data) -> SystemEvent:
        """Something happens: record it, and tell those who want to know."""
        name = guid(provider)
        self.written += 1
        event = SystemEvent(name, data, self.machine.engine.now, self.written)
        if self._trace is not None:
            text = self.machine.tracer.text
            self._trace((event.time, EVENT.id, text(name), event.number, text(repr(data))))
        for consumer in self._consumers.get(name, ()):
            consumer(event)
        return event

    def present(self, provider: str) -> list[tuple[Data, ...]]:
        """The data of each event of a provider that is so now: a device that is there, a port that is open.
        Empty where nothing is, or where what happens does not last."""
        name = guid(provider)
        here = {
            FIRST_ADDRESS: self.addresses > 0,
            LAST_ADDRESS: self.addresses == 0,
            DOMAIN_JOIN: self.in_domain,
            DOMAIN_LEAVE: not self.in_domain,
        }
        if name in here:
            return [()] if here[name] else []
        if name == PORT_OPEN:
            return list(self._ports.values())
        return [identities for interface, identities in self._devices if interface == name]

    # -- what happens ----------------------------------------------------------------------------------------

    def device_arrives(self, interface: str, *identities: str) -> None:
        """A device is plugged in, with its interface class (a GUID), its hardware and its compatible IDs."""
        self._devices.append((guid(interface), identities))
        self.write(interface, *identities)

    def device_leaves(self, interface: str, *identities: str) -> None:
        """It is unplugged. There is no event for that."""
        self._devices.remove((guid(interface), identities))

    def address_comes(self) -> None:
        """The machine gets an IP address."""
        self.addresses += 1
        if self.addresses == 1:
            self.write(FIRST_ADDRESS)

    def address_goes(self) -> None:
        """It loses one."""
        if not self.addresses:
            raise UserError("an IP address goes", expected="one to be there")
        self.addresses -= 1
        if not self.addresses:
            self.write(LAST_ADDRESS)

    def domain_joined(self) -> None:
        """The machine joins a domain."""
        self.in_domain = True
        self.write(DOMAIN_JOIN)

    def domain_left(self) -> None:
        """The machine leaves its domain."""
        self.in_domain = False
        self.write(DOMAIN_LEAVE)

    def port_opens(
        self, port: int, protocol: Protocol, image: str = "System", user: str = "", *, rpc: bool = False
    ) -> None:
        """The firewall opens a port for an executable file ("System": the kernel) and a user or service.
        `rpc`: it is one that RPC uses."""
        if not 0 < port < 65536:
            raise UserError(f"port {port}", expected="1 to 65535")
        names = [str(port), *(["RPC"] if rpc else [])]
        self._ports[port, protocol] = data = tuple((name, protocol, image, user) for name in names)
        closing = self._closing.pop((port, protocol), None)
        if closing is not None:
            self.machine.engine.cancel(closing)
        self.write(PORT_OPEN, *data)

    def port_closes(self, port: int, protocol: Protocol) -> None:
        """The firewall closes a port. That is told `PORT_CLOSE_DELAY` later, if it has stayed closed."""
        data = self._ports.pop((port, protocol), None)
        if data is None:
            raise UserError(f"port {port}, {protocol} is closed", expected="one that is open")
        self._closing[port, protocol] = self.machine.engine.after(
            PORT_CLOSE_DELAY, self._closed, ((port, protocol), data)
        )

    def _closed(self, what: tuple[tuple[int, Protocol], tuple[Data, ...]]) -> None:
        port, data = what
        del self._closing[port]
        self.write(PORT_CLOSE, *data)

    def policy_changes(self, scope: Literal["machine", "user"]) -> None:
        """The policy of the machine, or of a user, has changed."""
        self.write(MACHINE_POLICY if scope == "machine" else USER_POLICY)

"""Triggers: what a service has itself started or stopped by, which events match, and how `sc` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import attrs

from ntlab.errors import UserError
from ntlab.machine import system_events as events
from ntlab.machine.system_events import Data, SystemEvent, guid

Action = Literal["start", "stop"]

TRIGGER_STARTED: Final = "TriggerStarted"
"""The argument of a service that was started by an event (SERVICE_TRIGGER_STARTED_ARGUMENT)."""

DEVICE: Final = 1
ADDRESS: Final = 2
DOMAIN: Final = 3
FIREWALL: Final = 4
POLICY: Final = 5
ENDPOINT: Final = 6
CUSTOM: Final = 20
"""Types (SERVICE_TRIGGER_TYPE_...)."""

RPC_INTERFACE: Final = "bc90d167-9470-4139-a9ba-be0bbbf5b74d"
NAMED_PIPE: Final = "1f81d131-3fac-4537-9e0c-7e7b0c2f4b55"

MOST_ITEMS: Final = 64


class _Type(NamedTuple):
    """`label` as `sc` prints it; `subtypes` and the text for each; None: any GUID, with one text for all."""

    label: str
    subtypes: dict[str, str] | None
    text: str = ""
    data: bool = True


TYPES: Final[dict[int, _Type]] = {
    DEVICE: _Type("DEVICE INTERFACE ARRIVAL", None, "INTERFACE CLASS GUID"),
    ADDRESS: _Type(
        "IP ADDRESS AVAILABILITY",
        {
            events.FIRST_ADDRESS: "FIRST IP ADDRESS AVAILABLE",
            events.LAST_ADDRESS: "LAST IP ADDRESS REMOVED",
        },
        data=False,
    ),
    DOMAIN: _Type(
        "DOMAIN JOINED STATUS",
        {events.DOMAIN_JOIN: "DOMAIN JOINED", events.DOMAIN_LEAVE: "NOT DOMAIN JOINED"},
        data=False,
    ),
    FIREWALL: _Type("FIREWALL PORT EVENT", {events.PORT_OPEN: "PORT OPEN", events.PORT_CLOSE: "PORT CLOSE"}),
    POLICY: _Type(
        "GROUP POLICY",
        {
            events.MACHINE_POLICY: "MACHINE POLICY PRESENT",
            events.USER_POLICY: "USER POLICY PRESENT",
        },
        data=False,
    ),
    ENDPOINT: _Type("NETWORK EVENT", {RPC_INTERFACE: "RPC INTERFACE EVENT", NAMED_PIPE: "NAMED PIPE EVENT"}),
    CUSTOM: _Type("CUSTOM", None, "ETW PROVIDER UUID"),
}


@attrs.frozen(kw_only=True)
class Trigger:
    """A trigger: its type, what it does, its subtype (a GUID), and the data of which one item must match.

    A string may be given as the bytes of a program: Unicode (UTF-16), with a zero at its end.
    """

    type: int
    action: Action = "start"
    subtype: str | None = None
    data: tuple[Data, ...] = ()

    @property
    def kind(self) -> _Type:
        """What its type is like."""
        return TYPES[self.type]

    @property
    def provider(self) -> str:
        """Whose events it is about."""
        return guid(self.subtype or "")

    @property
    def items(self) -> tuple[Data, ...]:
        """Its data, strings as such."""
        if self.type == CUSTOM:
            return self.data
        return tuple(_strings(item) if isinstance(item, bytes) else item for item in self.data)

    def check(self, where: str, *, endpoints: bool) -> None:
        """Raises UserError where it makes no sense. `endpoints`: whether network endpoints are known."""
        kind = TYPES.get(self.type)
        if kind is None:
            raise UserError(f"unknown type of trigger {self.type}", where=where, expected=_known(endpoints))
        if self.type == ENDPOINT and not endpoints:
            raise UserError(
                "triggers of type 6 (network endpoint) came with Windows 8 and Server 2012",
                where=where,
                expected=_known(endpoints),
            )
        if self.action not in ("start", "stop"):
            raise UserError(f"the action {self.action!r}", where=where, expected="'start' or 'stop'")
        if self.type == ENDPOINT and self.action == "stop":
            raise UserError("a network endpoint stops a service", where=where, expected="it to start one")
        if self.subtype is None:
            raise UserError(
                f"a trigger of type {self.type} without a subtype", where=where, expected="a GUID"
            )
        if kind.subtypes is not None and self.provider not in kind.subtypes:
            raise UserError(
                f"the subtype {self.provider} for a trigger of type {self.type}",
                where=where,
                expected="one of " + ", ".join(kind.subtypes),
            )
        if len(self.data) > MOST_ITEMS:
            raise UserError(f"{len(self.data)} data items", where=where, expected=f"{MOST_ITEMS} at most")
        if self.data and not kind.data:
            raise UserError(f"data for a trigger of type {self.type}", where=where, expected="none")
        if self.type == FIREWALL:
            if not self.data:
                raise UserError("a firewall port without data", where=where, expected="a port and a protocol")
            for item in self.items:
                parts = item if isinstance(item, tuple) else (item,)
                if len(parts) < 2 or parts[1] not in ("TCP", "UDP"):
                    raise UserError(
                        f"the firewall port {';'.join(map(str, parts))} without a protocol",
                        where=where,
                        expected="PORT, TCP or UDP, and perhaps a file and a user",
                    )
        else:
            _ = self.items  # strings must be Unicode

    def matches(self, event: SystemEvent) -> bool:
        """Whether an event is one of those that it waits for: of its provider, with one of its data items."""
        return event.provider == self.provider and self.accepts(event.data)

    def accepts(self, data: Sequence[Data]) -> bool:
        """Whether one of these data items is one of its own, or it has none."""
        wanted = self.items
        return not wanted or any(_same(item, other, self.type) for item in wanted for other in data)


def _same(item: Data, other: Data, kind: int) -> bool:
    if isinstance(item, bytes) or isinstance(other, bytes):
        return item == other
    if isinstance(item, str) and isinstance(other, str):
        return item.casefold() == other.casefold()
    if isinstance(item, str) or isinstance(other, str):
        return False
    if kind == FIREWALL:  # what it does not name may be any
        other = other[: len(item)]
        named = [(a, b) for a, b in zip(item, other, strict=False) if a]
        return len(other) == len(item) and all(a.casefold() == b.casefold() for a, b in named)
    return len(item) == len(other) and all(
        a.casefold() == b.casefold() for a, b in zip(item, other, strict=True)
    )


def _strings(raw: bytes) -> str | tuple[str, ...]:
    """A string, or a multistring, from the bytes of a program. Raises UserError if they are not Unicode."""
    try:
        text = raw.decode("utf-16-le")
    except UnicodeDecodeError:
        text = ""
    if not text.endswith("\0") or (len(raw) > 2 and not raw.count(0)):
        raise UserError(f"the string {raw!r} is not Unicode", expected="UTF-16 with a zero at its end")
    strings = text.rstrip("\0").split("\0")
    return tuple(strings) if text.endswith("\0\0") else strings[0]


def _known(endpoints: bool) -> str:
    return "one of " + ", ".join(str(each) for each in TYPES if each != ENDPOINT or endpoints)


def qtriggerinfo(name: str, triggers: Sequence[Trigger]) -> str:
    """What ``sc qtriggerinfo NAME`` prints."""
    lines = ["[SC] QueryServiceConfig2 SUCCESS", ""]
    if not triggers:
        return "\n".join(
            [*lines, f"The service {name} has not registered for any start or stop triggers.", ""]
        )
    lines += [f"SERVICE_NAME: {name}", ""]
    for trigger in triggers:
        kind = trigger.kind
        text = kind.text if kind.subtypes is None else kind.subtypes[trigger.provider]
        lines.append(f"        {trigger.action.upper()} SERVICE")
        lines.append(f"          {kind.label:29}: {trigger.provider} [{text}]")
        lines += [f"            {'DATA':27}: {_shown(item)}" for item in trigger.items]
    return "\n".join([*lines, ""])


def _shown(item: Data) -> str:
    if isinstance(item, bytes):
        return item.hex(" ").upper()
    return item if isinstance(item, str) else "".join(f"{part};" for part in item)

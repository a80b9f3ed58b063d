"""Event types and decoded records.

A record is held flat, as integers: time, event id, then the event's fields. An event's id is a hash of its
provider and name, so it is the same in every run whatever else is installed. Text is recorded by its hash
too (`Tracer.text`), and bytes by theirs (`Tracer.blob`).
"""

from __future__ import annotations

import hashlib

import attrs

from ntlab.errors import SimulationError


def stable_id(text: str | bytes) -> int:
    """A positive 63-bit number that is the same for the same text in every process."""
    data = text.encode() if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


@attrs.frozen(eq=False)
class EventType:
    """One kind of record: provider, name (task/opcode, as trace tools print it) and field names.

    A field name that ends in ``$`` holds text, one that ends in ``#`` holds bytes; all others integers.
    """

    provider: str
    name: str
    fields: tuple[str, ...]
    id: int


_types: dict[int, EventType] = {}


def event_type(provider: str, name: str, fields: str = "") -> EventType:
    """Declare an event type, once, at import. `fields` are separated by blanks.

    Declaring the same one twice gives the first; with other fields it is an error.
    """
    identity = stable_id(f"{provider}\x1f{name}")
    names = tuple(fields.split())
    known = _types.get(identity)
    if known is not None:
        if (known.provider, known.name, known.fields) != (provider, name, names):
            raise SimulationError(f"event {provider}/{name} is declared twice, with different fields")
        return known
    return _types.setdefault(identity, EventType(provider, name, names, identity))


def type_of(identity: int) -> EventType:
    """The event type with that id."""
    return _types[identity]


def known_types() -> list[EventType]:
    """All event types that have been declared, by provider and name."""
    return sorted(_types.values(), key=lambda event: (event.provider, event.name))


@attrs.frozen
class Record:
    """One decoded record. `time` in ns; `fields` by name, text and bytes resolved."""

    time: int
    provider: str
    name: str
    fields: dict[str, int | str | bytes]

    def __getitem__(self, field: str) -> int | str | bytes:
        return self.fields[field]

"""The tracer: collects records, hashes them, hands them on.

A mechanism asks once, at boot, for `emitter(event)`: a function that takes one tuple ``(time, id, *fields)``,
or None where that event is not traced. So tracing that is off costs one test of a local name. A record is
packed at once into 64-bit little-endian integers, which the garbage collector does not walk and the digest
takes as they are; the engine lets the tracer empty its buffer now and then.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from struct import Struct

from ntlab.tracing.records import EventType, Record, event_type, stable_id, type_of

Emitter = Callable[[tuple[int, ...]], None]
Sink = Callable[[array], None]  # type: ignore[type-arg]  # array is not generic at run time in 3.11


class Tracer:
    """Records of one run.

    `enabled` turns all of it on or off; `only` restricts it to some providers (by name). `keep` holds the
    records in memory for `records()`; without it they are hashed and dropped, so memory stays bounded.
    """

    def __init__(
        self, *, enabled: bool = True, only: Iterable[str] | None = None, keep: bool = False
    ) -> None:
        self.enabled = enabled
        self._only = None if only is None else frozenset(only)
        self._keep = keep
        self._buffer: list[bytes] = []
        self._kept: array[int] = array("q")
        self._sinks: list[Sink] = []
        self._hash = hashlib.sha256()
        self._texts: dict[int, str] = {}
        self._blobs: dict[int, bytes] = {}
        self._subscribers: dict[int, list[Callable[[tuple[int, ...]], None]]] = {}
        self._partition = ""  # what stands before the providers' names

    @property
    def keeps(self) -> bool:
        """Whether it holds the records in memory."""
        return self.enabled and self._keep

    def emitter(self, event: EventType) -> Emitter | None:
        """What to call with ``(time, event.id, *fields)``, or None where the event goes nowhere."""
        identity = self._own(event).id
        targets: list[Emitter] = list(self._subscribers.get(identity, []))
        packer = self.packer(event)
        if packer is not None:
            pack, append, _ = packer
            targets.insert(0, lambda record: append(pack(*record)))
        if not targets:
            return None
        if len(targets) == 1 and identity == event.id:
            return targets[0]

        def fan_out(record: tuple[int, ...]) -> None:
            own = (record[0], identity, *record[2:])
            for target in targets:
                target(own)

        return fan_out

    def packer(self, event: EventType) -> tuple[Callable[..., bytes], Callable[[bytes], None], int] | None:
        """The parts of recording, for the few places hot enough to put them together themselves.

        Called as ``append(pack(time, identity, *fields))``; None where the event is not recorded. Whoever
        uses them must leave an event that has subscribers to `emitter`: see `has_subscribers`.
        """
        if not self.enabled or (self._only is not None and event.provider not in self._only):
            return None
        return Struct(f"<{2 + len(event.fields)}q").pack, self._buffer.append, self._own(event).id

    def has_subscribers(self, event: EventType) -> bool:
        """Whether somebody wants the records of `event` as they come."""
        return bool(self._subscribers.get(self._own(event).id))

    def subscribe(self, event: EventType, action: Callable[[tuple[int, ...]], None]) -> None:
        """Call `action` with each record of `event`. Must come before the machine boots."""
        self._subscribers.setdefault(self._own(event).id, []).append(action)

    def of_partition(self, name: str) -> Tracer:
        """This tracer for the machine of a child partition: its providers are "NAME/PROVIDER" in the records.

        `only` goes by the name without that.
        """
        branch = copy(self)  # all that is recorded is in containers, which both share
        branch._partition = f"{name}/"
        return branch

    def _own(self, event: EventType) -> EventType:
        if not self._partition:
            return event
        return event_type(self._partition + event.provider, event.name, " ".join(event.fields))

    def add_sink(self, sink: Sink) -> None:
        """Give `sink` every batch of flat records, as an array of 64-bit integers."""
        self._sinks.append(sink)

    def text(self, text: str) -> int:
        """The number that stands for a text in a record."""
        identity = stable_id(text)
        self._texts[identity] = text
        return identity

    def blob(self, data: bytes) -> int:
        """The number that stands for bytes in a record."""
        identity = stable_id(data)
        self._blobs[identity] = data
        return identity

    def flush(self) -> None:
        """Hash and hand on what has been recorded so far."""
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._hash.update(data)
        if self._keep or self._sinks:
            batch = array("q")
            batch.frombytes(data)
            if sys.byteorder == "big":
                batch.byteswap()
            if self._keep:
                self._kept.extend(batch)
            for sink in self._sinks:
                sink(batch)

    def digest(self) -> str:
        """SHA-256 of all records so far, in hexadecimal. The same for the same run, anywhere."""
        self.flush()
        return self._hash.hexdigest()

    def records(self, *names: str) -> Iterator[Record]:
        """The kept records, decoded, oldest first. `names` restricts them to these event names."""
        self.flush()
        yield from self.decode(self._kept, names)

    def decode(self, flat: Sequence[int], names: Sequence[str] = ()) -> Iterator[Record]:
        """Decode flat records."""
        at, end = 0, len(flat)
        while at < end:
            event = type_of(flat[at + 1])
            stop = at + 2 + len(event.fields)
            if not names or event.name in names:
                fields: dict[str, int | str | bytes] = {}
                for name, value in zip(event.fields, flat[at + 2 : stop], strict=True):
                    if name.endswith("$"):
                        fields[name[:-1]] = self._texts[value]
                    elif name.endswith("#"):
                        fields[name[:-1]] = self._blobs[value]
                    else:
                        fields[name] = value
                yield Record(flat[at], event.provider, event.name, fields)
            at = stop

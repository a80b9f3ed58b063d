"""The tracer: collects flat records, hashes them, hands them on.

A mechanism asks once, at boot, for `emitter(event)`: a function that takes one tuple ``(time, id, *fields)``,
or None where that event is not traced. So tracing that is off costs one test of a local name. The emitter
is the ``extend`` of a flat list of integers, the cheapest record that CPython can make and one that the
garbage collector does not walk; the engine lets the tracer empty that list now and then.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy

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
        self._buffer: list[int] = []
        self._kept: array[int] = array("q")
        self._sinks: list[Sink] = []
        self._hash = hashlib.sha256()
        self._texts: dict[int, str] = {}
        self._blobs: dict[int, bytes] = {}
        self._subscribers: dict[int, list[Callable[[tuple[int, ...]], None]]] = {}
        self._partition = ""  # what stands before the providers' names

    def emitter(self, event: EventType) -> Emitter | None:
        """What to call with ``(time, event.id, *fields)``, or None where the event goes nowhere."""
        traced = self.enabled and (self._only is None or event.provider in self._only)
        identity = self._own(event).id
        subscribers = self._subscribers.get(identity, [])
        if self._partition and (traced or subscribers):
            emit = self._fan_out(traced, subscribers)
            return lambda record: emit((record[0], identity, *record[2:]))
        if not traced and not subscribers:
            return None
        return self._fan_out(traced, subscribers)

    def _fan_out(self, traced: bool, subscribers: list[Emitter]) -> Emitter:
        if not subscribers:
            return self._buffer.extend
        targets = ([self._buffer.extend] if traced else []) + subscribers

        def fan_out(record: tuple[int, ...]) -> None:
            for target in targets:
                target(record)

        return fan_out

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
        batch = array("q", self._buffer)
        self._buffer.clear()
        self._hash.update(batch.tobytes() if struct.pack("=h", 1) == b"\x01\x00" else _swapped(batch))
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


def _swapped(batch: array) -> bytes:  # type: ignore[type-arg]
    batch = batch[:]
    batch.byteswap()
    return batch.tobytes()

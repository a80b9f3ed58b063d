"""A recorder: ask a machine what happened on it.

    seen = Recorder(machine)
    assert len(seen("Thread/CSwitch", cpu=1)) == 3
    assert seen("Thread/End", tid="worker").one().time == 4 * MILLISECOND
    assert seen.run_time("worker") == 3 * MILLISECOND
    assert [s.thread for s in seen.stretches(processor=0)] == ["worker", "other"]

A name or a field that nothing records is an error, so a test cannot pass because of a slip of the pen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, overload

import attrs

from ntlab.errors import UnknownNameError, UserError
from ntlab.machine import Machine, Thread
from ntlab.machine.records import THREAD_END, THREAD_START
from ntlab.testing.lines import line_of
from ntlab.tracing import EventType, Record
from ntlab.tracing.records import known_types

SHOWN = 20
"""Records and stretches that a message shows."""


class Records(Sequence[Record]):
    """Some records, oldest first; printed, lines of text. `asked` says what they are the answer to."""

    def __init__(self, records: Iterable[Record], asked: str = "records") -> None:
        self._records = list(records)
        self.asked = asked

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self._records[index], self.asked)
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    @property
    def times(self) -> list[int]:
        """When each was, ns."""
        return [record.time for record in self._records]

    def values(self, field: str) -> list[Any]:
        """The value of a field in each. Raises UnknownNameError for one that a record has not."""
        for record in self._records:
            if field not in record.fields:
                raise UnknownNameError(f"field of {record.name}", field, record.fields)
        return [record[field] for record in self._records]

    def exactly(self, count: int) -> Records:
        """These records. Raises AssertionError, which shows them, where they are not so many."""
        if len(self) != count:
            raise AssertionError(f"expected {count}, found {self!r}")
        return self

    def one(self) -> Record:
        """The only record. Raises AssertionError, which shows what there is, where it is not the only one."""
        return self.exactly(1)[0]

    def __repr__(self) -> str:
        lines = [f"{len(self)} of {self.asked}"]
        lines += [f"  {line_of(record)}" for record in self._records[:SHOWN]]
        if len(self) > SHOWN:
            lines.append(f"  ... and {len(self) - SHOWN} more")
        return "\n".join(lines)


@attrs.frozen
class Stretch:
    """A thread was on a processor from `start` to `end` (ns)."""

    processor: int
    thread: str
    start: int
    end: int

    @property
    def duration(self) -> int:
        return self.end - self.start

    def __repr__(self) -> str:
        return f"cpu {self.processor}: {self.thread} {self.start}..{self.end}"


class Recorder:
    """What a machine has done so far. Its tracer must keep its records: `boot(..., trace=True)`."""

    def __init__(self, machine: Machine) -> None:
        if not machine.tracer.keeps:
            raise UserError(
                f"the tracer of {machine.name!r} keeps no records",
                expected="boot(..., trace=True), or Machine(..., tracer=Tracer(keep=True))",
            )
        self.machine = machine

    # -- records -------------------------------------------------------------------------------------------

    def __call__(
        self, name: str = "*", /, *, since: int = 0, until: int | None = None, **fields: Any
    ) -> Records:
        """The records of events called `name`, from `since` to `until` ns, whose fields have these values.

        `name` is an event's ("Thread/CSwitch"), with its provider or without, and may hold * and ?. A value
        may be a function that says whether it fits. Thread identifiers may be given as threads' names or
        threads. Raises UnknownNameError for a name that no event has, or a field that none of them has.
        """
        events = self._events(name)
        for field in fields:
            known = {key.rstrip("$#") for event in events for key in event.fields}
            if field not in known:
                raise UnknownNameError(f"field of {name}", field, known)
        tests = {field: self._test(field, value) for field, value in fields.items()}
        wanted = {(event.provider, event.name) for event in events}
        found = (
            record
            for record in self.machine.tracer.records(*sorted({event.name for event in events}))
            if (record.provider, record.name) in wanted
            and record.time >= since
            and (until is None or record.time <= until)
            and all(key in record.fields and test(record[key]) for key, test in tests.items())
        )
        conditions = [f"{field}={value!r}" for field, value in fields.items()]
        return Records(found, " ".join([name, *conditions]))

    def all(self) -> Iterator[Record]:
        """All records, those of child partitions too, decoded one by one."""
        return self.machine.tracer.records()

    def counts(self) -> dict[str, int]:
        """How many records of each event there are, by "PROVIDER/NAME"."""
        count = Counter(f"{record.provider}/{record.name}" for record in self())
        return dict(sorted(count.items()))

    def _events(self, name: str) -> list[EventType]:
        own = {event: plain for event in known_types() if (plain := self._name(event)) is not None}
        found = [e for e, plain in own.items() if fnmatchcase(e.name, name) or fnmatchcase(plain, name)]
        if not found:
            raise UnknownNameError("event", name, {event.name for event in own})
        return found

    def _name(self, event: EventType) -> str | None:
        """PROVIDER/NAME of an event of this machine; None for another's. A host and its guests share a
        tracer, in which a guest's providers begin with its name."""
        machine, name = self.machine, f"{event.provider}/{event.name}"
        if machine.partition is not None:
            mine = f"{machine.name}/"
            return name.removeprefix(mine) if name.startswith(mine) else None
        guests = tuple(f"{child.name}/" for child in machine.partitions.children)
        return None if name.startswith(guests) else name

    def _test(self, field: str, value: Any) -> Callable[[Any], bool]:
        if field.endswith("tid"):
            if isinstance(value, Thread):
                value = value.id
            elif isinstance(value, str):
                return self._ids(value).__contains__
        return value if callable(value) else lambda seen: bool(seen == value)

    # -- threads -------------------------------------------------------------------------------------------

    def run_time(self, thread: str | Thread) -> int:
        """How long a thread has been on processors, ns; of a name, all threads that had it."""
        if isinstance(thread, Thread):
            return self.machine.scheduler.run_time(thread)
        ids = self._ids(thread)
        living = sum(
            self.machine.scheduler.run_time(self.machine.threads[identity])
            for identity in ids
            if identity in self.machine.threads
        )
        ended: list[int] = self(THREAD_END.name, tid=ids.__contains__).values("run_time")
        return living + sum(ended)

    def stretches(self, processor: int | None = None, thread: str | None = None) -> list[Stretch]:
        """Who ran where and when, in the order of the beginnings: what a Gantt chart shows.

        Those of one processor or one thread, where these are given. Interrupt work counts as its thread's.
        """
        if thread is not None:
            self._ids(thread)
        from ntlab.lab.timeline import Timeline  # the laboratory takes long to import

        timeline = Timeline(self.machine)
        found = [
            Stretch(each.processor, timeline.names[each.thread], each.start, each.end)
            for each in timeline.stretches()
        ]
        return [
            stretch
            for stretch in found
            if processor in (None, stretch.processor) and thread in (None, stretch.thread)
        ]

    def chart(self, width: int = 72, *, since: int = 0, until: int | None = None) -> str:
        """The stretches as text, as `ntlab run --view schedule` draws them: a line a processor, a letter a
        thread, ``!`` for interrupt work, a dot where nothing ran for longer."""
        from ntlab.lab.timeline import Timeline, draw, threads_shown

        timeline = Timeline(self.machine)
        lines, letters = draw(timeline, width, since=since, until=until)
        legend = threads_shown(letters, lambda thread: [timeline.names[thread]])
        return "\n".join([*lines, *("  ".join(row) for row in legend)])

    def _names(self) -> dict[int, str]:
        return {int(record["tid"]): str(record["name"]) for record in self(THREAD_START.name)}

    def _ids(self, name: str) -> set[int]:
        names = self._names()
        if name not in names.values():
            raise UnknownNameError("thread", name, set(names.values()))
        return {identity for identity, known in names.items() if known == name}

    # -- counters ------------------------------------------------------------------------------------------

    def counter(self, name: str) -> float:
        """A performance counter by its Windows name. Raises UnknownNameError."""
        counters = self.machine.counters()
        if name not in counters:
            raise UnknownNameError("counter", name, counters)
        return counters[name]

    def counters(self, pattern: str = "*") -> dict[str, float]:
        """The performance counters whose names match a pattern with * and ?."""
        return {key: value for key, value in self.machine.counters().items() if fnmatchcase(key, pattern)}

    def __repr__(self) -> str:
        lines = [f"<Recorder of {self.machine.name} at {self.machine.engine.now} ns>"]
        lines += [f"  {count:>8}  {name}" for name, count in self.counts().items()]
        return "\n".join(lines)

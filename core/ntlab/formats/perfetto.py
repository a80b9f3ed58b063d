"""Traces for the Perfetto viewer: its protobuf format, as much of it as schedules need.

A trace is a sequence of packets. `TraceWriter` writes them as they come, so that a trace may be larger than
memory. What runs on processors is written as the kernel of Linux would record it (``sched_switch`` and
``sched_waking``), because from these the viewer draws its tracks of processors and of threads' states.
Everything else is on tracks of its own: slices, instants, counters, and flows from one to another.

Source: the public definitions of TracePacket, FtraceEvent, TrackDescriptor and TrackEvent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Final

SEQUENCE: Final = 1
"""All packets are of one sequence: they come from one writer."""
BUNDLE: Final = 256
"""Records of a processor that are written together."""

RUNNABLE, SLEEPING, DEAD, PARKED = 0, 1, 16, 64
"""The states in which a thread leaves its processor, as Linux numbers them."""

_PACKET: Final = 1  # of Trace
_FTRACE_EVENTS, _PROCESS_TREE, _TIMESTAMP, _SEQUENCE_ID, _TRACK_EVENT, _SEQUENCE_FLAGS, _TRACK_DESCRIPTOR = (
    1, 2, 8, 10, 11, 13, 60,
)  # fmt: skip
_CLEARED: Final = 1  # SEQ_INCREMENTAL_STATE_CLEARED
_SWITCH, _WAKING = 4, 20  # of FtraceEvent
_SLICE_BEGIN, _SLICE_END, _INSTANT, _COUNTER = 1, 2, 3, 4  # TrackEvent.Type


def varint(value: int) -> bytes:
    """A number as protobuf writes it; a negative one has ten bytes."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode("utf-8", "replace"))


def _fixed(field: int, values: Sequence[int]) -> bytes:
    return b"".join(varint(field << 3 | 1) + value.to_bytes(8, "little") for value in values)


class TraceWriter:
    """Writes one trace to an open binary file. Times are ns and may come in any order, but for each processor
    and each track in theirs. Tracks are numbers above 0 that the caller gives. `close` before the file is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._bundles: dict[int, list[bytes]] = {}
        self._packet(_number(_SEQUENCE_FLAGS, _CLEARED))

    def close(self) -> None:
        """Write what is left."""
        for processor in sorted(self._bundles):
            self._flush(processor)

    # -- what there is -------------------------------------------------------------------------------------

    def processes(
        self, processes: Sequence[tuple[int, str]], threads: Sequence[tuple[int, int, str]]
    ) -> None:
        """Processes (number, name) and threads (number, process, name)."""
        tree = [_bytes(1, _number(1, pid) + _text(3, name)) for pid, name in processes]
        tree += [_bytes(2, _number(1, tid) + _text(2, name) + _number(3, pid)) for tid, pid, name in threads]
        self._packet(_bytes(_PROCESS_TREE, b"".join(tree)))

    def track(self, track: int, name: str, parent: int = 0) -> None:
        """A track of slices and instants, perhaps below another one."""
        self._describe(_number(1, track) + _text(2, name) + (_number(5, parent) if parent else b""))

    def thread_track(self, track: int, tid: int, pid: int, name: str) -> None:
        """The track of a thread."""
        self._describe(_number(1, track) + _bytes(4, _number(1, pid) + _number(2, tid) + _text(5, name)))

    def counter_track(self, track: int, name: str, unit: str = "", parent: int = 0) -> None:
        """A track of a counter."""
        counter = _text(6, unit) if unit else b""
        above = _number(5, parent) if parent else b""
        self._describe(_number(1, track) + _text(2, name) + above + _bytes(8, counter))

    def _describe(self, descriptor: bytes) -> None:
        self._packet(_bytes(_TRACK_DESCRIPTOR, descriptor))

    # -- what happens --------------------------------------------------------------------------------------

    def switch(
        self, time: int, processor: int, old: tuple[int, str, int], state: int, new: tuple[int, str, int]
    ) -> None:
        """A processor goes from one thread to another: number, name and priority of each; 0 is idle.

        `state` is that in which the old one is left.
        """
        fields = [_text(1, old[1]), _number(2, old[0]), _number(3, old[2]), _number(4, state)]
        fields += [_text(5, new[1]), _number(6, new[0]), _number(7, new[2])]
        self._ftrace(time, processor, old[0], _bytes(_SWITCH, b"".join(fields)))

    def waking(
        self, time: int, processor: int, waker: int, thread: tuple[int, str, int], target: int
    ) -> None:
        """The thread `waker` (0: none) makes a thread ready, which shall run on the processor `target`."""
        fields = _text(1, thread[1]) + _number(2, thread[0]) + _number(3, thread[2])
        fields += _number(4, 1) + _number(5, target)
        self._ftrace(time, processor, waker, _bytes(_WAKING, fields))

    def begin(self, time: int, track: int, name: str, ends: Sequence[int] = ()) -> None:
        """A slice begins; the flows in `ends` end in it."""
        self._event(time, track, _SLICE_BEGIN, _text(23, name) + _fixed(48, ends))

    def end(self, time: int, track: int) -> None:
        """The slice of that track that began last is over."""
        self._event(time, track, _SLICE_END)

    def instant(self, time: int, track: int, name: str, flows: Sequence[int] = ()) -> None:
        """Something happens at once; the flows in `flows` begin here."""
        self._event(time, track, _INSTANT, _text(23, name) + _fixed(47, flows))

    def counter(self, time: int, track: int, value: int) -> None:
        """A counter has this value from now on."""
        self._event(time, track, _COUNTER, _number(30, value))

    def _event(self, time: int, track: int, kind: int, rest: bytes = b"") -> None:
        event = _number(9, kind) + _number(11, track) + rest
        self._packet(_number(_TIMESTAMP, time) + _bytes(_TRACK_EVENT, event))

    def _ftrace(self, time: int, processor: int, tid: int, event: bytes) -> None:
        bundle = self._bundles.setdefault(processor, [])
        bundle.append(_bytes(2, _number(1, time) + _number(2, tid) + event))
        if len(bundle) >= BUNDLE:
            self._flush(processor)

    def _flush(self, processor: int) -> None:
        bundle = self._bundles[processor]
        if bundle:
            self._packet(_bytes(_FTRACE_EVENTS, _number(1, processor) + b"".join(bundle)))
            bundle.clear()

    def _packet(self, content: bytes) -> None:
        self._file.write(_bytes(_PACKET, content + _number(_SEQUENCE_ID, SEQUENCE)))

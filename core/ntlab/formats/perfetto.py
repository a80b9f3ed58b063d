"""Traces for the Perfetto viewer: its protobuf format, as much of it as schedules need.

A trace is a sequence of packets. `TraceWriter` writes them as they come, so that a trace may be larger than
memory. What runs on processors is written as the kernel of Linux would record it (``sched_switch`` and
``sched_waking``), because from these the viewer draws its tracks of processors and of threads' states.
Everything else is on tracks of its own: slices, instants, counters, and flows from one to another.

Source: the public definitions of TracePacket, FtraceEvent, TrackDescriptor and TrackEvent; and the viewer,
which was built and looked at.
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
_KERNEL: Final = ("Linux", "6.1.0")
"""The kernel that numbers states so: the viewer takes one of 2015 where it is told of none."""
_NORMAL, _REAL_TIME = 120, 100
"""Linux' usual priority, and the lowest number that is not a real-time one. The least number is the best."""

_PACKET: Final = 1  # of Trace
_FTRACE_EVENTS, _PROCESS_TREE, _TIMESTAMP, _SEQUENCE_ID, _TRACK_EVENT, _SEQUENCE_FLAGS = 1, 2, 8, 10, 11, 13
_SYSTEM_INFO, _TRACK_DESCRIPTOR = 45, 60
_CLEARED: Final = 1  # SEQ_INCREMENTAL_STATE_CLEARED
_EXPLICIT: Final = 3  # TrackDescriptor.ChildTracksOrdering
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


def linux_priority(priority: int) -> int:
    """A priority of Windows (0 to 31) as one of Linux: 8 is the usual one, from 16 on they are real-time."""
    return _NORMAL + 8 - priority if priority < 16 else _REAL_TIME + 15 - priority


class TraceWriter:
    """Writes one trace to an open binary file. Times are ns and may come in any order, but for each processor
    and each track in theirs. Tracks are numbers above 0 that the caller gives. `close` before the file is.

    The viewer puts what happens on several processors at the same ns in any order. So what a thread does on
    a processor at the ns at which it did something on another one is written 1 ns later.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._bundles: dict[int, list[bytes]] = {}
        self._times: dict[int, int] = {}  # of what was last written of each processor
        self._seen: dict[int, tuple[int, int]] = {}  # when and where each thread did what was last written
        self._packet(_number(_SEQUENCE_FLAGS, _CLEARED))
        name, release = _KERNEL
        self._packet(_bytes(_SYSTEM_INFO, _bytes(1, _text(1, name) + _text(3, release))))

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

    def group(self, track: int, name: str) -> None:
        """A track of nothing, for others below it, which are shown in the order of their ranks."""
        self._describe(_number(1, track) + _text(2, name) + _number(11, _EXPLICIT))

    def track(self, track: int, name: str, parent: int, rank: int) -> None:
        """A track of slices and instants, below a group."""
        self._describe(_number(1, track) + _text(2, name) + _number(5, parent) + _number(12, rank))

    def thread_track(self, track: int, tid: int, pid: int, name: str) -> None:
        """The track of a thread."""
        self._describe(_number(1, track) + _bytes(4, _number(1, pid) + _number(2, tid) + _text(5, name)))

    def counter_track(self, track: int, name: str, unit: str, parent: int, rank: int) -> None:
        """A track of a counter, below a group."""
        counter = _text(6, unit) if unit else b""
        place = _number(5, parent) + _number(12, rank)
        self._describe(_number(1, track) + _text(2, name) + place + _bytes(8, counter))

    def _describe(self, descriptor: bytes) -> None:
        self._packet(_bytes(_TRACK_DESCRIPTOR, descriptor))

    # -- what happens --------------------------------------------------------------------------------------

    def switch(
        self, time: int, processor: int, old: tuple[int, str, int], state: int, new: tuple[int, str, int]
    ) -> None:
        """A processor goes from one thread to another: number, name and priority of each; 0 is idle.

        `state` is that in which the old one is left.
        """
        fields = [_text(1, old[1]), _number(2, old[0]), _number(3, linux_priority(old[2])), _number(4, state)]
        fields += [_text(5, new[1]), _number(6, new[0]), _number(7, linux_priority(new[2]))]
        time = self._after(time, processor, old[0], new[0])
        self._ftrace(time, processor, old[0], _bytes(_SWITCH, b"".join(fields)))

    def waking(self, time: int, processor: int, waker: int, thread: tuple[int, str, int]) -> None:
        """The thread `waker` (0: none) makes a thread ready, which shall run on that processor.

        It is among the records of that processor, so that it comes before the switch that follows from it.
        """
        fields = _text(1, thread[1]) + _number(2, thread[0]) + _number(3, linux_priority(thread[2]))
        fields += _number(4, 1) + _number(5, processor)
        self._ftrace(self._after(time, processor, thread[0]), processor, waker, _bytes(_WAKING, fields))

    def _after(self, time: int, processor: int, *threads: int) -> int:
        """The time to write for what threads do on a processor: `time`, or what keeps it in order."""
        time = max(time, self._times.get(processor, 0))
        threads = tuple(thread for thread in threads if thread)
        for thread in threads:
            last, where = self._seen.get(thread, (-1, 0))
            if last >= time:
                time = last + (where != processor)
        self._times[processor] = time
        self._seen.update(dict.fromkeys(threads, (time, processor)))
        return time

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

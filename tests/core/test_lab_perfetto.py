"""Perfetto traces, decoded by Perfetto's own definitions of its format."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

import ntlab
from ntlab import hookimpl, plugin
from ntlab.errors import UserError
from ntlab.formats.perfetto import BUNDLE, SLEEPING, TraceWriter, linux_priority, varint
from ntlab.lab.perfetto import write_trace
from ntlab.lab.timeline import Timeline
from ntlab.lab.watch import Watch
from ntlab.machine import Compute, Machine, Sleep, Thread
from ntlab.quantities import MILLISECOND as MS
from ntlab.testing import Faults, Recorder, boot, exercise, rules
from ntlab_ws2003 import Ws2003

definitions = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", exc_type=ImportError)
unknown_fields = pytest.importorskip("google.protobuf.unknown_fields").UnknownFieldSet


def decoded(data: bytes) -> list[Any]:
    """The packets. All of them must be what the definitions know."""
    trace = definitions.Trace()
    assert trace.ParseFromString(data) == len(data)
    for packet in trace.packet:
        nothing_unknown(packet)
        assert packet.trusted_packet_sequence_id == 1
    return list(trace.packet)


def nothing_unknown(message: Any) -> None:
    assert not len(unknown_fields(message)), message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                nothing_unknown(part)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)])
def test_numbers(value: int) -> None:
    event = definitions.TrackEvent()
    event.ParseFromString(b"\xf0\x01" + varint(value))
    assert event.counter_value == value


def test_every_packet() -> None:
    file = io.BytesIO()
    writer = TraceWriter(file)
    writer.processes([(4, "System")], [(8, 4, "größer")])
    writer.group(1, "above")
    writer.track(2, "below", 1, 5)
    writer.thread_track(3, 8, 4, "größer")
    writer.counter_track(4, "ready", "threads", 1, -1)
    writer.waking(0, 1, 0, (8, "größer", 9))
    for time in range(BUNDLE):
        writer.switch(time, 1, (0, "swapper/1", 0), 0, (8, "größer", 9))
    writer.begin(5, 2, "slice", [7, 1 << 63])
    writer.instant(6, 3, "now", [9])
    writer.end(7, 2)
    writer.counter(8, 4, -3)
    writer.close()
    packets = decoded(file.getvalue())
    assert packets[0].sequence_flags == definitions.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    utsname = packets[1].system_info.utsname
    assert (utsname.sysname, utsname.release) == ("Linux", "6.1.0")
    tree = packets[2].process_tree
    assert [(process.pid, list(process.cmdline)) for process in tree.processes] == [(4, ["System"])]
    assert [(thread.tid, thread.tgid, thread.name) for thread in tree.threads] == [(8, 4, "größer")]
    tracks = [packet.track_descriptor for packet in packets[3:7]]
    assert [(track.uuid, track.name, track.parent_uuid) for track in tracks] == [
        (1, "above", 0), (2, "below", 1), (3, "", 0), (4, "ready", 1)
    ]  # fmt: skip
    assert [(track.child_ordering, track.sibling_order_rank) for track in tracks] == [
        (3, 0), (0, 5), (0, 0), (0, -1)
    ]  # fmt: skip
    thread = tracks[2].thread
    assert (thread.pid, thread.tid, thread.thread_name) == (4, 8, "größer")
    assert tracks[3].counter.unit_name == "threads"
    bundles = [packet.ftrace_events for packet in packets if packet.HasField("ftrace_events")]
    assert [(bundle.cpu, len(bundle.event)) for bundle in bundles] == [(1, BUNDLE), (1, 1)]
    waking, switch = bundles[0].event[0].sched_waking, bundles[0].event[1].sched_switch
    assert (waking.comm, waking.pid, waking.prio, waking.target_cpu) == ("größer", 8, 119, 1)
    assert (switch.prev_comm, switch.prev_pid, switch.next_comm, switch.next_pid, switch.next_prio) == (
        "swapper/1", 0, "größer", 8, 119
    )  # fmt: skip
    events = [(packet.timestamp, packet.track_event) for packet in packets if packet.HasField("track_event")]
    assert [(time, event.type, event.track_uuid) for time, event in events] == [
        (5, 1, 2), (6, 3, 3), (7, 2, 2), (8, 4, 4)
    ]  # fmt: skip
    assert list(events[0][1].terminating_flow_ids) == [7, 1 << 63]
    assert list(events[1][1].flow_ids) == [9]
    assert events[3][1].counter_value == -3


def test_real_time_is_where_windows_has_it() -> None:
    normal, real_time = map(linux_priority, range(16)), map(linux_priority, range(16, 32))
    assert list(normal) == list(range(128, 112, -1))
    assert list(real_time) == list(range(99, 83, -1))


def test_what_a_thread_does_on_two_processors_at_once_is_put_in_order() -> None:
    file = io.BytesIO()
    writer = TraceWriter(file)
    idle, a, b = (0, "swapper", 0), (4, "a", 8), (8, "b", 8)
    writer.switch(10, 1, idle, 0, a)
    writer.switch(20, 1, a, 1, idle)
    writer.waking(20, 0, 0, a)  # who leaves processor 1 ...
    writer.switch(20, 0, idle, 0, a)  # ... runs on processor 0 at the same time
    writer.switch(20, 2, idle, 0, b)
    writer.switch(21, 0, a, 1, b)  # from processor 2, which it leaves later in the file
    writer.close()
    written = [
        (bundle.cpu, [event.timestamp for event in bundle.event])
        for bundle in (packet.ftrace_events for packet in decoded(file.getvalue()))
        if bundle.event
    ]
    assert written == [(0, [21, 21, 21]), (1, [10, 20]), (2, [20])]


def traced(processors: int, seed: int, *plugins: object) -> tuple[Machine, list[Any]]:
    watch = Watch()
    machine = boot(processors, [*plugins, watch], seed=seed, trace=True)
    exercise(machine, 5 * MS)
    machine.run()
    file = io.BytesIO()
    write_trace(machine, watch.log, file)
    return machine, decoded(file.getvalue())


MACHINES = pytest.mark.parametrize(
    ("processors", "seed", "queues"),
    [(1, 1, "shared"), (2, 2, "per_processor"), (8, 3, "shared")],
)


@MACHINES
def test_what_the_viewer_reads_of_processors_and_threads(processors: int, seed: int, queues: str) -> None:
    machine, packets = traced(processors, seed, rules(quantum=MS, ready_queues=queues))
    timeline = Timeline(machine)
    written: dict[int, list[Any]] = defaultdict(list)
    of_thread: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for packet in packets:
        cpu = packet.ftrace_events.cpu
        for event in packet.ftrace_events.event:
            if event.HasField("sched_switch"):
                written[cpu].append(event)
                switch = event.sched_switch
                left = "asleep" if switch.prev_state == SLEEPING else "off"
                of_thread[switch.prev_pid].append((event.timestamp, cpu, left))
                of_thread[switch.next_pid].append((event.timestamp, cpu, "on"))
            else:
                of_thread[event.sched_waking.pid].append((event.timestamp, cpu, "woken"))
    for cpu in range(processors):
        switches = [switch for switch in timeline.switches if switch.processor == cpu]
        for event, switch in zip(written[cpu], switches, strict=True):
            assert 0 <= event.timestamp - switch.time <= 8
            assert (event.sched_switch.prev_pid, event.sched_switch.next_pid) == (switch.old, switch.new)
            assert event.pid == switch.old
    may_follow = {"off": ("woken", "on"), "asleep": ("woken",), "woken": ("on",), "on": ("off", "asleep")}
    # In whatever order the viewer puts what processors do at the same time, each thread does one thing after
    # the other: it is woken, runs, and is woken when it has stopped.
    for tid in timeline.names:
        events = [*sorted(of_thread[tid], key=itemgetter(0)), (1 << 62, -1, "")]
        state = "off"
        for (time, cpu, what), then in pairwise(events):
            assert time < then[0] or cpu == then[1]
            assert what in may_follow[state]
            state = what
    seen = Recorder(machine)
    states = Counter(
        event.sched_switch.prev_state
        for packet in packets
        for event in packet.ftrace_events.event
        if event.HasField("sched_switch") and event.sched_switch.prev_pid
    )
    assert states[16] == len(seen("Thread/End"))
    assert states[1] >= 1


@MACHINES
def test_slices_flows_and_counters_fit_together(processors: int, seed: int, queues: str) -> None:
    faults = Faults(kinds=("interrupts", "dpcs"), until=20 * MS)
    machine, packets = traced(processors, seed, rules(quantum=MS, ready_queues=queues), faults)
    tracks = {packet.track_descriptor.uuid: packet.track_descriptor for packet in packets}
    times: dict[int, int] = defaultdict(int)
    depth: Counter[int] = Counter()
    begin: dict[int, int] = {}
    end: dict[int, int] = {}
    values: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for packet in packets:
        if not packet.HasField("track_event"):
            continue
        event, track = packet.track_event, packet.track_event.track_uuid
        assert track in tracks
        assert packet.timestamp >= times[track]
        times[track] = packet.timestamp
        depth[track] += {1: 1, 2: -1}.get(event.type, 0)
        assert depth[track] >= 0
        for flow in event.flow_ids:
            begin[flow] = packet.timestamp
        for flow in event.terminating_flow_ids:
            end[flow] = packet.timestamp
        if event.type == definitions.TrackEvent.TYPE_COUNTER:
            values[track].append((packet.timestamp, event.counter_value))
    assert not any(depth.values())
    assert begin == end
    assert len(begin) >= 10
    # What threads waited, the ready queues held: as Little's law has it, exactly.
    (group,) = (uuid for uuid, track in tracks.items() if track.name == "Ready queues")
    queues_of = {track.name: uuid for uuid, track in tracks.items() if track.parent_uuid == group}
    total = queues_of.pop("all")
    waited = sum(switch.waited for switch in Timeline(machine).switches if switch.new)
    steps = values[total]
    held = sum(value * (then[0] - at) for (at, value), then in pairwise(steps))
    assert held == waited > 0
    assert bool(queues_of) == (queues == "per_processor" and processors > 1)


@plugin(name="keeper", summary="Holds threads back at first.", release="ws2003")
class Keeper:
    @hookimpl
    def run_limit(self, thread: Thread) -> int | None:
        return 0 if thread.machine.engine.now < 7 * MS else None


def test_a_thread_that_is_held_back_after_it_was_woken() -> None:
    watch = Watch()
    machine = boot(1, [rules(quantum=MS), Keeper(), watch], trace=True)
    process = machine.create_process("p")
    thread = machine.create_thread(process, iter([Compute(MS), Sleep(MS), Compute(MS)]), name="t")
    machine.engine.at(7 * MS, lambda _: machine.scheduler.release(thread))
    machine.run()
    file = io.BytesIO()
    write_trace(machine, watch.log, file)
    events = [packet for packet in decoded(file.getvalue()) if packet.HasField("track_event")]
    begun = [(event.timestamp // MS, event.track_event.name) for event in events if event.track_event.name]
    assert begun == [(0, "ready, or held back"), (9, "ready")]
    ends = definitions.TrackEvent.TYPE_SLICE_END
    assert [event.timestamp // MS for event in events if event.track_event.type == ends] == [7, 9]


def test_clocks_idle_states_and_parking() -> None:
    watch = Watch()
    machine = boot(2, [Ws2003(power=True), watch], trace=True)
    power = machine.power
    assert power is not None
    machine.engine.at(5 * MS, lambda _: power.park(2))
    machine.engine.at(9 * MS, lambda _: power.park(0))
    exercise(machine, 5 * MS)
    machine.run(20 * MS)
    file = io.BytesIO()
    write_trace(machine, watch.log, file)
    packets = decoded(file.getvalue())
    tracks = {packet.track_descriptor.uuid: packet.track_descriptor for packet in packets}
    seen: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for packet in packets:
        if packet.track_event.type == definitions.TrackEvent.TYPE_COUNTER:
            track = tracks[packet.track_event.track_uuid]
            value = packet.timestamp // MS, packet.track_event.counter_value
            seen[tracks[track.parent_uuid].name, track.name].append(value)
    assert seen["Parked", "cpu 0"] == [(0, 0)]
    assert seen["Parked", "cpu 1"] == [(0, 0), (5, 1), (9, 0)]
    states = [int(record["state"]) for record in Recorder(machine)("IdleStateChange", core=0)]
    assert [value - 1 for _, value in seen["C-states", "core 0"]] == states
    assert -1 in states


@pytest.mark.usefixtures("toy")
def test_a_file_for_each_arm(tmp_path: Path) -> None:
    files = ntlab.perfetto("toy-turns", tmp_path / "x.pftrace")
    assert files == {arm: tmp_path / f"x.{arm}.pftrace" for arm in ("before", "after")}
    assert all(decoded(file.read_bytes()) for file in files.values())
    only = ntlab.perfetto("toy-turns", tmp_path / "y", "after")
    assert only == {"after": tmp_path / "y"}
    assert (tmp_path / "y").read_bytes() == files["after"].read_bytes()
    with pytest.raises(UserError, match=r"nowhere/x: cannot be written: No such file"):
        ntlab.perfetto("toy-turns", tmp_path / "nowhere" / "x", "after")


def test_a_restarted_machine_is_the_one_that_is_shown() -> None:
    watch = Watch()
    first = boot(1, [watch], trace=True)

    def crash(_: object) -> None:
        first.bug_check(0x7B)

    def program() -> Iterator[Any]:
        yield from ()

    first.create_thread(first.create_process("p"), program(), name="gone")
    first.engine.at(5 * MS, crash)
    first.run()
    second = first.restart(MS)
    exercise(second)
    second.run()
    file = io.BytesIO()
    write_trace(second, watch.log, file)
    packets = decoded(file.getvalue())
    names = {thread.name for packet in packets for thread in packet.process_tree.threads}
    assert names
    assert "gone" not in names
    assert min(event.timestamp for packet in packets for event in packet.ftrace_events.event) >= 6 * MS

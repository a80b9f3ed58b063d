"""Perfetto traces, decoded by Perfetto's own definitions of its format."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import ntlab
from ntlab.errors import UserError
from ntlab.formats.perfetto import BUNDLE, TraceWriter, varint
from ntlab.lab.perfetto import write_trace
from ntlab.lab.timeline import Timeline
from ntlab.lab.watch import Watch
from ntlab.machine import Machine
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
    writer.track(1, "above")
    writer.track(2, "below", 1)
    writer.thread_track(3, 8, 4, "größer")
    writer.counter_track(4, "ready", "threads", 1)
    writer.waking(10, 1, 0, (8, "größer", 9), 2)
    for time in range(BUNDLE):
        writer.switch(time, 1, (0, "swapper/1", 0), 0, (8, "größer", 9))
    writer.begin(5, 2, "slice", [7, 1 << 63])
    writer.instant(6, 3, "now", [9])
    writer.end(7, 2)
    writer.counter(8, 4, -3)
    writer.close()
    packets = decoded(file.getvalue())
    assert packets[0].sequence_flags == definitions.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    tree = packets[1].process_tree
    assert [(process.pid, list(process.cmdline)) for process in tree.processes] == [(4, ["System"])]
    assert [(thread.tid, thread.tgid, thread.name) for thread in tree.threads] == [(8, 4, "größer")]
    tracks = [packet.track_descriptor for packet in packets[2:6]]
    assert [(track.uuid, track.name, track.parent_uuid) for track in tracks] == [
        (1, "above", 0), (2, "below", 1), (3, "", 0), (4, "ready", 1)
    ]  # fmt: skip
    thread = tracks[2].thread
    assert (thread.pid, thread.tid, thread.thread_name) == (4, 8, "größer")
    assert tracks[3].counter.unit_name == "threads"
    bundles = [packet.ftrace_events for packet in packets if packet.HasField("ftrace_events")]
    assert [(bundle.cpu, len(bundle.event)) for bundle in bundles] == [(1, BUNDLE), (1, 1)]
    waking, switch = bundles[0].event[0].sched_waking, bundles[0].event[1].sched_switch
    assert (waking.comm, waking.pid, waking.prio, waking.target_cpu) == ("größer", 8, 9, 2)
    assert (switch.prev_comm, switch.prev_pid, switch.next_comm, switch.next_pid, switch.next_prio) == (
        "swapper/1", 0, "größer", 8, 9
    )  # fmt: skip
    events = [(packet.timestamp, packet.track_event) for packet in packets if packet.HasField("track_event")]
    assert [(time, event.type, event.track_uuid) for time, event in events] == [
        (5, 1, 2), (6, 3, 3), (7, 2, 2), (8, 4, 4)
    ]  # fmt: skip
    assert list(events[0][1].terminating_flow_ids) == [7, 1 << 63]
    assert list(events[1][1].flow_ids) == [9]
    assert events[3][1].counter_value == -3


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
    last: dict[int, int] = {}
    since: dict[int, int] = {}
    times: dict[int, int] = defaultdict(int)
    ran: Counter[int] = Counter()
    for packet in packets:
        cpu = packet.ftrace_events.cpu
        for event in packet.ftrace_events.event:
            assert event.timestamp >= times[cpu]
            times[cpu] = event.timestamp
            if event.HasField("sched_switch"):
                switch = event.sched_switch
                assert switch.prev_pid == last.get(cpu, 0) == event.pid
                ran[switch.prev_pid] += event.timestamp - since.get(cpu, 0)
                last[cpu], since[cpu] = switch.next_pid, event.timestamp
    seen = Recorder(machine)
    names = {thread.tid: thread.name for packet in packets for thread in packet.process_tree.threads}
    for tid, name in names.items():
        if list(names.values()).count(name) == 1:
            assert ran[tid] == seen.run_time(name)
    assert set(ran) <= {0, *names}
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
    (total,) = (uuid for uuid, track in tracks.items() if track.name == "ready threads")
    waited = sum(switch.waited for switch in Timeline(machine).switches if switch.new)
    steps = values[total]
    held = sum(value * (then[0] - at) for (at, value), then in pairwise(steps))
    assert held == waited > 0
    single = [values[uuid] for uuid, track in tracks.items() if track.name.startswith("ready queue")]
    assert bool(single) == (queues == "per_processor" and processors > 1)


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
    names = {packet.track_descriptor.uuid: packet.track_descriptor.name for packet in packets}
    seen: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for packet in packets:
        if packet.track_event.type == definitions.TrackEvent.TYPE_COUNTER:
            event = packet.track_event
            seen[names[event.track_uuid]].append((packet.timestamp // MS, event.counter_value))
    assert seen["parking of cpu 1"] == [(5, 1), (9, 0)]
    states = [record["state"] for record in Recorder(machine)("IdleStateChange", core=0)]
    assert [value for _, value in seen["idle state of core 0"]] == states
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

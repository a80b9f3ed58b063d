"""Golden traces: what the file holds, and what a person is told when the trace differs."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.machine import Machine
from ntlab.testing import Recorder, Records, boot, bursts, compare_golden
from ntlab.testing.golden import ACCEPT
from ntlab.testing.lines import line_of
from ntlab.tracing import Record


@pytest.fixture(autouse=True)
def _nothing_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ACCEPT, raising=False)


def ran(*work: int) -> Machine:
    """One thread after the other has done so much work, on one processor."""
    machine = boot(trace=True)
    process = machine.create_process("p")
    for number, ns in enumerate(work):
        machine.create_thread(process, bursts(ns), name=f"thread {number}")
    machine.run()
    return machine


def accept(subject: Machine | Records, path: Path, **options: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ACCEPT, "1")
        compare_golden(subject, path, **options)


def told(subject: Machine | Records, path: Path, **options: int) -> list[str]:
    with pytest.raises(AssertionError) as caught:
        compare_golden(subject, path, **options)
    return str(caught.value).splitlines()


def test_the_file_is_made_to_be_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.trace"
    assert told(ran(1000), path)[0].startswith(f"there is no golden trace {path} yet; to accept")
    accept(ran(1000), path)
    assert (
        path.read_text()
        == """\
# ntlab golden trace, form 1
# 2 NT Kernel Logger/Thread/CSwitch
# 1 NT Kernel Logger/Thread/End
# 1 NT Kernel Logger/Thread/Start
0 NT Kernel Logger/Thread/Start tid=12 pid=8 name="thread 0"
0 NT Kernel Logger/Thread/CSwitch cpu=0 new_tid=12 old_tid=0 new_priority=8 old_priority=0 \
old_state=0 old_wait_reason=0 new_ready_time=0
1000 NT Kernel Logger/Thread/End tid=12 run_time=1000
1000 NT Kernel Logger/Thread/CSwitch cpu=0 new_tid=0 old_tid=12 new_priority=0 old_priority=8 \
old_state=4 old_wait_reason=0 new_ready_time=1000
"""
    )
    compare_golden(ran(1000), path)


def test_what_differs_is_shown_with_what_is_around_it(tmp_path: Path) -> None:
    path = tmp_path / "t.trace"
    ends = Recorder(ran(5, 5, 5, 5, 5, 5, 5, 5))("Thread/End")
    accept(ends, path)
    assert told(Recorder(ran(5, 5, 5, 5, 5, 6, 5, 5))("Thread/End"), path, context=1) == [
        f"{path}: the trace differs from record 6 on (- golden, + now)",
        "    ...",
        "    25 NT Kernel Logger/Thread/End tid=28 run_time=5",
        "  - 30 NT Kernel Logger/Thread/End tid=32 run_time=5",
        "  - 35 NT Kernel Logger/Thread/End tid=36 run_time=5",
        "  - 40 NT Kernel Logger/Thread/End tid=40 run_time=5",
        "  + 31 NT Kernel Logger/Thread/End tid=32 run_time=6",
        "  + 36 NT Kernel Logger/Thread/End tid=36 run_time=5",
        "    ...",
        "each event occurs as often as before",
        "to accept what happens now: pytest --ntlab-accept, or NTLAB_ACCEPT=1; then read the change",
    ]


def test_one_record_more_is_one_line_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.trace"
    records = list(Recorder(ran(5, 5, 5))("Thread/End"))
    accept(Records(records), path)
    more = Record(7, "Mine", "Done", {"what": "x"})
    assert told(Records([records[0], more, *records[1:]]), path)[:-1] == [
        f"{path}: the trace differs from record 2 on (- golden, + now)",
        "    5 NT Kernel Logger/Thread/End tid=12 run_time=5",
        "  + 7 Mine/Done what=x",
        "    10 NT Kernel Logger/Thread/End tid=16 run_time=5",
        "    15 NT Kernel Logger/Thread/End tid=20 run_time=5",
        "events, golden -> now:",
        "  Mine/Done  0 -> 1",
    ]


def test_of_a_long_trace_the_rest_is_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "t.trace"
    machine = ran(*range(1, 501))
    accept(machine, path, limit=10)
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 3 + 10 + 1
    assert lines[-1].startswith("# and 1491 more records, sha256 ")
    compare_golden(machine, path, limit=10)
    other = told(ran(*range(1, 500), 501), path, limit=10)
    assert other[0] == f"{path}: the trace differs after record 10, beyond those written out"
    assert [line[:10] for line in other[1:3]] == ["  - # and ", "  + # and "]
    assert "each event occurs as often as before" in other
    assert "record 1 on" in told(Records([]), path, limit=10)[0]


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "t.trace"
    path.write_text("hello\n")
    assert (
        told(ran(1), path)[0]
        == f"{path} is no golden trace: its first line is not '# ntlab golden trace, form 1'"
    )
    accept(ran(1), path)
    compare_golden(ran(1), path)
    path.write_text(path.read_text().replace("# 2 NT", "# 3 NT"))
    assert "the same records, but other counts" in told(ran(1), path)[0]


@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.integers(0, 3), max_size=30),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_the_first_difference_is_the_first(
    tmp_path_factory: pytest.TempPathFactory, then: list[int], now: list[int], limit: int, context: int
) -> None:
    def records(values: list[int]) -> Records:
        return Records(Record(value, "P", "E", {}) for value in values)

    path = tmp_path_factory.mktemp("golden") / "t.trace"
    accept(records(then), path, limit=limit)
    if then == now:
        compare_golden(records(now), path, limit=limit)
        return
    first = next(
        (i for i, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), min(len(then), len(now))
    )
    lines = told(records(now), path, limit=limit, context=context)
    if first < limit:
        assert lines[0].endswith(f"the trace differs from record {first + 1} on (- golden, + now)")
        shown = next(line for line in lines if line[2] in "-+" and line[3] == " ")
        side = then if shown[2] == "-" else now
        assert shown[4:] == f"{side[first]} P/E"
    else:
        assert f"the trace differs after record {limit}" in lines[0]


def test_values_are_written_so_that_they_can_be_told_apart() -> None:
    record = Record(
        1, "P", "E", {"a": "plain", "b": "", "c": "two words", "d": "x=1\n", "e": b"\x01\x02", "f": bytes(99)}
    )
    digest = sha256(bytes(99)).hexdigest()[:16]
    assert line_of(record) == rf'1 P/E a=plain b="" c="two words" d="x=1\n" e=0x0102 f=99-bytes:{digest}'

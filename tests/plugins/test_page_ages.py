"""M5: the claims, that they fail without the mechanism, and page ages against rules that others wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntlab
from judging import failing
from ntlab.errors import UserError
from ntlab.formats.references import read_references
from ntlab.quantities import SECOND, Duration
from ntlab.testing import boot, conformance
from ntlab_page_ages import PageAges, replacement
from ntlab_page_ages.workloads import TRACES, Periods, References, entropy
from ntlab_ws2003 import Ws2003
from textbook import lru_misses

SHARED = Path(__file__).parents[3] / "shared" / "data"
RECORDED = SHARED / "references"
shared = pytest.mark.skipif(not RECORDED.is_dir(), reason="no shared data")
EXPERIMENTS = (
    "page-ages-mixed",
    "page-ages-short",
    "page-ages-scan",
    "page-ages-programs",
    "page-ages-trace",
    "page-ages-clock",
)

test_conformance = conformance("page_ages")


def measured(workload: Any, *, ageing: str = "timer", seed: int = 1, **options: Any) -> dict[str, float]:
    """What a workload measures on a small machine whose faults take no time."""
    free = {"demand_zero_fault": Duration(0), "transition_fault": Duration(0), "zeroing": Duration(0)}
    machine = boot(1, [Ws2003(ageing=ageing, **free), PageAges(**options)], seed=seed)
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}


LIMIT = 40_000


def recorded(name: str, frames: int, *, each: int = 0, **options: Any) -> dict[str, float]:
    """The beginning of a shared trace, looked at after each so many references, or on demand."""
    file, pace = str(RECORDED / f"{name}.trace.gz"), Duration(SECOND // each if each else 0)
    workload = References(trace=file, frames=frames, pace=pace, limit=LIMIT)
    return measured(workload, ageing="timer" if each else "demand", **options)


@cache
def pages_of(name: str) -> list[int]:
    return [page for page, _ in read_references(RECORDED / f"{name}.trace.gz")]


# -- claims -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "change", "fail"),
    [
        # Nobody looks: pages leave in the order in which they came, whatever their ages could be.
        (
            "page-ages-mixed",
            {"ws2003.ageing": "none"},
            {"page-ages-help", "page-ages-no-more-help", "page-ages-nearer-to-lru", "page-ages-tell-more"},
        ),
        ("page-ages-short", {"ws2003.ageing": "none"}, {"page-ages-one-bit-is-too-few"}),
        ("page-ages-scan", {"ws2003.ageing": "none"}, {"page-ages-hurt", "page-ages-hurt-up-to-lru"}),
        ("page-ages-programs", {"ws2003.ageing": "none"}, {"page-ages-whose", "page-ages-whose-lru"}),
        # With memory for all there is nothing to choose.
        ("page-ages-programs", {"workload.memory": 1.0}, {"page-ages-whose", "page-ages-whose-lru"}),
        (
            "page-ages-trace",
            {"ws2003.ageing": "none"},
            {"page-ages-trace-nearer-to-lru", "page-ages-trace-faults"},
        ),
        (
            "page-ages-clock",
            {"ws2003.ageing": "none"},
            {"page-ages-one-bit-is-clock", "page-ages-looks-double"},
        ),
        # They look too seldom: at each look all pages have been used, so more bits say no more.
        (
            "page-ages-trace",
            {"ws2003.balance_period": "100 s"},
            {"page-ages-trace-nearer-to-lru", "page-ages-trace-faults"},
        ),
        # A scan that comes round within three looks is no surprise to two bits.
        (
            "page-ages-scan",
            {"workload.periods": [1, 3], "workload.rounds": 30},
            {"page-ages-hurt", "page-ages-hurt-up-to-lru"},
        ),
        # All that comes leaves in the order in which it came: then two bits are as bad as eight.
        (
            "page-ages-scan",
            {"page_ages.ties": "arrival"},
            {"page-ages-hurt", "page-ages-hurt-up-to-lru"},
        ),
    ],
)
def test_without_what_it_is_about_a_claim_fails(
    experiment: str, change: dict[str, Any], fail: set[str]
) -> None:
    assert failing(experiment, change) == fail


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
@pytest.mark.parametrize(
    ("experiment", "hardware"),
    list(zip(EXPERIMENTS, ["96em64t-4n4d3ca2co-pci.xml", "256ia64-64n2s2c.xml"] * 3, strict=False)),
)
def test_on_other_machines(experiment: str, hardware: str) -> None:
    """Ages are of pages, not of nodes: the claims hold whatever the machine."""
    assert failing(experiment, hardware=str(SHARED / "hwloc" / hardware)) == set()


# -- against rules that others wrote ----------------------------------------------------------------------

traces = st.lists(st.integers(0, 9), min_size=1, max_size=60)
capacities = st.integers(1, 8)


@given(pages=traces, frames=capacities)
def test_textbook_rules_by_lists(pages: list[int], frames: int) -> None:
    held: list[int] = []
    belady = 0
    for place, page in enumerate(pages):
        if page not in held:
            belady += 1
            if len(held) == frames:
                later = pages[place:]
                held.remove(max(held, key=lambda one: later.index(one) if one in later else len(pages)))
            held.append(page)
    assert replacement.lru(pages, frames) == lru_misses(pages, frames)
    assert replacement.belady(pages, frames) == belady
    assert belady <= replacement.clock(pages, frames)


@given(pages=traces, frames=capacities, bits=st.integers(1, 3), ageing=st.sampled_from(["timer", "demand"]))
def test_nobody_beats_belady(pages: list[int], frames: int, bits: int, ageing: str) -> None:
    found = _small(pages, frames, ageing, bits)
    assert found["above_belady"] >= 0
    if (bits, ageing) == (1, "demand"):
        assert found["from_clock"] == 0


def _small(pages: Sequence[int], frames: int, ageing: str, bits: int) -> dict[str, float]:
    workload = _Listed(frames=frames, pace=Duration(SECOND // 4))
    workload.listed = pages
    return measured(workload, ageing=ageing, bits=bits)


class _Listed(References):
    """References from a list, not from a file."""

    listed: Sequence[int] = ()

    def start(self, machine: Any) -> None:
        from ntlab_page_ages.workloads import bounded

        self._pages = list(self.listed)
        region = bounded(machine, "p", 1 + max(self.listed), self.frames)
        self._space = region.space
        machine.create_thread(region.space.process, self._program(region, [False] * len(self.listed)))


@shared
@pytest.mark.parametrize(("frames", "faults"), [(50, 116433), (500, 29074), (2000, 8741)])
def test_the_golden_numbers_of_lru(frames: int, faults: int) -> None:
    assert replacement.lru(pages_of("sprite"), frames) == faults


@shared
def test_a_loop_that_does_not_fit_is_missed_by_everybody_but_belady() -> None:
    pages = pages_of("loop")[: 20 * 1011]
    assert replacement.lru(pages, 1010) == replacement.clock(pages, 1010) == len(pages)
    assert replacement.belady(pages, 1010) < len(pages) / 10
    for bits in (1, 2, 3):
        found = measured(
            References(trace=str(RECORDED / "loop.trace.gz"), frames=1010, limit=len(pages)),
            ageing="demand",
            bits=bits,
        )
        assert found["faults"] == len(pages)


def independent(rule: str, pages: Sequence[int], frames: int, **options: Any) -> int:
    """What libcachesim says that a rule misses."""
    library = pytest.importorskip("libcachesim", reason="libcachesim is not installed")
    cache = getattr(library, rule)(cache_size=frames, **options)
    following = [1 << 60] * len(pages)
    coming: dict[int, int] = {}
    for place in range(len(pages) - 1, -1, -1):
        following[place] = coming.get(pages[place], 1 << 60)
        coming[pages[place]] = place
    request = library.Request()
    request.obj_size = 1
    misses = 0
    for place, page in enumerate(pages):
        request.obj_id = page + 1
        request.clock_time = place
        request.next_access_vtime = following[place]
        misses += not cache.get(request)
    return misses


@shared
@pytest.mark.once
@pytest.mark.parametrize(("name", "frames"), [("cpp", 100), ("multi1", 400), ("sprite", 500)])
def test_textbook_rules_by_an_independent_library(name: str, frames: int) -> None:
    pages = pages_of(name)
    assert replacement.lru(pages, frames) == independent("LRU", pages, frames)
    assert replacement.belady(pages, frames) == independent("Belady", pages, frames)
    # Its Clock puts a page in with its bit clear by default; hardware has set it by the access that faulted.
    assert replacement.clock(pages, frames) == independent("Clock", pages, frames, init_freq=1)


@shared
@pytest.mark.once
@pytest.mark.parametrize(("name", "frames"), [("cpp", 100), ("multi1", 400), ("sprite", 500)])
def test_one_bit_on_demand_is_clock_on_recorded_traces(name: str, frames: int) -> None:
    found = recorded(name, frames, bits=1)
    pages = pages_of(name)[:LIMIT]
    assert found["faults"] == found["clock_faults"] == replacement.clock(pages, frames)
    assert found["faults"] == independent("Clock", pages, frames, init_freq=1)


@shared
@pytest.mark.parametrize(
    ("name", "frames", "each"), [("cpp", 100, 25), ("multi1", 2000, 500), ("sprite", 500, 125)]
)
def test_where_more_bits_help_on_recorded_traces(name: str, frames: int, each: int) -> None:
    """Looked at four times while memory is referenced once around, 3 bits are much nearer to LRU than 2."""
    two, three = (recorded(name, frames, each=each, bits=bits) for bits in (2, 3))
    assert three["faults"] < two["faults"]
    assert three["from_lru"] <= two["from_lru"] / 2
    assert three["above_belady"] > 0


@shared
def test_where_more_bits_do_nothing_on_a_recorded_trace() -> None:
    """Looked at seldom, no page that is kept is ever more than a look old."""
    faults = {recorded("multi1", 400, each=1600, bits=bits)["faults"] for bits in (1, 2, 3, 8)}
    assert len(faults) == 1


@shared
def test_where_more_bits_hurt_on_a_recorded_trace() -> None:
    """This one goes around in more pages than there are: LRU is the wrong model, and more bits follow it."""
    one, two, three = (recorded("multi1", 1000, each=250, bits=bits, ties="random") for bits in (1, 2, 3))
    assert one["faults"] < two["faults"] < three["faults"]
    assert three["from_lru"] < two["from_lru"] < one["from_lru"]


# -- workloads --------------------------------------------------------------------------------------------


def test_a_trace_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text(
        "==1== by hand\nI  00001000,4\n S 00009ffc,8\n L 00001000,8\n L 00001008,8\n L 7fff0000,8\n"
    )
    found = measured(References(trace=str(file), frames=2), ageing="demand")
    assert found["faults"] == 5  # pages 1 9 a 1 1 7fff0 in two frames
    assert found["hit_ratio"] == pytest.approx(1 / 6)
    assert measured(References(trace=str(file), frames=2, buffer=1), ageing="demand")["hit_ratio"] == 0
    assert measured(References(trace=str(file), frames=2, limit=3), ageing="demand")["faults"] == 3
    result = ntlab.run("page-ages-clock", set={"workload.trace": str(file), "workload.frames": 2})
    assert result.arms["one"].metrics["faults"].mean == 5


def test_the_trace_that_comes_with_the_plugin() -> None:
    pages = [page for page, _ in read_references(TRACES / "index.trace.gz")]
    assert (len(pages), len(set(pages)), min(pages), max(pages)) == (38156, 254, 0, 253)


def test_pages_come_round_by_their_periods() -> None:
    workload = Periods(pages=30, periods=(1, 4), weights=(1, 2), rounds=8, memory=1.0)
    found = measured(workload)
    assert found["faults"] == 30
    assert found["refaults"] == 0
    assert found["hit_ratio"] == pytest.approx(1 - 30 / (8 * 10 + 2 * 20))


def test_each_period_a_program() -> None:
    """Two programs, of 10 and 20 pages, take turns; all fit, and what is compared is what was touched."""
    workload = Periods(processes="each", pages=30, periods=(1, 4, 9), weights=(1, 2, 0), rounds=8, memory=1.0)
    machine = boot(1, [Ws2003(ageing="timer")], seed=1, trace=True)
    workload.start(machine)
    assert machine.memory.available == 30
    machine.run()
    found = {metric.name: metric.value for metric in workload.measure(machine)}
    assert (found["faults"], found["lru_faults"], found["belady_faults"]) == (30, 30, 30)
    assert found["hit_ratio"] == pytest.approx(1 - 30 / (8 * 10 + 2 * 20))
    assert sorted(p.name for p in machine.processes.values() if p.id != 4) == ["period1.exe", "period4.exe"]
    records = list(machine.tracer.records("PageFault/DemandZeroFault"))
    assert {record.time // (SECOND // 3) % 3 for record in records} == {1, 2}


def test_the_view_of_ages() -> None:
    """Two pages are used in each round, six in every other one: none is ever older than 1."""
    few = {"workload.periods": [1, 2], "workload.weights": [1, 3], "workload.pages": 8, "workload.rounds": 9}
    all_fit = few | {"workload.memory": 1.0}
    view = ntlab.view("page-ages-mixed", "ages", arm="after", set=all_fit)["after"].splitlines()
    assert view[:2] == ["pages of each age, before a round", "round     0     1"]
    rows = [[int(number) for number in row.replace("-", "0").split()] for row in view[2:]]
    assert [row[0] for row in rows] == list(range(2, 10))
    assert all(fresh + older == 8 and fresh >= 2 for _, fresh, older in rows[1:])
    assert all(row[1] + before[1] == 10 for before, row in pairwise(rows[1:]))  # 2 + 2, and 6 by turns
    never = ntlab.view("page-ages-mixed", "ages", arm="before", set=all_fit | {"ws2003.ageing": "none"})
    assert never["before"] == "no page has ages, or nobody has looked\n"


def test_entropy() -> None:
    assert entropy([5, 0, 5, 0]) == 1
    assert entropy([2, 2, 2, 2]) == 2
    assert entropy([7, 0]) == entropy([]) == 0


# -- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_ages_have_1_to_8_bits(bits: int) -> None:
    with pytest.raises(ValueError, match="out of range; expected 1 to 8"):
        PageAges(bits=bits)
    with pytest.raises(UserError, match=r"page_ages\.bits"):
        ntlab.run("page-ages-clock", set={"page_ages.bits": bits})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"trace": "idnex"},
            r"workload\.trace: there is no trace 'idnex'; expected a file, or one of: index",
        ),
        ({"trace": __file__}, r"test_page_ages\.py, line 1: .*expected a page number"),
        ({"trace": str(Path(__file__).parent)}, "cannot be read: Is a directory"),
        ({"frames": 0}, "0 is out of range; expected at least 1"),
    ],
)
def test_traces_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        measured(References(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"periods": (1, 2)}, r"workload\.periods: .*as many weights as periods"),
        ({"periods": (), "weights": ()}, r"workload\.periods"),
        ({"periods": (0,), "weights": (1,)}, r"workload\.periods: .*1 or more"),
        ({"periods": (1,), "weights": (0,)}, r"workload\.weights: .*one above"),
        ({"periods": (1, 2), "weights": (1, -1)}, r"workload\.weights: .*none below 0"),
        ({"pages": 1 << 40}, "cannot be committed; expected a machine with more memory"),
        (
            {"pages": 300_000, "processes": "each", "memory": 1.0},
            "300000 pages of memory; expected a machine",
        ),
    ],
)
def test_periods_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measured(Periods(**change))


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    import sys

    file = tmp_path / "bad"
    file.write_text("1\n2\nthree\n")
    done = subprocess.run(
        [sys.executable, "-m", "ntlab", "run", "page-ages-clock", "--set", f'workload.trace="{file}"'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "line 3: 'three'; expected a page number" in done.stderr

"""N7: the table of precedence, exactly; wishes that cannot be met; two writers, two readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from judging import failing, options
from ntlab.errors import UserError
from ntlab.machine import Allocate, Machine, Touch
from ntlab.quantities import Rate
from ntlab.testing import boot, conformance
from ntlab.topology import Tables, load
from ntlab_numa_apis import NumaApis
from ntlab_numa_apis.workloads import ROWS, Precedence, Row, Streams
from ntlab_numa_home import NumaHome
from ntlab_ws2003 import Ws2003

HWLOC = Path(__file__).parents[3] / "shared" / "data" / "hwloc"


def live(workload: Any, tables: Tables, *plugins: object) -> tuple[dict[str, float], Machine]:
    machine = boot(plugins=[Ws2003(), *plugins], tables=tables, trace=True)
    workload.start(machine)
    machine.run()
    machine.check()
    assert not machine.threads
    return {metric.name: metric.value for metric in workload.measure(machine)}, machine


test_conformance = conformance("numa_apis")


def test_the_table_is_exact() -> None:
    """Which rule fires for each combination, and where the pages are: when they come, and come again."""
    workload = Precedence(pages=8)
    _, machine = live(workload, load("opteron-4s").freeze(), NumaHome(), NumaApis())
    rules = {
        Row(view=False, object=False, away=False): ("thread", -1, 0),
        Row(view=False, object=False, away=True): ("thread", -1, 0),
        Row(view=False, object=True, away=False): ("object", 2, 2),
        Row(view=False, object=True, away=True): ("object", 2, 2),
        Row(view=True, object=False, away=False): ("view", 1, 1),
        Row(view=True, object=False, away=True): ("view", 1, 1),
        Row(view=True, object=True, away=False): ("view", 1, 1),
        Row(view=True, object=True, away=True): ("view", 1, 1),
    }
    assert set(rules) == set(ROWS)
    fired: dict[int, set[tuple[str, int]]] = {}
    faults: dict[int, int] = {}
    for record in machine.tracer.records("Preference"):
        found = str(record["rule"]), int(record["node"])
        fired.setdefault(int(record["tid"]), set()).add(found)
        faults[int(record["tid"])] = faults.get(int(record["tid"]), 0) + 1
    threads = sorted(fired)
    assert len(threads) == 8
    for row, thread in zip(ROWS, threads, strict=True):
        rule, wish, node = rules[row]
        assert fired[thread] == {(rule, wish)}
        assert faults[thread] == 2  # asked when the pages come, and when they come back
        assert workload._objects[row].region.pages_by_node() == {node: 8}


def test_a_full_node_is_passed_over() -> None:
    """A preference is no guarantee: the call succeeds, and the nearest node that has pages gives them."""
    tables = load("opteron-4s").freeze()
    machine = boot(plugins=[Ws2003(), NumaHome(noise=0), NumaApis()], tables=tables)
    process = machine.create_process("p")
    space = machine.memory.space(process)
    full = space.allocate(machine.memory.nodes[3].installed - 5)
    assert full is not None
    machine.memory.populate(full, 3, dirty=True)
    kept = []

    def program() -> Any:
        region = yield Allocate(12, 3)
        kept.append(region)
        yield Touch(region, write=True, accesses=0)

    machine.create_thread(process, program())
    machine.run()
    assert kept[0].pages_by_node() == {3: 5, tables.nearest[3][1]: 7}


@pytest.mark.parametrize(
    ("change", "fail"),
    [
        ({"by_view": False}, {"numa-precedence-table", "numa-precedence-again", "numa-precedence-last"}),
        ({"by_object": False}, {"numa-precedence-table", "numa-precedence-again", "numa-precedence-last"}),
        ({"by_allocation": False}, set()),
    ],
)
def test_each_call_carries_its_share_of_the_table(change: dict[str, bool], fail: set[str]) -> None:
    assert failing("numa-precedence", options("numa_apis", change)) - {"numa-precedence-each"} == fail


@pytest.mark.parametrize(
    ("setting", "value", "fail"),
    [
        ("numa_apis.by_allocation", False, {"writers-order", "readers-order", "streams-undisturbed"}),
        ("workload.write", False, {"writers-order", "writers-together", "streams-undisturbed"}),
        ("workload.rate", "400 MB/s", {"writers-order", "writers-together"}),  # room for two writers
    ],
)
def test_what_each_of_two_streams_rests_on(setting: str, value: Any, fail: set[str]) -> None:
    """On memory elsewhere; on lines that are moved twice when written; on what memory gives."""
    assert failing("numa-two-writers", {setting: value}) == {f"numa-two-{name}" for name in fail}


@pytest.mark.skipif(not HWLOC.is_dir(), reason="the real descriptions are not here")
@pytest.mark.parametrize("file", sorted(HWLOC.glob("*.xml")), ids=lambda file: file.stem)
def test_it_runs_on_real_machines(file: Path) -> None:
    tables = load(str(file)).freeze()
    table, _ = live(Precedence(), tables, NumaHome(), NumaApis())
    assert table["as_documented"] == table["as_documented_again"] == 1
    plain, _ = live(Precedence(), tables)
    assert (plain["as_documented"] < 1) == (tables.nodes > 1)
    last = tables.nodes - 1
    together, _ = live(Streams(rate=Rate(5_000_000_000)), tables, NumaHome(), NumaApis())
    apart, _ = live(Streams(rate=Rate(5_000_000_000), second=last), tables, NumaHome(), NumaApis())
    assert (apart["line"] < together["line"]) == (tables.nodes > 1)


def test_mistakes_are_named() -> None:
    tables = load("opteron-4s").freeze()
    with pytest.raises(UserError, match=r"the preferred node 4; expected 0 to 3"):
        live(Streams(second=4), tables, NumaHome(), NumaApis())
    with pytest.raises(UserError, match="memory is full"):
        live(Streams(pages=1 << 30), tables)
    with pytest.raises(UserError, match="more than one node"):
        live(Streams(pages=2_000_000), tables)
    with pytest.raises(UserError, match="commit limit"):
        live(Precedence(pages=1 << 30), tables)

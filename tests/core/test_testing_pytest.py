"""The pytest plugin, as an author's test run sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ntlab
from ntlab.errors import UnknownNameError
from ntlab.lab.registry import installed
from ntlab.plugin import plugin
from ntlab.testing import Faults
from ntlab.testing.golden import ACCEPT

pytest_plugins = ["pytester"]

MACHINE = """
from ntlab.testing import bursts

def test_one(machine, recorder, golden):
    small = machine(2)
    process = small.create_process("p")
    for number in range(WORK):
        small.create_thread(process, bursts(1000), name=f"t{number}")
    small.run()
    assert recorder(small).run_time("t0") == 1000
    golden(recorder(small)("Thread/End"))
"""


@pytest.fixture(autouse=True)
def _nothing_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ACCEPT, raising=False)


def failed(result: pytest.RunResult) -> str:
    """What a run printed whose only test failed."""
    result.assert_outcomes(failed=1)
    return result.stdout.str()


def test_golden_traces_from_the_first_to_the_next(pytester: pytest.Pytester) -> None:
    file = pytester.makepyfile(test_mine=MACHINE.replace("WORK", "1"))
    trace = pytester.path / "golden" / "test_mine" / "test_one.trace"
    assert "there is no golden trace" in failed(pytester.runpytest("-p", "no:cacheprovider"))
    pytester.runpytest("--ntlab-accept").assert_outcomes(passed=1)
    assert trace.read_text().endswith("1000 NT Kernel Logger/Thread/End tid=12 run_time=1000\n")
    assert ACCEPT not in os.environ
    pytester.runpytest().assert_outcomes(passed=1)
    file.write_text(MACHINE.replace("WORK", "2"))
    told = failed(pytester.runpytest())
    assert "+ 1000 NT Kernel Logger/Thread/End tid=16 run_time=1000" in told
    assert "NT Kernel Logger/Thread/End  1 -> 2" in told
    pytester.runpytest("--ntlab-accept").assert_outcomes(passed=1)
    pytester.runpytest().assert_outcomes(passed=1)


def test_each_comparison_of_a_test_has_a_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("case", ["a/b"])
        def test_two(case, machine, golden):
            small = machine()
            golden(small)
            golden(small, name="again")
            with pytest.raises(ValueError, match="a name of its own"):
                golden(small, name="again")
        """
    )
    pytester.runpytest("--ntlab-accept").assert_outcomes(passed=1)
    files = (pytester.path / "golden").rglob("*.trace")
    assert sorted(file.name for file in files) == ["test_two-a-b-again.trace", "test_two-a-b.trace"]


def test_a_failed_test_shows_what_happened_last(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from ntlab.testing import bursts

        def test_one(machine):
            small = machine()
            small.create_thread(small.create_process("p"), bursts(*[1000] * 50), name="worker")
            small.run(10_000)
            assert small.threads == {}

        def test_two(machine):
            machine(trace=False)
            assert False

        def test_three():
            assert False
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=3)
    told = result.stdout.str()
    assert told.count("ntlab: last") == 1
    assert "ntlab: last 2 records of 'machine' at 10000 ns" in told
    assert "0 NT Kernel Logger/Thread/Start tid=12 pid=8 name=worker" in told


def test_a_machine_whose_accounts_are_wrong_fails_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_one(machine):
            machine().memory.committed += 1

        def test_two(machine):
            machine().memory.committed += 1
            assert False  # is enough of a message
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, failed=1, errors=1)
    assert "memory is inconsistent: commit charge" in result.stdout.str()


def test_others_do_not_pay_for_it(pytester: pytest.Pytester) -> None:
    # A session without ntlab's fixtures imports ntlab's pytest plugin, and nothing of ntlab.
    pytester.makepyfile(
        """
        import sys

        def test_one():
            assert "ntlab_pytest" in sys.modules
            assert not [name for name in sys.modules if name.partition(".")[0] == "ntlab"]
        """
    )
    pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_ntlab_testing_is_imported_without_pytest_and_costs_little() -> None:
    code = "import sys; from ntlab.testing import boot, Recorder, compare_golden, Faults; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pytest", "_pytest", "networkx.drawing", "ntlab.lab", "rich"} & set(ran.stdout.split())
    code = "import sys, ntlab.testing; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pytest", "pluggy", "ntlab.machine", "ntlab.hooks"} & set(ran.stdout.split())


# -- what is installed --------------------------------------------------------------------------------------

Use = Callable[..., None]
TOY = Path(__file__).parents[1] / "toy"


@plugin(name="mine", summary="A class in a test.", release="ws2008")
class Mine:
    pass


def test_installed_only(installed_only: Use) -> None:
    everything = installed().names()
    installed_only("ws2003", Mine, Faults, TOY)
    names = installed().names()
    assert {"faults", "mine", "toy_base", "ws2003"} < set(names)
    assert "fair_share" not in names
    assert installed().plugin("mine").info.cls is Mine
    installed_only(Mine)
    assert installed().names() == ["mine"]
    installed_only()
    assert installed().names() == []
    installed_only("fair_share")
    assert installed().names() == ["fair_share"]
    with pytest.raises(UnknownNameError, match="unknown plugin 'ws2030'"):
        installed_only("ws2030")
    assert "fair_share" in everything


def test_what_was_installed_is_there_again_afterwards() -> None:
    # After the test above, in whatever order: each leaves things as they were.
    assert {"fair_share", "ws2003"} <= set(installed().names())
    assert "mine" not in installed().names()


def test_faults_in_an_experiment(installed_only: Use, tmp_path: Path) -> None:
    installed_only("ws2003", "fair_share", Faults)
    file = tmp_path / "mine.toml"
    file.write_text(
        """
        name = "mine"
        hardware = "uni"
        duration = "200 ms"
        seeds = 1
        workload = {use = "fair_share.sessions"}
        [plugins.ws2003]
        [arms.calm]
        [arms.disturbed.plugins.faults]
        kinds = ["interrupts"]
        interval = "500 us"
        """
    )
    counters = {run.arm: run.counters for run in ntlab.run(file).runs}
    interrupts = r"Processor(_Total)\Interrupts/sec"
    assert counters["calm"][interrupts] == 0
    assert 1700 < counters["disturbed"][interrupts] < 2300

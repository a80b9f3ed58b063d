"""Sweeps on the toy plugins: the grid, the store, going on after a kill, the same results anywhere."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import ntlab
from distributions import environment
from ntlab.cli.main import main
from ntlab.errors import UserError
from ntlab.lab import sweep as sweep_module
from ntlab.lab import workers
from ntlab.lab.api import Interrupted
from ntlab.lab.runner import Run
from ntlab.lab.sweep import Sweep, parse_axis

pytestmark = pytest.mark.usefixtures("toy")

OVER = {"workload.threads": [1, 2, 4], "hardware": ["uni", "smp-4"]}
RESULT = ("workload.threads", "hardware", "arm", "seed", "switches", "last_end", "digest")


def rows(found: Sweep) -> list[tuple[Any, ...]]:
    columns = found.columns()
    return list(zip(*(columns[name] for name in RESULT), strict=True))


def in_file(folder: Path) -> list[tuple[Any, ...]]:
    """What another program reads in the store."""
    names = ", ".join(f'"{name}"' for name in RESULT)
    with contextlib.closing(sqlite3.connect(folder / "toy-turns.sweep.sqlite")) as base:
        return base.execute(f"SELECT {names} FROM results ORDER BY 1, 2, 3, 4").fetchall()


def counting(monkeypatch: pytest.MonkeyPatch, limit: int | None = None) -> list[Run]:
    """The runs that sweeps make from now on; after `limit` of them comes Ctrl-C."""
    made: list[Run] = []

    def execute(*asked: Any) -> Iterator[Run]:
        for run in workers.execute(*asked):
            made.append(run)
            yield run
            if len(made) == limit:
                raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, "execute", execute)
    return made


def test_every_point_is_the_experiment_run_there() -> None:
    found = ntlab.sweep("toy-turns", OVER, seeds=2)
    assert len(rows(found)) == found.runs == 3 * 2 * 2 * 2
    for threads in OVER["workload.threads"]:
        for hardware in OVER["hardware"]:
            there = ntlab.run("toy-turns", hardware=hardware, set={"workload.threads": threads}, seeds=2)
            runs = sorted(there.runs, key=lambda run: (run.arm, run.seed))
            measured = [(run.metrics["switches"], run.metrics["last_end"]) for run in runs]
            expected = [
                (threads, hardware, run.arm, run.seed, *values, run.digest)
                for run, values in zip(runs, measured, strict=True)
            ]
            assert [row for row in rows(found) if row[:2] == (threads, hardware)] == expected


def test_results_are_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    kept = []
    for jobs in (1, 2, 3):
        found = ntlab.sweep("toy-turns", OVER, seeds=2, jobs=jobs, out=tmp_path / str(jobs))
        kept.append((rows(found), in_file(tmp_path / str(jobs)), found.to_json()["points"]))
    assert kept[0] == kept[1] == kept[2]
    assert sorted(kept[0][0]) == kept[0][1]
    assert [file.name for file in (tmp_path / "2").iterdir()] == ["toy-turns.sweep.sqlite"]


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows(ntlab.sweep("toy-turns", OVER, seeds=2))
    with monkeypatch.context() as patched:
        counting(patched, limit=5)
        with pytest.raises(Interrupted) as caught:
            ntlab.sweep("toy-turns", OVER, seeds=2, out=tmp_path)
    assert (caught.value.finished, caught.value.file) == (5, tmp_path / "toy-turns.sweep.sqlite")
    assert len(in_file(tmp_path)) == 5
    made = counting(monkeypatch)
    again = ntlab.sweep("toy-turns", OVER, seeds=2, out=tmp_path)
    assert len(made) == len(whole) - 5
    assert rows(again) == whole


def test_a_larger_grid_takes_over_what_a_smaller_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ntlab.sweep("toy-turns", {"workload.threads": [1, 2]}, seeds=2, out=tmp_path)
    made = counting(monkeypatch)
    found = ntlab.sweep("toy-turns", {"workload.threads": [1, 2, 3]}, seeds=3, out=tmp_path)
    assert len(made) == 3 * 2 * 3 - 2 * 2 * 2
    assert found.runs == 18
    smaller = ntlab.sweep("toy-turns", {"workload.threads": [2]}, seeds=1, out=tmp_path)
    assert len(made) == 10
    assert smaller.runs == 2


def test_a_run_that_several_points_share_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counting(monkeypatch)
    found = ntlab.sweep("toy-turns", {"after.toy_short.quantum": ["2 ms", "6 ms", "9 ms"]}, seeds=2)
    assert len(made) == (1 + 3) * 2  # the arm before knows nothing of the option
    assert found.runs == 3 * 2 * 2


def test_the_store_says_what_each_run_is_made_of(tmp_path: Path) -> None:
    ntlab.sweep("toy-turns", {"workload.threads": [2]}, seeds=1, out=tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "toy-turns.sweep.sqlite")) as base:
        (content, profile), _ = base.execute(
            "SELECT definitions.content, profiles.content FROM results "
            "JOIN definitions USING (definition) JOIN profiles USING (profile) ORDER BY arm"
        ).fetchall()
    made_of = json.loads(content)
    assert made_of["workload"]["threads"] == 2
    assert [name for name, _ in made_of["plugins"]] == ["toy_short", "toy_base"]
    assert made_of["versions"]["ntlab"] == ntlab.__version__
    assert 'name = "uni"' in profile


def test_who_reads_the_store_hinders_nobody(tmp_path: Path) -> None:
    axis = {"workload.threads": [1, 2]}
    ntlab.sweep("toy-turns", {"workload.threads": [1]}, seeds=1, out=tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "toy-turns.sweep.sqlite")) as reader:
        reader.execute("PRAGMA journal_mode = WAL")
        reading = reader.execute("SELECT count(*) FROM results, results AS others")
        assert ntlab.sweep("toy-turns", axis, seeds=1, out=tmp_path).runs == 4
        assert reading.fetchone() == (4,)
    assert len(in_file(tmp_path)) == 4
    gc.collect()  # the results of the sweep above are readers, too
    ntlab.sweep("toy-turns", axis, seeds=1, out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["toy-turns.sweep.sqlite"]


def test_another_definition_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axis = {"workload.threads": [2]}
    ntlab.sweep("toy-turns", axis, seeds=1, out=tmp_path)
    made = counting(monkeypatch)
    changed = ntlab.sweep("toy-turns", axis, set={"workload.work": "1 ms"}, seeds=1, out=tmp_path)
    assert len(made) == 2
    assert max(changed.columns()["last_end"]) <= 2_000_000
    ntlab.sweep("toy-turns", axis, seeds=1, out=tmp_path)
    assert len(made) == 2


def test_what_is_measured_may_be_called_as_a_column_is(tmp_path: Path) -> None:
    store = sweep_module.Store(tmp_path / "one.sqlite")
    store.define("d", "{}", "p", "")
    store.place({"a.b": [1]}, "only", "uni", "d")
    metrics = {"time": 1.0, "Time": 2.0, "seed": 3.0, 'x"y': 4.0}
    store.add(Run(experiment="d", arm="only", seed=1, digest="", time=7, events=8, metrics=metrics,
                  units=dict.fromkeys(metrics, "1"), counters={r"A(_Total)\B/sec": 5.0}))  # fmt: skip
    found = store.columns([{"a.b": [1]}], 1)
    assert found["time"] == [7]
    assert found["a.b"] == ["[1]"]
    assert {value for (value,) in found.values() if isinstance(value, float)} == {1.0, 2.0, 3.0, 4.0, 5.0}
    (time,) = found[store.measures["time"].column]
    assert time == 1.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--over", "workload.threads=1"], "--out: a sweep keeps its runs in a folder; expected --out DIR"),
        (["--out", "OUT"], "--over: there is no axis; expected KEY=VALUE,VALUE,..."),
        (["--over", "workload.threads", "--out", "OUT"], "--over: 'workload.threads' is no axis; expected "),
        (["--over", "workload.threads=1,1", "--out", "OUT"], "--over: workload.threads: 1 is there twice"),
        (["--over", "workload.treads=1", "--out", "OUT"], "did you mean 'threads'?"),
        (["--over", "workload.threads=1,0", "--out", "OUT"], "0 is out of range"),
        (["--over", "hardware=uni,nothing", "--out", "OUT"], "unknown hardware 'nothing'"),
        (["--over", "workload.threads=1", "--seeds", "0", "--out", "OUT"], "--seeds: 0 seeds"),
        (["--over", "workload.threads=1", "--jobs", "0", "--out", "OUT"], "--jobs: 0 jobs; expected at"),
        (["--over", "workload.threads=1", "--jobs", "1", "--cluster", "x", "--out", "OUT"], "--jobs: has no"),
        (["--over", "workload.threads=1", "--metric", "swtches", "--out", "OUT"], "did you mean 'switches'?"),
    ],
)  # fmt: skip
def test_mistakes(
    arguments: Sequence[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = [str(tmp_path) if word == "OUT" else word for word in arguments]
    jobs = [] if "--jobs" in placed else ["--jobs", "1"]
    assert main(["sweep", "toy-turns", *placed, *jobs]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert told in captured.err


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "toy-turns.sweep.sqlite"
    file.write_text("precious")
    with pytest.raises(UserError, match=r"toy-turns\.sweep\.sqlite: cannot be used: file is not a database"):
        ntlab.sweep("toy-turns", {"workload.threads": [1]}, out=tmp_path)
    assert file.read_text() == "precious"
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as base:
        base.execute("CREATE TABLE mine (x)")
    with pytest.raises(UserError, match=r"toy-turns\.sweep\.sqlite: is no store of ntlab's"):
        ntlab.sweep("toy-turns", {"workload.threads": [1]}, out=tmp_path)


def test_the_command_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "toy-turns", "--over", "workload.threads=1,3", "--jobs", "1", "--out", str(tmp_path)]
    assert main([*command, "--metric", "switches"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["workload.threads", "arm", "switches"]
    points = [(threads, arm) for threads in ("1", "3") for arm in ("before", "after")]
    assert [tuple(line.split()[:2]) for line in lines[3:7]] == points
    assert lines[-1] == f"12 runs are in {tmp_path / 'toy-turns.sweep.sqlite'}."
    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["over"] == {"workload.threads": [1, 3]}
    assert content["points"][0]["measured"]["switches"]["n"] == 3


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("a.b=1,2", ("a.b", [1, 2])),
        ("a.b = 64 KiB, 1 MiB", ("a.b", ["64 KiB", "1 MiB"])),
        ("a.b=[1, 2],[3]", ("a.b", [[1, 2], [3]])),
        ("hardware=uni,my machine.toml", ("hardware", ["uni", "my machine.toml"])),
        ('a.b="x,y",true', ("a.b", ["x,y", True])),
    ],
)
def test_axes_are_written_as_settings_are(text: str, axis: tuple[str, list[Any]]) -> None:
    assert parse_axis(text) == axis


# -- other processes -----------------------------------------------------------------------------------------


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = ["sweep", "toy-turns", "--over", "workload.threads=1,2,3,4", "--seeds", "10"]
    return subprocess.Popen(
        [sys.executable, "-m", "ntlab", *command, "--out", str(folder), *more],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


WITHOUT_NTLAB = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ntlab":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Missing())
sys.argv[0] = "dask"
runpy.run_module("dask", run_name="__main__")
"""


def finished(folder: Path) -> int:
    try:
        return len(in_file(folder))
    except sqlite3.Error:  # not there yet
        return 0


@pytest.mark.once
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no telling which are the workers")
@pytest.mark.parametrize("victim", ["runner", "worker", "interrupted"])
def test_whoever_is_killed_no_finished_run_is_lost(victim: str, tmp_path: Path) -> None:
    command = (tmp_path, "--jobs", "2", "--set", "workload.pause=0.05")
    process = started(*command)
    while process.poll() is None and finished(tmp_path) < 8:
        time.sleep(0.02)
    before = finished(tmp_path)
    if victim == "interrupted":
        os.killpg(process.pid, signal.SIGINT)
    elif victim == "runner":
        process.kill()
    else:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        spawned = [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
        os.kill(int(spawned[0]), signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    expected = {"runner": -signal.SIGKILL, "worker": 2, "interrupted": 130}
    assert process.returncode == expected[victim]
    assert "Traceback" not in error
    kept = finished(tmp_path)
    assert before <= kept < 80
    if victim == "interrupted":
        file = tmp_path / "toy-turns.sweep.sqlite"
        assert error == f"ntlab: interrupted; finished runs: {kept}, kept in {file}\n"
    with contextlib.closing(sqlite3.connect(tmp_path / "toy-turns.sweep.sqlite")) as base:
        base.execute("UPDATE runs SET events = -1")  # a mark on what need not be made again
        base.commit()
    assert started(*command).wait(timeout=120) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "toy-turns.sweep.sqlite")) as base:
        counts = base.execute("SELECT events = -1, count(*) FROM results GROUP BY 1 ORDER BY 1").fetchall()
    assert counts == [(0, 80 - kept), (1, kept)]


@pytest.mark.once
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask is not installed")
def test_a_dask_cluster_gives_the_same_to_the_bit(tmp_path: Path) -> None:
    address_file = tmp_path / "scheduler.json"
    bare = tmp_path / "bare.py"
    bare.write_text(WITHOUT_NTLAB)
    quiet: dict[str, Any] = {"env": environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    place = ["--scheduler-file", str(address_file), "--no-dashboard"]
    dask = [sys.executable, "-m", "dask"]
    cluster = [subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *place], **quiet)]

    def worker(name: str, dask: list[str], *options: str) -> subprocess.Popen[bytes]:
        common = [*place, "--nthreads", "1", "--local-directory", str(tmp_path / name)]
        cluster.append(subprocess.Popen([*dask, "worker", *common, *options], **quiet))
        return cluster[-1]

    try:
        worker("two", dask, "--nworkers", "2")
        without = worker("without", [sys.executable, str(bare)], "--no-nanny")
        while not address_file.exists():
            assert all(process.poll() is None for process in cluster)
            time.sleep(0.1)
        address = json.loads(address_file.read_text())["address"]
        client = f"from distributed import Client; client = Client({address!r}, timeout='60s')"
        wait = f"{client}; client.wait_for_workers(3, timeout=60)"
        subprocess.run([sys.executable, "-c", wait], check=True, timeout=120)
        _, error = started(tmp_path / "there", "--cluster", address).communicate(timeout=120)
        assert re.search(r"the worker tcp://\S+ cannot tell its versions: .*ntlab", error), error
        without.terminate()
        without.wait(timeout=30)
        process = started(tmp_path / "there", "--cluster", address)
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert "80 runs are in" in out
    finally:
        for process in cluster:
            process.terminate()
        for process in cluster:
            process.wait(timeout=30)
    here = started(tmp_path / "here", "--jobs", "2")
    assert here.wait(timeout=120) == 0
    assert in_file(tmp_path / "there") == in_file(tmp_path / "here")
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        ntlab.sweep("toy-turns", OVER, cluster=address)

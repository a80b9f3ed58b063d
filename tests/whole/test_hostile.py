"""Hostile plugins: each is told by name, with its hook and a way out, and no result comes of it.

They are met as a user would meet them: another distribution that is installed, and `ntlab run`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

import ntlab
from distributions import TOY, environment, write_distribution
from ntlab.cli.main import main
from ntlab.engine import loop
from ntlab.errors import PluginError
from ntlab.hooks import Mode, contract_of, specifications
from ntlab.lab import prints, registry, runner
from ntlab.machine import scheduler
from ntlab.testing import Faults, boot

Install = Callable[..., None]
Captured = pytest.CaptureFixture[str]

HEAD = """
import random
from ntlab import hookimpl, option, plugin
from ntlab.machine import Compute

@plugin(name="hostile", summary="Does what it must not.", release="ws2008r2")
class Hostile:
    @hookimpl
"""

EXPERIMENT = """
name = "hostile"
hardware = "smp-4"
seeds = 1
workload = { use = "toy_base.runners", threads = 5 }
plugins = { toy_base = {}, hostile = {} }
arms = { only = {} }
"""

TICKS = """
    def machine_booted(self, machine):
        machine.engine.after(5_000_000, self.tick, machine)

    def tick(self, machine):
"""


@attrs.frozen
class Kind:
    """What a hostile plugin does, and what is told: of which hook, in which words, in which modes.

    `silent` in the mode "direct": nothing goes wrong there, and to look for it would cost every run.
    """

    code: str
    hook: str
    told: str
    silent: bool = False
    restored: str = ""
    """What of ntlab it changes."""


KINDS = {
    "raises": Kind(
        "def thread_ready(self): 1 / 0",
        "thread_ready",
        r"ZeroDivisionError: division by zero \(ntlab_hostile.py, line \d+\)",
    ),
    "leaves the process": Kind(
        "def thread_ready(self): raise SystemExit(3)", "thread_ready", "SystemExit: 3"
    ),
    "wrong type": Kind(
        "def choose_processor(self): return '0'",
        "choose_processor",
        r"answered '0'; expected int \| None \(one of the idle processors\); return None to leave",
    ),
    "no such processor": Kind(
        "def choose_processor(self): return 7", "choose_processor", "answered 7; expected .*one of the idle"
    ),
    "never None": Kind(
        "def choose_busy_processor(self): return False",
        "choose_busy_processor",
        "answered False; .*return None to leave the decision to others",
        silent=True,
    ),
    "answers where it is told": Kind(
        "def thread_ready(self): return 1",
        "thread_ready",
        "answered 1; expected None: it is only told",
        silent=True,
    ),
    "wrapper that never yields": Kind(
        "def choose_processor(self):\n        if False: yield\n        return 0\n"
        "    choose_processor.ntlab_impl['wrapper'] = True",
        "choose_processor",
        "must yield once|did not yield",
    ),
    "random": Kind(
        "def context_switched(self): random.random()",
        "context_switched",
        r"module-level random.*expected machine.streams.stream",
        silent=True,
    ),
    "random in an event": Kind(
        f"{TICKS}        random.random()",
        "",
        r"module-level random.*expected machine.streams.stream",
        silent=True,
    ),
    "another's stream": Kind(
        "def thread_ready(self, thread): thread.machine.streams.stream('toy_base.runners').random()",
        "thread_ready",
        r"draws from the random stream of 'toy_base.runners'; expected one of its own: "
        r"machine.streams.stream\('hostile'",
        silent=True,
    ),
    "a thread's priority": Kind(
        "def context_switched(self, new):\n        if new: new.priority = 3",
        "context_switched",
        r"leaves the machine inconsistent; .*as by scheduler.set_priority: priority 3 runs on",
        silent=True,
    ),
    "an impossible priority": Kind(
        "def context_switched(self, new):\n        if new: new.priority = 99",
        "context_switched",
        r"leaves the machine inconsistent; .*as by scheduler.set_priority",
    ),
    "the scheduler's mask": Kind(
        f"{TICKS}        machine.scheduler.idle_mask = 0xFF",
        "",
        "the idle processors are 0xe, the scheduler's mask 0xff",
        silent=True,
    ),
    "the hardware": Kind(
        "def machine_booted(self, machine): machine.tables.speed = (1, 2)",
        "machine_booted",
        "FrozenInstanceError: cannot assign to field 'speed'",
    ),
    "a method of ntlab": Kind(
        "def machine_booted(self, machine): type(machine.scheduler)._lowest_running = self.machine_booted",
        "machine_booted",
        "changes ntlab itself: ntlab.machine.scheduler.Scheduler._lowest_running is .*by hooks",
        silent=True,
        restored="ntlab.machine.scheduler:Scheduler._lowest_running",
    ),
    "a method of ntlab, when imported": Kind(
        "def machine_booted(self): pass\n\nfrom ntlab.machine.scheduler import Scheduler\n"
        "Scheduler.run_time = lambda self, thread: 0",
        "",
        "has changed ntlab itself: ntlab.machine.scheduler.Scheduler.run_time is .*by hooks",
        silent=True,
        restored="ntlab.machine.scheduler:Scheduler.run_time",
    ),
    "a constant of ntlab": Kind(
        "def thread_exited(self):\n        import ntlab.machine.scheduler as it\n"
        "        it.STEPS_AT_ONE_INSTANT = 5",
        "thread_exited",
        "changes ntlab itself: ntlab.machine.scheduler.STEPS_AT_ONE_INSTANT is 5 now; .*by hooks",
        silent=True,
        restored="ntlab.machine.scheduler:STEPS_AT_ONE_INSTANT",
    ),
    "in the past": Kind(
        "def thread_exited(self, thread): thread.machine.engine.at(0, print)",
        "thread_exited",
        "event scheduled at 0 ns, in the past of [0-9]+ ns; expected now or later",
    ),
    "a negative delay": Kind(
        f"{TICKS}        machine.engine.after(-1, print)",
        "",
        "in the past of 5000000 ns; expected now or later",
    ),
    "returns a negative delay": Kind(
        f"{TICKS}        return -5",
        "",
        "Hostile.tick returned -5; expected None, or the ns until it happens again",
    ),
    "half a nanosecond": Kind(
        "def machine_booted(self, machine): machine.engine.after(0.5, [].append)",
        "machine_booted",
        "event scheduled at 0.5 ns; expected a whole number",
        silent=True,
    ),
    "half a nanosecond, for ever": Kind(
        "def machine_booted(self, machine): machine.engine.after(0.5, len, ())",
        "machine_booted",
        "event scheduled at 0.5 ns; expected a whole number",
    ),
    "a list that all machines share": Kind(
        "def thread_exited(self, thread): self.seen.append(thread)\n    seen: list = []",
        "",
        r"its field 'seen' has the default \[\], which all machines would share; .* a state\(list\)",
    ),
    "a rule that is no whole number": Kind(
        "def scheduler_policy(self):\n        from ntlab.machine import SchedulerPolicy\n"
        "        return SchedulerPolicy(quantum=1.5)",
        "scheduler_policy",
        "TypeError: quantum must be a whole number, not 1.5",
    ),
    "for ever at one instant": Kind(
        f"{TICKS}        return 0",
        "",
        "events happened at 5000000 ns, and time does not go on: "
        "ntlab_hostile.Hostile.tick is called next; .*1 ns or more",
    ),
    "a program without end": Kind(
        "def machine_booted(self, machine):\n"
        "        machine.create_thread(machine.create_process('x'), self.go())\n\n"
        "    def go(self):\n        while True: yield Compute(0)",
        "",
        "the program of <Thread .* it loops for ever",
    ),
    "an option that it has not": Kind(
        "def machine_booted(self): return self.quantun\n    quantum: int = option(default=1, help='A turn.')",
        "machine_booted",
        "AttributeError: .*unknown option 'quantun'; .*did you mean 'quantum'",
    ),
    "a newer hook": Kind(
        "def choose_cache(self, thread): pass",
        "choose_cache",
        r"unknown hook 'choose_cache'.*install that one, or mark the method @hookimpl\(optionalhook=True\)"
        rf" \(this is ntlab {ntlab.__version__}; it requires ntlab>=9\)",
    ),
    "a newer argument": Kind(
        "def choose_processor(self, thread, cache): pass",
        "choose_processor",
        "unknown argument 'cache'.*install that one.*it requires ntlab>=9",
    ),
    "registers itself again": Kind(
        "def machine_booted(self, machine): machine.manager.register(self)",
        "",
        "cannot be registered after boot: the hooks are bound; one with nothing to say answers None",
    ),
}


def install(folder: Path, use: Install, code: str, *beside: Path) -> str:
    """Install a hostile plugin, and what is in the folders `beside`. Returns an experiment that uses it."""
    content = HEAD + "\n".join(
        f"    {line}" if at == 0 else line for at, line in enumerate(code.strip().splitlines())
    )
    write_distribution(
        folder,
        "ntlab-hostile",
        plugins={"hostile": "ntlab_hostile:Hostile"},
        modules={"ntlab_hostile.py": content},
    )
    described = folder / "ntlab_hostile-1.0.dist-info" / "METADATA"
    described.write_text(described.read_text().strip() + "\nRequires-Dist: ntlab>=9\nRequires-Dist: attrs\n")
    use(TOY, folder, *beside)
    file = folder / "hostile.toml"
    file.write_text(EXPERIMENT)
    return str(file)


@pytest.mark.parametrize("mode", ["direct", "checked"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_it_is_told_by_name(
    kind: Kind,
    mode: str,
    tmp_path: Path,
    installed_only: Install,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind.restored:
        module, _, name = kind.restored.partition(":")
        *path, last = name.split(".")
        part = importlib.import_module(module)
        for each in path:
            part = getattr(part, each)
        monkeypatch.setattr(part, last, getattr(part, last))
    monkeypatch.setattr(runner, "PATIENCE", 1e9)
    monkeypatch.setattr(loop, "EVENTS_AT_ONE_INSTANT", 20_000)
    monkeypatch.setattr(scheduler, "STEPS_AT_ONE_INSTANT", 20_000)
    file = install(tmp_path, installed_only, kind.code)
    code = main(["run", file, "--json", "--jobs", "1", "--hooks", mode])
    out, err = capsys.readouterr()
    if kind.silent and mode == "direct":
        assert (code, err) == (0, "")
        assert json.loads(out)["complete"]
        return
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    where = f"plugin 'hostile', hook '{kind.hook}'" if kind.hook else "plugin 'hostile'"
    assert f"{where}: " in err
    assert re.search(kind.told, err)


def test_who_waits_is_told_why(
    tmp_path: Path, installed_only: Install, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prints, "_noted", set())
    monkeypatch.setattr(runner, "PATIENCE", -1)
    file = install(tmp_path, installed_only, KINDS["wrong type"].code)
    assert main(["run", file, "--jobs", "1"]) == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note == "ntlab: note: a run has failed; it is made again, checked, to see whose doing that was"
    assert "answered '0'" in error


# In every hook

STAGE = """
from ntlab import Metric, hookimpl, plugin, workload
from ntlab.machine import *
from ntlab.machine.disks import disk_model

NMI = ErrorSource(id=1, type="nmi", signal="nmi")
US = 1000

class Call(Request):
    def __init__(self, vp): self.vp = vp

    def perform(self, thread):
        self.vp.partition.hypercall(8, self.vp, 5)
        return 0

@workload(name="everything", summary="Something of all that a machine does, up to a crash.")
class Everything:
    def start(self, machine):
        machine.partitioning.set_aside(1)
        process = machine.create_process("everything")
        lock = machine.create_lock("lock")
        for _ in range(2 * len(machine.processors)):
            machine.create_thread(process, self.locking(lock))
        disk = machine.io.create_disk("D:", preset="ssd")
        file, port = File("file", disk, 0, 1 << 20), CompletionPort(machine, "port")
        machine.create_thread(process, self.reading(file, port))
        machine.registry.load("SYSTEM", 1 << 16)
        machine.create_thread(process, self.caching(machine.file_cache))
        machine.create_thread(process, self.asking(AllocatePool(100), MapSystemPages(1)))
        Startup(machine, [Task(name="first", cpu=US), Task(name="second", cpu=US)], "ssd").begin()
        pool = machine.thread_pools.create(process, "pool")
        machine.create_thread(process, self.asking(PostWork(Work(pool, self.working))))
        machine.services.create("service", self.serving)
        machine.services.start_system()
        machine.timers.set(machine.timers.create(), 5_000 * US, tolerance=5_000 * US)
        machine.engine.at(40_000 * US, self.change, machine)
        machine.engine.at(50_000 * US, self.fill, (machine, process))
        guest = machine.partitions.create("guest", memory=1 << 20, plugins=[])
        calling = iter([Compute(5), Call(guest.processors[0]), Compute(5)])
        guest.machine.create_thread(guest.machine.create_process("p"), calling)
        for time, severity in ((300_000, "corrected"), (400_000, "fatal")):
            error = HardwareError(component=Component("processor", 0), severity=severity)
            machine.engine.at(time * US, machine.hardware_errors.occur, error)

    def asking(self, *requests):
        for request in requests:
            yield request

    def caching(self, cache):
        opened = cache.open(cache.create("cached", 1 << 20))
        for page in range(8):
            yield CopyRead(opened, page * 4096, 4096)
        yield Touch((yield MapFile(cache.create("mapped", 1 << 16))))

    def change(self, machine):
        partitioning = machine.partitioning
        partitioning.add_processor()
        partitioning.divide_memory(1 << 20)
        partitioning.provide_memory(1 << 20)
        partitioning.replace_memory(0)

    def fill(self, what):
        machine, process = what
        memory = machine.memory
        space = memory.space(process)
        clean = space.allocate(16)
        memory.populate(clean, 0)
        memory.trim(space.working_set, clean.extents())
        rest = space.allocate(memory.available - 16)
        memory.populate(rest, 0, dirty=True)
        more = Touch(space.allocate(64)), Touch(rest, pages=64, accesses=0)
        machine.create_thread(process, self.asking(Touch(clean), *more))

    def locking(self, lock):
        yield Compute(20_000 * US)
        for _ in range(5):
            yield Acquire(lock)
            yield Compute(50 * US)
            yield Release(lock)
            yield Sleep(100 * US, 1)

    def reading(self, file, port):
        yield Read(file, 0, 512)
        file.bind(port)
        yield Read(file, 0, 512)
        yield Dequeue(port)

    def working(self):
        yield Compute(US)

    def serving(self, service):
        yield NextControl(service, US)

    def measure(self, machine):
        yield Metric("crashed", float(machine.crash is not None))

@plugin(name="stage", summary="Leads to all hooks.", release="ws2003", workloads=(Everything,))
class Stage:
    @hookimpl
    def scheduler_policy(self): return SchedulerPolicy(ready_queues="per_processor", object_hold=US)

    @hookimpl
    def paging_policy(self): return PagingPolicy(file_size=1 << 24)

    @hookimpl
    def pages_short(self, memory):
        largest = max(memory.working_sets, key=lambda each: each.pages)
        memory.trim(largest, memory.oldest(largest, 64))

    @hookimpl
    def ageing_policy(self): return AgeingPolicy(period=20_000 * US)

    @hookimpl
    def read_ahead_size(self): return 4

    @hookimpl
    def partition_support(self): return True

    @hookimpl
    def replacement_policy(self): return ReplacementPolicy(devices_off=US, devices_on=US)

    @hookimpl
    def error_sources(self): return [NMI]

    @hookimpl
    def hardware_error(self, machine, latched):
        if latched.error.severity == "fatal":
            machine.bug_check(0x80)
        machine.hardware_errors.reported(latched)
        return True

    @hookimpl
    def spin_limit(self): return 10 * US

    @hookimpl
    def power_policy(self): return PowerPolicy()

    @hookimpl
    def processor_groups(self, machine): return [(1 << machine.tables.processors) - 1]
"""

EVERYTHING = """
name = "everything"
hardware = "smp-4"
seeds = 1
workload = { use = "stage.everything" }
plugins = { hostile = {}, stage = {} }
arms = { only = {} }
"""

HOOKS = {
    name: specification
    for module in specifications()
    for name, specification in vars(module).items()
    if hasattr(specification, "ntlab_spec")
}


def install_everywhere(folder: Path, use: Install, code: str) -> str:
    stage = folder / "stage"
    write_distribution(
        stage, "ntlab-stage", plugins={"stage": "ntlab_stage:Stage"}, modules={"ntlab_stage.py": STAGE}
    )
    install(folder, use, code, stage)
    file = folder / "everything.toml"
    file.write_text(EVERYTHING)
    return str(file)


@pytest.mark.parametrize("mode", ["direct", "plain", "checked"])
@pytest.mark.parametrize("hook", HOOKS)
def test_what_raises_in_a_hook_is_told(
    hook: str, mode: Mode, tmp_path: Path, installed_only: Install
) -> None:
    file = install_everywhere(tmp_path, installed_only, f"def {hook}(self): raise KeyError('hostile')")
    with pytest.raises(PluginError, match=r"KeyError: 'hostile' \(ntlab_hostile.py, line ") as told:
        ntlab.run(file, hooks=mode)
    assert (told.value.plugin, told.value.hook) == ("hostile", hook)


@pytest.mark.parametrize("hook", HOOKS)
def test_what_answers_something_else_in_a_hook_is_told(
    hook: str, tmp_path: Path, installed_only: Install
) -> None:
    file = install_everywhere(tmp_path, installed_only, f"def {hook}(self): return 1j")
    contract = contract_of(HOOKS[hook], "")
    expected = "None" if contract.observer else contract.annotation
    with pytest.raises(PluginError, match=rf"answered 1j; expected {re.escape(expected)}") as told:
        ntlab.run(file, hooks="checked")
    assert (told.value.plugin, told.value.hook) == ("hostile", hook)
    # Without checks it may go unnoticed; if not, it is told as exactly.
    with contextlib.suppress(PluginError):
        ntlab.run(file, hooks="direct")
        return
    with pytest.raises(PluginError, match=r"answered 1j") as told:
        ntlab.run(file, hooks="direct")
    assert (told.value.plugin, told.value.hook) == ("hostile", hook)


# What is told before anything runs, or beside it


def test_the_stage_is_right_by_itself(tmp_path: Path, installed_only: Install) -> None:
    file = install_everywhere(tmp_path, installed_only, "def thread_exited(self): pass")
    assert ntlab.run(file, hooks="checked").runs[0].metrics == {"crashed": 1.0}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_it_prints_leaves_stdout_to_the_result(
    tmp_path: Path, installed_only: Install, jobs: str
) -> None:
    code = "def thread_exited(self, thread): print('bye', thread)\n\nprint('hello')"
    file = install(tmp_path, installed_only, code)
    ran = subprocess.run(
        [sys.executable, "-m", "ntlab", "run", file, "--json", "--seeds", "2", "--jobs", jobs],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(ran.stdout)["runs"]) == 2
    assert ran.stderr.count("bye <Thread") == 10
    assert "hello\n" in ran.stderr
    notes = ran.stderr.count(
        "note: plugin 'hostile' prints, which goes to stderr: stdout is for results. Print to"
    )
    assert notes == 1 if jobs == "1" else 1 <= notes <= 3  # once a process


def test_a_method_that_only_looks_like_a_hook(
    tmp_path: Path, installed_only: Install, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prints, "_noted", set())
    code = "def thread_exited(self): pass\n\n    def choose_processor(self): return 0"
    assert main(["run", install(tmp_path, installed_only, code), "--jobs", "1"]) == 0
    assert (
        "note: plugin 'hostile' has a method 'choose_processor', which nobody asks, though a hook is "
        "called so: mark it @hookimpl" in capsys.readouterr().err
    )


def test_a_slow_import_is_told_once(
    tmp_path: Path, installed_only: Install, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, installed_only, "def thread_exited(self): pass")
    monkeypatch.setattr(prints, "_noted", set())
    for seconds, told in ((1000.0, 0), (-1.0, 1), (-1.0, 0)):
        monkeypatch.setattr(registry, "SLOW_IMPORT", seconds)
        monkeypatch.setattr(registry, "SLOW_IMPORT_WAITING", 1000.0)
        registry.installed.cache_clear()
        assert main(["plugins", "--json"]) == 0
        out, err = capsys.readouterr()
        assert "hostile" in [plugin["name"] for plugin in json.loads(out)]
        lines = [line for line in err.splitlines() if "'hostile'" in line]
        assert len(lines) == told
        if told:
            assert re.search(
                r"note: plugin 'hostile' takes \d+\.\d s to import, in every command: "
                r".*\(python -X importtime -c 'import ntlab_hostile'",
                lines[0],
            )


def test_an_import_of_what_a_newer_ntlab_has(
    tmp_path: Path, installed_only: Install, capsys: Captured
) -> None:
    code = "def thread_exited(self): pass\n\nfrom ntlab.machine import NextThing"
    assert main(["run", install(tmp_path, installed_only, code)]) == 2
    assert re.search(
        r"plugin 'hostile': cannot be imported from the distribution .*: ImportError: .*NextThing"
        rf".*\(this is ntlab {ntlab.__version__}; it requires ntlab>=9\)",
        capsys.readouterr().err,
    )


def test_a_name_that_two_distributions_bring(
    tmp_path: Path, installed_only: Install, capsys: Captured
) -> None:
    twin = tmp_path / "twin"
    write_distribution(twin, "ntlab-twin", plugins={"hostile": "ntlab_hostile:Hostile"}, modules={})
    file = install(tmp_path, installed_only, "def thread_exited(self): pass", twin)
    assert main(["run", file]) == 2
    assert (
        "plugin 'hostile': is brought by two distributions, 'ntlab-hostile' and 'ntlab-twin': uninstall one"
        in capsys.readouterr().err
    )


def test_a_plugin_that_is_given_twice() -> None:
    faults = Faults()
    with pytest.raises(PluginError, match=r"plugin 'faults': .* registered already; give each plugin once"):
        boot(1, [faults, faults])


def test_an_option_that_the_plugin_has_not(tmp_path: Path, installed_only: Install, capsys: Captured) -> None:
    code = "def thread_exited(self): pass\n    quantum: int = option(default=1, help='A turn.')"
    file = install(tmp_path, installed_only, code)
    assert main(["run", file, "--set", "hostile.quantun=2"]) == 2
    assert re.search(r"hostile.*unknown option 'quantun'; .*did you mean 'quantum'", capsys.readouterr().err)

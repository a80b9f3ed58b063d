"""The mode "checked": contracts of answers, accounts of a machine, and who is told."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Literal, NewType, Optional

import pytest

from ntlab import hookimpl, plugin
from ntlab.engine import CheckedEngine
from ntlab.errors import PluginError, SimulationError
from ntlab.hooks import contract_of, expects, hookspec, observer, specifications
from ntlab.hooks.contracts import fits
from ntlab.machine import (
    Acquire,
    CompletionPort,
    Compute,
    Dequeue,
    File,
    Machine,
    PagingPolicy,
    Processor,
    Read,
    Release,
    Sleep,
    Thread,
)
from ntlab.machine.hardware_errors import Component, ErrorSource, HardwareError
from ntlab.machine.io import COMPLETED
from ntlab.machine.pagefile import StoredRun
from ntlab.machine.processors import NOMINAL
from ntlab.quantities import Duration
from ntlab.testing import boot, bursts, exercise, rules, small_tables

# Contracts

Whole = NewType("Whole", int)


class Thing:
    pass


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        (int, [0, -3, 2**70], [True, 1.0, "1", None]),
        (float, [1.5, 2], [True, "1"]),
        (bool, [True], [1, None]),
        (str, ["", "a"], [b"a", 1]),
        (Duration, [5], [5.0, True]),
        (Whole | None, [5, None], ["5"]),
        (Optional[Thing], [Thing(), None], [Thing, 0]),  # noqa: UP045  (another form of union)
        (Literal["apc", "port"], ["apc"], ["acp", None, 1]),
        (Literal[1], [1], [True, 1.0]),
        (Thing | Literal[False], [Thing(), False], [True, 0, None]),
        (Sequence[int], [[], (1, 2), range(3)], [[1.0], "12", b"12", {1}, 5]),
        (Sequence, [[1], ()], ["12", 5]),
        (tuple[int, int], [(1, 2)], [(1,), (1, 2, 3), [1, 2], (1, "2")]),
        (tuple[int, ...], [(), (1, 2)], [(1, "2"), [1]]),
        (list[tuple[int, bytes]], [[(1, b"")]], [[(1, "")], ((1, b""),)]),
        (Mapping[str, int], [{}, {"a": 1}], [{"a": "1"}, {1: 1}, []]),
        (Callable[[int], int], [len, Thing], [5, None]),
        (Iterator[int], [iter([1])], [[1]]),
        (Any, [None, 5], []),
        (None, [None], [0, False]),
    ],
)
def test_types(wanted: Any, right: list[Any], wrong: list[Any]) -> None:
    assert [value for value in right if not fits(value, wanted)] == []
    assert [value for value in wrong if fits(value, wanted)] == []


SPECIFICATIONS = {
    name: each
    for module in specifications()
    for name, each in vars(module).items()
    if hasattr(each, "ntlab_spec")
}


@pytest.mark.parametrize("hook", SPECIFICATIONS)
def test_every_built_in_contract_can_be_read(hook: str) -> None:
    contract = contract_of(SPECIFICATIONS[hook], "")
    assert contract.annotation.endswith("None")
    assert contract.violation(None, [None] * 5) is None
    assert "answered <object" in str(contract.violation(object(), [None] * 5))


OF_A_PLUGIN = """
from __future__ import annotations
from typing import TYPE_CHECKING
from ntlab import hookspec
if TYPE_CHECKING:
    from ntlab.machine import Thread
    Found = tuple[Thread, int]

@hookspec(firstresult=True)
def found(thread: Thread) -> Found | None: ...

@hookspec(firstresult=True)
def lost(thread: Thread) -> Gone | None: ...
"""


def test_names_for_type_checkers_are_known_and_others_told(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hooks_of_a_plugin.py"
    file.write_text(OF_A_PLUGIN)
    module = types.ModuleType("hooks_of_a_plugin")
    module.__file__ = str(file)
    exec(compile(OF_A_PLUGIN, str(file), "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "hooks_of_a_plugin", module)
    machine = boot()
    thread = machine.create_thread(machine.create_process("p"), bursts(5))
    contract = contract_of(module.found, "it")
    assert contract.violation((thread, 1), []) is None
    assert "expected Found | None" in str(contract.violation((1, 1), []))
    with pytest.raises(
        PluginError, match=r"'it', hook 'lost': .*'Gone \| None' cannot be resolved \(NameError"
    ):
        contract_of(module.lost, "it")


class Specifications:
    @hookspec(firstresult=True)
    @expects("below `most`", lambda answer, most: answer < most)
    def number(self, least: int, most: int) -> int | None:
        """A number."""

    @hookspec(firstresult=True)
    @expects("below `maximum`", lambda answer, maximum: answer < maximum)
    def misspelt(self, least: int, most: int) -> int | None:
        """A number."""

    @observer
    def seen(self) -> None:
        """Something was seen."""


def test_expectations_see_the_arguments_that_they_ask_for() -> None:
    contract = contract_of(Specifications.number, "it")
    assert contract.violation(3, [0, 4]) is None
    assert contract.violation(4, [0, 4]) == (
        "answered 4; expected int | None (below `most`); return None to leave the decision to others"
    )
    assert "nobody looks" in str(contract_of(Specifications.seen, "it").violation(1, []))
    with pytest.raises(PluginError, match="asks for 'maximum'"):
        contract_of(Specifications.misspelt, "it")


# The accounts of a machine


@plugin(name="kernel", summary="A paging file and an error source.", release="ws2003")
class Kernel:
    @hookimpl
    def paging_policy(self) -> PagingPolicy:
        return PagingPolicy(file_size=1 << 24)  # type: ignore[arg-type]

    @hookimpl
    def error_sources(self) -> list[ErrorSource]:
        return [ErrorSource(id=1, type="polled", signal="polled", severities=("corrected",))]


def busy() -> Machine:
    """A machine of three processors, amid all that a machine does."""
    machine = boot(3, [Kernel()])
    process = machine.create_process("p")
    port = CompletionPort(machine, "port")
    file = File("f", machine.io.create_disk("D:"), 0, 4096)
    waiting = {"sleeps": Sleep(1_000_000), "dequeues": Dequeue(port), "reads": Read(file, 0, 512)}
    for name, request in waiting.items():
        machine.create_thread(process, iter([request]), name=name)
    machine.run(10)
    lock = machine.create_lock("lock")
    for _ in range(2):
        holding = [Acquire(lock), Compute(1_000_000), Release(lock)]
        machine.create_thread(process, iter(holding), name="locks")
    for _ in range(3):
        machine.create_thread(process, bursts(1_000_000), name="computes")
    region = machine.memory.space(process).allocate(64)
    assert region is not None
    machine.memory.populate(region, 0, dirty=True)
    machine.memory.trim(region.space.working_set, machine.memory.oldest(region.space.working_set, 16))
    guest = machine.partitions.create("guest", memory=1 << 20, plugins=[])
    guest.machine.create_thread(guest.machine.create_process("g"), bursts(1_000_000), name="computes")
    machine.hardware_errors.occur(HardwareError(component=Component("processor", 0), severity="corrected"))
    machine.interrupts.queue_dpc(machine.processors[2], 1_000_000)
    machine.run(1000)
    machine.check()
    return machine


def thread(machine: Machine, name: str, state: int | None = None) -> Thread:
    return next(t for t in machine.threads.values() if t.name == name and state in (None, t.state))


def breaks(what: str) -> Callable[[Machine], None]:
    """Something that only a mechanism may do, as source."""

    def change(machine: Machine) -> None:
        names = {"machine": machine, "thread": thread, "COMPLETED": COMPLETED, "StoredRun": StoredRun}
        exec(what, names | {"copy": copy})

    return change


READY, RUNNING, WAITING = 1, 2, 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("machine.scheduler.idle_mask ^= 1", "the idle processors are 0x0, the scheduler's mask 0x1"),
        ("machine.scheduler.running_summary = 0", "the summary of running priorities is 0x0"),
        ("machine.scheduler.waiting_queues += 1", "1 ready queues hold threads, 2 are counted"),
        ("thread(machine, 'locks', 2).priority = 3", "priority 3 runs on processors .*behind its back"),
        ("thread(machine, 'computes', 1).priority = 3", "queued with priority 8 and has 3"),
        ("thread(machine, 'computes', 1).priority = 99", "queued with priority 8 and has 99"),
        ("thread(machine, 'computes', 1).state = 5", "in the ready queue .* is in state 5"),
        ("thread(machine, 'computes', 1).processor = None", "believes to be in another queue"),
        ("machine.processors[0].queue.levels[8].popleft()", "is ready but in no ready queue: it is lost"),
        ("q = machine.processors[0].queue; q.append(next(iter(q)))", "is queued twice"),
        ("machine.processors[0].queue.summary |= 1", "0 threads of priority 0 are ready"),
        ("thread(machine, 'locks', 2).state = 5", "but that is in state 5"),
        ("thread(machine, 'locks', 2).processor = None", "believes to be elsewhere"),
        ("thread(machine, 'sleeps').state = 2", "is running on no processor"),
        ("thread(machine, 'sleeps').state = 7", "alive in no state"),
        ("thread(machine, 'sleeps').state = 8", "held back, though nobody limits"),
        ("thread(machine, 'sleeps').processor = machine.processors[0]", "though it cannot run"),
        ("thread(machine, 'sleeps').affinity = 0x100", "may run on no processor: its affinity is 0x100"),
        ("thread(machine, 'sleeps').ideal = 3", "has the ideal processor 3"),
        ("thread(machine, 'sleeps').process.threads = 7", "'p' counts 7 threads and has 8"),
        ("thread(machine, 'sleeps').remaining = -1", "has -1 ns of work left"),
        ("machine.processors[0].stepping = True", "in the middle of a program's step"),
        ("machine.engine.cancel(machine.processors[0].plan)", "planned by an event that was cancelled"),
        ("del machine.threads[thread(machine, 'locks', 2).id]", "is no thread of machine"),
        ("thread(machine, 'sleeps').raised = 1", "raised by 1 locks; it holds, or spins on, 0"),
        ("machine.locks._all[0].holder = None", "is free while .* waits for it"),
        ("machine.locks._all[0].waiters[0].user.spinning = None", "waits .* without spinning"),
        ("next(iter(machine.io._pending)).state = COMPLETED", "counted as pending, but is completed"),
        ("next(iter(machine.io._pending)).parts = -1", "has lost count of its parts"),
        ("next(iter(machine.io._pending)).thread = thread(machine, 'computes')", "goes on though"),
        ("machine.io.ports[0].active = 1", "counts 1 active threads; 0 of its do not wait"),
        ("machine.io.ports[0].posted = 1", "has lost or made packets"),
        ("machine.io.ports[0].waiters[0].waiting_for = None", "does not wait there"),
        ("p = machine.io.ports[0]; p.packets.append(5); p.posted = 1", "waits for it in vain"),
        ("machine.memory.committed += 1", "memory is inconsistent: commit charge"),
        ("machine.memory.modified.pages += 1", "memory is inconsistent: a list's total is wrong"),
        ("m = machine.memory.modified; m.head.previous = m.tail", "on one and linked in another"),
        ("m = machine.memory.modified; m.tail = None", "does not end where it should"),
        ("machine.memory.modified.append(copy(machine.memory.modified.head))", "some are of no space"),
        ("machine.memory.modified.head.pages -= 1", "counts its pages wrong"),
        ("machine.memory.modified.head.region.first += 1", "leaves its region"),
        ("m = machine.memory.modified.head; m.region = copy(m.region)", "has a wrong owner"),
        ("machine.memory.modified.head.frame = 100", "used twice or not accounted for"),
        ("machine.memory.nodes[0].zeroed._ends.clear()", "touch others, or end elsewhere"),
        ("machine.memory._waiters[thread(machine, 'computes', 2)] = 1", "though it waits for pages"),
        ("machine.memory.working_sets.clear()", "working sets that may be trimmed are not known"),
        ("machine.paging.file.allocate(3, [5 << 40])", "of an address space that does not exist"),
        ("machine.paging._target = range(3)", "though it writes nothing"),
        ("machine.paging.file._stored.add(5, StoredRun(5, 77, 1))", "both free and used"),
        ("machine.processors[2].level = 3", "processor 2 is at level 3, its work at 2"),
        ("machine.partitions.children[0].processors[0].thread.virtual = None", "is not what its thread"),
        ("machine.partitions.children[0].machine.scheduler.idle_mask ^= 1", "guest: .*the idle processors"),
        ("machine.hardware_errors._polls.clear()", "nobody will look at"),
        ("machine.hardware_errors.sources.clear()", "or its source is unknown"),
    ],
)
def test_an_account_that_does_not_fit_is_told(change: str, told: str) -> None:
    machine = busy()
    breaks(change)(machine)
    with pytest.raises(SimulationError, match=told):
        machine.check()


def test_a_guest_that_runs_without_a_processor_is_told() -> None:
    host = boot(1)
    guest = host.partitions.create("guest", memory=1 << 20)
    guest.machine.create_thread(guest.machine.create_process("g"), bursts(1_000_000))
    host.run(1000)
    host.check()
    processor = guest.processors[0].processor
    processor.speed = 2 * NOMINAL
    with pytest.raises(SimulationError, match="has speed 2097152, its factors give 1048576"):
        host.check()
    guest.machine.speeds.set(processor, "host", 2 * NOMINAL)
    with pytest.raises(SimulationError, match="believes to have speed 2097152, its host's is 1048576"):
        host.check()


# Who is told


def checked(*plugins: object, every: int = 1) -> Machine:
    return Machine(small_tables(2), plugins, hooks="checked", check_every=every)


@plugin(name="one", summary="Changes what is not its own.", release="ws2003")
class One:
    @hookimpl
    def context_switched(self, new: Thread | None) -> None:
        if new is not None and new.machine.engine.now > 0:
            new.priority = 3


@plugin(name="two", summary="Changes the same in an event of its own.", release="ws2003")
class Two:
    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        machine.engine.after(50, self.change, machine)

    def change(self, machine: Machine) -> None:
        for each in machine.threads.values():
            each.priority = 3


@plugin(name="bystander", summary="Looks on.", release="ws2003")
class Bystander:
    @hookimpl
    def context_switched(self, processor: Processor) -> None:
        pass

    @hookimpl
    def thread_ready(self, thread: Thread) -> None:
        pass


@pytest.mark.parametrize(("culprit", "name", "hook"), [(One, "one", "context_switched"), (Two, "two", "")])
def test_looking_closely_tells_who(culprit: Callable[[], object], name: str, hook: str) -> None:
    machine = checked(Bystander(), culprit(), Bystander2()).boot()
    exercise(machine)
    with pytest.raises(PluginError, match="leaves the machine inconsistent") as told:
        machine.run()
    # One package brings all of these, so an action of theirs is told apart by its instance.
    assert (told.value.plugin, told.value.hook) == (name, hook)


@plugin(name="bystander_2", summary="Looks on.", release="ws2003")
class Bystander2(Bystander):
    pass


def test_looking_seldom_tells_when() -> None:
    machine = checked(every=16).boot()
    assert machine.checks is not None
    exercise(machine)
    machine.engine.at(5_000_000, lambda _: machine.hardware_errors.counts.update(unseen=-1))
    with pytest.raises(SimulationError, match=r"something leaves the machine inconsistent.*counted wrong"):
        machine.run()
    assert machine.checks.right_until <= machine.engine.events <= machine.checks.right_until + 2 * 16


def test_looking_changes_nothing() -> None:
    def lived(**asked: Any) -> str:
        machine = boot(2, [Kernel(), rules(ready_queues="per_processor")], trace=True, **asked)
        exercise(machine)
        machine.run()
        machine.stop()
        return machine.tracer.digest()

    assert lived(hooks="checked") == lived(hooks="direct")


def test_streams_are_the_owners() -> None:
    machine = checked(Mine(), Theirs()).boot()
    machine.streams.stream("mine", "x").shuffle([1, 2, 3])  # nobody's plugin: a test may
    process = machine.create_process("p")
    with pytest.raises(
        PluginError, match=r"'theirs', hook 'thread_ready': draws from the random stream of 'mine'"
    ):
        machine.create_thread(process, bursts(5))


@plugin(name="mine", summary="Draws.", release="ws2003")
class Mine:
    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        machine.streams.stream("mine").random()
        machine.streams.stream("mine.more").getrandbits(8)


@plugin(name="theirs", summary="Draws.", release="ws2003")
class Theirs:
    @hookimpl
    def thread_ready(self, thread: Thread) -> None:
        thread.machine.streams.stream("mine").randrange(7)


def test_streams_give_the_same_numbers() -> None:
    def numbers(machine: Machine) -> list[Any]:
        stream = machine.streams.stream("x", "y")
        items = list(range(20))
        stream.shuffle(items)
        return [*items, stream.random(), stream.randrange(1000), stream.gauss(), stream.sample(items, 3)]

    assert numbers(checked()) == numbers(boot(2))


def test_the_module_random_is_left_alone() -> None:
    machine = checked().boot()
    random.random()
    with pytest.raises(SimulationError, match="module-level random"):
        machine.run(5)


def test_a_restarted_machine_is_looked_at_as_before() -> None:
    machine = checked(every=7).boot()
    machine.engine.at(10, lambda _: machine.bug_check(1))
    machine.run()
    again = machine.restart(100)
    assert again.checks is not None
    assert again.checks is not machine.checks
    assert (again.checks.every, again.engine.batch) == (7, 7)
    assert isinstance(again.engine, CheckedEngine)
    again.scheduler.idle_mask = 0
    with pytest.raises(SimulationError, match="the idle processors"):
        again.run(200)


def test_a_machine_is_checked_every_so_many_events() -> None:
    with pytest.raises(SimulationError, match="every 0 events"):
        checked(every=0)

"""Hardware errors and crashes: signals, registers, bug checks, and what the next boot finds."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.engine import INTERRUPT
from ntlab.errors import PluginError, SimulationError, UserError
from ntlab.formats import minidump
from ntlab.hooks import hookimpl, hookspec
from ntlab.machine import (
    Component,
    Crash,
    ErrorSource,
    HardwareError,
    LatchedError,
    Machine,
    NonVolatile,
)
from ntlab.machine.hardware_errors import KINDS, SEVERITIES, components, device_at, pci_address
from ntlab.plugin import option, plugin, state
from ntlab.testing import boot, bursts, small_tables
from ntlab_ws2003 import Ws2003

Outcome = tuple[int, str, int]


@plugin(name="listener", summary="Listens to some sources and notes what they tell.", release="ws2008")
class Listener:
    sources: tuple[Any, ...] = option(default=(), help="The sources.")
    fatal: int = option(default=0, help="The bug check of a fatal error; 0 for none.")
    heard: list[tuple[int, LatchedError]] = state(list)
    crashes: list[Crash] = state(list)

    @hookimpl
    def error_sources(self) -> Sequence[ErrorSource]:
        return self.sources

    @hookimpl
    def hardware_error(self, machine: Machine, latched: LatchedError) -> bool:
        self.heard.append((machine.engine.now, latched))
        if self.fatal and latched.error.severity == "fatal":
            machine.bug_check(self.fatal, 1, 2, 3, 1 << 63)
        return True

    @hookimpl
    def crash_memory(self, crash: Crash) -> Sequence[tuple[int, bytes]]:
        return [(0x2000, b"second"), (0x1000, b"first")]

    @hookimpl
    def bug_checked(self, crash: Crash) -> None:
        self.crashes.append(crash)

    def outcomes(self) -> list[Outcome]:
        return [(time, latched.error.severity, latched.overflow) for time, latched in self.heard]


def source(signal: Any = "exception", **fields: Any) -> ErrorSource:
    fields = {"id": 0, "type": "test", **fields}
    return ErrorSource(signal=signal, **fields)


def polled(**fields: Any) -> ErrorSource:
    return source("polled", severities=("corrected",), **fields)


def error(severity: Any = "corrected", *, kind: Any = "processor", number: int = 0) -> HardwareError:
    part = {"cache": (2,), "memory": (1, 3)}.get(kind, ())
    return HardwareError(component=Component(kind, number, part), severity=severity)


def fail(machine: Machine, *errors: tuple[int, HardwareError]) -> None:
    for time, what in errors:
        machine.engine.at(time, machine.hardware_errors.occur, what)


@pytest.mark.parametrize(
    ("listened", "times"),
    [
        (source("exception"), [100]),
        (source("nmi"), [100]),
        (source("interrupt", service_time=7), [107]),
        (polled(poll_interval=60), [120]),
        (polled(poll_interval=100), [200]),
        (source("boot"), []),
    ],
)
def test_a_source_signals_in_its_own_way(listened: ErrorSource, times: list[int]) -> None:
    listener = Listener(sources=(listened,))
    machine = boot(1, [listener])
    fail(machine, (100, error()))
    machine.run(1000)
    assert [time for time, _ in listener.heard] == times
    assert machine.hardware_errors.counts["unseen"] == (not times)


def test_an_interrupt_waits_for_the_service_routine_that_runs() -> None:
    listener = Listener(sources=(source("interrupt", service_time=7),))
    machine = boot(1, [listener])
    machine.engine.at(90, lambda _: machine.interrupts.interrupt(machine.processors[0], 50))
    fail(machine, (100, error()))
    machine.run()
    assert [time for time, _ in listener.heard] == [147]


def test_the_graver_error_stays_in_the_registers() -> None:
    listener = Listener(sources=(source("interrupt", service_time=10),))
    machine = boot(1, [listener])
    fail(machine, (0, error()), (1, error("recoverable")), (2, error()), (3, error("fatal")), (100, error()))
    machine.run()
    # The second signal of the same registers finds them clear.
    assert listener.outcomes() == [(10, "fatal", 3), (110, "corrected", 0)]
    assert machine.hardware_errors.counts["overflowed"] == 3


def test_registers_of_other_components_are_others() -> None:
    listener = Listener(sources=(polled(),))
    machine = boot(2, [listener])
    fail(machine, (0, error()), (0, error(number=1)), (0, error(kind="memory")), (0, error(kind="cache")))
    machine.run()
    assert len(listener.heard) == 4
    assert machine.hardware_errors.counts["overflowed"] == 0


def test_the_first_source_that_covers_an_error_signals_it() -> None:
    sources = (
        source(id=1, kinds=("memory",)),
        source(id=2, severities=("fatal",)),
        source(id=3, kinds=("pcie",), device=7),
    )
    listener = Listener(sources=sources)
    machine = boot(1, [listener])
    fail(
        machine,
        (1, error("fatal", kind="memory")),
        (2, error("fatal")),
        (3, error("recoverable")),
        (4, error("corrected", kind="pcie", number=7)),
        (5, error("corrected", kind="pcie", number=6)),
    )
    machine.run()
    assert [(time, latched.source.id) for time, latched in listener.heard] == [(1, 1), (2, 2), (4, 3)]
    assert machine.hardware_errors.counts["unseen"] == 2


def test_without_a_handler_an_error_is_passed_over() -> None:
    @plugin(name="deaf", summary="Has a source and no handler.", release="ws2003")
    class Deaf:
        @hookimpl
        def error_sources(self) -> Sequence[ErrorSource]:
            return [source()]

    machine = boot(1, [Deaf()])
    fail(machine, (0, error("fatal")))
    machine.run()
    assert machine.counters()[r"Hardware Errors\passed over"] == 1


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([source(id=3), source(id=3, type="other")], "error sources 'test' and 'other' have the id 3"),
        ([source("polled")], "it is polled, yet has uncorrected errors"),
        ([source("smoke")], "unknown signal 'smoke'"),
        ([source(kinds=("memry",))], "did you mean 'memory'"),
        ([source(severities=("deadly",))], "unknown severity 'deadly'"),
        ([source(records=0)], "0 preallocated records"),
        ([source(window=0)], "negative time"),
        ([polled(poll_interval=0)], "negative time"),
        ([source(threshold=-1)], "negative time"),
    ],
)
def test_sources_that_cannot_be_are_refused(sources: list[ErrorSource], message: str) -> None:
    with pytest.raises(UserError, match=message):
        boot(1, [Listener(sources=tuple(sources))])


def test_a_bug_check_ends_all_that_would_happen() -> None:
    listener = Listener(sources=(source(),), fatal=0x99)
    machine = boot(1, [listener])
    happened: list[int] = []
    fail(machine, (100, error("fatal")))
    for time in (99, 100, 101):
        machine.engine.at(time, happened.append, time)
    machine.engine.at(100, happened.append, -1, INTERRUPT)
    thread = machine.create_thread(machine.create_process("busy"), bursts(1000))
    assert machine.run() == 100
    assert happened == [99, -1]
    assert machine.crash == Crash(0x99, (1, 2, 3, 1 << 63), 100)
    assert listener.crashes == [machine.crash]
    assert machine.engine.pending == 0
    assert thread.id in machine.threads
    with pytest.raises(SimulationError, match="runs after bug check 0x99"):
        machine.run()


def test_no_handler_of_exceptions_keeps_a_machine_from_stopping() -> None:
    machine = boot(1)

    def careless(_: object) -> None:
        try:
            machine.bug_check(1)
        except Exception:
            pytest.fail("a bug check is no Exception")

    machine.engine.at(5, careless)
    machine.run()
    assert machine.crash is not None


def test_the_dump_holds_the_bug_check_and_the_memory() -> None:
    listener = Listener(sources=(source(),), fatal=0x99)
    machine = boot(2, [Ws2003(architecture="ia64"), listener], trace=True)
    fail(machine, (7_000_000_000, error("fatal")))
    machine.run()
    (data,) = machine.nonvolatile.dumps
    dump = minidump.decode(data)
    assert dump.bug_check == minidump.BugCheck(0x99, 1, 2, 3, 1 << 63)
    assert dump.system == minidump.system_info("ws2008", "ia64", 2)
    assert [(part.address, part.data) for part in dump.memory] == [(0x1000, b"first"), (0x2000, b"second")]
    assert dump.time == 1_204_070_400 + 7  # 2008-02-27, UTC
    (record,) = machine.tracer.records("BugCheck")
    assert (record["code"], record["p4"], record["dump_bytes"]) == (0x99, -(1 << 63), len(data))


def test_the_next_boot_finds_what_survives_and_nothing_else() -> None:
    machine = boot(1, [Listener(sources=(source(),), fatal=0x99)])
    machine.create_process("gone")
    machine.nonvolatile.write("flash", 1, b"kept")
    fail(machine, (100, error("fatal")))
    machine.run()
    again = machine.restart(50)
    assert again.engine.now == 150
    assert again.crash is None
    assert again.nonvolatile.entries("flash") == [(1, b"kept")]
    assert not again.processes
    assert again.plugins[0] is not machine.plugins[0]
    assert again.streams.seed != machine.streams.seed
    fail(again, (160, error("fatal")))
    again.run()
    assert again.crash is not None
    assert len(again.nonvolatile.dumps) == 2


def test_a_machine_that_does_not_run_makes_no_bug_check() -> None:
    machine = boot(1)
    with pytest.raises(SimulationError, match="which does not run"):
        machine.bug_check(1)
    assert machine.crash is None


def test_a_machine_that_runs_is_not_restarted() -> None:
    with pytest.raises(SimulationError, match="without having crashed"):
        boot(1).restart(1)


@pytest.mark.parametrize("listens", [False, True])
def test_registers_outlive_a_crash(listens: bool) -> None:
    sources = (polled(), source("exception", id=1), *([source("boot", id=2)] if listens else []))
    machine = boot(1, [Listener(sources=sources, fatal=0x99)])
    fail(machine, (1, error(kind="memory")), (2, error(kind="memory")), (5, error("fatal")))
    machine.run()
    again = machine.restart(10)
    again.run()
    (listener,) = again.plugins
    assert isinstance(listener, Listener)
    found = [(time, latched.source.id, latched.overflow) for time, latched in listener.heard]
    assert found == ([(15, 2, 1)] if listens else [])
    assert again.hardware_errors.counts["unseen"] == (not listens)


def test_a_disk_that_takes_no_dumps() -> None:
    machine = boot(1, [Listener(sources=(source(),), fatal=0x99)])
    machine.nonvolatile.keeps_dumps = False
    fail(machine, (1, error("fatal")))
    machine.run()
    assert machine.nonvolatile.dumps == []


def test_child_partitions_do_not_crash_alone() -> None:
    machine = boot(1)
    child = machine.partitions.create("child").machine
    with pytest.raises(SimulationError, match="child partition child is not modelled"):
        child.bug_check(1)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.binary(max_size=8)), max_size=30))
def test_stores_hold_what_fits_and_refuse_the_rest(writes: list[tuple[str, int, bytes]]) -> None:
    memory = NonVolatile(capacity=20)
    model: dict[tuple[str, int], bytes] = {}
    for store, identity, data in writes:
        after = {**model, (store, identity): data}
        fits = sum(map(len, after.values())) <= 20
        assert memory.write(store, identity, data) is fits
        model = after if fits else model
        assert {(s, i): d for s in "ab" for i, d in memory.entries(s)} == model
    for store, identity in model:
        assert memory.clear(store, identity)
        assert not memory.clear(store, identity)
    assert memory.used == 0


@given(st.integers(0, 10_000))
def test_every_device_has_an_address_of_its_own(device: int) -> None:
    assert device_at(*pci_address(device)) == device
    assert device_at(0, 0, 0, 0) is None
    assert device_at(0, 1, 1, 0) is None


def test_the_status_word_has_the_bits_of_the_manuals() -> None:
    latched = LatchedError(error("fatal", kind="cache"), source(), 0)
    assert latched.status == 1 << 63 | 1 << 61 | 1 << 60 | 1 << 57 | 0x0102
    assert LatchedError(error(), source(), 0, overflow=2).status == 1 << 63 | 1 << 62 | 1 << 60 | 0x0400


def test_all_that_may_fail_is_listed_once() -> None:
    found = components(small_tables(4, nodes=2), cards=2, modules=3)
    assert len(found) == len(set(found)) == 4 + 2 * 2 * 3
    assert {component.kind for component in found} == {"processor", "memory"}


errors = st.builds(
    error,
    st.sampled_from(SEVERITIES),
    kind=st.sampled_from(KINDS[:3]),
    number=st.integers(0, 1),
)


@given(st.lists(st.tuples(st.integers(0, 200), errors), max_size=30))
def test_no_error_is_lost_without_being_counted(stream: list[tuple[int, HardwareError]]) -> None:
    listener = Listener(
        sources=(
            source("interrupt", id=0, severities=("corrected",), kinds=("processor",), service_time=20),
            polled(id=1, kinds=("memory",), poll_interval=50),
            source("exception", id=2, severities=("fatal",)),
        )
    )
    machine = boot(2, [listener], tables=small_tables(2, nodes=2))
    fail(machine, *stream)
    machine.run()
    counts = machine.hardware_errors.counts
    assert counts["occurred"] == len(stream)
    assert counts["occurred"] == len(listener.heard) + counts["unseen"] + counts["overflowed"]
    assert counts["overflowed"] == sum(latched.overflow for _, latched in listener.heard)


# Server 2003


@pytest.mark.parametrize(
    ("kind", "code", "parameters"),
    [
        ("processor", 0x9C, (3, 0, 0xB200_0000, 0x0400)),
        ("cache", 0x9C, (0, 0, 0xB200_0000, 0x0102)),
        ("memory", 0x9C, (4, 0, 0xB200_0000, 0x0080)),
        ("pci", 0x80, (0x4F4454, 0, 0, 0)),
        ("pcie", 0x80, (0x4F4454, 0, 0, 0)),
    ],
)
def test_server_2003_stops_with_status_words(kind: str, code: int, parameters: tuple[int, ...]) -> None:
    machine = boot(1, [Ws2003()])
    fail(machine, (5, error("fatal", kind=kind)))
    machine.run()
    assert machine.crash is not None
    assert (machine.crash.code, machine.crash.parameters) == (code, parameters)


def test_server_2003_survives_corrected_errors_and_keeps_nothing_of_them() -> None:
    machine = boot(1, [Ws2003()])
    fail(machine, *((time, error(kind=kind)) for time, kind in enumerate(KINDS)))
    machine.run()
    assert machine.crash is None
    assert machine.hardware_errors.counts["unseen"] == len(KINDS)
    assert not machine.nonvolatile.log
    assert not machine.nonvolatile.used


# Hooks that a plugin specifies


def specifications(name: str) -> ModuleType:
    @hookspec(firstresult=True)
    def colour(machine: Machine) -> str | None:
        """A hook that no core has."""

    module = ModuleType(name)
    module.__dict__["colour"] = colour
    return module


def test_a_plugin_may_specify_hooks_that_others_answer() -> None:
    @plugin(name="asks", summary="Asks.", release="ws2003", hookspecs=(specifications("asks_hooks"),))
    class Asks:
        pass

    @plugin(name="answers", summary="Answers.", release="ws2003")
    class Answers:
        @hookimpl
        def colour(self) -> str:
            return "red"

    machine = boot(1, [Asks(), Answers()])
    assert machine.hooks.colour(machine) == "red"
    assert boot(1, [Asks()]).hooks.colour is None
    with pytest.raises(PluginError, match="unknown hook 'colour'"):
        boot(1, [Answers()])

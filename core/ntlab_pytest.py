"""ntlab's pytest plugin: fixtures for those who test plugins. See docs/testing.md.

It is beside the package, and imports of ntlab only what a fixture needs when a test asks for it: pytest loads
this module in every session, also for those who merely have ntlab installed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ntlab.machine import Machine
    from ntlab.testing import Recorder, Records

_ACCEPT = "NTLAB_ACCEPT"
_MADE = pytest.StashKey["list[Machine]"]()
_FAILED = pytest.StashKey[bool]()
_LAST = 30
"""Records that the report of a failed test shows."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("ntlab").addoption(
        "--ntlab-accept", action="store_true", help="write golden traces anew from what happens now"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--ntlab-accept"):
        os.environ[_ACCEPT] = "1"


def pytest_unconfigure(config: pytest.Config) -> None:
    if config.getoption("--ntlab-accept"):
        os.environ.pop(_ACCEPT, None)


# -- machines ---------------------------------------------------------------------------------------------


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Callable[..., Machine]]:
    """Make small machines that record what happens: `machine(processors=1, plugins=(), seed=0, ...)`.

    Takes what `ntlab.testing.boot` takes. At the end of a test that passes the machines are checked
    (`Machine.check`); the report of one that fails shows their last records.
    """
    from ntlab.testing import boot

    made: list[Machine] = []
    request.node.stash[_MADE] = made
    plugins = request.config.pluginmanager
    if not plugins.has_plugin(_LastRecords.__name__):
        plugins.register(_LastRecords(), _LastRecords.__name__)

    def make(processors: int = 1, plugins: Any = (), *, trace: bool = True, **options: Any) -> Machine:
        made.append(boot(processors, plugins, trace=trace, **options))
        return made[-1]

    yield make
    if not request.node.stash.get(_FAILED, False):
        for each in made:
            if each.crash is None:
                each.check()


@pytest.fixture
def recorder() -> type[Recorder]:
    """Ask a machine what happened on it: `recorder(machine)`. See `ntlab.testing.Recorder`."""
    from ntlab.testing import Recorder

    return Recorder


class _LastRecords:
    """Adds the last records of a failed test's machines to its report. Only there once a test makes some."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            item.stash[_FAILED] = True
            machines = (machine for machine in item.stash.get(_MADE, []) if machine.tracer.keeps)
            report.sections.extend(map(_section, machines))
        return report


def _section(machine: Machine) -> tuple[str, str]:
    from collections import deque

    from ntlab.testing.lines import line_of

    last = deque(machine.tracer.records(), _LAST)
    title = f"ntlab: last {len(last)} records of {machine.name!r} at {machine.engine.now} ns"
    return title, "\n".join(map(line_of, last))


# -- golden traces ----------------------------------------------------------------------------------------


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare a machine's records with those kept in `golden/TEST_FILE/TEST.trace` beside the test's file.

    `golden(machine)`, or `golden(Recorder(machine)("FileIo/*"), name="files")`; otherwise as
    `ntlab.testing.compare_golden`. `pytest --ntlab-accept` writes the files.
    """
    from ntlab.testing import compare_golden

    folder = request.path.parent / "golden" / request.path.stem
    compared: set[Path] = set()

    def compare(subject: Machine | Records, name: str | None = None, **options: Any) -> None:
        words = [request.node.name, *([] if name is None else [name])]
        path = folder / ("-".join(re.sub(r"[^\w.-]+", "-", word).strip("-") for word in words) + ".trace")
        if path in compared:
            raise ValueError(
                f"{path.name} is compared twice in this test: give each comparison a name of its own"
            )
        compared.add(path)
        compare_golden(subject, path, **options)

    return compare


# -- what is installed ------------------------------------------------------------------------------------


@pytest.fixture
def installed_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Let some plugins be the only ones that are installed, for one test.

    `installed_only("ws2003", Mine, folder)`: an installed plugin by its name, a plugin class whether it is
    registered or not, and all that the distributions in a folder bring.
    """
    from ntlab.lab.registry import GROUP, installed

    real = metadata.entry_points
    packages: set[str] = set()  # that come from folders: imported anew, and forgotten at the end

    def use(*plugins: str | type | Path) -> None:
        folders = [str(each) for each in plugins if isinstance(each, Path)]
        entries = [entry for dist in metadata.distributions(path=folders) for entry in dist.entry_points]
        packages.update(entry.module.partition(".")[0] for entry in entries if entry.group == GROUP)
        for each in plugins:
            if isinstance(each, type):
                entries.append(_present(each, GROUP))
            elif isinstance(each, str):
                monkeypatch.setattr(metadata, "entry_points", real)
                installed.cache_clear()
                installed().plugin(each)  # raises where there is none
                entries += real(group=GROUP, name=each)

        def entry_points(**selection: Any) -> Any:
            if str(selection.get("group", "")).startswith("ntlab."):
                return metadata.EntryPoints(entries).select(**selection)
            return real(**selection)

        for folder in reversed(folders):
            monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(metadata, "entry_points", entry_points)
        for name in _modules(packages):
            monkeypatch.delitem(sys.modules, name)
        installed.cache_clear()

    yield use
    for name in _modules(packages):
        del sys.modules[name]
    installed.cache_clear()


def _modules(packages: set[str]) -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in packages]


def _present(cls: type, group: str) -> metadata.EntryPoint:
    """An entry point of a class that is there already."""
    from ntlab.plugin import plugin_info

    class Present(metadata.EntryPoint):
        def load(self) -> type:
            return cls

    return Present(plugin_info(cls).name, f"{cls.__module__}:{cls.__qualname__}", group)

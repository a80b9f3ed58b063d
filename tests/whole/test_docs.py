"""What the documents show is what happens: commands and examples are run, and links lead somewhere."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest

from documents import DOCUMENTS, ROOT, rendered
from ntlab.testing import boot, bursts

pytestmark = pytest.mark.once

PACKAGES = [*(ROOT / "plugins").glob("*/README.md"), *(ROOT / "examples").glob("*/README.md")]
TEXTS = [*DOCUMENTS, ROOT / "CHANGELOG.md", *sorted(PACKAGES)]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_a_document_shows_what_its_commands_print(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = file.read_text(encoding="utf-8")
    assert rendered(text, tmp_path) == text, "python tests/documents.py writes it anew"


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_between_documents(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target


def test_what_a_plugin_can_see_is_there() -> None:
    machine = boot(1)
    thread = machine.create_thread(machine.create_process("p"), bursts(1))
    subjects = {"thread": thread, "processor": machine.processors[0], "machine": machine}
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    reads, calls = page.partition("## What it can see")[2].split("| of `machine` | |")
    for name, names in re.findall(r"^\| `(\w+)` \| (.*) \|$", reads, re.MULTILINE):
        for attribute in re.findall(r"`([\w.]+)", names):
            attrgetter(attribute)(subjects[name])
    called = re.findall(r"^\| (`.*?) \|", calls, re.MULTILINE)
    assert called
    for attribute in re.findall(r"`([\w.]+)", " ".join(called)):
        assert callable(attrgetter(attribute)(machine))

"""What the documents show is what happens: commands and examples are run, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documents import DOCUMENTS, ROOT, rendered

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

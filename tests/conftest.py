"""Fixtures that several families of tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import settings

from ntlab.lab.registry import installed

# Timing never decides a test.
settings.register_profile("ntlab", deadline=None)
settings.load_profile("ntlab")


@pytest.fixture
def use_distributions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Let the distributions in some folders be the only ones that bring plugins, for one test."""

    def use(*folders: Path) -> None:
        names = [str(folder) for folder in folders]

        def entry_points(group: str) -> metadata.EntryPoints:
            found = [entry for dist in metadata.distributions(path=names) for entry in dist.entry_points]
            return metadata.EntryPoints(found).select(group=group)

        for folder in reversed(names):
            monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(metadata, "entry_points", entry_points)
        for name in [name for name in sys.modules if name.startswith("ntlab_")]:
            monkeypatch.delitem(sys.modules, name)
        installed.cache_clear()

    yield use
    installed.cache_clear()


@pytest.fixture
def toy(use_distributions: Callable[..., None]) -> None:
    """Only the plugins of `tests/toy` are installed."""
    use_distributions(Path(__file__).parent / "toy")

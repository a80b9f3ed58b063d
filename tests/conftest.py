"""Fixtures that several families of tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Timing never decides a test.
settings.register_profile("ntlab", deadline=None)
settings.load_profile("ntlab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A plugin that does the same on all Pythons (`test_pythons` sees to it) need be tested on one.
    for item in items:
        if item.path.parent.name == "plugins" or item.name.startswith("test_conformance["):
            item.add_marker("once")


@pytest.fixture
def toy(installed_only: Callable[..., None]) -> None:
    """Only the plugins of `tests/toy` are installed."""
    installed_only(Path(__file__).parent / "toy")

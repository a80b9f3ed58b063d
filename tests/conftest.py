"""Fixtures that several families of tests share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from ntlab.testing import kit
from pythons import newer_pythons

# Timing never decides a test.
settings.register_profile("ntlab", deadline=None)
settings.load_profile("ntlab")

# Looking through all that is imported as often as Python would takes a tenth of the time of the tests.
gc.set_threshold(10_000, 10, 20)

# What conformance runs in another process gives the same on the newest Python that is here.
kit.PYTHON = [sys.executable, *newer_pythons()][-1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A plugin that does the same on all Pythons, as its conformance shows, need be tested on one.
    for item in items:
        if item.path.parent.name == "plugins" or item.name.startswith("test_conformance["):
            item.add_marker("once")


@pytest.fixture
def toy(installed_only: Callable[..., None]) -> None:
    """Only the plugins of `tests/toy` are installed."""
    installed_only(Path(__file__).parent / "toy")

"""Fixtures that several families of tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Timing never decides a test.
settings.register_profile("ntlab", deadline=None)
settings.load_profile("ntlab")


@pytest.fixture
def toy(installed_only: Callable[..., None]) -> None:
    """Only the plugins of `tests/toy` are installed."""
    installed_only(Path(__file__).parent / "toy")

"""What the claims of shipped experiments rest on: which fail when something is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ntlab


def failing(
    experiment: str, change: Mapping[str, Any] | None = None, *, hardware: str | None = None
) -> set[str]:
    """The claims that fail by one seed, with these settings in all arms, on that hardware.

    One seed shows what a claim rests on. That it holds over all its seeds, the conformance kit and `ntlab
    claims` see.
    """
    result = ntlab.run(experiment, set=change or {}, hardware=hardware, seeds=1)
    return {found.claim.id for found in result.claims if not found.holds}


def options(plugin: str, change: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a plugin's options, as `failing` takes them."""
    return {f"{plugin}.{option}": value for option, value in change.items()}

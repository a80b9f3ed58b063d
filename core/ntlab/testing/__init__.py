"""What the author of a plugin tests it with. Nothing here needs pytest; the pytest plugin is `ntlab_pytest`.

Everything is imported when it is first used, so that test suites of others pay nothing for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntlab.testing.faults import Faults
    from ntlab.testing.golden import compare_golden
    from ntlab.testing.kit import Broken, NotShown, conformance, conformance_rules
    from ntlab.testing.machines import boot, bursts, rules, small_tables
    from ntlab.testing.mixing import covering_sets
    from ntlab.testing.programs import exercise
    from ntlab.testing.recorder import Recorder, Records, Stretch

_HOMES = {
    "Broken": "kit",
    "Faults": "faults",
    "NotShown": "kit",
    "Recorder": "recorder",
    "Records": "recorder",
    "Stretch": "recorder",
    "boot": "machines",
    "bursts": "machines",
    "covering_sets": "mixing",
    "compare_golden": "golden",
    "conformance": "kit",
    "conformance_rules": "kit",
    "exercise": "programs",
    "rules": "machines",
    "small_tables": "machines",
}
"""The names of this package, and the module each is in."""

__all__ = [
    "Broken",
    "Faults",
    "NotShown",
    "Recorder",
    "Records",
    "Stretch",
    "boot",
    "bursts",
    "compare_golden",
    "conformance",
    "conformance_rules",
    "covering_sets",
    "exercise",
    "rules",
    "small_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ntlab.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"ntlab.testing.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__

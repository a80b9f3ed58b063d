"""Writes the reference in docs/hooks.md anew, from the specifications: `python tests/hook_reference.py`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from ntlab.lab.reference import read_hooks
from ntlab.lab.registry import Registry, installed

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "hooks.md"

_MADE = re.compile(
    r"(?<=<!-- made by tests/hook_reference.py from here -->\n).*(?=<!-- to here -->)", re.DOTALL
)


def rendered(page: str) -> str:
    """The page with the hooks of ntlab and of its own plugins, whatever else is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = project["entry-points"]["ntlab.plugins"]
    reference = read_hooks(Registry({name: installed().plugin(name) for name in names}))
    assert not reference.faults, reference.faults
    made, count = _MADE.subn(lambda _: f"\n{reference.markdown()}\n", page)
    assert count == 1, "the page has lost the marks between which the reference stands"
    return made


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

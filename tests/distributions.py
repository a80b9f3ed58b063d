"""Distributions as third parties make them. The fixture `installed_only` installs them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import ntlab

TOY = Path(__file__).parent / "toy"
"""The distribution `ntlab-toy`: a small workload, and plugins that answer, conflict and raise."""


def environment(*folders: Path, **more: str) -> dict[str, str]:
    """What a fresh process needs to find ntlab, the toy plugins and what is in these folders."""
    paths = [*map(str, folders), str(TOY), str(Path(ntlab.__file__).parents[1])]
    paths.append(os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def write_distribution(
    folder: Path,
    name: str,
    *,
    plugins: Mapping[str, str] | None = None,
    hardware: Mapping[str, str] | None = None,
    modules: Mapping[str, str],
    readme: str = "",
) -> None:
    """A distribution on disk.

    `plugins` and `hardware`: entry point name -> object; `modules`: file -> content; `readme`: its content.
    """
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n{readme}")
    groups = {"ntlab.plugins": plugins or {}, "ntlab.hardware": hardware or {}}
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for file, content in modules.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

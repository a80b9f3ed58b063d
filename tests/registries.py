"""Registries of plugins that no distribution brings, and what of ours is there when it is tested alone."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntlab import plugin
from ntlab.lab.registry import InstalledPlugin, Registry, installed

BUILT_IN = {
    folder.name.removeprefix("ntlab_") for folder in Path(__file__).parents[1].glob("plugins/ntlab_*")
}


def runnable(plugin: str) -> list[str]:
    """A built-in plugin's experiments, but those with others of ours that are not installed here."""
    registry = installed()
    missing = BUILT_IN - set(registry.names())
    found = []
    for name, (owner, file) in registry.experiment_files.items():
        if owner == plugin:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
            parts = [document, *document["arms"].values()]
            if not missing & {used for part in parts for used in part.get("plugins", {})}:
                found.append(name)
    return found


class Entry:
    """An entry point whose object is at hand."""

    module = "no.such.package"

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def load(self) -> type:
        return self.cls


def registry(**said: Mapping[str, Any]) -> Registry:
    """A registry of plugins that say this of themselves."""
    plugins = {}
    for name, words in said.items():
        described = {"summary": "", "release": "ws2008", **words}
        cls = plugin(name=name, **described)(type(name, (), {}))
        plugins[name] = InstalledPlugin(name, "test", "1", Entry(cls))  # type: ignore[arg-type]
    return Registry(plugins)

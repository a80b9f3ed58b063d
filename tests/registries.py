"""Registries of plugins that no distribution brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntlab import plugin
from ntlab.lab.registry import InstalledPlugin, Registry


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

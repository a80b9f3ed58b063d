"""The hardware profiles that are installed: ntlab's own, and those of other distributions.

A distribution names a package under the entry point group ``ntlab.hardware``; each ``*.toml`` in the folder
of that package is a profile, under the name of its file. Nothing is imported, and what is wrong with one
profile is told when that one is asked for.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ntlab.topology.tables import TopologyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ntlab.topology.model import Topology

GROUP = "ntlab.hardware"
OWN = "ntlab"
"""The distribution that the shipped profiles come with."""
HOST = "host"
"""The name under which `ntlab.topology.load` reads the running machine."""


@dataclass(frozen=True, slots=True)
class Profile:
    """An installed profile. `mistake` says why it cannot be had, where that is known without reading it:
    `path` is None where there is no file."""

    name: str
    distribution: str
    path: Path | None
    mistake: str = ""

    def read(self) -> Topology:
        """The machine. Raises TopologyError or UnknownNameError for what is none."""
        if self.path is None or self.mistake:
            raise TopologyError(self.mistake, where=f"hardware {self.name!r}")
        from ntlab.topology import profile

        topology = profile.read(self.path)
        if topology.name != self.name:
            # Results and plugins would take it for another machine than was asked for.
            raise TopologyError(f"name is {topology.name!r}", where=str(self.path), expected=repr(self.name))
        return topology


def profiles() -> dict[str, Profile]:
    """The installed profiles by name: ntlab's, then the others', each in the order of their names."""
    package = Path(__file__).resolve().parents[1]
    # Beside the package in a wheel; at the root of the repository in a source checkout.
    folders = (package / "hardware_profiles", package.parents[1] / "hardware_profiles")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    found = {path.stem: Profile(path.stem, OWN, path) for path in _files(folder)}
    for one in sorted(_of_others(), key=lambda one: (one.name, one.distribution, str(one.path))):
        if one.name in found:
            both = f"{found[one.name].distribution!r} and {one.distribution!r}"
            found[one.name] = replace(found[one.name], mistake=f"is brought by two distributions: {both}")
        elif one.name == HOST:
            found[HOST] = replace(one, mistake="is the name of the running machine, and no profile's")
        else:
            found[one.name] = one
    return found


def _of_others() -> Iterator[Profile]:
    from importlib import metadata

    for entry in metadata.entry_points(group=GROUP):
        distribution = entry.dist.name if entry.dist is not None else "unknown"
        folder = _folder(entry.value)
        files = _files(folder) if folder is not None else []
        if not files:
            what = "there is no such package" if folder is None else f"{folder} holds no *.toml"
            mistake = f"{distribution!r} brings profiles in {entry.value!r}, but {what}"
            yield Profile(entry.name, distribution, None, mistake)
        for path in files:
            yield Profile(path.stem, distribution, path)


def _folder(package: str) -> Path | None:
    """Where a package lies; found without importing it."""
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    places = spec.submodule_search_locations if spec is not None else None
    folders = (Path(place, *rest) for place in places or ())
    return next((folder for folder in folders if folder.is_dir()), None)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"))

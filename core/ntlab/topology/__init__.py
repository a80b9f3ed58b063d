"""The hardware of a simulated machine: described as a networkx graph, frozen into tables at boot.

`load` reads an installed profile by name, a profile, hwloc XML or ACPI tables by path, or the running host;
`Topology.freeze` makes the `Tables` that the simulation reads. Everything heavy is imported when first used.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from ntlab.errors import UnknownNameError
from ntlab.topology.groups import assign_groups
from ntlab.topology.installed import HOST, OWN, Profile, profiles
from ntlab.topology.model import Topology
from ntlab.topology.power import IdleState, PerformanceState, Power
from ntlab.topology.tables import Cache, Device, Link, Tables, TopologyError, members

__all__ = [
    "OWN",
    "Cache",
    "Device",
    "IdleState",
    "Link",
    "PerformanceState",
    "Power",
    "Profile",
    "Tables",
    "Topology",
    "TopologyError",
    "assign_groups",
    "load",
    "members",
    "profiles",
    "to_acpi",
    "to_profile",
]


def load(name: str | Path, *, allowed_only: bool = True) -> Topology:
    """A machine by the name of its profile, by the path of a .toml profile, an hwloc .xml file or ACPI tables
    (.acpi, see `ntlab.topology.acpi`), or "host".

    `allowed_only` concerns hwloc files and the host: the processors and memory that were allowed to whoever
    looked, else all. Raises UnknownNameError for a name that is neither, TopologyError for a file that is no
    machine, and for a name that two distributions bring.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix == ".xml":
        from ntlab.topology import hwloc

        return hwloc.read(path, allowed_only=allowed_only)
    if suffix == ".acpi":
        from ntlab.topology import acpi

        return acpi.read(path)
    if str(name) == HOST:
        from ntlab.topology import host

        return host.read(allowed_only=allowed_only)
    if suffix == ".toml":
        from ntlab.topology import profile

        return profile.read(path)
    known = profiles()
    if str(name) not in known:
        raise UnknownNameError("hardware", str(name), [*known, HOST])
    return known[str(name)].read()


def to_acpi(topology: Topology) -> bytes:
    """What firmware would tell of the topology: the ACPI tables SRAT and SLIT, one after the other."""
    from ntlab.topology import acpi

    return acpi.write(topology.freeze())


def to_profile(topology: Topology) -> str:
    """The topology as the TOML text of a profile, which reads back to equal tables."""
    from ntlab.topology import profile

    return profile.write(topology)


class _Callable(ModuleType):
    """`ntlab.topology("smp-4")` is offered beside this package, under the same name: so it can be called."""

    def __call__(self, name: str | Path, *, allowed_only: bool = True) -> Topology:
        return load(name, allowed_only=allowed_only)


sys.modules[__name__].__class__ = _Callable

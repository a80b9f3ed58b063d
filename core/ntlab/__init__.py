"""ntlab: a laboratory for operating-system mechanisms.

    import ntlab

    ntlab.run("numa-home")              # an experiment: its arms, measured
    ntlab.claims(["N4"])                # what is claimed of a ledger row, judged
    ntlab.ablate("paging-writes", "reads")  # which of the differences between its arms does that
    ntlab.topology("opteron-4s")        # a machine

What describes a plugin is here at once; everything else is imported when it is first used, so `import ntlab`
costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ntlab._version import __version__
from ntlab.errors import NtlabError, PluginError, SimulationError, UnknownNameError, UserError
from ntlab.plugin import Metric, option, plugin, state, workload
from ntlab.quantities import (
    Duration,
    Rate,
    Share,
    Size,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)

if TYPE_CHECKING:
    from ntlab.hooks import hookimpl, hookspec, observer
    from ntlab.lab.api import (
        ablate,
        claims,
        experiments,
        hook_reference,
        perfetto,
        plugin_order,
        plugins,
        rerun,
        run,
        view,
    )
    from ntlab.lab.options import read_options
    from ntlab.lab.profiling import profile
    from ntlab.lab.sweep import sweep
    from ntlab.lab.tables import Table
    from ntlab.topology import load as topology

_LAZY = {
    "Table": "ntlab.lab.tables",
    "ablate": "ntlab.lab.api",
    "claims": "ntlab.lab.api",
    "experiments": "ntlab.lab.api",
    "hook_reference": "ntlab.lab.api",
    "hookimpl": "ntlab.hooks",
    "hookspec": "ntlab.hooks",
    "observer": "ntlab.hooks",
    "perfetto": "ntlab.lab.api",
    "plugin_order": "ntlab.lab.api",
    "plugins": "ntlab.lab.api",
    "profile": "ntlab.lab.profiling",
    "read_options": "ntlab.lab.options",
    "rerun": "ntlab.lab.api",
    "run": "ntlab.lab.api",
    "sweep": "ntlab.lab.sweep",
    "view": "ntlab.lab.api",
}
"""Names that are imported when they are first used, and the module each is in."""

__all__ = [
    "Duration",
    "Metric",
    "NtlabError",
    "PluginError",
    "Rate",
    "Share",
    "SimulationError",
    "Size",
    "Table",
    "UnknownNameError",
    "UserError",
    "__version__",
    "ablate",
    "claims",
    "experiments",
    "format_duration",
    "format_rate",
    "format_size",
    "hook_reference",
    "hookimpl",
    "hookspec",
    "observer",
    "option",
    "parse_duration",
    "parse_rate",
    "parse_share",
    "parse_size",
    "perfetto",
    "plugin",
    "plugin_order",
    "plugins",
    "profile",
    "read_options",
    "rerun",
    "run",
    "state",
    "sweep",
    "topology",
    "view",
    "workload",
]


def __getattr__(name: str) -> Any:
    if name == "topology":
        return import_module("ntlab.topology")  # a package that may be called: see there
    if name not in _LAZY:
        raise AttributeError(f"module 'ntlab' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__

"""A machine's life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine


@hookspec(firstresult=True)
def architecture(machine: Machine) -> str | None:
    """Which kernel is installed: "x86", "x64" or "ia64". Asked while the machine is put together.

    2003: its option. None everywhere: "x64".
    """


@observer
def machine_booted(machine: Machine) -> None:
    """The machine is complete and nothing has run on it. Set up what the plugin needs.

    Its clock stands at 0, unless it was restarted after a crash or is a child partition.
    """


@observer
def machine_stopped(machine: Machine) -> None:
    """The machine will run no more. Account for what is still open."""

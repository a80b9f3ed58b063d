"""A machine's life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import observer

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine


@observer
def machine_booted(machine: Machine) -> None:
    """The machine is complete and its clock stands at 0; nothing has run. Set up what the plugin needs."""


@observer
def machine_stopped(machine: Machine) -> None:
    """The machine will run no more. Account for what is still open."""

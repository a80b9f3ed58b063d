"""What a kernel decides about hardware errors and about crashes.

Hardware finds an error; the registers of the component hold it; an error source signals it. What is not
covered by a source is never noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.crashes import Crash
    from ntlab.machine.hardware_errors import ErrorSource, LatchedError
    from ntlab.machine.machine import Machine


@hookspec(firstresult=True)
@expects("each with an id of its own", lambda answer: len({each.id for each in answer}) == len(answer))
def error_sources(machine: Machine) -> Sequence[ErrorSource] | None:
    """The error sources that the kernel listens to, each with an id of its own.

    Asked once, at boot, before `machine_booted`. 2003: machine check exceptions and non-maskable interrupts.
    None everywhere: nobody learns of an error.
    """


@hookspec(firstresult=True)
def hardware_error(machine: Machine, latched: LatchedError) -> bool | None:
    """An error source has signalled: the kernel handles what its registers hold, which are clear now.

    Asked at the instant of an exception or a non-maskable interrupt, in the service routine of an interrupt,
    and when a polled source is looked at. May call `machine.bug_check`, which does not return. True: it is
    dealt with. 2003: always bug check. False, or None everywhere: the error is passed over.
    """


@observer
def error_reported(machine: Machine, latched: LatchedError) -> None:
    """The kernel has reported an error after which the machine goes on: whoever watches over the health of
    the hardware sees it.

    Called by `hardware_errors.reported`, when a corrected or recovered error is recorded, whether or not it
    is worth an event. 2003: nobody reports corrected errors.
    """


@hookspec
@expects("addresses of 0 and more", lambda answer: all(address >= 0 for address, _ in answer))
def crash_memory(machine: Machine, crash: Crash) -> Sequence[tuple[int, bytes]] | None:
    """Memory that belongs into the crash dump, as pairs of virtual address and bytes.

    Asked by a bug check, when time stands still. All answers go into the dump; the ranges of all together
    must not overlap. None, as in 2003: nothing.
    """


@observer
def bug_checked(machine: Machine, crash: Crash) -> None:
    """A machine has crashed and its dump is written. It does nothing any more.

    Called once, at the instant of the crash; what a plugin keeps for the next boot is in
    `machine.nonvolatile`. 2003: nobody listens.
    """

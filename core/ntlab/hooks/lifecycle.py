"""A machine's life: which kernel it has, when it has booted, when it is over.

A machine that restarts after a crash is another `Machine`, with new instances of its plugins: each hook here
is called for it again. So it is for a child partition, whose plugins are instances of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine


@hookspec(firstresult=True)
@expects('"x86", "x64" or "ia64"', lambda answer: answer in ("x86", "x64", "ia64"))
def architecture(machine: Machine) -> str | None:
    """Which kernel is installed: "x86", "x64" or "ia64".

    Asked once and first of all, when the machine has its tables, engine, tracer and streams, but no mechanism
    yet. Crash dumps depend on it. 2003: its option. None everywhere: "x64".
    """


@observer
def machine_created(machine: Machine) -> None:
    """The machine has its tables, engine, tracer and streams, and no mechanism yet.

    Called once, before mechanisms ask the tracer where their records go: the place to subscribe to records.
    Nothing else of the machine may be used here. 2003: nobody listens.
    """


@observer
def machine_booted(machine: Machine) -> None:
    """The machine is complete and nothing has run on it: the place to set up what a plugin needs.

    Called once, by `Machine.boot`, before the workload starts. Its clock stands at 0, unless it was restarted
    after a crash or is a child partition. 2003 looks at the hardware here.
    """


@observer
def hardware_changed(machine: Machine) -> None:
    """Processors or memory have come or gone while the machine runs: `machine.tables` is another one now.

    Called before a new processor may run anything and again when it may, when one has been taken out, and
    when memory is there. A number once given to a processor stays valid, but `scheduler.all_mask` says which
    may run threads. What a plugin has worked out from the tables it works out again here, as 2003 does.
    """


@observer
def machine_stopped(machine: Machine) -> None:
    """The machine will run no more: the place to account for what is still open.

    Called once, after the last event and before the workload measures. A machine that crashed and was
    restarted is not stopped: see `bug_checked`. 2003: nobody listens.
    """

"""What the power mechanism asks. Nobody is asked on a machine where nobody answers `power_policy`.

Powers are mW, energies pJ. Idle states are numbered from 0, the shallowest; the machine's description has
them (`machine.tables.power.idle`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import PowerPolicy
    from ntlab.machine.processors import Processor


@hookspec(firstresult=True)
def power_policy(machine: Machine) -> PowerPolicy | None:
    """That idle states, performance states and energy are simulated, and by which rules.

    Asked once, while the machine is put together. 2003: its option `power`. None everywhere: they are not, a
    processor that has nothing to do costs nothing and begins at once.
    """


@hookspec(firstresult=True)
@expects("the number of an idle state", lambda answer: answer >= 0)
def idle_state(processor: Processor, idle: int, predicted: int) -> int | None:
    """The number of the idle state that a processor asks for.

    Asked when it has nothing to do (`idle` is 0), and again when it has been idle for so many ns: after the
    policy's `recheck` and its multiples, until the deepest state pays, and when it is parked or is no longer.
    `predicted` is how long its idle time is expected to be, ns: the median of its last ones. None everywhere,
    as in 2003: the deepest state whose residency is not above that.
    """

"""What kernel timers and the clock ask.

Times are ns since boot, masks of processors integers. On a machine where nobody sets a timer or starts the
clock, nothing is asked but the policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import TimerPolicy
    from ntlab.machine.timers import Timer


@hookspec(firstresult=True)
def timer_policy(machine: Machine) -> TimerPolicy | None:
    """Which processor keeps the time, and what the clock and timers cost.

    Asked once, while the machine is put together. 2003: processor 0; 3 us clock interrupt, 2 us of its DPC
    and 1 us for each timer that expires. None everywhere: `TimerPolicy()`, where all costs are 0.
    """


@hookspec(firstresult=True)
@expects(
    "running processors, those of `due` among them",
    lambda answer, machine, due: not answer & ~machine.scheduler.all_mask and not due & ~answer,
)
def tick_processors(machine: Machine, due: int) -> int | None:
    """Which processors get the clock interrupt of this tick: a mask.

    Asked at each tick. `due` must be among them: the processors that must not miss it, because they keep the
    time, have timers due, or do something. None everywhere, as in 2003: all that run.
    """


@hookspec(firstresult=True)
@expects(
    "a running processor",
    lambda answer, timer: answer >= 0 and timer.machine.scheduler.all_mask >> answer & 1,
)
def timer_processor(timer: Timer, here: int) -> int | None:
    """The number of the processor in whose table a timer is kept, and where it will expire.

    Asked each time a timer is set. `here` is the processor that sets it, or the one that the caller wants.
    None everywhere, as in 2003: there is one table, and the processor that keeps the time expires its timers.
    """


@hookspec(firstresult=True)
@expects("earliest to latest", lambda answer, earliest, latest: earliest <= answer <= latest)
def align_timer(timer: Timer, earliest: int, latest: int) -> int | None:
    """When a timer with a tolerance shall be due, from `earliest` to `latest`.

    Asked when it is set, and again for each period (`timer.expirations` is above 0 then). It will expire at
    the first tick from then on; `timers.tick_from` says when that is. None everywhere, as in 2003, which
    knows no tolerances: at `earliest`.
    """

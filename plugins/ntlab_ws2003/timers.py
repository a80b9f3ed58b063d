"""How Windows Server 2003 keeps the time: every processor gets each tick, and all timers are in one table."""

from __future__ import annotations

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import TimerPolicy
from ntlab.plugin import option
from ntlab.quantities import Duration


@attrs.define(slots=False, eq=False)
class Timekeeping:
    """The costs of the clock. Source of the mechanism: scheduling facts, sections 1.1, 8 and 9; the times are
    round figures of the usual range, not measurements."""

    time_keeper: int = option(
        default=0, help="The processor that takes the clock interrupt and sends it on.", minimum=0
    )
    clock_time: Duration = option(
        default=Duration(3_000), help="Service routine of the clock interrupt.", minimum=0
    )
    expiration_time: Duration = option(
        default=Duration(2_000), help="DPC in which timers expire, without them.", minimum=0
    )
    timer_time: Duration = option(
        default=Duration(1_000), help="Each timer that expires, without its own DPC.", minimum=0
    )

    timers_per_hold: int = option(
        default=16,
        help="After how many timers with DPCs the dispatcher lock is freed for others; 0: after all.",
        minimum=0,
    )

    @hookimpl
    def timer_policy(self) -> TimerPolicy:
        return TimerPolicy(
            keeper=self.time_keeper,
            clock_time=self.clock_time,
            expiration_time=self.expiration_time,
            timer_time=self.timer_time,
            timers_per_hold=self.timers_per_hold,
        )

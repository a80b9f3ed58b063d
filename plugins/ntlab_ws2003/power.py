"""Power in Windows Server 2003: processors idle by their idle states, and nothing is parked."""

from __future__ import annotations

from typing import Literal

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import Machine, PowerPolicy, Processor
from ntlab.plugin import option


@attrs.define(slots=False, eq=False)
class PowerManagement:
    """Source of the figures: scheduling facts, section 7; the prediction of idle times is ntlab's own."""

    power: bool = option(
        default=False,
        help="Whether processors have idle states and energy is counted; if not, they begin at once.",
    )
    idle_states: Literal["all", "first", "first_unless_parked"] = option(
        default="all",
        help="Which idle states are used: the deepest that pays for the idle time predicted; the first (C1) "
        "alone; or that alone by processors that are not parked.",
    )

    _powered: Machine = attrs.field(init=False, repr=False, eq=False)

    @hookimpl
    def power_policy(self, machine: Machine) -> PowerPolicy | None:
        self._powered = machine
        return PowerPolicy() if self.power else None

    @hookimpl
    def idle_state(self, processor: Processor) -> int | None:
        if self.idle_states == "first_unless_parked":
            power = self._powered.power
            return None if power is not None and power.parked & processor.bit else 0
        return 0 if self.idle_states == "first" else None

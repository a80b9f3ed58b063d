"""Power in Windows Server 2003: processors idle by their idle states, and nothing is parked."""

from __future__ import annotations

from typing import Literal

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import PowerPolicy
from ntlab.plugin import option


@attrs.define(slots=False, eq=False)
class PowerManagement:
    """Source of the figures: scheduling facts, section 7; the prediction of idle times is ntlab's own."""

    power: bool = option(
        default=False,
        help="Whether processors have idle states and energy is counted; if not, they begin at once.",
    )
    idle_states: Literal["all", "first"] = option(
        default="all",
        help="Which idle states are used: the deepest that pays for the idle time predicted, or C1 alone.",
    )

    @hookimpl
    def power_policy(self) -> PowerPolicy | None:
        return PowerPolicy() if self.power else None

    @hookimpl
    def idle_state(self) -> int | None:
        return 0 if self.idle_states == "first" else None

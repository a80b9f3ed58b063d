"""How Windows Server 2003 starts up."""

from __future__ import annotations

from typing import Literal

import attrs

from ntlab.hooks import hookimpl


@attrs.define(slots=False, eq=False)
class StartingUp:
    """Drivers were initialised one by one, so a slow one delayed all (scheduling facts, 13)."""

    @hookimpl
    def task_may_start(self) -> Literal[False]:
        return False

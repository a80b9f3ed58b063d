"""The feature: the DPC puts a finished request into its port, and whoever removes it does the final step."""

from __future__ import annotations

from typing import Literal

from ntlab.hooks import hookimpl
from ntlab.machine import IoRequest
from ntlab.plugin import option, plugin
from ntlab_completion_ports.workloads import Arrivals, Messages, Orphans


@plugin(
    name="completion_ports",
    summary="Completion ports defer the final step of a request to the thread that removes it.",
    release="ws2008",
    ledger=("P2",),
    workloads=(Messages, Arrivals, Orphans),
    neutral={"deferred": False},
)
class CompletionPorts:
    """What Server 2008 changed in completion ports."""

    deferred: bool = option(
        default=True, help="Whether a request ends at its port; if not, in its issuing thread as in 2003."
    )

    @hookimpl
    def completion_plan(self, request: IoRequest) -> Literal["port"] | None:
        return "port" if self.deferred else None

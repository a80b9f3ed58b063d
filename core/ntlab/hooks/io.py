"""What input and output ask.

Times are ns, sizes bytes. `request` is an `IoRequest`; its device knows its machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import hookspec

if TYPE_CHECKING:
    from ntlab.machine.io import IoRequest
    from ntlab.machine.policy import IoPolicy

CompletionPlan = Literal["apc", "port"]
"""How a request that is bound to a completion port ends. "apc": the issuing thread runs the final step, then
the packet is queued. "port": the packet is queued, and whoever removes it does the final step."""


@hookspec(firstresult=True)
def io_policy(machine: object) -> IoPolicy | None:
    """The fixed costs of input and output. Asked once at boot; None everywhere gives `IoPolicy()`, all 0.

    2003: 5 us interrupt, 10 us DPC, 2 us final step.
    """


@hookspec
def max_transfer(request: IoRequest) -> int | None:
    """The most bytes that the device can move for that request in one go; None: no limit.

    Asked when the request reaches its device. The least of all answers counts: a longer request is split,
    and is complete when all its parts are. 2003: what the adapter can do.
    """


@hookspec(firstresult=True)
def interrupt_processor(request: IoRequest) -> int | None:
    """The number of the processor that takes the interrupt of a device that has finished a request.

    2003: any processor, whoever asked for the request. None everywhere: the lowest.
    """


@hookspec(firstresult=True)
def dpc_processor(request: IoRequest, interrupted: int) -> int | None:
    """The number of the processor that completes a request (the DPC). `interrupted` took the interrupt.

    2003: nobody answers. None everywhere: the interrupted one.
    """


@hookspec(firstresult=True)
def completion_plan(request: IoRequest) -> CompletionPlan | None:
    """How a request that is bound to a completion port will end. Asked when it is issued.

    Not asked for requests without an issuing thread: there is nobody to run an APC.
    2003: "apc". None everywhere: "port".
    """

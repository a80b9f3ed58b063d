"""What input and output ask.

Times are ns, sizes bytes. `request` is an `IoRequest`; its device knows its machine. A request goes to its
device, which interrupts a processor when it is done; the interrupt's service routine queues a DPC, which
completes the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.io import IoRequest
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import IoPolicy

CompletionPlan = Literal["apc", "port"]
"""How a request that is bound to a completion port ends. "apc": the issuing thread runs the final step, then
the packet is queued. "port": the packet is queued, and whoever removes it does the final step."""


def _a_processor(answer: int, request: IoRequest) -> bool:
    return 0 <= answer < len(request.device.machine.processors)


@hookspec(firstresult=True)
def io_policy(machine: Machine) -> IoPolicy | None:
    """The fixed costs of input and output, and the model of the disks.

    Asked once, while the machine is put together: it has processors and locks, but no memory yet. 2003: 5 us
    interrupt, 10 us DPC, 2 us final step. None everywhere: `IoPolicy()`, where all costs are 0.
    """


@hookspec
@expects("bytes, 1 or more", lambda answer: answer >= 1)
def max_transfer(request: IoRequest) -> int | None:
    """The most bytes that the device can move for that request in one go, 1 and more.

    Asked when the request reaches its device. The least of all answers counts: a longer request is split, and
    is complete when all its parts are. 2003: what the adapter can do, 1 MiB. None: no limit.
    """


@hookspec(firstresult=True)
@expects("bytes, 1 or more", lambda answer: answer >= 1)
def io_limit(request: IoRequest) -> int | None:
    """The most bytes that the I/O system hands to a device for memory management in one go, 1 and more.

    Asked when a request that pages (flag PAGING_IO) reaches its device, after `max_transfer`, whose answer
    counts as well. A longer request is split. 2003: 64 KiB. None everywhere: no limit.
    """


@hookspec(firstresult=True)
@expects("a processor of the machine", _a_processor)
def interrupt_processor(request: IoRequest) -> int | None:
    """The number of the processor that takes the interrupt of a device that has finished a request.

    Asked when the device has finished. 2003: any processor, whoever asked for the request. None everywhere:
    the lowest.
    """


@hookspec(firstresult=True)
@expects("a processor of the machine", _a_processor)
def dpc_processor(request: IoRequest, interrupted: int) -> int | None:
    """The number of the processor that completes a request by a DPC. `interrupted` took the interrupt.

    Asked at the end of the interrupt's service routine. None everywhere, as in 2003: the interrupted one.
    """


@hookspec(firstresult=True)
def completion_plan(request: IoRequest) -> CompletionPlan | None:
    """How a request that is bound to a completion port will end: "apc" or "port".

    Asked when it is issued, but not for requests without an issuing thread: there is nobody to run an APC.
    2003: "apc". None everywhere: "port".
    """

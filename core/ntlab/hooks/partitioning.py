"""What dynamic hardware partitioning asks: which parts a running Windows takes, who uses them, and how it
replaces failing ones.

Numbers of processors and nodes are those of the machine's tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import expects, hookspec

if TYPE_CHECKING:
    from ntlab.machine.io import Device
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import ReplacementPolicy
    from ntlab.machine.processors import Processor
    from ntlab.machine.threads import Process

Operation = Literal["add memory", "add processor", "replace memory", "replace processor"]


@hookspec(firstresult=True)
def partition_support(machine: Machine, operation: Operation) -> bool | None:
    """Whether the running kernel can add or replace such a part.

    Asked by `partitioning.supports`, and each time that it is ordered: an order that is not supported is the
    user's mistake. 2003 and None everywhere: it cannot, all hardware is as it was at boot.
    """


@hookspec(firstresult=True)
@expects("0 or more; 0 is no limit", lambda answer: answer >= 0)
def processor_limit(machine: Machine) -> int | None:
    """With how many processors the kernel can run.

    Asked when one is to be added. None everywhere, as in 2003: as many as the hardware has places for.
    """


@hookspec(firstresult=True)
def gets_processor(process: Process, processor: Processor, registered: bool) -> bool | None:
    """Whether a process gets a processor that has been added: then it is in its affinity, and in that of its
    threads that may run wherever the process may.

    Asked for each process when a processor has been added and drivers know of it. `registered`: the process
    asked to be told of such arrivals (`partitioning.register_application`), and will be. Processes that begin
    later may use all processors there are. None everywhere: it does not. 2003 is never asked: none is added.
    """


@hookspec(firstresult=True)
def replacement_policy(machine: Machine) -> ReplacementPolicy | None:
    """How a part is replaced: in which order, and at which costs.

    Asked when a replacement begins. None everywhere: `ReplacementPolicy()`. 2003 replaces nothing.
    """


@hookspec
def device_may_sleep(device: Device) -> bool | None:
    """Whether a device's driver lets the machine go to the state in which memory is exchanged.

    Asked of each device before any is turned off (the query of the system power state S4). One False among
    all answers ends the replacement: nothing is changed. None everywhere: it does. 2003 replaces nothing.
    """

"""Which processors end a request in Windows Server 2008: of the node that issued it, or the very one."""

from __future__ import annotations

import random
from typing import Literal

import attrs

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Device, IoRequest, Machine
from ntlab.plugin import option, plugin, state
from ntlab_numa_io.workloads import Receivers


@plugin(
    name="numa_io",
    summary="DPCs run in the node that issued the request; by MSI-X its processor takes the interrupt.",
    release="ws2008",
    ledger=("N8",),
    workloads=(Receivers,),
    neutral={"dpcs": "interrupted", "messages": "any", "close": False},
)
class NumaIo:
    """Where a request's interrupt and its DPC go. The kernel's own requests, which no thread has issued, are
    left to the baseline."""

    dpcs: Literal["node", "initiator", "interrupted"] = option(
        default="node",
        help="Where DPCs run: in the node that issued the request, on its processor, or where interrupted.",
    )
    messages: Literal["initiator", "any"] = option(
        default="initiator",
        help="Where devices with MSI-X interrupt: the processor that issued the request, or any.",
    )
    msix_devices: tuple[str, ...] = option(
        default=(), help="Devices whose drivers use MSI-X; none named: all that have it."
    )
    close: bool = option(
        default=False,
        help="Whether other interrupts go to the device's node (IrqPolicyAllCloseProcessors).",
    )
    processor_limit: int = option(
        default=0,
        help="On machines with more processors DPCs know no nodes (KB969468: 64); 0 is no limit.",
        minimum=0,
    )

    _machine: Machine = attrs.field(init=False, repr=False, eq=False)
    _stream: random.Random = attrs.field(init=False, repr=False, eq=False)
    _by_message: dict[Device, bool] = state(dict)

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        self._machine = machine
        self._stream = machine.streams.stream("numa_io", "close processors")

    @hookimpl
    def interrupt_processor(self, request: IoRequest) -> int | None:
        device = request.device
        if self.messages == "initiator" and request.initiator is not None and self._sends_messages(device):
            return request.initiator
        if self.close and device.node is not None:
            close = self._processors(device.node)
            return close[self._stream.randrange(len(close))] if close else None
        return None

    @hookimpl
    def dpc_processor(self, request: IoRequest, interrupted: int) -> int | None:
        initiator = request.initiator
        if initiator is None or self.dpcs == "interrupted":
            return None
        if self.dpcs == "initiator":
            return initiator
        processors = self._machine.processors
        node = processors[initiator].node
        if processors[interrupted].node == node or 0 < self.processor_limit < self._machine.groups.installed:
            return None
        return min(self._processors(node), key=lambda index: self._load(index, initiator), default=None)

    def _load(self, index: int, initiator: int) -> tuple[int, bool, bool]:
        """How busy a processor is: by interrupt work, then by whether a thread runs; the initiator first."""
        processor = self._machine.processors[index]
        work = len(processor.dpc_queue) + len(processor.isr_queue) + (processor.level > 0)
        return work, processor.thread is not None, index != initiator

    def _processors(self, node: int) -> list[int]:
        """The processors of a node that run."""
        there = self._machine.scheduler.all_mask
        return [index for index in self._machine.tables.node_processors[node] if there >> index & 1]

    def _sends_messages(self, device: Device) -> bool:
        known = self._by_message.get(device)
        if known is None:
            for name in self.msix_devices:
                if not device.machine.io.device(name).msix:
                    raise UserError(
                        f"device {name!r} has no MSI-X", where="numa_io.msix_devices", expected="one that has"
                    )
            named = not self.msix_devices or device.name in self.msix_devices
            known = self._by_message[device] = device.msix and named
        return known

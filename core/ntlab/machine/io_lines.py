"""The cache lines that input and output touch, and where they are by then.

A request's own structures (IRP, MDL and the like) are written by the processor that issues it, and again by
the one that runs its DPC. The device writes its data and a line of its own queue to memory: no cache holds
them then. The service routine reads the queue, which is in memory near the device; the DPC may read some of
the data, and at last the thread does. Who touches a line takes it to its caches, as `ntlab.machine.caches`
says; the device's own transfers cost no processor anything.

Nothing of this is done where the policy names no lines and the request names no buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntlab.machine.caches import Footprint, Refills

if TYPE_CHECKING:
    from ntlab.machine.io import Device, IoRequest
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor


class IoLines:
    """What one machine's input and output touches. `control` and `queues` count the lines of requests and of
    devices' queues that were brought in; those of data are counted by the request's buffer."""

    def __init__(self, machine: Machine, control_lines: int, queue_lines: int) -> None:
        self.machine = machine
        self.control = Refills()
        self.queues = Refills()
        self._control_lines = control_lines
        self._queue_lines = queue_lines
        self._queue_of: dict[Device, Footprint] = {}

    def issued(self, request: IoRequest) -> None:
        """A processor has written a request's own structures; that is part of its thread's own work."""
        if self._control_lines and request.initiator is not None:
            processor = self.machine.processors[request.initiator]
            size = self._control_lines * self.machine.caches.line
            request.control = Footprint(size, node=processor.node, written=True, name="request")
            self.machine.caches.touch(processor, request.control)
            request.control.refills = self.control  # from now on

    def transferred(self, request: IoRequest) -> None:
        """The device has finished: what it has written to memory is in no cache."""
        if request.buffer is not None and request.operation == "read":
            self.machine.caches.forget(request.buffer)
        if request.device in self._queue_of:
            self.machine.caches.forget(self._queue_of[request.device])

    def service(self, request: IoRequest, processor: Processor) -> int:
        """The service routine reads the device's queue. Returns the ns that it waits for that."""
        device = request.device
        if not self._queue_lines or device.node is None:
            return 0
        queue = self._queue_of.get(device)
        if queue is None:
            size = self._queue_lines * self.machine.caches.line
            queue = self._queue_of[device] = Footprint(
                size, node=device.node, name=device.name, refills=self.queues
            )
        return self.machine.caches.touch(processor, queue)

    def dpc(self, request: IoRequest, processor: Processor) -> int:
        """The DPC uses the request's structures, and what of its data the driver looks at. Returns the ns."""
        caches, time = self.machine.caches, 0
        if request.control is not None:
            time += caches.touch(processor, request.control)
        lines = int(-(-request.length * request.device.touched // caches.line))
        if request.buffer is not None and lines:
            time += caches.touch(processor, request.buffer, lines)
        return time

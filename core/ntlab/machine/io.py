"""Input and output: requests, the stacks of layers that they travel, and how they end.

A request goes down its device's stack, layer by layer (file system, volume, a filter), to the device. When
that has finished, it interrupts a processor; the service routine queues a DPC; the DPC takes the request up
through the same layers. Then it ends as it was issued to end:

- with a call of `done`, for a request of the kernel's own;
- by waking the thread that waits for it;
- with a packet in a completion port (`ntlab.machine.ports`), either put there by the DPC or by the issuing
  thread, which is made to run for that (`completion_plan`).

Which processors take the interrupt and the DPC, and how large a transfer may be, is asked of plugins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from ntlab.errors import SimulationError, UnknownNameError, UserError
from ntlab.machine.apcs import queue_apc
from ntlab.machine.io_lines import IoLines
from ntlab.machine.policy import IoPolicy
from ntlab.machine.threads import TERMINATED, WAITING, Request, Thread

if TYPE_CHECKING:
    from ntlab.machine.caches import Footprint
    from ntlab.machine.disks import Disk, DiskModel
    from ntlab.machine.machine import Machine
    from ntlab.machine.ports import CompletionPort

Operation = Literal["read", "write"]

VERY_LOW, LOW, NORMAL_PRIORITY, HIGH, CRITICAL = range(5)
"""I/O priorities; 2003 does not look at them."""

NOCACHE = 0x1
PAGING_IO = 0x2
"""Flags of a request (Windows' IRP flags), for the records."""

SUCCESS = 0
CANCELLED = 0xC0000120
DATA_ERROR = 0xC000009C
"""Status of a request: NT status codes."""

REDIRECT_VECTOR = 0xE1
"""The vector of the interrupt that sends a DPC to another processor."""

ISSUED = "issued"
PASSING = "passing down"
PENDING = "pending"
COMPLETING = "completing"
COMPLETED = "completed"
_FOLLOWING = {
    ISSUED: (PASSING,),
    PASSING: (PENDING, COMPLETING),
    PENDING: (COMPLETING,),
    COMPLETING: (COMPLETED,),
    COMPLETED: (),
}
"""What may follow on each state of a request."""


class IoRequest:
    """One input or output, used once.

    `offset` and `length` in bytes on `device`. `thread` is the issuing one, None for the kernel's own.
    Exactly one of these says how it ends: `done` is called with the request; or `port` gets a packet with
    `key`; or, with neither, `thread` waits for it. `status` is valid when the request is COMPLETED.

    `buffer` is the memory that it reads to or writes from, where caches matter. `initiator` is the number of
    the processor that issued it, None for the kernel's own; `interrupted` and `completer` are those of the
    processors that took the interrupt and the DPC.
    """

    __slots__ = (
        "buffer",
        "completer",
        "control",
        "device",
        "done",
        "finished",
        "flags",
        "id",
        "initiator",
        "interrupted",
        "issued",
        "key",
        "layers",
        "length",
        "level",
        "offset",
        "operation",
        "parent",
        "parts",
        "plan",
        "port",
        "priority",
        "state",
        "status",
        "thread",
    )

    def __init__(
        self,
        operation: Operation,
        device: Device,
        offset: int,
        length: int,
        *,
        thread: Thread | None = None,
        done: Callable[[IoRequest], object] | None = None,
        port: CompletionPort | None = None,
        key: int = 0,
        priority: int = NORMAL_PRIORITY,
        flags: int = NOCACHE,
        parent: IoRequest | None = None,
        buffer: Footprint | None = None,
    ) -> None:
        if operation not in ("read", "write"):
            raise SimulationError(f"unknown operation {operation!r}; expected 'read' or 'write'")
        if length <= 0 or offset < 0:
            raise SimulationError(f"a {operation} of {length} bytes at {offset}")
        if not VERY_LOW <= priority <= CRITICAL:
            raise SimulationError(f"I/O priority {priority}; expected {VERY_LOW} to {CRITICAL}")
        if priority == CRITICAL and thread is not None:
            raise SimulationError("I/O priority critical is for the kernel's own requests")
        if (done is not None) + (port is not None) > 1 or (done, port, thread, parent) == (None,) * 4:
            raise SimulationError("a request ends in exactly one way: done, port, or its thread waits")
        self.operation = operation
        self.device = device
        self.offset = offset
        self.length = length
        self.thread = thread
        self.done = done
        self.port = port
        self.key = key
        self.priority = priority
        self.flags = flags
        self.parent = parent  # the request that this is a part of
        self.parts = 0  # how many parts of it are not complete
        self.state = ISSUED
        self.status = SUCCESS
        self.plan = "port"  # how it ends if it is bound to a port
        self.id = 0
        self.layers: tuple[Layer, ...] = ()
        self.level = 0  # which layer has it; the device is below the last
        self.issued = 0  # when it was submitted, ns
        self.finished = 0  # when the device had finished it, ns
        self.buffer = buffer
        self.control: Footprint | None = None  # its own structures, where caches matter
        self.initiator: int | None = None
        self.interrupted = 0
        self.completer = 0

    def advance(self, state: str) -> None:
        """Go on to another state. Raises SimulationError where that does not follow on the present one."""
        if state not in _FOLLOWING[self.state]:
            raise SimulationError(f"{self!r} cannot become {state}: it is {self.state}")
        self.state = state

    def __repr__(self) -> str:
        return f"<IoRequest {self.id}: {self.operation} {self.length} at {self.offset} of {self.device.name}>"


class Layer:
    """One layer of a device's stack; this one only passes on. Subclasses override what concerns them.

    A layer may keep a request and pass it on in a later event, complete it itself with `io.pass_up` in a
    later event, or issue others.
    """

    def dispatch(self, io: Io, request: IoRequest) -> None:
        """A request on its way down."""
        io.pass_down(request)

    def complete(self, io: Io, request: IoRequest) -> None:
        """A request on its way up."""
        io.pass_up(request)


class Device:
    """What is at the bottom of a stack. A subclass starts requests and calls `io.finish` for each.

    `node` is where it is attached (None: nowhere in particular), `increment` the priority increment of a
    thread that waited for it (Windows: 1 for disks, 2 for networks). `msix`: whether each of its interrupts
    can be a message to any processor; `touched`: which part of the data its DPC looks at.
    """

    increment: ClassVar[int] = 0
    driver: ClassVar[str] = "device"
    msix: bool = False
    touched: float = 0.0

    def __init__(self, machine: Machine, name: str, node: int | None = None) -> None:
        if node is not None and not 0 <= node < len(machine.tables.node_memory):
            raise UserError(f"node {node} of device {name!r}", expected="a node of the machine")
        self.machine = machine
        self.name = name
        self.node = node
        self.layers: tuple[Layer, ...] = ()  # top first
        self.number = machine.io.add(self)

    def attach(self, layer: Layer) -> None:
        """Put a layer on top of the stack. Requests on their way do not see it."""
        if layer in self.layers:
            raise SimulationError(f"{layer!r} is attached to {self.name} twice")
        self.layers = (layer, *self.layers)

    def check(self, request: IoRequest) -> None:
        """Raise SimulationError for a request that the device cannot do."""

    def start(self, request: IoRequest) -> None:
        """Begin, or queue, a request."""
        raise NotImplementedError

    def counters(self, seconds: float) -> dict[str, float]:
        """The device's performance counters by their Windows names."""
        return {}


class File:
    """A stretch of a device that threads read and write: `size` bytes from `start` on.

    Bound to a completion port its requests are asynchronous; else the thread waits for each.
    """

    __slots__ = ("device", "key", "name", "port", "size", "start")

    def __init__(self, name: str, device: Device, start: int, size: int) -> None:
        if start < 0 or size <= 0:
            raise SimulationError(f"file {name!r} of {size} bytes at {start}")
        self.name = name
        self.device = device
        self.start = start
        self.size = size
        self.port: CompletionPort | None = None
        self.key = 0

    def bind(self, port: CompletionPort, key: int = 0) -> None:
        """Bind the file to a port for good: each request's end is a packet with `key` there."""
        if self.port is not None:
            raise SimulationError(f"file {self.name!r} is bound to two completion ports")
        self.port = port
        self.key = key


class Read(Request):
    """Read `length` bytes at `offset` of a file. The program receives the `IoRequest`: at once if the file
    is bound to a port, complete otherwise. `buffer` is where to, as far as caches matter."""

    __slots__ = ("buffer", "file", "length", "offset")
    operation: ClassVar[Operation] = "read"

    def __init__(self, file: File, offset: int, length: int, *, buffer: Footprint | None = None) -> None:
        if offset < 0 or offset + length > file.size:
            raise SimulationError(f"{length} bytes at {offset} of file {file.name!r}, which has {file.size}")
        self.file = file
        self.offset = offset
        self.length = length
        self.buffer = buffer

    def perform(self, thread: Thread) -> int | None:
        file = self.file
        request = IoRequest(
            self.operation,
            file.device,
            file.start + self.offset,
            self.length,
            thread=thread,
            port=file.port,
            key=file.key,
            buffer=self.buffer,
        )
        thread.machine.io.submit(request)
        if file.port is None:
            return None
        thread.result = request
        return 0


class Write(Read):
    """Write `length` bytes at `offset` of a file. As `Read`."""

    __slots__ = ()
    operation: ClassVar[Operation] = "write"


class Io:
    """Input and output of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.engine = machine.engine
        self.devices: list[Device] = []
        self.ports: list[CompletionPort] = []
        self._pending: dict[IoRequest, None] = {}  # issued and not complete, oldest first
        self._issued = 0
        self._issued_by: dict[Thread, dict[IoRequest, None]] = {}
        hooks = machine.hooks
        policy = hooks.io_policy(machine) if hooks.io_policy is not None else None
        self.policy: IoPolicy = policy if policy is not None else IoPolicy()
        self._max_transfer = hooks.max_transfer
        self._io_limit = hooks.io_limit
        self._interrupt_processor = hooks.interrupt_processor
        self._dpc_processor = hooks.dpc_processor
        self.at_devices = 0  # requests that devices are at: memory that they transfer must not move
        self._held: list[tuple[IoRequest, int]] | None = None  # with their limits, while devices are off
        self._quiet: Callable[[], object] | None = None  # called when no device is at anything any more
        self._completion_plan = hooks.completion_plan
        self.lines = IoLines(machine, self.policy.control_lines, self.policy.queue_lines)

    @property
    def pending(self) -> int:
        """How many requests are issued and not complete."""
        return len(self._pending)

    # -- devices -----------------------------------------------------------------------------------------

    def add(self, device: Device) -> int:
        """Register a device; its constructor does. Returns its number. The name must be new."""
        if any(other.name == device.name for other in self.devices):
            raise UserError(f"two devices are called {device.name!r}")
        self.devices.append(device)
        return len(self.devices) - 1

    def device(self, name: str) -> Device:
        """The device of that name. Raises UnknownNameError."""
        for device in self.devices:
            if device.name == name:
                return device
        raise UnknownNameError("device", name, [device.name for device in self.devices])

    def find_disks(self) -> None:
        """Make the disks that the hardware description names."""
        for device in self.machine.tables.devices:
            if device.type == "disk":
                self.create_disk(device.name, node=device.node)

    def create_disk(
        self, name: str, *, model: DiskModel | None = None, preset: str | None = None, node: int | None = None
    ) -> Disk:
        """A new disk, of a model or of a preset (`ntlab.machine.disks.PRESETS`)."""
        from ntlab.machine.disks import Disk, disk_model

        if model is None:
            model = disk_model(self.policy.disk if preset is None else preset)
        return Disk(self.machine, name, model, node)

    # -- the way down --------------------------------------------------------------------------------------

    def submit(self, request: IoRequest) -> None:
        """Issue a request. Nothing about it ends within this call."""
        request.device.check(request)
        self._issued = request.id = self._issued + 1
        self._pending[request] = None
        request.issued = self.engine.now
        request.layers = request.device.layers
        request.level = -1
        thread = request.thread
        if thread is not None and thread.processor is not None:
            request.initiator = thread.processor.index
            self.lines.issued(request)
        if request.port is not None and thread is not None:
            if self._completion_plan is not None:
                request.plan = self._completion_plan(request) or "port"
            if request.plan == "apc":
                self._issued_by.setdefault(thread, {})[request] = None
        request.advance(PASSING)
        self.pass_down(request)

    def pass_down(self, request: IoRequest) -> None:
        """Give a request to the layer below, or to the device."""
        if request.status == CANCELLED:
            return  # while a layer kept it
        if request.state != PASSING:
            raise SimulationError(f"{request!r} is passed down, but is {request.state}")
        request.level = level = request.level + 1
        if level < len(request.layers):
            request.layers[level].dispatch(self, request)
            return
        request.advance(PENDING)
        limits = self._max_transfer(request) if self._max_transfer is not None else None
        limit = min(limits) if limits else request.length
        if limit <= 0:
            raise SimulationError(f"max_transfer gave {limit} bytes for {request!r}")
        if self._io_limit is not None and request.flags & PAGING_IO:
            most = self._io_limit(request)
            if most is not None and most <= 0:
                raise SimulationError(f"io_limit gave {most} bytes for {request!r}")
            limit = limit if most is None else min(limit, most)
        if self._held is not None:
            self._held.append((request, limit))
            return
        self._start(request, limit)

    def _start(self, request: IoRequest, limit: int) -> None:
        if request.length <= limit:
            self.at_devices += 1
            request.device.start(request)
        else:
            self._split(request, limit)

    def _split(self, request: IoRequest, limit: int) -> None:
        starts = range(request.offset, request.offset + request.length, limit)
        request.parts = len(starts)
        self.at_devices += len(starts)
        end = request.offset + request.length
        for start in starts:
            part = IoRequest(
                request.operation,
                request.device,
                start,
                min(limit, end - start),
                thread=request.thread,
                priority=request.priority,
                flags=request.flags,
                parent=request,
                buffer=request.buffer,
            )
            part.control = request.control
            part.initiator = request.initiator
            part.id = request.id
            part.issued = request.issued
            part.advance(PASSING)
            part.advance(PENDING)
            part.device.start(part)

    # -- devices off ---------------------------------------------------------------------------------------

    def hold(self, quiet: Callable[[], object]) -> None:
        """Queue what is issued from now on, and call `quiet()` once devices have finished what they are at.

        So no device reads or writes memory then. `resume` ends that.
        """
        if self._held is not None:
            raise SimulationError("devices are turned off twice")
        self._held = []
        self._quiet = quiet
        if not self.at_devices:
            self.engine.soon(self._all_quiet)

    def _all_quiet(self, _: object) -> None:
        quiet, self._quiet = self._quiet, None
        if quiet is not None:
            quiet()

    @property
    def held(self) -> int:
        """Requests that wait for devices to be turned on again."""
        return len(self._held) if self._held is not None else 0

    def resume(self) -> None:
        """Devices are on again: start what was queued, oldest first."""
        waiting, self._held = self._held or [], None
        for request, limit in waiting:
            if request.status != CANCELLED:
                self._start(request, limit)

    # -- the way up ----------------------------------------------------------------------------------------

    def finish(self, request: IoRequest, status: int = SUCCESS) -> None:
        """The device has finished a request: interrupt a processor."""
        self.at_devices -= 1
        if not self.at_devices and self._quiet is not None:
            self.engine.soon(self._all_quiet)
        if request.status == CANCELLED:
            return  # cancelled while the device was at it
        request.advance(COMPLETING)
        request.status = status
        request.finished = self.engine.now
        index = self._interrupt_processor(request) if self._interrupt_processor is not None else None
        request.interrupted = index = 0 if index is None else self._checked(index, "interrupt_processor")
        processor, vector = self.machine.processors[index], request.device.number
        self.lines.transferred(request)
        duration = self.policy.interrupt_time + self.lines.service(request, processor)
        self.machine.interrupts.interrupt(processor, duration, self._acknowledged, request, vector)

    def _acknowledged(self, request: IoRequest) -> None:
        """The interrupt's service routine has ended: queue the DPC, perhaps on another processor."""
        index = None
        if self._dpc_processor is not None:
            index = self._dpc_processor(request, request.interrupted)
        request.completer = index = (
            request.interrupted if index is None else self._checked(index, "dpc_processor")
        )
        if index != request.interrupted and self.policy.redirect_time:
            self.machine.interrupts.interrupt(
                self.machine.processors[index],
                self.policy.redirect_time,
                self._queue_dpc,
                request,
                REDIRECT_VECTOR,
            )
        else:
            self._queue_dpc(request)

    def _queue_dpc(self, request: IoRequest) -> None:
        processor = self.machine.processors[request.completer]
        duration = self.policy.dpc_time + self.lines.dpc(request, processor)
        self.machine.interrupts.queue_dpc(processor, duration, self.pass_up, request, request.device.driver)

    def _checked(self, index: int, hook: str) -> int:
        if not 0 <= index < len(self.machine.processors):
            raise SimulationError(f"{hook} gave {index}, which is no processor of {self.machine.name}")
        scheduler = self.machine.scheduler
        if not scheduler.all_mask >> index & 1:  # it has been taken out, or is not yet in use
            index = scheduler.in_place_of(index)
            if not scheduler.all_mask >> index & 1:
                index = (scheduler.all_mask & -scheduler.all_mask).bit_length() - 1
        return index

    def pass_up(self, request: IoRequest) -> None:
        """Give a request to the layer above; above the top one it ends."""
        if request.state != COMPLETING:
            request.advance(COMPLETING)
        if request.parent is not None:
            self._part_done(request, request.parent)
            return
        request.level = level = request.level - 1
        if level >= 0:
            request.layers[level].complete(self, request)
        else:
            self._end(request)

    def _part_done(self, part: IoRequest, whole: IoRequest) -> None:
        part.advance(COMPLETED)
        if part.status != SUCCESS:
            whole.status = part.status
        whole.parts -= 1
        if not whole.parts and whole.state != COMPLETED:
            whole.finished = part.finished
            self.pass_up(whole)

    def _end(self, request: IoRequest) -> None:
        """The request has come up through all layers."""
        thread = request.thread
        if request.port is not None:
            if request.plan == "apc" and thread is not None and thread.state != TERMINATED:
                increment = request.device.increment
                queue_apc(thread, self.policy.completion_time, self._completed_by_issuer, request, increment)
            elif request.plan == "apc":
                self._completed_by_issuer(request)  # it ended meanwhile, and did this as its last act
            else:
                request.port.put(request.key, request)
            return
        self.completed(request)
        if request.done is not None:
            request.done(request)
        elif thread is not None:
            self.machine.scheduler.wake(thread, request, request.device.increment)

    def completed(self, request: IoRequest) -> None:
        """The final step of a request: its status counts from now on."""
        request.advance(COMPLETED)
        del self._pending[request]
        if request.control is not None:
            self.machine.caches.forget(request.control)

    def _completed_by_issuer(self, request: IoRequest) -> None:
        assert request.port is not None
        assert request.thread is not None
        issued = self._issued_by[request.thread]
        del issued[request]
        if not issued:
            del self._issued_by[request.thread]
        self.completed(request)
        request.port.put(request.key, request)

    # -- threads end -----------------------------------------------------------------------------------------

    def thread_ended(self, thread: Thread) -> None:
        """Cancel the requests that only this thread could have completed."""
        for request in list(self._issued_by.get(thread, ())):
            if request.state in (PASSING, PENDING):
                request.advance(COMPLETING)
                request.status = CANCELLED
                self._completed_by_issuer(request)

    def counters(self) -> dict[str, float]:
        """Performance counters of the devices, over the machine's life so far."""
        seconds = self.engine.now / 1e9 or 1.0
        found: dict[str, float] = {}
        for device in self.devices:
            found |= device.counters(seconds)
        return found

    def check(self) -> None:
        """Compare requests, threads and ports. Raises SimulationError where they differ."""
        for request in self._pending:
            if request.state not in (PASSING, PENDING, COMPLETING):
                raise SimulationError(f"{request!r} is counted as pending, but is {request.state}")
            if self.devices[request.device.number] is not request.device:
                raise SimulationError(f"{request!r} is of a device that the machine has not")
            if request.parts < 0 or request.parent is not None:
                raise SimulationError(f"{request!r} has lost count of its parts")
            thread = request.thread
            waits = request.done is None and request.port is None
            if waits and thread is not None and thread.state != WAITING and thread.apcs is None:
                raise SimulationError(
                    f"{thread!r} goes on though {request!r}, which it waits for, is not complete"
                )
        for thread, requests in self._issued_by.items():
            for request in requests:
                if request.thread is not thread or request.plan != "apc" or request not in self._pending:
                    raise SimulationError(f"{request!r} is no request that {thread!r} must complete")
        for port in self.ports:
            port.check()

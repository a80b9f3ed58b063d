"""Disks: how long a transfer takes, from where the head is and what turns.

A request takes ``controller + seek(distance) + rotation + length / rate``. Seek and rotation are 0 for the
sector that follows on the last request. Requests are served first come first served.

Sources: the two-piece seek curve and the HP 97560 are Ruemmler and Wilkes', "An introduction to disk drive
modeling" (1994); the presets are round figures of drives of 2003 to 2008.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from ntlab.errors import SimulationError, UnknownNameError, UserError
from ntlab.machine.io import DATA_ERROR, SUCCESS, Device, IoRequest
from ntlab.machine.ordered import Runs
from ntlab.machine.records import KERNEL_LOGGER
from ntlab.machine.stages import Stage
from ntlab.quantities import Duration, Rate, Size
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

_TRANSFER = "disk_number irp_flags transfer_size byte_offset irp high_res_response_time issuing_thread_id"
READ = event_type(KERNEL_LOGGER, "DiskIo/Read", _TRANSFER)
WRITE = event_type(KERNEL_LOGGER, "DiskIo/Write", _TRANSFER)

SECTOR = 512
SECOND = 1_000_000_000


@attrs.frozen
class SeekCurve:
    """Seek time in ns over a distance of d cylinders.

    ``near + near_root * sqrt(d)`` for 0 < d < `limit`, ``far + far_slope * d`` from there on. 0 for d = 0.
    """

    near: float
    near_root: float
    limit: int
    far: float = 0.0
    far_slope: float = 0.0

    def __call__(self, distance: int) -> int:
        if distance <= 0:
            return 0
        if distance < self.limit:
            return round(self.near + self.near_root * math.sqrt(distance))
        return round(self.far + self.far_slope * distance)

    @classmethod
    def from_figures(cls, adjacent: int, average: int, cylinders: int) -> SeekCurve:
        """The curve through a drive's data sheet: ns to the adjacent cylinder, and on average.

        Over uniformly random pairs of cylinders the mean of sqrt(d / cylinders) is 8/15.
        """
        root = (average - adjacent) * 15 / 8 / math.sqrt(cylinders)
        return cls(near=adjacent, near_root=root, limit=cylinders + 1)


@attrs.frozen(kw_only=True)
class DiskModel:
    """A kind of disk.

    - `capacity` in bytes, spread evenly over `cylinders`; `rate` in bytes a second, `controller` in ns.
    - `seek`: its seek curve, None for a disk without arms. `rpm`: 0 for one that does not turn.
    - `rotation`: "average" waits half a turn whenever the next sector is not the following one, "random" a
      random part of a turn, from the disk's own stream.
    - `read_latency`, `write_latency`: ns before each transfer, as of flash.
    - `channels`: how many requests it serves at a time.
    """

    capacity: Size
    rate: Rate
    controller: Duration = attrs.field(default=Duration(0))
    cylinders: int = 1
    seek: SeekCurve | None = None
    rpm: int = 0
    rotation: Literal["average", "random"] = "average"
    read_latency: Duration = attrs.field(default=Duration(0))
    write_latency: Duration = attrs.field(default=Duration(0))
    channels: int = 1

    def __attrs_post_init__(self) -> None:
        wrong = None
        if self.capacity < SECTOR or self.cylinders < 1 or self.channels < 1:
            wrong = f"capacity {self.capacity}, cylinders {self.cylinders}, channels {self.channels}"
        elif not self.rate > 0:
            wrong = f"rate {self.rate}"
        elif min(self.controller, self.read_latency, self.write_latency, self.rpm) < 0:
            wrong = "a negative time or speed of rotation"
        elif self.rotation not in ("average", "random"):
            wrong = f"rotation {self.rotation!r}"
        elif self.seek is not None and not self._rises(self.seek):
            wrong = "a seek curve that is negative or falls"
        if wrong is not None:
            raise UserError(f"no disk can have {wrong}", expected="positive figures and a rising seek curve")

    def _rises(self, seek: SeekCurve) -> bool:
        last = self.cylinders - 1
        ends = [d for d in (1, seek.limit - 1, seek.limit, last) if 1 <= d <= last]
        times = [seek(distance) for distance in sorted(ends)]
        return times == sorted(times) and (not times or times[0] >= 0)


def _turning(capacity: int, cylinders: int, adjacent: int, average: int, rpm: int, rate: int) -> DiskModel:
    return DiskModel(
        capacity=Size(capacity),
        cylinders=cylinders,
        seek=SeekCurve.from_figures(adjacent, average, cylinders),
        rpm=rpm,
        rate=Rate(rate),
    )


PRESETS: dict[str, DiskModel] = {
    "sas15k": _turning(146_000_000_000, 50_000, 300_000, 3_500_000, 15_000, 100_000_000),
    "sata7k2": _turning(500_000_000_000, 80_000, 800_000, 8_500_000, 7_200, 80_000_000),
    "ssd": DiskModel(
        capacity=Size(64_000_000_000),
        rate=Rate(250_000_000),
        read_latency=Duration(85_000),
        write_latency=Duration(250_000),
        channels=8,
    ),
    "hp97560": DiskModel(
        capacity=Size(1962 * 19 * 72 * SECTOR),
        cylinders=1962,
        seek=SeekCurve(near=3_240_000, near_root=400_000, limit=383, far=8_000_000, far_slope=8_000),
        rpm=4002,
        rate=Rate(72 * SECTOR * 4002 // 60),
        controller=Duration(2_200_000),
    ),
}
"""Known disks: a 15,000 rpm SAS disk, a 7,200 rpm SATA disk, single-level flash of 2008, and the HP 97560."""


def disk_model(preset: str) -> DiskModel:
    """The preset of that name. Raises UnknownNameError."""
    if preset not in PRESETS:
        raise UnknownNameError("disk", preset, PRESETS)
    return PRESETS[preset]


class Disk(Device):
    """A disk of one machine.

    Totals: `reads`, `writes`, `read_bytes`, `written_bytes`, `seeks` (transfers that did not follow on the
    last one), `splits` (requests that came in parts), `response_time` (ns from issue to the end of the
    transfer, over all transfers).

    `unreadable` are bytes that it cannot read: a read of any of them takes its time and fails with
    DATA_ERROR. What is written there goes to spare sectors, and can be read again.
    """

    increment: ClassVar[int] = 1
    driver: ClassVar[str] = "disk.sys"

    def __init__(self, machine: Machine, name: str, model: DiskModel, node: int | None = None) -> None:
        super().__init__(machine, name, node)
        self.model = model
        self.stage = Stage(machine.engine, self.service_time, self._done, model.channels)
        self.position = 0  # the byte after the last transfer
        self.unreadable = Runs()
        self.reads = 0
        self.writes = 0
        self.read_bytes = 0
        self.written_bytes = 0
        self.seeks = 0
        self.splits = 0
        self.response_time = 0
        self._turn = 60 * SECOND // model.rpm if model.rpm else 0
        self._bytes_per_cylinder = -(-model.capacity // model.cylinders)
        self._random = machine.streams.stream("disk", name) if model.rotation == "random" else None
        self._trace: dict[str, Any] = {
            "read": machine.tracer.emitter(READ),
            "write": machine.tracer.emitter(WRITE),
        }

    def check(self, request: IoRequest) -> None:
        if request.offset % SECTOR or request.length % SECTOR:
            raise SimulationError(f"{request!r} is not aligned to sectors of {SECTOR} bytes")
        if request.offset + request.length > self.model.capacity:
            raise SimulationError(f"{request!r} ends after the disk's {self.model.capacity} bytes")

    def start(self, request: IoRequest) -> None:
        whole = request.parent
        if whole is not None and whole.offset == request.offset:
            self.splits += 1
        self.stage.submit(request)

    def service_time(self, request: IoRequest) -> int:
        """How long the transfer takes from where the head is, ns; moves the head."""
        model = self.model
        time = model.controller + request.length * SECOND // model.rate
        time += model.read_latency if request.operation == "read" else model.write_latency
        if request.offset != self.position:
            self.seeks += 1
            if model.seek is not None:
                size = self._bytes_per_cylinder
                time += model.seek(abs(request.offset // size - self.position // size))
            if self._turn:
                time += self._turn // 2 if self._random is None else self._random.randrange(self._turn)
        self.position = request.offset + request.length
        return time

    def _done(self, request: IoRequest) -> None:
        now = self.machine.engine.now
        taken = now - request.issued
        self.response_time += taken
        first, stop = request.offset, request.offset + request.length
        status = SUCCESS
        if request.operation == "write":
            self.unreadable.remove(first, stop)
        elif self.unreadable.touches(first, stop):
            status = DATA_ERROR
        if request.operation == "read":
            self.reads += 1
            self.read_bytes += request.length
            event = READ
        else:
            self.writes += 1
            self.written_bytes += request.length
            event = WRITE
        trace = self._trace[request.operation]
        if trace is not None:
            tid = request.thread.id if request.thread is not None else 0
            what = (self.number, request.flags, request.length, request.offset, request.id)
            trace((now, event.id, *what, taken, tid))
        self.machine.io.finish(request, status)

    def counters(self, seconds: float) -> dict[str, float]:
        transfers = self.reads + self.writes
        size = self.read_bytes + self.written_bytes
        stage = self.stage
        values = {
            "Disk Reads/sec": self.reads / seconds,
            "Disk Writes/sec": self.writes / seconds,
            "Disk Read Bytes/sec": self.read_bytes / seconds,
            "Disk Write Bytes/sec": self.written_bytes / seconds,
            "Avg. Disk Bytes/Transfer": size / transfers if transfers else 0.0,
            "Avg. Disk sec/Transfer": self.response_time / transfers / SECOND if transfers else 0.0,
            "Current Disk Queue Length": float(stage.present),
            "Split IO/Sec": self.splits / seconds,
        }
        return {rf"PhysicalDisk({self.number} {self.name})\{name}": value for name, value in values.items()}

"""How Windows Server 2003 does input and output: who takes interrupts, and who ends a request."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

import attrs

from ntlab.hooks import hookimpl
from ntlab.machine import IoPolicy, IoRequest, Machine
from ntlab.plugin import option, state
from ntlab.quantities import Duration, Size


@attrs.define(slots=False, eq=False)
class InputOutput:
    """The policies of the I/O manager. Source of the mechanisms: io facts, section 1; scheduling facts,
    section 3. The times are round figures of the usual range, not measurements."""

    interrupt_time: Duration = option(
        default=Duration(5_000), help="Service routine of a device's interrupt.", minimum=0
    )
    dpc_time: Duration = option(default=Duration(10_000), help="DPC that completes a request.", minimum=0)
    completion_time: Duration = option(
        default=Duration(2_000), help="Final step of a request that is bound to a completion port.", minimum=0
    )
    disk: str = option(default="sas15k", help="Model of the disks that the hardware description names.")
    adapter_transfer: Size = option(
        default=Size(1 << 20), help="Most bytes that an adapter moves in one go; more is split.", minimum=512
    )
    io_limit_size: Size = option(
        default=Size(64 << 10),
        help="Most bytes that the I/O system hands to a device for memory management in one go.",
        minimum=4096,
    )
    interrupts: Literal["random", "round_robin"] = option(
        default="random", help="How interrupts spread over all processors, whoever issued the request."
    )

    redirect_time: Duration = option(
        default=Duration(1_500),
        help="Interrupt that sends a DPC to another processor; 2003 itself sends none.",
        minimum=0,
    )
    control_lines: int = option(
        default=0, help="Cache lines of a request's structures, which its DPC uses.", minimum=0
    )
    queue_lines: int = option(
        default=0, help="Cache lines of a device's queue, which its service routine reads.", minimum=0
    )

    _next_interrupted: Callable[[], int] = attrs.field(init=False, repr=False, eq=False)
    _interruptible: list[int] = state(list)

    @hookimpl
    def io_policy(self, machine: Machine) -> IoPolicy:
        self.direct_interrupts(machine)
        if self.interrupts == "random":
            stream = machine.streams.stream("ws2003", "interrupts")
            self._next_interrupted = _random_one(stream, self._interruptible)
        else:
            self._next_interrupted = _round(self._interruptible)
        return IoPolicy(
            interrupt_time=self.interrupt_time,
            dpc_time=self.dpc_time,
            completion_time=self.completion_time,
            redirect_time=self.redirect_time,
            disk=self.disk,
            control_lines=self.control_lines,
            queue_lines=self.queue_lines,
        )

    def direct_interrupts(self, machine: Machine) -> None:
        """Interrupts go to the processors that there are now."""
        there = machine.scheduler.all_mask
        self._interruptible[:] = [p.index for p in machine.processors if p.bit & there]

    @hookimpl
    def max_transfer(self, request: IoRequest) -> int:
        return self.adapter_transfer

    @hookimpl
    def io_limit(self, request: IoRequest) -> int:
        return self.io_limit_size

    @hookimpl
    def interrupt_processor(self, request: IoRequest) -> int:
        return self._next_interrupted()

    @hookimpl
    def completion_plan(self, request: IoRequest) -> Literal["apc", "port"]:
        return "apc"


def _random_one(stream: random.Random, processors: list[int]) -> Callable[[], int]:
    return lambda: processors[stream.randrange(len(processors))]


def _round(processors: list[int]) -> Callable[[], int]:
    last = -1

    def following() -> int:
        nonlocal last
        last = (last + 1) % len(processors)
        return processors[last]

    return following

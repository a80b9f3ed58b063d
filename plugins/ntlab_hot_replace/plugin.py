"""Windows Server 2008 replaces failing memory and processors by spares; the platform tells it which fail."""

from __future__ import annotations

from collections import deque
from typing import Literal

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Component, LatchedError, Machine, ReplacementPolicy
from ntlab.plugin import option, plugin, state
from ntlab.quantities import MILLISECOND, SECOND, Duration, Rate, Share
from ntlab.tracing import event_type
from ntlab_hot_replace.paged import PagedBank
from ntlab_hot_replace.workloads import AilingMemory, AilingProcessor, BusyBank

PREDICTED = event_type("Lab-Partitioning", "FailurePredicted", "kind$ part errors ordered")


@plugin(
    name="hot_replace",
    summary="Failing memory and processors are replaced by spares while the machine runs.",
    release="ws2008",
    ledger=("D2", "D4", "E5"),
    requires=("whea",),
    workloads=(BusyBank, AilingMemory, AilingProcessor, PagedBank),
    neutral={"edition": "enterprise"},
)
class HotReplace:
    """Replacing is the core's (`ntlab.machine.replacement`); how, and when, is decided here.

    Server 2008 itself predicts nothing: the platform counts corrected errors, and says which part to replace.
    """

    edition: Literal["standard", "enterprise", "datacenter"] = option(
        default="datacenter", help="Which edition is installed; only Datacenter replaces anything."
    )
    parts: tuple[Literal["memory", "processor"], ...] = option(
        default=("memory", "processor"), help="What can be replaced."
    )
    order: Literal["movable_first", "all_in_window"] = option(
        default="movable_first",
        help="Whether what may move is copied before devices are turned off, or all of it after.",
    )
    rounds: int = option(
        default=8, help="How often what was written to meanwhile is copied again at most.", minimum=0
    )
    watch_writes: bool = option(
        default=True, help="Whether it is known what was written to; without, it is lost."
    )
    copy_bandwidth: Rate = option(
        default=Rate(0), help="Bytes a second that are copied at most; 0: what the memory carries.", minimum=0
    )
    devices_off: Duration = option(
        default=Duration(100 * MILLISECOND), help="What a device takes to go to state D3.", minimum=0
    )
    devices_on: Duration = option(
        default=Duration(200 * MILLISECOND), help="What a device takes to go back to D0.", minimum=0
    )
    devices_at_once: bool = option(
        default=True, help="Whether devices change their state at a time, or one after the other."
    )
    slow_to: Share = option(
        default=Share(0.5), help="Speed of a failing processor until its threads have left it."
    )
    processor_start: Duration = option(
        default=Duration(100 * MILLISECOND), help="What a spare processor takes to start.", minimum=0
    )
    threshold: int = option(
        default=16,
        help="The platform has a part replaced after more corrected errors in the window; 0: never.",
        minimum=0,
    )
    window: Duration = option(
        default=Duration(24 * 3600 * SECOND), help="The window of the threshold.", minimum=1
    )

    _errors: dict[tuple[str, int], deque[int]] = state(dict)
    """When each part had its latest corrected errors, inside the window."""

    @hookimpl
    def partition_support(self, machine: Machine, operation: str) -> bool | None:
        able = self.edition == "datacenter" and machine.architecture != "x86"
        return True if able and operation in [f"replace {part}" for part in self.parts] else None

    @hookimpl
    def replacement_policy(self) -> ReplacementPolicy:
        return ReplacementPolicy(
            order=self.order,
            rounds=self.rounds,
            watch_writes=self.watch_writes,
            copy_bandwidth=self.copy_bandwidth,
            devices_off=self.devices_off,
            devices_on=self.devices_on,
            devices_at_once=self.devices_at_once,
            slow_to=self.slow_to,
            processor_start=self.processor_start,
        )

    @hookimpl
    def error_reported(self, machine: Machine, latched: LatchedError) -> None:
        """Count a corrected error against its part; have a part replaced that has too many."""
        part = _part(machine, latched)
        kind = part[0] if part is not None else ""
        able = part is not None and machine.partitioning.supports(
            "replace memory" if kind == "memory" else "replace processor"
        )
        if part is None or not able or not self.threshold or latched.error.severity != "corrected":
            return
        times = self._errors.setdefault(part, deque())
        times.append(latched.time)
        while times[0] <= latched.time - self.window:
            times.popleft()
        if len(times) > self.threshold:
            errors = len(times)
            ordered = self._replace(machine, latched)
            if ordered:
                del self._errors[part]
            trace = machine.tracer.emitter(PREDICTED)
            if trace is not None:
                text = machine.tracer.text(kind)
                trace((machine.engine.now, PREDICTED.id, text, part[1], errors, int(ordered)))

    def _replace(self, machine: Machine, latched: LatchedError) -> bool:
        """Order the replacement. False where there is no spare, or another one is going on."""
        component: Component = latched.error.component
        try:
            if component.kind == "memory":
                machine.partitioning.replace_memory(latched.error.address)
            else:
                machine.partitioning.replace_processor(component.number)
        except UserError:
            return False
        return True


def _part(machine: Machine, latched: LatchedError) -> tuple[str, int] | None:
    """What would be replaced: a memory unit by its first frame, or a processor by its number."""
    component = latched.error.component
    if component.kind == "memory":
        frame = latched.error.address // machine.memory.policy.page_size
        if machine.memory.node_of(frame) is None:
            return None
        return "memory", machine.partitioning.memory_unit(latched.error.address).first
    if component.kind in ("processor", "cache"):
        return "processor", component.number
    return None

"""Replacing a memory unit in a running machine: what it holds is copied to an identical spare, which then
answers to the same physical addresses.

    copy what may move, in rounds --> query --> devices off --> copy the rest --> exchange --> devices on
           everybody runs               |      `----------------- the window -------------------------'
                                        `--> refused: as if nothing had been

What is written to while the rounds go on is copied again. The window (devices in D3, processors stopped,
I/O queued) begins when a round finds nothing more, or no less than the one before, or after so many rounds.
In it the rest is copied: what was written to last, and what may not move under a running system, which is
non-paged memory and what devices transfer. A frame that holds nothing is not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from ntlab.errors import SimulationError
from ntlab.machine.ordered import Runs
from ntlab.quantities import SECOND
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.policy import ReplacementPolicy

COPY = event_type("Lab-Partitioning", "MemoryCopy", "frame pages round in_window began")
WINDOW_BEGIN = event_type("Lab-Partitioning", "WindowBegin", "first_frame stop_frame devices")
WINDOW_END = event_type("Lab-Partitioning", "WindowEnd", "first_frame stop_frame held_requests")
REPLACED = event_type("Lab-Partitioning", "MemoryReplaced", "first_frame stop_frame outcome$ rounds")

CHUNK = 16384
"""Pages that are copied at a time."""

Outcome = Literal["", "replaced", "vetoed"]


class MemoryReplacement:
    """One replacement, of the frames `first`..`stop` of a node. Made by `partitioning.replace_memory`.

    `outcome` is "" while it goes on. `copied` and `copied_in_window` count pages, those copied again
    included; `rounds` the rounds before the window; `pause` is the length of the window, ns; `lost` the pages
    that were in use at the exchange and differ from their last copy.
    """

    def __init__(self, machine: Machine, policy: ReplacementPolicy, node: int, first: int, stop: int) -> None:
        self.machine = machine
        self.policy = policy
        self.node = node
        self.first = first
        self.stop = stop
        self.outcome: Outcome = ""
        self.refused_by = ""  # the device that may not sleep
        self.rounds = 0
        self.copied = 0
        self.copied_in_window = 0
        self.pause = 0
        self.lost = 0
        self.began = machine.engine.now
        self.ended = 0
        self.done: Callable[[], object] | None = None
        self._engine = machine.engine
        self._memory = machine.memory
        self._same = Runs()  # frames that the spare is taken to hold as they are
        self._changed = Runs()  # frames that were written to since they were copied
        self._last = machine.memory.installed + 1  # pages of the last round
        self._window = -1  # when it began
        self._todo: list[tuple[int, int]] = []
        self._then: Callable[[], None] = self._round
        self._chunk: list[tuple[int, int]] = []
        self._chunk_began = 0
        tracer = machine.tracer
        self._trace_copy = tracer.emitter(COPY)
        self._trace_begin = tracer.emitter(WINDOW_BEGIN)
        self._trace_end = tracer.emitter(WINDOW_END)
        self._trace_replaced = tracer.emitter(REPLACED)
        if self._memory.written is not None:
            raise SimulationError("somebody else follows what is written to")

    def __repr__(self) -> str:
        return f"<MemoryReplacement frames {self.first}..{self.stop} {self.outcome or 'under way'}>"

    @property
    def in_window(self) -> bool:
        """Whether devices are off."""
        return self._window >= 0 and not self.outcome

    def start(self) -> None:
        """Begin, after the present event."""
        if self.policy.order == "movable_first":
            self._memory.written = self._written
            self._engine.soon(self._first)
        else:
            self._engine.soon(self._query)

    def _first(self, _: object) -> None:
        self._round()

    def _written(self, frame: int, pages: int) -> None:
        first, stop = max(self.first, frame), min(self.stop, frame + pages)
        if first < stop:
            self._changed.add(first, stop)
            if self.policy.watch_writes:
                self._same.remove(first, stop)

    def _different(self, *, movable: bool) -> list[tuple[int, int]]:
        """The runs of frames that hold something which the spare does not hold; movable ones, or all."""
        memory = self._memory
        found: list[tuple[int, int]] = []
        for extent in memory.in_frames(self.first, self.stop):
            if not movable or memory.movable(extent):
                first, stop = max(self.first, extent.frame), min(self.stop, extent.frame + extent.pages)
                found += self._same.missing(first, stop)
        return sorted(found)

    # -- copying -------------------------------------------------------------------------------------------

    def _round(self) -> None:
        todo = self._different(movable=True)
        pages = sum(stop - first for first, stop in todo)
        if not pages or pages >= self._last or self.rounds > self.policy.rounds:
            self._query()
            return
        self._last = pages
        self.rounds += 1
        self._copy(todo, self._round)

    def _copy(self, todo: list[tuple[int, int]], then: Callable[[], None]) -> None:
        """Copy these runs, chunk by chunk, then go on."""
        self._todo, self._then = todo[::-1], then
        self._next_chunk()

    def _next_chunk(self) -> None:
        room = CHUNK
        self._chunk = chunk = []
        while self._todo and room:
            first, stop = self._todo.pop()
            if stop - first > room:
                self._todo.append((first + room, stop))
                stop = first + room
            room -= stop - first
            # From now on: what is written to while it is copied is different again.
            self._same.add(first, stop)
            self._changed.remove(first, stop)
            chunk.append((first, stop))
        if not chunk:
            self._then()
            return
        # The memory's channels carry every byte twice.
        self._chunk_began = self._engine.now
        accesses = self._memory.accesses
        (channel,) = accesses.way(self.node, self.node)
        rate = channel.bandwidth
        if self.policy.copy_bandwidth:
            rate = min(rate, 2 * self.policy.copy_bandwidth)
        size = 2 * (CHUNK - room) * self._memory.policy.page_size
        accesses.links.start(((channel, rate),), -(-size * SECOND // rate), self._chunk_copied)

    def _chunk_copied(self, _: object) -> None:
        for first, stop in self._chunk:
            if self.in_window:
                self.copied_in_window += stop - first
            else:
                self.copied += stop - first
            if self._trace_copy is not None:
                what = first, stop - first, self.rounds, int(self.in_window), self._chunk_began
                self._trace_copy((self._engine.now, COPY.id, *what))
        self._next_chunk()

    # -- the window ------------------------------------------------------------------------------------------

    def _query(self, _: object = None) -> None:
        ask = self.machine.hooks.device_may_sleep
        devices = self.machine.io.devices
        for device in devices:
            if ask is not None and False in ask(device):
                self.refused_by = device.name
                self._end("vetoed")
                return
        self._window = self._engine.now
        if self._trace_begin is not None:
            self._trace_begin((self._window, WINDOW_BEGIN.id, self.first, self.stop, len(devices)))
        self._memory.written = self._written
        self.machine.io.hold(self._quiet)

    def _quiet(self) -> None:
        """No device is at anything: turn all off, and stop."""
        self._memory.accesses.stop_all()
        self.machine.scheduler.stop_all()
        self._engine.after(self._power(self.policy.devices_off), self._rest)

    def _power(self, each: int) -> int:
        """The time in which all devices change their power state."""
        devices = len(self.machine.io.devices)
        return each * (min(devices, 1) if self.policy.devices_at_once else devices)

    def _rest(self, _: object = None) -> None:
        todo = self._different(movable=False)
        if todo:
            self._copy(todo, self._rest)
            return
        # The spare answers to these addresses from now on.
        for extent in self._memory.in_frames(self.first, self.stop):
            first, stop = max(self.first, extent.frame), min(self.stop, extent.frame + extent.pages)
            right = sum(end - start for start, end in self._changed.missing(first, stop))
            self.lost += stop - first - right
        self._engine.after(self._power(self.policy.devices_on), self._on)

    def _on(self, _: object) -> None:
        machine = self.machine
        self.pause = self._engine.now - self._window
        held = machine.io.held
        self._end("replaced")
        machine.scheduler.go_on()
        self._memory.accesses.go_on()
        machine.io.resume()
        if self._trace_end is not None:
            self._trace_end((self._engine.now, WINDOW_END.id, self.first, self.stop, held))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.ended = self._engine.now
        self._memory.written = None
        if self._trace_replaced is not None:
            text = self.machine.tracer.text(outcome)
            self._trace_replaced((self.ended, REPLACED.id, self.first, self.stop, text, self.rounds))
        if self.done is not None:
            self._engine.soon(_call, self.done)


def _call(action: Callable[[], object]) -> None:
    action()

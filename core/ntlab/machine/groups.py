"""Processor groups: sets of processors that one mask can name.

Plugins say by the hook `processor_groups` which groups a kernel makes. A thread is always in one of them. A
process starts in one, and its threads in that of their creator; by moving a thread to another one a process
comes to have threads in several, as the kernel's own has:

    yield SetThreadGroupAffinity(1)                        the thread that runs goes to group 1
    machine.groups.set_process_affinity(process, 0b1100)   as programs say it that know of no groups

Where nobody answers the hook there are none: processes may run everywhere, masks have as many bits as there
are processors, and nothing of this exists.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ntlab.errors import SimulationError, UserError
from ntlab.machine.threads import READY, Process, Request, Thread
from ntlab.topology.tables import fitted, members

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine


class Groups:
    """The groups of one machine.

    `masks` are the processors of each group, empty where there are no groups; `installed` is how many
    processors the hardware has, whether the kernel has started them or not.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        tables = machine.tables
        self.installed = tables.processors
        ask = machine.hooks.processor_groups
        self.masks: tuple[int, ...] = tuple(ask(machine) or ()) if ask is not None else ()
        self._places = [members(mask) for mask in self.masks]  # the processors in the order of their numbers
        if not self.masks:
            return
        started = sum(self.masks)
        if started.bit_length() > tables.processors:
            raise SimulationError(f"processor_groups gave {started:#x} of {tables.processors} processors")
        if started != (1 << tables.processors) - 1:
            tables = fitted(tables, started.bit_length(), started, tables.node_memory)
        group_of = tuple(self.of(1 << i) if started >> i & 1 else 0 for i in range(tables.processors))
        machine.tables = replace(tables, group_of=group_of, group_mask=self.masks, groups=len(self.masks))

    def follow(self, before: Groups) -> None:
        """Go on with the groups of the machine that crashed."""
        self.installed = before.installed
        self.masks = before.masks
        self._places = before._places

    def stands_in(self, processor: int, failing: int) -> None:
        """A processor is started that will stand in for another one: it has that one's place in its group."""
        masks = [mask & ~(1 << processor) for mask in self.masks]
        for group, places in enumerate(self._places):
            if processor in places:
                places.remove(processor)
            if failing in places:
                places[places.index(failing)] = processor
                masks[group] |= 1 << processor
        self.masks = tuple(masks)

    def of(self, mask: int) -> int:
        """The first group that has a processor of the mask."""
        return next(group for group, there in enumerate(self.masks) if there & mask)

    def processors(self, group: int) -> int:
        """The processors of a group that are in use. Raises UserError for one that does not exist."""
        if not 0 <= group < len(self.masks):
            raise UserError(f"there is no processor group {group}", expected=f"0 to {len(self.masks) - 1}")
        return self.masks[group] & self.machine.scheduler.all_mask

    def spanned(self, mask: int) -> list[int]:
        """The groups of which a mask has processors."""
        return [group for group, there in enumerate(self.masks) if there & mask]

    # -- who is where --------------------------------------------------------------------------------------

    def for_process(self, node: int | None) -> int:
        """The processors of a new process, whose creator prefers a node or does not."""
        if not self.masks:
            return self.machine.scheduler.all_mask
        ask = self.machine.hooks.process_group
        group = ask(self.machine, node) if ask is not None else None
        return self.processors(group or 0)

    def may_get(self, process: Process, processor: int) -> bool:
        """Whether a new processor is in a group that the process is in."""
        groups = self.spanned(process.affinity)
        return not self.masks or any(self.masks[group] >> processor & 1 for group in groups)

    def for_thread(self, process: Process, creator: Thread | None, ideal: int | None) -> int:
        """The processors of a new thread: those of its process in one group.

        Where it has several, that is its creator's, or else that of its ideal processor, or else the first.
        """
        groups = self.spanned(process.affinity)
        if len(groups) < 2:
            return process.affinity
        if creator is not None:
            return process.affinity & self.masks[self.of(creator.affinity)]
        return process.affinity & self.masks[groups[0] if ideal is None else self.of(1 << ideal)]

    def narrowed(self, thread: Thread, mask: int) -> int:
        """What is left of a mask by which a thread is to run: a thread is in one group.

        Of a mask that has processors of several, those in the thread's own count, or else those in the first.
        """
        groups = self.spanned(mask & self.machine.scheduler.all_mask)
        if len(groups) < 2:
            return mask
        own = self.of(thread.affinity)
        return mask & self.masks[own if own in groups else groups[0]]

    def require_one(self, mask: int, whose: str) -> None:
        """Raises UserError for a mask that no program can state: it has processors of several groups."""
        groups = self.spanned(mask)
        if len(groups) > 1:
            several = " and ".join(map(str, groups))
            raise UserError(
                f"affinity {mask:#x} of {whose!r} has processors of the groups {several}",
                expected="processors of one group",
            )

    def move(self, thread: Thread, group: int, mask: int | None = None, ideal: int | None = None) -> None:
        """Let a thread run in a group from now on (SetThreadGroupAffinity).

        `mask` counts from the group's first processor; None is all. `ideal` is the new ideal processor, a
        number of the machine; by default the old one if it is in the group, or else the first. A thread that
        runs goes when it is next placed, one that is ready at once. Raises UserError.
        """
        there = self.processors(group)
        if mask is not None:
            there = self._named(group, mask, thread.name)
        if ideal is None:
            ideal = thread.ideal if there >> thread.ideal & 1 else members(there)[0]
        if not there >> ideal & 1:
            raise UserError(f"ideal processor {ideal} of thread {thread.name!r}", expected="one in the mask")
        thread.process.affinity |= self.processors(group)
        thread.ideal = ideal
        self._allow(thread, there)

    def _allow(self, thread: Thread, mask: int) -> None:
        self.machine.scheduler.set_affinity(thread, mask)
        if thread.state == READY:
            self.machine.scheduler.reconsider(thread)

    def _named(self, group: int, mask: int, whose: str) -> int:
        """The processors that a mask names which counts from the first one of its group."""
        numbers = self._places[group]
        if mask <= 0 or mask.bit_length() > len(numbers):
            raise UserError(
                f"affinity {mask:#x} of {whose!r} in group {group}",
                expected=f"a mask that is not empty, of its {len(numbers)} processors",
            )
        there = sum(1 << numbers[k] for k in members(mask)) & self.machine.scheduler.all_mask
        if not there:
            raise UserError(f"affinity {mask:#x} of {whose!r}", expected="processors that are in use")
        return there

    def set_process_affinity(self, process: Process, mask: int) -> None:
        """Where a process and all its threads may run, as a program says that knows of no groups
        (SetProcessAffinityMask): the mask counts from the first processor of the group that it is in.

        Raises UserError for a process with threads in several groups.
        """
        groups = self.spanned(process.affinity)
        if len(groups) > 1:
            raise UserError(
                f"the affinity of process {process.name!r}, which has threads in {len(groups)} groups",
                expected="a process of one group",
            )
        process.affinity = there = self._named(groups[0], mask, process.name)
        for thread in [each for each in self.machine.threads.values() if each.process is process]:
            if not there >> thread.ideal & 1:
                thread.ideal = members(there)[0]
            self._allow(thread, there)

    # -- what is counted -----------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """How busy each group is, by the name of the counter; nothing without groups."""
        now = self.machine.engine.now or 1
        busy = [p.busy_time + (now - p.busy_since if p.thread is not None else 0)
                for p in self.machine.processors]  # fmt: skip
        return {
            rf"Processor Information({group},_Total)\% Processor Time": 100
            * sum(busy[i] for i in members(mask))
            / (mask.bit_count() * now)
            for group, mask in enumerate(self.masks)
        }

    def check(self) -> None:
        """Every thread is in one group. Raises SimulationError where one is not."""
        for thread in self.machine.threads.values() if self.masks else ():
            if len(self.spanned(thread.affinity & self.machine.scheduler.all_mask)) > 1:
                raise SimulationError(
                    f"{thread!r} is in several groups: its affinity is {thread.affinity:#x}"
                )


class SetThreadGroupAffinity(Request):
    """The thread goes to a processor group, and is there when the program goes on. See `Groups.move`."""

    __slots__ = ("group", "ideal", "mask")

    def __init__(self, group: int, mask: int | None = None, ideal: int | None = None) -> None:
        self.group = group
        self.mask = mask
        self.ideal = ideal

    def perform(self, thread: Thread) -> int | None:
        machine = thread.machine
        machine.groups.move(thread, self.group, self.mask, self.ideal)
        assert thread.processor is not None
        if thread.processor.bit & thread.affinity:
            return 0
        machine.engine.soon(machine.scheduler.wake, thread)
        return None

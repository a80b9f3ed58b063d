"""Which groups Windows makes of a machine's processors at boot, and in which one each process starts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import Machine
from ntlab.plugin import option, plugin, state
from ntlab.topology import assign_groups
from ntlab_processor_groups.workloads import Hogs

X86_PROCESSORS = 32
"""As many bits as a mask has in a 32-bit Windows."""


@plugin(
    name="processor_groups",
    summary="Processors beyond 64 are used, in groups of up to 64; a thread is in one of them.",
    release="ws2008r2",
    ledger=("P5",),
    requires=("ws2003",),
    workloads=(Hogs,),
    neutral={"group_size": 0},
)
class ProcessorGroups:
    groups: int = option(
        default=4,
        help="The most groups that there may be: 4 in 2008 R2, 1 in 2003 and 2008, which know of none; later"
        " releases go up to 2048 processors, 32 groups.",
        minimum=1,
        maximum=32,
    )
    group_size: int = option(
        default=64,
        help="The most processors of a group, a power of two (a boot option for tests); 0: a mask has as many"
        " bits as there are processors, and nobody needs groups.",
        minimum=0,
        maximum=64,
    )
    surplus: Literal["refuse", "unused"] = option(
        default="refuse",
        help="What becomes of a machine with more processors: it is refused, or they are not started.",
    )
    split_nodes: bool = option(
        default=True, help="Whether a node that is larger than a group is divided into smaller ones."
    )
    assignment: Literal["by_turns", "first"] = option(
        default="by_turns", help="In which group processes start: each in the next one, or all in group 0."
    )

    _processes: int = state(int)

    @hookimpl
    def processor_groups(self, machine: Machine) -> Sequence[int] | None:
        size, tables = self.group_size, machine.tables
        if not size:
            return None
        if size & (size - 1):
            raise UserError(
                f"groups of {size} processors",
                where="processor_groups.group_size",
                expected="a power of two, or 0",
            )
        if machine.architecture == "x86" or self.groups == 1:
            most = min(size, X86_PROCESSORS) if machine.architecture == "x86" else size
            if tables.processors > most and self.surplus == "refuse":
                raise self._refused(machine, f"{tables.processors} processors", f"at most {most}")
            return [(1 << min(tables.processors, most)) - 1]
        if not self.split_nodes:
            for node, processors in enumerate(tables.node_processors):
                if len(processors) > size:
                    raise UserError(
                        f"node {node} of {tables.name} has {len(processors)} processors",
                        where="processor_groups.split_nodes",
                        expected=f"at most {size}, or split_nodes = true",
                    )
        masks: dict[int, int] = {}
        for processor, group in enumerate(assign_groups(tables, size)):
            masks[group] = masks.get(group, 0) | 1 << processor
        if len(masks) > self.groups and self.surplus == "refuse":
            count = f"{tables.processors} processors in {len(masks)} groups"
            raise self._refused(machine, count, f"at most {self.groups} groups of {size}")
        return [masks[group] for group in range(min(len(masks), self.groups))]

    def _refused(self, machine: Machine, what: str, expected: str) -> UserError:
        return UserError(
            f"{machine.tables.name} has {what}",
            where="processor_groups.groups",
            expected=f"{expected}, or surplus = 'unused'",
        )

    @hookimpl
    def process_group(self, machine: Machine, node: int | None) -> int | None:
        groups = machine.groups
        if node is not None and (there := machine.tables.node_mask[node]):
            return groups.of(there)
        if self.assignment == "first":
            return None
        self._processes += 1
        return (self._processes - 1) % len(groups.masks)

    @hookimpl(wrapper=True)
    def processor_limit(self) -> Generator[None, int | None, int | None]:
        """No more than the groups hold, whatever else limits them; 0 is no limit."""
        limits = (yield), self.groups * self.group_size
        return min(filter(None, limits), default=None)

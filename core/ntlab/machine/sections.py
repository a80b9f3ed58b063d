"""The kernel's own memory: named sections of its address space, and the working sets that they are in.

Each section is an `AddressSpace` of its own. Those that can be paged have a working set, of their own or
shared with others: which shares which is asked of plugins, and so are the limits. In a shared working set the
pages of all its sections stand in one order, so that one section's growth may push another's pages out. The
non-paged pool's is never trimmed: its pages stay.

    machine.sections.space(PAGED_POOL).allocate(pages)      a `Region` of paged pool, or None
    machine.sections.nonpaged(pages)                        one of non-paged pool
    machine.sections.space(SYSTEM_CACHE).working_set        a `WorkingSet`

A section comes to be when it is first asked for: a machine whose kernel memory nobody looks at has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ntlab.errors import SimulationError
from ntlab.machine.extents import ACTIVE
from ntlab.machine.spaces import AddressSpace, Region, WorkingSet

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine

SYSTEM_CACHE: Final = "system cache"
"""Views of cached files."""
PAGED_POOL: Final = "paged pool"
SYSTEM_CODE: Final = "system code"
"""Pageable code of the kernel and of the drivers that boot with it."""
SYSTEM_DRIVERS: Final = "system drivers"
"""Pageable code and data of other drivers."""
NONPAGED_POOL: Final = "nonpaged pool"
PAGE_TABLES: Final = "page tables"
"""Those of the system's address space."""
PAGEABLE: Final = (SYSTEM_CACHE, PAGED_POOL, SYSTEM_CODE, SYSTEM_DRIVERS)
RESIDENT: Final = (NONPAGED_POOL, PAGE_TABLES)
SECTIONS: Final = (*PAGEABLE, *RESIDENT)

SYSTEM_WORKING_SET: Final = "system"
"""The working set of all sections where no plugin says more."""


class Sections:
    """The sections of one machine's kernel. `working_sets` are theirs, by name."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.memory = machine.memory
        self.working_sets: dict[str, WorkingSet] = {}
        self._spaces: dict[str, AddressSpace] = {}
        self._kernel_working_set = machine.hooks.kernel_working_set
        self._kernel_working_set_limits = machine.hooks.kernel_working_set_limits

    def space(self, name: str) -> AddressSpace:
        """The section of that name, one of `SECTIONS`."""
        found = self._spaces.get(name)
        if found is None:
            if name not in SECTIONS:
                raise SimulationError(f"no section of the kernel is called {name!r}; there are {SECTIONS}")
            system = self.machine.system_process
            # Processes have numbers that are multiples of four.
            identity = 4 * SECTIONS.index(name) + 1
            found = AddressSpace(self.memory, system, identity, name, self._working_set(name))
            self._spaces[name] = self.memory.spaces[identity] = found
        return found

    def spaces(self) -> list[AddressSpace]:
        """The sections that have been asked for so far."""
        return [self._spaces[name] for name in SECTIONS if name in self._spaces]

    def nonpaged(self, pages: int, node: int = 0, section: str = NONPAGED_POOL) -> Region | None:
        """A region of the non-paged pool, or another section that is resident, in memory at once: from `node`
        while it has any pages, then from others. None if there are not so many pages, or the commit limit
        would be passed."""
        space = self.space(section)
        region = space.allocate(pages) if pages <= self.memory.available else None
        if region is not None:
            self.memory.populate(region, node, dirty=True)
            for extent in region.extents():
                extent.accessed = True
        return region

    def _working_set(self, section: str) -> WorkingSet:
        """The working set of a section that is being made."""
        machine = self.machine
        if section in RESIDENT:
            return WorkingSet(machine.system_process, section, 0, 0, kernel=True, pageable=False)
        ask = self._kernel_working_set
        name = ask(machine, section) if ask is not None else None
        if name is None:
            name = SYSTEM_WORKING_SET
        found = self.working_sets.get(name)
        if found is None:
            ask = self._kernel_working_set_limits
            limits = ask(machine, name) if ask is not None else None
            minimum, maximum = limits if limits is not None else (0, 0)
            found = self.working_sets[name] = WorkingSet(
                machine.system_process,
                name,
                minimum,
                maximum or max(minimum, self.memory.policy.working_set_maximum),
                hard=maximum > 0,
                kernel=True,
            )
            self.memory.working_sets.append(found)
        return found

    # -- what is counted ----------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """Performance counters by their Windows names. The faults are those of the system cache's working
        set, whoever else is in it."""
        size = self.memory.policy.page_size
        seconds = self.machine.engine.now / 1e9 or 1.0
        resident = dict.fromkeys(SECTIONS, 0.0)
        committed = dict.fromkeys(SECTIONS, 0.0)
        cache = self._spaces.get(SYSTEM_CACHE)
        faults = 0
        for space in self.spaces():
            resident[space.name] = float(space.resident * size)
            committed[space.name] = float(space.committed * size)
            if cache is not None and space.working_set is cache.working_set:
                faults += space.faults
        return {
            r"Memory\Cache Bytes": sum(resident[name] for name in PAGEABLE),
            r"Memory\System Cache Resident Bytes": resident[SYSTEM_CACHE],
            r"Memory\Pool Paged Bytes": committed[PAGED_POOL],
            r"Memory\Pool Paged Resident Bytes": resident[PAGED_POOL],
            r"Memory\System Code Resident Bytes": resident[SYSTEM_CODE],
            r"Memory\System Driver Resident Bytes": resident[SYSTEM_DRIVERS],
            r"Memory\Pool Nonpaged Bytes": committed[NONPAGED_POOL],
            r"Memory\Cache Faults/sec": faults / seconds,
        }

    def check(self) -> None:
        """Raise SimulationError where the sections contradict memory. For tests."""
        for space in self.spaces():
            if self.memory.spaces.get(space.id) is not space:
                raise SimulationError(f"memory does not know the section {space.name!r}")
        for name in RESIDENT:
            for region in self._spaces[name].regions if name in self._spaces else ():
                resident = sum(extent.pages for extent in region.extents() if extent.state == ACTIVE)
                if resident != region.pages:
                    raise SimulationError(f"{region!r} is not in memory, though it is not pageable")
        for working_set in self.working_sets.values():
            resident = sum(space.resident for space in self.spaces() if space.working_set is working_set)
            if resident != working_set.pages:
                raise SimulationError(f"{working_set!r} has pages that are in none of its sections")

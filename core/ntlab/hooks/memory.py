"""What memory management asks. Pages are counted in pages of the machine's page size, nodes by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ntlab.hooks.markers import expects, hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine.ageing import PageRun
    from ntlab.machine.extents import Extent
    from ntlab.machine.machine import Machine
    from ntlab.machine.memory import Memory
    from ntlab.machine.policy import AgeingPolicy, MemoryPolicy, RegistryPolicy
    from ntlab.machine.processors import Processor
    from ntlab.machine.spaces import Region, WorkingSet
    from ntlab.machine.threads import Thread


def _distinct_nodes(answer: Sequence[int], memory: Memory) -> bool:
    return len(set(answer)) == len(answer) and all(node in range(len(memory.nodes)) for node in answer)


def _same_pages(answer: Sequence[PageRun], runs: Sequence[PageRun]) -> bool:
    def pages(of: Sequence[PageRun]) -> list[tuple[int, int]]:
        return sorted((run.space.id, page) for run in of for page in range(run.first, run.stop))

    return pages(answer) == pages(runs)


def _limits(answer: tuple[int, int]) -> bool:
    minimum, maximum = answer
    return minimum >= 0 and (maximum == 0 or maximum >= minimum)


@hookspec(firstresult=True)
def memory_policy(machine: Machine) -> MemoryPolicy | None:
    """The fixed rules and costs of memory.

    Asked once, while the machine is put together: it has processors, locks and disks, but no paging yet.
    2003: its options, pages of 4 KiB and working sets of 50 to 345 pages. None everywhere: `MemoryPolicy()`.
    """


@hookspec(firstresult=True)
@expects("a node of the machine", lambda answer, thread: answer in range(thread.machine.tables.nodes))
def allocation_node(thread: Thread, region: Region) -> int | None:
    """The home of pages that a running thread is about to get: the number of the node that is tried first.

    Asked at each demand-zero or hard fault, for all its pages at once. 2003: the node of the processor that
    the thread runs on now. None everywhere: node 0.
    """


@hookspec(firstresult=True)
@expects("nodes of the machine, none twice", _distinct_nodes)
def fallback_order(memory: Memory, home: int) -> Sequence[int] | None:
    """The numbers of the nodes to try, in this order, once `home` has no page available.

    Asked each time that happens. Nodes that are not named come last, by number. 2003: the others at random.
    None everywhere: the others by number.
    """


@hookspec(firstresult=True)
def kernel_working_set(machine: Machine, section: str) -> str | None:
    """The name of the working set that a section of the kernel's memory is in.

    Asked once for each of the sections "system cache", "paged pool", "system code" and "system drivers", when
    it is first used. Sections that are given one name share one working set. None everywhere, as in 2003:
    "system", one for all.
    """


@hookspec(firstresult=True)
@expects("pages: a minimum, and a maximum that is 0 or not below it", _limits)
def kernel_working_set_limits(machine: Machine, name: str) -> tuple[int, int] | None:
    """The fewest and the most pages of the kernel's working set of that name.

    Asked once, when its first section is first used. The most is a hard limit: what comes in above it pushes
    the oldest pages out; 0 is no limit, and then it has a process's maximum, for who trims working sets. The
    fewest is what `pages_short` leaves it. 2003: its options. None everywhere: (0, 0).
    """


@hookspec(firstresult=True)
@expects("a node of the machine", lambda answer, machine: answer in range(machine.tables.nodes))
def pool_node(machine: Machine, processor: Processor, thread: Thread | None) -> int | None:
    """The number of the node whose part of the non-paged pool serves an allocation.

    Asked for each block that is allocated there on a processor: by a thread, or by an interrupt or DPC
    (None). A block goes back to its part. None everywhere, as in 2003: the pool is one, and whoever asks gets
    the block that was given back last.
    """


@hookspec(firstresult=True)
@expects("a node of the machine", lambda answer, machine: answer in range(machine.tables.nodes))
def kernel_page_node(
    machine: Machine, processor: Processor, thread: Thread | None, use: Literal["pool", "page table"]
) -> int | None:
    """The number of the node from which new memory of the kernel's own comes first.

    Asked, as for `pool_node`, when a non-paged pool that is one grows ("pool"), and when an allocation of
    system PTEs needs a new page-table page ("page table"). 2003: any node. None everywhere: node 0.
    """


@hookspec(firstresult=True)
@expects("a node of the machine", lambda answer, thread: answer in range(thread.machine.tables.nodes))
def standby_node(thread: Thread, extent: Extent) -> int | None:
    """The number of the node that standby pages are moved to, because a running thread touches them.

    Asked at each soft fault on a standby list, for all its pages that are consecutive. As many move as the
    node has available; the thread copies them, `page_copy` ns each, and where they were becomes free. None
    everywhere, as in 2003: they stay where they are.
    """


@hookspec(firstresult=True)
@expects("a priority, 0 to 7", lambda answer: 0 <= answer <= 7)
def page_priority(thread: Thread, region: Region) -> int | None:
    """The priority of pages that a thread gets, 0 to 7: standby pages of a lower one are given away first.

    Asked at each fault, for all its pages at once and for what is read with them, and before each read-ahead.
    A page that is taken back from a list keeps its own where that is higher. None everywhere, as in 2003:
    5, so that there is one standby list.
    """


@hookspec(firstresult=True)
def ageing_policy(machine: Machine) -> AgeingPolicy | None:
    """Whether pages age, and when they are looked at.

    Asked once, after `memory_policy`. 2003: its options, by which pages do not age unless an experiment says
    so. None everywhere: pages do not age, working sets give them up in the order in which they came, and
    the two questions below are never asked.
    """


@hookspec(firstresult=True)
@expects("an age, 1 to 255", lambda answer: 1 <= answer <= 255)
def oldest_age(machine: Machine) -> int | None:
    """The greatest age that a page can have, in looks: two to the power of its bits, less one.

    Asked once, after `ageing_policy`. 2003: 3, which is two bits. None everywhere: 1.
    """


@hookspec(firstresult=True)
@expects("the same pages, each once", _same_pages)
def trim_order(working_set: WorkingSet, age: int, runs: Sequence[PageRun]) -> Sequence[PageRun] | None:
    """In which order pages of one age leave their working set.

    Asked where pages are looked at by timer: when pages of that age are first wanted after a look. `runs`
    are in the order in which they came in; they may be cut and put in any order. None everywhere, as in
    2003: in that order.
    """


@hookspec(firstresult=True)
def registry_policy(machine: Machine) -> RegistryPolicy | None:
    """Where the registry is, and how much of it at a time.

    Asked once, when the first hive is loaded. 2003: its options, by which it is in non-paged pool and not
    more than 4 MiB of it at a time. None everywhere: `RegistryPolicy()`, in non-paged pool, whole.
    """


@observer
def pages_short(memory: Memory, pages: int) -> None:
    """So many pages are missing: threads need them, and they are neither available nor modified, and so to be
    written. Or the balance set manager wants so many more to be available.

    Whoever can makes some available: `memory.trim` makes clean pages so at once, changed ones as soon as they
    are written. If that gives none, and none is being written, the request fails with STATUS_NO_MEMORY. 2003:
    trims working sets down to their maximum, then to their minimum.
    """

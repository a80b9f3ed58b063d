"""The fixed rules that a plugin sets for a mechanism at boot."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from ntlab.quantities import KIB, MICROSECOND, MILLISECOND, Duration, Rate, Share, Size


def _positive(instance: object, field: attrs.Attribute[Any], value: int) -> None:
    _whole(field, value)
    if value <= 0:
        raise ValueError(f"{field.name} must be positive, not {value}")


def _not_negative(instance: object, field: attrs.Attribute[Any], value: int) -> None:
    _whole(field, value)
    if value < 0:
        raise ValueError(f"{field.name} must not be negative, not {value}")


def _whole(field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{field.name} must be a whole number, not {value!r}")


def _share(instance: object, field: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{field.name} must be 0 to 1, not {value}")


@attrs.frozen(kw_only=True)
class SchedulerPolicy:
    """Rules of the scheduler.

    - `quantum`: a thread's turn, ns, where no plugin answers `turn_length`.
    - `tick`: period of the clock interrupt, ns. Not simulated event by event: its effects are computed.
    - `accounting`: when a turn is over. "exact": when the quantum has been run. "cycle" (2008): at the
      first tick at which it has been run. "tick" (2003): after so many ticks seen while running, each
      charged whole; time in interrupts is on the thread's bill.
    - `ready_queues`: one "shared" by all processors (2000), or one "per_processor" (2003 and later).
    - `fresh_quantum_after_wait`: whether a thread that waited begins a new turn or goes on with its old one.
    - `switch_cost`: ns lost when a processor goes from one thread directly to another.
    - `object_hold`: for how many ns an operation on a dispatcher object holds a lock of the scheduler's
      database; see `ntlab.machine.dispatcher`.
    - `lock_transfer`: ns that the cache line of a spinlock takes to another processor of its node; farther,
      in proportion to the memory's latency. See `ntlab.machine.locks`.
    """

    quantum: Duration = attrs.field(default=Duration(10 * MILLISECOND), validator=_positive)
    tick: Duration = attrs.field(default=Duration(15_625_000), validator=_positive)
    accounting: Literal["exact", "cycle", "tick"] = attrs.field(
        default="exact", validator=attrs.validators.in_(("exact", "cycle", "tick"))
    )
    ready_queues: Literal["shared", "per_processor"] = attrs.field(
        default="shared", validator=attrs.validators.in_(("shared", "per_processor"))
    )
    fresh_quantum_after_wait: bool = False
    switch_cost: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    object_hold: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    lock_transfer: Duration = attrs.field(default=Duration(0), validator=_not_negative)


@attrs.frozen(kw_only=True)
class TimerPolicy:
    """Rules and costs of the clock and of timers; costs in ns of the processor that bears them.

    - `keeper`: the number of the processor that keeps the time.
    - `clock_time`: the service routine of the clock interrupt.
    - `expiration_time`: the DPC in which timers expire, besides `timer_time` for each of them and what
      their own DPCs take. For `timer_time` of each they hold a lock of the scheduler's database, if that
      has locks; see `ntlab.machine.dispatcher`.
    - `timers_per_hold`: after how many timers with DPCs that lock is freed for others; 0: after all.
    """

    keeper: int = attrs.field(default=0, validator=_not_negative)
    clock_time: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    expiration_time: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    timer_time: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    timers_per_hold: int = attrs.field(default=0, validator=_not_negative)


@attrs.frozen(kw_only=True)
class PowerPolicy:
    """Rules of idle states.

    - `samples`: how many of its last idle times a processor's next one is predicted from: their median.
    - `recheck`: ns after which a processor that is still idle is asked again for an idle state.
    """

    samples: int = attrs.field(default=8, validator=_positive)
    recheck: Duration = attrs.field(default=Duration(15_625_000), validator=_positive)


@attrs.frozen(kw_only=True)
class IoPolicy:
    """Fixed costs of input and output, ns of the processor that bears them.

    - `interrupt_time`: the service routine of a device's interrupt.
    - `dpc_time`: the DPC that completes the request.
    - `completion_time`: the final step of a request that is bound to a completion port.
    - `redirect_time`: the interrupt by which a DPC is sent to another processor than the interrupted one.
    - `disk`: the model of the disks that a hardware description names; see `ntlab.machine.disks`.

    And the cache lines that it touches, see `ntlab.machine.io_lines`; 0 is none:

    - `control_lines`: of a request's own structures, which the DPC uses.
    - `queue_lines`: of a device's queue, which its service routine reads.
    """

    interrupt_time: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    dpc_time: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    completion_time: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    redirect_time: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    disk: str = "sas15k"
    control_lines: int = attrs.field(default=0, validator=_not_negative)
    queue_lines: int = attrs.field(default=0, validator=_not_negative)


@attrs.frozen(kw_only=True)
class ProcessorCachePolicy:
    """Processor caches, as far as the description of the machine leaves them open.

    - `core_latency`, `package_latency`: ns for a line from a cache of level 1 or 2, and from one of
      level 3 and above. The defaults are those of an Intel X5570: 9 and 47 clocks.
    - `overlap`: how many lines are on their way at a time.
    - `core_size`, `package_size`: bytes of these caches where none is described; 0 is none. The defaults are
      those of an Opteron of 2003.
    """

    core_latency: Duration = attrs.field(default=Duration(3), validator=_not_negative)
    package_latency: Duration = attrs.field(default=Duration(16), validator=_not_negative)
    overlap: float = attrs.field(default=4.0, validator=attrs.validators.gt(0))
    core_size: Size = attrs.field(default=Size(1 << 20), validator=_not_negative)
    package_size: Size = attrs.field(default=Size(0), validator=_not_negative)


@attrs.frozen(kw_only=True)
class MemoryPolicy:
    """Rules and costs of memory; the costs are orders of magnitude, not measurements (unvalidated).

    - `page_size`, `line`: bytes of a page and of a cache line.
    - `demand_zero_fault`, `transition_fault`: processor time for each page; `hard_fault`: for each wait for
      a read; `zeroing`: for each page that nobody has zeroed before; `page_copy`: for each page that is
      copied from one node to another.
    - `working_set_minimum`, `working_set_maximum`: pages, of a new process. Nothing is done at the maximum
      unless a plugin does it.
    """

    page_size: Size = attrs.field(default=Size(4096), validator=_positive)
    line: Size = attrs.field(default=Size(64), validator=_positive)
    demand_zero_fault: Duration = attrs.field(default=Duration(1 * MICROSECOND), validator=_not_negative)
    transition_fault: Duration = attrs.field(default=Duration(1 * MICROSECOND), validator=_not_negative)
    hard_fault: Duration = attrs.field(default=Duration(20 * MICROSECOND), validator=_not_negative)
    zeroing: Duration = attrs.field(default=Duration(1 * MICROSECOND), validator=_not_negative)
    page_copy: Duration = attrs.field(default=Duration(1_500), validator=_not_negative)
    working_set_minimum: int = attrs.field(default=50, validator=_not_negative)
    working_set_maximum: int = attrs.field(default=345, validator=_positive)


@attrs.frozen(kw_only=True)
class ReplacementPolicy:
    """How failing parts are replaced in a running machine; the times are guesses of the usual order.

    - `order`: what of a memory unit is copied before devices are turned off. "movable_first": all that the
      memory manager may move, in rounds; "all_in_window": nothing.
    - `rounds`: how often what was written to meanwhile is copied again before devices are turned off, at
      most. `watch_writes`: whether it is; what is not copied again is lost.
    - `copy_bandwidth`: bytes a second that are copied at most; 0: as many as the memory carries.
    - `devices_off`, `devices_on`: ns that a device takes to go to its low-power state D3 and back to D0;
      `devices_at_once`: all at a time, or one after the other.
    - `slow_to`: what is left of a failing processor's speed until its threads have left it.
    - `processor_start`: ns from when a spare processor is started to when threads may run on it.
    """

    order: Literal["movable_first", "all_in_window"] = attrs.field(
        default="movable_first", validator=attrs.validators.in_(("movable_first", "all_in_window"))
    )
    rounds: int = attrs.field(default=8, validator=_not_negative)
    watch_writes: bool = True
    copy_bandwidth: Rate = attrs.field(default=Rate(0), validator=_not_negative)
    devices_off: Duration = attrs.field(default=Duration(100 * MILLISECOND), validator=_not_negative)
    devices_on: Duration = attrs.field(default=Duration(200 * MILLISECOND), validator=_not_negative)
    devices_at_once: bool = True
    slow_to: Share = attrs.field(default=Share(0.5), validator=_share)
    processor_start: Duration = attrs.field(default=Duration(100 * MILLISECOND), validator=_not_negative)


@attrs.frozen(kw_only=True)
class AgeingPolicy:
    """Rules of page ages; see `ntlab.machine.ageing`.

    - `look`: when the kernel looks which pages have been accessed. "timer": at all, each `period` (ns).
      "demand": at one after the other, when pages are to leave their working set.
    - `low_available`: after a look by timer, working sets are trimmed if fewer pages are available.
    """

    look: Literal["timer", "demand"] = attrs.field(
        default="timer", validator=attrs.validators.in_(("timer", "demand"))
    )
    period: Duration = attrs.field(default=Duration(1000 * MILLISECOND), validator=_positive)
    low_available: int = attrs.field(default=0, validator=_not_negative)


@attrs.frozen(kw_only=True)
class RegistryPolicy:
    """Rules of the registry; see `ntlab.machine.registry`.

    - `backing`: where its hives are. `store`: what is behind them in paged pool.
    - `limit`: bytes of all hives that may be in use at a time, in non-paged pool or in views; 0 for all.
    - `part`: bytes of a hive that come and go together.
    """

    backing: Literal["nonpaged", "cache_views", "paged_pool"] = attrs.field(
        default="nonpaged", validator=attrs.validators.in_(("nonpaged", "cache_views", "paged_pool"))
    )
    store: Literal["paging_file", "hive_file"] = attrs.field(
        default="paging_file", validator=attrs.validators.in_(("paging_file", "hive_file"))
    )
    limit: Size = attrs.field(default=Size(0), validator=_not_negative)
    part: Size = attrs.field(default=Size(256 * KIB), validator=_positive)


@attrs.frozen(kw_only=True)
class PagingPolicy:
    """Rules of paging.

    - `file_size`: bytes of the paging file; 0 for none. `initial_fragmentation`: the share of it that is in
      use from the beginning and stays so, at random places.
    - The writer works on while any of these holds, thresholds in pages: fewer than `low_free` are zeroed or
      free and more are modified than `high_modified` or a sixteenth of those available, whichever is less;
      fewer than `low_available` are available; a thread waits for pages; a flush was asked for. It looks
      when pages are trimmed and when a write ends.
    """

    file_size: Size = attrs.field(default=Size(0), validator=_not_negative)
    initial_fragmentation: Share = attrs.field(default=Share(0.0), validator=_share)
    low_free: int = attrs.field(default=20_000, validator=_not_negative)
    high_modified: int = attrs.field(default=16_384, validator=_not_negative)
    low_available: int = attrs.field(default=15_000, validator=_not_negative)


@attrs.frozen(kw_only=True)
class CachePolicy:
    """Rules of the file cache.

    - `view_size`: bytes of a view, the piece in which cached files are mapped. `address_space`: bytes that
      all views together may take; 0 is no limit.
    - `sequential_reads`: that many reads in a row, each from where the one before ended, are sequential.
    """

    view_size: Size = attrs.field(default=Size(256 * KIB), validator=_positive)
    address_space: Size = attrs.field(default=Size(0), validator=_not_negative)
    sequential_reads: int = attrs.field(default=3, validator=_positive)


@attrs.frozen(kw_only=True)
class ThreadPoolPolicy:
    """Rules of thread pools; see `ntlab.machine.thread_pools`.

    - `kernel`: whether the kernel keeps the workers, by the pool's completion port, and its timers. If not,
      the process does: it has a thread for timers, and learns of nothing by itself.
    - `concurrency`: so many workers run at a time, for each processor. `maximum`: workers at most.
    - `idle`: how long a worker waits for work before it ends (ns). `growth`: with the pool's own thread for
      timers, how long after one worker was added it looks whether another is needed (ns); 0: never.
    - `handles`: how many objects a thread can wait for.
    - `cancels`: whether work that has not begun can be taken back. `several`: whether a process may have more
      than one pool. `rearms`: whether a registered wait waits again by itself. `priorities`: whether work
      has a priority.
    - `post`, `take`, `add`, `set_timer`, `wait`: the system calls that it takes to post work, to take it, to
      add a worker, to set a timer, and to wait for objects or for the next timer; in user mode a call each.
    - `call_time`: what a system call costs the thread that makes it (ns).
    """

    kernel: bool = True
    concurrency: int = attrs.field(default=1, validator=_positive)
    maximum: int = attrs.field(default=500, validator=_positive)
    idle: Duration = attrs.field(default=Duration(10_000 * MILLISECOND), validator=_positive)
    growth: Duration = attrs.field(default=Duration(0), validator=_not_negative)
    handles: int = attrs.field(default=63, validator=_positive)
    cancels: bool = True
    several: bool = True
    rearms: bool = False
    priorities: bool = False
    post: tuple[str, ...] = ()
    take: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    set_timer: tuple[str, ...] = ()
    wait: tuple[str, ...] = ()
    call_time: Duration = attrs.field(default=Duration(0), validator=_not_negative)

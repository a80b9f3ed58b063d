"""The general mechanisms of a kernel. Every decision is asked of plugins through hooks."""

from ntlab.machine.accesses import Allocate, Free, Tally, Touch
from ntlab.machine.ageing import PageRun
from ntlab.machine.caches import Caches, Footprint, Refills, Reuse
from ntlab.machine.crashes import Crash, LoggedEvent, NonVolatile
from ntlab.machine.disks import PRESETS, Disk, DiskModel, SeekCurve
from ntlab.machine.extents import Extent
from ntlab.machine.file_cache import CopyRead, FileCache, FileMapping, MapFile, OpenFile
from ntlab.machine.groups import Groups, SetThreadGroupAffinity
from ntlab.machine.hardware_errors import Component, ErrorSource, HardwareError, LatchedError
from ntlab.machine.idle import IdleTimes, is_idle, watch_idle
from ntlab.machine.io import Device, File, Io, IoRequest, Layer, Read, Write
from ntlab.machine.links import Flow, Link, Links
from ntlab.machine.locks import Acquire, Release, SpinLock
from ntlab.machine.machine import Machine
from ntlab.machine.mappings import CreateMapping, MappingObject, MapView, UnmapView, View
from ntlab.machine.memory import Memory
from ntlab.machine.pagefile import PagingFile
from ntlab.machine.paging import FlushModifiedList, Paging
from ntlab.machine.partitioning import Arrival, Driver, MemoryUnit, Partitioning, ProcessorChange
from ntlab.machine.partitions import (
    NEVER_NOTIFY,
    NOTIFY_LONG_SPIN_WAIT,
    Partition,
    Partitions,
    VirtualProcessor,
    Yield,
)
from ntlab.machine.policy import (
    AgeingPolicy,
    CachePolicy,
    IoPolicy,
    MemoryPolicy,
    PagingPolicy,
    PowerPolicy,
    ProcessorCachePolicy,
    RegistryPolicy,
    ReplacementPolicy,
    SchedulerPolicy,
    ThreadPoolPolicy,
    TimerPolicy,
)
from ntlab.machine.pool import AllocatePool, Mapping, MapSystemPages, NonPagedPool, PoolBlock, SystemPtes
from ntlab.machine.ports import CompletionPort, Dequeue, Packet, Post
from ntlab.machine.power import Power
from ntlab.machine.processors import NOMINAL, OrderedLevel, Processor, ReadyLevel
from ntlab.machine.registry import Hive, QueryKey, Registry
from ntlab.machine.replacement import MemoryReplacement
from ntlab.machine.sections import (
    NONPAGED_POOL,
    PAGED_POOL,
    SYSTEM_CACHE,
    SYSTEM_CODE,
    SYSTEM_DRIVERS,
    Sections,
)
from ntlab.machine.services import Control, NextControl, Service, Services
from ntlab.machine.siblings import Siblings
from ntlab.machine.spaces import AddressSpace, Backing, Region, WorkingSet
from ntlab.machine.speeds import Speeds
from ntlab.machine.stages import Mailbox, Receive, Stage
from ntlab.machine.startup import Startup, Task, TaskRun
from ntlab.machine.system_events import SystemEvent, SystemEvents
from ntlab.machine.thread_pools import (
    CleanupGroup,
    PoolWait,
    PostWork,
    ReleaseGroup,
    SetPoolTimer,
    ThreadPool,
    ThreadPools,
    Work,
)
from ntlab.machine.threads import (
    Compute,
    Process,
    Program,
    Request,
    RunOn,
    Session,
    SetIdealProcessor,
    Sleep,
    Thread,
)
from ntlab.machine.timers import Delay, Dpc, SetTimer, Timer, Timers, WaitForTimer

__all__ = [
    "NEVER_NOTIFY",
    "NOMINAL",
    "NONPAGED_POOL",
    "NOTIFY_LONG_SPIN_WAIT",
    "PAGED_POOL",
    "PRESETS",
    "SYSTEM_CACHE",
    "SYSTEM_CODE",
    "SYSTEM_DRIVERS",
    "Acquire",
    "AddressSpace",
    "AgeingPolicy",
    "Allocate",
    "AllocatePool",
    "Arrival",
    "Backing",
    "CachePolicy",
    "Caches",
    "CleanupGroup",
    "CompletionPort",
    "Component",
    "Compute",
    "Control",
    "CopyRead",
    "Crash",
    "CreateMapping",
    "Delay",
    "Dequeue",
    "Device",
    "Disk",
    "DiskModel",
    "Dpc",
    "Driver",
    "ErrorSource",
    "Extent",
    "File",
    "FileCache",
    "FileMapping",
    "Flow",
    "FlushModifiedList",
    "Footprint",
    "Free",
    "Groups",
    "HardwareError",
    "Hive",
    "IdleTimes",
    "Io",
    "IoPolicy",
    "IoRequest",
    "LatchedError",
    "Layer",
    "Link",
    "Links",
    "LoggedEvent",
    "Machine",
    "Mailbox",
    "MapFile",
    "MapSystemPages",
    "MapView",
    "Mapping",
    "MappingObject",
    "Memory",
    "MemoryPolicy",
    "MemoryReplacement",
    "MemoryUnit",
    "NextControl",
    "NonPagedPool",
    "NonVolatile",
    "OpenFile",
    "OrderedLevel",
    "Packet",
    "PageRun",
    "Paging",
    "PagingFile",
    "PagingPolicy",
    "Partition",
    "Partitioning",
    "Partitions",
    "PoolBlock",
    "PoolWait",
    "Post",
    "PostWork",
    "Power",
    "PowerPolicy",
    "Process",
    "Processor",
    "ProcessorCachePolicy",
    "ProcessorChange",
    "Program",
    "QueryKey",
    "Read",
    "ReadyLevel",
    "Receive",
    "Refills",
    "Region",
    "Registry",
    "RegistryPolicy",
    "Release",
    "ReleaseGroup",
    "ReplacementPolicy",
    "Request",
    "Reuse",
    "RunOn",
    "SchedulerPolicy",
    "Sections",
    "SeekCurve",
    "Service",
    "Services",
    "Session",
    "SetIdealProcessor",
    "SetPoolTimer",
    "SetThreadGroupAffinity",
    "SetTimer",
    "Siblings",
    "Sleep",
    "Speeds",
    "SpinLock",
    "Stage",
    "Startup",
    "SystemEvent",
    "SystemEvents",
    "SystemPtes",
    "Tally",
    "Task",
    "TaskRun",
    "Thread",
    "ThreadPool",
    "ThreadPoolPolicy",
    "ThreadPools",
    "Timer",
    "TimerPolicy",
    "Timers",
    "Touch",
    "UnmapView",
    "View",
    "VirtualProcessor",
    "WaitForTimer",
    "Work",
    "WorkingSet",
    "Write",
    "Yield",
    "is_idle",
    "watch_idle",
]

"""What WHEA asks the drivers of error sources and vendors' PSHED plug-ins.

A plugin that answers them has `requires=("whea",)`, so that it is asked before the defaults, which WHEA
itself gives. It answers None on every platform that is not its own: then the default stands. What passes is
plain data and the types of `ntlab.machine`; a section of a record is a pair of its type's GUID and its bytes.

The functional areas of a PSHED plug-in (errors facts, 1.3): discovery `pshed_sources`; source control
`pshed_set_source`, `pshed_enable_source`; persistence `pshed_write_record`, `pshed_stored_records`,
`pshed_clear_record`; information `pshed_retrieve`, `pshed_finalize`, `pshed_clear_status`; recovery
`pshed_attempt_recovery`; injection `pshed_injectable`, `pshed_inject`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ntlab.hooks import hookspec, observer

if TYPE_CHECKING:
    from ntlab.machine import ErrorSource, HardwareError, LatchedError, Machine

RawSection = tuple[UUID, bytes]
LowLevelHandler = Callable[["Machine", "LatchedError"], Sequence[RawSection]]


@hookspec(firstresult=True)
def low_level_handler(machine: Machine, source: ErrorSource) -> LowLevelHandler | None:
    """Who extracts error information from the devices behind a source.

    Asked at boot, for each source that may signal. The handler is called with what the registers hold and
    gives sections, the primary one first. Default: the kernel's and HAL's for processors, caches, memory and
    non-maskable interrupts, the bus driver's for PCI Express.
    """


@hookspec
def pshed_sources(machine: Machine, found: tuple[ErrorSource, ...]) -> Sequence[ErrorSource] | None:
    """Error sources of the platform besides those found, or in place of those with the same id.

    Asked at boot, after PSHED has found its own. Each id may be named once in all answers. A source whose id
    is new must name the plugin as its `owner`, and that plugin must answer `pshed_enable_source` and
    `pshed_retrieve` too, since PSHED knows nothing of it.
    """


@hookspec(firstresult=True)
def pshed_set_source(machine: Machine, source: ErrorSource) -> bool | None:
    """Keep new settings of a source for the next boot. False: not possible.

    Asked by `Whea.set_source`, at any time. Default: kept, for sources that PSHED found itself.
    """


@hookspec(firstresult=True)
def pshed_enable_source(machine: Machine, source: ErrorSource) -> bool | None:
    """Let a source signal. False: it will not.

    Asked at boot, for each source found. Default: it does, if PSHED found it itself.
    """


@hookspec(firstresult=True)
def pshed_write_record(machine: Machine, identity: int, data: bytes) -> bool | None:
    """Keep an error record through the crash that follows. False: it could not be kept.

    Asked when an error stops the machine, just before the bug check. Default: the platform's store, ERST on
    x86 and x64 and the firmware's variables on Itanium.
    """


@hookspec(firstresult=True)
def pshed_stored_records(machine: Machine) -> Sequence[tuple[int, bytes]] | None:
    """The records that are kept, as pairs of identity and bytes, oldest first.

    Asked once, at boot: they are logged then, and forgotten. Default: those of the platform's store.
    """


@hookspec(firstresult=True)
def pshed_clear_record(machine: Machine, identity: int) -> bool | None:
    """Forget a record that was kept. False: there is none.

    Asked at boot, for each stored record once it is logged. Default: in the platform's store.
    """


@hookspec(firstresult=True)
def pshed_retrieve(machine: Machine, latched: LatchedError) -> Mapping[str, Any] | None:
    """What the platform knows besides of an error that a handler has just extracted.

    Asked for each error, unless the option `retrieval` is off. Names of fields of the primary section
    (`node`, `card`, `module`, ... of a memory error) and their values; "fru_text" (20 Latin-1 characters)
    names the part to replace, "sections" are more sections. Default: where memory and conventional PCI
    devices are, from the chipset's registers.
    """


@hookspec
def pshed_finalize(machine: Machine, latched: LatchedError) -> Sequence[RawSection] | None:
    """More sections for a record that is otherwise complete.

    Asked for corrected and recoverable errors, not for fatal ones. The sections of all answers are added.
    """


@observer
def pshed_clear_status(machine: Machine, latched: LatchedError) -> None:
    """A corrected error is recorded: clear what the platform itself shows of it.

    Called before the event is logged.
    """


@hookspec(firstresult=True)
def recover_error(machine: Machine, latched: LatchedError) -> bool | None:
    """Whether the system can go on after an uncorrected error that is not fatal.

    Asked once its record is complete. If neither this nor `pshed_attempt_recovery` says True, the machine
    stops. Default: if the error is contained.
    """


@hookspec
def pshed_attempt_recovery(machine: Machine, latched: LatchedError, recovered: bool) -> bool | None:
    """Whether the platform has made up for an uncorrected error that is not fatal.

    Asked after `recover_error`, even where the system has recovered by itself, as `recovered` says. One True
    among all answers is enough. Default: nobody.
    """


@hookspec(firstresult=True)
def pshed_injectable(machine: Machine) -> Sequence[tuple[str, str]] | None:
    """The pairs of component kind and severity that may be injected for a test.

    Asked by `Whea.inject`. Default: none.
    """


@hookspec(firstresult=True)
def pshed_inject(machine: Machine, error: HardwareError) -> bool | None:
    """Make the hardware find an error. False: it could not.

    Asked by `Whea.inject`, if the error is among those that `pshed_injectable` names. Default: by
    `machine.hardware_errors.occur`.
    """

"""The baseline plugin, composed of one mixin a domain."""

from __future__ import annotations

from ntlab.hooks import hookimpl
from ntlab.machine import Machine
from ntlab.plugin import plugin
from ntlab_ws2003.caches import ProcessorCaches
from ntlab_ws2003.errors import HardwareErrorHandling
from ntlab_ws2003.file_cache import FileCaching
from ntlab_ws2003.io import InputOutput
from ntlab_ws2003.memory import MemoryManagement
from ntlab_ws2003.paging import PageWriting
from ntlab_ws2003.power import PowerManagement
from ntlab_ws2003.recorded import Recorded
from ntlab_ws2003.registry import RegistryKeeping
from ntlab_ws2003.scheduling import Scheduling
from ntlab_ws2003.startup import StartingUp
from ntlab_ws2003.thread_pools import ThreadPooling
from ntlab_ws2003.timers import Timekeeping
from ntlab_ws2003.workloads import Workers


@plugin(
    name="ws2003",
    summary="The policies of Windows Server 2003.",
    release="ws2003",
    ledger=("N1",),
    workloads=(Workers, Recorded),
)
class Ws2003(
    Scheduling,
    InputOutput,
    MemoryManagement,
    ProcessorCaches,
    PageWriting,
    FileCaching,
    RegistryKeeping,
    PowerManagement,
    HardwareErrorHandling,
    Timekeeping,
    ThreadPooling,
    StartingUp,
):
    """Windows Server 2003 as far as the features need it.

    A mixin answers its domain's hooks itself. Only the hooks of a machine's life concern several domains:
    they are answered here, and passed on by name.
    """

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        self.start_scheduling(machine)

    @hookimpl
    def hardware_changed(self, machine: Machine) -> None:
        self.start_scheduling(machine)
        self.direct_interrupts(machine)

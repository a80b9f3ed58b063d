"""What a hardware vendor knows of one platform: its parts' labels, and a store of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ntlab.hooks import hookimpl
from ntlab.machine import LatchedError, Machine
from ntlab.plugin import option, plugin

STORE = "service processor"


@plugin(
    name="vendor_pshed",
    summary="A vendor's PSHED plug-in: on its platform, errors name the part to replace.",
    release="ws2008",
    ledger=("E3",),
    requires=("whea",),
)
class VendorPshed:
    """A model for plug-ins: it overrides two areas of PSHED, and answers None on all platforms but its own.

    As any plugin, it imports nothing of the plugin whose hooks it answers.
    """

    platform: str = option(default="contoso-1000", help="The name of the vendor's hardware.")

    def _is_ours(self, machine: Machine) -> bool:
        return machine.tables.name == self.platform

    @hookimpl
    def pshed_retrieve(self, machine: Machine, latched: LatchedError) -> Mapping[str, Any] | None:
        component = latched.error.component
        if not self._is_ours(machine) or component.kind != "memory":
            return None
        card, module = component.part
        place = {"node": component.number, "card": card, "module": module}
        return {**place, "fru_text": f"CELL{component.number} DIMM {module}{'AB'[card & 1]}"}

    @hookimpl
    def pshed_write_record(self, machine: Machine, identity: int, data: bytes) -> bool | None:
        return machine.nonvolatile.write(STORE, identity, data) if self._is_ours(machine) else None

    @hookimpl
    def pshed_stored_records(self, machine: Machine) -> Sequence[tuple[int, bytes]] | None:
        return machine.nonvolatile.entries(STORE) if self._is_ours(machine) else None

    @hookimpl
    def pshed_clear_record(self, machine: Machine, identity: int) -> bool | None:
        return machine.nonvolatile.clear(STORE, identity) if self._is_ours(machine) else None

"""The service processor: a computer beside the computer, which remembers while the system is down."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

from ntlab.machine import Component, ErrorSource, Machine

RECORDS = "Contoso service processor: error records"
_SETTINGS = "Contoso service processor: settings"
_MODULES = "Contoso service processor: memory modules"
_MIRRORS = "Contoso service processor: broken mirrors"


def keep_settings(machine: Machine, source: ErrorSource, names: tuple[str, ...]) -> bool:
    """Keep settings of an error source for the next boot. False where there is no room."""
    values = {name: getattr(source, name) for name in names}
    return machine.nonvolatile.write(_SETTINGS, source.id, json.dumps(values).encode())


def settings(machine: Machine) -> Mapping[int, dict[str, int]]:
    """The settings that were kept, by error source."""
    return {identity: json.loads(data) for identity, data in machine.nonvolatile.entries(_SETTINGS)}


def count_error(machine: Machine, module: Component, time: int, *, window: int, most: int) -> int:
    """Note a corrected error of a memory module; how many there were in the window (ns), `most` at most."""
    card, slot = module.part
    number = module.number << 16 | card << 8 | slot
    kept = dict(machine.nonvolatile.entries(_MODULES)).get(number, b"")
    times = [then for (then,) in struct.iter_unpack("<Q", kept) if then > time - window]
    times = [*times, time][-most:]
    machine.nonvolatile.write(_MODULES, number, struct.pack(f"<{len(times)}Q", *times))
    return len(times)


def break_mirror(machine: Machine, cell: int) -> bool:
    """Use up the mirror of a cell's memory. False where it is used up already."""
    if cell in dict(machine.nonvolatile.entries(_MIRRORS)):
        return False
    return machine.nonvolatile.write(_MIRRORS, cell, b"broken")

"""What a service technician replaces, by the labels that are printed on it."""

from __future__ import annotations

from typing import Final

from ntlab.machine import Component
from ntlab.topology import Tables

SENSORS: Final = {"fan": 0x04, "power": 0x08}
"""Parts of the chassis, by the type of the device in the profile: the sensor types that IPMI gives them."""


def label(tables: Tables, component: Component) -> str:
    """The part that holds a component, at most 20 characters: what a record has room for."""
    if component.kind == "memory":
        card, module = component.part
        return f"CELL{component.number} DIMM {module}{chr(ord('A') + card)}"
    if component.kind in ("processor", "cache"):
        processor = component.number
        return f"CELL{tables.node_of[processor]} CPU {tables.package_of[processor]}"
    return tables.devices[component.number].name


def chassis_parts(tables: Tables) -> list[int]:
    """The numbers of the devices that are parts of the chassis."""
    return [number for number, device in enumerate(tables.devices) if device.type in SENSORS]

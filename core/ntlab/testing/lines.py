"""Records as text, a line each: how they are shown, and how golden traces keep them."""

from __future__ import annotations

import json
from hashlib import sha256

from ntlab.tracing import Record

SHORT_BYTES = 16


def line_of(record: Record) -> str:
    """`12000 NT Kernel Logger/Thread/End tid=8 run_time=12000`: time in ns, provider and name, fields."""
    fields = "".join(f" {name}={_value(value)}" for name, value in record.fields.items())
    return f"{record.time} {record.provider}/{record.name}{fields}"


def _value(value: int | str | bytes) -> str:
    if isinstance(value, bytes):
        if len(value) <= SHORT_BYTES:
            return f"0x{value.hex()}"
        return f"{len(value)}-bytes:{sha256(value).hexdigest()[:16]}"
    if isinstance(value, str):
        plain = value.isprintable() and not set(value) & set(' "=')
        return value if plain and value else json.dumps(value)
    return str(value)

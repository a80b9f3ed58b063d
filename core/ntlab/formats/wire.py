"""Little-endian structures declared as attrs classes: a field's annotation is its layout.

    @frozen
    class Chunk:
        magic: ClassVar[Annotated[bytes, 4]] = b"CHNK"  # a constant: written, and required when read
        length: ClassVar[U32]                           # computed: given to `pack` by name, see `peek`
        flags: U16 = 0
        name: Annotated[str, 8] = ""
        body: bytes = b""                               # no layout: varies in size, the format's business

Fields lie in the order in which they are written, without padding. A field annotated with another such
class is nested.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, Flag
from inspect import get_annotations
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from uuid import UUID

import attrs

from ntlab.errors import UserError

U8 = Annotated[int, 1]
U16 = Annotated[int, 2]
U32 = Annotated[int, 4]
U64 = Annotated[int, 8]
Guid = Annotated[UUID, 16]
"""A GUID in Microsoft's mixed-endian order."""

NO_GUID = UUID(int=0)

T = TypeVar("T")


class FormatError(UserError):
    """Bytes that break a format (`at` is the byte), or values that cannot be encoded (`at` is None)."""

    subject: ClassVar[str] = "data"

    def __init__(self, what: str, *, at: int | None = None, expected: str = "") -> None:
        self.at = at
        where = self.subject if at is None else f"{self.subject}, byte {at}"
        super().__init__(what, where=where, expected=expected)


class Field(NamedTuple):
    """One field of a layout: an int, int enum, bytes, str, UUID or nested class. Units are bytes."""

    name: str
    kind: type[Any]
    offset: int
    size: int
    is_data: bool
    """Part of an instance, neither constant nor computed."""

    def accepted(self) -> str:
        if issubclass(self.kind, Enum) and not issubclass(self.kind, Flag):
            return ", ".join(f"{member.value} ({member.name.lower()})" for member in self.kind)
        return f"a number in 0..{(1 << 8 * self.size) - 1}"


_LAYOUTS: dict[type[Any], tuple[Field, ...]] = {}


def layout(cls: type[Any]) -> tuple[Field, ...]:
    """The fields of `cls` that have bytes, in order."""
    if cls not in _LAYOUTS:
        _LAYOUTS[cls] = tuple(_fields(cls))
    return _LAYOUTS[cls]


def _fields(cls: type[Any]) -> Iterator[Field]:
    offset = 0
    hints = get_type_hints(cls, include_extras=True)
    # A mixin's annotations speak of fields that the structures themselves place.
    structures = [base for base in reversed(cls.__mro__) if attrs.has(base)]
    for name in dict.fromkeys(name for base in structures for name in get_annotations(base)):
        hint = hints[name]
        is_data = get_origin(hint) is not ClassVar
        if not is_data:
            (hint,) = get_args(hint)
        if hasattr(hint, "__metadata__"):
            kind, length = hint.__origin__, hint.__metadata__[0]
        elif isinstance(hint, type) and attrs.has(hint):
            kind, length = hint, size(hint)
        else:
            continue
        yield Field(name, kind, offset, length, is_data)
        offset += length


def size(cls: type[Any]) -> int:
    """Bytes that a `cls` takes."""
    last = layout(cls)[-1]
    return last.offset + last.size


def pack(value: Any, error: type[FormatError], **computed: Any) -> bytes:
    """The bytes of a structure. Raises `error` for a value that its field cannot hold."""
    cls = type(value)
    return b"".join(
        _pack_field(cls, field, computed.get(field.name, getattr(value, field.name, None)), error)
        for field in layout(cls)
    )


def _pack_field(cls: type[Any], field: Field, value: Any, error: type[FormatError]) -> bytes:
    name = f"{cls.__name__}.{field.name}"
    if attrs.has(field.kind):
        return pack(value, error)
    if field.kind is UUID:
        return bytes(value.bytes_le)
    if field.kind is bytes:
        if len(value) != field.size:
            raise error(f"{name} has {len(value)} bytes", expected=str(field.size))
        return bytes(value)
    if field.kind is str:
        text = bytes(value, "latin-1", "ignore")
        if len(text) != len(value) or len(text) > field.size or text.endswith(b"\0"):
            raise error(
                f"{name} is {value!r}", expected=f"up to {field.size} Latin-1 characters, no final NUL"
            )
        return text.ljust(field.size, b"\0")
    try:
        return int(field.kind(value)).to_bytes(field.size, "little")
    except (OverflowError, ValueError):
        raise error(f"{name} is {value}", expected=field.accepted()) from None


def unpack(cls: type[T], data: bytes, at: int, error: type[FormatError], **rest: Any) -> T:
    """The structure at byte `at`, with `rest` for what has no layout. Raises `error` for invalid bytes."""
    if at + size(cls) > len(data):
        raise error(f"{cls.__name__} is cut off at byte {len(data)}", at=at, expected=f"{size(cls)} bytes")
    values = rest
    for field in layout(cls):
        found = _unpack_field(cls, field, data, at + field.offset, error)
        if field.is_data:
            values[field.name] = found
        elif hasattr(cls, field.name) and found != (constant := getattr(cls, field.name)):
            raise error(
                f"{cls.__name__}.{field.name} is {found!r}", at=at + field.offset, expected=repr(constant)
            )
    return cls(**values)


def _unpack_field(cls: type[Any], field: Field, data: bytes, at: int, error: type[FormatError]) -> Any:
    if attrs.has(field.kind):
        return unpack(field.kind, data, at, error)
    raw = data[at : at + field.size]
    if field.kind is UUID:
        return UUID(bytes_le=raw)
    if field.kind is bytes:
        return raw
    if field.kind is str:
        return raw.rstrip(b"\0").decode("latin-1")
    number = int.from_bytes(raw, "little")
    try:
        return field.kind(number)
    except ValueError:
        raise error(f"{cls.__name__}.{field.name} is {number}", at=at, expected=field.accepted()) from None


def peek(cls: type[Any], name: str, data: bytes, at: int) -> tuple[Any, int]:
    """A computed field of the structure at byte `at`, which must be inside the data, and the field's byte."""
    field = next(field for field in layout(cls) if field.name == name)
    return _unpack_field(cls, field, data, at + field.offset, FormatError), at + field.offset

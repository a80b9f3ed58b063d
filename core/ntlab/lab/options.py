"""From what people write in TOML, or after ``--set``, to typed values, and back.

One cattrs converter, stricter than cattrs is by itself: 1 is not true, "abc" is not a list, a quantity
carries its unit, a key nobody knows is an error. A mistake inside a nested value keeps the path to it, so
that the message names the file and the key.
"""

from __future__ import annotations

import math
import os
import tomllib
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import attrs

from ntlab.errors import UnknownNameError, UserError
from ntlab.plugin import options_of
from ntlab.quantities import WHOLE_UNITS, Share, parse_share, with_unit

if TYPE_CHECKING:
    import cattrs

T = TypeVar("T")


@attrs.frozen
class Place:
    """Where a value was written: a file (or "--set") and the keys that lead to it."""

    source: str
    path: tuple[str, ...] = ()

    def __truediv__(self, key: str) -> Place:
        return Place(self.source, (*self.path, key))

    def __str__(self) -> str:
        return f"{self.source}: {'.'.join(self.path)}" if self.path else self.source


@attrs.frozen
class Setting:
    """A value as it was written, and where."""

    value: Any
    place: Place


class _Mismatch(Exception):
    """A value that does not fit its type. `path` leads to it from where reading began."""

    def __init__(self, what: str, *, known: list[str] | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.known = known
        self.path: list[str] = []

    def as_error(self, place: Place) -> UserError:
        where = str(Place(place.source, (*place.path, *self.path)))
        if self.known is not None:
            return UnknownNameError("key", self.what, self.known, where=where)
        return UserError(self.what, where=where)


def structure(value: object, kind: Any, place: Place) -> Any:
    """`value` as the type `kind`. Raises UserError naming the place, what was there and what was expected."""
    try:
        return _converter().structure(value, kind)
    except _Mismatch as mismatch:
        raise mismatch.as_error(place) from None


def read_options(file: str | os.PathLike[str], kind: type[T]) -> T:
    """A TOML file as an attrs class, read as strictly as an experiment: for what users give beside one.

    Raises UserError naming the file and the key, what was there and what was expected.
    """
    from ntlab.lab.registry import read_toml

    return structure(read_toml(Path(file)), kind, Place(os.fspath(file)))  # type: ignore[no-any-return]


def build(cls: type, settings: Mapping[str, Setting], place: Place) -> Any:
    """A plugin or workload of class `cls` with these options set. `place` is that of the table as a whole.

    Raises UnknownNameError for an option it has not, UserError for a value of wrong type, unit or range.
    """
    fields = {field.name: field for field in options_of(cls)}
    values = {}
    for name, setting in settings.items():
        if name not in fields:
            raise UnknownNameError("option", name, fields, where=str(setting.place))
        values[name] = structure(setting.value, fields[name].type, setting.place)
    try:
        return cls(**values)
    except ValueError as error:
        # A validator does not say which field it was for; an option that is refused alone is the one.
        for name, value in values.items():
            try:
                cls(**{name: value})
            except ValueError as alone:
                raise UserError(str(alone), where=str(settings[name].place)) from None
        raise UserError(str(error), where=str(place)) from None


def build_from(cls: type, table: Mapping[str, Any], place: Place) -> Any:
    """As `build`, from a table whose keys all stand at one place: as an arm holds a plugin's options."""
    return build(cls, {key: Setting(value, place / key) for key, value in table.items()}, place)


def options_written(instance: object) -> dict[str, Any]:
    """All options of a plugin or workload, defaults too, in a form that `build` (and TOML, JSON) can read."""
    options = {
        field.name: written(getattr(instance, field.name), field.type) for field in options_of(type(instance))
    }
    return {name: value for name, value in options.items() if value is not None}


def written(value: Any, kind: Any) -> Any:
    """`value` of type `kind` as people write it: quantities exactly and with their unit."""
    if value is None:
        return None
    if kind in WHOLE_UNITS:
        return with_unit(value, kind)
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for member in _not_none(members):
            try:
                if _converter().structure(text := written(value, member), member) == value:
                    return text
            except (_Mismatch, TypeError, AttributeError):
                continue
        return value
    if origin in (tuple, list):
        repeated = origin is list or members[-1] is Ellipsis
        kinds = [members[0]] * len(value) if repeated else members
        return [written(item, item_kind) for item, item_kind in zip(value, kinds, strict=True)]
    if origin is dict:
        return {key: written(item, members[1]) for key, item in value.items()}
    if attrs.has(type(value)):
        attrs.resolve_types(type(value))
        fields = {field.name: field.type for field in attrs.fields(type(value)) if field.init}
        table = {name: written(getattr(value, name), field_kind) for name, field_kind in fields.items()}
        return {name: item for name, item in table.items() if item is not None}
    return value


def type_name(kind: Any) -> str:
    """A type as it is shown to people: "Size", "int", '"ideal" | "current"', "list of int"."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(f'"{member}"' if isinstance(member, str) else str(member) for member in members)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(member) for member in _not_none(members))
    if origin in (tuple, list):
        names = [type_name(member) for member in members if member is not Ellipsis]
        return "list of " + ", ".join(names)
    if origin is dict:
        return f"table of {type_name(members[1])}"
    return str(getattr(kind, "__name__", kind))


def _not_none(members: tuple[Any, ...]) -> list[Any]:
    return [member for member in members if member is not types.NoneType]


def parse_setting(text: str) -> tuple[str, Any]:
    """Key and value of ``key=value``. The value is read as TOML; what is not TOML is text ("64 KiB")."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise UserError(f"{text!r} sets nothing", where="--set", expected="key=value")
    return key, _toml_or_text(value)


def parse_values(text: str) -> list[Any]:
    """The values of ``V,V,...``, each as that of ``--set``: in "[1, 2],[3]" there are two, lists."""
    try:
        values: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        return [_toml_or_text(value.strip()) for value in text.split(",")]
    return values


def _toml_or_text(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


@cache
def _converter() -> cattrs.Converter:
    import cattrs

    converter = cattrs.Converter()

    def is_a(*origins: Any) -> Callable[[Any], bool]:
        return lambda kind: get_origin(kind) in origins

    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _plain)
    for quantity, (parse, _, _) in WHOLE_UNITS.items():
        converter.register_structure_hook(quantity, _quantity(parse))
    converter.register_structure_hook(Share, _quantity(parse_share))
    converter.register_structure_hook_func(is_a(Literal), _choice)

    def union(value: Any, kind: Any) -> Any:
        members = _not_none(get_args(kind))
        for member in members:
            try:
                return converter.structure(value, member)
            except _Mismatch as mismatch:
                if len(members) == 1:
                    raise
                if mismatch.path:
                    continue
        raise _Mismatch(f"{value!r} is of the wrong kind; expected {type_name(kind)}")

    def sequence(value: Any, kind: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _Mismatch(f"{value!r} is not a list; expected {type_name(kind)}")
        members = get_args(kind)
        repeated = get_origin(kind) is list or members[-1] is Ellipsis
        if not repeated and len(value) != len(members):
            raise _Mismatch(f"{len(value)} values; expected {len(members)} ({type_name(kind)})")
        kinds = [members[0]] * len(value) if repeated else members
        items = [
            nested(item, item_kind, f"[{at}]")
            for at, (item, item_kind) in enumerate(zip(value, kinds, strict=True))
        ]
        return items if get_origin(kind) is list else tuple(items)

    def table(value: Any, kind: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _Mismatch(f"{value!r} is not a table; expected {type_name(kind)}")
        return {key: nested(item, get_args(kind)[1], key) for key, item in value.items()}

    def described(value: Any, kind: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _Mismatch(f"{value!r} is not a table")
        attrs.resolve_types(kind)
        fields = {field.name: field for field in attrs.fields(kind) if field.init}
        for key in value:
            if key not in fields:
                mismatch = _Mismatch(key, known=list(fields))
                raise mismatch
        for name, field in fields.items():
            if field.default is attrs.NOTHING and name not in value:
                raise _Mismatch(f"the key {name!r} is missing")
        values = {key: nested(item, fields[key].type, key) for key, item in value.items()}
        try:
            return kind(**values)
        except ValueError as error:
            raise _Mismatch(str(error)) from None

    def nested(value: Any, kind: Any, key: str) -> Any:
        try:
            return value if kind is Any else converter.structure(value, kind)
        except _Mismatch as mismatch:
            mismatch.path.insert(0, key)
            raise

    converter.register_structure_hook_func(is_a(Union, types.UnionType), union)
    converter.register_structure_hook_func(is_a(tuple, list), sequence)
    converter.register_structure_hook_func(is_a(dict), table)
    converter.register_structure_hook_func(attrs.has, described)
    return converter


_PLAIN_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _plain(value: Any, kind: Any) -> Any:
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise _Mismatch(f"{value!r} is of the wrong kind; expected {_PLAIN_NAMES[kind]}")
    if kind is float and not math.isfinite(value):
        raise _Mismatch(f"{value!r} is not finite; expected a number")
    return kind(value)


def _quantity(parse: Callable[[object], Any]) -> Callable[[Any, Any], Any]:
    def hook(value: Any, kind: Any) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise _Mismatch(str(error)) from None

    return hook


def _choice(value: Any, kind: Any) -> Any:
    for member in get_args(kind):
        if type(member) is type(value) and member == value:
            return member
    names = ", ".join(repr(member) for member in get_args(kind))
    raise _Mismatch(f"{value!r} is no choice here; expected one of {names}")

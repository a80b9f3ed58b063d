"""What a plugin is: an attrs class whose fields are its options.

    @plugin(name="my_feature", summary="One line.", release="ws2008", ledger=("X1",))
    class MyFeature:
        limit: Size = option(default=Size(65536), help="Largest transfer.", minimum=4096)

        @hookimpl
        def some_hook(self, machine): ...

A *workload* is described in the same way; an experiment names one and fills in its options. Nothing here
touches pluggy or cattrs: a class described so is an ordinary attrs class that can be built and tested alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, TypeVar, dataclass_transform

import attrs

from ntlab.errors import PluginError
from ntlab.quantities import WHOLE_UNITS, with_unit

Release = Literal["ws2003", "ws2008", "ws2008r2"]
RELEASES: tuple[Release, ...] = ("ws2003", "ws2008", "ws2008r2")

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class WorkloadInfo:
    """What an experiment needs to know of a workload class."""

    name: str
    summary: str
    cls: type


@attrs.frozen(kw_only=True)
class PluginInfo:
    """What ntlab knows of a plugin class before it is built.

    `release` is the first release that has the feature; a plugin of none (None) is in no preset. `ledger`
    has the rows it provides; `requires`, `conflicts`, `after` and `before` name other plugins; `hookspecs`
    are modules that specify hooks of its own, which plugins that require it may answer. `neutral` holds
    option values, as an experiment writes them, with which the plugin changes nothing at all; None where
    there are none.
    """

    name: str
    summary: str
    release: Release | None
    ledger: tuple[str, ...]
    requires: tuple[str, ...]
    conflicts: tuple[str, ...]
    after: tuple[str, ...]
    before: tuple[str, ...]
    workloads: tuple[type, ...]
    hookspecs: tuple[ModuleType, ...]
    neutral: Mapping[str, Any] | None = None
    cls: type

    @property
    def age(self) -> int:
        """Its release's place among the releases; after all of them for one that is of none."""
        return len(RELEASES) if self.release is None else RELEASES.index(self.release)


def option(
    *,
    default: Any,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    validator: Callable[[Any, Any, Any], None] | None = None,
) -> Any:
    """One option of a plugin or workload: default, help, and the range it may lie in.

    The field's annotation gives the type: bool, int, float, str, a Literal for a choice, a tuple, or a
    quantity (Duration, Size, Rate, Share) that people may write with its unit.
    """

    def in_range(instance: object, field: attrs.Attribute[Any], value: Any) -> None:
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            kind: Any = field.type
            shown, low, high = (
                with_unit(each, kind) if kind in WHOLE_UNITS and each is not None else repr(each)
                for each in (value, minimum, maximum)
            )
            if minimum is None:
                wanted = f"at most {high}"
            elif maximum is None:
                wanted = f"at least {low}"
            else:
                wanted = f"{low} to {high}"
            raise ValueError(f"{shown} is out of range; expected {wanted}")
        if validator is not None:
            validator(instance, field, value)

    metadata = {"ntlab": "option", "help": help, "minimum": minimum, "maximum": maximum}
    return attrs.field(default=default, kw_only=True, validator=in_range, metadata=metadata)


def state(factory: Callable[[], Any], *, init: Literal[False] = False) -> Any:
    """A field that is not an option: what the plugin remembers while a machine runs.

    `init` tells type checkers that the constructor does not take it.
    """
    return attrs.field(init=init, factory=factory, repr=False, eq=False)


def _defined(cls: type[T], name: str) -> type[T]:
    built: Any = attrs.define(cls, slots=False, eq=False)
    for field in attrs.fields(built):
        if isinstance(field.default, (list, dict, set)):
            raise PluginError(
                f"its field {field.name!r} has the default {field.default!r}, which all machines would "
                f"share; an option may be a tuple, what it remembers a state({type(field.default).__name__})",
                plugin=name,
            )
    return built  # type: ignore[no-any-return]


@dataclass_transform(kw_only_default=True, field_specifiers=(option, state))
def plugin(
    *,
    name: str,
    summary: str,
    release: Release | None = None,
    ledger: tuple[str, ...] = (),
    requires: tuple[str, ...] = (),
    conflicts: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    before: tuple[str, ...] = (),
    workloads: tuple[type, ...] = (),
    hookspecs: tuple[ModuleType, ...] = (),
    neutral: Mapping[str, Any] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Make a class a plugin. Its fields are its options, its `@hookimpl` methods what it answers.

    The arguments are those of `PluginInfo`.
    """
    if release is not None and release not in RELEASES:
        raise PluginError(f"unknown release {release!r}; expected one of {', '.join(RELEASES)}", plugin=name)
    others = {"requires": requires, "conflicts": conflicts, "after": after, "before": before}
    for key, names in (*others.items(), ("ledger", ledger)):
        if isinstance(names, str):  # would be taken for a tuple of its letters
            raise PluginError(f"{key}={names!r} is no tuple; write {key}=({names!r},)", plugin=name)
        if key in others and name in names:
            raise PluginError(f"{key} names the plugin itself", plugin=name)

    def decorate(cls: type[T]) -> type[T]:
        built = _defined(cls, name)
        built.ntlab_plugin = PluginInfo(  # type: ignore[attr-defined]
            name=name,
            summary=summary,
            release=release,
            ledger=ledger,
            requires=requires,
            conflicts=conflicts,
            after=after,
            before=before,
            workloads=workloads,
            hookspecs=hookspecs,
            neutral=neutral,
            cls=built,
        )
        return built

    return decorate


@dataclass_transform(kw_only_default=True, field_specifiers=(option, state))
def workload(*, name: str, summary: str) -> Callable[[type[T]], type[T]]:
    """Make a class a workload: `start(machine)` sets threads going, `measure(machine)` gives metrics.

    An experiment names it as PLUGIN.NAME, after the plugin that lists it. If it has a method
    `restart(machine)`, that is called with a machine that has crashed: it returns the one that boots next
    (see `Machine.restart`), with its own doings under way again, or None. Without it a crash ends the run.
    """

    def decorate(cls: type[T]) -> type[T]:
        built = _defined(cls, name)
        built.ntlab_workload = WorkloadInfo(name=name, summary=summary, cls=built)  # type: ignore[attr-defined]
        return built

    return decorate


def plugin_info(subject: object) -> PluginInfo:
    """The description of a plugin class or instance. Raises PluginError where there is none."""
    cls = subject if isinstance(subject, type) else type(subject)
    info = cls.__dict__.get("ntlab_plugin")
    if not isinstance(info, PluginInfo):
        raise PluginError("is not a plugin: its class has no @ntlab.plugin", plugin=cls.__qualname__)
    return info


def workload_info(subject: object) -> WorkloadInfo:
    """The description of a workload class or instance. Raises PluginError where there is none."""
    cls = subject if isinstance(subject, type) else type(subject)
    info = cls.__dict__.get("ntlab_workload")
    if not isinstance(info, WorkloadInfo):
        raise PluginError("is not a workload: its class has no @ntlab.workload", plugin=cls.__qualname__)
    return info


def renewed(plugin: Any) -> object:
    """A new instance of a plugin with the same options, for another machine."""
    return attrs.evolve(plugin)


def implemented(cls: type) -> dict[str, str]:
    """The hooks that a plugin class answers: the method's name, and the hook's."""
    return {
        name: options["specname"] or name
        for name, member in inspect.getmembers(cls, callable)
        if (options := getattr(member, "ntlab_impl", None)) is not None
    }


def options_of(cls: type) -> list[attrs.Attribute[Any]]:
    """The option fields of a plugin or workload class, in the order in which they are written."""
    attrs.resolve_types(cls, include_extras=True)
    return [field for field in attrs.fields(cls) if field.metadata.get("ntlab") == "option"]


@attrs.frozen
class Metric:
    """One measured value: what a workload's `measure` gives. `unit` is "1" for a pure number."""

    name: str
    value: float
    unit: str = "1"

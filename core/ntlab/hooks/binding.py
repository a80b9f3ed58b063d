"""Hooks bound once, at boot: from pluggy's specifications and implementations to plain calls.

A pluggy call costs more than a whole event of the engine, since it looks everything up anew: names, order,
arguments. After boot none of that can change, so `bind` looks once and writes, for each hook, the function
that remains. With two plugins that answer a first-result hook it is

    def choose_processor(machine, thread):
        result = numa_home_choose_processor(machine, thread)
        if result is not None:
            return result
        return ntlab_ws2003_choose_processor(thread)

Results, order and exceptions are pluggy's own (`tests/core/test_binding.py` compares them on random sets of
plugins); `mode="plain"` goes through pluggy's loop instead, to compare whole runs; `mode="checked"` checks
every answer on its way (`ntlab.hooks.checked`). What pluggy offers and a bound hook cannot keep (historic
hooks, old-style wrappers, defaults) is refused before a run starts.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import re
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from types import CodeType, FrameType, ModuleType
from typing import Any, Literal, NoReturn, TypeAlias

import pluggy

from ntlab.errors import PluginError, UnknownNameError, UnknownSpecificationError
from ntlab.hooks.checked import Implementation, Watch, checked
from ntlab.hooks.markers import PROJECT, is_observer

Mode = Literal["direct", "plain", "checked", "profiled"]
Call: TypeAlias = Callable[..., Any]
Wrapper: TypeAlias = Generator[None, Any, Any]


class HookManager(pluggy.PluginManager):
    """pluggy's manager for ntlab: it names the plugin at fault, and is frozen once its hooks are bound."""

    def __init__(self) -> None:
        super().__init__(PROJECT)
        self._frozen = False

    def freeze(self) -> None:
        """From here on a change would reach some callers and not others, so it is an error."""
        self._frozen = True

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """As pluggy does. Raises PluginError where an implementation does not fit its specification."""
        plugin_name = self.get_name(plugin) or name or self.get_canonical_name(plugin)
        self._refuse_if_frozen("registered", plugin_name)
        try:
            return super().register(plugin, plugin_name)
        except pluggy.PluginValidationError:
            for attribute in dir(plugin):
                options = self.parse_hookimpl_opts(plugin, attribute)
                caller = vars(self.hook).get(options["specname"] or attribute) if options else None
                if options and caller is not None and caller.has_spec():
                    function = getattr(plugin, attribute)
                    _check_implementation(caller, pluggy.HookImpl(plugin, plugin_name, function, options))
            raise
        except ValueError as error:
            raise PluginError(
                "it, or another of its name, is registered already; give each plugin once", plugin=plugin_name
            ) from error

    def unregister(self, plugin: object | None = None, name: str | None = None) -> Any | None:
        """As pluggy does."""
        self._refuse_if_frozen("unregistered", name or self.get_name(plugin) or repr(plugin))
        return super().unregister(plugin, name)

    def add_hookspecs(self, module_or_class: ModuleType | type) -> None:
        """As pluggy does. Raises PluginError for a hook that is specified already, or whose implementation,
        registered before, does not fit."""
        self._refuse_if_frozen("given more specifications", _namespace_name(module_or_class))
        try:
            super().add_hookspecs(module_or_class)
        except pluggy.PluginValidationError:
            for caller in _callers(self).values():
                _check(caller)
            raise
        except ValueError as error:
            owner = _namespace_name(module_or_class)
            for name, caller in _callers(self).items():
                other = caller.spec.namespace if caller.spec is not None else None
                here = hasattr(module_or_class, name) and self.parse_hookspec_opts(module_or_class, name)
                if other is not module_or_class and here:
                    what = f"is specified by {_namespace_name(other)!r} already"
                    raise PluginError(what, plugin=owner, hook=name) from error
            raise PluginError("specifies no hook, or is listed twice", plugin=owner) from error

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        """As pluggy does, but without looking closely at what is known to bear no mark."""
        if not isinstance(plugin, (type, ModuleType)) and name not in getattr(plugin, "__dict__", ()):
            cls: type = type(plugin)
            if name in _unmarked(cls, f"{PROJECT}_impl"):
                return None
        return super().parse_hookimpl_opts(plugin, name)

    def parse_hookspec_opts(self, module_or_class: ModuleType | type, name: str) -> Any:
        """As pluggy does, but without looking closely at what is known to bear no mark."""
        if name in _unmarked(module_or_class, f"{PROJECT}_spec"):
            return None
        return super().parse_hookspec_opts(module_or_class, name)

    def _refuse_if_frozen(self, action: str, plugin_name: str) -> None:
        if self._frozen:
            raise PluginError(
                f"cannot be {action} after boot: the hooks are bound; one with nothing to say answers None",
                plugin=plugin_name,
            )


class BoundHooks:
    """One attribute for each hook: a call that takes the specification's arguments by position, or None.

    None means that nobody implements the hook. A call gives what pluggy would: the first result that is not
    None where the specification says `firstresult`, else the list of them; from an observer, nothing to use.
    """

    def __init__(self, calls: Mapping[str, Call | None]) -> None:
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> Call | None:
        raise AttributeError(str(UnknownNameError("hook", name, self.__dict__)), name=name, obj=self)


def bind(manager: HookManager, *, mode: Mode = "direct", watch: Watch | None = None) -> BoundHooks:
    """Freeze `manager` and bind each of its hooks. Raises PluginError where a plugin cannot be bound.

    In the modes "checked" and "profiled", `watch` is told who is asked what.
    """
    watched = watch if watch is not None else Watch()

    def bind_watched(caller: pluggy.HookCaller) -> Call:
        judged = mode == "checked"
        return _bind_direct(caller, checked(caller, _specified_by(caller), watched, judged=judged))

    binders: dict[str, Callable[[pluggy.HookCaller], Call]] = {
        "direct": lambda caller: _bind_direct(caller, caller.get_hookimpls()),
        "plain": _bind_plain,
        "checked": bind_watched,
        "profiled": bind_watched,
    }
    if mode not in binders:
        raise UnknownNameError("hook mode", mode, binders)
    callers = _callers(manager)
    for caller in callers.values():
        _check(caller)
    _refuse_unknown_hooks(manager, callers)
    manager.freeze()
    return BoundHooks(
        {name: binders[mode](hook) if hook.get_hookimpls() else None for name, hook in callers.items()}
    )


def implementations(manager: pluggy.PluginManager) -> dict[str, list[str]]:
    """For each specified hook the names of the plugins that implement it, in call order (wrappers first)."""
    return {
        name: [implementation.plugin_name for implementation in reversed(caller.get_hookimpls())]
        for name, caller in _callers(manager).items()
    }


def blame(error: BaseException, manager: pluggy.PluginManager) -> tuple[str, str] | None:
    """The (plugin name, hook name) whose implementation `error` came out of, or None: not a plugin's doing.

    Hooks may be asked from within hooks: the innermost implementation on the traceback is the one.
    """
    owners: dict[tuple[CodeType, int], tuple[str, str]] = {}
    for hook, caller in _callers(manager).items():
        for implementation in caller.get_hookimpls():
            function = inspect.unwrap(getattr(implementation.function, "__func__", implementation.function))
            # Plugins may inherit a method: the instance it is bound to tells them apart.
            instance = getattr(implementation.function, "__self__", None)
            owners[function.__code__, id(instance)] = (implementation.plugin_name, hook)

    if isinstance(error, RuntimeError):
        # A wrapper that yields never or twice has left its frame when that is noticed: the message tells.
        for (code, _), owner in owners.items():
            if str(error).startswith(f"{_wrapper_at(code)} "):
                return owner

    def owner_of(frame: FrameType) -> tuple[str, str] | None:
        names = frame.f_code.co_varnames
        first = frame.f_locals.get(names[0]) if names else None
        return owners.get((frame.f_code, id(first))) or owners.get((frame.f_code, id(None)))

    found = None
    traceback = error.__traceback__
    while traceback is not None:
        found = owner_of(traceback.tb_frame) or found
        traceback = traceback.tb_next
    return found


# Checks


def _callers(manager: pluggy.PluginManager) -> dict[str, pluggy.HookCaller]:
    """The specified hooks, by name in alphabetical order."""
    return {name: caller for name, caller in sorted(vars(manager.hook).items()) if caller.has_spec()}


def _check(caller: pluggy.HookCaller) -> None:
    assert caller.spec is not None
    owner = _specified_by(caller)
    if caller.is_historic():
        raise PluginError("a specification must not be historic", plugin=owner, hook=caller.name)
    strange = _strange_argument(caller.spec.function)
    if strange:
        what = f"{strange!r} must be a plain argument without a default"
        raise PluginError(what, plugin=owner, hook=caller.name)
    for implementation in caller.get_hookimpls():
        _check_implementation(caller, implementation)


def _check_implementation(caller: pluggy.HookCaller, implementation: pluggy.HookImpl) -> None:
    assert caller.spec is not None
    known, owner = caller.spec.argnames, implementation.plugin_name
    for name in implementation.argnames:
        if name not in known:
            what = str(UnknownNameError("argument", name, known))
            raise UnknownSpecificationError(what, plugin=owner, hook=caller.name)
    method = getattr(implementation.function, "__func__", None)
    function = implementation.function if method is None else method
    wrapping = implementation.wrapper, implementation.hookwrapper
    misfit = _misfit(known, function, method is not None, implementation.argnames, *wrapping)
    if misfit:
        raise PluginError(misfit, plugin=owner, hook=caller.name)


# Every arm and seed boots a machine with much the same plugins; looking at signatures dominates that.


@functools.lru_cache(maxsize=1024)
def _strange_argument(specification: Call) -> str:
    """The first argument of a specification that it must not have, or ""."""
    for parameter in inspect.signature(specification).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            return str(parameter)
    return ""


@functools.lru_cache(maxsize=4096)
def _misfit(
    known: tuple[str, ...],
    function: Call,
    bound: bool,
    taken: tuple[str, ...],
    wrapper: bool,
    hookwrapper: bool,
) -> str:
    """What is wrong with an implementation, or "". `bound`: it is a method, and `self` is given already."""
    names = list(inspect.signature(function).parameters)
    if bound and (not names or names[0] in known):
        return "its first argument must be self"
    for name in names[bound:]:
        if name in known and name not in taken:
            # pluggy passes an argument that has a default since 1.7 only, and a keyword-only one never.
            return f"argument {name!r} must be plain: without a default, and not keyword-only"
    if hookwrapper:
        return "old-style hookwrapper=True is not supported; use wrapper=True"
    if wrapper:
        if not inspect.isgeneratorfunction(function):
            return "a wrapper must be a generator function: it yields once"
    elif inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        # Called, it would give an object, and none of its code would run.
        return "it yields or awaits; return the answer, or mark a wrapper @hookimpl(wrapper=True)"
    return ""


@functools.lru_cache(maxsize=1024)
def _unmarked(holder: ModuleType | type, mark: str) -> frozenset[str]:
    """The names of what a class or module has that bears no mark of a hook."""
    found = set()
    for name in dir(holder):
        value = inspect.getattr_static(holder, name, None)
        if not hasattr(value, mark) and not hasattr(getattr(value, "__func__", None), mark):
            found.add(name)
    return frozenset(found)


def _refuse_unknown_hooks(manager: HookManager, known: Mapping[str, pluggy.HookCaller]) -> None:
    for name, caller in sorted(vars(manager.hook).items()):
        for implementation in caller.get_hookimpls() if name not in known else ():
            if not implementation.optionalhook:
                what = str(UnknownNameError("hook", name, known))
                raise UnknownSpecificationError(
                    what, plugin=implementation.plugin_name, hook=name, optional=True
                )


def _specified_by(caller: pluggy.HookCaller) -> str:
    return _namespace_name(caller.spec.namespace) if caller.spec is not None else ""


def _namespace_name(namespace: object) -> str:
    return getattr(namespace, "__name__", type(namespace).__name__)


# Calls


def _bind_plain(caller: pluggy.HookCaller) -> Call:
    assert caller.spec is not None
    names = caller.spec.argnames

    def call(*values: Any) -> Any:
        return caller(**dict(zip(names, values, strict=True)))

    def tell(*values: Any) -> None:
        call(*values)

    return tell if is_observer(caller.spec.function) else call


def _bind_direct(
    caller: pluggy.HookCaller, implementations: Sequence[pluggy.HookImpl | Implementation]
) -> Call:
    spec = caller.spec
    assert spec is not None
    observed = is_observer(spec.function)
    first_result = spec.opts["firstresult"]
    in_order = implementations[::-1]
    only = in_order[0]
    if (
        len(in_order) == 1
        and not only.wrapper
        and (observed or first_result)
        and only.argnames == spec.argnames
    ):
        return only.function

    # Every name the source uses, once: the arguments keep theirs, the rest makes way.
    taken = {caller.name, "BaseException", *spec.argnames}

    def fresh(wanted: str) -> str:
        while wanted in taken:
            wanted += "_"
        taken.add(wanted)
        return wanted

    used: dict[str, Any] = {}

    def use(wanted: str, value: Any) -> str:
        name = fresh(re.sub(r"\W|^(?=\d)", "_", wanted, flags=re.ASCII))
        used[name] = value
        return name

    wrappers: list[str] = []
    answers: list[str] = []
    for implementation in in_order:
        function = implementation.function
        name = use(f"{implementation.plugin_name}_{function.__name__}", function)
        calls = wrappers if implementation.wrapper else answers
        calls.append(f"{name}({', '.join(implementation.argnames)})")

    result = fresh("result")
    if first_result:
        body = _first_result(answers, result)
    elif observed and not wrappers:
        body = answers
    else:
        body = _all_results(answers, result, fresh("results"))
    parameters = ", ".join(spec.argnames)
    lines = [f"def {caller.name}({parameters}):", *_indented(body)]

    if wrappers:
        inner = fresh(f"{caller.name}_unwrapped")
        opened, error, raised = fresh("opened"), fresh("error"), fresh("raised")
        enter, leave = use("enter", _enter), use("leave", _leave)
        lines = [
            f"def {inner}({parameters}):",
            *_indented(body),
            "",
            f"def {caller.name}({parameters}):",
            f"    {opened} = []",
            "    try:",
            *(f"        {opened}.append({enter}({call}))" for call in wrappers),
            f"        {result}, {error} = {inner}({parameters}), None",
            f"    except BaseException as {raised}:",
            f"        {result}, {error} = None, {raised}",
            f"    {'' if observed else 'return '}{leave}({opened}, {result}, {error})",
        ]

    source = "\n".join(lines) + "\n"
    filename = f"<ntlab hook {caller.name} {zlib.crc32(source.encode()):08x}>"
    # A traceback shows these lines. The time of None says that there is no file on disk to check against.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(_compiled(source, filename), used)
    call: Call = used[caller.name]
    return call


def _first_result(answers: list[str], result: str) -> list[str]:
    lines = []
    for answer in answers[:-1]:
        lines += [f"{result} = {answer}", f"if {result} is not None:", f"    return {result}"]
    return [*lines, f"return {answers[-1] if answers else None}"]


def _all_results(answers: list[str], result: str, results: str) -> list[str]:
    lines = [f"{results} = []"]
    for answer in answers:
        lines += [f"{result} = {answer}", f"if {result} is not None:", f"    {results}.append({result})"]
    return [*lines, f"return {results}"]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@functools.lru_cache(maxsize=1024)
def _compiled(source: str, filename: str) -> CodeType:
    """Every arm and seed boots a machine with much the same plugins; compiling dominates binding."""
    return compile(source, filename, "exec")


# Wrappers: what a bound hook does before and after them


def _enter(wrapper: Wrapper) -> Wrapper:
    """Run a wrapper up to its yield."""
    try:
        next(wrapper)
    except StopIteration:
        _refuse_wrapper(wrapper, "did not yield")
    return wrapper


def _leave(opened: list[Wrapper], result: Any, error: BaseException | None) -> Any:
    """Give the outcome to each wrapper, innermost first; what the outermost makes of it is the hook's."""
    while opened:
        wrapper = opened.pop()
        try:
            if error is None:
                wrapper.send(result)
            else:
                wrapper.throw(error)
            wrapper.close()
        except StopIteration as stop:
            result, error = stop.value, None
        except BaseException as raised:
            # Python turns a StopIteration that leaves a generator into a RuntimeError: undo that.
            converted = isinstance(error, StopIteration) and raised.__cause__ is error
            if not (converted and isinstance(raised, RuntimeError)):
                error = raised
        else:
            _refuse_wrapper(wrapper, "has second yield")
    if error is not None:
        raise error
    return result


def _refuse_wrapper(wrapper: Wrapper, what: str) -> NoReturn:
    # Worded as pluggy words it, so that both modes say the same and `blame` reads both.
    raise RuntimeError(f"{_wrapper_at(wrapper.gi_code)} {what}")  # type: ignore[attr-defined]


def _wrapper_at(code: CodeType) -> str:
    return f"wrap_controller at {code.co_name!r} {code.co_filename}:{code.co_firstlineno}"

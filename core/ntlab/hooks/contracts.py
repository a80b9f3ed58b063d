"""What a specification promises of an answer: its return annotation, and what `expects` says besides.

Only the mode "checked" asks, so annotations are resolved when they are first needed: a module of
specifications names the types of the rooms above it below ``if TYPE_CHECKING`` alone.
"""

from __future__ import annotations

import ast
import collections.abc
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import attrs

from ntlab.errors import PluginError
from ntlab.hooks.markers import expectation_of, is_observer


@attrs.frozen
class Contract:
    """What one hook's answers must be. `annotation` is as written; `text` and `test` are from `expects`."""

    hook: str
    annotation: str
    text: str
    observer: bool
    _type: Any
    _test: Callable[..., object] | None
    _of_test: Sequence[int]
    """Which arguments of the specification the test asks for."""

    def violation(self, answer: object, arguments: Sequence[Any]) -> str | None:
        """What is wrong with an answer to these arguments (the specification's, in order), or None."""
        if fits(answer, self._type) and (
            answer is None
            or self._test is None
            or self._test(answer, *[arguments[index] for index in self._of_test])
        ):
            return None
        if self.observer:
            wanted = "None: it is only told, and nobody looks at what it returns"
        else:
            wanted = f"{self.annotation} ({self.text})" if self.text else self.annotation
            if fits(None, self._type):
                wanted += "; return None to leave the decision to others"
        return f"answered {_shown(answer)}; expected {wanted}"

    def violation_in_list(self, answers: object, arguments: Sequence[Any]) -> str | None:
        """As `violation`, of what a wrapper makes of the answers of all: a list."""
        if not isinstance(answers, list):
            return f"answered {_shown(answers)}; expected the list of all answers, as its yield gives it"
        found = (self.violation(answer, arguments) for answer in answers)
        return next((wrong for wrong in found if wrong is not None), None)


@functools.cache
def contract_of(specification: Callable[..., Any], owner: str) -> Contract:
    """The contract of a specification. Raises PluginError, naming its `owner`, where it cannot be read."""
    hook = specification.__name__
    written = specification.__annotations__.get("return", Any)
    try:
        resolved = _resolved(specification)
    except Exception as error:
        raise PluginError(
            f"its specification's return type {written!r} cannot be resolved ({type(error).__name__}: "
            f"{error}); import what it names in the specification's module, if TYPE_CHECKING will do",
            plugin=owner,
            hook=hook,
        ) from error
    names = list(inspect.signature(specification).parameters)
    names = names[1:] if names[:1] == ["self"] else names
    text, test = expectation_of(specification) or ("", None)
    asked = list(inspect.signature(test).parameters)[1:] if test is not None else []
    for name in asked:
        if name not in names:
            raise PluginError(
                f"its expectation asks for {name!r}, no argument of it", plugin=owner, hook=hook
            )
    return Contract(
        hook=hook,
        annotation=written if isinstance(written, str) else inspect.formatannotation(written),
        text=text,
        observer=is_observer(specification),
        type=resolved,
        test=test,
        of_test=[names.index(name) for name in asked],
    )


def unjudged(hook: str) -> Contract:
    """A contract that every answer keeps: for who wants to watch and no more."""
    return Contract(hook=hook, annotation="", text="", observer=True, type=Any, test=None, of_test=())


def fits(value: object, wanted: Any) -> bool:
    """Whether a value is of a type as annotations write it. A bool is no number; what is unknown fits."""
    if wanted is Any or wanted is object or isinstance(wanted, (str, typing.TypeVar)):
        return True
    if wanted is None or wanted is types.NoneType:
        return value is None
    if hasattr(wanted, "__supertype__"):  # a NewType
        return fits(value, wanted.__supertype__)
    if hasattr(wanted, "__value__"):  # a type alias of Python 3.12
        return fits(value, wanted.__value__)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Union or origin is types.UnionType:
        return any(fits(value, each) for each in arguments)
    if origin is typing.Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin is not None:
        return isinstance(value, origin) and _fit_inside(value, origin, arguments)
    if wanted is int or wanted is float:
        return isinstance(value, (int, wanted)) and not isinstance(value, bool)
    if wanted in (Sequence, collections.abc.Iterable, collections.abc.Collection):
        return isinstance(value, wanted) and not isinstance(value, (str, bytes))
    try:
        return isinstance(value, wanted)
    except TypeError:  # a protocol that says nothing at run time
        return True


def _fit_inside(value: Any, origin: type, arguments: Sequence[Any]) -> bool:
    if not arguments:
        return True
    if origin is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if issubclass(origin, Mapping):
        return all(fits(key, arguments[0]) and fits(each, arguments[1]) for key, each in value.items())
    if issubclass(origin, collections.abc.Collection):
        return not isinstance(value, (str, bytes)) and all(fits(each, arguments[0]) for each in value)
    return True  # an iterator is used up by a look at it


def _resolved(specification: Callable[..., Any]) -> Any:
    module = sys.modules[specification.__module__]
    names = _names(module)
    returned = types.SimpleNamespace(
        __annotations__={"return": specification.__annotations__.get("return", Any)}
    )
    return typing.get_type_hints(returned, globalns=names).get("return", Any)


@functools.cache
def _names(module: ModuleType) -> dict[str, Any]:
    """The names of a module, with those that it has for type checkers only."""
    found = dict(vars(module))
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):  # without source: what it has at run time must do
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            exec(compile(ast.Module(node.body, []), f"<types of {module.__name__}>", "exec"), found)
    return found


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."

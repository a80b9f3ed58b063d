"""The hooks: what is specified, and who implements it here. `ntlab hooks` and docs/hooks.md show the same.

All is read from the specifications themselves: signature, docstring, kind, and since when a hook exists.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import Any, Literal

import attrs
import pluggy

from ntlab.errors import NtlabError, PluginError, UnknownNameError, UserError
from ntlab.hooks import HookManager, bind, specifications, specified
from ntlab.hooks.markers import FIRST_VERSION, expectation_of, is_observer, since_of
from ntlab.lab.registry import Registry
from ntlab.lab.tables import Report, Table, as_columns

Kind = Literal["decision", "collection", "observer"]

_ASKED: dict[Kind, str] = {
    "decision": "asked in this order, until one answers something but None",
    "collection": "all are asked, in this order",
    "observer": "all are told, in this order",
}
CORE = "ntlab"


@attrs.frozen
class Answer:
    """One implementation of a hook, and how it is marked: tryfirst, trylast, wrapper."""

    plugin: str
    how: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.plugin} ({', '.join(self.how)})" if self.how else self.plugin

    def to_json(self) -> dict[str, Any]:
        return {"plugin": self.plugin, "how": list(self.how)}


@attrs.frozen(kw_only=True)
class Hook:
    """One specification. `imports` are the statements that its signature needs, `answers` in call order.

    `expects` says what an answer must be beyond its type, `deprecated` what whoever implements it is warned
    of; both may be "".
    """

    name: str
    kind: Kind
    domain: str
    since: str
    deprecated: str
    signature: str
    expects: str
    imports: tuple[str, ...]
    text: str
    file: str
    line: int
    answers: tuple[Answer, ...]

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return " ".join(self.text.partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".") + "."

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "domain": self.domain,
            "since": self.since,
            "deprecated": self.deprecated,
            "signature": self.signature,
            "expects": self.expects,
            "imports": list(self.imports),
            "summary": self.summary,
            "text": self.text,
            "file": self.file,
            "line": self.line,
            "implementations": [answer.to_json() for answer in self.answers],
        }

    def tables(self, width: int) -> list[Table]:
        """All that is known of it, the docstring in lines that are no longer than that."""
        facts = [
            ["domain", self.domain],
            ["since", self.since],
            *([["deprecated", self.deprecated]] if self.deprecated else []),
            *([["answer", self.expects]] if self.expects else []),
            *(["types" if at == 0 else "", line] for at, line in enumerate(self.imports)),
            ["specified", f"{_near(self.file)}:{self.line}"],
        ]
        if self.answers:
            facts.append(["implemented", _ASKED[self.kind]])
            facts += [["", f"{at}. {answer}"] for at, answer in enumerate(self.answers, 1)]
        else:
            facts.append(["implemented", "by nobody here"])
        text = [[line] for paragraph in self.text.split("\n\n") for line in ["", *_lines(paragraph, width)]][
            1:
        ]
        return [Table([self.name + self.signature], text), Table(["kind", self.kind], facts)]


def _lines(paragraph: str, width: int) -> list[str]:
    """The lines of a paragraph as they are written; others, if one of them is too long."""
    lines = paragraph.splitlines()
    return wrap(paragraph, width) if any(len(line) > width for line in lines) else lines


def _near(file: str) -> str:
    """A file below the folder that one is in by its shorter name."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


@attrs.frozen(kw_only=True)
class Domain:
    """A module of specifications. `owner` is the plugin that brings it, or "ntlab"."""

    name: str
    owner: str
    module: str
    text: str
    hooks: tuple[Hook, ...]

    @property
    def title(self) -> str:
        return self.name if self.owner == CORE else f"plugin {self.name}"


@attrs.frozen(kw_only=True, repr=False)
class HookReference(Report):
    """Hooks by domain: those of the core first, then those that plugins specify."""

    domains: tuple[Domain, ...]
    faults: tuple[NtlabError, ...] = ()

    @property
    def hooks(self) -> list[Hook]:
        return [hook for domain in self.domains for hook in domain.hooks]

    def of(self, names: Iterable[str]) -> HookReference:
        """Only the hooks of these names. Raises UnknownNameError."""
        wanted = list(names)
        known = [hook.name for hook in self.hooks]
        for name in wanted:
            if name not in known:
                raise UnknownNameError("hook", name, known)
        domains = [
            attrs.evolve(domain, hooks=tuple(hook for hook in domain.hooks if hook.name in wanted))
            for domain in self.domains
        ]
        return attrs.evolve(self, domains=tuple(domain for domain in domains if domain.hooks))

    def to_json(self) -> list[dict[str, Any]]:
        return [hook.to_json() for hook in self.hooks]

    def columns(self) -> dict[str, list[Any]]:
        return as_columns(self.to_json())

    def tables(self) -> list[Table]:
        """A table for each domain, a row for each hook."""
        return [
            Table(
                ["hook", "kind", "implemented by", "what"],
                [
                    [hook.name, hook.kind, ", ".join(map(str, hook.answers)), hook.summary]
                    for hook in domain.hooks
                ],
                domain.title,
            )
            for domain in self.domains
        ]

    def details(self, width: int) -> list[Table]:
        """All that is known of each of these hooks, in lines that are no longer than that."""
        return [table for hook in self.hooks for table in hook.tables(width)]

    def markdown(self) -> str:
        """The reference as part of a page: a table of contents, and a chapter for each domain."""
        lines = ["| domain | hooks |", "|---|---|"]
        for domain in self.domains:
            hooks = ", ".join(f"[`{hook.name}`](#{hook.name})" for hook in domain.hooks)
            lines.append(f"| [{domain.title}](#{domain.title.replace(' ', '-')}) | {hooks} |")
        for domain in self.domains:
            lines += ["", f"## {domain.title}", "", f"Specified in `{domain.module}`. {domain.text}"]
            for hook in domain.hooks:
                facts = [f"**{hook.kind}**", f"since {hook.since}"]
                if hook.deprecated:
                    facts.append(f"**deprecated**: {hook.deprecated}")
                if hook.answers:
                    facts.append("implemented by " + ", ".join(f"`{answer}`" for answer in hook.answers))
                lines += ["", f"### {hook.name}", "", "```py"]
                lines += [*hook.imports, "", f"def {hook.name}{hook.signature}: ...", "```", ""]
                lines += [" · ".join(facts), "", hook.text]
                if hook.expects:
                    lines += ["", f"An answer is checked to be: {hook.expects}."]
        return "\n".join(lines) + "\n"


def read_hooks(registry: Registry) -> HookReference:
    """The built-in hooks and those that plugins specify, with who implements each.

    Implementations are in the order in which they would be asked if all plugins were used together, be there
    conflicts among them or not.
    """
    plugins, broken = registry.usable()
    faults: list[NtlabError] = [*broken]
    manager = HookManager()
    specified = [(module, CORE, CORE) for module in specifications()]
    for module, *_ in specified:
        manager.add_hookspecs(module)
    for plugin in plugins:
        for module in plugin.info.hookspecs:
            try:
                manager.add_hookspecs(module)
            except PluginError as error:
                faults.append(error)
            else:
                specified.append((module, plugin.name, plugin.distribution))
    names = [plugin.name for plugin in plugins]
    try:
        names = registry.order(names)
    except UserError as error:  # a cycle is the concern of whoever uses all of these
        faults.append(error)
    for name in reversed(names):  # pluggy asks what was registered last first
        try:
            manager.register(registry.plugin(name).info.cls(), name)
        except PluginError as error:
            manager.unregister(name=name)
            faults.append(error)
    try:
        bind(manager)
    except PluginError as error:
        faults.append(error)
    implemented = answers(manager)
    return HookReference(
        domains=tuple(
            _domain(module, owner, distribution, implemented) for module, owner, distribution in specified
        ),
        faults=tuple(faults),
    )


def answers(manager: pluggy.PluginManager) -> dict[str, tuple[Answer, ...]]:
    """For each hook that somebody implements, by name: who is called, in call order."""
    found = {}
    for name, caller in sorted(vars(manager.hook).items()):
        if implementations := caller.get_hookimpls():
            found[name] = tuple(
                Answer(
                    one.plugin_name,
                    tuple(mark for mark in ("tryfirst", "trylast", "wrapper") if getattr(one, mark)),
                )
                for one in reversed(implementations)
            )
    return found


def kind_of(specification: Callable[..., Any]) -> Kind:
    """Which kind a hook is of."""
    if is_observer(specification):
        return "observer"
    return "decision" if specification.ntlab_spec["firstresult"] else "collection"  # type: ignore[attr-defined]


# What is read of a module


def _domain(
    module: ModuleType, owner: str, distribution: str, implemented: Mapping[str, tuple[Answer, ...]]
) -> Domain:
    last = module.__name__.rpartition(".")[2]
    name = last if owner == CORE else owner if last == "hooks" else f"{owner}.{last}"
    return Domain(
        name=name,
        owner=owner,
        module=module.__name__,
        text=inspect.cleandoc(module.__doc__ or ""),
        hooks=tuple(
            _hook(key, function, module, name, distribution, implemented.get(key, ()))
            for key, function in specified(module).items()
        ),
    )


def _hook(
    name: str,
    function: Callable[..., Any],
    module: ModuleType,
    domain: str,
    distribution: str,
    implemented: tuple[Answer, ...],
) -> Hook:
    since = since_of(function) or (FIRST_VERSION if distribution == CORE else "")
    code = inspect.unwrap(function).__code__
    signature = inspect.signature(function)
    said = {key: _annotation(parameter.annotation) for key, parameter in signature.parameters.items()}
    returned = _annotation(signature.return_annotation)
    arguments = ", ".join(f"{key}: {type}" if type else key for key, type in said.items())
    return Hook(
        name=name,
        kind=kind_of(function),
        domain=domain,
        deprecated=str(function.ntlab_spec["warn_on_impl"] or ""),  # type: ignore[attr-defined]
        since=f"{distribution} {since}" if since else f"the first version of {distribution}",
        signature=f"({arguments})" + (f" -> {returned}" if returned else ""),
        imports=_imports(module, [*said.values(), returned]),
        expects=expected[0] if (expected := expectation_of(function)) is not None else "",
        text=inspect.cleandoc(function.__doc__ or ""),
        file=code.co_filename,
        line=code.co_firstlineno,
        answers=implemented,
    )


def _annotation(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation
    return "" if annotation is inspect.Parameter.empty else inspect.formatannotation(annotation)


def _imports(module: ModuleType, annotations: Iterable[str]) -> tuple[str, ...]:
    """The imports that an implementation needs for these types, from where the public finds them."""
    names = {
        node.id
        for annotation in annotations
        if annotation
        for node in ast.walk(ast.parse(annotation, mode="eval"))
        if isinstance(node, ast.Name)
    }
    origins = _origins(module)
    public = import_module("ntlab.machine")
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        origin = origins.get(name, "")
        if origin.startswith("ntlab.machine.") and name in public.__all__:
            origin = "ntlab.machine"
        if origin:
            found.setdefault(origin, []).append(name)
    return tuple(f"from {origin} import {', '.join(found[origin])}" for origin in sorted(found))


@cache
def _origins(module: ModuleType) -> dict[str, str]:
    """Where a module imports names from, those for annotations only included; or defines them itself."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):  # there is no source
        return {}
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            origins |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            origins |= dict.fromkeys(names, module.__name__)
    return origins

"""`ntlab new`: a plugin's distribution, an experiment or a machine, to begin with.

What is written comes from `templates/`: each file there is a `string.Template` with the name of the file that
it becomes, and `.template` at its end. Everything works as it is written; the tests install, run, lint and
type it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import keyword
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

import attrs

from ntlab._version import __version__
from ntlab.errors import PluginError, UnknownNameError, UserError
from ntlab.lab.experiment import ExperimentTable
from ntlab.lab.options import Place, structure, written
from ntlab.lab.registry import InstalledPlugin, Registry, installed, read_toml
from ntlab.plugin import options_of
from ntlab.quantities import Duration
from ntlab.topology import load, profiles, to_profile

Folder = str | os.PathLike[str]

TEMPLATES = Path(__file__).with_name("templates")
SUFFIX = ".template"
LICENSES = ("MIT", "Apache-2.0", "BSD-3-Clause", "none")
LONGEST_NAME = 40
RESERVED = ("ntlab", "workload")
"""Names that no plugin may have: `--set workload.threads=8` means the workload of an experiment."""
BASELINE = "ws2003"
"""The release whose plugins are in every arm of a new experiment."""


# A plugin


def new_plugin(name: str, folder: Folder = ".", *, license: str = "MIT", author: str = "") -> Path:
    """Write the distribution `ntlab-NAME` into `folder`, and return where it is.

    Raises UserError where the name is none or is taken, the licence is not known, or the place exists.
    """
    if license not in LICENSES:
        raise UnknownNameError("licence", license, LICENSES, where="--license")
    if not author.isprintable():
        raise UserError(f"{author!r} is no name", where="--author", expected="one line of text")
    _check_plugin_name(name, installed())
    dashed = name.replace("_", "-")
    distribution = f"ntlab-{dashed}"
    author = author.strip() or f"The authors of {distribution}"
    names = {
        "name": name,
        "package": f"ntlab_{name}",
        "distribution": distribution,
        "experiment": dashed,
        "cls": _class_name(name),
        "version": __version__,
        "author": author,
        "author_toml": _toml(author),
        # The index refuses what is classified so: without a licence nobody may use it.
        "license_lines": "",
        "license_classifier": '  "Private :: Do Not Upload",\n',
    }
    source = TEMPLATES / "plugin"
    files = {str(file.relative_to(source)): file for file in sorted(source.rglob(f"*{SUFFIX}"))}
    if license != "none":
        files[f"LICENSE{SUFFIX}"] = TEMPLATES / "licenses" / f"{license}{SUFFIX}"
        names["license_lines"] = f'license = "{license}"\nlicense-files = ["LICENSE"]\n'
        names["license_classifier"] = ""

    def becomes(path: str) -> str:
        path = path.removesuffix(SUFFIX).replace("NAME", name).replace("EXPERIMENT", dashed)
        # A file of that name among the templates would hide others from git and from the builder.
        return ".gitignore" if path == "gitignore" else path

    return _write_folder(
        Path(folder) / distribution, {becomes(path): _filled(file, names) for path, file in files.items()}
    )


def _check_plugin_name(name: str, registry: Registry) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or name.startswith("ntlab_"):
        better = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
        better = re.sub(r"^(ntlab_|[_0-9]+)+", "", better).strip("_")
        near = f", such as {better[:LONGEST_NAME].strip('_')!r}" if better else ""
        raise UserError(
            f"{name!r} is no name for a plugin",
            expected=f"lower-case letters, digits and single '_' between them{near}",
        )
    if len(name) > LONGEST_NAME:
        raise UserError(f"{name!r} is too long for a plugin", expected=f"at most {LONGEST_NAME} characters")
    if name in RESERVED:
        raise UserError(f"no plugin may be called {name!r}", expected="another name")
    if name in registry.names():
        owner = registry.plugin(name).distribution
        raise UserError(f"a plugin {name!r} is installed, by {owner!r}", expected="another name")
    if importlib.util.find_spec(f"ntlab_{name}") is not None:
        raise UserError(f"there is a package 'ntlab_{name}' here", expected="another name")
    experiment = name.replace("_", "-")
    if experiment in registry.experiment_files:
        owner = registry.experiment_files[experiment][0]
        raise UserError(f"plugin {owner!r} ships an experiment {experiment!r}", expected="another name")


def _class_name(name: str) -> str:
    """FairShare from fair_share; with Plugin behind it where the templates or Python use that word."""
    cls = "".join(part.capitalize() for part in name.split("_"))
    code = "\n".join(file.read_text(encoding="utf-8") for file in (TEMPLATES / "plugin").rglob("*.py.*"))
    return f"{cls}Plugin" if keyword.iskeyword(cls) or re.search(rf"\b{cls}\b", code) else cls


# An experiment


def new_experiment(
    name: str, folder: Folder = ".", *, plugin: str | None = None, workload: str | None = None
) -> Path:
    """Write NAME.toml, which compares what there is without and with a plugin; return where it is.

    `workload` is PLUGIN.WORKLOAD. One of the two suffices: a plugin's experiments, or its own workloads, say
    what drives it; a workload is first of all for the plugin that brings it. Where an experiment that is
    shipped is about both, its machine, duration and options are taken over.
    """
    name = _file_name(name)
    registry = installed()
    if plugin is None and workload is None:
        known = ", ".join(registry.names())
        raise UserError("what is it about?", where="--plugin", expected=f"one of: {known}")
    if plugin is None:
        assert workload is not None
        registry.workload(workload, "--workload")
        plugin = workload.partition(".")[0]
    subject = registry.plugin(plugin, "--plugin")
    model = _model(subject, workload, registry)
    if workload is None:
        workload = _workload_of(subject, model)
    driver = registry.workload(workload, "--workload")

    base: dict[str, Mapping[str, Any]] = {} if model is None else dict(model.plugins)
    if subject.info.release != BASELINE:
        base.pop(plugin, None)
    for needed in (*_baseline(registry), *registry.required(plugin)):
        base.setdefault(needed, {})
    without = [other for other in base if registry.conflict(plugin, other)]
    hardware, seeds, duration, options = "uni", 1, '"1 s"', {}
    if model is not None:
        hardware, seeds, options = model.hardware, model.seeds, model.workload
        duration = "" if model.duration is None else _toml(written(model.duration, Duration))
    after = [f"\n[arms.after]\nwithout = {_toml(without)}"] if without else []
    after += [f"\n[arms.after.plugins.{plugin}]", *_option_lines(subject.info.cls, {}), ""]
    place = Path(folder) / f"{name}.toml"
    text = _filled(
        TEMPLATES / f"experiment.toml{SUFFIX}",
        {
            "name": name,
            "file": place.name,
            "subject": plugin,
            "title": _toml(_line(subject.info.summary).removesuffix(".")),
            "hardware": _toml(hardware),
            "duration": f"duration = {duration}" if duration else '# duration = "1 s"',
            "seeds": str(seeds),
            "workload": workload,
            "workload_summary": _line(driver.summary),
            "workload_options": "\n".join(_option_lines(driver.cls, options)),
            "base": "\n".join(
                "\n".join([f"[plugins.{other}]", *_option_lines(registry.plugin(other).info.cls, some), ""])
                for other, some in base.items()
            ),
            "after": "\n".join(after),
        },
    )
    return _write(place, text)


def _model(subject: InstalledPlugin, workload: str | None, registry: Registry) -> ExperimentTable | None:
    """The first shipped experiment that has the plugin in some arm, and that workload, if there is one.

    The plugin's own experiments come first.
    """
    shipped = registry.experiment_files.values()
    for _, file in sorted(shipped, key=lambda one: one[0] != subject.name):
        table: ExperimentTable = structure(read_toml(file), ExperimentTable, Place(str(file)))
        used = {*table.plugins, *(name for arm in table.arms.values() for name in arm.plugins)}
        if subject.name in used and workload in (None, table.workload.get("use")):
            beside = table.hardware.endswith((".toml", ".xml"))
            return attrs.evolve(table, hardware=str(file.parent / table.hardware)) if beside else table
    return None


def _workload_of(subject: InstalledPlugin, model: ExperimentTable | None) -> str:
    if model is not None:
        return str(model.workload.get("use"))
    for name in subject.workloads:
        return f"{subject.name}.{name}"
    raise UserError(
        f"plugin {subject.name!r} brings no workload, and no experiment uses it",
        where="--workload",
        expected="PLUGIN.WORKLOAD",
    )


def _baseline(registry: Registry) -> list[str]:
    found = []
    for plugin in registry.plugins():
        with contextlib.suppress(PluginError):  # one that is broken hinders nobody else
            if plugin.info.release == BASELINE:
                found.append(plugin.name)
    return found


def _option_lines(cls: type, some: Mapping[str, Any]) -> list[str]:
    """A line for each option: what is set as it is, the rest as a comment with its default."""
    defaults = cls()
    lines: list[tuple[str, str]] = []
    for field in options_of(cls):
        value = some.get(field.name, written(getattr(defaults, field.name), field.type))
        mark = "" if field.name in some else "# "
        shown = "" if value is None else _toml(value)
        lines.append((f"{mark}{field.name} = {shown}", str(field.metadata["help"])))
    width = min(max((len(line) for line, _ in lines), default=0), 40)
    return [f"{line:<{width}}  # {_line(help)}" for line, help in lines]


# A machine


def new_hardware(name: str, folder: Folder = ".", *, origin: str | None = None) -> Path:
    """Write the profile NAME.toml and return where it is.

    Without `origin` it is a small server with a comment on each key; else a copy of a profile, by name or
    file, with its comments, or what an hwloc .xml file or "host" describes.
    """
    name = _file_name(name)
    shipped = profiles()
    if name in ("host", *shipped):
        raise UserError(f"there is a machine {name!r}", expected="another name")
    place = Path(folder) / f"{name}.toml"
    if origin is None:
        names = {"name": name, "file": place.name}
        return _write(place, _filled(TEMPLATES / f"hardware.toml{SUFFIX}", names))
    topology = load(origin)  # which says what is wrong, also where its text is copied
    file = shipped[origin].path if origin in shipped else Path(origin)
    if file is not None and file.suffix == ".toml":
        text = file.read_text(encoding="utf-8")
    else:
        text = to_profile(topology)
    table = re.search(r"^\[", text, flags=re.MULTILINE)
    head, tables = (text[: table.start()], text[table.start() :]) if table else (text, "")
    line = f"name = {_toml(name)}\n"
    head, named = re.subn(r"^name *=.*\n", lambda _: line, head, flags=re.MULTILINE)
    told = f"# Begun as a copy of {origin}; docs/topology.md has every key.\n"
    return _write(place, told + ("" if named else line) + head + tables)


# What they share


def _file_name(name: str) -> str:
    name = name.removesuffix(".toml")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(
            f"{name!r} is no name", expected="letters, digits, '.', '_' and '-'; --dir says in which folder"
        )
    return name


def _filled(template: Path, names: Mapping[str, str]) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(names)


def _line(text: str) -> str:
    return " ".join(text.split())


def _toml(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Iterable):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def _write_folder(place: Path, files: Mapping[str, str]) -> Path:
    """All of it or nothing."""
    if place.exists():
        raise _exists(place)
    try:
        for path, text in files.items():
            _write(place / path, text)
    except UserError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


def _write(place: Path, text: str) -> Path:
    if place.exists():
        raise _exists(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(place)) from None
    return place


def _exists(place: Path) -> UserError:
    return UserError("is there already", where=str(place), expected="another name, or another --dir")

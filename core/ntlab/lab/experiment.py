"""Experiments: what is compared, read from TOML and checked whole before anything runs.

`docs/experiments.md` describes the file. Reading resolves it: each arm of an `Experiment` holds its hardware,
its plugins in the order in which they are asked, and every option's value, defaults too. Written back by
`Experiment.document` that is an experiment file again, so a result can carry it and be run again although
defaults or presets have changed since.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from ntlab.errors import UnknownNameError, UserError
from ntlab.lab.claims import Expectation, is_arm_name, parse_expectation
from ntlab.lab.options import Place, Setting, build, options_written, structure, written
from ntlab.lab.registry import Registry, read_toml
from ntlab.quantities import Duration

Table = dict[str, Any]

SEEDS: Final = 100_000
"""The most seeds of an experiment: far more than an interval needs, and their runs fit into memory."""


@attrs.frozen(kw_only=True)
class ArmTable:
    """``[arms.NAME]`` as it is written."""

    title: str = ""
    hardware: str | None = None
    release: str | None = None
    plugins: dict[str, Table] = attrs.field(factory=dict)
    without: tuple[str, ...] = ()
    workload: Table = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class ClaimTable:
    """``[[claims]]`` as it is written."""

    id: str
    metric: str
    expect: str
    ledger: str = ""
    source: str = ""
    control: bool = False


@attrs.frozen(kw_only=True)
class ExperimentTable:
    """An experiment file as it is written."""

    name: str
    hardware: str
    workload: Table
    arms: dict[str, ArmTable]
    title: str = ""
    ledger: tuple[str, ...] = ()
    duration: Duration | None = None
    seeds: int = 1
    release: str | None = None
    plugins: dict[str, Table] = attrs.field(factory=dict)
    claims: tuple[ClaimTable, ...] = ()


@attrs.frozen(kw_only=True)
class Arm:
    """One arm, resolved. `plugins` holds every option of each, in the order in which they are asked."""

    name: str
    title: str
    hardware: str
    plugins: dict[str, Table]
    workload: Table


@attrs.frozen(kw_only=True)
class Claim:
    """What an experiment shows: `metric` (of the workload, or a counter) and what is expected of it.

    A `control` is about what surrounds the feature, so it holds without the feature too.
    """

    id: str
    ledger: str
    metric: str
    expectation: Expectation
    source: str
    control: bool


@attrs.frozen(kw_only=True)
class Experiment:
    """An experiment, resolved and checked.

    `hardware` is what it runs on, `made_for` what it names itself: its claims are made for that. `use` is its
    workload, `duration` the simulated time in ns, or None: until nothing happens any more.
    `plugin` ships it, or None where it is the user's own.
    """

    name: str
    title: str
    ledger: tuple[str, ...]
    hardware: str
    made_for: str
    use: str
    duration: Duration | None
    seeds: int
    arms: dict[str, Arm]
    claims: tuple[Claim, ...]
    plugin: str | None
    source: str

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises UnknownNameError."""
        if name not in self.arms:
            raise UnknownNameError("arm", name, self.arms)
        return self.arms[name]

    def document(self) -> Table:
        """The experiment as an experiment file's content, with nothing left to defaults or presets."""
        document: Table = {
            "name": self.name,
            "title": self.title,
            "ledger": list(self.ledger),
            "hardware": self.hardware,
            "seeds": self.seeds,
            "workload": {"use": self.use},
            "arms": {
                arm.name: {
                    "title": arm.title,
                    "hardware": arm.hardware,
                    "plugins": arm.plugins,
                    "workload": arm.workload,
                }
                for arm in self.arms.values()
            },
            "claims": [
                {
                    "id": claim.id,
                    "metric": claim.metric,
                    "expect": claim.expectation.text,
                    "ledger": claim.ledger,
                    "source": claim.source,
                    "control": claim.control,
                }
                for claim in self.claims
            ],
        }
        if self.duration is not None:
            document["duration"] = written(self.duration, Duration)
        return document


def find_experiment(name: str | os.PathLike[str], registry: Registry) -> tuple[Table, str, str | None]:
    """The content of an experiment by name or file, where it comes from, and the plugin that ships it."""
    text = os.fspath(name)
    if text.endswith(".toml") or os.sep in text or not isinstance(name, str):
        return read_toml(Path(text)), text, None
    if text in registry.experiment_faults:
        raise registry.experiment_faults[text]
    files = registry.experiment_files
    if text not in files:
        raise UnknownNameError("experiment", text, files)
    plugin, file = files[text]
    return read_toml(file), str(file), plugin


def resolve(
    document: Mapping[str, Any],
    registry: Registry,
    *,
    source: str,
    folder: Path | None = None,
    plugin: str | None = None,
    hardware: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seeds: int | None = None,
) -> Experiment:
    """Read and check an experiment's content.

    `source` is what mistakes are told of, `folder` where its hardware files are. `hardware` and `seeds`
    replace the experiment's own; an arm's own hardware stays. `settings` are the user's: "workload.OPTION" or
    "PLUGIN.OPTION" wins over the file in every arm that has it, with "ARM." in front in that arm only;
    "duration" is the experiment's. Raises UserError naming the file and the key.
    """
    top = Place(source)
    table: ExperimentTable = structure(document, ExperimentTable, top)
    if not re.fullmatch(r"[\w.-]+", table.name):  # a result file is named so
        where = str(top / "name")
        raise UserError(
            f"{table.name!r} is no name", where=where, expected="letters, digits, '.', '_' and '-'"
        )
    if not table.arms:
        raise UserError("there is no arm", where=str(top / "arms"), expected="at least one")
    for name in table.arms:
        if not is_arm_name(name):
            raise UserError(
                f"{name!r} is no name for an arm", where=str(top / "arms"), expected="an identifier"
            )
    mine = _UserSettings(settings or {}, table, registry)
    duration = table.duration if mine.duration is None else mine.duration
    if duration is not None and duration < 0:
        where = str(top / "duration") if mine.duration is None else "--set: duration"
        text = written(duration, Duration)
        raise UserError(f"{text} is no time to run", where=where, expected="0 s or more")
    chosen_seeds = table.seeds if seeds is None else seeds
    if not 1 <= chosen_seeds <= SEEDS:
        where = str(top / "seeds") if seeds is None else "--seeds"
        raise UserError(f"{chosen_seeds} seeds", where=where, expected=f"1 to {SEEDS}")
    use, workload_options = _workload(table, top)
    if hardware is not None and all(arm.hardware is not None for arm in table.arms.values()):
        raise UserError("has no effect: every arm names its own hardware", where="--hardware")
    made_for = _hardware(table.hardware, folder)
    default_hardware = hardware if hardware is not None else made_for
    arms = {}
    for name, arm in table.arms.items():
        place = top / "arms" / name
        options = {key: Setting(value, top / "workload" / key) for key, value in workload_options.items()}
        options |= {key: Setting(value, place / "workload" / key) for key, value in arm.workload.items()}
        options |= mine.take("workload", name)
        workload = build(registry.workload(use, str(top / "workload" / "use")).cls, options, top / "workload")
        arms[name] = Arm(
            name=name,
            title=arm.title,
            hardware=default_hardware if arm.hardware is None else _hardware(arm.hardware, folder),
            plugins=_plugins(table, arm, name, top, registry, mine),
            workload=options_written(workload),
        )
    mine.refuse_unused()
    return Experiment(
        name=table.name,
        title=table.title,
        ledger=table.ledger,
        hardware=default_hardware,
        made_for=made_for,
        use=use,
        duration=duration,
        seeds=chosen_seeds,
        arms=arms,
        claims=_claims(table, top),
        plugin=plugin,
        source=source,
    )


def _workload(table: ExperimentTable, top: Place) -> tuple[str, Table]:
    options = dict(table.workload)
    use = options.pop("use", None)
    if not isinstance(use, str):
        raise UserError(
            "the key 'use' is missing or no text", where=str(top / "workload"), expected="PLUGIN.WORKLOAD"
        )
    return use, options


def _hardware(name: str, folder: Path | None) -> str:
    """A file is named relative to the experiment's own; anything else is a profile's name."""
    return str(folder / name) if folder is not None and name.endswith((".toml", ".xml", ".acpi")) else name


def _plugins(
    table: ExperimentTable, arm: ArmTable, name: str, top: Place, registry: Registry, mine: _UserSettings
) -> dict[str, Table]:
    place = top / "arms" / name
    settings: dict[str, dict[str, Setting]] = {}
    if arm.release is not None:
        settings = {member: {} for member in registry.preset(arm.release, str(place / "release"))}
    elif table.release is not None:
        settings = {member: {} for member in registry.preset(table.release, str(top / "release"))}
    for tables, origin in ((table.plugins, top / "plugins"), (arm.plugins, place / "plugins")):
        for plugin, options in tables.items():
            registry.plugin(plugin, str(origin))
            settings.setdefault(plugin, {}).update(
                {key: Setting(value, origin / plugin / key) for key, value in options.items()}
            )
    for plugin in arm.without:
        if plugin not in settings:
            raise UnknownNameError("plugin of this arm", plugin, settings, where=str(place / "without"))
        del settings[plugin]
    plugins = {}
    for plugin in registry.solve(settings, str(place)):
        options = settings[plugin] | mine.take(plugin, name)
        plugins[plugin] = options_written(build(registry.plugin(plugin).info.cls, options, place / plugin))
    return plugins


def _claims(table: ExperimentTable, top: Place) -> tuple[Claim, ...]:
    claims: dict[str, Claim] = {}
    for at, claim in enumerate(table.claims):
        place = top / f"claims[{at}]"
        if claim.id in claims:
            raise UserError(f"two claims are called {claim.id!r}", where=str(place / "id"))
        ledger = claim.ledger or (table.ledger[0] if len(table.ledger) == 1 else "")
        if ledger and ledger not in table.ledger:
            raise UnknownNameError("ledger row", ledger, table.ledger, where=str(place / "ledger"))
        expectation = parse_expectation(claim.expect, list(table.arms), str(place / "expect"))
        claims[claim.id] = Claim(
            id=claim.id,
            ledger=ledger,
            metric=claim.metric,
            expectation=expectation,
            source=claim.source,
            control=claim.control,
        )
    return tuple(claims.values())


class _UserSettings:
    """What the user sets beside the file. Every setting must take effect somewhere."""

    def __init__(self, settings: Mapping[str, Any], table: ExperimentTable, registry: Registry) -> None:
        self.duration: Duration | None = None
        self._settings: dict[tuple[str, str, str], Setting] = {}
        self._used: set[tuple[str, str, str]] = set()
        for key, value in settings.items():
            place = Place("--set", (key,))
            arm, owner, option = _split(key)
            if not owner:
                if option != "duration":
                    raise UserError(
                        f"{key!r} sets nothing",
                        where="--set",
                        expected="duration, [ARM.]workload.OPTION or [ARM.]PLUGIN.OPTION",
                    )
                self.duration = structure(value, Duration, place)
                continue
            if arm and arm not in table.arms:
                raise UnknownNameError("arm", arm, table.arms, where=str(place))
            if owner != "workload":
                registry.plugin(owner, str(place))
            self._settings[arm, owner, option] = Setting(value, place)

    def take(self, owner: str, arm: str) -> dict[str, Setting]:
        """The options set for a plugin or the workload in an arm; what is said of that arm alone wins."""
        taken = {}
        for scope in ("", arm):
            for key, setting in self._settings.items():
                if key[:2] == (scope, owner):
                    taken[key[2]] = setting
                    self._used.add(key)
        return taken

    def refuse_unused(self) -> None:
        for key, setting in self._settings.items():
            if key not in self._used:
                arm = f"the arm {key[0]!r} does not use" if key[0] else "no arm uses"
                raise UserError(f"has no effect: {arm} the plugin {key[1]!r}", where=str(setting.place))


def _split(key: str) -> tuple[str, str, str]:
    parts = key.split(".")
    if len(parts) > 3 or not all(parts):
        return "", "", key
    arm, owner, option = [""] * (3 - len(parts)) + parts
    return arm, owner, option

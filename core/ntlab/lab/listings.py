"""What is installed, as the laboratory lists it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ntlab.errors import NtlabError
from ntlab.lab.experiment import Experiment
from ntlab.lab.options import type_name, written
from ntlab.lab.registry import InstalledPlugin, installed, views_of
from ntlab.lab.tables import Report, Table, as_columns, format_setting
from ntlab.plugin import WorkloadInfo, options_of
from ntlab.quantities import Duration


@attrs.frozen(kw_only=True, repr=False)
class PluginList(Report):
    """Installed plugins."""

    plugins: tuple[InstalledPlugin, ...]
    faults: tuple[NtlabError, ...] = ()

    def to_json(self) -> list[dict[str, Any]]:
        return [_describe_plugin(plugin) for plugin in self.plugins]

    def columns(self) -> dict[str, list[Any]]:
        return as_columns(self.to_json())

    def tables(self) -> list[Table]:
        rows = [
            [plugin.name, plugin.info.release or "", " ".join(plugin.info.ledger), plugin.info.summary]
            for plugin in self.plugins
        ]
        return [Table(["plugin", "release", "ledger", "summary"], rows)]

    def details(self) -> list[Table]:
        """Every option and workload of these plugins."""
        tables = []
        for plugin in self.to_json():
            facts = {
                "summary": plugin["summary"],
                "release": plugin["release"],
                "ledger": ", ".join(plugin["ledger"]),
                "hooks": ", ".join(plugin["hooks"]),
                "views": ", ".join(plugin["views"]),
                "requires": ", ".join(plugin["requires"]),
                "conflicts": ", ".join(plugin["conflicts"]),
                "after": ", ".join(plugin["after"]),
                "before": ", ".join(plugin["before"]),
                "neutral": _settings(plugin["neutral"] or {}),
                "distribution": f"{plugin['distribution']} {plugin['version']}",
                "experiments": ", ".join(plugin["experiments"]),
            }
            tables.append(Table([plugin["name"], ""], [[key, text] for key, text in facts.items() if text]))
            tables += _options_tables("option", plugin["options"])
            for workload in plugin["workloads"]:
                title = f"workload {plugin['name']}.{workload['name']}: {workload['summary']}"
                tables += _options_tables("workload option", workload["options"], title)
                if workload["views"]:
                    tables.append(Table(["views"], [[view] for view in workload["views"]]))
        return tables


@attrs.frozen(kw_only=True, repr=False)
class ExperimentList(Report):
    """Shipped experiments."""

    experiments: tuple[Experiment, ...]
    faults: tuple[NtlabError, ...] = ()

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "name": experiment.name,
                "title": experiment.title,
                "plugin": experiment.plugin,
                "ledger": list(experiment.ledger),
                "hardware": experiment.hardware,
                "workload": experiment.use,
                "duration": None if experiment.duration is None else written(experiment.duration, Duration),
                "seeds": experiment.seeds,
                "arms": list(experiment.arms),
                "claims": [claim.id for claim in experiment.claims],
            }
            for experiment in self.experiments
        ]

    def columns(self) -> dict[str, list[Any]]:
        return as_columns(self.to_json())

    def tables(self) -> list[Table]:
        rows = [
            [one.name, one.plugin or "", " ".join(one.ledger), ", ".join(one.arms), one.hardware, one.title]
            for one in self.experiments
        ]
        return [Table(["experiment", "plugin", "ledger", "arms", "hardware", "title"], rows)]


def _describe_plugin(plugin: InstalledPlugin) -> dict[str, Any]:
    info = plugin.info
    return {
        "name": info.name,
        "summary": info.summary,
        "release": info.release,
        "ledger": list(info.ledger),
        "options": _describe_options(info.cls),
        "views": sorted(views_of(info.cls(), plugin.name)),
        "hooks": plugin.hooks,
        "requires": list(info.requires),
        "conflicts": list(info.conflicts),
        "after": list(info.after),
        "before": list(info.before),
        "neutral": None if info.neutral is None else dict(info.neutral),
        "workloads": [_describe_workload(workload, plugin.name) for workload in plugin.workloads.values()],
        "experiments": [
            name for name, (owner, _) in installed().experiment_files.items() if owner == plugin.name
        ],
        "distribution": plugin.distribution,
        "version": plugin.version,
    }


def _describe_workload(workload: WorkloadInfo, plugin: str) -> dict[str, Any]:
    return {
        "name": workload.name,
        "summary": workload.summary,
        "options": _describe_options(workload.cls),
        "views": sorted(views_of(workload.cls(), plugin)),
    }


def _describe_options(cls: type) -> list[dict[str, Any]]:
    defaults = cls()
    return [
        {
            "name": field.name,
            "type": type_name(field.type),
            "default": written(getattr(defaults, field.name), field.type),
            "help": field.metadata["help"],
            "minimum": field.metadata["minimum"],
            "maximum": field.metadata["maximum"],
        }
        for field in options_of(cls)
    ]


def _options_tables(kind: str, options: Sequence[Mapping[str, Any]], title: str = "") -> list[Table]:
    rows = [[one["name"], one["type"], _plain(one["default"]), one["help"]] for one in options]
    return [Table([kind, "type", "default", "help"], rows, title)] if rows or title else []


def _settings(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_plain(value)}" for name, value in options.items())


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return format_setting(value)

"""Results: what the runs of an experiment gave, judged, kept in a file, and enough in it to run it again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from ntlab._version import __version__
from ntlab.errors import PluginError, UnknownNameError, UserError
from ntlab.hooks import Mode
from ntlab.lab.claims import Comparison
from ntlab.lab.experiment import Claim, Experiment
from ntlab.lab.options import Place, structure
from ntlab.lab.registry import Registry
from ntlab.lab.runner import Run
from ntlab.lab.statistics import Estimate, estimate, paired_difference
from ntlab.lab.tables import Report, Table, as_columns, counted, format_estimate, format_signed

FORMAT = "ntlab-result-1"
_PACKAGES = ("attrs", "cattrs", "defusedxml", "networkx", "pluggy")


@attrs.frozen(kw_only=True, repr=False)
class ArmResult:
    """An arm over its seeds: means of metrics and counters, and the digest of all traces."""

    name: str
    metrics: dict[str, Estimate]
    units: dict[str, str]
    counters: dict[str, Estimate]
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {
            "metrics": {
                name: {**value.to_json(), "unit": self.units[name]} for name, value in self.metrics.items()
            },
            "counters": {name: value.to_json() for name, value in self.counters.items()},
            "digest": self.digest,
        }


@attrs.frozen(kw_only=True, repr=False)
class ClaimResult:
    """A judged claim. `effect` is the last named arm minus the first, paired by seed; None for one arm."""

    claim: Claim
    experiment: str
    plugin: str | None
    unit: str
    arms: dict[str, Estimate]
    effect: Estimate | None
    comparisons: tuple[Comparison, ...]

    @property
    def holds(self) -> bool:
        return all(comparison.holds for comparison in self.comparisons)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.claim.id,
            "ledger": self.claim.ledger,
            "plugin": self.plugin,
            "experiment": self.experiment,
            "metric": self.claim.metric,
            "unit": self.unit,
            "arms": {name: value.to_json() for name, value in self.arms.items()},
            "effect": None if self.effect is None else self.effect.to_json(),
            "expect": self.claim.expectation.text,
            "comparisons": [
                {
                    "left": comparison.left,
                    "sign": comparison.sign,
                    "right": comparison.right,
                    "difference": comparison.difference.to_json(),
                    "unit": self.unit if comparison.of_metric else "1",
                    "holds": comparison.holds,
                }
                for comparison in self.comparisons
            ],
            "source": self.claim.source,
            "control": self.claim.control,
            "holds": self.holds,
        }


@attrs.frozen(kw_only=True, repr=False)
class ClaimsReport(Report):
    """Judged claims, in the order of plugins and files."""

    claims: tuple[ClaimResult, ...]

    @property
    def holds(self) -> bool:
        """Whether all hold."""
        return all(claim.holds for claim in self.claims)

    def to_json(self) -> dict[str, Any]:
        holding = sum(claim.holds for claim in self.claims)
        return {
            "claims": [claim.to_json() for claim in self.claims],
            "holds": holding,
            "fails": len(self.claims) - holding,
        }

    def columns(self) -> dict[str, list[Any]]:
        """One row for each claim and arm."""
        return as_columns(
            [
                {
                    "id": result.claim.id,
                    "ledger": result.claim.ledger,
                    "plugin": result.plugin,
                    "experiment": result.experiment,
                    "metric": result.claim.metric,
                    "unit": result.unit,
                    "arm": arm,
                    "mean": value.mean,
                    "low": value.low,
                    "high": value.high,
                    "n": value.n,
                    "expect": result.claim.expectation.text,
                    "control": result.claim.control,
                    "holds": result.holds,
                }
                for result in self.claims
                for arm, value in result.arms.items()
            ]
        )

    def tables(self) -> list[Table]:
        """A row for each claim, and below it one for each further arm; then what fails, and by how much."""
        rows = []
        for result in self.claims:
            claim, effect = result.claim, result.effect
            first = [
                "holds" if result.holds else "FAILS",
                f"{claim.id} (control)" if claim.control else claim.id,
                claim.ledger,
                claim.metric,
                "" if effect is None else format_signed(effect, result.unit),
            ]
            for arm, value in result.arms.items():
                rows.append([*first[:4], arm, format_estimate(value, result.unit), first[4]])
                first = [""] * 5
        tables = [Table(["", "claim", "ledger", "metric", "arm", "measured", "effect"], rows)]
        failing = [
            [
                result.claim.id,
                f"{comparison.left} {comparison.sign} {comparison.right}",
                format_signed(comparison.difference, result.unit if comparison.of_metric else "1"),
            ]
            for result in self.claims
            for comparison in result.comparisons
            if not comparison.holds
        ]
        if failing:
            tables.append(Table(["what fails", "expected", "left - right"], failing))
        return tables


@attrs.frozen(kw_only=True, repr=False)
class Result(Report):
    """The runs of an experiment.

    `profiles` holds, for each hardware the experiment names, the whole profile as TOML. `complete` is false
    where the experiment was interrupted; then there are fewer runs, and no claims.
    """

    experiment: Experiment
    runs: tuple[Run, ...]
    hooks: Mode
    profiles: Mapping[str, str]
    versions: Mapping[str, Any]

    @property
    def complete(self) -> bool:
        return len(self.runs) == len(self.experiment.arms) * self.experiment.seeds

    @property
    def arms(self) -> dict[str, ArmResult]:
        """The arms of which at least one run is finished."""
        return {
            name: arm for name in self.experiment.arms if (arm := arm_result(name, self.runs)) is not None
        }

    @property
    def claims(self) -> tuple[ClaimResult, ...]:
        if not self.complete:
            return ()
        return tuple(judge(claim, self.experiment, self.runs) for claim in self.experiment.claims)

    @property
    def holds(self) -> bool:
        """Whether all claims hold."""
        return all(claim.holds for claim in self.claims)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "experiment": self.experiment.name,
            "title": self.experiment.title,
            "hardware": self.experiment.hardware,
            "seeds": self.experiment.seeds,
            "complete": self.complete,
            "arms": {name: arm.to_json() for name, arm in self.arms.items()},
            "claims": [claim.to_json() for claim in self.claims],
            "hooks": self.hooks,
            "runs": [run_to_json(run) for run in self.runs],
            "definition": self.experiment.document(),
            "plugin": self.experiment.plugin,
            "profiles": dict(self.profiles),
            "versions": dict(self.versions),
        }

    def columns(self) -> dict[str, list[Any]]:
        """One row for each run: arm, seed, its metrics and counters."""
        return as_columns(
            [{"arm": run.arm, "seed": run.seed, **run.metrics, **run.counters} for run in self.runs]
        )

    def tables(self) -> list[Table]:
        arms = self.arms
        units = {name: unit for arm in arms.values() for name, unit in arm.units.items()}
        measured = {
            (metric, name): format_estimate(arm.metrics[metric], unit)
            for metric, unit in units.items()
            for name, arm in arms.items()
            if metric in arm.metrics
        }
        if len(arms) <= 3:
            headings = ["metric", *(f"{name}>" for name in arms)]
            rows = [[metric, *(measured.get((metric, name), "") for name in arms)] for metric in units]
        else:
            headings = ["metric", "arm", "measured"]
            shown = dict.fromkeys(units)
            rows = [
                [metric if shown.pop(metric, 0) is None else "", name, text]
                for (metric, name), text in measured.items()
            ]
        state = "" if self.complete else ", interrupted"
        seeds = counted(self.experiment.seeds, "seed")
        title = f"{self.experiment.name} on {self.experiment.hardware}, {seeds}{state}"
        tables = [Table(headings, rows, title)]
        if self.claims:
            tables += ClaimsReport(claims=self.claims).tables()
        if not self.holds and self.experiment.hardware != self.experiment.made_for:
            # The last one says what fails.
            title = f"The claims are made for {self.experiment.made_for}, not for {self.experiment.hardware}."
            tables[-1] = attrs.evolve(tables[-1], title=title)
        return tables

    def write(self, folder: Path) -> Path:
        """Write the result into a folder, whole or not at all. Returns the file.

        An incomplete one has a name of its own: it must not replace a complete one, which supersedes it.
        """
        interrupted = folder / f"{self.experiment.name}.interrupted.json"
        file = folder / f"{self.experiment.name}.json" if self.complete else interrupted
        unfinished = file.with_suffix(".json.part")
        unfinished.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(file)
        if self.complete:
            interrupted.unlink(missing_ok=True)
        return file


def arm_result(name: str, runs: Iterable[Run]) -> ArmResult | None:
    """An arm's runs over their seeds; None where there is none yet."""
    mine = [run for run in runs if run.arm == name]
    if not mine:
        return None
    digest = hashlib.sha256("".join(run.digest for run in mine).encode()).hexdigest()
    first = mine[0]
    return ArmResult(
        name=name,
        metrics={metric: estimate([run.metrics[metric] for run in mine]) for metric in first.metrics},
        units=first.units,
        counters={counter: estimate([run.counters[counter] for run in mine]) for counter in first.counters},
        digest=digest,
    )


def judge(claim: Claim, experiment: Experiment, runs: Sequence[Run]) -> ClaimResult:
    """Judge a claim by the runs of the arms that it names."""
    values = {}
    for arm in (name for name in experiment.arms if name in claim.expectation.arms):
        values[arm] = [run.value(claim.metric) for run in runs if run.arm == arm]
    arms = list(values)
    return ClaimResult(
        claim=claim,
        experiment=experiment.name,
        plugin=experiment.plugin,
        unit=unit_of(claim.metric, [run for run in runs if run.arm in values], experiment.use),
        arms={arm: estimate(of_seeds) for arm, of_seeds in values.items()},
        effect=paired_difference(values[arms[-1]], values[arms[0]]) if len(arms) > 1 else None,
        comparisons=claim.expectation.judge(values),
    )


def unit_of(metric: str, runs: Iterable[Run], use: str) -> str:
    """The unit of a metric in these runs of a workload. Raises PluginError where there are several."""
    units = sorted({run.units.get(metric, "1") for run in runs})
    if len(units) > 1:
        raise PluginError(
            f"the workload measures {metric!r} in several units: {', '.join(units)}",
            plugin=use.partition(".")[0],
        )
    return units[0]


def check_run(run: Run, experiment: Experiment, first: Run) -> None:
    """Check what a run measured against what is claimed of it, and against the `first` run of its arm.

    Raises UnknownNameError for a claim's metric that is not measured, PluginError for a workload whose
    metrics change from seed to seed.
    """
    for claim in experiment.claims:
        if run.arm in claim.expectation.arms and claim.metric not in {**run.metrics, **run.counters}:
            where = f"{experiment.source}: claim {claim.id!r}"
            raise UnknownNameError("metric", claim.metric, [*run.metrics, *run.counters], where=where)
    if run.units != first.units:
        raise PluginError(
            f"the workload {experiment.use!r} gives other metrics for seed {run.seed} than for {first.seed}",
            plugin=experiment.use.partition(".")[0],
        )


def versions(experiments: Iterable[Experiment], registry: Registry) -> dict[str, Any]:
    """The versions of Python, ntlab, the packages below it, and the plugins that these experiments use."""
    plugins = {
        name for experiment in experiments for arm in experiment.arms.values() for name in arm.plugins
    } | {experiment.use.partition(".")[0] for experiment in experiments}
    return {
        "python": platform.python_version(),
        "ntlab": __version__,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "plugins": {
            name: {"distribution": plugin.distribution, "version": plugin.version}
            for name in sorted(plugins)
            if (plugin := registry.plugin(name))
        },
    }


def run_to_json(run: Run) -> dict[str, Any]:
    return attrs.asdict(run, filter=lambda field, _: field.name != "experiment")


@attrs.frozen(kw_only=True)
class Kept:
    """What a result file holds of how it was made: all that it takes to make its runs again."""

    definition: dict[str, Any]
    hooks: str
    runs: tuple[Run, ...]
    profiles: dict[str, str]
    versions: dict[str, Any]
    plugin: str | None = None


class Output:
    """A folder that results are written to. Finished runs are in it at once, whatever happens later.

    Every method raises UserError where the folder cannot be written to (any more).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begun = False
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass

    def journal(self, experiment: Experiment) -> Path:
        """Where finished runs are kept until the result is whole."""
        return self.folder / f"{experiment.name}.runs.jsonl"

    def add(self, experiment: Experiment, run: Run) -> None:
        """Keep a finished run. The first one replaces what an earlier process left when it was killed."""
        mode = "a" if self._begun else "w"
        with self._writing(), self.journal(experiment).open(mode, encoding="utf-8") as journal:
            journal.write(json.dumps(run_to_json(run)) + "\n")
        self._begun = True

    def finish(self, result: Result) -> Path | None:
        """Write the result; its journal has served. Nothing is written, and None returned, without a run."""
        if not result.runs:
            return None
        with self._writing():
            file = result.write(self.folder)
            self.journal(result.experiment).unlink(missing_ok=True)
        return file

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = os.fspath(error.filename or self.folder)
            raise UserError(f"cannot be written to: {error.strerror}", where=where) from None


def read_result(path: Path) -> Kept:
    """A result file's content; or that of the only one in a folder. Raises UserError."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if len(files) != 1:
            shown = ", ".join(file.name for file in files[:8]) + (", ..." if len(files) > 8 else "")
            raise UserError(
                f"holds {len(files)} result files",
                where=str(path),
                expected=f"one of them: {shown}" if files else "one",
            )
        path = files[0]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:  # the latter: nested too deeply
        raise UserError(f"is not JSON: {error}", where=str(path)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError("is not a result of ntlab", where=str(path), expected=f'"format": "{FORMAT}"')
    names = [field.name for field in attrs.fields(Kept)]
    kept = {name: content[name] for name in names if content.get(name) is not None}
    if isinstance(runs := kept.get("runs"), list):
        kept["runs"] = [{**run, "experiment": ""} if isinstance(run, dict) else run for run in runs]
    return structure(kept, Kept, Place(str(path)))  # type: ignore[no-any-return]

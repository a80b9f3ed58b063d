"""Ablation: which of the differences between two arms cause the effect.

Each difference that can be switched by itself is a *factor*: a plugin that only one arm uses, or an option
that they set differently. `plan` chooses factors and a design, and makes an experiment of it, whose arms are
combinations of factors that are on; so a combination is run, kept and run again as any arm is. `Ablation` is
the result of that experiment, and judges it. `docs/ablation.md` says what is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction as Exact
from functools import cached_property
from itertools import combinations
from typing import Any

import attrs

from ntlab.errors import PluginError, UnknownNameError, UserError
from ntlab.lab.designs import Design, Fraction, Full, TooFewError, Weights, apply, bits, design, mask
from ntlab.lab.experiment import Arm, Experiment, Table
from ntlab.lab.options import Place, build_from, options_written, parse_values
from ntlab.lab.registry import Registry
from ntlab.lab.results import Result, unit_of
from ntlab.lab.runner import Run
from ntlab.lab.statistics import Estimate, estimate
from ntlab.lab.tables import Table as Shown
from ntlab.lab.tables import counted, format_estimate, format_setting, format_signed

_WORKLOAD, _HARDWARE = "workload", "hardware"

_BASE = "base"
"""The name of the arm beside the combinations, if there is one."""

Levels = Sequence[Any]
"""What a factor's option is when it is off, and when it is on."""


# Factors


@attrs.frozen
class Change:
    """One difference: what is there when it is off, and when it is on.

    `owner` is a plugin, "workload" or "hardware". Without an `option` it is the plugin itself, which is None
    where it is not used and else the table of its options; or the hardware, which is its name.
    """

    owner: str
    option: str
    off: Any
    on: Any

    @property
    def name(self) -> str:
        return f"{self.owner}.{self.option}" if self.option else self.owner

    @property
    def is_plugin(self) -> bool:
        return not self.option and self.owner != _HARDWARE

    @property
    def adds(self) -> bool:
        return self.is_plugin and self.off is None

    @property
    def removes(self) -> bool:
        return self.is_plugin and self.on is None

    def shown(self, value: Any) -> str:
        if self.is_plugin:
            return "not used" if value is None else "used"
        return format_setting(value)


@attrs.frozen
class Factor:
    """Differences that are switched together; nearly always one."""

    name: str
    changes: tuple[Change, ...]

    @property
    def off(self) -> str:
        return ", ".join(change.shown(change.off) for change in self.changes)

    @property
    def on(self) -> str:
        return ", ".join(change.shown(change.on) for change in self.changes)


def differences(base: Arm, full: Arm) -> list[Change]:
    """In what two arms differ, plugins first."""
    found = []
    for name in dict.fromkeys([*full.plugins, *base.plugins]):
        off, on = base.plugins.get(name), full.plugins.get(name)
        if off is None or on is None:
            found.append(Change(name, "", off, on))
        else:
            found += _different_options(name, off, on)
    found += _different_options(_WORKLOAD, base.workload, full.workload)
    if base.hardware != full.hardware:
        found.append(Change(_HARDWARE, "", base.hardware, full.hardware))
    return found


def _different_options(owner: str, off: Table, on: Table) -> list[Change]:
    return [
        Change(owner, option, off.get(option), on.get(option))
        for option in dict.fromkeys([*off, *on])
        if off.get(option) != on.get(option)
    ]


def combined(base: Arm, factors: Sequence[Factor], on: Iterable[int], registry: Registry, name: str) -> Arm:
    """The arm in which these factors are on and the others off. Raises UserError where it cannot be."""
    switched = set(on)
    plugins = {plugin: dict(options) for plugin, options in base.plugins.items()}
    workload, hardware = dict(base.workload), base.hardware
    changes = [
        (change, change.on if at in switched else change.off)
        for at, factor in enumerate(factors)
        for change in factor.changes
    ]
    for change, value in sorted(changes, key=lambda of: bool(of[0].option)):  # plugins, then their options
        if change.owner == _HARDWARE:
            hardware = value
        elif change.is_plugin:
            plugins.pop(change.owner, None)
            if value is not None:
                plugins[change.owner] = dict(value)
        else:
            options = workload if change.owner == _WORKLOAD else plugins.get(change.owner, {})
            options.pop(change.option, None)
            if value is not None:
                options[change.option] = value
    title = " and ".join(factor.name for at, factor in enumerate(factors) if at in switched)
    order = registry.solve(plugins, f"with {title or 'nothing'} on")
    return Arm(
        name=name,
        title=title,
        hardware=hardware,
        plugins={plugin: plugins[plugin] for plugin in order},
        workload=workload,
    )


def _like(arm: Arm, other: Arm) -> Arm:
    return attrs.evolve(other, name=arm.name, title=arm.title)


def parse_factor(text: str) -> tuple[str, Levels | None]:
    """Name and levels of ``--factor``: NAME, NAME+NAME or NAME=OFF,ON, the values as those of ``--set``."""
    name, equals, values = text.partition("=")
    name = name.strip()
    if not equals:
        return name, None
    return name, parse_values(values)


class _Choice:
    """Which factors there are: each difference between the arms, and what is asked for besides.

    Where a difference is asked for by its name, only those that are named are switched by themselves, and
    the rest together.
    """

    def __init__(self, base: Arm, full: Arm, experiment: Experiment, registry: Registry) -> None:
        self._full = full
        self._use = experiment.use
        self._registry = registry
        self._left = {change.name: change for change in differences(base, full)}
        self._known = list(self._left)

    def factors(self, asked: Sequence[tuple[str, Levels | None]]) -> tuple[Factor, ...]:
        found = []
        for name, levels in asked:
            parts = [part.strip() for part in name.split("+")] if levels is None else [name]
            found.append(Factor(" + ".join(parts), tuple(self._take(part, levels) for part in parts)))
        named = any(name in self._known for name, levels in asked if levels is None)
        if named and len(self._left) > 1:
            found.append(Factor("the rest", tuple(self._left.values())))
        else:
            found += [Factor(name, (change,)) for name, change in self._left.items()]
        taken = [change.name for factor in found for change in factor.changes]
        for name in taken:
            if taken.count(name) > 1:
                raise UserError(f"{name!r} is asked for twice", where="--factor")
        return tuple(found)

    def _take(self, name: str, levels: Levels | None) -> Change:
        if levels is None:
            return self._left.pop(name) if name in self._left else self._plugin(name)
        if len(levels) != 2:
            raise UserError(f"{name!r} has {len(levels)} levels", where="--factor", expected=f"{name}=OFF,ON")
        self._left.pop(name, None)
        owner, _, option = name.rpartition(".")
        if not owner and name != _HARDWARE:
            raise UserError(f"{name!r} takes no levels", where="--factor", expected="PLUGIN.OPTION=OFF,ON")
        off, on = levels if name == _HARDWARE else (self._written(owner, option, level) for level in levels)
        if off == on:
            raise UserError(f"{name!r} is {off} in both", where="--factor", expected="two levels that differ")
        return Change(owner or name, option if owner else "", off, on)

    def _plugin(self, name: str) -> Change:
        """A plugin in which the arms do not differ: it is off where it is not used."""
        if name in self._known:
            raise UserError(f"{name!r} is asked for twice", where="--factor")
        if name in self._registry.names():
            options = self._full.plugins.get(name)
            if options is None:
                options = options_written(self._registry.plugin(name).info.cls())
            return Change(name, "", None, options)
        if name == _HARDWARE or name.rpartition(".")[0] in (_WORKLOAD, *self._full.plugins):
            what = f"{name!r} is the same in both arms"
            raise UserError(what, where="--factor", expected=f"{name}=OFF,ON")
        raise UnknownNameError("factor", name, [*self._known, *self._registry.names()], where="--factor")

    def _written(self, owner: str, option: str, value: Any) -> Any:
        """A level that the user gives, checked and in the form in which arms hold it."""
        place = Place("--factor", (owner,))
        if owner == _WORKLOAD:
            cls, options = self._registry.workload(self._use).cls, self._full.workload
        else:
            cls = self._registry.plugin(owner, str(place)).info.cls
            if owner not in self._full.plugins:
                raise UserError(
                    f"has no effect: the arm {self._full.name!r} does not use the plugin", where=str(place)
                )
            options = self._full.plugins[owner]
        return options_written(build_from(cls, {**options, option: value}, place)).get(option)


def needed(factors: Sequence[Factor], registry: Registry) -> list[int]:
    """For each factor the others that must be on where it is, as a combination; see `Design.needs`.

    A plugin needs those it requires, and that those it conflicts with are gone; an option needs its plugin.
    """

    def needs(one: Change, other: Change) -> bool:
        if one.option:
            return other.adds and one.owner == other.owner
        if not one.is_plugin or not other.is_plugin:
            return False
        of_one, of_other = registry.plugin(one.owner).info, registry.plugin(other.owner).info
        if one.adds and other.adds:
            return other.owner in of_one.requires
        if one.removes and other.removes:
            return one.owner in of_other.requires
        return one.adds and (other.owner in of_one.conflicts or one.owner in of_other.conflicts)

    found = [
        mask(
            at
            for at, other in enumerate(factors)
            if other is not factor and any(needs(a, b) for a in factor.changes for b in other.changes)
        )
        for factor in factors
    ]
    for _ in factors:  # as often as the longest chain is long, and more
        found = [
            mask(bits(others) + [at for other in bits(others) for at in bits(found[other])])
            for others in found
        ]
    circle = [factor.name for at, factor in enumerate(factors) if found[at] >> at & 1]
    if circle:
        raise UserError(
            f"{' and '.join(map(repr, circle))} need each other",
            where="--factor",
            expected="that they are switched together, as NAME+NAME",
        )
    return found


def _with_neutral(base: Arm, full: Arm, name: str, registry: Registry) -> Arm:
    """The base with a plugin that only the full arm uses, and that changes nothing there."""
    if name not in full.plugins or name in base.plugins:
        only = [plugin for plugin in full.plugins if plugin not in base.plugins]
        raise UnknownNameError(f"plugin that only the arm {full.name!r} uses", name, only, where="--split")
    info = registry.plugin(name).info
    if info.neutral is None:
        raise UserError(
            f"the plugin {name!r} does not say with which options it changes nothing",
            where="--split",
            expected=f"--factor {name}.OPTION=OFF,ON",
        )
    place = Place("--split", (name,))
    built = build_from(info.cls, {**full.plugins[name], **info.neutral}, place)
    return attrs.evolve(base, plugins={**base.plugins, name: options_written(built)})


# The plan


@attrs.frozen(kw_only=True)
class Plan:
    """What is switched, between which arms, and in which combinations.

    `base` and `full` are arms, which `ends` says again where all off and all on are just these, and not with
    levels of the user's own. `split` are the plugins that are taken apart; `order` is how many factors the
    largest interactions to be shown have.
    """

    experiment: str
    base: str
    full: str
    ends: tuple[str, str]
    factors: tuple[Factor, ...]
    split: tuple[str, ...]
    design: Design
    order: int

    def arm(self, combination: int) -> str:
        """The name of a combination's arm: a 1 for each factor that is on, in their order."""
        return "c_" + "".join(str(combination >> at & 1) for at in self.design.factors)

    def on(self, arm: str) -> list[str]:
        """The factors that are on in an arm of that name."""
        digits = arm.removeprefix("c_")
        return [factor.name for factor, digit in zip(self.factors, digits, strict=False) if digit == "1"]

    @property
    def labels(self) -> dict[str, str]:
        """The factors' names, without the plugin's where they differ without it."""
        short = {factor.name: factor.name.rpartition(".")[2] for factor in self.factors}
        return {
            name: label if list(short.values()).count(label) == 1 and "+" not in name else name
            for name, label in short.items()
        }

    def names(self, factors: Iterable[int]) -> list[str]:
        return [self.factors[at].name for at in factors]


def plan(
    experiment: Experiment,
    registry: Registry,
    *,
    base: str | None,
    full: str | None,
    factors: Sequence[tuple[str, Levels | None]],
    split: Sequence[str],
    runs: int,
    order: int,
) -> tuple[Plan, Experiment]:
    """Choose what to run, and the experiment that runs it. Raises UserError for what cannot be."""
    arms = list(experiment.arms)
    for arm, where in ((base, "--base"), (full, "--full")):
        if arm is not None and arm not in arms:
            raise UnknownNameError("arm", arm, arms, where=where)
    low = experiment.arms[arms[0] if base is None else base]
    high = experiment.arms[arms[-1] if full is None else full]
    for name in split:
        low = _with_neutral(low, high, name, registry)
    chosen = _Choice(low, high, experiment, registry).factors(factors)
    if not chosen:
        what = f"the arms {low.name!r} and {high.name!r} do not differ"
        if len(arms) == 1:
            what = f"the arm {low.name!r} is the only one"
        raise UserError(
            what, where=experiment.source, expected="--base and --full, or --factor NAME=OFF,ON, that do"
        )
    if order < 1:
        raise UserError(f"{order} factors", where="--order", expected="at least 1")
    needs = needed(chosen, registry)
    # With plugins taken apart, the base itself is run as well: it must be what their neutral options are.
    beside = [attrs.evolve(experiment.arms[low.name], name=_BASE)] if split else []
    try:
        made = design(needs, runs // experiment.seeds - len(beside))
    except TooFewError as error:
        least = (error.least + len(beside)) * experiment.seeds
        expected = f"at least {least}, or fewer seeds or factors"
        nested = next((at for at, others in enumerate(needs) if others), None)
        if nested is not None:
            other = chosen[bits(needs[nested])[0]].name
            expected += (
                f"; {chosen[nested].name!r} needs {other!r}, so all combinations must be run"
                f" (--factor '{chosen[nested].name}+{other}' switches both together)"
            )
        what = f"{runs} runs are too few for {len(chosen)} factors and {experiment.seeds} seeds"
        raise UserError(what, where="--runs", expected=expected) from None
    if order > 2 and isinstance(made, Fraction):
        raise UserError(
            f"interactions of {order} factors cannot be told in {len(made.points)} of"
            f" {1 << len(chosen)} combinations",
            where="--order",
            expected=f"at most 2, or --runs {((1 << len(chosen)) + len(beside)) * experiment.seeds}",
        )
    every = range(len(chosen))
    planned = Plan(
        experiment=experiment.name,
        base=low.name,
        full=high.name,
        ends=(
            low.name if low == _like(low, combined(low, chosen, (), registry, "")) else "",
            high.name if high == _like(high, combined(low, chosen, every, registry, "")) else "",
        ),
        factors=chosen,
        split=tuple(split),
        design=made,
        order=order,
    )
    combos = [
        combined(low, chosen, bits(combination), registry, planned.arm(combination))
        for combination in made.combinations
    ]
    return planned, attrs.evolve(
        experiment,
        name=f"{experiment.name}.ablation",
        title=f"What differs between {low.name} and {high.name}, switched one by one",
        arms={arm.name: arm for arm in [*beside, *combos]},
        claims=(),
    )


# The result


@attrs.frozen(kw_only=True)
class FactorEffect:
    """What a factor does. `shapley`, and its `share` of the whole effect, are None for a fraction; the share
    also where the whole may be 0. `main` includes half of each of the `aliases`, interactions of two."""

    factor: Factor
    needs: tuple[str, ...]
    alone: Estimate
    last: Estimate
    main: Estimate
    shapley: Estimate | None
    share: float | None
    aliases: tuple[tuple[str, ...], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.factor.name,
            "changes": [
                {"name": change.name, "off": change.off, "on": change.on} for change in self.factor.changes
            ],
            "needs": list(self.needs),
            "alone": self.alone.to_json(),
            "last": self.last.to_json(),
            "main": self.main.to_json(),
            "shapley": None if self.shapley is None else self.shapley.to_json(),
            "share": self.share,
            "aliases": [list(names) for names in self.aliases],
        }


@attrs.frozen(kw_only=True)
class Interaction:
    """What factors do together, beyond what they do apart. `effect` includes the `aliases`: others of as many
    factors, and half of those of one more."""

    factors: tuple[str, ...]
    effect: Estimate
    aliases: tuple[tuple[str, ...], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "factors": list(self.factors),
            "effect": self.effect.to_json(),
            "aliases": [list(names) for names in self.aliases],
        }


@attrs.frozen(kw_only=True, repr=False, slots=False)
class Ablation(Result):
    """The runs of all combinations, and what they say of a metric. Effects are in the metric's unit.

    `columns()` has one row a run: arm, seed, whether each factor is on, metrics and counters.
    """

    plan: Plan
    metric: str

    def of(self, metric: str) -> Ablation:
        """The same runs, judged by another metric or counter. Raises UnknownNameError."""
        check = Check(self.plan, self.experiment.use, metric)
        for run in self.runs:
            check(run)
        return attrs.evolve(self, metric=metric)

    @property
    def unit(self) -> str:
        return self.runs[0].units.get(self.metric, "1")

    @cached_property
    def values(self) -> dict[int, list[float]]:
        """The metric, for each combination one value a seed. Raises UserError where runs are missing."""
        if not self.complete:
            raise UserError(
                f"{len(self.runs)} runs are finished", where=self.experiment.name, expected="all of them"
            )
        of_arm: dict[str, list[float]] = {}
        for run in self.runs:
            of_arm.setdefault(run.arm, []).append(run.value(self.metric))
        return {
            combination: of_arm[self.plan.arm(combination)] for combination in self.plan.design.combinations
        }

    def estimate(self, weights: Weights) -> Estimate:
        """What weights say of the metric: exactly for each seed, then over the seeds."""
        scale = max(abs(value) for of_seeds in self.values.values() for value in of_seeds)
        return estimate(
            [
                _settled(apply(weights, {at: self.values[at][seed] for at in weights}), scale)
                for seed in range(self.experiment.seeds)
            ]
        )

    @property
    def whole(self) -> Estimate:
        """Everything on minus everything off."""
        return self.estimate(self.plan.design.whole)

    @cached_property
    def factors(self) -> tuple[FactorEffect, ...]:
        design, whole = self.plan.design, self.whole
        known = whole.low > 0 or whole.high < 0
        found = []
        for at, factor in enumerate(self.plan.factors):
            shapley = self.estimate(design.shapley(at)) if isinstance(design, Full) else None
            found.append(
                FactorEffect(
                    factor=factor,
                    needs=tuple(self.plan.names(bits(design.needs[at]))),
                    alone=self.estimate(design.alone(at)),
                    last=self.estimate(design.last(at)),
                    main=self.estimate(design.main(at)),
                    shapley=shapley,
                    share=shapley.mean / whole.mean if shapley is not None and known else None,
                    aliases=self._aliases((at,)),
                )
            )
        return tuple(found)

    @cached_property
    def interactions(self) -> tuple[Interaction, ...]:
        """Those of two factors, up to as many as the plan says. In a fraction only those that are no alias
        of a factor, and one of those that are aliases of each other."""
        return tuple(
            Interaction(
                factors=tuple(self.plan.names(some)),
                effect=self.estimate(weights),
                aliases=self._aliases(some),
            )
            for some, weights in self._interactions()
        )

    def _interactions(self) -> Iterator[tuple[tuple[int, ...], Weights]]:
        design = self.plan.design
        for size in range(2, self.plan.order + 1):
            for some in combinations(design.factors, size):
                weights = design.interaction(some)
                first = all((len(alias), alias) > (size, some) for alias in self._alias_sets(some))
                if weights and first:
                    yield some, weights

    def _alias_sets(self, some: tuple[int, ...]) -> list[tuple[int, ...]]:
        design = self.plan.design
        return design.aliases(some, len(some) + 1) if isinstance(design, Fraction) else []

    def _aliases(self, some: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(self.plan.names(alias)) for alias in self._alias_sets(some))

    def to_json(self) -> dict[str, Any]:
        """The result file of the combinations as an experiment, and what was found by them."""
        return {**super().to_json(), "ablation": self._found() if self.complete else None}

    def _found(self) -> dict[str, Any]:
        design = self.plan.design
        return {
            "experiment": self.plan.experiment,
            "base": self.plan.base,
            "full": self.plan.full,
            "metric": self.metric,
            "unit": self.unit,
            "design": {
                "kind": "fraction" if isinstance(design, Fraction) else "full",
                "resolution": design.resolution if isinstance(design, Fraction) else None,
                "generators": {
                    self.plan.factors[at].name: self.plan.names(others)
                    for at, others in (design.generators if isinstance(design, Fraction) else {}).items()
                },
            },
            "combinations": [
                {
                    "arm": self.plan.arm(combination),
                    "on": self.plan.names(bits(combination)),
                    "value": estimate(of_seeds).to_json(),
                }
                for combination, of_seeds in self.values.items()
            ],
            "whole": self.whole.to_json(),
            "factors": [factor.to_json() for factor in self.factors],
            "interactions": [interaction.to_json() for interaction in self.interactions],
        }

    def columns(self) -> dict[str, list[Any]]:
        columns = super().columns()
        switched = {
            factor.name: [factor.name in self.plan.on(arm) for arm in columns["arm"]]
            for factor in self.plan.factors
        }
        return {"arm": columns.pop("arm"), "seed": columns.pop("seed"), **switched, **columns}

    def tables(self) -> list[Shown]:
        if not self.complete:
            return super().tables()
        return [
            self._ends_table(),
            self._factors_table(),
            *self._needs_table(),
            *self._aliases_table(),
            *self._interactions_table(),
        ]

    def _ends_table(self) -> Shown:
        design, experiment = self.plan.design, self.experiment
        run = f"all {len(design.combinations)} combinations"
        if isinstance(design, Fraction):
            run = f"{len(design.combinations)} of {1 << len(design.factors)} combinations"
        low, high = (f" ({arm})" if arm else "" for arm in self.plan.ends)
        ends = [self.values[0], self.values[design.everything]]
        off, on = (format_estimate(estimate(values), self.unit) for values in ends)
        return Shown(
            ["", f"{self.metric}>"],
            [
                [f"all off{low}", off],
                [f"all on{high}", on],
                ["effect", format_signed(self.whole, self.unit)],
            ],
            f"{self.plan.experiment} on {experiment.hardware}, {counted(experiment.seeds, 'seed')}, {run}",
        )

    def _factors_table(self) -> Shown:
        rows = []
        for found in sorted(self.factors, key=lambda found: -abs((found.shapley or found.main).mean)):
            row = [found.factor.name, found.factor.off, found.factor.on]
            row += [format_signed(effect, self.unit) for effect in (found.alone, found.last, found.main)]
            if found.shapley is not None:
                row.append(format_signed(found.shapley, self.unit))
                row.append("" if found.share is None else f"{round(found.share, 3) + 0.0:.1%}")
            rows.append(row)
        headings = ["factor", "off", "on", "alone>", "last>", "on average>"]
        if isinstance(self.plan.design, Full):
            headings += ["Shapley>", "share>"]
        return Shown(headings, rows)

    def _needs_table(self) -> list[Shown]:
        rows = [[found.factor.name, ", ".join(found.needs)] for found in self.factors if found.needs]
        return [Shown(["is only where", "is on"], rows)] if rows else []

    def _aliases_table(self) -> list[Shown]:
        design = self.plan.design
        if not isinstance(design, Fraction):
            return []
        rows = [
            [self.plan.labels[one.factor.name], self._mixed((), one.aliases)]
            for one in self.factors
            if one.aliases
        ]
        rows.append(["each average", f"interactions of {design.resolution - 1} factors or more"])
        rows.append(["each interaction of 2", f"those of {max(design.resolution - 2, 2)} or more"])
        title = f"{len(design.points)} combinations are a fraction of resolution {_roman(design.resolution)}"
        return [Shown(["in", "is included"], rows, title)]

    def _mixed(self, names: Sequence[str], aliases: Iterable[Sequence[str]]) -> str:
        """An interaction and its aliases, each as often as it counts: "a x b + c x d + e x f x g / 2"."""
        label = self.plan.labels
        own = [" x ".join(label[name] for name in names)] if names else []
        others = [
            " x ".join(label[name] for name in some) + (" / 2" if len(some) > max(len(names), 1) else "")
            for some in aliases
        ]
        return " + ".join(own + others)

    def _interactions_table(self) -> list[Shown]:
        rows = [
            [self._mixed(found.factors, found.aliases), format_signed(found.effect, self.unit)]
            for found in sorted(self.interactions, key=lambda found: -abs(found.effect.mean))
            if found.effect.low != 0 or found.effect.high != 0
        ]
        zero = len(self.interactions) - len(rows)
        if zero:
            rows.append([f"{'all' if not rows else 'the other'} {zero}", "0"])
        return [Shown(["together", "more than apart>"], rows)] if rows else []


class Check:
    """Checks each run as it comes, before more are made. Raises UnknownNameError where the metric is not
    measured, and PluginError where it has several units, or where the neutral options of a plugin that is
    taken apart change something."""

    def __init__(self, plan: Plan, use: str, metric: str) -> None:
        self._plan, self._use, self._metric = plan, use, metric
        self._first: Run | None = None
        self._digests: dict[int, str] = {}

    def __call__(self, run: Run) -> None:
        if self._metric not in run.metrics and self._metric not in run.counters:
            on = " and ".join(self._plan.on(run.arm)) or "nothing"
            where = f"--metric, with {on} on"
            raise UnknownNameError("metric", self._metric, [*run.metrics, *run.counters], where=where)
        self._first = self._first or run
        unit_of(self._metric, (self._first, run), self._use)
        alike = run.arm == _BASE or (self._plan.split and run.arm == self._plan.arm(0))
        if alike and self._digests.setdefault(run.seed, run.digest) != run.digest:
            raise PluginError(
                f"with its neutral options it changes the arm {self._plan.base!r}",
                plugin=" or ".join(self._plan.split),
            )


def _roman(number: int) -> str:
    tens, ones = divmod(number, 10)
    return "X" * tens + ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"][ones]


def _settled(contrast: Exact, scale: float) -> float:
    """A contrast to twelve digits of the largest value. What is below is the rounding of the metric itself:
    0.3 - 0.2 - 0.1 is 0, and seeds that agree do so exactly."""
    if scale == 0:
        return 0.0
    step = Exact(2) ** (math.frexp(scale)[1] - 40)
    return float(round(contrast / step) * step)

"""In which order the plugins of an experiment are asked, why, and whom each hook calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from ntlab.hooks import bind
from ntlab.lab.experiment import Arm, Experiment
from ntlab.lab.options import Place, build_from
from ntlab.lab.reference import Answer, Kind, answers, kind_of
from ntlab.lab.registry import Registry, installed
from ntlab.lab.tables import Report, Table, as_columns


@attrs.frozen(kw_only=True)
class ArmOrder:
    """The order in some arms, which have the same. The plugin asked first is the first.

    `why[i]` says why the plugin i is asked before the one that follows; `hooks` has the calls of each hook
    that somebody implements, as they are bound; `idle` what plugins say of others that are not installed.
    """

    arms: tuple[str, ...]
    plugins: tuple[str, ...]
    why: tuple[str, ...]
    hooks: dict[str, tuple[Kind, tuple[Answer, ...]]]
    idle: tuple[str, ...]


@attrs.frozen(kw_only=True, repr=False)
class PluginOrder(Report):
    """The order of an experiment's plugins, arm by arm."""

    experiment: str
    orders: tuple[ArmOrder, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "orders": [
                {
                    "arms": list(order.arms),
                    "plugins": list(order.plugins),
                    "why": list(order.why),
                    "idle": list(order.idle),
                    "hooks": {
                        name: {"kind": kind, "calls": [answer.to_json() for answer in calls]}
                        for name, (kind, calls) in order.hooks.items()
                    },
                }
                for order in self.orders
            ],
        }

    def columns(self) -> dict[str, list[Any]]:
        """One row for each arm, hook and call."""
        return as_columns(
            [
                {"arm": arm, "hook": name, "kind": kind, "place": at, **answer.to_json()}
                for order in self.orders
                for arm in order.arms
                for name, (kind, calls) in order.hooks.items()
                for at, answer in enumerate(calls, 1)
            ]
        )

    def tables(self) -> list[Table]:
        tables = []
        for order in self.orders:
            title = f"{self.experiment}: {', '.join(order.arms)}"
            rows = [[str(at), name] for at, name in enumerate(order.plugins, 1)]
            because = [*order.why, ""]
            tables.append(
                Table(
                    [">", "plugin", "before the next, because"],
                    [[*row, reason] for row, reason in zip(rows, because, strict=True)],
                    title,
                )
            )
            hooks = [[name, kind, ", ".join(map(str, calls))] for name, (kind, calls) in order.hooks.items()]
            if hooks:
                tables.append(Table(["hook", "kind", "who is called, in this order"], hooks))
            if order.idle:
                tables.append(Table(["without effect"], [[line] for line in order.idle]))
        return tables


def order_of(experiment: Experiment, arms: Iterable[str]) -> PluginOrder:
    """The order in these arms. Raises PluginError where a plugin's hooks cannot be bound."""
    registry = installed()
    orders: list[ArmOrder] = []
    for name in arms:
        order = _order(experiment.arms[name], registry)
        for at, known in enumerate(orders):
            if attrs.evolve(known, arms=order.arms) == order:
                orders[at] = attrs.evolve(known, arms=(*known.arms, name))
                break
        else:
            orders.append(order)
    return PluginOrder(experiment=experiment.name, orders=tuple(orders))


def _order(arm: Arm, registry: Registry) -> ArmOrder:
    from ntlab.machine.machine import hook_manager

    plugins = [
        build_from(registry.plugin(name).info.cls, options, Place(name))
        for name, options in arm.plugins.items()
    ]
    manager = hook_manager(plugins[::-1])  # a machine takes the most basic first
    bind(manager)
    kinds = {
        name: kind_of(caller.spec.function) for name, caller in vars(manager.hook).items() if caller.spec
    }
    names = list(arm.plugins)
    return ArmOrder(
        arms=(arm.name,),
        plugins=tuple(names),
        why=tuple(registry.why(names)),
        hooks={name: (kinds[name], calls) for name, calls in answers(manager).items() if name in kinds},
        idle=tuple(registry.idle(names)),
    )

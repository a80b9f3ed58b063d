"""Memory modules that wear out, and a chassis whose fans and power supplies report."""

from __future__ import annotations

from collections import Counter
from random import Random

from contoso_pshed.parts import chassis_parts, label
from contoso_pshed.records import read_log
from ntlab import Duration, Metric, option, state, workload
from ntlab.machine import Component, HardwareError, Machine
from ntlab.machine.hardware_errors import components

OWNER = "contoso_pshed.wear"
HOUR = 3_600_000_000_000


@workload(
    name="wear", summary="Some memory modules wear out, others have a stray error; the chassis reports."
)
class Wear:
    """A module that wears out has corrected errors at a rising rate, and in the end one that is not: then it
    is replaced. Field studies find such series; this one's shape is made up. The same errors come in every
    arm, but those that come while the machine is down do not happen.
    """

    worn: int = option(default=4, help="How many memory modules wear out.", minimum=0)
    errors: int = option(default=20, help="Corrected errors of each before it fails.", minimum=0)
    life: Duration = option(default=Duration(720 * HOUR), help="From first to last error.", minimum=1)
    strays: int = option(default=12, help="Single corrected errors of modules that are sound.", minimum=0)
    reports: int = option(default=10, help="What fans and power supplies report.", minimum=0)
    span: Duration = option(default=Duration(1440 * HOUR), help="In which all of that happens.", minimum=1)
    restart_time: Duration = option(
        default=Duration(120_000_000_000), help="From a crash to the next boot.", minimum=0
    )

    _worn: list[Component] = state(list)
    _left: list[tuple[int, HardwareError]] = state(list)
    """Times and errors still to come, the next one last."""
    _happened: list[tuple[int, HardwareError]] = state(list)
    _crashes: int = state(int)

    def start(self, machine: Machine) -> None:
        stream = machine.streams.stream(OWNER, "errors")
        modules = [c for c in components(machine.tables) if c.kind == "memory"]
        stream.shuffle(modules)
        self._worn, sound = modules[: self.worn], modules[self.worn :]
        coming = [error for module in self._worn for error in self._wear_out(stream, module)]
        chassis = [Component("pci", device) for device in chassis_parts(machine.tables)]
        for parts, count in ((sound, self.strays), (chassis, self.reports)):
            if parts:
                coming += [
                    (stream.randrange(self.span), HardwareError(component=part, severity="corrected"))
                    for part in stream.choices(parts, k=count)
                ]
        coming.sort(key=lambda one: one[0], reverse=True)
        self._left = coming
        self._next(machine)

    def _wear_out(self, stream: Random, module: Component) -> list[tuple[int, HardwareError]]:
        born = stream.randrange(max(1, self.span - self.life))
        found = [
            # The density of errors grows with the square of the module's age.
            (
                born + int(self.life * stream.random() ** (1 / 3)),
                HardwareError(component=module, severity="corrected"),
            )
            for _ in range(self.errors)
        ]
        return [*found, (born + self.life, HardwareError(component=module, severity="recoverable"))]

    def restart(self, machine: Machine) -> Machine:
        self._crashes += 1
        again = machine.restart(self.restart_time)
        while self._left and self._left[-1][0] < again.engine.now:
            self._left.pop()
        self._next(again)
        return again

    def _next(self, machine: Machine) -> None:
        if self._left:
            machine.engine.at(self._left[-1][0], self._fail, machine)

    def _fail(self, machine: Machine) -> None:
        time, error = self._left.pop()
        self._happened.append((time, error))
        self._next(machine)
        machine.hardware_errors.occur(error)

    # -- what the event log tells, against what happened ---------------------------------------------------

    def measure(self, machine: Machine) -> list[Metric]:
        log = list(read_log(machine.nonvolatile.log))
        named = Counter(entry.part for entry in log if entry.part)
        happened = Counter(label(machine.tables, error.component) for _, error in self._happened)
        chassis = {machine.tables.devices[device].name for device in chassis_parts(machine.tables)}
        warned: dict[str, int] = {}
        for entry in log:
            if entry.warns:
                warned.setdefault(entry.part, entry.time)
        failed = {
            label(machine.tables, error.component): time
            for time, error in self._happened
            if error.severity != "corrected"
        }
        leads = [time - warned[part] for part, time in failed.items() if part in warned]
        worn = {label(machine.tables, module) for module in self._worn}
        return [
            Metric("crashes", self._crashes),
            Metric("failures", len(failed)),
            Metric("named_share", _share((named & happened).total(), happened.total())),
            Metric(
                "chassis_reports", sum(count for part, count in (named & happened).items() if part in chassis)
            ),
            Metric("warned_share", _share(len(leads), len(failed))),
            Metric("lead", sum(leads) / len(leads) if leads else 0, "ns"),
            Metric("false_alarms", len(warned.keys() - worn)),
        ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

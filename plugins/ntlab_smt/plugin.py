"""What the processors of one core do together: more than one of them alone, less than two cores."""

from __future__ import annotations

from collections.abc import Sequence

from ntlab.errors import UserError
from ntlab.hooks import hookimpl
from ntlab.machine import NOMINAL, Machine
from ntlab.plugin import option, plugin
from ntlab_smt.workloads import Bursts, Hogs, Pair


@plugin(
    name="smt",
    summary="The processors of a core (hyper-threads) share what it does.",
    release=None,  # hardware: all releases ran on it, 2000 without knowing
    ledger=("P4",),
    requires=("ws2003",),
    workloads=(Bursts, Hogs, Pair),
    neutral={"throughput": []},
)
class Smt:
    throughput: tuple[float, ...] = option(
        default=(1.25,),
        help="What a core does with two busy processors, with three, and so on, of what it does with one; the"
        " last holds for more. Nothing stated: n processors do n times as much.",
    )
    allow_loss: bool = option(
        default=False, help="Whether two busy processors of a core may do less than one."
    )
    uneven_cores: bool = option(
        default=False, help="Whether the cores of a machine may have different numbers of processors."
    )

    @hookimpl
    def core_throughput(self, machine: Machine) -> Sequence[int] | None:
        if not self.throughput:
            return None
        tables = machine.tables
        sizes = sorted({len(core) for core in tables.core_processors})
        if len(sizes) > 1 and not self.uneven_cores:
            raise UserError(
                f"{tables.name} has cores of {' and of '.join(map(str, sizes))} processors",
                where="smt.throughput",
                expected="all alike, or uneven_cores = true",
            )
        done = [1.0, *self.throughput]
        done += done[-1:] * (sizes[-1] - len(done))
        for busy, factor in enumerate(done[: max(sizes[-1], 2)], 1):
            if not factor <= busy:
                raise UserError(
                    f"{busy} processors of a core do {factor:g} times what one does",
                    where="smt.throughput",
                    expected=f"at most {busy}",
                )
            if factor < 1 and not (self.allow_loss and factor > 0):
                raise UserError(
                    f"{busy} processors of a core do {factor:g} times what one does",
                    where="smt.throughput",
                    expected="more than 0" if self.allow_loss else "1 or more, or allow_loss = true",
                )
        return [round(factor * NOMINAL) for factor in done[: sizes[-1]]]

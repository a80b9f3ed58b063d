"""Memory of which some cells are weak, and all are hit now and then."""

from __future__ import annotations

from attrs import define

from ntlab.errors import UserError
from ntlab.machine import Component, HardwareError, Machine, Region
from ntlab.machine.extents import BAD
from ntlab.machine.hardware_errors import Severity
from ntlab.plugin import Metric, option, state, workload
from ntlab.quantities import SECOND, Duration, Share

OWNER = "memory_pfa.weak_cells"


@define(eq=False)
class _Page:
    """A page with weak cells: where, when they correct errors, and when one cannot be corrected."""

    frame: int
    warnings: list[int]
    fails: int
    fixed: bool
    failed: bool = False


@workload(
    name="weak_cells", summary="Pages with weak cells fail after more or fewer warnings; others are hit once."
)
class WeakCells:
    """`weak` pages fail, a part of them, `fixed`, in the non-paged pool, the others in a program's data: each
    at a time of its own, after `fewest` to `most` corrected errors (each factor as likely) that come faster
    and faster. `hits` other pages have one corrected error each: particles, not wear.
    """

    weak: int = option(default=16, help="Pages that will fail.", minimum=1)
    fixed: Share = option(default=Share(0.25), help="The part of them that is in the non-paged pool.")
    hits: int = option(default=60, help="Other pages that have one corrected error.", minimum=0)
    fewest: int = option(default=4, help="Fewest warnings of one that will fail.", minimum=1)
    most: int = option(default=64, help="Most warnings of one that will fail.", minimum=1)
    span: Duration = option(
        default=Duration(3600 * 20 * SECOND), help="Within what time that happens.", minimum=1
    )

    _pages: list[_Page] = state(list)
    _data: list[Region] = state(list)

    def start(self, machine: Machine) -> None:
        memory = machine.memory
        if self.fewest > self.most:
            raise UserError(f"{self.fewest} to {self.most} warnings", where=OWNER, expected="a range")
        fixed = round(self.weak * self.fixed)
        movable = self.weak - fixed + self.hits
        pool = machine.sections.nonpaged(fixed) if fixed else None
        data = memory.space(machine.create_process("data")).allocate(max(1, movable))
        if data is None or (fixed and pool is None) or memory.populate(data, 0, dirty=True) < movable:
            raise UserError(
                f"{self.weak + self.hits} pages", where=OWNER, expected="as many as there is memory for"
            )
        self._data = [data]
        frames = _frames(data)
        stream = machine.streams.stream(OWNER, "errors")
        stream.shuffle(frames)
        now = machine.engine.now
        for number, frame in enumerate(
            [*(_frames(pool) if pool is not None else []), *frames[: self.weak - fixed]]
        ):
            # Spread evenly over all chances, so that a few pages show what many would.
            place, of = (number, fixed) if number < fixed else (number - fixed, self.weak - fixed)
            chance, when = (place + stream.random()) / of, stream.uniform(0.3, 1)
            count, fails = (
                int(self.fewest * ((self.most + 1) / self.fewest) ** chance),
                now + int(self.span * when),
            )
            # The rate rises with the square of time.
            times = [
                now + int((fails - now) * (each / (count + 1)) ** (1 / 3)) for each in range(1, count + 1)
            ]
            page = _Page(frame, times, fails, number < fixed)
            self._pages.append(page)
            for time in times:
                machine.engine.at(time, self._warn, (machine, page))
            machine.engine.at(fails, self._fail, (machine, page))
        for frame in frames[self.weak - fixed : movable]:
            machine.engine.at(now + stream.randrange(self.span), self._hit, (machine, frame))

    def _error(self, machine: Machine, frame: int, severity: Severity) -> bool:
        """A frame has an error, if it is still in use."""
        node = machine.memory.node_of(frame)
        if node is None or any(first <= frame < first + pages for first, pages in node.bad):
            return False
        address = frame * machine.memory.policy.page_size
        where = Component("memory", node.index, (0, 0))
        machine.hardware_errors.occur(
            HardwareError(component=where, severity=severity, address=address, contained=True)
        )
        return True

    def _warn(self, what: tuple[Machine, _Page]) -> None:
        self._error(what[0], what[1].frame, "corrected")

    def _fail(self, what: tuple[Machine, _Page]) -> None:
        machine, page = what
        page.failed = self._error(machine, page.frame, "recoverable")

    def _hit(self, what: tuple[Machine, int]) -> None:
        self._error(*what, "corrected")

    def measure(self, machine: Machine) -> list[Metric]:
        movable = [page for page in self._pages if not page.fixed]
        fixed = [page for page in self._pages if page.fixed]
        offline = machine.memory.pages(BAD)
        saved = sum(not page.failed for page in self._pages)
        return [
            Metric("saved_share", sum(not page.failed for page in movable) / (len(movable) or 1)),
            Metric("saved_fixed", sum(not page.failed for page in fixed)),
            Metric("failures", sum(page.failed for page in self._pages)),
            Metric("offline", offline, "pages"),
            Metric("in_vain", offline - saved, "pages"),
            Metric(
                "data_kept",
                float(all(sum(e.pages for e in each.extents()) == each.pages for each in self._data)),
            ),
        ]


def _frames(region: Region) -> list[int]:
    return [extent.frame + page for extent in region.extents() for page in range(extent.pages)]

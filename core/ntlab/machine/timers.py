"""The clock interrupt, and kernel timers, which expire at its ticks only.

    timer = machine.timers.create(Dpc("Poll", action, work=5_000))
    machine.timers.set(timer, due=40 * MILLISECOND, period=SECOND, tolerance=100 * MILLISECOND)
    machine.timers.start_clock()                    ticks go on, timers or not

and in programs: `Delay(duration, tolerance)`, `WaitForTimer(timer)`.

The clock is simulated where somebody sets a timer (then as long as any is set) or starts it. It ticks at
whole multiples of its period, which is the scheduler's `tick` unless a program asks for a finer resolution.
One processor, the keeper of the time, is interrupted by it, and at the end of the service routine interrupts
the others that get that tick. Whoever gets none is asleep: it makes up for missed ticks when it wakes. (The
scheduler charges turns by computed ticks: what a thread is charged does not depend on any of this.)

A timer is in a table. A processor that gets a tick looks at its own, and all timers there that are due expire
in one DPC, in the order of their due times, under the locks that `ntlab.machine.dispatcher` says. One
table is enough unless plugins say otherwise: the keeper's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import attrs

from ntlab.engine import INTERRUPT, Event
from ntlab.errors import SimulationError, UserError
from ntlab.machine.idle import is_idle, watch_idle
from ntlab.machine.policy import TimerPolicy
from ntlab.machine.threads import Request, Thread
from ntlab.quantities import MICROSECOND, MILLISECOND, format_duration
from ntlab.tracing import event_type

if TYPE_CHECKING:
    from ntlab.machine.machine import Machine
    from ntlab.machine.processors import Processor

TIMER_SET = event_type("Lab-Timer", "Set", "timer due period tolerance expires cpu")
TIMER_EXPIRE = event_type("Lab-Timer", "Expire", "timer due expires tick cpu routine$")
RESYNCHRONISE = event_type("Lab-Timer", "Resynchronise", "cpu missed")
RESOLUTION = event_type("Lab-Timer", "Resolution", "period")
KEEPER = event_type("Lab-Timer", "Keeper", "cpu")

CLOCK_VECTOR = 0xD1
EXPIRATION = "KiTimerExpiration"
FINEST = MILLISECOND // 2
COARSEST = 15_625 * MICROSECOND
LONGEST_PERIOD = (2**31 - 1) * MILLISECOND
"""MAXLONG ms."""


@attrs.define(eq=False)
class Dpc:
    """What a timer's expiry calls: `action(timer)`, after `work` ns on the processor where it expires.

    It belongs to one timer at most.
    """

    routine: str
    action: Callable[[Timer], object]
    work: int = 0
    timer: Timer | None = attrs.field(default=None, init=False, repr=False)


class Timer:
    """A kernel timer, made by `timers.create`.

    `due` is when it is due by what was asked for, `expires` from when on the tick counts that lets it expire:
    both for the present period, ns since boot. `tick` is the tick at which it last expired, `was_due` when it
    was due then, `expirations` how often it has since it was set. `processor` has it in its table.
    """

    __slots__ = (
        "dpc",
        "due",
        "entry",
        "expirations",
        "expires",
        "here",
        "machine",
        "number",
        "period",
        "processor",
        "signalled",
        "tick",
        "tolerance",
        "waiters",
        "was_due",
    )

    def __init__(self, machine: Machine, number: int, dpc: Dpc | None) -> None:
        self.machine = machine
        self.number = number
        self.dpc = dpc
        self.due = self.expires = self.period = self.tolerance = 0
        self.tick = self.was_due = -1
        self.expirations = 0
        self.here = self.processor = 0
        self.signalled = False
        self.entry: Entry | None = None  # in its table, or in the DPC that lets it expire; None: not set
        self.waiters: list[Thread] = []

    @property
    def name(self) -> str:
        """Its number, and its routine if it has one."""
        return f"timer {self.number}" + (f" {self.dpc.routine}" if self.dpc is not None else "")

    def __repr__(self) -> str:
        return f"<{self.name} due {self.due}>"


Entry = tuple[int, int, Timer]
"""When it expires, a number by which equals keep their order, and the timer."""


class Timers:
    """The clock and the timers of one machine.

    `ticks` counts the clock's, `last_tick` is when the last one was, `period` how far apart they are now.
    `keeper` is the number of the processor that keeps the time. `taken` counts the ticks that each processor
    got, `made_up` those that it missed and made up for; `resynchronised` counts the times. `asleep` is the
    mask of processors that do nothing. `batches` counts the DPCs in which timers expired, `expired` these.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.engine = machine.engine
        self.running = False  # whether the clock is simulated
        self.period: int = machine.scheduler.policy.tick
        self.asleep = 0
        self.ticks = 0
        self.last_tick = -1
        self.taken: Counter[int] = Counter()
        self.made_up: Counter[int] = Counter()
        self.resynchronised = 0
        self.batches = 0
        self.expired = 0
        self._wanted = False  # ticks go on without timers
        self._watching = False
        self._event: Event | None = None
        self._resolutions: dict[Hashable, int] = {}
        self._tables: dict[int, list[Entry]] = {}  # heaps, by processor
        self._set = 0  # timers that are set
        self._numbers = 0
        self._entries = 0
        self._there = 0  # the processors that the clock knows of
        self._joined: dict[int, int] = {}  # how many ticks there had been when each came
        self._seen: dict[int, int] = {}  # up to which tick each is right
        self._pending = 0  # the processors with a clock interrupt under way
        self._forward = 0  # those that the keeper will interrupt
        self._under_way: list[list[Entry]] = []  # in DPCs that have not run yet
        hooks = machine.hooks
        policy = hooks.timer_policy(machine) if hooks.timer_policy is not None else None
        self.policy: TimerPolicy = policy if policy is not None else TimerPolicy()
        self.keeper = self.policy.keeper
        self._tick_processors = hooks.tick_processors
        self._timer_processor = hooks.timer_processor
        self._align = hooks.align_timer
        tracer = machine.tracer
        self._text = tracer.text
        self._trace_set = tracer.emitter(TIMER_SET)
        self._trace_expire = tracer.emitter(TIMER_EXPIRE)
        self._trace_resynchronise = tracer.emitter(RESYNCHRONISE)
        self._trace_resolution = tracer.emitter(RESOLUTION)
        self._trace_keeper = tracer.emitter(KEEPER)

    # -- timers ----------------------------------------------------------------------------------------------

    def create(self, dpc: Dpc | None = None) -> Timer:
        """A timer that is not set. Raises UserError if another one has that DPC."""
        if dpc is not None and dpc.timer is not None:
            raise UserError(f"the DPC {dpc.routine!r} is that of two timers", expected="a DPC for each timer")
        self._numbers += 1
        timer = Timer(self.machine, self._numbers, dpc)
        if dpc is not None:
            dpc.timer = timer
        return timer

    def set(
        self, timer: Timer, due: int, *, period: int = 0, tolerance: int = 0, processor: int | None = None
    ) -> None:
        """Let a timer expire in `due` ns (0 and less: at once), and then each `period` ns, if that is not 0.

        Each time it may be up to `tolerance` ns later (KeSetCoalescableTimer's TolerableDelay). `processor`
        is where it is set, by default that which keeps the time. A timer that is set already is set anew.
        Raises UserError.
        """
        if tolerance < 0:
            raise UserError(
                f"a tolerance of {format_duration(tolerance)}", where=timer.name, expected="0 or more"
            )
        if not 0 <= period <= LONGEST_PERIOD:
            raise UserError(
                f"a period of {format_duration(period)}",
                where=timer.name,
                expected=f"at most MAXLONG ms, {format_duration(LONGEST_PERIOD)}",
            )
        if period and tolerance > period:
            raise UserError(
                f"a tolerance of {format_duration(tolerance)} in a period of {format_duration(period)}",
                where=timer.name,
                expected="at most the period",
            )
        if processor is not None and not 0 <= processor < len(self.machine.processors):
            raise UserError(
                f"processor {processor}",
                where=timer.name,
                expected=f"0 to {len(self.machine.processors) - 1}",
            )
        self.cancel(timer)
        self._set += 1
        self._run_clock()
        timer.here = self.keeper if processor is None else processor
        timer.period = period
        timer.tolerance = tolerance
        timer.expirations = 0
        timer.signalled = False
        timer.due = self.engine.now + due
        self._insert(timer)

    def cancel(self, timer: Timer) -> bool:
        """Let a timer expire no more. Returns whether it was set. Whoever waits for it goes on waiting."""
        was_set = timer.entry is not None
        if was_set:
            timer.entry = None
            self._set -= 1
        return was_set

    def tick_from(self, time: int) -> int:
        """The time of the first tick at `time` or later, as far apart as ticks are now."""
        return -(-time // self.period) * self.period

    def wait(self, thread: Thread, timer: Timer) -> int | None:
        """A running thread waits for a timer, unless that has expired since somebody did: 0 then."""
        if timer.signalled:
            timer.signalled = False
            thread.result = timer.tick
            return 0
        timer.waiters.append(thread)
        return None

    def _insert(self, timer: Timer) -> None:
        expires = max(timer.due, self.last_tick + 1)  # what that tick lets expire is settled
        latest = timer.due + timer.tolerance
        if expires < latest and self._align is not None:
            answer = self._align(timer, expires, latest)
            if answer is not None:
                if not expires <= answer <= latest:
                    raise SimulationError(
                        f"align_timer gave {answer} for {timer!r}, which is due at {expires} to {latest}"
                    )
                expires = answer
        index = self.keeper
        if self._timer_processor is not None:
            chosen = self._timer_processor(timer, self.machine.scheduler.in_place_of(timer.here))
            if chosen is not None:
                if not self.machine.scheduler.all_mask >> chosen & 1:
                    raise SimulationError(f"timer_processor gave {chosen} for {timer!r}")
                index = chosen
        timer.expires = expires
        timer.processor = index
        self._entries += 1
        timer.entry = entry = (expires, self._entries, timer)
        if self._trace_set is not None:
            self._trace_set(
                (self.engine.now, TIMER_SET.id, timer.number, timer.due, timer.period, timer.tolerance,
                 expires, index)
            )  # fmt: skip
        if timer.due <= self.engine.now and not timer.expirations:
            timer.tick = self.engine.now
            self._queue_batch(self.machine.processors[index], [entry])
            return
        table = self._tables.setdefault(index, [])
        heappush(table, entry)
        if len(table) > 2 * self._set + 64:  # most of it is cancelled
            table[:] = [entry for entry in table if entry[2].entry is entry]
            heapify(table)

    # -- they expire ---------------------------------------------------------------------------------------

    def _due(self, index: int) -> bool:
        """Whether a timer in that processor's table is due at the last tick."""
        table = self._tables.get(index)
        while table:
            expires, _, timer = table[0]
            if timer.entry is table[0]:
                return expires <= self.last_tick
            heappop(table)
        return False

    def _queue_batch(self, processor: Processor, batch: list[Entry]) -> None:
        self.batches += 1
        entries = {entry[2]: entry for entry in batch}
        queue_dpc = self.machine.interrupts.queue_dpc
        before: int = self.policy.expiration_time
        for lock, timers in self.machine.dispatcher.holds(list(entries), processor):
            part = processor, [entries[timer] for timer in timers]
            self._under_way.append(part[1])
            hold = self.policy.timer_time * len(timers)
            work = sum(timer.dpc.work for timer in timers if timer.dpc is not None)
            if lock is None or not hold:
                queue_dpc(processor, before + hold + work, self._expire, part, EXPIRATION)
            else:
                if before:
                    queue_dpc(processor, before, routine=EXPIRATION)
                if work:
                    queue_dpc(processor, hold, routine=EXPIRATION, lock=lock)
                    queue_dpc(processor, work, self._expire, part, EXPIRATION)
                else:
                    queue_dpc(processor, hold, self._expire, part, EXPIRATION, lock)
            before = 0

    def _expire(self, what: tuple[Processor, list[Entry]]) -> None:
        processor, batch = what
        self._under_way.remove(batch)
        for entry in batch:
            timer = entry[2]
            if timer.entry is entry:  # else it has been cancelled or set anew meanwhile
                self._expire_one(processor, timer, entry)

    def _expire_one(self, processor: Processor, timer: Timer, entry: Entry) -> None:
        self.expired += 1
        timer.expirations += 1
        timer.was_due = timer.due
        dpc = timer.dpc
        if self._trace_expire is not None:
            routine = self._text(dpc.routine if dpc is not None else "")
            self._trace_expire(
                (self.engine.now, TIMER_EXPIRE.id, timer.number, timer.due, timer.expires, timer.tick,
                 processor.index, routine)
            )  # fmt: skip
        if not timer.period:
            timer.entry = None
            self._set -= 1
        waiters, timer.waiters = timer.waiters, []
        timer.signalled = not waiters
        for thread in waiters:
            self.machine.scheduler.wake(thread, timer.tick)
        if dpc is not None:
            dpc.action(timer)
        if timer.entry is entry:
            timer.due += timer.period
            late = self.last_tick - timer.due - timer.tolerance
            if late >= 0:  # periods that no tick is left for
                timer.due += (late // timer.period + 1) * timer.period
            self._insert(timer)

    # -- the clock -----------------------------------------------------------------------------------------

    def start_clock(self) -> None:
        """Let the clock tick from now on, whether timers are set or not. A run needs an end then."""
        self._wanted = True
        self._run_clock()

    def request_resolution(self, who: Hashable, period: int | None) -> None:
        """A program wants ticks that close together (timeBeginPeriod), or no more (None; timeEndPeriod).

        The finest one asked for counts, and never a coarser one than the scheduler's tick. Raises UserError
        beyond 0.5 to 15.625 ms.
        """
        if period is None:
            self._resolutions.pop(who, None)
        elif not FINEST <= period <= COARSEST:
            raise UserError(
                f"a clock resolution of {format_duration(period)}",
                where=str(who),
                expected=f"{format_duration(FINEST)} to {format_duration(COARSEST)}",
            )
        else:
            self._resolutions[who] = period
        before = self.period
        self.period = min([self.machine.scheduler.policy.tick, *self._resolutions.values()])
        if self.period == before:
            return
        if self._trace_resolution is not None:
            self._trace_resolution((self.engine.now, RESOLUTION.id, self.period))
        if self.running:
            assert self._event is not None
            self.engine.cancel(self._event)
            self._plan()

    def _plan(self) -> None:
        self._event = self.engine.at(self._next(), self._tick, None, INTERRUPT)

    def _next(self) -> int:
        return (self.engine.now // self.period + 1) * self.period

    def _run_clock(self) -> None:
        if self.running:
            return
        if not self._watching and not self.machine.scheduler.all_mask >> self.keeper & 1:
            raise UserError(f"processor {self.keeper} is to keep the time", expected="one of those that run")
        self.running = True
        self.last_tick = max(self.last_tick, self.engine.now // self.period * self.period)
        if not self._watching:
            self._watching = True
            watch_idle(self.machine, self._watch)
        for processor in self.machine.processors:
            self._watch(processor, is_idle(processor))
        self._follow()
        self._plan()

    def _follow(self) -> None:
        """Processors have come or gone: the clock and the tables follow."""
        scheduler = self.machine.scheduler
        self._there = there = scheduler.all_mask
        for processor in self.machine.processors:
            index = processor.index
            if processor.bit & there and index not in self._joined:
                self._joined[index] = self.ticks
                self._seen.setdefault(index, self.ticks)
                if is_idle(processor):
                    self.asleep |= processor.bit
        self.asleep &= there
        if not there >> self.keeper & 1:
            self.keeper = self._instead(self.keeper)
            if self._trace_keeper is not None:
                self._trace_keeper((self.engine.now, KEEPER.id, self.keeper))
        for index in [index for index in self._tables if not there >> index & 1]:
            table = self._tables.setdefault(self._instead(index), [])
            for entry in self._tables.pop(index):
                if entry[2].entry is entry:
                    entry[2].processor = self._instead(index)
                    heappush(table, entry)

    def _instead(self, index: int) -> int:
        """The running processor that does what a gone one did."""
        there = self._there
        instead = self.machine.scheduler.in_place_of(index)
        return instead if there >> instead & 1 else (there & -there).bit_length() - 1

    def _tick(self, _: object) -> int | None:
        """A tick. Hardware: it comes before all else of its instant."""
        machine = self.machine
        if not (self._set or self._wanted):
            self.running = False
            return None
        there = machine.scheduler.all_mask
        if there != self._there:
            self._follow()
        self.ticks += 1
        self.last_tick = self.engine.now
        keeper = machine.processors[self.keeper]
        due = keeper.bit | there & ~self.asleep
        for index in self._tables:
            if self._due(index):
                due |= 1 << index
        chosen = there
        if self._tick_processors is not None:
            answer = self._tick_processors(machine, due)
            if answer is not None:
                chosen = answer
                if due & ~chosen or chosen & ~there:
                    raise SimulationError(
                        f"tick_processors gave {chosen:#x}; {due:#x} must have the tick, of {there:#x}"
                    )
        self._forward |= chosen & ~keeper.bit
        self._interrupt(keeper)
        return self._next() - self.engine.now

    def _interrupt(self, processor: Processor) -> None:
        """Interrupt a processor by the clock. While it has not even served the last one, that will do."""
        if not self._pending & processor.bit:
            self._pending |= processor.bit
            self.machine.interrupts.interrupt(
                processor, self.policy.clock_time, self._ticked, processor, CLOCK_VECTOR
            )

    def _ticked(self, processor: Processor) -> None:
        """A processor has served the clock interrupt."""
        index = processor.index
        self._pending &= ~processor.bit
        missed = self.ticks - self._seen.get(index, self.ticks) - 1
        if missed > 0:
            self.made_up[index] += missed
        if missed >= 0:
            self.taken[index] += 1
            self._seen[index] = self.ticks
        if index == self.keeper and self._forward:
            forward, self._forward = self._forward, 0
            while forward:
                bit = forward & -forward
                forward ^= bit
                self._interrupt(self.machine.processors[bit.bit_length() - 1])
        batch: list[Entry] = []
        while self._due(index):
            entry = heappop(self._tables[index])
            entry[2].tick = self.last_tick
            batch.append(entry)
        if batch:
            self._queue_batch(processor, batch)

    def _watch(self, processor: Processor, idle: bool) -> None:
        """A processor falls asleep or wakes: then it makes up for the ticks that it has missed."""
        if idle:
            self.asleep |= processor.bit & self.machine.scheduler.all_mask
            return
        self.asleep &= ~processor.bit
        index = processor.index
        right = self.ticks
        if (self._pending | self._forward) & processor.bit:
            right -= 1  # the last one is under way
        missed = right - self._seen.setdefault(index, right)
        if missed > 0:
            self._seen[index] = right
            self.made_up[index] += missed
            self.resynchronised += 1
            if self._trace_resynchronise is not None:
                self._trace_resynchronise((self.engine.now, RESYNCHRONISE.id, index, missed))

    # -- what is counted, and what must be true --------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """What the clock has done; nothing where it never ran."""
        if not self._watching:
            return {}
        seconds = self.engine.now / 1e9 or 1.0
        return {
            r"Timers\Clock Ticks/sec": self.ticks / seconds,
            r"Timers\Clock Interrupts/sec": self.taken.total() / seconds,
            r"Timers\Resynchronisations/sec": self.resynchronised / seconds,
            r"Timers\Expirations/sec": self.expired / seconds,
            r"Timers\Expiration DPCs/sec": self.batches / seconds,
        }

    def check(self) -> None:
        """Compare ticks, tables and timers. Raises SimulationError where they differ."""
        if not self._watching:
            return
        coming = self._pending | self._forward
        count = sum(entry[2].entry is entry for batch in self._under_way for entry in batch)
        for index, table in self._tables.items():
            if self._due(index) and not coming >> index & 1:
                raise SimulationError(f"processor {index} has timers due, and has missed the tick")
            count += sum(entry[2].entry is entry for entry in table)
        if self._set != count:
            raise SimulationError(f"{self._set} timers are set, {count} are in tables")
        asleep = 0
        known = self._there & self.machine.scheduler.all_mask
        for processor in self.machine.processors:
            index = processor.index
            if not processor.bit & known:
                continue
            if is_idle(processor):
                asleep |= processor.bit
            seen = self._seen.get(index, self.ticks)
            if self.taken[index] + self.made_up[index] != seen - self._joined[index]:
                raise SimulationError(f"processor {index} has lost count of the ticks")
            behind = self.ticks - seen
            if self.running and behind and not is_idle(processor) and not coming >> index & 1:
                raise SimulationError(f"processor {index} is awake and {behind} ticks behind")
        if self.running and asleep != self.asleep & known:
            raise SimulationError(f"asleep are {asleep:#x}, the clock knows of {self.asleep:#x}")


class Delay(Request):
    """Wait for `duration` ns by a timer, so until a tick, or up to `tolerance` ns longer."""

    __slots__ = ("duration", "tolerance")

    def __init__(self, duration: int, tolerance: int = 0) -> None:
        if duration < 0 or tolerance < 0:
            raise SimulationError(f"a delay of {duration} ns with a tolerance of {tolerance}")
        self.duration = duration
        self.tolerance = tolerance

    def perform(self, thread: Thread) -> int | None:
        timers = thread.machine.timers
        timer = timers.create()
        timer.waiters.append(thread)
        assert thread.processor is not None
        timers.set(timer, self.duration, tolerance=self.tolerance, processor=thread.processor.index)
        return None


class SetTimer(Request):
    """Set a timer on the processor that the thread runs on; see `timers.set`."""

    __slots__ = ("due", "period", "timer", "tolerance")

    def __init__(self, timer: Timer, due: int, period: int = 0, tolerance: int = 0) -> None:
        self.timer = timer
        self.due = due
        self.period = period
        self.tolerance = tolerance

    def perform(self, thread: Thread) -> int | None:
        assert thread.processor is not None
        thread.machine.timers.set(
            self.timer, self.due, period=self.period, tolerance=self.tolerance,
            processor=thread.processor.index,
        )  # fmt: skip
        return 0


class WaitForTimer(Request):
    """Wait until a timer expires, unless it has since the last wait. Gives the tick at which it did, ns."""

    __slots__ = ("timer",)

    def __init__(self, timer: Timer) -> None:
        self.timer = timer

    def perform(self, thread: Thread) -> int | None:
        return thread.machine.timers.wait(thread, self.timer)

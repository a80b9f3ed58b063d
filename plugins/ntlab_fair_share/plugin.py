"""Each session has a share of every processor over an interval; who has used it up lets the others run.

All accounts are kept per processor, as Windows keeps them: there is no balance between processors. Nothing
happens by the clock: an interval is found to be over when somebody looks, and only a processor on which
threads are held back has an event waiting, at the end of its interval.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import attrs

from ntlab.engine import Event
from ntlab.hooks import hookimpl
from ntlab.machine import Machine, Processor, Session, Thread
from ntlab.machine.threads import HELD
from ntlab.plugin import option, plugin, state
from ntlab.quantities import MILLISECOND, Duration
from ntlab.tracing import event_type
from ntlab_fair_share.workloads import Sessions

LAB_DFSS = "Lab-DFSS"
INTERVAL_START = event_type(LAB_DFSS, "IntervalStart", "cpu start")
EXHAUSTED = event_type(LAB_DFSS, "Exhausted", "cpu session tid used")
IDLE_ONLY_RUN = event_type(LAB_DFSS, "IdleOnlyRun", "cpu session tid run")
RESUME = event_type(LAB_DFSS, "Resume", "cpu session tid waited")

SERVICES = 0
"""The session of services, which is not limited."""
CPU_RATE_CONTROL = 24
"""The wait reason WrCpuRateControl."""
ROUTINE = "fair_share"
"""The DPCs by which threads are stopped and go on, where such operations take time."""
UNIT_WEIGHT = 2520
"""Least common multiple of the weights 1..9, so that a turn's length by weight is a whole number."""


class Account:
    """What one session used of one processor.

    `used` counts in the interval that `generation` numbers. `turn` orders the sessions that borrow time
    nobody else wants: their idle-only time so far, over their weight.
    """

    __slots__ = ("generation", "turn", "used")

    def __init__(self) -> None:
        self.generation = 0
        self.used = 0
        self.turn = 0


class Share:
    """The accounts of one processor. Its present interval is `start` to `end`."""

    __slots__ = (
        "accounts",
        "borrower",
        "end",
        "generation",
        "held",
        "index",
        "left",
        "start",
        "turn",
        "wake_up",
    )

    def __init__(self, index: int, interval: int) -> None:
        self.index = index
        self.start = 0
        self.end = interval
        self.generation = 0
        self.accounts: dict[int, Account] = {}
        self.held: dict[Thread, int] = {}  # the threads held back, and since when; oldest first
        self.wake_up: Event | None = None
        self.borrower: Thread | None = None  # the thread that has an idle-only run
        self.left = 0  # what is left of that run
        self.turn = 0  # the turn of the session that borrowed last

    def account(self, session: Session) -> Account:
        account = self.accounts.get(session.id)
        if account is None:
            account = self.accounts[session.id] = Account()
        if account.generation != self.generation:
            account.generation = self.generation
            account.used = 0
        return account


@plugin(
    name="fair_share",
    summary="Sessions share the processors by weight, whatever their number of threads (DFSS).",
    release="ws2008r2",
    ledger=("P9",),
    requires=("ws2003",),
    workloads=(Sessions,),
    neutral={"interval": "1000 h"},  # nobody uses up a share of that
)
class FairShare:
    interval: Duration = option(
        default=Duration(150 * MILLISECOND), help="Over which a session has its share.", minimum=MILLISECOND
    )
    refill: Literal["interval", "all_exhausted"] = option(
        default="interval",
        help="New shares by the clock, or as soon as every session that wants to run has used its own.",
    )
    idle_only: bool = option(
        default=True,
        help="Whether a session without share may use time that nobody else wants (refill by interval).",
    )
    idle_only_run: Duration = option(
        default=Duration(15_625_000), help="Length of one such run, a clock tick in Windows.", minimum=1
    )

    _machine: Machine = attrs.field(init=False, repr=False)
    _shares: list[Share] = state(list)
    _sessions: int = state(int)  # how many there were when the weights were added up
    _total: int = state(int)  # sum of the weights

    @hookimpl
    def machine_booted(self, machine: Machine) -> None:
        self._machine = machine
        self._shares = [Share(processor.index, self.interval) for processor in machine.processors]
        tracer = machine.tracer
        self._trace_start = tracer.emitter(INTERVAL_START)
        self._trace_exhausted = tracer.emitter(EXHAUSTED)
        self._trace_idle_only = tracer.emitter(IDLE_ONLY_RUN)
        self._trace_resume = tracer.emitter(RESUME)

    @hookimpl
    def hardware_changed(self, machine: Machine) -> None:
        new = machine.processors[len(self._shares) :]
        self._shares += [Share(processor.index, self.interval) for processor in new]

    @hookimpl
    def thread_created(self, thread: Thread) -> None:
        if len(self._machine.sessions) == self._sessions:
            return
        # A new session makes everybody's share smaller, also that of the threads that run now.
        sessions = self._machine.sessions.values()
        self._sessions = len(sessions)
        self._total = sum(session.weight for session in sessions if session.id != SERVICES)
        scheduler = self._machine.scheduler
        for processor in self._machine.processors:
            running = processor.thread
            # One that has nothing to compute is about to ask for more, and is looked at then, in its turn.
            if running is not None and running.remaining and not processor.level and not processor.stepping:
                scheduler.suspend(processor)
                scheduler.restart(processor)

    # -- who may run ---------------------------------------------------------------------------------------

    @hookimpl
    def run_limit(self, thread: Thread, processor: Processor) -> int | None:
        session = thread.process.session
        if session.id == SERVICES:
            return None
        share = self._shares[processor.index]
        now = self._machine.engine.now
        if now >= share.end:
            self._next_interval(share, now)
        left = self._left(share, thread)
        if left <= 0 and self._unwanted(share, processor):
            if self.refill == "all_exhausted":
                self._begin_interval(share, now)
                left = self._left(share, thread)
            elif self.idle_only:
                self._lend(share, thread)
        if left > 0:
            share.borrower = None
            credit, room = self._credit(session), share.end - now
            if left < room:
                return left
            # It may run on into later intervals: while it runs, nobody else uses its session's share here.
            return room + credit if credit < self.interval else None
        if share.borrower is thread and share.left > 0:
            return min(share.left, share.end - now)
        self._hold(share, thread)
        return 0

    @hookimpl
    def thread_charged(self, thread: Thread, processor: Processor, ran: int) -> None:
        session = thread.process.session
        if session.id == SERVICES:
            return
        share = self._shares[processor.index]
        if share.borrower is thread:
            share.left -= ran
            share.account(session).turn += ran * (UNIT_WEIGHT // session.weight)
            return
        now = self._machine.engine.now
        if now >= share.end:
            self._next_interval(share, now)
        share.account(session).used += min(ran, now - share.start)

    @hookimpl(wrapper=True)
    def choose_thread(
        self, processor: Processor
    ) -> Generator[None, Thread | Literal[False] | None, Thread | None]:
        waiting = (yield) or None  # a thread in the queue of another processor
        share = self._shares[processor.index]
        if waiting is None and not share.held:
            return None
        now = self._machine.engine.now
        if now >= share.end:
            self._next_interval(share, now)
        if waiting is not None and self._left(share, waiting) > 0:
            return waiting
        if self.refill == "all_exhausted":
            self._begin_interval(share, now)
        found = self._next_held(share) or waiting
        if found is not None and self._left(share, found) <= 0:
            if not self.idle_only:
                return None
            self._lend(share, found)
        if found is not None and found is not waiting:
            self._resume(share, found)
        return found

    # -- shares --------------------------------------------------------------------------------------------

    def _credit(self, session: Session) -> int:
        return self.interval * session.weight // self._total

    def _left(self, share: Share, thread: Thread) -> int:
        """What is left of the share of the thread's session in the present interval, ns."""
        session = thread.process.session
        if session.id == SERVICES:
            return self.interval
        return self._credit(session) - share.account(session).used

    def _next_interval(self, share: Share, now: int) -> None:
        """The clock says that the interval is over."""
        self._begin_interval(share, now - (now - share.start) % self.interval)

    def _begin_interval(self, share: Share, start: int) -> None:
        share.start = start
        share.end = start + self.interval
        share.generation += 1
        if share.wake_up is not None:
            self._machine.engine.cancel(share.wake_up)
            share.wake_up = None
        if share.held:
            share.wake_up = self._machine.engine.at(self._machine.engine.now, self._release_all, share)
        if self._trace_start is not None:
            self._trace_start((self._machine.engine.now, INTERVAL_START.id, share.index, start))

    def _unwanted(self, share: Share, processor: Processor) -> bool:
        """Whether a processor is idle and nobody waits for it."""
        return processor.thread is None and not processor.queue.summary and not share.held

    # -- held back, and released ---------------------------------------------------------------------------

    def _hold(self, share: Share, thread: Thread) -> None:
        if thread in share.held:
            return
        session = thread.process.session
        engine = self._machine.engine
        account = share.account(session)
        if not any(other.process.session is session for other in share.held):
            # A session that did not borrow for a while has not saved turns up.
            account.turn = max(account.turn, share.turn)
        share.held[thread] = engine.now
        thread.wait_reason = CPU_RATE_CONTROL
        if self._machine.dispatcher.object_hold:
            engine.soon(self._stop_thread, (share.index, thread.id))
        if share.wake_up is None:
            share.wake_up = engine.at(share.end, self._release_all, share)
        if self._trace_exhausted is not None:
            self._trace_exhausted(
                (engine.now, EXHAUSTED.id, share.index, session.id, thread.id, account.used)
            )

    def _resume(self, share: Share, thread: Thread) -> None:
        """Forget a held thread: it will run, or be released."""
        since = share.held.pop(thread)
        thread.wait_reason = 0
        if self._trace_resume is not None:
            now = self._machine.engine.now
            self._trace_resume(
                (now, RESUME.id, share.index, thread.process.session.id, thread.id, now - since)
            )

    def _release_all(self, share: Share) -> None:
        """A new interval: whoever was held back may run."""
        share.wake_up = None
        now = self._machine.engine.now
        if now >= share.end:
            self._next_interval(share, now)
        for thread in list(share.held):
            self._resume(share, thread)
            if self._machine.dispatcher.object_hold:
                processor = self._machine.processors[share.index]
                self._machine.dispatcher.queue(processor, thread.id, self._release, thread, ROUTINE)
            else:
                self._release(thread)

    def _release(self, thread: Thread) -> None:
        if thread.state == HELD:
            self._machine.scheduler.release(thread)

    def _stop_thread(self, where: tuple[int, int]) -> None:
        """To stop a thread is an operation of the scheduler, under its lock."""
        index, number = where
        self._machine.dispatcher.queue(self._machine.processors[index], number, routine=ROUTINE)

    # -- time that nobody else wants -----------------------------------------------------------------------

    def _next_held(self, share: Share) -> Thread | None:
        """The held thread to run on a processor that would idle: by its session's turn, then by priority."""
        best: Thread | None = None
        order = (0, 0)
        for thread in share.held:
            if thread.state == HELD:
                turn = (share.accounts[thread.process.session.id].turn, -thread.priority)
                if best is None or turn < order:
                    best, order = thread, turn
        return best

    def _lend(self, share: Share, thread: Thread) -> None:
        session = thread.process.session
        share.borrower = thread
        share.left = self.idle_only_run
        share.turn = share.account(session).turn
        if self._trace_idle_only is not None:
            now = self._machine.engine.now
            self._trace_idle_only((now, IDLE_ONLY_RUN.id, share.index, session.id, thread.id, share.left))

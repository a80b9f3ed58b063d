"""Special kernel APCs: procedures that a particular thread, and no other, must run.

A thread runs its APCs before anything else, as soon as it runs below dispatch level. So a running thread
runs one at once, at no context switch; a ready one when its turn comes; and a waiting one is taken out of
its wait, must be scheduled like any thread, and waits again afterwards. That scheduling is what APCs cost.

In ntlab's terms an APC is a frame on top of the thread's program: the scheduler steps the frame first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ntlab.machine.threads import WAITING, Request, Thread, resume


def queue_apc(
    thread: Thread, duration: int, action: Callable[[Any], object], argument: Any = None, increment: int = 0
) -> None:
    """Let a thread work for `duration` ns at nominal speed and then call `action(argument)`.

    `increment` is the priority increment of a thread that is taken out of a wait for it. APCs of one
    thread run in the order in which they were queued.
    """
    frame: _Frame | None = thread.apcs
    if frame is not None:
        frame.queue.append((duration, action, argument))
        return
    frame = thread.apcs = _Frame(thread)
    frame.queue.append((duration, action, argument))
    scheduler = thread.machine.scheduler
    if thread.state == WAITING:
        if thread.waiting_for is not None:
            thread.waiting_for.interrupt(thread)
        scheduler.wake(thread, None, increment)
    elif not thread.raised:
        frame.left = scheduler.grant(thread)


class _Frame(Request):
    """A thread's program while it has APCs to run, and the only request of that program."""

    __slots__ = ("_current", "_program", "_result", "_thread", "_waiting", "left", "queue")

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._program = thread.program
        self._waiting = thread.state == WAITING
        self._result: Any = None  # what the program below receives
        self._current: tuple[int, Callable[[Any], object], Any] | None = None
        self.left = 0  # the work that was cut short
        self.queue: deque[tuple[int, Callable[[Any], object], Any]] = deque()
        thread.program = self

    def __iter__(self) -> _Frame:
        return self

    def __next__(self) -> Request:
        return next(self._program) if self._thread.raised else self

    def send(self, result: Any) -> Request:
        """A step with a result: that of the program below, which is kept for it."""
        if self._thread.raised:
            return resume(self._program, result)
        self._result = result
        return self

    def end_wait(self, result: Any) -> None:
        """What the thread waited for has happened before its APCs were through."""
        self._waiting = False
        self._result = result

    @property
    def waiting(self) -> bool:
        """Whether the thread will wait again when its APCs are through."""
        return self._waiting

    def perform(self, thread: Thread) -> int | None:
        if self._current is not None:
            _, action, argument = self._current
            self._current = None
            action(argument)
        if self.queue:
            self._current = self.queue.popleft()
            return self._current[0]
        thread.program = self._program
        thread.apcs = None
        if self._waiting:
            return thread.waiting_for.resume(thread) if thread.waiting_for is not None else None
        thread.result = self._result
        return self.left

"""The numbers of the models, the same for every engine."""

from __future__ import annotations

from typing import NamedTuple

MS = 1_000_000


class Work(NamedTuple):
    """What one thread does again and again, ns."""

    burst: int
    wait: int
    is_interactive: bool


def delays() -> list[int]:
    """1000 delays, 97 different ones."""
    return [1000 + number % 97 * 10 for number in range(1000)]


def interactive() -> list[Work]:
    """1000 threads: half with bursts of 50-148 ms and 1 ms of I/O, half with 1-2.9 ms and 8-15.8 ms."""
    batch = [Work((50 + number % 99) * MS, MS, False) for number in range(500)]
    users = [Work(MS + number % 20 * MS // 10, 8 * MS + number % 40 * MS // 5, True) for number in range(500)]
    return [work for pair in zip(batch, users, strict=True) for work in pair]


class Task(NamedTuple):
    """A periodic task with implicit deadlines, ns: each job is due when the next one is released."""

    offset: int
    period: int
    work: int


PERIODIC_DURATION = 50 * MS


def periodic() -> list[Task]:
    """1000 tasks with periods of 5-24 ms that need 80 % of 64 processors."""
    periods = [(5 + number % 20) * MS for number in range(1000)]
    return [
        Task(number * 7919 % 1000 * period // 1000, period, period * 64 * 8 // 10_000)
        for number, period in enumerate(periods)
    ]

"""The general mechanisms of a kernel. Every decision is asked of plugins through hooks."""

from ntlab.machine.locks import Acquire, Release, SpinLock
from ntlab.machine.machine import Machine
from ntlab.machine.policy import SchedulerPolicy
from ntlab.machine.processors import NOMINAL, Processor
from ntlab.machine.threads import Compute, Process, Program, Request, Session, Sleep, Thread

__all__ = [
    "NOMINAL",
    "Acquire",
    "Compute",
    "Machine",
    "Process",
    "Processor",
    "Program",
    "Release",
    "Request",
    "SchedulerPolicy",
    "Session",
    "Sleep",
    "SpinLock",
    "Thread",
]

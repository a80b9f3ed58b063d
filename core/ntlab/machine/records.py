"""The records of the scheduler, as the NT Kernel Logger names them."""

from __future__ import annotations

from ntlab.tracing import event_type

KERNEL_LOGGER = "NT Kernel Logger"
CSWITCH = event_type(
    KERNEL_LOGGER,
    "Thread/CSwitch",
    "cpu new_tid old_tid new_priority old_priority old_state old_wait_reason new_ready_time",
)
READY_THREAD = event_type(KERNEL_LOGGER, "Dispatcher/ReadyThread", "tid increment")
THREAD_START = event_type(KERNEL_LOGGER, "Thread/Start", "tid pid name$")
THREAD_END = event_type(KERNEL_LOGGER, "Thread/End", "tid run_time")

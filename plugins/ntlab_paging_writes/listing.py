"""The paging file's input and output as Process Monitor lists it."""

from __future__ import annotations

from ntlab.machine import Machine
from ntlab.machine.io import NOCACHE, PAGING_IO
from ntlab.machine.paging import SYSTEM_PID

COLUMNS = ("Time", "Process Name", "PID", "Operation", "Path", "Result", "Detail")
_FLAGS = ((NOCACHE, "Non-cached"), (PAGING_IO, "Paging I/O"))
_PRIORITIES = ("Very Low", "Low", "Normal", "High", "Critical")
_RESULTS = {0: "SUCCESS"}


def process_monitor(machine: Machine) -> str:
    """The writes to the paging file that have ended, in the order in which they began.

    Needs a tracer that keeps its records.
    """
    ends = {record["irp"]: record["nt_status"] for record in machine.tracer.records("FileIo/OperationEnd")}
    rows = [COLUMNS]
    for record in machine.tracer.records("FileIo/Write"):
        pid, flags, priority = int(record["pid"]), int(record["io_flags"]), int(record["priority"])
        status = ends.get(record["irp"])
        if status is None:
            continue
        marks = ", ".join(name for bit, name in _FLAGS if flags & bit)
        rows.append(
            (
                f"{record.time / 1e9:.7f}",
                "System" if pid == SYSTEM_PID else machine.processes[pid].name,
                str(pid),
                "WriteFile",
                str(record["file"]),
                _RESULTS.get(int(status), f"{int(status):#010x}"),
                f"Offset: {record['offset']:,}, Length: {record['io_size']:,}, I/O Flags: {marks}, "
                f"Priority: {_PRIORITIES[priority]}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

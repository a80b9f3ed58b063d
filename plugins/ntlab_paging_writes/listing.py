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
    ended = machine.tracer.records("FileIo/OperationEnd")
    ends = {int(record["irp"]): int(record["nt_status"]) for record in ended}
    rows = [COLUMNS]
    for record in machine.tracer.records("FileIo/Write"):
        values = {name: int(value) for name, value in record.fields.items() if isinstance(value, int)}
        status = ends.get(values["irp"])
        if status is None:
            continue
        pid = values["pid"]
        flags = ", ".join(name for bit, name in _FLAGS if values["io_flags"] & bit)
        rows.append(
            (
                f"{record.time / 1e9:.7f}",
                "System" if pid == SYSTEM_PID else machine.processes[pid].name,
                str(pid),
                "WriteFile",
                str(record["file"]),
                _RESULTS.get(status, f"{status:#010x}"),
                f"Offset: {values['offset']:,}, Length: {values['io_size']:,}, I/O Flags: {flags}, "
                f"Priority: {_PRIORITIES[values['priority']]}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

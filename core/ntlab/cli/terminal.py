"""Tables and progress: with rich on a terminal, as plain text anywhere else."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ntlab.lab.tables import Table

_COLOURS = {"holds": "green", "FAILS": "bold red"}


def show(tables: Sequence[Table]) -> None:
    """Print tables to stdout."""
    if not sys.stdout.isatty():
        print("\n".join(table.text() for table in tables), end="")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    for table in tables:
        drawn = RichTable(
            title=Text(table.title) if table.title else None, title_justify="left", box=SIMPLE_HEAD
        )
        for heading, right in table.columns:
            drawn.add_column(Text(heading), justify="right" if right else "left", overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
        console.print(drawn)


def width() -> int:
    """How long lines of text may be: as a table of the terminal holds, or any length where there is none."""
    return shutil.get_terminal_size().columns - 4 if sys.stdout.isatty() else sys.maxsize


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None] | None]:
    """What to tell of each finished run: a bar on stderr where that is a terminal, else None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, of: int, last: str) -> None:
            bar.update(task, completed=done, total=of, description=last)

        yield tell

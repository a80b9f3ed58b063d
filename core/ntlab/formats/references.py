"""Page references: which pages a program touched, in order, as others have recorded them.

Two formats are read, plain or gzipped; the first line tells which:

- page numbers, one a line, decimal: the traces of the LIRS papers. They do not say what was written.
- what ``valgrind --tool=lackey --trace-mem=yes --log-file=FILE PROGRAM`` writes: instruction fetches, loads,
  stores and modifications, each with its address and size. Lines of valgrind's own ("==") are skipped.

Files are read line by line, so that a trace may be larger than memory.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ntlab.errors import UserError
from ntlab.formats.packed import open_text

PAGE_BITS = 52
"""Numbers of pages are below two to this power: what is left of 64 bits with pages of 4 KiB."""
ACCESS_BYTES = 4096
"""The largest access that is believed; lackey's are some hundred bytes at most."""

A_PAGE = f"a page number below 2**{PAGE_BITS}"
AN_ACCESS = "an access as lackey writes it, such as ' L 1ffeffe7e,8'"

_PAGE = re.compile(r"[0-9]{1,16}", re.ASCII)
_ACCESS = re.compile(r"(I | [LSM]) ([0-9a-fA-F]{1,16}),([0-9]{1,4})", re.ASCII)
_WRITES = {" S", " M"}


class Reference(NamedTuple):
    """One reference to one page."""

    page: int
    write: bool


def read_references(path: str | Path, *, page_size: int = 4096) -> Iterator[Reference]:
    """The references in a file, in order. An access that crosses pages is a reference to each.

    `page_size` turns addresses into page numbers; page numbers are taken as they are. Raises UserError
    naming file and line, when it comes to a line that is neither; before the first reference, for a file that
    cannot be read or has none.
    """
    return _read(Path(path), page_size)


def filtered(references: Iterable[Reference], entries: int = 1) -> Iterator[Reference]:
    """The references without those to the `entries` pages that were referenced last, which a processor's
    translation buffer of that size would answer. What such a reference wrote is left out with it.

    With one entry, what any rule of replacement misses stays the same; with more, nearly so, as long as
    memory is much larger than the buffer.
    """
    buffer: OrderedDict[int, None] = OrderedDict()
    for reference in references:
        page = reference.page
        if page in buffer:
            buffer.move_to_end(page)
            continue
        buffer[page] = None
        if len(buffer) > entries:
            buffer.popitem(last=False)
        yield reference


def _read(path: Path, page_size: int) -> Iterator[Reference]:
    with open_text(path, "ascii") as file:
        yield from _references(file, str(path), page_size)


def _references(lines: Iterable[str], name: str, page_size: int) -> Iterator[Reference]:
    pages: bool | None = None  # whether lines are page numbers: not known before the first
    for number, line in enumerate(lines, 1):
        line = line.rstrip()
        if not line or line.startswith("=="):
            continue
        if pages is None:
            pages = _PAGE.fullmatch(line) is not None
            if not pages and _ACCESS.fullmatch(line) is None:
                raise _wrong(name, number, line, f"{A_PAGE}, or {AN_ACCESS}")
        if pages:
            if _PAGE.fullmatch(line) is None or int(line) >> PAGE_BITS:
                raise _wrong(name, number, line, A_PAGE)
            yield Reference(int(line), False)
            continue
        found = _ACCESS.fullmatch(line)
        size = int(found[3]) if found is not None else 0
        if found is None or not 0 < size <= ACCESS_BYTES:
            raise _wrong(name, number, line, AN_ACCESS)
        address = int(found[2], 16)
        write = found[1] in _WRITES
        for page in range(address // page_size, (address + size - 1) // page_size + 1):
            yield Reference(page, write)
    if pages is None:
        raise UserError("no references", where=name, expected="page numbers, or what lackey writes")


def _wrong(name: str, number: int, line: str, expected: str) -> UserError:
    shown = line if len(line) <= 60 else f"{line[:57]}..."
    return UserError(f"{shown!r}", where=f"{name}, line {number}", expected=expected)

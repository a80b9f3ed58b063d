"""Texts that others recorded, as they are or packed by gzip."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ntlab.errors import UserError

GZIP = b"\x1f\x8b"
"""What a gzip file begins with."""


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """A text file, open for reading; what is not of its encoding is replaced.

    Raises UserError where it cannot be read, or unpacked, also while it is read.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
        opened = gzip.open if packed else open
        with opened(path, "rt", encoding=encoding, errors="replace") as text:
            yield text
    except OSError as error:  # gzip's own are some of them
        raise UserError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except (EOFError, zlib.error) as error:
        raise UserError(
            f"cannot be unpacked: {error}", where=str(path), expected="a whole gzip file"
        ) from None

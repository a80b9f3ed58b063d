"""What plugins print, kept apart from what ntlab prints: stdout may be read by a program."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from types import FrameType

_noted: set[str] = set()


def note(text: str) -> None:
    """Tell the user something, on stderr, once."""
    if text not in _noted:
        _noted.add(text)
        sys.stderr.write(f"ntlab: note: {text}\n")  # in one piece, since other processes write there too


@contextlib.contextmanager
def prints_on_stderr(owner_of: Callable[[str], str]) -> Iterator[None]:
    """Send what is printed meanwhile to stderr, with a note that names each plugin that prints.

    `owner_of` gives the plugin that brings a module's top package, or "".
    """
    if isinstance(sys.stdout, _Prints):
        yield
        return
    with contextlib.redirect_stdout(_Prints(owner_of)) as prints:
        try:
            yield
        finally:
            prints.flush()


class _Prints(io.TextIOBase):
    def __init__(self, owner_of: Callable[[str], str]) -> None:
        self._owner_of = owner_of
        self._line = ""

    def write(self, text: str) -> int:
        plugin = self._printing(sys._getframe(1))
        if plugin:
            note(
                f"plugin {plugin!r} prints, which goes to stderr: stdout is for results. "
                "Print to sys.stderr, or offer a view (ntlab run --view)"
            )
        lines, _, self._line = (self._line + text).rpartition("\n")
        if lines or "\n" in text:
            sys.stderr.write(f"{lines}\n")
        return len(text)

    def _printing(self, frame: FrameType | None) -> str:
        while frame is not None:
            plugin = self._owner_of(frame.f_globals.get("__name__", "").partition(".")[0])
            if plugin:
                return plugin
            frame = frame.f_back
        return ""

    def flush(self) -> None:
        line, self._line = self._line, ""
        sys.stderr.write(line)
        sys.stderr.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.stderr.encoding

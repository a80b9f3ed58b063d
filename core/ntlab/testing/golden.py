"""Golden traces: the records of a machine, kept as a text file, and compared with what it does now.

    compare_golden(machine, Path(__file__).parent / "golden" / "two-threads.trace")

The file is made to be read and to be kept under version control: how often each event occurs, then a record
a line. Of a long trace only the first records are written out; the others are there as a digest.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from ntlab.testing.lines import line_of
from ntlab.testing.recorder import Recorder, Records

if TYPE_CHECKING:
    from ntlab.machine import Machine

ACCEPT = "NTLAB_ACCEPT"
"""The environment variable that makes every comparison write its file; pytest's --ntlab-accept sets it."""

LIMIT = 2000
CONTEXT = 4
_FORM = "# ntlab golden trace, form 1"
_REST = "# and "


def compare_golden(
    subject: Machine | Records, path: str | os.PathLike[str], *, limit: int = LIMIT, context: int = CONTEXT
) -> None:
    """Compare a machine's records, or some of them (`Recorder`), with those in a file.

    `limit` is how many are written out. Raises AssertionError where they differ or there is no file: it
    shows the first difference with `context` lines around it, which events are more or fewer, and how to
    accept what is there now. Where that is accepted, the file is written.
    """
    file = Path(path)
    now = _text(subject, limit)
    then = file.read_text(encoding="utf-8").splitlines() if file.exists() else None
    if now == then:
        return
    if os.environ.get(ACCEPT, "") not in ("", "0"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*now, ""]), encoding="utf-8", newline="\n")
        return
    how = f"to accept what happens now: pytest --ntlab-accept, or {ACCEPT}=1; then read the change"
    if then is None:
        raise AssertionError(f"there is no golden trace {file} yet; {how}")
    raise AssertionError("\n".join([*_difference(file, then, now, context), how]))


def _text(subject: Machine | Records, limit: int) -> list[str]:
    """The lines of the file."""
    records = iter(subject) if isinstance(subject, Iterable) else Recorder(subject).all()
    counts: Counter[str] = Counter()
    shown = []
    for record in islice(records, limit):
        counts[f"{record.provider}/{record.name}"] += 1
        shown.append(line_of(record))
    rest, digest = 0, sha256()
    for record in records:
        counts[f"{record.provider}/{record.name}"] += 1
        digest.update(f"{line_of(record)}\n".encode())
        rest += 1
    lines = [_FORM, *(f"# {count} {name}" for name, count in sorted(counts.items())), *shown]
    if rest:
        lines.append(f"{_REST}{rest} more records, sha256 {digest.hexdigest()}")
    return lines


def _difference(file: Path, then: list[str], now: list[str], context: int) -> list[str]:
    """What a person wants to know of two traces that differ."""
    if not then or then[0] != _FORM:
        return [f"{file} is no golden trace: its first line is not {_FORM!r}"]
    before, after = _counts(then), _counts(now)
    records_then, records_now = _records(then), _records(now)
    pairs = zip_longest(records_then, records_now)
    first = next((index for index, (old, new) in enumerate(pairs) if old != new), None)
    if first is None:
        found = [f"{file}: the same records, but other counts: has it been edited?"]
    elif any(records[first : first + 1] and records[first].startswith(_REST)
             for records in (records_then, records_now)):  # fmt: skip
        found = [
            f"{file}: the trace differs after record {first}, beyond those written out",
            f"  - {records_then[first] if first < len(records_then) else '(nothing)'}",
            f"  + {records_now[first] if first < len(records_now) else '(nothing)'}",
            "  (a larger `limit` writes out more; a filter leaves out what does not matter)",
        ]
    else:
        found = [f"{file}: the trace differs from record {first + 1} on (- golden, + now)"]
        found += _window(records_then, records_now, first, context)
    changed = [name for name in sorted({*before, *after}) if before.get(name, 0) != after.get(name, 0)]
    if changed:
        found.append("events, golden -> now:")
        found += [f"  {name}  {before.get(name, 0)} -> {after.get(name, 0)}" for name in changed]
    else:
        found.append("each event occurs as often as before")
    return found


def _window(then: Sequence[str], now: Sequence[str], first: int, context: int) -> list[str]:
    """Some lines before the first difference, and what follows on each side."""
    from difflib import SequenceMatcher

    start = max(0, first - context)
    ahead = first + 50  # enough to see where the two meet again
    old, new = then[first:ahead], now[first:ahead]
    lines = [f"    {line}" for line in now[start:first]]
    for what, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            lines += [f"    {line}" for line in old[a:b]]
        else:
            lines += [f"  - {line}" for line in old[a:b]] + [f"  + {line}" for line in new[c:d]]
    shown = 4 * context + 2
    more = len(lines) > shown or max(len(then), len(now)) > ahead
    return [*(["    ..."] if start else []), *lines[:shown], *(["    ..."] if more else [])]


def _counts(lines: Sequence[str]) -> dict[str, int]:
    found = {}
    for line in lines[1:]:
        mark, _, rest = line.partition(" ")
        count, _, name = rest.partition(" ")
        if mark != "#" or not count.isdigit():
            break
        found[name] = int(count)
    return found


def _records(lines: Sequence[str]) -> list[str]:
    """The lines of the records, and the one that stands for those that are not written out."""
    return [line for line in lines if not line.startswith("#") or line.startswith(_REST)]

"""Page references: both formats, exactly; what is wrong in a file is told with its line."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntlab.errors import UserError
from ntlab.formats.references import Reference, filtered, read_references
from textbook import lru_misses

TRACES = Path(__file__).parents[3] / "shared" / "data" / "references"

LACKEY = """\
==10713== Lackey, an example Valgrind tool
==10713== Command: ./a.out
==10713==
I  0401ab70,3
 S 1fff000688,8
 L 00005ffc,8
 M 00006000,4
==10713== Counted 1 call to main()
"""


def write(folder: Path, text: str, *, packed: bool = False) -> Path:
    path = folder / "trace"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_page_numbers(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path, "3\n0\n\n3\n4503599627370495\n", packed=packed)
    assert list(read_references(path)) == [(3, False), (0, False), (3, False), (2**52 - 1, False)]


@pytest.mark.parametrize("packed", [False, True])
def test_what_lackey_writes(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path, LACKEY, packed=packed)
    assert list(read_references(path)) == [
        (0x401A, False),
        (0x1FFF000, True),
        (0x5, False),  # it crosses into the next page
        (0x6, False),
        (0x6, True),
    ]
    assert [page for page, _ in read_references(path, page_size=8192)] == [0x200D, 0xFFF800, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("hello\n", 1, "'hello'; expected a page number below 2**52, or an access as lackey writes it"),
        ("1\n-2\n", 2, "'-2'; expected a page number"),
        ("1\n\n2.5\n", 3, "'2.5'; expected a page number"),
        ("1\n4503599627370496\n", 2, "'4503599627370496'; expected a page number below"),
        ("1\n L 1000,8\n", 2, "' L 1000,8'; expected a page number"),
        (LACKEY + "7\n", 9, "'7'; expected an access as lackey writes it"),
        (LACKEY + " L 1000\n", 9, "' L 1000'; expected an access"),
        (LACKEY + " L 1000,0\n", 9, "' L 1000,0'; expected an access"),
        (LACKEY + " L 1000,4097\n", 9, "' L 1000,4097'; expected an access"),
        (LACKEY + " X 1000,8\n", 9, "' X 1000,8'; expected an access"),
        (
            LACKEY + "what the program printed, which is long and goes on and on and on\n",
            9,
            "and o...'; expected",
        ),
        ("1\n\xff\n", 2, "expected a page number"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, text: str, line: int, found: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        list(read_references(path))
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert found in message
    assert "\n" not in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: cannot be read: No such file"):
        list(read_references(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(read_references(tmp_path))
    with pytest.raises(UserError, match="no references"):
        list(read_references(write(tmp_path, "==1== nothing else\n")))
    whole = gzip.compress(b"1\n" * 1000)
    for broken in (whole[:-12], whole[:-8] + bytes(8), whole[:12] + b"\xff" * 9):
        (tmp_path / "trace").write_bytes(broken)
        with pytest.raises(UserError, match=r"trace: cannot be (read|unpacked)"):
            list(read_references(tmp_path / "trace"))


def test_files_are_read_as_far_as_is_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, "1\n2\nwrong\n")
    assert list(islice(read_references(path), 2)) == [(1, False), (2, False)]


# -- the buffer ----------------------------------------------------------------------------------------------


@given(pages=st.lists(st.integers(0, 9), max_size=60), entries=st.integers(1, 4), frames=st.integers(1, 9))
def test_a_buffer_hides_what_it_holds(pages: list[int], entries: int, frames: int) -> None:
    references = [Reference(page, page % 2 == 0) for page in pages]
    through = [each.page for each in filtered(references, entries)]
    assert len(through) == lru_misses(pages, entries)
    for place, page in enumerate(through):
        assert page not in through[max(0, place - 1) : place]
    if entries == 1:
        assert lru_misses(through, frames) == lru_misses(pages, frames)


# -- real ones -----------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.skipif(not TRACES.is_dir(), reason="no shared data")
@pytest.mark.parametrize(
    ("name", "references", "pages"),
    [("cpp", 9047, 1223), ("loop", 505500, 1011), ("multi1", 15858, 2606), ("sprite", 133996, 7075)],
)
def test_recorded_traces(name: str, references: int, pages: int) -> None:
    found = list(read_references(TRACES / f"{name}.trace.gz"))
    assert (len(found), len({page for page, _ in found})) == (references, pages)


@pytest.mark.once
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_what_valgrind_writes_today(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        ["valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-file={log}", "true"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("valgrind does not run here")
    found = list(read_references(log))
    accesses = [line for line in log.read_text().splitlines() if not line.startswith("==")]
    assert len(found) >= len(accesses) > 10_000
    assert sum(each.write for each in found) >= sum(line[:2] in (" S", " M") for line in accesses) > 0

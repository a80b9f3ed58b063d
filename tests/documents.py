"""Runs what the documents show, and writes them anew with what came out: `python tests/documents.py`.

- A block of `console`: each line `$ ntlab ...` is run by the shell, in a folder of the document's own. The
  exit code must be 0, or N where the line says `# exits N`. Lines below it are its output; where there are
  none, the output is not shown. Commands other than ntlab are left to the reader.
- A block whose first line is a comment with a path, such as `# ntlab_mine/__init__.py`, is written to that
  file. The plugins and hardware that a `pyproject.toml` registers are then installed.
- Any other block of `python` is executed; the blocks of a document share their names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import ntlab
from distributions import write_distribution

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")
_EXIT = re.compile(r"# exits (\d+)")


def rendered(document: str, folder: Path) -> str:
    """The document with what its commands print now. Raises AssertionError where one goes wrong."""
    names: dict[str, Any] = {}

    def render(block: re.Match[str]) -> str:
        language, content = block.groups()
        path = _PATH.match(content)
        if path is not None:
            _write(folder, path[1], content)
        elif language == "python":
            exec(compile(content, "<document>", "exec"), names)
        elif language == "console":
            return f"```console\n{_console(content, folder)}```"
        return block[0]

    return _BLOCK.sub(render, document)


def _write(folder: Path, name: str, content: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    if name == "pyproject.toml":
        project = tomllib.loads(content)["project"]
        groups = project["entry-points"]
        plugins, hardware = groups.get("ntlab.plugins"), groups.get("ntlab.hardware")
        write_distribution(folder, project["name"], plugins=plugins, hardware=hardware, modules={})


def _console(content: str, folder: Path) -> str:
    lines: list[str] = []
    for command, *shown in (
        part.splitlines() for part in re.split(r"^(?=\$ )", content, flags=re.MULTILINE) if part
    ):
        lines.append(command)
        if re.search(r"\bntlab\b", command) and "pip install" not in command:
            printed = _run(command.removeprefix("$ "), folder)
            lines += printed if shown else []
        else:
            lines += shown
    return "\n".join([*lines, ""])


def _run(command: str, folder: Path) -> list[str]:
    """What a command prints, without blanks at the ends of lines."""
    bin = folder / ".bin"
    bin.mkdir(exist_ok=True)
    script = bin / "ntlab"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ntlab "$@"\n')
    script.chmod(0o755)
    sources = str(Path(ntlab.__file__).parents[1])
    more = {
        "PATH": os.pathsep.join([str(bin), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), sources, os.environ.get("PYTHONPATH", "")])),
    }
    ran = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=os.environ | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    expected = _EXIT.search(command)
    assert ran.returncode == (int(expected[1]) if expected else 0), f"{command}\n{ran.stdout}"
    return [line.rstrip() for line in ran.stdout.rstrip().splitlines()]


if __name__ == "__main__":
    for file in DOCUMENTS:
        with tempfile.TemporaryDirectory() as empty:
            os.chdir(empty)
            before = file.read_text(encoding="utf-8")
            after = rendered(before, Path(empty))
            if after != before:
                file.write_text(after, encoding="utf-8")
                print(f"{file.relative_to(ROOT)} is written anew")

"""Runs what the documents show, and writes them anew with what came out: `python tests/documents.py`.

- A block of `console`: each line `$ ...` is run by the shell, in a folder of the document's own. The exit
  code must be 0, or N where the line says `# exits N`. Lines below it are its output; where there are none,
  the output is not shown. `$ cd FOLDER` counts for all that follows, and `$ pip install -e` installs what the
  project in that folder registers, without building anything. Other commands that fetch or build (`pip`,
  `tox`) are left to the reader. How long tests took is not shown.
- A block whose first line is a comment with a path, such as `# ntlab_mine/__init__.py`, is written to that
  file; a block of `diff` with such a line is applied to it: what it takes away must be there once.
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
_FETCHES = re.compile(r"\b(pip|tox)\b")
_TIME = re.compile(r"(\d (?:passed|skipped|failed|deselected)) in [\d.]+s$")


def rendered(document: str, folder: Path) -> str:
    """The document with what its commands print now. Raises AssertionError where one goes wrong."""
    page = _Page(folder)
    return _BLOCK.sub(page.render, document)


class _Page:
    """The blocks of one document, run one after the other."""

    def __init__(self, folder: Path) -> None:
        self.here = folder
        self.names: dict[str, Any] = {}
        self.paths = [Path(ntlab.__file__).parents[1]]
        self.bin = folder / ".bin"
        self.site = folder / ".site"
        self.bin.mkdir()
        programs = {"python": "", "ntlab": "-m ntlab", "pytest": "-m pytest -p no:cacheprovider"}
        for name, arguments in programs.items():
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
            script.chmod(0o755)

    def render(self, block: re.Match[str]) -> str:
        language, content = block.groups()
        path = _PATH.match(content)
        if path is not None and language == "diff":
            self._change(self.here / path[1], content[path.end() :])
        elif path is not None:
            file = self.here / path[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        elif language == "python":
            exec(compile(content, "<document>", "exec"), self.names)
        elif language == "console":
            return f"```console\n{self._console(content)}```"
        return block[0]

    def _change(self, file: Path, difference: str) -> None:
        lines = [(line[:1], line[1:]) for line in difference.splitlines(keepends=True)]
        old = "".join(line for mark, line in lines if mark != "+")
        new = "".join(line for mark, line in lines if mark != "-")
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file.name} has {text.count(old)} times\n{old}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def _console(self, content: str) -> str:
        lines: list[str] = []
        for line, *shown in (
            part.splitlines() for part in re.split(r"^(?=\$ )", content, flags=re.MULTILINE) if part
        ):
            command = line.removeprefix("$ ")
            lines.append(line)
            if command.startswith("cd "):
                self.here /= command.removeprefix("cd ")
            elif "pip install -e" in command:
                self._install()
            elif not _FETCHES.search(command):
                printed = self._run(command)
                shown = printed if shown else []
            lines += shown
        return "\n".join([*lines, ""])

    def _install(self) -> None:
        project = tomllib.loads((self.here / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = project["entry-points"]
        plugins, hardware = groups.get("ntlab.plugins"), groups.get("ntlab.hardware")
        readme = self.here / project["readme"] if "readme" in project else None
        write_distribution(
            self.site,
            project["name"],
            plugins=plugins,
            hardware=hardware,
            modules={},
            readme="" if readme is None else readme.read_text(encoding="utf-8"),
        )
        self.paths = [self.site, self.here, *self.paths]

    def _run(self, command: str) -> list[str]:
        """What a command prints, without blanks at the ends of lines."""
        more = {
            "PATH": os.pathsep.join([str(self.bin), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([*map(str, self.paths), os.environ.get("PYTHONPATH", "")]),
        }
        ran = subprocess.run(
            command,
            shell=True,
            cwd=self.here,
            env=os.environ | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
            preexec_fn=_stay_on_one_processor,
        )
        expected = _EXIT.search(command)
        assert ran.returncode == (int(expected[1]) if expected else 0), f"{command}\n{ran.stdout}"
        return [_TIME.sub(r"\1", line).rstrip() for line in ran.stdout.rstrip().splitlines()]


def _stay_on_one_processor() -> None:
    """So ntlab begins no more processes, which would take longer than most of the runs that are shown."""
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        os.sched_setaffinity(0, {usable[worker % len(usable)]})


if __name__ == "__main__":
    for file in DOCUMENTS:
        with tempfile.TemporaryDirectory() as empty:
            os.chdir(empty)
            before = file.read_text(encoding="utf-8")
            after = rendered(before, Path(empty))
            if after != before:
                file.write_text(after, encoding="utf-8")
                print(f"{file.relative_to(ROOT)} is written anew")

"""The Pythons of this computer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def newer_pythons() -> list[str]:
    """Newer Pythons than this one, one a minor version, oldest first: on PATH, or among those pyenv keeps."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for minor in range(sys.version_info.minor + 1, 14):
        name = f"python3.{minor}"
        candidates = [shutil.which(name), *map(str, sorted(kept.glob(f"3.{minor}.*/bin/{name}")))]
        for python in filter(None, candidates):
            if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
                found.append(python)
                break
    return found

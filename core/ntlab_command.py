"""The command ``ntlab``, beside the package: so Ctrl-C while that is imported is no traceback either."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command and return its exit code."""
    try:
        from ntlab.cli.main import main as command

        return command()
    except KeyboardInterrupt:
        sys.stderr.write("ntlab: interrupted\n")
        return 130

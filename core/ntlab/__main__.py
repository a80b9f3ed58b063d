"""``python -m ntlab``: the same as the command ``ntlab``."""

import sys

from ntlab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

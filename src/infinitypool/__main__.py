"""``python -m infinitypool`` is the command ``infinitypool``."""

from __future__ import annotations

import sys

from infinitypool.cli import main

if __name__ == "__main__":
    sys.exit(main())

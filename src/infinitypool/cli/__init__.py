"""The command ``infinitypool``: pool a picture, work out sizes, list the kinds, measure, report.

The command is a front like the others: it turns text into arguments, calls the public
functions of :mod:`infinitypool`, and words what comes back. It never computes a pooled value
itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (default: ``sys.argv[1:]``) and return its exit status.

    0 is success, 2 any refusal, told in one line on stderr that starts with ``infinitypool:``.

    >>> main(["shape", "nonsense", "--kernel", "2"])
    2
    """
    try:
        from infinitypool.cli import app

        return app.run(sys.argv[1:] if argv is None else list(argv))
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich", "PIL"}:
            raise
        print(
            f"infinitypool: the command needs {error.name}: pip install 'infinitypool[cli]'",
            file=sys.stderr,
        )
        return 2

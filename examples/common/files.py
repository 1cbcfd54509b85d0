"""Input that cannot be used, and files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Refused(Exception):
    """Input that cannot be used; its text is the one line that the user reads.

    ``alone``: of several processes, this one alone has met it.
    """

    alone = False

    def __str__(self) -> str:
        # a DataLoader's worker process sends a whole traceback: the line is what comes last
        return super().__str__().rpartition(f"{__name__}.Refused: ")[2].strip()


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO]:
    """A new file that takes the place of ``path`` when it is whole; until then, the old one stays.

    Every OSError names ``path``.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open(mode) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error

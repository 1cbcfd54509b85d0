"""What was done to a model, row by row: what :func:`convert` and :func:`optimize` hand back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

LEFT = "left"


class Row(NamedTuple):
    """What happened to one module or function call of a model."""

    path: str  # as in model.named_modules(); of a call, the module that makes it
    kind: str  # class or function
    action: str  # "left", or what was done
    note: str = ""  # with what, or why not


class Report:
    """Rows that print as a table, in the order in which things happened.

    >>> from infinitypool.nn.report import Report, Row
    >>> report = Report([Row("features.1", "BatchNorm2d", "folded", "into features.0")])
    >>> report.add("features.9", "Conv2d", "left", "has a hook")
    >>> print(report)
    module      kind         action  note
    ----------  -----------  ------  ---------------
    features.1  BatchNorm2d  folded  into features.0
    features.9  Conv2d       left    has a hook
    >>> report.counts
    {'folded': 1, 'left': 1}
    >>> [row.path for row in report.left]
    ['features.9']
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = list(rows)

    def add(self, path: str, kind: str, action: str, note: str = "") -> None:
        """One row more."""
        self.rows.append(Row(path, kind, action, note))

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def done(self) -> list[Row]:
        """What was changed."""
        return [row for row in self.rows if row.action != LEFT]

    @property
    def left(self) -> list[Row]:
        """What was left as it was, with the reason as ``note``."""
        return [row for row in self.rows if row.action == LEFT]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows there are of every action."""
        return dict(Counter(row.action for row in self.rows))

    def __str__(self) -> str:
        table = [("module", "kind", "action", "note"), *self.rows]
        table = [(path or "(model)", *rest) for path, *rest in table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        table.insert(1, tuple("-" * width for width in widths))
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {action}" for action, count in self.counts.items())
        return f"<Report: {counts or 'nothing'}>"

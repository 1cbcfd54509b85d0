"""Text on the command line -> arguments of the public functions.

Only the syntax is judged here (is it a number, a list, a pair?). Whether a value makes sense is
decided by the functions themselves, so that there is one set of rules and one wording.
"""

from __future__ import annotations

import re

__all__ = ["Refused", "integers", "padding", "reals", "seed"]

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # 18 digits: always inside 64 bits


class Refused(Exception):
    """Something the user has to change; its text is the one line that is printed."""


def _integer(text: str, option: str, whole: str, forms: str) -> int:
    text = text.strip()
    if not _INTEGER.fullmatch(text):
        raise Refused(f"{option} {whole!r}: {text!r} is not a whole number; give {forms}")
    return int(text)


def integers(text: str, option: str) -> int | tuple[int, ...]:
    """``"6"`` -> 6, ``"6,4"`` -> (6, 4).

    >>> integers("6", "--kernel"), integers("6,4", "--kernel")
    (6, (6, 4))
    """
    forms = "a number such as 6, or one for each axis such as 6,4"
    values = tuple(_integer(part, option, text, forms) for part in text.split(","))
    return values[0] if len(values) == 1 else values


def seed(text: str, option: str) -> int:
    """``"7"`` -> 7.

    >>> seed("7", "--seed")
    7
    """
    number = _integer(text, option, text, "a number such as 7")
    if number < 0:
        raise Refused(f"{option} {text!r}: give 0 or more")
    return number


def reals(text: str, option: str) -> float | tuple[float, ...]:
    """``"0.7"`` -> 0.7, ``"0.7,0.5"`` -> (0.7, 0.5).

    >>> reals("0.7", "--ratio"), reals("0.7,0.5", "--ratio")
    (0.7, (0.7, 0.5))
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise Refused(
            f"{option} {text!r}: give a number such as 0.7, or one for each axis such as 0.7,0.5"
        ) from None
    return values[0] if len(values) == 1 else values


def padding(text: str, other_words: bool = False) -> int | str | tuple[int | tuple[int, int], ...]:
    """One number, one an axis, before:after an axis, or a word.

    With ``other_words`` every word passes, for a function that has its own.

    >>> padding("1"), padding("1,2"), padding("0:1,2:3"), padding("same")
    (1, (1, 2), ((0, 1), (2, 3)), 'same')
    """
    if text in {"same", "valid"} or (other_words and text.isalpha()):
        return text
    option = "--padding"
    forms = "1, or 1,2 (one for each axis), or 0:1,2:3 (before:after), or same, or valid"
    entries: list[int | tuple[int, int]] = []
    for part in text.split(","):
        before, colon, after = part.partition(":")
        first = _integer(before, option, text, forms)
        entries.append((first, _integer(after, option, text, forms)) if colon else first)
    if len(entries) == 1 and isinstance(entries[0], int):
        return entries[0]
    if any(isinstance(entry, tuple) for entry in entries):
        return tuple(e if isinstance(e, tuple) else (e, e) for e in entries)
    return tuple(entries)

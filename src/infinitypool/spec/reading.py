"""Reading raw arguments: numbers, words and bools, in the habits of one front or the other.

Every reader takes the name of the function and of the argument, for the text of its error, and
gives plain Python values back. A value of a wrong type is a ``TypeError`` in either front; a
number or word that breaks a rule is the front's own kind of error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from reprlib import Repr

LIMIT = 2**63 - 1

# Arguments appear in error texts: enough of them to recognise, never a screenful.
_repr = Repr()
_repr.maxlong = _repr.maxother = _repr.maxstring = 60
show = _repr.repr


@dataclass(frozen=True)
class Front:
    """The habits of one front: which exceptions it raises and which spellings it takes.

    The PyTorch front raises what PyTorch raises for the same call, and takes what PyTorch
    takes: one-element lists broadcast, an empty stride means the kernel, only the first entry
    of a list must not be a bool.
    """

    name: str
    value_error: type[Exception]
    overflow_error: type[Exception]
    word_error: type[Exception]
    nested_error: type[Exception]
    dtype_error: type[Exception]
    lenient: bool
    truncate: bool

    @property
    def input_name(self) -> str:
        """What the front calls the array that comes in."""
        return "input" if self.lenient else "x"


NUMPY = Front(
    name="numpy",
    value_error=ValueError,
    overflow_error=ValueError,
    word_error=ValueError,
    nested_error=ValueError,
    dtype_error=TypeError,
    lenient=False,
    truncate=False,
)
TORCH = Front(
    name="torch",
    value_error=RuntimeError,
    overflow_error=ValueError,
    word_error=TypeError,
    nested_error=TypeError,
    dtype_error=NotImplementedError,
    lenient=True,
    truncate=True,
)
FRONTS = {front.name: front for front in (NUMPY, TORCH)}


# --- whole numbers -------------------------------------------------------------------------


class NotANumber(Exception):
    """Carries the value that is no number."""


def integer(value: object, front: Front = NUMPY, first: bool = True) -> int | None:
    """``value`` as an exact int, or None where it is no integer. Bools are no integers."""
    kind = type(value)
    if kind is int:
        return value  # type: ignore[return-value]
    if kind is bool:
        return int(value) if front.lenient and not first else None  # type: ignore[call-overload]
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None


def integers(value: object, front: Front, depth: int, holes: bool = False) -> int | tuple:
    """An int, or a tuple of them nested at most ``depth`` deep; with ``holes``, of ints and None.

    Raises :class:`NotANumber`.
    """
    number = integer(value, front)
    if number is not None:
        return number
    if not front.lenient and hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return integers(value.tolist(), front, depth, holes)
    if depth and isinstance(value, (tuple, list) if front.lenient else (tuple, list, range)):
        items = []
        for position, item in enumerate(value):
            if item is None and holes:
                items.append(None)
                continue
            number = integer(item, front, first=position == 0)
            items.append(integers(item, front, depth - 1) if number is None else number)
        return tuple(items)
    raise NotANumber(value)


@dataclass(frozen=True)
class Reader:
    """Reads the whole-number arguments of one call, with an entry per pooled axis."""

    function: str
    front: Front
    axes: tuple[int, ...]

    def ints(self, name: str, value: object, depth: int = 1, holes: bool = False) -> int | tuple:
        """An int, or a nested tuple of ints that fit into 64 bits."""
        try:
            numbers = integers(value, self.front, depth, holes)
        except NotANumber as found:
            culprit = found.args[0]
            pairs = ', (before, after) pairs, "same" or "valid"' if name == "padding" else ""
            kinds = "ints or None" if holes else "ints"
            raise TypeError(
                f"{self.function}: {name}={show(value)} must be an int or {len(self.axes)} {kinds}"
                f"{pairs}; {show(culprit)} is {article(type(culprit).__name__)}"
            ) from None
        return numbers

    def fit(self, name: str, value: int | tuple) -> None:
        """Refuse numbers that do not fit into 64 bits."""
        for position, number in enumerate(flatten(value)):
            if not -LIMIT - 1 <= number <= LIMIT:
                # PyTorch calls a list with a later entry that is too large a wrong type.
                error = TypeError if position and self.front.lenient else self.front.overflow_error
                raise error(f"{self.function}: {name}={show(number)} does not fit into 64 bits")

    def broadcast(self, name: str, value: int | tuple, one: bool = True) -> tuple:
        """A number repeated for every axis; PyTorch does so with a list of ``one``, too."""
        n = len(self.axes)
        if not isinstance(value, tuple):
            return (value,) * n
        if len(value) == 1 and self.front.lenient and one:
            return value * n
        if len(value) != n:
            raise self.front.value_error(
                f"{self.function}: {name}={show(value)} must have {n} "
                f"{'entry' if n == 1 else 'entries'}, one per pooled axis, not {len(value)}"
            )
        return value

    def at_least(self, least: int, name: str, value: int | tuple, one: bool = True) -> tuple:
        """One number per axis, none of them below ``least``. None passes."""
        values = self.broadcast(name, value, one)
        for axis, number in zip(self.axes, values, strict=True):
            if number is not None and number < least:
                rule = f"at least {least}" if least else "0 or more"
                raise self.front.value_error(
                    f"{self.function}: {name}={number} must be {rule} (axis {axis})"
                )
        return values

    def ascending(self, values: Sequence) -> tuple:
        """The entries in the order of the axes, which come in any."""
        return tuple(values[i] for i in sorted(range(len(self.axes)), key=self.axes.__getitem__))


def ints_of(function: str, name: str, value: object, holes: bool = False) -> tuple:
    """The entries of an array function's argument that is an int or a sequence of them."""
    try:
        numbers = integers(value, NUMPY, 1, holes)
    except NotANumber as found:
        raise TypeError(
            f"{function}: {name}={show(value)} must be an int or a sequence of ints; "
            f"{show(found.args[0])} is {article(type(found.args[0]).__name__)}"
        ) from None
    if numbers == ():
        raise ValueError(f"{function}: {name}={show(value)} must not be empty")
    return numbers if isinstance(numbers, tuple) else (numbers,)


def count(function: str, name: str, value: object, front: Front = NUMPY) -> int:
    """``value`` as an int of 0 or more."""
    number = integer(value, front)
    if number is None or getattr(value, "ndim", 0):
        raise TypeError(
            f"{function}: {name}={show(value)} must be an int, not {article(type(value).__name__)}"
        )
    if number < 0:
        raise front.value_error(f"{function}: {name}={show(number)} must be 0 or more")
    return number


def article(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def flatten(value: object) -> list[int]:
    if isinstance(value, tuple):
        return [number for item in value for number in flatten(item)]
    return [] if value is None or isinstance(value, str) else [value]  # type: ignore[list-item]


# --- real numbers, bools, words ------------------------------------------------------------


def real(
    function: str,
    name: str,
    value: object,
    front: Front,
    rule: str,
    holds: Callable[[float], bool],
) -> float:
    """``value`` as a float for which ``holds`` is true; ``rule`` says so in words."""
    plain = value
    if not front.lenient and hasattr(value, "tolist"):
        plain = value.tolist()  # NumPy's scalars
    if not isinstance(plain, Real) or isinstance(plain, bool):
        raise TypeError(
            f"{function}: {name}={show(value)} must be a number, not "
            f"{article(type(value).__name__)}"
        )
    try:
        number = float(plain)
    except OverflowError:
        number = float("nan")
    if not holds(number):
        raise front.value_error(f"{function}: {name}={show(plain)} must be {rule}")
    return number


def check_bool(function: str, name: str, value: object, front: Front = NUMPY) -> bool:
    """``value`` as a bool. NumPy's own bools pass in the array functions only."""
    if value is True or value is False:
        return value
    if not front.lenient and type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        plain = value.tolist()
        if plain is True or plain is False:
            return plain
    raise TypeError(
        f"{function}: {name}={show(value)} must be a bool, not {article(type(value).__name__)}"
    )


def check_word(
    function: str, name: str, value: object, words: Sequence[str], front: Front = NUMPY
) -> str:
    """``value``, which must be one of ``words``."""
    if not isinstance(value, str):
        raise TypeError(
            f"{function}: {name}={show(value)} must be a str, not {article(type(value).__name__)}"
        )
    if value not in words:
        choice = ", ".join(f'"{word}"' for word in words)
        raise front.value_error(f"{function}: {name}={show(value)} must be one of {choice}")
    return value

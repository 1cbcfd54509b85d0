"""The docstrings of functions that are made rather than written, filled in for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..spec import KINDS

_NAMES = {1: "L", 2: "H, W", 3: "D, H, W"}

MAX_DOC = """The {what} element of every window, as ``torch.nn.functional.max_pool{n}d``{does}.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float or integer dtype, or bool
    kernel_size: the window's size: {number}
    stride: the step between windows: {number}; by default the kernel
    padding: {number}, at most half of the kernel; or (before, after) pairs of any size, one per
        axis; or ``"same"`` or ``"valid"`` as in TensorFlow. Padding never wins
    dilation: the step inside a window: {number}
    ceil_mode: also take a last window that hangs over the end
    return_indices: also return int64 places in the plane, -1 for a window all in the padding

Returns:
    A tensor of shape (N, C, ...) or (C, ...) with ``floor((n + 2 * padding - dilation *
    (kernel_size - 1) - 1) / stride) + 1`` elements per axis (rounded up with ``ceil_mode``), in
    the input's memory format where PyTorch does so; with indices, a pair of them.

Raises:
    TypeError: for something else than a number (or bool, or tensor) where one belongs
    RuntimeError: for numbers that break a rule, and windows larger than the padded input
    NotImplementedError: for an unsupported dtype

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.{name}(torch.arange({size}.0).view({view}), 2).flatten()
    tensor([{extremum}.])
"""

AVG_DOC = """The mean of every window, as ``torch.nn.functional.{name}``.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float or integer dtype
    kernel_size, stride, padding, ceil_mode: as for :func:`max_pool{n}d`; padding is zero
    count_include_pad: whether padding counts among the elements that a sum is divided by;
        with ``padding="same"`` it never does
    divisor_override: divide every sum by this number instead ({n}-dimensional: {divisor})
    dilation: the step inside a window: {number} (PyTorch has no such argument)

Returns and raises:
    as :func:`max_pool{n}d`

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.{name}(torch.arange({size}.0).view({view}), 2).flatten()
    tensor([{mean}])
"""


ADAPTIVE_DOC = """The {what} of as many windows as asked for: ``torch.nn.functional.{name}``.

Output number o of an axis of n elements reads from ``floor(o * n / output_size)`` up to
``ceil((o + 1) * n / output_size)``. Source: ``torch.nn.AdaptiveAvgPool2d``.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float or integer dtype
    output_size: {holes}; it may be larger than the input's{indices}

Returns:
    A tensor of shape (N, C, ...) or (C, ...) with ``output_size`` elements along the pooled axes,
    in the input's memory format where PyTorch does so; with indices, a pair of them.

Raises:
    TypeError: for something else than a number where one belongs
    RuntimeError: for negative sizes, a wrong number of them, and results that do not fit
    NotImplementedError: for an unsupported dtype

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.{name}(torch.arange({size}.0).view({view}), 1).flatten()
    tensor([{single}])
"""

LP_DOC = """The power sum of every window, ``(sum of w**norm_type) ** (1 / norm_type)``.

As ``torch.nn.functional.{name}``. The root keeps the sum's sign, so an odd ``norm_type`` gives a
number for negative elements, too, where PyTorch gives NaN; the gradient is zero where the sum is.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float dtype
    norm_type: the power, at least 1: 1 gives the sum, infinity the largest absolute value; a
        tensor is possible, and goes to PyTorch's function
    kernel_size: the window's size: {number}
    stride: the step between windows: {number}; by default the kernel
    ceil_mode: also take a last window that hangs over the end, and count it as if the mean of what
        it has went on

Returns:
    A tensor as :func:`avg_pool{n}d` gives

Raises:
    TypeError: for something else than a number where one belongs
    RuntimeError: for numbers that break a rule, and windows larger than the input
    NotImplementedError: for an unsupported dtype

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.{name}(torch.full(({view},), -2.0), 3, 2).pow(3).round().flatten()
    tensor([-{cubes}.])
"""

UNPOOL_DOC = """Zeros, and every value at its index: ``torch.nn.functional.{name}``.

A partial inverse of :func:`max_pool{n}d`. Where several values of a plane have the same index, the
last of them in row order wins, on any number of threads, and the gradient goes to it alone.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any dtype
    indices: int64 tensor of the same shape: positions in the plane of the output, row by row
    kernel_size, stride, padding: as they were for the maximum: {number}
    output_size: the sizes of the plane, or the whole shape; by default
        ``(n - 1) * stride - 2 * padding + kernel_size``, and closer to that than ``stride``

Returns:
    A tensor of shape (N, C, ...) or (C, ...)

Raises:
    TypeError: for something else than a number, or a tensor, where one belongs
    ValueError: for an ``output_size`` out of range
    RuntimeError: for numbers that break a rule, indices of another shape or dtype, and an index
        that is negative or beyond the plane: the first one is named

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> x = torch.arange({size}.0).view({view})
    >>> F.{name}(*F.max_pool{n}d(x, 2, return_indices=True), 2).flatten()[-2:]
    tensor([0., {extremum}.])
"""

FRACTIONAL_DOC = """The largest elements of windows that lie at random.

As ``torch.nn.functional.{name}``, with PyTorch's own sequence of windows for the
same samples. Source: Graham, "Fractional Max-Pooling", 2014.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float dtype
    kernel_size: the window's size: {number}
    output_size: how many windows: {number}
    output_ratio: or their number as a part of the input's size: {n} numbers between 0 and 1
    return_indices: also return int64 places in the plane
    _random_samples: tensor of shape (N, C, {n}) with numbers from 0 to 1, which place the windows of
        each plane; by default ``torch.rand`` draws them

Returns:
    A tensor of shape (N, C, ...) or (C, ...); with indices, a pair of them

Raises:
    TypeError: for something else than a number where one belongs
    ValueError: where neither size nor ratio is given
    RuntimeError: for numbers that break a rule, and windows that do not fit
    NotImplementedError: for an unsupported dtype

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.{name}(torch.arange({size}.0).view({view}), 2, output_size=1){first}.flatten()
    tensor([{extremum}.])
"""

_KIND_DOC = """{summary}

``{formula}`` over the elements w of a window that lie inside the input.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); {dtypes}
    kernel_size, stride, padding, dilation, ceil_mode: as for :func:`max_pool{n}d`. Padding takes no
        part
    {arguments}

Returns:
    A tensor of the shape and the memory format that :func:`max_pool{n}d` gives. A window without
    an element gives {empty}.

{notes}Raises:
    TypeError: for something else than a number where one belongs
    RuntimeError: for numbers that break a rule, and windows larger than the padded input
    NotImplementedError: for an unsupported dtype

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.{name}(torch.arange({size}.0).view({view}), 2{call}).flatten()
    tensor([{value}])
"""


def _printed(value: float) -> str:
    """As a tensor of one element prints it."""
    return f"{value:.0f}." if round(value, 8).is_integer() else f"{value:.4f}"


def document(
    function: Callable[..., Any], name: str, n: int, text: str, word: str = "max", **more: Any
) -> Any:
    """Name a function of ``n`` pooled axes, and fill its docstring in."""
    function.__name__ = function.__qualname__ = name
    size = 2**n
    mean = f"{(size - 1) / 2:.4f}"
    function.__doc__ = text.format(
        name=name if "adaptive" in name else name.removesuffix("_with_indices"),
        n=n,
        what={"max": "largest", "min": "least", "avg": "mean"}[word]
        + (" element" if "adaptive" in name and word == "max" else ""),
        does="" if word == "max" else " does with the largest",
        axes=_NAMES[n],
        number="an int" if n == 1 else f"an int or {n} of them",
        holes="an int" if n == 1 else f"an int, or {n} of them or None, which keeps an axis",
        indices="\n    return_indices: also return int64 places in the plane" * (word == "max"),
        divisor="not possible" if n == 1 else "possible",
        size=size,
        view=", ".join(["1", "1"] + ["2"] * n),
        extremum=size - 1 if word == "max" else 0,
        single=mean if word == "avg" else f"{size - 1}.",
        mean=mean,
        cubes=8 * size,
        first="[0]" if name.endswith("_with_indices") else "",
        fives=", ".join(["1", "1"] + ["5"] * n),
        threes=", ".join(["1", "1"] + ["3"] * n),
        **more,
    )
    if name.startswith("adaptive") and name.endswith("_with_indices"):
        function.__doc__ = function.__doc__.replace(", 1).flatten()", ", 1)[0].flatten()")
    return function


def document_kind(
    function: Callable[..., Any],
    kind: str,
    n: int,
    values: Callable[[list[int]], float],
    call: str = "",
    more: str = "",
) -> Any:
    """The same for a kind of our own, from its row in the table of kinds.

    The example's windows hold 0 and 1, 0 to 3, or 0 to 7, of which ``values`` is the result.
    """
    row = KINDS[kind]
    arguments = [f"{name}: {text}" for name, *_, text in row.arguments]
    if kind == "stochastic":
        arguments = []
    lines = "\n    ".join([*arguments, *([more] if more else [])])
    notes = row.notes.replace("\n    ", "\n") + "\n\n" if row.notes else ""
    function.__name__ = function.__qualname__ = f"{kind}_pool{n}d"
    function.__doc__ = _KIND_DOC.format(
        summary=row.summary,
        formula=row.formula,
        axes=_NAMES[n],
        dtypes="any float dtype" if kind not in ("median", "quantile", "mixed") else "any number",
        n=n,
        arguments=lines,
        empty=row.empty,
        notes=notes,
        name=function.__name__,
        size=2**n,
        view=", ".join(["1", "1"] + ["2"] * n),
        call=call,
        value=_printed(float(values(list(range(2**n))))),
    ).replace("Padding takes no\n        part\n    \n", "Padding takes no\n        part\n")
    return function

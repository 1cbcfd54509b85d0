"""Sizes of the operations that are more than windows at regular steps: unpooling and fractional
pooling."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from .reading import LIMIT, NUMPY, Front, Reader, real, show


def unpool_output_size(
    function: str,
    kernel_size: object,
    *,
    stride: object = None,
    padding: object = 0,
    output_size: object = None,
    axes: tuple[int, ...],
    sizes: Sequence[int],
    front: Front = NUMPY,
) -> tuple[int, ...]:
    """The sizes along the pooled axes, ascending, that unpooling gives.

    ``sizes`` are the input's along ``axes``, in the order of the axes as given. By default
    ``(n - 1) * stride - 2 * padding + kernel_size``; a given ``output_size`` must be closer to it
    than ``stride``. Source: ``torch.nn.MaxUnpool2d``.

    Raises ``TypeError`` for what is no number, ``ValueError`` for an ``output_size`` out of range
    or too few elements, and the front's value error for other numbers that break a rule.

    >>> unpool_output_size("max_unpool", 2, axes=(-2, -1), sizes=(4, 5))
    (8, 10)
    >>> unpool_output_size("max_unpool", 2, axes=(-2, -1), sizes=(4, 5), output_size=(9, 11))
    (9, 11)
    """
    read, n = Reader(function, front, axes), len(axes)
    raw = {
        "kernel_size": read.ints("kernel_size", kernel_size),
        "stride": () if stride is None else read.ints("stride", stride),
        "padding": read.ints("padding", padding),
    }
    if output_size is not None:
        raw["output_size"] = read.ints("output_size", output_size)
    for name, value in raw.items():
        read.fit(name, value)
    kernels = read.at_least(1, "kernel_size", raw["kernel_size"])
    no_stride = stride is None or (front.lenient and raw["stride"] == ())
    strides = kernels if no_stride else read.at_least(1, "stride", raw["stride"])
    paddings = read.at_least(0, "padding", raw["padding"])
    usual = [
        (size - 1) * step - 2 * pad + kernel
        for size, kernel, step, pad in zip(sizes, kernels, strides, paddings, strict=True)
    ]
    result: Sequence[int] = usual
    if output_size is not None:
        wanted = raw["output_size"]
        if front.lenient and isinstance(wanted, tuple) and len(wanted) == n + 2:
            wanted = wanted[2:]  # a whole shape
        if isinstance(wanted, tuple) and len(wanted) != n:
            raise ValueError(
                f"{function}: output_size={show(output_size)} must have {n} "
                f"{'entry' if n == 1 else 'entries'}, one per pooled axis, not {len(wanted)}"
            )
        result = read.broadcast("output_size", wanted)
        for axis, size, middle, step in zip(axes, result, usual, strides, strict=True):
            if not middle - step < size < middle + step:
                raise ValueError(
                    f"{function}: output_size={show(size)} must be between {middle - step} and "
                    f"{middle + step} (axis {axis})"
                )
    for axis, size, kernel, step, pad in zip(axes, result, kernels, strides, paddings, strict=True):
        if not 1 <= size <= LIMIT:
            rule = "less than one element" if size < 1 else "more elements than 64 bits count"
            raise ValueError(
                f"{function}: kernel_size={kernel}, stride={step} and padding={pad} give an "
                f"output_size of {rule} (axis {axis})"
            )
    return read.ascending(result)


def check_bytes(
    function: str, name: str, shape: Sequence[int], itemsize: int, front: Front
) -> None:
    """Refuse a result whose bytes do not fit into 64 bits; ``name`` is what made it so large."""
    if itemsize * prod(max(size, 1) for size in shape) > LIMIT:
        raise front.value_error(
            f"{function}: {name} gives a result of shape {tuple(shape)}, too large for 64 bits"
        )


def check_ratio(function: str, output_ratio: object, n: int, front: Front = NUMPY) -> tuple:
    """``output_ratio`` as one float per axis, above 0 and at most 1.

    PyTorch's rule is below 1; with a window of one element 1 is possible.
    """
    plain = output_ratio
    if not front.lenient and hasattr(plain, "tolist"):
        plain = plain.tolist()
    many = plain if isinstance(plain, (tuple, list)) else (plain,) * n
    top = 1.0 if not front.lenient else 1.0 - 2.0**-53
    rule = "above 0 and " + ("below 1" if front.lenient else "at most 1")
    ratios = tuple(
        real(function, "output_ratio", ratio, front, rule, lambda r: 0 < r <= top) for ratio in many
    )
    if len(ratios) != n:
        raise front.overflow_error(
            f"{function}: output_ratio={show(output_ratio)} must have {n} "
            f"{'entry' if n == 1 else 'entries'}, one per pooled axis, not {len(ratios)}"
        )
    return ratios


def fractional_sizes(
    function: str,
    kernel_size: object,
    *,
    output_size: object = None,
    output_ratio: object = None,
    axes: tuple[int, ...],
    sizes: Sequence[int],
    front: Front = NUMPY,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(kernel_size, output_size)`` of fractional pooling, an entry per axis, axes ascending.

    ``sizes`` are the input's along ``axes``, in the order of the axes as given. The result has
    ``output_size`` elements, or ``int(n * output_ratio)``, and needs
    ``output_size + kernel_size - 1 <= n``. Source: ``torch.nn.FractionalMaxPool2d``.

    Raises ``TypeError`` for what is no number, ``ValueError`` where neither size nor ratio is
    given (in the array front also for both), and the front's value error for numbers that break
    a rule.

    >>> fractional_sizes("fractional_max_pool", 2, output_ratio=0.7, axes=(-2, -1), sizes=(8, 9))
    ((2, 2), (5, 6))
    """
    read, n = Reader(function, front, axes), len(axes)
    kernels = read.ints("kernel_size", kernel_size)
    read.fit("kernel_size", kernels)
    if output_size is None and output_ratio is None:
        raise ValueError(f"{function}: one of output_size and output_ratio must be given")
    if output_size is not None and output_ratio is not None and not front.lenient:
        raise ValueError(
            f"{function}: output_size={show(output_size)} and output_ratio={show(output_ratio)} "
            "exclude each other"
        )
    kernels = read.at_least(1, "kernel_size", kernels, one=n == 1)
    if output_size is not None:
        wanted = read.ints("output_size", output_size)
        read.fit("output_size", wanted)
        least = 0 if front.lenient else 1
        wanted = read.at_least(least, "output_size", wanted, one=n == 1)
        given = f"output_size={show(output_size)}"
    else:
        ratios = check_ratio(function, output_ratio, n, front)
        wanted = tuple(int(size * ratio) for size, ratio in zip(sizes, ratios, strict=True))
        given = f"output_ratio={show(output_ratio)}"
        for axis, size, out in zip(axes, sizes, wanted, strict=True):
            if out < 1 and not front.lenient:
                raise ValueError(
                    f"{function}: output_ratio={show(output_ratio)} leaves nothing of an axis of "
                    f"{size} (axis {axis})"
                )
    for axis, size, kernel, out in zip(axes, sizes, kernels, wanted, strict=True):
        if out + kernel - 1 > size:
            raise front.value_error(
                f"{function}: {given} asks for {out} windows of kernel_size={kernel}, but an axis "
                f"of {size} has room for {max(size - kernel + 1, 0)} (axis {axis})"
            )
    return read.ascending(kernels), read.ascending(wanted)


__all__ = [
    "check_bytes",
    "check_ratio",
    "fractional_sizes",
    "unpool_output_size",
]

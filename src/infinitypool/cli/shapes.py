"""The output-size calculator: the library's answer, and the formula filled in with the numbers.

The sizes come from :func:`infinitypool.output_shape`. The formulas are wording: they follow
PyTorch's documentation of ``MaxPool2d`` (and TensorFlow's of ``"SAME"``), and a test evaluates
the printed text and compares it with the library's answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import infinitypool as ip

__all__ = ["Row", "rows"]


@dataclass(frozen=True)
class Row:
    """One axis of the answer."""

    axis: int
    size: int
    formula: str
    output: int
    note: str


def _each(value: object, count: int) -> tuple:
    return tuple(value) if isinstance(value, tuple) else (value,) * count


def rows(
    sizes: tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None,
    padding: int | str | tuple,
    dilation: int | tuple[int, ...],
    ceil_mode: bool,
    axes: tuple[int, ...],
) -> list[Row]:
    """One row an axis of ``sizes``; raises what :func:`infinitypool.output_shape` raises."""
    answer = ip.output_shape(
        sizes,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        axes=axes,
    )
    count = len(axes)
    kernels = _each(kernel_size, count)
    strides = kernels if stride is None else _each(stride, count)
    pads, dilations = _each(padding, count), _each(dilation, count)
    table = []
    pooled = {axis % len(sizes): place for place, axis in enumerate(axes)}
    for axis, (size, output) in enumerate(zip(sizes, answer, strict=True)):
        if (place := pooled.get(axis)) is None:
            table.append(Row(axis, size, "not pooled", output, ""))
            continue
        k, s, d, pad = kernels[place], strides[place], dilations[place], pads[place]
        words = _same if pad == "same" else _counted
        table.append(Row(axis, size, *words(size, k, s, d, pad, ceil_mode, output)))
    return table


def _same(
    n: int, k: int, s: int, d: int, pad: str, ceil_mode: bool, output: int
) -> tuple[str, int, str]:
    total = max((output - 1) * s + d * (k - 1) + 1 - n, 0)
    formula = f"ceil({n}/{s}) = {output}"
    note = (
        f"padding max(({output}−1)·{s} + {d}·({k}−1) + 1 − {n}, 0) = {total}: "
        f"{total // 2} before, {total - total // 2} after"
    )
    return formula, output, note


def _counted(
    n: int, k: int, s: int, d: int, pad: object, ceil_mode: bool, output: int
) -> tuple[str, int, str]:
    pad = 0 if pad == "valid" else pad
    before, after = pad if isinstance(pad, tuple) else (pad, pad)
    padded = f"2·{before}" if before == after else f"{before} + {after}"
    rounding = "ceil" if ceil_mode else "floor"
    span = n + before + after - d * (k - 1) - 1
    windows = (-(-span // s) if ceil_mode else span // s) + 1
    formula = f"{rounding}(({n} + {padded} − {d}·({k}−1) − 1)/{s}) + 1 = {windows}"
    if windows == output + 1:
        formula += f", − 1 = {output}"
        note = (
            f"the last of {windows} windows is dropped: it would start at "
            f"{windows - 1}·{s} = {(windows - 1) * s}, where the input ({before} + {n}) is over"
        )
        return formula, output, note
    end = (output - 1) * s - before + d * (k - 1) + 1
    if end < n:
        return formula, output, f"no window reaches the last {n - end} of {n}"
    if end > n + after:
        return formula, output, f"the last window reaches {end - n - after} beyond the padded input"
    return formula, output, ""

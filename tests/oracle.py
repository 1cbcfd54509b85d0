"""Pooling written from its definition, as slowly and plainly as possible.

For every output the oracle lists the input elements in its window and reduces them.  It shares no
code with the package, not even the shape arithmetic, so a mistake there cannot hide here.

The window of output ``o`` along one axis holds the positions ``o*stride - before + t*dilation`` for
``t`` in ``[0, kernel_size)``; positions outside ``[0, n)`` take no part.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = (np.dtype(np.float16), BFLOAT16)
FLOATS = tuple(np.dtype(t) for t in ("float64", "float32", "float16")) + (BFLOAT16,)
SIGNED = tuple(np.dtype(t) for t in ("int8", "int16", "int32", "int64"))
UNSIGNED = tuple(np.dtype(t) for t in ("uint8", "uint16", "uint32", "uint64"))
INTEGERS = SIGNED + UNSIGNED
BOOL = np.dtype(bool)
ALL = FLOATS + INTEGERS + (BOOL,)


def dtype_of(name: str) -> np.dtype:
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def is_float(dtype: np.dtype) -> bool:
    return dtype in FLOATS


@dataclass(frozen=True)
class Axis:
    """One pooled axis: its length and how the window moves along it."""

    n: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int
    out: int

    def position(self, o: int, t: int) -> int:
        return o * self.stride - self.before + t * self.dilation

    def inside(self, position: int) -> bool:
        return 0 <= position < self.n

    def counted(self, o: int) -> int:
        """Elements of the window in the input or its padding (for count_include_pad)."""
        return sum(self.position(o, t) < self.n + self.after for t in range(self.kernel))


def make_axis(n, kernel, stride, padding, dilation, ceil_mode) -> Axis:
    """``padding`` is "same", "valid" or a (before, after) pair."""
    span = dilation * (kernel - 1) + 1
    if padding == "same":
        out = -(-n // stride)
        total = max((out - 1) * stride + span - n, 0)
        return Axis(n, kernel, stride, total // 2, total - total // 2, dilation, out)
    before, after = (0, 0) if padding == "valid" else padding
    # Count the windows by hand: window o starts at o*stride in the padded line.  All that fit count;
    # ceil_mode takes one more where the one before left elements over, then drops a last window
    # that starts beyond the input.
    padded = n + before + after
    out = 0
    while out * stride + span <= padded:
        out += 1
    if ceil_mode:
        if (out - 1) * stride + span < padded:
            out += 1
        if (out - 1) * stride >= n + before:
            out -= 1
    return Axis(n, kernel, stride, before, after, dilation, out)


def _per_axis(value, count):
    if isinstance(value, (int, np.integer)):
        return [int(value)] * count
    value = [int(v) for v in value]
    return value * count if len(value) == 1 else value


def _pairs(padding, count):
    if isinstance(padding, str):
        return [padding] * count
    if isinstance(padding, int):
        return [(padding, padding)] * count
    padding = list(padding)
    if len(padding) == 1:
        padding = padding * count
    return [(p, p) if isinstance(p, int) else tuple(p) for p in padding]


def plan(shape, kernel_size, *, stride=None, padding=0, dilation=1, ceil_mode=False, axes=None):
    """The pooled axes (ascending) and an Axis for each."""
    ndim = len(shape)
    if axes is None:
        count = 2 if isinstance(kernel_size, int) else len(kernel_size)
        axes = tuple(range(ndim - count, ndim))
    elif isinstance(axes, int):
        axes = (axes,)
    axes = [a % ndim for a in axes]
    count = len(axes)
    kernel = _per_axis(kernel_size, count)
    step = kernel if stride is None else _per_axis(stride, count)
    pads = _pairs(padding, count)
    spread = _per_axis(dilation, count)
    table = {
        a: make_axis(shape[a], k, s, p, d, ceil_mode)
        for a, k, s, p, d in zip(axes, kernel, step, pads, spread, strict=True)
    }
    order = sorted(table)
    return tuple(order), tuple(table[a] for a in order)


def output_shape(shape, kernel_size, **arguments):
    axes, lines = plan(shape, kernel_size, **arguments)
    result = list(shape)
    for a, line in zip(axes, lines, strict=True):
        result[a] = line.out
    return tuple(result)


@dataclass(frozen=True)
class Pooled:
    values: np.ndarray  # max, min: the input's dtype; float means: longdouble; integers: exact
    plane: np.ndarray | None = None  # int64, -1 where a window holds nothing
    offset: np.ndarray | None = None  # int64, place inside the window, -1 likewise
    magnitude: np.ndarray | None = None  # float means and sums: sum of |w| / divisor
    terms: int = 0  # the most additions any output can take


def _move_in(x, axes):
    return np.moveaxis(x, axes, range(-len(axes), 0))


def _move_out(y, axes):
    return np.moveaxis(y, range(-len(axes), 0), axes)


@functools.lru_cache(maxsize=256)
def _taps(lines):
    """For each place in the window, row by row: flat plane positions of all outputs, and which are
    inside the input."""
    result = []
    outs = list(itertools.product(*(range(line.out) for line in lines)))
    for offset, tap in enumerate(itertools.product(*(range(line.kernel) for line in lines))):
        flat = np.zeros(len(outs), np.int64)
        valid = np.ones(len(outs), bool)
        for place, out in enumerate(outs):
            position = 0
            for line, o, t in zip(lines, out, tap, strict=True):
                p = line.position(o, t)
                if not line.inside(p):
                    valid[place] = False
                    break
                position = position * line.n + p
            flat[place] = position if valid[place] else 0
        result.append((offset, flat, valid))
    return result


def _empty_value(op, dtype):
    if is_float(dtype):
        return -np.inf if op == "max" else np.inf
    if dtype == BOOL:
        return op == "min"
    info = np.iinfo(dtype)
    return info.min if op == "max" else info.max


def pool(
    x,
    op,
    kernel_size,
    *,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    axes=None,
    count_include_pad=True,
    divisor_override=None,
    truncate=False,
) -> Pooled:
    axes, lines = plan(
        x.shape,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        axes=axes,
    )
    moved = _move_in(x, axes)
    lead = moved.shape[: x.ndim - len(axes)]
    rows = moved.reshape(math.prod(lead), math.prod(line.n for line in lines))
    outs = tuple(line.out for line in lines)

    def shaped(flat):
        return _move_out(flat.reshape(lead + outs), axes)

    if op in ("max", "min"):
        values, plane, offset = _extreme(rows, op, lines, x.dtype)
        return Pooled(shaped(values), shaped(plane), shaped(offset))
    include = count_include_pad and padding != "same"
    values, magnitude = _total(rows, op, lines, x.dtype, include, divisor_override, truncate)
    terms = math.prod(line.kernel for line in lines)
    return Pooled(
        shaped(values),
        magnitude=None if magnitude is None else shaped(magnitude),
        terms=terms,
    )


def _extreme(rows, op, lines, dtype):
    """First of equals wins, any NaN beats any number, and of NaNs the last wins."""
    size = (rows.shape[0], math.prod(line.out for line in lines))
    keys = rows.astype(np.float64) if is_float(dtype) else rows  # exact for every float here
    best = np.zeros(size, keys.dtype)
    plane = np.full(size, -1, np.int64)
    where = np.full(size, -1, np.int64)
    for offset, flat, valid in _taps(lines):
        candidate = keys[:, flat] if rows.shape[1] else np.zeros(size, keys.dtype)
        better = candidate > best if op == "max" else candidate < best
        take = valid[None] & ((where < 0) | better | np.isnan(candidate))
        best = np.where(take, candidate, best)
        plane = np.where(take, flat[None], plane)
        where = np.where(take, offset, where)
    empty = np.array(_empty_value(op, dtype), dtype=dtype)
    values = np.full(size, empty, dtype)
    found = plane >= 0
    line, _ = np.nonzero(found)
    values[found] = rows[line, plane[found]]  # the winner's own bits
    return values, plane, where


def divisors(lines, include, override):
    """One divisor per output position, flat."""
    result = []
    for out in itertools.product(*(range(line.out) for line in lines)):
        if override is not None:
            result.append(override)
        elif include:
            result.append(math.prod(g.counted(o) for g, o in zip(lines, out, strict=True)))
        else:
            result.append(
                math.prod(
                    sum(g.inside(g.position(o, t)) for t in range(g.kernel))
                    for g, o in zip(lines, out, strict=True)
                )
            )
    return result


def _total(rows, op, lines, dtype, include, override, truncate):
    exact = not is_float(dtype)
    work = rows.astype(object) if exact else rows.astype(np.longdouble)
    size = (rows.shape[0], math.prod(line.out for line in lines))
    total = np.zeros(size, object if exact else np.longdouble)
    magnitude = np.zeros(size, np.longdouble)
    with np.errstate(invalid="ignore", over="ignore"):
        for _, flat, valid in _taps(lines):
            if not rows.shape[1]:
                continue
            here = np.where(valid[None], work[:, flat], 0)
            total = total + here
            if not exact:
                magnitude = magnitude + np.abs(here)
    if op == "sum":
        if exact:
            return _wrapped(total, dtype), None
        return total, magnitude
    below = divisors(lines, include, override)
    if exact:
        result = np.zeros(size, object)
        for r, o in itertools.product(range(size[0]), range(size[1])):
            result[r, o] = _divide(int(total[r, o]), below[o], truncate)
        return _narrowed(result, dtype), None
    below = np.array(below, np.longdouble)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / below, magnitude / below


def _divide(total, divisor, truncate):
    if divisor == 0:
        return 0
    if divisor < 0:
        total, divisor = -total, -divisor
    quotient, rest = divmod(total, divisor)  # floor
    if truncate:
        return quotient + (1 if quotient < 0 and rest else 0)
    if 2 * rest > divisor or (2 * rest == divisor and quotient % 2):
        return quotient + 1
    return quotient


def _narrowed(exact, dtype):
    """Exact integers to their dtype; what does not fit (a divisor_override smaller than the window
    can do that) keeps its low bits."""
    low = [int(v) % 2 ** (8 * dtype.itemsize) for v in exact.ravel()]
    return np.array(low, f"u{dtype.itemsize}").reshape(exact.shape).view(dtype)


def _wrapped(total, dtype):
    """Integer sums are 64-bit and wrap, as numpy.sum's."""
    return _narrowed(total, sum_dtype(dtype))


def gradient(
    x,
    grad,
    op,
    kernel_size,
    *,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    axes=None,
    count_include_pad=True,
    divisor_override=None,
):
    """The gradient with respect to ``x`` in float64: to the winner, or spread over the window."""
    arguments = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil_mode,
        "axes": axes,
    }
    order, lines = plan(x.shape, kernel_size, **arguments)
    moved = _move_in(x, order)
    lead = moved.shape[: x.ndim - len(order)]
    rows = moved.reshape(math.prod(lead), math.prod(line.n for line in lines))
    outs = math.prod(line.out for line in lines)
    incoming = _move_in(grad, order).reshape(rows.shape[0], outs).astype(np.float64)
    result = np.zeros(rows.shape, np.float64)
    if op in ("max", "min"):
        _, plane, _ = _extreme(rows, op, lines, x.dtype)
        for r, o in np.argwhere(plane >= 0):
            result[r, plane[r, o]] += incoming[r, o]
    else:
        include = count_include_pad and padding != "same"
        below = [1] * incoming.shape[1]
        if op == "mean":
            below = divisors(lines, include, divisor_override)
        for _, flat, valid in _taps(lines):
            for o in np.nonzero(valid)[0]:
                result[:, flat[o]] += incoming[:, o] / below[o]
    return _move_out(result.reshape(moved.shape), order)


# --- comparing ---------------------------------------------------------------------------------


def bits(a) -> np.ndarray:
    """The array's bits with every NaN made the same, so that equality means: the same bits, and
    NaN wherever the other has NaN."""
    a = np.ascontiguousarray(a)
    if is_float(a.dtype):
        a = np.where(np.isnan(a), np.array(np.nan, a.dtype), a).astype(a.dtype)
    return a.view(f"u{a.dtype.itemsize}")


def assert_same_bits(got, expected, note=""):
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype, f"dtype {got.dtype}, expected {expected.dtype} {note}"
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape} {note}"
    wrong = bits(got) != bits(expected)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.size} differ, first at {first}: "
            f"got {got[first]!r}, expected {expected[first]!r} {note}"
        )


def epsilon(dtype) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def tolerance(dtype, pooled: Pooled) -> np.ndarray:
    """How far a mean or sum may be from the exact one.

    A sum of m terms, added in any order in an arithmetic of unit roundoff u = eps/2, is off by at
    most (m-1)*u*sum|w| up to terms in u**2 (Higham, Accuracy and Stability, 4.2).  Division, or a
    multiplication by a rounded reciprocal, adds at most 2u more, and m*eps covers all of it with a
    factor of nearly two for the second order.  Halves add in float32, and the rounding of the
    result to its own dtype adds half of its eps, times the result; near zero, its smallest step.
    """
    added_in = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
    info = ml_dtypes.finfo(dtype)
    with np.errstate(invalid="ignore"):
        return (
            (pooled.terms + 2) * epsilon(added_in) * np.abs(pooled.magnitude)
            + epsilon(dtype) * np.abs(pooled.values) * 0.5
            + float(info.smallest_subnormal)
        )


def assert_close(got, dtype, pooled: Pooled, note=""):
    """Floats: within ``tolerance`` of the exact value, NaN and infinities in the same places."""
    got, exact = np.asarray(got), pooled.values
    assert got.dtype == dtype, f"dtype {got.dtype}, expected {dtype} {note}"
    assert got.shape == exact.shape, f"shape {got.shape}, expected {exact.shape} {note}"
    wide = got.astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        fine = np.abs(wide - exact) <= tolerance(dtype, pooled)
        fine |= np.isnan(wide) & np.isnan(exact)
        fine |= np.isinf(exact) & (wide == exact)
    if not fine.all():
        first = tuple(int(i) for i in np.argwhere(~fine)[0])
        raise AssertionError(
            f"{int((~fine).sum())} of {fine.size} are off, first at {first}: got {got[first]!r}, "
            f"expected {exact[first]!r} within {tolerance(dtype, pooled)[first]:.3g} {note}"
        )


def sum_dtype(dtype):
    if is_float(dtype):
        return dtype
    return np.dtype(np.uint64 if dtype in UNSIGNED else np.int64)


def assert_pooled(got, x, op, kernel_size, note="", **arguments):
    """Compare one result with the oracle's, by the rule that fits reducer and dtype."""
    expected = pool(x, op, kernel_size, **arguments)
    if op in ("mean", "sum") and is_float(x.dtype):
        assert_close(got, x.dtype, expected, note)
    else:
        assert_same_bits(got, expected.values, note)
    return expected

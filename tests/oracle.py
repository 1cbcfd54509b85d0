"""Pooling written from its definition, as slowly and plainly as possible.

For every output the oracle lists the input elements in its window and reduces them.  It shares no
code with the package, not even the shape arithmetic, so a mistake there cannot hide here.

The window of output ``o`` along one axis holds the positions ``o*stride - before + t*dilation`` for
``t`` in ``[0, kernel_size)``; positions outside ``[0, n)`` take no part.  Adaptive and fractional
windows are listed instead: where each starts and how many elements it holds.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

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


@dataclass(frozen=True)
class Listed:
    """One pooled axis whose windows follow no stride: the first element and the number of each."""

    n: int
    starts: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def out(self) -> int:
        return len(self.starts)

    @property
    def kernel(self) -> int:
        return max(self.counts)

    def position(self, o: int, t: int) -> int:
        return self.starts[o] + t if t < self.counts[o] else -1

    def inside(self, position: int) -> bool:
        return 0 <= position < self.n

    def counted(self, o: int) -> int:
        return self.counts[o]


def adaptive_axis(n, out) -> Listed:
    """``out`` windows over ``n`` elements: floor(o*n/out) up to ceil((o+1)*n/out), exactly."""
    starts = tuple(math.floor(Fraction(o * n, out)) for o in range(out))
    stops = tuple(math.ceil(Fraction((o + 1) * n, out)) for o in range(out))
    return Listed(n, starts, tuple(b - a for a, b in zip(starts, stops, strict=True)))


def fractional_starts(n, kernel, out, sample, dtype=np.float64) -> tuple[int, ...]:
    """PyTorch's pseudo-random windows for one ``sample`` in [0, 1), in the arithmetic of ``dtype``.

    With alpha = (n - kernel)/(out - 1), window o starts at int((o + u)*alpha) - int(u*alpha), and
    the last one at n - kernel (Graham, Fractional Max-Pooling, 2014, as PyTorch documents it)."""
    u = dtype(sample)
    starts = []
    if out > 1:
        alpha = dtype(n - kernel) / dtype(out - 1)
        starts = [int((dtype(o) + u) * alpha) - int(u * alpha) for o in range(out - 1)]
    return (*starts, n - kernel)


def fractional_axis(n, kernel, out, sample, dtype=np.float64) -> Listed:
    return Listed(n, fractional_starts(n, kernel, out, sample, dtype), (kernel,) * out)


def make_axis(n, kernel, stride, padding, dilation, ceil_mode, edge="drop") -> Axis:
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
    if edge == "partial":
        # One window more as long as the one before leaves anything uncovered, less a last one that
        # starts beyond the input.
        out = 1
        while (out - 1) * stride + span < padded:
            out += 1
        if out > 1 and (out - 1) * stride - before >= n:
            out -= 1
        return Axis(n, kernel, stride, before, after, dilation, out)
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


def _order(shape, size, axes):
    ndim = len(shape)
    if axes is None:
        count = 2 if isinstance(size, (int, np.integer)) else len(size)
        axes = tuple(range(ndim - count, ndim))
    elif isinstance(axes, (int, np.integer)):
        axes = (axes,)
    return [int(a) % ndim for a in axes]


def plan(
    shape,
    size,
    *,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    edge="drop",
    axes=None,
    adaptive=False,
):
    """The pooled axes (ascending) and a line for each; ``size`` is kernel_size or, where
    ``adaptive``, output_size."""
    axes = _order(shape, size, axes)
    count = len(axes)
    if adaptive:
        out = [size] * count if size is None or isinstance(size, (int, np.integer)) else list(size)
        out = out * count if len(out) == 1 else out
        table = {
            a: adaptive_axis(shape[a], shape[a] if o is None else int(o))
            for a, o in zip(axes, out, strict=True)
        }
    else:
        kernel = _per_axis(size, count)
        step = kernel if stride is None else _per_axis(stride, count)
        pads = _pairs(padding, count)
        spread = _per_axis(dilation, count)
        table = {
            a: make_axis(shape[a], k, s, p, d, ceil_mode, edge)
            for a, k, s, p, d in zip(axes, kernel, step, pads, spread, strict=True)
        }
    order = sorted(table)
    return tuple(order), tuple(table[a] for a in order)


def output_shape(shape, size, **arguments):
    axes, lines = plan(shape, size, **arguments)
    result = list(shape)
    for a, line in zip(axes, lines, strict=True):
        result[a] = line.out
    return tuple(result)


@dataclass(frozen=True)
class Pooled:
    values: np.ndarray  # chosen elements: the input's dtype; computed floats: longdouble
    plane: np.ndarray | None = None  # int64, -1 where a window holds nothing
    offset: np.ndarray | None = None  # int64, place inside the window, -1 likewise
    bound: np.ndarray | None = None  # computed floats: how far arithmetic may be off
    also: np.ndarray | None = None  # interpolated integers: what a rounding before the tie gives


def _move_in(x, axes):
    return np.moveaxis(x, axes, range(-len(axes), 0))


def _move_out(y, axes):
    return np.moveaxis(y, range(-len(axes), 0), axes)


@functools.lru_cache(maxsize=256)
def _taps(lines):
    """For each place in the window, row by row: flat plane positions of all outputs, and which are
    inside the input."""
    flat, valid = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)  # [output, tap]
    for line in lines:
        p = np.array([[line.position(o, t) for t in range(line.kernel)] for o in range(line.out)])
        p = p.reshape(1, line.out, 1, line.kernel)
        shape = (flat.shape[0] * line.out, flat.shape[1] * line.kernel)
        flat = (flat[:, None, :, None] * line.n + p).reshape(shape)
        inside = (p >= 0) & (p < line.n)
        valid = (valid[:, None, :, None] & inside).reshape(shape)
    flat = np.where(valid, flat, 0)
    return [(tap, flat[:, tap], valid[:, tap]) for tap in range(flat.shape[1])]


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
    size,
    *,
    where=None,
    nan_policy="propagate",
    min_count=0,
    count_include_pad=True,
    divisor_override=None,
    truncate=False,
    lines=None,
    parameters=None,
    **geometry,
) -> Pooled:
    """``parameters`` are the reducer's own; ``lines`` replace what ``size`` and geometry say."""
    axes, planned = plan(x.shape, size, **geometry)
    lines = planned if lines is None else lines
    moved = _move_in(x, axes)
    lead = moved.shape[: x.ndim - len(axes)]
    flat = (math.prod(lead), math.prod(line.n for line in lines))
    rows = moved.reshape(flat)
    outs = tuple(line.out for line in lines)
    taken = np.ones(x.shape, bool)
    if where is not None:
        taken &= np.broadcast_to(where, x.shape)
    if nan_policy == "omit" and is_float(x.dtype):
        taken &= ~np.isnan(x)
    excludes = where is not None or nan_policy == "omit"
    taken = _move_in(taken, axes).reshape(flat)

    def shaped(result):
        return None if result is None else _move_out(result.reshape(lead + outs), axes)

    plane = offset = bound = also = None
    if op in ("max", "min"):
        values, plane, offset = _extreme(rows, taken, op, lines, x.dtype)
    elif op in ("mean", "sum"):
        include = count_include_pad and geometry.get("padding") != "same" and not excludes
        values, bound = _total(rows, taken, op, lines, x.dtype, include, divisor_override, truncate)
    elif not is_float(x.dtype):
        assert op == "quantile"
        values, also = _integer_quantiles(rows, taken, lines, x.dtype, **parameters)
    else:
        values, bound = _defined(rows, taken, op, lines, x.dtype, **(parameters or {}))
    if min_count:
        short = _gather(rows, taken, lines)[1].sum(-1) < min_count
        values = np.where(short, np.array(np.nan, values.dtype), values)
    return Pooled(shaped(values), shaped(plane), shaped(offset), shaped(bound), shaped(also))


def whole_places(plane, shape, axes):
    """Places in the plane as flat places in the whole array (C order)."""
    result = np.full(plane.shape, -1, np.int64)
    for place in np.argwhere(plane >= 0):
        at, rest = list(place), int(plane[tuple(place)])
        for a in sorted((a % len(shape) for a in axes), reverse=True):
            rest, at[a] = divmod(rest, shape[a])
        flat = 0
        for n, i in zip(shape, at, strict=True):
            flat = flat * n + int(i)
        result[tuple(place)] = flat
    return result


def _extreme(rows, taken, op, lines, dtype):
    """First of equals wins, any NaN beats any number, and of NaNs the last wins."""
    size = (rows.shape[0], math.prod(line.out for line in lines))
    keys = rows.astype(np.float64) if is_float(dtype) else rows  # exact for every float here
    best = np.zeros(size, keys.dtype)
    plane = np.full(size, -1, np.int64)
    where = np.full(size, -1, np.int64)
    for offset, flat, valid in _taps(lines):
        candidate = keys[:, flat] if rows.shape[1] else np.zeros(size, keys.dtype)
        here = valid[None] & (taken[:, flat] if rows.shape[1] else False)
        better = candidate > best if op == "max" else candidate < best
        take = here & ((where < 0) | better | np.isnan(candidate))
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


def _total(rows, taken, op, lines, dtype, include, override, truncate):
    """Sums and means, and for floats how far they may be off.

    A sum of m terms, added in any order in an arithmetic of unit roundoff u = eps/2, is off by at
    most (m-1)*u*sum|w| up to terms in u**2 (Higham, Accuracy and Stability, 4.2).  Division, or a
    multiplication by a rounded reciprocal, adds at most 2u more, and (m+2)*eps covers all of it with
    a factor of nearly two for the second order."""
    exact = not is_float(dtype)
    work = rows.astype(object) if exact else rows.astype(np.longdouble)
    size = (rows.shape[0], math.prod(line.out for line in lines))
    total = np.zeros(size, object if exact else np.longdouble)
    magnitude = np.zeros(size, np.longdouble)
    counts = np.zeros(size, np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        for _, flat, valid in _taps(lines):
            if not rows.shape[1]:
                continue
            chosen = valid[None] & taken[:, flat]
            here = np.where(chosen, work[:, flat], 0)
            total = total + here
            counts += chosen
            if not exact:
                magnitude = magnitude + np.abs(here)
    slack = (math.prod(line.kernel for line in lines) + 2) * epsilon(added_in(dtype))
    if op == "sum":
        if exact:
            return _wrapped(total, dtype), None
        return total, slack * magnitude
    if override is not None:
        below = np.full(size, override, object)
    elif include:
        below = np.broadcast_to(np.array(divisors(lines, True, None), object), size)
    else:
        below = counts.astype(object)
    if exact:
        result = np.zeros(size, object)
        for r, o in itertools.product(range(size[0]), range(size[1])):
            result[r, o] = _divide(int(total[r, o]), below[r, o], truncate)
        return _narrowed(result, dtype), None
    below = below.astype(np.longdouble)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / below, slack * magnitude / np.abs(below)


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


# --- reducers by their definition ---------------------------------------------------------------
#
# Each takes w, the valid elements of windows that have equally many: one row a window, in the
# window's order, in long double.  It gives the results and how far arithmetic with this eps may be
# off; where the last step is a monotone function f of a sum known to within some slack, that is
# the larger of |f(sum + slack) - f(sum)| and |f(sum - slack) - f(sum)|.

TINY = {np.dtype(np.float64): 2.0**-1022, np.dtype(np.float32): 2.0**-126}  # least normal numbers


def _gather(rows, taken, lines):
    """Elements and their validity, as [row, output, tap]."""
    taps = _taps(lines)
    flat = np.stack([f for _, f, _ in taps], -1)
    valid = np.stack([v for _, _, v in taps], -1)
    if not rows.shape[1]:
        return np.zeros((rows.shape[0], *flat.shape), rows.dtype), np.zeros(
            (rows.shape[0], *flat.shape), bool
        )
    return rows[:, flat], valid[None] & taken[:, flat]


def _through(f, total, slack):
    value = f(total)
    off = np.maximum(np.abs(f(total + slack) - value), np.abs(f(total - slack) - value))
    return value, off


def _power_error(w, p, eps):
    """Relative error of w**p and of its root: exp(p*log w) turns a relative error eps of the
    logarithm into |p*log w|*eps of the power; repeated multiplication is off by less."""
    logs = np.where(np.isfinite(w) & (w != 0), np.log(np.abs(np.where(w == 0, 1, w))), 0)
    return (4 + 2 * p * np.abs(logs).max(-1)) * eps


def _root(p):
    return lambda s: np.sign(s) * np.abs(s) ** (np.longdouble(1) / p)


def _rooted(w, powers, p, scale, eps, tiny):
    """The signed p-th root of the sum of powers, times scale."""
    m = w.shape[-1]
    relative = _power_error(w, p, eps) + (m + 2) * eps
    slack = scale * (relative * np.abs(powers).sum(-1) + m * tiny)
    value, off = _through(_root(p), scale * powers.sum(-1), slack)
    return value, off + _power_error(w, 1, eps) * np.abs(value)


def _lp(w, eps, tiny, p):
    if math.isinf(p):
        return np.abs(w).max(-1), np.zeros(w.shape[0], np.longdouble)
    return _rooted(w, np.power(w, np.longdouble(p)), p, np.longdouble(1), eps, tiny)


def _rms(w, eps, tiny):
    return _rooted(w, w * w, 2, np.longdouble(1) / w.shape[-1], eps, tiny)


def _gem(w, eps, tiny, p, floor):
    w = np.where(np.isnan(w), w, np.maximum(w, np.longdouble(floor)))
    powers = np.power(w, np.longdouble(p))
    return _rooted(w, powers, p, np.longdouble(1) / w.shape[-1], eps, tiny)


def _exponentials(w, beta, eps):
    """e**(beta*w) over the largest of them, the latter's exponent, and the relative error: of the
    exponent beta*w - top the absolute one, and a few eps for each exponential and each merge."""
    z = np.longdouble(beta) * w
    top = z.max(-1, keepdims=True)
    base = np.where(np.isfinite(top), top, 0)
    reach = np.where(np.isfinite(z), np.abs(z), 0).max(-1)
    return z, top[:, 0], base[:, 0], np.exp(z - base), (4 * w.shape[-1] + 8 + 4 * reach) * eps


def _log_sum_exp(w, eps, tiny, beta):
    _, _, base, e, relative = _exponentials(w, beta, eps)
    value = (np.log(e.sum(-1)) + base) / np.longdouble(beta)
    return value, relative / abs(beta) + 2 * eps * np.abs(value)


def _soft(w, eps, tiny, beta):
    """Infinite weights leave nothing beside them, and elements of weight zero add nothing."""
    _, top, _, e, relative = _exponentials(w, beta, eps)
    below = e.sum(-1)
    terms = np.where(e == 0, 0, w * e)
    value = terms.sum(-1) / below
    value = np.where(np.isinf(top), top / np.longdouble(beta), value)
    finite = np.where(np.isfinite(w), np.abs(w), 0)
    off = 2 * relative * (finite * e).sum(-1) / below + w.shape[-1] * finite.max(-1) * tiny
    return value, off


def rank(count, q):
    """numpy.quantile's place in the sorted window: the lower element and the weight of the next."""
    virtual = (count - 1) * float(q)
    low = min(math.floor(virtual), count - 1)
    return low, virtual - low


def _pair(ordered, q, method):
    """The two neighbouring elements and the weight of the upper."""
    count = ordered.shape[-1]
    low, weight = rank(count, q)
    if method == "lower":
        weight = 0.0
    elif method == "higher":
        weight = 1.0 if weight else 0.0
    elif method == "nearest":
        low, weight = int(np.around((count - 1) * float(q))), 0.0
    return ordered[..., low], ordered[..., min(low + 1, count - 1)], weight


def _quantile(w, eps, tiny, q, method):
    a, b, g = _pair(np.sort(w, -1), q, method)
    g = np.longdouble(g)
    # Weighted, so that an infinity with a neighbour stays what it is; equal neighbours likewise.
    value = a if g == 0 else b if g == 1 else np.where(a == b, a, (1 - g) * a + g * b)
    value = np.where(np.isnan(w).any(-1), np.nan, value)
    size = np.maximum(np.abs(a), np.abs(b))
    off = np.zeros(value.shape) if g in (0, 1) else 4 * eps * np.where(np.isfinite(size), size, 0)
    return value, off


def _integer_quantile(w, dtype, q, method):
    """The interpolated value rounded to nearest, ties to even; and rounded twice.  The weight is
    seldom a short binary number, so what is a tie in decimals may be none, or become one."""
    a, b, g = _pair(np.sort(w, -1), q, method)
    g = Fraction(g)
    exact = [round(int(u) + (int(v) - int(u)) * g) for u, v in zip(a, b, strict=True)]
    near = [
        round(Fraction(round((int(u) + (int(v) - int(u)) * g) * 2**20), 2**20))
        for u, v in zip(a, b, strict=True)
    ]
    return np.array(exact, dtype), np.array(near, dtype)  # round() is to nearest, ties to even


def _expectation(w, eps, tiny):
    """The expected value of an element drawn with probability max(w, 0) over their sum."""
    m = w.shape[-1]
    weight = np.where(np.isnan(w), w, np.maximum(w, 0))
    below = weight.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(weight == 0, 0, weight * w).sum(-1) / below
        plain = w.sum(-1) / m
    value = np.where(below == 0, plain, np.where(below == np.inf, np.inf, value))
    value = np.where(np.isnan(w).any(-1), np.nan, value)
    size = np.where(below == 0, np.abs(w).sum(-1) / m, np.abs(value))
    tiny_total = np.where(below > 0, 2 * m * tiny / np.where(below > 0, below, 1), 0)
    return value, (2 * m + 6) * eps * np.where(np.isfinite(size), size, 0) + tiny_total


def _mixed(w, eps, tiny, alpha, rounding):
    """What has no share adds nothing, were it infinite.  A mixture is put together of two results,
    so the mean has been rounded to the result's dtype before."""
    m, alpha = w.shape[-1], np.longdouble(alpha)
    value = np.where(np.isnan(w).any(-1), np.nan, np.zeros(len(w), np.longdouble))
    off = np.zeros(len(w), np.longdouble)
    if alpha:
        value = value + alpha * w.max(-1)
        off = off + 3 * eps * alpha * np.abs(w.max(-1))
    if alpha != 1:
        value = value + (1 - alpha) * w.sum(-1) / m
        off = off + (1 - alpha) * (m + 5) * eps * np.abs(w).sum(-1) / m
        off = off + (1 - alpha) * rounding * np.abs(w.sum(-1) / m)
    return value, off


DEFINITIONS = {
    "lp": _lp,
    "rms": _rms,
    "gem": _gem,
    "log_sum_exp": _log_sum_exp,
    "soft": _soft,
    "quantile": _quantile,
    "expectation": _expectation,
    "mixed": _mixed,
}


def empty_result(op, beta=1.0, **_):
    """What a window without a valid element gives; integers know quantiles alone, and give 0."""
    return {"lp": 0.0, "log_sum_exp": -math.copysign(math.inf, beta)}.get(op, math.nan)


def _integer_quantiles(rows, taken, lines, dtype, **parameters):
    elements, valid = _gather(rows, taken, lines)
    counts = valid.sum(-1)
    values, also = np.zeros(counts.shape, dtype), np.zeros(counts.shape, dtype)
    for count in np.unique(counts[counts > 0]):
        these = counts == count
        w = elements[these][valid[these]].reshape(-1, count)
        values[these], also[these] = _integer_quantile(w, dtype, **parameters)
    return values, also


def _defined(rows, taken, op, lines, dtype, **parameters):
    elements, valid = _gather(rows, taken, lines)
    counts = valid.sum(-1)
    values = np.full(counts.shape, empty_result(op, **parameters), np.longdouble)
    bound = np.zeros(counts.shape, np.longdouble)
    work = added_in(dtype)
    eps, tiny = np.longdouble(epsilon(work)), np.longdouble(TINY[work])
    if op == "mixed":
        parameters["rounding"] = epsilon(dtype)
    with np.errstate(all="ignore"):
        for count in np.unique(counts[counts > 0]):
            these = counts == count
            w = elements[these][valid[these]].reshape(-1, count).astype(np.longdouble)
            values[these], bound[these] = DEFINITIONS[op](w, eps, tiny, **parameters)
    return values, bound


# --- kinds of their own --------------------------------------------------------------------------


def unpool(x, indices, sizes, axes):
    """Zeros, and each value at its index of the plane; of equal indices the last one stays."""
    axes = sorted(a % x.ndim for a in axes)
    values, places = _move_in(x, axes), _move_in(indices, axes)
    lead = values.shape[: x.ndim - len(axes)]
    result = np.zeros((math.prod(lead), math.prod(sizes)), x.dtype)
    flat = (len(result), math.prod(values.shape[len(lead) :]))
    values, places = values.reshape(flat), places.reshape(flat)
    for r, i in np.ndindex(values.shape):
        result[r, places[r, i]] = values[r, i]
    return _move_out(result.reshape(*lead, *sizes), axes)


def binomial(kernel):
    """A row of Pascal's triangle over its sum, 2**(kernel - 1)."""
    row = [Fraction(math.comb(kernel - 1, i), 2 ** (kernel - 1)) for i in range(kernel)]
    return np.array([np.longdouble(v.numerator) / v.denominator for v in row])


def blur(x, kernel_size, stride, mode, axes) -> Pooled:
    """Pad ``(k-1)//2`` before and the rest after by ``mode``, weigh with binomials, subsample.

    All weights are exact and positive, so the error is that of a sum (see ``_total``), with one
    rounding more for each axis's product."""
    axes = sorted(a % x.ndim for a in axes)
    kernel, step = _per_axis(kernel_size, len(axes)), _per_axis(stride, len(axes))
    total = x.astype(np.longdouble)
    magnitude = np.abs(total)
    for a, k, s in zip(axes, kernel, step, strict=True):
        pads = [(0, 0)] * x.ndim
        pads[a] = ((k - 1) // 2, k - 1 - (k - 1) // 2)
        out = -(-x.shape[a] // s)

        def weighed(values, a=a, k=k, s=s, pads=pads, out=out):
            line = np.moveaxis(np.pad(values, pads, mode=mode), a, -1)
            parts = [
                sum(w * line[..., o * s + t] for t, w in enumerate(binomial(k))) for o in range(out)
            ]
            return np.moveaxis(np.stack(parts, -1), -1, a)

        total, magnitude = weighed(total), weighed(magnitude)
    terms = math.prod(kernel) + 2 + len(kernel)
    return Pooled(total, bound=terms * epsilon(added_in(x.dtype)) * magnitude)


def gradient(
    x,
    grad,
    op,
    size,
    *,
    count_include_pad=True,
    divisor_override=None,
    **geometry,
):
    """The gradient with respect to ``x`` in float64: to the winner, or spread over the window."""
    order, lines = plan(x.shape, size, **geometry)
    moved = _move_in(x, order)
    lead = moved.shape[: x.ndim - len(order)]
    rows = moved.reshape(math.prod(lead), math.prod(line.n for line in lines))
    outs = math.prod(line.out for line in lines)
    incoming = _move_in(grad, order).reshape(rows.shape[0], outs).astype(np.float64)
    result = np.zeros(rows.shape, np.float64)
    if op in ("max", "min"):
        _, plane, _ = _extreme(rows, np.ones(rows.shape, bool), op, lines, x.dtype)
        for r, o in np.argwhere(plane >= 0):
            result[r, plane[r, o]] += incoming[r, o]
    else:
        include = count_include_pad and geometry.get("padding") != "same"
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


def added_in(dtype) -> np.dtype:
    """Floats compute in their own arithmetic, halves in float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def tolerance(dtype, pooled: Pooled) -> np.ndarray:
    """How far a computed float may be from the exact one: what its arithmetic may lose, the rounding
    of the result to its own dtype (half of its eps, times the result), and near zero its smallest
    step."""
    info = ml_dtypes.finfo(dtype)
    with np.errstate(invalid="ignore"):
        return (
            pooled.bound
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
        # What the dtype cannot hold is infinite.
        largest = float(ml_dtypes.finfo(dtype).max)
        fine |= (
            np.isinf(wide)
            & (np.sign(wide) == np.sign(exact))
            & (np.abs(exact) + tolerance(dtype, pooled) >= largest)
        )
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


def assert_pooled(got, x, op, size, note="", **arguments):
    """Compare one result with the oracle's, by the rule that fits reducer and dtype."""
    expected = pool(x, op, size, **arguments)
    if expected.bound is not None:
        assert_close(got, x.dtype, expected, note)
    else:
        values = expected.values
        if expected.also is not None and np.shape(got) == values.shape:
            values = np.where(got == expected.also, expected.also, values)
        assert_same_bits(got, values, note)
    return expected

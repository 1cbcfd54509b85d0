"""The gathered reducers of the core against plain NumPy, window by window."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infinitypool import _core

FLOATS = ["float64", "float32", "float16"]
INTEGERS = ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64"]
METHODS = ["linear", "lower", "higher", "nearest"]
OFFSETS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def elements(array):
    return [s // array.itemsize for s in array.strides]


def taps(n, window):
    """For every output of one axis: the (tap, position) pairs that lie inside the input."""
    if len(window) == 1:
        (out,) = window
        for o in range(out):
            first, end = o * n // out, -(-(o + 1) * n // out)
            yield [(p - first, p) for p in range(first, end)]
        return
    kernel, stride, before, _, dilation, out = window
    for o in range(out):
        start = o * stride - before
        yield [(t, start + t * dilation) for t in range(kernel) if 0 <= start + t * dilation < n]


def longest(n, window):
    if len(window) != 1:
        return window[0]
    quotient, rest = divmod(n, window[0])
    return quotient + (0 if rest == 0 else 1 if window[0] % rest == 0 else 2)


def windows_of(x, axes, windows):
    """Yields output index, then tap and position of every element of its window, in row order."""
    lists = [list(taps(x.shape[a], w)) for a, w in zip(axes, windows, strict=True)]
    kernel = [longest(x.shape[a], w) for a, w in zip(axes, windows, strict=True)]
    shape = list(x.shape)
    for a, each in zip(axes, lists, strict=True):
        shape[a] = len(each)
    for out in np.ndindex(*shape):
        cells = []
        for cell in itertools.product(*[lists[i][out[a]] for i, a in enumerate(axes)]):
            at = list(out)
            offset = plane = 0
            for i, a in enumerate(axes):
                at[a] = cell[i][1]
                offset = offset * kernel[i] + cell[i][0]
                plane = plane * x.shape[a] + cell[i][1]
            cells.append((tuple(at), offset, plane))
        yield out, cells


def pool(
    reducer,
    x,
    axes,
    windows,
    parameters,
    *,
    indices="none",
    mask=None,
    omit=False,
    seed=0,
    order="C",
):
    shape = list(x.shape)
    for a, w in zip(axes, windows, strict=True):
        shape[a] = w[-1]
    kernel = math.prod(longest(x.shape[a], w) for a, w in zip(axes, windows, strict=True))
    out = np.full(shape, 77, x.dtype, order=order)
    size = 1 if kernel <= 256 else 2 if kernel <= 65536 else 4
    places = np.full(shape, 55, np.int64 if indices == "plane" else OFFSETS[size], order=order)
    valid = (
        ("mask" if mask is not None else "")
        + ("_" if mask is not None and omit else "")
        + ("omit" if omit else "")
    )
    plan = _core.Pool(
        reducer,
        x.dtype.name,
        list(x.shape),
        elements(x),
        elements(out),
        axes,
        windows,
        False,
        0,
        False,
        indices,
        parameters,
        valid or "all",
    )
    if mask is not None:
        bytes_ = np.lib.stride_tricks.as_strided(mask, x.shape, elements(x))
        assert bytes_.shape == x.shape
    plan.run(
        x.ctypes.data,
        out.ctypes.data,
        places.ctypes.data if indices != "none" else 0,
        mask.ctypes.data if mask is not None else 0,
        seed,
    )
    return (out, places) if indices != "none" else out


def philox(number, seed):
    mask = 0xFFFFFFFF
    c = [number & mask, number >> 32, 0, 0]
    k = [seed & mask, seed >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & mask, (p >> 32) ^ c[3] ^ k[1], p & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return ((c[0] << 32 | c[1]) >> 12) / 2**52


def log_sum_exp(w, beta):
    top = np.max(beta * w)
    if not np.isfinite(top):
        return top / beta if not np.isnan(top) else top
    return (top + np.log(np.sum(np.exp(beta * w - top)))) / beta


def soft(w, beta):
    peak = np.max(w) if beta >= 0 else np.min(w)
    if not np.isfinite(peak):
        return peak
    e = np.exp(beta * (w - peak))
    w = np.where(e > 0, w, 0)
    return np.sum(w * e) / np.sum(e) if not np.isnan(e).any() else np.nan


def expectation(w, _):
    m = np.maximum(w, 0)
    if np.isnan(w).any():
        return np.nan
    if np.isinf(m).any():
        return np.inf
    return np.sum(m * m) / np.sum(m) if np.sum(m) > 0 else np.mean(w)


def chosen(w, u):
    if np.isnan(w).any():
        return int(np.flatnonzero(np.isnan(w))[-1])
    m = np.maximum(w, 0)
    total = np.sum(m)
    if total == 0:
        return int(u * len(w))
    if np.isinf(m).any():
        return int(np.argmax(np.isinf(m)))
    return int(np.argmax(np.cumsum(m) > u * total))


def quantile_of(w, q, method, dtype):
    if np.isnan(w.astype(np.float64)).any():
        return np.nan
    ranked = np.sort(w)
    rank = q * (len(w) - 1)
    if method == "linear":
        low = min(math.floor(rank), len(w) - 1)
        high, part = min(low + 1, len(w) - 1), rank - low
        a, b = float(ranked[low]), float(ranked[high])
        value = (
            a
            if part == 0 or a == b
            else a * (1 - part) + b * part
            if np.isinf([a, b]).any()
            else (a + (b - a) * part if part < 0.5 else b - (b - a) * (1 - part))
        )
        return value if dtype.kind == "f" else np.rint(value)
    at = {"lower": math.floor, "higher": math.ceil, "nearest": round}[method](rank)
    return ranked[min(max(at, 0), len(w) - 1)]


@st.composite
def cases(draw, dtypes, large=6):
    ndim = draw(st.integers(1, 4))
    pooled = draw(st.integers(1, min(3, ndim)))
    axes = sorted(draw(st.permutations(range(ndim)))[:pooled])
    shape = [draw(st.integers(1, 9)) if a in axes else draw(st.integers(1, 3)) for a in range(ndim)]
    if draw(st.booleans()):
        shape[-1] += draw(st.sampled_from([0, 17, 30, 70]))
    windows = []
    for a in axes:
        n = shape[a]
        if draw(st.integers(0, 3)) == 0:
            windows.append([draw(st.integers(1, n + 2))])
            continue
        kernel, stride = draw(st.integers(1, large)), draw(st.integers(1, 4))
        dilation, before, after = (
            draw(st.integers(1, 2)),
            draw(st.integers(0, 3)),
            draw(st.integers(0, 3)),
        )
        out = (n + before + after - (kernel - 1) * dilation - 1) // stride + 1
        if out < 1:
            before += (kernel - 1) * dilation + 1
            out = (n + before + after - (kernel - 1) * dilation - 1) // stride + 1
        windows.append([kernel, stride, before, after, dilation, out])
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind == "f":
        x = rng.choice([rng.normal(size=shape) * 3, rng.integers(-3, 4, size=shape)]).astype(dtype)
        for value in (np.nan, np.inf, -np.inf):
            if draw(st.integers(0, 3)) == 0:
                x[rng.random(shape) < 0.1] = value
    else:
        info = np.iinfo(dtype)
        wide = draw(st.booleans())
        x = rng.integers(
            info.min if wide else 0, info.max if wide else 5, size=shape, dtype=dtype, endpoint=True
        )
    if draw(st.booleans()):  # another layout
        x = np.transpose(
            np.ascontiguousarray(np.transpose(x, order := draw(st.permutations(range(ndim))))),
            np.argsort(order),
        )
    mask = None
    if draw(st.integers(0, 2)) == 0:
        mask = np.empty_like(x, np.uint8)
        mask[...] = rng.random(shape) < draw(st.sampled_from([0.5, 0.9, 1.0]))
        if elements(mask) != elements(x):
            mask = None
    return x, axes, windows, mask, draw(st.booleans()), draw(st.sampled_from("CF"))


def close(got, want, dtype, scale=1.0):
    if np.isnan(want) or np.isinf(want):
        return np.array_equal(got, dtype.type(want), equal_nan=True)
    tolerance = {8: 1e-13, 4: 2e-6, 2: 2e-3}[dtype.itemsize]
    return abs(float(got) - want) <= tolerance * max(1.0, abs(want), scale)


def members(x, cells, mask, omit):
    kept = [
        c
        for c in cells
        if (mask is None or mask[c[0]]) and not (omit and x.dtype.kind == "f" and np.isnan(x[c[0]]))
    ]
    return kept, np.array([x[c[0]] for c in kept], x.dtype)


SLOW = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(
    cases(FLOATS),
    st.sampled_from(["log_sum_exp", "soft", "stochastic"]),
    st.sampled_from([1.0, -0.7, 3.5, 20.0]),
)
def test_weighted(case, reducer, beta):
    x, axes, windows, mask, omit, order = case
    reference = {"log_sum_exp": log_sum_exp, "soft": soft, "stochastic": expectation}[reducer]
    got = pool(reducer, x, axes, windows, [beta], mask=mask, omit=omit, order=order)
    empty = {"log_sum_exp": -math.copysign(math.inf, beta)}.get(reducer, math.nan)
    with np.errstate(all="ignore"):
        for out, cells in windows_of(x, axes, windows):
            w = members(x, cells, mask, omit)[1].astype(np.float64)
            want = reference(w, beta) if w.size else empty
            scale = np.max(np.abs(w[np.isfinite(w)]), initial=0)
            assert close(got[out], want, x.dtype, scale), (out, w, got[out], want)


@SLOW
@given(
    cases(FLOATS + INTEGERS, 9),
    st.sampled_from([0.5, 0.0, 1.0, 0.3, 0.77]),
    st.integers(0, 3),
    st.sampled_from(["plane", "offset"]),
)
def test_quantile(case, q, method, indices):
    x, axes, windows, mask, omit, order = case
    if method == 0:
        got = pool("quantile", x, axes, windows, [q, 0], mask=mask, omit=omit, order=order)
    else:
        got, places = pool(
            "quantile",
            x,
            axes,
            windows,
            [q, method],
            mask=mask,
            omit=omit,
            order=order,
            indices=indices,
        )
        alone = pool("quantile", x, axes, windows, [q, method], mask=mask, omit=omit, order=order)
        assert np.array_equal(got, alone, equal_nan=x.dtype.kind == "f")
    for out, cells in windows_of(x, axes, windows):
        kept, w = members(x, cells, mask, omit)
        if not kept:
            assert np.isnan(got[out]) if x.dtype.kind == "f" else got[out] == 0
            if method:
                assert places[out] == (-1 if indices == "plane" else 0)
            continue
        want = quantile_of(w, q, METHODS[method], x.dtype)
        if method:
            assert np.array_equal(got[out], x.dtype.type(want), equal_nan=x.dtype.kind == "f"), (
                w,
                got[out],
                want,
            )
            at = (
                np.flatnonzero(np.isnan(w))[-1]
                if np.isnan(float(want))
                else np.argmax(w == got[out])
            )
            assert places[out] == kept[at][2 if indices == "plane" else 1]
        elif x.dtype.itemsize == 8 and x.dtype.kind in "iu":
            assert abs(float(got[out]) - want) <= 1 + abs(want) * 1e-15
        else:
            assert close(got[out], want, x.dtype) if x.dtype.kind == "f" else got[out] == want, (
                w,
                got[out],
                want,
            )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "float32", "float16"])
@pytest.mark.parametrize(
    "kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2), (11, 1), (13, 1), (17, 1), (17, 3)]
)
@pytest.mark.parametrize("q, method", [(0.5, 1), (0.5, 0), (0.3, 0), (1.0, 2)])
def test_windows_of_every_size(dtype, kernel, stride, q, method):
    """Networks in registers and in memory, sliding counts and selection; long lines, NaNs here and there."""
    rng = np.random.default_rng(kernel)
    x = (rng.random((2, 19, 90)) * 120).astype(dtype)
    x[1, 3:9] = x[1, 3, 3]
    if x.dtype.kind == "f":
        x[0, 4, 5] = x[0, 12, 77] = np.nan
    pad = kernel // 2
    windows = [
        [kernel, stride, pad, pad, 1, (n + 2 * pad - kernel) // stride + 1] for n in x.shape[1:]
    ]
    got = pool("quantile", x, [1, 2], windows, [q, method])
    padded = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad)), constant_values=-1e9)
    for out in np.ndindex(*got.shape):
        rows, columns = (slice(o * stride, o * stride + kernel) for o in out[1:])
        w = padded[out[0], rows, columns].ravel()
        w = w[w != -1e9]
        want = quantile_of(w, q, METHODS[method], x.dtype)
        same = (
            close(got[out], want, x.dtype)
            if x.dtype.kind == "f" and method == 0
            else np.array_equal(got[out], x.dtype.type(want), equal_nan=x.dtype.kind == "f")
        )
        assert same, (out, got[out], want)


@SLOW
@given(cases(FLOATS), st.integers(0, 2**64 - 1), st.sampled_from(["plane", "offset"]))
def test_draws(case, seed, indices):
    x, axes, windows, mask, omit, order = case
    got, places = pool(
        "stochastic",
        x,
        axes,
        windows,
        [0],
        mask=mask,
        omit=omit,
        order=order,
        seed=seed,
        indices=indices,
    )
    for number, (out, cells) in enumerate(windows_of(x, axes, windows)):
        kept, w = members(x, cells, mask, omit)
        if not kept:
            assert np.isnan(got[out]) and places[out] == (-1 if indices == "plane" else 0)
            continue
        with np.errstate(all="ignore"):
            at = chosen(w.astype(np.float64), philox(number, seed))
        assert np.array_equal(got[out], w[at], equal_nan=True)
        assert places[out] == kept[at][2 if indices == "plane" else 1]


# ---------------------------------------------------------------- gradients

FORWARD = {
    "log_sum_exp": (lambda w, p: log_sum_exp(w, p[0]), [[1.0], [-2.0]]),
    "soft": (lambda w, p: soft(w, p[0]), [[1.0], [-0.5], [0.0]]),
    "stochastic": (lambda w, p: expectation(w, p), [[1.0]]),
    "lp": (
        lambda w, p: np.sign(np.sum(w ** p[0])) * np.abs(np.sum(w ** p[0])) ** (1 / p[0]),
        [[1.0], [2.0], [3.0], [4.0], [5.0]],
    ),
    "power_mean": (
        lambda w, p: np.mean(np.maximum(w, p[1]) ** p[0]) ** (1 / p[0]),
        [[2.0, -math.inf], [3.0, 1e-6], [2.5, 0.5], [1.0, -math.inf]],
    ),
}


def backward(reducer, x, axes, windows, parameters, result, grad):
    grad_in = np.full_like(x, 88)
    plan = _core.PoolBackward(
        reducer,
        x.dtype.name,
        list(x.shape),
        elements(grad),
        [],
        elements(grad_in),
        axes,
        windows,
        False,
        0,
        parameters,
        elements(x),
        elements(result),
    )
    plan.run(grad.ctypes.data, 0, grad_in.ctypes.data, x.ctypes.data, result.ctypes.data)
    return grad_in


@SLOW
@given(cases(["float64"]), st.sampled_from(sorted(FORWARD)), st.data())
def test_gradient(case, reducer, data):
    x, axes, windows, _, _, order = case
    value, choices = FORWARD[reducer]
    parameters = data.draw(st.sampled_from(choices))
    x = np.where(np.isfinite(x), x, 0.25) + np.linspace(0.01, 0.02, x.size).reshape(x.shape)
    if reducer == "power_mean" and parameters[0] != 2:
        x = np.abs(x) + 0.1
    if reducer == "lp" and parameters[0] % 2:
        x = np.abs(x) + 0.1  # around roots of odd sums differences say nothing
    if reducer == "power_mean" and parameters[1] > 0:
        x = np.where(np.abs(x - parameters[1]) < 1e-3, x + 0.1, x)
    result = pool(reducer, x, axes, windows, parameters, order=order)
    rng = np.random.default_rng(0)
    grad = np.copy(rng.normal(size=result.shape), order=order)
    want = np.zeros_like(x)
    step = 1e-6
    with np.errstate(all="ignore"):
        for out, cells in windows_of(x, axes, windows):
            w = np.array([x[c[0]] for c in cells])
            if reducer == "stochastic" and np.min(np.abs(w), initial=1) < 1e-4:
                return
            for j, cell in enumerate(cells):
                up, down = w.copy(), w.copy()
                up[j] += step
                down[j] -= step
                slope = (value(up, parameters) - value(down, parameters)) / (2 * step)
                want[cell[0]] += grad[out] * slope
    got = backward(reducer, x, axes, windows, parameters, result, grad)
    np.testing.assert_allclose(
        got, want, rtol=2e-4, atol=2e-5 * (1 + np.max(np.abs(want), initial=0))
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("reducer", sorted(FORWARD))
def test_gradient_of_narrow_types(reducer, dtype):
    rng = np.random.default_rng(3)
    x = (np.abs(rng.normal(size=(2, 3, 17, 70))) + 0.1).astype(dtype)
    axes, windows = [2, 3], [[3, 2, 1, 1, 1, 9], [2, 2, 0, 0, 1, 35]]
    parameters = FORWARD[reducer][1][0]
    result = pool(reducer, x, axes, windows, parameters)
    grad = rng.normal(size=result.shape).astype(dtype)
    wide = x.astype(np.float64)
    want = backward(
        reducer,
        wide,
        axes,
        windows,
        parameters,
        pool(reducer, wide, axes, windows, parameters),
        grad.astype(np.float64),
    )
    got = backward(reducer, x, axes, windows, parameters, result, grad)
    np.testing.assert_allclose(
        got.astype(np.float64),
        want,
        rtol=1e-2 if dtype == "float16" else 1e-5,
        atol=1e-2 if dtype == "float16" else 1e-5,
    )


def test_selected_elements_get_the_gradient():
    x = np.array([[5.0, 1.0, 3.0, 2.0, 9.0, 4.0]])
    windows = [[3, 3, 0, 0, 1, 2]]
    for reducer, parameters in (("quantile", [0.5, 1]), ("stochastic", [0.0])):
        result, offsets = pool(reducer, x, [1], windows, parameters, indices="offset")
        grad, grad_in = np.array([[2.0, 7.0]]), np.empty_like(x)
        plan = _core.PoolBackward(
            reducer,
            "float64",
            [1, 6],
            elements(grad),
            elements(offsets),
            elements(grad_in),
            [1],
            windows,
            False,
            0,
            parameters,
            [],
            [],
        )
        plan.run(grad.ctypes.data, offsets.ctypes.data, grad_in.ctypes.data, 0, 0)
        want = np.zeros(6)
        want[offsets[0] + [0, 3]] = [2.0, 7.0]
        assert np.array_equal(grad_in[0], want)
        assert np.array_equal(result[0], x[0][offsets[0] + [0, 3]])


def test_infinite_elements_take_the_gradient():
    x = np.array([[1.0, np.inf, -np.inf, 2.0]])
    for reducer in ("log_sum_exp", "soft", "stochastic"):
        result = pool(reducer, x, [1], [[4, 4, 0, 0, 1, 1]], [1.0])
        assert result[0, 0] == np.inf
        got = backward(reducer, x, [1], [[4, 4, 0, 0, 1, 1]], [1.0], result, np.array([[3.0]]))
        assert np.array_equal(got, [[0.0, 3.0, 0.0, 0.0]])


# ---------------------------------------------------------------- the same bits everywhere

SAME = """
import sys, zlib
sys.path.insert(0, sys.argv[1])
import numpy as np
from test_gathered_native import FORWARD, backward, pool, _core
rng = np.random.default_rng(7)
sums = []
def note(*arrays):
    for a in arrays:
        sums.append(zlib.crc32(np.where(a == a, a, 7).astype(a.dtype).tobytes()))
for dtype in ("float64", "float32", "float16"):
    x = (rng.normal(size=(2, 40, 61, 33)) * 3).astype(dtype)
    for axes, windows in (([2, 3], [[3, 2, 1, 1, 1, 31], [2, 2, 0, 0, 1, 16]]), ([1, 2], [[7], [13]]),
                          ([1, 3], [[3, 1, 1, 1, 1, 40], [5, 1, 2, 2, 1, 33]])):
        for reducer, (_, choices) in FORWARD.items():
            y = np.abs(x) + np.asarray(0.1, dtype)
            for p in choices:
                result = pool(reducer, y, axes, windows, p)
                note(result, backward(reducer, y, axes, windows, p, result, np.cos(result * 5)))
        note(*pool("stochastic", x, axes, windows, [0.0], seed=5, indices="plane"))
        note(*pool("quantile", x, axes, windows, [0.3, 1.0], indices="offset"))
        note(pool("quantile", x, axes, windows, [0.3, 0.0]))
for dtype in ("uint8", "int16", "int64"):
    x = rng.integers(0, 120, size=(2, 40, 61, 33)).astype(dtype)
    note(pool("quantile", x, [2, 3], [[3, 1, 1, 1, 1, 61], [3, 1, 1, 1, 1, 33]], [0.5, 0.0]))
print(sums)
"""


def test_same_bits_for_all_threads_and_instruction_sets():
    seen = {}
    folder = os.path.dirname(os.path.abspath(__file__))
    for isa in _core.isas():
        for threads in ("1", "2", "3") if isa == _core.isas()[-1] else ("2",):
            env = dict(os.environ, INFINITYPOOL_ISA=isa, OMP_NUM_THREADS=threads)
            done = subprocess.run(
                [sys.executable, "-c", SAME, folder], env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            seen[isa, threads] = done.stdout
    assert len(set(seen.values())) == 1, [
        k for k, v in seen.items() if v != next(iter(seen.values()))
    ]

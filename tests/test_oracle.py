"""The oracle itself, against formulas and libraries that know nothing of it."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from skimage import measure

import oracle


def test_values_known_by_heart():
    x = np.arange(1.0, 17.0).reshape(4, 4)
    assert oracle.pool(x, "max", 2).values.tolist() == [[6, 8], [14, 16]]
    assert oracle.pool(x, "max", 2).plane.tolist() == [[5, 7], [13, 15]]
    assert oracle.pool(x, "max", 2).offset.tolist() == [[3, 3], [3, 3]]
    assert oracle.pool(x, "min", 2).values.tolist() == [[1, 3], [9, 11]]
    assert oracle.pool(x, "mean", 2).values.tolist() == [[3.5, 5.5], [11.5, 13.5]]
    assert oracle.pool(x, "sum", 2).values.tolist() == [[14, 22], [46, 54]]


def test_nan_and_ties():
    nan, inf = math.nan, math.inf
    x = np.array([[3.0, nan, nan, 5.0, 5.0, -0.0, 0.0, -inf, -inf]])
    got = oracle.pool(x, "max", (3,), stride=2, axes=-1)
    assert got.plane.tolist() == [[2, 2, 4, 6]]
    got = oracle.pool(x[:, 5:7], "max", (2,), axes=-1)
    assert got.plane.tolist() == [[0]] and np.signbit(got.values[0, 0])
    assert oracle.pool(x[:, 7:], "max", (2,), axes=-1).plane.tolist() == [[0]]


@pytest.mark.parametrize(
    "total, divisor, even, cut",
    [
        (5, 2, 2, 2),
        (7, 2, 4, 3),
        (-5, 2, -2, -2),
        (-7, 2, -4, -3),
        (-1, 3, 0, 0),
        (-2, 3, -1, 0),
        (1, -2, 0, 0),
        (3, -2, -2, -1),
        (2**64 - 1, 2, 2**63, 2**63 - 1),
        (7, 0, 0, 0),
    ],
)
def test_integer_division(total, divisor, even, cut):
    assert oracle._divide(total, divisor, False) == even
    assert oracle._divide(total, divisor, True) == cut


def test_output_size_against_torch():
    """Every small combination: the sizes of PyTorch's own operator, ceil_mode and dilation too."""
    checked = 0
    for n, k, s, p, d, ceil in itertools.product(
        range(1, 9), range(1, 5), range(1, 5), range(3), range(1, 4), (False, True)
    ):
        if 2 * p > k:
            continue
        axis = oracle.make_axis(n, k, s, (p, p), d, ceil)
        try:
            expected = F.max_pool2d(torch.zeros(1, n, 9), (k, 1), (s, 1), (p, 0), (d, 1), ceil)
            expected = expected.shape[1]
        except RuntimeError:
            expected = 0
        assert axis.out == expected, (n, k, s, p, d, ceil)
        checked += 1
    assert checked > 1000


@pytest.mark.parametrize("n", (1, 5, 6, 10))
@pytest.mark.parametrize("k", (1, 2, 3))
@pytest.mark.parametrize("s", (1, 2, 3))
@pytest.mark.parametrize("d", (1, 2))
def test_same_padding_covers_the_line(n, k, s, d):
    axis = oracle.make_axis(n, k, s, "same", d, False)
    assert axis.out == math.ceil(n / s)
    assert 0 <= axis.after - axis.before <= 1
    reach = axis.position(axis.out - 1, k - 1)
    # TensorFlow pads no more than the last window needs.
    assert reach == n - 1 + axis.after or (axis.before, axis.after) == (0, 0)


TORCH = {
    "max": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "mean": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
}


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("ndim", (1, 2, 3))
@pytest.mark.parametrize("op", ("max", "mean"))
def test_values_and_gradients_against_torch(op, ndim, seed):
    rng = np.random.default_rng([seed, ndim, op == "max"])
    shape = (2, *rng.integers(4, 8, ndim).tolist())
    x = rng.integers(-4, 5, shape).astype(np.float64)
    if op == "max" and seed % 3 == 0:
        x[rng.random(shape) < 0.15] = math.nan
        x[rng.random(shape) < 0.15] = -math.inf
    kernel = rng.integers(1, 5, ndim).tolist()
    stride = rng.integers(1, 4, ndim).tolist()
    padding = [int(rng.integers(0, k // 2 + 1)) for k in kernel]
    ceil = bool(seed % 2)
    arguments = {"stride": stride, "padding": padding, "ceil_mode": ceil}
    t = torch.tensor(x, requires_grad=True)
    if op == "max":
        values, indices = TORCH[op][ndim - 1](t, kernel, **arguments, return_indices=True)
    else:
        arguments["count_include_pad"] = bool(rng.integers(2))
        if ndim > 1 and rng.integers(2):
            arguments["divisor_override"] = int(rng.integers(1, 5))
        values = TORCH[op][ndim - 1](t, kernel, **arguments)
    grad = rng.integers(-3, 4, tuple(values.shape)).astype(np.float64)
    values.backward(torch.tensor(grad))
    got = oracle.pool(x, op, kernel, **arguments)
    if op == "max":
        oracle.assert_same_bits(got.values, values.detach().numpy())
        oracle.assert_same_bits(got.plane, indices.numpy())
    else:
        np.testing.assert_allclose(got.values.astype(float), values.detach().numpy(), rtol=1e-14)
    back = oracle.gradient(x, grad, op, kernel, **arguments)
    np.testing.assert_allclose(back, t.grad.numpy(), rtol=1e-13, atol=1e-13)


def test_dilation_against_strided_windows():
    x = np.random.default_rng(0).integers(-99, 99, (3, 12, 11))
    windows = sliding_window_view(x, (5, 3), (1, 2))[:, ::2, :, ::2, ::2]
    got = oracle.pool(x, "min", (3, 2), stride=(2, 1), dilation=2)
    oracle.assert_same_bits(got.values, windows.min((-1, -2)))
    got = oracle.pool(x, "sum", (3, 2), stride=(2, 1), dilation=2)
    oracle.assert_same_bits(got.values, windows.sum((-1, -2)))


def test_axes_in_any_order_and_place():
    x = np.random.default_rng(0).standard_normal((5, 6, 3))
    want = np.stack([oracle.pool(x[..., c], "max", (2, 3)).values for c in range(3)], -1)
    oracle.assert_same_bits(oracle.pool(x, "max", (2, 3), axes=(0, 1)).values, want)
    oracle.assert_same_bits(oracle.pool(x, "max", (3, 2), axes=(-2, 0)).values, want)


def test_one_sided_padding_is_a_padded_array():
    x = np.random.default_rng(1).standard_normal((4, 5))
    padded = np.pad(x, ((4, 1), (0, 3)), constant_values=-np.inf)
    got = oracle.pool(x, "max", (3, 2), stride=1, padding=((4, 1), (0, 3)))
    oracle.assert_same_bits(got.values, sliding_window_view(padded, (3, 2)).max((-1, -2)))
    assert (got.plane[0] == -1).all() and (got.plane[-1, :-2] >= 0).all()
    zeros = np.pad(x, ((4, 1), (0, 3)))
    got = oracle.pool(x, "mean", (3, 2), stride=1, padding=((4, 1), (0, 3)))
    np.testing.assert_allclose(
        got.values.astype(float), sliding_window_view(zeros, (3, 2)).mean((-1, -2)), rtol=1e-14
    )


ADAPTIVE = {
    "max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    "mean": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("ndim", (1, 2, 3))
@pytest.mark.parametrize("op", ("max", "mean"))
def test_adaptive_against_torch(op, ndim, seed):
    """Output sizes below, at and above the input's; gradients too."""
    rng = np.random.default_rng([seed, ndim])
    shape = (2, *rng.integers(1, 9, ndim).tolist())
    size = [None if rng.integers(5) == 0 else int(rng.integers(1, 12)) for _ in range(ndim)]
    if ndim == 1:
        size = [size[0] or 3]  # PyTorch takes None in planes and volumes alone
    x = rng.integers(-4, 5, shape).astype(np.float64)
    if op == "max" and seed % 3 == 0:
        x[rng.random(shape) < 0.15] = math.nan
    t = torch.tensor(x, requires_grad=True)
    got = oracle.pool(x, op, size, adaptive=True)
    if op == "max":
        values, indices = ADAPTIVE[op][ndim - 1](t, size, return_indices=True)
        oracle.assert_same_bits(got.values, values.detach().numpy())
        oracle.assert_same_bits(got.plane, indices.numpy())
    else:
        values = ADAPTIVE[op][ndim - 1](t, size)
        np.testing.assert_allclose(got.values.astype(float), values.detach().numpy(), rtol=1e-13)
    grad = rng.integers(-3, 4, tuple(values.shape)).astype(np.float64)
    values.backward(torch.tensor(grad))
    back = oracle.gradient(x, grad, op, size, adaptive=True)
    np.testing.assert_allclose(back, t.grad.numpy(), rtol=1e-13, atol=1e-13)


def test_the_longest_adaptive_window():
    """The closed form of the longest window, which sets the type of offsets, over small sizes."""
    for n, out in itertools.product(range(1, 40), range(1, 50)):
        q, r = divmod(n, out)
        longest = q + (0 if r == 0 else 1 if out % r == 0 else 2)
        assert oracle.adaptive_axis(n, out).kernel == longest, (n, out)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("ndim", (2, 3))
def test_fractional_against_torch(ndim, seed):
    """The window sequence in float64 and in float32, through the indices PyTorch returns."""
    rng = np.random.default_rng([seed, ndim])
    dtype = (np.float64, np.float32)[seed % 2]
    shape = rng.integers(4, 12, ndim).tolist()
    kernel = [int(rng.integers(1, 4)) for _ in shape]
    # Each output needs a place of its own to start at; PyTorch's volumes want one to spare.
    out = [int(rng.integers(1, n - k + 4 - ndim)) for n, k in zip(shape, kernel, strict=True)]
    samples = rng.random(ndim).astype(dtype)
    x = rng.standard_normal(shape).astype(dtype)
    function = {2: F.fractional_max_pool2d, 3: F.fractional_max_pool3d}[ndim]
    # PyTorch reads its samples from the last axis to the first in planes, not in volumes.
    order = samples[::-1] if ndim == 2 else samples
    values, indices = function(
        torch.tensor(x)[None, None],
        kernel,
        out,
        return_indices=True,
        _random_samples=torch.tensor(order.copy())[None, None],
    )
    lines = tuple(
        oracle.fractional_axis(n, k, o, u, dtype)
        for n, k, o, u in zip(shape, kernel, out, samples, strict=True)
    )
    got = oracle.pool(x, "max", kernel, lines=lines)
    oracle.assert_same_bits(got.values, values[0, 0].numpy())
    oracle.assert_same_bits(got.plane, indices[0, 0].numpy())


def test_unpooling_against_torch():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 8, 6))
    values, indices = F.max_pool2d(torch.tensor(x), 2, return_indices=True)
    want = F.max_unpool2d(values, indices, 2).numpy()
    got = oracle.unpool(values.numpy(), indices.numpy(), (8, 6), (2, 3))
    oracle.assert_same_bits(got, want)
    moved = oracle.unpool(
        values.numpy().transpose(0, 2, 3, 1), indices.numpy().transpose(0, 2, 3, 1), (8, 6), (1, 2)
    )
    oracle.assert_same_bits(moved.transpose(0, 3, 1, 2), want)
    collided = oracle.unpool(np.arange(1.0, 5), np.array([2, 0, 2, 2]), (4,), (0,))
    assert collided.tolist() == [2, 0, 4, 0]


def _computed(x, op, kernel, arguments=None, **parameters):
    return oracle.pool(x, op, kernel, parameters=parameters, **(arguments or {})).values


@pytest.mark.parametrize("p", (1.0, 2.0, 3.0, 1.5, 4.0, math.inf))
def test_power_sums_against_torch_and_numpy(p):
    x = np.abs(np.random.default_rng(0).standard_normal((2, 9, 8)))
    if not math.isinf(p):
        want = F.lp_pool2d(torch.tensor(x)[None], p, 3, stride=2)[0].numpy()
        np.testing.assert_allclose(_computed(x, "lp", 3, {"stride": 2}, p=p).astype(float), want)
    windows = sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].reshape(2, 4, 3, 9)
    got = _computed(x, "lp", 3, {"stride": 2}, p=p).astype(float)
    np.testing.assert_allclose(got, np.linalg.norm(windows, p, axis=-1), rtol=1e-13)


def test_power_sums_of_negative_numbers():
    x = np.array([-1.0, -2.0, 3.0, -3.0, 1.0, -8.0])
    assert _computed(x, "lp", (2,), p=1.0).tolist() == [-3, 0, -7]
    np.testing.assert_allclose(
        _computed(x, "lp", (2,), p=3.0).astype(float), [-np.cbrt(9), 0, -np.cbrt(511)]
    )
    got = _computed(x, "lp", (2,), p=2.0).astype(float)
    np.testing.assert_allclose(got, np.sqrt([5, 18, 65]))
    assert np.isnan(_computed(x, "lp", (2,), p=2.5)).all()
    assert _computed(x, "lp", (2,), p=math.inf).tolist() == [2, 3, 8]


def test_means_of_powers():
    x = np.random.default_rng(1).standard_normal((6, 10))
    w = sliding_window_view(x, (2, 5)).reshape(5, 6, 10)
    one = {"stride": 1}
    np.testing.assert_allclose(
        _computed(x, "rms", (2, 5), one).astype(float), np.sqrt((w**2).mean(-1)), rtol=1e-13
    )
    for p in (0.5, 1.0, 3.0):
        want = (np.maximum(w, 1e-6) ** p).mean(-1) ** (1 / p)
        got = _computed(x, "gem", (2, 5), one, p=p, floor=1e-6).astype(float)
        np.testing.assert_allclose(got, want, rtol=1e-13)


@pytest.mark.parametrize("beta", (1.0, -1.0, 0.1, 30.0))
def test_exponential_kinds_against_scipy(beta):
    x = np.random.default_rng(2).standard_normal((7, 9)) * 20
    w = sliding_window_view(x, (3, 2)).reshape(5, 8, 6)
    one = {"stride": 1}
    want = scipy.special.logsumexp(beta * w, axis=-1) / beta
    got = _computed(x, "log_sum_exp", (3, 2), one, beta=beta).astype(float)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    want = (w * scipy.special.softmax(beta * w, axis=-1)).sum(-1)
    got = _computed(x, "soft", (3, 2), one, beta=beta).astype(float)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_exponential_kinds_at_infinity():
    inf = math.inf
    x = np.array([1.0, inf, -inf, 2.0, -inf, -inf])
    assert _computed(x, "log_sum_exp", (2,), beta=1.0).tolist() == [inf, 2, -inf]
    assert _computed(x, "log_sum_exp", (2,), beta=-1.0).tolist() == [1, -inf, -inf]
    assert _computed(x, "soft", (2,), beta=1.0).tolist() == [inf, 2, -inf]
    assert _computed(x, "soft", (2,), beta=-1.0).tolist() == [1, -inf, -inf]


@pytest.mark.parametrize("method", ("linear", "lower", "higher", "nearest"))
@pytest.mark.parametrize("q", (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1 / 3))
def test_quantiles_against_numpy(q, method):
    x = np.random.default_rng(3).standard_normal((8, 9))
    for kernel in ((3, 3), (2, 5), (1, 4)):
        w = sliding_window_view(x, kernel)
        want = np.quantile(w, q, axis=(-2, -1), method=method)
        got = _computed(x, "quantile", kernel, {"stride": 1}, q=q, method=method).astype(float)
        np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-14)
    whole = np.random.default_rng(4).integers(-50, 50, (8, 9)).astype(np.int16)
    got = _computed(whole, "quantile", (3, 4), {"stride": 1}, q=q, method=method)
    want = np.quantile(sliding_window_view(whole, (3, 4)), q, axis=(-2, -1), method=method)
    exact = np.rint(want).astype(np.int16)
    if np.array_equal(got, exact):
        return
    # NumPy rounds its interpolated value once before the tie is seen: 0.1 is not a binary number.
    off = got != exact
    assert (np.abs(want[off] % 1 - 0.5) < 1e-9).all()
    oracle.assert_pooled(
        exact, whole, "quantile", (3, 4), stride=1, parameters={"q": q, "method": method}
    )


def test_quantiles_keep_infinities_and_large_integers():
    inf = math.inf
    x = np.array([-inf, 5.0, inf, inf, -inf, inf])
    got = _computed(x, "quantile", (2,), q=0.25, method="linear")
    np.testing.assert_array_equal(got.astype(float), [-inf, inf, math.nan])
    big = np.array([2**62 + 1, 2**62 + 3, -(2**62), 2**62 + 2])
    got = _computed(big, "quantile", (2,), q=0.5, method="linear")
    assert got.tolist() == [2**62 + 2, 1]


def test_expectation_and_mixture():
    x = np.random.default_rng(5).standard_normal((6, 8))
    w = sliding_window_view(x, (2, 2)).reshape(5, 7, 4)
    weight = np.maximum(w, 0)
    plain = weight.sum(-1) == 0
    weight[plain] = 1
    want = (weight * w).sum(-1) / weight.sum(-1)
    got = _computed(x, "expectation", (2, 2), {"stride": 1}).astype(float)
    assert plain.any() and not plain.all()
    np.testing.assert_allclose(got, want, rtol=1e-13)
    got = _computed(x, "mixed", (2, 2), {"stride": 1}, alpha=0.3).astype(float)
    np.testing.assert_allclose(got, 0.3 * w.max(-1) + 0.7 * w.mean(-1), rtol=1e-13)


def test_filters_of_scipy():
    """Stride 1 with half a window of padding is a filter: the extremes at the borders as well,
    where SciPy is told to pad with what cannot win, ranks and means in the interior."""
    x = np.random.default_rng(6).integers(0, 256, (20, 17)).astype(np.uint8)
    for kernel in ((3, 3), (5, 3), (1, 7)):
        half = {"stride": 1, "padding": tuple(k // 2 for k in kernel)}
        inner = tuple(slice(k // 2, n - k // 2) for k, n in zip(kernel, x.shape, strict=True))
        got = oracle.pool(x, "max", kernel, **half).values
        want = scipy.ndimage.maximum_filter(x, kernel, mode="constant", cval=0)
        oracle.assert_same_bits(got, want)
        oracle.assert_same_bits(got[inner], scipy.ndimage.grey_dilation(x, kernel)[inner])
        got = oracle.pool(x, "min", kernel, **half).values
        oracle.assert_same_bits(got[inner], scipy.ndimage.grey_erosion(x, kernel)[inner])
        got = _computed(x, "quantile", kernel, half, q=0.5, method="linear")
        oracle.assert_same_bits(got[inner], scipy.ndimage.median_filter(x, kernel)[inner])
        got = oracle.pool(x.astype(float), "mean", kernel, **half).values.astype(float)
        want = scipy.ndimage.uniform_filter(x.astype(float), kernel)
        np.testing.assert_allclose(got[inner], want[inner], rtol=1e-11)


def test_median_filter_of_opencv():
    x = np.random.default_rng(7).integers(0, 256, (20, 17)).astype(np.uint8)
    got = _computed(x, "quantile", 5, {"stride": 1}, q=0.5, method="linear")
    oracle.assert_same_bits(got, cv2.medianBlur(x, 5)[2:-2, 2:-2])


def test_block_reduce_of_scikit_image():
    x = np.random.default_rng(8).standard_normal((12, 15))
    for op, function in (("max", np.max), ("mean", np.mean), ("sum", np.sum)):
        got = oracle.pool(x, op, (3, 5)).values.astype(float)
        np.testing.assert_allclose(got, measure.block_reduce(x, (3, 5), function), rtol=1e-13)


def test_a_partial_edge_is_a_sum_over_what_is_left():
    """numpy.add.reduceat sums from one start to the next, the last one to the end."""
    for n, k in itertools.product(range(1, 14), range(1, 16)):
        x = np.arange(1, n + 1)
        got = oracle.pool(x, "sum", (k,), edge="partial").values
        oracle.assert_same_bits(got, np.add.reduceat(x, range(0, n, k)))
    # Windows that overlap: none starts behind the input, all of it is covered.
    for n, k, s, pad in itertools.product(range(1, 9), range(1, 5), range(1, 5), range(3)):
        if 2 * pad > k:
            continue
        line = oracle.make_axis(n, k, s, (pad, pad), 1, False, "partial")
        assert line.out == 1 or line.position(line.out - 1, 0) < n
        if k >= s:
            assert line.position(line.out - 1, k - 1) >= n - 1
        whole = oracle.make_axis(n, k, s, (pad, pad), 1, True).out
        assert line.out == max(whole, 1)  # ceil_mode, wherever one window fits at all


@pytest.mark.parametrize("op, function", [("mean", np.nanmean), ("sum", np.nansum)])
def test_excluded_elements_against_numpy(op, function):
    x = np.random.default_rng(9).standard_normal((9, 8))
    x[np.random.default_rng(10).random(x.shape) < 0.3] = math.nan
    w = sliding_window_view(x, (2, 3)).reshape(8, 6, 6)
    one = {"stride": 1}
    got = oracle.pool(x, op, (2, 3), nan_policy="omit", **one).values.astype(float)
    np.testing.assert_allclose(got, function(w, -1), rtol=1e-13, atol=1e-15)
    masked = oracle.pool(np.nan_to_num(x, nan=99), op, (2, 3), where=~np.isnan(x), **one)
    np.testing.assert_array_equal(masked.values.astype(float), got)
    short = oracle.pool(x, op, (2, 3), nan_policy="omit", min_count=5, **one).values
    few = (~np.isnan(w)).sum(-1) < 5
    assert few.any() and not few.all()
    np.testing.assert_array_equal(np.isnan(short), few)
    want = np.nanmedian(w, -1)
    got = _computed(x, "quantile", (2, 3), {**one, "nan_policy": "omit"}, q=0.5, method="linear")
    np.testing.assert_allclose(got.astype(float), want, rtol=1e-14)
    top = oracle.pool(x, "max", (2, 3), nan_policy="omit", **one)
    np.testing.assert_array_equal(top.values, np.nanmax(w, -1))
    np.testing.assert_array_equal(x.ravel()[top.plane], top.values)


def test_windows_without_a_valid_element():
    none = {"where": np.zeros(4, bool)}
    x = np.ones(4)
    for op, want in [("max", -np.inf), ("min", np.inf), ("sum", 0), ("mean", np.nan)]:
        got = oracle.pool(x, op, (2,), **none)
        np.testing.assert_array_equal(got.values.astype(float), [want] * 2)
    parameters = {
        "lp": ({"p": 3.0}, 0),
        "rms": ({}, np.nan),
        "gem": ({"p": 3.0, "floor": 0.0}, np.nan),
        "log_sum_exp": ({"beta": 2.0}, -np.inf),
        "soft": ({"beta": 1.0}, np.nan),
        "quantile": ({"q": 0.5, "method": "linear"}, np.nan),
        "expectation": ({}, np.nan),
        "mixed": ({"alpha": 0.5}, np.nan),
    }
    assert set(parameters) == set(oracle.DEFINITIONS)
    for op, (own, want) in parameters.items():
        got = _computed(x, op, (2,), none, **own).astype(float)
        np.testing.assert_array_equal(got, [want] * 2, op)
    got = _computed(x, "log_sum_exp", (2,), none, beta=-2.0).astype(float)
    np.testing.assert_array_equal(got, [np.inf] * 2)
    whole = _computed(np.ones(4, np.int8), "quantile", (2,), none, q=0.5, method="linear")
    assert whole.dtype == np.int8 and whole.tolist() == [0, 0]
    assert oracle.pool(np.ones(4, np.int8), "mean", (2,), **none).values.tolist() == [0, 0]


def test_places_in_the_whole_array():
    x = np.random.default_rng(11).permutation(2 * 6 * 3 * 8).reshape(2, 6, 3, 8)
    for axes in ((1, 3), (0, 2), (2,), (0, 1, 3)):
        got = oracle.pool(x, "max", (2,) * len(axes), axes=axes)
        flat = oracle.whole_places(got.plane, x.shape, axes)
        np.testing.assert_array_equal(x.ravel()[flat], got.values)


@pytest.mark.parametrize("kernel", (1, 2, 3, 4, 5))
@pytest.mark.parametrize("mode, name", [("reflect", "mirror"), ("edge", "nearest")])
def test_blur_against_scipy(mode, name, kernel):
    x = np.random.default_rng(12).standard_normal((9, 11))
    weights = oracle.binomial(kernel).astype(float)
    assert weights.sum() == 1
    # SciPy centres even kernels half an element further on.
    want, origin = x, -1 if kernel % 2 == 0 else 0
    for axis in (0, 1):
        want = scipy.ndimage.correlate1d(want, weights, axis, mode=name, origin=origin)
    got = oracle.blur(x, kernel, 2, mode, (0, 1)).values.astype(float)
    np.testing.assert_allclose(got, want[::2, ::2], rtol=1e-12, atol=1e-14)


def test_comparison_can_fail():
    x = np.arange(16.0).reshape(4, 4)
    right = oracle.pool(x, "max", 2).values
    for wrong in (
        right + 1,
        right.astype(np.float32),
        right[:1],
        np.where(right == 5, -0.0, right),
    ):
        with pytest.raises(AssertionError):
            oracle.assert_pooled(wrong, x, "max", 2)
    with pytest.raises(AssertionError):
        oracle.assert_same_bits(np.array([0.0]), np.array([-0.0]))
    mean = oracle.pool(x, "mean", 2).values.astype(float)
    oracle.assert_pooled(mean, x, "mean", 2)
    with pytest.raises(AssertionError):
        oracle.assert_pooled(mean * (1 + 1e-14), x, "mean", 2)
    with pytest.raises(AssertionError):
        oracle.assert_pooled(np.where(mean > 9, np.nan, mean), x, "mean", 2)
    soft = oracle.pool(x, "soft", 2, parameters={"beta": 1.0}).values.astype(float)
    given = {"parameters": {"beta": 1.0}}
    oracle.assert_pooled(soft, x, "soft", 2, **given)
    for wrong in (soft * (1 + 1e-12), np.where(soft > 9, np.inf, soft)):
        with pytest.raises(AssertionError):
            oracle.assert_pooled(wrong, x, "soft", 2, **given)

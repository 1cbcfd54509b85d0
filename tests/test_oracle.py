"""The oracle itself, against formulas and libraries that know nothing of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view

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

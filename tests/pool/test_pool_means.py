"""Averages and sums: accuracy, and no leaking of NaN or infinity between windows."""

from __future__ import annotations

import math

import numpy as np
import pytest

import infinitypool as ip
import oracle
import strategies

HALVES = [np.dtype(np.float16), oracle.BFLOAT16]
FLOATS = list(oracle.FLOATS)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "shape, kernel, rest",
    [
        ((2, 40, 41), (7, 5), {"stride": 1, "padding": "same"}),
        ((2, 40, 41), (2, 2), {}),
        ((500,), (101,), {"stride": 2, "axes": 0}),
        ((31, 30, 5), (11, 13), {"axes": (0, 1), "stride": 1}),
        ((9, 10, 11), (4, 3, 2), {"stride": 1}),
        ((64, 64), (64, 64), {}),
        ((12, 12), (3, 3), {"dilation": 3, "stride": 1}),
    ],
)
@pytest.mark.parametrize("op", ["mean", "sum"])
def test_against_exact_sums(op, shape, kernel, rest, dtype):
    """Values over six decades, signs mixed: the error stays under the derived tolerance."""
    rng = np.random.default_rng(7)
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 2, shape)).astype(dtype)
    function = {"mean": ip.avg_pool, "sum": ip.sum_pool}[op]
    oracle.assert_pooled(function(x, kernel, **rest), x, op, kernel, **rest)


@pytest.mark.parametrize("dtype, big", [("float32", 1e7), ("float64", 1e15), ("float16", 6e4)])
@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_ill_conditioned_sums(axes, dtype, big):
    """A huge number leaves the window and must leave no trace: running sums would drift here."""
    x = np.full((2000, 3), 1e-3, dtype)
    x[5] = big
    x[700] = -big
    x = x if axes == (0,) else np.ascontiguousarray(x.T)
    got = ip.avg_pool(x, (9,), stride=1, axes=axes)
    oracle.assert_pooled(got, x, "mean", (9,), stride=1, axes=axes)
    calm = np.moveaxis(got, axes[0], 0)[1000:]
    np.testing.assert_allclose(calm.astype(float), 1e-3, rtol=5 * oracle.epsilon(np.dtype(dtype)))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    "shape, axes", [((300, 300), (0, 1)), ((4096,), (0,)), ((300, 300, 8), (0, 1))]
)
def test_many_ones_in_half_precision(shape, axes, dtype):
    """The mean of ones is one: a sum kept in half precision would stop at 2048, or at 256."""
    x = np.ones(shape, dtype)
    kernel = tuple(shape[a] for a in axes)
    assert (ip.avg_pool(x, kernel, axes=axes).astype(float) == 1).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_two_term_means_are_settled_to_the_last_bit(dtype):
    """One addition (halves: in float32), one exact halving, one rounding: nothing is left open."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 64)).astype(dtype)
    got = ip.avg_pool(x, (2,))
    added_in = np.float64 if dtype == np.float64 else np.float32
    wide = x.astype(added_in)
    oracle.assert_same_bits(got, ((wide[:, ::2] + wide[:, 1::2]) / 2).astype(dtype))


@pytest.mark.parametrize("layout", ["planes", "channels last"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kernel, stride", [((3, 3), 1), ((5, 2), 2), ((9, 9), 1)])
@pytest.mark.parametrize("op", ["mean", "sum"])
def test_infinity_and_nan_stay_inside_their_windows(op, kernel, stride, bad, layout):
    x = np.ones((33, 40, 2), np.float32)
    x[11, 17, 1] = bad
    axes = (0, 1)
    if layout == "planes":
        x, axes = np.ascontiguousarray(x.transpose(2, 0, 1)), (1, 2)
    function = {"mean": ip.avg_pool, "sum": ip.sum_pool}[op]
    got = function(x, kernel, stride=stride, axes=axes)
    oracle.assert_pooled(got, x, op, kernel, stride=stride, axes=axes)
    touched = ~np.isfinite(got)
    assert 1 <= touched.sum() <= math.prod(kernel)
    calm = got[~touched]
    assert (calm == (1 if op == "mean" else math.prod(kernel))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_infinities_make_nan(dtype):
    x = np.array([[np.inf, -np.inf, 1.0, 1.0, np.inf, 1.0]], dtype)
    np.testing.assert_array_equal(ip.avg_pool(x, (2,)), [[np.nan, 1, np.inf]])
    np.testing.assert_array_equal(ip.sum_pool(x, (2,)), [[np.nan, 2, np.inf]])


@pytest.mark.parametrize("dtype", oracle.INTEGERS, ids=str)
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (1, 7)])
def test_integer_means_are_exact(kernel, dtype):
    """The dtype's extremes and everything between; eight bytes wide, as far as 64 bits can sum."""
    rng = np.random.default_rng(1)
    x = strategies.numbers(rng, (20, 21), dtype, "wide", room=16)
    for rest in ({"stride": 1}, {"stride": 2, "padding": "same"}, {"divisor_override": 5}):
        oracle.assert_pooled(ip.avg_pool(x, kernel, **rest), x, "mean", kernel, **rest)


@pytest.mark.parametrize("dtype", oracle.INTEGERS, ids=str)
def test_integer_sums_are_those_of_numpy(dtype):
    rng = np.random.default_rng(2)
    x = strategies.numbers(rng, (12, 15), dtype, "wide", room=1)
    got = ip.sum_pool(x, (3, 5), stride=(3, 5))
    want = np.stack(
        [[x[i : i + 3, j : j + 5].sum() for j in range(0, 15, 5)] for i in range(0, 12, 3)]
    )
    oracle.assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_sixty_four_bit_means_do_not_pass_through_floats(dtype):
    x = np.array([2**61 + 1, 2**61 + 3, 2**53 + 1, 2**53 + 1], dtype)
    assert ip.avg_pool(x, (2,)).tolist() == [2**61 + 2, 2**53 + 1]

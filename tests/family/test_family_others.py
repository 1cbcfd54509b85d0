"""Independent judges: SciPy, OpenCV, scikit-image, NumPy and PyTorch, where they know the kind."""

from __future__ import annotations

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

import infinitypool as ip
import oracle

PICTURE = np.random.default_rng(0).integers(0, 256, (61, 83)).astype(np.uint8)
KERNELS = [(3, 3), (5, 3), (1, 7), (5, 5), (9, 9)]


def _half(kernel):
    return {"stride": 1, "padding": tuple(k // 2 for k in kernel)}


def _inner(x, kernel):
    return tuple(slice(k // 2, n - k // 2) for k, n in zip(kernel, x.shape, strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_median_filter(kernel, dtype):
    x = PICTURE.astype(dtype)
    want = scipy.ndimage.median_filter(x, kernel)
    got = ip.median_pool(x, kernel, **_half(kernel))
    oracle.assert_same_bits(got[_inner(x, kernel)], want[_inner(x, kernel)])
    # At the border SciPy may be given NaN for what lies outside, and the rest ranked by hand.
    around = np.pad(x.astype(float), [(k // 2, k // 2) for k in kernel], constant_values=np.nan)
    want = np.nanmedian(sliding_window_view(around, kernel), (-2, -1))
    want = want.astype(dtype) if np.issubdtype(dtype, np.floating) else np.rint(want).astype(dtype)
    oracle.assert_same_bits(got, want)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("percent", [0, 20, 50, 90, 100])
def test_ranks(percent, kernel):
    """SciPy's percentile filter takes the element of a rank: the lower one, here."""
    rank = math.floor(percent / 100 * (math.prod(kernel) - 1))
    want = scipy.ndimage.rank_filter(PICTURE, rank, kernel)
    got = ip.quantile_pool(PICTURE, kernel, percent / 100, method="lower", **_half(kernel))
    oracle.assert_same_bits(got[_inner(PICTURE, kernel)], want[_inner(PICTURE, kernel)])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_morphology(kernel, dtype):
    """Stride-1 max is grey dilation, min is grey erosion, and one after the other opens."""
    x = PICTURE.astype(dtype)
    inner = _inner(x, kernel)
    dilated = ip.max_pool(x, kernel, **_half(kernel))
    oracle.assert_same_bits(dilated[inner], scipy.ndimage.grey_dilation(x, kernel)[inner])
    eroded = ip.min_pool(x, kernel, **_half(kernel))
    oracle.assert_same_bits(eroded[inner], scipy.ndimage.grey_erosion(x, kernel)[inner])
    low, high = (
        (-np.inf, np.inf) if dtype == np.float32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    )
    want = scipy.ndimage.maximum_filter(x, kernel, mode="constant", cval=low)
    oracle.assert_same_bits(dilated, want)
    want = scipy.ndimage.minimum_filter(x, kernel, mode="constant", cval=high)
    oracle.assert_same_bits(eroded, want)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_median_blur_of_opencv(dtype, kernel):
    if kernel == 7 and dtype != np.uint8:
        kernel = 5  # OpenCV has larger windows for bytes alone
    x = PICTURE.astype(dtype)
    inner = _inner(x, (kernel, kernel))
    got = ip.median_pool(x, kernel, **_half((kernel, kernel)))
    oracle.assert_same_bits(got[inner], cv2.medianBlur(x, kernel)[inner])
    colours = np.stack([x, x[::-1], x[:, ::-1]], -1)
    got = ip.median_pool(colours, kernel, axes=(0, 1), **_half((kernel, kernel)))
    oracle.assert_same_bits(got[inner], cv2.medianBlur(colours, kernel)[inner])


def test_block_reduce_of_scikit_image():
    x = np.random.default_rng(1).standard_normal((6, 30, 42))
    block = (2, 3, 7)
    for ours, theirs in [
        (ip.max_pool, np.max),
        (ip.min_pool, np.min),
        (ip.avg_pool, np.mean),
        (ip.sum_pool, np.sum),
        (ip.median_pool, np.median),
    ]:
        want = measure.block_reduce(x, block, theirs)
        np.testing.assert_allclose(ours(x, block), want, rtol=1e-12, atol=1e-14)
    # It fills a last block up: with the value that cannot win, that is a partial edge.
    want = measure.block_reduce(x, (4, 4, 4), np.max, cval=-np.inf)
    oracle.assert_same_bits(ip.max_pool(x, (4, 4, 4), edge="partial"), want)
    want = measure.block_reduce(x, (4, 4, 4), np.sum, cval=0)
    got = ip.sum_pool(x, (4, 4, 4), edge="partial")
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("q", [0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1])
@pytest.mark.parametrize("method", ["linear", "lower", "higher", "nearest"])
def test_quantiles_of_numpy(q, method):
    x = np.random.default_rng(2).standard_normal((20, 23))
    w = sliding_window_view(x, (3, 4))
    want = np.quantile(w, q, axis=(-2, -1), method=method)
    got = ip.quantile_pool(x, (3, 4), q, method=method, stride=1)
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-15)
    holes = np.where(np.random.default_rng(3).random(x.shape) < 0.3, np.nan, x)
    want = np.nanquantile(sliding_window_view(holes, (3, 4)), q, axis=(-2, -1), method=method)
    got = ip.quantile_pool(holes, (3, 4), q, method=method, stride=1, nan_policy="omit")
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("beta", [1.0, -2.0, 0.3, 40.0])
def test_exponential_kinds_of_scipy(beta):
    x = np.random.default_rng(4).standard_normal((20, 23)) * 30
    w = sliding_window_view(x, (3, 4)).reshape(18, 20, 12)
    got = ip.log_sum_exp_pool(x, (3, 4), stride=1, beta=beta)
    np.testing.assert_allclose(got, scipy.special.logsumexp(beta * w, axis=-1) / beta, rtol=1e-12)
    got = ip.soft_pool(x, (3, 4), stride=1, beta=beta)
    want = (w * scipy.special.softmax(beta * w, axis=-1)).sum(-1)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("big", [1e4, -1e4, 3e38, -3e38])
def test_exponentials_of_huge_numbers_are_stable(big):
    """No overflow where the result is an ordinary number."""
    x = np.array([big, 0, big, big, 1, 2], np.float32)
    lse = ip.log_sum_exp_pool(x, (2,))
    np.testing.assert_allclose(
        lse, [max(big, 0), big + math.log(2), math.log(math.e + math.e**2)], rtol=1e-6
    )
    soft = ip.soft_pool(x, (2,))
    share = math.e / (1 + math.e)
    np.testing.assert_allclose(soft, [max(big, 0), big, 1 - share + 2 * share], rtol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 1.5, 4.0])
def test_power_sums_of_torch(p):
    """Of positive numbers: of others PyTorch has its own opinion."""
    x = np.abs(np.random.default_rng(5).standard_normal((2, 3, 11, 12)))
    want = F.lp_pool2d(torch.from_numpy(x), p, (3, 2), stride=2).numpy()
    np.testing.assert_allclose(ip.lp_pool(x, (3, 2), stride=2, p=p), want, rtol=1e-13)


def test_odd_powers_keep_the_sign():
    x = np.array([-1.0, -2.0, -3.0, 1.0, 2.0, 3.0], np.float32)
    assert ip.lp_pool(x, (2,), p=1).tolist() == [-3, -2, 5]
    np.testing.assert_allclose(ip.lp_pool(x, (2,), p=3), np.cbrt([-9, -26, 35]), rtol=1e-6)
    np.testing.assert_allclose(ip.lp_pool(x, (2,), p=2), np.sqrt([5, 10, 13]), rtol=1e-6)
    np.testing.assert_array_equal(ip.lp_pool(x, (2,), p=2.5)[:2], [np.nan, np.nan])
    assert ip.lp_pool(x, (2,), p=math.inf).tolist() == [2, 3, 3]


@pytest.mark.parametrize("size", [1, (7, 7), (3, None), (25, 40), (20, 1)])
def test_adaptive_of_torch(size):
    x = torch.from_numpy(np.random.default_rng(6).standard_normal((2, 3, 20, 31)))
    values, indices = F.adaptive_max_pool2d(x, size, return_indices=True)
    got = ip.adaptive_max_pool(x, (size, size) if size == 1 else size, return_indices=True)
    oracle.assert_same_bits(got[0].numpy(), values.numpy())
    oracle.assert_same_bits(got[1].numpy(), indices.numpy())
    want = F.adaptive_avg_pool2d(x, size).numpy()
    got = ip.adaptive_avg_pool(x.numpy(), (size, size) if size == 1 else size)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "op, numpy", [("max", np.max), ("min", np.min), ("sum", np.sum), ("avg", np.mean)]
)
def test_masked_reductions_of_numpy(op, numpy):
    """One window over everything is numpy's own ``where=``."""
    rng = np.random.default_rng(7)
    x, mask = rng.standard_normal((40, 50)), rng.random((40, 50)) < 0.4
    initial = {"max": {"initial": -np.inf}, "min": {"initial": np.inf}}.get(op, {})
    want = numpy(x, where=mask, **initial)
    for got in (
        getattr(ip, f"{op}_pool")(x, (40, 50), where=mask),
        getattr(ip, f"adaptive_{op}_pool")(x, 1, where=mask),
    ):
        np.testing.assert_allclose(got, [[want]], rtol=1e-12)

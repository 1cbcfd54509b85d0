"""Kinds that are more than one window table and one reducer: fractional, blurred, pyramids."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import infinitypool as ip
import oracle
from strategies import LAYOUTS, arranged, numbers

some = settings(max_examples=max(settings.get_profile("suite").max_examples // 2, 10))


# --- fractional --------------------------------------------------------------------------------


def _fractional(x, samples, kernel, out, axes, dtype=np.float64):
    """Values and places, plane by plane, each with windows of its own."""
    axes = [a % x.ndim for a in axes]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    ascending = sorted(axes)
    moved = np.moveaxis(x, ascending, range(-len(axes), 0))
    lead = moved.shape[: x.ndim - len(axes)]
    sizes = [x.shape[a] for a in ascending]
    values = np.empty((*lead, *(out[i] for i in order)), x.dtype)
    places = np.empty(values.shape, np.int64)
    for place in np.ndindex(lead):
        lines = tuple(
            oracle.fractional_axis(n, kernel[i], out[i], samples[place][i], dtype)
            for n, i in zip(sizes, order, strict=True)
        )
        got = oracle.pool(moved[place], "max", [kernel[i] for i in order], lines=lines)
        values[place], places[place] = got.values, got.plane
    back = range(-len(axes), 0)
    return np.moveaxis(values, back, ascending), np.moveaxis(places, back, ascending)


@some
@given(data=st.data())
def test_fractional_against_the_oracle(data):
    """Samples for each axis of each plane, in the order of the axes."""
    pooled = data.draw(st.integers(1, 3))
    ndim = data.draw(st.integers(pooled, 4))
    axes = data.draw(st.permutations(range(ndim)))[:pooled]
    shape = [data.draw(st.integers(0 if a not in axes else 1, 4)) for a in range(ndim)]
    kernel, out = [], []
    for a in axes:
        kernel.append(data.draw(st.integers(1, 4)))
        shape[a] = data.draw(st.integers(kernel[-1], kernel[-1] + 12))
        out.append(data.draw(st.integers(1, shape[a] - kernel[-1] + 1)))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    dtype = data.draw(st.sampled_from(oracle.FLOATS))
    x = numbers(rng, shape, dtype, data.draw(st.sampled_from(("few", "wide", "special"))))
    x = arranged(x, data.draw(st.sampled_from(LAYOUTS)), rng)
    planes = [n for a, n in enumerate(shape) if a not in axes]
    samples = rng.random((*planes, pooled))
    got, indices = ip.fractional_max_pool(
        x,
        tuple(kernel),
        output_size=tuple(out),
        axes=tuple(axes),
        samples=samples,
        return_indices=True,
    )
    want, places = _fractional(x, samples, kernel, out, axes)
    note = f"{shape} {axes} {kernel} {out}"
    oracle.assert_same_bits(got, want, note)
    oracle.assert_same_bits(indices, places, note)
    alone = ip.fractional_max_pool(
        x, tuple(kernel), output_size=tuple(out), axes=tuple(axes), samples=samples
    )
    oracle.assert_same_bits(alone, want, note)


@pytest.mark.parametrize("seed", range(12))
def test_fractional_of_torch(seed):
    """PyTorch reads a plane's samples as (width, height), a volume's as (depth, height, width)."""
    rng = np.random.default_rng(seed)
    n = 2 + seed % 2
    dtype = (np.float64, np.float32)[seed // 2 % 2]
    shape = (2, 3, *rng.integers(6, 12, n).tolist())
    kernel = tuple(int(rng.integers(1, 4)) for _ in range(n))
    out = tuple(int(rng.integers(2, m - k)) for m, k in zip(shape[2:], kernel, strict=True))
    x, samples = rng.standard_normal(shape).astype(dtype), rng.random((2, 3, n)).astype(dtype)
    theirs = samples[..., ::-1].copy() if n == 2 else samples
    function = (F.fractional_max_pool2d, F.fractional_max_pool3d)[n - 2]
    values, indices = function(
        torch.from_numpy(x), kernel, out, return_indices=True, _random_samples=torch.tensor(theirs)
    )
    got = ip.fractional_max_pool(x, kernel, output_size=out, samples=samples, return_indices=True)
    oracle.assert_same_bits(got[0], values.numpy())
    oracle.assert_same_bits(got[1], indices.numpy())


def test_fractional_windows_follow_the_generator():
    """The same seed or state gives the same windows, whatever the layout and threads."""
    x = np.random.default_rng(0).standard_normal((3, 40, 50)).astype(np.float32)
    ask = {"output_size": (17, 23)}
    first = ip.fractional_max_pool(x, 2, rng=5, **ask)
    assert first.shape == (3, 17, 23)
    oracle.assert_same_bits(ip.fractional_max_pool(x, 2, rng=5, **ask), first)
    turned = np.asfortranarray(x)
    oracle.assert_same_bits(ip.fractional_max_pool(turned, 2, rng=5, **ask), first)
    one, two = np.random.default_rng(3), np.random.default_rng(3)
    moved = ip.fractional_max_pool(x, 2, rng=one, **ask)
    oracle.assert_same_bits(ip.fractional_max_pool(x, 2, rng=two, **ask), moved)
    assert (ip.fractional_max_pool(x, 2, rng=one, **ask) != moved).any()
    assert (ip.fractional_max_pool(x, 2, rng=6, **ask) != first).any()
    assert (ip.fractional_max_pool(x, 2, **ask) != ip.fractional_max_pool(x, 2, **ask)).any()


def test_fractional_windows_of_its_own_generator_are_pytorchs_kind():
    """From a rising line the last element of each window is read back: steps of two sizes alone,
    the first window at the start, the last at the end, and samples spread over [0, 1)."""
    x = np.broadcast_to(np.arange(100.0), (400, 100))
    got = ip.fractional_max_pool(x, (2,), output_size=(37,), rng=1)
    assert (got[:, 0] == 1).all() and (got[:, -1] == 99).all()
    steps = np.diff(got, axis=-1)
    alpha = 98 / 36
    assert set(np.unique(steps)) <= {math.floor(alpha), math.ceil(alpha), math.ceil(alpha) + 1}
    assert len(np.unique(got, axis=0)) > 10, "planes draw windows of their own"


@pytest.mark.parametrize(
    "ratio, out", [(0.5, (5, 6)), ((0.7, 0.3), (7, 3)), (1, (10, 12)), (1.0, (10, 12))]
)
def test_fractional_ratios(ratio, out):
    x = np.random.default_rng(0).standard_normal((2, 10, 12))
    got = ip.fractional_max_pool(x, 1, output_ratio=ratio, rng=0)
    assert got.shape == (2, *out)
    if out == (10, 12):
        oracle.assert_same_bits(got, x)


# --- blurred -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7, (3, 5)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)], ids=str)
def test_blur_against_the_oracle(kernel, stride, dtype):
    rng = np.random.default_rng(0)
    for shape, axes in [((2, 9, 14), (1, 2)), ((9, 8, 5), (0, 1))]:
        x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-2, 2, shape)).astype(dtype)
        for layout in ("C", "permuted", "sliced"):
            view = arranged(x, layout, rng)
            got = ip.blur_pool(view, kernel, stride=stride, axes=axes)
            oracle.assert_close(got, dtype, oracle.blur(x, kernel, stride, "reflect", axes))


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_blur_of_scipy(kernel):
    x = np.random.default_rng(1).standard_normal((21, 30))
    want = x
    for axis in (0, 1):
        weights = oracle.binomial(kernel).astype(float)
        want = scipy.ndimage.correlate1d(want, weights, axis, mode="mirror")
    np.testing.assert_allclose(ip.blur_pool(x, kernel), want[::2, ::2], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ip.blur_pool(x, kernel, stride=1), want, rtol=1e-12, atol=1e-14)


def test_blur_by_default():
    """Three taps, stride 2, reflected borders: the antialiased subsampling of the literature."""
    x = np.zeros((1, 8, 8), np.float32)
    x[0, 4, 4] = 16
    got = ip.blur_pool(x)
    assert got.shape == (1, 4, 4) and got.sum() == 4 and got[0, 2, 2] == 4
    assert (ip.blur_pool(np.ones((5, 7))) == 1).all()
    x = torch.ones(3, 5, 5)
    assert type(ip.blur_pool(x)) is torch.Tensor
    line = ip.blur_pool(np.array([1.0, 2.0, 4.0, 8.0]), (3,))
    assert line.tolist() == [1.5, 4.5]


def test_blur_keeps_nan_and_infinity_in_their_windows():
    x = np.ones((9, 9))
    x[4, 4] = np.nan
    got = ip.blur_pool(x)
    touched = np.isnan(got)
    assert touched.sum() == 1 and touched[2, 2]


# --- pyramids ----------------------------------------------------------------------------------


def _pyramid(x, levels, op, axes):
    """Each level pooled to level by level..., flat in C order, one after another."""
    axes = sorted(a % x.ndim for a in axes)
    parts = []
    for level in levels:
        got = oracle.pool(x, op, (level,) * len(axes), axes=axes, adaptive=True)
        values = np.moveaxis(got.values, axes, range(-len(axes), 0))
        parts.append(values.reshape(*values.shape[: x.ndim - len(axes)], level ** len(axes)))
    return np.concatenate(parts, -1)


@pytest.mark.parametrize("dtype", oracle.ALL, ids=str)
@pytest.mark.parametrize("reducer", ["max", "min"])
def test_pyramids_against_the_oracle(reducer, dtype):
    rng = np.random.default_rng(0)
    for shape, axes in [((2, 3, 7, 9), (2, 3)), ((7, 9, 4), (0, 1)), ((3, 11), (1,))]:
        x = numbers(rng, shape, dtype, "wide")
        got = ip.spatial_pyramid_pool(x, axes=axes, reducer=reducer)
        oracle.assert_same_bits(got, _pyramid(x, (1, 2, 4), reducer, axes))
        got = ip.spatial_pyramid_pool(x, (3, 1), axes=axes, reducer=reducer)
        oracle.assert_same_bits(got, _pyramid(x, (3, 1), reducer, axes))


def test_pyramids_have_one_length_for_any_picture():
    rng = np.random.default_rng(1)
    for height, width in [(4, 4), (5, 17), (40, 30)]:
        x = rng.standard_normal((2, 3, height, width)).astype(np.float32)
        got = ip.spatial_pyramid_pool(x)
        assert got.shape == (2, 3, 21)
        oracle.assert_same_bits(got[..., 0], x.max((-1, -2)))
        mean = ip.spatial_pyramid_pool(x, reducer="avg")
        np.testing.assert_allclose(mean[..., 0], x.mean((-1, -2)), rtol=1e-5, atol=1e-6)

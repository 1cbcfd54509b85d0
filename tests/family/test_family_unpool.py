"""Max unpooling: each value back at its place, and zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import infinitypool as ip
import oracle
from strategies import LAYOUTS, arranged, numbers

some = settings(max_examples=max(settings.get_profile("suite").max_examples // 2, 10))


@pytest.mark.parametrize("dtype", oracle.ALL, ids=str)
def test_every_dtype_there_and_back(dtype):
    """Where windows do not overlap, pooling the unpooled finds the same values at the same places."""
    rng = np.random.default_rng(0)
    x = numbers(rng, (2, 3, 8, 10), dtype, "wide")
    if dtype != oracle.BOOL and not oracle.is_float(dtype):
        x = np.maximum(x, 1)  # zeros around must not win
    elif oracle.is_float(dtype):
        x = np.abs(x) + np.array(1, dtype)
    values, indices = ip.max_pool(x, 2, return_indices=True)
    got = ip.max_unpool(values, indices, 2)
    assert got.dtype == dtype
    oracle.assert_same_bits(got, oracle.unpool(values, indices, (8, 10), (2, 3)))
    again, places = ip.max_pool(got, 2, return_indices=True)
    oracle.assert_same_bits(again, values)
    if dtype != oracle.BOOL:
        oracle.assert_same_bits(places, indices)
        kept = got != 0
        oracle.assert_same_bits(got[kept], x[kept])
        assert kept.sum() == values.size


@some
@given(data=st.data())
def test_against_the_oracle(data):
    """Any axes, strides of every kind on both arrays, indices that collide."""
    pooled = data.draw(st.integers(1, 3))
    ndim = data.draw(st.integers(pooled, 4))
    axes = data.draw(st.permutations(range(ndim)))[:pooled]
    shape = [data.draw(st.integers(0 if a not in axes else 1, 6)) for a in range(ndim)]
    kernel = [data.draw(st.integers(1, 4)) for _ in axes]
    stride = data.draw(st.none() | st.tuples(*[st.integers(1, 4)] * pooled))
    step = kernel if stride is None else stride
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    sizes = [
        (shape[a] - 1) * s - 2 * p + k
        for a, k, s, p in zip(axes, kernel, step, padding, strict=True)
    ]
    given_size = min(sizes) < 1 or data.draw(st.booleans())
    if given_size:
        # PyTorch's rule: less than one stride away from the usual size.
        sizes = [
            max(1, n + data.draw(st.integers(-(s - 1), s - 1)))
            for n, s in zip(sizes, step, strict=True)
        ]
    if any(
        abs(n - ((shape[a] - 1) * s - 2 * p + k)) >= s
        for n, a, k, s, p in zip(sizes, axes, kernel, step, padding, strict=True)
    ):
        return
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    x = arranged(
        numbers(rng, shape, np.dtype(np.float32)), data.draw(st.sampled_from(LAYOUTS)), rng
    )
    indices = arranged(
        rng.integers(0, np.prod(sizes), shape), data.draw(st.sampled_from(LAYOUTS)), rng
    )
    more = {"output_size": tuple(sizes)} if given_size else {}
    if stride is not None:
        more["stride"] = stride
    got = ip.max_unpool(x, indices, tuple(kernel), padding=tuple(padding), axes=tuple(axes), **more)
    order = np.argsort(axes)
    want = oracle.unpool(x, indices, [sizes[i] for i in order], axes)
    oracle.assert_same_bits(got, want, f"{shape} {axes} {kernel} {more}")


@pytest.mark.parametrize("seed", range(12))
def test_against_torch(seed):
    rng = np.random.default_rng(seed)
    n = 1 + seed % 3
    shape = (2, 3, *rng.integers(4, 9, n).tolist())
    kernel, stride = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    x = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    unpool = (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)[n - 1]
    stride = max(stride, kernel)  # PyTorch's winner of colliding indices is open
    values, indices = pool(x, kernel, stride, return_indices=True)
    want = unpool(values, indices, kernel, stride, output_size=shape[2:]).numpy()
    got = ip.max_unpool(values, indices, (kernel,) * n, stride=stride, output_size=tuple(shape[2:]))
    assert type(got) is torch.Tensor
    oracle.assert_same_bits(got.numpy(), want)


@pytest.mark.parametrize(
    "shape, axes", [((4, 50, 70), (1, 2)), ((60, 70, 5), (0, 1)), ((9000,), (0,))]
)
def test_the_last_of_equal_indices_wins_for_any_number_of_threads(shape, axes, threads):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    indices = rng.integers(0, 40, shape)
    sizes = [shape[a] * 2 for a in axes]
    want = oracle.unpool(x, indices, sizes, axes)
    for count in (1, 2, 3):
        threads(count)
        got = ip.max_unpool(x, indices, (2,) * len(axes), axes=axes)
        oracle.assert_same_bits(got, want, f"{count} threads")


def test_values_known_by_heart():
    x, indices = np.array([1.0, 2.0, 3.0]), np.array([1, 1, 4])
    assert ip.max_unpool(x, indices, (2,)).tolist() == [0, 2, 0, 0, 3, 0]
    got = ip.max_unpool(x, np.array([1, 2, 6]), (2,), output_size=(7,))
    assert got.tolist() == [0, 1, 2, 0, 0, 0, 3]
    got = ip.max_unpool(x, np.array([0, 2, 4]), (3,), stride=2, padding=1)
    assert got.tolist() == [1, 0, 2, 0, 3]


def test_results_lie_in_memory_as_their_input():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    values, indices = ip.max_pool(np.moveaxis(x, 1, -1), 2, axes=(1, 2), return_indices=True)
    got = ip.max_unpool(values, indices, 2, axes=(1, 2), output_size=(4, 5))
    assert got.shape == (2, 4, 5, 3)
    assert [s > 0 for s in got.strides] == [True] * 4
    back = oracle.unpool(values, indices, (4, 5), (1, 2))
    oracle.assert_same_bits(got, back)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 3, 4)])
def test_no_batch(shape):
    got = ip.max_unpool(np.zeros(shape, np.float32), np.zeros(shape, np.int64), 2)
    assert got.shape == (*shape[:-2], 6, 8) and got.dtype == np.float32


def test_nan_and_signed_zeros_move_as_they_are():
    x = np.array([np.nan, -0.0, np.inf, -1.0], np.float32)
    x.view(np.uint32)[0] |= 0x1234
    got = ip.max_unpool(x, np.array([7, 0, 2, 5]), (2,))
    assert got.view(np.uint32)[[7, 0, 2, 5]].tolist() == x.view(np.uint32).tolist()

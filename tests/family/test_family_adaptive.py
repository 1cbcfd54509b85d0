"""Adaptive windows: exact integers at any size."""

from __future__ import annotations

import numpy as np
import pytest

import infinitypool as ip
from strategies import ADAPTIVE, KINDS


def _table(n, out):
    """Starts and stops in integers: below 2**63 for the sizes here."""
    o = np.arange(out, dtype=np.int64)
    return o * n // out, -((-(o + 1) * n) // out)


def _sizes():
    rng = np.random.default_rng(0)
    some = [(int(10 ** rng.uniform(0, 6)), int(10 ** rng.uniform(0, 6))) for _ in range(40)]
    return [
        *some,
        (10**6, 10**6),
        (10**6, 1),
        (1, 10**6),
        (10**6, 999_999),
        (999_999, 10**6),
        (999_983, 7),
        (7, 999_983),
        (2**19, 2**17 - 1),
    ]


@pytest.mark.parametrize("n, out", _sizes())
def test_the_windows_themselves(n, out):
    """Of rising numbers the least is where a window starts, the greatest where it ends, and ones
    add up to its length."""
    x = np.arange(n, dtype=np.int32)
    start, stop = _table(n, out)
    np.testing.assert_array_equal(ip.adaptive_min_pool(x, (out,)), start)
    last, indices = ip.adaptive_max_pool(x, (out,), return_indices=True)
    np.testing.assert_array_equal(last, stop - 1)
    np.testing.assert_array_equal(indices, stop - 1)
    ones = np.broadcast_to(np.int32(1), (n,))
    np.testing.assert_array_equal(ip.adaptive_sum_pool(ones, (out,)), stop - start)


@pytest.mark.parametrize("n, out", _sizes()[::4])
def test_the_windows_of_an_outer_axis(n, out):
    """The same with channels behind: another walk over memory."""
    n, out = min(n, 60_000), min(out, 60_000)
    x = np.ascontiguousarray(np.broadcast_to(np.arange(n, dtype=np.int32)[:, None], (n, 3)))
    start, stop = _table(n, out)
    low = ip.adaptive_min_pool(x, (out,), axes=0)
    high = ip.adaptive_max_pool(x, (out,), axes=0)
    for c in range(3):
        np.testing.assert_array_equal(low[:, c], start)
        np.testing.assert_array_equal(high[:, c], stop - 1)


def test_windows_of_planes_are_products():
    rng = np.random.default_rng(2)
    for _ in range(20):
        n, out = rng.integers(1, 200, 2), rng.integers(1, 200, 2)
        x = np.arange(n.prod(), dtype=np.int32).reshape(n)
        (top, bottom), (left, right) = (_table(int(a), int(b)) for a, b in zip(n, out, strict=True))
        low, high = ip.adaptive_min_pool(x, tuple(out)), ip.adaptive_max_pool(x, out.tolist())
        np.testing.assert_array_equal(low, top[:, None] * n[1] + left)
        np.testing.assert_array_equal(high, (bottom[:, None] - 1) * n[1] + right - 1)


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_sizes_that_divide_are_plain_windows(kind):
    kind = KINDS[kind]
    x = np.random.default_rng(0).standard_normal((2, 12, 20)).astype(np.float32)
    got, plain = kind.call(x, (4, 5), adaptive=True), kind.call(x, (3, 4))
    assert got.shape == (2, 4, 5)
    kind.check(got, x, (4, 5), adaptive=True)
    kind.check(plain, x, (4, 5), adaptive=True)


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_one_none_and_the_size_itself(kind):
    kind = KINDS[kind]
    x = np.random.default_rng(0).integers(1, 9, (3, 5, 7)).astype(np.float64)
    for size, axes, shape in [
        (1, None, (3, 1, 1)),
        ((1,), None, (3, 5, 1)),
        ((None, 1), None, (3, 5, 1)),
        ((1, None), None, (3, 1, 7)),
        ((None, None), None, (3, 5, 7)),
        ((5, 7), None, (3, 5, 7)),
        ((None, None, None), None, (3, 5, 7)),
        ((6, 8), None, (3, 6, 8)),
        ((1, 1, 1), None, (1, 1, 1)),
        ([2, None], None, (3, 2, 7)),
        (4, (0, 2), (4, 5, 4)),
        ((2, 3), (-1, 0), (3, 5, 2)),
        (2, 1, (3, 2, 7)),
    ]:
        got = kind.call(x, size, adaptive=True, axes=axes)
        assert got.shape == shape
        kind.check(got, x, size, adaptive=True, axes=axes)

"""Where a maximum or minimum lies: in the plane, in the whole array, in the window."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import infinitypool as ip
import oracle
from engine import offset_dtype
from strategies import KINDS, Guarded, calls

CONVENTIONS = ("plane", "batch", "offset")
some = settings(max_examples=max(settings.get_profile("suite").max_examples // 3, 10))


def _longest(call):
    _, lines = oracle.plan(call.x.shape, call.size, **call.geometry)
    return [line.kernel for line in lines]


@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("kind", ["max_pool", "min_pool"])
@some
@given(data=st.data())
def test_against_the_oracle(kind, convention, adaptive, data):
    call = data.draw(calls(kind, adaptive=adaptive, excludes=data.draw(st.booleans())))
    got, indices = call.run(return_indices=True, indices=convention)
    expected = call.pooled()
    oracle.assert_same_bits(got, expected.values, repr(call))
    # Too few valid elements make a NaN of the result, wherever its winner was.
    counted = ~(np.isnan(expected.values) & bool(call.arguments.get("min_count")))
    found = expected.plane >= 0
    if convention == "offset":
        assert indices.dtype == offset_dtype(_longest(call)), repr(call)
        want = np.where(found, expected.offset, 0)
    else:
        assert indices.dtype == np.int64
        want = expected.plane
        if convention == "batch":
            want = oracle.whole_places(want, call.x.shape, call.arguments["axes"])
    assert indices.shape == got.shape
    np.testing.assert_array_equal(indices[counted], want[counted], repr(call))
    if convention == "batch":
        here = found & counted
        oracle.assert_same_bits(
            np.ascontiguousarray(call.x).ravel()[indices[here]], got[here], repr(call)
        )
    alone = call.run()
    assert alone.tobytes() == got.tobytes(), "asking for indices changed the values"


@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
@pytest.mark.parametrize("kind", ["max_pool", "min_pool"])
@pytest.mark.parametrize(
    "among", [(0.0, -0.0, 1.0), (math.nan, 1.0, 2.0, -3.0)], ids=["zeros", "nans"]
)
def test_ties_in_high_windows(among, kind, adaptive):
    """The first of equals and the last NaN, in row order, however many lines a window has: the sign
    of a zero tells which was taken, with indices and without."""
    kind, rng = KINDS[kind], np.random.default_rng(0)
    for _ in range(120):
        n = int(rng.integers(2, 4))
        shape = rng.integers(1, 4, n)
        shape[rng.integers(n)] = rng.integers(6, 16)
        x = rng.choice(among, shape)
        if adaptive:
            size, windows = tuple(int(v) for v in rng.integers(1, 5, n)), {}
        else:
            size = tuple(int(rng.integers((m + 1) // 2, m + 1)) for m in shape)
            windows = {
                "stride": tuple(int(v) for v in rng.integers(1, 6, n)),
                "padding": tuple(int(rng.integers(0, k // 2 + 1)) for k in size),
            }
        expected = oracle.pool(x, kind.op, size, adaptive=adaptive, **windows)
        note = f"{x.tolist()} {size} {windows}"
        oracle.assert_same_bits(kind.call(x, size, adaptive, **windows), expected.values, note)
        got, indices = kind.call(x, size, adaptive, return_indices=True, **windows)
        oracle.assert_same_bits(got, expected.values, note)
        oracle.assert_same_bits(indices, expected.plane, note)


@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
def test_plane_is_the_default(adaptive):
    x = np.random.default_rng(0).standard_normal((3, 6, 8))
    function = KINDS["max_pool"].function(adaptive)
    values, indices = function(x, 2, return_indices=True)
    plain = function(x, 2, return_indices=True, indices="plane")
    oracle.assert_same_bits(values, plain[0])
    oracle.assert_same_bits(indices, plain[1])


@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
def test_the_argmax_of_tensorflow(adaptive):
    """``include_batch_in_index``: ((b*height + y)*width + x)*channels + c for NHWC."""
    x = np.random.default_rng(1).permutation(2 * 6 * 8 * 3).reshape(2, 6, 8, 3).astype(np.float32)
    function = KINDS["max_pool"].function(adaptive)
    values, indices = function(
        x, (3, 4) if adaptive else 2, axes=(1, 2), return_indices=True, indices="batch"
    )
    np.testing.assert_array_equal(x.ravel()[indices], values)
    b, y, z, c = np.unravel_index(indices, x.shape)
    grid = np.indices(values.shape)
    np.testing.assert_array_equal(b, grid[0])
    np.testing.assert_array_equal(c, grid[3])
    np.testing.assert_array_equal(y // 2, grid[1])
    np.testing.assert_array_equal(z // 2, grid[2])


@pytest.mark.parametrize("order", ["C", "F"])
def test_batch_places_count_in_c_order_whatever_the_strides(order):
    x = np.random.default_rng(2).permutation(120).reshape(4, 5, 6).astype(float, order=order)
    values, indices = ip.min_pool(
        x[::-1, :, ::-1], 2, axes=(0, 2), return_indices=True, indices="batch"
    )
    np.testing.assert_array_equal(np.ascontiguousarray(x[::-1, :, ::-1]).ravel()[indices], values)


@pytest.mark.parametrize(
    "size, dtype", [((16, 16), "uint8"), ((257,), "uint16"), ((256, 257), "uint32")]
)
def test_offset_types(size, dtype):
    shape = tuple(k + 1 for k in size)
    x = np.zeros(shape, np.int32)
    x.flat[-1] = 1
    axes = tuple(range(len(size)))
    _, where = ip.max_pool(x, size, stride=1, axes=axes, return_indices=True, indices="offset")
    assert where.dtype == dtype and where.flat[-1] == math.prod(size) - 1
    whole = np.zeros(size, np.int32)
    whole.flat[-1] = 1
    one = (1,) * len(size)
    _, where = ip.adaptive_max_pool(whole, one, axes=axes, return_indices=True, indices="offset")
    assert where.dtype == dtype and where.flat[0] == math.prod(size) - 1


def test_adaptive_offsets_count_in_the_largest_window():
    """7 to 3 reads windows of 3, 3 and 3; 8 to 3 of 3, 4 and 3: a row is four taps long."""
    for n in (7, 8):
        x = np.random.default_rng(3).permutation(n * n).reshape(n, n)
        values, where = ip.adaptive_max_pool(x, 3, return_indices=True, indices="offset")
        line = oracle.adaptive_axis(n, 3)
        row, column = np.divmod(where.astype(int), line.kernel)
        starts = np.array(line.starts)
        np.testing.assert_array_equal(x[starts[:, None] + row, starts[None] + column], values)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_windows_without_a_winner(convention):
    x = np.ones((4, 4), np.float32)
    mask = np.ones((4, 4), bool)
    mask[:2, :2] = False
    for more in ({}, {"min_count": 1}):
        got, indices = ip.max_pool(
            x, 2, return_indices=True, indices=convention, where=mask, **more
        )
        empty = 0 if convention == "offset" else -1
        assert indices[0, 0] == empty
        assert np.isnan(got[0, 0]) if more else got[0, 0] == -np.inf
        assert (got.ravel()[1:] == 1).all()


@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
@pytest.mark.parametrize(
    "convention, dtype", [("plane", np.int64), ("batch", np.int64), ("offset", np.uint8)]
)
def test_into_out(convention, dtype, adaptive):
    x = np.random.default_rng(4).standard_normal((3, 8, 9)).astype(np.float32)
    function = KINDS["max_pool"].function(adaptive)
    size = (4, 4) if adaptive else 2
    ask = {"return_indices": True, "indices": convention}
    want = function(x, size, **ask)
    values, indices = Guarded((3, 4, 4), np.float32, 3), Guarded((3, 4, 4), dtype, 5)
    back = function(x, size, out=(values.out, indices.out), **ask)
    assert back[0] is values.out and back[1] is indices.out
    oracle.assert_same_bits(values.out, want[0])
    oracle.assert_same_bits(indices.out, want[1])
    values.check()
    indices.check()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int64])
@pytest.mark.parametrize("parts", [3, 7])
def test_ties_in_long_windows_of_a_line(parts, dtype):
    """Long windows are reduced in lanes, whose winners meet out of their order."""
    rng = np.random.default_rng(parts)
    x = rng.integers(0, 2, (5, 1000)).astype(dtype)
    x[1] = 0
    x[2, rng.integers(0, 1000, 4)] = 3
    windows = [(o * 1000 // parts, -(-(o + 1) * 1000 // parts)) for o in range(parts)]
    for function, first in ((ip.adaptive_max_pool, np.argmax), (ip.adaptive_min_pool, np.argmin)):
        values, places = function(x, (parts,), return_indices=True)
        for o, (begin, end) in enumerate(windows):
            want = begin + first(x[:, begin:end], axis=1)
            assert np.array_equal(places[:, o], want)
            assert np.array_equal(values[:, o], x[np.arange(5), want])


def test_the_last_nan_of_a_long_window_wins():
    x = np.zeros((1, 1000))
    x[0, [5, 40, 300, 700, 701]] = np.nan
    _, places = ip.adaptive_max_pool(x, (3,), return_indices=True)
    assert places.tolist() == [[300, 333, 701]]

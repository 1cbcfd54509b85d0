"""The values that the specification names, and the facts it asks to hold on to."""

from __future__ import annotations

import numpy as np
import pytest

import infinitypool as ip

SIXTEEN = np.arange(1, 17, dtype=np.float32).reshape(4, 4)


def test_four_by_four():
    np.testing.assert_array_equal(ip.max_pool(SIXTEEN, 2, stride=2), [[6, 8], [14, 16]])
    np.testing.assert_array_equal(ip.avg_pool(SIXTEEN, 2, stride=2), [[3.5, 5.5], [11.5, 13.5]])
    np.testing.assert_array_equal(ip.min_pool(SIXTEEN, 2), [[1, 3], [9, 11]])
    np.testing.assert_array_equal(ip.sum_pool(SIXTEEN, 2), [[14, 22], [46, 54]])


def test_indices_are_flat_places_in_the_plane():
    values, indices = ip.max_pool(SIXTEEN, 2, return_indices=True)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, [[5, 7], [13, 15]])
    np.testing.assert_array_equal(SIXTEEN.ravel()[indices], values)


@pytest.mark.parametrize(
    "shape, kernel_size, arguments, expected",
    [
        ((20, 16, 50, 32), 3, {"stride": 2}, (20, 16, 24, 15)),
        ((20, 16, 50, 32), (3, 2), {"stride": (2, 1)}, (20, 16, 24, 31)),
        ((224, 224), 2, {"stride": 2}, (112, 112)),
        ((224, 224), 3, {"stride": 2, "padding": 1}, (112, 112)),
        ((3, 201, 250), 6, {"stride": 2}, (3, 98, 123)),
        ((6, 6), 3, {"stride": 2}, (2, 2)),
        ((6, 6), 3, {"stride": 2, "ceil_mode": True}, (3, 3)),
        ((10, 10), 3, {"stride": 1, "dilation": 2}, (6, 6)),
        ((1, 7, 8, 3), 2, {"axes": (1, 2), "padding": "same"}, (1, 4, 4, 3)),
        ((1, 7, 8, 3), 2, {"axes": (1, 2), "padding": "valid"}, (1, 3, 4, 3)),
        ((5,), (2,), {}, (2,)),
    ],
)
def test_sizes(shape, kernel_size, arguments, expected):
    assert ip.output_shape(shape, kernel_size, **arguments) == expected
    x = np.zeros(shape, np.float32)
    for function in (ip.max_pool, ip.min_pool, ip.avg_pool, ip.sum_pool):
        assert function(x, kernel_size, **arguments).shape == expected


def test_padding_of_max_is_minus_infinity():
    x = -np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    got = ip.max_pool(x, 3, stride=1, padding=1)
    assert got.max() == -1 and (got < 0).all()
    np.testing.assert_array_equal(got[0], [-1, -1, -2])


def test_padding_of_average_is_zero_and_counts_only_when_asked():
    x = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(ip.avg_pool(x, 2, stride=2, padding=1), np.full((2, 2), 0.25))
    got = ip.avg_pool(x, 2, stride=2, padding=1, count_include_pad=False)
    np.testing.assert_array_equal(got, np.ones((2, 2)))
    got = ip.avg_pool(np.ones((3, 3), np.float32), 2, padding="same")
    np.testing.assert_array_equal(got, np.ones((2, 2)))


def test_first_of_equal_maxima():
    _, indices = ip.max_pool(np.zeros((4, 6), np.float32), 2, return_indices=True)
    np.testing.assert_array_equal(indices, [[0, 2, 4], [12, 14, 16]])


def test_ceil_mode_leaves_missing_elements_out():
    x = np.arange(36, dtype=np.float64).reshape(6, 6)
    got = ip.max_pool(x, 3, stride=2, ceil_mode=True)
    np.testing.assert_array_equal(got, [[14, 16, 17], [26, 28, 29], [32, 34, 35]])
    got = ip.avg_pool(x, 3, stride=2, ceil_mode=True)
    assert got[2, 2] == x[4:, 4:].mean()


def test_a_picture_keeps_its_colours_apart():
    picture = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    got = ip.max_pool(picture, 2, axes=(0, 1))
    assert got.shape == (4, 4, 3) and got.dtype == np.uint8
    for colour in range(3):
        np.testing.assert_array_equal(got[..., colour], ip.max_pool(picture[..., colour], 2))


@pytest.mark.parametrize(
    "values, expected",
    [([1, 2], 2), ([2, 3], 2), ([3, 4], 4), ([-1, -2], -2), ([-2, -3], -2), ([-1, 0], 0)],
)
def test_integer_means_round_half_to_even(values, expected):
    for dtype in (np.int8, np.int16, np.int32, np.int64):
        got = ip.avg_pool(np.array(values, dtype), (2,))
        assert got.dtype == dtype and got.tolist() == [expected]


def test_default_axes():
    x = np.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    np.testing.assert_array_equal(ip.max_pool(x, 2), ip.max_pool(x, (2, 2), axes=(2, 3)))
    assert ip.max_pool(x, (2,)).shape == (2, 3, 4, 2)
    assert ip.max_pool(x, (3, 2, 2)).shape == (2, 1, 2, 2)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_windows_without_an_element(dtype):
    x = np.ones((2,), dtype)
    far = {"stride": 1, "padding": ((3, 0),)}
    values, indices = ip.max_pool(x, (2,), return_indices=True, **far)
    np.testing.assert_array_equal(values, [-np.inf, -np.inf, 1, 1])
    np.testing.assert_array_equal(indices, [-1, -1, 0, 0])
    np.testing.assert_array_equal(ip.min_pool(x, (2,), **far), [np.inf, np.inf, 1, 1])
    np.testing.assert_array_equal(ip.sum_pool(x, (2,), **far), [0, 0, 1, 2])
    got = ip.avg_pool(x, (2,), count_include_pad=False, **far)
    np.testing.assert_array_equal(got, [np.nan, np.nan, 1, 1])
    got = ip.avg_pool(x, (2,), divisor_override=2, **far)
    np.testing.assert_array_equal(got, [0, 0, 0.5, 1])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "bool"])
def test_integer_windows_without_an_element(dtype):
    x = np.ones((2,), dtype)
    far = {"stride": 1, "padding": ((3, 0),)}
    low, high = (False, True) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    assert ip.max_pool(x, (2,), **far).tolist() == [low, low, 1, 1]
    assert ip.min_pool(x, (2,), **far).tolist() == [high, high, 1, 1]
    if dtype != "bool":
        assert ip.avg_pool(x, (2,), count_include_pad=False, **far).tolist() == [0, 0, 1, 1]

"""Bad input: the right exception before any work, in words that name function and argument."""

from __future__ import annotations

import re

import numpy as np
import pytest

import infinitypool as ip
import oracle
from strategies import Guarded

pytestmark = pytest.mark.once

FUNCTIONS = {name: getattr(ip, name) for name in ("max_pool", "min_pool", "avg_pool", "sum_pool")}
NAN = float("nan")

# argument, its bad value, exception, further arguments; the input is float32 (2, 8, 9).
ARGUMENTS = [
    ("kernel_size", 0, ValueError, {}),
    ("kernel_size", -2, ValueError, {}),
    ("kernel_size", (2, 0), ValueError, {}),
    ("kernel_size", (), ValueError, {}),
    ("kernel_size", (1, 1, 1, 1), ValueError, {}),
    ("kernel_size", (2, 2, 2), ValueError, {"axes": (1, 2)}),
    ("kernel_size", (9, 2), ValueError, {}),
    ("kernel_size", 12, ValueError, {}),
    ("kernel_size", 2**40, ValueError, {}),
    ("kernel_size", 2**63, ValueError, {}),
    ("kernel_size", 2**200, ValueError, {}),
    ("kernel_size", 2.0, TypeError, {}),
    ("kernel_size", 2.5, TypeError, {}),
    ("kernel_size", NAN, TypeError, {}),
    ("kernel_size", "2", TypeError, {}),
    ("kernel_size", None, TypeError, {}),
    ("kernel_size", (2, "2"), TypeError, {}),
    ("kernel_size", (2, None), TypeError, {}),
    ("kernel_size", (2, (2, 2)), TypeError, {}),
    ("kernel_size", {2, 3}, TypeError, {}),
    ("kernel_size", 2 + 0j, TypeError, {}),
    ("stride", 0, ValueError, {}),
    ("stride", -1, ValueError, {}),
    ("stride", (1, -1), ValueError, {}),
    ("stride", (1, 1, 1), ValueError, {}),
    ("stride", (), ValueError, {}),
    ("stride", 2**64, ValueError, {}),
    ("stride", 1.5, TypeError, {}),
    ("stride", NAN, TypeError, {}),
    ("stride", "fast", TypeError, {}),
    ("stride", (1, None), TypeError, {}),
    ("stride", ((1, 2), (1, 2)), TypeError, {}),
    ("dilation", 0, ValueError, {}),
    ("dilation", -1, ValueError, {}),
    ("dilation", (1, 0), ValueError, {}),
    ("dilation", (1, 2, 3), ValueError, {}),
    ("dilation", 9, ValueError, {}),
    ("dilation", 2**62, ValueError, {}),
    ("dilation", 2**64, ValueError, {}),
    ("dilation", None, TypeError, {}),
    ("dilation", 1.0, TypeError, {}),
    ("dilation", "1", TypeError, {}),
    ("padding", -1, ValueError, {}),
    ("padding", (0, -1), ValueError, {}),
    ("padding", ((0, -1), (0, 0)), ValueError, {}),
    ("padding", (1, 1, 1), ValueError, {}),
    ("padding", ((1, 1),) * 3, ValueError, {}),
    ("padding", ((1, 1, 1), (1, 1, 1)), ValueError, {}),
    ("padding", ((1, 1), (1,)), ValueError, {}),
    ("padding", "full", ValueError, {}),
    ("padding", "SAMEISH", ValueError, {}),
    ("padding", "", ValueError, {}),
    ("padding", ((2**62, 2**62), (0, 0)), ValueError, {}),
    ("padding", ((2**40, 0), (2**40, 0)), ValueError, {"stride": 1}),
    ("padding", ((2**64, 0), (0, 0)), ValueError, {}),
    ("padding", (1, (1, 1)), ValueError, {}),
    ("padding", 0.5, TypeError, {}),
    ("padding", NAN, TypeError, {}),
    ("padding", None, TypeError, {}),
    ("padding", (0, "1"), TypeError, {}),
    ("padding", ((0, None), (0, 0)), TypeError, {}),
    ("padding", (((0, 0), 1), 0), TypeError, {}),
    ("ceil_mode", "yes", TypeError, {}),
    ("ceil_mode", None, TypeError, {}),
    ("axes", (0, 0), ValueError, {}),
    ("axes", (1, -2), ValueError, {}),
    ("axes", (0, 3), ValueError, {}),
    ("axes", (-4, 0), ValueError, {}),
    ("axes", (), ValueError, {}),
    ("axes", 2**70, ValueError, {"kernel_size": (2,)}),
    ("axes", (0, 1.0), TypeError, {}),
    ("axes", "hw", TypeError, {}),
    ("axes", (0, None), TypeError, {}),
]
AVERAGE_ARGUMENTS = [
    ("divisor_override", 0, ValueError, {}),
    ("divisor_override", 2**64, ValueError, {}),
    ("divisor_override", 1.5, TypeError, {}),
    ("divisor_override", NAN, TypeError, {}),
    ("divisor_override", "3", TypeError, {}),
    ("count_include_pad", "yes", TypeError, {}),
    ("count_include_pad", None, TypeError, {}),
]
SELECT_ARGUMENTS = [
    ("return_indices", "yes", TypeError, {}),
    ("return_indices", None, TypeError, {}),
]
ROWS = (
    [(name, *row) for name in FUNCTIONS for row in ARGUMENTS]
    + [("avg_pool", *row) for row in AVERAGE_ARGUMENTS]
    + [(name, *row) for name in ("max_pool", "min_pool") for row in SELECT_ARGUMENTS]
)


def _refused(function, error, argument, call):
    with pytest.raises(Exception) as caught:
        call()
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {caught.value}"
    message = str(caught.value)
    assert message.startswith(f"{function}: "), message
    assert re.search(rf"\b{argument}\b", message), message
    return message


@pytest.mark.parametrize(
    "function, argument, value, error, more",
    ROWS,
    ids=[f"{f}-{a}={str(v)[:30]}" for f, a, v, _, _ in ROWS],
)
def test_arguments(function, argument, value, error, more):
    x = np.arange(144, dtype=np.float32).reshape(2, 8, 9)
    kept = x.copy()
    out = Guarded((2, 4, 4), np.float32)
    arguments = {"kernel_size": 2, **more, argument: value}
    kernel_size = arguments.pop("kernel_size")
    message = ""
    for extra in ({}, {"out": out.out}):
        every = {**arguments, **extra}
        message = _refused(
            function, error, argument, lambda e=every: FUNCTIONS[function](x, kernel_size, **e)
        )
    assert out.untouched(), "the output was written before the error"
    oracle.assert_same_bits(x, kept)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        assert str(value)[:6] in message, f"the value is not named: {message}"


@pytest.mark.parametrize(
    "argument, value, error, more",
    [row for row in ARGUMENTS],
    ids=[f"{a}={str(v)[:30]}" for a, v, _, _ in ARGUMENTS],
)
def test_output_shape_refuses_the_same(argument, value, error, more):
    arguments = {"kernel_size": 2, **more, argument: value}
    kernel_size = arguments.pop("kernel_size")
    _refused(
        "output_shape",
        error,
        argument,
        lambda: ip.output_shape((2, 8, 9), kernel_size, **arguments),
    )


@pytest.mark.parametrize(
    "shape, error",
    [
        ((), ValueError),
        ((4, -1), ValueError),
        ((4, 2.0), TypeError),
        ("44", TypeError),
        (None, TypeError),
        ((4, "4"), TypeError),
        ((2**63, 4), ValueError),
    ],
)
def test_output_shape_refuses_bad_shapes(shape, error):
    _refused("output_shape", error, "shape", lambda: ip.output_shape(shape, 2))


SWAPPED = np.dtype(np.float32).newbyteorder()
ARRAYS = {
    "byte-swapped": (np.zeros((4, 4), SWAPPED), TypeError),
    "byte-swapped integers": (np.zeros((4, 4), np.dtype(np.int16).newbyteorder()), TypeError),
    "objects": (np.zeros((4, 4), object), TypeError),
    "text": (np.full((4, 4), "a"), TypeError),
    "bytes": (np.full((4, 4), b"a"), TypeError),
    "complex": (np.zeros((4, 4), np.complex64), TypeError),
    "dates": (np.zeros((4, 4), "datetime64[s]"), TypeError),
    "time spans": (np.zeros((4, 4), "timedelta64[s]"), TypeError),
    "records": (np.zeros((4, 4), [("a", np.float32), ("b", np.float32)]), TypeError),
    "long double": (np.zeros((4, 4), np.longdouble), TypeError),
    "no axis": (np.float32(3.0).reshape(()), ValueError),
    "one axis too few": (np.zeros(4, np.float32), ValueError),
    "none": (None, TypeError),
    "text itself": ("picture", TypeError),
    "ragged": ([[1.0, 2.0], [3.0]], ValueError),
    "a masked array": (np.ma.masked_array(np.zeros((4, 4)), mask=np.eye(4)), TypeError),
}


@pytest.mark.parametrize("what", ARRAYS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_arrays(function, what):
    x, error = ARRAYS[what]
    _refused(function, error, "x", lambda: FUNCTIONS[function](x, 2))


@pytest.mark.parametrize("function", ["avg_pool", "sum_pool"])
def test_booleans_have_no_mean(function):
    message = _refused(
        function, TypeError, "x", lambda: FUNCTIONS[function](np.zeros((4, 4), bool), 2)
    )
    assert "bool" in message


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (3, 0, 0)])
def test_pooled_axis_of_no_length(function, shape):
    _refused(
        function,
        ValueError,
        "kernel_size",
        lambda: FUNCTIONS[function](np.zeros(shape, np.float32), 2),
    )


def _outs():
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    big = np.zeros(256, np.float32)
    big[:64] = x.ravel()
    frozen = np.zeros((4, 4), np.float32)
    frozen.flags.writeable = False
    return {
        "shape": (x, np.zeros((4, 5), np.float32), ValueError),
        "too few axes": (x, np.zeros(16, np.float32), ValueError),
        "dtype": (x, np.zeros((4, 4), np.float64), TypeError),
        "byte order": (x, np.zeros((4, 4), SWAPPED), TypeError),
        "read only": (x, frozen, ValueError),
        "read only view": (x, np.broadcast_to(np.zeros(4, np.float32), (4, 4)), ValueError),
        "the input": (x, x[:4, :4], ValueError),
        "interleaved with the input": (x, x[::2, 1::2], ValueError),
        "behind the input's start": (
            big[:64].reshape(8, 8),
            big[60:76].reshape(4, 4),
            ValueError,
        ),
        "itself": (
            x,
            np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (4, 4), (4, 4)),
            ValueError,
        ),
        "a list": (x, [[0.0] * 4] * 4, TypeError),
        "text": (x, "out", TypeError),
    }


@pytest.mark.parametrize("what", _outs())
@pytest.mark.parametrize("function", FUNCTIONS)
def test_outs(function, what):
    x, out, error = _outs()[what]
    before, kept = np.array(out, copy=True), x.copy()
    _refused(function, error, "out", lambda: FUNCTIONS[function](x, 2, out=out))
    np.testing.assert_array_equal(before, np.asarray(out))
    np.testing.assert_array_equal(kept, x)


def test_neighbours_in_one_buffer_do_not_overlap():
    """Close is not overlapping: the same buffer, side by side, is fine."""
    memory = np.zeros(64 + 16, np.float32)
    x, out = memory[:64].reshape(8, 8), memory[64:].reshape(4, 4)
    x[...] = np.arange(64).reshape(8, 8)
    assert ip.max_pool(x, 2, out=out) is out
    np.testing.assert_array_equal(memory[64:], ip.max_pool(x.copy(), 2).ravel())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_missing_and_unknown_arguments(function):
    with pytest.raises(TypeError, match="kernel_size"):
        FUNCTIONS[function](np.zeros((4, 4)))
    with pytest.raises(TypeError):
        FUNCTIONS[function](np.zeros((4, 4)), 2, strides=2)
    with pytest.raises(TypeError):
        FUNCTIONS[function](np.zeros((4, 4)), 2, 2)


@pytest.mark.parametrize("value, error", [(-1, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_cache_limit(value, error):
    before = ip._core.cache_info()["limit"]
    with pytest.raises(error, match="set_cache_limit"):
        ip.set_cache_limit(value)
    assert ip._core.cache_info()["limit"] == before

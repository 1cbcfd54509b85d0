"""Every refusal: which exception, and that its text names function, argument, value and rule."""

from __future__ import annotations

import fractions
import re

import numpy as np
import pytest

from infinitypool.spec import NUMPY, TORCH, output_shape, pool_spec, resolve_axes

NAN = float("nan")
HUGE = 2**63
N, T, V, R = "numpy", TypeError, ValueError, RuntimeError

# arguments; NumPy's exception; PyTorch's (None: accepted); words that the text must hold
BAD = [
    ({"kernel_size": 0}, V, R, ["kernel_size=0", "at least 1"]),
    ({"kernel_size": -3}, V, R, ["kernel_size=-3"]),
    ({"kernel_size": (2, 0)}, V, R, ["kernel_size=0", "axis -1"]),
    ({"stride": 0}, V, R, ["stride=0"]),
    ({"stride": (0, 1)}, V, R, ["stride=0", "axis -2"]),
    ({"dilation": 0}, V, R, ["dilation=0"]),
    ({"dilation": -1}, V, R, ["dilation=-1"]),
    ({"padding": -1}, V, R, ["padding=-1", "0 or more"]),
    ({"padding": ((0, -1), (0, 0))}, V, R, ["padding=(0, -1)"]),
    ({"padding": 2}, None, R, ["padding=2", "at most half of kernel_size=2"]),
    ({"kernel_size": ()}, V, R, ["kernel_size=()"]),
    ({"kernel_size": (2, 2, 2)}, V, R, ["2 entries"]),
    ({"kernel_size": [2]}, V, None, ["2 entries"]),
    ({"stride": ()}, V, None, ["stride=()"]),
    ({"stride": (1, 1, 1)}, V, R, ["stride=(1, 1, 1)"]),
    ({"padding": ()}, V, R, ["padding=()"]),
    ({"padding": (0, 0, 0)}, V, R, ["padding=(0, 0, 0)"]),
    ({"dilation": (1, 1, 1)}, V, R, ["dilation=(1, 1, 1)"]),
    ({"padding": ((0, 1), 2)}, V, T, ["pair"]),
    ({"padding": (2, (0, 1))}, V, T, ["pair"]),
    ({"padding": ((0, 1, 2), (0, 1))}, V, T, ["pair"]),
    ({"padding": ((0,), (1,))}, V, T, ["pair"]),
    ({"padding": (((0, 1), (0, 1)),)}, T, T, ["padding"]),
    ({"padding": "full"}, V, T, ["'full'", '"same"']),
    ({"padding": None}, T, T, ["padding=None"]),
    ({"kernel_size": None}, T, T, ["kernel_size=None"]),
    ({"kernel_size": NAN}, T, T, ["kernel_size=nan", "float"]),
    ({"kernel_size": 2.0}, T, T, ["kernel_size=2.0", "float"]),
    ({"kernel_size": "2"}, T, T, ["kernel_size='2'", "str"]),
    ({"kernel_size": b"2"}, T, T, ["bytes"]),
    ({"kernel_size": True}, T, T, ["kernel_size=True", "bool"]),
    ({"kernel_size": np.True_}, T, T, ["bool"]),
    ({"kernel_size": np.float64(2)}, T, T, ["float"]),
    ({"kernel_size": (2, NAN)}, T, T, ["nan"]),
    ({"kernel_size": (2, 2.0)}, T, T, ["2.0"]),
    ({"kernel_size": (True, 2)}, T, T, ["True"]),
    ({"kernel_size": (2, True)}, T, None, ["True"]),
    ({"kernel_size": [[2], [2]]}, T, T, ["list"]),
    ({"kernel_size": {2, 3}}, T, T, ["set"]),
    ({"kernel_size": {2: 3}}, T, T, ["dict"]),
    ({"kernel_size": 2 + 0j}, T, T, ["complex"]),
    ({"kernel_size": fractions.Fraction(2)}, T, T, ["Fraction"]),
    ({"kernel_size": object()}, T, T, ["object"]),
    ({"stride": 1.5}, T, T, ["stride=1.5"]),
    ({"stride": "same"}, T, T, ["stride='same'"]),
    ({"dilation": None}, T, T, ["dilation=None"]),
    ({"kernel_size": HUGE}, V, V, ["64 bits"]),
    ({"kernel_size": -HUGE - 1}, V, V, ["64 bits"]),
    ({"stride": HUGE}, V, V, ["64 bits"]),
    ({"padding": HUGE}, V, V, ["64 bits"]),
    ({"padding": ((0, 0), (0, HUGE))}, V, T, ["64 bits"]),
    ({"dilation": 10**400}, V, V, ["dilation"]),
    ({"kernel_size": 2**62, "dilation": 3}, V, R, ["bits"]),
    ({"kernel_size": 2**62}, V, R, ["bits"]),
    ({"kernel_size": 2**31}, None, R, ["32 bits"]),
    ({"ceil_mode": 1}, T, T, ["ceil_mode=1", "bool"]),
    ({"ceil_mode": None}, T, T, ["ceil_mode=None"]),
    ({"ceil_mode": "yes"}, T, T, ["ceil_mode='yes'"]),
    ({"ceil_mode": np.True_}, None, T, ["ceil_mode"]),
    ({"ceil_mode": np.ones(2, bool)}, T, T, ["ceil_mode"]),
    ({"count_include_pad": 0}, T, T, ["count_include_pad=0"]),
    ({"divisor_override": 0}, V, R, ["divisor_override=0", "zero"]),
    ({"divisor_override": -1}, V, None, ["divisor_override=-1"]),
    ({"divisor_override": 2.0}, T, T, ["divisor_override=2.0"]),
    ({"divisor_override": True}, T, T, ["divisor_override=True"]),
    ({"divisor_override": HUGE}, V, V, ["64 bits"]),
    ({"divisor_override": (2,)}, T, T, ["divisor_override=(2,)"]),
]


@pytest.mark.parametrize("front", [NUMPY, TORCH], ids=lambda front: front.name)
@pytest.mark.parametrize(
    "arguments, numpy_error, torch_error, words",
    BAD,
    ids=lambda value: re.sub(" at 0x.*", "", str(value))[:40],
)
def test_bad_arguments(arguments, numpy_error, torch_error, words, front):
    expected = numpy_error if front is NUMPY else torch_error

    def build():
        options = {"kernel_size": 2, **arguments}
        return pool_spec("avg_pool2d", "mean", axes=(-2, -1), front=front, **options)

    if expected is None:
        build()
        return
    with pytest.raises(Exception) as caught:
        build()
    assert type(caught.value) is expected
    text = str(caught.value)
    assert text.startswith("avg_pool2d: ")
    assert len(text) < 400
    for word in words:
        assert word in text


@pytest.mark.parametrize("front", [NUMPY, TORCH], ids=lambda front: front.name)
@pytest.mark.parametrize(
    "options, sizes, words",
    [
        ({"kernel_size": 5}, (4, 9), ["window of 5", "padded input of 4", "axis -2"]),
        ({"kernel_size": 3, "dilation": 2}, (9, 4), ["window of 5", "dilation=2", "axis -1"]),
        ({"kernel_size": 2}, (0, 4), ["padded input of 0"]),
        ({"kernel_size": 2, "padding": "same"}, (0, 4), ["axis -2"]),
        ({"kernel_size": 9, "ceil_mode": True, "stride": 2}, (4, 9), ["window of 9"]),
        ({"kernel_size": 2, "padding": ((2**62, 2**62), (0, 0))}, (4, 4), ["64 bits"]),
        ({"kernel_size": 2, "stride": 2**62, "padding": ((0, 2**62), (0, 0)), "ceil_mode": True},
         (2**62, 4), ["64 bits"]),
    ],
)  # fmt: skip
def test_windows_that_do_not_fit(options, sizes, words, front):
    spec = pool_spec("max_pool1d", "max", axes=(-2, -1), front=front, **options)
    with pytest.raises(Exception) as caught:
        spec.output_size(sizes)
    assert type(caught.value) is front.value_error
    for word in ["max_pool1d: ", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "axes, kernel_size, ndim, error, words",
    [
        ((0, 0), 2, 3, ValueError, ["axes=(0, 0)", "twice"]),
        ((0, -3), 2, 3, ValueError, ["twice"]),
        ((3,), 2, 3, ValueError, ["out of range", "3 axes"]),
        ((-4,), 2, 3, ValueError, ["out of range"]),
        (5, 2, 3, ValueError, ["axes=5"]),
        ((), 2, 3, ValueError, ["axes=()"]),
        ((0.5,), 2, 3, TypeError, ["0.5"]),
        ("01", 2, 3, TypeError, ["'01'"]),
        ((True,), 2, 3, TypeError, ["True"]),
        (NAN, 2, 3, TypeError, ["nan"]),
        (((0,), (1,)), 2, 3, TypeError, ["axes="]),
        (None, 2, 1, ValueError, ["axes=", "1 axis"]),
        (None, 2, 0, ValueError, ["0 axes"]),
        (None, (2, 2, 2), 2, ValueError, ["last 3 axes"]),
        (None, (), 2, ValueError, ["kernel_size=()"]),
        (None, 2.5, 2, TypeError, ["kernel_size=2.5"]),
        ((10**30,), 2, 3, ValueError, ["out of range"]),
    ],
)
def test_bad_axes(axes, kernel_size, ndim, error, words):
    with pytest.raises(error) as caught:
        resolve_axes("max_pool", axes, kernel_size, ndim)
    for word in ["max_pool: ", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "shape, error",
    [
        (5, TypeError),
        ((4, -4), ValueError),
        ((4, 4.0), TypeError),
        ((4, 2**63), ValueError),
        ("44", TypeError),
        ((4, None), TypeError),
        ((), ValueError),
    ],
)
def test_bad_shapes(shape, error):
    with pytest.raises(error):
        output_shape(shape, 2)


@pytest.mark.parametrize(
    "good",
    [
        {"kernel_size": np.int64(2)},
        {"kernel_size": np.array([2, 3])},
        {"kernel_size": np.array(2)},
        {"kernel_size": [2, np.uint8(3)]},
        {"kernel_size": range(2, 4)},
        {"padding": np.array([[0, 1], [2, 3]])},
        {"padding": [[0, 1], (2, 3)]},
        {"ceil_mode": np.False_},
        {"divisor_override": np.int8(3)},
    ],
    ids=str,
)
def test_numbers_of_numpy_are_numbers(good):
    spec = pool_spec("avg_pool", "mean", axes=(-2, -1), **{"kernel_size": 2, **good})
    for numbers in (spec.kernel_size, spec.stride, *spec.padding, (spec.divisor_override,)):
        assert all(type(number) is int for number in numbers)


def test_nothing_shared_between_equal_arguments_of_other_types():
    """2, 2.0 and True are equal and hash alike: after a good call, bad ones stay bad."""
    from infinitypool import max_pool

    x = np.zeros((4, 4))
    for good, bad in [(2, 2.0), (1, True), ((2, 2), (2.0, 2)), ([2, 1], [2, True]), (2, 2 + 0j)]:
        for _ in range(2):
            max_pool(x, good)
            with pytest.raises(TypeError):
                max_pool(x, bad)
    max_pool(x, 2, ceil_mode=True)
    with pytest.raises(TypeError):
        max_pool(x, 2, ceil_mode=1)

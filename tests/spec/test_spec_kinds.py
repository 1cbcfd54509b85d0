"""The family's specs: adaptive sizes, parameters, unpooling and fractional sizes, the table of kinds.

PyTorch is the judge wherever it knows the operation."""

from __future__ import annotations

import doctest
import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from infinitypool.fractional import fractional_starts
from infinitypool.spec import (
    KINDS,
    NUMPY,
    TORCH,
    adaptive_spec,
    check_ratio,
    fractional_sizes,
    pool_spec,
    resolve_axes,
    spec_from_text,
    unpool_output_size,
)

AXES = {1: (-1,), 2: (-2, -1), 3: (-3, -2, -1)}
NAN = float("nan")


def _outcome(call):
    try:
        return call()
    except Exception as error:  # noqa: BLE001
        return type(error)


# --- adaptive ------------------------------------------------------------------------------

SIZES = [
    0, 1, 7, -1, (0,), (3,), [3], (None,), None, (2, 3), (3, None), (None, None), (2,), (), (2, 3, 4),
    (None, 2, None), (2, -1), (0, 1, 2), 2.0, (2, 2.0), True, (True, 2), (2, True), "2", NAN, 2**62,
    (2**62, 1), 2**63, -(2**63) - 1, (2, 2**63),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_adaptive_sizes_as_pytorch(size, n, kind):
    shape = (2, 3, 5, 6, 7)[: 2 + n]
    function = f"adaptive_{kind}_pool{n}d"
    expected = _outcome(lambda: getattr(F, function)(torch.zeros(shape), size).shape)

    def ours():
        spec = adaptive_spec(function, "max", size, axes=AXES[n], front=TORCH)
        spec.check_input(shape, "float32", ["float32"])
        return torch.Size(spec.output_shape(shape, 8))

    assert _outcome(ours) == expected


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "shape", [(), (5,), (5, 5), (0, 5), (2, 5, 5), (2, 3, 5, 5), (2, 3, 5, 5, 5), (1,) * 6, (0, 3, 5),
              (0, 3, 5, 5), (2, 0, 5), (2, 0, 5, 5), (2, 0, 5, 5, 5), (2, 3, 0), (2, 3, 5, 0)]
)  # fmt: skip
def test_adaptive_inputs_as_pytorch(shape, n, kind):
    function = f"adaptive_{kind}_pool{n}d"
    expected = _outcome(lambda: getattr(F, function)(torch.zeros(shape), 2).shape)

    def ours():
        spec = adaptive_spec(function, "max", 2, axes=AXES[n], front=TORCH)
        spec.check_input(shape, "float32", ["float32"])
        return torch.Size(spec.output_shape(shape, 8))

    assert _outcome(ours) == expected


@pytest.mark.parametrize(
    "size, error, words",
    [
        (0, ValueError, ["output_size=0", "at least 1", "axis -2"]),
        ((3, -1), ValueError, ["output_size=-1", "axis -1"]),
        ((3, 3, 3), ValueError, ["2 entries"]),
        ((3,), ValueError, ["2 entries"]),
        (2.0, TypeError, ["output_size=2.0", "float"]),
        (None, TypeError, ["output_size=None"]),
        (True, TypeError, ["bool"]),
        ((2, "2"), TypeError, ["'2'", "str"]),
        (2**63, ValueError, ["64 bits"]),
    ],
)
def test_adaptive_sizes_of_arrays(size, error, words):
    with pytest.raises(error) as caught:
        adaptive_spec("adaptive_max_pool", "max", size, axes=(-2, -1))
    for word in ["adaptive_max_pool: ", *words]:
        assert word in str(caught.value)


def test_huge_adaptive_sizes_are_refused_in_words():
    spec = adaptive_spec("f", "max", (2**31, 2**31), axes=(-2, -1))
    with pytest.raises(ValueError, match="output_size=2147483648,2147483648 .* 64 bits"):
        spec.output_shape((1, 1), 8)
    with pytest.raises(ValueError, match="output_size=4611686018427387904 .* 64 bits"):
        adaptive_spec("f", "max", 2**62, axes=(-1,)).output_shape((4,), 8)
    with pytest.raises(ValueError, match="output_size=3 of an axis without elements"):
        adaptive_spec("f", "max", 3, axes=(-1,)).output_shape((0,), 8)


@given(n=st.integers(1, 10**6), out=st.integers(1, 10**6))
def test_the_largest_adaptive_window(n, out):
    """Every residue repeats after out / gcd windows, so a few thousand of them show the largest."""
    spec = adaptive_spec("f", "max", out, axes=(-1,))
    places = range(min(out, 3000))
    longest = max(-(-(o + 1) * n // out) - o * n // out for o in places)
    (largest,) = spec.largest_windows((n,))
    assert largest >= longest
    if out // math.gcd(n, out) <= 3000:
        assert largest == longest
    assert 2 ** (8 * np.dtype(spec.offset_dtype_for((n,))).itemsize) >= largest


# --- texts ---------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False)
parameters = st.lists(numbers, max_size=3).map(tuple)


@given(
    sizes=st.lists(st.none() | st.integers(1, 2**40), min_size=1, max_size=3),
    parameters=parameters,
)
def test_adaptive_text_round_trip(sizes, parameters):
    axes = AXES[len(sizes)]
    spec = adaptive_spec("f", "lp", sizes, axes=axes, parameters=parameters)
    assert spec_from_text(spec.text) == spec


@given(
    kernel=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    parameters=parameters,
    front=st.sampled_from([NUMPY, TORCH]),
    edge=st.sampled_from(["drop", "partial"]),
)
def test_text_round_trip_with_parameters(kernel, parameters, front, edge):
    spec = pool_spec(
        "f", "lp", kernel, axes=AXES[len(kernel)], front=front, edge=edge, parameters=parameters
    )
    assert spec_from_text(spec.text) == spec


@pytest.mark.parametrize(
    "text",
    [
        "f reducer=max front=numpy axes=-1 output_size=0",
        "f reducer=max front=numpy axes=-1 output_size=2,3",
        "f reducer=max front=numpy axes=-1 output_size=None",
        "f reducer=max front=numpy axes=-1 output_size=2 kernel_size=3",
        "f reducer=max front=numpy axes=-1 output_size=2 ceil_mode",
        "f reducer=max front=numpy axes=-1 output_size=2 parameters=",
        "f reducer=max front=numpy axes=-1 output_size=2 parameters=two",
        "f reducer=max front=numpy axes=-1 output_size=2 parameters=2",
        "f reducer=max front=torch axes=-1 output_size=2",
        "f reducer=max front=numpy axes=-1 kernel_size=2 stride=2 padding=0:0 dilation=1 edge=drop",
    ],
)
def test_texts_of_the_family_that_are_refused(text):
    with pytest.raises(ValueError, match="not the text of a pooling spec"):
        spec_from_text(text)


# --- partial edges -------------------------------------------------------------------------


@given(
    n=st.integers(1, 20),
    kernel=st.integers(1, 9),
    stride=st.integers(1, 9),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_partial_windows_go_on_while_input_is_left(n, kernel, stride, before, after, dilation):
    spec = pool_spec(
        "f", "max", (kernel,), stride=stride, padding=((before, after),), dilation=dilation,
        axes=(-1,), edge="partial",
    )  # fmt: skip
    span = dilation * (kernel - 1) + 1
    starts = [-before]
    while starts[-1] + span < n + after:
        starts.append(starts[-1] + stride)
    if len(starts) > 1 and starts[-1] >= n:
        starts.pop()
    assert spec.output_size((n,)) == (len(starts),)


# --- unpooling and fractional pooling ------------------------------------------------------


@given(
    n=st.integers(1, 9),
    kernel=st.integers(1, 5),
    stride=st.none() | st.integers(1, 5),
    padding=st.integers(0, 3),
    output_size=st.none() | st.integers(-2, 60),
)
def test_unpooled_sizes_as_pytorch(n, kernel, stride, padding, output_size):
    size = None if output_size is None else (output_size,)

    def theirs():
        x, indices = torch.zeros(1, 1, n), torch.zeros(1, 1, n, dtype=torch.int64)
        shape = F.max_unpool1d(x, indices, kernel, stride, padding, size).shape
        # PyTorch gives empty results, and looks for index 0 in them; the rule here is one element.
        return (int(shape[-1]),) if shape[-1] else ValueError

    def ours():
        return unpool_output_size(
            "max_unpool1d", kernel, stride=stride, padding=padding, output_size=size,
            axes=(-1,), sizes=(n,), front=TORCH,
        )  # fmt: skip

    expected = _outcome(theirs)
    assert _outcome(ours) == (ValueError if expected is RuntimeError else expected)


def test_a_whole_shape_unpools_in_pytorch_alone():
    arguments = {"axes": (-2, -1), "sizes": (4, 5), "output_size": (2, 3, 8, 10)}
    assert unpool_output_size("f", 2, front=TORCH, **arguments) == (8, 10)
    with pytest.raises(ValueError, match="output_size="):
        unpool_output_size("f", 2, **arguments)


@given(
    n=st.integers(1, 30),
    kernel=st.integers(1, 6),
    size=st.none() | st.integers(0, 30),
    ratio=st.none() | st.floats(0.01, 0.99),
)
def test_fractional_sizes_as_pytorch(n, kernel, size, ratio):
    def theirs():
        x = torch.zeros(1, n, n)
        out = None if size is None else (size, size)
        got = F.fractional_max_pool2d(x, kernel, out, None if ratio is None else (ratio, ratio))
        return tuple(got.shape[-2:])

    def ours():
        return fractional_sizes(
            "f", kernel, output_size=size, output_ratio=ratio, axes=(-2, -1), sizes=(n, n),
            front=TORCH,
        )[1]  # fmt: skip

    assert _outcome(ours) == _outcome(theirs)


@pytest.mark.parametrize("ratio", [0, 0.0, -0.5, 1.5, NAN, math.inf, (0.5, 2)])
def test_ratios_out_of_range(ratio):
    with pytest.raises(ValueError, match="f: output_ratio=.* must be above 0 and at most 1"):
        check_ratio("f", ratio, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_fractional_windows_start_as_pytorchs(dtype):
    """The first of equal elements wins: of zeros, the index is where the window starts."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = rng.integers(2, 120 if dtype == torch.bfloat16 else 400, 2).tolist()
        kernel = [int(rng.integers(1, min(9, m) + 1)) for m in n]
        out = [int(rng.integers(1, m - k + 2)) for m, k in zip(n, kernel, strict=True)]
        u = torch.from_numpy(rng.random((1, 3, 2)) * 0.99).to(dtype)
        _, got = F.fractional_max_pool2d(
            torch.zeros(1, 3, *n, dtype=dtype), kernel, out, return_indices=True, _random_samples=u
        )
        half = dtype == torch.bfloat16
        # PyTorch's samples are (width, height).
        samples = (u.float() if half else u).numpy()[0, :, ::-1]
        starts = fractional_starts(samples, n, kernel, out, "bfloat16" if half else None)
        want = starts[:, 0, : out[0], None] * n[1] + starts[:, 1, None, : out[1]]
        np.testing.assert_array_equal(got[0].numpy(), want)


def test_samples_that_are_no_samples_stay_inside():
    for u in (NAN, math.inf, -5.0, 1e30):
        starts = fractional_starts(np.array([[u]]), [20], [3], [6])
        assert starts.min() >= 0 and starts.max() <= 17 and starts[0, 0, -1] == 17


# --- the table -----------------------------------------------------------------------------


def test_kinds_name_reducers_and_parameters():
    assert KINDS["rms"].reduce("f", {}, NUMPY) == ("power_mean", (2.0, -math.inf), False)
    assert KINDS["gem"].reduce("f", {"p": 4}, NUMPY) == ("power_mean", (4.0, 1e-6), False)
    assert KINDS["lp"].reduce("f", {"p": 3}, TORCH) == ("lp", (3.0,), False)
    assert KINDS["lp"].reduce("f", {"p": math.inf}, TORCH) == ("max", (), True)
    assert KINDS["median"].reduce("f", {}, NUMPY) == ("quantile", (0.5, 0.0), False)
    assert KINDS["quantile"].reduce("f", {"q": 0, "method": "nearest"}, NUMPY) == (
        "quantile", (0.0, 3.0), False,
    )  # fmt: skip
    for name, kind in KINDS.items():
        assert name == kind.name and kind.formula and kind.summary.endswith(".")


@pytest.mark.parametrize("front", [NUMPY, TORCH], ids=lambda front: front.name)
@pytest.mark.parametrize(
    "kind, arguments, numpy_error",
    [
        ("lp", {"p": 0.5}, ValueError),
        ("lp", {"p": NAN}, ValueError),
        ("lp", {"p": "2"}, TypeError),
        ("lp", {"p": True}, TypeError),
        ("gem", {"p": math.inf}, ValueError),
        ("gem", {"eps": -1}, ValueError),
        ("soft", {"beta": 10**400}, ValueError),
        ("quantile", {}, TypeError),
        ("quantile", {"q": 2}, ValueError),
        ("quantile", {"q": 0.5, "method": "midpoint"}, ValueError),
        ("mixed", {"alpha": -1}, ValueError),
        ("stochastic", {"expectation": 1}, TypeError),
    ],
)
def test_bad_arguments_of_kinds(kind, arguments, numpy_error, front):
    error = front.value_error if numpy_error is ValueError else numpy_error
    with pytest.raises(error) as caught:
        KINDS[kind].read("some_pool", arguments, front)
    assert type(caught.value) is error and str(caught.value).startswith("some_pool: ")


def test_axes_of_adaptive_sizes():
    assert resolve_axes("f", None, (None, 3, None), 4, argument="output_size") == (-3, -2, -1)
    assert resolve_axes("f", None, 3, 4, argument="output_size") == (-2, -1)
    with pytest.raises(ValueError, match="f: output_size=.*x has 1 axis"):
        resolve_axes("f", None, (None, 3), 1, argument="output_size")
    with pytest.raises(TypeError, match="f: output_size=None"):
        resolve_axes("f", None, None, 3, argument="output_size")


@pytest.mark.parametrize(
    "module", ["spec.pool", "spec.kinds", "spec.sizes", "fractional", "bfloat16"]
)
def test_examples_of_what_both_fronts_share(module):
    done = doctest.testmod(importlib.import_module(f"infinitypool.{module}"))
    assert done.attempted and not done.failed

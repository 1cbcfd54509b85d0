"""Bad input to the family: the right exception before any work, which names function, argument,
value and rule."""

from __future__ import annotations

import re

import numpy as np
import pytest

import infinitypool as ip
import oracle
from strategies import ADAPTIVE, KINDS, Guarded

pytestmark = pytest.mark.once

NAN, INF = float("nan"), float("inf")
SHAPE = (2, 8, 9)


def _refused(function, error, argument, call, value=None):
    """``call`` raises just this error, in words that begin with the function."""
    with pytest.raises(Exception) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {message}"
    assert message.startswith(f"{function}: "), message
    assert re.search(rf"\b{argument}\b", message), message
    assert len(message) < 600, message
    if type(value) in (int, float, str) and argument not in ("indices", "samples"):
        assert str(value)[:6] in message, f"the value is not named: {message}"
    return message


def _ids(rows):
    return ["-".join(str(v)[:30] for v in row[:3]) for row in rows]


# Of every kind: argument, its bad value, exception, further arguments.
BOTH = [
    ("axes", (0, 0), ValueError, {}),
    ("axes", (0, 3), ValueError, {}),
    ("axes", "hw", TypeError, {}),
    ("axes", (), ValueError, {}),
    ("where", np.ones(SHAPE), TypeError, {}),
    ("where", np.ones(SHAPE, np.uint8), TypeError, {}),
    ("where", np.ones(SHAPE, object), TypeError, {}),
    ("where", np.ones((3, 8, 9), bool), ValueError, {}),
    ("where", np.ones((2, 8), bool), ValueError, {}),
    ("where", np.ones((1, *SHAPE), bool), ValueError, {}),
    ("where", np.ones((2, *SHAPE), bool), ValueError, {}),
    ("where", np.ones((2, 8, 0), bool), ValueError, {}),
    ("where", "everywhere", TypeError, {}),
    ("where", 1, TypeError, {}),
    ("nan_policy", "ignore", ValueError, {}),
    ("nan_policy", "", ValueError, {}),
    ("nan_policy", None, TypeError, {}),
    ("nan_policy", 3, TypeError, {}),
    ("nan_policy", ["omit"], TypeError, {}),
    ("min_count", -1, ValueError, {}),
    ("min_count", -(2**70), ValueError, {}),
    ("min_count", 1.5, TypeError, {}),
    ("min_count", NAN, TypeError, {}),
    ("min_count", "1", TypeError, {}),
    ("min_count", None, TypeError, {}),
    ("min_count", (1, 1), TypeError, {}),
]
WINDOWS = [
    ("kernel_size", 0, ValueError, {}),
    ("kernel_size", (2, -1), ValueError, {}),
    ("kernel_size", 12, ValueError, {}),
    ("kernel_size", 2**62, ValueError, {}),
    ("kernel_size", 2**200, ValueError, {}),
    ("kernel_size", 2.0, TypeError, {}),
    ("kernel_size", None, TypeError, {}),
    ("kernel_size", 2**62, ValueError, {"edge": "partial"}),
    ("stride", 0, ValueError, {}),
    ("stride", 1.5, TypeError, {}),
    ("padding", -1, ValueError, {}),
    ("padding", "full", ValueError, {}),
    ("padding", ((2**62, 2**62), (0, 0)), ValueError, {}),
    ("dilation", 0, ValueError, {}),
    ("dilation", 2**62, ValueError, {}),
    ("ceil_mode", "yes", TypeError, {}),
    ("edge", "keep", ValueError, {}),
    ("edge", "", ValueError, {}),
    ("edge", None, TypeError, {}),
    ("edge", True, TypeError, {}),
]
SIZES = [
    ("output_size", 0, ValueError, {}),
    ("output_size", -1, ValueError, {}),
    ("output_size", (2, 0), ValueError, {}),
    ("output_size", (None, -3), ValueError, {}),
    ("output_size", 2**62, ValueError, {}),
    ("output_size", (1, 2**62), ValueError, {}),
    ("output_size", 2**63, ValueError, {}),
    ("output_size", 2**200, ValueError, {}),
    ("output_size", (2**31, 2**31), ValueError, {}),
    ("output_size", (), ValueError, {}),
    ("output_size", (1, 1, 1, 1), ValueError, {}),
    ("output_size", (2, 2, 2), ValueError, {"axes": (1, 2)}),
    ("output_size", 2.0, TypeError, {}),
    ("output_size", NAN, TypeError, {}),
    ("output_size", "7", TypeError, {}),
    ("output_size", (2, "2"), TypeError, {}),
    ("output_size", (2, (2, 2)), TypeError, {}),
    ("output_size", True, TypeError, {}),
    ("output_size", {2, 3}, TypeError, {}),
]
# Of one kind.
OWN = {
    "max_pool": [
        ("return_indices", "yes", TypeError, {}),
        ("return_indices", None, TypeError, {}),
        ("indices", "row", ValueError, {}),
        ("indices", "", ValueError, {"return_indices": True}),
        ("indices", None, TypeError, {}),
        ("indices", 1, TypeError, {"return_indices": True}),
    ],
    "avg_pool": [
        ("divisor_override", 0, ValueError, {}),
        ("divisor_override", -2, ValueError, {}),
        ("divisor_override", 1.5, TypeError, {}),
        ("count_include_pad", "yes", TypeError, {}),
    ],
    "lp_pool": [
        ("p", 0.5, ValueError, {}),
        ("p", 0, ValueError, {}),
        ("p", -1, ValueError, {}),
        ("p", NAN, ValueError, {}),
        ("p", -INF, ValueError, {}),
        ("p", "2", TypeError, {}),
        ("p", None, TypeError, {}),
        ("p", (2, 2), TypeError, {}),
        ("p", 2 + 0j, TypeError, {}),
    ],
    "gem_pool": [
        ("p", 0, ValueError, {}),
        ("p", -3.0, ValueError, {}),
        ("p", NAN, ValueError, {}),
        ("p", "3", TypeError, {}),
        ("p", None, TypeError, {}),
        ("eps", -1e-3, ValueError, {}),
        ("eps", NAN, ValueError, {}),
        ("eps", "0", TypeError, {}),
        ("eps", None, TypeError, {}),
    ],
    "log_sum_exp_pool": [
        ("beta", 0, ValueError, {}),
        ("beta", 0.0, ValueError, {}),
        ("beta", NAN, ValueError, {}),
        ("beta", INF, ValueError, {}),
        ("beta", -INF, ValueError, {}),
        ("beta", "1", TypeError, {}),
        ("beta", None, TypeError, {}),
    ],
    "soft_pool": [
        ("beta", NAN, ValueError, {}),
        ("beta", INF, ValueError, {}),
        ("beta", -INF, ValueError, {}),
        ("beta", "1", TypeError, {}),
        ("beta", None, TypeError, {}),
    ],
    "quantile_pool": [
        ("q", -0.1, ValueError, {}),
        ("q", 1.1, ValueError, {}),
        ("q", 50, ValueError, {}),
        ("q", NAN, ValueError, {}),
        ("q", INF, ValueError, {}),
        ("q", "0.5", TypeError, {}),
        ("q", None, TypeError, {}),
        ("q", [0.25, 0.75], TypeError, {}),
        ("method", "midpoint", ValueError, {}),
        ("method", "", ValueError, {}),
        ("method", None, TypeError, {}),
        ("method", 0, TypeError, {}),
    ],
    "stochastic_pool": [
        ("rng", "seed", TypeError, {"expectation": False}),
        ("rng", 1.5, TypeError, {"expectation": False}),
        ("rng", np.random.RandomState(0), TypeError, {"expectation": False}),
        ("rng", (1, 2), TypeError, {"expectation": False}),
        ("rng", -1, ValueError, {"expectation": False}),
        ("rng", 2**64, ValueError, {"expectation": False}),
        ("expectation", "yes", TypeError, {}),
        ("expectation", None, TypeError, {}),
        ("expectation", 1, TypeError, {}),
    ],
    "mixed_pool": [
        ("alpha", NAN, ValueError, {}),
        ("alpha", -0.1, ValueError, {}),
        ("alpha", 1.5, ValueError, {}),
        ("alpha", "half", TypeError, {}),
        ("alpha", None, TypeError, {}),
    ],
}
OWN["min_pool"] = OWN["max_pool"]
ROWS = [(name, *row) for name in KINDS for row in (*WINDOWS, *BOTH, *OWN.get(name, ()))]
ADAPTIVE_ROWS = [
    (name, *row)
    for name in ADAPTIVE
    for row in (
        *SIZES,
        *BOTH,
        *(r for r in OWN.get(name, ()) if r[0] not in KINDS[name].windows_only),
    )
]


def _check(name, adaptive, argument, value, error, more):
    kind = KINDS[name]
    function = f"adaptive_{name}" if adaptive else name
    x = np.arange(144, dtype=np.float32).reshape(SHAPE)
    kept = x.copy()
    out = Guarded((2, 4, 4), np.float32)
    arguments = {**more, argument: value}
    size = arguments.pop("output_size" if adaptive else "kernel_size", 4 if adaptive else 2)
    for extra in ({}, {"out": out.out}):
        every = {**arguments, **extra}
        _refused(
            function, error, argument, lambda e=every: kind.call(x, size, adaptive, **e), value
        )
    assert out.untouched(), "the output was written before the error"
    oracle.assert_same_bits(x, kept)


@pytest.mark.parametrize("name, argument, value, error, more", ROWS, ids=_ids(ROWS))
def test_arguments(name, argument, value, error, more):
    _check(name, False, argument, value, error, more)


@pytest.mark.parametrize(
    "name, argument, value, error, more", ADAPTIVE_ROWS, ids=_ids(ADAPTIVE_ROWS)
)
def test_adaptive_arguments(name, argument, value, error, more):
    _check(name, True, argument, value, error, more)


EACH = [(name, adaptive) for name in KINDS for adaptive in (False, True)]
EACH = [(name, adaptive) for name, adaptive in EACH if not adaptive or name in ADAPTIVE]
each = pytest.mark.parametrize(
    "name, adaptive", EACH, ids=[f"{'adaptive_' * a}{n}" for n, a in EACH]
)

SWAPPED = np.dtype(np.float32).newbyteorder()
ARRAYS = {
    "byte-swapped": (np.zeros((4, 4), SWAPPED), TypeError),
    "objects": (np.zeros((4, 4), object), TypeError),
    "text": (np.full((4, 4), "a"), TypeError),
    "complex": (np.zeros((4, 4), np.complex64), TypeError),
    "dates": (np.zeros((4, 4), "datetime64[s]"), TypeError),
    "long double": (np.zeros((4, 4), np.longdouble), TypeError),
    "no axis": (np.float32(3.0).reshape(()), ValueError),
    "a number": (3.0, ValueError),
    "one axis too few": (np.zeros(4, np.float32), ValueError),
    "none": (None, TypeError),
    "text itself": ("picture", TypeError),
    "ragged": ([[1.0, 2.0], [3.0]], ValueError),
    "a masked array": (np.ma.masked_array(np.zeros((4, 4)), mask=np.eye(4)), TypeError),
}


@pytest.mark.parametrize("what", ARRAYS)
@each
def test_arrays(name, adaptive, what):
    x, error = ARRAYS[what]
    function = f"adaptive_{name}" if adaptive else name
    _refused(function, error, "x", lambda: KINDS[name].call(x, 2, adaptive))


@each
def test_dtypes_a_kind_does_not_know(name, adaptive):
    function = f"adaptive_{name}" if adaptive else name
    for dtype in set(oracle.ALL) - set(KINDS[name].dtypes):
        message = _refused(
            function,
            TypeError,
            "x",
            lambda d=dtype: KINDS[name].call(np.ones((4, 4), d), 2, adaptive),
        )
        assert dtype.name in message and "float32" in message


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (3, 0, 0)])
@each
def test_a_pooled_axis_of_no_length(name, adaptive, shape):
    function = f"adaptive_{name}" if adaptive else name
    argument = "output_size" if adaptive else "kernel_size"
    for more in ({}, {"where": np.True_}):
        x = np.zeros(shape, np.float32)
        _refused(
            function,
            ValueError,
            argument,
            lambda x=x, m=more: KINDS[name].call(x, 2, adaptive, **m),
        )
    if not adaptive:
        _refused(
            function,
            ValueError,
            argument,
            lambda: KINDS[name].call(np.zeros(shape, np.float32), 2, edge="partial"),
        )


@each
def test_whole_numbers_have_no_nan_for_too_few(name, adaptive):
    kind = KINDS[name]
    function = f"adaptive_{name}" if adaptive else name
    for dtype in {np.dtype(np.int32), np.dtype(np.uint8), oracle.BOOL} & set(kind.dtypes):
        x = np.ones((4, 4), dtype)
        message = _refused(
            function, ValueError, "min_count", lambda x=x: kind.call(x, 2, adaptive, min_count=1), 1
        )
        assert dtype.name in message
        assert kind.call(x, 2, adaptive, min_count=0).shape == (2, 2)


def _outs(x):
    frozen = np.zeros((4, 4), np.float32)
    frozen.flags.writeable = False
    return {
        "shape": (np.zeros((4, 5), np.float32), ValueError),
        "dtype": (np.zeros((4, 4), np.float64), TypeError),
        "read only": (frozen, ValueError),
        "the input": (x[:4, :4], ValueError),
        "itself": (
            np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (4, 4), (4, 4)),
            ValueError,
        ),
        "a list": ([[0.0] * 4] * 4, TypeError),
        "text": ("out", TypeError),
    }


@pytest.mark.parametrize("what", _outs(np.zeros((8, 8), np.float32)))
@each
def test_outs(name, adaptive, what):
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    out, error = _outs(x)[what]
    before, kept = np.array(out, copy=True), x.copy()
    function, size = (f"adaptive_{name}", 4) if adaptive else (name, 2)
    _refused(function, error, "out", lambda: KINDS[name].call(x, size, adaptive, out=out))
    np.testing.assert_array_equal(before, np.asarray(out))
    np.testing.assert_array_equal(kept, x)


@each
def test_an_out_that_is_the_mask(name, adaptive):
    """The mask is read while the result is written."""
    if oracle.BOOL not in KINDS[name].dtypes:
        return _refused_dtype(name, adaptive)
    x, mask = np.ones((8, 8), bool), np.ones((8, 8), bool)
    function, size = (f"adaptive_{name}", 4) if adaptive else (name, 2)
    _refused(
        function,
        ValueError,
        "out",
        lambda: KINDS[name].call(x, size, adaptive, where=mask, out=mask[:4, :4]),
    )
    assert mask.all()


def _refused_dtype(name, adaptive):
    """No result of this kind is of bools, so none can be the mask."""
    mask = np.ones((8, 8), bool)
    function, size = (f"adaptive_{name}", 4) if adaptive else (name, 2)
    x = np.ones((8, 8), np.float32)
    _refused(
        function,
        TypeError,
        "out",
        lambda: KINDS[name].call(x, size, adaptive, where=mask, out=mask[:4, :4]),
    )
    assert mask.all()


@each
def test_missing_and_unknown_arguments(name, adaptive):
    function = KINDS[name].function(adaptive)
    x = np.zeros((4, 4))
    with pytest.raises(TypeError, match="output_size" if adaptive else "kernel_size"):
        function(x)
    with pytest.raises(TypeError, match="strides"):
        KINDS[name].call(x, 2, adaptive, strides=2)
    if adaptive:
        for word in ("stride", "padding", "dilation", "ceil_mode", "edge", "kernel_size"):
            with pytest.raises(TypeError, match=word):
                KINDS[name].call(x, 2, adaptive, **{word: 1})
    if name == "quantile_pool":
        with pytest.raises(TypeError, match="q"):
            function(x, 2)


@pytest.mark.parametrize("name", ["max_pool", "min_pool"])
@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
def test_outs_for_indices(name, adaptive):
    """One array where two are needed, the wrong dtype for the convention."""
    function, size = (f"adaptive_{name}", 4) if adaptive else (name, 2)
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    values = np.zeros((4, 4), np.float32)
    for convention, wrong in [("plane", np.int32), ("batch", np.uint8), ("offset", np.int64)]:
        for out, error in [
            (values, TypeError),
            ((values,), TypeError),
            ((values, np.zeros((4, 4), wrong)), TypeError),
            ((values, np.zeros((4, 3), wrong)), (TypeError, ValueError)),
        ]:
            with pytest.raises(error, match=rf"^{function}: .*\bout\b"):
                KINDS[name].call(
                    x, size, adaptive, return_indices=True, indices=convention, out=out
                )
    assert not values.any()


# --- unpooling ---------------------------------------------------------------------------------

VALUES = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
PLACES = np.array([[[0, 2, 4], [12, 14, 16]], [[1, 3, 5], [18, 20, 22]]])


def _with(place, value, dtype=np.int64):
    indices = PLACES.astype(dtype)
    indices[place] = value
    return indices


UNPOOL = [
    ("indices", PLACES.astype(np.float64), TypeError, {}),
    ("indices", PLACES.astype(np.int32), TypeError, {}),
    ("indices", PLACES.astype(np.uint64), TypeError, {}),
    ("indices", PLACES.astype(bool), TypeError, {}),
    ("indices", "places", TypeError, {}),
    ("indices", None, TypeError, {}),
    ("indices", PLACES[0], ValueError, {}),
    ("indices", PLACES[..., :2], ValueError, {}),
    ("indices", PLACES[None], ValueError, {}),
    ("kernel_size", 0, ValueError, {}),
    ("kernel_size", (2, -1), ValueError, {}),
    ("kernel_size", 2.0, TypeError, {}),
    ("kernel_size", None, TypeError, {}),
    ("kernel_size", 2**62, ValueError, {}),
    ("kernel_size", 2**200, ValueError, {}),
    ("stride", 0, ValueError, {}),
    ("stride", 2**62, ValueError, {}),
    ("stride", "2", TypeError, {}),
    ("padding", -1, ValueError, {}),
    ("padding", 1.5, TypeError, {}),
    ("output_size", (4,), ValueError, {}),
    ("output_size", (4, 6, 6), ValueError, {}),
    ("output_size", (0, 6), ValueError, {}),
    ("output_size", (4, -6), ValueError, {}),
    ("output_size", (2, 6), ValueError, {}),
    ("output_size", (4, 8), ValueError, {}),
    ("output_size", (4, 2**62), ValueError, {}),
    ("output_size", (4.0, 6), TypeError, {}),
    ("output_size", "46", TypeError, {}),
    ("axes", (0, 0), ValueError, {}),
    ("axes", (1, 3), ValueError, {}),
    ("axes", "hw", TypeError, {}),
]


@pytest.mark.parametrize("argument, value, error, more", UNPOOL, ids=_ids([r[:2] for r in UNPOOL]))
def test_unpool_arguments(argument, value, error, more):
    arguments = {"indices": PLACES, "kernel_size": 2, **more, argument: value}
    indices, kernel = arguments.pop("indices"), arguments.pop("kernel_size")
    _refused(
        "max_unpool",
        error,
        argument,
        lambda: ip.max_unpool(VALUES, indices, kernel, **arguments),
        value,
    )


@pytest.mark.parametrize("value", [-1, 24, -(2**63), 2**63 - 1, 25, -24])
@pytest.mark.parametrize("place", [(0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 2)], ids=str)
def test_unpool_names_the_first_bad_index(place, value, threads):
    """In C order, though another one follows, whatever the layout and the number of threads."""
    for count, order in [(1, "C"), (3, "C"), (3, "F")]:
        threads(count)
        indices = np.asarray(_with(place, value), order=order)
        indices[-1, -1, -1] = value
        message = _refused(
            "max_unpool",
            ValueError,
            "indices",
            lambda i=indices: ip.max_unpool(VALUES, i, 2),
            value,
        )
        assert str(place) in message and "24" in message, message


@pytest.mark.parametrize("what", ARRAYS)
def test_unpool_arrays(what):
    x, error = ARRAYS[what]
    indices = np.zeros(np.shape(x) if what not in ("ragged",) else (2, 2), np.int64)
    _refused("max_unpool", error, "x", lambda: ip.max_unpool(x, indices, 2))


def test_unpool_of_no_length():
    x, indices = np.zeros((3, 0, 2)), np.zeros((3, 0, 2), np.int64)
    with pytest.raises(ValueError, match=r"^max_unpool: "):
        ip.max_unpool(x, indices, 2)


# --- fractional, blurred, pyramids ---------------------------------------------------------------

SAMPLES = np.full((2, 2), 0.5)
COMPOSITES = {
    "fractional_max_pool": [
        ("kernel_size", 0, ValueError, {}),
        ("kernel_size", 9, ValueError, {}),
        ("kernel_size", 2.0, TypeError, {}),
        ("kernel_size", 2**62, ValueError, {}),
        ("kernel_size", (2, 2, 2, 2), ValueError, {}),
        ("output_size", 0, ValueError, {}),
        ("output_size", -1, ValueError, {}),
        ("output_size", 8, ValueError, {}),
        ("output_size", 2**62, ValueError, {}),
        ("output_size", 2**200, ValueError, {}),
        ("output_size", 2.0, TypeError, {}),
        ("output_size", (2, None), TypeError, {}),
        ("output_size", (2, 2, 2), ValueError, {}),
        ("output_size", None, ValueError, {}),
        ("output_ratio", 0.5, ValueError, {}),
        ("output_ratio", 0.0, ValueError, {"output_size": None}),
        ("output_ratio", -0.5, ValueError, {"output_size": None}),
        ("output_ratio", 1.5, ValueError, {"output_size": None}),
        ("output_ratio", (1.0, 0.5), ValueError, {"output_size": None}),
        ("output_ratio", 0.01, ValueError, {"output_size": None}),
        ("output_ratio", NAN, ValueError, {"output_size": None}),
        ("output_ratio", INF, ValueError, {"output_size": None}),
        ("output_ratio", (0.5, 2.0), ValueError, {"output_size": None}),
        ("output_ratio", (0.5, 0.5, 0.5), ValueError, {"output_size": None}),
        ("output_ratio", "half", TypeError, {"output_size": None}),
        ("output_ratio", 0.5 + 0j, TypeError, {"output_size": None}),
        ("samples", SAMPLES[0], ValueError, {}),
        ("samples", SAMPLES[None], ValueError, {}),
        ("samples", np.full((2, 3), 0.5), ValueError, {}),
        ("samples", SAMPLES + 1, ValueError, {}),
        ("samples", SAMPLES - 1, ValueError, {}),
        ("samples", SAMPLES * NAN, ValueError, {}),
        ("samples", SAMPLES.astype(np.int64), TypeError, {}),
        ("samples", SAMPLES.astype(np.complex128), TypeError, {}),
        ("samples", "random", TypeError, {}),
        ("rng", "seed", TypeError, {}),
        ("rng", 1.5, TypeError, {}),
        ("rng", -1, ValueError, {}),
        ("return_indices", "yes", TypeError, {}),
        ("axes", (0, 0), ValueError, {}),
        ("axes", "hw", TypeError, {}),
    ],
    "blur_pool": [
        ("kernel_size", 0, ValueError, {}),
        ("kernel_size", (3, -1), ValueError, {}),
        ("kernel_size", 3.0, TypeError, {}),
        ("kernel_size", None, TypeError, {}),
        ("kernel_size", 2**62, ValueError, {}),
        ("kernel_size", 2**200, ValueError, {}),
        ("stride", 0, ValueError, {}),
        ("stride", 1.5, TypeError, {}),
        ("stride", 2**64, ValueError, {}),
        ("padding", "mirror", ValueError, {}),
        ("padding", None, TypeError, {}),
        ("axes", (0, 0), ValueError, {}),
        ("axes", (0, 3), ValueError, {}),
        ("axes", "hw", TypeError, {}),
    ],
    "spatial_pyramid_pool": [
        ("levels", (), ValueError, {}),
        ("levels", (0,), ValueError, {}),
        ("levels", (1, -2), ValueError, {}),
        ("levels", (1, 9), ValueError, {}),
        ("levels", (1, 100), ValueError, {}),
        ("levels", (2**62,), ValueError, {}),
        ("levels", (2**200,), ValueError, {}),
        ("levels", (1, 2.0), TypeError, {}),
        ("levels", (1, None), TypeError, {}),
        ("levels", "124", TypeError, {}),
        ("levels", None, TypeError, {}),
        ("reducer", "biggest", ValueError, {}),
        ("reducer", "", ValueError, {}),
        ("reducer", None, TypeError, {}),
        ("axes", (0, 0), ValueError, {}),
        ("axes", "hw", TypeError, {}),
    ],
}
MINIMAL = {
    "fractional_max_pool": {"kernel_size": 2, "output_size": 4},
    "blur_pool": {},
    "spatial_pyramid_pool": {},
}
COMPOSITE_ROWS = [(name, *row) for name, rows in COMPOSITES.items() for row in rows]


@pytest.mark.parametrize(
    "name, argument, value, error, more", COMPOSITE_ROWS, ids=_ids(COMPOSITE_ROWS)
)
def test_composite_arguments(name, argument, value, error, more):
    x = np.arange(144, dtype=np.float32).reshape(SHAPE)
    kept = x.copy()
    arguments = {**MINIMAL[name], **more, argument: value}
    _refused(name, error, argument, lambda: getattr(ip, name)(x, **arguments), value)
    oracle.assert_same_bits(x, kept)


@pytest.mark.parametrize("what", ARRAYS)
@pytest.mark.parametrize("name", MINIMAL)
def test_composite_arrays(name, what):
    x, error = ARRAYS[what]
    small = {"kernel_size": 2, "output_size": 2} if name == "fractional_max_pool" else {}
    _refused(name, error, "x", lambda: getattr(ip, name)(x, **small))


@pytest.mark.parametrize("dtype", [np.dtype(np.int32), np.dtype(np.uint8), oracle.BOOL], ids=str)
def test_whole_numbers_are_not_blurred(dtype):
    message = _refused("blur_pool", TypeError, "x", lambda: ip.blur_pool(np.ones((4, 4), dtype)))
    assert dtype.name in message and "float32" in message


@pytest.mark.parametrize("name", MINIMAL)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (3, 0, 0)])
def test_composites_of_no_length(name, shape):
    x = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=rf"^{name}: "):
        getattr(ip, name)(x, **MINIMAL[name])

"""Every kind over random whole calls, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import infinitypool as ip
import oracle
from strategies import ADAPTIVE, KINDS, Guarded, arranged, calls, numbers

FEW = settings.get_profile("suite").max_examples
some = settings(max_examples=max(FEW * 2 // 5, 10))
fewer = settings(max_examples=max(FEW // 5, 8))


def _holds(call):
    before = call.x.copy()
    got = call.run()
    assert isinstance(got, np.ndarray)
    call.check(got)
    oracle.assert_same_bits(call.x, before, "the input changed")


@pytest.mark.parametrize("kind", KINDS)
@some
@given(data=st.data())
def test_windows(kind, data):
    _holds(data.draw(calls(kind)))


@pytest.mark.parametrize("kind", ADAPTIVE)
@some
@given(data=st.data())
def test_adaptive(kind, data):
    """None, sizes that do not divide, sizes larger than the input."""
    _holds(data.draw(calls(kind, adaptive=True)))


@pytest.mark.parametrize("kind", KINDS)
@some
@given(data=st.data())
def test_windows_that_exclude(kind, data):
    """A mask of any form, omitted NaNs, least counts."""
    call = data.draw(calls(kind, excludes=True))
    mask = call.arguments.get("where")
    before = None if mask is None else mask.copy()
    _holds(call)
    if mask is not None:
        np.testing.assert_array_equal(mask, before, "the mask changed")


@pytest.mark.parametrize("kind", ADAPTIVE)
@fewer
@given(data=st.data())
def test_adaptive_that_exclude(kind, data):
    _holds(data.draw(calls(kind, adaptive=True, excludes=True)))


@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
@pytest.mark.parametrize("kind", KINDS)
@fewer
@given(data=st.data())
def test_into_out(kind, adaptive, data):
    """``out`` of any strides gets the result, the same object comes back, nothing else changes."""
    adaptive = adaptive and KINDS[kind].adaptive
    call = data.draw(calls(kind, adaptive=adaptive, excludes=data.draw(st.booleans())))
    fresh = call.run()
    order = data.draw(st.sampled_from("CF"))
    guarded = Guarded(
        fresh.shape, fresh.dtype, data.draw(st.integers(0, 9)), order, data.draw(st.integers(0, 3))
    )
    assert call.run(out=guarded.out) is guarded.out
    call.check(guarded.out)
    guarded.check(repr(call))


PAIRS = [(name, dtype) for name, kind in KINDS.items() for dtype in kind.dtypes]


@pytest.mark.parametrize("kind, dtype", PAIRS, ids=lambda v: str(v))
def test_every_dtype(kind, dtype):
    """Each dtype on planes, channels last and a line, with the function's own defaults; longer than
    any vector, so that whole vectors and their remainders are met."""
    kind = KINDS[kind]
    rng = np.random.default_rng(dtype.itemsize)
    for shape, axes in [((3, 13, 39), (1, 2)), ((7, 8, 37), (0, 1)), ((151,), (0,))]:
        kernel, size = (3,) * len(axes), (4,) * len(axes)
        for flavour in ("wide", "special"):
            x = numbers(rng, shape, dtype, flavour)
            windows = {"axes": axes, "stride": 2, "padding": 1}
            kind.check(kind.call(x, kernel, **windows), x, kernel, **windows)
            if kind.adaptive:
                windows = {"axes": axes, "adaptive": True}
                kind.check(kind.call(x, size, **windows), x, size, **windows)


LONG = [
    ((30, 41), (0, 1), (9, 13), {"stride": 1, "padding": (4, 6)}),
    ((25, 26, 5), (0, 1), (11, 12), {"stride": (3, 2)}),
    ((2, 31, 33), (1, 2), (31, 33), {}),
    ((400,), (0,), (101,), {"stride": 7, "padding": 50}),
    ((9, 10, 11), (0, 1, 2), (4, 3, 5), {"stride": 2}),
    ((40, 3), (0,), (3,), {"dilation": 9, "stride": 1}),
]


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_long_windows(kind, dtype):
    """Windows that are built from narrower ones, and a window that is the whole plane."""
    kind, rng = KINDS[kind], np.random.default_rng(3)
    for shape, axes, kernel, rest in LONG:
        x = rng.standard_normal(shape).astype(dtype)
        kind.check(kind.call(x, kernel, axes=axes, **rest), x, kernel, axes=axes, **rest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
def test_results_lie_in_memory_as_their_input(kind, adaptive):
    kind = KINDS[kind]
    if adaptive and not kind.adaptive:
        assert not hasattr(ip, f"adaptive_{kind.name}")
        return
    x = np.random.default_rng(0).standard_normal((4, 6, 8, 5)).astype(np.float32)
    want = kind.call(x, 3, adaptive)
    for order in [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (2, 0, 3, 1)]:
        memory = np.ascontiguousarray(x.transpose(order))
        view = memory.transpose(np.argsort(order))
        got = kind.call(view, 3, adaptive)
        assert got.transpose(order).flags.c_contiguous, (order, got.strides)
        kind.check(got, view, 3, adaptive=adaptive)
        if kind.op in ("max", "min", "quantile"):  # what is chosen is the same in every layout
            oracle.assert_same_bits(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_by_default(kind):
    """No argument is: stride the window, no padding, NaN spreads, every element is valid."""
    kind = KINDS[kind]
    x = np.arange(24.0).reshape(4, 6) - 7
    x[2, 3] = np.nan
    got = kind.call(x, 2)
    kind.check(got, x, 2)
    assert np.isnan(got[1, 1]) and np.isfinite(np.delete(got.ravel(), 4)).all()
    same = kind.call(
        x,
        (2, 2),
        stride=(2, 2),
        padding=0,
        dilation=1,
        ceil_mode=False,
        edge="drop",
        axes=(0, 1),
        where=None,
        nan_policy="propagate",
        min_count=0,
        out=None,
    )
    oracle.assert_same_bits(same, got)
    oracle.assert_same_bits(kind.call(x, 2, **kind.defaults), got)


def test_the_quantile_may_be_given_by_place():
    x = np.random.default_rng(0).standard_normal((6, 6))
    oracle.assert_same_bits(ip.quantile_pool(x, 2, 0.25), ip.quantile_pool(x, 2, q=0.25))
    got = ip.adaptive_quantile_pool(x, 2, q=0.25)
    oracle.assert_same_bits(got, ip.quantile_pool(x, 3, q=0.25))


@pytest.mark.parametrize("kind", KINDS)
def test_no_batch_is_no_work(kind):
    kind = KINDS[kind]
    for shape in [(0, 8, 8), (2, 0, 8, 8)]:
        x = np.zeros(shape, np.float32)
        got = kind.call(x, 3, stride=2, padding=1)
        assert got.shape == (*shape[:-2], 4, 4) and got.dtype == np.float32
        got = kind.call(x, 3, where=np.zeros(x.shape, bool))
        assert got.shape == (*shape[:-2], 2, 2)
        if kind.adaptive:
            got = kind.call(x, (3, None), adaptive=True)
            assert got.shape == (*shape[:-2], 3, 8) and got.dtype == np.float32


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_strays_in_from_outside(kind, dtype):
    """Inputs between NaNs, at every start within a vector, with padding that must not read them."""
    kind, rng = KINDS[kind], np.random.default_rng(1)
    for length in (*range(1, 20), 31, 33, 64, 65, 127):
        x = arranged(rng.integers(1, 5, (2, length)).astype(dtype), "misaligned", rng)
        kernel = (min(3, length),)
        windows = {"stride": 1, "padding": kernel[0] // 2, "axes": 1}
        got = kind.call(x, kernel, **windows)
        assert np.isfinite(got.astype(float)).all()
        kind.check(got, x, kernel, **windows)

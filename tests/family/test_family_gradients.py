"""Gradients of adaptive windows, straight at the core: to the winner, or spread over the window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from engine import backward, forward
from strategies import LAYOUTS, OPS, Guarded, arranged, calls

NAMES = {"max": "max_pool", "min": "min_pool", "mean": "avg_pool", "sum": "sum_pool"}
some = settings(max_examples=max(settings.get_profile("suite").max_examples // 3, 10))


@pytest.mark.parametrize("op", OPS)
@some
@given(data=st.data())
def test_adaptive(op, data):
    call = data.draw(calls(NAMES[op], adaptive=True, dtypes=oracle.FLOATS))
    x, size, geometry = call.x, call.size, call.geometry
    if 0 in x.shape:
        return
    rng = np.random.default_rng(call.seed)
    selects = op in ("max", "min")
    out, where = forward(x, op, size, indices="offset" if selects else "none", **geometry)
    layout = data.draw(st.sampled_from(LAYOUTS), label="layout of the gradient")
    grad = arranged(rng.integers(-3, 4, out.shape).astype(x.dtype), layout, rng)
    back = Guarded(x.shape, x.dtype, call.seed % 9, "CF"[call.seed % 2], call.seed % 3)
    backward(x, grad, op, size, offsets=where, grad_in=back.out, **geometry)
    back.check(repr(call))
    want = oracle.gradient(x, grad, op, size, **geometry)
    got = back.out.astype(np.float64)
    # An element is read by few outputs where they are fewer than inputs, and by many where not.
    _, lines = oracle.plan(x.shape, size, **geometry)
    readers = np.prod([-(-line.out // line.n) + 1 for line in lines])
    if op != "mean" and 3 * readers <= 1 / oracle.epsilon(x.dtype):
        np.testing.assert_array_equal(got, want, repr(call))  # sums of small integers are exact
        return
    # Each share is at most 3, is rounded once and added in float32 (float64 for itself); the result
    # rounds once more.
    bound = 3 * readers * (readers + 2) * oracle.epsilon(oracle.added_in(x.dtype))
    off = np.abs(got - want) > bound + oracle.epsilon(x.dtype) * np.abs(want)
    assert not off.any(), f"{got[off][:3]}, expected {want[off][:3]} {call!r}"


@pytest.mark.parametrize(
    "n, out", [(1000, 7), (7, 1000), (1000, 999), (999, 1000), (1, 300), (300, 1)]
)
@pytest.mark.parametrize(
    "shape, axis", [((3, -1), 1), ((-1, 5), 0)], ids=["lines", "channels last"]
)
def test_shares_add_up(shape, axis, n, out):
    """A gradient of ones over a mean: each output hands out one, evenly over what it reads."""
    shape = tuple(n if m < 0 else m for m in shape)
    x = np.random.default_rng(0).standard_normal(shape)
    result, _ = forward(x, "mean", (out,), axes=axis, adaptive=True)
    got = backward(x, np.ones(result.shape), "mean", (out,), axes=axis, adaptive=True)
    want = np.zeros(n)
    line = oracle.adaptive_axis(n, out)
    for start, count in zip(line.starts, line.counts, strict=True):
        want[start : start + count] += 1 / count
    np.testing.assert_allclose(
        np.moveaxis(got, axis, -1),
        np.broadcast_to(want, np.moveaxis(got, axis, -1).shape),
        rtol=1e-13,
    )

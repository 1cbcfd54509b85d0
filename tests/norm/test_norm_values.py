"""The functions of the PyTorch front against the oracle: results, layouts, residuals, statistics."""

from __future__ import annotations

import itertools

import norm_oracle as no
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_torch import (
    DTYPES,
    FORMATS,
    HALVES,
    NAMES,
    Call,
    arranged,
    array,
    calls,
    numpy_dtype,
    randn,
)

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=50)
def test_values(name, data):
    call = data.draw(calls((name,)))
    got, want = call.run(), call.expected()
    call.check(got, want.values, want.bound, call.x)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=25)
def test_residuals(name, data):
    """The sum is rounded once, as PyTorch's, and it is what is normalised."""
    call = data.draw(calls((name,)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    layout = data.draw(st.sampled_from(("contiguous", "channels last", "steps", "expanded")))
    residual = arranged(randn(rng, call.x.shape, call.x.dtype, 1), layout, rng)
    got, total = call.run(residual=residual)
    assert torch.equal(total, call.x + residual), call
    want = call.expected(call.x + residual)
    call.check(got, want.values, want.bound, call.x, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_layouts_are_kept(name, dtype):
    """Channels last stays channels last for every norm, with and without a residual."""
    rng = np.random.default_rng(0)
    for shape in ((2, 6, 5, 4), (3, 4, 2, 3, 5)):
        for last in (False, True):
            form = FORMATS[len(shape)] if last else torch.contiguous_format
            x, residual = (
                randn(rng, shape, dtype).contiguous(memory_format=form) for _ in range(2)
            )
            for trailing in (1, 2, len(shape) - 1):
                call = Call(name, x, groups=2, trailing=trailing, activation="relu")
                got, want = call.run(), call.expected()
                note = f"{name} {shape} {trailing} {got.stride()}"
                assert got.is_contiguous(memory_format=form), note
                for result in call.run(residual=residual):
                    assert result.is_contiguous(memory_format=form), f"add_{note}"
                call.check(got, want.values, want.bound, x)


def test_large_inputs():
    """Long enough for several threads and every block."""
    rng = np.random.default_rng(1)
    for name, shape, last in (
        ("batch_norm", (4, 16, 65, 67), False),
        ("batch_norm", (4, 67, 33, 35), True),
        ("instance_norm", (2, 5, 111, 113), False),
        ("instance_norm", (2, 33, 57, 59), True),
        ("group_norm", (2, 32, 41, 43), False),
        ("group_norm", (2, 32, 41, 43), True),
        ("layer_norm", (199, 770), False),
        ("rms_norm", (199, 770), False),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            x = randn(rng, shape, dtype, 0.5)
            if last:
                x = x.contiguous(memory_format=torch.channels_last)
            channels = shape[-1] if name in ("layer_norm", "rms_norm") else shape[1]
            weight = randn(rng, (channels,), torch.float32)
            call = Call(name, x, weight, groups=8, activation="gelu")
            got, want = call.run(), call.expected()
            call.check(got, want.values, want.bound, x, f"{name} {shape}")


# --- running statistics ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels last"])
def test_running_statistics(last, name, dtype):
    """Moved toward the mean and the unbiased variance; for instance norm toward their means."""
    rng = np.random.default_rng(2)
    for shape, momentum in itertools.product(((4, 6, 5, 3), (1, 3, 2, 2)), (0.1, 0.0, 1.0)):
        x = randn(rng, shape, dtype, 2).contiguous(
            memory_format=FORMATS[4] if last else torch.contiguous_format
        )
        for stored in {dtype, torch.float32} if dtype in HALVES else {dtype}:
            before = randn(rng, shape[1:2], stored), randn(rng, shape[1:2], stored).abs()
            after = [t.clone() for t in before]
            getattr(IF, name)(x, *after, None, None, True, momentum)
            norm = no.batch(4) if name == "batch_norm" else no.instance(4)
            mean, var = no.moments(array(x), norm.reduced)
            var = no.unbiased(var, norm.count(shape))
            u = oracle.epsilon(oracle.added_in(numpy_dtype(dtype)))
            for got, old, new in zip(after, before, (mean, var), strict=True):
                new = new.mean(0).ravel()
                want = no.running(array(old).ravel(), new, momentum)
                # Some roundings of sums, of the step, and one more of each when PyTorch's way of
                # averaging the instances is taken.
                size = 10 + np.abs(new) + np.abs(array(old).astype(float))
                steps = 16 * u * size
                if stored in HALVES and name == "instance_norm":
                    steps = steps + 2 * oracle.epsilon(numpy_dtype(stored)) * size
                no.assert_close(array(got), want, steps, numpy_dtype(stored), f"{name} {shape}")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_modules_over_several_batches(training, momentum):
    """Buffers and results go PyTorch's way for five batches, then in evaluation."""
    rng = np.random.default_rng(3)
    for dims, kind in itertools.product((1, 2, 3), ("BatchNorm", "InstanceNorm")):
        shape = (3, 4, *(5, 3, 2)[:dims])
        ours, theirs = (
            getattr(module, f"{kind}{dims}d")(
                4,
                momentum=momentum or 0.1 if kind == "InstanceNorm" else momentum,
                affine=True,
                track_running_stats=True,
            ).double()
            for module in (inn, torch.nn)
        )
        ours.train(training)
        theirs.train(training)
        for _ in range(5):
            x = randn(rng, shape, torch.float64, 1)
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
        for (key, a), (other, b) in zip(
            ours.state_dict().items(), theirs.state_dict().items(), strict=True
        ):
            assert key == other
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        x = randn(rng, shape, torch.float64, 1)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)


# --- what stands for nothing -------------------------------------------------------------------


def test_epsilon_of_rms_norm():
    """None is the epsilon of the arithmetic, which tiny inputs show."""
    for dtype in DTYPES:
        x = torch.full((2, 8), 1e-4, dtype=dtype)
        got = IF.rms_norm(x, (8,))
        eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        want = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt()
        torch.testing.assert_close(
            got.double(), want, rtol=2 * max(torch.finfo(dtype).eps, 1e-15), atol=0
        )


def test_a_batch_of_one_value_each():
    """Given statistics need no second value."""
    x = torch.arange(6.0).reshape(1, 6)
    got = IF.batch_norm(x, torch.zeros(6), torch.ones(6), eps=0.0)
    assert torch.equal(got, x)
    got = IF.layer_norm(torch.full((3, 1), 7.0), (1,), torch.ones(1), torch.full((1,), 2.0))
    assert torch.equal(got, torch.full((3, 1), 2.0))


# --- local response ------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=40)
def test_local_response_norm(data):
    draw = data.draw
    ndim = draw(st.integers(3, 5))
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 5, 9, 17))), *[3] * (ndim - 2))
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    layout = draw(st.sampled_from(("contiguous", "channels last", "permuted", "steps", "expanded")))
    x = arranged(randn(rng, shape, dtype, 0, 3), layout, rng)
    size = draw(st.integers(1, 7))
    alpha, beta = draw(st.sampled_from(((1e-4, 0.75), (0.3, 0.5), (1.0, 1.0), (0.2, 1.7))))
    k = draw(st.sampled_from((1.0, 2.0, 0.5)))
    got = IF.local_response_norm(x, size, alpha, beta, k)
    want = no.local_response(array(x), size, alpha, beta, k)
    # Sums of `size` squares, a power and a quotient, in the arithmetic's width: the power is the
    # exponential of beta times a logarithm. Halves are rounded where PyTorch rounds them: the
    # squares, their mean, the two steps to the base, the power.
    u = oracle.epsilon(oracle.added_in(array(x).dtype))
    if dtype in HALVES:
        u += 4 * oracle.epsilon(array(x).dtype)
    bound = u * (size + 8) * (1 + beta) * np.abs(want)
    no.assert_close(array(got), want, bound, array(x).dtype, f"{shape} {layout} {size} {alpha}")
    if layout == "channels last" and ndim in FORMATS:
        assert got.is_contiguous(memory_format=FORMATS[ndim])
    elif layout == "contiguous":
        assert got.is_contiguous()

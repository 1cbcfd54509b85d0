"""Gradients: by finite differences in double precision, against the oracle in every other."""

from __future__ import annotations

import gc
import itertools
import weakref

import norm_oracle as no
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_torch import (
    ACTIVATIONS,
    FORMATS,
    NAMES,
    Call,
    arranged,
    array,
    calls,
    numpy_dtype,
    randn,
)
from torch.autograd import gradcheck, gradgradcheck

import infinitypool.nn.functional as IF

pytestmark = pytest.mark.usefixtures("one_thread")
F64 = torch.float64


def _small(name, rng, last=False, dims=2):
    """A call whose numbers lie away from the corner of relu."""
    shape = (2, 4, *(3, 2, 2)[:dims])
    x = randn(rng, shape, F64, 0, 2)
    if last and len(shape) in FORMATS:
        x = x.contiguous(memory_format=FORMATS[len(shape)])
    by_channel = name in ("batch_norm", "instance_norm", "group_norm")
    return Call(name, x, groups=2, trailing=2, eps=1e-2, slope=0.3), (
        (4,) if by_channel else shape[-2:]
    )


def _safe(call, *tensors):
    """Whether no element of the result is within a finite difference of zero."""
    return call.activation not in ("relu", "leaky_relu") or not bool(
        (np.abs(call.expected().z) < 1e-3).any()
    )


def _prepared(name, activation, parameters, given_statistics, last):
    for seed in itertools.count():
        rng = np.random.default_rng(seed)
        call, shape = _small(name, rng, last)
        call.activation = activation
        if parameters in ("both", "weight"):
            call.weight = randn(rng, shape, F64, 0.5)
        if parameters == "both" and name != "rms_norm":
            call.bias = randn(rng, shape, F64)
        if given_statistics:
            call.given = randn(rng, shape, F64), torch.from_numpy(rng.random(shape) + 0.3)
        if _safe(call):
            return call, rng


def _leaves(call):
    return [t.clone().requires_grad_() for t in (call.x, call.weight, call.bias) if t is not None]


def _function(call, residual=False):
    """Of the leaves alone."""

    def run(x, *rest):
        rest = list(rest)
        r = rest.pop(0) if residual else None
        weight = rest.pop(0) if call.weight is not None else None
        bias = rest.pop(0) if call.bias is not None else None
        return call.run(x, weight, bias, residual=r)

    return run


CHOICES = [
    (name, activation, parameters)
    for name in NAMES
    for activation, parameters in (
        (None, "both"),
        (None, "none"),
        ("relu", "both"),
        ("leaky_relu", "none"),
        ("silu", "weight"),
        ("gelu", "both"),
    )
]


@pytest.mark.parametrize("name, activation, parameters", CHOICES)
def test_gradcheck(name, activation, parameters):
    for last in (False, True):
        call, _ = _prepared(name, activation, parameters, False, last)
        assert gradcheck(_function(call), _leaves(call))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_gradcheck_with_given_statistics(name, activation):
    for last, parameters in ((False, "both"), (True, "both"), (False, "none"), (True, "weight")):
        call, _ = _prepared(name, activation, parameters, True, last)
        assert gradcheck(_function(call), _leaves(call))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_with_a_residual(name):
    """Both results are used, and either alone."""
    for which in (slice(0, 2), 0, 1):
        call, rng = _prepared(name, "silu", "both", False, False)
        leaves = _leaves(call)
        leaves.insert(1, randn(rng, call.x.shape, F64).requires_grad_())
        run = _function(call, residual=True)
        assert gradcheck(lambda *t, run=run, which=which: run(*t)[which], leaves)


@pytest.mark.parametrize("name", NAMES)
def test_the_sum_is_used_as_well(name):
    """What comes back through the sum is added, once and again in every dtype."""
    rng = np.random.default_rng(9)
    for dtype, last in itertools.product((F64, torch.float32, torch.bfloat16), (False, True)):
        shape = (3, 4, 6, 5)
        x, residual, grad, grad_sum = (randn(rng, shape, dtype) for _ in range(4))
        if last:
            x = x.contiguous(memory_format=FORMATS[4])
        call = Call(name, x, groups=2, trailing=3, activation="gelu")
        leaves = [t.clone().requires_grad_() for t in (x, residual)]
        y, total = call.run(leaves[0], residual=leaves[1])
        torch.autograd.backward([y, total], [grad, grad_sum])
        want = call.expected_gradients(grad, x + residual)
        more = call.view(grad_sum)
        eps = torch.finfo(dtype).eps
        bound = want.x_bound + eps * (np.abs(want.x) + np.abs(more.astype(float)))
        for leaf in leaves:
            call.check(leaf.grad, want.x + more.astype(want.x.dtype), bound, x, name)
        (again,) = torch.autograd.grad(
            call.run(leaves[0], residual=leaves[1])[1], leaves[0], grad_sum
        )
        assert torch.equal(again, grad_sum)


@pytest.mark.parametrize("name", [*NAMES, "given"])
def test_gradgradcheck(name):
    given_statistics = name == "given"
    name = "batch_norm" if given_statistics else name
    for activation, parameters in ((None, "both"), ("silu", "weight"), ("gelu", "none")):
        call, _ = _prepared(name, activation, parameters, given_statistics, False)
        call.x = call.x[:, :, :1]
        if "layer" in name or "rms" in name:
            call.weight = None if call.weight is None else call.weight[:1]
            call.bias = None if call.bias is None else call.bias[:1]
        assert gradgradcheck(_function(call), _leaves(call))


@pytest.mark.parametrize("size, k", [(1, 1.0), (2, 1.0), (3, 2.0), (5, 0.5)])
def test_local_response_norm(size, k):
    rng = np.random.default_rng(size)
    x = randn(rng, (2, 5, 2, 2), F64, 0, 2).requires_grad_()

    def run(t):
        return IF.local_response_norm(t, size, 0.3, 0.6, k)

    assert gradcheck(run, (x,)) and gradgradcheck(run, (x,))
    for dtype in (torch.float32, torch.float64):
        x = randn(rng, (2, 9, 4, 3), dtype, 0, 2).requires_grad_()
        g = randn(rng, x.shape, dtype)
        run(x).backward(g)
        want = no.local_response_backward(array(x), array(g), size, 0.3, 0.6, k)
        # Each element reads `size` others, and some powers.
        bound = 40 * (size + 4) * torch.finfo(dtype).eps
        no.assert_close(array(x.grad), want, bound, array(x).dtype)


# --- against the oracle --------------------------------------------------------------------------


def _check(call, grad, residual=None, note=""):
    """Both gradients of one backward pass, and the residual's."""
    x = call.x.detach().requires_grad_()
    weight, bias = (
        None if t is None else t.detach().requires_grad_() for t in (call.weight, call.bias)
    )
    plain = call.x if residual is None else call.x + residual
    other = None if residual is None else residual.detach().requires_grad_()
    result = call.run(x, weight, bias, residual=other)
    y = result if residual is None else result[0]
    assert y.requires_grad
    y.backward(grad)
    want = call.expected_gradients(grad, plain)
    call.check(x.grad, want.x, want.x_bound, call.x, f"input {note}")
    if residual is not None:
        call.check(other.grad, want.x, want.x_bound, call.x, f"residual {note}")
    for name, leaf in (("weight", weight), ("bias", bias)):
        if leaf is None:
            continue
        assert leaf.grad.dtype == leaf.dtype and leaf.grad.shape == leaf.shape
        got = np.ascontiguousarray(array(leaf.grad))
        exact, bound = getattr(want, name), getattr(want, f"{name}_bound")
        note_here = f"{name} {note} {call!r}"
        no.assert_close(got.reshape(exact.shape), exact, bound, numpy_dtype(leaf.dtype), note_here)
    return x, y


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=50)
def test_against_the_oracle(name, data):
    call = data.draw(calls((name,)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    layout = data.draw(
        st.sampled_from(("contiguous", "channels last", "permuted", "steps", "expanded"))
    )
    residual = None
    if data.draw(st.integers(0, 3)) == 0:
        residual = randn(rng, call.x.shape, call.x.dtype)
    plain = call.x if residual is None else call.x + residual
    grad = call.quiet(randn(rng, call.x.shape, call.x.dtype), plain)
    if call.activation not in ("relu", "leaky_relu") or layout != "expanded":
        grad = arranged(grad, layout, rng)
    _check(call, grad, residual, layout)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_are_one_number(name):
    """What sum() and mean() send back has no strides; so have other expanded gradients."""
    rng = np.random.default_rng(1)
    for last in (False, True):
        x = randn(rng, (3, 4, 6, 5), torch.float32)
        x = x.contiguous(memory_format=FORMATS[4]) if last else x
        call = Call(name, x, groups=2, trailing=3, activation="gelu")
        by_channel = name not in ("layer_norm", "rms_norm")
        call.weight = randn(rng, x.shape[1:2] if by_channel else x.shape[1:], x.dtype)
        for grad in (
            torch.ones(()).expand(x.shape),
            randn(rng, (3, 4, 1, 1), x.dtype).expand(x.shape),
            randn(rng, (1, 1, 1, 5), x.dtype).expand(x.shape),
            randn(rng, (3, 1, 6, 1), x.dtype).expand(x.shape),
        ):
            _check(call, grad, note=f"{name} {grad.stride()}")
        leaf = x.detach().requires_grad_()
        call.run(leaf).sum().backward()
        want = call.expected_gradients(torch.ones(x.shape))
        call.check(leaf.grad, want.x, want.x_bound, x)


@pytest.mark.parametrize("name", NAMES)
def test_layouts_of_gradients(name):
    """The gradient lies as the input does, whatever comes in."""
    rng = np.random.default_rng(2)
    for shape in ((2, 4, 6, 5), (2, 4, 3, 2, 5)):
        for last, grad_last in itertools.product((False, True), repeat=2):
            form, grad_form = (
                FORMATS[len(shape)] if flag else torch.contiguous_format
                for flag in (last, grad_last)
            )
            x = randn(rng, shape, torch.float32).contiguous(memory_format=form).requires_grad_()
            grad = randn(rng, shape, torch.float32).contiguous(memory_format=grad_form)
            y = Call(name, x, groups=2, trailing=len(shape) - 1).run(x)
            (got,) = torch.autograd.grad(y, x, grad)
            assert got.is_contiguous(memory_format=form), f"{shape} {last} {grad_last}"


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_wanted(name):
    """Every choice of inputs that ask for a gradient gives the bits of all together."""
    rng = np.random.default_rng(3)
    x = randn(rng, (3, 4, 7, 5), torch.float32)
    channels = name in ("batch_norm", "instance_norm", "group_norm")
    shape = (4,) if channels else x.shape[1:]
    weight, bias = randn(rng, shape, x.dtype), randn(rng, shape, x.dtype)
    bias = None if name == "rms_norm" else bias
    call = Call(name, x, weight, bias, groups=2, trailing=3, activation="silu")
    grad = randn(rng, x.shape, x.dtype)
    tensors = [t for t in (x, weight, bias) if t is not None]

    def run(wanted):
        leaves = [t.clone().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
        call.run(*leaves).backward(grad)
        return [leaf.grad for leaf in leaves]

    every = run([True] * len(tensors))
    for wanted in itertools.product((False, True), repeat=len(tensors)):
        if any(wanted):
            for got, full, w in zip(run(wanted), every, wanted, strict=True):
                assert torch.equal(got, full) if w else got is None


def test_large_gradients():
    """Long enough for several threads and every block."""
    rng = np.random.default_rng(4)
    for name, shape, last in (
        ("batch_norm", (4, 16, 65, 67), False),
        ("batch_norm", (4, 67, 33, 35), True),
        ("instance_norm", (2, 33, 57, 59), True),
        ("group_norm", (2, 32, 41, 43), False),
        ("group_norm", (2, 32, 41, 43), True),
        ("layer_norm", (199, 770), False),
        ("rms_norm", (199, 770), False),
    ):
        for dtype in (torch.float32, torch.float16):
            x = randn(rng, shape, dtype, 0.5)
            if last:
                x = x.contiguous(memory_format=torch.channels_last)
            channels = shape[-1] if name in ("layer_norm", "rms_norm") else shape[1]
            weight = randn(rng, (channels,), torch.float32)
            call = Call(name, x, weight, groups=8, activation="silu")
            _check(call, randn(rng, shape, dtype), note=f"{name} {shape}")


# --- what is kept ----------------------------------------------------------------------------------


def _kept(call, residual=None):
    """The storages that the graph holds: (bytes, dtype, the tensor)."""
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), t.dtype, t)
        return t

    x = call.x.detach().requires_grad_()
    weight, bias = (
        None if t is None else t.detach().requires_grad_() for t in (call.weight, call.bias)
    )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = call.run(x, weight, bias, residual=residual)
    return x, result, kept


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept(name, activation):
    """The input itself, two float64 numbers for every region, weight and bias, and no more: neither
    what stands before the activation nor a mask of it."""
    rng = np.random.default_rng(5)
    x = randn(rng, (4, 8, 16, 16), torch.float32)
    channels = name in ("batch_norm", "instance_norm", "group_norm")
    shape = (8,) if channels else x.shape[1:]
    weight, bias = randn(rng, shape, x.dtype), randn(rng, shape, x.dtype)
    bias = None if name == "rms_norm" else bias
    call = Call(name, x, weight, bias, groups=2, trailing=3, activation=activation)
    regions = int(np.prod(call.norm.region_shape(call.view(x).shape)))
    leaf, result, kept = _kept(call)
    assert leaf.untyped_storage().data_ptr() in kept, "the input is what backward needs"
    own = {t.untyped_storage().data_ptr() for t in (x, weight, bias) if t is not None}
    more = {where: row for where, row in kept.items() if where not in own}
    assert sum(row[0] for row in more.values()) <= 2 * 8 * regions, more
    assert all(row[1] == torch.float64 for row in more.values()), more
    # With a residual the sum takes the input's place.
    residual = randn(rng, x.shape, x.dtype)
    _, (_, total), kept = _kept(call, residual)
    assert total.untyped_storage().data_ptr() in kept
    own = {t.untyped_storage().data_ptr() for t in (total, weight, bias) if t is not None}
    more = {where: row for where, row in kept.items() if where not in own}
    assert sum(row[0] for row in more.values()) <= 2 * 8 * regions, more


@pytest.mark.parametrize("name", NAMES)
def test_what_is_let_go(name):
    """Nor is anything held out of the hooks' sight: results and summands go when nobody has them."""
    rng = np.random.default_rng(8)
    leaf = randn(rng, (2, 4, 3, 3), torch.float32).requires_grad_()
    call = Call(name, leaf.detach(), groups=2, trailing=3, activation="silu")
    x, residual = leaf * 1, leaf * 2
    y, total = call.run(x, residual=residual)
    gone = [weakref.ref(t) for t in (x, residual, y)]
    graph = y.grad_fn
    del x, residual, y
    gc.collect()
    assert [ref() is None for ref in gone] == [True] * 3 and graph is not None
    y = call.run(leaf)
    gone, graph = weakref.ref(y), y.grad_fn
    del y
    gc.collect()
    assert gone() is None and graph is not None


def test_nothing_is_kept_without_a_gradient():
    rng = np.random.default_rng(6)
    for name in NAMES:
        call = Call(name, randn(rng, (4, 8, 5, 5), torch.float32), groups=2, trailing=3)
        with torch.no_grad():
            _, result, kept = _kept(call)
        assert not kept and not result.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_backward_sees_changes_of_its_input(name):
    """Writing into what is kept is found out, as PyTorch does."""
    rng = np.random.default_rng(7)
    x = randn(rng, (2, 4, 3, 3), torch.float32).requires_grad_()
    moved = x * 1
    y = Call(name, x, groups=2, trailing=3).run(moved)
    moved.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", ["layer", "instance", "rms"])
def test_short_runs_far_from_zero(kind, affine):
    """The mean's rounding to a float32, up to 5e-4 here, must not reach the gradient: its product
    with a gradient that does not sum to zero would be some 1e-4."""
    torch.manual_seed(3)
    x = torch.randn(40, 6, 30) + 1e4
    grad = torch.rand(40, 6, 30) + 1
    size = 6 if kind == "instance" else 30
    parameters = [torch.rand(size) + 0.5, torch.randn(size)] if affine else [None, None]
    parameters = parameters[:1] if kind == "rms" else parameters

    def gradients(functional, x, parameters):
        leaves = [x, *(p for p in parameters if p is not None)]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        weights = leaves[1:] or [None] * len(parameters)
        if kind == "instance":
            y = functional.instance_norm(leaves[0], None, None, *weights)
        else:
            y = getattr(functional, f"{kind}_norm")(leaves[0], (size,), *weights)
        return torch.autograd.grad(y, leaves, grad.to(x.dtype))

    wide = [None if p is None else p.double() for p in parameters]
    wanted = gradients(torch.nn.functional, x.double(), wide)
    found = gradients(IF, x, parameters)
    for ours, theirs in zip(found, wanted, strict=True):
        # Sums of 30 to 1200 products of size 4 in float32, of which one rounding is 2.4e-7 of each.
        scale = theirs.abs().max().clamp(min=1e-4)
        assert ((ours.double() - theirs).abs().max() / scale).item() < 2e-5

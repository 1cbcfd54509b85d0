"""Unpooling and fractional windows: identities, collisions, bad indices, samples, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from torch_compare import FORMATS, outcome, same_bits


def _function(module, stem, dims):
    return getattr(module, f"{stem}{dims}d")


@pytest.mark.parametrize("dims", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=40)
def test_unpooling_what_was_pooled(dims, data):
    kernel = [data.draw(st.integers(1, 3)) for _ in range(dims)]
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    sizes = [k + data.draw(st.integers(0, 6)) for k in kernel]
    lead = data.draw(st.sampled_from(((2, 3), (4,), (1, 17), (0, 2))))
    dtype = data.draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    x = torch.from_numpy(rng.permutation(math.prod((*lead, *sizes))).reshape(*lead, *sizes) + 1.0)
    x = x.to(dtype)
    if dims > 1 and len(lead) == 2 and data.draw(st.booleans()):
        x = x.contiguous(memory_format=FORMATS[dims + 2])
    pool, unpool = (_function(IF, stem, dims) for stem in ("max_pool", "max_unpool"))
    values, indices = pool(x, kernel, padding=padding, return_indices=True)
    named = {"padding": padding, "output_size": data.draw(st.sampled_from((sizes, list(x.shape))))}
    if len(lead) < 2:
        named["output_size"] = sizes
    y, error = outcome(unpool, values, indices, kernel, **named)
    theirs, their_error = outcome(
        _function(F, "max_unpool", dims), values, indices, kernel, **named
    )
    assert type(error) is type(their_error), (error, their_error)
    if error is not None:
        return
    same_bits(y, theirs)
    again, places = pool(y, kernel, padding=padding, return_indices=True)
    assert torch.equal(again, values) and torch.equal(places, indices), "pool of unpool"
    leaf = values.clone().requires_grad_()
    (g,) = torch.autograd.grad(unpool(leaf, indices, kernel, **named), leaf, x)
    assert torch.equal(g, values), "the gradient gathers what lies at the indices"


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_the_last_of_colliding_indices_wins(dims, last):
    rng = np.random.default_rng(dims)
    size, out = (5, 4, 3)[:dims], (7, 6, 5)[:dims]
    plane = math.prod(out)
    x = torch.from_numpy(rng.permutation(6 * math.prod(size)).reshape(2, 3, *size) + 1.0)
    indices = torch.from_numpy(rng.integers(0, min(plane, 9), x.shape))
    want, gradient = torch.zeros(2, 3, plane), torch.zeros(x.shape, dtype=x.dtype)
    incoming = torch.from_numpy(rng.permutation(6 * plane).reshape(2, 3, *out) + 1.0)
    for n in range(2):
        for c in range(3):
            winner = {}
            for position, index in enumerate(indices[n, c].flatten().tolist()):
                want[n, c, index] = x[n, c].flatten()[position]
                winner[index] = position
            for index, position in winner.items():
                gradient[n, c].view(-1)[position] = incoming[n, c].flatten()[index]
    if last and dims > 1:
        x, indices = (t.contiguous(memory_format=FORMATS[dims + 2]) for t in (x, indices))
    unpool = torch.ops.infinitypool.max_unpool
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            leaf = x.clone().requires_grad_()
            y = unpool(leaf, indices, out)
            assert torch.equal(y, want.reshape(2, 3, *out).to(y.dtype))
            (g,) = torch.autograd.grad(y, leaf, incoming)
            assert torch.equal(g, gradient)
        finally:
            torch.set_num_threads(1)
    leaf = x[:1, :1].double().clone().requires_grad_()
    few = indices[:1, :1].clone()
    assert torch.autograd.gradcheck(lambda t: unpool(t, few, out), (leaf,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda t: unpool(t, few, out), (leaf,), fast_mode=True)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bad", [-1, -(2**63), 2**31, 2**63 - 1, "plane"])
def test_bad_indices_are_named(dims, bad):
    x = torch.rand(2, 3, *(5, 4, 3)[:dims])
    indices = torch.zeros(x.shape, dtype=torch.int64)
    plane = math.prod(2 * n for n in x.shape[2:])
    bad = plane if bad == "plane" else bad
    place = (1, 2, *(3, 1, 2)[:dims])
    indices[place] = bad
    indices[(1, 2, *(4, 3, 2)[:dims])] = -7  # a later one
    with pytest.raises(RuntimeError) as caught:
        _function(IF, "max_unpool", dims)(x, indices, 2)
    message = str(caught.value)
    assert message.startswith(f"max_unpool{dims}d: ")
    assert f"indices{list(place)} is {bad}" in message
    y = _function(IF, "max_unpool", dims)(x, indices.clamp(0, plane - 1), 2)
    good = torch.zeros_like(indices)
    for other in (indices, good.int(), good[:1], good.double()):
        with pytest.raises(RuntimeError, match="indices"):
            torch.ops.infinitypool.max_unpool_backward(y, other, y.shape[2:], x.stride())


def test_unpooling_refuses_what_pytorch_refuses():
    x, indices = torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.int64)
    for arguments in (
        (x, indices.int(), 2),
        (x, indices[:1], 2),
        (x[0, 0], indices[0, 0], 2),
        (x[None], indices[None], 2),
        (x[:, :0], indices[:, :0], 2),
        (x[..., :0], indices[..., :0], 2),
        (x, None, 2),
        (x, indices, 2.0),
        (x, indices, "2"),
        (x, indices, None),
        (x, indices, 2, "2"),
        (x, indices, 2, 2, None),
        (x, indices, 2, 2, 0, (99, 8)),
        (x, indices, 2, 2, 0, (8,)),
        (x, indices, 2, 2, 0, (8, 8, 8)),
        (x, indices, 2, 2, 0, 8),
        (x, indices, 2, 2, 0, (8.0, 8.0)),
        (x.to(torch.complex64), indices, 2),
    ):
        _, theirs = outcome(F.max_unpool2d, *arguments)
        _, ours = outcome(IF.max_unpool2d, *arguments)
        assert theirs is not None and type(ours) is type(theirs), (arguments[2:], ours, theirs)
        assert "max_unpool2d" in str(ours)
    for kernel in (2**40, (2**62, 2)):  # no such memory, or beyond 64 bits
        with pytest.raises((RuntimeError, ValueError)):
            IF.max_unpool2d(x, indices, kernel)
    with pytest.raises(TypeError):
        IF.max_unpool2d(None, indices, 2)
    assert IF.max_unpool2d(x[:0], indices[:0], 2).shape == (0, 3, 8, 8)
    ints = IF.max_unpool1d(torch.tensor([[5, 6]]), torch.tensor([[3, 0]]), 2)
    assert ints.dtype == torch.int64 and ints.tolist() == [[6, 0, 0, 5]]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unpooling_in_modules_and_transforms(dims):
    x = torch.rand(2, 3, *(6, 8, 4)[:dims])
    pool, unpool = (
        inn_class("MaxPool", dims)(2, return_indices=True),
        inn_class("MaxUnpool", dims)(2),
    )
    theirs = getattr(torch.nn, f"MaxUnpool{dims}d")(2)
    assert repr(unpool) == repr(theirs)
    values, indices = pool(x)
    same_bits(unpool(values, indices), theirs(values, indices))
    wider = [n + 1 for n in x.shape[2:]]
    same_bits(unpool(values, indices, wider), theirs(values, indices, output_size=wider))
    batched = torch.func.vmap(lambda v, i: unpool(v, i))(values, indices)
    assert torch.equal(batched, unpool(values, indices))
    grads = torch.func.grad(lambda v: (unpool(v, indices) * x).sum())(values)
    assert torch.equal(grads, values)
    _, slope = torch.func.jvp(lambda v: unpool(v, indices), (values,), (values,))
    assert torch.equal(slope, unpool(values, indices))
    meta = unpool(values.to("meta"), indices.to("meta"))
    assert meta.shape == unpool(values, indices).shape


def inn_class(stem, dims):
    return getattr(inn, f"{stem}{dims}d")


# --- fractional ----------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@given(data=st.data())
@settings(max_examples=40)
def test_fractional_against_pytorch(dims, data):
    sizes = [data.draw(st.integers(2, 9)) for _ in range(dims)]
    # (PyTorch's own wants one element more than it needs in three dimensions.)
    kernel = [data.draw(st.integers(1, min(3, n - 1))) for n in sizes]
    out = [data.draw(st.integers(1, n - k)) for n, k in zip(sizes, kernel, strict=True)]
    lead = data.draw(st.sampled_from(((2, 3), (4,), (1, 17))))
    dtype = data.draw(
        st.sampled_from((torch.float64, torch.float32, torch.float16, torch.bfloat16))
    )
    seed = data.draw(st.integers(0, 2**16))
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    x = torch.from_numpy(rng.integers(-4, 5, (*lead, *sizes))).to(dtype)
    if data.draw(st.booleans()):
        x[torch.from_numpy(rng.random(x.shape) < 0.1)] = math.nan
    if len(lead) == 2 and data.draw(st.booleans()):
        x = x.contiguous(memory_format=FORMATS[dims + 2])
    batch = lead[0] + 1 if len(lead) == 2 else 2  # more than needed are allowed
    samples = torch.rand(batch, lead[-1], dims, dtype=dtype, generator=generator)
    named = {"output_size": out, "_random_samples": samples}
    x.requires_grad_()
    ours, theirs = (
        _function(m, "fractional_max_pool", dims)(x, kernel, **named, return_indices=True)
        for m in (IF, F)
    )
    note = f"{dtype} {tuple(x.shape)} {kernel} {out} seed {seed}"
    for a, b in zip(ours, theirs, strict=True):
        same_bits(a, b, note)
    plain = _function(IF, "fractional_max_pool", dims)
    same_bits(plain(x, kernel, **named), theirs[0], note)
    same_bits(plain(x.detach(), kernel, **named), theirs[0].detach(), note)
    also = getattr(IF, f"fractional_max_pool{dims}d_with_indices")(x.detach(), kernel, **named)
    same_bits(also[1], theirs[1], note)
    g = torch.from_numpy(rng.integers(-3, 4, theirs[0].shape)).to(dtype)
    got, want = (torch.autograd.grad(y[0], x, g)[0] for y in (ours, theirs))
    assert torch.equal(got, want), note


@pytest.mark.parametrize("dims", [2, 3])
def test_fractional_front(dims):
    x = torch.rand(2, 3, *(9, 8, 7)[:dims], dtype=torch.float64).requires_grad_()
    pool, their_pool = (_function(m, "fractional_max_pool", dims) for m in (IF, F))
    ratio = (0.5, 0.6, 0.7)[:dims]
    for named in ({"output_size": 3}, {"output_ratio": ratio}, {"output_size": (3, 2, 4)[:dims]}):
        torch.manual_seed(3)
        want = their_pool(x, 2, **named)
        torch.manual_seed(3)
        same_bits(pool(x, 2, **named), want)
        ours, theirs = (
            getattr(m, f"FractionalMaxPool{dims}d")(2, **named, return_indices=True)
            for m in (inn, torch.nn)
        )
        assert repr(ours) == repr(theirs) and ours.kernel_size == theirs.kernel_size
        assert (ours.output_size, ours.output_ratio) == (theirs.output_size, theirs.output_ratio)
        drawn = []
        for module in (ours, theirs):
            torch.manual_seed(3)
            drawn.append(module(x)[1] if "output_size" in named else module.output_ratio)
        assert str(drawn[0]) == str(drawn[1])
    samples = torch.rand(2, 3, dims, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda t: pool(t, 2, output_size=3, _random_samples=samples), (x,), fast_mode=True
    )
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = pool(x, 2, output_size=3)
    starts = 2 * 3 * dims * 3 * 8
    assert sum(t.untyped_storage().nbytes() for t in kept) <= y.numel() + starts
    for arguments, named in (
        ((x, 2), {}),
        ((x, 20), {"output_size": 3}),
        ((x, 2), {"output_size": 9}),
        ((x, 2), {"output_size": -1}),
        ((x, 2), {"output_size": 2**62}),
        ((x, 2.0), {"output_size": 3}),
        ((x, 2), {"output_size": 3.0}),
        ((x, (2,) * (dims + 1)), {"output_size": 3}),
        ((x, [2]), {"output_size": 3}),
        ((x, 2), {"output_size": (3,)}),
        ((x, 2), {"output_size": 3, "_random_samples": samples[:1]}),
        ((x, 2), {"output_size": 3, "_random_samples": samples[..., :1]}),
        ((x, 2), {"output_size": 3, "_random_samples": samples.float()}),
        ((x, 2), {"output_size": 3, "_random_samples": samples[0]}),
        ((x[0, 0], 2), {"output_size": 3}),
        ((x[None], 2), {"output_size": 3}),
        ((x[:, :0], 2), {"output_size": 3}),
        ((x[..., :0], 2), {"output_size": 3}),
        ((x.detach().long(), 2), {"output_size": 3}),
    ):
        _, theirs = outcome(their_pool, *arguments, **named)
        _, ours = outcome(pool, *arguments, **named)
        assert theirs is not None and type(ours) is type(theirs), (
            arguments[1:],
            named,
            ours,
            theirs,
        )
    for kernel in (0, -1):  # PyTorch gives -inf, or reads before the input
        with pytest.raises(RuntimeError, match="kernel_size"):
            pool(x, kernel, output_size=3)
    for odd in (samples + 1, samples - 1, samples * math.nan):  # never outside the input
        y, places = pool(x, 2, output_size=3, _random_samples=odd, return_indices=True)
        assert torch.equal(x.flatten(2).gather(2, places.flatten(2)).flatten(), y.flatten())
    assert pool(x[:0], 2, output_size=3).shape[0] == 0
    meta = pool(x.to("meta"), 2, output_size=3)
    assert meta.device.type == "meta" and meta.shape == y.shape
    batched = torch.func.vmap(
        lambda t, s: pool(t, 2, output_size=3, _random_samples=s[None]), randomness="different"
    )(x.detach(), samples)
    assert torch.equal(batched, pool(x, 2, output_size=3, _random_samples=samples))


@pytest.mark.parametrize("dims", [2, 3])
def test_fractional_modules_refuse_what_pytorchs_refuse(dims):
    for arguments, named in (
        ((2,), {}),
        ((2, 3, 0.5), {}),
        ((2,), {"output_ratio": 1.5}),
        ((2,), {"output_ratio": 0.0}),
        ((2,), {"output_ratio": (0.5, 2.0, 0.5)[:dims]}),
    ):
        _, theirs = outcome(getattr(torch.nn, f"FractionalMaxPool{dims}d"), *arguments, **named)
        _, ours = outcome(getattr(inn, f"FractionalMaxPool{dims}d"), *arguments, **named)
        assert theirs is not None and type(ours) is type(theirs)

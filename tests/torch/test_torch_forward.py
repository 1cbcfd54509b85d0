"""The PyTorch front's results, layouts, dtypes and extra forms against PyTorch."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import infinitypool.nn.functional as IF
import oracle
from torch_compare import FORMATS, OURS, THEIRS, close_averages, same_bits, terms_of

nan, inf = float("nan"), float("inf")
MAX_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def _values(rng, shape, dtype, special=False):
    if not dtype.is_floating_point:
        return torch.from_numpy(rng.integers(0, 100, shape)).to(dtype)
    x = torch.from_numpy(rng.integers(-5, 6, shape).astype(np.float64))
    if special:
        chosen = torch.from_numpy(rng.choice([nan, inf, -inf, -0.0, 0.0], shape))
        x = torch.where(torch.from_numpy(rng.random(shape) < 0.4), chosen, x)
    return x.to(dtype)


def _laid_out(x, layout):
    if layout == "contiguous":
        return x
    if layout == "channels last":
        return x.contiguous(memory_format=FORMATS[x.ndim])
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "sliced":
        wide = torch.full([n + 2 for n in x.shape], nan if x.dtype.is_floating_point else 99).to(
            x.dtype
        )
        part = wide[tuple(slice(1, -1) for _ in x.shape)]
        part.copy_(x)
        return part
    if layout == "expanded":
        return x[:1].expand(x.shape)
    raise AssertionError(layout)


@st.composite
def calls(draw, ndim, kind):
    """Arguments that PyTorch accepts, and an input they fit."""
    kernel = [draw(st.integers(1, 5 if ndim < 3 else 3)) for _ in range(ndim)]
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    dilation = [draw(st.sampled_from((1, 1, 2, 3))) if kind == "max" else 1 for _ in range(ndim)]
    spatial = [
        max(1, d * (k - 1) + 1 - 2 * p, k if kind == "avg" and ndim == 3 else 1)
        + draw(st.integers(0, 6))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    ]
    named = {
        "kernel_size": kernel,
        "stride": draw(st.none() | st.tuples(*[st.integers(1, 4)] * ndim)),
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }
    if kind == "max":
        named["dilation"] = dilation
    else:
        named["count_include_pad"] = draw(st.booleans())
        if ndim > 1:
            named["divisor_override"] = draw(st.none() | st.sampled_from((1, 2, 3, 7, -2)))
    lead = draw(st.sampled_from(((2, 3), (1, 5), (4,), (1, 1), (2, 17))))
    layouts = ["contiguous", "transposed" if ndim > 1 else "sliced", "sliced", "expanded"]
    if ndim > 1 and len(lead) == 2:
        layouts.append("channels last")
    return (*lead, *spatial), named, draw(st.sampled_from(layouts)), draw(st.integers(0, 2**16))


def _holds_something(shape, named, ndim):
    """Whether every window holds an element: where none does, PyTorch gives an index outside the
    plane."""
    ranges = zip(
        shape[-ndim:], named["kernel_size"], named["padding"], named["dilation"], strict=True
    )
    stride = named["stride"] or named["kernel_size"]
    for (n, k, p, d), s in zip(ranges, stride, strict=True):
        axis = oracle.make_axis(n, k, s, (p, p), d, named["ceil_mode"])
        for o in range(axis.out):
            if not any(axis.inside(axis.position(o, t)) for t in range(k)):
                return False
    return True


@pytest.mark.parametrize("ndim", [1, 2, 3])
@given(data=st.data())
def test_max_is_bit_by_bit(ndim, data):
    shape, named, layout, seed = data.draw(calls(ndim, "max"))
    dtype = data.draw(st.sampled_from(MAX_DTYPES if ndim == 1 else MAX_DTYPES + INTEGERS))
    special = data.draw(st.booleans())
    x = _laid_out(_values(np.random.default_rng(seed), shape, dtype, special), layout)
    name = f"max_pool{ndim}d"
    note = f"{name} {dtype} {shape} {layout} {named} seed {seed}"
    same_bits(OURS[name](x, **named), THEIRS[name](x, **named), note)
    values, indices = OURS[name](x, **named, return_indices=True)
    pairs = OURS[f"{name}_with_indices"](x, **named)
    same_bits(pairs[0], values, note)
    same_bits(pairs[1], indices, note)
    if layout == "channels last" and ndim == 3:
        # PyTorch's channels-last kernel gives index 0 for windows of nothing but -inf.
        expected = THEIRS[name](x.contiguous(), **named, return_indices=True)
        expected = [t.contiguous(memory_format=FORMATS[5]) for t in expected]
    else:
        expected = THEIRS[name](x, **named, return_indices=True)
    same_bits(values, expected[0], note)
    if _holds_something(shape, named, ndim):
        same_bits(indices, expected[1], note)
    else:
        assert int(indices.max()) < np.prod(shape[-ndim:]) and int(indices.min()) >= -1


@pytest.mark.parametrize("ndim", [1, 2, 3])
@given(data=st.data())
def test_averages(ndim, data):
    shape, named, layout, seed = data.draw(calls(ndim, "avg"))
    choices = (torch.float32, torch.float64, torch.int64)
    dtype = data.draw(
        st.sampled_from(choices if ndim == 3 else choices + (torch.float16, torch.bfloat16))
    )
    x = _values(np.random.default_rng(seed), shape, dtype, data.draw(st.booleans()))
    if dtype == torch.int64:
        x = x - 50
    x = _laid_out(x, layout)
    name = f"avg_pool{ndim}d"
    note = f"{name} {dtype} {shape} {layout} {named} seed {seed}"
    pool = functools.partial(THEIRS[name], **named)
    terms = terms_of(named["kernel_size"], ndim)
    close_averages(OURS[name](x, **named), pool(x), pool, x, terms, note)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("channels", [1, 2, 5, 8, 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_memory_formats_forward_and_backward(dtype, channels, kind, dims):
    if kind == "avg" and dims == 3 and dtype == torch.bfloat16:
        dtype = torch.float32  # PyTorch has no half-precision average in three dimensions
    rng = np.random.default_rng(channels)
    name = f"{kind}_pool{dims}d"
    size = (7, 9, 8)[:dims]
    plain = _values(rng, (2, channels, *size), dtype)
    for x in (plain, plain.contiguous(memory_format=FORMATS[dims + 2])):
        results = []
        for function in (OURS[name], THEIRS[name]):
            leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
            y = function(leaf, 3, stride=2, padding=1)
            incoming = torch.from_numpy(rng.integers(-3, 4, y.shape)).to(dtype)
            results.append((leaf, y, incoming))
        (leaf, y, incoming), (their_leaf, their_y, _) = results
        if kind == "max":
            same_bits(y, their_y)
        else:
            pool = functools.partial(THEIRS[name], kernel_size=3, stride=2, padding=1)
            close_averages(y, their_y, pool, x, 3**dims)
        formats = (torch.contiguous_format, FORMATS[dims + 2])
        for form in formats:
            assert y.is_contiguous(memory_format=form) == their_y.is_contiguous(memory_format=form)
        for form in formats:
            g = incoming.contiguous(memory_format=form)
            (got,) = torch.autograd.grad(y, leaf, g, retain_graph=True)
            (want,) = torch.autograd.grad(their_y, their_leaf, g, retain_graph=True)
            for check in formats:
                assert got.is_contiguous(memory_format=check) == want.is_contiguous(
                    memory_format=check
                )
            if kind == "max":
                same_bits(got + 0, want + 0)
            else:
                # Four overlapping windows of 9 or 27, shares rounded one by one by PyTorch.
                eps = torch.finfo(dtype).eps
                torch.testing.assert_close(got, want, rtol=8 * eps, atol=8 * eps)


def test_minus_infinity_in_channels_last_volumes():
    """Five channels of -inf: the first element of each window, as in the other layout."""
    x = torch.full((1, 5, 4, 4, 4), -inf)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    _, want = F.max_pool3d(x, 2, return_indices=True)
    _, got = IF.max_pool3d(last, 2, return_indices=True)
    assert torch.equal(got, want) and got.flatten()[4].item() == 32


NEW_DTYPES = {
    "max": (torch.bool, torch.uint16, torch.uint32, torch.uint64, *INTEGERS),
    "avg": (torch.uint16, torch.uint32, torch.uint64, *INTEGERS, torch.float16, torch.bfloat16),
}


@pytest.mark.parametrize(
    "kind, dims, dtype",
    [(k, n, d) for k in NEW_DTYPES for n in (1, 2, 3) for d in NEW_DTYPES[k]],
    ids=str,
)
def test_every_dtype(kind, dims, dtype):
    rng = np.random.default_rng(dims)
    top = 2 if dtype == torch.bool else 100
    x = torch.from_numpy(rng.integers(0, top, (2, 3, *(6, 7, 8)[:dims]))).to(dtype)
    got = OURS[f"{kind}_pool{dims}d"](x, 2)
    assert got.dtype == dtype
    wide = THEIRS[f"{kind}_pool{dims}d"](x.double(), 2)
    if kind == "avg" and not dtype.is_floating_point:
        wide = wide.trunc()  # integers truncate, as PyTorch's int64 does
    oracle_value = wide.to(torch.float64)
    if dtype.is_floating_point:
        rtol = torch.finfo(dtype).eps
        torch.testing.assert_close(got.double(), oracle_value, rtol=rtol, atol=0)
    else:
        assert torch.equal(got.to(torch.float64), oracle_value)


def test_int64_averages_truncate_as_pytorch_does():
    x = torch.tensor([[[-5, -2, -1, 0, 5, 2, 1, 0, -1, -1]]])
    want = F.avg_pool1d(x, 2)
    assert torch.equal(IF.avg_pool1d(x, 2), want) and want.tolist() == [[[-3, 0, 3, 0, -1]]]


@pytest.mark.parametrize("before, after", list(itertools.product((0, 1, 4, 7), (0, 2, 5))))
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding_pairs(dims, before, after):
    """Pairs of any size are the pool of a tensor padded by hand."""
    x = torch.from_numpy(
        np.random.default_rng(dims).integers(-9, 0, (2, 3, *(6, 5, 7)[:dims]))
    ).float()
    pairs = [(before, after)] + [(0, 1)] * (dims - 1)
    flat = [v for pair in reversed(pairs) for v in pair]
    name = f"max_pool{dims}d"
    got = OURS[name](x, 3, stride=2, padding=pairs)
    same_bits(got, THEIRS[name](F.pad(x, flat, value=-inf), 3, stride=2))
    name = f"avg_pool{dims}d"
    got = OURS[name](x, 3, stride=2, padding=pairs)
    want = THEIRS[name](F.pad(x, flat), 3, stride=2)
    torch.testing.assert_close(got, want, rtol=27 * 2**-23, atol=27 * 9 * 2**-23)
    ones = F.pad(torch.ones_like(x), flat)
    got = OURS[name](x, 3, stride=2, padding=pairs, count_include_pad=False)
    want = want / THEIRS[name](ones, 3, stride=2)
    torch.testing.assert_close(got, want, rtol=30 * 2**-23, atol=30 * 9 * 2**-23, equal_nan=True)


@pytest.mark.parametrize(
    "size, kernel, stride", list(itertools.product((5, 6, 7), (2, 3, 4), (1, 2, 3)))
)
def test_same_and_valid(size, kernel, stride):
    x = torch.from_numpy(np.random.default_rng(0).integers(-9, 9, (1, 2, size, size + 1))).double()
    a = x.numpy()
    for words in ("same", "valid"):
        named = {"stride": stride, "padding": words}
        got = IF.max_pool2d(x, kernel, **named)
        oracle.assert_pooled(got.numpy(), a, "max", (kernel, kernel), **named)
        got, indices = IF.max_pool2d(x, kernel, **named, return_indices=True)
        want = oracle.pool(a, "max", (kernel, kernel), **named).plane
        np.testing.assert_array_equal(indices.numpy(), want)
        got = IF.avg_pool2d(x, kernel, **named)
        oracle.assert_pooled(got.numpy(), a, "mean", (kernel, kernel), **named)
    assert IF.max_pool2d(x, kernel, stride=stride, padding="same").shape[2] == -(-size // stride)
    same_bits(IF.max_pool2d(x, kernel, padding="valid"), F.max_pool2d(x, kernel))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_dilated_averages(dims):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, *(9, 8, 7)[:dims])))
    got = OURS[f"avg_pool{dims}d"](x, 2, stride=1, dilation=3)
    kernel = (2,) * dims
    oracle.assert_pooled(got.numpy(), x.numpy(), "mean", kernel, stride=1, dilation=3)
    got = OURS[f"avg_pool{dims}d"](x, 2, stride=1, dilation=1)
    same_bits(got, OURS[f"avg_pool{dims}d"](x, 2, stride=1))


@pytest.mark.parametrize("name", [n for n in OURS if "indices" not in n])
def test_autocast(name):
    """What comes out under autocast has PyTorch's dtype."""
    x = torch.ones(1, 2, *(4, 4, 4)[: int(name[-2])])
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert OURS[name](x.to(dtype), 2).dtype == THEIRS[name](x.to(dtype), 2).dtype


@pytest.mark.parametrize("name", [n for n in OURS if "indices" not in n])
def test_empty_batches(name):
    size = (6, 6, 6)[: int(name[-2])]
    for shape in ((0, 3, *size), (0, *size), (2, 0, *size)):
        x = torch.ones(shape, requires_grad=True)
        ours, theirs = _try(OURS[name], x), _try(THEIRS[name], x)
        if isinstance(theirs, Exception):
            assert type(ours) is type(theirs), (shape, ours, theirs)
            continue
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        (got,) = torch.autograd.grad(ours.sum(), x)
        assert got.shape == x.shape


def _try(function, x):
    try:
        return function(x, 2)
    except Exception as error:  # noqa: BLE001 - compared with PyTorch's
        return error


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d", "max_pool3d", "avg_pool3d"])
def test_two_threads_give_the_bits_of_one(name):
    """Forward and backward, large enough to be shared out."""
    size = (130, 140) if name[-2] == "2" else (20, 40, 50)
    g = torch.Generator().manual_seed(0)
    for form in (torch.contiguous_format, FORMATS[len(size) + 2]):
        x = torch.randn(2, 5, *size, generator=g).contiguous(memory_format=form).requires_grad_()
        results = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                y = OURS[name](x, 3, stride=2, padding=1)
                grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
                results.append((y, *torch.autograd.grad(y, x, grad)))
        finally:
            torch.set_num_threads(1)
        for y, back in results[1:]:
            same_bits(y, results[0][0])
            same_bits(back, results[0][1])


def test_inputs_are_left_alone():
    x = torch.rand(2, 3, 8, 8)
    kept = x.clone()
    for name in ("max_pool2d", "avg_pool2d"):
        y = OURS[name](x, 1)
        assert y.data_ptr() != x.data_ptr()
        y.add_(1)
        assert torch.equal(x, kept)

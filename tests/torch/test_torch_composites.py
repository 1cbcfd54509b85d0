"""What is put together of other kinds: whole planes, pyramids, a detector's blocks, blurs."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from torch_compare import FORMATS, same_bits


def _numbers(*shape, dtype=torch.float32):
    """Few different ones, so that there are ties, and exact sums."""
    return torch.from_numpy(np.random.default_rng(sum(shape)).integers(-5, 6, shape)).to(dtype)


# --- a detector's blocks -------------------------------------------------------------------


def _reference(x, kernels, chained=False):
    parts = [x]
    for kernel in kernels:
        parts.append(F.max_pool2d(parts[-1] if chained else x, kernel, 1, kernel // 2))
    return torch.cat(parts, -3)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 16, 20, 20), (1, 3, 13, 40), (3, 7, 5, 2), (2, 1, 1, 1)])
def test_spp_is_a_concatenation_of_pools(shape, dtype, last):
    x = _numbers(*shape, dtype=dtype)
    x[..., 0, 0] = math.nan
    x[-1] = -math.inf
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    for kernels in ((5, 9, 13), (13, 5, 9), (3,), (1, 1), (7, 7, 3)):
        want = _reference(x, kernels)
        same_bits(IF.spp(x, kernels), want)
        assert torch.equal(IF.spp(x[0], kernels).nan_to_num(9), want[0].nan_to_num(9))
        leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, theirs = IF.spp(leaf, kernels), _reference(other, kernels)
        same_bits(y, theirs)
        g = _numbers(*want.shape, dtype=torch.float32).to(dtype)
        y.backward(g)
        theirs.backward(g)
        torch.testing.assert_close(leaf.grad, other.grad, rtol=0, atol=0, equal_nan=True)
    same_bits(inn.SPP()(x), _reference(x, (5, 9, 13)))


@pytest.mark.parametrize("last", [False, True])
def test_sppf_is_a_chain_of_pools(last):
    x = _numbers(2, 6, 15, 17)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    for kernel, repeats in ((5, 3), (3, 1), (1, 2), (7, 4)):
        want = _reference(x, [kernel] * repeats, chained=True)
        same_bits(IF.sppf(x, kernel, repeats), want)
        leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, theirs = IF.sppf(leaf, kernel, repeats), _reference(other, [kernel] * repeats, True)
        g = _numbers(*want.shape)
        y.backward(g)
        theirs.backward(g)
        assert torch.equal(leaf.grad, other.grad), "ties take the way of the chain"
    same_bits(inn.SPPF()(x), IF.spp(x))


def test_spp_of_sliced_inputs_and_on_threads():
    wide = _numbers(2, 8, 60, 62)
    for x in (wide[:, 1:6, ::2, 3:], wide.transpose(2, 3), wide[:1].expand(3, -1, -1, -1)):
        kept = x.clone()
        assert torch.equal(IF.spp(x), _reference(x.contiguous(), (5, 9, 13)))
        assert torch.equal(x, kept)
    with torch.no_grad():
        torch.set_num_threads(3)
        try:
            same_bits(IF.spp(wide.requires_grad_()), _reference(wide, (5, 9, 13)))
        finally:
            torch.set_num_threads(1)
    assert IF.spp(wide[:0].detach()).shape == (0, 32, 60, 62)
    meta = IF.spp(wide.to("meta"))
    assert meta.shape == (2, 32, 60, 62) and meta.device.type == "meta"
    batched = torch.func.vmap(IF.spp)(wide.detach()[None])
    assert torch.equal(batched[0], IF.spp(wide.detach()))


@pytest.mark.parametrize(
    "function, arguments, error",
    [
        (IF.spp, ((4,),), RuntimeError),
        (IF.spp, ((0,),), RuntimeError),
        (IF.spp, ((-3,),), RuntimeError),
        (IF.spp, ((),), RuntimeError),
        (IF.spp, (5,), TypeError),
        (IF.spp, ((5.0,),), TypeError),
        (IF.spp, ((2**62 + 1,),), RuntimeError),
        (IF.sppf, (4,), RuntimeError),
        (IF.sppf, (5, 0), RuntimeError),
        (IF.sppf, (5, 2.0), TypeError),
        (IF.sppf, ("5",), TypeError),
    ],
)
def test_spp_refuses(function, arguments, error):
    for leaf in (torch.rand(1, 2, 9, 9), torch.rand(1, 2, 9, 9, requires_grad=True)):
        with pytest.raises(error, match=function.__name__):
            function(leaf, *arguments)
    for x in (torch.rand(9, 9), torch.rand(1, 1, 1, 9, 9), torch.rand(1, 2, 0, 9)):
        for leaf in (x, x.clone().requires_grad_()):
            with pytest.raises((RuntimeError, IndexError)):
                function(leaf)
    with pytest.raises(TypeError, match="Tensor"):
        function(None)


# --- pyramids ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pyramids_have_one_length(dims, mode):
    for size in ((9, 13, 11), (4, 4, 4), (31, 5, 6)):
        x = _numbers(2, 3, *size[:dims], dtype=torch.float64).requires_grad_()
        pool = functools.partial(getattr(F, f"adaptive_{mode}_pool{dims}d"), x)
        want = torch.cat([pool(level).flatten(1) for level in (1, 2, 4)], 1)
        got = IF.spatial_pyramid_pool(x, mode=mode)
        assert got.shape == (2, 3 * sum(n**dims for n in (1, 2, 4)))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        a, b = (torch.autograd.grad(y, x, torch.ones_like(y))[0] for y in (got, want))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        module = inn.SpatialPyramidPool([3, (2, 1, 4)[:dims]], mode)
        assert module(x).shape == (2, 3 * (3**dims + math.prod((2, 1, 4)[:dims])))


def test_pyramids_refuse():
    x = torch.rand(2, 3, 3, 9)
    for levels, error in (
        ((1, 4), RuntimeError),
        ((0,), RuntimeError),
        ((-1,), RuntimeError),
        ((), RuntimeError),
        (((2, 2, 2),), RuntimeError),
        ((2.0,), TypeError),
        (("2",), TypeError),
        ((True,), TypeError),
        (2, TypeError),
        ((2**62,), RuntimeError),
    ):
        with pytest.raises(error, match="spatial_pyramid_pool: levels"):
            IF.spatial_pyramid_pool(x, levels)
    with pytest.raises(RuntimeError, match="mode"):
        IF.spatial_pyramid_pool(x, mode="median")
    with pytest.raises(RuntimeError, match="shape"):
        IF.spatial_pyramid_pool(x[0, 0])


# --- whole planes --------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_whole_planes(dims, last):
    x = _numbers(2, 5, *(9, 8, 7)[:dims], dtype=torch.float64)
    if last and dims > 1:
        x = x.contiguous(memory_format=FORMATS[dims + 2])
    x.requires_grad_()
    mean, largest = x.flatten(2).mean(2), x.flatten(2).amax(2)
    for name, module, want in (
        ("global_avg_pool", inn.GlobalAvgPool, mean),
        ("global_max_pool", inn.GlobalMaxPool, largest),
        ("global_avg_max_pool", inn.GlobalAvgMaxPool, (mean + largest) / 2),
        ("global_cat_avg_max_pool", inn.GlobalCatAvgMaxPool, torch.cat([mean, largest], 1)),
    ):
        flat = getattr(IF, name)(x, flatten=True)
        torch.testing.assert_close(flat, want, rtol=1e-12, atol=1e-12)
        kept = getattr(IF, name)(x)
        assert kept.shape == (*want.shape, *(1,) * dims)
        assert torch.equal(module()(x), kept) and torch.equal(module(flatten=True)(x), flat)
        assert repr(module()) == f"{module.__name__}(flatten=False)"
    y = IF.global_avg_pool(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, torch.full_like(g, 1 / math.prod(x.shape[2:])))
    unique = torch.rand(2, 5, *(9, 8, 7)[:dims], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(IF.global_cat_avg_max_pool, (unique,), fast_mode=True)
    for bad in (x[0, 0], x.reshape(-1), x[None, None]):
        if bad.ndim not in (3, 4, 5):
            with pytest.raises(RuntimeError, match="global_avg_max_pool"):
                IF.global_avg_max_pool(bad)
    with pytest.raises(TypeError, match="flatten"):
        IF.global_avg_pool(x, 1)


# --- blurs ---------------------------------------------------------------------------------

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _blurred(x, kernel, stride, padding):
    dims = x.ndim - 2
    row = torch.tensor([math.comb(kernel - 1, i) for i in range(kernel)], dtype=x.dtype)
    weights = row / 2 ** (kernel - 1)
    for _ in range(dims - 1):
        weights = weights[..., None] * row / 2 ** (kernel - 1)
    ends = [(kernel - 1) // 2, kernel // 2] * dims
    mode = {"zeros": "constant"}.get(padding, padding)
    flat = F.pad(x, ends, mode).flatten(0, 1)[:, None]
    return _CONV[dims](flat, weights[None, None], stride=stride).unflatten(0, x.shape[:2])[:, :, 0]


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zeros"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_blur_is_a_binomial_filter(dims, kernel, padding):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, *(9, 8, 7)[:dims])))
    x.requires_grad_()
    blur = getattr(IF, f"blur_pool{dims}d")
    for stride in (1, 2, 3):
        got, want = blur(x, kernel, stride, padding), _blurred(x, kernel, stride, padding)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert got.shape[2:] == tuple(-(-n // stride) for n in x.shape[2:])
        a, b = (torch.autograd.grad(y, x, want)[0] for y in (got, want))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        module = getattr(inn, f"BlurPool{dims}d")(kernel, stride, padding)
        same_bits(module(x), got)
        same_bits(blur(x[0], kernel, stride, padding), got[0])
    assert repr(module) == (f"BlurPool{dims}d(kernel_size={kernel}, stride=3, padding={padding!r})")
    for half in (torch.float16, torch.bfloat16):
        low = blur(x.detach().to(half), kernel, 2, padding)
        assert low.dtype == half
        torch.testing.assert_close(
            low.double(), _blurred(x.detach().to(half).double(), kernel, 2, padding), rtol=0.01,
            atol=0.01,
        )  # fmt: skip


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_max_blur(dims):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, *(9, 8, 7)[:dims])))
    largest, both = (getattr(IF, f"{k}_pool{dims}d") for k in ("max", "max_blur"))
    want = _blurred(largest(x, 3, 1, 1), 3, 2, "reflect")
    torch.testing.assert_close(both(x, 3, 2, 1), want)
    module = getattr(inn, f"MaxBlurPool{dims}d")(2, blur_size=5, blur_padding="zeros")
    torch.testing.assert_close(module(x), _blurred(largest(x, 2, 1), 5, 2, "zeros"))
    assert repr(module) == (
        f"MaxBlurPool{dims}d(kernel_size=2, stride=2, padding=0, blur_size=5, blur_padding='zeros')"
    )
    leaf = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: both(t, 2), (leaf,), fast_mode=True)
    moved = [both(torch.roll(x, k, -1), 2)[..., 1:3] for k in (0, 2)]
    assert moved[0].shape == moved[1].shape


def test_blur_refuses():
    x = torch.rand(1, 1, 4, 4)
    for arguments, error, word in (
        ((0,), RuntimeError, "kernel_size=0"),
        ((3, 0), RuntimeError, "stride=0"),
        ((9,), RuntimeError, "reflect"),
        ((3, 2, "mirror"), RuntimeError, "mirror"),
        ((3, 2, 1), TypeError, "padding=1"),
        ((2.5,), TypeError, "kernel_size=2.5"),
        ((3, "2"), TypeError, "stride='2'"),
    ):
        with pytest.raises(error, match=word):
            IF.blur_pool2d(x, *arguments)
    with pytest.raises(NotImplementedError, match="blur_pool2d"):
        IF.blur_pool2d(x.long())
    for bad in (x[0, 0], x[None], x[:, :, :0]):
        with pytest.raises(RuntimeError, match="blur_pool2d"):
            IF.blur_pool2d(bad)
    with pytest.raises(TypeError, match="Tensor"):
        IF.blur_pool2d([1.0])

"""The PyTorch functions: the mask that the seed says, on every way through autograd."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from philox import keep

import infinitypool.nn.functional as IF

ELEMENTS = ("dropout", "alpha_dropout")
CHANNELS = ("dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout")
ALL = (*ELEMENTS, *CHANNELS)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SHAPES = {"dropout1d": (4, 6, 9), "dropout3d": (2, 5, 3, 4, 5)}
ALPHA = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717  # SELU's two


def ours(name):
    return getattr(IF, name)


def shape_of(name):
    return SHAPES.get(name, (3, 7, 5, 9))


def next_seed(generator=None):
    """The seed that the next call will draw, leaving the generator as it is."""
    generator = torch.default_generator if generator is None else generator
    state = generator.get_state()
    seed = torch.randint(-(2**63), 2**63 - 1, (), generator=generator).item()
    generator.set_state(state)
    return seed


def numbers(name, p):
    """(factor, added) of what is kept, and what is added to what is dropped."""
    if "alpha" not in name:
        return 1 / (1 - p), 0.0, 0.0
    a = 1 / math.sqrt((1 - p) * (1 + p * ALPHA**2))
    b = a * p * ALPHA
    return a, b, b - a * ALPHA


def mask_of(name, x, p, seed, order=None):
    """The mask in the shape of x; elements follow memory in this order of axes, outermost first."""
    if name in CHANNELS:
        flat = keep(x.shape[0] * x.shape[1], p, seed)
        mask = torch.from_numpy(flat).view(*x.shape[:2], *[1] * (x.ndim - 2))
        return mask.expand(x.shape)
    order = list(range(x.ndim)) if order is None else order
    flat = torch.from_numpy(keep(x.numel(), p, seed)).view([x.shape[axis] for axis in order])
    return flat.permute([order.index(axis) for axis in range(x.ndim)])


def expected(name, x, p, mask):
    """In float64, and rounded to float32 after each step where the kernel computes in that."""
    scale, kept, dropped = numbers(name, p)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    one = {"dtype": torch.float64}
    factor = torch.where(mask, torch.tensor(scale, **one), torch.tensor(0.0, **one)).to(wide)
    added = torch.where(mask, torch.tensor(kept, **one), torch.tensor(dropped, **one)).to(wide)
    y = x.detach().to(wide) * factor
    return (y + added if kept or dropped else y).to(x.dtype)


def same(a, b):
    """Up to the order in which the numbers of alpha dropout were computed."""
    assert a.shape == b.shape and a.dtype == b.dtype
    eps = torch.finfo(a.dtype).eps
    torch.testing.assert_close(a, b, rtol=4 * eps, atol=4 * eps, equal_nan=True)
    assert torch.equal(a == 0, b == 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_forward_and_backward(name, dtype):
    for p, requires in itertools.product((0.1, 0.5, 0.93), (False, True)):
        x = torch.randn(shape_of(name)).to(dtype).requires_grad_(requires)
        torch.manual_seed(int(1000 * p))
        seed = next_seed()
        y = ours(name)(x, p, True)
        mask = mask_of(name, x, p, seed)
        same(y.detach(), expected(name, x, p, mask))
        assert y.requires_grad == requires and y.stride() == x.stride()
        if requires:
            grad = torch.randn_like(x)
            (got,) = torch.autograd.grad(y, x, grad)
            scale, *_ = numbers(name, p)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            factor = torch.where(mask, torch.tensor(scale, dtype=torch.float64), 0.0)
            same(got, (grad.to(wide) * factor.to(wide)).to(dtype))
            assert torch.equal(got != 0, mask & (grad != 0))


@pytest.mark.parametrize("name, shape", [("dropout1d", (500, 3)), ("dropout3d", (500, 2, 3, 1))])
def test_channels_without_a_batch(name, shape):
    for inplace in (False, True):
        x = torch.ones(shape, requires_grad=True)
        seed = next_seed()
        y = ours(name)(x * 1, 0.4, True, inplace)
        mask = torch.from_numpy(keep(500, 0.4, seed)).view(500, *[1] * (x.ndim - 1)).expand(shape)
        torch.testing.assert_close(y.detach(), torch.where(mask, 1 / 0.6, 0.0))
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("name", ALL)
def test_every_call_draws_anew_and_manual_seed_repeats(name):
    x = torch.ones(16, 64, 2, 2)
    if name in SHAPES:
        x = x[..., 0] if name == "dropout1d" else x[..., None]
    torch.manual_seed(5)
    first, second = (ours(name)(x, 0.5, True) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(ours(name)(x, 0.5, True), first)
    generator = torch.Generator().manual_seed(77)
    state = torch.get_rng_state()
    seed = next_seed(generator)
    got = ours(name)(x, 0.5, True, generator=generator)
    assert torch.equal(torch.get_rng_state(), state), "PyTorch's own is left alone"
    same(got, expected(name, x, 0.5, mask_of(name, x, 0.5, seed)))
    assert not torch.equal(ours(name)(x, 0.5, True, generator=generator), got)
    generator.manual_seed(77)
    assert torch.equal(ours(name)(x, 0.5, True, generator=generator), got)


def test_nothing_but_the_seed_is_drawn():
    """Also where PyTorch draws nothing."""
    x = torch.ones(100)
    for name in ELEMENTS:
        for p, training in ((0.0, True), (1.0, True), (0.5, False)):
            state = torch.get_rng_state()
            ours(name)(x, p, training)
            assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ALL)
def test_nothing_but_a_seed_is_kept_for_backward(name):
    x = torch.randn(shape_of(name), requires_grad=True)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        y = ours(name)(x, 0.5, True)
        z = IF.dropout_add(x, x, 0.5)
        w = ours(name)(x * 1.0, 0.5, True, True)
        (y.sum() + z.sum() + w.sum()).backward(retain_graph=True)
    kept = [*packed, *(t for one in (y, z, w) for t in one.grad_fn.saved_tensors)]
    assert all(t.shape == () and t.dtype == torch.int64 for t in kept)


# --- layouts -------------------------------------------------------------------------------


def _layouts():
    x = torch.randn(4, 6, 5, 8)
    yield "contiguous", x, [0, 1, 2, 3]
    yield "channels last", x.to(memory_format=torch.channels_last), [0, 2, 3, 1]
    yield "permuted", x.permute(3, 1, 0, 2), [2, 1, 3, 0]
    yield "every second", torch.randn(4, 6, 5, 16)[..., ::2], [0, 1, 2, 3]
    yield "channels last, every second", torch.randn(4, 10, 8, 6)[:, ::2].permute(0, 3, 1, 2), None
    yield "expanded", torch.randn(4, 6, 1, 8).expand(4, 6, 5, 8), [0, 1, 2, 3]
    yield "flipped", x.flip(0)[1:], [0, 1, 2, 3]
    yield "a view that starts inside", torch.randn(5, 6, 5, 8)[1:], [0, 1, 2, 3]


LAYOUTS = {name: (x, order) for name, x, order in _layouts()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [n for n in ALL if n not in SHAPES])
def test_layouts(name, layout):
    """Results are laid out as PyTorch's, and elements are numbered in that order."""
    x, order = LAYOUTS[layout]
    like = torch.empty_like(x)
    if order is None:
        order = sorted(range(4), key=lambda axis: -like.stride(axis))
    seed = next_seed()
    y = ours(name)(x, 0.4, True)
    assert y.stride() == getattr(F, name)(x, 0.4, True).stride() == like.stride()
    seed = next_seed()
    y = ours(name)(x, 0.4, True)
    same(y, expected(name, x, 0.4, mask_of(name, x, 0.4, seed, order)))


@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "every second", "expanded"])
@pytest.mark.parametrize("name", [n for n in ALL if n not in SHAPES])
def test_gradients_of_another_layout(name, layout, grad_layout):
    """An element's gradient meets that element's draw, wherever it lies."""
    x = LAYOUTS[layout][0].detach().clone(memory_format=torch.preserve_format)
    if layout == "expanded":
        x = x[:, :, :1].expand(4, 6, 5, 8)
    x.requires_grad_()
    grad = LAYOUTS[grad_layout][0]
    grad = torch.randn(4, 6, 5, 8) if grad.shape != x.shape else grad
    y = ours(name)(x, 0.4, True)
    scale, kept, _ = numbers(name, 0.4)
    mask = (y - x * scale - kept).abs() < 1e-5
    (got,) = torch.autograd.grad(y, x, grad)
    assert torch.equal(got != 0, mask)
    torch.testing.assert_close(got, torch.where(mask, grad * scale, 0.0))
    assert torch.autograd.grad(ours(name)(x, 0.4, True).sum(), x)[0].shape == x.shape


def test_gradient_of_a_sum():
    """An expanded gradient, of stride 0."""
    x = torch.randn(300, requires_grad=True)
    y = IF.dropout(x, 0.5)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 2.0))


# --- in place ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_in_place(name):
    x = torch.randn(shape_of(name))
    for dtype in DTYPES:
        y = x.to(dtype).clone()
        before, version, seed = y.clone(), y._version, next_seed()
        assert ours(name)(y, 0.4, True, True) is y
        assert y._version > version
        same(y, expected(name, before, 0.4, mask_of(name, before, 0.4, seed)))
    leaf = x.clone().requires_grad_()
    inner = leaf * 2
    seed = next_seed()
    out = ours(name)(inner, 0.4, True, inplace=True)
    assert out is inner
    grad = torch.randn_like(x)
    out.backward(grad)
    mask = mask_of(name, x, 0.4, seed)
    scale, *_ = numbers(name, 0.4)
    torch.testing.assert_close(leaf.grad, torch.where(mask, 2 * scale * grad, 0.0))
    same(inner.detach(), expected(name, 2 * x, 0.4, mask))


@pytest.mark.parametrize("name", ALL)
def test_in_place_where_it_must_not_be(name):
    """As PyTorch, and before anything is written."""
    leaf = torch.randn(shape_of(name), requires_grad=True)
    before = leaf.detach().clone()
    for function in (getattr(F, name), ours(name)):
        for p in (0.5, 1.0):
            with pytest.raises(RuntimeError, match="leaf"):
                function(leaf, p, True, True)
        with pytest.raises(RuntimeError, match="leaf"):
            function(leaf[:], 0.5, True, True)
        assert torch.equal(leaf.detach(), before)
        assert function(leaf, 0.5, False, True) is leaf
        expanded = torch.ones(shape_of(name)[:-1] + (1,)).expand(shape_of(name))
        with pytest.raises(RuntimeError, match="single memory location"):
            function(expanded, 0.5, True, True)
        square = (leaf * 1).exp()  # which keeps its result
        function(square, 0.5, True, True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            square.sum().backward()
    with torch.no_grad():
        assert ours(name)(leaf, 0.5, True, True) is leaf
    with torch.inference_mode():
        x = torch.randn(shape_of(name))
        assert ours(name)(x, 0.5, True, True) is x and x.is_inference()


def test_in_place_in_a_view():
    leaf = torch.randn(6, 40, requires_grad=True)
    inner = leaf * 1
    seed = next_seed()
    part = inner[1:4]
    out = IF.dropout(part, 0.5, True, True)
    mask = torch.ones(6, 40, dtype=torch.bool)
    mask[1:4] = torch.from_numpy(keep(120, 0.5, seed)).view(3, 40)
    scale = torch.ones(6, 40)
    scale[1:4] = 2
    torch.testing.assert_close(inner.detach(), torch.where(mask, leaf * scale, 0.0).detach())
    inner.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.where(mask, scale, 0.0))
    assert out.shape == (3, 40)
    columns = torch.randn(6, 40)
    before = columns.clone()
    seed = next_seed()
    IF.dropout(columns[:, ::2], 0.5, True, True)
    kept = torch.from_numpy(keep(120, 0.5, seed)).view(6, 20)
    torch.testing.assert_close(columns[:, ::2], torch.where(kept, 2 * before[:, ::2], 0.0))
    assert torch.equal(columns[:, 1::2], before[:, 1::2])


# --- derivatives ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_gradcheck(name):
    shape = {"dropout1d": (2, 3, 4), "dropout3d": (2, 3, 2, 1, 2)}.get(name, (2, 3, 2, 2))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def function(x, inplace=False):
        generator = torch.Generator().manual_seed(6)
        return ours(name)(x * 1.0 if inplace else x, 0.5, True, inplace, generator=generator)

    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, True), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, x, check_fwd_over_rev=True)
    assert torch.autograd.gradgradcheck(lambda x: function(x, True), x)
    last = x.detach().clone()
    if last.ndim == 4:
        last = last.to(memory_format=torch.channels_last).requires_grad_()
        assert torch.autograd.gradcheck(function, last, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, last)


def test_gradcheck_with_a_residual():
    x, residual = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in "12")

    def function(x, residual):
        generator = torch.Generator().manual_seed(6)
        return IF.dropout_add(x, residual, 0.5, generator=generator)

    for a, b in ((x, residual), (x.detach(), residual), (x, residual.detach())):
        assert torch.autograd.gradcheck(function, (a, b), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, (a, b))


def test_forward_mode_has_the_same_mask():
    x, tangent = torch.randn(500), torch.randn(500)
    torch.manual_seed(1)
    want = IF.dropout(x, 0.3)
    with torch.autograd.forward_ad.dual_level():
        torch.manual_seed(1)
        y = IF.dropout(torch.autograd.forward_ad.make_dual(x, tangent), 0.3)
        primal, moved = torch.autograd.forward_ad.unpack_dual(y)
        assert torch.equal(primal, want)
        torch.testing.assert_close(moved, torch.where(want == 0, 0.0, tangent / 0.7))


@pytest.mark.parametrize("name", ALL)
def test_transforms(name):
    x = torch.randn(5, *shape_of(name))
    function, leaf = ours(name), x[0].clone().requires_grad_()
    torch.manual_seed(2)
    (want,) = torch.autograd.grad(function(leaf, 0.5, True).sum(), leaf)
    torch.manual_seed(2)
    got = torch.func.grad(lambda x: function(x, 0.5, True).sum())(x[0])
    torch.testing.assert_close(got, want)
    for randomness in ("same", "different"):
        y = torch.func.vmap(lambda x: function(x, 0.5, True), randomness=randomness)(x.abs() + 1)
        assert y.shape == x.shape
        masks = y < y.max() * 0 if "alpha" in name else y == 0
        assert (randomness == "same") == bool((masks == masks[:1]).all())
    with pytest.raises(RuntimeError):
        torch.func.vmap(lambda x: function(x, 0.5, True))(x)
    generator = torch.Generator().manual_seed(3)
    y = torch.func.grad(lambda x: function(x, 0.5, True, generator=generator).sum())(x[0])
    assert y.shape == x[0].shape and 0 < (y == 0).float().mean() < 1


def test_vectorised_jacobian():
    x = torch.randn(7, 3, requires_grad=True)
    generator = torch.Generator()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: IF.dropout(x, 0.5, generator=generator.manual_seed(9)), x, vectorize=True
    )
    y = IF.dropout(torch.ones(7, 3), 0.5, generator=generator.manual_seed(9))
    torch.testing.assert_close(jacobian.view(21, 21), torch.diag(y.flatten()))


def test_checkpoint_and_no_grad():
    from torch.utils.checkpoint import checkpoint

    x = torch.randn(400, requires_grad=True)
    y = checkpoint(lambda x: IF.dropout(x, 0.5) * x, x, use_reentrant=False)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, 4 * x.detach()))
    with torch.no_grad():
        assert not IF.dropout(x).requires_grad


# --- the residual --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_add(dtype):
    x, residual = (torch.randn(4, 6, 5, 8).to(dtype) for _ in "12")
    for a, b in itertools.product(
        (x, x.to(memory_format=torch.channels_last), x.flip(3)[..., ::2]), (residual,)
    ):
        for b in (residual, residual.to(memory_format=torch.channels_last)):
            b = b[..., : a.shape[3]]
            order = [0, 2, 3, 1] if a.stride(1) == 1 else None
            seed = next_seed()
            mask = mask_of("dropout", a, 0.3, seed, order)
            a_, b_ = a.clone().requires_grad_(), b.clone().requires_grad_()
            got = IF.dropout_add(a_, b_, 0.3)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            factor = torch.where(mask, torch.tensor(1 / 0.7, dtype=torch.float64), 0.0).to(wide)
            assert torch.equal(got, (a.to(wide) * factor + b.to(wide)).to(dtype))
            grad = torch.randn_like(a)
            for_x, for_residual = torch.autograd.grad(got, (a_, b_), grad)
            assert torch.equal(for_x, (grad.to(wide) * factor).to(dtype))
            assert torch.equal(for_residual, grad)
    torch.manual_seed(3)
    want = IF.dropout(x, 0.3) if dtype.itemsize > 2 else None
    torch.manual_seed(3)
    got = IF.dropout_add(x, residual, 0.3)
    assert want is None or torch.equal(got, want + residual)
    assert torch.equal(IF.dropout_add(x, residual, 0.3, False), x + residual)
    assert torch.equal(IF.dropout_add(x, residual, 0.0), x + residual)
    assert torch.equal(IF.dropout_add(x, residual, 1.0), x * 0 + residual)


def test_residuals_of_another_kind():
    x = torch.randn(4, 6)
    for residual in (torch.randn(6), torch.randn(4, 1), torch.tensor(2.0), torch.ones(4, 6).int(),
                     torch.randn(3, 4, 6), torch.randn(4, 6).double()):  # fmt: skip
        torch.manual_seed(4)
        want = IF.dropout(x) + residual
        torch.manual_seed(4)
        got = IF.dropout_add(x, residual)
        assert torch.equal(got, want) and got.dtype == want.dtype
    with pytest.raises(RuntimeError):
        IF.dropout_add(x, torch.randn(5))
    for wrong in (None, 2.0, [1.0], np.ones((4, 6))):
        with pytest.raises(TypeError):
            IF.dropout_add(x, wrong)
    empty = torch.empty(0, 6)
    assert IF.dropout_add(empty, empty).shape == (0, 6)

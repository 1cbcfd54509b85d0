"""Gradients: against PyTorch, by finite differences, and what is kept for them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
import oracle
from torch_compare import FORMATS, OURS, THEIRS, same_bits

SIZES = (6, 5, 4)
GRADCHECKS = [
    (f"{kind}_pool{dims}d", dims, named)
    for dims in (1, 2, 3)
    for kind, forms in {
        "max": (
            {"kernel_size": 2},
            {"kernel_size": 3, "stride": 2, "padding": 1},
            {"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True},
            {"kernel_size": 2, "stride": 1, "dilation": 2},
            {"kernel_size": 3, "stride": 3, "padding": [(2, 1)] * dims},
            {"kernel_size": 3, "stride": 2, "padding": "same"},
        ),
        "avg": (
            {"kernel_size": 2},
            {"kernel_size": 3, "stride": 2, "padding": 1},
            {
                "kernel_size": 3,
                "stride": 2,
                "padding": 1,
                "ceil_mode": True,
                "count_include_pad": False,
            },
            {"kernel_size": 2, "stride": 1, "dilation": 2},
            {"kernel_size": 2, "stride": 3, "padding": [(2, 1)] * dims},
            {"kernel_size": 3, "stride": 2, "padding": "same"},
            {"kernel_size": 2, "stride": 1, **({"divisor_override": 3} if dims > 1 else {})},
        ),
    }.items()
    for named in forms
]


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("name, dims, named", GRADCHECKS, ids=str)
def test_gradcheck(name, dims, named, layout):
    shape = (1, 2, *SIZES[:dims])
    # Distinct values, further apart than the finite difference: no ties to step over.
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float64)) / 7
    if layout == "channels last":
        if dims == 1:
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        else:
            x = x.contiguous(memory_format=FORMATS[dims + 2])
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: OURS[name](t, **named), (x,))
    if name.startswith("max"):
        function = OURS[f"{name}_with_indices"]
        assert torch.autograd.gradcheck(lambda t: function(t, **named)[0], (x,))


def _incoming(y, kind, rng):
    """Gradients of small integers, under the strides that autograd really delivers."""
    g = torch.from_numpy(rng.integers(-3, 4, y.shape)).to(y.dtype)
    if kind == "expanded":
        return g.flatten()[:1].reshape([1] * y.ndim).expand(y.shape)
    if kind == "expanded batch":
        return g[:1].expand(y.shape)
    if kind == "transposed":
        return g.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == "sliced":
        wide = torch.full([2 * n for n in y.shape], float("nan"), dtype=y.dtype)
        part = wide[tuple(slice(0, None, 2) for _ in y.shape)]
        part.copy_(g)
        return part
    return g


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", ["max", "avg"])
@given(data=st.data())
def test_against_pytorch(kind, dims, data):
    draw = data.draw
    kernel = [draw(st.integers(1, 4)) for _ in range(dims)]
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    named = {
        "stride": [draw(st.integers(1, 3)) for _ in kernel],
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }
    dilation = [1] * dims
    if kind == "max":
        dilation = named["dilation"] = [draw(st.sampled_from((1, 1, 2))) for _ in kernel]
    else:
        named["count_include_pad"] = draw(st.booleans())
        if dims > 1:
            named["divisor_override"] = draw(st.none() | st.sampled_from((2, 5)))
    # At least a whole window: PyTorch's backward writes out of bounds where one is empty.
    shape = (
        2,
        draw(st.sampled_from((1, 3, 17))),
        *(d * (k - 1) + 1 + draw(st.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True)),
    )
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(-4, 5, shape)).float()
    special = kind == "max" and draw(st.booleans())
    if special:
        x[torch.from_numpy(rng.random(shape) < 0.3)] = float("nan")
        x[torch.from_numpy(rng.random(shape) < 0.3)] = -float("inf")
    # (PyTorch's channels-last volumes give windows of nothing but -inf a wrong winner.)
    if dims > 1 and not (special and dims == 3) and draw(st.booleans()):
        x = x.contiguous(memory_format=FORMATS[dims + 2])
    x.requires_grad_()
    name = f"{kind}_pool{dims}d"
    ours, theirs = OURS[name](x, kernel, **named), THEIRS[name](x, kernel, **named)
    form = draw(st.sampled_from(("plain", "expanded", "expanded batch", "transposed", "sliced")))
    g = _incoming(theirs, form, rng)
    (got,) = torch.autograd.grad(ours, x, g)
    (want,) = torch.autograd.grad(theirs, x, g)
    note = f"{name} {tuple(shape)} {kernel} {named} gradient {form} seed {seed}"
    if kind == "max":
        same_bits(got + 0, want + 0, note)
    else:
        assert got.shape == want.shape and got.dtype == want.dtype, note
        exact = oracle.gradient(
            x.detach().numpy(),
            g.contiguous().numpy(),
            "mean",
            kernel,
            axes=tuple(range(-dims, 0)),
            **{k: v for k, v in named.items() if v is not None},
        )
        # Each of the at most prod(kernel) shares is at most 3, rounded once, and added once.
        bound = 3 * int(np.prod(kernel)) * 2 * 2.0**-23
        np.testing.assert_allclose(got.numpy(), exact, rtol=0, atol=bound, err_msg=note)
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=2 * bound, err_msg=note)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_other_floats(dims, dtype, last):
    """Integer gradients, a divisor of four or eight: exact in every dtype."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.integers(-4, 5, (2, 5, *(8, 9, 7)[:dims])))
    results = []
    for kind in (dtype, torch.float32):
        x = values.to(kind)
        if last and dims > 1:
            x = x.contiguous(memory_format=FORMATS[dims + 2])
        x.requires_grad_()
        for pool in ("max", "avg"):
            y = OURS[f"{pool}_pool{dims}d"](x, 2, stride=1)
            g = torch.from_numpy(np.random.default_rng(1).integers(-3, 4, y.shape)).to(kind)
            results.append((y, torch.autograd.grad(y, x, g)[0]))
    half = len(results) // 2
    for (y, got), (wide, want) in zip(results[:half], results[half:], strict=True):
        assert got.dtype == dtype
        assert torch.equal(got.float(), want), "sums of eighths below 27 fit every significand"
        assert torch.equal(y.float(), wide.to(dtype).float())


def _saved(function, x):
    """Bytes kept for backward, as the graph's hooks see them, and the result."""
    total = 0

    def pack(t):
        nonlocal total
        total += t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(x)
    return total, y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kernel, width", [(1, 1), (2, 1), (3, 1), (16, 1), (17, 2)])
@pytest.mark.parametrize("indices", [False, True])
def test_bytes_kept_for_max(indices, kernel, width, last):
    x = torch.rand(2, 3, 40, 40)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    total, y = _saved(lambda t: IF.max_pool2d(t, kernel, stride=2, return_indices=indices), x)
    assert 0 < total <= width * y.numel()
    (got,) = torch.autograd.grad(y.sum(), x)
    (want,) = torch.autograd.grad(F.max_pool2d(x, kernel, stride=2).sum(), x)
    same_bits(got, want)


def test_bytes_kept_elsewhere():
    x = torch.rand(2, 3, 12, 12, 12, requires_grad=True)
    total, y = _saved(lambda t: IF.max_pool3d(t, 3), x)
    assert 0 < total <= y.numel()
    total, y = _saved(lambda t: IF.max_pool1d(t, 3), x[:, :, 0, 0])
    assert 0 < total <= y.numel()
    assert _saved(lambda t: inn.MaxPool2d(2)(t), x[:, :, 0])[0] <= 2 * 3 * 36


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_average_keeps_nothing(dims):
    x = torch.rand(2, 3, *(12, 12, 12)[:dims], requires_grad=True)
    total, y = _saved(lambda t: OURS[f"avg_pool{dims}d"](t, 3), x)
    assert total == 0
    (got,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(got, torch.full_like(got, 3.0**-dims), rtol=1e-6, atol=0)


def test_the_counting_sees_what_pytorch_keeps():
    """The measure itself: PyTorch keeps input and int64 indices."""
    x = torch.rand(2, 3, 40, 40, requires_grad=True)
    total, y = _saved(lambda t: F.max_pool2d(t, 2), x)
    assert total >= x.numel() * 4 + y.numel() * 8


def test_without_gradient_nothing_is_kept():
    x = torch.rand(2, 3, 40, 40)
    assert _saved(lambda t: IF.max_pool2d(t, 2), x)[0] == 0
    with torch.no_grad():
        y = IF.max_pool2d(x.requires_grad_(), 2)
    assert not y.requires_grad
    with torch.inference_mode():
        assert IF.max_pool2d(x, 2).shape == (2, 3, 20, 20)


def _input_survives(function):
    x = torch.rand(2, 3, 40, 40, requires_grad=True) * 1.0
    storage = StorageWeakRef(x.untyped_storage())
    y = function(x)
    del x
    gc.collect()
    alive = not storage.expired()
    y.sum().backward()
    return alive


def test_the_input_is_not_kept_alive():
    assert not _input_survives(lambda t: IF.max_pool2d(t, 2))
    assert not _input_survives(lambda t: IF.avg_pool2d(t, 2))
    assert not _input_survives(lambda t: IF.max_pool2d(t, 2, return_indices=True)[0])
    assert _input_survives(lambda t: F.max_pool2d(t, 2)), "the measure no longer measures"


def test_indices_take_no_gradient():
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    values, indices = IF.max_pool2d(x, 2, return_indices=True)
    assert values.requires_grad and not indices.requires_grad
    assert indices.grad_fn is None or not indices.requires_grad


def test_windows_without_an_element_send_nothing_back():
    x = torch.rand(1, 1, 2, 2, requires_grad=True)
    y = IF.max_pool2d(x, 2, stride=1, padding=[(3, 0), (0, 3)])
    assert y[0, 0, 0, 0].item() == -float("inf")
    y.backward(torch.ones_like(y))
    want = oracle.gradient(
        x.detach().numpy(), np.ones(y.shape), "max", (2, 2), stride=1, padding=((3, 0), (0, 3))
    )
    np.testing.assert_array_equal(x.grad.numpy(), want)


def test_backward_twice_and_accumulation():
    x = torch.rand(1, 2, 6, 6, requires_grad=True)
    y = IF.max_pool2d(x, 2)
    y.sum().backward(retain_graph=True)
    once = x.grad.clone()
    y.sum().backward()
    assert torch.equal(x.grad, 2 * once)


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_second_derivatives_are_right_or_refused(name):
    """Never silently absent: the derivative of the gradient by the incoming one."""
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    v = torch.rand(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)

    def second(function):
        (g,) = torch.autograd.grad(function(x, 2), x, v, create_graph=True)
        weights = torch.arange(16.0, dtype=torch.float64).reshape(1, 1, 4, 4)
        return torch.autograd.grad((g * weights).sum(), v)[0]

    try:
        got = second(OURS[name])
    except RuntimeError as error:
        assert "differentiable" in str(error) or name in str(error), error
    else:
        torch.testing.assert_close(got, second(THEIRS[name]))


def test_deterministic_algorithms():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        for dims in (1, 2, 3):
            for kind in ("max", "avg"):
                x = torch.rand(1, 2, *(6, 6, 6)[:dims], requires_grad=True)
                y = OURS[f"{kind}_pool{dims}d"](x, 3, stride=1)
                first = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)[0]
                second = torch.autograd.grad(y, x, torch.ones_like(y))[0]
                assert torch.equal(first, second) and float(first.sum()) > 0
    finally:
        torch.use_deterministic_algorithms(before)


def test_training_a_small_network_moves_it_as_pytorch_does():
    def losses(pool):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3),
            torch.nn.ReLU(),
            pool,
            torch.nn.Flatten(),
            torch.nn.Linear(36, 3),
        )
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        x, target = torch.rand(8, 1, 8, 8), torch.arange(8) % 3
        result = []
        for _ in range(5):
            optimiser.zero_grad()
            loss = F.cross_entropy(net(x), target)
            loss.backward()
            optimiser.step()
            result.append(loss.item())
        return result

    assert losses(inn.MaxPool2d(2)) == losses(torch.nn.MaxPool2d(2))
    torch.testing.assert_close(
        losses(inn.AvgPool2d(2)), losses(torch.nn.AvgPool2d(2)), rtol=1e-4, atol=0
    )

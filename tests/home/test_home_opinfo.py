"""PyTorch's own samples again: second gradients and directions are PyTorch's, too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten, tree_unflatten

import infinitypool.nn.functional as IF
from torch_compare import collide

PREFIX = "nn.functional."
OPS = {
    f"{op.name.removeprefix(PREFIX)} {op.variant_test_name}".strip(): op
    for op in op_db
    if op.name.startswith(PREFIX)
    and ("pool" in op.name or "_norm" in op.name)
    and getattr(IF, op.name.removeprefix(PREFIX), None).__module__.startswith("infinitypool")
}


def test_all_of_them_are_there():
    """Pooling, unpooling, five norms and that across channels."""
    assert len(OPS) >= 25


def _leaves(sample):
    """The floats of a sample as leaves, and a function that calls with others in their place."""
    values, tree = tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [
        i
        for i, value in enumerate(values)
        if isinstance(value, Tensor) and value.dtype.is_floating_point and value.requires_grad
    ]
    leaves = [values[i].detach().clone().requires_grad_() for i in places]

    def call(function, *tensors):
        given = [v.detach().clone() if isinstance(v, Tensor) else v for v in values]
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        input, args, kwargs = tree_unflatten(given, tree)
        torch.default_generator.manual_seed(42)  # fractional windows are drawn
        result = function(input, *args, **kwargs)
        return result[0] if isinstance(result, tuple) else result

    return leaves, call


def _close(found, wanted, note):
    for one, other in zip(found, wanted, strict=True):
        one, other = (
            t if t is not None else torch.zeros((), dtype=torch.float64) for t in (one, other)
        )
        one, other = torch.broadcast_tensors(one, other)  # a gradient that is none is zero
        torch.testing.assert_close(
            one, other, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda m: f"{m} {note}"
        )


def _second(function, leaves, call):
    """First gradients, and those of their product with something, by everything in it."""
    result = call(function, *leaves)
    generator = torch.Generator().manual_seed(3)

    def like(t):
        return torch.randint(-3, 4, t.shape, generator=generator).to(t.dtype)

    incoming = like(result).requires_grad_()
    first = torch.autograd.grad(result, leaves, incoming, create_graph=True, allow_unused=True)
    product = sum((g * like(g)).sum() for g in first if g is not None)
    if not isinstance(product, Tensor) or not product.requires_grad:
        return first, ()
    return first, torch.autograd.grad(product, (*leaves, incoming), allow_unused=True)


@pytest.mark.parametrize("name", sorted(OPS))
def test_second_gradients(name, record_property):
    op, ours, checked = OPS[name], getattr(IF, name.split()[0]), 0
    assert op.supports_gradgrad
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        leaves, call = _leaves(sample)
        if not leaves or not call(op.op, *leaves).requires_grad:
            continue
        note = f"{name} {tuple(sample.input.shape)} {sample.args} {sample.kwargs}"
        if "unpool" in name and collide(sample):  # there PyTorch gives one gradient to all
            assert torch.autograd.gradgradcheck(
                lambda *t, c=call: c(ours, *t), tuple(leaves), fast_mode=True
            ), note
            checked += 1
            continue
        wanted, found = _second(op.op, leaves, call), _second(ours, leaves, call)
        _close(found[0], wanted[0], note)
        _close(found[1] or (None,), wanted[1] or (None,), note)
        checked += 1
    record_property("samples", checked)
    assert checked >= 2


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if op.supports_forward_ad))
def test_directions(name, record_property):
    op, ours, checked = OPS[name], getattr(IF, name.split()[0]), 0
    samples = list(op.sample_inputs("cpu", torch.float64, requires_grad=True))
    for sample in samples[:: 1 + len(samples) // 100]:
        leaves, call = _leaves(sample)
        if not leaves:
            continue
        points = tuple(t.detach() for t in leaves)
        along = tuple(torch.ones_like(t) for t in points)
        wanted, found = (
            torch.func.jvp(lambda *t, f=f, c=call: c(f, *t), points, along) for f in (op.op, ours)
        )
        _close(found, wanted, f"{name} {tuple(sample.input.shape)} {sample.args} {sample.kwargs}")
        checked += 1
    record_property("samples", checked)
    assert checked >= 2

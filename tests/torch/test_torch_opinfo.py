"""PyTorch's own samples for these operations: every one, every dtype, with and without gradient."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import infinitypool.nn as inn
from torch_compare import OURS, call_text, close_averages, outcome, same_bits, terms_of

POOLS = {
    op.name.removeprefix("nn.functional."): op
    for op in op_db
    if op.name.removeprefix("nn.functional.") in OURS
}
CASES = [
    (name, dtype, grad)
    for name, op in sorted(POOLS.items())
    for dtype in sorted(op.supported_dtypes("cpu"), key=str)
    for grad in (False, True)
    if not grad or dtype.is_floating_point
]
# What the database held when this was written; fewer would be a test that quietly shrank.
AT_LEAST = {
    "max_pool1d": 800,
    "max_pool2d": 1400,
    "max_pool3d": 500,
    "avg_pool1d": 9,
    "avg_pool2d": 7,
    "avg_pool3d": 8,
}


def test_all_six_are_there():
    assert sorted(POOLS) == sorted(AT_LEAST)


def _parts(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name, dtype, grad", CASES, ids=lambda v: str(v).removeprefix("torch."))
def test_samples(name, dtype, grad, record_property):
    op, checked = POOLS[name], 0
    generator = torch.Generator().manual_seed(0)
    for sample in op.sample_inputs("cpu", dtype, requires_grad=grad):
        note = call_text(name, sample.input, sample.args, sample.kwargs)
        theirs = op.op(sample.input, *sample.args, **sample.kwargs)
        ours = OURS[name](sample.input, *sample.args, **sample.kwargs)
        assert type(ours) is type(theirs), note
        if name.startswith("max"):
            for a, b in zip(_parts(ours), _parts(theirs), strict=True):
                same_bits(a, b, note)
        else:
            pool = functools.partial(_positional, op.op, sample.args, sample.kwargs)
            kernel = sample.args[0] if sample.args else sample.kwargs["kernel_size"]
            terms = terms_of(kernel, int(name[-2]))
            close_averages(ours, theirs, pool, sample.input, terms, note)
        assert _parts(ours)[0].requires_grad == _parts(theirs)[0].requires_grad, note
        if grad:
            _backward(name, sample, ours, theirs, generator, note)
        checked += 1
    print(f"{name} {dtype} requires_grad={grad}: {checked} samples")
    record_property("samples", checked)
    assert checked >= AT_LEAST[name]


def _positional(function, arguments, named, x):
    return function(x, *arguments, **named)


def _backward(name, sample, ours, theirs, generator, note):
    ours, theirs = _parts(ours)[0], _parts(theirs)[0]
    # Small integers over a power of two: every sum of them is exact in any order.
    incoming = torch.randint(-3, 4, theirs.shape, generator=generator).to(theirs.dtype)
    (want,) = torch.autograd.grad(theirs, sample.input, incoming)
    (got,) = torch.autograd.grad(ours, sample.input, incoming)
    if name.startswith("max"):
        same_bits(got + 0, want + 0, note)  # + 0: a sum of nothing but -0.0 may keep its sign
    else:
        assert got.shape == want.shape and got.dtype == want.dtype, note
        # Up to 16 overlapping windows, each share rounded: PyTorch adds them in the dtype itself.
        eps = torch.finfo(want.dtype).eps
        torch.testing.assert_close(
            got, want, rtol=8 * eps, atol=16 * 3 * eps, msg=lambda m: f"{m} {note}"
        )


@pytest.mark.parametrize("name", sorted(POOLS))
def test_errors(name):
    """The exception's type is PyTorch's; the text is ours, and names the function."""
    op, checked = POOLS[name], 0
    for error in op.error_inputs("cpu"):
        sample = error.sample_input
        note = call_text(name, sample.input, sample.args, sample.kwargs)
        _, theirs = outcome(op.op, sample.input, *sample.args, **sample.kwargs)
        _, ours = outcome(OURS[name], sample.input, *sample.args, **sample.kwargs)
        assert theirs is not None, f"PyTorch accepts it now: {note}"
        assert ours is not None, f"accepted: {note}; PyTorch: {theirs}"
        assert type(ours) is type(theirs), f"{ours!r}, expected {theirs!r} {note}"
        assert name in str(ours), f"{ours} {note}"
        checked += 1
    print(f"{name}: {checked} error inputs")
    assert checked >= 2


MODULES = {m.name.removeprefix("nn."): m for m in module_db}
MODULES = {
    name: MODULES[name]
    for name in ("MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d")
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODULES)
def test_modules(name, dtype, training):
    info, checked = MODULES[name], 0
    if (
        name == "AvgPool3d"
        and dtype == torch.float16
        or name == "AvgPool3d"
        and dtype == torch.bfloat16
    ):
        # PyTorch has no AvgPool3d in half precision; ours is compared with its float32.
        half = getattr(inn, name)(2)(torch.ones(1, 1, 2, 2, 2, dtype=dtype))
        assert half.dtype == dtype and half.item() == 1
        return
    for sample in info.module_inputs_func(info, "cpu", dtype, True, training):
        how, forward = sample.constructor_input, sample.forward_input
        theirs = info.module_cls(*how.args, **how.kwargs).train(training)
        ours = getattr(inn, name)(*how.args, **how.kwargs).train(training)
        assert repr(ours) == repr(theirs)
        note = f"{ours!r} {[tuple(a.shape) for a in forward.args]}"
        a, b = (m(*forward.args, **forward.kwargs) for m in (ours, theirs))
        for got, want in zip(_parts(a), _parts(b), strict=True):
            if name.startswith("Max"):
                same_bits(got, want, note)
            else:
                terms = terms_of(theirs.kernel_size, int(name[-2]))
                close_averages(got, want, theirs, forward.args[0], terms, note)
        checked += 1
    assert checked >= 3


def test_module_errors():
    info, checked = MODULES["MaxPool2d"], 0
    for error in info.module_error_inputs_func(info, "cpu", torch.float32, False, False):
        sample = error.module_error_input
        how, forward = sample.constructor_input, sample.forward_input

        def build_and_call(cls, how=how, forward=forward):
            return cls(*how.args, **how.kwargs)(*forward.args, **forward.kwargs)

        _, theirs = outcome(build_and_call, info.module_cls)
        _, ours = outcome(build_and_call, inn.MaxPool2d)
        assert theirs is not None and type(ours) is type(theirs), f"{ours!r}, expected {theirs!r}"
        checked += 1
    assert checked >= 3

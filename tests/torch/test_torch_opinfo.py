"""PyTorch's own samples for these operations: every one, every dtype, with and without gradient."""

from __future__ import annotations

import functools
import itertools
import os

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from torch_compare import (
    call_text,
    close_averages,
    collide,
    dims_of,
    outcome,
    parts,
    same_bits,
    terms_of,
)

# Name, and the variant where the database has several.
POOLS = {
    f"{name} {op.variant_test_name}".strip(): op
    for op in op_db
    if "pool" in op.name and hasattr(IF, name := op.name.removeprefix("nn.functional."))
}
OURS = {key: getattr(IF, key.split()[0]) for key in POOLS}
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
    "adaptive_avg_pool1d": 6,
    "adaptive_avg_pool2d": 10,
    "adaptive_avg_pool3d": 12,
    "adaptive_max_pool1d": 8,
    "adaptive_max_pool2d": 24,
    "adaptive_max_pool3d": 20,
    "max_unpool1d": 144,
    "max_unpool1d grad": 8,
    "max_unpool2d": 288,
    "max_unpool2d grad": 16,
    "max_unpool3d": 96,
    "max_unpool3d grad": 6,
    "fractional_max_pool2d": 37,
    "fractional_max_pool3d": 48,
}
# Of operations with many samples a run pinned to an instruction set takes every seventh: they are
# products of a few choices each, none of seven, so that every choice is met.
PINNED = "INFINITYPOOL_TEST_EXAMPLES" in os.environ
EVERY = {name: 7 if PINNED and count > 90 else 1 for name, count in AT_LEAST.items()}


def test_all_of_them_are_there():
    assert sorted(POOLS) == sorted(AT_LEAST)


def _seeded(function, sample):
    # As the database's own calls do: fractional windows are drawn. (The CPU's alone: quicker.)
    torch.default_generator.manual_seed(42)
    return function(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize("name, dtype, grad", CASES, ids=lambda v: str(v).removeprefix("torch."))
def test_samples(name, dtype, grad, record_property):
    op, checked = POOLS[name], 0
    generator = torch.Generator().manual_seed(0)
    samples = op.sample_inputs("cpu", dtype, requires_grad=grad)
    for sample in itertools.islice(samples, 0, None, EVERY[name]):
        note = call_text(name, sample.input, sample.args, sample.kwargs)
        theirs, ours = _seeded(op.op, sample), _seeded(OURS[name], sample)
        assert type(ours) is type(theirs), note
        if "avg" not in name:
            for a, b in zip(parts(ours), parts(theirs), strict=True):
                same_bits(a, b, note)
        else:
            pool = functools.partial(_positional, op.op, sample.args, sample.kwargs)
            dims = dims_of(name)
            kernel = sample.args[0] if sample.args else sample.kwargs["kernel_size"]
            plane = sample.input.shape[-dims:]
            if name == "adaptive_avg_pool3d" and dtype.itemsize == 2:
                # PyTorch adds halves as halves here.
                theirs = pool(sample.input.double()).to(dtype)
            terms = terms_of(plane if "adaptive" in name else kernel, dims)
            close_averages(ours, theirs, pool, sample.input, terms, note)
        assert parts(ours)[0].requires_grad == parts(theirs)[0].requires_grad, note
        if grad:
            _backward(name, sample, ours, theirs, generator, note)
        checked += 1
    print(f"{name} {dtype} requires_grad={grad}: {checked} samples")
    record_property("samples", checked)
    assert checked >= AT_LEAST[name] // EVERY[name]


def _positional(function, arguments, named, x):
    return function(x, *arguments, **named)


def _backward(name, sample, ours, theirs, generator, note):
    ours, theirs = parts(ours)[0], parts(theirs)[0]
    if "unpool" in name and collide(sample):
        return  # there PyTorch gives the gradient of one value to all
    # Small integers over a power of two: every sum of them is exact in any order.
    incoming = torch.randint(-3, 4, theirs.shape, generator=generator).to(theirs.dtype)
    (want,) = torch.autograd.grad(theirs, sample.input, incoming)
    (got,) = torch.autograd.grad(ours, sample.input, incoming)
    if "unpool" in name:  # (laid out as the input, where PyTorch lays it out as the gradient)
        assert torch.equal(got, want), note
    elif "avg" not in name:
        same_bits(got + 0, want + 0, note)  # + 0: a sum of nothing but -0.0 may keep its sign
    else:
        assert got.shape == want.shape and got.dtype == want.dtype, note
        # Up to 16 overlapping windows, each share rounded: PyTorch adds them in the dtype itself.
        eps = torch.finfo(want.dtype).eps
        torch.testing.assert_close(
            got, want, rtol=8 * eps, atol=16 * 3 * eps, msg=lambda m: f"{m} {note}"
        )


@pytest.mark.once
@pytest.mark.parametrize("name", sorted(n for n, op in POOLS.items() if op.error_inputs_func))
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
    assert checked >= (1 if "unpool" in name else 2)


MODULES = {m.name.removeprefix("nn."): m for m in module_db}
MODULES = {name: info for name, info in MODULES.items() if "Pool" in name}


def test_all_modules_are_there():
    assert len(MODULES) >= 17 and all(hasattr(inn, name) for name in MODULES)


@pytest.mark.once  # a module calls the function of its name, which the samples above have tried
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODULES)
def test_modules(name, dtype, training):
    info, checked = MODULES[name], 0
    if name in ("AvgPool3d", "LPPool3d") and dtype.itemsize == 2:
        # PyTorch has no such mean in half precision; ours gives what it should of ones.
        arguments = (2, 2) if "LP" in name else (2,)
        half = getattr(inn, name)(*arguments)(torch.ones(1, 1, 2, 2, 2, dtype=dtype))
        assert half.dtype == dtype and abs(half.item() - (8**0.5 if "LP" in name else 1)) < 0.01
        return
    for sample in info.module_inputs_func(info, "cpu", dtype, True, training):
        how, forward = sample.constructor_input, sample.forward_input
        theirs, ours = (
            cls(*how.args, **how.kwargs).to(dtype).train(training)
            for cls in (info.module_cls, getattr(inn, name))
        )
        assert repr(ours) == repr(theirs)
        note = f"{ours!r} {[tuple(a.shape) for a in forward.args]}"
        results = []
        for module in (ours, theirs):
            torch.manual_seed(0)
            results.append(module(*forward.args, **forward.kwargs))
        for got, want in zip(*map(parts, results), strict=True):
            if "Max" in name:
                same_bits(got, want, note)
            elif "LP" in name:
                eps = torch.finfo(dtype).eps  # some powers and a root, each rounded by PyTorch
                torch.testing.assert_close(got, want, rtol=16 * eps, atol=16 * eps, equal_nan=True)
            else:
                dims = int(name[-2])
                plane = forward.args[0].shape[-dims:]
                if name == "AdaptiveAvgPool3d" and dtype.itemsize == 2:
                    want = theirs(forward.args[0].double()).to(dtype)
                terms = terms_of(plane if "Adaptive" in name else theirs.kernel_size, dims)
                close_averages(got, want, theirs, forward.args[0], terms, note)
        checked += 1
    assert checked >= 2


@pytest.mark.once
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

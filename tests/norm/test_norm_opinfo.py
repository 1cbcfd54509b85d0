"""PyTorch's own samples for the norms: every one, every dtype, with and without gradient."""

from __future__ import annotations

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from torch_compare import call_text, outcome, parts, same_strides

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight"),
]

# What the database held when this was written; fewer would be a test that quietly shrank.
AT_LEAST = {
    "batch_norm": 12,
    "instance_norm": 9,
    "layer_norm": 6,
    "group_norm": 21,
    "rms_norm": 6,
    "local_response_norm": 11,
}
OPS = {
    op.name.removeprefix("nn.functional."): op
    for op in op_db
    if op.name.removeprefix("nn.functional.") in AT_LEAST and not op.variant_test_name
}
CASES = [
    (name, dtype, grad)
    for name, op in sorted(OPS.items())
    for dtype in sorted(op.supported_dtypes("cpu"), key=str)
    for grad in (False, True)
    if not grad or dtype.is_floating_point or dtype.is_complex
]


def _tensors(value, change):
    """``value`` with every tensor in it changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _tensors(v, change) for key, v in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_tensors(v, change) for v in value)
    return value


def _own(t):
    """A leaf that nobody else writes to."""
    return t.detach().clone(memory_format=torch.preserve_format).requires_grad_(t.requires_grad)


def _wide(t):
    return t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t


def _close(got, theirs, exact, note, least=1e-3):
    """Like PyTorch's in kind, and as near to the exact result as the dtype allows: some roundings,
    of numbers that may be as large as the largest, or as ``least`` where terms cancel."""
    assert got.dtype == theirs.dtype and got.shape == theirs.shape, note
    if not got.is_floating_point():
        rtol = 0 if not got.is_complex() else 16 * torch.finfo(got.dtype).eps
        torch.testing.assert_close(got, theirs, rtol=rtol, atol=rtol)
        return
    eps = torch.finfo(got.dtype).eps
    scale = float(torch.nan_to_num(exact.detach()).abs().max()) if exact.numel() else 0.0
    torch.testing.assert_close(
        got.detach().double(),
        exact.detach().double(),
        rtol=16 * eps,
        atol=16 * eps * max(scale, least),
        equal_nan=True,
        msg=lambda text: f"{text} {note}",
    )


def _leaves(*values):
    found = []
    for value in values:
        _tensors(value, lambda t: found.append(t) or t)
    return found


def _changed(sample, change):
    found = [_tensors(v, change) for v in (sample.input, sample.args, sample.kwargs)]
    return found[0], found[1], found[2]


def _gradients(result, leaves, incoming):
    wanted = [t for t in leaves if t.requires_grad]
    return torch.autograd.grad(result, wanted, incoming, allow_unused=True)


def test_all_of_them_are_there():
    assert sorted(OPS) == sorted(AT_LEAST)


@pytest.mark.parametrize("name, dtype, grad", CASES, ids=lambda v: str(v).removeprefix("torch."))
def test_samples(name, dtype, grad, record_property):
    op, checked = OPS[name], 0
    ours, generator = getattr(IF, name), torch.Generator().manual_seed(0)
    for sample in op.sample_inputs("cpu", dtype, requires_grad=grad):
        note = call_text(name, sample.input, sample.args, sample.kwargs)
        mine, other = _changed(sample, _own), _changed(sample, _own)
        exact = _changed(sample, _wide)
        theirs, error = outcome(op.op, other[0], *other[1], **other[2])
        got, problem = outcome(ours, mine[0], *mine[1], **mine[2])
        if error is not None:  # what PyTorch lacks may be there
            assert problem is None or type(problem) is type(error), note
            continue
        assert problem is None, f"{problem!r} {note}"
        want = op.op(exact[0], *exact[1], **exact[2])
        _close(got, theirs, want, note)
        assert got.requires_grad == theirs.requires_grad, note
        if sample.input.is_contiguous():
            same_strides(got, theirs, note)
        # Running statistics have moved alike.
        for a, b, c in zip(_leaves(*mine), _leaves(*other), _leaves(*exact), strict=True):
            _close(a, b, c, f"arguments of {note}")
        if grad and theirs.requires_grad and theirs.numel():
            incoming = torch.rand(theirs.shape, generator=generator, dtype=torch.float64) - 0.5
            incoming = incoming.to(dtype)
            wide = incoming.double() if dtype.is_floating_point else incoming
            rows = zip(
                _gradients(got, _leaves(*mine), incoming),
                _gradients(theirs, _leaves(*other), incoming),
                _gradients(want, _leaves(*exact), wide),
                strict=True,
            )
            for a, b, c in rows:
                assert (a is None) == (b is None), note
                if a is not None:
                    _close(a, b, c, f"gradient of {note}", 1.0)
        checked += 1
    record_property("samples", checked)
    # (PyTorch has no local response norm of more than three axes in half precision.)
    assert checked >= AT_LEAST[name] - (5 if name[0:5] == "local" and dtype.itemsize == 2 else 0)


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.error_inputs_func])
def test_errors(name):
    checked = 0
    for error in OPS[name].error_inputs("cpu"):
        sample = error.sample_input
        note = call_text(name, sample.input, sample.args, sample.kwargs)
        _, theirs = outcome(OPS[name].op, sample.input, *sample.args, **sample.kwargs)
        _, ours = outcome(getattr(IF, name), sample.input, *sample.args, **sample.kwargs)
        assert theirs is not None and type(ours) is type(theirs), f"{ours!r}, not {theirs!r} {note}"
        checked += 1
    assert checked >= 2


MODULES = {
    info.name.removeprefix("nn."): info
    for info in module_db
    if any(part in info.name for part in ("BatchNorm", "InstanceNorm", "LayerNorm", "RMSNorm"))
    or info.name in ("nn.GroupNorm", "nn.LocalResponseNorm")
}


def test_all_modules_are_there():
    kinds = ("BatchNorm", "InstanceNorm")
    assert sorted(MODULES) == sorted(
        [f"{kind}{n}d" for kind in kinds for n in (1, 2, 3)]
        + ["LayerNorm", "RMSNorm", "GroupNorm", "LocalResponseNorm"]
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("name", MODULES)
def test_modules(name, dtype, training):
    """Result, buffers and all gradients, from the same parameters."""
    info, checked = MODULES[name], 0
    for sample in info.module_inputs_func(info, "cpu", dtype, True, training):
        how, forward = sample.constructor_input, sample.forward_input
        ours, theirs = (
            cls(*how.args, **how.kwargs).to(dtype).train(training)
            for cls in (getattr(inn, name), info.module_cls)
        )
        assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
        generator = torch.Generator().manual_seed(checked)
        for parameter in theirs.parameters():
            with torch.no_grad():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
        ours.load_state_dict(theirs.state_dict())
        exact = info.module_cls(*how.args, **how.kwargs).double().train(training)
        exact.load_state_dict(theirs.state_dict())
        note = f"{ours!r} {[tuple(a.shape) for a in forward.args]}"
        x = forward.args[0]
        mine, other, wide = _own(x), _own(x), _wide(x)
        want, error = outcome(theirs, other)
        got, problem = outcome(ours, mine)
        if error is not None:
            assert problem is None or type(problem) is type(error), note
            continue
        assert problem is None, f"{problem!r} {note}"
        reference = exact(wide)
        _close(got, want, reference, note)
        for a, b, c in zip(ours.buffers(), theirs.buffers(), exact.buffers(), strict=True):
            _close(a, b, c, f"buffers {note}")
        incoming = torch.rand(want.shape, generator=generator) - 0.5
        for y in (got, want, reference):
            y.backward(incoming.to(y.dtype))
        _close(mine.grad, other.grad, wide.grad, f"gradient {note}", 1.0)
        for a, b, c in zip(*(m.parameters() for m in (ours, theirs, exact)), strict=True):
            _close(a.grad, b.grad, c.grad, f"gradient of parameters {note}", 1.0)
        checked += 1
    assert checked >= (1 if name[0:5] == "Local" and dtype.itemsize == 2 else 3)


@pytest.mark.parametrize("name", [n for n, m in MODULES.items() if m.module_error_inputs_func])
def test_module_errors(name):
    info, checked = MODULES[name], 0
    for training in (False, True):
        for error in info.module_error_inputs_func(info, "cpu", torch.float32, False, training):
            sample = error.module_error_input
            how, forward = sample.constructor_input, sample.forward_input

            def build_and_call(cls, how=how, forward=forward, training=training):
                module = cls(*how.args, **how.kwargs).train(training)
                return parts(module(*forward.args, **forward.kwargs))

            _, theirs = outcome(build_and_call, info.module_cls)
            _, ours = outcome(build_and_call, getattr(inn, name))
            assert type(ours) is type(theirs), f"{ours!r}, not {theirs!r} ({name} {how})"
            checked += theirs is not None  # (some are no errors in evaluation)
    assert checked >= 1

"""Names, signatures, odd arguments and PyTorch's own samples of the dropout family."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from torch_compare import outcome, same_bits, same_strides

NAMES = (
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
)  # fmt: skip
MODULES = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    theirs = inspect.signature(getattr(F, name)).parameters
    ours = inspect.signature(getattr(IF, name)).parameters
    assert list(ours) == [*theirs, "generator"]
    assert all(ours[key].default == theirs[key].default for key in theirs)
    assert ours["generator"].kind is inspect.Parameter.KEYWORD_ONLY
    assert ours["generator"].default is None
    assert name in IF.__all__ and getattr(IF, name).__name__ == name


def test_names():
    assert "dropout_add" in IF.__all__
    assert all(name in inn.__all__ for name in (*MODULES, "DropoutAdd"))


# --- odd arguments -------------------------------------------------------------------------


def _inputs(*shape):
    x = torch.randn(shape)
    yield "floats", x
    yield "doubles", x.double()
    yield "half", x.half()
    yield "empty", x[:0]
    yield "empty plane", x[..., :0]
    yield "scalar", torch.tensor(2.0)
    for rank in range(1, 7):
        yield f"{rank} axes", torch.randn([2] * rank)
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn):
        yield str(dtype), torch.ones(shape).to(dtype)
    yield "sparse", torch.eye(3).to_sparse()
    yield "meta", x.to("meta")
    yield "nested", torch.nested.nested_tensor([torch.ones(3), torch.ones(4)])
    yield "negative", torch.randn(shape, dtype=torch.complex64).conj().imag
    yield "no tensor", None
    yield "a list", [[1.0]]
    yield "an array", np.ones((2, 3, 4))


PS = (
    0.5, 0.0, 1.0, 0, 1, True, False, -0.1, 1.1, 2, -1, float("nan"), float("inf"), None, "0.5",
    [0.5], 0.5j, torch.tensor(0.5), torch.tensor(1.5), torch.tensor([0.5, 0.5]), np.float64(0.5),
    np.float32(0.25), np.array(0.5), 2**70,
)  # fmt: skip
TRAININGS = (True, False, 1, 0, None, "x", 1.0, torch.tensor(True), np.bool_(True))


def _copy(x):
    return x.clone() if isinstance(x, torch.Tensor) else x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_odd_arguments_end_as_in_pytorch(name):
    """Accepted by PyTorch: the same shape, dtype and layout. Refused: the same exception type."""
    wrong, accepted, refused = {}, 0, 0
    inputs = dict(_inputs(*(2, 3, 4, 5)[: 3 if name == "dropout1d" else 4]))
    cases = [(kind, p, True, False) for kind in inputs for p in PS]
    cases += [(kind, p, False, False) for kind in inputs for p in (0.5, 2, None)]
    cases += [("floats", p, training, False) for p in (0.5, 0.0, 1.0) for training in TRAININGS]
    cases += [(kind, p, True, True) for kind in inputs for p in (0.5, 0.0, 1.0, -1)]
    cases += [("floats", 0.5, True, inplace) for inplace in (None, 1, 0, "x", torch.tensor(True))]
    for kind, p, training, inplace in cases:
        results = []
        for module in (F, IF):
            x = _copy(inputs[kind])
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                y, error = outcome(getattr(module, name), x, p, training, inplace)
            texts = sorted({str(w.message) for w in caught if "ropout" in str(w.message)})
            results.append((y, error, y is x, texts))
        (y, error, is_x, texts), (our_y, our_error, our_is_x, our_texts) = results
        note = f"{kind} p={p!r} training={training!r} inplace={inplace!r}"
        if error is not None:
            refused += 1
            if type(our_error) is type(error) or our_is_x and (training is False or p == 0):
                continue  # (where nothing is dropped, PyTorch may stumble over its own views)
            stumbled = isinstance(error, AttributeError) and type(our_error) is TypeError
            alone = outcome(getattr(F, name), _copy(inputs[kind]), 0.5, True)[1]
            plain = outcome(getattr(F, name), torch.ones(2, 3, 4), p, training)[1]
            if not stumbled and not (alone and plain):  # of two faults either may be found first
                wrong[f"{our_error!r}, PyTorch: {error!r}"[:300] + note] = None
            continue
        accepted += 1
        if our_error is not None:
            wrong[f"refused: {our_error!r}"[:300] + note] = None
            continue
        if isinstance(y, torch.Tensor) and not y.is_nested:
            assert our_y.shape == y.shape and our_y.dtype == y.dtype and our_y.device == y.device
            assert our_y.layout == y.layout, note
            if y.layout is torch.strided:
                same_strides(our_y, y, note)
        assert our_is_x or not is_x, note  # PyTorch gives a view of some that have no batch
        assert our_texts == texts, note
    assert not wrong, "\n".join(wrong)
    assert accepted > 120 and refused > 150, (accepted, refused)


def test_warnings_point_to_the_caller():
    for name, rank in (("dropout2d", 3), ("dropout2d", 5), ("dropout3d", 3)):
        with pytest.warns(UserWarning) as caught:
            getattr(IF, name)(torch.ones([2] * rank))
        assert {w.filename for w in caught} == {__file__}


@pytest.mark.parametrize("name", NAMES)
def test_generators_of_another_kind(name):
    x = torch.ones([2] * (3 if "1d" in name else 5 if "3d" in name else 4))
    with pytest.raises(TypeError):
        getattr(IF, name)(x, 0.5, True, generator=3)
    with pytest.raises(TypeError):
        getattr(IF, name)(x, 0.5, True, False, torch.Generator())
    with pytest.raises(TypeError):
        getattr(IF, name)(x, 0.5, True, no_such_argument=1)


@pytest.mark.parametrize("name", [*NAMES, "dropout_add"])
def test_subclasses_are_asked(name):
    class Logged(torch.Tensor):
        calls = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.calls.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    function = getattr(IF, name)
    x = torch.rand(2, 3, 4, 5) if "1d" not in name else torch.rand(2, 3, 4)
    rest = (x,) if name == "dropout_add" else ()
    got = function(x.as_subclass(Logged), *rest, p=0.5, training=True)
    assert type(got) is Logged and Logged.calls[0] is function
    if rest:
        got = function(x, x.as_subclass(Logged), p=0.5, training=True)
        assert type(got) is Logged


def test_what_looks_through_operators():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    with FakeTensorMode() as mode:
        x = torch.empty(2, 3, 4, 5)
        for name in NAMES:
            if name != "dropout1d":
                assert getattr(IF, name)(x, 0.5, True).shape == x.shape
        mode.from_tensor(torch.ones(3))

    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Seen() as mode:
        IF.dropout(torch.randn(8, requires_grad=True)).sum().backward()
    assert "infinitypool.dropout.default" in mode.seen
    assert "infinitypool.dropout_backward.default" in mode.seen


def test_operators():
    ops, x, seed = torch.ops.infinitypool, torch.randn(4, 6, 5), torch.tensor(7)
    for name in ("dropout", "alpha_dropout"):
        for axes in (0, 1, 2):
            want = getattr(ops, name)(x, 0.5, seed, axes)
            meta = getattr(ops, name)(x.to("meta"), 0.5, seed, axes)
            assert meta.device.type == "meta" and meta.shape == x.shape
            with torch.inference_mode():
                assert torch.equal(getattr(ops, name)(x, 0.5, seed, axes), want)
    with pytest.raises(RuntimeError, match="residual"):
        ops.dropout_add(x, x[0], 0.5, seed)


@pytest.mark.parametrize("name", NAMES)
def test_autocast(name):
    x = torch.randn(2, 3, 4, 5) if "1d" not in name else torch.randn(2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            ours, theirs = (getattr(m, name)(x.to(dtype), 0.5, True) for m in (IF, F))
            assert ours.dtype == theirs.dtype == dtype


# --- PyTorch's samples ---------------------------------------------------------------------

OPS = {
    f"{op.name.removeprefix('nn.functional.')} {op.variant_test_name}".strip(): op
    for op in op_db
    if op.name.removeprefix("nn.functional.") in NAMES
}
AT_LEAST = {
    "dropout": 19, "dropout2d": 13, "dropout3d": 13, "alpha_dropout": 19,
    "feature_alpha_dropout with_train": 7, "feature_alpha_dropout without_train": 10,
}  # fmt: skip


def test_all_samples_are_there():
    assert sorted(OPS) == sorted(AT_LEAST)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", AT_LEAST)
def test_samples(name, inplace):
    """Without luck (p is 0 or 1, or nothing is trained) the same bits; otherwise the same values.

    Those of either are x, times a scale or 0, plus one of two numbers.
    """
    op, function, checked = OPS[name], getattr(IF, name.split()[0]), 0
    for dtype in sorted(op.supported_dtypes("cpu"), key=str):
        for grad in (False, True):
            if grad and not dtype.is_floating_point:
                continue
            for sample in op.sample_inputs("cpu", dtype, requires_grad=grad):
                named = {key: v for key, v in sample.kwargs.items() if key != "inplace"}
                results = []
                for call in (op.op, function):
                    x = sample.input.detach().clone().requires_grad_(grad)
                    inner = x * 1 if inplace and grad else x
                    bound = inspect.signature(function).bind(inner, *sample.args, **named)
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        arguments = {**bound.arguments, "inplace": inplace}
                        y = getattr(F, name.split()[0])(**arguments) if call is op.op else call(
                            **arguments)  # fmt: skip
                    back = torch.autograd.grad(y.sum(), x)[0] if grad else None
                    results.append((y, back))
                (theirs, their_grad), (ours, our_grad) = results
                assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
                same_strides(ours, theirs)
                p, training = arguments.get("p", 0.5), arguments.get("training", True)
                if "alpha" in name:
                    training = arguments.get("training", False)
                if not training or p in (0, 1) or not ours.numel():
                    same_bits(ours, theirs)
                    if grad:
                        assert torch.equal(our_grad, their_grad)
                else:
                    _same_choices(ours, theirs, sample.input, grad and (our_grad, their_grad))
                checked += 1
    assert checked >= AT_LEAST[name] * len(op.supported_dtypes("cpu"))


def _same_choices(ours, theirs, x, gradients):
    """Where both keep or both drop, they agree, up to PyTorch's rounding of its scale."""
    eps = 4 * torch.finfo(x.dtype).eps
    agree = torch.isclose(ours.double(), theirs.double(), rtol=eps, atol=4 * eps)
    if gradients:
        mine, other = gradients
        both = (mine != 0) == (other != 0)
        assert bool(agree[both].all())
        torch.testing.assert_close(mine[both], other[both], rtol=eps, atol=0)
    elif x.numel() > 50:
        assert bool(agree.any())


# --- modules -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_pytorchs(name):
    ours, theirs = getattr(inn, name), getattr(torch.nn, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    x = torch.randn(2, 8, *{"Dropout1d": (9,), "Dropout3d": (4, 3, 5)}.get(name, (4, 5)))
    for arguments in ((), (0.25,), (0.3, True), (1,), (0,)):
        mine, original = ours(*arguments), theirs(*arguments)
        assert repr(mine) == repr(original)
        assert mine.__dict__.keys() == original.__dict__.keys()
        assert (mine.p, mine.inplace) == (original.p, original.inplace)
        assert mine.state_dict() == original.state_dict() == {}
        assert mine.__constants__ == original.__constants__
        copies = [mine, pickle.loads(pickle.dumps(mine)), copy.deepcopy(mine)]
        results = []
        for module in copies:
            torch.manual_seed(0)
            results.append(module(x.clone()))
        assert all(torch.equal(y, results[0]) for y in results)
        assert repr(copies[1]) == repr(mine)
        assert mine.load_state_dict(original.state_dict())
        assert mine.eval()(x) is x
        if mine.p not in (0, 1):
            mine.train()
            assert not torch.equal(mine(x.clone()), mine(x.clone()))
            inside = x.clone()
            assert (mine(inside) is inside) == mine.inplace
    for p in (-0.1, 1.1, 2):
        for cls in (ours, theirs):
            with pytest.raises(ValueError, match="between 0 and 1"):
                cls(p)
    original = theirs(0.5)
    original.__class__ = ours  # attributes are all there is
    assert original(x).shape == x.shape


def test_dropout_add_module():
    module = inn.DropoutAdd(0.25)
    assert repr(module) == "DropoutAdd(p=0.25)" and inn.DropoutAdd().p == 0.5
    x, residual = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    results = []
    for copied in (module, pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        torch.manual_seed(0)
        results.append(copied(x, residual))
    torch.manual_seed(0)
    results.append(IF.dropout(x, 0.25) + residual)
    assert all(torch.equal(y, results[0]) for y in results)
    assert module.state_dict() == {}
    assert torch.equal(module.eval()(x, residual), x + residual)
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError):
            inn.DropoutAdd(p)

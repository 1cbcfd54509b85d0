"""The family's names, signatures, reprs, state and odd arguments: what a caller sees first."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from torch_compare import FAMILY, call_text, dims_of, outcome, parts, same_bits

pytestmark = pytest.mark.once


def _their_parameters(name):
    """Names and defaults, of a signature or of the first line of a docstring."""
    function = getattr(F, name)
    try:
        signature = inspect.signature(function).parameters
        if not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in signature.values()):
            return {key: p.default for key, p in signature.items()}
    except ValueError:
        pass
    first = function.__doc__.strip().splitlines()[0]
    inside = re.fullmatch(r"\w+\((.*)\)( -> Tensor)?", first).group(1)
    result = {}
    for part in inside.split(", "):
        key, _, default = part.partition("=")
        result[key] = eval(default) if default else inspect.Parameter.empty
    return result


@pytest.mark.parametrize("name", FAMILY)
def test_function_signatures(name):
    theirs, ours = _their_parameters(name), inspect.signature(getattr(IF, name)).parameters
    assert list(ours) == list(theirs)
    for key, default in theirs.items():
        if not (key == "return_indices" and name.endswith("_with_indices")):
            assert ours[key].default is default or ours[key].default == default, key


THEIR_MODULES = [name for name in inn.modules.__all__ if hasattr(torch.nn, name)]
CONSTRUCTED = {
    "Adaptive": [(4,), ((4, None, 2),)],
    "LP": [(2, 3), (1.5, 3, 2, True)],
    "MaxUnpool": [(2,), (3, 2, 1)],
    "Fractional": [(2, 3), (3, None, 0.5)],
    "": [(2,), (3, 2, 1)],
}


def _constructions(name):
    key = next(key for key in CONSTRUCTED if name.startswith(key))
    for arguments in CONSTRUCTED[key]:
        n = int(name[-2])
        if key == "Adaptive" and isinstance(arguments[0], tuple):
            arguments = (arguments[0][:n],) if n > 1 else (4,)
        yield arguments


def _input_of(name, theirs):
    x = torch.rand(2, 3, *(9, 8, 7)[: int(name[-2])])
    if "Unpool" in name:
        pool = getattr(F, f"max_pool{name[-2]}d")
        kernel, stride, padding = theirs.kernel_size, theirs.stride, theirs.padding
        return pool(x, kernel, stride, padding, return_indices=True)
    return (x,)


@pytest.mark.parametrize("name", THEIR_MODULES)
def test_modules_are_pytorchs(name):
    ours, theirs = getattr(inn, name), getattr(torch.nn, name)
    assert issubclass(ours, theirs) and ours.__module__ == "infinitypool.nn.modules"
    a, b = (inspect.signature(cls).parameters for cls in (ours, theirs))
    assert list(a)[: len(b)] == list(b) and all(a[k].default == b[k].default for k in b)
    for arguments in _constructions(name):
        mine, original = ours(*arguments), theirs(*arguments)
        assert repr(mine) == repr(original)
        kept = {k: v for k, v in mine.__dict__.items() if not k.startswith("_") and k != "dilation"}
        assert kept.items() <= original.__dict__.items()
        assert mine.state_dict() == original.state_dict() == {}
        assert getattr(mine, "__constants__", None) == getattr(original, "__constants__", None)
        given = _input_of(name, original)
        results = []
        for module in (mine, original, pickle.loads(pickle.dumps(mine)), copy.deepcopy(mine)):
            torch.manual_seed(0)
            y, error = outcome(module, *given)
            results.append((repr(error)[:9], y))
        for error, y in results[1:]:
            assert error == results[0][0]
            if y is not None:
                torch.testing.assert_close(y, results[0][1], equal_nan=True)
    with pytest.raises(TypeError):
        ours()


OUR_MODULES = {
    **{f"{kind}Pool{n}d": (3,) for kind in ("RMS", "LogSumExp", "Soft", "Median", "Stochastic",
                                            "Mixed", "MaxBlur", "Min") for n in (1, 2, 3)},
    **{f"QuantilePool{n}d": (3, 0.25) for n in (1, 2, 3)},
    **{f"BlurPool{n}d": () for n in (1, 2, 3)},
    **{name: () for name in ("SpatialPyramidPool", "SPP", "SPPF", "GlobalAvgPool", "GlobalMaxPool",
                             "GlobalAvgMaxPool", "GlobalCatAvgMaxPool", "GeM")},
}  # fmt: skip


def test_every_module_is_looked_at():
    assert sorted([*THEIR_MODULES, *OUR_MODULES]) == sorted(inn.modules.__all__)
    assert inn.__all__[-1] == "functional" and len(set(inn.__all__)) == len(inn.__all__)
    assert set(inn.modules.__all__) < set(inn.__all__)


@pytest.mark.parametrize("name", OUR_MODULES)
def test_our_modules(name):
    cls, arguments = getattr(inn, name), OUR_MODULES[name]
    module = cls(*arguments)
    assert isinstance(module, torch.nn.Module) and module.training
    again = eval(f"inn.{module!r}")
    assert repr(again) == repr(module) and type(again) is cls
    n = int(name[-2]) if name.endswith("d") else 2
    x = torch.rand(2, 3, *(9, 8, 7)[:n])
    results = []
    for copied in (module, again, pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        torch.manual_seed(0)
        results.append(copied(x))
    for y in results[1:]:
        same_bits(y, results[0])
    assert module.load_state_dict(again.state_dict())
    if name != "GeM":
        assert not list(module.parameters())
    if hasattr(module, "stride") and not isinstance(module.stride, str) and module.stride:
        module.stride = 1
        assert module(x).shape[-1] > results[0].shape[-1], "attributes set later must count"
    with pytest.raises(TypeError):
        cls(*arguments, no_such_argument=1)
    if arguments:
        with pytest.raises(TypeError):
            cls()
    assert "torch.Size" in cls.__doc__


POOLING = [name for name in IF.__all__ if "pool" in name or name.startswith("spp")]
ALL = [name for name in POOLING if name not in F.__dict__ or name in FAMILY]


def _arguments(name, dims):
    """An input and arguments that a function accepts."""
    x = torch.rand(2, 3, *(8, 8, 6)[:dims])
    if name.startswith("adaptive"):
        return (x, (4, 3, 2)[:dims] if dims > 1 else 4), {}
    if name.startswith("lp"):
        return (x, 2, 3), {}
    if "unpool" in name:
        return (*getattr(F, f"max_pool{dims}d")(x, 2, return_indices=True), 2), {}
    if name.startswith("fractional"):
        return (x, 2, 3), {"_random_samples": torch.rand(2, 3, dims)}
    if name.startswith("quantile"):
        return (x, 2, 0.3), {}
    if name.startswith(("global", "spatial", "spp", "blur")):
        return (x,), {}
    return (x, 2), {}


def _dims(name):
    return dims_of(name) if re.search(r"\dd", name) else 2


@pytest.mark.parametrize("name", ALL)
def test_other_devices_and_subclasses(name):
    function = getattr(IF, name)
    (x, *rest), named = _arguments(name, _dims(name))
    want = function(x, *rest, **named)

    def there(value):
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    meta = function(x.to("meta"), *map(there, rest), **{k: there(v) for k, v in named.items()})
    for a, b in zip(parts(meta), parts(want), strict=True):
        assert a.device.type == "meta" and a.shape == b.shape and a.dtype == b.dtype

    class Logged(torch.Tensor):
        calls = 0

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.calls += 1
            return super().__torch_function__(func, types, args, kwargs or {})

    got = function(x.as_subclass(Logged), *rest, **named)
    assert Logged.calls and type(parts(got)[0]) is Logged
    plain = parts(got)[0].as_subclass(torch.Tensor)
    torch.testing.assert_close(plain, parts(want)[0])


@pytest.mark.parametrize("name", ALL)
def test_what_is_no_tensor(name):
    (_, *rest), named = _arguments(name, _dims(name))
    for x in (None, [1.0], np.ones((1, 1, 8, 8)), 3, "x"):
        with pytest.raises(TypeError):
            getattr(IF, name)(x, *rest, **named)
    with pytest.raises(TypeError):
        getattr(IF, name)()
    with pytest.raises(TypeError):
        getattr(IF, name)(torch.rand(1, 1, 8, 8), *rest, no_such_argument=1, **named)


AUTOCAST = [
    name
    for name in FAMILY
    if "lp" not in name and "indices" not in name and "fractional" not in name
]


@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast(name):
    (x, *rest), named = _arguments(name, dims_of(name))
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            ours, theirs = (getattr(m, name)(x.to(dtype), *rest, **named) for m in (IF, F))
            assert parts(ours)[0].dtype == parts(theirs)[0].dtype, dtype


# --- odd arguments -------------------------------------------------------------------------

SIZES = (
    2, 1, 0, 9, -1, None, 2.5, 2.0, "2", True, (), (2,), (2, 2), (2, 1, 3), (None,), (None, 2),
    (2, None, 1), (None, None, None), (0, 2), (-1, 2), (2.0, 2), (True, 2), (2, True), ("2", 2),
    (2, (2, 2)), [2], [3, 2], [[2]], np.int64(2), 2**63, 2**64, (2**62, 2**62), torch.tensor(2),
    torch.tensor([2, 2]), range(2), {2}, b"2", 2j, object(), (2, 2, 2, 2), torch.Size((2, 2)),
)  # fmt: skip
INPUTS = {
    "fits": lambda x: x,
    "no batch": lambda x: x[0],
    "an axis too few": lambda x: x[0, 0],
    "an axis too many": lambda x: x[None],
    "scalar": lambda x: torch.tensor(3.0),
    "empty batch": lambda x: x[:0],
    "empty channels": lambda x: x[:, :0],
    "empty plane": lambda x: x[..., :0],
    "half": lambda x: x.half(),
    "integers": lambda x: (9 * x).long(),
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "none": lambda x: None,
    "a list": lambda x: [[1.0]],
}


@pytest.mark.parametrize("name", [n for n in FAMILY if n.startswith("adaptive")])
def test_odd_arguments_end_as_in_pytorch(name):
    """Accepted by PyTorch: the same result here. Refused: the same exception type."""
    random_, dims = random.Random(name), dims_of(name)
    accepted = refused = 0
    wrong = {}
    for _ in range(500):
        size, kind = random_.choice(SIZES), "fits"
        if random_.random() < 0.4:
            kind, size = random_.choice(sorted(INPUTS)), random_.choice(SIZES[:20])
        x = INPUTS[kind](torch.rand(2, 3, *(6, 7, 5)[:dims]))
        theirs, their_error = outcome(getattr(F, name), x, size)
        ours, our_error = outcome(getattr(IF, name), x, size)
        note = call_text(name, kind, (size,), {})
        if their_error is None:
            accepted += 1
            if our_error is not None and not (kind == "complex" and parts(theirs)[0].numel() == 0):
                wrong[f"refused: {our_error!r} {note}"[:300]] = None
            elif ours is not None and [t.shape for t in parts(ours)] != [
                t.shape for t in parts(theirs)
            ]:
                wrong[f"other shape {note}"] = None
            continue
        refused += 1
        if our_error is None:
            if kind != "integers" and type(size) not in (np.int64,):
                wrong[f"accepted, PyTorch: {their_error!r} {note}"[:300]] = None
            continue
        # With two faults it is nobody's business which is found first; what is no tensor is a
        # TypeError, over which PyTorch stumbles otherwise.
        stumbled = isinstance(their_error, AttributeError) and type(our_error) is TypeError
        if type(our_error) is not type(their_error) and not stumbled:
            plain = outcome(getattr(F, name), torch.rand(2, 3, *(6, 7, 5)[:dims]), size)[1]
            if kind == "fits" or plain is None:
                wrong[f"{our_error!r}, PyTorch: {their_error!r} {note}"[:300]] = None
    assert not wrong, "\n".join(wrong)
    assert accepted > 60 and refused > 150, (accepted, refused)


def test_huge_results_are_refused():
    """Never an attempt that ends the process."""
    x = torch.rand(1, 1, 8)
    for size in (2**40, 2**62, 2**63 - 1, 2**64):
        with pytest.raises((RuntimeError, ValueError, MemoryError)):
            IF.adaptive_max_pool1d(x, size)
        with pytest.raises((RuntimeError, ValueError, MemoryError)):
            IF.adaptive_avg_pool2d(x[None], (size, size))

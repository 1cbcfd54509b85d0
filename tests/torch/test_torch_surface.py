"""Names, signatures, reprs, errors and the ways around the kernels: what a caller sees first."""

from __future__ import annotations

import inspect
import pickle
import random
import re
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import infinitypool.nn as inn
from torch_compare import OURS, THEIRS, call_text, outcome, same_bits

pytestmark = pytest.mark.once

MODULES = ("MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d")


def _documented_parameters(name):
    """Names and defaults from the first line of PyTorch's own docstring or its signature."""
    function = THEIRS[name]
    first = (function.__doc__ or "").strip().splitlines()[0]
    if name.endswith("_with_indices"):
        # PyTorch's own signature lists return_indices with a default that it ignores.
        return {k: p.default for k, p in inspect.signature(function).parameters.items()}
    inside = re.fullmatch(rf"{name}\((.*)\)( -> Tensor)?", first).group(1)
    result = {}
    for part in inside.split(", "):
        key, _, default = part.partition("=")
        result[key] = eval(default) if default else inspect.Parameter.empty
    return result


@pytest.mark.parametrize("name", OURS)
def test_function_signatures(name):
    theirs = _documented_parameters(name)
    ours = inspect.signature(OURS[name]).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for key, default in theirs.items():
        # The functions with indices take return_indices and return them whatever it says.
        if not (key == "return_indices" and name.endswith("_with_indices")):
            assert ours[key].default is default or ours[key].default == default, key
        assert ours[key].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD, key
    extra = list(ours)[len(theirs) :]
    assert extra == (["dilation"] if name.startswith("avg") else [])
    assert all(ours[key].default is not inspect.Parameter.empty for key in extra)


@pytest.mark.parametrize("name", MODULES)
def test_module_signatures(name):
    theirs = inspect.signature(getattr(torch.nn, name)).parameters
    ours = inspect.signature(getattr(inn, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for key, parameter in theirs.items():
        assert ours[key].default == parameter.default, key
        assert ours[key].kind is parameter.kind, key
    assert list(ours)[len(theirs) :] == (["dilation"] if name.startswith("Avg") else [])


REPRS = [
    ((1, 2, 3, 4), {}),
    ((2,), {}),
    ((3,), {"stride": 2}),
    ((3, 2, 1), {"ceil_mode": True}),
    ((2,), {"padding": 1}),
]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("arguments, named", REPRS, ids=str)
def test_reprs(name, arguments, named):
    if name.startswith("Avg"):
        arguments = arguments[:3]  # the fourth is ceil_mode there
    assert repr(getattr(inn, name)(*arguments, **named)) == repr(
        getattr(torch.nn, name)(*arguments, **named)
    )


@pytest.mark.parametrize("name", MODULES[1:3] + MODULES[4:])
def test_reprs_of_pairs(name):
    kernel = (3, 2, 1)[: int(name[-2])]
    for named in ({}, {"stride": kernel}, {"padding": (1, 0, 0)[: int(name[-2])]}):
        assert repr(getattr(inn, name)(kernel, **named)) == repr(
            getattr(torch.nn, name)(kernel, **named)
        )


def test_the_repr_that_the_specification_names():
    assert repr(inn.MaxPool2d(1, 2, 3, 4)) == (
        "MaxPool2d(kernel_size=1, stride=2, padding=3, dilation=4, ceil_mode=False)"
    )


@pytest.mark.parametrize("name", MODULES)
def test_missing_kernel_size(name):
    with pytest.raises(TypeError, match="kernel_size"):
        getattr(inn, name)()
    with pytest.raises(TypeError):
        getattr(inn, name)(stride=2)


@pytest.mark.parametrize("name", OURS)
def test_missing_arguments(name):
    with pytest.raises(TypeError):
        OURS[name]()
    with pytest.raises(TypeError, match="kernel_size"):
        OURS[name](torch.zeros(1, 1, 4))
    with pytest.raises(TypeError):
        OURS[name](torch.zeros(1, 1, 4), 2, no_such_argument=1)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_modules(name):
    ours = getattr(inn, name)(2)
    assert isinstance(ours, torch.nn.Module)
    assert not list(ours.parameters()) and not ours.state_dict()
    x = torch.rand(2, 3, *(6, 6, 6)[: int(name[-2])])
    again = pickle.loads(pickle.dumps(ours))
    assert repr(again) == repr(ours)
    same_bits(again(x), ours(x))
    theirs = getattr(torch.nn, name)(2)
    (_, our_error), (_, their_error) = (outcome(m, torch.rand(2)) for m in (ours, theirs))
    assert their_error is not None and type(our_error) is type(their_error)
    for key in ("kernel_size", "stride", "padding", "ceil_mode"):
        assert getattr(ours, key) == getattr(theirs, key)
    changed = getattr(inn, name)(2)
    changed.stride = 1 if name[-2] != "1" or name.startswith("Max") else (1,)
    assert changed(x).shape[-1] == 5, "attributes set later must count"


def test_module_extra_forms():
    x = torch.rand(1, 2, 7, 7)
    m = inn.MaxPool2d(3, 2, padding="same")
    assert m(x).shape == (1, 2, 4, 4) and "same" in repr(m)
    m = inn.AvgPool2d(2, 1, dilation=3)
    assert m(x).shape == (1, 2, 4, 4) and "dilation=3" in repr(m)
    m = inn.MaxPool2d(3, 2, padding=[(4, 0), (0, 4)])
    assert m(x).shape == (1, 2, 5, 5)


@pytest.mark.parametrize("name", OURS)
def test_meta_tensors_go_to_pytorch(name):
    x = torch.empty(2, 3, *(9, 9, 9)[: int(name[name.index("d") - 1])], device="meta")
    ours, theirs = OURS[name](x, 2), THEIRS[name](x, 2)
    for a, b in zip(
        ours if isinstance(ours, tuple) else (ours,),
        theirs if isinstance(theirs, tuple) else (theirs,),
        strict=True,
    ):
        assert a.device.type == "meta" and a.shape == b.shape and a.dtype == b.dtype


class Logged(torch.Tensor):
    calls: ClassVar[list] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.calls.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


class Plain(torch.Tensor):
    pass


@pytest.mark.parametrize("name", OURS)
def test_subclasses(name):
    x = torch.rand(2, 3, *(6, 6, 6)[: int(name[name.index("d") - 1])])

    def first(result):
        return result[0] if isinstance(result, tuple) else result

    want = first(THEIRS[name](x, 2))
    Logged.calls.clear()
    got = first(OURS[name](x.as_subclass(Logged), 2))
    assert Logged.calls, "__torch_function__ was never asked"
    assert type(got) is type(first(THEIRS[name](x.as_subclass(Logged), 2)))
    torch.testing.assert_close(got.as_subclass(torch.Tensor), want)
    got = first(OURS[name](x.as_subclass(Plain), 2))
    assert type(got) is Plain
    torch.testing.assert_close(got.as_subclass(torch.Tensor), want)
    parameter = torch.nn.Parameter(x)
    assert type(first(OURS[name](parameter, 2))) is torch.Tensor


# --- odd arguments -----------------------------------------------------------------------------

NUMBERS = (
    0, 1, 2, 3, -1, 2.0, 2.5, float("nan"), None, "2", True, (), (2,), [3], (2, 2), (2, 1), (2, 2, 2),
    (2, 3, 1), (2, 2, 2, 2), (2, None), (2, 0), (2.0, 2), ("2", 2), (2, (2, 2)), np.int64(2), np.float32(2),
    2**31, -(2**31) - 1, 2**63, 2**64, torch.tensor(2), torch.tensor(2.5), torch.tensor([2, 2]),
    np.array([2, 2]), {2}, b"2", 2j, range(2, 4), object(),
)  # fmt: skip
PADDINGS = (0, 0, 0, 1, 1, -1, 4, None, 0.5, "1", (), (1,), (0, 1), (1, 0, 1), (0, 0, 0, 0), (-1, 0),
            (0, None), True, np.int64(1), torch.tensor(1), 2**31, 2**63)  # fmt: skip
FLAGS = (False, False, True, 0, 1, None, "yes", 2.5, np.bool_(True), torch.tensor(True))
DIVISORS = (None, None, 1, 3, 0, -2, 2.0, "2", True, 2**63, (2,), torch.tensor(2))
INPUTS = {
    "fits": lambda dims: torch.rand(2, 3, *(6, 7, 5)[:dims]),
    "fits, no batch": lambda dims: torch.rand(3, *(6, 7, 5)[:dims]),
    "an axis too few": lambda dims: torch.rand(*(6, 7, 5)[:dims]),
    "an axis too many": lambda dims: torch.rand(1, 2, 3, *(6, 7, 5)[:dims]),
    "scalar": lambda dims: torch.tensor(3.0),
    "empty batch": lambda dims: torch.rand(0, 3, *(6, 7, 5)[:dims]),
    "empty channels": lambda dims: torch.rand(2, 0, *(6, 7, 5)[:dims]),
    "empty plane": lambda dims: torch.rand(2, 3, *(0, 7, 5)[:dims]),
    "empty everything": lambda dims: torch.rand(0, 0, *(0, 0, 0)[:dims]),
    "one element": lambda dims: torch.rand(1, 1, *(1, 1, 1)[:dims]),
    "half": lambda dims: torch.rand(2, 3, *(6, 7, 5)[:dims]).half(),
    "int64": lambda dims: torch.arange(2 * 3 * 6 * 7 * 5)[: 6 * (6, 42, 210)[dims - 1]].reshape(
        2, 3, *(6, 7, 5)[:dims]
    ),
    "complex": lambda dims: torch.rand(2, 3, *(6, 7, 5)[:dims]).to(torch.complex64),
    "quantised": lambda dims: torch.quantize_per_tensor(
        torch.rand(2, 3, *(6, 7, 5)[:dims]), 0.1, 0, torch.quint8
    ),
    "sparse": lambda dims: torch.rand(2, 3, *(6, 7, 5)[:dims]).to_sparse(),
    "none": lambda dims: None,
    "a list": lambda dims: [[1.0, 2.0], [3.0, 4.0]],
    "an array": lambda dims: np.ones((2, 3, *(6, 7, 5)[:dims]), np.float32),
    "text": lambda dims: "x",
}  # fmt: skip


def _odd_call(random_, name):
    """Good arguments with some odd ones, and how many places may be at fault."""
    dims = int(name[name.index("d") - 1])
    named = {"kernel_size": random_.choice((1, 2, 3, 2))}
    pools = {"kernel_size": NUMBERS, "stride": NUMBERS, "padding": PADDINGS, "ceil_mode": FLAGS}
    if name.startswith("max"):
        pools["dilation"] = NUMBERS
        if "indices" not in name:
            pools["return_indices"] = FLAGS
    else:
        pools["count_include_pad"] = FLAGS
        if dims > 1:
            pools["divisor_override"] = DIVISORS
    odd = random_.sample(sorted(pools), random_.choice((0, 1, 1, 1, 1, 2, 3)))
    for key in odd:
        named[key] = random_.choice(pools[key])
    kind = "fits" if odd and random_.random() < 0.8 else random_.choice(sorted(INPUTS))
    return kind, INPUTS[kind](dims), named, len(odd) + (kind != "fits")


def _new_form(name, named):
    """Forms that PyTorch does not have, and that are ours to give."""
    padding = named.get("padding")
    nested = isinstance(padding, (tuple, list)) and any(
        isinstance(p, (tuple, list)) for p in padding
    )
    return padding in ("same", "valid") or nested


def _new_dtype(x, error):
    return (
        isinstance(x, torch.Tensor)
        and isinstance(error, NotImplementedError)
        and not x.is_complex()
    )


def _odd_verdict(name, x, kind, named, places):
    """(what happened, None or what is wrong with it)."""
    note = call_text(name, x, kind, named)
    theirs, their_error = outcome(THEIRS[name], x, **named)
    ours, our_error = outcome(OURS[name], x, **named)
    if their_error is not None:
        if our_error is None:
            new = _new_form(name, named) or _new_dtype(x, their_error)
            return "new", None if new else f"accepted, PyTorch: {their_error!r} {note}"
        # With faults in two places it is nobody's business which one is found first.
        # And where PyTorch stumbles over what is no tensor, TypeError is the word for it.
        stumbled = isinstance(their_error, AttributeError) and type(our_error) is TypeError
        same = type(our_error) is type(their_error) or places > 1 or stumbled
        return "refused", None if same else f"{our_error!r}, PyTorch: {their_error!r} {note}"
    if our_error is not None:
        return "accepted", f"refused: {our_error!r} {note}"
    ours, theirs = (r if isinstance(r, tuple) else (r,) for r in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        if (type(a), a.shape, a.dtype) != (type(b), b.shape, b.dtype):
            return "accepted", f"{a!r}, PyTorch: {b!r} {note}"
        if a.layout == torch.strided and not a.is_quantized:
            near = torch.allclose(a.double(), b.double(), rtol=1e-2, atol=1e-2, equal_nan=True)
            if not near:
                return "accepted", f"other values {note}"
    return "accepted", None


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
@pytest.mark.parametrize("name", OURS)
def test_odd_arguments_end_as_in_pytorch(name):
    """Accepted by PyTorch: the same result here.  Refused: the same exception type."""
    random_ = random.Random(f"odd {name}")
    counts, wrong = {"accepted": 0, "refused": 0, "new": 0}, {}
    for _ in range(1500):
        kind, x, named, places = _odd_call(random_, name)
        happened, fault = _odd_verdict(name, x, kind, named, places)
        counts[happened] += 1
        if fault:
            wrong[fault[:400]] = None
    assert not wrong, f"{len(wrong)} calls:\n" + "\n".join(wrong)
    assert counts["accepted"] > 200 and counts["refused"] > 400, counts


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_new_forms_have_errors_of_their_own(name):
    x = torch.rand(1, 1, 6, 6)
    for padding, error in (
        ([(1, -1), (0, 0)], RuntimeError),
        ([(1, 1, 1), (0, 0)], (RuntimeError, TypeError)),
        ("full", (RuntimeError, TypeError, ValueError)),
    ):
        with pytest.raises(error, match="padding"):
            OURS[name](x, 2, padding=padding)
    with pytest.raises(RuntimeError, match="dilation"):
        OURS[name](x, 2, dilation=0)
    with pytest.raises(RuntimeError, match=f"{name}.*kernel_size=4|{name}.*padding=3"):
        OURS[name](x, 4, padding=3)


def test_messages_name_function_argument_value_and_rule():
    with pytest.raises(RuntimeError) as caught:
        OURS["max_pool2d"](torch.rand(1, 1, 8, 8), 4, padding=3)
    message = str(caught.value)
    assert message.startswith("max_pool2d: ")
    for part in ("padding=3", "kernel_size=4", "half"):
        assert part in message


def test_return_indices_chooses_the_result():
    x = torch.rand(1, 1, 4, 4)
    assert isinstance(OURS["max_pool2d"](x, 2), torch.Tensor)
    values, indices = OURS["max_pool2d"](x, 2, return_indices=True)
    assert indices.dtype == torch.int64
    same_bits(
        F.max_unpool2d(values, indices, 2),
        F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    )

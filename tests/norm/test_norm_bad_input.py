"""What is no good call ends as in PyTorch: with its exception's type, or with its result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import infinitypool as ip
import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from torch_compare import outcome

pytestmark = pytest.mark.once

NAN, INF = float("nan"), float("inf")


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)))


X = rand(4, 6, 5, 3)
HALF, DOUBLE = X.half(), X.double()
ONES = torch.ones(6)
MANY = {n: torch.ones(n) for n in (0, 1, 3, 5, 12, 24)}
INPUTS = {
    "a list": [1.0], "none": None, "an array": np.ones((4, 6)), "a number": 3.0, "a text": "x",
    "integers": torch.ones(4, 6, 5, 3, dtype=torch.int64), "bools": torch.ones(4, 6, 5, 3) > 0,
    "complex": torch.ones(4, 6, 5, 3, dtype=torch.complex64),
}  # fmt: skip
NUMBERS = (
    "1", None, 1j, (1.0,), 1, True, 0.0, -1.0, NAN, INF, 10**400, np.float32(1e-5), np.float64(1e-5),
    torch.tensor(1e-5), torch.tensor([1.0, 2.0]), torch.tensor(1.0, requires_grad=True), object(),
)  # fmt: skip
FLAGS = (1, 0, None, "x", torch.tensor(True), np.True_)
OTHERS = {  # weights, biases and statistics, beside those of other sizes
    "a list": [1.0] * 6, "double": ONES.double(), "half": ONES.half(), "bfloat16": ONES.bfloat16(),
    "integers": ONES.long(), "elsewhere": ONES.to("meta"), "a matrix": torch.ones(2, 3),
    "a column": torch.ones(6, 1), "a scalar": torch.tensor(1.0), "an array": np.ones(6),
}  # fmt: skip

# The arguments behind the input, by name; "input" is X where nothing else is said.
BATCH = {"running_mean": None, "running_var": None, "training": True}
GIVEN = {"running_mean": ONES, "running_var": ONES, "training": False}
CALLS = {"batch_norm": [], "instance_norm": [], "layer_norm": [], "rms_norm": [], "group_norm": []}

batch = CALLS["batch_norm"]
batch += [{**BATCH, "input": value} for value in INPUTS.values()]
batch += [{**BATCH, name: MANY[n]} for name in ("weight", "bias") for n in (0, 1, 5, 12)]
batch += [{**BATCH, name: value} for name in ("weight", "bias") for value in OTHERS.values()]
batch += [
    {**mode, "running_mean": value, "running_var": value}
    for mode in (BATCH, GIVEN)
    for value in (*OTHERS.values(), *MANY.values())
]
batch += [{**GIVEN, "running_mean": ONES, "running_var": MANY[5]}]
batch += [
    {"running_mean": mean, "running_var": var, "training": training}
    for mean, var in ((ONES, None), (None, ONES), (None, None))
    for training in (True, False)
]
batch += [{**mode, "eps": value} for mode in (BATCH, GIVEN) for value in NUMBERS]
batch += [{**BATCH, "momentum": value} for value in NUMBERS]
batch += [{**GIVEN, "training": value} for value in FLAGS]
batch += [
    {**mode, "input": rand(*shape)}
    for mode in (BATCH, GIVEN)
    for shape in (
        (), (6,), (4, 6), (1, 6), (1, 6, 1), (1, 6, 1, 1), (2, 6, 1), (1, 6, 2), (1, 0), (0, 6),
        (0, 6, 5), (4, 6, 0), (0, 6, 0), (2, 6, 2, 2, 2, 2), (4, 5, 3), (1, 6, 0),
    )
]  # fmt: skip
batch += [
    {**mode, "input": HALF, "weight": weight, "bias": bias, **statistics}
    for mode in (BATCH, GIVEN)
    for weight in (None, ONES, ONES.half())
    for bias in (None, ONES, ONES.half(), ONES.double())
    for statistics in (
        {},
        {"running_mean": ONES, "running_var": ONES},
        {"running_mean": ONES.half(), "running_var": ONES.half()},
        {"running_mean": ONES, "running_var": ONES.half()},
    )
]
batch += [{**BATCH, "input": DOUBLE, "weight": ONES}, {**GIVEN, "input": DOUBLE}]
batch += [{**GIVEN, "running_mean": torch.ones(6, requires_grad=True)}]
batch += [{**BATCH, "input": X.to_sparse()}, {**BATCH, "input": X.to("meta")}]
batch += [{**BATCH, "input": X.to("meta"), "weight": ONES}, {"running_mean": ONES}, {}]

instance = CALLS["instance_norm"]
instance += [{"input": value} for value in INPUTS.values()]
instance += [{name: MANY[n]} for name in ("weight", "bias") for n in (0, 1, 3, 5, 24)]
instance += [{name: value} for name in ("weight", "bias") for value in OTHERS.values()]
instance += [
    {"running_mean": value, "running_var": value, "use_input_stats": of_input}
    for of_input in (True, False)
    for value in (*OTHERS.values(), MANY[5], MANY[24])
]
instance += [
    {"running_mean": mean, "running_var": var, "use_input_stats": of_input}
    for mean, var in ((ONES, None), (None, ONES), (None, None))
    for of_input in (True, False)
]
instance += [{"eps": value} for value in NUMBERS] + [{"momentum": value} for value in NUMBERS]
instance += [
    {"running_mean": ONES, "running_var": ONES, "use_input_stats": value} for value in FLAGS
]
instance += [
    {"input": rand(*shape), **mode}
    for mode in ({}, {"running_mean": ONES, "running_var": ONES, "use_input_stats": False})
    for shape in (
        (), (6,), (4, 6), (4, 6, 1), (4, 6, 1, 1), (1, 6, 2), (0, 6, 5), (4, 6, 0), (4, 5, 3),
    )
]  # fmt: skip
instance += [
    {"input": HALF, "weight": weight, "bias": bias}
    for weight in (None, ONES, ONES.half())
    for bias in (None, ONES, ONES.half())
]
instance += [{"input": X.to("meta")}, {"input": DOUBLE, "weight": ONES}]

SHAPES = (
    3, "3", None, 3.0, (3.0,), (True,), (4, 3), (), [], (-1,), (1, 4, 6, 5, 3), (4, 6, 5, 3), ((3,),),
    [5, 3], [3], torch.Size((3,)), torch.tensor([3]), np.array([3]), np.int64(3), (np.int64(3),),
    (torch.tensor(3),), range(3, 4), {3}, (2**64,), (5, 2**64), ("3",), (None,), (3, None), 2**64,
)  # fmt: skip
for name in ("layer_norm", "rms_norm"):
    calls = CALLS[name]
    shape = {"normalized_shape": (3,)}
    names = ("weight", "bias") if name == "layer_norm" else ("weight",)
    calls += [{**shape, "input": value} for value in INPUTS.values()]
    calls += [{"normalized_shape": value} for value in SHAPES]
    calls += [{**shape, n: value} for n in names for value in (*OTHERS.values(), *MANY.values())]
    calls += [{"normalized_shape": (5, 3), n: torch.ones(3, 5)} for n in names]
    calls += [
        {**shape, n: torch.ones(3).to(dtype)}
        for n in names
        for dtype in (torch.float64, torch.float16, torch.int64)
    ]
    calls += [{**shape, "eps": value} for value in NUMBERS]
    calls += [
        {"input": rand(*shape), "normalized_shape": last}
        for shape, last in (
            ((), ()), ((), (1,)), ((3,), (3,)), ((4, 1), (1,)), ((0, 3), (3,)), ((4, 0), (0,)),
            ((0, 0), (0,)), ((4, 0, 3), (0, 3)), ((4, 0, 3), (3,)),
        )
    ]  # fmt: skip
    calls += [
        {**shape, "input": HALF, n: torch.ones(3).to(dtype)}
        for n in names
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    ]
    calls += [{**shape, "input": DOUBLE, "weight": torch.ones(3)}, {}]
    calls += [{**shape, "input": X.to("meta")}]
CALLS["layer_norm"] += [
    {
        "normalized_shape": (3,),
        "input": HALF,
        "weight": torch.ones(3).to(one),
        "bias": torch.ones(3).to(other),
    }
    for one in (torch.float32, torch.float16)
    for other in (torch.float32, torch.float16)
]

group = CALLS["group_norm"]
GROUPS = {"num_groups": 3}
group += [{**GROUPS, "input": value} for value in INPUTS.values()]
group += [
    {"num_groups": value}
    for value in (
        4, 0, -1, -3, 7, 12, "3", 3.0, None, True, np.int64(3), torch.tensor(3), 2**64, -(2**64), [3],
        (3,), 6, 1, torch.tensor([3, 3]), 2.5,
    )
]  # fmt: skip
group += [
    {**GROUPS, name: value}
    for name in ("weight", "bias")
    for value in (*OTHERS.values(), *MANY.values())
]
group += [{**GROUPS, "eps": value} for value in NUMBERS]
group += [
    {"input": rand(*shape), "num_groups": n}
    for shape, n in (
        ((), 1), ((6,), 3), ((4, 6), 3), ((4, 6), 6), ((1, 6), 6), ((1, 6, 1), 6), ((1, 6), 3),
        ((1, 4), 3), ((1, 1, 1, 1), 1), ((0, 6, 5), 3), ((4, 6, 0), 3), ((4, 0, 5), 1),
        ((4, 0, 5), 3), ((1, 0), 1), ((1, 6, 2), 6),
    )
]  # fmt: skip
group += [
    {**GROUPS, "input": HALF, "weight": weight, "bias": bias}
    for weight in (None, ONES, ONES.half())
    for bias in (None, ONES, ONES.half())
]
group += [{**GROUPS, "input": DOUBLE, "weight": ONES}, {**GROUPS, "input": X.to("meta")}, {}]


def _fresh(value):
    """Running statistics are moved: every call has its own."""
    if isinstance(value, torch.Tensor) and not value.is_sparse and value.ndim < 3:
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value


def _text(named):
    def short(value):
        if isinstance(value, torch.Tensor):
            return f"<{value.dtype} {tuple(value.shape)} {value.device}>"
        return repr(value)[:40]

    return ", ".join(f"{name}={short(value)}" for name, value in named.items())


# PyTorch stumbles over what is no tensor, and falls over a parameter without a weight.
_STUMBLES = (AttributeError, TypeError)


def _same_outcome(theirs, ours, note):
    (their_result, their_error), (our_result, our_error) = theirs, ours
    if their_error is None:
        assert our_error is None, f"PyTorch accepts {note}, but: {our_error!r}"
        assert our_result.shape == their_result.shape and our_result.dtype == their_result.dtype
        if their_result.device.type == "cpu":
            loose = {"atol": 5e-3, "rtol": 5e-3} if our_result.dtype.itemsize == 2 else {}
            torch.testing.assert_close(
                our_result,
                their_result,
                equal_nan=True,
                msg=lambda text: f"{note}: {text}",
                **loose,
            )
        return
    assert our_error is not None, f"PyTorch refuses {note} with {their_error!r}"
    same = type(our_error) is type(their_error)
    stumbled = type(our_error) is TypeError and (
        isinstance(their_error, _STUMBLES) or "ambiguous" in str(their_error)
    )
    assert same or stumbled, f"{note}: {our_error!r}, PyTorch: {their_error!r}"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("gradient", (False, True))
def test_bad_calls_end_as_in_pytorch(name, gradient):
    accepted = refused = 0
    for call in CALLS[name]:
        named = {"input": X, **call}
        if gradient and isinstance(named["input"], torch.Tensor):
            x = named["input"]
            if not x.is_floating_point() or x.is_sparse:
                continue
            named["input"] = x.detach().requires_grad_()
        theirs = outcome(getattr(F, name), **{k: _fresh(v) for k, v in named.items()})
        ours = outcome(getattr(IF, name), **{k: _fresh(v) for k, v in named.items()})
        accepted += theirs[1] is None
        refused += theirs[1] is not None
        _same_outcome(theirs, ours, f"{name}({_text(named)})")
    assert accepted > 20 and refused > 30, (accepted, refused)


WORDED = [
    (IF.batch_norm, {**BATCH, "weight": MANY[5]}, ("batch_norm", "weight", "(5,)", "(6,)")),
    (IF.batch_norm, {**GIVEN, "running_var": MANY[5]}, ("batch_norm", "running_var", "(5,)")),
    (IF.batch_norm, {"running_mean": None, "running_var": None}, ("running_mean", "training")),
    (IF.batch_norm, {**BATCH, "input": rand(1, 6, 1)}, ("batch_norm", "(1, 6, 1)", "one value")),
    (IF.batch_norm, {**BATCH, "eps": 0.0}, ("batch_norm", "eps=0.0", "above 0")),
    (IF.batch_norm, {**BATCH, "momentum": "a"}, ("batch_norm", "momentum='a'", "number")),
    (IF.batch_norm, {**BATCH, "training": 1}, ("batch_norm", "training=1", "bool")),
    (IF.instance_norm, {"running_mean": ONES}, ("instance_norm", "running_mean", "running_var")),
    (IF.instance_norm, {"input": rand(4, 6, 1)}, ("instance_norm", "(4, 6, 1)", "one value")),
    (IF.layer_norm, {"normalized_shape": (4, 3)}, ("layer_norm", "(4, 3)", "(4, 6, 5, 3)")),
    (IF.layer_norm, {"normalized_shape": ()}, ("layer_norm", "normalized_shape", "empty")),
    (IF.layer_norm, {"normalized_shape": 3}, ("layer_norm", "normalized_shape=3", "tuple")),
    (
        IF.layer_norm,
        {"normalized_shape": (3,), "weight": torch.ones(3).double()},
        ("layer_norm", "weight", "float64", "float32"),
    ),
    (IF.rms_norm, {"normalized_shape": (3,), "eps": "a"}, ("rms_norm", "eps='a'", "number")),
    (IF.group_norm, {"num_groups": 4}, ("group_norm", "num_groups=4", "6 channels")),
    (IF.group_norm, {"num_groups": 0}, ("group_norm", "num_groups=0", "1 or more")),
    (IF.group_norm, {"num_groups": 3, "activation": "tanh"}, ("activation='tanh'", "relu")),
    (IF.group_norm, {"num_groups": 3, "activation": 1}, ("group_norm", "activation=1", "str")),
    (
        IF.group_norm,
        {"num_groups": 3, "activation": "leaky_relu", "negative_slope": "a"},
        ("group_norm", "negative_slope='a'", "number"),
    ),
    (IF.group_norm, {"num_groups": 3, "weight": [1.0] * 6}, ("group_norm", "weight", "list")),
    (
        IF.group_norm,
        {"input": X.long(), "num_groups": 3},
        ("group_norm", "int64", "float32", "bfloat16"),
    ),
    (IF.local_response_norm, {"size": 0}, ("local_response_norm", "size=0", "1 or more")),
    (IF.local_response_norm, {"size": 2.0}, ("local_response_norm", "size=2.0", "int")),
    (IF.local_response_norm, {"size": 2, "alpha": "a"}, ("alpha='a'", "number")),
]


@pytest.mark.parametrize("function, named, words", WORDED)
def test_errors_name_what_is_wrong(function, named, words):
    _, error = outcome(function, **{"input": X, **named})
    assert error is not None
    for word in words:
        assert word in str(error), f"{word!r} is not in {error}"


@pytest.mark.parametrize(
    "call",
    [
        *({"size": s} for s in (0, -1, 1, 2, 7, 20, 3.0, "3", None, True, (3,), np.int64(3), 2**70)),
        {"size": torch.tensor(3)},
        *({"size": 3, "input": value} for value in INPUTS.values()),
        *({"size": 3, "input": rand(*shape)} for shape in (
            (), (6,), (4, 6), (4, 6, 5), (2, 4, 6, 5, 3), (2, 4, 6, 5, 3, 2), (0, 6, 5), (4, 0, 5),
            (1, 1, 1),
        )),
        *({"size": 3, name: value} for name in ("alpha", "beta", "k") for value in (
            "a", None, (1.0,), 2, 0.0, -0.5, torch.tensor(0.5), True,
        )),
        {"size": 3, "alpha": 1j}, {"size": 3, "input": rand(4, 6, 5).half()}, {},
    ],
    ids=_text,
)  # fmt: skip
def test_bad_local_responses(call):
    named = {"input": X, **call}
    if type(call.get("size")) is int and call["size"] > 99:  # a window that no memory holds
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            IF.local_response_norm(**named)
        return
    theirs, ours = (outcome(m.local_response_norm, **named) for m in (F, IF))
    _same_outcome(theirs, ours, _text(named))


MODULES = {
    "BatchNorm1d": (
        (6,),
        [(2, 6), (2, 6, 3), (6,), (2, 6, 3, 3), (2, 5), (1, 6), (0, 6), (1, 6, 1)],
    ),
    "BatchNorm2d": ((6,), [(2, 6, 3, 3), (2, 6, 3), (2, 6, 3, 3, 3), (2, 5, 3, 3), (0, 6, 3, 3)]),
    "BatchNorm3d": ((6,), [(2, 6, 3, 3, 2), (6, 3, 3, 2), (2, 5, 3, 3, 2), (1, 6, 1, 1, 1)]),
    "InstanceNorm1d": ((6,), [(2, 6, 3), (6, 3), (6,), (2, 5, 3), (2, 6, 1), (5, 3), (0, 6, 3)]),
    "InstanceNorm2d": ((6,), [(2, 6, 3, 3), (6, 3, 3), (6, 3), (2, 5, 3, 3), (2, 6, 1, 1)]),
    "InstanceNorm3d": ((6,), [(2, 6, 3, 3, 2), (6, 3, 3, 2), (6, 3), (2, 5, 3, 3, 2)]),
    "LayerNorm": ((6,), [(2, 6), (6,), (2, 5), (), (0, 6), (2, 6, 1)]),
    "RMSNorm": ((6,), [(2, 6), (6,), (2, 5), (), (0, 6), (2, 6, 1)]),
    "GroupNorm": ((3, 6), [(2, 6), (2, 6, 4), (6,), (2, 9, 4), (2, 5), (0, 6, 2), (2, 3)]),
    "LocalResponseNorm": ((2,), [(2, 6), (2, 6, 4), (6,), (2, 6, 2, 2), (0, 6, 2)]),
}


@pytest.mark.filterwarnings("ignore:input's size at dim")
@pytest.mark.parametrize("name", MODULES)
def test_bad_shapes_in_modules(name):
    arguments, shapes = MODULES[name]
    variants = [{}]
    if "Instance" in name:
        variants += [{"affine": True}, {"track_running_stats": True}]
    if "Batch" in name:
        variants += [{"track_running_stats": False}, {"affine": False}]
    for named in variants:
        for shape in shapes:
            for train in (True, False):
                for dtype in (torch.float32, torch.float16, torch.int64):
                    x = rand(*shape).to(dtype)
                    if name == "LocalResponseNorm" and dtype == torch.float16:
                        continue  # PyTorch has no mean of three axes in half precision
                    modules = [getattr(m, name)(*arguments, **named) for m in (torch.nn, inn)]
                    outcomes = [outcome(module.train(train), x) for module in modules]
                    note = f"{name} {named} of {shape} {dtype}, training {train}"
                    _same_outcome(*outcomes, note)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("BatchNorm1d", (-1,)), ("BatchNorm2d", ("a",)), ("BatchNorm3d", ()), ("LayerNorm", ("a",)),
        ("LayerNorm", ()), ("GroupNorm", (4, 6)), ("GroupNorm", (0, 6)), ("GroupNorm", (3,)),
        ("InstanceNorm1d", (None,)), ("RMSNorm", ((3.0,),)), ("LocalResponseNorm", ()),
    ],
)  # fmt: skip
def test_bad_constructions(name, arguments):
    theirs, ours = (outcome(getattr(m, name), *arguments) for m in (torch.nn, inn))
    assert (theirs[1] is None) == (ours[1] is None) and type(theirs[1]) is type(ours[1])
    with pytest.raises(TypeError):
        getattr(inn, name)(*(arguments or (6,)), no_such_argument=1)


def test_unknown_activations_of_modules():
    for activation, error in (("tanh", RuntimeError), (3, TypeError)):
        module = inn.LayerNorm(3, activation=activation)
        with pytest.raises(error, match="activation"):
            module(X)


@pytest.mark.parametrize("name", ["batch", "instance", "layer", "rms", "group"])
def test_bad_residuals(name):
    function = getattr(IF, f"add_{name}_norm")
    named = {"batch": BATCH, "layer": {"normalized_shape": (3,)}, "group": GROUPS}.get(name, {})
    named = named or ({"normalized_shape": (3,)} if name == "rms" else {})
    for residual in (None, 1.0, [1.0], "x"):
        with pytest.raises(TypeError, match="residual"):
            function(X, residual, **named)
    with pytest.raises(RuntimeError):
        function(X, rand(4, 6, 5, 2), **named)
    # PyTorch's rules of + decide about other shapes and dtypes.
    for residual in (
        rand(3),
        rand(4, 6, 5, 3).double(),
        rand(4, 6, 5, 3).half(),
        rand(2, 4, 6, 5, 3),
    ):
        if residual.ndim == 5 and name in ("batch", "group", "instance"):
            continue
        y, total = function(X, residual, **named)
        assert torch.equal(total, X + residual)
        torch.testing.assert_close(y, getattr(IF, f"{name}_norm")(X + residual, **named))


def test_a_region_keeps_its_own_infinities_and_nans():
    for bad in (NAN, INF, -INF):
        for name, named, region in (
            ("batch_norm", BATCH, np.s_[:, 1]),
            ("instance_norm", {}, np.s_[2, 1]),
            ("layer_norm", {"normalized_shape": (5, 3)}, np.s_[2, 1]),
            ("rms_norm", {"normalized_shape": (5, 3)}, np.s_[2, 1]),
            ("group_norm", GROUPS, np.s_[2, :2]),
        ):
            x = X.clone()
            x[2, 1, 3, 1] = bad
            theirs, ours = (getattr(m, name)(x, **named) for m in (F, IF))
            torch.testing.assert_close(ours, theirs, equal_nan=True)
            inside = torch.zeros(X.shape, dtype=torch.bool)
            inside[region] = True
            assert ours[~inside].isfinite().all()
            assert torch.equal(ours[~inside], getattr(IF, name)(X, **named)[~inside])


# --- array functions -----------------------------------------------------------------------

A = X.numpy()
BAD_ARRAYS = [
    (ip.layer_norm, (A.astype(np.int64),), {}, TypeError, ("layer_norm", "int64", "bfloat16")),
    (ip.rms_norm, (A > 0,), {}, TypeError, ("rms_norm", "bool", "float32")),
    (ip.batch_norm, (A.astype(complex),), {}, TypeError, ("batch_norm", "complex128")),
    (ip.batch_norm, (A.astype(">f4"),), {}, TypeError, ("batch_norm", "byte order")),
    (ip.batch_norm, (np.ma.array(A),), {}, TypeError, ("batch_norm", "masked")),
    (ip.batch_norm, (X.to("meta"),), {}, ValueError, ("batch_norm", "meta")),
    (ip.batch_norm, (A[0, 0, 0],), {}, ValueError, ("batch_norm", "(3,)")),
    (ip.batch_norm, (A,), {"mean": np.ones(6)}, ValueError, ("batch_norm", "mean", "var")),
    (ip.batch_norm, (A,), {"var": np.ones(6)}, ValueError, ("batch_norm", "mean", "var")),
    (ip.batch_norm, (A,), {"weight": np.ones(5)}, ValueError, ("weight", "(5,)", "(6,)")),
    (ip.batch_norm, (A,), {"weight": np.ones((6, 1))}, ValueError, ("weight", "(6, 1)")),
    (ip.batch_norm, (A,), {"bias": [1j] * 6}, TypeError, ("bias", "complex128")),
    (ip.batch_norm, (A,), {"bias": ["a"] * 6}, TypeError, ("bias",)),
    (ip.batch_norm, (A,), {"channel_axis": 4}, ValueError, ("channel_axis=4", "4")),
    (ip.batch_norm, (A,), {"channel_axis": 1.0}, TypeError, ("channel_axis=1.0", "int")),
    (ip.batch_norm, (A,), {"channel_axis": True}, TypeError, ("channel_axis=True", "int")),
    (ip.batch_norm, (A,), {"eps": -1.0}, ValueError, ("eps=-1.0", "0 or more")),
    (ip.batch_norm, (A,), {"eps": NAN}, ValueError, ("eps", "0 or more")),
    (ip.batch_norm, (A,), {"eps": "a"}, TypeError, ("eps='a'", "number")),
    (ip.batch_norm, (A,), {"eps": None}, TypeError, ("eps=None", "number")),
    (ip.batch_norm, (A,), {"eps": True}, TypeError, ("eps=True", "number")),
    (ip.batch_norm, (A,), {"eps": 10**400}, ValueError, ("eps", "too large")),
    (ip.batch_norm, (A,), {"activation": "tanh"}, ValueError, ("activation", "relu", "gelu")),
    (ip.batch_norm, (A,), {"activation": 1}, TypeError, ("activation=1", "str")),
    (ip.layer_norm, (A, 4), {}, ValueError, ("axes=4", "4 axes")),
    (ip.layer_norm, (A, (1, -3)), {}, ValueError, ("axes=(1, -3)", "twice")),
    (ip.layer_norm, (A, ()), {}, ValueError, ("axes=()", "empty")),
    (ip.layer_norm, (A, 1.5), {}, TypeError, ("axes=1.5", "int")),
    (ip.layer_norm, (A, None), {}, TypeError, ("axes",)),
    (ip.layer_norm, (A, (2, 3)), {"weight": np.ones((3, 5))}, ValueError, ("(3, 5)", "(5, 3)")),
    (ip.layer_norm, (np.float32(1.0),), {}, ValueError, ("axes=-1", "0 axes")),
    (ip.rms_norm, (A,), {"bias": np.ones(3)}, TypeError, ("bias",)),
    (ip.group_norm, (A, 4), {}, ValueError, ("num_groups=4", "6 channels")),
    (ip.group_norm, (A, 0), {}, ValueError, ("num_groups=0", "1 or more")),
    (ip.group_norm, (A, -3), {}, ValueError, ("num_groups=-3", "1 or more")),
    (ip.group_norm, (A, 2.0), {}, TypeError, ("num_groups=2.0", "int")),
    (ip.group_norm, (A, None), {}, TypeError, ("num_groups=None", "int")),
    (ip.group_norm, (A, 2**70), {}, ValueError, ("num_groups",)),
    (ip.group_norm, (A,), {}, TypeError, ("num_groups",)),
    (ip.instance_norm, ([[1, 2], [3]],), {}, ValueError, ("instance_norm", "array")),
    (ip.instance_norm, (A,), {"out": A}, None, ()),
    (ip.instance_norm, (A,), {"out": [1.0]}, TypeError, ("out", "list")),
    (ip.instance_norm, (A,), {"out": np.empty(A.shape)}, TypeError, ("out", "float64")),
    (ip.instance_norm, (A,), {"out": np.empty((4, 6, 5), "f4")}, ValueError, ("out", "(4, 6, 5)")),
    (ip.instance_norm, (A,), {"out": np.empty(A.shape, ">f4")}, TypeError, ("out",)),
    (
        ip.instance_norm,
        (A,),
        {"out": np.broadcast_to(np.float32(0), A.shape)},
        ValueError,
        ("out", "read-only"),
    ),
    (
        ip.instance_norm,
        (A,),
        {"out": torch.empty(A.shape, requires_grad=True)},
        ValueError,
        ("out", "gradient"),
    ),
]


@pytest.mark.parametrize("function, arguments, named, error, words", BAD_ARRAYS)
def test_bad_calls_of_array_functions(function, arguments, named, error, words):
    if error is None:
        arguments = (arguments[0].copy(),)
        function(*arguments, out=arguments[0])
        return
    with pytest.raises(error) as found:
        function(*arguments, **named)
    for word in words:
        assert word in str(found.value), f"{word!r} is not in {found.value}"


def test_targets_that_overlap():
    x = np.zeros((5, 4, 6), np.float32)
    for out in (x[:, ::-1], x[::-1]):
        with pytest.raises(ValueError, match="overlaps x"):
            ip.layer_norm(x, out=out)
    longer = np.zeros((6, 4, 6), np.float32)
    with pytest.raises(ValueError, match="overlaps x"):
        ip.layer_norm(longer[1:], out=longer[:-1])
    repeated = np.lib.stride_tricks.as_strided(np.zeros(99, np.float32), (5, 4, 6), (24, 4, 4))
    with pytest.raises(ValueError, match="overlap each other"):
        ip.layer_norm(x, out=repeated)
    odd = np.zeros(4 * 120 + 1, np.uint8)[1:].view(np.float32).reshape(5, 4, 6)
    with pytest.raises(ValueError, match="aligned"):
        ip.layer_norm(x, out=odd)

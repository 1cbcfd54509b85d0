"""The norms' names, signatures, state, layouts and ways around the kernels: what a caller sees."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

import infinitypool as ip
import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from infinitypool.nn import norm_modules, norms
from infinitypool.spec import TORCH, norm_spec, norm_spec_from_text

pytestmark = pytest.mark.once

ACTIVATIONS = {
    None: lambda y, slope: y,
    "relu": lambda y, slope: F.relu(y),
    "leaky_relu": F.leaky_relu,
    "silu": lambda y, slope: F.silu(y),
    "gelu": lambda y, slope: F.gelu(y),
}
NORMS = ("batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm")
ADDING = tuple(f"add_{name}" for name in NORMS)
OWN = ["activation", "negative_slope"]


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _arguments(name, channels=6, last=3):
    """What follows the input (and the residual), for one of the norms."""
    weight, bias = rand(channels, seed=1), rand(channels, seed=2)
    name = name.removeprefix("add_")
    if name == "batch_norm":
        return (None, None, weight, bias, True), {}
    if name == "instance_norm":
        return (None, None, weight, bias), {}
    if name == "group_norm":
        return (3, weight, bias), {}
    weight = rand(last, seed=1)
    return ((last,), weight), {} if name == "rms_norm" else {"bias": rand(last, seed=2)}


def _both(name, x, **more):
    arguments, named = _arguments(name, x.shape[1], x.shape[-1])
    arguments = [a.to(x.dtype) if isinstance(a, torch.Tensor) else a for a in arguments]
    named = {key: value.to(x.dtype) for key, value in named.items()}
    return (
        getattr(IF, name)(x, *arguments, **named, **more),
        getattr(F, name)(x, *arguments, **named),
    )


# --- functions -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NORMS, "local_response_norm"])
def test_function_signatures(name):
    theirs = inspect.signature(getattr(F, name)).parameters
    ours = inspect.signature(getattr(IF, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for key, parameter in theirs.items():
        assert ours[key].default == parameter.default, key
        assert ours[key].kind is parameter.kind, key
    assert list(ours)[len(theirs) :] == ([] if name.startswith("local") else OWN)
    for key, default in zip(OWN, (None, 0.01), strict=True):
        if key in ours:
            assert ours[key].kind is inspect.Parameter.KEYWORD_ONLY
            assert ours[key].default == default
    assert getattr(IF, name).__name__ == getattr(IF, name).__qualname__ == name


@pytest.mark.parametrize("name", ADDING)
def test_signatures_behind_a_sum(name):
    alone = list(inspect.signature(getattr(IF, name.removeprefix("add_"))).parameters.values())
    adding = list(inspect.signature(getattr(IF, name)).parameters.values())
    assert [p.name for p in adding[:2]] == ["input", "residual"] and adding[0] == alone[0]
    assert adding[2:] == alone[1:]
    assert getattr(IF, name).__name__ == name


@pytest.mark.parametrize("name", [*NORMS, *ADDING, "local_response_norm"])
def test_calls_that_python_refuses(name):
    function = getattr(IF, name)
    with pytest.raises(TypeError, match="input"):
        function()
    with pytest.raises(TypeError):
        function(rand(2, 6, 4), no_such_argument=1)
    with pytest.raises(TypeError):
        function(*[rand(2, 6, 4)] * 13)
    if name.startswith("add"):
        with pytest.raises(TypeError, match="residual"):
            function(rand(2, 6, 4))
    for x in (None, [1.0], np.ones((2, 6, 4)), 3, "x"):
        arguments, named = ((2,), {}) if name.startswith("local") else _arguments(name)
        with pytest.raises(TypeError):
            function(x, *([x] if name.startswith("add") else []), *arguments, **named)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_positions_names_and_activations(name, activation):
    x = rand(4, 6, 5, 3) - 0.5
    more = {} if activation is None else {"activation": activation, "negative_slope": 0.2}
    ours, theirs = _both(name, x, **more)
    torch.testing.assert_close(ours, ACTIVATIONS[activation](theirs, 0.2))
    arguments, named = _arguments(name, 6, 3)
    bound = inspect.signature(getattr(IF, name)).bind(x, *arguments, **named, **more)
    assert torch.equal(getattr(IF, name)(**bound.arguments), ours)
    residual = rand(4, 6, 5, 3, seed=5)
    sums = getattr(IF, f"add_{name}")(x - residual, residual, *arguments, **named, **more)
    assert isinstance(sums, tuple) and len(sums) == 2
    assert torch.equal(sums[1], x - residual + residual)
    torch.testing.assert_close(sums[0], ours)
    named = {key: value for key, value in bound.arguments.items() if key != "input"}
    by_name = getattr(IF, f"add_{name}")(input=x - residual, residual=residual, **named)
    assert torch.equal(by_name[0], sums[0]) and torch.equal(by_name[1], sums[1])


def test_every_function_is_public():
    for name in (*NORMS, *ADDING, "local_response_norm"):
        assert name in IF.__all__ and getattr(IF, name) is getattr(norms, name)
    assert set(norm_modules.__all__) < set(inn.__all__)
    assert all(name in ip.__all__ for name in NORMS)


def test_specs_cross_the_dispatcher_as_text():
    fronts = {"front": TORCH}
    for spec in (
        norm_spec("batch_norm", "batch", eps=1e-5, **fronts),
        norm_spec("add_instance_norm", "instance", eps=0.0, activation="gelu", **fronts),
        norm_spec("group_norm", "group", eps=1e-300, num_groups=3, activation="relu", **fronts),
        norm_spec("layer_norm", "layer", eps=0.1, normalized_shape=(5, 3), **fronts),
        norm_spec("rms_norm", "rms", eps=None, normalized_shape=[7], **fronts),
        norm_spec("rms_norm", "rms", eps=None, axes=(2, 0), ndim=3),
        norm_spec("group_norm", "group", eps=1e-5, num_groups=1, channel_axis=-1, ndim=4),
        norm_spec("x", "batch", eps=1, activation="leaky_relu", negative_slope=-0.3),
    ):
        assert norm_spec_from_text(spec.text) == spec
        for broken in (
            spec.text + " more=1",
            spec.text.replace("kind=", "kin="),
            spec.text.replace("front=", "front=x"),
            spec.text.replace("eps=", "eps=x"),
            spec.text + " activation=tanh",
            spec.text + " slope=a",
            spec.function,
            "",
        ):
            with pytest.raises(ValueError, match="no spec of a norm"):
                norm_spec_from_text(broken)
    for text in (
        "layer_norm kind=layer front=numpy eps=1e-05 axes=1",
        "layer_norm kind=layer front=numpy eps=1e-05 axes=-1,-1",
        "layer_norm kind=layer front=numpy eps=1e-05 channel_axis=1",
        "layer_norm kind=layer front=torch eps=1e-05 axes=-2,-1 normalized_shape=3",
        "batch_norm kind=batch front=torch eps=1e-05 axes=-1",
        "batch_norm kind=batch front=torch eps=1e-05 groups=2",
        "batch_norm kind=batch front=torch eps=1e-05 channel_axis=-1",
        "group_norm kind=group front=torch eps=1e-05 channel_axis=1",
    ):
        with pytest.raises(ValueError, match="no spec of a norm"):
            norm_spec_from_text(text)


# --- layouts -------------------------------------------------------------------------------

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "turned around": lambda x: x.permute(*reversed(range(x.ndim))).contiguous().permute(
        *reversed(range(x.ndim))
    ),
    "batch inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "part": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    "expanded": lambda x: x[:1].expand(x.shape),
    "expanded inside": lambda x: x[..., :1].expand(x.shape),
}  # fmt: skip


def _order(tensor):
    """The axes from outermost to innermost, of a dense tensor without axes of one."""
    return sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 3), (2, 6, 5, 3, 4)], ids=str)
def test_results_are_laid_out_like_the_input(name, layout, shape):
    x = LAYOUTS[layout](rand(*shape))
    ours, theirs = _both(name, x)
    torch.testing.assert_close(ours, theirs)
    steps = sorted(ours.stride())
    assert steps[0] == 1 and ours.numel() == max(
        step * n for step, n in zip(ours.stride(), ours.shape, strict=True)
    ), "results are dense"
    if name in ("layer_norm", "rms_norm") and x.ndim == 3 and x.stride(-1) != 1:
        assert ours.is_contiguous() and theirs.is_contiguous(), "tokens, as PyTorch's"
    elif "expanded" not in layout:
        assert _order(ours) == _order(x)
    if layout == "channels last" and x.ndim > 3:
        last = {4: torch.channels_last, 5: torch.channels_last_3d}[x.ndim]
        assert ours.is_contiguous(memory_format=last)
    residual = rand(*shape, seed=3)
    arguments, named = _arguments(name, shape[1], shape[-1])
    y, total = getattr(IF, f"add_{name}")(x, residual, *arguments, **named)
    assert y.stride() == total.stride() == ours.stride()
    torch.testing.assert_close(y, getattr(F, name)(x + residual, *arguments, **named))
    y.sum()
    grown = x.detach().requires_grad_()
    result = getattr(IF, name)(grown, *arguments, **named)
    assert result.stride() == ours.stride() and torch.equal(result, ours)


@pytest.mark.parametrize("name", NORMS)
def test_large_results(name):
    """Those come from recycled memory."""
    x = rand(8, 33, 40, 32).requires_grad_()
    ours, theirs = _both(name, x)
    torch.testing.assert_close(ours, theirs)
    (a,), (b,) = (torch.autograd.grad((y * y.detach()).sum(), x) for y in (ours, theirs))
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    with torch.no_grad():
        ours += 1
        assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("size", (1, 2, 3, 5, 6, 9))
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "turned around", "part"])
@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 3), (2, 3, 2, 3, 2), (2, 1, 3)], ids=str)
def test_local_responses(size, layout, shape):
    x = LAYOUTS[layout](rand(*shape)).requires_grad_()
    numbers = size, 0.5, 0.75, 2.0
    ours = IF.local_response_norm(x, *numbers)
    theirs = F.local_response_norm(x.contiguous(), *numbers)  # it refuses some layouts
    torch.testing.assert_close(ours, theirs)
    if layout != "part" and 1 not in shape:
        assert ours.stride() == x.stride()
    grad = rand(*shape, seed=7)
    (a,), (b,) = (torch.autograd.grad(y, x, grad) for y in (ours, theirs))
    torch.testing.assert_close(a, b)
    module = inn.LocalResponseNorm(size, 0.5, 0.75, 2.0)
    assert torch.equal(module(x), ours) and "alpha=0.5" in repr(module)


# --- dtypes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("half", (torch.float16, torch.bfloat16))
def test_half_input_with_wide_parameters(name, half):
    x = (rand(4, 6, 5, 3) - 0.3).to(half).requires_grad_()
    arguments, named = _arguments(name)
    leaves = [a.requires_grad_() for a in (*arguments, *named.values()) if torch.is_tensor(a)]
    ours = getattr(IF, name)(x, *arguments, **named)
    wide = getattr(F, name)(x.float(), *arguments, **named)
    assert ours.dtype == half
    torch.testing.assert_close(ours, wide.to(half), atol=1e-2, rtol=1e-2)
    grads = torch.autograd.grad(ours.float().square().sum(), [x, *leaves])
    theirs = torch.autograd.grad(wide.square().sum(), [x, *leaves])
    for a, b in zip(grads, theirs, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=0.15, rtol=0.05)
    assert grads[1].dtype == torch.float32


@pytest.mark.parametrize("half", (torch.float16, torch.bfloat16))
def test_half_running_statistics(half):
    x = rand(4, 6, 5, 3).to(half)
    for stats in (half, torch.float32):
        ours, theirs = ([torch.zeros(6).to(stats), torch.ones(6).to(stats)] for _ in range(2))
        y, z = IF.batch_norm(x, *ours, training=True), F.batch_norm(x, *theirs, training=True)
        torch.testing.assert_close(y, z, atol=2e-2, rtol=2e-2)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == stats
            torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", [*NORMS, "local_response_norm"])
def test_autocast(name):
    """PyTorch's norms do what they do without it, but for the mean in a local response."""
    for lower in (torch.bfloat16, torch.float16):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            for shape in ((4, 6, 5), (4, 6, 5, 3)):
                x = rand(*shape).to(dtype)
                with torch.autocast("cpu", lower):
                    if name.startswith("local"):
                        ours, theirs = (m.local_response_norm(x, 3) for m in (IF, F))
                    else:
                        ours, theirs = _both(name, x)
                assert ours.dtype == theirs.dtype, (dtype, lower, shape)
                loose = {"atol": 4e-2, "rtol": 4e-2} if ours.dtype.itemsize == 2 else {}
                torch.testing.assert_close(ours, theirs, **loose)


# --- around the kernels --------------------------------------------------------------------


class Logged(torch.Tensor):
    calls = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.calls += 1
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("name", [*NORMS, *ADDING])
def test_other_devices_and_subclasses(name):
    function = getattr(IF, name)
    arguments, named = _arguments(name)
    inputs = [rand(4, 6, 5, 3)] * (1 + name.startswith("add"))

    def parts(result):
        return result if isinstance(result, tuple) else (result,)

    want = parts(function(*inputs, *arguments, **named))

    def there(value):
        return value.to("meta") if torch.is_tensor(value) else value

    moved = {key: there(value) for key, value in named.items()}
    for a, b in zip(
        parts(function(*map(there, inputs), *map(there, arguments), **moved)), want, strict=True
    ):
        assert a.device.type == "meta" and a.shape == b.shape and a.dtype == b.dtype
    places = range(len(inputs) + len(arguments))
    for place in places:
        given = [*inputs, *arguments]
        if not torch.is_tensor(given[place]):
            continue
        given[place] = given[place].as_subclass(Logged)
        Logged.calls = 0
        got = parts(function(*given, **named))
        assert Logged.calls and type(got[0]) is Logged
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.as_subclass(torch.Tensor), b)
    parameter = torch.nn.Parameter(inputs[0])
    got = parts(function(parameter, *inputs[1:], *arguments, **named))
    assert type(got[0]) is torch.Tensor and torch.equal(got[0], want[0])


@pytest.mark.parametrize("name", NORMS)
def test_the_operator_and_the_short_way_are_one(name):
    """What a mode sees is computed by the same kernel."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = rand(4, 6, 5, 3)
    arguments, named = _arguments(name)
    want = getattr(IF, name)(x, *arguments, **named)
    with Mode():
        got = getattr(IF, name)(x, *arguments, **named)
    assert "infinitypool.norm.default" in seen and torch.equal(got, want)
    leaf = x.clone().requires_grad_()
    with Mode():
        got = getattr(IF, name)(leaf, *arguments, **named)
        (grad,) = torch.autograd.grad(got.sum(), leaf)
    assert "infinitypool.norm_backward.default" in seen and torch.equal(got, want)
    assert torch.equal(grad, torch.autograd.grad(
        getattr(IF, name)(leaf, *arguments, **named).sum(), leaf
    )[0])  # fmt: skip
    with torch.inference_mode():
        assert torch.equal(getattr(IF, name)(x, *arguments, **named), want)
        assert torch.equal(getattr(IF, name)(x.clone(), *arguments, **named), want)
    with torch.profiler.profile() as profile:
        getattr(IF, name)(x, *arguments, **named)
    assert "infinitypool::norm" in {event.key for event in profile.key_averages()}
    text = "layer_norm kind=layer front=torch eps=1e-05 axes=-1 normalized_shape=3"
    assert torch.ops.infinitypool.norm(leaf, None, None, text).requires_grad
    with pytest.raises(ValueError, match="no spec of a norm"):
        torch.ops.infinitypool.norm(x, None, None, "layer_norm kind=layer")


@pytest.mark.parametrize("name", NORMS)
def test_views_that_are_negative(name):
    """Their bits say the opposite of what they mean."""
    z = torch.complex(rand(4, 6, 5, 3), rand(4, 6, 5, 3, seed=3) - 0.5)
    view = z.conj().imag
    assert view.is_neg()
    ours, _ = _both(name, view)
    torch.testing.assert_close(ours, _both(name, view.resolve_neg())[1])


@pytest.mark.parametrize("name", NORMS)
def test_transformations(name):
    arguments, named = _arguments(name)
    x, tangent = rand(4, 6, 5, 3), rand(4, 6, 5, 3, seed=4)

    def of(module):
        return lambda x: getattr(module, name)(x, *arguments, **named)

    for transform in (
        lambda f: torch.func.grad(lambda x: f(x).square().sum())(x),
        lambda f: torch.func.jvp(f, (x,), (tangent,))[1],
        lambda f: torch.func.vmap(f)(torch.stack((x, x + tangent))),
        lambda f: torch.func.vjp(f, x)[1](tangent)[0],
    ):
        torch.testing.assert_close(transform(of(IF)), transform(of(F)), atol=1e-4, rtol=1e-4)
    leaf = x.clone().requires_grad_()
    y = of(IF)(leaf)
    rows = torch.stack((tangent, x))
    (together,) = torch.autograd.grad(y, leaf, rows, is_grads_batched=True, retain_graph=True)
    for row, grad in zip(rows, together, strict=True):
        (want,) = torch.autograd.grad(y, leaf, row, retain_graph=True)
        torch.testing.assert_close(grad, want, atol=1e-4, rtol=1e-4)


def test_gradients_that_are_wanted_alone():
    x, w, b = rand(4, 6, 5), rand(6, seed=1), rand(6, seed=2)
    grad = rand(4, 6, 5, seed=3)
    for wanted in range(1, 8):
        leaves = [t.clone().requires_grad_(bool(wanted >> i & 1)) for i, t in enumerate((x, w, b))]
        inputs = [t for t in leaves if t.requires_grad]
        ours, theirs = (
            torch.autograd.grad(
                m.batch_norm(leaves[0], None, None, *leaves[1:], training=True), inputs, grad
            )
            for m in (IF, F)
        )
        for a, c in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, c)
    with torch.no_grad():
        assert not IF.batch_norm(x.requires_grad_(), None, None, w, b, True).requires_grad


def test_what_is_kept_for_backward():
    """The input, the parameters, and two numbers per region."""
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    x = rand(4, 6, 5, 3).requires_grad_()
    w, b = rand(6, seed=1), rand(6, seed=2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        IF.group_norm(x, 3, w, b)
    pointers = {t.data_ptr() for t in (x, w, b)}
    others = [t for t in kept if t.data_ptr() not in pointers]
    assert [tuple(t.shape) for t in others] == [(2, 12)] and others[0].dtype == torch.float64
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.no_grad():
        IF.group_norm(x, 3, w, b)
    assert not kept


def test_a_saved_input_that_changed_is_noticed():
    x = rand(4, 6).requires_grad_()
    middle = x * 1
    y = IF.batch_norm(middle, None, None, training=True)
    with torch.no_grad():
        middle += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- running statistics --------------------------------------------------------------------


@pytest.mark.parametrize("momentum", (0.1, 1.0, 0.0, 0.7))
@pytest.mark.parametrize("name", ("batch_norm", "instance_norm"))
@pytest.mark.parametrize("step", (1, 2))
@pytest.mark.parametrize("gradient", (False, True))
def test_running_statistics(name, momentum, step, gradient):
    x = rand(4, 6, 5, 3).requires_grad_(gradient)
    named = {"training": True} if name == "batch_norm" else {}
    both = []
    for module in (IF, F):
        mean, var = (rand(6 * step, seed=s)[::step].clone() for s in (1, 2))
        if step > 1:
            room = torch.zeros(2, 6 * step)
            room[0, ::step], room[1, ::step] = mean, var
            mean, var = room[0, ::step], room[1, ::step]
        y = getattr(module, name)(x, mean, var, momentum=momentum, **named)
        z = getattr(module, name)(
            x, mean, var, **({"use_input_stats": False} if name == "instance_norm" else {})
        )
        both.append((y, z, mean, var))
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b)


def test_instance_statistics_of_another_dtype():
    x = rand(4, 6, 5)
    for dtype in (torch.float64, torch.float16):
        mean, var = torch.zeros(6, dtype=dtype), torch.ones(6, dtype=dtype)
        theirs = mean.clone(), var.clone()
        torch.testing.assert_close(IF.instance_norm(x, mean, var), F.instance_norm(x, *theirs))
        assert mean.dtype == dtype
        torch.testing.assert_close(mean, theirs[0], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(var, theirs[1], atol=2e-3, rtol=2e-3)


def test_an_empty_batch_moves_nothing():
    mean, var = torch.zeros(6), torch.ones(6)
    for shape in ((0, 6, 5), (4, 6, 0)):
        assert IF.batch_norm(torch.rand(shape), mean, var, training=True).shape == shape
    assert not mean.any() and torch.equal(var, torch.ones(6))


# --- modules -------------------------------------------------------------------------------

MODULES = {
    **{
        f"{kind}Norm{n}d": [
            ((6,), {}),
            ((6, 1e-3, 0.3), {}),
            ((6,), {"affine": False}),
            ((6,), {"affine": True, "track_running_stats": kind == "Instance"}),
            ((6,), {"momentum": None, "track_running_stats": True}),
            ((6,), {"affine": True, "bias": False}),
        ]
        for kind in ("Batch", "Instance")
        for n in (1, 2, 3)
    },
    "LayerNorm": [
        ((5,), {}), (((6, 5),), {}), ((5, 1e-3), {}), ((5,), {"bias": False}),
        ((5,), {"elementwise_affine": False}), ((torch.Size((5,)),), {}),
    ],
    "RMSNorm": [((5,), {}), (((6, 5), 1e-3), {}), ((5,), {"elementwise_affine": False})],
    "GroupNorm": [((3, 6), {}), ((1, 6, 1e-3), {}), ((6, 6), {"affine": False}),
                  ((2, 6), {"bias": False})],
    "LocalResponseNorm": [((2,), {}), ((3, 1e-3, 0.5, 2.0), {})],
}  # fmt: skip
CASES = [(name, *case) for name, cases in MODULES.items() for case in cases]


def _input(name, seed=0):
    n = int(name[-2]) if name.endswith("d") else 2 if name.startswith("Local") else 1
    return rand(4, 6, *(5, 3, 2)[:n], seed=seed)


def test_every_module_is_looked_at():
    lazy = [name for name in norm_modules.__all__ if name.startswith("Lazy")]
    assert sorted([*MODULES, "AddLayerNorm", "AddRMSNorm", *lazy]) == sorted(norm_modules.__all__)
    assert len(lazy) == 6


@pytest.mark.parametrize("name", MODULES)
def test_module_signatures(name):
    ours, theirs = getattr(inn, name), getattr(torch.nn, name)
    assert issubclass(ours, theirs) and ours.__module__ == "infinitypool.nn.norm_modules"
    a, b = (inspect.signature(cls).parameters for cls in (ours, theirs))
    positional = [key for key in a if key not in OWN]
    assert positional == list(b) and all(a[k].default == b[k].default for k in b)
    assert all(a[k].kind is b[k].kind for k in b)
    assert list(a)[len(b) :] == ([] if name.startswith("Local") else OWN)


@pytest.mark.parametrize("name, arguments, named", CASES)
def test_modules_are_pytorchs(name, arguments, named):
    built = []
    for module in (inn, torch.nn):
        torch.manual_seed(3)
        built.append(getattr(module, name)(*arguments, **named))
    ours, theirs = built
    assert repr(ours) == repr(theirs) and isinstance(ours, type(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]
    assert ours.__constants__ == theirs.__constants__
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    for seed in range(3):
        x = _input(name, seed)
        torch.testing.assert_close(ours(x), theirs(x))
    state = theirs.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, state[key])
    if "num_batches_tracked" in state and name.startswith("Batch"):
        assert int(ours.num_batches_tracked) == 3
    # State goes both ways, bit for bit, and copies go on like the original.
    again = getattr(inn, name)(*arguments, **named)
    again.load_state_dict(state)
    again_theirs = getattr(torch.nn, name)(*arguments, **named)
    again_theirs.load_state_dict(ours.state_dict())
    for key, value in again.state_dict().items():
        assert torch.equal(value, state[key])
    for key, value in again_theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])
    x = _input(name, 9)
    theirs.load_state_dict(ours.state_dict())
    for train in (True, False):
        want = copy.deepcopy(ours).train(train)(x)
        torch.testing.assert_close(want, copy.deepcopy(theirs).train(train)(x))
        for module in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
            assert repr(module) == repr(ours)
            assert torch.equal(module.train(train)(x), want)


def test_cumulative_average():
    ours, theirs = (m.BatchNorm1d(6, momentum=None) for m in (inn, torch.nn))
    batches = [rand(5, 6, seed=s) for s in range(4)]
    for x in batches:
        ours(x), theirs(x)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_mean, torch.stack([x.mean(0) for x in batches]).mean(0))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.reset_running_stats()
    assert not ours.running_mean.any() and int(ours.num_batches_tracked) == 0


def test_evaluation_without_running_statistics():
    for named in ({"track_running_stats": False}, {}):
        ours, theirs = (m.BatchNorm1d(6, **named).eval() for m in (inn, torch.nn))
        if not named:  # taken away later
            for module in (ours, theirs):
                module.running_mean = module.running_var = None
        x = rand(4, 6)
        torch.testing.assert_close(ours(x), theirs(x))


def test_unbatched_instances_and_their_warnings():
    for named in ({}, {"track_running_stats": True}, {"affine": True}):
        ours, theirs = (m.InstanceNorm2d(6, **named) for m in (inn, torch.nn))
        x = rand(6, 5, 3)
        torch.testing.assert_close(ours(x), theirs(x))
        if named:
            for key, value in ours.state_dict().items():
                torch.testing.assert_close(value, theirs.state_dict()[key])
    with pytest.warns(UserWarning, match="does not match num_features"):
        inn.InstanceNorm2d(6)(rand(2, 5, 3, 3))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("Local")])
def test_activations_of_modules(name):
    arguments, named = MODULES[name][0]
    x = _input(name) - 0.4
    plain = getattr(inn, name)(*arguments, **named)
    for activation, apply in ACTIVATIONS.items():
        module = getattr(inn, name)(*arguments, **named, activation=activation, negative_slope=0.2)
        torch.testing.assert_close(module(x), apply(copy.deepcopy(plain)(x), 0.2))
        if activation is None:
            continue
        added = f", activation={activation!r}, negative_slope=0.2)"
        assert repr(module) == repr(plain)[:-1] + added
        assert repr(pickle.loads(pickle.dumps(module))) == repr(module)
        assert list(module.state_dict()) == list(plain.state_dict())
    module = getattr(inn, name)(*arguments, **named, activation="relu")
    assert repr(module).endswith(", activation='relu')")
    module.activation = None
    assert torch.equal(module(x), copy.deepcopy(plain)(x)), "attributes set later must count"
    with pytest.raises(TypeError):
        getattr(inn, name)(*arguments, "relu", 0.2, 1, 2, 3, 4, 5, 6, 7)


def test_modules_stored_as_pytorchs():
    theirs = torch.nn.BatchNorm1d(6)
    theirs.__class__ = inn.BatchNorm1d
    assert theirs.activation is None and theirs(rand(4, 6)).shape == (4, 6)
    assert "activation" not in repr(theirs)


@pytest.mark.parametrize("name", ["AddLayerNorm", "AddRMSNorm"])
def test_modules_behind_a_sum(name):
    base = getattr(inn, name.removeprefix("Add"))
    module = getattr(inn, name)((6, 5), 1e-3, activation="gelu")
    assert isinstance(module, base) and isinstance(module, getattr(torch.nn, base.__name__))
    assert re.fullmatch(rf"{name}\(\(6, 5\), eps=0.001, .*activation='gelu'\)", repr(module))
    x, residual = rand(4, 6, 5).requires_grad_(), rand(4, 6, 5, seed=1).requires_grad_()
    torch.nn.init.normal_(module.weight)
    alone = base((6, 5), 1e-3, activation="gelu")
    alone.load_state_dict(module.state_dict())
    y, total = module(x, residual)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(y, alone(x + residual))
    weights = rand(4, 6, 5, seed=2)
    leaves = [x, residual, module.weight]
    grads = torch.autograd.grad(((y + 2 * total) * weights).sum(), leaves, retain_graph=True)
    sums = x + residual
    want = torch.autograd.grad(
        ((alone(sums) + 2 * sums) * weights).sum(), [x, residual, alone.weight]
    )
    for a, b in zip(grads, want, strict=True):
        torch.testing.assert_close(a, b)
    for wanted in (y, total):
        a, b = torch.autograd.grad((wanted * weights).sum(), [x, residual], retain_graph=True)
        assert torch.equal(a, b)
    for copied in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(copied(x, residual)[0], y)


def test_parametrized_weights():
    class Double(torch.nn.Module):
        def forward(self, w):
            return 2 * w

    x = rand(4, 6, 5)
    for module, function in (
        (inn.GroupNorm(3, 6), lambda w: F.group_norm(x, 3, w, torch.zeros(6))),
        (inn.BatchNorm1d(6), lambda w: F.batch_norm(x, None, None, w, training=True)),
        (inn.LayerNorm(5), lambda w: F.layer_norm(x, (5,), w)),
        (inn.RMSNorm(5), lambda w: F.rms_norm(x, (5,), w)),
    ):
        parametrize.register_parametrization(module, "weight", Double())
        torch.testing.assert_close(module(x), function(module.weight))
        given = {**dict(module.named_parameters())}
        given["parametrizations.weight.original"] = torch.full_like(module.weight, 3.0)
        result = torch.func.functional_call(module, given, (x,))
        torch.testing.assert_close(result, function(torch.full_like(module.weight, 6.0)))


def test_a_network_trains_like_pytorchs():
    def build(module):
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), module.BatchNorm2d(8), torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3), module.GroupNorm(4, 8), torch.nn.ReLU(),
            module.InstanceNorm2d(8, affine=True), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 16),
            module.LayerNorm(16), module.RMSNorm(16), torch.nn.Linear(16, 5),
        )  # fmt: skip

    losses = []
    for module in (inn, torch.nn):
        net = build(module)
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        for step in range(3):
            loss = F.cross_entropy(net(rand(4, 3, 10, 10, seed=step)), torch.arange(4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        losses.append((loss.detach(), net(rand(4, 3, 10, 10)).detach()))
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-3)


# --- array functions -----------------------------------------------------------------------


def test_array_signatures():
    expected = {
        "layer_norm": ["x", "axes", "weight", "bias", "eps"],
        "rms_norm": ["x", "axes", "weight", "eps"],
        "batch_norm": ["x", "mean", "var", "weight", "bias", "eps", "channel_axis"],
        "group_norm": ["x", "num_groups", "weight", "bias", "eps", "channel_axis"],
        "instance_norm": ["x", "weight", "bias", "eps", "channel_axis"],
    }
    for name, parameters in expected.items():
        found = inspect.signature(getattr(ip, name)).parameters
        assert list(found) == [*parameters, *OWN, "out"]
        for key in ("channel_axis", *OWN, "out"):
            if key in found:
                assert found[key].kind is inspect.Parameter.KEYWORD_ONLY
        assert getattr(ip, name).__module__ == "infinitypool.arrays"


ARRAY_CALLS = {
    "layer_norm": (lambda x, w, b, **k: ip.layer_norm(x, -1, w, b, **k), 3,
                   lambda x, w, b: F.layer_norm(x, (3,), w, b)),
    "rms_norm": (lambda x, w, b, **k: ip.rms_norm(x, -1, w, **k), 3,
                 lambda x, w, b: F.rms_norm(x, (3,), w)),
    "batch_norm": (lambda x, w, b, **k: ip.batch_norm(x, None, None, w, b, **k), 6,
                   lambda x, w, b: F.batch_norm(x, None, None, w, b, True)),
    "batch_norm given": (lambda x, w, b, **k: ip.batch_norm(x, b, w, w, b, **k), 6,
                         lambda x, w, b: F.batch_norm(x, b, w, w, b)),
    "group_norm": (lambda x, w, b, **k: ip.group_norm(x, 3, w, b, **k), 6,
                   lambda x, w, b: F.group_norm(x, 3, w, b)),
    "instance_norm": (lambda x, w, b, **k: ip.instance_norm(x, w, b, **k), 6,
                      lambda x, w, b: F.instance_norm(x, None, None, w, b)),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAY_CALLS)
@pytest.mark.parametrize("dtype", ("float64", "float32", "float16", "bfloat16"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_and_targets(name, dtype, layout):
    call, n, theirs = ARRAY_CALLS[name]
    kind = getattr(torch, dtype)
    x = LAYOUTS[layout]((rand(4, 6, 5, 3) - 0.4).to(kind))
    w, b = rand(n, seed=1) + 0.5, rand(n, seed=2)
    wide = torch.float64 if dtype == "float64" else torch.float32
    want = theirs(x.to(wide), w.to(wide), b.to(wide)).to(kind)
    half = kind.itemsize == 2
    loose = {"atol": 1e-2, "rtol": 1e-2} if half else {}
    ours = call(x, w, b)
    assert type(ours) is torch.Tensor and ours.dtype == kind
    torch.testing.assert_close(ours, want, **loose)
    if "expanded" not in layout:
        assert _order(ours) == _order(x)
    out = torch.empty(4, 6, 3, 5, dtype=kind).transpose(2, 3)
    version = out._version
    assert call(x, w, b, out=out) is out and out._version > version
    torch.testing.assert_close(out, ours, **loose)
    if dtype == "bfloat16":
        return
    array = x.numpy()
    plain = call(array, w.numpy(), b.tolist())
    assert type(plain) is np.ndarray and plain.dtype == array.dtype
    assert np.array_equal(plain, ours.numpy())
    for target in (
        np.empty((4, 6, 5, 3), dtype),
        np.empty((4, 6, 5, 6), dtype)[..., ::-2],
        np.empty((5, 6, 4, 3), dtype).transpose(2, 1, 0, 3)[::-1],
    ):
        assert call(array, w.numpy(), b.numpy(), out=target) is target
        torch.testing.assert_close(torch.from_numpy(target.copy()), ours, **loose)
    if "expanded" not in layout:
        assert call(array, w, b, out=array) is array
        torch.testing.assert_close(torch.from_numpy(array), ours, **loose)


def test_activations_of_arrays():
    x = rand(4, 6, 5) - 0.4
    for activation, apply in ACTIVATIONS.items():
        got = ip.group_norm(x.numpy(), 3, activation=activation, negative_slope=0.2)
        want = apply(F.group_norm(x, 3), 0.2)
        torch.testing.assert_close(torch.from_numpy(got), want)


def test_axes_in_any_order():
    x = np.random.default_rng(0).standard_normal((4, 6, 5, 3))
    w, b = (np.random.default_rng(s).standard_normal((3, 6)) for s in (1, 2))
    mean, var = x.mean((1, 3), keepdims=True), x.var((1, 3), keepdims=True)
    want = (x - mean) / np.sqrt(var + 1e-5)
    scaled = want * w.T[None, :, None, :] + b.T[None, :, None, :]
    for axes in ((3, 1), (-1, -3), [3, -3], np.array([3, 1])):
        np.testing.assert_allclose(ip.layer_norm(x, axes, w, b), scaled)
    np.testing.assert_allclose(ip.layer_norm(x, (1, 3), w.T, b.T), scaled)
    np.testing.assert_allclose(ip.layer_norm(x, (1, 3)), want)
    square = x / np.sqrt((x * x).mean((0, 2), keepdims=True) + 1e-3)
    np.testing.assert_allclose(ip.rms_norm(x, (2, 0), eps=1e-3), square)
    np.testing.assert_allclose(ip.rms_norm(x, range(4), eps=0.0), x / np.sqrt((x * x).mean()))
    line = np.arange(5.0)
    np.testing.assert_allclose(ip.layer_norm(line), (line - 2) / np.sqrt(2 + 1e-5))


def test_channel_axes():
    x = np.random.default_rng(0).standard_normal((4, 6, 5, 3))
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    w, b = (np.random.default_rng(s).standard_normal(6) for s in (1, 2))
    for function, more in (
        (ip.batch_norm, {}),
        (ip.batch_norm, {"mean": b, "var": w * w}),
        (ip.instance_norm, {}),
        (ip.group_norm, {"num_groups": 3}),
    ):
        want = function(x, weight=w, bias=b, **more)
        for axis in (-1, 3):
            got = function(last, weight=w, bias=b, channel_axis=axis, **more)
            np.testing.assert_allclose(np.moveaxis(got, -1, 1), want)
    # Without samples: channels come first.
    one = ip.group_norm(x[0], 3, w, b, channel_axis=0)
    np.testing.assert_allclose(one, ip.group_norm(x, 3, w, b)[0])
    one = ip.instance_norm(x[0], w, b, channel_axis=0)
    np.testing.assert_allclose(one, ip.instance_norm(x, w, b)[0])


def test_empty_arrays():
    for shape in ((0, 6, 5), (4, 6, 0), (4, 0, 5)):
        x = np.empty(shape, np.float32)
        for result in (
            ip.layer_norm(x), ip.rms_norm(x), ip.batch_norm(x), ip.instance_norm(x),
            ip.group_norm(x, 3), ip.layer_norm(x, out=x),
        ):  # fmt: skip
            assert result.shape == shape and result.dtype == np.float32


def test_a_target_that_is_also_a_parameter():
    """Parameters are read before they are overwritten."""
    x = np.random.default_rng(0).standard_normal((3, 3))
    w = np.random.default_rng(1).standard_normal((3, 3))
    want = ip.layer_norm(x, (0, 1), w)
    assert ip.layer_norm(x, (0, 1), w, out=w) is w
    np.testing.assert_array_equal(w, want)


def test_a_slope_of_zero_is_one_where_pytorch_computes():
    def run(x):
        return IF.layer_norm(x, (4,), activation="leaky_relu", negative_slope=0.0)

    x = torch.randn(3, 4)
    value, _ = torch.func.jvp(run, (x,), (torch.ones_like(x),))
    assert torch.allclose(value, run(x), atol=1e-6)
    assert bool((value >= 0).all())

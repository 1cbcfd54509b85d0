"""Kinds that PyTorch does not have, and adaptive windows of all: values, gradients, compositions."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
import oracle
from infinitypool.nn import elsewhere
from infinitypool.nn.ops import OPS
from infinitypool.spec import TORCH, adaptive_spec, pool_spec
from strategies import KINDS
from torch_compare import FORMATS, same_bits

inf, nan = math.inf, math.nan
SIZES = (6, 5, 4)


def _distinct(shape, dtype=torch.float64, positive=False):
    """Values further apart than a finite difference, so that nothing changes places."""
    count = math.prod(shape)
    order = np.random.default_rng(count).permutation(count).reshape(shape)
    return torch.from_numpy(order / 7 + 0.1 - (0 if positive else count / 14)).to(dtype)


# --- values --------------------------------------------------------------------------------

OWN = {
    "min_pool": [{}],
    "rms_pool": [{}],
    "gem_pool": [{}, {"p": 1}, {"p": 0.5, "eps": 0.5}, {"p": 6.5}],
    "log_sum_exp_pool": [{}, {"beta": -2.0}, {"beta": 30}],
    "soft_pool": [{}, {"beta": -2.0}, {"beta": 0}],
    "median_pool": [{}],
    "quantile_pool": [
        {"q": q, "method": m} for q in (0, 0.3, 0.5, 1) for m in ("linear", "lower", "nearest")
    ],
    "mixed_pool": [{}, {"alpha": 0.0}, {"alpha": 0.25}],
    "stochastic_pool": [{}],
}
WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "stride": 1, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "padding": "same"},
]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", OWN)
def test_values_against_the_oracle(name, dims):
    kind, rng = KINDS[name], np.random.default_rng(dims)
    function = getattr(IF, f"{name}{dims}d")
    dtypes = [np.float64, np.float32, np.float16]
    if name in ("min_pool", "median_pool", "quantile_pool"):
        dtypes.append(np.int32)
    for own, window, dtype in itertools.product(OWN[name], WINDOWS, dtypes):
        x = rng.integers(-9, 10, (2, 3, *(7, 6, 5)[:dims])).astype(dtype)
        if dtype != np.int32:
            x /= 4
            x[rng.random(x.shape) < 0.02] = nan
        arguments = {**window, "axes": tuple(range(-dims, 0))}
        size = (arguments.pop("kernel_size"),) * dims
        for last in (False, True) if dims > 1 else (False,):
            t = torch.from_numpy(x)
            t = t.contiguous(memory_format=FORMATS[dims + 2]) if last else t
            got = function(t, **window, **own)
            assert got.is_contiguous(
                memory_format=FORMATS[dims + 2] if last else torch.contiguous_format
            )
            kind.check(got.numpy(), x, size, f"{window} {own} {dtype}", own, **arguments)


def test_minima_are_maxima_of_the_negative():
    for dims in (1, 2, 3):
        x = torch.from_numpy(np.random.default_rng(0).integers(-3, 4, (2, 3, *(7, 6, 5)[:dims])))
        x = torch.where(x == 3, nan, x.double())
        for named in WINDOWS:
            low, high = (getattr(IF, f"{k}_pool{dims}d") for k in ("min", "max"))
            values, indices = low(x, **named, return_indices=True)
            negative, places = high(-x, **named, return_indices=True)
            same_bits(values + 0, -negative + 0)
            same_bits(indices, places)
            same_bits(low(x, **named), values)


@pytest.mark.parametrize("dims", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=40)
def test_adaptive_against_pytorch(dims, data):
    sizes = [data.draw(st.integers(1, 9)) for _ in range(dims)]
    out = [data.draw(st.integers(0, 12) | (st.none() if dims > 1 else st.nothing())) for _ in sizes]
    lead = data.draw(st.sampled_from(((2, 3), (4,), (1, 17))))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    x = torch.from_numpy(rng.integers(-4, 5, (*lead, *sizes))).float()
    if data.draw(st.booleans()):
        x[torch.from_numpy(rng.random(x.shape) < 0.1)] = nan
    if dims > 1 and len(lead) == 2 and data.draw(st.booleans()):
        x = x.contiguous(memory_format=FORMATS[dims + 2])
    elif data.draw(st.booleans()):
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    x.requires_grad_()
    note = f"{tuple(x.shape)} {x.stride()} to {out}"
    ours, theirs = (getattr(m, f"adaptive_max_pool{dims}d")(x, out, True) for m in (IF, F))
    for a, b in zip(ours, theirs, strict=True):
        same_bits(a, b, note)
    same_bits(getattr(IF, f"adaptive_max_pool{dims}d")(x, out), theirs[0], note)
    same_bits(getattr(IF, f"adaptive_max_pool{dims}d_with_indices")(x.detach(), out)[1], theirs[1])
    g = torch.from_numpy(rng.integers(-3, 4, theirs[0].shape)).float()
    if 0 in out:  # PyTorch's own has no gradient then
        assert not torch.autograd.grad(ours[0], x, g)[0].any(), note
        return
    got, want = (torch.autograd.grad(y[0], x, g)[0] for y in (ours, theirs))
    assert torch.equal(got, want) and got.dtype == want.dtype, note
    ours, theirs = (getattr(m, f"adaptive_avg_pool{dims}d")(x, out) for m in (IF, F))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert (
        ours.numel() < 2 or max(out, key=lambda o: o or 9) == 1 or ours.stride() == theirs.stride()
    )
    got, want = (torch.autograd.grad(y, x, g)[0] for y in (ours, theirs))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("p", [1, 2, 2.5, 3.0, 4, inf])
def test_lp_against_pytorch(p, dims):
    ours, theirs = (getattr(m, f"lp_pool{dims}d") for m in (IF, F))
    x = torch.from_numpy(np.random.default_rng(0).random((2, 3, *(7, 8, 9)[:dims])))
    for named in ({}, {"stride": 1}, {"stride": 2, "ceil_mode": True}, {"ceil_mode": True}):
        for form in (torch.contiguous_format, FORMATS.get(dims + 2, torch.contiguous_format)):
            t = x.contiguous(memory_format=form).requires_grad_()
            a, b = (f(t, p, 3, **named) for f in (ours, theirs))
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
            assert a.stride() == b.stride()
            got, want = (torch.autograd.grad(y, t, torch.ones_like(b))[0] for y in (a, b))
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        same_bits(ours(x[0], p, 3, **named), ours(x, p, 3, **named)[0])
    assert torch.equal(ours((9 * x).long(), 2, 2), theirs((9 * x).long(), 2, 2))
    power = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(ours(x, power, 2).sum(), power)[0].isfinite()


def test_lp_where_pytorch_gives_nan():
    """Odd powers of negative elements: the root keeps the sum's sign. No gradient where it is 0."""
    x = torch.tensor([[[-1.0, -2.0, 3.0, -3.0, 0.0, 0.0]]], requires_grad=True)
    y = IF.lp_pool1d(x, 3, 2)
    torch.testing.assert_close(y.flatten(), torch.tensor([-(9 ** (1 / 3)), 0.0, 0.0]))
    (g,) = torch.autograd.grad(y.sum(), x)
    assert g.isfinite().all() and g[0, 0, 0] > 0 and not g[0, 0, 2:].any()
    same_bits(IF.lp_pool1d(x, 1, 2).detach(), torch.tensor([[[-3.0, 0.0, 0.0]]]))
    for p in (0.5, 0, -1, nan, -inf):
        with pytest.raises(RuntimeError, match="lp_pool1d: p="):
            IF.lp_pool1d(x, p, 2)
    for p in ("2", None, 2j):
        with pytest.raises(TypeError):
            IF.lp_pool1d(x, p, 2)


# --- gradients -----------------------------------------------------------------------------

# Reducer, its parameters, whether it wants positive elements.
GRADIENTS = [
    ("max", (), False),
    ("min", (), False),
    ("mean", (), False),
    ("sum", (), False),
    ("lp", (1.0,), False),
    ("lp", (2.0,), False),
    ("lp", (3.0,), False),
    ("lp", (2.5,), True),
    ("power_mean", (2.0, -inf), False),
    ("power_mean", (3.0, 0.15), False),
    ("power_mean", (0.5, 0.15), True),
    ("log_sum_exp", (1.0,), False),
    ("log_sum_exp", (-0.5,), False),
    ("soft", (0.7,), False),
    ("soft", (-0.7,), False),
    ("blur", (), False),
    ("quantile", (0.3, 1.0), False),
    ("quantile", (0.3, 2.0), False),
    ("quantile", (0.6, 3.0), False),
]


def _specs(reducer, parameters, dims, empty=False):
    """Specs with windows of every kind; ``empty``: also some without an element."""
    axes = tuple(range(-dims, 0))
    wide = {"kernel_size": 3, "stride": 3, "padding": [(5 if empty else 2, 1)] * dims}
    for named in (*WINDOWS, wide):
        yield pool_spec("f", reducer, **named, axes=axes, front=TORCH, parameters=parameters)
    for out in (1, 3, 7) if reducer != "blur" else ():
        yield adaptive_spec("f", reducer, out, axes=axes, front=TORCH, parameters=parameters)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("reducer, parameters, positive", GRADIENTS, ids=str)
def test_gradcheck(reducer, parameters, positive, dims, last):
    x = _distinct((1, 2, *SIZES[:dims]), positive=positive)
    if last:
        if dims == 1:
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        else:
            x = x.contiguous(memory_format=FORMATS[dims + 2])
    x.requires_grad_()
    for spec in _specs(reducer, parameters, dims):
        function = functools.partial(OPS[reducer].forward["none"], spec=spec.text)
        assert torch.autograd.gradcheck(function, (x,), fast_mode=True)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("reducer, parameters, positive", GRADIENTS, ids=str)
def test_kernels_agree_with_what_is_composed_elsewhere(reducer, parameters, positive, dims):
    """Two ways to the same: values, places, and derivatives, also of torch.func and forward mode."""
    x = _distinct((2, 2, *SIZES[:dims]), positive=positive)
    forward = OPS[reducer].forward
    for spec in _specs(reducer, parameters, dims, empty=True):
        leaf = x.clone().requires_grad_()
        y, z = forward["none"](leaf, spec.text), elsewhere.POOL["none"](leaf, spec.text)
        note = spec.text
        torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-12, equal_nan=True, msg=note)
        finite = z.detach().isfinite()
        g = torch.where(finite, torch.rand_like(z), 0)
        (got,) = torch.autograd.grad(y, leaf, g)
        (want,) = torch.autograd.grad(torch.where(finite, z, 0), leaf, g)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12, msg=note)
        if reducer in ("max", "min"):
            same_bits(forward["plane"](x, note)[1], elsewhere.POOL["plane"](x, note)[1])
    text = note

    def total(t):
        return forward["none"](t, text).sum()

    (want,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(total)(x), want)
    torch.testing.assert_close(torch.func.vmap(lambda t: forward["none"](t, text))(x[:, None])[:, 0],
                               forward["none"](x, text))  # fmt: skip
    _, slope = torch.func.jvp(total, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(slope, want.sum())


@pytest.mark.parametrize("reducer", ["max", "min"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_places_elsewhere_follow_the_same_rules(dims, reducer):
    """The first of equals, the last of NaNs, -1 where there is nothing."""
    rng = np.random.default_rng(dims)
    x = torch.from_numpy(rng.integers(-2, 3, (2, 3, *SIZES[:dims]))).double()
    with_nans = torch.where(torch.from_numpy(rng.random(x.shape) < 0.15), nan, x)
    flat = torch.full_like(x, inf if reducer == "min" else -inf)
    for values, spec in itertools.product(
        (x, with_nans, flat, x.long(), x > 0), _specs(reducer, (), dims, empty=True)
    ):
        if values.dtype in (torch.int64, torch.bool) and reducer == "max":
            continue  # PyTorch's own, which has no such dtypes everywhere
        ours = OPS[reducer].forward["plane"](values, spec.text)
        composed = elsewhere.POOL["plane"](values, spec.text)
        for a, b in zip(ours, composed, strict=True):
            same_bits(a, b, spec.text)


@pytest.mark.parametrize("name", ["median_pool", "quantile_pool"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gradients_between_two_elements(dims, name):
    x = _distinct((1, 2, *SIZES[:dims])).requires_grad_()
    function = getattr(IF, f"{name}{dims}d")
    for own, window in itertools.product(
        [{}] if name == "median_pool" else [{"q": 0.3}, {"q": 0.5}, {"q": 1}], WINDOWS
    ):
        assert torch.autograd.gradcheck(
            lambda t, k=(window, own): function(t, **k[0], **k[1]), (x,), fast_mode=True
        )
        y = function(x, **window, **own)
        torch.testing.assert_close(y.detach(), function(x.detach(), **window, **own))
    x = torch.full((1, 1, *SIZES[:dims]), inf, requires_grad=True)
    assert function(x, 2, **own).eq(inf).all()
    for dtype in (torch.float16, torch.bfloat16):
        t = _distinct((1, 2, *SIZES[:dims]), dtype)
        same_bits(function(t.clone().requires_grad_(), 2, **own).detach(), function(t, 2, **own))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gradients_of_what_is_composed(dims):
    x = _distinct((1, 2, *SIZES[:dims])).requires_grad_()
    for name, named in (
        ("mixed_pool", {"alpha": 0.3}),
        ("stochastic_pool", {}),
        ("gem_pool", {"p": 2.5, "eps": 0.15}),
    ):
        function = getattr(IF, f"{name}{dims}d")
        for window in WINDOWS:
            assert torch.autograd.gradcheck(
                lambda t, f=function, k=(window, named): f(t, **k[0], **k[1]), (x,), fast_mode=True
            )
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    function = getattr(IF, f"mixed_pool{dims}d")
    assert torch.autograd.gradcheck(lambda t, w: function(t, 2, alpha=w), (x, weight))


@pytest.mark.parametrize("reducer, parameters, positive", GRADIENTS, ids=str)
def test_second_derivatives(reducer, parameters, positive):
    x = _distinct((1, 1, 5, 4), positive=positive).requires_grad_()
    for window in ({"stride": 1}, {"stride": 2, "padding": [(1, 0), (0, 1)], "ceil_mode": True}):
        spec = pool_spec(
            "f", reducer, 2, axes=(-2, -1), front=TORCH, parameters=parameters, **window
        )
        assert torch.autograd.gradgradcheck(
            lambda t, s=spec: OPS[reducer].forward["none"](t, s.text), (x,)
        )


# --- what is kept --------------------------------------------------------------------------


def _kept(function, x):
    """Storages kept for backward, in bytes, but for the input's and the result's own."""
    kept = []

    def pack(t):
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(x)
    y = y[0] if isinstance(y, tuple) else y
    own = x.data_ptr(), y.data_ptr()
    return sum(t.untyped_storage().nbytes() for t in kept if t.data_ptr() not in own), y


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_bytes_kept(dims):
    x = torch.rand(2, 8, *(30, 31, 29)[:dims], requires_grad=True)

    def kept_by(name, *arguments, **named):
        function = getattr(IF, f"{name}_pool{dims}d")
        return _kept(lambda t: function(t, *arguments, **named), x)

    for out in (1, 2, 7):
        for indices in (False, True):
            kept, y = kept_by("adaptive_max", out, indices)
            width = 1 if math.prod(-(-n // out) + 1 for n in x.shape[2:]) <= 256 else 2
            assert 0 < kept <= width * y.numel()
        assert kept_by("adaptive_avg", out)[0] == 0
    assert kept_by("blur", padding="zeros")[0] == 0
    assert 0 < kept_by("min", 2)[0] <= x.numel() / 2**dims
    assert kept_by("lp", 2, 2)[0] == 0
    for name in ("rms", "gem", "soft", "log_sum_exp"):
        assert kept_by(name, 2)[0] == 0, "the input and the result, which are there anyway"


# --- draws ---------------------------------------------------------------------------------


def _drawn(x, seed=0, **named):
    torch.manual_seed(seed)
    return getattr(IF, f"stochastic_pool{x.ndim - 2}d")(x, 3, training=True, **named)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_draws_can_be_repeated(dims):
    x = torch.rand(2, 3, *(30, 33, 36)[:dims])
    first = _drawn(x)
    same_bits(_drawn(x), first)
    assert not torch.equal(_drawn(x, 1), first)
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    a, b = (_drawn(x, generator=g) for g in generators)
    same_bits(a, b)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    same_bits(_drawn(x, generator=torch.Generator().manual_seed(7)), a)
    assert torch.equal(torch.get_rng_state(), state), "PyTorch's own generator is left alone"
    assert not torch.equal(_drawn(x, generator=generators[0]), a), "a generator moves on"
    if dims > 1:
        last = x.contiguous(memory_format=FORMATS[dims + 2])
        assert torch.equal(_drawn(last), first), "whatever the layout"


def test_draws_do_not_depend_on_threads():
    x = torch.rand(3, 16, 90, 120)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            results.append(_drawn(x))
        finally:
            torch.set_num_threads(1)
    same_bits(results[1], results[0])
    same_bits(results[2], results[0])


def test_draws_follow_the_elements():
    x = torch.tensor([1.0, 0.0, 3.0, -5.0]).repeat(1, 1, 20000)
    torch.manual_seed(0)
    y = IF.stochastic_pool1d(x, 4, training=True)
    share = (y == 3).double().mean().item()
    assert set(y.unique().tolist()) == {1.0, 3.0}
    assert abs(share - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 20000)
    assert IF.stochastic_pool1d(x, 4).unique().tolist() == [2.5], "the expectation"
    flat = IF.stochastic_pool1d(torch.tensor([-1.0, -2.0]).repeat(1, 1, 20000), 2, training=True)
    assert abs((flat == -1).double().mean().item() - 0.5) < 5 * 0.5 / math.sqrt(20000)
    odd = torch.tensor([[[1.0, inf, 2.0, 1.0, nan, inf]]])
    same_bits(IF.stochastic_pool1d(odd, 3, training=True), torch.tensor([[[inf, nan]]]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_gradient_of_a_draw_goes_to_what_was_drawn(dims):
    x = _distinct((2, 3, *(9, 9, 9)[:dims])).requires_grad_()
    y = _drawn(x)
    same_bits(y.detach(), _drawn(x.detach()))
    g = torch.arange(1.0, y.numel() + 1, dtype=torch.float64).reshape(y.shape)
    (got,) = torch.autograd.grad(y, x, g)
    want = torch.zeros_like(got)
    for value, part in zip(y.flatten().tolist(), g.flatten().tolist(), strict=True):
        want[x.detach() == value] += part
    same_bits(got, want)
    assert _kept(_drawn, x)[0] <= y.numel()


def test_the_module_draws_in_training_only():
    x = torch.rand(1, 2, 6, 6)
    module = inn.StochasticPool2d(2)
    torch.manual_seed(0)
    drawn = module(x)
    torch.manual_seed(0)
    same_bits(drawn, IF.stochastic_pool2d(x, 2, training=True))
    same_bits(module.eval()(x), IF.stochastic_pool2d(x, 2))
    assert repr(module) == (
        "StochasticPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"
    )


# --- the generalised mean ------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gem_learns_its_power(dims):
    x = _distinct((2, 3, *SIZES[:dims]), positive=True).requires_grad_()
    p = torch.tensor([2.3], dtype=torch.float64, requires_grad=True)
    pool = getattr(IF, f"gem_pool{dims}d")
    for named in WINDOWS:
        assert torch.autograd.gradcheck(
            lambda t, q, k=named: pool(t, **k, p=q), (x, p), fast_mode=True
        )
        same = pool(x.detach(), **named, p=2.3)
        torch.testing.assert_close(pool(x, **named, p=p).detach(), same)
        same_bits(pool(x.detach(), **named, p=p.detach()), same)
    assert torch.autograd.gradcheck(lambda t, q: IF.global_gem_pool(t, q), (x, p))
    torch.testing.assert_close(
        IF.global_gem_pool(x, 3.0, flatten=True), (x**3).flatten(2).mean(-1) ** (1 / 3)
    )


def test_gem_module():
    module = inn.GeM()
    assert repr(module) == "GeM(p=3.0, eps=1e-06)" and list(module.state_dict()) == ["p"]
    assert module.p.shape == (1,) and module.p.requires_grad
    x = torch.rand(4, 5, 6, 7)
    target = IF.global_gem_pool(x, 5.0)
    optimiser = torch.optim.Adam([module.p], 0.1)
    for _ in range(150):
        optimiser.zero_grad()
        (module(x) - target).square().sum().backward()
        optimiser.step()
    assert abs(module.p.item() - 5) < 0.1
    with torch.no_grad():
        torch.testing.assert_close(module(x), IF.global_gem_pool(x, module.p.item()))
    for shape in ((2, 3, 9), (2, 3, 9, 8), (2, 3, 9, 8, 7)):
        assert module(torch.rand(shape)).shape == (2, 3, *(1,) * (len(shape) - 2))
        windows = inn.GeM(kernel_size=3, stride=2)
        n = len(shape) - 2
        want = getattr(F, f"avg_pool{n}d")(torch.ones(shape), 3, 2).shape
        assert windows(torch.rand(shape)).shape == want
    for half in (torch.float16, torch.bfloat16):
        assert module(100 * x.to(half)).isfinite().all() and module(x.to(half)).dtype == half
    per_channel = torch.full((5, 1, 1), 3.0, requires_grad=True)
    torch.testing.assert_close(IF.global_gem_pool(x, per_channel), IF.global_gem_pool(x, 3.0))


@pytest.mark.parametrize(
    "function, named, word",
    [
        (IF.gem_pool2d, {"p": 0}, "p=0"),
        (IF.gem_pool2d, {"eps": -1}, "eps=-1"),
        (IF.gem_pool2d, {"p": nan}, "p=nan"),
        (IF.log_sum_exp_pool2d, {"beta": 0}, "beta=0"),
        (IF.soft_pool2d, {"beta": inf}, "beta=inf"),
        (IF.quantile_pool2d, {"q": 1.5}, "q=1.5"),
        (IF.quantile_pool2d, {"q": nan}, "q=nan"),
        (IF.quantile_pool2d, {"q": 0.5, "method": "middle"}, "method="),
        (IF.mixed_pool2d, {"alpha": 2}, "alpha=2"),
    ],
)
def test_bad_parameters(function, named, word):
    for x in (torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4, requires_grad=True)):
        with pytest.raises(RuntimeError, match=word):
            function(x, 2, **named)
    key = word.split("=")[0]
    with pytest.raises(TypeError, match=key):
        function(torch.rand(1, 1, 4, 4), 2, **{**named, key: None})
    with pytest.raises(TypeError, match="no_such"):
        function(torch.rand(1, 1, 4, 4), 2, **{**named, "no_such": 1})


def test_windows_without_an_element():
    x = torch.ones(1, 1, 2)
    for name, want in (
        ("min_pool1d", inf),
        ("rms_pool1d", nan),
        ("gem_pool1d", nan),
        ("log_sum_exp_pool1d", -inf),
        ("soft_pool1d", nan),
        ("median_pool1d", nan),
        ("stochastic_pool1d", nan),
    ):
        for leaf in (x, x.clone().requires_grad_()):
            y = getattr(IF, name)(leaf, 2, 1, padding=[(3, 0)])
            same_bits(y.detach()[..., :2], torch.full((1, 1, 2), want), name)
            assert y[..., 2:].isfinite().all()
            if leaf.requires_grad:
                (g,) = torch.autograd.grad(y[..., 2:].sum(), leaf)
                assert g.isfinite().all(), name


def test_oracle_has_the_same_windows():
    """Adaptive windows by exact integers, through the operators."""
    rng = np.random.default_rng(0)
    for n, out in ((10, 3), (7, 7), (5, 12), (1, 4), (100, 9)):
        x = rng.integers(-99, 99, (1, 2, n)).astype(np.float64)
        got = IF.adaptive_max_pool1d(torch.from_numpy(x), out).numpy()
        oracle.assert_pooled(got, x, "max", (out,), adaptive=True, axes=(-1,))

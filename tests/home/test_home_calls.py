"""The short way past the dispatcher: when it is taken, and that nobody can tell."""

import subprocess
import sys
import threading
from functools import partial

import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import infinitypool.nn.functional as F
from infinitypool import _core
from infinitypool.nn import calls, ops, scatter
from infinitypool.nn.dropout_ops import ALPHA_DROPOUT, DROPOUT, dropping
from infinitypool.spec import TORCH, pool_spec, unpool_output_size


def text_of(name, reducer):
    def text(kernel, stride):
        return pool_spec(name, reducer, kernel, stride=stride, axes=(-2, -1), front=TORCH).text

    return text


MEAN = ops.pooling("mean", "none", text_of("avg_pool2d", "mean"))
LARGEST = ops.pooling("max", "plane", text_of("max_pool2d_with_indices", "max"))
X = torch.randn(1, 8, 8, 8)


def long_way(function, *arguments, **named):
    """The same call while the profiler looks at operators."""
    with torch.autograd.profiler.profile():
        return function(*arguments, **named)


def as_tuple(found):
    return found if isinstance(found, tuple) else (found,)


W, B = torch.rand(8) + 0.5, torch.randn(8)


def like(x):
    return W.to(x), B.to(x)


CASES = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max with indices": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "min": lambda x: F.min_pool2d(x, 2),
    "mean": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "lp": lambda x: F.lp_pool2d(x.abs(), 3.0, 2),
    "adaptive mean": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, 3, return_indices=True),
    "batch": lambda x: F.batch_norm(x, None, None, *like(x), True),
    "batch, given": lambda x: F.batch_norm(x, like(x)[1], like(x)[0], *like(x)),
    "layer": lambda x: F.layer_norm(x, (8,), *like(x)),
    "group": lambda x: F.group_norm(x, 2, like(x)[0]),
    "instance": lambda x: F.instance_norm(x),
    "rms": lambda x: F.rms_norm(x, x.shape[-1:], like(x)[0]),
    "sum and layer": lambda x: F.add_layer_norm(x, x.flip(0), (8,), like(x)[0], activation="relu"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_short_and_long_way_give_the_same_bits(case, dtype, layout):
    x = torch.randn(2, 8, 8, 8).to(dtype, memory_format=layout)
    for recording in (False, True):
        results = []
        for way in (lambda f, x: f(x), long_way):
            leaf = x.clone().requires_grad_(recording)
            found = as_tuple(way(case, leaf))
            for part in found:
                assert part.requires_grad is (recording and part.is_floating_point())
            if recording:
                of_x = found[0] * torch.arange(found[0].numel()).view(found[0].shape)
                of_x.sum().backward()
                found = *found, leaf.grad
            results.append(found)
        for short, long in zip(*results, strict=True):
            assert torch.equal(short, long)
            assert short.stride() == long.stride()


def test_running_statistics_and_parameters_take_part():
    for training in (True, False):
        results = []
        for way in (lambda f: f(), long_way):
            mean, var = torch.zeros(8), torch.ones(8)
            weight, bias = (torch.nn.Parameter(t.clone()) for t in (W, B))
            y = way(partial(F.batch_norm, X, mean, var, weight, bias, training))
            y.square().sum().backward()
            results.append((y, mean, var, weight.grad, bias.grad))
        assert all(map(torch.equal, *results))


# --- when it is taken ----------------------------------------------------------------------


def test_ordinary_calls_take_it():
    assert calls.READY
    leaf = X.clone().requires_grad_()
    for x in (X, leaf, torch.nn.Parameter(X), X[:, ::2], X.mT):
        torch.testing.assert_close(MEAN(x, 2, None), torch.nn.functional.avg_pool2d(x, 2))
    with torch.inference_mode():
        assert MEAN(X, 2, None).is_inference()
    with torch.no_grad():
        assert not MEAN(leaf, [2, 2], (2, 2)).requires_grad
    assert MEAN(leaf, 2, None).grad_fn is not None


def unusual_tensors():
    complex_ = torch.randn(1, 2, 4, 4, dtype=torch.complex64)
    yield "no tensor", 3
    yield "None", None
    yield "array", X.numpy()
    yield "meta", X.to("meta")
    yield "sparse", X.to_sparse()
    yield "complex", complex_
    yield "negative", complex_.conj().imag
    yield "dense and negative", torch._neg_view(X)
    yield "zeros without memory", torch._efficientzerotensor(1, 8, 8, 8)
    yield "a part of zeros without memory", torch._efficientzerotensor(2, 8, 8, 8)[1:]
    yield "empty", torch.empty(0, 8, 8, 8)
    yield "mkldnn", X.to_mkldnn()
    yield "nested", torch.nested.nested_tensor([X[0], X[0, :4]])
    yield "subclass", X.as_subclass(type("Mine", (torch.Tensor,), {}))
    yield "float8", X.to(torch.float8_e5m2)
    yield "few axes", torch.randn(3)


@pytest.mark.parametrize(
    "x", [t for _, t in unusual_tensors()], ids=[n for n, _ in unusual_tensors()]
)
def test_unusual_tensors_go_the_long_way(x):
    assert MEAN(x, 2, None) is None
    assert MEAN(X, 2, None) is not None


class Watch(TorchDispatchMode):
    seen = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen = True
        return function(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_who_looks_at_operators_sees_them():
    for watch in (Watch(), Functions(), forward_ad.dual_level(), torch.profiler.profile()):
        with watch:
            assert MEAN(X, 2, None) is None
        assert MEAN(X, 2, None) is not None
    with Watch() as watch:
        F.avg_pool2d(X, 2)
    assert watch.seen
    seen = []

    def look(x):
        seen.append(MEAN(x, 2, None))
        seen.append(MEAN(X, 2, None))
        return x

    torch.func.vmap(look)(torch.randn(3, 1, 8, 8, 8))
    torch.func.grad(lambda x: look(x).sum())(X)
    torch.jit.trace(look, X, check_trace=False)
    assert len(seen) >= 6
    assert all(found is None for found in seen)
    events = torch.profiler.profile()
    with events:
        F.max_pool2d(X, 2)
    assert any("infinitypool::max_pool" in event.key for event in events.key_averages())


def test_autocast_concerns_halves():
    with torch.autocast("cpu", torch.bfloat16):
        assert MEAN(X, 2, None) is not None
        assert MEAN(X.bfloat16(), 2, None) is None
    assert MEAN(X.bfloat16(), 2, None) is not None


@pytest.mark.parametrize(
    "arguments",
    [(0, None), (2**70, None), (object(), None), ("two", None), ((2, 2, 2), None), (9, None), (2,)],
)
def test_wrong_arguments_go_the_long_way(arguments):
    assert MEAN(X, *arguments) is None
    assert MEAN(X, *arguments) is None  # and once more, from the cache


def test_calls_are_not_confused():
    nested = [[[[[[[2]]]]]]]
    assert MEAN(X, nested, None) is None
    assert MEAN(X, 2, kernel_size=2) is None
    assert MEAN() is None
    planned = []

    def plan(recording, tensors, arguments):
        planned.append(arguments)

    short = calls.call(plan, 1)
    for arguments in [(2,), (2.0,), (True,), ("2",), ((2,),), ([2],), (None,), (-0.0,), (0.0,)]:
        assert short(X, *arguments) is short(X, *arguments) is None
        assert planned[-1] == arguments
    assert len(planned) == 9
    for x in (X.double(), X.mT, X[0], X.requires_grad_(False)):
        short(x, 2)
    assert len(planned) == 12  # the last one is as before


def test_what_a_plan_says_is_checked():
    work = _core.Dropout("float32", 0.5, 1.0, 0.0, 0.0).dropping(4)
    result = ("float32", (4,), (1,))
    steps = [(work, [(0, 0), (-1, 0), (1, 0)])]
    with pytest.raises(ValueError, match="result"):
        _core.CallPlan(steps, [result], 2)
    with pytest.raises(ValueError, match="elements"):
        _core.CallPlan(steps, [("float32", (0,), (1,))], 1)
    beyond = [(work, [(0, 0), (-1, 0), (7, 0)])]
    with pytest.raises(RuntimeError, match="another call"):
        _core.Call(lambda *_: _core.CallPlan(beyond, [result], 1), 1)(X[0, 0, 0, :4])
    for arguments in ((), (1,), (1, ()), (object(), (1, 2))):
        with pytest.raises(RuntimeError, match="native call"):
            _core.keep(*arguments)


def test_plans_are_forgotten_in_the_end_and_made_once_before():
    made = []
    short = calls.call(lambda recording, tensors, arguments: made.append(arguments), 1)
    for _ in range(2):
        for i in range(4000):
            short(X, i)
    assert len(made) == 4000
    for i in range(4000, 4200):
        short(X, i)
    short(X, 0)
    assert len(made) == 4201


def test_many_threads_share_a_call():
    wrong = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(200):
            h, w = torch.randint(4, 12, (2,), generator=generator).tolist()
            x = torch.randn(1, 2, h, w, generator=generator).requires_grad_(bool(h % 2))
            difference = MEAN(x, 2, 1) - torch.nn.functional.avg_pool2d(x, 2, 1)
            if difference.abs().max() > 1e-6:
                wrong.append((h, w))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- results -------------------------------------------------------------------------------


def test_large_results_come_from_the_recycler_and_go_back():
    x = torch.randn(4, 16, 128, 256)
    before = _core.cache_info()["in_use"]
    y = MEAN(x, 2, 1)
    assert _core.cache_info()["in_use"] >= before + y.nbytes
    view = y[0]
    del y
    assert _core.cache_info()["in_use"] > before
    del view
    assert _core.cache_info()["in_use"] == before


def test_results_are_ordinary_tensors():
    y = MEAN(X, 2, None)
    assert y.data_ptr() % 64 == 0
    assert y.is_leaf and not y.requires_grad and not y._is_view() and y._version == 0
    y.add_(1).requires_grad_()
    (y * 2).sum().backward()
    assert torch.equal(y.grad, torch.full_like(y, 2))
    assert torch.equal(torch.from_numpy(MEAN(X, 2, None).numpy()), MEAN(X, 2, None))


# --- gradients -----------------------------------------------------------------------------


def test_saved_tensors_pass_through_hooks_and_are_freed():
    packed = []
    leaf = X.clone().requires_grad_()

    def pack(t):
        packed.append(t.dtype)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        values, indices = LARGEST(leaf, 2, None)
    assert packed == [torch.uint8]
    assert indices.dtype == torch.int64 and not indices.requires_grad
    values.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        values.sum().backward()
    assert MEAN(leaf, 2, None).grad_fn.note is not None


def test_saved_tensors_must_not_change():
    leaf = X.clone().requires_grad_()
    y = F.layer_norm(leaf * 1, (8,), W.clone().requires_grad_())
    y.sum().backward()
    x = leaf * 1
    y = F.layer_norm(x, (8,), W)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", ["mean", "max", "lp", "layer", "batch"])
def test_gradients_of_gradients_take_the_long_way(name):
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    case = CASES[name]
    if name in ("layer", "batch"):
        small = x.detach()[:, :2, :2].clone().requires_grad_()
        case = {
            "layer": lambda x: F.layer_norm(x, (8,)),
            "batch": lambda x: F.batch_norm(x, None, None, training=True),
        }[name]
    else:
        small = x.detach()[:, :1, :4, :4].abs().requires_grad_()
    assert torch.autograd.gradcheck(case, small)
    assert torch.autograd.gradgradcheck(case, small)


def test_a_gradient_of_another_kind_takes_the_long_way():
    leaf = X.clone().requires_grad_()
    for of_y in (torch.ones(()).expand(1, 8, 4, 4), torch._neg_view(-torch.ones(1, 8, 4, 4))):
        (short,) = torch.autograd.grad(MEAN(leaf, 2, None), leaf, of_y)
        assert torch.equal(short, torch.full_like(leaf, 0.25))
    (nothing,) = torch.autograd.grad(
        LARGEST(leaf, 2, None)[0], leaf, torch._efficientzerotensor(1, 8, 4, 4)
    )
    assert not nothing.any()


# --- unpooling and dropout -----------------------------------------------------------------


def unpooled_size(shape, kernel, stride, padding, size):
    return unpool_output_size(
        "max_unpool2d", kernel, stride=stride, padding=padding, output_size=size, axes=(-2, -1),
        sizes=shape[-2:], front=TORCH,
    )  # fmt: skip


def test_unpooling():
    short = scatter.unpooling(unpooled_size)
    values, indices = torch.nn.functional.max_pool2d(X, 2, return_indices=True)
    results = []
    for function in (short, long_way):
        leaf = values.clone().requires_grad_()
        head = (F.max_unpool2d,) if function is long_way else ()
        y = function(*head, leaf, indices, 2, None, 0, None)
        (y * torch.arange(512).view(y.shape)).sum().backward()
        results.append((y, leaf.grad))
    assert all(map(torch.equal, *results))
    assert short(values, indices + 64, 2, None, 0, None) is None  # out of range
    assert short(values, indices.int(), 2, None, 0, None) is None
    assert short(values, indices, 2, None, 0, (70, 70)) is None


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("axes", [0, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_dropout(alpha, axes, layout):
    family = ALPHA_DROPOUT if alpha else DROPOUT
    short = dropping(family)
    x = X.clone(memory_format=layout).requires_grad_()
    seed = torch.tensor(-7)
    y = short(x, seed, 0.5, axes)
    assert y.stride() == x.stride()
    assert torch.equal(y, short(x, seed, 0.5, axes))
    assert not torch.equal(y, short(x, seed + 1, 0.5, axes))
    z = x.detach().requires_grad_()
    long = family.forward(z, 0.5, seed, axes)
    assert torch.equal(y, long) and 0 < (y == y.min()).sum() < y.numel()
    y.backward(X)
    long.backward(X)
    assert torch.equal(x.grad, z.grad)
    assert short(x, torch.tensor(7.0), 0.5, axes) is None
    assert short(x, torch.tensor([7]), 0.5, axes) is None
    assert short(x[..., ::2], seed, 0.5, axes) is None


# --- without it ----------------------------------------------------------------------------


def test_everything_works_without_dlpacks_functions():
    code = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
import infinitypool.nn.functional as F
from infinitypool.nn import calls
assert not calls.READY
x = torch.randn(1, 8, 8, 8, requires_grad=True)
theirs = torch.nn.functional
assert torch.equal(F.max_pool2d(x, 2), theirs.max_pool2d(x, 2))
assert torch.allclose(F.layer_norm(x, (8,)), theirs.layer_norm(x, (8,)), atol=1e-6)
F.avg_pool2d(x, 2).sum().backward()
assert torch.equal(x.grad, torch.full_like(x, 0.25))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- small tensors -------------------------------------------------------------------------


def same(a, b):
    return torch.equal(a, b) or torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8], ids=str)
def test_small_tensors_give_the_bits_of_large_ones(dims, dtype):
    generator = torch.Generator().manual_seed(dims)

    def drawn(low, high, count=dims):
        return torch.randint(low, high + 1, (count,), generator=generator).tolist()

    for trial in range(20):
        shape = [*drawn(1, 4, 2), *drawn(3, 8)]
        x = torch.randn(shape, generator=generator).mul(10).round().abs().to(dtype)
        if dtype.is_floating_point and trial % 4 == 0:
            x.flatten()[::7] = float("nan")
        many = torch.cat([x] * (40000 // x.numel() + 1))
        if trial % 3 == 0 and dims > 1:
            layout = torch.channels_last if dims == 2 else torch.channels_last_3d
            x, many = (t.to(memory_format=layout) for t in (x, many))
        size = [min(n, s) for n, s in zip(drawn(1, 8), shape[2:], strict=True)]
        kernel, stride = drawn(1, 3), drawn(1, 3)
        for name, *arguments in (
            ("adaptive_avg_pool", size),
            ("adaptive_max_pool", size, True),
            ("max_pool", kernel, stride, 0, 1, False, True),
            ("avg_pool", kernel),
            ("max_pool", kernel),
        ):
            function = getattr(F, f"{name}{dims}d")
            found = [as_tuple(function(t, *arguments)) for t in (x, many)]
            for few, all_ in zip(*found, strict=True):
                assert same(few, all_[: len(few)])


def test_who_asks_for_a_gradient_is_part_of_the_key():
    """A call that is refused is so after one of the same layouts that was not."""
    x = torch.randn(4, 6, 5, 3, requires_grad=True)
    mean, var = torch.zeros(6), torch.ones(6)
    assert F.batch_norm(x, mean, var).requires_grad
    with pytest.raises(RuntimeError, match="running statistics have no gradient"):
        F.batch_norm(x, mean.requires_grad_(), var)

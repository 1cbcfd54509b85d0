"""Unpooling, fractional windows and composites, rewritten, exported, batched and differentiated."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from scatter_samples import SAMPLES
from torch._dynamo.testing import CompileCounterWithBackend

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from infinitypool.nn.registry import OPERATORS
from torch_compare import same_strides


def _drawn(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5))


PLANES, VOLUMES = _drawn(2, 3, 2), _drawn(2, 3, 3)


def _unpooled(x, kernel, *window, **given):
    n = x.ndim - 2
    values, indices = getattr(IF, f"max_pool{n}d")(x, kernel, *window, return_indices=True)
    return getattr(IF, f"max_unpool{n}d")(2 * values, indices, kernel, *window, **given)


class Case(NamedTuple):
    """What is done to a tensor of ``n`` pooled axes; sizes are multiples of ``step``."""

    function: object
    n: int = 2
    step: int = 1


CASES = {
    "unpool2d": Case(lambda x: _unpooled(x, 2), 2, 2),
    "unpool3d": Case(lambda x: _unpooled(x, (1, 2, 2)), 3, 2),
    "unpool, overlapping": Case(lambda x: _unpooled(x, 3, 1, 1)),
    "unpool to a size": Case(lambda x: _unpooled(x, 2, output_size=x.shape), 2, 2),
    "fractional2d": Case(lambda x: IF.fractional_max_pool2d(x, 2, (3, 4), None, False, PLANES)),
    "fractional3d": Case(lambda x: IF.fractional_max_pool3d(x, 2, 3, None, False, VOLUMES), 3),
    "fractional, drawn": Case(lambda x: IF.fractional_max_pool2d(x, (2, 3), output_ratio=0.6)),
    "fractional with indices": Case(
        lambda x: IF.fractional_max_pool2d(x, 3, None, 0.5, True, PLANES)
    ),
    "spp": Case(lambda x: IF.spp(x, (3, 5))),
    "sppf": Case(lambda x: IF.sppf(x, 3, 2)),
    "blur2d": Case(lambda x: IF.blur_pool2d(x, (3, 4), 2)),
    "blur, zeros": Case(lambda x: IF.blur_pool2d(x, 4, padding="zeros")),
    "blur, replicated": Case(lambda x: IF.blur_pool3d(x, 3, 1, "replicate"), 3),
    "max blur": Case(lambda x: IF.max_blur_pool2d(x, 3, padding=1)),
    "global GeM": Case(lambda x: IF.global_gem_pool(x, 2.5)),
    "global GeM, a tensor": Case(lambda x: IF.global_gem_pool(x, x.new_tensor([2.5]))),
    "pyramid": Case(lambda x: IF.spatial_pyramid_pool(x, (1, (2, 3)))),
}
SIZES = {1: (12,), 2: (12, 10), 3: (10, 12, 10)}


def drawn(name, more=0):
    case = CASES[name]
    return 0.1 + torch.rand(2, 3, *(size + more * case.step for size in SIZES[case.n]))


def first(results):
    return results[0] if isinstance(results, tuple) else results


def seeded(function, *arguments):
    torch.manual_seed(3)
    return function(*arguments)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


# --- operators -----------------------------------------------------------------------------


def _other_samples():
    """Ties, NaNs, other dtypes."""
    x = torch.randn(2, 3, 8, 10).round()
    x[0, 1, 2:5, 3] = torch.nan
    ask = _drawn(2, 3, 2)
    for name in SAMPLES:
        if name.startswith("fractional"):
            yield name, (x, (3, 3), (4, 5), ask)
            yield name, (x.bfloat16(), (2, 2), (4, 5), ask.bfloat16())
            yield name, (x.half(), (2, 2), (4, 1), 3 * ask.half() - 1)
            yield name, (x.double(), (1, 1), (8, 10), ask.double())
    values, indices = F.max_pool2d(torch.randn(2, 3, 8, 10), 3, 1, return_indices=True)
    for dtype in (torch.float16, torch.uint8, torch.bool, torch.int64):
        yield "max_unpool", (values.to(dtype), indices, [8, 10])
    yield "max_unpool_backward", (x.half(), indices, [8, 10], indices.stride())
    yield "spp", (x, [5, 3], False)
    yield "spp", (x.bfloat16(), [3, 5], True)


@pytest.mark.parametrize("name", SAMPLES)
def test_compositions_are_the_kernels(name):
    calls = [(name, arguments) for arguments in SAMPLES[name]]
    for name_, arguments in [*calls, *_other_samples()]:
        if name_ == name:
            results = [
                getattr(OPERATORS[name], part)(*arguments) for part in ("kernel", "composed")
            ]
            results = [r if isinstance(r, tuple) else (r,) for r in results]
            for one, other in zip(*results, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_colliding_indices_have_one_winner_for_everybody():
    x = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(1, 1, 6)
    indices = torch.tensor([[[3, 1, 3, 0, 1, 3]]])

    def function(x):
        return IF.max_unpool1d(x, indices, 1, output_size=(6,))

    want = torch.tensor([[[4.0, 5.0, 0.0, 6.0, 0.0, 0.0]]], dtype=torch.float64)
    won = torch.tensor([[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    assert torch.equal(function(leaf), want)
    assert torch.equal(torch.autograd.grad(function(leaf).sum(), leaf)[0], won)
    assert torch.equal(torch.func.grad(lambda x: function(x).sum())(x), won)
    assert torch.equal(torch.func.jvp(function, (x,), (x,))[1], want)
    assert torch.equal(torch.vmap(function)(x[None])[0], want)
    indices = indices.clone()
    indices[0, 0, 2] = 6
    for call in (function, torch.vmap(function, 0)):
        with pytest.raises(RuntimeError, match="out"):
            call(x if call is function else x[None])


# --- compiled and exported -----------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_one_graph_for_all_sizes(name):
    function = CASES[name].function
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for last in (False, True):
        if last and CASES[name].n != 2:
            continue
        graphs = None
        for more in (0, 3):
            x = drawn(name, more)
            x = (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()
            wants, gots = seeded(function, x), seeded(compiled, x)
            if isinstance(wants, tuple):
                assert torch.equal(wants[1], gots[1])
            want, got = first(wants), first(gots)
            torch.testing.assert_close(got, want)
            same_strides(got, want)
            grad = torch.randn_like(want)
            (one,), (other,) = (torch.autograd.grad(y, x, grad) for y in (want, got))
            torch.testing.assert_close(one, other)
            graphs = graphs or counter.frame_count
        assert counter.frame_count == graphs
    with torch.no_grad():
        torch.testing.assert_close(first(seeded(compiled, x)), first(seeded(function, x)))


def test_inductor():
    def function(x):
        return IF.blur_pool2d(IF.sppf(_unpooled(torch.relu(x), 2), 3, 1) * 2)

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for more in (0, 3):
        x = drawn("unpool2d", more).requires_grad_()
        want, got = function(x), compiled(x)
        torch.testing.assert_close(got, want)
        one, other = (torch.autograd.grad(y.square().sum(), x)[0] for y in (want, got))
        torch.testing.assert_close(one, other)


class _Module(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.function = CASES[name].function

    def forward(self, x):
        return self.function(x)


def _dims(name):
    case = CASES[name]
    dims = [torch.export.Dim(f"d{i}", min=5, max=200) for i in range(case.n)]
    return ({i + 2: case.step * dim for i, dim in enumerate(dims)},)


@pytest.mark.parametrize("name, strict", [(name, i % 2 == 0) for i, name in enumerate(CASES)])
def test_export(name, strict):
    x, larger, module = drawn(name), drawn(name, 4), _Module(name)
    program = torch.export.export(module, (x,), dynamic_shapes=_dims(name), strict=strict)
    assert any("infinitypool." in str(node.target) for node in program.graph.nodes)
    got, want = first(seeded(program.module(), larger)), first(seeded(module, larger))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "name",
    [
        "unpool, overlapping",
        "unpool3d",
        "fractional3d",
        "fractional with indices",
    ],
)
def test_onnx(name):
    """Equal results also where indices collide, of sizes that are known when the model runs."""
    x, larger, module = drawn(name), drawn(name, 4), _Module(name)
    model = torch.onnx.export(
        module, (x,), dynamo=True, verbose=False, dynamic_shapes=_dims(name)
    ).model_proto
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    got = session.run(None, {session.get_inputs()[0].name: larger.numpy()})
    wants = module(larger)
    for one, other in zip(got, wants if isinstance(wants, tuple) else (wants,), strict=True):
        np.testing.assert_array_equal(one, other.numpy())


# --- derivatives and batches ---------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_every_kind(name):
    case = CASES[name]
    torch.manual_seed(0)
    shape = 2, 3, *(6 for _ in range(case.n))
    order = torch.randperm(torch.Size(shape).numel()).reshape(shape)
    x = (0.1 + order / order.numel()).double().requires_grad_()
    if case.n == 3 and name != "unpool3d":
        x = x.detach()[..., :4].clone().requires_grad_()

    def function(x):
        return first(seeded(case.function, x))

    if "fractional" in name and "drawn" not in name:
        function = _fractional_of(case.n)  # samples of the input's dtype
    assert torch.autograd.gradcheck(
        function, x, check_forward_ad=True, check_batched_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(function, x, fast_mode=True)
    inner, tangent = x.detach(), torch.randn_like(x)
    (want,) = torch.autograd.grad((function(x).square()).sum(), x)
    torch.testing.assert_close(torch.func.grad(lambda x: function(x).square().sum())(inner), want)
    _, moved = torch.func.jvp(lambda x: function(x).square().sum(), (inner,), (tangent,))
    torch.testing.assert_close(moved, (want * tangent).sum())


def _fractional_of(n):
    pool = getattr(IF, f"fractional_max_pool{n}d")
    return lambda x: pool(x, 2, 3, _random_samples=(PLANES if n == 2 else VOLUMES).double())


@pytest.mark.parametrize("name", [name for name in CASES if "drawn" not in name])
def test_a_batch_is_as_many_calls(name):
    function = CASES[name].function
    batch = torch.stack([drawn(name), drawn(name).flip(-1), drawn(name) * 2])
    for axis in (0, -1):
        got = torch.vmap(function, axis)(batch.movedim(0, axis))
        for i, x in enumerate(batch):
            torch.testing.assert_close(first(got)[i], first(function(x)))


def test_fractional_draws_under_vmap():
    def function(x):
        return IF.fractional_max_pool2d(x, 2, 4)

    batch = torch.stack([drawn("spp")] * 4)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(function)(batch)
    for randomness in ("same", "different"):
        y = torch.vmap(function, randomness=randomness)(batch)
        assert (randomness == "same") == bool((y == y[:1]).all())


def test_gradients_per_sample():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), inn.SPPF(3, 2), inn.BlurPool2d(), inn.GlobalAvgPool(True),
        torch.nn.Linear(9, 1),
    )  # fmt: skip
    parameters, x = dict(network.named_parameters()), torch.randn(4, 2, 9, 8)

    def loss(parameters, x):
        return torch.func.functional_call(network, parameters, (x[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i in range(len(x)):
        network.zero_grad()
        network(x[i : i + 1]).square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad)


# --- placed and watched --------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_meta_fake_inference_and_determinism(name):
    function, x = CASES[name].function, drawn(name)
    like = first(seeded(function, x))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = first(function(mode.from_tensor(x)))
        assert (fake.shape, fake.stride(), fake.dtype) == (like.shape, like.stride(), like.dtype)
    torch.use_deterministic_algorithms(True)
    try:
        leaf = x.clone().requires_grad_()
        first(function(leaf)).sum().backward()
        if "tensor" not in name:
            seeded(torch.func.jvp, lambda x: first(function(x)), (x,), (x,))
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.inference_mode():
        torch.testing.assert_close(first(seeded(function, x)), like)
    if "fractional" in name and "drawn" not in name:
        return  # their samples have data
    meta = first(function(x.to("meta")))
    assert (meta.device.type, meta.shape, meta.stride()) == ("meta", like.shape, like.stride())


def test_autocast_is_pytorchs():
    """What PyTorch computes in float32 is, and what it leaves alone is left alone."""
    x = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)
    values, indices = F.max_pool2d(x.float(), 2, return_indices=True)
    values = values.bfloat16()
    samples = PLANES.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in (
            (IF.max_unpool2d(values, indices, 2), F.max_unpool2d(values, indices, 2)),
            (
                IF.fractional_max_pool2d(x, 2, 3, _random_samples=samples),
                F.fractional_max_pool2d(x, 2, 3, _random_samples=samples),
            ),
        ):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        assert IF.spp(x).dtype == torch.bfloat16


def test_names_in_the_profiler():
    x = drawn("unpool2d").requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for name in ("unpool2d", "fractional2d", "spp"):
            CASES[name].function(x).sum().backward()
    seen = {event.key for event in profile.key_averages()}
    names = "max_unpool", "max_unpool_backward", "fractional_max_pool", "max_pool_with_offsets"
    assert {f"infinitypool::{name}" for name in names} <= seen, seen

"""Pooling as a citizen of PyTorch: compiled, transformed, without data, in other modes and types."""

from __future__ import annotations

import pytest
import torch
from pool_calls import CALLS, OTHER_SIZES, SIZES
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch.testing._internal.two_tensor import TwoTensor

import infinitypool.nn as inn
import infinitypool.nn.functional as IF

LAYOUTS = {
    1: [torch.contiguous_format],
    2: [torch.contiguous_format, torch.channels_last],
    3: [torch.contiguous_format, torch.channels_last_3d],
}


def _run(call, x):
    result = getattr(IF, call.name)(x, *call.args, **call.kwargs)
    return result if isinstance(result, tuple) else (result,)


def _all(calls):
    def function(x):
        x = 2 * x
        return tuple(part for call in calls for part in _run(call, x))

    return function


def _same(found, wanted, **tolerance):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
        assert one.stride() == other.stride()


def _steps(x):
    """The strides that say something."""
    return [step for size, step in zip(x.shape, x.stride(), strict=True) if size > 1]


def _gradient(results, x):
    total = sum((r * r).sum() for r in results if r.is_floating_point())
    return torch.autograd.grad(total, x)[0]


class _Counting:
    """A backend that executes what it is given, and notes the operators."""

    def __init__(self):
        self.operators = set()

    def _compile(self, graph, _):
        self.operators |= {str(node.target) for node in graph.graph.nodes}
        return graph

    def __call__(self, graph, inputs):
        return aot_autograd(fw_compiler=self._compile, bw_compiler=self._compile)(graph, inputs)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


COMPOSED = ("global", "spatial", "mixed", "max_blur", "spp")


@pytest.mark.parametrize(
    "n, layouts",
    [(1, LAYOUTS[1]), (2, LAYOUTS[2][:1]), (2, LAYOUTS[2]), (3, LAYOUTS[3])],
    ids=["line", "every call", "plane", "volume"],
)
def test_one_graph_of_our_operators_for_all_sizes(n, layouts, request):
    """Training and inference, any sizes, both layouts: a graph for each, and none more.

    Symbols take long, so every call is compiled of planes only, and of the others one of each name
    that is not made of the rest, with and without places."""
    calls = [call for call in CALLS if call.n == n]
    if request.node.callspec.id != "every call":
        calls = [call for call in calls if not call.name.startswith(COMPOSED)]
        calls = list({(c.name, "return_indices" in c.kwargs): c for c in calls}.values())
    function, backend = _all(calls), _Counting()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    graphs = 0
    for layout in layouts:
        for recorded in (False, True):
            graphs += 1
            for sizes, batch in ((SIZES, 2), (OTHER_SIZES, 5)):
                x = calls[0].input(sizes=sizes, batch=batch)
                x = x.to(memory_format=layout).requires_grad_(recorded)
                found, wanted = compiled(x), function(x)
                _same(found, wanted)
                if recorded:
                    torch.testing.assert_close(_gradient(found, x), _gradient(wanted, x))
            assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]
    for name in ("max_pool", "avg_pool", "soft_pool", "power_mean_pool", "quantile_pool"):
        assert f"infinitypool.{name}.default" in backend.operators
        assert f"infinitypool.{name}_backward.default" in backend.operators or "quantile" in name
    assert not any("aten.max_pool" in name or "aten.avg_pool" in name for name in backend.operators)


@pytest.mark.parametrize("layout", LAYOUTS[2], ids=str)
def test_inductor(layout):
    calls = [
        call
        for call in CALLS
        if call.n == 2 and call.name in ("max_pool2d", "avg_pool2d", "soft_pool2d", "spp")
    ]
    function = _all(calls)
    compiled = torch.compile(function, fullgraph=True)
    for recorded in (False, True):
        x = calls[0].input().to(memory_format=layout).requires_grad_(recorded)
        found, wanted = compiled(x), function(x)
        _same(found, wanted)
        if recorded:
            torch.testing.assert_close(_gradient(found, x), _gradient(wanted, x))


def test_draws_differ_from_call_to_call_of_one_graph():
    compiled = torch.compile(
        lambda x: IF.stochastic_pool2d(x, 4, training=True), fullgraph=True, backend="aot_eager"
    )
    x = torch.rand(1, 8, 32, 32)
    first, second = compiled(x), compiled(x)
    assert not torch.equal(first, second)
    assert torch.isin(first, x).all()


def test_wrong_arguments_are_named_by_the_compiler():
    compiled = torch.compile(lambda x: IF.max_pool2d(x, 0), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="max_pool2d: kernel_size=0 must be at least 1"):
        compiled(torch.rand(1, 1, 4, 4))


# --- transformations -----------------------------------------------------------------------

TINY = {1: (7,), 2: (5, 6), 3: (4, 4, 5)}


def _tiny(call):
    if call.name in ("spp", "sppf") or "levels" in call.kwargs or call.args[:1] == (4,):
        return call.input(torch.float64)
    return call.input(torch.float64, sizes=SIZES if call.n == 1 else TINY)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_transformations(call):
    """Gradients of each sample, Jacobians by both modes, and directions: all the same numbers."""

    def loss(x):
        return sum((r * r).sum() for r in _run(call, x) if r.is_floating_point())

    x = _tiny(call)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    each = torch.vmap(torch.func.grad(lambda sample: loss(sample[None])))(x)
    torch.testing.assert_close(each, wanted)
    torch.testing.assert_close(
        torch.func.jacfwd(loss)(x[:1, :1]), torch.func.jacrev(loss)(x[:1, :1])
    )
    direction = torch.ones_like(x)
    torch.testing.assert_close(torch.func.jvp(loss, (x,), (direction,))[1], wanted.sum())
    batch = torch.vmap(lambda sample: _run(call, sample))(torch.stack((x, 0.5 * x)))
    _same([part[0] for part in batch], _run(call, x))
    torch.testing.assert_close([part[1] for part in batch], list(_run(call, 0.5 * x)))


def test_second_derivatives_of_functions():
    for call in CALLS:
        if call.n == 2 and not call.name.startswith("quantile"):
            x = _tiny(call)[:1, :1].requires_grad_()

            def values(x, call=call):
                return tuple(r for r in _run(call, x) if r.is_floating_point())

            assert torch.autograd.gradgradcheck(values, (x,), fast_mode=True), call


def test_functional_call_of_modules():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), inn.MaxPool2d(2), inn.GeM())
    x = torch.rand(2, 3, 8, 8)
    parameters = {name: 0.5 * p.detach() for name, p in model.named_parameters()}
    found = torch.func.functional_call(model, parameters, (x,))
    gradient = torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).sum())(
        parameters
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])
    torch.testing.assert_close(found, model(x))
    model(x).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad)


# --- modes and types -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_shapes_without_data(n):
    for layout in LAYOUTS[n]:
        for call in (call for call in CALLS if call.n == n):
            x = call.input().to(memory_format=layout)
            for one, other in zip(_run(call, x.to("meta")), _run(call, x), strict=True):
                assert one.is_meta and (one.dtype, one.shape) == (other.dtype, other.shape)
                if "blur" not in call.name:  # PyTorch's padding without data forgets the layout
                    assert _steps(one) == _steps(other), call


def test_inference_mode_and_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        for call in CALLS:
            x = call.input()
            with torch.inference_mode():
                found = _run(call, x)
                assert all(r.is_inference() for r in found)
            leaf = x.clone().requires_grad_()
            results = _run(call, leaf)
            _same(found, [r.detach() for r in results])
            first = _gradient(results, leaf)
            assert torch.equal(first, _gradient(_run(call, leaf), leaf))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("watched", [False, True])
def test_an_activation_may_write_into_a_power_average(watched):
    """As behind PyTorch's, which keeps no result either; by both ways of a call."""
    x = torch.rand(1, 2, 9, 9) - 0.5
    gradients = []
    for function in (IF.lp_pool2d, torch.nn.functional.lp_pool2d):
        leaf = x.clone().requires_grad_()
        with torch.autograd.profiler.profile(enabled=watched):
            torch.relu_(function(leaf, 2.0, 3, 2)).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_the_profiler_sees_named_operators():
    x = torch.rand(1, 2, 8, 8, requires_grad=True)
    with torch.profiler.profile() as profile:
        IF.max_pool2d(x, 2).sum().backward()
        IF.soft_pool2d(x.detach(), 2)
    names = {event.name for event in profile.events()}
    assert {
        "infinitypool::max_pool", "infinitypool::max_pool_with_offsets",
        "infinitypool::max_pool_backward", "infinitypool::soft_pool",
    } <= names  # fmt: skip


def test_a_type_that_looks_at_operators_sees_ours():
    """As every operator's, so that what it does with operators it does with these."""
    for call in CALLS:
        x, y = call.input(), 0.5 * call.input()
        for found, one, other in zip(
            _run(call, TwoTensor(x, y)), _run(call, x), _run(call, y), strict=True
        ):
            assert type(found) is TwoTensor
            torch.testing.assert_close(found.a, one)
            torch.testing.assert_close(found.b, other)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_traced_call_is_an_operator(n):
    """``torch.jit.trace`` notes the operator, and not the memory that it has written to."""
    for call in (call for call in CALLS if call.n == n and "indices" not in str(call)):
        x = call.input()
        for recorded in (False, True):
            with torch.set_grad_enabled(recorded):
                leaf = x.clone().requires_grad_(recorded)
                traced = torch.jit.trace(lambda t, c=call: _run(c, t), (leaf,), check_trace=False)
            _same(traced(0.5 * x), _run(call, 0.5 * x))

"""The norms inside PyTorch: compiled, exported, derived, batched, without data, and watched."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as theirs
from norm_samples import KINDS, LAYOUTS, OPERATORS, SAMPLES, SHAPE, rand
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, linearize, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import infinitypool.nn as nn
import infinitypool.nn.functional as F
from infinitypool.nn import registry

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*backward hook.*"),
]

F64 = torch.float64
NAMES = [f"{kind}_norm" for kind in KINDS]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GIVEN = {
    dtype: (rand(6, seed=3, dtype=dtype), rand(6, seed=4, dtype=dtype) + 0.1)
    for dtype in (*DTYPES, F64)
}
# Behind the input, from weight and bias; "given" has statistics of its own.
ARGUMENTS = {
    "batch_norm": lambda w, b: (None, None, w, b, True),
    "instance_norm": lambda w, b: (None, None, w, b),
    "group_norm": lambda w, b: (3, w, b),
    "layer_norm": lambda w, b: ((5, 3), w, b),
    "rms_norm": lambda w, b: ((3,), w),
    "given": lambda w, b: (*(t.to(w.device) for t in GIVEN[w.dtype]), w, b),
    "local_response_norm": lambda w, b: (3, 0.5, 0.75, 2.0),
}


def call_of(name, functions=F, **more):
    """The function of an input, a weight and a bias (and a residual where the name adds one)."""
    plain = name.removeprefix("add_")
    prefix = name[: -len(plain)]
    function = getattr(functions, prefix + ("batch_norm" if plain == "given" else plain))

    def call(x, w, b, *residual):
        return function(x, *residual, *ARGUMENTS[plain](w, b), **more)

    return call


def leaves_of(name, shape=SHAPE, dtype=torch.float32, layout="contiguous", seed=0):
    """What :func:`call_of` takes; small weights of the right shape where there are none."""
    kind = name.removeprefix("add_").removesuffix("_norm")
    last = KINDS[kind][1] if kind in KINDS else (6,)
    found = [LAYOUTS[layout](rand(*shape, seed=seed, dtype=dtype) - 0.4)]
    found += [rand(*last, seed=s, dtype=dtype) + 0.2 for s in (1, 2)]
    if name.startswith("add_"):
        found.append(rand(*shape, seed=seed + 5, dtype=dtype))
    return [t.requires_grad_() for t in found]


def parts(result):
    return result if isinstance(result, tuple) else (result,)


def results_and_gradients(call, leaves):
    """All that comes out of a call, and the gradients of what it used."""
    results = parts(call(*leaves))
    weights = [rand(*r.shape, seed=11 + i).to(r) for i, r in enumerate(results)]
    found = torch.autograd.grad(results, leaves, weights, allow_unused=True)
    return [*results, *(g for g in found if g is not None)]


def assert_same(got, want, exact=True):
    for a, b in zip(got, want, strict=True):
        if exact:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b)


def operators_in(graphs):
    """Names of this library's operators."""
    targets = (str(node.target) for graph in graphs for node in graph.graph.nodes)
    return [t.split(".")[1] for t in targets if t.startswith("infinitypool.")]


@pytest.fixture(autouse=True)
def fresh():
    """What is compiled is compiled once."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def compiled_once(call):
    """For all sizes; and what the compiler gets to see."""
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    return torch.compile(call, fullgraph=True, dynamic=True, backend=backend), backend.graphs


# --- torch.compile -------------------------------------------------------------------------

SIZES = (SHAPE, (3, 6, 5, 3), (7, 6, 8, 9))


@pytest.mark.parametrize("adding", ["", "add_"])
@pytest.mark.parametrize("name", [*NAMES, "given"])
def test_compiled(name, adding):
    """One graph for all sizes, with one operator, whose results are those of the eager call."""
    fixed = name in ("layer_norm", "rms_norm")  # the last axes belong to the weight
    for layout, more in (
        ("contiguous", {}),
        ("channels last", {"activation": "leaky_relu", "negative_slope": 0.2}),
    ):
        call = call_of(adding + name, **more)
        compiled, graphs = compiled_once(call)
        for shape in SIZES[: 2 if fixed else 3]:
            leaves = leaves_of(adding + name, shape, layout=layout)
            got = results_and_gradients(compiled, leaves)
            assert_same(got, results_and_gradients(call, leaves))
            assert got[0].stride() == leaves[0].stride()
        operator = "norm_given" if name == "given" else f"{adding}norm"
        assert operators_in(graphs[-1:]) == [operator]


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("name", ["BatchNorm2d", "InstanceNorm2d", "SyncBatchNorm"])
def test_running_statistics_of_compiled_modules(name, momentum):
    """They move beside an operator that changes nothing."""
    named = {"momentum": momentum, "track_running_stats": True, "affine": True}
    eager = getattr(nn, name)(6, **named)
    module = copy.deepcopy(eager)
    compiled, graphs = compiled_once(module)
    for shape in (*SIZES, (9, 6, 4, 4)):
        x = rand(*shape) * 3
        torch.testing.assert_close(compiled(x), eager(x), rtol=0, atol=0)
        for a, b in zip(module.buffers(), eager.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    # (PyTorch's instance norm takes None for a momentum of zero.)
    assert bool(eager.running_mean.any()) or name == "InstanceNorm2d" and momentum is None
    assert operators_in(graphs[-1:]) == ["norm_with_statistics"]
    module.eval(), eager.eval()
    compiled, graphs = compiled_once(module)
    with torch.inference_mode():
        for x in map(rand, *zip(*SIZES, strict=True)):
            assert torch.equal(compiled(x), eager(x))
    assert operators_in(graphs[-1:]) == ["norm_given"]


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_compiled_network(layout):
    """With the compiler that makes code, behind and before operations of others."""
    torch.manual_seed(0)
    eager = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, activation="relu"), torch.nn.Conv2d(8, 8, 3),
        nn.GroupNorm(2, 8), torch.nn.Flatten(2), nn.LayerNorm(16),
    )  # fmt: skip
    x = LAYOUTS[layout](rand(4, 3, 8, 8))
    if layout == "channels last":
        eager.to(memory_format=torch.channels_last)
    network = copy.deepcopy(eager)
    for module in (torch.compile(network, fullgraph=True), eager):
        module(x).square().sum().backward()
    for a, b in zip(network.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(network.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-4)


def test_a_compiled_network_in_evaluation():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    x = LAYOUTS["channels last"](rand(4, 3, 8, 8))
    with torch.no_grad():
        got, want = torch.compile(network, fullgraph=True)(x), network(x)
    assert got.stride() == want.stride()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_normalised_shapes_that_are_symbols():
    """They are taken from the input, and so the graph is for every size."""

    def call(x):
        return F.layer_norm(x, x.shape[1:]), *F.add_rms_norm(x, x, (x.shape[-1],))

    compiled, graphs = compiled_once(call)
    for shape in SIZES:
        assert_same(compiled(rand(*shape)), call(rand(*shape)))
    assert operators_in(graphs[-1:]) == ["norm", "add_norm"]


def test_compiled_local_responses():
    call = call_of("local_response_norm")
    compiled, graphs = compiled_once(call)
    for shape in SIZES:
        leaves = leaves_of("local_response_norm", shape)[:1]
        pairs = [
            results_and_gradients(lambda x, c=c: c(x, None, None), leaves) for c in (compiled, call)
        ]
        assert_same(*pairs, exact=False)
        assert torch.equal(pairs[0][0], pairs[1][0])
    assert operators_in(graphs[-1:]) == ["avg_pool"]


def test_compiled_transformations():
    """Through :mod:`torch.func` inside of what is compiled."""
    call = call_of("group_norm")
    x, w, b = (t.detach() for t in leaves_of("group_norm"))
    rows = torch.stack((x, x.flip(0)))

    def per_sample(rows):
        return vmap(grad(lambda x: call(x, w, b).square().sum()))(rows)

    compiled = torch.compile(per_sample, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rows), per_sample(rows))


@pytest.mark.parametrize("what", ["weight", "running_mean", "kind"])
def test_compiled_calls_that_do_not_fit(what):
    x, five = rand(*SHAPE), torch.ones(5)
    calls = {
        "weight": lambda: F.group_norm(x, 3, five),
        "running_mean": lambda: F.batch_norm(x, five, five, training=True),
        "kind": lambda: F.group_norm(x, 4),
    }
    with pytest.raises(Exception, match=r"\(5,\), which must be \(6,\)|num_groups=4 must divide"):
        torch.compile(calls[what], fullgraph=True, backend="eager")()


# --- torch.export --------------------------------------------------------------------------

MODULES = {
    "batch": (lambda: nn.BatchNorm2d(6), "norm_with_statistics"),
    "batch, averages": (lambda: nn.BatchNorm2d(6, momentum=None), "norm_with_statistics"),
    "batch, evaluation": (lambda: nn.BatchNorm2d(6, activation="silu").eval(), "norm_given"),
    "instance": (lambda: nn.InstanceNorm2d(6), "norm"),
    "instance, running": (
        lambda: nn.InstanceNorm2d(6, track_running_stats=True).eval(),
        "norm_given",
    ),
    "group": (lambda: nn.GroupNorm(3, 6, activation="gelu"), "norm"),
    "layer": (lambda: nn.LayerNorm((5, 3)), "norm"),
    "rms": (lambda: nn.RMSNorm(3), "norm"),
    "local": (lambda: nn.LocalResponseNorm(3), "avg_pool"),
    "sum": (lambda: _Twice(nn.AddLayerNorm((5, 3))), "add_norm"),
}


class _Twice(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        y, total = self.inner(x, x)
        return y + total


@pytest.mark.parametrize("name", MODULES)
def test_exported(name):
    """For any batch, height and width, in both layouts, with a graph of operators."""
    build, operator = MODULES[name]
    module, fixed = build(), name in ("layer", "rms", "sum")
    for layout, strict in (("contiguous", False), ("channels last", name == "batch")):
        axes = (0,) if fixed else (0, 2, 3)
        x = LAYOUTS[layout](rand(*SHAPE))
        sizes = {axis: torch.export.Dim.DYNAMIC for axis in axes}
        program = torch.export.export(
            copy.deepcopy(module), (x,), dynamic_shapes=(sizes,), strict=strict
        )
        assert operators_in([program.graph_module]) == [operator]
        for shape in SIZES[: 2 if fixed else 3]:
            x = LAYOUTS[layout](rand(*shape, seed=4))
            got, want = program.module()(x), copy.deepcopy(module)(x)
            assert torch.equal(got, want) and got.stride() == want.stride()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith("batch, av")])
def test_traced(name):
    """By :func:`torch.jit.trace`, which must see what computes: an operator."""
    module = MODULES[name][0]()
    for recorded in (False, True):
        with torch.set_grad_enabled(recorded):
            traced = torch.jit.trace(copy.deepcopy(module), rand(*SHAPE), check_trace=False)
            x = rand(3, *SHAPE[1:], seed=4).requires_grad_(recorded)
            got, want = (copy.deepcopy(m)(x) for m in (traced, module))
        torch.testing.assert_close(got, want)
        if recorded:
            pair = (torch.autograd.grad(y.square().sum(), x)[0] for y in (got, want))
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


# --- the operators themselves --------------------------------------------------------------


def test_every_operator_has_samples():
    norms = {name for name in registry.OPERATORS if "norm" in name} - {"norm_pool"}
    assert norms == set(OPERATORS) == {name for name, found in SAMPLES.items() if found}


@pytest.mark.parametrize("name", OPERATORS)
def test_what_pytorch_demands_of_an_operator(name):
    for arguments in SAMPLES[name]:
        torch.library.opcheck(registry.OPERATORS[name].overload, arguments)


@pytest.mark.parametrize("name", OPERATORS)
def test_kernels_agree_with_what_they_are_composed_of(name):
    operator = registry.OPERATORS[name]
    for arguments in SAMPLES[name]:
        plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]
        got, want = parts(operator.overload(*plain)), parts(operator.composed(*plain))
        meta = [t.to("meta") if isinstance(t, torch.Tensor) else t for t in plain]
        without_data = parts(operator.overload(*meta))
        for a, b, c in zip(got, want, without_data, strict=True):
            loose = {"atol": 3e-2, "rtol": 3e-2} if plain[0].dtype is torch.bfloat16 else {}
            torch.testing.assert_close(a, b, equal_nan=True, check_stride=False, **loose)
            assert c.device.type == "meta" and c.dtype == a.dtype
            assert c.shape == a.shape and c.stride() == a.stride()


def test_devices_are_not_mixed():
    x, there = rand(*SHAPE), torch.ones(6, device="meta")
    for call in (
        lambda: F.group_norm(x, 3, there),
        lambda: F.group_norm(x.to("meta"), 3, torch.ones(6)),
        lambda: F.add_group_norm(x, x.to("meta"), 3),
        lambda: F.batch_norm(x, there, there),
    ):
        with pytest.raises(RuntimeError, match="device"):
            call()


# --- derivatives ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "given", "add_layer_norm", "add_batch_norm"])
def test_derivatives_of_any_kind(name):
    """First and second, backward and forward, one by one and many at once."""
    leaves = leaves_of(name, (2, 6, 5, 3), F64)
    leaves[0] = leaves[0].detach().mul(2).requires_grad_()

    def call(*leaves):
        results = call_of(name, activation="silu")(*leaves)
        # Few numbers, which depend on all.
        return tuple((r * rand(*r.shape, dtype=F64)).sum((0, 2)) for r in parts(results))

    used = leaves[:2] + leaves[3:] if "rms" in name else leaves
    if "rms" in name:
        full, call = call, lambda x, w, *more: full(x, w, None, *more)
    assert gradcheck(call, used, check_forward_ad=True, fast_mode=True, check_batched_grad=True)
    assert gradgradcheck(call, used, fast_mode=True, check_fwd_over_rev=True)


TRANSFORMS = {
    "grad": lambda f, x, t: grad(lambda x: f(x).square().sum())(x),
    "jvp": lambda f, x, t: jvp(f, (x,), (t,)),
    "linearize": lambda f, x, t: linearize(f, x)[1](t),
    "vmap": lambda f, x, t: vmap(f)(torch.stack((x, t))),
    "vmap, other axis": lambda f, x, t: vmap(f, -1, 1)(torch.stack((x, t), -1)),
    "jacrev": lambda f, x, t: jacrev(lambda x: f(x).sum((0, 2, 3)))(x),
    "jacfwd": lambda f, x, t: jacfwd(lambda s: f(s * x + t).sum((0, 3)))(torch.ones(())),
    "per sample": lambda f, x, t: vmap(grad(lambda x: f(x).square().sum()))(torch.stack((x, t))),
    "second": lambda f, x, t: grad(lambda x: grad(lambda x: f(x).pow(3).sum())(x).sum())(x),
    "over a graph": lambda f, x, t: vmap(grad(lambda x: f(x).square().sum()))(
        torch.stack((x, t)).requires_grad_()
    ).detach(),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", [*NAMES, "given", "local_response_norm"])
def test_transformations(name, transform):
    _, w, b = (t.detach() for t in leaves_of(name))
    x, t = rand(*SHAPE) - 0.4, rand(*SHAPE, seed=3)
    got, want = (
        TRANSFORMS[transform](lambda x, f=f: call_of(name, f)(x, w, b), x, t) for f in (F, theirs)
    )
    torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3 if transform == "second" else 2e-4)


@pytest.mark.parametrize("name", ["norm", "add_norm_with_statistics", "norm_given"])
def test_batches_of_operator_calls(name):
    """Weights and residuals may be what differs; an operator that is called itself does as well."""
    operator = registry.OPERATORS[name].overload
    arguments = [t.detach() if isinstance(t, torch.Tensor) else t for t in SAMPLES[name][0]]
    for place, tensor in enumerate(arguments):
        if isinstance(tensor, torch.Tensor):
            rows = torch.stack((tensor, tensor + 0.5))
            in_dims = tuple(0 if i == place else None for i in range(len(arguments)))

            def call(row, place=place):
                return operator(*arguments[:place], row, *arguments[place + 1 :])

            got = vmap(operator, in_dims)(*arguments[:place], rows, *arguments[place + 1 :])
            for i, row in enumerate(rows):
                for a, b in zip(parts(got), parts(call(row)), strict=True):
                    torch.testing.assert_close(a[i], b)


@pytest.mark.parametrize("module", [nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.LayerNorm((5, 3))])
def test_functional_calls_and_ensembles(module):
    x = rand(3, *SHAPE)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    module = copy.deepcopy(module).eval()
    many = {k: torch.stack([v.detach() * s for s in (1, 2, 3)]) for k, v in state.items()}
    got = vmap(lambda state, x: functional_call(module, state, (x,)))(many, x)
    for i in range(3):
        own = {key: value[i] for key, value in many.items()}
        torch.testing.assert_close(got[i], functional_call(module, own, (x[i],)))
    twice = {key: value * 2 for key, value in state.items()}
    again = copy.deepcopy(module)
    again.load_state_dict(twice)
    assert torch.equal(functional_call(module, twice, (x[0],)), again(x[0]))


@pytest.mark.parametrize("name", ["norm_backward", "norm_given_backward"])
def test_gradients_are_differentiable_operators(name):
    operator = registry.OPERATORS[name].overload
    for arguments in SAMPLES[name]:
        if arguments[0].dtype is torch.bfloat16:
            continue
        wide = [t.detach().double() if isinstance(t, torch.Tensor) else t for t in arguments]
        for i in (0, 1):
            wide[i] = wide[i].requires_grad_()

        def call(g, x, wide=wide):
            return operator(g, x, *wide[2:])[0].sum((0, -1))

        assert gradcheck(call, wide[:2], fast_mode=True)


# --- modes and places ----------------------------------------------------------------------


def test_everything_is_deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        for name in (*NAMES, "given", "add_rms_norm", "local_response_norm"):
            leaves = leaves_of(name, layout="channels last")
            call = call_of(name)
            assert_same(results_and_gradients(call, leaves), results_and_gradients(call, leaves))
            (first,) = torch.autograd.grad(
                parts(call(*leaves))[0].square().sum(), leaves[0], create_graph=True
            )
            first.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", [*NAMES, "given", "local_response_norm"])
def test_autocast(name):
    """The dtypes of results and gradients are PyTorch's for each input and weight."""
    checked = 0
    for lower in DTYPES[1:]:
        for dtype in DTYPES:
            for parameter_dtype in DTYPES:
                x, w, b = leaves_of(name, dtype=dtype)
                w, b = (t.detach().to(parameter_dtype).requires_grad_() for t in (w, b))
                found = []
                for functions in (theirs, F):
                    try:
                        with torch.autocast("cpu", lower), warnings.catch_warnings():
                            warnings.simplefilter("ignore")
                            y = call_of(name, functions)(x, w, b)
                    except (RuntimeError, ValueError) as error:
                        found.append(type(error))
                    else:
                        (of_x,) = torch.autograd.grad(y.float().sum(), x)
                        found.append((y.dtype, of_x.dtype))
                if not isinstance(found[0], type):  # (what PyTorch lacks may be there)
                    assert found[0] == found[1], (lower, dtype, parameter_dtype)
                    checked += 1
    assert checked >= 6


def test_autocast_of_operators_and_graphs():
    x = rand(*SHAPE).bfloat16()

    def call(x):
        return F.group_norm(theirs.conv2d(x, torch.ones(6, 6, 1, 1)), 3)

    with torch.autocast("cpu", torch.bfloat16):
        want = call(x.float())
        got = torch.compile(call, fullgraph=True, backend="aot_eager")(x.float())
    assert got.dtype == want.dtype == torch.bfloat16
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", [*NAMES, "given", "add_batch_norm", "add_given"])
def test_without_data_and_without_autograd(name):
    leaves = leaves_of(name, layout="channels last")
    want = parts(call_of(name)(*leaves))
    meta = [t.detach().to("meta").requires_grad_() for t in leaves]
    for a, b in zip(parts(call_of(name)(*meta)), want, strict=True):
        assert a.device.type == "meta" and a.requires_grad
        assert a.shape == b.shape and a.dtype == b.dtype
    sum(a.sum() for a in parts(call_of(name)(*meta))).backward()
    assert meta[0].grad.shape == leaves[0].shape and meta[0].grad.is_meta
    with torch.inference_mode():
        for a, b in zip(parts(call_of(name)(*leaves)), want, strict=True):
            assert a.is_inference() and torch.equal(a, b)
        inside = leaves[0] + 0
    # Such a tensor is for good outside of what is recorded.
    plain = [inside, *(t.detach() for t in leaves[1:])]
    for a, b in zip(parts(call_of(name)(*plain)), want, strict=True):
        assert torch.equal(a, b)


class Logged(torch.Tensor):
    """Wraps a tensor and writes down the operators that see it."""

    seen: list[str] = []

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), dtype=inner.dtype, requires_grad=inner.requires_grad
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func.name())

        def unwrap(value):
            return value.inner if isinstance(value, Logged) else value

        result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {}))
        return tree_map(lambda v: Logged(v) if isinstance(v, torch.Tensor) else v, result)


@pytest.mark.parametrize("name", [*NAMES, "given", "add_layer_norm", "local_response_norm"])
def test_subclasses_and_modes_see_operators(name):
    call = call_of(name)
    leaves = leaves_of(name)
    want = results_and_gradients(call, leaves)
    Logged.seen.clear()
    wrapped = [Logged(t.detach()).requires_grad_() for t in leaves]
    got = results_and_gradients(call, wrapped)
    own = {n.removeprefix("infinitypool::") for n in Logged.seen if n.startswith("infinitypool")}
    expected = {
        "given": {"norm_given", "norm_given_backward"},
        "add_layer_norm": {"add_norm_with_statistics", "norm_backward"},
        "local_response_norm": {"avg_pool"},
    }.get(name, {"norm_with_statistics", "norm_backward"})
    assert own == expected
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.inner if isinstance(a, Logged) else a, b)

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.name().removeprefix("infinitypool::"))
            return func(*args, **(kwargs or {}))

    seen = set()
    with Mode():
        assert_same(results_and_gradients(call, leaves), want)
    assert expected <= seen


def test_running_statistics_under_a_mode():
    """They end where they do without anybody who looks."""

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    x = rand(*SHAPE) * 4
    for name in ("batch_norm", "instance_norm", "add_batch_norm", "add_instance_norm"):
        found = []
        for watched in (False, True):
            running = torch.zeros(6), torch.ones(6)
            leaf = x.clone().requires_grad_()
            inputs = (leaf, leaf) if name.startswith("add") else (leaf,)
            function = getattr(F, name)
            if watched:
                with Mode():
                    y = parts(function(*inputs, *running, None, None, True, 0.3))
            else:
                y = parts(function(*inputs, *running, None, None, True, 0.3))
            found.append((*y, *running, *torch.autograd.grad(sum(t.sum() for t in y), leaf)))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
        assert bool(running[0].all())


def test_names_in_the_profiler():
    with torch.profiler.profile() as profile:
        for name in ("batch_norm", "add_batch_norm", "given"):
            results_and_gradients(call_of(name), leaves_of(name))
        for name in ("layer_norm", "add_layer_norm"):
            call_of(name)(*[t.detach() for t in leaves_of(name)])
    keys = {event.key for event in profile.key_averages()}
    assert {f"infinitypool::{name}" for name in OPERATORS} <= keys


def test_fx_traces_a_model_in_evaluation():
    """Through our layers, which it does not know for leaves; with PyTorch's shapes of any size."""
    model = torch.nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, activation="relu"),
        nn.MaxPool2d(2),
        nn.GroupNorm(2, 6),
    )
    model(rand(4, 3, 9, 9).float())  # running statistics of something
    traced = torch.fx.symbolic_trace(model.eval())
    for sizes in ((9, 9), (12, 7)):
        x = rand(2, 3, *sizes).float()
        assert torch.equal(traced(x), model(x))

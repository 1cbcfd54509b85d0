"""Dropout where PyTorch rewrites, exports, batches or differentiates what calls it."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from dropout_samples import OTHER, SAMPLES, SEED
from torch._dynamo.testing import CompileCounterWithBackend

import infinitypool.nn as inn
import infinitypool.nn.functional as IF
from infinitypool.nn.registry import OPERATORS

# Every function, with the axes of an input that suits it.
CALLS = {
    "dropout": 4,
    "dropout1d": 3,
    "dropout2d": 4,
    "dropout3d": 5,
    "alpha_dropout": 4,
    "feature_alpha_dropout": 4,
    "dropout_add": 4,
}
SIZES = (3, 8, 6, 5, 4)


def drop(name, x, p=0.3, training=True, **kwargs):
    rest = (x.detach().flip(0),) if name == "dropout_add" else ()
    return getattr(IF, name)(x, *rest, p, training, **kwargs)


def drawn(name, more=0):
    return torch.randn([size + more for size in SIZES[: CALLS[name]]])


def seeded(function, *arguments, seed=3):
    torch.manual_seed(seed)
    return function(*arguments)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


# --- operators -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_compositions_draw_the_same(name):
    """On every device, and where transformations look through operators."""
    operator = OPERATORS[name]
    for arguments in SAMPLES[name]:
        one, other = operator.kernel(*arguments), operator.composed(*arguments)
        assert one.dtype == other.dtype and torch.equal(one == 0, other == 0)
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("seed", [0, -1, 2**62 + 12345, -(2**63), 2**63 - 1])
def test_composed_masks_bit_by_bit(seed):
    seed, operator = torch.tensor(seed), OPERATORS["dropout_mask"]
    for p in (0.0, 0.1, 0.5, 0.9999, 1.0):
        for count in (0, 1, 127, 128, 129, 70000):
            mask = operator.kernel(seed, p, count)
            assert torch.equal(mask, operator.composed(seed, p, count))
            assert mask.all() if p == 0 else p < 1 or not mask.any()


def test_a_batch_of_seeds():
    x, seeds = torch.randn(4, 5, 6), torch.stack([SEED, OTHER, SEED, OTHER + 1])
    op = torch.ops.infinitypool.dropout
    got = torch.vmap(lambda x, seed: op(x, 0.4, seed, 0))(x, seeds)
    assert torch.equal(
        got, torch.stack([op(a, 0.4, seed, 0) for a, seed in zip(x, seeds, strict=True)])
    )


# --- compiled ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_for_all_sizes(name):
    """With the draws, and so the bits, that the same call makes without a compiler."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: drop(name, x), backend=counter, fullgraph=True, dynamic=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        if layout is torch.channels_last and CALLS[name] != 4:
            continue
        graphs = None
        for more in (0, 3):
            x = drawn(name, more).contiguous(memory_format=layout).requires_grad_()
            want, got = seeded(drop, name, x), seeded(compiled, x)
            assert torch.equal(got, want) and got.stride() == want.stride()
            grad = torch.randn_like(x)
            (one,), (other,) = (torch.autograd.grad(y, x, grad) for y in (want, got))
            assert torch.equal(one, other)
            graphs = graphs or counter.frame_count
        assert counter.frame_count == graphs
    with torch.no_grad():
        assert torch.equal(seeded(compiled, x), seeded(drop, name, x))
        assert not torch.equal(compiled(x), compiled(x)), "every call draws anew"


@torch._inductor.config.patch(fallback_random=True)  # its own generator is not PyTorch's
def test_inductor():
    def function(x):
        y = IF.dropout(torch.relu(x), 0.3) * 2
        y = IF.dropout2d(y, 0.2, True, True) + IF.feature_alpha_dropout(y, 0.1, True)
        return IF.dropout_add(y, x, 0.4)

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for more in (0, 3):
        x = drawn("dropout2d", more).requires_grad_()
        want, got = seeded(function, x), seeded(compiled, x)
        torch.testing.assert_close(got, want)
        one, other = (torch.autograd.grad(y.square().sum(), x)[0] for y in (want, got))
        torch.testing.assert_close(one, other)


def test_other_arguments_in_a_graph():
    """A probability that changes, in place, p of 0 and 1, evaluation, and nothing to drop."""
    x, frames = torch.randn(40, 50), []
    for module in (F, IF):

        def function(x, p, training=True, dropout=module.dropout):
            return dropout(x * 1, p, training, True)

        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(function, backend=counter, fullgraph=True)
        for p in (0.1, 0.2, 0.35, 0.7):
            assert torch.equal(seeded(compiled, x, p), seeded(function, x, p))
        frames.append(counter.frame_count)
    assert frames[1] <= frames[0]
    torch._dynamo.reset()
    for p, training in ((0.0, True), (1.0, True), (0.4, False), (0, True)):
        assert torch.equal(seeded(compiled, x, p, training), seeded(function, x, p, training))
    assert compiled(x[:0], 0.3).shape == (0, 50)
    with pytest.raises(Exception, match="between 0 and 1"):
        compiled(x, 1.5)
    written = x.clone()
    torch.compile(lambda x: IF.dropout(x, 0.5, True, True), backend=counter)(written)
    assert set((written / x).round().unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_generators_in_a_graph(backend):
    compiled = torch.compile(
        lambda x, g: (IF.dropout(x, 0.5, generator=g), IF.dropout2d(x, 0.5, generator=g)),
        backend=backend,
        fullgraph=True,
    )
    x = torch.randn(3, 4, 5, 6)
    for start in (1, 2):
        generator, twin = (torch.Generator().manual_seed(start) for _ in "12")
        state = torch.get_rng_state()
        for _ in range(3):
            got = compiled(x, generator)
            assert torch.equal(got[0], IF.dropout(x, 0.5, generator=twin))
            assert torch.equal(got[1], IF.dropout2d(x, 0.5, generator=twin))
        assert torch.equal(torch.get_rng_state(), state)


def test_modules_of_a_network():
    class Network(torch.nn.Sequential):
        pass

    network = Network(
        inn.Dropout2d(0.2), torch.nn.Conv2d(8, 4, 3), inn.Dropout(0.3), inn.AlphaDropout(0.1)
    )
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=True)
    x = torch.randn(2, 8, 9, 7)
    assert torch.equal(seeded(compiled, x), seeded(network, x))
    network.eval()
    assert torch.equal(compiled(x), network(x))


# --- exported ------------------------------------------------------------------------------


class _Call(torch.nn.Module):
    def __init__(self, name, *arguments):
        super().__init__()
        self.name, self.arguments = name, arguments

    def forward(self, x):
        return drop(self.name, x, *self.arguments)


@pytest.mark.parametrize("name, strict", [(name, i % 2 == 1) for i, name in enumerate(CALLS)])
def test_export(name, strict):
    x, larger = drawn(name), drawn(name, 4)
    dims = {"x": dict.fromkeys(range(x.ndim), torch.export.Dim.AUTO)}
    program = torch.export.export(_Call(name), (x,), dynamic_shapes=dims, strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert any(target.startswith("infinitypool.") for target in targets), targets
    assert torch.equal(seeded(program.module(), larger), seeded(_Call(name), larger))
    program = torch.export.export(_Call(name, 0.3, False), (x,), dynamic_shapes=dims, strict=strict)
    assert not any("drop" in str(node.target) for node in program.graph.nodes)


def _onnx(module, x):
    dims = ({0: torch.export.Dim("n", max=4096)},)
    model = torch.onnx.export(module, (x,), dynamo=True, verbose=False, dynamic_shapes=dims)
    return model.model_proto


@pytest.mark.parametrize("name", ["dropout_add", "feature_alpha_dropout"])
def test_onnx_draws_its_own(name):
    x = torch.ones(20, 30, 3, 2)
    model = _onnx(_Call(name, 0.25), x)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    two = torch.cat([x, x])
    (got,) = session.run(None, {session.get_inputs()[0].name: two.numpy()})
    want = drop(name, two, 0.25).numpy()
    assert got.shape == want.shape
    values, counts = np.unique(got.round(4), return_counts=True)
    np.testing.assert_allclose(values, np.unique(want.round(4)), rtol=1e-3)
    assert abs(counts[0] / got.size - 0.25) < 0.1


def test_onnx_in_evaluation():
    """Nothing is left of it."""
    modules = inn.Dropout(), inn.Dropout2d(), inn.AlphaDropout(), inn.FeatureAlphaDropout()
    network = torch.nn.Sequential(*modules, torch.nn.ReLU()).eval()
    operators = [node.op_type for node in _onnx(network, torch.ones(2, 3, 4, 5)).graph.node]
    assert operators == ["Relu"]


# --- transformed ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_randomness_of_vmap_is_pytorchs(name):
    x = drawn(name).abs() + 1
    batch = torch.stack([x] * 6)
    theirs = getattr(F, name, None)
    for randomness in ("error", "same", "different"):
        results = []
        for function in (theirs, lambda x: drop(name, x, 0.5)):
            if function is theirs:
                if theirs is None:
                    continue
                call = lambda x: theirs(x, 0.5, True)  # noqa: E731
            else:
                call = function
            try:
                y = torch.vmap(call, randomness=randomness)(batch)
                results.append(bool((y == y[:1]).all()))
            except RuntimeError as error:
                results.append("randomness" in str(error))
        assert len(set(results)) == 1 and results[0] == (randomness != "different"), results


@pytest.mark.parametrize("name", CALLS)
def test_derivatives_agree_whoever_takes_them(name):
    x = drawn(name).double().requires_grad_()
    tangent = torch.randn_like(x)

    def function(x):
        return drop(name, x.sin())

    (want,) = torch.autograd.grad((seeded(function, x) * tangent).sum(), x)
    inner = x.detach()
    got = seeded(torch.func.grad(lambda x: (function(x) * tangent).sum()), inner)
    torch.testing.assert_close(got, want)
    primal, moved = seeded(lambda: torch.func.jvp(function, (inner,), (tangent,)))
    torch.testing.assert_close(primal, seeded(function, inner))
    torch.testing.assert_close((moved * tangent).sum(), (want * tangent).sum())
    small = inner[:1, :3, :2, ...]
    for mode in (torch.func.jacrev, torch.func.jacfwd):
        jacobian = seeded(mode(function, **_same(mode)), small).reshape(small.numel(), -1)
        leaf = small.clone().requires_grad_()
        seeded(function, leaf).sum().backward()
        torch.testing.assert_close(jacobian, torch.diag(leaf.grad.flatten()))


def _same(mode):
    return {"randomness": "same"} if mode is torch.func.jacfwd else {}


def test_gradients_per_sample():
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), inn.Dropout(0.4), torch.nn.Linear(8, 1))
    parameters = dict(network.named_parameters())
    x = torch.randn(5, 6)

    def loss(parameters, x):
        return torch.func.functional_call(network, parameters, (x,)).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="same")
    found = seeded(grads, parameters, x)
    for i in range(len(x)):
        want = seeded(torch.func.grad(loss), parameters, x[i])
        for name, grad in found.items():
            torch.testing.assert_close(grad[i], want[name])
    apart = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="different")
    masks = apart(parameters, x[:1].expand(5, 6))["2.weight"] == 0
    assert not bool((masks == masks[:1]).all())


def test_transformed_and_compiled():
    def function(x):
        return torch.func.grad(lambda x: IF.dropout(x.sin(), 0.5).sum())(x)

    x = torch.randn(30)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(seeded(compiled, x), seeded(function, x))

    def batched(x):
        return torch.vmap(lambda x: IF.dropout(x, 0.5), randomness="different")(x)

    compiled = torch.compile(batched, backend="aot_eager", fullgraph=True)
    y = compiled(torch.ones(4, 300))
    assert set(y.unique().tolist()) == {0.0, 2.0} and not torch.equal(y[0], y[1])


# --- placed and watched --------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_meta_fake_inference_and_determinism(name):
    x = drawn(name)
    like = drop(name, x)
    meta = drop(name, x.to("meta"))
    assert (meta.device.type, meta.shape, meta.stride()) == ("meta", like.shape, like.stride())
    with torch._subclasses.FakeTensorMode() as mode:
        fake = drop(name, mode.from_tensor(x))
        assert (fake.shape, fake.stride()) == (like.shape, like.stride())
    torch.use_deterministic_algorithms(True)
    try:
        leaf = x.clone().requires_grad_()
        drop(name, leaf).sum().backward()
        seeded(torch.func.jvp, lambda x: drop(name, x), (x,), (x,))
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.inference_mode():
        assert drop(name, torch.ones_like(x)).is_inference()


def test_generators_of_what_is_no_float():
    x = torch.randn(40, 50, dtype=torch.complex64)
    generator, twin = (torch.Generator().manual_seed(1) for _ in "12")
    got = IF.dropout(x, 0.5, generator=generator)
    want = IF.dropout(torch.ones(40, 50), 0.5, generator=twin)
    torch.testing.assert_close(got, x * want)
    assert IF.dropout(x.to("meta"), 0.5, generator=generator).shape == x.shape
    with pytest.raises(RuntimeError):
        IF.dropout(torch.ones(4, dtype=torch.int64), 0.5, generator=generator)


@pytest.mark.parametrize("name", CALLS)
def test_names_in_the_profiler(name):
    x = drawn(name).requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        drop(name, x).sum().backward()
    seen = {event.key for event in profile.key_averages()}
    own = "infinitypool::" + ("alpha_dropout" if "alpha" in name else "dropout")
    forward = "infinitypool::dropout_add" if name == "dropout_add" else own
    assert {forward, f"{own}_backward"} <= seen, seen

"""Norm, activation and pooling in one pass: the bits of two."""

from __future__ import annotations

import copy

import norm_pool_samples as samples
import pytest
import torch
from torch import nn

import infinitypool as ip
from infinitypool import _core
from infinitypool.nn import norm_ops, norm_pool
from infinitypool.nn.ops import OPS
from infinitypool.spec import TORCH, norm_spec, pool_spec, spec_from_text

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
WINDOWS = {
    "global mean": samples.adaptive("mean", 1),
    "global maximum": samples.adaptive("max", 1),
    "adaptive": samples.adaptive("mean", (5, 3)),
    "mean": samples.window("mean", 2),
    "padded mean": samples.window("mean", 3, stride=2, padding=1),
    "mean of elements": samples.window("mean", 3, stride=1, padding=1, count_include_pad=False),
    "ceil": samples.window("mean", (5, 4), stride=(3, 3), padding=(2, 1), ceil_mode=True),
    "divided": samples.window("mean", 3, divisor_override=5),
    "maximum": samples.window("max", 3, stride=2, padding=1),
    "dilated": samples.window("max", 3, stride=1, padding=1, dilation=3),
    "tall": samples.window("mean", (9, 2), stride=(9, 1)),
    "apart": samples.window("min", 2, stride=5),
    "power mean": samples.window("lp", 3, parameters=(2.0,)),
}
# Blocks of several samples, of channels, of bands; each with a rest.
SHAPES = ((37, 3, 11, 13), (3, 17, 61, 67), (1, 2, 401, 301), (1, 1, 23, 9))


def numbers(shape, dtype, layout=torch.contiguous_format, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator) * 4 - 2
    return x.to(dtype).to(memory_format=layout)


def two_passes(x, *rest):
    *parameters, norm, pool = rest
    y = norm_ops.norm_given(x, *parameters, norm)
    return OPS[spec_from_text(pool).reducer].forward["none"](y, pool)


def assert_same_bits(*arguments):
    one, two = norm_pool.norm_pool(*arguments), two_passes(*arguments)
    assert (one.dtype, one.shape, one.stride()) == (two.dtype, two.shape, two.stride())
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    assert torch.equal(one.view(bits), two.view(bits))


def plan_of(*arguments):
    norm_pool.norm_pool(*arguments)
    return norm_pool._make_plan(*arguments).native


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", WINDOWS)
def test_the_bits_of_two_passes(window, layout):
    for place, shape in enumerate(SHAPES):
        dtype = DTYPES[(place + len(window)) % 4]
        activation = samples.norm_text((None, "relu", "silu", "gelu", "leaky_relu")[place])
        x = numbers(shape, dtype, LAYOUTS[layout])
        arguments = x, *samples.parameters(shape[1], dtype), activation, WINDOWS[window]
        assert type(plan_of(*arguments)) is _core.NormPool
        assert_same_bits(*arguments)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "silu", "gelu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_and_dtypes(dtype, activation):
    x = numbers((3, 17, 61, 67), dtype)
    parameters = samples.parameters(17, dtype)
    text = samples.norm_text(activation)
    for window in ("global mean", "maximum"):
        assert_same_bits(x, *parameters, text, WINDOWS[window])
        assert_same_bits(x, None, None, *parameters[2:], text, WINDOWS[window])
        wide = [t.float() for t in parameters]  # half precision takes wider parameters
        if dtype in (torch.bfloat16, torch.float16):
            assert_same_bits(x, *wide, text, WINDOWS[window])


@pytest.mark.parametrize("n", [1, 3])
def test_sequences_and_volumes(n):
    shape = (3, 7, 30_011) if n == 1 else (2, 6, 31, 33, 35)
    axes = tuple(range(-n, 0))
    for window in ({"stride": 2, "padding": 1}, {"stride": 1, "ceil_mode": True}):
        for name, reducer in ((f"avg_pool{n}d", "mean"), (f"max_pool{n}d", "max")):
            text = pool_spec(name, reducer, 3, **window, axes=axes, front=TORCH).text
            arguments = *samples.parameters(shape[1], torch.float32), samples.norm_text("silu")
            assert_same_bits(numbers(shape, torch.float32), *arguments, text)


def test_any_number_of_threads_gives_the_same():
    before = _core.get_num_threads()
    x = numbers((3, 17, 61, 67), torch.float32, torch.channels_last)
    arguments = x, *samples.parameters(17, torch.float32), samples.norm_text("silu")
    try:
        for window in WINDOWS.values():
            found = []
            for threads in (1, 3, 8):  # more threads than blocks as well
                _core.set_num_threads(threads)
                norm_pool._plans.clear()
                found.append(norm_pool.norm_pool(*arguments, window))
            assert torch.equal(found[0], found[1])
            assert torch.equal(found[0], found[2])
    finally:
        _core.set_num_threads(0)
        norm_pool._plans.clear()
    assert _core.get_num_threads() == before


def test_two_passes_where_blocks_do_not_do():
    x = numbers((2, 4, 12, 10), torch.float32)
    parameters = samples.parameters(4, torch.float32)
    text, mean = samples.norm_text("relu"), WINDOWS["mean"]
    instance = norm_spec("instance_norm", "instance", eps=1e-5, front=TORCH).text
    for arguments in (
        (x[..., ::2], *parameters, text, mean),
        (x, *parameters, text, samples.window("quantile", 3, parameters=(0.3, 0.0))),
        (x.flatten(2), *parameters, text, mean),  # pooled as one picture of four channels
        (x, *[t[:2].repeat_interleave(4)[::2] for t in parameters], text, mean),
    ):
        assert norm_pool._make_plan(*arguments).native is None
        assert_same_bits(*arguments)
    assert_same_bits(x, *parameters, instance, mean)
    empty = norm_pool.norm_pool(x[:0], *parameters, text, mean)
    assert empty.shape == (0, 4, 6, 5)


def test_what_does_not_fit_is_refused():
    x = numbers((2, 4, 12, 10), torch.float32)
    weight, bias, mean, var = samples.parameters(4, torch.float32)
    text, window = samples.norm_text(), WINDOWS["mean"]
    with pytest.raises(RuntimeError, match="batch_norm: running_mean"):
        norm_pool.norm_pool(x, weight, bias, mean[:3], var, text, window)
    with pytest.raises(RuntimeError, match="batch_norm: weight"):
        norm_pool.norm_pool(x, weight[:2], bias, mean, var, text, window)
    with pytest.raises(RuntimeError, match="mean_pool2d"):
        norm_pool.norm_pool(x, weight, bias, mean, var, text, samples.window("mean", 13))
    with pytest.raises(ValueError, match="not a pooling"):
        norm_pool.norm_pool(x, weight, bias, mean, var, text, "not a pooling")


def test_gradients_are_those_of_two_passes():
    x = numbers((2, 4, 12, 10), torch.float64).requires_grad_()
    weight, bias, *given = samples.parameters(4, torch.float64)
    rest = *given, samples.norm_text("silu"), WINDOWS["padded mean"]
    leaves = x, weight.requires_grad_(), bias.requires_grad_()
    found = torch.autograd.grad(norm_pool.norm_pool(*leaves, *rest).square().sum(), leaves)
    wanted = torch.autograd.grad(two_passes(*leaves, *rest).square().sum(), leaves)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_autocast_takes_volumes_in_float32():
    x = numbers((2, 4, 6, 6, 6), torch.bfloat16)
    parameters = samples.parameters(4, torch.bfloat16)
    text = pool_spec("avg_pool3d", "mean", 2, axes=(-3, -2, -1), front=TORCH).text
    arguments = x, *parameters, samples.norm_text("relu"), text
    with torch.autocast("cpu", torch.bfloat16):
        one, two = norm_pool.norm_pool(*arguments), two_passes(*arguments)
    assert one.dtype == two.dtype == torch.float32
    torch.testing.assert_close(one, two, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layer_is_the_operator(layout):
    norm = ip.nn.BatchNorm2d(5, activation="silu").eval()
    norm.weight.data, norm.bias.data, *given = samples.parameters(5, torch.float32)
    norm.running_mean, norm.running_var = given
    layer = norm_pool.BatchNormPool2d(5, activation="silu").eval()
    layer.load_state_dict(norm.state_dict())
    layer.pool(norm_pool.pool_text("max_pool2d", {"kernel_size": 3, "stride": 2}))
    x = numbers((2, 5, 31, 33), torch.float32, LAYOUTS[layout])
    wanted = ip.nn.functional.max_pool2d(norm(x), 3, 2)
    with torch.no_grad():
        assert torch.equal(layer(x), wanted)
    torch.testing.assert_close(layer(x), wanted)  # with a gradient to record, by arithmetic
    assert layer(x).requires_grad
    with pytest.raises(ValueError, match="expected 4D input"):
        layer(x[0])
    with pytest.raises(RuntimeError, match="batch_norm: running_mean"), torch.no_grad():
        layer(x[:, :4])


# --- optimize ------------------------------------------------------------------------------


class PreActivation(nn.Module):
    """Norms see sums that are used again, so no convolution takes them in."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.acts = nn.ModuleList([nn.SiLU(), nn.ReLU(), nn.GELU()])
        self.down, self.side = nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv(x)
        first = self.down(self.acts[0](self.norms[0](x)))
        second = self.side(self.acts[2](self.norms[2](x)))
        last = nn.functional.adaptive_avg_pool2d(torch.relu(self.norms[1](x)), 1)
        return first.mean((2, 3)) + second.mean((2, 3)) + last.flatten(1)


def model():
    torch.manual_seed(0)
    result = PreActivation()
    for norm in result.norms:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.weight)
    return result.eval()


def test_optimize_uses_it():
    original, x = model(), numbers((2, 3, 20, 24), torch.float32)
    fast = ip.optimize(original, x)
    kinds = [type(fast.get_submodule(f"norms.{i}")).__name__ for i in range(3)]
    assert kinds == ["BatchNormPool2d"] * 3
    rows = {(row.path, row.action, row.note) for row in fast.report}
    assert ("down", "fused", "with norms.0") in rows
    assert ("side", "fused", "with norms.2") in rows
    calls = [node.target for node in fast.graph.nodes if node.op == "call_module"]
    assert not {"down", "side"} & set(calls)
    for pictures in (x, numbers((3, 3, 41, 33), torch.float32, torch.channels_last, 1)):
        with torch.no_grad():
            torch.testing.assert_close(fast(pictures), original(pictures), rtol=1e-4, atol=1e-5)
    again = ip.optimize(copy.deepcopy(fast), x)
    assert torch.equal(again(x), fast(x))
    assert "pool='avg_pool2d" in repr(fast.get_submodule("norms.0"))


def test_what_others_see_or_move_is_not_pooled_with():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.moved = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            y = nn.functional.silu(self.norm(x))
            z = nn.functional.avg_pool2d(self.moved(x + 1), 2)
            pooled, places = nn.functional.max_pool2d(self.norm(y), 2, return_indices=True)
            return nn.functional.avg_pool2d(y, 2) + z + pooled + places

    fast = ip.optimize(Seen().eval(), numbers((2, 3, 8, 6), torch.float32))
    assert [type(m).__name__ for m in (fast.norm, fast.moved)] == ["BatchNorm2d"] * 2


def test_the_optimised_module_compiles_and_exports():
    x = numbers((2, 3, 20, 24), torch.float32)
    fast = ip.optimize(model(), x)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True, dynamic=True)
    program = torch.export.export(
        fast, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
    )
    names = {str(node.target) for node in program.graph.nodes}
    assert "infinitypool.norm_pool.default" in names
    with torch.no_grad():
        for pictures in (x, numbers((3, 3, 20, 24), torch.float32, seed=1)):
            torch.testing.assert_close(compiled(pictures), fast(pictures))
            torch.testing.assert_close(program.module()(pictures), fast(pictures))
    with pytest.raises(ValueError, match="expected 4D input"):
        fast.get_submodule("norms.0")(x[0])

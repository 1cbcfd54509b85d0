"""Calls of the norms, and arguments for each of their operators."""

from __future__ import annotations

import torch

from infinitypool.nn import norm_ops
from infinitypool.spec import TORCH, norm_spec

SHAPE = (4, 6, 5, 3)
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "turned around": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
}
# What the spec of a kind needs, and the shape of its weight.
KINDS = {
    "batch": ({}, (6,)),
    "instance": ({}, (6,)),
    "group": ({"num_groups": 3}, (6,)),
    "layer": ({"normalized_shape": (5, 3)}, (5, 3)),
    "rms": ({"normalized_shape": (3,), "eps": None}, (3,)),
}
ACTIVATIONS = (None, "relu", "leaky_relu", "silu", "gelu")
OPERATORS = (
    "norm", "norm_with_statistics", "add_norm", "add_norm_with_statistics", "norm_given",
    "norm_backward", "norm_given_backward",
)  # fmt: skip


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def spec_text(kind, activation=None):
    """What an operator is told of a call."""
    named = {"eps": 1e-5, **KINDS[kind][0], "activation": activation, "negative_slope": 0.2}
    return norm_spec(f"{kind}_norm", kind, **named, front=TORCH).text


def _samples():
    """Every kind, layout, dtype and activation, with and without parameters and gradients, but not
    each with each: a look at one takes a good part of a second."""
    samples = {name: [] for name in OPERATORS}
    for place, (kind, (_, last)) in enumerate(KINDS.items()):
        layout = list(LAYOUTS.values())[place % 4]
        dtype = (torch.float32, torch.float64, torch.bfloat16)[place % 3]
        text = spec_text(kind, ACTIVATIONS[place])
        x = layout((rand(*SHAPE) - 0.4).to(dtype))
        other, grad = (rand(*SHAPE, seed=s, dtype=dtype) for s in (7, 8))
        weight = None if kind == "instance" else rand(*last, seed=1, dtype=dtype)
        bias = None if kind in ("rms", "batch") else rand(*last, seed=2, dtype=dtype)
        _, statistics = norm_ops.norm_with_statistics(x, weight, bias, text)
        given = rand(6, seed=3, dtype=dtype), rand(6, seed=4, dtype=dtype) + 0.1
        wanted = [True, weight is not None, bias is not None]
        leaves = [None if t is None else t.clone().requires_grad_() for t in (x, weight, bias)]
        samples["norm"] += [(x, weight, bias, text), (*leaves, text)]
        samples["norm_with_statistics"].append((*leaves, text))
        samples["add_norm"].append((leaves[0], other, *leaves[1:], text))
        samples["add_norm_with_statistics"].append((leaves[0], other, *leaves[1:], text))
        samples["norm_backward"].append((grad, x, weight, bias, statistics, text, wanted))
        if kind in ("batch", "instance"):
            samples["norm_given"].append((*leaves, *given, text))
            samples["norm_given_backward"] += [
                (grad, x, weight, bias, *given, text, wanted),
                (grad, *leaves, *given, text, wanted),
            ]
        if kind in ("batch", "layer"):
            samples["norm_backward"].append((grad, *leaves, statistics, text, [True, False, False]))
    # A weight as large as the input, so that nothing is summed.
    whole = [rand(5, 3, seed=seed, dtype=torch.float64) for seed in range(4)]
    text = spec_text("layer")
    _, statistics = norm_ops.norm_with_statistics(*whole[1:], text)
    samples["norm_backward"].append((*whole, statistics, text, [True, True, True]))
    # What PyTorch's operators compute: nothing at all, and a sum of two dtypes.
    samples["norm"].append((torch.zeros(0, 6, 5, 3), None, None, spec_text("layer")))
    wide = rand(*SHAPE, dtype=torch.float64)
    samples["add_norm"].append((rand(*SHAPE), wide, None, None, spec_text("group")))
    return samples


SAMPLES = _samples()
"""Operator to lists of its arguments."""

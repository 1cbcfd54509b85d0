"""Arguments for the operator that normalises, activates and pools in one pass."""

from __future__ import annotations

import torch

from infinitypool.nn import norm_pool  # noqa: F401
from infinitypool.spec import TORCH, adaptive_spec, norm_spec, pool_spec

AXES = (-2, -1)


def norm_text(activation=None):
    return norm_spec(
        "batch_norm", "batch", eps=1e-5, activation=activation, negative_slope=0.2, front=TORCH
    ).text


def window(reducer, kernel, **how):
    return pool_spec(f"{reducer}_pool2d", reducer, kernel, axes=AXES, front=TORCH, **how).text


def adaptive(reducer, size):
    return adaptive_spec(f"adaptive_{reducer}_pool2d", reducer, size, axes=AXES, front=TORCH).text


def parameters(channels, dtype, seed=1):
    """Weight, bias, mean, variance."""
    generator = torch.Generator().manual_seed(seed)
    w, b, m, v = (torch.rand(channels, generator=generator).to(dtype) for _ in range(4))
    return w - 0.5, b - 0.5, m - 0.5, v + 0.5


def _samples():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((4, 6, 5, 7), generator=generator, dtype=torch.float64) - 0.4
    last = x.to(memory_format=torch.channels_last)
    w, b, m, v = parameters(6, torch.float64)
    return [
        (x, w, b, m, v, norm_text("relu"), window("max", 3, stride=2, padding=1)),
        (last, w, b, m, v, norm_text("silu"), adaptive("mean", 1)),
        (x, None, None, m, v, norm_text(), window("mean", 2, ceil_mode=True)),
        (last, w, b, m, v, norm_text("gelu"), window("min", 2)),
        (last, w, b, m, v, norm_text("leaky_relu"), adaptive("mean", (2, 3))),
        (x, w, None, m, v, norm_text("silu"), window("quantile", 3, parameters=(0.3, 0.0))),
    ]


SAMPLES = {"norm_pool": _samples()}

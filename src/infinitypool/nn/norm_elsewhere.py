"""The norms by PyTorch's own operators: for other devices, and for derivatives of other kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt, tau
from typing import Any

import torch
import torch.nn.functional as theirs
from torch import Tensor

from ..spec import TORCH, Layout, NormSpec, norm_spec_from_text
from .registry import HALVES

Optional = Tensor | None

Tensors = Sequence[Optional]
TENSORS = ("input", "residual", "weight", "bias", "mean", "var")
"""Mean and variance are given ones, or running ones to be moved."""

Saved = Sequence[Optional]
SAVED = ("grad_output", "input", "weight", "bias", "statistics", "mean", "var")
"""Statistics are those of the input. Otherwise there are a mean and a variance, which were given."""

Results = tuple[Tensor, Optional, Optional]
"""The result, the sum of input and residual, the statistics; or gradients."""


def norm_spec_of(text: str) -> NormSpec:
    spec = norm_spec_from_text(text)
    if spec.front is not TORCH:
        raise ValueError(f"spec {text!r} does not belong to this front")
    return spec


def by_channel(spec: NormSpec) -> NormSpec:
    return replace(spec, kind="batch")


def activated(y: Tensor, activation: str, slope: float) -> Tensor:
    if activation == "none":
        return y
    return (
        theirs.leaky_relu(y, slope)
        if activation == "leaky_relu"
        else getattr(theirs, activation)(y)
    )


def composed_parts(
    text: str, tensors: Tensors, keep: bool = False, momentum: Any = None
) -> Results:
    x, residual, weight, bias, mean, var = tensors
    spec = norm_spec_of(text)
    total = None
    if residual is not None:
        x = total = x + residual
    of_input = mean is None or momentum is not None
    running = mean, var, weight, bias, of_input, momentum or 0.0
    last = spec.normalized_shape or x.shape[x.ndim - len(spec.axes) :]
    match spec.kind:
        case "batch":
            y = theirs.batch_norm(x, *running, spec.eps)
        case "instance":
            y = theirs.instance_norm(x, *running, spec.eps)
        case "group":
            y = theirs.group_norm(x, spec.groups, weight, bias, spec.eps)
        case "layer":
            y = theirs.layer_norm(x, last, weight, bias, spec.eps)
        case _:
            y = theirs.rms_norm(x, last, weight, spec.eps)
    y = activated(y, spec.activation, spec.slope)
    statistics = None
    if keep and of_input:
        layout, dims, wide = _unfolded(spec, x)
        wide = wide.double()
        if spec.centered:
            mean = _mean(wide, dims)
            var = _mean((wide - mean).square(), dims)
            statistics = torch.stack((mean.flatten(), var.flatten()))
        else:
            statistics = _mean(wide.square(), dims).reshape(1, -1)
    return y, total, statistics


def _unfolded(spec: NormSpec, x: Tensor) -> tuple[Layout, list[int], Tensor]:
    """The axes as regions are seen, those that a region has, and the input in this form."""
    layout = spec.layout(tuple(x.shape))
    dims = [axis for axis, step in enumerate(layout.regions) if not step]
    return layout, dims, x.reshape(layout.sizes)


def _slope_of(z: Tensor, activation: str, slope: float) -> Tensor:
    """The derivative of an activation."""
    if activation == "silu":
        s = torch.sigmoid(z)
        return s * (1 + z * (1 - s))
    if activation == "gelu":
        return 0.5 * (1 + torch.erf(z / sqrt(2))) + z * torch.exp(-z * z / 2) / sqrt(tau)
    one = torch.ones((), dtype=z.dtype, device=z.device)
    return torch.where(z > 0, one, slope)


def composed_backward(text: str, saved: Saved, wanted: Sequence[bool]) -> tuple[Optional, ...]:
    spec = norm_spec_of(text)
    return formula(by_channel(spec) if saved[4] is None else spec, saved, wanted)


def _mean(x: Tensor, dims: list[int]) -> Tensor:
    return x.mean(dims, True)


def formula(
    spec: NormSpec,
    saved: Saved,
    wanted: Sequence[bool],
    mean_of: Callable[[Tensor, list[int]], Tensor] = _mean,
) -> tuple[Optional, ...]:
    """The gradient, which can be differentiated again.

    Statistics are computed once more, so that they are functions of the input. ``mean_of`` takes
    means over regions, along some axes.
    """
    grad, x, weight, bias, statistics, mean, var = saved
    given = statistics is None
    layout, dims, z = _unfolded(spec, x)
    g = grad.reshape(layout.sizes)
    if x.dtype in HALVES:
        z, g = z.float(), g.float()
    sizes = [n if step else 1 for n, step in zip(layout.sizes, layout.parameters, strict=True)]
    summed = [axis for axis, step in enumerate(layout.parameters) if not step]
    scale = 1.0 if weight is None else weight.reshape(sizes).to(z.dtype)
    shift = 0.0 if bias is None else bias.reshape(sizes).to(z.dtype)
    if given:
        mean, var = (t.reshape(sizes).to(z.dtype) for t in (mean, var))
    elif spec.centered:
        mean = mean_of(z, dims)
        var = mean_of((z - mean).square(), dims)
    else:
        mean, var = 0.0, mean_of(z.square(), dims)
    deviation = torch.rsqrt(var + spec.epsilon(str(x.dtype).removeprefix("torch.")))
    normal = (z - mean) * deviation
    if spec.activation != "none":
        g = g * _slope_of(normal * scale + shift, spec.activation, spec.slope)
    of_x = of_weight = of_bias = None
    if wanted[0]:
        of_x = g * scale
        if not given:
            along = normal * mean_of(of_x * normal, dims)
            of_x = of_x - along - (mean_of(of_x, dims) if spec.centered else 0.0)
        of_x = (of_x * deviation).reshape(x.shape).to(x.dtype)
    if wanted[1] and weight is not None:
        of_weight = _sum(g * normal, summed).reshape(weight.shape).to(weight.dtype)
    if wanted[2] and bias is not None:
        of_bias = _sum(g, summed).reshape(bias.shape).to(bias.dtype)
    return of_x, of_weight, of_bias


def _sum(x: Tensor, dims: list[int]) -> Tensor:
    return x.sum(dims) if dims else x.clone()

"""The operators behind the norms, registered with PyTorch's dispatcher.

- ``infinitypool::norm(Tensor input, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? mean,
  Tensor? var, str spec, bool keep) -> (Tensor, Tensor?, Tensor?)``: the result; the sum of input and
  residual; and with ``keep`` the statistics for backward: a mean, unless it is zero, and a variance
  for every region, in float64
- ``infinitypool::norm_moving``: also moves running statistics toward those of the input
- ``infinitypool::norm_backward``: the gradients of the input, the weight and the bias

``spec`` is :attr:`infinitypool.spec.NormSpec.text`. As in :mod:`infinitypool.nn.ops`, kernels run on
the CPU, and anything else is composed of PyTorch's operators: other devices, forward derivatives,
transformations, inputs without elements, and mixtures of dtypes that only PyTorch knows.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt, tau
from typing import Any, NamedTuple

import torch
import torch.nn.functional as theirs
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad, profiler

from ..plan import RECYCLED_BYTES, Cache
from ..plan_norm import (
    dense_strides,
    is_alongside,
    is_readable,
    native_norm,
    readable_strides,
)
from ..spec import TORCH, Layout, NormSpec, norm_spec_from_text
from .ops import HALVES, define, dtype_name, library, recycled, transforms

_below_autograd = torch._C._AutoDispatchBelowAutograd
_grad_enabled = torch.is_grad_enabled
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Optional = Tensor | None


# --- what the kernels take -----------------------------------------------------------------


def takes(text: str, x: Tensor, residual: Optional, weight: Optional) -> bool:
    """Whether the kernels compute this, or refuse it; otherwise it is PyTorch's to say."""
    dtype = x.dtype
    if not x.numel():
        return False
    if residual is not None and (residual.dtype is not dtype or residual.shape != x.shape):
        return False
    if weight is not None and weight.dtype is not dtype and " kind=rms " in text:
        return dtype in HALVES and weight.dtype is torch.float32
    return dtype in _FLOATS or not dtype.is_complex or " kind=rms " not in text


class _Plan(NamedTuple):
    native: Any  # None where PyTorch's functions or copies are needed
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    small: bool
    statistics: tuple[int, int]  # what is kept: a variance, or a mean and a variance, per region
    spec: NormSpec


_plans = Cache()


def _layout(tensor: Optional) -> tuple[Any, ...] | None:
    return None if tensor is None else (tensor.dtype, tensor.shape, tensor.stride())


def _norm_spec(text: str) -> NormSpec:
    spec = norm_spec_from_text(text)
    if spec.front is not TORCH:
        raise ValueError(f"spec {text!r} does not belong to this front")
    return spec


def check(
    spec: NormSpec,
    x: Tensor,
    parameters: dict[str, Optional],
    statistics: dict[str, Optional],
    of_input: bool,
) -> None:
    """Refuse what does not fit together, of parameters and statistics by their names."""
    shape, dtype = tuple(x.shape), dtype_name(x.dtype)
    spec.check_input(shape, of_input)
    given = {name: t for name, t in (statistics | parameters).items() if t is not None}
    for name, tensor in given.items():
        spec.check_parameter(name, tensor.shape, shape)
    if spec.kind == "instance":  # PyTorch converts its running statistics
        given = {name: t for name, t in parameters.items() if t is not None}
    spec.check_dtypes(dtype, {name: dtype_name(t.dtype) for name, t in given.items()})


def make_plan(
    spec: NormSpec,
    x: Tensor,
    other: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional,
    moving: bool,
) -> _Plan:
    """Everything has been checked. ``other`` is a residual or a gradient."""
    shape, strides = tuple(x.shape), x.stride()
    given = mean is not None and not moving
    if given and spec.kind == "instance":  # a channel has the same statistics in every sample
        spec = _by_channel(spec)
    layout = spec.layout(shape)
    out_strides = dense_strides(shape, strides)
    dense = all(t is None or t.is_contiguous() for t in (weight, bias, mean))
    parameter = weight if weight is not None else bias
    ready = dense and is_readable(spec, shape, strides, parameter is not None)
    if ready and other is not None:
        ready = is_alongside(shape, other.stride(), strides)
    native = None
    if ready:
        native = native_norm(
            spec,
            dtype_name(x.dtype),
            shape,
            strides,
            out_strides,
            None if other is None else other.stride(),
            None if parameter is None else dtype_name(parameter.dtype),
            dtype_name(mean.dtype) if mean is not None and mean.dtype in _FLOATS else None,
        )
    return _Plan(
        native,
        shape,
        out_strides,
        prod(shape) * x.dtype.itemsize < RECYCLED_BYTES,
        (2 if spec.centered else 1, layout.region_count),
        spec,
    )


def _by_channel(spec: NormSpec) -> NormSpec:
    return replace(spec, kind="batch")


def _copied(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    return x if x.stride() == strides else recycled(x, x.shape, strides, x.dtype).copy_(x)


def readable(spec: NormSpec, x: Tensor, weight: Optional, bias: Optional) -> Tensor:
    """The input, or a copy that the core takes."""
    case = spec, x.shape, x.stride(), weight is not None or bias is not None
    return x if is_readable(*case) else _copied(x, readable_strides(*case))


def alongside(other: Tensor, x: Tensor) -> Tensor:
    """A residual or gradient, or a copy that is contiguous where the input is."""
    if is_alongside(x.shape, other.stride(), x.stride()):
        return other
    return _copied(other, dense_strides(x.shape, x.stride()))


def move(running: Tensor, now: Tensor, momentum: float) -> None:
    """Move running statistics toward those of an input, which are float64."""
    running.copy_(running.double() * (1 - momentum) + now * momentum)


def contiguous(tensor: Optional) -> Optional:
    return None if tensor is None else tensor.contiguous()


def address(tensor: Optional) -> int:
    return 0 if tensor is None else tensor.data_ptr()


_DOUBLE = torch.empty(0, dtype=torch.float64)

# --- the CPU kernels -----------------------------------------------------------------------

Results = tuple[Tensor, Optional, Optional]


def _norm(
    x: Tensor,
    residual: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional,
    var: Optional,
    text: str,
    keep: bool = False,
    momentum: float | None = None,
) -> Results:
    """``momentum`` says that mean and var are running statistics to be moved."""
    key = (
        text, momentum is None, x.dtype, x.shape, x.stride(),
        residual if residual is None else (residual.dtype, residual.shape, residual.stride()),
        weight if weight is None else (weight.dtype, weight.shape, weight.stride()),
        bias if bias is None else (bias.dtype, bias.shape, bias.stride()),
        mean if mean is None else (mean.dtype, mean.shape, mean.stride()),
        var if var is None else (var.dtype, var.shape, var.stride()),
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is None:
        if not takes(text, x, residual, weight):
            return _composed(x, residual, weight, bias, mean, var, text, keep, momentum)
        plan = _plans.keep(key, _forward_plan(x, residual, weight, bias, mean, var, text, momentum))
    native, shape, strides, small, (rows, regions), spec = plan
    if native is None:
        return _with_copies(spec, x, residual, weight, bias, mean, var, text, keep, momentum)
    out = x.new_empty_strided(shape, strides) if small else recycled(x, shape, strides, x.dtype)
    total, other, summed = None, 0, 0
    if residual is not None:
        total = recycled(x, shape, strides, x.dtype)
        other, summed = residual.data_ptr(), total.data_ptr()
    scale = 0 if weight is None else weight.data_ptr()
    shift = 0 if bias is None else bias.data_ptr()
    if mean is not None and momentum is None:
        native.apply(x.data_ptr(), out.data_ptr(), scale, shift, mean.data_ptr(), var.data_ptr())
        return out, None, None
    statistics, means, variances = None, 0, 0
    if keep:
        statistics = _DOUBLE.new_empty_strided((rows, regions), (regions, 1))
        means = statistics.data_ptr()
        variances = means + 8 * regions * (rows - 1)
        means = 0 if rows == 1 else means
    native.normalize(
        x.data_ptr(), other, out.data_ptr(), summed, scale, shift, means, variances,
        address(mean), address(var), momentum or 0.0,
    )  # fmt: skip
    return out, total, statistics


def _forward_plan(
    x: Tensor,
    residual: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional,
    var: Optional,
    text: str,
    momentum: float | None,
) -> _Plan:
    spec = _norm_spec(text)
    if (mean is None) != (var is None):
        raise ValueError(
            f"{spec.function}: running_mean and running_var must both be given or both be None"
        )
    statistics = {"running_mean": mean, "running_var": var}
    check(
        spec, x, {"weight": weight, "bias": bias}, statistics, mean is None or momentum is not None
    )
    plan = make_plan(spec, x, residual, weight, bias, mean, momentum is not None)
    if mean is None:
        return plan
    # Of another kind than the core's: statistics of every sample, of two dtypes, or with gaps.
    uneven = mean.dtype is not var.dtype or mean.dtype not in _FLOATS or not var.is_contiguous()
    given = momentum is None
    if uneven or spec.kind == "instance" and not given or given and residual is not None:
        plan = plan._replace(native=None)
    return plan


def _with_copies(
    spec: NormSpec,
    x: Tensor,
    residual: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional,
    var: Optional,
    text: str,
    keep: bool,
    momentum: float | None,
) -> Results:
    """The same where something must be copied first, or is done around the core."""
    strides = dense_strides(x.shape, x.stride())
    if mean is not None and momentum is None:
        if mean.dtype is not var.dtype or mean.dtype not in _FLOATS:
            mean, var = mean.to(x.dtype), var.to(x.dtype)
        total = None
        if residual is not None:
            x = total = torch.add(x, residual, out=recycled(x, x.shape, strides, x.dtype))
        source = readable(spec, x, weight, bias)
        given = mean.contiguous(), var.contiguous()
        out, _, _ = _norm(source, None, contiguous(weight), contiguous(bias), *given, text)
        return _copied(out, strides), total, None
    source = readable(spec, x, weight, bias)
    if residual is not None:
        residual = alongside(residual, source)
    sources = source, residual, contiguous(weight), contiguous(bias)
    if mean is None or momentum is None:
        out, total, statistics = _norm(*sources, None, None, text, keep)
    elif spec.kind != "instance":
        running = mean.contiguous(), var.contiguous()
        out, total, statistics = _norm(*sources, *running, text, keep, momentum)
        mean.copy_(running[0])
        var.copy_(running[1])
    else:  # one set of running statistics follows the mean over the samples
        out, total, statistics = _norm(*sources, None, None, text, True)
        count = x.numel() // statistics.shape[1]
        means, variances = statistics.view(2, *x.shape[:2]).mean(1)
        move(mean, means, momentum)
        move(var, variances * (count / (count - 1)), momentum)
    total = None if total is None else _copied(total, strides)
    return _copied(out, strides), total, statistics if keep else None


def _norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Optional,
    bias: Optional,
    statistics: Optional,
    mean: Optional,
    var: Optional,
    text: str,
    wanted: list[bool],
) -> tuple[Optional, Optional, Optional]:
    key = (
        text, grad.dtype, grad.shape, grad.stride(), x.dtype, x.shape, x.stride(), _layout(weight),
        _layout(bias), _layout(statistics), _layout(mean), _layout(var),
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is None:
        plan = _plans.keep(key, _backward_plan(grad, x, weight, bias, statistics, mean, var, text))
    native, shape, strides, _, (rows, regions), _ = plan
    if native is None:
        x = readable(plan.spec, x, weight, bias)
        return _norm_backward(
            alongside(grad, x), x, contiguous(weight), contiguous(bias),
            contiguous(statistics), contiguous(mean), contiguous(var), text, wanted,
        )  # fmt: skip
    of_x = recycled(x, shape, strides, x.dtype) if wanted[0] else None
    of_weight = torch.empty_like(weight) if wanted[1] and weight is not None else None
    of_bias = torch.empty_like(bias) if wanted[2] and bias is not None else None
    if statistics is None:
        means, variances = address(mean), address(var)
    else:
        means = statistics.data_ptr()
        variances = means + 8 * regions * (rows - 1)
    native.gradient(
        x.data_ptr(), grad.data_ptr(), address(of_x), address(weight), address(bias), means,
        variances, address(of_weight), address(of_bias), statistics is None,
    )  # fmt: skip
    return of_x, of_weight, of_bias


def _backward_plan(
    grad: Tensor,
    x: Tensor,
    weight: Optional,
    bias: Optional,
    statistics: Optional,
    mean: Optional,
    var: Optional,
    text: str,
) -> _Plan:
    spec = _norm_spec(text)
    check(spec, x, {"weight": weight, "bias": bias}, {"mean": mean, "var": var}, mean is None)
    if grad.shape != x.shape or grad.dtype != x.dtype:
        raise RuntimeError(
            f"{spec.function}: the gradient has shape {tuple(grad.shape)} and dtype "
            f"{dtype_name(grad.dtype)}, the result {tuple(x.shape)} and {dtype_name(x.dtype)}"
        )
    if not x.numel():
        raise RuntimeError(f"{spec.function}: backward needs an input with elements")
    plan = make_plan(spec, x, grad, weight, bias, mean, False)
    if statistics is None:
        if mean is None or var is None or mean.dtype is not var.dtype:
            raise RuntimeError(f"{spec.function}: backward needs the forward call's statistics")
    elif statistics.dtype is not torch.float64 or tuple(statistics.shape) != plan.statistics:
        raise RuntimeError(
            f"{spec.function}: backward needs the forward call's statistics, float64 of shape "
            f"{plan.statistics}"
        )
    if any(t is not None and not t.is_contiguous() for t in (statistics, var)):
        plan = plan._replace(native=None)
    return plan


# --- composed of PyTorch's operators -------------------------------------------------------


def activated(y: Tensor, activation: str, slope: float) -> Tensor:
    if activation == "none":
        return y
    return (
        theirs.leaky_relu(y, slope)
        if activation == "leaky_relu"
        else getattr(theirs, activation)(y)
    )


def _composed(
    x: Tensor,
    residual: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional,
    var: Optional,
    text: str,
    keep: bool = False,
    momentum: float | None = None,
) -> Results:
    spec = _norm_spec(text)
    total = None
    if residual is not None:
        x = total = x + residual
    of_input = mean is None or momentum is not None
    running = mean, var, weight, bias, of_input, momentum or 0.0
    match spec.kind:
        case "batch":
            y = theirs.batch_norm(x, *running, spec.eps)
        case "instance":
            y = theirs.instance_norm(x, *running, spec.eps)
        case "group":
            y = theirs.group_norm(x, spec.groups, weight, bias, spec.eps)
        case "layer":
            y = theirs.layer_norm(x, spec.normalized_shape, weight, bias, spec.eps)
        case _:
            y = theirs.rms_norm(x, spec.normalized_shape, weight, spec.eps)
    y = activated(y, spec.activation, spec.slope)
    statistics = None
    if keep and of_input:
        layout, dims, wide = _unfolded(spec, x)
        wide = wide.double()
        if spec.centered:
            statistics = torch.stack((wide.mean(dims).flatten(), _variance(wide, dims).flatten()))
        else:
            statistics = wide.square().mean(dims).reshape(1, -1)
    return y, total, statistics


def _unfolded(spec: NormSpec, x: Tensor) -> tuple[Layout, list[int], Tensor]:
    """The axes as regions are seen, those that a region has, and the input in this form."""
    layout = spec.layout(tuple(x.shape))
    dims = [axis for axis, step in enumerate(layout.regions) if not step]
    return layout, dims, x.reshape(layout.sizes)


def _variance(x: Tensor, dims: list[int], keepdim: bool = False) -> Tensor:
    return (x - x.mean(dims, True)).square().mean(dims, keepdim)


def _slope_of(z: Tensor, activation: str, slope: float) -> Tensor:
    """The derivative of an activation."""
    if activation == "silu":
        s = torch.sigmoid(z)
        return s * (1 + z * (1 - s))
    if activation == "gelu":
        return 0.5 * (1 + torch.erf(z / sqrt(2))) + z * torch.exp(-z * z / 2) / sqrt(tau)
    one = torch.ones((), dtype=z.dtype, device=z.device)
    return torch.where(z > 0, one, slope)


def _composed_backward(
    grad: Tensor,
    x: Tensor,
    weight: Optional,
    bias: Optional,
    statistics: Optional,
    mean: Optional,
    var: Optional,
    text: str,
    wanted: list[bool],
) -> tuple[Optional, Optional, Optional]:
    """The formula of the gradient, which can be differentiated again.

    Statistics are computed once more, so that they are functions of the input.
    """
    spec = _norm_spec(text)
    given = statistics is None
    if given:
        spec = _by_channel(spec)
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
        mean, var = z.mean(dims, True), _variance(z, dims, True)
    else:
        mean, var = 0.0, z.square().mean(dims, True)
    deviation = torch.rsqrt(var + spec.epsilon(dtype_name(x.dtype)))
    normal = (z - mean) * deviation
    if spec.activation != "none":
        g = g * _slope_of(normal * scale + shift, spec.activation, spec.slope)
    of_x = of_weight = of_bias = None
    if wanted[0]:
        of_x = g * scale
        if not given:
            along = normal * (of_x * normal).mean(dims, True)
            of_x = of_x - along - (of_x.mean(dims, True) if spec.centered else 0.0)
        of_x = (of_x * deviation).reshape(x.shape).to(x.dtype)
    if wanted[1] and weight is not None:
        of_weight = _sum(g * normal, summed).reshape(weight.shape).to(weight.dtype)
    if wanted[2] and bias is not None:
        of_bias = _sum(g, summed).reshape(bias.shape).to(bias.dtype)
    return of_x, of_weight, of_bias


def _sum(x: Tensor, dims: list[int]) -> Tensor:
    return x.sum(dims) if dims else x


# --- autograd ------------------------------------------------------------------------------


class _Normalised(torch.autograd.Function):
    """Keeps the input (or its sum with the residual), the parameters, two numbers per region."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Optional,
        weight: Optional,
        bias: Optional,
        mean: Optional,
        var: Optional,
        text: str,
        momentum: float | None,
        direct: bool,
    ) -> Any:
        if mean is not None and (mean.requires_grad or var.requires_grad):
            raise RuntimeError(
                f"{text.split()[0]}: running statistics have no gradient and must not require one"
            )
        if direct:
            out, total, statistics = _norm(
                x, residual, weight, bias, mean, var, text, True, momentum
            )
        else:
            with _below_autograd():
                out, total, statistics = _through(
                    x, residual, weight, bias, mean, var, text, True, momentum
                )
        ctx.case = text, direct
        if total is not None:
            ctx.set_materialize_grads(False)
            x = total
        if statistics is None:
            ctx.save_for_backward(x, weight, bias, None, mean, var)
        else:
            ctx.save_for_backward(x, weight, bias, statistics)
        return out if total is None else (out, total)

    @staticmethod
    def backward(ctx: Any, grad: Optional, grad_total: Optional = None) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad
        text, direct = ctx.case
        if grad is None:
            of_x, of_weight, of_bias = grad_total, None, None
        else:
            wanted = [needs[0] or needs[1], needs[2], needs[3]]
            x, weight, bias, statistics, *given = ctx.saved_tensors
            mean, var = given or (None, None)
            arguments = grad, x, weight, bias, statistics, mean, var, text, wanted
            if _grad_enabled():
                of_x, of_weight, of_bias = _composed_backward(*arguments)
            elif direct and _keys(grad) == _ORDINARY and not _watched():
                of_x, of_weight, of_bias = _norm_backward(*arguments)
            elif transforms() is not None or is_legacy_batchedtensor(grad):
                of_x, of_weight, of_bias = _composed_backward(*arguments)
            else:
                with _below_autograd():
                    of_x, of_weight, of_bias = norm_backward(*arguments)
            if grad_total is not None and of_x is not None:
                of_x = of_x + grad_total if _grad_enabled() else of_x.add_(grad_total)
        of_residual = of_x if needs[1] else None
        return of_x, of_residual, of_weight, of_bias, None, None, None, None, None


# PyTorch's own way to call a function, behind its look at transformations.
_normalise = super(torch.autograd.Function, _Normalised).apply


def _through(
    x: Tensor,
    residual: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional,
    var: Optional,
    text: str,
    keep: bool = False,
    momentum: float | None = None,
) -> Results:
    """Through the dispatcher."""
    if momentum is None:
        return norm(x, residual, weight, bias, mean, var, text, keep)
    return norm_moving(x, residual, weight, bias, mean, var, text, momentum, keep)


# What the dispatcher knows about an ordinary tensor on the CPU, and about one without autograd.
_keys = torch._C._dispatch_keys
_ORDINARY = _keys(torch.empty(0))
with torch.inference_mode():
    _INFERENCE = _keys(torch.empty(0))
_modes = torch._C._len_torch_dispatch_stack


def _watched() -> bool:
    """Whether somebody looks at operators: a mode, a transformation, or the profiler."""
    return _modes() or transforms() is not None or profiler._is_profiler_enabled


def run(
    text: str,
    x: Tensor,
    residual: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional = None,
    var: Optional = None,
    momentum: float | None = None,
) -> Any:
    """The result, or a pair of it and the sum where there is a residual.

    The operator and its autograd kernel would come to the same. Where nobody looks at operators and
    all tensors are ordinary, the kernel is called itself, which saves half of the time.
    """
    keys, ordinary = _keys(x), _ORDINARY
    direct = (
        (keys == ordinary or keys == _INFERENCE)
        and (weight is None or _keys(weight) == ordinary)
        and (bias is None or _keys(bias) == ordinary)
        and (mean is None or _keys(mean) == ordinary)
        and (var is None or _keys(var) == ordinary)
        and (residual is None or _keys(residual) == keys)
        and not _watched()
    )
    if forward_ad._current_level >= 0 or not direct and transforms() is not None:
        return composed(text, x, residual, weight, bias, mean, var, momentum)
    if _grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
        or (mean is not None and mean.requires_grad)
        or (var is not None and var.requires_grad)
    ):
        if not ((direct or x.is_cpu) and takes(text, x, residual, weight)):
            return composed(text, x, residual, weight, bias, mean, var, momentum)
        return _normalise(x, residual, weight, bias, mean, var, text, momentum, direct)
    if direct:
        out, total, _ = _norm(x, residual, weight, bias, mean, var, text, False, momentum)
    else:
        with _below_autograd():
            out, total, _ = _through(x, residual, weight, bias, mean, var, text, False, momentum)
    return out if residual is None else (out, total)


def composed(
    text: str,
    x: Tensor,
    residual: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional = None,
    var: Optional = None,
    momentum: float | None = None,
) -> Any:
    """The same, composed of PyTorch's functions."""
    out, total, _ = _composed(x, residual, weight, bias, mean, var, text, False, momentum)
    return out if residual is None else (out, total)


# --- registration --------------------------------------------------------------------------

_COMMON = "Tensor input, Tensor? residual, Tensor? weight, Tensor? bias"
_RESULTS = ", bool keep=False) -> (Tensor, Tensor?, Tensor?)"


def _moving(body: Any) -> Any:
    """The body of an operator that moves running statistics."""

    def kernel(
        x: Tensor, residual: Optional, weight: Optional, bias: Optional, mean: Tensor, var: Tensor,
        text: str, momentum: float, keep: bool = False,
    ) -> Results:  # fmt: skip
        return body(x, residual, weight, bias, mean, var, text, keep, momentum)

    return kernel


def _autograd(
    x: Tensor,
    residual: Optional,
    weight: Optional,
    bias: Optional,
    mean: Optional,
    var: Optional,
    text: str,
    keep: bool = False,
    momentum: float | None = None,
) -> Results:
    found = run(text, x, residual, weight, bias, mean, var, momentum)
    return (found, None, None) if residual is None else (*found, None)


norm = define(
    "norm", f"({_COMMON}, Tensor? mean, Tensor? var, str spec{_RESULTS}", _norm, _composed
)
norm_moving = define(
    "norm_moving",
    f"({_COMMON}, Tensor(a!) running_mean, Tensor(b!) running_var, str spec, float momentum"
    + _RESULTS,
    _moving(_norm),
    _moving(_composed),
)
norm_backward = define(
    "norm_backward",
    "(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor? statistics, "
    "Tensor? mean, Tensor? var, str spec, bool[3] wanted) -> (Tensor?, Tensor?, Tensor?)",
    _norm_backward,
    _composed_backward,
)
library.impl("norm", _autograd, "AutogradCPU")
library.impl("norm_moving", _moving(_autograd), "AutogradCPU")

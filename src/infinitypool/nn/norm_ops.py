"""The operators behind the norms, registered with PyTorch's dispatcher.

- ``infinitypool::norm(Tensor input, Tensor? weight, Tensor? bias, str spec) -> Tensor``
- ``infinitypool::add_norm``: of the sum of an input and a residual, and also that sum
- ``infinitypool::norm_with_statistics``, ``infinitypool::add_norm_with_statistics``: also the
  statistics for backward, in float64: a mean, unless it is zero, and a variance for every region
- ``infinitypool::norm_given``: with a mean and a variance that were given
- ``infinitypool::norm_backward``, ``infinitypool::norm_given_backward``: the gradients of the input,
  the weight and the bias, each empty where it is not wanted

``spec`` is :attr:`infinitypool.spec.NormSpec.text`. As in :mod:`infinitypool.nn.ops`, kernels run on
the CPU, and anything else is composed of PyTorch's operators: other devices, forward derivatives,
transformations, inputs without elements, and mixtures of dtypes that only PyTorch knows.

No operator changes anything: running statistics are moved by PyTorch's operators around them. Where
nobody looks, the short way has the core do it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from .. import _core
from ..plan import RECYCLED_BYTES, Cache
from ..plan_norm import (
    dense_strides,
    is_alongside,
    is_readable,
    native_norm,
    readable_strides,
)
from ..spec import NormSpec
from .calls import apply_of, operands
from .calls import call as native_call
from .norm_elsewhere import (
    SAVED,
    TENSORS,
    Optional,
    Results,
    Saved,
    Tensors,
    by_channel,
    composed_backward,
    composed_parts,
    norm_spec_of,
)
from .ops import dtype_name, recycled
from .registry import HALVES, define, transforms

_below_autograd = torch._C._AutoDispatchBelowAutograd
_grad_enabled = torch.is_grad_enabled
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# --- what the kernels take -----------------------------------------------------------------


def takes(text: str, x: Tensor, residual: Optional, weight: Optional) -> bool:
    """Whether the kernels compute this, or refuse it; otherwise it is PyTorch's to say."""
    dtype = x.dtype
    if _is_known(x.numel() == 0):
        return False
    if residual is not None and (residual.dtype is not dtype or residual.shape != x.shape):
        return False
    if weight is not None and weight.dtype is not dtype and " kind=rms " in text:
        return dtype in HALVES and weight.dtype is torch.float32
    return dtype in _FLOATS or not dtype.is_complex or " kind=rms " not in text


def is_turned(x: Tensor) -> bool:
    """Whether the last axis of tokens, (N, L, C) or (L, C), is not the innermost in memory."""
    return 1 < x.ndim < 4 and x.shape[-1] > 1 and x.stride(-1) != 1


def _is_known(condition: Any) -> bool:
    """Whether a condition holds. One on sizes that only data tells is not known to."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


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
        spec = by_channel(spec)
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


def move(running: Tensor, now: Tensor, momentum: Any) -> None:
    """Move running statistics toward those of an input, which are float64."""
    running.copy_(running.double() * (1 - momentum) + now * momentum)


def move_both(x: Tensor, statistics: Tensor, mean: Tensor, var: Tensor, momentum: Any) -> None:
    """Move both. Where every sample has statistics of its own, toward the mean over the samples."""
    count = x.numel() // statistics.shape[1]
    means, variances = statistics.unflatten(1, (-1, x.shape[1])).mean(1)
    move(mean, means, momentum)
    move(var, variances * (count / (count - 1)), momentum)


def contiguous(tensor: Optional) -> Optional:
    return None if tensor is None else tensor.contiguous()


def address(tensor: Optional) -> int:
    return 0 if tensor is None else tensor.data_ptr()


_DOUBLE = torch.empty(0, dtype=torch.float64)

# --- the CPU kernels -----------------------------------------------------------------------


def _norm(text: str, tensors: Tensors, keep: bool = False) -> Results:
    x, residual, weight, bias, mean, var = tensors
    key = text, *map(_layout, tensors)
    plan = _plans.get(key)
    if plan is None:
        if not takes(text, x, residual, weight):
            return composed_parts(text, tensors, keep)
        plan = _plans.keep(key, _forward_plan(text, tensors, False))
    native, shape, strides, small, (rows, regions), spec = plan
    if native is None:
        return _with_copies(spec, text, tensors, keep)
    out = x.new_empty_strided(shape, strides) if small else recycled(x, shape, strides, x.dtype)
    total, other, summed = None, 0, 0
    if residual is not None:
        total = recycled(x, shape, strides, x.dtype)
        other, summed = residual.data_ptr(), total.data_ptr()
    scale = 0 if weight is None else weight.data_ptr()
    shift = 0 if bias is None else bias.data_ptr()
    if mean is not None:
        native.apply(x.data_ptr(), out.data_ptr(), scale, shift, mean.data_ptr(), var.data_ptr())
        return out, None, None
    statistics, means, variances = None, 0, 0
    if keep:
        statistics = _DOUBLE.new_empty_strided((rows, regions), (regions, 1))
        means = statistics.data_ptr()
        variances = means + 8 * regions * (rows - 1)
        means = 0 if rows == 1 else means
    native.normalize(
        x.data_ptr(), other, out.data_ptr(), summed, scale, shift, means, variances, 0, 0, 0.0
    )  # fmt: skip
    return out, total, statistics


def _checked(text: str, tensors: Tensors, moving: bool) -> NormSpec:
    x, _, weight, bias, mean, var = tensors
    spec = norm_spec_of(text)
    if (mean is None) != (var is None):
        raise ValueError(
            f"{spec.function}: running_mean and running_var must both be given or both be None"
        )
    for name, tensor in zip(TENSORS, tensors, strict=True):
        if tensor is not None and tensor.device != x.device:
            raise RuntimeError(
                f"{spec.function}: {name} is on the device {tensor.device}, the input on {x.device}"
            )
    statistics = {"running_mean": mean, "running_var": var}
    check(spec, x, {"weight": weight, "bias": bias}, statistics, mean is None or moving)
    return spec


def _forward_plan(text: str, tensors: Tensors, moving: bool) -> _Plan:
    spec = _checked(text, tensors, moving)
    x, residual, weight, bias, mean, var = tensors
    plan = make_plan(spec, x, residual, weight, bias, mean, moving)
    if mean is None:
        return plan
    # Of another kind than the core's: statistics of every sample, of two dtypes, or with gaps.
    uneven = mean.dtype is not var.dtype or mean.dtype not in _FLOATS or not var.is_contiguous()
    if uneven or (spec.kind == "instance" if moving else residual is not None):
        plan = plan._replace(native=None)
    return plan


def _with_copies(spec: NormSpec, text: str, tensors: Tensors, keep: bool) -> Results:
    """The same where something must be copied first."""
    x, residual, weight, bias, mean, var = tensors
    if mean is not None and (mean.dtype is not var.dtype or mean.dtype not in _FLOATS):
        mean, var = mean.to(x.dtype), var.to(x.dtype)
    source = readable(spec, x, weight, bias)
    if residual is not None:
        residual = alongside(residual, source)
    rest = map(contiguous, (weight, bias, mean, var))
    out, total, statistics = _norm(text, (source, residual, *rest), keep)
    strides = dense_strides(x.shape, x.stride())
    return _copied(out, strides), None if total is None else _copied(total, strides), statistics


def _norm_backward(text: str, saved: Saved, wanted: Sequence[bool]) -> tuple[Optional, ...]:
    grad, x, weight, bias, statistics, mean, var = saved
    key = text, *map(_layout, saved)
    plan = _plans.get(key)
    if plan is None:
        if not x.numel():
            return composed_backward(text, saved, wanted)
        plan = _plans.keep(key, _backward_plan(text, saved))
    native, shape, strides, _, (rows, regions), _ = plan
    if native is None:
        source = readable(plan.spec, x, weight, bias)
        given = map(contiguous, (weight, bias, statistics, mean, var))
        found = _norm_backward(text, (alongside(grad, source), source, *given), wanted)
        return None if found[0] is None else _copied(found[0], strides), *found[1:]
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


def _checked_backward(text: str, saved: Saved) -> tuple[NormSpec, tuple[int, int]]:
    """Also returns the shape of the input's statistics."""
    grad, x, weight, bias, statistics, mean, var = saved
    spec = norm_spec_of(text)
    check(spec, x, {"weight": weight, "bias": bias}, {"mean": mean, "var": var}, mean is None)
    if grad.shape != x.shape or grad.dtype != x.dtype:
        raise RuntimeError(
            f"{spec.function}: the gradient has shape {tuple(grad.shape)} and dtype "
            f"{dtype_name(grad.dtype)}, the result {tuple(x.shape)} and {dtype_name(x.dtype)}"
        )
    shape = _statistics_shape(spec, x)
    if statistics is not None:
        if statistics.dtype is not torch.float64 or tuple(statistics.shape) != shape:
            raise RuntimeError(
                f"{spec.function}: backward needs the forward call's statistics, float64 of shape "
                f"{shape}"
            )
    elif mean.dtype is not var.dtype:
        raise RuntimeError(f"{spec.function}: backward needs a mean and a variance of one dtype")
    return spec, shape


def _backward_plan(text: str, saved: Saved) -> _Plan:
    spec, _ = _checked_backward(text, saved)
    grad, x, weight, bias, statistics, mean, var = saved
    plan = make_plan(spec, x, grad, weight, bias, mean, False)
    if any(t is not None and not t.is_contiguous() for t in (statistics, var)):
        plan = plan._replace(native=None)
    return plan


# --- results without data ------------------------------------------------------------------

# Sizes may be symbols.


def _like(x: Tensor) -> Tensor:
    if x.is_contiguous():
        return x.new_empty(x.shape)
    return x.new_empty_strided(x.shape, dense_strides(x.shape, x.stride()))


def _statistics_shape(spec: NormSpec, x: Tensor) -> tuple[int, int]:
    return 2 if spec.centered else 1, spec.layout(tuple(x.shape)).region_count


def _shape(text: str, tensors: Tensors, keep: bool) -> Results:
    x, residual, weight, *_ = tensors
    if not takes(text, x, residual, weight):
        return composed_parts(text, tensors, keep)
    spec = _checked(text, tensors, False)
    statistics = None
    if keep:
        statistics = x.new_empty(_statistics_shape(spec, x), dtype=torch.float64)
    return _like(x), None if residual is None else _like(x), statistics


def _backward_shape(text: str, saved: Saved, wanted: Sequence[bool]) -> tuple[Optional, ...]:
    _, x, weight, bias, *_ = saved
    _checked_backward(text, saved)
    of_x = _like(x) if wanted[0] else None
    of_weight = torch.empty_like(weight) if wanted[1] and weight is not None else None
    of_bias = torch.empty_like(bias) if wanted[2] and bias is not None else None
    return of_x, of_weight, of_bias


# --- derivatives ---------------------------------------------------------------------------


class _Normalised(torch.autograd.Function):
    """Keeps the input (or its sum with the residual), the parameters, two numbers per region."""

    @staticmethod
    def forward(ctx: Any, text: str, keep: bool, *tensors: Optional) -> Any:
        x, _, weight, bias, mean, var = tensors
        _check_running(text, mean, var)
        with _below_autograd():
            out, total, statistics = _called(text, tensors, mean is None)
        ctx.text = text
        results = [t for t in (out, total, statistics if keep else None) if t is not None]
        if len(results) > 1:
            ctx.set_materialize_grads(False)
        if keep:
            ctx.mark_non_differentiable(statistics)
        x = x if total is None else total
        if statistics is None:
            ctx.save_for_backward(x, weight, bias, None, mean, var)
        else:
            ctx.save_for_backward(x, weight, bias, statistics, None, None)
        return results[0] if len(results) == 1 else tuple(results)

    @staticmethod
    def backward(ctx: Any, grad: Optional, *more: Optional) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[2:]
        grad_total = more[0] if more else None
        if grad is None:
            found = grad_total, None, None
        else:
            wanted = [needs[0] or needs[1], needs[2], needs[3]]
            found = gradients(ctx.text, (grad, *ctx.saved_tensors), wanted)
            if grad_total is not None and found[0] is not None:
                of_x = found[0]
                of_x = of_x + grad_total if _grad_enabled() else of_x.add_(grad_total)
                found = of_x, *found[1:]
        of_x, of_weight, of_bias = found
        of_residual = of_x if needs[1] else None
        return None, None, of_x, of_residual, of_weight, of_bias, None, None


def gradients(text: str, saved: Saved, wanted: list[bool]) -> Sequence[Optional]:
    """Those that are wanted, by operators."""
    grad, x, weight, bias, statistics, mean, var = saved
    if is_legacy_batchedtensor(grad):
        return composed_backward(text, saved, wanted)
    if statistics is None:
        found = norm_given_backward(grad, x, weight, bias, mean, var, text, wanted)
    else:
        found = norm_backward(grad, x, weight, bias, statistics, text, wanted)
    return [t if is_wanted else None for t, is_wanted in zip(found, wanted, strict=True)]


_normalise = apply_of(_Normalised)


def _derivative(text: str, tensors: Tensors, keep: bool) -> Results:
    x, residual, weight, *_ = tensors
    if not takes(text, x, residual, weight):
        return composed_parts(text, tensors, keep)
    found = _normalise(text, keep, *tensors)
    if isinstance(found, Tensor):
        return found, None, None
    return found[0], None if residual is None else found[1], found[-1] if keep else None


def _check_running(text: str, mean: Optional, var: Optional) -> None:
    if mean is not None and (mean.requires_grad or var.requires_grad):
        raise RuntimeError(
            f"{text.split()[0]}: running statistics have no gradient and must not require one"
        )


# --- calls ---------------------------------------------------------------------------------


def run(text: str, tensors: Tensors, momentum: float | None = None) -> Any:
    """The result, or a pair of it and the sum where there is a residual."""
    traced = momentum is not None and torch._C._get_tracing_state() is not None
    if traced or forward_ad._current_level >= 0 or transforms() is not None:
        return composed(text, tensors, momentum)
    return through(text, tensors, momentum)


def through(text: str, tensors: Tensors, momentum: Any = None) -> Any:
    """The same by operators. Compilers read this."""
    x, residual, weight, bias, mean, var = tensors
    if momentum is None:
        if mean is not None and residual is not None:
            x = x + residual
            return norm_given(x, weight, bias, mean, var, text), x
        out, total, _ = _called(text, tensors, False)
    elif not takes(text, x, residual, weight):
        return composed(text, tensors, momentum)
    else:
        if _grad_enabled():
            _check_running(text, mean, var)
        _checked(text, tensors, True)
        out, total, statistics = _called(text, (*tensors[:4], None, None), True)
        move_both(x, statistics, mean, var, momentum)
    return out if residual is None else (out, total)


def _called(text: str, tensors: Tensors, keep: bool) -> Results:
    """The operator for these tensors."""
    x, residual, weight, bias, mean, var = tensors
    if mean is not None:
        return norm_given(x, weight, bias, mean, var, text), None, None
    if residual is not None:
        if keep:
            return add_norm_with_statistics(x, residual, weight, bias, text)
        return *add_norm(x, residual, weight, bias, text), None
    if keep:
        out, statistics = norm_with_statistics(x, weight, bias, text)
        return out, None, statistics
    return norm(x, weight, bias, text), None, None


def composed(text: str, tensors: Tensors, momentum: Any = None) -> Any:
    """The same, composed of PyTorch's functions."""
    out, total, _ = composed_parts(text, tensors, False, momentum)
    return out if total is None else (out, total)


# --- registration --------------------------------------------------------------------------


def _define(
    name: str,
    known: Sequence[str],
    given: Sequence[str],
    results: int,
    bodies: dict[str, Callable[..., Any]],
    more: str = "",
    *fixed: Any,
) -> Callable[..., Any]:
    """Define an operator of some ``given`` tensors. Its bodies take all that are ``known``."""
    places = [known.index(tensor) for tensor in given]

    def form(body: Callable[..., Any]) -> Callable[..., Any]:
        def operator(*arguments: Any) -> Any:
            tensors: list[Optional] = [None] * len(known)
            for place, tensor in zip(places, arguments, strict=False):
                tensors[place] = tensor
            text, *rest = arguments[len(places) :]
            found = body(text, tensors, *rest, *fixed)
            if more:
                return tuple(tensors[0].new_empty(0) if t is None else t for t in found)
            found = tuple(t for t in found if t is not None)
            return found[0] if results == 1 else found

        return operator

    taken = [f"Tensor{'?' * (t in ('weight', 'bias'))} {t}" for t in given]
    one = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    return define(
        name,
        f"({', '.join(taken)}, str spec{more}) -> {one}",
        **{what: form(body) for what, body in bodies.items()},
    )


_FORWARD = {
    "kernel": _norm,
    "shape": _shape,
    "composed": composed_parts,
    "derivative": _derivative,
}
_BACKWARD = {"kernel": _norm_backward, "shape": _backward_shape, "composed": composed_backward}


def _forward(name: str, given: str, keep: bool = False) -> Callable[..., Any]:
    results = 1 + ("residual" in given) + keep
    return _define(name, TENSORS, given.split(), results, _FORWARD, "", keep)


def _backward(name: str, given: str) -> Callable[..., Any]:
    return _define(name, SAVED, given.split(), 3, _BACKWARD, ", bool[3] wanted")


norm = _forward("norm", "input weight bias")
norm_with_statistics = _forward("norm_with_statistics", "input weight bias", True)
add_norm = _forward("add_norm", "input residual weight bias")
add_norm_with_statistics = _forward("add_norm_with_statistics", "input residual weight bias", True)
norm_given = _forward("norm_given", "input weight bias mean var")
norm_backward = _backward("norm_backward", "grad_output input weight bias statistics")
norm_given_backward = _backward("norm_given_backward", "grad_output input weight bias mean var")


# --- the short way -------------------------------------------------------------------------

# The places of a call's tensors, and of its first result.
_X, _RESIDUAL, _WEIGHT, _BIAS, _MEAN, _VAR, _OUT = range(7)


class _Note(NamedTuple):
    passed: list[int]  # the places of the tensors that may have a gradient
    slots: list[int]  # where what was saved stands behind the gradient in a backward call
    short: Callable[..., Any]
    long: Callable[..., Any]


class _Normed(torch.autograd.Function):
    """Keeps the input (or its sum with the residual), the parameters and the statistics."""

    forward = _core.keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, of_total: Tensor | None = None) -> Any:
        note = ctx.note
        needs = dict(zip(note.passed, ctx.needs_input_grad, strict=False))
        gradients = dict.fromkeys((_X, _WEIGHT, _BIAS))
        gradients[_X] = of_total
        if grad is not None:
            wanted = [needs.get(place, False) for place in gradients]
            wanted[0] = wanted[0] or needs.get(_RESIDUAL, False)
            saved: list[Any] = [None] * 6
            for slot, tensor in zip(note.slots, ctx.saved_tensors, strict=True):
                saved[slot] = tensor
            found = note.short(grad, *saved, *wanted)
            if found is None:
                found = note.long(grad, saved, wanted)
            else:
                found = iter(found if type(found) is tuple else (found,))
                found = [next(found) if one else None for one in wanted]
            gradients = dict(zip(gradients, found, strict=True))
            if of_total is not None and gradients[_X] is not None:
                gradients[_X] = gradients[_X] + of_total
        gradients[_RESIDUAL] = gradients[_X]
        return *[gradients[place] if needs[place] else None for place in note.passed], None


_normed = apply_of(_Normed)


def norming(text_of: Callable[..., str]) -> Callable[..., Any]:
    """The native call of the norms, of the tensors of :mod:`norm_ops` and then arguments.

    ``call(*tensors, arguments, momentum)``, where ``text_of(*arguments)`` is the spec's. The result,
    or a pair of it and the sum where there is a residual.
    """

    def plan(recording: bool, tensors: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
        described, momentum = arguments
        text = text_of(*described)
        x, residual, weight, _, mean, var = tensors
        if not takes(text, x, residual, weight):
            return None
        if norm_spec_of(text).kind in ("layer", "rms") and is_turned(x):
            return None
        if recording:
            _check_running(text, mean, var)
        found = _forward_plan(text, tensors, momentum is not None)
        if found.native is None:
            return None
        results = [(dtype_name(x.dtype), found.shape, found.strides)]
        returned, source = 1, _X
        if residual is not None:
            returned, source = 2, _OUT + 1
            results *= 2
        if mean is not None and momentum is None:
            work = found.native.applying()
            addresses = operands(_X, _OUT, _WEIGHT, _BIAS, _MEAN, _VAR)
            saved = {0: _X, 1: _WEIGHT, 2: _BIAS, 4: _MEAN, 5: _VAR}
        else:
            rows, regions = found.statistics
            kept = -1
            if recording:
                kept = _OUT + len(results)
                results.append(("float64", (rows, regions), (regions, 1)))
            work = found.native.normalizing(momentum or 0.0)
            total = -1 if residual is None else source
            addresses = [
                *operands(_X, _RESIDUAL, _OUT, total, _WEIGHT, _BIAS),
                (kept if rows == 2 else -1, 0),
                (kept, 8 * regions * (rows - 1)),
                *operands(_MEAN, _VAR),
            ]
            saved = {0: source, 1: _WEIGHT, 2: _BIAS, 3: kept}
        steps = [(work, addresses)]
        if not recording:
            return _core.CallPlan(steps, results, returned)
        passed = [p for p in (_X, _RESIDUAL, _WEIGHT, _BIAS) if tensors[p] is not None]
        saved = {i: p for i, p in saved.items() if p >= _OUT or tensors[p] is not None}
        note = _Note(passed, list(saved), _short_backward(text), partial(_long_backward, text))
        return _core.CallPlan(steps, results, returned, _normed, passed, list(saved.values()), note)

    return native_call(plan, 6)


def _short_backward(text: str) -> Callable[..., Any]:
    """``call(grad, input, weight, bias, statistics, mean, var, *wanted)``."""

    def plan(recording: bool, saved: tuple[Any, ...], wanted: tuple[Any, ...]) -> Any:
        _, x, weight, bias, statistics, *_ = saved
        found = None if recording else _backward_plan(text, saved)
        if found is None or found.native is None:
            return None
        results, places = [], []
        for like, one in zip((x, weight, bias), wanted, strict=True):
            places.append(len(saved) + len(results) if one else -1)
            if one:
                dense = (found.shape, found.strides) if like is x else (like.shape, like.stride())
                results.append((dtype_name(like.dtype), *dense))
        rows, regions = found.statistics
        given = statistics is None
        moments = operands(5, 6) if given else [(4, 0), (4, 8 * regions * (rows - 1))]
        addresses = [*operands(1, 0, places[0], 2, 3), *moments, *operands(*places[1:])]
        return _core.CallPlan(
            [(found.native.differentiating(given), addresses)], results, len(results)
        )

    return native_call(plan, 7)


def _long_backward(text: str, grad: Tensor, saved: Any, wanted: Any) -> Any:
    """The same through the dispatcher."""
    return gradients(text, (grad, *saved), list(wanted))

"""The operators of dropout: elements or whole channels that a draw keeps or drops.

- ``infinitypool::dropout(Tensor input, float p, Tensor seed, int axes) -> Tensor``, and
  ``alpha_dropout``; ``..._backward`` for their gradients
- ``infinitypool::dropout_add(Tensor input, Tensor residual, float p, Tensor seed) -> Tensor``
- ``infinitypool::dropout_mask(Tensor seed, float p, SymInt count) -> Tensor``: which elements of a
  row are kept. All others are composed of it

A draw depends on the seed and on the element's number alone, so that nothing but the seed is kept
for the gradient. With ``axes`` 0 every element has a draw of its own, numbered in memory order;
otherwise the first ``axes`` axes are kept or dropped as a whole. Seeds are int64 tensors of shape
(), on the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import prod, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import _core
from ..plan import RECYCLED_BYTES, Cache, contiguous_strides
from .calls import Note, apply_of, keep, operands
from .calls import call as native_call
from .ops import dtype_name, recycled
from .registry import define

_below_autograd = torch._C._AutoDispatchBelowAutograd
_natives, _plans = Cache(), Cache()
_UINT64 = 2**64 - 1
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_ALPHA = 1.7580993408473766  # where SELU saturates: the product of its two constants


# --- the CPU kernels -----------------------------------------------------------------------


def _mixture(p: float, alpha: bool) -> tuple[float, float, float]:
    """What elements are multiplied by, and what is added to those that are kept and dropped."""
    if p == 1:
        return 0.0, 0.0, 0.0
    if not alpha:
        return 1 / (1 - p), 0.0, 0.0
    scale = 1 / sqrt((_ALPHA**2 * p + 1) * (1 - p))
    return scale, _ALPHA * scale * p, _ALPHA * scale * (p - 1)


def _native(dtype: torch.dtype, p: float, alpha: bool, linear: bool) -> Any:
    """The kernel, without what it adds if it is to be ``linear``."""
    key = dtype, p, alpha, linear
    native = _natives.get(key)
    if native is None:
        scale, *added = _mixture(p, alpha)
        native = _core.Dropout(dtype_name(dtype), p, scale, *([0.0, 0.0] if linear else added))
        _natives.keep(key, native)
    return native


def _key(seed: int | Tensor) -> int:
    return (seed if type(seed) is int else seed.item()) & _UINT64


def dense_strides(x: Tensor) -> tuple[int, ...]:
    """The strides of a result, which are those of ``x`` where it has no gaps."""
    return x.stride() if x.is_contiguous() else torch.empty_like(x, device="meta").stride()


def _empty(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    if x.nbytes < RECYCLED_BYTES and x.stride() == strides:
        return torch.empty_like(x)
    return recycled(x, x.shape, strides, x.dtype)


def _dense(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The same elements without gaps, in this order."""
    return x if x.stride() == strides else _empty(x, strides).copy_(x)


def _each(
    out: Tensor, x: Tensor, residual: Tensor | None, p: float, seed: Any, alpha: bool, linear: bool
) -> Tensor:
    """Elements of dense tensors, all in the same order."""
    _native(x.dtype, p, alpha, linear).run(
        x.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        out.data_ptr(),
        x.numel(),
        _key(seed),
    )
    return out


def native_of(alpha: bool, dtype: torch.dtype, p: float, linear: bool) -> tuple[Any, bool]:
    """The kernel, and whether it adds something."""
    return _native(dtype, p, alpha, linear), alpha and not linear and p < 1


def channel_plan(x: Tensor, axes: int) -> Any:
    """The core's plan that scales what the first axes number."""
    shape, strides = x.shape, x.stride()
    key = x.dtype, shape, strides, axes
    plan = _plans.get(key)
    if plan is None:
        none = (0,) * (x.ndim - axes)
        plan = _core.Norm(
            *(dtype_name(x.dtype), "float64", "float64", shape, strides, strides, strides),
            *((*contiguous_strides(shape[:axes]), *none), (0,) * x.ndim, True, 0.0, "none", 0.0),
        )
        _plans.keep(key, plan)
    return plan


def _channels(
    out: Tensor, x: Tensor, p: float, seed: Any, axes: int, alpha: bool, linear: bool
) -> Tensor:
    """Whole channels of dense tensors, which the first axes number."""
    plan, count = channel_plan(x, axes), prod(x.shape[:axes])
    native, adds = native_of(alpha, torch.float64, p, linear)
    factors = torch.empty(count, dtype=torch.float64)
    offsets = torch.empty_like(factors) if adds else None
    added = 0 if offsets is None else offsets.data_ptr()
    native.factors(factors.data_ptr(), added, count, _key(seed))
    plan.scale(x.data_ptr(), out.data_ptr(), factors.data_ptr(), added)
    return out


def forward(alpha: bool, x: Tensor, p: float, seed: int | Tensor, axes: int) -> Tensor:
    """The kernel; where a gradient is taken through the dispatcher, seeds are tensors."""
    strides = dense_strides(x)
    x = _dense(x, strides)
    out = _empty(x, strides)
    if not axes:
        return _each(out, x, None, p, seed, alpha, False)
    return _channels(out, x, p, seed, axes, alpha, False) if x.numel() else out


def forward_inplace(alpha: bool, x: Tensor, p: float, seed: int, axes: int) -> Tensor:
    """The same into the input."""
    dense = _dense(x, dense_strides(x))
    if axes:
        _channels(dense, dense, p, seed, axes, alpha, False)
    else:
        _each(dense, dense, None, p, seed, alpha, False)
    if dense is not x:
        return x.copy_(dense)
    if not x.is_inference():
        increment_version(x)
    return x


def backward(
    alpha: bool, grad: Tensor, p: float, seed: int | Tensor, axes: int, stride: Any
) -> Tensor:
    """The same with a gradient of any layout: elements are numbered as the result's were."""
    strides = tuple(stride)
    out = _empty(grad, strides)
    if grad.stride() != strides:
        grad = out.copy_(grad)
    if not axes:
        return _each(out, grad, None, p, seed, alpha, True)
    return _channels(out, grad, p, seed, axes, alpha, True) if grad.numel() else out


def add(x: Tensor, residual: Tensor, p: float, seed: int | Tensor) -> Tensor:
    """The kernel with a residual."""
    _check_residual(x, residual)
    strides = dense_strides(x)
    x = _dense(x, strides)
    out = _empty(x, strides)
    if residual.stride() != strides:
        residual = out.copy_(residual)
    return _each(out, x, residual, p, seed, False, False)


def _check_residual(x: Tensor, residual: Tensor) -> None:
    if x.shape != residual.shape or x.dtype != residual.dtype:
        raise RuntimeError(
            f"dropout_add: residual has shape {tuple(residual.shape)} and dtype "
            f"{dtype_name(residual.dtype)}, the input {tuple(x.shape)} and {dtype_name(x.dtype)}"
        )


def _kept(seed: Tensor, p: float, count: int) -> Tensor:
    ones = torch.ones(count)
    return _each(ones, ones, None, p, seed, False, True) != 0


# --- composed ------------------------------------------------------------------------------

_WORD = 2**32 - 1
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_STEPS = 0x9E3779B9, 0xBB67AE85
_ELEMENTS, _COUNTERS = 128, 16  # of which those draw together, and by how many counters


def _philox(counters: Tensor, stream: int, seed: Tensor) -> list[Tensor]:
    """Philox4x32-10 in int64, whose products wrap around: four words for every counter.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
    """
    keys = seed & _WORD, seed >> 32 & _WORD
    words = [counters & _WORD, counters >> 32, torch.full_like(counters, stream), counters * 0]
    for turn in range(10):
        first, second = (w * m for w, m in zip(words[::2], _MULTIPLIERS, strict=True))
        low, high = (k + turn * s & _WORD for k, s in zip(keys, _STEPS, strict=True))
        words = [
            (second >> 32 & _WORD) ^ words[1] ^ low,
            second & _WORD,
            (first >> 32 & _WORD) ^ words[3] ^ high,
            first & _WORD,
        ]
    return words


def _kept_composed(seed: Tensor, p: float, count: int) -> Tensor:
    """The same draws: half h of sixteen counters belongs to sixteen elements side by side."""
    blocks = (count + _ELEMENTS - 1) // _ELEMENTS
    counters = torch.arange(blocks * _COUNTERS, device=seed.device).view(blocks, 1, _COUNTERS)
    draws = 0
    for stream in range(2):
        words = _philox(counters, stream, seed)
        halves = torch.cat([half for w in words for half in (w & 0xFFFF, w >> 16)], 1)
        draws = draws << 16 | halves
    return draws.flatten()[:count] >= round(p * 2**32)


dropout_mask = define(
    "dropout_mask",
    "(Tensor seed, float p, SymInt count) -> Tensor",
    kernel=_kept,
    shape=lambda seed, p, count: torch.empty(count, dtype=torch.bool, device=seed.device),
    composed=_kept_composed,
    # Exported models have draws of their own.
    exported=lambda seed, p, count: torch.rand(count, device=seed.device) >= p,
)


def _mask(x: Tensor, p: float, seed: Tensor, axes: int, strides: Any) -> Tensor:
    """What is kept, in a shape that broadcasts with ``x``."""
    shape = x.shape
    flat = dropout_mask(seed, p, prod(shape[:axes] if axes else shape)).to(x.device)
    if axes:
        return flat.view(*shape[:axes], *(1,) * (len(shape) - axes))
    order = sorted(range(len(shape)), key=lambda axis: strides[axis], reverse=True)
    there = [order.index(axis) for axis in range(len(shape))]
    return flat.view([shape[axis] for axis in order]).permute(there)


def _mixed(
    alpha: bool, x: Tensor, p: float, seed: Tensor, axes: int, strides: Any = None
) -> Tensor:
    """In the precision in which it is computed; with ``strides`` of elements, the linear part."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale, *added = _mixture(p, alpha)
    mask = _mask(x, p, seed, axes, dense_strides(x) if strides is None else strides)
    y = x * (mask.to(dtype) * scale)
    if strides is not None or not any(added):
        return y
    kept, dropped = (torch.full((), v, dtype=dtype, device=x.device) for v in added)
    return y + torch.where(mask, kept, dropped)


def composed(alpha: bool, x: Tensor, *rest: Any) -> Tensor:
    """The same draws for any device and dtype, and with ``strides`` the gradient's."""
    return _mixed(alpha, x, *rest).to(x.dtype)


def _composed_add(x: Tensor, residual: Tensor, p: float, seed: Tensor) -> Tensor:
    _check_residual(x, residual)
    return (_mixed(False, x, p, seed, 0) + residual).to(x.dtype)


# --- gradients -----------------------------------------------------------------------------


class Family(NamedTuple):
    """The operators of one kind."""

    alpha: bool
    forward: Callable[..., Tensor]
    backward: Callable[..., Tensor]


class Dropped(torch.autograd.Function):
    """Keeps the seed. A gradient is linear in what comes back: its own is the same again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, run: Callable[..., Tensor], back: Callable[..., Tensor], *rest: Any
    ) -> Tensor:
        out = run(x, *rest)
        ctx.back, ctx.rest = back, (*rest[:3], out.stride())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back(grad, *ctx.rest), *(None,) * (len(ctx.needs_input_grad) - 1)


class DroppedSum(torch.autograd.Function):
    """The same, and the gradient itself for a residual."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, run: Any, back: Any, p: float, seed: Any
    ) -> Tensor:
        out = run(x, residual, p, seed)
        ctx.back, ctx.rest = back, (p, seed, 0, out.stride())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mine, other = ctx.needs_input_grad[:2]
        dropped = ctx.back(grad, *ctx.rest) if mine else None
        return dropped, grad if other else None, None, None, None, None


dropped, dropped_sum = map(apply_of, (Dropped, DroppedSum))


def _below(overload: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*arguments: Any) -> Tensor:
        with _below_autograd():
            return overload(*arguments)

    return run


def _register(name: str, alpha: bool) -> Family:
    arguments = "float p, Tensor seed, int axes"
    of_kind = functools.partial
    gradient = define(
        f"{name}_backward",
        f"(Tensor grad_output, {arguments}, SymInt[] stride) -> Tensor",
        kernel=of_kind(backward, alpha),
        shape=lambda grad, p, seed, axes, stride: grad.new_empty_strided(grad.shape, stride),
        composed=of_kind(composed, alpha),
        derivative=lambda grad, *rest: dropped(grad, _below(gradient), gradient, *rest),
    )
    overload = define(
        name,
        f"(Tensor input, {arguments}) -> Tensor",
        kernel=of_kind(forward, alpha),
        shape=lambda x, *rest: torch.empty_like(x),
        composed=of_kind(composed, alpha),
        derivative=lambda x, *rest: dropped(x, _below(overload), gradient, *rest),
    )
    return Family(alpha, overload, gradient)


DROPOUT = _register("dropout", False)
ALPHA_DROPOUT = _register("alpha_dropout", True)


def _shape_of_sum(x: Tensor, residual: Tensor, p: float, seed: Tensor) -> Tensor:
    _check_residual(x, residual)
    return torch.empty_like(x)


dropout_add = define(
    "dropout_add",
    "(Tensor input, Tensor residual, float p, Tensor seed) -> Tensor",
    kernel=add,
    shape=_shape_of_sum,
    composed=_composed_add,
    derivative=lambda *arguments: dropped_sum(
        *arguments[:2], _below(dropout_add), DROPOUT.backward, *arguments[2:]
    ),
)


# --- the short way -------------------------------------------------------------------------


def dropping(family: Family) -> Callable[..., Any]:
    """The native call of dropout: ``call(input, seed, p, axes)`` with a seed of int64, shape ()."""
    alpha = family.alpha

    def steps(x: Tensor, p: float, axes: int, linear: bool) -> list[Any]:
        if not axes:
            kernel, _ = native_of(alpha, x.dtype, p, linear)
            return [(kernel.dropping(x.numel()), operands(0, -1, 2))]
        kernel, adds = native_of(alpha, torch.float64, p, linear)
        work = kernel.dropping_channels(channel_plan(x, axes), prod(x.shape[:axes]), adds)
        return [(work, operands(0, 2))]

    def plan(recording: bool, tensors: tuple[Tensor, Tensor], arguments: tuple[Any, ...]) -> Any:
        (x, seed), (p, axes) = tensors, arguments
        if x.dtype not in FLOATS or seed.dtype != torch.int64 or seed.ndim:
            return None
        stride = dense_strides(x)
        if x.stride() != stride:
            return None
        result = dtype_name(x.dtype), x.shape, stride
        if not recording:
            return _core.CallPlan(steps(x, p, axes, False), [result], 1, seed=1)

        def plan_back(recording: bool, tensors: tuple[Tensor, Tensor], _: Any) -> Any:
            grad = tensors[0]
            if recording or grad.stride() != stride:
                return None
            return _core.CallPlan(steps(grad, p, axes, True), [result], 1, seed=1)

        def back(grad: Tensor, seed: Tensor) -> Tensor:
            return family.backward(grad, p, seed, axes, stride)

        note = Note(native_call(plan_back, 2), back)
        return _core.CallPlan(steps(x, p, axes, False), [result], 1, keep, [0], [1], note, seed=1)

    return native_call(plan, 2)

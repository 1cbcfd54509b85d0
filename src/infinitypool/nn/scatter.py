"""Operators that are more than windows over one input.

- ``infinitypool::max_unpool(Tensor input, Tensor indices, int[] output_size) -> Tensor``
- ``infinitypool::fractional_max_pool(Tensor input, int[] kernel_size, int[] output_size,
  Tensor samples) -> Tensor``, and ``..._with_indices`` with PyTorch's int64 places
- ``infinitypool::spp(Tensor input, int[] kernel_sizes) -> Tensor``: a picture and its maxima over
  windows of these sizes, one behind another along the channels

As in :mod:`infinitypool.nn.ops`, kernels run on the CPU, and anything else is composed of
PyTorch's operators.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as theirs
from torch import Tensor
from torch.autograd import forward_ad

from .. import _core
from ..fractional import fractional_starts
from ..plan import REDUCERS, Cache, contiguous_strides, pool_runner
from ..spec import TORCH, check_bytes, dtype_of_offsets, pool_spec
from .ops import (
    HALVES,
    below_autocast,
    define,
    dtype_name,
    library,
    memory_order,
    recycled,
    transforms,
)

_below_autograd = torch._C._AutoDispatchBelowAutograd
_plans = Cache()


def _define(
    name: str,
    schema: str,
    kernel: Callable[..., Any],
    other: Callable[..., Any],
    differentiable: type[torch.autograd.Function] | None = None,
    float32: bool = True,
) -> Callable[..., Any]:
    """Define an operator: its CPU kernel, what it is elsewhere, and its derivative on the CPU.

    Without one, derivatives are those of what it is elsewhere. Under autocast it is computed in
    ``float32`` where PyTorch does so.
    """
    overload = define(name, schema, kernel, other)

    def autograd(x: Tensor, *rest: Any) -> Any:
        forward_mode = forward_ad._current_level >= 0
        if x.requires_grad and torch.is_grad_enabled() or forward_mode:
            if differentiable is None or forward_mode or transforms() is not None:
                return other(x, *rest)
            return differentiable.apply(x, *rest)
        with _below_autograd():
            return overload(x, *rest)

    def autocast(*arguments: Any) -> Any:
        if float32:
            arguments = tuple(
                a.float() if isinstance(a, Tensor) and a.dtype in HALVES else a for a in arguments
            )
        with below_autocast():
            return overload(*arguments)

    library.impl(name, autograd, "AutogradCPU")
    library.impl(name, autocast, "AutocastCPU")
    return overload


# --- unpooling -----------------------------------------------------------------------------

_SIZES = {1: "L", 2: "H, W", 3: "D, H, W"}


def check_shape(name: str, shape: tuple[int, ...], n: int) -> None:
    """Refuse what has no ``n`` axes behind channels, and empty axes but the batch."""
    if len(shape) not in (n + 1, n + 2) or 0 in shape[-n - 1 :]:
        raise RuntimeError(
            f"{name}: input must have the shape (N, C, {_SIZES[n]}) or (C, {_SIZES[n]}) with no "
            f"empty axis but N, not {tuple(shape)}"
        )


def _unpool_plan(x: Tensor, indices: Tensor, output_size: tuple[int, ...]) -> Any:
    n = len(output_size)
    name = f"max_unpool{n}d"
    shape = tuple(x.shape)
    check_shape(name, shape, n)
    if indices.dtype != torch.int64:
        raise RuntimeError(f"{name}: indices have dtype {dtype_name(indices.dtype)}, not int64")
    if indices.shape != x.shape:
        raise RuntimeError(
            f"{name}: indices have the shape {tuple(indices.shape)}, which must be that of input, "
            f"{shape}"
        )
    if x.dtype.is_complex:
        raise NotImplementedError(f"{name}: input has dtype {dtype_name(x.dtype)}")
    out_shape = (*shape[:-n], *output_size)
    check_bytes(name, f"output_size={output_size}", out_shape, 8, TORCH)
    order = memory_order(n, shape, x.stride(), n == 2)
    strides = contiguous_strides(out_shape, order)
    axes = [len(shape) - n + i for i in range(n)]
    plan = None
    if 0 not in shape:
        plan = _core.Unpool(
            x.dtype.itemsize, shape, x.stride(), indices.stride(), out_shape, strides, axes
        )
    return plan, out_shape, strides


def _planned(x: Tensor, indices: Tensor, output_size: tuple[int, ...]) -> Any:
    key = x.dtype, x.shape, x.stride(), indices.dtype, indices.shape, indices.stride(), output_size
    plan = _plans.get(key)
    return plan or _plans.keep(key, _unpool_plan(x, indices, output_size))


def _check_places(indices: Tensor, output_size: tuple[int, ...], bad: int) -> None:
    if bad >= 0:
        place = tuple(int(i) for i in torch.unravel_index(torch.tensor(bad), indices.shape))
        raise RuntimeError(
            f"max_unpool{len(output_size)}d: indices{list(place)} is {indices[place].item()}, which "
            f"lies outside the output's plane of {' x '.join(map(str, output_size))}"
        )


def _unpool(x: Tensor, indices: Tensor, output_size: list[int]) -> Tensor:
    size = tuple(output_size)
    plan, shape, strides = _planned(x, indices, size)
    out = recycled(x, shape, strides, x.dtype)
    if plan is not None:
        _check_places(indices, size, plan.run(x.data_ptr(), indices.data_ptr(), out.data_ptr()))
    return out


def _unpool_elsewhere(x: Tensor, indices: Tensor, output_size: list[int]) -> Tensor:
    size = list(output_size)
    if len(size) == 3:
        return torch.ops.aten.max_unpool3d(x, indices, size, [1] * 3, [0] * 3)
    if len(size) == 2:
        return torch.ops.aten.max_unpool2d(x, indices, size)
    flat = torch.ops.aten.max_unpool2d(x.unsqueeze(-1), indices.unsqueeze(-1), [*size, 1])
    return flat.squeeze(-1)


class _Unpooled(torch.autograd.Function):
    """Keeps the indices. The gradient goes to the winner of colliding ones alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, indices: Tensor, output_size: list[int]) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.output_size, ctx.stride = tuple(output_size), x.stride()
        with _below_autograd():
            return max_unpool(x, indices, output_size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        return max_unpool_backward(grad, indices, ctx.output_size, ctx.stride), None, None


def _unpool_backward(
    grad: Tensor, indices: Tensor, output_size: list[int], input_stride: list[int]
) -> Tensor:
    size = tuple(output_size)
    shape, n = tuple(indices.shape), len(size)
    fits = tuple(grad.shape) == (*shape[:-n], *size) and len(input_stride) == len(shape)
    if not fits or indices.dtype != torch.int64:
        raise RuntimeError(
            f"max_unpool{n}d: the gradient has shape {tuple(grad.shape)}, which int64 indices of "
            f"shape {shape} do not give, but these are {dtype_name(indices.dtype)}"
        )
    key = "backward", grad.dtype, grad.stride(), shape, indices.stride(), size, tuple(input_stride)
    found = _plans.get(key)
    if found is None:
        order = memory_order(n, shape, tuple(input_stride), n == 2)
        strides = contiguous_strides(shape, order)
        axes = [len(shape) - n + i for i in range(n)]
        plan = None
        if 0 not in shape:
            plan = _core.Unpool(
                grad.dtype.itemsize, shape, strides, indices.stride(), grad.shape, grad.stride(),
                axes,
            )  # fmt: skip
        found = _plans.keep(key, (plan, strides))
    plan, strides = found
    out = recycled(grad, shape, strides, grad.dtype)
    if plan is not None:
        _check_places(
            indices, size, plan.gather(grad.data_ptr(), indices.data_ptr(), out.data_ptr())
        )
    return out


class _Gathered(torch.autograd.Function):
    """The gradient of unpooling, whose own is unpooling again: a winner's value at its place."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, indices: Tensor, size: Any, stride: Any) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.size = size
        with _below_autograd():
            return max_unpool_backward(grad, indices, size, stride)

    @staticmethod
    def backward(ctx: Any, twice: Tensor) -> tuple[Tensor | None, ...]:
        return max_unpool(twice, ctx.saved_tensors[0], ctx.size), None, None, None


def _gather_elsewhere(grad: Tensor, indices: Tensor, size: Any, stride: Any) -> Tensor:
    n = len(size)
    return grad.flatten(-n).gather(-1, indices.flatten(-n)).reshape(indices.shape)


max_unpool = _define(
    "max_unpool",
    "(Tensor input, Tensor indices, int[] output_size) -> Tensor",
    _unpool,
    _unpool_elsewhere,
    _Unpooled,
)
max_unpool_backward = _define(
    "max_unpool_backward",
    "(Tensor grad_output, Tensor indices, int[] output_size, int[] input_stride) -> Tensor",
    _unpool_backward,
    _gather_elsewhere,
    _Gathered,
)


# --- fractional windows --------------------------------------------------------------------


def _check_samples(name: str, x: Tensor, samples: Tensor, n: int) -> None:
    """PyTorch's rules: as many planes as the input or more, and a number for each axis of them."""
    batch = x.shape[0] if x.ndim == n + 2 else 1
    wanted = batch, x.shape[-n - 1], n
    good = samples.ndim == 3 and samples.shape[0] >= batch and samples.shape[1:] == wanted[1:]
    if not good or samples.dtype != x.dtype:
        raise RuntimeError(
            f"{name}: _random_samples must have the shape {wanted} and the input's dtype "
            f"{dtype_name(x.dtype)}, not {tuple(samples.shape)} and {dtype_name(samples.dtype)}"
        )


def _starts(x: Tensor, kernel: tuple[int, ...], out: tuple[int, ...], samples: Tensor) -> Tensor:
    """Where the windows start: int64 of shape (planes, axes, largest output size)."""
    n = len(kernel)
    batch = x.shape[0] if x.ndim == n + 2 else 1
    samples = samples[:batch].detach()
    if n == 2:
        samples = samples.flip(-1)  # PyTorch's come as (width, height)
    known = samples.float() if samples.dtype == torch.bfloat16 else samples
    starts = fractional_starts(known.numpy(), x.shape[-n:], kernel, out, dtype_name(samples.dtype))
    return torch.from_numpy(starts)


def _fractional_plan(
    x: Tensor, kernel: tuple[int, ...], out: tuple[int, ...], second: str
) -> tuple[Any, ...]:
    n, shape = len(kernel), tuple(x.shape)
    name = f"fractional_max_pool{n}d"
    if n not in (2, 3) or len(out) != n or min(kernel) < 1 or min(out) < 0:
        raise RuntimeError(f"{name}: kernel_size={kernel} and output_size={out} are no windows")
    check_shape(name, shape, n)
    if not x.is_floating_point():
        raise NotImplementedError(f"{name}: input has dtype {dtype_name(x.dtype)}, not a float's")
    for size, k, o in zip(shape[-n:], kernel, out, strict=True):
        if o + k - 1 > size:
            raise RuntimeError(
                f"{name}: an axis of {size} has no room for {o} windows of kernel_size={k}"
            )
    out_shape = (*shape[:-n], *out)
    strides = contiguous_strides(out_shape)
    run = None
    if 0 not in out_shape:
        axes = [len(shape) - n + i for i in range(n)]
        run = _core.Fractional(
            dtype_name(x.dtype), shape, x.stride(), strides, axes, kernel, out, second
        ).run
    dtype = None
    if second == "plane":
        dtype = torch.int64
    elif second == "offset":
        dtype = getattr(torch, dtype_of_offsets(prod(kernel)))
    return run, out_shape, strides, dtype


def _fractional(
    x: Tensor, kernel_size: Any, output_size: Any, samples: Tensor, second: str
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Values, places or offsets beside them, and the windows' starts."""
    kernel, out = tuple(kernel_size), tuple(output_size)
    key = "fractional", x.dtype, x.shape, x.stride(), kernel, out, second
    run, shape, strides, dtype = _plans.get(key) or _plans.keep(
        key, _fractional_plan(x, kernel, out, second)
    )
    _check_samples(f"fractional_max_pool{len(kernel)}d", x, samples, len(kernel))
    starts = _starts(x, kernel, out, samples)
    values = recycled(x, shape, strides, x.dtype)
    places = None if dtype is None else recycled(x, shape, strides, dtype)
    if run is not None:
        address = 0 if places is None else places.data_ptr()
        run(x.data_ptr(), values.data_ptr(), address, starts.data_ptr())
    return values, places, starts


def _fractional_elsewhere(x: Tensor, kernel: Any, out: Any, samples: Tensor) -> tuple[Tensor, ...]:
    function = getattr(torch.ops.aten, f"fractional_max_pool{len(kernel)}d").default
    return function(x, list(kernel), list(out), samples)


class _FractionalWinners(torch.autograd.Function):
    """Keeps the winners' places in their windows, and where the windows start."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Any, out: Any, samples: Tensor, indices: bool = False
    ) -> Any:
        with _below_autograd():
            values, offsets, starts = _fractional(x, kernel, out, samples, "offset")
        ctx.save_for_backward(offsets, starts)
        ctx.kernel, ctx.shape = tuple(kernel), tuple(x.shape)
        if not indices:
            return values
        places = _places(offsets, starts, ctx.kernel, ctx.shape).reshape(values.shape)
        ctx.mark_non_differentiable(places)
        return values, places

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
        offsets, starts = ctx.saved_tensors
        places = _places(offsets, starts, ctx.kernel, ctx.shape).flatten(1)
        n = len(ctx.kernel)
        wide = torch.float32 if grad.dtype.itemsize == 2 else grad.dtype
        total = torch.zeros((len(starts), prod(ctx.shape[-n:])), dtype=wide)
        total = total.scatter_add(1, places, grad.reshape(places.shape).to(wide))
        result = total.to(grad.dtype).reshape(ctx.shape)
        return result, *(None,) * (len(ctx.needs_input_grad) - 1)


class _FractionalWinnersAndIndices(_FractionalWinners):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Any, out: Any, samples: Tensor) -> Any:
        return _FractionalWinners.forward(ctx, x, kernel, out, samples, True)


def _places(
    offsets: Tensor, starts: Tensor, kernel: tuple[int, ...], shape: tuple[int, ...]
) -> Tensor:
    """Places in the plane, of shape (planes, outputs...)."""
    n = len(kernel)
    out = offsets.shape[-n:]
    rest, step = offsets.reshape(-1, *out).long(), 1
    places = torch.zeros_like(rest)
    for i in reversed(range(n)):
        start = starts[:, i, : out[i]].reshape([-1, *(out[i] if j == i else 1 for j in range(n))])
        places += (start + rest % kernel[i]) * step
        rest //= kernel[i]
        step *= shape[i - n]
    return places


_FRACTIONAL = "(Tensor input, int[] kernel_size, int[] output_size, Tensor samples) -> "
fractional_max_pool = _define(
    "fractional_max_pool",
    _FRACTIONAL + "Tensor",
    lambda *arguments: _fractional(*arguments, "none")[0],
    lambda *arguments: _fractional_elsewhere(*arguments)[0],
    _FractionalWinners,
)
fractional_max_pool_with_indices = _define(
    "fractional_max_pool_with_indices",
    _FRACTIONAL + "(Tensor, Tensor)",
    lambda *arguments: _fractional(*arguments, "plane")[:2],
    _fractional_elsewhere,
    _FractionalWinnersAndIndices,
)


# --- the chain of maxima -------------------------------------------------------------------


def _spp_plan(x: Tensor, kernel_sizes: tuple[int, ...]) -> Any:
    """(runner, offset of its input or None for ``x``, offset of its output) for every slice.

    A window of 9 is one of 5 over windows of 5, so each slice is made from the next smaller one.
    """
    shape = tuple(x.shape)
    out_shape = (shape[0], shape[1] * (1 + len(kernel_sizes)), *shape[2:])
    check_bytes("spp", f"kernel_sizes={kernel_sizes}", out_shape, 8, TORCH)
    order = memory_order(2, shape, x.stride(), True)
    strides = contiguous_strides(out_shape, order)
    steps = []
    before, source = 1, 0
    for kernel, target in sorted((kernel, i + 1) for i, kernel in enumerate(kernel_sizes)):
        more = kernel - before + 1
        spec = pool_spec(
            "spp", "max", more, stride=1, padding=more // 2, axes=(-2, -1), front=TORCH
        )
        spec.check_input(shape, dtype_name(x.dtype), REDUCERS["max"]["dtypes"])
        run = pool_runner(
            spec, dtype_name(x.dtype), shape, strides if source else x.stride(), strides
        )
        slice_bytes = shape[1] * strides[1] * x.dtype.itemsize
        steps.append((run, source and source * slice_bytes, target * slice_bytes))
        before, source = kernel, target
    return out_shape, strides, steps


def _spp(x: Tensor, kernel_sizes: list[int]) -> Tensor:
    sizes = tuple(kernel_sizes)
    key = "spp", x.dtype, x.shape, x.stride(), sizes
    shape, strides, steps = _plans.get(key) or _plans.keep(key, _spp_plan(x, sizes))
    out = recycled(x, shape, strides, x.dtype)
    out[:, : x.shape[1]].copy_(x)
    for run, source, target in steps:
        start = out.data_ptr() + source if source else x.data_ptr()
        run(start, out.data_ptr() + target, 0, 0, 0)
    return out


def spp_elsewhere(x: Tensor, kernel_sizes: list[int]) -> Tensor:
    pools = [theirs.max_pool2d(x, kernel, 1, kernel // 2) for kernel in kernel_sizes]
    return torch.cat([x, *pools], -3)


spp = _define(
    "spp", "(Tensor input, int[] kernel_sizes) -> Tensor", _spp, spp_elsewhere, float32=False
)

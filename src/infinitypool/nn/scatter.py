"""Operators that are more than windows over one input.

- ``infinitypool::max_unpool(Tensor input, Tensor indices, SymInt[] output_size) -> Tensor``
- ``infinitypool::fractional_max_pool(Tensor input, int[] kernel_size, SymInt[] output_size,
  Tensor samples) -> Tensor``; ``..._with_indices`` with PyTorch's int64 places; and
  ``..._with_offsets`` with the places inside the windows and where these start, which is what a
  gradient needs
- ``infinitypool::spp(Tensor input, int[] kernel_sizes, bool chained) -> Tensor``: a picture and its
  maxima over windows of these sizes, one behind another along the channels. Chained windows have the
  same maxima, but a gradient takes the way through all of them

As in :mod:`infinitypool.nn.ops`, kernels run on the CPU, and anything else is composed of
PyTorch's operators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as theirs
from torch import Tensor

from .. import _core
from ..fractional import fractional_starts
from ..plan import REDUCERS, Cache, contiguous_strides, pool_runner
from ..spec import TORCH, check_bytes, dtype_of_offsets, pool_spec
from . import windows
from .calls import Note, keep, operands
from .calls import call as native_call
from .ops import dtype_name, memory_order, recycled
from .registry import HALVES, define

_below_autograd = torch._C._AutoDispatchBelowAutograd
_plans = Cache()


def _is_half(*arguments: Any) -> bool:
    """PyTorch computes these in float32 under autocast."""
    return arguments[0].dtype in HALVES


# --- unpooling -----------------------------------------------------------------------------

_SIZES = {1: "L", 2: "H, W", 3: "D, H, W"}


def check_shape(name: str, shape: tuple[int, ...], n: int) -> None:
    """Refuse what has no ``n`` axes behind channels, and empty axes but the batch."""
    if len(shape) not in (n + 1, n + 2) or 0 in shape[-n - 1 :]:
        raise RuntimeError(
            f"{name}: input must have the shape (N, C, {_SIZES[n]}) or (C, {_SIZES[n]}) with no "
            f"empty axis but N, not {tuple(shape)}"
        )


def _unpooled(
    x: Tensor, indices: Tensor, output_size: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape and strides of the result. Refuses what none has."""
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
    return out_shape, contiguous_strides(out_shape, memory_order(n, shape, x.stride(), n == 2))


def _unpool_plan(x: Tensor, indices: Tensor, output_size: tuple[int, ...]) -> Any:
    shape, n = tuple(x.shape), len(output_size)
    out_shape, strides = _unpooled(x, indices, output_size)
    check_bytes(f"max_unpool{n}d", f"output_size={output_size}", out_shape, 8, TORCH)
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


def _unpool_shape(x: Tensor, indices: Tensor, output_size: Any) -> Tensor:
    return x.new_empty_strided(*_unpooled(x, indices, tuple(output_size)))


def _winners(indices: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Indices by planes, and for every place the last of those that point at it, or -1."""
    flat = indices.flatten(1)
    numbers = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    nobody = flat.new_full((flat.shape[0], places), -1)
    return flat, nobody.scatter_reduce(1, flat, numbers, "amax")


def _planes(x: Tensor, n: int) -> Tensor:
    return x.reshape(-1, *x.shape[x.ndim - n :])


def _unpool_composed(x: Tensor, indices: Tensor, output_size: list[int]) -> Tensor:
    """Results fetch their elements: so equal indices have one winner on every device."""
    shape, n = _unpooled(x, indices, tuple(output_size))[0], len(output_size)
    _, winners = _winners(_planes(indices, n), prod(output_size))
    values = _planes(x, n).flatten(1).gather(1, winners.clamp(min=0))
    values = torch.where(winners >= 0, values, torch.zeros((), dtype=x.dtype, device=x.device))
    return values.reshape(shape)


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


def _gathered(
    grad: Tensor, indices: Tensor, size: tuple[int, ...], input_stride: tuple[int, ...]
) -> tuple[int, ...]:
    """The strides of the gradient. Refuses what has none."""
    shape, n = tuple(indices.shape), len(size)
    fits = tuple(grad.shape) == (*shape[:-n], *size) and len(input_stride) == len(shape)
    if not fits or indices.dtype != torch.int64:
        raise RuntimeError(
            f"max_unpool{n}d: the gradient has shape {tuple(grad.shape)}, which int64 indices of "
            f"shape {shape} do not give, but these are {dtype_name(indices.dtype)}"
        )
    return contiguous_strides(shape, memory_order(n, shape, input_stride, n == 2))


def _gather_plan(
    grad: Tensor, indices: Tensor, size: tuple[int, ...], input_stride: tuple[int, ...]
) -> tuple[Any, tuple[int, ...]]:
    """What gathers, if there is something, and the strides of the gradient."""
    strides, shape, n = (
        _gathered(grad, indices, size, input_stride),
        tuple(indices.shape),
        len(size),
    )
    if 0 in shape:
        return None, strides
    axes = [len(shape) - n + i for i in range(n)]
    plan = _core.Unpool(
        grad.dtype.itemsize, shape, strides, indices.stride(), grad.shape, grad.stride(), axes
    )
    return plan, strides


def _unpool_backward(
    grad: Tensor, indices: Tensor, output_size: list[int], input_stride: list[int]
) -> Tensor:
    size, shape = tuple(output_size), tuple(indices.shape)
    key = (
        "backward", grad.dtype, grad.shape, grad.stride(), indices.dtype, shape, indices.stride(),
        size, tuple(input_stride),
    )  # fmt: skip
    found = _plans.get(key)
    if found is None:
        found = _plans.keep(key, _gather_plan(grad, indices, size, tuple(input_stride)))
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


def _gather_shape(grad: Tensor, indices: Tensor, size: Any, stride: Any) -> Tensor:
    return grad.new_empty_strided(
        indices.shape, _gathered(grad, indices, tuple(size), tuple(stride))
    )


def _gather_composed(grad: Tensor, indices: Tensor, size: Any, stride: Any) -> Tensor:
    _gathered(grad, indices, tuple(size), tuple(stride))
    n = len(size)
    flat, winners = _winners(_planes(indices, n), prod(size))
    numbers = torch.arange(flat.shape[1], device=flat.device)
    values = _planes(grad, n).flatten(1).gather(1, flat)
    zero = torch.zeros((), dtype=grad.dtype, device=grad.device)
    return torch.where(winners.gather(1, flat) == numbers, values, zero).reshape(indices.shape)


max_unpool = define(
    "max_unpool",
    "(Tensor input, Tensor indices, SymInt[] output_size) -> Tensor",
    kernel=_unpool,
    shape=_unpool_shape,
    composed=_unpool_composed,
    derivative=_Unpooled.apply,
    float32=_is_half,
)
max_unpool_backward = define(
    "max_unpool_backward",
    "(Tensor grad_output, Tensor indices, SymInt[] output_size, SymInt[] input_stride) -> Tensor",
    kernel=_unpool_backward,
    shape=_gather_shape,
    composed=_gather_composed,
    derivative=_Gathered.apply,
)


def unpooling(size_of: Callable[..., tuple[int, ...]]) -> Callable[..., Any]:
    """The native call of max unpooling: ``call(input, indices, *arguments)``.

    ``size_of(shape, *arguments)`` are the sizes of the unpooled axes.
    """

    def plan(recording: bool, tensors: tuple[Tensor, Tensor], arguments: tuple[Any, ...]) -> Any:
        x, indices = tensors
        if indices.requires_grad:
            return None
        size = tuple(size_of(tuple(x.shape), *arguments))
        native, shape, strides = _unpool_plan(x, indices, size)
        steps = [(native.unpooling(), operands(0, 1, 2))]
        results = [(dtype_name(x.dtype), shape, strides)]
        if not recording:
            return _core.CallPlan(steps, results, 1)
        stride = x.stride()
        note = Note(
            _unpooling_backward(x.dtype, size, stride),
            lambda grad, indices: max_unpool_backward(grad, indices, size, stride),
        )
        return _core.CallPlan(steps, results, 1, keep, [0], [1], note)

    return native_call(plan, 2)


def _unpooling_backward(
    dtype: torch.dtype, size: tuple[int, ...], stride: tuple[int, ...]
) -> Callable[..., Any]:
    """``call(grad, indices)``."""

    def plan(recording: bool, tensors: tuple[Tensor, Tensor], arguments: tuple[Any, ...]) -> Any:
        grad, indices = tensors
        if recording or grad.dtype != dtype:
            return None
        native, strides = _gather_plan(grad, indices, size, stride)
        result = dtype_name(dtype), indices.shape, strides
        return _core.CallPlan([(native.gathering(), operands(0, 1, 2))], [result], 1)

    return native_call(plan, 2)


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
    return torch.from_numpy(starts) if starts.size else torch.empty(starts.shape, dtype=torch.int64)


_SECONDS = {"": "none", "_with_indices": "plane", "_with_offsets": "offset"}


def _fractional_shape(
    x: Tensor, kernel: tuple[int, ...], out: tuple[int, ...], second: str
) -> tuple[tuple[int, ...], torch.dtype | None]:
    """The results' shape, and the dtype of what comes beside values. Refuses what is no window."""
    n, shape = len(kernel), tuple(x.shape)
    name = f"fractional_max_pool{n}d"
    # Ratios of sizes that are symbols are checked when they are numbers.
    numbers = [o for o in out if not isinstance(o, torch.SymInt)]
    if n not in (2, 3) or len(out) != n or min(kernel) < 1 or min(numbers, default=0) < 0:
        raise RuntimeError(f"{name}: kernel_size={kernel} and output_size={out} are no windows")
    check_shape(name, shape, n)
    if not x.is_floating_point():
        raise NotImplementedError(f"{name}: input has dtype {dtype_name(x.dtype)}, not a float's")
    for size, k, o in zip(shape[-n:], kernel, out, strict=True):
        if not isinstance(o, torch.SymInt) and o + k - 1 > size:
            raise RuntimeError(
                f"{name}: an axis of {size} has no room for {o} windows of kernel_size={k}"
            )
    dtype = None
    if second != "none":
        offsets = getattr(torch, dtype_of_offsets(prod(kernel)))
        dtype = torch.int64 if second == "plane" else offsets
    return (*shape[:-n], *out), dtype


def _fractional_plan(
    x: Tensor, kernel: tuple[int, ...], out: tuple[int, ...], second: str
) -> tuple[Any, ...]:
    n, shape = len(kernel), tuple(x.shape)
    out_shape, dtype = _fractional_shape(x, kernel, out, second)
    strides = contiguous_strides(out_shape)
    run = None
    if 0 not in out_shape:
        axes = [len(shape) - n + i for i in range(n)]
        run = _core.Fractional(
            dtype_name(x.dtype), shape, x.stride(), strides, axes, kernel, out, second
        ).run
    return run, out_shape, strides, dtype


def _fractional(second: str, x: Tensor, kernel_size: Any, output_size: Any, samples: Tensor) -> Any:
    """Values; places or offsets beside them; and the windows' starts with those."""
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
    return _asked(second, values, places, starts)


def _asked(second: str, values: Tensor, places: Any, starts: Any) -> Any:
    return {"none": values, "plane": (values, places), "offset": (values, places, starts)}[second]


def _fractional_meta(second: str, x: Tensor, kernel: Any, output_size: Any, samples: Tensor) -> Any:
    n, out = len(kernel), tuple(output_size)
    shape, dtype = _fractional_shape(x, tuple(kernel), out, second)
    _check_samples(f"fractional_max_pool{n}d", x, samples, n)
    starts = x.new_empty((prod(x.shape[:-n]), n, _largest(out)), dtype=torch.int64)
    places = None if dtype is None else x.new_empty(shape, dtype=dtype)
    return _asked(second, x.new_empty(shape), places, starts)


def _largest(sizes: tuple[int, ...]) -> int:
    """The maximum, also of sizes that are symbols."""
    most = sizes[0]
    for size in sizes[1:]:
        most = torch.sym_max(most, size)
    return most


def _starts_composed(
    x: Tensor, kernel: tuple[int, ...], out: tuple[int, ...], samples: Tensor
) -> Tensor:
    """As :func:`infinitypool.fractional.fractional_starts`, in the samples' own arithmetic."""
    n = len(kernel)
    batch = x.shape[0] if x.ndim == n + 2 else 1
    u = samples[:batch].detach().reshape(-1, n)
    if n == 2:
        u = u.flip(-1)  # PyTorch's come as (width, height)
    most, parts = _largest(out), []
    for axis, (size, k, count) in enumerate(zip(x.shape[-n:], kernel, out, strict=True)):
        last = size - k
        number = torch.arange(most, device=u.device)
        # A tensor, so that it is rounded to the samples' precision; one window has no step.
        room = torch.full((), last, dtype=u.dtype, device=u.device)
        alpha = room / torch.full((), torch.sym_max(count - 1, 1), dtype=u.dtype, device=u.device)
        one = u[:, axis, None]
        first = _whole((number.to(u.dtype) + one) * alpha) - _whole(one * alpha)
        first = first.clamp(min=0).minimum(number.new_full((), last))
        first = torch.where(number == count - 1, last, first)
        parts.append(torch.where(number < count, first, 0))
    return torch.stack(parts, 1)


def _whole(x: Tensor) -> Tensor:
    """Towards zero; what no integer can hold becomes 0."""
    return torch.where(x.abs() < 2.0**62, x, torch.zeros_like(x)).long()


def _fractional_composed(
    second: str, x: Tensor, kernel: Any, output_size: Any, samples: Tensor
) -> Any:
    """The elements of every window side by side: the first of equals, the last of NaNs."""
    kernel, out, n = tuple(kernel), tuple(output_size), len(kernel)
    shape, dtype = _fractional_shape(x, kernel, out, "offset")
    _check_samples(f"fractional_max_pool{n}d", x, samples, n)
    starts = _starts_composed(x, kernel, out, samples)
    taps = torch.arange(prod(kernel), device=x.device)
    taps = taps.expand(starts.shape[0], *out, prod(kernel))
    every = _places(taps, starts[..., None], kernel, tuple(x.shape))
    elements = _planes(x, n).flatten(1).gather(1, every.flatten(1)).reshape(every.shape)
    seen = elements.detach()
    first = (seen == seen.amax(-1, True)).to(torch.int32).argmax(-1)
    nans = seen.isnan().flip(-1).to(torch.int32)
    offsets = torch.where(nans.amax(-1) > 0, prod(kernel) - 1 - nans.argmax(-1), first)
    values, places = (t.gather(-1, offsets[..., None]).reshape(shape) for t in (elements, every))
    offsets = offsets.to(dtype).reshape(shape)
    return _asked(second, values, places if second == "plane" else offsets, starts)


class _FractionalWinners(torch.autograd.Function):
    """Keeps the winners' places in their windows, and where the windows start."""

    @staticmethod
    def forward(ctx: Any, second: str, x: Tensor, kernel: Any, out: Any, samples: Tensor) -> Any:
        with _below_autograd():
            values, offsets, starts = fractional[2](x, kernel, out, samples)
        ctx.save_for_backward(offsets, starts)
        ctx.kernel, ctx.shape = tuple(kernel), tuple(x.shape)
        if second == "none":
            return values
        if second == "offset":
            ctx.mark_non_differentiable(offsets, starts)
            return values, offsets, starts
        places = _places(offsets, starts, ctx.kernel, ctx.shape).reshape(values.shape)
        ctx.mark_non_differentiable(places)
        return values, places

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        offsets, starts = ctx.saved_tensors
        places = _places(offsets, starts, ctx.kernel, ctx.shape).flatten(1)
        n = len(ctx.kernel)
        wide = torch.float32 if grad.dtype in HALVES else grad.dtype
        total = grad.new_zeros((starts.shape[0], prod(ctx.shape[-n:])), dtype=wide)
        total = total.scatter_add(1, places, grad.reshape(places.shape).to(wide))
        return None, total.to(grad.dtype).reshape(ctx.shape), None, None, None


def _places(
    offsets: Tensor, starts: Tensor, kernel: tuple[int, ...], shape: tuple[int, ...]
) -> Tensor:
    """Places in the plane, of shape (planes, outputs...), and any axes that starts have behind."""
    n = len(kernel)
    extra = starts.ndim - 3
    out = offsets.shape[offsets.ndim - n - extra : offsets.ndim - extra]
    rest, step = offsets.reshape(starts.shape[0], *offsets.shape[-n - extra :]).long(), 1
    places = torch.zeros_like(rest)
    for i in reversed(range(n)):
        start = starts[:, i, : out[i]]
        start = start.reshape(-1, *(out[i] if j == i else 1 for j in range(n)), *(1,) * extra)
        places = places + (start + rest % kernel[i]) * step
        rest = rest // kernel[i]
        step = step * shape[i - n]
    return places


_FRACTIONAL = "(Tensor input, int[] kernel_size, SymInt[] output_size, Tensor samples) -> "
_RESULTS = "Tensor", "(Tensor, Tensor)", "(Tensor, Tensor, Tensor)"

fractional = [
    define(
        "fractional_max_pool" + suffix,
        _FRACTIONAL + results,
        kernel=partial(_fractional, second),
        shape=partial(_fractional_meta, second),
        composed=partial(_fractional_composed, second),
        derivative=partial(_FractionalWinners.apply, second),
        float32=_is_half,
    )
    for (suffix, second), results in zip(_SECONDS.items(), _RESULTS, strict=True)
]
fractional_max_pool, fractional_max_pool_with_indices, _ = fractional


# --- the chain of maxima -------------------------------------------------------------------


def _spp_laid(x: Tensor, kernel_sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = tuple(x.shape)
    out_shape = (shape[0], shape[1] * (1 + len(kernel_sizes)), *shape[2:])
    return out_shape, contiguous_strides(out_shape, memory_order(2, shape, x.stride(), True))


def _spp_plan(x: Tensor, kernel_sizes: tuple[int, ...]) -> Any:
    """(runner, offset of its input or None for ``x``, offset of its output) for every slice.

    A window of 9 is one of 5 over windows of 5, so each slice is made from the next smaller one.
    """
    shape = tuple(x.shape)
    out_shape, strides = _spp_laid(x, kernel_sizes)
    check_bytes("spp", f"kernel_sizes={kernel_sizes}", out_shape, 8, TORCH)
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


def _spp(x: Tensor, kernel_sizes: list[int], chained: bool) -> Tensor:
    sizes = tuple(kernel_sizes)
    key = "spp", x.dtype, x.shape, x.stride(), sizes
    shape, strides, steps = _plans.get(key) or _plans.keep(key, _spp_plan(x, sizes))
    out = recycled(x, shape, strides, x.dtype)
    out[:, : x.shape[1]].copy_(x)
    for run, source, target in steps:
        start = out.data_ptr() + source if source else x.data_ptr()
        run(start, out.data_ptr() + target, 0, 0, 0)
    return out


def _beside(pool: Callable[..., Tensor], x: Tensor, kernel_sizes: list[int], chained: bool) -> Any:
    parts, before = [x], 1
    for kernel in kernel_sizes:
        if chained:
            kernel, before = kernel - before + 1, kernel
        parts.append(pool(parts[-1] if chained else x, kernel, 1, kernel // 2))
    return torch.cat(parts, 1)


def _spp_shape(x: Tensor, kernel_sizes: list[int], chained: bool) -> Tensor:
    return x.new_empty_strided(*_spp_laid(x, tuple(kernel_sizes)))


spp = define(
    "spp",
    "(Tensor input, int[] kernel_sizes, bool chained) -> Tensor",
    kernel=_spp,
    shape=_spp_shape,
    composed=partial(_beside, theirs.max_pool2d),
    # One byte for every maximum is all that these keep for their gradients.
    derivative=lambda *arguments: _beside(windows.max_pool2d, *arguments),
)

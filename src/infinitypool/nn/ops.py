"""The operators behind the PyTorch front, registered with PyTorch's dispatcher.

For every reducer in :data:`OPERATORS`, e.g. the maximum:

- ``infinitypool::max_pool(Tensor input, str spec) -> Tensor``
- ``infinitypool::max_pool_with_indices``: also int64 places in the plane, as PyTorch's
- ``infinitypool::max_pool_with_offsets``: also the places inside the window, one byte each up to
  256 elements; all that backward needs
- ``infinitypool::max_pool_backward``

``spec`` is :attr:`infinitypool.spec.PoolSpec.text`: one argument that reads like the call and
crosses the dispatcher in a third of the time that lists of integers take.

On the CPU the kernels below run. On any other device, and under transformations that look
through operators, :mod:`infinitypool.nn.elsewhere` composes the result of PyTorch's own
operators.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _core
from ..plan import (
    RECYCLED_BYTES,
    REDUCERS,
    WIDEST,
    Cache,
    backward_runner,
    contiguous_strides,
    pool_runner,
)
from ..spec import TORCH, PoolSpec, spec_from_text
from . import elsewhere

# Reducer to operator name. Everything else follows from the core's table of reducers.
OPERATORS = {"max": "max_pool", "mean": "avg_pool"}

_FORWARD = "(Tensor input, str spec) -> "
_BACKWARD = (
    "(Tensor grad_output, Tensor? offsets, int[] input_size, int[] input_stride, str spec)"
    " -> Tensor"
)

# Where PyTorch's results are channels last if the input is: (reducer, pooled axes). Its
# three-dimensional average gives contiguous results, and so does its one-dimensional maximum
# unless indices or a gradient are asked for.
_FOLLOW_CHANNELS_LAST = {("max", 1), ("mean", 1), ("max", 2), ("mean", 2), ("max", 3)}
_FOLLOW_UNBATCHED = {("max", 3)}
_CONTIGUOUS_ALONE = {("max", 1)}


class _Plan(NamedTuple):
    run: Callable[[int, int, int], None]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    second_dtype: torch.dtype | None  # of the indices or offsets
    small: bool


_plans = Cache()
_grad_enabled = torch.is_grad_enabled
_below_autograd = torch._C._AutoDispatchBelowAutograd
_transforms = torch._C._functorch.peek_interpreter_stack  # torch.func.grad, vmap, ...


# --- plans ---------------------------------------------------------------------------------


def is_channels_last(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether PyTorch takes these (N, C, ...) strides for channels last, dense or not.

    Source: ``is_channels_last_strides_2d`` in c10/core/MemoryFormat.h.
    """
    if strides[1] == 0:
        return False
    least = 0
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[axis] == 0 or strides[axis] < least:
            return False
        if axis == 0 and least == strides[1]:
            return False  # (N, 1, 1, ...): either order would do, PyTorch takes the contiguous
        least = strides[axis] * max(shape[axis], 1)
    return True


def _follows_channels_last(
    spec: PoolSpec, shape: tuple[int, ...], strides: tuple[int, ...], alone: bool
) -> bool:
    """Whether results for such an input are laid out channels last; ``alone`` means values only."""
    kind = spec.reducer, len(spec.axes)
    if kind not in _FOLLOW_CHANNELS_LAST or alone and kind in _CONTIGUOUS_ALONE:
        return False
    if len(shape) == len(spec.axes) + 1:
        if kind not in _FOLLOW_UNBATCHED:
            return False
        shape, strides = (1, *shape), (shape[0] * strides[0], *strides)
    if len(shape) == 3:  # PyTorch looks at a sequence as a picture one row high
        shape = (*shape[:2], 1, shape[2])
        strides = (*strides[:2], shape[3] * strides[2], strides[2])
    return is_channels_last(shape, strides)


def _make_plan(
    runner: Callable[..., Callable[[int, int, int], None]],
    spec: PoolSpec,
    shape: tuple[int, ...],
    like: tuple[tuple[int, ...], tuple[int, ...], bool],
    dtype: torch.dtype,
    second_dtype: torch.dtype | None = None,
) -> _Plan:
    """A plan for results of this ``shape``, laid out as :func:`_follows_channels_last`
    says for the input ``like``.
    """
    order = list(range(len(shape)))
    if _follows_channels_last(spec, *like):
        order.append(order.pop(-len(spec.axes) - 1))
    strides = contiguous_strides(shape, order)
    itemsize = max(dtype.itemsize, second_dtype.itemsize if second_dtype else 0)
    small = prod(shape) * itemsize < RECYCLED_BYTES
    return _Plan(runner(strides), shape, strides, dtype, second_dtype, small)


def _spec(reducer: str, text: str) -> PoolSpec:
    spec = spec_from_text(text)
    trailing = tuple(range(-len(spec.axes), 0))
    if spec.reducer != reducer or spec.front is not TORCH or spec.axes != trailing:
        raise ValueError(f"{OPERATORS[reducer]}: spec {text!r} belongs to another operator")
    return spec


def _forward_plan(reducer: str, x: Tensor, text: str, indices: str) -> _Plan:
    spec = _spec(reducer, text)
    dtype = _name(x.dtype)
    shape, strides = tuple(x.shape), x.stride()
    spec.check_input(shape, dtype, REDUCERS[spec.reducer]["dtypes"])
    return _make_plan(
        lambda out_strides: pool_runner(spec, dtype, shape, strides, out_strides, indices),
        spec,
        spec.output_shape(shape, WIDEST),
        (shape, strides, indices == "none"),
        x.dtype,
        {
            "none": None,
            "plane": torch.int64,
            "offset": getattr(torch, spec.offset_dtype),
        }[indices],
    )


def _backward_plan(
    reducer: str,
    grad: Tensor,
    offsets: Tensor | None,
    size: list[int],
    stride: list[int],
    text: str,
) -> _Plan:
    spec = _spec(reducer, text)
    dtype = _name(grad.dtype)
    if not grad.dtype.is_floating_point:
        raise NotImplementedError(f"{spec.function}: no gradient of dtype {dtype}")
    if len(size) != len(stride):
        raise RuntimeError(f"{spec.function}: input_size and input_stride differ in length")
    spec.check_input(size, dtype, REDUCERS[spec.reducer]["dtypes"])
    shape = spec.output_shape(size, WIDEST)
    if tuple(grad.shape) != shape:
        raise RuntimeError(
            f"{spec.function}: the gradient has shape {tuple(grad.shape)}, the result {shape}"
        )
    offset_strides: tuple[int, ...] = ()
    if REDUCERS[spec.reducer]["indices"]:
        wanted = spec.offset_dtype
        if offsets is None or tuple(offsets.shape) != shape or _name(offsets.dtype) != wanted:
            raise RuntimeError(
                f"{spec.function}: backward needs the forward call's offsets, {wanted} of shape "
                f"{shape}"
            )
        offset_strides = offsets.stride()
    return _make_plan(
        lambda strides: backward_runner(
            spec, dtype, tuple(size), grad.stride(), offset_strides, strides
        ),
        spec,
        tuple(size),
        (tuple(size), tuple(stride), False),
        grad.dtype,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- the CPU kernels -----------------------------------------------------------------------


def _recycled(x: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> Tensor:
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < RECYCLED_BYTES:
        return x.new_empty_strided(shape, strides, dtype=dtype)
    # In place: a view could not be changed in place by whoever receives it.
    return torch.frombuffer(_core.Block(nbytes), dtype=dtype).as_strided_(shape, strides)


def _forward_kernel(reducer: str, extra: str) -> Callable[[Tensor, str], Any]:
    def values(x: Tensor, text: str) -> Tensor:
        key = reducer, text, x.dtype, x.shape, x.stride()
        plan = _plans.get(key)
        if plan is None:
            plan = _plans.keep(key, _forward_plan(reducer, x, text, "none"))
        run, shape, strides, dtype, _, small = plan
        if small:
            out = x.new_empty_strided(shape, strides)
        else:
            out = _recycled(x, shape, strides, dtype)
        run(x.data_ptr(), out.data_ptr(), 0, 0, 0)
        return out

    def values_and_more(x: Tensor, text: str) -> tuple[Tensor, Tensor]:
        key = reducer, text, x.dtype, x.shape, x.stride(), extra
        plan = _plans.get(key)
        if plan is None:
            plan = _plans.keep(key, _forward_plan(reducer, x, text, extra))
        out = _recycled(x, plan.shape, plan.strides, plan.dtype)
        second = _recycled(x, plan.shape, plan.strides, plan.second_dtype)
        plan.run(x.data_ptr(), out.data_ptr(), second.data_ptr(), 0, 0)
        return out, second

    return values if extra == "none" else values_and_more


def _backward_kernel(reducer: str) -> Callable[..., Tensor]:
    def backward(
        grad: Tensor, offsets: Tensor | None, size: list[int], stride: list[int], text: str
    ) -> Tensor:
        key = (
            reducer, text, grad.dtype, grad.shape, grad.stride(), tuple(size), tuple(stride),
            None if offsets is None else (offsets.dtype, offsets.shape, offsets.stride()),
        )  # fmt: skip
        plan = _plans.get(key)
        if plan is None:
            plan = _plans.keep(key, _backward_plan(reducer, grad, offsets, size, stride, text))
        out = _recycled(grad, plan.shape, plan.strides, plan.dtype)
        plan.run(
            grad.data_ptr(), 0 if offsets is None else offsets.data_ptr(), out.data_ptr(), 0, 0
        )
        return out

    return backward


# --- autograd ------------------------------------------------------------------------------


class Operator(NamedTuple):
    """One reducer's operators: forward by what they give beside the values, and backward."""

    forward: dict[str, Callable[..., Any]]
    backward: Callable[..., Any]


class _Differentiable(torch.autograd.Function):
    """Pooling with a gradient. Keeps the compact offsets where the reducer has a winner.

    Nothing else is kept: not the input, and for an average nothing at all.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, text: str, operator: Operator, extra: str
    ) -> Tensor | tuple[Tensor, Tensor]:
        ctx.operator, ctx.text, ctx.size, ctx.stride = operator, text, x.shape, x.stride()
        with _below_autograd():
            if "offset" not in operator.forward:
                return operator.forward[extra](x, text)
            values, second = operator.forward["offset"](x, text)
            ctx.save_for_backward(second)
            if extra == "none":
                return values
            if extra != "offset":
                second = operator.forward[extra](x, text)[1]
        ctx.mark_non_differentiable(second)
        return values, second

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
        offsets = ctx.saved_tensors[0] if ctx.saved_tensors else None
        result = ctx.operator.backward(grad, offsets, ctx.size, ctx.stride, ctx.text)
        return result, None, None, None


class _Once(torch.autograd.Function):
    """The gradient, where somebody asks for a graph through it. The place of its derivative."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, overload: Callable[..., Any], *rest: Any) -> Tensor:
        ctx.text = rest[-1]
        return overload(grad, *rest)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        raise NotImplementedError(
            f"{ctx.text.split()[0]}: the gradient is not differentiable a second time"
        )


def call(overload: Callable[..., Any], x: Tensor, text: str) -> Any:
    """Call a forward operator, past its autograd kernel where no gradient is asked for.

    That kernel would come to the same; going through it costs two microseconds.
    """
    if x.requires_grad and _grad_enabled() or forward_ad._current_level >= 0:
        return overload(x, text)
    with _below_autograd():
        return overload(x, text)


def _autograd_kernel(operator: Operator, extra: str) -> Callable[[Tensor, str], Any]:
    overload, other = operator.forward[extra], elsewhere.POOL[extra]

    def kernel(x: Tensor, text: str) -> Any:
        forward_mode = forward_ad._current_level >= 0
        if x.requires_grad and _grad_enabled() or forward_mode:
            if other is not None and (forward_mode or _transforms() is not None):
                return other(x, text)  # derivatives of other kinds are PyTorch's
            return _Differentiable.apply(x, text, operator, extra)
        with _below_autograd():
            return overload(x, text)

    return kernel


def _autograd_kernel_of_backward(overload: Callable[..., Any]) -> Callable[..., Tensor]:
    def kernel(grad: Tensor, *rest: Any) -> Tensor:
        if grad.requires_grad and _grad_enabled():
            return _Once.apply(grad, overload, *rest)
        with _below_autograd():
            return overload(grad, *rest)

    return kernel


# Functions that PyTorch runs in float32 under autocast on the CPU.
_AUTOCAST_FLOAT32 = {"max_pool3d", "avg_pool3d"}
_below_autocast = torch._C._ExcludeDispatchKeyGuard
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def _autocast_kernel(overload: Callable[..., Any]) -> Callable[[Tensor, str], Any]:
    def kernel(x: Tensor, text: str) -> Any:
        if x.dtype in (torch.float16, torch.bfloat16) and text.split()[0] in _AUTOCAST_FLOAT32:
            x = x.float()
        with _below_autocast(_AUTOCAST):
            return overload(x, text)

    return kernel


# --- registration --------------------------------------------------------------------------

# What a forward operator gives beside the values: the end of its name, and its results.
_FORMS = {
    "none": ("", "Tensor"),
    "plane": ("_with_indices", "(Tensor, Tensor)"),
    "offset": ("_with_offsets", "(Tensor, Tensor)"),
}


def _register(library: torch.library.Library, reducer: str, name: str) -> Operator:
    """Define and implement one reducer's operators.

    This is the place for what other parts of PyTorch want to know about an operator, such as
    its shape function or its batching rule.
    """

    def define(name: str, schema: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        library.define(name + schema)
        library.impl(name, kernel, "CPU")
        return getattr(getattr(torch.ops, library.ns), name).default

    backward = define(f"{name}_backward", _BACKWARD, _backward_kernel(reducer))
    library.impl(f"{name}_backward", _autograd_kernel_of_backward(backward), "AutogradCPU")
    operator = Operator({}, backward)
    for extra, (suffix, results) in _FORMS.items():
        if extra == "none" or REDUCERS[reducer]["indices"]:
            overload = define(name + suffix, _FORWARD + results, _forward_kernel(reducer, extra))
            operator.forward[extra] = overload
            library.impl(name + suffix, _autograd_kernel(operator, extra), "AutogradCPU")
            library.impl(name + suffix, _autocast_kernel(overload), "AutocastCPU")
            if elsewhere.POOL[extra] is not None:
                library.impl(name + suffix, elsewhere.POOL[extra], "CompositeImplicitAutograd")
    return operator


_library = torch.library.Library("infinitypool", "DEF")
OPS = {reducer: _register(_library, reducer, name) for reducer, name in OPERATORS.items()}

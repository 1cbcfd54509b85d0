"""The operators behind the PyTorch front, registered with PyTorch's dispatcher.

For every reducer of the core, e.g. the maximum:

- ``infinitypool::max_pool(Tensor input, str spec) -> Tensor``
- ``infinitypool::max_pool_with_indices``: also int64 places in the plane, as PyTorch's
- ``infinitypool::max_pool_with_offsets``: also the places inside the window, one byte each up to
  256 elements; all that backward needs
- ``infinitypool::max_pool_backward``

``spec`` is :attr:`infinitypool.spec.PoolSpec.text`: one argument that reads like the call and
crosses the dispatcher in a third of the time that lists of integers take. Adaptive windows are
specs like others. A reducer that draws takes an ``int seed`` behind the spec.

On the CPU the kernels below run. On any other device, and under transformations that look
through operators, :mod:`infinitypool.nn.elsewhere` composes the result of PyTorch's own
operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
OPERATORS = {
    reducer: "avg_pool" if reducer == "mean" else f"{reducer}_pool" for reducer in REDUCERS
}

# Reducers that draw take a seed.
_SEEDED = {"stochastic"}

_FORWARD = "(Tensor input, str spec{}) -> "
_BACKWARD = (
    "(Tensor grad_output, Tensor? offsets, int[] input_size, int[] input_stride, str spec,"
    " Tensor? input=None, Tensor? result=None) -> Tensor"
)

# Where PyTorch's results are contiguous though the input is channels last. All others follow.
_CONTIGUOUS = {
    "avg_pool3d", "lp_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
}  # fmt: skip
_CONTIGUOUS_ALONE = {"max_pool1d"}  # unless indices or a gradient are asked for
_FOLLOW_UNBATCHED = {"max_pool3d", "max_pool3d_with_indices"}


class _Plan(NamedTuple):
    run: Callable[[int, int, int, int, int], None] | None  # none for the gradient of nothing
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    second_dtype: torch.dtype | None  # of the indices or offsets
    small: bool


_plans = Cache()
_UINT64 = 2**64 - 1
_grad_enabled = torch.is_grad_enabled
_below_autograd = torch._C._AutoDispatchBelowAutograd
transforms = torch._C._functorch.peek_interpreter_stack  # torch.func.grad, vmap, ...


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


def memory_order(
    n: int, shape: tuple[int, ...], strides: tuple[int, ...], follow: bool, unbatched: bool = False
) -> list[int]:
    """The axes of a result from outermost to innermost, where such an input has ``n`` pooled ones.

    Channels last if it is to ``follow`` and the input is; without a batch only if ``unbatched``.
    """
    order = list(range(len(shape)))
    if not follow or len(shape) == n + 1 and not unbatched:
        return order
    if len(shape) == n + 1:
        shape, strides = (1, *shape), (shape[0] * strides[0], *strides)
    if len(shape) == 3:  # PyTorch looks at a sequence as a picture one row high
        shape = (*shape[:2], 1, shape[2])
        strides = (*strides[:2], shape[3] * strides[2], strides[2])
    if is_channels_last(shape, strides):
        order.append(order.pop(-n - 1))
    return order


def _order(
    spec: PoolSpec, shape: tuple[int, ...], strides: tuple[int, ...], alone: bool
) -> list[int]:
    """The same for a window's operation; ``alone`` means values only."""
    name = spec.function
    follow = name not in _CONTIGUOUS and not (alone and name in _CONTIGUOUS_ALONE)
    return memory_order(len(spec.axes), shape, strides, follow, name in _FOLLOW_UNBATCHED)


def _make_plan(
    runner: Callable[..., Callable[[int, int, int], None]],
    spec: PoolSpec,
    shape: tuple[int, ...],
    like: tuple[tuple[int, ...], tuple[int, ...], bool],
    dtype: torch.dtype,
    second_dtype: torch.dtype | None = None,
) -> _Plan:
    """A plan for results of this ``shape``, laid out as :func:`_order` says for the input ``like``."""
    strides = contiguous_strides(shape, _order(spec, *like))
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
    dtype = dtype_name(x.dtype)
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
            "offset": getattr(torch, spec.offset_dtype_for(_pooled_sizes(spec, shape))),
        }[indices],
    )


def _pooled_sizes(spec: PoolSpec, shape: Sequence[int]) -> list[int]:
    return [shape[axis] for axis in spec.axes]


def _backward_plan(
    reducer: str,
    grad: Tensor,
    offsets: Tensor | None,
    size: list[int],
    stride: list[int],
    text: str,
    x: Tensor | None,
    result: Tensor | None,
) -> _Plan:
    spec = _spec(reducer, text)
    dtype = dtype_name(grad.dtype)
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
    gradient = gradient_of(text)
    weighted = gradient == "weighted"
    if weighted:
        for tensor, wanted_shape in ((x, tuple(size)), (result, shape)):
            if tensor is None or tuple(tensor.shape) != wanted_shape or tensor.dtype != grad.dtype:
                raise RuntimeError(
                    f"{spec.function}: backward needs the forward call's input and result, {dtype} "
                    f"of shapes {tuple(size)} and {shape}"
                )
    if gradient == "winner":
        wanted = spec.offset_dtype_for(_pooled_sizes(spec, size))
        if offsets is None or tuple(offsets.shape) != shape or dtype_name(offsets.dtype) != wanted:
            raise RuntimeError(
                f"{spec.function}: backward needs the forward call's offsets, {wanted} of shape "
                f"{shape}"
            )
        offset_strides = offsets.stride()
    return _make_plan(
        lambda strides: (
            None
            if 0 in shape
            else backward_runner(
                spec,
                dtype,
                tuple(size),
                grad.stride(),
                offset_strides,
                strides,
                *((x.stride(), result.stride()) if weighted else ()),
            )
        ),
        spec,
        tuple(size),
        (tuple(size), tuple(stride), False),
        grad.dtype,
    )


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- the CPU kernels -----------------------------------------------------------------------


def recycled(x: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> Tensor:
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < RECYCLED_BYTES:
        return x.new_empty_strided(shape, strides, dtype=dtype)
    # In place: a view could not be changed in place by whoever receives it.
    return torch.frombuffer(_core.Block(nbytes), dtype=dtype).as_strided_(shape, strides)


def _forward_kernel(reducer: str, extra: str) -> Callable[..., Any]:
    def values(x: Tensor, text: str, seed: int = 0) -> Tensor:
        key = reducer, text, x.dtype, x.shape, x.stride()
        plan = _plans.get(key)
        if plan is None:
            plan = _plans.keep(key, _forward_plan(reducer, x, text, "none"))
        run, shape, strides, dtype, _, small = plan
        if small:
            out = x.new_empty_strided(shape, strides)
        else:
            out = recycled(x, shape, strides, dtype)
        run(x.data_ptr(), out.data_ptr(), 0, 0, seed & _UINT64)
        return out

    def values_and_more(x: Tensor, text: str, seed: int = 0) -> tuple[Tensor, Tensor]:
        key = reducer, text, x.dtype, x.shape, x.stride(), extra
        plan = _plans.get(key)
        if plan is None:
            plan = _plans.keep(key, _forward_plan(reducer, x, text, extra))
        out = recycled(x, plan.shape, plan.strides, plan.dtype)
        second = recycled(x, plan.shape, plan.strides, plan.second_dtype)
        plan.run(x.data_ptr(), out.data_ptr(), second.data_ptr(), 0, seed & _UINT64)
        return out, second

    return values if extra == "none" else values_and_more


def _backward_kernel(reducer: str) -> Callable[..., Tensor]:
    def backward(
        grad: Tensor,
        offsets: Tensor | None,
        size: list[int],
        stride: list[int],
        text: str,
        x: Tensor | None = None,
        result: Tensor | None = None,
    ) -> Tensor:
        saved = offsets, x, result
        key = (
            reducer, text, grad.dtype, grad.shape, grad.stride(), tuple(size), tuple(stride),
            *[None if t is None else (t.dtype, t.shape, t.stride()) for t in saved],
        )  # fmt: skip
        plan = _plans.get(key)
        if plan is None:
            plan = _backward_plan(reducer, grad, offsets, size, stride, text, x, result)
            _plans.keep(key, plan)
        out = recycled(grad, plan.shape, plan.strides, plan.dtype)
        if not grad.numel():
            return out.zero_()
        places, elements, results = [0 if t is None else t.data_ptr() for t in saved]
        plan.run(grad.data_ptr(), places, out.data_ptr(), elements, results)
        return out

    return backward


# --- autograd ------------------------------------------------------------------------------


class Operator(NamedTuple):
    """One reducer's operators: forward by what they give beside the values, and backward."""

    forward: dict[str, Callable[..., Any]]
    backward: Callable[..., Any]


_gradients = Cache()


def gradient_of(text: str) -> str:
    """Where the gradient of an operation goes: "winner", "even" or "weighted"."""
    gradient = _gradients.get(text)
    if gradient is None:
        spec = spec_from_text(text)
        row = REDUCERS[spec.reducer]
        named = dict(zip(row["parameters"], spec.parameters, strict=False))
        drawn = named.get("expectation") == 0  # a draw selects, its expectation does not
        gradient = _gradients.keep(text, "winner" if drawn else row["gradient"])
    return gradient


class _Differentiable(torch.autograd.Function):
    """Pooling with a gradient. Keeps what that needs and nothing else.

    For a winner its place in the window, for a weighted sum the input and the result, and
    nothing at all for a mean.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, text: str, operator: Operator, extra: str, *seed: int
    ) -> Tensor | tuple[Tensor, Tensor]:
        ctx.operator, ctx.text, ctx.size, ctx.stride = operator, text, x.shape, x.stride()
        ctx.gradient = gradient_of(text)
        with _below_autograd():
            if ctx.gradient != "winner":
                values = operator.forward[extra](x, text, *seed)
                if ctx.gradient == "weighted":
                    ctx.save_for_backward(x, values)
                return values
            values, second = operator.forward["offset"](x, text, *seed)
            ctx.save_for_backward(second)
            if extra == "none":
                return values
            if extra != "offset":
                second = operator.forward[extra](x, text, *seed)[1]
        ctx.mark_non_differentiable(second)
        return values, second

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
        winner = ctx.gradient == "winner"
        offsets = ctx.saved_tensors[0] if winner else None
        rest = () if winner else ctx.saved_tensors
        result = ctx.operator.backward(grad, offsets, ctx.size, ctx.stride, ctx.text, *rest)
        return result, *(None,) * (len(ctx.needs_input_grad) - 1)


class _Once(torch.autograd.Function):
    """The gradient, where somebody asks for a graph through it. The place of its derivative."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, overload: Callable[..., Any], *rest: Any) -> Tensor:
        ctx.text = next(item for item in rest if isinstance(item, str))
        return overload(grad, *rest)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        raise NotImplementedError(
            f"{ctx.text.split()[0]}: the gradient is not differentiable a second time"
        )


def call(overload: Callable[..., Any], x: Tensor, text: str, *seed: int) -> Any:
    """Call a forward operator, past its autograd kernel where no gradient is asked for.

    That kernel would come to the same; going through it costs two microseconds.
    """
    if x.requires_grad and _grad_enabled() or forward_ad._current_level >= 0:
        return overload(x, text, *seed)
    with _below_autograd():
        return overload(x, text, *seed)


def _autograd_kernel(operator: Operator, extra: str) -> Callable[..., Any]:
    overload, other = operator.forward[extra], elsewhere.POOL[extra]

    def kernel(x: Tensor, text: str, *seed: int) -> Any:
        forward_mode = forward_ad._current_level >= 0
        if x.requires_grad and _grad_enabled() or forward_mode:
            if other is not None and (forward_mode or transforms() is not None):
                return other(x, text, *seed)  # derivatives of other kinds are PyTorch's
            return _Differentiable.apply(x, text, operator, extra, *seed)
        with _below_autograd():
            return overload(x, text, *seed)

    return kernel


def _autograd_kernel_of_backward(overload: Callable[..., Any]) -> Callable[..., Tensor]:
    def kernel(*arguments: Any) -> Tensor:
        if _grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments):
            return _Once.apply(arguments[0], overload, *arguments[1:])
        with _below_autograd():
            return overload(*arguments)

    return kernel


# Functions that PyTorch runs in float32 under autocast on the CPU.
_AUTOCAST_FLOAT32 = {
    "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices", "lp_pool3d",
}  # fmt: skip
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
HALVES = (torch.float16, torch.bfloat16)


def below_autocast() -> Any:
    """What runs in here sees nothing of autocast."""
    return torch._C._ExcludeDispatchKeyGuard(_AUTOCAST)


def _autocast_kernel(overload: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(x: Tensor, text: str, *seed: int) -> Any:
        if x.dtype in HALVES and text.split()[0] in _AUTOCAST_FLOAT32:
            x = x.float()
        with below_autocast():
            return overload(x, text, *seed)

    return kernel


# --- registration --------------------------------------------------------------------------

library = torch.library.Library("infinitypool", "DEF")


def define(
    name: str,
    schema: str,
    kernel: Callable[..., Any],
    other: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Define an operator: its kernel on the CPU, and what it is composed of elsewhere.

    This is the place for what other parts of PyTorch want to know about an operator, such as
    its shape function or its batching rule.
    """
    library.define(name + schema)
    library.impl(name, kernel, "CPU")
    if other is not None:
        library.impl(name, other, "CompositeImplicitAutograd")
    return getattr(torch.ops.infinitypool, name).default


# What a forward operator gives beside the values: the end of its name, and its results.
_FORMS = {
    "none": ("", "Tensor"),
    "plane": ("_with_indices", "(Tensor, Tensor)"),
    "offset": ("_with_offsets", "(Tensor, Tensor)"),
}


def _register(reducer: str, name: str) -> Operator:
    """Define and implement one reducer's operators."""
    backward = define(f"{name}_backward", _BACKWARD, _backward_kernel(reducer))
    library.impl(f"{name}_backward", _autograd_kernel_of_backward(backward), "AutogradCPU")
    operator = Operator({}, backward)
    forward = _FORWARD.format(", int seed" if reducer in _SEEDED else "")
    for extra, (suffix, results) in _FORMS.items():
        if extra == "none" or REDUCERS[reducer]["indices"]:
            kernel = _forward_kernel(reducer, extra)
            overload = define(name + suffix, forward + results, kernel, elsewhere.POOL[extra])
            operator.forward[extra] = overload
            library.impl(name + suffix, _autograd_kernel(operator, extra), "AutogradCPU")
            library.impl(name + suffix, _autocast_kernel(overload), "AutocastCPU")
    return operator


OPS = {reducer: _register(reducer, name) for reducer, name in OPERATORS.items()}

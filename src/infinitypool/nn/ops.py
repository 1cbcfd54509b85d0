"""The operators behind the PyTorch front, registered with PyTorch's dispatcher.

For every reducer of the core, e.g. the maximum:

- ``infinitypool::max_pool(Tensor input, str spec) -> Tensor``
- ``infinitypool::max_pool_with_indices``: also int64 places in the plane, as PyTorch's
- ``infinitypool::max_pool_with_offsets``: also the places inside the window, one byte each up to
  256 elements; all that backward needs
- ``infinitypool::max_pool_backward``

``spec`` is :attr:`infinitypool.spec.PoolSpec.text`: one argument that reads like the call and
crosses the dispatcher in a third of the time that lists of integers take. Adaptive windows are
specs like others. A reducer that draws takes a ``Tensor? seed`` behind the spec, one int64 number.

On the CPU the kernels below run. On any other device, and under transformations that look
through operators, :mod:`infinitypool.nn.elsewhere` composes the result of PyTorch's own
operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
from . import elsewhere, exporting
from .calls import Note, keep, operands, work_of
from .calls import call as native_call
from .registry import HALVES, define

# Reducer to operator name. Everything else follows from the core's table of reducers.
OPERATORS = {
    reducer: "avg_pool" if reducer == "mean" else f"{reducer}_pool" for reducer in REDUCERS
}

# Reducers that draw take a seed.
_SEEDED = {"stochastic"}
# Where backward computes the result again: PyTorch's does not keep it either, so an activation behind
# it may write into it.
_COMPUTED_AGAIN = {"lp"}

_FORWARD = "(Tensor input, str spec{}) -> "
_BACKWARD = (
    "(Tensor grad_output, Tensor? offsets, SymInt[] input_size, SymInt[] input_stride, str spec,"
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
        least = strides[axis] * (shape[axis] or 1)
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


class _Result(NamedTuple):
    """What a result looks like."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    second_dtype: torch.dtype | None = None  # of the indices or offsets

    def plan(self, run: Callable[..., None] | None) -> _Plan:
        itemsize = max(self.dtype.itemsize, self.second_dtype.itemsize if self.second_dtype else 0)
        return _Plan(run, *self, prod(self.shape) * itemsize < RECYCLED_BYTES)


def _spec(reducer: str, text: str) -> PoolSpec:
    spec = spec_from_text(text)
    trailing = tuple(range(-len(spec.axes), 0))
    if spec.reducer != reducer or spec.front is not TORCH or spec.axes != trailing:
        raise ValueError(f"{OPERATORS[reducer]}: spec {text!r} belongs to another operator")
    return spec


def _forward_result(spec: PoolSpec, x: Tensor, indices: str) -> _Result:
    """Refuse what the operation does not take. Sizes may be symbols."""
    shape, strides = tuple(x.shape), x.stride()
    spec.check_input(shape, dtype_name(x.dtype), REDUCERS[spec.reducer]["dtypes"])
    out_shape = spec.output_shape(shape, WIDEST)
    order = _order(spec, shape, strides, indices == "none")
    second = None
    if indices == "plane":
        second = torch.int64
    elif indices == "offset":
        second = getattr(torch, spec.offset_dtype_for(_pooled_sizes(spec, shape)))
    return _Result(out_shape, contiguous_strides(out_shape, order), x.dtype, second)


def _forward_plan(reducer: str, x: Tensor, text: str, indices: str) -> _Plan:
    spec = _spec(reducer, text)
    result = _forward_result(spec, x, indices)
    dtype = dtype_name(x.dtype)
    return result.plan(
        pool_runner(spec, dtype, tuple(x.shape), x.stride(), result.strides, indices)
    )


def _forward_shape(reducer: str, extra: str) -> Callable[..., Any]:
    def shape(x: Tensor, text: str, seed: Tensor | None = None) -> Any:
        result = _forward_result(_spec(reducer, text), x, extra)
        values = x.new_empty_strided(result.shape, result.strides)
        if extra == "none":
            return values
        return values, x.new_empty_strided(result.shape, result.strides, dtype=result.second_dtype)

    return shape


def _pooled_sizes(spec: PoolSpec, shape: Sequence[int]) -> list[int]:
    return [shape[axis] for axis in spec.axes]


def _backward_result(
    spec: PoolSpec,
    grad: Tensor,
    offsets: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    gradient: str,
    x: Tensor | None,
    result: Tensor | None,
) -> _Result:
    """Refuse what does not belong to one forward call. Sizes may be symbols."""
    dtype = dtype_name(grad.dtype)
    if not grad.dtype.is_floating_point:
        raise NotImplementedError(f"{spec.function}: no gradient of dtype {dtype}")
    if gradient == "between":
        raise NotImplementedError(f"{spec.function}: no gradient of what lies between two elements")
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride):
        raise RuntimeError(f"{spec.function}: input_size and input_stride differ in length")
    spec.check_input(size, dtype, REDUCERS[spec.reducer]["dtypes"])
    shape = spec.output_shape(size, WIDEST)
    if tuple(grad.shape) != shape:
        raise RuntimeError(
            f"{spec.function}: the gradient has shape {tuple(grad.shape)}, the result {shape}"
        )
    if gradient == "weighted":
        given = ((x, size),) if result is None else ((x, size), (result, shape))
        for tensor, wanted_shape in given:
            if tensor is None or tuple(tensor.shape) != wanted_shape or tensor.dtype != grad.dtype:
                raise RuntimeError(
                    f"{spec.function}: backward needs the forward call's input and result, {dtype} "
                    f"of shapes {size} and {shape}"
                )
    if gradient == "winner":
        wanted = spec.offset_dtype_for(_pooled_sizes(spec, size))
        if offsets is None or tuple(offsets.shape) != shape or dtype_name(offsets.dtype) != wanted:
            raise RuntimeError(
                f"{spec.function}: backward needs the forward call's offsets, {wanted} of shape "
                f"{shape}"
            )
    return _Result(size, contiguous_strides(size, _order(spec, size, stride, False)), grad.dtype)


def _backward_plan(
    reducer: str,
    grad: Tensor,
    offsets: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    text: str,
    x: Tensor | None,
    result: Tensor | None,
) -> _Plan:
    spec, gradient = _spec(reducer, text), gradient_of(text)
    found = _backward_result(spec, grad, offsets, size, stride, gradient, x, result)
    if not grad.numel():
        return found.plan(None)
    layouts: tuple[Sequence[int], ...] = ()
    if gradient == "weighted":
        like = result.stride() if result is not None else _forward_result(spec, x, "none").strides
        layouts = x.stride(), like
    return found.plan(
        backward_runner(
            spec,
            dtype_name(grad.dtype),
            found.shape,
            grad.stride(),
            offsets.stride() if gradient == "winner" else (),
            found.strides,
            *layouts,
        )
    )


def _backward_shape(reducer: str) -> Callable[..., Tensor]:
    def shape(
        grad: Tensor,
        offsets: Tensor | None,
        size: Sequence[int],
        stride: Sequence[int],
        text: str,
        x: Tensor | None = None,
        result: Tensor | None = None,
    ) -> Tensor:
        spec = _spec(reducer, text)
        found = _backward_result(spec, grad, offsets, size, stride, gradient_of(text), x, result)
        return grad.new_empty_strided(found.shape, found.strides)

    return shape


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
    def values(x: Tensor, text: str, seed: Tensor | None = None) -> Tensor:
        key = reducer, text, x.dtype, x.shape, x.stride()
        plan = _plans.get(key)
        if plan is None:
            plan = _plans.keep(key, _forward_plan(reducer, x, text, "none"))
        run, shape, strides, dtype, _, small = plan
        if small:
            out = x.new_empty_strided(shape, strides)
        else:
            out = recycled(x, shape, strides, dtype)
        run(x.data_ptr(), out.data_ptr(), 0, 0, 0 if seed is None else seed.item() & _UINT64)
        return out

    def values_and_more(x: Tensor, text: str, seed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        key = reducer, text, x.dtype, x.shape, x.stride(), extra
        plan = _plans.get(key)
        if plan is None:
            plan = _plans.keep(key, _forward_plan(reducer, x, text, extra))
        out = recycled(x, plan.shape, plan.strides, plan.dtype)
        second = recycled(x, plan.shape, plan.strides, plan.second_dtype)
        number = 0 if seed is None else seed.item() & _UINT64
        plan.run(x.data_ptr(), out.data_ptr(), second.data_ptr(), 0, number)
        return out, second

    return values if extra == "none" else values_and_more


def _backward_kernel(reducer: str) -> Callable[..., Tensor]:
    again = _forward_kernel(reducer, "none")

    def backward(
        grad: Tensor,
        offsets: Tensor | None,
        size: list[int],
        stride: list[int],
        text: str,
        x: Tensor | None = None,
        result: Tensor | None = None,
    ) -> Tensor:
        if x is not None and result is None:
            result = again(x, text)
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


# --- derivatives ---------------------------------------------------------------------------


class Operator(NamedTuple):
    """One reducer's operators: forward by what they give beside the values, and backward."""

    forward: dict[str, Callable[..., Any]]
    backward: Callable[..., Any]


_gradients = Cache()


def gradient_of(text: str) -> str:
    """Where the gradient of an operation goes: "winner", "even" or "weighted".

    Or "between", to two elements of a window, for which there is no kernel.
    """
    gradient = _gradients.get(text)
    if gradient is None:
        spec = spec_from_text(text)
        row = REDUCERS[spec.reducer]
        named = dict(zip(row["parameters"], spec.parameters, strict=False))
        gradient = row["gradient"]
        if named.get("expectation") == 0:  # a draw selects, its expectation does not
            gradient = "winner"
        elif named.get("method") == 0:  # linear
            gradient = "between"
        _gradients.keep(text, gradient)
    return gradient


def _is_computed_again(text: str) -> bool:
    return spec_from_text(text).reducer in _COMPUTED_AGAIN


class _Pooled(torch.autograd.Function):
    """Pooling with a gradient. Keeps what that needs and nothing else.

    For a winner its place in the window, for a weighted sum the input and mostly the result, and
    nothing at all for a mean.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, text: str, operator: Operator, extra: str, *seed: Tensor | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        ctx.operator, ctx.text, ctx.size, ctx.stride = operator, text, x.shape, x.stride()
        ctx.gradient = gradient_of(text)
        with _below_autograd():
            if ctx.gradient != "winner":
                values = operator.forward[extra](x, text, *seed)
                if ctx.gradient == "weighted":
                    ctx.save_for_backward(x, *(() if _is_computed_again(text) else (values,)))
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


class _Spread(torch.autograd.Function):
    """The gradient of a winner or a mean, which is linear: its own takes the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        operator: Operator,
        offsets: Tensor | None,
        size: Sequence[int],
        stride: Sequence[int],
        text: str,
    ) -> Tensor:
        ctx.operator, ctx.text, ctx.size = operator, text, size
        ctx.save_for_backward(offsets)
        with _below_autograd():
            return operator.backward(grad, offsets, size, stride, text)

    @staticmethod
    def backward(ctx: Any, twice: Tensor) -> tuple[Tensor | None, ...]:
        (offsets,) = ctx.saved_tensors
        if offsets is None:
            again = ctx.operator.forward["none"](twice, ctx.text)
        else:
            again = elsewhere.winners(twice, offsets, ctx.size, ctx.text)
        return again, None, None, None, None, None


def call(overload: Callable[..., Any], x: Tensor, text: str, *seed: Tensor | None) -> Any:
    """Call a forward operator, past its autograd kernel where no gradient is asked for.

    That kernel would come to the same; going through it costs two microseconds.
    """
    if x.requires_grad and _grad_enabled() or forward_ad._current_level >= 0:
        return overload(x, text, *seed)
    with _below_autograd():
        return overload(x, text, *seed)


# --- batches of calls ----------------------------------------------------------------------


def _batched(overload: Callable[..., Any]) -> Callable[..., Any]:
    """Windows do not look beyond their plane, so a batch of calls is a call with more planes."""

    def rule(info: Any, in_dims: tuple[int | None, ...], x: Tensor, text: str) -> Any:
        x = x.movedim(in_dims[0], 0)
        planes = len(spec_from_text(text).axes) + 1
        batch = x.shape[:-planes]
        found = overload(x.flatten(0, -planes - 1), text)
        if isinstance(found, tuple):
            return tuple(part.unflatten(0, batch) for part in found), (0,) * len(found)
        return found.unflatten(0, batch), 0

    return rule


# --- registration --------------------------------------------------------------------------

# Functions that PyTorch runs in float32 under autocast on the CPU.
_AUTOCAST_FLOAT32 = {
    "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices", "lp_pool3d",
}  # fmt: skip


def _in_float32(x: Tensor, text: str, *seed: Tensor | None) -> bool:
    return x.dtype in HALVES and text.split()[0] in _AUTOCAST_FLOAT32


# What a forward operator gives beside the values: the end of its name, and its results.
_FORMS = {
    "none": ("", "Tensor"),
    "plane": ("_with_indices", "(Tensor, Tensor)"),
    "offset": ("_with_offsets", "(Tensor, Tensor)"),
}


def _register(reducer: str, name: str) -> Operator:
    """Define one reducer's operators."""

    def spread(grad: Tensor, *rest: Any) -> Tensor:
        return _Spread.apply(grad, operator, *rest[:4])

    operator = Operator(
        {},
        define(
            f"{name}_backward",
            _BACKWARD,
            kernel=_backward_kernel(reducer),
            shape=_backward_shape(reducer),
            composed=elsewhere.pool_backward,
            derivative=spread if REDUCERS[reducer]["gradient"] != "weighted" else None,
        ),
    )
    seeded = reducer in _SEEDED
    forward = _FORWARD.format(", Tensor? seed=None" if seeded else "")

    def recorded(extra: str, x: Tensor, text: str, *seed: Tensor | None) -> Any:
        if gradient_of(text) == "between":
            return elsewhere.POOL[extra](x, text, *seed)
        return _Pooled.apply(x, text, operator, extra, *seed)

    for extra, (suffix, results) in _FORMS.items():
        if extra == "none" or REDUCERS[reducer]["indices"]:
            operator.forward[extra] = define(
                name + suffix,
                forward + results,
                kernel=_forward_kernel(reducer, extra),
                shape=_forward_shape(reducer, extra),
                composed=elsewhere.POOL[extra],
                derivative=partial(recorded, extra),
                batched=None if seeded else _batched,
                float32=_in_float32,
                exported=exporting.EXPORTED[extra],
            )
    return operator


OPS = {reducer: _register(reducer, name) for reducer, name in OPERATORS.items()}


# --- the short way -------------------------------------------------------------------------


def pooling(reducer: str, extra: str, text_of: Callable[..., str]) -> Callable[..., Any]:
    """The native call of a reducer's operator: ``call(input, *arguments)``.

    ``extra`` says what the results are beside the values, and ``text_of(*arguments)`` is the spec's.
    """

    def plan(recording: bool, tensors: tuple[Tensor], arguments: tuple[Any, ...]) -> Any:
        (x,), text = tensors, text_of(*arguments)
        gradient = gradient_of(text) if recording else "none"
        forms = [extra]
        if gradient == "winner" and extra != "offset":
            forms = ["offset"] if extra == "none" else [extra, "offset"]
        steps, results = [], []
        for form in forms:
            found = _forward_plan(reducer, x, text, form)
            layout = found.shape, found.strides
            if not results:
                results.append((dtype_name(found.dtype), *layout))
            second = -1
            if found.second_dtype is not None:
                results.append((dtype_name(found.second_dtype), *layout))
                second = len(results)
            steps.append((work_of(found.run), operands(0, 1, second, -1)))
        returned = 1 if extra == "none" else 2
        if not recording:
            return _core.CallPlan(steps, results, returned)
        case = reducer, text, x, gradient
        kept = {"winner": [len(results)], "weighted": [0, 1]}.get(gradient, [])
        if reducer in _COMPUTED_AGAIN:
            kept = [0]
        return _core.CallPlan(
            steps,
            results,
            returned,
            keep,
            [0],
            kept,
            Note(_pooling_backward(*case, len(kept)), _pooling_backward_at_length(*case)),
        )

    return native_call(plan, 1)


def _pooling_backward(
    reducer: str, text: str, x: Tensor, gradient: str, kept: int
) -> Callable[..., Any]:
    """``call(grad)``, and behind it what was kept."""
    size, stride = x.shape, x.stride()

    def plan(recording: bool, tensors: tuple[Tensor, ...], arguments: tuple[Any, ...]) -> Any:
        if recording:
            return None
        grad, *saved = tensors
        found = _backward_plan(reducer, grad, *_arguments(gradient, saved, size, stride, text))
        steps, results = [], [(dtype_name(found.dtype), found.shape, found.strides)]
        if gradient == "winner":
            places = 0, 1, 2, -1, -1
        elif gradient != "weighted":
            places = 0, -1, 1, -1, -1
        elif kept == 2:
            places = 0, -1, 3, 1, 2
        else:
            places = 0, -1, 2, 1, 3
            again = _forward_plan(reducer, saved[0], text, "none")
            steps.append((work_of(again.run), operands(1, 3, -1, -1)))
            results.append((dtype_name(again.dtype), again.shape, again.strides))
        steps.append((work_of(found.run), operands(*places)))
        return _core.CallPlan(steps, results, 1)

    return native_call(plan, 1 + kept)


def _pooling_backward_at_length(
    reducer: str, text: str, x: Tensor, gradient: str
) -> Callable[..., Tensor]:
    """The same through the dispatcher."""
    size, stride = x.shape, x.stride()

    def backward(grad: Tensor, *saved: Tensor) -> Tensor:
        return OPS[reducer].backward(grad, *_arguments(gradient, saved, size, stride, text))

    return backward


def _arguments(gradient: str, saved: Sequence[Tensor], *rest: Any) -> tuple[Any, ...]:
    """The arguments of backward behind the gradient: size, stride and text among what was kept."""
    if gradient == "winner":
        return *saved, *rest, None, None
    x, result = (*saved, None, None)[:2]
    return None, *rest, x, result

"""The short way: calls that the native core answers by itself, without PyTorch's dispatcher.

On a small tensor the way through the dispatcher takes longer than the work. A native call reads its
tensors, looks its plan up, makes the results and runs the kernel in one step; it answers None where
something is unusual, and the caller takes the long way. A call takes the short way only where
nobody could tell the difference: ordinary tensors on the CPU with elements, no mode, transformation,
profiler or trace that looks at operators, no forward derivatives, and no autocast of halves.

Where a gradient is to be recorded, the native call computes first and then hands over what
backward needs to a :class:`torch.autograd.Function`, which only keeps it.

Tensors are read and made through DLPack's C functions, which PyTorch has since 2.9. With an older
one every call answers None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from .. import _core
from ..plan import contiguous_strides
from . import norm_ops, ops, scatter
from .ops import dtype_name, memory_order

is_tracing = torch.compiler.is_dynamo_compiling
"""Whether ``torch.compile`` reads the code, to which native calls say nothing."""

Layout = tuple[str, Sequence[int], Sequence[int]]
"""A result: its dtype's name, shape and strides."""


def _set_up() -> bool:
    exchange = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if exchange is None:
        return False
    C = torch._C
    return _core.set_up_calls(
        exchange=exchange,
        types=[Tensor, torch.nn.Parameter],
        size=torch.Size,
        requires_grad=Tensor.requires_grad,
        quiet=[
            (C._is_torch_function_mode_enabled, (), False),
            (C._len_torch_dispatch_stack, (), 0),
            (C._functorch.peek_interpreter_stack, (), None),
            (C._is_tracing, (), False),
        ],
        variables=[
            (vars(forward_ad), "_current_level", -1),
            (vars(profiler), "_is_profiler_enabled", False),
        ],
        of_halves=[(torch.is_autocast_enabled, ("cpu",), False)],
        of_tensors=[(Tensor.is_neg, (), False)],
        of_offsets=[(Tensor._is_zerotensor, (), False)],
        grad_enabled=torch.is_grad_enabled,
    )


try:
    READY = _set_up()
except (AttributeError, TypeError):  # a PyTorch that is asked in other ways
    READY = False


def call(plan: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """A native call of so many tensors (or None) and then arguments: Python's own values.

    ``plan(recording, tensors, arguments)`` is asked once for each key, which is all there is to know
    of these. It returns a :class:`infinitypool._core.CallPlan`, or None for the long way, as does
    whatever it raises: the long way says what is wrong.
    """

    def planned(recording: bool, tensors: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
        try:
            return plan(recording, tensors, arguments)
        except Exception:
            return None

    return _core.Call(planned, tensors)


def apply_of(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """A function's ``apply`` without its look at transformations: a call has seen that there is none."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


# --- pooling -------------------------------------------------------------------------------


class _Note(NamedTuple):
    """How backward of one plan goes: by a native call, or the long way."""

    short: Callable[..., Any]
    long: Callable[..., Any]


class _Pooled(torch.autograd.Function):
    """Keeps what pooling has left for its gradient."""

    forward = _core.keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None = None) -> Any:
        if grad is None:
            return None, None
        note, saved = ctx.note, ctx.saved_tensors
        found = note.short(grad, *saved)
        return note.long(grad, *saved) if found is None else found, None


_pooled = apply_of(_Pooled)


def pooling(reducer: str, extra: str, text_of: Callable[..., str]) -> Callable[..., Any]:
    """The native call of a reducer's operator: ``call(input, *arguments)``.

    ``extra`` says what the results are beside the values, and ``text_of(*arguments)`` is the spec's.
    """

    def plan(recording: bool, tensors: tuple[Tensor], arguments: tuple[Any, ...]) -> Any:
        (x,), text = tensors, text_of(*arguments)
        gradient = ops.gradient_of(text) if recording else "none"
        forms = [extra]
        if gradient == "winner" and extra != "offset":
            forms = ["offset"] if extra == "none" else [extra, "offset"]
        steps, results = [], []
        for form in forms:
            found = ops._forward_plan(reducer, x, text, form)
            layout = found.shape, found.strides
            if not results:
                results.append((dtype_name(found.dtype), *layout))
            second = -1
            if found.second_dtype is not None:
                results.append((dtype_name(found.second_dtype), *layout))
                second = len(results)
            steps.append((_work(found.run), _operands(0, 1, second, -1)))
        returned = 1 if extra == "none" else 2
        if not recording:
            return _core.CallPlan(steps, results, returned)
        case = reducer, text, x, gradient
        return _core.CallPlan(
            steps,
            results,
            returned,
            _pooled,
            [0],
            {"winner": [len(results)], "weighted": [0, 1]}.get(gradient, []),
            _Note(_pooling_backward(*case), _pooling_backward_at_length(*case)),
        )

    return call(plan, 1)


def _pooling_backward(reducer: str, text: str, x: Tensor, gradient: str) -> Callable[..., Any]:
    """``call(grad)``, and behind it the offsets of winners, or input and result if it is weighted."""
    size, stride = x.shape, x.stride()

    def plan(recording: bool, tensors: tuple[Tensor, ...], arguments: tuple[Any, ...]) -> Any:
        if recording:
            return None
        grad, *saved = tensors
        found = ops._backward_plan(reducer, grad, *_places(saved, size, stride, text))
        places = {"winner": (0, 1, 2, -1, -1), "weighted": (0, -1, 3, 1, 2)}
        operands = _operands(*places.get(gradient, (0, -1, 1, -1, -1)))
        result = dtype_name(found.dtype), found.shape, found.strides
        return _core.CallPlan([(_work(found.run), operands)], [result], 1)

    return call(plan, {"winner": 2, "weighted": 3}.get(gradient, 1))


def _pooling_backward_at_length(
    reducer: str, text: str, x: Tensor, gradient: str
) -> Callable[..., Tensor]:
    """The same through the dispatcher."""
    size, stride = x.shape, x.stride()

    def backward(grad: Tensor, *saved: Tensor) -> Tensor:
        return ops.OPS[reducer].backward(grad, *_places(saved, size, stride, text))

    return backward


def _places(saved: Sequence[Tensor], *rest: Any) -> tuple[Any, ...]:
    """The arguments of a pooling's backward behind the gradient."""
    if len(saved) == 2:
        return None, *rest, *saved
    return (saved[0] if saved else None), *rest, None, None


# --- norms ---------------------------------------------------------------------------------

# The places of a call's tensors, and of its first result.
_X, _RESIDUAL, _WEIGHT, _BIAS, _MEAN, _VAR, _OUT = range(7)


class _NormNote(NamedTuple):
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
        if not norm_ops.takes(text, x, residual, weight):
            return None
        if recording:
            norm_ops._check_running(text, mean, var)
        found = norm_ops._forward_plan(text, tensors, momentum is not None)
        if found.native is None:
            return None
        results = [(dtype_name(x.dtype), found.shape, found.strides)]
        returned, source = 1, _X
        if residual is not None:
            returned, source = 2, _OUT + 1
            results *= 2
        if mean is not None and momentum is None:
            work = found.native.applying()
            operands = _operands(_X, _OUT, _WEIGHT, _BIAS, _MEAN, _VAR)
            saved = {0: _X, 1: _WEIGHT, 2: _BIAS, 4: _MEAN, 5: _VAR}
        else:
            rows, regions = found.statistics
            kept = -1
            if recording:
                kept = _OUT + len(results)
                results.append(("float64", (rows, regions), (regions, 1)))
            work = found.native.normalizing(momentum or 0.0)
            total = -1 if residual is None else source
            operands = [
                *_operands(_X, _RESIDUAL, _OUT, total, _WEIGHT, _BIAS),
                (kept if rows == 2 else -1, 0),
                (kept, 8 * regions * (rows - 1)),
                *_operands(_MEAN, _VAR),
            ]
            saved = {0: source, 1: _WEIGHT, 2: _BIAS, 3: kept}
        steps = [(work, operands)]
        if not recording:
            return _core.CallPlan(steps, results, returned)
        passed = [p for p in (_X, _RESIDUAL, _WEIGHT, _BIAS) if tensors[p] is not None]
        saved = {i: p for i, p in saved.items() if p >= _OUT or tensors[p] is not None}
        note = _NormNote(
            passed, list(saved), _norm_backward(text), partial(_norm_backward_at_length, text)
        )
        return _core.CallPlan(steps, results, returned, _normed, passed, list(saved.values()), note)

    return call(plan, 6)


def _norm_backward(text: str) -> Callable[..., Any]:
    """``call(grad, input, weight, bias, statistics, mean, var, *wanted)``."""

    def plan(recording: bool, saved: tuple[Any, ...], wanted: tuple[Any, ...]) -> Any:
        _, x, weight, bias, statistics, *_ = saved
        found = None if recording else norm_ops._backward_plan(text, saved)
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
        moments = _operands(5, 6) if given else [(4, 0), (4, 8 * regions * (rows - 1))]
        operands = [*_operands(1, 0, places[0], 2, 3), *moments, *_operands(*places[1:])]
        return _core.CallPlan(
            [(found.native.differentiating(given), operands)], results, len(results)
        )

    return call(plan, 7)


def _norm_backward_at_length(text: str, grad: Tensor, saved: Any, wanted: Any) -> Any:
    """The same through the dispatcher."""
    return norm_ops._gradients(text, (grad, *saved), list(wanted), False)


# --- unpooling -----------------------------------------------------------------------------


class _Unpooled(torch.autograd.Function):
    """Keeps the indices."""

    forward = _core.keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        note, (indices,) = ctx.note, ctx.saved_tensors
        found = note.short(grad, indices)
        return note.long(grad, indices) if found is None else found, None


_unpooled = apply_of(_Unpooled)


def unpooling(size_of: Callable[..., tuple[int, ...]]) -> Callable[..., Any]:
    """The native call of max unpooling: ``call(input, indices, *arguments)``.

    ``size_of(shape, *arguments)`` are the sizes of the unpooled axes.
    """

    def plan(recording: bool, tensors: tuple[Tensor, Tensor], arguments: tuple[Any, ...]) -> Any:
        x, indices = tensors
        if indices.requires_grad:
            return None
        size = tuple(size_of(tuple(x.shape), *arguments))
        native, shape, strides = scatter._unpool_plan(x, indices, size)
        steps = [(native.unpooling(), _operands(0, 1, 2))]
        results = [(dtype_name(x.dtype), shape, strides)]
        if not recording:
            return _core.CallPlan(steps, results, 1)
        note = _Note(
            _unpooling_backward(shape, x, size),
            lambda grad, indices: scatter.max_unpool_backward(grad, indices, size, stride),
        )
        stride = x.stride()
        return _core.CallPlan(steps, results, 1, _unpooled, [0], [1], note)

    return call(plan, 2)


def _unpooling_backward(
    grad_shape: Sequence[int], x: Tensor, size: tuple[int, ...]
) -> Callable[..., Any]:
    """``call(grad, indices)``."""
    shape, dtype, n = tuple(x.shape), x.dtype, len(size)
    strides = contiguous_strides(shape, memory_order(n, shape, x.stride(), n == 2))
    axes = [len(shape) - n + i for i in range(n)]

    def plan(recording: bool, tensors: tuple[Tensor, Tensor], arguments: tuple[Any, ...]) -> Any:
        grad, indices = tensors
        if recording or grad.dtype != dtype or tuple(grad.shape) != tuple(grad_shape):
            return None
        if indices.dtype != torch.int64 or tuple(indices.shape) != shape:
            return None
        native = _core.Unpool(
            dtype.itemsize, shape, strides, indices.stride(), grad.shape, grad.stride(), axes
        )
        result = dtype_name(dtype), shape, strides
        return _core.CallPlan([(native.gathering(), _operands(0, 1, 2))], [result], 1)

    return call(plan, 2)


# --- dropout -------------------------------------------------------------------------------


class _Dropped(torch.autograd.Function):
    """Keeps the seed."""

    forward = _core.keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        note, (seed,) = ctx.note, ctx.saved_tensors
        found = note.short(grad, seed)
        return note.long(grad, seed) if found is None else found, None


_dropped = apply_of(_Dropped)


def dropping(
    native: Callable[..., Any], channels: Callable[..., Any], back: Callable[..., Tensor]
) -> Callable[..., Any]:
    """The native call of dropout: ``call(input, seed, p, axes)`` with a seed of int64, shape ().

    Args:
        native: ``native(dtype, p, linear)`` is the core's kernel, without what it adds if
            ``linear``, and whether it adds something
        channels: ``channels(input, axes)`` is the core's plan that scales channels
        back: ``back(grad, seed, p, axes, stride)`` is the gradient, the long way
    """

    def steps(x: Tensor, p: float, axes: int, linear: bool) -> list[Any]:
        if not axes:
            kernel, _ = native(x.dtype, p, linear)
            return [(kernel.dropping(x.numel()), _operands(0, -1, 2))]
        kernel, adds = native(torch.float64, p, linear)
        work = kernel.dropping_channels(channels(x, axes), prod(x.shape[:axes]), adds)
        return [(work, _operands(0, 2))]

    def plan(recording: bool, tensors: tuple[Tensor, Tensor], arguments: tuple[Any, ...]) -> Any:
        (x, seed), (p, axes) = tensors, arguments
        if x.dtype not in _FLOATS or seed.dtype != torch.int64 or seed.ndim or not _is_dense(x):
            return None
        stride = x.stride()
        result = dtype_name(x.dtype), x.shape, stride
        if not recording:
            return _core.CallPlan(steps(x, p, axes, False), [result], 1, seed=1)

        def plan_back(recording: bool, tensors: tuple[Tensor, Tensor], _: Any) -> Any:
            grad = tensors[0]
            if recording or grad.stride() != stride:
                return None
            return _core.CallPlan(steps(grad, p, axes, True), [result], 1, seed=1)

        note = _Note(call(plan_back, 2), lambda grad, seed: back(grad, seed, p, axes, stride))
        return _core.CallPlan(
            steps(x, p, axes, False), [result], 1, _dropped, [0], [1], note, seed=1
        )

    return call(plan, 2)


_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _is_dense(x: Tensor) -> bool:
    """Whether nothing lies between the elements, in the order in which a result would have them."""
    return x.is_contiguous() or torch.empty_like(x, device="meta").stride() == x.stride()


# --- what plans are made of ----------------------------------------------------------------


def _work(run: Any) -> Any:
    """What a native plan does, of its method that takes addresses."""
    return run.__self__.work()


def _operands(*places: int) -> list[tuple[int, int]]:
    return [(place, 0) for place in places]

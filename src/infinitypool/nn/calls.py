"""The short way: calls that the native core answers by itself, without PyTorch's dispatcher.

On a small tensor the way through the dispatcher takes longer than the work. A native call reads its
tensors, looks its plan up, makes the results and runs the kernel in one step; it answers None where
something is unusual, and the caller takes the long way. A call takes the short way only where
nobody could tell the difference: ordinary tensors on the CPU with elements, no mode, transformation,
profiler or trace that looks at operators, no forward derivatives, and no autocast of halves.

Where a gradient is to be recorded, the native call computes first and then hands over what
backward needs to a :class:`torch.autograd.Function`, which only keeps it.

What is called stands beside its operators: ``pooling`` in :mod:`infinitypool.nn.ops`, ``norming`` in
``norm_ops``, ``unpooling`` in ``scatter``, ``dropping`` in ``dropout_ops``.

Tensors are read and made through DLPack's C functions, which PyTorch has since 2.9. With an older
one every call answers None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from .. import _core


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


class Note(NamedTuple):
    """How backward of one plan goes: by a native call, or the long way."""

    short: Callable[..., Any]
    long: Callable[..., Any]


class _Kept(torch.autograd.Function):
    """Keeps what a plan has left for the gradient of its one tensor that may have one."""

    forward = _core.keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None = None) -> Any:
        if grad is None:
            return None, None
        note, saved = ctx.note, ctx.saved_tensors
        found = note.short(grad, *saved)
        return note.long(grad, *saved) if found is None else found, None


keep = apply_of(_Kept)


# --- what plans are made of ----------------------------------------------------------------


def work_of(run: Any) -> Any:
    """What a native plan does, of its method that takes addresses."""
    return run.__self__.work()


def operands(*places: int) -> list[tuple[int, int]]:
    """Addresses of tensors and results, by their places; -1 is none."""
    return [(place, 0) for place in places]

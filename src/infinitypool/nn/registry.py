"""What an operator is to PyTorch: one registration says it all.

PyTorch asks an operator many questions: what it computes, of which shape its result is, what its
derivatives are, what it does to a batch of calls, under autocast, or where it must be written with
the operators of others. :func:`define` takes the answers together and hands them to the
dispatcher, so no operator can lack one. Most follow from its composition, which is therefore not
optional: the same result, of PyTorch's own operators, for tensors of any device and with sizes that
may be symbols.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._decomp import register_decomposition
from torch.autograd import forward_ad

library = torch.library.Library("infinitypool", "DEF")

HALVES = (torch.float16, torch.bfloat16)
_STRIDES = (torch.Tag.needs_fixed_stride_order,)
if hasattr(torch.Tag, "needs_exact_strides"):  # what newer compilers assume of any operator
    _STRIDES = (torch.Tag.needs_exact_strides,)

_below_autograd = torch._C._AutoDispatchBelowAutograd
_grad_enabled = torch.is_grad_enabled
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
transforms = torch._C._functorch.peek_interpreter_stack  # torch.func.grad, vmap, ...

# Whether code is not executed but read, by ``torch.compile`` or a strict ``torch.export``. There native
# plans and their caches are out of sight: constants are worked out at once, and all else is operators.
is_tracing = torch.compiler.is_dynamo_compiling

Body = Callable[..., Any]


class Operator(NamedTuple):
    """What :func:`define` was told."""

    overload: Body
    kernel: Body
    shape: Body
    composed: Body
    derivative: Body | None


OPERATORS: dict[str, Operator] = {}
"""Every operator by its name. The tests go through it."""


def define(
    name: str,
    schema: str,
    *,
    kernel: Body,
    shape: Body,
    composed: Body,
    derivative: Body | None = None,
    batched: Callable[[Body], Body] | None = None,
    float32: Callable[..., bool] | None = None,
    exported: Body | None = None,
) -> Body:
    """Define an operator and return what calls it. All bodies take its arguments.

    Args:
        name, schema: as ``infinitypool::name`` is registered
        kernel: the results, of tensors on the CPU
        shape: results without data, of tensors without data: shape, strides and dtype are those
            that the kernel would give. Sizes may be symbols
        composed: the results, of PyTorch's own operators: on other devices, for derivatives in
            forward mode and under transformations, and for derivatives where there is no
            ``derivative``. No transformation of ``torch.func`` may occur in it
        derivative: the results with the gradient recorded, on the CPU and without data
        batched: from what calls the operator to its batching rule, with the signature of
            :func:`torch.library.register_vmap`'s; by default that of what it is composed of
        float32: whether autocast on the CPU computes these arguments' half precisions in float32
        exported: what exporters write in its place, if not ``composed``
    """
    library.define(name + schema, tags=_STRIDES)
    overload = getattr(torch.ops.infinitypool, name).default
    library.impl(name, _checked(kernel), "CPU")
    library.impl(name, composed, "CompositeExplicitAutograd")
    meta = _called_by_inductor(f"infinitypool::{name}", shape)
    torch.library.register_fake(f"infinitypool::{name}", meta, lib=library)
    if batched is None:  # PyTorch's operators know what to do with batches
        library.impl(name, composed, "FuncTorchBatched")
    else:
        torch.library.register_vmap(f"infinitypool::{name}", batched(overload), lib=library)
    library.impl(name, _autograd(overload, composed, derivative), "Autograd")
    library.impl(name, _autocast(overload, float32), "AutocastCPU")
    # Exporters read the first; the second keeps tensors without data from reading it, too.
    register_decomposition(overload)(_plain(exported or composed))
    register_decomposition(overload, type="meta")(meta)
    OPERATORS[name] = Operator(overload, kernel, shape, composed, derivative)
    return overload


def check_memory(*tensors: Any) -> None:
    """Refuse a tensor whose memory was given back, which has elements, but no address."""
    for tensor in tensors:
        if isinstance(tensor, Tensor) and not tensor.data_ptr() and tensor.numel():
            raise RuntimeError(
                f"a tensor of shape {tuple(tensor.shape)} has no memory: its storage was freed"
            )


def _checked(kernel: Body) -> Body:
    def checked(*arguments: Any) -> Any:
        check_memory(*arguments)
        return kernel(*arguments)

    return checked


def _called_by_inductor(name: str, shape: Body) -> Body:
    """``shape``, which a compiler asks before it writes the call.

    Exporters find a decomposition of the operator. Where the environment sets ``CI``, Inductor takes
    that for a fallback somebody forgot, and fails, unless it knows that the operator is to be called.
    """

    def meta(*arguments: Any) -> Any:
        lowering = sys.modules.get("torch._inductor.lowering")
        if hasattr(lowering, "FALLBACK_ALLOW_LIST"):
            lowering.FALLBACK_ALLOW_LIST.add(name)
        return shape(*arguments)

    return meta


def _plain(body: Body) -> Body:
    """A function, which PyTorch wants to look into where other bodies would do."""
    return lambda *arguments: body(*arguments)


def constant_result(function: Body) -> Body:
    """Mark a function whose result, of constants, is worked out where ``torch.compile`` meets it.

    As :func:`torch.compiler.assume_constant_result`, whose import of the compiler takes seconds.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_recorded(*arguments: Any) -> bool:
    """Whether one of these is a tensor whose operations are recorded."""
    return _grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)


def _may_vary(argument: Any) -> bool:
    return isinstance(argument, Tensor) and (argument.is_floating_point() or argument.is_complex())


def _autograd(overload: Body, composed: Body, derivative: Body | None) -> Body:
    def kernel(*arguments: Any) -> Any:
        forward_mode = forward_ad._current_level >= 0 and any(map(_may_vary, arguments))
        if forward_mode or is_recorded(*arguments):
            by_pytorch = derivative is None or forward_mode or transforms() is not None
            if by_pytorch or not (arguments[0].is_cpu or arguments[0].is_meta):
                return composed(*arguments)
            return derivative(*arguments)
        with _below_autograd():
            return overload(*arguments)

    return kernel


def below_autocast() -> Any:
    """What runs in here sees nothing of autocast."""
    return torch._C._ExcludeDispatchKeyGuard(_AUTOCAST)


def _autocast(overload: Body, float32: Callable[..., bool] | None) -> Body:
    def kernel(*arguments: Any) -> Any:
        if float32 is not None and float32(*arguments):
            arguments = tuple(
                a.float() if isinstance(a, Tensor) and a.dtype in HALVES else a for a in arguments
            )
        with below_autocast():
            return overload(*arguments)

    return kernel

"""Dropout: elements or whole channels that a draw keeps or drops.

- ``infinitypool::dropout(Tensor input, float p, int seed, int axes) -> Tensor``, and
  ``alpha_dropout``; ``..._`` in place; ``..._backward`` for their gradients
- ``infinitypool::dropout_add(Tensor input, Tensor residual, float p, int seed) -> Tensor``

A draw depends on the seed and on the element's number alone, so that nothing but the seed is kept
for the gradient. With ``axes`` 0 every element has a draw of its own, numbered in memory order;
otherwise the first ``axes`` axes are kept or dropped as a whole. As in
:mod:`infinitypool.nn.ops`, kernels run on the CPU. Elsewhere the functions are PyTorch's.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from math import prod, sqrt
from typing import Any, NamedTuple

import torch
import torch.nn.functional as theirs
from torch import Generator, Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.overrides import handle_torch_function, has_torch_function

from .. import _core
from ..plan import RECYCLED_BYTES, Cache, contiguous_strides
from .kinds import public
from .ops import define, dtype_name, library, recycled, transforms

__all__ = [
    "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "DropoutAdd",
    "FeatureAlphaDropout",
]  # fmt: skip

_below_autograd = torch._C._AutoDispatchBelowAutograd
_grad_enabled = torch.is_grad_enabled
_profiler_enabled = torch._C._autograd._profiler_enabled
_has_storage = torch._C._has_storage  # not so what vmap hands out
_natives, _plans = Cache(), Cache()
_UINT64 = 2**64 - 1
_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_NO_DISPATCH = torch._C._disabled_torch_dispatch_impl
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


def _dense_strides(x: Tensor) -> tuple[int, ...]:
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
    out: Tensor, x: Tensor, residual: Tensor | None, p: float, seed: int, alpha: bool, linear: bool
) -> Tensor:
    """Elements of dense tensors, all in the same order."""
    _native(x.dtype, p, alpha, linear).run(
        x.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        out.data_ptr(),
        x.numel(),
        seed & _UINT64,
    )
    return out


def _numbers(
    count: int, p: float, seed: int, alpha: bool, linear: bool
) -> tuple[Tensor, Tensor | None]:
    """A factor for each channel, and what is added."""
    factors = torch.empty(count, dtype=torch.float64, device="cpu")
    offsets = torch.empty_like(factors) if alpha and not linear and p < 1 else None
    if type(factors) is not Tensor:  # a mode that has shapes alone
        return factors, offsets
    _native(torch.float64, p, alpha, linear).factors(
        factors.data_ptr(), 0 if offsets is None else offsets.data_ptr(), count, seed & _UINT64
    )
    return factors, offsets


def _channels(
    out: Tensor, x: Tensor, p: float, seed: int, axes: int, alpha: bool, linear: bool
) -> Tensor:
    """Whole channels of dense tensors, which the first axes number."""
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
    factors, offsets = _numbers(prod(shape[:axes]), p, seed, alpha, linear)
    added = 0 if offsets is None else offsets.data_ptr()
    plan.scale(x.data_ptr(), out.data_ptr(), factors.data_ptr(), added)
    return out


def _forward(alpha: bool, x: Tensor, p: float, seed: int, axes: int) -> Tensor:
    strides = _dense_strides(x)
    x = _dense(x, strides)
    out = _empty(x, strides)
    if axes:
        return _channels(out, x, p, seed, axes, alpha, False)
    return _each(out, x, None, p, seed, alpha, False)


def _forward_inplace(alpha: bool, x: Tensor, p: float, seed: int, axes: int) -> Tensor:
    dense = _dense(x, _dense_strides(x))
    if axes:
        _channels(dense, dense, p, seed, axes, alpha, False)
    else:
        _each(dense, dense, None, p, seed, alpha, False)
    if dense is not x:
        return x.copy_(dense)
    if not x.is_inference():
        increment_version(x)
    return x


def _backward(
    alpha: bool, grad: Tensor, p: float, seed: int, axes: int, stride: list[int]
) -> Tensor:
    """The same with a gradient of any layout: elements are numbered as the result's were."""
    strides = tuple(stride)
    out = _empty(grad, strides)
    if grad.stride() != strides:
        grad = out.copy_(grad)
    if axes:
        return _channels(out, grad, p, seed, axes, alpha, True)
    return _each(out, grad, None, p, seed, alpha, True)


def _add(x: Tensor, residual: Tensor, p: float, seed: int) -> Tensor:
    if x.shape != residual.shape or x.dtype != residual.dtype:
        raise RuntimeError(
            f"dropout_add: residual has shape {tuple(residual.shape)} and dtype "
            f"{dtype_name(residual.dtype)}, the input {tuple(x.shape)} and {dtype_name(x.dtype)}"
        )
    strides = _dense_strides(x)
    x = _dense(x, strides)
    out = _empty(x, strides)
    if residual.stride() != strides:
        residual = out.copy_(residual)
    return _each(out, x, residual, p, seed, False, False)


# --- elsewhere -----------------------------------------------------------------------------


def _composed(
    alpha: bool,
    x: Tensor,
    p: float,
    seed: int,
    axes: int,
    stride: tuple[int, ...] | None = None,
    linear: bool = False,
) -> Tensor:
    """The same numbers, of PyTorch's own operators: for derivatives of other kinds."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if axes:
        factors, offsets = _numbers(prod(x.shape[:axes]), p, seed, alpha, linear)
        shape = (*x.shape[:axes], *(1,) * (x.ndim - axes))
        factors = factors.to(dtype).view(shape)
        offsets = None if offsets is None else offsets.to(dtype).view(shape)
    else:
        if stride is None:
            stride = _dense_strides(torch.empty_strided(x.shape, x.stride(), device="meta"))
        factors = torch.empty_strided(x.shape, stride, dtype=dtype, device="cpu").fill_(1)
        offsets = torch.zeros_like(factors) if alpha and not linear else None
        if type(factors) is Tensor:  # otherwise a mode that has shapes alone
            _each(factors, factors, None, p, seed, alpha, True)
            if offsets is not None:
                _each(offsets, offsets, None, p, seed, alpha, False)
    y = x * factors.to(x.device)
    return (y if offsets is None else y + offsets.to(x.device)).to(x.dtype)


def _composed_backward(
    alpha: bool, grad: Tensor, p: float, seed: int, axes: int, stride: list[int]
) -> Tensor:
    return _composed(alpha, grad, p, seed, axes, tuple(stride), True)


def _composed_inplace(alpha: bool, x: Tensor, p: float, seed: int, axes: int) -> Tensor:
    return x.copy_(_composed(alpha, x, p, seed, axes))


def _composed_add(x: Tensor, residual: Tensor, p: float, seed: int) -> Tensor:
    return _composed(False, x, p, seed, 0) + residual


# --- autograd ------------------------------------------------------------------------------


class _Operator(NamedTuple):
    alpha: bool
    forward: Callable[..., Tensor]
    inplace: Callable[..., Tensor]
    backward: Callable[..., Tensor]


def _direct(x: Tensor) -> bool:
    """Whether a kernel may be called without the dispatcher: nobody watches what passes there.

    The way through it costs as much as the work on a small tensor.
    """
    return _has_storage(x) and not (
        x.is_neg()
        or x._is_zerotensor()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or _profiler_enabled()
    )


def _run(operator: _Operator, x: Tensor, p: float, seed: int, axes: int) -> Tensor:
    if _direct(x):
        return _forward(operator.alpha, x, p, seed, axes)
    with _below_autograd():
        return operator.forward(x, p, seed, axes)


def _run_inplace(operator: _Operator, x: Tensor, p: float, seed: int, axes: int) -> Tensor:
    if _direct(x):
        return _forward_inplace(operator.alpha, x, p, seed, axes)
    with _below_autograd():
        return operator.inplace(x, p, seed, axes)


def _run_backward(operator: _Operator, grad: Tensor, *rest: Any) -> Tensor:
    if _ours(grad) and _direct(grad) and not _grad_enabled():
        return _backward(operator.alpha, grad, *rest)
    return operator.backward(grad, *rest)


def _apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """A function's ``apply`` where no transform is at work: PyTorch's own looks for one."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def _run_add(x: Tensor, residual: Tensor, p: float, seed: int) -> Tensor:
    if _direct(x) and _direct(residual):
        return _add(x, residual, p, seed)
    with _below_autograd():
        return _dropout_add(x, residual, p, seed)


class _Dropped(torch.autograd.Function):
    """Keeps the seed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: _Operator, p: float, seed: int, axes: int) -> Tensor:
        out = _run(operator, x, p, seed, axes)
        ctx.operator, ctx.rest = operator, (p, seed, axes, out.stride())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _run_backward(ctx.operator, grad, *ctx.rest), None, None, None, None


class _DroppedInplace(_Dropped):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: _Operator, p: float, seed: int, axes: int) -> Tensor:
        ctx.mark_dirty(x)
        _run_inplace(operator, x, p, seed, axes)
        ctx.operator, ctx.rest = operator, (p, seed, axes, _dense_strides(x))
        return x


class _Twice(torch.autograd.Function):
    """The gradient is linear in what comes back: its own is the same again."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, operator: _Operator, *rest: Any) -> Tensor:
        ctx.operator, ctx.rest = operator, rest
        with _below_autograd():
            return operator.backward(grad, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.operator.backward(grad, *ctx.rest), *(None,) * (1 + len(ctx.rest))


class _DroppedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, p: float, seed: int) -> Tensor:
        out = _run_add(x, residual, p, seed)
        ctx.rest = p, seed, 0, out.stride()
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mine, other = ctx.needs_input_grad[:2]
        dropped = _run_backward(_DROPOUT, grad, *ctx.rest) if mine else None
        return dropped, grad if other else None, None, None


_dropped, _dropped_inplace, _twice, _dropped_sum = map(
    _apply, (_Dropped, _DroppedInplace, _Twice, _DroppedSum)
)


def _define(
    name: str,
    schema: str,
    kernel: Callable[..., Tensor],
    composed: Callable[..., Tensor],
    recorded: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """Define an operator: its CPU kernel, what it is elsewhere, and with a gradient on the CPU."""
    overload = define(name, schema, kernel, composed)

    def autograd(x: Tensor, *rest: Any) -> Tensor:
        if forward_ad._current_level >= 0:
            return composed(x, *rest)
        recording = x.requires_grad or isinstance(rest[0], Tensor) and rest[0].requires_grad
        if recording and _grad_enabled():
            return (composed if transforms() is not None else recorded)(x, *rest)
        with _below_autograd():
            return overload(x, *rest)

    library.impl(name, autograd, "AutogradCPU")
    return overload


def _recorded_inplace(operator: _Operator, x: Tensor, *rest: Any) -> Tensor:
    if x.is_leaf:
        raise RuntimeError(
            "a leaf Variable that requires grad is being used in an in-place operation."
        )
    if x._is_view():  # which views may be written to is for PyTorch to say
        return x.copy_(_dropped(x, operator, *rest))
    return _dropped_inplace(x, operator, *rest)


def _register(name: str, alpha: bool) -> _Operator:
    each = functools.partial
    arguments = "float p, int seed, int axes"
    operator = _Operator(
        alpha,
        _define(
            name,
            f"(Tensor input, {arguments}) -> Tensor",
            each(_forward, alpha),
            each(_composed, alpha),
            lambda x, *rest: _dropped(x, operator, *rest),
        ),
        _define(
            f"{name}_",
            f"(Tensor(a!) input, {arguments}) -> Tensor(a!)",
            each(_forward_inplace, alpha),
            each(_composed_inplace, alpha),
            lambda x, *rest: _recorded_inplace(operator, x, *rest),
        ),
        _define(
            f"{name}_backward",
            f"(Tensor grad_output, {arguments}, int[] stride) -> Tensor",
            each(_backward, alpha),
            each(_composed_backward, alpha),
            lambda grad, *rest: _twice(grad, operator, *rest),
        ),
    )
    return operator


_DROPOUT = _register("dropout", False)
_ALPHA_DROPOUT = _register("alpha_dropout", True)
_dropout_add = _define(
    "dropout_add",
    "(Tensor input, Tensor residual, float p, int seed) -> Tensor",
    _add,
    _composed_add,
    _dropped_sum,
)


# --- functions -----------------------------------------------------------------------------

_NOTHING = torch.empty(0, device="cpu")


def _probability(input: Tensor, p: Any, training: Any) -> float:
    """``p`` where there is something to drop, 0 where there is not."""
    known = isinstance(input, Tensor)
    if type(p) is not float or type(training) is not bool or not 0 <= p <= 1 or not known:
        theirs.dropout(_NOTHING if known else input, p, training)  # refuses what PyTorch refuses
        p = float(p)
    return p if training and input.numel() else 0.0


def _ours(x: Tensor) -> bool:
    """Whether the kernels know this tensor, and nobody looks through operators."""
    return (
        x.is_cpu
        and x.dtype in _FLOATS
        and x.layout is torch.strided
        and type(x).__torch_dispatch__ is _NO_DISPATCH
        and not x.is_nested
        and transforms() is None
        and not torch.compiler.is_compiling()
    )


def _seed(p: float, generator: Generator | None) -> int:
    if p == 1:
        return 0  # nothing is left to chance
    return torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device="cpu").item()


def _call(
    operator: _Operator,
    function: Callable[..., Tensor],
    x: Tensor,
    p: float,
    axes: int,
    inplace: bool,
    generator: Generator | None,
) -> Tensor:
    if not _ours(x):
        if generator is None or p == 1:
            return function(x, p, True, inplace)
        return _with_generator(x, p, axes, operator is _ALPHA_DROPOUT, inplace, generator)
    seed = _seed(p, generator)
    if forward_ad._current_level >= 0:
        return (operator.inplace if inplace else operator.forward)(x, p, seed, axes)
    if x.requires_grad and _grad_enabled():
        if inplace:
            return _recorded_inplace(operator, x, p, seed, axes)
        return _dropped(x, operator, p, seed, axes)
    return (_run_inplace if inplace else _run)(operator, x, p, seed, axes)


def _with_generator(
    x: Tensor, p: float, axes: int, alpha: bool, inplace: bool, generator: Generator
) -> Tensor:
    """PyTorch's functions, which have no such argument."""
    noise = x.new_empty((*x.shape[:axes], *(1,) * (x.ndim - axes))) if axes else torch.empty_like(x)
    noise.bernoulli_(1 - p, generator=generator)
    scale, kept, dropped = _mixture(p, alpha)
    factors = noise * scale if alpha else noise.div_(1 - p)
    y = x.mul_(factors) if inplace else x * factors
    if not alpha:
        return y
    offsets = noise * (kept - dropped) + dropped
    return y.add_(offsets) if inplace else y + offsets


def _check_features(x: Tensor, p: float) -> None:
    if x.ndim < 2 and p < 1:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")


@public
def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Drop elements with probability ``p``, as ``torch.nn.functional.dropout``.

    A dropped element is multiplied by 0, any other by ``1 / (1 - p)``, so that the mean stays.
    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    2014. Draws are Philox's (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011),
    keyed by a seed from PyTorch's generator and numbered by the place in memory: the same on any
    number of threads. The seed is all that is kept for the gradient. The probability is exact to
    2^-33.

    Args:
        input: tensor of any shape and float dtype; half precisions are scaled in float32
        p: the probability, from 0 to 1
        training: drop; otherwise the input is returned as it is
        inplace: write into the input
        generator: draws the seed; by default PyTorch's own, which ``torch.manual_seed`` sets

    Returns:
        A tensor of the input's shape, dtype and layout; the input itself where nothing is dropped

    Raises:
        ValueError: for ``p`` outside of [0, 1]
        TypeError: for something else than a number, a bool or a tensor where one belongs
        RuntimeError: for integers, NaN as ``p``, and in place for a leaf that requires a gradient
            and for elements that share memory
        NotImplementedError: for any other dtype

    Example:
        >>> import torch
        >>> import infinitypool.nn.functional as F
        >>> sorted(set(F.dropout(torch.ones(1000), 0.75).tolist()))
        [0.0, 4.0]
        >>> x = torch.ones(3)
        >>> F.dropout(x, training=False) is x
        True
    """
    p = _probability(input, p, training)
    if not p:
        return theirs.dropout(input, 0.0, training, inplace) if input.is_nested else input
    return _call(_DROPOUT, theirs.dropout, input, p, 0, inplace, generator)


@public
def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Drop elements to where SELU saturates, as ``torch.nn.functional.alpha_dropout``.

    ``a * x + b`` or, where it is dropped, ``0 * x + b - a * alpha``, with alpha = 1.7580993408...,
    ``a = 1 / sqrt((1 - p) * (1 + p * alpha**2))`` and ``b = a * p * alpha``: a mean of 0 and a
    variance of 1 stay. Source: Klambauer et al., "Self-Normalizing Neural Networks", 2017.

    Args:
        input, p, inplace, generator: as for :func:`dropout`
        training: drop; by default it does not

    Returns and raises:
        as :func:`dropout`

    Example:
        >>> import torch
        >>> import infinitypool.nn.functional as F
        >>> x = F.alpha_dropout(torch.zeros(1000), 0.5, training=True)
        >>> sorted({round(v, 4) for v in x.tolist()})
        [-0.7792, 0.7792]
    """
    p = _probability(input, p, training)
    if not p:
        return input
    return _call(_ALPHA_DROPOUT, theirs.alpha_dropout, input, p, 0, inplace, generator)


@public
def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Drop whole channels as :func:`alpha_dropout` drops elements.

    As ``torch.nn.functional.feature_alpha_dropout``. Sources: Klambauer et al., "Self-Normalizing
    Neural Networks", 2017; Tompson et al., "Efficient Object Localization Using Convolutional
    Networks", 2015.

    Args:
        input: tensor of shape (N, C, ...) and any float dtype
        p, training, inplace, generator: as for :func:`alpha_dropout`

    Returns and raises:
        as :func:`dropout`, and RuntimeError for tensors of one axis or none

    Example:
        >>> import torch
        >>> import infinitypool.nn.functional as F
        >>> x = F.feature_alpha_dropout(torch.zeros(1, 1000, 2), 0.5, training=True)
        >>> bool((x[..., 0] == x[..., 1]).all())
        True
        >>> sorted({round(v, 4) for v in x.flatten().tolist()})
        [-0.7792, 0.7792]
    """
    p = _probability(input, p, training)
    if not p:
        return input
    _check_features(input, p)
    function = theirs.feature_alpha_dropout
    return _call(_ALPHA_DROPOUT, function, input, p, 2, inplace, generator)


_CHANNELS_DOC = """Drop whole channels with probability ``p``: ``torch.nn.functional.{name}``.

A dropped channel is multiplied by 0, any other by ``1 / (1 - p)``. Source: Tompson et al.,
"Efficient Object Localization Using Convolutional Networks", 2015.

Args:
    input: tensor of shape {shapes} and any float dtype{notes}
    p, training, inplace, generator: as for :func:`dropout`

Returns and raises:
    as :func:`dropout`, and RuntimeError for tensors of {few}

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> x = F.{name}(torch.ones({example}), 0.75).flatten(2)
    >>> sorted(set(x[..., 0].flatten().tolist()))
    [0.0, 4.0]
    >>> bool((x == x[..., :1]).all())
    True
"""


def _warned(name: str, n: int, rank: int) -> None:
    """PyTorch's warnings about shapes that it accepts for the time being."""
    if n > 1 and rank not in (n + 1, n + 2):
        warnings.warn(
            f"{name}: Received a {rank}-D input to {name}, which is deprecated and will result in "
            "an error in a future release. To retain the behavior and silence this warning, please "
            f"use dropout instead. Note that {name} exists to provide channel-wise dropout on "
            f"inputs with {n} spatial dimensions, a channel dimension, and an optional batch "
            f"dimension (i.e. {n + 1}D or {n + 2}D inputs).",
            stacklevel=4,
        )
    if n == 2 and rank == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout "
            "behavior is desired - input is interpreted as shape (N, C, L), where C is the channel "
            "dim. This behavior will change in a future release to interpret the input as one "
            "without a batch dimension, i.e. shape (C, H, W). To maintain the 1D channel-wise "
            "dropout behavior, please switch to using dropout1d instead.",
            stacklevel=4,
        )


def _channel_dropout(n: int) -> Callable[..., Tensor]:
    name = f"dropout{n}d"
    original = getattr(theirs, name)

    def silent(*arguments: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return original(*arguments)

    def function(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *,
        generator: Generator | None = None,
    ) -> Tensor:  # fmt: skip
        p = _probability(input, p, training)
        rank = input.ndim
        if n == 1 and rank not in (2, 3):
            raise RuntimeError(
                f"dropout1d: Expected 2D or 3D input, but received a {rank}D input. Note that "
                "dropout1d exists to provide channel-wise dropout on inputs with 1 spatial "
                "dimension, a channel dimension, and an optional batch dimension (i.e. 2D or 3D "
                "inputs)."
            )
        if rank != n + 2 and n > 1:
            _warned(name, n, rank)
        if not p:
            return input
        axes = 2 if n == 2 or rank == n + 2 else 1
        if axes > rank or n == 2:
            _check_features(input, p)
        return _call(_DROPOUT, silent, input, p, min(axes, rank), inplace, generator)

    function.__name__ = function.__qualname__ = name
    axes = ", ".join("LHWD"[:1] if n == 1 else "DHW"[3 - n :])
    function.__doc__ = _CHANNELS_DOC.format(
        name=name,
        shapes=f"(N, C, {axes}) or (C, {axes})" if n != 2 else "(N, C, H, W) or (N, C, L)",
        notes="; PyTorch warns of any other rank,\n        and so does this" if n > 1 else "",
        few="another rank" if n == 1 else "too few axes",
        example=", ".join(["8", "64", *["3"] * n]),
    )
    return public(function)


dropout1d, dropout2d, dropout3d = (_channel_dropout(n) for n in (1, 2, 3))


def dropout_add(
    input: Tensor, residual: Tensor, p: float = 0.5, training: bool = True, *,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """``dropout(input, p, training) + residual`` in one pass.

    Args:
        input: tensor of any shape and float dtype
        residual: tensor that is added; in the input's shape and dtype it is added on the way, any
            other broadcasts as ``+`` does
        p, training, generator: as for :func:`dropout`

    Returns:
        A tensor in the layout of the input. Half precisions are added in float32 and rounded once

    Raises:
        as :func:`dropout`, and RuntimeError for shapes that do not broadcast

    Example:
        >>> import torch
        >>> import infinitypool.nn.functional as F
        >>> sorted(set(F.dropout_add(torch.ones(1000), torch.ones(1000), 0.75).tolist()))
        [1.0, 5.0]
    """
    if has_torch_function((input, residual)):
        return handle_torch_function(
            dropout_add, (input, residual), input, residual, p, training, generator=generator
        )
    p = _probability(input, p, training)
    if not isinstance(residual, Tensor):
        raise TypeError(f"dropout_add: residual must be a Tensor, not {type(residual).__name__}")
    if not p:
        return input + residual
    fits = input.shape == residual.shape and input.dtype == residual.dtype
    if not (fits and _ours(input) and _ours(residual)):
        return dropout(input, p, True, generator=generator) + residual
    seed = _seed(p, generator)
    if forward_ad._current_level >= 0:
        return _dropout_add(input, residual, p, seed)
    if (input.requires_grad or residual.requires_grad) and _grad_enabled():
        return _dropped_sum(input, residual, p, seed)
    return _run_add(input, residual, p, seed)


# --- modules -------------------------------------------------------------------------------

_MODULE_DOC = """{what}: ``torch.nn.{name}`` with fast kernels behind it.

Takes what PyTorch's module takes and calls :func:`infinitypool.nn.functional.{function}`.

>>> import torch
>>> from infinitypool import nn
>>> nn.{name}(0.2)(torch.zeros({shape})).shape
torch.Size([{shape}])
"""


def _module(name: str, function: Callable[..., Tensor], what: str, shape: str) -> Any:
    base = getattr(torch.nn, name)

    def forward(self: Any, input: Tensor) -> Tensor:
        """Drop in training; otherwise return the input."""
        return function(input, self.p, self.training, self.inplace)

    doc = _MODULE_DOC.format(what=what, name=name, function=function.__name__, shape=shape)
    members = {"__module__": __name__, "__qualname__": name, "__doc__": doc, "forward": forward}
    return type(name, (base,), members)


Dropout = _module("Dropout", dropout, "Drops elements", "20, 16")
Dropout1d = _module("Dropout1d", dropout1d, "Drops channels of sequences", "20, 16, 9")
Dropout2d = _module("Dropout2d", dropout2d, "Drops channels of pictures", "20, 16, 9, 9")
Dropout3d = _module("Dropout3d", dropout3d, "Drops channels of volumes", "20, 16, 9, 9, 9")
AlphaDropout = _module(
    "AlphaDropout", alpha_dropout, "Drops elements to where SELU saturates", "20, 16"
)
FeatureAlphaDropout = _module(
    "FeatureAlphaDropout",
    feature_alpha_dropout,
    "Drops channels to where SELU saturates",
    "20, 16, 9, 9",
)


class DropoutAdd(torch.nn.Module):
    """Drops elements and adds a residual, in one pass.

    Calls :func:`infinitypool.nn.functional.dropout_add`; in evaluation it adds alone.

    Args:
        p: the probability, from 0 to 1

    >>> import torch
    >>> from infinitypool import nn
    >>> nn.DropoutAdd(0.2)
    DropoutAdd(p=0.2)
    >>> nn.DropoutAdd(0.2)(torch.zeros(20, 16), torch.zeros(20, 16)).shape
    torch.Size([20, 16])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"p={self.p}"

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:
        """Drop elements of ``input`` in training, and add ``residual``."""
        return dropout_add(input, residual, self.p, self.training)

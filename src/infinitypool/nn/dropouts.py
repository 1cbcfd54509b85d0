"""Dropout: the functions and the modules.

On the CPU they are the operators of :mod:`infinitypool.nn.dropout_ops`. Elsewhere they are PyTorch's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as theirs
from torch import Generator, Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function

from . import dropout_ops as ops
from .calls import apply_of
from .dropout_ops import ALPHA_DROPOUT, DROPOUT, FLOATS, Dropped, Family, dropped, dropped_sum
from .kinds import public
from .registry import transforms
from .seeds import draw_seed
from .windows import check_tensor, is_tracing

__all__ = [
    "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "DropoutAdd",
    "FeatureAlphaDropout",
]  # fmt: skip

_grad_enabled = torch.is_grad_enabled
_profiler_enabled = torch._C._autograd._profiler_enabled
_has_storage = torch._C._has_storage  # not so what vmap hands out
_NO_DISPATCH = torch._C._disabled_torch_dispatch_impl


# --- past the dispatcher -------------------------------------------------------------------


def _direct(x: Tensor) -> bool:
    """Whether a kernel may be called without the dispatcher: nobody watches what passes there.

    The way through it costs as much as the work on a small tensor.
    """
    return (
        type(x).__torch_dispatch__ is _NO_DISPATCH
        and transforms() is None
        and forward_ad._current_level < 0
        and _has_storage(x)
        and x.data_ptr()
        and not (
            x.is_neg()
            or x._is_zerotensor()
            or torch._C._len_torch_dispatch_stack()
            or torch._C._get_tracing_state() is not None
            or _profiler_enabled()
        )
    )


def _back(family: Family, grad: Tensor, p: float, seed: int, axes: int, stride: Any) -> Tensor:
    if grad.is_cpu and grad.dtype in FLOATS and _direct(grad) and not _grad_enabled():
        return ops.backward(family.alpha, grad, p, seed, axes, stride)
    return family.backward(grad, p, torch.tensor(seed), axes, stride)


class _DroppedInplace(Dropped):
    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Any, back: Any, *rest: Any) -> Tensor:
        ctx.mark_dirty(x)
        return Dropped.forward(ctx, x, run, back, *rest)


_dropped_inplace = apply_of(_DroppedInplace)
_ways = {
    family: [partial(f, family.alpha) for f in (ops.forward, ops.forward_inplace)]
    + [partial(_back, family)]
    for family in (DROPOUT, ALPHA_DROPOUT)
}


_shorts = {family: ops.dropping(family) for family in (DROPOUT, ALPHA_DROPOUT)}


def _call_directly(family: Family, inplace: bool, x: Tensor, *rest: Any) -> Tensor:
    run, run_inplace, back = _ways[family]
    if not (x.requires_grad and _grad_enabled()):
        return (run_inplace if inplace else run)(x, *rest)
    if not inplace:
        return dropped(x, run, back, *rest)
    if x.is_leaf:
        raise RuntimeError(
            "a leaf Variable that requires grad is being used in an in-place operation."
        )
    if x._is_view():  # which views may be written to is for PyTorch to say
        return x.copy_(dropped(x, run, back, *rest))
    return _dropped_inplace(x, run_inplace, back, *rest)


def _add_directly(x: Tensor, residual: Tensor, *rest: Any) -> Tensor:
    if (x.requires_grad or residual.requires_grad) and _grad_enabled():
        return dropped_sum(x, residual, ops.add, _ways[DROPOUT][2], *rest)
    return ops.add(x, residual, *rest)


# --- functions -----------------------------------------------------------------------------

_NOTHING = torch.empty(0, device="cpu")


def _probability(input: Tensor, p: Any, training: Any) -> float:
    """``p`` where there is something to drop, 0 where there is not."""
    known = isinstance(input, Tensor)
    if type(p) is not float or type(training) is not bool or not 0 <= p <= 1 or not known:
        theirs.dropout(_NOTHING if known else input, p, training)  # refuses what PyTorch refuses
        p = float(p)
    return p if training and (is_tracing() or input.numel()) else 0.0


def _ours(x: Tensor) -> bool:
    """Whether the operators know this tensor."""
    return (
        x.is_cpu
        and x.dtype in FLOATS
        and x.layout is torch.strided
        and not x.is_nested
        and not check_tensor("dropout", x)
    )


def _seed(p: float, generator: Generator | None) -> Tensor:
    if p == 1:  # nothing is left to chance
        return torch.zeros((), dtype=torch.int64)
    return draw_seed(generator)


def _call(
    family: Family,
    function: Callable[..., Tensor],
    x: Tensor,
    p: float,
    axes: int,
    inplace: bool,
    generator: Generator | None,
) -> Tensor:
    """On the CPU the operator, also in a compiled graph: there it draws what it draws here.

    PyTorch's own would be fused with what stands beside it, but keep a mask for the gradient, and
    know no generator.
    """
    seed = None
    if x.is_cpu and not (inplace or is_tracing()):
        seed = _seed(p, generator)
        found = _shorts[family](x, seed, p, axes)
        if found is not None:
            return found
    ours = _ours(x)
    if not ours and (generator is None or p == 1 or not (x.is_floating_point() or x.is_complex())):
        return function(x, p, True, inplace)
    seed = _seed(p, generator) if seed is None else seed
    if ours and not is_tracing() and _direct(x):
        return _call_directly(family, inplace, x, p, seed.item(), axes)
    result = (family.forward if ours else partial(ops.composed, family.alpha))(x, p, seed, axes)
    return x.copy_(result) if inplace else result


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
    return _call(DROPOUT, theirs.dropout, input, p, 0, inplace, generator)


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
    return _call(ALPHA_DROPOUT, theirs.alpha_dropout, input, p, 0, inplace, generator)


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
    return _call(ALPHA_DROPOUT, function, input, p, 2, inplace, generator)


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
        return _call(DROPOUT, silent, input, p, min(axes, rank), inplace, generator)

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
    if not is_tracing() and _direct(input) and _direct(residual):
        return _add_directly(input, residual, p, seed.item())
    return ops.dropout_add(input, residual, p, seed)


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

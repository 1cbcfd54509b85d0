"""Pooling functions for PyTorch tensors, with the signatures of ``torch.nn.functional``.

A call that PyTorch accepts means the same here, and a call that PyTorch refuses is refused with
the same type of exception, unless it uses one of the forms that PyTorch does not have:

- ``padding`` as one (before, after) pair per axis, of any size, or ``"same"`` or ``"valid"``
- ``dilation`` in the averages
- every integer dtype, and bool in the maxima (the mean of integers truncates, as PyTorch's)

>>> import torch
>>> import infinitypool.nn.functional as F
>>> x = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
>>> F.max_pool2d(x, 2)
tensor([[[[ 6.,  8.],
          [14., 16.]]]])
>>> F.max_pool2d(x, 2, return_indices=True)[1]
tensor([[[[ 5,  7],
          [13, 15]]]])
>>> F.max_pool2d(x, 2, stride=1, padding="same").shape
torch.Size([1, 1, 4, 4])
"""

from __future__ import annotations

from collections.abc import Callable
from marshal import dumps
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..plan import Cache, is_exact
from ..spec import TORCH, pool_spec
from . import elsewhere
from .ops import OPS, call

__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
]

_NAMES = {1: "L", 2: "H, W", 3: "D, H, W"}

_MAX_DOC = """The largest element of every window, as ``torch.nn.functional.{name}``.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float or integer dtype, or bool
    kernel_size: the window's size: {number}
    stride: the step between windows: {number}; by default the kernel
    padding: {number}, at most half of the kernel; or (before, after) pairs of any size, one per
        axis; or ``"same"`` or ``"valid"`` as in TensorFlow. Padding never wins
    dilation: the step inside a window: {number}
    ceil_mode: also take a last window that hangs over the end
    return_indices: also return int64 places in the plane, -1 for a window all in the padding

Returns:
    A tensor of shape (N, C, ...) or (C, ...) with ``floor((n + 2 * padding - dilation *
    (kernel_size - 1) - 1) / stride) + 1`` elements per axis (rounded up with ``ceil_mode``), in
    the input's memory format where PyTorch does so; with indices, a pair of them.

Raises:
    TypeError: for something else than a number (or bool, or tensor) where one belongs
    RuntimeError: for numbers that break a rule, and windows larger than the padded input
    NotImplementedError: for an unsupported dtype

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.{name}(torch.arange({size}.0).view({view}), 2).flatten()
    tensor([{largest}.])
"""

_AVG_DOC = """The mean of every window, as ``torch.nn.functional.{name}``.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float or integer dtype
    kernel_size, stride, padding, ceil_mode: as for :func:`max_pool{n}d`; padding is zero
    count_include_pad: whether padding counts among the elements that a sum is divided by;
        with ``padding="same"`` it never does
    divisor_override: divide every sum by this number instead ({n}-dimensional: {divisor})
    dilation: the step inside a window: {number} (PyTorch has no such argument)

Returns and raises:
    as :func:`max_pool{n}d`

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.{name}(torch.arange({size}.0).view({view}), 2).flatten()
    tensor([{mean}])
"""


def _document(function: Callable[..., Any], name: str, n: int, text: str) -> Any:
    function.__name__ = function.__qualname__ = name
    size = 2**n
    function.__doc__ = text.format(
        name=name.removesuffix("_with_indices"),
        n=n,
        axes=_NAMES[n],
        number="an int" if n == 1 else f"an int or {n} of them",
        divisor="not possible" if n == 1 else "possible",
        size=size,
        view=", ".join(["1", "1"] + ["2"] * n),
        largest=size - 1,
        mean=f"{(size - 1) / 2:.4f}",
    )
    return function


def _check_tensor(name: str, x: object) -> bool:
    """Refuse what is no tensor; say whether it is one whose type wants to see operators."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name}(): argument 'input' (position 1) must be Tensor, not {type(x).__name__}"
        )
    return type(x).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl


def _tuple(value: Any) -> tuple[Any, ...] | list[Any]:
    return value if isinstance(value, (tuple, list)) else (value, value)


def _runner(
    name: str, reducer: str, n: int, extra: str, names: tuple[str, ...]
) -> Callable[..., Any]:
    """What all functions do with their arguments, whose ``names`` are those of `pool_spec`."""
    overload, other = OPS[reducer].forward[extra], elsewhere.POOL[extra]
    axes = tuple(range(-n, 0))
    texts = Cache()

    def run(input: Tensor, *arguments: Any) -> Any:
        try:
            key = dumps(arguments, 2)
            text = texts.get(key)
        except ValueError:  # something that marshal does not know
            text = None
        if text is None:
            named = dict(zip(names, arguments, strict=True))
            text = pool_spec(name, reducer, axes=axes, front=TORCH, **named).text
            if is_exact(arguments):
                texts.keep(key, text)
        if type(input) is not Tensor and _check_tensor(name, input):
            return other(input, text)
        if input.is_quantized and len(_tuple(arguments[0])) < n == 2:
            raise RuntimeError(
                f"{name}: kernel_size={arguments[0]} must be an int or have {n} entries where the "
                "input is quantised"
            )
        return call(overload, input, text)

    return run


def _max_pool(n: int, always_indices: bool) -> Callable[..., Any]:
    name = f"max_pool{n}d"
    names = "kernel_size", "stride", "padding", "dilation", "ceil_mode"
    values = _runner(name, "max", n, "none", names)
    values_and_indices = _runner(f"{name}_with_indices", "max", n, "plane", names)

    def function(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = always_indices,
    ) -> Any:
        if has_torch_function_unary(input):
            return handle_torch_function(
                function,
                (input,),
                input,
                kernel_size,
                stride=stride,
                padding=padding,
                dilation=dilation,
                ceil_mode=ceil_mode,
                return_indices=return_indices,
            )
        run = values_and_indices if always_indices or return_indices else values
        return run(input, kernel_size, stride, padding, dilation, ceil_mode)

    return _document(function, name + ("_with_indices" if always_indices else ""), n, _MAX_DOC)


def _avg_pool(n: int) -> Callable[..., Any]:
    name = f"avg_pool{n}d"
    names = (
        "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
        "dilation",
    )  # fmt: skip
    values = _runner(name, "mean", n, "none", names)

    def function(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        dilation: Any = 1,
    ) -> Tensor:
        if has_torch_function_unary(input):
            return handle_torch_function(
                public,
                (input,),
                input,
                kernel_size,
                stride=stride,
                padding=padding,
                ceil_mode=ceil_mode,
                count_include_pad=count_include_pad,
                dilation=dilation,
                **({} if n == 1 else {"divisor_override": divisor_override}),
            )
        return values(
            input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
            dilation,
        )  # fmt: skip

    public: Callable[..., Any] = function
    if n == 1:  # PyTorch's has no divisor_override, and neither may a position stand for one

        def public(
            input: Tensor,
            kernel_size: Any,
            stride: Any = None,
            padding: Any = 0,
            ceil_mode: bool = False,
            count_include_pad: bool = True,
            *,
            dilation: Any = 1,
        ) -> Tensor:
            return function(
                input, kernel_size, stride, padding, ceil_mode, count_include_pad, dilation=dilation
            )

    return _document(public, name, n, _AVG_DOC)


max_pool1d, max_pool2d, max_pool3d = (_max_pool(n, False) for n in (1, 2, 3))
max_pool1d_with_indices, max_pool2d_with_indices, max_pool3d_with_indices = (
    _max_pool(n, True) for n in (1, 2, 3)
)
avg_pool1d, avg_pool2d, avg_pool3d = (_avg_pool(n) for n in (1, 2, 3))

"""The functions that reduce windows of a tensor, under PyTorch's names: a factory for each form.

A function is made for one, two and three pooled axes. What all of them do with their arguments is
in :func:`runner`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from marshal import dumps
from math import inf, prod
from typing import Any

import torch
import torch.nn.functional as theirs
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..plan import Cache, is_exact
from ..spec import KINDS, TORCH, PoolSpec, adaptive_spec, pool_spec
from . import elsewhere
from .documents import ADAPTIVE_DOC, AVG_DOC, LP_DOC, MAX_DOC, document
from .ops import OPS, call, pooling
from .registry import constant_result, is_tracing

WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


# Types of PyTorch's that know its operators alone.
_COMPOSED = {"DTensor", "MaskedTensor", "NestedTensor"}


def check_tensor(name: str, x: object) -> bool:
    """Refuse what is no tensor; say whether its type knows PyTorch's operators alone."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name}(): argument 'input' (position 1) must be Tensor, not {type(x).__name__}"
        )
    return type(x).__name__ in _COMPOSED


def has_data(x: Tensor) -> bool:
    """Whether what is computed beside this tensor may be looked at, to spare work."""
    return not is_tracing() and type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta


def constant(value: Any) -> Any:
    """An argument of a traced call as Python's own numbers: sizes become conditions."""
    if isinstance(value, (tuple, list)):
        return tuple([constant(item) for item in value])
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return operator.index(value)
    return value.__float__() if isinstance(value, (float, torch.SymFloat)) else value


def _tuple(value: Any) -> tuple[Any, ...] | list[Any]:
    return value if isinstance(value, (tuple, list)) else (value, value)


def runner(
    name: str, reducer: str, n: int, extra: str, spec_of: Callable[..., PoolSpec]
) -> Callable[..., Any]:
    """What all functions do with their arguments; ``spec_of`` reads them.

    It goes the ``short`` way, or where that has no answer the ``long`` one. Both are attributes of it,
    for functions that ask the short one first of all.
    """
    overload, composed = OPS[reducer].forward[extra], elsewhere.POOL[extra]
    axes = tuple(range(-n, 0))
    texts = Cache()

    @constant_result
    def new_text(*arguments: Any) -> str:
        return spec_of(*arguments, axes=axes, front=TORCH).text

    short = pooling(reducer, extra, new_text)

    def text_of(arguments: tuple[Any, ...]) -> str:
        try:
            key = dumps(arguments, 2)
            text = texts.get(key)
        except ValueError:  # something that marshal does not know
            text = None
        if text is None:
            text = new_text(*arguments)
            if all(type(value) is float or is_exact(value) for value in arguments):
                texts.keep(key, text)
        return text

    def long(input: Tensor, *arguments: Any, seed: tuple[Tensor, ...] = ()) -> Any:
        if is_tracing():
            text = new_text(*[constant(argument) for argument in arguments])
            return overload(input, text, *seed)
        text = text_of(arguments)
        if type(input) is not Tensor and check_tensor(name, input):
            return composed(input, text, *seed)
        if input.is_quantized and len(_tuple(arguments[0])) < n == 2:
            raise RuntimeError(
                f"{name}: kernel_size={arguments[0]} must be an int or have {n} entries where the "
                "input is quantised"
            )
        return call(overload, input, text, *seed)

    def run(input: Tensor, *arguments: Any, seed: tuple[Tensor, ...] = ()) -> Any:
        if not (seed or is_tracing()):
            found = short(input, *arguments)
            if found is not None:
                return found
        return long(input, *arguments, seed=seed)

    run.short, run.long = short, long  # type: ignore[attr-defined]
    return run


def regular(name: str, reducer: str, n: int, extra: str, names: tuple[str, ...]) -> Any:
    """A runner whose arguments are those of :func:`pool_spec` with these ``names``."""

    def spec_of(*arguments: Any, **where: Any) -> PoolSpec:
        return pool_spec(name, reducer, **dict(zip(names, arguments, strict=True)), **where)

    return runner(name, reducer, n, extra, spec_of)


def of_kind(kind: str, name: str, reducer: str, n: int) -> Any:
    """A runner whose arguments are the window's and then the kind's own."""
    own = [argument.name for argument in KINDS[kind].arguments]

    def spec_of(*arguments: Any, **where: Any) -> PoolSpec:
        window = dict(zip(WINDOW, arguments, strict=False))
        values = dict(zip(own, arguments[len(WINDOW) :], strict=True))
        reduction = KINDS[kind].reduce(name, values, TORCH)
        return pool_spec(name, reducer, **window, parameters=reduction.parameters, **where)

    return runner(name, reducer, n, "none", spec_of)


# --- maxima, minima and means --------------------------------------------------------------


def _extremum(word: str, n: int, always_indices: bool = False) -> Callable[..., Any]:
    name = f"{word}_pool{n}d"
    values = regular(name, word, n, "none", WINDOW)
    values_and_indices = regular(f"{name}_with_indices", word, n, "plane", WINDOW)

    def function(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = always_indices,
    ) -> Any:
        run = values_and_indices if always_indices or return_indices else values
        if not is_tracing():
            found = run.short(input, kernel_size, stride, padding, dilation, ceil_mode)
            if found is not None:
                return found
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
        return run.long(input, kernel_size, stride, padding, dilation, ceil_mode)

    name += "_with_indices" if always_indices else ""
    return document(function, name, n, MAX_DOC, word=word)


def _avg_pool(n: int) -> Callable[..., Any]:
    name = f"avg_pool{n}d"
    names = (
        "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
        "dilation",
    )  # fmt: skip
    values = regular(name, "mean", n, "none", names)

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
        if not is_tracing():
            found = values.short(
                input, kernel_size, stride, padding, ceil_mode, count_include_pad,
                divisor_override, dilation,
            )  # fmt: skip
            if found is not None:
                return found
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
        return values.long(
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

    return document(public, name, n, AVG_DOC)


# --- adaptive ------------------------------------------------------------------------------


def _adaptive(word: str, reducer: str, n: int, form: str = "values") -> Callable[..., Any]:
    """``form``: "values", "chosen" by return_indices, or "indices" always."""
    name = f"adaptive_{word}_pool{n}d"

    def bound(name: str, extra: str) -> Any:
        def spec_of(output_size: Any, **where: Any) -> PoolSpec:
            return adaptive_spec(name, reducer, output_size, **where)

        return runner(name, reducer, n, extra, spec_of)

    def read(input: Any, output_size: Any) -> Any:
        """PyTorch looks at several sizes one by one, whatever holds them."""
        if n == 1 or isinstance(output_size, int):
            return output_size
        if not isinstance(output_size, (tuple, list)) and hasattr(output_size, "__len__"):
            output_size = list(output_size)
        if isinstance(output_size, (tuple, list)) and isinstance(input, Tensor):
            if input.ndim <= len(output_size):
                raise ValueError(
                    f"{name}: input of shape {tuple(input.shape)} must have more axes than "
                    f"output_size={output_size} has entries"
                )
        return output_size

    def is_plain_mean(input: Any, output_size: Any) -> bool:
        """PyTorch's mean of whole planes takes any axes in front, empty planes, and complex."""
        return (
            reducer == "mean"
            and n > 1
            and isinstance(input, Tensor)
            and (input.ndim not in (n + 1, n + 2) or 0 in input.shape or input.is_complex())
            and output_size in (1, (1,) * n, [1] * n)
        )

    values = bound(name, "none")
    if form == "values":

        def function(input: Tensor, output_size: Any) -> Tensor:
            if not is_tracing():
                found = values.short(input, output_size)
                if found is not None:
                    return found
            if has_torch_function_unary(input):
                return handle_torch_function(function, (input,), input, output_size)
            output_size = read(input, output_size)
            if is_plain_mean(input, output_size):
                return getattr(theirs, name)(input, output_size)
            return values.long(input, output_size)

    else:
        always = form == "indices"
        values_and_indices = bound(f"{name}_with_indices", "plane")

        def function(input: Tensor, output_size: Any, return_indices: bool = always) -> Any:
            run = values_and_indices if always or return_indices else values
            if not is_tracing():
                found = run.short(input, output_size)
                if found is not None:
                    return found
            if has_torch_function_unary(input):
                return handle_torch_function(
                    function, (input,), input, output_size, return_indices=return_indices
                )
            output_size = read(input, output_size)
            return run.long(input, output_size)

    name += "_with_indices" if form == "indices" else ""
    return document(function, name, n, ADAPTIVE_DOC, word=word)


# --- power sums ----------------------------------------------------------------------------


def counter(name: str, n: int) -> Callable[..., Tensor]:
    """What counts the elements of every window that lie inside the input, from the same arguments."""
    sums = regular(
        name, "mean", n, "none",
        (*WINDOW[:3], "dilation", "ceil_mode", "divisor_override"),
    )  # fmt: skip

    def counts(input: Tensor, window: tuple[Any, ...]) -> Tensor:
        """Of shape (1, sizes...) and dtype float64."""
        ones = torch.ones((1, *input.shape[-n:]), dtype=torch.float64, device=input.device)
        return sums(ones, *window, 1)

    return counts


def _lp_pool(n: int) -> Callable[..., Any]:
    name = f"lp_pool{n}d"
    run, counts = of_kind("lp", name, "lp", n), counter(name, n)
    largest = _extremum("max", n)

    def function(
        input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None,
        ceil_mode: bool = False,
    ) -> Tensor:  # fmt: skip
        if has_torch_function_unary(input):
            return handle_torch_function(
                function,
                (input,),
                input,
                norm_type,
                kernel_size,
                stride=stride,
                ceil_mode=ceil_mode,
            )
        check_tensor(name, input)
        if isinstance(norm_type, Tensor) or not input.is_floating_point():
            # A power that is learned, and integers, which PyTorch has made floats by the root.
            return getattr(theirs, name)(input, norm_type, kernel_size, stride, ceil_mode)
        if norm_type == inf:
            return largest(input.abs(), kernel_size, stride, 0, 1, ceil_mode)
        window = kernel_size, stride, 0, 1, ceil_mode
        result = run(input, *window, norm_type)
        if not ceil_mode:
            return result
        # A window over the end counts as if its mean went on, as in PyTorch's.
        inside = counts(input, window)
        whole = prod(kernel_size) if isinstance(kernel_size, (tuple, list)) else kernel_size**n
        if has_data(input) and bool((inside == whole).all()):
            return result
        factor = (whole / inside) ** (1 / norm_type)
        return result * factor.to(result)

    return document(function, name, n, LP_DOC)


# --- what there is -------------------------------------------------------------------------

max_pool1d, max_pool2d, max_pool3d = (_extremum("max", n) for n in (1, 2, 3))
max_pool1d_with_indices, max_pool2d_with_indices, max_pool3d_with_indices = (
    _extremum("max", n, True) for n in (1, 2, 3)
)
min_pool1d, min_pool2d, min_pool3d = (_extremum("min", n) for n in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (_avg_pool(n) for n in (1, 2, 3))
lp_pool1d, lp_pool2d, lp_pool3d = (_lp_pool(n) for n in (1, 2, 3))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    _adaptive("avg", "mean", n) for n in (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    _adaptive("max", "max", n, "chosen") for n in (1, 2, 3)
)
(
    adaptive_max_pool1d_with_indices,
    adaptive_max_pool2d_with_indices,
    adaptive_max_pool3d_with_indices,
) = (_adaptive("max", "max", n, "indices") for n in (1, 2, 3))

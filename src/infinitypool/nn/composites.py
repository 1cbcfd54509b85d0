"""What is put together: unpooling's and fractional pooling's front, and kinds made of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from marshal import dumps
from typing import Any

import torch
import torch.nn.functional as theirs
from torch import Tensor
from torch.overrides import (
    handle_torch_function,
    has_torch_function_variadic,
)

from ..plan import Cache
from ..spec import (
    KINDS,
    TORCH,
    PoolSpec,
    adaptive_spec,
    check_bool,
    check_ratio,
    check_word,
    fractional_sizes,
    integer,
    pool_spec,
    show,
    unpool_output_size,
)
from . import kinds, scatter, windows
from .documents import FRACTIONAL_DOC, UNPOOL_DOC, document
from .registry import OPERATORS, constant_result, transforms
from .windows import check_tensor, constant, is_tracing


def _operator(name: str, composed: bool) -> Callable[..., Any]:
    """An operator, or what it is composed of for tensors that know PyTorch's alone."""
    operator = OPERATORS[name]
    return operator.composed if composed else operator.overload


# --- unpooling and fractional windows ------------------------------------------------------


def _has_symbols(sizes: Any) -> bool:
    """Whether these are sizes of an exported graph. The rules for numbers would make them such."""
    return any(isinstance(size, torch.SymInt) for size in sizes)


def _sizes(input: Tensor, n: int) -> list[int]:
    """The last ones. While ``torch.jit.trace`` records they are tensors, and made numbers."""
    return [int(size) if isinstance(size, Tensor) else size for size in input.shape[-n:]]


def _max_unpool(n: int) -> Callable[..., Tensor]:
    name = f"max_unpool{n}d"
    axes = tuple(range(-n, 0))

    def size_of(
        sizes: Sequence[int], kernel_size: Any, stride: Any, padding: Any, output_size: Any
    ) -> tuple[int, ...]:
        if output_size is not None and not isinstance(output_size, (tuple, list)):
            raise TypeError(f"{name}: output_size={show(output_size)} must be {n} ints")
        return unpool_output_size(
            name,
            kernel_size,
            stride=stride,
            padding=padding,
            output_size=output_size,
            axes=axes,
            sizes=sizes,
            front=TORCH,
        )

    short = scatter.unpooling(lambda shape, *arguments: size_of(shape[-n:], *arguments))

    def function(
        input: Tensor,
        indices: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        output_size: Any = None,
    ) -> Tensor:
        if not is_tracing():
            found = short(input, indices, kernel_size, stride, padding, output_size)
            if found is not None:
                return found
        if has_torch_function_variadic(input, indices):
            return handle_torch_function(
                function,
                (input, indices),
                input,
                indices,
                kernel_size,
                stride=stride,
                padding=padding,
                output_size=output_size,
            )
        composed = check_tensor(name, input)
        if not isinstance(indices, Tensor):
            raise TypeError(
                f"{name}(): argument 'indices' (position 2) must be Tensor, not "
                f"{type(indices).__name__}"
            )
        scatter.check_shape(name, input.shape, n)
        symbols = isinstance(output_size, (tuple, list)) and _has_symbols(output_size)
        given = None if symbols else output_size
        size = size_of(_sizes(input, n), kernel_size, stride, padding, given)
        if symbols:
            size = tuple(output_size[-n:])
        return _operator("max_unpool", composed)(input, indices, size)

    return document(function, name, n, UNPOOL_DOC)


def _fractional_max_pool(n: int, always_indices: bool = False) -> Callable[..., Any]:
    name = f"fractional_max_pool{n}d"
    axes = tuple(range(-n, 0))

    def function(
        input: Tensor,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = always_indices,
        _random_samples: Tensor | None = None,
    ) -> Any:
        if has_torch_function_variadic(input, _random_samples):
            return handle_torch_function(
                function,
                (input, _random_samples),
                input,
                kernel_size,
                output_size=output_size,
                output_ratio=output_ratio,
                return_indices=return_indices,
                _random_samples=_random_samples,
            )
        composed = check_tensor(name, input)
        if input.ndim <= n:  # PyTorch looks for the channels first
            raise IndexError(f"{name}: input of shape {tuple(input.shape)} has no channels")
        scatter.check_shape(name, input.shape, n)
        symbols = output_size is None and (is_tracing() or _has_symbols(input.shape))
        kernel, size = fractional_sizes(
            name,
            kernel_size,
            output_size=1 if symbols else output_size,
            output_ratio=output_ratio,
            axes=axes,
            sizes=_sizes(input, n),
            front=TORCH,
        )
        if symbols:
            ratios = check_ratio(name, output_ratio, n, TORCH)
            size = tuple(
                [torch.sym_int(s * r) for s, r in zip(input.shape[-n:], ratios, strict=True)]
            )
        samples = _random_samples
        if samples is None:
            if not input.is_floating_point():
                raise NotImplementedError(f"{name}: input has dtype {input.dtype}, not a float's")
            batch = input.shape[0] if input.ndim == n + 2 else 1
            channels = input.shape[-n - 1]
            samples = torch.rand(batch, channels, n, dtype=input.dtype, device=input.device)
        suffix = "_with_indices" if always_indices or return_indices else ""
        run = _operator("fractional_max_pool" + suffix, composed)
        return run(input, kernel, size, samples)

    name += "_with_indices" if always_indices else ""
    return document(function, name, n, FRACTIONAL_DOC)


max_unpool1d, max_unpool2d, max_unpool3d = (_max_unpool(n) for n in (1, 2, 3))
fractional_max_pool2d, fractional_max_pool3d = (_fractional_max_pool(n) for n in (2, 3))
fractional_max_pool2d_with_indices, fractional_max_pool3d_with_indices = (
    _fractional_max_pool(n, True) for n in (2, 3)
)


# --- antialiased ---------------------------------------------------------------------------

_BLUR_DOC = """A binomial low pass before subsampling.

Every axis is filtered with a row of Pascal's triangle, (1, 2, 1) / 4 for a ``kernel_size`` of 3, and
then every ``stride``-th element is taken. Source: Zhang, "Making Convolutional Networks
Shift-Invariant Again", 2019.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float dtype
    kernel_size: the filter's size: {number}
    stride: the step between windows: {number}
    padding: what lies around the input, ``(kernel_size - 1) // 2`` elements before it and
        ``kernel_size // 2`` behind: ``"reflect"``, ``"replicate"`` or ``"zeros"``

Returns:
    A tensor of shape (N, C, ...) or (C, ...) with ``ceil(n / stride)`` elements per axis

Raises:
    TypeError: for something else than a number or a word where one belongs
    RuntimeError: for numbers that break a rule, and reflections longer than the input
    NotImplementedError: for an unsupported dtype

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.blur_pool{n}d(torch.ones({fives})).shape
    torch.Size([{threes}])
"""

_MAX_BLUR_DOC = """An antialiased maximum: a maximum at every place, and then :func:`blur_pool{n}d`.

Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.

Args:
    input: tensor of shape (N, C, {axes}) or (C, {axes}); any float dtype
    kernel_size: the window's size of the maximum: {number}
    stride: the step of the blur: {number}
    padding: of the maximum: {number}, at most half of the kernel
    blur_size: the filter's size of the blur: {number}
    blur_padding: as ``padding`` of the blur

Returns:
    A tensor of shape (N, C, ...) or (C, ...) with ``ceil(m / stride)`` elements per axis, where the
    maximum has ``m = n + 2 * padding - kernel_size + 1``

Raises:
    as :func:`max_pool{n}d` and :func:`blur_pool{n}d`

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.max_blur_pool{n}d(torch.ones({fives}), 3, stride=2, padding=1).shape
    torch.Size([{threes}])
"""

_BLUR_PADDINGS = ("reflect", "replicate", "zeros")


def _blur_pool(n: int) -> Callable[..., Tensor]:
    name = f"blur_pool{n}d"
    run = windows.regular(name, "blur", n, "none", ("kernel_size", "stride", "padding"))
    axes = tuple(range(-n, 0))
    known = Cache()

    def new_ends(kernel_size: Any, stride: Any) -> tuple[tuple[int, int], ...]:
        spec = pool_spec(name, "blur", kernel_size, stride=stride, axes=axes, front=TORCH)
        return tuple(((k - 1) // 2, k // 2) for k in spec.kernel_size)

    constant_ends = constant_result(new_ends)

    def ends_of(kernel_size: Any, stride: Any) -> tuple[tuple[int, int], ...]:
        """How far the filter reaches before and behind its middle."""
        if is_tracing():
            return constant_ends(constant(kernel_size), constant(stride))
        try:
            key = dumps((kernel_size, stride), 2)
        except ValueError:
            return new_ends(kernel_size, stride)
        # Whatever looks like other numbers here is refused where the windows are read.
        return known.get(key) or known.keep(key, new_ends(kernel_size, stride))

    @kinds.public
    def function(
        input: Tensor, kernel_size: Any = 3, stride: Any = 2, padding: str = "reflect"
    ) -> Tensor:
        check_word(name, "padding", padding, _BLUR_PADDINGS, TORCH)
        ends = ends_of(kernel_size, stride)
        check_tensor(name, input)
        if padding == "zeros":
            return run(input, kernel_size, stride, ends)
        if input.ndim not in (n + 1, n + 2):
            return run(input, kernel_size, stride, 0)  # refuses it
        for axis, (size, (before, after)) in enumerate(zip(input.shape[-n:], ends, strict=True)):
            if size < 1 or padding == "reflect" and after >= size:
                raise RuntimeError(
                    f'{name}: padding="reflect" of kernel_size={before + after + 1} needs more '
                    f"than {after} elements, not {size} (axis {axis - n})"
                )
        padded = theirs.pad(input, [end for pair in reversed(ends) for end in pair], padding)
        return run(padded, kernel_size, stride, 0)

    return document(function, name, n, _BLUR_DOC)


def _max_blur_pool(n: int) -> Callable[..., Tensor]:
    largest, blur = getattr(windows, f"max_pool{n}d"), globals()[f"blur_pool{n}d"]

    @kinds.public
    def function(
        input: Tensor,
        kernel_size: Any,
        stride: Any = 2,
        padding: Any = 0,
        *,
        blur_size: Any = 3,
        blur_padding: str = "reflect",
    ) -> Tensor:
        return blur(largest(input, kernel_size, 1, padding), blur_size, stride, blur_padding)

    return document(function, f"max_blur_pool{n}d", n, _MAX_BLUR_DOC)


blur_pool1d, blur_pool2d, blur_pool3d = (_blur_pool(n) for n in (1, 2, 3))
max_blur_pool1d, max_blur_pool2d, max_blur_pool3d = (_max_blur_pool(n) for n in (1, 2, 3))


# --- whole planes --------------------------------------------------------------------------


def pooled_axes(function: str, input: Tensor) -> int:
    """How many axes there are behind the channels: 1, 2 or 3."""
    check_tensor(function, input)
    if input.ndim not in (3, 4, 5):
        raise RuntimeError(
            f"{function}: input must have the shape (N, C, L), (N, C, H, W) or (N, C, D, H, W), "
            f"not {tuple(input.shape)}"
        )
    return input.ndim - 2


def _whole(function: str, word: str, input: Tensor, flatten: bool) -> Tensor:
    n = pooled_axes(function, input)
    check_bool(function, "flatten", flatten, TORCH)
    pooled = getattr(windows, f"adaptive_{word}_pool{n}d")(input, (1,) * n)
    return pooled.flatten(1) if flatten else pooled


def global_avg_pool(input: Tensor, flatten: bool = False) -> Tensor:
    """The mean of every plane.

    Args:
        input: tensor of shape (N, C, L), (N, C, H, W) or (N, C, D, H, W); any number
        flatten: give the shape (N, C) instead of keeping pooled axes of one element

    Raises ``RuntimeError`` for another shape, ``TypeError`` for what is no tensor.

    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.global_avg_pool(torch.arange(4.0).view(1, 1, 2, 2))
    tensor([[[[1.5000]]]])
    """
    return _whole("global_avg_pool", "avg", input, flatten)


def global_max_pool(input: Tensor, flatten: bool = False) -> Tensor:
    """The largest element of every plane; everything else as :func:`global_avg_pool`.

    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.global_max_pool(torch.arange(4.0).view(1, 1, 2, 2), flatten=True)
    tensor([[3.]])
    """
    return _whole("global_max_pool", "max", input, flatten)


def global_avg_max_pool(input: Tensor, flatten: bool = False) -> Tensor:
    """Half the mean and half the maximum of every plane; else as :func:`global_avg_pool`.

    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.global_avg_max_pool(torch.arange(4.0).view(1, 1, 2, 2), flatten=True)
    tensor([[2.2500]])
    """
    mean, largest = (_whole("global_avg_max_pool", w, input, flatten) for w in ("avg", "max"))
    return 0.5 * (mean + largest)


def global_cat_avg_max_pool(input: Tensor, flatten: bool = False) -> Tensor:
    """The means of all channels and then their maxima, (N, 2C, ...); else as
    :func:`global_avg_pool`.

    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.global_cat_avg_max_pool(torch.arange(4.0).view(1, 1, 2, 2), flatten=True)
    tensor([[1.5000, 3.0000]])
    """
    parts = [_whole("global_cat_avg_max_pool", w, input, flatten) for w in ("avg", "max")]
    return torch.cat(parts, 1)


@constant_result
def _check_eps(eps: Any) -> None:
    KINDS["gem"].reduce("global_gem_pool", {"eps": eps}, TORCH)


def _is_readable(p: Tensor) -> bool:
    """Whether this is a number now, and is one to whoever looks on."""
    return not (
        is_tracing()
        or kinds.wants_gradient(p)
        or p.numel() != 1
        or p.is_meta
        or kinds.overridden(p)
        or transforms() is not None
    )


def _whole_gem(n: int) -> Callable[..., Tensor]:
    name = "global_gem_pool"

    def spec_of(p: Any, eps: Any, **where: Any) -> PoolSpec:
        parameters = KINDS["gem"].reduce(name, {"p": p, "eps": eps}, TORCH).parameters
        ones = 1 if n == 1 else (1,) * n
        return adaptive_spec(name, "power_mean", ones, parameters=parameters, **where)

    return windows.runner(name, "power_mean", n, "none", spec_of)


_WHOLE_GEM = {n: _whole_gem(n) for n in (1, 2, 3)}


def global_gem_pool(
    input: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6, flatten: bool = False
) -> Tensor:
    """The generalised mean of every plane, ``mean(max(w, eps) ** p) ** (1 / p)``.

    ``p`` may be a tensor, and learned; everything else as :func:`global_avg_pool`.

    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> F.global_gem_pool(torch.arange(4.0).view(1, 1, 2, 2), p=2.0)
    tensor([[[[1.8708]]]])
    """
    name = "global_gem_pool"
    n = pooled_axes(name, input)
    check_bool(name, "flatten", flatten, TORCH)
    if isinstance(p, Tensor) and not _is_readable(p):
        _check_eps(constant(eps) if is_tracing() else eps)
        pooled = _whole(name, "avg", kinds.powers_of(input, p, eps), False)
        pooled = pooled.pow(1 / p).to(input.dtype)
    else:
        pooled = _WHOLE_GEM[n](input, p.item() if isinstance(p, Tensor) else p, eps)
    return pooled.flatten(1) if flatten else pooled


# --- pyramids ------------------------------------------------------------------------------


def spatial_pyramid_pool(
    input: Tensor, levels: Sequence[int | Sequence[int]] = (1, 2, 4), mode: str = "max"
) -> Tensor:
    """A vector of fixed length for a picture of any size.

    For every level l the picture is divided into l x l windows, as by adaptive pooling; their
    results stand one after another, level by level, channel by channel. Source: He, Zhang, Ren, Sun,
    "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", 2014.

    Args:
        input: tensor of shape (N, C, L), (N, C, H, W) or (N, C, D, H, W)
        levels: windows along every axis: ints, or one int per pooled axis for each level
        mode: ``"max"`` or ``"avg"``

    Returns:
        A tensor of shape (N, C * (number of windows of all levels))

    Raises:
        TypeError: for levels that are no ints
        RuntimeError: for levels below 1 or larger than the picture, and other shapes

    Example:
        >>> import torch
        >>> import infinitypool.nn.functional as F
        >>> F.spatial_pyramid_pool(torch.rand(2, 16, 13, 9)).shape
        torch.Size([2, 336])
    """
    name = "spatial_pyramid_pool"
    n = pooled_axes(name, input)
    check_word(name, "mode", mode, ("max", "avg"), TORCH)
    if not isinstance(levels, (tuple, list)):
        raise TypeError(f"{name}: levels={show(levels)} must be a sequence of ints")
    if not levels:
        raise RuntimeError(f"{name}: levels={show(levels)} must not be empty")
    pool = getattr(windows, f"adaptive_{mode}_pool{n}d")
    parts = []
    for level in levels:
        sizes = tuple(level) if isinstance(level, (tuple, list)) else (level,) * n
        if len(sizes) != n:
            raise RuntimeError(f"{name}: levels={show(levels)} must have {n} ints for each level")
        for size, wanted in zip(input.shape[2:], map(integer, sizes), strict=True):
            if wanted is None:
                raise TypeError(f"{name}: levels={show(levels)} must be ints, not {show(level)}")
            if not 1 <= wanted <= size:
                raise RuntimeError(
                    f"{name}: levels={show(levels)} must be at least 1 and at most the picture's "
                    f"size; {wanted} does not fit into {tuple(input.shape[2:])}"
                )
        parts.append(pool(input, sizes).flatten(1))
    return torch.cat(parts, 1)


def _beside(name: str, input: Tensor, kernels: list[int], chained: bool) -> Tensor:
    """The input and its maxima along the channels."""
    composed = check_tensor(name, input)
    if input.ndim not in (3, 4):
        raise RuntimeError(
            f"{name}: input must have the shape (N, C, H, W) or (C, H, W), not {tuple(input.shape)}"
        )
    run = _operator("spp", composed)
    return (
        run(input, kernels, chained) if input.ndim == 4 else run(input[None], kernels, chained)[0]
    )


def _odd(name: str, argument: str, value: Any) -> int:
    number = integer(value, TORCH)
    if number is None:
        raise TypeError(f"{name}: {argument}={show(value)} must be an odd int")
    if number < 1 or number % 2 == 0 or number > 2**31 - 1:
        raise RuntimeError(f"{name}: {argument}={show(number)} must be odd and at least 1")
    return number


def spp(input: Tensor, kernel_sizes: Sequence[int] = (5, 9, 13)) -> Tensor:
    """The input and its maxima over ever larger windows, along the channels: a detector's SPP block.

    Equal to ``torch.cat([x, *(max_pool2d(x, k, 1, k // 2) for k in kernel_sizes)], 1)``. Without a
    gradient the maxima are written where they belong, each made from the next smaller one.

    Args:
        input: tensor of shape (N, C, H, W) or (C, H, W)
        kernel_sizes: odd ints

    Returns:
        A tensor of shape (N, C * (1 + len(kernel_sizes)), H, W), in the input's memory format

    Raises:
        TypeError: for sizes that are no ints
        RuntimeError: for even sizes and other shapes

    Example:
        >>> import torch
        >>> import infinitypool.nn.functional as F
        >>> F.spp(torch.rand(2, 16, 20, 20)).shape
        torch.Size([2, 64, 20, 20])
    """
    if not isinstance(kernel_sizes, (tuple, list)):
        raise TypeError(f"spp: kernel_sizes={show(kernel_sizes)} must be a sequence of odd ints")
    if not kernel_sizes:
        raise RuntimeError(f"spp: kernel_sizes={show(kernel_sizes)} must not be empty")
    kernels = [_odd("spp", "kernel_sizes", kernel) for kernel in kernel_sizes]
    return _beside("spp", input, kernels, False)


def sppf(input: Tensor, kernel_size: int = 5, repeats: int = 3) -> Tensor:
    """The input, its maxima, their maxima and so on, along the channels: :func:`spp`, chained.

    Three times 5 has the values of 5, 9 and 13; the gradient takes the way through all of them.

    Args:
        input: tensor of shape (N, C, H, W) or (C, H, W)
        kernel_size: an odd int
        repeats: how many maxima

    Returns and raises:
        as :func:`spp`

    Example:
        >>> import torch
        >>> import infinitypool.nn.functional as F
        >>> x = torch.rand(2, 16, 20, 20)
        >>> torch.equal(F.sppf(x), F.spp(x))
        True
    """
    kernel = _odd("sppf", "kernel_size", kernel_size)
    count = integer(repeats, TORCH)
    if count is None:
        raise TypeError(f"sppf: repeats={show(repeats)} must be an int")
    if not 1 <= count <= 1000:
        raise RuntimeError(f"sppf: repeats={count} must be from 1 to 1000")
    return _beside("sppf", input, [kernel + i * (kernel - 1) for i in range(count)], True)

"""Array functions beside the window functions: unpooling, fractional windows, blurs, pyramids."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from .. import _core
from ..fractional import fractional_starts
from ..plan import (
    ITEMSIZE,
    REDUCERS,
    WIDEST,
    Cache,
    is_floating,
    memory_order,
)
from ..spec import (
    KINDS,
    NUMPY,
    REQUIRED,
    PoolSpec,
    adaptive_spec,
    check_bool,
    check_bytes,
    check_word,
    fractional_sizes,
    integer,
    pool_spec,
    resolve_axes,
    show,
    unpool_output_size,
)
from .functions import Sizes
from .incoming import address, aligned, dtype_name, element_strides, incoming
from .window import Call, compute, draw_seed

_plans = Cache()


def _new(shape: Sequence[int], like: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """A dense array whose axes follow each other in memory as those of ``like``."""
    order = memory_order(like.shape, like.strides)
    dense = np.empty([shape[axis] for axis in order], like.dtype if dtype is None else dtype)
    return dense.transpose(np.argsort(order))


def _with_sizes(shape: Sequence[int], axes: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    result = list(shape)
    for axis, size in zip(axes, sizes, strict=True):
        result[axis] = size
    return tuple(result)


# --- unpooling -----------------------------------------------------------------------------


def max_unpool(
    x: Any,
    indices: Any,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sizes | None = None,
    axes: Sizes | None = None,
) -> Any:
    """Put maxima back where they came from, into zeros: a partial inverse of :func:`max_pool`.

    Where indices collide the last value in row order wins, on every number of threads.

    Parameters
    ----------
    x : array of any shape and dtype
        The values; what :func:`max_pool` takes.
    indices : array of int64, of the shape of x
        The place of every value in the plane of the pooled axes, counted row by row.
    kernel_size, stride, padding : int or one int per pooled axis
        What the maxima were pooled with.
    output_size : int or one int per pooled axis
        The result's sizes, less than a ``stride`` away from the usual
        ``(n - 1) * stride - 2 * padding + kernel_size``.
    axes : int or ints
        The pooled axes, by default the last ``len(kernel_size)``, or the last two.

    Returns
    -------
    array
        What ``x`` was, of its dtype.

    Raises
    ------
    TypeError
        For something else than a number where one belongs; for indices that are not int64.
    ValueError
        For an index that is negative or beyond the plane (the first in C order is named, and
        nothing is written), sizes out of range, shapes that differ.

    Notes
    -----
    The rules are those of ``torch.nn.MaxUnpool2d``.

    Examples
    --------
    >>> import numpy as np
    >>> import infinitypool as ip
    >>> x = np.array([[1.0, 5.0, 2.0, 3.0]])
    >>> values, indices = ip.max_pool(x, (1, 2), return_indices=True)
    >>> ip.max_unpool(values, indices, (1, 2))
    array([[0., 5., 0., 3.]])
    """
    function = "max_unpool"
    array, bits, restore = incoming(function, "x", x)
    dtype = dtype_name(function, array, bits)
    places, place_bits, _ = incoming(function, "indices", indices)
    if place_bits is not None or places.dtype != np.int64:
        found = place_bits or places.dtype
        raise TypeError(f"{function}: indices must be an array of int64, not of {found}")
    if places.shape != array.shape:
        raise ValueError(
            f"{function}: indices have the shape {places.shape}, but x has {array.shape}"
        )
    given = resolve_axes(function, axes, kernel_size, array.ndim)
    sizes = unpool_output_size(
        function,
        kernel_size,
        stride=stride,
        padding=padding,
        output_size=output_size,
        axes=given,
        sizes=[array.shape[axis] for axis in given],
    )
    pooled = tuple(sorted(given))
    shape = _with_sizes(array.shape, pooled, sizes)
    asked = f"kernel_size={show(kernel_size)}, stride={show(stride)}, padding={show(padding)}"
    check_bytes(function, asked, shape, WIDEST, NUMPY)
    array, places = aligned(array), aligned(places)
    result = _new(shape, array)
    key = (pooled, dtype, shape, array.shape, array.strides, places.strides)
    plan = _plans.get(key)
    if plan is None and result.size:
        plan = _plans.keep(
            key,
            _core.Unpool(
                ITEMSIZE[dtype],
                array.shape,
                element_strides(array),
                element_strides(places),
                shape,
                element_strides(result),
                [axis + array.ndim for axis in pooled],
            ),
        )
    bad = plan.run(address(array), address(places), address(result)) if result.size else -1
    if bad >= 0:
        at = tuple(map(int, np.unravel_index(bad, places.shape)))
        raise ValueError(
            f"{function}: indices hold {int(places[at])} at {at}, which must be from 0 to "
            f"{prod(sizes) - 1}, the places of a plane of {prod(sizes)} elements {sizes}"
        )
    return result if restore is None else restore(result, bits)


# --- fractional windows --------------------------------------------------------------------


def fractional_max_pool(
    x: Any,
    kernel_size: Sizes,
    *,
    output_size: Sizes | None = None,
    output_ratio: float | Sequence[float] | None = None,
    axes: Sizes | None = None,
    rng: int | np.random.Generator | None = None,
    samples: Any = None,
    return_indices: bool = False,
) -> Any:
    """The largest element of windows whose steps are random, and a fraction on average.

    Windows of ``kernel_size`` start ``alpha = (n - kernel_size) / (output_size - 1)`` apart, and
    are moved by a random number u from 0 to 1: ``int((i + u) * alpha) - int(u * alpha)``. Every
    plane of the pooled axes has its own numbers, one per axis.

    Parameters
    ----------
    x : array of any shape
        What :func:`max_pool` takes: floats.
    kernel_size : int or one int per pooled axis
        The window's size.
    output_size : int or one int per pooled axis
        The result's size.
    output_ratio : float or one float per pooled axis
        Instead of ``output_size``: the result has ``int(n * output_ratio)`` elements. Above 0
        and at most 1.
    axes : int or ints
        The pooled axes, by default the last ``len(kernel_size)``, or the last two.
    rng : int, numpy.random.Generator or None
        Where the random numbers come from: a seed, a generator, or fresh ones at every call.
    samples : array of floats from 0 to 1 (exclusively)
        The random numbers themselves, of the shape (the other axes..., number of pooled axes).
    return_indices : bool
        Also return each winner's place in the plane, int64.

    Returns
    -------
    array
        What ``x`` was (a pair with ``return_indices``).

    Raises
    ------
    TypeError
        For something else than a number where one belongs, and for unsupported dtypes.
    ValueError
        For sizes and ratios out of range, ``output_size + kernel_size - 1 > n``, both of
        ``output_size`` and ``output_ratio`` or none, samples of another shape or range.

    Notes
    -----
    Source: Graham, Fractional Max-Pooling, https://arxiv.org/abs/1412.6071; the sequence of
    windows is that of ``torch.nn.FractionalMaxPool2d``, in the arithmetic of the samples.

    Examples
    --------
    >>> import numpy as np
    >>> import infinitypool as ip
    >>> x = np.arange(10.0)
    >>> ip.fractional_max_pool(x, (2,), output_size=6, samples=np.array([0.5]))
    array([1., 3., 5., 6., 8., 9.])
    >>> ip.fractional_max_pool(np.zeros((3, 9, 12)), 2, output_ratio=0.6, rng=0).shape
    (3, 5, 7)
    """
    function = "fractional_max_pool"
    array, bits, restore = incoming(function, "x", x)
    dtype = dtype_name(function, array, bits)
    given = resolve_axes(function, axes, kernel_size, array.ndim)
    pooled = tuple(sorted(given))
    kernels, outs = fractional_sizes(
        function,
        kernel_size,
        output_size=output_size,
        output_ratio=output_ratio,
        axes=given,
        sizes=[array.shape[axis] for axis in given],
    )
    if not is_floating(dtype):
        floats = ", ".join(name for name in ITEMSIZE if is_floating(name))
        raise TypeError(f"{function}: x has dtype {dtype}, which must be one of {floats}")
    with_indices = check_bool(function, "return_indices", return_indices)
    outer = [n for axis, n in enumerate(array.shape) if axis - array.ndim not in pooled]
    numbers = _samples(function, samples, rng, (*outer, len(given)))
    # Entries belong to the axes as given; from here on, axes ascend.
    numbers = numbers[..., [given.index(axis) for axis in pooled]]
    starts = fractional_starts(numbers, [array.shape[axis] for axis in pooled], kernels, outs)
    array = aligned(array)
    values = _new(_with_sizes(array.shape, pooled, outs), array)
    places = _new(values.shape, array, np.dtype(np.int64)) if with_indices else None
    if values.size:
        key = (pooled, dtype, array.shape, array.strides, kernels, outs, with_indices)
        plan = _plans.get(key) or _plans.keep(
            key,
            _core.Fractional(
                dtype,
                array.shape,
                element_strides(array),
                element_strides(values),
                [axis + array.ndim for axis in pooled],
                kernels,
                outs,
                "plane" if with_indices else "none",
            ),
        )
        plan.run(
            address(array),
            address(values),
            0 if places is None else address(places),
            address(starts),
        )
    if restore is not None:
        values = restore(values, bits)
        places = None if places is None else restore(places)
    return values if places is None else (values, places)


def _samples(function: str, samples: Any, rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    if samples is None:
        return np.random.default_rng(
            rng if isinstance(rng, np.random.Generator) else draw_seed(function, rng)
        ).random(shape)
    if rng is not None:
        raise ValueError(f"{function}: rng={show(rng)} and samples exclude each other")
    array, bits, _ = incoming(function, "samples", samples)
    if bits is not None or array.dtype.kind != "f" or not array.dtype.isnative:
        raise TypeError(
            f"{function}: samples={show(samples)} must be an array of floats, not of "
            f"{bits or array.dtype}"
        )
    if array.shape != shape:
        raise ValueError(
            f"{function}: samples have the shape {array.shape}, which must be {shape}: a number "
            "for each pooled axis of each plane"
        )
    wrong = ~((array >= 0) & (array < 1))
    if wrong.any():
        at = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"{function}: samples hold {show(array[at].item())} at {at}, which must be at least 0 "
            "and below 1"
        )
    return array


# --- blurs ---------------------------------------------------------------------------------

# Our word for how the surroundings of an array are made up, and NumPy's.
_SURROUNDINGS = {"reflect": "reflect", "replicate": "edge", "zeros": None}


def blur_pool(
    x: Any,
    kernel_size: Sizes = 3,
    *,
    stride: Sizes = 2,
    padding: str | Sizes = "reflect",
    axes: Sizes | None = None,
) -> Any:
    """Blur with a binomial filter, then take every ``stride``-th element: antialiased striding.

    The weights are a row of Pascal's triangle over its sum (1 2 1 for three), along every axis.

    Parameters
    ----------
    x : array of any shape
        What :func:`max_pool` takes: floats.
    kernel_size, stride : int or one int per pooled axis
        The filter's length and the step.
    padding : "reflect", "replicate", "zeros", or int or one int per pooled axis
        What surrounds the array: itself mirrored, its border, or zeros, so wide that the result
        has ``ceil(n / stride)`` elements; or so many zeros on both sides.
    axes : int or ints
        The pooled axes, by default the last ``len(kernel_size)``, or the last two.

    Returns
    -------
    array
        What ``x`` was. Half precisions accumulate in float32.

    Raises
    ------
    TypeError
        For something else than a number or word where one belongs, and for unsupported dtypes.
    ValueError
        For sizes below 1, other words, an axis without elements.

    Notes
    -----
    Source: Zhang, Making Convolutional Networks Shift-Invariant Again,
    https://arxiv.org/abs/1904.11486.

    Examples
    --------
    >>> import numpy as np
    >>> import infinitypool as ip
    >>> ip.blur_pool(np.array([0.0, 0.0, 8.0, 0.0, 0.0, 0.0]), (3,))
    array([0., 4., 0.])
    >>> ip.blur_pool(np.ones((3, 5, 8)), padding="zeros").shape
    (3, 3, 4)
    """
    function = "blur_pool"
    array, bits, restore = incoming(function, "x", x)
    dtype = dtype_name(function, array, bits)
    given = resolve_axes(function, axes, kernel_size, array.ndim)
    if stride is None:
        raise TypeError(f"{function}: stride={stride} must be an int or {len(given)} ints")
    word = None
    if isinstance(padding, str):
        word = check_word(function, "padding", padding, tuple(_SURROUNDINGS))
        padding = 0
    spec = pool_spec(function, "blur", kernel_size, stride=stride, padding=padding, axes=given)
    spec.check_input(array.shape, dtype, REDUCERS["blur"]["dtypes"])
    for axis in spec.axes:
        if array.shape[axis] == 0:
            raise ValueError(f"{function}: x has no elements along axis {axis}")
    if word is not None:
        pairs = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in spec.kernel_size]
        mode = _SURROUNDINGS[word]
        if mode is not None:
            _check_reflection(function, word, spec, pairs, array.shape)
            around = [(0, 0)] * array.ndim
            for axis, pair in zip(spec.axes, pairs, strict=True):
                around[axis] = pair
            check_bytes(
                function,
                f"kernel_size={show(kernel_size)}",
                [n + sum(pair) for n, pair in zip(array.shape, around, strict=True)],
                WIDEST,
                NUMPY,
            )
            array = np.pad(array, around, mode)
            pairs = [(0, 0)] * len(pairs)
        spec = pool_spec(
            function, "blur", spec.kernel_size, stride=spec.stride, padding=pairs, axes=spec.axes
        )
    call = Call(spec, "none", "propagate", 0, False, None, False, REDUCERS["blur"]["dtypes"], True)
    result = compute(call, aligned(array), bits)[0]
    return result if restore is None else restore(result, bits)


def _check_reflection(
    function: str,
    word: str,
    spec: PoolSpec,
    pairs: Sequence[tuple[int, int]],
    shape: tuple[int, ...],
) -> None:
    for axis, kernel, pair in zip(spec.axes, spec.kernel_size, pairs, strict=True):
        if word == "reflect" and max(pair) >= shape[axis]:
            raise ValueError(
                f'{function}: padding="reflect" mirrors {max(pair)} elements for '
                f"kernel_size={kernel}, but x has {shape[axis]} along axis {axis}, and the first is "
                'not mirrored; "replicate" and "zeros" have no such bound'
            )


# --- pyramids ------------------------------------------------------------------------------


def spatial_pyramid_pool(
    x: Any,
    levels: Sequence[int] = (1, 2, 4),
    *,
    reducer: str = "max",
    axes: Sizes | None = None,
) -> Any:
    """Adaptive pooling to several sizes, side by side: a fixed length from any picture.

    Parameters
    ----------
    x : array of any shape
        What the window function of the ``reducer`` takes.
    levels : int or ints
        The sizes; a level of 4 pools every pooled axis to 4 elements.
    reducer : str
        What a window is reduced to: "max", "min", "avg", "sum", "lp", "rms", "gem",
        "log_sum_exp", "soft" or "median".
    axes : int or ints
        The pooled axes, by default the last two.

    Returns
    -------
    array
        The other axes, and behind them one with the results of all levels in order, each row by
        row: ``sum(level ** len(axes) for level in levels)`` elements.

    Raises
    ------
    TypeError
        For something else than a number where one belongs, and for unsupported dtypes.
    ValueError
        For levels below 1 or larger than a pooled axis, and an unknown reducer.

    Notes
    -----
    Source: He, Zhang, Ren and Sun, Spatial Pyramid Pooling in Deep Convolutional Networks for
    Visual Recognition, https://arxiv.org/abs/1406.4729.

    Examples
    --------
    >>> import numpy as np
    >>> import infinitypool as ip
    >>> ip.spatial_pyramid_pool(np.arange(1, 17).reshape(4, 4), (1, 2))
    array([16,  6,  8, 14, 16])
    >>> ip.spatial_pyramid_pool(np.zeros((8, 3, 31, 47))).shape
    (8, 3, 21)
    """
    function = "spatial_pyramid_pool"
    choice = [
        kind.name
        for kind in KINDS.values()
        if kind.adaptive and all(a.default is not REQUIRED for a in kind.arguments)
    ]
    kind = KINDS[check_word(function, "reducer", reducer, choice)]
    array, bits, restore = incoming(function, "x", x)
    dtype = dtype_name(function, array, bits)
    given = resolve_axes(function, (-2, -1) if axes is None else axes, None, array.ndim)
    sizes = _levels(function, levels)
    for axis in given:
        if sizes and max(sizes) > array.shape[axis]:
            raise ValueError(
                f"{function}: levels={show(levels)} hold {max(sizes)}, more than the "
                f"{array.shape[axis]} elements of x along axis {axis}"
            )
    array = aligned(array)
    reduction = kind.reduce(function, {}, NUMPY)
    dtypes = REDUCERS[kind.reducer]["dtypes"]
    parts = []
    for level in sizes:
        spec = adaptive_spec(
            function, reduction.reducer, level, axes=given, parameters=reduction.parameters
        )
        spec.check_input(array.shape, dtype, dtypes)
        call = Call(spec, "none", "propagate", 0, False, None, False, dtypes, True)
        (part,) = compute(call, array, bits)
        part = np.moveaxis(part, spec.axes, range(-len(given), 0))
        bins = level ** len(given)
        parts.append(part.reshape(*part.shape[: part.ndim - len(given)], bins))
    result = np.concatenate(parts, axis=-1)
    return result if restore is None else restore(result, bits)


def _levels(function: str, levels: Any) -> tuple[int, ...]:
    one = integer(levels)
    try:
        found = (one,) if one is not None else tuple(map(integer, levels))
    except TypeError:
        found = (None,)
    if None in found or isinstance(levels, (str, bytes)):
        raise TypeError(f"{function}: levels={show(levels)} must be an int or a sequence of ints")
    if not found or min(found) < 1:
        raise ValueError(f"{function}: levels={show(levels)} must hold sizes of at least 1")
    return found

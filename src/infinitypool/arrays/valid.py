"""Which elements take part in a window: masks, NaNs and least counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bfloat16 import narrow, widen
from ..plan import contiguous_strides, memory_order
from ..spec import PoolSpec, show
from .incoming import aligned, element_strides, incoming, overlap

_NAN = 0x7FC0  # as bfloat16


def is_nan(array: np.ndarray, bits: str | None) -> np.ndarray:
    """Where NaNs are, for arrays of floats."""
    return np.isnan(array) if bits is None else (array & 0x7FFF) > 0x7F80


def set_nan(values: np.ndarray, bits: str | None, where: np.ndarray) -> None:
    values[where] = np.nan if bits is None else _NAN


def absolute(array: np.ndarray, bits: str | None) -> np.ndarray:
    return np.abs(array) if bits is None else array & np.uint16(0x7FFF)


def drop_infinity(values: np.ndarray, bits: str | None) -> None:
    """Zero in place of minus infinity."""
    if bits is None:
        values[values == -np.inf] = 0
    else:
        values[values == 0xFF80] = 0


def mixture(alpha: float, top: np.ndarray, mean: np.ndarray, bits: str | None) -> np.ndarray:
    """``alpha * top + (1 - alpha) * mean``, in at least float32. A share of 0 takes nothing."""
    dtype = top.dtype
    if bits is not None:
        top, mean = widen(top), widen(mean)
    elif dtype.itemsize < 4:
        top, mean = top.astype(np.float32), mean.astype(np.float32)
    kind = top.dtype.type
    with np.errstate(invalid="ignore", over="ignore"):
        if alpha == 1:  # a window without elements has no mean, and a largest of minus infinity
            result = np.where(np.isnan(mean) & (top == -np.inf), mean, top)
        else:
            result = kind(1 - alpha) * mean
            if alpha:
                result += kind(alpha) * top
        return narrow(result) if bits is not None else result.astype(dtype, copy=False)


# --- where= --------------------------------------------------------------------------------


def take_mask(
    function: str, where: Any, array: np.ndarray, targets: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The array and its mask, one byte per element, which share their strides in elements.

    A mask that already does is used as it is, any other is copied; an array that is not dense
    in memory is copied as well.
    """
    mask, bits, _ = incoming(function, "where", where)
    if bits is not None or mask.dtype != np.bool_:
        found = bits or mask.dtype
        raise TypeError(
            f"{function}: where={show(where)} must be an array of bools, not of {found}"
            if mask.ndim == 0
            else f"{function}: where must be an array of bools, not of {found}"
        )
    for target in targets:
        if overlap(target, mask):
            raise ValueError(f"{function}: out overlaps where in memory")
    try:
        full = np.broadcast_to(mask, array.shape)
    except ValueError:
        raise ValueError(
            f"{function}: where has shape {mask.shape}, which does not broadcast to that of x, "
            f"{array.shape}"
        ) from None
    order = memory_order(array.shape, array.strides)
    if not _follow(array, contiguous_strides(array.shape, order)):
        array = np.array(array, order="K", copy=True)
        order = memory_order(array.shape, array.strides)
    if not _follow(full, element_strides(array)):
        dense = np.empty([array.shape[axis] for axis in order], np.bool_)
        copy = dense.transpose(np.argsort(order))
        copy[...] = full
        full = copy
    return array, aligned(full).view(np.uint8)


def _follow(array: np.ndarray, strides: tuple[int, ...]) -> bool:
    return all(
        step == wanted * array.itemsize
        for size, step, wanted in zip(array.shape, array.strides, strides, strict=True)
        if size > 1
    )


# --- nan_policy="raise" --------------------------------------------------------------------


def first_nan(
    spec: PoolSpec, array: np.ndarray, bits: str | None, mask: np.ndarray | None
) -> tuple[int, ...] | None:
    """Where the first NaN in C order stands that takes part in any window."""
    found = is_nan(array, bits)
    if mask is not None:
        found &= mask.view(np.bool_)
    sizes = [array.shape[axis] for axis in spec.axes]
    for axis, n, window in zip(spec.axes, sizes, spec.windows(sizes), strict=True):
        if len(window) > 1:  # adaptive windows leave nothing out
            read = _read_by(n, *window)
            found &= read.reshape([-1] + [1] * (-axis - 1))
    place = int(found.argmax()) if found.size else 0
    at = np.unravel_index(place, found.shape) if found.size else ()
    return tuple(map(int, at)) if found.size and found[at] else None


def _read_by(
    n: int, kernel: int, stride: int, before: int, after: int, dilation: int, out: int
) -> np.ndarray:
    """Which of ``n`` elements along an axis lie in a window."""
    read = np.zeros(n, np.bool_)
    starts = np.arange(out) * stride - before
    for tap in range(min(kernel, (n + before) // dilation + 1)):
        places = starts + tap * dilation
        read[places[(places >= 0) & (places < n)]] = True
    return read


def valid_elements(
    array: np.ndarray, bits: str | None, mask: np.ndarray | None, omit: bool, spec: PoolSpec
) -> np.ndarray:
    """Ones, as bytes, for elements that take part. Broadcasts to the array's shape, or has ones in
    place of the axes that are not pooled where all elements take part."""
    if omit:
        found = ~is_nan(array, bits)
        if mask is not None:
            found &= mask.view(np.bool_)
        return found.view(np.uint8)
    if mask is not None:
        return mask
    pooled = {axis + array.ndim for axis in spec.axes}
    shape = [n if axis in pooled else 1 for axis, n in enumerate(array.shape)]
    return np.broadcast_to(np.uint8(1), shape)


# --- indices="batch" -----------------------------------------------------------------------


def whole_places(spec: PoolSpec, shape: tuple[int, ...], places: np.ndarray) -> None:
    """Turn places in the plane of pooled axes into places in the whole array, in C order."""
    none = places < 0
    steps = contiguous_strides(shape)
    pooled = [axis + len(shape) for axis in spec.axes]
    inner = steps[pooled[-1]]
    if pooled == list(range(pooled[0], pooled[-1] + 1)):
        if inner > 1:
            places *= inner
    else:
        rest, total = places, np.zeros_like(places)
        for axis in reversed(pooled):
            rest, at = np.divmod(rest, max(shape[axis], 1))
            total += at * steps[axis]
        places[...] = total
    for axis, (n, step) in enumerate(zip(shape, steps, strict=True)):
        if axis not in pooled:
            places += (np.arange(n) * step).reshape([-1] + [1] * (len(shape) - axis - 1))
    places[none] = -1

"""Pooling by PyTorch's own operators: for other devices, layouts and kinds of tensors.

What PyTorch's operators can say goes to them as it is. Our own forms, padding that differs
between the two ends and dilation in an average, are composed from padding, slices and PyTorch's
operators; that is slower and takes more memory, but means the same.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import Geometry, PoolSpec, spec_from_text


def _pool(x: Tensor, text: str, return_indices: bool) -> Any:
    spec = spec_from_text(text)
    if spec.pytorch_form:
        padding = [before for before, _ in spec.padding or ()]
        return _pytorch(x, spec, padding, spec.dilation, return_indices)
    shape = tuple(x.shape)
    spec.check_input(shape, str(x.dtype), [str(x.dtype)])
    geometry = spec.geometry([shape[axis] for axis in spec.axes])
    if spec.reducer == "mean":
        return _average(x, spec, geometry)
    return _maximum(x, spec, geometry, return_indices)


def _pytorch(
    x: Tensor, spec: PoolSpec, padding: list[int], dilation: Any, return_indices: bool
) -> Any:
    n = len(spec.axes)
    common = x, list(spec.kernel_size), list(spec.stride), padding
    if spec.reducer == "max":
        function = getattr(F, f"max_pool{n}d")
        return function(
            *common, list(dilation), ceil_mode=spec.ceil_mode, return_indices=return_indices
        )
    function = getattr(F, f"avg_pool{n}d")
    divisor = [] if n == 1 else [spec.divisor_override or None]
    return function(*common, spec.ceil_mode, spec.count_include_pad, *divisor)


def _ends(spec: PoolSpec, shape: tuple[int, ...], geometry: Geometry) -> list[int]:
    """The widths for ``F.pad`` after which every window lies inside. Negative ones crop."""
    widths = []
    for i in reversed(range(len(spec.axes))):
        span = spec.dilation[i] * (spec.kernel_size[i] - 1) + 1
        covered = (geometry.output_size[i] - 1) * spec.stride[i] + span
        before = geometry.padding_before[i]
        widths += [before, covered - before - shape[spec.axes[i]]]
    return widths


def _lowest(dtype: torch.dtype) -> float | int:
    if dtype == torch.bool:
        return 0
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _maximum(x: Tensor, spec: PoolSpec, geometry: Geometry, return_indices: bool) -> Any:
    padded = F.pad(x, _ends(spec, tuple(x.shape), geometry), value=_lowest(x.dtype))
    # Windows now fit exactly, so neither padding nor rounding is left to do.
    exact = replace(spec, ceil_mode=False)
    zeros = [0] * len(spec.axes)
    found = _pytorch(padded, exact, zeros, spec.dilation, return_indices)
    if not return_indices:
        return found
    values, indices = found
    return values, _places(indices, padded.shape, x, spec, geometry)


def _places(
    indices: Tensor, padded: torch.Size, x: Tensor, spec: PoolSpec, geometry: Geometry
) -> Tensor:
    """Places in the padded planes as places in those of ``x``.

    Padding only comes out as the winner where every element of the window equals it. Then the
    first of these is the winner, and -1 says that there is none.
    """
    place, inside, step = 0, True, 1
    first, exists = torch.zeros((), dtype=torch.int64, device=x.device), True
    for i in reversed(range(len(spec.axes))):
        axis = spec.axes[i]
        size, before, dilation = x.shape[axis], geometry.padding_before[i], spec.dilation[i]
        position = indices % padded[axis] - before
        indices = indices // padded[axis]
        inside = (position >= 0) & (position < size) & inside
        place = place + position * step
        # Windows start here, and this many of their elements lie before the input.
        start = torch.arange(geometry.output_size[i], device=x.device) * spec.stride[i] - before
        start = start.reshape(-1, *[1] * (-axis - 1))
        outside = (dilation - 1 - start).clamp(min=0) // dilation
        start = start + outside * dilation
        exists = (outside < spec.kernel_size[i]) & (start < size) & exists
        first = first + start * step
        step = step * size
    return torch.where(inside, place, torch.where(exists, first, -1))


def _average(x: Tensor, spec: PoolSpec, geometry: Geometry) -> Tensor:
    total = _window_sums(F.pad(x, _ends(spec, tuple(x.shape), geometry)), spec, geometry)
    if spec.divisor_override:
        divisor: Any = spec.divisor_override
    else:
        # What counts as 1: the input's elements, and the padding where it counts.
        counted = torch.ones(
            [x.shape[axis] for axis in spec.axes], dtype=torch.int64, device=x.device
        )
        widths = _ends(spec, tuple(x.shape), geometry)
        if spec.count_include_pad:
            ends = [
                width
                for i in reversed(range(len(spec.axes)))
                for width in (geometry.padding_before[i], geometry.padding_after[i])
            ]
            counted = F.pad(counted, ends, value=1)
            widths = [width - end for width, end in zip(widths, ends, strict=True)]
        divisor = _window_sums(F.pad(counted, widths), spec, geometry)
    if x.dtype.is_floating_point:
        return (total / divisor).to(x.dtype)
    if not spec.divisor_override:
        divisor = divisor.clamp(min=1)  # the sum is zero where nothing counts
    return torch.div(total, divisor, rounding_mode="trunc").to(x.dtype)


def _window_sums(padded: Tensor, spec: PoolSpec, geometry: Geometry) -> Tensor:
    """Sums over all windows, axis by axis; half precisions in float32."""
    if padded.dtype in (torch.float16, torch.bfloat16):
        padded = padded.float()
    elif not padded.dtype.is_floating_point:
        padded = padded.long()
    for i, axis in enumerate(spec.axes):
        last = (geometry.output_size[i] - 1) * spec.stride[i] + 1
        index: list[Any] = [slice(None)] * padded.ndim
        parts = []
        for place in range(spec.kernel_size[i]):
            start = place * spec.dilation[i]
            index[axis] = slice(start, start + last, spec.stride[i])
            parts.append(padded[tuple(index)])
        padded = sum(parts[1:], start=parts[0])
    return padded


# What the operator that gives this beside the values gives elsewhere.
POOL = {
    "none": partial(_pool, return_indices=False),
    "plane": partial(_pool, return_indices=True),
    "offset": None,
}

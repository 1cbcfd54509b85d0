"""Pooling by PyTorch's own operators: for other devices, layouts and kinds of tensors.

What PyTorch's operators can say goes to them as it is. Our own forms, padding that differs
between the two ends and dilation in an average, are composed from padding, slices and PyTorch's
operators; that is slower and takes more memory, but means the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import PoolSpec, spec_from_text


def pool(x: Tensor, text: str) -> Tensor:
    """What the operator named in the spec gives, without indices."""
    return _pool(x, spec_from_text(text), False)


def pool_with_indices(x: Tensor, text: str) -> tuple[Tensor, Tensor]:
    """What the operator named in the spec gives, with indices."""
    return _pool(x, spec_from_text(text), True)


def _pool(x: Tensor, spec: PoolSpec, return_indices: bool) -> Any:
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


def _ends(spec: PoolSpec, shape: tuple[int, ...], geometry: Any) -> list[int]:
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


def _maximum(x: Tensor, spec: PoolSpec, geometry: Any, return_indices: bool) -> Any:
    padded = F.pad(x, _ends(spec, tuple(x.shape), geometry), value=_lowest(x.dtype))
    # Windows now fit exactly, so neither padding nor rounding is left to do.
    exact = replace(spec, ceil_mode=False)
    zeros = [0] * len(spec.axes)
    if not return_indices:
        return _pytorch(padded, exact, zeros, spec.dilation, False)
    values, indices = _pytorch(padded, exact, zeros, spec.dilation, True)
    plane, inside, step = 0, True, 1
    first, exists = torch.zeros((), dtype=torch.int64, device=x.device), True
    for i in reversed(range(len(spec.axes))):
        size, axis = x.shape[spec.axes[i]], spec.axes[i]
        position = indices % padded.shape[axis] - geometry.padding_before[i]
        indices = indices // padded.shape[axis]
        inside = (position >= 0) & (position < size) & inside
        plane = plane + position * step
        # The first element of every window along this axis, where it has one.
        start = torch.arange(geometry.output_size[i], device=x.device) * spec.stride[i]
        start = (start - geometry.padding_before[i]).reshape(-1, *[1] * (-axis - 1))
        outside = (spec.dilation[i] - 1 - start).clamp(min=0) // spec.dilation[i]
        start = start + outside * spec.dilation[i]
        exists = (outside < spec.kernel_size[i]) & (start < size) & exists
        first = first + start * step
        step = step * size
    # Padding only comes out first where every element of the window equals it.
    return values, torch.where(inside, plane, torch.where(exists, first, -1))


def _average(x: Tensor, spec: PoolSpec, geometry: Any) -> Tensor:
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


def _window_sums(padded: Tensor, spec: PoolSpec, geometry: Any) -> Tensor:
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

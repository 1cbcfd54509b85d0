"""Pooling by PyTorch's own operators: for other devices, layouts and kinds of tensors.

What PyTorch's operators can say goes to them as it is. Our own forms, padding that differs
between the two ends and dilation in an average, are composed from padding, slices and PyTorch's
operators; that is slower and takes more memory, but means the same. Reducers that PyTorch does not
have are formulas over the elements of every window, laid out along an axis of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import comb, prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import Geometry, PoolSpec, spec_from_text


def _pool(x: Tensor, text: str, *seed: Tensor | None, second: str) -> Any:
    """``second`` says what is wanted beside the values: "none", "plane" or "offset"."""
    spec = spec_from_text(text)
    if spec.reducer not in _WORDS or second == "offset":
        return _formula(x, spec, second, *seed)
    return_indices = second == "plane"
    if spec.adaptive is not None:
        function = getattr(F, f"adaptive_{_WORDS[spec.reducer]}_pool{len(spec.axes)}d")
        sizes = spec.output_size([x.shape[axis] for axis in spec.axes])
        return function(x, sizes, *([True] if return_indices else []))
    if spec.pytorch_form and not (spec.divisor_override and len(spec.axes) == 1):
        padding = [before for before, _ in spec.padding or ()]
        return _pytorch(x, spec, padding, spec.dilation, return_indices)
    shape = tuple(x.shape)
    spec.check_input(shape, str(x.dtype), [str(x.dtype)])
    geometry = spec.geometry([shape[axis] for axis in spec.axes])
    if spec.reducer == "mean":
        return _average(x, spec, geometry)
    return _maximum(x, spec, geometry, return_indices)


_WORDS = {"max": "max", "mean": "avg"}


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
    divisor = [] if n == 1 else [spec.divisor_override or None]  # which sequences do not have
    return function(*common, spec.ceil_mode, spec.count_include_pad, *divisor)


def _ends(spec: PoolSpec, shape: tuple[int, ...], geometry: Geometry) -> list[int]:
    """The widths for ``F.pad`` after which every window lies inside. Negative ones crop."""
    widths = []
    for i in reversed(range(len(spec.axes))):
        before, after = geometry.padding_before[i], geometry.padding_after[i]
        if spec.ceil_mode or spec.partial:
            span = spec.dilation[i] * (spec.kernel_size[i] - 1) + 1
            covered = (geometry.output_size[i] - 1) * spec.stride[i] + span
            after = covered - before - shape[spec.axes[i]]
        widths += [before, after]
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
        rows = indices // padded[axis]
        position = indices - rows * padded[axis] - before
        indices = rows
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
    divisor = _divisor(x, spec, geometry)
    if x.dtype.is_floating_point:
        return (total / divisor).to(x.dtype)
    if not spec.divisor_override:
        divisor = divisor.clamp(min=1)  # the sum is zero where nothing counts
    return torch.div(total, divisor, rounding_mode="trunc").to(x.dtype)


def _divisor(x: Tensor, spec: PoolSpec, geometry: Geometry) -> Any:
    """What counts as 1 in every window: the input's elements, and the padding where it counts."""
    if spec.divisor_override:
        return spec.divisor_override
    counted = torch.ones([x.shape[axis] for axis in spec.axes], dtype=torch.int64, device=x.device)
    widths = _ends(spec, tuple(x.shape), geometry)
    if spec.count_include_pad:
        ends = [
            width
            for i in reversed(range(len(spec.axes)))
            for width in (geometry.padding_before[i], geometry.padding_after[i])
        ]
        counted = F.pad(counted, ends, value=1)
        widths = [width - end for width, end in zip(widths, ends, strict=True)]
    return _window_sums(F.pad(counted, widths), spec, geometry)


def _window_sums(padded: Tensor, spec: PoolSpec, geometry: Geometry) -> Tensor:
    """Sums over all windows, axis by axis; half precisions in float32."""
    if padded.dtype in (torch.float16, torch.bfloat16):
        padded = padded.float()
    elif not padded.dtype.is_floating_point:
        padded = padded.long()
    return folded(padded, spec, geometry.output_size, added)


def folded(
    padded: Tensor,
    spec: PoolSpec,
    outputs: Sequence[int],
    fold: Callable[[list[Tensor]], Tensor],
) -> Tensor:
    """Windows that all lie inside, reduced axis by axis: ``fold`` takes the first elements of all
    windows along one, the second ones, and so on.
    """
    for i, axis in enumerate(spec.axes):
        last = (outputs[i] - 1) * spec.stride[i] + 1
        index: list[Any] = [slice(None)] * padded.ndim
        parts = []
        for place in range(spec.kernel_size[i]):
            start = place * spec.dilation[i]
            index[axis] = slice(start, start + last, spec.stride[i])
            parts.append(padded[tuple(index)])
        padded = fold(parts)
    return padded


def added(parts: list[Tensor]) -> Tensor:
    """Their sum, from the first on."""
    return sum(parts[1:], start=parts[0])


# --- formulas ------------------------------------------------------------------------------


class _Windows(NamedTuple):
    """The elements of every window along the last axis, and what is known of them."""

    elements: Tensor  # (..., outputs, taps), half precisions in float32
    valid: Tensor  # (outputs, taps): whether a tap lies inside the input
    places: Tensor  # (outputs, taps): its position in the plane
    kernel_size: Sequence[int]

    def filled(self, value: float) -> Tensor:
        return torch.where(self.valid, self.elements, value)


def _positions(
    window: tuple[int, ...], size: int, largest: int, device: Any
) -> tuple[Tensor, Tensor]:
    """Where the taps of every output of one axis lie, and which of them are inside."""
    outputs = torch.arange(window[-1], device=device)
    if len(window) == 1:
        first = torch.div(outputs * size, window[0], rounding_mode="floor")
        last = (outputs + 1) * size + window[0] - 1
        count = torch.div(last, window[0], rounding_mode="floor") - first
        taps = torch.arange(largest, device=device)
        positions = first[:, None] + taps
        valid = taps < count[:, None]
    else:
        kernel, stride, before, _, dilation, _ = window
        taps = torch.arange(kernel, device=device)
        positions = (outputs * stride - before)[:, None] + taps * dilation
        valid = (positions >= 0) & (positions < size)
    return positions.clamp(0, size - 1), valid


def _largest_windows(spec: PoolSpec, sizes: Sequence[int]) -> Sequence[int]:
    """How many taps there are along each axis: as many as the largest window has, or more."""
    if spec.adaptive is None or all(type(size) is int for size in sizes):
        return spec.largest_windows(sizes)
    outputs = spec.output_size(sizes)
    # Without negative numbers, whose quotients round to zero in some programs that are exported.
    return [(size + out - 1) // out + 1 for size, out in zip(sizes, outputs, strict=True)]


def _windows(x: Tensor, spec: PoolSpec) -> _Windows:
    n = len(spec.axes)
    sizes = [x.shape[axis] for axis in spec.axes]
    valid: Any = torch.ones((), dtype=torch.bool, device=x.device)
    places: Any = torch.zeros((), dtype=torch.int64, device=x.device)
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    first = x.ndim - n
    largest = _largest_windows(spec, sizes)
    for i, (window, size) in enumerate(zip(spec.windows(sizes), sizes, strict=True)):
        positions, inside = _positions(window, size, largest[i], x.device)
        x = x.index_select(first + i, positions.flatten())
        x = x.unflatten(first + i, positions.shape).movedim(first + i + 1, -1)
        # Its outputs and taps among those of all axes.
        shape = [1] * 2 * n
        shape[i], shape[n + i] = positions.shape
        valid = valid & inside.reshape(shape)
        places = places * size + positions.reshape(shape)
    return _Windows(x.flatten(-n), valid.flatten(-n), places.flatten(-n), largest)


def _extremum(w: _Windows, sign: int) -> Tensor:
    """The first of equal winners; the last NaN wins over everything."""
    dtype = w.elements.dtype
    if dtype == torch.bool:
        return _extremum(w._replace(elements=w.elements.to(torch.uint8)), sign)
    if dtype.is_floating_point:
        lost = -sign * torch.inf
    else:
        lost = torch.iinfo(dtype).min if sign > 0 else torch.iinfo(dtype).max
    elements = w.filled(lost)
    best = elements.detach().amax(-1, True) if sign > 0 else elements.detach().amin(-1, True)
    # Padding never wins, not even over its equals.
    first = ((elements == best) & w.valid).to(torch.uint8).argmax(-1)
    if not dtype.is_floating_point:
        return first
    nans = (elements.isnan() & w.valid).flip(-1)
    last = nans.shape[-1] - 1 - nans.to(torch.uint8).argmax(-1)
    return torch.where(nans.any(-1), last, first)


def _safe_root(s: Tensor, exponent: float) -> Tensor:
    """The signed root, whose gradient is zero at zero."""
    zero = s == 0
    root = torch.where(zero, 1, s.abs()) ** (1 / exponent)
    return torch.where(zero, 0, root) * s.sign().detach()


def _lp(w: _Windows, p: float) -> Tensor:
    return _safe_root((w.filled(0) ** p).sum(-1), p)


def _power_mean(w: _Windows, p: float, floor: float) -> Tensor:
    raised = w.elements.clamp(min=floor) if floor > -torch.inf else w.elements
    power = torch.where(w.valid, raised, 1) ** p
    return _safe_root(torch.where(w.valid, power, 0).sum(-1) / w.valid.sum(-1), p)


def _raised(w: _Windows, p: float, floor: float = -torch.inf) -> Tensor:
    """Powers of the elements, where they are not raised to a floor; zeros outside."""
    base = torch.where(w.valid & (w.elements >= floor), w.elements, 1)
    return torch.where(w.valid & (w.elements >= floor), base**p, 0)


def _lp_slope(w: _Windows, p: float) -> Tensor:
    total = (w.filled(0) ** p).sum(-1, True)
    return _raised(w, p - 1) * _safe_root(total.abs(), p / (1 - p) if p != 1 else torch.inf)


def _power_mean_slope(w: _Windows, p: float, floor: float) -> Tensor:
    count = w.valid.sum(-1, True)
    raised = w.elements.clamp(min=floor) if floor > -torch.inf else w.elements
    power = torch.where(w.valid, raised, 1) ** p
    mean = torch.where(w.valid, power, 0).sum(-1, True) / count
    root = _safe_root(mean.abs(), p / (1 - p) if p != 1 else torch.inf)
    return _raised(w, p - 1, floor) * root / count


def _log_sum_exp(w: _Windows, beta: float) -> Tensor:
    return torch.where(w.valid, beta * w.elements, -torch.inf).logsumexp(-1) / beta


def _softmax(w: _Windows, beta: float) -> Tensor:
    return torch.where(w.valid, beta * w.elements, -torch.inf).softmax(-1)


def _soft(w: _Windows, beta: float) -> Tensor:
    mean = (w.filled(0) * torch.where(w.valid, _softmax(w, beta), 0)).sum(-1)
    return torch.where(w.valid.any(-1), mean, torch.nan)


def _soft_slope(w: _Windows, beta: float) -> Tensor:
    return _softmax(w, beta) * (1 + beta * (w.elements - _soft(w, beta)[..., None]))


def _binomial(w: _Windows) -> Tensor:
    weights = torch.ones(1, dtype=torch.float64)
    for k in w.kernel_size:
        row = torch.tensor([comb(k - 1, i) for i in range(k)], dtype=torch.float64) / 2.0 ** (k - 1)
        weights = torch.outer(weights, row).flatten()
    return weights.to(w.elements)


def _ranked(w: _Windows, q: float, method: float) -> Tensor:
    """Places of the element of the rank ``q * (count - 1)``, rounded as the method says."""
    rank = q * (w.valid.sum(-1) - 1).clamp(min=0).double()
    rank = (rank.floor, rank.floor, rank.ceil, rank.round)[int(method)]().long()
    order = w.elements.argsort(dim=-1, stable=True)
    outside = (~w.valid).expand_as(order).gather(-1, order).to(torch.uint8)
    order = order.gather(-1, outside.argsort(dim=-1, stable=True))  # padding behind everything
    place = order.gather(-1, rank.expand(order.shape[:-1])[..., None])[..., 0]
    return _first_nan(w, place)


def _first_nan(w: _Windows, place: Tensor) -> Tensor:
    """The place of a NaN where there is one."""
    if not w.elements.dtype.is_floating_point:
        return place
    nans = w.elements.isnan() & w.valid
    return torch.where(nans.any(-1), nans.to(torch.uint8).argmax(-1), place)


def _quantile(w: _Windows, q: float, method: float) -> Tensor:
    lower, higher = (_taken(w, _ranked(w, q, rounding)) for rounding in (1, 2))
    rank = q * (w.valid.sum(-1) - 1).clamp(min=0).double()
    fraction = rank - rank.floor()
    if w.elements.dtype.is_floating_point:
        between = lower + (higher - lower) * fraction.to(lower.dtype)
        values = torch.where(lower == higher, lower, between)
        return torch.where(w.valid.any(-1), values, torch.nan)
    values = (lower + (higher - lower) * fraction).round()
    return torch.where(w.valid.any(-1), values, 0)


def _uniform(seed: Tensor | None, shape: Sequence[int], device: Any) -> Tensor:
    """Numbers from 0 to below 1, float64: the seed's and the places' bits, well mixed.

    Source: SplitMix64, Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
    """
    places = torch.arange(prod(shape), device=device).reshape(shape)
    z = places * _GOLDEN + (0 if seed is None else seed.to(device))
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1]), (31, 1)):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor
    return (z >> 11 & (1 << 53) - 1).double() * 2.0**-53


# As signed numbers, in which products wrap in the same way.
_GOLDEN, *_MIX = (
    number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _drawn(w: _Windows, seed: Tensor | None) -> Tensor:
    """Places drawn with probabilities after the elements, by this seed.

    The draws are as good as those of the CPU's kernel, but not the same.
    """
    weights = w.filled(0).clamp(min=0).detach()
    weights = torch.where((weights == torch.inf).any(-1, True), weights == torch.inf, weights)
    weights = torch.where(weights.sum(-1, True) > 0, weights, w.valid.to(weights.dtype))
    sums = weights.cumsum(-1)
    draw = _uniform(seed, sums.shape[:-1], sums.device).to(sums.dtype)
    place = (sums <= (draw * sums[..., -1])[..., None]).sum(-1).clamp(max=sums.shape[-1] - 1)
    return _first_nan(w, place)


def _chances(w: _Windows) -> tuple[Tensor, Tensor]:
    """What elements are drawn after, and whether any is: all alike where none is positive."""
    weights = w.filled(0).clamp(min=0)
    some = weights.sum(-1, True) > 0
    return torch.where(some, weights, w.valid.to(weights.dtype)), some


def _expected(w: _Windows) -> Tensor:
    weights, _ = _chances(w)
    return (weights * w.filled(0)).sum(-1) / weights.sum(-1)


def _expected_slope(w: _Windows) -> Tensor:
    weights, some = _chances(w)
    mean = _expected(w)[..., None]
    slope = torch.where(some, torch.where(weights > 0, 2 * weights - mean, 0), weights)
    return slope / weights.sum(-1, True)


def _taken(w: _Windows, place: Tensor) -> Tensor:
    return w.elements.gather(-1, place[..., None])[..., 0]


class _Formula(NamedTuple):
    """A reducer's value, or the place of the element that it is.

    ``empty`` is what it selects from a window without elements, for floats and the others.
    ``slope`` is the derivative of a value by each of its elements.
    """

    value: Callable[..., Tensor] | None
    slope: Callable[..., Tensor] | None = None
    place: Callable[..., Tensor] | None = None
    selects: Callable[..., bool] = lambda *parameters: False
    empty: tuple[Any, Callable[[torch.dtype], Any]] = (torch.nan, lambda dtype: 0)


_FORMULAS = {
    "max": _Formula(
        None,
        place=lambda w: _extremum(w, 1),
        selects=lambda: True,
        empty=(-torch.inf, lambda d: torch.iinfo(d).min),
    ),
    "min": _Formula(
        None,
        place=lambda w: _extremum(w, -1),
        selects=lambda: True,
        empty=(torch.inf, lambda d: torch.iinfo(d).max),
    ),
    "sum": _Formula(lambda w: w.filled(0).sum(-1), lambda w: w.valid.to(w.elements)),
    "mean": _Formula(  # of adaptive windows
        lambda w: w.filled(0).sum(-1) / w.valid.sum(-1),
        lambda w: w.valid.to(w.elements) / w.valid.sum(-1, True),
    ),
    "lp": _Formula(_lp, _lp_slope),
    "power_mean": _Formula(_power_mean, _power_mean_slope),
    "log_sum_exp": _Formula(_log_sum_exp, _softmax),
    "soft": _Formula(_soft, _soft_slope),
    "blur": _Formula(lambda w: (w.filled(0) * _binomial(w)).sum(-1), _binomial),
    "quantile": _Formula(_quantile, place=_ranked, selects=lambda q, method: method != 0),
    "stochastic": _Formula(
        lambda w, expectation, seed=None: _expected(w),
        lambda w, expectation: _expected_slope(w),
        lambda w, expectation, seed=None: _drawn(w, seed),
        lambda expectation, seed=None: not expectation,
    ),
}


def _formula(x: Tensor, spec: PoolSpec, second: str, *seed: Tensor | None) -> Any:
    formula, parameters = _FORMULAS[spec.reducer], (*spec.parameters, *seed)
    w = _windows(x, spec)
    if not formula.selects(*parameters):
        return formula.value(w, *parameters).to(x.dtype)
    place, some = formula.place(w, *parameters), w.valid.any(-1)
    values = _taken(w, place).to(x.dtype)
    if x.dtype == torch.bool:
        values = values & some if spec.reducer == "max" else values | ~some
    else:
        empty = formula.empty[0] if x.is_floating_point() else formula.empty[1](x.dtype)
        values = torch.where(some, values, empty)
    if second == "none":
        return values
    if second == "offset":
        return values, place.to(getattr(torch, spec.offset_dtype_for(_sizes(spec, x.shape))))
    places = w.places.expand_as(w.elements).gather(-1, place[..., None])[..., 0]
    return values, torch.where(some, places, -1)


def _sizes(spec: PoolSpec, shape: Sequence[int]) -> list[int]:
    return [shape[axis] for axis in spec.axes]


# What the operator that gives this beside the values is composed of.
_SECONDS = ("none", "plane", "offset")
POOL = {second: partial(_pool, second=second) for second in _SECONDS}


# --- gradients -----------------------------------------------------------------------------


def _places_of(offsets: Tensor, size: Sequence[int], spec: PoolSpec) -> tuple[Tensor, Tensor]:
    """Winners' places in the plane from those in their windows, and whether they lie in the input."""
    sizes = _sizes(spec, size)
    rest: Tensor = offsets.long()
    places: Any = torch.zeros((), dtype=torch.int64, device=offsets.device)
    inside: Any = torch.ones((), dtype=torch.bool, device=offsets.device)
    step = 1
    windows, largest = spec.windows(sizes), spec.largest_windows(sizes)
    for i in reversed(range(len(sizes))):
        positions, valid = _positions(windows[i], sizes[i], largest[i], offsets.device)
        output = torch.arange(positions.shape[0], device=offsets.device)
        output = output.reshape(-1, *[1] * (-spec.axes[i] - 1))
        tap = rest % largest[i]
        places = places + positions[output, tap] * step
        inside = inside & valid[output, tap]
        rest, step = rest // largest[i], step * sizes[i]
    return places, inside


def winners(grad: Tensor, offsets: Tensor, size: Sequence[int], text: str) -> Tensor:
    """What lies at the winners' places of something of the input's ``size``."""
    spec = spec_from_text(text)
    places, inside = _places_of(offsets, size, spec)
    n = len(spec.axes)
    # Autograd's own batches of gradients know reshape, but not flatten.
    planes = grad.reshape((*size[:-n], prod(_sizes(spec, size))))
    found = planes.gather(-1, places.flatten(-n)).reshape(places.shape)
    return torch.where(inside, found, 0)


def pool_backward(
    grad: Tensor,
    offsets: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    text: str,
    x: Tensor | None = None,
    result: Tensor | None = None,
) -> Tensor:
    """The gradient of the input, which can be differentiated again."""
    spec = spec_from_text(text)
    n = len(spec.axes)
    wide = grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad
    planes = wide.new_zeros((*size[:-n], prod(_sizes(spec, size))))
    if offsets is not None:
        places, inside = _places_of(offsets, size, spec)
        sources = torch.where(inside, wide, 0).flatten(-n)
        planes = planes.scatter_add(-1, places.flatten(-n), sources)
    else:
        if x is None:  # of an operation that is linear in its elements
            x = grad.new_zeros(size)
        w = _windows(x, spec)
        if spec.reducer == "mean" and spec.adaptive is None:
            divisor = _divisor(x, spec, spec.geometry(_sizes(spec, size)))
            slope = (w.valid.to(wide.dtype) / torch.as_tensor(divisor)[..., None]).to(wide.dtype)
        else:
            slope = _FORMULAS[spec.reducer].slope(w, *spec.parameters)
        sources = torch.where(w.valid, wide[..., None] * slope, 0)
        planes = planes.index_add(-1, w.places.flatten(), sources.flatten(-n - 1))
    return planes.reshape(size).to(grad.dtype)

"""What exporters write for pooling: PyTorch's operators that ONNX has, and as few as will do.

These compositions differ from those of :mod:`infinitypool.nn.elsewhere` where exporters or ONNX's
runtimes know less than PyTorch: adaptive windows of sizes that are symbols, a divisor of one's own,
a stable sort, dtypes. No derivatives are taken of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from math import comb, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import PoolSpec, spec_from_text
from . import elsewhere

# What ONNX Runtime's maximum and mean take. The others have wider ones that they go through.
_MAXIMA = (torch.float32, torch.float16, torch.float64, torch.int8, torch.uint8)
_MEANS = (torch.float32, torch.float16)
_WIDER = {torch.bfloat16: torch.float32, torch.uint32: torch.int64, torch.bool: torch.uint8}
_WIDER_MAXIMUM = _WIDER | {torch.int16: torch.int32, torch.uint16: torch.int32}
_WIDER_FORMULA = _WIDER_MAXIMUM | dict.fromkeys((torch.int8, torch.uint8, torch.bool), torch.int32)


def _pool(x: Tensor, text: str, *seed: Tensor | None, second: str) -> Any:
    """``second`` says what is wanted beside the values: "none", "plane" or "offset"."""
    spec = spec_from_text(text)
    if x.dtype == torch.uint64:
        raise NotImplementedError(f"{spec.function}: no export of dtype uint64")
    if seed and seed[0] is not None:
        raise NotImplementedError(
            f"{spec.function}: ONNX cannot express a draw by a seed; export the model in evaluation"
        )
    spec = _regular(spec, elsewhere._sizes(spec, x.shape))
    if second == "offset":
        return elsewhere._formula(x, spec, second)
    wider = _WIDER_MAXIMUM if spec.reducer in ("max", "min") else _WIDER_FORMULA
    found = _POOLS[spec.reducer](x.to(wider.get(x.dtype, x.dtype)), spec, second)
    if second == "none":
        return found.to(x.dtype)
    values, places = found
    return values.to(x.dtype), places


def _regular(spec: PoolSpec, sizes: Sequence[Any]) -> PoolSpec:
    """Adaptive windows as ordinary ones, where the sizes are known and all windows are alike."""
    if spec.adaptive is None or _is_global(spec) or any(type(n) is not int for n in sizes):
        return spec
    outputs = spec.output_size(sizes)
    if any(out == 0 or size % out for size, out in zip(sizes, outputs, strict=True)):
        return spec
    kernel = tuple(size // out for size, out in zip(sizes, outputs, strict=True))
    n = len(sizes)
    return replace(
        spec,
        kernel_size=kernel,
        stride=kernel,
        padding=((0, 0),) * n,
        dilation=(1,) * n,
        adaptive=None,
    )


def _is_global(spec: PoolSpec) -> bool:
    return spec.adaptive is not None and all(size == 1 for size in spec.adaptive)


def _padded(x: Tensor, spec: PoolSpec, value: float = 0) -> Tensor:
    geometry = spec.geometry(elsewhere._sizes(spec, x.shape))
    return F.pad(x, elsewhere._ends(spec, tuple(x.shape), geometry), value=value)


def _pads_fit(spec: PoolSpec) -> bool:
    """Whether ONNX Runtime takes this padding in a pool, where it puts that of a node before it."""
    pads = zip(spec.padding or (), spec.kernel_size, strict=False)
    return all(max(pair) < kernel for pair, kernel in pads)


def _folded(
    x: Tensor, spec: PoolSpec, value: float, fold: Callable[[list[Tensor]], Tensor]
) -> Tensor:
    """Windows reduced axis by axis. ``value`` is that of the padding."""
    outputs = spec.output_size(elsewhere._sizes(spec, x.shape))
    return elsewhere.folded(_padded(x, spec, value), spec, outputs, fold)


def _maximum(x: Tensor, spec: PoolSpec, second: str) -> Any:
    n = len(spec.axes)
    if _is_global(spec):
        flat = x.flatten(-n)
        if second == "none":
            return flat.amax(-1)[(..., *[None] * n)]
        return tuple(part[(..., *[None] * n)] for part in flat.max(-1))
    if spec.adaptive is not None:
        return elsewhere._formula(x, spec, second)
    if x.dtype in _MAXIMA and (second == "plane" or _pads_fit(spec)):
        return elsewhere._pool(x, spec.text, second=second)
    if second == "plane":
        return elsewhere._formula(x, spec, second)
    lowest = elsewhere._lowest(x.dtype)
    return _folded(x, spec, lowest, partial(reduce, torch.maximum))


def _minimum(x: Tensor, spec: PoolSpec, second: str) -> Any:
    """The least number has no opposite among integers; but one's complement turns their order."""
    opposite = torch.neg if x.is_floating_point() else torch.bitwise_not
    found = _maximum(opposite(x), replace(spec, reducer="max"), second)
    return opposite(found) if second == "none" else (opposite(found[0]), found[1])


def _mean(x: Tensor, spec: PoolSpec, second: str = "none") -> Tensor:
    floating = x.is_floating_point()
    if _is_global(spec) and floating:
        return x.mean(spec.axes, keepdim=True)
    if spec.adaptive is not None:
        return elsewhere._formula(x, spec, second)
    plain = all(d == 1 for d in spec.dilation) and not spec.divisor_override
    if x.dtype in _MEANS and plain and spec.padding is not None:
        zeros = [0] * len(spec.axes)
        alike = all(
            before == after <= kernel // 2
            for (before, after), kernel in zip(spec.padding, spec.kernel_size, strict=True)
        )
        if alike:
            padding = [before for before, _ in spec.padding]
            return elsewhere._pytorch(x, spec, padding, spec.dilation, False)
        if spec.count_include_pad and not spec.ceil_mode and _pads_fit(spec):
            return elsewhere._pytorch(_padded(x, spec), spec, zeros, spec.dilation, False)
    return elsewhere._average(x, spec, spec.geometry(elsewhere._sizes(spec, x.shape)))


def _plain_mean(x: Tensor, spec: PoolSpec) -> Tensor:
    """The mean of the elements inside the input, of the same windows."""
    return _mean(x, replace(spec, reducer="mean", count_include_pad=False, parameters=()))


def _sum(x: Tensor, spec: PoolSpec, second: str = "none") -> Tensor:
    if spec.adaptive is not None:
        return elsewhere._formula(x, spec, second)
    x = x if x.is_floating_point() else x.long()
    if not x.is_floating_point() or spec.ceil_mode or spec.padding != ((0, 0),) * len(spec.axes):
        return _folded(x, spec, 0, elsewhere.added)
    return _plain_mean(x, spec) * prod(spec.kernel_size)


def _root(x: Tensor, p: float) -> Tensor:
    """The root, with the sign."""
    if p == 1:
        return x
    root = x.abs().sqrt() if p == 2 else x.abs() ** (1 / p)
    return root if p % 2 == 0 else root * x.sign()


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 else x


def _lp(x: Tensor, spec: PoolSpec, second: str) -> Tensor:
    (p,) = spec.parameters
    return _root(_sum(_wide(x) ** p, replace(spec, reducer="sum", parameters=())), p)


def _power_mean(x: Tensor, spec: PoolSpec, second: str) -> Tensor:
    p, floor = spec.parameters
    x = _wide(x)
    x = x.clamp(min=floor) if floor > -torch.inf else x
    return _root(_plain_mean(x**p, spec), p)


def _log_sum_exp(x: Tensor, spec: PoolSpec, second: str) -> Tensor:
    if spec.adaptive is not None:
        return elsewhere._formula(x, spec, second)
    (beta,) = spec.parameters
    total = _folded(
        _wide(x) * beta, spec, -torch.inf, lambda parts: torch.stack(parts, -1).logsumexp(-1)
    )
    return total / beta


def _blur(x: Tensor, spec: PoolSpec, second: str) -> Tensor:
    def fold(parts: list[Tensor]) -> Tensor:
        k = len(parts)
        return elsewhere.added(
            [part * (comb(k - 1, i) / 2 ** (k - 1)) for i, part in enumerate(parts)]
        )

    return _folded(_wide(x), spec, 0, fold)


def _quantile(x: Tensor, spec: PoolSpec, second: str) -> Tensor:
    """Exporters know a sort only of everything that there is: here of every window's elements."""
    if second != "none":
        return elsewhere._formula(x, spec, second)
    w = elsewhere._windows(x, spec)
    floating = x.is_floating_point()
    behind = torch.inf if floating else torch.iinfo(w.elements.dtype).max
    ranked = w.filled(behind).topk(w.elements.shape[-1], -1, largest=False).values
    q, method = spec.parameters
    rank = q * (w.valid.sum(-1) - 1).clamp(min=0).double()

    def of_rank(whole: Tensor) -> Tensor:
        return ranked.gather(-1, whole.long().expand(ranked.shape[:-1])[..., None])[..., 0]

    if method:
        values = of_rank((rank.floor, rank.ceil, rank.round)[int(method) - 1]())
    else:
        lower, higher = of_rank(rank.floor()), of_rank(rank.ceil())
        fraction = rank - rank.floor()
        between = lower + (higher - lower) * (fraction.to(lower.dtype) if floating else fraction)
        # Equal infinities have no difference.
        values = torch.where(lower == higher, lower, between) if floating else between.round()
    if not floating:
        return torch.where(w.valid.any(-1), values.to(w.elements.dtype), 0)
    nans = (w.elements.isnan() & w.valid).any(-1) | ~w.valid.any(-1)
    return torch.where(nans, torch.nan, values)


def _stochastic(x: Tensor, spec: PoolSpec, second: str) -> Tensor:
    """The expectation: the weighted mean of what is positive, or the mean where nothing is."""
    if second != "none":
        return elsewhere._formula(x, spec, second)
    weights = _wide(x).clamp(min=0)
    mean = _plain_mean(weights, spec)
    return torch.where(
        mean > 0,
        _plain_mean(weights * weights, spec) / torch.where(mean > 0, mean, 1),
        _plain_mean(_wide(x), spec),
    )


_POOLS: dict[str, Callable[..., Any]] = {
    "max": _maximum,
    "min": _minimum,
    "mean": _mean,
    "sum": _sum,
    "lp": _lp,
    "power_mean": _power_mean,
    "log_sum_exp": _log_sum_exp,
    "soft": elsewhere._formula,
    "blur": _blur,
    "quantile": _quantile,
    "stochastic": _stochastic,
}

EXPORTED = {second: partial(_pool, second=second) for second in ("none", "plane", "offset")}

"""Normalising with given statistics, an activation and pooling as one operator.

``infinitypool::norm_pool(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor var,
str norm, str pool) -> Tensor`` gives, bit by bit, what ``infinitypool::norm_given`` and a pooling
operator behind it give. ``norm`` and ``pool`` are their specs' texts. The core works block by block:
what the norm gives stays in the cache, so the input is read once and nothing between the two is
written. What the core's blocks do not cover runs in two passes: other norms than that of a batch,
pooled axes that are not all behind the channels, reducers that sort or draw.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _core
from ..plan import REDUCERS, Cache
from ..spec import spec_from_text
from . import elsewhere, norm_ops
from .norm_ops import Optional
from .ops import OPS, _forward_plan, _forward_result, _spec, recycled
from .registry import define

_below_autograd = torch._C._AutoDispatchBelowAutograd


class _Plan(NamedTuple):
    native: Any  # None where two passes are needed
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    small: bool


_plans = Cache()


def _two_passes(
    x: Tensor,
    weight: Optional,
    bias: Optional,
    mean: Tensor,
    var: Tensor,
    norm: str,
    pool: str,
) -> Tensor:
    y = norm_ops.norm_given(x, weight, bias, mean, var, norm)
    return OPS[spec_from_text(pool).reducer].forward["none"](y, pool)


def _make_plan(
    x: Tensor,
    weight: Optional,
    bias: Optional,
    mean: Tensor,
    var: Tensor,
    norm: str,
    pool: str,
) -> _Plan:
    tensors = x, None, weight, bias, mean, var
    first = norm_ops._forward_plan(norm, tensors, False)
    spec = spec_from_text(pool)
    between = torch.empty_strided(first.shape, first.strides, dtype=x.dtype, device="meta")
    second = _forward_plan(spec.reducer, between, pool, "none")
    native = None
    if (
        first.native is not None
        and first.spec.kind == "batch"
        and first.spec.channel_axis == 1
        and x.ndim == len(spec.axes) + 2
        and not REDUCERS[spec.reducer]["gathered"]
        and 0 not in second.shape
        and first.strides == x.stride()
    ):
        native = _core.NormPool(
            first.native,
            spec.reducer,
            second.strides,
            list(range(2, x.ndim)),
            spec.windows(x.shape[2:]),
            spec.count_include_pad,
            spec.divisor_override,
            spec.front.truncate,
            spec.parameters,
        )
    return _Plan(native, second.shape, second.strides, second.small)


def _kernel(
    x: Tensor,
    weight: Optional,
    bias: Optional,
    mean: Tensor,
    var: Tensor,
    norm: str,
    pool: str,
) -> Tensor:
    arguments = x, weight, bias, mean, var, norm, pool
    key = norm, pool, *[
        None if t is None else (t.dtype, t.shape, t.stride()) for t in arguments[:5]
    ]  # fmt: skip
    plan = _plans.get(key)
    if plan is None:
        if not norm_ops.takes(norm, x, None, weight):
            return _two_passes(*arguments)
        plan = _plans.keep(key, _make_plan(*arguments))
    native, shape, strides, small = plan
    if native is None:
        return _two_passes(*arguments)
    out = x.new_empty_strided(shape, strides) if small else recycled(x, shape, strides, x.dtype)
    native.run(
        x.data_ptr(), out.data_ptr(), norm_ops.address(weight), norm_ops.address(bias),
        mean.data_ptr(), var.data_ptr(),
    )  # fmt: skip
    return out


def _composed(
    x: Tensor,
    weight: Optional,
    bias: Optional,
    mean: Tensor,
    var: Tensor,
    norm: str,
    pool: str,
) -> Tensor:
    y = norm_ops.composed(norm, (x, None, weight, bias, mean, var))
    return elsewhere.POOL["none"](y, pool)


def _shape(
    x: Tensor,
    weight: Optional,
    bias: Optional,
    mean: Tensor,
    var: Tensor,
    norm: str,
    pool: str,
) -> Tensor:
    y, _, _ = norm_ops._shape(norm, (x, None, weight, bias, mean, var), False)
    spec = spec_from_text(pool)
    result = _forward_result(_spec(spec.reducer, pool), y, "none")
    return x.new_empty_strided(result.shape, result.strides)


norm_pool = define(
    "norm_pool",
    "(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, str norm, str pool)"
    " -> Tensor",
    kernel=_kernel,
    shape=_shape,
    composed=_composed,
)

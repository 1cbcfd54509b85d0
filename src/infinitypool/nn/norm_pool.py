"""Normalising with given statistics, an activation and pooling as one operator.

``infinitypool::norm_pool(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor var,
str norm, str pool) -> Tensor`` gives, bit by bit, what ``infinitypool::norm_given`` and a pooling
operator behind it give; ``norm`` and ``pool`` are their specs' texts. The core works block by block:
what the norm gives stays in the cache, so the input is read once and nothing between the two is
written. Two passes remain where blocks do not cover it: other norms than that of a batch, pooled
axes that are not all behind the channels, inputs with gaps, reducers that sort.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _core
from ..plan import REDUCERS, Cache
from ..spec import TORCH, NormSpec, adaptive_spec, norm_spec, pool_spec, spec_from_text
from . import calls, elsewhere, norm_elsewhere, norm_modules, norm_ops, ops
from .registry import HALVES, define
from .windows import is_tracing


class _Plan(NamedTuple):
    native: Any  # None where two passes are needed
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    small: bool


_plans = Cache()


def _two_passes(*arguments: Any) -> Tensor:
    *tensors, norm, pool = arguments
    y = norm_ops.norm_given(*tensors, norm)
    return ops.OPS[spec_from_text(pool).reducer].forward["none"](y, pool)


def _make_plan(*arguments: Any) -> _Plan:
    x, weight, bias, mean, var, norm, pool = arguments
    first = norm_ops._forward_plan(norm, (x, None, weight, bias, mean, var), False)
    spec = spec_from_text(pool)
    between = torch.empty_strided(first.shape, first.strides, dtype=x.dtype, device="meta")
    second = ops._forward_plan(spec.reducer, between, pool, "none")
    in_blocks = (
        first.native is not None
        and all(
            n == 1 or a == b for n, a, b in zip(x.shape, first.strides, x.stride(), strict=True)
        )
        and _is_of_batch(first.spec)
        and x.ndim == len(spec.axes) + 2
        and not REDUCERS[spec.reducer]["gathered"]
        and 0 not in second.shape
    )
    native = None
    if in_blocks:
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


def _is_of_batch(spec: NormSpec) -> bool:
    return spec.kind == "batch" and spec.channel_axis == 1


def _kernel(*arguments: Any) -> Tensor:
    *tensors, norm, pool = arguments
    key = norm, pool, *[None if t is None else (t.dtype, t.shape, t.stride()) for t in tensors]
    x, weight, bias, mean, var = tensors
    plan = _plans.get(key)
    if plan is None:
        if not norm_ops.takes(norm, x, None, weight):
            return _two_passes(*arguments)
        plan = _plans.keep(key, _make_plan(*arguments))
    native, shape, strides, small = plan
    if native is None:
        return _two_passes(*arguments)
    if small:
        out = x.new_empty_strided(shape, strides)
    else:
        out = ops.recycled(x, shape, strides, x.dtype)
    native.run(
        x.data_ptr(), out.data_ptr(), norm_ops.address(weight), norm_ops.address(bias),
        mean.data_ptr(), var.data_ptr(),
    )  # fmt: skip
    return out


def _composed(*arguments: Any) -> Tensor:
    """By arithmetic, which has derivatives by the statistics as well, unlike PyTorch's batch norm."""
    x, weight, bias, mean, var, norm, pool = arguments
    spec = norm_elsewhere.norm_spec_of(norm)
    sizes = [-1] + [1] * (x.ndim - 2)
    y = x.float() if x.dtype in HALVES else x
    weight, bias, mean, var = (
        None if t is None else t.reshape(sizes).to(y.dtype) for t in (weight, bias, mean, var)
    )
    y = (y - mean) * torch.rsqrt(var + spec.epsilon(ops.dtype_name(x.dtype)))
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    y = norm_elsewhere.activated(y, spec.activation, spec.slope).to(x.dtype)
    return elsewhere.POOL["none"](y, pool)


def _exported(*arguments: Any) -> Tensor:
    x, *rest, norm, pool = arguments
    return elsewhere.POOL["none"](norm_ops.composed(norm, (x, None, *rest)), pool)


def _shape(*arguments: Any) -> Tensor:
    x, *rest, norm, pool = arguments
    y, _, _ = norm_ops._shape(norm, (x, None, *rest), False)
    return ops._forward_shape(spec_from_text(pool).reducer, "none")(y, pool)


def _in_float32(*arguments: Any) -> bool:
    return ops._in_float32(arguments[0], arguments[-1])


norm_pool = define(
    "norm_pool",
    "(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, str norm, str pool)"
    " -> Tensor",
    kernel=_kernel,
    shape=_shape,
    composed=_composed,
    exported=_exported,
    float32=_in_float32,
)


def _short_plan(recording: bool, tensors: tuple[Any, ...], texts: tuple[str, str]) -> Any:
    x, weight, *_ = tensors
    if recording or not norm_ops.takes(texts[0], x, None, weight):
        return None
    found = _make_plan(*tensors, *texts)
    if found.native is None:
        return None
    result = ops.dtype_name(x.dtype), found.shape, found.strides
    return _core.CallPlan([(found.native.work(), calls.operands(0, 5, 1, 2, 3, 4))], [result], 1)


_short = calls.call(_short_plan, 5)


# --- as a layer ----------------------------------------------------------------------------


def pool_text(name: str, named: dict[str, Any]) -> str:
    """The spec's text of PyTorch's pooling function of this ``name``."""
    reducer = "max" if "max" in name else "mean"
    axes = tuple(range(-int(name[-2]), 0))
    if name.startswith("adaptive"):
        return adaptive_spec(name, reducer, named["output_size"], axes=axes, front=TORCH).text
    return pool_spec(name, reducer, **named, axes=axes, front=TORCH).text


class _Pooling(torch.nn.Module):
    """A batch norm that only evaluates, its activation, and the pooling behind it."""

    texts: tuple[str, str]

    def pool(self, text: str) -> Any:
        """Pool what the norm gives, as this spec's text says."""
        norm = norm_spec(
            "batch_norm",
            "batch",
            eps=self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
            front=TORCH,
        ).text
        self.texts = norm, text
        return self

    def extra_repr(self) -> str:
        """The norm's text, and the pooling's."""
        return f"{super().extra_repr()}, pool={self.texts[1]!r}"

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the running statistics, activate and pool."""
        self._check_input_dim(input)
        tensors = input, self.weight, self.bias, self.running_mean, self.running_var
        found = None if is_tracing() else _short(*tensors, *self.texts)
        return norm_pool(*tensors, *self.texts) if found is None else found


class BatchNormPool1d(_Pooling, norm_modules.BatchNorm1d):
    """Of sequences."""


class BatchNormPool2d(_Pooling, norm_modules.BatchNorm2d):
    """Of pictures."""


class BatchNormPool3d(_Pooling, norm_modules.BatchNorm3d):
    """Of volumes."""

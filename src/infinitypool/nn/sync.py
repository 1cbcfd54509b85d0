"""Batch normalisation over the batches of several processes.

A process tells the others three things of every channel: a mean, a variance and how many elements
they are of. It gets theirs, and merges all of them in the order of ranks, so that every process
finds the same bits. Backward does the same with two sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..plan import Cache
from ..spec import TORCH, NormSpec, norm_spec
from . import norm_elsewhere, norm_modules, norm_ops
from .ops import recycled
from .registry import check_memory
from .windows import check_tensor

__all__ = ["SyncBatchNorm"]

Optional = Tensor | None
_plans = Cache()


def _native(
    spec: NormSpec, x: Tensor, grad: Optional, weight: Optional, bias: Optional, given: Tensor
) -> Any:
    """The core's plan for statistics in float64. All of it can be read as it lies."""
    parameter = weight if weight is not None else bias
    key = (
        spec, x.dtype, x.shape, x.stride(), None if grad is None else grad.stride(),
        None if parameter is None else parameter.dtype,
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is None:
        plan = norm_ops.make_plan(spec, x, grad, weight, bias, given, False)
        _plans.keep(key, plan)
    return plan


def _of_all(own: Tensor, group: Any) -> Tensor:
    """What every process gives, one row for each rank."""
    rows = own.new_empty((dist.get_world_size(group), own.numel()))
    dist.all_gather(list(rows), own.view(-1), group=group)
    return rows


def _merged(rows: Tensor, channels: int) -> tuple[Tensor, float]:
    """Means and variances over all processes, and how many elements of a channel there are.

    Chan, Golub and LeVeque's formula, divided by the counts: no sum of squares, which would
    cancel, and no variance where all means are equal.
    """
    statistics, total = rows.new_zeros((2, channels)), 0.0
    mean, var = statistics
    for row in rows:
        count = float(row[-1])
        if not count:
            continue
        total += count
        here = count / total
        apart = row[:channels] - mean
        mean += apart * here
        # In this order the first one replaces the zeros: 1 - here is 0.
        var *= 1 - here
        var += row[channels:-1] * here
        var += apart * (apart * (here * (1 - here)))
    return statistics, total


class _Synchronised(torch.autograd.Function):
    """Keeps the input, the weight, and two numbers for every channel."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Optional,
        bias: Optional,
        running_mean: Optional,
        running_var: Optional,
        momentum: float,
        spec: NormSpec,
        group: Any,
    ) -> Tensor:
        running = {"running_mean": running_mean, "running_var": running_var}
        norm_ops.check(spec, x, {"weight": weight, "bias": bias}, running, False)
        check_memory(x, weight, bias)
        channels = x.shape[1]
        scale, shift = norm_ops.contiguous(weight), norm_ops.contiguous(bias)
        own = x.new_zeros(2 * channels + 1, dtype=torch.float64)
        if x.numel():
            source = norm_ops.readable(spec, x, scale, shift)
            plan = _native(spec, source, None, scale, shift, own)
            plan.native.statistics(source.data_ptr(), own.data_ptr(), own.data_ptr() + 8 * channels)
            own[-1] = x.numel() // channels
        statistics, count = _merged(_of_all(own, group), channels)
        if count == 1:
            raise ValueError(
                f"{spec.function}: the inputs of all processes have one value per channel "
                f"together, and statistics need more; that of this one has the shape "
                f"{tuple(x.shape)}"
            )
        if running_mean is not None and count:
            norm_ops.move(running_mean, statistics[0], momentum)
            norm_ops.move(running_var, statistics[1] * (count / (count - 1)), momentum)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.spec, ctx.group, ctx.count = spec, group, count
        if not x.numel():
            return torch.empty_like(x)
        out = recycled(x, plan.shape, plan.strides, x.dtype)
        plan.native.apply(
            source.data_ptr(), out.data_ptr(), norm_ops.address(scale), norm_ops.address(shift),
            statistics[0].data_ptr(), statistics[1].data_ptr(),
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional, ...]:
        wanted = ctx.needs_input_grad[:3]
        arguments = grad, *ctx.saved_tensors, ctx.count, ctx.spec, ctx.group, wanted
        found = _formula(*arguments) if torch.is_grad_enabled() else _gradients(*arguments)
        return *found, None, None, None, None, None


def _gradients(
    grad: Tensor,
    x: Tensor,
    weight: Optional,
    bias: Optional,
    statistics: Tensor,
    count: float,
    spec: NormSpec,
    group: Any,
    wanted: Sequence[bool],
) -> tuple[Optional, Optional, Optional]:
    """Those of the input, the weight and the bias. The last two are of this process alone."""
    of_x = of_weight = of_bias = None
    mean, var = statistics
    scale = norm_ops.contiguous(weight)
    sums = torch.zeros_like(statistics)
    if x.numel():
        source = norm_ops.readable(spec, x, scale, None)
        grad = norm_ops.alongside(grad, source)
        plan = _native(spec, source, grad, scale, None, statistics)
        places = source.data_ptr(), grad.data_ptr()
        plan.native.gradient_sums(*places, mean.data_ptr(), sums.data_ptr())
    if wanted[0]:
        of_all = torch.zeros_like(sums)
        for row in _of_all(sums, group):
            of_all += row.view_as(sums)
        if x.numel():
            of_x = recycled(x, plan.shape, plan.strides, x.dtype)
            plan.native.gradient_apply(
                *places, of_x.data_ptr(), norm_ops.address(scale), mean.data_ptr(),
                var.data_ptr(), of_all.data_ptr(), count,
            )  # fmt: skip
        else:
            of_x = torch.empty_like(x)
    if wanted[1]:
        deviation = (var + spec.eps).sqrt()
        of_weight = (sums[1] / deviation).to(weight.dtype).view(weight.shape)
    if wanted[2]:
        of_bias = sums[0].to(bias.dtype).view(bias.shape)
    return of_x, of_weight, of_bias


class _SumOverAll(torch.autograd.Function):
    """What all processes hold, added; and so is the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _of_all(own.contiguous(), group).sum(0).view(own.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOverAll.apply(grad, ctx.group), None


def _formula(
    grad: Tensor,
    x: Tensor,
    weight: Optional,
    bias: Optional,
    statistics: Tensor,
    count: float,
    spec: NormSpec,
    group: Any,
    wanted: Sequence[bool],
) -> tuple[Optional, ...]:
    """The same, where somebody asks for a graph through it: it can be differentiated again."""

    def mean_of(x: Tensor, dims: list[int]) -> Tensor:
        return (_SumOverAll.apply(x.double().sum(dims, True), group) / count).to(x.dtype)

    saved = grad, x, weight, bias, statistics, None, None
    return norm_elsewhere.formula(spec, saved, wanted, mean_of)


_Theirs = torch.nn.SyncBatchNorm


class SyncBatchNorm(norm_modules.AnyBatchNorm, torch.nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all processes: ``torch.nn.SyncBatchNorm``, on CPUs.

    In training, the mean and the variance of a channel are those of the batches of all processes
    in ``process_group`` (None: of all there are), as if they were one batch, and so is the
    gradient of the input. Processes speak through ``torch.distributed``, once in forward and once
    in backward; "gloo" is a backend that can. Batches may have different lengths, and be empty.
    All processes find the same running statistics, bit by bit. The gradients of weight and bias
    are those of the process's own batch, as ``DistributedDataParallel`` wants them.

    In evaluation, with one process, and where no process group was initialised, this is
    :class:`BatchNorm2d` for any number of axes. Tensors on other devices take PyTorch's way.

    Takes what PyTorch's module takes. With an ``activation`` ("relu", "leaky_relu", "silu" or
    "gelu") the result is that of both. It is no subclass of ``torch.nn.SyncBatchNorm``, because
    ``DistributedDataParallel`` refuses every one of those on a CPU.

    Shapes:
        - input: (N, C) to (N, C, D, H, W) and beyond, of float64, float32, float16 or bfloat16;
          C is the same in all processes
        - result: the input's shape, dtype and memory layout

    Raises:
        ValueError: for an input with fewer than two axes, or without channels, and in training
            where the inputs of all processes have one value per channel together
        RuntimeError: for shapes and dtypes that do not go together; and where another process
            does not take part, at the latest when the process group's timeout has passed
        NotImplementedError: for an input that is not of floats

    Every process must call forward, and backward where one does, as often as the others. Where
    the gradient is to be differentiated again, they speak once for every mean.

    Source: Ioffe and Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift, 2015, https://arxiv.org/abs/1502.03167. Statistics are merged as in
    Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances, 1979.

    >>> import torch
    >>> from infinitypool import nn
    >>> nn.SyncBatchNorm(16)(torch.rand(20, 16, 9, 13)).shape
    torch.Size([20, 16, 9, 13])
    """

    process_group: Any = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **kwargs
        )
        self.process_group = process_group

    _check_input_dim = _Theirs._check_input_dim
    _check_non_zero_input_channels = _Theirs._check_non_zero_input_channels

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with all processes' statistics in training, otherwise with the running ones."""
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        if not input.is_cpu or check_tensor("SyncBatchNorm", input):
            y = _Theirs.forward(self, input)
            spec = self._spec()
            return norm_elsewhere.activated(y, spec.activation, spec.slope)
        group = self._group()
        if group is None:
            return super().forward(input)
        mean = var = None
        momentum = self.momentum
        if self.track_running_stats:
            mean, var = self.running_mean, self.running_var
            momentum = self._count()
        spec = self._spec()
        plain = replace(spec, activation="none", slope=0.0)
        y = _Synchronised.apply(
            input, self.weight, self.bias, mean, var, momentum or 0.0, plain, group
        )
        return norm_elsewhere.activated(y, spec.activation, spec.slope)

    def _spec(self) -> NormSpec:
        return norm_spec(
            "SyncBatchNorm",
            "batch",
            eps=self.eps,
            training=self.training,
            activation=self.activation,
            negative_slope=self.negative_slope,
            front=TORCH,
        )

    def _group(self) -> Any:
        """The processes to speak with, or None where there is nobody."""
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None

    @classmethod
    def convert_sync_batchnorm(
        cls, module: torch.nn.Module, process_group: Any = None
    ) -> torch.nn.Module:
        """Put this class in the place of every batch normalisation in ``module``.

        Parameters, buffers, ``training`` and an activation stay what they are.

        Args:
            module: one with ``torch.nn.BatchNorm*d``, ``torch.nn.SyncBatchNorm`` or batch
                normalisations of this library in it
            process_group: the processes that share statistics; None for all of them

        Returns:
            The same module, changed; or a new one where it is a batch normalisation itself

        Example:
            >>> import torch
            >>> from infinitypool import nn
            >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
            >>> net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
            >>> type(net[1]) is nn.SyncBatchNorm
            True
        """
        # PyTorch's conversion, which calls this one for what is inside: it knows everything that
        # its version hands over. Its result lacks nothing but the class.
        converted = _Theirs.convert_sync_batchnorm.__func__(cls, module, process_group)
        if type(converted) is _Theirs:
            converted.__class__ = cls
            if isinstance(module, norm_modules.Activated):
                converted.activation = module.activation
                converted.negative_slope = module.negative_slope
        return converted


_signature = norm_modules.signature_of(_Theirs)
SyncBatchNorm.__init__.__signature__ = _signature  # type: ignore[attr-defined]
SyncBatchNorm.__signature__ = _signature.replace(  # type: ignore[attr-defined]
    parameters=list(_signature.parameters.values())[1:]
)

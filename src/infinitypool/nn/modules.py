"""Pooling modules: PyTorch's own with our functions behind them, and ours in the same style.

Where PyTorch has a module of that name, ours is a subclass of it, so constructors, attributes,
``repr`` and state are PyTorch's, and code that asks ``isinstance(module, torch.nn.MaxPool2d)``
keeps working. The others take their function's arguments, in its order, and keep each of them as
an attribute; their ``repr`` is the constructor's call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import functional as F
from .composites import pooled_axes

__all__ = [
    *(
        f"{kind}{n}d"
        for kind in (
            "AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool", "BlurPool", "LPPool", "LogSumExpPool",
            "MaxBlurPool", "MaxPool", "MaxUnpool", "MedianPool", "MinPool", "MixedPool",
            "QuantilePool", "RMSPool", "SoftPool", "StochasticPool",
        )
        for n in (1, 2, 3)
    ),
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "GeM",
    "GlobalAvgMaxPool",
    "GlobalAvgPool",
    "GlobalCatAvgMaxPool",
    "GlobalMaxPool",
    "SPP",
    "SPPF",
    "SpatialPyramidPool",
]  # fmt: skip

_DOC = """{what}: {like}.

Takes what :func:`infinitypool.nn.functional.{function}` takes, in the order of {order}, and checks
it when it is called. Attributes may be changed after construction.

>>> import torch
>>> from infinitypool import nn
>>> nn.{name}({arguments})({inputs}).shape
torch.Size([{result}])
"""


# What a forward call knows, and a module does not keep.
_NOT_KEPT = ("input", "training", "generator")


def _taken(function: Callable[..., Any]) -> dict[str, Any]:
    """What a module takes and keeps: the arguments of its function but the tensor."""
    parameters = inspect.signature(function).parameters
    kept = [parameter for name, parameter in parameters.items() if name not in _NOT_KEPT]
    return {
        "_signature": inspect.Signature(kept),
        "__signature__": inspect.Signature(kept),
        "_trains": "training" in parameters,
    }


class _Arguments(torch.nn.Module):
    """A module that keeps its function's arguments as attributes of the same names."""

    _function: Callable[..., Any]
    _signature: inspect.Signature
    _trains: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            setattr(self, name, value)
        if getattr(self, "stride", 0) is None:
            self.stride = self.kernel_size

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._signature.parameters)

    def forward(self, input: Tensor) -> Tensor:
        """Pool one tensor."""
        named = {name: getattr(self, name) for name in self._signature.parameters}
        if self._trains:
            named["training"] = self.training
        return self._function(input, **named)


def _class(name: str, bases: tuple[type, ...], **members: Any) -> Any:
    """A class of this module, as if it had been written out."""
    return type(name, bases, {"__module__": __name__, "__qualname__": name, **members})


def _example(n: int, size: int) -> str:
    return ", ".join(["20", "16"] + [str(size)] * n)


def _three(
    stem: str,
    base: type,
    function: str,
    what: str,
    arguments: str = "3, stride=2",
    result: int = 4,
    dims: tuple[int, ...] = (1, 2, 3),
) -> list[Any]:
    """One class for each number of pooled axes: ``base`` in front of PyTorch's, if it has one."""
    classes = []
    for n in dims:
        name = f"{stem}{n}d"
        theirs = getattr(torch.nn, name, None)
        inputs = f"torch.zeros({_example(n, 9)})"
        if "Unpool" in stem:
            inputs += f", torch.arange({9**n}).view({', '.join('9' * n)}).expand({_example(n, 9)})"
        doc = _DOC.format(
            name=name,
            what=what,
            like=f"``torch.nn.{name}`` with fast kernels behind it" if theirs else "a module",
            order="that function" if base is _Arguments else "PyTorch's modules",
            function=function.format(n),
            arguments=arguments,
            inputs=inputs,
            result=_example(n, result),
        )
        call = getattr(F, function.format(n))
        members = {"__doc__": doc, "_function": staticmethod(call)}
        if theirs is None and base is _Arguments:
            members |= _taken(call)
        classes.append(_class(name, (base, theirs) if theirs else (base,), **members))
    return classes


# --- PyTorch's -----------------------------------------------------------------------------


class _MaxPool(torch.nn.modules.pooling._MaxPoolNd):
    _function: Callable[..., Any]

    def forward(self, input: Tensor) -> Any:
        """Pool one tensor; a pair of values and indices with ``return_indices``."""
        return self._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


MaxPool1d, MaxPool2d, MaxPool3d = _three(
    "MaxPool", _MaxPool, "max_pool{}d", "The largest element of every window"
)
MinPool1d, MinPool2d, MinPool3d = _three(
    "MinPool", _MaxPool, "min_pool{}d", "The least element of every window"
)


class _AvgPool(torch.nn.modules.pooling._AvgPoolNd):
    _function: Callable[..., Any]
    dilation: Any = 1  # also for modules that were stored as PyTorch's

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        dilation: Any = 1,
    ) -> None:
        super().__init__(
            kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        self.dilation = dilation

    def extra_repr(self) -> str:
        """The constructor's arguments; dilation only where it is not PyTorch's."""
        return super().extra_repr() + ("" if self.dilation == 1 else f", dilation={self.dilation}")

    def forward(self, input: Tensor) -> Tensor:
        """Pool one tensor."""
        return self._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
            dilation=self.dilation,
        )


class _AvgPool1(_AvgPool):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        dilation: Any = 1,
    ) -> None:
        torch.nn.AvgPool1d.__init__(
            self, kernel_size, stride, padding, ceil_mode, count_include_pad
        )
        if isinstance(padding, str):
            self.padding = padding  # PyTorch takes the word apart into a tuple of letters
        self.dilation = dilation

    def forward(self, input: Tensor) -> Tensor:
        """Pool one tensor."""
        return self._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            dilation=self.dilation,
        )


_mean = "The mean of every window"
(AvgPool1d,) = _three("AvgPool", _AvgPool1, "avg_pool{}d", _mean, dims=(1,))
AvgPool2d, AvgPool3d = _three("AvgPool", _AvgPool, "avg_pool{}d", _mean, dims=(2, 3))


class _AdaptiveAvgPool(torch.nn.modules.pooling._AdaptiveAvgPoolNd):
    _function: Callable[..., Any]

    def forward(self, input: Tensor) -> Tensor:
        """Pool one tensor to ``output_size``."""
        return self._function(input, self.output_size)


class _AdaptiveMaxPool(torch.nn.modules.pooling._AdaptiveMaxPoolNd):
    _function: Callable[..., Any]

    def forward(self, input: Tensor) -> Any:
        """Pool one tensor to ``output_size``; a pair with indices with ``return_indices``."""
        return self._function(input, self.output_size, self.return_indices)


AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d = _three(
    "AdaptiveAvgPool",
    _AdaptiveAvgPool,
    "adaptive_avg_pool{}d",
    "Means over as many windows as asked for",
    "4",
)
AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d = _three(
    "AdaptiveMaxPool",
    _AdaptiveMaxPool,
    "adaptive_max_pool{}d",
    "The largest elements of as many windows as asked for",
    "4",
)


class _LPPool(torch.nn.modules.pooling._LPPoolNd):
    _function: Callable[..., Any]

    def forward(self, input: Tensor) -> Tensor:
        """Pool one tensor."""
        return self._function(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


LPPool1d, LPPool2d, LPPool3d = _three(
    "LPPool",
    _LPPool,
    "lp_pool{}d",
    "The power sum of every window",
    "2, 3, stride=2",
)


class _MaxUnpool(torch.nn.modules.pooling._MaxUnpoolNd):
    _function: Callable[..., Any]

    def forward(
        self, input: Tensor, indices: Tensor, output_size: list[int] | None = None
    ) -> Tensor:
        """Put every value at its index, zeros elsewhere. The last of colliding indices wins."""
        return self._function(
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )


MaxUnpool1d, MaxUnpool2d, MaxUnpool3d = _three(
    "MaxUnpool",
    _MaxUnpool,
    "max_unpool{}d",
    "Values put back where a maximum was found",
    "3, stride=2",
    19,
)


class _FractionalMaxPool(torch.nn.Module):
    _function: Callable[..., Any]

    def __init__(
        self,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        super().__init__(kernel_size, output_size, output_ratio, return_indices, _random_samples)

    def forward(self, input: Tensor) -> Any:
        """Pool one tensor; a pair of values and indices with ``return_indices``."""
        return self._function(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            _random_samples=self._random_samples,
        )


FractionalMaxPool2d, FractionalMaxPool3d = _three(
    "FractionalMaxPool",
    _FractionalMaxPool,
    "fractional_max_pool{}d",
    "The largest elements of windows that lie at random",
    "3, output_size=4",
    dims=(2, 3),
)


# --- ours ----------------------------------------------------------------------------------

RMSPool1d, RMSPool2d, RMSPool3d = _three(
    "RMSPool", _Arguments, "rms_pool{}d", "The root of the mean square of every window"
)
LogSumExpPool1d, LogSumExpPool2d, LogSumExpPool3d = _three(
    "LogSumExpPool",
    _Arguments,
    "log_sum_exp_pool{}d",
    "The smooth maximum of every window",
    "3, stride=2, beta=2.0",
)
SoftPool1d, SoftPool2d, SoftPool3d = _three(
    "SoftPool", _Arguments, "soft_pool{}d", "The softmax-weighted mean of every window"
)
MedianPool1d, MedianPool2d, MedianPool3d = _three(
    "MedianPool", _Arguments, "median_pool{}d", "The median of every window"
)
QuantilePool1d, QuantilePool2d, QuantilePool3d = _three(
    "QuantilePool",
    _Arguments,
    "quantile_pool{}d",
    "A quantile of every window",
    "3, 0.9, stride=2",
)
StochasticPool1d, StochasticPool2d, StochasticPool3d = _three(
    "StochasticPool",
    _Arguments,
    "stochastic_pool{}d",
    "An element drawn from every window in training, the expectation in evaluation",
)
MixedPool1d, MixedPool2d, MixedPool3d = _three(
    "MixedPool", _Arguments, "mixed_pool{}d", "A blend of the maximum and the mean of every window"
)
BlurPool1d, BlurPool2d, BlurPool3d = _three(
    "BlurPool",
    _Arguments,
    "blur_pool{}d",
    "A binomial low pass before subsampling",
    "3, stride=2",
    5,
)
MaxBlurPool1d, MaxBlurPool2d, MaxBlurPool3d = _three(
    "MaxBlurPool",
    _Arguments,
    "max_blur_pool{}d",
    "An antialiased maximum of every window",
)


def _one(name: str, function: str, what: str, shape: str, result: str) -> Any:
    call = getattr(F, function)
    doc = _DOC.format(
        name=name,
        what=what,
        like="a module",
        order="that function",
        function=function,
        arguments="",
        inputs=f"torch.zeros({shape})",
        result=result,
    )
    members = {"__doc__": doc, "_function": staticmethod(call), **_taken(call)}
    return _class(name, (_Arguments,), **members)


SpatialPyramidPool = _one(
    "SpatialPyramidPool",
    "spatial_pyramid_pool",
    "A vector of fixed length for a picture of any size",
    "2, 16, 9, 13",
    "2, 336",
)
SPP = _one(
    "SPP",
    "spp",
    "The input beside its maxima over ever larger windows",
    "2, 16, 9, 13",
    "2, 64, 9, 13",
)
SPPF = _one(
    "SPPF",
    "sppf",
    "The input beside maxima of maxima of it",
    "2, 16, 9, 13",
    "2, 64, 9, 13",
)
GlobalAvgPool = _one(
    "GlobalAvgPool", "global_avg_pool", "The mean of every plane", "2, 16, 9, 13", "2, 16, 1, 1"
)
GlobalMaxPool = _one(
    "GlobalMaxPool",
    "global_max_pool",
    "The largest element of every plane",
    "2, 16, 9, 13",
    "2, 16, 1, 1",
)
GlobalAvgMaxPool = _one(
    "GlobalAvgMaxPool",
    "global_avg_max_pool",
    "Half the mean and half the maximum of every plane",
    "2, 16, 9, 13",
    "2, 16, 1, 1",
)
GlobalCatAvgMaxPool = _one(
    "GlobalCatAvgMaxPool",
    "global_cat_avg_max_pool",
    "The means of all planes and then their maxima",
    "2, 16, 9, 13",
    "2, 32, 1, 1",
)


class GeM(torch.nn.Module):
    """The generalised mean with a learnable exponent, over whole planes or over windows.

    ``mean(max(w, eps) ** p) ** (1 / p)`` over the elements w of a plane, or of every window where
    a ``kernel_size`` is given: the mean for p = 1, the maximum as p grows. Source: Radenović,
    Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.

    Args:
        p: where the parameter ``p`` of shape (1,) starts
        eps: smaller elements are raised to it
        kernel_size: the window's size; by default all of the plane
        stride, padding, dilation, ceil_mode: as for :class:`MaxPool2d`, where there are windows

    Takes tensors of shape (N, C, L), (N, C, H, W) or (N, C, D, H, W) of any float dtype; keeps the
    pooled axes, with one element each where planes are pooled.

    >>> import torch
    >>> from infinitypool import nn
    >>> nn.GeM()(torch.rand(2, 16, 9, 13)).shape
    torch.Size([2, 16, 1, 1])
    >>> nn.GeM(kernel_size=3, stride=2)
    GeM(p=3.0, eps=1e-06, kernel_size=3, stride=2, padding=0, dilation=1, ceil_mode=False)
    """

    def __init__(
        self,
        p: float = 3.0,
        eps: float = 1e-6,
        kernel_size: Any = None,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.p = torch.nn.Parameter(torch.full((1,), float(p)))
        self.eps = eps
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        """The constructor's arguments, with ``p`` as it is now; the window's where there is one."""
        names = ["eps"]
        if self.kernel_size is not None:
            names += ["kernel_size", "stride", "padding", "dilation", "ceil_mode"]
        parts = [f"p={round(self.p.item(), 4)}"]
        return ", ".join(parts + [f"{name}={getattr(self, name)!r}" for name in names])

    def forward(self, input: Tensor) -> Tensor:
        """Pool one tensor."""
        if self.kernel_size is None:
            return F.global_gem_pool(input, self.p, self.eps)
        n = pooled_axes("GeM", input)
        return getattr(F, f"gem_pool{n}d")(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            p=self.p,
            eps=self.eps,
        )

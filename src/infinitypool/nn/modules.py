"""Pooling modules: PyTorch's own, with our functions behind them.

They are subclasses of PyTorch's modules, so constructors, attributes, ``repr`` and state are
PyTorch's, and code that asks ``isinstance(module, torch.nn.MaxPool2d)`` keeps working.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import functional as F

__all__ = ["AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d"]

_DOC = """The {what} of every window: ``torch.nn.{name}`` with fast kernels behind it.

Takes what :func:`infinitypool.nn.functional.{function}` takes, in the order of PyTorch's module,
and checks it when it is called. Attributes may be changed after construction.

>>> import torch
>>> from infinitypool import nn
>>> nn.{name}(3, stride=2)(torch.zeros({shape})).shape
torch.Size([{result}])
"""


def _documented(cls: type) -> type:
    n = int(cls.__name__[-2])
    cls.__doc__ = _DOC.format(
        name=cls.__name__,
        function=cls._function.__name__,
        what="largest element" if "Max" in cls.__name__ else "mean",
        shape=", ".join(["20", "16"] + ["9"] * n),
        result=", ".join(["20", "16"] + ["4"] * n),
    )
    return cls


class _MaxPool(torch.nn.modules.pooling._MaxPoolNd):
    _function: Any

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


@_documented
class MaxPool1d(_MaxPool, torch.nn.MaxPool1d):
    _function = staticmethod(F.max_pool1d)


@_documented
class MaxPool2d(_MaxPool, torch.nn.MaxPool2d):
    _function = staticmethod(F.max_pool2d)


@_documented
class MaxPool3d(_MaxPool, torch.nn.MaxPool3d):
    _function = staticmethod(F.max_pool3d)


class _AvgPool(torch.nn.modules.pooling._AvgPoolNd):
    _function: Any
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


@_documented
class AvgPool1d(_AvgPool, torch.nn.AvgPool1d):
    _function = staticmethod(F.avg_pool1d)

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


@_documented
class AvgPool2d(_AvgPool, torch.nn.AvgPool2d):
    _function = staticmethod(F.avg_pool2d)


@_documented
class AvgPool3d(_AvgPool, torch.nn.AvgPool3d):
    _function = staticmethod(F.avg_pool3d)

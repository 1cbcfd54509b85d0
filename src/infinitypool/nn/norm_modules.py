"""The norms as modules: PyTorch's own, with our functions behind them and an activation.

Constructors, parameters, buffers, state, initialisation and what is demanded of an input's shape
are PyTorch's. The activation is an argument more, by name, and part of ``repr`` where there is one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import norms as F

__all__ = [
    "AddLayerNorm",
    "AddRMSNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "LocalResponseNorm",
    "RMSNorm",
]

_DOC = """{what}: ``torch.nn.{name}`` with fast kernels behind it.

Takes what PyTorch's module takes, and calls :func:`infinitypool.nn.functional.{function}`. With an
``activation`` ("relu", "leaky_relu", "silu" or "gelu") the result is that of both, in one pass.
The result has the input's memory layout, channels last as well.

>>> import torch
>>> from infinitypool import nn
>>> nn.{name}({arguments}, activation="relu")({inputs}).shape
torch.Size([{shape}])
"""


class Activated(torch.nn.Module):
    """What every norm here has beside PyTorch's."""

    # Also for modules that were stored as PyTorch's.
    activation: str | None = None
    negative_slope: float = 0.01

    def __init__(
        self,
        *args: Any,
        activation: str | None = None,
        negative_slope: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.activation = activation
        self.negative_slope = negative_slope

    def extra_repr(self) -> str:
        """PyTorch's text, and the activation where there is one."""
        text = super().extra_repr()
        if self.activation is not None:
            text += f", activation={self.activation!r}"
        if self.negative_slope != 0.01:
            text += f", negative_slope={self.negative_slope}"
        return text


# Tensors are looked up where they lie, which is quicker, unless something else stands in for them.


def _weight(module: torch.nn.Module) -> Any:
    try:
        return module._parameters["weight"]
    except KeyError:
        return module.weight


def _weight_and_bias(module: torch.nn.Module) -> tuple[Any, Any]:
    held = module._parameters
    try:
        return held["weight"], held["bias"]
    except KeyError:
        return module.weight, module.bias


def _running(module: torch.nn.Module) -> tuple[Any, Any]:
    held = module._buffers
    try:
        return held["running_mean"], held["running_var"]
    except KeyError:
        return module.running_mean, module.running_var


class AnyBatchNorm(Activated):
    def _count(self) -> Any:
        """Count a batch; how far running statistics move toward it."""
        momentum = self.momentum
        if (count := self.num_batches_tracked) is not None:
            count.add_(1)
            if momentum is None:  # the average of all batches so far
                compiling = torch.compiler.is_compiling()
                momentum = 1.0 / (count.double() if compiling else float(count))
        return momentum

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the batch's statistics in training, otherwise with the running ones."""
        if self.training or isinstance(input, Tensor):  # what torch.fx traces has no shape
            self._check_input_dim(input)
        training, momentum = self.training, self.momentum
        mean, var = _running(self)
        if training:
            if self.track_running_stats:
                momentum = self._count()
            else:
                mean = var = None
        elif mean is None and var is None:
            training = True
        return F.batch_norm(
            input,
            mean,
            var,
            *_weight_and_bias(self),
            training,
            0.0 if momentum is None else momentum,
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )


class _InstanceNorm(Activated):
    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        momentum = self.momentum
        return F.instance_norm(
            input,
            *_running(self),
            *_weight_and_bias(self),
            self.training or not self.track_running_stats,
            0.0 if momentum is None else momentum,
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )


class _LayerNorm(Activated):
    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axes."""
        return F.layer_norm(
            input,
            self.normalized_shape,
            *_weight_and_bias(self),
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )


class _RMSNorm(Activated):
    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axes."""
        return F.rms_norm(
            x,
            self.normalized_shape,
            _weight(self),
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )


class _GroupNorm(Activated):
    def forward(self, input: Tensor) -> Tensor:
        """Normalise groups of channels."""
        return F.group_norm(
            input,
            self.num_groups,
            *_weight_and_bias(self),
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )


def _annotated(signature: inspect.Signature) -> inspect.Signature:
    """With types where PyTorch says none."""
    every = inspect.Parameter.empty
    return signature.replace(
        parameters=[
            p.replace(annotation=Any) if p.annotation is every else p
            for p in signature.parameters.values()
        ]
    )


def signature_of(theirs: type) -> inspect.Signature:
    """PyTorch's, and the activation."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = list(_annotated(inspect.signature(theirs.__init__)).parameters.values())
    own = inspect.signature(Activated.__init__, eval_str=True).parameters
    parameters += [own[name] for name in ("activation", "negative_slope")]
    assert all(own[name].kind is keyword for name in ("activation", "negative_slope"))
    return inspect.Signature(parameters, return_annotation=None)


def _class(
    base: type, name: str, what: str, function: str, arguments: str, shape: str
) -> Callable[..., Any]:
    """``base`` in front of PyTorch's class of this name."""
    theirs = getattr(torch.nn, name)
    doc = _DOC.format(
        what=what,
        name=name,
        function=function,
        arguments=arguments,
        inputs=f"torch.rand({shape})",
        shape=shape,
    )
    return _made(name, (base, theirs), doc, signature_of(theirs))


def _made(
    name: str, bases: tuple[type, ...], doc: str, signature: inspect.Signature, **members: Any
) -> Any:
    """A class of this module, whose constructor has this ``signature`` (with the instance)."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bases[0].__init__(self, *args, **kwargs)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    without = signature.replace(parameters=list(signature.parameters.values())[1:])
    return type(
        name,
        bases,
        {
            "__module__": __name__,
            "__qualname__": name,
            "__doc__": doc,
            "__init__": __init__,
            "__signature__": without,
            **members,
        },
    )


_SHAPES = {1: "20, 16, 50", 2: "20, 16, 9, 13", 3: "20, 16, 5, 9, 13"}

BatchNorm1d, BatchNorm2d, BatchNorm3d = (
    _class(
        AnyBatchNorm,
        f"BatchNorm{n}d",
        "Batch normalisation, with running statistics for evaluation",
        "batch_norm",
        "16",
        _SHAPES[n],
    )
    for n in (1, 2, 3)
)
InstanceNorm1d, InstanceNorm2d, InstanceNorm3d = (
    _class(
        _InstanceNorm,
        f"InstanceNorm{n}d",
        "Every channel of every sample normalised",
        "instance_norm",
        "16",
        _SHAPES[n],
    )
    for n in (1, 2, 3)
)
LayerNorm = _class(
    _LayerNorm, "LayerNorm", "The last axes normalised", "layer_norm", "16", "20, 50, 16"
)
RMSNorm = _class(
    _RMSNorm, "RMSNorm", "The last axes divided by their root mean square", "rms_norm", "16",
    "20, 50, 16",
)  # fmt: skip
GroupNorm = _class(
    _GroupNorm, "GroupNorm", "Groups of channels normalised", "group_norm", "4, 16", _SHAPES[2]
)


_LAZY_DOC = """:class:`{becomes}`, whose number of channels its first call tells: ``torch.nn.{name}``.

>>> import torch
>>> from infinitypool import nn
>>> layer = nn.{name}()
>>> layer(torch.rand({shape})).shape
torch.Size([{shape}])
>>> type(layer).__name__, layer.num_features
('{becomes}', 16)
"""


def _lazy(becomes: type) -> Any:
    name = f"Lazy{becomes.__name__}"
    theirs = getattr(torch.nn, name)
    signature = _annotated(inspect.signature(theirs.__init__))
    doc = _LAZY_DOC.format(name=name, becomes=becomes.__name__, shape=_SHAPES[int(name[-2])])
    return _made(name, (theirs,), doc, signature, cls_to_become=becomes)


LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d = map(
    _lazy, (BatchNorm1d, BatchNorm2d, BatchNorm3d)
)
LazyInstanceNorm1d, LazyInstanceNorm2d, LazyInstanceNorm3d = map(
    _lazy, (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d)
)


class LocalResponseNorm(torch.nn.LocalResponseNorm):
    """Elements divided by what lies in the channels beside them: ``torch.nn.LocalResponseNorm``.

    Takes what PyTorch's module takes, and calls
    :func:`infinitypool.nn.functional.local_response_norm`.

    >>> import torch
    >>> from infinitypool import nn
    >>> nn.LocalResponseNorm(2)(torch.rand(20, 16, 9, 13)).shape
    torch.Size([20, 16, 9, 13])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise one tensor."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class AddLayerNorm(LayerNorm):  # type: ignore[misc, valid-type]
    """The sum of an input and a residual, and its layer normalisation.

    Takes what :class:`LayerNorm` takes, and calls
    :func:`infinitypool.nn.functional.add_layer_norm`.

    >>> import torch
    >>> from infinitypool import nn
    >>> x = torch.rand(2, 5, 16)
    >>> y, total = nn.AddLayerNorm(16)(x, x)
    >>> y.shape, torch.equal(total, 2 * x)
    (torch.Size([2, 5, 16]), True)
    """

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised sum, and the sum."""
        return F.add_layer_norm(
            input,
            residual,
            self.normalized_shape,
            *_weight_and_bias(self),
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )


class AddRMSNorm(RMSNorm):  # type: ignore[misc, valid-type]
    """The sum of an input and a residual, and its root mean square normalisation.

    Takes what :class:`RMSNorm` takes, and calls :func:`infinitypool.nn.functional.add_rms_norm`.

    >>> import torch
    >>> from infinitypool import nn
    >>> x = torch.rand(2, 5, 16)
    >>> y, total = nn.AddRMSNorm(16)(x, x)
    >>> y.shape, torch.equal(total, 2 * x)
    (torch.Size([2, 5, 16]), True)
    """

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised sum, and the sum."""
        return F.add_rms_norm(
            input,
            residual,
            self.normalized_shape,
            _weight(self),
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )

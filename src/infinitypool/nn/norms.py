"""The norms under PyTorch's names, each alone and behind the sum of an input and a residual.

What a norm does with its arguments is written once; :func:`_functions` makes both functions of it.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from marshal import dumps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import (
    handle_torch_function,
    has_torch_function_unary,
    has_torch_function_variadic,
)

from ..plan import Cache, is_exact
from ..spec import NORMS, TORCH, check_bool, integer, norm_spec, number, show
from . import norm_ops, windows
from .registry import HALVES, constant_result, transforms
from .windows import check_tensor, constant, is_tracing

_texts = Cache()


@constant_result
def _new_text(name: str, kind: str, activation: Any, slope: Any, training: bool, *own: Any) -> str:
    """The spec's text. ``own`` are eps and what else the kind has."""
    named = dict(zip(_OWN.get(kind, ("eps",)), own, strict=False))
    return norm_spec(
        name,
        kind,
        **named,
        training=training,
        activation=activation,
        negative_slope=slope,
        front=TORCH,
    ).text


_LAST = ("eps", "normalized_shape", "axes", "ndim")
_OWN = {"layer": _LAST, "rms": _LAST, "group": ("eps", "num_groups")}


_short = norm_ops.norming(_new_text)


def _text(*arguments: Any) -> str:
    try:
        key = dumps(arguments, 2)
        text = _texts.get(key)
    except ValueError:  # something that marshal does not know
        text = None
    if text is None:
        text = _new_text(*arguments)
        if is_exact(arguments):
            _texts.keep(key, text)
    return text


def _run(
    name: str,
    kind: str,
    own: tuple[Any, ...],
    activation: Any,
    slope: Any,
    tensors: tuple[Any, ...],
    momentum: Any = None,
    training: bool = False,
) -> Any:
    """``tensors`` are those of :mod:`norm_ops`."""
    if is_tracing():
        tensors = _in_order(kind, tensors)
        own = constant((slope, training, *_by_axes(kind, own, tensors[0])))
        text = _new_text(name, kind, activation, *own)
        return norm_ops.through(text, tensors, momentum)
    found = _short(*tensors, (name, kind, activation, slope, training, *own), momentum)
    if found is not None:
        return found
    if type(tensors[0]) is not Tensor:
        own = _by_axes(kind, own, tensors[0])
    text = _text(name, kind, activation, slope, training, *own)
    known = _know_theirs_alone(name, tensors)
    tensors = _in_order(kind, tensors)
    return (norm_ops.composed if known else norm_ops.run)(text, tensors, momentum)


def _in_order(kind: str, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tokens that are a transposed picture, (N, C, L) seen as (N, L, C), are laid out as tokens, as by
    PyTorch: the matrix products behind a norm would pay for the other layout at every turn.
    """
    x = tensors[0]
    if kind in ("layer", "rms") and norm_ops.is_turned(x):
        return x.contiguous(), *tensors[1:]
    return tensors


def _by_axes(kind: str, own: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
    """Where sizes may be symbols, a normalised shape that fits is no more than a number of axes."""
    if kind in ("layer", "rms") and isinstance(x, Tensor):
        eps, shape = own
        if isinstance(shape, (tuple, list)) and 0 < len(shape) <= x.ndim:
            if all(isinstance(n, (int, torch.SymInt)) for n in shape):
                if tuple(x.shape[-len(shape) :]) == tuple(shape):
                    return eps, None, tuple(range(-len(shape), 0)), x.ndim
    return own


_ARGUMENTS = ("input", "residual", "weight", "bias", "running_mean", "running_var")


def _know_theirs_alone(name: str, tensors: tuple[Any, ...]) -> bool:
    """Whether the type of one knows PyTorch's operators alone. Refuses what is no tensor."""
    found = False
    for argument, tensor in zip(_ARGUMENTS, tensors, strict=True):
        if tensor is not None or argument == "input":
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"{name}(): argument {argument!r} must be Tensor, not {type(tensor).__name__}"
                )
            found |= check_tensor(name, tensor)
    return found


# --- what the norms do with their arguments ------------------------------------------------

# Each takes the name of its function, and residual is None in those that add none.


def _momentum(name: str, value: Any) -> Any:
    if isinstance(value, Tensor) and torch.compiler.is_compiling():
        return value  # a graph must not look into it
    return number(name, "momentum", value, TORCH)


def _batch_norm(
    name: str,
    input: Tensor,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Any:
    if training is not False:
        check_bool(name, "training", training, TORCH)
    if type(momentum) is not float:
        momentum = _momentum(name, momentum)
    given = running_mean is not None
    if given is (running_var is None) or not (training or given):
        given_names = "running_mean" if given else "running_var"
        if training:
            raise ValueError(
                f"{name}: running_mean and running_var must both be given or both be None, not "
                f"{given_names} alone"
            )
        raise RuntimeError(
            f"{name}: running_mean and running_var must be given where training is False"
        )
    move = momentum if training and given else None
    tensors = input, residual, weight, bias, running_mean, running_var
    return _run(name, "batch", (eps,), activation, negative_slope, tensors, move, training)


def _instance_norm(
    name: str,
    input: Tensor,
    residual: Tensor | None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Any:
    if use_input_stats is not True:
        check_bool(name, "use_input_stats", use_input_stats, TORCH)
    if type(momentum) is not float:
        momentum = _momentum(name, momentum)
    given = running_mean is not None
    if not use_input_stats and (not given or running_var is None):
        raise RuntimeError(
            f"{name}: running_mean and running_var must be given where use_input_stats is False"
        )
    if given is (running_var is None):
        raise ValueError(f"{name}: running_mean and running_var must both be given or both be None")
    move = momentum if use_input_stats and given else None
    tensors = input, residual, weight, bias, running_mean, running_var
    return _run(name, "instance", (eps,), activation, negative_slope, tensors, move)


def _layer_norm(
    name: str,
    input: Tensor,
    residual: Tensor | None,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Any:
    if type(normalized_shape) is torch.Size:
        normalized_shape = tuple(normalized_shape)
    tensors = input, residual, weight, bias, None, None
    return _run(name, "layer", (eps, normalized_shape), activation, negative_slope, tensors)


def _rms_norm(
    name: str,
    input: Tensor,
    residual: Tensor | None,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Any:
    if type(normalized_shape) is torch.Size:
        normalized_shape = tuple(normalized_shape)
    tensors = input, residual, weight, None, None, None
    return _run(name, "rms", (eps, normalized_shape), activation, negative_slope, tensors)


def _group_norm(
    name: str,
    input: Tensor,
    residual: Tensor | None,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Any:
    tensors = input, residual, weight, bias, None, None
    return _run(name, "group", (eps, num_groups), activation, negative_slope, tensors)


# --- their functions -----------------------------------------------------------------------

_DOC = """{what}: ``torch.nn.functional.{name}``, with an activation.

{formula}

Args:
    input: tensor of shape {shape};
        float64, float32, float16 or bfloat16. Its axes may follow each other in memory in any
        order, and the result's do in the same
    {arguments}
    eps: what is added to the variance{eps}
    activation: None, "relu", "leaky_relu", "silu" or "gelu", of what would be the result
    negative_slope: the factor of negative numbers in "leaky_relu"

Returns:
    A tensor of the input's shape, dtype and memory layout

Raises:
    TypeError: for something else than a tensor or a number where one belongs
    ValueError: {value_errors}
    RuntimeError: for shapes and dtypes that do not go together, and an unknown activation
    NotImplementedError: for an input that is not of floats

{source}

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> F.{name}(x{call})
    tensor({result})
    >>> F.{name}(x{call}, activation="relu")
    tensor({positive})
"""

_ADD_DOC = """The sum of an input and a residual, and its {title}: one pass instead of two.

The pair of ``{name}(input + residual, ...)`` and ``input + residual``. The sum is rounded to the
dtype, and then normalised.

Args:
    input: what :func:`{name}` takes
    residual: a tensor of the same shape and dtype; others follow PyTorch's rules of ``+``
    {names}, activation, negative_slope: as for :func:`{name}`

Returns:
    Two tensors of the sum's shape: the normalised sum, and the sum

Raises:
    what :func:`{name}` does

Example:
    >>> import torch
    >>> import infinitypool.nn.functional as F
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> y, total = F.add_{name}(x, x{call})
    >>> total
    tensor([[ 2.,  4.],
            [ 6., 12.]])
    >>> torch.equal(y, F.{name}(x + x{call}))
    True
"""

_PARAMETERS = {
    "channels": "weight, bias: None, or a tensor with a number for every channel, of the input's "
    "dtype or, for\n        half precision, float32",
    "shape": "weight, bias: None, or a tensor of normalized_shape, of the input's dtype or, for "
    "half\n        precision, float32",
}
_RUNNING = """running_mean, running_var: None, or a tensor with a number for every channel: what is used in
        place of the input's statistics where {unless}, and otherwise moved toward
        them (the variance toward the unbiased one)
    """
_ALONE = "for one of running_mean and running_var alone, and "

# Title, shape, arguments, what is a ValueError, the example's arguments, its result.
_TEXTS: dict[str, tuple[str, ...]] = {
    "batch": (
        "Batch normalisation",
        "(N, C, ...)",
        _RUNNING.format(unless="``training`` is False")
        + _PARAMETERS["channels"]
        + "\n    training: whether the input's own statistics are used"
        + "\n    momentum: how far running statistics move: 1 replaces them",
        _ALONE + "one element per channel in training",
        ", None, None, training=True",
        "[[-1.0000, -1.0000],\n            [ 1.0000,  1.0000]]",
    ),
    "instance": (
        "Instance normalisation",
        "(N, C, ...) with elements behind the channels",
        _RUNNING.format(unless="``use_input_stats`` is False")
        + _PARAMETERS["channels"]
        + "\n    use_input_stats: whether the input's own statistics are used"
        + "\n    momentum: how far running statistics move, toward the mean over all samples",
        _ALONE + "one element per channel",
        "[None]",
        "[[[-1.0000,  1.0000],\n             [-1.0000,  1.0000]]]",
    ),
    "layer": (
        "Layer normalisation",
        "(..., *normalized_shape)",
        "normalized_shape: the sizes of the last axes, which are normalised\n    "
        + _PARAMETERS["shape"],
        "never",
        ", (2,)",
        "[[-1.0000,  1.0000],\n            [-1.0000,  1.0000]]",
    ),
    "rms": (
        "Root mean square normalisation",
        "(..., *normalized_shape)",
        "normalized_shape: the sizes of the last axes, which are normalised\n    "
        + _PARAMETERS["shape"].replace("weight, bias", "weight"),
        "for an input with fewer axes than normalized_shape",
        ", (2,)",
        "[[0.6325, 1.2649],\n            [0.6325, 1.2649]]",
    ),
    "group": (
        "Group normalisation",
        "(N, C, ...)",
        "num_groups: how many groups the channels make; it divides their number\n    "
        + _PARAMETERS["channels"],
        "for one element per group where there is one sample",
        ", 1",
        "[[-1.0000,  1.0000],\n            [-1.0000,  1.0000]]",
    ),
}


def _functions(kind: str, inner: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The function of a norm, and the one behind the sum with a residual."""
    name, add_name = f"{kind}_norm", f"add_{kind}_norm"
    inner.__name__ = inner.__qualname__ = name

    def function(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if has_torch_function_variadic(input, *args, *kwargs.values()):
            tensors = input, *args, *kwargs.values()
            return handle_torch_function(function, tensors, input, *args, **kwargs)
        return inner(name, input, None, *args, **kwargs)

    def adding(input: Tensor, residual: Tensor, *args: Any, **kwargs: Any) -> Any:
        if has_torch_function_variadic(input, residual, *args, *kwargs.values()):
            tensors = input, residual, *args, *kwargs.values()
            return handle_torch_function(adding, tensors, input, residual, *args, **kwargs)
        if residual is None:
            raise TypeError(f"{add_name}(): argument 'residual' must be Tensor, not NoneType")
        return inner(add_name, input, residual, *args, **kwargs)

    title, shape, arguments, value_errors, call, result = _TEXTS[kind]
    row = NORMS[kind]
    _, first, second, *rest = inspect.signature(inner, eval_str=True).parameters.values()
    second = second.replace(annotation=Tensor)
    _name(function, name, [first, *rest], Tensor)
    _name(adding, add_name, [first, second, *rest], tuple[Tensor, Tensor])
    function.__doc__ = _DOC.format(
        what=title,
        name=name,
        formula=_wrap(
            f"``activation({row.formula})``, where "
            f"{'mean and variance are' if row.centered else 'the mean is'} over {row.region}, in "
            "at least float32."
        ),
        shape=shape,
        arguments=arguments,
        eps="" if row.centered else "; None is the epsilon of float64, or of float32",
        value_errors=value_errors,
        source=_wrap(f"Source: {row.source}."),
        call=call,
        result=result,
        positive=result.replace("-1.0000", "0.0000")
        .replace(",  1.", ", 1.")
        .replace("[ 1.", "[1."),
    )
    adding.__doc__ = _ADD_DOC.format(
        title=title[0].lower() + title[1:],
        name=name,
        names=", ".join(p.name for p in rest[:-2]),
        call=call if kind != "instance" else "",
    )
    if kind == "instance":
        for made in (function, adding):
            made.__doc__ = made.__doc__.replace(
                "x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])",
                "x = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])",
            ).replace("x[None]", "x")
        adding.__doc__ = adding.__doc__.replace(
            "[[ 2.,  4.],\n            [ 6., 12.]]", "[[[ 2.,  4.],\n             [ 6., 12.]]]"
        )
    return function, adding


def _wrap(text: str) -> str:
    return textwrap.fill(text, 96)


def _name(function: Any, name: str, parameters: list[inspect.Parameter], result: Any) -> None:
    function.__name__ = function.__qualname__ = name
    function.__signature__ = inspect.Signature(parameters, return_annotation=result)


batch_norm, add_batch_norm = _functions("batch", _batch_norm)
instance_norm, add_instance_norm = _functions("instance", _instance_norm)
layer_norm, add_layer_norm = _functions("layer", _layer_norm)
rms_norm, add_rms_norm = _functions("rms", _rms_norm)
group_norm, add_group_norm = _functions("group", _group_norm)


# --- across channels -----------------------------------------------------------------------


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Elements divided by what lies beside them: ``torch.nn.functional.local_response_norm``.

    ``x / (k + alpha * m) ** beta``, where m is the mean of the squares of ``size`` channels,
    ``size // 2`` of them before the element's own; those that do not exist are zeros.

    Args:
        input: tensor of shape (N, C, ...) with three axes or more, of any float dtype or of
            integers
        size: how many channels take part
        alpha, beta, k: numbers

    Returns:
        A tensor of the input's shape and memory layout

    Raises:
        TypeError: for something else than a tensor or a number where one belongs
        ValueError: for an input with fewer than three axes
        RuntimeError: for a size below 1
        NotImplementedError: for an input of bools or complex numbers

    Source: Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural
    Networks, 2012.

    Example:
        >>> import torch
        >>> import infinitypool.nn.functional as F
        >>> F.local_response_norm(torch.ones(1, 3, 1), 3, alpha=3.0, beta=1.0).flatten()
        tensor([0.3333, 0.2500, 0.3333])
    """
    name = "local_response_norm"
    if has_torch_function_unary(input):
        return handle_torch_function(
            local_response_norm, (input,), input, size, alpha=alpha, beta=beta, k=k
        )
    check_tensor(name, input)
    if input.ndim < 3:
        raise ValueError(
            f"{name}: input must have the shape (N, C, ...) with three axes or more, not "
            f"{tuple(input.shape)}"
        )
    for argument, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        if not isinstance(value, (float, int, complex, Tensor)):
            number(name, argument, value, TORCH)
    window = integer(size, TORCH)
    if window is None or isinstance(size, bool):
        raise TypeError(f"{name}: size={show(size)} must be an int, not {type(size).__name__}")
    if not input.numel():
        return input
    if window < 1:
        raise RuntimeError(f"{name}: size={show(window)} must be 1 or more")
    squares = input * input
    if input.ndim > 3 and input.dtype in HALVES and torch.is_autocast_enabled("cpu"):
        squares = squares.float()  # as PyTorch's mean over three axes
    plain = is_tracing() or not squares.requires_grad
    if plain or transforms() is not None or forward_ad._current_level >= 0:
        means = _means_of_channels(squares, window, window // 2)
    else:
        means = _ChannelMeans.apply(squares, window, window // 2)
    return input / (means * alpha + k) ** beta


def _means_of_channels(x: Tensor, size: int, before: int) -> Tensor:
    """Means over ``size`` channels, ``before`` of them before the own; beyond all there are zeros."""
    padding = (before, size - 1 - before)
    if x.stride(1) == 1 and x.shape[1] > 1:  # channels last: every pixel is a line
        lines = x.movedim(1, -1)
        flat = lines.flatten(1, -2)
        return windows.avg_pool1d(flat, size, 1, [padding]).reshape(lines.shape).movedim(-1, 1)
    flat = x.flatten(2).unsqueeze(1)
    return windows.avg_pool2d(flat, (size, 1), 1, [padding, (0, 0)]).reshape(x.shape)


class _ChannelMeans(torch.autograd.Function):
    """Linear, so its gradient is a mean again, over the window turned around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, before: int) -> Tensor:
        ctx.window = size, size - 1 - before
        return _means_of_channels(x, size, before)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return _ChannelMeans.apply(grad, *ctx.window), None, None

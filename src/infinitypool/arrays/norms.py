"""Norms of arrays: what PyTorch's functions compute in evaluation, over any axes."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from marshal import dumps
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..bfloat16 import widen
from ..plan import Cache, is_exact, memory_order
from ..plan_norm import dense_strides, is_readable, native_norm, readable_strides
from ..spec import NORMS, NormSpec, norm_spec
from .functions import Sizes
from .incoming import (
    address,
    aligned,
    check_apart,
    check_result,
    check_writeable,
    dtype_name,
    element_strides,
    incoming,
    is_torch_tensor,
    outgoing,
    overlap,
)
from .window import allocate


class _Plan(NamedTuple):
    native: Any  # none for results without elements
    strides: tuple[int, ...] | None  # of the copy that the core wants, in elements
    # For `allocate`: the result follows its input in memory.
    shape: tuple[int, ...]
    dense_shape: tuple[int, ...]
    transpose: list[int] | None
    size: int
    parameter_shape: tuple[int, ...]
    parameter_dtype: np.dtype
    spec: NormSpec


_specs = Cache()
_plans = Cache()


def _read(function: str, kind: str, ndim: int, *arguments: Any) -> NormSpec:
    """The spec for eps, activation, negative_slope, and what else the kind has."""
    asked = (function, ndim, arguments)
    try:
        key = dumps(asked, 2)
        spec = _specs.get(key)
    except ValueError:  # something that marshal does not know
        spec = None
    if spec is None:
        eps, activation, slope, *own = arguments
        named = dict(zip(_OWN[kind], own, strict=True))
        spec = norm_spec(
            function,
            kind,
            eps=eps,
            activation=activation,
            negative_slope=slope,
            ndim=ndim,
            **named,
        )
        if is_exact([eps, activation, slope, *own]):
            _specs.keep(key, spec)
    return spec


_OWN = {
    "batch": ("channel_axis",),
    "instance": ("channel_axis",),
    "group": ("channel_axis", "num_groups"),
    "layer": ("axes",),
    "rms": ("axes",),
}


def _normalise(
    function: str,
    kind: str,
    x: Any,
    arguments: tuple[Any, ...],
    parameters: dict[str, Any],
    statistics: dict[str, Any],
    out: Any,
) -> Any:
    array, bits, restore = incoming(function, "x", x)
    array = aligned(array)
    dtype = dtype_name(function, array, bits)
    if kind not in ("layer", "rms") and array.ndim < 2:
        raise ValueError(f"{function}: x must have two axes or more, not the shape {array.shape}")
    spec = _read(function, kind, array.ndim, *arguments)
    with_parameters = any(value is not None for value in parameters.values())
    target = None if out is None else _target(function, out, array, dtype)
    result_strides = () if target is None else target.strides
    key = (spec.text, dtype, array.shape, array.strides, with_parameters, result_strides)
    plan = _plans.get(key)
    if plan is None:
        plan = _plans.keep(key, _make_plan(spec, array, dtype, with_parameters, target))
    given = {
        name: _parameter(function, name, value, plan, array.shape, target)
        for name, value in (parameters | statistics).items()
    }
    result = _run(plan, array, statistics, given, target)
    if target is not None:
        if is_torch_tensor(out):
            sys.modules["torch"].autograd.graph.increment_version(out)
        return out
    return result if restore is None else restore(result, bits)


def _make_plan(
    spec: NormSpec,
    array: np.ndarray,
    dtype: str,
    parameters: bool,
    target: np.ndarray | None,
) -> _Plan:
    spec.check_dtypes(dtype, {})
    spec.check_input(array.shape)
    shape, strides = array.shape, element_strides(array)
    order = memory_order(shape, strides)
    wide = "float64" if dtype == "float64" else "float32"
    native, copied = None, None
    if array.size:
        taken = strides
        if not is_readable(spec, shape, strides, parameters):
            copied = taken = readable_strides(spec, shape, strides, parameters)
        out_strides = dense_strides(shape, strides)
        if target is not None:
            out_strides = element_strides(target)
        native = native_norm(
            spec, dtype, shape, taken, out_strides, None, wide if parameters else None, wide
        )
    return _Plan(
        native,
        copied,
        shape,
        tuple(shape[axis] for axis in order),
        None if order == sorted(order) else [order.index(i) for i in range(len(order))],
        prod(shape),
        spec.parameter_shape(shape),
        np.dtype(wide),
        spec,
    )


def _run(
    plan: _Plan,
    array: np.ndarray,
    statistics: dict[str, Any],
    given: dict[str, np.ndarray | None],
    target: np.ndarray | None,
) -> np.ndarray:
    result = allocate(plan, array.dtype) if target is None else target
    if plan.native is None:
        return result
    if plan.strides is not None:
        copy = allocate(plan._replace(dense_shape=(plan.size,), transpose=None), array.dtype)
        steps = [step * array.itemsize for step in plan.strides]
        dense = np.lib.stride_tricks.as_strided(copy, plan.shape, steps)
        dense[...] = array
        array = dense
    scale, shift = (_address(given.get(name)) for name in ("weight", "bias"))
    if statistics and given["mean"] is not None:
        mean, var = address(given["mean"]), address(given["var"])
        plan.native.apply(address(array), address(result), scale, shift, mean, var)
    else:
        plan.native.normalize(address(array), 0, address(result), 0, scale, shift, 0, 0, 0, 0, 0.0)
    return result


def _address(array: np.ndarray | None) -> int:
    return 0 if array is None else address(array)


def _parameter(
    function: str,
    name: str,
    value: Any,
    plan: _Plan,
    shape: tuple[int, ...],
    target: np.ndarray | None,
) -> np.ndarray | None:
    """Weight, bias or statistics in the type that is computed in, contiguous."""
    if value is None:
        return None
    if type(value) is np.ndarray and value.dtype is plan.parameter_dtype and target is None:
        flags = value.flags
        if value.shape == plan.parameter_shape and flags.c_contiguous and flags.aligned:
            return value  # as it is taken: the long way costs as much as a small norm
    array, bits, _ = incoming(function, name, value)
    if dtype_name(function, array, bits, name) == "bool":
        raise TypeError(f"{function}: {name} has dtype bool, which must be one of numbers")
    if bits is not None:
        array = widen(array)
    plan.spec.check_parameter(name, array.shape, shape)
    taken = np.ascontiguousarray(aligned(array), plan.parameter_dtype)
    if target is not None and overlap(target, taken):
        taken = taken.copy()
    return taken


def _target(function: str, out: Any, array: np.ndarray, dtype: str) -> np.ndarray:
    """``out`` as a NumPy array that can take the result. It may be the input itself."""
    target, bits = outgoing(function, "out", out)
    check_result(function, "out", target, bits, array.shape, dtype)
    check_writeable(function, "out", target)
    check_apart(function, "out", target)
    same = address(target) == address(array) and target.strides == array.strides
    if not same and overlap(target, array):
        raise ValueError(f"{function}: out overlaps x in memory, and is not x itself")
    return target


# --- the functions -------------------------------------------------------------------------


def layer_norm(
    x: Any,
    axes: Sizes = -1,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
    out: Any = None,
) -> Any:
    arguments = (eps, activation, negative_slope, axes)
    parameters = {"weight": weight, "bias": bias}
    return _normalise("layer_norm", "layer", x, arguments, parameters, {}, out)


def rms_norm(
    x: Any,
    axes: Sizes = -1,
    weight: Any = None,
    eps: float | None = None,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
    out: Any = None,
) -> Any:
    arguments = (eps, activation, negative_slope, axes)
    return _normalise("rms_norm", "rms", x, arguments, {"weight": weight}, {}, out)


def batch_norm(
    x: Any,
    mean: Any = None,
    var: Any = None,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    out: Any = None,
) -> Any:
    if (mean is None) != (var is None):
        raise ValueError("batch_norm: mean and var must both be given or both be None")
    arguments = (eps, activation, negative_slope, channel_axis)
    parameters = {"weight": weight, "bias": bias}
    statistics = {"mean": mean, "var": var}
    return _normalise("batch_norm", "batch", x, arguments, parameters, statistics, out)


def group_norm(
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    out: Any = None,
) -> Any:
    arguments = (eps, activation, negative_slope, channel_axis, num_groups)
    parameters = {"weight": weight, "bias": bias}
    return _normalise("group_norm", "group", x, arguments, parameters, {}, out)


def instance_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    out: Any = None,
) -> Any:
    arguments = (eps, activation, negative_slope, channel_axis)
    parameters = {"weight": weight, "bias": bias}
    return _normalise("instance_norm", "instance", x, arguments, parameters, {}, out)


# --- texts ---------------------------------------------------------------------------------

_DOC = """{title}.

    {formula}

    Parameters
    ----------
    x : array{shape}
        A NumPy array of any strides, something that ``numpy.asarray`` takes, or an array that
        speaks DLPack on the CPU (PyTorch, JAX), which comes in without a copy. Elements are
        float64, float32, float16 or bfloat16; statistics have at least float32.
    {own}
    eps : float
        What is added to the variance{eps}.
    {axis}activation : None, "relu", "leaky_relu", "silu" or "gelu"
        What the result goes through.
    negative_slope : float
        The factor of negative numbers in "leaky_relu".
    out : array
        Where to put the result instead of into new memory. It may be ``x`` itself.

    Returns
    -------
    array
        What ``x`` was: a NumPy array, a PyTorch tensor, a JAX array, of its shape and dtype. Its
        axes follow each other in memory as those of ``x`` do.

    Raises
    ------
    TypeError
        For a value of a wrong type, and for elements that are no floats.
    ValueError
        For {errors}arrays of other shapes than the parameters', an
        ``out`` of another shape, read-only or overlapping ``x`` in part.

    Notes
    -----
    {source}

    Examples
    --------
    >>> import numpy as np
    >>> import infinitypool as ip
    >>> {example}
    """

_CHANNELS = """weight, bias : array of shape (C,) or None
        A factor and a summand for every channel."""
_CHANNEL_AXIS = """channel_axis : int
        The axis of channels.{batch}
    """
_SAMPLES = " Axis 0 is that of samples, unless it is that of channels."
_ALONG = """axes : int or ints
        The normalised axes, in any order.
    {names}
        Of the shape of ``x`` along ``axes``, in their order."""
_X = "np.array([[1.0, 2.0], [3.0, 6.0]])"


def _wrap(text: str) -> str:
    return textwrap.fill(text, 92, subsequent_indent="    ")


_TEXTS: dict[Callable[..., Any], tuple[str, str, str, str, str, str]] = {
    layer_norm: (
        "layer",
        "Normalise the elements along some axes to mean 0 and variance 1",
        _ALONG.format(names="weight, bias : array or None"),
        "",
        "axes out of range or repeated, ",
        f"ip.layer_norm({_X}).round(3)\n    array([[-1.,  1.],\n           [-1.,  1.]])",
    ),
    rms_norm: (
        "rms",
        "Divide the elements along some axes by their root mean square",
        _ALONG.format(names="weight : array or None"),
        "",
        "axes out of range or repeated, ",
        f"ip.rms_norm({_X}).round(3)\n    array([[0.632, 1.265],\n           [0.632, 1.265]])",
    ),
    batch_norm: (
        "batch",
        "Normalise every channel, with given statistics or with its own",
        "mean, var : arrays of shape (C,), or None\n        The statistics of every channel; by "
        "default those of ``x``.\n    " + _CHANNELS,
        _CHANNEL_AXIS.format(batch=""),
        "one of mean and var alone, ",
        f"ip.batch_norm({_X}, mean=[1.0, 2.0], var=[1.0, 4.0], eps=0.0)\n"
        "    array([[0., 0.],\n           [2., 2.]])",
    ),
    group_norm: (
        "group",
        "Normalise groups of channels of every sample",
        "num_groups : int\n        How many groups the channels make; it divides their number.\n    "
        + _CHANNELS,
        _CHANNEL_AXIS.format(batch=_SAMPLES),
        "a number of groups that does not divide the channels, ",
        f"ip.group_norm({_X}, 1).round(3)\n    array([[-1.,  1.],\n           [-1.,  1.]])",
    ),
    instance_norm: (
        "instance",
        "Normalise every channel of every sample",
        _CHANNELS,
        _CHANNEL_AXIS.format(batch=_SAMPLES),
        "",
        f"ip.instance_norm({_X}, channel_axis=0).round(3)\n"
        "    array([[-1.,  1.],\n           [-1.,  1.]])",
    ),
}

for _function, (_kind, _title, _own, _axis, _errors, _example) in _TEXTS.items():
    _row = NORMS[_kind]
    _function.__module__ = __package__
    _function.__doc__ = _DOC.format(
        title=_title,
        formula=_wrap(
            f"``activation({_row.formula})``, where "
            f"{'mean and variance are' if _row.centered else 'the mean is'} over {_row.region}."
        ),
        shape="" if _kind in ("layer", "rms") else " of two axes or more",
        own=_own,
        eps="" if _row.centered else "; None is the epsilon of float64, or of float32",
        axis=_axis,
        errors=_errors,
        source=_wrap(f"Source: {_row.source}."),
        example=_example,
    )

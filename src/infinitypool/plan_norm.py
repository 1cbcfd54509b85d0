"""Plans of norms: a spec bound to dtypes, a shape and memory layouts, ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _core
from .plan import contiguous_strides, memory_order
from .spec import NormSpec


def is_readable(
    spec: NormSpec, shape: Sequence[int], strides: Sequence[int], parameters: bool
) -> bool:
    """Whether the core takes an input as it lies: with an axis of stride 1, and nothing repeated.

    ``parameters`` may not change along an axis inside a region that lies outside of other regions.
    Everything else is copied to dense memory first.
    """
    layout = spec.layout(shape)
    steps = layout.spread(strides)
    longer = [axis for axis, size in enumerate(layout.sizes) if size > 1]
    if not longer:
        return True
    if min(steps[axis] for axis in longer) != 1:
        return False
    if not parameters:
        return True
    inner = [steps[axis] for axis in longer if layout.regions[axis]]
    return not inner or all(
        steps[axis] < min(inner)
        for axis in longer
        if layout.parameters[axis] and not layout.regions[axis]
    )


def readable_strides(
    spec: NormSpec, shape: Sequence[int], strides: Sequence[int], parameters: bool
) -> tuple[int, ...]:
    """Strides of a dense copy that the core takes, in the order of the input's axes if it can be."""
    order = memory_order(shape, strides)
    dense = contiguous_strides(shape, order)
    if is_readable(spec, shape, dense, parameters):
        return dense
    if spec.axes:
        last = [axis + len(shape) for axis in spec.axes]
    else:
        last = [axis for axis in range(1 if spec.channel_axis else 0, len(shape))]
        last.insert(0, last.pop(last.index(spec.channel_axis)))
    return contiguous_strides(shape, [axis for axis in order if axis not in last] + last)


def is_alongside(shape: Sequence[int], strides: Sequence[int], like: Sequence[int]) -> bool:
    """Whether a second input, such as a gradient, is contiguous where the first one is.

    One number that is repeated everywhere is read as it is, too.
    """
    steps = [(s, t) for n, s, t in zip(shape, strides, like, strict=True) if n > 1]
    return all(s == 0 for s, _ in steps) or any(s == 1 == t for s, t in steps)


def dense_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor whose axes follow each other in memory as those of the input."""
    return contiguous_strides(shape, memory_order(shape, strides))


def native_norm(
    spec: NormSpec,
    dtype: str,
    shape: Sequence[int],
    strides: Sequence[int],
    out_strides: Sequence[int],
    other_strides: Sequence[int] | None = None,
    parameter_dtype: str | None = None,
    given_dtype: str | None = None,
) -> Any:
    """The core's plan, for an input that :func:`is_readable` and has elements.

    ``other_strides`` are those of a residual or of a gradient. ``parameter_dtype`` is None where
    there is neither a weight nor a bias, and ``given_dtype`` where no statistics come from outside.
    """
    layout = spec.layout(shape)
    spread = layout.spread
    # Where there are none, more axes can be taken as one.
    parameters = [0] * len(layout.sizes) if parameter_dtype is None else list(layout.parameters)
    return _core.Norm(
        dtype,
        parameter_dtype or dtype,
        given_dtype or dtype,
        list(layout.sizes),
        spread(strides),
        spread(out_strides),
        spread(out_strides if other_strides is None else other_strides),
        list(layout.regions),
        parameters,
        spec.centered,
        spec.epsilon(dtype),
        spec.activation,
        spec.slope,
    )

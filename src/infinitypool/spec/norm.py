"""What a normalisation means: the spec, its regions and parameters, and its text.

Every norm is ``activation((x - mean) / sqrt(var + eps) * weight + bias)``. They differ in the
*region*, the elements that share a mean and a variance, and in the axes that weight and bias vary
along. Both are steps: how far an axis moves in the array of regions, or of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from .reading import (
    FRONTS,
    LIMIT,
    NUMPY,
    Front,
    NotANumber,
    article,
    check_word,
    integer,
    integers,
    ints_of,
    show,
)

ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu")

# What statistics and parameters can be computed for.
NORM_DTYPES = ("float64", "float32", "float16", "bfloat16")

# The epsilon of the type that a dtype is computed in, where none is given.
_EPSILON = {"float64": 2.0**-52}
_EPSILON_32 = 2.0**-23


@dataclass(frozen=True)
class NormKind:
    """A norm: its region in words, its formula and its source."""

    name: str
    region: str
    formula: str
    source: str
    centered: bool = True


_FORMULA = "(x - mean) / sqrt(var + eps) * weight + bias"
NORMS: dict[str, NormKind] = {
    kind.name: kind
    for kind in (
        NormKind(
            "batch",
            "a channel of the whole batch",
            _FORMULA,
            "Ioffe and Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing "
            "Internal Covariate Shift, 2015, https://arxiv.org/abs/1502.03167",
        ),
        NormKind(
            "instance",
            "a channel of a sample",
            _FORMULA,
            "Ulyanov, Vedaldi and Lempitsky, Instance Normalization: The Missing Ingredient for Fast "
            "Stylization, 2016, https://arxiv.org/abs/1607.08022",
        ),
        NormKind(
            "group",
            "a group of channels of a sample",
            _FORMULA,
            "Wu and He, Group Normalization, 2018, https://arxiv.org/abs/1803.08494",
        ),
        NormKind(
            "layer",
            "the normalised axes of a sample",
            _FORMULA,
            "Ba, Kiros and Hinton, Layer Normalization, 2016, https://arxiv.org/abs/1607.06450",
        ),
        NormKind(
            "rms",
            "the normalised axes of a sample",
            "x / sqrt(mean(x ** 2) + eps) * weight",
            "Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, "
            "https://arxiv.org/abs/1910.07467",
            centered=False,
        ),
    )
}


_ONE = {"batch": "channel", "instance": "channel of a sample", "group": "group"}


class Layout(NamedTuple):
    """The axes as the core sees them: group norm's channels are two, groups and their channels."""

    sizes: tuple[int, ...]
    regions: tuple[int, ...]
    parameters: tuple[int, ...]
    region_count: int
    parameter_shape: tuple[int, ...]
    split: tuple[int, int] | None  # the axis of channels, and how many a group has

    def spread(self, strides: Sequence[int]) -> list[int]:
        """Strides for these axes, from those of a tensor."""
        result = list(strides)
        if self.split is not None:
            axis, channels = self.split
            result.insert(axis, result[axis] * channels)
        return result


@dataclass(frozen=True)
class NormSpec:
    """A frozen description of one normalisation.

    ``axes`` are the normalised ones of a layer or a root mean square, negative, in the order that
    weight and bias have. The other kinds have a ``channel_axis`` and, a group norm, ``groups``.
    ``eps`` is None for the epsilon of the type that is computed in. ``normalized_shape`` is the
    shape that the PyTorch front demands along the axes.

    >>> spec = norm_spec("layer_norm", "layer", axes=(1, 2), ndim=3, eps=1e-5)
    >>> spec.layout((4, 5, 3)).regions, spec.layout((4, 5, 3)).parameters
    ((1, 0, 0), (0, 3, 1))
    """

    function: str
    front: Front
    kind: str
    eps: float | None
    axes: tuple[int, ...] = ()
    normalized_shape: tuple[int, ...] = ()
    channel_axis: int = 1
    groups: int = 0
    activation: str = "none"
    slope: float = 0.0

    @property
    def centered(self) -> bool:
        """Whether a mean is subtracted."""
        return NORMS[self.kind].centered

    def epsilon(self, dtype: str) -> float:
        """What is added to the variance of such an input."""
        return _EPSILON.get(dtype, _EPSILON_32) if self.eps is None else self.eps

    def layout(self, shape: Sequence[int]) -> Layout:
        """Regions and parameters of an input of this ``shape``, which has been checked."""
        ndim = len(shape)
        sizes, kept, split = list(shape), [], None
        if self.axes:
            varying = [axis + ndim for axis in self.axes]
            kept = [axis for axis in range(ndim) if axis not in varying]
        else:
            channel = self.channel_axis
            sample = [] if channel == 0 else [0]
            varying = [channel]
            kept = {"batch": [channel], "instance": [*sample, channel]}.get(self.kind, [])
            if self.kind == "group":
                split = channel, shape[channel] // self.groups
                sizes[channel : channel + 1] = self.groups, split[1]
                kept, varying = [*sample, channel], [channel, channel + 1]
        regions = _steps(sizes, kept)
        parameters = _steps(sizes, varying)
        return Layout(
            tuple(sizes),
            regions,
            parameters,
            prod(sizes[axis] for axis in kept),
            self.parameter_shape(shape),
            split,
        )

    def parameter_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of weight and bias."""
        return tuple(shape[axis] for axis in self.axes or (self.channel_axis,))

    def check_input(self, shape: Sequence[int], of_input: bool = True) -> None:
        """Refuse an input of this ``shape``.

        PyTorch wants more than one value for statistics ``of_input``, in all but layers.
        """
        name, error = self.front.input_name, self.front.value_error
        shape = tuple(shape)
        if self.normalized_shape:
            wanted = self.normalized_shape
            if len(shape) < len(wanted) and self.kind == "rms":
                error = ValueError  # PyTorch's
            if shape[-len(wanted) :] != wanted:
                raise error(
                    f"{self.function}: normalized_shape={wanted} must be the last axes of {name}, "
                    f"whose shape is {shape}"
                )
        if of_input and self.front.lenient and self._values(shape) == 1:
            raise ValueError(
                f"{self.function}: {name} of shape {shape} has one value per {_ONE[self.kind]}, and "
                "statistics need more"
            )
        if not self.axes and len(shape) < 2:
            early = self.kind == "instance" or self.kind == "batch" and of_input
            if self.front.lenient and early:
                error = IndexError  # PyTorch looks for an axis before it counts them
            raise error(f"{self.function}: {name} must have the shape (N, C, ...), not {shape}")
        if self.kind == "group" and shape[self.channel_axis] % self.groups:
            raise error(
                f"{self.function}: num_groups={self.groups} must divide the "
                f"{shape[self.channel_axis]} channels of {name}, whose shape is {shape}"
            )

    def _values(self, shape: tuple[int, ...]) -> int:
        """How many values PyTorch counts for a mean: in a group norm, those of all samples."""
        if self.kind == "instance":
            return prod(shape[2:])
        if self.axes or len(shape) < 2:
            return 0
        channels = shape[1] // self.groups if self.kind == "group" else 1
        return shape[0] * channels * prod(shape[2:])

    def check_parameter(self, name: str, shape: Sequence[int], like: Sequence[int]) -> None:
        """Refuse weight, bias or statistics that do not fit an input of the shape ``like``.

        PyTorch takes a batch norm's weight and bias of any shape with as many elements.
        """
        shape, wanted = tuple(shape), self.parameter_shape(like)
        loose = self.front.lenient and self.kind == "batch" and name in ("weight", "bias")
        if prod(shape) != prod(wanted) if loose else shape != wanted:
            raise self.front.value_error(
                f"{self.function}: {name} has the shape {shape}, which must be {wanted} for "
                f"{article(self.front.input_name)} of shape {tuple(like)}"
            )

    def check_dtypes(self, dtype: str, others: dict[str, str]) -> None:
        """Refuse parameters and statistics whose dtypes do not go with the input's, and inputs
        that are not of floats.

        The others share a dtype: the input's or, for half precision, float32.
        """
        allowed = (dtype, "float32") if dtype in ("float16", "bfloat16") else (dtype,)
        wrong = self.front.dtype_error(
            f"{self.function}: {self.front.input_name} has dtype {dtype}, which must be one of "
            f"{', '.join(NORM_DTYPES)}"
        )
        if dtype not in NORM_DTYPES and self.kind in ("batch", "instance"):
            raise wrong
        found = list(others.items())
        for name, kind in found:
            if kind not in allowed or kind != found[0][1]:
                also = "" if kind not in allowed else f", and that of {found[0][0]}, {found[0][1]}"
                raise self.front.value_error(
                    f"{self.function}: {name} has dtype {kind}, which must be "
                    f"{' or '.join(allowed)} for {article(self.front.input_name)} of {dtype}{also}"
                )
        if dtype not in NORM_DTYPES:
            raise wrong

    @cached_property
    def text(self) -> str:
        """The spec as one line that :func:`norm_spec_from_text` reads back.

        >>> norm_spec("group_norm", "group", num_groups=2, eps=1e-5, activation="relu").text
        'group_norm kind=group front=numpy eps=1e-05 channel_axis=1 groups=2 activation=relu'
        """
        parts = [
            self.function,
            f"kind={self.kind}",
            f"front={self.front.name}",
            f"eps={'none' if self.eps is None else repr(self.eps)}",
        ]
        if self.axes:
            parts.append(f"axes={_join(self.axes)}")
            if self.normalized_shape:
                parts.append(f"normalized_shape={_join(self.normalized_shape)}")
        else:
            parts.append(f"channel_axis={self.channel_axis}")
        if self.groups:
            parts.append(f"groups={self.groups}")
        if self.activation != "none":
            parts.append(f"activation={self.activation}")
        if self.slope:
            parts.append(f"slope={self.slope!r}")
        return " ".join(parts)


def _steps(sizes: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """Dense steps along ``axes``, the last of them the fastest, and 0 along all others."""
    result, step = [0] * len(sizes), 1
    for axis in reversed(axes):
        result[axis] = step
        step *= sizes[axis]
    return tuple(result)


def _join(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def norm_spec_from_text(text: str) -> NormSpec:
    """Read :attr:`NormSpec.text` back. Raises ``ValueError`` for anything else.

    >>> spec = norm_spec("rms_norm", "rms", normalized_shape=(5, 3), eps=None, front=FRONTS["torch"])
    >>> norm_spec_from_text(spec.text) == spec
    True
    """
    try:
        function, *words = text.split(" ")
        fields = dict(word.split("=", 1) for word in words)
        kind, eps = fields.pop("kind"), fields.pop("eps")
        spec = NormSpec(
            function,
            FRONTS[fields.pop("front")],
            NORMS[kind].name,
            None if eps == "none" else float(eps),
            _ints(fields.pop("axes", "")),
            _ints(fields.pop("normalized_shape", "")),
            int(fields.pop("channel_axis", 1)),
            int(fields.pop("groups", 0)),
            fields.pop("activation", "none"),
            float(fields.pop("slope", 0.0)),
        )
        if fields:
            raise ValueError(f"unknown words {sorted(fields)}")
        if spec.activation not in ("none", *ACTIVATIONS):
            raise ValueError(f"unknown activation {spec.activation}")
        if any(axis >= 0 for axis in spec.axes) or len(set(spec.axes)) < len(spec.axes):
            raise ValueError("axes must be negative and differ")
        if (spec.kind in ("layer", "rms")) != bool(spec.axes):
            raise ValueError(f"axes do not belong to the kind {kind}")
        if (spec.groups < 1) == (spec.kind == "group") or spec.channel_axis < 0:
            raise ValueError("groups and channel_axis do not belong together")
        trailing = tuple(range(-len(spec.axes), 0))
        if spec.normalized_shape and (
            spec.axes != trailing or len(spec.normalized_shape) != len(spec.axes)
        ):
            raise ValueError("normalized_shape belongs to the last axes")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{text!r} is no spec of a norm: {error}") from None
    return spec


def _ints(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()


# --- reading -------------------------------------------------------------------------------


def number(function: str, name: str, value: object, front: Front = NUMPY) -> float:
    """``value`` as a float. PyTorch takes its own tensors of one element, and bools."""
    plain = value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        if not getattr(value, "requires_grad", False):
            plain = value.item()
    if not isinstance(plain, (int, float)) or isinstance(plain, bool) and not front.lenient:
        raise TypeError(
            f"{function}: {name}={show(value)} must be a number, not "
            f"{article(type(value).__name__)}"
        )
    try:
        return float(plain)
    except OverflowError:
        error = OverflowError if front.lenient else ValueError
        raise error(f"{function}: {name}={show(value)} is too large for a float") from None


def norm_spec(
    function: str,
    kind: str,
    *,
    eps: object,
    normalized_shape: object = None,
    axes: object = None,
    ndim: int | None = None,
    num_groups: object = None,
    channel_axis: object = 1,
    training: bool = False,
    activation: object = None,
    negative_slope: object = 0.01,
    front: Front = NUMPY,
) -> NormSpec:
    """Read a call's arguments.

    A layer or root mean square has the ``normalized_shape`` of PyTorch's functions, or ``axes`` of
    an input with ``ndim`` of them; a group norm has ``num_groups``. PyTorch's batch norm demands
    more of ``eps`` where it is ``training``.
    """
    shape: tuple[int, ...] = ()
    places: tuple[int, ...] = ()
    if kind in ("layer", "rms"):
        if ndim is None:
            shape = _normalized_shape(function, normalized_shape, front)
            places = tuple(range(-len(shape), 0))
        else:
            places = _axes(function, axes, ndim)
    groups = 0 if num_groups is None and kind != "group" else _groups(function, num_groups, front)
    channel = 0 if places else _channel_axis(function, channel_axis, ndim)
    word, slope = "none", 0.0
    if activation is not None:
        word = check_word(function, "activation", activation, ACTIVATIONS, front)
        slope = number(function, "negative_slope", negative_slope, front)
    return NormSpec(
        function,
        front,
        kind,
        _eps(function, kind, eps, training, front),
        places,
        shape,
        1 if places else channel,
        groups,
        word,
        slope if word == "leaky_relu" else 0.0,
    )


def _eps(function: str, kind: str, eps: object, training: bool, front: Front) -> float | None:
    if eps is None and kind == "rms":
        return None
    value = number(function, "eps", eps, front)
    if not front.lenient:
        if not value >= 0:
            raise ValueError(f"{function}: eps={show(eps)} must be 0 or more")
    elif kind == "batch" and (value < 0 or training and value <= 0):
        rule = "above 0 in training" if training else "0 or more"
        raise ValueError(f"{function}: eps={show(eps)} must be {rule}")
    return value


def _normalized_shape(function: str, value: object, front: Front) -> tuple[int, ...]:
    try:
        numbers = integers(value, front, 1)
        if not isinstance(numbers, tuple):
            raise NotANumber(value)
    except NotANumber as found:
        raise TypeError(
            f"{function}: normalized_shape={show(value)} must be a tuple of ints; "
            f"{show(found.args[0])} is {article(type(found.args[0]).__name__)}"
        ) from None
    if not numbers:
        raise front.value_error(f"{function}: normalized_shape={show(value)} must not be empty")
    if any(abs(n) > LIMIT for n in numbers):
        raise TypeError(f"{function}: normalized_shape={show(value)} does not fit into 64 bits")
    return numbers


def _axes(function: str, axes: object, ndim: int) -> tuple[int, ...]:
    numbers = ints_of(function, "axes", axes)
    for axis in numbers:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{function}: axes={show(axes)} has {axis}, but x has {ndim} "
                f"{'axis' if ndim == 1 else 'axes'}"
            )
    result = tuple(axis if axis < 0 else axis - ndim for axis in numbers)
    if len(set(result)) < len(result):
        raise ValueError(f"{function}: axes={show(axes)} names an axis twice")
    return result


def _channel_axis(function: str, axis: object, ndim: int | None) -> int:
    found = integer(axis)
    if found is None or getattr(axis, "ndim", 0):
        raise TypeError(
            f"{function}: channel_axis={show(axis)} must be an int, not "
            f"{article(type(axis).__name__)}"
        )
    if ndim is None:
        return found
    if not -ndim <= found < ndim:
        raise ValueError(f"{function}: channel_axis={found} is no axis of an x with {ndim}")
    return found % ndim


def _groups(function: str, value: object, front: Front) -> int:
    groups = integer(value, front)
    if groups is None or getattr(value, "ndim", 0):
        raise TypeError(
            f"{function}: num_groups={show(value)} must be an int, not "
            f"{article(type(value).__name__)}"
        )
    if abs(groups) > LIMIT:
        raise front.overflow_error(
            f"{function}: num_groups={show(groups)} does not fit into 64 bits"
        )
    if groups < 1:
        error = ZeroDivisionError if front.lenient and groups == 0 else front.value_error
        raise error(f"{function}: num_groups={show(groups)} must be 1 or more")
    return groups

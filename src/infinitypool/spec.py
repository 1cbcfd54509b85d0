"""Specs: what a pooling call means.

This is the one place that reads raw arguments, words the errors and computes output shapes.
Both fronts, the array functions and the PyTorch functions, hand their arguments to
:func:`pool_spec` and receive a :class:`PoolSpec`, a frozen description of the operation that
is independent of any data. :meth:`PoolSpec.geometry` then answers the sizes.

Everything is computed in exact Python integers, so sizes up to 2**62 give an answer or an
exception and never wrap around.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from reprlib import Repr

__all__ = ["NUMPY", "TORCH", "Front", "Geometry", "PoolSpec", "output_shape", "pool_spec"]

_LIMIT = 2**63 - 1
_INT32_LIMIT = 2**31 - 1

# Arguments appear in error texts: enough of them to recognise, never a screenful.
_repr = Repr()
_repr.maxlong = _repr.maxother = _repr.maxstring = 60
_show = _repr.repr


@dataclass(frozen=True)
class Front:
    """The habits of one front: which exceptions it raises and which spellings it takes.

    The PyTorch front raises what PyTorch raises for the same call, and takes what PyTorch
    takes: one-element lists broadcast, an empty stride means the kernel, only the first entry
    of a list must not be a bool.
    """

    name: str
    value_error: type[Exception]
    overflow_error: type[Exception]
    word_error: type[Exception]
    nested_error: type[Exception]
    dtype_error: type[Exception]
    lenient: bool
    truncate: bool


NUMPY = Front(
    name="numpy",
    value_error=ValueError,
    overflow_error=ValueError,
    word_error=ValueError,
    nested_error=ValueError,
    dtype_error=TypeError,
    lenient=False,
    truncate=False,
)
TORCH = Front(
    name="torch",
    value_error=RuntimeError,
    overflow_error=ValueError,
    word_error=TypeError,
    nested_error=TypeError,
    dtype_error=NotImplementedError,
    lenient=True,
    truncate=True,
)
_FRONTS = {front.name: front for front in (NUMPY, TORCH)}

# PyTorch's functions whose sizes are 32-bit: all but the one-dimensional maximum.
_SIZES_64_BIT = {"max_pool1d"}
# PyTorch's functions that want every axis at least as long as the kernel, padding or not.
_KERNEL_FITS_INPUT = {"avg_pool3d"}
# PyTorch's functions that look for the channel axis before they count the axes.
_LOW_RANK_ERROR = {"avg_pool2d": IndexError}


@dataclass(frozen=True)
class Geometry:
    """The sizes of one operation on one input, an entry per pooled axis."""

    output_size: tuple[int, ...]
    padding_before: tuple[int, ...]
    padding_after: tuple[int, ...]


@dataclass(frozen=True)
class PoolSpec:
    """A frozen description of one pooling operation.

    ``axes`` are negative and ascending, so one spec serves batched and unbatched inputs; all
    other tuples have one entry per axis in the same order. ``padding`` holds (before, after)
    pairs, or is ``None`` for ``"same"``, which depends on the input's size. ``pytorch_form``
    marks a call in the PyTorch front that PyTorch's own operators would understand.

    >>> spec = pool_spec("max_pool", "max", 3, stride=2, padding=1, axes=(-2, -1))
    >>> spec.output_size((224, 224))
    (112, 112)
    """

    function: str
    front: Front
    reducer: str
    axes: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] | None
    dilation: tuple[int, ...]
    ceil_mode: bool
    count_include_pad: bool
    divisor_override: int
    pytorch_form: bool
    parameters: tuple[float, ...] = ()

    def windows(self, sizes: Sequence[int]) -> list[tuple[int, ...]]:
        """The windows along each pooled axis, as the core takes them."""
        geometry = self.geometry(sizes)
        return list(
            zip(
                self.kernel_size,
                self.stride,
                geometry.padding_before,
                geometry.padding_after,
                self.dilation,
                geometry.output_size,
                strict=True,
            )
        )

    @property
    def window(self) -> int:
        """How many elements a whole window has."""
        return prod(self.kernel_size)

    @property
    def offset_dtype(self) -> str:
        """The smallest unsigned type that holds a place inside the window."""
        for bits in (8, 16, 32):
            if self.window <= 2**bits:
                return f"uint{bits}"
        return "uint64"

    def output_size(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The output's sizes along the pooled axes, for an input with these ``sizes``.

        ``floor((n + before + after - dilation * (kernel_size - 1) - 1) / stride) + 1`` per
        axis; with ``ceil_mode`` rounded up, less a last window that would start in the
        padding behind the input. With ``padding="same"`` it is ``ceil(n / stride)``.
        Source: the shape section of ``torch.nn.MaxPool2d``; for ``"same"``, of
        ``tf.nn.convolution``.
        """
        return self.geometry(sizes).output_size

    def geometry(self, sizes: Sequence[int]) -> Geometry:
        """Output sizes and padding for an input with these ``sizes`` along the pooled axes.

        Raises the front's value error where no window fits or where a position would not fit
        into 64 bits.
        """
        output_size, before, after = [], [], []
        for i, n in enumerate(sizes):
            out, left, right = self._axis(i, n)
            output_size.append(out)
            before.append(left)
            after.append(right)
        return Geometry(tuple(output_size), tuple(before), tuple(after))

    def _axis(self, i: int, n: int) -> tuple[int, int, int]:
        kernel, stride, dilation = self.kernel_size[i], self.stride[i], self.dilation[i]
        span = dilation * (kernel - 1) + 1
        if self.pytorch_form and self.function in _KERNEL_FITS_INPUT and n < kernel:
            raise self._refusal(f"kernel_size={kernel} is larger than the input's {n}", i)
        if self.padding is None:
            out = -(-n // stride)
            total = max((out - 1) * stride + span - n, 0)
            left, right = total // 2, total - total // 2
        else:
            left, right = self.padding[i]
            room = n + left + right - span
            out = (room + (stride - 1 if self.ceil_mode else 0)) // stride + 1
            if self.ceil_mode and (out - 1) * stride >= n + left:
                out -= 1
        if out < 1:
            raise self._refusal(
                f"a window of {span} (kernel_size={kernel}, dilation={dilation}) is larger than "
                f"the padded input of {n + left + right} (size {n}, padding {left} and {right})",
                i,
            )
        if max((out - 1) * stride + span, n + left + right) > _LIMIT:
            raise self._refusal(
                f"size {n} with stride={stride}, padding {left} and {right} and a window of "
                f"{span} has positions that do not fit into 64 bits",
                i,
            )
        return out, left, right

    def _refusal(self, text: str, i: int) -> Exception:
        return self.front.value_error(f"{self.function}: {text} (axis {self.axes[i]})")

    def check_input(self, shape: Sequence[int], dtype: str, dtypes: Sequence[str]) -> None:
        """Refuse an input of this ``shape`` and ``dtype``, where only ``dtypes`` are possible."""
        name = "input" if self.front.lenient else "x"
        if self.front.lenient:
            n = len(self.axes)
            if len(shape) not in (n + 1, n + 2) or 0 in shape[-n - 1 :]:
                sizes = "L" if n == 1 else ", ".join("DHW"[-n:])
                kind = self.front.value_error
                if len(shape) <= n:
                    kind = _LOW_RANK_ERROR.get(self.function, kind)
                raise kind(
                    f"{self.function}: input must have the shape (N, C, {sizes}) or "
                    f"(C, {sizes}) with no empty axis but N, not {tuple(shape)}"
                )
        if len(shape) < -self.axes[0]:
            raise self.front.value_error(
                f"{self.function}: an input of shape {tuple(shape)} has no axis {self.axes[0]}"
            )
        if dtype not in dtypes:
            raise self.front.dtype_error(
                f"{self.function}: {name} has dtype {dtype}, which must be one of "
                f"{', '.join(dtypes)}"
            )

    def output_shape(self, shape: Sequence[int], itemsize: int = 1) -> tuple[int, ...]:
        """The whole output shape for an input of this whole ``shape``.

        Raises the front's value error if the bytes of such a result do not fit into 64 bits.
        """
        sizes = self.output_size([shape[axis] for axis in self.axes])
        result = list(shape)
        for axis, size in zip(self.axes, sizes, strict=True):
            result[axis] = size
        if itemsize * prod(max(size, 1) for size in result) > _LIMIT:
            padding = '"same"' if self.padding is None else self.padding
            raise self.front.value_error(
                f"{self.function}: an input of shape {tuple(shape)} with stride={self.stride} and "
                f"padding={padding} gives a result of shape {tuple(result)}, too large for 64 bits"
            )
        return tuple(result)

    @cached_property
    def text(self) -> str:
        """The spec as one line that :func:`spec_from_text` reads back.

        >>> pool_spec("max_pool", "max", 2, axes=(-1,)).text
        'max_pool reducer=max front=numpy axes=-1 kernel_size=2 stride=2 padding=0:0 dilation=1'
        """
        parts = [
            self.function,
            f"reducer={self.reducer}",
            f"front={self.front.name}",
            f"axes={_join(self.axes)}",
            f"kernel_size={_join(self.kernel_size)}",
            f"stride={_join(self.stride)}",
            "padding=same"
            if self.padding is None
            else "padding=" + ",".join(f"{before}:{after}" for before, after in self.padding),
            f"dilation={_join(self.dilation)}",
        ]
        if self.divisor_override:
            parts.append(f"divisor_override={self.divisor_override}")
        parts += [name for name in _FLAGS if getattr(self, name)]
        return " ".join(parts)


_FLAGS = ("ceil_mode", "count_include_pad", "pytorch_form")


def _join(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def spec_from_text(text: str) -> PoolSpec:
    """Read :attr:`PoolSpec.text` back. Raises ``ValueError`` for anything else.

    >>> spec = pool_spec("avg_pool2d", "mean", 3, padding=1, axes=(-2, -1), front=TORCH)
    >>> spec_from_text(spec.text) == spec
    True
    """
    try:
        function, *words = text.split(" ")
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        flags = {word for word in words if "=" not in word}
        lists = {
            name: tuple(map(int, fields.pop(name).split(",")))
            for name in ("axes", "kernel_size", "stride", "dilation")
        }
        if len(set(lists["axes"])) < len(lists["axes"]) or max(lists["axes"]) >= 0:
            raise ValueError("axes must be negative and differ")
        padding: object = fields.pop("padding")
        if padding != "same":
            pairs = [tuple(map(int, pair.split(":"))) for pair in padding.split(",")]
            # A pair per axis is a form of our own, so plain numbers go back in as such.
            padding = [pair[0] for pair in pairs] if "pytorch_form" in flags else pairs
        if flags - set(_FLAGS):
            raise ValueError(f"unknown words {sorted(flags - set(_FLAGS))}")
        spec = pool_spec(
            function,
            fields.pop("reducer"),
            lists["kernel_size"],
            stride=lists["stride"],
            padding=padding,
            dilation=lists["dilation"],
            ceil_mode="ceil_mode" in flags,
            count_include_pad="count_include_pad" in flags,
            divisor_override=int(fields.pop("divisor_override", 0)) or None,
            axes=lists["axes"],
            front=_FRONTS[fields.pop("front")],
        )
        if fields:
            raise ValueError(f"unknown fields {sorted(fields)}")
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{_show(text)} is not the text of a pooling spec: {error}") from None
    if spec.text != text:
        raise ValueError(f"{_show(text)} is not the text of a pooling spec: {spec.text} is")
    return spec


# --- reading raw arguments -----------------------------------------------------------------


class _NotANumber(Exception):
    pass


def _integer(value: object, front: Front, first: bool = True) -> int | None:
    """``value`` as an exact int, or None where it is no integer. Bools are no integers."""
    kind = type(value)
    if kind is int:
        return value  # type: ignore[return-value]
    if kind is bool:
        return int(value) if front.lenient and not first else None  # type: ignore[call-overload]
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None


def _read(value: object, front: Front, depth: int) -> int | tuple:
    """An int, or a tuple of them nested at most ``depth`` deep."""
    number = _integer(value, front)
    if number is not None:
        return number
    if not front.lenient and hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return _read(value.tolist(), front, depth)
    if depth and isinstance(value, (tuple, list) if front.lenient else (tuple, list, range)):
        items = []
        for position, item in enumerate(value):
            number = _integer(item, front, first=position == 0)
            items.append(_read(item, front, depth - 1) if number is None else number)
        return tuple(items)
    raise _NotANumber(value)


def _reader(function: str, front: Front, n: int) -> Callable[[str, object, int], int | tuple]:
    def read(name: str, value: object, depth: int = 1) -> int | tuple:
        try:
            return _read(value, front, depth)
        except _NotANumber as found:
            pairs = ', (before, after) pairs, "same" or "valid"' if name == "padding" else ""
            culprit = found.args[0]
            raise TypeError(
                f"{function}: {name}={_show(value)} must be an int or {n} ints{pairs}; "
                f"{_show(culprit)} is {_article(type(culprit).__name__)}"
            ) from None

    return read


def _article(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def _flatten(value: int | tuple) -> list[int]:
    if isinstance(value, tuple):
        return [number for item in value for number in _flatten(item)]
    return [value]


def check_bool(function: str, name: str, value: object, front: Front = NUMPY) -> bool:
    """``value`` as a bool. NumPy's own bools pass in the array functions only."""
    if value is True or value is False:
        return value
    if not front.lenient and type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        plain = value.tolist()
        if plain is True or plain is False:
            return plain
    raise TypeError(
        f"{function}: {name}={_show(value)} must be a bool, not {_article(type(value).__name__)}"
    )


def pool_spec(
    function: str,
    reducer: str,
    kernel_size: object,
    *,
    stride: object = None,
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: object = False,
    count_include_pad: object = True,
    divisor_override: object = None,
    axes: tuple[int, ...],
    front: Front = NUMPY,
) -> PoolSpec:
    """Read, check and freeze the arguments of one pooling call.

    ``function`` is the name that errors give to the call. ``axes`` are negative, one per
    pooled axis in the order of the other arguments' entries (see :func:`resolve_axes`).

    Raises ``TypeError`` where a number was expected and something else came, and the front's
    value error (``ValueError`` for arrays, ``RuntimeError`` for PyTorch) for a number that
    breaks a rule. Types are looked at before values, as PyTorch does.
    """
    n = len(axes)
    read = _reader(function, front, n)
    raw = {
        "kernel_size": read("kernel_size", kernel_size, 1),
        "stride": () if stride is None else read("stride", stride, 1),
        "padding": _read_word(function, padding, front) or read("padding", padding, 2),
        "dilation": read("dilation", dilation, 1),
    }
    ceil = check_bool(function, "ceil_mode", ceil_mode, front)
    include = check_bool(function, "count_include_pad", count_include_pad, front)
    divisor = 0
    if divisor_override is not None:
        divisor = _integer(divisor_override, front)
        if divisor is None or getattr(divisor_override, "ndim", 0):
            raise TypeError(
                f"{function}: divisor_override={_show(divisor_override)} must be an int or None"
            )
        raw["divisor_override"] = divisor

    for name, value in raw.items():
        for position, number in enumerate([] if isinstance(value, str) else _flatten(value)):
            if not -_LIMIT - 1 <= number <= _LIMIT:
                # PyTorch calls a list with a later entry that is too large a wrong type.
                raise (TypeError if position and front.lenient else front.overflow_error)(
                    f"{function}: {name}={_show(number)} does not fit into 64 bits"
                )

    def broadcast(name: str, value: int | tuple) -> tuple:
        if not isinstance(value, tuple):
            return (value,) * n
        if len(value) == 1 and front.lenient:
            return value * n
        if len(value) != n:
            raise front.value_error(
                f"{function}: {name}={_show(value)} must have {n} "
                f"{'entry' if n == 1 else 'entries'}, one per pooled axis, not {len(value)}"
            )
        return value

    def in_range(name: str, value: int | tuple, least: int) -> tuple[int, ...]:
        values = broadcast(name, value)
        for axis, number in zip(axes, values, strict=True):
            if number < least:
                rule = "at least 1" if least else "0 or more"
                raise front.value_error(f"{function}: {name}={number} must be {rule} (axis {axis})")
        return values

    kernels = in_range("kernel_size", raw["kernel_size"], 1)
    no_stride = stride is None or (front.lenient and raw["stride"] == ())
    strides = kernels if no_stride else in_range("stride", raw["stride"], 1)
    dilations = in_range("dilation", raw["dilation"], 1)
    pairs, plain = _pairs(function, raw["padding"], front, n, broadcast)
    if divisor_override is not None:
        if divisor == 0:
            raise front.value_error(f"{function}: divisor_override=0 must not be zero")
        if divisor < 0 and not front.lenient:
            raise front.value_error(f"{function}: divisor_override={divisor} must be at least 1")

    # PyTorch has one size of padding for both sides, and dilation for the maximum only.
    pytorch_form = front.lenient and plain and (reducer != "mean" or all(d == 1 for d in dilations))
    for axis, kernel, dilate, pair in zip(
        axes, kernels, dilations, pairs or ((0, 0),) * n, strict=True
    ):
        if min(pair) < 0:
            number = pair[0] if plain else pair
            raise front.value_error(f"{function}: padding={number} must be 0 or more (axis {axis})")
        if front.lenient and plain and pair[0] > kernel // 2:
            raise front.value_error(
                f"{function}: padding={pair[0]} must be at most half of kernel_size={kernel} "
                f"(axis {axis}); (before, after) pairs of any size are possible"
            )
        if dilate * (kernel - 1) + 1 > _LIMIT:
            raise front.value_error(
                f"{function}: a window of kernel_size={kernel} with dilation={dilate} does not "
                f"fit into 64 bits (axis {axis})"
            )
    if pytorch_form and function not in _SIZES_64_BIT:
        for name in ("kernel_size", "stride", "padding", "dilation"):
            for number in () if isinstance(raw[name], str) else _flatten(raw[name]):
                if number > _INT32_LIMIT:
                    raise front.value_error(
                        f"{function}: {name}={number} does not fit into 32 bits"
                    )

    order = sorted(range(n), key=lambda i: axes[i])

    def ascending(values: tuple) -> tuple:
        return tuple(values[i] for i in order)

    spec = PoolSpec(
        function=function,
        front=front,
        reducer=reducer,
        axes=ascending(axes),
        kernel_size=ascending(kernels),
        stride=ascending(strides),
        padding=None if pairs is None else ascending(pairs),
        dilation=ascending(dilations),
        ceil_mode=ceil,
        # TensorFlow never counts padding, and "same" is its word.
        count_include_pad=reducer == "mean" and include and pairs is not None,
        divisor_override=divisor if reducer == "mean" else 0,
        pytorch_form=pytorch_form,
    )
    if spec.window > _LIMIT:
        raise front.value_error(
            f"{function}: kernel_size={kernels} is a window of more elements than 64 bits count"
        )
    return spec


def _read_word(function: str, padding: object, front: Front) -> str | None:
    if not isinstance(padding, str):
        return None
    word = padding.lower()
    if word not in ("same", "valid"):
        raise front.word_error(
            f'{function}: padding={_show(padding)} must be a number, "same" or "valid"'
        )
    return word


def _pairs(
    function: str, padding: int | tuple | str, front: Front, n: int, broadcast: Callable
) -> tuple[tuple[tuple[int, int], ...] | None, bool]:
    """Padding as (before, after) pairs, or None for "same"; and whether it was plain numbers."""
    if padding == "same":
        return None, False
    if padding == "valid":
        return ((0, 0),) * n, True
    nested = isinstance(padding, tuple) and any(isinstance(item, tuple) for item in padding)
    if not nested:
        return tuple((number, number) for number in broadcast("padding", padding)), True
    if not all(isinstance(item, tuple) and len(item) == 2 for item in padding) or (
        any(isinstance(number, tuple) for item in padding for number in item)
    ):
        raise front.nested_error(
            f"{function}: padding={_show(padding)} must be one number per axis or one "
            "(before, after) pair per axis, not a mixture"
        )
    return broadcast("padding", padding), False


# --- axes and shapes of the array functions ------------------------------------------------


def resolve_axes(
    function: str, axes: object, kernel_size: object, ndim: int, name: str = "x"
) -> tuple[int, ...]:
    """The pooled axes as negative numbers, in the order given.

    By default the last ``len(kernel_size)``, or the last two where the kernel is one number.
    """
    if axes is None:
        count = 2
        if _integer(kernel_size, NUMPY) is None:
            count = len(_sequence_of_ints(function, "kernel_size", kernel_size))
        if count > ndim:
            hint = "; name the pooled axes with axes="
            raise ValueError(
                f"{function}: kernel_size={_show(kernel_size)} pools the last {count} axes, but "
                f"{name} has {ndim} {'axis' if ndim == 1 else 'axes'}{hint}"
            )
        return tuple(range(-count, 0))
    number = _integer(axes, NUMPY)
    given = (number,) if number is not None else _sequence_of_ints(function, "axes", axes)
    result = []
    for axis in given:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{function}: axes={_show(axes)} holds {_show(axis)}, which is out of range for "
                f"an array of {ndim} {'axis' if ndim == 1 else 'axes'}"
            )
        result.append(axis if axis < 0 else axis - ndim)
    if len(set(result)) < len(result):
        raise ValueError(f"{function}: axes={_show(axes)} holds an axis twice")
    if not result:
        raise ValueError(f"{function}: axes={_show(axes)} must name at least one axis")
    return tuple(result)


def _sequence_of_ints(function: str, name: str, value: object) -> tuple[int, ...]:
    try:
        numbers = _read(value, NUMPY, 1)
    except _NotANumber as found:
        raise TypeError(
            f"{function}: {name}={_show(value)} must be an int or a sequence of ints; "
            f"{_show(found.args[0])} is {_article(type(found.args[0]).__name__)}"
        ) from None
    if numbers == ():
        raise ValueError(f"{function}: {name}={_show(value)} must not be empty")
    return numbers if isinstance(numbers, tuple) else (numbers,)


def output_shape(
    shape: Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | str | Sequence[int] | Sequence[tuple[int, int]] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    axes: int | Sequence[int] | None = None,
) -> tuple[int, ...]:
    """The shape that pooling an array of this ``shape`` would have, without any data.

    Parameters are those of :func:`infinitypool.max_pool`. Per axis the rule is
    ``floor((n + before + after - dilation * (kernel_size - 1) - 1) / stride) + 1``; see
    :meth:`PoolSpec.output_size`.

    Raises ``ValueError`` or ``TypeError`` wherever the pooling functions would.

    >>> import infinitypool as ip
    >>> ip.output_shape((3, 201, 250), 6, stride=2)
    (3, 98, 123)
    >>> ip.output_shape((20, 16, 50, 32), (3, 2), stride=(2, 1))
    (20, 16, 24, 31)
    >>> ip.output_shape((1, 224, 224, 3), 3, stride=2, padding="same", axes=(1, 2))
    (1, 112, 112, 3)
    """
    function = "output_shape"
    if _integer(shape, NUMPY) is not None:
        raise TypeError(f"{function}: shape={_show(shape)} must be a sequence of ints")
    sizes = _sequence_of_ints(function, "shape", shape)
    for size in sizes:
        if not 0 <= size <= _LIMIT:
            raise ValueError(
                f"{function}: shape={_show(shape)} must hold sizes from 0 to 2**63 - 1"
            )
    spec = pool_spec(
        function,
        "max",
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        axes=resolve_axes(function, axes, kernel_size, len(sizes), "shape"),
    )
    return spec.output_shape(sizes)

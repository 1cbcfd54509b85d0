"""What a pooling call means: the spec, its windows and sizes, and its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from .reading import (
    FRONTS,
    LIMIT,
    NUMPY,
    Front,
    Reader,
    check_bool,
    check_word,
    flatten,
    integer,
    ints_of,
    show,
)

_INT32_LIMIT = 2**31 - 1

# PyTorch's functions whose sizes are 32-bit: all but the one-dimensional maximum.
_SIZES_64_BIT = {"max_pool1d"}
# PyTorch's functions that want every axis at least as long as the kernel, padding or not.
_KERNEL_FITS_INPUT = {"avg_pool3d"}
# PyTorch's functions that look for the channel axis before they count the axes.
_LOW_RANK_ERROR = {"avg_pool2d": IndexError}
# PyTorch's functions that take an input without channels.
_NO_CHANNELS = {"adaptive_avg_pool1d", "adaptive_avg_pool2d"}

EDGES = ("drop", "partial")


def least(a: int, b: int) -> int:
    """The lesser of two sizes. Sizes may be PyTorch's symbols, which are not to be compared: every
    comparison becomes a condition on the inputs of a traced program.
    """
    return min(a, b) if type(a) is int else a.__sym_min__(b)  # type: ignore[attr-defined]


def largest(a: int, b: int) -> int:
    """The larger of two sizes, as :func:`least`."""
    return max(a, b) if type(a) is int else a.__sym_max__(b)  # type: ignore[attr-defined]


# The sum of a blur's binomial coefficients, 2**(taps - 1) along every axis, must leave room for the
# elements themselves in float32, which reaches 2**128.
_BLUR_TAPS = 64


@dataclass(frozen=True)
class Geometry:
    """The sizes of one operation on one input, an entry per pooled axis."""

    output_size: tuple[int, ...]
    padding_before: tuple[int, ...]
    padding_after: tuple[int, ...]


def dtype_of_offsets(window: int) -> str:
    """The smallest unsigned type that holds a place inside a ``window`` of so many elements."""
    return next((f"uint{bits}" for bits in (8, 16, 32) if window <= 2**bits), "uint64")


@dataclass(frozen=True)
class PoolSpec:
    """A frozen description of one pooling operation.

    ``axes`` are negative and ascending, so one spec serves batched and unbatched inputs; all
    other tuples have one entry per axis in the same order. ``padding`` holds (before, after)
    pairs, or is ``None`` for ``"same"``, which depends on the input's size. ``pytorch_form``
    marks a call in the PyTorch front that PyTorch's own operators would understand.
    ``parameters`` are the reducer's.

    Adaptive windows have ``adaptive``, the sizes asked for (``None`` keeps an axis), and none of
    the other sizes.

    >>> spec = pool_spec("max_pool", "max", 3, stride=2, padding=1, axes=(-2, -1))
    >>> spec.output_size((224, 224))
    (112, 112)
    >>> adaptive_spec("adaptive_max_pool", "max", (7, None), axes=(-2, -1)).output_size((20, 30))
    (7, 30)
    """

    function: str
    front: Front
    reducer: str
    axes: tuple[int, ...]
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] | None = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    partial: bool = False
    count_include_pad: bool = False
    divisor_override: int = 0
    pytorch_form: bool = False
    adaptive: tuple[int | None, ...] | None = None
    parameters: tuple[float, ...] = ()

    def windows(self, sizes: Sequence[int]) -> list[tuple[int, ...]]:
        """The windows along each pooled axis, as the core takes them: ``(kernel_size, stride,
        padding_before, padding_after, dilation, output_size)``, or ``(output_size,)``.
        """
        geometry = self.geometry(sizes)
        if self.adaptive is not None:
            return [(out,) for out in geometry.output_size]
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

    def largest_windows(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How many elements the largest window has along each axis. Offsets count in it.

        An adaptive window reads from ``floor(o * n / out)`` up to ``ceil((o + 1) * n / out)``.
        """
        if self.adaptive is None:
            return self.kernel_size
        longest = []
        for n, out in zip(sizes, self.output_size(sizes), strict=True):
            whole, rest = divmod(n, out) if out else (0, 0)
            longest.append(whole + (0 if rest == 0 else 1 if out % rest == 0 else 2))
        return tuple(longest)

    def offset_dtype_for(self, sizes: Sequence[int]) -> str:
        """An unsigned type that holds a place inside a window.

        For adaptive windows by a bound of their lengths that depends on no remainder, which as a
        condition on a size that is a symbol would leave hardly another size.
        """
        if self.adaptive is None:
            return dtype_of_offsets(prod(self.kernel_size))
        outputs = self.output_size(sizes)
        return dtype_of_offsets(
            prod(
                n if out == 1 else n // (out or 1) + 2
                for n, out in zip(sizes, outputs, strict=True)
            )
        )

    @property
    def offset_dtype(self) -> str:
        """:meth:`offset_dtype_for` any sizes, where windows do not depend on them."""
        return self.offset_dtype_for(())

    def output_size(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The output's sizes along the pooled axes, for an input with these ``sizes``.

        ``floor((n + before + after - dilation * (kernel_size - 1) - 1) / stride) + 1`` per
        axis; with ``ceil_mode`` rounded up, less a last window that would start in the
        padding behind the input. With ``padding="same"`` it is ``ceil(n / stride)``. With
        ``edge="partial"`` there is a window more as long as input is left over, however large
        the window.
        Source: the shape section of ``torch.nn.MaxPool2d``; for ``"same"``, of
        ``tf.nn.convolution``.
        """
        return self.geometry(sizes).output_size

    def geometry(self, sizes: Sequence[int]) -> Geometry:
        """Output sizes and padding for an input with these ``sizes`` along the pooled axes.

        Raises the front's value error where no window fits or where a position would not fit
        into 64 bits.
        """
        axis = self._axis if self.adaptive is None else self._adaptive_axis
        rows = [axis(i, n) for i, n in enumerate(sizes)]
        return Geometry(*(tuple(column) for column in zip(*rows, strict=True)))

    def _axis(self, i: int, n: int) -> tuple[int, int, int]:
        kernel, stride, dilation = self.kernel_size[i], self.stride[i], self.dilation[i]
        span = dilation * (kernel - 1) + 1
        if self.pytorch_form and self.function in _KERNEL_FITS_INPUT and n < kernel:
            raise self._refusal(f"kernel_size={kernel} is larger than the input's {n}", i)
        if self.padding is None:
            out = (n + stride - 1) // stride
            total = largest((out - 1) * stride + span - n, 0)
            left, right = total // 2, total - total // 2
        else:
            left, right = self.padding[i]
            room = n + left + right - span
            if self.partial and n + left + right:
                room = largest(room, 0)
            over = self.ceil_mode or self.partial
            out = (room + (stride - 1 if over else 0)) // stride + 1
            if over:  # less a last window that starts in the padding behind the input
                in_front = (n + left + stride - 1) // stride
                droppable = least(largest(out - 1, 0), 1) if self.partial else 1
                out -= least(largest(out - in_front, 0), droppable)
        if out < 1:
            raise self._refusal(
                f"a window of {span} (kernel_size={kernel}, dilation={dilation}) is larger than "
                f"the padded input of {n + left + right} (size {n}, padding {left} and {right})",
                i,
            )
        if type(n) is int and max((out - 1) * stride + span, n + left + right) > LIMIT:
            raise self._refusal(
                f"size {n} with stride={stride}, padding {left} and {right} and a window of "
                f"{span} has positions that do not fit into 64 bits (kernel_size={kernel})",
                i,
            )
        return out, left, right

    def _adaptive_axis(self, i: int, n: int) -> tuple[int, int, int]:
        out = n if self.adaptive[i] is None else self.adaptive[i]
        if n < 1 and (out or not self.front.lenient):
            raise self._refusal(f"output_size={self.adaptive[i]} of an axis without elements", i)
        if type(n) is int and n * out > LIMIT:
            raise self._refusal(
                f"output_size={out} of {n} elements is too large for 64 bits: their product must "
                "be below 2**63",
                i,
            )
        return out, 0, 0

    def _refusal(self, text: str, i: int) -> Exception:
        return self.front.value_error(f"{self.function}: {text} (axis {self.axes[i]})")

    def check_input(self, shape: Sequence[int], dtype: str, dtypes: Sequence[str]) -> None:
        """Refuse an input of this ``shape`` and ``dtype``, where only ``dtypes`` are possible."""
        name, n = self.front.input_name, len(self.axes)
        if self.front.lenient:
            filled = n + 1
            # PyTorch's adaptive functions take the first axis for the batch, even without one.
            if self.function in _NO_CHANNELS or (self.adaptive is not None and len(shape) == n + 1):
                filled = n
            if len(shape) not in (n + 1, n + 2) or 0 in shape[-filled:]:
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
                f"{self.function}: an {name} of shape {tuple(shape)} has no axis {self.axes[0]}"
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
        known = all(type(size) is int for size in result)
        if known and itemsize * prod(max(size, 1) for size in result) > LIMIT:
            if self.adaptive is not None:
                how = f"output_size={_join(self.adaptive)}"
            else:
                padding = '"same"' if self.padding is None else self.padding
                how = f"stride={self.stride} and padding={padding}"
            raise self.front.value_error(
                f"{self.function}: an input of shape {tuple(shape)} with {how} gives a result of "
                f"shape {tuple(result)}, too large for 64 bits"
            )
        return tuple(result)

    @cached_property
    def text(self) -> str:
        """The spec as one line that :func:`spec_from_text` reads back.

        >>> pool_spec("max_pool", "max", 2, axes=(-1,)).text
        'max_pool reducer=max front=numpy axes=-1 kernel_size=2 stride=2 padding=0:0 dilation=1'
        >>> adaptive_spec("adaptive_max_pool", "max", (7, None), axes=(-2, -1)).text
        'adaptive_max_pool reducer=max front=numpy axes=-2,-1 output_size=7,none'
        """
        parts = [
            self.function,
            f"reducer={self.reducer}",
            f"front={self.front.name}",
            f"axes={_join(self.axes)}",
        ]
        if self.adaptive is not None:
            parts.append(f"output_size={_join(self.adaptive)}")
        else:
            parts += [
                f"kernel_size={_join(self.kernel_size)}",
                f"stride={_join(self.stride)}",
                "padding=same"
                if self.padding is None
                else "padding=" + ",".join(f"{before}:{after}" for before, after in self.padding),
                f"dilation={_join(self.dilation)}",
            ]
        if self.partial:
            parts.append("edge=partial")
        if self.divisor_override:
            parts.append(f"divisor_override={self.divisor_override}")
        if self.parameters:
            parts.append(f"parameters={_join(self.parameters)}")
        parts += [name for name in _FLAGS if getattr(self, name)]
        return " ".join(parts)


_FLAGS = ("ceil_mode", "count_include_pad", "pytorch_form")


def _join(values: Sequence[float | None]) -> str:
    return ",".join("none" if value is None else repr(value) for value in values)


def spec_from_text(text: str) -> PoolSpec:
    """Read :attr:`PoolSpec.text` back. Raises ``ValueError`` for anything else.

    >>> spec = pool_spec("avg_pool2d", "mean", 3, padding=1, axes=(-2, -1), front=FRONTS["torch"])
    >>> spec_from_text(spec.text) == spec
    True
    """
    try:
        function, *words = text.split(" ")
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        flags = {word for word in words if "=" not in word}
        if flags - set(_FLAGS):
            raise ValueError(f"unknown words {sorted(flags - set(_FLAGS))}")

        def numbers(name: str) -> tuple[int, ...]:
            return tuple(map(int, fields.pop(name).split(",")))

        axes = numbers("axes")
        if len(set(axes)) < len(axes) or max(axes) >= 0:
            raise ValueError("axes must be negative and differ")
        parameters = fields.pop("parameters", None)
        common = {
            "axes": axes,
            "front": FRONTS[fields.pop("front")],
            "parameters": tuple(map(float, parameters.split(","))) if parameters else (),
        }
        reducer = fields.pop("reducer")
        if "output_size" in fields:
            sizes = fields.pop("output_size").split(",")
            spec = adaptive_spec(
                function,
                reducer,
                [None if size == "none" else int(size) for size in sizes],
                **common,
            )
        else:
            padding: object = fields.pop("padding")
            if padding != "same":
                pairs = [tuple(map(int, pair.split(":"))) for pair in padding.split(",")]
                # A pair per axis is a form of our own, so plain numbers go back in as such.
                padding = [pair[0] for pair in pairs] if "pytorch_form" in flags else pairs
            spec = pool_spec(
                function,
                reducer,
                numbers("kernel_size"),
                stride=numbers("stride"),
                padding=padding,
                dilation=numbers("dilation"),
                ceil_mode="ceil_mode" in flags,
                count_include_pad="count_include_pad" in flags,
                divisor_override=int(fields.pop("divisor_override", 0)) or None,
                edge=fields.pop("edge", "drop"),
                **common,
            )
        if fields:
            raise ValueError(f"unknown fields {sorted(fields)}")
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{show(text)} is not the text of a pooling spec: {error}") from None
    if spec.text != text:
        raise ValueError(f"{show(text)} is not the text of a pooling spec: {spec.text} is")
    return spec


# --- from arguments to a spec --------------------------------------------------------------


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
    edge: object = "drop",
    parameters: tuple[float, ...] = (),
) -> PoolSpec:
    """Read, check and freeze the arguments of one pooling call.

    ``function`` is the name that errors give to the call. ``axes`` are negative, one per
    pooled axis in the order of the other arguments' entries (see :func:`resolve_axes`).
    ``parameters`` are the reducer's, checked already (see :class:`infinitypool.spec.Kind`).

    Raises ``TypeError`` where a number was expected and something else came, and the front's
    value error (``ValueError`` for arrays, ``RuntimeError`` for PyTorch) for a number that
    breaks a rule. Types are looked at before values, as PyTorch does.
    """
    n = len(axes)
    read = Reader(function, front, axes)
    raw = {
        "kernel_size": read.ints("kernel_size", kernel_size),
        "stride": () if stride is None else read.ints("stride", stride),
        "padding": _read_word(function, padding, front) or read.ints("padding", padding, 2),
        "dilation": read.ints("dilation", dilation),
    }
    ceil = check_bool(function, "ceil_mode", ceil_mode, front)
    include = check_bool(function, "count_include_pad", count_include_pad, front)
    partial = check_word(function, "edge", edge, EDGES, front) == "partial"
    divisor = 0
    if divisor_override is not None:
        divisor = integer(divisor_override, front)
        if divisor is None or getattr(divisor_override, "ndim", 0):
            raise TypeError(
                f"{function}: divisor_override={show(divisor_override)} must be an int or None"
            )
        raw["divisor_override"] = divisor
    for name, value in raw.items():
        read.fit(name, value)

    kernels = read.at_least(1, "kernel_size", raw["kernel_size"])
    no_stride = stride is None or (front.lenient and raw["stride"] == ())
    strides = kernels if no_stride else read.at_least(1, "stride", raw["stride"])
    dilations = read.at_least(1, "dilation", raw["dilation"])
    pairs, plain = _pairs(read, raw["padding"])
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
        if dilate * (kernel - 1) + 1 > LIMIT:
            raise front.value_error(
                f"{function}: a window of kernel_size={kernel} with dilation={dilate} does not "
                f"fit into 64 bits (axis {axis})"
            )
    if pytorch_form and function not in _SIZES_64_BIT:
        for name in ("kernel_size", "stride", "padding", "dilation"):
            for number in flatten(raw[name]):
                if number > _INT32_LIMIT:
                    raise front.value_error(
                        f"{function}: {name}={number} does not fit into 32 bits"
                    )
    if reducer == "blur" and sum(kernels) - n > _BLUR_TAPS:
        raise front.value_error(
            f"{function}: kernel_size={show(kernels)} has too many taps for a blur: over all axes, "
            f"kernel_size - 1 must add up to at most {_BLUR_TAPS}"
        )
    if prod(kernels) > LIMIT:
        raise front.value_error(
            f"{function}: kernel_size={kernels} is a window of more elements than 64 bits count"
        )
    return PoolSpec(
        function=function,
        front=front,
        reducer=reducer,
        axes=read.ascending(axes),
        kernel_size=read.ascending(kernels),
        stride=read.ascending(strides),
        padding=None if pairs is None else read.ascending(pairs),
        dilation=read.ascending(dilations),
        ceil_mode=ceil,
        partial=partial,
        # TensorFlow never counts padding, and "same" is its word.
        count_include_pad=reducer == "mean" and include and pairs is not None,
        divisor_override=divisor if reducer == "mean" else 0,
        pytorch_form=pytorch_form,
        parameters=tuple(map(float, parameters)),
    )


def adaptive_spec(
    function: str,
    reducer: str,
    output_size: object,
    *,
    axes: tuple[int, ...],
    front: Front = NUMPY,
    parameters: tuple[float, ...] = (),
) -> PoolSpec:
    """Read, check and freeze the arguments of one adaptive pooling call.

    ``output_size`` is an int, or an int or ``None`` per axis, where ``None`` keeps the axis.
    Everything else, and the errors, are as for :func:`pool_spec`. The PyTorch front takes sizes
    of 0 (for an empty result) and wants a number for a single axis, as PyTorch.
    """
    read = Reader(function, front, axes)
    sizes = read.ints("output_size", output_size, holes=not front.lenient or len(axes) > 1)
    read.fit("output_size", sizes)
    sizes = read.at_least(0 if front.lenient else 1, "output_size", sizes, one=len(axes) == 1)
    return PoolSpec(
        function=function,
        front=front,
        reducer=reducer,
        axes=read.ascending(axes),
        adaptive=read.ascending(sizes),
        pytorch_form=front.lenient,
        parameters=tuple(map(float, parameters)),
    )


def _read_word(function: str, padding: object, front: Front) -> str | None:
    if not isinstance(padding, str):
        return None
    word = padding.lower()
    if word not in ("same", "valid"):
        raise front.word_error(
            f'{function}: padding={show(padding)} must be a number, "same" or "valid"'
        )
    return word


def _pairs(
    read: Reader, padding: int | tuple | str
) -> tuple[tuple[tuple[int, int], ...] | None, bool]:
    """Padding as (before, after) pairs, or None for "same"; and whether it was plain numbers."""
    if padding == "same":
        return None, False
    if padding == "valid":
        return ((0, 0),) * len(read.axes), True
    nested = isinstance(padding, tuple) and any(isinstance(item, tuple) for item in padding)
    if not nested:
        return tuple((number, number) for number in read.broadcast("padding", padding)), True
    if not all(isinstance(item, tuple) and len(item) == 2 for item in padding) or (
        any(isinstance(number, tuple) for item in padding for number in item)
    ):
        raise read.front.nested_error(
            f"{read.function}: padding={show(padding)} must be one number per axis or one "
            "(before, after) pair per axis, not a mixture"
        )
    return read.broadcast("padding", padding), False


# --- axes and shapes of the array functions ------------------------------------------------


def resolve_axes(
    function: str,
    axes: object,
    size: object,
    ndim: int,
    name: str = "x",
    argument: str = "kernel_size",
) -> tuple[int, ...]:
    """The pooled axes as negative numbers, in the order given.

    By default the last ``len(size)``, or the last two where the ``size`` is one number.
    ``argument`` and ``name`` are what the call names the size and the array.
    """
    if axes is None:
        count = 2
        if integer(size) is None:
            count = len(ints_of(function, argument, size, holes=argument == "output_size"))
        if count > ndim:
            hint = "; name the pooled axes with axes="
            raise ValueError(
                f"{function}: {argument}={show(size)} pools the last {count} axes, but "
                f"{name} has {ndim} {'axis' if ndim == 1 else 'axes'}{hint}"
            )
        return tuple(range(-count, 0))
    number = integer(axes)
    given = (number,) if number is not None else ints_of(function, "axes", axes)
    result = []
    for axis in given:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{function}: axes={show(axes)} holds {show(axis)}, which is out of range: "
                f"{name} has {ndim} {'axis' if ndim == 1 else 'axes'}"
            )
        result.append(axis if axis < 0 else axis - ndim)
    if len(set(result)) < len(result):
        raise ValueError(f"{function}: axes={show(axes)} holds an axis twice")
    return tuple(result)


def output_shape(
    shape: Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | str | Sequence[int] | Sequence[tuple[int, int]] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    edge: str = "drop",
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
    >>> ip.output_shape((7, 8), 3, edge="partial")
    (3, 3)
    """
    function = "output_shape"
    if integer(shape) is not None:
        raise TypeError(f"{function}: shape={show(shape)} must be a sequence of ints")
    sizes = ints_of(function, "shape", shape)
    for size in sizes:
        if not 0 <= size <= LIMIT:
            raise ValueError(f"{function}: shape={show(shape)} must hold sizes from 0 to 2**63 - 1")
    spec = pool_spec(
        function,
        "max",
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        axes=resolve_axes(function, axes, kernel_size, len(sizes), "shape"),
        edge=edge,
    )
    return spec.output_shape(sizes)

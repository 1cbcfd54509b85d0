"""The window functions, made from the table of kinds: signatures, texts and examples."""

from __future__ import annotations

import inspect
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ..spec import KINDS, REQUIRED, Kind
from .window import VALID, WINDOW, own_names, pool

Sizes = int | Sequence[int]
OptionalSizes = int | Sequence[int | None]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]

_ANNOTATIONS = {
    "x": Any,
    "kernel_size": Sizes,
    "output_size": OptionalSizes,
    "stride": Sizes | None,
    "padding": Padding,
    "dilation": Sizes,
    "ceil_mode": bool,
    "edge": str,
    "axes": Sizes | None,
    "where": Any,
    "nan_policy": str,
    "min_count": int,
    "out": Any,
}


def _window_function(kind: Kind) -> Callable[..., Any]:
    name = kind.function

    def function(
        x,
        kernel_size,
        *extra,
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
        edge="drop",
        axes=None,
        where=None,
        nan_policy="propagate",
        min_count=0,
        out=None,
        **own,
    ):
        sizes = (kernel_size, stride, padding, dilation, ceil_mode, edge)
        return pool(kind, name, x, sizes, (axes, nan_policy, min_count), where, out, extra, own)

    return _dress(function, kind, name, False)


def _adaptive_function(kind: Kind) -> Callable[..., Any]:
    name = f"adaptive_{kind.function}"

    def function(
        x,
        output_size,
        *extra,
        axes=None,
        where=None,
        nan_policy="propagate",
        min_count=0,
        out=None,
        **own,
    ):
        shared = (axes, nan_policy, min_count)
        return pool(kind, name, x, (output_size,), shared, where, out, extra, own)

    return _dress(function, kind, name, True)


def _dress(function: Any, kind: Kind, name: str, adaptive: bool) -> Callable[..., Any]:
    """Give a function the name, signature and text that its kind asks for."""
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    own = own_names(kind, adaptive)
    parameters = [
        inspect.Parameter(n, positional, annotation=_ANNOTATIONS[n])
        for n in ("x", "output_size" if adaptive else "kernel_size")
    ]
    parameters += [
        inspect.Parameter(n, positional, annotation=annotation)
        for n, (default, annotation) in own.items()
        if default is REQUIRED
    ]
    defaults = {n: (d, _ANNOTATIONS[n]) for n, d in ({} if adaptive else WINDOW).items()}
    defaults |= {n: row for n, row in own.items() if row[0] is not REQUIRED}
    defaults |= {n: (d, _ANNOTATIONS[n]) for n, d in VALID.items()}
    parameters += [
        inspect.Parameter(n, keyword, default=default, annotation=annotation)
        for n, (default, annotation) in defaults.items()
    ]
    function.__name__ = function.__qualname__ = name
    function.__module__ = __package__
    function.__signature__ = inspect.Signature(parameters, return_annotation=Any)
    function.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": Any}
    function.__doc__ = _text(kind, name, adaptive)
    return function


# --- texts ---------------------------------------------------------------------------------

_X = """x : array of any shape
        A NumPy array of any strides, something that ``numpy.asarray`` takes, or an array that
        speaks DLPack on the CPU (PyTorch, JAX), which comes in without a copy. Elements are
        {dtypes}.
        Tensors that require a gradient are treated as data; for gradients use
        :mod:`infinitypool.nn.functional`."""

_FLOATS = "float64, float32, float16 or bfloat16"
_NUMBERS = "float64, float32, float16, bfloat16 or integers of 8 to 64 bits"
_ALL = "float64, float32, float16, bfloat16, integers of 8 to 64 bits or bool"
_DTYPES = defaultdict(
    lambda: _FLOATS, max=_ALL, min=_ALL, mean=_NUMBERS, sum=_NUMBERS, quantile=_NUMBERS
)
_PADDING = defaultdict(
    lambda: "take no part", max="never win", min="never win", mean="are zero", sum="are zero"
)

_WINDOW = """kernel_size, stride, dilation : int or one int per pooled axis
        The window's size, the step between windows (by default the kernel) and the step inside
        a window.
    padding : int, one int per axis, one (before, after) pair per axis, "same" or "valid"
        Positions outside the array, which {padding}. ``"same"`` and ``"valid"`` have TensorFlow's
        meaning.
    ceil_mode : bool
        Also take a last window that hangs over the end, unless it starts in the padding.
    edge : "drop" or "partial"
        What to do with elements left over at the end: drop them, or reduce a last window, however
        incomplete, over what it has."""

_ADAPTIVE = """output_size : int or None, or one per pooled axis
        The result's size; None keeps the axis. Window number o of ``out`` over ``n`` elements
        reads from ``floor(o * n / out)`` up to ``ceil((o + 1) * n / out)``: all of them, in
        windows as equal as can be, overlapping where ``out`` does not divide ``n``."""

_VALID = """axes : int or ints
        The pooled axes; entries of the other arguments belong to them in this order. By default
        the last ``len({size})``, or the last two where it is one number.
    where : array of bools that broadcasts to the shape of x
        Elements where it is False take no part.
    nan_policy : "propagate", "omit" or "raise"
        A NaN spoils its windows, or takes no part, or is refused wherever it takes part.
    min_count : int
        Windows with fewer valid elements give NaN (floats only). Padding is no element.
    out : array{outs}
        Where to put the result instead of into new memory."""

_OWN = {
    "count_include_pad": """count_include_pad : bool
        Whether padding counts among the elements that a sum is divided by. What a window has
        beyond the padding never does, nor does padding with ``"same"``, ``where`` or ``"omit"``.""",
    "divisor_override": """divisor_override : int
        Divide every sum by this number instead.""",
    "return_indices": """return_indices : bool
        Also return each winner's place: the first of equal elements.""",
    "indices": """indices : "plane", "batch" or "offset"
        How places count, row by row: in the plane of the pooled axes, in the whole array (as
        TensorFlow's ``include_batch_in_index``), both int64 and -1 where a window has no element;
        or inside the window (the largest, where they differ), in the smallest unsigned type that
        will do, 0 where there is no element.""",
    "rng": """rng : int, numpy.random.Generator or None
        The seed; a generator draws one; by default each call draws anew.""",
}

_RESULT = (
    "What ``x`` was: a NumPy array, a PyTorch tensor, a JAX array{pair}. Its axes follow each other "
    "in memory as those of ``x`` do. A window without a valid element gives {empty}."
)
_RAISES = (
    "For {sizes}, {own}axes out of range or repeated, a mask that does not broadcast, a NaN where "
    '``nan_policy="raise"``, a ``min_count`` for integers, an ``out`` of another shape, read-only or '
    "overlapping ``x``."
)

# Of x = np.arange(1.0, 17.0).reshape(4, 4), in windows of 2 x 2.
# Paragraphs beside the notes that a kind has in every front.
_NOTES = {
    "max_pool": (
        'The rules are those of ``torch.nn.MaxPool2d``, and of ``tf.nn.max_pool2d`` for ``"same"``.',
    ),
    "avg_pool": (
        "The mean of integers rounds to the nearest, ties to even.",
        "The rules are those of ``torch.nn.AvgPool2d``.",
    ),
    "adaptive_avg_pool": ("The mean of integers rounds to the nearest, ties to even.",),
}

# Arguments, rounding, result.
_EXAMPLES = {
    "max": ("", "", ("array([[ 6.,  8.],", "       [14., 16.]])")),
    "min": ("", "", ("array([[ 1.,  3.],", "       [ 9., 11.]])")),
    "avg": ("", "", ("array([[ 3.5,  5.5],", "       [11.5, 13.5]])")),
    "sum": ("", "", ("array([[14., 22.],", "       [46., 54.]])")),
    "lp": (", p=1", "", ("array([[14., 22.],", "       [46., 54.]])")),
    "rms": ("", ".round(2)", ("array([[ 4.06,  5.87],", "       [11.68, 13.66]])")),
    "gem": (", p=3.0", ".round(2)", ("array([[ 4.44,  6.18],", "       [11.86, 13.81]])")),
    "log_sum_exp": (", beta=1.0", ".round(2)", ("array([[ 6.33,  8.33],", "       [14.33, 16.33]])")),
    "soft": (", beta=1.0", ".round(2)", ("array([[ 5.66,  7.66],", "       [13.66, 15.66]])")),
    "median": ("", "", ("array([[ 3.5,  5.5],", "       [11.5, 13.5]])")),
    "quantile": (", 0.75", "", ("array([[ 5.25,  7.25],", "       [13.25, 15.25]])")),
    "stochastic": (
        ", expectation=True", ".round(2)", ("array([[ 4.71,  6.27],", "       [11.87, 13.81]])"),
    ),
    "mixed": (", alpha=0.5", "", ("array([[ 4.75,  6.75],", "       [12.75, 14.75]])")),
}  # fmt: skip

_MORE_EXAMPLES = {
    "max_pool": """
    >>> values, indices = ip.max_pool(x, 2, return_indices=True)
    >>> indices
    array([[ 5,  7],
           [13, 15]])

    A colour picture pools over its first two axes, and so does every other layout:

    >>> ip.max_pool(np.zeros((201, 250, 3), np.uint8), 6, stride=2, axes=(0, 1)).shape
    (98, 123, 3)

    Padding may differ between the two ends, and the last window may be incomplete:

    >>> ip.max_pool(np.array([-1.0, -2.0, -3.0]), (2,), padding=((1, 0),))
    array([-1., -2.])
    >>> ip.max_pool(np.array([1, 2, 3]), (2,), edge="partial")
    array([2, 3])

    Elements may be left out by a mask, or as NaNs:

    >>> ip.max_pool(x, 2, where=x < 10)
    array([[  6.,   8.],
           [  9., -inf]])
""",
    "avg_pool": """
    >>> ip.avg_pool(x, 3, stride=2, padding=1, count_include_pad=False)
    array([[ 3.5,  5. ],
           [ 9.5, 11. ]])
    >>> ip.avg_pool(np.array([1.0, np.nan, np.nan, 4.0]), (2,), nan_policy="omit")
    array([1., 4.])
""",
}


def _text(kind: Kind, name: str, adaptive: bool) -> str:
    own = own_names(kind, adaptive)
    arguments = {a.name: a for a in kind.arguments}
    texts = _OWN | {
        n: f"{n} : {a.annotation.__name__}\n    {_wrap(a.text, '    ')}"
        for n, a in arguments.items()
    }
    size = "output_size" if adaptive else "kernel_size"
    parameters = [
        _X.format(dtypes=_DTYPES["floats" if kind.composite else kind.reducer]),
        _ADAPTIVE if adaptive else _WINDOW.format(padding=_PADDING[kind.reducer]),
        *(texts[n] for n in own),
        _VALID.format(size=size, outs=", or (values, indices)" if kind.indices else ""),
    ]
    pair = " (a pair with ``return_indices``)" if kind.indices else ""
    sizes = (
        "sizes below 1 or too large"
        if adaptive
        else "sizes below 1, lists of a wrong length, a window larger than the padded input"
    )
    refused = "".join(f"``{n}`` out of range, " for n in arguments)
    notes = [*filter(None, [kind.notes]), *_NOTES.get(name, ())]
    given, rounding, result = _EXAMPLES[kind.name]
    code = [
        ">>> import numpy as np",
        ">>> import infinitypool as ip",
        ">>> x = np.arange(1.0, 17.0).reshape(4, 4)",
        f">>> ip.{name}(x, 2{given}){rounding}",
        *result,
    ]
    parts = [
        f"{kind.summary[:-1]}, for a result of a given size." if adaptive else kind.summary,
        f"``{kind.formula}`` over the elements ``w`` of a window.",
        _section("Parameters", *parameters),
        _section("Returns", "array", _wrap(_RESULT.format(pair=pair, empty=kind.empty), "    ")),
        _section(
            "Raises",
            "TypeError",
            "    For a value of a wrong type, an unsupported dtype (also of another byte order).",
            "ValueError",
            _wrap(_RAISES.format(sizes=sizes, own=refused), "    "),
        ),
        *([_section("Notes", "\n\n    ".join(_wrap(n) for n in notes))] if notes else []),
        _section("Examples", *code),
    ]
    return "\n\n    ".join(parts) + "\n" + _MORE_EXAMPLES.get(name, "") + "    "


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 88, initial_indent=indent, subsequent_indent=indent + "    ")


def _section(title: str, *rows: str) -> str:
    return "\n    ".join([title, "-" * len(title), *rows])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for kind in KINDS.values()
    for function in (
        [_window_function(kind), _adaptive_function(kind)]
        if kind.adaptive
        else [_window_function(kind)]
    )
}

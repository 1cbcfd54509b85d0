"""Inputs for the tests: values that provoke, strides of every kind, random whole calls, and a table
of the family's kinds: one row for each array function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import oracle

OPS = ("max", "min", "mean", "sum")
DTYPES = {
    "max": oracle.ALL,
    "min": oracle.ALL,
    "mean": oracle.FLOATS + oracle.INTEGERS,
    "sum": oracle.FLOATS + oracle.INTEGERS,
}
LAYOUTS = ("C", "F", "permuted", "reversed", "sliced", "broadcast", "misaligned")
SPECIAL = (np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0)


def numbers(rng, shape, dtype, flavour="few", room=256):
    """Values of one flavour: "few" (many ties), "wide" (the dtype's range; sums of ``room`` of them
    stay inside 64 bits, or finite), "special" (NaN, infinities, signed zeros)."""
    if dtype == oracle.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if oracle.is_float(dtype):
        if flavour == "special":
            chosen = rng.choice(np.array(SPECIAL), shape)
            return np.where(rng.random(shape) < 0.3, chosen, rng.integers(-3, 4, shape)).astype(
                dtype
            )
        if flavour == "wide":
            return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype)
        return rng.integers(-4, 5, shape).astype(dtype)
    info = np.iinfo(dtype)
    if flavour == "few":
        return rng.integers(-4 if info.min else 0, 5, shape).astype(dtype)
    shrink = room if dtype.itemsize == 8 else 1
    low, high = int(info.min) // shrink, int(info.max) // shrink
    values = rng.integers(low, high, shape, dtype=dtype, endpoint=True)
    edge = rng.random(shape)
    values = np.where(edge < 0.1, np.array(low, dtype), values)
    return np.where(edge > 0.9, np.array(high, dtype), values)


def poison(dtype):
    """What surrounds inputs: a value that would win, or spoil, every window it strayed into."""
    if oracle.is_float(dtype):
        return np.array(np.nan, dtype)
    return np.array(True if dtype == oracle.BOOL else np.iinfo(dtype).max, dtype)


def arranged(values, layout, rng):
    """The same values (for "broadcast": the first slice, repeated) under other strides."""
    ndim, dtype = values.ndim, values.dtype
    if layout == "C":
        return np.ascontiguousarray(values)
    if layout == "F":
        return np.asfortranarray(values)
    if layout == "permuted":
        order = rng.permutation(ndim)
        memory = np.ascontiguousarray(values.transpose(order))
        return memory.transpose(np.argsort(order))
    if layout == "reversed":
        flip = tuple(slice(None, None, -1 if rng.integers(2) else 1) for _ in range(ndim))
        return np.ascontiguousarray(values[flip])[flip]
    if layout == "sliced":
        steps = [int(rng.integers(1, 4)) for _ in range(ndim)]
        around = [n * s + 2 for n, s in zip(values.shape, steps, strict=True)]
        memory = np.full(around, poison(dtype), dtype)
        part = tuple(slice(1, 1 + n * s, s) for n, s in zip(values.shape, steps, strict=True))
        memory[part] = values
        return memory[part]
    if layout == "broadcast":
        axes = [a for a in range(ndim) if rng.integers(2) and values.shape[a]]
        first = tuple(slice(0, 1) if a in axes else slice(None) for a in range(ndim))
        return np.broadcast_to(values[first].copy(), values.shape)
    if layout == "misaligned":
        lead = int(rng.integers(1, 9))
        memory = np.full(lead + values.size + 8, poison(dtype), dtype)
        memory[lead : lead + values.size] = values.ravel()
        return memory[lead : lead + values.size].reshape(values.shape)
    raise AssertionError(layout)


SENTINEL = 0xA5


class Guarded:
    """An ``out`` inside a larger buffer whose other bytes must stay as they are."""

    def __init__(self, shape, dtype, lead=1, order="C", gap=0):
        """``lead`` elements before the view (so it starts misaligned), ``gap`` behind each row."""
        dtype = np.dtype(dtype)
        self.memory = np.full(
            (self._length(shape, gap) + lead + 80) * dtype.itemsize, SENTINEL, np.uint8
        )
        typed = self.memory.view(dtype)[lead:]
        strides, step = [0] * len(shape), 1
        walk = range(len(shape)) if order == "F" else reversed(range(len(shape)))
        for place, a in enumerate(walk):
            strides[a] = step * dtype.itemsize
            step *= shape[a]
            if place == 0:
                step += gap
        self.out = as_strided(typed, shape, strides)
        self._inside = np.zeros(self.memory.size, bool)
        if self.out.size:
            inside = as_strided(
                self._inside[lead * dtype.itemsize :],
                (*shape, dtype.itemsize),
                (*strides, 1),
            )
            inside[...] = True

    @staticmethod
    def _length(shape, gap):
        total = 1
        for n in shape:
            total *= n + gap
        return total

    def check(self, note=""):
        wrong = np.flatnonzero((self.memory != SENTINEL) & ~self._inside)
        assert not wrong.size, f"wrote outside the output at bytes {wrong[:8].tolist()} {note}"

    def untouched(self):
        return bool((self.memory == SENTINEL).all())


@dataclass
class Case:
    """One call: the array and every argument but the function."""

    x: np.ndarray
    op: str
    kernel_size: tuple[int, ...]
    arguments: dict = field(default_factory=dict)
    layout: str = "C"
    seed: int = 0

    def __repr__(self):
        return (
            f"{self.op}_pool(<{self.x.dtype} {self.x.shape} strides {self.x.strides} "
            f"{self.layout} seed {self.seed}>, {self.kernel_size}, {self.arguments})"
        )


FLAVOURS = {op: ("few", "wide", "special") for op in OPS}


def _geometry(draw, max_pooled, max_ndim, tops=(9, 5, 3)):
    """A shape, its pooled axes, a kernel size and the rest of what places windows."""
    pooled = draw(st.integers(1, max_pooled), label="pooled axes")
    ndim = draw(st.integers(pooled, max_ndim), label="ndim")
    axes = draw(st.permutations(range(ndim)), label="axes")[:pooled]
    kernel = [draw(st.integers(1, tops[pooled - 1])) for _ in range(pooled)]
    stride = draw(st.none() | st.tuples(*[st.integers(1, 4)] * pooled), label="stride")
    dilation = [draw(st.sampled_from((1, 1, 1, 2, 3))) for _ in range(pooled)]
    form = draw(st.sampled_from(("none", "ints", "pairs", "same", "valid")), label="padding")
    padding = {
        "none": [0] * pooled,
        "ints": [draw(st.integers(0, k // 2)) for k in kernel],
        "pairs": [draw(st.tuples(st.integers(0, 5), st.integers(0, 5))) for _ in kernel],
        "same": "same",
        "valid": "valid",
    }[form]
    shape = [draw(st.integers(1, 4)) for _ in range(ndim)]
    longest = draw(st.sampled_from((3, 8, 8, 21)))
    for i, (a, k, d) in enumerate(zip(axes, kernel, dilation, strict=True)):
        span = d * (k - 1) + 1
        pads = {"none": 0, "ints": 0, "pairs": 0, "same": span, "valid": 0}[form]
        if form == "ints":
            pads = 2 * padding[i]
        elif form == "pairs":
            pads = sum(padding[i])
        least = max(1, span - pads)
        shape[a] = draw(st.integers(least, least + (longest if pooled < 3 else 4)))
    if pooled < ndim and draw(st.integers(0, 3)) == 0:
        # A long axis of channels, or an empty one.
        other = draw(st.sampled_from([a for a in range(ndim) if a not in axes]))
        shape[other] = draw(st.sampled_from((0, 7, 16, 17, 33)))
    arguments = {
        "axes": tuple(a - ndim if draw(st.booleans()) else a for a in axes),
        "dilation": tuple(dilation),
        "padding": tuple(padding) if isinstance(padding, list) else padding,
        "ceil_mode": draw(st.booleans(), label="ceil_mode"),
    }
    if stride is not None:
        arguments["stride"] = tuple(stride)
    return shape, tuple(kernel), arguments


def _array(draw, shape, dtypes, flavours=("few", "wide", "special")):
    """An array of these sizes, its layout and the seed that made it."""
    dtype = draw(st.sampled_from(dtypes), label="dtype")
    seed = draw(st.integers(0, 2**16), label="seed")
    rng = np.random.default_rng(seed)
    values = numbers(rng, shape, dtype, draw(st.sampled_from(flavours), label="flavour"))
    layout = draw(st.sampled_from(LAYOUTS), label="layout")
    return arranged(values, layout, rng), layout, seed


@st.composite
def cases(draw, op, dtypes=None, max_pooled=3, max_ndim=5):
    shape, kernel, arguments = _geometry(draw, max_pooled, max_ndim)
    if op == "mean":
        arguments["count_include_pad"] = draw(st.booleans(), label="count_include_pad")
        if draw(st.integers(0, 4)) == 0:
            arguments["divisor_override"] = draw(st.integers(1, 9), label="divisor_override")
    x, layout, seed = _array(draw, shape, dtypes or DTYPES[op], FLAVOURS[op])
    return Case(x, op, kernel, arguments, layout, seed)


# --- the family: one row for each array function -------------------------------------------------


def _one_of(**choices):
    return st.fixed_dictionaries({name: st.sampled_from(v) for name, v in choices.items()})


@dataclass(frozen=True)
class Kind:
    """An array function: the oracle's reducer, dtypes, and its own arguments.

    ``own`` draws keyword arguments, and ``parameters`` translates them for the oracle (None: the
    oracle takes them as they are).  ``needed`` goes into every call that does not say otherwise."""

    name: str
    op: str
    dtypes: tuple
    own: st.SearchStrategy = field(default_factory=lambda: st.just({}))
    parameters: Callable | None = None
    adaptive: bool = True
    # Of what the window functions take, arguments that have no meaning for adaptive windows.
    windows_only: tuple[str, ...] = ()
    needed: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)

    def function(self, adaptive=False):
        import infinitypool as ip

        return getattr(ip, f"adaptive_{self.name}" if adaptive else self.name)

    def call(self, x, size, adaptive=False, **arguments):
        return self.function(adaptive)(x, size, **{**self.needed, **arguments})

    def expected(self, own):
        """Keyword arguments for the oracle."""
        given = {**self.defaults, **own}
        return given if self.parameters is None else {"parameters": self.parameters(**given)}

    def check(self, got, x, size, note="", own=None, **arguments):
        """Compare with the oracle; ``own`` are the kind's, ``arguments`` place the windows."""
        note = f"{self.name} {note or (x.shape, size, arguments)}"
        expected = {**self.expected(own or {}), **arguments}
        return oracle.assert_pooled(got, x, self.op, size, note, **expected)

    @property
    def selects(self):
        return self.op in ("max", "min")


def _as_given(**given):
    return given


Q = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1 / 3)
METHODS = ("linear", "lower", "higher", "nearest")
NUMERIC = oracle.FLOATS + oracle.INTEGERS
BETAS = (1.0, -1.0, 0.25, 10.0)

KINDS = {
    kind.name: kind
    for kind in (
        Kind("max_pool", "max", oracle.ALL),
        Kind("min_pool", "min", oracle.ALL),
        Kind(
            "avg_pool",
            "mean",
            NUMERIC,
            _one_of(count_include_pad=(True, False), divisor_override=(None, None, None, 1, 7)),
            windows_only=("count_include_pad", "divisor_override"),
        ),
        Kind("sum_pool", "sum", NUMERIC),
        Kind(
            "lp_pool",
            "lp",
            oracle.FLOATS,
            _one_of(p=(1.0, 2.0, 3.0, 4, 7.0, 1.5, 2.75, math.inf)),
            _as_given,
            defaults={"p": 2.0},
        ),
        Kind("rms_pool", "rms", oracle.FLOATS, parameters=_as_given),
        Kind(
            "gem_pool",
            "gem",
            oracle.FLOATS,
            _one_of(p=(3.0, 1, 0.5, 6.5), eps=(1e-6, 0.0, 0.5)),
            lambda p, eps: {"p": p, "floor": eps},
            defaults={"p": 3.0, "eps": 1e-6},
        ),
        Kind(
            "log_sum_exp_pool",
            "log_sum_exp",
            oracle.FLOATS,
            _one_of(beta=BETAS),
            _as_given,
            defaults={"beta": 1.0},
        ),
        Kind(
            "soft_pool",
            "soft",
            oracle.FLOATS,
            _one_of(beta=BETAS),
            _as_given,
            defaults={"beta": 1.0},
        ),
        Kind(
            "median_pool",
            "quantile",
            NUMERIC,
            parameters=lambda: {"q": 0.5, "method": "linear"},
        ),
        Kind(
            "quantile_pool",
            "quantile",
            NUMERIC,
            _one_of(q=Q, method=METHODS),
            _as_given,
            needed={"q": 0.75},
            defaults={"q": 0.75, "method": "linear"},
        ),
        Kind(
            "stochastic_pool",
            "expectation",
            oracle.FLOATS,
            parameters=_as_given,
            adaptive=False,
            needed={"expectation": True},
        ),
        Kind(
            "mixed_pool",
            "mixed",
            oracle.FLOATS,
            _one_of(alpha=(0.5, 0.0, 1.0, 0.3)),
            _as_given,
            adaptive=False,
            defaults={"alpha": 0.5},
        ),
    )
}
ADAPTIVE = [name for name, kind in KINDS.items() if kind.adaptive]


@dataclass
class Call:
    """One call of a kind: the array, the size and every argument."""

    kind: Kind
    x: np.ndarray
    size: object
    own: dict
    arguments: dict
    adaptive: bool = False
    layout: str = "C"
    seed: int = 0

    def run(self, **more):
        given = {**self.own, **self.arguments, **more}
        return self.kind.call(self.x, self.size, self.adaptive, **given)

    @property
    def expected(self):
        """Keyword arguments for the oracle beside array, reducer and size."""
        return {**self.kind.expected(self.own), **self.arguments, "adaptive": self.adaptive}

    @property
    def geometry(self):
        """What the oracle's plan wants to know beside shape and size."""
        names = ("axes", "stride", "padding", "dilation", "ceil_mode", "edge")
        given = {k: self.arguments[k] for k in names if k in self.arguments}
        return {**given, "adaptive": self.adaptive}

    def pooled(self):
        return oracle.pool(self.x, self.kind.op, self.size, **self.expected)

    def check(self, got):
        more = {**self.arguments, "adaptive": self.adaptive}
        return self.kind.check(got, self.x, self.size, repr(self), self.own, **more)

    def __repr__(self):
        name = f"{'adaptive_' if self.adaptive else ''}{self.kind.name}"
        short = {
            k: f"<bool {v.shape} strides {v.strides}>" if k == "where" and v is not None else v
            for k, v in {**self.own, **self.arguments}.items()
        }
        return (
            f"{name}(<{self.x.dtype} {self.x.shape} strides {self.x.strides} {self.layout} "
            f"seed {self.seed}>, {self.size}, {short})"
        )


def masks(rng, shape, form):
    """A mask for an array of this shape: of its own shape, smaller and broadcast, or all False."""
    if form == "none":
        return np.zeros(shape, bool)
    if form == "broadcast":
        shape = tuple(n if rng.integers(2) else 1 for n in shape)
        shape = shape[int(rng.integers(len(shape) + 1)) :]
    mask = rng.random(shape) < rng.choice([0.3, 0.7, 0.95])
    if form == "strided" and mask.ndim:
        mask = arranged(mask, LAYOUTS[rng.integers(len(LAYOUTS))], rng)
    return mask


@st.composite
def calls(draw, kind, adaptive=False, excludes=False, dtypes=None, max_pooled=3, max_ndim=4):
    """A call of ``kind``; with ``excludes`` it has a mask, omits NaNs or asks for a least count."""
    kind = KINDS[kind] if isinstance(kind, str) else kind
    # Kernels are small enough for an oracle that lists every element.
    shape, size, arguments = _geometry(draw, max_pooled, max_ndim, (7, 4, 3))
    if adaptive:
        axes = arguments["axes"]
        arguments = {"axes": axes}
        for a in axes:
            shape[a] = draw(st.integers(1, 13))
        size = draw(
            st.tuples(*[st.one_of(st.none(), st.integers(1, 8), st.integers(1, 17))] * len(axes)),
            label="output_size",
        )
    elif arguments["padding"] != "same" and draw(st.integers(0, 3), label="partial") == 0:
        arguments.update(edge="partial", ceil_mode=False)
    own = draw(kind.own, label="own arguments")
    if adaptive:
        own = {k: v for k, v in own.items() if k not in kind.windows_only}
    x, layout, seed = _array(draw, shape, dtypes or kind.dtypes)
    if excludes:
        rng = np.random.default_rng(seed + 1)
        floats = oracle.is_float(x.dtype)
        way = draw(st.sampled_from(("where", "omit", "both") if floats else ("where",)))
        if way != "omit":
            form = draw(st.sampled_from(("full", "broadcast", "strided", "strided", "none")))
            arguments["where"] = masks(rng, x.shape, form)
        if way != "where":
            arguments["nan_policy"] = "omit"
        if floats and draw(st.booleans(), label="least count"):
            arguments["min_count"] = draw(st.integers(1, 5))
    return Call(kind, x, size, own, arguments, adaptive, layout, seed)

"""Inputs for the tests: values that provoke, strides of every kind, and random whole calls."""

from __future__ import annotations

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


@st.composite
def cases(draw, op, dtypes=None, max_pooled=3, max_ndim=5):
    pooled = draw(st.integers(1, max_pooled), label="pooled axes")
    ndim = draw(st.integers(pooled, max_ndim), label="ndim")
    axes = draw(st.permutations(range(ndim)), label="axes")[:pooled]
    top = {1: 9, 2: 5, 3: 3}[pooled]
    kernel = [draw(st.integers(1, top)) for _ in range(pooled)]
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
    if op == "mean":
        arguments["count_include_pad"] = draw(st.booleans(), label="count_include_pad")
        if draw(st.integers(0, 4)) == 0:
            arguments["divisor_override"] = draw(st.integers(1, 9), label="divisor_override")
    dtype = draw(st.sampled_from(dtypes or DTYPES[op]), label="dtype")
    seed = draw(st.integers(0, 2**16), label="seed")
    rng = np.random.default_rng(seed)
    values = numbers(rng, shape, dtype, draw(st.sampled_from(FLAVOURS[op]), label="flavour"))
    layout = draw(st.sampled_from(LAYOUTS), label="layout")
    return Case(arranged(values, layout, rng), op, tuple(kernel), arguments, layout, seed)

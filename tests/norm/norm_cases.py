"""Inputs for the tests of the norms: numbers, strides, and the norms' regions over an array."""

from __future__ import annotations

import norm_oracle as no
import numpy as np
from norm_engine import split_channels

LAYOUTS = ("C", "channels last", "permuted", "gaps", "broadcast", "misaligned")


def numbers(rng, shape, dtype, mean=0.5, deviation=1.0):
    return (mean + deviation * rng.standard_normal(shape)).astype(dtype)


def arranged(values, layout, rng):
    """The same values (for "broadcast": one slice, repeated) with an axis of stride 1 somewhere."""
    ndim, dtype = values.ndim, values.dtype
    order = list(range(ndim))
    if layout == "channels last":
        order = [0, *range(2, ndim), 1] if ndim > 1 else [0]
    elif layout == "permuted":
        order = list(rng.permutation(ndim))
    moved = values.transpose(order)
    if layout == "gaps":
        # Room behind every axis but the innermost, which keeps its elements side by side.
        inner = max((a for a in range(ndim) if values.shape[a] > 1), default=ndim - 1)
        steps = [1 if a >= inner else int(rng.integers(1, 3)) for a in range(ndim)]
        room = [
            n * s + (a <= inner) for a, (n, s) in enumerate(zip(values.shape, steps, strict=True))
        ]
        memory = np.full(room, np.nan, dtype)
        part = memory[tuple(slice(0, n * s, s) for n, s in zip(moved.shape, steps, strict=True))]
        part[...] = moved
        return part
    if layout == "broadcast":
        axis = int(rng.integers(ndim))
        inner = max((a for a in range(ndim) if a != axis and values.shape[a] > 1), default=None)
        if inner is None:
            return np.ascontiguousarray(values)
        first = tuple(slice(0, 1) if a == axis else slice(None) for a in range(ndim))
        return np.broadcast_to(np.ascontiguousarray(values[first]), values.shape)
    if layout == "misaligned":
        lead = int(rng.integers(1, 9))
        memory = np.full(lead + values.size + 8, np.nan, dtype)
        memory[lead : lead + values.size] = values.ravel()
        return memory[lead : lead + values.size].reshape(values.shape)
    return np.ascontiguousarray(moved).transpose(np.argsort(order))


def acceptable(norm, x):
    """``x``, or a copy of it where the core asks for one: the innermost axis has stride 1, and no
    regions lie beside one another there whose parameters change from row to row."""
    steps = [abs(s) for s, n in zip(x.strides, x.shape, strict=True) if n > 1]
    if 0 not in steps and (not steps or min(steps) == x.itemsize):
        inner = [a for a, n in enumerate(x.shape) if n > 1 and abs(x.strides[a]) == x.itemsize]
        kept = any(a not in norm.reduced for a in inner)
        if not kept or not any(a in norm.parameters and x.shape[a] > 1 for a in norm.reduced):
            return x
    order = [a for a in range(x.ndim) if a not in norm.reduced] + list(norm.reduced)
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


def region_of(kind, x, groups=2, trailing=1, **more):
    """The oracle's norm of this kind, and the array in the shape that it is over."""
    if kind == "group":
        x = split_channels(x, groups)
        return no.group(x.ndim, **more), x
    if kind in ("layer", "rms"):
        return getattr(no, kind)(x.ndim, trailing, **more), x
    return getattr(no, kind)(x.ndim, **more), x


KINDS = ("batch", "instance", "group", "layer", "rms")


class Surrounded:
    """Allocates arrays with marks before and behind, and says whether they still stand."""

    MARK = 0x5A

    def __init__(self):
        self.all = []

    def __call__(self, size, dtype):
        size = size * np.dtype(dtype).itemsize
        memory = np.full(size + 256, self.MARK, np.uint8)
        self.all.append((memory, size))
        return memory[128 : 128 + size].view(dtype)

    def array(self, shape, dtype, order=None):
        """Uninitialised, laid out by ``order``, outermost axis first."""
        order = list(range(len(shape))) if order is None else list(order)
        flat = self(int(np.prod(shape)), dtype)
        return flat.reshape([shape[a] for a in order]).transpose(np.argsort(order))

    def check(self, note=""):
        assert self.all
        for memory, size in self.all:
            around = np.concatenate([memory[:128], memory[128 + size :]])
            assert (around == self.MARK).all(), f"wrote outside an output {note}"

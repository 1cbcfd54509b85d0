"""The native core's ``Norm`` called directly, over any axes and strides."""

from __future__ import annotations

import norm_oracle as no
import numpy as np
from numpy.lib.stride_tricks import as_strided

import oracle
from infinitypool import _core

BF16 = oracle.BFLOAT16
FLOATS = oracle.FLOATS


def strides(a):
    return [s // a.itemsize for s in a.strides]


def address(a):
    return 0 if a is None else a.ctypes.data


def steps(shape, order=None):
    """The step of every axis of a dense array whose axes follow ``order``; 0 for those of size 1."""
    result, step = [0] * len(shape), 1
    for a in reversed(range(len(shape)) if order is None else order):
        if shape[a] > 1:
            result[a] = step
            step *= shape[a]
    return result


def split_channels(a, groups, axis=1):
    """(N, C, ...) as (N, G, C / G, ...) over the same memory, whatever its strides."""
    each = a.shape[axis] // groups
    shape = (*a.shape[:axis], groups, each, *a.shape[axis + 1 :])
    step = a.strides[axis]
    return as_strided(a, shape, (*a.strides[:axis], each * step, step, *a.strides[axis + 1 :]))


class Dense:
    """One entry per region or parameter, in memory order ``order``; seen with all axes, so that it
    broadcasts against the input."""

    def __init__(self, shape, dtype, order=None, values=None, guard=None):
        self.steps = steps(shape, order)
        size = int(np.prod(shape))
        self.memory = np.full(size, 77, dtype) if guard is None else guard(size, dtype)
        self.view = as_strided(
            self.memory, shape, [s * self.memory.itemsize for s in self.steps], subok=False
        )
        if values is not None:
            self.view[...] = np.broadcast_to(values, shape)


class Native:
    """``_core.Norm`` for arrays like these; ``norm`` comes from the oracle."""

    def __init__(
        self,
        norm,
        x,
        out=None,
        other=None,
        parameter_dtype=None,
        given_dtype=None,
        region_order=None,
        parameter_order=None,
        guard=None,
    ):
        self.norm, self.x, self.guard = norm, x, guard
        self.out = np.full_like(x, 77) if out is None else out
        self.other = other
        self.parameter_dtype = np.dtype(parameter_dtype or x.dtype)
        self.given_dtype = np.dtype(given_dtype or np.float64)
        self.region_shape = norm.region_shape(x.shape)
        self.parameter_shape = norm.parameter_shape(x.shape)
        self.region_order, self.parameter_order = region_order, parameter_order
        regions = self.per_region(np.float64).steps
        self.plan = _core.Norm(
            x.dtype.name,
            self.parameter_dtype.name,
            self.given_dtype.name,
            list(x.shape),
            strides(x),
            strides(self.out),
            strides(self.out if other is None else other),
            regions,
            steps(self.parameter_shape, parameter_order),
            norm.centered,
            norm.eps,
            norm.activation,
            norm.slope,
        )

    def per_region(self, dtype, values=None):
        return Dense(self.region_shape, dtype, self.region_order, values, self.guard)

    def per_parameter(self, values=None, dtype=None):
        dtype = dtype or self.parameter_dtype
        return Dense(self.parameter_shape, dtype, self.parameter_order, values, self.guard)

    def _parameter(self, values):
        return None if values is None else self.per_parameter(values).memory

    def normalize(
        self, weight=None, bias=None, total=None, running=None, momentum=0.1, statistics=True
    ):
        """(mean, var); the result is in ``out``.  ``total`` asks for x + other, with other's strides
        those of the residual.  ``running`` is a pair, moved in place."""
        mean = self.per_region(np.float64) if statistics else None
        var = self.per_region(np.float64) if statistics else None
        w, b = self._parameter(weight), self._parameter(bias)
        moved = [self.per_region(self.given_dtype, r) for r in running] if running else None
        self.plan.normalize(
            address(self.x),
            address(self.other) if total is not None else 0,
            address(self.out),
            address(total),
            address(w),
            address(b),
            address(mean.memory) if mean and self.norm.centered else 0,
            address(var.memory) if var else 0,
            address(moved[0].memory) if moved else 0,
            address(moved[1].memory) if moved else 0,
            momentum,
        )
        if moved:
            for given, result in zip(running, moved, strict=True):
                given[...] = result.view
        if not statistics:
            return None, None
        if not self.norm.centered:
            mean.view[...] = 0
        return mean.view, var.view

    def apply(self, mean, var, weight=None, bias=None):
        w, b = self._parameter(weight), self._parameter(bias)
        m, v = (self.per_region(self.given_dtype, a) for a in (mean, var))
        self.plan.apply(
            address(self.x),
            address(self.out),
            address(w),
            address(b),
            address(m.memory),
            address(v.memory),
        )
        return self.out

    def statistics(self):
        mean, var = (self.per_region(np.float64) for _ in range(2))
        self.plan.statistics(
            address(self.x), address(mean.memory) if self.norm.centered else 0, address(var.memory)
        )
        if not self.norm.centered:
            mean.view[...] = 0
        return mean.view, var.view

    def gradient(
        self,
        mean,
        var,
        weight=None,
        bias=None,
        *,
        given=False,
        wanted=(True, True, True),
    ):
        """(gradient of x, of weight, of bias), None where not wanted."""
        w, b = self._parameter(weight), self._parameter(bias)
        m, v = (self.per_region(self.given_dtype if given else np.float64, a) for a in (mean, var))
        gw, gb = (self.per_parameter() if wanted[i] else None for i in (1, 2))
        self.plan.gradient(
            address(self.x),
            address(self.other),
            address(self.out) if wanted[0] else 0,
            address(w),
            address(b),
            address(m.memory),
            address(v.memory),
            address(gw.memory) if gw else 0,
            address(gb.memory) if gb else 0,
            given,
        )
        return self.out if wanted[0] else None, gw and gw.view, gb and gb.view

    def gradient_sums(self, mean):
        m = self.per_region(np.float64, mean)
        sums = np.full((2, m.memory.size), 77.0)
        self.plan.gradient_sums(
            address(self.x), address(self.other), address(m.memory), address(sums)
        )
        return sums

    def gradient_apply(self, mean, var, sums, count, weight=None):
        w = self._parameter(weight)
        m, v = (self.per_region(np.float64, a) for a in (mean, var))
        sums = np.ascontiguousarray(sums, np.float64)
        self.plan.gradient_apply(
            address(self.x),
            address(self.other),
            address(self.out),
            address(w),
            address(m.memory),
            address(v.memory),
            address(sums),
            count,
        )
        return self.out

    def scale(self, factors, offsets=None):
        f = self.per_region(np.float64, factors)
        o = None if offsets is None else self.per_region(np.float64, offsets).memory
        self.plan.scale(address(self.x), address(self.out), address(f.memory), address(o))
        return self.out


def moment_bounds(x, norm, var):
    """How far a computed mean and variance may be off: every element and every partial sum rounded
    in the arithmetic's width, of deviations from a mean that is itself off by that."""
    u = oracle.epsilon(oracle.added_in(x.dtype)) / 2
    n = norm.count(x.shape)
    size = np.sum(np.abs(x.astype(np.float64)), axis=norm.reduced, keepdims=True) / n
    mean_bound = u * no._depth(n) * size
    return mean_bound, u * no._depth(n) * var + np.square(mean_bound)

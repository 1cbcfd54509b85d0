"""Normalisation written from its definition, in more precision than is tested, step by step.

Every norm is the same sentence: the elements of a *region* share a mean and a variance, and each is
moved and scaled by them, then by its weight and bias.  The backward formulas are reverse mode over
the single steps, not the condensed ones that an implementation would use.  Beside every result
stands how far arithmetic of a given width may be off.  Shares no code with the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import erf, expit

import oracle

LONG = np.longdouble
ACTIVATIONS = ("none", "relu", "leaky_relu", "silu", "gelu")


@dataclass(frozen=True)
class Norm:
    """Which axes share a mean, which have a weight of their own, and what is done besides."""

    reduced: tuple[int, ...]
    parameters: tuple[int, ...] = ()
    centered: bool = True
    eps: float = 1e-5
    activation: str = "none"
    slope: float = 0.01

    def region_shape(self, shape):
        return tuple(1 if a in self.reduced else n for a, n in enumerate(shape))

    def parameter_shape(self, shape):
        return tuple(n if a in self.parameters else 1 for a, n in enumerate(shape))

    def count(self, shape):
        return math.prod(shape[a] for a in self.reduced)

    def others(self, shape):
        """The axes over which the gradients of weight and bias are added up."""
        return tuple(a for a in range(len(shape)) if a not in self.parameters)


def batch(ndim, **more):
    return Norm(tuple(a for a in range(ndim) if a != 1), (1,), **more)


def instance(ndim, **more):
    return Norm(tuple(range(2, ndim)), (1,), **more)


def group(ndim, **more):
    """Over (N, G, C / G, ...): one axis more than the input has."""
    return Norm(tuple(range(2, ndim)), (1, 2), **more)


def layer(ndim, trailing, **more):
    axes = tuple(range(ndim - trailing, ndim))
    return Norm(axes, axes, **more)


def rms(ndim, trailing, **more):
    return replace(layer(ndim, trailing, **more), centered=False)


# --- activations -----------------------------------------------------------------------------


def activate(z, name, slope=0.01):
    """Of real or complex numbers, so that derivatives can be taken by a complex step."""
    if name == "none":
        return z
    if name in ("relu", "leaky_relu"):
        # (Not by a product with 0 or 1: a NaN or an infinity would not come through.)
        return np.where(z.real <= 0, z * (0 if name == "relu" else z.dtype.type(slope)), z)
    wide = z.astype(np.complex128 if np.iscomplexobj(z) else np.float64)
    if name == "silu":
        return wide / (1 + np.exp(-wide))
    if name == "gelu":
        return wide * 0.5 * (1 + erf(wide / math.sqrt(2)))
    raise AssertionError(name)


def derivative(z, name, slope=0.01):
    """At zero relu is flat and leaky_relu takes its slope, as PyTorch has it."""
    if name == "none":
        return np.ones_like(z)
    if name in ("relu", "leaky_relu"):
        return np.where(z > 0, z.dtype.type(1), z.dtype.type(0 if name == "relu" else slope))
    wide = z.astype(np.float64)
    if name == "silu":
        sigmoid = expit(wide)
        return sigmoid + wide * sigmoid * (1 - sigmoid)
    if name == "gelu":
        normal = np.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + erf(wide / math.sqrt(2))) + wide * normal
    raise AssertionError(name)


# The steepest slope of each activation (gelu's is 1.129), and of each derivative (gelu's is 0.798).
_STEEPEST = {"none": 1.0, "relu": 1.0, "leaky_relu": 1.0, "silu": 1.1, "gelu": 1.13}
_CURVED = {"none": 0.0, "relu": 0.0, "leaky_relu": 0.0, "silu": 0.51, "gelu": 0.8}


# --- forward -----------------------------------------------------------------------------------


def wide(dtype):
    """What the oracle computes in for this dtype: twice its digits, or what comes next to it."""
    return np.float64 if np.dtype(dtype).itemsize < 8 else LONG


def moments(x, reduced, centered=True):
    """Mean and biased variance (mean square where not centered) with the reduced axes kept."""
    x = np.asarray(x)
    x = x.astype(wide(x.dtype))
    reduced, n = tuple(reduced), math.prod(x.shape[a] for a in reduced)
    with np.errstate(all="ignore"):
        mean = np.sum(x, axis=reduced, keepdims=True) / n
        if not centered:
            mean = np.zeros_like(mean)
        var = np.sum(np.square(x - mean), axis=reduced, keepdims=True) / n
    return mean, var


@dataclass
class Forward:
    values: np.ndarray
    bound: np.ndarray  # what arithmetic may lose, before the result is rounded to its dtype
    z: np.ndarray  # before the activation
    z_bound: np.ndarray
    h: np.ndarray  # before weight and bias
    h_bound: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    var_error: np.ndarray  # relative to var + eps


def _unit(dtype):
    """Half of the eps of the arithmetic that elements of this dtype are computed in."""
    return oracle.epsilon(oracle.added_in(dtype)) / 2


def _depth(n):
    """How many roundings a sum of ``n`` terms may collect where blocks are added in order and their
    sums in pairs: two levels of 16 and the height of the tree above them."""
    return 32 + math.log2(max(n, 1))


def _spread(a, shape, default, real):
    return np.full([1] * len(shape), real(default)) if a is None else np.asarray(a).astype(real)


def forward(norm, x, weight=None, bias=None, given=None, dtype=None):
    """``weight`` and ``bias`` in :meth:`Norm.parameter_shape`, or anything that broadcasts so.

    ``given``: (mean, var) in the region's shape, in place of the statistics of ``x``.  ``dtype`` is
    what ``x`` is stored in, where that is not what it comes as."""
    dtype = np.dtype(dtype or x.dtype)
    real, shape, u = wide(dtype), np.shape(x), _unit(dtype)
    x = np.asarray(x).astype(real)
    w, b = _spread(weight, shape, 1, real), _spread(bias, shape, 0, real)
    with np.errstate(all="ignore"):
        if given is None:
            mean, var = moments(x, norm.reduced, norm.centered)
            mean, var = mean.astype(real), var.astype(real)
        else:
            mean, var = (np.asarray(a).astype(real) for a in given)
        s = np.sqrt(var + real(norm.eps))
        h = (x - mean) / s
        z = h * w + b
        y = activate(z, norm.activation, norm.slope).astype(real)

        # A mean of the arithmetic's width is off by half a unit, and so is every x - mean; a computed
        # one also by the roundings of its sum. The variance is then off by the square of that, and by
        # roundings of its own.
        off = 4 * u * (np.abs(x) + np.abs(mean))
        if given is None and norm.centered:
            n = norm.count(shape)
            off = off + u * _depth(n) / 8 * np.sum(np.abs(x), axis=norm.reduced, keepdims=True) / n
        var_error = (u * _depth(norm.count(shape)) + np.zeros_like(s)) * (given is None)
        if given is None and norm.centered:
            var_error = var_error + np.square(4 * u * mean) / np.square(s)
        h_bound = off / s + np.abs(h) * (4 * u + var_error)
        z_bound = h_bound * np.abs(w) + 2 * u * (np.abs(h * w) + np.abs(b))
        bound = _STEEPEST[norm.activation] * z_bound + 2 * u * np.abs(y)
        if norm.activation in ("silu", "gelu"):
            # A product of z with a number in [0, 1] that is off by some units of 1.
            bound = bound + 4 * u * np.abs(z)
    return Forward(y, bound, z, z_bound, h, h_bound, mean, var, var_error)


def running(before, statistic, momentum):
    """Where a running statistic goes: a step of ``momentum`` toward that of this batch."""
    before, statistic = (np.asarray(a).astype(LONG) for a in (before, statistic))
    return before + LONG(momentum) * (statistic - before)


def unbiased(var, n):
    return np.asarray(var).astype(LONG) * n / LONG(n - 1)


# --- backward ----------------------------------------------------------------------------------


@dataclass
class Backward:
    x: np.ndarray
    x_bound: np.ndarray
    weight: np.ndarray
    weight_bound: np.ndarray
    bias: np.ndarray
    bias_bound: np.ndarray


def backward(norm, x, grad, weight=None, bias=None, given=None, dtype=None):
    """The gradients of ``sum(grad * forward(x))``, those of weight and bias in the parameter's
    shape (with the other axes kept)."""
    dtype = np.dtype(dtype or x.dtype)
    f = forward(norm, x, weight, bias, given, dtype)
    real = wide(dtype)
    x, g = np.asarray(x).astype(real), np.asarray(grad).astype(real)
    shape, u = x.shape, _unit(dtype)
    n, reduced, others = norm.count(shape), norm.reduced, norm.others(shape)
    w = _spread(weight, shape, 1, real)

    def region(a):
        return np.sum(np.broadcast_to(a, shape), axis=reduced, keepdims=True)

    def parameter(a):
        return np.sum(np.broadcast_to(a, shape), axis=others, keepdims=True)

    with np.errstate(all="ignore"):
        s, d = np.sqrt(f.var + real(norm.eps)), x - f.mean
        # y = activation(z), z = h * w + b, h = d / s, s = sqrt(var + eps), var = sum(d * d) / n,
        # d = x - mean, mean = sum(x) / n: each step in turn, from the last to the first.
        dz = g * derivative(f.z, norm.activation, norm.slope)
        db, dw, dh = parameter(dz), parameter(dz * f.h), dz * w
        dd = dh / s
        if given is None:
            ds = region(-dh * d / (s * s))
            dvar = ds / (2 * s)
            dd = dd + dvar * 2 * d / n
        dx = dd
        if given is None and norm.centered:
            dmean = region(-dd)
            dx = dd + dmean / n

        # How far off: the same steps with errors for values.
        dz_bound = np.abs(g) * _CURVED[norm.activation] * f.z_bound + 8 * u * (
            np.abs(g) if norm.activation in ("silu", "gelu") else np.abs(dz)
        )
        size, size_bound = np.abs(dh), dz_bound * np.abs(w) + 2 * u * np.abs(dh)
        here = size_bound + 4 * u * size
        if given is None:
            roundings = u * _depth(n)
            along = region(np.abs(dh * f.h)) / n
            here = here + np.abs(f.h) * (
                region(size_bound * np.abs(f.h) + size * f.h_bound) / n
                + (roundings + 8 * u) * along
            )
            here = here + f.h_bound * np.abs(region(dh * f.h)) / n
            if norm.centered:
                here = here + region(size_bound) / n + (roundings + 8 * u) * region(size) / n
        x_bound = here / s + (2 * f.var_error + 8 * u) * np.abs(dx)
        if given is None:  # (a wrong s is wrong in all three terms)
            x_bound = x_bound + 2 * f.var_error * (size + np.abs(f.h) * along) / s
        roundings = u * _depth(x.size)
        weight_bound = parameter(
            dz_bound * np.abs(f.h) + np.abs(dz) * f.h_bound + roundings * np.abs(dz * f.h)
        )
        bias_bound = parameter(dz_bound + roundings * np.abs(dz))
    return Backward(dx, x_bound, dw, weight_bound, db, bias_bound)


def away_from_the_kink(norm, x, grad, weight=None, bias=None, given=None, dtype=None):
    """``grad`` with zeros where rounding decides on which side of a relu's corner an element lies."""
    if norm.activation not in ("relu", "leaky_relu"):
        return grad
    f = forward(norm, x, weight, bias, given, dtype)
    return np.where(np.abs(f.z) <= 2 * f.z_bound, grad.dtype.type(0), grad)


# --- local response ----------------------------------------------------------------------------


def _neighbours(c, size):
    """The channels that a channel's denominator reads: size // 2 before it and the rest behind."""
    first = np.arange(c) - size // 2
    return [range(max(0, a), min(c, a + size)) for a in first]


def local_response(x, size, alpha=1e-4, beta=0.75, k=1.0, axis=1):
    """x / (k + alpha * mean of squares over ``size`` channels) ** beta; beyond the ends are zeros."""
    real = wide(x.dtype)
    x = np.moveaxis(np.asarray(x).astype(real), axis, 0)
    with np.errstate(all="ignore"):
        total = np.stack(
            [sum(np.square(x[j]) for j in near) for near in _neighbours(len(x), size)]
            if len(x)
            else [],
        )
        base = real(k) + real(alpha) * total / size
        return np.moveaxis(x / base ** real(beta), 0, axis)


def local_response_backward(x, grad, size, alpha=1e-4, beta=0.75, k=1.0, axis=1):
    x, g = (np.moveaxis(np.asarray(a).astype(LONG), axis, 0) for a in (x, grad))
    near = _neighbours(len(x), size)
    base = np.stack(
        [LONG(k) + LONG(alpha) * sum(np.square(x[j]) for j in each) / size for each in near]
    )
    dx = g / base ** LONG(beta)
    dbase = -LONG(beta) * g * x * base ** -(LONG(beta) + 1)
    for i, each in enumerate(near):
        for j in each:
            dx[j] += dbase[i] * LONG(alpha) / size * 2 * x[j]
    return np.moveaxis(dx, 0, axis)


# --- comparing ---------------------------------------------------------------------------------


def assert_close(got, exact, bound, dtype, note=""):
    """Within ``bound`` of ``exact`` and one rounding to ``dtype``."""
    exact = np.asarray(exact)
    bound = np.broadcast_to(np.nan_to_num(np.asarray(bound), nan=0.0), exact.shape)
    oracle.assert_close(got, np.dtype(dtype), oracle.Pooled(exact, bound=bound), note)

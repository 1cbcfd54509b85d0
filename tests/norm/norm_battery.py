"""One fixed list of norms whose result bytes must depend neither on the number of threads nor on the
instruction set.  Run as a program it prints a digest for every call."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace

import norm_oracle as no
import numpy as np
from norm_cases import LAYOUTS, acceptable, arranged, numbers, region_of
from norm_engine import FLOATS, Native

import oracle

# kind, shape, layout, and what region_of takes besides
BIG = {
    "batch": ("batch", (6, 5, 61, 67), "C", {}),
    "batch, one long region": ("batch", (2, 1, 500, 701), "C", {}),
    "batch, channels last": ("batch", (4, 37, 31, 29), "channels last", {}),
    "batch, few channels last": ("batch", (9, 3, 80, 81), "channels last", {}),
    "batch, many channels last": ("batch", (2, 1100, 5, 7), "channels last", {}),
    "batch, no space": ("batch", (257, 1031), "C", {}),
    "batch, little space": ("batch", (33, 130, 2, 2), "C", {}),
    "instance": ("instance", (2, 7, 111, 93), "C", {}),
    "instance, channels last": ("instance", (3, 33, 41, 43), "channels last", {}),
    "group": ("group", (2, 32, 41, 43), "C", {"groups": 8}),
    "group, channels last": ("group", (2, 48, 41, 43), "channels last", {"groups": 6}),
    "layer": ("layer", (301, 1027), "C", {}),
    "layer, short rows": ("layer", (5003, 48), "C", {}),
    "layer, one row": ("layer", (1, 300_007), "C", {}),
    "layer, long rows": ("layer", (40, 20_011), "C", {}),
    "layer, channels last": ("layer", (3, 24, 37, 31), "channels last", {"trailing": 3}),
    "layer, gaps": ("layer", (60, 3, 515), "gaps", {}),
    "rms": ("rms", (301, 1027), "C", {}),
    "rms, long rows": ("rms", (7, 70_001), "C", {}),
}
DTYPES = ("float32", "float16", "bfloat16", "float64")


def digest(*arrays):
    """sha256 of the bytes; one NaN is as good as another."""
    sha = hashlib.sha256()
    for a in arrays:
        if a is not None:
            a = np.ascontiguousarray(a)
            sha.update(np.where(np.isnan(a), np.array(np.nan, a.dtype), a).tobytes())
    return sha.hexdigest()


def results(norm, x, g, parameter_dtype, rng):
    """(what, arrays) for every method."""
    x = acceptable(norm, x)
    shape = norm.parameter_shape(x.shape)
    w, b = ((rng.standard_normal(shape) + 0.5).astype(parameter_dtype) for _ in range(2))
    how = {"parameter_dtype": parameter_dtype}
    native = Native(norm, x, other=g, given_dtype=np.float32, **how)
    regions = norm.region_shape(x.shape)
    running = [np.full(regions, v, np.float32) for v in (0.5, 2.0)]
    mean, var = native.normalize(w, b, running=running if norm.count(x.shape) > 1 else None)
    yield "normalize", [native.out, mean, var, *running]
    mean, var = mean.copy(), var.copy()
    yield "statistics", native.statistics()
    total = np.full_like(x, 7)
    yield "residual", [*native.normalize(w, b, total), native.out, total]
    back = Native(norm, x, other=g, **how)
    yield "gradient", back.gradient(mean, var, w, b)
    given = mean.astype(np.float32), var.astype(np.float32)
    yield "apply", [native.apply(*given, w, b)]
    if not any(a in norm.reduced and shape[a] > 1 for a in range(x.ndim)):
        back = Native(norm, x, other=g, given_dtype=np.float32, **how)
        yield "gradient, given", back.gradient(*given, w, b, given=True)
    if norm.centered:
        sums = back.gradient_sums(mean)
        yield "sums", [sums]
        if norm.reduced == no.batch(x.ndim).reduced and norm.parameters == (1,):
            yield "from sums", [back.gradient_apply(mean, var, sums, norm.count(x.shape), w)]
    yield "scale", [native.scale(var, mean)]


def big(names=BIG, dtypes=DTYPES):
    for name in names:
        kind, shape, layout, more = BIG[name]
        for dtype in map(oracle.dtype_of, dtypes):
            rng = np.random.default_rng(len(name))
            place = list(BIG).index(name) + DTYPES.index(dtype.name)
            parameter_dtype = np.dtype(np.float32) if place % 2 else dtype
            for activation in ("none", no.ACTIVATIONS[1 + place % 4]):
                norm, x = region_of(
                    kind, arranged(numbers(rng, shape, dtype, 2), layout, rng), **more
                )
                _, g = region_of(kind, arranged(numbers(rng, shape, dtype), layout, rng), **more)
                norm = replace(norm, activation=activation, slope=0.2)
                for what, arrays in results(norm, x, g, parameter_dtype, rng):
                    yield f"{name}, {dtype}, {activation}, {what}", digest(*arrays)


def small(count=250):
    rng = np.random.default_rng(1)
    for number in range(count):
        ndim = int(rng.integers(1, 5))
        shape = tuple(int(n) for n in rng.integers(1, 30 if ndim < 3 else 9, ndim))
        norm = no.Norm(
            tuple(sorted(int(a) for a in rng.permutation(ndim)[: rng.integers(ndim + 1)])),
            tuple(sorted(int(a) for a in rng.permutation(ndim)[: rng.integers(ndim + 1)])),
            centered=bool(rng.integers(4)),
            eps=1e-3,
            activation=no.ACTIVATIONS[number % 5],
        )
        dtype = FLOATS[int(rng.integers(4))]
        x, g = (
            arranged(numbers(rng, shape, dtype), LAYOUTS[int(rng.integers(6))], rng)
            for _ in range(2)
        )
        if number % 3 == 0:  # (one NaN is as good as another, and must be in the same places)
            x = np.array(x, order="K")
            x[tuple(int(rng.integers(n)) for n in shape)] = (np.nan, np.inf)[number % 2]
        for what, arrays in results(norm, x, g, dtype, rng):
            yield f"{number}, {norm}, {dtype}, {what}", digest(*arrays)


def main():
    from infinitypool import _core

    digests = dict(small())
    for place, name in enumerate(BIG):
        digests.update(big([name], ["float32", DTYPES[1 + place % 3]]))
    json.dump({"isa": _core.isa(), "digests": digests}, sys.stdout)


if __name__ == "__main__":
    main()

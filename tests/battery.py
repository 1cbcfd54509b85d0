"""One fixed list of calls, big and small, whose result bytes must never depend on the number of
threads or on the instruction set.  Run as a program it prints a digest for every call."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np

import infinitypool as ip
import oracle
from engine import backward, forward
from strategies import DTYPES, KINDS, LAYOUTS, OPS, arranged, numbers

# shape, axes, kernel, the rest
BIG = {
    "planes": ((3, 2, 130, 257), (2, 3), (3, 3), {"stride": 1, "padding": 1}),
    "one plane": ((900, 700), (0, 1), (2, 2), {}),
    "one plane, large window": ((400, 333), (0, 1), (13, 13), {"stride": 1, "padding": 6}),
    "one plane, larger window": (
        (210, 333),
        (0, 1),
        (51, 37),
        {"stride": (1, 2), "padding": "same"},
    ),
    "channels last": ((2, 60, 70, 37), (1, 2), (3, 3), {"stride": 2, "padding": 1}),
    "channels last, one picture": ((300, 201, 3), (0, 1), (6, 6), {"stride": 2}),
    "channels last, large window": ((1, 64, 65, 24), (1, 2), (9, 9), {"stride": 1, "padding": 4}),
    "line": ((300001,), (0,), (2,), {}),
    "line, large window": ((100003,), (0,), (77,), {"stride": 3, "padding": ((40, 2),)}),
    "lines": ((90, 2003), (1,), (5,), {"stride": 2, "ceil_mode": True}),
    "volume": ((2, 20, 33, 70), (1, 2, 3), (3, 2, 3), {"stride": (1, 2, 1), "padding": 1}),
    "volume, channels last": ((14, 18, 19, 21), (0, 1, 2), (2, 3, 2), {"stride": 1}),
    "dilated": (
        (3, 120, 150),
        (1, 2),
        (3, 3),
        {"stride": 1, "dilation": (5, 2), "padding": "same"},
    ),
    "one window": ((4, 211, 177), (1, 2), (211, 177), {}),
}


def _digest(a, exact=True):
    """sha256 of the bytes.  Where NaNs may be made or merged by arithmetic, IEEE leaves their
    payload open, and one NaN is as good as another."""
    a = np.ascontiguousarray(a) if exact else oracle.bits(a)
    return hashlib.sha256(a.tobytes()).hexdigest()


def _one(x, op, kernel, arguments):
    selects = op in ("max", "min")
    extra = {}
    if op == "mean":
        extra = {"count_include_pad": bool(x.size % 2)}
    got, where = forward(
        x, op, kernel, indices="offset" if selects else "none", **arguments, **extra
    )
    digests = [_digest(got, selects)]
    if selects:
        digests.append(_digest(where))
        alone, _ = forward(x, op, kernel, **arguments)
        plane = forward(x, op, kernel, indices="plane", **arguments)[1]
        digests += [_digest(alone), _digest(plane)]
    if oracle.is_float(x.dtype):
        grad = np.random.default_rng(5).standard_normal(got.shape).astype(x.dtype)
        back = backward(x, grad, op, kernel, offsets=where, **arguments, **extra)
        digests.append(_digest(back))
    return digests


def big(names=BIG):
    for name in names:
        shape, axes, kernel, rest = BIG[name]
        for op in OPS:
            for dtype in ("float32", "float16", "bfloat16", "uint8", "float64", "int32"):
                dtype = oracle.dtype_of(dtype)
                if dtype.name in ("float64", "int32") and name not in ("planes", "lines"):
                    continue
                x = numbers(np.random.default_rng(len(name)), shape, dtype, "wide")
                yield f"{name}, {op}, {dtype}", _one(x, op, kernel, dict(rest, axes=axes))


def small(seed=1, count=4):
    rng = np.random.default_rng(seed)
    for op in OPS:
        for dtype in DTYPES[op]:
            for layout in LAYOUTS:
                for flavour in ("few", "wide", "special"):
                    for _ in range(count):
                        ndim = int(rng.integers(1, 5))
                        axes = sorted(
                            rng.permutation(ndim)[: rng.integers(1, min(ndim, 3) + 1)].tolist()
                        )
                        shape = rng.integers(2, 20, ndim).tolist()
                        kernel = [int(rng.integers(1, min(shape[a], 6) + 1)) for a in axes]
                        arguments = {
                            "axes": tuple(axes),
                            "stride": [int(v) for v in rng.integers(1, 4, len(axes))],
                            "padding": [tuple(int(v) for v in rng.integers(0, 4, 2)) for _ in axes],
                            "ceil_mode": bool(rng.integers(2)),
                        }
                        x = arranged(numbers(rng, shape, dtype, flavour), layout, rng)
                        name = f"{op}, {dtype}, {layout}, {flavour}, {shape}, {kernel}, {arguments}"
                        yield name, _one(x, op, kernel, arguments)


# shape, size, adaptive, the rest: for every array function of the family
FAMILY = {
    "planes": ((2, 3, 61, 83), (3, 3), False, {"stride": 1, "padding": 1}),
    "channels last": ((2, 40, 31, 19), (3, 2), False, {"stride": 2, "axes": (1, 2)}),
    "line": ((20011,), (5,), False, {"stride": 3, "edge": "partial"}),
    "large window": ((150, 133), (11, 12), False, {"stride": 2, "padding": 5}),
    "excluding": ((4, 50, 67), (3, 3), False, {"stride": 2, "nan_policy": "omit", "where": 0.7}),
    "adaptive": ((3, 2, 61, 83), (7, 9), True, {}),
    "adaptive, channels last": ((2, 40, 31, 19), (7, 40), True, {"axes": (1, 2)}),
    "adaptive, excluding": ((2, 71, 83), (1, 7), True, {"where": 0.5, "min_count": 3}),
}


def family(names=FAMILY):
    for name in names:
        shape, size, adaptive, rest = FAMILY[name]
        rng = np.random.default_rng(len(name))
        if "where" in rest:
            rest = dict(rest, where=rng.random(shape) < rest["where"])
        for kind in KINDS.values():
            if adaptive and not kind.adaptive:
                continue
            for dtype in ("float32", "bfloat16", "float64", "float16", "uint8"):
                dtype = oracle.dtype_of(dtype)
                if dtype not in kind.dtypes:
                    continue
                more = dict(rest)
                if not oracle.is_float(dtype):
                    more.pop("min_count", None)
                x = numbers(rng, shape, dtype, "special" if "nan_policy" in rest else "wide")
                got = kind.call(x, size, adaptive, **more)
                yield f"{name}, {kind.name}, {dtype}", [_digest(got, False)]
        if not adaptive:
            x = rng.standard_normal(shape).astype(np.float32)
            draw = ip.stochastic_pool(x, size, rng=7, **rest)
            yield f"{name}, a draw", [_digest(draw)]


def main():
    from infinitypool import _core

    digests = dict(big())
    digests.update(small())
    digests.update(family())
    json.dump({"isa": _core.isa(), "digests": digests}, sys.stdout)


if __name__ == "__main__":
    main()

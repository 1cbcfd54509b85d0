"""Norms of arrays that lie flush against pages without access.  Run as a program by a test."""

from __future__ import annotations

import faulthandler
import sys

import norm_oracle as no
import numpy as np
from guard_pages import Fence
from norm_cases import numbers
from norm_engine import FLOATS, Native

LENGTHS = (*range(1, 36), 47, 63, 64, 65, 127, 128, 129)


class Fenced:
    """Every array against the fence of a page of its own."""

    def __init__(self):
        self.fences = [Fence() for _ in range(10)]
        self.start(False)

    def start(self, at_end):
        self.at_end, self.used = at_end, 0

    def __call__(self, size, dtype):
        self.used += 1
        return self.fences[self.used - 1].array((size,), dtype, self.at_end)


def main():
    faulthandler.enable()
    fenced, calls = Fenced(), 0
    x_fence, out_fence, other_fence, total_fence = (Fence() for _ in range(4))
    for dtype in FLOATS:
        for length in LENGTHS:
            rng = np.random.default_rng(length)
            for shape, reduced, parameters in (
                ((3, length), (1,), (1,)),
                ((3, length), (0,), (1,)),
                ((2, 3, length), (0, 2), (1,)),
                ((2, length, 3), (1, 2), (1,)),
            ):
                at_end = bool((length + len(shape) + len(reduced)) % 2)
                activation = no.ACTIVATIONS[length % 5]
                norm = no.Norm(reduced, parameters, activation=activation, eps=1e-3)
                print(dtype, shape, norm, at_end, flush=calls % 64 == 0)
                x, out, other, total = (
                    fence.array(shape, dtype, at_end)
                    for fence in (x_fence, out_fence, other_fence, total_fence)
                )
                x[...], other[...] = numbers(rng, shape, dtype), numbers(rng, shape, dtype)
                w, b = rng.standard_normal((2, *norm.parameter_shape(shape))).astype(dtype)
                fenced.start(at_end)
                native = Native(norm, x, out, other, guard=fenced)
                mean, var = native.normalize(w, b, total)
                want = no.forward(norm, total, w, b)
                no.assert_close(out, want.values, want.bound, dtype, str(norm))
                mean, var = mean.copy(), var.copy()
                fenced.start(at_end)
                native.statistics()
                fenced.start(at_end)
                native.gradient(mean, var, w, b)
                fenced.start(at_end)
                native.apply(mean, var, w, b)
                fenced.start(at_end)
                native.gradient_sums(mean)
                fenced.start(at_end)
                native.scale(mean, var)
                calls += 6
    print(f"checked {calls} calls")
    if calls >= 1000:
        print("checked 1000 calls or more")


if __name__ == "__main__":
    sys.exit(main())

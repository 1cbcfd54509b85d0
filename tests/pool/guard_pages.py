"""Pools arrays that lie flush against pages without access.  Run as a program by the sweeps."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import sys

import numpy as np

import oracle
from engine import backward, forward, offset_dtype
from strategies import DTYPES, OPS, numbers

PAGE = mmap.PAGESIZE
LENGTHS = (*range(1, 36), 47, 63, 64, 65, 127, 128, 129)
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Fence:
    """Usable pages between two that may not be touched."""

    def __init__(self, pages=8):
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        self.bytes = np.frombuffer(self.map, np.uint8)
        start = self.bytes.ctypes.data
        for page in (0, pages + 1):
            if libc.mprotect(start + page * PAGE, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.usable = self.bytes[PAGE : (pages + 1) * PAGE]

    def array(self, shape, dtype, at_end):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        part = self.usable[len(self.usable) - size :] if at_end else self.usable[:size]
        return part.view(dtype).reshape(shape)


def main():
    faulthandler.enable()
    fences = [Fence() for _ in range(4)]
    calls = 0
    for op in OPS:
        for dtype in DTYPES[op]:
            for length in LENGTHS:
                rng = np.random.default_rng(length)
                for shape, axes in (
                    ((2, length), (1,)),
                    ((3, length), (0, 1)),
                    ((3, 2, length), (0, 1)),
                ):
                    at_end = bool((length + len(shape)) % 2)
                    kernel = tuple(min(3 if a else 2, shape[a]) for a in axes)
                    arguments = {"stride": 1 + length % 2, "padding": "same", "axes": axes}
                    print(op, dtype, shape, axes, at_end, kernel, arguments, flush=calls % 64 == 0)
                    x = fences[0].array(shape, dtype, at_end)
                    x[...] = numbers(rng, shape, dtype)
                    result = oracle.output_shape(shape, kernel, **arguments)
                    out_dtype = oracle.sum_dtype(dtype) if op == "sum" else dtype
                    out = fences[1].array(result, out_dtype, at_end)
                    where, kind = None, "none"
                    if op in ("max", "min"):
                        where = fences[2].array(result, offset_dtype(kernel), at_end)
                        kind = "offset"
                    forward(x, op, kernel, out=out, where=where, indices=kind, **arguments)
                    oracle.assert_pooled(out, x, op, kernel, **arguments)
                    calls += 1
                    if oracle.is_float(dtype):
                        grad_in = fences[3].array(shape, dtype, at_end)
                        backward(x, out, op, kernel, offsets=where, grad_in=grad_in, **arguments)
                        calls += 1
    print(f"checked {calls} calls")
    if calls >= 5000:
        print("checked 5000 calls or more")


if __name__ == "__main__":
    sys.exit(main())

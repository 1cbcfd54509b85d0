"""Results of the native kernels, as text: run once for every instruction set."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

from infinitypool import _core

SEEDS = (0, 1, 2**63 + 12345, 2**64 - 1)
PROBABILITIES = (0.1, 0.3, 0.5, 0.9, 1.0, 0.25 + 3e-6)
SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, 65504.0, 3e38]


def inputs(dtype, n):
    x = torch.from_numpy(np.random.default_rng(n).standard_normal(n)).to(dtype)
    for i, value in enumerate(SPECIAL):
        x[i::53] = value
    return x


def digests():
    result = {}
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for p in PROBABILITIES:
            for seed in SEEDS:
                for n in (1, 127, 128, 129, 5000):
                    x, residual = inputs(dtype, n), inputs(dtype, n).flip(0).contiguous()
                    for added in ((0.0, 0.0), (0.25, -1.5)):
                        for other in (0, residual.data_ptr()):
                            out = torch.empty_like(x)
                            kernel = _core.Dropout(name, p, 1.3, *added)
                            kernel.run(x.data_ptr(), other, out.data_ptr(), n, seed)
                            out[out.isnan()] = 7.0  # any NaN equals any other
                            data = out.view(torch.uint8).numpy().tobytes()
                            key = f"{name} {p} {seed} {n} {added} {bool(other)}"
                            result[key] = hashlib.sha256(data).hexdigest()
    return result


if __name__ == "__main__":
    print(json.dumps({"isa": _core.isa(), "digests": digests()}))

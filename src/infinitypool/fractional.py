"""Where the windows of fractional pooling start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bfloat16 import narrow, widen


def fractional_starts(
    samples: np.ndarray,
    sizes: Sequence[int],
    kernel_size: Sequence[int],
    output_size: Sequence[int],
    dtype: str | None = None,
) -> np.ndarray:
    """The first element of every window: int64 of shape (planes, axes, largest output size).

    ``samples`` has the shape (..., axes): one random number u for each pooled axis of each plane,
    planes in C order. Windows are ``alpha = (n - kernel_size) / (output_size - 1)`` apart:
    number i starts at ``int((i + u) * alpha) - int(u * alpha)``, the last one ends with the axis.
    The arithmetic is the samples' own, because PyTorch's is; ``dtype`` may say ``"bfloat16"``,
    which NumPy lacks, for such numbers in float32. What lies outside the axis, as for samples
    that are not from 0 to 1, is moved inside.

    Source: ``generate_intervals`` in PyTorch's aten/src/ATen/native/FractionalMaxPooling.h.

    >>> fractional_starts(np.array([[0.3]]), [9], [2], [5])
    array([[[0, 2, 4, 5, 7]]])
    """
    u = samples.reshape(-1, len(sizes))
    own = _bfloat16 if dtype == "bfloat16" else u.dtype.type
    starts = np.zeros((u.shape[0], len(sizes), max(output_size, default=0)), np.int64)
    for axis, (n, kernel, out) in enumerate(zip(sizes, kernel_size, output_size, strict=True)):
        if out == 0:
            continue
        last = n - kernel
        if out > 1:
            with np.errstate(all="ignore"):
                alpha = own(own(last) / own(out - 1))
                sample = u[:, axis, None]
                steps = own(own(np.arange(out - 1)) + sample)
                first = _whole(own(steps * alpha)) - _whole(own(sample * alpha))
            starts[:, axis, : out - 1] = np.clip(first, 0, last)
        starts[:, axis, out - 1] = last
    return starts


def _whole(x: np.ndarray) -> np.ndarray:
    """Towards zero; what no integer can hold becomes 0."""
    return np.where(np.abs(x) < 2.0**62, x, 0).astype(np.int64)


def _bfloat16(x: np.ndarray | float) -> np.ndarray:
    return widen(narrow(np.asarray(x, np.float32)))

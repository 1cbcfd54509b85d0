"""bfloat16 in NumPy, which has no such type: the upper half of a float32."""

from __future__ import annotations

import numpy as np


def widen(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers whose bfloat16 bits these uint16 are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(numbers: np.ndarray) -> np.ndarray:
    """The bits, uint16, of float32 numbers rounded to bfloat16, ties to even.

    >>> widen(narrow(np.array([1.0, 1.01, np.inf], np.float32)))
    array([1.       , 1.0078125,       inf], dtype=float32)
    """
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return np.where(np.isnan(numbers), 0x7FC0, rounded).astype(np.uint16)

"""The array functions: pooling of NumPy arrays and of whatever speaks DLPack on the CPU.

``functions.py`` makes one function, and its adaptive twin, for every row of the table of kinds;
``window.py`` leads from their arguments to a result; ``others.py`` has what is no plain window.
"""

from __future__ import annotations

from .functions import FUNCTIONS
from .others import blur_pool, fractional_max_pool, max_unpool, spatial_pyramid_pool

globals().update(FUNCTIONS)

__all__ = [
    *FUNCTIONS,
    "blur_pool",
    "fractional_max_pool",
    "max_unpool",
    "spatial_pyramid_pool",
]

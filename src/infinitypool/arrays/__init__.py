"""The array functions: pooling of NumPy arrays and of whatever speaks DLPack on the CPU.

``functions.py`` makes one function, and its adaptive twin, for every row of the table of kinds;
``window.py`` leads from their arguments to a result; ``others.py`` has what is no plain window,
``norms.py`` the normalisations.
"""

from __future__ import annotations

from .functions import FUNCTIONS
from .norms import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .others import blur_pool, fractional_max_pool, max_unpool, spatial_pyramid_pool

globals().update(FUNCTIONS)

__all__ = [
    *FUNCTIONS,
    "batch_norm",
    "blur_pool",
    "fractional_max_pool",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "max_unpool",
    "rms_norm",
    "spatial_pyramid_pool",
]

"""Pooling, normalisation and dropout at memory speed.

The array functions pool and normalise NumPy arrays and whatever speaks DLPack on the CPU:

>>> import numpy as np
>>> import infinitypool as ip
>>> ip.max_pool(np.arange(1, 17).reshape(4, 4), 2)
array([[ 6,  8],
       [14, 16]])
>>> ip.layer_norm(np.array([[1.0, 3.0], [4.0, 4.0]], np.float32), eps=0.0625).round(2)
array([[-0.97,  0.97],
       [ 0.  ,  0.  ]], dtype=float32)

:mod:`infinitypool.nn` holds the same operations as PyTorch modules and functions. It is imported
when it is first used, so that NumPy users need no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from . import arrays
from .arrays import *  # noqa: F403
from .runtime import (
    __version__,
    config,
    empty_cache,
    get_num_threads,
    set_cache_limit,
    set_num_threads,
    show_config,
)
from .spec import output_shape

__all__ = [
    "__version__",
    "config",
    "empty_cache",
    "get_num_threads",
    "output_shape",
    "set_cache_limit",
    "set_num_threads",
    "show_config",
    *arrays.__all__,
]


def __getattr__(name: str) -> ModuleType:
    if name == "nn":
        return import_module(".nn", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

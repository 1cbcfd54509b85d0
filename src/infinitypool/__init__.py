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

:mod:`infinitypool.nn` holds the same operations as PyTorch modules and functions, and stands in
for ``torch.nn``. ``convert`` puts them into a PyTorch model, ``revert`` takes them out again, and
``optimize`` makes a model of fewer passes for inference. All of these are imported when they are
first used, so that NumPy users need no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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


# Names that need PyTorch, and where they are.
_WITH_PYTORCH = {
    "convert": ".nn.conversion",
    "nn": ".nn",
    "optimize": ".nn.optimization",
    "revert": ".nn.conversion",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_PYTORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_WITH_PYTORCH[name], __name__)
    return module if name == "nn" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WITH_PYTORCH})

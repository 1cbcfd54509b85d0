"""The PyTorch front: pooling, norms and dropout with PyTorch's own signatures.

It stands in for ``torch.nn``: what this library does not have is PyTorch's own object, so that
``import infinitypool.nn as nn`` is all that a model needs.

>>> import torch
>>> from infinitypool import nn
>>> nn.MaxPool2d(3, stride=2)
MaxPool2d(kernel_size=3, stride=2, padding=0, dilation=1, ceil_mode=False)
>>> nn.MaxPool2d(3, stride=2)(torch.zeros(20, 16, 50, 32)).shape
torch.Size([20, 16, 24, 15])
>>> nn.Conv2d is torch.nn.Conv2d
True
"""

from __future__ import annotations

import torch

from . import dropouts, functional, modules, norm_modules, norm_pool, standin, sync  # noqa: F401
from .dropouts import *  # noqa: F403
from .modules import *  # noqa: F403
from .norm_modules import *  # noqa: F403
from .sync import *  # noqa: F403

_own = [*modules.__all__, *norm_modules.__all__, *sync.__all__, *dropouts.__all__]
_theirs = [name for name in standin.starred(torch.nn) if name not in (*_own, "functional")]
__all__ = [*_own, *_theirs, "functional"]

__getattr__, __dir__ = standin.lookups(__name__, torch.nn)

# ``nn.modules`` has all layers, and PyTorch's files as modules below it.
vars(modules).update({name: globals()[name] for name in _own if hasattr(torch.nn, name)})
modules.__getattr__, modules.__dir__ = standin.lookups(modules.__name__, torch.nn.modules)
modules.__path__ = []
standin.serve_imports()

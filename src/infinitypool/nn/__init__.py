"""The PyTorch front: pooling, norms and dropout with PyTorch's own signatures.

>>> import torch
>>> from infinitypool import nn
>>> nn.MaxPool2d(3, stride=2)
MaxPool2d(kernel_size=3, stride=2, padding=0, dilation=1, ceil_mode=False)
>>> nn.MaxPool2d(3, stride=2)(torch.zeros(20, 16, 50, 32)).shape
torch.Size([20, 16, 24, 15])
"""

from __future__ import annotations

from . import dropouts, functional, modules, norm_modules, sync
from .dropouts import *  # noqa: F403
from .modules import *  # noqa: F403
from .norm_modules import *  # noqa: F403
from .sync import *  # noqa: F403

__all__ = [
    *modules.__all__,
    *norm_modules.__all__,
    *sync.__all__,
    *dropouts.__all__,
    "functional",
]

"""Functions of PyTorch tensors, with the signatures of ``torch.nn.functional``.

A call that PyTorch accepts means the same here, and a call that PyTorch refuses is refused with
the same type of exception, unless it uses one of the forms that PyTorch does not have:

- ``padding`` as one (before, after) pair per axis, of any size, or ``"same"`` or ``"valid"``
- ``dilation`` in the averages
- every integer dtype, and bool in the maxima (the mean of integers truncates, as PyTorch's)

Beside PyTorch's functions there are kinds that it does not have: minima, generalised means,
quantiles, draws, blurs, pyramids and pools of whole planes. Norms take an ``activation``, or add
a residual first (``add_layer_norm`` and its like); dropout takes a ``generator``.

Every other name of ``torch.nn.functional`` is PyTorch's own object.

>>> import torch
>>> import infinitypool.nn.functional as F
>>> x = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
>>> F.max_pool2d(x, 2)
tensor([[[[ 6.,  8.],
          [14., 16.]]]])
>>> F.max_pool2d(x, 2, return_indices=True)[1]
tensor([[[[ 5,  7],
          [13, 15]]]])
>>> F.max_pool2d(x, 2, stride=1, padding="same").shape
torch.Size([1, 1, 4, 4])
>>> F.conv2d is torch.nn.functional.conv2d
True
"""

from __future__ import annotations

import torch.nn.functional as _theirs

from . import standin as _standin
from .composites import (
    blur_pool1d,
    blur_pool2d,
    blur_pool3d,
    fractional_max_pool2d,
    fractional_max_pool2d_with_indices,
    fractional_max_pool3d,
    fractional_max_pool3d_with_indices,
    global_avg_max_pool,
    global_avg_pool,
    global_cat_avg_max_pool,
    global_gem_pool,
    global_max_pool,
    max_blur_pool1d,
    max_blur_pool2d,
    max_blur_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
    spatial_pyramid_pool,
    spp,
    sppf,
)
from .dropouts import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    dropout_add,
    feature_alpha_dropout,
)
from .kinds import (
    gem_pool1d,
    gem_pool2d,
    gem_pool3d,
    log_sum_exp_pool1d,
    log_sum_exp_pool2d,
    log_sum_exp_pool3d,
    median_pool1d,
    median_pool2d,
    median_pool3d,
    mixed_pool1d,
    mixed_pool2d,
    mixed_pool3d,
    quantile_pool1d,
    quantile_pool2d,
    quantile_pool3d,
    rms_pool1d,
    rms_pool2d,
    rms_pool3d,
    soft_pool1d,
    soft_pool2d,
    soft_pool3d,
    stochastic_pool1d,
    stochastic_pool2d,
    stochastic_pool3d,
)
from .norms import (
    add_batch_norm,
    add_group_norm,
    add_instance_norm,
    add_layer_norm,
    add_rms_norm,
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    rms_norm,
)
from .windows import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool1d_with_indices,
    adaptive_max_pool2d,
    adaptive_max_pool2d_with_indices,
    adaptive_max_pool3d,
    adaptive_max_pool3d_with_indices,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool1d_with_indices,
    max_pool2d,
    max_pool2d_with_indices,
    max_pool3d,
    max_pool3d_with_indices,
    min_pool1d,
    min_pool2d,
    min_pool3d,
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
    "add_batch_norm",
    "add_group_norm",
    "add_instance_norm",
    "add_layer_norm",
    "add_rms_norm",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "blur_pool1d",
    "blur_pool2d",
    "blur_pool3d",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "feature_alpha_dropout",
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
    "gem_pool1d",
    "gem_pool2d",
    "gem_pool3d",
    "global_avg_max_pool",
    "global_avg_pool",
    "global_cat_avg_max_pool",
    "global_gem_pool",
    "global_max_pool",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "log_sum_exp_pool1d",
    "log_sum_exp_pool2d",
    "log_sum_exp_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_blur_pool1d",
    "max_blur_pool2d",
    "max_blur_pool3d",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "median_pool1d",
    "median_pool2d",
    "median_pool3d",
    "min_pool1d",
    "min_pool2d",
    "min_pool3d",
    "mixed_pool1d",
    "mixed_pool2d",
    "mixed_pool3d",
    "quantile_pool1d",
    "quantile_pool2d",
    "quantile_pool3d",
    "rms_norm",
    "rms_pool1d",
    "rms_pool2d",
    "rms_pool3d",
    "soft_pool1d",
    "soft_pool2d",
    "soft_pool3d",
    "spatial_pyramid_pool",
    "spp",
    "sppf",
    "stochastic_pool1d",
    "stochastic_pool2d",
    "stochastic_pool3d",
]

# Bound here, not looked up at every call: that takes half as long as a small ReLU does.
_others = [name for name in _standin.starred(_theirs) if name not in __all__]
globals().update({name: getattr(_theirs, name) for name in _others})
__all__ += _others
__getattr__, __dir__ = _standin.lookups(__name__, _theirs)

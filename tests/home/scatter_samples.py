"""Arguments for the operators of unpooling, fractional windows and maxima beside one another.

Float64 without ties, so that differences say what a derivative is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def _samples():
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        size = torch.Size(shape)
        order = torch.randperm(size.numel(), generator=generator)
        return (order.reshape(size) / size.numel()).double()

    def samples(*shape):
        return torch.rand(*shape, generator=generator).double()

    x = numbers(2, 3, 8, 10)
    last = x.to(memory_format=torch.channels_last)
    unpool, back = [], []
    for n, shape in ((1, (2, 3, 8)), (2, (3, 8, 10)), (2, (2, 3, 8, 10)), (3, (3, 4, 6, 8))):
        function = getattr(F, f"max_pool{n}d")
        values, indices = function(numbers(*shape), 2, return_indices=True)
        size = list(shape[-n:])
        unpool.append((values, indices, size))
        back.append((numbers(*shape), indices, size, values.stride()))
    values, indices = F.max_pool2d(last, 3, 1, return_indices=True)  # many of them collide
    unpool += [
        (values, indices, [8, 10]),
        (values, indices, [9, 12]),
        (values[:0], indices[:0], [8, 10]),
    ]
    back += [(last, indices, [8, 10], values.stride()), (x, indices, [8, 10], indices.stride())]
    deep = numbers(3, 5, 6, 7)
    fractional = [
        (x, (2, 3), (3, 4), samples(2, 3, 2)),
        (last, (3, 3), (5, 1), samples(2, 3, 2)),
        (x[0], (2, 2), (7, 9), samples(1, 3, 2)),
        (deep, (2, 3, 2), (3, 4, 3), samples(1, 3, 3)),
        (x[:0], (2, 2), (4, 5), samples(2, 3, 2)),
    ]
    return {
        "max_unpool": unpool,
        "max_unpool_backward": back,
        "fractional_max_pool": fractional,
        "fractional_max_pool_with_indices": fractional,
        "fractional_max_pool_with_offsets": fractional,
        "spp": [
            (x, [3, 5], False),
            (last, [5, 3], False),
            (last, [3, 5, 7], True),
            (x[:0], [3, 5], False),
        ],
    }


SAMPLES = _samples()

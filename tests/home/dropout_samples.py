"""Arguments for every operator of dropout."""

from __future__ import annotations

import torch

SEED, OTHER = torch.tensor(7), torch.tensor(-(2**62) - 5)


def _samples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 4, 6, generator=generator, dtype=torch.float64)
    last = x.to(memory_format=torch.channels_last)
    inputs = [
        (x, 0.3, SEED, 0),
        (last, 0.3, OTHER, 0),
        (x, 0.3, SEED, 2),
        (last, 0.3, SEED, 1),
        (x[:, ::2], 0.3, OTHER, 0),
        (x.transpose(0, 3), 0.3, OTHER, 0),
        (x.float(), 0.0, SEED, 0),
        (x.half(), 1.0, SEED, 2),
        (last.bfloat16(), 0.9, SEED, 0),
        (x[:0], 0.3, SEED, 2),
        (torch.tensor(2.0), 0.3, SEED, 0),
    ]
    gradients = [
        (x, 0.3, SEED, 0, x.stride()),
        (x, 0.3, SEED, 0, last.stride()),
        (last, 0.3, OTHER, 2, x.stride()),
        (x.bfloat16(), 0.9, SEED, 0, x.stride()),
        (x[:0], 0.3, SEED, 2, x.stride()),
    ]
    return {
        "dropout_mask": [(SEED, 0.3, 1000), (OTHER, 1.0, 1), (OTHER, 0.0, 128), (SEED, 0.5, 0)],
        "dropout": inputs,
        "dropout_backward": gradients,
        "alpha_dropout": inputs,
        "alpha_dropout_backward": gradients,
        "dropout_add": [
            (x, 2 * x, 0.3, SEED),
            (x, last, 0.3, SEED),
            (last, x, 0.3, OTHER),
            (x.bfloat16(), x.bfloat16(), 0.3, OTHER),
        ],
    }


SAMPLES = _samples()

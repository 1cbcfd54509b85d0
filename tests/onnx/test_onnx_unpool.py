"""Unpooling, of places that a maximum in the same model gives."""

from __future__ import annotations

import pytest
import torch
from onnx_models import check, export

import infinitypool.nn.functional as F

# The last sizes divide, or places of the input would not be places of the result.
SIZES = {1: ((8,), (14,)), 2: ((9, 8), (11, 6)), 3: ((7, 6, 4), (5, 4, 8))}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_unpooling(n):
    largest, unpool = (getattr(F, f"max_{word}{n}d") for word in ("pool", "unpool"))

    def by_default(x):
        return unpool(*largest(x, 2, return_indices=True), 2)

    def to_the_inputs_size(x):
        return unpool(*largest(x, 3, 2, 1, return_indices=True), 3, 2, 1, x.shape[2:])

    functions = {"by default": by_default, "to the input's size": to_the_inputs_size}
    x, y = (torch.randn(batch, 3, *sizes) for batch, sizes in enumerate(SIZES[n], 1))
    model = export(functions, x)
    assert check(model, functions, x) == check(model, functions, y) == 2

"""What ONNX cannot express is refused by the name of the operation."""

from __future__ import annotations

import pytest
import torch
from onnx_models import export

import infinitypool.nn.functional as F

REFUSED = {
    "stochastic_pool2d: ONNX cannot express a draw": lambda x: F.stochastic_pool2d(
        x, 2, training=True
    ),
    "max_pool2d: no export of dtype uint64": lambda x: F.max_pool2d(x.to(torch.uint64), 2),
}


def causes(error):
    while error is not None:
        yield str(error)
        error = error.__cause__


@pytest.mark.parametrize("message", REFUSED)
def test_refusals(message):
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as caught:
        export({"refused": REFUSED[message]}, torch.rand(2, 3, 8, 8))
    assert any(message in text for text in causes(caught.value))

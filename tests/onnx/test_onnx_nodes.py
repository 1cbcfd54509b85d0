"""What ONNX has an operator for is written as that operator, and the rest without detours."""

from __future__ import annotations

from collections import Counter

import torch
from onnx_models import check, export, nodes

import infinitypool.nn.functional as F
from infinitypool import nn

X = torch.rand(2, 4, 8, 9)
Y = torch.rand(3, 4, 8, 9)
W = torch.rand(4)

# The call, and the nodes of its first result.
NODES = {
    "max": (nn.MaxPool2d(3, 2, 1), "MaxPool"),
    "max, dilated": (nn.MaxPool2d(2, dilation=2, ceil_mode=True), "MaxPool"),
    "max, pairs": (nn.MaxPool2d(3, 2, [(1, 2), (0, 1)]), "Pad MaxPool"),
    "max, values": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "MaxPool"),
    "max, places": (
        lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
        "MaxPool MaxPool Slice Sub",
    ),
    "min": (nn.MinPool2d(2), "Neg MaxPool Neg"),
    "avg": (nn.AvgPool2d(3, 2, 1), "AveragePool"),
    "avg, uncounted": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "AveragePool"),
    "avg, ceil": (nn.AvgPool2d(3, 2, ceil_mode=True), "AveragePool"),
    "avg, pairs": (nn.AvgPool2d(3, 2, [(1, 2), (0, 1)]), "Pad AveragePool"),
    "adaptive avg": (nn.AdaptiveAvgPool2d(1), "ReduceMean"),
    "adaptive max": (nn.AdaptiveMaxPool2d(1), "Reshape ReduceMax Unsqueeze"),
    "global avg": (nn.GlobalAvgPool(), "ReduceMean"),
    "lp": (nn.LPPool2d(2, 2), "Pow AveragePool Mul Abs Sqrt"),
    "rms": (nn.RMSPool2d(2), "Pow AveragePool Abs Sqrt"),
    "gem": (lambda x: F.gem_pool2d(x, 2, p=4.0), "Clip Pow AveragePool Abs Pow"),
    "mixed": (nn.MixedPool2d(2), "MaxPool AveragePool Mul Mul Add"),
    "sppf": (lambda x: F.sppf(x, 3, 2), "MaxPool MaxPool Concat"),
    "batch norm": (nn.BatchNorm2d(4), "BatchNormalization"),
    "batch norm, relu": (
        lambda x: F.batch_norm(x, W, W, W, W, activation="relu"),
        "BatchNormalization Relu",
    ),
    "add, batch norm": (
        lambda x: F.add_batch_norm(x, x, W, W, W, W)[0],
        "Add BatchNormalization",
    ),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), "InstanceNormalization"),
    "layer norm": (nn.LayerNorm(9), "LayerNormalization"),
    "layer norm, gelu": (
        lambda x: F.layer_norm(x, (9,), activation="gelu"),
        "LayerNormalization Gelu",
    ),
    "rms norm": (nn.RMSNorm(9), "Pow ReduceMean Add Sqrt Reciprocal Mul Mul"),
    "group norm": (
        nn.GroupNorm(2, 4),
        "Reshape InstanceNormalization Shape Reshape Mul Add",
    ),
    "dropout": (nn.Dropout(), ""),
    "dropout of channels": (nn.Dropout2d(), ""),
    "alpha dropout": (nn.AlphaDropout(), ""),
}

FIXED = {
    "a size that divides": (nn.AdaptiveAvgPool2d(4), "AveragePool"),
    "its own size": (nn.AdaptiveAvgPool2d((8, 8)), "AveragePool"),
    "a maximum": (nn.AdaptiveMaxPool2d((2, 4)), "MaxPool"),
}


def assert_nodes(table, x, **options):
    functions = {name: function for name, (function, _) in table.items()}
    model = export(functions, x, **options)
    found = dict(zip(functions, nodes(model), strict=True))
    for name, (_, wanted) in table.items():
        # What passes its input on is left out.
        assert sorted((found[name] - Counter(Identity=9)).elements()) == sorted(wanted.split()), (
            name
        )
    return functions, model


def test_nodes():
    functions, model = assert_nodes(NODES, X, fixed=(1, 2, 3))
    check(model, functions, Y, atol=1e-5)


def test_fixed_sizes_that_divide_are_ordinary_windows():
    x = torch.rand(2, 3, 8, 8)
    functions, model = assert_nodes(FIXED, x, fixed=(1, 2, 3))
    check(model, functions, x)

"""ONNX's operators by our array functions: how a node's attributes read in our arguments.

``RULES`` has a row for each operator: a function of the node and its inputs that gives the node's
outputs. ``take_apart`` reads a node out of a model of one; ``cases`` lists those with the results
that the ``onnx`` package makes; ``model`` and ``runtime`` make and run further ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, helper
from onnx.backend.test.loader import load_model_tests

import infinitypool as ip
import infinitypool.nn.functional as F

EPS = float(np.finfo(np.float32).eps)


class Node(NamedTuple):
    """One node: its attributes, its opset, and how many outputs are asked of it."""

    operator: str
    attributes: dict[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)


class Case(NamedTuple):
    name: str
    node: Node
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    model: ModelProto


def take_apart(model: ModelProto) -> Node:
    (node,) = model.graph.node
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    (opset,) = (o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return Node(node.op_type, attributes, opset, len(node.output))


@cache
def cases() -> tuple[list[Case], list[str]]:
    """The cases of one node whose operator has a rule; and the names of those that spell one of
    these out in nodes of other operators."""
    single, expanded = [], []
    names = set()
    with warnings.catch_warnings():  # some cases of other operators divide by zero
        warnings.simplefilter("ignore")
        made = load_model_tests(kind="node")
    for test in made:
        if len(test.model.graph.node) == 1 and test.model.graph.node[0].op_type in RULES:
            ((inputs, outputs),) = test.data_sets
            single.append(Case(test.name, take_apart(test.model), inputs, outputs, test.model))
            names.add(test.name)
        elif test.name.split("_expanded")[0] in names:
            expanded.append(test.name)
    return single, expanded


def model(operator: str, inputs: list[np.ndarray], opset: int = 22, outputs: int = 1, **attributes):
    """A model of one node, for inputs of these shapes and dtypes."""
    types = [helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs]
    given = [
        helper.make_tensor_value_info(f"in{i}", t, x.shape)
        for i, (t, x) in enumerate(zip(types, inputs, strict=True))
    ]
    kinds = [types[0], TensorProto.INT64 if operator == "MaxPool" else types[0], types[0]]
    made = [helper.make_tensor_value_info(f"out{i}", kinds[i], None) for i in range(outputs)]
    node = helper.make_node(operator, [i.name for i in given], [o.name for o in made], **attributes)
    graph = helper.make_graph([node], operator, given, made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def runtime(made: ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime gives for a :func:`model`. Its refusals are exceptions of its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {f"in{i}": x for i, x in enumerate(inputs)})


def ours(made: ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """What the array functions give for a :func:`model`."""
    node = take_apart(made)
    return RULES[node.operator](node, *inputs)


# --- windows -------------------------------------------------------------------------------


def window(node: Node, shape: tuple[int, ...]) -> dict[str, Any]:
    """The arguments of a window function for a node with windows, on an input of this shape."""
    kernel = tuple(node.attributes["kernel_shape"])
    n = len(kernel)
    stride = tuple(node.get("strides", [1] * n))
    dilation = tuple(node.get("dilations", [1] * n))
    pads = node.get("pads", [0] * 2 * n)
    auto = node.get("auto_pad", b"NOTSET").decode()
    padding: Any = tuple(zip(pads[:n], pads[n:], strict=True))
    if auto == "VALID":
        padding = "valid"
    elif auto == "SAME_UPPER" and not node.get("count_include_pad", 0):
        padding = "same"
    elif auto != "NOTSET":
        padding = tuple(map(_same(auto), shape[2:], kernel, stride, dilation))
    return {
        "kernel_size": kernel,
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "ceil_mode": bool(node.get("ceil_mode", 0)),
    }


def _same(auto: str) -> Callable[..., tuple[int, int]]:
    """Pairs that say SAME: our "same" has the odd element behind, and never counts in a mean."""

    def pair(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
        out = -(-size // stride)
        total = max((out - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if auto == "SAME_UPPER" else (more, less)

    return pair


def max_pool(node: Node, x: np.ndarray) -> list[np.ndarray]:
    arguments = window(node, x.shape)
    if node.outputs == 1:
        return [ip.max_pool(x, **arguments)]
    values, places = ip.max_pool(x, **arguments, return_indices=True, indices="batch")
    if node.get("storage_order", 0):
        places = column_major(places, x.shape)
    return [values, places]


def column_major(places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Places in the whole array, with the first pooled axis counting fastest in each plane."""
    sample, channel, *plane = np.unravel_index(places, shape)
    swapped = shape[:2] + shape[:1:-1]
    return np.ravel_multi_index((sample, channel, *plane[::-1]), swapped).astype(np.int64)


def average_pool(node: Node, x: np.ndarray) -> list[np.ndarray]:
    include = bool(node.get("count_include_pad", 0))
    return [ip.avg_pool(x, **window(node, x.shape), count_include_pad=include)]


def lp_pool(node: Node, x: np.ndarray) -> list[np.ndarray]:
    # ONNX adds powers of absolute values, PyTorch and we those of the elements.
    return [ip.lp_pool(np.abs(x), **window(node, x.shape), p=node.get("p", 2))]


def over_all(function: Callable[..., Any]) -> Callable[..., list[np.ndarray]]:
    def run(node: Node, x: np.ndarray) -> list[np.ndarray]:
        own = {"p": node.get("p", 2)} if node.operator == "GlobalLpPool" else {}
        x = np.abs(x) if own else x
        return [function(x, 1, axes=tuple(range(2, x.ndim)), **own)]

    return run


def max_unpool(
    node: Node, x: np.ndarray, places: np.ndarray, shape: np.ndarray | None = None
) -> list[np.ndarray]:
    arguments = window(node, x.shape)
    del arguments["dilation"], arguments["ceil_mode"]
    # Places count in the whole array that the window's arguments make, and a larger
    # `output_shape` only adds zeros behind it: PyTorch's count in the plane of `output_size`.
    padding = arguments.pop("padding")
    sizes = [
        (n - 1) * s + k - sum(pair)
        for n, s, k, pair in zip(
            x.shape[2:], arguments["stride"], arguments["kernel_size"], padding, strict=True
        )
    ]
    plane = int(np.prod(sizes))
    result = ip.max_unpool(x, places % plane, **arguments, output_size=sizes)
    if shape is not None:
        grown = np.zeros(tuple(shape), x.dtype)
        grown[tuple(map(slice, result.shape))] = result
        result = grown
    return [result]


def local_response(node: Node, x: np.ndarray) -> list[np.ndarray]:
    size = node.attributes["size"]
    around = ((size - 1) // 2, size // 2)
    squares = ip.sum_pool(x * x, (size,), stride=1, padding=(around,), axes=(1,))
    scale = np.float32(node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * squares)
    return [x / scale ** np.float32(node.get("beta", 0.75))]


# --- norms ---------------------------------------------------------------------------------


def mean_and_variance(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    mean = ip.adaptive_avg_pool(x, 1, axes=axes)
    return mean, ip.adaptive_avg_pool((x - mean) ** 2, 1, axes=axes)


def layer_norm(
    node: Node, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> list[np.ndarray]:
    first = node.get("axis", -1) % x.ndim
    axes, eps = tuple(range(first, x.ndim)), node.get("epsilon", 1e-5)
    result = [ip.layer_norm(x, axes, weight, bias, eps)]
    if node.outputs > 1:
        mean, variance = mean_and_variance(x, axes)
        result += [mean, 1 / np.sqrt(variance + np.float32(eps))]
    return result[: node.outputs]


def rms_norm(node: Node, x: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    first = node.get("axis", -1) % x.ndim
    return [ip.rms_norm(x, tuple(range(first, x.ndim)), weight, node.get("epsilon", 1e-5))]


def batch_norm(
    node: Node,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> list[np.ndarray]:
    eps = node.get("epsilon", 1e-5)
    if not node.get("training_mode", 0):
        return [ip.batch_norm(x, mean, variance, weight, bias, eps)]
    # ONNX's momentum is the weight of the old statistics, and its new variance is that which
    # normalises, divided by the count and not by one less.
    old = np.float32(node.get("momentum", 0.9))
    batch = mean_and_variance(x, (0, *range(2, x.ndim)))
    running = [
        before * old + now.reshape(-1) * (1 - old)
        for before, now in zip((mean, variance), batch, strict=True)
    ]
    return [ip.batch_norm(x, weight=weight, bias=bias, eps=eps), *running]


def group_norm(node: Node, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    groups = node.attributes["num_groups"]
    if node.opset < 21:  # one scale and bias for each group
        weight, bias = (np.repeat(p, x.shape[1] // groups) for p in (weight, bias))
    return [ip.group_norm(x, groups, weight, bias, node.get("epsilon", 1e-5))]


def instance_norm(
    node: Node, x: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> list[np.ndarray]:
    return [ip.instance_norm(x, weight, bias, node.get("epsilon", 1e-5))]


def mean_variance(node: Node, x: np.ndarray) -> list[np.ndarray]:
    # The standard deviation gets 1e-9 there, the variance its root's square at most here.
    return [ip.layer_norm(x, tuple(node.get("axes", [0, 2, 3])), eps=1e-18)]


# --- dropout -------------------------------------------------------------------------------


def dropout(
    node: Node, x: np.ndarray, ratio: np.ndarray | None = None, training: np.ndarray | None = None
) -> list[np.ndarray]:
    p = node.get("ratio", 0.5) if ratio is None else float(ratio)
    random = bool(training) and node.opset >= 12
    result = F.dropout(torch.from_numpy(x), p, random).numpy()
    return [result, (result != 0) | (x == 0)][: node.outputs]


RULES: dict[str, Callable[..., list[np.ndarray]]] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalMaxPool": over_all(ip.adaptive_max_pool),
    "GlobalAveragePool": over_all(ip.adaptive_avg_pool),
    "GlobalLpPool": over_all(ip.adaptive_lp_pool),
    "MaxUnpool": max_unpool,
    "LRN": local_response,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "BatchNormalization": batch_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "MeanVarianceNormalization": mean_variance,
    "Dropout": dropout,
}

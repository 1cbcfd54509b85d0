"""Functions exported to ONNX, several in one model, since an export takes a second or more."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

logging.getLogger("torch.onnx").setLevel(logging.ERROR)
DYNAMIC = torch.export.Dim.DYNAMIC


class Calls(torch.nn.Module):
    """Named functions of the same inputs. Modules among them are submodules of this one."""

    def __init__(self, functions: dict[str, Any]) -> None:
        super().__init__()
        self.functions = functions
        for i, function in enumerate(functions.values()):
            if isinstance(function, torch.nn.Module):
                self.add_module(str(i), function)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        results = []
        for function in self.functions.values():
            found = function(*inputs)
            results += found if isinstance(found, (tuple, list)) else [found]
        return results


def export(functions: dict[str, Any], *inputs: Tensor, fixed: tuple[int, ...] = (1,), **options):
    """A model in ONNX, of inputs whose sizes are all dynamic but those of the ``fixed`` axes."""
    model = Calls(functions).eval()
    shapes = [{i: DYNAMIC for i in range(x.ndim) if i not in fixed} for x in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, inputs, dynamo=True, dynamic_shapes=(tuple(shapes),), verbose=False, **options
        )
    return program.model_proto


def run(model: onnx.ModelProto, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    arrays = [x.numpy() for x in inputs]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def check(
    model: onnx.ModelProto,
    functions: dict[str, Any],
    *inputs: Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> int:
    """Compare what ONNX Runtime computes with what we compute, and count it."""
    assert {entry.domain for entry in model.opset_import} == {""}
    assert model.opset_import[0].version >= 18
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    found = iter(run(model, *inputs))
    count = 0
    for name, function in functions.items():
        with torch.no_grad():
            results = function(*inputs)
        for wanted in results if isinstance(results, (tuple, list)) else [results]:
            got, numbers = next(found), wanted.numpy()
            assert (got.dtype, got.shape) == (numbers.dtype, numbers.shape), name
            np.testing.assert_allclose(got, numbers, rtol, atol, err_msg=name)
            count += 1
    assert next(found, None) is None
    return count


def nodes(model: onnx.ModelProto) -> list[Counter[str]]:
    """The types of the nodes that each of the model's results is made by."""
    makers = {name: node for node in model.graph.node for name in node.output}
    counts = []
    for result in model.graph.output:
        waiting, seen = [result.name], {}
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and node.output[0] not in seen:
                seen[node.output[0]] = node.op_type
                waiting += node.input
        counts.append(Counter(seen.values()))
    return counts

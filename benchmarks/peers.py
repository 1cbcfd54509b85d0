"""The libraries that take part, each as an adapter from a case to calls.

An adapter answers one question: how would a good user of this library compute this case? It
returns a :class:`~benchmarks.timing.Contender`, or raises :class:`NotApplicable` with the reason;
a library that is not installed raises ImportError by itself. Adapters get inputs in the case's
own memory layout and may prepare anything outside the clock (models, compiled functions, output
buffers that the library manages), but not move the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from math import comb, prod
from typing import Any

import numpy as np

from benchmarks.cases import DRAWING, NORMALISING, POINTWISE, Case
from benchmarks.timing import Contender, Data

__all__ = ["OURS", "PEERS", "SLOW", "NotApplicable", "limit_threads", "ours", "recording"]

OURS = "infinitypool"


class NotApplicable(Exception):
    """Why a library does not take part in a case."""


def _only(holds: bool, reason: str) -> None:
    if not holds:
        raise NotApplicable(reason)


# --- infinitypool ---------------------------------------------------------------------------


def ours(case: Case, data: Data) -> Contender:
    """Infinitypool through the front that the case names."""
    if case.front == "array":
        return (_array_norm if case.op in NORMALISING else _array_front)(case, data)
    return _torch_style(OURS, case, data)


def _array_front(case: Case, data: Data) -> Contender:
    import infinitypool as ip

    pool = getattr(ip, f"{case.op}_pool")
    first = 1 if case.layout == "channels_last" else 2
    arguments: dict[str, Any] = {
        "stride": case.stride,
        "padding": case.padding,
        "axes": tuple(range(first, first + case.dims)),
        **dict(case.options),
    }
    arrays, kernel = data.arrays, case.kernel

    def to_numpy(result: np.ndarray) -> np.ndarray:
        return np.moveaxis(result, -1, 1) if case.layout == "channels_last" else result

    if case.result == "out":
        shape = ip.output_shape(
            arrays[0].shape,
            kernel,
            stride=case.stride,
            padding=case.padding,
            axes=arguments["axes"],
        )
        outs = [np.zeros(shape, arrays[0].dtype) for _ in range(min(len(data), 4))]
        return Contender(
            OURS, lambda i: pool(arrays[i], kernel, out=outs[i % len(outs)], **arguments), to_numpy
        )
    return Contender(OURS, lambda i: pool(arrays[i], kernel, **arguments), to_numpy)


def _array_norm(case: Case, data: Data) -> Contender:
    import infinitypool as ip

    norm, last = getattr(ip, case.op), case.layout == "channels_last"
    keywords: dict[str, Any] = {**parameters(case), **dict(case.options)}
    keywords.pop("training", None)  # a mean and a variance are given, or not
    keywords = {name.removeprefix("running_"): value for name, value in keywords.items()}
    if "axes" in keywords:
        keywords["axes"] = tuple(range(-keywords["axes"], 0))
    else:
        keywords["channel_axis"] = -1 if last else 1

    def to_numpy(result: np.ndarray) -> np.ndarray:
        return np.moveaxis(result, -1, 1) if last else result

    arrays = data.arrays
    if case.result == "out":
        outs = [np.zeros_like(arrays[0]) for _ in range(min(len(data), 4))]
        return Contender(
            OURS, lambda i: norm(arrays[i], out=outs[i % len(outs)], **keywords), to_numpy
        )
    return Contender(OURS, lambda i: norm(arrays[i], **keywords), to_numpy)


def threads_of_ours(case: Case, data: Data, threads: int) -> Contender:
    """Infinitypool on so many threads."""
    import infinitypool as ip

    contender = ours(case, data)
    contender.name = f"{OURS}, {threads} thread{'s' if threads > 1 else ''}"
    contender.before = lambda: ip.set_num_threads(threads)
    return contender


# --- PyTorch and what speaks its functional interface ------------------------------------------


def _tensor_to_numpy(result: Any) -> Any:
    if isinstance(result, (tuple, list)):
        return tuple(_tensor_to_numpy(part) for part in result)
    result = result.detach()
    return (result.float() if result.dtype.is_floating_point else result).numpy()


Call = Callable[..., Any]  # of a tensor


def _named(name: str, *arguments: str | float, **more: Any) -> Callable[[Any, Case], Call]:
    """``functional.<name><n>d(x, *arguments, **more)``; strings are fields of the case."""

    def build(functional: Any, case: Case) -> Call:
        suffix = "_with_indices" if case.measure == "indices" else ""
        function = getattr(functional, f"{name}{case.dims}d{suffix}")
        values = [getattr(case, a) if isinstance(a, str) else a for a in arguments]
        keywords = {**dict(case.options), **more}
        return lambda x: function(x, *values, **keywords)

    return build


def places(case: Case) -> np.ndarray:
    """Indices for unpooling: one somewhere in each window, (N, C, ...) in the case's layout."""
    random = np.random.default_rng(21)
    shape = (case.shape[0], *case.shape[2:], case.shape[1])
    places = np.zeros(shape if case.layout == "channels_last" else case.shape, np.int64)
    logical = np.moveaxis(places, -1, 1) if case.layout == "channels_last" else places
    for axis, size in enumerate(case.output_shape[2:], 2):
        starts = np.arange(case.shape[axis]) * case.stride
        within = random.integers(0, case.kernel, case.shape, dtype=np.int8)
        logical *= size
        logical += starts.reshape(-1, *[1] * (len(case.shape) - axis - 1)) + within
    return logical


def _max_unpool(functional: Any, case: Case) -> Call:
    import torch

    indices = torch.from_numpy(places(case))
    function = getattr(functional, f"max_unpool{case.dims}d")
    return lambda x: function(x, indices, case.kernel, case.stride, case.padding)


def _fractional_max(functional: Any, case: Case) -> Call:
    import torch

    samples = torch.rand((*case.shape[:2], case.dims), generator=torch.Generator().manual_seed(22))
    ratio = (dict(case.options)["output_ratio"],) * case.dims  # PyTorch trips over a bare float
    return _named("fractional_max_pool", "kernel", output_ratio=ratio, _random_samples=samples)(
        functional, case
    )


def _gem_module(_: Any, case: Case) -> Call:
    from infinitypool import nn

    return nn.GeM().requires_grad_(False)  # over whole planes


SPP = (5, 9, 13)


def parameters(case: Case) -> dict[str, np.ndarray]:
    """A norm's weight and bias, and the statistics that a batch norm is given; float32."""
    if case.affine is None:
        return {}
    random = np.random.default_rng(23)
    values = random.standard_normal((4, *case.affine), dtype=np.float32)
    values[::3] = 0.5 + abs(values[::3])  # the weight and the variance
    named = dict(zip(("weight", "bias", "running_mean", "running_var"), values, strict=True))
    wanted = set(named) if case.op == "batch_norm" else {"weight", "bias"}
    wanted -= {"bias"} if case.op == "rms_norm" else set()
    return {name: value for name, value in named.items() if name in wanted}


def residual(case: Case) -> np.ndarray:
    """What is added to a float32 tensor (N, C, ...)."""
    return np.random.default_rng(24).standard_normal(case.shape, dtype=np.float32)


# operation -> what its function takes behind the input, in PyTorch's order
ARGUMENTS = {
    "batch_norm": ("running_mean", "running_var", "weight", "bias", "training"),
    "instance_norm": ("running_mean", "running_var", "weight", "bias"),
    "group_norm": ("num_groups", "weight", "bias"),
    "layer_norm": ("normalized_shape", "weight", "bias"),
    "rms_norm": ("normalized_shape", "weight"),
    "add_layer_norm": ("residual", "normalized_shape", "weight", "bias"),
    "dropout": ("p",),
    "dropout2d": ("p",),
    "dropout_add": ("residual", "p"),
}


def _pointwise(functional: Any, case: Case) -> Call:
    """Norms and dropout. The call's ``leaves`` are what else gets a gradient."""
    import torch

    function, options = getattr(functional, case.op), dict(case.options)
    tensors = {
        name: torch.from_numpy(value).to(getattr(torch, case.dtype))
        for name, value in parameters(case).items()
    }
    wanted = case.graph or case.measure in ("backward", "step", "saved")
    leaves = [tensors[name] for name in ("weight", "bias") if wanted and name in tensors]
    for leaf in leaves:
        leaf.requires_grad_()
    given = {**options, **tensors, "normalized_shape": case.affine}
    if "residual" in ARGUMENTS[case.op]:
        given["residual"] = torch.from_numpy(residual(case))
    values = [given.get(name) for name in ARGUMENTS[case.op]]
    more = {name: options[name] for name in ("activation",) if name in options}

    def call(x: Any) -> Any:
        return function(x, *values, **more)

    call.leaves = leaves
    return call


# operation -> its module, and what that is made of
MODULES: dict[str, tuple[str, Callable[[Case], tuple]]] = {
    "batch_norm": ("BatchNorm2d", lambda case: case.affine),
    "instance_norm": ("InstanceNorm2d", lambda case: (*case.affine, 1e-5, 0.1, True)),
    "group_norm": ("GroupNorm", lambda case: (dict(case.options)["num_groups"], *case.affine)),
    "layer_norm": ("LayerNorm", lambda case: (case.affine,)),
    "rms_norm": ("RMSNorm", lambda case: (case.affine,)),
    "dropout": ("Dropout", lambda case: (dict(case.options)["p"],)),
    "dropout2d": ("Dropout2d", lambda case: (dict(case.options)["p"],)),
}


def _module(nn: Any, case: Case) -> Call:
    name, arguments = MODULES[case.op]
    return getattr(nn, name)(*arguments(case)).train(case.op in DRAWING or case.trains)


# operation -> how it is called in PyTorch's own interface or one with the same functions
TORCH_STYLE: dict[str, Callable[[Any, Case], Call]] = {
    "max": _named("max_pool", "kernel", "stride", "padding"),
    "avg": _named("avg_pool", "kernel", "stride", "padding"),
    "adaptive_max": _named("adaptive_max_pool", "size"),
    "adaptive_avg": _named("adaptive_avg_pool", "size"),
    "max_unpool": _max_unpool,
    "lp": _named("lp_pool", 2.0, "kernel", "stride"),
    "fractional_max": _fractional_max,
    "soft": _named("soft_pool", "kernel", "stride"),
    "log_sum_exp": _named("log_sum_exp_pool", "kernel", "stride"),
    "stochastic": _named("stochastic_pool", "kernel", "stride"),
    "blur": _named("blur_pool", "kernel", "stride"),
    "gem": _gem_module,
    "spp": lambda functional, _: partial(functional.spp, kernel_sizes=SPP),
    "sppf": lambda functional, _: partial(functional.sppf, kernel_size=SPP[0], repeats=3),
    **dict.fromkeys(POINTWISE, _pointwise),
}


# What PyTorch has no function for, as its users write it down. Each takes (torch.nn.functional,
# the case) and gives a call of a tensor.


def _spp(functional: Any, _: Case) -> Call:
    import torch

    def block(x: Any) -> Any:
        pools = [functional.max_pool2d(x, k, 1, k // 2) for k in SPP]
        return torch.cat([x, *pools], 1)

    return block


def _sppf(functional: Any, _: Case) -> Call:
    import torch

    def block(x: Any) -> Any:
        parts = [x]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], SPP[0], 1, SPP[0] // 2))
        return torch.cat(parts, 1)

    return block


def _soft(functional: Any, case: Case) -> Call:
    def pool(x: Any) -> Any:
        weights = x.exp()
        total = functional.avg_pool2d(weights, case.kernel, case.stride)
        return functional.avg_pool2d(weights * x, case.kernel, case.stride) / total

    return pool


def _log_sum_exp(functional: Any, case: Case) -> Call:
    window = (case.kernel, case.stride)
    return lambda x: functional.avg_pool2d(x.exp(), *window, divisor_override=1).log()


def _gem(functional: Any, _: Case) -> Call:
    return lambda x: functional.adaptive_avg_pool2d(x.clamp(min=1e-6).pow(3), 1).pow(1 / 3)


def _blur(functional: Any, case: Case) -> Call:
    import torch

    channels, k = case.shape[1], case.kernel
    row = torch.tensor([float(comb(k - 1, i)) for i in range(k)]) / 2 ** (k - 1)
    weights = torch.outer(row, row).expand(channels, 1, k, k).contiguous()

    def pool(x: Any) -> Any:
        wide = functional.pad(x, [k // 2] * 4, mode="reflect")
        return functional.conv2d(wide, weights, stride=case.stride, groups=channels)

    return pool


def _expectation(functional: Any, case: Case) -> Call:
    import torch

    def pool(x: Any) -> Any:
        weights = x.relu()
        total = functional.avg_pool2d(weights, case.kernel, case.stride)
        mean = functional.avg_pool2d(x, case.kernel, case.stride)  # where no weight is left
        result = functional.avg_pool2d(weights * x, case.kernel, case.stride) / total
        return torch.where(total > 0, result, mean)

    return pool


def _norm_and_activation(functional: Any, case: Case) -> Call:
    options = dict(case.options)
    activation = options.pop("activation", None)
    norm = _pointwise(functional, replace(case, options=tuple(options.items())))
    if activation is None:
        return norm
    activate = getattr(functional, activation)
    return lambda x: activate(norm(x))


def _add_layer_norm(functional: Any, case: Case) -> Call:
    import torch

    norm = _pointwise(functional, replace(case, op="layer_norm"))
    other = torch.from_numpy(residual(case))

    def block(x: Any) -> Any:
        total = x + other
        return norm(total), total

    return block


def _dropout_add(functional: Any, case: Case) -> Call:
    import torch

    dropout = _pointwise(functional, replace(case, op="dropout"))
    other = torch.from_numpy(residual(case))
    return lambda x: dropout(x) + other


BY_HAND: dict[str, Callable[[Any, Case], Call]] = {
    "spp": _spp,
    "sppf": _sppf,
    "soft": _soft,
    "log_sum_exp": _log_sum_exp,
    "gem": _gem,
    "blur": _blur,
    "stochastic": _expectation,
    **dict.fromkeys(("batch_norm", "group_norm", "layer_norm"), _norm_and_activation),
    "add_layer_norm": _add_layer_norm,
    "dropout_add": _dropout_add,
}


def _call_of(name: str, case: Case) -> Call:
    """The case as a call of a tensor; ``name`` is infinitypool's or PyTorch's."""
    if name == OURS:
        from infinitypool import nn
    else:
        from torch import nn
    if case.front == "module":
        return _module(nn, case)
    by_hand = BY_HAND.get(case.op) if name != OURS else None
    return (by_hand or TORCH_STYLE[case.op])(nn.functional, case)


def _torch_style(name: str, case: Case, data: Data) -> Contender:
    """Calls of tensors."""
    call = _call_of(name, case)
    tensors = [data.tensor(i) for i in range(len(data))]
    if case.measure not in ("backward", "step"):
        if case.graph:
            tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        return Contender(name, lambda i: call(tensors[i]), _tensor_to_numpy)
    import torch

    # Each graph holds an input, an output and a gradient, so that fewer are above any cache.
    graphs = []
    for tensor in tensors[: max(2, len(tensors) // 3)]:
        leaf = tensor.detach().requires_grad_()
        result = call(leaf)
        # a pattern, the same whatever the result's memory format, exact in every float type
        pattern = torch.arange(result.numel(), dtype=torch.int32).remainder_(251).sub_(125)
        gradient = torch.empty_like(result).copy_(pattern.view(result.shape)).div_(64)
        leaves = [leaf, *getattr(call, "leaves", ())]
        graphs.append((result if case.measure == "backward" else None, leaves, gradient))

    def backward(index: int) -> Any:
        result, leaves, gradient = graphs[index % len(graphs)]
        if result is None:
            return torch.autograd.grad(call(leaves[0]), leaves, gradient)
        gradients = torch.autograd.grad(result, leaves, gradient, retain_graph=True)
        return gradients if len(leaves) > 1 else gradients[0]

    return Contender(name, backward, _tensor_to_numpy)


def recording(case: Case) -> AbstractContextManager:
    """In what a small call of tensors is to be timed: with gradients, without, or as it comes."""
    if case.graph is None:
        return nullcontext()
    import torch

    return torch.set_grad_enabled(case.graph)


def _pytorch(case: Case, data: Data) -> Contender:
    return _torch_style("PyTorch", case, data)


def _torch_compile(case: Case, data: Data) -> Contender:
    import torch
    from torch._inductor import config

    _only(case.measure == "forward" and case.dims in (0, 2), "measured for 2-D forward")
    config.compile_threads = 1  # workers would start while the first row is measured
    pool = _call_of("PyTorch", case)
    torch._dynamo.reset()  # it falls back to eager, silently, after a few compilations
    compiled = torch.compile(lambda x: pool(x), dynamic=False, fullgraph=True)
    tensors = [data.tensor(i) for i in range(len(data))]
    with torch.no_grad():
        compiled(tensors[0])

    def call(index: int) -> Any:
        with torch.no_grad():
            return compiled(tensors[index])

    return Contender("torch.compile", call, _tensor_to_numpy)


# --- graph runtimes ---------------------------------------------------------------------------

_threads = 2  # set once by limit_threads

Node = tuple[str, list[str], list[str], dict[str, Any]]  # operation, inputs, results, attributes


def _onnx_window(case: Case, kernel: Sequence[int], stride: Sequence[int], pad: int) -> dict:
    return {"kernel_shape": kernel, "strides": stride, "pads": [pad] * (2 * case.dims)}


def _onnx_pool(name: str, **attributes: Any) -> Callable[[Case], list[Node]]:
    """One node over the case's window."""

    def build(case: Case) -> list[Node]:
        window = _onnx_window(
            case, [case.kernel] * case.dims, [case.stride] * case.dims, case.padding
        )
        inputs = ["x", "indices"] if name == "MaxUnpool" else ["x"]
        return [(name, inputs, ["y"], {**window, **attributes})]

    return build


def _onnx_adaptive(name: str) -> Callable[[Case], list[Node]]:
    """What exporters make of it: global, or a regular window where the sizes divide."""

    def build(case: Case) -> list[Node]:
        if case.size == 1:
            return [(f"Global{name}", ["x"], ["y"], {})]
        _only(all(n % case.size == 0 for n in case.shape[2:]), "adaptive sizes that divide only")
        window = [n // case.size for n in case.shape[2:]]
        return [(name, ["x"], ["y"], _onnx_window(case, window, window, 0))]

    return build


def _onnx_block(chained: bool) -> Callable[[Case], list[Node]]:
    def build(case: Case) -> list[Node]:
        parts, nodes = ["x"], []
        for k in SPP:
            source, k = (parts[-1], SPP[0]) if chained else ("x", k)
            window = _onnx_window(case, [k] * case.dims, [1] * case.dims, k // 2)
            parts.append(f"part{len(parts)}")
            nodes.append(("MaxPool", [source], [parts[-1]], window))
        return [*nodes, ("Concat", parts, ["y"], {"axis": 1})]

    return build


ONNX_ACTIVATIONS: dict[str | None, list[Node]] = {
    None: [],
    "relu": [("Relu", ["normalised"], ["y"], {})],
    "gelu": [("Gelu", ["normalised"], ["y"], {})],
    "silu": [
        ("Sigmoid", ["normalised"], ["gate"], {}),
        ("Mul", ["normalised", "gate"], ["y"], {}),
    ],
}


def _onnx_norm(name: str, *inputs: str, **attributes: Any) -> Callable[[Case], list[Node]]:
    """The norm, of a sum where the operation begins with one, and its activation."""

    def build(case: Case) -> list[Node]:
        more, options = dict(attributes), dict(case.options)
        if "axes" in options:
            more["axis"] = -options["axes"]
        if "num_groups" in options:
            more["num_groups"] = options["num_groups"]
        activation = ONNX_ACTIVATIONS[options.get("activation")]
        results = ["normalised" if activation else "y"]
        if case.trains:
            more["training_mode"] = 1
            results += ["moved_mean", "moved_var"]
        adds = case.op.startswith("add_")
        first = [("Add", ["x", "residual"], ["total"], {})] if adds else []
        source = "total" if adds else "x"
        return [*first, (name, [source, *inputs], results, more), *activation]

    return build


def _onnx_dropout(case: Case) -> list[Node]:
    adds = case.op == "dropout_add"
    dropout = ("Dropout", ["x", "p", "training"], ["dropped" if adds else "y"], {})
    return [dropout, *([("Add", ["dropped", "residual"], ["y"], {})] if adds else [])]


ONNX: dict[str, Callable[[Case], list[Node]]] = {
    "max": _onnx_pool("MaxPool"),
    "avg": _onnx_pool("AveragePool", count_include_pad=1),
    "lp": _onnx_pool("LpPool", p=2),
    "max_unpool": _onnx_pool("MaxUnpool"),
    "adaptive_max": _onnx_adaptive("MaxPool"),
    "adaptive_avg": _onnx_adaptive("AveragePool"),
    "spp": _onnx_block(chained=False),
    "sppf": _onnx_block(chained=True),
    "batch_norm": _onnx_norm("BatchNormalization", "weight", "bias", "running_mean", "running_var"),
    "instance_norm": _onnx_norm("InstanceNormalization", "weight", "bias"),
    "group_norm": _onnx_norm("GroupNormalization", "weight", "bias"),
    "layer_norm": _onnx_norm("LayerNormalization", "weight", "bias"),
    "rms_norm": _onnx_norm("RMSNormalization", "weight", epsilon=2.0**-23),
    "add_layer_norm": _onnx_norm("LayerNormalization", "weight", "bias"),
    "dropout": _onnx_dropout,
    "dropout_add": _onnx_dropout,
}


def _onnx_inputs(case: Case) -> dict[str, np.ndarray]:
    """What a model is fed beside x."""
    if case.op == "max_unpool":  # its indices count through the whole tensor, not a plane
        first = np.arange(prod(case.shape[:2])).reshape(*case.shape[:2], *[1] * case.dims)
        return {"indices": places(case) + first * prod(case.output_shape[2:])}
    return {"residual": residual(case)} if "residual" in ARGUMENTS.get(case.op, ()) else {}


def _onnx_constants(case: Case) -> dict[str, np.ndarray]:
    """What is part of the model."""
    if case.op in DRAWING:
        return {"p": np.float32(dict(case.options)["p"]), "training": np.True_}
    return parameters(case)


def _onnx_runtime(case: Case, data: Data) -> Contender:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    _only(case.measure == "forward", "forward only")
    _only(case.layout == "planes", "knows only NCHW")
    kinds = {"float32": "FLOAT", "float16": "FLOAT16", "uint8": "UINT8"}
    _only(case.dtype in kinds and (case.op == "max" or case.dtype == "float32"), "no such dtype")
    _only(case.op in ONNX, "no such operation")
    kind = getattr(TensorProto, kinds[case.dtype])
    inputs = _onnx_inputs(case)
    feeds = [helper.make_tensor_value_info("x", kind, list(case.shape))]
    for name, array in inputs.items():
        feeds.append(
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
            )
        )
    results = ["y", "total"] if case.op.startswith("add_") else ["y"]
    nodes = ONNX[case.op](case)
    graph = helper.make_graph(
        [helper.make_node(name, sources, to, **more) for name, sources, to, more in nodes],
        "model",
        feeds,
        [helper.make_tensor_value_info(name, kind, list(case.output_shape)) for name in results],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in _onnx_constants(case).items()],
    )
    opset, version = (23, 11) if case.op in POINTWISE else (17, 9)  # RMSNormalization is of 23
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads
    # its threads would otherwise spin into the next contender's turn
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in data.arrays]
    others = {k: onnxruntime.OrtValue.ortvalue_from_numpy(array) for k, array in inputs.items()}

    def call(index: int) -> list[Any]:
        return session.run_with_ort_values(results, {"x": values[index], **others})

    def to_numpy(found: list[Any]) -> Any:
        arrays = tuple(value.numpy() for value in found)
        return arrays if len(arrays) > 1 else arrays[0]

    return Contender("ONNX Runtime", call, to_numpy)


def _openvino_max(graph: Any, x: Any, kernel: int, stride: int, padding: int, n: int) -> Any:
    pads = [padding] * n
    return graph.max_pool(x, [stride] * n, [1] * n, pads, pads, [kernel] * n).output(0)


def _openvino_avg(graph: Any, x: Any, case: Case) -> Any:
    n, pads = case.dims, [case.padding] * case.dims
    return graph.avg_pool(x, [case.stride] * n, pads, pads, [case.kernel] * n, exclude_pad=False)


def _openvino_block(graph: Any, x: Any, case: Case) -> Any:
    parts = [x]
    for k in SPP:
        source, k = (parts[-1], SPP[0]) if case.op == "sppf" else (x, k)
        parts.append(_openvino_max(graph, source, k, 1, k // 2, case.dims))
    return graph.concat(parts, 1)


# operation -> (the operator set, a node (N, C, ...), the case) -> the pooled node
OPENVINO: dict[str, Callable[[Any, Any, Case], Any]] = {
    "max": lambda graph, x, case: _openvino_max(
        graph, x, case.kernel, case.stride, case.padding, case.dims
    ),
    "avg": _openvino_avg,
    "adaptive_max": lambda graph, x, case: graph.adaptive_max_pool(
        x, graph.constant([case.size] * case.dims, np.int32), "i32"
    ).output(0),
    "adaptive_avg": lambda graph, x, case: graph.adaptive_avg_pool(
        x, graph.constant([case.size] * case.dims, np.int32)
    ),
    "spp": _openvino_block,
    "sppf": _openvino_block,
}


def _openvino(case: Case, data: Data) -> Contender:
    import openvino
    from openvino import opset14

    _only(case.measure == "forward", "forward only")
    _only(case.dtype == "float32", "measured for float32")
    _only(case.op in OPENVINO, "no such operation")
    n = case.dims
    x = opset14.parameter(list(data.arrays[0].shape), np.float32)
    planes = x
    if case.layout == "channels_last":  # it pools NCHW only: its own way in and out
        planes = opset14.transpose(x, [0, n + 1, *range(1, n + 1)])
    pooled = OPENVINO[case.op](opset14, planes, case)
    if case.layout == "channels_last":
        pooled = opset14.transpose(pooled, [0, *range(2, n + 2), 1])
    settings = {
        "INFERENCE_NUM_THREADS": _threads,
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 otherwise, where the processor has it
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(openvino.Model([pooled], [x], "pool"), "CPU", settings)
    request = compiled.create_infer_request()
    tensors = [openvino.Tensor(array, shared_memory=True) for array in data.arrays]

    def call(index: int) -> Any:
        # Its result is a buffer of its own that the next call overwrites: nothing is allocated.
        request.set_input_tensor(tensors[index])
        request.infer()
        return request.get_output_tensor(0).data

    def to_numpy(result: np.ndarray) -> np.ndarray:
        return np.moveaxis(result, -1, 1) if case.layout == "channels_last" else result

    return Contender("OpenVINO", call, to_numpy)


# --- picture libraries --------------------------------------------------------------------------


def _opencv(case: Case, data: Data) -> Contender:
    import cv2

    _only(case.measure == "forward" and case.dims == 2, "2-D forward only")
    _only(case.dtype in {"float32", "uint8"}, "no such dtype")
    if case.op == "median":
        planes = [array[0, 0] for array in data.arrays]
        _only(case.shape[:2] == (1, 1) and case.layout == "planes", "one picture at a time")
        return Contender(
            "OpenCV",
            lambda i: cv2.medianBlur(planes[i], case.kernel),
            lambda result: result[None, None],
        )
    _only(case.op in {"max", "avg"}, "no such operation")
    k, last = case.kernel, case.layout == "channels_last"
    quarters = case.op == "avg" and (k, case.stride, case.padding) == (2, 2, 0)
    _only(quarters or case.stride == 1, "filters have no stride")
    _only(quarters or (k % 2 == 1 and case.padding == k // 2), "filters keep the size")
    _only(case.dtype == "float32" or case.op == "max", "another rounding")
    n, c, rows, columns = case.shape
    _only(not quarters or rows % 2 == columns % 2 == 0, "resizes even sizes")
    if quarters and not last:
        # 2 x 2 blocks never cross a plane of even height: all planes are one tall picture
        tall = [array.reshape(n * c * rows, columns) for array in data.arrays]
        size = (columns // 2, n * c * rows // 2)
        return Contender(
            "OpenCV",
            lambda i: cv2.resize(tall[i], size, interpolation=cv2.INTER_AREA),
            lambda result: result.reshape(case.output_shape),
        )
    box = cv2.getStructuringElement(cv2.MORPH_RECT, (k, k))

    def pool(source: np.ndarray, target: np.ndarray) -> None:
        if quarters:
            size = (target.shape[1], target.shape[0])
            cv2.resize(source, size, dst=target, interpolation=cv2.INTER_AREA)
        elif case.op == "max":
            cv2.dilate(source, box, dst=target)
        else:
            cv2.boxFilter(source, -1, (k, k), dst=target, borderType=cv2.BORDER_CONSTANT)

    pictures = [a if last else a.reshape(n * c, rows, columns) for a in data.arrays]

    shape = (n, *case.output_shape[2:], c) if last else pictures[0].shape
    workers = ThreadPoolExecutor(_threads)  # one plane is too little for its own threads

    def call(index: int) -> np.ndarray:
        target = np.empty(shape, pictures[0].dtype)
        list(workers.map(pool, pictures[index], target))
        return target

    def to_numpy(result: np.ndarray) -> np.ndarray:
        return np.moveaxis(result, -1, 1) if last else result.reshape(case.shape)

    return Contender("OpenCV", call, to_numpy)


def _scikit_image(case: Case, data: Data) -> Contender:
    from skimage.measure import block_reduce

    _only(case.measure == "forward", "forward only")
    _only(case.op in {"max", "avg"}, "no such operation")
    _only(case.kernel == case.stride and case.padding == 0, "blocks only: stride = kernel")
    _only(case.dtype == "float32", "measured for float32")
    block = (1, 1, *[case.kernel] * case.dims)
    function = {"max": np.max, "avg": np.mean}[case.op]
    return Contender("scikit-image", lambda i: block_reduce(data.logical(i), block, function))


def _scipy(case: Case, data: Data) -> Contender:
    from scipy import ndimage

    _only(case.measure == "forward", "forward only")
    _only(case.stride == 1, "filters have no stride")
    _only(case.kernel % 2 == 1 and case.padding == case.kernel // 2, "filters keep the size")
    _only(case.dtype == "float32" or case.op == "median", "measured for float32")
    size = (1, 1, *[case.kernel] * case.dims)
    _only(case.op in {"max", "avg", "median"}, "no such operation")
    if case.op == "median":
        return Contender("SciPy", lambda i: ndimage.median_filter(data.logical(i), size=size))
    if case.op == "max":
        return Contender(
            "SciPy",
            lambda i: ndimage.maximum_filter(
                data.logical(i), size=size, mode="constant", cval=-np.inf
            ),
        )
    return Contender(
        "SciPy", lambda i: ndimage.uniform_filter(data.logical(i), size=size, mode="constant")
    )


PEERS: dict[str, Callable[[Case, Data], Contender]] = {
    "PyTorch": _pytorch,
    "torch.compile": _torch_compile,
    "ONNX Runtime": _onnx_runtime,
    "OpenVINO": _openvino,
    "OpenCV": _opencv,
    "scikit-image": _scikit_image,
    "SciPy": _scipy,
}
SLOW = {"torch.compile", "scikit-image", "SciPy"}  # left out of --quick


def limit_threads(threads: int) -> dict[str, str]:
    """The same number of threads for everyone; returns the versions found (or "not installed")."""
    global _threads
    _threads = threads
    import infinitypool as ip

    versions = {OURS: ip.__version__, "NumPy": np.__version__}
    ip.set_num_threads(threads)
    for name, module in (
        ("PyTorch", "torch"),
        ("ONNX Runtime", "onnxruntime"),
        ("OpenVINO", "openvino"),
        ("OpenCV", "cv2"),
        ("scikit-image", "skimage"),
        ("SciPy", "scipy"),
    ):
        try:
            found = __import__(module)
        except ImportError:
            versions[name] = "not installed"
            continue
        versions[name] = str(found.__version__).partition("-")[0]
        if name == "PyTorch":
            found.set_num_threads(threads)
        elif name == "OpenCV":
            found.setNumThreads(threads)
    return versions


# --- what a result has to agree with --------------------------------------------------------------

SELECTING = {"max", "adaptive_max", "max_unpool", "median", "fractional_max", "spp", "sppf"}
POWERS = {"lp", "gem", "soft", "log_sum_exp"}


def disagreement(case: Case, expected: Any, found: Any) -> str:
    """Empty where two results agree, else in what way they do not.

    Selected elements and indices agree exactly. Sums of a window of w elements in another order
    may differ by about w roundings of the type (of float32 for the half types, which everybody
    accumulates in float32, and one rounding of the result); in long sums the roundings cancel,
    leaving some √w of them. Each exponential and power adds a few of its own, as do the steps of a
    norm, whose sums of float32 differ by that much between libraries, and less in float64.
    """
    if case.op in DRAWING:
        return _other_draws(case, np.asarray(expected), np.asarray(found))
    if isinstance(expected, tuple):
        parts = (disagreement(case, e, f) for e, f in zip(expected, found, strict=True))
        return next(filter(None, parts), "")
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.shape != found.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    if case.op == "median":  # every library has its own rule for what lies beyond the edge
        inner = (..., *[slice(case.padding, -case.padding)] * case.dims)
        expected, found = expected[inner], found[inner]
    if (case.op in SELECTING and case.measure != "backward") or found.dtype.kind in "biu":
        different = np.count_nonzero(expected != found)
        return f"{different} of {expected.size} values differ" if different else ""
    epsilon = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(case.dtype, 0.0)
    roundings = min(case.window, 8 * case.window**0.5)
    if case.op in NORMALISING:
        roundings = 8 + case.window**0.5
    epsilon += (4 if case.op in POWERS else 1) * roundings * 2.0**-23
    # elementwise scale 1: the inputs are standard normal, so a difference of cancelling sums is
    # measured against the size of the summands; a gradient may be small as a whole
    largest = float(np.max(np.abs(expected - found), initial=0.0))
    scale = float(np.max(np.abs(expected), initial=0.0))
    bound = epsilon * (scale if case.measure in ("backward", "step") else max(1.0, scale))
    return "" if largest <= bound else f"largest difference {largest:.2e} above {bound:.2e}"


def _other_draws(case: Case, expected: np.ndarray, found: np.ndarray) -> str:
    """Nobody drops the same elements: as many, and the others with the same values."""
    if expected.shape != found.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    ground = residual(case) if case.op == "dropout_add" else np.float32(0)
    expected, found = expected - ground, found - ground
    kept = (expected != 0) & (found != 0)
    difference = float(np.max(np.abs(expected - found), where=kept, initial=0.0))
    if difference > 2.0**-20 * float(np.max(np.abs(expected), initial=1.0)):
        return f"largest difference between kept elements {difference:.2e}"
    draws = prod(case.shape[:2]) if case.op == "dropout2d" else found.size
    p = dict(case.options)["p"]
    for what, difference, variance in (
        ("share of zeros", np.mean(found == 0) - np.mean(expected == 0), p * (1 - p) / draws),
        ("mean", np.mean(found) - np.mean(expected), p / (1 - p) / found.size),
    ):
        if abs(difference) > 6 * (2 * variance) ** 0.5:  # a share has the variance of its draws
            return f"{what} differs by {difference:.2e}"
    return ""


def saved_bytes(name: str, case: Case, data: Data) -> float:
    """Bytes per output that infinitypool or PyTorch keeps of a forward call for its backward."""
    import torch

    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    leaf = data.tensor(0).detach().requires_grad_()
    pool = _call_of(name, case)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = pool(leaf)
    return sum(kept.values()) / result.numel()

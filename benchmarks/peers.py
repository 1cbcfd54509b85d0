"""The libraries that take part, each as an adapter from a case to calls.

An adapter answers one question: how would a good user of this library compute this case? It
returns a :class:`~benchmarks.timing.Contender`, or raises :class:`NotApplicable` with the reason;
a library that is not installed raises ImportError by itself. Adapters get inputs in the case's
own memory layout and may prepare anything outside the clock (models, compiled functions, output
buffers that the library manages), but not move the data.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.timing import Contender, Data

__all__ = ["OURS", "PEERS", "SLOW", "NotApplicable", "limit_threads", "ours"]

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
        return _array_front(case, data)
    from infinitypool.nn import functional

    return _torch_style(OURS, functional, case, data)


def _array_front(case: Case, data: Data) -> Contender:
    import infinitypool as ip

    pool = getattr(ip, f"{case.op}_pool")
    first = 1 if case.layout == "channels_last" else 2
    arguments: dict[str, Any] = {
        "stride": case.stride,
        "padding": case.padding,
        "axes": tuple(range(first, first + case.dims)),
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


def _torch_style(name: str, functional: Any, case: Case, data: Data) -> Contender:
    """Calls through ``torch.nn.functional``, or a module with the same functions."""
    suffix = "_with_indices" if case.measure == "indices" else ""
    pool = getattr(functional, f"{case.op}_pool{case.dims}d{suffix}")
    window = (case.kernel, case.stride, case.padding)
    tensors = [data.tensor(i) for i in range(len(data))]
    if case.measure != "backward":
        return Contender(name, lambda i: pool(tensors[i], *window), _tensor_to_numpy)
    import torch

    # Two graphs are enough: each holds an input, an output and a gradient, far above any cache.
    graphs = []
    for tensor in tensors[:2]:
        leaf = tensor.detach().requires_grad_()
        result = pool(leaf, *window)
        # a pattern, the same whatever the result's memory format, exact in every float type
        pattern = torch.arange(result.numel(), dtype=torch.int32).remainder_(251).sub_(125)
        gradient = torch.empty_like(result).copy_(pattern.view(result.shape)).div_(64)
        graphs.append((result, leaf, gradient))

    def backward(index: int) -> Any:
        result, leaf, gradient = graphs[index % len(graphs)]
        return torch.autograd.grad(result, leaf, gradient, retain_graph=True)[0]

    return Contender(name, backward, _tensor_to_numpy)


def _pytorch(case: Case, data: Data) -> Contender:
    from torch.nn import functional

    return _torch_style("PyTorch", functional, case, data)


def _torch_compile(case: Case, data: Data) -> Contender:
    import torch
    from torch.nn import functional

    _only(case.measure == "forward" and case.dims == 2, "measured for 2-D forward")
    pool = getattr(functional, f"{case.op}_pool2d")
    window = (case.kernel, case.stride, case.padding)
    torch._dynamo.reset()  # it falls back to eager, silently, after a few compilations
    compiled = torch.compile(lambda x: pool(x, *window), dynamic=False, fullgraph=True)
    tensors = [data.tensor(i) for i in range(len(data))]
    with torch.no_grad():
        compiled(tensors[0])

    def call(index: int) -> Any:
        with torch.no_grad():
            return compiled(tensors[index])

    return Contender("torch.compile", call, _tensor_to_numpy)


# --- graph runtimes ---------------------------------------------------------------------------

_threads = 2  # set once by limit_threads


def _onnx_runtime(case: Case, data: Data) -> Contender:
    import onnxruntime
    from onnx import TensorProto, helper

    _only(case.measure == "forward", "forward only")
    _only(case.layout == "planes", "pools only NCHW")
    kinds = {"float32": "FLOAT", "float16": "FLOAT16", "uint8": "UINT8"}
    _only(case.dtype in kinds and (case.op == "max" or case.dtype == "float32"), "no such dtype")
    kind = getattr(TensorProto, kinds[case.dtype])
    attributes: dict[str, Any] = {
        "kernel_shape": [case.kernel] * case.dims,
        "strides": [case.stride] * case.dims,
        "pads": [case.padding] * (2 * case.dims),
    }
    if case.op == "avg":
        attributes["count_include_pad"] = 1
    node = helper.make_node(
        {"max": "MaxPool", "avg": "AveragePool"}[case.op], ["x"], ["y"], **attributes
    )
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", kind, list(case.shape))],
        [helper.make_tensor_value_info("y", kind, list(case.output_shape))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads
    # its threads would otherwise spin into the next contender's turn
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in data.arrays]
    return Contender(
        "ONNX Runtime",
        lambda i: session.run_with_ort_values(["y"], {"x": values[i]})[0],
        lambda result: result.numpy(),
    )


def _openvino(case: Case, data: Data) -> Contender:
    import openvino
    from openvino import opset14

    _only(case.measure == "forward", "forward only")
    _only(case.dtype == "float32", "measured for float32")
    n = case.dims
    window = ([case.stride] * n, [case.padding] * n, [case.padding] * n, [case.kernel] * n)
    x = opset14.parameter(list(data.arrays[0].shape), np.float32)
    planes = x
    if case.layout == "channels_last":  # it pools NCHW only: its own way in and out
        planes = opset14.transpose(x, [0, n + 1, *range(1, n + 1)])
    strides, before, after, kernel = window
    if case.op == "max":
        pooled = opset14.max_pool(planes, strides, [1] * n, before, after, kernel).output(0)
    else:
        pooled = opset14.avg_pool(planes, strides, before, after, kernel, exclude_pad=False)
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
    _only(case.dtype == "float32", "measured for float32")
    size = (1, 1, *[case.kernel] * case.dims)
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


def disagreement(case: Case, expected: Any, found: Any) -> str:
    """Empty where two results agree, else in what way they do not.

    Maxima and indices agree exactly. Sums of a window of w elements in another order may differ
    by about w roundings of the type (of float32 for the half types, which everybody accumulates
    in float32, and one rounding of the result).
    """
    if isinstance(expected, tuple):
        parts = (disagreement(case, e, f) for e, f in zip(expected, found, strict=True))
        return next(filter(None, parts), "")
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.shape != found.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    if case.op == "max" and case.measure != "backward":
        different = np.count_nonzero(expected != found)
        return f"{different} of {expected.size} values differ" if different else ""
    epsilon = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(case.dtype, 0.0)
    epsilon += case.kernel**case.dims * 2.0**-23
    # elementwise scale 1: the inputs are standard normal, so a difference of cancelling sums is
    # measured against the size of the summands
    largest = float(np.max(np.abs(expected - found), initial=0.0))
    bound = epsilon * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    return "" if largest <= bound else f"largest difference {largest:.2e} above {bound:.2e}"


def saved_bytes(functional: Any, case: Case, data: Data) -> float:
    """Bytes per output that a forward call keeps for its backward."""
    import torch

    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    leaf = data.tensor(0).detach().requires_grad_()
    pool = getattr(functional, f"{case.op}_pool{case.dims}d")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = pool(leaf, case.kernel, case.stride, case.padding)
    return sum(kept.values()) / result.numel()

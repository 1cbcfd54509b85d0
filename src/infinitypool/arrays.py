"""The array functions: pooling of NumPy arrays and of whatever speaks DLPack on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from marshal import dumps
from math import prod
from typing import Any, NamedTuple

import numpy as np

from . import _core
from .plan import (
    ITEMSIZE,
    RECYCLED_BYTES,
    REDUCERS,
    WIDEST,
    Cache,
    contiguous_strides,
    is_exact,
    memory_order,
    pool_runner,
    result_dtype,
)
from .spec import PoolSpec, check_bool, pool_spec, resolve_axes

Sizes = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]


def max_pool(
    x: Any,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    axes: Sizes | None = None,
    return_indices: bool = False,
    out: Any = None,
) -> Any:
    """The largest element of every window.

    Parameters
    ----------
    x : array of any shape
        A NumPy array of any strides, something that ``numpy.asarray`` takes, or an array that
        speaks DLPack on the CPU (PyTorch, JAX), which comes in without a copy. Elements are
        float64, float32, float16, bfloat16, integers of 8 to 64 bits or (maximum and minimum
        only) bool. Tensors that require a gradient are treated as data; for gradients use
        :mod:`infinitypool.nn.functional`.
    kernel_size, stride, dilation : int or one int per pooled axis
        The window's size, the step between windows (by default the kernel) and the step inside
        a window.
    padding : int, one int per axis, one (before, after) pair per axis, "same" or "valid"
        Positions outside the array take no part, as if they were minus infinity. ``"same"``
        and ``"valid"`` have TensorFlow's meaning.
    ceil_mode : bool
        Also take a last window that hangs over the end, unless it starts in the padding.
    axes : int or ints
        The pooled axes; entries of the other arguments belong to them in this order. By default
        the last ``len(kernel_size)``, or the last two where the kernel is one number.
    return_indices : bool
        Also return each winner's place, counted row by row in the plane of the pooled axes (in
        the array's axis order): int64; the first of equal elements; -1 where a window lies in
        the padding altogether.
    out : array, or (values, indices) with ``return_indices``
        Where to put the result instead of into new memory.

    Returns
    -------
    array
        What ``x`` was: a NumPy array, a PyTorch tensor, a JAX array. Its axes follow each other
        in memory as those of ``x`` do. A NaN in a window wins; a window without an element
        gives minus infinity, or the smallest number of an integer type, or False.

    Raises
    ------
    TypeError
        For a value of a wrong type, an unsupported dtype (also of another byte order).
    ValueError
        For sizes below 1, lists of a wrong length, a window larger than the padded input, axes
        out of range or repeated, an ``out`` of another shape, read-only or overlapping ``x``.

    Notes
    -----
    The rules are those of ``torch.nn.MaxPool2d``, and of ``tf.nn.max_pool2d`` for ``"same"``.

    Examples
    --------
    >>> import numpy as np
    >>> import infinitypool as ip
    >>> x = np.arange(1, 17).reshape(4, 4)
    >>> ip.max_pool(x, 2)
    array([[ 6,  8],
           [14, 16]])
    >>> values, indices = ip.max_pool(x, 2, return_indices=True)
    >>> indices
    array([[ 5,  7],
           [13, 15]])

    A colour picture pools over its first two axes, and so does every other layout:

    >>> ip.max_pool(np.zeros((201, 250, 3), np.uint8), 6, stride=2, axes=(0, 1)).shape
    (98, 123, 3)

    Padding may differ between the two ends:

    >>> ip.max_pool(np.array([-1.0, -2.0, -3.0]), (2,), padding=((1, 0),))
    array([-1., -2.])
    """
    return _pool(
        "max_pool", "max", x, kernel_size, stride, padding, dilation, ceil_mode, axes, out,
        return_indices,
    )  # fmt: skip


def min_pool(
    x: Any,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    axes: Sizes | None = None,
    return_indices: bool = False,
    out: Any = None,
) -> Any:
    """The smallest element of every window.

    Parameters, results and errors are those of :func:`max_pool`, with padding of plus infinity:
    a window without an element gives plus infinity, or the largest number of an integer type,
    or True.

    >>> import numpy as np
    >>> import infinitypool as ip
    >>> ip.min_pool(np.arange(1, 17).reshape(4, 4), 2)
    array([[ 1,  3],
           [ 9, 11]])
    """
    return _pool(
        "min_pool", "min", x, kernel_size, stride, padding, dilation, ceil_mode, axes, out,
        return_indices,
    )  # fmt: skip


def avg_pool(
    x: Any,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    axes: Sizes | None = None,
    out: Any = None,
) -> Any:
    """The mean of every window.

    Parameters, results and errors are those of :func:`max_pool`, save that

    - padding is zero. With ``count_include_pad`` it counts among the elements that the sum is
      divided by (what a window of ``ceil_mode`` has beyond the padding never does). With
      ``padding="same"`` it never counts, as in TensorFlow.
    - ``divisor_override`` divides every sum by this number instead.
    - floats accumulate in at least float32, half precisions in float32; integers exactly in 64
      bits, and their mean rounds to the nearest, ties to even. A window without an element
      gives NaN, or 0 for integers.

    The rules are those of ``torch.nn.AvgPool2d``.

    >>> import numpy as np
    >>> import infinitypool as ip
    >>> x = np.arange(1.0, 17.0).reshape(4, 4)
    >>> ip.avg_pool(x, 2)
    array([[ 3.5,  5.5],
           [11.5, 13.5]])
    >>> ip.avg_pool(x, 3, stride=2, padding=1, count_include_pad=False)
    array([[ 3.5,  5. ],
           [ 9.5, 11. ]])
    """
    return _pool(
        "avg_pool", "mean", x, kernel_size, stride, padding, dilation, ceil_mode, axes, out,
        False, count_include_pad, divisor_override,
    )  # fmt: skip


def sum_pool(
    x: Any,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    axes: Sizes | None = None,
    out: Any = None,
) -> Any:
    """The sum of every window.

    Parameters, results and errors are those of :func:`max_pool`, with padding of zero. Integers
    give int64 or uint64, as ``numpy.sum`` does.

    >>> import numpy as np
    >>> import infinitypool as ip
    >>> ip.sum_pool(np.arange(1, 17, dtype=np.uint8).reshape(4, 4), 2)
    array([[14, 22],
           [46, 54]], dtype=uint64)
    """
    return _pool("sum_pool", "sum", x, kernel_size, stride, padding, dilation, ceil_mode, axes, out)


# --- from arguments to a result ------------------------------------------------------------


class _Plan(NamedTuple):
    """A native plan for one input layout, with what it takes to allocate the results."""

    run: Callable[[int, int, int], None]
    shape: tuple[int, ...]
    dense_shape: tuple[int, ...]  # the result's, outermost axis of memory first
    transpose: list[int] | None  # from the dense axes to the result's, where they differ
    dtype: np.dtype
    size: int


# NumPy 1.24 has it among its top names.
_TooHardError = getattr(np, "exceptions", np).TooHardError

_specs = Cache()
_plans = Cache()
_INT64 = np.dtype(np.int64)


def _pool(
    function: str,
    reducer: str,
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    axes: Any,
    out: Any,
    return_indices: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
) -> Any:
    if return_indices is not False:
        return_indices = check_bool(function, "return_indices", return_indices)
    if type(x) is np.ndarray:
        array, bits, restore = x, None, None
    else:
        array, bits, restore = _incoming(function, "x", x)
    if not array.flags.aligned:
        # Views into records and into odd places of a buffer: nothing but a copy reads them.
        array = np.array(array, order="K")

    arguments = (
        function, kernel_size, stride, padding, dilation, ceil_mode, axes, count_include_pad,
        divisor_override, array.ndim,
    )  # fmt: skip
    try:
        key = dumps(arguments, 2)
        spec = _specs.get(key)
    except ValueError:  # something that marshal does not know
        spec = None
    if spec is None:
        _dtype_name(function, array, bits)
        spec = pool_spec(
            function,
            reducer,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
            axes=resolve_axes(function, axes, kernel_size, array.ndim),
        )
        if is_exact(arguments):
            _specs.keep(key, spec)

    if out is not None:
        _pool_into(spec, array, bits, out, return_indices)
        return out
    key = (spec.text, array.dtype, bits, array.shape, array.strides, return_indices)
    plan = _plans.get(key)
    if plan is None:
        plan = _plans.keep(key, _plan(spec, array, bits, return_indices))
    values = _allocate(plan, plan.dtype)
    if return_indices:
        indices = _allocate(plan, _INT64)
        plan.run(_address(array), _address(values), _address(indices), 0, 0)
        return (values, indices) if restore is None else (restore(values, bits), restore(indices))
    plan.run(_address(array), _address(values), 0, 0, 0)
    return values if restore is None else restore(values, bits)


def _plan(spec: PoolSpec, array: np.ndarray, bits: str | None, return_indices: bool) -> _Plan:
    dtype = _dtype_name(spec.function, array, bits)
    shape = _result_shape(spec, array, dtype)
    strides = _element_strides(array)
    order = memory_order(array.shape, strides)
    result = result_dtype(spec.reducer, dtype)
    return _Plan(
        run=pool_runner(
            spec,
            dtype,
            array.shape,
            strides,
            contiguous_strides(shape, order),
            "plane" if return_indices else "none",
        ),
        shape=shape,
        dense_shape=tuple(shape[axis] for axis in order),
        transpose=None if order == sorted(order) else [order.index(i) for i in range(len(order))],
        dtype=array.dtype if result == dtype else np.dtype(result),
        size=prod(shape),
    )


def _allocate(plan: _Plan, dtype: np.dtype) -> np.ndarray:
    nbytes = plan.size * dtype.itemsize
    if nbytes < RECYCLED_BYTES:
        dense = np.empty(plan.dense_shape, dtype)
    else:
        dense = np.ndarray(plan.dense_shape, dtype, buffer=_core.Block(nbytes))
    return dense if plan.transpose is None else dense.transpose(plan.transpose)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _element_strides(array: np.ndarray) -> tuple[int, ...]:
    return tuple(step // array.itemsize for step in array.strides)


def _result_shape(spec: PoolSpec, array: np.ndarray, dtype: str) -> tuple[int, ...]:
    spec.check_input(array.shape, dtype, REDUCERS[spec.reducer]["dtypes"])
    return spec.output_shape(array.shape, WIDEST)


def _dtype_name(function: str, array: np.ndarray, bits: str | None) -> str:
    """The core's name of an array's dtype. ``bits`` is that name where NumPy has no such type."""
    if bits is not None:
        return bits
    dtype = array.dtype
    if not dtype.isnative:
        raise TypeError(
            f"{function}: x has dtype {dtype.str} in another byte order; convert it with "
            "x.astype(x.dtype.newbyteorder('='))"
        )
    if dtype.name not in ITEMSIZE:
        hint = "; give it one numeric dtype with x.astype(...)" if dtype.hasobject else ""
        raise TypeError(
            f"{function}: x has dtype {dtype}, which must be one of {', '.join(ITEMSIZE)}{hint}"
        )
    return dtype.name


# --- out= ----------------------------------------------------------------------------------


def _pool_into(
    spec: PoolSpec, array: np.ndarray, bits: str | None, out: Any, return_indices: bool
) -> None:
    function = spec.function
    if not return_indices:
        named = {"out": out}
    elif isinstance(out, tuple) and len(out) == 2:
        named = {"out[0]": out[0], "out[1]": out[1]}
    else:
        raise TypeError(f"{function}: out must be a tuple (values, indices) of two arrays")
    targets = {name: _target(function, name, target) for name, target in named.items()}

    # What depends on layouts alone is checked when a plan is made, the rest at every call.
    key = (
        spec.text, array.dtype, bits, array.shape, array.strides,
        *((kind, target.dtype, target.shape, target.strides) for target, kind in targets.values()),
    )  # fmt: skip
    run = _plans.get(key)
    if run is None:
        run = _plans.keep(key, _plan_into(spec, array, bits, targets))
    for name, (target, _) in targets.items():
        if not target.flags.writeable:
            raise ValueError(f"{function}: {name} is read-only")
        if not target.flags.aligned:
            raise ValueError(f"{function}: {name} is not aligned to the size of its elements")
        if _overlap(target, array):
            raise ValueError(f"{function}: {name} overlaps x in memory")
    arrays = [target for target, _ in targets.values()]
    if len(arrays) == 2 and _overlap(*arrays):
        raise ValueError(f"{function}: out[0] and out[1] overlap in memory")
    run(_address(array), _address(arrays[0]), _address(arrays[1]) if return_indices else 0, 0, 0)
    for target in named.values():
        if _is_torch_tensor(target):
            sys.modules["torch"].autograd.graph.increment_version(target)


def _plan_into(
    spec: PoolSpec,
    array: np.ndarray,
    bits: str | None,
    targets: dict[str, tuple[np.ndarray, str | None]],
) -> Callable[[int, int, int], None]:
    function = spec.function
    dtype = _dtype_name(function, array, bits)
    shape = _result_shape(spec, array, dtype)
    dtypes = (result_dtype(spec.reducer, dtype), "int64")
    for (name, (target, kind)), wanted in zip(targets.items(), dtypes, strict=False):
        if target.shape != shape:
            raise ValueError(f"{function}: {name} has shape {target.shape}, the result {shape}")
        found = kind or target.dtype.name
        if found != wanted or not target.dtype.isnative:
            raise TypeError(f"{function}: {name} has dtype {found}, the result {wanted}")
        if _overlaps_itself(target):
            raise ValueError(f"{function}: elements of {name} overlap each other in memory")
    strides = [_element_strides(target) for target, _ in targets.values()]
    if len(strides) == 2 and any(
        a != b and size > 1 for a, b, size in zip(*strides, shape, strict=True)
    ):
        raise ValueError(f"{function}: out[0] and out[1] must have the same strides in elements")
    return pool_runner(
        spec,
        dtype,
        array.shape,
        _element_strides(array),
        strides[0],
        "none" if len(targets) == 1 else "plane",
    )


def _target(function: str, name: str, out: Any) -> tuple[np.ndarray, str | None]:
    """An ``out`` argument as a NumPy array, and its dtype's name if NumPy has no such type."""
    if isinstance(out, np.ndarray) or _is_torch_tensor(out):
        if getattr(out, "requires_grad", False):
            raise ValueError(f"{function}: {name} requires a gradient; give it out.detach()")
        target, bits, _ = _incoming(function, name, out)
        return target, bits
    raise TypeError(
        f"{function}: {name} must be a NumPy array or a PyTorch tensor, not {type(out).__name__}"
    )


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except _TooHardError:
        return True


def _overlaps_itself(array: np.ndarray) -> bool:
    """Whether two elements may share memory: every stride must step over all smaller ones."""
    if array.size == 0:
        return False
    extent = array.itemsize
    for step, size in sorted(
        (abs(step), size) for step, size in zip(array.strides, array.shape, strict=True)
    ):
        if size > 1:
            if step < extent:
                return True
            extent += step * (size - 1)
    return False


# --- other libraries' arrays ---------------------------------------------------------------

# What `_incoming` gives: a NumPy array over the same memory; the dtype's name where NumPy has no
# such type and the array holds its bits; and how to turn a result into the caller's kind.
_Incoming = tuple[np.ndarray, str | None, Callable[..., Any] | None]


def _incoming(function: str, name: str, x: Any) -> _Incoming:
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(
                f"{function}: {name} is a masked array, whose mask pooling would ignore; "
                "fill it first with x.filled(...)"
            )
        return np.asarray(x), None, None
    if _is_torch_tensor(x):
        return *_from_torch(function, name, x), _to_torch
    if hasattr(type(x), "__dlpack__") and hasattr(type(x), "__dlpack_device__"):
        namespace = getattr(x, "__array_namespace__", None)
        restore = None if namespace is None else _to_namespace(namespace())
        return *_from_dlpack(function, name, x), restore
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{function}: {name} cannot become an array: {error}") from None
    return array, None, None


def _is_torch_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _from_torch(function: str, name: str, x: Any) -> tuple[np.ndarray, str | None]:
    torch = sys.modules["torch"]
    if x.device.type != "cpu":
        raise ValueError(f"{function}: {name} lives on {x.device}; move it to the CPU first")
    tensor = x.detach()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    try:
        if tensor.dtype is torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(np.uint16), "bfloat16"
        return tensor.numpy(), None
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{function}: {name}, a tensor of {x.dtype} and {x.layout}, cannot be read: {error}"
        ) from None


def _to_torch(array: np.ndarray, bits: str | None = None) -> Any:
    torch = sys.modules["torch"]
    if bits is None:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(getattr(torch, bits))


def _to_namespace(namespace: Any) -> Callable[..., Any]:
    """Results through an array API namespace, such as jax.numpy."""

    def restore(array: np.ndarray, bits: str | None = None) -> Any:
        if bits is not None:
            import ml_dtypes  # whoever made this array has it

            array = array.view(getattr(ml_dtypes, bits))
        return namespace.asarray(array)

    return restore


class _DLTensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h, the first member of a capsule named "dltensor"."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_DLPACK_CPU = (1, 3)  # kDLCPU and kDLCUDAHost, which is ordinary memory too
_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}


class _Memory:
    """Foreign memory for ``numpy.asarray``; keeps its owner alive."""

    def __init__(self, owner: Any, interface: dict[str, Any]) -> None:
        self.owner = owner
        self.__array_interface__ = interface


def _from_dlpack(function: str, name: str, x: Any) -> tuple[np.ndarray, str | None]:
    """A NumPy array over a DLPack object's memory, and its dtype's name if NumPy lacks it.

    ``numpy.from_dlpack`` knows neither bfloat16 nor read-only memory of every library, so the
    capsule is read here. It stays unconsumed: its own destructor releases the memory.
    """
    device = int(x.__dlpack_device__()[0])
    if device not in _DLPACK_CPU:
        raise ValueError(
            f"{function}: {name} lives on another device (DLPack device type {device}); "
            "move it to the CPU first"
        )
    try:
        capsule = x.__dlpack__()
        address = _capsule_pointer(capsule, b"dltensor")
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise TypeError(
            f"{function}: {name}, a {type(x).__name__}, cannot be read: {error}"
        ) from None
    tensor = _DLTensor.from_address(address)
    dtype = _DLPACK_KINDS.get(tensor.code, f"kind {tensor.code} of ") + str(tensor.bits)
    dtype = "bool" if dtype == "bool8" else dtype
    if dtype not in ITEMSIZE or tensor.lanes != 1:
        raise TypeError(
            f"{function}: {name} has dtype {dtype}, which must be one of {', '.join(ITEMSIZE)}"
        )
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tensor.strides[: tensor.ndim] if tensor.strides else contiguous_strides(shape)
    bits = "bfloat16" if dtype == "bfloat16" else None
    holder = np.dtype(np.uint16 if bits else dtype)
    if 0 in shape:
        return np.empty(shape, holder), bits
    memory = _Memory(
        capsule,
        {
            "version": 3,
            "data": ((tensor.data or 0) + tensor.byte_offset, True),  # read-only
            "typestr": holder.str,
            "shape": shape,
            "strides": tuple(step * holder.itemsize for step in strides),
        },
    )
    return np.asarray(memory), bits

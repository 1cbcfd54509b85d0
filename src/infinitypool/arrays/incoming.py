"""Arrays that come in: NumPy's, PyTorch's, and whatever speaks DLPack on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..plan import ITEMSIZE, contiguous_strides

# What `incoming` gives: a NumPy array over the same memory; the dtype's name where NumPy has no
# such type and the array holds its bits; and how to turn a result into the caller's kind.
Incoming = tuple[np.ndarray, str | None, Callable[..., Any] | None]


def incoming(function: str, name: str, x: Any) -> Incoming:
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(
                f"{function}: {name} is a masked array, whose mask pooling would ignore; "
                f"fill it first with {name}.filled(...), or pool its data with where=~{name}.mask"
            )
        return np.asarray(x), None, None
    if is_torch_tensor(x):
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


def dtype_name(function: str, array: np.ndarray, bits: str | None, name: str = "x") -> str:
    """The core's name of an array's dtype. ``bits`` is that name where NumPy has no such type."""
    if bits is not None:
        return bits
    dtype = array.dtype
    known = _NAMES.get(dtype)
    if known is not None:
        return known
    if not dtype.isnative:
        raise TypeError(
            f"{function}: {name} has dtype {dtype.str} in another byte order; convert it with "
            f"{name}.astype({name}.dtype.newbyteorder('='))"
        )
    if dtype.name not in ITEMSIZE:
        hint = f"; give it one numeric dtype with {name}.astype(...)" if dtype.hasobject else ""
        raise TypeError(
            f"{function}: {name} has dtype {dtype}, which must be one of {', '.join(ITEMSIZE)}{hint}"
        )
    return dtype.name


# A dtype works out its name anew every time.
_NAMES = {np.dtype(name): name for name in ITEMSIZE if name != "bfloat16"}


def is_torch_tensor(x: Any) -> bool:
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


# --- out= ----------------------------------------------------------------------------------


def outgoing(function: str, name: str, out: Any) -> tuple[np.ndarray, str | None]:
    """What a caller wants a result in, as a NumPy array over the same memory; and as `incoming`."""
    if not (isinstance(out, np.ndarray) or is_torch_tensor(out)):
        raise TypeError(
            f"{function}: {name} must be a NumPy array or a PyTorch tensor, not "
            f"{type(out).__name__}"
        )
    if getattr(out, "requires_grad", False):
        raise ValueError(f"{function}: {name} requires a gradient; give it out.detach()")
    return incoming(function, name, out)[:2]


def check_result(
    function: str,
    name: str,
    target: np.ndarray,
    bits: str | None,
    shape: tuple[int, ...],
    dtype: str,
) -> None:
    """Refuse a target whose shape or dtype is not the result's."""
    if target.shape != shape:
        raise ValueError(f"{function}: {name} has shape {target.shape}, the result {shape}")
    found = bits or target.dtype.name
    if found != dtype or not target.dtype.isnative:
        raise TypeError(f"{function}: {name} has dtype {found}, the result {dtype}")


def check_writeable(function: str, name: str, target: np.ndarray) -> None:
    """Refuse a target that cannot be written to as it lies."""
    if not target.flags.writeable:
        raise ValueError(f"{function}: {name} is read-only")
    if not target.flags.aligned:
        raise ValueError(f"{function}: {name} is not aligned to the size of its elements")


def check_apart(function: str, name: str, target: np.ndarray) -> None:
    """Refuse a target two of whose elements may share memory."""
    if overlaps_itself(target):
        raise ValueError(f"{function}: elements of {name} overlap each other in memory")


# --- memory --------------------------------------------------------------------------------


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def element_strides(array: np.ndarray) -> tuple[int, ...]:
    return tuple(step // array.itemsize for step in array.strides)


def aligned(array: np.ndarray) -> np.ndarray:
    """The array, or a copy where it is a view into records or an odd place of a buffer."""
    return array if array.flags.aligned else np.array(array, order="K")


# NumPy 1.24 has it among its top names.
_TooHardError = getattr(np, "exceptions", np).TooHardError


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except _TooHardError:
        return True


def overlaps_itself(array: np.ndarray) -> bool:
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

"""Plans: a spec bound to one dtype, shape and memory layout, ready to run.

Building a plan costs some ten microseconds, finding one again a dictionary look-up. What both
fronts share beside the spec lives here: the cache, the names and sizes of dtypes, the memory
order of results, and the choice between a plain and a recycled allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from . import _core
from .spec import PoolSpec

# Above this size a result comes from the recycling allocator: page faults on fresh memory
# cost more than the pooling, while below it the C library recycles by itself.
RECYCLED_BYTES = 1 << 20

# No dtype, that of indices included, takes more.
WIDEST = 8

ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "bool": 1,
}  # fmt: skip

REDUCERS: dict[str, dict[str, Any]] = {row["name"]: row for row in _core.reducers()}


class Cache(dict):
    """A dictionary that forgets everything before it grows beyond ``limit`` entries.

    Reading is ``dict.get``, so a hit costs no Python frame; single dictionary operations are
    atomic, and two threads that miss together merely compute the same value twice.
    """

    def __init__(self, limit: int = 4096) -> None:
        super().__init__()
        self.limit = limit

    def keep(self, key: Hashable, value: Any) -> Any:
        if len(self) >= self.limit:
            self.clear()
        self[key] = value
        return value


def is_exact(value: object) -> bool:
    """Whether ``value`` holds nothing but Python's own numbers, bools, None, texts and lists.

    2, 2.0 and True are equal and hash alike, so raw arguments cannot be their own key in a
    cache. The fronts use ``marshal.dumps(arguments, 2)``, which writes types beside values, in
    lists as well, and costs less than looking at every type. Other types marshal refuses, or
    (NumPy's scalars) writes as bare bytes: calls with those are never kept, so never found.
    """
    if type(value) in (tuple, list):
        return all(map(is_exact, value))  # type: ignore[call-overload]
    return value is None or type(value) in (int, float, bool, str)


def is_floating(dtype: str) -> bool:
    return "float" in dtype


def result_dtype(reducer: str, dtype: str) -> str:
    """The dtype of a result: the input's, and 64 bits for sums of integers, as ``numpy.sum``."""
    if reducer == "sum" and ITEMSIZE[dtype] < 8 and "int" in dtype:
        return "uint64" if dtype[0] == "u" else "int64"
    return dtype


def contiguous_strides(shape: Sequence[int], order: Sequence[int] | None = None) -> tuple[int, ...]:
    """Strides in elements of a dense array whose axes follow ``order``, outermost first."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(range(len(shape)) if order is None else order):
        strides[axis] = step
        step *= shape[axis] or 1
    return tuple(strides)


def memory_order(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The axes from outermost to innermost, so that a result can be laid out like its input.

    Axes that say nothing, of size 1 or stride 0, stay beside their left neighbour.
    """
    order: list[int] = []
    for axis in range(len(shape)):
        place = len(order)
        if shape[axis] > 1 and strides[axis]:
            for before in reversed(range(len(order))):
                other = order[before]
                if shape[other] > 1 and strides[other]:
                    if abs(strides[other]) >= abs(strides[axis]):
                        break
                    place = before
        order.insert(place, axis)
    return order


def pool_runner(
    spec: PoolSpec,
    dtype: str,
    shape: Sequence[int],
    strides: Sequence[int],
    out_strides: Sequence[int],
    indices: str = "none",
    valid: str = "all",
) -> Callable[[int, int, int, int, int], None]:
    """The native plan's ``run(x, out, indices, mask, seed)``, which takes addresses.

    ``valid`` says which elements take part: "all", "omit" (all but NaNs), "mask" or "mask_omit".
    """
    windows = spec.windows([shape[axis] for axis in spec.axes])
    if 0 in spec.output_shape(shape):
        return _run_nothing
    return _core.Pool(
        spec.reducer,
        dtype,
        tuple(shape),
        tuple(strides),
        tuple(out_strides),
        [axis + len(shape) for axis in spec.axes],
        windows,
        spec.count_include_pad,
        spec.divisor_override,
        spec.front.truncate,
        indices,
        spec.parameters,
        valid,
    ).run


def backward_runner(
    spec: PoolSpec,
    dtype: str,
    shape: Sequence[int],
    grad_strides: Sequence[int],
    offset_strides: Sequence[int],
    grad_in_strides: Sequence[int],
    x_strides: Sequence[int] = (),
    result_strides: Sequence[int] = (),
) -> Callable[[int, int, int, int, int], None]:
    """The native plan's ``run(grad, offsets, grad_in, x, result)`` for an input of this shape.

    The last two are the forward call's, where the gradient gives every element a weight of its own.
    """
    windows = spec.windows([shape[axis] for axis in spec.axes])
    if 0 in shape:
        return _run_nothing
    return _core.PoolBackward(
        spec.reducer,
        dtype,
        tuple(shape),
        tuple(grad_strides),
        tuple(offset_strides),
        tuple(grad_in_strides),
        [axis + len(shape) for axis in spec.axes],
        windows,
        spec.count_include_pad,
        spec.divisor_override,
        spec.parameters,
        tuple(x_strides),
        tuple(result_strides),
    ).run


def _run_nothing(*addresses: int) -> None:
    """What an empty result needs."""

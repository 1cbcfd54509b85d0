"""From the arguments of a window function to its result.

A repeated call costs two dictionary look-ups: its arguments find a :class:`Call`, and that and the
array's layout find a :class:`Plan`. What asks for more than a native plan gives (masks, NaNs that
raise, least counts, mixtures, results into given arrays) goes the longer way of :func:`_carefully`.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from marshal import dumps
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..plan import (
    RECYCLED_BYTES,
    REDUCERS,
    WIDEST,
    Cache,
    contiguous_strides,
    is_exact,
    is_floating,
    memory_order,
    pool_runner,
    result_dtype,
)
from ..spec import (
    NUMPY,
    REQUIRED,
    Kind,
    PoolSpec,
    adaptive_spec,
    article,
    check_bool,
    check_word,
    count,
    pool_spec,
    resolve_axes,
    show,
)
from . import valid
from .incoming import (
    address,
    aligned,
    check_apart,
    check_result,
    check_writeable,
    dtype_name,
    element_strides,
    incoming,
    is_torch_tensor,
    outgoing,
    overlap,
)

INDICES = ("plane", "batch", "offset")
NAN_POLICIES = ("propagate", "omit", "raise")

# The arguments of all window functions, beside the array: their defaults, and their order in a key.
WINDOW = {
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "edge": "drop",
}
VALID = {"axes": None, "where": None, "nan_policy": "propagate", "min_count": 0, "out": None}


class Call(NamedTuple):
    """A call's arguments, read and checked."""

    spec: PoolSpec
    indices: str  # "none", "plane", "batch" or "offset"
    policy: str
    min_count: int
    absolute: bool
    alpha: float | None  # the share of the maximum in a mixture
    random: bool
    dtypes: Sequence[str]
    plain: bool  # whether a native plan gives just the result


class Plan(NamedTuple):
    """A native plan for one input layout, with what it takes to allocate the results."""

    run: Callable[[int, int, int, int, int], None]
    shape: tuple[int, ...]
    dense_shape: tuple[int, ...]  # the result's, outermost axis of memory first
    transpose: list[int] | None  # from the dense axes to the result's, where they differ
    dtype: np.dtype
    second_dtype: np.dtype  # of the indices
    size: int


_calls = Cache()
_plans = Cache()
_looked_at = Cache()  # inputs and targets that were found right, by all that the checks look at


def pool(
    kind: Kind,
    function: str,
    x: Any,
    sizes: tuple[Any, ...],
    shared: tuple[Any, ...],
    where: Any,
    out: Any,
    extra: tuple[Any, ...],
    own: dict[str, Any],
) -> Any:
    """The result of a window function.

    ``sizes`` are kernel_size and the rest of :data:`WINDOW`, or output_size alone for adaptive
    windows; ``shared`` are axes, nan_policy and min_count; ``extra`` and ``own`` the arguments of
    this kind, by position and by name.
    """
    if type(x) is np.ndarray:
        array, bits, restore = x, None, None
    else:
        array, bits, restore = incoming(function, "x", x)
    if not array.flags.aligned:
        array = aligned(array)
    seed = 0
    rng = own.pop("rng", None) if kind.random else None
    arguments = (function, sizes, shared, extra, own, array.ndim)
    try:
        key = dumps(arguments, 2)
        call = _calls.get(key)
    except ValueError:  # something that marshal does not know
        call = None
    if call is None:
        dtype_name(function, array, bits)
        call = _read(kind, function, array.ndim, sizes, shared, extra, own)
        if is_exact((sizes, shared, extra, list(own.values()))):
            _calls.keep(key, call)
    if kind.random:
        seed = draw_seed(function, rng, call.random)
    if where is not None or out is not None or not call.plain:
        return _carefully(call, array, bits, restore, where, out, seed)

    indices = call.indices
    key = (call.spec.text, array.dtype, bits, array.shape, array.strides, indices)
    plan = _plans.get(key)
    if plan is None:
        plan = _plans.keep(key, make_plan(call, array, bits))
    values = allocate(plan, plan.dtype)
    if indices == "none":
        plan.run(array.ctypes.data, values.ctypes.data, 0, 0, seed)
        return values if restore is None else restore(values, bits)
    places = allocate(plan, plan.second_dtype)
    plan.run(array.ctypes.data, values.ctypes.data, places.ctypes.data, 0, seed)
    return (values, places) if restore is None else (restore(values, bits), restore(places))


# --- reading the arguments -----------------------------------------------------------------


def _read(
    kind: Kind,
    function: str,
    ndim: int,
    sizes: tuple[Any, ...],
    shared: tuple[Any, ...],
    extra: tuple[Any, ...],
    own: dict[str, Any],
) -> Call:
    axes, nan_policy, min_count = shared
    adaptive = len(sizes) == 1
    own = _bind(kind, function, adaptive, extra, own)
    argument = "output_size" if adaptive else "kernel_size"
    axes = resolve_axes(function, axes, sizes[0], ndim, argument=argument)
    policy = check_word(function, "nan_policy", nan_policy, NAN_POLICIES)
    least = count(function, "min_count", min_count)
    indices = "none"
    if kind.indices:
        wanted = check_word(function, "indices", own.pop("indices", "plane"), INDICES)
        if check_bool(function, "return_indices", own.pop("return_indices", False)):
            indices = wanted
    reduction = kind.reduce(function, own, NUMPY)
    common = {"axes": axes, "parameters": reduction.parameters}
    if adaptive:
        spec = adaptive_spec(function, reduction.reducer, sizes[0], **common)
    else:
        include = own.get("count_include_pad", not kind.composite)
        check_bool(function, "count_include_pad", include)
        spec = pool_spec(
            function,
            reduction.reducer,
            sizes[0],
            **dict(zip(WINDOW, sizes[1:], strict=True)),
            count_include_pad=include if policy != "omit" else False,
            divisor_override=own.get("divisor_override"),
            **common,
        )
    return Call(
        spec=spec,
        indices=indices,
        policy=policy,
        min_count=least,
        absolute=reduction.absolute,
        alpha=kind.read(function, own, NUMPY)["alpha"] if kind.composite else None,
        random=kind.random and not reduction.parameters[0],
        dtypes=[
            d for d in REDUCERS[kind.reducer]["dtypes"] if is_floating(d) or not kind.composite
        ],
        plain=policy == "propagate"
        and least == 0
        and indices != "batch"
        and not reduction.absolute
        and not kind.composite,
    )


def _bind(
    kind: Kind, function: str, adaptive: bool, extra: tuple[Any, ...], own: dict[str, Any]
) -> dict[str, Any]:
    """The kind's own arguments by name. Raises ``TypeError`` as Python does."""
    names = own_names(kind, adaptive)
    required = [argument.name for argument in kind.arguments if argument.default is REQUIRED]
    if len(extra) > len(required):
        most = 2 + len(required)
        raise TypeError(
            f"{function}: takes {most} positional arguments, but {2 + len(extra)} were given"
        )
    bound = dict(zip(required, extra, strict=False))
    for name, value in own.items():
        if name in bound:
            raise TypeError(f"{function}: got multiple values for argument {name!r}")
        if name not in names:
            raise TypeError(f"{function}: got an unexpected argument {name!r}")
        bound[name] = value
    for name in required:
        if name not in bound:
            raise TypeError(f"{function}: misses the argument {name!r}")
    return bound


def own_names(kind: Kind, adaptive: bool) -> dict[str, tuple[Any, Any]]:
    """The arguments that only this kind has: name to (default, annotation)."""
    names: dict[str, tuple[Any, Any]] = {}
    if kind.reducer == "mean" and not adaptive and not kind.composite:
        names |= {"count_include_pad": (True, bool), "divisor_override": (None, int | None)}
    names |= {a.name: (a.default, a.annotation) for a in kind.arguments}
    if kind.random:
        names["rng"] = (None, int | np.random.Generator | None)
    if kind.indices:
        names |= {"return_indices": (False, bool), "indices": ("plane", str)}
    return names


def draw_seed(function: str, rng: Any, wanted: bool = True) -> int:
    """64 random bits from ``rng``: a seed as it is, a generator's next, or fresh entropy."""
    if rng is None:
        return int.from_bytes(os.urandom(8), "little")
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(0, 2**64, dtype=np.uint64)) if wanted else 0
    try:
        seed = operator.index(rng) if not isinstance(rng, (bool, np.bool_)) else None
    except TypeError:
        seed = None
    if seed is None:
        raise TypeError(
            f"{function}: rng={show(rng)} must be an int, a numpy.random.Generator or None, not "
            f"{article(type(rng).__name__)}"
        )
    if not 0 <= seed < 2**64:
        raise ValueError(f"{function}: rng={show(seed)} must be from 0 to 2**64 - 1")
    return seed


# --- plans and memory ----------------------------------------------------------------------


def make_plan(call: Call, array: np.ndarray, bits: str | None, taking: str = "all") -> Plan:
    """``taking`` says which elements take part, as :func:`infinitypool.plan.pool_runner`."""
    spec = call.spec
    dtype, shape, second = _result(call, array, bits)
    strides = element_strides(array)
    order = memory_order(array.shape, strides)
    result = result_dtype(spec.reducer, dtype)
    return Plan(
        run=_runner(call, array, dtype, contiguous_strides(shape, order), taking),
        shape=shape,
        dense_shape=tuple(shape[axis] for axis in order),
        transpose=None if order == sorted(order) else [order.index(i) for i in range(len(order))],
        dtype=array.dtype if result == dtype else np.dtype(result),
        second_dtype=second,
        size=prod(shape),
    )


def _runner(
    call: Call, array: np.ndarray, dtype: str, out_strides: Sequence[int], taking: str
) -> Callable[[int, int, int, int, int], None]:
    indices = "plane" if call.indices == "batch" else call.indices
    strides = element_strides(array)
    try:
        return pool_runner(call.spec, dtype, array.shape, strides, out_strides, indices, taking)
    except MemoryError:
        raise MemoryError(
            f"{call.spec.function}: no memory to plan windows for an input of shape {array.shape}"
        ) from None


def _result(
    call: Call, array: np.ndarray, bits: str | None
) -> tuple[str, tuple[int, ...], np.dtype]:
    """The input's dtype by name, the result's shape, and the dtype of the indices."""
    spec = call.spec
    dtype = dtype_name(spec.function, array, bits)
    spec.check_input(array.shape, dtype, call.dtypes)
    if call.min_count and not is_floating(dtype):
        raise ValueError(
            f"{spec.function}: min_count={show(call.min_count)} needs a dtype with NaN, not {dtype}"
        )
    shape = spec.output_shape(array.shape, WIDEST)
    second = "int64"
    if call.indices == "offset":
        second = spec.offset_dtype_for([array.shape[axis] for axis in spec.axes])
    return dtype, shape, np.dtype(second)


def allocate(plan: Plan, dtype: np.dtype) -> np.ndarray:
    nbytes = plan.size * dtype.itemsize
    if nbytes < RECYCLED_BYTES:
        dense = np.empty(plan.dense_shape, dtype)
    else:
        try:
            dense = np.ndarray(plan.dense_shape, dtype, buffer=_core.Block(nbytes))
        except MemoryError:
            raise MemoryError(
                f"a result of shape {plan.shape} and dtype {dtype} needs {nbytes} bytes"
            ) from None
    return dense if plan.transpose is None else dense.transpose(plan.transpose)


# --- the longer way ------------------------------------------------------------------------


def _carefully(
    call: Call,
    array: np.ndarray,
    bits: str | None,
    restore: Callable[..., Any] | None,
    where: Any,
    out: Any,
    seed: int,
) -> Any:
    function = call.spec.function
    named: dict[str, Any] = {}
    targets: list[np.ndarray] = []
    if out is not None:
        named = _outs(function, out, call.indices != "none")
        targets = _take_targets(call, array, bits, named)
    mask = None
    if where is not None:
        array, mask = valid.take_mask(function, where, array, targets)

    # A result that may still be refused, or is put together of two, is made in memory of its own.
    direct = call.policy != "raise" and call.alpha is None
    results = compute(call, array, bits, mask, seed, targets if direct else ())
    if out is None:
        if restore is not None:
            first, *others = results
            results = [restore(first, bits), *map(restore, others)]
        return results[0] if len(results) == 1 else tuple(results)
    if not direct:
        for target, result in zip(targets, results, strict=True):
            target[...] = result
    for target in named.values():
        if is_torch_tensor(target):
            sys.modules["torch"].autograd.graph.increment_version(target)
    return out


def compute(
    call: Call,
    array: np.ndarray,
    bits: str | None,
    mask: np.ndarray | None = None,
    seed: int = 0,
    targets: Sequence[np.ndarray] = (),
) -> list[np.ndarray]:
    """The result, and the indices where the call wants them; into ``targets`` if there are any."""
    spec = call.spec
    # Before anything is done with the elements, the dtype is looked at.
    floating = _takes(call, array, bits)
    omit = call.policy == "omit" and floating
    if call.absolute:
        array = valid.absolute(array, bits)
    results = _run(call, array, bits, mask, omit, seed, targets)
    values = results[0]
    if call.absolute:
        valid.drop_infinity(values, bits)
    if call.alpha is not None:
        mean = call._replace(spec=replace(spec, reducer="mean"))
        (means,) = _run(mean, array, bits, mask, omit, seed, ())
        results[0] = values = valid.mixture(call.alpha, values, means, bits)
    if call.policy == "raise" and floating and valid.is_nan(values, bits).any():
        at = valid.first_nan(spec, array, bits, mask)
        if at is not None:
            raise ValueError(f'{spec.function}: nan_policy="raise", and x has a NaN at {at}')
    if call.min_count:
        counts = count_valid(spec, array, bits, mask, omit)
        few = counts < min(call.min_count, 2**64 - 1)
        valid.set_nan(values, bits, np.broadcast_to(few, values.shape))
    if call.indices == "batch":
        valid.whole_places(spec, array.shape, results[1])
    return results


def _takes(call: Call, array: np.ndarray, bits: str | None) -> bool:
    """Refuse what this kind does not take; say whether it is floats."""
    key = (call.spec.text, array.dtype, bits, array.shape, call.indices, call.min_count)
    floating = _looked_at.get(key)
    if floating is None:
        floating = _looked_at.keep(key, is_floating(_result(call, array, bits)[0]))
    return floating


def count_valid(
    spec: PoolSpec, array: np.ndarray, bits: str | None, mask: np.ndarray | None, omit: bool
) -> np.ndarray:
    """How many valid elements each window has, in a shape that broadcasts to the result's."""
    elements = valid.valid_elements(array, bits, mask, omit, spec)
    sums = replace(spec, reducer="sum", parameters=(), count_include_pad=False, divisor_override=0)
    call = Call(sums, "none", "propagate", 0, False, None, False, ("uint8",), True)
    return _run(call, elements, None, None, False, 0, ())[0]


def _run(
    call: Call,
    array: np.ndarray,
    bits: str | None,
    mask: np.ndarray | None,
    omit: bool,
    seed: int,
    targets: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Make or find the native plan and run it."""
    taking = ("mask_omit" if omit else "mask") if mask is not None else "omit" if omit else "all"
    key = (call.spec.text, array.dtype, bits, array.shape, array.strides, call.indices, taking)
    if targets:
        key += tuple(target.strides for target in targets)
    plan = _plans.get(key)
    if plan is None:
        plan = make_plan(call, array, bits, taking)
        if targets:
            dtype = dtype_name(call.spec.function, array, bits)
            strides = element_strides(targets[0])
            plan = plan._replace(run=_runner(call, array, dtype, strides, taking))
        _plans.keep(key, plan)
    if targets:
        results = list(targets)
    else:
        results = [allocate(plan, plan.dtype)]
        if call.indices != "none":
            results.append(allocate(plan, plan.second_dtype))
    plan.run(
        address(array),
        address(results[0]),
        address(results[1]) if len(results) > 1 else 0,
        0 if mask is None else address(mask),
        seed,
    )
    return results


# --- out= ----------------------------------------------------------------------------------


def _outs(function: str, out: Any, pair: bool) -> dict[str, Any]:
    if not pair:
        return {"out": out}
    if isinstance(out, tuple) and len(out) == 2:
        return {"out[0]": out[0], "out[1]": out[1]}
    raise TypeError(f"{function}: out must be a tuple (values, indices) of two arrays")


def _take_targets(
    call: Call, array: np.ndarray, bits: str | None, named: dict[str, Any]
) -> list[np.ndarray]:
    """The ``out`` arguments as NumPy arrays that can take the results."""
    function = call.spec.function
    arrays, layouts = [], []
    for name, target in named.items():
        found, kind = outgoing(function, name, target)
        arrays.append(found)
        layouts.append((kind, found.dtype, found.shape, found.strides))

    # What depends on layouts alone is checked once, the rest at every call.
    key = (call.spec.text, array.dtype, bits, array.shape, call.indices, call.min_count, *layouts)
    if key not in _looked_at:
        _check_layouts(call, array, bits, list(zip(named, arrays, layouts, strict=True)))
        _looked_at.keep(key, True)
    for name, target in zip(named, arrays, strict=True):
        check_writeable(function, name, target)
        if overlap(target, array):
            raise ValueError(f"{function}: {name} overlaps x in memory")
    if len(arrays) == 2 and overlap(*arrays):
        raise ValueError(f"{function}: out[0] and out[1] overlap in memory")
    return arrays


def _check_layouts(
    call: Call, array: np.ndarray, bits: str | None, rows: list[tuple[str, np.ndarray, tuple]]
) -> None:
    function = call.spec.function
    dtype, shape, second = _result(call, array, bits)
    dtypes = (result_dtype(call.spec.reducer, dtype), second.name)
    for (name, target, (kind, *_)), wanted in zip(rows, dtypes, strict=False):
        check_result(function, name, target, kind, shape, wanted)
        check_apart(function, name, target)
    strides = [element_strides(target) for _, target, _ in rows]
    if len(strides) == 2 and any(
        a != b and size > 1 for a, b, size in zip(*strides, shape, strict=True)
    ):
        raise ValueError(f"{function}: out[0] and out[1] must have the same strides in elements")

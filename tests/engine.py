"""The native core called directly, with geometry from the oracle: what no front offers."""

from __future__ import annotations

import math

import numpy as np

import oracle
from infinitypool import _core


def _strides(a):
    return [s // a.itemsize for s in a.strides]


def offset_dtype(kernel_size):
    size = math.prod(kernel_size)
    for bits in (8, 16, 32):
        if size <= 2**bits:
            return np.dtype(f"uint{bits}")
    return np.dtype(np.uint64)


def _geometry(lines):
    return (
        [g.kernel for g in lines],
        [g.stride for g in lines],
        [g.before for g in lines],
        [g.after for g in lines],
        [g.dilation for g in lines],
        [g.out for g in lines],
    )


def forward(
    x,
    reducer,
    kernel_size,
    *,
    indices="none",
    truncate=False,
    count_include_pad=True,
    divisor_override=None,
    out=None,
    where=None,
    **arguments,
):
    """(values, indices or None) from ``_core.Pool``."""
    axes, lines = oracle.plan(x.shape, kernel_size, **arguments)
    shape = oracle.output_shape(x.shape, kernel_size, **arguments)
    if out is None:
        dtype = oracle.sum_dtype(x.dtype) if reducer == "sum" else x.dtype
        out = np.empty(shape, dtype)
    if indices != "none" and where is None:
        where = np.empty(shape, np.int64 if indices == "plane" else offset_dtype(kernel_size))
    pool = _core.Pool(
        reducer,
        x.dtype.name,
        list(x.shape),
        _strides(x),
        _strides(out),
        list(axes),
        *_geometry(lines),
        count_include_pad and arguments.get("padding") != "same",
        divisor_override or 0,
        truncate,
        indices,
    )
    pool.run(x.ctypes.data, out.ctypes.data, 0 if where is None else where.ctypes.data)
    return out, where


def backward(
    x,
    grad,
    reducer,
    kernel_size,
    *,
    offsets=None,
    count_include_pad=True,
    divisor_override=None,
    grad_in=None,
    **arguments,
):
    axes, lines = oracle.plan(x.shape, kernel_size, **arguments)
    if grad_in is None:
        grad_in = np.full(x.shape, 77, grad.dtype)
    pool = _core.PoolBackward(
        reducer,
        grad.dtype.name,
        list(x.shape),
        _strides(grad),
        () if offsets is None else _strides(offsets),
        _strides(grad_in),
        list(axes),
        *_geometry(lines),
        count_include_pad and arguments.get("padding") != "same",
        divisor_override or 0,
    )
    pool.run(grad.ctypes.data, 0 if offsets is None else offsets.ctypes.data, grad_in.ctypes.data)
    return grad_in

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


def _windows(lines):
    """Per axis (kernel, stride, before, after, dilation, output size), or (output size,)."""
    return [
        (line.out,)
        if isinstance(line, oracle.Listed)
        else (line.kernel, line.stride, line.before, line.after, line.dilation, line.out)
        for line in lines
    ]


def forward(
    x,
    reducer,
    size,
    *,
    indices="none",
    truncate=False,
    count_include_pad=True,
    divisor_override=None,
    out=None,
    where=None,
    parameters=(),
    valid="all",
    mask=None,
    seed=0,
    **geometry,
):
    """(values, indices or None) from ``_core.Pool``; ``where`` takes the indices."""
    axes, lines = oracle.plan(x.shape, size, **geometry)
    shape = oracle.output_shape(x.shape, size, **geometry)
    if out is None:
        dtype = oracle.sum_dtype(x.dtype) if reducer == "sum" else x.dtype
        out = np.empty(shape, dtype)
    if indices != "none" and where is None:
        longest = [line.kernel for line in lines]
        where = np.empty(shape, np.int64 if indices == "plane" else offset_dtype(longest))
    pool = _core.Pool(
        reducer,
        x.dtype.name,
        list(x.shape),
        _strides(x),
        _strides(out),
        list(axes),
        _windows(lines),
        count_include_pad and geometry.get("padding") != "same",
        divisor_override or 0,
        truncate,
        indices,
        [float(p) for p in parameters],
        valid,
    )
    pool.run(
        x.ctypes.data,
        out.ctypes.data,
        0 if where is None else where.ctypes.data,
        0 if mask is None else mask.ctypes.data,
        seed,
    )
    return out, where


def backward(
    x,
    grad,
    reducer,
    size,
    *,
    offsets=None,
    count_include_pad=True,
    divisor_override=None,
    grad_in=None,
    parameters=(),
    result=None,
    **geometry,
):
    """The gradient; ``result``, the forward call's, is for gradients that weigh by it and ``x``."""
    axes, lines = oracle.plan(x.shape, size, **geometry)
    if grad_in is None:
        grad_in = np.full(x.shape, 77, grad.dtype)
    weighted = result is not None
    pool = _core.PoolBackward(
        reducer,
        grad.dtype.name,
        list(x.shape),
        _strides(grad),
        () if offsets is None else _strides(offsets),
        _strides(grad_in),
        list(axes),
        _windows(lines),
        count_include_pad and geometry.get("padding") != "same",
        divisor_override or 0,
        [float(p) for p in parameters],
        _strides(x) if weighted else (),
        _strides(result) if weighted else (),
    )
    pool.run(
        grad.ctypes.data,
        0 if offsets is None else offsets.ctypes.data,
        grad_in.ctypes.data,
        x.ctypes.data if weighted else 0,
        result.ctypes.data if weighted else 0,
    )
    return grad_in

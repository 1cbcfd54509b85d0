"""Lengths swept around every vector width, misaligned, between sentinels and guard pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import oracle
from engine import backward, forward, offset_dtype
from strategies import DTYPES, OPS, Guarded, arranged, numbers

LENGTHS = (*range(1, 71), *range(120, 136))
# kernel, stride, padding, dilation along the swept line
WINDOWS = (
    (2, 2, (0, 0), 1),
    (3, 1, (1, 1), 1),
    (3, 2, (1, 1), 1),
    (5, 1, (2, 2), 1),
    (4, 3, (0, 3), 1),
    (2, 1, (1, 0), 3),
    (13, 1, (6, 6), 1),
    (17, 2, (9, 9), 1),
    (3, 5, (4, 2), 2),
)


def _windows(length, turn=None):
    """Those that fit a line of this length; two a turn, so that over a sweep each meets many
    remainders."""
    turn = length if turn is None else turn
    fit = [w for w in WINDOWS if length + sum(w[2]) >= w[3] * (w[0] - 1) + 1]
    return [fit[(turn * 2 + i) % len(fit)] for i in range(min(2, len(fit)))]


def _pool_into_guarded(x, op, kernel, lead, note, **arguments):
    expected = oracle.pool(x, op, kernel, **arguments)
    shape = expected.values.shape
    dtype = oracle.sum_dtype(x.dtype) if op == "sum" else x.dtype
    out = Guarded(shape, dtype, lead)
    where, kind = None, "none"
    if op in ("max", "min"):
        kind = ("none", "plane", "offset")[lead % 3]
        if kind != "none":
            where = Guarded(shape, np.int64 if kind == "plane" else offset_dtype(kernel), lead)
    forward(
        x, op, kernel, out=out.out, indices=kind, where=where.out if where else None, **arguments
    )
    if expected.bound is not None:
        oracle.assert_close(out.out, dtype, expected, note)
    else:
        oracle.assert_same_bits(out.out, expected.values, note)
    out.check(note)
    if where:
        found = expected.plane >= 0
        want = expected.plane if kind == "plane" else expected.offset
        np.testing.assert_array_equal(where.out[found], want[found], note)
        where.check(note)


@pytest.mark.parametrize("dtype", oracle.ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("op", OPS)
def test_line_lengths(op, dtype):
    """The pooled line innermost: every length, two rows, at every start within a vector."""
    if dtype not in DTYPES[op]:
        with pytest.raises((TypeError, ValueError)):
            forward(np.zeros((1, 8), dtype), op, (2,))
        return
    for length in LENGTHS:
        rng = np.random.default_rng(length)
        x = arranged(numbers(rng, (2, length), dtype, "few"), "misaligned", rng)
        for kernel, stride, padding, dilation in _windows(length):
            arguments = {"stride": (stride,), "padding": (padding,), "dilation": (dilation,)}
            note = f"{op} {dtype} length {length} kernel {kernel} {arguments}"
            _pool_into_guarded(x, op, (kernel,), length % 9, note, axes=(1,), **arguments)


@pytest.mark.parametrize("dtype", oracle.ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("op", OPS)
def test_plane_widths(op, dtype):
    """Two pooled axes, the width swept: rows that end anywhere in a vector."""
    if dtype not in DTYPES[op]:
        with pytest.raises((TypeError, ValueError)):
            forward(np.zeros((8, 8), dtype), op, (2, 2))
        return
    for length in LENGTHS[::3]:
        rng = np.random.default_rng(length)
        x = arranged(numbers(rng, (5, length), dtype, "few"), "misaligned", rng)
        kernel, stride, padding, dilation = _windows(length)[0]
        arguments = {
            "stride": (1, stride),
            "padding": ((1, 0), padding),
            "dilation": (1, dilation),
            "axes": (0, 1),
        }
        note = f"{op} {dtype} width {length} kernel (2, {kernel}) {arguments}"
        _pool_into_guarded(x, op, (2, kernel), length % 9, note, **arguments)


@pytest.mark.parametrize("dtype", oracle.ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("op", OPS)
def test_channel_counts(op, dtype):
    """Channels innermost: every count of them."""
    if dtype not in DTYPES[op]:
        with pytest.raises((TypeError, ValueError)):
            forward(np.zeros((8, 8, 1), dtype), op, (2, 2), axes=(0, 1))
        return
    for channels in LENGTHS:
        rng = np.random.default_rng(channels)
        x = arranged(numbers(rng, (4, 5, channels), dtype, "few"), "misaligned", rng)
        kernel = (3, 2) if channels % 2 else (2, 3)
        arguments = {"stride": (1 + channels % 3, 2), "padding": ((1, 1), (0, 1)), "axes": (0, 1)}
        note = f"{op} {dtype} channels {channels} kernel {kernel} {arguments}"
        _pool_into_guarded(x, op, kernel, channels % 9, note, **arguments)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("axis", [0, 1])
def test_backward_lengths(axis, op, dtype):
    """Gradients in planes (axis 1 pooled) and channels last (axis 0), exact on small integers."""
    for length in LENGTHS:
        rng = np.random.default_rng(length)
        shape = (3, length) if axis else (7, length)
        x = numbers(rng, shape, dtype, "few")
        pooled = length if axis else 7
        for kernel, stride, padding, dilation in _windows(pooled, length):
            arguments = {
                "stride": (stride,),
                "padding": (padding,),
                "dilation": (dilation,),
                "axes": (axis,),
            }
            note = f"{op} {dtype} {shape} kernel {kernel} {arguments}"
            out, where = forward(
                x, op, (kernel,), indices="offset" if op in ("max", "min") else "none", **arguments
            )
            grad = rng.integers(-3, 4, out.shape).astype(dtype)
            extra = {"divisor_override": 4} if op == "mean" else {}
            got = Guarded(x.shape, dtype, length % 9)
            backward(x, grad, op, (kernel,), offsets=where, grad_in=got.out, **arguments, **extra)
            want = oracle.gradient(x, grad, op, (kernel,), **arguments, **extra)
            np.testing.assert_array_equal(got.out.astype(np.float64), want, note)
            got.check(note)


GUARD_WORKER = Path(__file__).with_name("guard_pages.py")


def test_nothing_is_read_or_written_beyond_the_buffers():
    """Inputs and outputs that end (or begin) at a page without access: one stray read is a crash.

    In a process of its own, so that a crash is a failure here and not the end of the run."""
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(GUARD_WORKER.parents[1]), *sys.path])
    )
    done = subprocess.run(
        [sys.executable, str(GUARD_WORKER)],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (
        f"exit {done.returncode} at {done.stdout[-300:]}\n{done.stderr[-3000:]}"
    )
    assert done.stdout.strip().endswith("checked 5000 calls or more"), done.stdout[-300:]

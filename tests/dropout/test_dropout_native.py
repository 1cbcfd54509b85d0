"""The kernels: the mask that an independent generator predicts, wherever and however it is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from digests import digests, inputs
from philox import halves, keep, philox, threshold

from infinitypool import _core

DTYPES = {
    "float64": torch.float64, "float32": torch.float32, "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}  # fmt: skip
SCALE = 1.4375  # exact in every dtype


def test_the_generator_gives_the_published_numbers():
    """The known answers that come with the generator's own publication."""
    known = {
        ((0, 0, 0, 0), (0, 0)): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)): (
            0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1,
        ),
    }  # fmt: skip
    for (counter, key), words in known.items():
        assert tuple(int(word) for word in philox(counter, key)) == words


def kept(n, p, seed):
    """What the kernel keeps of n ones."""
    ones = np.ones(n, np.float32)
    out = np.empty(n, np.float32)
    _core.Dropout("float32", p, 1.0, 0.0, 0.0).run(ones.ctypes.data, 0, out.ctypes.data, n, seed)
    return out != 0


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 0x243F6A8885A308D3])
@pytest.mark.parametrize("p", [0.0, 1e-4, 0.1, 1 / 3, 0.5, 0.9, 1 - 2**-20, 1.0])
def test_the_mask(p, seed):
    n = 70_001
    np.testing.assert_array_equal(kept(n, p, seed), keep(n, p, seed))


@pytest.mark.parametrize("n", [*range(1, 20), *range(120, 140), 255, 256, 257, 1023, 1024, 1025,
                               2047, 2049, 8191, 32767, 32768, 32769, 131072 + 5])  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_lengths_and_starts(dtype, n):
    """Nothing is written in front of a result or behind its end, wherever it starts."""
    kind = DTYPES[dtype]
    mask = torch.from_numpy(keep(n, 0.4, 11))
    x = inputs(kind, n)
    want = _reference(x, mask, SCALE)
    kernel = _core.Dropout(dtype, 0.4, SCALE, 0.0, 0.0)
    for start in (0, 1, 3):
        source = torch.full((n + 16,), 9.0, dtype=kind)
        out = torch.full((n + 80,), -77.0, dtype=kind)
        source[start : start + n] = x
        out_start = 40 + start
        kernel.run(
            source.data_ptr() + start * kind.itemsize, 0,
            out.data_ptr() + out_start * kind.itemsize, n, 11,
        )  # fmt: skip
        _same(out[out_start : out_start + n], want)
        assert (out[:out_start] == -77).all() and (out[out_start + n :] == -77).all()
        place = source.data_ptr() + start * kind.itemsize
        kernel.run(place, 0, place, n, 11)
        _same(source[start : start + n], want)
        assert (source[:start] == 9).all() and (source[start + n :] == 9).all()


def _reference(x, mask, scale, kept_=0.0, dropped=0.0, residual=None):
    """In float32 or wider, rounded once; every step is an operation of its own."""
    wide = x if x.dtype == torch.float64 else x.float()

    def chosen(a, b):
        a, b = (torch.tensor(v, dtype=torch.float64) for v in (a, b))
        return torch.where(mask, a, b).to(wide.dtype)

    y = wide * chosen(scale, 0.0)
    if kept_ or dropped:
        y = y + chosen(kept_, dropped)
    if residual is not None:
        y = y + residual.to(wide.dtype)
    return y.to(x.dtype)


def _same(ours, want):
    """Every bit, the sign of zero as well; any NaN equals any NaN."""
    assert torch.equal(ours.isnan(), want.isnan())
    a, b = (torch.where(t.isnan(), 1.0, t) for t in (ours, want))
    assert torch.equal(a, b) and torch.equal(a.signbit(), b.signbit())


@pytest.mark.parametrize("n", [128, 1000, 40_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_becomes_of_elements(dtype, n):
    """Special values, what is added, the residual: as PyTorch's arithmetic has it."""
    x = inputs(DTYPES[dtype], n)
    residual = inputs(DTYPES[dtype], n + 7)[7:].clone()
    for p, scale, (kept_, dropped) in [
        (0.5, 2.0, (0.0, 0.0)), (0.3, 1 / 0.7, (0.0, 0.0)), (0.3, 0.9, (0.2, -0.7)),
        (1.0, 0.0, (0.0, 0.0)), (0.5, 1.0, (0.0, 3.0)),
    ]:  # fmt: skip
        mask = torch.from_numpy(keep(n, p, 5))
        kernel = _core.Dropout(dtype, p, scale, kept_, dropped)
        for other in (None, residual):
            want = _reference(x, mask, scale, kept_, dropped, other)
            address = 0 if other is None else other.data_ptr()
            out = torch.empty_like(x)
            kernel.run(x.data_ptr(), address, out.data_ptr(), n, 5)
            _same(out, want)
            inside = x.clone()
            kernel.run(inside.data_ptr(), address, inside.data_ptr(), n, 5)
            _same(inside, want)
            if other is not None:
                over = other.clone()
                kernel.run(x.data_ptr(), over.data_ptr(), over.data_ptr(), n, 5)
                _same(over, want)


def test_ties_are_settled_by_the_second_stream():
    """Upper halves equal to the threshold's: some of them drop, as their lower halves say."""
    n, seed = 4_000_000, 17
    for p in (0.3, 0.7123456, 1e-5, 1 - 1e-5):
        upper, lower = threshold(p) >> 16, threshold(p) & 0xFFFF
        assert lower
        ties = halves(n, seed, 0) == upper
        want = keep(n, p, seed)
        got = kept(n, p, seed)
        assert ties.sum() > 30
        assert 0 < want[ties].sum() < ties.sum(), "neither all of them nor none"
        np.testing.assert_array_equal(got, want)
    half = halves(n, seed, 0) == threshold(0.5) >> 16
    assert half.sum() > 30 and kept(n, 0.5, seed)[half].all(), "a whole threshold needs no second"


def test_probabilities_next_to_each_other_differ():
    """A threshold of 32 bits: an element that lies between two of them is found."""
    n, seed = 1_000_000, 3
    draw = halves(n, seed, 0) << 16 | halves(n, seed, 1)
    for i in range(0, n, 99_991):
        at, above = int(draw[i]) / 2**32, (int(draw[i]) + 1) / 2**32
        assert kept(i + 1, at, seed)[i] and not kept(i + 1, above, seed)[i]


def test_factors():
    """The same draws as numbers."""
    n = 1000
    factors, offsets = np.empty(n), np.empty(n)
    kernel = _core.Dropout("float32", 0.6, 2.5, 0.5, -0.25)
    kernel.factors(factors.ctypes.data, offsets.ctypes.data, n, 2**64 - 3)
    mask = keep(n, 0.6, 2**64 - 3)
    np.testing.assert_array_equal(factors, np.where(mask, 2.5, 0.0))
    np.testing.assert_array_equal(offsets, np.where(mask, 0.5, -0.25))
    factors[:] = 7
    kernel.factors(factors.ctypes.data, 0, n - 1, 2**64 - 3)
    np.testing.assert_array_equal(factors[:-1], np.where(mask, 2.5, 0.0)[:-1])
    assert factors[-1] == 7


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_nothing(dtype, threads):
    """Also where results go around the cache, and in place, where they do not."""
    n = 4_500_007 if dtype != "float64" else 2_500_007
    x = inputs(DTYPES[dtype], n)
    kernel = _core.Dropout(dtype, 0.35, SCALE, 0.0, 0.0)
    want = _reference(x, torch.from_numpy(keep(n, 0.35, 8)), SCALE)
    for count in (1, 2, 3, 7):
        threads(count)
        out = torch.full_like(x, -5.0)
        kernel.run(x.data_ptr(), 0, out.data_ptr(), n, 8)
        _same(out, want)
        inside = x.clone()
        kernel.run(inside.data_ptr(), 0, inside.data_ptr(), n, 8)
        _same(inside, want)
        room = torch.full((n + 64,), -77.0, dtype=x.dtype)  # lines of the cache start elsewhere
        kernel.run(x.data_ptr(), 0, room.data_ptr() + 5 * x.element_size(), n, 8)
        _same(room[5 : n + 5], want)
        assert (room[:5] == -77).all() and (room[n + 5 :] == -77).all()


def test_instruction_sets_give_the_same_bits():
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), *(p for p in sys.path if p)])
    reference = digests()
    assert len(reference) == 1920
    for isa in _core.isas():
        done = subprocess.run(
            [sys.executable, str(here / "digests.py")],
            env=dict(os.environ, INFINITYPOOL_ISA=isa, PYTHONPATH=path),
            capture_output=True, check=False, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        answer = json.loads(done.stdout)
        assert answer["isa"] == isa
        different = [key for key in reference if answer["digests"][key] != reference[key]]
        assert not different, f"{isa}: {len(different)} differ: {different[:5]}"


def test_bad_arguments():
    for p in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(ValueError):
            _core.Dropout("float32", p, 1.0, 0.0, 0.0)
    for dtype in ("int32", "bool", "float8"):
        with pytest.raises(ValueError):
            _core.Dropout(dtype, 0.5, 1.0, 0.0, 0.0)
    for seed in (-1, 2**64, 1.5, None):
        with pytest.raises(TypeError):
            _core.Dropout("float32", 0.5, 1.0, 0.0, 0.0).run(0, 0, 0, 0, seed)
    _core.Dropout("float32", 0.5, 1.0, 0.0, 0.0).run(0, 0, 0, 0, 0)  # nothing of nothing

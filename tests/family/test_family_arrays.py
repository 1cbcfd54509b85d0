"""What comes in and goes out: PyTorch's tensors, JAX's arrays, bfloat16, out=, masks of others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import infinitypool as ip
import oracle
from strategies import ADAPTIVE, KINDS, numbers


def _tensor(x):
    """A tensor with the same bits."""
    if x.dtype == oracle.BFLOAT16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def _array(t):
    if t.dtype == torch.bfloat16:
        return t.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return t.numpy()


PAIRS = [(name, dtype) for name, kind in KINDS.items() for dtype in kind.dtypes]


@pytest.mark.parametrize("kind, dtype", PAIRS, ids=lambda v: str(v))
def test_torch_tensors(kind, dtype):
    kind = KINDS[kind]
    x = numbers(np.random.default_rng(0), (3, 8, 9), dtype, "few")
    t = _tensor(x)
    for adaptive in (False, True)[: 1 + kind.adaptive]:
        got = kind.call(t, 2, adaptive)
        assert type(got) is torch.Tensor and got.device.type == "cpu"
        kind.check(_array(got), x, 2, adaptive=adaptive)
        got = kind.call(t.transpose(0, 2), 2, adaptive, axes=(0, 1))
        kind.check(_array(got), x.transpose(2, 1, 0), 2, adaptive=adaptive, axes=(0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_torch_masks_and_outs(kind):
    kind = KINDS[kind]
    rng = np.random.default_rng(1)
    x, mask = rng.standard_normal((4, 6)).astype(np.float32), rng.random((4, 6)) < 0.7
    want = kind.call(x, 2, where=mask)
    oracle.assert_same_bits(kind.call(x, 2, where=torch.from_numpy(mask)), want)
    got = kind.call(torch.from_numpy(x), 2, where=torch.from_numpy(mask.T.copy()).T)
    assert type(got) is torch.Tensor
    oracle.assert_same_bits(got.numpy(), want)
    out = torch.zeros(2, 6)[:, ::2]
    assert kind.call(torch.from_numpy(x), 2, where=mask, out=out) is out
    oracle.assert_same_bits(out.numpy(), want)


@pytest.mark.parametrize("adaptive", [False, True], ids=["windows", "adaptive"])
@pytest.mark.parametrize("convention", ["plane", "batch", "offset"])
def test_torch_indices(convention, adaptive):
    t = torch.arange(32.0).reshape(2, 4, 4)
    function = KINDS["max_pool"].function(adaptive)
    values, indices = function(t, 2, return_indices=True, indices=convention)
    assert type(values) is type(indices) is torch.Tensor
    assert indices.dtype == (torch.uint8 if convention == "offset" else torch.int64)
    want = function(t.numpy(), 2, return_indices=True, indices=convention)
    oracle.assert_same_bits(values.numpy(), want[0])
    oracle.assert_same_bits(indices.numpy(), want[1])


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_jax_arrays(kind, name):
    kind = KINDS[kind]
    x = numbers(np.random.default_rng(0), (3, 8, 9), oracle.dtype_of(name))
    for adaptive in (False, True)[: 1 + kind.adaptive]:
        got = kind.call(jnp.asarray(x), 2, adaptive)
        assert isinstance(got, jax.Array)
        kind.check(np.asarray(got), x, 2, adaptive=adaptive)


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_bfloat16(kind):
    kind = KINDS[kind]
    x = np.arange(16).reshape(4, 4).astype(ml_dtypes.bfloat16)
    got = kind.call(x, 2)
    assert isinstance(got, np.ndarray) and got.dtype == ml_dtypes.bfloat16
    kind.check(got, x, 2)
    out = np.zeros((2, 2), ml_dtypes.bfloat16)
    assert kind.call(x, 2, out=out) is out
    oracle.assert_same_bits(out, got)


@pytest.mark.parametrize("kind", KINDS)
def test_read_only_memory(kind):
    kind = KINDS[kind]
    x, mask = np.arange(16.0).reshape(4, 4), np.eye(4, dtype=bool)
    want = kind.call(x, 2, where=mask)
    x.flags.writeable = mask.flags.writeable = False
    oracle.assert_same_bits(kind.call(x, 2, where=mask), want)
    lists = kind.call(x, 2, where=mask.tolist()) if kind.name == "max_pool" else want
    oracle.assert_same_bits(lists, want)


def test_the_table_of_kinds_is_whole():
    """Every array function of the package that pools by a window is a row of the table."""
    named = {n for n in dir(ip) if n.endswith("_pool")}
    others = {"fractional_max_pool", "blur_pool", "spatial_pyramid_pool"}
    assert named == set(KINDS) | {f"adaptive_{n}" for n in ADAPTIVE} | others
    for kind in KINDS.values():
        listed = {d.name for d in kind.dtypes}
        for dtype in oracle.ALL:
            x = np.zeros((4, 4), dtype)
            if dtype.name in listed:
                assert kind.call(x, 2).shape == (2, 2)
            else:
                with pytest.raises(TypeError, match=kind.name):
                    kind.call(x, 2)

"""What comes in and what goes out: out=, DLPack, bfloat16, empty and enormous arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import infinitypool as ip
import oracle
from strategies import DTYPES, OPS, numbers

FUNCTIONS = {"max": ip.max_pool, "min": ip.min_pool, "mean": ip.avg_pool, "sum": ip.sum_pool}
TORCH_DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    )
}


def _tensor(x):
    """A tensor with the same bits."""
    if x.dtype == oracle.BFLOAT16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def _array(t):
    if t.dtype == torch.bfloat16:
        return t.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return t.numpy()


PAIRS = [(op, d) for op in OPS for d in DTYPES[op]]


@pytest.mark.parametrize("op, dtype", PAIRS, ids=lambda v: str(v))
def test_torch_tensors_come_in_and_go_out(op, dtype):
    x = numbers(np.random.default_rng(0), (3, 8, 9), dtype, "wide")
    t = _tensor(x)
    assert t.dtype == TORCH_DTYPES[dtype.name]
    got = FUNCTIONS[op](t, 2)
    assert type(got) is torch.Tensor and got.device.type == "cpu"
    oracle.assert_pooled(_array(got), x, op, (2, 2))
    got = FUNCTIONS[op](t.transpose(0, 2), (2, 2), axes=(0, 1))
    oracle.assert_pooled(_array(got), x.transpose(2, 1, 0), op, (2, 2), axes=(0, 1))


def test_torch_indices_are_tensors():
    t = torch.arange(16.0).reshape(4, 4)
    values, indices = ip.max_pool(t, 2, return_indices=True)
    assert type(values) is type(indices) is torch.Tensor and indices.dtype == torch.int64
    want = torch.nn.functional.max_pool2d(t[None], 2, return_indices=True)
    assert torch.equal(values, want[0][0]) and torch.equal(indices, want[1][0])


def test_torch_out():
    t = torch.arange(16.0).reshape(4, 4)
    out = torch.zeros(2, 2)
    assert ip.max_pool(t, 2, out=out) is out
    assert out.tolist() == [[5, 7], [13, 15]]
    out = torch.zeros(2, 4)[:, ::2]
    assert ip.max_pool(t, 2, out=out) is out
    assert out.tolist() == [[5, 7], [13, 15]]


def test_torch_tensors_are_not_copied(monkeypatch):
    """The core must see the tensor's own address."""
    seen = _watch(monkeypatch)
    shape = (731, 5)  # no other test's: a plan that is cached is not watched
    t = torch.zeros(shape)
    ip.max_pool(t, 2)
    assert t.data_ptr() in seen
    j = jnp.zeros(shape, np.float32)
    ip.max_pool(j, 2)
    assert j.unsafe_buffer_pointer() in seen


def _watch(monkeypatch):
    """Collects every input address that reaches the core."""
    from infinitypool import _core

    seen = []

    class Watched:
        def __init__(self, *arguments, **named):
            self.pool = Real(*arguments, **named)

        def run(self, x, *others):
            seen.append(x)
            return self.pool.run(x, *others)

    Real = _core.Pool
    monkeypatch.setattr(_core, "Pool", Watched)
    return seen


@pytest.mark.parametrize(
    "name", ["float32", "float16", "bfloat16", "int32", "uint8", "int8", "bool"]
)
@pytest.mark.parametrize("op", OPS)
def test_jax_arrays_come_in_and_go_out(op, name):
    if name == "bool" and op in ("mean", "sum"):
        with pytest.raises(TypeError):
            FUNCTIONS[op](jnp.zeros((4, 4), bool), 2)
        return
    if op == "sum" and name in ("int32", "uint8", "int8"):
        name = "float32"  # 64-bit integers are off in JAX unless it is told otherwise
    x = numbers(np.random.default_rng(0), (3, 8, 9), oracle.dtype_of(name))
    got = FUNCTIONS[op](jnp.asarray(x), 2)
    assert isinstance(got, jax.Array)
    oracle.assert_pooled(np.asarray(got), x, op, (2, 2))


def test_numpy_bfloat16_in_and_out():
    x = np.arange(16).reshape(4, 4).astype(ml_dtypes.bfloat16)
    for op in OPS:
        got = FUNCTIONS[op](x, 2)
        assert isinstance(got, np.ndarray) and got.dtype == ml_dtypes.bfloat16
        oracle.assert_pooled(got, x, op, (2, 2))
    out = np.zeros((2, 2), ml_dtypes.bfloat16)
    assert ip.avg_pool(x, 2, out=out) is out
    assert out.astype(float).tolist() == [[2.5, 4.5], [10.5, 12.5]]


@pytest.mark.parametrize("op, dtype", PAIRS, ids=lambda v: str(v))
def test_subnormal_and_extreme_values_survive(op, dtype):
    if oracle.is_float(dtype):
        info = ml_dtypes.finfo(dtype)
        tiny, low, high = info.smallest_subnormal, info.min, info.max
        x = np.array([[tiny, -tiny, low, high, info.tiny, -info.tiny]], dtype)
    elif dtype == oracle.BOOL:
        x = np.array([[True, False, False, False, True, True]])
    else:
        info = np.iinfo(dtype)
        x = np.array([[info.min, info.max, info.min, info.min, info.max, info.max]], dtype)
    if op == "mean" and dtype in (np.int64, np.uint64):
        x = (x // 4).astype(dtype)
    oracle.assert_pooled(FUNCTIONS[op](x, (2,)), x, op, (2,))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (0, 0, 8, 8), (0, 8, 8)])
@pytest.mark.parametrize("op", OPS)
def test_empty_batches(op, shape):
    x = np.zeros(shape, np.float32)
    got = FUNCTIONS[op](x, 3, stride=2, padding=1)
    assert got.shape == (*shape[:-2], 4, 4) and got.dtype == np.float32
    out = np.zeros(got.shape, np.float32)
    assert FUNCTIONS[op](x, 3, stride=2, padding=1, out=out) is out
    if op in ("max", "min"):
        values, indices = FUNCTIONS[op](x, 3, stride=2, padding=1, return_indices=True)
        assert values.shape == indices.shape == got.shape and indices.dtype == np.int64
    x = np.zeros((8, 8, 0), np.float32)
    assert FUNCTIONS[op](x, 2, axes=(0, 1)).shape == (4, 4, 0)


def test_numpy_subclasses_and_scalars():
    class Mine(np.ndarray):
        pass

    x = np.arange(16.0).reshape(4, 4)
    got = ip.max_pool(x.view(Mine), 2)
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(np.asarray(got), [[5, 7], [13, 15]])
    k = np.int64(2)
    np.testing.assert_array_equal(ip.max_pool(x, k, stride=(k, k)), [[5, 7], [13, 15]])
    np.testing.assert_array_equal(ip.max_pool(x, np.array([2, 2])), [[5, 7], [13, 15]])
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(ip.max_pool(frozen, 2), [[5, 7], [13, 15]])


def test_more_than_two_to_the_31_elements_in_a_plane():
    """A plane of 70000 by 40000 that exists only by its strides: places beyond 32 bits."""
    column = np.arange(70000) % 251
    column[69999] = 255
    x = np.broadcast_to(column.astype(np.uint8)[:, None], (70000, 40000))
    assert x.size > 2**31
    kernel, stride = (9, 3), (69991, 15000)
    values, indices = ip.max_pool(x, kernel, stride=stride, return_indices=True)
    assert values.tolist() == [[8, 8, 8], [255, 255, 255]]
    assert indices.tolist() == [[r * 40000 + c for c in (0, 15000, 30000)] for r in (8, 69999)]
    assert indices.max() > 2**31
    values, indices = ip.min_pool(x, kernel, stride=stride, return_indices=True)
    assert values.tolist() == [[0] * 3, [column[69991:].min()] * 3]
    got = ip.avg_pool(x, kernel, stride=stride)
    want = round(float(column[69991:].mean()))
    assert got.tolist() == [[4] * 3, [want] * 3]


def test_a_line_of_two_to_the_33():
    x = np.broadcast_to(np.float32(3), (2**33,))
    values, indices = ip.max_pool(x, (3,), stride=2**30, return_indices=True)
    assert values.tolist() == [3] * 8
    assert indices.tolist() == [i * 2**30 for i in range(8)]
    assert ip.sum_pool(x, (5,), stride=2**31).tolist() == [15] * 4


def test_strides_beyond_32_bits_of_a_batch():
    """Three billion elements of batch by strides alone would need that many results; so pool the
    long axis instead and let the short ones be the plane's neighbours."""
    base = np.arange(12, dtype=np.int16).reshape(3, 4)
    x = np.broadcast_to(base[:, None, :], (3, 2**30, 4))
    values, indices = ip.max_pool(x, (2,), stride=2**29, axes=1, return_indices=True)
    assert values.tolist() == [[row.tolist()] * 2 for row in base]
    assert indices.tolist() == [[[0] * 4, [2**29] * 4]] * 3


def test_dilation_and_padding_beyond_32_bits():
    x = np.broadcast_to(np.int32(7), (2**33 + 1,))
    assert ip.sum_pool(x, (3,), dilation=2**32, stride=1).tolist() == [21]
    x = np.arange(4, dtype=np.int32)
    got, indices = ip.max_pool(
        x, (2,), stride=2**33, padding=((2**33, 2**33),), return_indices=True
    )
    low = np.iinfo(np.int32).min
    assert got.tolist() == [low, 1, low][: got.size] and indices.tolist() == [-1, 1, -1][: got.size]

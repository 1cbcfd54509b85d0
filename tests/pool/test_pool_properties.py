"""Random whole calls: shapes, arguments, dtypes, strides and axes, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import infinitypool as ip
import oracle
from engine import backward, forward, offset_dtype
from infinitypool import _core
from strategies import LAYOUTS, OPS, Guarded, arranged, cases

FUNCTIONS = {"max": ip.max_pool, "min": ip.min_pool, "mean": ip.avg_pool, "sum": ip.sum_pool}


@pytest.mark.parametrize("op", OPS)
@given(data=st.data())
def test_values(op, data):
    case = data.draw(cases(op))
    before = case.x.copy()
    got = FUNCTIONS[op](case.x, case.kernel_size, **case.arguments)
    assert isinstance(got, np.ndarray)
    oracle.assert_pooled(got, case.x, op, case.kernel_size, **case.arguments, note=repr(case))
    assert got.shape == ip.output_shape(case.x.shape, case.kernel_size, **_shape_only(case))
    oracle.assert_same_bits(case.x, before, "the input changed")


def _shape_only(case):
    names = ("stride", "padding", "dilation", "ceil_mode", "axes")
    return {name: case.arguments[name] for name in names if name in case.arguments}


@pytest.mark.parametrize("op", ["max", "min"])
@given(data=st.data())
def test_indices(op, data):
    case = data.draw(cases(op))
    got, indices = FUNCTIONS[op](case.x, case.kernel_size, **case.arguments, return_indices=True)
    expected = oracle.pool(case.x, op, case.kernel_size, **case.arguments)
    oracle.assert_same_bits(got, expected.values, repr(case))
    oracle.assert_same_bits(indices, expected.plane, repr(case))
    alone = FUNCTIONS[op](case.x, case.kernel_size, **case.arguments)
    assert alone.tobytes() == np.asarray(got).tobytes(), "asking for indices changed the values"


@pytest.mark.parametrize("op", ["max", "min"])
@given(data=st.data())
def test_offsets(op, data):
    case = data.draw(cases(op))
    got, where = forward(case.x, op, case.kernel_size, indices="offset", **case.arguments)
    expected = oracle.pool(case.x, op, case.kernel_size, **case.arguments)
    oracle.assert_same_bits(got, expected.values, repr(case))
    found = expected.offset >= 0
    assert where.dtype == offset_dtype(case.kernel_size)
    np.testing.assert_array_equal(where[found], expected.offset[found], repr(case))


@pytest.mark.parametrize(
    "kernel, dtype", [((16, 16), "uint8"), ((257,), "uint16"), ((256, 257), "uint32")]
)
@pytest.mark.parametrize("op", ["max", "min"])
def test_offset_types_at_their_limits(op, kernel, dtype):
    rng = np.random.default_rng(3)
    shape = tuple(k + 2 for k in kernel)
    x = rng.permutation(np.prod(shape)).reshape(shape).astype(np.int32)
    _, where = forward(x, op, kernel, stride=1, axes=range(len(shape)), indices="offset")
    assert where.dtype == dtype
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel)
    flat = windows.reshape(windows.shape[: x.ndim] + (-1,))
    expected = flat.argmax(-1) if op == "max" else flat.argmin(-1)
    np.testing.assert_array_equal(where, expected)
    # The last place of the window too: the largest offset that the type must hold.
    x = np.zeros(shape, np.int32)
    x[-1, ...] = 0
    x.flat[-1] = 1 if op == "max" else -1
    _, where = forward(x, op, kernel, stride=1, axes=range(len(shape)), indices="offset")
    assert where.flat[-1] == np.prod(kernel) - 1


@pytest.mark.parametrize("op", OPS)
@given(data=st.data())
def test_into_out(op, data):
    """``out`` of any strides gets the result, the same object comes back, nothing else changes."""
    case = data.draw(cases(op))
    fresh = FUNCTIONS[op](case.x, case.kernel_size, **case.arguments)
    order = data.draw(st.sampled_from("CF"))
    guarded = Guarded(
        fresh.shape, fresh.dtype, data.draw(st.integers(0, 9)), order, data.draw(st.integers(0, 3))
    )
    back = FUNCTIONS[op](case.x, case.kernel_size, **case.arguments, out=guarded.out)
    assert back is guarded.out
    oracle.assert_same_bits(guarded.out, fresh, repr(case))
    guarded.check(repr(case))


@pytest.mark.parametrize("op", ["max", "min"])
@given(data=st.data())
def test_same_bits_in_every_layout(op, data):
    """The same numbers under every stride give the same bits, indices included."""
    case = data.draw(cases(op))
    values = np.ascontiguousarray(case.x)
    results = []
    for layout in ("C", "F", "permuted", "reversed", "sliced", "misaligned"):
        x = arranged(values, layout, np.random.default_rng(case.seed))
        results.append(FUNCTIONS[op](x, case.kernel_size, **case.arguments, return_indices=True))
    for values, indices in results[1:]:
        oracle.assert_same_bits(values, results[0][0], repr(case))
        oracle.assert_same_bits(indices, results[0][1], repr(case))


@pytest.mark.parametrize("op", OPS)
@given(data=st.data())
def test_gradients(op, data):
    """Straight at the core, with strides of every kind on both sides."""
    case = data.draw(cases(op, oracle.FLOATS))
    x, arguments = case.x, case.arguments
    rng = np.random.default_rng(case.seed)
    out, where = forward(
        x, op, case.kernel_size, indices="offset" if op in ("max", "min") else "none", **arguments
    )
    layout = data.draw(st.sampled_from(LAYOUTS), label="layout of the gradient")
    grad = arranged(rng.integers(-3, 4, out.shape).astype(x.dtype), layout, rng)
    if where is not None and layout in ("F", "permuted", "reversed"):
        where = arranged(where, layout, rng)
    order = data.draw(st.sampled_from("CF"), label="order of the result")
    back = Guarded(x.shape, x.dtype, case.seed % 9, order, case.seed % 3)
    backward(x, grad, op, case.kernel_size, offsets=where, grad_in=back.out, **arguments)
    back.check(repr(case))
    want = oracle.gradient(x, grad, op, case.kernel_size, **arguments)
    got = back.out.astype(np.float64)
    if op != "mean":
        np.testing.assert_array_equal(got, want, repr(case))  # sums of small integers are exact
        return
    # Each of the at most prod(kernel_size) shares is at most 3 and is rounded once before it is
    # added in float32 (float64 for itself); the result rounds once more.
    shares = float(np.prod(case.kernel_size))
    adding = np.dtype(np.float64) if x.dtype == np.float64 else np.dtype(np.float32)
    bound = 3 * shares * (shares + 2) * oracle.epsilon(adding)
    off = np.abs(got - want) > bound + oracle.epsilon(x.dtype) * np.abs(want)
    assert not off.any(), f"{got[off][:3]}, expected {want[off][:3]} {case!r}"


REDUCERS = {entry["name"]: entry for entry in _core.reducers()}


def test_the_table_of_reducers():
    assert set(OPS) <= set(REDUCERS)
    for name, entry in REDUCERS.items():
        assert entry["spec"] and entry["gradient"], name
        assert {"float64", "float32", "float16", "bfloat16"} <= set(entry["dtypes"]), name
    integers = {d.name for d in oracle.INTEGERS}
    for name in OPS:
        assert integers <= set(REDUCERS[name]["dtypes"])
    for name in ("max", "min"):
        assert "bool" in REDUCERS[name]["dtypes"] and REDUCERS[name]["indices"]

"""What both fronts share beside the spec: keys, caches and memory orders."""

from __future__ import annotations

from marshal import dumps

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitypool.plan import Cache, contiguous_strides, is_exact, memory_order

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(-3, 3), st.sampled_from(["a", "same"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner).map(tuple) | st.lists(inner))


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


@given(values, values)
def test_keys_tell_types_apart(a, b):
    assert (dumps(a, 2) == dumps(b, 2)) == same(a, b)


@pytest.mark.parametrize(
    "a, b", [(2, 2.0), (1, True), (1, np.int8(1)), ((2, 2), (2, 2.0)), (np.int8(1), np.True_)]
)
def test_only_exact_values_are_kept(a, b):
    assert not (is_exact(a) and is_exact(b)) or dumps(a, 2) != dumps(b, 2)
    assert not is_exact(np.int8(1)) and not is_exact([2, np.int64(2)])


def test_a_cache_stays_small():
    cache = Cache(limit=10)
    for number in range(1000):
        assert cache.keep(number, -number) == -number
        assert len(cache) <= 10 and cache.get(number) == -number


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    data=st.data(),
)
def test_memory_order_of_transposed_arrays(shape, data):
    axes = data.draw(st.permutations(range(len(shape))))
    array = np.zeros(shape).transpose(axes)
    order = memory_order(array.shape, array.strides)
    assert sorted(order) == list(range(len(shape)))
    longer = [array.strides[axis] for axis in order if array.shape[axis] > 1]
    assert longer == sorted(longer, reverse=True)
    dense = contiguous_strides(array.shape, order)
    for axis, step in enumerate(dense):
        if array.shape[axis] > 1:
            assert step * array.itemsize == array.strides[axis]


def test_axes_without_a_step_keep_their_places():
    array = np.broadcast_to(np.zeros((1, 3, 4)), (5, 3, 4))
    assert memory_order(array.shape, array.strides) == [0, 1, 2]
    assert memory_order((2, 1, 4, 3), (12, 0, 1, 4)) == [0, 1, 3, 2]
    assert memory_order((2, 3), (-3, 1)) == [0, 1]

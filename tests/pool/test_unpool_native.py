"""The native walker of max unpooling and of its gradient, against plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitypool import _core
from strategies import LAYOUTS, arranged, numbers

DTYPES = [np.dtype(t) for t in (np.int8, np.float16, np.float32, np.float64)]
FAR = (-1, -(2**63), 2**63 - 1)


def _strides(a):
    return [s // a.itemsize for s in a.strides]


def _plan(x, indices, out, axes):
    return _core.Unpool(
        x.itemsize,
        list(x.shape),
        _strides(x),
        _strides(indices),
        list(out.shape),
        _strides(out),
        list(axes),
    )


def run(x, indices, out, axes):
    return _plan(x, indices, out, axes).run(x.ctypes.data, indices.ctypes.data, out.ctypes.data)


def gather(grad, indices, grad_in, axes):
    plan = _plan(grad_in, indices, grad, axes)
    return plan.gather(grad.ctypes.data, indices.ctypes.data, grad_in.ctypes.data)


def _winners(indices, out_shape, axes):
    """Where in the result each value wins: {place: position of the last value that goes there}."""
    plane = [out_shape[a] for a in axes]
    winners = {}
    for position in itertools.product(*map(range, indices.shape)):
        place, rest = list(position), int(indices[position])
        for a, n in zip(reversed(axes), reversed(plane), strict=True):
            rest, place[a] = divmod(rest, n)
        winners[tuple(place)] = position
    return winners


def unpooled(x, indices, out_shape, axes):
    out = np.zeros(out_shape, x.dtype)
    for place, position in _winners(indices, out_shape, axes).items():
        out[place] = x[position]
    return out


def gathered(grad, indices, axes):
    grad_in = np.zeros(indices.shape, grad.dtype)
    for place, position in _winners(indices, grad.shape, axes).items():
        grad_in[position] = grad[place]
    return grad_in


class Room:
    """An array to write into, at any strides, inside memory that must otherwise stay."""

    def __init__(self, shape, dtype, kind, seed):
        rng = np.random.default_rng(seed)
        ndim = len(shape)
        order, steps, flips = np.arange(ndim), [1] * ndim, [1] * ndim
        if kind in ("permuted", "any"):
            order = rng.permutation(ndim)
        if kind in ("sliced", "any"):
            steps = rng.integers(1, 4, ndim).tolist()
        if kind in ("reversed", "any"):
            flips = rng.choice([-1, 1], ndim).tolist()
        around = [shape[a] * steps[a] for a in order]
        lead = int(rng.integers(1, 9))
        self.memory = np.frombuffer(
            bytearray(b"\xa5" * ((math.prod(around) + lead + 9) * dtype.itemsize)), dtype
        )
        view = self.memory[lead : lead + math.prod(around)].reshape(around)
        view = view.transpose(np.argsort(order))
        self.view = view[tuple(slice(None, None, s) for s in steps)]
        self.view = self.view[tuple(slice(None, None, f) for f in flips)]
        self.before = self.memory.tobytes()

    def check(self, values, note):
        """The view holds ``values``, bit by bit, and nothing around it has changed."""
        got = self.view.copy()
        assert got.tobytes() == np.ascontiguousarray(values).tobytes(), note
        self.view[...] = np.frombuffer(b"\xa5" * self.memory.itemsize, self.memory.dtype)[0]
        assert self.memory.tobytes() == self.before, f"wrote outside the output: {note}"

    def untouched(self):
        return self.memory.tobytes() == self.before


ROOMS = ("plain", "permuted", "sliced", "reversed", "any")


@st.composite
def _calls(draw, least=0):
    """(values, indices, result's shape, axes, kind of room, seed), with few and many collisions."""
    ndim = draw(st.integers(1, 5))
    pooled = draw(st.integers(1, min(ndim, 3)))
    axes = tuple(sorted(draw(st.permutations(range(ndim)))[:pooled]))
    shape = [draw(st.sampled_from((1, 2, 3, 5) if least else (0, 1, 2, 3, 5))) for _ in range(ndim)]
    out_shape = list(shape)
    for a in axes:
        out_shape[a] = draw(st.integers(1, 7))
    if draw(st.integers(0, 3)) == 0:
        long = draw(st.integers(0, ndim - 1))
        shape[long] = draw(st.sampled_from((17, 70, 130)))
        if long not in axes:
            out_shape[long] = shape[long]
    dtype = draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    plane = math.prod(out_shape[a] for a in axes)
    highest = draw(st.sampled_from((1, max(1, plane // 2), plane)))
    indices = rng.integers(0, highest, shape)
    if draw(st.booleans()):  # local, as a pooling gives them
        indices = np.sort(indices.ravel()).reshape(shape)
    x = numbers(rng, shape, dtype, "special" if dtype.kind == "f" else "wide")
    x = arranged(x, draw(st.sampled_from(LAYOUTS)), rng)
    indices = arranged(indices, draw(st.sampled_from(LAYOUTS)), rng)
    return x, indices, tuple(out_shape), axes, draw(st.sampled_from(ROOMS)), seed


def _note(x, indices, out_shape, axes, room, seed):
    return (
        f"{x.dtype} {x.shape} {x.strides} indices {indices.strides} to {out_shape} "
        f"over {axes}, {room}, seed {seed}"
    )


@given(call=_calls())
def test_values(call):
    x, indices, out_shape, axes, kind, seed = call
    out = Room(out_shape, x.dtype, kind, seed)
    assert run(x, indices, out.view, axes) == -1
    out.check(unpooled(x, indices, out_shape, axes), _note(*call))


@given(call=_calls(), layout=st.sampled_from(LAYOUTS))
def test_gradients(call, layout):
    x, indices, out_shape, axes, kind, seed = call
    rng = np.random.default_rng(seed)
    grad = numbers(rng, out_shape, x.dtype, "special" if x.dtype.kind == "f" else "wide")
    grad = arranged(grad, layout, rng)
    grad_in = Room(x.shape, x.dtype, kind, seed)
    assert gather(grad, indices, grad_in.view, axes) == -1
    grad_in.check(gathered(grad, indices, axes), _note(*call))


@given(call=_calls(least=1), data=st.data())
def test_bad_indices_are_found_before_anything_is_written(call, data):
    x, indices, out_shape, axes, kind, seed = call
    plane = math.prod(out_shape[a] for a in axes)
    bad = indices.copy()
    where = data.draw(st.lists(st.integers(0, bad.size - 1), min_size=1, max_size=3))
    for w in where:
        bad.flat[w] = data.draw(st.sampled_from((*FAR, plane, plane + 1)))
    indices = arranged(bad, data.draw(st.sampled_from(LAYOUTS[:5])), np.random.default_rng(seed))
    out = Room(out_shape, x.dtype, kind, seed)
    assert run(x, indices, out.view, axes) == min(where), _note(*call)
    assert out.untouched()
    grad_in = Room(x.shape, x.dtype, kind, seed)
    assert gather(np.zeros(out_shape, x.dtype), indices, grad_in.view, axes) == min(where)
    assert grad_in.untouched()


# Large enough for threads: values' shape, result's shape, axes, order of the axes in memory.
LARGE = {
    "planes": ((3, 5, 40, 44), (3, 5, 80, 89), (2, 3), (0, 1, 2, 3)),
    "one plane": ((1, 150, 190), (1, 301, 380), (1, 2), (0, 1, 2)),
    "channels last": ((2, 70, 20, 23), (2, 70, 40, 46), (2, 3), (0, 2, 3, 1)),
    "one image, channels last": ((1, 150, 30, 31), (1, 150, 60, 62), (2, 3), (0, 2, 3, 1)),
    "many channels": ((1, 1500, 5, 6), (1, 1500, 90, 12), (2, 3), (0, 2, 3, 1)),
    "rows": ((9, 3000), (20, 3000), (0,), (0, 1)),
    "volume": ((1, 2, 20, 21, 22), (1, 2, 40, 42, 45), (2, 3, 4), (0, 1, 2, 3, 4)),
    "more values than places": ((4, 200, 210), (4, 20, 30), (1, 2), (0, 1, 2)),
    "planes at odd strides": ((3, 60, 61), (3, 120, 123), (1, 2), (2, 0, 1)),
}


def _large(name, kind):
    shape, out_shape, axes, order = LARGE[name]
    rng = np.random.default_rng(len(name))
    plane = math.prod(out_shape[a] for a in axes)
    indices = rng.integers(0, plane, shape)
    if kind == "local":  # near to where a window would have found it, with collisions
        here = np.zeros(shape, np.int64)
        for a in axes:
            at = np.arange(shape[a]) * out_shape[a] // shape[a]
            at = at.reshape([-1 if d == a else 1 for d in range(len(shape))])
            at = np.minimum(at + rng.integers(0, 4, shape), out_shape[a] - 1)
            here = here * out_shape[a] + at
        indices = here
    back = np.argsort(order)

    def laid_out(a):
        return np.ascontiguousarray(a.transpose(order)).transpose(back)

    x = rng.standard_normal(shape).astype(np.float32)
    grad = rng.standard_normal(out_shape).astype(np.float32)
    return laid_out(x), laid_out(indices), laid_out(grad), axes


def _by_numpy(x, indices, grad, axes):
    """The same by NumPy's assignment, where the last of equal indices counts too."""
    rest = [d for d in range(x.ndim) if d not in axes]
    order = (*rest, *axes)
    units = math.prod(x.shape[d] for d in rest)
    plane = math.prod(grad.shape[a] for a in axes)
    places = indices.transpose(order).reshape(units, -1) + plane * np.arange(units)[:, None]
    values = x.transpose(order).reshape(places.shape)
    out = np.zeros(units * plane, x.dtype)
    out[places.ravel()] = values.ravel()
    winner = np.full(units * plane, -1)
    winner[places.ravel()] = np.arange(places.size)
    won = winner[places.ravel()] == np.arange(places.size)
    grad_in = np.where(won, grad.transpose(order).ravel()[places.ravel()], np.float32(0))
    back = np.argsort(order)
    return (
        out.reshape([grad.shape[d] for d in order]).transpose(back),
        grad_in.reshape([x.shape[d] for d in order]).transpose(back),
    )


@pytest.mark.parametrize("kind", ["local", "anywhere"])
@pytest.mark.parametrize("name", LARGE)
def test_every_thread_count_gives_the_right_bits(name, kind, threads):
    x, indices, grad, axes = _large(name, kind)
    assert x.size + grad.size >= 1 << 15
    expected, expected_in = _by_numpy(x, indices, grad, axes)
    bad = indices.copy(order="K")
    bad[tuple(n // 2 for n in bad.shape)] = -1
    bad[tuple(n - 1 for n in bad.shape)] = 2**40
    first = int(np.flatnonzero(bad.ravel() < 0)[0])
    for count in (1, 2, 3):
        threads(count)
        out, grad_in = np.full_like(grad, np.nan), np.full_like(x, np.nan)
        assert run(x, indices, out, axes) == -1
        assert gather(grad, indices, grad_in, axes) == -1
        np.testing.assert_array_equal(out.view(np.int32), expected.view(np.int32), f"{count}")
        np.testing.assert_array_equal(grad_in.view(np.int32), expected_in.view(np.int32))
        out[...], grad_in[...] = np.nan, np.nan
        assert run(x, bad, out, axes) == first
        assert gather(grad, bad, grad_in, axes) == first
        assert np.isnan(out).all() and np.isnan(grad_in).all()


def test_empty():
    """No values: zeros.  No results: every index is bad.  Neither: nothing to do."""
    none = np.zeros((2, 0, 3), np.float32)
    out = np.full((2, 4, 5), 7, np.float32)
    assert run(none, none.astype(np.int64), out, (1, 2)) == -1
    assert not out.any()
    some = np.zeros((2, 3, 3), np.float32)
    for shape in ((2, 0, 5), (2, 5, 0), (2, 0, 0)):
        out = np.zeros(shape, np.float32)
        assert run(some, some.astype(np.int64), out, (1, 2)) == 0
        assert gather(out, some.astype(np.int64), some, (1, 2)) == 0
        assert run(none, none.astype(np.int64), out, (1, 2)) == -1
    nobody = np.zeros((0, 3, 3), np.float32)
    assert run(nobody, nobody.astype(np.int64), np.zeros((0, 4, 4), np.float32), (1, 2)) == -1


GOOD = dict(
    item_size=4,
    shape=[2, 3, 4],
    in_strides=[12, 4, 1],
    index_strides=[12, 4, 1],
    out_shape=[2, 6, 8],
    out_strides=[48, 8, 1],
    axes=[1, 2],
)


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [
        {"item_size": 3},
        {"item_size": 0},
        {"item_size": -4},
        {"item_size": 16},
        {"shape": [2, 3]},
        {"shape": [2, -3, 4]},
        {"out_shape": [2, 6, -8]},
        {"out_shape": [3, 6, 8]},
        {"out_shape": [2, 6]},
        {"in_strides": [12, 4]},
        {"index_strides": []},
        {"out_strides": [48, 8, 1, 1]},
        {"axes": []},
        {"axes": [2, 1]},
        {"axes": [1, 1]},
        {"axes": [-1]},
        {"axes": [1, 3]},
        {"out_shape": [2, 2**40, 2**40]},
        {"out_shape": [2, 2**30, 2**30]},
        {"out_shape": [2, 2**62, 0]},
        {"in_strides": [12, 2**62, 1]},
        {"index_strides": [-(2**63), 4, 1]},
        {"out_strides": [2**61, 8, 1]},
    ],
    ids=str,
)
def test_constructor_refuses(change):
    _core.Unpool(**GOOD)
    with pytest.raises(ValueError):
        _core.Unpool(**{**GOOD, **change})

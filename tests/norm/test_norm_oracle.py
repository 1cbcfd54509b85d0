"""The oracle itself, against PyTorch in double precision, complex steps and finite differences."""

from __future__ import annotations

import math

import norm_oracle as no
import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.once

TORCH = {
    "none": lambda z: z,
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "silu": F.silu,
    "gelu": F.gelu,
}
SHAPE = (3, 6, 4, 5)
GROUPS = 2


def _split(a):
    return a.reshape(a.shape[0], GROUPS, a.shape[1] // GROUPS, *a.shape[2:])


def _cases():
    """Name: the oracle's norm over which view, PyTorch's function, and the parameters' shape."""
    wide = {"eps": 1e-3}
    yield (
        "batch",
        no.batch(4, **wide),
        lambda a: a,
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.1, 1e-3),
        (6,),
        (1, 6, 1, 1),
    )
    yield (
        "instance",
        no.instance(4, **wide),
        lambda a: a,
        lambda x, w, b: F.instance_norm(x, None, None, w, b, True, 0.1, 1e-3),
        (6,),
        (1, 6, 1, 1),
    )
    yield (
        "group",
        no.group(5, **wide),
        _split,
        lambda x, w, b: F.group_norm(x, GROUPS, w, b, 1e-3),
        (6,),
        (1, 2, 3, 1, 1),
    )
    yield (
        "layer",
        no.layer(4, 2, **wide),
        lambda a: a,
        lambda x, w, b: F.layer_norm(x, (4, 5), w, b, 1e-3),
        (4, 5),
        (1, 1, 4, 5),
    )
    yield (
        "rms",
        no.rms(4, 1, **wide),
        lambda a: a,
        lambda x, w, b: F.rms_norm(x, (5,), w, 1e-3) + b,
        (5,),
        (1, 1, 1, 5),
    )


CASES = {case[0]: case[1:] for case in _cases()}


def _near(got, want, note="", scale=1.0):
    got, want = np.asarray(got, np.float64), want.detach().numpy()
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-12, atol=1e-13 * scale)


@pytest.mark.parametrize("activation", no.ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_against_pytorch(name, activation):
    norm, view, function, given_shape, shape = CASES[name]
    norm = no.replace(norm, activation=activation, slope=0.2)
    rng = np.random.default_rng(3)
    x, g = rng.standard_normal(SHAPE) * 2 + 0.5, rng.standard_normal(SHAPE)
    w, b = rng.standard_normal(given_shape), rng.standard_normal(given_shape)
    tx, tw, tb = (torch.from_numpy(a).requires_grad_() for a in (x, w, b))
    want = TORCH[activation](function(tx, tw, tb))
    want.backward(torch.from_numpy(g))
    weights = w.reshape(shape), b.reshape(shape)
    got = no.forward(norm, view(x), *weights)
    _near(got.values, want)
    back = no.backward(norm, view(x), view(g), *weights)
    for mine, theirs in ((back.x, tx), (back.weight, tw), (back.bias, tb)):
        _near(mine, theirs.grad, scale=10)


@pytest.mark.parametrize("activation", no.ACTIVATIONS)
def test_given_statistics_against_pytorch(activation):
    norm = no.batch(4, activation=activation, slope=0.2)
    rng = np.random.default_rng(4)
    x, g = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    w, b, mean = rng.standard_normal((3, 6))
    var = rng.random(6) + 0.1
    tx, tw, tb = (torch.from_numpy(a).requires_grad_() for a in (x, w, b))
    want = F.batch_norm(tx, torch.from_numpy(mean), torch.from_numpy(var), tw, tb)
    want = TORCH[activation](want)
    want.backward(torch.from_numpy(g))
    w, b, mean, var = (a.reshape(1, 6, 1, 1) for a in (w, b, mean, var))
    _near(no.forward(norm, x, w, b, (mean, var)).values, want)
    back = no.backward(norm, x, g, w, b, (mean, var))
    for mine, theirs in ((back.x, tx), (back.weight, tw), (back.bias, tb)):
        _near(mine, theirs.grad, scale=10)


@pytest.mark.parametrize("activation", no.ACTIVATIONS)
def test_derivatives_by_a_complex_step(activation):
    z = np.linspace(-6, 6, 101) + 1e-3
    step = 1e-30
    want = no.activate(z + 1j * step, activation, 0.2).imag / step
    got = no.derivative(z.astype(no.LONG), activation, 0.2)
    np.testing.assert_allclose(got.astype(float), want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_finite_differences(name):
    """In extended precision, for a handful of elements."""
    norm, view, _, _, shape = CASES[name]
    norm = no.replace(norm, activation="silu")
    rng = np.random.default_rng(5)
    x, g = view(rng.standard_normal(SHAPE)), view(rng.standard_normal(SHAPE))
    w, b = rng.standard_normal((2, *shape))
    back = no.backward(norm, x, g, w, b)

    def loss(x, w, b):
        return np.sum(g * no.forward(norm, x, w, b, dtype=np.float64).values)

    for which, gradient in enumerate((back.x, back.weight, back.bias)):
        for _ in range(5):
            arguments = [x.astype(no.LONG), w.astype(no.LONG), b.astype(no.LONG)]
            place = tuple(int(rng.integers(n)) for n in arguments[which].shape)
            values = []
            for step in (1e-5, -1e-5):
                moved = arguments[which].copy()
                moved[place] += no.LONG(step)
                values.append(loss(*arguments[:which], moved, *arguments[which + 1 :]))
            want = float(values[0] - values[1]) / 2e-5
            assert math.isclose(float(gradient[place]), want, rel_tol=1e-6, abs_tol=1e-7)


@pytest.mark.parametrize("size, k", [(1, 1.0), (2, 0.5), (3, 1.0), (5, 2.0), (9, 1.0)])
def test_local_response_against_pytorch(size, k):
    rng = np.random.default_rng(size)
    for shape in ((2, 7, 3), (1, 4, 2, 3), (2, 3, 2, 2, 2)):
        x, g = rng.standard_normal(shape) * 3, rng.standard_normal(shape)
        t = torch.from_numpy(x).requires_grad_()
        want = F.local_response_norm(t, size, 0.3, 0.6, k)
        want.backward(torch.from_numpy(g))
        _near(no.local_response(x, size, 0.3, 0.6, k), want)
        _near(no.local_response_backward(x, g, size, 0.3, 0.6, k), t.grad)


def test_running_statistics_against_pytorch():
    rng = np.random.default_rng(6)
    x = rng.standard_normal(SHAPE)
    mean, var = rng.standard_normal(6), rng.random(6)
    moved = [torch.from_numpy(a.copy()) for a in (mean, var)]
    F.batch_norm(torch.from_numpy(x), *moved, None, None, True, 0.3)
    m, v = no.moments(x, (0, 2, 3))
    _near(no.running(mean, m.ravel(), 0.3), moved[0])
    _near(no.running(var, no.unbiased(v.ravel(), 60), 0.3), moved[1])


def test_values_known_by_heart():
    norm = no.Norm((0,), eps=0.0)
    f = no.forward(norm, np.array([1.0, 3.0, 1.0, 3.0]))
    assert f.values.tolist() == [-1, 1, -1, 1] and f.mean.item() == 2 and f.var.item() == 1
    f = no.forward(no.replace(norm, centered=False), np.array([3.0, 4.0, 0.0, 0.0]))
    np.testing.assert_allclose(f.values.astype(float), [1.2, 1.6, 0, 0], rtol=1e-15)
    assert no.running([1.0], [3.0], 0.25).item() == 1.5
    assert no.unbiased([2.0], 3).item() == 3


@pytest.mark.parametrize("activation", no.ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_for_float32(name, activation):
    """NumPy in single precision, plainly, stays within what the oracle allows it, and the bounds are
    not so wide that they would allow anything."""
    norm, view, _, _, shape = CASES[name]
    norm = no.replace(norm, activation=activation)
    rng = np.random.default_rng(7)
    x, g = (view(rng.standard_normal(SHAPE).astype(np.float32)) for _ in range(2))
    w, b = rng.standard_normal((2, *shape)).astype(np.float32)
    f = no.forward(norm, x, w, b)
    m, v = (a.astype(np.float32) for a in no.moments(x, norm.reduced, norm.centered))
    h = (x - m) / np.sqrt(v + np.float32(norm.eps))
    y = no.activate(h * w + b, activation).astype(np.float32)
    no.assert_close(y, f.values, f.bound, np.float32)
    assert np.max(f.bound) < 5e-5
    g = no.away_from_the_kink(norm, x, g, w, b)
    back = no.backward(norm, x, g, w, b)
    assert np.max(back.x_bound) < 5e-4 and np.max(back.weight_bound) < 2e-3
    # The definition's gradient from slightly moved data lies within the bound for that movement.
    near = no.backward(norm, x * np.float32(1 + 2**-23), g, w, b)
    no.assert_close(near.x.astype(np.float32), back.x, back.x_bound, np.float32)

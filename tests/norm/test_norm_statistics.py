"""Statistics of data that is hard on them, and numbers that are none.

The data is what the dtype holds; statistics are compared with those of the very same numbers in
extended precision.
"""

from __future__ import annotations

import math

import norm_oracle as no
import numpy as np
import pytest
import torch
from norm_engine import FLOATS, Native
from norm_torch import FORMATS, NAMES, Call, randn

import infinitypool.nn.functional as IF
import oracle

F32 = np.dtype(np.float32)
inf, nan = math.inf, math.nan

# Where the elements of a region lie: (shape, reduced axes, how an array (regions, n) becomes it).
PLACES = {
    "a run": lambda v: (v, (1,)),
    "columns": lambda v: (np.ascontiguousarray(v.T), (0,)),
    # as batch norm sees planes, and group norm channels last
    "runs": lambda v: (
        np.ascontiguousarray(v.reshape(len(v), 4, -1).transpose(1, 0, 2)),
        (0, 2),
    ),
    "short runs": lambda v: (
        np.ascontiguousarray(v.reshape(len(v), -1, 4).transpose(1, 0, 2)),
        (0, 2),
    ),
}


def statistics(values, place, centered=True):
    """(mean, var) of the rows of ``values``, by the core."""
    x, reduced = PLACES[place](values)
    norm = no.Norm(reduced, centered=centered)
    mean, var = Native(norm, x).statistics()
    return mean.ravel(), var.ravel()


def exact(values, centered=True):
    return (a.ravel() for a in no.moments(values, (1,), centered))


def check_statistics(values, place, *, mean_within, var_within, floor=0.0, centered=True):
    """Errors of means are measured in standard deviations, those of variances are relative."""
    mean, var = statistics(values, place, centered)
    want_mean, want_var = exact(values, centered)
    mean_error = np.abs(mean - want_mean) / np.sqrt(want_var)
    var_error = np.maximum(np.abs(var - want_var) - floor, 0) / want_var
    assert mean_error.max() <= mean_within, f"{place}: mean is off by {mean_error.max():.3g} sigma"
    assert var_error.max() <= var_within, f"{place}: variance is off by {var_error.max():.3g}"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mean", [1e4, -1e4, 1e6])
@pytest.mark.parametrize("n", [100, 4096, 5000, 200_000])
def test_a_mean_far_from_zero(n, mean, place):
    """One part in a million of the variance, and of a deviation for the mean, though float32 itself
    resolves no more than 5e-4 (0.03) of a deviation here."""
    rng = np.random.default_rng(n)
    values = (mean + rng.standard_normal((3, n))).astype(F32)
    within = 1e-6 * max(1.0, abs(mean) / 1e4)
    check_statistics(values, place, mean_within=100 * within, var_within=within)


def _parameter_axes(place, x, reduced):
    """None, one for each region, and, where the core takes them, one for each place in a run."""
    yield ()
    yield tuple(a for a in range(x.ndim) if a not in reduced)
    if place != "columns":
        yield reduced[-1:]


@pytest.mark.parametrize("place", PLACES)
def test_results_far_from_zero(place):
    """A mean of 10^4 costs a result nothing that the input still had."""
    rng = np.random.default_rng(1)
    for dtype, mean in ((F32, 1e4), (F32, -3e5), (np.dtype(np.float64), 1e9)):
        values = (mean + rng.standard_normal((5, 4000))).astype(dtype)
        x, reduced = PLACES[place](values)
        for parameters in _parameter_axes(place, x, reduced):
            norm = no.Norm(reduced, parameters)
            w, b = rng.uniform(0.5, 1, (2, *norm.parameter_shape(x.shape))).astype(dtype)
            native = Native(norm, x)
            native.normalize(w, b)
            want = no.forward(norm, x, w, b).values
            # Statistics of float32 are float64: x - center is exact, and what center leaves over is
            # in the shift, so some roundings of the result remain. In float64 the mean itself is
            # rounded.
            u = oracle.epsilon(dtype)
            error, within = np.abs(native.out - want).max(), 64 * u
            if dtype != F32:
                within += 2 * u * abs(mean)
            assert error <= within, f"{place} {mean} {parameters} {error}"


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("place", PLACES)
def test_gradients_far_from_zero(place, activation):
    """Nor does it cost a gradient: what float32 cannot say of the mean is made up for."""
    rng = np.random.default_rng(1)
    x, reduced = PLACES[place]((1e4 + rng.standard_normal((5, 4000))).astype(F32))
    g = (1 + rng.standard_normal(x.shape)).astype(F32)
    for parameters in _parameter_axes(place, x, reduced):
        norm = no.Norm(reduced, parameters, activation=activation)
        w, b = (rng.standard_normal((2, *norm.parameter_shape(x.shape))) + 0.5).astype(F32)
        native = Native(norm, x, other=g)
        dx, dw, db = native.gradient(*native.statistics(), w, b)
        want = no.backward(norm, x, g, w, b)
        # Some roundings of every term, which are as large as the largest.
        u = 2.0**-23
        size = np.abs(g * w)
        assert np.abs(dx - want.x).max() <= 32 * u * 5 * size.max(), f"{place} {parameters}"
        others = norm.others(x.shape)
        h = np.abs(no.forward(norm, x).h)
        for got, exactly, terms in ((dw, want.weight, np.abs(g) * h), (db, want.bias, np.abs(g))):
            within = 32 * u * terms.sum(others, keepdims=True)
            assert (np.abs(got - exactly) <= within).all(), f"{place} {parameters}"


@pytest.mark.parametrize("place", PLACES)
def test_the_corner_of_relu(place):
    """In a constant region z is 0 exactly, where relu is flat and leaky_relu is not, as PyTorch."""
    values = np.repeat(np.array([[3.0], [-2.0]], F32), 80, axis=1)
    x, reduced = PLACES[place](values)
    parameters = tuple(a for a in range(x.ndim) if a not in reduced)
    for activation, slope in (("relu", 0.0), ("leaky_relu", 0.25)):
        norm = no.Norm(reduced, parameters, activation=activation, slope=0.25)
        native = Native(norm, x, other=np.ones_like(x))
        mean, var = native.statistics()
        _, _, db = native.gradient(mean, var, np.ones(1, F32), np.zeros(1, F32))
        assert (db == 80 * slope).all(), f"{activation} {db.ravel()}"
        native.given_dtype = np.dtype(np.float64)
        dx, _, _ = native.gradient(mean, var, given=True)
        np.testing.assert_allclose(dx, slope / norm.eps**0.5, rtol=1e-6)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("outlier", [1e4, -1e6, 1e12])
def test_an_outlier_comes_first(outlier, place):
    """The first element tells nothing about the others; and neither does the last."""
    rng = np.random.default_rng(2)
    values = rng.standard_normal((2, 1_000_000)).astype(F32)
    values[0, 0] = values[1, -1] = outlier
    check_statistics(values, place, mean_within=1e-6, var_within=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_two_levels(place):
    """A step in the middle: the statistics of the parts have to be merged."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((3, 100_000))
    values[:, 50_000:] += 1e4
    values[1, :7] -= 1e4
    check_statistics(values.astype(F32), place, mean_within=1e-6, var_within=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_alternating_signs(place):
    rng = np.random.default_rng(4)
    values = rng.standard_normal((3, 60_000))
    values[:, ::2] += 1e5
    values[:, 1::2] -= 1e5
    check_statistics(values.astype(F32), place, mean_within=1e-6, var_within=1e-6)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_constant_regions(place, dtype):
    """The variance is 0 exactly, and so is what is left of x: the result is the bias."""
    for n in (4, 12, 100, 4096, 4100, 8 * 8191, 70_004):
        constants = np.array([0.1, -1 / 3, 10_000.3, 0.0, 6e-5, 60000.0, 7.0]).astype(dtype)
        values = np.repeat(constants[:, None], n, axis=1)
        x, reduced = PLACES[place](values)
        parameters = tuple(a for a in range(x.ndim) if a not in reduced)
        norm = no.Norm(reduced, parameters, eps=1e-5)
        native = Native(norm, x)
        shape = norm.parameter_shape(x.shape)
        weight = np.full(shape, 3.7).astype(dtype)
        bias = np.arange(7.0).reshape(shape).astype(dtype)
        mean, var = native.normalize(weight, bias)
        assert (mean.ravel() == constants.astype(float)).all(), f"{n} {mean.ravel()}"
        assert (var == 0).all(), f"{n} {var.ravel()}"
        assert (native.out == bias).all(), n


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [1e30, 3e37, 1e18, 1e-15, 1e-30])
def test_magnitudes(size, place):
    """Squares beyond what float32 holds; below it they are lost, as the smallest eps would have it."""
    rng = np.random.default_rng(5)
    values = (size * rng.uniform(-1, 1, (5, 5000))).astype(F32)
    check_statistics(values, place, mean_within=1e-6, var_within=1e-6, floor=1e-36)
    x, reduced = PLACES[place](values)
    for centered in (True, False):
        norm = no.Norm(reduced, centered=centered, eps=1e-12)
        native = Native(norm, x)
        native.normalize()
        want = no.forward(norm, x)
        no.assert_close(native.out, want.values, want.bound, F32, f"{size} {place}")


@pytest.mark.parametrize("place", PLACES)
def test_regions_of_different_magnitudes_side_by_side(place):
    rng = np.random.default_rng(6)
    sizes = 10.0 ** np.array([[30], [-4], [0], [12], [-12], [4], [37], [-2], [1]])
    values = (sizes * rng.uniform(-1, 1, (9, 4000)) + sizes).astype(F32)
    check_statistics(values, place, mean_within=1e-6, var_within=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, oracle.BFLOAT16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("place", PLACES)
def test_halves_are_added_in_float32(place, dtype):
    """Neither a sum nor a sum of squares is held in half precision, nor could be."""
    rng = np.random.default_rng(7)
    for n in (1000, 4100, 200_000):
        for mean, deviation in ((100, 1), (0, 1), (1000, 200)):
            values = (mean + deviation * rng.standard_normal((3, n))).astype(dtype)
            check_statistics(values, place, mean_within=1e-5, var_within=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_mean_squares(place):
    rng = np.random.default_rng(8)
    values = rng.standard_normal((3, 100_000))
    values[0] += 1e4
    values[1, 0] = 1e8
    want = np.square(values.astype(F32).astype(no.LONG)).mean(1)
    _, got = statistics(values.astype(F32), place, centered=False)
    assert (np.abs(got - want) / want).max() <= 1e-6


@pytest.mark.parametrize("place", PLACES)
def test_double_precision(place):
    rng = np.random.default_rng(9)
    check_statistics(rng.standard_normal((3, 100_000)), place, mean_within=1e-14, var_within=1e-13)
    # Means of blocks are rounded to 1e-8 here, and lie some hundredths apart.
    values = 1e8 + rng.standard_normal((3, 100_000))
    check_statistics(values, place, mean_within=1e-7, var_within=2e-9)


# --- numbers that are none -----------------------------------------------------------------------


def _regions(name, shape):
    """Which region every element of (N, C, H, W) belongs to."""
    n, c = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    each = {
        "batch_norm": c,
        "instance_norm": n * 100 + c,
        "group_norm": n * 100 + c // (shape[1] // 2),
        "layer_norm": n,
        "rms_norm": n,
    }[name]
    return torch.from_numpy(np.broadcast_to(each[:, :, None, None], shape).copy())


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels last"])
@pytest.mark.parametrize("name", NAMES)
def test_they_stay_in_their_region(name, last, value):
    """All other regions keep every bit, of the result and of the gradient."""
    rng = np.random.default_rng(10)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for shape in ((2, 6, 5, 7), (3, 40, 3, 2), (2, 2, 70, 66)):
            form = FORMATS[4] if last else torch.contiguous_format
            clean = randn(rng, shape, dtype, 1).contiguous(memory_format=form)
            grad = randn(rng, shape, dtype).contiguous(memory_format=form)
            weight = randn(
                rng, shape[1:] if "layer" in name or "rms" in name else shape[1:2], dtype
            )
            spoilt, bad_grad = clean.clone(), grad.clone()
            place = tuple(int(rng.integers(n)) for n in shape)
            spoilt[place] = value
            bad_grad[place] = value
            own = _regions(name, shape)
            own = own == own[place]
            results = []
            for x, g in ((clean, grad), (spoilt, grad), (clean, bad_grad)):
                x = x.detach().requires_grad_()
                y = Call(name, x, weight, groups=2, trailing=3, activation="silu").run()
                y.backward(g)
                results.append((y.detach(), x.grad))
            (y, dx), (y_bad, dx_bad), (y_same, dx_grad) = results
            note = f"{name} {dtype} {shape} {place}"
            for a, b in ((y, y_bad), (dx, dx_bad), (dx, dx_grad)):
                assert torch.equal(a[~own], b[~own]), note
            assert torch.equal(y, y_same)
            assert dx_bad[own].isnan().all() and not dx_grad[own].isfinite().any(), note
            if name == "rms_norm" and math.isinf(value):
                # x / inf is 0, and only the infinite element becomes a NaN.
                others = own.clone()
                others[place] = False
                assert y_bad[place].isnan() and (y_bad[others] == 0).all(), note
            else:
                assert y_bad[own].isnan().all(), note


@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels last"])
def test_given_statistics_touch_one_element(last):
    rng = np.random.default_rng(11)
    x = randn(rng, (2, 5, 9, 7), torch.float32)
    x = x.contiguous(memory_format=FORMATS[4]) if last else x
    spoilt = x.clone()
    places = [(0, 1, 2, 3), (1, 4, 8, 6), (1, 0, 0, 0)]
    for place, value in zip(places, (nan, inf, -inf), strict=True):
        spoilt[place] = value
    mean, var = torch.zeros(5), torch.ones(5)
    for activation in (None, "relu", "leaky_relu"):
        clean, got = (
            IF.batch_norm(t, mean, var, activation=activation, negative_slope=0.5)
            for t in (x, spoilt)
        )
        low = {None: -inf, "relu": 0.0, "leaky_relu": -inf}[activation]
        assert got[places[0]].isnan() and got[places[1]] == inf and got[places[2]] == low
        for place in places:
            got[place] = clean[place] = 0
        assert torch.equal(got, clean)


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_running_statistics_over_many_steps(name):
    """A hundred batches in float32 stay by the same in extended precision."""
    rng = np.random.default_rng(12)
    moved = [torch.zeros(3), torch.ones(3)]
    want = [np.zeros(3, no.LONG), np.ones(3, no.LONG)]
    norm = (no.batch if name == "batch_norm" else no.instance)(4)
    for _ in range(100):
        x = randn(rng, (2, 3, 5, 6), torch.float32, 1000, 3)
        getattr(IF, name)(x, *moved, None, None, True, 0.1)
        mean, var = no.moments(x.numpy(), norm.reduced)
        var = no.unbiased(var, norm.count(x.shape))
        for i, new in enumerate((mean, var)):
            want[i] = no.running(want[i], new.mean(0).ravel(), 0.1)
    # Every step rounds once or twice, and forgets a tenth of what came before.
    for got, exactly in zip(moved, want, strict=True):
        assert (np.abs(got.numpy() - exactly) / np.abs(exactly)).max() < 20 * 2.0**-23

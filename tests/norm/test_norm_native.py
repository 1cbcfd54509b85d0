"""The core's ``Norm`` against the oracle: any axes, strides, lengths and dtypes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import norm_oracle as no
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_cases import KINDS, LAYOUTS, Surrounded, acceptable, arranged, numbers, region_of
from norm_engine import FLOATS, Native, moment_bounds

import oracle
from infinitypool import _core

HERE = Path(__file__).resolve().parent
DTYPES = [pytest.param(d, id=d.name) for d in FLOATS]
F32 = np.dtype(np.float32)


def _weights(rng, norm, shape, dtype):
    shape = norm.parameter_shape(shape)
    return ((rng.standard_normal(shape) + 0.5).astype(dtype) for _ in range(2))


def _check_moments(x, norm, exact, mean, var, note=""):
    bounds = moment_bounds(x, norm, exact[1])
    for name, got, want, bound in zip(("mean", "var"), (mean, var), exact, bounds, strict=True):
        no.assert_close(got, want, bound, np.float64, f"{name} {note}")


def check_forward(norm, x, note="", *, guard=None, out_order=None, seed=0, **more):
    """Forward, statistics and gradient in one go; returns what was written."""
    rng, x = np.random.default_rng(seed), acceptable(norm, x)
    guard = guard or Surrounded()
    out = guard.array(x.shape, x.dtype, out_order)
    dtype = np.dtype(more.get("parameter_dtype") or x.dtype)
    w, b = _weights(rng, norm, x.shape, dtype)
    native = Native(norm, x, out, guard=guard, **more)
    mean, var = native.normalize(w, b)
    want = no.forward(norm, x, w, b)
    no.assert_close(out, want.values, want.bound, x.dtype, note)
    exact = want.mean, want.var
    _check_moments(x, norm, exact, mean, var, note)
    alone = native.statistics()
    _check_moments(x, norm, exact, *alone, f"alone {note}")
    guard.check(note)
    return native, w, b, mean, var


def check_gradient(norm, x, grad, note="", *, given=None, out_order=None, seed=0, **more):
    rng, x = np.random.default_rng(seed), acceptable(norm, x)
    guard = Surrounded()
    out = guard.array(x.shape, x.dtype, out_order)
    dtype = np.dtype(more.get("parameter_dtype") or x.dtype)
    w, b = _weights(rng, norm, x.shape, dtype)
    quiet = no.away_from_the_kink(norm, x, grad, w, b, given)
    if quiet is not grad:
        grad = np.copy(grad) if 0 not in grad.strides else np.array(grad, order="C")
        grad[...] = quiet
    native = Native(norm, x, out, grad, guard=guard, **more)
    mean, var = no.moments(x, norm.reduced, norm.centered) if given is None else given
    dx, dw, db = native.gradient(mean, var, w, b, given=given is not None)
    want = no.backward(norm, x, grad, w, b, given)
    no.assert_close(dx, want.x, want.x_bound, x.dtype, f"gradient of x {note}")
    no.assert_close(dw, want.weight, want.weight_bound, dtype, f"gradient of weight {note}")
    no.assert_close(db, want.bias, want.bias_bound, dtype, f"gradient of bias {note}")
    guard.check(note)


# --- layouts, shapes, dtypes -------------------------------------------------------------------

SHAPES = [
    (2, 4, 1, 1),
    (3, 6, 2, 2),
    (2, 10, 7, 7),
    (4, 34, 5, 3),
    (1, 2, 19, 33),
    (2, 130, 3),
    (5, 6),
    (2, 4, 3, 2, 5),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, kind, dtype):
    rng = np.random.default_rng(LAYOUTS.index(layout))
    for i, shape in enumerate(SHAPES):
        x = arranged(numbers(rng, shape, dtype), layout, rng)
        g = arranged(numbers(rng, shape, dtype), LAYOUTS[(i + 1) % len(LAYOUTS)], rng)
        # eps larger than what one element per region has for a variance
        norm, x = region_of(kind, x, activation=no.ACTIVATIONS[i % 5], eps=1e-3)
        _, g = region_of(kind, g)
        note = f"{kind} {dtype} {x.shape} strides {x.strides} {norm.activation}"
        check_forward(norm, x, note)
        check_gradient(norm, x, g, note)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_channel_counts_channels_last(kind, dtype):
    rng = np.random.default_rng(1)
    for channels in (1, 3, 5, 15, 17, 33, 65, 129):
        x = arranged(numbers(rng, (2, channels, 3, 4), dtype), "channels last", rng)
        g = arranged(numbers(rng, (2, channels, 3, 4), dtype), "channels last", rng)
        groups = channels if channels < 9 else 1
        norm, x = region_of(kind, x, groups, eps=1e-3)
        _, g = region_of(kind, g, groups)
        last = [0, *range(2 + (kind == "group"), x.ndim), 1, *([2] if kind == "group" else [])]
        check_forward(norm, x, f"{kind} {channels}", out_order=last)
        check_gradient(norm, x, g, f"{kind} {channels}", out_order=last)


@pytest.mark.parametrize("layout_out", ["C", "channels last", "reversed"])
@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_outputs_laid_out_otherwise(layout, layout_out):
    rng = np.random.default_rng(2)
    for kind in KINDS:
        norm, x = region_of(kind, arranged(numbers(rng, (3, 8, 5, 6), F32), layout, rng))
        _, g = region_of(kind, arranged(numbers(rng, (3, 8, 5, 6), F32), "C", rng))
        order = {
            "C": list(range(x.ndim)),
            "channels last": [0, *range(2, x.ndim), 1],
            "reversed": list(reversed(range(x.ndim))),
        }[layout_out]
        check_forward(norm, x, kind, out_order=order)
        check_gradient(norm, x, g, kind, out_order=order)


@pytest.mark.parametrize("parameter_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_of_another_dtype(dtype, parameter_dtype):
    rng = np.random.default_rng(3)
    for kind in KINDS:
        for layout in ("C", "channels last"):
            norm, x = region_of(kind, arranged(numbers(rng, (2, 6, 5, 4), dtype), layout, rng))
            _, g = region_of(kind, arranged(numbers(rng, (2, 6, 5, 4), dtype), layout, rng))
            check_forward(norm, x, kind, parameter_dtype=parameter_dtype)
            check_gradient(norm, x, g, kind, parameter_dtype=parameter_dtype)


def test_regions_and_parameters_in_any_order():
    """Entries of regions and parameters may follow the kept axes in any order."""
    rng = np.random.default_rng(4)
    x = numbers(rng, (3, 4, 5, 6), F32)
    g = numbers(rng, (3, 4, 5, 6), F32)
    for reduced, parameters in (((1,), (1,)), ((2, 3), (1,)), ((0, 2), (0, 2)), ((1, 3), (0, 2))):
        norm = no.Norm(reduced, parameters)
        for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
            how = {"region_order": order, "parameter_order": order[::-1]}
            check_forward(norm, x, f"{reduced} {order}", **how)
            check_gradient(norm, x, g, f"{reduced} {order}", **how)


# --- lengths -----------------------------------------------------------------------------------

LENGTHS = [
    *range(1, 20),
    *(n + d for n in (32, 48, 64, 128, 256, 4096) for d in (-1, 0, 1)),
    2 * 4096 + 17,
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("place", ["region inside", "region outside"])
def test_lengths_of_the_inner_run(place, activation, dtype):
    """Runs along which the statistics are taken (layer norm), and runs of regions side by side
    (batch norm, channels last)."""
    rng = np.random.default_rng(5)
    for n in LENGTHS:
        if n > 300 and activation != "none" and dtype != F32:
            continue
        rows = 3 if n < 300 else 2
        axes = ((1,), (1,)) if place == "region inside" else ((0,), (1,))
        norm = no.Norm(*axes, activation=activation, eps=1e-3)
        x, g = (numbers(rng, (rows, n), dtype) for _ in range(2))
        check_forward(norm, x, f"{place} {n}")
        check_gradient(norm, x, g, f"{place} {n}")


@pytest.mark.parametrize("n", [65535, 65536, 65537, 100003])
@pytest.mark.parametrize("kind", ["batch", "instance", "layer", "channels last", "uncentered"])
def test_long_regions(kind, n):
    rng = np.random.default_rng(n)
    norm, shape = {
        "batch": (no.batch(3), (2, 2, n // 2)),
        "instance": (no.instance(3), (1, 2, n)),
        "layer": (no.layer(2, 1, activation="silu"), (2, n)),
        "uncentered": (no.rms(2, 1), (2, n)),
        "channels last": (no.Norm((0,), (1,)), (n, 3)),
    }[kind]
    x, g = (numbers(rng, shape, F32) for _ in range(2))
    check_forward(norm, x, f"{kind} {n}")
    check_gradient(norm, x, g, f"{kind} {n}")


@pytest.mark.parametrize(
    "kind, dtype", [("one row", F32), ("batch", oracle.BFLOAT16), ("channels last", F32)], ids=str
)
def test_huge_regions(kind, dtype):
    n = 2**21 + 77
    rng = np.random.default_rng(6)
    norm, shape = {
        "one row": (no.layer(2, 1), (1, n)),
        "batch": (no.batch(3), (3, 1, n // 3)),
        "channels last": (no.Norm((0,), (1,)), (n // 2, 2)),
    }[kind]
    x, g = (numbers(rng, shape, F32).astype(dtype) for _ in range(2))
    check_forward(norm, x, kind)
    if kind != "one row":  # the oracle takes its time
        check_gradient(norm, x, g, kind)


def test_many_short_regions():
    rng = np.random.default_rng(7)
    for shape, reduced, parameters in (
        ((70001, 2), (1,), (1,)),
        ((2, 70001), (0,), (1,)),
        ((300, 257, 3), (2,), (1,)),
        ((300, 3, 257), (1,), (0,)),
    ):
        norm = no.Norm(reduced, parameters, eps=1e-2)
        x, g = (numbers(rng, shape, F32) for _ in range(2))
        check_forward(norm, x, str(shape))
        check_gradient(norm, x, g, str(shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_element_per_region(dtype):
    """Its variance is 0 exactly, so the result is the bias and the gradient is 0."""
    rng = np.random.default_rng(8)
    x, g = (numbers(rng, (5, 7), dtype) for _ in range(2))
    for norm in (no.Norm((), (1,)), no.Norm((), ())):
        guard = Surrounded()
        native, w, b, mean, var = check_forward(norm, x, guard=guard)
        assert (var == 0).all() and (mean == x.astype(float)).all()
        assert (native.out == np.broadcast_to(b, x.shape)).all()
        back = Native(norm, x, other=g)
        dx, dw, _ = back.gradient(mean, var, w, b)
        assert (dw == 0).all()
        # grad / sqrt(eps) less the same, which may have been rounded otherwise
        unit = oracle.epsilon(oracle.added_in(dtype)) * np.abs(g.astype(float)) / norm.eps**0.5
        assert (np.abs(dx.astype(float)) <= 2 * unit).all()


# --- any axes ----------------------------------------------------------------------------------


@st.composite
def calls(draw):
    ndim = draw(st.integers(1, 5))
    sizes = st.sampled_from((1, 2, 3, 5, 8, 17)) if ndim < 4 else st.integers(1, 5)
    shape = tuple(draw(sizes) for _ in range(ndim))
    axes = st.sets(st.integers(0, ndim - 1))
    reduced, parameters = draw(axes), draw(axes)
    norm = no.Norm(
        tuple(sorted(reduced)),
        tuple(sorted(parameters)),
        centered=draw(st.booleans()),
        eps=draw(st.sampled_from((1e-5, 1e-3, 0.5))),
        activation=draw(st.sampled_from(no.ACTIVATIONS)),
        slope=draw(st.sampled_from((0.01, 0.3, -0.5))),
    )
    dtype, parameter_dtype = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(FLOATS))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x, g = (
        arranged(numbers(rng, shape, dtype), draw(st.sampled_from(LAYOUTS)), rng) for _ in range(2)
    )
    return norm, x, g, parameter_dtype, list(draw(st.permutations(range(ndim))))


@given(call=calls())
@settings(max_examples=100)
def test_any_axes(call):
    norm, x, g, parameter_dtype, order = call
    note = f"{norm} {x.dtype} {x.shape} strides {x.strides} {g.strides} {parameter_dtype} {order}"
    how = {"parameter_dtype": parameter_dtype, "out_order": order}
    check_forward(norm, x, note, **how)
    check_gradient(norm, x, g, note, **how)


# --- the rest of the interface -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_missing_weight_and_bias(layout, kind):
    rng = np.random.default_rng(9)
    for dtype in FLOATS:
        norm, x = region_of(kind, arranged(numbers(rng, (2, 6, 5, 4), dtype), layout, rng))
        _, g = region_of(kind, arranged(numbers(rng, (2, 6, 5, 4), dtype), layout, rng))
        x, (w, b) = acceptable(norm, x), _weights(rng, norm, x.shape, dtype)
        for weight, bias in ((None, None), (w, None), (None, b)):
            native = Native(norm, x)
            mean, var = native.normalize(weight, bias)
            want = no.forward(norm, x, weight, bias)
            no.assert_close(native.out, want.values, want.bound, dtype, kind)
            back = Native(norm, x, other=g)
            want = no.backward(norm, x, g, weight, bias)
            wanted = (True, weight is not None, bias is not None)
            dx, dw, db = back.gradient(mean, var, weight, bias, wanted=wanted)
            no.assert_close(dx, want.x, want.x_bound, dtype, kind)
            if weight is not None:
                no.assert_close(dw, want.weight, want.weight_bound, dtype, kind)
            if bias is not None:
                no.assert_close(db, want.bias, want.bias_bound, dtype, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_of_wanted_gradients(kind):
    """What is not asked for changes nothing in what is."""
    rng = np.random.default_rng(10)
    for layout in ("C", "channels last"):
        norm, x = region_of(kind, arranged(numbers(rng, (3, 6, 9, 5), F32), layout, rng))
        _, g = region_of(kind, arranged(numbers(rng, (3, 6, 9, 5), F32), layout, rng))
        norm = no.replace(norm, activation="silu")
        x, (w, b) = acceptable(norm, x), _weights(rng, norm, x.shape, F32)
        mean, var = Native(norm, x).statistics()
        full = [a.copy() for a in Native(norm, x, other=g).gradient(mean, var, w, b)]
        for bits in range(1, 8):
            wanted = tuple(bool(bits >> i & 1) for i in range(3))
            some = Native(norm, x, other=g).gradient(mean, var, w, b, wanted=wanted)
            for a, one in zip(full, some, strict=True):
                assert one is None or np.array_equal(a, one), f"{kind} {layout} {wanted}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_residual_and_total(kind, dtype):
    """The total is rounded to the dtype, and that is what is normalised."""
    rng = np.random.default_rng(11)
    for layout, other in (("C", "C"), ("channels last", "C"), ("C", "gaps"), ("gaps", "broadcast")):
        for shape in ((3, 6, 5, 7), (2, 4, 33, 21)):
            norm, x = region_of(kind, arranged(numbers(rng, shape, dtype), layout, rng))
            _, r = region_of(kind, arranged(numbers(rng, shape, dtype, 3), other, rng))
            w, b = _weights(rng, norm, x.shape, dtype)
            guard, x = Surrounded(), acceptable(norm, x)
            out, total = (guard.array(x.shape, dtype) for _ in range(2))
            native = Native(norm, x, out, r, guard=guard)
            mean, var = native.normalize(w, b, total)
            assert np.array_equal(total, x + r), f"{kind} {layout} {other}"
            want = no.forward(norm, total, w, b)
            no.assert_close(out, want.values, want.bound, dtype, f"{kind} {layout} {other}")
            _check_moments(total, norm, (want.mean, want.var), mean, var)
            guard.check()


@pytest.mark.parametrize("given_dtype", [np.float64, np.float32, np.float16, oracle.BFLOAT16])
@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_running_statistics(layout, given_dtype):
    rng = np.random.default_rng(12)
    for kind in ("batch", "instance", "group"):
        for dtype in (np.float64, np.float32, oracle.BFLOAT16):
            norm, x = region_of(kind, arranged(numbers(rng, (4, 6, 5, 3), dtype, 2), layout, rng))
            shape = norm.region_shape(x.shape)
            before = [rng.random(shape).astype(given_dtype) for _ in range(2)]
            for momentum in (0.1, 0.0, 1.0, 0.3):
                after = [a.copy() for a in before]
                native = Native(norm, x, given_dtype=given_dtype)
                native.normalize(running=after, momentum=momentum)
                mean, var = no.moments(x, norm.reduced)
                n = norm.count(x.shape)
                bounds = moment_bounds(x, norm, var)
                u = oracle.epsilon(oracle.added_in(np.dtype(given_dtype)))
                for got, old, new, bound in zip(
                    after, before, (mean, no.unbiased(var, n)), bounds, strict=True
                ):
                    want = no.running(old, new, momentum)
                    size = np.abs(old.astype(float)) + np.abs(new)
                    no.assert_close(got, want, 2 * bound + 2 * u * size, given_dtype, kind)
                if momentum == 0:
                    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "channels last", "gaps"])
def test_given_statistics(layout, dtype):
    rng = np.random.default_rng(13)
    for i, given_dtype in enumerate((np.float64, np.float32, dtype)):
        for kind in ("batch", "instance", "group"):
            for shape in ((2, 6, 5, 4), (3, 34, 1, 1), (1, 2, 30, 41), (9, 4)):
                norm, x = region_of(
                    kind,
                    arranged(numbers(rng, shape, dtype), layout, rng),
                    activation=no.ACTIVATIONS[(i + shape[1]) % 5],
                )
                _, g = region_of(kind, arranged(numbers(rng, shape, dtype), layout, rng))
                regions = norm.region_shape(x.shape)
                mean = rng.standard_normal(regions).astype(given_dtype)
                var = (rng.random(regions) + 0.1).astype(given_dtype)
                w, b = _weights(rng, norm, x.shape, dtype)
                x = acceptable(norm, x)
                native = Native(norm, x, given_dtype=given_dtype)
                want = no.forward(norm, x, w, b, (mean, var))
                note = f"{kind} {shape} {given_dtype}"
                native.apply(mean, var, w, b)
                no.assert_close(native.out, want.values, want.bound, dtype, note)
                check_gradient(norm, x, g, note, given=(mean, var), given_dtype=given_dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "channels last", "gaps"])
def test_gradient_over_several_processes(layout, dtype):
    """Sums of two halves of a batch, added, give the gradient of the whole."""
    rng = np.random.default_rng(14)
    for shape in ((4, 6, 5, 3), (6, 33, 2, 2), (8, 3), (4, 2, 40, 33)):
        x, g = (arranged(numbers(rng, shape, dtype, 1), layout, rng) for _ in range(2))
        norm = no.batch(len(shape))
        w, _ = _weights(rng, norm, shape, dtype)
        mean, var = (a.astype(float) for a in no.moments(x, norm.reduced))
        halves = [slice(0, shape[0] // 2), slice(shape[0] // 2, None)]
        sums, parts = 0, []
        for half in halves:
            native = Native(norm, x[half], guard=Surrounded(), other=g[half])
            part = native.gradient_sums(mean)
            wide, deviation = g[half].astype(no.LONG), x[half].astype(no.LONG) - mean
            others = norm.others(shape)
            # As exact as a mean would be: sums of that many rounded terms.
            u = oracle.epsilon(oracle.added_in(dtype)) * no._depth(x.size)
            for got, terms in zip(part, (wide, wide * deviation), strict=True):
                size = np.sum(
                    np.abs(wide) * (np.abs(x[half].astype(float)) + np.abs(mean) + 1), others
                )
                no.assert_close(got, terms.sum(others), u * size, np.float64)
            sums, parts = sums + part, [*parts, native]
        count = norm.count(shape)
        want = no.backward(norm, x, g, w)
        for half, native in zip(halves, parts, strict=True):
            got = native.gradient_apply(mean, var, sums, count, w)
            no.assert_close(got, want.x[half], want.x_bound[half], dtype, f"{shape} {layout}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scale(layout, dtype):
    rng = np.random.default_rng(15)
    for reduced in ((1, 2), (2,), (0, 2), ()):
        norm = no.Norm(reduced)
        x = acceptable(norm, arranged(numbers(rng, (3, 18, 21), dtype), layout, rng))
        shape = norm.region_shape(x.shape)
        factors, offsets = rng.standard_normal(shape), rng.standard_normal(shape)
        u = oracle.epsilon(oracle.added_in(dtype))
        for o in (None, offsets):
            guard = Surrounded()
            native = Native(norm, x, guard.array(x.shape, dtype), guard=guard)
            native.scale(factors, o)
            product = x.astype(no.LONG) * factors
            want = product + (0 if o is None else o)
            bound = 2 * u * (np.abs(product) + (0 if o is None else np.abs(o)))
            no.assert_close(native.out, want, bound, dtype, f"{reduced} {layout}")
            guard.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_in_place(kind, dtype):
    """The bits are those of a call that writes elsewhere."""
    rng = np.random.default_rng(16)
    for layout in ("C", "channels last", "gaps"):
        for shape in ((2, 6, 7, 5), (2, 2, 70, 65), (3, 40, 2, 2)):
            norm, x = region_of(kind, arranged(numbers(rng, shape, dtype), layout, rng))
            norm = no.replace(norm, activation="silu")
            if acceptable(norm, x) is not x:
                continue
            w, b = _weights(rng, norm, x.shape, dtype)
            _, r = region_of(kind, arranged(numbers(rng, shape, dtype), layout, rng))
            elsewhere = Native(norm, x)
            mean, var = elsewhere.normalize(w, b)
            given = [np.copy(a) for a in (mean, var)]
            for method in ("normalize", "apply", "gradient"):
                if method == "gradient":
                    there = Native(norm, x, other=r)
                    there.gradient(*given, w, b)
                elif method == "apply":
                    there = Native(norm, x)
                    there.apply(*given, w, b)
                else:
                    there = elsewhere
                # A copy with the same strides, which the call then overwrites.
                _, here = region_of(kind, arranged(np.ones(shape, dtype), layout, rng))
                here[...] = x
                native = Native(norm, here, here, r)
                if method == "gradient":
                    native.gradient(*given, w, b)
                elif method == "apply":
                    native.apply(*given, w, b)
                else:
                    native.normalize(w, b)
                assert np.array_equal(here, there.out), f"{kind} {layout} {shape} {method}"


def test_statistics_are_optional():
    rng = np.random.default_rng(17)
    for kind in KINDS:
        norm, x = region_of(kind, numbers(rng, (3, 4, 9, 5), F32))
        with_them, without = Native(norm, x), Native(norm, x)
        with_them.normalize()
        without.normalize(statistics=False)
        assert np.array_equal(with_them.out, without.out)


def test_one_plan_many_calls():
    """Nothing of a call stays in the plan."""
    rng = np.random.default_rng(18)
    x = numbers(rng, (4, 6, 30, 11), F32)
    norm = no.batch(4)
    native = Native(norm, x)
    native.normalize()
    first = native.out.copy()
    x *= 1000
    native.normalize()
    x /= 1000
    native.normalize()
    no.assert_close(native.out, no.forward(norm, x).values, no.forward(norm, x).bound, F32)
    assert np.abs(native.out - first).max() < 1e-4


@pytest.mark.parametrize(
    "where, value",
    [
        (0, "int8"),
        (1, "int32"),
        (2, "complex64"),
        (4, [1]),
        (5, [1, 1, 1]),
        (11, "tanh"),
    ],
)
def test_plans_that_cannot_be(where, value):
    arguments = ["float32"] * 3 + [[2, 3], [3, 1], [3, 1], [3, 1], [1, 0], [0, 1], True, 1e-5]
    arguments += ["none", 0.01]
    _core.Norm(*arguments)
    arguments[where] = value
    with pytest.raises((ValueError, TypeError)):
        _core.Norm(*arguments)


def test_guard_pages():
    """Inputs and outputs flush against pages without access, at the end and at the start."""
    tests = HERE.parent
    path = [str(tests), str(tests / "pool"), str(HERE), *(p for p in sys.path if p)]
    done = subprocess.run(
        [sys.executable, str(HERE / "norm_guard_pages.py")],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path)),
        capture_output=True,
        check=False,
        text=True,
        timeout=200,
    )
    last = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, f"{last}\n{done.stderr[-3000:]}"
    assert "checked 1000 calls or more" in done.stdout

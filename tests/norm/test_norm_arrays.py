"""The array functions against the oracle: any axes, strides and dtypes, out=, bfloat16, DLPack."""

from __future__ import annotations

import ml_dtypes
import norm_oracle as no
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_engine import FLOATS, split_channels

import infinitypool as ip
import oracle
import strategies

NAMES = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")
LAYOUTS = strategies.LAYOUTS


def _parameter_dtype(dtype):
    return oracle.added_in(dtype)


def _definition(name, x, arguments):
    """(oracle's norm, x in its shape, weight, bias, given statistics in its shapes)."""
    arguments = dict(arguments)
    how = {
        "eps": arguments.get("eps", 1e-5),
        "activation": arguments.get("activation") or "none",
        "slope": arguments.get("negative_slope", 0.01),
    }
    weight, bias = arguments.get("weight"), arguments.get("bias")
    if name in ("layer_norm", "rms_norm"):
        axes = arguments.get("axes", -1)
        axes = [a % x.ndim for a in (axes if np.iterable(axes) else (axes,))]
        norm = no.Norm(tuple(sorted(axes)), tuple(sorted(axes)), name == "layer_norm", **how)
        if how["eps"] is None:
            norm = no.replace(norm, eps=oracle.epsilon(oracle.added_in(x.dtype)))

        def wide(p):
            if p is None:
                return None
            order = np.argsort(axes)
            return np.asarray(p).transpose(order).reshape(norm.parameter_shape(x.shape))

        return norm, x, wide(weight), wide(bias), None
    # Channels to the second axis, where the oracle has them.
    x = np.moveaxis(x, arguments.get("channel_axis", 1), 1)
    if name == "group_norm":
        x = split_channels(x, arguments["num_groups"])
        norm = no.group(x.ndim, **how)
    else:
        norm = (no.batch if name == "batch_norm" else no.instance)(x.ndim, **how)

    def wide(p):
        return None if p is None else np.asarray(p).reshape(norm.parameter_shape(x.shape))

    statistics = None
    if arguments.get("mean") is not None:
        statistics = wide(arguments["mean"]), wide(arguments["var"])
    return norm, x, wide(weight), wide(bias), statistics


def check(got, name, x, arguments, note=""):
    """``got`` is the result of ``ip.name(x, **arguments)`` as an array."""
    note = f"{name} <{x.dtype} {x.shape} strides {x.strides}> {sorted(arguments)} {note}"
    assert got.shape == x.shape and got.dtype == x.dtype, note
    norm, view, *rest = _definition(name, x, arguments)
    want = no.forward(norm, view, *rest)
    if name not in ("layer_norm", "rms_norm"):
        got = np.moveaxis(got, arguments.get("channel_axis", 1), 1)
    no.assert_close(
        np.ascontiguousarray(got).reshape(view.shape), want.values, want.bound, x.dtype, note
    )


@st.composite
def calls(draw, name):
    ndim = draw(st.integers(1 if name in ("layer_norm", "rms_norm") else 2, 5))
    shape = [
        draw(st.sampled_from((1, 2, 3, 5, 8) if ndim > 2 else (2, 7, 16, 33))) for _ in range(ndim)
    ]
    arguments = {}
    if name in ("layer_norm", "rms_norm"):
        axes = draw(st.permutations(range(ndim)))[: draw(st.integers(1, ndim))]
        own = tuple(shape[a] for a in axes)
        axes = tuple(a - ndim if draw(st.booleans()) else a for a in axes)
        arguments["axes"] = axes[0] if len(axes) == 1 and draw(st.booleans()) else axes
    else:
        if name == "instance_norm" and ndim == 2:
            ndim, shape = 3, [*shape, 4]
        axis = (
            draw(st.integers(0, ndim - 1))
            if name == "batch_norm"
            else draw(st.integers(1, ndim - 1))
        )
        if name == "group_norm":
            arguments["num_groups"] = groups = draw(st.sampled_from((1, 2, 3)))
            shape[axis] = groups * draw(st.sampled_from((1, 2, 5)))
        own = (shape[axis],)
        arguments["channel_axis"] = axis - ndim if draw(st.booleans()) else axis
    dtype = draw(st.sampled_from(FLOATS))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    layout = draw(st.sampled_from(LAYOUTS))
    x = strategies.arranged((rng.standard_normal(shape) * 2 + 1).astype(dtype), layout, rng)
    taken = draw(st.sampled_from((_parameter_dtype(dtype), dtype)))
    if draw(st.booleans()):
        arguments["weight"] = (rng.standard_normal(own) + 0.5).astype(taken)
    if name != "rms_norm" and draw(st.booleans()):
        arguments["bias"] = rng.standard_normal(own).astype(taken)
    if name == "batch_norm" and draw(st.booleans()):
        arguments["mean"] = rng.standard_normal(own).astype(taken)
        arguments["var"] = (rng.random(own) + 0.1).astype(taken)
    choices = (1e-5, 1e-2, None) if name == "rms_norm" else (1e-5, 1e-2)
    arguments["eps"] = draw(st.sampled_from(choices))
    arguments["activation"] = draw(st.sampled_from((None, *no.ACTIVATIONS[1:])))
    arguments["negative_slope"] = draw(st.sampled_from((0.01, 0.3)))
    return x, arguments


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=50)
def test_values(name, data):
    x, arguments = data.draw(calls(name))
    count = _definition(name, x, arguments)
    if count[0].count(count[1].shape) < 2:
        arguments["eps"] = 1e-2
    got = getattr(ip, name)(x, **arguments)
    assert isinstance(got, np.ndarray)
    check(got, name, x, arguments)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=25)
def test_out(name, data):
    """``out`` of any strides holds the bits of a plain result, and nothing around it is written."""
    x, arguments = data.draw(calls(name))
    want = getattr(ip, name)(x, **arguments)
    guarded = strategies.Guarded(
        x.shape, x.dtype, data.draw(st.integers(0, 5)), data.draw(st.sampled_from("CF")), 3
    )
    got = getattr(ip, name)(x, **arguments, out=guarded.out)
    assert got is guarded.out
    guarded.check()
    norm, view, *rest = _definition(name, x, arguments)
    check(np.array(got), name, x, arguments)
    assert np.array_equal(np.isfinite(got), np.isfinite(want))


@pytest.mark.parametrize("name", NAMES)
def test_out_may_be_the_input(name):
    rng = np.random.default_rng(1)
    more = {"num_groups": 2} if name == "group_norm" else {}
    for dtype in FLOATS:
        for x in (
            rng.standard_normal((3, 4, 6, 5)).astype(dtype),
            rng.standard_normal((3, 6, 5, 4)).astype(dtype).transpose(0, 3, 1, 2),
        ):
            want = getattr(ip, name)(x, **more)
            got = getattr(ip, name)(x, out=x, **more)
            assert got is x and np.array_equal(x, want)


def test_defaults():
    """axes=-1, channel_axis=1, eps=1e-5, no activation."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4, 6, 5, 3))
    check(ip.layer_norm(x), "layer_norm", x, {})
    check(ip.rms_norm(x), "rms_norm", x, {"eps": None})
    check(ip.batch_norm(x), "batch_norm", x, {})
    check(ip.instance_norm(x), "instance_norm", x, {})
    check(ip.group_norm(x, 3), "group_norm", x, {"num_groups": 3})


def test_weight_follows_the_order_of_axes():
    """Axes (2, 0) take a weight of shape (size of axis 2, size of axis 0)."""
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((3, 4, 5)), rng.standard_normal((5, 3))
    got = ip.layer_norm(x, (2, 0), weight)
    np.testing.assert_allclose(got, ip.layer_norm(x, (0, 2), weight.T.copy()), rtol=1e-13)
    plain = ip.layer_norm(x, (0, -1))
    np.testing.assert_allclose(got, plain * weight.T[:, None, :], rtol=1e-12)


def test_channels_last_is_a_transposition():
    rng = np.random.default_rng(4)
    last = rng.standard_normal((2, 5, 4, 6)).astype(np.float32)
    first = last.transpose(0, 3, 1, 2)
    w, b = rng.standard_normal((2, 6)).astype(np.float32)
    for name, more in (
        ("batch_norm", {}),
        ("instance_norm", {}),
        ("group_norm", {"num_groups": 3}),
    ):
        a = getattr(ip, name)(last, weight=w, bias=b, channel_axis=-1, **more)
        c = getattr(ip, name)(first, weight=w, bias=b, **more)
        assert np.array_equal(a.transpose(0, 3, 1, 2), c)
        assert a.flags.c_contiguous


def test_bfloat16_through_pytorch_and_ml_dtypes():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 6, 5)).astype(ml_dtypes.bfloat16)
    tensor = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    w = rng.standard_normal(6).astype(np.float32)
    for name, more in (
        ("batch_norm", {"weight": w}),
        ("layer_norm", {"axes": (1, 2)}),
        ("group_norm", {"num_groups": 2, "weight": w.astype(ml_dtypes.bfloat16)}),
    ):
        mine = getattr(ip, name)(x, **more)
        assert mine.dtype == ml_dtypes.bfloat16
        check(mine, name, x, more)
        theirs = getattr(ip, name)(tensor, **more)
        assert isinstance(theirs, torch.Tensor) and theirs.dtype == torch.bfloat16
        assert np.array_equal(theirs.view(torch.int16).numpy(), mine.view(np.int16))
        out = torch.empty_like(tensor)
        assert getattr(ip, name)(tensor, **more, out=out) is out and torch.equal(out, theirs)


def test_tensors_of_pytorch_and_jax():
    import jax.numpy as jnp

    rng = np.random.default_rng(6)
    x = rng.standard_normal((3, 6, 5)).astype(np.float32)
    w = rng.standard_normal(6).astype(np.float32)
    want = ip.batch_norm(x, weight=w)
    got = ip.batch_norm(torch.from_numpy(x), weight=torch.from_numpy(w))
    assert isinstance(got, torch.Tensor) and np.array_equal(got.numpy(), want)
    got = ip.batch_norm(jnp.asarray(x), weight=jnp.asarray(w))
    assert isinstance(got, type(jnp.zeros(1))) and np.array_equal(np.asarray(got), want)


class _Foreign:
    """Speaks DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **named):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack():
    rng = np.random.default_rng(7)
    for x in (
        rng.standard_normal((3, 6, 5)),
        rng.standard_normal((3, 6, 10)).astype(np.float32)[:, ::2, 1::2],
    ):
        assert np.array_equal(ip.layer_norm(_Foreign(x)), ip.layer_norm(x))
        assert np.array_equal(ip.batch_norm(_Foreign(x)), ip.batch_norm(x))


def test_the_same_numbers_as_the_pytorch_front():
    import infinitypool.nn.functional as IF

    rng = np.random.default_rng(8)
    for dtype in (np.float32, np.float64, np.float16):
        x = rng.standard_normal((4, 6, 7, 5)).astype(dtype)
        t = torch.from_numpy(x)
        for ours, theirs in (
            (ip.layer_norm(x, (2, 3)), IF.layer_norm(t, (7, 5))),
            (ip.rms_norm(x, (2, 3)), IF.rms_norm(t, (7, 5))),
            (ip.group_norm(x, 3), IF.group_norm(t, 3)),
            (ip.instance_norm(x), IF.instance_norm(t)),
            (ip.batch_norm(x), IF.batch_norm(t, None, None, training=True)),
        ):
            assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 4)])
def test_nothing_comes_of_nothing(shape):
    for function in (ip.layer_norm, ip.rms_norm):
        assert function(np.zeros(shape, np.float32)).shape == shape


def test_large_arrays():
    rng = np.random.default_rng(9)
    x = rng.standard_normal((3, 200, 700)).astype(np.float32)
    w = rng.standard_normal(200).astype(np.float32)
    check(ip.batch_norm(x, weight=w), "batch_norm", x, {"weight": w})
    check(ip.layer_norm(x, 1, w), "layer_norm", x, {"axes": 1, "weight": w})
    more = {"num_groups": 4, "channel_axis": -1}
    check(ip.group_norm(x, **more), "group_norm", x, more)
    got = ip.layer_norm(x[:, ::-1, ::3], axes=(0, 2))
    check(got, "layer_norm", x[:, ::-1, ::3], {"axes": (0, 2)})

"""The edge rules of docs/edge_rules.md: where ONNX, PyTorch and Keras differ, and how each is said.

ONNX's are those of ONNX Runtime; where that leaves the text of the standard, of its reference.
"""

from __future__ import annotations

import inspect
import random

import numpy as np
import peer_keras
import peer_onnx
import pytest
import torch
from onnx import defs, helper
from onnx.reference import ReferenceEvaluator
from peer_keras import layers

import infinitypool as ip
import infinitypool.nn as nn
import infinitypool.nn.functional as F

TF = torch.nn.functional
NAN, INF = np.nan, np.inf


def row(*numbers, dtype=np.float32):
    return np.array(numbers, dtype).reshape(1, 1, -1)


def flat(result):
    return np.asarray(result).ravel().tolist()


def reference(model, inputs):
    return ReferenceEvaluator(model).run(None, {f"in{i}": x for i, x in enumerate(inputs)})


def agree(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
        else:  # sums of at most 64 elements of at most a few units, in another order
            np.testing.assert_allclose(a, b, rtol=64 * peer_onnx.EPS, atol=64 * peer_onnx.EPS)


# --- windows -------------------------------------------------------------------------------


def draw(operator, auto_pad, rng):
    """Sizes, and attributes of a node with windows that ONNX Runtime takes."""
    n = rng.choice([1, 2, 2, 3])
    kernel = [rng.randint(1, 4) for _ in range(n)]
    stride = [rng.randint(1, 4) for _ in range(n)]
    attributes = {"kernel_shape": kernel, "ceil_mode": rng.randint(0, 1)}
    if auto_pad == "NOTSET":
        attributes["pads"] = [rng.randint(0, k - 1) for k in kernel * 2]
        attributes["dilations"] = [rng.randint(1, 2) for _ in range(n)]
    else:
        attributes["auto_pad"] = auto_pad
        if auto_pad != "VALID":  # beyond the kernel and with dilation it leaves the standard
            stride = [min(s, k) for s, k in zip(stride, kernel, strict=True)]
    if operator == "AveragePool":
        attributes["count_include_pad"] = rng.randint(0, 1)
    if operator == "LpPool":
        attributes["p"] = rng.randint(1, 3)
    sizes = [rng.randint(7, 10) for _ in range(n)]
    return sizes, attributes | {"strides": stride}


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
def test_windows_are_those_of_onnx(operator, auto_pad):
    rng, numbers = random.Random(f"{operator} {auto_pad}"), np.random.default_rng(0)
    for _ in range(120 if auto_pad == "NOTSET" else 40):
        sizes, attributes = draw(operator, auto_pad, rng)
        outputs = 1
        if operator == "MaxPool" and rng.randint(0, 1):
            outputs = 2
            attributes["storage_order"] = rng.randint(0, 1)
        x = numbers.standard_normal((2, 3, *sizes)).astype(np.float32)
        model = peer_onnx.model(operator, [x], outputs=outputs, **attributes)
        agree(peer_onnx.ours(model, [x]), peer_onnx.runtime(model, [x]))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, np.float64])
def test_other_dtypes_of_maxima(dtype):
    x = np.random.default_rng(0).integers(0, 100, (2, 3, 7, 8)).astype(dtype)
    attributes = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1}
    model = peer_onnx.model("MaxPool", [x], outputs=2, **attributes)
    agree(peer_onnx.ours(model, [x]), peer_onnx.runtime(model, [x]))


def test_ceil_mode_and_divisors_agree_with_pytorch_too():
    rng, x = random.Random(0), torch.randn(2, 3, 9, 10, generator=torch.Generator().manual_seed(0))
    for _ in range(100):
        kernel = [rng.randint(1, 4) for _ in range(2)]
        pads = [rng.randint(0, k // 2) for k in kernel]
        stride = [rng.randint(1, 4) for _ in range(2)]
        ceil, include = rng.randint(0, 1), rng.randint(0, 1)
        wanted = TF.avg_pool2d(x, kernel, stride, pads, bool(ceil), bool(include)).numpy()
        model = peer_onnx.model(
            "AveragePool",
            [x.numpy()],
            kernel_shape=kernel,
            strides=stride,
            pads=pads * 2,
            ceil_mode=ceil,
            count_include_pad=include,
        )
        agree(peer_onnx.runtime(model, [x.numpy()]), [wanted])
        agree(peer_onnx.ours(model, [x.numpy()]), [wanted])


def test_same_padding_with_dilation_is_that_of_the_standard():
    x = row(1, 2, 3, 4, 5, 6)
    model = peer_onnx.model("MaxPool", [x], kernel_shape=[3], dilations=[2], auto_pad="SAME_UPPER")
    agree(peer_onnx.ours(model, [x]), reference(model, [x]))
    assert flat(ip.max_pool(x, (3,), stride=1, dilation=2, padding="same")) == [3, 4, 5, 6, 5, 6]


def test_same_padding_is_keras():
    for size, kernel, stride in [(5, 3, 2), (5, 2, 1), (5, 3, 4), (5, 1, 3), (6, 4, 3)]:
        x = np.arange(1.0, size + 1, dtype=np.float32).reshape(1, size, 1)
        window = {"stride": stride, "padding": "same", "axes": (1,)}
        for ours, theirs in (("max", "max"), ("avg", "average")):
            wanted = getattr(peer_keras.operations, f"{theirs}_pool")(x, kernel, stride, "same")
            agree([getattr(ip, f"{ours}_pool")(x, kernel, **window)], [np.asarray(wanted)])


def test_a_mean_counts_padding_of_same_where_pairs_say_so():
    x = row(1, 2, 3, 4, 5)
    model = peer_onnx.model(
        "AveragePool", [x], kernel_shape=[3], auto_pad="SAME_UPPER", count_include_pad=1
    )
    pairs = ip.avg_pool(x, (3,), stride=1, padding=((1, 1),))
    agree(peer_onnx.runtime(model, [x]), [pairs])
    assert flat(ip.avg_pool(x, (3,), stride=1, padding="same"))[0] == 1.5
    assert flat(pairs)[0] == 1


def test_padding_beyond_half_and_beyond_the_window():
    x = row(1, 2)
    assert flat(ip.max_pool(x, (2,), stride=1, padding=2)) == [-INF, 1, 2, 2, -INF]
    assert flat(ip.avg_pool(x, (2,), stride=1, padding=2)) == [0, 0.5, 1.5, 1, 0]
    bare = ip.avg_pool(x, (2,), stride=1, padding=2, count_include_pad=False)
    np.testing.assert_array_equal(flat(bare), [NAN, 1, 1.5, 2, NAN])
    _, places = ip.max_pool(x, (2,), stride=1, padding=2, return_indices=True)
    assert flat(places) == [-1, 0, 1, 1, -1]
    for front in (TF, F):
        with pytest.raises(RuntimeError, match="at most half"):
            front.max_pool1d(torch.from_numpy(x), 2, 1, padding=2)
    model = peer_onnx.model("MaxPool", [x], kernel_shape=[2], pads=[2, 2])
    with pytest.raises(Exception, match="Pad should be smaller than kernel"):
        peer_onnx.runtime(model, [x])


def test_a_window_larger_than_its_input():
    x = row(1, 2, 3, 4, 5)
    for front in (lambda: ip.max_pool(x, (7,)), lambda: F.max_pool1d(torch.from_numpy(x), 7)):
        with pytest.raises((ValueError, RuntimeError)):
            front()
    with pytest.raises(RuntimeError):
        TF.max_pool1d(torch.from_numpy(x), 7)
    assert np.asarray(peer_keras.operations.max_pool(x.swapaxes(1, 2), 7, 1)).shape == (1, 0, 1)
    assert flat(ip.max_pool(x, (7,), edge="partial")) == [5]


def test_nans():
    x = row(1, NAN, 3, 4)
    model = peer_onnx.model("MaxPool", [x], kernel_shape=[2], strides=[2], outputs=2)
    first, _ = peer_onnx.runtime(model, [x])
    for result in (ip.max_pool(x, (2,)), TF.max_pool1d(torch.from_numpy(x), 2)):
        np.testing.assert_array_equal(flat(result), [NAN, 4])
    keras = peer_keras.operations.max_pool(x.swapaxes(1, 2), 2, 2)
    np.testing.assert_array_equal(flat(keras), [NAN, 4])
    # ONNX Runtime: NaN only where a window begins with it.
    assert flat(first) == flat(ip.max_pool(x, (2,), nan_policy="omit")) == [1, 4]


def test_the_first_of_equal_elements():
    x = row(5, 5, 2, 2)
    model = peer_onnx.model("MaxPool", [x], kernel_shape=[2], outputs=2)
    agree(peer_onnx.runtime(model, [x]), ip.max_pool(x, (2,), stride=1, return_indices=True))
    for front in (TF, F):
        _, places = front.max_pool1d(torch.from_numpy(x), 2, 1, return_indices=True)
        assert flat(places) == [0, 1, 2]


def test_what_places_count_in():
    x = np.arange(16, dtype=np.float32).reshape(1, 2, 2, 4)
    _, planes = ip.max_pool(x, 2, return_indices=True)
    _, whole = ip.max_pool(x, 2, return_indices=True, indices="batch")
    assert flat(planes) == [5, 7, 5, 7] and flat(whole) == [5, 7, 13, 15]
    _, pytorch = TF.max_pool2d(torch.from_numpy(x), 2, return_indices=True)
    np.testing.assert_array_equal(pytorch, planes)
    for order, wanted in ((0, flat(whole)), (1, [3, 7, 11, 15])):
        model = peer_onnx.model(
            "MaxPool", [x], outputs=2, kernel_shape=[2, 2], strides=[2, 2], storage_order=order
        )
        assert flat(peer_onnx.runtime(model, [x])[1]) == wanted
    assert flat(peer_onnx.column_major(whole, x.shape)) == [3, 7, 11, 15]


def test_unpooling_to_a_size():
    values, places = row(7.0, 9.0), row(1, 3, dtype=np.int64)
    plain = [0, 7, 0, 9]
    model = peer_onnx.model("MaxUnpool", [values, places], kernel_shape=[2], strides=[2])
    assert flat(peer_onnx.runtime(model, [values, places])[0]) == plain
    assert flat(ip.max_unpool(values, places, (2,))) == plain
    # In two axes the row length matters. PyTorch's places count in the result, those of ONNX's
    # reference in the plane before its zeros are added.
    values, places = values.reshape(1, 1, 1, 2), places.reshape(1, 1, 1, 2)
    shape = np.array([1, 1, 2, 5])
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    model = peer_onnx.model("MaxUnpool", [values, places + 4, shape], **window)
    apart = [0, 0, 0, 0, 0, 0, 7, 0, 9, 0]
    assert flat(reference(model, [values, places + 4, shape])[0]) == apart
    assert flat(peer_onnx.ours(model, [values, places + 4, shape])[0]) == apart
    in_result = [0, 0, 0, 0, 0, 7, 0, 9, 0, 0]
    assert flat(ip.max_unpool(values, places + 4, 2, output_size=(2, 5))) == in_result
    tensors = torch.from_numpy(values), torch.from_numpy(places + 4)
    assert flat(TF.max_unpool2d(*tensors, 2, output_size=(2, 5))) == in_result


def test_unpooling_of_several_planes():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    values, whole = ip.max_pool(x, 2, return_indices=True, indices="batch")
    model = peer_onnx.model("MaxUnpool", [values, whole], kernel_shape=[2, 2], strides=[2, 2])
    wanted = ip.max_unpool(values, whole % x[0, 0].size, 2)
    agree(peer_onnx.runtime(model, [values, whole]), [wanted])
    agree(peer_onnx.ours(model, [values, whole]), [wanted])


def test_powers_of_negative_elements():
    x = row(-1, -2, 3, 0)
    model = peer_onnx.model("LpPool", [x], kernel_shape=[2], strides=[2], p=3)
    (absolute,) = peer_onnx.runtime(model, [x])
    np.testing.assert_allclose(flat(absolute), [9 ** (1 / 3), 3], rtol=1e-6)
    np.testing.assert_allclose(flat(ip.lp_pool(x, (2,), p=3)), [-(9 ** (1 / 3)), 3], rtol=1e-6)
    np.testing.assert_allclose(ip.lp_pool(np.abs(x), (2,), p=3), absolute, rtol=1e-6)
    np.testing.assert_array_equal(flat(TF.lp_pool1d(torch.from_numpy(x), 3, 2)), [NAN, 3])


def test_the_last_window_of_a_power_sum():
    x = row(1, 1, 1)
    model = peer_onnx.model("LpPool", [x], kernel_shape=[2], strides=[2], p=1, ceil_mode=1)
    assert flat(peer_onnx.runtime(model, [x])[0]) == [2, 1]
    assert flat(ip.lp_pool(x, (2,), p=1, ceil_mode=True)) == [2, 1]
    # PyTorch takes the window's mean times its size, and so do the layers here.
    for front in (TF, F):
        assert flat(front.lp_pool1d(torch.from_numpy(x), 1, 2, ceil_mode=True)) == [2, 2]


def test_the_global_p_norm():
    x = row(-3, 4)
    (result,) = peer_onnx.ours(peer_onnx.model("GlobalLpPool", [x], p=2), [x])
    assert result.shape == (1, 1, 1) and flat(result) == [5]


# --- norms ---------------------------------------------------------------------------------


def onnx_eps(operator):
    return helper.get_attribute_value(defs.get_schema(operator).attributes["epsilon"].default_value)


@pytest.mark.parametrize(
    ("kind", "pytorch", "onnx", "keras", "ours"),
    [
        ("Layer", 1e-5, 1e-5, 1e-3, 1e-5),
        ("Batch", 1e-5, 1e-5, 1e-3, 1e-5),
        ("Group", 1e-5, 1e-5, 1e-3, 1e-5),
        ("Instance", 1e-5, 1e-5, None, 1e-5),
        ("RMS", None, 1e-5, 1e-6, None),
    ],
)
def test_what_eps_is_by_default(kind, pytorch, onnx, keras, ours):
    theirs = {"Batch": "BatchNorm1d", "Instance": "InstanceNorm1d"}.get(kind, f"{kind}Norm")
    for module in (getattr(torch.nn, theirs), getattr(nn, theirs)):
        assert inspect.signature(module).parameters["eps"].default == pytorch
    assert onnx_eps(f"{kind}Normalization") == np.float32(onnx)
    if keras is not None:
        layer = getattr(layers, f"{kind}Normalization")
        assert inspect.signature(layer).parameters["epsilon"].default == keras
    function = getattr(ip, f"{kind.lower()}_norm")
    assert inspect.signature(function).parameters["eps"].default == ours


def test_eps_is_added_to_the_variance():
    x, eps = row(1, 3), 3.0
    one, zero = np.ones(2, np.float32), np.zeros(2, np.float32)
    wanted = [-0.5, 0.5]  # 1 / sqrt(1 + 3)
    model = peer_onnx.model("LayerNormalization", [x, one, zero], 17, epsilon=eps)
    assert flat(peer_onnx.runtime(model, [x, one, zero])[0]) == wanted
    assert flat(ip.layer_norm(x, eps=eps)) == wanted
    assert flat(TF.layer_norm(torch.from_numpy(x), (2,), eps=eps)) == wanted
    keras = np.asarray(layers.LayerNormalization(epsilon=eps)(x))
    np.testing.assert_allclose(flat(keras), wanted, rtol=1e-6)


def test_half_precision_has_its_statistics_in_float32():
    x = np.random.default_rng(0).standard_normal((4, 300)).astype(np.float16) + np.float16(8)
    inputs = [x, np.ones(300, np.float16), np.zeros(300, np.float16)]
    model = peer_onnx.model("LayerNormalization", inputs, 17)
    wide = np.float64(x)
    exact = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    for (result,) in (peer_onnx.ours(model, inputs), peer_onnx.runtime(model, inputs)):
        assert result.dtype == np.float16
        np.testing.assert_allclose(result, exact, rtol=2**-10, atol=1e-5)  # one rounding


def test_running_variance_and_momentum():
    x = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    one, zero = np.ones(2, np.float32), np.zeros(2, np.float32)
    inputs = [x, one, zero, zero, one]
    model = peer_onnx.model(
        "BatchNormalization", inputs, 15, outputs=3, training_mode=1, momentum=0.75
    )
    onnx = peer_onnx.runtime(model, inputs)
    agree(peer_onnx.ours(model, inputs), onnx)
    keras = layers.BatchNormalization(momentum=0.75, epsilon=1e-5)
    keras(x, training=True)
    biased, unbiased = (0.75 + 0.25 * x.var(0, ddof=d) for d in (0, 1))
    agree([onnx[2], np.asarray(keras.moving_variance)], [biased, biased])
    for module in (torch.nn.BatchNorm1d(2, momentum=0.25), nn.BatchNorm1d(2, momentum=0.25)):
        module(torch.from_numpy(x))
        agree([module.running_var.numpy(), module.running_mean.numpy()], [unbiased, onnx[1]])


def test_one_value_in_a_channel():
    x = np.ones((1, 1), np.float32)
    for front in (TF, F):
        with pytest.raises(ValueError, match="(?i)one value|more than 1 value"):
            front.batch_norm(torch.from_numpy(x), None, None, training=True)
    assert flat(ip.batch_norm(x)) == [0]
    assert flat(layers.BatchNormalization()(x, training=True)) == [0]
    image, one, zero = x.reshape(1, 1, 1), np.ones(1, np.float32), np.zeros(1, np.float32)
    model = peer_onnx.model("InstanceNormalization", [image, one, zero])
    assert flat(peer_onnx.runtime(model, [image, one, zero])[0]) == [0]
    assert flat(ip.instance_norm(image)) == [0]


@pytest.mark.parametrize(("opset", "parameters"), [(18, 2), (21, 4)])
def test_scale_of_groups_and_of_channels(opset, parameters):
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    scale = np.arange(1, parameters + 1, dtype=np.float32)
    inputs = [x, scale, -scale]
    model = peer_onnx.model("GroupNormalization", inputs, opset, num_groups=2)
    agree(peer_onnx.ours(model, inputs), peer_onnx.runtime(model, inputs))
    channels = np.repeat(scale, 4 // parameters)
    agree(peer_onnx.ours(model, inputs), [ip.group_norm(x, 2, channels, -channels)])


def test_groups_of_keras():
    assert inspect.signature(layers.GroupNormalization).parameters["groups"].default == 32
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    last = np.asarray(layers.GroupNormalization(2)(x))
    np.testing.assert_allclose(
        ip.group_norm(x, 2, eps=1e-3, channel_axis=-1), last, rtol=1e-4, atol=1e-5
    )
    each = np.asarray(layers.GroupNormalization(-1)(x))
    np.testing.assert_allclose(
        ip.instance_norm(x, eps=1e-3, channel_axis=-1), each, rtol=1e-4, atol=1e-5
    )


def test_mean_variance_normalisation_of_a_constant():
    x = np.array([[1, 1], [1, 3]], np.float32)
    model = peer_onnx.model("MeanVarianceNormalization", [x], 13, axes=[0])
    agree(peer_onnx.ours(model, [x]), reference(model, [x]))
    assert flat(ip.layer_norm(x, 0, eps=1e-18)) == [0, -1, 0, 1]


def test_dropout_in_evaluation_and_its_factor():
    x = torch.ones(2000)
    for layer in (torch.nn.Dropout(0.75), nn.Dropout(0.75)):
        assert set(flat(layer(x))) == {0.0, 4.0}
        assert flat(layer.eval()(x)) == flat(x)
    keras = layers.Dropout(0.75)
    assert set(flat(keras(x.numpy(), training=True))) == {0.0, 4.0}
    assert flat(keras(x.numpy())) == flat(x)
    (made,) = peer_onnx.runtime(peer_onnx.model("Dropout", [x.numpy()]), [x.numpy()])
    assert flat(made) == flat(x)


def test_local_response():
    x = np.random.default_rng(0).standard_normal((2, 7, 3, 4)).astype(np.float32)
    attributes = {"size": 5, "alpha": 0.5, "beta": 0.75, "bias": 2.0}
    model = peer_onnx.model("LRN", [x], 13, **attributes)
    wanted = TF.local_response_norm(torch.from_numpy(x), 5, alpha=0.5, beta=0.75, k=2.0).numpy()
    agree(peer_onnx.ours(model, [x]), [wanted])
    agree(peer_onnx.runtime(model, [x]), [wanted])


def test_means_of_integers():
    x = row(1, 2, 3, 4, dtype=np.int64)
    assert flat(ip.avg_pool(x, (2,))) == [2, 4]  # to the nearest, ties to even
    for front in (TF, F):
        assert flat(front.avg_pool1d(torch.from_numpy(x), 2)) == [1, 3]
    model = peer_onnx.model("AveragePool", [x], kernel_shape=[2])
    with pytest.raises(Exception, match="INVALID_GRAPH"):
        peer_onnx.runtime(model, [x])

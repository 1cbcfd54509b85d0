"""The cases that ONNX ships for its pooling, norm and dropout nodes, run through the array functions."""

from __future__ import annotations

import numpy as np
import peer_onnx
import pytest

# How many cases there are at least, by operator. GlobalLpPool has none.
LEAST = {
    "AveragePool": 20,
    "BatchNormalization": 4,
    "Dropout": 12,
    "GlobalAveragePool": 2,
    "GlobalLpPool": 0,
    "GlobalMaxPool": 2,
    "GroupNormalization": 2,
    "InstanceNormalization": 2,
    "LRN": 2,
    "LayerNormalization": 19,
    "LpPool": 8,
    "MaxPool": 19,
    "MaxUnpool": 2,
    "MeanVarianceNormalization": 1,
    "RMSNormalization": 19,
}

# Both sides work in float32, in different orders: so many of its last places at the largest element.
LAST_PLACES = 8

# Expected values that were written down with four decimals, rounded up.
FOUR_DECIMALS = {"test_averagepool_2d_ceil_last_window_starts_on_pad"}

# What is dropped comes out of a generator, and ONNX's reference and we have different ones.
RANDOM = {
    "test_training_dropout",
    "test_training_dropout_default",
    "test_training_dropout_default_mask",
    "test_training_dropout_mask",
}


def check(case, got):
    assert len(got) == len(case.outputs)
    for ours, wanted in zip(got, map(np.asarray, case.outputs), strict=True):
        assert (ours.shape, ours.dtype) == (wanted.shape, wanted.dtype)
        if wanted.dtype.kind == "f":
            bound = LAST_PLACES * peer_onnx.EPS * np.abs(wanted).max()
            bound = 1e-4 if case.name in FOUR_DECIMALS else bound
            np.testing.assert_allclose(ours, wanted, rtol=0, atol=bound)
        else:
            np.testing.assert_array_equal(ours, wanted)


def check_random(case, got):
    """Whatever is kept is divided by its probability, the rest is 0, and the mask tells them apart."""
    x, ratio, _ = case.inputs
    for values, *mask in (got, case.outputs):
        kept = values != 0
        np.testing.assert_allclose(values[kept], x[kept] / (1 - ratio), rtol=2 * peer_onnx.EPS)
        assert 0 < kept.sum() < kept.size
        for m in mask:
            np.testing.assert_array_equal(m, kept)


@pytest.mark.parametrize("operator", peer_onnx.RULES)
def test_every_case_of_an_operator(operator):
    single, _ = peer_onnx.cases()
    ran = [case for case in single if case.node.operator == operator]
    for case in ran:
        got = peer_onnx.RULES[operator](case.node, *case.inputs)
        try:
            (check_random if case.name in RANDOM else check)(case, got)
        except AssertionError as error:
            raise AssertionError(f"{case.name}, {case.node}: {error}") from None
    print(f"{operator}: {len(ran)} cases")
    assert len(ran) >= LEAST[operator]


def test_the_cases_that_are_left_out_repeat_others():
    single, expanded = peer_onnx.cases()
    print(f"{len(single)} cases of one node, {len(expanded)} that spell one of them out")
    names = {case.name for case in single}
    assert len(names) == len(single) >= 114 and names >= FOUR_DECIMALS | RANDOM
    assert len(expanded) >= 59 and {name.split("_expanded")[0] for name in expanded} < names
    with_rules = {case.node.operator for case in single}
    assert with_rules == set(peer_onnx.RULES) - {"GlobalLpPool"}

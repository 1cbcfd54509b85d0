"""Keras's own tests of pooling, norms and dropout, on our array functions."""

from __future__ import annotations

import unittest
from collections import Counter

import numpy as np
import peer_keras
import pytest

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnknownMarkWarning:keras",
    "ignore::DeprecationWarning:keras",
    "ignore:You passed `rms_scaling:UserWarning:keras",
)

# How many tests of each module compute something of ours at least. The others of these modules,
# which run as well, look at arguments and configurations.
REACHING = {
    "layers.normalization.batch_normalization_test": 23,
    "layers.normalization.group_normalization_test": 7,
    "layers.normalization.layer_normalization_test": 4,
    "layers.normalization.rms_normalization_test": 4,
    "layers.pooling.adaptive_pooling1d_test": 6,
    "layers.pooling.adaptive_pooling2d_test": 8,
    "layers.pooling.adaptive_pooling3d_test": 8,
    "layers.pooling.average_pooling_test": 35,
    "layers.pooling.global_average_pooling_test": 21,
    "layers.pooling.global_max_pooling_test": 21,
    "layers.pooling.max_pooling_test": 24,
    "layers.regularization.dropout_test": 4,
    "layers.regularization.spatial_dropout_test": 6,
    "ops.nn_test": 13,
}


@pytest.mark.parametrize("module", REACHING)
def test_the_tests_in_the_wheel(module):
    tests = peer_keras.shipped(module)
    if module == "ops.nn_test":  # of all operations on arrays
        tests = [test for test in tests if "pool" in test.id() or "norm" in test.id()]
    np.random.seed(0)  # some draw their inputs
    reached, called = 0, Counter(peer_keras.calls)
    with peer_keras.installed():
        for test in tests:
            before = peer_keras.calls.total()
            result = unittest.TestResult()
            test(result)
            reached += peer_keras.calls.total() > before
            for name, trace in result.errors + result.failures + result.skipped:
                pytest.fail(f"{name}: {trace}")
    print(f"{module}: {reached} of {len(tests)} tests reached {dict(peer_keras.calls - called)}")
    assert reached >= REACHING[module]


def test_what_was_put_in_is_taken_out():
    x = np.zeros((1, 4, 1), np.float32)
    before = peer_keras.calls.total()
    assert peer_keras.backend.nn.max_pool(x, 2, 2).shape == (1, 2, 1)
    assert peer_keras.calls.total() == before
    with peer_keras.installed():
        assert peer_keras.backend.nn.max_pool(x, 2, 2).shape == (1, 2, 1)
    assert peer_keras.calls.total() == before + 1

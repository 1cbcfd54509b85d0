"""Keras with our array functions in place of its own computations.

``installed`` puts them where Keras's layers and operations look for theirs, so that the tests that
come in Keras's wheel run unchanged, with their parameters, NumPy references and tolerances.
"""

from __future__ import annotations

import importlib
import unittest
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import torch
from keras.src import backend, layers
from keras.src.ops import nn as operations

import infinitypool as ip
import infinitypool.nn.functional as F

assert backend.backend() == "numpy"  # conftest.py asks for it: the others take a framework

# What ran, by the name of our function.
calls: Counter[str] = Counter()


def _pool(function):
    def run(inputs, size, strides=None, padding="valid", data_format=None):
        calls[function.__name__] += 1
        axes = _spatial(inputs, data_format)
        own = {} if function is ip.max_pool else {"count_include_pad": False}
        return function(inputs, size, stride=strides, padding=padding, axes=axes, **own)

    return run


def _adaptive(function):
    def run(inputs, output_size, data_format=None):
        calls[function.__name__] += 1
        return function(inputs, output_size, axes=_spatial(inputs, data_format))

    return run


def _global(function):
    def call(self, inputs, mask=None):
        calls[function.__name__] += 1
        axes = _spatial(inputs, self.data_format)
        where = None
        if mask is not None:
            where = np.expand_dims(np.asarray(mask, bool), 3 - axes[0])
        result = function(inputs, 1, axes=axes, where=where)
        return result if self.keepdims else result.squeeze(axes)

    return call


def _spatial(inputs, data_format):
    first = 1 if backend.standardize_data_format(data_format) == "channels_last" else 2
    return tuple(range(first, first + inputs.ndim - 2))


def _batch(x, mean, variance, axis, offset=None, scale=None, epsilon=1e-3):
    calls["batch_norm"] += 1
    return ip.batch_norm(x, mean, variance, scale, offset, epsilon, channel_axis=axis)


def _group(self, inputs):
    calls["group_norm"] += 1
    weight = np.asarray(self.gamma) if self.scale else None
    bias = np.asarray(self.beta) if self.center else None
    arguments = (self.groups, weight, bias, self.epsilon)
    result = ip.group_norm(inputs, *arguments, channel_axis=self.axis)
    return result.astype(self.compute_dtype)


def _along(axis, ndim):
    # Keras's parameters have the axes' sizes in ascending order, whatever the order of `axis`.
    return sorted(a % ndim for a in ([axis] if isinstance(axis, int) else axis))


_own_layer_norm = operations._layer_normalization


def _layer(x, gamma=None, beta=None, axis=-1, epsilon=None, rms_scaling=False):
    if rms_scaling:  # divides by the standard deviation without taking the mean out
        return _own_layer_norm(x, gamma, beta, axis, epsilon, rms_scaling)
    calls["layer_norm"] += 1
    x = np.asarray(x)
    return ip.layer_norm(x, _along(axis, x.ndim), *_values(gamma, beta), _eps(epsilon))


def _rms(x, scale=None, axis=-1, epsilon=None):
    calls["rms_norm"] += 1
    x = np.asarray(x)
    return ip.rms_norm(x, _along(axis, x.ndim), *_values(scale), _eps(epsilon))


def _values(*parameters):
    return [None if p is None else np.asarray(backend.convert_to_tensor(p)) for p in parameters]


def _eps(epsilon):
    return backend.epsilon() if epsilon is None else epsilon


def _dropout(inputs, rate, noise_shape=None, seed=None):
    calls["dropout"] += 1
    shape = [n or size for n, size in zip(noise_shape or inputs.shape, inputs.shape, strict=True)]
    ones = torch.ones(shape, dtype=torch.from_numpy(inputs).dtype)
    return inputs * F.dropout(ones, rate).numpy()


def _places():
    nn = backend.nn
    yield nn, "max_pool", _pool(ip.max_pool)
    yield nn, "average_pool", _pool(ip.avg_pool)
    yield nn, "adaptive_max_pool", _adaptive(ip.adaptive_max_pool)
    yield nn, "adaptive_average_pool", _adaptive(ip.adaptive_avg_pool)
    yield nn, "batch_normalization", _batch
    yield operations, "_layer_normalization", _layer
    yield operations, "_rms_normalization", _rms
    yield layers.GroupNormalization, "call", _group
    yield backend.random, "dropout", _dropout
    for n in (1, 2, 3):
        for name, function in (
            ("Max", ip.adaptive_max_pool),
            ("Average", ip.adaptive_avg_pool),
        ):
            yield getattr(layers, f"Global{name}Pooling{n}D"), "call", _global(function)


@contextmanager
def installed() -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, ours in _places():
            stack.enter_context(mock.patch.object(owner, name, ours))
        yield


def shipped(module: str) -> list[unittest.TestCase]:
    """The tests of a module of Keras's wheel, one for each row of parameters.

    Less those that train a model, which the NumPy backend has no means for.
    """
    found = unittest.defaultTestLoader.loadTestsFromModule(
        importlib.import_module(f"keras.src.{module}")
    )
    return [
        test
        for suite in found
        for test in suite
        if "requires_trainable_backend" not in [m.name for m in _marks(test)]
    ]


def _marks(test):
    return getattr(getattr(test, test._testMethodName), "pytestmark", [])

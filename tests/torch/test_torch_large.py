"""Results and lines long enough for every path that small ones never take.

Results of many MiB are written around the cache, lines of thousands of elements are worked on piece
by piece, and both end where no vector does.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import infinitypool as ip
import infinitypool.nn.functional as IF

# (shape, memory format): odd widths, so that lines begin and end anywhere in a cache line.
LARGE = [
    ((2, 1, 1101, 1303), torch.contiguous_format),
    ((1, 67, 203, 211), torch.channels_last),
    ((3, 5, 7, 30011), torch.contiguous_format),
]
WINDOWS = [(2, 2, 0), (3, 1, 1), (3, 2, 1), (7, 1, 3)]


def _numbers(shape, memory_format):
    """Small integers: sums of them are exact, so gradients can be compared bit by bit."""
    x = torch.from_numpy(np.random.default_rng(sum(shape)).integers(-99, 99, shape)).float()
    return x.contiguous(memory_format=memory_format)


@pytest.mark.parametrize("kernel, stride, padding", WINDOWS)
@pytest.mark.parametrize("shape, memory_format", LARGE)
def test_large_maxima_and_gradients(shape, memory_format, kernel, stride, padding):
    x = _numbers(shape, memory_format)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, places = IF.max_pool2d(ours, kernel, stride, padding, return_indices=True)
    want, indices = F.max_pool2d(theirs, kernel, stride, padding, return_indices=True)
    assert torch.equal(got, want) and torch.equal(places, indices)
    assert torch.equal(IF.max_pool2d(x, kernel, stride, padding), want)
    grad = _numbers(tuple(want.shape), memory_format)
    got.backward(grad)
    want.backward(grad)
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("kernel, stride, padding", WINDOWS)
@pytest.mark.parametrize("shape, memory_format", LARGE)
def test_large_means_and_gradients(shape, memory_format, kernel, stride, padding):
    x = _numbers(shape, memory_format)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    got = IF.avg_pool2d(ours, kernel, stride, padding, count_include_pad=False)
    want = F.avg_pool2d(theirs, kernel, stride, padding, count_include_pad=False)
    # Sums of integers are exact and the division rounds once.
    torch.testing.assert_close(got.double(), want, rtol=2.0**-23, atol=0)
    grad = _numbers(tuple(want.shape), memory_format)
    got.backward(grad)
    want.backward(grad.double())
    # At most kernel**2 quotients of 99, each rounded once, as are their sums.
    bound = 99 * kernel**2 * 2.0**-23
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=bound)


@pytest.mark.parametrize("start", [0, 1, 7])
def test_large_results_stay_within_out(start):
    x = _numbers(LARGE[0][0], torch.contiguous_format).numpy()
    want = F.max_pool2d(torch.from_numpy(x), 3, 1, 1).numpy()
    memory = np.full(want.size + 64, np.float32(-12345.0))
    out = memory[start : start + want.size].reshape(want.shape)
    ip.max_pool(x, 3, stride=1, padding=1, out=out)
    np.testing.assert_array_equal(out, want)
    assert (memory[:start] == -12345).all() and (memory[start + want.size :] == -12345).all()

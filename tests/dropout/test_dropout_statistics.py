"""How often, and nothing that one element says of another."""

from __future__ import annotations

import math

import pytest
import torch

import infinitypool.nn.functional as IF

N = 10_000_000


def within(share, p, n, sigmas=5.0):
    assert abs(share - p) <= sigmas * math.sqrt(p * (1 - p) / n), (share, p, n)


def dropped(n, p, generator):
    return IF.dropout(torch.ones(n), p, generator=generator) == 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_frequency(p):
    generator = torch.Generator().manual_seed(1)
    mask = dropped(N, p, generator)
    within(mask.double().mean().item(), p, N)
    blocks = mask[: N // 128 * 128].view(-1, 128).double().mean(0)  # every place in a superblock
    for share in blocks.tolist():
        within(share, p, N // 128, 5.5)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_no_correlation(p):
    """Of neighbours, of lanes, words and counters, of rows and of calls."""
    generator = torch.Generator().manual_seed(2)
    first, second = (dropped(N, p, generator) for _ in range(2))
    pairs = {"calls": (first, second)}
    for distance in (1, 2, 3, 15, 16, 17, 31, 32, 64, 127, 128, 129, 224, 1024, 224 * 224, 2**20):
        pairs[f"distance {distance}"] = first[:-distance], first[distance:]
    for name, (a, b) in pairs.items():
        within((a & b).double().mean().item(), p * p, a.numel(), 5.5), name
        within((a & ~b).double().mean().item(), p * (1 - p), a.numel(), 5.5), name


def test_seeds_next_to_each_other():
    """Keys that differ in a bit, and generators that follow one another."""
    ones = torch.ones(N // 10)
    op = torch.ops.infinitypool.dropout
    for other in (1, 2**31, 2**32, 2**62):
        a, b = (op(ones, 0.5, torch.tensor(seed), 0) == 0 for seed in (0, other))
        within((a == b).double().mean().item(), 0.5, ones.numel())
    masks = [dropped(10_000, 0.5, torch.Generator().manual_seed(seed)) for seed in range(40)]
    for a, b in zip(masks, masks[1:], strict=False):
        within((a == b).double().mean().item(), 0.5, 10_000)


def test_channels():
    x = torch.ones(400, 500, 3)
    for p in (0.1, 0.5, 0.9):
        y = IF.dropout1d(x, p, generator=torch.Generator().manual_seed(3))
        mask = y[..., 0] == 0
        assert torch.equal(y == 0, mask[..., None].expand_as(y))
        within(mask.double().mean().item(), p, mask.numel())
        within((mask[:, 1:] & mask[:, :-1]).double().mean().item(), p * p, mask[:, 1:].numel())


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["alpha_dropout", "feature_alpha_dropout"])
def test_alpha_dropout_keeps_mean_and_variance(name, p):
    """Of numbers with a mean of 0 and a variance of 1."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1000, 2000, dtype=torch.float64, generator=generator)
    y = getattr(IF, name)(x, p, True, generator=generator)
    n = x.numel()
    assert abs(y.mean().item()) < 6 / math.sqrt(n)
    fourth = ((y - y.mean()) ** 4).mean().item()
    assert abs(y.var().item() - 1) < 6 * math.sqrt((fourth - 1) / n)


def test_the_expectation_is_the_input():
    x = torch.tensor([-3.0, 0.5, 2.0]).repeat(1_000_000, 1)
    for p in (0.1, 0.5, 0.9):
        y = IF.dropout(x, p, generator=torch.Generator().manual_seed(5))
        for mean, value in zip(y.double().mean(0).tolist(), x[0].tolist(), strict=True):
            assert abs(mean - value) < 5.5 * abs(value) * math.sqrt(p / (1 - p) / len(x))

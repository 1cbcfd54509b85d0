"""Stochastic pooling: the distribution of its draws, and that nothing but the seed decides them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

import infinitypool as ip
import oracle
from strategies import LAYOUTS, arranged

INF, NAN = float("inf"), float("nan")
# With fixed seeds a test draws the same each time.  A right generator would be refused for one seed
# in a hundred thousand; a wrong weight is refused for nearly all, with this many draws.
LEAST = 1e-5
MANY = 40_000


def _repeated(window, count=MANY, dtype=np.float64):
    """``count`` windows that all hold the same elements: one line."""
    return np.tile(np.array(window, dtype), count)


def _shares(got, window):
    return np.array([(got == w).sum() for w in window])


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize(
    "window",
    [
        [1, 2, 3, 4],
        [0.5, 8, 0.25],
        [1, 0, 3],
        [-5, 1, 2],
        [7],
        [16, 1],
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
    ],
    ids=str,
)
def test_elements_are_drawn_by_their_weight(window, dtype):
    x = _repeated(window, dtype=dtype)
    got = ip.stochastic_pool(x, (len(window),), rng=11)
    assert got.dtype == dtype and got.shape == (MANY,)
    seen = _shares(got.astype(float), window)
    assert seen.sum() == MANY, "something was drawn that is not in the window"
    weight = np.maximum(window, 0)
    assert (seen[weight == 0] == 0).all()
    drawn = weight > 0
    if drawn.sum() > 1:
        want = weight[drawn] / weight.sum() * MANY
        assert scipy.stats.chisquare(seen[drawn], want).pvalue > LEAST


@pytest.mark.parametrize("window", [[-1, -2, -3], [0.0, -1.0, -5.0, -2.0]], ids=str)
def test_without_a_weight_all_are_as_likely(window):
    seen = _shares(ip.stochastic_pool(_repeated(window), (len(window),), rng=3), window)
    assert seen.sum() == MANY and scipy.stats.chisquare(seen).pvalue > LEAST


@pytest.mark.parametrize("axes", [(0, 1), (1, 2)], ids=["channels last", "planes"])
def test_the_distribution_in_planes(axes):
    """A 2x3 window from several lines, channels last and first."""
    window = np.array([[1.0, 5, 2], [4, 0, 8]])
    x = np.tile(window, (100, 120))
    x = x[..., None] if axes == (0, 1) else x[None]
    got = ip.stochastic_pool(x, (2, 3), axes=axes, rng=1)
    seen = _shares(got, window.ravel())
    assert seen.sum() == 12_000 and seen[4] == 0
    want = np.delete(window.ravel(), 4) / window.sum() * 12_000
    assert scipy.stats.chisquare(np.delete(seen, 4), want).pvalue > LEAST


def test_neighbours_are_drawn_independently():
    """Pairs of following outputs, in a line and across lines: all four outcomes by the product."""
    x = np.tile(np.array([1.0, 2.0]), (200, 200))
    drawn = ip.stochastic_pool(x, (1, 2), rng=5) == 2
    for a, b in [(drawn[:, ::2], drawn[:, 1::2]), (drawn[::2], drawn[1::2])]:
        seen = np.bincount((2 * a + b).ravel(), minlength=4)
        want = np.array([1, 2, 2, 4]) / 9 * seen.sum()
        assert scipy.stats.chisquare(seen, want).pvalue > LEAST


def test_seeds_are_drawn_independently():
    """One output under many seeds, small ones and large: as random as many outputs under one."""
    x = np.array([1.0, 2.0, 3.0])
    for seeds in (range(3000), range(2**63, 2**63 + 3000)):
        got = np.array([ip.stochastic_pool(x, (3,), rng=s)[0] for s in seeds])
        want = x / 6 * len(got)
        assert scipy.stats.chisquare(_shares(got, x), want).pvalue > LEAST


def test_excluded_elements_and_padding_are_never_drawn():
    window = [1.0, 2.0, 3.0, 4.0]
    x = _repeated(window)
    mask = np.tile(np.array([True, False, True, True]), MANY)
    seen = _shares(ip.stochastic_pool(x, (4,), where=mask, rng=2), window)
    assert seen[1] == 0 and seen.sum() == MANY
    want = np.array([1, 3, 4]) / 8 * MANY
    assert scipy.stats.chisquare(seen[[0, 2, 3]], want).pvalue > LEAST
    holes = np.where(mask, x, NAN)
    again = ip.stochastic_pool(holes, (4,), nan_policy="omit", rng=2)
    oracle.assert_same_bits(again, ip.stochastic_pool(x, (4,), where=mask, rng=2))
    got = ip.stochastic_pool(-np.ones((50, 50)), 3, stride=1, padding=1, rng=0)
    assert (got == -1).all(), "padding was drawn"
    got = ip.stochastic_pool(np.ones((4, 4)), 2, where=np.zeros(16, bool).reshape(4, 4), rng=0)
    assert np.isnan(got).all()
    got = ip.stochastic_pool(np.ones((5,)), (2,), edge="partial", min_count=2, rng=0)
    np.testing.assert_array_equal(got, [1, 1, NAN])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_nan_and_infinity(dtype):
    x = np.array([1, NAN, INF, 2, -INF, 3, -INF, -INF, 5, INF], dtype)
    for seed in range(20):
        got = ip.stochastic_pool(x, (2,), rng=seed)
        np.testing.assert_array_equal(got, [NAN, INF, 3, -INF, INF])


def test_weights_far_apart_and_large():
    """Sums that would overflow, elements that vanish beside others: still elements of the window."""
    big = np.float32(3e38)
    got = ip.stochastic_pool(_repeated([big, big], 1000, np.float32), (2,), rng=0)
    assert (got == big).all()
    got = ip.stochastic_pool(_repeated([1e-30, 1e30], 1000), (2,), rng=0)
    assert (got == 1e30).all()
    tiny = np.float32(1e-45)
    got = ip.stochastic_pool(_repeated([tiny, 0, 0], 1000, np.float32), (3,), rng=0)
    assert (got == tiny).all()


ARRAY = np.random.default_rng(0).random((3, 40, 50)).astype(np.float32)
ROUND = {"stride": 2, "padding": 1}


def test_a_seed_says_everything():
    first = ip.stochastic_pool(ARRAY, 3, rng=9, **ROUND)
    oracle.assert_same_bits(ip.stochastic_pool(ARRAY, 3, rng=9, **ROUND), first)
    oracle.assert_same_bits(ip.stochastic_pool(ARRAY, 3, rng=np.int64(9), **ROUND), first)
    assert (ip.stochastic_pool(ARRAY, 3, rng=10, **ROUND) != first).mean() > 0.5
    for seed in (0, 2**32, 2**63, 2**64 - 1):
        assert ip.stochastic_pool(ARRAY, 3, rng=seed, **ROUND).shape == first.shape


def test_generators():
    """The same state draws the same, and a generator moves on."""
    one, two = np.random.default_rng(4), np.random.default_rng(4)
    first = ip.stochastic_pool(ARRAY, 3, rng=one, **ROUND)
    oracle.assert_same_bits(ip.stochastic_pool(ARRAY, 3, rng=two, **ROUND), first)
    second = ip.stochastic_pool(ARRAY, 3, rng=one, **ROUND)
    assert (second != first).mean() > 0.5
    oracle.assert_same_bits(ip.stochastic_pool(ARRAY, 3, rng=two, **ROUND), second)
    one = np.random.Generator(np.random.MT19937(4))
    assert ip.stochastic_pool(ARRAY, 3, rng=one, **ROUND).shape == first.shape


def test_without_a_seed_calls_differ():
    first = ip.stochastic_pool(ARRAY, 3, **ROUND)
    assert (ip.stochastic_pool(ARRAY, 3, **ROUND) != first).mean() > 0.5


@pytest.mark.parametrize("axes", [(1, 2), (0, 1), (0, 2), (2,)])
def test_the_same_draw_in_every_layout(axes):
    size = (3,) * len(axes)
    more = {"axes": axes, "stride": 2, "padding": 1, "rng": 123}
    want = ip.stochastic_pool(ARRAY, size, **more)
    for seed, layout in enumerate(set(LAYOUTS) - {"broadcast"}):
        x = arranged(ARRAY, layout, np.random.default_rng(seed))
        oracle.assert_same_bits(ip.stochastic_pool(x, size, **more), want, layout)
    out = np.zeros(want.shape[::-1], np.float32).T
    assert ip.stochastic_pool(ARRAY, size, out=out, **more) is out
    oracle.assert_same_bits(out, want)


@pytest.mark.parametrize(
    "shape, axes", [((7, 60, 61), (1, 2)), ((200, 90, 3), (0, 1)), ((30_001,), (0,))]
)
def test_the_same_draw_for_any_number_of_threads(shape, axes, threads):
    x = np.random.default_rng(1).random(shape).astype(np.float32)
    drawn = []
    for count in (1, 2, 3):
        threads(count)
        drawn.append(ip.stochastic_pool(x, (3,) * len(axes), axes=axes, stride=1, rng=77))
    for other in drawn[1:]:
        oracle.assert_same_bits(other, drawn[0])


def test_the_expectation_is_what_draws_come_to():
    """The mean of many draws of one window, within five of its standard deviations."""
    window = np.array([0.5, 1, 4, 2, -3, 0])
    mean = ip.stochastic_pool(window, (6,), expectation=True)[0]
    weight = np.maximum(window, 0) / np.maximum(window, 0).sum()
    assert mean == pytest.approx((weight * window).sum(), rel=1e-14)
    drawn = ip.stochastic_pool(_repeated(window), (6,), rng=8)
    spread = np.sqrt((weight * (window - mean) ** 2).sum() / MANY)
    assert abs(drawn.mean() - mean) < 5 * spread

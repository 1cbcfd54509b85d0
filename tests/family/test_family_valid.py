"""Which elements take part: where=, nan_policy=, min_count=, edge="partial"."""

from __future__ import annotations

import numpy as np
import pytest

import infinitypool as ip
import oracle
from strategies import ADAPTIVE, KINDS, LAYOUTS, Guarded, arranged

NAN = float("nan")
WAYS = [(name, adaptive) for name in KINDS for adaptive in (False, True)]
WAYS = [(name, adaptive) for name, adaptive in WAYS if not adaptive or name in ADAPTIVE]
each = pytest.mark.parametrize(
    "kind, adaptive", WAYS, ids=[f"{'adaptive_' * a}{n}" for n, a in WAYS]
)


def _data(shape=(3, 6, 8), dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 9, shape).astype(dtype), rng.random(shape) < 0.6


@each
def test_masks_broadcast(kind, adaptive):
    """A mask of fewer axes, of axes of one, and its full form: one result."""
    kind = KINDS[kind]
    x, mask = _data()
    for small in (mask[0], mask[:, :1], mask[..., :1], mask[0, 0], mask[:, :1, :1], np.array(True)):
        got = kind.call(x, 2, adaptive, where=small)
        kind.check(got, x, 2, adaptive=adaptive, where=small)
        full = np.ascontiguousarray(np.broadcast_to(small, x.shape))
        oracle.assert_same_bits(kind.call(x, 2, adaptive, where=full), got)


@each
def test_masks_and_inputs_of_any_strides(kind, adaptive):
    kind = KINDS[kind]
    values, mask = _data()
    for seed, layout in enumerate(LAYOUTS):
        rng = np.random.default_rng(seed)
        x = arranged(values, layout, rng)
        for other in LAYOUTS:
            chosen = arranged(mask, other, rng)
            got = kind.call(x, 3, adaptive, where=chosen)
            kind.check(got, x, 3, f"{layout}, mask {other}", adaptive=adaptive, where=chosen)


@each
def test_nothing_excluded_is_nothing_changed(kind, adaptive):
    kind = KINDS[kind]
    x, _ = _data()
    plain = kind.call(x, 2, adaptive)
    for more in ({"where": np.True_}, {"where": np.ones(x.shape, bool)}, {"nan_policy": "omit"}):
        kind.check(kind.call(x, 2, adaptive, **more), x, 2, adaptive=adaptive)
    oracle.assert_same_bits(kind.call(x, 2, adaptive, nan_policy="raise"), plain)
    oracle.assert_same_bits(kind.call(x, 2, adaptive, min_count=1), plain)
    oracle.assert_same_bits(kind.call(x, 2, adaptive, min_count=0, where=None), plain)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@each
def test_windows_without_a_valid_element(kind, adaptive, dtype):
    """By mask, by omitted NaNs, and by padding: the documented value each time."""
    kind = KINDS[kind]
    x, _ = _data(dtype=dtype)
    size = (2, 3)
    holes = np.ones(x.shape, bool)
    holes[:, :3] = False
    nans = np.where(holes, x, np.array(NAN, dtype))
    want = {"max": -np.inf, "min": np.inf, "sum": 0.0, "mean": NAN}.get(kind.op)
    want = oracle.empty_result(kind.op) if want is None else want
    for more in ({"where": holes}, {"where": np.zeros(1, bool)}):
        got = kind.call(x, size, adaptive, **more)
        kind.check(got, x, size, adaptive=adaptive, **more)
        np.testing.assert_array_equal(got[:, 0].astype(float), np.full(got[:, 0].shape, want))
    got = kind.call(nans, size, adaptive, nan_policy="omit")
    kind.check(got, nans, size, adaptive=adaptive, nan_policy="omit")
    np.testing.assert_array_equal(got[:, 0].astype(float), np.full(got[:, 0].shape, want))
    if not adaptive:
        own = {"count_include_pad": False} if kind.op == "mean" else {}
        far = {"stride": 1, "padding": ((0, 0), (4, 0)), **own}
        got = kind.call(x, 2, **far)
        kind.check(got, x, 2, **far)
        np.testing.assert_array_equal(got[..., 0].astype(float), np.full(got[..., 0].shape, want))


def test_log_sum_exp_of_nothing_with_a_negative_beta():
    for x in (np.ones((4, 4)), np.ones((4, 4), np.float32)):
        none = np.zeros((4, 4), bool)
        got = ip.log_sum_exp_pool(x, 2, beta=-1.0, where=none)
        assert (got == np.inf).all()
        got = ip.adaptive_log_sum_exp_pool(x, 2, beta=-1.0, where=none)
        assert (got == np.inf).all()


@pytest.mark.parametrize("dtype", oracle.INTEGERS, ids=str)
def test_integers_without_a_valid_element(dtype):
    x, none = np.ones((4, 4), dtype), np.zeros((4, 4), bool)
    info = np.iinfo(dtype)
    for name, want in [
        ("max_pool", info.min),
        ("min_pool", info.max),
        ("sum_pool", 0),
        ("avg_pool", 0),
        ("median_pool", 0),
        ("quantile_pool", 0),
    ]:
        for adaptive in (False, True):
            got = KINDS[name].call(x, 2, adaptive, where=none)
            assert got.tolist() == [[want] * 2] * 2
            assert got.dtype == (oracle.sum_dtype(dtype) if name == "sum_pool" else dtype)
    for function, want in [(ip.max_pool, False), (ip.min_pool, True)]:
        assert function(x.astype(bool), 2, where=none).tolist() == [[want] * 2] * 2


@each
def test_least_counts(kind, adaptive):
    """Fewer valid elements than asked for give NaN, and no other window changes."""
    kind = KINDS[kind]
    x, mask = _data()
    plain = kind.call(x, 2, adaptive, where=mask)
    counts = oracle.pool(mask.astype(int), "sum", 2, adaptive=adaptive).values
    for least in range(13):
        got = kind.call(x, 2, adaptive, where=mask, min_count=least)
        short = counts < least
        oracle.assert_same_bits(got, np.where(short, np.float32(NAN), plain))
    assert counts.min() < counts.max()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_never_counts(kind):
    kind = KINDS[kind]
    x = np.arange(1.0, 17.0).reshape(4, 4)
    around = {"stride": 2, "padding": 1}
    got = kind.call(x, 2, min_count=2, **around)
    short = np.zeros((3, 3), bool)
    short[::2, ::2] = True  # one element and three of padding
    np.testing.assert_array_equal(np.isnan(got), short)
    kind.check(got, x, 2, min_count=2, **around)
    full = kind.call(x, 2, min_count=4, **around)
    assert np.isnan(full).sum() == 8


def test_an_average_over_valid_elements_divides_by_their_number():
    x = np.array([[1.0, 2.0], [3.0, NAN]])
    around = {"stride": 1, "padding": 1, "count_include_pad": True}
    got = ip.avg_pool(x, 2, nan_policy="omit", **around)
    np.testing.assert_array_equal(got, [[1, 1.5, 2], [2, 2, 2], [3, 3, NAN]])
    masked = ip.avg_pool(np.nan_to_num(x, nan=9), 2, where=~np.isnan(x), **around)
    np.testing.assert_array_equal(masked, got)
    got = ip.avg_pool(x, 2, nan_policy="omit", divisor_override=4)
    assert got.tolist() == [[1.5]]


@each
def test_nan_policies(kind, adaptive):
    kind = KINDS[kind]
    x, _ = _data()
    bad = x.copy()
    bad[1, 2, 3] = NAN
    spread = kind.call(bad, 2, adaptive)
    touched = np.isnan(spread)
    assert touched.sum() == 1
    oracle.assert_same_bits(kind.call(bad, 2, adaptive, nan_policy="propagate"), spread)
    omitted = kind.call(bad, 2, adaptive, nan_policy="omit")
    kind.check(omitted, bad, 2, adaptive=adaptive, nan_policy="omit")
    assert np.isfinite(omitted).all()
    out = Guarded(spread.shape, spread.dtype)
    with pytest.raises(ValueError) as caught:
        kind.call(bad, 2, adaptive, nan_policy="raise", out=out.out)
    name = f"adaptive_{kind.name}" if adaptive else kind.name
    message = str(caught.value)
    assert message.startswith(f"{name}: ") and "(1, 2, 3)" in message and "NaN" in message
    assert out.untouched(), "the output was written before the error"
    # What takes no part cannot raise.
    got = kind.call(bad, 2, adaptive, nan_policy="raise", where=~np.isnan(bad))
    kind.check(got, bad, 2, adaptive=adaptive, where=~np.isnan(bad))


@pytest.mark.parametrize("kind", KINDS)
def test_raise_names_the_first_that_takes_part(kind):
    kind = KINDS[kind]
    x = np.ones((4, 7))
    x[:, 6] = NAN  # behind the last window
    assert np.isfinite(kind.call(x, 2, nan_policy="raise")).all()
    x[3, 5] = x[2, 1] = x[2, 4] = NAN
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        kind.call(x, 2, nan_policy="raise")
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        kind.call(x, 2, nan_policy="raise", where=np.arange(4)[:, None] == 3)
    # Between windows nothing is read.
    gaps = {"stride": (2, 3), "nan_policy": "raise"}
    y = np.ones((4, 8))
    y[:, 2::3] = NAN
    assert np.isfinite(kind.call(y, 2, **gaps)).all()
    y[1, 3] = NAN
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        kind.call(y, 2, **gaps)


@pytest.mark.parametrize("policy", ["propagate", "omit", "raise"])
@pytest.mark.parametrize("dtype", [np.dtype(np.int16), oracle.BOOL], ids=str)
def test_nan_policies_of_whole_numbers_are_all_one(dtype, policy):
    x = np.random.default_rng(0).integers(0, 2, (4, 6)).astype(dtype)
    got, indices = ip.max_pool(x, 2, nan_policy=policy, return_indices=True)
    want, places = ip.max_pool(x, 2, return_indices=True)
    oracle.assert_same_bits(got, want)
    oracle.assert_same_bits(indices, places)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_omitting_is_masking(kind, dtype):
    """NaNs of every sign and payload, between numbers that must not notice."""
    kind = KINDS[kind]
    rng = np.random.default_rng(4)
    x = rng.standard_normal((5, 40, 33)).astype(dtype)
    holes = rng.random(x.shape) < 0.3
    x[holes] = NAN
    x[holes & (rng.random(x.shape) < 0.5)] *= -1
    for kernel, rest in [((3, 3), {"stride": 1, "padding": 1}), ((2, 5), {}), ((40, 1), {})]:
        got = kind.call(x, kernel, nan_policy="omit", **rest)
        kind.check(got, x, kernel, nan_policy="omit", **rest)
        oracle.assert_same_bits(kind.call(x, kernel, where=~holes, **rest), got)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape, kernel, rest, out",
    [
        ((7, 8), (3, 3), {}, (3, 3)),
        ((7, 8), (3, 4), {}, (3, 2)),
        ((2, 3), (5, 5), {}, (1, 1)),
        ((1, 1), (2, 1), {}, (1, 1)),
        ((7, 7), (2, 2), {"stride": 3}, (3, 3)),
        ((8, 9), (3, 3), {"stride": 2}, (4, 4)),
        ((7, 7), (3, 3), {"stride": 2, "padding": 1}, (4, 4)),
        ((6, 6), (3, 3), {"stride": 2, "padding": ((1, 0), (0, 2))}, (3, 3)),
        ((7, 9), (3, 2), {"dilation": (2, 3), "stride": 3}, (2, 3)),
        ((5, 5), (1, 1), {"stride": 4}, (2, 2)),
        ((5, 6), (1, 1), {"stride": 7}, (1, 1)),
    ],
)
def test_partial_windows(kind, shape, kernel, rest, out):
    kind = KINDS[kind]
    x = np.random.default_rng(0).integers(1, 9, shape).astype(np.float64)
    got = kind.call(x, kernel, edge="partial", **rest)
    assert got.shape == out
    kind.check(got, x, kernel, edge="partial", **rest)
    complete = rest.get("stride") is None and not np.any(np.mod(shape, kernel))
    assert complete or got.shape >= out


@pytest.mark.parametrize("kind", KINDS)
def test_a_partial_edge_covers_every_element(kind):
    """Without gaps between windows each element is in one: a NaN anywhere shows."""
    kind = KINDS[kind]
    for n in range(1, 9):
        for k in range(1, 5):
            for place in range(n):
                x = np.ones(n)
                x[place] = NAN
                got = kind.call(x, (k,), edge="partial")
                assert got.shape == (-(-n // k),)
                assert np.isnan(got[place // k]) and np.isnan(got).sum() == 1


def test_a_complete_edge_is_no_partial_one():
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    for kind in KINDS.values():
        oracle.assert_same_bits(kind.call(x, 2, edge="partial"), kind.call(x, 2))

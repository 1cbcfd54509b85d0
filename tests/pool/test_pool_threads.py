"""Results are the same bits for any number of threads."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

import battery
import infinitypool as ip
import oracle

# A run pinned to an instruction set tries fewer counts.
COUNTS = (1, 3) if "INFINITYPOOL_TEST_EXAMPLES" in os.environ else (1, 2, 3, 7)


@pytest.mark.parametrize("name", battery.BIG)
def test_same_bits_for_every_thread_count(name, threads):
    results = {}
    for count in COUNTS:
        threads(count)
        assert ip.get_num_threads() == count
        results[count] = dict(battery.big([name]))
    assert len(results[1]) >= 16
    for count in COUNTS[1:]:
        different = [key for key in results[1] if results[count][key] != results[1][key]]
        assert not different, f"{count} threads change {different}"


@pytest.mark.parametrize("name", ["planes", "one plane", "channels last", "lines", "volume"])
@pytest.mark.parametrize("op", ["max", "mean"])
def test_what_many_threads_give_is_right(name, op, threads):
    """Against the oracle, so that equal digests are not equally wrong."""
    shape, axes, kernel, rest = battery.BIG[name]
    shape = tuple(min(n, 150) for n in shape)
    x = np.random.default_rng(0).integers(-99, 99, shape).astype(np.float32)
    threads(3)
    function = {"max": ip.max_pool, "mean": ip.avg_pool}[op]
    got = function(x, kernel, axes=axes, **rest)
    oracle.assert_pooled(got, x, op, kernel, axes=axes, **rest)


def test_concurrent_calls_from_many_threads():
    """Eight Python threads pool at once; each gets its own right answer, every time."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 9, (4, 64 + i, 70)).astype(np.float32) for i in range(8)]
    expected = [ip.max_pool(x, 3, stride=1, return_indices=True) for x in arrays]
    means = [ip.avg_pool(x, 3, stride=1) for x in arrays]
    oracle.assert_pooled(expected[0][0], arrays[0], "max", (3, 3), stride=1)
    problems, barrier = [], threading.Barrier(8)

    def work(i):
        barrier.wait()
        for _ in range(30):
            values, indices = ip.max_pool(arrays[i], 3, stride=1, return_indices=True)
            mean = ip.avg_pool(arrays[i], 3, stride=1)
            if not (
                np.array_equal(values, expected[i][0])
                and np.array_equal(indices, expected[i][1])
                and np.array_equal(mean, means[i])
            ):
                problems.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)
    assert not problems


@pytest.mark.parametrize(
    "value, error",
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("two", TypeError), (None, TypeError)],
)
def test_bad_thread_counts(value, error, threads):
    before = ip.get_num_threads()
    with pytest.raises(error, match=r"set_num_threads"):
        threads(value)
    assert ip.get_num_threads() == before

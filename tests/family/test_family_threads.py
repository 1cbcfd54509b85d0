"""Results are the same bits for any number of threads, for every kind."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import battery
import oracle
from strategies import KINDS


@pytest.mark.parametrize("name", battery.FAMILY)
def test_same_bits_for_every_thread_count(name, threads):
    results = {}
    for count in (1, 2, 3):
        threads(count)
        results[count] = dict(battery.family([name]))
    assert len(results[1]) >= len(KINDS)
    for count in (2, 3):
        different = [key for key in results[1] if results[count][key] != results[1][key]]
        assert not different, f"{count} threads change {different}"


@pytest.mark.parametrize("kind", KINDS)
def test_what_many_threads_give_is_right(kind, threads):
    """Against the oracle, so that equal digests are not equally wrong."""
    threads(3)
    kind = KINDS[kind]
    x = np.random.default_rng(0).standard_normal((2, 61, 83)).astype(np.float32)
    kind.check(kind.call(x, 3, stride=2, padding=1), x, 3, stride=2, padding=1)
    if kind.adaptive:
        kind.check(kind.call(x, 7, adaptive=True), x, 7, adaptive=True)


@pytest.mark.parametrize("kind", KINDS)
def test_concurrent_calls(kind):
    """Six Python threads pool at once; each gets its own right answer, every time."""
    kind = KINDS[kind]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 40 + i, 50)).astype(np.float32) for i in range(6)]
    masks = [rng.random(x.shape) < 0.7 for x in arrays]
    expected = [kind.call(x, 3, stride=2, where=m) for x, m in zip(arrays, masks, strict=True)]
    kind.check(expected[0], arrays[0], 3, stride=2, where=masks[0])
    problems, barrier = [], threading.Barrier(6)

    def work(i):
        barrier.wait()
        for _ in range(5):
            got = kind.call(arrays[i], 3, stride=2, where=masks[i])
            if not np.array_equal(oracle.bits(got), oracle.bits(expected[i])):
                problems.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)
    assert not problems

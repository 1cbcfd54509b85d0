"""The recycling allocator: bounded, safe across views, threads and forks."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import infinitypool as ip
from infinitypool import _core

pytestmark = pytest.mark.once

MIB = 1 << 20


@pytest.fixture(autouse=True)
def clean():
    gc.collect()
    limit = _core.cache_info()["limit"]
    ip.empty_cache()
    assert _core.cache_info()["cached"] == 0
    yield
    ip.set_cache_limit(limit)
    ip.empty_cache()


def _info(name):
    return _core.cache_info()[name]


X = np.random.default_rng(0).integers(0, 99, (4, 1024, 1024)).astype(np.float32)  # pools to 4 MiB


def test_blocks_are_writable_buffers():
    block = _core.Block(3 * MIB)
    a = np.ndarray((3 * MIB,), np.uint8, buffer=block)
    assert a.flags.writeable and a.ctypes.data % 64 == 0
    a[...] = 7
    assert int(a.sum(dtype=np.int64)) == 21 * MIB
    view = memoryview(block)
    assert view.nbytes == 3 * MIB and not view.readonly


@pytest.mark.parametrize("size", [1, 63, 4096, MIB + 1, 5 * MIB - 3])
def test_blocks_hold_what_was_asked_for(size):
    a = np.ndarray((size,), np.uint8, buffer=_core.Block(size))
    a[0] = a[-1] = 1
    assert a.nbytes == size


def test_results_are_recycled():
    used = _info("in_use")
    first = ip.max_pool(X, 2)
    assert _info("in_use") >= used + first.nbytes
    address, size = first.ctypes.data, first.nbytes
    del first
    assert _info("in_use") == used and _info("cached") >= size
    held = _info("cached")
    again = ip.max_pool(X, 2)
    assert again.ctypes.data == address
    assert _info("cached") < held
    np.testing.assert_array_equal(again, X.reshape(4, 512, 2, 512, 2).max((2, 4)))


def test_a_long_loop_does_not_grow():
    sizes = []
    for _ in range(40):
        result, indices = ip.max_pool(X, 2, return_indices=True)
        sizes.append(_info("in_use") + _info("cached"))
        del result, indices
    # The first rounds may still bring each thread's scratch space.
    assert max(sizes[10:]) <= max(sizes[:10])


def test_empty_cache():
    result = ip.max_pool(X, 2)
    kept = result.copy()
    ip.empty_cache()
    np.testing.assert_array_equal(result, kept)
    del result
    assert _info("cached") > 0
    ip.empty_cache()
    assert _info("cached") == 0


@pytest.mark.parametrize("limit", [0, 3 * MIB, 9 * MIB])
def test_the_limit_is_honoured(limit):
    ip.set_cache_limit(limit)
    assert _info("limit") == limit
    blocks = [_core.Block(size * MIB) for size in (1, 2, 1, 4, 8, 2)]
    while blocks:
        blocks.pop()
        assert _info("cached") <= limit
    results = [ip.max_pool(X, 2) for _ in range(4)]
    del results
    assert _info("cached") <= limit


def test_a_lower_limit_takes_effect_at_once():
    ip.set_cache_limit(64 * MIB)
    blocks = [_core.Block(4 * MIB) for _ in range(8)]
    del blocks
    assert _info("cached") >= 16 * MIB
    ip.set_cache_limit(8 * MIB)
    assert _info("cached") <= 8 * MIB


def test_a_block_lives_as_long_as_any_view():
    result = ip.max_pool(X, 2)
    corner = result[1, 3:5, 7:9]
    expected = corner.copy()
    turned = memoryview(corner.T)
    del result, corner
    gc.collect()
    others = [ip.min_pool(X, 2) for _ in range(4)]  # would overwrite a block set free too early
    np.testing.assert_array_equal(np.asarray(turned).T, expected)
    assert all(not np.shares_memory(np.asarray(turned), other) for other in others)


def test_live_results_never_share_memory():
    results = [ip.max_pool(X, 2) for _ in range(6)]
    spans = sorted((r.ctypes.data, r.ctypes.data + r.nbytes) for r in results)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_many_threads_allocate_and_release():
    """Blocks filled with the owner's number keep it while others come and go."""
    problems, barrier = [], threading.Barrier(8)

    def work(number):
        rng = np.random.default_rng(number)
        held = []
        barrier.wait()
        try:
            for step in range(60):
                size = int(rng.integers(1, 5)) * MIB
                a = np.ndarray((size,), np.uint8, buffer=_core.Block(size))
                a[...] = number * 16 + step % 16
                held.append((a, number * 16 + step % 16))
                if len(held) > 3:
                    a, value = held.pop(int(rng.integers(0, 3)))
                    if not (a == value).all():
                        problems.append((number, step))
                if step % 20 == 19:
                    ip.empty_cache()
        except BaseException as error:  # noqa: BLE001 - a thread's error must reach the test
            problems.append((number, repr(error)))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert not any(worker.is_alive() for worker in workers) and not problems
    assert _info("cached") <= _info("limit")


def _run(program, timeout=60):
    """Runs a program in a session of its own, so that a child that hangs can be ended with it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        pytest.fail(f"hung for {timeout} seconds")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, f"exit {process.returncode}: {out[-500:]} {err[-2000:]}"
    return out


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_forked_child_can_pool(count):
    """After the parent's thread pool and allocator were used; the alarm ends a child that hangs."""
    said = _run(f"""
        import gc, os, signal
        import numpy as np
        import infinitypool as ip
        ip.set_num_threads({count})
        x = np.random.default_rng(0).standard_normal((4, 1024, 1024)).astype(np.float32)
        want = ip.max_pool(x, 2).copy()
        held = ip.avg_pool(x, 2)
        mean = held.copy()
        for generation in range(3):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                for _ in range(3):
                    assert np.array_equal(ip.max_pool(x, 2), want)
                    assert np.array_equal(ip.avg_pool(x, 2), mean)
                assert np.array_equal(held, mean)
                ip.empty_cache()
                if generation == 2:
                    grandchild = os.fork()
                    if grandchild == 0:
                        assert np.array_equal(ip.max_pool(x, 2), want)
                        os._exit(0)
                    assert os.waitpid(grandchild, 0)[1] == 0
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0, "the child failed"
            assert np.array_equal(ip.max_pool(x, 2), want)
            assert np.array_equal(held, mean)
        print("parent done")
    """)
    assert "parent done" in said


def test_torch_workers_after_fork():
    """A DataLoader's forked workers pool, while the parent does too."""
    said = _run("""
        import signal
        signal.alarm(50)
        import torch
        import infinitypool.nn.functional as IF
        import torch.nn.functional as F
        x = torch.arange(2.0 * 3 * 600 * 600).reshape(2, 3, 600, 600)
        want = F.max_pool2d(x, 2)
        assert torch.equal(IF.max_pool2d(x, 2), want)

        class Pictures(torch.utils.data.Dataset):
            def __len__(self):
                return 6

            def __getitem__(self, i):
                y = x + i  # PyTorch's own work stays on the one thread that it gives a worker
                torch.set_num_threads(2)
                pooled = IF.max_pool2d(y, 2)
                torch.set_num_threads(1)
                return pooled

        loader = torch.utils.data.DataLoader(
            Pictures(), num_workers=2, batch_size=None, multiprocessing_context="fork"
        )
        seen = 0
        for i, pooled in enumerate(loader):
            assert torch.equal(pooled, want + i)
            assert torch.equal(IF.max_pool2d(x, 2), want)
            seen += 1
        assert seen == 6
        print("loaded", seen)
    """)
    assert "loaded 6" in said


def test_multiprocessing_fork_pool():
    said = _run("""
        import multiprocessing, signal
        import numpy as np
        import infinitypool as ip
        signal.alarm(50)
        x = np.arange(700 * 700, dtype=np.float32).reshape(700, 700)
        ip.set_num_threads(2)
        want = ip.max_pool(x, 2).copy()
        def work(i):
            return bool(np.array_equal(ip.max_pool(x + np.float32(i), 2), want + np.float32(i)))
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(work, range(12)) == [True] * 12
        print("all right")
    """)
    assert "all right" in said

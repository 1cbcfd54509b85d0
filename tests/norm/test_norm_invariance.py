"""The same bits for any number of threads, any instruction set, and wherever memory begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import norm_battery
import norm_oracle as no
import numpy as np
import pytest
import torch
from norm_cases import acceptable, arranged, numbers, region_of
from norm_engine import FLOATS, Native

import infinitypool.nn.functional as IF
from infinitypool import _core

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("name", norm_battery.BIG)
def test_same_bits_for_every_thread_count(name, threads):
    results = {}
    for count in (1, 2, 3):
        threads(count)
        results[count] = dict(norm_battery.big([name], ["float32", "bfloat16"]))
    assert len(results[1]) >= 16
    for count in (2, 3):
        different = [key for key in results[1] if results[count][key] != results[1][key]]
        assert not different, f"{count} threads change {different}"


@pytest.fixture(scope="module")
def digests():
    """Of every instruction set, each in a process of its own, side by side."""
    path = os.pathsep.join([str(HERE.parent), str(HERE), *(p for p in sys.path if p)])
    running = {
        isa: subprocess.Popen(
            [sys.executable, str(HERE / "norm_battery.py")],
            env=dict(os.environ, INFINITYPOOL_ISA=isa, PYTHONPATH=path, OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for isa in _core.isas()
    }
    result = {}
    try:
        for isa, process in running.items():
            out, err = process.communicate(timeout=200)
            assert process.returncode == 0, f"{isa}: {err[-3000:]}"
            answer = json.loads(out)
            assert answer["isa"] == isa
            result[isa] = answer["digests"]
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return result


@pytest.mark.parametrize("isa", _core.isas())
def test_same_bits_for_every_instruction_set(isa, digests):
    reference = digests["baseline"] if "baseline" in digests else next(iter(digests.values()))
    assert len(reference) > 2000 and set(digests[isa]) == set(reference)
    different = [key for key in reference if digests[isa][key] != reference[key]]
    assert not different, f"{len(different)} differ: {different[:5]}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["batch", "batch, channels last", "group", "layer", "small"])
def test_where_memory_begins(name, dtype):
    """Inputs, gradients and results that begin anywhere in a vector or a cache line."""
    rng = np.random.default_rng(1)
    kind, shape, layout = {
        "batch": ("batch", (3, 4, 19, 23), "C"),
        "batch, channels last": ("batch", (3, 70, 9, 11), "channels last"),
        "group": ("group", (2, 8, 13, 11), "C"),
        "layer": ("layer", (5, 1043), "C"),
        "small": ("layer", (9, 13), "C"),
    }[name]
    first, g = (arranged(numbers(rng, shape, dtype, 1), layout, rng) for _ in range(2))
    norm, _ = region_of(kind, first, activation="gelu")
    order = np.argsort([-s for s in first.strides])

    def moved(a, lead):
        memory = np.full(a.size + 64, np.nan, dtype)[lead : lead + a.size]
        result = memory.reshape([a.shape[i] for i in order]).transpose(np.argsort(order))
        result[...] = a
        return region_of(kind, result)[1]

    w, b = (
        rng.standard_normal(norm.parameter_shape(region_of(kind, first)[1].shape)).astype(dtype)
        for _ in range(2)
    )
    digests = set()
    for leads in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 5, 7), (8, 16, 31), (17, 9, 2)):
        x, grad, out = (moved(a, n) for a, n in zip((first, g, first), leads, strict=True))
        native = Native(norm, x, out, grad)
        mean, var = (a.copy() for a in native.normalize(w, b))
        y = native.out.copy()
        back = native.gradient(mean, var, w, b)
        digests.add(norm_battery.digest(y, mean, var, *back))
    assert len(digests) == 1


def test_what_the_battery_gives_is_right(threads):
    """Against the oracle with several threads, so that equal digests are not equally wrong."""
    threads(3)
    for name, (kind, shape, layout, more) in norm_battery.BIG.items():
        rng = np.random.default_rng(len(name))
        shape = tuple(min(n, 20_001 if n == max(shape) else 100) for n in shape)
        norm, x = region_of(kind, arranged(numbers(rng, shape, np.float32, 2), layout, rng), **more)
        _, g = region_of(kind, arranged(numbers(rng, shape, np.float32), layout, rng), **more)
        norm = no.replace(norm, activation="silu")
        x = acceptable(norm, x)
        native = Native(norm, x, other=g)
        mean, var = native.normalize()
        want = no.forward(norm, x)
        no.assert_close(native.out, want.values, want.bound, x.dtype, name)
        dx, dw, db = native.gradient(mean, var)
        want = no.backward(norm, x, g)
        no.assert_close(dx, want.x, want.x_bound, x.dtype, name)
        no.assert_close(dw, want.weight, want.weight_bound, x.dtype, name)
        no.assert_close(db, want.bias, want.bias_bound, x.dtype, name)


def test_the_front_for_every_thread_count(threads):
    """Through autograd, with the threads that PyTorch's own call sets."""
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.standard_normal((5, 48, 41, 37))).float()
    weight = torch.from_numpy(rng.standard_normal(48)).float()
    digests = set()
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found = []
            for form in (torch.contiguous_format, torch.channels_last):
                leaf = x.clone(memory_format=form).requires_grad_()
                w = weight.clone().requires_grad_()
                for y in (
                    IF.batch_norm(leaf, None, None, w, None, True, activation="silu"),
                    IF.group_norm(leaf, 6, w, activation="gelu"),
                    IF.instance_norm(leaf, None, None, w),
                    IF.layer_norm(leaf, (48, 41, 37)),
                ):
                    y.square().sum().backward()
                    found.append(y.detach().numpy())
                found += [leaf.grad.numpy(), w.grad.numpy()]
            digests.add(norm_battery.digest(*found))
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def test_concurrent_calls_from_many_threads():
    """Eight Python threads at once; each gets its own right answer, every time."""
    rng = np.random.default_rng(3)
    arrays = [numbers(rng, (4, 8, 30 + i, 33), np.float32) for i in range(8)]
    norm = no.batch(4)
    expected = []
    for x in arrays:
        native = Native(norm, x)
        native.normalize()
        expected.append(native.out.copy())
    shared = [Native(norm, x) for x in arrays]
    problems, barrier = [], threading.Barrier(8)

    def work(i):
        barrier.wait()
        for _ in range(20):
            shared[i].out[...] = 0
            shared[i].normalize()
            if not np.array_equal(shared[i].out, expected[i]):
                problems.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)
    assert not problems

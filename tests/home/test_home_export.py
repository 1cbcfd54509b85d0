"""``torch.export`` with dynamic batch and sizes: the program holds our operators, and runs for other
sizes, after it was saved, and of PyTorch's operators alone."""

from __future__ import annotations

import io

import pytest
import torch
from pool_calls import CALLS, OTHER_SIZES
from torch._decomp import decomposition_table

import infinitypool.nn.functional as F
from infinitypool import nn

DYNAMIC = torch.export.Dim.DYNAMIC


class Pooled(torch.nn.Module):
    """All calls of one number of axes."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, x):
        return [getattr(F, call.name)(x, *call.args, **call.kwargs) for call in self.calls]


def ours(program):
    """Names of our operators in a program, and how many others there are."""
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return [target for target in targets if target.startswith("infinitypool.")]


def export(model, x, strict=False):
    sizes = {0: DYNAMIC, **{axis: DYNAMIC for axis in range(2, x.ndim)}}
    return torch.export.export(model, (x,), dynamic_shapes=(sizes,), strict=strict)


def flat(results):
    return torch.utils._pytree.tree_leaves(results)


# Strictly, Python is read by the compiler, which sees the same of any number of axes.
@pytest.mark.parametrize("n, strict", [(1, False), (2, False), (3, False), (2, True)])
def test_every_pooling_call(n, strict):
    calls = [call for call in CALLS if call.n == n]
    model = Pooled(calls)
    program = export(model, calls[0].input(), strict)
    assert len(ours(program)) >= len(calls)
    for batch in (1, 3):
        y = calls[0].input(sizes=OTHER_SIZES, batch=batch)
        for got, wanted in zip(flat(program.module()(y)), flat(model(y)), strict=True):
            assert torch.equal(got, wanted)


class Small(torch.nn.Module):
    """One operation of each kind."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.dropout = nn.Dropout()
        self.means = nn.AdaptiveAvgPool2d(2)
        self.last = nn.LayerNorm(32)

    def forward(self, x):
        x = self.means(self.dropout(self.pool(self.norm(self.conv(x)))))
        return self.last(x.flatten(1))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = Small().eval()
    return model, export(model, torch.rand(2, 3, 17, 20)), torch.rand(3, 3, 24, 15)


def test_a_program_that_was_saved(small):
    model, program, y = small
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file)
    assert ours(again) == ours(program) and len(ours(again)) >= 4
    torch.testing.assert_close(again.module()(y), model(y))


def test_decompositions_of_pytorchs_own_leave_our_operators(small):
    model, program, y = small
    lowered = program.run_decompositions()
    assert len(ours(lowered)) >= 4
    torch.testing.assert_close(lowered.module()(y), model(y))


def test_our_decompositions_leave_pytorchs_operators(small):
    model, program, y = small
    table = torch.export.default_decompositions()
    known = {op: body for op, body in decomposition_table.items() if "infinitypool" in str(op)}
    table.update(known)
    lowered = program.run_decompositions(table)
    assert ours(program) and not ours(lowered)
    torch.testing.assert_close(lowered.module()(y), model(y), rtol=1e-5, atol=1e-5)

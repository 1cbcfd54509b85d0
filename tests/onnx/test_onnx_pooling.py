"""Every pooling call, exported with dynamic batch and sizes, gives in ONNX Runtime what it gives
here."""

from __future__ import annotations

import pytest
import torch
from onnx_models import check, export
from pool_calls import CALLS, OTHER_SIZES, SIZES

import infinitypool.nn.functional as F

LARGER = {1: (31,), 2: (19, 24), 3: (8, 11, 9)}


def bound(call):
    return lambda x: getattr(F, call.name)(x, *call.args, **call.kwargs)


# All calls of two axes, and some of the others: the axes' number is nothing to most of them.
@pytest.mark.parametrize(
    "n, part", [(1, slice(0, None, 4)), (2, slice(None)), (3, slice(1, None, 2))]
)
def test_every_call_gives_equal_results_for_any_size(n, part):
    calls = [call for call in CALLS if call.n == n][part]
    functions = {str(call): bound(call) for call in calls}
    # The exporter shortens what we write in as long again: for planes that is tried as well.
    model = export(functions, calls[0].input(), optimize=n == 2)
    for batch, sizes in ((2, SIZES), (1, OTHER_SIZES), (3, LARGER)):
        compared = check(model, functions, calls[0].input(sizes=sizes, batch=batch))
        assert compared >= len(calls)


FORMS = {
    "same": lambda x: F.avg_pool2d(x, 3, 2, "same"),
    "pairs": lambda x: F.avg_pool2d(x, 3, 2, [(1, 2), (0, 3)]),
    "pairs, uncounted": lambda x: F.avg_pool2d(x, 3, 2, [(1, 2), (0, 3)], True, False),
    "wide pairs": lambda x: F.max_pool2d(x, 2, 1, [(1, 5), (4, 0)]),
    "ceil, counted": lambda x: F.avg_pool2d(x, 3, 2, 1, True),
    "divisor": lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
    "places": lambda x: F.max_pool2d(x, 3, 2, [(1, 2), (0, 3)], return_indices=True),
    "places, ceil": lambda x: F.max_pool2d(x, 3, 2, "same", 1, True, return_indices=True),
    "places, dilated": lambda x: F.max_pool2d(x, 2, 1, 1, 2, return_indices=True),
    "least": lambda x: F.min_pool2d(x, 3, 2, 1, return_indices=True),
    "negative": lambda x: F.lp_pool2d(-x, 3.0, 2),
    "gem of a tensor": lambda x: F.gem_pool2d(x, 2, p=torch.tensor(2.5)),
    "rectangle": lambda x: F.adaptive_avg_pool2d(x, (5, 3)),
    "kept": lambda x: F.adaptive_max_pool2d(x, (None, 2)),
    "sums": lambda x: F.stochastic_pool2d(x - 0.7, 2, 2, 1),
}


def test_forms_of_our_own():
    x, y = torch.rand(2, 3, 8, 9), torch.rand(3, 3, 13, 10)
    model = export(FORMS, x)
    assert check(model, FORMS, x) == check(model, FORMS, y) == len(FORMS) + 4


def test_an_input_without_a_batch():
    functions = {
        "max": lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True),
        "avg": lambda x: F.avg_pool2d(x, 2),
        "adaptive": lambda x: F.adaptive_avg_pool2d(x, 5),
        "gem": lambda x: F.gem_pool2d(x, 2),
    }
    x, y = torch.rand(3, 8, 9), torch.rand(3, 11, 10)
    model = export(functions, x, fixed=(0,))
    check(model, functions, x)
    check(model, functions, y)


INTEGERS = (
    torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64,
)  # fmt: skip
FLOATS = torch.float16, torch.float64


def of_all(x):
    yield F.max_pool2d(x, 3, 2, 1)
    yield F.min_pool2d(x, 3, 2, 1)
    yield from F.max_pool2d(x, 2, return_indices=True)
    yield F.adaptive_max_pool2d(x, 4)
    if x.dtype != torch.bool:
        yield F.avg_pool2d(x, 3, 2, 1)
        yield F.median_pool2d(x, 3)


def test_dtypes():
    dtypes = *INTEGERS, *FLOATS, torch.bool

    def of_dtype(x, dtype):
        """Numbers of both signs, or without one; half of them true."""
        if dtype == torch.bool:
            return list(of_all(x > 0))
        return list(of_all((x if dtype.is_signed else x.abs()).to(dtype)))

    functions = {str(dtype): lambda x, dtype=dtype: of_dtype(x, dtype) for dtype in dtypes}
    # Sizes that are symbols take ten times as long, and others look at them.
    x, y = (torch.randint(-100, 100, (batch, 3, 9, 8)).float() for batch in (2, 3))
    model = export(functions, x, fixed=(1, 2, 3), optimize=False)
    assert check(model, functions, x, rtol=1e-3) == 7 * len(dtypes) - 2
    check(model, functions, y, rtol=1e-3)


def test_bfloat16_goes_through_float32():
    functions = {
        "max": lambda x: F.max_pool2d(x.bfloat16(), 3, 2, 1).float(),
        "mean": lambda x: F.avg_pool2d(x.bfloat16(), 2).float(),
        "gem": lambda x: F.gem_pool2d(x.bfloat16(), 2).float(),
        "median": lambda x: F.median_pool2d(x.bfloat16(), 2).float(),
    }
    x, y = torch.rand(2, 3, 8, 8), torch.rand(1, 3, 9, 12)
    model = export(functions, x)
    check(model, functions, x, rtol=2**-8)
    check(model, functions, y, rtol=2**-8)


def test_the_largest_number_of_equals_is_the_first():
    functions = {
        "window": lambda x: F.max_pool2d(x, 2, return_indices=True),
        "adaptive": lambda x: F.adaptive_max_pool2d(x, 3, return_indices=True),
        "global": lambda x: F.adaptive_max_pool2d(x, 1, return_indices=True),
    }
    x = torch.zeros(1, 2, 7, 8)
    check(export(functions, x), functions, x)


@pytest.mark.parametrize("version", [18, 21])
def test_other_versions_of_onnx(version):
    functions = {
        "max": lambda x: F.max_pool2d(x, 3, 2, 1),
        "adaptive": lambda x: F.adaptive_avg_pool2d(x, 3),
        "quantile": lambda x: F.quantile_pool2d(x, 3, 0.3),
    }
    x = torch.rand(2, 3, 8, 8)
    model = export(functions, x, opset_version=version)
    assert model.opset_import[0].version == version
    check(model, functions, torch.rand(1, 3, 9, 12))

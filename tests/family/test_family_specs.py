"""What the core says of its reducers, held against what they do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import oracle
from engine import forward
from infinitypool import _core
from strategies import numbers

REDUCERS = {entry["name"]: entry for entry in _core.reducers()}
# Values to try of each parameter that a reducer may name.
PARAMETERS = {
    "p": (1.0, 2.0, 3.0),
    "floor": (1e-6, 0.5),
    "beta": (1.0, -0.5),
    "q": (0.5, 0.2),
    "method": (0, 1, 2, 3),
    "expectation": (1,),
    "alpha": (0.3,),
}
ROWS = [
    (name, dtype, values)
    for name, entry in sorted(REDUCERS.items())
    for dtype in sorted(entry["dtypes"])
    for values in itertools.product(*(PARAMETERS[p] for p in entry["parameters"]))
]


@pytest.mark.parametrize("name", REDUCERS)
def test_entries(name):
    entry = REDUCERS[name]
    assert set(entry) >= {
        "name", "spec", "dtypes", "indices", "gradient", "gathered", "parameters",
    }  # fmt: skip
    assert entry["gradient"] in ("winner", "even", "weighted")
    assert isinstance(entry["indices"], bool) and isinstance(entry["gathered"], bool)
    assert {d.name for d in oracle.FLOATS} <= set(entry["dtypes"])
    assert set(entry["parameters"]) <= set(PARAMETERS), "give this parameter values to test"
    compile(entry["spec"], name, "eval")


@pytest.mark.parametrize("name, dtype, values", ROWS, ids=lambda v: str(v))
def test_every_reducer_follows_its_own_specification(name, dtype, values):
    """The NumPy line that a reducer carries, evaluated in float64 window by window, is its result.

    It iterates what the core lists, so a new reducer is tested the day its header appears.  Only
    the blur weighs elements by their place, so it is given whole windows."""
    entry = REDUCERS[name]
    dtype = oracle.dtype_of(dtype)
    rng = np.random.default_rng(len(name) * 31 + dtype.itemsize)
    x = np.abs(numbers(rng, (2, 9, 8), dtype, "few"))
    kernel, stride, padding = (3, 4), (2, 1), ((1, 2), (2, 1))
    arguments = {"stride": stride, "padding": 0 if name == "blur" else padding}
    got, _ = forward(x, name, kernel, count_include_pad=False, parameters=values, **arguments)
    formula = compile(entry["spec"], f"<spec of {name}>", "eval")
    _, lines = oracle.plan(x.shape, kernel, **arguments)
    known = {
        "np": np,
        **dict(zip(entry["parameters"], values, strict=True)),
        "binomial": np.outer(oracle.binomial(3), oracle.binomial(4)).ravel().astype(float),
    }
    checked = 0
    for c, i, j in np.ndindex(got.shape):
        w = [
            float(x[c, p, q])
            for p in (lines[0].position(i, t) for t in range(lines[0].kernel))
            for q in (lines[1].position(j, t) for t in range(lines[1].kernel))
            if lines[0].inside(p) and lines[1].inside(q)
        ]
        with np.errstate(all="ignore"):
            want = float(eval(formula, known | {"w": np.array(w, np.float64)}))
        if oracle.is_float(dtype):
            if np.isnan(want):
                assert np.isnan(got[c, i, j]), (name, values, w)
            else:
                # Small whole numbers: a few roundings for each of the window's elements, each of
                # the size of the sum of powers of at most 4 over its root.
                near = len(w) * oracle.epsilon(np.dtype(np.float32)) * 4 * len(w)
                bound = near + oracle.epsilon(dtype) * abs(want)
                assert abs(float(got[c, i, j]) - want) <= bound, (name, values, w)
        else:
            assert int(got[c, i, j]) == round(want), (name, dtype, w)
        checked += 1
    assert checked == got.size >= 40

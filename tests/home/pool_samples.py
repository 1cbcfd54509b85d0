"""Arguments for every operator that reduces windows, from the core's table of reducers."""

from __future__ import annotations

import torch

from infinitypool.nn.ops import OPERATORS, OPS, gradient_of
from infinitypool.plan import REDUCERS
from infinitypool.spec import TORCH, adaptive_spec, pool_spec

# What each reducer's parameters may be.
PARAMETERS = {
    "lp": [(3.0,)],
    "power_mean": [(3.0, 0.15)],
    "log_sum_exp": [(2.0,)],
    "soft": [(0.7,)],
    "quantile": [(0.3, 0.0), (0.3, 1.0)],
    "stochastic": [(1.0,), (0.0,)],
}
_WINDOWS = (
    {"stride": 2, "padding": 1, "ceil_mode": True},
    {"stride": 1, "padding": [(1, 0), (0, 2)]},
)


def _distinct(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randperm(torch.Size(shape).numel(), generator=generator)
    return (0.2 + numbers.reshape(shape) / numbers.numel()).to(dtype)


def _specs(reducer):
    axes = (-2, -1)
    for parameters in PARAMETERS.get(reducer, [()]):
        common = {"axes": axes, "front": TORCH, "parameters": parameters}
        for window in _WINDOWS:
            yield pool_spec("f", reducer, 3, **window, **common).text
        if reducer == "mean":
            yield pool_spec("f", reducer, 3, divisor_override=2, padding=1, **common).text
        if reducer != "blur":
            yield adaptive_spec("f", reducer, (3, 4), **common).text


def _inputs():
    x = _distinct((2, 3, 7, 6))
    yield x
    yield x.to(memory_format=torch.channels_last)
    yield x[0]


def _samples():
    for reducer, name in OPERATORS.items():
        seed = (torch.tensor(5),) if reducer == "stochastic" else ()
        for text in _specs(reducer):
            gradient = gradient_of(text)
            for x in _inputs():
                results = {}
                for extra, overload in OPS[reducer].forward.items():
                    if extra == "none" or gradient == "winner":
                        results[extra] = overload(x, text, *seed)
                        yield overload._opname, (x, text, *seed)
                if gradient == "between":
                    continue
                values, offsets = results["none"], None
                given = (x, values) if gradient == "weighted" else ()
                if gradient == "winner":
                    values, offsets = results["offset"]
                grad = _distinct(values.shape) - 0.6
                yield f"{name}_backward", (grad, offsets, x.shape, x.stride(), text, *given)
                if given:  # the result may be missing
                    yield f"{name}_backward", (grad, offsets, x.shape, x.stride(), text, x)


SAMPLES: dict[str, list[tuple]] = {}
for _name, _arguments in _samples():
    SAMPLES.setdefault(_name, []).append(_arguments)
assert set(REDUCERS) == set(OPERATORS)

"""One table of calls for everything that is asked of pooling: name, arguments, and the sizes of an
input that they fit."""

from __future__ import annotations

from typing import NamedTuple

import torch

SIZES = {1: (13,), 2: (13, 10), 3: (6, 7, 8)}
OTHER_SIZES = {1: (17,), 2: (11, 15), 3: (9, 6, 7)}


class Call(NamedTuple):
    """A call of ``infinitypool.nn.functional.<name>`` with a tensor and these arguments."""

    name: str
    n: int
    args: tuple
    kwargs: dict

    def __str__(self) -> str:
        parts = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"{self.name}({', '.join(parts)})".replace(" ", "")

    def input(self, dtype=torch.float32, sizes=SIZES, batch=2, seed=0):
        """Distinct positive numbers, so that no kind has a kink or a tie at any of them."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, 3, *sizes[self.n])
        numbers = torch.randperm(torch.Size(shape).numel(), generator=generator)
        return (0.2 + numbers.reshape(shape) / numbers.numel()).to(dtype)


def _calls():
    for n in (1, 2, 3):
        yield f"max_pool{n}d", n, (3, 2, 1), {}
        yield f"max_pool{n}d", n, (2,), {"dilation": 2, "ceil_mode": True}
        yield f"max_pool{n}d", n, (3,), {"stride": 2, "padding": "same"}
        yield f"max_pool{n}d", n, (3,), {"stride": 2, "padding": [(1, 2)] * n}
        yield f"max_pool{n}d", n, (3, 2), {"return_indices": True}
        yield f"min_pool{n}d", n, (3, 2, 1), {}
        yield f"avg_pool{n}d", n, (3, 2, 1), {}
        yield f"avg_pool{n}d", n, (3, 2, 1, True, False), {}
        yield f"avg_pool{n}d", n, (2, 1), {"dilation": 2}
        yield f"lp_pool{n}d", n, (2.0, 3, 2), {}
        yield f"lp_pool{n}d", n, (3.0, 2, 2, True), {}
        yield f"adaptive_avg_pool{n}d", n, (4,), {}
        yield f"adaptive_avg_pool{n}d", n, (1,), {}
        yield f"adaptive_max_pool{n}d", n, (4,), {}
        yield f"adaptive_max_pool{n}d", n, (3, True), {}
        yield f"rms_pool{n}d", n, (3, 2, 1), {}
        yield f"log_sum_exp_pool{n}d", n, (3, 2, 1), {"beta": 2.0}
        yield f"soft_pool{n}d", n, (3, 2, 1), {}
        yield f"gem_pool{n}d", n, (3, 2, 1), {"p": 4.0}
        yield f"median_pool{n}d", n, (3, 2, 1), {}
        yield f"quantile_pool{n}d", n, (3, 0.3, 2), {}
        yield f"quantile_pool{n}d", n, (3, 0.3, 2), {"method": "nearest"}
        yield f"stochastic_pool{n}d", n, (3, 2), {}
        yield f"mixed_pool{n}d", n, (3, 2, 1), {"alpha": 0.3}
        yield f"blur_pool{n}d", n, (3, 2), {}
        yield f"blur_pool{n}d", n, (4, 2), {"padding": "zeros"}
        yield f"max_blur_pool{n}d", n, (3, 2, 1), {}
        yield "global_avg_pool", n, (), {}
        yield "global_max_pool", n, (True,), {}
        yield "global_avg_max_pool", n, (), {}
        yield "global_cat_avg_max_pool", n, (), {}
        yield "global_gem_pool", n, (), {"p": 2.0}
        yield "spatial_pyramid_pool", n, (), {"levels": (1, 2, 3)}
        yield "spatial_pyramid_pool", n, (), {"levels": (1, 2), "mode": "avg"}
    yield "adaptive_avg_pool2d", 2, ((3, None),), {}
    yield "spp", 2, ((3, 5),), {}
    yield "sppf", 2, (3, 2), {}


CALLS = [Call(*row) for row in _calls()]

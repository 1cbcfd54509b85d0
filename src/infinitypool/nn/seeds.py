"""Seeds of what is drawn: tensors, so that a traced graph draws anew at every call."""

from __future__ import annotations

from ctypes import cast, py_object

import torch
from torch import Generator, Tensor

from .registry import constant_result, library

_generators: dict[int, Generator] = {}  # those that graphs draw from, by their addresses
_RANGE = -(2**63), 2**63 - 1, ()


def draw_seed(generator: Generator | None) -> Tensor:
    """64 bits, int64 of shape (): PyTorch's own call, so that its rules under vmap hold."""
    if generator is None:
        return torch.randint(*_RANGE, device="cpu")
    if torch.compiler.is_dynamo_compiling():
        return _seed(_kept(id(generator)))
    device = getattr(generator, "device", "cpu")
    return torch.randint(*_RANGE, generator=generator, device=device).cpu()


# Dynamo lets no generator into a graph, but its address, which it guards. A generator that is kept
# leaves its address to no other.
@constant_result
def _kept(address: int) -> int:
    generator = cast(address, py_object).value
    if not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator, not {type(generator).__name__}")
    _generators[address] = generator
    return address


library.define("seed(int generator) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
library.impl("seed", lambda address: draw_seed(_generators[address]), "CompositeExplicitAutograd")
torch.library.register_fake(
    "infinitypool::seed", lambda address: torch.empty((), dtype=torch.int64), lib=library
)
_seed = torch.ops.infinitypool.seed.default

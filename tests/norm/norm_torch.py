"""Calls of the PyTorch front: drawn at random, each with what the oracle says of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import norm_oracle as no
import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st
from norm_engine import split_channels

import infinitypool.nn.functional as IF
import oracle

NAMES = ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HALVES = (torch.float16, torch.bfloat16)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
LAYOUTS = ("contiguous", "channels last", "permuted", "sliced", "steps", "expanded", "offset")


def numpy_dtype(dtype):
    return oracle.dtype_of(str(dtype).removeprefix("torch."))


def array(tensor):
    """The same numbers under the same strides."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(oracle.BFLOAT16)
    return tensor.numpy()


def randn(rng, shape, dtype, mean=0.0, deviation=1.0):
    return torch.from_numpy(mean + deviation * rng.standard_normal(shape)).to(dtype)


def arranged(tensor, layout, rng):
    """The same values under other strides (for "expanded": one slice, repeated)."""
    ndim = tensor.ndim
    if layout == "channels last":
        if ndim in FORMATS:
            return tensor.contiguous(memory_format=FORMATS[ndim])
        return tensor.transpose(1, -1).contiguous().transpose(1, -1) if ndim > 1 else tensor
    if layout == "permuted":
        order = [int(a) for a in rng.permutation(ndim)]
        return tensor.permute(order).contiguous().permute([int(a) for a in np.argsort(order)])
    if layout in ("sliced", "steps"):
        # Room around every axis; "steps" also between the elements of the innermost.
        around = torch.full([2 * n + 1 for n in tensor.shape], torch.nan, dtype=tensor.dtype)
        part = around[tuple(slice(1, 1 + n) for n in tensor.shape)]
        if layout == "steps":
            part = around[tuple(slice(0, 2 * n, 2) for n in tensor.shape)]
        return part.copy_(tensor)
    if layout == "expanded":
        axis = int(rng.integers(ndim))
        return tensor.narrow(axis, 0, 1).clone().expand(tensor.shape)
    if layout == "offset":
        lead = int(rng.integers(1, 9))
        flat = torch.full((lead + tensor.numel(),), torch.nan, dtype=tensor.dtype)
        return flat[lead:].view(tensor.shape).copy_(tensor)
    return tensor.contiguous()


@dataclass
class Call:
    """One call with everything bound, and its definition."""

    name: str
    x: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    given: tuple[torch.Tensor, torch.Tensor] | None = None
    groups: int = 1
    trailing: int = 1
    eps: float = 1e-5
    activation: str | None = None
    slope: float = 0.01
    layout: str = "contiguous"
    more: dict = field(default_factory=dict)

    @property
    def normalized_shape(self):
        return tuple(self.x.shape[self.x.ndim - self.trailing :])

    def arguments(self, weight, bias):
        if self.name == "layer_norm":
            return self.normalized_shape, weight, bias, self.eps
        if self.name == "rms_norm":
            return self.normalized_shape, weight, self.eps
        if self.name == "group_norm":
            return self.groups, weight, bias, self.eps
        mean, var = self.given or (None, None)
        use_input = self.given is None
        return mean, var, weight, bias, use_input, 0.1, self.eps

    def run(self, x=None, weight=None, bias=None, functions=IF, residual=None, **more):
        """The front's result; other tensors may stand in for those of the call."""
        x = self.x if x is None else x
        weight = self.weight if weight is None else weight
        bias = self.bias if bias is None else bias
        own = (
            {"activation": self.activation, "negative_slope": self.slope} if functions is IF else {}
        )
        lead, name = (x,), self.name
        if residual is not None:
            lead, name = (x, residual), f"add_{name}"
        return getattr(functions, name)(*lead, *self.arguments(weight, bias), **own, **more)

    @property
    def norm(self):
        how = {"eps": self.eps, "activation": self.activation or "none", "slope": self.slope}
        ndim = self.x.ndim
        return {
            "batch_norm": lambda: no.batch(ndim, **how),
            "instance_norm": lambda: no.instance(ndim, **how),
            "group_norm": lambda: no.group(ndim + 1, **how),
            "layer_norm": lambda: no.layer(ndim, self.trailing, **how),
            "rms_norm": lambda: no.rms(ndim, self.trailing, **how),
        }[self.name]()

    def view(self, tensor):
        """As the array that the oracle's norm is over."""
        a = array(tensor)
        return split_channels(a, self.groups) if self.name == "group_norm" else a

    def _wide(self, tensor):
        if tensor is None:
            return None
        shape = self.norm.parameter_shape(self.view(self.x).shape)
        return array(tensor).reshape(shape)

    def _given(self):
        if self.given is None:
            return None
        return tuple(array(t).reshape(1, -1, *[1] * (self.x.ndim - 2)) for t in self.given)

    def expected(self, x=None):
        x = self.x if x is None else x
        return no.forward(
            self.norm, self.view(x), self._wide(self.weight), self._wide(self.bias), self._given()
        )

    def _definition(self, x, grad):
        x = self.x if x is None else x
        weights = self._wide(self.weight), self._wide(self.bias)
        return self.norm, self.view(x), self.view(grad), *weights, self._given()

    def expected_gradients(self, grad, x=None):
        return no.backward(*self._definition(x, grad))

    def quiet(self, grad, x=None):
        """Zeros in ``grad`` where rounding decides on which side of a relu's corner z lies."""
        quiet = no.away_from_the_kink(*self._definition(x, grad))
        if self.activation not in ("relu", "leaky_relu"):
            return grad
        keep = torch.from_numpy(np.array(quiet != 0)).reshape(grad.shape)
        return torch.where(keep, grad, torch.zeros((), dtype=grad.dtype))

    def check(self, got, exact, bound, like, note=""):
        """``like`` is the tensor whose dtype and shape the result has."""
        assert got.shape == like.shape, f"{got.shape}, expected {like.shape} {note}"
        a = np.ascontiguousarray(array(got)).reshape(exact.shape)
        no.assert_close(a, exact, bound, numpy_dtype(like.dtype), f"{note} {self!r}")

    def __repr__(self):
        return (
            f"{self.name}(<{self.x.dtype} {tuple(self.x.shape)} strides {self.x.stride()} "
            f"{self.layout}>, weight {self.weight is not None and self.weight.dtype}, bias "
            f"{self.bias is not None}, given {self.given is not None}, groups {self.groups}, "
            f"trailing {self.trailing}, eps {self.eps}, {self.activation}, {self.slope})"
        )


ACTIVATIONS = (None, "relu", "leaky_relu", "silu", "gelu")


@st.composite
def calls(draw, names=NAMES, given=True, layouts=LAYOUTS):
    name = draw(st.sampled_from(names))
    by_channel = name in ("batch_norm", "instance_norm", "group_norm")
    ndim = draw(st.integers(3 if name == "instance_norm" else 2 if by_channel else 1, 5))
    groups = draw(st.sampled_from((1, 2, 3, 5))) if name == "group_norm" else 1
    each = draw(st.sampled_from((1, 2, 3, 8, 17)))
    space = draw(
        st.lists(
            st.sampled_from((2, 3, 5, 7, 16) if ndim < 4 else (1, 2, 3, 5)),
            min_size=max(ndim - 2, 0),
            max_size=max(ndim - 2, 0),
        )
    )
    shape = (draw(st.integers(1, 4)), groups * each, *space)[-ndim:]
    trailing = draw(st.integers(1, ndim)) if "layer" in name or "rms" in name else 1
    dtype = draw(st.sampled_from(DTYPES))
    parameter_dtype = torch.float32 if dtype in HALVES and draw(st.booleans()) else dtype
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    layout = draw(st.sampled_from(layouts))
    x = arranged(randn(rng, shape, dtype, *draw(st.sampled_from(((0, 1), (3, 2))))), layout, rng)
    use_given = given and name in ("batch_norm", "instance_norm") and draw(st.booleans())
    result = Call(
        name,
        x,
        groups=groups,
        trailing=trailing,
        eps=draw(st.sampled_from((1e-5, 1e-3, 0.1))),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        slope=draw(st.sampled_from((0.01, 0.3))),
        layout=layout,
    )
    if by_channel and not use_given:
        # So few values PyTorch refuses (for groups it counts those of the whole batch).
        counted = x.numel() // (groups if name == "group_norm" else shape[1])
        assume(counted // (shape[0] if name == "instance_norm" else 1) > 1)
    shape = (shape[1],) if by_channel else result.normalized_shape
    if draw(st.booleans()):
        result.weight = randn(rng, shape, parameter_dtype, 0.5)
    if name != "rms_norm" and draw(st.booleans()):
        result.bias = randn(rng, shape, parameter_dtype)
    if use_given:
        result.given = (
            randn(rng, shape, parameter_dtype),
            torch.from_numpy(rng.random(shape) + 0.1).to(parameter_dtype),
        )
    return result

"""Every operator has every part, and all parts say the same.

The tests go through the registry: an operator that is added is tested, and fails where it lacks a
part or samples.
"""

from __future__ import annotations

import importlib
import pathlib

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import infinitypool.nn.functional
from infinitypool.nn.registry import OPERATORS

SAMPLES: dict[str, list[tuple]] = {}
for _path in sorted(pathlib.Path(__file__).parent.glob("*_samples.py")):
    SAMPLES |= importlib.import_module(_path.stem).SAMPLES

NAMES = sorted(OPERATORS)
# What draws anew cannot be followed by differences; its derivatives are those for the draw.
_KEYS = ("CPU", "Meta", "CompositeExplicitAutograd", "Autograd", "AutocastCPU", "FuncTorchBatched")


def _tensors(result):
    """The results that are tensors of floats, and the others."""
    results = result if isinstance(result, tuple) else (result,)
    return [r for r in results if isinstance(r, Tensor)]


def _mutates(name):
    return OPERATORS[name].overload._schema.is_mutable


def _fresh(arguments):
    """The same with tensors of their own, in the same layout."""
    return tuple(
        tree_map_only(Tensor, lambda t: torch.empty_like(t).copy_(t), a) for a in arguments
    )


def _floats(name, arguments):
    """The places of floats, but for what an operator takes as given: it has no gradient."""
    given = {"statistics"} | ({"mean", "var"} if name.startswith("norm_given") else set())
    schema = OPERATORS[name].overload._schema.arguments
    return [
        i
        for i, a in enumerate(arguments)
        if isinstance(a, Tensor) and a.dtype.is_floating_point and schema[i].name not in given
    ]


def test_all_operators_are_in_the_registry_and_have_samples():
    prefix = "infinitypool::"
    known = {
        name.removeprefix(prefix)
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith(prefix)
    }
    # What draws gives something else at every call, which is what the checks here look for.
    drawing = {
        name
        for name in known
        if torch.Tag.nondeterministic_seeded in getattr(torch.ops.infinitypool, name).default.tags
    }
    known -= drawing
    assert known == set(NAMES) == set(SAMPLES)
    assert all(SAMPLES.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_has_every_part(name):
    operator = OPERATORS[name]
    for part in (operator.kernel, operator.shape, operator.composed):
        assert callable(part)
    for key in _KEYS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"infinitypool::{name}", key), key
    assert operator.overload in torch._decomp.decomposition_table
    assert operator.overload in torch._decomp.meta_table


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    """PyTorch's own check: schema, autograd registration, fake tensors, and all of it under AOT."""
    for arguments in SAMPLES[name][:: 1 + len(SAMPLES[name]) // 3]:
        for recorded in (False, True):
            if recorded and (_mutates(name) or not _floats(name, arguments)):
                continue
            given = _fresh(arguments)
            if recorded:
                for i in _floats(name, given):
                    given[i].requires_grad_()
            results = torch.library.opcheck(OPERATORS[name].overload, given)
            assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_compositions_are_those_of_kernels(name):
    operator = OPERATORS[name]
    for arguments in SAMPLES[name]:
        given = _fresh(arguments)
        found = _tensors(operator.overload(*given))
        on_meta = tree_map_only(Tensor, lambda t: t.to("meta"), arguments)
        shapes = _tensors(operator.overload(*on_meta))
        assert len(shapes) == len(found)
        for result, shape in zip(found, shapes, strict=True):
            assert (result.shape, result.stride()) == (shape.shape, shape.stride())
            assert (result.dtype, shape.device.type) == (shape.dtype, "meta")
        if "seed" in str(operator.overload._schema):
            continue  # what is composed draws in another way
        again = _fresh(arguments)
        composed = _tensors(operator.composed(*again))
        for result, other in zip(found, composed, strict=True):
            torch.testing.assert_close(result, other)
        for one, other in zip(_tensors(given), _tensors(again), strict=True):
            torch.testing.assert_close(one, other)  # also what was written into


DIFFERENTIABLE = [
    name
    for name in NAMES
    if not _mutates(name) and "seed" not in str(OPERATORS[name].overload._schema)
]


def _of_floats(name, arguments):
    """The operator as a function of its tensors of floats, in float64, which gives such tensors."""
    arguments = tuple(
        a.detach().double() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in arguments
    )
    places = _floats(name, arguments)

    def function(*tensors):
        given = list(arguments)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        results = _tensors(OPERATORS[name].overload(*given))
        return tuple(r for r in results if r.dtype.is_floating_point and r.numel())

    return function, tuple(arguments[place].detach().clone() for place in places)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives_of_both_modes_and_orders(name):
    for arguments in SAMPLES[name]:
        function, tensors = _of_floats(name, arguments)
        leaves = tuple(t.requires_grad_() for t in tensors)
        if not any(r.requires_grad for r in function(*leaves)):
            continue
        assert torch.autograd.gradcheck(
            function, leaves, fast_mode=True, check_forward_ad=True, check_batched_grad=True
        )
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_batch_of_calls_is_as_many_calls(name):
    for arguments in SAMPLES[name]:
        function, tensors = _of_floats(name, arguments)
        if not tensors:
            continue
        batches = [torch.stack((t, t.flip(0) if t.ndim else 2 * t, 0.5 * t)) for t in tensors]
        if "backward" in name or "given" in name:  # what belongs to one forward call
            batches[1:] = [torch.stack((t, t, t)) for t in tensors[1:]]
        found = torch.vmap(function)(*batches)
        wanted = [function(*parts) for parts in zip(*batches, strict=True)]
        for i, result in enumerate(found):
            torch.testing.assert_close(result, torch.stack([w[i] for w in wanted]))
        last = torch.vmap(function, in_dims=-1, out_dims=-1)(*(b.movedim(0, -1) for b in batches))
        for result, other in zip(found, last, strict=True):
            torch.testing.assert_close(result, other.movedim(-1, 0))


@pytest.mark.parametrize("name", NAMES)
def test_memory_that_was_freed_is_refused(name):
    arguments = _fresh(SAMPLES[name][0])
    place = next(i for i, a in enumerate(arguments) if isinstance(a, Tensor))
    arguments[place].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="no memory|not allocated"):
        OPERATORS[name].overload(*arguments)


@torch._inductor.config.patch(force_disable_caches=True)
def test_inductor_calls_them_where_the_environment_says_ci(monkeypatch):
    """There Inductor fails where it falls back to an operator that has a decomposition."""
    monkeypatch.setenv("CI", "1")
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(infinitypool.nn.functional.max_pool2d, fullgraph=True)
    assert torch.equal(compiled(x, 2), torch.nn.functional.max_pool2d(x, 2))


@pytest.mark.parametrize("name", NAMES)
def test_inductor_is_told_to_call(name):
    from torch._inductor.lowering import FALLBACK_ALLOW_LIST

    known = f"infinitypool::{name}"
    FALLBACK_ALLOW_LIST.discard(known)
    with torch.no_grad():
        OPERATORS[name].overload(*tree_map_only(Tensor, lambda t: t.to("meta"), SAMPLES[name][0]))
    assert known in FALLBACK_ALLOW_LIST

"""A model rewritten for inference: :func:`optimize`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from .conversion import convert, revert
from .fusions import fuse
from .regions import Calls, Region, Specialised, find, first_line, is_layer, join, swapped
from .report import LEFT, Report

__all__ = ["optimize"]

# How far results may lie apart, as a share of the largest, and the same for the graph alone, which
# computes what the module does.
_TOLERANCES = {
    torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 8e-3,
}  # fmt: skip
_TIGHT = 16  # units in the last place

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def optimize(model: nn.Module, example_input: Any) -> nn.Module:
    """A module that computes what ``model`` computes in evaluation, in fewer passes over memory.

    The model is copied, and what can be traced of the copy is written as graphs. In these

    - batch normalisation is folded into the convolution or linear layer before it
    - activations that never fall, and batch norms that do not either, move behind a max pooling,
      and any batch norm behind a mean
    - an average pooling moves before a 1×1 convolution
    - norms take the activation behind them, and layer norms the sum before them, into their pass
    - dropout and identities are removed
    - functions and layers that we have take the place of PyTorch's

    What cannot be traced, as its control flow depends on data, is left as it is, and what lies
    inside of it is looked at piece by piece. Nothing that was found for the example alone is kept:
    results are compared on the example, and on a second input of another size where the model takes
    one. A piece whose results differ is left as it is.

    Args:
        model: a module in evaluation mode. It is left untouched, and shares nothing with the result
        example_input: a tensor, a tuple of positional arguments or a dict of named ones

    Returns:
        A module with the model's signature, whose attribute ``report`` prints as a table of what was
        done and what was left and why. It has no training mode: ``train()`` raises a RuntimeError.
        What the model does with other kinds of arguments than the example's (another optional
        argument, a mask for None) it does as well, without what was gained. Where a batch norm was
        folded into a convolution, an input without a batch axis raises a ValueError

    Raises:
        TypeError: for something else than a module, a scripted module or a compiled one
        ValueError: for a model in training mode, or with lazy parameters
        RuntimeError: for a model that cannot be copied, or whose results are not the same twice
        what the model raises for the example

    Example:
        >>> import torch
        >>> import infinitypool as ip
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3),
        ...     torch.nn.BatchNorm2d(8),
        ...     torch.nn.ReLU(),
        ...     torch.nn.MaxPool2d(2),
        ...     torch.nn.Dropout(),
        ... ).eval()
        >>> fast = ip.optimize(model, torch.rand(1, 3, 32, 32))
        >>> x = torch.rand(5, 3, 50, 40)
        >>> torch.allclose(fast(x), model(x), atol=1e-5)
        True
        >>> print(fast.report)
        module  kind         action    note
        ------  -----------  --------  --------
        4       Dropout      dropped
        1       BatchNorm2d  folded    into 0
        2       ReLU         moved     behind 3
        3       MaxPool2d    replaced  by ours
    """
    _check(model)
    arguments = _arguments(example_input)
    # What is made in inference mode does not tell when it is changed, nor trains later.
    with torch.inference_mode(False), torch.no_grad():
        try:
            result = copy.deepcopy(model)
        except Exception as error:
            raise RuntimeError(
                f"optimize: {type(model).__name__} cannot be copied: {first_line(error)}"
            ) from error
        return _Optimizer(result, arguments).run()


def _check(model: Any) -> None:
    """Refuse what is no module that can be looked into, naming the part that cannot."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model must be a torch.nn.Module, not {type(model).__name__}")
    for path, module in model.named_modules():
        name = f"{path or 'the model'} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"optimize: {name} is scripted or traced by torch.jit, which cannot be looked into; "
                "optimise the model first"
            )
        if _is_compiled(module):
            raise TypeError(
                f"optimize: {name} is compiled; optimise the model first, and compile the result"
            )
        held = [*module._parameters.values(), *module._buffers.values()]
        if any(tensor is not None and is_lazy(tensor) for tensor in held):
            raise ValueError(
                f"optimize: {name} has parameters without a shape; run the model once first"
            )
    if model.training:
        raise ValueError(
            f"optimize: {type(model).__name__} is in training mode; call model.eval() first"
        )


def _is_compiled(module: nn.Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo")  # takes seconds to load
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _arguments(example: Any) -> _Arguments:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


# --- running and comparing -------------------------------------------------------------------


def _clone(x: Tensor) -> Tensor:
    return x.detach().clone()


def _run(model: nn.Module, arguments: _Arguments) -> Any:
    """What the model gives: draws start from the same seed, and the arguments stay as they are."""
    args, kwargs = tree_map_only(Tensor, _clone, arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(*args, **kwargs)


def _difference(a: Any, b: Any, tight: bool, where: str = "the result") -> str | None:
    """How two results differ; None if they agree."""
    if isinstance(a, Tensor):
        return _tensor_difference(a, b, tight, where)
    if type(a) is not type(b):
        return f"{where} is of type {type(b).__name__}, not {type(a).__name__}"
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return f"{where} has other keys"
        pairs = [(key, a[key], b[key]) for key in a]
    elif isinstance(a, (tuple, list)):
        if len(a) != len(b):
            return f"{where} has another length"
        pairs = [(i, *both) for i, both in enumerate(zip(a, b, strict=True))]
    elif is_dataclass(a):
        pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(a)]
    elif not (a is b or a == b):
        return f"{where} is another"
    for name, *both in pairs:
        if found := _difference(*both, tight, f"{where}[{name!r}]"):
            return found
    return None


def _tensor_difference(a: Tensor, b: Any, tight: bool, where: str) -> str | None:
    if not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
        return f"{where} has another shape or dtype"
    if not (a.is_floating_point() or a.is_complex()):
        # A position of a maximum may change where two are equal but for rounding.
        apart = int((a != b).sum()) if a.numel() else 0
        return f"{where} differs" if apart > (0 if tight else a.numel() // 1000) else None
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y = a.to(wide), b.to(wide)
    unequal = ~((x == y) | (x.isnan() & y.isnan()))
    if not bool(unequal.any()):
        return None
    real = a.real.dtype if a.is_complex() else a.dtype
    share = _TIGHT * torch.finfo(real).eps if tight else _TOLERANCES.get(real, 1e-4)
    largest = float(x[x.isfinite()].abs().max()) if bool(x.isfinite().any()) else 0.0
    apart = float((x - y)[unequal].abs().max())
    if apart <= share * largest:
        return None
    return f"{where} differs by {apart:.3g}, where the largest number is {largest:.3g}"


def _variants(arguments: _Arguments) -> Iterator[_Arguments]:
    """Arguments with other numbers: of other sizes as well, those first that differ in more."""

    def other(sizes_of: Callable[[Tensor], list[int]]) -> _Arguments:
        def one(x: Tensor) -> Tensor:
            for axis, size in enumerate(sizes_of(x)):
                index = torch.arange(size, device=x.device) % max(x.shape[axis], 1)
                x = x.index_select(axis, index.flip(0))
            if not x.is_floating_point() or not x.numel():
                return x
            least, largest = x.min(), x.max()
            width = largest - least
            return least + torch.rand_like(x) * torch.where(width > 0, width, 1)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return tree_map_only(Tensor, one, arguments)

    def larger(size: int) -> int:
        return size + 32 if size >= 32 else 2 * size

    def batch(x: Tensor) -> list[int]:
        return [x.shape[0] + 1, *x.shape[1:]] if x.ndim else []

    def planes(x: Tensor) -> list[int]:
        sizes = batch(x)
        return sizes[:2] + [larger(n) for n in sizes[2:]]

    def sequence(x: Tensor) -> list[int]:
        sizes = batch(x)
        return sizes[:1] + [larger(n) for n in sizes[1:2]] + sizes[2:]

    for sizes_of in (planes, sequence, batch, lambda x: [*x.shape]):
        try:
            yield other(sizes_of)
        except (RuntimeError, IndexError):  # nothing to be repeated
            continue


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == __name__.split(".")[0]


def _layers(result: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a result under the paths that they had, without what waits behind graphs."""

    def walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        if isinstance(module, Specialised):
            module = module.traced
        yield path, module
        for name, child in module.named_children():
            yield from walk(child, join(path, name))

    return walk(result, "")


# --- the whole -------------------------------------------------------------------------------


class _Optimizer:
    """A copy of a model, the inputs that it is checked with, and what it gives for them."""

    def __init__(self, model: nn.Module, arguments: _Arguments) -> None:
        self.model = model
        self.opaque: dict[nn.Module, str] = {}
        for module in model.modules():
            if module.training:
                self.opaque[module] = "is in training mode"
        with Calls(model) as calls:
            self.cases = [(arguments, copy.deepcopy(_run(model, arguments)))]
            for variant in _variants(arguments):
                try:
                    given = copy.deepcopy(_run(model, variant))
                except Exception:  # sizes that the model does not take
                    continue
                self.cases.append((variant, given))
                break
        self.patterns = calls.patterns
        again = _difference(self.cases[0][1], _run(model, arguments), False)
        if again:
            raise RuntimeError(
                f"optimize: two runs of {type(model).__name__} on the example do not agree, so "
                f"nothing can be compared: {again}"
            )

    def run(self) -> nn.Module:
        """The optimised model."""
        before = {path: type(module) for path, module in self.model.named_modules()}
        self._regions(tight=True)  # graphs compute what the modules do
        in_training = [m for m in self.model.modules() if m.training and not _is_ours(m)]
        convert(self.model)
        for module in in_training:  # ours would draw other numbers
            revert(module)
        while True:
            reports = {
                region: fuse(region.path, region.traced) for region in self._regions(tight=False)
            }
            by = {region: region.replacement() for region in reports if reports[region].done}
            if not (wrong := self._wrong(by, tight=False)):
                break
            self.opaque.update(wrong)
        if found := self._compare(by, tight=False):
            raise RuntimeError(f"optimize: results would change: {found}")
        report = Report(row for of_region in reports.values() for row in of_region)
        result = self._put(by)
        told = {row.path for row in report.done}
        for path, module in _layers(result):
            changed = is_layer(module) and before.get(path) not in (None, type(module))
            if changed and path not in told:
                report.add(path, before[path].__name__, "replaced", "by ours")
        for path, module in self.model.named_modules():
            if module in self.opaque and not is_layer(module):
                report.add(path, type(module).__name__, LEFT, self.opaque[module])
        result.report = report
        return result

    def _regions(self, tight: bool) -> list[Region]:
        """The regions whose graphs give what the modules give."""
        while True:
            with torch.random.fork_rng(devices=[]):
                regions = find(self.model, self.patterns, self.opaque)
            wrong = self._wrong({region: region.replacement() for region in regions}, tight)
            if not wrong:
                return regions
            self.opaque.update(wrong)

    def _put(self, by: dict[Region, nn.Module]) -> nn.Module:
        return swapped(self.model, {region.module: new for region, new in by.items()})

    @contextmanager
    def _with(self, by: dict[Region, nn.Module]) -> Iterator[nn.Module]:
        result = self._put(by)
        try:
            yield result
        finally:
            swapped(result, {new: region.module for region, new in by.items()})

    def _wrong(self, by: dict[Region, nn.Module], tight: bool) -> dict[nn.Module, str]:
        """The modules whose replacements change the results, with how they do."""
        if self._compare(by, tight) is None:
            return {}
        wrong: dict[nn.Module, str] = {}
        good: dict[Region, nn.Module] = {}
        for region, new in by.items():
            found = self._compare({**good, region: new}, tight)
            if found is None:
                good[region] = new
            else:
                what = "as a graph" if tight else "after fusing"
                wrong[region.module] = f"gives other results {what}: {found}"
        return wrong

    def _compare(self, by: dict[Region, nn.Module], tight: bool) -> str | None:
        with self._with(by) as model:
            for arguments, wanted in self.cases:
                try:
                    with redirect_stderr(StringIO()):  # where graphs say more of their errors
                        got = _run(model, arguments)
                    found = _difference(wanted, got, tight)
                except Exception as error:  # whatever a graph makes of somebody else's code
                    found = f"it raises {type(error).__name__}: {first_line(error)}"
                if found:
                    return found
        return None

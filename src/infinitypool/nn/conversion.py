"""PyTorch's layers in a model exchanged for ours, and back again.

A layer of ours has the constructor, parameters, buffers and attributes of PyTorch's layer of the
same name, so a layer is converted by giving the same object another class. Its identity, hooks,
state, and whoever else holds it (an optimizer, another module) never notice.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar, overload

import torch
from torch.nn import Module
from torch.nn.utils.parametrize import is_parametrized

from .. import nn
from .report import LEFT, Report

__all__ = ["convert", "revert"]

_M = TypeVar("_M", bound=Module)


class _Pair(NamedTuple):
    """A layer of PyTorch, ours of that name, and the defaults of what ours takes besides."""

    theirs: type[Module]
    ours: type[Module]
    besides: dict[str, Any]


def _pairs() -> Iterator[_Pair]:
    for name in dir(torch.nn):
        theirs, ours = getattr(torch.nn, name), getattr(nn, name)
        if isinstance(theirs, type) and issubclass(theirs, Module) and ours is not theirs:
            taken = inspect.signature(ours).parameters
            both = inspect.signature(theirs).parameters
            yield _Pair(theirs, ours, {k: p.default for k, p in taken.items() if k not in both})


_PAIRS = tuple(_pairs())
_BY_THEIRS = {pair.theirs: pair for pair in _PAIRS}
_BY_OURS = {pair.ours: pair for pair in _PAIRS}


def _named(cls: type) -> str:
    """A class by the name that one writes."""
    if cls in _BY_OURS:
        return f"infinitypool.nn.{cls.__name__}"
    public = getattr(torch.nn, cls.__name__, None) is cls
    return f"{'torch.nn' if public else cls.__module__}.{cls.__qualname__}"


# --- what is done with one layer -----------------------------------------------------------


class _Change(NamedTuple):
    """A layer's next class, what the report says of it, and attributes that go."""

    now: type[Module]
    note: str
    dropped: tuple[str, ...] = ()


def _class_of(module: Module) -> type[Module]:
    """The class that somebody wrote: parametrisations put one of their own in front of it."""
    cls = type(module)
    if is_parametrized(module) and cls.__module__ == "torch.nn.utils.parametrize":
        return cls.__base__
    return cls


def _in_place_of(module: Module, target: type[Module]) -> type[Module]:
    """``target``, with a parametrised module's properties in front of it."""
    cls = type(module)
    if cls is _class_of(module):
        return target
    members = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    return type(cls.__name__, (target,), members)


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "infinitypool"


def _converted(module: Module) -> _Change | str | None:
    """What to do with a layer, or why not to, or None for a layer that ours has no equal of."""
    cls = _class_of(module)
    if _is_ours(cls):
        return "ours already"
    if cls in _BY_THEIRS:
        if "forward" in vars(module):
            return "has a forward of its own as an attribute, which hides that of any class"
        ours = _BY_THEIRS[cls].ours
        return _Change(_in_place_of(module, ours), _named(ours))
    return _subclass(cls)


def _reverted(module: Module) -> _Change | str | None:
    cls = _class_of(module)
    if cls in _BY_OURS:
        theirs, _, besides = _BY_OURS[cls]
        beyond = [
            f"{name}={getattr(module, name)!r}"
            for name, default in besides.items()
            if not _says(getattr(module, name), default)
        ]
        if _is_wide(padding := getattr(module, "padding", 0)):
            beyond.append(f"padding={padding!r}")
        if beyond:
            return f"PyTorch's has no {', '.join(beyond)}"
        dropped = tuple(name for name in besides if name in vars(module))
        return _Change(_in_place_of(module, theirs), _named(theirs), dropped)
    if cls in _BY_THEIRS:
        return "PyTorch's already"
    if _is_ours(cls):
        return "PyTorch has no such layer"
    return _subclass(cls)


def _subclass(cls: type) -> str | None:
    """A class of somebody else's on top of one of these: its code, and its name, are theirs.

    Even without a forward of its own: the model's code may ask for this class, and a pickle finds
    it by its name, which a class that were made here would not have.
    """
    for base in cls.__mro__[1:]:
        if base in _BY_THEIRS or base in _BY_OURS:
            return f"a subclass of {_named(base)}, with code of its own"
    return None


def _says(value: Any, default: Any) -> bool:
    """Whether an argument means its default: one number, or the same one for every axis."""
    several = isinstance(value, tuple | list)
    return all(one == default for one in value) if several else value == default


def _is_wide(padding: Any) -> bool:
    """Whether a padding is one that PyTorch has no way to say: a word, or pairs."""
    if isinstance(padding, tuple | list):
        return any(isinstance(one, tuple | list) for one in padding)
    return isinstance(padding, str)


# --- what is done with a model -------------------------------------------------------------


def _is_compiled(module: Module) -> bool:
    wrapped = type(module).__module__ == "torch._dynamo.eval_frame"
    return wrapped or module._compiled_call_impl is not None


def _check(function: str, model: Any) -> None:
    if not isinstance(model, Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else reprlib.repr(model)
        raise TypeError(f"{function}: model must be a torch.nn.Module, not {what}")
    if isinstance(model, torch.jit.ScriptModule):
        raise RuntimeError(
            f"{function}: model is a {type(model).__name__} of torch.jit, whose layers are compiled "
            f"code and no modules; {function} the module that it was made from"
        )


def _places(model: Module) -> Iterator[tuple[Module, list[str]]]:
    """Every module with its names, in the model's order. What is in a scripted one is left out."""
    places: dict[int, tuple[Module, list[str]]] = {}

    def visit(module: Module, path: str) -> None:
        names = places.setdefault(id(module), (module, []))[1]
        names.append(path)
        if len(names) > 1 or isinstance(module, torch.jit.ScriptModule):
            return
        for name, child in module._modules.items():
            if child is not None:
                visit(child, f"{path}.{name}" if path else name)

    visit(model, "")
    return iter(places.values())


def _change(
    function: str, model: Module, decide: Callable[[Module], _Change | str | None], without: str
) -> Report:
    """Look at all layers first, and then change either all or none of them."""
    _check(function, model)
    report, changes = Report(), []
    others: dict[str, list[str]] = {}
    for module, names in _places(model):
        if _is_compiled(module):
            raise RuntimeError(
                f"{function}: {'.'.join(['model', *filter(None, names[:1])])} was compiled by "
                f"torch.compile, which saw its layers as they were; {function} the model first and "
                "compile it then"
            )
        path, was = ", ".join(names), _named(_class_of(module))
        if isinstance(module, torch.jit.ScriptModule):
            report.add(path, was, LEFT, "its layers are compiled code of torch.jit")
            continue
        decision = decide(module)
        if isinstance(decision, _Change):
            changes.append((module, decision))
            report.add(path, was, "replaced", decision.note)
        elif decision is not None:
            report.add(path, was, LEFT, decision)
        elif not module._modules:
            others.setdefault(was, []).append(path)
    for was, (path, *more) in others.items():
        report.add(path + (f" and {len(more)} more" if more else ""), was, LEFT, without)
    before = []
    try:
        for module, change in changes:
            before.append((module, type(module), dict(vars(module))))
            module.__class__ = change.now
            for name in change.dropped:
                del vars(module)[name]
    except BaseException:
        for module, cls, attributes in reversed(before):
            module.__class__ = cls
            vars(module).clear()
            vars(module).update(attributes)
        raise
    return report


@overload
def convert(model: _M, *, report: Literal[False] = False) -> _M: ...
@overload
def convert(model: Module, *, report: Literal[True]) -> Report: ...
def convert(model: Any, *, report: bool = False) -> Any:
    """Put this library's layers into a PyTorch model, in place of PyTorch's of the same names.

    Every layer stays the same object and gets another class: parameters, buffers, hooks, the
    training flag, names, attributes, what a state dict holds, and the optimizers that know its
    parameters stay what they are. Layers that are lazy, parametrised or used in several places are
    replaced, too.

    Left alone, with a note in the report, are subclasses (their code is their author's), layers
    with a ``forward`` set as an attribute, and what ``torch.jit`` compiled. Functions that a
    model calls, such as ``torch.nn.functional.max_pool2d``, are no layers, and stay PyTorch's.

    Args:
        model: a module; it may be a layer itself, be wrapped in ``DataParallel`` or
            ``DistributedDataParallel``, be on any device, and have been converted already
        report: return what was done instead of the model

    Returns:
        The same model; or, with ``report``, a :class:`~infinitypool.nn.report.Report`, which
        prints as a table: a row for each layer, replaced or left and why, and one for each class
        that this library does not have

    Raises:
        TypeError: for something else than a module
        RuntimeError: for a model of ``torch.jit``, and for one that is compiled or has a compiled
            module in it. The model is then as it was

    Example:
        >>> import torch, infinitypool as ip
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(2))
        >>> type(ip.convert(model)[1]) is ip.nn.MaxPool2d
        True
        >>> print(ip.revert(model, report=True))
        module  kind                       action    note
        ------  -------------------------  --------  -------------------
        1       infinitypool.nn.MaxPool2d  replaced  torch.nn.MaxPool2d
        0       torch.nn.Conv2d            left      not of this library
    """
    done = _change("convert", model, _converted, "this library has no such layer")
    return done if report else model


@overload
def revert(model: _M, *, report: Literal[False] = False) -> _M: ...
@overload
def revert(model: Module, *, report: Literal[True]) -> Report: ...
def revert(model: Any, *, report: bool = False) -> Any:
    """Put PyTorch's layers back in place of this library's: what :func:`convert` did is undone.

    It goes by classes and remembers nothing, so it works on copies and on models that were
    stored, and on models written with ``infinitypool.nn``, too. Left alone, with a note in the
    report, is what PyTorch cannot say: layers that it does not have, an ``activation``, a
    ``dilation`` of means, ``padding`` in words or pairs.

    Args:
        model, report: as for :func:`convert`

    Returns and raises:
        as :func:`convert`

    Example:
        >>> import torch, infinitypool as ip
        >>> model = ip.convert(torch.nn.Sequential(torch.nn.BatchNorm2d(8), torch.nn.Dropout()))
        >>> type(ip.revert(model)[0]) is torch.nn.BatchNorm2d
        True
    """
    done = _change("revert", model, _reverted, "not of this library")
    return done if report else model

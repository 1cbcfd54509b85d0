"""What of a model can be traced: regions, each a module whose forward is written as one graph.

A module that cannot be traced is *opaque*: it stays as it is, and what lies inside of it becomes
regions of its own. A graph holds for the kinds of arguments that the example had.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple

from torch import Tensor, fx, nn
from torch.fx.graph_module import reduce_graph_module
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

_EMPTY = inspect.Parameter.empty
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


_HOOKS = (
    "_forward_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


def _hooked(module: nn.Module, like: nn.Module) -> nn.Module:
    """The module with another's hooks."""
    module.__dict__.update({name: like.__dict__[name] for name in _HOOKS})
    return module


# --- what takes the place of a traced module -----------------------------------------------


class _Evaluating(nn.Module):
    """A module that was rewritten for evaluation and has no training mode."""

    def train(self, mode: bool = True) -> Any:
        """Nothing for ``mode=False``, and refused otherwise."""
        if mode:
            raise RuntimeError(
                "optimize: the optimised module has no training mode; train the original, and "
                "optimise it again"
            )
        return super().train(False)


class Optimized(_Evaluating, fx.GraphModule):
    """The graph that stands for a module."""

    def __init__(self, root: Any, graph: fx.Graph, class_name: str = "Optimized") -> None:
        super().__init__(root, graph, class_name)
        self._settle()

    def _settle(self) -> None:
        for module in self.modules():
            if type(module) is nn.Module:  # stands between the names of a path
                module.training = False
        self.training = False

    @staticmethod
    def _own(attributes: dict[str, Any]) -> dict[str, Any]:
        """What is neither PyTorch's nor the graph's."""
        return {n: v for n, v in attributes.items() if n[0] != "_" or n in _HOOKS}

    def _keep(self, attributes: dict[str, Any]) -> Optimized:
        """Take over what the graph does not mention, as modules around it may ask for it."""
        for name, value in attributes.items():
            if name in _HOOKS or name not in self.__dict__ and not hasattr(self, name):
                self.__dict__[name] = value
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimized:
        result = Optimized(super().__deepcopy__(memo), copy.deepcopy(self.graph, memo))
        memo[id(self)] = result
        return result._keep(copy.deepcopy(self._own(self.__dict__), memo))

    def __reduce__(self) -> Any:
        return _restored, super().__reduce__()[1]


def _restored(body: dict[str, Any], imports: str) -> Optimized:
    found = reduce_graph_module(body, imports)
    return Optimized(found, found.graph)._keep(Optimized._own(body))


class Specialised(_Evaluating):
    """A graph for the kinds of arguments that it was traced with, and the module for all others."""

    def __init__(self, traced: nn.Module, pattern: Pattern, original: nn.Module) -> None:
        super().__init__()
        self.traced, self.original = traced, original
        self.names, self.positional = pattern.names, pattern.positional
        self.defaults, self.kinds = pattern.defaults, pattern.kinds
        self.constants = pattern.constants
        self.training = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "original":
                raise
            return getattr(self.original, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The graph's result, or the module's."""
        first = dict(zip(self.positional, args))  # noqa: B905
        given = {**self.defaults, **first, **kwargs}
        known = len(first) == len(args) and given.keys() == set(self.names)
        if (
            known
            and not first.keys() & kwargs.keys()
            and all(_is_of(given[name], kind) for name, kind in self.kinds.items())
            and all(_same(given[name], value) for name, value in self.constants.items())
        ):
            values: dict[str, Any] = {}
            for name, kind in self.kinds.items():
                if isinstance(kind, Several):
                    values |= zip(kind.names(name), given[name], strict=True)
                else:
                    values[name] = given[name]
            try:
                return self.traced(**values)
            except Unforeseen:
                pass
        return self.original.forward(*args, **kwargs)  # hooks have run, or will


class Several(NamedTuple):
    """A list or tuple of so many tensors, each of which is an argument of the graph."""

    type: type
    count: int

    def names(self, name: str) -> list[str]:
        """The names of the graph's arguments."""
        return [f"{name}_{i}" for i in range(self.count)]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of these."""
        return (
            type(value) is self.type
            and len(value) == self.count
            and all(isinstance(item, Tensor) for item in value)
        )


def _is_of(value: Any, kind: Any) -> bool:
    return kind.holds(value) if isinstance(kind, Several) else isinstance(value, kind)


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, (str, bytes)) and a == b)


# --- how modules are called ----------------------------------------------------------------


@dataclass
class Pattern:
    """The arguments of a module's calls: by name what varies, and what was always the same."""

    names: list[str]
    positional: list[str]
    only_positional: set[str]
    defaults: dict[str, Any]
    kinds: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    example: dict[str, Any] = field(default_factory=dict)  # of the first call
    more: bool = False  # names that the signature does not have are taken, too
    problem: str = ""
    calls: int = 0

    @property
    def simple(self) -> bool:
        """Whether there is one tensor and nothing else to tell apart."""
        return len(self.names) == 1 and not self.defaults and [*self.kinds.values()] == [Tensor]


def _pattern_of(module: nn.Module) -> Pattern:
    _, *parameters = inspect.signature(type(module).forward).parameters.values()
    named = [p for p in parameters if p.kind not in _VARIADIC]
    return Pattern(
        [p.name for p in named],
        [p.name for p in named if p.kind is not p.KEYWORD_ONLY],
        {p.name for p in named if p.kind is p.POSITIONAL_ONLY},
        {p.name: p.default for p in named if p.default is not _EMPTY},
        more=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _kind(value: Any) -> Any:
    """The types that a graph's argument may have; None where it must be the very same."""
    if isinstance(value, Tensor):
        return Tensor
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (int, float)
    if type(value) in (list, tuple) and value:
        several = Several(type(value), len(value))
        if several.holds(value):
            return several
    return type(value) if isinstance(value, (list, tuple, dict)) else None


class Calls:
    """The patterns of all modules' calls, while a model runs."""

    def __init__(self, model: nn.Module) -> None:
        self.patterns: dict[nn.Module, Pattern] = {}
        self._handles: list[Any] = []
        self._model = model

    def __enter__(self) -> Calls:
        for module in self._model.modules():
            if not is_layer(module):
                hook = module.register_forward_pre_hook(self._see, with_kwargs=True, prepend=True)
                self._handles.append(hook)
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pattern = self.patterns.get(module)
        if pattern is None:
            pattern = self.patterns[module] = _pattern_of(module)
        pattern.calls += 1
        if len(args) > len(pattern.positional):
            pattern.problem = "takes any number of arguments"
            return
        new = [name for name in kwargs if name not in pattern.names]
        if new and pattern.calls == 1 and pattern.more:
            pattern.names += new
        elif new:
            pattern.problem = "is called with different kinds of arguments"
            return
        passed = {**dict(zip(pattern.positional, args)), **kwargs}  # noqa: B905
        given = {**pattern.defaults, **passed}
        kinds = {name: kind for name in given if (kind := _kind(given[name])) is not None}
        constants = {name: value for name, value in given.items() if name not in kinds}
        if pattern.calls > 1 and (
            kinds != pattern.kinds
            or constants.keys() != pattern.constants.keys()
            or any(not _same(constants[name], pattern.constants[name]) for name in constants)
        ):
            pattern.problem = "is called with different kinds of arguments"
        if pattern.calls == 1:
            pattern.kinds, pattern.constants, pattern.example = kinds, constants, given
        pattern.passed |= passed.keys()


# --- tracing -------------------------------------------------------------------------------


def is_layer(module: nn.Module) -> bool:
    """Whether graphs name it rather than look into it: PyTorch's layers and ours."""
    home = type(module).__module__
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict, fx.GraphModule)):
        return False
    return type(module) is not nn.Module and home.startswith(("torch.nn", "torch.ao.nn", _OURS))


_OURS = __name__.split(".")[0] + "."


def has_hooks(module: nn.Module) -> bool:
    """Whether something runs beside a module's own forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class Unforeseen(ValueError):
    """A graph came to a point where the module would go another way than it did when traced."""


def expect(found: Any, wanted: bool) -> None:
    """What stands in a graph where a module has chosen a branch by a size."""
    if bool(found) is not wanted:
        raise Unforeseen


def expect_length(found: Any, wanted: int) -> None:
    """The same where it has counted axes, or results."""
    if len(found) != wanted:
        raise Unforeseen


def expect_batch(found: Tensor, wanted: int) -> None:
    """What stands before a convolution that has taken in a norm: that refuses a single picture.

    It refuses a single line as well, unless that is as long as it has channels, whose statistics
    the norm then gives to the places of the line. Nothing is kept beside the graph for that.
    """
    if found.ndim != wanted:
        raise Unforeseen(
            f"optimize: expected an input with {wanted} axes, as the example had, got {found.ndim}; "
            "the batch norm behind this convolution takes a batch"
        )


fx.has_side_effect(expect_batch)
_EXPECTING = {fx.has_side_effect(expect), fx.has_side_effect(expect_length)}


class _Attributes(fx.Tracer):
    """Buffers are looked up when the graph runs. This is also who reads a stored graph again."""

    proxy_buffer_attributes = True

    def create_arg(self, a: Any) -> Any:
        """Results with names stay what they are, dictionaries or not."""
        if isinstance(a, dict) and is_dataclass(a):
            given = {f.name: self.create_arg(getattr(a, f.name)) for f in fields(a)}
            return self.create_node("call_function", type(a), (), given)
        return super().create_arg(a)


class _Proxy(fx.Proxy):
    """What stands for a value, and has the example's at hand."""

    _held: Any = None

    def __getattr__(self, name: str) -> Any:
        if callable(getattr(self._held, name)):
            return super().__getattr__(name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __len__(self) -> int:
        if isinstance(self._held, Tensor):
            return super().__len__()
        return self.tracer.expect(expect_length, self, len(self._held))


def _assignment(name: str) -> Callable[[_Proxy, Any], Any]:
    """``x += y`` and its like change a tensor; of a number or a tuple they make another."""

    def method(self: _Proxy, other: Any) -> Any:
        if not isinstance(self._held, Tensor):
            return NotImplemented
        function = getattr(operator, name)
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in (
    "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor",
    "ilshift", "irshift",
):  # fmt: skip
    setattr(_Proxy, f"__{_name}__", _assignment(_name))


def _held(argument: Any) -> Any:
    if isinstance(argument, _Proxy):
        return argument._held
    if isinstance(argument, fx.proxy.Attribute):
        return getattr(_held(argument.root), argument.attr)
    return argument


class _Tracer(_Attributes):
    """Runs the module on the example while it writes the graph.

    Where the module asks for a size, the example's answer is taken, and the graph expects the same.
    Where it asks for an element, it cannot be traced.
    """

    def __init__(self, pattern: Pattern, opaque: dict[nn.Module, str]) -> None:
        super().__init__()
        self._pattern, self._opaque = pattern, opaque
        self._running = False
        self._placed: Any = None
        self.culprit: nn.Module | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._opaque or has_hooks(m) or is_layer(m)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self._running:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.culprit is None:
                self.culprit = m
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if self._running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> Any:
        result = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        held = map_aggregate((args, kwargs), _held)
        tensors = [t for t in tree_leaves(held) if isinstance(t, Tensor)]
        versions = [t._version for t in tensors]
        value = self._value(kind, target, *held)
        meta = result.node.meta
        meta["changes"] = versions != [t._version for t in tensors]  # in place
        if isinstance(value, Tensor):
            meta["shape"], meta["dtype"] = tuple(value.shape), value.dtype
        result._held = value
        return result

    def _value(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            return self._placed
        self._running = True
        try:
            if kind == "get_attr":
                return operator.attrgetter(target)(self.root)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            run = self.root.get_submodule(target) if kind == "call_module" else target
            return run(*args, **kwargs)
        finally:
            self._running = False

    def expect(self, function: Any, obj: fx.Proxy, wanted: Any) -> Any:
        """Put a function that checks an answer into the graph."""
        self.create_proxy("call_function", function, (obj, wanted), {}).node.meta["is_wrapped"] = (
            True  # a graph that is read again does not run it
        )
        return wanted

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = _held(obj)
        if isinstance(value, Tensor):
            return super().to_bool(obj)
        return self.expect(expect, obj, bool(value))

    def iter(self, obj: fx.Proxy) -> Any:
        if isinstance(_held(obj), Tensor):
            return super().iter(obj)
        return iter([obj[i] for i in range(len(obj))])  # type: ignore[index, arg-type]

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        pattern = self._pattern
        values = {n: v for n, v in pattern.constants.items() if n in pattern.passed}
        for name, kind in pattern.kinds.items():
            values[name] = self._placeholder(name, kind, pattern.example[name])
        first = [values.pop(name) for name in pattern.names if name in pattern.only_positional]
        return lambda root: root_fn(root, *first, **values), [self.root]

    def _placeholder(self, name: str, kind: Any, value: Any) -> Any:
        if isinstance(kind, Several):
            return kind.type(
                self._placeholder(each, Tensor, item)
                for each, item in zip(kind.names(name), value, strict=True)
            )
        self._placed = value.clone() if isinstance(value, Tensor) else value
        return self.create_proxy("placeholder", name, (), {})


def _containers(value: Any, seen: dict[int, Any]) -> Iterator[tuple[Any, Any]]:
    """The lists, dictionaries and sets that a value is made of, each with what it holds now."""
    if isinstance(value, (list, dict, set, deque, tuple)) and id(value) not in seen:
        seen[id(value)] = value
        if not isinstance(value, tuple):
            kind = dict if isinstance(value, dict) else set if isinstance(value, set) else list
            yield value, kind(value)
        for item in [*value.values()] if isinstance(value, dict) else [*value]:
            yield from _containers(item, seen)


def _is_as_it_was(container: Any, kept: Any) -> bool:
    if isinstance(kept, set):
        same = container == kept
    elif isinstance(kept, dict):
        same = all(n in container and container[n] is v for n, v in kept.items())
    else:
        same = all(a is b for a, b in zip(container, kept))  # noqa: B905
    return same and len(container) == len(kept)


def _trace(
    module: nn.Module, pattern: Pattern, opaque: dict[nn.Module, str]
) -> Optimized | tuple[nn.Module, str]:
    """The graph, or who cannot be traced and why. The module is left as it was."""
    before = [(m, dict(m.__dict__)) for m in module.modules()]
    seen: dict[int, Any] = {}
    held = [
        (m, name, *pair)
        for m, attributes in before
        for name, value in attributes.items()
        for pair in _containers(value, seen)
    ]
    tracer = _Tracer(pattern, opaque)
    try:
        try:
            graph = tracer.trace(module)
        except Exception as error:  # whatever somebody else's code does with what is no tensor
            who = tracer.culprit
            if who is None or who in opaque or is_layer(who):  # it is how they are called
                who = module
            return who, f"cannot be traced: {first_line(error)}"
        graph._tracer_cls = _Attributes
        for node in reversed(graph.nodes):  # what was asked for its size alone
            if node.target in (getattr, operator.getitem) and not node.users:
                graph.erase_node(node)
        for m, attributes in before:
            now = {n: v for n, v in m.__dict__.items() if not n.startswith("_tensor_constant")}
            stored = [n for n, v in now.items() if n not in attributes or attributes[n] is not v]
            if stored:
                return m, f"stores an attribute while it runs: {stored[0]}"
        for m, name, container, kept in held:
            if not _is_as_it_was(container, kept):
                if name == "_buffers":
                    name = next(n for n in container if container[n] is not kept.get(n))
                return m, f"stores an attribute while it runs: {name}"
        for node in graph.nodes:
            name = str(node.target).partition(".")[0]
            if node.op in ("get_attr", "call_module") and hasattr(Optimized, name):
                return module, f"has a part with a name that graphs need: {name}"
        result = Optimized(module, graph, type(module).__name__)
        plain = {name: value for name, value in module.__dict__.items() if name[0] != "_"}
        return result._keep(plain)
    finally:
        for m, attributes in before:
            m.__dict__.clear()
            m.__dict__.update(attributes)
        for _, _, container, kept in held:
            if not _is_as_it_was(container, kept):
                container.clear()
                add = container.update if isinstance(kept, (dict, set)) else container.extend
                add(kept)


@dataclass(eq=False)
class Region:
    """A module and the graph that may take its place."""

    path: str
    module: nn.Module
    pattern: Pattern
    traced: Optimized

    def replacement(self) -> nn.Module:
        """What takes the module's place: the graph, behind a look at the arguments if need be."""
        expects = any(node.target in _EXPECTING for node in self.traced.graph.nodes)
        if self.pattern.simple and not expects:
            return _hooked(self.traced, self.module)
        return _hooked(Specialised(self.traced, self.pattern, self.module), self.module)


def first_line(error: Exception) -> str:
    """The first sentence of what an error says."""
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return text or type(error).__name__


def join(*names: str) -> str:
    """The path of a module from those of its parts."""
    return ".".join(name for name in names if name)


def find(
    model: nn.Module, patterns: dict[nn.Module, Pattern], opaque: dict[nn.Module, str]
) -> list[Region]:
    """The largest regions of a model. What turns out to be opaque is added to ``opaque``."""
    regions: list[Region] = []
    seen: set[nn.Module] = set()

    def inside(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            walk(child, join(path, name))

    def walk(module: nn.Module, path: str) -> None:
        if module in seen or is_layer(module):
            return
        seen.add(module)
        pattern = patterns.get(module)
        if pattern is None:  # was not called, as a list of modules is not
            return inside(module, path)
        traced = None
        while traced is None and module not in opaque:
            if "forward" in module.__dict__:
                opaque[module] = "has a forward of its own beside its class's"
            elif pattern.problem:
                opaque[module] = pattern.problem
            elif isinstance(found := _trace(module, pattern, opaque), Optimized):
                traced = found
            else:
                opaque[found[0]] = found[1]
        if traced is None:
            return inside(module, path)
        regions.append(Region(path, module, pattern, traced))
        for node in traced.graph.nodes:
            if node.op == "call_module":
                child = traced.get_submodule(node.target)
                walk(child, join(path, node.target))
        return None

    walk(model, "")
    return regions


def swapped(model: nn.Module, by: dict[nn.Module, nn.Module]) -> nn.Module:
    """The model with modules replaced wherever they are a child. Itself, if not one of them."""
    inner = [m for new in by.values() for m in new.modules()]
    kept = {m for new in by.values() if isinstance(new, Specialised) for m in [new]}
    for parent in {*model.modules(), *inner} - kept:
        for name, child in parent._modules.items():
            if child in by:
                parent._modules[name] = by[child]
    return by.get(model, model)

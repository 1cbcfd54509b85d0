"""What :func:`infinitypool.nn.optimization.optimize` does to the graph of a region, pass by pass.

Every pass looks at pairs of neighbours of which the second is the only one to see what the first
gives, so that nobody misses what is no longer computed.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as theirs
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from . import functional as F
from . import modules, norm_modules, norm_pool, sync
from .dropouts import __all__ as _dropout_names
from .regions import Optimized, expect_batch, expect_length, has_hooks, join
from .report import LEFT, Report

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DIMS = (1, 2, 3)


def _both(*names: str) -> tuple[type, ...]:
    """PyTorch's classes and ours of these names."""
    found = []
    for name in names:
        for home in (torch.nn, norm_modules, modules, sync):
            if name in getattr(home, "__all__", ()) or home is torch.nn:
                found.append(getattr(home, name))
    return tuple(dict.fromkeys(found))


_BATCH_NORMS = _both(*(f"BatchNorm{n}d" for n in _DIMS), "SyncBatchNorm")
_NORMS = _both(
    *(f"BatchNorm{n}d" for n in _DIMS),
    *(f"InstanceNorm{n}d" for n in _DIMS),
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
)
_MAX_POOLS = _both(*(f"MaxPool{n}d" for n in _DIMS))
_AVG_POOLS = _both(*(f"AvgPool{n}d" for n in _DIMS))
_ADAPTIVE_MAX = _both(*(f"AdaptiveMaxPool{n}d" for n in _DIMS))
_ADAPTIVE_AVG = _both(*(f"AdaptiveAvgPool{n}d" for n in _DIMS))

# What gives back what it was given: in evaluation all of PyTorch's dropouts, and ours, do.
_DROPS = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)  # fmt: skip
_DROP_FUNCTIONS = {
    getattr(home, name): name
    for home in (theirs, F)
    for name in (
        "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
    )
}  # fmt: skip

# The functions that we have, by PyTorch's.
_OURS = {
    getattr(theirs, name): getattr(F, name)
    for name in F.__all__
    if hasattr(theirs, name) and getattr(theirs, name) is not getattr(F, name)
    and not name.endswith(("dropout", "dropout1d", "dropout2d", "dropout3d"))
}  # fmt: skip

_NORM_FUNCTIONS = {
    getattr(home, name): name
    for home in (theirs, F)
    for name in ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
}


class _Activation(NamedTuple):
    name: str
    slope: float
    rises: bool  # nowhere falls, so that the largest of results is the result of the largest


# Layer to name; those in the second table never fall. Softplus does, at its threshold, and
# Softsign makes NaN of -inf, as a slope of zero does.
_FUSED = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.SiLU: "silu", nn.GELU: "gelu"}
_RISING = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardtanh: "hardtanh", nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh", nn.Hardsigmoid: "hardsigmoid", nn.LogSigmoid: "logsigmoid", nn.SELU: "selu",
}  # fmt: skip
_NAMES = {*_FUSED.values(), *_RISING.values()}
_FUNCTIONS = {
    **{getattr(theirs, name): name for name in _NAMES},
    torch.relu: "relu", torch.relu_: "relu_", theirs.relu_: "relu_", torch.sigmoid: "sigmoid",
    torch.tanh: "tanh", theirs.leaky_relu_: "leaky_relu_", theirs.hardtanh_: "hardtanh_",
    torch.sigmoid_: "sigmoid_", torch.tanh_: "tanh_",
}  # fmt: skip
_METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_"}


class _Window(NamedTuple):
    reducer: str  # "max" or "mean"
    whole: bool  # planes are pooled as a whole
    shrinks: bool  # fewer results than elements
    plain: bool  # every window has elements, and a mean counts nothing but them


class Fuser:
    """All passes over one graph, with what they did."""

    def __init__(self, path: str, traced: Optimized, report: Report) -> None:
        self.path, self.traced, self.report = path, traced, report
        self.graph = traced.graph
        self.unfolded: dict[fx.Node, str] = {}
        self.folded: set[fx.Node] = set()

    def run(self) -> None:
        """All passes, in an order in which one makes way for the next."""
        for one_pass in (
            self.arrange,
            self.drop,
            self.fold,
            self.move_behind_pools,
            self.move_before_convolution,
            self.add_and_normalise,
            self.activate,
            self.pool,
            self.replace_functions,
            self.expect_axes,
        ):
            one_pass()
        for node in self.graph.nodes:
            if (reason := self.unfolded.get(node)) is None:
                continue
            norm = self.traced.get_submodule(node.target)
            if getattr(norm, "activation", None) is None:
                self.say(node, LEFT, f"not folded: {reason}")
        if self.report.done:
            self.graph.lint()
            self.traced.delete_all_unused_submodules()
            self.traced.recompile()

    # --- what nodes are ---------------------------------------------------------------------

    def layer(self, node: Any) -> nn.Module | None:
        """The layer that a node calls, unless something else runs beside it."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        found = self.traced.get_submodule(node.target)
        return None if has_hooks(found) or found.training else found

    def say(self, node: fx.Node, action: str, note: str = "") -> None:
        """A row for a layer, or for a function under the module that calls it."""
        if node.op == "call_module":
            layer = self.traced.get_submodule(node.target)
            path, kind = node.target, type(layer).__name__
        else:
            stack = [*node.meta.get("nn_module_stack", {}).values()]
            path, kind = stack[-1][0] if stack else "", self.name_of(node)
        self.report.add(join(self.path, path), kind, action, note)

    def name_of(self, node: fx.Node) -> str:
        """As the report says it."""
        if node.op == "call_module":
            return join(self.path, node.target)
        target = node.target
        return target if isinstance(target, str) else _DROP_FUNCTIONS.get(
            target, _FUNCTIONS.get(target, _THEIR_NAMES.get(target, target.__name__))
        )  # fmt: skip

    def times(self, node: fx.Node) -> int:
        """How often the graph calls a node's layer."""
        if node.op != "call_module":
            return 1
        return sum(n.op == "call_module" and n.target == node.target for n in self.graph.nodes)

    def only_user(self, node: fx.Node) -> fx.Node | None:
        """The one node that sees a node's result."""
        users = [*node.users]
        return users[0] if len(users) == 1 else None

    def activation(self, node: Any) -> _Activation | None:
        """What a node does, if it is an activation of one tensor."""
        if (layer := self.layer(node)) is not None:
            kind = type(layer)
            if kind is nn.PReLU:
                slope = layer.weight
                if slope.numel() != 1 or slope.requires_grad and torch.is_grad_enabled():
                    return None
                return _rated("leaky_relu", float(slope))
            if kind is nn.GELU and layer.approximate != "none":
                return None
            name = _FUSED.get(kind) or _RISING.get(kind)
            return _rated(name, getattr(layer, "negative_slope", 0.0)) if name else None
        if not isinstance(node, fx.Node) or not node.args:
            return None
        if node.op == "call_method" and node.target in _METHODS:
            name, rest = node.target, {}
        elif node.op == "call_function" and node.target in _FUNCTIONS:
            name, rest = _FUNCTIONS[node.target], dict(node.kwargs)
            if name in ("leaky_relu", "leaky_relu_") and len(node.args) > 1:
                rest["negative_slope"] = node.args[1]
            elif len(node.args) > 1:
                return None
        else:
            return None
        if rest.get("approximate", "none") != "none":
            return None
        slope = rest.get("negative_slope", 0.01)
        if not isinstance(slope, (int, float)):
            return None
        return _rated(name.rstrip("_"), slope)

    def window(self, node: Any) -> _Window | None:
        """What a node pools, if that is all that it gives."""
        if (layer := self.layer(node)) is not None:
            if isinstance(layer, _MAX_POOLS) and type(layer) in _MAX_POOLS:
                return None if layer.return_indices else _sliding("max", vars(layer))
            if type(layer) in _AVG_POOLS:
                return _sliding("mean", vars(layer))
            if type(layer) in _ADAPTIVE_MAX and layer.return_indices:
                return None
            if type(layer) in _ADAPTIVE_MAX + _ADAPTIVE_AVG:
                whole = {layer.output_size} if isinstance(layer.output_size, int) else {
                    *layer.output_size
                }  # fmt: skip
                reducer = "max" if type(layer) in _ADAPTIVE_MAX else "mean"
                return _Window(reducer, True, True, True) if whole == {1} else None
            if type(layer) in (modules.GlobalAvgPool, modules.GlobalMaxPool):
                reducer = "max" if type(layer) is modules.GlobalMaxPool else "mean"
                return _Window(reducer, True, True, True)
            return None
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return None
        name = _POOL_FUNCTIONS.get(node.target)
        if name is None or not node.args:
            return None
        if name.startswith("adaptive"):
            size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
            whole = {size} if isinstance(size, int) else {*size} if size else set()
            if whole != {1} or node.kwargs.get("return_indices"):
                return None
            return _Window("max" if "max" in name else "mean", True, True, True)
        given = self._given(name, node)
        if given.get("return_indices") or any(isinstance(v, fx.Node) for v in given.values()):
            return None
        return _sliding("max" if "max" in name else "mean", given)

    def owns(self, node: fx.Node) -> bool:
        """Whether nobody else sees the memory that a node is given first, so that it may change."""
        given = node.args[0]
        if not isinstance(given, fx.Node) or self.only_user(given) is not node:
            return False
        if (layer := self.layer(given)) is not None:
            return isinstance(layer, _MAKERS)
        return given.op == "call_function" and given.target in _MAKING

    def quiet(self, first: fx.Node, last: fx.Node) -> bool:
        """Whether nothing between two nodes changes a tensor, so that the first may run later."""
        while (first := first.next) is not last:
            if first.meta.get("changes"):
                return False
        return True

    # --- passes -----------------------------------------------------------------------------

    def arrange(self) -> None:
        """What a layer or a function works on comes first, though it was given by its name."""
        for node in self.graph.nodes:
            name = None
            if (layer := self.layer(node)) is not None:
                name = next(iter(inspect.signature(layer.forward).parameters), None)
            elif node.op == "call_function" and node.target in _NAMED:
                name = "input"
            if name in node.kwargs and not node.args:
                kwargs = dict(node.kwargs)
                node.args, node.kwargs = (kwargs.pop(name),), kwargs

    def drop(self) -> None:
        """Remove what does nothing in evaluation."""
        for node in [*self.graph.nodes]:
            layer = self.layer(node)
            if layer is not None:
                ours = type(layer).__name__ in _dropout_names and type(layer).__module__ in _HOMES
                nothing = type(layer) in _DROPS or (
                    ours and not type(layer).__name__.endswith("Add")
                )
            else:
                nothing = node.op == "call_function" and node.target in _DROP_FUNCTIONS
                given = {**dict(zip(("p", "training"), node.args[1:])), **node.kwargs}  # noqa: B905
                nothing = nothing and given.get("training", _TRAINS.get(node.target)) is False
            if nothing and len(node.all_input_nodes) == 1:
                self.say(node, "dropped")
                node.replace_all_uses_with(node.all_input_nodes[0])
                self.graph.erase_node(node)

    def fold(self) -> None:
        """Batch normalisation into the convolution or linear layer before it."""
        for node in [*self.graph.nodes]:
            norm = self.layer(node)
            if type(norm) not in _BATCH_NORMS:
                continue
            before = node.args[0] if node.args else None
            reason = self._why_not_folded(node, norm, before)
            if reason is None:
                folded = _folded(self.layer(before), norm)
                if folded is None:
                    reason = "its factors are not finite"
            if reason is None:
                if getattr(norm, "activation", None) is not None:
                    reason = "has an activation"
            if reason is not None:
                self.unfolded[node] = reason
                continue
            self.say(node, "folded", f"into {self.name_of(before)}")
            self.folded.add(before)
            _put(self.traced, before.target, folded)
            node.replace_all_uses_with(before)
            self.graph.erase_node(node)

    def _why_not_folded(self, node: fx.Node, norm: Any, before: Any) -> str | None:
        if norm.running_mean is None or norm.running_var is None:
            return "it uses the input's own statistics"
        if not isinstance(before, fx.Node) or before.op != "call_module":
            return "no convolution before it"
        layer = self.traced.get_submodule(before.target)
        kind = type(layer)
        if parametrize.is_parametrized(layer):
            return f"{self.name_of(before)} is parametrised"
        if kind not in (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear):
            return "no convolution before it"
        if has_hooks(layer):
            return f"{self.name_of(before)} has a hook"
        if layer.training:
            return f"{self.name_of(before)} is in training mode"
        if any(
            n.op == "get_attr" and n.target.startswith(f"{before.target}.")
            for n in self.graph.nodes
        ):
            return f"parameters of {self.name_of(before)} are used elsewhere too"
        if self.only_user(before) is not node:
            return f"the result of {self.name_of(before)} is used elsewhere too"
        if self.times(before) > 1:
            return f"{self.name_of(before)} is called {self.times(before)} times"
        axes = len(before.meta.get("shape", ()))
        if kind is nn.Linear and axes != 2:
            return f"{self.name_of(before)} has other axes than its features behind the batch"
        if axes != _axes(layer):
            return f"{self.name_of(before)} is not given a batch"
        return None

    def move_behind_pools(self) -> None:
        """What never falls commutes with a maximum, and what is linear with a mean.

        Behind it there is less to do.
        """
        moved = True
        while moved:
            moved = False
            for node in [*self.graph.nodes]:
                window = self.window(node)
                if window is None or not (window.shrinks and window.plain):
                    continue
                before = node.args[0]
                if not isinstance(before, fx.Node) or self.only_user(before) is not node:
                    continue
                if not (self._commutes(before, window) and self.quiet(before, node)):
                    continue
                self.say(before, "moved", f"behind {self.name_of(node)}")
                x = before.args[0]
                node.replace_input_with(before, x)
                with self.graph.inserting_after(node):
                    late = self.graph.node_copy(before, lambda n, x=x, y=node: y if n is x else n)
                late.meta = dict(before.meta)
                if "shape" in node.meta:
                    late.meta["shape"] = node.meta["shape"]
                node.replace_all_uses_with(late, delete_user_cb=lambda u, late=late: u is not late)
                self.graph.erase_node(before)
                moved = True

    def _commutes(self, node: fx.Node, window: _Window) -> bool:
        """Whether a node may as well do to windows what it does to their elements."""
        if window.reducer == "max" and (activation := self.activation(node)) is not None:
            return activation.rises and (not node.meta.get("changes") or self.owns(node))
        norm = self.layer(node)
        if type(norm) not in _BATCH_NORMS or norm.running_var is None or norm.running_mean is None:
            return False
        if getattr(norm, "activation", None) is not None or len(node.args) != 1:
            return False
        return window.reducer == "mean" or bool((_affine(norm)[0] > 0).all())

    def move_before_convolution(self) -> None:
        """A mean of what a 1×1 convolution gives is what it gives of the mean."""
        for node in [*self.graph.nodes]:
            window = self.window(node)
            if window is None or window.reducer != "mean":
                continue
            if not (window.shrinks and window.plain and not window.whole):
                continue
            before = node.args[0]
            layer = self.layer(before)
            if type(layer) not in _CONVOLUTIONS or self.only_user(before) is not node:
                continue
            one = {*layer.kernel_size, *layer.stride} == {1}
            if not one or layer.padding not in ("valid", (0,) * len(layer.kernel_size)):
                continue
            if len(before.args) != 1 or before.kwargs:
                continue
            self.say(node, "moved", f"before {self.name_of(before)}")
            node.replace_all_uses_with(before)
            node.replace_input_with(before, before.args[0])
            before.args = (node,)
            before.prepend(node)

    def add_and_normalise(self) -> None:
        """The sum of two tensors and its norm in one pass."""
        for node in [*self.graph.nodes]:
            norm = self.layer(node)
            add = _ADDING.get(type(norm))
            total = node.args[0] if len(node.args) == 1 and not node.kwargs else None
            if add is None or not isinstance(total, fx.Node) or self.times(node) > 1:
                continue
            if total.op != "call_function" or not (
                total.target in (operator.add, torch.add)
                or total.target is operator.iadd
                and self.owns(total)
            ):
                continue
            if len(total.args) != 2 or total.kwargs:
                continue
            like = [_like(n) for n in (*total.args, total)]
            if like[0] is None or like.count(like[0]) != 3:
                continue
            # The sum is computed where the norm was: everybody who sees it comes later.
            order = {n: i for i, n in enumerate(self.graph.nodes)}
            if any(order[user] < order[node] for user in total.users):
                continue
            if not self.quiet(total, node):
                continue
            self.say(node, "fused", f"with the sum before it{self._inside(total)}")
            _put(self.traced, node.target, _duplicate(add, norm))
            with self.graph.inserting_before(node):
                pair = self.graph.call_module(node.target, total.args)
                first = self.graph.call_function(operator.getitem, (pair, 0))
                second = self.graph.call_function(operator.getitem, (pair, 1))
            for old, new in ((node, first), (total, second)):
                new.meta = dict(old.meta)
                old.replace_all_uses_with(new)
                self.graph.erase_node(old)

    def _inside(self, node: fx.Node) -> str:
        stack = [*node.meta.get("nn_module_stack", {}).values()]
        path = join(self.path, stack[-1][0]) if stack else ""
        return f" in {path}" if path else ""

    def activate(self) -> None:
        """A norm and the activation behind it in one pass."""
        for node in [*self.graph.nodes]:
            activation = self.activation(node)
            if activation is None or activation.name not in _FUSED.values():
                continue
            before = node.args[0]
            if not isinstance(before, fx.Node) or self.only_user(before) is not node:
                continue
            norm = self.layer(before)
            if type(norm) in _NORMS:
                if getattr(norm, "activation", None) is not None:
                    continue
                if self.times(before) > 1:
                    times = self.times(before)
                    self.say(before, LEFT, f"not fused with an activation: is called {times} times")
                    continue
                fused = _duplicate(_our_norm(norm), norm)
                fused.activation, fused.negative_slope = activation.name, activation.slope
                self.say(node, "fused", f"with {self.name_of(before)}")
                _put(self.traced, before.target, fused)
            elif before.op == "call_function" and before.target in _NORM_FUNCTIONS:
                if before.kwargs.get("activation") is not None:
                    continue
                self.say(node, "fused", f"with {self.name_of(before)}")
                before.target = getattr(F, _NORM_FUNCTIONS[before.target])
                before.kwargs = {
                    **{name: v for name, v in before.kwargs.items() if name != "cudnn_enabled"},
                    "activation": activation.name,
                    "negative_slope": activation.slope,
                }
            else:
                continue
            node.replace_all_uses_with(before)
            self.graph.erase_node(node)

    def pool(self) -> None:
        """A batch norm, with its activation, and the pooling behind it in one pass."""
        for node in [*self.graph.nodes]:
            text = self.pool_text(node)
            before = node.args[0] if node.args else None
            norm = self.layer(before)
            if text is None or norm is None or self.only_user(before) is not node:
                continue
            kind = _POOLING.get(type(norm))
            if kind is None or norm.running_mean is None or norm.running_var is None:
                continue
            if self.times(before) > 1 or len(before.args) != 1 or before.kwargs:
                continue
            self.say(node, "fused", f"with {self.name_of(before)}")
            _put(self.traced, before.target, _duplicate(kind, norm).pool(text))
            before.meta = {**before.meta, **node.meta}
            node.replace_all_uses_with(before)
            self.graph.erase_node(node)

    def pool_text(self, node: Any) -> str | None:
        """The spec's text of a pooling, if values are all that it gives."""
        if (layer := self.layer(node)) is not None:
            name = _POOL_LAYERS.get(type(layer))
            given = vars(layer)
        elif isinstance(node, fx.Node) and node.op == "call_function":
            name = _POOL_FUNCTIONS.get(node.target)
            given = {} if name is None else self._given(name, node)
        else:
            return None
        if name is None or given.get("return_indices"):
            return None
        known = {n: given[n] for n in _POOL_ARGUMENTS if n in given}
        try:
            return norm_pool.pool_text(name, known)
        except (KeyError, TypeError, ValueError, RuntimeError):  # its own call will say so
            return None

    @staticmethod
    def _given(name: str, node: fx.Node) -> dict[str, Any]:
        """A pooling function's arguments by their names."""
        names = (
            ("output_size", "return_indices")
            if name.startswith("adaptive")
            else _MAX_ARGUMENTS
            if "max" in name
            else _AVG_ARGUMENTS
        )
        return {**dict(zip(names, node.args[1:])), **node.kwargs}  # noqa: B905

    def replace_functions(self) -> None:
        """PyTorch's functions by ours."""
        for node in self.graph.nodes:
            if node.op == "call_function" and node.target in _OURS:
                self.say(node, "replaced", "by ours")
                node.target = _OURS[node.target]

    def expect_axes(self) -> None:
        """Have the graph look how many axes it gets where a norm was folded.

        The norm would find its features on the second axis, its layer counts from the last.
        """
        known: dict[fx.Node, int | None] = {}
        for node in [*self.graph.nodes]:
            layer, axes = self.layer(node), [known.get(n) for n in node.all_input_nodes]
            if node in self.folded and axes != [wanted := _axes(layer)]:
                with self.graph.inserting_before(node):
                    if type(layer) is nn.Linear:  # takes any number of axes, and so does the norm
                        shape = self.graph.call_function(getattr, (node.args[0], "shape"))
                        check = self.graph.call_function(expect_length, (shape, wanted))
                    else:
                        check = self.graph.call_function(expect_batch, (node.args[0], wanted))
                check.meta["is_wrapped"] = True
                axes, known[node.args[0]] = [wanted], wanted
            if type(layer) in _KEEPING or self.activation(node) is not None or _adds(node):
                known[node] = axes[0] if len({*axes}) == 1 else None
            elif _flattens(node, layer):
                known[node] = 2


# --- parts -----------------------------------------------------------------------------------


def _rated(name: str, slope: float) -> _Activation:
    rises = name in _RISING.values() or name == "leaky_relu" and slope > 0
    return _Activation(name, float(slope), rises)


def _axes(layer: Any) -> int:
    """How many axes a layer's result has where its features lie on the second."""
    return 2 if type(layer) is nn.Linear else 2 + len(layer.kernel_size)


def _flattens(node: fx.Node, layer: nn.Module | None) -> bool:
    """Whether a node certainly gives two axes."""
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if node.op == "call_method" and node.target in ("view", "reshape"):
        return len(node.args) == 3
    start = {**dict(zip(("start_dim", "end_dim"), node.args[1:])), **node.kwargs}  # noqa: B905
    known = (("call_method", "flatten"), ("call_function", torch.flatten))
    return (node.op, node.target) in known and start == {"start_dim": 1}


def _adds(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)


def _sliding(reducer: str, given: dict[str, Any]) -> _Window | None:
    """A window that slides. ``plain`` only where that is certain for every size of an input."""
    kernel, stride = given.get("kernel_size"), given.get("stride")
    padding, dilation = given.get("padding", 0), given.get("dilation", 1)
    if stride is None or stride == ():
        stride = kernel
    lists = [
        v if isinstance(v, (tuple, list)) else [v] for v in (kernel, stride, padding, dilation)
    ]
    if any(type(n) is not int for values in lists for n in values):
        return None
    kernels, strides, paddings, dilations = lists
    padded = any(paddings)
    if reducer == "max":
        narrow = 2 * max(paddings) <= min(kernels)
        plain = not padded or (narrow and {*dilations} == {1})
    else:
        plain = not padded and not given.get("ceil_mode") and given.get("divisor_override") is None
    shrinks = prod(strides) > 1
    return _Window(reducer, False, shrinks, plain)


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm in evaluation multiplies by and adds, in double precision."""
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double() * scale
        if norm.bias is not None:
            shift = shift + norm.bias.double()
    return scale, shift


def _folded(layer: Any, norm: Any) -> Any:
    """The layer with the norm in its parameters; None if they are not finite."""
    scale, shift = _affine(norm)
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    with torch.no_grad():
        wide = weight.double()
        if isinstance(layer, _TRANSPOSED):  # (in, out / groups, ...), groups along the inputs
            wide = wide.unflatten(0, (groups, -1))
            sizes = [groups, 1, wide.shape[2]] + [1] * (wide.ndim - 3)
            wide = (wide * scale.view(sizes)).flatten(0, 1)
        else:
            wide = wide * scale.view([-1] + [1] * (wide.ndim - 1))
        bias = shift if layer.bias is None else shift + layer.bias.double() * scale
        made = [t.to(weight.dtype) for t in (wide, bias)]
    if not all(bool(t.isfinite().all()) for t in made):
        return None
    result = _duplicate(type(layer), layer)
    grad = weight.requires_grad
    made[0] = made[0].contiguous(memory_format=_memory_format(weight))
    result.weight = nn.Parameter(made[0], requires_grad=grad)
    result.bias = nn.Parameter(made[1], requires_grad=grad)
    return result


def _memory_format(weight: Tensor) -> torch.memory_format:
    for ndim, form in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if weight.ndim == ndim and not weight.is_contiguous():
            if weight.is_contiguous(memory_format=form):
                return form
    return torch.contiguous_format


def _duplicate(kind: type, module: nn.Module) -> Any:
    """A module of another class with the same attributes; parameters are shared."""
    result = kind.__new__(kind)
    attributes = dict(module.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        attributes[name] = copy.copy(attributes[name])
    result.__dict__.update(attributes)
    return result


def _our_norm(norm: nn.Module) -> type:
    name = type(norm).__name__
    return getattr(norm_modules, name)


_ADDING = {
    kind: add
    for name, add in (
        ("LayerNorm", norm_modules.AddLayerNorm),
        ("RMSNorm", norm_modules.AddRMSNorm),
    )
    for kind in _both(name)
}


def _like(node: Any) -> Any:
    """Shape and dtype that a node had for the example."""
    if not isinstance(node, fx.Node) or "shape" not in node.meta:
        return None
    return node.meta["shape"], node.meta["dtype"]


def _put(traced: nn.Module, target: str, layer: nn.Module) -> None:
    """Only what the graph has made itself is changed: the containers along a path are its own."""
    path, _, name = target.rpartition(".")
    setattr(traced.get_submodule(path), name, layer)


_HOMES = {"infinitypool.nn.dropouts"}
_TRAINS = {getattr(theirs, n): True for n in ("dropout", "dropout1d", "dropout2d", "dropout3d")}
_THEIR_NAMES = {function: ours.__name__ for function, ours in _OURS.items()}
_MAX_ARGUMENTS = (
    "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices",
)  # fmt: skip
_AVG_ARGUMENTS = (
    "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
)  # fmt: skip
_POOL_FUNCTIONS = {
    getattr(home, name): name
    for home in (theirs, F)
    for n in _DIMS
    for name in (
        f"max_pool{n}d", f"avg_pool{n}d", f"adaptive_avg_pool{n}d", f"adaptive_max_pool{n}d",
    )
} | {
    torch.max_pool1d: "max_pool1d", torch.max_pool2d: "max_pool2d", torch.max_pool3d: "max_pool3d",
    torch.adaptive_avg_pool1d: "adaptive_avg_pool1d",
}  # fmt: skip
_POOL_LAYERS = {
    kind: name
    for n in _DIMS
    for stem, name in (
        (f"MaxPool{n}d", f"max_pool{n}d"),
        (f"AvgPool{n}d", f"avg_pool{n}d"),
        (f"AdaptiveMaxPool{n}d", f"adaptive_max_pool{n}d"),
        (f"AdaptiveAvgPool{n}d", f"adaptive_avg_pool{n}d"),
    )
    for kind in _both(stem)
}
_POOL_ARGUMENTS = (
    "kernel_size", "stride", "padding", "dilation", "ceil_mode", "count_include_pad",
    "divisor_override", "output_size",
)  # fmt: skip
_POOLING = {
    kind: getattr(norm_pool, f"BatchNormPool{n}d")
    for n in _DIMS
    for kind in _both(f"BatchNorm{n}d")
}
_MAKERS = (
    *_CONVOLUTIONS, *_TRANSPOSED, nn.Linear, *_NORMS, *_MAX_POOLS, *_AVG_POOLS, *_BATCH_NORMS,
)  # fmt: skip
_MAKING: set[Callable[..., Any]] = {
    operator.add, operator.mul, operator.sub, torch.add, torch.cat, torch.matmul, theirs.conv1d,
    theirs.conv2d, theirs.conv3d, theirs.linear,
}  # fmt: skip


_KEEPING = {*_MAKERS, *_ADAPTIVE_MAX, *_ADAPTIVE_AVG, *_DROPS}  # as many axes as they are given
_NAMED = {*_FUNCTIONS, *_POOL_FUNCTIONS, *_NORM_FUNCTIONS, *_DROP_FUNCTIONS}


def fuse(path: str, traced: Optimized) -> Report:
    """Rewrite a region's graph, and say what was done and what was not."""
    report = Report()
    Fuser(path, traced, report).run()
    return report

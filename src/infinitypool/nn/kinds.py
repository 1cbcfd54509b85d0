"""Kinds of our own over windows. Arguments and rules come from :data:`infinitypool.spec.KINDS`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..spec import KINDS, TORCH
from . import windows
from .documents import document_kind
from .registry import HALVES
from .seeds import draw_seed
from .windows import counter, has_data, is_tracing, of_kind


def overridden(x: Tensor) -> bool:
    """Whether a tensor's type wants to see functions or operators."""
    return has_torch_function_unary(x) or (
        type(x).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl
    )


def wants_gradient(x: Tensor) -> bool:
    """Whether operations on it are recorded."""
    return x.requires_grad and torch.is_grad_enabled()


def public(function: Callable[..., Any]) -> Callable[..., Any]:
    """Ask a tensor's own ``__torch_function__`` first."""

    @functools.wraps(function)
    def public(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if has_torch_function_unary(input):
            return handle_torch_function(public, (input,), input, *args, **kwargs)
        return function(input, *args, **kwargs)

    return public


def _by_name(kind: str, reducer: str, n: int) -> Callable[..., Tensor]:
    """A function that takes the window, and the kind's own arguments by name."""
    own = KINDS[kind].arguments
    defaults = {argument.name: argument.default for argument in own}
    run = of_kind(kind, f"{kind}_pool{n}d", reducer, n)

    def function(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, **own: Any,
    ) -> Tensor:  # fmt: skip
        values = {**defaults, **own}
        if len(values) > len(defaults):
            (unknown, *_) = own.keys() - defaults.keys()
            raise TypeError(f"{kind}_pool{n}d() got an unexpected keyword argument {unknown!r}")
        return run(input, kernel_size, stride, padding, dilation, ceil_mode, *values.values())

    signature = inspect.signature(function)
    keywords = [
        inspect.Parameter(
            a.name, inspect.Parameter.KEYWORD_ONLY, default=a.default, annotation=a.annotation
        )
        for a in own
    ]
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*list(signature.parameters.values())[:-1], *keywords]
    )
    return public(function)


def _gem_pool(n: int) -> Callable[..., Tensor]:
    run = of_kind("gem", f"gem_pool{n}d", "power_mean", n)
    mean = getattr(windows, f"avg_pool{n}d")

    @public
    def function(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, *, p: float | Tensor = 3.0, eps: float = 1e-6,
    ) -> Tensor:  # fmt: skip
        if isinstance(p, Tensor):
            if is_tracing() or wants_gradient(p) or p.numel() != 1:
                KINDS["gem"].reduce(function.__name__, {"eps": eps}, TORCH)
                powers = powers_of(input, p, eps)
                means = mean(
                    powers, kernel_size, stride, padding, ceil_mode, False, dilation=dilation
                )
                return means.pow(1 / p).to(input.dtype)
            p = p.item()
        return run(input, kernel_size, stride, padding, dilation, ceil_mode, p, eps)

    return function


def powers_of(x: Tensor, p: Tensor, eps: float) -> Tensor:
    """What a generalised mean is the mean of, where its power is learned."""
    if x.dtype in HALVES:
        x = x.float()  # third powers of halves overflow soon
    return x.clamp(min=eps).pow(p)


def _quantile_pool(n: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The quantile, and the median: its row in the table is a quantile's with q of one half."""

    def between(run: Callable[..., Any], x: Tensor, window: tuple[Any, ...], q: float) -> Tensor:
        """From two elements of every window, so that each gets its share of the gradient."""
        lower = run(x, *window, q, "lower")
        ranks = q * (counts(x, window) - 1)
        fraction = ranks - ranks.floor()
        if has_data(x) and not bool(fraction.any()):
            return lower
        higher = run(x, *window, q, "higher")
        if lower.dtype in HALVES:
            lower, higher = lower.float(), higher.float()
        mixture = lower + (higher - lower) * fraction.to(lower)
        return torch.where(lower == higher, lower, mixture).to(x.dtype)

    def pool(run: Callable[..., Any], x: Any, window: tuple[Any, ...], q: Any, method: Any) -> Any:
        plain = isinstance(x, Tensor) and wants_gradient(x) and method == "linear"
        if plain and isinstance(q, (int, float)) and 0 <= q <= 1:
            return between(run, x, window, q)
        return run(x, *window, q, method)

    counts = counter(f"quantile_pool{n}d", n)
    run = of_kind("quantile", f"quantile_pool{n}d", "quantile", n)
    run_median = of_kind("quantile", f"median_pool{n}d", "quantile", n)

    @public
    def quantile(
        input: Tensor, kernel_size: Any, q: float, stride: Any = None, padding: Any = 0,
        dilation: Any = 1, ceil_mode: bool = False, *, method: str = "linear",
    ) -> Tensor:  # fmt: skip
        return pool(run, input, (kernel_size, stride, padding, dilation, ceil_mode), q, method)

    @public
    def median(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Tensor:  # fmt: skip
        window = kernel_size, stride, padding, dilation, ceil_mode
        return pool(run_median, input, window, 0.5, "linear")

    return quantile, median


def _stochastic_pool(n: int) -> Callable[..., Tensor]:
    run = of_kind("stochastic", f"stochastic_pool{n}d", "stochastic", n)

    @public
    def function(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, *, training: bool = False, generator: Generator | None = None,
    ) -> Tensor:  # fmt: skip
        seed = (draw_seed(generator),) if training else ()
        window = kernel_size, stride, padding, dilation, ceil_mode
        return run(input, *window, not training, seed=seed)

    return function


def _mixed_pool(n: int) -> Callable[..., Tensor]:
    largest, mean = (getattr(windows, f"{word}_pool{n}d") for word in ("max", "avg"))

    @public
    def function(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, *, alpha: float | Tensor = 0.5,
    ) -> Tensor:  # fmt: skip
        if not isinstance(alpha, Tensor):
            alpha = KINDS["mixed"].read(function.__name__, {"alpha": alpha}, TORCH)["alpha"]
        high = largest(input, kernel_size, stride, padding, dilation, ceil_mode)
        low = mean(input, kernel_size, stride, padding, ceil_mode, False, dilation=dilation)
        return alpha * high + (1 - alpha) * low

    return function


rms_pool1d, rms_pool2d, rms_pool3d = (
    document_kind(
        _by_name("rms", "power_mean", n),
        "rms",
        n,
        lambda w: sqrt(sum(v * v for v in w) / len(w)),
    )
    for n in (1, 2, 3)
)
log_sum_exp_pool1d, log_sum_exp_pool2d, log_sum_exp_pool3d = (
    document_kind(
        _by_name("log_sum_exp", "log_sum_exp", n),
        "log_sum_exp",
        n,
        lambda w: log(sum(exp(2 * v) for v in w)) / 2,
        ", beta=2.0",
    )
    for n in (1, 2, 3)
)
soft_pool1d, soft_pool2d, soft_pool3d = (
    document_kind(
        _by_name("soft", "soft", n),
        "soft",
        n,
        lambda w: sum(v * exp(v) for v in w) / sum(exp(v) for v in w),
    )
    for n in (1, 2, 3)
)
gem_pool1d, gem_pool2d, gem_pool3d = (
    document_kind(
        _gem_pool(n),
        "gem",
        n,
        lambda w: (sum(v**4 for v in w) / len(w)) ** (1 / 4),
        ", p=4",
        "``p`` may be a tensor, and is learned where that requires a gradient.",
    )
    for n in (1, 2, 3)
)
(
    (quantile_pool1d, median_pool1d),
    (quantile_pool2d, median_pool2d),
    (quantile_pool3d, median_pool3d),
) = (
    (
        document_kind(quantile, "quantile", n, lambda w: 0.75 * w[-1], ", 0.75"),
        document_kind(median, "median", n, lambda w: w[-1] / 2),
    )
    for n in (1, 2, 3)
    for quantile, median in [_quantile_pool(n)]
)
stochastic_pool1d, stochastic_pool2d, stochastic_pool3d = (
    document_kind(
        _stochastic_pool(n),
        "stochastic",
        n,
        lambda w: sum(v * v for v in w) / sum(w),
        more="training: draw; otherwise give the expectation over all draws\n"
        "    generator: draws the seed; by default PyTorch's own, which ``torch.manual_seed`` sets",
    )
    for n in (1, 2, 3)
)
mixed_pool1d, mixed_pool2d, mixed_pool3d = (
    document_kind(_mixed_pool(n), "mixed", n, lambda w: 0.5 * w[-1] + 0.25 * w[-1])
    for n in (1, 2, 3)
)

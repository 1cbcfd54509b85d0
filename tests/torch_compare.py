"""Comparing the PyTorch front with PyTorch itself."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F

import infinitypool.nn.functional as IF

NAMES = (
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_pool1d_with_indices",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
)
OURS = {name: getattr(IF, name) for name in NAMES}
THEIRS = {name: getattr(F, name) for name in NAMES}
# What else PyTorch has names for.
FAMILY = (
    *(f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)),
    *(f"adaptive_max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"lp_pool{n}d" for n in (1, 2, 3)),
    *(f"max_unpool{n}d" for n in (1, 2, 3)),
    *(f"fractional_max_pool{n}d{more}" for n in (2, 3) for more in ("", "_with_indices")),
)


def dims_of(name):
    """The pooled axes of a function."""
    return int(re.search(r"(\d)d", name)[1])


def parts(result):
    return result if isinstance(result, tuple) else (result,)


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
HALVES = (torch.float16, torch.bfloat16)


def same_bits(ours, theirs, note=""):
    """Shape, dtype, strides and every bit; any NaN equals any NaN."""
    assert type(ours) is type(theirs), note
    assert ours.shape == theirs.shape, f"shape {ours.shape}, expected {theirs.shape} {note}"
    assert ours.dtype == theirs.dtype, f"dtype {ours.dtype}, expected {theirs.dtype} {note}"
    same_strides(ours, theirs, note)
    ours, theirs = ours.detach().contiguous(), theirs.detach().contiguous()
    equal = ours == theirs
    if ours.dtype.is_floating_point:
        equal = (equal & (torch.signbit(ours) == torch.signbit(theirs))) | (
            ours.isnan() & theirs.isnan()
        )
    if not bool(equal.all()):
        first = (~equal).nonzero()[0].tolist()
        place = tuple(first)
        raise AssertionError(
            f"{int((~equal).sum())} of {equal.numel()} differ, first at {first}: "
            f"{ours[place].item()!r}, expected {theirs[place].item()!r} {note}"
        )


def same_strides(ours, theirs, note=""):
    """Strides of axes longer than one: the others say nothing."""
    for size, a, b in zip(theirs.shape, ours.stride(), theirs.stride(), strict=True):
        if size > 1 and theirs.numel():
            assert a == b, f"strides {ours.stride()}, expected {theirs.stride()} {note}"


def _eps(dtype):
    return torch.finfo(dtype).eps


def close_averages(ours, theirs, pool, input, terms, note=""):
    """Both are within the bound of any-order summation of the exact mean, so within twice that
    of each other: ``terms`` additions in float32 or better, then one rounding to the dtype.
    ``pool`` is PyTorch's operation with everything but its input bound."""
    assert ours.shape == theirs.shape, f"shape {ours.shape}, expected {theirs.shape} {note}"
    assert ours.dtype == theirs.dtype, f"dtype {ours.dtype}, expected {theirs.dtype} {note}"
    same_strides(ours, theirs, note)
    if not ours.dtype.is_floating_point:
        assert torch.equal(ours, theirs), note
        return
    plain = input.detach().double()
    magnitude = pool(torch.where(plain.isfinite(), plain.abs(), 0.0))
    added_in = torch.float64 if ours.dtype == torch.float64 else torch.float32
    bound = 2 * (
        (terms + 2) * _eps(added_in) * magnitude.abs()
        + 0.5 * _eps(ours.dtype) * torch.nan_to_num(theirs.detach().double()).abs()
        + torch.finfo(ours.dtype).smallest_normal * torch.finfo(ours.dtype).eps
    )
    a, b = ours.detach().double(), theirs.detach().double()
    fine = ((a - b).abs() <= bound) | (a.isnan() & b.isnan()) | (a == b)
    if not bool(fine.all()):
        place = tuple((~fine).nonzero()[0].tolist())
        raise AssertionError(
            f"at {place}: {ours[place].item()!r}, expected {theirs[place].item()!r} "
            f"within {bound[place].item():.3g} {note}"
        )


def terms_of(kernel_size, dims):
    """The elements of a window."""
    if isinstance(kernel_size, int):
        return kernel_size**dims
    sizes = list(kernel_size)
    return math.prod(sizes * dims if len(sizes) == 1 else sizes)


def outcome(function, *arguments, **named):
    """(result, None) or (None, exception)."""
    try:
        return function(*arguments, **named), None
    except Exception as error:  # noqa: BLE001 - whatever it raises is what is compared
        return None, error


def call_text(name, input, arguments, named):
    def short(value):
        if isinstance(value, torch.Tensor):
            return f"<{value.dtype} {tuple(value.shape)} strides {value.stride()}>"
        return value

    arguments = tuple(map(short, arguments)) if isinstance(arguments, (tuple, list)) else arguments
    named = {key: short(value) for key, value in named.items()}
    return f"{name}({short(input)}, {arguments}, {named})"


def collide(sample):
    """Whether a sample of unpooling puts two values at one place."""
    indices = sample.args[0] if sample.args else sample.kwargs["indices"]
    planes = indices.flatten(2 if indices.ndim > 2 else 1).flatten(0, -2).tolist()
    return any(len(set(plane)) < len(plane) for plane in planes)

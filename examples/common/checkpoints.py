"""Checkpoints that are written whole or not at all, and read with care.

One holds everything that training needs to continue as if it had never stopped: the weights, the
optimiser's state, the epoch and step, what the running epoch has seen, the history, and the options.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import Refused, replacing
from .pictures import times

PARTS = frozenset(
    "program recipe shape classes pictures network optimiser epoch step sums history".split()
)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of :data:`PARTS`; the one before it stays until the new one is safe on the disk."""
    buffer = io.BytesIO()
    torch.save(state, buffer)  # a full disk while it writes a file itself would be a RuntimeError
    try:
        with replacing(path) as file:
            file.write(buffer.getbuffer())
    except OSError as error:
        raise Refused(
            f"{path} cannot be written ({error.strerror or error}); what was there is intact: "
            "make room and continue with --resume"
        ) from error


def load(path: Path, program: str) -> dict[str, Any]:
    """A checkpoint that ``program`` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # PyTorch reads changed bytes as other weights
                raise ValueError(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        writer = {name: state[name] for name in PARTS}["program"]
    except FileNotFoundError:
        raise Refused(f"{path} does not exist: train first, or name another file") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror})") from error
    except (
        zipfile.BadZipFile,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
    ):
        raise Refused(f"{path} is broken, or no checkpoint: name another file") from None
    if writer != program:
        raise Refused(f"{path} was written by {writer}.py, whose architecture is another one")
    return state


def fit(network: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load the weights, or say in one line why they are not this network's."""
    here, there = (
        {name: times(tensor.shape) or "a number" for name, tensor in tensors.items()}
        for tensors in (network.state_dict(), state["network"])
    )
    names = here | there
    differ = [name for name in names if here.get(name) != there.get(name)]
    if differ:
        name = differ[0]
        raise Refused(
            f"{path} holds another architecture ({len(differ)} of {len(names)} tensors differ; "
            f"{name} is {there.get(name, 'missing')} there, {here.get(name, 'missing')} here): "
            "name another file, or build the network that it was trained with"
        )
    network.load_state_dict(state["network"])

"""A checkpoint is whole or what it was before, and what is no fitting one is refused in a line."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from pathlib import Path

import pytest
import torch

import digits
import regularised
from common import checkpoints
from conftest import write_idx

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(rows, tmp_path_factory) -> Path:
    """One epoch of the digits' network in module form."""
    from common import main

    out = tmp_path_factory.mktemp("trained")
    given = ["--data", rows, "--batch-size", 32, "--epochs", 1, "--form", "module", "--out", out]
    assert main(digits.PROGRAM, ["train", "--no-tensorboard", *map(str, given)]) == 0
    return out


@pytest.fixture
def out(trained, tmp_path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(trained, tmp_path / "out")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def no_room():
    """Files that grow beyond 16 kB cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_grow_leaves_what_was_there(out, no_room, refused, run, no_figures):
    before = contents(out)
    with pytest.MonkeyPatch.context() as patched:
        learn = checkpoints.save
        patched.setattr(checkpoints, "save", lambda *given: (no_room(), learn(*given)))
        words = (out / "last.pt", "File too large", "--resume")
        refused(digits.PROGRAM, "train", "--resume", "--epochs", 2, "--out", out, words=words)
    after = contents(out)
    assert after.pop("options.json") and before.pop("options.json")
    assert after == before

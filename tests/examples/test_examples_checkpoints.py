"""A checkpoint is whole or what it was before, and what is no fitting one is refused in a line."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

import digits
import regularised
from common import checkpoints

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def out(trained, tmp_path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(trained, tmp_path / "out")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def room():
    """Lets no file grow beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_earlier_checkpoint(out, room, refused, run, no_figures):
    before = contents(out)
    room(2**14)  # enough for the options, not for weights
    given = ("train", "--resume", "--epochs", 2, "--out", out)
    refused(digits.PROGRAM, *given, words=(out, ".pt", os.strerror(errno.EFBIG), "--resume"))
    after = contents(out)
    for small in ("options.json", "history.csv"):
        assert after.pop(small) != before.pop(small)
    assert after == before
    room(2**30)
    run(digits.PROGRAM, *given)
    assert checkpoints.load(out / "last.pt", "digits")["epoch"] == 2


@pytest.mark.parametrize("name", ["options.json", "best.pt", "history.csv", "curves.png"])
def test_a_full_disk_is_one_line_whatever_is_written(name, out, refused, monkeypatch):
    state = torch.load(out / "last.pt", weights_only=True)
    state["history"][0]["test_score"] = -1.0  # whatever is learnt next is the best
    torch.save(state, out / "last.pt")
    replace, before = Path.replace, contents(out)

    def full(self, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self), None, str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    given = ("train", "--resume", "--epochs", 2, "--out", out)
    refused(digits.PROGRAM, *given, words=(out / name, os.strerror(errno.ENOSPC)))
    after = contents(out)
    assert after.keys() == before.keys() and after[name] == before[name]


def test_files_can_be_read_by_whom_the_umask_lets(run, rows, tmp_path, no_figures):
    before = os.umask(0o027)
    try:
        run(digits.PROGRAM, "train", "--data", rows, "--epochs", 1, "--out", tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert {"last.pt", "best.pt", "history.csv", "options.json"} <= modes.keys()
    assert set(modes.values()) == {0o640}


# --- files that do not fit -----------------------------------------------------------------------


def spoilt(kind: str, path: Path) -> None:
    """What may lie where a checkpoint is expected."""
    whole = path.read_bytes()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "other weights":
        torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    elif kind == "parts of one":
        torch.save({"program": "digits", "recipe": {}}, path)
    elif kind == "a list":
        torch.save([1, 2, 3], path)
    elif kind == "a module":
        torch.save(torch.nn.Linear(2, 3), path)
    elif kind != "missing":
        some = {
            "empty": b"",
            "garbage": bytes(range(256)) * 40,
            "text": b"epoch,loss\n1,2.3\n",
            "first half": whole[: len(whole) // 2],
            "without its end": whole[:-1],
            "changed within": whole[: len(whole) // 2] + b"\1\2\3" + whole[len(whole) // 2 + 3 :],
        }
        path.write_bytes(some[kind])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ("does not exist", "train first")),
        ("directory", ("Is a directory",)),
        ("empty", ("broken", "another file")),
        ("garbage", ("broken", "another file")),
        ("text", ("broken", "another file")),
        ("first half", ("broken", "another file")),
        ("without its end", ("broken", "another file")),
        ("changed within", ("broken", "another file")),
        ("other weights", ("no checkpoint", "another file")),
        ("parts of one", ("no checkpoint", "another file")),
        ("a list", ("no checkpoint", "another file")),
        ("a module", ("no checkpoint", "another file")),
    ],
)
def test_what_is_no_checkpoint_is_refused(kind, words, out, refused):
    spoilt(kind, out / "last.pt")
    before = sorted(out.iterdir())
    refused(digits.PROGRAM, "train", "--resume", "--out", out, words=(out / "last.pt", *words))
    given = ("evaluate", "--checkpoint", out / "last.pt", "--out", out)
    refused(digits.PROGRAM, *given, words=(out / "last.pt", *words))
    assert sorted(out.iterdir()) == before


def test_the_checkpoint_of_another_program_is_refused(out, refused):
    words = (out / "best.pt", "digits", "architecture")
    refused(regularised.PROGRAM, "evaluate", "--out", out, words=words)
    words = (out / "last.pt", "digits", "architecture")
    refused(regularised.PROGRAM, "train", "--resume", "--out", out, words=words)


def test_another_architecture_is_refused(out, refused):
    state = torch.load(out / "best.pt", weights_only=True)
    state["recipe"]["form"] = "blocks"
    torch.save(state, out / "best.pt")
    words = (out / "best.pt", "another architecture", "tensors differ", "conv1.weight", "32×1×5×5")
    refused(digits.PROGRAM, "evaluate", "--out", out, words=(*words, "another file"))
    refused(digits.PROGRAM, "predict", "p.png", "--out", out, words=(*words, "another file"))


def test_other_pictures_than_were_learnt_are_refused(
    write_rows, run, refused, tmp_path, no_figures
):
    data, out = write_rows(tmp_path / "data", 16), tmp_path / "out"
    given = ("--data", data, "--epochs", 1, "--batch-size", 35, "--form", "module", "--out", out)
    run(digits.PROGRAM, "train", *given)
    before = contents(out)
    write_rows(data, 20)
    words = (data, out / "last.pt", "differ", "--data")
    refused(digits.PROGRAM, "train", "--resume", "--epochs", 2, "--out", out, words=words)
    words = (data, "1×20×20", "1×16×16", "--data")
    refused(digits.PROGRAM, "evaluate", "--out", out, words=words)
    assert contents(out) == before
    moved = write_rows(tmp_path / "moved", 16)  # where they lie does not matter
    run(digits.PROGRAM, "train", "--resume", "--epochs", 2, "--data", moved, "--out", out)
    assert checkpoints.load(out / "last.pt", "digits")["recipe"]["data"] == str(moved)


# --- options that do not fit ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "learnt"),
    [("form", "blocks", "module"), ("batch-size", 16, 32), ("seed", 1, 0)],
)
def test_resume_refuses_what_contradicts_it(option, value, learnt, out, refused):
    before = contents(out)
    words = (f"--{option} {value}", out / "last.pt", f"trained with {learnt}", "leave")
    given = ("--resume", "--epochs", 2, f"--{option}", value, "--out", out)
    refused(digits.PROGRAM, "train", *given, words=words)
    assert contents(out) == before


def test_evaluate_refuses_another_form_but_takes_other_batches(out, refused, run, no_figures):
    words = ("--form functional", out / "best.pt", "trained with module")
    refused(digits.PROGRAM, "evaluate", "--form", "functional", "--out", out, words=words)
    first, *others = (
        run(digits.PROGRAM, "evaluate", *given, "--out", out)
        for given in ((), ("--batch-size", 7), ("--layers", "torch"), ("--form", "module"))
    )
    assert "accuracy" in first and others == [first] * 3


def test_an_earlier_training_is_overwritten_only_when_asked_to(out, rows, refused, run, no_figures):
    before = contents(out)
    given = ("train", "--data", rows, "--batch-size", 70, "--epochs", 1, "--out", out)
    refused(digits.PROGRAM, *given, words=(out / "last.pt", "--resume", "--fresh", "--out"))
    assert contents(out) == before
    run(digits.PROGRAM, *given, "--fresh")
    assert checkpoints.load(out / "last.pt", "digits")["recipe"]["batch_size"] == 70

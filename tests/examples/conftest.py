"""The examples are programs, not a package: their folder goes on the path, as when they run."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")
if EXAMPLES not in sys.path:
    sys.path.insert(0, EXAMPLES)

# What differs between two runs of the same training.
MEASURED = ("seconds", "samples_per_second", "memory_mb")


@pytest.fixture
def one_thread():
    """Pictures of 16×16 pixels are quicker so, and processes that are compared work alike."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_idx(folder: Path, part: str, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Two files as MNIST has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in ((f"{part}-images-idx3", pictures), (f"{part}-labels-idx1", labels)):
        header = np.array([0x800 + numbers.ndim, *numbers.shape], ">u4").tobytes()
        (folder / f"{name}-ubyte").write_bytes(header + numbers.astype(np.uint8).tobytes())


def ten_classes(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright row, and which row it is."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    pictures = random.integers(0, 100, (count, size, size))
    pictures[np.arange(count), labels + 3] += 120
    return pictures, labels


@pytest.fixture(scope="session")
def write_rows():
    """Writes IDX files of so large pictures: 70 to learn from, 20 held out, ten classes."""

    def write_rows(folder: Path, size: int) -> Path:
        for seed, (part, count) in enumerate((("train", 70), ("t10k", 20))):
            write_idx(folder, part, *ten_classes(count, size, seed))
        return folder

    return write_rows


@pytest.fixture(scope="session")
def rows(write_rows, tmp_path_factory) -> Path:
    """Such files of 16×16 pixels."""
    return write_rows(tmp_path_factory.mktemp("rows"), 16)


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> Path:
    """Six grey pictures of 16×12 pixels with a bright square, and its masks."""
    import torch
    from PIL import Image

    from common.samples import write_mask

    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    for name in ("pictures", "masks"):
        (folder / name).mkdir()
    for i in range(6):
        mask = np.zeros((12, 16), np.uint8)
        mask[i : i + 5, 2 * i : 2 * i + 5] = 1
        picture = random.integers(0, 100, mask.shape) + 120 * mask
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"pictures/{i}.png")
        write_mask(folder / f"masks/{i}.png", torch.from_numpy(mask))
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """Training draws nothing: what it draws is looked at by other tests."""
    from common import commands

    monkeypatch.setattr(commands.figures, "curves", lambda *_: None)
    monkeypatch.setattr(commands, "draw_held_out", lambda *_: None)


def in_quiet(program, command: str, *options: object) -> list[str]:
    """A command line without logs for TensorBoard, whose import takes seconds."""
    quiet = ["--no-tensorboard"] if command in ("train", *program.commands) else []
    return [command, *map(str, options), *quiet]


@pytest.fixture(scope="session")
def trained(rows, tmp_path_factory) -> Path:
    """One epoch of the digits' network in module form."""
    import digits
    from common import main

    out = tmp_path_factory.mktemp("trained")
    given = ["--data", rows, "--batch-size", 32, "--epochs", 1, "--form", "module", "--out", out]
    assert main(digits.PROGRAM, in_quiet(digits.PROGRAM, "train", *given)) == 0
    return out


@pytest.fixture
def run(one_thread, capsys):
    """Run a program in this process, check its exit status, and return what it printed."""
    from common import main

    def run(program, command: str, *options: object, status: int = 0) -> str:
        capsys.readouterr()
        found = main(program, in_quiet(program, command, *options))
        printed = capsys.readouterr()
        assert found == status, printed.err
        assert status or not printed.err
        return printed.out

    return run


@pytest.fixture
def refused(one_thread, capsys):
    """Run what cannot be done: exit status 2 and one line on stderr that says all the words."""
    from common import main

    def refused(program, command: str, *options: object, words: tuple[object, ...]) -> str:
        capsys.readouterr()
        assert main(program, in_quiet(program, command, *options)) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"{program.name}: ") and line.endswith("\n")
        assert line.count("\n") == 1, line
        assert [word for word in words if str(word) not in line] == [], line
        return line

    return refused


def differences(one: object, other: object, name: str = "") -> list[str]:
    """Where two nests of containers, tensors and numbers are not equal bit for bit."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return [] if same and one.numpy().tobytes() == other.numpy().tobytes() else [name]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{name}: {one.keys() ^ other.keys()}"]
        return [d for key in one for d in differences(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f"{name}: {len(one)} and {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{name}.{i}")]
    return [] if one == other else [f"{name}: {one} and {other}"]


@pytest.fixture
def unlike():
    """What two trainings' checkpoints and tables differ in, apart from times."""
    import torch

    def learnt(out: Path) -> dict[str, object]:
        state = torch.load(out / "last.pt", weights_only=True)
        with open(out / "history.csv", newline="") as file:
            table = list(csv.DictReader(file))
        for row in (*state["history"], *table):
            for name in MEASURED:
                assert float(row.pop(name)) > 0
        confusion, loss, samples, _seconds = state["sums"]
        return state | {"sums": [confusion, loss, samples], "table": table}

    return lambda one, other: differences(learnt(one), learnt(other))

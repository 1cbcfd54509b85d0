"""The command line: what cannot be used is refused in one line, and logs can be read again."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import TensorDataset

import any_size
import digits
import regularised
import transformer
import unet
from common import Refused, checkpoints, commands, main
from common.commands import read
from common.samples import Samples

pytestmark = pytest.mark.usefixtures("one_thread", "no_figures")


def picture(path: Path, height: int = 16, width: int = 16, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folders(path: Path, *names: str, count: int = 5, size: int = 16) -> Path:
    """A folder for each class."""
    for name in names:
        for i in range(count):
            picture(path / name / f"{i}.png", size, size)
    return path


# --- data that cannot be used --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda data: None, ("no such file", "directory with data")),
        (lambda data: data.mkdir(), ("at least two directories",)),
        (lambda data: data.write_text("x"), ("not a directory",)),
        (lambda data: folders(data, "cat"), ("only the class 'cat'",)),
        (lambda data: (folders(data, "cat"), (data / "dog").mkdir()), ("dog", "no pictures")),
    ],
    ids=["missing", "empty", "a file", "one class", "a class without pictures"],
)
def test_data_that_cannot_be_used_is_named(made, words, refused, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    made(data)
    refused(digits.PROGRAM, "train", "--data", data, "--out", out, words=(data, *words))
    refused(regularised.PROGRAM, "compare", "--data", data, "--out", out, words=(data, *words))
    assert not out.exists()


def test_pictures_of_mixed_sizes_need_a_size(refused, run, tmp_path):
    data, out = folders(tmp_path / "data", "cat", "dog"), tmp_path / "out"
    odd = picture(data / "dog/3.png", 12, 20)
    given = ("--data", data, "--epochs", 1, "--batch-size", 4, "--out", out)
    refused(digits.PROGRAM, "train", *given, words=(odd, "12×20", "16×16", "--size N"))
    assert not out.exists()
    printed = run(digits.PROGRAM, "train", *given, "--size", 18)
    assert "8 pictures of 1×18×18 to learn from, 2 held out, 2 classes" in printed


def test_a_batch_needs_its_pictures(refused, run, tmp_path, rows):
    data, out = folders(tmp_path / "data", "cat", "dog"), tmp_path / "out"
    words = (data, "8 pictures", "--batch-size 8")
    refused(digits.PROGRAM, "train", "--data", data, "--out", out, words=words)
    words = ("MNIST files", "20 pictures", "--batch-size 20")
    given = ("--data", rows, "--few", 20, "--batch-size", 21, "--out", out)
    refused(regularised.PROGRAM, "train", *given, words=words)
    assert not out.exists()
    given = ("--data", data, "--batch-size", 8, "--epochs", 1, "--out", out)
    assert "epoch 1" in run(digits.PROGRAM, "train", *given)


def test_a_broken_picture_stops_or_is_skipped(refused, run, tmp_path):
    data, out = folders(tmp_path / "data", "cat", "dog"), tmp_path / "out"
    broken = data / "dog/0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    given = ("--data", data, "--epochs", 1, "--batch-size", 4, "--out", out)
    refused(digits.PROGRAM, "train", *given, words=(broken, "--on-broken skip"))
    printed = run(digits.PROGRAM, "train", *given, "--on-broken", "skip")
    assert printed.count(f"left out {broken}") == 1 and "7 pictures" in printed
    # It is not remembered: whoever measures says it again
    refused(digits.PROGRAM, "evaluate", "--out", out, words=(broken, "--on-broken skip"))
    assert "accuracy" in run(digits.PROGRAM, "evaluate", "--on-broken", "skip", "--out", out)


def test_masks_with_other_classes_are_refused(squares, refused, run, tmp_path):
    data, out = shutil.copytree(squares, tmp_path / "data"), tmp_path / "out"
    mask = data / "masks/2.png"
    pixels = np.array(Image.open(mask))
    pixels[3, 4] = 2
    Image.fromarray(pixels).save(mask)
    given = ("--data", data, "--width", 1, "--batch-size", 2, "--epochs", 1, "--out", out)
    refused(unet.PROGRAM, "train", *given, words=(mask, "2"))
    printed = run(unet.PROGRAM, "train", *given, "--classes", 3)
    assert "3 classes" in printed


@pytest.mark.parametrize(
    ("program", "options", "words"),
    [
        (digits.PROGRAM, ("--size", 8), ("1×8×8", "--size")),
        (any_size.PROGRAM, ("--scales", 0.25), ("--scales 0.25", "4 pixels")),
        (any_size.PROGRAM, ("--size", 4), ("3 pixels", "--size")),
        (transformer.PROGRAM, ("--width", 30), ("--width 30", "--heads 4")),
        (digits.PROGRAM, ("--batch-size", 99), ("--batch-size 70",)),
        (digits.PROGRAM, ("--device", "abacus"), ("--device abacus",)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_options_that_do_not_fit_are_refused(program, options, words, rows, refused, tmp_path):
    given = ("--data", rows, "--epochs", 1, *options)
    refused(program, "train", *given, "--out", tmp_path / "out", words=words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (digits.PROGRAM, ("train", "--form", "largest")),
        (digits.PROGRAM, ("train", "--epochs", "0")),
        (digits.PROGRAM, ("train", "--batch-size", "-1")),
        (digits.PROGRAM, ("train", "--seed", "-1")),
        (digits.PROGRAM, ("train", "--workers", "-1")),
        (digits.PROGRAM, ("train", "--lr", "nan")),
        (transformer.PROGRAM, ("train", "--dropout", "1.5")),
        (regularised.PROGRAM, ("train", "--few", "0")),
        (digits.PROGRAM, ("describe", "--input", "1", "28")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.name,
)
def test_values_that_mean_nothing_are_refused(program, options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(program, options)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{program.name}.py {options[0]}: error: argument {options[1]}: ")


# --- where it goes -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_refused_before_training(
    place, rows, refused, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("common.training.Run.learn", lambda *_: pytest.fail("it has learnt"))
    refused(digits.PROGRAM, "train", "--data", rows, "--out", tmp_path / place, words=(place,))
    assert (tmp_path / "file").read_text() == "x"


def test_compare_overwrites_only_when_asked_to(rows, refused, run, tmp_path):
    given = ("--data", rows, "--few", 10, "--batch-size", 10, "--epochs", 1, "--out", tmp_path)
    run(regularised.PROGRAM, "compare", *given)
    before = (tmp_path / "none/last.pt").read_bytes()
    refused(regularised.PROGRAM, "compare", *given, words=(tmp_path, "none", "--fresh", "--resume"))
    assert (tmp_path / "none/last.pt").read_bytes() == before
    run(regularised.PROGRAM, "compare", *given, "--fresh")
    before = (tmp_path / "none/last.pt").read_bytes()
    shutil.rmtree(tmp_path / "group-norm")  # as if it had been stopped before
    run(regularised.PROGRAM, "compare", *given, "--resume")
    assert (tmp_path / "none/last.pt").read_bytes() == before
    assert (tmp_path / "group-norm/last.pt").exists()


def test_few_pictures_are_of_all_classes(rows, monkeypatch):
    data = TensorDataset(torch.zeros(100, 1), torch.arange(100) // 10)  # as folders give them
    found = Samples("", data, data, tuple("0123456789"), (1, 1, 1))
    monkeypatch.setattr(regularised, "classified", lambda *_, **__: found)
    choice, _ = read(regularised.PROGRAM, ["train", "--few", "30"])
    few, again = (regularised.samples(choice).train for _ in "12")
    classes = [int(target) for _, target in few]
    assert len(classes) == 30 and len(set(classes)) > 7
    assert classes == [int(target) for _, target in again]


def test_fresh_and_resume_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(digits.PROGRAM, ["train", "--fresh", "--resume"])
    assert stopped.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_of_several_processes_one_speaks_of_what_all_have_met(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(commands, "processes", nullcontext)
    for alone in (False, True):

        def refuse(choice, alone=alone):
            refused = Refused("broken")
            refused.alone = alone
            raise refused

        program = replace(digits.PROGRAM, samples=refuse)
        assert main(program, ["train", "--out", str(tmp_path / "new")]) == 2
        assert capsys.readouterr().err == ("digits, process 1: broken\n" if alone else "")


# --- pictures of one's own -----------------------------------------------------------------------


def test_predict_says_one_line_a_file(run, trained, tmp_path):
    long = "a picture whose name is [b]not[/b] short " * 3
    files = [
        picture(tmp_path / "grey.png"),
        picture(tmp_path / "colour.jpg", 40, 30, channels=3),
        picture(tmp_path / f"{long}.png", 1, 2),
    ]
    out = tmp_path / "out"
    given = ("--checkpoint", trained / "best.pt", "--out", out)
    lines = run(digits.PROGRAM, "predict", *files, *given).splitlines()
    assert [line.rpartition(": ")[0] for line in lines[:3]] == list(map(str, files))
    assert len(lines) == 4 and Image.open(out / "predicted.png").format == "PNG"
    assert checkpoints.load(trained / "best.pt", "digits")["classes"] == list("0123456789")
    assert all(line.rpartition(": ")[2][0] in "0123456789" for line in lines[:3])


def test_predict_stops_at_or_skips_what_is_no_picture(run, refused, trained, tmp_path):
    good, broken = picture(tmp_path / "good.png"), tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    given = (good, broken, tmp_path / "missing.png", "--out", tmp_path / "out")
    given += ("--checkpoint", trained / "best.pt")
    refused(digits.PROGRAM, "predict", *given, words=(broken,))
    printed = run(digits.PROGRAM, "predict", *given, "--on-broken", "skip")
    assert [line.startswith("left out") for line in printed.splitlines()[:3]] == [False, True, True]
    assert "missing.png" in printed.splitlines()[2]


def test_too_small_a_picture_is_refused_by_predict(run, refused, rows, tmp_path):
    out = tmp_path / "out"
    run(any_size.PROGRAM, "train", "--data", rows, "--epochs", 1, "--scales", 0.5, "--out", out)
    small = picture(tmp_path / "small.png", 5, 5)
    refused(any_size.PROGRAM, "predict", small, "--out", out, words=(small, "1×5×5"))


def test_predict_sees_pictures_as_training_did(run, refused, squares, tmp_path, monkeypatch):
    """Resized where those were; a mask has its file's size. Files whose masks collide: refused."""
    seen, outcome = [], commands.outcome
    monkeypatch.setattr(
        commands, "outcome", lambda *given: seen.append(tuple(given[2].shape)) or outcome(*given)
    )
    out, given = tmp_path / "out", ("--data", squares, "--width", 1, "--batch-size", 2)
    large = picture(tmp_path / "large.png", 40, 30)
    for size, shape in (((), (1, 1, 40, 30)), (("--size", 20), (1, 1, 20, 20))):
        run(unet.PROGRAM, "train", *given, *size, "--epochs", 1, "--fresh", "--out", out)
        run(unet.PROGRAM, "predict", large, "--out", out)
        assert seen[-1] == shape
        with Image.open(out / "large-mask.png") as mask:
            assert mask.size == (30, 40)
    (tmp_path / "other").mkdir()
    twin = picture(tmp_path / "other/large.png", 40, 30)
    before = len(seen)
    refused(unet.PROGRAM, "predict", large, twin, "--out", out, words=("large-mask.png",))
    assert len(seen) == before


def test_a_network_of_any_size_is_measured_at_another(run, rows, tmp_path):
    run(any_size.PROGRAM, "train", "--data", rows, "--epochs", 1, "--out", tmp_path)
    assert "accuracy" in run(any_size.PROGRAM, "evaluate", "--size", 24, "--out", tmp_path)


def test_dark_digits_on_light_are_inverted(run, trained, tmp_path):
    light = picture(tmp_path / "a.png", 16, 16)
    with Image.open(light) as image:
        ImageOps.invert(image.convert("L")).save(tmp_path / "b.png")
    given = ("--checkpoint", trained / "best.pt", "--out", tmp_path / "out")
    one = run(digits.PROGRAM, "predict", light, *given)
    two = run(digits.PROGRAM, "predict", tmp_path / "b.png", "--invert", *given)
    assert one.replace("a.png", "b.png") == two


def test_an_error_in_a_network_of_ones_own_is_found(refused, rows, tmp_path):
    class Wrong(nn.Module):
        def forward(self, x):
            return x.view(3, 5)

    line = Wrong.forward.__code__.co_firstlineno + 1
    program = replace(digits.PROGRAM, network=lambda *_: Wrong())
    given = ("--data", rows, "--out", tmp_path)
    refused(program, "train", *given, words=(f"{Path(__file__).name}:{line}", "[3, 5]"))


def test_names_of_classes_are_shown_as_they_are(run, tmp_path):
    data, out = folders(tmp_path / "data", "[red]", "[", "dog"), tmp_path / "out"
    run(
        digits.PROGRAM,
        *("train", "--data", data, "--batch-size", 4, "--epochs", 1, "--out", out),
    )
    printed = run(digits.PROGRAM, "evaluate", "--out", out)
    assert "[red]" in printed and "│ [ " in printed


# --- logs ----------------------------------------------------------------------------------------


def test_tensorboard_shows_the_history_once(rows, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = ["--data", rows, "--batch-size", 35, "--form", "module", "--out", tmp_path]
    assert main(digits.PROGRAM, ["train", *map(str, given), "--epochs", "2"]) == 0
    # A stop and a continuation: what comes twice counts once
    resumed = ["train", "--resume", "--epochs", "3", "--out", str(tmp_path)]
    assert main(digits.PROGRAM, resumed) == 0
    history = checkpoints.load(tmp_path / "last.pt", "digits")["history"]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = {
        "loss/train": "train_loss",
        "loss/test": "test_loss",
        "score/train": "train_score",
        "score/test": "test_score",
        "samples_per_second": "samples_per_second",
    }
    assert names.keys() <= set(events.Tags()["scalars"])
    for tag, key in names.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        expected = [(row["epoch"], np.float32(row[key])) for row in history]
        assert found == expected and [step for step, _ in found] == [1, 2, 3]

"""What the examples draw: the data, the words beside it, and a file that is whole or untouched."""

from __future__ import annotations

import math
import os
import resource

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from common import figures

HISTORY = [
    {"epoch": 1, "train_loss": 1.5, "test_loss": 1.2, "train_score": 0.5, "test_score": 0.6},
    {"epoch": 2, "train_loss": 0.9, "test_loss": 0.8, "train_score": 0.7, "test_score": 0.8},
    {"epoch": 3, "train_loss": 0.5, "test_loss": 0.6, "train_score": 0.9, "test_score": 0.85},
]
CLASSES = ("background", "cell", "wall")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figure.png"


def _lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _masks():
    """Background, a hit, a miss, a false alarm, a wrong class and a hit: one column apiece."""
    truth = torch.tensor([[0, 1, 1, 0, 1, 2]]).repeat(2, 6, 1)
    predicted = torch.tensor([[0, 1, 0, 2, 2, 2]]).repeat(2, 6, 1)
    return truth, predicted, [0, 1, 2, 3, 4, 1]


def test_curves_draw_every_value_and_name_their_axes(path):
    figure = figures.curves(path, HISTORY, "digits", "mean IoU")
    left, right = figure.axes
    assert _lines(left) == {"train": [1.5, 0.9, 0.5], "test": [1.2, 0.8, 0.6]}
    assert _lines(right) == {"train": [0.5, 0.7, 0.9], "test": [0.6, 0.8, 0.85]}
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in (*left.lines, *right.lines))
    assert [(a.get_xlabel(), a.get_ylabel()) for a in figure.axes] == [
        ("epoch", "loss"),
        ("epoch", "mean IoU"),
    ]
    assert figure.get_suptitle() == "digits"
    assert len({line.get_linestyle() for line in left.lines}) == 2  # without colour, too
    assert _pixels(path).shape == (420, 1000, 3)


def test_one_epoch_is_a_mark_on_a_whole_number(path):
    left = figures.curves(path, HISTORY[:1], "one").axes[0]
    assert all(line.get_marker() not in ("", "None") for line in left.lines)
    low, high = left.get_xlim()
    assert [tick for tick in left.get_xticks() if low <= tick <= high] == [1]


def test_what_is_not_finite_is_a_cross_and_what_is_missing_is_not(path):
    history = [dict(entry) for entry in HISTORY]
    history[1]["train_loss"], history[2]["train_loss"] = math.nan, math.inf
    history[1]["test_loss"] = None
    left = figures.curves(path, history, "diverged").axes[0]
    lines = {line.get_label(): line for line in left.lines}
    np.testing.assert_array_equal(lines["train"].get_ydata(), [1.5, math.nan, math.nan])
    assert list(lines["train: not finite"].get_xdata()) == [2, 3]
    assert list(lines["test"].get_xdata()) == [1, 3] and len(lines) == 3


@pytest.mark.parametrize(("first", "scale"), [(50.0, "linear"), (51.0, "log")])
def test_losses_of_very_different_sizes_share_a_log_scale(path, first, scale):
    history = [HISTORY[0] | {"train_loss": first, "train_score": 0.001}, HISTORY[1], HISTORY[2]]
    left, right = figures.curves(path, history, "spike").axes
    assert (left.get_yscale(), right.get_yscale()) == (scale, "linear")
    assert left.get_ylabel() == ("loss (log scale)" if scale == "log" else "loss")
    words = [label.get_text() for label in left.get_yticklabels()]
    assert not any("$" in word or "\\" in word for word in words)


def test_comparison_draws_each_variant_and_where_it_ended(path):
    histories = {"none": HISTORY, "dropout": HISTORY[:2], "not yet": []}
    loss, score, last = figures.comparison(path, histories, "accuracy").axes
    assert _lines(loss) == {"none": [1.2, 0.8, 0.6], "dropout": [1.2, 0.8]}
    assert _lines(score) == {"none": [0.6, 0.8, 0.85], "dropout": [0.6, 0.8]}
    assert len({line.get_marker() for line in loss.lines}) == 2
    assert [label.get_text() for label in last.get_yticklabels()] == list(histories)
    assert [text.get_text() for text in last.texts] == ["0.8500", "0.8000", "no epoch"]
    ends = [float(line.get_xdata()[0]) for line in last.lines]
    np.testing.assert_array_equal(ends, [0.9, 0.85, 0.7, 0.8, math.nan, math.nan])
    assert (loss.get_ylabel(), score.get_ylabel()) == ("test loss", "test accuracy")


def test_a_wrong_class_stands_out_without_colour(path):
    pictures = torch.rand(3, 1, 4, 4)
    figure = figures.classifications(
        path, pictures, [0, 1, 2], torch.tensor([0, 2, 2]), [0.987, 0.5, 1.0], CLASSES
    )
    right, wrong, other = figure.axes
    assert right.get_title() == "background  99%" and other.get_title() == "wall  100%"
    assert wrong.get_title() == "✗ wall  50%\ntruth: cell"
    widths = [axes.spines["top"].get_linewidth() for axes in figure.axes]
    assert widths[1] > 3 * widths[0] == 3 * widths[2]
    assert figure.get_suptitle() == "3 pictures: 2 right, 1 wrong (✗)"
    for axes, picture in zip(figure.axes, pictures, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), picture[0])


def test_nobody_is_wrong_where_the_truth_is_unknown(path, caplog):
    colour = torch.rand(1, 3, 4, 6) * 1.2
    names = ["folder/$x^$.png"]
    figure = figures.classifications(
        path, colour, None, (torch.tensor(1),), (torch.tensor(0.25),), CLASSES, names
    )
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_xlabel()) == ("cell  25%", "folder/$x^$.png")
    assert figure.get_suptitle() == "1 picture"
    drawn = colour[0].permute(1, 2, 0).clamp(max=1)
    np.testing.assert_array_equal(axes.images[0].get_array(), drawn)
    assert not caplog.records  # matplotlib has a word to say of colours above 1


@pytest.mark.parametrize(("middle", "columns"), [("123", 6), ("_a_very_long$name$_of_a_breed_", 4)])
def test_long_names_keep_both_ends_and_stay_apart(path, middle, columns):
    classes = [f"n020{i}{middle}dog{i}" for i in range(2)]
    names = [f"a_folder_with/pictures_of/{i}.jpeg" for i in range(columns)]
    figure = figures.classifications(
        path,
        torch.rand(columns, 1, 4, 4),
        [0] * columns,
        [1] * columns,
        [1] * columns,
        classes,
        names,
    )
    title = figure.axes[0].get_title()
    assert title.startswith("✗ n0201") and "dog1  100%\ntruth: n0200" in title
    for texts in ([a.title for a in figure.axes], [a.xaxis.label for a in figure.axes]):
        boxes = [text.get_window_extent() for text in texts]
        assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))
        assert boxes[0].x0 >= 0 and boxes[-1].x1 <= 1000


def test_pictures_beyond_a_page_are_left_out_aloud(path, monkeypatch):
    monkeypatch.setattr(figures, "MOST_PICTURES", 2)
    figure = figures.classifications(
        path, torch.rand(4, 1, 2, 2), [0, 0, 1, 1], [0] * 4, [1] * 4, CLASSES
    )
    assert figure.get_suptitle() == "the first 2 of 4 pictures: 2 right, 0 wrong (✗)"
    assert len(figure.axes) == 2


def test_segmentations_draw_masks_and_how_they_overlap(path):
    truth, predicted, overlap = _masks()
    figure = figures.segmentations(
        path, torch.rand(2, 1, 6, 6), truth, predicted, CLASSES, [0.25, math.nan], ["a", "b"]
    )
    assert [a.get_title() for a in figure.axes[:4]] == ["picture", "truth", "prediction", "overlap"]
    assert [a.get_ylabel() for a in figure.axes[::4]] == ["a\nmean IoU 0.250", "b\nmean IoU nan"]
    for row in (figure.axes[:4], figure.axes[4:]):
        drawn = [axes.images[0].get_array() for axes in row[1:]]
        np.testing.assert_array_equal(drawn, [truth[0], predicted[0], [overlap] * 6])
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [*CLASSES, "hit", "miss", "false alarm", "wrong class"]
    # The colours of the legend are those of the file
    pixels = np.unique(_pixels(path).reshape(-1, 3), axis=0).astype(int)
    for colour in figures.OVERLAP.values():
        wanted = np.array(matplotlib.colors.to_rgb(colour)) * 255
        assert np.abs(pixels - wanted).max(1).min() <= 4, colour


def test_two_classes_cannot_be_confused(path):
    mask = torch.eye(6, dtype=torch.int64)[None]
    figure = figures.segmentations(path, torch.rand(1, 1, 6, 6), mask, 1 - mask, CLASSES[:2])
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["background", "cell", "hit", "miss", "false alarm"]


@pytest.mark.parametrize("classes", [2, 12])
def test_without_truth_the_prediction_is_outlined(path, classes):
    mask = torch.zeros(2, 6, 8, dtype=torch.int64)
    mask[0, 2:4, 2:4] = classes - 1  # and nothing at all in the second
    names = [f"class {k}" for k in range(classes)]
    figure = figures.segmentations(path, torch.rand(2, 3, 6, 8), None, mask, names)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["picture", "prediction", "outlines"]
    assert [len(figure.axes[k].collections) for k in (2, 5)] == [1, 0]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["class 0", f"class {classes - 1}"]


@pytest.mark.parametrize(
    ("pictures", "mask", "said"),
    [
        (torch.rand(1, 1, 6, 6), torch.zeros(1, 4, 4), r"prediction of \(4, 4\)"),
        (torch.rand(1, 1, 2, 2), torch.full((1, 2, 2), 255), r"255\.\.255, 3 classes"),
        (torch.rand(0, 1, 2, 2), torch.zeros(0, 2, 2), "no picture"),
    ],
)
def test_masks_that_do_not_fit_are_refused(path, pictures, mask, said):
    with pytest.raises(ValueError, match=said):
        figures.segmentations(path, pictures, None, mask.long(), CLASSES)
    assert not path.exists()


def test_a_file_is_replaced_and_not_written_over(path):
    path.write_bytes(b"earlier")
    os.link(path, path.with_name("kept"))
    figures.curves(path, HISTORY, "replaced")
    assert path.with_name("kept").read_bytes() == b"earlier" and _pixels(path).size
    assert sorted(os.listdir(path.parent)) == [path.name, "kept"]


def test_an_error_while_drawing_leaves_the_earlier_file(path):
    path.write_bytes(b"earlier")
    with pytest.raises(IndexError):
        figures.classifications(path, torch.rand(1, 1, 2, 2), None, [7], [1.0], CLASSES)
    assert path.read_bytes() == b"earlier" and os.listdir(path.parent) == [path.name]


def test_a_full_disk_leaves_the_earlier_file_and_is_named(path):
    path.write_bytes(b"earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # the kernel stops half-way
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            figures.curves(path, HISTORY, "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"earlier" and os.listdir(path.parent) == [path.name]


def test_a_name_that_cannot_be_taken_is_named_and_nothing_is_left_beside_it(path):
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        figures.curves(path, HISTORY, "a folder is in the way")
    assert caught.value.filename == str(path) and os.listdir(path.parent) == [path.name]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing/curves\.png"):
        figures.curves(tmp_path / "missing" / "curves.png", HISTORY, "nowhere")


def test_a_figure_of_noisy_pictures_stays_small(path):
    noise = 0.05 * torch.randn(3, 1, 132, 132, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 132, 132, dtype=torch.int64)
    mask[:, 30:60, 40:90] = 1
    figures.segmentations(path, 0.3 + 0.3 * mask[:, None] + noise, mask, mask, CLASSES[:2])
    assert _pixels(path).shape[1] == 1000 and path.stat().st_size < 200_000

"""What training looks like, as PNG files: curves, classified pictures, masks, variants compared.

Every function writes the whole file or leaves an earlier one as it was (OSError names the file),
and returns the figure it drew. Arrays are tensors of any device, or anything NumPy takes. The
colours are ones that the colour-blind can tell apart; lines and marks differ in shape as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter
from PIL import Image

from .files import replacing

History = Sequence[Mapping[str, Any]]

MOST_PICTURES, MOST_ROWS = 36, 3  # what fits a page; the title says how many were left out
# Okabe and Ito's colours, which stay apart for the colour-blind too
DARK, LIGHT, BLUE, ORANGE, GREEN = "#202020", "#D9D9D9", "#0072B2", "#E69F00", "#009E73"
VERMILION, PINK, SKY, YELLOW = "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"
MASKS = [DARK, SKY, ORANGE, GREEN, YELLOW, BLUE, VERMILION, PINK]
OVERLAP = {"": DARK, "hit": LIGHT, "miss": ORANGE, "false alarm": BLUE, "wrong class": PINK}
PARTS = {"train": (ORANGE, "o", "--"), "test": (BLUE, "s", "-")}
VARIANTS = list(zip([BLUE, VERMILION, GREEN, PINK, ORANGE, "black"], "os^Dv*", strict=True))
DASHES = ["-", "--", ":"]  # the next one each time the colours are used up


def curves(path: Path, history: History, title: str, score: str = "accuracy") -> Figure:
    """Loss on the left and score on the right, one line for training and one for the test.

    ``history`` has a mapping for each epoch with ``epoch``, ``train_loss``, ``test_loss``,
    ``train_score`` and ``test_score``. What is missing or None is a gap; what is NaN or infinite
    is a cross on the lower edge. ``score`` is what the score is called.
    """
    with _file(path, 10, 4.2) as figure:
        left, right = figure.subplots(1, 2)
        for axes, key in ((left, "loss"), (right, "score")):
            for part, style in PARTS.items():
                _line(axes, history, f"{part}_{key}", part, *style)
        _label(left, "loss", may_be_log=True)
        _label(right, score)
        for axes in (left, right):
            if axes.lines:
                axes.legend()
        figure.suptitle(title)
    return figure


def comparison(
    path: Path, histories: Mapping[str, History], score: str = "accuracy", title: str = ""
) -> Figure:
    """Test loss and test score of several variants, and below them where each one ended.

    ``histories`` maps each variant's label to a history as :func:`curves` takes it.
    """
    share = 0.6 + 0.3 * len(histories)
    with _file(path, 10, 4 + share) as figure:
        axes = figure.subplot_mosaic([["loss", "score"], ["last"] * 2], height_ratios=[4, share])
        last = axes["last"]
        for row, (label, history) in enumerate(histories.items()):
            colour, marker = VARIANTS[row % len(VARIANTS)]
            dash = DASHES[row // len(VARIANTS) % len(DASHES)]
            for key in ("loss", "score"):
                _line(axes[key], history, f"test_{key}", label, colour, marker, dash)
            final = history[-1] if history else {}
            train, test = (_number(final.get(f"{part}_score")) for part in PARTS)
            last.plot(train, row, marker, color=colour, markerfacecolor="none", markersize=8)
            last.plot(test, row, marker, color=colour, markersize=8)
            said = f"{test:.4f}" if history else "no epoch"
            last.text(1.01, row, said, transform=last.get_yaxis_transform(), va="center")
        _label(axes["loss"], "test loss", may_be_log=True)
        _label(axes["score"], f"test {score}")
        last.set_yticks(range(len(histories)), [_short(label, 30) for label in histories])
        last.set_ylim(len(histories) - 0.5, -0.5)
        last.set_xlabel(f"{score} after the last epoch: test filled, training hollow")
        last.grid(alpha=0.3)
        figure.suptitle(title or f"{len(histories)} variants")
    return figure


def classifications(
    path: Path,
    pictures: Any,
    truth: Any | None,
    predicted: Any,
    confidence: Any,
    classes: Sequence[str],
    names: Sequence[str] | None = None,
) -> Figure:
    """A grid of pictures, each under the class predicted for it and that class's probability.

    ``pictures``: N×C×H×W in 0..1; ``truth`` (None where nobody knows it) and ``predicted``: N
    class numbers; ``confidence``: N values in 0..1; ``names``: N texts to write below, such as
    file names. A wrong one has a cross, a thick frame, and the true class. Raises ValueError where
    there is no picture.
    """
    predicted, confidence = _array(predicted), _array(confidence)
    shown, title = _shown(pictures, MOST_PICTURES)
    wrong = np.zeros(len(shown), bool)
    if truth is not None:
        truth = _array(truth)
        wrong = (truth != predicted)[: len(shown)]
        title += f": {(~wrong).sum()} right, {wrong.sum()} wrong (✗)"
    # Classes with long names get wider columns, and then as many letters as those hold
    most, columns = (20, 4) if max(map(len, classes)) > 12 else (12, 6)
    width = 10 / columns
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    tall = 0.95 * width * _tall(shown) + (0.45 if truth is None else 0.6) + 0.2 * bool(names)
    with _file(path, max(width * columns, 4), 0.5 + rows * tall) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for i, pixels in enumerate(shown):
            axes = grid[i]
            _show(axes, pixels, cmap="gray", vmin=0, vmax=1)
            text = f"{_short(classes[predicted[i]], most)}  {confidence[i]:.0%}"
            if wrong[i]:
                text = f"✗ {text}\ntruth: {_short(classes[truth[i]], most)}"
                axes.spines[:].set(color=VERMILION, linewidth=4)
            axes.set_title(text, fontsize=9, color=VERMILION if wrong[i] else "black")
            if names:
                axes.set_xlabel(_short(names[i], most + 8), fontsize=9)
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
        figure.suptitle(title)
    return figure


def segmentations(
    path: Path,
    pictures: Any,
    truth: Any | None,
    predicted: Any,
    classes: Sequence[str],
    scores: Any | None = None,
    names: Sequence[str] | None = None,
    score: str = "mean IoU",
) -> Figure:
    """One row a picture: the picture, its true mask, the predicted one, and how they overlap.

    ``pictures``: N×C×H×W in 0..1; ``truth`` and ``predicted``: N×H×W class numbers, 0 being the
    background; ``scores``: N values of ``score``; ``names``: N texts. Without truth a row is the
    picture, the predicted mask, and its outlines on the picture. Raises ValueError where there is
    no picture, sizes differ (crop the pictures first) or a mask holds a number that is no class.
    """
    shown, title = _shown(pictures, MOST_ROWS)
    masks = {"truth": truth, "prediction": predicted}
    masks = {name: _array(mask) for name, mask in masks.items() if mask is not None}
    for name, mask in masks.items():
        if mask.shape[1:] != shown[0].shape[:2]:
            raise ValueError(f"{name} of {mask.shape[1:]}, picture of {shown[0].shape[:2]}")
        if mask.min() < 0 or mask.max() >= len(classes):
            raise ValueError(f"{name} of {mask.min()}..{mask.max()}, {len(classes)} classes")
    colours = MASKS
    if len(classes) > len(MASKS):  # then neighbours of a rainbow have to do
        colours = list(matplotlib.colormaps["turbo"](np.linspace(0, 1, len(classes))))
    heads = ["picture", *masks, "outlines" if truth is None else "overlap"]
    present = np.unique([mask[: len(shown)] for mask in masks.values()])
    legend = [Patch(color=colours[k], label=classes[k]) for k in present]
    if truth is not None:  # of two classes, no object can be taken for another
        kinds = list(OVERLAP)[1 : None if len(classes) > 2 else -1]
        legend += [Patch(color=OVERLAP[kind], label=kind) for kind in kinds]
    height = 0.8 + 0.25 * math.ceil(len(legend) / 6) + len(shown) * (2.35 * _tall(shown) + 0.08)
    with _file(path, 2.5 * len(heads), height) as figure:
        grid = figure.subplots(len(shown), len(heads), squeeze=False)
        for i, (first, *middle, last) in enumerate(grid):
            _show(first, shown[i], cmap="gray", vmin=0, vmax=1)
            for axes, mask in zip(middle, masks.values(), strict=True):
                _show_numbers(axes, mask[i], colours)
            if truth is None:
                _show(last, shown[i], cmap="gray", vmin=0, vmax=1)
                if masks["prediction"][i].any():
                    last.contour(masks["prediction"][i] != 0, [0.5], colors=ORANGE)
            else:
                overlap = _overlap(masks["truth"][i], masks["prediction"][i])
                _show_numbers(last, overlap, list(OVERLAP.values()))
            said = [_short(names[i], 26)] if names else []
            said += [] if scores is None else [f"{score} {_number(scores[i]):.3f}"]
            first.set_ylabel("\n".join(said))
        for axes, head in zip(grid[0], heads, strict=True):
            axes.set_title(head)
        figure.legend(handles=legend, loc="outside lower center", ncols=6)
        figure.suptitle(title)
    return figure


@contextmanager
def _file(path: Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure, in hundreds of pixels, that becomes the file once all of it is drawn."""
    # Names of classes and files are text, whatever dollar signs they have
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
        yield figure
        content = BytesIO()
        figure.savefig(content, format="png")
    # A palette takes half the bytes, and figures end up in repositories
    with Image.open(content) as drawn:
        small = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    content = BytesIO()
    small.save(content, "PNG", optimize=True)
    with replacing(Path(path)) as file:
        file.write(content.getbuffer())


def _array(values: Any) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().numpy()


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _short(text: str, most: int) -> str:
    """Both ends of a long name: either may be what tells it from another."""
    keep = (most - 1) // 2
    return text if len(text) <= most else f"{text[:keep]}…{text[-keep:]}"


def _shown(pictures: Any, most: int) -> tuple[list[np.ndarray], str]:
    """The first pictures as H×W grey or H×W×3 colour, and a title that counts them."""
    planes = _array(pictures[:most]).astype(np.float32).clip(0, 1)
    if not len(planes):
        raise ValueError("no picture to draw")
    title = f"{len(planes)} picture{'s'[: len(planes) > 1]}"
    if len(planes) < len(pictures):
        title = f"the first {len(planes)} of {len(pictures)} pictures"
    return list(planes.transpose(0, 2, 3, 1) if planes.shape[1] == 3 else planes.mean(1)), title


def _tall(shown: list[np.ndarray]) -> float:
    """Height over width, within what a grid can show."""
    return min(max(shown[0].shape[0] / shown[0].shape[1], 0.5), 2.5)


def _show(axes: Axes, pixels: np.ndarray, **options: Any) -> None:
    axes.imshow(pixels, **options)
    axes.set(xticks=[], yticks=[])


def _show_numbers(axes: Axes, mask: np.ndarray, colours: list) -> None:
    """Number k in the k-th colour, and nothing in between."""
    limits = {"vmin": -0.5, "vmax": len(colours) - 0.5}
    _show(axes, mask, cmap=ListedColormap(colours), interpolation="nearest", **limits)


def _overlap(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Places in OVERLAP."""
    kinds = [(truth == 0) & (predicted == 0), truth == predicted, predicted == 0, truth == 0]
    return np.select(kinds, [0, 1, 2, 3], 4)


def _line(
    axes: Axes, history: History, key: str, label: str, colour: str, marker: str, dash: str
) -> None:
    """One value over the epochs."""
    known = [(entry["epoch"], float(entry[key])) for entry in history if entry.get(key) is not None]
    if not known:
        return
    epochs, values = np.array(known).T
    finite = np.isfinite(values)
    style = {"marker": marker if len(known) <= 30 else "", "markersize": 5, "linestyle": dash}
    axes.plot(epochs, np.where(finite, values, np.nan), color=colour, label=label, **style)
    if not finite.all():
        lost, style = epochs[~finite], {"marker": "x", "linestyle": "", "clip_on": False}
        style |= {"transform": axes.get_xaxis_transform(), "label": f"{label}: not finite"}
        axes.plot(lost, np.zeros(len(lost)), color=colour, **style)


def _label(axes: Axes, name: str, may_be_log: bool = False) -> None:
    drawn = [line.get_ydata() for line in axes.lines if line.get_transform() == axes.transData]
    values = np.concatenate([[], *drawn])
    values = values[np.isfinite(values)]
    if not len(values):
        axes.set_yticks([])
    elif may_be_log and values.min() > 0 and values.max() > 100 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        name += " (log scale)"
    axes.set(xlabel="epoch", ylabel=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)

"""What the example networks learn from: pictures with a class, and pictures with a mask.

Nothing is downloaded. Without a path there are scikit-learn's handwritten digits (:func:`digits`)
and generated pictures of cells (:func:`cells`); with one, MNIST-style IDX files, class directories
or picture/mask pairs (:func:`classified`, :func:`segmented`). What cannot be used is
:class:`Refused` in one line.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from .cells import draw
from .files import Refused
from .pictures import (
    EXTENSIONS,
    GREY,
    opened,
    pixels_of,
    read_mask,
    read_picture,
    reason,
    resized,
    times,
    write_mask,
)

__all__ = [
    "Files",
    "Kept",
    "Refused",
    "Samples",
    "cells",
    "classified",
    "digits",
    "read_mask",
    "read_picture",
    "segmented",
    "write_mask",
]

# torchrun's processes all look at the files; one of them talks about it.
TALKS = os.environ.get("RANK", "0") == "0"
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat",
           "sandal", "shirt", "sneaker", "bag", "boot")  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """Data to train on and held-out data to test on; ``shape`` is one picture's C×H×W.

    Both parts give (picture, target): float32 C×H×W between 0 and 1, and the class as an int or
    the mask as int64 H×W.
    """

    name: str
    train: Dataset
    test: Dataset
    classes: tuple[str, ...]
    shape: tuple[int, int, int]


class Kept(Dataset):
    """Grey pictures in memory, uint8 N×H×W; targets uint8, N classes or N×H×W masks.

    ``size`` (height, width) resizes the pictures as they are asked for.
    """

    def __init__(self, pictures: Tensor, targets: Tensor, size: tuple[int, int] | None = None):
        self.pictures, self.targets = pictures, targets
        self.size = size or tuple(pictures.shape[1:])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        picture, target = self.pictures[index][None].float() / 255, self.targets[index]
        return resized(picture, self.size), target.long() if target.ndim else int(target)


@dataclass(frozen=True)
class Files(Dataset):
    """Pictures that are read when they are asked for; targets are classes or paths of masks.

    ``size`` (height, width) resizes them; without it a picture of another shape is Refused.
    """

    items: Sequence[tuple[Path, int | Path]]
    shape: tuple[int, int, int]
    classes: int
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        path, target = self.items[index]
        picture = read_picture(path, self.shape[0], self.size)
        _same(path, picture.shape, self.shape)
        if isinstance(target, Path):
            mask = read_mask(target, self.classes, self.size)
            _same(target, mask.shape, self.shape[1:])
            return picture, mask
        return picture, target


# ---------------------------------------------------------------------------------- what to use


def digits(size: int = 28) -> Samples:
    """scikit-learn's 1797 handwritten digits, 8×8 resized to ``size``; a fifth is held out."""
    from sklearn.datasets import load_digits  # the other sources do without scikit-learn

    data = load_digits()
    pictures = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))
    targets = torch.from_numpy(data.target.astype(np.uint8))
    square = _square(size)
    parts = (Kept(pictures[part], targets[part], square) for part in _split(targets.tolist()))
    return Samples("scikit-learn's digits", *parts, tuple("0123456789"), (1, *square))


def classified(
    path: Path | None,
    *,
    size: int | None = None,
    broken: str = "stop",
    report: Callable[[str], object] = print,
) -> Samples:
    """Pictures with a class: IDX files or class directories in ``path``, or :func:`digits`.

    IDX files are those of MNIST and Fashion-MNIST, compressed or not, in PATH, PATH/raw,
    PATH/MNIST/raw or PATH/FashionMNIST/raw. Otherwise every directory PATH/CLASS (or
    PATH/train/CLASS with PATH/test/CLASS) holds the pictures of one class; without a test part a
    fifth is held out, always the same one.

    Args:
        path: a directory; None takes the digits.
        size: resize all pictures to size×size; without it they must have one size.
        broken: "stop" raises Refused at a file that cannot be read, "skip" reports it and goes on.
        report: what takes such lines.
    """
    if path is None:
        return digits(28 if size is None else size)
    path = Path(path)
    _children(path)
    for folder in (path, path / "raw", path / "MNIST" / "raw", path / "FashionMNIST" / "raw"):
        if any(_idx_file(folder, part, kind) for part in ("train", "t10k") for kind in IDX):
            return _idx_samples(folder, size)
    train, test = _parts(path)
    folders = _class_folders(train)
    classes = tuple(folders)
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no class directories"
        raise Refused(f"{train}: {found}; at least two directories CLASS with pictures are needed")
    parts = [folders]
    if test:
        parts.append(_class_folders(test))
        for name in sorted(parts[1].keys() - set(classes)):
            raise Refused(f"{test / name}: there is no class {name!r} in {train}")
    parts = [[(p, classes.index(c)) for c, files in part.items() for p in files] for part in parts]
    samples = _file_samples(path, parts, classes, size, _Broken(broken, report))
    for number in set(range(len(classes))) - {target for _, target in samples.train.items}:
        raise Refused(f"{train / classes[number]}: none of its pictures can be trained on")
    return samples


def segmented(
    path: Path | None,
    *,
    size: int | None = None,
    classes: int = 2,
    broken: str = "stop",
    report: Callable[[str], object] = print,
) -> Samples:
    """Pictures with a mask: PATH/pictures/NAME.* and PATH/masks/NAME.*, or :func:`cells`.

    The directories may also be called images and labels, and lie in PATH/train and PATH/test;
    without a test part a fifth is held out, always the same one. A mask's values are its classes,
    0 to ``classes`` - 1; with two classes 255 counts as 1.

    Args:
        path, size, broken, report: as in :func:`classified`; masks are resized to the nearest
            pixel, and a picture without a mask or with one of another size is broken, too.
        classes: how many classes the masks have, the background being one.
    """
    if path is None:
        return cells(**({} if size is None else {"size": size}))
    path = Path(path)
    _children(path)
    names = tuple(f"class {number}" for number in range(classes))
    if classes == 2:
        names = ("background", "object")
    leave_out = _Broken(broken, report)
    parts = [_pairs(folder, leave_out) for folder in _parts(path) if folder]
    return _file_samples(path, parts, names, size, leave_out)


# --------------------------------------------------------------------------------------- cells


def cells(train: int = 400, test: int = 200, size: int = 132) -> Samples:
    """Generated pictures, 1×size×size, of overlapping cells under a microscope; masks are exact.

    Picture i of a part is a function of i (and of the size) alone.
    """
    square = _square(size)
    parts = (Kept(*_drawn(part, count, size)) for part, count in enumerate((train, test)))
    return Samples("generated cells", *parts, ("background", "cell"), (1, *square))


@lru_cache(maxsize=4)
def _drawn(part: int, count: int, size: int) -> tuple[Tensor, Tensor]:
    """``count`` pictures and masks, both uint8 N×size×size."""
    drawn = [draw(np.random.default_rng((part, index)), size) for index in range(count)]
    empty = np.empty((2, 0, size, size), np.uint8)
    return tuple(torch.from_numpy(a) for a in (np.stack(drawn, 1) if drawn else empty))


# ----------------------------------------------------------------------------------- IDX files

IDX = {"images": 3, "labels": 1}  # and their dimensions


def _idx_file(folder: Path, part: str, kind: str) -> Path | None:
    """The file under one of the names it is shared by."""
    names = (f"{part}-{kind}{dot}idx{IDX[kind]}-ubyte{end}" for end in ("", ".gz") for dot in "-.")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _idx(folder: Path, part: str, kind: str) -> tuple[Path, Tensor]:
    path = _idx_file(folder, part, kind)
    if path is None:
        name = f"{part}-{kind}-idx{IDX[kind]}-ubyte"
        raise Refused(
            f"{folder / name}: no such file (nor with .gz); all four IDX files are needed"
        )
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except Exception as error:  # a broken gzip file raises errors of four kinds
        raise Refused(f"{path}: cannot be read: {reason(error)}") from None
    start = 4 * (1 + IDX[kind])
    magic, *shape = (int.from_bytes(data[at : at + 4], "big") for at in range(0, start, 4))
    if magic != 0x800 + IDX[kind]:
        raise Refused(
            f"{path}: not an IDX file of {kind}: begins with {data[:4].hex() or 'nothing'}"
            f" instead of {0x800 + IDX[kind]:08x}"
        )
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected or 0 in shape:
        sizes = "×".join(map(str, shape))
        raise Refused(f"{path}: {len(data)} bytes, but {sizes} {kind} take {expected}; damaged?")
    return path, torch.frombuffer(bytearray(data), dtype=torch.uint8)[start:].reshape(shape)


def _idx_samples(folder: Path, size: int | None) -> Samples:
    parts = []
    for part in ("train", "t10k"):
        (pictures_path, pictures), (path, labels) = (_idx(folder, part, kind) for kind in IDX)
        if len(pictures) != len(labels):
            raise Refused(
                f"{path}: {len(labels)} labels, but {pictures_path.name} has {len(pictures)} images"
            )
        if parts and pictures.shape[1:] != parts[0][0].shape[1:]:
            raise Refused(f"{pictures_path}: pictures of another size than the training pictures")
        parts.append((pictures, labels))
    count = 1 + max(int(labels.max()) for _, labels in parts)
    if count < 2:
        raise Refused(f"{folder}: all labels are 0; at least two classes are needed")
    fashion = "fashion" in str(folder.absolute()).lower() and count == len(FASHION)
    shown = tuple(parts[0][0].shape[1:]) if size is None else _square(size)
    classes = FASHION if fashion else tuple(str(number) for number in range(count))
    name = f"{'Fashion-MNIST' if fashion else 'MNIST'} files in {folder}"
    return Samples(name, *(Kept(*part, shown) for part in parts), classes, (1, *shown))


# ------------------------------------------------------------------------- directories of files


@dataclass(frozen=True)
class _Broken:
    """What is done about files that cannot be used."""

    choice: str
    report: Callable[[str], object]

    def __call__(self, error: Refused) -> None:
        if self.choice == "stop":
            raise Refused(f"{error} (--on-broken skip leaves it out)") from None
        if TALKS:
            self.report(f"left out {error}")


def _children(folder: Path) -> list[Path]:
    """What a directory holds, by name; hidden entries are other programs' business."""
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise Refused(f"{folder}: {reason(error)}; a directory with data is needed") from None


def _pictures(folder: Path) -> list[Path]:
    files = [p for p in _children(folder) if p.suffix.lower() in EXTENSIONS and p.is_file()]
    if not files:
        raise Refused(f"{folder}: no pictures in it (known are {' '.join(sorted(EXTENSIONS))})")
    return files


def _parts(path: Path) -> tuple[Path, Path | None]:
    """The directories to train on and to test on, if they are apart."""
    train = path / "train"
    if not train.is_dir() or not any(child.is_dir() for child in _children(train)):
        return path, None  # "train" may be a class, beside "bus"
    tests = (path / name for name in ("test", "val", "valid"))
    return train, next((test for test in tests if test.is_dir()), None)


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    return {child.name: _pictures(child) for child in _children(folder) if child.is_dir()}


def _pairs(folder: Path, leave_out: _Broken) -> list[tuple[Path, Path]]:
    """Pictures and masks of the same name."""
    sides = []
    for names in (("pictures", "images"), ("masks", "labels")):
        found = next((folder / name for name in names if (folder / name).is_dir()), None)
        if found is None:
            raise Refused(f"{folder}: no directory {names[0]} (or {names[1]}) in it")
        files: dict[str, Path] = {}
        for path in _pictures(found):
            if path.stem in files:
                leave_out(Refused(f"{path}: {files[path.stem].name} has the same name"))
            files.setdefault(path.stem, path)
        sides.append((found, files))
    (pictures_at, pictures), (masks_at, masks) = sides
    for stem in sorted(pictures.keys() ^ masks.keys()):
        if stem in pictures:
            leave_out(Refused(f"{pictures[stem]}: no mask of the same name in {masks_at}"))
        else:
            leave_out(Refused(f"{masks[stem]}: no picture of the same name in {pictures_at}"))
    return [(picture, masks[stem]) for stem, picture in pictures.items() if stem in masks]


def _file_samples(
    path: Path, parts: list, classes: tuple[str, ...], size: int | None, leave_out: _Broken
) -> Samples:
    """Samples of one or two lists of (picture, class or mask), each file read once to see."""
    if len(parts) == 1:  # split before anything is left out: a broken file moves no other
        (items,) = parts
        targets = [0 if isinstance(target, Path) else target for _, target in items]
        parts = [[items[i] for i in part] for part in _split(targets)]
    square = None if size is None else _square(size)
    kept, grey, first = ([], []), True, None
    everything = [(number, item) for number, part in enumerate(parts) for item in part]
    facts = _examined([item for _, item in everything], len(classes))
    for (number, item), fact in zip(everything, facts, strict=True):
        if isinstance(fact, Refused):
            leave_out(fact)
            continue
        first = first or (item[0], fact[1])
        if size is None and fact[1] != first[1]:
            raise Refused(
                f"{item[0]}: is {times(fact[1])}, but {first[0]} is {times(first[1])};"
                " --size N resizes all"
            )
        grey = grey and fact[0]
        kept[number].append(item)
    for name, part in zip(("train", "test"), kept, strict=True):
        if not part:
            raise Refused(f"{path}: no usable pictures to {name} with; add some")
    shape = (1 if grey else 3, *(square or first[1]))
    files = (Files(tuple(part), shape, len(classes), square) for part in kept)
    return Samples(f"pictures in {path}", *files, classes, shape)


def _examined(items: Sequence, classes: int) -> Iterator[tuple[bool, tuple[int, int]] | Refused]:
    """For each item whether it is grey and its size, or what is wrong with it."""

    def examine(item):
        path, target = item
        try:
            image = opened(path)
            pixels_of(path, image)
            if isinstance(target, Path):
                mask = read_mask(target, classes)
                if tuple(mask.shape) != (image.height, image.width):
                    return Refused(
                        f"{target}: is {times(mask.shape)}, but its picture {path} is"
                        f" {image.height}×{image.width}"
                    )
        except Refused as error:
            return error
        return image.mode in GREY, (image.height, image.width)

    console = Console(stderr=True)
    shown = TALKS and sys.stderr.isatty()
    with ThreadPoolExecutor() as pool:
        try:
            results = pool.map(examine, items)
            yield from track(results, "looking at the files", len(items), console=console,
                             transient=True, disable=not shown)  # fmt: skip
        finally:  # do not read on when nobody wants the rest
            pool.shutdown(wait=False, cancel_futures=True)


# --------------------------------------------------------------------------------- small things


def _split(targets: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions to train on and to test on: every fifth of each class, always the same."""
    seen: dict[int, int] = {}
    parts: tuple[list[int], list[int]] = ([], [])
    for position, target in enumerate(targets):
        seen[target] = seen.get(target, 0) + 1
        parts[seen[target] % 5 == 2].append(position)  # two pictures suffice to have one of each
    return parts


def _same(path: Path, now: Sequence[int], before: Sequence[int]) -> None:
    """Every file was looked at before: has somebody changed this one?"""
    if tuple(now) != tuple(before):
        raise Refused(f"{path}: is {times(now)} now and was {times(before)}")


def _square(size: int) -> tuple[int, int]:
    if size < 1:
        raise Refused(f"--size {size}: pictures have at least 1×1 pixels")
    return size, size

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
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from cells import draw
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

EXTENSIONS = frozenset(".png .jpg .jpeg .bmp .tif .tiff .webp .gif .pgm .ppm".split())
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat",
           "sandal", "shirt", "sneaker", "bag", "boot")  # fmt: skip
# Colours of mask classes, told apart by colour-blind readers too (Okabe and Ito); 0 is black.
COLOURS = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115),
           (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))  # fmt: skip

# Pillow warns about damaged metadata on lines of its own; what matters is said in ours.
warnings.filterwarnings("ignore", module="PIL")


class Refused(Exception):
    """Input that cannot be used; its text is the one line that the user reads."""

    def __str__(self) -> str:
        # a DataLoader's worker process sends a whole traceback: the line is what comes last
        return super().__str__().rpartition(f"{__name__}.Refused: ")[2].strip()


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
        return _resized(picture, self.size), target.long() if target.ndim else int(target)


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
        if picture.shape != self.shape:  # every file was looked at before: somebody changed it
            raise Refused(f"{path}: is {_text(picture.shape)} now and was {_text(self.shape)}")
        if isinstance(target, Path):
            target = read_mask(target, self.classes, self.shape[1:])
        return picture, target


# ---------------------------------------------------------------------------------- what to use


def digits(size: int = 28) -> Samples:
    """scikit-learn's 1797 handwritten digits, 8×8 resized to ``size``; a fifth is held out."""
    from sklearn.datasets import load_digits  # the other sources do without scikit-learn

    data = load_digits()
    pictures = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))
    targets = torch.from_numpy(data.target.astype(np.uint8))
    square = _square(size)
    train, test = (
        Kept(pictures[part], targets[part], square) for part in _split(data.target.tolist())
    )
    classes = tuple(str(number) for number in range(10))
    return Samples("scikit-learn's digits", train, test, classes, (1, *square))


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
    classes = tuple(_class_folders(train))
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no class directories"
        raise Refused(f"{train}: {found}; at least two directories CLASS with pictures are needed")
    parts = [[(p, classes.index(c)) for c, files in _class_folders(train).items() for p in files]]
    if test:
        folders = _class_folders(test)
        for name in folders.keys() - set(classes):
            raise Refused(f"{test / name}: there is no class {name!r} in {train}")
        parts.append([(p, classes.index(c)) for c, files in folders.items() for p in files])
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
    names = (
        ("background", "object") if classes == 2 else tuple(f"class {n}" for n in range(classes))
    )
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
        raise Refused(f"{path}: cannot be read: {_reason(error)}") from None
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
    train, test = (Kept(*part, shown) for part in parts)
    return Samples(
        f"{'Fashion-MNIST' if fashion else 'MNIST'} files in {folder}",
        train,
        test,
        FASHION if fashion else tuple(str(number) for number in range(count)),
        (1, *shown),
    )


# ------------------------------------------------------------------------- directories of files


@dataclass(frozen=True)
class _Broken:
    """What is done about files that cannot be used."""

    choice: str
    report: Callable[[str], object]

    def __call__(self, error: Refused) -> None:
        if self.choice == "stop":
            raise Refused(f"{error} (--on-broken skip leaves it out)") from None
        self.report(f"left out {error}")


def _children(folder: Path) -> list[Path]:
    """What a directory holds, by name; hidden entries are other programs' business."""
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise Refused(f"{folder}: {_reason(error)}; a directory with data is needed") from None


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


def _file_samples(path, parts, classes, size, leave_out) -> Samples:
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
                f"{item[0]}: is {_text(fact[1])}, but {first[0]} is {_text(first[1])};"
                " --size N resizes all"
            )
        grey = grey and fact[0]
        kept[number].append(item)
    for name, part in zip(("train", "test"), kept, strict=True):
        if not part:
            raise Refused(f"{path}: no usable pictures to {name} with; add some")
    shape = (1 if grey else 3, *(square or first[1]))
    train, test = (Files(tuple(part), shape, len(classes), square) for part in kept)
    return Samples(f"pictures in {path}", train, test, tuple(classes), shape)


def _examined(items: Sequence, classes: int) -> Iterator[tuple[bool, tuple[int, int]] | Refused]:
    """For each item whether it is grey and its size, or what is wrong with it."""

    def examine(item):
        path, target = item
        try:
            image = _opened(path)
            _pixels(path, image)
            if isinstance(target, Path):
                mask = read_mask(target, classes)
                if tuple(mask.shape) != (image.height, image.width):
                    return Refused(
                        f"{target}: is {_text(mask.shape)}, but its picture {path} is"
                        f" {image.height}×{image.width}"
                    )
        except Refused as error:
            return error
        return image.mode in GREY, (image.height, image.width)

    console = Console(stderr=True)
    shown = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    with ThreadPoolExecutor() as pool:
        try:
            results = pool.map(examine, items)
            yield from track(results, "looking at the files", len(items), console=console,
                             transient=True, disable=not shown)  # fmt: skip
        finally:  # do not read on when nobody wants the rest
            pool.shutdown(wait=False, cancel_futures=True)


# -------------------------------------------------------------------------------- single files

GREY = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I", "F"})


def read_picture(path: Path, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as float32 ``channels``×H×W between 0 and 1: grey for one channel, or RGB.

    The first picture of several; upright as its EXIF data say; what is transparent shows white;
    16 bits are scaled by their range. ``size`` (height, width) resizes it. Raises Refused.
    """
    pixels = _pixels(path, _opened(path))
    if pixels.ndim == 2:
        picture = torch.from_numpy(pixels).expand(channels, -1, -1)
    elif channels == 1:
        luma = np.array([0.299, 0.587, 0.114], np.float32)  # as television weighs colours
        picture = torch.from_numpy(pixels @ luma)[None]
    else:
        picture = torch.from_numpy(pixels).permute(2, 0, 1)
    return _resized(picture.contiguous(), size or tuple(picture.shape[1:]))


def read_mask(path: Path, classes: int, size: tuple[int, int] | None = None) -> Tensor:
    """A mask as int64 H×W with values 0 to ``classes`` - 1, resized to the nearest pixel.

    Grey values or palette indices are the classes; of two, 255 counts as 1. Raises Refused.
    """
    image = _opened(path)
    if image.mode not in GREY | {"P"} or image.mode in {"LA", "La", "F"}:
        raise Refused(f"{path}: a mask has one whole number a pixel, but this is {image.mode};"
                      " save it as grey or palette PNG with the classes as values")  # fmt: skip
    mask = torch.from_numpy(np.asarray(image).astype(np.int64))
    if classes == 2:
        mask[mask == 255] = 1
    wrong = mask[(mask < 0) | (mask >= classes)]
    if len(wrong):
        raise Refused(
            f"{path}: {len(wrong)} pixels of the mask are no class, the first {int(wrong[0])};"
            f" values must be 0 to {classes - 1} (--classes changes that; JPEG blurs values)"
        )
    if size is None or size == mask.shape:
        return mask
    return interpolate(mask[None, None].double(), size, mode="nearest-exact")[0, 0].long()


def write_mask(path: Path, mask: Tensor) -> None:
    """A mask H×W as palette PNG, classes (at most 256) as values: all of it, or Refused."""
    from checkpoints import replacing  # it imports this module

    image = Image.fromarray(mask.cpu().numpy().astype(np.uint8))
    image.putpalette([value for n in range(256) for value in COLOURS[n % len(COLOURS)]])
    try:
        with replacing(Path(path)) as file:
            image.save(file, "PNG")
    except OSError as error:
        raise Refused(f"{path}: cannot be written: {_reason(error)}") from None


def _opened(path: Path) -> Image.Image:
    """Decoded completely and turned upright, or Refused."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise Refused(f"{path}: not a picture, or damaged") from None
    except Exception as error:  # Pillow's decoders raise errors of a dozen kinds on damaged files
        raise Refused(f"{path}: cannot be read: {_reason(error)}") from None


def _pixels(path: Path, image: Image.Image) -> np.ndarray:
    """float32 H×W or H×W×3 between 0 and 1."""
    if image.has_transparency_data and not image.mode.startswith("I"):
        image = image.convert("RGBA" if image.mode not in GREY else "LA")
        white = Image.new(image.mode, image.size, "white")
        image = Image.composite(image, white, image.getchannel("A"))
        image = image.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in GREY:
        image = image.convert("RGB")
    pixels = np.asarray(image).astype(np.float32)
    if image.mode in {"L", "RGB"}:
        return pixels / 255
    if image.mode.startswith("I;16") or pixels.max() > 1 and image.mode == "I":
        pixels /= 65535
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise Refused(f"{path}: {image.mode} pixels from {pixels.min():g} to {pixels.max():g};"
                      " save it with 8 or 16 bits")  # fmt: skip
    return pixels


# --------------------------------------------------------------------------------- small things


def _split(targets: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions to train on and to test on: every fifth of each class, always the same."""
    seen: dict[int, int] = {}
    parts: tuple[list[int], list[int]] = ([], [])
    for position, target in enumerate(targets):
        seen[target] = seen.get(target, 0) + 1
        parts[seen[target] % 5 == 2].append(position)  # two pictures suffice to have one of each
    return parts


def _resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """C×H×W in another height and width, bilinear, without aliasing."""
    if tuple(picture.shape[1:]) == tuple(size):
        return picture
    return interpolate(picture[None], size, mode="bilinear", antialias=True)[0]


def _square(size: int) -> tuple[int, int]:
    if size < 1:
        raise Refused(f"--size {size}: pictures have at least 1×1 pixels")
    return size, size


def _text(shape: Sequence[int]) -> str:
    return "×".join(str(length) for length in shape)


def _reason(error: BaseException) -> str:
    """The error in a few words on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text[:1].lower() + text[1:]

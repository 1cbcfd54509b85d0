"""What the examples learn from: every source gives its samples, and bad input is one clear line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from common import samples
from common.samples import Refused

RANDOM = np.random.default_rng(6)


def save(path: Path, pixels=None, **options) -> Path:
    """A picture file, by default of 8×10 grey pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = RANDOM.integers(0, 256, (8, 10), np.uint8)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    image.save(path, **options)
    return path


def class_folders(path: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            save(path / name / f"{number:02}.png")
    return path


def pairs(path: Path, count: int = 5) -> Path:
    for number in range(count):
        save(path / f"pictures/{number}.png")
        save(path / f"masks/{number}.png", np.arange(80, dtype=np.uint8).reshape(8, 10) % 2)
    return path


def write_idx(path: Path, pixels: np.ndarray, magic: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array([magic or 0x800 + pixels.ndim, *pixels.shape], ">u4").tobytes()
    data = header + pixels.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def idx_files(path: Path, end: str = "", classes: int = 10) -> Path:
    for part, count in (("train", 20), ("t10k", 10)):
        pixels = np.arange(count * 6 * 5).reshape(count, 6, 5) % 256
        write_idx(path / f"{part}-images-idx3-ubyte{end}", pixels)
        write_idx(path / f"{part}-labels-idx1-ubyte{end}", np.arange(count) % classes)
    return path


def check(found: samples.Samples, train: int, test: int) -> None:
    """The promise that every source makes."""
    assert (len(found.train), len(found.test)) == (train, test)
    for part in (found.train, found.test):
        for picture, target in (part[0], part[len(part) - 1]):
            assert picture.dtype == torch.float32 and tuple(picture.shape) == found.shape
            assert 0 <= picture.min() and picture.max() <= 1
            if isinstance(target, int):
                assert 0 <= target < len(found.classes)
            else:
                assert target.dtype == torch.int64 and target.shape == picture.shape[1:]
                assert set(target.unique().tolist()) <= set(range(len(found.classes)))


def refused(call, *words: object) -> str:
    """The one line that ``call`` is refused with, which says all the words."""
    with pytest.raises(Refused) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and [word for word in words if str(word) not in line] == [], line
    return line


# ------------------------------------------------------------------------------ without a path


def test_digits_hold_out_a_fifth_of_each_class():
    found = samples.digits()
    check(found, 1435, 362)
    assert found.shape == (1, 28, 28) and found.classes == tuple("0123456789")
    for number, count in enumerate(torch.bincount(found.test.targets)):
        assert abs(5 * count - (found.train.targets == number).sum() - count) < 5
    assert samples.classified(None, size=16).train[3][0].shape == (1, 16, 16)
    whites = [picture.max() for picture, _ in Subset(samples.digits(8).train, range(20))]
    assert max(whites) == 1  # scikit-learn's white is 16


def test_cells_are_functions_of_their_number():
    few, more = samples.cells(3, 2, size=48), samples.cells(5, 4, size=48)
    check(few, 3, 2)
    for part in ("train", "test"):
        one, other = getattr(few, part), getattr(more, part)
        assert torch.equal(one.pictures, other.pictures[: len(one)])
        assert torch.equal(one.targets, other.targets[: len(one)])
    assert not torch.equal(few.train.pictures[:2], few.test.pictures)
    assert samples.segmented(None, size=24).shape == (1, 24, 24)
    assert len(samples.cells(1, 0, size=1).test) == 0


def test_cells_are_not_found_by_any_threshold():
    found = samples.cells(1, 30).test
    cell = found.targets.numpy() == 1
    assert 0.1 < cell.mean() < 0.4

    def score(guess):  # mean intersection over union of both classes
        return np.mean([float((a & b).sum() / (a | b).sum()) for a, b in
                        ((guess, cell), (~guess, ~cell))])  # fmt: skip

    best = max(score(found.pictures.numpy() > value) for value in range(40, 160, 5))
    assert 0.6 < best < 0.79  # there is something to see, and something to learn
    assert score(cell) == 1
    overlaps = found.pictures.numpy() > 200  # light adds up where cells lie on each other
    assert overlaps.sum() > 1000 and cell[overlaps].mean() > 0.99


# ----------------------------------------------------------------------------------- IDX files


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("where", ["", "raw", "MNIST/raw", "FashionMNIST/raw"])
def test_idx_files(tmp_path, where, end):
    idx_files(tmp_path / where, end)
    found = samples.classified(tmp_path)
    check(found, 20, 10)
    assert found.shape == (1, 6, 5) and str(tmp_path) in found.name
    assert found.classes[9] == ("boot" if "Fashion" in where else "9")
    picture, target = found.train[13]
    assert target == 3 and torch.equal(
        picture[0], (torch.arange(13 * 30, 14 * 30) % 256).reshape(6, 5) / 255
    )
    assert samples.classified(tmp_path, size=12).test[0][0].shape == (1, 12, 12)


def test_idx_files_under_their_other_name_with_more_classes(tmp_path):
    for file in list(idx_files(tmp_path, classes=15).iterdir()):
        file.rename(tmp_path / file.name.replace("-idx", ".idx"))
    found = samples.classified(tmp_path)
    assert found.classes == tuple(str(number) for number in range(15))


IMAGES, LABELS = "t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"
BAD_IDX = {
    "missing": (LABELS, lambda f: f.unlink(), ["no such file", "all four"]),
    "empty": (LABELS, lambda f: f.write_bytes(b""), ["not an IDX file", "nothing"]),
    "magic": (LABELS, lambda f: write_idx(f, np.zeros(20), 0x803), ["begins with 00000803"]),
    "truncated": (IMAGES, lambda f: f.write_bytes(f.read_bytes()[:-1]), ["315 bytes", "316"]),
    "longer": (IMAGES, lambda f: f.write_bytes(f.read_bytes() + b"0"), ["317 bytes", "316"]),
    "huge": (IMAGES, lambda f: f.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12), ["16 bytes"]),
    "counts": (LABELS, lambda f: write_idx(f, np.arange(19)), ["19 labels", "20 images"]),
    "sizes": (IMAGES, lambda f: write_idx(f, np.zeros((10, 7, 7))), ["another size"]),
}


@pytest.mark.parametrize("kind", BAD_IDX)
def test_bad_idx_files(tmp_path, kind):
    name, spoil, words = BAD_IDX[kind]
    spoil(idx_files(tmp_path) / name)
    refused(lambda: samples.classified(tmp_path), tmp_path / name, *words)


def test_idx_files_of_one_class_and_broken_gzip(tmp_path):
    idx_files(tmp_path / "one", classes=1)
    refused(lambda: samples.classified(tmp_path / "one"), tmp_path / "one", "two classes")
    file = idx_files(tmp_path / "gz", ".gz") / f"{LABELS}.gz"
    whole = file.read_bytes()
    for content in (b"", b"no gzip", whole[:-9], whole[:12] + b"\xff\xff" + whole[14:]):
        file.write_bytes(content)
        refused(lambda: samples.classified(tmp_path / "gz"), file)


# --------------------------------------------------------------------------- class directories


def test_class_directories_are_split_without_chance(tmp_path):
    class_folders(tmp_path, {"bus": 10, "train": 5, ".hidden": 2})
    (tmp_path / "bus/notes.txt").write_text("no picture")
    found = samples.classified(tmp_path)
    check(found, 12, 3)
    assert found.classes == ("bus", "train") and found.shape == (1, 8, 10)
    held = [f"{path.parent.name}/{path.stem}" for path, _ in found.test.items]
    assert held == ["bus/01", "bus/06", "train/01"]
    torch.manual_seed(5)
    assert samples.classified(tmp_path).test.items == found.test.items
    batch, targets = next(iter(DataLoader(found.train, 12)))
    assert batch.shape == (12, 1, 8, 10) and targets.tolist() == [0] * 8 + [1] * 4


@pytest.mark.parametrize("name", ["test", "val", "valid"])
def test_class_directories_with_a_test_part(tmp_path, name):
    class_folders(tmp_path / "train", {"a": 3, "b": 2})
    class_folders(tmp_path / name, {"b": 4})
    found = samples.classified(tmp_path)
    check(found, 5, 4)
    assert found.test[0][1] == 1
    class_folders(tmp_path / name, {"c": 1})
    refused(lambda: samples.classified(tmp_path), tmp_path / name / "c", "no class 'c'")


def test_colour_anywhere_makes_all_pictures_colour(tmp_path):
    class_folders(tmp_path, {"a": 3, "b": 3})
    assert samples.classified(tmp_path).shape == (1, 8, 10)
    save(tmp_path / "b/02.png", np.full((8, 10, 3), (0, 51, 255), np.uint8))
    found = samples.classified(tmp_path)
    check(found, 4, 2)
    assert found.shape == (3, 8, 10)
    grey, colour = found.train[0][0], found.train[3][0]
    assert torch.equal(grey[0], grey[2])
    assert torch.allclose(colour[:, 2, 3], torch.tensor([0, 0.2, 1]))


def test_mixed_sizes_are_refused_or_resized(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    other = save(tmp_path / "b/00.png", np.zeros((8, 11), np.uint8))
    for broken in ("stop", "skip"):
        refused(lambda broken=broken: samples.classified(tmp_path, broken=broken),
                other, tmp_path / "a/00.png", "8×11", "8×10", "--size N resizes all")  # fmt: skip
    found = samples.classified(tmp_path, size=6)
    check(found, 2, 2)
    assert found.shape == (1, 6, 6)
    refused(lambda: samples.classified(tmp_path, size=0), "--size 0")


def test_bad_directories(tmp_path):
    def classified(folder: Path, *words: object):
        refused(lambda: samples.classified(folder), *words)

    classified(tmp_path / "none", tmp_path / "none", "no such file or directory")
    file = save(tmp_path / "flat/0.png")
    classified(file, file, "not a directory")
    classified(file.parent, file.parent, "no class directories")
    (tmp_path / "empty").mkdir()
    classified(tmp_path / "empty", tmp_path / "empty", "no class directories")
    one = class_folders(tmp_path / "one", {"cat": 3})
    classified(one, one, "only the class 'cat'")
    (one / "dog").mkdir()
    classified(one, one / "dog", "no pictures in it")
    save(one / "dog/0.png")
    check(samples.classified(one), 3, 1)
    single = class_folders(tmp_path / "single", {"cat": 1, "dog": 1})
    classified(single, single, "no usable pictures to test with")


# --------------------------------------------------------------------------------- broken files


def test_broken_files_stop_or_are_left_out(tmp_path):
    class_folders(tmp_path, {"a": 10, "b": 5})
    whole = samples.classified(tmp_path)
    (tmp_path / "a/02.png").write_bytes(b"no picture")
    half = tmp_path / "b/01.png"
    half.write_bytes(half.read_bytes()[:60])
    (tmp_path / "b/03.png").unlink()
    (tmp_path / "b/03.png").symlink_to(half)
    refused(lambda: samples.classified(tmp_path), tmp_path / "a/02.png", "--on-broken skip")
    lines = []
    found = samples.classified(tmp_path, broken="skip", report=lines.append)
    check(found, 10, 2)
    assert set(found.test.items) < set(whole.test.items)  # the split is what it was
    assert [line.split(": ")[0] for line in lines] == [
        f"left out {tmp_path / name}" for name in ("a/02.png", "b/03.png", "b/01.png")
    ]
    for name in ("00", "02", "04"):  # 01 is held out: nothing is left to train on
        (tmp_path / f"b/{name}.png").write_bytes(b"")
    refused(lambda: samples.classified(tmp_path, broken="skip", report=lines.append),
            tmp_path / "b", "can be trained on")  # fmt: skip


def test_a_file_that_breaks_later_is_named(tmp_path):
    found = samples.segmented(pairs(tmp_path))
    (picture, mask), *_ = found.train.items
    save(mask, np.zeros((9, 9), np.uint8))
    refused(lambda: found.train[0], mask, "is 9×9 now and was 8×10")
    save(picture, np.zeros((9, 9), np.uint8))
    refused(lambda: found.train[0], picture, "is 1×9×9 now and was 1×8×10")
    picture.unlink()
    refused(lambda: found.train[0], picture, "no such file")


def test_a_worker_process_names_the_file_in_one_line(tmp_path):
    found = samples.classified(class_folders(tmp_path, {"a": 3, "b": 3}))
    found.train.items[0][0].write_bytes(b"")
    batches = iter(DataLoader(found.train, 2, num_workers=1))
    refused(lambda: next(batches), found.train.items[0][0], "not a picture")
    batches._shutdown_workers()  # else whenever the garbage collector finds them, and it takes 5 s


# ------------------------------------------------------------------------------ picture and mask


@pytest.mark.parametrize("names", [("pictures", "masks"), ("images", "labels")])
@pytest.mark.parametrize("parts", [[""], ["train", "test"]])
def test_pictures_with_masks(tmp_path, names, parts):
    for part in parts:
        pairs(tmp_path / part)
        for old, new in zip(("pictures", "masks"), names, strict=True):
            (tmp_path / part / old).rename(tmp_path / part / new)
    found = samples.segmented(tmp_path)
    check(found, *((5, 5) if len(parts) == 2 else (4, 1)))
    assert found.classes == ("background", "object")
    assert torch.equal(found.test[0][1], torch.arange(80).reshape(8, 10) % 2)
    assert samples.segmented(tmp_path, size=4).train[0][1].shape == (4, 4)


def test_what_is_wrong_with_pairs(tmp_path):
    pairs(tmp_path)
    for name, spoil, words in (
        (
            "masks/1.png",
            lambda f: f.rename(tmp_path / "masks/9.png"),
            ["pictures/1.png", "no mask"],
        ),
        ("pictures/1.png", lambda f: f.unlink(), ["masks/9.png", "no picture of the same name"]),
        ("pictures/2.gif", save, ["pictures/2.png", "2.gif has the same name"]),
        ("masks/3.png", lambda f: save(f, np.zeros((8, 9), np.uint8)), ["8×9", "8×10", "s/3.png"]),
        ("masks/4.png", lambda f: f.write_bytes(b""), ["masks/4.png", "not a picture"]),
    ):
        lines = []
        spoil(tmp_path / name)
        samples.segmented(tmp_path, broken="skip", report=lines.append)
        assert any(all(word in line for word in words) for line in lines), lines
    assert len(samples.segmented(tmp_path, broken="skip", report=lines.append).train) == 1
    refused(lambda: samples.segmented(tmp_path), "(--on-broken skip leaves it out)")
    (tmp_path / "pictures/2.gif").unlink()
    (tmp_path / "masks").rename(tmp_path / "other")
    refused(lambda: samples.segmented(tmp_path), tmp_path, "masks (or labels)")


def test_masks_by_kind_of_file(tmp_path):
    file, wanted = tmp_path / "mask.png", torch.arange(12).reshape(3, 4) % 2
    pixels = wanted.numpy().astype(np.uint8)
    for values in (pixels, pixels * 255, pixels.astype(bool), pixels.astype(np.uint16)):
        assert torch.equal(samples.read_mask(save(file, values), 2), wanted)
    colours = Image.fromarray(pixels)
    colours.putpalette([200, 0, 0, 0, 0, 9])  # what the colours are does not matter
    save(file, colours, transparency=0)
    assert torch.equal(samples.read_mask(file, 2), wanted)
    enlarged = samples.read_mask(file, 2, (6, 8))
    assert torch.equal(enlarged, wanted.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_values_that_are_no_class_are_refused(tmp_path):
    file, pixels = tmp_path / "mask.png", np.zeros((3, 4), np.uint8)
    pixels[1, 2:] = 7, 9
    save(file, pixels)
    assert samples.read_mask(file, 10)[1].tolist() == [0, 0, 7, 9]
    refused(lambda: samples.read_mask(file, 7), file, "2 pixels", "the first 7", "0 to 6")
    save(file, np.full((3, 4), 255, np.uint8))
    refused(lambda: samples.read_mask(file, 3), file, "255")  # a border is a class nowhere
    for wrong in (np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4, 2), np.uint8)):
        refused(lambda wrong=wrong: samples.read_mask(save(file, wrong), 3), file, "palette PNG")


def test_written_masks_are_read_again(tmp_path):
    mask = torch.arange(256).reshape(16, 16)
    samples.write_mask(tmp_path / "mask.png", mask)
    assert torch.equal(samples.read_mask(tmp_path / "mask.png", 256), mask)
    assert [file.name for file in tmp_path.iterdir()] == ["mask.png"]
    (tmp_path / "file").write_text("")
    refused(lambda: samples.write_mask(tmp_path / "file/mask.png", mask), "file/mask.png")


# ---------------------------------------------------------------------------------- one picture


def test_pictures_by_kind_of_file(tmp_path):
    grey = np.array([[0, 51], [102, 255]], np.uint8)
    wanted = torch.tensor([[0, 0.2], [0.4, 1]])
    kinds = {
        "l.png": grey, "l.pgm": grey, "l.bmp": grey, "l.tif": grey, "l.gif": grey, "l.TIFF": grey,
        "deep.png": grey.astype(np.uint16) * 257, "deep.tif": grey.astype(np.uint16) * 257,
        "deep.pgm": grey.astype(np.uint16) * 257, "real.tif": wanted.numpy(),
        "rgb.png": np.stack([grey] * 3, -1), "rgb.ppm": np.stack([grey] * 3, -1),
        "opaque.png": np.stack([grey] * 3 + [np.full_like(grey, 255)], -1),
        "palette.png": Image.fromarray(np.stack([grey] * 3, -1)).quantize(4),
    }  # fmt: skip
    for name, pixels in kinds.items():
        file = save(tmp_path / name, pixels)
        for channels in (1, 3):
            picture = samples.read_picture(file, channels)
            assert picture.dtype == torch.float32 and picture.shape == (channels, 2, 2), name
            assert torch.allclose(picture, wanted.expand(channels, 2, 2), atol=2e-3), name
    for name in ("l.jpg", "l.webp"):  # these do not keep the values
        assert samples.read_picture(save(tmp_path / name, grey), 3, (5, 7)).shape == (3, 5, 7)
    assert samples.read_picture(save(tmp_path / "1.png", grey > 60), 1).unique().tolist() == [0, 1]
    for wrong in (grey.astype(np.float32), np.full((2, 2), 70000, np.int32)):
        file = save(tmp_path / "range.tif", wrong)
        refused(lambda file=file: samples.read_picture(file, 1), file, "save it with 8 or 16 bits")


def test_transparent_pixels_are_white(tmp_path):
    black = np.zeros((1, 2), np.uint8)
    alpha = np.array([[0, 255]], np.uint8)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([9, 9, 9, 0, 0, 0])
    for pixels, options in (
        (np.stack([black, alpha], -1), {}),
        (np.stack([black] * 3 + [alpha], -1), {}),
        (palette, {"transparency": 0}),
        (Image.fromarray(np.array([[9, 0]], np.uint8)), {"transparency": 9}),
    ):
        file = save(tmp_path / "clear.png", pixels, **options)
        for channels in (1, 3):
            picture = samples.read_picture(file, channels)
            assert torch.allclose(picture, torch.tensor([1.0, 0]).expand(channels, 1, 2)), options


def test_pictures_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise
    file = save(tmp_path / "turned.png", np.array([[0, 51, 255]], np.uint8), exif=exif)
    assert torch.allclose(samples.read_picture(file, 1)[0], torch.tensor([[0], [0.2], [1]]))

"""The command ``image``: every kind of picture, every kind of mistake."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from infinitypool.cli import main, pictures

ROWS, COLUMNS, KERNEL, STRIDE = 9, 12, (3, 2), (2, 3)


def windows(pixels: np.ndarray) -> np.ndarray:
    """All windows of a picture as (rows, columns, window, ...), from the definition."""
    down = range(0, ROWS - KERNEL[0] + 1, STRIDE[0])
    across = range(0, COLUMNS - KERNEL[1] + 1, STRIDE[1])
    return np.stack(
        [
            np.stack(
                [
                    pixels[i : i + KERNEL[0], j : j + KERNEL[1]].reshape(-1, *pixels.shape[2:])
                    for j in across
                ]
            )
            for i in down
        ]
    )


def pooled(pixels: np.ndarray, op: str, top: int | None) -> np.ndarray:
    """The definition, in 64 bits; ``top`` is the largest value of the picture's depth."""
    wide = windows(pixels.astype(np.float64 if top is None else np.int64))
    values = {
        "max": lambda: wide.max(axis=2),
        "min": lambda: wide.min(axis=2),
        "avg": lambda: wide.mean(axis=2) if top is None else np.rint(wide.mean(axis=2)),
        "sum": lambda: wide.sum(axis=2),
    }[op]()
    if top is not None:
        values = np.clip(values, -top - 1 if pixels.dtype.kind == "i" else 0, top)
    return values.astype(pixels.dtype)


def values_of(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels.astype(np.uint8) if image.mode == "1" else pixels


def picture(mode: str) -> tuple[Image.Image, int | None]:
    """A random picture of a mode, and the largest value of its depth."""
    random = np.random.default_rng(7)
    size = (ROWS, COLUMNS)
    if mode == "1":
        return Image.fromarray(random.random(size) < 0.4), 1
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 1 << 16, size, dtype=np.uint16)), (1 << 16) - 1
    if mode == "I":
        values = random.integers(-(1 << 31), 1 << 31, size, dtype=np.int64).astype(np.int32)
        values[:4, :4] = (1 << 31) - 5  # sums above 32 bits
        return Image.fromarray(values), (1 << 31) - 1
    if mode == "F":
        return Image.fromarray(random.standard_normal(size).astype(np.float32)), None
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = size if channels == 1 else (*size, channels)
    values = random.integers(0, 256, shape, dtype=np.uint8)
    return Image.frombytes(mode, (COLUMNS, ROWS), values.tobytes()), 255


def image_command(source: Path, target: Path, op: str, *more: str) -> int:
    kernel, stride = (",".join(map(str, pair)) for pair in (KERNEL, STRIDE))
    arguments = [str(source), "-o", str(target), "--op", op, "--kernel", kernel]
    return main(["image", *arguments, "--stride", stride, *more])


LOSSLESS = [(".png", mode) for mode in ("1", "L", "LA", "RGB", "RGBA", "I;16")]
LOSSLESS += [(".tiff", mode) for mode in sorted(pictures.FORMATS[".tiff"].modes)]
LOSSLESS += [(".TIF", "RGB")]


@pytest.mark.parametrize("op", ["max", "min", "avg", "sum"])
@pytest.mark.parametrize(("extension", "mode"), LOSSLESS)
def test_mode_depth_and_values(tmp_path, capsys, extension, mode, op):
    image, top = picture(mode)
    source, target = tmp_path / f"in{extension}", tmp_path / f"out{extension}"
    image.save(source)
    assert image_command(source, target, op) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.count("\n") == 1 and f"{ROWS}×{COLUMNS} {mode}" in said.out
    with Image.open(target) as result:
        assert result.mode == mode
        expected = pooled(values_of(image), op, top)
        assert result.size == expected.shape[1::-1]
        if mode == "F":
            np.testing.assert_allclose(values_of(result), expected, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(values_of(result), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name, target.name]


def test_sum_of_negative_pixels_saturates_at_the_lower_end(tmp_path):
    Image.fromarray(np.full((ROWS, COLUMNS), -(1 << 31), np.int32)).save(tmp_path / "in.tiff")
    assert image_command(tmp_path / "in.tiff", tmp_path / "out.tiff", "sum") == 0
    with Image.open(tmp_path / "out.tiff") as result:
        assert np.all(np.asarray(result) == -(1 << 31))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_keeps_its_mode(tmp_path, mode):
    image, _ = picture(mode)
    image.save(tmp_path / "in.jpg", quality=95)
    assert image_command(tmp_path / "in.jpg", tmp_path / "out.jpeg", "max") == 0
    # JPEG loses a little when it is written; what was pooled is what was read
    assert image_command(tmp_path / "in.jpg", tmp_path / "out.tiff", "max") == 0
    with Image.open(tmp_path / "in.jpg") as read, Image.open(tmp_path / "out.tiff") as result:
        np.testing.assert_array_equal(np.asarray(result), pooled(np.asarray(read), "max", 255))
        assert result.mode == mode
    with Image.open(tmp_path / "out.jpeg") as result:
        assert (result.mode, result.format, result.size) == (mode, "JPEG", (4, 4))


def test_palette_becomes_colour(tmp_path, capsys):
    image, _ = picture("RGB")
    palette = image.quantize(16)
    palette.save(tmp_path / "in.png")
    assert image_command(tmp_path / "in.png", tmp_path / "out.png", "avg") == 0
    assert "P expanded to RGB" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as result:
        assert result.mode == "RGB"
        expected = pooled(np.asarray(palette.convert("RGB")), "avg", 255)
        np.testing.assert_array_equal(np.asarray(result), expected)


@pytest.mark.parametrize(("mode", "key", "wanted"), [("RGB", (1, 2, 3), "RGBA"), ("L", 5, "LA")])
def test_a_transparent_colour_becomes_alpha(tmp_path, mode, key, wanted):
    image, _ = picture(mode)
    image.putpixel((0, 0), key)
    image.save(tmp_path / "in.png", transparency=key)
    assert image_command(tmp_path / "in.png", tmp_path / "out.png", "min") == 0
    with Image.open(tmp_path / "out.png") as result:
        assert result.mode == wanted
        assert np.asarray(result)[0, 0, -1] == 0
        assert np.asarray(result)[2, 2, -1] == 255


def test_luminance_and_chroma_become_colour(tmp_path, capsys):
    picture("RGB")[0].convert("YCbCr").save(tmp_path / "in.tiff")
    try:
        with Image.open(tmp_path / "in.tiff") as read:
            expected = pooled(np.asarray(read.convert("RGB")), "max", 255)
    except OSError:
        pytest.skip("this Pillow cannot read back what it wrote")
    assert image_command(tmp_path / "in.tiff", tmp_path / "out.png", "max") == 0
    assert "YCbCr expanded to RGB" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as result:
        np.testing.assert_array_equal(np.asarray(result), expected)


def test_transparent_palette_becomes_alpha(tmp_path):
    picture("RGB")[0].quantize(16).save(tmp_path / "in.png", transparency=3)
    assert image_command(tmp_path / "in.png", tmp_path / "out.png", "max") == 0
    with Image.open(tmp_path / "out.png") as result:
        assert result.mode == "RGBA"


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tiff"])
def test_orientation_and_profile_are_carried_over(tmp_path, extension):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    if extension != ".tiff":
        exif[0x0100] = 999  # a width that would no longer be true
    picture("RGB")[0].save(tmp_path / f"in{extension}", exif=exif, icc_profile=profile)
    assert image_command(tmp_path / f"in{extension}", tmp_path / f"out{extension}", "max") == 0
    with Image.open(tmp_path / f"out{extension}") as result:
        if extension == ".tiff":  # Pillow turns TIFF pictures upright when it reads them
            assert result.getexif().get(0x0112, 1) == 1 and result.size == (3, 5)
        else:
            assert result.getexif()[0x0112] == 6 and result.size == (4, 4)
        assert result.getexif().get(0x0100) in (None, result.width)
        assert result.info["icc_profile"] == profile


def test_only_the_first_of_several_pictures(tmp_path, capsys):
    first, second = picture("L")[0], Image.new("L", (COLUMNS, ROWS), 255)
    first.save(tmp_path / "in.tiff", save_all=True, append_images=[second])
    assert image_command(tmp_path / "in.tiff", tmp_path / "out.png", "max") == 0
    assert "first of 2 pictures" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as result:
        np.testing.assert_array_equal(np.asarray(result), pooled(np.asarray(first), "max", 255))


def test_all_window_options(tmp_path):
    image, _ = picture("L")
    image.save(tmp_path / "in.png")
    arguments = ["--kernel", "2", "--stride", "2", "--padding", "1:0,0:1", "--dilation", "2"]
    target = tmp_path / "out.png"
    command = ["image", str(tmp_path / "in.png"), "-o", str(target), "--op", "min"]
    assert main([*command, *arguments, "--ceil"]) == 0
    padded = np.pad(np.asarray(image).astype(int), ((1, 2), (0, 2)), constant_values=255)
    corner = padded[: ROWS - 1 : 2, : COLUMNS - 1 : 2]
    expected = np.minimum.reduce(
        [padded[i:, j:][::2, ::2][: corner.shape[0] + 1, : corner.shape[1]] for i in (0, 2)
         for j in (0, 2)]
    )  # fmt: skip
    with Image.open(target) as result:
        height, width = np.asarray(result).shape
        np.testing.assert_array_equal(np.asarray(result), expected[:height, :width])
        # floor((9 + 1 − 2 − 1)/2) + 1 = 4, ceil one more; (12 + 1 − 2 − 1)/2 + 1 = 6
        assert (height, width) == (5, 6)


def test_photograph_size(tmp_path):
    Image.new("RGB", (250, 201)).save(tmp_path / "in.png")
    command = ["image", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    assert main([*command, "--kernel", "6", "--stride", "2"]) == 0
    with Image.open(tmp_path / "out.png") as result:
        assert result.size == (123, 98)


# --- the write ------------------------------------------------------------------------------------


def test_output_may_be_the_input(tmp_path):
    image, _ = picture("L")
    image.save(tmp_path / "in.png")
    assert image_command(tmp_path / "in.png", tmp_path / "in.png", "max") == 0
    with Image.open(tmp_path / "in.png") as result:
        np.testing.assert_array_equal(np.asarray(result), pooled(np.asarray(image), "max", 255))


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_are_those_of_any_new_file(tmp_path):
    picture("L")[0].save(tmp_path / "in.png")
    (tmp_path / "plain").touch()
    plain = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert image_command(tmp_path / "in.png", tmp_path / "out.png", "max") == 0
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == plain
    (tmp_path / "out.png").chmod(0o640)
    assert image_command(tmp_path / "in.png", tmp_path / "out.png", "max") == 0
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_link_stays_a_link(tmp_path):
    picture("L")[0].save(tmp_path / "in.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert image_command(tmp_path / "in.png", tmp_path / "link.png", "max") == 0
    assert (tmp_path / "link.png").is_symlink() and not (tmp_path / "real.png").is_symlink()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file(tmp_path, capsys, monkeypatch, failure):
    picture("L")[0].save(tmp_path / "in.png")
    target = tmp_path / "out.png"
    target.write_bytes(b"the old picture")

    def fail(self, stream, *arguments, **options):
        stream.write(b"half a picture")
        raise failure

    monkeypatch.setattr(Image.Image, "save", fail)
    status = image_command(tmp_path / "in.png", target, "max")
    said = capsys.readouterr()
    assert said.out == ""
    if isinstance(failure, OSError):
        assert status == 2 and "no space left" in said.err
    else:
        assert status == 130
    assert target.read_bytes() == b"the old picture"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png", "out.png"]


# --- refusals -------------------------------------------------------------------------------------


def refused(capsys, folder: Path, arguments: list[str]) -> str:
    """Run, and require one line on stderr, status 2, and nothing new in the folder."""
    before = {p.name: p.read_bytes() if p.is_file() else None for p in folder.iterdir()}
    assert main(arguments) == 2
    said = capsys.readouterr()
    after = {p.name: p.read_bytes() if p.is_file() else None for p in folder.iterdir()}
    assert after == before
    assert said.out == ""
    assert said.err.startswith("infinitypool: ") and said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


GOOD = {"IN": "in.png", "-o": "out.png", "--kernel": "2"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"IN": "nothing.png"}, "nothing.png: no such file"),
        ({"IN": "folder"}, "folder: "),
        ({"IN": "text.png"}, "not a PNG, JPEG or TIFF"),
        ({"IN": "empty.png"}, "not a PNG, JPEG or TIFF"),
        ({"-o": "out.gif"}, "unknown extension '.gif'"),
        ({"-o": "out"}, "unknown extension ''"),
        ({"-o": "missing/out.png"}, "does not exist"),
        ({"-o": "folder.png"}, "not a file"),
        ({"--op": "midian"}, "'midian' is not one of"),
        ({"--kernel": "two"}, "--kernel 'two'"),
        ({"--kernel": "2.5"}, "--kernel '2.5'"),
        ({"--kernel": "nan"}, "--kernel 'nan'"),
        ({"--kernel": ""}, "--kernel ''"),
        ({"--kernel": "2,"}, "--kernel '2,'"),
        ({"--kernel": "2,2,2"}, "kernel_size"),
        ({"--kernel": "0"}, "kernel_size"),
        ({"--kernel": "-2"}, "kernel_size"),
        ({"--kernel": "100"}, "max_pool"),
        ({"--kernel": "99999999999999999999"}, "--kernel"),
        ({"--kernel": "999999999999999999"}, "max_pool"),
        ({"--stride": "0"}, "stride"),
        ({"--stride": "-1"}, "stride"),
        ({"--stride": "x"}, "--stride 'x'"),
        ({"--dilation": "0"}, "dilation"),
        ({"--dilation": "1,1,1"}, "dilation"),
        ({"--padding": "half"}, "--padding 'half'"),
        ({"--padding": "1:"}, "--padding '1:'"),
        ({"--padding": "1,2,3"}, "padding"),
        ({"--padding": "0:1"}, "padding"),
        ({"--padding": "-1"}, "padding"),
        ({"--unknown": "1"}, "No such option"),
        ({"--kernel": None}, "Missing option '--kernel'"),
        ({"-o": None}, "Missing option"),
        ({"IN": None}, "Missing argument 'IN'"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, change, words):
    monkeypatch.chdir(tmp_path)
    picture("L")[0].save("in.png")
    Path("text.png").write_text("no picture")
    Path("empty.png").touch()
    Path("folder").mkdir()
    Path("folder.png").mkdir()
    arguments = ["image"]
    for key, value in {**GOOD, **change}.items():
        if value is not None:
            arguments += [value] if key == "IN" else [key, value]
    assert words in refused(capsys, tmp_path, arguments)


@pytest.mark.parametrize(
    ("mode", "extension"),
    [("RGBA", ".jpg"), ("LA", ".jpg"), ("I;16", ".jpg"), ("1", ".jpg"), ("F", ".png"),
     ("CMYK", ".png"), ("I", ".png")],
)  # fmt: skip
def test_a_format_that_would_change_the_mode_is_refused(tmp_path, capsys, mode, extension):
    picture(mode)[0].save(tmp_path / "in.tiff")
    command = ["image", str(tmp_path / "in.tiff"), "-o", str(tmp_path / f"out{extension}")]
    said = refused(capsys, tmp_path, [*command, "--kernel", "2"])
    assert f"cannot keep a picture of mode {mode}" in said and "TIFF" in said


def whole(extension: str, mode: str, **options) -> bytes:
    """The bytes of a picture large enough to be cut anywhere."""
    random = np.random.default_rng(3)
    shape = {"RGB": (60, 50, 3), "L": (60, 50), "I;16": (60, 50)}[mode]
    dtype = np.uint16 if mode == "I;16" else np.uint8
    values = random.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, extension, **options)
    return stream.getvalue()


TRUNCATED = [
    ("PNG", "RGB", {}),
    ("PNG", "I;16", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "I;16", {"compression": "tiff_adobe_deflate"}),
]


@pytest.mark.parametrize(("kind", "mode", "options"), TRUNCATED)
@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.75, 0.9])
def test_truncated_pictures(tmp_path, capfd, kind, mode, options, part):
    complete = whole(kind, mode, **options)
    (tmp_path / "in").write_bytes(complete[: int(len(complete) * part)])
    command = ["image", str(tmp_path / "in"), "-o", str(tmp_path / "out.png"), "--kernel", "2"]
    refused(capfd, tmp_path, command)  # capfd: a C library must not add lines of its own


@pytest.mark.parametrize(("kind", "mode", "options"), TRUNCATED)
def test_every_cut_is_refused_or_harmless(tmp_path, capfd, kind, mode, options):
    """Cut near the end too: whatever is accepted has to be the whole picture."""
    complete = whole(kind, mode, **options)
    source, target = tmp_path / "in", tmp_path / "out.tiff"
    command = ["image", str(source), "-o", str(target), "--kernel", "1"]
    source.write_bytes(complete)
    assert main(command) == 0
    with Image.open(target) as image:
        expected = np.asarray(image)
    capfd.readouterr()
    for missing in (1, 2, 3, 5, 8, 12, 13, 20, 60):
        target.unlink(missing_ok=True)
        source.write_bytes(complete[:-missing])
        status = main(command)
        said = capfd.readouterr()
        if status == 0:
            with Image.open(target) as image:
                np.testing.assert_array_equal(np.asarray(image), expected)
        else:
            assert status == 2 and said.err.count("\n") == 1 and not target.exists()


@pytest.mark.parametrize(("kind", "mode", "options"), TRUNCATED)
def test_damaged_bytes_end_in_a_picture_or_one_line(tmp_path, capfd, kind, mode, options):
    complete = np.frombuffer(whole(kind, mode, **options), np.uint8)
    random = np.random.default_rng(11)
    source, target = tmp_path / "in", tmp_path / "out.tiff"
    for _ in range(60):
        damaged = complete.copy()
        places = random.integers(0, min(len(damaged), 400), 3)  # headers are the tender part
        damaged[places] = random.integers(0, 256, 3)
        source.write_bytes(damaged.tobytes())
        target.unlink(missing_ok=True)
        status = main(["image", str(source), "-o", str(target), "--kernel", "1"])
        said = capfd.readouterr()
        assert status in (0, 2)
        assert target.exists() == (status == 0)
        if status == 2:
            assert said.err.startswith("infinitypool: ") and said.err.count("\n") == 1
        else:
            assert said.err == ""
    assert {p.name for p in tmp_path.iterdir()} <= {"in", "out.tiff"}


def test_rows_without_data_are_noticed(tmp_path, capsys):
    """A TIFF whose height says more than its strips hold, which Pillow fills with black."""
    complete = whole("TIFF", "L")
    entry = complete.index(struct.pack("<HHI", 257, 4, 1)) + 8
    assert complete[entry : entry + 4] == struct.pack("<I", 60)
    taller = complete[:entry] + struct.pack("<I", 600) + complete[entry + 4 :]
    (tmp_path / "in.tiff").write_bytes(taller)
    command = ["image", str(tmp_path / "in.tiff"), "-o", str(tmp_path / "out.png")]
    assert "no data for all of" in refused(capsys, tmp_path, [*command, "--kernel", "2"])


def test_deep_colour_is_refused_rather_than_flattened(tmp_path, capsys):
    """A 48-bit PNG, written by hand, since Pillow has no such mode."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(
            ">I", zlib.crc32(kind + body)
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    lines = b"".join(b"\0" + bytes(24) for _ in range(4))
    (tmp_path / "in.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    command = ["image", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    assert "16 bits a channel" in refused(capsys, tmp_path, [*command, "--kernel", "2"])


def test_enormous_pictures_are_refused_before_they_are_read(tmp_path, capsys):
    header = b"IHDR" + struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0)
    (tmp_path / "in.png").write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header))
        + struct.pack(">I", 4) + b"IDAT" + bytes(8)
    )  # fmt: skip
    command = ["image", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    refused(capsys, tmp_path, [*command, "--kernel", "2"])

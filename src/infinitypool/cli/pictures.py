"""Pictures in, arrays out, and back: modes, depths, and a write that leaves nothing half done."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from infinitypool.cli.options import Refused

__all__ = [
    "FORMATS",
    "Format",
    "Picture",
    "depth_limits",
    "pool",
    "read",
    "target_format",
    "to_image",
    "write",
]


@dataclass(frozen=True)
class Format:
    """A picture format and the Pillow modes that it stores without changing mode or depth."""

    name: str
    modes: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)


_PNG = Format("PNG", frozenset({"1", "L", "LA", "RGB", "RGBA", "I;16"}))
_JPEG = Format("JPEG", frozenset({"L", "RGB", "CMYK"}), {"quality": 95})
_TIFF = Format("TIFF", frozenset({"1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "LAB"}))
FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
}

# Above this a header is far more likely to be damaged than true (2**30 RGB pixels are 4 GiB).
MAX_PIXELS = 1 << 30

# What a decoder raises on a damaged file; Pillow's own error is an OSError.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError,
           OverflowError, ZeroDivisionError, Image.DecompressionBombError)  # fmt: skip

# EXIF entries that stay true for the pooled picture (sizes and thumbnails do not).
_EXIF_KEPT = (0x010E, 0x010F, 0x0110, 0x0112, 0x0131, 0x0132, 0x013B, 0x8298)


@dataclass(frozen=True)
class Picture:
    """Pixels as rows x columns (x channels) together with what is needed to write them back."""

    pixels: np.ndarray
    mode: str
    extras: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def pool(
    picture: Picture, function: Callable[..., np.ndarray], dtypes: Collection[str], **arguments: Any
) -> Picture:
    """The picture that an array function makes of this one, of the same mode and bit depth.

    ``dtypes`` are those that the function takes. Pixels that it does not take go in as float32,
    which holds 8 and 16 bits exactly, and as float64 where that holds too little. What comes out is
    rounded to nearest, ties to even, and saturates.
    """
    pixels = picture.pixels
    if pixels.dtype.name in dtypes:
        pooled = function(pixels, **arguments)
    else:
        for dtype in (np.float32, np.float64)[pixels.itemsize > 2 :]:
            pooled = function(pixels.astype(dtype), **arguments)
            if np.isfinite(pooled).all():  # otherwise a large power may have left the range
                break
    limits = depth_limits(picture)
    if limits is not None:
        if pooled.dtype.kind == "f":
            if not np.isfinite(pooled).all():
                raise Refused(
                    f"{function.__name__}: a pixel of the result would be infinite or NaN, which "
                    f"a picture of mode {picture.mode} cannot hold"
                )
            pooled = np.rint(pooled)
        else:
            # np.clip compares in the sum's own 64 bits, so nothing wraps on the way down
            least = np.iinfo(pooled.dtype).min
            limits = tuple(pooled.dtype.type(max(limit, least)) for limit in limits)
        pooled = np.clip(pooled, *limits)
    return replace(picture, pixels=pooled.astype(pixels.dtype, copy=False))


def depth_limits(picture: Picture) -> tuple[int, int] | None:
    """The smallest and largest value a pixel can hold; None for floating point."""
    if picture.mode == "1":
        return 0, 1
    if picture.pixels.dtype.kind == "f":
        return None
    limits = np.iinfo(picture.pixels.dtype)
    return int(limits.min), int(limits.max)


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


def read(path: Path) -> Picture:
    """Read a PNG, JPEG or TIFF picture completely, or raise :class:`Refused`.

    Palette pictures are expanded to RGB (RGBA where they have transparency), because an average
    of palette indices means nothing; 1-bit pictures become 0 and 1.
    """
    with warnings.catch_warnings(), _silent_libraries():
        warnings.simplefilter("ignore")  # the outcome is one line, said by us
        previous, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            try:
                opened = Image.open(path, formats=["PNG", "JPEG", "TIFF"])
            except Image.UnidentifiedImageError:
                raise Refused(f"{path}: not a PNG, JPEG or TIFF picture, or damaged") from None
            except OSError as error:
                raise Refused(f"{path}: {_reason(error)}") from None
            except _DAMAGE as error:
                raise Refused(f"{path}: cannot be read: {_reason(error)}") from None
            with opened as image:
                return _decode(path, image)
        finally:
            Image.MAX_IMAGE_PIXELS = previous


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """libtiff writes its own lines to the process's stderr; whoever calls gets one line from us."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr to keep clean
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _decode(path: Path, image: ImageFile.ImageFile) -> Picture:
    rows_columns = f"{image.height}×{image.width}"
    if image.width * image.height > MAX_PIXELS:
        raise Refused(f"{path}: {rows_columns} pixels are more than the {MAX_PIXELS} that are read")
    _refuse_deep_colour(path, image)
    covered = sum(
        (right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in image.tile
    )
    if covered < image.width * image.height:  # Pillow would leave the rest black without a word
        raise Refused(f"{path}: damaged or truncated: no data for all of {rows_columns} pixels")
    try:
        frames = getattr(image, "n_frames", 1)
        image.load()
        extras = _extras(image)
        note = f"first of {frames} pictures in the file" if frames > 1 else ""
        if wanted := _expanded(image):
            note = note or f"{image.mode} expanded to {wanted}"
            image = image.convert(wanted)
        mode = image.mode
        pixels = np.asarray(image)
    except _DAMAGE as error:
        raise Refused(f"{path}: damaged or truncated: {_reason(error)}") from None
    except MemoryError:
        raise Refused(f"{path}: {rows_columns} pixels do not fit into memory") from None
    if mode == "1":
        pixels = pixels.astype(np.uint8)
    elif mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        pixels, mode = pixels.astype(np.uint16), "I;16"
    if mode not in _TIFF.modes:
        raise Refused(f"{path}: pictures of mode {mode} are not pooled")
    return Picture(pixels, mode, extras, note)


def _expanded(image: Image.Image) -> str:
    """The mode to convert to before pooling; empty where the picture is pooled as it is."""
    if image.mode in {"1", "L", "RGB"}:  # one colour may be declared transparent
        return {"RGB": "RGBA"}.get(image.mode, "LA") if "transparency" in image.info else ""
    if image.mode in {"P", "PA"}:
        return "RGBA" if image.has_transparency_data else "RGB"
    return "RGB" if image.mode == "YCbCr" else ""


def _refuse_deep_colour(path: Path, image: ImageFile.ImageFile) -> None:
    """Pillow reads 16-bit colour as 8 bits without a word; silent loss is worse than a refusal."""
    if image.mode.startswith("I"):
        return
    for tile in image.tile:
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if arguments and isinstance(arguments[0], str) and ";16" in arguments[0]:
            raise Refused(
                f"{path}: colour with 16 bits a channel cannot be kept (it is read as 8 bits);"
                " pool it as an array instead"
            )


def _extras(image: Image.Image) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if profile := image.info.get("icc_profile"):
        extras["icc_profile"] = profile
    source, kept = image.getexif(), Image.Exif()
    for tag in _EXIF_KEPT:
        if isinstance(source.get(tag), (int, str)):
            kept[tag] = source[tag]
    if len(kept):
        extras["exif"] = kept
    return extras


def target_format(path: Path) -> Format:
    """The format that the name of the output asks for, checked before any work is done."""
    chosen = FORMATS.get(path.suffix.lower())
    if chosen is None:
        known = ", ".join(FORMATS)
        raise Refused(f"{path}: unknown extension {path.suffix!r}; known are {known}")
    if not path.parent.is_dir():
        raise Refused(f"{path}: the folder {path.parent} does not exist")
    if path.exists() and not path.is_file():
        raise Refused(f"{path}: exists and is not a file")
    return chosen


def _check_kept(path: Path, chosen: Format, picture: Picture) -> None:
    """Refuse a format that would change the picture's mode or depth."""
    if picture.mode not in chosen.modes:
        able = " or ".join(f.name for f in (_PNG, _TIFF) if picture.mode in f.modes)
        raise Refused(
            f"{path}: {chosen.name} cannot keep a picture of mode {picture.mode}; write {able}"
        )


def write(path: Path, chosen: Format, picture: Picture) -> None:
    """Write under a temporary name in the same folder, then rename: all of it, or nothing."""
    _check_kept(path, chosen, picture)
    target = Path(os.path.realpath(path))  # a link stays a link
    try:
        permissions = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        descriptor, name = tempfile.mkstemp(".part", ".infinitypool-", target.parent)
    except OSError as error:
        raise Refused(f"{path}: cannot be written: {_reason(error)}") from None
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            to_image(picture).save(stream, chosen.name, **chosen.options, **picture.extras)
        os.chmod(name, permissions)
        os.replace(name, target)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, (OSError, ValueError)):
            raise Refused(f"{path}: cannot be written: {_reason(error)}") from None
        raise


def to_image(picture: Picture) -> Image.Image:
    """The picture as Pillow has it."""
    pixels = np.ascontiguousarray(picture.pixels)
    if picture.mode == "1":
        return Image.fromarray(pixels.astype(bool))
    if pixels.ndim == 2:
        return Image.fromarray(pixels)
    return Image.frombytes(picture.mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

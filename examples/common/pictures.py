"""Single files: a picture as a tensor, a mask as a tensor and back, and what is wrong with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from .files import Refused, replacing

EXTENSIONS = frozenset(".png .jpg .jpeg .bmp .tif .tiff .webp .gif .pgm .ppm".split())
GREY = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
# Colours of mask classes, told apart by colour-blind readers too (Okabe and Ito); 0 is black.
COLOURS = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115),
           (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))  # fmt: skip

# Pillow warns about damaged metadata on lines of its own; what matters is said in ours.
warnings.filterwarnings("ignore", module="PIL")


def read_picture(path: Path, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as float32 ``channels``×H×W between 0 and 1: grey for one channel, or RGB.

    The first picture of several; upright as its EXIF data say; what is transparent shows white;
    16 bits are scaled by their range. ``size`` (height, width) resizes it. Raises Refused.
    """
    pixels = pixels_of(path, opened(path))
    if pixels.ndim == 2:
        picture = torch.from_numpy(pixels).expand(channels, -1, -1)
    elif channels == 1:
        luma = np.array([0.299, 0.587, 0.114], np.float32)  # as television weighs colours
        picture = torch.from_numpy(pixels @ luma)[None]
    else:
        picture = torch.from_numpy(pixels).permute(2, 0, 1)
    return resized(picture.contiguous(), size or tuple(picture.shape[1:]))


def read_mask(path: Path, classes: int, size: tuple[int, int] | None = None) -> Tensor:
    """A mask as int64 H×W with values 0 to ``classes`` - 1, resized to the nearest pixel.

    Grey values or palette indices are the classes; of two, 255 counts as 1. Raises Refused.
    """
    image = opened(path)
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
    image = Image.fromarray(mask.cpu().numpy().astype(np.uint8))
    image.putpalette([value for n in range(256) for value in COLOURS[n % len(COLOURS)]])
    try:
        with replacing(Path(path)) as file:
            image.save(file, "PNG")
    except OSError as error:
        raise Refused(f"{path}: cannot be written: {reason(error)}") from None


def opened(path: Path) -> Image.Image:
    """Decoded completely and turned upright, or Refused."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise Refused(f"{path}: not a picture, or damaged") from None
    except Exception as error:  # Pillow's decoders raise errors of a dozen kinds on damaged files
        raise Refused(f"{path}: cannot be read: {reason(error)}") from None


def pixels_of(path: Path, image: Image.Image) -> np.ndarray:
    """float32 H×W or H×W×3 between 0 and 1."""
    if image.has_transparency_data and not image.mode.startswith("I"):
        image = image.convert("RGBA" if image.mode not in GREY else "LA")
        white = Image.new(image.mode, image.size, "white")
        image = Image.composite(image, white, image.getchannel("A"))
        image = image.convert("L" if image.mode == "LA" else "RGB")
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


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """C×H×W in another height and width, bilinear, without aliasing."""
    if tuple(picture.shape[1:]) == tuple(size):
        return picture
    return interpolate(picture[None], size, mode="bilinear", antialias=True)[0]


def times(shape: Sequence[int]) -> str:
    """As people write it: 3×224×224."""
    return "×".join(map(str, shape))


def reason(error: BaseException) -> str:
    """The error in a few words on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text[:1].lower() + text[1:]

"""Pool a photograph by max and by average, draw it, and compare with PyTorch.

    python examples/demo.py [PICTURE] [--out FOLDER] [--kernel 6] [--stride 2]

Without PICTURE it takes the photograph of Grace Hopper that ships inside matplotlib. The folder
(default ``demo``) receives ``max.png``, ``avg.png`` and ``figure.png``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # writes files; needs no screen

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cbook import get_sample_data
from rich.console import Console
from rich.table import Table

import infinitypool as ip
from infinitypool.cli import pictures
from infinitypool.cli.options import Refused

RUNS = 21


def size(pixels: np.ndarray) -> str:
    """Rows × columns."""
    return f"{pixels.shape[0]}×{pixels.shape[1]}"


def medians(calls: list[Callable[[], Any]]) -> list[float]:
    """Median milliseconds of each call, taken in turns so that all see the same machine."""
    for call in calls * 3:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(RUNS):
        for call, seen in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            seen.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(seen) for seen in times]


def screen(picture: pictures.Picture) -> np.ndarray:
    """What a figure can show: 8-bit colour, or grey between 0 and 1."""
    if picture.mode in {"I;16", "I", "F"}:
        low, high = float(picture.pixels.min()), float(picture.pixels.max())
        return (picture.pixels - low) / max(high - low, 1.0)
    colours = "RGBA" if picture.mode in {"LA", "RGBA"} else "RGB"
    return np.asarray(pictures.to_image(picture).convert(colours))


def draw(path: Path, name: str, panels: list[tuple[str, pictures.Picture]]) -> None:
    """The pictures side by side, each with its own pixel axes and its size."""
    rows, columns = panels[0][1].pixels.shape[:2]
    width = 5.0
    height = min(max(width * rows / columns, 2.0), 9.0)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width * len(panels), height + 1), layout="compressed"
    )
    figure.get_layout_engine().set(h_pad=0.12)
    for axis, (title, picture) in zip(axes, panels, strict=True):
        # "none": show the pixels there are, not ones made up between them
        axis.imshow(screen(picture), cmap="gray", vmin=0, vmax=1, interpolation="none")
        axis.set_title(title, fontsize=12)
        axis.set_xlabel("column (pixels)")
        axis.set_ylabel("row (pixels)")
        axis.locator_params(nbins=6, integer=True)
        axis.tick_params(labelsize=9)
    figure.suptitle(name, fontsize=14)
    figure.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.15)
    plt.close(figure)


def compare(pixels: np.ndarray, kernel: int, stride: int) -> Table:
    """One line an operation, ours and PyTorch's on the same float32 planes."""
    table = Table(title=f"float32 picture of {size(pixels)}, kernel {kernel}, stride {stride}")
    for heading in ("operation", "output", "infinitypool", "PyTorch", "ratio", "identical"):
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    planes = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    planes = np.ascontiguousarray(planes, dtype=np.float32)[None]
    try:
        import torch
    except ImportError:
        for name, pool in (("max", ip.max_pool), ("average", ip.avg_pool)):
            out = pool(planes, kernel, stride=stride)
            (ours,) = medians([lambda pool=pool: pool(planes, kernel, stride=stride)])
            sizes = f"{out.shape[-2]}×{out.shape[-1]}"
            table.add_row(name, sizes, f"{ours:.2f} ms", "not installed", "", "")
        return table
    import torch.nn.functional as theirs

    import infinitypool.nn.functional as ours

    tensor = torch.from_numpy(planes)
    for name, function in (("max", "max_pool2d"), ("average", "avg_pool2d")):
        pair = [getattr(ours, function), getattr(theirs, function)]
        with torch.no_grad():
            calls = [lambda f=f: f(tensor, kernel, stride) for f in pair]
            mine, reference = (call() for call in calls)
            my_time, their_time = medians(calls)
        if torch.equal(mine, reference):
            same = "yes"
        else:
            same = f"differs by at most {(mine - reference).abs().max().item():.1e}"
        table.add_row(
            name,
            f"{mine.shape[-2]}×{mine.shape[-1]}",
            f"{my_time:.2f} ms",
            f"{their_time:.2f} ms",
            f"{their_time / my_time:.1f}×",
            same,
        )
    return table


def main() -> int:
    """Read, pool, write, draw, compare; 2 if the picture cannot be used."""
    parser = argparse.ArgumentParser(description="Pool a photograph and compare with PyTorch.")
    parser.add_argument("picture", nargs="?", type=Path, help="default: matplotlib's photograph")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument("--kernel", type=int, default=6)
    parser.add_argument("--stride", type=int, default=2)
    choice = parser.parse_args()
    source = choice.picture or Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
    try:
        picture = pictures.read(source)
        window = {"stride": choice.stride, "axes": (0, 1)}
        pooled = {
            "max": ip.max_pool(picture.pixels, choice.kernel, **window),
            "avg": ip.avg_pool(picture.pixels, choice.kernel, **window),
        }
        choice.out.mkdir(parents=True, exist_ok=True)
        panels = [(f"the picture: {size(picture.pixels)}", picture)]
        for name, pixels in pooled.items():
            # TIFF keeps what PNG cannot (CMYK, 32-bit grey)
            extension = "png" if picture.mode in pictures.FORMATS[".png"].modes else "tiff"
            target = choice.out / f"{name}.{extension}"
            chosen = pictures.target_format(target)
            result = pictures.Picture(pixels, picture.mode, picture.extras)
            pictures.write(target, chosen, result)
            word = {"max": "max", "avg": "average"}[name]
            panels.append((f"{word}: {size(picture.pixels)} → {size(pixels)}", result))
            print(f"wrote {target}")
        figure = choice.out / "figure.png"
        draw(figure, f"{source.name}: kernel {choice.kernel}, stride {choice.stride}", panels)
        print(f"wrote {figure}")
        Console(width=100).print(compare(picture.pixels, choice.kernel, choice.stride))
    except (Refused, ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Segment pictures with a U-Net: which pixels belong to which class.

    python examples/unet.py train --width 8 --epochs 3
    python examples/unet.py evaluate
    python examples/unet.py predict picture.png ...
    python examples/unet.py describe
    torchrun --nproc-per-node 2 examples/unet.py train

Without --data it learns to find overlapping, noisy cells that are generated; a folder of one's own
has pictures/ and masks/ with files of equal names, the masks holding numbers of classes.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch
from torch import Tensor

from infinitypool import nn

from common import SEGMENT, Program, Shape, main, positive, segmented

BORDER = 92  # pixels that the valid convolutions take away at each side
TILE = 384  # a multiple of STEP
STEP = 16  # the result has 4 more pixels than a multiple of it: four poolings by two


class TwoConvolutions(nn.Sequential):
    """Two valid 3×3 convolutions, each followed by ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()
        )


def cropped(x: Tensor, like: Tensor) -> Tensor:
    """The middle of N×C×H×W that is as high and wide as ``like``."""
    height, width = like.shape[-2:]
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


class Up(nn.Module):
    """Twice as high and wide, joined with what the contracting path had, two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.convolutions = TwoConvolutions(channels, channels // 2)

    def forward(self, x: Tensor, skipped: Tensor) -> Tensor:
        x = self.up(x)
        return self.convolutions(torch.cat([cropped(skipped, x), x], 1))


class UNet(nn.Module):
    """U-Net with four levels (Ronneberger, Fischer and Brox, 2015).

    N×channels×572×572 gives N×classes×388×388. Height and width are 12 more than a multiple of 16,
    at least 188; each loses 184. ``width`` channels at the first level, twice as many at each next.
    """

    def __init__(self, channels: int, classes: int, width: int = 64) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            TwoConvolutions(before, after)
            for before, after in zip([channels, *widths], widths[:4], strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottom = TwoConvolutions(widths[3], widths[4])
        self.up = nn.ModuleList(Up(width) for width in reversed(widths[1:]))
        self.classify = nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as many ReLUs ask for: He et al., 2015
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for convolutions in self.down:
            skipped.append(convolutions(x))
            x = self.pool(skipped[-1])
        x = self.bottom(x)
        for up in self.up:
            x = up(x, skipped.pop())
        return self.classify(x)


def padding(length: int) -> tuple[int, int]:
    """What is put before and after so many pixels for the result to cover them all."""
    result = math.ceil(max(length - 4, 0) / STEP) * STEP + 4
    before = (result - length) // 2
    return BORDER + before, BORDER + result - length - before


def mirrored(length: int, before: int, after: int) -> Tensor:
    """Places of pixels that continue a line beyond its ends as a mirror would, however far."""
    there = torch.arange(-before, length + after) % max(2 * length - 2, 1)
    return torch.minimum(there, (2 * length - 2 - there).clamp(min=0)) if length > 1 else there * 0


def tiles(places: Tensor) -> list[Tensor]:
    """Places along one side, in pieces whose results are 4 pixels longer than :data:`TILE` at most."""
    result = len(places) - 2 * BORDER
    return [
        places[start : min(start + TILE + 4, result) + 2 * BORDER]
        for start in range(0, max(result - 4, 1), TILE)
    ]


def joined(pieces: list[Tensor], dim: int) -> Tensor:
    """Results side by side; each but the last ends with 4 pixels that the next has, too."""
    return torch.cat([*(piece.narrow(dim, 0, TILE) for piece in pieces[:-1]), pieces[-1]], dim)


def whole(network: nn.Module, pictures: Tensor) -> Tensor:
    """Logits N×classes×H×W for every pixel of N×C×H×W of any size, which is mirrored at its edges.

    Without a gradient, the network sees large pictures tile by tile, so that they fit the memory: the
    result is the same, since tiles begin where windows of all four poolings do.
    """
    height, width = pictures.shape[-2:]
    around = padding(height), padding(width)
    rows, columns = mirrored(height, *around[0]), mirrored(width, *around[1])
    cut = (lambda places: [places]) if torch.is_grad_enabled() else tiles
    logits = joined(
        [
            joined([network(pictures[..., r[:, None], c]) for c in cut(columns)], -1)
            for r in cut(rows)
        ],
        -2,
    )
    top, left = (before - BORDER for before, _ in around)
    return logits[..., top : top + height, left : left + width]


def network(choice: argparse.Namespace, shape: Shape, classes: int) -> nn.Module:
    return UNet(shape[0], classes, choice.width)


def samples(choice: argparse.Namespace):
    return segmented(choice.data, size=choice.size, classes=choice.classes, broken=choice.on_broken)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=positive, default=64, help="channels of the first level")
    parser.add_argument("--classes", type=positive, default=2, help="of the masks in --data")


PROGRAM = Program(
    "unet",
    __doc__,
    network,
    samples,
    task=SEGMENT,
    options=options,
    forward=whole,
    example=((1, 572, 572),),
    any_size=True,
    defaults={"batch_size": 4},
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))

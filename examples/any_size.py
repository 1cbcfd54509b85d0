"""Classify pictures of any size: three blocks, then one average over all that is left.

    python examples/any_size.py train [--scales 0.75 0.875 1] [--data FOLDER]
    python examples/any_size.py predict small.png large.png ...
    python examples/any_size.py evaluate
    python examples/any_size.py describe [--form fixed]

Every step of training sees pictures of another size. `--form fixed` is the usual network instead, whose linear
layer fits one size: 224×224 pictures leave 56×56 after two poolings.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import Tensor

from infinitypool import nn
from infinitypool.nn import functional as F

from common import Program, Refused, Shape, above_zero, classified, main


def block(channels: int, width: int) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU, pooling."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width, momentum=0.3),  # sizes are few, and so are steps
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class AnySize(nn.Module):
    """N×channels×H×W gives N×classes, for any H and W from 8 on."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(block(channels, 32), block(32, 64), block(64, 128))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.average(self.features(x)).flatten(1))


class Fixed(nn.Module):
    """Two poolings and two linear layers, the first of which fits pictures of one size."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(32 * (height // 4) * (width // 4), 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def network(choice: argparse.Namespace, shape: Shape, classes: int) -> nn.Module:
    if choice.form == "fixed":
        return Fixed(*shape, classes)
    smallest = round(min(shape[1:]) * min(choice.scales))
    if smallest < 8:
        raise Refused(
            f"--scales {min(choice.scales)}: three poolings leave nothing of {smallest} pixels; give "
            "8 or more, by larger --scales or --size"
        )
    return AnySize(shape[0], classes)


def scaled(choice: argparse.Namespace, pictures: Tensor) -> Tensor:
    """N×C×H×W with height and width multiplied by one of --scales."""
    if choice.form == "fixed":
        return pictures
    scale = choice.scales[torch.randint(len(choice.scales), ())]
    size = [round(n * scale) for n in pictures.shape[-2:]]
    return F.interpolate(pictures, size, mode="bilinear", antialias=True)


def samples(choice: argparse.Namespace):
    size = choice.size or (32 if choice.data is None else None)
    return classified(choice.data, size=size, broken=choice.on_broken)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--form", choices=("any", "fixed"), default="any", help="which network")
    parser.add_argument(
        "--scales", type=above_zero, nargs="+", default=[0.75, 0.875, 1.0], help="of training"
    )


PROGRAM = Program(
    "any_size",
    __doc__,
    network,
    samples,
    options=options,
    prepare=scaled,
    example=((3, 224, 224), (3, 112, 112), (3, 96, 96)),
    any_size=True,
    defaults={"batch_size": 32, "lr": 3e-3},
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
